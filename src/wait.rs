//! Waiting without polling: who finds nothing waits for the marker of the queue.
//!
//! Those of one broker that wait on one queue stand in a line. A task blocks for all of them, on a
//! connection that only waits (a blocked BZPOPMIN cannot be shared with calls). When the marker
//! comes, when something is due, or after a window, it gives the turn to the first in line, who
//! asks: takes from the queue as one that does not wait would. The answer says whether more is
//! left; then the next two have the turn, then four, and so on; otherwise the task blocks again. So
//! one delivery wakes one of them, and many deliveries wake about as many to twice as many. Who asks
//! in vain keeps the place in line.
//!
//! A wake-up is not lost with those who give up, or are not polled any more: the next in line have
//! the turn, and when there is none, the marker is set again for the workers of other processes. A
//! process that dies with the marker in its hand costs the others a window.

use std::{
    collections::{BTreeMap, HashMap},
    future::pending,
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};
use tracing::debug;

use crate::{
    Error,
    connection::Repeat,
    error::{Cause, Result},
    link::{Link, Pause},
    marker::marker,
    partition::Partition,
    scripts,
    take::{MOST_OF_A_PART, Next},
};

/// How long the task blocks before somebody asks.
const WINDOW: Duration = Duration::from_secs(5);
/// How long a line that nobody stands in is kept, with its connection.
const KEPT: Duration = Duration::from_secs(60);
/// How long those who have the turn may take to notice, before the next have it too: what is not
/// polled must hold up nobody.
const TO_NOTICE: Duration = Duration::from_millis(50);
/// How long they may take to ask, before the next have the turn too.
const TO_ASK: Duration = Duration::from_secs(1);
/// How often one stands in line again when the runtime of the task has ended.
const TRIES: usize = 10;

/// The lines of a partition, one for each queue that is waited on.
#[derive(Default)]
pub(crate) struct Lines(Mutex<HashMap<Arc<str>, Arc<Line>>>);

impl Lines {
    pub(crate) fn of(&self, queue: &Arc<str>) -> Arc<Line> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.entry(queue.clone()).or_insert_with(|| Arc::new(Line::new(queue.clone()))).clone()
    }

    /// Forgets a line, unless somebody is about to stand in it. Its task has one hold of it.
    fn forget(&self, line: &Arc<Line>) -> bool {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = Arc::strong_count(line) <= 2;
        if unused {
            lines.remove(&line.queue);
        }
        unused
    }
}

impl Drop for Lines {
    /// What is still blocked ends with the broker, and its connection with it.
    fn drop(&mut self) {
        for line in self.0.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            let task = line.state().task.take();
            if let Some(task) = task {
                task.abort();
            }
        }
    }
}

/// Those that wait on one queue.
pub(crate) struct Line {
    pub(crate) queue: Arc<str>,
    state: Mutex<State>,
    /// That the task has something to see in the state.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Who stands in line, in the order in which they came.
    waiting: BTreeMap<u64, oneshot::Sender<Result<Turn>>>,
    /// The last number that was given to one who came.
    last: u64,
    /// What those who came heard just before they did: that nothing is there, until something is
    /// due. None when nobody has asked.
    asked: Option<Option<Instant>>,
    /// Whether the task runs, or is about to.
    running: bool,
    /// Whether the task blocks.
    blocked: bool,
    /// Whether Redis is away while it does.
    away: bool,
    /// Ends the task.
    task: Option<AbortHandle>,
}

impl State {
    /// Somebody has asked.
    fn heard(&mut self, next: Next) {
        let due = match next {
            Next::Now => {
                self.asked = None;
                return;
            }
            Next::In(time) => Some(Instant::now() + time),
            Next::Open => None,
        };
        let before = self.asked.flatten();
        self.asked = Some(before.into_iter().chain(due).min());
    }
}

