//! The way to a server: what is the same for the connection of the calls, those that wait, and the
//! one that listens.

use std::{
    fmt,
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, ProtocolVersion, RedisError,
    Value,
    aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use tokio::time::{Instant, sleep, timeout};

#[cfg(feature = "cluster")]
use crate::cluster::Cluster;
#[cfg(feature = "sentinel")]
use crate::sentinel::Sentinels;
use crate::{
    Error,
    address::Address,
    credentials::{Credentials, Current, Known},
    error::{Cause, Result, refused},
    random::share,
};

/// How a connection is made, wherever it leads.
#[derive(Default)]
pub(crate) struct Settings {
    /// Who it is for Redis, where the URL does not say it.
    pub(crate) credentials: Option<Current>,
    /// Those of a private authority, and those by which Redis knows this client.
    #[cfg(feature = "tls")]
    pub(crate) certificates: Option<redis::TlsCertificates>,
    /// The longest that a server may take to answer a new connection, or a ping.
    pub(crate) patience: Duration,
}

impl Settings {
    /// The credentials that are good now.
    pub(crate) fn credentials(&self) -> Option<Credentials> {
        self.credentials.as_ref().map(|current| current())
    }

    /// What is said of a server, with these credentials in place of those of the URL.
    pub(crate) fn of(
        &self,
        server: ConnectionInfo,
        credentials: Option<&Credentials>,
    ) -> ConnectionInfo {
        // The newer protocol says when a connection is gone. Redis is not told the name of a library:
        // that is one more command that a user would have to be allowed.
        let settings = server.redis_settings().clone();
        let mut settings = settings.set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        if let Some(Credentials { user, password }) = credentials {
            settings = settings.set_username(user.as_deref().unwrap_or("default"));
            settings = settings.set_password(password);
        }
        let tcp = TcpSettings::default().set_nodelay(true);
        server.set_redis_settings(settings).set_tcp_settings(tcp)
    }

    fn client(&self, server: ConnectionInfo) -> Result<Client, RedisError> {
        #[cfg(feature = "tls")]
        if let (redis::ConnectionAddr::TcpTls { .. }, Some(certificates)) =
            (server.addr(), &self.certificates)
        {
            return Client::build_with_tls(server, certificates.clone());
        }
        Client::open(server)
    }

    /// Makes a connection. It has no limits of time of its own: who calls has them.
    pub(crate) async fn connect(
        &self,
        server: ConnectionInfo,
        pushes: impl AsyncPushSender,
    ) -> Result<Known, RedisError> {
        let (credentials, address) = (self.credentials(), server.addr().to_string().into());
        let client = self.client(self.of(server, credentials.as_ref()))?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(pushes);
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Known::new(connection, address, credentials))
    }
}

/// How the server is found.
#[derive(Clone)]
pub(crate) enum Way {
    Server(Arc<ConnectionInfo>),
    #[cfg(feature = "cluster")]
    Cluster(Arc<Cluster>),
    #[cfg(feature = "sentinel")]
    Sentinel(Arc<Sentinels>),
}

impl Way {
    pub(crate) fn new(address: Address, settings: &Arc<Settings>) -> Self {
        let _ = settings; // Of one server nothing else has to be asked.
        match address {
            Address::Server(server) => Self::Server(Arc::new(server)),
            #[cfg(feature = "cluster")]
            Address::Cluster(seeds) => {
                Self::Cluster(Arc::new(Cluster::new(settings.clone(), seeds)))
            }
            #[cfg(feature = "sentinel")]
            Address::Sentinel { sentinels, service, primary } => {
                let settings = settings.clone();
                let lately = tokio::sync::Mutex::new((Instant::now(), None));
                Self::Sentinel(Arc::new(Sentinels {
                    settings,
                    sentinels,
                    service,
                    primary,
                    lately,
                }))
            }
        }
    }
}

/// The way to the server that has a partition.
pub(crate) struct Link {
    pub(crate) settings: Arc<Settings>,
    way: Way,
    /// Of its keys, in a cluster.
    #[cfg(feature = "cluster")]
    slot: u16,
    /// That it has led to a server that answers as Redis does.
    answered: AtomicBool,
    last: Mutex<Last>,
}

/// Where it led the last time.
#[derive(Default)]
struct Last {
    /// Without credentials; nothing before the first time.
    address: Arc<str>,
    /// The map of the cluster that said so.
    #[cfg(feature = "cluster")]
    map: u64,
}

impl fmt::Debug for Link {
    /// Never the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl Link {
    /// The way to the server of the keys that have `tag` between their braces.
    pub(crate) fn new(way: &Way, settings: &Arc<Settings>, tag: &str) -> Self {
        #[cfg(not(feature = "cluster"))]
        let _ = tag;
        Self {
            settings: settings.clone(),
            way: way.clone(),
            #[cfg(feature = "cluster")]
            slot: crate::cluster::slot_of(tag),
            answered: AtomicBool::new(false),
            last: Mutex::default(),
        }
    }

