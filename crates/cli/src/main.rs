//! The `fairlane` command: a broker on Redis, from a terminal.

mod connect;
mod failure;
mod output;
mod queues;

use clap::{Parser, Subcommand};

use crate::{connect::Connect, failure::Failure, output::Output};

/// A message broker on Redis for many tenants: none of them delays the others.
#[derive(Debug, Parser)]
#[command(name = "fairlane", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Queues(queues::Queues),
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let cli = Cli::parse(); // Ends with 2 where it makes no sense.
    match run(cli).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(Cli { connect, output, command }: Cli) -> Result<(), Failure> {
    match command {
        Command::Queues(command) => command.run(&connect, &output).await,
    }
}
