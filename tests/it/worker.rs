//! Workers: what a handler returns decides, and what it holds is not lost with it.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fairlane::{
    AnyError, CancellationToken, Cursor, Death, Delivery, Error, Invalid, Message, Outcome, Queue,
    QueueSettings, Report,
};
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::time::sleep;
use tracing::Instrument;

use crate::support::{
    Log, Proxy, Server, Space, another_process, deliver, message, other_process, run, until,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A report of this many messages, in this way.
fn report(leased: u64, set: impl FnOnce(&mut Report)) -> Report {
    let mut report = Report::default();
    report.leased = leased;
    set(&mut report);
    report
}

/// A queue of a space whose settings are forgotten and whose dead letters are dropped.
async fn end(space: Space, queue: &Queue) {
    queue.dead_letters().purge().await.unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn what_a_handler_returns_decides_what_becomes_of_its_message() {
    let (space, queue) = Space::with_queue().await;
    for (facet, what) in
        ["ack", "cost", "retry", "later", "fail", "dead", "hold", "panic"].into_iter().enumerate()
    {
        let facet = format!("{facet}-{what}");
        space.broker.deliver(&json!({"facet": facet, "topic": "t", "what": what})).await.unwrap();
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let worker = queue.worker(move |delivery| {
        let what = delivery.message().unwrap()["what"].as_str().unwrap().to_owned();
        record.lock().unwrap().push((what.clone(), delivery.attempt().get()));
        async move {
            let cause = std::io::Error::other("no route");
            Ok(match what.as_str() {
                "cost" => Outcome::AckCost(7.0),
                "retry" if delivery.attempt().get() == 1 => Outcome::Retry(Duration::ZERO),
                "later" => Outcome::Retry(SECOND),
                "fail" => return Err(cause),
                "dead" => Outcome::Dead("it makes no sense".into()),
                "hold" => Outcome::Hold(SECOND),
                "panic" => panic!("at the {}", "disco"),
                _ => Outcome::Ack,
            })
        }
    });
    let done = worker.run_until_empty().await.unwrap();
    let expected = report(9, |report| {
        (report.acked, report.retried, report.failed) = (3, 2, 2);
        (report.buried, report.held, report.panicked) = (1, 1, 1);
    });
    assert_eq!(done, expected);
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    let names: Vec<_> = seen.iter().map(|(what, attempt)| (what.as_str(), *attempt)).collect();
    assert_eq!(
        names,
        [
            ("ack", 1),
            ("cost", 1),
            ("dead", 1),
            ("fail", 1),
            ("hold", 1),
            ("later", 1),
            ("panic", 1),
            ("retry", 1),
            ("retry", 2),
        ]
    );
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.delayed, stats.dead, stats.holds), (1, 3, 1, 1));
    let (letters, _) = queue.dead_letters().page(Cursor::default()).await.unwrap();
    assert_eq!(letters[0].death, Death::Buried);
    assert_eq!(letters[0].reason.as_deref(), Some("it makes no sense"));
    // Later they are there again, and know why they failed.
    space.clock.advance(2 * SECOND);
    let mut reasons = BTreeMap::new();
    for delivery in queue.lease_many(10).await.unwrap() {
        let facet = delivery.facet().to_owned();
        reasons.insert(facet, delivery.last_failure().map(str::to_owned));
        delivery.ack().await.unwrap();
    }
    assert_eq!(reasons["4-fail"].as_deref(), Some("no route"));
    assert_eq!(reasons["7-panic"].as_deref(), Some("panicked: at the disco"));
    assert_eq!(reasons.len(), 4);
    end(space, &queue).await;
}

/// A handler that does nothing.
async fn done(_delivery: Arc<Delivery>) -> Result<(), AnyError> {
    Ok(())
}

/// A worker that counts how many of its handlers run at a time, each for so long.
#[derive(Clone, Default)]
struct Busy {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Busy {
    async fn for_(self, time: Duration) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        sleep(time).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    /// A handler that is busy for this time, and done then.
    fn handler(
        &self,
        time: Duration,
    ) -> impl Fn(Arc<Delivery>) -> BoxFuture<'static, Result<(), AnyError>> + Send + Sync + 'static
    {
        let busy = self.clone();
        move |_delivery| {
            let busy = busy.clone();
            Box::pin(async move {
                busy.for_(time).await;
                Ok(())
            })
        }
    }

    fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_body_that_does_not_decode_fails_with_the_reason_and_the_worker_goes_on() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    let odd = space.bytes().await;
    odd.deliver(&b"{".to_vec()).await.unwrap();
    deliver(&space.broker, "b", 3).await;
    let done = queue
        .worker(|delivery| async move {
            delivery.message()?;
            Ok::<_, AnyError>(())
        })
        .run_until_empty()
        .await
        .unwrap();
    assert_eq!(done, report(4, |report| (report.acked, report.failed) = (3, 1)));
    let (letters, _) = queue.dead_letters().page(Cursor::default()).await.unwrap();
    let reason = letters[0].reason.as_deref().unwrap();
    assert!(reason.contains("is not what this broker decodes: EOF"), "{reason}");
    end(space, &queue).await;
}

#[tokio::test]
async fn it_leases_what_it_can_start_at_once_and_never_more() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 101).await;
    queue.lease().await.unwrap().unwrap().ack().await.unwrap(); // Redis has the scripts after that.
    let (busy, leased) = (Busy::default(), queue.clone());
    let worker = queue.worker(busy.handler(5 * MS)).concurrency(7);
    let working = tokio::spawn(worker.run_until_empty());
    while !working.is_finished() {
        assert!(leased.stats().await.unwrap().leased <= 2 * 7, "more than it can start");
        sleep(MS).await;
    }
    assert_eq!(working.await.unwrap().unwrap(), report(100, |report| report.acked = 100));
    assert_eq!(busy.most(), 7);
    space.end().await;
}

#[tokio::test]
async fn leases_are_extended_while_their_handlers_run() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 6).await;
    let worker = queue
        .worker(|delivery| async move {
            // Half of them for three lengths of the lease, so that those of one lease part.
            let n = delivery.message()?["n"].as_u64().unwrap();
            sleep(if n % 2 == 0 { 900 * MS } else { 10 * MS }).await;
            assert!(delivery.expires_at() > Instant::now());
            assert!(!delivery.lost().is_cancelled());
            Ok::<_, AnyError>(())
        })
        .lasting(300 * MS);
    let working = tokio::spawn(worker.run_until_empty());
    until("all are leased", async || queue.stats().await.unwrap().served == 6).await;
    while !working.is_finished() {
        assert_eq!(queue.lease_many(10).await.unwrap().len(), 0);
        sleep(20 * MS).await;
    }
    assert_eq!(working.await.unwrap().unwrap(), report(6, |report| report.acked = 6));
    assert_eq!(queue.stats().await.unwrap().came_back, 0);
    let extended = server.calls("evalsha").await;
    assert!(extended < 200, "{extended} calls of scripts");
}

