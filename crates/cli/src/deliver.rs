//! `fairlane deliver`

use std::{
    fs::File,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use fairlane::{Message, Receipt};
use serde::Serialize;

use crate::{
    arguments, bulk,
    connect::{Body, Connect},
    failure::Failure,
    lines::check_json,
    output::{Cell, Output, Row},
    shown,
};

/// Delivers a message, or one for each line of a file or of standard input
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fairlane deliver '{\"facet\": \"acme\", \"topic\": \"page:home\"}'
  fairlane deliver --file events.jsonl --key import-7   # can be repeated without doubling
  tail -F events.jsonl | fairlane deliver --topic page:home")]
pub(crate) struct Deliver {
    /// The message as JSON; - for a message a line from standard input, which is also read where
    /// this is left out and something is piped in
    #[arg(value_name = "JSON", conflicts_with = "file")]
    message: Option<String>,
    /// Delivers a message for each line of this file; blank lines are skipped
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Begins behind so many lines of the input
    #[arg(long, value_name = "LINES", default_value_t = 0)]
    skip: u64,
    #[command(flatten)]
    manner: Manner,
}

/// How each message is delivered.
#[derive(Debug, Args)]
pub(crate) struct Manner {
    /// Whose it is [default: its field `facet`]
    #[arg(long, value_parser = arguments::facet())]
    facet: Option<String>,
    /// What it is about [default: its field `topic`]
    #[arg(long, value_parser = arguments::facet())]
    topic: Option<String>,
    /// Delivers it once, however often this is called; of several lines each has the key KEY:LINE
    /// [default: none]
    #[arg(long, value_parser = arguments::facet())]
    key: Option<String>,
    /// How long its key holds, 1ms to 30days [default: 10m]
    #[arg(long, value_name = "TIME", requires = "key", value_parser = arguments::duration)]
    window: Option<Duration>,
    /// Lets it wait first, up to 10years [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    delay: Option<Duration>,
    /// How long it is worth serving, 1ms to 10years [default: that of the queue]
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    ttl: Option<Duration>,
    /// How dear it is, in any unit, 0.001 to 1e9 [default: 1]
    #[arg(long)]
    cost: Option<f64>,
    /// A header that goes with it; may be given more than once [default: none]
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = arguments::header)]
    headers: Vec<(String, String)>,
}

impl Manner {
    /// A message of this body. `line` is where it stands, when there are several.
    pub(crate) fn message<'a>(&self, body: &'a Body, line: Option<u64>) -> Message<'a, Body> {
        let mut message = Message::new(body);
        if let Some(facet) = &self.facet {
            message = message.facet(facet);
        }
        if let Some(topic) = &self.topic {
            message = message.topic(topic);
        }
        message = match (&self.key, line) {
            (Some(key), Some(line)) => message.key(format!("{key}:{line}")),
            (Some(key), None) => message.key(key),
            (None, _) => message,
        };
        if let Some(window) = self.window {
            message = message.window(window);
        }
        if let Some(delay) = self.delay {
            message = message.delay(delay);
        }
        if let Some(ttl) = self.ttl {
            message = message.ttl(ttl);
        }
        if let Some(cost) = self.cost {
            message = message.cost(cost);
        }
        self.headers.iter().fold(message, |message, (name, value)| message.header(name, value))
    }

    /// Whether the same lines can be delivered again.
    pub(crate) fn repeats(&self) -> bool {
        self.key.is_some()
    }
}

/// What became of a message.
#[derive(Serialize)]
struct Delivered<'a> {
    id: u64,
    queues: &'a [String],
    listeners: u64,
    duplicate: bool,
}

impl<'a> Delivered<'a> {
    fn of(receipt: &'a Receipt) -> Self {
        Self {
            id: shown::number(receipt.id),
            queues: &receipt.queues,
            listeners: receipt.listeners,
            duplicate: receipt.duplicate,
        }
    }
}

impl Row for Delivered<'_> {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        let queues = self.queues.join(", ");
        let queues = Some(shown::printable(queues.as_bytes())).filter(|queues| !queues.is_empty());
        vec![
            ("id", Cell::number(self.id)),
            ("queues", Cell::any(queues)),
            ("listeners", Cell::number(self.listeners)),
            ("duplicate", Cell::text(if self.duplicate { "yes" } else { "no" })),
        ]
    }
}

impl Deliver {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        match (&self.message, &self.file) {
            (Some(message), _) if message != "-" => {
                self.one(message.trim().into(), connect, output).await
            }
            (_, Some(file)) if file != Path::new("-") => {
                let cannot = |error: io::Error| {
                    Failure::usage(format!("{} cannot be read: {error}", file.display()))
                };
                let open = File::open(file).map_err(cannot)?;
                let about = open.metadata().map_err(cannot)?;
                if about.is_dir() {
                    return Err(cannot(io::ErrorKind::IsADirectory.into()));
                }
                let length = about.is_file().then_some(about.len());
                self.lines(open, length, connect, output).await
            }
            (None, None) if io::stdin().is_terminal() => Err(Failure::usage(
                "there is nothing to deliver: give a message, --file FILE, or pipe in a message a line",
            )),
            _ => self.lines(io::stdin(), None, connect, output).await,
        }
    }

    async fn one(&self, body: Body, connect: &Connect, output: &Output) -> Result<(), Failure> {
        if self.skip > 0 {
            let text = "--skip is for lines, and this is one message: leave it out";
            return Err(Failure::usage(text));
        }
        check_json(&body)?;
        let broker = connect.broker().await?;
        let receipt = broker.deliver(self.manner.message(&body, None)).await?;
        output.record(&Delivered::of(&receipt))?;
        if receipt.queues.is_empty() && !receipt.duplicate {
            output.note("It is kept nowhere: no queue's pattern matches its topic.");
        }
        Ok(())
    }

    async fn lines(
        &self,
        input: impl io::Read + Send + 'static,
        length: Option<u64>,
        connect: &Connect,
        output: &Output,
    ) -> Result<(), Failure> {
        let broker = connect.broker().await?;
        let summary = bulk::deliver(&broker, &self.manner, input, length, self.skip).await?;
        output.done(&summary, &summary)
    }
}
