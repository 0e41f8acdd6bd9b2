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
use futures_util::future::join_all;
use tokio::{
    task::{Id, JoinError, JoinSet, yield_now},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, error, info, info_span, warn};

use crate::{
    Delivery, Error, Handled, Outcome, Report, Token, Worker,
    delivery::end,
    error::{Cause, Result},
    link::Pause,
    metrics::{self, Gauges},
    serve::{First, LONGEST, Order, Unclaimed, first},
    settle::{Settling, settle_apart},
    stop::{Heard, Stop},
};

/// How long handlers that were aborted may take to end: those that do not, block.
const ABORTED: Duration = Duration::from_secs(1);
/// How long giving back may take at the end.
const GIVING_BACK: Duration = Duration::from_secs(2);
/// Why something is not settled at the end.
const ENDED: &str = "the worker has ended before a reply came";

/// What a handler returned, or the text of its error; and how long it took.
type Returned = (Result<Outcome, String>, Duration);

/// A worker at work.
pub(crate) struct Work<T> {
    worker: Arc<Worker<T>>,
    until_empty: bool,
    handlers: JoinSet<Returned>,
    running: HashMap<Id, InHand<T>>,
    /// What handlers have ended with, to be settled.
    ended: Vec<Ended<T>>,
    taking: Taking,
    settling: Option<BoxFuture<'static, Vec<Result<()>>>>,
    /// What is settled by that, in its order.
    in_settling: Vec<Ended<T>>,
    extending: Option<BoxFuture<'static, Extended>>,
    /// After a settling that did not reach Redis.
    settle_at: Option<Instant>,
    pause: Pause,
    /// The handlers have until then; none while it goes on.
    stopping: Option<Instant>,
    /// What ended it.
    failed: Option<Error>,
    report: Report,
}

/// A message whose handler runs.
struct InHand<T> {
    delivery: Arc<Delivery<T>>,
    span: Span,
    begun: Instant,
    extend_at: Instant,
    /// Whether its lease is known to be lost.
    lost: bool,
}

/// A message whose handler has ended.
struct Ended<T> {
    delivery: Arc<Delivery<T>>,
    span: Span,
    outcome: Outcome,
    settling: Settling,
    took: Duration,
    /// Whether it may be settled already, by a call that had no answer.
    doubtful: bool,
}

