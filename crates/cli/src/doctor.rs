//! `fairlane doctor`

use clap::Args;
use fairlane::Finding;
use serde::Serialize;

use crate::{
    connect::Connect,
    failure::Failure,
    output::{Cell, Output, Row},
    shown::{count, printable},
    stats::named_or_all,
};

/// Examines whether what Redis has of queues is sound, and mends it
#[derive(Debug, Args)]
#[command(after_help = "Ends with 1 when something is broken and was not mended.")]
pub(crate) struct Doctor {
    /// The queues [default: all that are registered]
    #[arg(value_name = "QUEUE")]
    queues: Vec<String>,
    /// Mends what is broken, while the queue is in service
    #[arg(long)]
    repair: bool,
}

#[derive(Serialize)]
struct Broken {
    queue: String,
    /// What kind of damage it is.
    finding: &'static str,
    /// Whose it is, where it is a facet's.
    facet: Option<String>,
    /// All of it, in words.
    text: String,
    repaired: bool,
}

impl Broken {
    fn of(queue: &str, finding: Finding, repaired: bool) -> Self {
        let text = finding.to_string();
        let (kind, facet) = match finding {
            Finding::Unlisted { facet } => ("unlisted", Some(facet)),
            Finding::Empty { facet } => ("empty", Some(facet)),
            Finding::Twice { facet } => ("twice", Some(facet)),
            Finding::Ungated { facet } => ("ungated", Some(facet)),
            Finding::Stuck { facet } => ("stuck", Some(facet)),
            Finding::Owing { facet } => ("owing", Some(facet)),
            Finding::Untimed { facet } => ("untimed", Some(facet)),
            Finding::Timer { .. } => ("timer", None),
            Finding::Endless { .. } => ("endless", None),
            Finding::Halved { .. } => ("halved", None),
            Finding::Letter { facet, .. } => ("letter", Some(facet)),
            Finding::Ghost { facet, .. } => ("ghost", Some(facet)),
            Finding::Grave { facet } => ("grave", Some(facet)),
            Finding::Count { facet, .. } => ("count", facet),
            _ => ("unknown", None), // Of a newer library.
        };
        Self { queue: queue.to_owned(), finding: kind, facet, text, repaired }
    }
}

impl Row for Broken {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        vec![
            ("queue", Cell::text(&self.queue)),
            ("repaired", Cell::text(if self.repaired { "yes" } else { "no" })),
            ("finding", Cell::Text(printable(self.text.as_bytes()))),
        ]
    }
}

impl Doctor {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let broker = connect.broker().await?;
        let queues = named_or_all(&broker, self.queues).await?;
        let mut broken = Vec::new();
        for name in &queues {
            let queue = broker.queue(name);
            let findings = if self.repair { queue.repair().await? } else { queue.doctor().await? };
            broken.extend(findings.into_iter().map(|found| Broken::of(name, found, self.repair)));
        }
        let examined = count(queues.len() as u64, "queue", "queues");
        if broken.is_empty() {
            return match output.json {
                true => Ok(()),
                false => output.say(format_args!("sound: {examined}")),
            };
        }
        output.rows(&broken, "")?;
        let damage = count(broken.len() as u64, "thing is", "things are");
        match self.repair {
            true => Ok(()),
            false => {
                Err(Failure::refused(format!("{damage} broken in {examined}; --repair mends it")))
            }
        }
    }
}
