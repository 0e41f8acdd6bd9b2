//! `fairlane ack`, `nack`, `fail` and `extend`, by token

use std::time::Duration;

use clap::Args;
use fairlane::{Error, Result as Settling, Token};
use serde::Serialize;

use crate::{
    arguments,
    connect::Connect,
    failure::Failure,
    output::Output,
    shown::{count, length},
};

/// What is settled.
#[derive(Debug, Args)]
struct Tokens {
    /// As lease printed it, QUEUE/ID/LEASE; more than one may be given
    #[arg(value_name = "TOKEN", required = true)]
    tokens: Vec<Token>,
}

/// Done: forgets messages that were leased
#[derive(Debug, Args)]
pub(crate) struct Ack {
    #[command(flatten)]
    which: Tokens,
    /// What each of them cost in fact, 0.001 to 1e9; moves the turn of its facet [default: what was
    /// said when it was delivered]
    #[arg(long)]
    cost: Option<f64>,
}

/// Gives leased messages back, to the front of their facets
#[derive(Debug, Args)]
pub(crate) struct Nack {
    #[command(flatten)]
    which: Tokens,
    /// Gives them back after this time, 1ms to 10years, to the end [default: at once]
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    after: Option<Duration>,
    /// Serves nothing of their facets for this time, 1ms to 10years; that is no attempt [default: 0s]
    #[arg(long, value_name = "TIME", conflicts_with = "after", value_parser = arguments::duration)]
    hold_facet: Option<Duration>,
}

/// Gives leased messages back, to be served again after the backoff of their queue
#[derive(Debug, Args)]
pub(crate) struct Fail {
    #[command(flatten)]
    which: Tokens,
    /// Why; the next attempt and the dead letter know it
    #[arg(long, value_name = "TEXT", default_value = "failed")]
    reason: String,
    /// Gives them up: they are dead letters now, whatever attempts they have left
    #[arg(long)]
    bury: bool,
}

/// Gives leases more time
#[derive(Debug, Args)]
pub(crate) struct Extend {
    #[command(flatten)]
    which: Tokens,
    /// When they end, counted from now, 1ms to 12h
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = arguments::duration)]
    lasting: Duration,
}

/// What became of the tokens.
#[derive(Serialize)]
struct Settled {
    /// The name of the command.
    verb: &'static str,
    /// For how many it was done.
    done: u64,
    /// Those whose lease had ended.
    lost: Vec<String>,
}

impl Settled {
    fn new(verb: &'static str) -> Self {
        Self { verb, done: 0, lost: Vec::new() }
    }

    /// Settles one token after the other. Another's end of a lease is no reason to stop.
    async fn each(
        verb: &'static str,
        tokens: &[Token],
        settle: impl AsyncFn(&Token) -> Settling<()>,
    ) -> Result<Self, Failure> {
        let mut settled = Self::new(verb);
        for token in tokens {
            match settle(token).await {
                Ok(()) => settled.done += 1,
                Err(Error::LeaseLost(_)) => settled.lost.push(token.to_string()),
                Err(error) if tokens.len() == 1 => return Err(error.into()),
                Err(error) => {
                    let before =
                        format!("{} of {} tokens were done before it", settled.done, tokens.len());
                    return Err(Failure::from(error).at(token).then(before));
                }
            }
        }
        Ok(settled)
    }

    /// Says what was done, `said` of how many leases. That any was lost is a refusal.
    fn report(self, output: &Output, said: impl Fn(String) -> String) -> Result<(), Failure> {
        let leases = count(self.done, "message", "messages");
        if self.done > 0 || output.json {
            output.done(&self, said(leases))?;
        }
        if self.lost.is_empty() {
            return Ok(());
        }
        Err(Failure::refused(format!(
            "the lease has ended of {}: the message came back, or was settled",
            self.lost.join(", ")
        )))
    }
}

impl Ack {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let broker = connect.broker().await?;
        let tokens = self.which.tokens;
        let settled = match self.cost {
            Some(cost) => {
                Settled::each("ack", &tokens, async |token| broker.ack_cost(token, cost).await)
                    .await?
            }
            None => {
                let all = tokens.len();
                let lost = broker.ack_all(tokens).await?;
                let lost: Vec<_> = lost.iter().map(ToString::to_string).collect();
                let done = (all - lost.len().min(all)) as u64;
                Settled { done, lost, ..Settled::new("ack") }
            }
        };
        settled.report(output, |messages| format!("acked {messages}"))
    }
}

impl Nack {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let broker = connect.broker().await?;
        let nack = async |token: &Token| match (self.hold_facet, self.after) {
            (Some(time), _) => broker.hold_facet(token, time).await,
            (None, Some(time)) => broker.nack_after(token, time).await,
            (None, None) => broker.nack(token).await,
        };
        let settled = Settled::each("nack", &self.which.tokens, nack).await?;
        settled.report(output, |messages| match (self.hold_facet, self.after) {
            (Some(time), _) => {
                format!("gave {messages} back; nothing of the facet is served for {}", length(time))
            }
            (None, Some(time)) => format!("gave {messages} back, to wait for {}", length(time)),
            (None, None) => format!("gave {messages} back"),
        })
    }
}

impl Fail {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let broker = connect.broker().await?;
        let fail = async |token: &Token| match self.bury {
            true => broker.bury(token, &self.reason).await,
            false => broker.fail(token, &self.reason).await,
        };
        let settled = Settled::each("fail", &self.which.tokens, fail).await?;
        settled.report(output, |messages| match self.bury {
            true => format!("put {messages} to the dead letters"),
            false => {
                format!("gave {messages} back, to be tried again after the backoff of the queue")
            }
        })
    }
}

impl Extend {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let broker = connect.broker().await?;
        let extend = async |token: &Token| broker.extend(token, self.lasting).await.map(drop);
        let settled = Settled::each("extend", &self.which.tokens, extend).await?;
        settled.report(output, |messages| {
            format!("extended the lease of {messages} to {} from now", length(self.lasting))
        })
    }
}
