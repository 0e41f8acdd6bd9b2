//! What a worker does: one task that leases, settles and extends for all its handlers.
//!
//! Each of the three is at most one call at a time. What comes meanwhile waits for it and goes out
//! with the next, so that the batches grow with the load. When handlers end, their settling and the
//! lease of as many others are sent in one go: a round trip for both.

use std::{
    any::Any,
    collections::HashMap,
    future::pending,
    mem::{forget, take},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use futures_core::future::BoxFuture;
use tokio::{
    task::{Id, JoinSet, yield_now},
    time::{Instant, sleep_until, timeout_at},
};
use tracing::info;

use crate::{
    Error, Outcome, Report, Worker,
    ended::Ended,
    error::{Cause, Result},
    in_hand::{Extended, InHand},
    link::Pause,
    metrics::Gauges,
    stop::{Heard, Stop},
    taking::Taking,
};

/// How long handlers that were aborted may take to end: those that do not, block.
const ABORTED: Duration = Duration::from_secs(1);
/// How long giving back may take at the end.
const GIVING_BACK: Duration = Duration::from_secs(2);
/// Why something is not settled at the end.
const ENDED: &str = "the worker has ended before a reply came";

/// What a handler returned, or the text of its error; and how long it took.
pub(crate) type Returned = (Result<Outcome, String>, Duration);

/// A worker at work.
pub(crate) struct Work<T> {
    pub(crate) worker: Arc<Worker<T>>,
    pub(crate) until_empty: bool,
    pub(crate) handlers: JoinSet<Returned>,
    pub(crate) running: HashMap<Id, InHand<T>>,
    /// What handlers have ended with, to be settled.
    pub(crate) ended: Vec<Ended<T>>,
    pub(crate) taking: Taking,
    pub(crate) settling: Option<BoxFuture<'static, Vec<Result<()>>>>,
    /// What is settled by that, in its order.
    pub(crate) in_settling: Vec<Ended<T>>,
    pub(crate) extending: Option<BoxFuture<'static, Extended>>,
    /// After a settling that did not reach Redis.
    pub(crate) settle_at: Option<Instant>,
    pub(crate) pause: Pause,
    /// The handlers have until then; none while it goes on.
    pub(crate) stopping: Option<Instant>,
    /// What ended it.
    pub(crate) failed: Option<Error>,
    pub(crate) report: Report,
}

impl<T: Send + Sync + 'static> Work<T> {
    pub(crate) fn new(worker: Worker<T>, until_empty: bool) -> Self {
        Self {
            worker: Arc::new(worker),
            until_empty,
            handlers: JoinSet::new(),
            running: HashMap::new(),
            ended: Vec::new(),
            taking: Taking::No,
            settling: None,
            in_settling: Vec::new(),
            extending: None,
            settle_at: None,
            pause: Pause::default(),
            stopping: None,
            failed: None,
            report: Report::default(),
        }
    }

    pub(crate) async fn run(mut self) -> Result<Report> {
        let signals = self.worker.signals.unwrap_or(!self.until_empty);
        let mut stop = Stop::new(&self.worker.stop, signals);
        let _gauges = Gauges::of(&self.worker.core, self.worker.source.queues());
        loop {
            // The settling first: what it frees in Redis can be leased by the call behind it.
            self.settle();
            self.extend();
            match self.stopping {
                None => self.take(),
                Some(_) => self.taking.stop(),
            }
            if self.is_done() {
                break;
            }
            let (wake_up, over) = (self.wake_up(), self.stopping);
            tokio::select! {
                biased;
                heard = stop.requested() => match heard {
                    Heard::Stop if self.stopping.is_none() => self.stop("it was told to"),
                    Heard::Stop => {}
                    Heard::End => break,
                },
                outcomes = next(&mut self.settling) => self.settled(outcomes),
                taken = self.taking.next() => self.taken(taken),
                extended = next(&mut self.extending) => self.extended(extended),
                Some(joined) = self.handlers.join_next_with_id() => {
                    self.ended(joined);
                    yield_now().await; // Others that are ready to end go out with it.
                    while let Some(joined) = self.handlers.try_join_next_with_id() {
                        self.ended(joined);
                    }
                }
                () = until(wake_up) => self.look_at_leases(),
                () = until(over) => break,
            }
        }
        self.give_back().await;
        let report = self.report;
        info!(target: "fairlane", ?report, "worker stopped");
        match self.failed {
            None => Ok(report),
            Some(error) if report == Report::default() => Err(error),
            Some(error) => Err(Error::WorkerStopped { report, source: Box::new(error) }),
        }
    }

    /// Whether all is done that was to be done.
    fn is_done(&self) -> bool {
        self.stopping.is_some() && self.is_idle() && matches!(self.taking, Taking::No)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.ended.is_empty() && self.settling.is_none()
    }

    /// Takes nothing new.
    pub(crate) fn stop(&mut self, why: &str) {
        let (running, grace) = (self.running.len(), self.worker.grace);
        info!(target: "fairlane", running, ?grace, "worker stops: {why}");
        self.stopping = Some(far(grace));
    }

    /// Ends the handlers that still run, and gives back what they had.
    async fn give_back(&mut self) {
        self.taking.stop();
        self.handlers.abort_all();
        let end = Instant::now() + ABORTED;
        while let Ok(Some(joined)) = timeout_at(end, self.handlers.join_next_with_id()).await {
            self.ended(joined); // It may have ended by itself.
        }
        let (end, blocked) = (Instant::now() + GIVING_BACK, !self.handlers.is_empty());
        for InHand { delivery, span, begun, lost, .. } in take(&mut self.running).into_values() {
            if blocked {
                delivery.lost().cancel(); // Somebody else gets it, and a handler that blocks may look.
            }
            let ended = Ended::given_back(delivery, span, begun.elapsed());
            match lost {
                true => self.over(ended, None),
                false => self.ended.push(ended),
            }
        }
        // What is on its way stood behind that. It goes back with it, in its order, or before it; but
        // for what does not come, nothing waits long.
        let together = Instant::now() + GIVING_BACK / 2;
        while !matches!(self.taking, Taking::No) {
            let Ok(taken) = timeout_at(together, self.taking.next()).await else { break };
            self.taken(taken);
            self.taking.stop(); // After what came too late there is a pause.
        }
        while self.settling.is_some()
            || !self.ended.is_empty()
            || !matches!(self.taking, Taking::No)
        {
            self.settle();
            let again = self.settle_again();
            tokio::select! {
                taken = self.taking.next() => self.taken(taken),
                outcomes = next(&mut self.settling) => self.settled(outcomes),
                () = until(again) => self.settle_at = None,
                () = sleep_until(end) => break,
            }
        }
        // Redis is away: it comes back when the leases end.
        for ended in take(&mut self.in_settling) {
            self.over(ended, Some(Err(Error::MaybeApplied(Cause::timeout(ENDED)))));
        }
        for ended in take(&mut self.ended) {
            let cause = Cause::timeout(ENDED);
            let error = if ended.doubtful { Error::MaybeApplied } else { Error::NotSent };
            self.over(ended, Some(Err(error(cause))));
        }
    }
}

/// The outcome of what is under way; it is over with that.
async fn next<T>(under_way: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(future) = under_way else { return pending().await };
    let outcome = future.await;
    *under_way = None;
    outcome
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// So long from now, or as good as never.
fn far(time: Duration) -> Instant {
    const YEARS: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    Instant::now() + time.min(YEARS)
}

/// Calls what is the user's, where a panic must not take the worker along. Returns what it said.
pub(crate) fn caught<Out>(call: impl FnOnce() -> Out) -> Result<Out, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(text_of)
}

/// What somebody has panicked with.
pub(crate) fn text_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("without a text").to_owned();
    // It is the user's, too, and so is what its end may panic with.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        forget(another);
    }
    text
}
