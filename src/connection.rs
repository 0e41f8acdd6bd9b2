//! The connection of the calls to a partition: made anew when it breaks or falls silent, one
//! deadline for each call.

use std::{
    panic::resume_unwind,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    Cmd, ErrorKind, PushInfo, PushKind, RedisError, Value,
    aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection, SendError},
};
use tokio::{
    sync::{OwnedMutexGuard, watch},
    task::AbortHandle,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, trace, warn};

use crate::{
    Error,
    credentials::Known,
    durable::{Confirmed, Durable},
    error::{Cause, Result, refused},
    link::{Link, Meaning, Pause, send, silent},
    scripts::Script,
};

/// A connection that gave answers for less than this is not made anew at once.
const SHORT: Duration = Duration::from_secs(1);

/// Whether a call that may have been carried out may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Twice is as good as once.
    Safe,
    /// Twice is not the same as once: what may have been carried out is the caller's to know.
    Never,
}

/// What Redis answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) value: Value,
    /// Whether an earlier try may have been carried out already.
    pub(crate) repeated: bool,
    /// Before the try that was answered was sent.
    pub(crate) sent: std::time::Instant,
    /// Who has it, where that was asked for.
    pub(crate) confirmed: Option<Confirmed>,
}

#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) link: Arc<Link>,
    /// The longest that a call may take.
    pub(crate) deadline: Duration,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    live: RwLock<Option<Live>>,
    /// Held while connecting, so that many calls make one connection.
    connecting: Arc<tokio::sync::Mutex<Connecting>>,
    seen: Mutex<Seen>,
    /// Counts the connections that fell silent.
    silences: watch::Sender<u64>,
    /// Whether a task makes a new one, though no call asks for it.
    reviving: AtomicBool,
}

/// What was seen of the connections so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// How many were made.
    pub(crate) connections: u64,
    /// When the last of them was made, or could not be.
    pub(crate) connected: Option<Instant>,
    /// The last answer to a call or a heartbeat.
    pub(crate) answered: Option<Instant>,
    /// The longest that a call waits for what it did to be durable: nothing comes meanwhile.
    waits: Duration,
    /// Why the last one broke, or could not be made. None while there is one.
    pub(crate) error: Option<Cause>,
}

impl Seen {
    /// Whether what was asked may stand behind calls that wait until they are durable.
    fn waits_still(&self, patience: Duration) -> bool {
        let since = self.answered.map_or(Duration::MAX, |last| last.elapsed());
        !self.waits.is_zero() && since < self.waits + patience
    }
}

#[derive(Debug, Default)]
struct Connecting {
    pause: Pause,
    /// No try before that.
    next: Option<Instant>,
}

/// One connection, as long as it lasts.
#[derive(Debug, Clone)]
struct Live {
    number: u64,
    multiplexed: MultiplexedConnection,
    closed: Closed,
    /// That it does not answer any more.
    silent: CancellationToken,
    /// That its server cannot wait for disks.
    no_disks: Arc<AtomicBool>,
    _heartbeat: Arc<Heartbeat>,
}

/// A task that makes a new connection. Dropped, begun or not, it says that it has ended.
struct Reviving(Weak<State>);

impl Drop for Reviving {
    fn drop(&mut self) {
        if let Some(state) = self.0.upgrade() {
            state.reviving.store(false, Ordering::Relaxed);
        }
    }
}

/// Ends the heartbeat of a connection that nobody uses any more.
#[derive(Debug)]
struct Heartbeat(AbortHandle);

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Set as soon as the client sees that the connection is gone, so that the next call need not find
/// out.
#[derive(Debug, Clone, Default)]
struct Closed(Arc<AtomicBool>);

