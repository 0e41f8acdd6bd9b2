//! `fairlane queues`

use clap::Args;

use crate::{connect::Connect, failure::Failure, output::Output};

/// Lists the queues and their patterns
#[derive(Debug, Args)]
pub(crate) struct Queues {}

impl Queues {
    pub(crate) async fn run(self, connect: &Connect, _output: &Output) -> Result<(), Failure> {
        for route in connect.broker().await?.queues().await? {
            anstream::println!("{} {}", route.queue, route.pattern);
        }
        Ok(())
    }
}