#[tokio::test]
async fn a_handler_is_told_that_its_lease_is_lost_and_what_it_returns_is_counted_as_lost() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let told = Arc::new(AtomicBool::new(false));
    let (record, clock, other) = (told.clone(), space.clock.clone(), queue.clone());
    let worker = queue
        .worker(move |delivery| {
            let (told, clock, other) = (record.clone(), clock.clone(), other.clone());
            async move {
                if delivery.attempt().get() > 1 {
                    return Ok::<_, AnyError>(());
                }
                // As if this machine had slept.
                clock.advance(SECOND);
                assert_eq!(other.lease_many(1).await?.len(), 1);
                delivery.lost().cancelled().await;
                told.store(true, Ordering::SeqCst);
                Ok(())
            }
        })
        .lasting(300 * MS);
    let done = worker.run_until_empty().await.unwrap();
    assert!(told.load(Ordering::SeqCst));
    assert_eq!(done, report(1, |report| report.lost = 1));
    assert_eq!(queue.stats().await.unwrap().leased, 1, "the other one has it");
    space.clock.advance(31 * SECOND);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 1);
    space.end().await;
}

#[tokio::test]
async fn each_queue_has_its_own_concurrency_and_others_go_on() {
    let space = Space::new().await;
    for name in ["slow", "quick"] {
        space.broker.register_queue(name, &format!("^{name}$")).await.unwrap();
    }
    let messages: Vec<_> =
        (0..200).map(|n| message("a", if n < 20 { "slow" } else { "quick" }, n)).collect();
    space.broker.deliver_all(&messages).await.unwrap();
    let (slow, order) = (Busy::default(), Arc::new(Mutex::new(Vec::new())));
    let (busy, record) = (slow.clone(), order.clone());
    let worker = space
        .broker
        .in_order(["slow", "quick"])
        .worker(move |delivery| {
            let (busy, record) = (busy.clone(), record.clone());
            async move {
                record.lock().unwrap().push(delivery.queue().to_owned());
                match delivery.queue() {
                    "slow" => busy.for_(20 * MS).await,
                    _ => sleep(MS).await,
                }
                Ok::<_, AnyError>(())
            }
        })
        .concurrency(8)
        .concurrency_of("slow", 2);
    let done = worker.run_until_empty().await.unwrap();
    assert_eq!(done, report(200, |report| report.acked = 200));
    assert_eq!(slow.most(), 2);
    let order = order.lock().unwrap().clone();
    let last = |name| order.iter().rposition(|queue| queue == name).unwrap();
    assert!(last("quick") < last("slow"), "the quick ones did not wait for the slow ones");
    for name in ["slow", "quick"] {
        space.broker.queue(name).destroy().await.unwrap();
    }
    space.end().await;
}

#[tokio::test]
async fn a_queue_that_has_room_again_is_served_while_the_worker_waits_on_the_others() {
    let space = Space::new().await;
    for name in ["slow", "quick"] {
        space.broker.register_queue(name, &format!("^{name}$")).await.unwrap();
    }
    let messages: Vec<_> = (0..6).map(|n| message("a", "slow", n)).collect();
    space.broker.deliver_all(&messages).await.unwrap();
    let stop = CancellationToken::new();
    let (done, last) = (Arc::new(AtomicU64::new(0)), stop.clone());
    let begun = Instant::now();
    let worker = space
        .broker
        .in_order(["quick", "slow"])
        .worker(move |_delivery| {
            let (done, last) = (done.clone(), last.clone());
            async move {
                sleep(30 * MS).await;
                if done.fetch_add(1, Ordering::SeqCst) == 5 {
                    last.cancel();
                }
                Ok::<_, AnyError>(())
            }
        })
        .concurrency_of("slow", 1)
        .stop_on(stop);
    assert_eq!(worker.run().await.unwrap(), report(6, |report| report.acked = 6));
    assert!(begun.elapsed() < 2 * SECOND, "it waited for a window: {:?}", begun.elapsed());
    for name in ["slow", "quick"] {
        space.broker.queue(name).destroy().await.unwrap();
    }
    space.end().await;
}

#[tokio::test]
async fn queues_are_served_by_their_weights() {
    let space = Space::new().await;
    for name in ["heavy", "light"] {
        space.broker.register_queue(name, ".").await.unwrap();
    }
    deliver(&space.broker, "a", 1000).await;
    let stop = CancellationToken::new();
    let counts = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let (record, last) = (counts.clone(), stop.clone());
    let worker = space
        .broker
        .by_weight([("heavy", 3.0), ("light", 1.0)])
        .worker(move |delivery| {
            let mut counts = record.lock().unwrap();
            *counts.entry(delivery.queue().to_owned()).or_default() += 1;
            if counts.values().sum::<u64>() == 1000 {
                last.cancel();
            }
            async { Ok::<_, AnyError>(()) }
        })
        .concurrency(4)
        .stop_on(stop);
    worker.run().await.unwrap();
    let counts = counts.lock().unwrap().clone();
    // Batches of four: 250 draws.
    assert!((620..=880).contains(&counts["heavy"]), "{counts:?}");
    for name in ["heavy", "light"] {
        space.broker.queue(name).destroy().await.unwrap();
    }
    space.end().await;
}

#[tokio::test]
async fn one_that_stops_waits_for_its_handlers_and_takes_nothing_new() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 10).await;
    let stop = CancellationToken::new();
    let busy = Busy::default();
    let worker = queue.worker(busy.handler(300 * MS)).concurrency(4).stop_on(stop.clone());
    let working = tokio::spawn(worker.run());
    until("four handlers run", async || busy.now() == 4).await;
    stop.cancel();
    assert_eq!(working.await.unwrap().unwrap(), report(4, |report| report.acked = 4));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.leased, stats.came_back), (6, 0, 0));
    queue.facet("a").purge().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn one_that_has_nothing_to_do_costs_two_commands_a_window_for_each_of_its_queues() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    for name in ["q", "r"] {
        broker.register_queue(name, name).await.unwrap();
    }
    let worker = broker.in_order(["q", "r"]).worker(done);
    let working = tokio::spawn(worker.run());
    until("it waits on both", async || server.blocked().await == 2).await;
    sleep(100 * MS).await;
    let calls = async || server.calls("evalsha").await + server.calls("bzpopmin").await;
    let before = calls().await;
    sleep(11 * SECOND).await;
    // The metrics ask for the stats of each queue, too, and the first time Redis does not know the script.
    let (most, asked) = (2 * 2 * 2 + (2 * 2 + 1), calls().await - before);
    assert!((8..=most).contains(&asked), "{asked} commands in two windows");
    working.abort();
}

