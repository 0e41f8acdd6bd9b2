//! Looking at a queue and its facets, without changing anything.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::try_join_all;
use redis::Value;

use crate::{
    Error, FacetSettings, Headers, MessageId, Undecodable,
    connection::Repeat,
    core::{Core, if_there, read},
    error::{Result, unexpected},
    keys::check_name,
    message::{Decode, Stored},
    partition::Partition,
    scripts::{self, Script},
    settings::Settings,
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
    /// Delayed, until they are due: they do not wait yet.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// Facets that are held: see [`hold_facet`](crate::Delivery::hold_facet).
    pub holds: u64,
    /// Facets that can be served now, unless the queue is paused.
    pub facets_ready: u64,
    /// Facets that have messages waiting and are not served: paused, held, at their limit, or out of
    /// their rate.
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
    /// Given back: nacked, failed, held, of a lease that ended, or of a call that nobody waited for.
    pub came_back: u64,
    /// Messages that were refused, for the intake or the limit of their facet. What was refused with
    /// them, because it was delivered in one call, is not among them.
    pub refused: u64,
    /// Messages that had expired when their turn came.
    pub expired: u64,
    /// Messages that went to the dead letters.
    pub died: u64,
    /// Dead letters that were dropped, because there were too many or they were too old.
    pub dropped: u64,
    /// Messages and dead letters that were dropped because somebody asked for it.
    pub purged: u64,
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
    /// Messages that are delayed.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// 0.001 to 1000; 1 where none was set.
    pub weight: f64,
    /// Its place among the others, where it has one: of those that are ready, the lowest is served
    /// next. A message of it adds its cost divided by its weight.
    pub turn: Option<f64>,
    /// How long ago its foremost message was delivered, by the clock of Redis; none when nothing
    /// waits.
    pub oldest: Option<Duration>,
    /// What it can do.
    pub state: FacetState,
    /// What keeps it from being served. None when it can be, at its turn.
    pub gate: Option<Gate>,
    /// Whether it is paused. Without messages it can be that, too.
    pub paused: bool,
}

/// What a facet can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FacetState {
    /// It has messages waiting, and is served at its turn.
    Ready,
    /// It has messages waiting, and is not served: [`gate`](FacetStats::gate) says why.
    Parked,
    /// It has none waiting, and had more than the others who wait.
    InDebt,
    /// It has none waiting.
    Quiet,
}

/// What keeps a facet from being served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Gate {
    /// Its queue is paused.
    QueuePaused,
    /// It is paused.
    Paused,
    /// [`hold_facet`](crate::Delivery::hold_facet) was called, and holds until then, by the clock of
    /// Redis.
    OnHold {
        /// In whole milliseconds.
        until: SystemTime,
    },
    /// As many of its messages are leased as may be.
    AtLimit {
        /// How many may be.
        most: u32,
    },
    /// It was served as fast as may be. Its next message can be served then, by the clock of Redis.
    OutOfRate {
        /// In whole milliseconds.
        until: SystemTime,
    },
    /// Nothing waits.
    Empty,
}

/// Why a facet is served, or is not; made by [`Facet::why`](crate::Facet::why) and
/// [`Queue::why_all`](crate::Queue::why_all).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Why {
    /// What keeps it from being served. None when it can be, at its turn.
    pub gate: Option<Gate>,
    /// How many facets are served before it, of those that are ready. None when it is not.
    pub place: Option<u64>,
    /// Its settings, those among them that it has from its queue: the limits that hold for it.
    pub settings: FacetSettings,
    /// How it stands: its turn, how many are leased, and how long the oldest has waited.
    pub stats: FacetStats,
}

/// Where a page of facets or of dead letters begins; the default is the first one. Good for what it
/// is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Which of the partitions.
    pub(crate) partition: u32,
    /// Which of the sets that the script goes through, from 1 on.
    pub(crate) set: u8,
    /// As Redis has it.
    pub(crate) at: String,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { partition: 0, set: 1, at: "0".into() }
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
    /// What goes with the body.
    pub headers: Headers,
    /// The message.
    pub message: Result<T, Undecodable>,
}