impl AsyncPushSender for Closed {
    fn send(&self, info: PushInfo) -> Result<(), SendError> {
        if info.kind == PushKind::Disconnection {
            self.0.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Connection {
    pub(crate) fn new(link: Arc<Link>, deadline: Duration) -> Self {
        let state = State {
            live: RwLock::new(None),
            connecting: Arc::default(),
            seen: Mutex::default(),
            silences: watch::Sender::new(0),
            reviving: AtomicBool::new(false),
        };
        Self { link, deadline, state: Arc::new(state) }
    }

    /// When a call that begins now has to end.
    pub(crate) fn end(&self) -> Instant {
        Instant::now() + self.deadline
    }

    pub(crate) fn seen(&self) -> Seen {
        self.state.seen().clone()
    }

    /// Tells when a connection falls silent: others that lead the same way may be, too.
    pub(crate) fn silences(&self) -> watch::Receiver<u64> {
        self.state.silences.subscribe()
    }

    /// That there is no connection now, if so: one is made meanwhile. For who has others to turn to.
    pub(crate) fn is_away(&self) -> Option<Error> {
        if self.state.current().is_some() {
            return None;
        }
        if !self.state.reviving.swap(true, Ordering::Relaxed) {
            // No call waits for its tries, so their pauses are as long as they get.
            let (link, deadline) = (self.link.clone(), Duration::from_secs(3600));
            let state = Arc::downgrade(&self.state);
            // Made here: a runtime that is about to end drops the task at once.
            let reviving = Reviving(state.clone());
            tokio::spawn(async move {
                let _reviving = reviving;
                while let Some(state) = state.upgrade() {
                    let connection = Self { link: link.clone(), deadline, state };
                    if connection.live().await.is_ok() {
                        return;
                    }
                }
            });
        }
        let cause = self.seen().error;
        Some(Error::NotSent(cause.unwrap_or_else(|| Cause::timeout("no connection yet"))))
    }

    /// Sends a command, the EVALSHA of `script` where there is one, and does whatever it takes
    /// until `end`: connecting, loading the script, sending again what cannot have been carried out
    /// or may be repeated. Then it waits until that is `durable`, if it shall.
    pub(crate) async fn call(
        &self,
        command: &Cmd,
        script: Option<&Script>,
        repeat: Repeat,
        end: Instant,
        durable: Option<Durable>,
    ) -> Result<Reply> {
        trace!(target: "fairlane", verb = script.map_or("hello", |script| script.name), "call");
        let mut repeated = false;
        let mut loaded = false;
        let mut pause = Pause::default();
        // What it means that nothing came back depends on whether an earlier try was sent.
        let lost = |repeated, cause| match repeated {
            true => Error::MaybeApplied(cause),
            false => Error::NotSent(cause),
        };
        loop {
            let live = match timeout_at(end, self.live()).await {
                Ok(Ok(live)) => live,
                Ok(Err(error)) => {
                    let cause = match self.link.unreachable(error) {
                        // That it is refused now says nothing of the try before.
                        Err(error) if repeated => return Err(lost(repeated, Cause::new(error))),
                        cause => cause?,
                    };
                    if Instant::now() < end {
                        continue; // The next try waits for its time.
                    }
                    return Err(lost(repeated, cause));
                }
                Err(_) => {
                    let cause = self.seen().error;
                    let cause = cause.unwrap_or_else(|| Cause::timeout("no connection in time"));
                    return Err(lost(repeated, cause));
                }
            };
            if Instant::now() >= end {
                return Err(lost(repeated, Cause::timeout("no time was left to send it")));
            }
            if let Some(durable) = durable {
                let mut seen = self.state.seen();
                seen.waits = seen.waits.max(durable.timeout);
            }
            let sent = std::time::Instant::now();
            let error = match timeout_at(end, live.send_durably(command, durable)).await {
                Ok(Ok((value, confirmed))) => {
                    self.state.answered();
                    return Ok(Reply { value, repeated, sent, confirmed });
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    let cause = Cause::timeout("no reply in time");
                    self.state.discard(live.number, cause.clone()); // A silent link does not break by itself.
                    return Err(Error::MaybeApplied(cause));
                }
            };
            if let (Some("NOSCRIPT"), Some(script)) = (error.code(), script) {
                // Once is the rule. Somebody may flush them again and again.
                if loaded && !pause.before(end).await {
                    return Err(not_now(repeated, error));
                }
                loaded = true;
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(&script.text);
                // Whatever else comes of it, the next try shows.
                if let Ok(Err(error)) = timeout_at(end, live.send(&load)).await
                    && self.link.meant(&error) == Meaning::Refused
                {
                    return Err(not_now(repeated, error));
                }
                continue;
            }
            match self.link.meant(&error) {
                Meaning::Elsewhere => {
                    self.link.misleads();
                    self.state.discard(live.number, Cause::new(error.clone()));
                    if !pause.before(end).await {
                        return Err(lost(repeated, Cause::new(error)));
                    }
                }
                Meaning::NotNow => {
                    if !pause.before(end).await {
                        return Err(not_now(repeated, error));
                    }
                }
                Meaning::Refused => return Err(doubt(repeated, self.link.refused(error))),
                Meaning::Lost => {
                    self.state.discard(live.number, Cause::new(error.clone()));
                    if repeat == Repeat::Never || !pause.before(end).await {
                        return Err(Error::MaybeApplied(Cause::new(error)));
                    }
                    repeated = true;
                }
            }
        }
    }

    /// The connection, made now if there is none. However many ask for one, tries are made one
    /// after the other, with pauses.
    async fn live(&self) -> Result<Live, RedisError> {
        if let Some(live) = self.state.current() {
            return Ok(live);
        }
        let connecting = self.state.connecting.clone().lock_owned().await;
        if let Some(live) = self.state.current() {
            return Ok(live); // Another call was first.
        }
        if let Some(next) = connecting.next {
            sleep_until(next).await;
        }
        // In a task of its own: a call that gives up takes no connection with it that others could
        // have had soon, nor the pause behind it.
        let made = tokio::spawn(self.clone().make(connecting)).await;
        made.unwrap_or_else(|ended| match ended.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => Err(std::io::Error::other("the runtime has ended").into()),
        })
    }

    /// Makes the connection, or says until when no other try is to be made.
    async fn make(self, mut connecting: OwnedMutexGuard<Connecting>) -> Result<Live, RedisError> {
        let closed = Closed::default();
        let connected = self.link.connect(closed.clone()).await;
        let mut seen = self.state.seen();
        // That it can be made says little, where the last one gave no answer for long.
        let lasted = seen.connected.is_none_or(|last| seen.answered > Some(last + SHORT));
        if connected.is_ok() && lasted {
            connecting.pause = Pause::default();
        }
        // However short its deadline is, a call makes a try of its own.
        let wait = connecting.pause.next().min(self.deadline / 2);
        let now = Instant::now();
        connecting.next = Some(now + wait).filter(|_| !(connected.is_ok() && lasted));
        seen.connected = Some(now);
        let known = connected.inspect_err(|error| {
            seen.error = Some(self.link.unreachable(error.clone()).unwrap_or_else(Cause::new));
        })?;
        seen.connections += 1;
        (seen.answered, seen.error) = (Some(now), None);
        let number = seen.connections;
        drop(seen);
        let again = if number == 1 { "connected" } else { "connected again" };
        info!(target: "fairlane", address = &*self.link.address(), "{again}");
        let (multiplexed, silent) = (known.connection.clone(), CancellationToken::new());
        let state = Arc::downgrade(&self.state);
        let heartbeat = heartbeat(state, self.link.clone(), number, known, silent.clone());
        let heartbeat = Arc::new(Heartbeat(tokio::spawn(heartbeat).abort_handle()));
        let no_disks = Arc::default();
        let live = Live { number, multiplexed, closed, silent, no_disks, _heartbeat: heartbeat };
        *self.state.live.write().unwrap_or_else(PoisonError::into_inner) = Some(live.clone());
        Ok(live)
    }
}

impl Live {
    /// Sends a command, and behind it, where it shall be durable, the one that waits for that.
    async fn send_durably(
        &self,
        command: &Cmd,
        durable: Option<Durable>,
    ) -> Result<(Value, Option<Confirmed>), RedisError> {
        let Some(durable) = durable else { return Ok((self.send(command).await?, None)) };
        let mut for_disks = !self.no_disks.load(Ordering::Relaxed);
        let mut both = redis::pipe();
        both.add_command(command.clone()).add_command(durable.command(for_disks));
        let mut multiplexed = self.multiplexed.clone();
        let sending = multiplexed.req_packed_commands(&both, 0, 2);
        let answers = self.silent.run_until_cancelled(sending).await;
        let answers = answers.unwrap_or_else(|| Err(silent("a heartbeat").into()))?;
        let [value, mut waited] = <[_; 2]>::try_from(answers)
            .map_err(|_| (ErrorKind::UnexpectedReturnType, "not two answers to two commands"))?;
        if let Value::ServerError(error) = value {
            return Err(error.into());
        }
        if for_disks
            && let Value::ServerError(_) = &waited
            && durable.replicas > 0
        {
            // Redis 7.0 does not know it, and a server without an append-only file refuses it.
            self.no_disks.store(true, Ordering::Relaxed);
            for_disks = false;
            waited = match self.send(&durable.command(for_disks)).await {
                Err(error) if error.code().is_none() => return Err(error),
                Err(error) => return Ok((value, Some(Confirmed::failed(error)))),
                Ok(waited) => waited,
            };
        }
        let confirmed = match waited {
            Value::ServerError(error) => Confirmed::failed(error.into()),
            waited => Confirmed::read(waited, for_disks)
                .map_err(|_| (ErrorKind::UnexpectedReturnType, "an odd answer of WAIT"))?,
        };
        Ok((value, Some(confirmed)))
    }

    /// Sends a command. That the connection has fallen silent meanwhile is as if it had broken.
    async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut multiplexed = self.multiplexed.clone();
        match self.silent.run_until_cancelled(send(&mut multiplexed, command)).await {
            Some(answer) => answer,
            None => Err(silent("a heartbeat").into()),
        }
    }
}

impl State {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self) {
        self.seen().answered = Some(Instant::now());
    }

