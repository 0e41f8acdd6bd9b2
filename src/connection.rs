//! The connection: one for all calls, made anew when it breaks, one deadline for each call.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, PushInfo, PushKind, RedisError, Value,
    aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection, SendError},
    io::tcp::TcpSettings,
};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, trace};

use crate::{
    Error, Invalid,
    error::{Cause, Result, refused},
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
}

pub(crate) struct Connection {
    client: Client,
    /// Where to, without credentials.
    address: String,
    deadline: Duration,
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

impl fmt::Debug for Connection {
    /// Never the password, which the client knows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(info: ConnectionInfo, deadline: Duration) -> Result<Self> {
        // The newer protocol says when a connection is gone.
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let address = info.addr().to_string();
        #[cfg(feature = "tls")]
        if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
            // A program with several providers has to name one; where it has, this changes nothing.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client =
            Client::open(info).map_err(|_| Invalid::Url { problem: "it is not supported" })?;
        Ok(Self {
            client,
            address,
            deadline,
            live: RwLock::new(None),
            connecting: tokio::sync::Mutex::new(0),
        })
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
                    let cause = self.unreachable(error)?;
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
            let mut sending = live.multiplexed.clone();
            let error = match timeout_at(end, sending.req_packed_command(command)).await {
                Ok(Ok(Value::ServerError(error))) => RedisError::from(error),
                Ok(Ok(value)) => return Ok(Reply { value, repeated }),
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
                    if let Ok(Ok(Value::ServerError(error))) =
                        timeout_at(end, sending.req_packed_command(&load)).await
                    {
                        return Err(refused(error.into()));
                    }
                }
                // Not carried out: it starts, or it does not take writes any more.
                (Some("LOADING" | "MASTERDOWN" | "READONLY"), _) => {
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
        // Neither of them has a limit of its own: the deadline of the call is the one limit.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(closed.clone());
        let multiplexed = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let again = if *number == 0 { "connected" } else { "connected again" };
        info!(target: "fairlane", address = self.address, "{again}");
        *number += 1;
        let live = Live { number: *number, multiplexed, closed };
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Some(live.clone());
        Ok(live)
    }

    /// What made a try to connect fail, if another try may succeed; otherwise the error for the
    /// caller.
    fn unreachable(&self, error: RedisError) -> Result<Cause> {
        match (error.kind(), error.code()) {
            (ErrorKind::Io, _) | (_, Some("LOADING" | "MASTERDOWN")) => {
                Ok(Cause::new(Unreachable { address: self.address.clone(), source: error }))
            }
            (ErrorKind::AuthenticationFailed, _) => Err(Error::Denied(Cause::new(error))),
            (ErrorKind::RESP3NotSupported, _) => {
                Err(Error::unsupported_server("a server without RESP3"))
            }
            (ErrorKind::Parse, _) => {
                Err(Error::unsupported_server("something that does not answer as Redis does"))
            }
            _ => Err(refused(error)),
        }
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

/// The waits between tries: they grow from 10 ms to 500 ms, and each is drawn anew, so that many
/// clients do not come back at once.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_millis(10))
    }
}

impl Pause {
    /// Waits, or says that there is no time left for it.
    pub(crate) async fn before(&mut self, end: Instant) -> bool {
        let share = (RandomState::new().hash_one(self.0) % 1024) as u32; // Each state has new random keys.
        let wait = self.0 / 2 + self.0 * share / 2048;
        self.0 = (self.0 * 2).min(Duration::from_millis(500));
        if Instant::now() + wait >= end {
            return false;
        }
        sleep(wait).await;
        true
    }
}

/// Where a try to connect failed.
#[derive(Debug, thiserror::Error)]
#[error("no connection to {address}")]
struct Unreachable {
    address: String,
    source: RedisError,
}

/// Reads a URL. No error repeats it, since it may have a password.
pub(crate) fn parse(url: &str) -> Result<ConnectionInfo, Invalid> {
    url.into_connection_info()
        .map_err(|_| Invalid::Url { problem: problem_of(url, cfg!(feature = "tls")) })
}

fn problem_of(url: &str, tls: bool) -> &'static str {
    if url.starts_with("rediss:") && !tls {
        "rediss:// needs the cargo feature `tls`"
    } else {
        "its form is redis://user:password@host:port/database, or unix:///path?db=0&user=..&pass=.."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_without_its_feature_names_the_feature() {
        assert!(problem_of("rediss://localhost", false).contains("feature `tls`"));
        assert!(problem_of("rediss://localhost/seven", true).contains("its form is"));
        assert_eq!(parse("rediss://localhost").is_ok(), cfg!(feature = "tls"));
    }

    #[test]
    fn nothing_waits_for_more_to_send() {
        let info = parse("redis://127.0.0.1:1").unwrap();
        let connection = Connection::new(info, Duration::from_secs(1)).unwrap();
        assert!(connection.client.get_connection_info().tcp_settings().nodelay());
    }
}
