//! The end of what runs until somebody ends it.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Ends with Ctrl-C, or when it is told to end. From this call on neither ends the process by itself,
/// so it is made once and kept.
pub(crate) fn stop() -> io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
