//! Destroy: a queue is closed at once, and removed in steps.

use std::sync::Arc;

use tracing::debug;

use crate::{
    Error,
    connection::Repeat,
    core::{Core, read},
    error::{Result, chain},
    partition::Partition,
    register::spread,
    scripts,
    stats::stats_of_one,
};

/// The most facets whose messages one script removes.
const MOST: usize = 1000;

/// Closes a queue and removes it, each step within the deadline.
pub(crate) async fn destroy(core: &Core, queue: &Arc<str>) -> Result<()> {
    core.all(|partition| destroy_one(partition, queue)).await?;
    // Somebody may have registered it anew before the others were closed.
    if let Err(error) = spread(core, queue).await {
        let error = chain(&error);
        debug!(target: "fairlane", queue = &**queue, %error, "destroyed; the next connect compares its routes");
    }
    Ok(())
}

async fn destroy_one(partition: &Partition, queue: &Arc<str>) -> Result<()> {
    // Sent again it could close a queue that somebody has registered anew meanwhile.
    match step(partition, queue, true, Repeat::Never).await {
        Ok(true) => remove(partition, queue).await,
        Err(error @ Error::MaybeApplied(_)) => {
            let left = async {
                remove(partition, queue).await?;
                stats_of_one(partition, queue).await
            };
            match left.await {
                Err(Error::NoSuchQueue(_)) => Ok(()),
                // What is there was never closed, or is there anew, or nobody says: the caller has to know.
                _ => Err(error),
            }
        }
        result => result.map(drop),
    }
}

/// Removes a queue, if it is closed, each step within the deadline.
pub(crate) async fn remove(partition: &Partition, queue: &str) -> Result<()> {
    while step(partition, queue, false, Repeat::Safe).await? {}
    Ok(())
}

/// Returns whether there is more to remove.
async fn step(partition: &Partition, queue: &str, closes: bool, repeat: Repeat) -> Result<bool> {
    let mut command = partition.command(&scripts::DESTROY, &[queue]);
    let marks = closes && partition.is_followed();
    command.arg(queue).arg(MOST).arg(u8::from(closes)).arg(u8::from(marks));
    let reply = partition.call(&scripts::DESTROY, &command, repeat).await?;
    Ok(read::<u8>(reply.value)? == 1)
}