#[tokio::test]
async fn what_is_not_done_within_the_grace_goes_back_to_the_front_and_is_no_attempt() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 10).await;
    let stop = CancellationToken::new();
    let busy = Busy::default();
    let handler = busy.clone();
    let worker = queue
        .worker(move |delivery| {
            let busy = handler.clone();
            async move {
                let n = delivery.message()?["n"].as_u64().unwrap();
                busy.for_(if n == 2 { 50 * MS } else { 60 * SECOND }).await;
                Ok::<_, AnyError>(())
            }
        })
        .concurrency(4)
        .grace(200 * MS)
        .stop_on(stop.clone());
    let working = tokio::spawn(worker.run());
    until("four handlers run", async || busy.now() == 4).await;
    stop.cancel();
    let begun = Instant::now();
    let done = working.await.unwrap().unwrap();
    assert_eq!(done, report(4, |report| (report.acked, report.given_back) = (1, 3)));
    assert!((150 * MS..SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    let left = queue.lease_many(10).await.unwrap();
    let numbers = left.iter().map(|delivery| delivery.message().unwrap()["n"].as_u64().unwrap());
    assert_eq!(numbers.collect::<Vec<_>>(), [0, 1, 3, 4, 5, 6, 7, 8, 9], "in their order");
    assert!(left.iter().all(|delivery| delivery.attempt().get() == 1));
    space.broker.ack_all(left).await.unwrap();
    space.end().await;
}

/// Works in a process of its own until it is told to stop, and leaves there what it reports.
async fn work_in(dir: std::path::PathBuf) {
    let url = std::fs::read_to_string(dir.join("url")).unwrap();
    let broker: fairlane::Broker = fairlane::Broker::builder().redis(url).connect().await.unwrap();
    let started = dir.join("started");
    let done = broker
        .queue("q")
        .worker(move |delivery| {
            let started = started.clone();
            async move {
                let n = delivery.message()?["n"].as_u64().unwrap();
                std::fs::write(started, "").unwrap();
                sleep(if n == 0 { SECOND } else { 60 * SECOND }).await;
                Ok::<_, AnyError>(())
            }
        })
        .run()
        .await
        .unwrap();
    std::fs::write(dir.join("report"), format!("{} {}", done.acked, done.given_back)).unwrap();
}

#[tokio::test]
async fn a_signal_stops_it_gently_and_a_second_one_at_once() {
    if let Some(dir) = other_process() {
        return work_in(dir).await;
    }
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    for signal in ["-TERM", "-INT"] {
        deliver(&broker, "a", 2).await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("url"), server.url()).unwrap();
        let test = "worker::a_signal_stops_it_gently_and_a_second_one_at_once";
        let mut process =
            another_process(test, dir.path()).stderr(Stdio::inherit()).spawn().unwrap();
        let tell = || {
            let id = process.id().to_string();
            std::process::Command::new("kill").args([signal, &id]).status().unwrap()
        };
        until("a handler runs", async || dir.path().join("started").exists()).await;
        assert!(tell().success());
        // The first message is done meanwhile.
        until("one is acked", async || queue.stats().await.unwrap().leased == 1).await;
        assert!(!dir.path().join("report").exists(), "it waits for the other one");
        assert!(tell().success());
        let begun = Instant::now();
        assert!(process.wait().unwrap().success());
        assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
        let reported = std::fs::read_to_string(dir.path().join("report")).unwrap();
        assert_eq!(reported, "1 1");
        let delivery = queue.lease().await.unwrap().unwrap();
        assert_eq!(delivery.attempt().get(), 1);
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn signals_end_the_process_as_before_when_a_worker_has_run_until_empty() {
    if let Some(dir) = other_process() {
        let url = std::fs::read_to_string(dir.join("url")).unwrap();
        let broker: fairlane::Broker =
            fairlane::Broker::builder().redis(url).connect().await.unwrap();
        let worker = broker.queue("q").worker(done);
        assert_eq!(worker.run_until_empty().await.unwrap().acked, 1);
        std::fs::write(dir.join("started"), "").unwrap();
        return sleep(60 * SECOND).await;
    }
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("url"), server.url()).unwrap();
    let test = "worker::signals_end_the_process_as_before_when_a_worker_has_run_until_empty";
    let mut process = another_process(test, dir.path()).spawn().unwrap();
    until("it is done", async || dir.path().join("started").exists()).await;
    let id = process.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let signal = std::os::unix::process::ExitStatusExt::signal(&process.wait().unwrap());
    assert_eq!(signal, Some(15));
}

#[tokio::test]
async fn while_redis_is_away_handlers_go_on_and_what_they_return_is_settled_later() {
    let server = Server::start(&["--appendonly", "yes"]).await;
    let broker = server.builder().deadline(200 * MS).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 8).await;
    let stop = CancellationToken::new();
    let busy = Busy::default();
    let handler = busy.clone();
    let worker = queue
        .worker(move |delivery| {
            let busy = handler.clone();
            async move {
                let n = delivery.message()?["n"].as_u64().unwrap();
                busy.for_(if n < 4 { 300 * MS } else { MS }).await;
                Ok::<_, AnyError>(())
            }
        })
        .concurrency(4)
        .stop_on(stop.clone());
    let working = tokio::spawn(worker.run());
    until("four handlers run", async || busy.now() == 4).await;
    let mut server = server;
    server.kill();
    sleep(SECOND).await;
    assert_eq!(busy.now(), 0, "they have ended by themselves");
    server.launch();
    server.ready().await;
    let again = server.builder().connect().await.unwrap();
    let queue = again.queue("q");
    until("all are done", async || queue.stats().await.unwrap().acked == 8).await;
    stop.cancel();
    let done = working.await.unwrap().unwrap();
    assert_eq!((done.leased, done.acked + done.unsettled, done.lost), (8, 8, 0), "{done:?}");
    assert_eq!(queue.stats().await.unwrap().came_back, 0);
}

#[tokio::test]
async fn leases_that_end_while_redis_is_away_are_known_as_lost_when_their_handlers_end() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().deadline(100 * MS).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 4).await;
    let stop = CancellationToken::new();
    let (busy, lost) = (Busy::default(), Arc::new(AtomicU64::new(0)));
    let (handler, told) = (busy.clone(), lost.clone());
    let worker = queue
        .worker(move |delivery| {
            let (busy, told) = (handler.clone(), told.clone());
            async move {
                if delivery.attempt().get() == 1 {
                    busy.for_(SECOND).await;
                    told.fetch_add(u64::from(delivery.lost().is_cancelled()), Ordering::SeqCst);
                }
                Ok::<_, AnyError>(())
            }
        })
        .lasting(400 * MS)
        .stop_on(stop.clone());
    let working = tokio::spawn(worker.run());
    until("four handlers run", async || busy.now() == 4).await;
    proxy.refuse(true);
    sleep(700 * MS).await;
    proxy.refuse(false);
    let direct = server.builder().connect().await.unwrap().queue("q");
    until("all are done", async || direct.stats().await.unwrap().acked == 4).await;
    until("the first handlers have ended", async || busy.now() == 0).await;
    sleep(50 * MS).await;
    stop.cancel();
    let done = working.await.unwrap().unwrap();
    assert_eq!(done, report(8, |report| (report.acked, report.lost) = (4, 4)));
    assert_eq!(lost.load(Ordering::SeqCst), 4, "they were told before they ended");
}

