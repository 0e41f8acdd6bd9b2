//! The facets of a queue, and what each was served.
//!
//! Redis keeps no count of what a facet was served. It keeps its turn, which grows by the cost of each
//! message divided by the weight of the facet. So between two looks at a facet, what its turn has grown
//! by, times its weight, is what it was served, in cost: in messages, where none says what it costs.
//! That is exact as long as nothing else moved the turn, and there is no figure where something may
//! have:
//! - The facet had nothing waiting in between: who comes back can be given another turn. It had
//!   something all along if its foremost message was there at the first look already. (A message that
//!   was given back is as old as it is; a facet that had nothing but it meanwhile is taken for one that
//!   waited all along.)
//! - It was parked, at a limit, say, and its turn has moved: when a gate opens, a turn that others have
//!   passed is brought up to theirs. A facet is taken for one that may have been parked until it has
//!   not been seen so for ten seconds. One whose gate opens and closes between two looks and is never
//!   seen closed is shown with more than it was served, up to its fair share.
//! - Its weight is another one, or its turn is smaller: the clock of the queue began anew, or an
//!   `ack_cost` gave something back.
//!
//! A share is what a facet is served of what all are for which there is a figure. The fair share is
//! its weight, of the weights of all that can be served and for which there is one: of those that
//! waited all the time, which are those between whom turns are fair. (One that has a message now and
//! then is served at once, and takes less than its weight would give it. If it counted, the others
//! would seem to have too much.) Both are of the facets that are known here: of a queue with more than
//! are kept, of the busiest.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use fairlane::{FacetSettings, FacetState, FacetStats, Gate, Why};

/// How many facets are kept.
pub(super) const MOST: usize = 1000;
/// Over how long the figure of a facet is taken.
const SPAN: Duration = Duration::from_secs(5);
/// Two looks that are closer than this make no figure.
const LEAST: Duration = Duration::from_millis(100);
/// For how long a facet that was seen parked may have been parked again.
const PARKED_FOR: Duration = Duration::from_secs(10);

/// How a facet stood when it was looked at: what is shown of [`FacetStats`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Look {
    pub(super) waiting: u64,
    pub(super) leased: u64,
    pub(super) delayed: u64,
    pub(super) dead: u64,
    pub(super) weight: f64,
    pub(super) turn: Option<f64>,
    pub(super) oldest: Option<Duration>,
    pub(super) state: FacetState,
    pub(super) gate: Option<Gate>,
    pub(super) paused: bool,
}

impl From<&FacetStats> for Look {
    fn from(stats: &FacetStats) -> Self {
        Self {
            waiting: stats.waiting,
            leased: stats.leased,
            delayed: stats.delayed,
            dead: stats.dead,
            weight: stats.weight,
            turn: stats.turn,
            oldest: stats.oldest,
            state: stats.state,
            gate: stats.gate,
            paused: stats.paused,
        }
    }
}

/// What only `why` tells of a facet.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reason {
    /// How many are served before it.
    pub(super) place: Option<u64>,
    pub(super) settings: FacetSettings,
}

impl From<&Why> for Reason {
    fn from(why: &Why) -> Self {
        Self { place: why.place, settings: why.settings.clone() }
    }
}

/// A facet that is known.
#[derive(Debug)]
pub(super) struct Known {
    /// The last look at it.
    pub(super) now: Look,
    /// Whether somebody asked why, what the answer was.
    pub(super) reason: Option<Reason>,
    /// What it was served a second, in cost.
    pub(super) served: Option<f64>,
    /// When it had which turn, as far back as a figure may go.
    turns: VecDeque<(Duration, f64)>,
    parked: Option<Duration>,
    /// The round in which it was listed last.
    listed: u64,
}

impl Known {
    fn new(at: Duration, look: Look, listed: u64) -> Self {
        let turns = look.turn.map(|turn| (at, turn)).into_iter().collect();
        let parked = (look.state == FacetState::Parked).then_some(at);
        Self { now: look, reason: None, served: None, turns, parked, listed }
    }

