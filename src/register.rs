//! Routes are registered on the first partition, and brought from there to the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

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
/// The most removals that one script forgets.
const MOST_FORGOTTEN: usize = 1000;

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
    command.arg(name).arg(u8::from(partition.is_followed()));
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

/// What a partition says of a route: its pattern, and the version that removed it lately.
type Said = (Option<String>, Option<String>);

async fn said(partition: &Partition, name: &str, end: Instant) -> Result<Said> {
    let mut command = redis::cmd("HMGET");
    command.arg(partition.keys.routes()).arg(name).arg(format!(":gone:{name}"));
    read(partition.ask(&command, end).await?)
}

/// Brings a route from the first partition to the others, as it is there, or that it is gone: somebody else
/// may change it meanwhile.
pub(crate) async fn spread(core: &Core, name: &str) -> Result<()> {
    let first = core.first();
    if !first.is_followed() {
        return Ok(());
    }
    let of_first = async || {
        let missed = || (1..core.partitions.len() as u32).collect();
        let said = said(first, name, core.end()).await;
        said.map_err(|error| Error::Partly { missed: missed(), source: Box::new(error) })
    };
    let mut there = of_first().await?;
    for _ in 0..ROUNDS {
        core.others(|partition| set(partition, name, there.0.as_deref())).await?;
        let now = of_first().await?;
        if now == there {
            return Ok(());
        }
        there = now;
    }
    warn!(target: "fairlane", queue = name, "its route is changed all the time: partitions may differ");
    Ok(())
}

/// Forgets removals that have reached all partitions some time ago. What is not forgotten now is so at a later
/// connect.
async fn forget(first: &Partition, gone: &[String], end: Instant) -> Result<()> {
    for gone in gone.chunks(MOST_FORGOTTEN) {
        let mut command = first.command(&scripts::FORGET, &[]);
        command.arg(gone);
        first.call_until(&scripts::FORGET, &command, Repeat::Safe, end).await?;
    }
    Ok(())
}

/// Loads the routes of all partitions, and mends those that have others than the first: somebody may not
/// have reached them. What the first has lost in a crash it gets back from the others; what was removed
/// there is marked.
pub(crate) async fn load(core: &Core, end: Instant) -> Result<()> {
    for _ in 0..ROUNDS {
        let routes = core.ask(|partition| partition.load_routes(None, end)).await?;
        let first = of(&routes[0]);
        let others = core.partitions.iter().zip(routes.iter().map(of));
        let unlike: Vec<_> = others.filter(|(_, other)| *other != first).collect();
        let mended = match unlike.is_empty() {
            true => vec![forget(core.first(), &routes[0].gone, end).await],
            false => {
                let mending = unlike.iter().map(|(partition, other)| {
                    let names = first.keys().chain(other.keys()).copied();
                    let names = names.filter(|name| first.get(name) != other.get(name));
                    mend(core, partition, names.collect(), end)
                });
                join_all(mending).await
            }
        };
        if let Some(error) = mended.into_iter().find_map(Result::err) {
            let error = chain(&error);
            debug!(target: "fairlane", %error, "routes could not be mended");
            break;
        }
        if unlike.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Mends the routes of a partition that differ from those of the first.
async fn mend(
    core: &Core,
    partition: &Partition,
    names: BTreeSet<&str>,
    end: Instant,
) -> Result<()> {
    let first = core.first();
    for name in names {
        // What is new on all of them was not yet there when the first was asked.
        match said(first, name, end).await? {
            // It was lost, where the other still has it: what was removed has a mark.
            (None, None) => {
                if let (Some(pattern), _) = said(partition, name, end).await? {
                    register(first, name, &pattern).await?;
                }
            }
            (pattern, _) => set(partition, name, pattern.as_deref()).await?,
        }
    }
    warn!(target: "fairlane", partition = partition.place, "its routes were not those of the others: mended");
    Ok(())
}

/// The patterns, by the names of their queues.
fn of(routes: &Arc<Routes>) -> BTreeMap<&str, &str> {
    routes.all.iter().map(|route| (&*route.queue, &*route.pattern)).collect()
}