/// The next messages, on their way.
enum Taking {
    No,
    /// Asks these queues. It is not broken off, since it may have leased.
    Asking(Arc<Order>, BoxFuture<'static, Result<First>>),
    /// Waits for them, until it is told not to.
    Waiting(Arc<Order>, BoxFuture<'static, Result<Unclaimed>>, CancellationToken),
    /// After an error that may pass.
    Paused(Instant),
}

/// What became of leases that were to have more time.
struct Extended {
    tokens: Vec<(Id, Token)>,
    asked: std::time::Instant,
    outcomes: Vec<Result<()>>,
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
        let mut stop = Stop::new(&self.worker.stop, self.worker.signals);
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
        self.failed.map_or(Ok(report), Err)
    }

    /// Whether all is done that was to be done.
    fn is_done(&self) -> bool {
        self.stopping.is_some() && self.is_idle() && matches!(self.taking, Taking::No)
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.ended.is_empty() && self.settling.is_none()
    }

    /// Takes nothing new.
    fn stop(&mut self, why: &str) {
        let (running, grace) = (self.running.len(), self.worker.grace);
        info!(target: "fairlane", running, ?grace, "worker stops: {why}");
        self.stopping = Some(far(grace));
    }

    // ------------------------------------------------------------------------------------- leases

    /// What may be taken now: nothing where no handler is free.
    fn order(&self) -> Option<Order> {
        let worker = &self.worker;
        let free = worker.concurrency - self.running.len();
        let mut most_of = Vec::new();
        for (queue, most) in &worker.concurrency_of {
            let of = |in_hand: &&InHand<T>| in_hand.delivery.queue() == &**queue;
            most_of.push((queue.clone(), most - self.running.values().filter(of).count()));
        }
        let full = |queue: &Arc<str>| most_of.iter().any(|(of, most)| of == queue && *most == 0);
        let source = worker.source.only(|queue| !full(queue));
        if free == 0 || source.is_empty() {
            return None;
        }
        // What is in hand may come back, or lead to more: what is there without it is all there is.
        let wait = if self.until_empty && self.is_idle() { Duration::ZERO } else { LONGEST };
        let order = Order::new(source, free, Some(worker.length));
        Some(Order { most_of, wait, ..order })
    }

    fn take(&mut self) {
        match &self.taking {
            Taking::Asking(..) | Taking::Paused(_) => return,
            // A queue that has room again is to be waited for, too; or there is nothing to wait for.
            Taking::Waiting(waiting, _, stop) => {
                let other = |order: Order| {
                    order.wait.is_zero() || !order.source.is_part_of(&waiting.source)
                };
                if self.order().is_some_and(other) {
                    stop.cancel();
                }
                return;
            }
            Taking::No => {}
        }
        let Some(order) = self.order().map(Arc::new) else { return };
        let (core, asked) = (self.worker.core.clone(), order.clone());
        let asking = Box::pin(async move { first(&core, &asked).await });
        self.taking = Taking::Asking(order, asking);
    }

    fn taken(&mut self, taken: Result<Option<First>>) {
        let before = std::mem::replace(&mut self.taking, Taking::No);
        match (taken, before) {
            (Ok(Some(First::Served(served))), _) => {
                self.start(served);
            }
            // It stops.
            (Ok(_), _) if self.stopping.is_some() => {}
            (Err(error), _) if self.stopping.is_some() => {
                debug!(target: "fairlane", %error, "the last lease failed");
            }
            (Ok(Some(First::Nothing(_))), Taking::Asking(order, _)) if order.wait.is_zero() => {
                self.stop("nothing can be served now");
            }
            (Ok(Some(First::Nothing(waiting))), Taking::Asking(order, _)) => {
                let (core, waited) = (self.worker.core.clone(), order.clone());
                let (until, stop) = (Instant::now() + order.wait, CancellationToken::new());
                let told = stop.clone();
                let waiting =
                    async move { waiting.serve(&core, &waited, until, Some(&told)).await };
                self.taking = Taking::Waiting(order, Box::pin(waiting), stop);
            }
            // After a pause.
            (Ok(_), _) => {}
            (Err(error), _) if passes(&error) && !self.until_empty => {
                warn!(target: "fairlane", %error, "nothing could be leased; trying again");
                self.taking = Taking::Paused(Instant::now() + self.pause.next());
            }
            (Err(error), _) => {
                self.failed = Some(error);
                self.stop("it cannot lease");
            }
        }
    }

    /// Starts a handler for each of these. One that stops gives them back; so does another one what
    /// came so late that its lease has ended, since somebody else may have it.
    fn start(&mut self, served: Unclaimed) {
        let (queue, taken) = served.claim();
        let worker = &self.worker;
        let mut late = 0;
        for taken in taken {
            self.report.leased += 1;
            let extend_at = Instant::from_std(taken.asked) + worker.length / 3;
            let delivery =
                Arc::new(Delivery::new(&worker.core, &queue, worker.length, &worker.decode, taken));
            let span = span(&delivery);
            let ended = delivery.expires_at() <= std::time::Instant::now();
            late += u32::from(ended);
            if ended || self.stopping.is_some() {
                self.ended.push(Ended::given_back(delivery, span, Duration::ZERO));
                continue;
            }
            let (given, worker, begun) = (delivery.clone(), worker.clone(), Instant::now());
            let handling = async move {
                worker.before.iter().for_each(|hook| hook(&given));
                let outcome = (worker.handler)(given).await;
                (outcome, begun.elapsed())
            };
            let id = self.handlers.spawn(handling.instrument(span.clone())).id();
            self.running.insert(id, InHand { delivery, span, begun, extend_at, lost: false });
        }
        if late > 0 {
            let length = worker.length;
            warn!(target: "fairlane", queue = &*queue, late, ?length, "leases had ended when they came");
            self.taking = Taking::Paused(Instant::now() + self.pause.next());
        } else {
            self.pause = Pause::default();
        }
    }

    // ---------------------------------------------------------------------------------- outcomes

    /// A handler has ended.
    fn ended(&mut self, joined: Result<(Id, Returned), JoinError>) {
        let (id, outcome, took) = match joined {
            Ok((id, (outcome, took))) => (id, outcome, Some(took)),
            Err(failed) => {
                let id = failed.id();
                // One that was aborted is given back.
                let Ok(panic) = failed.try_into_panic() else { return };
                self.report.panicked += 1;
                (id, Err(format!("panicked: {}", text_of(panic))), None)
            }
        };
        let Some(InHand { delivery, span, begun, lost, .. }) = self.running.remove(&id) else {
            return;
        };
        let took = took.unwrap_or_else(|| begun.elapsed());
        let outcome = outcome.unwrap_or_else(Outcome::Fail);
        let (outcome, settling) = outcome.checked();
        metrics::handled(delivery.token(), delivery.facet(), &outcome, took, self.worker.facets);
        let ended = Ended { delivery, span, outcome, settling, took, doubtful: false };
        match lost {
            true => self.over(ended, None),
            false => self.ended.push(ended),
        }
    }

    /// Settles what has ended: what is settled in the same way, in one call.
    fn settle(&mut self) {
        if self.settling.is_some()
            || self.ended.is_empty()
            || self.settle_at.is_some_and(|at| at > Instant::now())
        {
            return;
        }
        // It has come, and must not wake anybody up while this call is under way.
        self.settle_at = None;
        let mut groups: Vec<Vec<Ended<T>>> = Vec::new();
        for ended in take(&mut self.ended) {
            match groups.iter_mut().find(|group| group[0].settling == ended.settling) {
                Some(group) => group.push(ended),
                None => groups.push(vec![ended]),
            }
        }
        // What was leased together goes as one group; what goes back to the front, in its order.
        for group in &mut groups {
            group.sort_by_key(|ended| {
                let token = ended.delivery.token();
                (token.queue.clone(), token.lease, token.id)
            });
        }
        let token = |ended: &Ended<T>| ended.delivery.token().clone();
        let calls = groups.iter().map(|group| {
            let tokens: Vec<_> = group.iter().map(token).collect();
            let (core, how) = (self.worker.core.clone(), group[0].settling.clone());
            async move { settle_apart(&core, &how, &tokens).await }
        });
        let calls = join_all(calls);
        self.settling = Some(Box::pin(async move { calls.await.into_iter().flatten().collect() }));
        self.in_settling = groups.into_iter().flatten().collect();
    }

    fn settled(&mut self, outcomes: Vec<Result<()>>) {
        let now = std::time::Instant::now();
        for (mut ended, outcome) in take(&mut self.in_settling).into_iter().zip(outcomes) {
            let there = ended.delivery.expires_at() > now;
            match outcome {
                // Redis is away, or busy: again, as long as the lease can be there.
                Err(error) if there && passes(&error) && !error.is_of_one() => {
                    ended.doubtful |= matches!(error, Error::MaybeApplied(_));
                    self.ended.push(ended);
                }
                Err(Error::LeaseLost(_)) if ended.doubtful => {
                    let cause = Cause::new("a call without a reply may have settled it before");
                    self.over(ended, Some(Err(Error::MaybeApplied(cause))));
                }
                Err(Error::LeaseLost(_)) => self.over(ended, None),
                Err(Error::NotSent(_)) if !ended.doubtful => self.over(ended, None),
                outcome => self.over(ended, Some(outcome)),
            }
        }
        if !self.ended.is_empty() {
            self.settle_at = Some(Instant::now() + self.pause.next());
        }
    }

    /// Nothing more is done for a message. No outcome: its lease was lost.
    fn over(&mut self, ended: Ended<T>, outcome: Option<Result<()>>) {
        let Ended { delivery, span, outcome: wanted, settling, took, .. } = ended;
        let _in_span = span.enter();
        let settled = outcome.unwrap_or_else(|| Err(Error::LeaseLost(delivery.id())));
        match &settled {
            Ok(()) => {
                self.report.count(&settling);
                if let Outcome::Fail(reason) | Outcome::Dead(reason) = &wanted {
                    warn!(target: "fairlane", reason, "failed");
                }
            }
            Err(Error::LeaseLost(_)) => {
                delivery.lose();
                self.report.lost += 1;
                warn!(target: "fairlane", "its lease was lost before its handler had ended");
            }
            Err(error) => {
                self.report.unsettled += 1;
                warn!(target: "fairlane", %error, "not settled");
            }
        }
        let handled = Handled { outcome: &wanted, settled, took };
        for hook in &self.worker.after {
            if let Err(said) = caught(|| hook(&delivery, &handled)) {
                error!(target: "fairlane", "a hook panicked: {said}");
            }
        }
        if let Err(said) = caught(|| drop(delivery)) {
            error!(target: "fairlane", "a message panicked when it was dropped: {said}");
        }
    }

    // ------------------------------------------------------------------------------------ the time

    /// Gives more time to what has had a third of it, and to what will have soon.
    fn extend(&mut self) {
        let now = Instant::now();
        let length = self.worker.length;
        let due = |in_hand: &InHand<T>| !in_hand.lost && in_hand.extend_at <= now;
        if self.extending.is_some() || !self.running.values().any(due) {
            return;
        }
        let soon = now + length / 10;
        let mut tokens: Vec<_> = (self.running.iter())
            .filter(|(_, in_hand)| !in_hand.lost && in_hand.extend_at <= soon)
            .map(|(id, in_hand)| (*id, in_hand.delivery.token().clone()))
            .collect();
        tokens.sort_by(|(_, a), (_, b)| (&a.queue, a.lease, a.id).cmp(&(&b.queue, b.lease, b.id)));
        let core = self.worker.core.clone();
        self.extending = Some(Box::pin(async move {
            let asked = std::time::Instant::now();
            let all: Vec<_> = tokens.iter().map(|(_, token)| token.clone()).collect();
            let outcomes = settle_apart(&core, &Settling::Extend { length }, &all).await;
            Extended { tokens, asked, outcomes }
        }));
    }

    fn extended(&mut self, Extended { tokens, asked, outcomes }: Extended) {
        let length = self.worker.length;
        let (mut failed, mut why) = (0, None);
        for ((id, _), outcome) in tokens.into_iter().zip(outcomes) {
            let Some(in_hand) = self.running.get_mut(&id) else { continue };
            match outcome {
                Ok(()) => {
                    in_hand.delivery.extended(end(asked, length));
                    in_hand.extend_at = Instant::from_std(asked) + length / 3;
                }
                Err(Error::LeaseLost(_)) => in_hand.lose(),
                Err(error) => {
                    in_hand.extend_at = Instant::now() + length / 20;
                    (failed, why) = (failed + 1, Some(error));
                }
            }
        }
        if let Some(error) = why {
            warn!(target: "fairlane", failed, %error, "leases not extended");
        }
    }

    /// When a lease is to be extended, or has ended; or what was put off is to be done.
    fn wake_up(&self) -> Option<Instant> {
        let leases = self.running.values().filter(|in_hand| !in_hand.lost).map(|in_hand| {
            let end = Instant::from_std(in_hand.delivery.expires_at());
            if self.extending.is_some() { end } else { in_hand.extend_at.min(end) }
        });
        leases.chain(self.settle_at.filter(|_| !self.ended.is_empty())).min()
    }

    /// Tells the handlers whose leases have ended.
    fn look_at_leases(&mut self) {
        let now = std::time::Instant::now();
        for in_hand in self.running.values_mut() {
            if !in_hand.lost && in_hand.delivery.expires_at() <= now {
                in_hand.lose();
            }
        }
    }

    // --------------------------------------------------------------------------------------- end

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
        while self.settling.is_some()
            || !self.ended.is_empty()
            || !matches!(self.taking, Taking::No)
        {
            self.settle();
            tokio::select! {
                taken = self.taking.next() => self.taken(taken),
                outcomes = next(&mut self.settling) => self.settled(outcomes),
                () = until(self.settle_at) => self.settle_at = None,
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

impl<T> Ended<T> {
    /// One that nobody has handled.
    fn given_back(delivery: Arc<Delivery<T>>, span: Span, took: Duration) -> Self {
        let settling = Settling::Nack { counted: false, after: None };
        Self {
            delivery,
            span,
            outcome: Outcome::Retry(Duration::ZERO),
            settling,
            took,
            doubtful: false,
        }
    }
}

impl<T> InHand<T> {
    fn lose(&mut self) {
        self.lost = true;
        self.delivery.lose();
    }
}

impl Taking {
    /// Takes nothing new; what is on its way comes still.
    fn stop(&mut self) {
        match self {
            Self::Waiting(_, _, stop) => stop.cancel(),
            Self::Paused(_) => *self = Self::No,
            Self::No | Self::Asking(..) => {}
        }
    }

    /// What was taken; nothing after a pause.
    async fn next(&mut self) -> Result<Option<First>> {
        match self {
            Self::No => pending().await,
            Self::Asking(_, asking) => asking.await.map(Some),
            Self::Waiting(_, waiting, _) => Ok(Some(First::Served(waiting.await?))),
            Self::Paused(end) => {
                sleep_until(*end).await;
                Ok(None)
            }
        }
    }
}

/// Whether a worker goes on after this: it may pass by itself.
fn passes(error: &Error) -> bool {
    matches!(error, Error::NotSent(_) | Error::MaybeApplied(_) | Error::Server { .. } | Error::Full)
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
fn text_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("without a text").to_owned();
    // It is the user's, too, and so is what its end may panic with.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        forget(another);
    }
    text
}

/// The span of a message. Where its sender was part of a trace, it is another part of that, and none
/// of what the worker was started in.
fn span<T>(delivery: &Delivery<T>) -> Span {
    let trace = delivery.headers().get("traceparent").and_then(|header| trace_context(header));
    let (queue, facet, topic) = (delivery.queue(), delivery.facet(), delivery.topic());
    let (id, attempt) = (delivery.id().0, delivery.attempt().get());
    match trace {
        Some((trace_id, parent_id)) => info_span!(
            target: "fairlane", parent: None, "handle", queue, facet, topic, id, attempt, trace_id, parent_id
        ),
        None => {
            info_span!(target: "fairlane", "handle", queue, facet, topic, id, attempt)
        }
    }
}

/// Trace and parent, of a header as the W3C has it: `00-<32 hex>-<16 hex>-<flags>`.
fn trace_context(header: &str) -> Option<(&str, &str)> {
    let mut parts = header.split('-');
    let mut hex = |len: usize| {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        parts.next().filter(|part| part.len() == len && part.bytes().all(digit))
    };
    let version = hex(2).filter(|version| *version != "ff")?;
    let ids = [hex(32)?, hex(16)?];
    hex(2)?;
    // A later version may have more parts.
    let ends = version != "00" || parts.next().is_none();
    let real = |id: &&str| id.bytes().any(|digit| digit != b'0');
    (ends && ids.iter().all(real)).then_some((ids[0], ids[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_is_read_and_what_is_none_is_not() {
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert_eq!(trace_context(&format!("00-{trace}-{parent}-01")), Some((trace, parent)));
        assert_eq!(trace_context(&format!("cc-{trace}-{parent}-01-more")), Some((trace, parent)));
        for header in [
            String::new(),
            format!("00-{trace}-{parent}"),
            format!("00-{trace}-{parent}-01-more"),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}x-{parent}-01"),
        ] {
            assert_eq!(trace_context(&header), None, "{header}");
        }
    }
}
