//! The `fairlane` command: a broker on Redis, from a terminal.

mod arguments;
mod bench;
mod bulk;
mod confirm;
mod connect;
mod dead;
mod deliver;
mod demo;
mod doctor;
mod facets;
mod failure;
mod generate;
mod limit;
mod lines;
mod listen;
mod measure;
mod output;
mod pause;
mod peek;
mod purge;
mod queues;
mod redis;
mod settings;
mod settle;
mod shown;
mod stats;
mod stop;
mod take;
mod top;
mod why;
mod work;

use clap::{Parser, Subcommand};

use crate::{connect::Connect, failure::Failure, output::Output};

/// A message broker on Redis for many tenants: none of them delays the others.
#[derive(Debug, Parser)]
#[command(
    name = "fairlane",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "\
Exit codes:
  0  done
  1  refused, or broken (doctor)
  2  asked for in a way that makes no sense
  3  Redis cannot be reached, or did not answer

Examples:
  fairlane redis ./data                            # in another terminal; prints the URL for --redis
  fairlane register google '^page:.*google'
  fairlane deliver '{\"facet\": \"acme\", \"topic\": \"page:google\"}'
  fairlane facets google --sort oldest"
)]
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
    // Messages.
    Deliver(deliver::Deliver),
    Pull(take::Pull),
    Lease(take::Lease),
    Ack(settle::Ack),
    Nack(settle::Nack),
    Fail(settle::Fail),
    Extend(settle::Extend),
    Listen(listen::Listen),

    // Queues, and how they stand.
    Queues(queues::Queues),
    Register(queues::Register),
    Unregister(queues::Unregister),
    Stats(stats::StatsOf),
    Facets(facets::Facets),
    Why(why::WhyOf),
    Peek(peek::Peek),

    // How they serve.
    Pause(pause::Pause),
    Resume(pause::Resume),
    Limit(limit::Limit),
    Weight(limit::Weight),
    Rate(limit::RateOf),

    // What is given up, and what is to go.
    Dead(dead::Dead),
    Purge(purge::Purge),
    Destroy(queues::Destroy),
    Doctor(doctor::Doctor),

    // What runs until it is ended.
    Redis(redis::Redis),
    Work(work::Work),
    Top(top::Top),

    // To see what it does.
    Demo(demo::Demo),
    Bench(bench::Bench),

    // About this program.
    Completions(generate::Completions),
    Man(generate::Manual),
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::unread(&error),
    };
    match run(cli).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(Cli { connect, output, command }: Cli) -> Result<(), Failure> {
    match command {
        Command::Deliver(command) => command.run(&connect, &output).await,
        Command::Pull(command) => command.run(&connect, &output).await,
        Command::Lease(command) => command.run(&connect, &output).await,
        Command::Ack(command) => command.run(&connect, &output).await,
        Command::Nack(command) => command.run(&connect, &output).await,
        Command::Fail(command) => command.run(&connect, &output).await,
        Command::Extend(command) => command.run(&connect, &output).await,
        Command::Listen(command) => command.run(&connect, &output).await,
        Command::Queues(command) => command.run(&connect, &output).await,
        Command::Register(command) => command.run(&connect, &output).await,
        Command::Unregister(command) => command.run(&connect, &output).await,
        Command::Stats(command) => command.run(&connect, &output).await,
        Command::Facets(command) => command.run(&connect, &output).await,
        Command::Why(command) => command.run(&connect, &output).await,
        Command::Peek(command) => command.run(&connect, &output).await,
        Command::Pause(command) => command.run(&connect, &output).await,
        Command::Resume(command) => command.run(&connect, &output).await,
        Command::Limit(command) => command.run(&connect, &output).await,
        Command::Weight(command) => command.run(&connect, &output).await,
        Command::Rate(command) => command.run(&connect, &output).await,
        Command::Dead(command) => command.run(&connect, &output).await,
        Command::Purge(command) => command.run(&connect, &output).await,
        Command::Destroy(command) => command.run(&connect, &output).await,
        Command::Doctor(command) => command.run(&connect, &output).await,
        Command::Redis(command) => command.run(&connect, &output).await,
        Command::Work(command) => command.run(&connect, &output).await,
        Command::Top(command) => command.run(&connect, &output).await,
        Command::Demo(command) => command.run(&connect, &output).await,
        Command::Bench(command) => command.run(&connect, &output).await,
        Command::Completions(command) => command.run(&output),
        Command::Man(command) => command.run(&output),
    }
}