    fn current(&self) -> Option<Live> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.as_ref().filter(|live| !live.closed.0.load(Ordering::Relaxed)).cloned()
    }

    /// Takes care that the next call makes a new connection.
    fn discard(&self, number: u64, why: Cause) {
        let mut current = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.number == number) {
            *current = None;
            self.seen().error = Some(why);
        }
    }
}

/// The error of a call that was refused before it was looked at: that says nothing of an earlier try.
fn not_now(repeated: bool, error: RedisError) -> Error {
    if repeated { Error::MaybeApplied(Cause::new(error)) } else { refused(error) }
}

/// The error of a call that was refused. Where the server takes none of that kind now, that says
/// nothing of an earlier try.
fn doubt(repeated: bool, error: Error) -> Error {
    let of_server = match &error {
        Error::Full | Error::Denied(_) => true,
        Error::Server { code, .. } => code == "MISCONF" || code == "NOREPLICAS",
        _ => false,
    };
    if repeated && of_server { Error::MaybeApplied(Cause::new(error)) } else { error }
}

/// Looks after a connection until it does not answer any more, or its server is not the primary.
async fn heartbeat(
    state: Weak<State>,
    link: Arc<Link>,
    number: u64,
    mut known: Known,
    silent: CancellationToken,
) {
    let address = known.address.clone();
    let is_silent = tokio::select! {
        () = link.leads_elsewhere(&address) => false,
        () = falls_silent(&state, &link, &mut known) => true,
    };
    let Some(state) = state.upgrade() else { return };
    let why = if is_silent {
        warn!(target: "fairlane", address = &*address, "the connection does not answer");
        // The calls on it end, and the next one makes a new one.
        silent.cancel();
        "the connection did not answer"
    } else {
        // The calls on it end there: they may be kept, and one that was cut off would be in doubt.
        info!(target: "fairlane", address = &*address, "another server is the primary now");
        "another server is the primary now"
    };
    state.discard(number, Cause::timeout(why));
    state.silences.send_modify(|silences| *silences += 1);
}

