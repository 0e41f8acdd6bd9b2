//! What is counted and measured, through the facade `metrics`. README has the table of it.
//!
//! Nothing is kept here but which facets are the busiest: each call asks the recorder for its series.
//! So it does not matter when a recorder is installed, and none is written to that has forgotten a
//! series. That costs an allocation or two a call and queue, not a message; of a worker, a message.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use ::metrics::{
    Label, SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    Delivery, Outcome, Receipt, Token, busiest::Busiest, core::Core, partition::Partition,
    settle::Settling, stats::stats,
};

const DELIVERED: &str = "fairlane_delivered_total";
const LEASED: &str = "fairlane_leased_total";
const PULLED: &str = "fairlane_pulled_total";
const ACKED: &str = "fairlane_acked_total";
const FAILED: &str = "fairlane_failed_total";
const GIVEN_BACK: &str = "fairlane_given_back_total";
const LOST: &str = "fairlane_lost_leases_total";
const DWELL: &str = "fairlane_dwell_seconds";
const HANDLING: &str = "fairlane_handling_seconds";
const WAITING: &str = "fairlane_waiting_messages";
const IN_HAND: &str = "fairlane_leased_messages";
const FACET_HANDLED: &str = "fairlane_facet_handled_total";
const FACET_HANDLING: &str = "fairlane_facet_handling_seconds";

/// How long a worker lets pass before it asks what its queues have, each time.
const BETWEEN: Duration = Duration::from_secs(5);

/// Namespace and queue.
type Whose = (Arc<str>, Arc<str>);

/// The busiest facets of each queue that a worker of this process has worked on.
static BUSIEST: Mutex<BTreeMap<Whose, Busiest>> = Mutex::new(BTreeMap::new());

/// Tells the recorder what all of them are.
pub(crate) fn describe() {
    describe_counter!(DELIVERED, "Messages put on a queue.");
    describe_counter!(LEASED, "Messages leased, each time.");
    describe_counter!(PULLED, "Messages pulled.");
    describe_counter!(ACKED, "Messages acked.");
    describe_counter!(FAILED, "Messages failed or buried.");
    describe_counter!(
        GIVEN_BACK,
        "Messages given back: nacked, held, or of a worker that stopped."
    );
    describe_counter!(LOST, "Leases found to be lost.");
    describe_histogram!(
        DWELL,
        Unit::Seconds,
        "From when a message could be served to its first lease."
    );
    describe_histogram!(HANDLING, Unit::Seconds, "How long a handler took, by what it returned.");
    describe_gauge!(WAITING, "Messages that wait to be served.");
    describe_gauge!(IN_HAND, "Messages that are leased.");
    describe_counter!(FACET_HANDLED, "Messages handled, by facet for the busiest.");
    describe_histogram!(
        FACET_HANDLING,
        Unit::Seconds,
        "How long handlers took, by facet for the busiest."
    );
}

/// What all series have: whose they are. There is room for a label of their own.
fn of(partition: &Partition, queue: impl Into<SharedString>) -> Vec<Label> {
    let mut labels = Vec::with_capacity(3);
    let namespace = Label::new("namespace", partition.keys.namespace.clone());
    labels.extend([namespace, Label::new("queue", queue)]);
    labels
}

/// These were delivered.
pub(crate) fn delivered(partition: &Partition, receipts: &[Receipt]) {
    let new = receipts.iter().filter(|receipt| !receipt.duplicate);
    for (queue, n) in by_queue(new.flat_map(|receipt| receipt.queues.iter())) {
        counter!(DELIVERED, of(partition, queue.clone())).increment(n);
    }
}

/// These were taken: when each could first be served, in ms since 1970, unless it was leased before.
pub(crate) fn taken(
    partition: &Partition,
    queue: &Arc<str>,
    leased: bool,
    first: impl ExactSizeIterator<Item = Option<u64>>,
) {
    if first.len() == 0 {
        return;
    }
    let name = if leased { LEASED } else { PULLED };
    counter!(name, of(partition, queue.clone())).increment(first.len() as u64);
    let dwell = histogram!(DWELL, of(partition, queue.clone()));
    let now = partition.now();
    for at in first.flatten() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at);
        dwell.record(now.duration_since(at).unwrap_or_default());
    }
}

