//! `fairlane purge`

use clap::Args;
use fairlane::MessageId;
use serde::Serialize;

use crate::{
    arguments,
    confirm::Confirm,
    connect::Connect,
    failure::Failure,
    output::Output,
    shown::{count, name},
};

/// Drops what waits of a facet, and what is delayed; asks first
///
/// What is leased comes back if it is not acked; dead letters stay.
#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// The queue
    queue: String,
    /// The facet
    #[arg(value_parser = arguments::facet())]
    facet: String,
    /// One message alone [default: all]
    #[arg(long)]
    id: Option<MessageId>,
    #[command(flatten)]
    confirm: Confirm,
}

#[derive(Serialize)]
struct Purged {
    queue: String,
    facet: String,
    purged: u64,
}

impl Purge {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        self.confirm.check()?;
        let Self { queue, facet, id, confirm } = self;
        let of = connect.broker().await?.queue(&queue).facet(&facet);
        let whose = format!("of facet {} of queue {queue}", name(&facet));
        let purged = match id {
            Some(id) => {
                confirm.ask(&format!("This drops message {id} {whose}."))?;
                of.remove(id).await.map(|()| 1)?
            }
            None => {
                let stats = of.stats().await?;
                let waiting = count(stats.waiting, "waiting message", "waiting messages");
                confirm
                    .ask(&format!("This drops {waiting} and {} delayed {whose}.", stats.delayed))?;
                of.purge().await?
            }
        };
        let said = format!("dropped {} {whose}", count(purged, "message", "messages"));
        output.done(&Purged { queue, facet, purged }, said)
    }
}