#[tokio::test]
async fn an_ack_and_the_next_lease_take_one_round_trip() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 110).await;
    let first = queue.lease_many(10).await.unwrap(); // Redis has the scripts after that.
    broker.ack_all(first).await.unwrap();
    // Ten of a facet at a time: the lease gets nothing unless the ack is before it.
    queue.configure(|queue| queue.facets.max_leased = Some(10)).await.unwrap();
    let trip = 50 * MS;
    proxy.delay(trip);
    let worker = queue.worker(done).concurrency(10);
    let begun = Instant::now();
    let done = worker.run_until_empty().await.unwrap();
    assert_eq!(done, report(100, |report| report.acked = 100));
    // Ten leases, a last ack, and one that finds nothing.
    let trips = begun.elapsed().as_secs_f64() / trip.as_secs_f64();
    assert!(trips < 15.0, "{trips} round trips for ten batches");
}

#[tokio::test]
async fn handlers_that_end_one_after_the_other_do_not_wait_for_each_other() {
    const MESSAGES: u64 = 3000;
    async fn handle(n: u64) {
        sleep((2 + n * 7919 % 9) as u32 * MS).await;
    }
    let (space, queue) = Space::with_queue().await;
    let mut ratios = Vec::new();
    // The machine may be busy with other things: one of five shows it.
    while ratios.len() < 5 && !ratios.iter().any(|ratio| *ratio < 1.3) {
        let (next, begun) = (AtomicU64::new(0), Instant::now());
        let task = async || {
            while let n @ 0..MESSAGES = next.fetch_add(1, Ordering::SeqCst) {
                handle(n).await;
            }
        };
        futures_util::future::join_all((0..32).map(|_| task())).await;
        let alone = begun.elapsed();
        deliver(&space.broker, "a", MESSAGES).await;
        let begun = Instant::now();
        let worker = queue
            .worker(|delivery| async move {
                handle(delivery.message()?["n"].as_u64().unwrap()).await;
                Ok::<_, AnyError>(())
            })
            .concurrency(32);
        assert_eq!(worker.run_until_empty().await.unwrap().acked, MESSAGES);
        ratios.push(begun.elapsed().as_secs_f64() / alone.as_secs_f64());
    }
    assert!(
        ratios.iter().any(|ratio| *ratio < 1.3),
        "times as long as without a queue: {ratios:?}"
    );
    space.end().await;
}

#[tokio::test]
async fn settings_out_of_their_range_are_refused_before_anything_is_leased() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let worker = || queue.worker(done);
    for (worker, said) in [
        (worker().concurrency(0), "the concurrency is out of range"),
        (worker().concurrency(1001), "the concurrency is out of range"),
        (worker().concurrency_of("q", 0), "the concurrency is out of range"),
        (worker().concurrency_of("other", 1), "the worker has no queue `other`"),
        (worker().concurrency_of("not a name", 1), "`not a name` is no name"),
        (worker().lasting(Duration::ZERO), "the length of the lease is out of range"),
        (
            worker().lasting(99 * MS),
            "the length of a worker's lease is out of range: 100 ms to 12 h",
        ),
    ] {
        let error = worker.run().await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)) && error.to_string().contains(said), "{error}");
    }
    let none = space.broker.in_order([""; 0]).worker(done);
    assert!(matches!(none.run().await, Err(Error::Invalid(Invalid::Empty { .. }))));
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 1);
    space.end().await;
}

#[tokio::test]
async fn an_outcome_that_cannot_be_is_a_failure_that_says_so() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    deliver(&space.broker, "a", 3).await;
    let worker = queue.worker(|delivery| async move {
        Ok::<_, AnyError>(match delivery.message()?["n"].as_u64() {
            Some(0) => Outcome::Hold(Duration::ZERO),
            Some(1) => Outcome::AckCost(0.0),
            _ => Outcome::Retry(Duration::MAX),
        })
    });
    let done = worker.run_until_empty().await.unwrap();
    assert_eq!(done, report(3, |report| report.failed = 3));
    let (letters, _) = queue.dead_letters().page(Cursor::default()).await.unwrap();
    for letter in letters {
        let reason = letter.reason.unwrap();
        assert!(reason.starts_with("the handler returned ") && reason.contains("out of range"));
    }
    end(space, &queue).await;
}

#[tokio::test]
async fn a_queue_that_is_not_there_or_goes_ends_it_with_an_error_after_its_handlers() {
    let (space, queue) = Space::with_queue().await;
    let worker = |queue: &Queue| queue.worker(done);
    let error = worker(&space.broker.queue("other")).run().await.unwrap_err();
    assert!(matches!(&error, Error::NoSuchQueue(name) if **name == *"other"), "{error}");
    deliver(&space.broker, "a", 1).await;
    let ended = Arc::new(AtomicBool::new(false));
    let (record, gone) = (ended.clone(), queue.clone());
    let worker = queue.worker(move |_delivery| {
        let (record, gone) = (record.clone(), gone.clone());
        async move {
            gone.destroy().await?;
            sleep(100 * MS).await;
            record.store(true, Ordering::SeqCst);
            Ok::<_, AnyError>(())
        }
    });
    let error = tokio::time::timeout(10 * SECOND, worker.run()).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the worker stopped after 1 messages");
    let Error::WorkerStopped { report: done, source } = error else { panic!("{error}") };
    assert_eq!(done, report(1, |report| report.lost = 1), "what it did is told, too");
    assert!(matches!(*source, Error::NoSuchQueue(_)), "{source}");
    assert!(ended.load(Ordering::SeqCst));
    space.end().await;
}

