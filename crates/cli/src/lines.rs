//! The lines of an input, in batches, each line a body.

use std::{
    io::{self, BufRead, BufReader, Read},
    thread,
};

use serde::de::IgnoredAny;
use tokio::sync::mpsc;

use crate::{connect::Body, failure::Failure};

/// The most lines of a batch: as many as one call of the library sends at once.
pub(crate) const MOST_LINES: usize = 500;
/// The most bytes of a batch, and what is read ahead.
const MOST_BYTES: usize = 512 << 10;
/// The longest body that a broker takes, and some space around it.
const LONGEST: u64 = (1 << 20) + 1024;

/// A line that is no blank one.
pub(crate) struct Line {
    /// From 1 on.
    pub(crate) number: u64,
    pub(crate) body: Body,
}

/// Lines that go out together.
pub(crate) struct Batch {
    pub(crate) lines: Vec<Line>,
    /// Of the input, so far.
    pub(crate) bytes: u64,
    /// Of the line that was read last.
    pub(crate) number: u64,
    /// Whether the input ends with it, or why it cannot go on: what came before is delivered first.
    pub(crate) end: Result<bool, Failure>,
}

/// Reads the lines behind the first `skip`, a batch ahead of who takes them. Reading may wait for
/// ever, so a thread does it that nobody waits for.
pub(crate) fn read(input: impl Read + Send + 'static, skip: u64) -> mpsc::Receiver<Batch> {
    let (give, batches) = mpsc::channel(1);
    thread::spawn(move || {
        let mut lines = Lines::of(input);
        let mut batch = match lines.skip(skip) {
            Ok(false) => lines.batch(),
            end => lines.so_far(Vec::new(), end),
        };
        loop {
            let last = !matches!(batch.end, Ok(false));
            if give.blocking_send(batch).is_err() || last {
                return;
            }
            batch = lines.batch();
        }
    });
    batches
}

/// Lines of any input.
struct Lines<R> {
    input: BufReader<R>,
    /// Of the line that was read last.
    number: u64,
    /// That were read.
    bytes: u64,
}

impl<R: Read> Lines<R> {
    /// From the first one on.
    fn of(input: R) -> Self {
        Self { input: BufReader::with_capacity(MOST_BYTES, input), number: 0, bytes: 0 }
    }

    /// Goes over lines, however long. Returns whether the input ended.
    fn skip(&mut self, lines: u64) -> Result<bool, Failure> {
        while self.number < lines {
            self.number += 1;
            match self.input.skip_until(b'\n').map_err(unreadable)? {
                0 => return Ok(true),
                read => self.bytes += read as u64,
            }
        }
        Ok(false)
    }

    /// As many lines as are there and fit into a batch. It is not held back for lines that are not
    /// written yet.
    fn batch(&mut self) -> Batch {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        loop {
            match self.next() {
                Ok(Some(line)) if line.body.is_empty() => {}
                Ok(Some(line)) => {
                    bytes += line.body.len();
                    batch.push(line);
                }
                Ok(None) => return self.so_far(batch, Ok(true)),
                Err(failure) => return self.so_far(batch, Err(failure)),
            }
            let waits = !self.input.buffer().contains(&b'\n');
            if waits || batch.len() >= MOST_LINES || bytes >= MOST_BYTES {
                return self.so_far(batch, Ok(false));
            }
        }
    }

    fn so_far(&self, lines: Vec<Line>, end: Result<bool, Failure>) -> Batch {
        Batch { lines, bytes: self.bytes, number: self.number, end }
    }

    fn next(&mut self) -> Result<Option<Line>, Failure> {
        self.number += 1;
        let mut line = Vec::new();
        let read = (&mut self.input).take(LONGEST).read_until(b'\n', &mut line);
        let read = read.map_err(unreadable)? as u64;
        self.bytes += read;
        if read == 0 {
            return Ok(None);
        }
        if read == LONGEST && !line.ends_with(b"\n") {
            return Err(Failure::refused(
                "it is longer than 1 MiB, which is the most of a message",
            ));
        }
        let body = line.trim_ascii();
        if !body.is_empty() {
            check_json(body)?;
        }
        Ok(Some(Line { number: self.number, body: body.to_vec() }))
    }
}

fn unreadable(error: io::Error) -> Failure {
    Failure::refused(format!("the input cannot be read: {error}"))
}

/// Checks that a body is JSON: what is cut off or quoted in a wrong way shall not be found by a
/// worker.
pub(crate) fn check_json(body: &[u8]) -> Result<(), Failure> {
    match serde_json::from_slice::<IgnoredAny>(body) {
        // It may have any bytes within strings, so far.
        Ok(_) if std::str::from_utf8(body).is_ok() => Ok(()),
        Ok(_) => Err(Failure::refused("the message is not JSON: it is not UTF-8")),
        Err(error) => {
            let at = format!("at column {}", error.column());
            let said = error.to_string();
            let said = said.split(" at line ").next().unwrap_or_default();
            Err(Failure::refused(format!("the message is not JSON: {said} {at}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_where_more_would_have_to_be_waited_for() {
        let mut slow = Lines::of(&b"1\n2\n"[..]);
        let Batch { lines, end, .. } = slow.batch();
        assert_eq!((lines.len(), end.unwrap()), (2, false));
        let Batch { lines, end, bytes, .. } = slow.batch();
        assert_eq!((lines.len(), end.unwrap(), bytes), (0, true, 4));
    }

    #[test]
    fn batches_are_bounded_in_lines_and_in_bytes() {
        let many = b"1\n".repeat(MOST_LINES + 1);
        assert_eq!(Lines::of(&many[..]).batch().lines.len(), MOST_LINES);
        let large = format!("\"{}\"\n", "x".repeat(MOST_BYTES)).into_bytes();
        assert_eq!(Lines::of(&large.repeat(2)[..]).batch().lines.len(), 1);
    }

    #[test]
    fn a_line_that_never_ends_takes_no_more_memory_than_a_message_may() {
        let mut endless = Lines::of(io::repeat(b'1'));
        let Batch { lines, end, bytes, .. } = endless.batch();
        assert!(lines.is_empty() && end.is_err());
        assert_eq!(bytes, LONGEST);
    }

    #[test]
    fn blank_lines_count_and_are_nothing() {
        let batch = Lines::of(&b"\n  \r\n7\n"[..]).batch();
        assert_eq!(batch.lines.iter().map(|line| line.number).collect::<Vec<_>>(), [3]);
    }
}
