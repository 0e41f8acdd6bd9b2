//! Looking at a queue and its facets, without changing anything.

use std::{sync::Arc, time::Duration};

use redis::Value;

use crate::{
    MessageId, Undecodable,
    connection::Repeat,
    core::{Core, read},
    error::{Result, unexpected},
    keys::check_name,
    message::{Decode, Stored},
    scripts::{self, Script},
    take::{ANY_BYTES, MOST_BYTES},
};

/// The most messages that a peek shows.
const MOST_PEEKED: usize = 250;
/// The most facets that one script looks at: a page has more where Redis keeps them in one piece.
const MOST_FACETS: usize = 100;

/// What a queue has now, and what it had since its beginning, in messages; made by
/// [`Queue::stats`](crate::Queue::stats).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Waiting to be served, those of paused facets too.
    pub waiting: u64,
    /// In the hands of workers, or of leases that have ended and are given back by one of the next
    /// calls.
    pub leased: u64,
    /// Facets that can be served now, unless the queue is paused.
    pub facets_ready: u64,
    /// Facets that have messages waiting and are paused.
    pub facets_parked: u64,
    /// Facets that have none waiting, and had more than the others who wait: should they come back,
    /// they go on from there.
    pub facets_in_debt: u64,
    /// Whether the queue itself is paused.
    pub paused: bool,
    /// Delivered to it.
    pub delivered: u64,
    /// Pulled or leased, each time.
    pub served: u64,
    /// Acked.
    pub acked: u64,
    /// Given back: nacked, of a lease that ended, or of a call that nobody waited for.
    pub came_back: u64,
}

/// How one facet of a queue stands; made by [`Queue::facets`](crate::Queue::facets) and
/// [`Facet::stats`](crate::Facet::stats).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FacetStats {
    /// Its name.
    pub facet: String,
    /// Messages that wait to be served.
    pub waiting: u64,
    /// Messages that are leased.
    pub leased: u64,
    /// 0.001 to 1000; 1 where none was set.
    pub weight: f64,
    /// Its place among the others, where it has one: of those that are ready, the lowest is served
    /// next. A message of it adds 1 divided by its weight.
    pub turn: Option<f64>,
    /// How long ago its foremost message was delivered, by the clock of Redis; none when nothing
    /// waits.
    pub oldest: Option<Duration>,
    /// What it can do.
    pub state: FacetState,
    /// Whether it is paused. Without messages it can be that, too.
    pub paused: bool,
}

/// What a facet can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FacetState {
    /// It has messages waiting, and is served at its turn.
    Ready,
    /// It has messages waiting, and is not served: it is paused.
    Parked,
    /// It has none waiting, and had more than the others who wait.
    InDebt,
    /// It has none waiting.
    Quiet,
}

/// Where a page of facets begins; the default is the first one. Good for the queue that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Which of the sets that the script goes through, from 1 on.
    set: u8,
    /// As Redis has it.
    at: String,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { set: 1, at: "0".into() }
    }
}

/// A message that waits on a queue; made by [`Queue::peek`](crate::Queue::peek).
#[derive(Debug)]
#[non_exhaustive]
pub struct Peeked<T> {
    /// The number of the message.
    pub id: MessageId,
    /// Whose it is.
    pub facet: String,
    /// What it is about.
    pub topic: String,
    /// How often it was leased before.
    pub attempts: u32,
    /// The message.
    pub message: Result<T, Undecodable>,
}

pub(crate) async fn peek<T>(
    core: &Core,
    queue: &Arc<str>,
    most: usize,
    decode: Decode<T>,
) -> Result<Vec<Peeked<T>>> {
    check_name(queue)?;
    let mut most = most.min(MOST_PEEKED);
    let mut bytes = MOST_BYTES;
    while most > 0 {
        let ask = |command: &mut redis::Cmd| {
            command.arg(most).arg(bytes);
        };
        let mut values = look(core, &scripts::PEEK, queue, ask).await?.into_iter();
        let ended: u8 = read(values.next().unwrap_or(Value::Nil))?;
        if ended == 2 && values.len() == 0 {
            (most, bytes) = (1, ANY_BYTES); // It is larger than a peek, and shown alone.
            continue;
        }
        let mut peeked = Vec::with_capacity(values.len() / 2);
        while let (Some(facet), Some(raw)) = (values.next(), values.next()) {
            let raw: Vec<u8> = read(raw)?;
            let stored = Stored::read(facet, &raw)?;
            let message = stored.decode(decode);
            let Stored { id, facet, topic, attempts, .. } = stored;
            peeked.push(Peeked { id, facet, topic, attempts, message });
        }
        return Ok(peeked);
    }
    Ok(Vec::new())
}

