//! `fairlane pause` and `resume`

use clap::Args;
use serde::Serialize;

use crate::{arguments, connect::Connect, failure::Failure, output::Output, shown::name};

/// Of what.
#[derive(Debug, Args)]
struct What {
    /// The queue; it need not be registered
    queue: String,
    /// One facet alone [default: the whole queue]
    #[arg(long, value_parser = arguments::facet())]
    facet: Option<String>,
    /// What is delivered to it, not what it serves
    #[arg(long)]
    intake: bool,
}

/// Serves nothing of a queue or a facet until it is resumed
#[derive(Debug, Args)]
pub(crate) struct Pause {
    #[command(flatten)]
    what: What,
}

/// Serves a queue or a facet again
#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    what: What,
}

#[derive(Serialize)]
struct Paused {
    queue: String,
    /// Null for the whole queue.
    facet: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    intake_paused: Option<bool>,
    /// Whether there is a route to the queue. Where there is none, the setting holds for when there is.
    registered: bool,
}

impl Pause {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        set(self.what, true, connect, output).await
    }
}

impl Resume {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        set(self.what, false, connect, output).await
    }
}

async fn set(what: What, pauses: bool, connect: &Connect, output: &Output) -> Result<(), Failure> {
    let What { queue: named, facet: only, intake } = what;
    let broker = connect.broker().await?;
    let queue = broker.queue(&named);
    let facet = only.as_ref().map(|facet| queue.facet(facet));
    match (facet, intake, pauses) {
        (None, false, true) => queue.pause().await,
        (None, false, false) => queue.resume().await,
        (None, true, true) => queue.pause_intake().await,
        (None, true, false) => queue.resume_intake().await,
        (Some(facet), false, true) => facet.pause().await,
        (Some(facet), false, false) => facet.resume().await,
        (Some(facet), true, true) => facet.pause_intake().await,
        (Some(facet), true, false) => facet.resume_intake().await,
    }?;
    let whose = only.as_ref().map(|facet| format!("facet {} of ", name(facet)));
    let what = format!("{}queue {named}", whose.unwrap_or_default());
    let said = match (intake, pauses) {
        (false, true) => format!("{what} is paused: nothing of it is served until it is resumed"),
        (false, false) => format!("{what} is served"),
        (true, true) => format!("{what} takes nothing: what is delivered to it is refused"),
        (true, false) => format!("{what} takes what is delivered"),
    };
    let (paused, intake_paused) = if intake { (None, Some(pauses)) } else { (Some(pauses), None) };
    let registered = broker.queues().await?.iter().any(|route| route.queue == named);
    if !registered {
        output.note(format!(
            "no queue `{named}` is registered: this holds for when it is; `fairlane queues` lists those that are"
        ));
    }
    output.done(&Paused { queue: named, facet: only, paused, intake_paused, registered }, said)
}
