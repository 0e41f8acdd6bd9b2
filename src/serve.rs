//! What pull and lease do: ask the queues of a source in turn, and wait where nothing is there.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use futures_core::future::BoxFuture;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    Error, ErrorKind, Invalid, Pulled, Token,
    core::Core,
    error::{Result, runtime_ended},
    gather::{Gather, Reply},
    lease::check_length,
    link::Pause,
    partition::Partition,
    queues::Source,
    settle::{Settling, settle},
    stats::stats,
    take::{MOST, MOST_OF_A_PART, Next, Take, Taken, take},
    wait::{Turn, Waiter},
};

/// How long one that waits leaves a partition alone that is away.
const AWAY: Duration = Duration::from_millis(500);
/// The longest wait.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) source: Source,
    pub(crate) most: usize,
    /// How much of some queues, where that may be less.
    pub(crate) most_of: Vec<(Arc<str>, usize)>,
    /// Of the lease; none to take for good.
    pub(crate) length: Option<Duration>,
    pub(crate) wait: Duration,
}

impl Order {
    /// One that does not wait.
    pub(crate) fn new(source: Source, most: usize, length: Option<Duration>) -> Self {
        Self { source, most: most.min(MOST), most_of: Vec::new(), length, wait: Duration::ZERO }
    }

    fn most(&self, queue: &Arc<str>) -> usize {
        let of = self.most_of.iter().find(|(of, _)| of == queue);
        of.map_or(self.most, |(_, most)| self.most.min(*most))
    }
}

/// Takes from the first queue that has something. Where none has, waits for it.
pub(crate) async fn serve(core: &Arc<Core>, order: &Order) -> Result<Unclaimed> {
    order.source.check()?;
    order.length.map_or(Ok(()), check_length)?;
    if order.wait > LONGEST {
        return Err(Invalid::OutOfRange { what: "wait", range: "0 to 24 h" }.into());
    }
    let until = Instant::now() + order.wait;
    match first(core, order).await? {
        First::Served(served) => Ok(served),
        First::Nothing(waiting) => waiting.serve(core, order, until, None).await,
    }
}

/// What the queues had when they were asked the first time.
pub(crate) enum First {
    Served(Unclaimed),
    /// Nothing; who waits stands in their lines.
    Nothing(Waiting),
}

/// Asks the queues, one after the other, for the first that has something; of each its partitions,
/// until it has all that it should.
pub(crate) async fn first(core: &Arc<Core>, order: &Order) -> Result<First> {
    let waits = !order.wait.is_zero() && order.most > 0;
    let mut waiters: Vec<Waiter> = Vec::new();
    let (mut missing, mut away) = (None, None);
    let (several, mut skipped) = (core.partitions.len() > 1, Vec::new());
    let queues = order.source.queues();
    for queue in &queues {
        let mut lacking = 0;
        let mut served = Unclaimed::new(core, Some(queue), Vec::new(), order);
        for (place, may_have) in core.visits.order(queue, core.partitions.len()) {
            let left = order.most(queue).saturating_sub(served.taken.len());
            if !served.taken.is_empty() && (left == 0 || !may_have) {
                break;
            }
            let partition = &core.partitions[place];
            let line = waits.then(|| partition.lines.of(queue));
            let quiet = line.as_ref().is_some_and(|line| line.is_quiet());
            let mut asked = None;
            if !quiet {
                let asking = match away_from(core, partition) {
                    // It is asked where none of the others has anything.
                    Some(_) if !waits || !served.taken.is_empty() => {
                        core.visits.missed(queue, place);
                        skipped.push((partition, queue));
                        continue;
                    }
                    Some(error) => {
                        core.visits.missed(queue, place);
                        Err(error)
                    }
                    None => ask(core, partition, queue, order, left).await,
                };
                match asking {
                    Ok((some, next)) => {
                        served.add(some);
                        // More is there than was asked for, or than one take gives.
                        if next == Next::Now && !served.taken.is_empty() {
                            break;
                        }
                        asked = Some(next);
                    }
                    Err(error) if !served.taken.is_empty() => {
                        served.interrupted(error)?;
                        break;
                    }
                    // Where it is not registered, others may hold something.
                    Err(error @ Error::NoSuchQueue(_)) => {
                        (lacking, asked) = (lacking + 1, Some(Next::Open));
                        if lacking == core.partitions.len() {
                            missing = missing.or(Some(error));
                        }
                    }
                    Err(error) if waits && passes(&error, order) => away = Some(error),
                    // Others may have something.
                    Err(error @ Error::NotSent(_)) if several => away = Some(error),
                    Err(error) => return Err(error),
                }
            }
            waiters.extend(line.map(|line| Waiter::new(partition, line, asked)));
        }
        if !served.taken.is_empty() {
            return Ok(First::Served(served));
        }
    }
    // Where nothing else was to be had, what is away is waited for.
    for (partition, queue) in skipped.into_iter().filter(|_| !waits) {
        let (served, _) = ask(core, partition, queue, order, order.most(queue)).await?;
        if !served.taken.is_empty() {
            return Ok(First::Served(served));
        }
    }
    if let Some(error) = away.take_if(|_| !waits) {
        return Err(error);
    }
    match missing {
        Some(error) => Err(error),
        None => Ok(First::Nothing(Waiting { queue: queues.into_iter().next(), waiters, away })),
    }
}

