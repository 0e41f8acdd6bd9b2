//! What pull and lease do: ask the queues of a source in turn, and wait where nothing is there.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::{future::BoxFuture, ready};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};
use tracing::{debug, warn};

use crate::{
    Error, Invalid, Token,
    core::Core,
    error::Result,
    lease::check_length,
    link::Pause,
    queues::Source,
    settle::{Settling, settle},
    take::{Next, Taken, take},
    wait::{Line, Turn},
};

/// The longest wait.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) source: Source,
    pub(crate) most: usize,
    /// Of the lease; none to take for good.
    pub(crate) length: Option<Duration>,
    pub(crate) wait: Duration,
}

/// Takes from the first queue that has something. Where none has, waits for it.
pub(crate) async fn serve(core: &Arc<Core>, order: &Order) -> Result<Unclaimed> {
    order.source.check()?;
    order.length.map_or(Ok(()), check_length)?;
    if order.wait > LONGEST {
        return Err(Invalid::OutOfRange { what: "wait", range: "0 to 24 h" }.into());
    }
    let until = Instant::now() + order.wait;
    let waits = !order.wait.is_zero() && order.most > 0;
    let mut lines: Vec<(Arc<Line>, Option<Next>)> = Vec::new();
    let (mut missing, mut away) = (None, None);
    let queues = order.source.queues();
    for queue in &queues {
        let line = waits.then(|| core.lines.of(queue));
        let quiet = line.as_ref().is_some_and(|line| line.is_quiet());
        let mut asked = None;
        if !quiet {
            match ask(core, queue, order).await {
                Ok((served, _)) if !served.taken.is_empty() => return Ok(served),
                Ok((_, next)) => asked = Some(next),
                Err(error @ Error::NoSuchQueue(_)) => missing = missing.or(Some(error)),
                Err(error) if waits && passes(&error, order) => away = Some(error),
                Err(error) => return Err(error),
            }
        }
        lines.extend(line.map(|line| (line, asked)));
    }
    if let Some(error) = missing {
        return Err(error);
    }
    let nothing = Unclaimed::new(core, queues.first(), Vec::new(), order);
    if !waits {
        return Ok(nothing);
    }
    let mut pause = Pause::default();
    loop {
        let turn = match timeout_at(until, first_turn(core, &mut lines)).await {
            Ok(turn) => turn?,
            // It ends while Redis is away: a last call says so.
            Err(_) => match lines.iter().find(|(line, _)| line.is_away()) {
                Some((line, _)) => return Ok(ask(core, &line.queue, order).await?.0),
                None => break,
            },
        };
        match ask(core, turn.queue(), order).await {
            Ok((served, next)) => {
                let queue = turn.queue().clone();
                turn.over(next);
                if !served.taken.is_empty() {
                    return Ok(served);
                }
                // Should it have taken so long that the line has gone on without it.
                for (_, asked) in lines.iter_mut().filter(|(line, _)| line.queue == queue) {
                    *asked = Some(next);
                }
                (away, pause) = (None, Pause::default());
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
    }
    away.map_or(Ok(nothing), Err)
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

/// Waits in all lines at once, for the first turn in any of them. What was just heard is good for
/// the first time only.
async fn first_turn(core: &Arc<Core>, lines: &mut [(Arc<Line>, Option<Next>)]) -> Result<Turn> {
    let mut waiting: Vec<BoxFuture<'_, Result<Turn>>> = Vec::with_capacity(lines.len());
    for (line, asked) in lines {
        waiting.push(Box::pin(line.clone().turn(core, asked.take())));
    }
    poll_fn(|context| {
        let mut turns = waiting.iter_mut().map(|turn| turn.as_mut().poll(context));
        turns.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

/// Takes from one queue what is there.
async fn ask(core: &Arc<Core>, queue: &Arc<str>, order: &Order) -> Result<(Unclaimed, Next)> {
    let (core, queue, order) = (core.clone(), queue.clone(), order.clone());
    let leases = order.length.is_some();
    let call = async move {
        let (taken, next) = take(&core, &queue, order.most, order.length).await?;
        Ok((Unclaimed::new(&core, Some(&queue), taken, &order), next))
    };
    match leases {
        true => ToItsEnd { call: Some(Box::pin(call)), begun: false }.await,
        false => call.await,
    }
}

/// A call that ends in a task of its own when nobody waits for it any more.
struct ToItsEnd<Out: Send + 'static> {
    /// None when it has ended.
    call: Option<BoxFuture<'static, Out>>,
    begun: bool,
}

impl<Out: Send + 'static> Future for ToItsEnd<Out> {
    type Output = Out;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Out> {
        self.begun = true;
        let Some(call) = &mut self.call else { return Poll::Pending };
        let out = ready!(call.as_mut().poll(context));
        self.call = None;
        Poll::Ready(out)
    }
}

impl<Out: Send + 'static> Drop for ToItsEnd<Out> {
    fn drop(&mut self) {
        if let (true, Some(call), Ok(runtime)) =
            (self.begun, self.call.take(), Handle::try_current())
        {
            runtime.spawn(call);
        }
    }
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
            if let Err(error) = settle(&core, Settling::Nack { counted: false }, &tokens).await {
                warn!(target: "fairlane", %error, "what nobody waited for comes back when its lease ends");
            }
        });
    }
}
