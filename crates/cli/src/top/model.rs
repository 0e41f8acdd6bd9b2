//! What is known of the queues, and of the facets of the one that is chosen.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, SystemTime},
};

use fairlane::Stats;

use super::{facets::Facets, watch::News};

/// How far back the chart goes.
pub(super) const HISTORY: Duration = Duration::from_secs(300);
/// Two counts that are closer than this make no figure.
const LEAST: Duration = Duration::from_millis(100);

/// What a queue had a second, up to a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) at: Duration,
    pub(super) delivered: f64,
    pub(super) served: f64,
}

/// A queue that is known.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Whether it has a route.
    pub(super) registered: bool,
    pub(super) stats: Option<Stats>,
    /// Delivered and served a second, the newest last.
    pub(super) history: VecDeque<Point>,
    counted: Duration,
}

impl Queue {
    fn see(&mut self, at: Duration, stats: Stats) {
        if let Some(before) = &self.stats {
            let gap = at.saturating_sub(self.counted);
            if gap < LEAST {
                return;
            }
            let grown =
                |now: u64, before: u64| Some(now.checked_sub(before)? as f64 / gap.as_secs_f64());
            let delivered = grown(stats.delivered, before.delivered);
            match delivered.zip(grown(stats.served, before.served)) {
                Some((delivered, served)) => {
                    self.history.push_back(Point { at, delivered, served });
                }
                None => self.history.clear(), // It is another queue of that name.
            }
            while self.history.front().is_some_and(|point| point.at + HISTORY < at) {
                self.history.pop_front();
            }
        }
        (self.stats, self.counted) = (Some(stats), at);
    }

    /// Delivered a second.
    pub(super) fn delivered(&self) -> Option<f64> {
        self.history.back().map(|point| point.delivered)
    }

    /// Pulled or leased a second.
    pub(super) fn served(&self) -> Option<f64> {
        self.history.back().map(|point| point.served)
    }
}

/// All that is known.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) queues: BTreeMap<String, Queue>,
    /// The queue whose facets these are.
    pub(super) queue: Option<String>,
    pub(super) facets: Facets,
    /// How long this has been running.
    pub(super) now: Duration,
    /// The time of day.
    pub(super) clock: SystemTime,
    /// Why Redis gives no answers now.
    pub(super) away: Option<String>,
    /// Why there is nothing of the chosen queue.
    pub(super) missing: Option<String>,
}

impl Model {
    pub(super) fn new(queue: Option<String>) -> Self {
        let queues = queue.iter().map(|name| (name.clone(), Queue::default())).collect();
        Self {
            queues,
            queue,
            facets: Facets::default(),
            now: Duration::ZERO,
            clock: SystemTime::now(),
            away: None,
            missing: None,
        }
    }

    /// Chooses the queue whose facets are to be known.
    pub(super) fn choose(&mut self, queue: Option<&str>) {
        if self.queue.as_deref() != queue {
            self.queue = queue.map(Into::into);
            self.facets = Facets::default();
            self.missing = None;
        }
    }

    /// Takes in what was found. `wanted`: which facets are to be kept before others.
    pub(super) fn learn(&mut self, at: Duration, news: News, wanted: impl Fn(&str) -> bool) {
        match news {
            News::Queues(names) => {
                for queue in self.queues.values_mut() {
                    queue.registered = false;
                }
                for name in names {
                    self.queues.entry(name).or_default().registered = true;
                }
                let chosen = &self.queue;
                self.queues.retain(|name, queue| {
                    queue.registered || queue.stats.is_some() || Some(name) == chosen.as_ref()
                });
            }
            News::Stats(name, stats) => {
                if self.queue.as_ref() == Some(&name) {
                    self.missing = None;
                }
                self.queues.entry(name).or_default().see(at, stats);
            }
            News::NoSuchQueue(name, text) => {
                if let Some(queue) = self.queues.get_mut(&name) {
                    let registered = queue.registered;
                    *queue = Queue { registered, ..Queue::default() };
                }
                if self.queue.as_ref() == Some(&name) {
                    self.facets = Facets::default();
                    self.missing = Some(text);
                }
            }
            News::Page { queue, facets, last } if self.queue.as_ref() == Some(&queue) => {
                for (name, look) in facets {
                    self.facets.list(at, &name, look);
                }
                if last {
                    self.facets.end_round();
                }
                self.facets.bound(wanted);
            }
            News::Why { queue, facets } if self.queue.as_ref() == Some(&queue) => {
                for (name, look, reason) in facets {
                    self.facets.answer(at, &name, look, reason);
                }
            }
            News::Page { .. } | News::Why { .. } => {} // Of the queue that was chosen before.
            News::Trouble(text) => self.away = Some(text),
            News::Fine => self.away = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// `Stats` cannot be written as a literal outside of the library.
    fn stats(delivered: u64, served: u64) -> Stats {
        let mut stats = Stats::default();
        (stats.delivered, stats.served) = (delivered, served);
        stats
    }

    #[test]
    fn what_a_queue_had_a_second_is_what_its_counts_grew_by() {
        let mut queue = Queue::default();
        queue.see(at(1.0), stats(100, 50));
        assert_eq!((queue.delivered(), queue.served()), (None, None));
        queue.see(at(3.0), stats(120, 50));
        assert_eq!((queue.delivered(), queue.served()), (Some(10.0), Some(0.0)));
        queue.see(at(3.05), stats(130, 60));
        queue.see(at(4.0), stats(130, 60));
        assert_eq!((queue.delivered(), queue.served()), (Some(10.0), Some(10.0)));
    }

    #[test]
    fn a_queue_that_was_destroyed_and_registered_anew_begins_anew() {
        let mut queue = Queue::default();
        for (second, count) in [(1.0, 100), (2.0, 200), (3.0, 5)] {
            queue.see(at(second), stats(count, count));
        }
        assert_eq!(queue.delivered(), None);
        queue.see(at(4.0), stats(7, 5));
        assert_eq!(queue.delivered(), Some(2.0));
    }

    #[test]
    fn the_chart_keeps_five_minutes() {
        let mut queue = Queue::default();
        for second in 0..1000 {
            queue.see(at(f64::from(second)), stats(0, 0));
        }
        assert_eq!(queue.history.len(), 301);
    }

    #[test]
    fn what_is_found_of_a_queue_that_is_no_longer_chosen_is_dropped() {
        let mut model = Model::new(Some("a".into()));
        let page = || News::Page {
            queue: "a".into(),
            facets: vec![("f".into(), super::super::facets::tests::look(1.0))],
            last: true,
        };
        model.learn(at(1.0), page(), |_| false);
        assert_eq!(model.facets.len(), 1);
        model.choose(Some("b"));
        model.learn(at(1.0), page(), |_| false);
        assert_eq!(model.facets.len(), 0);
    }

    #[test]
    fn a_queue_that_does_not_exist_is_told_and_stays_while_it_is_chosen() {
        let mut model = Model::new(Some("gone".into()));
        model.learn(at(1.0), News::NoSuchQueue("gone".into(), "no".into()), |_| false);
        assert_eq!(model.missing.as_deref(), Some("no"));
        model.learn(at(1.0), News::Queues(vec!["other".into()]), |_| false);
        assert!(model.queues.contains_key("gone"));
        model.choose(Some("other"));
        model.learn(at(2.0), News::Queues(vec!["other".into()]), |_| false);
        assert!(!model.queues.contains_key("gone"));
        assert_eq!(model.missing, None);
    }
}
