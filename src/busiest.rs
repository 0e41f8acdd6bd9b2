//! Which facets of a queue are the busiest: a count of bounded size, so that a million facets do not
//! make a million series.
//!
//! Those that are shown are counted. Of the others as many are as there is room for: one that comes
//! when there is none takes the place of the lowest count, and has that as what it inherited
//! (space-saving; Metwally, Agrawal, El Abbadi 2005). What is its own is then never more than it had,
//! and by that alone it can come to be shown. All counts are halved now and then: what was long ago
//! counts less and less.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// How many of the others are counted, for each that is shown.
const ROOM: usize = 8;
/// How many are ever shown, for each that is shown at a time.
const EVER: usize = 10;
/// After how many messages all counts are halved, for each facet that is shown.
const PERIOD: u64 = 1000;
/// A facet takes the place of one that is shown when it had so many messages and twice as many as that
/// one. It is looked at after as many of its messages.
const MARGIN: u64 = 64;

/// What is known of the facets of a queue.
#[derive(Debug, Default)]
pub(crate) struct Busiest {
    /// How many are shown at a time.
    most: usize,
    shown: HashMap<Arc<str>, u64>,
    others: HashMap<Arc<str>, Count>,
    /// The others by their counts, the lowest first.
    order: BTreeSet<(u64, Arc<str>)>,
    /// All that were ever shown.
    ever: HashSet<Arc<str>>,
    /// Since the counts were halved.
    messages: u64,
}

/// Of a facet that is not shown.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    own: u64,
    inherited: u64,
}

impl Busiest {
    /// Lets at least as many be shown at a time.
    pub(crate) fn show(&mut self, most: usize) {
        self.most = self.most.max(most);
    }

    /// Counts a message of a facet. Returns the facet where it is one of those that are shown.
    pub(crate) fn count(&mut self, facet: &str) -> Option<Arc<str>> {
        self.messages += 1;
        if self.messages > PERIOD * self.most as u64 {
            self.halve();
        }
        if let Some(count) = self.shown.get_mut(facet) {
            *count += 1;
            return self.shown.get_key_value(facet).map(|(facet, _)| facet.clone());
        }
        let (facet, own) = self.count_other(facet);
        if self.ever.len() >= EVER * self.most && !self.ever.contains(&facet) {
            return None;
        }
        if self.shown.len() >= self.most {
            self.replace(own)?;
        }
        self.remove(&facet);
        self.ever.insert(facet.clone());
        self.shown.insert(facet.clone(), own);
        Some(facet)
    }

    /// Counts a message of a facet that is not shown. Returns what it had that is its own.
    fn count_other(&mut self, facet: &str) -> (Arc<str>, u64) {
        let counted = self.others.get_key_value(facet).map(|(facet, _)| facet.clone());
        let facet = counted.unwrap_or_else(|| facet.into());
        let mut count = self.remove(&facet).unwrap_or_default();
        if count.own == 0 && self.others.len() >= ROOM * self.most {
            count.inherited = self.order.pop_first().map_or(0, |(lowest, other)| {
                self.others.remove(&other);
                lowest
            });
        }
        count.own += 1;
        self.insert(facet.clone(), count);
        (facet, count.own)
    }

    /// Takes the place of the least busy that is shown, for one that had so many; or returns nothing.
    fn replace(&mut self, own: u64) -> Option<()> {
        if !own.is_multiple_of(MARGIN) {
            return None;
        }
        let (least, count) = self.shown.iter().min_by_key(|(_, count)| **count)?;
        let (least, count) = (least.clone(), *count);
        if own < 2 * count + MARGIN {
            return None;
        }
        self.shown.remove(&least);
        self.insert(least, Count { own: count, inherited: 0 });
        Some(())
    }

    fn insert(&mut self, facet: Arc<str>, count: Count) {
        self.order.insert((count.own + count.inherited, facet.clone()));
        self.others.insert(facet, count);
    }

    fn remove(&mut self, facet: &Arc<str>) -> Option<Count> {
        let count = self.others.remove(facet)?;
        self.order.remove(&(count.own + count.inherited, facet.clone()));
        Some(count)
    }

