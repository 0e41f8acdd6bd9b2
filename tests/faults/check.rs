//! What is promised, as something that a record can break.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use crate::record::{Entry, Event, Hold, How, Known, Micros};

mod tests;

/// How far the clocks of two processes, and of Redis, may be apart, in us.
const SLACK: Micros = 20_000;

/// What a fault takes from the promises.
#[derive(Debug, Clone, Default)]
pub(crate) struct Excused {
    /// Redis may have forgotten what it did from one time to the other.
    pub(crate) forgotten: Vec<(Micros, Micros)>,
    /// But for deliveries, which were to be safe before they were acknowledged.
    pub(crate) durable: bool,
    /// The time that scripts go by jumps: leases end early, and their numbers are in no order.
    pub(crate) time: bool,
}

/// What a record shows.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Messages whose deliverer was told that they are delivered.
    pub(crate) delivered: usize,
    /// Messages that were handled to their end, or pulled.
    pub(crate) served: usize,
    /// Messages that were handled to their end more than once.
    pub(crate) doubled: usize,
    /// Messages that were delivered and are gone unserved, but for what a pull may take.
    pub(crate) lost: usize,
    /// The longest time in which a message could have been served, and none was.
    pub(crate) stall: Duration,
    /// What was promised and is not so.
    pub(crate) breaches: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delivered, served, doubled, lost, stall, .. } = self;
        let stall = stall.as_millis();
        write!(f, "{delivered} | {served} | {doubled} | {lost} | {stall} ms")
    }
}

/// What happened to a message.
#[derive(Debug, Default)]
struct Message {
    facet: u32,
    keyed: bool,
    pulled: bool,
    tries: usize,
    /// When its deliverer was told that it is delivered, each time.
    done: Vec<Micros>,
    not_done: usize,
    holds: Vec<Held>,
    pulls: Vec<Micros>,
    dead: usize,
    /// Redis may have forgotten something of it.
    excused: bool,
}

/// What happened under a lease of a message.
#[derive(Debug)]
struct Held {
    hold: Hold,
    /// When it was asked for and when it was there, with its attempt; none when a worker had it only
    /// to give it back.
    seen: Option<(Micros, Micros, u32)>,
    /// It is there at least until then, unless it is settled before.
    until: Micros,
    /// The last extension that worked, when it was asked for.
    extended: Micros,
    /// When it was to be ended, each time, and how.
    settles: Vec<(Micros, How)>,
    settled: Vec<(Micros, How, Known)>,
}

impl Held {
    /// Whether somebody worked on it to the end.
    fn is_handled(&self) -> bool {
        self.settles.iter().any(|(_, how)| *how == How::Ack)
    }

    /// When its holder was told that it is acked.
    fn acked(&self) -> Option<Micros> {
        let acked = |settled: &&(_, _, _)| (settled.1, settled.2) == (How::Ack, Known::Done);
        self.settled.iter().find(acked).map(|(at, ..)| *at)
    }

    /// Until when it was certainly there.
    fn lived(&self) -> Micros {
        match self.settles.first() {
            Some((at, _)) => self.until.min(*at),
            // It was given back at a time that nobody knows.
            None if !self.settled.is_empty() => 0,
            None => self.until,
        }
    }
}

impl Message {
    fn of(&mut self, hold: Hold) -> &mut Held {
        let known = |held: &Held| (held.hold.id, held.hold.lease) == (hold.id, hold.lease);
        let place = self.holds.iter().position(known).unwrap_or_else(|| {
            let (settles, settled) = (Vec::new(), Vec::new());
            self.holds.push(Held { hold, seen: None, until: 0, extended: 0, settles, settled });
            self.holds.len() - 1
        });
        &mut self.holds[place]
    }

    fn handlings(&self) -> usize {
        self.holds.iter().filter(|held| held.is_handled()).count() + self.pulls.len()
    }

    fn is_there(&self) -> bool {
        !self.holds.is_empty() || !self.pulls.is_empty() || self.dead > 0
    }

