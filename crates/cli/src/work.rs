//! `fairlane work`

use std::{
    ffi::OsString,
    io::{self, Write},
    os::unix::process::ExitStatusExt,
    pin::pin,
    process::{ExitStatus, Stdio},
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use clap::Args;
use fairlane::{Delivery, Error, Report};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use crate::{
    arguments,
    connect::{Body, Connect},
    failure::{Failure, chain},
    output::Output,
    shown,
};

/// How many bytes of what a command says are kept: the reason of its failure is the last line.
const MOST_KEPT: usize = 2048;
/// How long the rest of it is waited for when the command has ended.
const REST: Duration = Duration::from_millis(100);

/// Runs a command for each message: a worker for any language
#[derive(Debug, Args)]
#[command(after_help = "\
The body is its standard input. FAIRLANE_QUEUE, FAIRLANE_FACET, FAIRLANE_TOPIC, FAIRLANE_ID,
FAIRLANE_ATTEMPT, and FAIRLANE_HEADERS (as JSON) say what it is. FAIRLANE_REDIS and FAIRLANE_NAMESPACE are
those of the worker, so that what `fairlane` does in it is done there. Exit code 0 acks the message; any other
is another try, later and later, with the last line of standard error as the reason, and in the end a dead
letter. A command whose lease is lost is killed. One whose worker is killed (with SIGKILL) goes on, while
its message comes back.

Ctrl-C or SIGTERM: nothing new is taken, and what runs has the grace to end; what it had then goes back. A
second one ends it at once.

Examples:
  fairlane work mails --exec './send-mail \"$FAIRLANE_FACET\"'
  fairlane work urgent=10 bulk=1 --concurrency-of bulk=2 --exec 'python3 handle.py'")]
pub(crate) struct Work {
    /// The queues; each one is served when those before it have nothing. With weights: as often as these
    /// say
    #[arg(value_name = "QUEUE[=WEIGHT]", required = true, value_parser = weighted)]
    queues: Vec<(String, Option<f64>)>,
    /// What to run, by `sh -c`
    #[arg(long, value_name = "COMMAND")]
    exec: String,
    /// How many run at a time, 1 to 1000 [default: the number of processors]
    #[arg(short, long, value_name = "N")]
    concurrency: Option<usize>,
    /// How many of them may be of this queue; for several queues say it again
    #[arg(long, value_name = "QUEUE=N", value_parser = concurrency_of)]
    concurrency_of: Vec<(String, usize)>,
    /// The length of the leases, 100ms to 12h, which are extended while it runs; what a worker that is killed had
    /// comes back after it
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = arguments::duration)]
    lasting: Duration,
    /// How long a worker that stops waits for what runs
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = arguments::duration)]
    grace: Duration,
    /// Ends when nothing can be served now, and nothing runs
    #[arg(long)]
    until_empty: bool,
}

fn weighted(text: &str) -> Result<(String, Option<f64>), String> {
    let Some((queue, weight)) = text.split_once('=') else { return Ok((text.into(), None)) };
    let weight = weight.parse().map_err(|_| "say QUEUE, or QUEUE=WEIGHT, as mails=10")?;
    Ok((queue.into(), Some(weight)))
}

fn concurrency_of(text: &str) -> Result<(String, usize), String> {
    let form = "say QUEUE=N, as bulk=2";
    let (queue, most) = text.split_once('=').ok_or(form)?;
    Ok((queue.into(), most.parse().map_err(|_| form)?))
}

/// What the worker did; the names are those of the library.
#[derive(Serialize)]
struct Done {
    leased: u64,
    acked: u64,
    failed: u64,
    given_back: u64,
    lost: u64,
    unsettled: u64,
}

impl From<Report> for Done {
    fn from(report: Report) -> Self {
        let Report { leased, acked, failed, given_back, lost, unsettled, .. } = report;
        Self { leased, acked, failed, given_back, lost, unsettled }
    }
}

impl Done {
    fn said(&self) -> String {
        let counts = [
            (self.acked, "done"),
            (self.failed, "failed"),
            (self.given_back, "given back"),
            (self.lost, "lost to others"),
            (self.unsettled, "not settled: they come back when their leases end"),
        ];
        let told = counts.iter().filter(|(count, what)| *count > 0 || *what == "done");
        told.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ")
    }
}

