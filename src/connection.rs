//! The connection: one for all calls, made anew when it breaks, one deadline for each call.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    Cmd, PushInfo, PushKind, RedisError, Value,
    aio::{AsyncPushSender, MultiplexedConnection, SendError},
};
use tokio::time::{Instant, timeout_at};
use tracing::{info, trace};

use crate::{
    Error,
    error::{Cause, Result, refused},
    link::{Link, Pause, send, steps_down},
    scripts::Script,
};

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
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) link: Arc<Link>,
    /// The longest that a call may take.
    pub(crate) deadline: Duration,
    live: RwLock<Option<Live>>,
    /// Held while connecting, so that many calls make one connection.
    connecting: tokio::sync::Mutex<u64>,
}

/// One connection, as long as it lasts.
#[derive(Debug, Clone)]
struct Live {
    number: u64,
    multiplexed: MultiplexedConnection,
    closed: Closed,
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
    pub(crate) fn new(link: Link, deadline: Duration) -> Self {
        Self {
            link: Arc::new(link),
            deadline,
            live: RwLock::new(None),
            connecting: tokio::sync::Mutex::new(0),
        }
    }

    /// When a call that begins now has to end.
    pub(crate) fn end(&self) -> Instant {
        Instant::now() + self.deadline
    }

    /// Sends a command, the EVALSHA of `script` where there is one, and does whatever it takes
    /// until `end`: connecting, loading the script, sending again what cannot have been carried out
    /// or may be repeated.
    pub(crate) async fn call(
        &self,
        command: &Cmd,
        script: Option<&Script>,
        repeat: Repeat,
        end: Instant,
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
                    let cause = self.link.unreachable(error)?;
                    if pause.before(end).await {
                        continue;
                    }
                    return Err(lost(repeated, cause));
                }
                Err(_) => return Err(lost(repeated, Cause::timeout("no connection in time"))),
            };
            if Instant::now() >= end {
                return Err(lost(repeated, Cause::timeout("no time was left to send it")));
            }
            let sent = std::time::Instant::now();
            let mut sending = live.multiplexed.clone();
            let error = match timeout_at(end, send(&mut sending, command)).await {
                Ok(Ok(value)) => return Ok(Reply { value, repeated, sent }),
                Ok(Err(error)) => error,
                Err(_) => {
                    self.discard(&live); // A silent link does not break by itself.
                    return Err(Error::MaybeApplied(Cause::timeout("no reply in time")));
                }
            };
            match (error.code(), script) {
                (Some("NOSCRIPT"), Some(script)) => {
                    // Once is the rule. Somebody may flush them again and again.
                    if loaded && !pause.before(end).await {
                        return Err(refused(error));
                    }
                    loaded = true;
                    let mut load = redis::cmd("SCRIPT");
                    load.arg("LOAD").arg(&script.text);
                    // Whatever else comes of it, the next try shows.
                    if let Ok(Err(error)) = timeout_at(end, send(&mut sending, &load)).await
                        && error.code().is_some()
                    {
                        return Err(refused(error));
                    }
                }
                // Not carried out.
                _ if steps_down(&error) => {
                    self.discard(&live);
                    if !pause.before(end).await {
                        return Err(lost(repeated, Cause::new(error)));
                    }
                }
                (Some(_), _) => return Err(refused(error)),
                (None, _) => {
                    self.discard(&live);
                    if repeat == Repeat::Never || !pause.before(end).await {
                        return Err(Error::MaybeApplied(Cause::new(error)));
                    }
                    repeated = true;
                }
            }
        }
    }

    /// The connection, made now if there is none.
    async fn live(&self) -> Result<Live, RedisError> {
        if let Some(live) = self.current() {
            return Ok(live);
        }
        let mut number = self.connecting.lock().await;
        if let Some(live) = self.current() {
            return Ok(live); // Another call was first.
        }
        let closed = Closed::default();
        let multiplexed = self.link.connect(closed.clone()).await?;
        let again = if *number == 0 { "connected" } else { "connected again" };
        info!(target: "fairlane", address = self.link.address, "{again}");
        *number += 1;
        let live = Live { number: *number, multiplexed, closed };
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Some(live.clone());
        Ok(live)
    }

    fn current(&self) -> Option<Live> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.as_ref().filter(|live| !live.closed.0.load(Ordering::Relaxed)).cloned()
    }

    /// Takes care that the next call makes a new connection.
    fn discard(&self, live: &Live) {
        let mut current = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.number == live.number) {
            *current = None;
        }
    }
}