    fn see(&mut self, at: Duration, look: Look) {
        let before = std::mem::replace(&mut self.now, look);
        let now = &self.now;
        if now.state == FacetState::Parked {
            self.parked = Some(at);
        }
        let Some(turn) = now.turn.filter(|_| now.waiting > 0) else {
            self.turns.clear();
            self.served = None;
            return;
        };
        if let Some(&(since, last)) = self.turns.back() {
            let gap = at.saturating_sub(since);
            if gap < LEAST {
                return;
            }
            let waited = before.waiting > 0 && now.oldest.is_some_and(|oldest| oldest >= gap);
            let parked = self.parked.is_some_and(|parked| at.saturating_sub(parked) < PARKED_FOR);
            let moved = turn != last;
            if !waited || before.weight != now.weight || turn < last || parked && moved {
                self.turns.clear();
            }
        }
        self.turns.push_back((at, turn));
        while self.turns.len() > 2 && at.saturating_sub(self.turns[1].0) >= SPAN {
            self.turns.pop_front();
        }
        self.served = match (self.turns.front(), self.turns.back()) {
            (Some(first), Some(last)) if first.0 < last.0 => {
                Some((last.1 - first.1) * now.weight / (last.0 - first.0).as_secs_f64())
            }
            _ => None,
        };
    }

    /// Whether it can be served, and waited all the time.
    fn compares(&self) -> bool {
        self.served.is_some() && self.now.state == FacetState::Ready
    }
}

/// What all facets have together, of which each has a share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sum {
    served: f64,
    weight: f64,
}

impl Sum {
    /// What a facet is served of what all are.
    pub(super) fn share(&self, known: &Known) -> Option<f64> {
        known.served.filter(|_| self.served > 0.0).map(|served| served / self.served)
    }

    /// What its weight gives it, of those that waited all the time.
    pub(super) fn fair(&self, known: &Known) -> Option<f64> {
        known.compares().then(|| known.now.weight / self.weight)
    }
}

/// The facets of one queue that are known.
#[derive(Debug, Default)]
pub(super) struct Facets {
    known: HashMap<String, Known>,
    round: u64,
    /// Whether some were left out, since there are more than are kept.
    pub(super) left_out: bool,
}

impl Facets {
    pub(super) fn get(&self, name: &str) -> Option<&Known> {
        self.known.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Known)> {
        self.known.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn sum(&self) -> Sum {
        let all = self.known.values();
        let served = all.clone().filter_map(|known| known.served).sum();
        let weight = all.filter(|known| known.compares()).map(|known| known.now.weight).sum();
        Sum { served, weight }
    }

    /// A facet that was in a page of the list.
    pub(super) fn list(&mut self, at: Duration, name: &str, look: Look) {
        let round = self.round;
        match self.known.get_mut(name) {
            Some(known) => {
                known.see(at, look);
                known.listed = round;
            }
            None => {
                self.known.insert(name.to_owned(), Known::new(at, look, round));
            }
        }
    }

    /// A facet that was asked for by name. It is no part of the list for that, unless it has
    /// something.
    pub(super) fn answer(&mut self, at: Duration, name: &str, look: Look, reason: Reason) {
        let has_something = look.waiting > 0 || look.leased > 0;
        let round = self.round;
        if let Some(known) = self.known.get_mut(name) {
            known.see(at, look);
            known.reason = Some(reason);
            if has_something {
                known.listed = round;
            }
        }
    }

    /// All pages were seen. Who changes while they are read may be in none of them: so a facet leaves
    /// when it was in none for a whole round, from its beginning to its end, and the one before.
    pub(super) fn end_round(&mut self) {
        let round = self.round;
        self.known.retain(|_, known| known.listed + 2 > round);
        self.round += 1;
    }

    /// Leaves out those with the least waiting when there are too many; of those that `wanted` names
    /// as few as can be.
    pub(super) fn bound(&mut self, wanted: impl Fn(&str) -> bool) {
        self.left_out &= self.known.len() >= MOST; // Until there are fewer.
        if self.known.len() <= MOST {
            return;
        }
        let mut order: Vec<_> = self
            .known
            .iter()
            .map(|(name, known)| (!wanted(name), u64::MAX - known.now.waiting, name.clone()))
            .collect();
        order.sort_unstable();
        for (_, _, name) in order.drain(MOST..) {
            self.known.remove(&name);
        }
        self.left_out = true;
    }
}

#[cfg(test)]
pub(super) mod tests;
