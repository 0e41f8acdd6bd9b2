//! `fairlane peek`

use clap::Args;
use fairlane::{Headers, Peeked};
use serde::Serialize;

use crate::{
    connect::{Body, Connect},
    failure::Failure,
    output::{Cell, Output, Row},
    shown::{self, Content},
};

/// Shows the messages that would be served next, and changes nothing
#[derive(Debug, Args)]
pub(crate) struct Peek {
    /// The queue
    queue: String,
    /// How many messages at most, up to 250
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=250))]
    count: u16,
}

#[derive(Serialize)]
struct Waiting {
    id: u64,
    facet: String,
    topic: String,
    attempts: u32,
    headers: Headers,
    #[serde(flatten)]
    body: Content,
}

impl Waiting {
    fn of(Peeked { id, facet, topic, attempts, headers, message, .. }: Peeked<Body>) -> Self {
        let body = Content::of_message(message);
        Self { id: shown::number(id), facet, topic, attempts, headers, body }
    }
}

impl Row for Waiting {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        vec![
            ("id", Cell::number(self.id)),
            ("facet", Cell::Text(shown::name(&self.facet))),
            ("topic", Cell::Text(shown::name(&self.topic))),
            ("attempts", Cell::number(self.attempts)),
            ("body", Cell::Rest(self.body.shown())),
        ]
    }
}

impl Peek {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let queue = connect.broker().await?.queue(self.queue);
        let peeked = queue.peek(self.count.into()).await?;
        let waiting: Vec<_> = peeked.into_iter().map(Waiting::of).collect();
        output.rows(&waiting, "nothing would be served now")
    }
}
