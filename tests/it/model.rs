//! Random operations, on a real server and on a small model of the design, step by step: what comes
//! back, what is heard, what is stored, and what is promised must be the same.
//!
//! The model is plain Rust over maps. It serves one message at a time, so that batches are checked
//! against singles, and it keeps account of the two bounds of fairness at every service.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::IntoFuture,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use fairlane::{Broker, Cursor, Delivery, Error, FacetState, FacetStats, Listener, Stats, Token};
use futures_util::FutureExt;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use serde_json::Value;

use crate::support::{self, START, Space};

/// Names that have been trouble elsewhere.
const FACETS: [&str; 6] = ["a", "b:c", "length", "{x}", "f:a", "é\n\0 😀"];
const QUEUES: [&str; 2] = ["q1", "q1-2"];
const TOPICS: [&str; 3] = ["x:1", "y:1", "none"];
const PATTERNS: [&str; 3] = ["^[xy]:", "x", "^y:"];
/// One turn, in the unit of those that are stored.
const TURN: f64 = 1_048_576.0;
const WEIGHTS: [f64; 6] = [1.0, 0.001, 0.3, 3.0, 7.5, 1000.0];

fn matches(pattern: usize, topic: usize) -> bool {
    match pattern {
        0 => topic < 2,
        1 => topic == 0,
        _ => topic == 1,
    }
}

