//! Waiting without polling: who finds nothing waits for the marker of the queue.
//!
//! Those of one broker that wait on one queue stand in a line. The first of them blocks for all, on
//! a connection that only waits (a blocked BZPOPMIN cannot be shared with calls). When the marker
//! comes, when something is due, or after a window, it asks: it takes from the queue as one that
//! does not wait would. The answer says whether more is left; then the next in line asks at once,
//! otherwise it blocks. So one delivery wakes one of them, and a chain of them follows where there
//! is more.
//!
//! A wake-up is never lost by one who gives up: the next in line asks, and when there is none, the
//! marker is set again for the workers of other processes. A process that dies with the marker in
//! its hand costs the others a window.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_core::future::BoxFuture;
use redis::{RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    runtime::Handle,
    sync::OwnedMutexGuard,
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;

use crate::{
    connection::Repeat,
    core::Core,
    error::{Result, refused},
    link::{Link, Pause, send, steps_down},
    scripts,
    take::Next,
};

/// How long the first in line blocks before it asks.
const WINDOW: Duration = Duration::from_secs(5);
/// How long a line that nobody stands in is kept, with its connection.
const KEPT: Duration = Duration::from_secs(60);

/// The lines of a broker, one for each queue that is waited on.
#[derive(Default)]
pub(crate) struct Lines(Mutex<HashMap<Arc<str>, Arc<Line>>>);

impl Lines {
    pub(crate) fn of(&self, queue: &Arc<str>) -> Arc<Line> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|name, line| name == queue || !line.state().forgotten());
        lines.entry(queue.clone()).or_insert_with(|| Arc::new(Line::new(queue.clone()))).clone()
    }
}

impl Drop for Lines {
    /// What is still blocked ends with the broker, and its connection with it.
    fn drop(&mut self) {
        for line in self.0.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            if let Some(task) = &line.state().task {
                task.abort();
            }
        }
    }
}

/// Those that wait on one queue.
pub(crate) struct Line {
    queue: Arc<str>,
    /// Held by the first in line; the others wait for it in their order.
    first: Arc<tokio::sync::Mutex<First>>,
    state: Mutex<State>,
}

/// What the first in line hands to the next.
#[derive(Default)]
struct First {
    /// Whether the last one that asked found that nothing is left: then the next may block without
    /// asking.
    empty: bool,
    /// When something is due.
    due: Option<Instant>,
    /// The block under way. Who is first drives it; when nobody is left, a task.
    block: Option<BoxFuture<'static, Result<()>>>,
}

struct State {
    /// How many stand in line.
    waiting: usize,
    /// That the marker was taken, and nobody has asked since.
    woken: bool,
    /// Whether a block is under way.
    blocked: bool,
    /// The task that drives it when nobody is left.
    task: Option<AbortHandle>,
    /// The connection that waits, while no block has it.
    connection: Option<MultiplexedConnection>,
    used: Instant,
}

impl State {
    fn forgotten(&self) -> bool {
        self.waiting == 0 && !self.blocked && self.used.elapsed() > KEPT
    }
}