/// One that found nothing: it stands in the lines of all its queues. Those who do not wait stand in
/// none.
pub(crate) struct Waiting {
    /// The first of the queues.
    queue: Option<Arc<str>>,
    waiters: Vec<Waiter>,
    /// Why it could not ask the last time.
    away: Option<Error>,
}

impl Waiting {
    /// Waits for something to serve. Dropped, it hands on what it was woken for. Told to `stop`, it
    /// ends as soon as it only waits, so that it leaves no call behind.
    pub(crate) async fn serve(
        self,
        core: &Arc<Core>,
        order: &Order,
        until: Instant,
        stop: Option<&CancellationToken>,
    ) -> Result<Unclaimed> {
        let Self { queue, waiters, mut away } = self;
        let nothing = Unclaimed::new(core, queue.as_ref(), Vec::new(), order);
        if waiters.is_empty() {
            return Ok(nothing);
        }
        let lines = waiters.iter().map(|waiter| (waiter.partition.clone(), waiter.line.clone()));
        let lines: Vec<_> = lines.collect();
        let stand = |waiter: Waiter| -> Standing { Box::pin(waiter.turn()) };
        let mut standing: Vec<_> = waiters.into_iter().map(|waiter| Some(stand(waiter))).collect();
        let mut pause = Pause::default();
        loop {
            let turn = timeout_at(until, first_turn(&mut standing));
            let turn = match stop {
                None => turn.await,
                Some(stop) => match stop.run_until_cancelled(turn).await {
                    Some(turn) => turn,
                    None => return Ok(nothing),
                },
            };
            let (place, mut waiter, turn) = match turn {
                Ok((place, waiter, turn)) => (place, waiter, turn?),
                // It ends while Redis is away: a last call says so.
                Err(_) => match lines.iter().find(|(_, line)| line.is_away()) {
                    Some((partition, line)) => {
                        if let Some(error) = away_from(core, partition) {
                            return Err(error);
                        }
                        let (queue, most) = (&line.queue, order.most(&line.queue));
                        return Ok(ask(core, partition, queue, order, most).await?.0);
                    }
                    None => break,
                },
            };
            if let Some(error) = away_from(core, &waiter.partition) {
                // It holds up none of the others.
                core.visits.missed(turn.queue(), waiter.partition.place as usize);
                turn.over(Next::In(AWAY));
                away = Some(error);
                standing[place] = Some(stand(waiter));
                continue;
            }
            let most = order.most(turn.queue());
            match ask(core, &waiter.partition, turn.queue(), order, most).await {
                Ok((served, next)) => {
                    turn.over(next);
                    if !served.taken.is_empty() {
                        return Ok(served);
                    }
                    // Should it have taken so long that the line has gone on without it.
                    waiter.asked = Some(next);
                    (away, pause) = (None, Pause::default());
                }
                Err(Error::NoSuchQueue(_)) if core.partitions.len() > 1 => {
                    // Another partition may hold something, or none has it any more.
                    if let Err(error @ Error::NoSuchQueue(_)) = stats(core, turn.queue()).await {
                        return Err(error);
                    }
                    turn.over(Next::Open);
                    waiter.asked = Some(Next::Open);
                }
                Err(error) if passes(&error, order) => {
                    debug!(target: "fairlane", queue = &**turn.queue(), %error, "waiting on");
                    drop(turn);
                    away = Some(error);
                    if !pause.before(until).await {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
            // In the other lines it has stood meanwhile: who leaves one has to ask there again.
            standing[place] = Some(stand(waiter));
        }
        away.map_or(Ok(nothing), Err)
    }
}

/// That a partition is away, where there are others to turn to.
fn away_from(core: &Core, partition: &Partition) -> Option<Error> {
    if core.partitions.len() == 1 { None } else { partition.connection.is_away() }
}

/// Whether one that waits may go on after this. What may have been pulled is gone, and the caller
/// has to know.
fn passes(error: &Error, order: &Order) -> bool {
    match error {
        Error::NotSent(_) => true,
        Error::MaybeApplied(_) => order.length.is_some(),
        _ => false,
    }
}

/// One who stands in a line, until it has the turn there.
type Standing = BoxFuture<'static, (Waiter, Result<Turn>)>;

/// Waits in all lines at once, for the first turn in any of them. That place is empty then.
async fn first_turn(standing: &mut [Option<Standing>]) -> (usize, Waiter, Result<Turn>) {
    poll_fn(|context| {
        for (place, stands) in standing.iter_mut().enumerate() {
            if let Some(Poll::Ready((waiter, turn))) =
                stands.as_mut().map(|stands| stands.as_mut().poll(context))
            {
                *stands = None;
                return Poll::Ready((place, waiter, turn));
            }
        }
        Poll::Pending
    })
    .await
}

/// What one gets of a take: some messages, when there is more, and by how much the round of turns has
/// gone with that.
type Share = Result<(Unclaimed, Next, f64)>;

/// What concurrent tasks take from a queue in the same way, on its way: the messages that each
/// asks for.
pub(crate) type Takes = Gather<(Arc<str>, Option<Duration>), usize, Share>;

impl Takes {
    pub(crate) fn of_a_part() -> Arc<Self> {
        Arc::new(Self::new(MOST_OF_A_PART))
    }
}

/// Takes from one queue what is there, together with other tasks that do so at the same time. A
/// lease that is under way is not broken off: what reaches nobody goes back.
async fn ask(
    core: &Arc<Core>,
    partition: &Arc<Partition>,
    queue: &Arc<str>,
    order: &Order,
    most: usize,
) -> Result<(Unclaimed, Next)> {
    let place = partition.place as usize;
    let visit = core.visits.visit(queue, place, core.partitions.len(), most);
    let (shared, of, length) = (core.clone(), partition.clone(), order.length);
    let (key, name) = ((queue.clone(), length), queue.clone());
    let asking = partition.takes.join(key, most, most, length.is_some(), move |callers| {
        together(shared, of, name, length, callers)
    });
    let asked = asking.await.unwrap_or_else(|| Err(runtime_ended()));
    let (served, next, gone) = asked.inspect_err(|_| core.visits.missed(queue, place))?;
    if let Some(visit) = visit {
        visit.served(served.taken.len(), gone, next != Next::Now);
    }
    Ok((served, next))
}

/// Takes for all of them at once. The first come first: who asks for many may leave nothing to
/// those behind.
async fn together(
    core: Arc<Core>,
    partition: Arc<Partition>,
    queue: Arc<str>,
    length: Option<Duration>,
    callers: Vec<(usize, Reply<Share>)>,
) {
    let mut callers = VecDeque::from(callers);
    let leased = length.is_some();
    let unclaimed = |taken| Unclaimed { core: core.clone(), queue: queue.clone(), taken, leased };
    loop {
        callers.retain(|(_, reply)| reply.is_awaited());
        if callers.is_empty() {
            return;
        }
        let most = callers.iter().map(|(most, _)| most).sum();
        let Take { taken, gone, ended } = take(&partition, &queue, most, length).await;
        let step = gone / taken.len().max(1) as f64;
        // Where a bound of bytes has ended it, there is more for those who got nothing.
        let more = !taken.is_empty() && ended.as_ref().is_ok_and(|next| *next == Next::Now);
        let mut taken = taken.into_iter();
        while !more || taken.len() > 0 {
            let Some((most, reply)) = callers.pop_front() else { break };
            if !reply.is_awaited() {
                continue;
            }
            let got: Vec<_> = taken.by_ref().take(most).collect();
            let gone = got.len() as f64 * step;
            reply.give(match &ended {
                Ok(next) => Ok((unclaimed(got), *next, gone)),
                Err(_) if got.len() == most => Ok((unclaimed(got), Next::Now, gone)),
                Err(error) if got.is_empty() => Err(error.clone()),
                Err(error) => Err(interrupted(got, error.clone())),
            });
        }
        drop(unclaimed(taken.collect())); // What was leased for those who left goes back.
    }
}

/// What has arrived of a pull, of which more may be gone.
fn interrupted(taken: Vec<Taken>, error: Error) -> Error {
    let mut pulled: Vec<Pulled> = taken.into_iter().map(|taken| taken.stored.into()).collect();
    let source = match error {
        Error::PullInterrupted { pulled: more, source } => {
            pulled.extend(more);
            source
        }
        error => Box::new(error),
    };
    Error::PullInterrupted { pulled, source }
}

/// What was taken and has not yet reached the caller. What was leased goes back when this is
/// dropped.
pub(crate) struct Unclaimed {
    core: Arc<Core>,
    queue: Arc<str>,
    taken: Vec<Taken>,
    leased: bool,
}

impl Unclaimed {
    fn new(core: &Arc<Core>, queue: Option<&Arc<str>>, taken: Vec<Taken>, order: &Order) -> Self {
        let queue = queue.cloned().unwrap_or_else(|| "".into());
        Self { core: core.clone(), queue, taken, leased: order.length.is_some() }
    }

    /// Adds what was taken from another partition.
    fn add(&mut self, mut other: Self) {
        self.taken.append(&mut other.taken);
    }

    /// A later partition could not be asked. What is leased is safe; what was pulled from it may be
    /// gone, and the caller has to know.
    fn interrupted(&mut self, error: Error) -> Result<()> {
        if self.leased || error.kind() != ErrorKind::MaybeApplied {
            let (queue, taken) = (&*self.queue, self.taken.len());
            warn!(target: "fairlane", queue, taken, %error, "the rest of a take failed");
            return Ok(());
        }
        Err(interrupted(std::mem::take(&mut self.taken), error))
    }

    /// The queue, and what was taken from it.
    pub(crate) fn claim(mut self) -> (Arc<str>, Vec<Taken>) {
        (self.queue.clone(), std::mem::take(&mut self.taken))
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if self.taken.is_empty() || !self.leased {
            return;
        }
        let (core, queue) = (self.core.clone(), self.queue.clone());
        let token =
            |taken: Taken| Token { queue: queue.clone(), id: taken.stored.id, lease: taken.lease };
        let tokens: Vec<_> = std::mem::take(&mut self.taken).into_iter().map(token).collect();
        // Without a runtime nobody can give it back before its lease ends.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = settle(&core, &Settling::Nack { counted: false, after: None }, &tokens).await {
                warn!(target: "fairlane", %error, "what nobody waited for comes back when its lease ends");
            }
        });
    }
}
