//! Routes are registered on the first partition, and brought from there to the others.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    Error,
    connection::Repeat,
    core::{Core, read},
    destroy::remove,
    error::{Result, chain},
    partition::Partition,
    routes::Routes,
    scripts,
};

/// How often routes or settings are compared that somebody else changes meanwhile.
pub(crate) const ROUNDS: usize = 10;

/// Sets a route of a partition.
pub(crate) async fn register(partition: &Partition, name: &str, pattern: &str) -> Result<()> {
    let mut command = partition.command(&scripts::REGISTER_QUEUE, &[name]);
    command.arg(name).arg(pattern).arg(partition.layout.to_string());
    loop {
        match partition.call(&scripts::REGISTER_QUEUE, &command, Repeat::Safe).await {
            // Somebody has begun to destroy it: that is brought to its end first.
            Err(Error::Server { code, .. }) if code == "CLOSED" => remove(partition, name).await?,
            result => return result.map(drop),
        }
    }
}

/// Removes a route of a partition. Returns whether there was one.
pub(crate) async fn unregister(partition: &Partition, name: &str) -> Result<bool> {
    let mut command = partition.command(&scripts::UNREGISTER_QUEUE, &[]);
    command.arg(name);
    let reply = partition.call(&scripts::UNREGISTER_QUEUE, &command, Repeat::Safe).await?;
    // Sent again, it may have found its own work done.
    Ok(reply.repeated || read::<u8>(reply.value)? == 1)
}

/// Gives a partition this route, or takes it away.
async fn set(partition: &Partition, name: &str, pattern: Option<&str>) -> Result<()> {
    match pattern {
        Some(pattern) => register(partition, name, pattern).await,
        None => unregister(partition, name).await.map(drop),
    }
}

/// The pattern of a route of a partition now, where there is one.
async fn route(partition: &Partition, name: &str, end: Instant) -> Result<Option<String>> {
    let mut command = redis::cmd("HGET");
    command.arg(partition.keys.routes()).arg(name);
    read(partition.ask(&command, end).await?)
}

/// Brings a route from the first partition to the others, as it is there: somebody else may change it
/// meanwhile.
pub(crate) async fn spread(core: &Core, name: &str, pattern: Option<&str>) -> Result<()> {
    if core.partitions.len() == 1 {
        return Ok(());
    }
    let first = core.first();
    let mut pattern = pattern.map(str::to_owned);
    for _ in 0..ROUNDS {
        core.others(|partition| set(partition, name, pattern.as_deref())).await?;
        let now = route(first, name, core.end()).await?;
        if now == pattern {
            return Ok(());
        }
        pattern = now;
    }
    warn!(target: "fairlane", queue = name, "its route is changed all the time: partitions may differ");
    Ok(())
}

/// Loads the routes of all partitions, and mends those that have others than the first: somebody may not
/// have reached them. What the first has lost in a crash it gets back from the others.
pub(crate) async fn load(core: &Core, end: Instant) -> Result<()> {
    for _ in 0..ROUNDS {
        let routes = core.ask(|partition| partition.load_routes(None, end)).await?;
        let first = of(&routes[0]);
        let unlike: Vec<_> =
            core.partitions.iter().zip(&routes).filter(|(_, other)| of(other) != first).collect();
        let mending = unlike.iter().map(async |(partition, theirs)| {
            let other = of(theirs);
            let mut names: Vec<_> = first.keys().chain(other.keys()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names.into_iter().filter(|name| first.get(*name) != other.get(*name)) {
                // What is new on all of them was not yet there when the first was asked.
                let now = route(core.first(), name, end).await?;
                match other.get(name).filter(|_| now.is_none()) {
                    // Whoever removes a route begins with the first, and makes it newer.
                    Some(pattern) if !routes[0].are_newer_than(theirs) => {
                        register(core.first(), name, pattern).await?;
                    }
                    _ => set(partition, name, now.as_deref()).await?,
                }
            }
            warn!(target: "fairlane", partition = partition.place, "its routes were not those of the others: mended");
            Ok::<_, Error>(())
        });
        let mended = join_all(mending).await;
        if mended.is_empty() {
            break;
        }
        if let Some(error) = mended.into_iter().find_map(Result::err) {
            let error = chain(&error);
            debug!(target: "fairlane", %error, "routes could not be mended");
            break;
        }
    }
    Ok(())
}

/// The patterns, by the names of their queues.
fn of(routes: &Arc<Routes>) -> BTreeMap<&str, &str> {
    routes.all.iter().map(|route| (&*route.queue, &*route.pattern)).collect()
}
