//! What fairlane costs, how fast and how fair it is, on a server of its own.
//!
//! Machines are shared and noisy: what counts is the CPU time of the server, beside that of plain
//! lists in the same round. `--quick` shows that it runs, and no more.

use std::{error::Error, path::PathBuf, time::Instant};

mod cost;
mod fairness;
mod growth;
mod idle;
mod latency;
mod report;
mod server;

use report::Report;
use server::Server;
use tokio::task::JoinSet;

type Any = Box<dyn Error + Send + Sync>;

/// How much is measured.
#[derive(Clone, Copy)]
struct Scale {
    quick: bool,
}

impl Scale {
    /// One of two numbers: of a whole run, and of a quick one.
    fn of<T>(self, whole: T, quick: T) -> T {
        if self.quick { quick } else { whole }
    }
}

/// Waits until all of them are done.
async fn all<Out: 'static>(mut tasks: JoinSet<Result<Out, Any>>) -> Result<Vec<Out>, Any> {
    let mut results = Vec::new();
    while let Some(done) = tasks.join_next().await {
        results.push(done??);
    }
    Ok(results)
}

#[tokio::main]
async fn main() -> Result<(), Any> {
    let args: Vec<String> = std::env::args().collect();
    if let [_, what, url, workers] = args.as_slice()
        && what == idle::WORKERS
    {
        return idle::wait(url, workers.parse()?).await;
    }
    let scale = Scale { quick: args.iter().any(|arg| arg == "--quick") };
    let begun = Instant::now();
    let mut server = Server::start().await?;
    let mut report = Report::new(&server.version().await?);
    let all = 6;
    report.step(1, all, "CPU of the server and throughput, beside plain lists");
    cost::measure(&mut server, &mut report, scale).await?;
    report.step(2, all, "a lease beside paused facets, and many routes");
    cost::beside(&mut server, &mut report, scale).await?;
    report.step(3, all, "from a delivery to the hand of a waiting worker");
    latency::measure(&mut server, &mut report, scale).await?;
    report.step(4, all, "turns: a loud facet and 999 quiet ones");
    fairness::measure(&mut server, &mut report, scale).await?;
    report.step(5, all, "growth with the messages that wait; memory; destroy");
    growth::measure(&mut server, &mut report, scale).await?;
    report.step(6, all, "workers that have nothing to do");
    idle::measure(&mut server, &mut report, scale).await?;
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    report.finish(&dir, begun.elapsed())
}