/// Asks a connection on which nothing has come for a while whether it still answers, and tells
/// Redis the credentials when they are others. Ends when it does not answer.
async fn falls_silent(state: &Weak<State>, link: &Link, known: &mut Known) {
    let patience = link.settings.patience;
    let mut next = Instant::now() + patience;
    loop {
        sleep_until(next).await;
        let Some(strong) = state.upgrade() else { return };
        // Not so long after the last look, but after the last answer: else it is found too late.
        next = strong.seen().answered.map_or(next, |last| last + patience);
        drop(strong);
        let asked = Instant::now();
        let answers = match known.renew(link).await {
            Ok(false) if next > asked => continue,
            Ok(false) => {
                let ping = redis::cmd("PING");
                let mut asking = pin!(send(&mut known.connection, &ping));
                let answer = loop {
                    let answer = timeout(patience, &mut asking).await;
                    let state = state.upgrade().filter(|_| answer.is_err());
                    if state.is_none_or(|state| !state.seen().waits_still(patience)) {
                        break answer;
                    }
                };
                // It may be busy, or load its data: it answers.
                answer.is_ok_and(|answer| !answer.is_err_and(|error| error.code().is_none()))
            }
            Ok(true) => true,
            Err(_) => false,
        };
        let Some(state) = state.upgrade() else { return };
        if answers {
            state.answered();
            next = Instant::now() + patience;
        } else if state.seen().answered <= Some(asked) {
            return;
        } // Else it is slow, but not silent: what it was asked stands behind other answers.
    }
}
