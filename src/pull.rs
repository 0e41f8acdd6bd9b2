//! Pull: at most once.

use std::{future::IntoFuture, sync::Arc};

use futures_core::future::BoxFuture;

use crate::{
    core::Core,
    error::Result,
    opaque_debug,
    take::{Taken, take},
};

/// Messages that are about to be pulled; made by [`Queue::pull`](crate::Queue::pull) and
/// [`Queue::pull_many`](crate::Queue::pull_many).
///
/// It owns what it needs, so that it can be spawned (with `.into_future()`). When its future is
/// dropped after the call was sent, **the messages that were taken are gone**: use a lease where
/// that matters.
#[must_use = "nothing is pulled until this is awaited"]
pub struct Pull<Out> {
    pub(crate) core: Arc<Core>,
    pub(crate) queue: Arc<str>,
    pub(crate) most: usize,
    pub(crate) finish: Box<dyn FnOnce(Vec<Taken>) -> Result<Out> + Send>,
}

opaque_debug!(Pull<Out>);

impl<Out: Send + 'static> IntoFuture for Pull<Out> {
    type Output = Result<Out>;
    type IntoFuture = BoxFuture<'static, Result<Out>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let taken = take(&self.core, &self.queue, self.most, None).await?;
            (self.finish)(taken)
        })
    }
}
