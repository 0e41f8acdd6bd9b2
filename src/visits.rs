//! In which order the partitions of a queue are visited, so that it is fair over all of them.
//!
//! Each take says how far the round of turns has gone with it there: by the cost of what was served,
//! divided by its weight, for each facet that was ready. Served next is the partition whose round is
//! behind. So each gets visits in proportion to the weight that is ready there, though nobody has to
//! know that weight.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::random::share;

/// How long a partition that had nothing is not asked, while others have something.
const EMPTY: Duration = Duration::from_millis(10);

/// The rounds of all queues that were served.
#[derive(Default)]
pub(crate) struct Visits(Mutex<HashMap<Arc<str>, Vec<Round>>>);

/// How far a partition of a queue is.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// In turns.
    at: f64,
    /// By how much one message moves it, as of the last time.
    step: f64,
    /// Messages that are asked for now.
    asked: usize,
    /// When it had nothing, or was away; none when it had something the last time, or was never asked.
    empty: Option<Instant>,
}

impl Round {
    fn new() -> Self {
        // By lot, so that many workers do not begin with the same.
        Self { at: share() / 1e6, step: 1.0, asked: 0, empty: None }
    }

    /// Where it will be when what is asked for was served.
    fn expected(&self) -> f64 {
        self.at + self.asked as f64 * self.step
    }
}

/// A visit that is under way.
pub(crate) struct Visit<'a> {
    visits: &'a Visits,
    queue: &'a Arc<str>,
    place: usize,
    asked: usize,
}

impl Visits {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Round>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partitions of a queue, by their numbers, in the order in which they are to be asked, and
    /// whether each may have something: not one that had nothing a moment ago.
    pub(crate) fn order(&self, queue: &Arc<str>, partitions: usize) -> Vec<(usize, bool)> {
        if partitions == 1 {
            return vec![(0, true)];
        }
        let mut lock = self.lock();
        let rounds = rounds(&mut lock, queue, partitions);
        let waited = |place: &usize| rounds[*place].empty.map(|since| since.elapsed());
        let mut order: Vec<usize> = (0..partitions).collect();
        order.sort_by(|a, b| {
            let key = |place: &usize| (rounds[*place].empty.is_some(), rounds[*place].expected());
            let ((a_empty, a), (b_empty, b)) = (key(a), key(b));
            a_empty.cmp(&b_empty).then(a.total_cmp(&b))
        });
        // One of those that had nothing may have something by now.
        let longest = order.iter().copied().filter(|place| waited(place) > Some(EMPTY));
        if let Some(longest) = longest.max_by_key(waited) {
            order.retain(|place| *place != longest);
            order.insert(0, longest);
        }
        let may_have = |place: &usize| waited(place).is_none_or(|waited| waited > EMPTY);
        order.into_iter().map(|place| (place, may_have(&place))).collect()
    }

    /// Asks a partition for messages.
    pub(crate) fn visit<'a>(
        &'a self,
        queue: &'a Arc<str>,
        place: usize,
        partitions: usize,
        asked: usize,
    ) -> Option<Visit<'a>> {
        if partitions == 1 {
            return None;
        }
        rounds(&mut self.lock(), queue, partitions)[place].asked += asked;
        Some(Visit { visits: self, queue, place, asked })
    }

    /// One could not be asked: while it is away its round goes on, as that of one that is empty does.
    pub(crate) fn missed(&self, queue: &Arc<str>, place: usize) {
        if let Some(rounds) = self.lock().get_mut(queue) {
            rounds[place].empty = Some(Instant::now());
        }
    }
}

fn rounds<'a>(
    lock: &'a mut HashMap<Arc<str>, Vec<Round>>,
    queue: &Arc<str>,
    partitions: usize,
) -> &'a mut Vec<Round> {
    let new = || (0..partitions).map(|_| Round::new()).collect();
    lock.entry(queue.clone()).or_insert_with(new)
}

impl Visit<'_> {
    /// It has given so many messages, with which its round has gone so far, and is `empty` now or
    /// has more.
    pub(crate) fn served(self, messages: usize, gone: f64, empty: bool) {
        let mut lock = self.visits.lock();
        let Some(rounds) = lock.get_mut(self.queue) else { return };
        // Leaving and coming back earns nothing.
        let others = rounds
            .iter()
            .enumerate()
            .filter(|(place, round)| *place != self.place && round.empty.is_none());
        let behind = others.map(|(_, round)| round.at).min_by(f64::total_cmp);
        let round = &mut rounds[self.place];
        if messages > 0 {
            if round.empty.is_some() {
                round.at = behind.map_or(round.at, |behind| behind.max(round.at));
            }
            (round.at, round.step) = (round.at + gone, gone / messages as f64);
        }
        round.empty = empty.then(Instant::now);
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if let Some(rounds) = self.visits.lock().get_mut(self.queue) {
            rounds[self.place].asked -= self.asked;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves a message, as one that has more; of a partition that is away nothing.
    fn serve(visits: &Visits, queue: &Arc<str>, away: Option<usize>) -> usize {
        for (place, _) in visits.order(queue, 2) {
            match visits.visit(queue, place, 2, 1) {
                Some(_) if away == Some(place) => visits.missed(queue, place),
                Some(visit) => {
                    visit.served(1, 1.0, false);
                    return place;
                }
                None => {}
            }
        }
        panic!("nobody is there");
    }

    #[test]
    fn one_that_was_away_has_no_more_than_its_share_when_it_is_back() {
        let (visits, queue) = (Visits::default(), Arc::from("q"));
        (0..100).for_each(|_| _ = serve(&visits, &queue, None));
        (0..1000).for_each(|_| assert_eq!(serve(&visits, &queue, Some(0)), 1));
        std::thread::sleep(2 * EMPTY);
        let first = (0..100).filter(|_| serve(&visits, &queue, None) == 0).count();
        assert!((49..=51).contains(&first), "{first} of 100");
    }
}
