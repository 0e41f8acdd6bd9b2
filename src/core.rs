//! All that is not generic, behind every handle of a broker: the partitions, and what they share.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::{join_all, try_join_all};
use redis::{FromRedisValue, Value};
use tokio::{sync::watch, time::Instant};

use crate::{
    Error, MessageId,
    error::{Result, unexpected},
    partition::Partition,
    scripts::Script,
    subscriptions::Subscriptions,
    visits::Visits,
};

/// What ends with the last handle of a broker.
pub(crate) type Kept = Arc<dyn Any + Send + Sync>;

/// What only tests set.
#[derive(Default)]
pub(crate) struct Testing {
    /// The time that scripts are given, in ms since 1970, instead of that of Redis.
    pub(crate) clock: Option<Box<dyn Fn() -> u64 + Send + Sync>>,
    /// Tells that this time has been moved.
    pub(crate) moves: Option<watch::Receiver<Duration>>,
    /// Scripts that take the place of those of the same name.
    pub(crate) scripts: Vec<Script>,
}

impl Testing {
    pub(crate) fn now(&self) -> SystemTime {
        self.clock.as_ref().map_or_else(SystemTime::now, |clock| {
            SystemTime::UNIX_EPOCH + Duration::from_millis(clock())
        })
    }
}

/// What is behind every handle of a broker.
pub(crate) struct Core {
    /// At least one.
    pub(crate) partitions: Box<[Arc<Partition>]>,
    /// Which of them is served next.
    pub(crate) visits: Visits,
    /// The largest body that is delivered, in bytes.
    pub(crate) max_body: usize,
    /// The longest that a call may take.
    pub(crate) deadline: Duration,
    /// Those who listen.
    pub(crate) subscriptions: Subscriptions,
    pub(crate) _server: Option<Kept>,
}

impl Core {
    /// The one whose routes and settings the others follow.
    pub(crate) fn first(&self) -> &Arc<Partition> {
        &self.partitions[0]
    }

    /// The one that has a facet: the first eight bytes of its SHA-1 as a number, modulo how many
    /// there are, so that it is the same for everybody, for ever.
    pub(crate) fn of_facet(&self, facet: &str) -> &Arc<Partition> {
        if self.partitions.len() == 1 {
            return self.first();
        }
        let digest = sha1_smol::Sha1::from(facet).digest().bytes();
        let number = digest[..8].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        &self.partitions[(number % self.partitions.len() as u64) as usize]
    }

    /// The one that has a message.
    pub(crate) fn of_message(&self, id: MessageId) -> &Arc<Partition> {
        &self.partitions[(id.0 % self.partitions.len() as u64) as usize]
    }

    /// The places of things, by the partition that each is of.
    pub(crate) fn apart<'a, Thing>(
        &'a self,
        things: &[Thing],
        of: impl Fn(&Thing) -> &'a Arc<Partition>,
    ) -> Vec<(&'a Arc<Partition>, Vec<usize>)> {
        let mut places = vec![Vec::new(); self.partitions.len()];
        for (place, thing) in things.iter().enumerate() {
            places[of(thing).place as usize].push(place);
        }
        let parts = self.partitions.iter().zip(places);
        parts.filter(|(_, places)| !places.is_empty()).collect()
    }

    /// The time by which what is due at a time is checked.
    pub(crate) fn now(&self) -> SystemTime {
        self.first().now()
    }

    /// When a call that begins now has to end.
    pub(crate) fn end(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// Asks all partitions at once.
    pub(crate) async fn ask<'a, Out, Call: Future<Output = Result<Out>>>(
        &'a self,
        call: impl Fn(&'a Arc<Partition>) -> Call,
    ) -> Result<Vec<Out>> {
        match &*self.partitions {
            [one] => Ok(vec![call(one).await?]),
            all => try_join_all(all.iter().map(call)).await,
        }
    }

    /// Asks all partitions at once what they have of a queue.
    pub(crate) async fn ask_of<'a, Out, Call: Future<Output = Result<Out>>>(
        &'a self,
        queue: &Arc<str>,
        call: impl Fn(&'a Arc<Partition>) -> Call,
    ) -> Result<Vec<Out>> {
        some_have(self.ask(async |partition| if_there(call(partition).await)).await?, queue)
    }

    /// Does something to the first partition, and when that is done, to the others.
    pub(crate) async fn all<'a, Out, Call: Future<Output = Result<Out>>>(
        &'a self,
        call: impl Fn(&'a Arc<Partition>) -> Call,
    ) -> Result<Vec<Out>> {
        let mut done = vec![call(self.first()).await?];
        done.extend(self.others(call).await?);
        Ok(done)
    }

    /// Does something to all partitions but the first, at once. All are tried, whatever fails.
    pub(crate) async fn others<'a, Out, Call: Future<Output = Result<Out>>>(
        &'a self,
        call: impl Fn(&'a Arc<Partition>) -> Call,
    ) -> Result<Vec<Out>> {
        each(&self.partitions[1..], call).await
    }

    /// Does something to all partitions, at once. All are tried, whatever fails.
    pub(crate) async fn each<'a, Out, Call: Future<Output = Result<Out>>>(
        &'a self,
        call: impl Fn(&'a Arc<Partition>) -> Call,
    ) -> Result<Vec<Out>> {
        match &*self.partitions {
            [one] => Ok(vec![call(one).await?]),
            all => each(all, call).await,
        }
    }
}

/// What a partition has of a queue: none where the queue is not registered and it holds nothing of it.
pub(crate) fn if_there<Out>(asked: Result<Out>) -> Result<Option<Out>> {
    match asked {
        Err(Error::NoSuchQueue(_)) => Ok(None),
        asked => asked.map(Some),
    }
}

/// What those partitions have that have a queue. It is enough that one does.
pub(crate) fn some_have<Out>(asked: Vec<Option<Out>>, queue: &Arc<str>) -> Result<Vec<Out>> {
    let have: Vec<_> = asked.into_iter().flatten().collect();
    if have.is_empty() { Err(Error::NoSuchQueue(queue.clone())) } else { Ok(have) }
}

/// Does something to these partitions, at once. All are tried, whatever fails.
async fn each<'a, Out, Call: Future<Output = Result<Out>>>(
    partitions: &'a [Arc<Partition>],
    call: impl Fn(&'a Arc<Partition>) -> Call,
) -> Result<Vec<Out>> {
    let (mut done, mut missed, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    let outcomes = join_all(partitions.iter().map(call)).await;
    for (partition, outcome) in partitions.iter().zip(outcomes) {
        match outcome {
            Ok(out) => done.push(out),
            Err(error) => {
                missed.push(partition.place as u32);
                failed.push(error);
            }
        }
    }
    match Error::of_several(failed) {
        None => Ok(done),
        Some(error) => Err(Error::Partly { missed, source: Box::new(error) }),
    }
}

/// Reads a reply that a script of this version gives.
pub(crate) fn read<T: FromRedisValue>(value: Value) -> Result<T> {
    redis::from_redis_value(value)
        .map_err(|_| unexpected("a reply of a form that this version does not know"))
}

/// A field of what INFO and CLUSTER INFO say.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}