impl Line {
    fn new(queue: Arc<str>) -> Self {
        let state = State {
            waiting: 0,
            woken: false,
            blocked: false,
            task: None,
            connection: None,
            used: Instant::now(),
        };
        Self { queue, first: Arc::default(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is known that nothing can be served, so that one who comes need not ask.
    pub(crate) fn is_quiet(&self) -> bool {
        self.state().blocked
    }

    /// Stands in line until it is time to ask. `asked` is what this one heard just before.
    ///
    /// Dropped, it hands the wake-up on.
    pub(crate) async fn turn(
        self: Arc<Self>,
        core: &Arc<Core>,
        asked: Option<Next>,
    ) -> Result<Turn> {
        let place = Place::take(&self, core);
        let mut first = match self.first.clone().try_lock_owned() {
            Ok(mut first) => {
                if let Some(next) = asked {
                    first.heard(next);
                }
                first
            }
            Err(_) => self.first.clone().lock_owned().await,
        };
        if first.empty {
            let due = first.due;
            let ended = first.block.get_or_insert_with(|| self.block(core, due)).await;
            first.block = None;
            first.empty = false;
            ended?;
        }
        Ok(Turn { first, place })
    }

    /// Begins to block, until there may be something to serve.
    fn block(
        self: &Arc<Self>,
        core: &Arc<Core>,
        due: Option<Instant>,
    ) -> BoxFuture<'static, Result<()>> {
        let until = Instant::now() + WINDOW;
        let until = due.map_or(until, |due| due.min(until));
        let (link, limit) = (core.connection.link.clone(), core.connection.deadline);
        let key = core.keys.wake(&self.queue);
        let mut state = self.state();
        let blocked = Blocked {
            line: Arc::downgrade(self),
            core: Arc::downgrade(core),
            woken: false,
            connection: None,
        };
        let connection = state.connection.take();
        state.blocked = true;
        Box::pin(async move {
            let (woken, connection) = marker(&link, connection, &key, until, limit).await?;
            blocked.end(woken, connection);
            Ok(())
        })
    }

    /// Lets a task drive the block under way, since nobody is left who does.
    fn leave_to_task(&self) {
        let (Ok(runtime), Ok(mut first)) = (Handle::try_current(), self.first.try_lock()) else {
            return;
        };
        if let Some(block) = first.block.take() {
            let task = runtime.spawn(block);
            self.state().task = Some(task.abort_handle());
            // One that did not come to its end: its runtime has ended. It is time to ask.
            first.block = Some(Box::pin(async move { task.await.unwrap_or(Ok(())) }));
        }
    }
}

/// Waits for the marker, until then. Returns whether it was taken, and the connection if it is
/// still good. Where it was away meanwhile it is time to ask: something may have been missed.
async fn marker(
    link: &Link,
    kept: Option<MultiplexedConnection>,
    key: &str,
    until: Instant,
    limit: Duration,
) -> Result<(bool, Option<MultiplexedConnection>)> {
    let mut pause = Pause::default();
    let mut connection = kept;
    let mut away = false;
    loop {
        let mut live = match connection.take() {
            Some(live) => live,
            None => match timeout_at(until, link.connect(|_| Ok::<_, RedisError>(()))).await {
                Err(_) => return Ok((false, None)),
                Ok(Ok(live)) if away => return Ok((false, Some(live))),
                Ok(Ok(live)) => live,
                Ok(Err(error)) => {
                    let cause = link.unreachable(error)?;
                    debug!(target: "fairlane", key, %cause, "waiting for Redis to come back");
                    away = true;
                    if !pause.before(until).await {
                        return Ok((false, None));
                    }
                    continue;
                }
            },
        };
        // Redis takes 0 for ever.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut command = redis::cmd("BZPOPMIN");
        command.arg(key).arg(left.as_secs_f64());
        match timeout(left + limit, send(&mut live, &command)).await {
            Ok(Ok(value)) => return Ok((value != Value::Nil, Some(live))),
            Ok(Err(error)) if error.code().is_some() && !steps_down(&error) => {
                return Err(refused(error));
            }
            Ok(Err(_)) => away = true,
            Err(_) => return Ok((false, None)), // A silent link does not break by itself.
        }
        if !pause.before(until).await {
            return Ok((false, None));
        }
    }
}

/// A block under way. Dropped, at its end or without one, it tells the line.
struct Blocked {
    line: Weak<Line>,
    core: Weak<Core>,
    /// Whether the marker was taken.
    woken: bool,
    /// The connection, if it is still good.
    connection: Option<MultiplexedConnection>,
}

impl Blocked {
    fn end(mut self, woken: bool, connection: Option<MultiplexedConnection>) {
        (self.woken, self.connection) = (woken, connection);
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let Some(line) = self.line.upgrade() else { return };
        let mut state = line.state();
        state.blocked = false;
        state.connection = self.connection.take();
        state.used = Instant::now();
        state.woken |= self.woken;
        state.hand_on(&line.queue, &self.core);
    }
}

impl State {
    /// When nobody is left here for a wake-up, it goes to those that wait elsewhere.
    fn hand_on(&mut self, queue: &Arc<str>, core: &Weak<Core>) {
        if self.waiting > 0 || !std::mem::take(&mut self.woken) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let Some(core) = core.upgrade() else { return };
        let queue = queue.clone();
        runtime.spawn(async move {
            let command = core.command(&scripts::WAKE, &[&queue]);
            if let Err(error) = core.call(&scripts::WAKE, &command, Repeat::Safe).await {
                let queue = &*queue;
                debug!(target: "fairlane", queue, %error, "others find the wake-up within a window");
            }
        });
    }
}

impl First {
    fn heard(&mut self, next: Next) {
        self.empty = next != Next::Now;
        self.due = match next {
            Next::In(time) => Some(Instant::now() + time),
            Next::Now | Next::Open => None,
        };
    }
}

/// A place in line.
struct Place {
    line: Arc<Line>,
    core: Weak<Core>,
}

impl Place {
    fn take(line: &Arc<Line>, core: &Arc<Core>) -> Self {
        line.state().waiting += 1;
        Self { line: line.clone(), core: Arc::downgrade(core) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.line.state();
        state.waiting -= 1;
        state.used = Instant::now();
        state.hand_on(&self.line.queue, &self.core);
        if state.waiting == 0 && state.blocked {
            drop(state);
            self.line.leave_to_task();
        }
    }
}

/// That it is time for one to ask. Dropped before it is over, it goes to the next in line.
pub(crate) struct Turn {
    /// Dropped first, so that the next in line is there when the place is left.
    first: OwnedMutexGuard<First>,
    place: Place,
}

impl Turn {
    pub(crate) fn queue(&self) -> &Arc<str> {
        &self.place.line.queue
    }

    /// It has asked, and heard when there is something.
    pub(crate) fn over(mut self, next: Next) {
        self.first.heard(next);
        self.place.line.state().woken = false;
    }
}
