//! Where Redis is, and how it is reached.

use std::convert::Infallible;

use clap::Args;
use fairlane::{Broker, BrokerBuilder};

use crate::failure::Failure;

/// A body as it is: this program reads none but to show it.
pub(crate) type Body = Vec<u8>;

#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connect {
    /// The Redis to use: redis://user:password@host:port/database, rediss:// for TLS, or
    /// unix:///path/to/redis.sock
    #[arg(
        long,
        global = true,
        env = "FAIRLANE_REDIS",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379"
    )]
    redis: String,
    /// The namespace of queues and messages [default: none]
    #[arg(long, global = true, env = "FAIRLANE_NAMESPACE")]
    namespace: Option<String>,
}

impl Connect {
    /// Connects. Bodies are what they are; facet and topic of one that is delivered are its fields,
    /// where it is JSON and nothing else is said.
    pub(crate) async fn broker(&self) -> Result<Broker<Body>, Failure> {
        let same = |body: &Body| Ok::<_, Infallible>(body.clone());
        let builder = BrokerBuilder::coded(same, |body| Ok::<_, Infallible>(body.to_vec()));
        let builder = builder.redis(&self.redis);
        let builder = match &self.namespace {
            Some(namespace) => builder.namespace(namespace),
            None => builder,
        };
        Ok(builder.connect().await?)
    }
}
