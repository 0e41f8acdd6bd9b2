//! Where Redis is, and how it is reached.

use std::{convert::Infallible, ffi::OsString, fs, path::PathBuf};

use clap::Args;
use fairlane::{Broker, BrokerBuilder, Error, Invalid, Tls};

use crate::failure::Failure;

/// Where Redis is where nothing is said.
const LOCAL: &str = "redis://127.0.0.1:6379";

/// The variables that say where Redis is, the namespace, and what there is for TLS.
const REDIS: &str = "FAIRLANE_REDIS";
const NAMESPACE: &str = "FAIRLANE_NAMESPACE";
const PARTITIONS: &str = "FAIRLANE_PARTITIONS";
const TLS_CA: &str = "FAIRLANE_TLS_CA";
const TLS_CERT: &str = "FAIRLANE_TLS_CERT";
const TLS_KEY: &str = "FAIRLANE_TLS_KEY";

/// A body as it is: this program reads none but to show it.
pub(crate) type Body = Vec<u8>;

/// What every command is told of Redis, anywhere on the line.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connect {
    /// The Redis to use: redis://user:password@host:port/database, or unix:///path/to/redis.sock; a
    /// cluster: redis-cluster://user:password@host:port,host:port; what Sentinel watches over:
    /// redis-sentinel://user:password@host:port,host:port/service; with rediss in place of redis, by
    /// TLS
    #[arg(
        long,
        value_name = "URL",
        global = true,
        env = REDIS,
        hide_env_values = true,
        default_value = LOCAL
    )]
    redis: String,
    /// The namespace of queues and messages [default: none]
    #[arg(
        long,
        value_name = "NAME",
        global = true,
        env = NAMESPACE,
        hide_env_values = true
    )]
    namespace: Option<String>,
    /// Into how many partitions a new namespace is divided [default: 1, and what it has where it is
    /// not new]
    #[arg(
        long,
        value_name = "NUMBER",
        global = true,
        env = PARTITIONS,
        hide_env_values = true
    )]
    partitions: Option<u32>,
    /// The certificates of the authorities that are trusted for TLS, in PEM [default: those of this
    /// machine]
    #[arg(long, value_name = "FILE", global = true, env = TLS_CA, hide_env_values = true)]
    tls_ca: Option<PathBuf>,
    /// The certificate to show, in PEM
    #[arg(long, value_name = "FILE", global = true, env = TLS_CERT, hide_env_values = true)]
    tls_cert: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, value_name = "FILE", global = true, env = TLS_KEY, hide_env_values = true)]
    tls_key: Option<PathBuf>,
}

impl Connect {
    /// Connects. Facet and topic of what is delivered are the fields of its body, where that is
    /// JSON and nothing else is said.
    pub(crate) async fn broker(&self) -> Result<Broker<Body>, Failure> {
        self.reach(self.named()).await
    }

    /// Connects to a namespace beside the one that is named: no pattern of a queue here matches what
    /// is delivered there.
    pub(crate) async fn broker_beside(&self, name: &str) -> Result<Broker<Body>, Failure> {
        self.reach(plain().namespace(self.beside(name))).await
    }

    /// What that namespace is called.
    pub(crate) fn beside(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace().unwrap_or("fairlane"))
    }

    /// A broker that says nothing yet of where Redis is.
    pub(crate) fn named(&self) -> BrokerBuilder<Body> {
        let mut broker = plain();
        if let Some(namespace) = self.namespace() {
            broker = broker.namespace(namespace);
        }
        if let Some(partitions) = self.partitions {
            broker = broker.partitions(partitions);
        }
        broker
    }

    /// A variable that is set to nothing says nothing, as below.
    fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref().filter(|name| !name.is_empty())
    }

    /// What says the same to a program that this one runs.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, OsString)> {
        let said = |path: &PathBuf| path.as_os_str().to_owned();
        let variables = [
            (REDIS, Some(self.redis.clone().into())),
            (NAMESPACE, self.namespace.clone().map(Into::into)),
            (PARTITIONS, self.partitions.map(|count| count.to_string().into())),
            (TLS_CA, self.tls_ca.as_ref().map(said)),
            (TLS_CERT, self.tls_cert.as_ref().map(said)),
            (TLS_KEY, self.tls_key.as_ref().map(said)),
        ];
        variables.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }

    /// What is given for TLS, if anything is.
    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let trusting = read(self.tls_ca.as_ref())?.map(|ca| Tls::new().authority(ca));
        match (read(self.tls_cert.as_ref())?, read(self.tls_key.as_ref())?) {
            (None, None) => Ok(trusting),
            (Some(certificate), Some(key)) => {
                Ok(Some(trusting.unwrap_or_default().identity(certificate, key)))
            }
            _ => Err(Failure::usage("--tls-cert and --tls-key go together")),
        }
    }

    async fn reach(&self, broker: BrokerBuilder<Body>) -> Result<Broker<Body>, Failure> {
        let url = if self.redis.is_empty() { LOCAL } else { &self.redis };
        let broker = match self.tls()? {
            Some(tls) => broker.tls(tls),
            None => broker,
        };
        broker.redis(url).connect().await.map_err(|error| match error {
            Error::NotSent(_) if url.starts_with("rediss") => Failure::from(error)
                .then("rediss:// needs a port that speaks TLS, redis:// one that does not"),
            error => failed(error),
        })
    }
}

/// What a file says. A variable that is set to nothing says nothing, as above.
fn read(path: Option<&PathBuf>) -> Result<Option<Vec<u8>>, Failure> {
    let path = path.filter(|path| !path.as_os_str().is_empty());
    path.map(fs::read).transpose().map_err(|error| {
        let path = path.map(|path| path.display().to_string()).unwrap_or_default();
        Failure::usage(format!("{path} cannot be read: {error}"))
    })
}

/// Why a broker did not connect. The one name that it is given is that of its namespace.
pub(crate) fn failed(error: Error) -> Failure {
    let of_namespace = matches!(error, Error::Invalid(Invalid::Name { .. }));
    let failure = Failure::from(error);
    if of_namespace { failure.at("the namespace") } else { failure }
}

/// Bodies are what they are.
fn plain() -> BrokerBuilder<Body> {
    let same = |body: &Body| Ok::<_, Infallible>(body.clone());
    BrokerBuilder::coded(same, |body| Ok::<_, Infallible>(body.to_vec()))
}
