//! Whether Redis answers, and how the connections to it are.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::{Cause, connection::Seen, core::Core, error::Result, partition::Partition};

/// How a broker's connections to Redis are; made by [`Broker::health`](crate::Broker::health).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Health {
    /// Each partition of the namespace, in the order of their numbers; of one that is not divided, the
    /// one that it is.
    pub partitions: Vec<PartitionHealth>,
}

/// How the connection to a partition is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PartitionHealth {
    /// Its number.
    pub partition: u32,
    /// The server that has it, as far as that is known.
    pub address: String,
    /// How long it took to answer now, where it did: a script of the namespace, which a server that takes
    /// no writes refuses.
    pub answer: Result<Duration>,
    /// How long ago it answered before that, to whatever call or heartbeat.
    pub answered: Option<Duration>,
    /// How many connections were made so far: 1 while the first one lasts.
    pub connections: u64,
    /// Why the last connection broke, or could not be made, where it has not been made anew.
    pub error: Option<Cause>,
}

impl Health {
    /// Whether all partitions have answered.
    pub fn is_good(&self) -> bool {
        self.partitions.iter().all(|partition| partition.answer.is_ok())
    }
}

pub(crate) async fn health(core: &Core) -> Health {
    let all = core.partitions.iter().map(|partition| of_one(partition));
    Health { partitions: join_all(all).await }
}

async fn of_one(partition: &Partition) -> PartitionHealth {
    let Seen { answered, .. } = partition.connection.seen();
    let answered = answered.map(|last| last.elapsed());
    let begun = Instant::now();
    let answer = partition.layout(None, partition.connection.end()).await;
    let Seen { connections, error, .. } = partition.connection.seen();
    PartitionHealth {
        partition: partition.place as u32,
        address: partition.connection.link.address().to_string(),
        answer: answer.map(|_| begun.elapsed()),
        answered,
        connections,
        error,
    }
}
