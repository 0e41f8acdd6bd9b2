//! Several queues as one source.

use std::{error::Error, sync::Arc};

use serde_json::Value;

use crate::{
    Broker, Delivery, Invalid, Lease, Outcome, Pull, Worker, keys::check_name, opaque_debug,
    random::share, settings::check_weight,
};

/// Several queues as one source; made by [`Broker::in_order`] and [`Broker::by_weight`]. Cheap to
/// clone.
///
/// Each call serves from the first of them that has something, one script for each queue that is
/// asked. Waiting on them takes a connection for each.
pub struct Queues<T = Value> {
    pub(crate) broker: Broker<T>,
    pub(crate) source: Source,
}

opaque_debug!(Queues<T>);

impl<T> Clone for Queues<T> {
    fn clone(&self) -> Self {
        Self { broker: self.broker.clone(), source: self.source.clone() }
    }
}

impl<T: Send + 'static> Queues<T> {
    /// Takes the next message of the first queue that has one, for good, and tells the name of that
    /// queue. See [`Queue::pull`](crate::Queue::pull).
    ///
    /// # Errors
    /// As there. A queue that does not exist is an error when none of the others has anything.
    /// [`Invalid`](crate::Error::Invalid) when there is no queue at all, or a weight is out of its
    /// range, 0.001 to 1000.
    pub fn pull(&self) -> Pull<Option<(String, T)>> {
        let decode = self.broker.form.decode.clone();
        Pull::new(&self.broker.core, self.source.clone(), 1, move |queue, taken| {
            let Some(taken) = taken.first() else { return Ok(None) };
            Ok(Some((queue.to_string(), taken.stored.decode(&decode)?)))
        })
    }

    /// Takes the next message of the first queue that has one, for a time. See
    /// [`Queue::lease`](crate::Queue::lease).
    ///
    /// # Errors
    /// As for [`pull`](Self::pull), but for `Undecodable`.
    pub fn lease(&self) -> Lease<Option<Delivery<T>>> {
        Lease::one(&self.broker, self.source.clone())
    }

    /// Takes up to `n` of the messages of the first queue that has any, for a time. See
    /// [`Queue::lease_many`](crate::Queue::lease_many).
    ///
    /// # Errors
    /// As for [`lease`](Self::lease).
    pub fn lease_many(&self, n: usize) -> Lease<Vec<Delivery<T>>> {
        Lease::many(&self.broker, self.source.clone(), n)
    }

    /// A worker that gives what is on these queues to `handler`. See
    /// [`Queue::worker`](crate::Queue::worker); [`concurrency_of`](Worker::concurrency_of) bounds how
    /// much of one of them is in hand.
    ///
    /// ```no_run
    /// # use fairlane::AnyError;
    /// # async fn example(broker: fairlane::Broker) -> fairlane::Result<()> {
    /// let queues = broker.by_weight([("mails", 10.0), ("newsletters", 1.0)]);
    /// let report = queues
    ///     .worker(|delivery| async move {
    ///         println!("{} of {}", delivery.queue(), delivery.facet());
    ///         Ok::<_, AnyError>(())
    ///     })
    ///     .concurrency_of("newsletters", 4)
    ///     .run()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn worker<H, F, O, E>(&self, handler: H) -> Worker<T>
    where
        T: Sync,
        H: Fn(Arc<Delivery<T>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<O, E>> + Send + 'static,
        O: Into<Outcome>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        Worker::new(&self.broker, self.source.clone(), handler)
    }
}

/// Where to take from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    InOrder(Arc<[Arc<str>]>),
    ByWeight(Arc<[(Arc<str>, f64)]>),
}

impl Source {
    pub(crate) fn one(queue: &Arc<str>) -> Self {
        Self::InOrder([queue.clone()].into())
    }

    /// Those of its queues that are allowed.
    pub(crate) fn only(&self, allowed: impl Fn(&Arc<str>) -> bool) -> Self {
        match self {
            Self::InOrder(queues) => {
                Self::InOrder(queues.iter().filter(|queue| allowed(queue)).cloned().collect())
            }
            Self::ByWeight(queues) => {
                let allowed = queues.iter().filter(|(queue, _)| allowed(queue));
                Self::ByWeight(allowed.cloned().collect())
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::InOrder(queues) => queues.is_empty(),
            Self::ByWeight(queues) => queues.is_empty(),
        }
    }

    /// Whether another one has all of its queues.
    pub(crate) fn is_part_of(&self, other: &Self) -> bool {
        let others = other.queues();
        self.queues().iter().all(|queue| others.contains(queue))
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        let empty = match self {
            Self::InOrder(queues) => {
                queues.iter().try_for_each(|queue| check_name(queue))?;
                queues.is_empty()
            }
            Self::ByWeight(queues) => {
                for (queue, weight) in queues.iter() {
                    check_name(queue)?;
                    check_weight(*weight)?;
                }
                queues.is_empty()
            }
        };
        if empty { Err(Invalid::Empty { what: "list of queues" }) } else { Ok(()) }
    }

    /// The queues, each once, in the order in which a call tries them.
    pub(crate) fn queues(&self) -> Vec<Arc<str>> {
        let queues: Vec<Arc<str>> = match self {
            Self::InOrder(queues) => queues.to_vec(),
            Self::ByWeight(queues) => {
                // The first of several clocks to ring, each as fast as its weight.
                let ring = |(queue, weight): &(Arc<str>, f64)| {
                    (-(1.0 - share()).ln() / weight, queue.clone())
                };
                let mut drawn: Vec<_> = queues.iter().map(ring).collect();
                drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
                drawn.into_iter().map(|(_, queue)| queue).collect()
            }
        };
        let mut once = Vec::with_capacity(queues.len());
        queues.into_iter().for_each(|queue| {
            if !once.contains(&queue) {
                once.push(queue);
            }
        });
        once
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_drawn_first_in_proportion_to_their_weights() {
        let source = Source::ByWeight([("a".into(), 3.0), ("b".into(), 1.0)].into());
        let first = (0..10_000).filter(|_| *source.queues()[0] == *"a").count();
        assert!((7200..7800).contains(&first), "{first}");
        assert_eq!(source.queues().len(), 2);
    }

    #[test]
    fn a_queue_that_is_named_twice_is_tried_once() {
        let source = Source::InOrder(["b", "a", "b"].map(Arc::from).into());
        assert_eq!(source.queues(), ["b", "a"].map(Arc::from));
    }
}
