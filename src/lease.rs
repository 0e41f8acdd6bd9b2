//! Lease: at least once.

use std::{
    future::{IntoFuture, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::{Stream, future::BoxFuture, ready};
use tokio::time::sleep;

use crate::{
    Broker, Delivery, Invalid,
    core::Core,
    error::Result,
    link::Pause,
    opaque_debug,
    queues::Source,
    serve::{LONGEST, Order, serve},
    take::Taken,
};

/// The length of a lease where none is said.
pub(crate) const LASTING: Duration = Duration::from_secs(30);

type Finish<Out> = Arc<dyn Fn(Vec<Taken>, &Arc<str>, Duration) -> Out + Send + Sync>;

/// Messages that are about to be leased; made by [`Queue::lease`](crate::Queue::lease) and
/// [`Queue::lease_many`](crate::Queue::lease_many).
///
/// It owns what it needs, so that it can be spawned (with `.into_future()`). When its future is
/// dropped while it waits, nothing is taken, and another worker wakes in its place. When it is
/// dropped after the call was sent, what was leased goes back to the front of its facet by itself,
/// and its attempt is not counted.
#[must_use = "nothing is leased until this is awaited"]
pub struct Lease<Out> {
    core: Arc<Core>,
    order: Order,
    finish: Finish<Out>,
}

opaque_debug!(Lease<Out>);

impl<Out> Lease<Out> {
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

    /// The length of the lease, 1 ms to 12 h, in whole milliseconds. Defaults to 30 seconds.
    pub fn lasting(mut self, length: Duration) -> Self {
        self.order.length = Some(length);
        self
    }
}

impl<T: Send + 'static> Lease<Option<Delivery<T>>> {
    pub(crate) fn one(broker: &Broker<T>, source: Source) -> Self {
        Self::new(broker, source, 1, |deliveries| deliveries.into_iter().next())
    }

    /// Leases one after the other: each when the stream is polled for it, waiting without end.
    /// Nothing is taken in advance, so what is dropped with the stream is at most a wait. Poll it
    /// again soon after a poll that found nothing: it may be leasing, and that lease runs.
    ///
    /// ```no_run
    /// # async fn example(queue: fairlane::Queue) -> fairlane::Result<()> {
    /// let mut deliveries = queue.lease().into_stream();
    /// while let Some(delivery) = deliveries.next().await {
    ///     let delivery = delivery?;
    ///     println!("{}", delivery.topic());
    ///     delivery.ack().await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub fn into_stream(mut self) -> Deliveries<T> {
        self.order.wait = LONGEST;
        Deliveries { lease: self, next: None, pause: None }
    }
}

impl<T: Send + 'static> Lease<Vec<Delivery<T>>> {
    pub(crate) fn many(broker: &Broker<T>, source: Source, most: usize) -> Self {
        Self::new(broker, source, most, |deliveries| deliveries)
    }
}

impl<Out> Lease<Out> {
    fn new<T: Send + 'static>(
        broker: &Broker<T>,
        source: Source,
        most: usize,
        finish: fn(Vec<Delivery<T>>) -> Out,
    ) -> Self
    where
        Out: 'static,
    {
        let (core, decode) = (broker.core.clone(), broker.form.decode.clone());
        let order = Order::new(source, most, Some(LASTING));
        let finish = move |taken: Vec<Taken>, queue: &Arc<str>, length| {
            let delivery = |taken| Delivery::new(&core, queue, length, &decode, taken);
            finish(taken.into_iter().map(delivery).collect())
        };
        Self { core: broker.core.clone(), order, finish: Arc::new(finish) }
    }
}

impl<Out: Send + 'static> IntoFuture for Lease<Out> {
    type Output = Result<Out>;
    type IntoFuture = BoxFuture<'static, Result<Out>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { core, order, finish } = self;
        Box::pin(async move {
            let (queue, taken) = serve(&core, &order).await?.claim();
            Ok(finish(taken, &queue, order.length.unwrap_or(LASTING)))
        })
    }
}

/// Leases without end; made by [`Lease::into_stream`].
///
/// An error does not end it: the next poll leases again, after a pause that grows from 10 ms to
/// half a second while errors go on. That Redis is away is no error here, but waited for.
#[must_use = "nothing is leased until this is polled"]
pub struct Deliveries<T> {
    lease: Lease<Option<Delivery<T>>>,
    next: Option<BoxFuture<'static, Result<Option<Delivery<T>>>>>,
    /// After an error.
    pause: Option<Pause>,
}

opaque_debug!(Deliveries<T>);

impl<T: Send + 'static> Deliveries<T> {
    /// The next delivery, as the stream has it, for those who have no `StreamExt`. Dropped, it
    /// loses nothing.
    pub async fn next(&mut self) -> Option<Result<Delivery<T>>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl<T: Send + 'static> Stream for Deliveries<T> {
    type Item = Result<Delivery<T>>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { lease, next, pause } = self.get_mut();
        loop {
            let leasing = next.get_or_insert_with(|| {
                let wait = pause.as_mut().map(Pause::next);
                let Lease { core, order, finish } = lease;
                let again =
                    Lease { core: core.clone(), order: order.clone(), finish: finish.clone() };
                Box::pin(async move {
                    if let Some(wait) = wait {
                        sleep(wait).await;
                    }
                    again.await
                })
            });
            let leased = ready!(leasing.as_mut().poll(context));
            *next = None;
            match leased {
                Ok(None) => {} // A day without anything.
                Ok(Some(delivery)) => {
                    *pause = None;
                    return Poll::Ready(Some(Ok(delivery)));
                }
                Err(error) => {
                    pause.get_or_insert_default();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
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
