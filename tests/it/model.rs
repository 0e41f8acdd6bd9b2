//! Random operations, on a real server and on a small model of the design, step by step: what comes
//! back, what is heard, what is stored, and what is promised must be the same.
//!
//! The model is plain Rust over maps. It serves one message at a time, so that batches are checked
//! against singles, and it keeps account of the two bounds of fairness at every service.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::IntoFuture,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant, SystemTime},
};

use fairlane::{
    Broker, Cursor, DeadLetters, Death, Delivery, Error, FacetSettings, FacetState, FacetStats,
    Gate, Listener, Message as Delivered, Overflow, QueueSettings, Rate, Refusal, Stats, Token,
};
use futures_util::FutureExt;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use serde_json::Value;

use crate::support::{self, START, Space, TOTALS};

/// Names that have been trouble elsewhere.
const FACETS: [&str; 6] = ["a", "b:c", "length", "{x}", "f:a", "é\n\0 😀"];
const QUEUES: [&str; 2] = ["q1", "q1-2"];
const TOPICS: [&str; 3] = ["x:1", "y:1", "none"];
const PATTERNS: [&str; 3] = ["^[xy]:", "x", "^y:"];
/// One turn, in the unit of those that are stored.
const TURN: f64 = 1_048_576.0;
const WEIGHTS: [f64; 6] = [1.0, 0.001, 0.3, 3.0, 7.5, 1000.0];
const COSTS: [f64; 4] = [1.0, 0.001, 2.5, 40.0];
/// For how long the keys of deliveries hold: longer than a run takes, so that only the time that is
/// passed in ends them.
const WINDOW: u64 = 60_000;

fn matches(pattern: usize, topic: usize) -> bool {
    match pattern {
        0 => topic < 2,
        1 => topic == 0,
        _ => topic == 1,
    }
}

/// A message that is to be delivered.
#[derive(Debug, Clone, Copy)]
struct New {
    facet: usize,
    topic: usize,
    cost: Option<usize>,
    /// In ms.
    delay: Option<u64>,
    ttl: Option<u64>,
    key: Option<u8>,
}

/// What is set of a facet, or of all facets of a queue.
#[derive(Debug, Clone, PartialEq)]
enum Change {
    MaxLeased(Option<u32>),
    /// Count, period in ms, burst.
    Rate(Option<(u32, u64, u32)>),
    MaxWaiting(Option<u64>),
    IntakePaused(bool),
    // Of a queue alone.
    DropOldest(bool),
    Ttl(Option<u64>),
    BuryExpired(bool),
    MaxAttempts(u32),
    MaxCrashes(u32),
    MaxDead(Option<u64>),
}

#[derive(Debug, Clone)]
enum Step {
    Deliver {
        broker: usize,
        messages: Vec<New>,
    },
    AckCost {
        token: usize,
        cost: usize,
    },
    NackAfter {
        token: usize,
        ms: u64,
    },
    Fail {
        token: usize,
        /// Whether it is given up.
        last: bool,
    },
    HoldFacet {
        token: usize,
        ms: u64,
    },
    Configure {
        queue: usize,
        facet: Option<usize>,
        change: Change,
    },
    Redrive {
        queue: usize,
        facet: Option<usize>,
    },
    DeadLetters {
        queue: usize,
        facet: Option<usize>,
        purge: bool,
    },
    Purge {
        queue: usize,
        facet: usize,
    },
    Remove {
        queue: usize,
        facet: usize,
        back: u64,
    },
    Pull {
        queue: usize,
        most: usize,
    },
    Lease {
        queue: usize,
        most: usize,
        length: u64,
    },
    /// From the first queue that has something.
    LeaseInOrder {
        reversed: bool,
        most: usize,
        length: u64,
    },
    Ack {
        tokens: Vec<usize>,
    },
    Nack {
        token: usize,
    },
    Extend {
        token: usize,
        length: u64,
    },
    Pass {
        ms: u64,
    },
    SetWeight {
        queue: usize,
        facet: usize,
        weight: usize,
    },
    /// Of a facet, or of the queue itself.
    SetPaused {
        queue: usize,
        facet: Option<usize>,
        paused: bool,
    },
    /// Where nothing is there: leases, waiting, while this is delivered. Otherwise leases.
    Wait {
        queue: usize,
        messages: Vec<New>,
        length: u64,
    },
    Peek {
        queue: usize,
        most: usize,
    },
    Look {
        queue: usize,
    },
    Destroy {
        queue: usize,
    },
    Register {
        queue: usize,
        pattern: usize,
    },
    Unregister {
        queue: usize,
    },
}