    /// Where it leads, as far as that is known, without credentials.
    pub(crate) fn address(&self) -> Arc<str> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).address.clone()
    }

    /// Makes a connection. A server that does not answer it is as one that is away.
    pub(crate) async fn connect(&self, pushes: impl AsyncPushSender) -> Result<Known, RedisError> {
        let server = self.server().await?;
        let connecting = self.settings.connect(server, pushes);
        let connected = match timeout(self.settings.patience, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(silent("a new connection").into()),
        };
        let connected = connected.inspect_err(|_| self.misleads())?;
        self.answered.store(true, Ordering::Relaxed);
        Ok(connected)
    }

    /// Ends when another server than this is the primary, at most half a heartbeat after it has become that.
    /// Sentinel makes a replica of the old one only some ten seconds later: so long it takes what will be lost.
    pub(crate) async fn leads_elsewhere(&self, address: &str) {
        match &self.way {
            #[cfg(feature = "sentinel")]
            Way::Sentinel(sentinels) => sentinels.name_another(address).await,
            _ => {
                let _ = address;
                pending().await
            }
        }
    }

    async fn server(&self) -> Result<ConnectionInfo, RedisError> {
        let mut last = Last::default();
        let server = match &self.way {
            Way::Server(server) => ConnectionInfo::clone(server),
            #[cfg(feature = "cluster")]
            Way::Cluster(cluster) => {
                let (server, map) = cluster.node(self.slot).await?;
                last.map = map;
                server
            }
            #[cfg(feature = "sentinel")]
            Way::Sentinel(sentinels) => sentinels.primary().await?,
        };
        last.address = server.addr().to_string().into();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
        Ok(server)
    }

    /// What it leads to is not there, or not what it should be: the next connection is made to
    /// where it leads by then.
    pub(crate) fn misleads(&self) {
        #[cfg(feature = "cluster")]
        if let Way::Cluster(cluster) = &self.way {
            cluster.stale(self.last.lock().unwrap_or_else(PoisonError::into_inner).map);
        }
    }

    /// What made a try to connect fail, if another try may succeed; otherwise the error for the
    /// caller.
    pub(crate) fn unreachable(&self, error: RedisError) -> Result<Cause> {
        // What Redis answers does not parse either where the connection was cut in the middle of it.
        let is_redis = self.answered.load(Ordering::Relaxed);
        match (error.kind(), error.code()) {
            (
                ErrorKind::Io
                | ErrorKind::ClusterConnectionNotFound
                | ErrorKind::MasterNameNotFoundBySentinel,
                _,
            )
            | (_, Some("LOADING" | "MASTERDOWN")) => {
                Ok(Cause::new(Unreachable { address: self.address(), source: error }))
            }
            (ErrorKind::Parse, _) if is_redis => {
                Ok(Cause::new(Unreachable { address: self.address(), source: error }))
            }
            (ErrorKind::AuthenticationFailed, _) => Err(Error::Denied(Cause::new(error))),
            (ErrorKind::RESP3NotSupported, _) => {
                Err(Error::unsupported_server("a server without RESP3"))
            }
            (ErrorKind::Parse, _) => {
                Err(Error::unsupported_server("something that does not answer as Redis does"))
            }
            _ => Err(self.refused(error)),
        }
    }

    /// The error for the caller of what Redis has refused.
    pub(crate) fn refused(&self, error: RedisError) -> Error {
        match (error.code(), &self.way) {
            (Some("MOVED" | "ASK" | "CROSSSLOT"), Way::Server(_)) => Error::Unsupported {
                found: "a node of a cluster as a server of its own".into(),
                needed: "give a URL of the cluster: redis-cluster://host:port,host:port",
            },
            _ => refused(error),
        }
    }

    /// What it means for a call that Redis refused it.
    pub(crate) fn meant(&self, error: &RedisError) -> Meaning {
        let several = !matches!(self.way, Way::Server(_));
        match error.code() {
            // It is about to start, takes no writes any more, or is another one's replica.
            Some("LOADING" | "MASTERDOWN" | "READONLY" | "UNBLOCKED") => Meaning::Elsewhere,
            Some("MOVED" | "CLUSTERDOWN") if several => Meaning::Elsewhere,
            // While its slot moves, no node has all of its keys. Of those that a script names some
            // are never there, so it is refused by both.
            Some("ASK" | "TRYAGAIN") if several => Meaning::NotNow,
            // Somebody's script runs, and holds up all.
            Some("BUSY") => Meaning::NotNow,
            Some(_) => Meaning::Refused,
            None => Meaning::Lost,
        }
    }
}

/// What becomes of a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Not carried out: another connection may lead to a server that does.
    Elsewhere,
    /// Not carried out, for a reason that passes.
    NotNow,
    /// Not carried out, for a reason that the caller has to know.
    Refused,
    /// The connection broke: nobody knows.
    Lost,
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

/// That no answer came.
pub(crate) fn silent(what: &'static str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer to {what}"))
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
#[error("no connection{}", to(address))]
struct Unreachable {
    address: Arc<str>,
    source: RedisError,
}

fn to(address: &str) -> String {
    if address.is_empty() { String::new() } else { format!(" to {address}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_waits_for_more_to_send() {
        let Ok(Address::Server(server)) = Address::parse("redis://127.0.0.1:1") else { panic!() };
        assert!(Settings::default().of(server, None).tcp_settings().nodelay());
    }
}
