//! Many deliveries, a message a line, in constant memory.

use std::{
    fmt,
    io::Read,
    pin::pin,
    time::{Duration, Instant},
};

use fairlane::{Broker, Error, Receipt};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use serde::Serialize;

use crate::{
    connect::Body,
    deliver::Manner,
    failure::Failure,
    lines::{Batch, Line, MOST_LINES, read},
    shown::count,
    stop::stop,
};

/// What was delivered.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    /// Messages that were delivered now.
    delivered: u64,
    /// Those that had been delivered before, by their keys.
    duplicates: u64,
    /// Those among the delivered that no queue's pattern matches.
    kept_nowhere: u64,
    seconds: f64,
    /// Delivered and duplicates in a second.
    rate: f64,
}

impl Summary {
    fn all(&self) -> u64 {
        self.delivered + self.duplicates
    }

    fn add(&mut self, receipts: &[Receipt]) {
        for receipt in receipts {
            if receipt.duplicate {
                self.duplicates += 1;
            } else {
                self.delivered += 1;
                self.kept_nowhere += u64::from(receipt.queues.is_empty());
            }
        }
    }

    fn timed(self, time: Duration) -> Self {
        let seconds = time.as_secs_f64().max(0.001);
        let rounded = |number: f64| (number * 1000.0).round() / 1000.0;
        Self { seconds: rounded(seconds), rate: rounded(self.all() as f64 / seconds), ..self }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delivered, duplicates, kept_nowhere, seconds, rate } = self;
        write!(
            f,
            "{delivered} delivered, {}, {kept_nowhere} kept nowhere (no queue matched), in {seconds:.1} s: \
             {rate:.0} a second",
            count(*duplicates, "duplicate", "duplicates"),
        )
    }
}

/// Delivers a message for each line, in their order. `length` is that of the input in bytes, where
/// it is known. Interrupted, it ends between two batches, and says how to go on.
pub(crate) async fn deliver(
    broker: &Broker<Body>,
    manner: &Manner,
    input: impl Read + Send + 'static,
    length: Option<u64>,
    skip: u64,
) -> Result<Summary, Failure> {
    let (began, bar) = (Instant::now(), progress(length));
    let mut summary = Summary::default();
    let mut stop = pin!(stop()?);
    let mut batches = read(input, skip);
    let mut ahead = skip + 1; // The first line of which nothing was sent.
    loop {
        let batch = tokio::select! {
            biased;
            () = &mut stop => {
                return Err(at_line(Failure::refused("interrupted"), ahead, &summary));
            }
            batch = batches.recv() => batch,
        };
        let Some(Batch { lines, bytes, number, end }) = batch else {
            return Err(at_line(Failure::refused("nobody reads the input"), ahead, &summary));
        };
        send(broker, manner, &lines, &mut summary).await?;
        ahead = number + 1;
        bar.set_position(bytes);
        let rate = summary.all() as f64 / began.elapsed().as_secs_f64().max(0.001);
        bar.set_message(format!("{} delivered, {rate:.0}/s", summary.all()));
        if end.map_err(|failure| at_line(failure, number, &summary).then(behind(number)))? {
            return Ok(summary.timed(began.elapsed()));
        }
    }
}

/// A bar where the length is known. It is seen where standard error is a terminal, and gone when
/// this is dropped.
fn progress(length: Option<u64>) -> ProgressBar {
    let (bar, template) = match length {
        Some(length) => {
            (ProgressBar::new(length), "{bar:24} {bytes}/{total_bytes} {msg}, {eta} left")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg}"),
    };
    let style = ProgressStyle::with_template(template);
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style).with_finish(ProgressFinish::AndClear)
}

/// That it ended at a line, and how to go on from there.
fn at_line(failure: Failure, number: u64, summary: &Summary) -> Failure {
    let before = count(summary.all(), "message was", "messages were");
    let on = number.saturating_sub(1);
    failure
        .at(format_args!("line {number}"))
        .then(format_args!("{before} delivered before it, and --skip {on} goes on from there"))
}

/// How to go on where the line itself is what is wrong.
fn behind(number: u64) -> String {
    format!("--skip {number} leaves it out")
}

/// Delivers a batch. What is wrong with one line shall not keep those before it: they are then
/// delivered one by one up to it.
async fn send(
    broker: &Broker<Body>,
    manner: &Manner,
    batch: &[Line],
    summary: &mut Summary,
) -> Result<(), Failure> {
    let (mut rest, mut most): (Vec<_>, _) = (batch.iter().collect(), MOST_LINES);
    while let Some(&first) = rest.first() {
        let part = &rest[..most.min(rest.len())];
        let messages = part.iter().map(|line| manner.message(&line.body, Some(line.number)));
        let (delivered, beyond, error) = match broker.deliver_all(messages).await {
            Ok(receipts) => (receipts, Vec::new(), None),
            Err(Error::Interrupted { delivered, beyond, source }) => {
                (delivered, beyond, Some(*source))
            }
            Err(error) => (Vec::new(), Vec::new(), Some(error)),
        };
        summary.add(&delivered);
        // Other partitions may have taken what comes later.
        let (later, receipts): (Vec<_>, Vec<_>) = beyond.into_iter().unzip();
        summary.add(&receipts);
        for place in later.iter().rev() {
            rest.remove(*place);
        }
        rest.drain(..delivered.len());
        let Some(error) = error else { continue };
        let of_one = matches!(error, Error::Invalid(_) | Error::Refused { .. });
        if of_one && most > 1 {
            most = 1;
            continue;
        }
        let number = rest.first().map_or(first.number, |line| line.number);
        if of_one {
            return Err(at_line(error.into(), number, summary).then(behind(number)));
        }
        let doubt = matches!(error, Error::MaybeApplied(_));
        let mut failure = at_line(error.into(), number, summary);
        if !later.is_empty() {
            let later = count(later.len() as u64, "line behind it is", "lines behind it are");
            failure = failure.then(format_args!("{later} delivered, too"));
        }
        return Err(match (doubt, manner.repeats()) {
            (false, _) => failure,
            (true, true) => {
                failure.then("what may have been delivered is not doubled, with its key")
            }
            (true, false) => failure.then("the lines from there on may have been delivered, too"),
        });
    }
    Ok(())
}
