//! `fairlane pull` and `fairlane lease`

use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use fairlane::{Delivery, Headers};
use serde::Serialize;

use crate::{
    arguments,
    connect::{Body, Connect},
    failure::Failure,
    output::{Cell, Output, Row, line},
    shown::{self, Content},
};

/// The most that one call of the library leases.
const MOST: usize = 1000;

/// From where, and how much.
#[derive(Debug, Args)]
struct Order {
    /// The queues; each one is looked at when those before it have nothing
    #[arg(value_name = "QUEUE", required = true)]
    queues: Vec<String>,
    /// How many messages at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Waits up to this long for the first one, at most 24h [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    wait: Option<Duration>,
}

/// Takes messages for good, at most once: what is printed is off the queue
#[derive(Debug, Args)]
#[command(after_help = "\
Prints a body a line, what could touch a terminal escaped; with --json the name of its queue, too. See
lease for messages that shall come back when they are not acked.")]
pub(crate) struct Pull {
    #[command(flatten)]
    order: Order,
}

#[derive(Serialize)]
struct Pulled {
    queue: String,
    #[serde(flatten)]
    body: Content,
}

impl Pull {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let Order { queues, count, wait } = self.order;
        let broker = connect.broker().await?;
        let source = broker.in_order(queues);
        // One by one: no error can lose more than what is in hand, and that is told.
        for taken in 0..count {
            let wait = wait.filter(|_| taken == 0).unwrap_or_default();
            let Some((queue, body)) = source.pull().wait(wait).await? else {
                if taken == 0 {
                    output.note("nothing to pull");
                }
                break;
            };
            let pulled = Pulled { queue, body: Content::of(&body) };
            if output.done(&pulled, pulled.body.shown()).is_err() {
                let last = line(&pulled)?;
                return Err(Failure::refused(format!(
                    "standard output is closed, and this message is off the queue: {}",
                    last.trim_end()
                )));
            }
        }
        Ok(())
    }
}

/// Takes messages for a time, at least once: what is not acked by then comes back
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  token=$(fairlane lease mails --json | jq -r .token) && fairlane ack \"$token\"")]
pub(crate) struct Lease {
    #[command(flatten)]
    order: Order,
    /// The length of the lease, 1ms to 12h [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    lasting: Option<Duration>,
}

#[derive(Serialize)]
struct Leased {
    token: String,
    id: u64,
    queue: String,
    facet: String,
    topic: String,
    attempt: u32,
    crashes: u32,
    last_failure: Option<String>,
    delivered_at_ms: u64,
    /// By the clock of this machine.
    expires_at_ms: u64,
    headers: Headers,
    #[serde(flatten)]
    body: Content,
}

impl Leased {
    fn of(delivery: &Delivery<Body>) -> Self {
        let left = delivery.expires_at().saturating_duration_since(Instant::now());
        Self {
            token: delivery.token().to_string(),
            id: shown::number(delivery.id()),
            queue: delivery.queue().to_owned(),
            facet: delivery.facet().to_owned(),
            topic: delivery.topic().to_owned(),
            attempt: delivery.attempt().get(),
            crashes: delivery.crashes(),
            last_failure: delivery.last_failure().map(ToOwned::to_owned),
            delivered_at_ms: shown::at_ms(delivery.delivered_at()),
            expires_at_ms: shown::at_ms(SystemTime::now() + left),
            headers: delivery.headers().clone(),
            body: Content::of(delivery.body()),
        }
    }
}

impl Row for Leased {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        vec![
            ("token", Cell::text(&self.token)),
            ("id", Cell::number(self.id)),
            ("facet", Cell::Text(shown::name(&self.facet))),
            ("topic", Cell::Text(shown::name(&self.topic))),
            ("attempt", Cell::number(self.attempt)),
            ("body", Cell::Rest(self.body.shown())),
        ]
    }
}

impl Lease {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let Order { queues, count, wait } = self.order;
        let broker = connect.broker().await?;
        let source = broker.in_order(queues);
        let mut left = count as usize;
        let mut first = true;
        while left > 0 {
            let wait = wait.filter(|_| first).unwrap_or_default();
            let lease = source.lease_many(left.min(MOST)).wait(wait);
            let lease = match self.lasting {
                Some(lasting) => lease.lasting(lasting),
                None => lease,
            };
            let leased: Vec<_> = lease.await?.iter().map(Leased::of).collect();
            // A call may give less than there is: of the first queue alone, or a part by its bytes.
            if leased.is_empty() {
                if first {
                    output.note("nothing to lease");
                }
                break;
            }
            output.rows(&leased, "")?;
            left = left.saturating_sub(leased.len());
            first = false;
        }
        Ok(())
    }
}