/// These were settled.
pub(crate) fn settled<'a>(
    partition: &Partition,
    how: &Settling,
    tokens: impl Iterator<Item = &'a Token>,
) {
    let name = match how {
        Settling::Ack { .. } => ACKED,
        Settling::Fail { .. } => FAILED,
        Settling::Nack { .. } | Settling::HoldFacet { .. } => GIVEN_BACK,
        Settling::Extend { .. } => return,
    };
    for (queue, n) in by_queue(tokens.map(|token| &token.queue)) {
        counter!(name, of(partition, queue.clone())).increment(n);
    }
}

/// The lease of a message of this queue was lost.
pub(crate) fn lost(partition: &Partition, queue: &Arc<str>) {
    counter!(LOST, of(partition, queue.clone())).increment(1);
}

/// A handler has ended. So many facets are to have series of their own.
pub(crate) fn handled<T>(delivery: &Delivery<T>, outcome: &Outcome, took: Duration, facets: usize) {
    let (partition, queue) = (delivery.core.first(), &delivery.token().queue);
    let labels = |name, value: SharedString| {
        let mut labels = of(partition, queue.clone());
        labels.push(Label::new(name, value));
        labels
    };
    let outcome = match outcome {
        Outcome::Ack | Outcome::AckCost(_) => "ack",
        Outcome::Retry(_) => "retry",
        Outcome::Fail(_) => "fail",
        Outcome::Dead(_) => "dead",
        Outcome::Hold(_) => "hold",
    };
    histogram!(HANDLING, labels("outcome", outcome.into())).record(took);
    // No facet is empty.
    let facet = busiest(partition, queue, delivery.facet(), facets)
        .map_or(SharedString::const_str(""), Into::into);
    counter!(FACET_HANDLED, labels("facet", facet.clone())).increment(1);
    histogram!(FACET_HANDLING, labels("facet", facet)).record(took);
}

/// The facet, where it is one of the busiest of its queue.
fn busiest(
    partition: &Partition,
    queue: &Arc<str>,
    facet: &str,
    facets: usize,
) -> Option<Arc<str>> {
    if facets == 0 {
        return None;
    }
    let mut busiest = BUSIEST.lock().unwrap_or_else(PoisonError::into_inner);
    let of_queue = busiest.entry((partition.keys.namespace.clone(), queue.clone())).or_default();
    of_queue.show(facets);
    of_queue.count(facet)
}

fn by_queue<'a, Q: Ord>(queues: impl Iterator<Item = &'a Q>) -> BTreeMap<&'a Q, u64> {
    let mut counts = BTreeMap::new();
    for queue in queues {
        *counts.entry(queue).or_default() += 1;
    }
    counts
}

/// Asks now and then what these queues have, until this is dropped.
#[derive(Debug)]
pub(crate) struct Gauges {
    _task: JoinSet<()>,
}

impl Gauges {
    pub(crate) fn of(core: &Arc<Core>, queues: Vec<Arc<str>>) -> Self {
        let (core, mut task) = (core.clone(), JoinSet::new());
        task.spawn(async move {
            loop {
                sleep(BETWEEN).await;
                for queue in &queues {
                    // While Redis is away they stand still.
                    if let Ok(stats) = stats(&core, queue).await {
                        gauge!(WAITING, of(core.first(), queue.clone())).set(stats.waiting as f64);
                        gauge!(IN_HAND, of(core.first(), queue.clone())).set(stats.leased as f64);
                    }
                }
            }
        });
        Self { _task: task }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_has_a_table_of_all_names() {
        let readme = include_str!("../README.md");
        let mut named: Vec<_> = readme
            .lines()
            .filter_map(|line| line.strip_prefix("| `fairlane_")?.split('`').next())
            .map(|name| format!("fairlane_{name}"))
            .collect();
        named.sort_unstable();
        let mut names = [
            DELIVERED,
            LEASED,
            PULLED,
            ACKED,
            FAILED,
            GIVEN_BACK,
            LOST,
            DWELL,
            HANDLING,
            WAITING,
            IN_HAND,
            FACET_HANDLED,
            FACET_HANDLING,
        ];
        names.sort_unstable();
        assert_eq!(named, names);
    }
}