    /// When it was first in somebody's hand, if it could be served until then: not where a lease that
    /// nobody knows of was in between.
    fn first_served(&self) -> Option<Micros> {
        let first = self.holds.iter().filter_map(|held| held.seen).min_by_key(|(_, at, _)| *at);
        match first {
            Some((_, at, attempt)) => (attempt == 1).then_some(at),
            None => self.pulls.first().copied(),
        }
    }
}

/// Checks what was recorded until all queues were empty.
pub(crate) fn check(history: &[Entry], excused: &Excused) -> Verdict {
    let mut messages: BTreeMap<u64, Message> = BTreeMap::new();
    let (mut perhaps_pulled, mut served_at) = (0, Vec::new());
    for Entry { at, event } in history.iter().copied() {
        let n = match event {
            Event::Deliver { n, .. }
            | Event::Delivered { n, .. }
            | Event::Pulled { n }
            | Event::Dead { n } => n,
            Event::Leased { hold, .. }
            | Event::Extended { hold, .. }
            | Event::Settle { hold, .. }
            | Event::Settled { hold, .. } => hold.n,
            Event::PulledPerhaps { most } => {
                perhaps_pulled += most as usize;
                continue;
            }
        };
        let message = messages.entry(n).or_default();
        message.excused |= excused.forgotten.iter().any(|(from, to)| (*from..=*to).contains(&at));
        match event {
            Event::Deliver { facet, keyed, pulled, .. } => {
                (message.facet, message.keyed, message.pulled) = (facet, keyed, pulled);
                message.tries += 1;
            }
            Event::Delivered { known: Known::Done, .. } => message.done.push(at),
            Event::Delivered { known: Known::NotDone, .. } => message.not_done += 1,
            Event::Delivered { .. } => {}
            Event::Leased { hold, attempt, asked, until } => {
                let held = message.of(hold);
                (held.seen, held.until) = (Some((asked, at, attempt)), until);
                served_at.push(at);
            }
            Event::Extended { hold, asked, until } => {
                let held = message.of(hold);
                (held.extended, held.until) = (asked, held.until.max(until));
            }
            Event::Settle { hold, how } => message.of(hold).settles.push((at, how)),
            Event::Settled { hold, how, known } => message.of(hold).settled.push((at, how, known)),
            Event::Pulled { .. } => {
                message.pulls.push(at);
                served_at.push(at);
            }
            Event::Dead { .. } => message.dead += 1,
            Event::PulledPerhaps { .. } => {}
        }
    }
    let mut verdict = Verdict { stall: stall(&messages, &served_at), ..Verdict::default() };
    let mut lost_by_pulls = 0;
    for (n, message) in &messages {
        let handlings = message.handlings();
        verdict.delivered += usize::from(!message.done.is_empty());
        verdict.served += usize::from(handlings > 0);
        verdict.doubled += usize::from(handlings > 1);
        if !message.done.is_empty() && handlings == 0 && message.dead == 0 {
            match message {
                Message { excused: true, .. } if !excused.durable => verdict.lost += 1,
                Message { pulled: true, .. } => lost_by_pulls += 1,
                _ => {
                    verdict.lost += 1;
                    verdict.breaches.push(format!("message {n} was delivered and is lost"));
                }
            }
        }
        if !message.excused {
            copies(*n, message, &mut verdict.breaches);
            fencing(*n, message, &mut verdict.breaches);
            if !excused.time {
                two_leases(*n, message, &mut verdict.breaches);
            }
        }
    }
    // What was pulled and did not arrive is gone, as it is promised.
    if lost_by_pulls > perhaps_pulled {
        verdict.lost += lost_by_pulls - perhaps_pulled;
        let breach = format!(
            "{lost_by_pulls} messages are lost, where pulls without an answer may have taken {perhaps_pulled}"
        );
        verdict.breaches.push(breach);
    }
    if !excused.time {
        order(&messages, &mut verdict.breaches);
    }
    verdict
}

/// A delivery that was not made is not there; one that was made is there once; one of which nobody
/// knows at most once, and with a key, however often it is made.
fn copies(n: u64, message: &Message, breaches: &mut Vec<String>) {
    let perhaps = message.tries - message.done.len() - message.not_done;
    let allowed = match message.done.len() + perhaps {
        0 if message.is_there() => {
            breaches.push(format!("message {n} is there, though it was not delivered"));
            return;
        }
        times if message.keyed => times.min(1),
        times => times,
    };
    let ids: BTreeSet<u64> = message.holds.iter().map(|held| held.hold.id).collect();
    let there = ids.len().max(message.pulls.len()).max(message.dead);
    if there > allowed {
        breaches
            .push(format!("message {n} was there {there} times, and delivered {allowed} times"));
    }
}