/// What a step must give.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Nothing,
    /// The ids, the queues that the receipts name, and which were delivered before.
    Delivered {
        delivered: Vec<(u64, Vec<&'static str>, bool)>,
    },
    Refused,
    Count(u64),
    NoSuchMessage,
    Dead(BTreeMap<u64, (&'static str, u32, u32, Death, bool)>),
    Taken(Vec<Served>),
    Lost(Vec<usize>),
    NoSuchQueue,
    Was(bool),
    Waited {
        delivered: Vec<(u64, Vec<&'static str>, bool)>,
        taken: Vec<Served>,
    },
    Looked {
        stats: Counts,
        facets: BTreeMap<&'static str, Facet>,
    },
}

/// Numbers by name, as Redis has them.
type Turns = BTreeMap<String, f64>;

/// What `stats` counts: waiting, leased, delayed, dead; facets ready, parked and in debt; paused;
/// and the totals.
type Counts = ([u64; 4], [usize; 3], bool, [u64; 9]);
// Their places among the totals.
const DELIVERED: usize = 0;
const SERVED: usize = 1;
const ACKED: usize = 2;
const CAME_BACK: usize = 3;
const REFUSED: usize = 4;
const EXPIRED: usize = 5;
const DIED: usize = 6;
const DROPPED: usize = 7;
const PURGED: usize = 8;

/// What looking at a facet shows.
#[derive(Debug, Clone, PartialEq)]
struct Facet {
    waiting: usize,
    leased: usize,
    delayed: usize,
    dead: usize,
    weight: f64,
    turn: Option<f64>,
    oldest: Option<Duration>,
    state: FacetState,
    gate: Option<Gate>,
}

#[derive(Debug, Clone, PartialEq)]
struct Served {
    facet: &'static str,
    id: u64,
    attempt: u32,
}

#[derive(Debug, Clone)]
struct Message {
    id: u64,
    attempts: u32,
    crashes: u32,
    delivered_at: u64,
    cost: f64,
    expires: Option<u64>,
    /// When it was delivered, or, of one that was delayed then, due: from there the queue's ttl
    /// counts.
    from: u64,
    /// Whether it failed with a reason.
    failed: bool,
}

/// How a leased message is given back.
#[derive(Debug, Clone, Copy)]
struct Back {
    counted: bool,
    crashed: bool,
    failed: bool,
    last: bool,
    /// When it is served again; none for next of its facet.
    due: Option<u64>,
}

#[derive(Debug, Clone)]
struct Letter {
    facet: &'static str,
    died: u64,
    death: Death,
    message: Message,
}

#[derive(Debug, Clone)]
struct Leased {
    facet: &'static str,
    message: Message,
    /// Its place among all tokens that were ever given.
    token: usize,
    /// What the lease is stored as: those that were taken together have one, unless one of them is
    /// extended apart.
    lease: String,
    ends: u64,
}

/// How far two facets that both wait have come apart, in turns, since both of them wait.
#[derive(Debug, Clone, Copy, Default)]
struct Apart {
    now: f64,
    least: f64,
    most: f64,
}

#[derive(Debug, Clone, Default)]
struct Queue {
    route: Option<usize>,
    waiting: BTreeMap<&'static str, VecDeque<Message>>,
    leased: BTreeMap<u64, Leased>,
    delayed: BTreeMap<&'static str, Vec<(u64, Message)>>,
    /// Of which facets more was due than one call lets join, and when that was.
    late: BTreeMap<&'static str, u64>,
    letters: BTreeMap<u64, Letter>,
    own: QueueSettings,
    settings: BTreeMap<&'static str, FacetSettings>,
    /// What has a time beside leases and delayed messages, by name: holds, rates, old dead letters.
    timers: Turns,
    ready: BTreeMap<&'static str, f64>,
    parked: BTreeMap<&'static str, f64>,
    idle: BTreeMap<&'static str, f64>,
    /// Facets that get something to serve, and those whose gate may have opened.
    coming: Vec<&'static str>,
    freed: Vec<&'static str>,
    charges: BTreeMap<&'static str, f64>,
    totals: [u64; 9],
    floor: f64,
    arrival: f64,
    early: f64,
    apart: BTreeMap<(&'static str, &'static str), Apart>,
    /// For each facet that waits: how many others were served since its head is the head, and how
    /// many may be.
    passed: BTreeMap<&'static str, (f64, f64)>,
    /// Whether weights or costs are other than 1.
    weighted: bool,
}

impl Queue {
    /// The settings of a facet, where it says nothing those of the queue.
    fn set(&self, facet: &str) -> FacetSettings {
        let of_queue = self.own.facets.clone();
        let Some(own) = self.settings.get(facet).cloned() else {
            let mut set = of_queue;
            set.paused = false;
            return set;
        };
        let mut set = own.clone();
        set.weight = own.weight.or(of_queue.weight);
        set.intake_paused = own.intake_paused || of_queue.intake_paused;
        set.max_leased = own.max_leased.or(of_queue.max_leased);
        set.rate = own.rate.or(of_queue.rate);
        set.max_waiting = own.max_waiting.or(of_queue.max_waiting);
        set
    }

    fn weight(&self, facet: &str) -> f64 {
        self.set(facet).weight.unwrap_or(1.0)
    }

    fn paused(&self) -> bool {
        self.own.facets.paused
    }

    fn exists(&self) -> bool {
        self.route.is_some()
            || !self.ready.is_empty()
            || !self.parked.is_empty()
            || !self.leased.is_empty()
            || !self.delayed.is_empty()
            || !self.letters.is_empty()
    }

    fn servable(&self) -> bool {
        !self.ready.is_empty() && !self.paused()
    }

    /// What keeps a facet from being served. `more`: of its messages that are about to be leased.
    fn gate(&self, facet: &str, more: usize, now: u64) -> Option<(Gate, f64)> {
        let set = self.set(facet);
        if set.paused {
            return Some((Gate::Paused, -1.0));
        }
        let held = self.timers.get(&format!("h{facet}")).copied();
        if let Some(until) = held.filter(|until| *until > now as f64) {
            return Some((Gate::OnHold { until: at(until as u64) }, until));
        }
        if let Some(most) =
            set.max_leased.filter(|most| self.leased_of(facet) + more >= *most as usize)
        {
            return Some((Gate::AtLimit { most }, -1.0));
        }
        let (count, period, burst) = parts(set.rate?);
        let full = self.full(facet, set.rate?, now);
        let opens = full - (burst - 1.0) * period / count;
        let until = at(opens.ceil() as u64);
        (opens >= now as f64 + 1.0).then_some((Gate::OutOfRate { until }, opens))
    }

    /// When the rate of a facet is all regained. What it has used up is at most its burst, also when the
    /// rate was another one then.
    fn full(&self, facet: &str, rate: Rate, now: u64) -> f64 {
        let (count, period, burst) = parts(rate);
        let full = self.timers.get(&format!("t{facet}")).copied().unwrap_or_default();
        let most = now as f64 + burst * period / count;
        if full > most + 1.0 { most } else { full }
    }

    /// As [`gate`](Self::gate), in a script that writes.
    fn gauge(&mut self, facet: &str, now: u64) -> Option<(Gate, f64)> {
        let gate = self.gate(facet, 0, now);
        if let Some(rate) = self.set(facet).rate
            && matches!(gate, None | Some((Gate::OutOfRate { .. }, _)))
        {
            let full = self.full(facet, rate, now);
            if let Some(timer) = self.timers.get_mut(&format!("t{facet}")) {
                *timer = full;
            }
        }
        gate
    }

    fn comes(&mut self, facet: &'static str) {
        if !self.coming.contains(&facet) {
            self.coming.push(facet);
        }
    }

    fn free(&mut self, facet: &'static str) {
        if !self.freed.contains(&facet) && !self.coming.contains(&facet) {
            self.freed.push(facet);
        }
    }

    /// Gives turns to those that come, and to those whose gate has opened.
    fn arrive(&mut self, now: u64) {
        let coming = std::mem::take(&mut self.coming);
        let mut freed = std::mem::take(&mut self.freed);
        freed.retain(|facet| self.parked.contains_key(facet) && !coming.contains(facet));
        for facet in coming.into_iter().chain(freed) {
            let tick = (2f64.powi(-20)).max(self.floor * 2f64.powi(-50));
            let owes = self.idle.remove(facet);
            let kept = self.parked.remove(facet);
            if let Some((gate, opens)) = self.gauge(facet, now) {
                self.parked.insert(facet, owes.or(kept).unwrap_or(0.0));
                if matches!(gate, Gate::OutOfRate { .. }) {
                    self.timers.insert(format!("r{facet}"), opens);
                }
                continue;
            }
            let stays = match owes {
                Some(left) => left > self.floor,
                None => kept.is_some_and(|left| left >= self.floor),
            };
            self.early = self.early.min(self.ready.len() as f64);
            let turn = if stays {
                owes.or(kept).unwrap()
            } else if self.early >= 1.0 {
                self.early -= 1.0;
                self.floor - (self.early + 1.0) * tick
            } else {
                self.arrival = self.arrival.max(self.floor) + tick;
                self.arrival + 1.0 / self.weight(facet)
            };
            for other in self.ready.keys() {
                self.apart.insert(pair(facet, other), Apart::default());
            }
            self.ready.insert(facet, turn);
            self.head(facet);
        }
    }

    /// A facet has a new head: the promise to it begins.
    fn head(&mut self, facet: &'static str) {
        let away = self.idle.values().chain(self.parked.values());
        let debtors = away.filter(|turn| **turn > self.floor).count();
        let most = 5.0 * (self.ready.len() + debtors) as f64 + 3.0 * self.early;
        self.passed.insert(facet, (0.0, most));
    }

    /// Takes a facet out of ready when its gate is closed.
    fn park(&mut self, facet: &'static str, now: u64) {
        let Some(turn) = self.ready.get(facet).copied() else { return };
        let Some((gate, opens)) = self.gauge(facet, now) else { return };
        if matches!(gate, Gate::OutOfRate { .. }) {
            self.timers.insert(format!("r{facet}"), opens);
        }
        self.ready.remove(facet);
        self.parked.insert(facet, turn);
        self.leaves(facet);
        if turn < self.floor {
            self.early = (self.early + 1.0).min(self.ready.len() as f64);
        }
    }

    /// A facet does not wait for its turn any more: what was promised to it and to the others about
    /// it ends.
    fn leaves(&mut self, facet: &'static str) {
        self.passed.remove(facet);
        self.apart.retain(|(a, b), _| *a != facet && *b != facet);
    }

    /// What a script that changes something ends with.
    fn close(&mut self, now: u64) {
        for (facet, cost) in std::mem::take(&mut self.charges) {
            let step = cost / self.weight(facet);
            let anything = !self.ready.is_empty() || !self.parked.is_empty();
            let mut found = false;
            for set in [&mut self.ready, &mut self.parked, &mut self.idle] {
                if let Some(turn) = set.get_mut(facet) {
                    let least = if step < 0.0 { turn.min(0.0) } else { *turn };
                    (*turn, found) = ((*turn + step).max(least), true);
                }
            }
            if !found && step > 0.0 && anything {
                self.idle.insert(facet, self.floor + step);
            }
            self.leaves(facet);
            self.weighted = true;
        }
        self.arrive(now);
        self.forget();
    }

    fn forget(&mut self) {
        if self.letters.is_empty() {
            self.timers.remove("a");
        }
        if self.ready.is_empty() && self.parked.is_empty() {
            (self.floor, self.arrival, self.early) = (0.0, 0.0, 0.0);
            self.idle.clear();
        }
    }

    fn deliver(&mut self, facet: &'static str, message: Message, due: Option<u64>) {
        self.totals[DELIVERED] += 1;
        self.weighted |= message.cost != 1.0;
        match due {
            Some(due) => self.delay(facet, message, due),
            None => {
                let list = self.waiting.entry(facet).or_default();
                list.push_back(message);
                if list.len() == 1 {
                    self.comes(facet);
                }
            }
        }
    }

    fn delay(&mut self, facet: &'static str, message: Message, due: u64) {
        let delayed = self.delayed.entry(facet).or_default();
        delayed.push((due, message));
        delayed.sort_by_key(|(due, message)| (*due, message.id));
    }

    fn bury(&mut self, facet: &'static str, message: Message, death: Death, now: u64) {
        self.totals[DIED] += 1;
        self.letters.insert(message.id, Letter { facet, died: now, death, message });
    }

    /// Drops the oldest dead letters that are too many.
    fn trim(&mut self) {
        let Some(most) = self.own.max_dead else { return };
        while self.letters.len() as u64 > most {
            let of_facet = |facet| {
                let letters = self.letters.values().filter(move |letter| letter.facet == facet);
                letters.map(|letter| letter.died).min()
            };
            let oldest = FACETS.into_iter().filter_map(|facet| Some((of_facet(facet)?, facet)));
            let (_, facet) = oldest.min().unwrap();
            let id = self.dead_of(facet)[0];
            self.letters.remove(&id);
            self.totals[DROPPED] += 1;
        }
    }

    /// The dead letters of a facet, the oldest first.
    fn dead_of(&self, facet: &str) -> Vec<u64> {
        let mut letters: Vec<_> =
            self.letters.iter().filter(|(_, letter)| letter.facet == facet).collect();
        letters.sort_by_key(|(id, letter)| (letter.died, **id));
        letters.into_iter().map(|(id, _)| *id).collect()
    }

    /// Gives a leased message back, and decides what becomes of it.
    fn release(&mut self, id: u64, back: Back, now: u64) {
        let Leased { facet, mut message, .. } = self.leased.remove(&id).unwrap();
        message.attempts += u32::from(back.counted);
        message.crashes += u32::from(back.crashed);
        message.failed |= back.failed;
        self.totals[CAME_BACK] += 1;
        if back.last {
            self.bury(facet, message, Death::Buried, now);
        } else if back.counted && message.attempts >= self.own.max_attempts {
            self.bury(facet, message, Death::Attempts, now);
        } else if back.crashed && message.crashes >= self.own.max_crashes {
            self.bury(facet, message, Death::Crashes, now);
        } else if let Some(due) = back.due {
            self.delay(facet, message, due);
        } else {
            let list = self.waiting.entry(facet).or_default();
            list.push_front(message);
            match list.len() {
                1 => self.comes(facet),
                _ if self.ready.contains_key(facet) => self.head(facet),
                _ => {}
            }
        }
        if !self.parked.is_empty() {
            self.free(facet);
        }
    }

    /// All that has a time, in its order: the time, and the name.
    fn times(&self) -> Vec<(f64, String)> {
        let mut times: Vec<_> =
            self.timers.iter().map(|(name, time)| (*time, name.clone())).collect();
        let (_, ends) = self.leases();
        times.extend(ends.into_iter().map(|(lease, end)| (end, lease)));
        for (facet, delayed) in &self.delayed {
            let time = self.late.get(facet).copied().unwrap_or(delayed[0].0);
            times.push((time as f64, format!("s{facet}")));
        }
        times.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        times
    }

    /// Does what is due: whole leases, at least one; delayed messages; gates.
    fn due(&mut self, now: u64, most: usize) {
        let (mut ids, mut count, mut trims) = (Vec::<u64>::new(), 0, false);
        let (leases, _) = self.leases();
        let names = self.times().into_iter().filter(|(time, _)| *time <= now as f64);
        let names: Vec<_> = names.map(|(_, name)| name).take(most).collect();
        let share = (most / names.len().max(1)).max(1);
        for name in names {
            let facet = FACETS.into_iter().find(|facet| name.get(1..) == Some(facet));
            match (name.as_bytes()[0], facet) {
                (b's', Some(facet)) => {
                    if count > 0 && count + 1 > most {
                        break;
                    }
                    let mut delayed = self.delayed.remove(facet).unwrap();
                    let (_, before) = (self.late.remove(facet), count);
                    while delayed.first().is_some_and(|(due, _)| *due <= now)
                        && !(count > 0 && count + 1 > most)
                        && count - before < share
                    {
                        let (_, message) = delayed.remove(0);
                        let list = self.waiting.entry(facet).or_default();
                        list.push_back(message);
                        count += 1;
                        if list.len() == 1 {
                            self.comes(facet);
                        }
                    }
                    if let Some((due, _)) = delayed.first() {
                        if *due <= now {
                            self.late.insert(facet, now);
                        }
                        self.delayed.insert(facet, delayed);
                    }
                }
                (b'h' | b'r' | b't', Some(facet)) => {
                    self.timers.remove(&name);
                    self.free(facet);
                }
                (b'a', _) => {
                    self.timers.remove(&name);
                    trims = true;
                }
                _ => {
                    let lease = &leases[&name];
                    if count > 0 && count + lease.len() > most {
                        break;
                    }
                    count += lease.len();
                    ids.extend(lease);
                }
            }
        }
        ids.sort_unstable_by(|a, b| b.cmp(a));
        let back = Back { counted: true, crashed: true, failed: false, last: false, due: None };
        for id in &ids {
            self.release(*id, back, now);
        }
        self.arrive(now);
        if trims || !ids.is_empty() {
            self.trim();
        }
        self.forget();
    }

    /// The leases there are, with the ids of each, and their ends.
    fn leases(&self) -> (BTreeMap<String, Vec<u64>>, Turns) {
        let (mut ids, mut ends) = (BTreeMap::<_, Vec<u64>>::new(), Turns::new());
        for (id, leased) in &self.leased {
            ids.entry(leased.lease.clone()).or_default().push(*id);
            ends.insert(leased.lease.clone(), leased.ends as f64);
        }
        (ids, ends)
    }

    /// Serves up to so many messages, one after the other, as so many pulls would.
    fn serve(&mut self, now: u64, most: usize, leases: bool) -> Vec<(&'static str, Message)> {
        let (mut taken, mut debts) = (Vec::new(), Vec::new());
        let mut loads: BTreeMap<&str, usize> = BTreeMap::new();
        while taken.len() < most {
            let lowest = self.ready.iter().min_by(|a, b| a.1.total_cmp(b.1).then(a.0.cmp(b.0)));
            let Some((facet, turn)) = lowest.map(|(facet, turn)| (*facet, *turn)) else { break };
            let list = self.waiting.get_mut(facet).unwrap();
            let message = list.pop_front().unwrap();
            let left = list.len();
            if left == 0 {
                self.waiting.remove(facet);
            }
            let ttl = self.own.ttl.map(|ttl| message.from + ttl.as_millis() as u64);
            let mut after = turn;
            if message.expires.or(ttl).is_some_and(|expires| expires <= now) {
                self.totals[EXPIRED] += 1;
                if self.own.bury_expired {
                    self.bury(facet, message, Death::Expired, now);
                }
            } else {
                if turn >= self.floor {
                    self.early = (self.early + 1.0).min(self.ready.len() as f64);
                    self.floor = turn;
                }
                let step = message.cost / self.weight(facet);
                self.account(facet, step);
                after += step;
                *loads.entry(facet).or_default() += usize::from(leases);
                if let Some(rate) = self.set(facet).rate {
                    let (count, period, _) = parts(rate);
                    let full = self.timers.entry(format!("t{facet}")).or_default();
                    *full = full.max(now as f64) + period / count;
                }
                taken.push((facet, message));
            }
            let gate = self.gate(facet, loads.get(facet).copied().unwrap_or_default(), now);
            match gate {
                _ if left == 0 => {
                    self.ready.remove(facet);
                    self.leaves(facet);
                    debts.push((facet, after));
                }
                // Only what was just served closes a gate here.
                Some((gate, opens)) => {
                    if matches!(gate, Gate::OutOfRate { .. }) {
                        self.timers.insert(format!("r{facet}"), opens);
                    }
                    self.ready.remove(facet);
                    self.leaves(facet);
                    self.parked.insert(facet, after);
                }
                None => {
                    self.ready.insert(facet, after);
                    self.head(facet);
                }
            }
        }
        debts.retain(|(_, turn)| *turn > self.floor);
        self.idle.extend(debts);
        taken
    }

    /// Checks both bounds of fairness at a service.
    fn account(&mut self, served: &'static str, step: f64) {
        let weights: BTreeMap<_, _> =
            FACETS.into_iter().map(|facet| (facet, self.weight(facet))).collect();
        // The dearest message there can be.
        let dear = if self.weighted { COSTS.into_iter().fold(1.0, f64::max) } else { 1.0 };
        for ((a, b), apart) in &mut self.apart {
            if *a != served && *b != served {
                continue;
            }
            apart.now += if *a == served { step } else { -step };
            apart.least = apart.least.min(apart.now);
            apart.most = apart.most.max(apart.now);
            let bound = dear / weights[a] + dear / weights[b];
            let range = apart.most - apart.least;
            assert!(
                range <= bound * (1.0 + 1e-6) + 1e-3,
                "{a:?} and {b:?} are {range} turns apart"
            );
        }
        if self.weighted {
            return; // The second bound is one for equal weights and costs.
        }
        for (facet, (passed, most)) in &mut self.passed {
            if *facet != served {
                *passed += 1.0;
                assert!(passed <= most, "{facet:?} was passed {passed} times, {most} are allowed");
            }
        }
    }

    fn take(&mut self, now: u64, most: usize, leases: bool) -> Vec<(&'static str, Message)> {
        self.due(now, 400 - most.min(250));
        let in_debt = !self.idle.is_empty();
        let most = if self.paused() { 0 } else { most };
        let buried = self.totals[DIED];
        let taken = self.serve(now, most, leases);
        self.totals[SERVED] += taken.len() as u64;
        if in_debt && !taken.is_empty() {
            let mut past: Vec<_> =
                self.idle.iter().filter(|(_, turn)| **turn <= self.floor).collect();
            past.sort_by(|a, b| a.1.total_cmp(b.1).then(a.0.cmp(b.0)));
            let past: Vec<_> =
                past.into_iter().take(2 * taken.len()).map(|(facet, _)| *facet).collect();
            self.idle.retain(|facet, _| !past.contains(facet));
        }
        if self.totals[DIED] > buried {
            self.trim();
        }
        self.forget();
        taken
    }

    /// Takes a facet that has nothing waiting any more out of ready and parked.
    fn drain(&mut self, facet: &'static str) {
        for turn in [self.ready.remove(facet), self.parked.remove(facet)].into_iter().flatten() {
            if turn > self.floor {
                self.idle.insert(facet, turn);
            }
        }
        self.leaves(facet);
        self.forget();
    }

    /// Drops one message that waits or is delayed.
    fn remove(&mut self, facet: &'static str, id: u64) -> bool {
        let list = self.waiting.entry(facet).or_default();
        let place = list.iter().position(|message| message.id == id);
        let waited = place.and_then(|place| list.remove(place)).is_some();
        if list.is_empty() {
            self.waiting.remove(facet);
            if waited {
                self.drain(facet);
            }
        }
        let delayed = self.delayed.entry(facet).or_default();
        let was = delayed.len();
        if !waited {
            delayed.retain(|(_, message)| message.id != id);
        }
        let removed = waited || delayed.len() < was;
        if delayed.len() < was {
            self.late.remove(facet);
        }
        if delayed.is_empty() {
            self.delayed.remove(facet);
        }
        self.totals[PURGED] += u64::from(removed);
        removed
    }

    fn purge(&mut self, facet: &'static str) -> u64 {
        let waiting = self.waiting.remove(facet).map_or(0, |list| list.len());
        let delayed = self.delayed.remove(facet).map_or(0, |list| list.len());
        self.late.remove(facet);
        if waiting > 0 {
            self.drain(facet);
        }
        let count = (waiting + delayed) as u64;
        self.totals[PURGED] += count;
        count
    }

    /// Lets the dead letters of a facet, or of all, wait again.
    fn redrive(&mut self, facet: Option<&'static str>, now: u64) -> u64 {
        let mut facets: Vec<_> =
            FACETS.into_iter().filter(|name| facet.is_none_or(|facet| facet == *name)).collect();
        facets.sort_unstable();
        let mut count = 0;
        for facet in facets {
            for id in self.dead_of(facet) {
                let Letter { message, .. } = self.letters.remove(&id).unwrap();
                let (attempts, crashes) = (0, 0);
                let again = Message {
                    attempts,
                    crashes,
                    delivered_at: now,
                    from: now,
                    expires: None,
                    ..message
                };
                let list = self.waiting.entry(facet).or_default();
                list.push_back(again);
                count += 1;
                if list.len() == 1 {
                    self.comes(facet);
                }
            }
        }
        if self.letters.is_empty() {
            self.timers.remove("a");
        }
        self.close(now);
        count
    }

    /// Changes settings, and decides anew on the facets that they concern.
    fn configure(&mut self, facet: Option<&'static str>, change: &Change, now: u64) {
        if let Some(facet) = facet {
            let old = self.weight(facet);
            let before = self.settings.remove(facet).unwrap_or_default();
            let mut set = before.clone();
            apply_to_facet(&mut set, change);
            let changed = set != before;
            if set != FacetSettings::default() {
                self.settings.insert(facet, set);
            }
            if changed {
                self.decide(facet, old, now);
            }
            return;
        }
        let limits = |own: &QueueSettings| (own.facets.max_leased, own.facets.rate);
        let (before, old) = (limits(&self.own), self.own.clone());
        apply_to_queue(&mut self.own, change);
        if self.own.max_dead != old.max_dead {
            let first = self.timers.remove("a").unwrap_or(f64::MAX);
            if self.own.max_dead.is_some() && !self.letters.is_empty() {
                self.timers.insert("a".into(), first.min(now as f64));
            }
        }
        let mut parked: Vec<_> = self.parked.iter().map(|(facet, turn)| (*turn, *facet)).collect();
        parked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
        self.freed.extend(parked.into_iter().map(|(_, facet)| facet));
        self.arrive(now);
        if limits(&self.own) != before {
            for facet in FACETS {
                self.park(facet, now);
            }
        }
        self.forget();
    }

    /// What follows when the settings of a facet are other ones.
    fn decide(&mut self, facet: &'static str, old: f64, now: u64) {
        let scale = old / self.weight(facet);
        let floor = self.floor;
        for set in [&mut self.ready, &mut self.parked, &mut self.idle] {
            if let Some(turn) = set.get_mut(facet).filter(|turn| **turn > floor) {
                *turn = floor + (*turn - floor) * scale;
            }
        }
        if scale != 1.0 {
            let with = self.apart.iter_mut().filter(|((a, b), _)| *a == facet || *b == facet);
            with.for_each(|(_, apart)| *apart = Apart::default());
            self.weighted = true;
        }
        let parked = self.parked.contains_key(facet);
        self.park(facet, now);
        if parked {
            self.free(facet);
        }
        self.arrive(now);
        self.forget();
    }

    fn stats(&self) -> Counts {
        let waiting = self.waiting.values().map(|list| list.len() as u64).sum();
        let delayed = self.delayed.values().map(|list| list.len() as u64).sum();
        let in_debt = self.idle.values().filter(|turn| **turn > self.floor).count();
        let facets = [self.ready.len(), self.parked.len(), in_debt];
        let there = [waiting, self.leased.len() as u64, delayed, self.letters.len() as u64];
        (there, facets, self.paused(), self.totals)
    }

    fn ack(&mut self, id: u64) {
        let leased = self.leased.remove(&id).unwrap();
        self.totals[ACKED] += 1;
        if !self.parked.is_empty() {
            self.free(leased.facet);
        }
    }

    fn leased_of(&self, facet: &str) -> usize {
        self.leased.values().filter(|leased| leased.facet == facet).count()
    }

    fn facet(&self, facet: &'static str, now: u64) -> Facet {
        let list = self.waiting.get(facet);
        let turn = |set: &BTreeMap<_, _>| set.get(facet).copied();
        let debt = turn(&self.idle).filter(|turn| *turn > self.floor);
        let (state, turn) = match (turn(&self.ready), turn(&self.parked), debt) {
            (Some(turn), ..) => (FacetState::Ready, Some(turn)),
            (_, Some(turn), _) => (FacetState::Parked, Some(turn)),
            (.., Some(turn)) => (FacetState::InDebt, Some(turn)),
            _ => (FacetState::Quiet, None),
        };
        let gate = match self.gate(facet, 0, now) {
            _ if list.is_none() => Some(Gate::Empty),
            _ if self.paused() => Some(Gate::QueuePaused),
            gate => gate.map(|(gate, _)| gate),
        };
        Facet {
            waiting: list.map_or(0, VecDeque::len),
            leased: self.leased_of(facet),
            delayed: self.delayed.get(facet).map_or(0, Vec::len),
            dead: self.dead_of(facet).len(),
            weight: self.weight(facet),
            turn,
            oldest: list.map(|list| Duration::from_millis(now - list[0].delivered_at)),
            state,
            gate,
        }
    }

    /// The facets that a list of them names.
    fn known(&self, facet: &str) -> bool {
        let turns = [&self.ready, &self.parked, &self.idle];
        turns.iter().any(|turns| turns.contains_key(facet))
            || self.leased_of(facet) > 0
            || self.settings.contains_key(facet)
            || self.delayed.contains_key(facet)
            || self.timers.contains_key(&format!("h{facet}"))
            || !self.dead_of(facet).is_empty()
    }
}

fn apply_to_facet(set: &mut FacetSettings, change: &Change) {
    match change {
        Change::MaxLeased(most) => set.max_leased = *most,
        Change::Rate(rate) => {
            set.rate = rate
                .map(|(count, ms, burst)| Rate::new(count, Duration::from_millis(ms)).burst(burst));
        }
        Change::MaxWaiting(most) => set.max_waiting = *most,
        Change::IntakePaused(paused) => set.intake_paused = *paused,
        _ => {}
    }
}

fn apply_to_queue(set: &mut QueueSettings, change: &Change) {
    match change {
        Change::DropOldest(true) => set.overflow = Overflow::DropOldest,
        Change::DropOldest(false) => set.overflow = Overflow::Refuse,
        Change::Ttl(ttl) => set.ttl = ttl.map(Duration::from_millis),
        Change::BuryExpired(bury) => set.bury_expired = *bury,
        Change::MaxAttempts(most) => set.max_attempts = *most,
        Change::MaxCrashes(most) => set.max_crashes = *most,
        Change::MaxDead(most) => set.max_dead = *most,
        change => apply_to_facet(&mut set.facets, change),
    }
}

/// Count, period in ms, and burst.
fn parts(rate: Rate) -> (f64, f64, f64) {
    (rate.count.into(), rate.period.as_millis() as f64, rate.burst.into())
}

fn at(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

fn pair(a: &'static str, b: &'static str) -> (&'static str, &'static str) {
    if a < b { (a, b) } else { (b, a) }
}

#[derive(Debug, Clone)]
struct Model {
    now: u64,
    seq: u64,
    queues: [Queue; 2],
    /// Facet and key of a delivery: until when that holds, the id of the first, and its queues.
    keys: BTreeMap<(usize, u8), (u64, u64, Vec<&'static str>)>,
    /// The first number that the last delivery has drawn.
    drawn: u64,
    /// Queue and message of each token that was ever given.
    tokens: Vec<(usize, u64)>,
    outcome: Outcome,
}

type Receipts = Vec<(u64, Vec<&'static str>, bool)>;

impl Model {
    fn holds(&self, token: usize) -> bool {
        let (queue, id) = self.tokens[token];
        self.queues[queue].leased.get(&id).is_some_and(|leased| leased.token == token)
    }

    /// Delivers, or nothing of it, when a queue refuses something.
    fn deliver(&mut self, messages: &[New]) -> Option<Receipts> {
        let (before, now) = (self.clone(), self.now);
        let mut delivered = Vec::new();
        self.drawn = self.seq + 1;
        for new in messages {
            self.seq += 1;
            let key = new.key.map(|key| (new.facet, key));
            if let Some((_, id, queues)) =
                key.and_then(|key| self.keys.get(&key)).filter(|(until, ..)| *until > now)
            {
                delivered.push((*id, queues.clone(), true));
                continue;
            }
            let mut names = Vec::new();
            for (queue, name) in self.queues.iter_mut().zip(QUEUES) {
                if queue.route.is_some_and(|pattern| matches(pattern, new.topic)) {
                    let message = Message {
                        id: self.seq,
                        attempts: 0,
                        crashes: 0,
                        delivered_at: now,
                        cost: new.cost.map_or(1.0, |cost| COSTS[cost]),
                        expires: new.ttl.map(|ttl| now + ttl),
                        from: now + new.delay.unwrap_or_default(),
                        failed: false,
                    };
                    let due = new.delay.filter(|delay| *delay > 0).map(|delay| now + delay);
                    queue.deliver(FACETS[new.facet], message, due);
                    names.push(name);
                }
            }
            if let Some(key) = key {
                self.keys.insert(key, (now + WINDOW, self.seq, names.clone()));
            }
            delivered.push((self.seq, names, false));
        }
        // Which queues refuse messages, as if these came one after the other.
        let (mut rooms, mut refused) = (BTreeMap::new(), [0, 0]);
        for (new, (_, _, duplicate)) in messages.iter().zip(&delivered) {
            let mut refuses = [false, false];
            let goes = |place: usize| {
                let route = before.queues[place].route;
                !duplicate && route.is_some_and(|pattern| matches(pattern, new.topic))
            };
            let waits = new.delay.is_none_or(|delay| delay == 0);
            for place in [0, 1].into_iter().filter(|place| goes(*place)) {
                let (queue, facet) = (&before.queues[place], FACETS[new.facet]);
                let set = queue.set(facet);
                let most =
                    set.max_waiting.filter(|_| queue.own.overflow == Overflow::Refuse && waits);
                let room = most.map(|most| {
                    let waiting = queue.waiting.get(facet).map_or(0, VecDeque::len) as i64;
                    *rooms.entry((place, facet)).or_insert(most as i64 - waiting)
                });
                refuses[place] = set.intake_paused || room.is_some_and(|room| room < 1);
                refused[place] += u64::from(refuses[place]);
            }
            for place in [0, 1] {
                if goes(place) && waits && refuses == [false, false] {
                    rooms.entry((place, FACETS[new.facet])).and_modify(|room| *room -= 1);
                }
            }
        }
        if refused != [0, 0] {
            *self = before;
            for (queue, refused) in self.queues.iter_mut().zip(refused) {
                queue.totals[REFUSED] += refused;
            }
            return None;
        }
        for (queue, was) in self.queues.iter_mut().zip(before.queues) {
            let buried = queue.totals[DIED];
            for facet in FACETS {
                let came = queue.waiting.get(facet).map_or(0, VecDeque::len)
                    - was.waiting.get(facet).map_or(0, VecDeque::len);
                let most = queue.set(facet).max_waiting;
                let most = most.filter(|_| queue.own.overflow == Overflow::DropOldest && came > 0);
                let Some(most) = most else { continue };
                while queue.waiting[facet].len() as u64 > most {
                    let oldest = queue.waiting.get_mut(facet).unwrap().pop_front().unwrap();
                    queue.bury(facet, oldest, Death::Overflow, now);
                }
            }
            if queue.totals[DELIVERED] > was.totals[DELIVERED] {
                queue.close(now);
            }
            if queue.totals[DIED] > buried {
                queue.trim();
            }
        }
        Some(delivered)
    }

    fn lease(&mut self, place: usize, most: usize, length: u64) -> Outcome {
        let queue = &mut self.queues[place];
        let taken = queue.take(self.now, most, true);
        if taken.is_empty() {
            return if queue.exists() { Outcome::Taken(Vec::new()) } else { Outcome::NoSuchQueue };
        }
        let mut served = Vec::new();
        for (i, (facet, message)) in taken.into_iter().enumerate() {
            // A part of a call is a lease.
            self.seq += u64::from(i % 250 == 0);
            let lease = format!("{}{:06}", self.now, self.seq % 1_000_000);
            let token = self.tokens.len();
            self.tokens.push((place, message.id));
            served.push(Served { facet, id: message.id, attempt: message.attempts + 1 });
            let ends = self.now + length;
            queue.leased.insert(message.id, Leased { facet, message, token, lease, ends });
        }
        Outcome::Taken(served)
    }

    /// Gives a message back, and holds its facet where that is said.
    fn give_back(&mut self, token: usize, back: Back, hold: Option<u64>) -> Outcome {
        let (lost, now) = (self.chosen(&[token]), self.now);
        let Some(token) = lost.first().copied().filter(|token| self.holds(*token)) else {
            return Outcome::Lost(lost);
        };
        let (queue, id) = self.tokens[token];
        let queue = &mut self.queues[queue];
        let (facet, buried) = (queue.leased[&id].facet, queue.totals[DIED]);
        queue.release(id, back, now);
        if let Some(ms) = hold {
            let until = queue.timers.entry(format!("h{facet}")).or_default();
            *until = until.max((now + ms) as f64);
            queue.park(facet, now);
        }
        queue.close(now);
        if queue.totals[DIED] > buried {
            queue.trim();
        }
        Outcome::Lost(Vec::new())
    }

    fn step(&mut self, step: &Step) -> Outcome {
        let now = self.now;
        let back = Back { counted: true, crashed: false, failed: false, last: false, due: None };
        match step {
            Step::Deliver { messages, .. } => match self.deliver(messages) {
                Some(delivered) => Outcome::Delivered { delivered },
                None => Outcome::Refused,
            },
            Step::Pull { queue, most } => {
                let queue = &mut self.queues[*queue];
                let taken = queue.take(now, *most, false);
                if taken.is_empty() && !queue.exists() {
                    return Outcome::NoSuchQueue;
                }
                let served =
                    |(facet, message): (_, Message)| Served { facet, id: message.id, attempt: 0 };
                Outcome::Taken(taken.into_iter().map(served).collect())
            }
            Step::Lease { queue, most, length } => self.lease(*queue, *most, *length),
            Step::LeaseInOrder { reversed, most, length } => {
                let mut outcome = Outcome::Taken(Vec::new());
                for queue in if *reversed { [1, 0] } else { [0, 1] } {
                    match self.lease(queue, *most, *length) {
                        Outcome::Taken(taken) if taken.is_empty() => {}
                        Outcome::NoSuchQueue => outcome = Outcome::NoSuchQueue,
                        taken => return taken,
                    }
                }
                outcome
            }
            Step::Wait { queue: place, messages, length } => {
                let queue = &self.queues[*place];
                let due = queue.times().first().is_some_and(|(time, _)| *time <= now as f64);
                if queue.servable() || due || !queue.exists() {
                    return self.lease(*place, 1, *length);
                }
                let Some(delivered) = self.clone().deliver(messages) else {
                    return self.lease(*place, 1, *length);
                };
                self.deliver(messages);
                let Outcome::Taken(taken) = self.lease(*place, 1, *length) else { unreachable!() };
                Outcome::Waited { delivered, taken }
            }
            Step::Peek { queue, most } => {
                let mut queue = self.queues[*queue].clone();
                if !queue.exists() {
                    return Outcome::NoSuchQueue;
                }
                queue.own.facets.paused = false;
                let taken = queue.take(now, (*most).min(250), true).into_iter();
                let served = |(facet, message): (_, Message)| Served {
                    facet,
                    id: message.id,
                    attempt: message.attempts,
                };
                Outcome::Taken(taken.map(served).collect())
            }
            Step::Look { queue } => {
                let queue = &self.queues[*queue];
                if !queue.exists() {
                    return Outcome::NoSuchQueue;
                }
                let facets = FACETS.into_iter().filter(|facet| queue.known(facet));
                Outcome::Looked {
                    stats: queue.stats(),
                    facets: facets.map(|facet| (facet, queue.facet(facet, now))).collect(),
                }
            }
            Step::SetPaused { queue, facet, paused } => {
                let queue = &mut self.queues[*queue];
                let Some(facet) = facet.map(|facet| FACETS[facet]) else {
                    queue.own.facets.paused = *paused;
                    return Outcome::Nothing;
                };
                let mut set = queue.settings.remove(facet).unwrap_or_default();
                let was = std::mem::replace(&mut set.paused, *paused);
                if set != FacetSettings::default() {
                    queue.settings.insert(facet, set);
                }
                if was != *paused {
                    queue.decide(facet, queue.weight(facet), now);
                }
                Outcome::Nothing
            }
            Step::Configure { queue, facet, change } => {
                let queue = &mut self.queues[*queue];
                if !queue.exists() {
                    return Outcome::NoSuchQueue;
                }
                queue.configure(facet.map(|facet| FACETS[facet]), change, now);
                Outcome::Nothing
            }
            Step::Redrive { queue, facet } => {
                let queue = &mut self.queues[*queue];
                if !queue.exists() {
                    return Outcome::NoSuchQueue;
                }
                Outcome::Count(queue.redrive(facet.map(|facet| FACETS[facet]), now))
            }
            Step::DeadLetters { queue, facet, purge } => {
                let queue = &mut self.queues[*queue];
                if !queue.exists() {
                    return Outcome::NoSuchQueue;
                }
                let facet = facet.map(|facet| FACETS[facet]);
                let of = |letter: &Letter| facet.is_none_or(|facet| letter.facet == facet);
                if *purge {
                    let before = queue.letters.len();
                    queue.letters.retain(|_, letter| !of(letter));
                    let count = (before - queue.letters.len()) as u64;
                    queue.totals[PURGED] += count;
                    queue.forget();
                    return Outcome::Count(count);
                }
                let letters = queue.letters.iter().filter(|(_, letter)| of(letter));
                let dead = letters.map(|(id, Letter { facet, death, message, .. })| {
                    let Message { attempts, crashes, failed, .. } = message;
                    (*id, (*facet, *attempts, *crashes, *death, *failed))
                });
                Outcome::Dead(dead.collect())
            }
            Step::Purge { queue, facet } => {
                let queue = &mut self.queues[*queue];
                if !queue.exists() {
                    return Outcome::NoSuchQueue;
                }
                Outcome::Count(queue.purge(FACETS[*facet]))
            }
            Step::Remove { queue, facet, back } => {
                let id = self.removed(*back);
                let queue = &mut self.queues[*queue];
                if !queue.exists() {
                    return Outcome::NoSuchQueue;
                }
                match queue.remove(FACETS[*facet], id) {
                    true => Outcome::Nothing,
                    false => Outcome::NoSuchMessage,
                }
            }
            Step::Destroy { queue } => {
                self.queues[*queue] = Queue::default();
                Outcome::Nothing
            }
            Step::Ack { tokens } => {
                let mut lost = Vec::new();
                // A token that is named twice is settled once, by its last place.
                for token in self.chosen(tokens).into_iter().rev() {
                    let (queue, id) = self.tokens[token];
                    if self.holds(token) {
                        self.queues[queue].ack(id);
                    } else {
                        lost.insert(0, token);
                    }
                }
                self.queues.iter_mut().for_each(|queue| queue.close(now));
                Outcome::Lost(lost)
            }
            Step::AckCost { token, cost } => {
                let lost = self.chosen(&[*token]);
                let Some(token) = lost.first().copied().filter(|token| self.holds(*token)) else {
                    return Outcome::Lost(lost);
                };
                let (queue, id) = self.tokens[token];
                let queue = &mut self.queues[queue];
                let Leased { facet, message, .. } = &queue.leased[&id];
                queue.charges.insert(facet, COSTS[*cost] - message.cost);
                queue.ack(id);
                queue.close(now);
                Outcome::Lost(Vec::new())
            }
            Step::Nack { token } => self.give_back(*token, back, None),
            Step::NackAfter { token, ms } => {
                self.give_back(*token, Back { due: Some(now + ms), ..back }, None)
            }
            Step::Fail { token, last } => {
                // Of a backoff of 100 ms: the tests have no jitter.
                let held =
                    self.chosen(&[*token]).first().copied().filter(|token| self.holds(*token));
                let due = held.map(|token| {
                    let (queue, id) = self.tokens[token];
                    let attempts = self.queues[queue].leased[&id].message.attempts;
                    let wait = (1000 << attempts.min(20)).min(600_000);
                    now + wait / 2
                });
                self.give_back(*token, Back { due, failed: true, last: *last, ..back }, None)
            }
            Step::HoldFacet { token, ms } => {
                self.give_back(*token, Back { counted: false, ..back }, Some(*ms))
            }
            Step::Extend { token, length } => {
                let mut lost = self.chosen(&[*token]);
                if let Some(token) = lost.pop_if(|token| self.holds(*token)) {
                    let (queue, id) = self.tokens[token];
                    let (leases, _) = self.queues[queue].leases();
                    let leased = self.queues[queue].leased.get_mut(&id).unwrap();
                    leased.ends = now + length;
                    if leases[&leased.lease].len() > 1 {
                        leased.lease += &format!("/{id}");
                    }
                }
                Outcome::Lost(lost)
            }
            Step::Pass { ms } => {
                self.now += ms;
                Outcome::Nothing
            }
            Step::SetWeight { queue, facet, weight } => {
                let queue = &mut self.queues[*queue];
                if !queue.exists() {
                    return Outcome::NoSuchQueue;
                }
                let (facet, weight) = (FACETS[*facet], WEIGHTS[*weight]);
                let old = queue.weight(facet);
                let before = queue.settings.entry(facet).or_default().weight.replace(weight);
                queue.weighted |= weight != 1.0;
                if before != Some(weight) {
                    queue.decide(facet, old, now);
                }
                Outcome::Nothing
            }
            Step::Register { queue, pattern } => {
                self.queues[*queue].route = Some(*pattern);
                Outcome::Nothing
            }
            Step::Unregister { queue } => Outcome::Was(self.queues[*queue].route.take().is_some()),
        }
    }

    /// The message that a step removes: one of the last numbers that were drawn.
    fn removed(&self, back: u64) -> u64 {
        self.seq.saturating_sub(back).max(1)
    }

    /// The tokens that a step means, among those there are.
    fn chosen(&self, tokens: &[usize]) -> Vec<usize> {
        match self.tokens.len() {
            0 => Vec::new(),
            // The latest ones above all: they are likely to be held.
            there => tokens.iter().map(|token| there - 1 - token % there).collect(),
        }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let queue = |route| Queue { route, ..Queue::default() };
        Just(Self {
            now: START,
            seq: 0,
            queues: [queue(Some(0)), queue(None)],
            keys: BTreeMap::new(),
            drawn: 0,
            tokens: Vec::new(),
            outcome: Outcome::Nothing,
        })
        .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        // A loud facet, some quiet ones; a queue that is used more than the other.
        let facet = || prop_oneof![3 => Just(0), 2 => 0..FACETS.len()];
        let queue = || prop_oneof![3 => Just(0usize), 1 => Just(1usize)];
        let most = || prop_oneof![4 => Just(1usize), 2 => 2..12usize, 1 => Just(600usize)];
        let length = || prop_oneof![1..40u64, Just(30_000u64)];
        let new = || {
            let cost = prop::option::weighted(0.2, 0..COSTS.len());
            let delay = prop::option::weighted(0.1, 0..60u64);
            // Longer than its delay.
            let ttl = prop::option::weighted(0.15, prop_oneof![60..100u64, Just(100_000u64)]);
            let key = prop::option::weighted(0.1, 0..3u8);
            (facet(), 0..TOPICS.len(), cost, delay, ttl, key).prop_map(
                |(facet, topic, cost, delay, ttl, key)| New { facet, topic, cost, delay, ttl, key },
            )
        };
        // Most of the time such as need none of all this.
        let plain = || {
            (facet(), 0..TOPICS.len()).prop_map(|(facet, topic)| {
                let (cost, delay, ttl, key) = (None, None, None, None);
                New { facet, topic, cost, delay, ttl, key }
            })
        };
        let messages = || prop_oneof![2 => prop::collection::vec(plain(), 1..9), 1 => prop::collection::vec(new(), 1..9)];
        let change = || {
            let rate = (1..4u32, 1..60u64, 1..4u32);
            prop_oneof![
                4 => prop::option::weighted(0.7, 1..4u32).prop_map(Change::MaxLeased),
                4 => prop::option::weighted(0.7, rate).prop_map(Change::Rate),
                2 => prop::option::weighted(0.5, 1..9u64).prop_map(Change::MaxWaiting),
                1 => prop::bool::weighted(0.3).prop_map(Change::IntakePaused),
                1 => prop::bool::ANY.prop_map(Change::DropOldest),
                1 => prop::option::weighted(0.5, 1..100u64).prop_map(Change::Ttl),
                1 => prop::bool::ANY.prop_map(Change::BuryExpired),
                1 => (1..6u32).prop_map(Change::MaxAttempts),
                1 => (1..4u32).prop_map(Change::MaxCrashes),
                1 => prop::option::weighted(0.7, 1..5u64).prop_map(Change::MaxDead),
            ]
        };
        let some = || prop::option::weighted(0.5, facet());
        let token = || 0..8usize;
        prop_oneof![
            12 => (0..2usize, messages()).prop_map(|(broker, messages)| Step::Deliver { broker, messages }),
            8 => (queue(), most()).prop_map(|(queue, most)| Step::Pull { queue, most }),
            12 => (queue(), most(), length()).prop_map(|(queue, most, length)| Step::Lease { queue, most, length }),
            4 => (prop::bool::ANY, most(), length())
                .prop_map(|(reversed, most, length)| Step::LeaseInOrder { reversed, most, length }),
            6 => prop::collection::vec(0..12usize, 1..5).prop_map(|tokens| Step::Ack { tokens }),
            3 => (token(), 0..COSTS.len()).prop_map(|(token, cost)| Step::AckCost { token, cost }),
            5 => token().prop_map(|token| Step::Nack { token }),
            2 => (token(), 1..60u64).prop_map(|(token, ms)| Step::NackAfter { token, ms }),
            3 => (token(), prop::bool::weighted(0.3)).prop_map(|(token, last)| Step::Fail { token, last }),
            2 => (token(), 1..60u64).prop_map(|(token, ms)| Step::HoldFacet { token, ms }),
            4 => (token(), length()).prop_map(|(token, length)| Step::Extend { token, length }),
            7 => prop_oneof![9 => 0..50u64, 1 => Just(2000u64)].prop_map(|ms| Step::Pass { ms }),
            2 => (queue(), facet(), 0..WEIGHTS.len())
                .prop_map(|(queue, facet, weight)| Step::SetWeight { queue, facet, weight }),
            4 => (queue(), prop::option::weighted(0.8, facet()), prop::bool::weighted(0.4))
                .prop_map(|(queue, facet, paused)| Step::SetPaused { queue, facet, paused }),
            6 => (queue(), some(), change())
                .prop_map(|(queue, facet, change)| Step::Configure { queue, facet, change }),
            2 => (queue(), some()).prop_map(|(queue, facet)| Step::Redrive { queue, facet }),
            3 => (queue(), some(), prop::bool::weighted(0.3))
                .prop_map(|(queue, facet, purge)| Step::DeadLetters { queue, facet, purge }),
            1 => (queue(), facet()).prop_map(|(queue, facet)| Step::Purge { queue, facet }),
            3 => (queue(), facet(), 0..12u64).prop_map(|(queue, facet, back)| Step::Remove { queue, facet, back }),
            4 => (queue(), messages(), length())
                .prop_map(|(queue, messages, length)| Step::Wait { queue, messages, length }),
            6 => (queue(), most()).prop_map(|(queue, most)| Step::Peek { queue, most }),
            3 => queue().prop_map(|queue| Step::Look { queue }),
            1 => prop::bool::weighted(0.5).prop_map(|both| Step::Destroy { queue: usize::from(both) }),
            3 => (queue(), 0..PATTERNS.len()).prop_map(|(queue, pattern)| Step::Register { queue, pattern }),
            1 => queue().prop_map(|queue| Step::Unregister { queue }),
        ]
        .boxed()
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        state.outcome = state.step(step);
        state
    }
}

/// How the scripts of a run are broken, if they are.
trait Breach: 'static {
    const SCRIPT: &'static str = "pull";
    const FROM: &'static str = "";
    const TO: &'static str = "";
}

struct Sound;
impl Breach for Sound {}

struct Real<B> {
    space: Space,
    /// Two clients, each with routes of its own.
    brokers: [Broker; 2],
    /// On all topics, and on one.
    listeners: [Listener; 2],
    tokens: Vec<Token>,
    _breach: std::marker::PhantomData<B>,
}

impl<B: Breach> Real<B> {
    async fn new() -> Self {
        let change = |text: String| {
            assert!(text.contains(B::FROM), "there is nothing to break");
            text.replace(B::FROM, B::TO)
        };
        // No lot is drawn for the backoff.
        let sure = |text: String| text.replace("share = tonumber(ARGV[3])", "share = 0 * ARGV[3]");
        let space = Space::with(|builder| builder.script(B::SCRIPT, change).script("fail", sure));
        let space = space.await;
        space.broker.register_queue(QUEUES[0], PATTERNS[0]).await.unwrap();
        let brokers = [space.broker.clone(), space.another().await];
        space.may_hear(&[TOPICS[0]]).await;
        let listener = async |glob: &str| brokers[1].listen(glob).await.unwrap();
        let listeners = [listener("*").await, listener(TOPICS[0]).await];
        Self { space, brokers, listeners, tokens: Vec::new(), _breach: std::marker::PhantomData }
    }

    async fn step(&mut self, model: &Model, step: &Step) {
        let broker = &self.brokers[0];
        // The tokens that were there before the step.
        let chosen = |tokens: &[usize]| {
            model
                .chosen(tokens)
                .into_iter()
                .map(|token| self.tokens[token].clone())
                .collect::<Vec<_>>()
        };
        let outcome = match step {
            Step::Deliver { broker, messages } => {
                let delivered = deliver(&self.brokers[*broker], model, messages).await;
                if let Outcome::Delivered { delivered } = &delivered {
                    hear(&mut self.listeners, delivered, messages).await;
                }
                delivered
            }
            Step::Pull { queue, most } => match broker.queue(QUEUES[*queue]).pull_many(*most).await
            {
                Ok(messages) => Outcome::Taken(
                    messages.into_iter().map(|message| served(&message.unwrap(), 0)).collect(),
                ),
                Err(Error::NoSuchQueue(_)) => Outcome::NoSuchQueue,
                Err(error) => panic!("{error}"),
            },
            Step::Lease { queue, most, length } => {
                let lease = broker.queue(QUEUES[*queue]).lease_many(*most);
                let leased = lease.lasting(Duration::from_millis(*length)).await;
                self.leased(leased)
            }
            Step::LeaseInOrder { reversed, most, length } => {
                let mut names = QUEUES;
                if *reversed {
                    names.reverse();
                }
                let lease = broker.in_order(names).lease_many(*most);
                let leased = lease.lasting(Duration::from_millis(*length)).await;
                self.leased(leased)
            }
            Step::Wait { queue, messages, length } => {
                let lease = broker.queue(QUEUES[*queue]).lease_many(1);
                let lease = lease.lasting(Duration::from_millis(*length));
                if let Outcome::Waited { taken, .. } = &model.outcome {
                    let longest = if taken.is_empty() { 10 } else { 10_000 };
                    let waiting =
                        tokio::spawn(lease.wait(Duration::from_millis(longest)).into_future());
                    tokio::time::sleep(Duration::from_millis(model.seq % 3)).await;
                    let delivered = deliver(&self.brokers[1], model, messages).await;
                    let Outcome::Delivered { delivered } = delivered else { unreachable!() };
                    hear(&mut self.listeners, &delivered, messages).await;
                    let Outcome::Taken(taken) = self.leased(waiting.await.unwrap()) else {
                        unreachable!()
                    };
                    Outcome::Waited { delivered, taken }
                } else {
                    let leased = lease.await;
                    self.leased(leased)
                }
            }
            Step::Peek { queue, most } => match broker.queue(QUEUES[*queue]).peek(*most).await {
                Ok(peeked) => {
                    let served = peeked.into_iter().map(|peeked| {
                        let message = peeked.message.unwrap();
                        assert_eq!(peeked.facet, message["facet"]);
                        assert_eq!(peeked.topic, message["topic"]);
                        assert_eq!(peeked.id.to_string(), message["n"].to_string());
                        served(&message, peeked.attempts)
                    });
                    Outcome::Taken(served.collect())
                }
                Err(Error::NoSuchQueue(_)) => Outcome::NoSuchQueue,
                Err(error) => panic!("{error}"),
            },
            Step::Look { queue } => {
                let queue = broker.queue(QUEUES[*queue]);
                match queue.stats().await {
                    Ok(stats) => {
                        let mut facets = BTreeMap::new();
                        let mut from = Some(Cursor::default());
                        while let Some(cursor) = from {
                            let (page, next) = queue.facets(cursor).await.unwrap();
                            for found in page {
                                let why = queue.facet(&found.facet).why().await.unwrap();
                                assert_eq!(why.stats, found);
                                let (name, found) = looked(found, why.gate);
                                assert!(facets.insert(name, found).is_none(), "listed twice");
                            }
                            from = next;
                        }
                        Outcome::Looked { stats: counted(&stats), facets }
                    }
                    Err(Error::NoSuchQueue(_)) => Outcome::NoSuchQueue,
                    Err(error) => panic!("{error}"),
                }
            }
            Step::SetPaused { queue, facet, paused } => {
                let queue = broker.queue(QUEUES[*queue]);
                match (facet.map(|facet| queue.facet(FACETS[facet])), paused) {
                    (Some(facet), true) => facet.pause().await.unwrap(),
                    (Some(facet), false) => facet.resume().await.unwrap(),
                    (None, true) => queue.pause().await.unwrap(),
                    (None, false) => queue.resume().await.unwrap(),
                }
                Outcome::Nothing
            }
            Step::Destroy { queue } => {
                broker.queue(QUEUES[*queue]).destroy().await.unwrap();
                Outcome::Nothing
            }
            Step::Ack { tokens } => {
                let lost = broker.ack_all(chosen(tokens)).await.unwrap();
                let place =
                    |lost: &Token| self.tokens.iter().position(|token| token == lost).unwrap();
                Outcome::Lost(lost.iter().map(place).collect())
            }
            Step::Nack { token } => {
                self.each(model, *token, async |token| broker.nack(&token).await).await
            }
            Step::NackAfter { token, ms } => {
                let time = Duration::from_millis(*ms);
                self.each(model, *token, async |token| broker.nack_after(&token, time).await).await
            }
            Step::Fail { token, last: false } => {
                self.each(model, *token, async |token| broker.fail(&token, "it was due").await)
                    .await
            }
            Step::Fail { token, last: true } => {
                self.each(model, *token, async |token| broker.bury(&token, "it was due").await)
                    .await
            }
            Step::HoldFacet { token, ms } => {
                let time = Duration::from_millis(*ms);
                self.each(model, *token, async |token| broker.hold_facet(&token, time).await).await
            }
            Step::AckCost { token, cost } => {
                let cost = COSTS[*cost];
                self.each(model, *token, async |token| broker.ack_cost(&token, cost).await).await
            }
            Step::Extend { token, length } => {
                let length = Duration::from_millis(*length);
                let extend = async |token| broker.extend(&token, length).await.map(drop);
                self.each(model, *token, extend).await
            }
            Step::Configure { queue, facet, change } => {
                let queue = broker.queue(QUEUES[*queue]);
                let configured = match facet {
                    Some(facet) => {
                        let facet = queue.facet(FACETS[*facet]);
                        facet.configure(|set| apply_to_facet(set, change)).await
                    }
                    None => queue.configure(|set| apply_to_queue(set, change)).await,
                };
                outcome(configured.map(|()| Outcome::Nothing))
            }
            Step::Redrive { queue, facet } => {
                let letters = broker.queue(QUEUES[*queue]).dead_letters();
                let redriven = match facet {
                    Some(facet) => letters.of(FACETS[*facet]).redrive().await,
                    None => letters.redrive().await,
                };
                outcome(redriven.map(Outcome::Count))
            }
            Step::DeadLetters { queue, facet, purge } => {
                let mut letters = broker.queue(QUEUES[*queue]).dead_letters();
                if let Some(facet) = facet {
                    letters = letters.of(FACETS[*facet]);
                }
                if *purge {
                    outcome(letters.purge().await.map(Outcome::Count))
                } else {
                    outcome(dead(&letters).await.map(Outcome::Dead))
                }
            }
            Step::Purge { queue, facet } => {
                let facet = broker.queue(QUEUES[*queue]).facet(FACETS[*facet]);
                outcome(facet.purge().await.map(Outcome::Count))
            }
            Step::Remove { queue, facet, back } => {
                let facet = broker.queue(QUEUES[*queue]).facet(FACETS[*facet]);
                let id = model.removed(*back).to_string().parse().unwrap();
                outcome(facet.remove(id).await.map(|()| Outcome::Nothing))
            }
            Step::Pass { ms } => {
                self.space.clock.advance(Duration::from_millis(*ms));
                Outcome::Nothing
            }
            Step::SetWeight { queue, facet, weight } => {
                let facet = broker.queue(QUEUES[*queue]).facet(FACETS[*facet]);
                outcome(facet.set_weight(WEIGHTS[*weight]).await.map(|()| Outcome::Nothing))
            }
            Step::Register { queue, pattern } => {
                broker.register_queue(QUEUES[*queue], PATTERNS[*pattern]).await.unwrap();
                Outcome::Nothing
            }
            Step::Unregister { queue } => {
                Outcome::Was(broker.unregister_queue(QUEUES[*queue]).await.unwrap())
            }
        };
        assert_eq!(outcome, model.outcome, "what came back, and what should have");
    }

    /// Settles the tokens that a step means, and says which were lost.
    async fn each(
        &self,
        model: &Model,
        token: usize,
        settle: impl AsyncFn(Token) -> fairlane::Result<()>,
    ) -> Outcome {
        let mut lost = Vec::new();
        for place in model.chosen(&[token]) {
            match settle(self.tokens[place].clone()).await {
                Err(Error::LeaseLost(_)) => lost.push(place),
                result => result.unwrap(),
            }
        }
        Outcome::Lost(lost)
    }

    /// Keeps the tokens of what was leased.
    fn leased(&mut self, leased: fairlane::Result<Vec<Delivery>>) -> Outcome {
        match leased {
            Ok(deliveries) => {
                self.tokens.extend(deliveries.iter().map(|delivery| delivery.token().clone()));
                let served = deliveries.iter().map(|delivery| {
                    let message = delivery.message().unwrap();
                    assert_eq!(delivery.facet(), message["facet"]);
                    assert_eq!(delivery.topic(), message["topic"]);
                    served(message, delivery.attempt().get())
                });
                Outcome::Taken(served.collect())
            }
            Err(Error::NoSuchQueue(_)) => Outcome::NoSuchQueue,
            Err(error) => panic!("{error}"),
        }
    }

    /// Compares all that is stored.
    async fn check(&self, model: &Model) {
        for (queue, name) in model.queues.iter().zip(QUEUES) {
            let key = |key: &str| self.space.of(name, key);
            let mut all = redis::pipe();
            all.cmd("ZRANGE").arg(key("ready")).arg(0).arg(-1).arg("WITHSCORES");
            all.cmd("ZRANGE").arg(key("idle")).arg(0).arg(-1).arg("WITHSCORES");
            all.cmd("ZRANGE").arg(key("parked")).arg(0).arg(-1).arg("WITHSCORES");
            all.cmd("HGETALL").arg(key("clock"));
            all.cmd("ZRANGE").arg(key("timers")).arg(0).arg(-1).arg("WITHSCORES");
            all.cmd("HGETALL").arg(key("held"));
            all.cmd("HKEYS").arg(key("letters"));
            all.cmd("ZRANGE").arg(key("dead")).arg(0).arg(-1).arg("WITHSCORES");
            all.cmd("HKEYS").arg(key("settings"));
            type Names = BTreeSet<String>;
            type All = (Turns, Turns, Turns, Turns, Turns, Turns, BTreeSet<u64>, Turns, Names);
            let stored: All = all.query_async(&mut support::raw().await).await.unwrap();
            let (ready, idle, parked, clock, timers, held, letters, dead, settings) = stored;
            let of_queue = (queue.own != QueueSettings::default()).then_some("");
            let set = queue.settings.keys().copied().chain(of_queue).map(str::to_owned);
            assert_eq!(settings, set.collect(), "settings of {name}");
            let own = |turns: &BTreeMap<&str, f64>| -> Turns {
                turns.iter().map(|(facet, turn)| (facet.to_string(), *turn)).collect()
            };
            let turns = |stored: Turns| -> Turns {
                stored.into_iter().map(|(facet, turn)| (facet, turn / TURN)).collect()
            };
            assert_eq!(turns(ready), own(&queue.ready), "ready of {name}");
            assert_eq!(turns(idle), own(&queue.idle), "idle of {name}");
            assert_eq!(turns(parked), own(&queue.parked), "parked of {name}");
            let of = FACETS.into_iter().map(|facet| (facet, queue.leased_of(facet) as f64));
            let of = of.chain([("", queue.leased.len() as f64)]);
            assert_eq!(held, own(&of.filter(|(_, n)| *n > 0.0).collect()), "held of {name}");
            assert_eq!(letters, queue.letters.keys().copied().collect(), "letters of {name}");
            let died = queue.letters.values().map(|letter| (letter.facet, letter.died as f64));
            let mut oldest = BTreeMap::new();
            for (facet, died) in died {
                let first = oldest.entry(facet).or_insert(died);
                *first = died.min(*first);
            }
            assert_eq!(dead, own(&oldest), "dead of {name}");
            let ([waiting, _, delayed, _], _, _, totals) = queue.stats();
            let holds = queue.timers.keys().filter(|name| name.starts_with('h')).count();
            let counts = [waiting, delayed, holds as u64].map(|count| count as f64);
            let counts = counts.into_iter().chain(totals.map(|count| count as f64));
            let names = ["waiting", "delayed", "holds"].into_iter().chain(TOTALS);
            let (floor, arrival) = (queue.floor * TURN, queue.arrival * TURN);
            let times = [("floor", floor), ("arrival", arrival), ("early", queue.early)];
            let fields = times.into_iter().chain(names.zip(counts));
            let of = |clock: &Turns, field| clock.get(field).copied().unwrap_or_default();
            for (field, expected) in fields {
                assert_eq!(of(&clock, field), expected, "{field} of {name}");
            }
            // Where something is due in a while, somebody may have been told to look.
            if queue.servable() {
                self.check_marker(&key("wake")).await;
            }
            let (leases, _) = queue.leases();
            let times = queue.times().into_iter().map(|(time, name)| (name, time));
            assert_eq!(timers, times.collect(), "timers of {name}");
            for (lease, ids) in leases {
                let mut stored: Vec<String> =
                    support::run(&["HKEYS", &key(&format!("l:{lease}"))]).await;
                stored.sort_unstable();
                // A facet and a message of each.
                let mut expected: Vec<_> =
                    ids.iter().flat_map(|id| [id.to_string(), format!("m{id}")]).collect();
                expected.sort_unstable();
                assert_eq!(stored, expected, "lease {lease} of {name}");
            }
            let mut lists = redis::pipe();
            for facet in FACETS {
                lists.cmd("LRANGE").arg(key(&format!("f:{facet}"))).arg(0).arg(-1);
                lists.cmd("ZRANGE").arg(key(&format!("s:{facet}"))).arg(0).arg(-1);
                lists.cmd("ZRANGE").arg(key(&format!("d:{facet}"))).arg(0).arg(-1);
            }
            let lists: Vec<Vec<String>> =
                lists.query_async(&mut support::raw().await).await.unwrap();
            for (lists, facet) in lists.chunks(3).zip(FACETS) {
                let stored = |list: &[String]| -> Vec<String> {
                    let heads = list.iter().map(|message| {
                        let two: Vec<_> =
                            message.trim_start_matches('0').split(' ').take(2).collect();
                        two.join(" ")
                    });
                    heads.collect()
                };
                let head = |message: &Message| format!("{} {}", message.id, message.attempts);
                let waiting: Vec<_> =
                    queue.waiting.get(facet).into_iter().flatten().map(head).collect();
                assert_eq!(stored(&lists[0]), waiting, "list of {facet:?} on {name}");
                let delayed = queue.delayed.get(facet).into_iter().flatten();
                let delayed: Vec<_> = delayed.map(|(_, message)| head(message)).collect();
                assert_eq!(stored(&lists[1]), delayed, "delayed of {facet:?} on {name}");
                let dead = queue.dead_of(facet);
                let dead: Vec<_> = dead.iter().map(|id| format!("{id:016}")).collect();
                assert_eq!(lists[2], dead, "dead of {facet:?} on {name}");
            }
        }
    }

    /// The marker is there while something can be served. One who gave up may have it in the hand,
    /// and gives it back.
    async fn check_marker(&self, key: &str) {
        let from = Instant::now();
        let mut there = false;
        while !there && from.elapsed() < Duration::from_secs(2) {
            there = support::run(&["EXISTS", key]).await;
        }
        let expected = true;
        assert_eq!(there, expected, "whether the marker is there");
    }

    /// Works off all that is left, and checks that nothing stays behind.
    async fn end(self, mut model: Model) {
        for (queue, name) in model.queues.iter().zip(QUEUES) {
            let found = self.space.broker.queue(name).doctor().await;
            match queue.exists() {
                true => assert_eq!(found.unwrap(), [], "what the doctor finds on {name}"),
                false => assert!(matches!(found, Err(Error::NoSuchQueue(_)))),
            }
        }
        self.space.clock.advance(Duration::from_secs(3600));
        model.now += 3_600_000;
        for (queue, name) in model.queues.iter_mut().zip(QUEUES) {
            let real = self.space.broker.register_queue(name, "^$").await.unwrap();
            let default = |set: &mut FacetSettings| *set = FacetSettings::default();
            real.configure(|set| *set = QueueSettings::default()).await.unwrap();
            for facet in FACETS {
                real.facet(facet).configure(default).await.unwrap();
            }
            // What is served from here on has its own test: here it is that nothing stays behind.
            let mut ids = BTreeSet::new();
            for _ in 0..1000 {
                for message in real.pull_many(7).await.unwrap() {
                    let id = message.unwrap()["n"].as_u64().unwrap();
                    assert!(ids.insert(id), "{id} was served twice");
                }
                let Stats { waiting, leased, delayed, .. } = real.stats().await.unwrap();
                if waiting + leased + delayed == 0 {
                    break;
                }
            }
            for letter in real.dead_letters().page(Cursor::default()).await.unwrap().0 {
                assert!(ids.insert(letter.id.to_string().parse().unwrap()));
            }
            let expired = |message: &Message| message.expires.is_some_and(|at| at <= model.now);
            let waiting = queue.waiting.values().flatten();
            let delayed = queue.delayed.values().flatten().map(|(_, message)| message);
            let leased = queue.leased.values().map(|leased| &leased.message);
            let left = waiting.chain(delayed).chain(leased).filter(|message| !expired(message));
            let expected: BTreeSet<_> =
                left.map(|message| message.id).chain(queue.letters.keys().copied()).collect();
            assert_eq!(ids, expected, "what was left on {name}");
            real.dead_letters().purge().await.unwrap();
        }
        self.space.end().await;
    }
}

/// What came back, where the queue may not be there.
fn outcome(result: fairlane::Result<Outcome>) -> Outcome {
    match result {
        Ok(outcome) => outcome,
        Err(Error::NoSuchQueue(_)) => Outcome::NoSuchQueue,
        Err(Error::NoSuchMessage(_)) => Outcome::NoSuchMessage,
        Err(error) => panic!("{error}"),
    }
}

/// All dead letters, page by page.
async fn dead(
    letters: &DeadLetters<Value>,
) -> fairlane::Result<BTreeMap<u64, (&'static str, u32, u32, Death, bool)>> {
    let mut dead = BTreeMap::new();
    let mut from = Some(Cursor::default());
    while let Some(cursor) = from {
        let (page, next) = letters.page(cursor).await?;
        for letter in page {
            let message = letter.message.unwrap();
            let Served { facet, id, .. } = served(&message, 0);
            assert_eq!((facet, id.to_string()), (letter.facet.as_str(), letter.id.to_string()));
            let failed = letter.reason.as_deref() == Some("it was due");
            let found = (facet, letter.attempts, letter.crashes, letter.death, failed);
            assert_eq!(dead.insert(id, found), None, "listed twice");
        }
        from = next;
    }
    Ok(dead)
}

/// Delivers, and returns what the receipts say.
async fn deliver(broker: &Broker, model: &Model, messages: &[New]) -> Outcome {
    // The numbers that they get, as the model has drawn them.
    let first = match &model.outcome {
        Outcome::Refused => 0,
        _ => model.drawn,
    };
    let bodies: Vec<_> = (first..)
        .zip(messages)
        .map(|(n, new)| support::message(FACETS[new.facet], TOPICS[new.topic], n))
        .collect();
    let ms = Duration::from_millis;
    let messages = bodies.iter().zip(messages).map(|(body, new)| {
        let mut message = Delivered::new(body).window(ms(WINDOW));
        if let Some(cost) = new.cost {
            message = message.cost(COSTS[cost]).header("cost", COSTS[cost].to_string());
        }
        if let Some(delay) = new.delay {
            // In both ways.
            message = match delay % 2 {
                0 => message.delay(ms(delay)),
                _ => message.at(at(model.now + delay)),
            };
        }
        if let Some(ttl) = new.ttl {
            message = message.ttl(ms(ttl));
        }
        match new.key {
            Some(key) => message.key(key),
            None => message,
        }
    });
    let receipts = match broker.deliver_all(messages).await {
        Ok(receipts) => receipts,
        Err(Error::Refused { queue, facet, why }) => {
            assert!(QUEUES.contains(&&*queue) && FACETS.contains(&&*facet));
            assert_ne!(why, Refusal::TooManyWaiting { most: 0 });
            return Outcome::Refused;
        }
        Err(error) => panic!("{error}"),
    };
    let names = |queues: &[String]| {
        QUEUES.into_iter().filter(|name| queues.iter().any(|queue| queue == name)).collect()
    };
    let delivered = receipts.iter().map(|receipt| {
        (receipt.id.to_string().parse().unwrap(), names(&receipt.queues), receipt.duplicate)
    });
    Outcome::Delivered { delivered: delivered.collect() }
}

/// Checks that each listener hears what matches its glob, in order, and nothing else.
async fn hear(listeners: &mut [Listener; 2], delivered: &Receipts, messages: &[New]) {
    for (listener, all) in listeners.iter_mut().zip([true, false]) {
        let first = delivered.iter().zip(messages).filter(|((_, _, duplicate), _)| !duplicate);
        for ((n, ..), new) in first.filter(|(_, new)| all || new.topic == 0) {
            let heard = tokio::time::timeout(Duration::from_secs(2), listener.next()).await;
            let heard = heard.ok().map(|heard| heard.unwrap().unwrap());
            let heard =
                heard.map(|heard| (heard.topic, heard.message["n"].clone(), heard.headers.len()));
            let headers = usize::from(new.cost.is_some());
            assert_eq!(heard, Some((TOPICS[new.topic].to_owned(), (*n).into(), headers)));
        }
        assert!(listener.next().now_or_never().is_none(), "more was heard than was delivered");
    }
}

fn counted(stats: &Stats) -> Counts {
    let there = [stats.waiting, stats.leased, stats.delayed, stats.dead];
    let facets = [stats.facets_ready, stats.facets_parked, stats.facets_in_debt];
    let Stats {
        delivered, served, acked, came_back, refused, expired, died, dropped, purged, ..
    } = *stats;
    let totals = [delivered, served, acked, came_back, refused, expired, died, dropped, purged];
    (there, facets.map(|count| count as usize), stats.paused, totals)
}

fn looked(found: FacetStats, gate: Option<Gate>) -> (&'static str, Facet) {
    let FacetStats { waiting, leased, delayed, dead, weight, turn, oldest, state, .. } = found;
    let [waiting, leased, delayed, dead] = [waiting, leased, delayed, dead].map(|n| n as usize);
    let name = FACETS.into_iter().find(|facet| *facet == found.facet).unwrap();
    (name, Facet { waiting, leased, delayed, dead, weight, turn, oldest, state, gate })
}

fn served(message: &Value, attempt: u32) -> Served {
    let facet = FACETS.into_iter().find(|facet| message["facet"] == *facet).unwrap();
    Served { facet, id: message["n"].as_u64().unwrap(), attempt }
}

impl<B: Breach> StateMachineTest for Real<B> {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        support::RUNTIME.block_on(Self::new())
    }

    fn apply(mut state: Self, model: &Model, step: Step) -> Self {
        support::RUNTIME.block_on(state.step(model, &step));
        state
    }

    fn check_invariants(state: &Self, model: &Model) {
        support::RUNTIME.block_on(state.check(model));
    }

    fn teardown(state: Self, model: Model) {
        support::RUNTIME.block_on(state.end(model));
    }
}

prop_state_machine! {
    #![proptest_config(config())]
    #[test]
    fn whatever_is_done_in_whatever_order_the_server_does_as_the_model_says(sequential 1..120 => Real<Sound>);
}

/// A hundred runs, or as many as `PROPTEST_CASES` says.
fn config() -> Config {
    let cases =
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100);
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// Runs the model against a script that is broken, and expects it to see that.
fn finds<B: Breach>() {
    let config = config();
    let steps = Model::sequential_strategy(1..120);
    let mut runner = TestRunner::new(config.clone());
    let found = (0..400).any(|_| {
        let (model, steps, seen) = steps.new_tree(&mut runner).unwrap().current();
        let run = || Real::<B>::test_sequential(config.clone(), model, steps, seen);
        let Err(panic) = catch_unwind(AssertUnwindSafe(run)) else { return false };
        let said = panic.downcast_ref::<String>().expect("a comparison that failed");
        let comparisons = [
            "assertion `left == right` failed",
            "keys left behind",
            "more than totals left behind",
        ];
        let compared = comparisons.iter().any(|comparison| said.starts_with(comparison));
        assert!(compared || said.ends_with("was served twice"), "{said}");
        true
    });
    assert!(found, "400 runs did not find what is broken");
}

/// The model sees when a script is broken in one place: so its other test can fail.
mod sees {
    use super::{Breach, finds};

    macro_rules! breaches {
        ($($name:ident: $script:literal $from:literal => $to:literal;)*) => {$(
            #[test]
            fn $name() {
                struct Broken;
                impl Breach for Broken {
                    const SCRIPT: &'static str = $script;
                    const FROM: &'static str = $from;
                    const TO: &'static str = $to;
                }
                finds::<Broken>();
            }
        )*};
    }

    breaches! {
        an_ack_without_the_check_of_its_token: "ack" "q.lease .. number, " => "q.lease .. (redis.call(\"ZRANGE\", q.timers, -1, -1)[1] or \"\"), ";
        a_message_that_goes_back_to_the_end_of_its_facet: "nack" "\"LPUSH\"" => "\"RPUSH\"";
        a_turn_that_does_not_count_the_weight: "pull" "TURN / (f.weight or 1)" => "TURN";
        a_debt_that_leaving_pays: "deliver" "debt and debt > q.floor" => "false";
        a_newcomer_that_is_always_next: "deliver" "q.early >= 1" => "true";
        a_batch_that_leaves_one_message_in_its_list: "pull" "redis.call(\"LPOP\", key) or" => "redis.call(\"LINDEX\", key, \"0\") or";
        a_message_that_listeners_do_not_hear: "deliver" "channel .. ARGV[i + 1]" => "channel";
        a_pause_that_holds_nothing_back: "deliver" "if set.paused == 1 then" => "if false then";
        a_resumed_facet_that_forgets_its_turn: "configure" "left >= q.floor" => "false";
        a_pause_that_makes_places_at_the_front: "configure" "if tonumber(turn) < q.floor then" => "if true then";
        a_queue_that_is_served_while_it_is_paused: "lease" "if not q.paused then" => "if true then";
        a_peek_that_does_not_see_what_is_due: "peek" "due(q, 400 - most)\nlocal" => "local";
        a_marker_that_is_not_set_again: "lease" "redis.call(\"ZADD\", q.wake, 0, \"marker\")" => "";
        a_destroyed_queue_that_keeps_its_settings: "destroy" "q.settings, q.letters" => "q.letters";
        a_lease_that_never_ends: "pull" "\"BYSCORE\", \"LIMIT\", 0, most" => "\"BYSCORE\", \"LIMIT\", 0, 0";
        a_delivery_by_routes_of_yesterday: "deliver" "~= version" => "== 1";
    }
}
