//! Destroy: a queue is closed at once, and removed in steps.

use std::sync::Arc;

use crate::{
    Error,
    connection::Repeat,
    core::{Core, read},
    error::Result,
    scripts,
    stats::stats,
};

/// The most facets whose messages one script removes.
const MOST: usize = 1000;

/// Whether a queue is to be closed, or only one that is closed to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    Yes,
    No,
}

/// Removes a queue, each step within the deadline.
pub(crate) async fn destroy(core: &Core, queue: &Arc<str>, begin: Begin) -> Result<()> {
    let unsure = match begin {
        // Sent again it could close a queue that somebody has registered anew meanwhile.
        Begin::Yes => match step(core, queue, begin, Repeat::Never).await {
            Ok(true) => None,
            Ok(false) => return Ok(()),
            Err(error @ Error::MaybeApplied(_)) => Some(error),
            Err(error) => return Err(error),
        },
        Begin::No => None,
    };
    while step(core, queue, Begin::No, Repeat::Safe).await? {}
    match unsure {
        // What is there now was never closed, or is there anew: the caller has to know.
        Some(error) => match stats(core, queue).await {
            Err(Error::NoSuchQueue(_)) => Ok(()),
            _ => Err(error),
        },
        None => Ok(()),
    }
}

/// Returns whether there is more to remove.
async fn step(core: &Core, queue: &str, begin: Begin, repeat: Repeat) -> Result<bool> {
    let mut command = core.command(&scripts::DESTROY, &[queue]);
    command.arg(queue).arg(MOST).arg(u8::from(begin == Begin::Yes));
    let reply = core.call(&scripts::DESTROY, &command, repeat).await?;
    Ok(read::<u8>(reply.value)? == 1)
}
