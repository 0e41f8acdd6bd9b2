//! Where Redis is, and how it is reached.

use std::convert::Infallible;

use clap::Args;
use fairlane::{Broker, BrokerBuilder, Error, Invalid};

use crate::failure::Failure;

/// Where Redis is where nothing is said.
const LOCAL: &str = "redis://127.0.0.1:6379";

/// The variables that say where Redis is, and the namespace.
const REDIS: &str = "FAIRLANE_REDIS";
const NAMESPACE: &str = "FAIRLANE_NAMESPACE";

/// A body as it is: this program reads none but to show it.
pub(crate) type Body = Vec<u8>;

/// What every command is told of Redis, anywhere on the line.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connect {
    /// The Redis to use: redis://user:password@host:port/database, rediss:// for TLS, or
    /// unix:///path/to/redis.sock
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
        match self.namespace() {
            Some(namespace) => plain().namespace(namespace),
            None => plain(),
        }
    }

    /// A variable that is set to nothing says nothing, as below.
    fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref().filter(|name| !name.is_empty())
    }

    /// What says the same to a program that this one runs.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, String)> {
        let redis = Some((REDIS, self.redis.clone()));
        redis.into_iter().chain(self.namespace.clone().map(|name| (NAMESPACE, name)))
    }

    async fn reach(&self, broker: BrokerBuilder<Body>) -> Result<Broker<Body>, Failure> {
        let url = if self.redis.is_empty() { LOCAL } else { &self.redis };
        broker.redis(url).connect().await.map_err(|error| match error {
            Error::NotSent(_) if url.starts_with("rediss:") => Failure::from(error)
                .then("rediss:// needs a port that speaks TLS, redis:// one that does not"),
            error => failed(error),
        })
    }
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
