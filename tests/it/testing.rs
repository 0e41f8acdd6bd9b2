//! What the users' own tests have: a server of their own, and time that can be moved.

use std::{
    convert::Infallible,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use fairlane::{Broker, BrokerBuilder, Error, Message, Outcome, testing::TestServer};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{another_process, deliver, message, numbers, other_process, until};

type Any = Box<dyn std::error::Error + Send + Sync>;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

async fn server_and_broker() -> (TestServer, Broker) {
    let server = TestServer::start().await.unwrap();
    let broker = server.builder().connect().await.unwrap();
    (server, broker)
}

fn dir(server: &TestServer) -> PathBuf {
    server.socket().parent().unwrap().to_owned()
}

/// Waits until a directory is gone.
async fn gone(dir: &Path) {
    until("the directory is gone", || async { !dir.exists() }).await;
}

#[tokio::test]
async fn a_server_has_a_directory_of_its_own_that_is_gone_when_the_last_of_its_brokers_is() {
    let (server, broker) = server_and_broker().await;
    let dir = dir(&server);
    assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let (another, _broker) = server_and_broker().await;
    assert_ne!(server.socket(), another.socket());
    drop(server);
    broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    drop(broker);
    gone(&dir).await;
    assert!(another.socket().exists());
}

#[tokio::test]
async fn what_somebody_else_put_into_the_directory_stays_and_so_does_the_directory() {
    let (server, broker) = server_and_broker().await;
    let dir = dir(&server);
    fs::create_dir(dir.join("deep")).unwrap();
    fs::write(dir.join("deep/mine.txt"), "mine").unwrap();
    drop((server, broker));
    until("the server is gone", || async { !dir.join("fairlane.log").exists() }).await;
    assert_eq!(fs::read_to_string(dir.join("deep/mine.txt")).unwrap(), "mine");
    fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn the_directory_is_gone_when_the_process_was_killed() {
    if let Some(told) = other_process() {
        let (server, broker) = server_and_broker().await;
        broker.deliver(&message("a", "t", 1)).await.unwrap();
        fs::write(told.join("half"), dir(&server).to_str().unwrap()).unwrap();
        fs::rename(told.join("half"), told.join("started")).unwrap();
        sleep(60 * SECOND).await;
        unreachable!("nobody killed it");
    }
    let tell = tempfile::tempdir().unwrap();
    let test = "testing::the_directory_is_gone_when_the_process_was_killed";
    let mut other = another_process(test, tell.path()).spawn().unwrap();
    let started = tell.path().join("started");
    until("the other process has started one", || async { started.exists() }).await;
    let dir = PathBuf::from(fs::read_to_string(started).unwrap());
    assert!(dir.join("redis.sock").exists());
    other.kill().unwrap(); // with SIGKILL
    other.wait().unwrap();
    gone(&dir).await;
}

#[tokio::test]
async fn a_program_that_is_no_server_is_an_error_with_the_end_of_its_log_and_leaves_nothing() {
    if let Some(temporary) = other_process() {
        let error = TestServer::start().await.unwrap_err();
        let Error::NotStarted { dir, cause } = &error else { panic!("{error:?}") };
        assert_eq!(dir.parent(), Some(&*temporary.canonicalize().unwrap()));
        assert!(cause.to_string().contains("no-such-server"), "{cause}");
        gone(dir).await;
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let test = "testing::a_program_that_is_no_server_is_an_error_with_the_end_of_its_log_and_leaves_nothing";
    let mut other = another_process(test, dir.path());
    let other = other.env("TMPDIR", dir.path()).env("FAIRLANE_SERVER", "/no-such-server");
    assert!(other.status().unwrap().success());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[tokio::test]
async fn two_brokers_of_a_server_share_its_queues_and_its_time() {
    let (server, producer) = server_and_broker().await;
    let worker: Broker = server.builder().connect().await.unwrap();
    let elsewhere: Broker = server.builder().namespace("elsewhere").connect().await.unwrap();
    let queue = worker.register_queue("q", ".").await.unwrap();
    let body = message("a", "t", 1);
    let receipt = producer.deliver(Message::new(&body).delay(HOUR)).await.unwrap();
    assert_eq!(*receipt.queues, ["q"]);
    assert!(elsewhere.queues().await.unwrap().is_empty());
    assert_eq!(numbers(&queue).await, Vec::<u64>::new());
    server.clock().advance(HOUR);
    assert_eq!(numbers(&queue).await, [1]);
}

#[tokio::test]
async fn a_builder_of_the_users_own_is_pointed_at_the_server_and_keeps_its_closures() {
    let server = TestServer::start().await.unwrap();
    let own = BrokerBuilder::<u64>::coded(
        |n| Ok::<_, Infallible>(n.to_le_bytes().to_vec()),
        |body| body.try_into().map(u64::from_le_bytes),
    );
    let own = own.redis("redis://127.0.0.1:1").facet(|n| n % 2).topic(|_| "number");
    let broker = server.set_up(own).connect().await.unwrap();
    let queue = broker.register_queue("q", "^number").await.unwrap();
    broker.deliver(Message::new(&7).delay(HOUR)).await.unwrap();
    server.clock().advance(HOUR);
    let delivery = queue.lease().await.unwrap().unwrap();
    assert_eq!((delivery.facet(), *delivery.message().unwrap()), ("1", 7));
    delivery.ack().await.unwrap();
}

#[tokio::test]
async fn time_goes_on_with_that_of_the_machine_ahead_by_what_it_was_advanced() {
    let (server, broker) = server_and_broker().await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    let ahead = || server.clock().now().duration_since(SystemTime::now()).unwrap_or_default();
    assert!(ahead() <= MS);
    let clone = server.clock().clone();
    clone.advance(HOUR);
    clone.advance(HOUR);
    assert!((2 * HOUR - SECOND..=2 * HOUR).contains(&ahead()), "{:?}", ahead());
    // What is due soon is so without being moved to.
    let body = message("a", "t", 1);
    broker.deliver(Message::new(&body).delay(50 * MS)).await.unwrap();
    let delivery = queue.lease().wait(5 * SECOND).await.unwrap().unwrap();
    let late = server.clock().now().duration_since(delivery.delivered_at()).unwrap();
    assert!((50 * MS..SECOND).contains(&late), "{late:?}");
    delivery.ack().await.unwrap();
}

#[tokio::test]
#[should_panic(expected = "100 years")]
async fn time_cannot_be_moved_further_than_its_numbers_carry() {
    let server = TestServer::start().await.unwrap();
    server.clock().advance(Duration::MAX);
}

#[tokio::test]
async fn an_advance_wakes_those_who_wait_for_what_it_makes_due() {
    let (server, broker) = server_and_broker().await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    for n in 0..20 {
        // Now and then before it has begun to wait, or while it does.
        let body = message("a", "t", n);
        broker.deliver(Message::new(&body).delay(HOUR)).await.unwrap();
        let waiting = tokio::spawn({
            let queue = queue.clone();
            async move { queue.lease().wait(20 * SECOND).await }
        });
        sleep(MS * (n as u32 * 3)).await;
        let begun = Instant::now();
        server.clock().advance(HOUR);
        let delivery = waiting.await.unwrap().unwrap().unwrap();
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn an_advance_wakes_as_many_as_there_is_something_for_and_leaves_the_others_in_line() {
    let (server, broker) = server_and_broker().await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    let bodies: Vec<_> = (0..3).map(|n| message("a", "t", n)).collect();
    let delayed = bodies.iter().map(|body| Message::new(body).delay(HOUR));
    broker.deliver_all(delayed).await.unwrap();
    let other: Broker = server.builder().connect().await.unwrap();
    let waiting: Vec<_> = (0..8)
        .map(|n| {
            let queue = if n % 2 == 0 { queue.clone() } else { other.queue("q") };
            tokio::spawn(async move { queue.pull().wait(20 * SECOND).await.unwrap() })
        })
        .collect();
    sleep(100 * MS).await;
    server.clock().advance(HOUR);
    let done = || async { waiting.iter().filter(|task| task.is_finished()).count() };
    until("three have theirs", || async { done().await == 3 }).await;
    sleep(50 * MS).await;
    assert_eq!(done().await, 3);
    deliver(&broker, "b", 5).await;
    until("all have theirs", || async { done().await == 8 }).await;
}

#[tokio::test]
async fn a_lease_that_was_advanced_over_has_ended_and_its_message_is_served_again() {
    let (server, broker) = server_and_broker().await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    let first = queue.lease().await.unwrap().unwrap();
    let again = tokio::spawn({
        let queue = queue.clone();
        async move { queue.lease().wait(20 * SECOND).await }
    });
    sleep(20 * MS).await;
    let expires_at = first.expires_at();
    server.clock().advance(30 * SECOND);
    let second = again.await.unwrap().unwrap().unwrap();
    assert_eq!((second.attempt().get(), second.crashes()), (2, 1));
    assert_eq!(first.expires_at(), expires_at); // It is on the clock of this process.
    assert!(matches!(first.ack().await, Err(Error::LeaseLost(_))));
    second.ack().await.unwrap();
}

#[tokio::test]
async fn a_worker_counts_as_lost_what_somebody_else_got_when_its_lease_was_advanced_over() {
    let (server, broker) = server_and_broker().await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    let (clock, other) = (server.clock().clone(), queue.clone());
    let worker = queue.worker(move |_| {
        let (clock, other) = (clock.clone(), other.clone());
        async move {
            clock.advance(30 * SECOND);
            other.lease().await?.ok_or("nothing")?.ack().await?;
            Ok::<_, Any>(())
        }
    });
    let report = worker.concurrency(1).run_until_empty().await.unwrap();
    assert_eq!((report.leased, report.lost, report.acked), (1, 1, 0));
}

#[tokio::test]
async fn a_message_that_failed_comes_back_when_its_backoff_was_advanced_over() {
    let (server, broker) = server_and_broker().await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    queue.configure(|queue| queue.max_attempts = 3).await.unwrap();
    broker.deliver(&json!({"facet": "a", "topic": "t", "works": false})).await.unwrap();
    broker.deliver(&json!({"facet": "a", "topic": "t", "works": true})).await.unwrap();
    let work = || {
        let worker = queue.worker(|delivery| async move {
            match delivery.message()?["works"] {
                Value::Bool(true) => Ok::<_, Any>(Outcome::Ack),
                _ => Err("it does not".into()),
            }
        });
        worker.run_until_empty()
    };
    let mut reports = vec![work().await.unwrap()];
    for backoff in [1, 2] {
        assert_eq!(work().await.unwrap().leased, 0);
        server.clock().advance(backoff * SECOND);
        reports.push(work().await.unwrap());
    }
    let seen: Vec<_> = reports.iter().map(|report| (report.acked, report.failed)).collect();
    assert_eq!(seen, [(1, 1), (0, 1), (0, 1)]);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.delayed, stats.dead), (0, 1));
}

#[tokio::test]
async fn a_worker_that_runs_serves_at_once_what_an_advance_makes_due() {
    let (server, broker) = server_and_broker().await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    let body = message("a", "t", 1);
    broker.deliver(Message::new(&body).delay(HOUR)).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let done = stop.clone();
    let worker = queue.worker(move |_| {
        done.cancel();
        async { Ok::<_, Any>(()) }
    });
    let running = tokio::spawn(worker.stop_on(stop).signals(false).run());
    sleep(100 * MS).await;
    let begun = Instant::now();
    server.clock().advance(HOUR);
    assert_eq!(running.await.unwrap().unwrap().acked, 1);
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
}