pub(crate) async fn peek<T>(
    core: &Core,
    queue: &Arc<str>,
    most: usize,
    decode: &Decode<T>,
) -> Result<Vec<Peeked<T>>> {
    check_name(queue)?;
    let most = most.min(MOST_PEEKED);
    let all = core.ask_of(queue, |partition| peek_one(partition, queue, most, decode)).await?;
    let mut all: Vec<_> = all.into_iter().map(Vec::into_iter).collect();
    let mut peeked = Vec::new();
    // About as they are served: one of each partition, and so on.
    loop {
        let before = peeked.len();
        peeked.extend(all.iter_mut().filter_map(Iterator::next));
        if peeked.len() == before || peeked.len() >= most {
            peeked.truncate(most);
            return Ok(peeked);
        }
    }
}

async fn peek_one<T>(
    partition: &Partition,
    queue: &Arc<str>,
    mut most: usize,
    decode: &Decode<T>,
) -> Result<Vec<Peeked<T>>> {
    let mut bytes = MOST_BYTES;
    while most > 0 {
        let ask = |command: &mut redis::Cmd| {
            command.arg(most).arg(bytes);
        };
        let (ended, shown) = read_peeked(look(partition, &scripts::PEEK, queue, ask).await?)?;
        if ended == 2 && shown.is_empty() {
            (most, bytes) = (1, ANY_BYTES); // It is larger than a peek, and shown alone.
            continue;
        }
        let peeked = shown.into_iter().map(|mut stored| {
            stored.is_of(partition);
            let message = stored.decode(decode);
            let Stored { id, facet, topic, attempts, headers, .. } = stored;
            Peeked { id, facet, topic, attempts, headers, message }
        });
        return Ok(peeked.collect());
    }
    Ok(Vec::new())
}

/// Reads what ended a peek, as `choose` of `lua/parts/take.lua` has it, and what it showed.
pub(crate) fn read_peeked(values: Vec<Value>) -> Result<(u8, Vec<Stored>)> {
    let mut values = values.into_iter();
    let ended = read(values.next().unwrap_or(Value::Nil))?;
    let mut shown = Vec::with_capacity(values.len() / 2);
    while let (Some(facet), Some(raw)) = (values.next(), values.next()) {
        shown.push(Stored::read(facet, &read::<Vec<u8>>(raw)?)?);
    }
    Ok((ended, shown))
}

pub(crate) async fn stats(core: &Core, queue: &Arc<str>) -> Result<Stats> {
    check_name(queue)?;
    let all = core.ask_of(queue, |partition| stats_of_one(partition, queue)).await?;
    Ok(all.into_iter().reduce(Stats::and).unwrap_or_default())
}

/// What a partition has of a queue.
pub(crate) async fn stats_of_one(partition: &Partition, queue: &Arc<str>) -> Result<Stats> {
    read_stats(look(partition, &scripts::STATS, queue, |_| {}).await?)
}

pub(crate) fn read_stats(values: Vec<Value>) -> Result<Stats> {
    let numbers: Vec<u64> = values.into_iter().map(read).collect::<Result<_>>()?;
    let mut numbers = numbers.into_iter();
    let mut next = || numbers.next().ok_or_else(|| unexpected("too few counts"));
    Ok(Stats {
        waiting: next()?,
        leased: next()?,
        delayed: next()?,
        dead: next()?,
        holds: next()?,
        facets_ready: next()?,
        facets_parked: next()?,
        facets_in_debt: next()?,
        paused: next()? == 1,
        delivered: next()?,
        served: next()?,
        acked: next()?,
        came_back: next()?,
        refused: next()?,
        expired: next()?,
        died: next()?,
        dropped: next()?,
        purged: next()?,
    })
}

