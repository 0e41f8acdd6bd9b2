//! `fairlane queues`, `register`, `unregister` and `destroy`

use clap::Args;
use fairlane::{Error, Route};
use serde::Serialize;

use crate::{
    confirm::Confirm,
    connect::Connect,
    failure::Failure,
    output::{Cell, Output, Row},
    shown::{count, printable},
};

/// Lists the queues and their patterns
#[derive(Debug, Args)]
pub(crate) struct Queues {}

#[derive(Serialize)]
struct Registered {
    queue: String,
    pattern: String,
}

impl Row for Registered {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        vec![
            ("queue", Cell::Text(printable(self.queue.as_bytes()))),
            ("pattern", Cell::Rest(printable(self.pattern.as_bytes()))),
        ]
    }
}

impl Queues {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let routes = connect.broker().await?.queues().await?;
        let registered = |Route { queue, pattern, .. }| Registered { queue, pattern };
        let queues: Vec<_> = routes.into_iter().map(registered).collect();
        output.rows(&queues, "no queue is registered; `fairlane register QUEUE PATTERN` does it")
    }
}

/// Registers a queue, or gives it another pattern
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fairlane register google '^page:.*google'")]
pub(crate) struct Register {
    /// Its name, 1 to 128 of A-Z a-z 0-9 . _ -
    queue: String,
    /// The topics that go on it, as a regular expression; ^ and $ anchor it
    pattern: String,
}

impl Register {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let Self { queue, pattern } = self;
        connect.broker().await?.register_queue(&queue, &pattern).await?;
        let said = format!("{queue} takes what is delivered to {}", printable(pattern.as_bytes()));
        output.done(&Registered { queue, pattern }, said)
    }
}

/// Removes the route of a queue; what is on it stays, and can be taken
#[derive(Debug, Args)]
pub(crate) struct Unregister {
    /// Its name
    queue: String,
}

#[derive(Serialize)]
struct Unregistered {
    queue: String,
    /// Whether there was a route.
    unregistered: bool,
}

impl Unregister {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let Self { queue } = self;
        let unregistered = connect.broker().await?.unregister_queue(&queue).await?;
        let said = match unregistered {
            true => format!("{queue} takes nothing more; what is on it can still be taken"),
            false => format!("{queue} was not registered"),
        };
        output.done(&Unregistered { queue, unregistered }, said)
    }
}

/// Removes a queue and all that is on it, dead letters and settings too; asks first
#[derive(Debug, Args)]
pub(crate) struct Destroy {
    /// Its name
    queue: String,
    #[command(flatten)]
    confirm: Confirm,
}

#[derive(Serialize)]
struct Destroyed {
    queue: String,
    /// Whether it was there.
    destroyed: bool,
    /// What was on it.
    waiting: u64,
    leased: u64,
    delayed: u64,
    dead: u64,
}

impl Destroy {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        self.confirm.check()?;
        let name = self.queue;
        let broker = connect.broker().await?;
        let queue = broker.queue(&name);
        // One whose destruction was interrupted is not there any more; what is left of it goes now.
        let stats = match queue.stats().await {
            Err(Error::NoSuchQueue(_)) => None,
            stats => Some(stats?),
        };
        let held = stats.as_ref().map(|on| {
            let messages = count(on.waiting + on.leased + on.delayed, "message", "messages");
            format!(
                "{messages} ({} of them leased), {}",
                on.leased,
                count(on.dead, "dead letter", "dead letters")
            )
        });
        if let Some(held) = &held {
            self.confirm
                .ask(&format!("This removes queue {name} with {held}, and its settings."))?;
        }
        queue.destroy().await?;
        let said = match held {
            Some(held) => format!("{name} is gone, with {held}"),
            None => format!("there was no queue {name}"),
        };
        let destroyed = stats.is_some();
        let on = stats.unwrap_or_default();
        let (waiting, leased, delayed, dead) = (on.waiting, on.leased, on.delayed, on.dead);
        output.done(&Destroyed { queue: name, destroyed, waiting, leased, delayed, dead }, said)
    }
}