#[derive(Debug, Clone)]
enum Step {
    Deliver {
        broker: usize,
        messages: Vec<(usize, usize)>,
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
        messages: Vec<(usize, usize)>,
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
    Delivered { first: u64, queues: Vec<Vec<&'static str>> },
    Taken(Vec<Served>),
    Lost(Vec<usize>),
    NoSuchQueue,
    Was(bool),
    Waited { first: u64, queues: Vec<Vec<&'static str>>, taken: Vec<Served> },
    Looked { stats: Counts, facets: BTreeMap<&'static str, Facet> },
}

/// Numbers by name, as Redis has them.
type Turns = BTreeMap<String, f64>;

/// What `stats` counts: waiting, leased, facets ready, parked and in debt, paused; delivered,
/// served, acked, come back.
type Counts = (u64, u64, [usize; 3], bool, [u64; 4]);

/// What looking at a facet shows.
#[derive(Debug, Clone, PartialEq)]
struct Facet {
    waiting: usize,
    leased: usize,
    weight: f64,
    turn: Option<f64>,
    oldest: Option<Duration>,
    state: FacetState,
    paused: bool,
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
    delivered_at: u64,
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
    weights: BTreeMap<&'static str, f64>,
    ready: BTreeMap<&'static str, f64>,
    parked: BTreeMap<&'static str, f64>,
    idle: BTreeMap<&'static str, f64>,
    pauses: BTreeSet<&'static str>,
    paused: bool,
    /// Delivered, served, acked, come back.
    totals: [u64; 4],
    floor: f64,
    arrival: f64,
    early: f64,
    apart: BTreeMap<(&'static str, &'static str), Apart>,
    /// For each facet that waits: how many others were served since its head is the head, and how
    /// many may be.
    passed: BTreeMap<&'static str, (f64, f64)>,
    weighted: bool,
}

impl Queue {
    fn weight(&self, facet: &str) -> f64 {
        self.weights.get(facet).copied().unwrap_or(1.0)
    }

    fn exists(&self) -> bool {
        self.route.is_some()
            || !self.ready.is_empty()
            || !self.parked.is_empty()
            || !self.leased.is_empty()
    }

    fn servable(&self) -> bool {
        !self.ready.is_empty() && !self.paused
    }

    fn arrive(&mut self, facet: &'static str) {
        let tick = (2f64.powi(-20)).max(self.floor * 2f64.powi(-50));
        let owes = self.idle.remove(facet);
        let kept = if owes.is_none() { self.parked.remove(facet) } else { None };
        if self.pauses.contains(facet) {
            self.parked.insert(facet, owes.or(kept).unwrap_or(0.0));
            return;
        }
        let owes = owes.filter(|left| *left > self.floor);
        let left = owes.or(kept.filter(|left| *left >= self.floor));
        self.early = self.early.min(self.ready.len() as f64);
        let turn = if let Some(left) = left {
            left
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

    /// A facet has a new head: the promise to it begins.
    fn head(&mut self, facet: &'static str) {
        let away = self.idle.values().chain(self.parked.values());
        let debtors = away.filter(|turn| **turn > self.floor).count();
        let most = 5.0 * (self.ready.len() + debtors) as f64 + 3.0 * self.early;
        self.passed.insert(facet, (0.0, most));
    }

    fn pause(&mut self, facet: &'static str) {
        if !self.pauses.insert(facet) {
            return;
        }
        if let Some(turn) = self.ready.remove(facet) {
            self.parked.insert(facet, turn);
            self.leaves(facet);
            if turn < self.floor {
                self.early = (self.early + 1.0).min(self.ready.len() as f64);
            }
        }
    }

    fn resume(&mut self, facet: &'static str) {
        if self.pauses.remove(facet) && self.parked.contains_key(facet) {
            self.arrive(facet);
        }
    }

    /// A facet does not wait for its turn any more: what was promised to it and to the others about
    /// it ends.
    fn leaves(&mut self, facet: &'static str) {
        self.passed.remove(facet);
        self.apart.retain(|(a, b), _| *a != facet && *b != facet);
    }

    fn deliver(&mut self, facet: &'static str, message: Message) {
        self.totals[0] += 1;
        let list = self.waiting.entry(facet).or_default();
        list.push_back(message);
        if list.len() == 1 {
            self.arrive(facet);
        }
    }

    fn release(&mut self, id: u64) {
        let leased = self.leased.remove(&id).unwrap();
        let mut message = leased.message;
        message.attempts += 1;
        self.totals[3] += 1;
        let list = self.waiting.entry(leased.facet).or_default();
        list.push_front(message);
        match list.len() {
            1 => self.arrive(leased.facet),
            _ if self.ready.contains_key(leased.facet) => self.head(leased.facet),
            _ => {}
        }
    }

    /// Whole leases, at least one.
    fn due(&mut self, now: u64, most: usize) {
        let mut due: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for (id, leased) in self.leased.iter().filter(|(_, leased)| leased.ends <= now) {
            due.entry((leased.ends, &leased.lease)).or_default().push(*id);
        }
        let mut ids = Vec::new();
        for lease in due.into_values() {
            if !ids.is_empty() && ids.len() + lease.len() > most {
                break;
            }
            ids.extend(lease);
        }
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.into_iter().for_each(|id| self.release(id));
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

    /// Serves one message, as one pull would.
    fn serve(&mut self, debts: &mut Vec<(&'static str, f64)>) -> Option<(&'static str, Message)> {
        let lowest = self.ready.iter().min_by(|a, b| a.1.total_cmp(b.1).then(a.0.cmp(b.0)));
        let (facet, turn) = lowest.map(|(facet, turn)| (*facet, *turn))?;
        if turn >= self.floor {
            self.early = (self.early + 1.0).min(self.ready.len() as f64);
            self.floor = turn;
        }
        let step = 1.0 / self.weight(facet);
        self.account(facet, step);
        let list = self.waiting.get_mut(facet).unwrap();
        let message = list.pop_front().unwrap();
        if list.is_empty() {
            self.waiting.remove(facet);
            self.ready.remove(facet);
            self.leaves(facet);
            debts.push((facet, turn + step));
        } else {
            self.ready.insert(facet, turn + step);
            self.head(facet);
        }
        Some((facet, message))
    }

    /// Checks both bounds of fairness at a service.
    fn account(&mut self, served: &'static str, step: f64) {
        for ((a, b), apart) in &mut self.apart {
            if *a != served && *b != served {
                continue;
            }
            apart.now += if *a == served { step } else { -step };
            apart.least = apart.least.min(apart.now);
            apart.most = apart.most.max(apart.now);
            let weight = |facet| self.weights.get(facet).copied().unwrap_or(1.0);
            let bound = 1.0 / weight(*a) + 1.0 / weight(*b);
            let range = apart.most - apart.least;
            assert!(
                range <= bound * (1.0 + 1e-6) + 1e-3,
                "{a:?} and {b:?} are {range} turns apart"
            );
        }
        if self.weighted {
            return; // The second bound is one for equal weights.
        }
        for (facet, (passed, most)) in &mut self.passed {
            if *facet != served {
                *passed += 1.0;
                assert!(passed <= most, "{facet:?} was passed {passed} times, {most} are allowed");
            }
        }
    }

    fn take(&mut self, now: u64, most: usize) -> Vec<(&'static str, Message)> {
        let in_debt = !self.idle.is_empty();
        self.due(now, 400 - most.min(250));
        let mut debts = Vec::new();
        let most = if self.paused { 0 } else { most };
        let taken: Vec<_> = std::iter::from_fn(|| self.serve(&mut debts)).take(most).collect();
        self.totals[1] += taken.len() as u64;
        debts.retain(|(_, turn)| *turn > self.floor);
        self.idle.extend(debts);
        if in_debt && !taken.is_empty() {
            let mut past: Vec<_> =
                self.idle.iter().filter(|(_, turn)| **turn <= self.floor).collect();
            past.sort_by(|a, b| a.1.total_cmp(b.1).then(a.0.cmp(b.0)));
            let past: Vec<_> =
                past.into_iter().take(2 * taken.len()).map(|(facet, _)| *facet).collect();
            self.idle.retain(|facet, _| !past.contains(facet));
        }
        if self.ready.is_empty() && self.parked.is_empty() {
            (self.floor, self.arrival, self.early) = (0.0, 0.0, 0.0);
            self.idle.clear();
        }
        taken
    }

    fn stats(&self) -> Counts {
        let waiting = self.waiting.values().map(|list| list.len() as u64).sum();
        let in_debt = self.idle.values().filter(|turn| **turn > self.floor).count();
        let facets = [self.ready.len(), self.parked.len(), in_debt];
        (waiting, self.leased.len() as u64, facets, self.paused, self.totals)
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
        Facet {
            waiting: list.map_or(0, VecDeque::len),
            leased: self.leased_of(facet),
            weight: self.weight(facet),
            turn,
            oldest: list.map(|list| Duration::from_millis(now - list[0].delivered_at)),
            state,
            paused: self.pauses.contains(facet),
        }
    }

    /// The facets that a list of them names.
    fn known(&self, facet: &str) -> bool {
        let turns = [&self.ready, &self.parked, &self.idle, &self.weights];
        turns.iter().any(|turns| turns.contains_key(facet))
            || self.leased_of(facet) > 0
            || self.pauses.contains(facet)
    }
}

fn pair(a: &'static str, b: &'static str) -> (&'static str, &'static str) {
    if a < b { (a, b) } else { (b, a) }
}

#[derive(Debug, Clone)]
struct Model {
    now: u64,
    seq: u64,
    queues: [Queue; 2],
    /// Queue and message of each token that was ever given.
    tokens: Vec<(usize, u64)>,
    outcome: Outcome,
}

impl Model {
    fn holds(&self, token: usize) -> bool {
        let (queue, id) = self.tokens[token];
        self.queues[queue].leased.get(&id).is_some_and(|leased| leased.token == token)
    }

    fn deliver(&mut self, messages: &[(usize, usize)]) -> (u64, Vec<Vec<&'static str>>) {
        let first = self.seq + 1;
        let mut queues = Vec::new();
        for (facet, topic) in messages {
            self.seq += 1;
            let mut names = Vec::new();
            for (queue, name) in self.queues.iter_mut().zip(QUEUES) {
                if queue.route.is_some_and(|pattern| matches(pattern, *topic)) {
                    let message = Message { id: self.seq, attempts: 0, delivered_at: self.now };
                    queue.deliver(FACETS[*facet], message);
                    names.push(name);
                }
            }
            queues.push(names);
        }
        (first, queues)
    }

    fn lease(&mut self, place: usize, most: usize, length: u64) -> Outcome {
        let queue = &mut self.queues[place];
        let taken = queue.take(self.now, most);
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

    fn step(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Deliver { messages, .. } => {
                let (first, queues) = self.deliver(messages);
                Outcome::Delivered { first, queues }
            }
            Step::Pull { queue, most } => {
                let queue = &mut self.queues[*queue];
                let taken = queue.take(self.now, *most);
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
                let due = queue.leased.values().any(|leased| leased.ends <= self.now);
                if queue.servable() || due || !queue.exists() {
                    return self.lease(*place, 1, *length);
                }
                let (first, queues) = self.deliver(messages);
                let Outcome::Taken(taken) = self.lease(*place, 1, *length) else { unreachable!() };
                Outcome::Waited { first, queues, taken }
            }
            Step::Peek { queue, most } => {
                let mut queue = self.queues[*queue].clone();
                if !queue.exists() {
                    return Outcome::NoSuchQueue;
                }
                queue.paused = false;
                let taken = queue.take(self.now, (*most).min(250)).into_iter();
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
                    facets: facets.map(|facet| (facet, queue.facet(facet, self.now))).collect(),
                }
            }
            Step::SetPaused { queue, facet, paused } => {
                let queue = &mut self.queues[*queue];
                match (facet.map(|facet| FACETS[facet]), paused) {
                    (None, paused) => queue.paused = *paused,
                    (Some(facet), true) => queue.pause(facet),
                    (Some(facet), false) => queue.resume(facet),
                }
                Outcome::Nothing
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
                        self.queues[queue].leased.remove(&id);
                        self.queues[queue].totals[2] += 1;
                    } else {
                        lost.insert(0, token);
                    }
                }
                Outcome::Lost(lost)
            }
            Step::Nack { token } => {
                let lost: Vec<_> = self
                    .chosen(&[*token])
                    .into_iter()
                    .filter(|token| !self.holds(*token))
                    .collect();
                for token in
                    self.chosen(&[*token]).into_iter().filter(|token| !lost.contains(token))
                {
                    let (queue, id) = self.tokens[token];
                    self.queues[queue].release(id);
                }
                Outcome::Lost(lost)
            }
            Step::Extend { token, length } => {
                let mut lost = self.chosen(&[*token]);
                if let Some(token) = lost.pop_if(|token| self.holds(*token)) {
                    let (queue, id) = self.tokens[token];
                    let (leases, _) = self.queues[queue].leases();
                    let leased = self.queues[queue].leased.get_mut(&id).unwrap();
                    leased.ends = self.now + length;
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
                let scale = queue.weight(facet) / weight;
                match weight {
                    1.0 => drop(queue.weights.remove(facet)),
                    _ => drop(queue.weights.insert(facet, weight)),
                }
                queue.weighted |= weight != 1.0;
                let floor = queue.floor;
                for set in [&mut queue.ready, &mut queue.parked, &mut queue.idle] {
                    if let Some(turn) = set.get_mut(facet).filter(|turn| **turn > floor) {
                        *turn = floor + (*turn - floor) * scale;
                    }
                }
                for (_, apart) in
                    queue.apart.iter_mut().filter(|((a, b), _)| *a == facet || *b == facet)
                {
                    *apart = Apart::default();
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
        let messages = || prop::collection::vec((facet(), 0..TOPICS.len()), 1..9);
        prop_oneof![
            6 => (0..2usize, messages()).prop_map(|(broker, messages)| Step::Deliver { broker, messages }),
            4 => (queue(), most()).prop_map(|(queue, most)| Step::Pull { queue, most }),
            5 => (queue(), most(), length()).prop_map(|(queue, most, length)| Step::Lease { queue, most, length }),
            2 => (prop::bool::ANY, most(), length())
                .prop_map(|(reversed, most, length)| Step::LeaseInOrder { reversed, most, length }),
            3 => prop::collection::vec(0..12usize, 1..5).prop_map(|tokens| Step::Ack { tokens }),
            3 => (0..8usize).prop_map(|token| Step::Nack { token }),
            2 => (0..8usize, length()).prop_map(|(token, length)| Step::Extend { token, length }),
            3 => (0..50u64).prop_map(|ms| Step::Pass { ms }),
            1 => (queue(), facet(), 0..WEIGHTS.len())
                .prop_map(|(queue, facet, weight)| Step::SetWeight { queue, facet, weight }),
            2 => (queue(), prop::option::weighted(0.8, facet()), prop::bool::weighted(0.4))
                .prop_map(|(queue, facet, paused)| Step::SetPaused { queue, facet, paused }),
            2 => (queue(), messages(), length())
                .prop_map(|(queue, messages, length)| Step::Wait { queue, messages, length }),
            2 => (queue(), most()).prop_map(|(queue, most)| Step::Peek { queue, most }),
            1 => queue().prop_map(|queue| Step::Look { queue }),
            1 => prop::bool::weighted(0.5).prop_map(|both| Step::Destroy { queue: usize::from(both) }),
            2 => (queue(), 0..PATTERNS.len()).prop_map(|(queue, pattern)| Step::Register { queue, pattern }),
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
        let space = Space::with(|builder| builder.script(B::SCRIPT, change)).await;
        space.broker.register_queue(QUEUES[0], PATTERNS[0]).await.unwrap();
        let brokers = [space.broker.clone(), space.another().await];
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
                let Outcome::Delivered { first, .. } = model.outcome else { unreachable!() };
                let queues = deliver(&self.brokers[*broker], first, messages).await;
                hear(&mut self.listeners, first, messages).await;
                Outcome::Delivered { first, queues }
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
                if let Outcome::Waited { first, taken, .. } = &model.outcome {
                    let longest = if taken.is_empty() { 10 } else { 10_000 };
                    let waiting =
                        tokio::spawn(lease.wait(Duration::from_millis(longest)).into_future());
                    tokio::time::sleep(Duration::from_millis(first % 3)).await;
                    let queues = deliver(&self.brokers[1], *first, messages).await;
                    hear(&mut self.listeners, *first, messages).await;
                    let Outcome::Taken(taken) = self.leased(waiting.await.unwrap()) else {
                        unreachable!()
                    };
                    Outcome::Waited { first: *first, queues, taken }
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
                                let alone = queue.facet(&found.facet).stats().await.unwrap();
                                assert_eq!(alone, found);
                                let (name, found) = looked(found);
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
                let mut lost = Vec::new();
                for (token, place) in chosen(&[*token]).iter().zip(model.chosen(&[*token])) {
                    match broker.nack(token).await {
                        Err(Error::LeaseLost(_)) => lost.push(place),
                        result => result.unwrap(),
                    }
                }
                Outcome::Lost(lost)
            }
            Step::Extend { token, length } => {
                let mut lost = Vec::new();
                for (token, place) in chosen(&[*token]).iter().zip(model.chosen(&[*token])) {
                    match broker.extend(token, Duration::from_millis(*length)).await {
                        Err(Error::LeaseLost(_)) => lost.push(place),
                        result => drop(result.unwrap()),
                    }
                }
                Outcome::Lost(lost)
            }
            Step::Pass { ms } => {
                self.space.clock.advance(Duration::from_millis(*ms));
                Outcome::Nothing
            }
            Step::SetWeight { queue, facet, weight } => {
                let facet = broker.queue(QUEUES[*queue]).facet(FACETS[*facet]);
                match facet.set_weight(WEIGHTS[*weight]).await {
                    Ok(()) => Outcome::Nothing,
                    Err(Error::NoSuchQueue(_)) => Outcome::NoSuchQueue,
                    Err(error) => panic!("{error}"),
                }
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
            all.cmd("HGETALL").arg(key("weights"));
            all.cmd("HGETALL").arg(key("held"));
            all.cmd("SMEMBERS").arg(key("pauses"));
            type All = (Turns, Turns, Turns, Turns, Turns, Turns, Turns, BTreeSet<String>);
            let stored: All = all.query_async(&mut support::raw().await).await.unwrap();
            let (ready, idle, parked, clock, timers, weights, held, pauses) = stored;
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
            let mut paused: BTreeSet<_> =
                queue.pauses.iter().map(|facet| facet.to_string()).collect();
            paused.extend(queue.paused.then(String::new));
            assert_eq!(pauses, paused, "pauses of {name}");
            assert_eq!(weights, own(&queue.weights), "weights of {name}");
            let (waiting, _, _, _, [delivered, served, acked, came_back]) = queue.stats();
            let counts = [waiting, delivered, served, acked, came_back].map(|count| count as f64);
            let names = ["waiting", "delivered", "served", "acked", "came_back"];
            let (floor, arrival) = (queue.floor * TURN, queue.arrival * TURN);
            let times = [("floor", floor), ("arrival", arrival), ("early", queue.early)];
            let fields = times.into_iter().chain(names.into_iter().zip(counts));
            let of = |clock: &Turns, field| clock.get(field).copied().unwrap_or_default();
            for (field, expected) in fields {
                assert_eq!(of(&clock, field), expected, "{field} of {name}");
            }
            self.check_marker(&key("wake"), queue.servable()).await;
            let (leases, ends) = queue.leases();
            assert_eq!(timers, ends, "timers of {name}");
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
            }
            let lists: Vec<Vec<String>> =
                lists.query_async(&mut support::raw().await).await.unwrap();
            for (list, facet) in lists.iter().zip(FACETS) {
                let stored: Vec<String> = list
                    .iter()
                    .map(|message| message.split(' ').take(2).collect::<Vec<_>>().join(" "))
                    .collect();
                let waiting = queue.waiting.get(facet).into_iter().flatten();
                let expected: Vec<_> =
                    waiting.map(|message| format!("{} {}", message.id, message.attempts)).collect();
                assert_eq!(stored, expected, "list of {facet:?} on {name}");
            }
        }
    }

    /// The marker is there while something can be served. One who gave up may have it in the hand,
    /// and gives it back.
    async fn check_marker(&self, key: &str, expected: bool) {
        let from = Instant::now();
        let mut there = !expected;
        while there != expected && from.elapsed() < Duration::from_secs(2) {
            there = support::run(&["EXISTS", key]).await;
        }
        assert_eq!(there, expected, "whether the marker is there");
    }

    /// Works off all that is left, and checks that nothing stays behind.
    async fn end(self, mut model: Model) {
        self.space.clock.advance(Duration::from_secs(3600));
        model.now += 3_600_000;
        for (queue, name) in model.queues.iter_mut().zip(QUEUES) {
            let real = self.space.broker.register_queue(name, "^$").await.unwrap();
            for facet in FACETS {
                real.facet(facet).resume().await.unwrap();
                queue.resume(facet);
            }
            real.resume().await.unwrap();
            queue.paused = false;
            loop {
                let pulled = self.space.broker.queue(name).pull_many(7).await.unwrap();
                let served = pulled.into_iter().map(|message| served(&message.unwrap(), 0));
                let expected = queue.take(model.now, 7).into_iter();
                let expected =
                    expected.map(|(facet, message)| Served { facet, id: message.id, attempt: 0 });
                assert_eq!(served.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
                if queue.ready.is_empty() && queue.leased.is_empty() {
                    break;
                }
            }
            for facet in FACETS {
                self.space.broker.queue(name).facet(facet).set_weight(1.0).await.unwrap();
            }
        }
        self.space.end().await;
    }
}

/// Delivers, and returns the queues that the receipts name.
async fn deliver(
    broker: &Broker,
    first: u64,
    messages: &[(usize, usize)],
) -> Vec<Vec<&'static str>> {
    let numbered = (first..).zip(messages);
    let messages: Vec<_> = numbered
        .map(|(n, (facet, topic))| support::message(FACETS[*facet], TOPICS[*topic], n))
        .collect();
    let receipts = broker.deliver_all(&messages).await.unwrap();
    let ids: Vec<_> = receipts.iter().map(|receipt| receipt.id.to_string()).collect();
    let expected: Vec<_> = (first..).take(messages.len()).map(|id| id.to_string()).collect();
    assert_eq!(ids, expected);
    let names = |queues: &[String]| {
        QUEUES.into_iter().filter(|name| queues.iter().any(|queue| queue == name)).collect()
    };
    receipts.iter().map(|receipt| names(&receipt.queues)).collect()
}

/// Checks that each listener hears what matches its glob, in order, and nothing else.
async fn hear(listeners: &mut [Listener; 2], first: u64, messages: &[(usize, usize)]) {
    for (listener, all) in listeners.iter_mut().zip([true, false]) {
        for (n, (_, topic)) in (first..).zip(messages).filter(|(_, (_, topic))| all || *topic == 0)
        {
            let heard = tokio::time::timeout(Duration::from_secs(2), listener.next()).await;
            let heard = heard.ok().map(|heard| heard.unwrap().unwrap());
            let heard = heard.map(|heard| (heard.topic, heard.message["n"].clone()));
            assert_eq!(heard, Some((TOPICS[*topic].to_owned(), n.into())));
        }
        assert!(listener.next().now_or_never().is_none(), "more was heard than was delivered");
    }
}

fn counted(stats: &Stats) -> Counts {
    let facets = [stats.facets_ready, stats.facets_parked, stats.facets_in_debt];
    let totals = [stats.delivered, stats.served, stats.acked, stats.came_back];
    (stats.waiting, stats.leased, facets.map(|count| count as usize), stats.paused, totals)
}

fn looked(found: FacetStats) -> (&'static str, Facet) {
    let FacetStats { waiting, leased, weight, turn, oldest, state, paused, .. } = found;
    let (waiting, leased) = (waiting as usize, leased as usize);
    let name = FACETS.into_iter().find(|facet| *facet == found.facet).unwrap();
    (name, Facet { waiting, leased, weight, turn, oldest, state, paused })
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
    let found = (0..100).any(|_| {
        let (model, steps, seen) = steps.new_tree(&mut runner).unwrap().current();
        let run = || Real::<B>::test_sequential(config.clone(), model, steps, seen);
        let Err(panic) = catch_unwind(AssertUnwindSafe(run)) else { return false };
        let said = panic.downcast_ref::<String>().expect("a comparison that failed");
        let comparisons = ["assertion `left == right` failed", "keys left behind"];
        assert!(comparisons.iter().any(|comparison| said.starts_with(comparison)), "{said}");
        true
    });
    assert!(found, "100 runs did not find what is broken");
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
        a_debt_that_leaving_pays: "deliver" "left and left > q.floor" => "false";
        a_newcomer_that_is_always_next: "deliver" "q.early >= 1" => "true";
        a_batch_that_leaves_one_message_in_its_list: "pull" "redis.call(\"LPOP\", key) or" => "redis.call(\"LINDEX\", key, \"0\") or";
        a_message_that_listeners_do_not_hear: "deliver" "channel .. ARGV[i + 1]" => "ARGV[i + 1]";
        a_pause_that_holds_nothing_back: "deliver" "q.pausing and" => "false and";
        a_resumed_facet_that_forgets_its_turn: "configure" "left >= q.floor" => "false";
        a_pause_that_makes_places_at_the_front: "configure" "if tonumber(turn) < q.floor then" => "if true then";
        a_queue_that_is_served_while_it_is_paused: "lease" "if not q.paused then" => "if true then";
        a_peek_that_does_not_see_what_is_due: "peek" "due(q, 400 - most)\nlocal" => "local";
        a_marker_that_is_not_set_again: "lease" "redis.call(\"ZADD\", q.wake, 0, \"marker\")" => "";
        a_destroyed_queue_that_keeps_its_weights: "destroy" "q.weights, " => "";
        a_lease_that_never_ends: "pull" "\"BYSCORE\", \"LIMIT\", 0, most" => "\"BYSCORE\", \"LIMIT\", 0, 0";
        a_delivery_by_routes_of_yesterday: "deliver" "~= version" => "== 1";
    }
}
