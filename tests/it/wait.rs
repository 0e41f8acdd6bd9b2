//! Waiting: no polling, no herd, and no wake-up is lost.

use std::{
    future::IntoFuture,
    time::{Duration, Instant},
};

use fairlane::{Broker, Delivery, Error, Invalid, Message, Queue, Rate, Result};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{Proxy, Server, Space, deliver, message, run, until};

const SECOND: Duration = Duration::from_secs(1);
/// After how long those who wait ask by themselves.
const WINDOW: Duration = Duration::from_secs(5);

/// Leases one in a task, waiting for a long time.
fn waiting(queue: &Queue) -> JoinHandle<Result<Option<Delivery>>> {
    tokio::spawn(queue.lease().wait(60 * SECOND).into_future())
}

async fn got(task: JoinHandle<Result<Option<Delivery>>>) -> u64 {
    let delivery = task.await.unwrap().unwrap().unwrap();
    let n = delivery.message().unwrap()["n"].as_u64().unwrap();
    delivery.ack().await.unwrap();
    n
}

/// A delivery wakes one who waits, and nobody had to wait for a window.
async fn wakes(broker: &Broker, waiting: JoinHandle<Result<Option<Delivery>>>) {
    let from = Instant::now();
    deliver(broker, "a", 1).await;
    assert_eq!(got(waiting).await, 0);
    assert!(from.elapsed() < SECOND, "{:?}", from.elapsed());
}

/// A server with a broker and a queue `q` that takes everything.
async fn alone() -> (Server, Broker, Queue) {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    (server, broker, queue)
}

/// Waits until so many connections are blocked.
async fn blocked(server: &Server, n: u64) {
    until("they are blocked", || async move { server.blocked().await == n }).await;
}

#[tokio::test]
async fn every_way_to_take_waits_for_what_is_delivered() {
    let (server, broker, queue) = alone().await;
    let long = 20 * SECOND;
    let pull = tokio::spawn(queue.pull().wait(long).into_future());
    blocked(&server, 1).await;
    deliver(&broker, "a", 1).await;
    assert_eq!(pull.await.unwrap().unwrap().unwrap()["facet"], "a");

    let pull_many = tokio::spawn(queue.pull_many(10).wait(long).into_future());
    blocked(&server, 1).await;
    deliver(&broker, "b", 3).await;
    assert_eq!(pull_many.await.unwrap().unwrap().len(), 3, "what is there, and no wait for more");

    let lease = tokio::spawn(queue.lease().wait(long).into_future());
    blocked(&server, 1).await;
    deliver(&broker, "c", 1).await;
    lease.await.unwrap().unwrap().unwrap().ack().await.unwrap();

    let lease_many = tokio::spawn(queue.lease_many(2).wait(long).into_future());
    blocked(&server, 1).await;
    deliver(&broker, "d", 3).await;
    assert_eq!(lease_many.await.unwrap().unwrap().len(), 2);
}

#[tokio::test]
async fn a_wait_that_brings_nothing_ends_in_time_and_is_no_error() {
    let (space, queue) = Space::with_queue().await;
    for longest in [Duration::from_millis(1), Duration::from_millis(300)] {
        let from = Instant::now();
        assert!(queue.pull().wait(longest).await.unwrap().is_none());
        assert!(queue.lease_many(5).wait(longest).await.unwrap().is_empty());
        assert!((2 * longest..2 * longest + SECOND).contains(&from.elapsed()));
    }
    space.end().await;
}

#[tokio::test]
async fn what_is_there_is_taken_without_a_wait() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let from = Instant::now();
    assert!(queue.pull().wait(60 * SECOND).await.unwrap().is_some());
    assert_eq!(queue.pull_many(9).wait(60 * SECOND).await.unwrap().len(), 1);
    assert!(queue.pull_many(0).wait(60 * SECOND).await.unwrap().is_empty(), "nothing to wait for");
    assert!(from.elapsed() < 5 * SECOND);
    space.end().await;
}