#[tokio::test]
async fn hooks_see_each_message_before_and_after_and_one_that_panics_takes_nobody_along() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 3).await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let (before, after) = (log.clone(), log.clone());
    let n = |delivery: &fairlane::Delivery| delivery.message().unwrap()["n"].as_u64().unwrap();
    let worker = queue
        .worker(|delivery| async move {
            match delivery.message()?["n"].as_u64() {
                Some(1) => Err(AnyError::from("no")),
                _ => Ok(()),
            }
        })
        .before(move |delivery| {
            before.lock().unwrap().push(format!("before {}", n(delivery)));
            assert_ne!(n(delivery), 2, "what a hook may find");
        })
        .after(move |delivery, handled| {
            assert!(handled.settled.is_ok() && handled.took < SECOND);
            after.lock().unwrap().push(format!("after {}: {:?}", n(delivery), handled.outcome));
        })
        .after(|delivery, _| assert_ne!(delivery.message().unwrap()["n"], 0, "one that panics"))
        .concurrency(1);
    let done = worker.run_until_empty().await.unwrap();
    let expected = report(3, |report| (report.acked, report.failed, report.panicked) = (1, 2, 1));
    assert_eq!(done, expected);
    let log = log.lock().unwrap().clone();
    assert_eq!(
        log[..5],
        ["before 0", "after 0: Ack", "before 1", r#"after 1: Fail("no")"#, "before 2"]
    );
    assert!(log[5].starts_with(r#"after 2: Fail("panicked: assertion"#), "{}", log[5]);
    assert!(log[5].contains("what a hook may find"), "{}", log[5]);
    space.clock.advance(5 * SECOND);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 2);
    end(space, &queue).await;
}

#[tokio::test]
async fn one_whose_future_is_dropped_leaves_its_messages_to_the_end_of_their_leases() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let busy = Busy::default();
    let worker = queue.worker(busy.handler(60 * SECOND));
    let working = tokio::spawn(worker.run());
    until("both handlers run", async || busy.now() == 2).await;
    working.abort();
    assert!(working.await.unwrap_err().is_cancelled());
    assert!(queue.lease().await.unwrap().is_none());
    space.clock.advance(31 * SECOND);
    let back = queue.lease_many(9).await.unwrap();
    assert_eq!(back.len(), 2);
    space.broker.ack_all(back).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn whatever_handlers_do_and_however_often_workers_stop_each_message_is_done_once() {
    const MESSAGES: u64 = 2000;
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    queue
        .configure(|queue| {
            queue.backoff = fairlane::Backoff { first: MS, longest: 10 * MS };
            queue.max_attempts = 1_000_000;
            queue.facets.max_leased = Some(5);
        })
        .await
        .unwrap();
    let facets = ["a", "b", "c", "d", "e"];
    let messages: Vec<_> = (0..MESSAGES).map(|n| message(facets[n as usize % 5], "t", n)).collect();
    broker.deliver_all(&messages).await.unwrap();
    let done = Arc::new(Mutex::new(BTreeMap::<u64, u64>::new()));
    let work = async |seed: u64| {
        let broker = server.builder().connect().await.unwrap();
        let queue = broker.queue("q");
        let mut all = Report::default();
        for round in 0.. {
            if queue.stats().await.unwrap().acked == MESSAGES {
                return all;
            }
            let (record, stop) = (done.clone(), CancellationToken::new());
            let worker = queue
                .worker(move |delivery| {
                    let record = record.clone();
                    async move {
                        let n = delivery.message()?["n"].as_u64().unwrap();
                        let lot = (n * 31 + u64::from(delivery.attempt().get()) * 17 + seed) % 23;
                        tokio::task::yield_now().await;
                        Ok(match lot {
                            0 => return Err(AnyError::from("by lot")),
                            1 => panic!("by lot"),
                            2 => Outcome::Retry(Duration::ZERO),
                            3 => Outcome::Retry(2 * MS),
                            4 => Outcome::Hold(2 * MS),
                            _ => {
                                *record.lock().unwrap().entry(n).or_default() += 1;
                                Outcome::Ack
                            }
                        })
                    }
                })
                .concurrency(1 + (seed as usize * 7 + round) % 16)
                .grace(SECOND)
                .stop_on(stop.clone());
            let stopped = async {
                sleep((5 + (seed + round as u64) % 40) as u32 * MS).await;
                stop.cancel();
                std::future::pending::<()>().await
            };
            let report = tokio::select! {
                report = worker.run() => report.unwrap(),
                () = stopped => unreachable!(),
            };
            let settled = report.acked + report.retried + report.failed + report.held;
            assert_eq!(report.leased, settled + report.given_back, "{report:?}");
            all.acked += report.acked;
        }
        unreachable!()
    };
    let reports = tokio::time::timeout(
        60 * SECOND,
        futures_util::future::join_all([work(1), work(2), work(3)]),
    );
    let reports = reports.await.unwrap();
    assert_eq!(reports.iter().map(|report| report.acked).sum::<u64>(), MESSAGES);
    let done = done.lock().unwrap().clone();
    assert_eq!(done.len() as u64, MESSAGES);
    assert!(done.values().all(|times| *times == 1), "no lease ended, so none is done twice");
    assert_eq!(queue.doctor().await.unwrap(), []);
}

#[tokio::test]
async fn each_message_has_a_span_which_is_part_of_the_trace_that_its_header_names() {
    if other_process().is_none() {
        // In a process of its own: a subscriber is for all that a process does.
        let test =
            "worker::each_message_has_a_span_which_is_part_of_the_trace_that_its_header_names";
        assert!(another_process(test, &std::env::temp_dir()).status().unwrap().success());
        return;
    }
    let (space, queue) = Space::with_queue().await;
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let (one, two, three) = (message("a", "t", 1), message("b", "u", 2), message("c", "v", 3));
    let traced = Message::new(&one).header("traceparent", format!("00-{trace}-{parent}-01"));
    let first = space.broker.deliver(traced).await.unwrap().id;
    space.broker.deliver(Message::new(&two).header("traceparent", "nonsense")).await.unwrap();
    space.broker.deliver(&three).await.unwrap();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_writer(move || writer.clone())
        .finish();
    let _until_the_end = tracing::subscriber::set_default(subscriber);
    let worker = queue.worker(|_delivery| async {
        tokio::task::yield_now().await;
        tracing::info!("in hand");
        Err::<(), _>("no")
    });
    let around = tracing::info_span!("around");
    worker.run_until_empty().instrument(around).await.unwrap();
    let log = log.text();
    let of_trace = format!(r#"trace_id="{trace}" parent_id="{parent}""#);
    for line in [
        format!(
            r#" INFO handle{{queue="q" facet="a" topic="t" id={first} attempt=1 {of_trace}}}: in hand"#
        ),
        format!(
            r#" WARN handle{{queue="q" facet="a" topic="t" id={first} attempt=1 {of_trace}}}: failed reason="no""#
        ),
        r#" INFO around:handle{queue="q" facet="b" topic="u" id=2 attempt=1}: in hand"#.into(),
        r#" INFO around:handle{queue="q" facet="c" topic="v" id=3 attempt=1}: in hand"#.into(),
    ] {
        assert!(log.lines().any(|logged| logged == line), "{line}\nis not in\n{log}");
    }
    space.clock.advance(5 * SECOND);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 3);
    space.end().await;
}

#[tokio::test]
async fn one_that_stops_under_load_leaves_no_lease_behind_when_it_has_ended() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 20_000).await;
    let mut left = 20_000;
    for round in 0..40 {
        let stop = CancellationToken::new();
        let worker = queue.worker(done).concurrency(8).stop_on(stop.clone());
        let (done, ()) = tokio::join!(worker.run(), async {
            sleep(round % 7 * MS).await;
            stop.cancel();
        });
        let done = done.unwrap();
        assert_eq!(done.leased, done.acked + done.given_back, "{done:?}");
        left -= done.acked;
        let stats = queue.stats().await.unwrap();
        assert_eq!((stats.waiting, stats.leased), (left, 0), "round {round}: {done:?}");
    }
    let next = queue.lease().await.unwrap().unwrap();
    assert_eq!(next.attempt().get(), 1);
    assert_eq!(next.message().unwrap()["n"], 20_000 - left, "they go on in their order");
    next.ack().await.unwrap();
    queue.facet("a").purge().await.unwrap();
    space.end().await;
}