impl Line {
    fn new(queue: Arc<str>) -> Self {
        Self { queue, state: Mutex::default(), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is known that nothing can be served, so that one who comes need not ask.
    pub(crate) fn is_quiet(&self) -> bool {
        let state = self.state();
        state.blocked && !state.away
    }

    /// Whether the connection that waits is lost, and Redis was not reached since.
    pub(crate) fn is_away(&self) -> bool {
        self.state().away
    }
}

/// One who waits on a queue.
pub(crate) struct Waiter {
    pub(crate) partition: Arc<Partition>,
    pub(crate) line: Arc<Line>,
    /// What it has just heard, for the next time that it stands in line.
    pub(crate) asked: Option<Next>,
    /// The number that it was given when it came. It keeps its place when it asks in vain.
    number: Option<u64>,
}

impl Waiter {
    pub(crate) fn new(partition: &Arc<Partition>, line: Arc<Line>, asked: Option<Next>) -> Self {
        Self { partition: partition.clone(), line, asked, number: None }
    }

    /// Stands in line until it is time to ask.
    ///
    /// Dropped, it hands the wake-up on.
    pub(crate) async fn turn(mut self) -> (Self, Result<Turn>) {
        for _ in 0..TRIES {
            let (place, turn) = self.join();
            // Where it was dropped instead, the runtime of the task has ended: a new one is begun.
            if let Ok(turn) = turn.await {
                drop(place);
                return (self, turn.map(Turn::noticed));
            }
            tokio::task::yield_now().await;
        }
        (self, Err(Error::NotSent(Cause::new("the runtime is about to end"))))
    }

    fn join(&mut self) -> (Place, oneshot::Receiver<Result<Turn>>) {
        let (give, turn) = oneshot::channel();
        let line = self.line.clone();
        let mut state = line.state();
        let number = *self.number.get_or_insert_with(|| {
            state.last += 1;
            state.last
        });
        if let Some(next) = self.asked.take() {
            state.heard(next);
        }
        state.waiting.insert(number, give);
        let begins = !std::mem::replace(&mut state.running, true);
        drop(state);
        if begins {
            let partition = &self.partition;
            let task = Running {
                line: line.clone(),
                partition: Arc::downgrade(partition),
                moves: partition.testing.moves.clone(),
                silences: partition.connection.silences(),
                ended: false,
                woken: false,
                width: 1,
            };
            let (link, key) = (partition.connection.link.clone(), partition.keys.wake(&line.queue));
            // Nothing is locked here: a runtime that is about to end drops the task at once.
            let task = tokio::spawn(task.run(link, key)).abort_handle();
            line.state().task = Some(task);
        }
        line.changed.notify_one();
        (Place { line, number }, turn)
    }
}

/// A place in line.
struct Place {
    line: Arc<Line>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let given = self.line.state().waiting.remove(&self.number);
        drop(given);
    }
}

/// That it is time to ask, for one or several. Where all who have it drop it before it is over, it
/// goes to the next in line.
pub(crate) struct Turn {
    line: Arc<Line>,
    progress: Arc<watch::Sender<Progress>>,
    noticed: bool,
}

/// How far those are who have a turn.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Who have noticed, and neither asked nor dropped it.
    noticed: usize,
    /// One has asked.
    over: bool,
}

impl Turn {
    pub(crate) fn queue(&self) -> &Arc<str> {
        &self.line.queue
    }

    /// It has asked, and heard when there is something.
    pub(crate) fn over(self, next: Next) {
        self.line.state().heard(next);
        self.progress.send_modify(|progress| progress.over = true);
    }

    fn noticed(mut self) -> Self {
        self.noticed = true;
        self.progress.send_modify(|progress| progress.noticed += 1);
        self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.noticed {
            self.progress.send_modify(|progress| progress.noticed -= 1);
        }
    }
}

/// The task of a line.
struct Running {
    line: Arc<Line>,
    partition: Weak<Partition>,
    /// Where a test moves the time.
    moves: Option<watch::Receiver<Duration>>,
    /// That the connection of the calls fell silent.
    silences: watch::Receiver<u64>,
    /// That a block has ended, and nobody has asked since. What was heard before does not count then.
    ended: bool,
    /// That it took the marker with that.
    woken: bool,
    /// How many have the next turn.
    width: usize,
}

impl Drop for Running {
    /// At its end, and when its runtime ends: those who wait begin another one.
    fn drop(&mut self) {
        let mut state = self.line.state();
        (state.running, state.blocked, state.away) = (false, false, false);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }
}

