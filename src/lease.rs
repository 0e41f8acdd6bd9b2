//! Lease: at least once.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;
use tracing::warn;

use crate::{
    Error, Invalid, Token,
    core::Core,
    error::{Cause, Result},
    opaque_debug,
    settle::{Settling, settle},
    take::{Taken, take},
};

/// Messages that are about to be leased; made by [`Queue::lease`](crate::Queue::lease) and
/// [`Queue::lease_many`](crate::Queue::lease_many).
///
/// It owns what it needs, so that it can be spawned (with `.into_future()`). When its future is
/// dropped after the call was sent, what was leased goes back to the front of its facet by itself,
/// and its attempt is not counted.
#[must_use = "nothing is leased until this is awaited"]
pub struct Lease<Out> {
    pub(crate) core: Arc<Core>,
    pub(crate) queue: Arc<str>,
    pub(crate) most: usize,
    pub(crate) length: Duration,
    pub(crate) finish: Box<dyn FnOnce(Vec<Taken>, Duration) -> Out + Send>,
}

opaque_debug!(Lease<Out>);

impl<Out> Lease<Out> {
    /// The length of the lease, 1 ms to 12 h, in whole milliseconds. Defaults to 30 seconds.
    pub fn lasting(mut self, length: Duration) -> Self {
        self.length = length;
        self
    }
}

impl<Out: Send + 'static> IntoFuture for Lease<Out> {
    type Output = Result<Out>;
    type IntoFuture = BoxFuture<'static, Result<Out>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { core, queue, most, length, finish } = self;
        Box::pin(async move {
            check_length(length)?;
            // In a task of its own, which ends also when nobody waits for it any more.
            let call = tokio::spawn(async move {
                let taken = take(&core, &queue, most, Some(length)).await?;
                Ok::<_, Error>(Unclaimed { core, queue, taken })
            });
            let unclaimed = call.await.map_err(|end| Error::MaybeApplied(Cause::new(end)))?;
            Ok(finish(unclaimed?.claim(), length))
        })
    }
}

/// Checks the length of a lease.
pub(crate) fn check_length(length: Duration) -> Result<(), Invalid> {
    const HALF_A_DAY: Duration = Duration::from_secs(12 * 60 * 60);
    if (Duration::from_millis(1)..=HALF_A_DAY).contains(&length) {
        Ok(())
    } else {
        Err(Invalid::OutOfRange { what: "length of the lease", range: "1 ms to 12 h" })
    }
}

/// What was leased and has not yet reached the caller. Dropped like that it goes back.
struct Unclaimed {
    core: Arc<Core>,
    queue: Arc<str>,
    taken: Vec<Taken>,
}

impl Unclaimed {
    fn claim(mut self) -> Vec<Taken> {
        std::mem::take(&mut self.taken)
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let (core, queue) = (self.core.clone(), self.queue.clone());
        let token =
            |taken: Taken| Token { queue: queue.clone(), id: taken.stored.id, lease: taken.lease };
        let tokens: Vec<_> = std::mem::take(&mut self.taken).into_iter().map(token).collect();
        // Without a runtime nobody can give it back before its lease ends.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = settle(&core, Settling::Nack { counted: false }, &tokens).await {
                warn!(target: "fairlane", %error, "what nobody waited for comes back when its lease ends");
            }
        });
    }
}
