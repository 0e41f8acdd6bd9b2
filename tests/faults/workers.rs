//! Workers that end: killed, and those that come and go.

use std::{path::Path, process::Child, sync::Arc};

use fairlane::Broker;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    check::Excused,
    load::{Load, SECOND, long},
    record::Record,
    support::{Server, another_process, other_process},
    work::{self, Kind},
};

const URL: &str = "FAIRLANE_FAULTS_URL";

/// A process with two workers, which is killed.
struct Process(Child);

impl Process {
    fn start(test: &str, dir: &Path, url: &str) -> Self {
        Self(another_process(test, dir).env(URL, url).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Works until the process is killed.
async fn work_in(dir: &Path) {
    let record = Arc::new(Record::in_file(dir));
    let never = CancellationToken::new();
    let broker = <Broker>::builder().redis(std::env::var(URL).unwrap()).connect().await.unwrap();
    tokio::join!(
        work::work(broker.clone(), record.clone(), Kind::Mixed, never.clone()),
        work::work_by_hand(broker, record, Kind::Mixed, never)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_lose_nothing() {
    if let Some(dir) = other_process() {
        return work_in(&dir).await;
    }
    let server = Server::start(&[]).await;
    let url = server.url();
    let load = Load::on({
        let url = url.clone();
        move || <Broker>::builder().redis(url.clone())
    });
    let test = "workers::workers_that_are_killed_lose_nothing";
    let mut killed = 0;
    let told = load.await.during(async |load| {
        let end = Instant::now() + long();
        let process = || Process::start(test, load.dir.path(), &url);
        let mut processes = [process(), process(), process()];
        while Instant::now() < end {
            sleep(SECOND / 4).await;
            processes[killed % 3] = process(); // The old one is killed with that.
            killed += 1;
        }
    });
    told.await.holds("kill -9 of workers", &Excused::default());
    assert!(killed > 9, "{killed}");
}

/// Works for a while, up to the length of a lease: each for another one.
async fn stay(broker: Broker, record: Arc<Record>, come: u32) {
    let stop = CancellationToken::new();
    let leave = async {
        sleep(work::LASTING / 100 * (come * 37 % 100)).await;
        stop.cancel();
    };
    if come.is_multiple_of(2) {
        tokio::join!(work::work(broker, record, Kind::Mixed, stop.clone()), leave);
    } else {
        tokio::join!(work::work_by_hand(broker, record, Kind::Mixed, stop.clone()), leave);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_come_and_go_lose_nothing() {
    let server = Server::start(&[]).await;
    let url = server.url();
    let mut load = Load::on(move || <Broker>::builder().redis(url.clone())).await;
    load.workers = 0;
    let told = load.during(async |load| {
        let mut workers = JoinSet::new();
        let come_and_go = async {
            for come in 1.. {
                if workers.len() == 200 {
                    workers.join_next().await.unwrap().unwrap();
                }
                workers.spawn(stay(load.broker().await, load.record.clone(), come));
            }
        };
        let over = async {
            sleep(long()).await;
            load.delivered.cancel();
            load.caught_up().await;
        };
        tokio::select! {
            () = come_and_go => {}
            () = over => {}
        }
        while let Some(worker) = workers.join_next().await {
            worker.unwrap();
        }
    });
    told.await.holds("200 workers that come and go", &Excused::default());
}
