//! `fairlane stats`

use clap::Args;
use fairlane::Stats;
use serde::Serialize;

use crate::{
    connect::Connect,
    failure::Failure,
    output::{Cell, Output, Row},
};

/// Counts what queues have, and had since their beginning
#[derive(Debug, Args)]
pub(crate) struct StatsOf {
    /// The queues [default: all that are registered]
    #[arg(value_name = "QUEUE")]
    queues: Vec<String>,
}

/// What a queue has and had; the names are those of the library.
#[derive(Debug, Serialize)]
struct Counts {
    queue: String,
    paused: bool,
    waiting: u64,
    leased: u64,
    delayed: u64,
    dead: u64,
    holds: u64,
    facets_ready: u64,
    facets_parked: u64,
    facets_in_debt: u64,
    delivered: u64,
    served: u64,
    acked: u64,
    came_back: u64,
    refused: u64,
    expired: u64,
    died: u64,
    dropped: u64,
    purged: u64,
}

impl Counts {
    fn of(queue: String, stats: &Stats) -> Self {
        Self {
            queue,
            paused: stats.paused,
            waiting: stats.waiting,
            leased: stats.leased,
            delayed: stats.delayed,
            dead: stats.dead,
            holds: stats.holds,
            facets_ready: stats.facets_ready,
            facets_parked: stats.facets_parked,
            facets_in_debt: stats.facets_in_debt,
            delivered: stats.delivered,
            served: stats.served,
            acked: stats.acked,
            came_back: stats.came_back,
            refused: stats.refused,
            expired: stats.expired,
            died: stats.died,
            dropped: stats.dropped,
            purged: stats.purged,
        }
    }
}

impl Row for Counts {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        vec![
            ("queue", Cell::text(&self.queue)),
            ("paused", Cell::text(if self.paused { "yes" } else { "no" })),
            ("waiting", Cell::number(self.waiting)),
            ("leased", Cell::number(self.leased)),
            ("delayed", Cell::number(self.delayed)),
            ("dead", Cell::number(self.dead)),
            ("holds", Cell::number(self.holds)),
            ("facets ready", Cell::number(self.facets_ready)),
            ("facets parked", Cell::number(self.facets_parked)),
            ("facets in debt", Cell::number(self.facets_in_debt)),
            ("delivered", Cell::number(self.delivered)),
            ("served", Cell::number(self.served)),
            ("acked", Cell::number(self.acked)),
            ("came back", Cell::number(self.came_back)),
            ("refused", Cell::number(self.refused)),
            ("expired", Cell::number(self.expired)),
            ("died", Cell::number(self.died)),
            ("dropped", Cell::number(self.dropped)),
            ("purged", Cell::number(self.purged)),
        ]
    }
}

/// What fits into a line of a table of several queues; one alone has all of it.
const BRIEF: [&str; 10] = [
    "queue",
    "paused",
    "waiting",
    "leased",
    "delayed",
    "dead",
    "facets ready",
    "delivered",
    "served",
    "acked",
];

#[derive(Serialize)]
#[serde(transparent)]
struct Brief(Counts);

impl Row for Brief {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        self.0.columns().into_iter().filter(|(name, _)| BRIEF.contains(name)).collect()
    }
}

impl StatsOf {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let broker = connect.broker().await?;
        let alone = self.queues.len() == 1;
        let mut all = Vec::new();
        for queue in named_or_all(&broker, self.queues).await? {
            let stats = broker.queue(&queue).stats().await?;
            all.push(Counts::of(queue, &stats));
        }
        match all.pop() {
            Some(counts) if alone => output.record(&counts),
            last => {
                let brief: Vec<_> = all.into_iter().chain(last).map(Brief).collect();
                output.rows(&brief, "no queue is registered")
            }
        }
    }
}

/// The queues that are named, or all that are registered where none is.
pub(crate) async fn named_or_all<T>(
    broker: &fairlane::Broker<T>,
    named: Vec<String>,
) -> Result<Vec<String>, Failure> {
    if !named.is_empty() {
        return Ok(named);
    }
    Ok(broker.queues().await?.into_iter().map(|route| route.queue).collect())
}
