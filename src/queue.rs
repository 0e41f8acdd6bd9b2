//! One queue: pull, lease, and its facets.

use std::{error::Error, fmt::Display, sync::Arc};

use serde_json::Value;

use crate::{
    Broker, Cursor, DeadLetters, Delivery, Facet, FacetStats, Finding, Lease, Outcome, Peeked,
    Pull, QueueSettings, Stats, Undecodable, Why, Worker,
    destroy::destroy,
    doctor,
    error::Result,
    keys::{check_label, check_name},
    opaque_debug,
    queues::Source,
    settings::{Whose, configure},
    stats,
};

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
        let decode = self.broker.form.decode.clone();
        Pull::new(&self.broker.core, Source::one(&self.name), 1, move |_, taken| {
            let message = taken.first().map(|taken| taken.stored.decode(&decode));
            message.transpose().map_err(Into::into)
        })
    }

    /// Takes up to `n` of the messages that are there for good, at most 1,000 and at most 4 MiB of
    /// them. One that does not decode is an element, not the end of the call.
    ///
    /// # Errors
    /// As for [`pull`](Self::pull), but for `Undecodable`;
    /// [`PullInterrupted`](crate::Error::PullInterrupted) when the connection broke after a part of
    /// them had arrived.
    pub fn pull_many(&self, n: usize) -> Pull<Vec<Result<T, Undecodable>>> {
        let decode = self.broker.form.decode.clone();
        Pull::new(&self.broker.core, Source::one(&self.name), n, move |_, taken| {
            Ok(taken.iter().map(|taken| taken.stored.decode(&decode)).collect())
        })
    }

    /// Takes the next message for a time, at least once: what is not settled by then comes back to
    /// the front of its facet.
    ///
    /// # A worker
    /// ```no_run
    /// # async fn handle(_: &serde_json::Value) -> Result<(), std::io::Error> { Ok(()) }
    /// # async fn example(queue: fairlane::Queue) -> fairlane::Result<()> {
    /// let mut deliveries = queue.lease().into_stream();
    /// while let Some(delivery) = deliveries.next().await {
    ///     let delivery = delivery?;
    ///     let handled = match delivery.message() {
    ///         Ok(message) => handle(message).await.map_err(|error| error.to_string()),
    ///         Err(undecodable) => Err(undecodable.to_string()),
    ///     };
    ///     let settled = match handled {
    ///         Ok(()) => delivery.ack().await,
    ///         Err(error) => delivery.fail(error).await, // again later; to the dead letters in the end
    ///     };
    ///     if let Err(error) = settled {
    ///         eprintln!("{error}"); // if it was not applied, the message comes back
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the length of the lease is out of its range;
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not registered and holds
    /// nothing.
    pub fn lease(&self) -> Lease<Option<Delivery<T>>> {
        Lease::one(&self.broker, Source::one(&self.name))
    }

    /// Takes up to `n` of the messages that are there for a time, at most 1,000 and at most 4 MiB
    /// of them.
    ///
    /// # Errors
    /// As for [`lease`](Self::lease).
    pub fn lease_many(&self, n: usize) -> Lease<Vec<Delivery<T>>> {
        Lease::many(&self.broker, Source::one(&self.name), n)
    }

    /// A worker that leases what is on this queue, gives it to `handler`, and settles it as that says:
    /// an ack where it returns `Ok(())`, another attempt after the backoff where it returns an error or
    /// panics, or an [`Outcome`] of its choice. See [`Worker`].
    ///
    /// ```no_run
    /// # async fn send(_: &serde_json::Value) -> Result<(), std::io::Error> { Ok(()) }
    /// # use fairlane::AnyError;
    /// # async fn example(queue: fairlane::Queue) -> fairlane::Result<()> {
    /// let report = queue
    ///     .worker(|delivery| async move {
    ///         send(delivery.message()?).await?;
    ///         Ok::<_, AnyError>(())
    ///     })
    ///     .concurrency(32)
    ///     .run() // until SIGTERM or SIGINT
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
        Worker::new(&self.broker, Source::one(&self.name), handler)
    }

    /// Serves nothing of this queue until it is resumed. Messages are still delivered to it, what is
    /// leased goes on, and each facet keeps its turn.
    ///
    /// The queue need not be registered: the pause holds for when it is. Twice is as good as once.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a name that no queue can have;
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) while the queue is being destroyed.
    pub async fn pause(&self) -> Result<()> {
        self.change(false, false, |queue| queue.facets.paused = true).await
    }

    /// Serves this queue again. Workers that wait wake up.
    ///
    /// # Errors
    /// As for [`pause`](Self::pause).
    pub async fn resume(&self) -> Result<()> {
        self.change(false, false, |queue| queue.facets.paused = false).await
    }

    /// Refuses all that is delivered to this queue until its intake is resumed: of such a delivery
    /// nothing is done, on any queue, and its error is [`Refused`](crate::Error::Refused). What
    /// waits is served.
    ///
    /// # Errors
    /// As for [`pause`](Self::pause).
    pub async fn pause_intake(&self) -> Result<()> {
        self.change(false, false, |queue| queue.facets.intake_paused = true).await
    }

    /// Takes deliveries again.
    ///
    /// # Errors
    /// As for [`pause`](Self::pause).
    pub async fn resume_intake(&self) -> Result<()> {
        self.change(false, false, |queue| queue.facets.intake_paused = false).await
    }

    /// Changes the settings of this queue, and the defaults of its facets: reads them, lets `change`
    /// change them, and writes them, unless somebody else has changed them meanwhile; then `change`
    /// gets those.
    ///
    /// They hold at once, until they are changed again, with the queue registered or not. What
    /// limits facets is decided on anew for all that have messages waiting, in steps of about a
    /// hundred: should this be dropped or fail before that is done, call it again.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use fairlane::Overflow;
    /// # async fn example(queue: fairlane::Queue) -> fairlane::Result<()> {
    /// queue.configure(|queue| {
    ///     queue.facets.max_leased = Some(10); // of each facet at a time
    ///     queue.facets.max_waiting = Some(100_000);
    ///     queue.overflow = Overflow::DropOldest;
    ///     queue.ttl = Some(Duration::from_secs(86_400));
    ///     queue.max_attempts = 5;
    /// }).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when a setting is out of its range;
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not registered and holds
    /// nothing.
    pub async fn configure(&self, change: impl FnMut(&mut QueueSettings) + Send) -> Result<()> {
        self.change(true, true, change).await
    }

    /// What is set of this queue.
    ///
    /// # Errors
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not registered and holds
    /// nothing.
    pub async fn settings(&self) -> Result<QueueSettings> {
        check_name(&self.name)?;
        let partition = self.broker.core.first();
        Whose { partition, queue: &self.name, facet: "", must: true }.settings().await
    }

    /// Changes its settings. `must`: whether it has to be there. `decides`: whether all facets are
    /// decided on anew that they may concern.
    async fn change(
        &self,
        must: bool,
        decides: bool,
        change: impl FnMut(&mut QueueSettings) + Send,
    ) -> Result<()> {
        check_name(&self.name)?;
        configure(&self.broker.core, &self.name, must, decides, change).await
    }

    /// The messages that this queue has given up. It makes no call.
    pub fn dead_letters(&self) -> DeadLetters<T> {
        DeadLetters {
            core: self.broker.core.clone(),
            queue: self.name.clone(),
            facet: None,
            decode: self.broker.form.decode.clone(),
        }
    }

    /// Shows the messages that a lease of up to `n` would give now, in that order, and changes
    /// nothing: at most 250, and at most 4 MiB of them. Of a paused queue, what it would give
    /// otherwise. It looks no further than the first 250 that have expired, and are still there. Where
    /// the namespace has several [`partitions`](crate::BrokerBuilder::partitions), the order is that of
    /// each of them, one message of each in turn.
    ///
    /// # Errors
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not registered and holds
    /// nothing.
    pub async fn peek(&self, n: usize) -> Result<Vec<Peeked<T>>> {
        stats::peek(&self.broker.core, &self.name, n, &self.broker.form.decode).await
    }

    /// Counts what this queue has, and what it had since its beginning. It costs the same whatever
    /// the queue holds.
    ///
    /// # Errors
    /// As for [`peek`](Self::peek).
    pub async fn stats(&self) -> Result<Stats> {
        stats::stats(&self.broker.core, &self.name).await
    }

    /// A page of facets, of about a hundred, and the cursor of the next page: first those that have
    /// messages waiting, then those that are in debt, have messages leased, settings, dead letters or
    /// delayed messages, or are held.
    ///
    /// ```no_run
    /// # use fairlane::Cursor;
    /// # async fn example(queue: fairlane::Queue) -> fairlane::Result<()> {
    /// let mut from = Some(Cursor::default());
    /// while let Some(cursor) = from {
    ///     let (page, next) = queue.facets(cursor).await?;
    ///     for facet in page {
    ///         println!("{} has {} waiting", facet.facet, facet.waiting);
    ///     }
    ///     from = next;
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// A page can be empty, and another one follow. All facets that stay what they are between the
    /// first page and the last are there; one that changes meanwhile may be there twice, or not at
    /// all.
    ///
    /// # Errors
    /// As for [`peek`](Self::peek).
    pub async fn facets(&self, from: Cursor) -> Result<(Vec<FacetStats>, Option<Cursor>)> {
        stats::facets(&self.broker.core, &self.name, from).await
    }

    /// As [`Facet::why`], for many facets: one script call for each 100 of them, and one more for
    /// each 512 KiB of their foremost messages. Returns what it finds in the order in which they were
    /// given.
    ///
    /// # Errors
    /// As for [`Facet::why`]; one name that is not valid, and nothing is asked.
    pub async fn why_all<S: Into<String>>(
        &self,
        facets: impl IntoIterator<Item = S>,
    ) -> Result<Vec<Why>> {
        check_name(&self.name)?;
        let facets: Vec<String> = facets.into_iter().map(Into::into).collect();
        facets.iter().try_for_each(|facet| check_label("facet", facet))?;
        let facets: Vec<_> = facets.iter().map(String::as_str).collect();
        stats::look_at(&self.broker.core, &self.name, &facets).await
    }

    /// Examines what Redis has of this queue, in bounded steps, while it is in service: whether each
    /// facet, lease, timer, dead letter and count is as it must be. Returns what is broken; nothing
    /// is the good case.
    ///
    /// It goes through all keys of the Redis database, 1,000 a step. What is counted is compared at one
    /// moment where the queue has few facets and leases, up to 1,000; of a larger one when nothing was
    /// done meanwhile, and not while it is never quiet.
    ///
    /// # Errors
    /// As for [`peek`](Self::peek).
    pub async fn doctor(&self) -> Result<Vec<Finding>> {
        doctor::examine(&self.broker.core, &self.name, false).await
    }

    /// Mends what [`doctor`](Self::doctor) finds, while the queue is in service, and returns what that
    /// was. No message is lost with it, but for what is half there.
    ///
    /// # Errors
    /// As for [`doctor`](Self::doctor); [`Partly`](crate::Error::Partly) when not all partitions were
    /// mended. After [`MaybeApplied`](crate::Error::MaybeApplied) look with `doctor` what is left.
    pub async fn repair(&self) -> Result<Vec<Finding>> {
        doctor::examine(&self.broker.core, &self.name, true).await
    }

    /// Removes this queue and all that is on it, what is leased too: its route, its messages, its
    /// dead letters, settings and counts.
    ///
    /// From the first step on it is closed: nothing is delivered to it, every call on it is
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue), and what was leased is
    /// [`LeaseLost`](crate::Error::LeaseLost). It is then removed in steps of 1,000 facets, each
    /// within the deadline. When this is dropped or fails in between, the queue stays closed, and a
    /// later `destroy` or [`register_queue`](Broker::register_queue) removes the rest. Where the
    /// namespace has several [`partitions`](crate::BrokerBuilder::partitions), it is closed in the first
    /// of them, and when that is removed, in the others.
    ///
    /// That there is no such queue is no error: two at once both succeed. Workers that already wait
    /// on it are told within 5 seconds, and serve the next queue of that name where there is one by
    /// then.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a name that no queue can have;
    /// [`Partly`](crate::Error::Partly) when it is gone in the first partition, but not in all
    /// others. After [`MaybeApplied`](crate::Error::MaybeApplied) the queue may be there, and it may
    /// be one that somebody has registered anew: look, and call again.
    pub async fn destroy(self) -> Result<()> {
        check_name(&self.name)?;
        destroy(&self.broker.core, &self.name).await
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
