//! All that is set of a queue, as it is shown.

use std::time::Duration;

use fairlane::{Overflow, QueueSettings};
use serde::Serialize;

use crate::{
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
