//! What workers cost that have nothing to do.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use fairlane::Broker;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    Any, Scale, all,
    report::{Report, short},
    server::Server,
};

/// The argument that makes this program one whose workers wait.
pub(crate) const WORKERS: &str = "--workers";

/// Waits with so many workers, until it is ended.
pub(crate) async fn wait(url: &str, workers: usize) -> Result<(), Any> {
    let broker: Broker = Broker::builder().redis(url).connect().await?;
    let queue = broker.queue("bench");
    let mut waiting = JoinSet::new();
    for _ in 0..workers {
        let queue = queue.clone();
        waiting.spawn(async move {
            let mut deliveries = queue.lease().into_stream();
            while let Some(delivery) = deliveries.next().await {
                delivery?.ack().await?;
            }
            Ok::<_, Any>(())
        });
    }
    all(waiting).await.map(drop)
}

/// Ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn measure(
    server: &mut Server,
    report: &mut Report,
    scale: Scale,
) -> Result<(), Any> {
    server.broker.register_queue("bench", ".").await?;
    let windows = Duration::from_secs_f64(scale.of(20.0, 1.0));
    let mut rows = Vec::new();
    let mut last = 0.0;
    for (processes, workers) in [(1, 100), (scale.of(10, 2), 100)] {
        report.progress(&format!("{workers} workers in each of {processes} processes"));
        let mut running = Vec::new();
        for _ in 0..processes {
            let mut program = Command::new(std::env::current_exe()?);
            program.args([WORKERS, &server.url, &workers.to_string()]);
            running.push(Process(program.stdin(Stdio::null()).spawn()?));
        }
        sleep(Duration::from_secs(2)).await;
        let (before, cpu) = (server.commands().await?, server.cpu().await?);
        let begun = Instant::now();
        sleep(windows).await;
        let commands = server.commands().await? - before;
        let cpu = (server.cpu().await? - cpu) / begun.elapsed().as_secs_f64();
        last = commands / begun.elapsed().as_secs_f64();
        rows.push(vec![
            processes.to_string(),
            (processes * workers).to_string(),
            short(last),
            short(cpu),
        ]);
    }
    let head = ["processes", "workers", "commands a second", "CPU of the server, us a second"];
    report.table("Idle workers", &head, &rows);
    let what = format!("{} idle workers in {} processes", scale.of(1000, 200), scale.of(10, 2));
    // For each process two commands in a window of 5 seconds, and a ping.
    report.target(what, last, 7.0, " commands/s");
    Ok(())
}
