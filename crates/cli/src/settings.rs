//! All that is set of a queue, as it is shown; and what is set of it alone, and of none of its facets.

use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use fairlane::{Backoff, Overflow, QueueSettings};
use serde::Serialize;

use crate::{
    arguments::{self, Setting},
    limit::FacetLimits,
    output::{Cell, Row},
    shown::{length, ms},
};

/// What is set of a queue; the names are those of the library.
#[derive(Debug, Serialize)]
pub(crate) struct QueueLimits {
    queue: String,
    facets: FacetLimits,
    overflow: &'static str,
    ttl_ms: Option<u64>,
    bury_expired: bool,
    max_attempts: u32,
    max_crashes: u32,
    backoff: Wait,
    max_dead: Option<u64>,
    max_dead_age_ms: Option<u64>,
}

/// How long a message waits that failed.
#[derive(Debug, Serialize)]
struct Wait {
    first_ms: u64,
    longest_ms: u64,
}

impl QueueLimits {
    /// Takes them over from the library.
    pub(crate) fn of(queue: String, settings: &QueueSettings) -> Self {
        let backoff = settings.backoff;
        Self {
            queue,
            facets: FacetLimits::of(&settings.facets),
            overflow: match settings.overflow {
                Overflow::Refuse => "refuse",
                Overflow::DropOldest => "drop_oldest",
                _ => "unknown", // Of a newer library.
            },
            ttl_ms: settings.ttl.map(ms),
            bury_expired: settings.bury_expired,
            max_attempts: settings.max_attempts,
            max_crashes: settings.max_crashes,
            backoff: Wait { first_ms: ms(backoff.first), longest_ms: ms(backoff.longest) },
            max_dead: settings.max_dead,
            max_dead_age_ms: settings.max_dead_age.map(ms),
        }
    }
}

impl Row for QueueLimits {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        let time = |ms| length(Duration::from_millis(ms));
        let mut columns = vec![("queue", Cell::text(&self.queue))];
        columns.extend(self.facets.columns());
        let Wait { first_ms, longest_ms } = self.backoff;
        columns.extend([
            ("overflow", Cell::Text(self.overflow.replace('_', " "))),
            ("ttl", Cell::any(self.ttl_ms.map(time))),
            ("bury expired", Cell::text(if self.bury_expired { "yes" } else { "no" })),
            ("max attempts", Cell::number(self.max_attempts)),
            ("max crashes", Cell::number(self.max_crashes)),
            ("backoff", Cell::Text(format!("{} to {}", time(first_ms), time(longest_ms)))),
            ("max dead", Cell::any(self.max_dead)),
            ("max dead age", Cell::any(self.max_dead_age_ms.map(time))),
        ]);
        columns
    }
}

/// What a queue has for all of its messages; none of a facet's own.
#[derive(Debug, Args)]
#[command(next_help_heading = "Of a queue alone")]
pub(crate) struct OfQueue {
    /// What is done where more messages of a facet come than may wait: the delivery is refused, or the
    /// oldest go to the dead letters
    #[arg(long, value_enum, conflicts_with = "facet")]
    overflow: Option<OnOverflow>,
    /// How often a message is leased before it is a dead letter, 1 to 1000000; 20 where nothing is said
    #[arg(long, value_name = "N", conflicts_with = "facet")]
    attempts: Option<u32>,
    /// How many of its leases may end before it is one, 1 to 1000000; 5 where nothing is said
    #[arg(long, value_name = "N", conflicts_with = "facet")]
    crashes: Option<u32>,
    /// How long a message waits that failed: after the first attempt, and at most; 1s..10m where nothing
    /// is said
    #[arg(long, value_name = "FIRST..LONGEST", value_parser = arguments::backoff, conflicts_with = "facet")]
    backoff: Option<Backoff>,
    /// For how long a message is good that does not say so itself
    #[arg(long, value_name = "TIME|none", value_parser = arguments::time, conflicts_with = "facet")]
    ttl: Option<Setting<Duration>>,
    /// Whether messages that expire go to the dead letters
    #[arg(long, value_name = "true|false", action = ArgAction::Set, conflicts_with = "facet")]
    bury_expired: Option<bool>,
    /// How many dead letters are kept
    #[arg(long, value_name = "N|none", conflicts_with = "facet")]
    dead: Option<Setting<u64>>,
    /// For how long dead letters are kept
    #[arg(long, value_name = "TIME|none", value_parser = arguments::time, conflicts_with = "facet")]
    dead_age: Option<Setting<Duration>>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnOverflow {
    Refuse,
    DropOldest,
}

impl OfQueue {
    /// Whether anything is to be set.
    pub(crate) fn any(&self) -> bool {
        let Self { overflow, attempts, crashes, backoff, ttl, bury_expired, dead, dead_age } = self;
        let numbers = attempts.is_some() || crashes.is_some() || dead.is_some();
        let times = backoff.is_some() || ttl.is_some() || dead_age.is_some();
        numbers || times || overflow.is_some() || bury_expired.is_some()
    }

    pub(crate) fn set(&self, queue: &mut QueueSettings) {
        let Self { overflow, attempts, crashes, backoff, ttl, bury_expired, dead, dead_age } = self;
        if let Some(overflow) = overflow {
            queue.overflow = match overflow {
                OnOverflow::Refuse => Overflow::Refuse,
                OnOverflow::DropOldest => Overflow::DropOldest,
            };
        }
        queue.max_attempts = attempts.unwrap_or(queue.max_attempts);
        queue.max_crashes = crashes.unwrap_or(queue.max_crashes);
        queue.backoff = backoff.unwrap_or(queue.backoff);
        queue.bury_expired = bury_expired.unwrap_or(queue.bury_expired);
        queue.ttl = ttl.map_or(queue.ttl, |Setting(ttl)| ttl);
        queue.max_dead = dead.map_or(queue.max_dead, |Setting(most)| most);
        queue.max_dead_age = dead_age.map_or(queue.max_dead_age, |Setting(age)| age);
    }
}