/// Who has lost a lease can do nothing with it, and what is acked is gone.
fn fencing(n: u64, message: &Message, breaches: &mut Vec<String>) {
    for held in &message.holds {
        let Hold { id, lease, .. } = held.hold;
        let Some((_, seen, _)) = held.seen else { continue };
        for other in message.holds.iter().filter(|other| other.hold.id == id) {
            let Some((asked, at, _)) = other.seen else { continue };
            if other.hold.lease == lease {
                continue;
            }
            let newer = other.hold.lease;
            if seen < asked {
                let fooled = held
                    .settled
                    .iter()
                    .zip(&held.settles)
                    .any(|((.., known), (begun, _))| *known == Known::Done && *begun > at);
                if fooled {
                    breaches.push(format!(
                        "message {n} was settled under lease {lease} after it was leased as {newer}"
                    ));
                }
                if held.extended > at {
                    breaches.push(format!("message {n} was extended under lease {lease} after it was leased as {newer}"));
                }
            }
            if held.acked().is_some_and(|acked| acked < asked) {
                breaches.push(format!(
                    "message {n} was acked under lease {lease}, and leased again as {newer}"
                ));
            }
            if lease < newer && held.acked().is_some() && other.acked().is_some() {
                breaches.push(format!(
                    "message {n} was acked under lease {lease} and under lease {newer}"
                ));
            }
        }
    }
}

/// Nobody is given what another one has.
fn two_leases(n: u64, message: &Message, breaches: &mut Vec<String>) {
    for held in &message.holds {
        let Hold { id, lease, .. } = held.hold;
        for other in message.holds.iter().filter(|other| other.hold.id == id) {
            let newer = other.hold.lease;
            let Some((_, at, _)) = other.seen.filter(|_| newer > lease) else { continue };
            if at + SLACK < held.lived() {
                let early = (held.lived() - at) / 1000;
                breaches.push(format!(
                    "message {n} was leased as {newer} {early} ms before lease {lease} ended"
                ));
            }
        }
    }
}

/// What was never given back is served in the order of its facet, in which its one deliverer waited
/// for each.
fn order(messages: &BTreeMap<u64, Message>, breaches: &mut Vec<String>) {
    let mut last: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for (n, message) in messages {
        let certain = message.keyed || message.tries == 1;
        let [held] = &message.holds[..] else { continue };
        let first = held.seen.is_some_and(|(.., attempt)| attempt == 1);
        let back = held.settled.iter().any(|(_, how, _)| *how == How::Back);
        if message.done.is_empty() || message.excused || !certain || !first || back {
            continue;
        }
        // The number of a lease begins with its time, in ms.
        let at = held.hold.lease / 1_000_000;
        let before = last.entry(message.facet).or_insert((*n, at));
        if at < before.1 {
            let (before, facet) = (before.0, message.facet);
            breaches
                .push(format!("message {n} of facet {facet} was served before message {before}"));
        } else {
            *before = (*n, at);
        }
    }
}

/// The longest time in which a delivered message waited to be served for the first time, and none was.
fn stall(messages: &BTreeMap<u64, Message>, served_at: &[Micros]) -> Duration {
    let mut steps: Vec<(Micros, i64)> = served_at.iter().map(|at| (*at, 0)).collect();
    for message in messages.values() {
        let (Some(delivered), Some(served)) = (message.done.first(), message.first_served()) else {
            continue;
        };
        if *delivered < served {
            steps.extend([(*delivered, 1), (served, -1)]);
        }
    }
    steps.sort_unstable();
    let (mut waiting, mut since, mut longest) = (0, 0, 0);
    for (at, change) in steps {
        if waiting > 0 && change <= 0 {
            longest = longest.max(at - since);
        }
        if waiting == 0 || change <= 0 {
            since = at;
        }
        waiting += change;
    }
    Duration::from_micros(longest)
}
