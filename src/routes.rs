//! Routes: which queues a topic goes to. The client matches; Redis only checks that nothing has
//! changed since.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use tracing::{error, warn};

use crate::{Invalid, keys::check_name};

/// The longest pattern, in bytes.
const MOST_PATTERN: usize = 4096;
/// The most that one pattern may compile to, in bytes.
const MOST_COMPILED: usize = 1 << 20;
/// How many topics are remembered with their queues.
const MOST_TOPICS: usize = 10_000;

/// A queue and the topics that go to it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The name of the queue.
    pub queue: String,
    /// A regular expression of the `regex` crate, not anchored.
    pub pattern: String,
}

/// All routes at one version of them.
#[derive(Debug)]
pub(crate) struct Routes {
    /// As Redis has it, whatever it is.
    pub(crate) version: Vec<u8>,
    /// As they are registered, in the order of their names; those that match nothing too.
    pub(crate) all: Vec<Route>,
    /// The queues that were removed lately.
    pub(crate) gone: Vec<String>,
    set: RegexSet,
    /// The queues of `set`, in its order.
    queues: Vec<String>,
    /// Topics that were matched before. It starts anew when it is full, and with each version.
    known: RwLock<HashMap<Box<str>, Arc<[String]>>>,
}

impl Routes {
    /// Reads what `queues.lua` returns: names and patterns in turn, and among them the version.
    pub(crate) fn new(pairs: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        let mut version = b"0".to_vec();
        let (mut all, mut gone) = (Vec::new(), Vec::new());
        for (queue, pattern) in pairs {
            if queue == b":version" {
                version = pattern;
                continue;
            }
            if let Some(queue) = queue.strip_prefix(b":gone:") {
                let queue = String::from_utf8_lossy(queue).into_owned();
                gone.extend(check_name(&queue).is_ok().then_some(queue));
                continue;
            }
            match (String::from_utf8(queue), String::from_utf8(pattern)) {
                (Ok(queue), Ok(pattern)) if check_name(&queue).is_ok() => {
                    all.push(Route { queue, pattern });
                }
                (queue, pattern) => {
                    warn!(target: "fairlane", ?queue, ?pattern, "no route of ours: it matches nothing");
                }
            }
        }
        all.sort_unstable_by(|a, b| a.queue.cmp(&b.queue));
        let (set, queues) = compile(&all);
        Self { version, all, gone, set, queues, known: RwLock::default() }
    }

    /// The queues that a topic goes to, in the order of their names.
    pub(crate) fn queues_of(&self, topic: &str) -> Arc<[String]> {
        if let Some(queues) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(topic) {
            return queues.clone();
        }
        let matched = self.set.matches(topic).into_iter();
        let queues: Arc<[String]> = matched.map(|at| self.queues[at].clone()).collect();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_TOPICS {
            known.clear();
        }
        known.insert(topic.into(), queues.clone());
        queues
    }
}

/// Compiles all routes into one set. Another writer's route that does not compile is reported and
/// left out; it does not stop the others.
fn compile(all: &[Route]) -> (RegexSet, Vec<String>) {
    let set_of = |routes: &[&Route], most| {
        let patterns = routes.iter().map(|route| &route.pattern);
        RegexSetBuilder::new(patterns).size_limit(most).build()
    };
    let mut routes: Vec<_> = all.iter().collect();
    let set = set_of(&routes, MOST_COMPILED.saturating_mul(all.len().max(1))).or_else(|_| {
        routes.retain(|route| match check_pattern(&route.pattern) {
            Ok(()) => true,
            Err(error) => {
                let (queue, problem) = (&route.queue, error.to_string());
                warn!(target: "fairlane", queue, problem, "a route that matches nothing");
                false
            }
        });
        set_of(&routes, usize::MAX)
    });
    match set {
        Ok(set) => (set, routes.into_iter().map(|route| route.queue.clone()).collect()),
        Err(error) => {
            error!(target: "fairlane", %error, "the routes do not compile together: none matches");
            (RegexSet::empty(), Vec::new())
        }
    }
}

/// Checks a pattern before it is registered.
pub(crate) fn check_pattern(pattern: &str) -> Result<(), Invalid> {
    match pattern.len() {
        0 => return Err(Invalid::Empty { what: "pattern" }),
        1..=MOST_PATTERN => {}
        len => return Err(Invalid::TooLong { what: "pattern", len, most: MOST_PATTERN }),
    }
    let compiled: Result<Regex, _> = RegexBuilder::new(pattern).size_limit(MOST_COMPILED).build();
    compiled.map(drop).map_err(|source| Invalid::Pattern { source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(pairs: &[(&str, &str)]) -> Routes {
        Routes::new(pairs.iter().map(|(a, b)| (a.as_bytes().to_vec(), b.as_bytes().to_vec())))
    }

    #[test]
    fn a_pattern_is_not_anchored_and_means_what_the_regex_crate_says() {
        let cases = [
            ("invite|remind", "send_reinvites", true),
            (r"^\d+$", "12", true),
            ("a{2}", "baab", true),
            ("user-created", "user-created", true),
            ("^invite", "reinvite", false),
        ];
        for (pattern, topic, expected) in cases {
            let queues = routes(&[("q", pattern)]).queues_of(topic);
            assert_eq!(!queues.is_empty(), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn a_route_that_does_not_compile_matches_nothing_and_stops_no_other() {
        let pairs =
            [("bad", "["), ("a:b", "."), ("good", "x"), (":version", "7"), (":gone:x", "6")];
        let routes = routes(&pairs);
        assert_eq!((&*routes.version, &*routes.gone), (&b"7"[..], &["x".to_owned()][..]));
        assert_eq!(*routes.queues_of("x"), ["good".to_owned()]);
        assert_eq!(routes.all.len(), 2, "it is still listed");
    }

    #[test]
    fn the_remembered_topics_are_bounded() {
        let routes = routes(&[("q", "1")]);
        for topic in 0..=MOST_TOPICS {
            routes.queues_of(&topic.to_string());
        }
        assert!(routes.known.read().unwrap().len() <= MOST_TOPICS);
        assert_eq!(routes.queues_of("1").len(), 1);
    }

    #[test]
    fn a_pattern_that_is_too_large_is_refused() {
        assert!(matches!(check_pattern(""), Err(Invalid::Empty { .. })));
        assert!(matches!(check_pattern(&"x".repeat(4097)), Err(Invalid::TooLong { .. })));
        assert!(matches!(check_pattern(r"(\w{100}){100}"), Err(Invalid::Pattern { .. })));
        assert!(matches!(check_pattern("["), Err(Invalid::Pattern { .. })));
    }
}