    fn halve(&mut self) {
        self.messages = 0;
        self.shown.values_mut().for_each(|count| *count /= 2);
        self.order.clear();
        for (facet, Count { own, inherited }) in std::mem::take(&mut self.others) {
            let count = Count { own: own / 2, inherited: inherited / 2 };
            if count.own > 0 {
                self.insert(facet, count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn busiest(most: usize) -> Busiest {
        let mut busiest = Busiest::default();
        busiest.show(most);
        busiest
    }

    fn shown(busiest: &Busiest) -> Vec<&str> {
        let mut shown: Vec<_> = busiest.shown.keys().map(|facet| &**facet).collect();
        shown.sort_unstable();
        shown
    }

    /// That nothing is larger than it may be, and that the counts are in their order.
    fn check(busiest: &Busiest) {
        assert!(busiest.shown.len() <= busiest.most);
        assert!(busiest.ever.len() <= EVER * busiest.most);
        assert!(busiest.others.len() <= ROOM * busiest.most);
        assert!(busiest.shown.keys().all(|facet| !busiest.others.contains_key(facet)));
        let order = busiest
            .others
            .iter()
            .map(|(facet, count)| (count.own + count.inherited, facet.clone()));
        assert_eq!(order.collect::<BTreeSet<_>>(), busiest.order);
    }

    #[test]
    fn of_100000_facets_at_most_ten_times_as_many_as_may_be_shown_ever_are() {
        let mut busiest = busiest(5);
        let mut ever = HashSet::new();
        // Each of them is for a while the busiest by far.
        for n in 0..100_000 {
            for _ in 0..(if n % 100 == 0 { 1000 } else { 3 }) {
                ever.extend(busiest.count(&n.to_string()));
            }
        }
        check(&busiest);
        assert_eq!(ever.len(), 50);
        assert_eq!(ever, busiest.ever);
    }

    #[test]
    fn of_many_that_are_as_busy_as_each_other_the_first_stay() {
        let mut busiest = busiest(5);
        for n in 0..1_000_000 {
            busiest.count(&(n % 2000).to_string());
        }
        assert_eq!(shown(&busiest), ["0", "1", "2", "3", "4"]);
        assert_eq!(busiest.ever.len(), 5);
    }

    #[test]
    fn those_that_are_busier_than_all_others_come_to_be_shown_and_leave_when_they_are_not_any_more()
    {
        let mut busiest = busiest(2);
        let mut quiet = (0..).map(|n| format!("quiet-{n}"));
        for (round, loud) in [["a", "b"], ["c", "d"], ["a", "d"]].into_iter().enumerate() {
            for n in 0..20_000 {
                busiest.count(loud[n % 2]);
                busiest.count(&quiet.next().unwrap());
            }
            assert_eq!(shown(&busiest), loud, "{round}");
        }
    }

    #[test]
    fn more_are_shown_when_somebody_wants_more_and_not_less_when_somebody_wants_less() {
        let mut busiest = busiest(1);
        assert!(busiest.count("a").is_some() && busiest.count("b").is_none());
        busiest.show(2);
        assert!(busiest.count("b").is_some());
        busiest.show(0);
        assert_eq!(shown(&busiest), ["a", "b"]);
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_what_it_takes_for_a_facets_own_never_is_more_than_that(
            most in 1..6usize,
            runs in prop::collection::vec((0..80u32, 1..200usize), 1..300),
        ) {
            let mut busiest = busiest(most);
            let (mut had, mut ever) = (HashMap::<String, u64>::new(), HashSet::new());
            for (facet, times) in runs {
                let facet = facet.to_string();
                for _ in 0..times {
                    let shown = busiest.count(&facet);
                    *had.entry(facet.clone()).or_default() += 1;
                    prop_assert_eq!(shown.is_some(), busiest.shown.contains_key(&*facet));
                    ever.extend(shown);
                }
                check(&busiest);
                let others = busiest.others.iter().map(|(facet, count)| (facet, count.own));
                for (facet, own) in others.chain(busiest.shown.iter().map(|(facet, count)| (facet, *count))) {
                    prop_assert!(own <= had[&**facet]);
                }
            }
            prop_assert_eq!(ever, busiest.ever);
        }
    }
}
