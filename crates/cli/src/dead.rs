//! `fairlane dead`: what queues have given up

use clap::{Args, Subcommand};
use fairlane::{Cursor, DeadLetter, Death, Error, Headers, MessageId};
use serde::Serialize;

use crate::{
    arguments,
    confirm::Confirm,
    connect::{Body, Connect},
    failure::Failure,
    output::{Cell, Output, Row},
    shown::{self, Content, count},
};

/// Lists, serves again or drops what a queue has given up
#[derive(Debug, Args)]
pub(crate) struct Dead {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the dead letters of a queue
    List {
        #[command(flatten)]
        which: Which,
        /// How many at most
        #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Lets dead letters wait again, at the ends of their facets, with all their attempts
    Redrive {
        #[command(flatten)]
        which: Which,
        /// One message alone [default: all]
        #[arg(long)]
        id: Option<MessageId>,
    },
    /// Drops dead letters; asks first
    Purge {
        #[command(flatten)]
        which: Which,
        /// One message alone [default: all]
        #[arg(long)]
        id: Option<MessageId>,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// The queue
    queue: String,
    /// Those of one facet alone [default: all]
    #[arg(long, value_parser = arguments::facet())]
    facet: Option<String>,
}

#[derive(Serialize)]
struct Letter {
    id: u64,
    facet: String,
    topic: String,
    attempts: u32,
    crashes: u32,
    death: &'static str,
    reason: Option<String>,
    delivered_at_ms: u64,
    died_at_ms: u64,
    headers: Headers,
    #[serde(flatten)]
    body: Content,
    #[serde(skip)]
    died: String,
}

impl Letter {
    fn of(letter: DeadLetter<Body>) -> Self {
        Self {
            id: shown::number(letter.id),
            facet: letter.facet,
            topic: letter.topic,
            attempts: letter.attempts,
            crashes: letter.crashes,
            death: match letter.death {
                Death::Attempts => "attempts",
                Death::Crashes => "crashes",
                Death::Expired => "expired",
                Death::Overflow => "overflow",
                Death::Buried => "buried",
                _ => "unknown", // Of a newer library.
            },
            reason: letter.reason,
            delivered_at_ms: shown::at_ms(letter.delivered_at),
            died_at_ms: shown::at_ms(letter.died_at),
            headers: letter.headers,
            body: Content::of_message(letter.message),
            died: shown::time(letter.died_at),
        }
    }
}

impl Row for Letter {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        vec![
            ("id", Cell::number(self.id)),
            ("facet", Cell::Text(shown::name(&self.facet))),
            ("topic", Cell::Text(shown::name(&self.topic))),
            ("attempts", Cell::number(self.attempts)),
            ("death", Cell::text(self.death)),
            ("died at", Cell::text(&self.died)),
            ("reason", Cell::any(self.reason.as_deref().map(shown::name))),
            ("body", Cell::Rest(self.body.shown())),
        ]
    }
}

/// How many were moved or dropped.
#[derive(Serialize)]
struct Moved {
    queue: String,
    facet: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redriven: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purged: Option<u64>,
}

impl Dead {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        match self.command {
            Command::List { which, limit } => which.list(limit as usize, connect, output).await,
            Command::Redrive { which, id } => which.redrive(id, connect, output).await,
            Command::Purge { which, id, confirm } => {
                which.purge(id, &confirm, connect, output).await
            }
        }
    }
}

impl Which {
    async fn letters(
        &self,
        connect: &Connect,
    ) -> Result<(fairlane::Queue<Body>, fairlane::DeadLetters<Body>), Failure> {
        let queue = connect.broker().await?.queue(&self.queue);
        let letters = queue.dead_letters();
        let letters = match &self.facet {
            Some(facet) => letters.of(facet),
            None => letters,
        };
        Ok((queue, letters))
    }

    async fn list(&self, limit: usize, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let (_, letters) = self.letters(connect).await?;
        let (mut listed, mut from) = (Vec::new(), Some(Cursor::default()));
        while listed.len() < limit
            && let Some(cursor) = from
        {
            let (page, next) = letters.page(cursor).await?;
            listed.extend(page.into_iter().map(Letter::of));
            from = next;
        }
        let more = listed.len() > limit || from.is_some();
        listed.truncate(limit);
        output.rows(&listed, "nothing was given up")?;
        if more {
            output.note(format_args!(
                "There are more; --limit {} shows them.",
                limit.saturating_mul(10)
            ));
        }
        Ok(())
    }

    async fn redrive(
        self,
        id: Option<MessageId>,
        connect: &Connect,
        output: &Output,
    ) -> Result<(), Failure> {
        let (_, letters) = self.letters(connect).await?;
        let redriven = match id {
            Some(id) => letters.redrive_one(id).await.map(|()| 1)?,
            None => letters.redrive().await?,
        };
        let said = format!("{} again", count(redriven, "message waits", "messages wait"));
        let Self { queue, facet } = self;
        output.done(&Moved { queue, facet, redriven: Some(redriven), purged: None }, said)
    }

    async fn purge(
        self,
        id: Option<MessageId>,
        confirm: &Confirm,
        connect: &Connect,
        output: &Output,
    ) -> Result<(), Failure> {
        confirm.check()?;
        let (queue, letters) = self.letters(connect).await?;
        let whose = self.facet.as_ref().map(|facet| format!(" of facet {}", shown::name(facet)));
        let whose = format!("{} of queue {}", whose.unwrap_or_default(), self.queue);
        let purged = match id {
            Some(id) => {
                confirm.ask(&format!("This drops dead letter {id}{whose}."))?;
                letters.purge_one(id).await.map(|()| 1)?
            }
            None => {
                let dead = self.count(&queue).await?;
                let dead = count(dead, "dead letter", "dead letters");
                confirm.ask(&format!("This drops {dead}{whose}."))?;
                letters.purge().await?
            }
        };
        let said = format!("dropped {}{whose}", count(purged, "dead letter", "dead letters"));
        let Self { queue, facet } = self;
        output.done(&Moved { queue, facet, redriven: None, purged: Some(purged) }, said)
    }

    async fn count(&self, queue: &fairlane::Queue<Body>) -> Result<u64, Error> {
        Ok(match &self.facet {
            Some(facet) => queue.facet(facet).stats().await?.dead,
            None => queue.stats().await?.dead,
        })
    }
}