/// How long this thread has used the processor.
#[cfg(target_os = "linux")]
fn used() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn while_redis_is_away_a_worker_with_handlers_that_end_uses_no_processor() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().deadline(SECOND).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 8).await;
    let busy = Busy::default();
    let handler = busy.clone();
    let worker = queue
        .worker(move |delivery| {
            let busy = handler.clone();
            async move {
                let n = delivery.message()?["n"].as_u64().unwrap();
                busy.for_((200 + 400 * n as u32) * MS).await;
                Ok::<_, AnyError>(())
            }
        })
        .concurrency(8);
    let working = tokio::spawn(worker.run());
    until("eight handlers run", async || busy.now() == 8).await;
    proxy.refuse(true);
    let before = used();
    sleep(4 * SECOND).await;
    let used = used() - before;
    assert!(used < 400 * MS, "{used:?} of 4 s");
    working.abort();
}

#[tokio::test]
async fn a_decoder_that_panics_fails_its_message_and_the_worker_goes_on() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    deliver(&space.broker, "a", 3).await;
    let now = space.clock.clone();
    let broker = fairlane::BrokerBuilder::coded(
        |body: &Vec<u8>| Ok::<_, std::convert::Infallible>(body.clone()),
        |body| {
            assert!(!body.windows(5).any(|word| word == b"\"n\":1"), "what a decoder may find");
            Ok::<_, std::convert::Infallible>(body.to_vec())
        },
    );
    let broker = broker.facet(|_| "a").topic(|_| "t").clock(move || now.now());
    let broker = broker.redis(crate::support::url()).namespace(&space.name);
    let broker = broker.credentials(crate::support::user_of(&space.name));
    let broker = broker.connect().await.unwrap();
    let worker = broker.queue("q").worker(|delivery| async move {
        delivery.message()?;
        Ok::<_, AnyError>(())
    });
    let done = worker.run_until_empty().await.unwrap();
    assert_eq!(done, report(3, |report| (report.acked, report.failed) = (2, 1)));
    let (letters, _) = queue.dead_letters().page(Cursor::default()).await.unwrap();
    let reason = letters[0].reason.as_deref().unwrap();
    assert!(reason.contains("what a decoder may find"), "{reason}");
    end(space, &queue).await;
}

/// What cannot be dropped quietly.
#[derive(Default)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a bomb");
        }
    }
}

#[tokio::test]
async fn what_a_handler_panics_with_may_panic_when_it_is_dropped() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    deliver(&space.broker, "a", 3).await;
    let worker = queue.worker(|delivery| async move {
        if delivery.message()?["n"] == 1 {
            std::panic::panic_any(Bomb);
        }
        Ok::<_, AnyError>(())
    });
    let done = worker.run_until_empty().await.unwrap();
    assert_eq!((done.leased, done.acked, done.failed), (3, 2, 1));
    end(space, &queue).await;
}

/// A message that is a bomb, too.
#[derive(serde::Serialize, serde::Deserialize)]
struct Armed {
    n: u64,
    #[serde(skip)]
    _bomb: Bomb,
}

#[tokio::test]
async fn a_message_that_panics_when_it_is_dropped_takes_nobody_along() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 3).await;
    let broker = space.broker.with_type::<Armed>();
    let worker = broker.queue("q").worker(|delivery| async move {
        assert!(delivery.message()?.n < 3);
        Ok::<_, AnyError>(())
    });
    let done = worker.run_until_empty().await.unwrap();
    assert_eq!(done, report(3, |report| report.acked = 3));
    end(space, &queue).await;
}

#[tokio::test]
async fn a_token_that_the_same_signal_cancels_is_no_second_signal() {
    if let Some(dir) = other_process() {
        let url = std::fs::read_to_string(dir.join("url")).unwrap();
        let broker: fairlane::Broker =
            fairlane::Broker::builder().redis(url).connect().await.unwrap();
        let stop = CancellationToken::new();
        let (cancels, started) = (stop.clone(), dir.join("started"));
        tokio::spawn(async move {
            use tokio::signal::unix::{SignalKind, signal};
            signal(SignalKind::terminate()).unwrap().recv().await;
            sleep(50 * MS).await; // As a program that does something else first.
            cancels.cancel();
        });
        let worker = broker.queue("q").worker(move |_delivery| {
            std::fs::write(&started, "").unwrap();
            async {
                sleep(SECOND).await;
                Ok::<_, AnyError>(())
            }
        });
        let done = worker.stop_on(stop).run().await.unwrap();
        std::fs::write(dir.join("report"), format!("{} {}", done.acked, done.given_back)).unwrap();
        return;
    }
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("url"), server.url()).unwrap();
    let test = "worker::a_token_that_the_same_signal_cancels_is_no_second_signal";
    let mut process = another_process(test, dir.path()).stderr(Stdio::inherit()).spawn().unwrap();
    until("a handler runs", async || dir.path().join("started").exists()).await;
    let id = process.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(process.wait().unwrap().success());
    assert_eq!(std::fs::read_to_string(dir.path().join("report")).unwrap(), "1 0");
}

#[tokio::test]
async fn what_is_on_its_way_to_be_settled_at_the_end_is_reported_as_unsettled() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 4).await;
    let (stop, after) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let (busy, told) = (Busy::default(), after.clone());
    let worker = queue
        .worker(busy.handler(300 * MS))
        .after(move |_, handled| {
            assert!(handled.settled.is_err());
            told.fetch_add(1, Ordering::SeqCst);
        })
        .concurrency(4)
        .grace(500 * MS)
        .stop_on(stop.clone());
    let working = tokio::spawn(worker.run());
    until("four handlers run", async || busy.now() == 4).await;
    proxy.silence();
    stop.cancel();
    let done = working.await.unwrap().unwrap();
    assert_eq!(done, report(4, |report| report.unsettled = 4));
    assert_eq!(after.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn what_redis_is_too_busy_to_settle_is_settled_when_it_is_not() {
    let server = Server::start(&["--busy-reply-threshold", "10"]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 4).await;
    let (stop, busy) = (CancellationToken::new(), Busy::default());
    let worker = queue.worker(busy.handler(200 * MS)).stop_on(stop.clone());
    let working = tokio::spawn(worker.run());
    until("four handlers run", async || busy.now() == 4).await;
    // Somebody else's.
    let slow = "while redis.call('TIME')[1] < ARGV[1] do end";
    let end = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let end = (end.as_secs() + 2).to_string();
    let mut other = server.client().get_multiplexed_async_connection().await.unwrap();
    let slow = redis::cmd("EVAL").arg(slow).arg(0).arg(end).exec_async(&mut other).await;
    assert!(slow.is_err(), "that client does not wait as long as it takes");
    until("all are done", async || queue.stats().await.is_ok_and(|stats| stats.acked == 4)).await;
    stop.cancel();
    let done = working.await.unwrap().unwrap();
    assert_eq!(done, report(4, |report| report.acked = 4));
}

#[tokio::test]
async fn a_hook_is_not_told_that_a_lease_was_lost_where_a_call_without_a_reply_may_have_settled_it()
{
    let server = Server::start(&[]).await;
    let proxy = Arc::new(Proxy::to(&server).await);
    let broker = proxy.builder().deadline(300 * MS).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 2).await;
    let first = queue.lease().await.unwrap().unwrap(); // Redis has the scripts after that.
    first.ack().await.unwrap();
    let silent = proxy.clone();
    let told = Arc::new(Mutex::new(Vec::new()));
    let record = told.clone();
    let worker = queue
        .worker(move |_delivery| {
            silent.silence();
            async { Ok::<_, AnyError>(()) }
        })
        .after(move |_, handled| record.lock().unwrap().push(handled.settled.clone()));
    let stop = CancellationToken::new();
    let working = tokio::spawn(worker.stop_on(stop.clone()).run());
    until("it is over", async || !told.lock().unwrap().is_empty()).await;
    stop.cancel();
    assert_eq!(working.await.unwrap().unwrap(), report(1, |report| report.unsettled = 1));
    let told = told.lock().unwrap().clone();
    assert!(matches!(told[..], [Err(Error::MaybeApplied(_))]), "{told:?}");
    let stats = server.builder().connect().await.unwrap().queue("q").stats().await.unwrap();
    assert_eq!((stats.acked, stats.waiting, stats.leased), (2, 0, 0));
}