impl Stats {
    /// With those of another partition.
    fn and(self, other: Self) -> Self {
        Self {
            waiting: self.waiting + other.waiting,
            leased: self.leased + other.leased,
            delayed: self.delayed + other.delayed,
            dead: self.dead + other.dead,
            holds: self.holds + other.holds,
            facets_ready: self.facets_ready + other.facets_ready,
            facets_parked: self.facets_parked + other.facets_parked,
            facets_in_debt: self.facets_in_debt + other.facets_in_debt,
            paused: self.paused || other.paused,
            delivered: self.delivered + other.delivered,
            served: self.served + other.served,
            acked: self.acked + other.acked,
            came_back: self.came_back + other.came_back,
            refused: self.refused + other.refused,
            expired: self.expired + other.expired,
            died: self.died + other.died,
            dropped: self.dropped + other.dropped,
            purged: self.purged + other.purged,
        }
    }
}

impl Cursor {
    /// The partition that it is in, and whether the page is to begin there.
    pub(crate) fn partition<'a>(&self, core: &'a Core) -> Option<&'a Arc<Partition>> {
        core.partitions.get(self.partition as usize)
    }

    /// Where the next partition begins, after the last page of one.
    pub(crate) fn after(partition: &Partition) -> Option<Self> {
        let next = partition.place + 1;
        let more = next < partition.layout.partitions;
        more.then(|| Self { partition: next as u32, ..Self::default() })
    }
}

/// A page of facets, and where the next one begins.
pub(crate) async fn facets(
    core: &Core,
    queue: &Arc<str>,
    from: Cursor,
) -> Result<(Vec<FacetStats>, Option<Cursor>)> {
    check_name(queue)?;
    let Some(partition) = from.partition(core) else { return Ok((Vec::new(), None)) };
    let page = async {
        let (names, next) = facet_names(partition, queue, from).await?;
        Ok((look_at_all(partition, queue, &names).await?, next))
    };
    let (page, next) = or_nothing(core, queue, page.await).await?;
    let next = next.or_else(|| Cursor::after(partition));
    Ok((page.into_iter().map(|why| why.stats).collect(), next))
}

/// A page of one of several partitions, which is empty where that has nothing of the queue and another has.
pub(crate) async fn or_nothing<Page: Default>(
    core: &Core,
    queue: &Arc<str>,
    page: Result<Page>,
) -> Result<Page> {
    match if_there(page)? {
        Some(page) => Ok(page),
        None => stats(core, queue).await.map(|_| Page::default()),
    }
}

/// The names of a page of facets of a partition, and where the next one begins.
pub(crate) async fn facet_names(
    partition: &Partition,
    queue: &Arc<str>,
    from: Cursor,
) -> Result<(Vec<Vec<u8>>, Option<Cursor>)> {
    let ask = |command: &mut redis::Cmd| {
        command.arg(from.set).arg(&from.at);
    };
    let (names, next) = read_names(look(partition, &scripts::FACETS, queue, ask).await?)?;
    Ok((names, next.map(|next| Cursor { partition: from.partition, ..next })))
}

/// Reads a page of names, and where the next one begins.
pub(crate) fn read_names(values: Vec<Value>) -> Result<(Vec<Vec<u8>>, Option<Cursor>)> {
    let mut values = values.into_iter();
    let mut next = || values.next().ok_or_else(|| unexpected("a page without a cursor"));
    let (set, at): (u8, String) = (read(next()?)?, read(next()?)?);
    let names = values.map(read).collect::<Result<_>>()?;
    Ok((names, (set > 0).then_some(Cursor { set, at, ..Cursor::default() })))
}

