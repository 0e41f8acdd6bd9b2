//! The way to Redis: what is the same for the connection of the calls, those that wait, and the one
//! that listens.

use std::{fmt, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, RedisError, Value,
    aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use tokio::time::{Instant, sleep};

use crate::{
    Error, Invalid,
    error::{Cause, Result, refused},
    random::share,
};

/// Where Redis is, and how to connect to it.
pub(crate) struct Link {
    client: Client,
    /// Where to, without credentials.
    pub(crate) address: String,
}

impl fmt::Debug for Link {
    /// Never the password, which the client knows.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Link {
    pub(crate) fn new(info: ConnectionInfo) -> Result<Self> {
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
        Ok(Self { client, address })
    }

    /// Makes a connection. It has no limits of time of its own: who calls has them.
    pub(crate) async fn connect(
        &self,
        pushes: impl AsyncPushSender,
    ) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(pushes);
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// What made a try to connect fail, if another try may succeed; otherwise the error for the
    /// caller.
    pub(crate) fn unreachable(&self, error: RedisError) -> Result<Cause> {
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
}

/// Sends a command. What Redis refuses is an error, too.
pub(crate) async fn send(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> Result<Value, RedisError> {
    match connection.req_packed_command(command).await? {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}

/// Whether Redis is about to start, or does not take writes any more: another connection may lead
/// to one that does.
pub(crate) fn steps_down(error: &RedisError) -> bool {
    matches!(error.code(), Some("LOADING" | "MASTERDOWN" | "READONLY" | "UNBLOCKED"))
}

/// The waits between tries: they grow from 10 ms to 500 ms, and each is drawn anew, so that many
/// clients do not come back at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(Duration::from_millis(10))
    }
}

impl Pause {
    /// Waits, or says that there is no time left for it.
    pub(crate) async fn before(&mut self, end: Instant) -> bool {
        let wait = self.next();
        if Instant::now() + wait >= end {
            return false;
        }
        sleep(wait).await;
        true
    }

    /// The next of them.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.0.mul_f64(0.5 + share() / 2.0);
        self.0 = (self.0 * 2).min(Duration::from_millis(500));
        wait
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
        let link = Link::new(parse("redis://127.0.0.1:1").unwrap()).unwrap();
        assert!(link.client.get_connection_info().tcp_settings().nodelay());
    }
}