#[tokio::test]
async fn a_wait_of_more_than_a_day_is_refused() {
    let (space, queue) = Space::with_queue().await;
    let long = 24 * 60 * 60 * SECOND + Duration::from_millis(1);
    for refused in [
        queue.pull().wait(long).await.err(),
        queue.pull_many(2).wait(long).await.err(),
        queue.lease().wait(long).await.err(),
        queue.lease_many(2).wait(Duration::MAX).await.err(),
    ] {
        let Some(Error::Invalid(Invalid::OutOfRange { what, .. })) = refused else { panic!() };
        assert_eq!(what, "wait");
    }
    deliver(&space.broker, "a", 1).await;
    assert!(queue.pull().wait(24 * 60 * 60 * SECOND).await.unwrap().is_some());
    space.end().await;
}

#[tokio::test]
async fn waiting_on_a_queue_that_does_not_exist_is_an_error_at_once() {
    let space = Space::new().await;
    let from = Instant::now();
    let refused = space.broker.queue("nowhere").lease().wait(60 * SECOND).await;
    assert!(matches!(refused, Err(Error::NoSuchQueue(name)) if &*name == "nowhere"));
    assert!(from.elapsed() < 5 * SECOND);
    space.end().await;
}

#[tokio::test]
async fn a_hundred_that_wait_cost_two_commands_a_window_and_one_delivery_wakes_one() {
    let (server, broker, queue) = alone().await;
    // The scripts and the routes are loaded.
    deliver(&broker, "a", 1).await;
    assert!(queue.pull().await.unwrap().is_some());
    let mut all = JoinSet::new();
    for _ in 0..100 {
        all.spawn(queue.pull().wait(120 * SECOND).into_future());
    }
    blocked(&server, 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await; // For those that asked at the same time.
    let calls = async || (server.calls("bzpopmin").await, server.calls("evalsha").await);

    let (blocks, asks) = calls().await;
    tokio::time::sleep(2 * WINDOW + SECOND).await;
    let (later_blocks, later_asks) = calls().await;
    assert!((1..=2).contains(&(later_blocks - blocks)), "{later_blocks} {blocks}");
    assert!((1..=2).contains(&(later_asks - asks)), "{later_asks} {asks}");

    let (blocks, asks) = calls().await;
    deliver(&broker, "a", 1).await;
    assert!(all.join_next().await.unwrap().unwrap().unwrap().is_some());
    blocked(&server, 1).await;
    let (later_blocks, later_asks) = calls().await;
    assert_eq!(later_asks - asks, 2, "one delivery, and one that asked");
    assert!(later_blocks - blocks <= 1);
    assert_eq!(all.len(), 99, "nobody else woke");

    // Two connections in all, and the one that looks.
    let clients: String = server.run(&["CLIENT", "LIST"]).await;
    assert_eq!(clients.lines().count(), 3, "{clients}");
    deliver(&broker, "a", 99).await;
    while let Some(pulled) = all.join_next().await {
        assert!(pulled.unwrap().unwrap().is_some());
    }
}

#[tokio::test]
async fn a_chain_of_wake_ups_reaches_the_workers_of_all_processes() {
    let (server, broker, queue) = alone().await;
    let mut all = JoinSet::new();
    let mut others = Vec::new();
    for _ in 0..5 {
        let other = server.builder().connect().await.unwrap();
        for _ in 0..4 {
            all.spawn(other.queue("q").pull().wait(60 * SECOND).into_future());
        }
        others.push(other);
    }
    blocked(&server, 5).await;
    let from = Instant::now();
    let messages: Vec<_> = (0..20).map(|n| message(&format!("f{}", n % 3), "t", n)).collect();
    broker.deliver_all(&messages).await.unwrap();
    while let Some(pulled) = all.join_next().await {
        assert!(pulled.unwrap().unwrap().is_some());
    }
    assert!(from.elapsed() < WINDOW / 2, "none of them had to wait for its window");
    assert!(queue.pull().await.unwrap().is_none());
}

#[tokio::test]
async fn where_much_is_there_twice_as_many_wake_each_time_and_ask_together() {
    let (server, broker, queue) = alone().await;
    let mut all = JoinSet::new();
    for _ in 0..64 {
        all.spawn(queue.pull().wait(60 * SECOND).into_future());
    }
    blocked(&server, 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await; // For those that asked at the same time.
    let before = server.calls("evalsha").await;
    deliver(&broker, "a", 64).await;
    while let Some(pulled) = all.join_next().await {
        assert!(pulled.unwrap().unwrap().is_some());
    }
    let calls = server.calls("evalsha").await - before;
    assert!(calls < 32, "{calls} for one delivery and 64 that asked");
}

#[tokio::test]
async fn one_who_wakes_in_vain_keeps_its_place_and_is_served_as_often_as_the_others() {
    let (_server, broker, queue) = alone().await;
    let (served, mut serves) = tokio::sync::mpsc::unbounded_channel();
    let mut workers = JoinSet::new();
    for n in 0..5 {
        let (queue, served) = (queue.clone(), served.clone());
        workers.spawn(async move {
            loop {
                queue.pull().wait(60 * SECOND).await.unwrap().unwrap();
                served.send(n).unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut counts = [0; 5];
    for _ in 0..40 {
        deliver(&broker, "a", 2).await;
        for _ in 0..2 {
            counts[serves.recv().await.unwrap()] += 1;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(counts.iter().all(|count| (8..=24).contains(count)), "{counts:?}");
}

#[tokio::test]
async fn a_marker_that_is_lost_with_its_worker_is_made_up_for_within_a_window() {
    let (server, broker, queue) = alone().await;
    // A worker that takes the marker, and dies.
    let mut worker = server.client().get_multiplexed_async_connection().await.unwrap();
    let taken = tokio::spawn(async move {
        let mut command = redis::cmd("BZPOPMIN");
        command.arg("{fairlane}:q:q:wake").arg(0).exec_async(&mut worker).await
    });
    blocked(&server, 1).await;
    let waiting = waiting(&queue);
    blocked(&server, 2).await;
    let from = Instant::now();
    deliver(&broker, "a", 1).await;
    let _ = taken.await.unwrap();
    assert_eq!(got(waiting).await, 0);
    assert!(from.elapsed() < WINDOW + SECOND, "{:?}", from.elapsed());
}

#[tokio::test]
async fn one_who_gives_up_hands_the_wake_up_to_the_next_of_its_process() {
    let (server, broker, queue) = alone().await;
    let first = waiting(&queue);
    blocked(&server, 1).await;
    let second = waiting(&queue);
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.abort();
    let _ = first.await;
    wakes(&broker, second).await;
}

#[tokio::test]
async fn one_who_gives_up_alone_hands_the_wake_up_to_another_process() {
    let (server, broker, queue) = alone().await;
    let gone = waiting(&queue);
    blocked(&server, 1).await;
    gone.abort();
    let _ = gone.await;
    // Its block still goes on, and is the first to be served.
    let other = server.builder().connect().await.unwrap();
    let waiting = waiting(&other.queue("q"));
    blocked(&server, 2).await;
    wakes(&broker, waiting).await;
}

#[tokio::test]
async fn one_who_is_not_polled_any_more_holds_up_nobody() {
    let (server, broker, queue) = alone().await;
    // What `select!` leaves behind while another branch is busy.
    let mut left = queue.lease().into_stream();
    assert!(tokio::time::timeout(SECOND / 10, left.next()).await.is_err());
    blocked(&server, 1).await;
    let all: Vec<_> = (0..5).map(|_| waiting(&queue)).collect();
    tokio::time::sleep(SECOND / 10).await;
    let from = Instant::now();
    deliver(&broker, "a", 5).await;
    for waiting in all {
        got(waiting).await;
    }
    assert!(from.elapsed() < SECOND, "{:?}", from.elapsed());
    // The same when all of its process are like that: another process is served.
    let other = server.builder().connect().await.unwrap();
    assert!(tokio::time::timeout(SECOND / 10, left.next()).await.is_err());
    blocked(&server, 1).await;
    let waiting = waiting(&other.queue("q"));
    blocked(&server, 2).await;
    wakes(&broker, waiting).await;
    // And it goes on itself when it is polled again.
    deliver(&broker, "a", 1).await;
    left.next().await.unwrap().unwrap().ack().await.unwrap();
}

#[tokio::test]
async fn short_waits_in_a_loop_leave_nothing_behind() {
    let (server, broker, queue) = alone().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(queue.lease().wait(SECOND / 100).await.unwrap().is_none());
    let before = tasks();
    for _ in 0..300 {
        assert!(queue.lease().wait(Duration::from_millis(1)).await.unwrap().is_none());
    }
    assert!(tasks() <= before + 2, "{} {before}", tasks());
    blocked(&server, 1).await;
    // With the last handle, what is still blocked ends.
    drop((broker, queue));
    blocked(&server, 0).await;
}

#[tokio::test]
async fn those_who_wait_go_on_when_the_runtime_of_the_first_of_them_has_ended() {
    let (server, broker, queue) = alone().await;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _first = runtime.spawn(queue.lease().wait(60 * SECOND).into_future());
    blocked(&server, 1).await;
    let all = [waiting(&queue), waiting(&queue)];
    tokio::time::sleep(SECOND / 10).await;
    runtime.shutdown_background();
    tokio::time::sleep(SECOND / 10).await;
    let from = Instant::now();
    // The calls' own connection may have ended with that runtime, too.
    let direct = server.builder().connect().await.unwrap();
    deliver(&direct, "a", 2).await;
    for waiting in all {
        got(waiting).await;
    }
    assert!(from.elapsed() < SECOND, "{:?}", from.elapsed());
    drop(broker);
}

/// Does something that must come to its end in a thread of its own.
async fn comes_to_its_end(what: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(what);
    until("it comes to its end", || async { thread.is_finished() }).await;
    thread.join().unwrap();
}

#[tokio::test]
async fn a_runtime_that_ends_while_workers_wait_and_listen_comes_to_its_end() {
    let server = Server::start(&[]).await;
    let url = server.url();
    comes_to_its_end(move || {
        for _ in 0..40 {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(4)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let broker: Broker = Broker::builder().redis(&url).connect().await.unwrap();
                let queue = broker.register_queue("q", ".").await.unwrap();
                for _ in 0..50 {
                    let mut deliveries = queue.lease().into_stream();
                    tokio::spawn(async move {
                        while let Some(Ok(delivery)) = deliveries.next().await {
                            let _ = delivery.ack().await;
                        }
                    });
                    let mut listener = broker.listen("*").await.unwrap();
                    tokio::spawn(async move { while listener.next().await.is_some() {} });
                }
                deliver(&broker, "a", 20).await;
            });
            drop(runtime);
        }
    })
    .await;
}

#[tokio::test]
async fn one_who_waits_or_listens_on_a_runtime_that_has_ended_harms_no_other() {
    let (_server, broker, queue) = alone().await;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let handle = runtime.handle().clone();
    let (waits, listens) = (queue.clone(), broker.clone());
    let waiting = std::thread::spawn({
        let handle = handle.clone();
        move || handle.block_on(waits.lease().wait(60 * SECOND).into_future())
    });
    let mut listener =
        handle.spawn(async move { listens.listen("*").await }).await.unwrap().unwrap();
    std::thread::spawn(move || handle.block_on(listener.next()));
    tokio::time::sleep(SECOND / 5).await;
    runtime.shutdown_background();
    until("it comes back", || async { waiting.is_finished() }).await;
    // It may have panicked, as all does that needs the time of a runtime that has ended.
    if let Ok(waited) = waiting.join() {
        assert!(waited.is_err(), "{waited:?}");
    }
    let from = Instant::now();
    let mut listener = broker.listen("*").await.unwrap();
    assert!(queue.lease().wait(SECOND / 10).await.unwrap().is_none());
    deliver(&broker, "a", 1).await;
    let last = tokio::spawn(queue.lease().wait(60 * SECOND).into_future());
    assert_eq!(got(last).await, 0);
    assert!(listener.next().await.unwrap().is_ok());
    assert!(from.elapsed() < 5 * SECOND, "{:?}", from.elapsed());
}

#[tokio::test]
async fn a_waiting_connection_that_breaks_again_and_again_is_made_anew_with_pauses() {
    let (server, broker, queue) = alone().await;
    let waiting = waiting(&queue);
    blocked(&server, 1).await;
    let connections = async || server.info("total_connections_received").await;
    let mut raw = server.client().get_multiplexed_async_connection().await.unwrap();
    let (from, before) = (Instant::now(), connections().await);
    while from.elapsed() < 3 * SECOND {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut raw).await.unwrap();
        for line in clients.lines().filter(|line| line.contains("cmd=bzpopmin")) {
            let id = line.strip_prefix("id=").unwrap().split(' ').next().unwrap();
            let mut kill = redis::cmd("CLIENT");
            kill.arg("KILL").arg("ID").arg(id).exec_async(&mut raw).await.unwrap();
        }
    }
    let made = connections().await - before;
    assert!((3..40).contains(&made), "{made}");
    deliver(&broker, "a", 1).await;
    assert_eq!(got(waiting).await, 0);
}

#[tokio::test]
async fn of_many_that_give_up_at_any_time_none_loses_a_message_or_a_wake_up() {
    let (server, broker, queue) = alone().await;
    let other = server.builder().connect().await.unwrap();
    let workers: Vec<_> = [queue.clone(), other.queue("q")]
        .into_iter()
        .flat_map(|queue| (0..10u64).map(move |n| (n, queue.clone())))
        .map(|(n, queue)| {
            tokio::spawn(async move {
                let mut got = Vec::new();
                let mut patience = n + 1;
                while got.last() != Some(&u64::MAX) {
                    patience = patience * 7 % 23 + 1;
                    let lease = queue.lease().wait(60 * SECOND);
                    let limit = Duration::from_micros(patience * 150);
                    if let Ok(leased) = tokio::time::timeout(limit, lease).await {
                        let delivery = leased.unwrap().unwrap();
                        got.push(delivery.message().unwrap()["n"].as_u64().unwrap());
                        delivery.ack().await.unwrap();
                    }
                }
                got
            })
        })
        .collect();
    for n in 0..300 {
        broker.deliver(&message(&format!("f{}", n % 7), "t", n)).await.unwrap();
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let from = Instant::now();
    until("nothing waits", || async { queue.stats().await.unwrap().waiting == 0 }).await;
    assert!(from.elapsed() < WINDOW, "{:?}", from.elapsed());
    let ends: Vec<_> = workers.iter().map(|_| message("end", "t", u64::MAX)).collect();
    broker.deliver_all(&ends).await.unwrap();
    let mut got = Vec::new();
    for worker in workers {
        got.extend(worker.await.unwrap().into_iter().filter(|n| *n != u64::MAX));
    }
    got.sort_unstable();
    assert_eq!(got, (0..300).collect::<Vec<_>>(), "each once");
}

#[tokio::test]
async fn a_lease_that_ends_wakes_one_who_waits_when_it_ends() {
    let (_server, broker, queue) = alone().await;
    deliver(&broker, "a", 1).await;
    let lost = queue.lease().lasting(Duration::from_millis(400)).await.unwrap().unwrap();
    let from = Instant::now();
    assert_eq!(got(waiting(&queue)).await, 0);
    let after = from.elapsed();
    assert!((Duration::from_millis(390)..2 * SECOND).contains(&after), "{after:?}");
    assert!(matches!(lost.ack().await, Err(Error::LeaseLost(_))));
}

#[tokio::test]
async fn a_nack_wakes_one_who_waits() {
    let (server, broker, queue) = alone().await;
    deliver(&broker, "a", 1).await;
    let delivery = queue.lease().await.unwrap().unwrap();
    let waiting = waiting(&queue);
    blocked(&server, 1).await;
    let from = Instant::now();
    delivery.nack().await.unwrap();
    assert_eq!(got(waiting).await, 0);
    assert!(from.elapsed() < SECOND);
}

#[tokio::test]
async fn resuming_wakes_those_who_wait_and_pausing_lets_them_sleep() {
    let (server, broker, queue) = alone().await;
    queue.pause().await.unwrap();
    deliver(&broker, "a", 2).await;
    let first = waiting(&queue);
    blocked(&server, 1).await;
    let asks = server.calls("evalsha").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(server.calls("evalsha").await, asks, "nobody asks again and again");
    let from = Instant::now();
    queue.resume().await.unwrap();
    assert_eq!(got(first).await, 0);

    queue.facet("a").pause().await.unwrap();
    let second = waiting(&queue);
    blocked(&server, 1).await;
    queue.facet("a").resume().await.unwrap();
    assert_eq!(got(second).await, 1);
    assert!(from.elapsed() < 2 * SECOND);
}

#[tokio::test]
async fn one_who_waits_on_a_queue_that_is_destroyed_is_told_within_a_window() {
    let (server, broker, queue) = alone().await;
    let (first, second) = (waiting(&queue), waiting(&queue));
    blocked(&server, 1).await;
    let from = Instant::now();
    broker.queue("q").destroy().await.unwrap();
    for told in [first, second] {
        assert!(matches!(told.await.unwrap(), Err(Error::NoSuchQueue(_))));
    }
    assert!(from.elapsed() < WINDOW + SECOND);
}

#[tokio::test]
async fn a_wait_outlives_a_restart_of_redis() {
    let mut server = Server::start(&["--appendonly", "yes"]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let all: Vec<_> = (0..5).map(|_| waiting(&queue)).collect();
    blocked(&server, 1).await;
    server.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.launch();
    let from = Instant::now();
    deliver(&broker, "a", 5).await;
    let mut numbers = Vec::new();
    for waiting in all {
        numbers.push(got(waiting).await);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert!(from.elapsed() < 2 * SECOND, "{:?}", from.elapsed());
}

#[tokio::test]
async fn what_is_there_when_redis_comes_back_is_found_without_a_window() {
    let mut server = Server::start(&["--appendonly", "yes"]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let other = server.builder().connect().await.unwrap();
    // A worker that takes the marker, and dies with Redis.
    let mut worker = server.client().get_multiplexed_async_connection().await.unwrap();
    let taken = tokio::spawn(async move {
        let mut command = redis::cmd("BZPOPMIN");
        command.arg("{fairlane}:q:q:wake").arg(0).exec_async(&mut worker).await
    });
    blocked(&server, 1).await;
    let waiting = waiting(&queue);
    blocked(&server, 2).await;
    deliver(&other, "a", 1).await;
    let _ = taken.await.unwrap();
    server.restart().await;
    let from = Instant::now();
    assert_eq!(got(waiting).await, 0);
    assert!(from.elapsed() < 2 * SECOND, "{:?}", from.elapsed());
}

#[tokio::test]
async fn a_wait_that_ends_while_redis_is_away_says_so() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let broker = server.builder().deadline(Duration::from_millis(300)).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let waiting = tokio::spawn(queue.lease().wait(6 * SECOND).into_future());
    blocked(&server, 1).await;
    let from = Instant::now();
    server.kill();
    let ended = waiting.await.unwrap();
    assert!(matches!(ended, Err(Error::NotSent(_))), "{ended:?}");
    assert!((5 * SECOND..8 * SECOND).contains(&from.elapsed()), "{:?}", from.elapsed());
    // Also when it is shorter than a window, and when it begins while Redis is away.
    for longest in [SECOND / 10, SECOND] {
        let ended = queue.lease().wait(longest).await;
        assert!(matches!(ended, Err(Error::NotSent(_))), "{ended:?}");
    }
    let waiting = tokio::spawn(queue.pull().wait(20 * SECOND).into_future());
    tokio::time::sleep(SECOND).await;
    server.launch();
    server.ready().await;
    deliver(&broker, "a", 1).await;
    assert!(waiting.await.unwrap().unwrap().is_some());
}

#[tokio::test]
async fn a_short_wait_during_which_redis_goes_away_says_so() {
    let mut server = Server::start(&[]).await;
    let broker = server.builder().deadline(Duration::from_millis(300)).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let waiting = tokio::spawn(queue.lease().wait(SECOND).into_future());
    blocked(&server, 1).await;
    server.kill();
    let ended = waiting.await.unwrap();
    assert!(matches!(ended, Err(Error::NotSent(_))), "{ended:?}");
}

#[tokio::test]
async fn a_link_that_falls_silent_costs_one_who_waits_a_window_and_a_deadline() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().deadline(Duration::from_millis(500)).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let lease = queue.lease().lasting(SECOND).wait(60 * SECOND);
    let waiting = tokio::spawn(lease.into_future());
    blocked(&server, 1).await;
    proxy.silence();
    let from = Instant::now();
    let direct = server.builder().connect().await.unwrap();
    deliver(&direct, "a", 1).await;
    assert_eq!(got(waiting).await, 0);
    assert!(from.elapsed() < WINDOW + 3 * SECOND, "{:?}", from.elapsed());
}

#[tokio::test]
async fn an_acl_that_forbids_to_wait_is_an_error_that_says_so() {
    let (server, _broker, _queue) = alone().await;
    let rule = ["ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all", "-bzpopmin"];
    server.run::<()>(&rule).await;
    let url = format!("{}?user=worker&pass=secret", server.url());
    let broker: Broker = Broker::builder().redis(url).connect().await.unwrap();
    let queue = broker.queue("q");
    assert!(queue.lease().await.unwrap().is_none(), "who does not wait does not need it");
    let waiting = [waiting(&queue), waiting(&queue)];
    for denied in waiting {
        assert!(matches!(denied.await.unwrap(), Err(Error::Denied(_))));
    }
}

#[tokio::test]
async fn a_queue_that_many_wait_on_is_worked_off_by_all_of_them_at_once() {
    let (server, broker, queue) = alone().await;
    let mut workers = JoinSet::new();
    for _ in 0..50 {
        let mut deliveries = queue.lease().into_stream();
        workers.spawn(async move {
            let mut count = 0;
            loop {
                let delivery = deliveries.next().await.unwrap().unwrap();
                let last = delivery.topic() == "end";
                delivery.ack().await.unwrap();
                if last {
                    return count;
                }
                count += 1;
            }
        });
    }
    blocked(&server, 1).await;
    for _ in 0..10 {
        deliver(&broker, "a", 500).await;
    }
    let ends: Vec<_> = (0..50).map(|n| message("a", "end", n)).collect();
    broker.deliver_all(&ends).await.unwrap();
    let counts = workers.join_all().await;
    assert_eq!(counts.iter().sum::<u64>(), 5000);
    assert!(counts.iter().all(|count| *count > 10), "all of them worked: {counts:?}");
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.served, stats.acked, stats.came_back), (5050, 5050, 0));
}

#[tokio::test]
async fn a_stream_takes_nothing_in_advance_and_nothing_is_lost_with_it() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 3).await;
    let mut deliveries = queue.lease().lasting(SECOND).into_stream();
    for n in 0..2 {
        let delivery = deliveries.next().await.unwrap().unwrap();
        assert_eq!(delivery.message().unwrap()["n"], n);
        delivery.ack().await.unwrap();
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.leased), (1, 0));
    drop(deliveries);
    assert_eq!(queue.pull().await.unwrap().unwrap()["n"], 2);
    space.end().await;
}

#[tokio::test]
async fn a_stream_that_is_not_awaited_any_more_goes_on_where_it_was() {
    let (server, broker, queue) = alone().await;
    let mut deliveries = queue.lease().into_stream();
    // What `select!` does at each turn of a loop.
    assert!(tokio::time::timeout(SECOND / 10, deliveries.next()).await.is_err());
    blocked(&server, 1).await;
    deliver(&broker, "a", 1).await;
    deliveries.next().await.unwrap().unwrap().ack().await.unwrap();
}

#[tokio::test]
async fn a_stream_goes_on_after_an_error_and_does_not_run_hot() {
    let (server, broker, _queue) = alone().await;
    let mut deliveries = broker.queue("late").lease().into_stream();
    let (from, asks) = (Instant::now(), server.calls("evalsha").await);
    while from.elapsed() < SECOND {
        let error = deliveries.next().await.unwrap();
        assert!(matches!(error, Err(Error::NoSuchQueue(_))));
    }
    assert!(server.calls("evalsha").await - asks < 15);
    broker.register_queue("late", "late").await.unwrap();
    broker.deliver(&message("a", "late", 1)).await.unwrap();
    let delivery = deliveries.next().await.unwrap().unwrap();
    assert_eq!(delivery.queue(), "late");
}

#[tokio::test]
async fn the_marker_is_there_while_something_can_be_served() {
    let (space, queue) = Space::with_queue().await;
    let marked = async || run::<u64>(&["ZCARD", &space.of("q", "wake")]).await == 1;
    assert!(!marked().await);
    deliver(&space.broker, "a", 2).await;
    assert!(marked().await);
    let delivery = queue.lease().await.unwrap().unwrap();
    assert!(marked().await, "there is one more");
    queue.pull().await.unwrap().unwrap();
    assert!(!marked().await);
    delivery.nack().await.unwrap();
    assert!(marked().await);
    queue.pause().await.unwrap();
    assert!(!marked().await);
    queue.resume().await.unwrap();
    queue.facet("a").pause().await.unwrap();
    assert!(!marked().await);
    queue.facet("a").resume().await.unwrap();
    assert!(marked().await);
    queue.pull().await.unwrap().unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_time_that_another_process_sets_is_heard_of_by_one_who_waits() {
    let server = Server::start(&[]).await;
    let setter = server.builder().connect().await.unwrap();
    let queue = setter.register_queue("q", ".").await.unwrap();
    let rate = Rate::new(1, Duration::from_millis(400));
    queue.facet("rated").configure(|facet| facet.rate = Some(rate)).await.unwrap();
    // Each worker takes one, and looks at nothing more.
    let worker = || {
        let builder = server.builder();
        tokio::spawn(async move {
            let broker = builder.connect().await.unwrap();
            let leased = broker.queue("q").lease().wait(Duration::from_secs(20)).await;
            (leased.unwrap().unwrap(), broker)
        })
    };
    let within = |from: Instant| (300..2000).contains(&from.elapsed().as_millis());

    // A rate that frees.
    let (first, second) = (worker(), worker());
    until("both are blocked", || async { server.blocked().await == 2 }).await;
    let from = Instant::now();
    deliver(&setter, "rated", 2).await;
    for done in [first, second] {
        done.await.unwrap().0.ack().await.unwrap();
    }
    assert!(within(from), "{:?}", from.elapsed());

    // A hold that ends, of one who goes away with it.
    let waits = worker();
    until("it is blocked", || async { server.blocked().await == 1 }).await;
    deliver(&setter, "held", 1).await;
    let (held, _broker) = waits.await.unwrap();
    let waits = worker();
    until("the other is blocked", || async { server.blocked().await >= 1 }).await;
    let from = Instant::now();
    held.hold_facet(Duration::from_millis(400)).await.unwrap();
    let (again, _broker) = waits.await.unwrap();
    assert!(within(from), "{:?}", from.elapsed());
    again.ack().await.unwrap();

    // A delay, behind a message that another one takes.
    let (first, second) = (worker(), worker());
    until("both are blocked", || async { server.blocked().await >= 2 }).await;
    let body = message("later", "t", 1);
    let from = Instant::now();
    setter.deliver(Message::new(&body).delay(Duration::from_millis(400))).await.unwrap();
    deliver(&setter, "now", 1).await;
    for done in [first, second] {
        done.await.unwrap().0.ack().await.unwrap();
    }
    assert!(within(from), "{:?}", from.elapsed());
}