/// Looks at facets, in their order.
pub(crate) async fn look_at(core: &Core, queue: &Arc<str>, facets: &[&str]) -> Result<Vec<Why>> {
    let parts = core.apart(facets, |facet| core.of_facet(facet));
    let looking = parts.into_iter().map(async |(partition, places)| {
        let names: Vec<_> = places.iter().map(|place| facets[*place]).collect();
        let found = look_at_all(partition, queue, &names).await?;
        Ok::<_, Error>(places.into_iter().zip(found).collect::<Vec<_>>())
    });
    let mut found: Vec<_> = try_join_all(looking).await?.into_iter().flatten().collect();
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(_, why)| why).collect())
}

/// Looks at facets of a partition, with as many scripts as that takes.
async fn look_at_all<Name: AsRef<[u8]>>(
    partition: &Partition,
    queue: &Arc<str>,
    facets: &[Name],
) -> Result<Vec<Why>> {
    let mut found = Vec::with_capacity(facets.len());
    while found.len() < facets.len() {
        let left = &facets[found.len()..];
        found.extend(look_at_some(partition, queue, &left[..left.len().min(MOST_FACETS)]).await?);
    }
    Ok(found)
}

/// Looks at as many of the facets as one script may: at least one.
async fn look_at_some<Name: AsRef<[u8]>>(
    partition: &Partition,
    queue: &Arc<str>,
    facets: &[Name],
) -> Result<Vec<Why>> {
    let ask = |command: &mut redis::Cmd| {
        for facet in facets {
            command.arg(facet.as_ref());
        }
    };
    read_found(look(partition, &scripts::FACET, queue, ask).await?, facets)
}

/// Reads what was found of the first of these facets, at least of one.
pub(crate) fn read_found<Name: AsRef<[u8]>>(
    values: Vec<Value>,
    facets: &[Name],
) -> Result<Vec<Why>> {
    let found = values.into_iter().zip(facets).map(|(value, facet)| {
        let (
            (waiting, leased, delayed, dead),
            (turn, place, oldest, state),
            (gate, until, queue_paused, settings),
        ): Found = read(value)?;
        let settings = FacetSettings::parse(&settings);
        let until = SystemTime::UNIX_EPOCH + Duration::from_millis(until.unsigned_abs());
        let gate = match gate {
            _ if waiting == 0 => Some(Gate::Empty),
            _ if queue_paused == 1 => Some(Gate::QueuePaused),
            1 => Some(Gate::Paused),
            2 => Some(Gate::OnHold { until }),
            3 => Some(Gate::AtLimit { most: settings.max_leased.unwrap_or_default() }),
            4 => Some(Gate::OutOfRate { until }),
            _ => None,
        };
        let stats = FacetStats {
            facet: String::from_utf8_lossy(facet.as_ref()).into_owned(),
            waiting,
            leased,
            delayed,
            dead,
            weight: settings.weight.unwrap_or(1.0),
            turn: turn.parse().ok(),
            oldest: u64::try_from(oldest).ok().map(Duration::from_millis),
            state: match state {
                1 => FacetState::Ready,
                2 => FacetState::Parked,
                3 => FacetState::InDebt,
                _ => FacetState::Quiet,
            },
            gate,
            paused: settings.paused,
        };
        Ok(Why { gate, place: u64::try_from(place).ok(), settings, stats })
    });
    let found: Vec<_> = found.collect::<Result<_>>()?;
    if found.is_empty() { Err(unexpected("a page without facets")) } else { Ok(found) }
}

/// As `facet.lua` returns it for a facet.
type Found = ((u64, u64, u64, u64), (String, i64, i64, u8), (u8, i64, u8, String));

/// Calls a script that changes nothing.
pub(crate) async fn look(
    partition: &Partition,
    script: &Script,
    queue: &Arc<str>,
    ask: impl FnOnce(&mut redis::Cmd),
) -> Result<Vec<Value>> {
    let mut command = partition.command(script, &[queue]);
    command.arg(&**queue);
    ask(&mut command);
    let reply = partition.call(script, &command, Repeat::Safe).await;
    read(reply.map_err(|error| error.of(queue))?.value)
}