impl Work {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let broker = connect.broker().await?;
        let weights = self.queues.iter().any(|(_, weight)| weight.is_some());
        let source = match weights {
            true => broker.by_weight(
                self.queues.into_iter().map(|(name, weight)| (name, weight.unwrap_or(1.0))),
            ),
            false => broker.in_order(self.queues.into_iter().map(|(name, _)| name)),
        };
        let shell = Arc::new(Shell {
            program: self.exec,
            environment: connect.environment().collect(),
            json: output.json,
        });
        let mut worker = source
            .worker(move |delivery| {
                let shell = shell.clone();
                async move { shell.handle(&delivery).await }
            })
            .concurrency(self.concurrency.unwrap_or_else(processors))
            .lasting(self.lasting)
            .signals(true)
            .grace(self.grace)
            .after(|delivery, handled| {
                let problem = match (&handled.settled, handled.outcome) {
                    (Err(error @ Error::LeaseLost(_)), _) => chain(error),
                    (Err(error), _) => format!("not settled: {}", chain(error)),
                    (Ok(()), fairlane::Outcome::Fail(reason)) => reason.clone(),
                    _ => return,
                };
                let (facet, topic) = (shown::name(delivery.facet()), shown::name(delivery.topic()));
                let (id, problem) = (delivery.id(), shown::printable(problem.as_bytes()));
                // Who has closed standard error does not want to know.
                let _ = writeln!(anstream::stderr(), "{id} {facet} {topic}: {problem}");
            });
        for (queue, most) in self.concurrency_of {
            worker = worker.concurrency_of(queue, most);
        }
        let done = match self.until_empty {
            true => worker.run_until_empty().await,
            false => worker.run().await,
        };
        let (report, failed) = match done {
            Ok(report) => (report, None),
            // What it did is told, too.
            Err(Error::WorkerStopped { report, source }) => (report, Some(*source)),
            Err(error) => return Err(error.into()),
        };
        let done = Done::from(report);
        output.done(&done, done.said())?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

fn processors() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// What runs the command, and for whom it prints.
struct Shell {
    program: String,
    environment: Vec<(&'static str, OsString)>,
    json: bool,
}

impl Shell {
    /// Runs the command for a message.
    async fn handle(&self, delivery: &Delivery<Body>) -> Result<(), String> {
        let headers = serde_json::to_string(delivery.headers()).unwrap_or_default();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &self.program])
            .envs(self.environment.iter().cloned())
            .env("FAIRLANE_QUEUE", delivery.queue())
            .env("FAIRLANE_FACET", delivery.facet())
            .env("FAIRLANE_TOPIC", delivery.topic())
            .env("FAIRLANE_ID", delivery.id().to_string())
            .env("FAIRLANE_ATTEMPT", delivery.attempt().to_string())
            .env("FAIRLANE_HEADERS", headers)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C in the terminal is for the worker, which lets it end what it does.
            .process_group(0);
        if self.json {
            command.stdout(io::stderr()); // The other one is for the report alone.
        }
        let child = command.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
        let mut running = Running(child);
        let (input, errors) = (running.0.stdin.take(), running.0.stderr.take());
        let mut said = Vec::new();
        let passing = async {
            let give = async {
                if let Some(mut input) = input {
                    // One that does not read its input is free not to.
                    let _ = input.write_all(delivery.body()).await;
                }
            };
            tokio::join!(give, pass_on(errors, &mut said))
        };
        let ended = async {
            let mut passing = pin!(passing);
            tokio::select! {
                status = running.0.wait() => {
                    // What it has started may go on, and keep them open.
                    let _ = timeout(REST, passing).await;
                    status
                }
                _ = &mut passing => running.0.wait().await,
            }
        };
        let status = tokio::select! {
            status = ended => status.map_err(|error| format!("it cannot be waited for: {error}"))?,
            () = delivery.lost().cancelled() => return Err("its lease was lost".into()),
        };
        if status.success() {
            return Ok(());
        }
        let how = how(status);
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().map(str::trim).find(|line| !line.is_empty());
        Err(last.map_or(how.clone(), |last| format!("{how}: {last}")))
    }
}

/// A command that runs. Dropped before it has ended, it is killed with all that it has started.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // None when it has been waited for.
        let Some(id) = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
        else {
            return;
        };
        let _ = kill_process_group(id, Signal::KILL); // It may have ended just now.
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Passes on what a command says on standard error, and keeps the end of it.
async fn pass_on(errors: Option<ChildStderr>, end: &mut Vec<u8>) {
    let Some(mut errors) = errors else { return };
    let mut part = [0; 8192];
    while let Ok(read @ 1..) = errors.read(&mut part).await {
        let _ = io::stderr().write_all(&part[..read]); // Or nobody wants to know.
        end.extend_from_slice(&part[..read]);
        end.drain(..end.len().saturating_sub(MOST_KEPT));
    }
}
