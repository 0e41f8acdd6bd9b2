//! Pull: at most once.

use std::{future::IntoFuture, sync::Arc, time::Duration};

use futures_core::future::BoxFuture;

use crate::{
    core::Core,
    error::Result,
    opaque_debug,
    queues::Source,
    serve::{Order, serve},
    take::Taken,
};

type Finish<Out> = Box<dyn FnOnce(Arc<str>, Vec<Taken>) -> Result<Out> + Send>;

/// Messages that are about to be pulled; made by [`Queue::pull`](crate::Queue::pull) and
/// [`Queue::pull_many`](crate::Queue::pull_many).
///
/// It owns what it needs, so that it can be spawned (with `.into_future()`). When its future is
/// dropped while it waits, nothing is taken, and another worker wakes in its place. When it is
/// dropped after the call was sent, **the messages that were taken are gone**: use a lease where
/// that matters.
#[must_use = "nothing is pulled until this is awaited"]
pub struct Pull<Out> {
    core: Arc<Core>,
    order: Order,
    finish: Finish<Out>,
}

opaque_debug!(Pull<Out>);

impl<Out> Pull<Out> {
    pub(crate) fn new(
        core: &Arc<Core>,
        source: Source,
        most: usize,
        finish: impl FnOnce(Arc<str>, Vec<Taken>) -> Result<Out> + Send + 'static,
    ) -> Self {
        let order = Order::new(source, most, None);
        Self { core: core.clone(), order, finish: Box::new(finish) }
    }

    /// Waits up to this long, at most 24 h, for something to serve. Defaults to zero: answers at
    /// once.
    ///
    /// That Redis is away meanwhile is no error, until the wait is over. The deadline of the broker
    /// bounds each call, not the wait. What is delivered, given back or resumed is served at once; a
    /// lease that ends sooner than was known when the wait began, within 5 seconds.
    pub fn wait(mut self, longest: Duration) -> Self {
        self.order.wait = longest;
        self
    }
}

impl<Out: Send + 'static> IntoFuture for Pull<Out> {
    type Output = Result<Out>;
    type IntoFuture = BoxFuture<'static, Result<Out>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (queue, taken) = serve(&self.core, &self.order).await?.claim();
            (self.finish)(queue, taken)
        })
    }
}