pub(crate) async fn stats(core: &Core, queue: &Arc<str>) -> Result<Stats> {
    check_name(queue)?;
    let values = look(core, &scripts::STATS, queue, |_| {}).await?;
    let numbers: Vec<u64> = values.into_iter().map(read).collect::<Result<_>>()?;
    let [waiting, leased, ready, parked, in_debt, paused, delivered, served, acked, came_back] =
        numbers[..]
    else {
        return Err(unexpected("another number of counts"));
    };
    Ok(Stats {
        waiting,
        leased,
        facets_ready: ready,
        facets_parked: parked,
        facets_in_debt: in_debt,
        paused: paused == 1,
        delivered,
        served,
        acked,
        came_back,
    })
}

/// A page of facets, and where the next one begins.
pub(crate) async fn facets(
    core: &Core,
    queue: &Arc<str>,
    from: Cursor,
) -> Result<(Vec<FacetStats>, Option<Cursor>)> {
    check_name(queue)?;
    let ask = |command: &mut redis::Cmd| {
        command.arg(from.set).arg(&from.at);
    };
    let mut values = look(core, &scripts::FACETS, queue, ask).await?.into_iter();
    let mut next = || values.next().ok_or_else(|| unexpected("a page without a cursor"));
    let (set, at): (u8, String) = (read(next()?)?, read(next()?)?);
    let names: Vec<Vec<u8>> = values.map(read).collect::<Result<_>>()?;
    let mut page: Vec<FacetStats> = Vec::with_capacity(names.len());
    while page.len() < names.len() {
        let left = &names[page.len()..];
        page.extend(facet_stats(core, queue, &left[..left.len().min(MOST_FACETS)]).await?);
    }
    Ok((page, (set > 0).then_some(Cursor { set, at })))
}

/// Looks at as many of the facets as one script may: at least one.
pub(crate) async fn facet_stats<Name: AsRef<[u8]>>(
    core: &Core,
    queue: &Arc<str>,
    facets: &[Name],
) -> Result<Vec<FacetStats>> {
    let ask = |command: &mut redis::Cmd| {
        for facet in facets {
            command.arg(facet.as_ref());
        }
    };
    let values = look(core, &scripts::FACET, queue, ask).await?;
    let found = values.into_iter().zip(facets).map(|(value, facet)| {
        let (waiting, leased, weight, turn, oldest, state, paused): Found = read(value)?;
        Ok(FacetStats {
            facet: String::from_utf8_lossy(facet.as_ref()).into_owned(),
            waiting,
            leased,
            weight: weight.parse().unwrap_or(1.0),
            turn: turn.parse().ok(),
            oldest: u64::try_from(oldest).ok().map(Duration::from_millis),
            state: match state {
                1 => FacetState::Ready,
                2 => FacetState::Parked,
                3 => FacetState::InDebt,
                _ => FacetState::Quiet,
            },
            paused: paused == 1,
        })
    });
    let found: Vec<_> = found.collect::<Result<_>>()?;
    if found.is_empty() { Err(unexpected("a page without facets")) } else { Ok(found) }
}

/// As `facet.lua` returns it for a facet.
type Found = (u64, u64, String, String, i64, u8, u8);

/// Calls a script that changes nothing.
async fn look(
    core: &Core,
    script: &Script,
    queue: &Arc<str>,
    ask: impl FnOnce(&mut redis::Cmd),
) -> Result<Vec<Value>> {
    let mut command = core.command(script, &[queue]);
    command.arg(&**queue);
    ask(&mut command);
    let reply = core.call(script, &command, Repeat::Safe).await;
    read(reply.map_err(|error| error.of(queue))?.value)
}