#[tokio::test]
async fn a_lease_that_waited_for_redis_lasts_from_when_it_was_sent() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 4).await;
    proxy.refuse(true);
    sleep(50 * MS).await;
    let worker = queue
        .worker(move |_delivery| async move {
            sleep(100 * MS).await;
            Ok::<_, AnyError>(())
        })
        .lasting(500 * MS);
    let working = tokio::spawn(worker.run_until_empty());
    sleep(700 * MS).await;
    proxy.refuse(false);
    let done = working.await.unwrap().unwrap();
    assert_eq!(done, report(4, |report| report.acked = 4));
}

#[tokio::test]
async fn what_arrives_when_its_lease_has_ended_is_not_handled() {
    let server = Server::start(&[]).await;
    let proxy = Arc::new(Proxy::to(&server).await);
    let broker = proxy.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 5).await;
    let first = queue.lease().await.unwrap().unwrap(); // Redis has the scripts after that.
    first.ack().await.unwrap();
    proxy.delay(400 * MS);
    let handled = Arc::new(AtomicU64::new(0));
    let count = handled.clone();
    let worker = queue
        .worker(move |_delivery| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, AnyError>(()) }
        })
        .lasting(300 * MS);
    let stop = CancellationToken::new();
    let working = tokio::spawn(worker.stop_on(stop.clone()).run());
    sleep(SECOND).await;
    assert_eq!(handled.load(Ordering::SeqCst), 0);
    proxy.delay(Duration::ZERO);
    until("all are done", async || handled.load(Ordering::SeqCst) == 4).await;
    stop.cancel();
    let done = working.await.unwrap().unwrap();
    assert_eq!((done.acked, done.lost + done.given_back), (4, done.leased - 4), "{done:?}");
}

#[tokio::test]
async fn until_empty_a_slow_handler_does_not_keep_what_its_own_or_another_limit_frees() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.facets.max_leased = Some(1)).await.unwrap();
    deliver(&space.broker, "slow", 3).await;
    deliver(&space.broker, "quick", 10).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let record = order.clone();
    let worker = queue.worker(move |delivery| {
        let record = record.clone();
        async move {
            sleep(if delivery.facet() == "slow" { 300 * MS } else { MS }).await;
            record.lock().unwrap().push(delivery.facet().to_owned());
            Ok::<_, AnyError>(())
        }
    });
    let done = worker.run_until_empty().await.unwrap();
    assert_eq!(done, report(13, |report| report.acked = 13));
    let order = order.lock().unwrap().clone();
    assert!(order[..10].iter().all(|facet| facet == "quick"), "{order:?}");
    end(space, &queue).await;
}

#[tokio::test]
async fn until_empty_a_handler_may_wait_for_what_it_delivers() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let broker = space.broker.clone();
    let second = CancellationToken::new();
    let worker = queue.worker(move |delivery| {
        let (broker, second) = (broker.clone(), second.clone());
        async move {
            if delivery.facet() == "a" {
                sleep(50 * MS).await;
                broker.deliver(&message("b", "t", 0)).await?;
                second.cancelled().await;
            } else {
                second.cancel();
            }
            Ok::<_, AnyError>(())
        }
    });
    let done = tokio::time::timeout(3 * SECOND, worker.run_until_empty()).await;
    assert_eq!(done.unwrap().unwrap().acked, 2);
    space.end().await;
}

#[tokio::test]
async fn what_was_retried_and_is_given_back_stands_before_what_was_behind_it() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 4).await;
    let (stop, busy) = (CancellationToken::new(), Busy::default());
    let handler = busy.clone();
    let worker = queue
        .worker(move |delivery| {
            let busy = handler.clone();
            async move {
                if delivery.message()?["n"] == 1 && delivery.attempt().get() == 1 {
                    return Ok::<_, AnyError>(Outcome::Retry(Duration::ZERO));
                }
                busy.for_(60 * SECOND).await;
                Ok(Outcome::Ack)
            }
        })
        .grace(Duration::ZERO)
        .stop_on(stop.clone());
    let working = tokio::spawn(worker.run());
    until("all handlers run", async || busy.now() == 4).await;
    stop.cancel();
    let done = working.await.unwrap().unwrap();
    assert_eq!((done.leased, done.retried, done.given_back), (5, 1, 4), "{done:?}");
    let again = queue.lease_many(4).await.unwrap();
    let order: Vec<_> =
        again.iter().map(|delivery| delivery.message().unwrap()["n"].clone()).collect();
    assert_eq!(order, [0, 1, 2, 3]);
    for delivery in again {
        delivery.ack().await.unwrap();
    }
    space.end().await;
}

