//! Destroy: a queue is closed at once, and removed in steps.

use crate::{
    connection::Repeat,
    core::{Core, read},
    error::Result,
    scripts,
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
pub(crate) async fn destroy(core: &Core, queue: &str, mut begin: Begin) -> Result<()> {
    loop {
        let mut command = core.command(&scripts::DESTROY, &[queue]);
        command.arg(queue).arg(MOST).arg(u8::from(begin == Begin::Yes));
        let reply = core.call(&scripts::DESTROY, &command, Repeat::Safe).await?;
        if read::<u8>(reply.value)? == 0 {
            return Ok(());
        }
        begin = Begin::No;
    }
}
