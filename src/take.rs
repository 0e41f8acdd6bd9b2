//! What pull and lease have in common: one call takes a bounded number of messages, and of bytes.

use std::{sync::Arc, time::Duration};

use redis::Value;
use tokio::time::Instant;
use tracing::warn;

use crate::{
    Error,
    connection::Repeat,
    core::read,
    error::{Result, unexpected},
    keys::check_name,
    message::Stored,
    metrics,
    partition::Partition,
    scripts,
};

/// The most messages that one take gives.
pub(crate) const MOST: usize = 1000;
/// The most that one script takes, so that it stays under 5 ms: 500 of 100,000 facets took 7 ms.
pub(crate) const MOST_OF_A_PART: usize = 250;
/// The most bytes that one take gives; a message that is larger is given alone.
pub(crate) const MOST_BYTES: usize = 4 << 20;
/// For that one.
pub(crate) const ANY_BYTES: usize = usize::MAX >> 16;

/// A message that was taken.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) stored: Stored,
    /// The number of its lease, 0 for one that was pulled.
    pub(crate) lease: u64,
    /// Before the call was sent.
    pub(crate) asked: std::time::Instant,
}

/// When a queue has something to serve, as far as the last take can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Now.
    Now,
    /// When something is due, counted from the answer of Redis.
    In(Duration),
    /// When something comes.
    Open,
}

/// What a take gives.
pub(crate) struct Take {
    pub(crate) taken: Vec<Taken>,
    /// How far the round of turns has gone with it, in turns.
    pub(crate) gone: f64,
    /// When there is more; or the error that ended it, when more may be gone, or nothing was taken.
    pub(crate) ended: Result<Next>,
}

/// Takes up to `most` messages, for good or for the `length` of a lease.
pub(crate) async fn take(
    partition: &Partition,
    queue: &Arc<str>,
    most: usize,
    length: Option<Duration>,
) -> Take {
    if let Err(error) = check_name(queue) {
        return Take { taken: Vec::new(), gone: 0.0, ended: Err(error.into()) };
    }
    let mut left = most.min(MOST);
    let mut bytes = MOST_BYTES;
    let (mut taken, mut gone) = (Vec::new(), 0.0);
    let mut next = Next::Now;
    let mut end = partition.connection.end();
    while left > 0 && bytes > 0 {
        let most = left.min(MOST_OF_A_PART);
        match part(partition, queue, most, bytes, length, end).await {
            Ok(part) if part.taken.is_empty() && part.ended == Ended::Full => {
                if !taken.is_empty() {
                    next = part.next;
                    break;
                }
                (left, bytes) = (1, ANY_BYTES); // It is larger than a take, and is given alone.
            }
            Ok(part) => {
                next = part.next;
                gone += part.gone;
                left -= part.taken.len();
                bytes = bytes.saturating_sub(part.bytes);
                if part.ended == Ended::Done && part.taken.len() < most {
                    taken.extend(part.taken);
                    break;
                }
                // One that took nothing has cleared the way for the next one.
                if !part.taken.is_empty() {
                    end = partition.connection.end();
                }
                taken.extend(part.taken);
            }
            Err(error) if taken.is_empty() => return Take { taken, gone, ended: Err(error) },
            Err(error @ Error::MaybeApplied(_)) if length.is_none() => {
                return Take { taken, gone, ended: Err(error) };
            }
            // What is leased is safe, and what was not sent is still there.
            Err(error) => {
                let taken = taken.len();
                warn!(target: "fairlane", queue = &**queue, taken, %error, "the rest of a take failed");
                break;
            }
        }
    }
    Take { taken, gone, ended: Ok(next) }
}

/// What one script took.
#[derive(Debug)]
pub(crate) struct Part {
    taken: Vec<Taken>,
    bytes: usize,
    gone: f64,
    ended: Ended,
    next: Next,
}

/// What ended a script.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// It gave what it should, or all there is.
    Done,
    /// A bound, before it was known whether more can be served.
    Bounded,
    /// The next message is more than the bytes that are left, or than one script should move.
    Full,
}

async fn part(
    partition: &Partition,
    queue: &Arc<str>,
    most: usize,
    bytes: usize,
    length: Option<Duration>,
    end: Instant,
) -> Result<Part> {
    let script = if length.is_some() { &scripts::LEASE } else { &scripts::PULL };
    let mut command = partition.command(script, &[queue]);
    command.arg(&**queue).arg(most).arg(bytes);
    if let Some(length) = length {
        command.arg(length.as_millis() as u64);
    }
    let reply = partition.call_until(script, &command, Repeat::Never, end).await;
    let reply = reply.map_err(|error| error.of(queue))?;
    let mut part = read_part(reply.value, reply.sent)?; // It may have waited for Redis before that.
    part.taken.iter_mut().for_each(|taken| taken.stored.is_of(partition));
    let first = part
        .taken
        .iter()
        .map(|Taken { stored, .. }| (stored.attempts == 0).then_some(stored.servable_at));
    metrics::taken(partition, queue, length.is_some(), first);
    Ok(part)
}

/// Reads what `take` of `lua/parts/take.lua` returns.
pub(crate) fn read_part(reply: Value, asked: std::time::Instant) -> Result<Part> {
    let mut values = read::<Vec<Value>>(reply)?.into_iter();
    let mut next = || values.next().ok_or_else(|| unexpected("a reply that ends too soon"));
    let ended = match read::<u8>(next()?)? {
        0 => Ended::Done,
        1 => Ended::Bounded,
        _ => Ended::Full,
    };
    let next_in = match read::<i64>(next()?)? {
        0 => Next::Now,
        ms => u64::try_from(ms).map_or(Next::Open, |ms| Next::In(Duration::from_millis(ms))),
    };
    let gone = read(next()?)?;
    let lease = read(next()?)?;
    let mut part = Part { taken: Vec::new(), bytes: 0, gone, ended, next: next_in };
    while let (Some(facet), Some(raw)) = (values.next(), values.next()) {
        let raw: Vec<u8> = read(raw)?;
        part.bytes += raw.len();
        let stored = Stored::read(facet, &raw)?;
        part.taken.push(Taken { stored, lease, asked });
    }
    Ok(part)
}