impl Running {
    async fn run(mut self, link: Arc<Link>, key: String) {
        let (mut connection, mut pause) = (None, Pause::default());
        loop {
            if self.line.state().waiting.is_empty() {
                self.hand_on().await;
                if !self.joined().await {
                    return;
                }
            }
            let Some(due) = self.asked() else {
                self.give().await;
                continue;
            };
            let window = Instant::now() + WINDOW;
            let until = due.map_or(window, |due| due.min(window));
            let away = |away| self.line.state().away = away;
            let kept = connection.take();
            let ended = tokio::select! {
                ended = marker(&link, kept, &key, until, &mut pause, away) => ended,
                // What that makes due sets no marker. One may have come, and be lost with the connection.
                () = moved(&mut self.moves) => Ok((true, None)),
                // This one may be silent, too.
                Ok(()) = self.silences.changed() => Ok((false, None)),
            };
            self.line.state().blocked = false;
            (self.ended, self.width) = (true, 1);
            match ended {
                Ok((woken, good)) => (self.woken, connection) = (woken, good),
                Err(error) => self.tell(error),
            }
        }
    }

    /// What those who asked have heard, if they have: then it blocks.
    fn asked(&self) -> Option<Option<Instant>> {
        let mut state = self.line.state();
        let asked = state.asked.take().filter(|_| !self.ended);
        state.blocked = asked.is_some();
        asked
    }

    /// Gives the turn to one after the other, until one has asked, or nobody is left. Where there is
    /// more then, twice as many have the next one.
    async fn give(&mut self) {
        loop {
            let first: Vec<_> = {
                let mut state = self.line.state();
                iter::from_fn(|| state.waiting.pop_first()).take(self.width).collect()
            };
            if first.is_empty() {
                return;
            }
            let (progress, seen) = watch::channel(Progress::default());
            let progress = Arc::new(progress);
            for (_, give) in first {
                let (line, progress) = (self.line.clone(), progress.clone());
                // One who has left meanwhile gives it back.
                drop(give.send(Ok(Turn { line, progress, noticed: false })));
            }
            drop(progress);
            if one_has_asked(seen).await {
                (self.ended, self.woken) = (false, false);
                self.width = MOST_OF_A_PART.min(2 * self.width);
                return;
            }
        }
    }

    /// Tells the first in line why it cannot wait.
    fn tell(&self, error: Error) {
        let first = self.line.state().waiting.pop_first();
        if let Some((_, give)) = first {
            let _ = give.send(Err(error)); // The next one asks, and is told in its turn.
        }
    }

    /// When nobody is left here for a wake-up, it goes to those that wait elsewhere.
    async fn hand_on(&mut self) {
        let woken = std::mem::take(&mut self.woken);
        let Some(partition) = self.partition.upgrade().filter(|_| woken) else { return };
        let queue = &*self.line.queue;
        let command = partition.command(&scripts::WAKE, &[queue]);
        if let Err(error) = partition.call(&scripts::WAKE, &command, Repeat::Safe).await {
            debug!(target: "fairlane", queue, %error, "others find the wake-up within a window");
        }
    }

    /// Waits until somebody is there, or says that it has ended.
    async fn joined(&mut self) -> bool {
        // What was heard before is of another time; those who come ask before they do.
        self.line.state().asked = None;
        (self.ended, self.width) = (false, 1);
        loop {
            let joined = async {
                while self.line.state().waiting.is_empty() {
                    self.line.changed.notified().await;
                }
            };
            if timeout(KEPT, joined).await.is_ok() {
                return true;
            }
            let partition = self.partition.upgrade();
            if partition.is_none_or(|partition| partition.lines.forget(&self.line)) {
                return false;
            }
        }
    }
}

/// Waits until the time is moved, as only tests do.
async fn moved(moves: &mut Option<watch::Receiver<Duration>>) {
    let told = match moves {
        Some(moves) => moves.changed().await.is_ok(),
        None => false,
    };
    if !told {
        pending().await
    }
}

/// Waits until one who has a turn has asked. Returns whether one has: not when all have given it
/// back, or took too long.
async fn one_has_asked(mut seen: watch::Receiver<Progress>) -> bool {
    loop {
        let before = *seen.borrow();
        if before.over {
            return true;
        }
        let patience = if before.noticed > 0 { TO_ASK } else { TO_NOTICE };
        let further = |now: &Progress| now.over || (now.noticed > 0) != (before.noticed > 0);
        match timeout(patience, seen.wait_for(further)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return false,
        }
    }
}
