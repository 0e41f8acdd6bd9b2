//! A worker: leases messages, gives them to a handler, and settles them as it says.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_core::future::BoxFuture;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    Broker, Delivery, Handled, Invalid, Outcome, Report,
    core::Core,
    error::{Cause, Result, chain},
    keys::check_name,
    lease::{LASTING, check_length},
    message::{AnyError, Decode},
    opaque_debug,
    queues::Source,
    take::MOST,
    work::{Work, caught},
};

/// How many handlers run at a time where nothing is said.
const CONCURRENCY: usize = 32;
/// The shortest lease: it has to be there for a few round trips, whatever else goes on.
const LEAST: Duration = Duration::from_millis(100);
/// How long a worker that stops waits for its handlers where nothing is said: what starts it often
/// kills it after 30 seconds.
const GRACE: Duration = Duration::from_secs(25);
/// How many facets of a queue have series of their own where nothing is said, and at the most.
const FACETS: usize = 10;
const MOST_FACETS: usize = 1000;

type Handler<T> =
    Box<dyn Fn(Arc<Delivery<T>>) -> BoxFuture<'static, Result<Outcome, String>> + Send + Sync>;
pub(crate) type Before<T> = Box<dyn Fn(&Delivery<T>) + Send + Sync>;
pub(crate) type After<T> = Box<dyn Fn(&Delivery<T>, &Handled<'_>) + Send + Sync>;

/// A worker that is about to run; made by [`Queue::worker`](crate::Queue::worker) and
/// [`Queues::worker`](crate::Queues::worker).
///
/// ```no_run
/// use std::time::Duration;
///
/// use fairlane::{AnyError, Outcome};
///
/// # struct Busy; async fn send(_: &serde_json::Value) -> Result<u16, std::io::Error> { Ok(200) }
/// # async fn example(broker: fairlane::Broker) -> Result<(), AnyError> {
/// let queue = broker.register_queue("mails", "^mail:").await?;
/// let report = queue
///     .worker(|delivery| async move {
///         let status = send(delivery.message()?).await?; // an error is another try, later
///         Ok::<_, AnyError>(match status {
///             429 => Outcome::Hold(Duration::from_secs(60)), // nothing of this facet for a minute
///             404 => Outcome::Dead("there is no such mailbox".into()),
///             _ => Outcome::Ack,
///         })
///     })
///     .concurrency(64)
///     .run() // until SIGTERM or SIGINT
///     .await?;
/// println!("{} mails sent", report.acked);
/// # Ok(()) }
/// ```
///
/// # The handler
/// It gets each message as an `Arc<Delivery>`, to look at: what it returns settles it, and nothing else
/// should. `Ok(())` acks, an error [fails](crate::Delivery::fail) with the backoff of the queue,
/// and an [`Outcome`] chooses. So does a panic fail, and the worker goes on; where decoding a body
/// panics, [`Delivery::message`] is an error. It runs in a task of its
/// own, within a span of `tracing` that has queue, facet, topic, id and attempt; where the message has
/// a header `traceparent` (W3C), also its `trace_id` and `parent_id`.
///
/// A handler that blocks its thread holds up others, the worker itself too, and cannot be aborted: such
/// work belongs into `tokio::task::spawn_blocking`.
///
/// A worker leases only what it can start at once, and extends the leases while handlers run. When one
/// is lost all the same, [`Delivery::lost`] is cancelled: the handler should end, and what it returns
/// is counted as lost.
///
/// # Redis away
/// Handlers go on, and the worker waits. What they return is settled when Redis is back, if their
/// leases are still there by then.
///
/// # Its end
/// On SIGTERM, SIGINT or a [token](Self::stop_on) it takes nothing new, and waits for its handlers, as
/// long as the [grace](Self::grace) lasts. Then they are aborted, and their messages go back to the
/// front of their facets, which is no attempt. A second signal ends the wait at once; a token that is
/// cancelled after the first one is none.
#[must_use = "a worker does nothing until `run` is awaited"]
pub struct Worker<T = Value> {
    pub(crate) core: Arc<Core>,
    pub(crate) decode: Decode<T>,
    pub(crate) source: Source,
    pub(crate) handler: Handler<T>,
    pub(crate) concurrency: usize,
    /// Of the queues that have less.
    pub(crate) concurrency_of: BTreeMap<Arc<str>, usize>,
    pub(crate) length: Duration,
    pub(crate) grace: Duration,
    /// Whether signals stop it; none for what is usual.
    pub(crate) signals: Option<bool>,
    pub(crate) stop: CancellationToken,
    /// How many facets have series of their own.
    pub(crate) facets: usize,
    pub(crate) before: Vec<Before<T>>,
    pub(crate) after: Vec<After<T>>,
}

opaque_debug!(Worker<T>);

impl<T: Send + Sync + 'static> Worker<T> {
    pub(crate) fn new<H, F, O, E>(broker: &Broker<T>, source: Source, handler: H) -> Self
    where
        H: Fn(Arc<Delivery<T>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<O, E>> + Send + 'static,
        O: Into<Outcome>,
        E: Into<AnyError>,
    {
        let handler = move |delivery| -> BoxFuture<'static, _> {
            let handling = handler(delivery);
            Box::pin(async move {
                handling.await.map(Into::into).map_err(|error| chain(&*error.into()))
            })
        };
        // The worker itself decodes: what panics there must fail its own message alone.
        let decode = broker.form.decode.clone();
        let decode = move |body: &[u8]| {
            let decoded = caught(|| decode(body));
            decoded.unwrap_or_else(|said| Err(Cause::new(format!("panicked: {said}"))))
        };
        Self {
            core: broker.core.clone(),
            decode: Arc::new(decode),
            source,
            handler: Box::new(handler),
            concurrency: CONCURRENCY,
            concurrency_of: BTreeMap::new(),
            length: LASTING,
            grace: GRACE,
            signals: None,
            stop: CancellationToken::new(),
            facets: FACETS,
            before: Vec::new(),
            after: Vec::new(),
        }
    }

    /// How many handlers run at a time, 1 to 1,000. Defaults to 32.
    pub fn concurrency(mut self, most: usize) -> Self {
        self.concurrency = most;
        self
    }

    /// How many of them may be for messages of this queue, 1 to 1,000. Defaults to all.
    pub fn concurrency_of(mut self, queue: impl Into<String>, most: usize) -> Self {
        self.concurrency_of.insert(queue.into().into(), most);
        self
    }

    /// The length of the leases, 100 ms to 12 h; they are extended after each third of it. A worker that
    /// dies keeps its messages for as long. Defaults to 30 seconds.
    pub fn lasting(mut self, length: Duration) -> Self {
        self.length = length;
        self
    }

    /// How long a worker that stops waits for its handlers. Defaults to 25 seconds.
    pub fn grace(mut self, longest: Duration) -> Self {
        self.grace = longest;
        self
    }

    /// Stops it when this is cancelled. SIGTERM and SIGINT still do.
    pub fn stop_on(mut self, token: CancellationToken) -> Self {
        self.stop = token;
        self
    }

    /// Whether SIGTERM and SIGINT stop it. Where they do, they no longer end the process by themselves
    /// from then on, also when the worker has ended. Defaults to true with [`run`](Self::run), and to
    /// false with [`run_until_empty`](Self::run_until_empty).
    pub fn signals(mut self, stop: bool) -> Self {
        self.signals = Some(stop);
        self
    }

    /// How many facets of each queue have series of their own among the metrics, 0 to 1,000: the
    /// busiest. Defaults to 10. Needs the cargo feature `metrics`; without it there are none.
    ///
    /// All others are counted together, under the facet `""`, which none can be. A facet takes the place
    /// of the least busy when it has clearly had more messages; from then on that one is counted with
    /// the others again. Since the series of a recorder stay, at most ten times as many facets of a
    /// queue ever have one in a process: when so many had, no other one gets any more. Where workers of
    /// a process say different numbers, the largest counts; with zero, a worker counts all of its
    /// messages under `""`.
    pub fn busiest_facets(mut self, most: usize) -> Self {
        self.facets = most;
        self
    }

    /// Calls this before each handler, in its task and its span. There can be several; where one
    /// panics, the message fails.
    ///
    /// Here a span can get its parent in terms of another library, such as `set_parent` of
    /// `tracing-opentelemetry` on `tracing::Span::current()`.
    pub fn before(mut self, hook: impl Fn(&Delivery<T>) + Send + Sync + 'static) -> Self {
        self.before.push(Box::new(hook));
        self
    }

    /// Calls this when a message has been settled, or could not be; also for one that was given back
    /// before its handler, and what is called [before](Self::before) it, began. There can be several. It
    /// should be quick: the worker waits for it.
    pub fn after(
        mut self,
        hook: impl Fn(&Delivery<T>, &Handled<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.after.push(Box::new(hook));
        self
    }

    /// Works until it is stopped, by SIGTERM, SIGINT or a token, and reports what it did.
    ///
    /// When this future is dropped instead, its handlers are aborted, and what they had comes back when
    /// its lease ends.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a setting that is out of its range, before anything is
    /// leased. Then those that waiting does not mend, as [`NoSuchQueue`](crate::Error::NoSuchQueue) or
    /// [`Denied`](crate::Error::Denied): it stops as it does on a signal, and returns the error; when it
    /// had leased anything, as [`WorkerStopped`](crate::Error::WorkerStopped) with its report.
    pub async fn run(self) -> Result<Report> {
        self.check()?;
        Work::new(self, false).run().await
    }

    /// Works until nothing can be served now and all handlers have ended: for tests, and for what is
    /// done now and then. What is delayed, failed or held back stays.
    ///
    /// # Errors
    /// As for [`run`](Self::run), and those that `run` waits out, as [`NotSent`](crate::Error::NotSent)
    /// when Redis is away.
    pub async fn run_until_empty(self) -> Result<Report> {
        self.check()?;
        Work::new(self, true).run().await
    }

    fn check(&self) -> Result<(), Invalid> {
        self.source.check()?;
        check_length(self.length)?;
        if self.length < LEAST {
            let (what, range) = ("length of a worker's lease", "100 ms to 12 h");
            return Err(Invalid::OutOfRange { what, range });
        }
        let queues = self.source.queues();
        for (queue, most) in &self.concurrency_of {
            check_name(queue)?;
            if !queues.contains(queue) {
                return Err(Invalid::NoSuchQueue { name: queue.to_string() });
            }
            check_concurrency(*most)?;
        }
        check_concurrency(self.concurrency)?;
        match self.facets {
            0..=MOST_FACETS => Ok(()),
            _ => Err(Invalid::OutOfRange { what: "busiest facets", range: "0 to 1,000" }),
        }
    }
}

fn check_concurrency(most: usize) -> Result<(), Invalid> {
    match (1..=MOST).contains(&most) {
        true => Ok(()),
        false => Err(Invalid::OutOfRange { what: "concurrency", range: "1 to 1,000" }),
    }
}
