//! One queue: pull, lease, and its facets.

use std::{fmt::Display, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{Broker, Delivery, Facet, Lease, Pull, Undecodable, opaque_debug};

/// One queue; made by [`Broker::register_queue`] and [`Broker::queue`]. Cheap to clone.
///
/// The facets that have messages waiting are served in turns, by weight; the messages of one facet
/// in the order in which they were delivered.
pub struct Queue<T = Value> {
    pub(crate) broker: Broker<T>,
    pub(crate) name: Arc<str>,
}

opaque_debug!(Queue<T>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { broker: self.broker.clone(), name: self.name.clone() }
    }
}

/// The length of a lease where none is said.
const LASTING: Duration = Duration::from_secs(30);

impl<T: Send + 'static> Queue<T> {
    /// The name of the queue.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes the next message for good, at most once: what a worker does not finish is gone.
    ///
    /// # Errors
    /// [`Undecodable`](crate::Error::Undecodable) with the body, when the message is not what this
    /// broker decodes; [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not registered
    /// and holds nothing.
    pub fn pull(&self) -> Pull<Option<T>> {
        let decode = self.broker.form.decode;
        Pull {
            core: self.broker.core.clone(),
            queue: self.name.clone(),
            most: 1,
            finish: Box::new(move |taken| {
                let message = taken.first().map(|taken| taken.stored.decode(decode));
                message.transpose().map_err(Into::into)
            }),
        }
    }

    /// Takes up to `n` of the messages that are there for good, at most 1,000 and at most 4 MiB of
    /// them. One that does not decode is an element, not the end of the call.
    ///
    /// # Errors
    /// As for [`pull`](Self::pull), but for `Undecodable`;
    /// [`PullInterrupted`](crate::Error::PullInterrupted) when the connection broke after a part of
    /// them had arrived.
    pub fn pull_many(&self, n: usize) -> Pull<Vec<Result<T, Undecodable>>> {
        let decode = self.broker.form.decode;
        Pull {
            core: self.broker.core.clone(),
            queue: self.name.clone(),
            most: n,
            finish: Box::new(move |taken| {
                Ok(taken.iter().map(|taken| taken.stored.decode(decode)).collect())
            }),
        }
    }

    /// Takes the next message for a time, at least once: what is not settled by then comes back to
    /// the front of its facet.
    ///
    /// # A worker
    /// There is no delay after a nack: what fails again and again is this loop's to end.
    ///
    /// ```no_run
    /// # async fn handle(_: &serde_json::Value) -> Result<(), std::io::Error> { Ok(()) }
    /// # async fn example(queue: fairlane::Queue) -> fairlane::Result<()> {
    /// loop {
    ///     let Some(delivery) = queue.lease().await? else {
    ///         tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    ///         continue;
    ///     };
    ///     let handled = match delivery.message() {
    ///         Ok(message) => handle(message).await.map_err(|error| error.to_string()),
    ///         Err(undecodable) => Err(undecodable.to_string()),
    ///     };
    ///     let settled = match handled {
    ///         Ok(()) => delivery.ack().await,
    ///         Err(_) if delivery.attempt().get() < 5 => delivery.nack().await,
    ///         Err(error) => {
    ///             eprintln!("{} of {} is given up: {error}", delivery.id(), delivery.facet());
    ///             delivery.ack().await
    ///         }
    ///     };
    ///     if let Err(error) = settled {
    ///         eprintln!("{error}"); // if it was not applied, the message comes back
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the length of the lease is out of its range;
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not registered and holds
    /// nothing.
    pub fn lease(&self) -> Lease<Option<Delivery<T>>> {
        self.leasing(1, |deliveries| deliveries.into_iter().next())
    }

    /// Takes up to `n` of the messages that are there for a time, at most 1,000 and at most 4 MiB
    /// of them.
    ///
    /// # Errors
    /// As for [`lease`](Self::lease).
    pub fn lease_many(&self, n: usize) -> Lease<Vec<Delivery<T>>> {
        self.leasing(n, |deliveries| deliveries)
    }

    fn leasing<Out: 'static>(
        &self,
        most: usize,
        finish: fn(Vec<Delivery<T>>) -> Out,
    ) -> Lease<Out> {
        let decode = self.broker.form.decode;
        let (core, queue) = (self.broker.core.clone(), self.name.clone());
        Lease {
            core: self.broker.core.clone(),
            queue: self.name.clone(),
            most,
            length: LASTING,
            finish: Box::new(move |taken, length| {
                let delivery = |taken| Delivery::new(&core, &queue, length, decode, taken);
                finish(taken.into_iter().map(delivery).collect())
            }),
        }
    }

    /// A facet of this queue, to set how it is served. It makes no call.
    pub fn facet(&self, name: impl Display) -> Facet {
        Facet {
            core: self.broker.core.clone(),
            queue: self.name.clone(),
            name: name.to_string().into(),
        }
    }
}