#[tokio::test]
async fn what_is_leased_while_it_ends_stands_behind_what_it_had() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    broker.deliver(&message("a", "t", 0)).await.unwrap();
    let (stop, busy) = (CancellationToken::new(), Busy::default());
    let of_worker = proxy.builder().connect().await.unwrap();
    let worker = of_worker
        .queue("q")
        .worker(busy.handler(60 * SECOND))
        .concurrency(2)
        .grace(Duration::ZERO)
        .stop_on(stop.clone());
    let working = tokio::spawn(worker.run());
    until("it waits for another one", async || busy.now() == 1 && server.blocked().await == 1)
        .await;
    proxy.delay(300 * MS);
    broker.deliver_all(&[1, 2].map(|n| message("a", "t", n))).await.unwrap();
    until("that is leased", async || queue.stats().await.unwrap().leased == 2).await;
    stop.cancel();
    assert_eq!(working.await.unwrap().unwrap(), report(2, |report| report.given_back = 2));
    let again = queue.lease_many(3).await.unwrap();
    let order: Vec<_> =
        again.iter().map(|delivery| delivery.message().unwrap()["n"].clone()).collect();
    assert_eq!(order, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_is_told_when_its_message_is_given_back() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let (stop, busy, told) =
        (CancellationToken::new(), Busy::default(), Arc::new(AtomicBool::new(false)));
    let (handler, record) = (busy.clone(), told.clone());
    let worker = queue
        .worker(move |delivery| {
            let (busy, told) = (handler.clone(), record.clone());
            async move {
                busy.now.fetch_add(1, Ordering::SeqCst);
                let begun = Instant::now();
                while !delivery.lost().is_cancelled() && begun.elapsed() < 5 * SECOND {
                    std::thread::sleep(5 * MS);
                }
                told.store(delivery.lost().is_cancelled(), Ordering::SeqCst);
                busy.now.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, AnyError>(())
            }
        })
        .grace(50 * MS)
        .stop_on(stop.clone());
    let working = tokio::spawn(worker.run());
    until("the handler runs", async || busy.now() == 1).await;
    stop.cancel();
    assert_eq!(working.await.unwrap().unwrap(), report(1, |report| report.given_back = 1));
    until("the handler has ended", async || busy.now() == 0).await;
    assert!(told.load(Ordering::SeqCst));
    let again = queue.lease().await.unwrap().unwrap();
    assert_eq!(again.attempt().get(), 1);
    again.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn what_is_wrong_with_one_queue_keeps_no_lease_of_another_from_being_extended() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    for name in ["a", "b"] {
        broker.register_queue(name, &format!("^{name}$")).await.unwrap();
        broker.deliver(&message("f", name, 0)).await.unwrap();
    }
    let busy = Busy::default();
    let worker = broker.in_order(["a", "b"]).worker(busy.handler(SECOND)).lasting(300 * MS);
    let working = tokio::spawn(worker.run());
    until("both handlers run", async || busy.now() == 2).await;
    server.run::<()>(&["SET", "{fairlane}:q:b:timers", "not fairlane's"]).await;
    let Err(Error::WorkerStopped { report: done, source }) = working.await.unwrap() else {
        panic!("it went on");
    };
    assert!(matches!(*source, Error::WrongType(_)), "{source}");
    assert_eq!((done.acked, done.lost + done.unsettled), (1, 1), "{done:?}");
    let stats = broker.queue("a").stats().await.unwrap();
    assert_eq!((stats.acked, stats.came_back, stats.leased), (1, 0, 0));
}

#[tokio::test]
async fn what_is_settled_before_redis_goes_away_is_not_settled_again() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().deadline(300 * MS).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let mut body = message("a", "t", 0);
    broker.deliver(&body).await.unwrap();
    queue.lease().await.unwrap().unwrap().fail("no").await.unwrap(); // Redis has the script after that.
    body["fill"] = "x".repeat(600_000).into(); // A call settles one of them.
    for _ in 0..3 {
        broker.deliver(&body).await.unwrap();
    }
    let (stop, ends) = (CancellationToken::new(), CancellationToken::new());
    let (busy, ended) = (Arc::new(AtomicU64::new(0)), ends.clone());
    let running = busy.clone();
    let worker = queue.worker(move |_delivery| {
        running.fetch_add(1, Ordering::SeqCst);
        let ended = ended.clone();
        async move {
            ended.cancelled().await;
            Err::<(), AnyError>("no".into())
        }
    });
    let working = tokio::spawn(worker.concurrency(3).stop_on(stop.clone()).run());
    until("all are in hand", async || busy.load(Ordering::SeqCst) == 3).await;
    stop.cancel(); // What it calls from then on, settles.
    sleep(100 * MS).await;
    proxy.refuse_from(2);
    ends.cancel();
    let delayed = async || server.run::<u64>(&["HGET", "{fairlane}:q:q:clock", "delayed"]).await;
    until("one is settled", async || delayed().await == 2).await;
    sleep(500 * MS).await; // The second call has its deadline.
    assert_eq!(delayed().await, 2, "and then Redis was away");
    proxy.refuse(false);
    assert_eq!(working.await.unwrap().unwrap(), report(3, |report| report.failed = 3));
    assert_eq!(delayed().await, 4);
}

#[tokio::test]
async fn what_is_settled_before_a_call_is_refused_is_not_told_to_be_lost() {
    let server = Server::start(&[]).await;
    let refused_once = |text: String| {
        let (shebang, rest) = text.split_once('\n').unwrap();
        let odd = "if redis.call('INCR', 'calls') == 2 then return redis.error_reply('ODD') end";
        format!("{shebang}\n{odd} {rest}")
    };
    let broker = server.builder().script("fail", refused_once).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let mut body = message("a", "t", 0);
    body["fill"] = "x".repeat(600_000).into(); // A call settles one of them.
    for _ in 0..3 {
        broker.deliver(&body).await.unwrap();
    }
    let all = Arc::new(tokio::sync::Barrier::new(3));
    let worker = queue.worker(move |_delivery| {
        let all = all.clone();
        async move {
            all.wait().await; // So that they are settled together.
            Err::<(), AnyError>("no".into())
        }
    });
    let done = worker.concurrency(3).run_until_empty().await.unwrap();
    assert_eq!(done, report(3, |report| report.failed = 3));
    assert_eq!(server.run::<u64>(&["GET", "calls"]).await, 4, "three, and one again");
}

#[tokio::test]
async fn what_goes_back_beside_what_cannot_is_not_told_to_be_lost() {
    let (space, queue) = Space::with_queue().await;
    for facet in ["a", "b", "b", "b", "lost"] {
        deliver(&space.broker, facet, 1).await;
    }
    let (all, broker) = (Arc::new(tokio::sync::Barrier::new(5)), space.broker.clone());
    let worker = queue.worker(move |delivery| {
        let (all, broker) = (all.clone(), broker.clone());
        async move {
            if delivery.facet() == "lost" {
                broker.ack(delivery.token()).await?;
            }
            all.wait().await; // So that they are settled together.
            Err::<(), AnyError>("no".into())
        }
    });
    run::<()>(&["SET", &space.of("q", "s:a"), "in the way"]).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let record = told.clone();
    let worker = worker.after(move |delivery, handled| {
        let facet = delivery.facet().to_owned();
        record.lock().unwrap().push((facet, handled.settled.clone()));
    });
    let done = worker.concurrency(5).run_until_empty().await.unwrap();
    let expected = |report: &mut Report| {
        (report.failed, report.lost, report.unsettled) = (3, 1, 1);
    };
    assert_eq!(done, report(5, expected));
    for (facet, settled) in told.lock().unwrap().iter() {
        let right = match &**facet {
            "a" => matches!(settled, Err(Error::WrongType(_))),
            "b" => settled.is_ok(),
            _ => matches!(settled, Err(Error::LeaseLost(_))),
        };
        assert!(right, "{facet}: {settled:?}");
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.delayed, stats.leased, stats.came_back), (3, 1, 3));
    space.delete().await;
}
