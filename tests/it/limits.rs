//! Limits of a facet: how many are leased, how fast it is served, how many wait, and holds.

use std::{
    collections::VecDeque,
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fairlane::{
    Broker, Cursor, Death, Delivery, Error, FacetSettings, Overflow, Queue, QueueSettings, Rate,
    Refusal, Result,
};
use futures_util::future::join_all;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{Server, Space, counts, deliver, message, pulled, run, until};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

async fn limit(queue: &Queue, facet: &str, most: impl Into<Option<u32>>) {
    let most = most.into();
    queue.facet(facet).configure(|facet| facet.max_leased = most).await.unwrap();
}

async fn limit_each(queue: &Queue, most: impl Into<Option<u32>>) {
    let most = most.into();
    queue.configure(|queue| queue.facets.max_leased = most).await.unwrap();
}

async fn rate(queue: &Queue, facet: &str, rate: impl Into<Option<Rate>>) {
    let rate = rate.into();
    queue.facet(facet).configure(|facet| facet.rate = rate).await.unwrap();
}

async fn lease(queue: &Queue) -> Delivery {
    queue.lease().await.unwrap().unwrap()
}

async fn nothing(queue: &Queue) -> bool {
    queue.lease().await.unwrap().is_none()
}

/// Leases all that can be, and returns whose each is.
async fn leased(queue: &Queue, n: usize) -> (Vec<Delivery>, Vec<String>) {
    let batch = queue.lease_many(n).await.unwrap();
    let facets = batch.iter().map(|delivery| delivery.facet().to_owned()).collect();
    (batch, facets)
}

fn number(delivery: &Delivery) -> u64 {
    delivery.message().unwrap()["n"].as_u64().unwrap()
}

/// Takes off what is left, sets all back, and ends the space.
async fn end(space: Space, queue: Queue, facets: &[&str]) {
    for facet in facets {
        queue.facet(facet).configure(|facet| *facet = FacetSettings::default()).await.unwrap();
    }
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.clock.advance(31 * 86_400 * SECOND);
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    queue.dead_letters().purge().await.unwrap();
    space.end().await;
}

// How many are leased.

#[tokio::test]
async fn no_more_of_a_facet_are_leased_than_may_be_and_the_others_are_served() {
    let (space, queue) = Space::with_queue().await;
    limit(&queue, "a", 3).await;
    deliver(&space.broker, "a", 10).await;
    deliver(&space.broker, "b", 5).await;
    let (batch, facets) = leased(&queue, 100).await;
    assert_eq!(counts(&facets), [("a", 3), ("b", 5)].into());
    assert!(nothing(&queue).await);
    assert!(queue.pull().await.unwrap().is_none(), "a pull takes nothing beyond it either");
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.leased), (7, 8));
    assert_eq!((stats.facets_ready, stats.facets_parked), (0, 1));
    deliver(&space.broker, "b", 1).await;
    assert_eq!(lease(&queue).await.facet(), "b");
    assert!(space.broker.ack_all(batch).await.unwrap().is_empty());
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn single_leases_end_at_the_limit_and_go_on_in_order_with_each_slot() {
    let (space, queue) = Space::with_queue().await;
    limit(&queue, "a", 2).await;
    deliver(&space.broker, "a", 50).await;
    let mut held: VecDeque<_> = [lease(&queue).await, lease(&queue).await].into();
    for n in 2..50 {
        assert!(nothing(&queue).await, "{n}");
        held.pop_front().unwrap().ack().await.unwrap();
        let next = lease(&queue).await;
        assert_eq!(number(&next), n);
        held.push_back(next);
        assert_eq!(queue.facet("a").stats().await.unwrap().leased, 2);
    }
    for last in held {
        last.ack().await.unwrap();
    }
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn the_default_of_a_queue_is_a_limit_of_each_facet_that_has_none_of_its_own() {
    let (space, queue) = Space::with_queue().await;
    limit_each(&queue, 3).await;
    limit(&queue, "more", 5).await;
    limit(&queue, "less", 1).await;
    for facet in ["a", "b", "more", "less"] {
        deliver(&space.broker, facet, 9).await;
    }
    let (batch, facets) = leased(&queue, 100).await;
    assert_eq!(counts(&facets), [("a", 3), ("b", 3), ("less", 1), ("more", 5)].into());
    assert!(nothing(&queue).await);
    limit(&queue, "more", None).await;
    limit(&queue, "less", None).await;
    let (rest, facets) = leased(&queue, 100).await;
    assert_eq!(counts(&facets), [("less", 2)].into(), "the queue's own holds for them now");
    assert!(space.broker.ack_all(batch.into_iter().chain(rest)).await.unwrap().is_empty());
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn a_facet_that_lost_all_its_slots_to_a_batch_does_not_take_the_place_of_others() {
    let (space, queue) = Space::with_queue().await;
    limit_each(&queue, 1).await;
    for facet in 0..40 {
        deliver(&space.broker, &format!("f{facet}"), 3).await;
    }
    let (batch, facets) = leased(&queue, 100).await;
    assert_eq!(counts(&facets).len(), 40);
    assert_eq!(batch.len(), 40);
    assert!(space.broker.ack_all(batch).await.unwrap().is_empty());
    let (batch, facets) = leased(&queue, 100).await;
    assert_eq!((batch.len(), counts(&facets).len()), (40, 40));
    assert!(space.broker.ack_all(batch).await.unwrap().is_empty());
    end(space, queue, &[]).await;
}

/// Twelve workers, each through a connection of its own or a shared one, take singly and in batches,
/// and settle in all ways.
async fn never_over(default: bool) {
    const MOST: u64 = 3;
    let (space, queue) = Space::with_queue().await;
    if default {
        limit_each(&queue, 3).await;
    } else {
        limit(&queue, "a", 3).await;
        limit(&queue, "b", 3).await;
    }
    for facet in ["a", "b"] {
        deliver(&space.broker, facet, 300).await;
    }
    let unsettled = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let (others, done) = (space.another().await, Arc::new(AtomicU64::new(0)));
    let mut workers = JoinSet::new();
    for worker in 0..12u64 {
        let of = if worker % 2 == 0 { &space.broker } else { &others };
        let (broker, queue) = (of.clone(), of.queue("q"));
        let (unsettled, done) = (unsettled.clone(), done.clone());
        workers.spawn(async move {
            let mut round = worker;
            while done.load(Ordering::SeqCst) < 600 {
                round += 1;
                let batch = match round % 3 {
                    0 => queue.lease_many(100).await.unwrap(),
                    1 => queue.lease_many(2).await.unwrap(),
                    _ => queue.lease().await.unwrap().into_iter().collect(),
                };
                for delivery in &batch {
                    let now = &unsettled[usize::from(delivery.facet() == "b")];
                    assert!(now.fetch_add(1, Ordering::SeqCst) < MOST);
                }
                tokio::task::yield_now().await;
                for (n, delivery) in batch.into_iter().enumerate() {
                    let facet = usize::from(delivery.facet() == "b");
                    unsettled[facet].fetch_sub(1, Ordering::SeqCst);
                    match (round + n as u64) % 5 {
                        0 => delivery.nack().await.unwrap(),
                        1 => {
                            broker.ack(delivery.token()).await.unwrap();
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                        _ => {
                            delivery.ack().await.unwrap();
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            }
        });
    }
    while done.load(Ordering::SeqCst) < 600 && !workers.is_empty() {
        for facet in ["a", "b"] {
            let stats = queue.facet(facet).stats().await.unwrap();
            assert!(stats.leased <= MOST, "{stats:?}");
        }
        if let Some(ended) = workers.try_join_next() {
            ended.unwrap();
        }
    }
    workers.join_all().await;
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.acked, stats.waiting, stats.leased), (600, 0, 0));
    end(space, queue, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_workers_at_once_never_hold_one_too_many() {
    never_over(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_workers_at_once_never_hold_one_too_many_of_a_default() {
    never_over(true).await;
}

#[tokio::test]
async fn each_way_to_settle_frees_a_slot() {
    let (space, queue) = Space::with_queue().await;
    limit(&queue, "a", 1).await;
    deliver(&space.broker, "a", 9).await;
    lease(&queue).await.ack().await.unwrap();
    let next = lease(&queue).await;
    assert_eq!(number(&next), 1);
    assert!(nothing(&queue).await);
    next.nack().await.unwrap();
    let next = lease(&queue).await;
    assert_eq!(number(&next), 1, "that came back to the front");
    next.nack_after(10 * SECOND).await.unwrap();
    let next = lease(&queue).await;
    assert_eq!(number(&next), 2);
    next.fail("broken").await.unwrap();
    let next = lease(&queue).await;
    assert_eq!(number(&next), 3);
    next.ack_cost(2.0).await.unwrap();
    let next = lease(&queue).await;
    assert_eq!(number(&next), 4);
    assert!(nothing(&queue).await);
    next.hold_facet(MS).await.unwrap();
    assert!(nothing(&queue).await);
    space.clock.advance(MS);
    let next = lease(&queue).await;
    assert_eq!(number(&next), 4);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.leased, stats.delayed, stats.waiting), (1, 2, 4));
    next.ack().await.unwrap();
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn the_slot_of_a_worker_that_died_is_free_when_its_lease_ends() {
    let (space, queue) = Space::with_queue().await;
    limit(&queue, "a", 2).await;
    deliver(&space.broker, "a", 4).await;
    let crashed = queue.lease().lasting(10 * SECOND).await.unwrap().unwrap();
    let alive = queue.lease().lasting(60 * SECOND).await.unwrap().unwrap();
    let token = crashed.token().clone();
    drop(crashed);
    space.clock.advance(10 * SECOND - MS);
    assert!(nothing(&queue).await);
    space.clock.advance(MS);
    let again = lease(&queue).await;
    assert_eq!((number(&again), again.attempt().get(), again.crashes()), (0, 2, 1));
    assert!(nothing(&queue).await);
    assert!(matches!(space.broker.ack(&token).await, Err(Error::LeaseLost(_))));
    assert!(nothing(&queue).await, "what was lost frees nothing");
    alive.ack().await.unwrap();
    assert_eq!(number(&lease(&queue).await), 2);
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn a_lease_of_many_that_ends_frees_its_slots_and_keeps_the_order() {
    let (space, queue) = Space::with_queue().await;
    limit(&queue, "a", 3).await;
    deliver(&space.broker, "a", 6).await;
    let lost = queue.lease_many(100).lasting(SECOND).await.unwrap();
    assert_eq!(lost.len(), 3);
    space.clock.advance(SECOND);
    let again = queue.lease_many(100).await.unwrap();
    assert_eq!(again.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(space.broker.ack_all(again).await.unwrap().is_empty());
    let rest = queue.lease_many(100).await.unwrap();
    assert_eq!(rest.iter().map(number).collect::<Vec<_>>(), [3, 4, 5]);
    assert!(space.broker.ack_all(rest).await.unwrap().is_empty());
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn a_limit_that_is_raised_lowered_or_removed_holds_at_once() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 20).await;
    let mut held: Vec<_> = queue.lease_many(4).await.unwrap();
    limit(&queue, "a", 2).await;
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.facets_ready, stats.facets_parked), (0, 1), "it is over its limit");
    for _ in 0..2 {
        assert!(nothing(&queue).await);
        held.pop().unwrap().ack().await.unwrap();
    }
    assert!(nothing(&queue).await, "two are leased, as many as may be");
    held.pop().unwrap().ack().await.unwrap();
    held.push(lease(&queue).await);
    assert!(nothing(&queue).await);
    limit(&queue, "a", 3).await;
    held.push(lease(&queue).await);
    assert!(nothing(&queue).await);
    limit(&queue, "a", None).await;
    held.extend(queue.lease_many(5).await.unwrap());
    assert_eq!(held.len(), 8);
    assert!(space.broker.ack_all(held).await.unwrap().is_empty());
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn a_default_that_changes_holds_at_once_for_each_of_three_hundred_facets() {
    let (space, queue) = Space::with_queue().await;
    limit_each(&queue, 1).await;
    let messages: Vec<_> =
        (0..1200).map(|n| message(&format!("f{}", n % 300), "t", n / 300)).collect();
    space.broker.deliver_all(&messages).await.unwrap();
    let states = async || {
        let stats = queue.stats().await.unwrap();
        (stats.facets_ready, stats.facets_parked)
    };
    let mut held = queue.lease_many(1000).await.unwrap();
    assert_eq!((held.len(), states().await), (300, (0, 300)));
    limit_each(&queue, 2).await;
    assert_eq!(states().await, (300, 0));
    held.extend(queue.lease_many(1000).await.unwrap());
    assert_eq!((held.len(), states().await), (600, (0, 300)));
    limit_each(&queue, None).await;
    assert_eq!(states().await, (300, 0));
    limit_each(&queue, 1).await;
    assert_eq!(states().await, (0, 300));
    limit_each(&queue, 3).await;
    assert_eq!(states().await, (300, 0));
    queue.configure(|queue| queue.facets.rate = Some(Rate::new(1, SECOND))).await.unwrap();
    held.extend(queue.lease_many(1000).await.unwrap());
    assert_eq!((held.len(), states().await), (900, (0, 300)));
    queue.configure(|queue| queue.facets = FacetSettings::default()).await.unwrap();
    assert_eq!(states().await, (300, 0));
    assert!(space.broker.ack_all(held).await.unwrap().is_empty());
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn a_default_that_changes_reaches_all_facets_though_another_setting_changes_meanwhile() {
    let (space, queue) = Space::with_queue().await;
    let messages: Vec<_> =
        (0..1200).map(|n| message(&format!("f{}", n % 600), "t", n / 600)).collect();
    space.broker.deliver_all(&messages).await.unwrap();
    for round in 0..5 {
        limit_each(&queue, 1).await;
        let held = queue.lease_many(1000).await.unwrap();
        assert_eq!(held.len(), 600);
        let done = AtomicU64::new(0);
        let others = async |n: u32| {
            let mut attempts = 20 + n * 100_000;
            while done.load(Ordering::SeqCst) == 0 {
                attempts += 1;
                queue.configure(|queue| queue.max_attempts = attempts).await.unwrap();
            }
        };
        let change = async {
            limit_each(&queue, None).await;
            done.store(1, Ordering::SeqCst);
        };
        tokio::join!(others(0), others(1), change);
        let stats = queue.stats().await.unwrap();
        assert_eq!((stats.facets_ready, stats.facets_parked), (600, 0), "in round {round}");
        for delivery in held {
            delivery.nack().await.unwrap();
        }
        queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    }
    end(space, queue, &[]).await;
}

// Who waits is woken.

/// A server with a broker and a queue `q` that takes everything, by the clock of Redis.
async fn alone() -> (Server, Broker, Queue) {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    (server, broker, queue)
}

/// Leases one in a task, waiting for a long time; returns when it blocks.
async fn waiting(server: &Server, queue: &Queue) -> JoinHandle<Result<Option<Delivery>>> {
    let task = tokio::spawn(queue.lease().wait(60 * SECOND).into_future());
    until("it is blocked", || async move { server.blocked().await == 1 }).await;
    task
}

/// One who waits has got something, long before it would ask by itself.
async fn woken(from: Instant, task: JoinHandle<Result<Option<Delivery>>>) -> Delivery {
    let delivery = task.await.unwrap().unwrap().unwrap();
    assert!(from.elapsed() < 2 * SECOND, "{:?}", from.elapsed());
    delivery
}

#[tokio::test]
async fn a_slot_that_frees_wakes_one_who_waits() {
    let (server, broker, queue) = alone().await;
    limit(&queue, "a", 1).await;
    deliver(&broker, "a", 9).await;
    let mut held = lease(&queue).await;
    for n in 1..5 {
        let task = waiting(&server, &queue).await;
        let from = Instant::now();
        match n {
            1 => held.ack().await.unwrap(),
            2 => held.nack_after(60 * SECOND).await.unwrap(),
            3 => held.nack().await.unwrap(),
            _ => held.ack_cost(7.0).await.unwrap(),
        }
        held = woken(from, task).await;
    }
    let task = waiting(&server, &queue).await;
    let from = Instant::now();
    held.extend(300 * MS).await.unwrap();
    limit(&queue, "a", 2).await;
    woken(from, task).await.ack().await.unwrap();
}

#[tokio::test]
async fn a_pause_a_limit_or_a_rate_that_is_lifted_wakes_one_who_waits() {
    let (server, broker, queue) = alone().await;
    deliver(&broker, "a", 9).await;
    let facet = queue.facet("a");
    facet.pause().await.unwrap();
    let task = waiting(&server, &queue).await;
    let from = Instant::now();
    facet.resume().await.unwrap();
    let _one = woken(from, task).await;

    queue.pause().await.unwrap();
    let task = waiting(&server, &queue).await;
    let from = Instant::now();
    queue.resume().await.unwrap();
    let _two = woken(from, task).await;

    limit_each(&queue, 2).await;
    let task = waiting(&server, &queue).await;
    let from = Instant::now();
    limit_each(&queue, 3).await;
    let _three = woken(from, task).await;

    limit_each(&queue, None).await;
    rate(&queue, "a", Rate::new(1, 3600 * SECOND)).await;
    assert!(queue.pull().await.unwrap().is_some());
    let task = waiting(&server, &queue).await;
    let from = Instant::now();
    rate(&queue, "a", None).await;
    woken(from, task).await.ack().await.unwrap();
}

#[tokio::test]
async fn a_rate_that_allows_the_next_wakes_one_who_waits() {
    let (server, broker, queue) = alone().await;
    rate(&queue, "a", Rate::new(2, SECOND)).await;
    deliver(&broker, "a", 4).await;
    let from = Instant::now();
    assert!(queue.pull().await.unwrap().is_some());
    for n in 1..4 {
        let task = waiting(&server, &queue).await;
        let delivery = task.await.unwrap().unwrap().unwrap();
        let took = from.elapsed() + MS;
        assert!((n * SECOND / 2 - 5 * MS..n * SECOND / 2 + SECOND).contains(&took), "{took:?}");
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_hold_that_ends_wakes_one_who_waits() {
    let (server, broker, queue) = alone().await;
    deliver(&broker, "a", 1).await;
    let from = Instant::now();
    lease(&queue).await.hold_facet(500 * MS).await.unwrap();
    let task = waiting(&server, &queue).await;
    let delivery = woken(from, task).await;
    assert!(from.elapsed() >= 490 * MS, "{:?}", from.elapsed());
    delivery.ack().await.unwrap();
}

#[tokio::test]
async fn a_hold_that_is_said_while_somebody_waits_wakes_that_one_when_it_ends() {
    let (server, broker, queue) = alone().await;
    deliver(&broker, "a", 1).await;
    let held = lease(&queue).await;
    let task = waiting(&server, &queue).await;
    let from = Instant::now();
    held.hold_facet(500 * MS).await.unwrap();
    woken(from, task).await.ack().await.unwrap();
}

#[tokio::test]
async fn a_rate_that_another_process_uses_up_wakes_one_who_waits_when_it_allows_the_next() {
    let (server, broker, queue) = alone().await;
    rate(&queue, "a", Rate::new(2, SECOND)).await;
    let task = waiting(&server, &queue).await;
    let other = server.builder().connect().await.unwrap();
    // It is served to the one who waits, or to the other one: then what is left is, half a second later.
    queue.pause().await.unwrap();
    deliver(&broker, "a", 2).await;
    let from = Instant::now();
    queue.resume().await.unwrap();
    let _ = other.queue("q").pull().await.unwrap();
    woken(from, task).await.ack().await.unwrap();
}

// How fast it is served.

#[tokio::test]
async fn of_a_rate_the_burst_is_served_at_once_and_then_one_after_the_other() {
    let (space, queue) = Space::with_queue().await;
    rate(&queue, "a", Rate::new(10, SECOND).burst(4)).await;
    deliver(&space.broker, "a", 40).await;
    assert_eq!(queue.pull_many(100).await.unwrap().len(), 4);
    for _ in 0..5 {
        assert!(queue.pull().await.unwrap().is_none());
        space.clock.advance(99 * MS);
        assert!(queue.pull().await.unwrap().is_none());
        space.clock.advance(MS);
        assert!(queue.pull().await.unwrap().is_some());
    }
    space.clock.advance(250 * MS);
    assert_eq!(queue.pull_many(100).await.unwrap().len(), 2);
    space.clock.advance(50 * MS);
    assert_eq!(queue.pull_many(100).await.unwrap().len(), 1);
    space.clock.advance(3600 * SECOND);
    assert_eq!(queue.pull_many(100).await.unwrap().len(), 4, "no more than the burst is kept");
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn pulls_and_leases_use_up_a_rate_alike_and_what_comes_back_uses_it_again() {
    let (space, queue) = Space::with_queue().await;
    rate(&queue, "a", Rate::new(1, SECOND).burst(3)).await;
    deliver(&space.broker, "a", 9).await;
    assert!(queue.pull().await.unwrap().is_some());
    lease(&queue).await.ack().await.unwrap();
    lease(&queue).await.nack().await.unwrap();
    assert!(queue.lease_many(9).await.unwrap().is_empty());
    assert!(queue.pull_many(9).await.unwrap().is_empty());
    space.clock.advance(SECOND);
    let again = lease(&queue).await;
    assert_eq!((number(&again), again.attempt().get()), (2, 2));
    again.ack().await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn a_facet_that_is_out_of_its_rate_keeps_nobody_waiting() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.facets.rate = Some(Rate::new(5, SECOND).burst(2))).await.unwrap();
    rate(&queue, "fast", Rate::new(1000, SECOND).burst(1000)).await;
    for facet in ["a", "b", "fast"] {
        deliver(&space.broker, facet, 30).await;
    }
    let served = pulled(&queue, 100).await;
    assert_eq!(counts(&served), [("a", 2), ("b", 2), ("fast", 30)].into());
    space.clock.advance(200 * MS);
    assert_eq!(counts(&pulled(&queue, 100).await), [("a", 1), ("b", 1)].into());
    space.clock.advance(SECOND);
    assert_eq!(counts(&pulled(&queue, 100).await), [("a", 2), ("b", 2)].into());
    end(space, queue, &["fast"]).await;
}

#[tokio::test]
async fn in_no_period_more_is_served_than_the_burst_and_the_rate() {
    let (space, queue) = Space::with_queue().await;
    let (count, period, burst) = (7, 1000, 3);
    rate(&queue, "a", Rate::new(count, period * MS).burst(burst)).await;
    deliver(&space.broker, "a", 900).await;
    let (mut served, mut random) = (Vec::new(), 88_172_645_463_325_252u64);
    for _ in 0..600 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let taken = match random % 3 {
            0 => queue.pull_many(9).await.unwrap().len(),
            1 => usize::from(queue.pull().await.unwrap().is_some()),
            _ => {
                let batch = queue.lease_many(2).await.unwrap();
                let count = batch.len();
                assert!(space.broker.ack_all(batch).await.unwrap().is_empty());
                count
            }
        };
        served.extend(std::iter::repeat_n(space.clock.now(), taken));
        let pause = if random % 40 == 0 { 3000 } else { random / 64 % 200 };
        space.clock.advance(Duration::from_millis(pause));
    }
    assert!(served.len() > 300, "{}", served.len());
    for (n, from) in served.iter().enumerate() {
        let of_it = served[n..].iter().take_while(|at| **at < from + u64::from(period)).count();
        assert!(of_it <= (burst + count) as usize, "{of_it} from {from} on");
    }
    // One who asks all the time gets all of it.
    space.clock.advance(10 * SECOND);
    let from = space.clock.now();
    let mut taken = 0;
    while space.clock.now() < from + 10_000 {
        taken += queue.pull_many(9).await.unwrap().len();
        space.clock.advance(10 * MS);
    }
    assert!((72..=73).contains(&taken), "{taken}");
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn a_rate_that_is_removed_or_raised_lets_the_facet_go_at_once() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 20).await;
    let slow = Rate::new(1, 3600 * SECOND);
    rate(&queue, "a", slow).await;
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 1);
    rate(&queue, "a", slow.burst(3)).await;
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 2);
    rate(&queue, "a", None).await;
    assert_eq!(queue.pull_many(3).await.unwrap().len(), 3);
    rate(&queue, "a", slow).await;
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 0, "what was served before counts");
    rate(&queue, "a", Rate::new(1, SECOND)).await;
    space.clock.advance(SECOND);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 1, "within a second of the new rate");
    space.clock.advance(SECOND);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 1);
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn a_default_rate_that_is_raised_lets_all_facets_go_at_once() {
    let (space, queue) = Space::with_queue().await;
    let messages: Vec<_> =
        (0..600).map(|n| message(&format!("f{}", n % 200), "t", n / 200)).collect();
    space.broker.deliver_all(&messages).await.unwrap();
    let set = async |rate| queue.configure(|queue| queue.facets.rate = rate).await.unwrap();
    set(Some(Rate::new(1, 86_400 * SECOND))).await;
    assert_eq!(queue.pull_many(1000).await.unwrap().len(), 200);
    set(Some(Rate::new(1, SECOND))).await;
    space.clock.advance(SECOND);
    assert_eq!(queue.pull_many(1000).await.unwrap().len(), 200);
    assert_eq!(queue.pull_many(1000).await.unwrap().len(), 0);
    set(None).await;
    assert_eq!(queue.pull_many(1000).await.unwrap().len(), 200);
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn a_rate_outlives_the_messages_of_its_facet() {
    let (space, queue) = Space::with_queue().await;
    rate(&queue, "a", Rate::new(1, 10 * SECOND)).await;
    for _ in 0..3 {
        deliver(&space.broker, "a", 1).await;
        assert!(queue.pull().await.unwrap().is_some());
        deliver(&space.broker, "a", 1).await;
        assert!(queue.pull().await.unwrap().is_none(), "it has to wait though it was empty");
        space.clock.advance(10 * SECOND - MS);
        assert!(queue.pull().await.unwrap().is_none());
        space.clock.advance(MS);
        assert!(queue.pull().await.unwrap().is_some());
        space.clock.advance(10 * SECOND);
    }
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn a_facet_has_to_be_let_by_all_its_gates() {
    let (space, queue) = Space::with_queue().await;
    limit(&queue, "a", 1).await;
    rate(&queue, "a", Rate::new(1, SECOND)).await;
    deliver(&space.broker, "a", 9).await;
    let one = lease(&queue).await;
    space.clock.advance(2 * SECOND);
    assert!(nothing(&queue).await, "it is at its limit");
    one.ack().await.unwrap();
    let two = lease(&queue).await;
    two.ack().await.unwrap();
    assert!(nothing(&queue).await, "it is out of its rate");
    space.clock.advance(SECOND);
    let three = lease(&queue).await;
    three.hold_facet(5 * SECOND).await.unwrap();
    space.clock.advance(2 * SECOND);
    assert!(nothing(&queue).await, "it is held");
    queue.facet("a").pause().await.unwrap();
    space.clock.advance(3 * SECOND);
    assert!(nothing(&queue).await, "it is paused");
    queue.facet("a").resume().await.unwrap();
    lease(&queue).await.ack().await.unwrap();
    end(space, queue, &["a"]).await;
}

// Holds.

#[tokio::test]
async fn a_held_facet_is_not_served_until_then_and_the_others_are() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 3).await;
    deliver(&space.broker, "b", 2).await;
    let held = lease(&queue).await;
    assert_eq!((held.facet(), number(&held)), ("a", 0));
    held.hold_facet(10 * SECOND).await.unwrap();
    deliver(&space.broker, "a", 1).await;
    assert_eq!(pulled(&queue, 9).await, ["b", "b"]);
    space.clock.advance(10 * SECOND - MS);
    assert!(queue.pull().await.unwrap().is_none());
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.facets_parked, stats.came_back), (4, 1, 1));
    space.clock.advance(MS);
    let again = queue.lease_many(9).await.unwrap();
    let seen: Vec<_> = again.iter().map(|one| (number(one), one.attempt().get())).collect();
    assert_eq!(seen, [(0, 1), (1, 1), (2, 1), (0, 1)], "to the front, and that was no attempt");
    assert!(space.broker.ack_all(again).await.unwrap().is_empty());
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn a_hold_is_no_attempt_however_often_it_is_said() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 2).await.unwrap();
    deliver(&space.broker, "a", 1).await;
    for _ in 0..5 {
        let delivery = lease(&queue).await;
        assert_eq!((delivery.attempt().get(), delivery.crashes()), (1, 0));
        delivery.hold_facet(SECOND).await.unwrap();
        space.clock.advance(SECOND);
    }
    assert_eq!(queue.stats().await.unwrap().dead, 0);
    lease(&queue).await.ack().await.unwrap();
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn the_longer_of_two_holds_stays() {
    for longer_first in [true, false] {
        let (space, queue) = Space::with_queue().await;
        deliver(&space.broker, "a", 2).await;
        let (one, two) = (lease(&queue).await, lease(&queue).await);
        let (long, short) = if longer_first { (one, two) } else { (two, one) };
        if longer_first {
            long.hold_facet(20 * SECOND).await.unwrap();
            short.hold_facet(5 * SECOND).await.unwrap();
        } else {
            short.hold_facet(5 * SECOND).await.unwrap();
            long.hold_facet(20 * SECOND).await.unwrap();
        }
        space.clock.advance(20 * SECOND - MS);
        assert!(nothing(&queue).await);
        space.clock.advance(MS);
        let back = queue.lease_many(9).await.unwrap();
        assert_eq!(back.len(), 2);
        assert!(space.broker.ack_all(back).await.unwrap().is_empty());
        end(space, queue, &[]).await;
    }
}

#[tokio::test]
async fn a_hold_that_has_ended_does_not_make_the_next_one_shorter() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let (one, two) = (lease(&queue).await, lease(&queue).await);
    one.hold_facet(SECOND).await.unwrap();
    space.clock.advance(2 * SECOND);
    two.hold_facet(SECOND).await.unwrap();
    assert!(nothing(&queue).await, "no call has seen yet that the first one has ended");
    space.clock.advance(SECOND);
    assert_eq!(queue.lease_many(9).await.unwrap().len(), 2);
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn what_is_delivered_to_an_empty_facet_that_is_held_waits() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    lease(&queue).await.hold_facet(SECOND).await.unwrap();
    assert_eq!(queue.facet("a").purge().await.unwrap(), 1);
    deliver(&space.broker, "a", 1).await;
    assert!(nothing(&queue).await);
    space.clock.advance(SECOND);
    lease(&queue).await.ack().await.unwrap();
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn who_has_lost_the_lease_holds_nothing() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let lost = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    space.clock.advance(SECOND);
    let holder = lease(&queue).await;
    assert!(matches!(lost.hold_facet(60 * SECOND).await, Err(Error::LeaseLost(_))));
    let acked = lease(&queue).await;
    let token = acked.token().clone();
    acked.ack().await.unwrap();
    let refused = space.broker.hold_facet(&token, 60 * SECOND).await;
    assert!(matches!(refused, Err(Error::LeaseLost(_))));
    holder.nack().await.unwrap();
    lease(&queue).await.ack().await.unwrap();
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn a_hold_is_1_ms_to_10_years() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let token = lease(&queue).await.token().clone();
    for bad in [Duration::ZERO, MS / 2, 3661 * 86_400 * SECOND, Duration::MAX] {
        let refused = space.broker.hold_facet(&token, bad).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{bad:?}");
    }
    space.broker.hold_facet(&token, MS).await.unwrap();
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn a_held_facet_keeps_its_turn() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 30).await;
    deliver(&space.broker, "b", 30).await;
    let mut served = Vec::new();
    for _ in 0..10 {
        let one = lease(&queue).await;
        if one.facet() == "a" {
            one.hold_facet(MS).await.unwrap();
        } else {
            one.ack().await.unwrap();
        }
        space.clock.advance(MS);
        served.extend(pulled(&queue, 2).await);
    }
    let of_b = counts(&served)["b"];
    assert!((9..=11).contains(&of_b), "{served:?}");
    end(space, queue, &[]).await;
}

// Intake.

fn refused(outcome: Result<impl Sized>, of: (&str, &str), because: Refusal) {
    let Err(Error::Refused { queue, facet, why }) = outcome else { panic!("it was delivered") };
    assert_eq!((&*queue, &*facet, why), (of.0, of.1, because));
}

#[tokio::test]
async fn of_a_delivery_that_one_queue_refuses_nothing_is_done_anywhere() {
    let (space, queue) = Space::with_queue().await;
    let other = space.broker.register_queue("other", ".").await.unwrap();
    let mut listener = space.broker.listen("*").await.unwrap();
    deliver(&space.broker, "a", 2).await;
    for _ in 0..2 {
        listener.next().await.unwrap().unwrap();
    }
    queue.facet("a").pause_intake().await.unwrap();
    queue.facet("a").pause_intake().await.unwrap();
    let outcome = space.broker.deliver(&message("a", "t", 7)).await;
    refused(outcome, ("q", "a"), Refusal::IntakePaused);
    let batch = [message("b", "t", 7), message("a", "t", 8), message("c", "t", 9)];
    refused(space.broker.deliver_all(&batch).await, ("q", "a"), Refusal::IntakePaused);
    let (stats, others) = (queue.stats().await.unwrap(), other.stats().await.unwrap());
    assert_eq!((stats.waiting, stats.delivered, stats.refused), (2, 2, 2));
    assert_eq!((others.waiting, others.delivered, others.refused), (2, 2, 0));
    space.broker.deliver(&message("b", "t", 10)).await.unwrap();
    assert_eq!(listener.next().await.unwrap().unwrap().message["n"], 10, "the first it hears");
    assert_eq!(counts(&pulled(&queue, 9).await), [("a", 2), ("b", 1)].into(), "what waits goes");
    queue.facet("a").resume_intake().await.unwrap();
    space.broker.deliver(&message("a", "t", 11)).await.unwrap();
    assert_eq!(pulled(&queue, 9).await, ["a"]);
    while other.pull().await.unwrap().is_some() {}
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn a_queue_whose_intake_is_paused_takes_nothing_at_all_and_is_served() {
    let (space, queue) = Space::with_queue().await;
    let google = space.broker.register_queue("google", "google").await.unwrap();
    deliver(&space.broker, "a", 2).await;
    queue.pause_intake().await.unwrap();
    // A facet cannot open what its queue has closed.
    queue.facet("b").configure(|facet| facet.weight = Some(2.0)).await.unwrap();
    for facet in ["a", "b"] {
        let outcome = space.broker.deliver(&message(facet, "google", 1)).await;
        refused(outcome, ("q", facet), Refusal::IntakePaused);
    }
    assert_eq!(google.stats().await.unwrap().delivered, 0);
    lease(&queue).await.nack().await.unwrap();
    assert_eq!(pulled(&queue, 9).await.len(), 2, "also what comes back");
    assert_eq!(queue.stats().await.unwrap().refused, 2);
    queue.resume_intake().await.unwrap();
    space.broker.deliver(&message("a", "google", 1)).await.unwrap();
    assert_eq!(google.pull_many(9).await.unwrap().len(), 1);
    end(space, queue, &["b"]).await;
}

#[tokio::test]
async fn what_is_delayed_is_refused_too_and_nothing_is_written() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("a").pause_intake().await.unwrap();
    let before = space.keys().await;
    let late = message("a", "t", 1);
    let late = fairlane::Message::new(&late).delay(SECOND).key("once");
    refused(space.broker.deliver(late).await, ("q", "a"), Refusal::IntakePaused);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.delayed, stats.delivered, stats.refused), (0, 0, 1));
    let mut after = space.keys().await;
    after.retain(|key| !key.ends_with(":clock"));
    assert_eq!(after, before, "a count, and nothing else");
    queue.facet("a").resume_intake().await.unwrap();
    let again = message("a", "t", 1);
    let again = fairlane::Message::new(&again).key("once");
    assert!(!space.broker.deliver(again).await.unwrap().duplicate);
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn of_deliveries_at_the_same_time_only_those_of_the_facet_are_refused() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("bad").pause_intake().await.unwrap();
    limit_waiting(&queue, "full", 3).await;
    let facet = |n: u64| match n % 10 {
        3 => "bad",
        7 => "full",
        _ => "good",
    };
    let messages: Vec<_> = (0..200).map(|n| message(facet(n), "t", n)).collect();
    let outcomes = join_all(messages.iter().map(|one| space.broker.deliver(one))).await;
    let mut full = 0;
    for (one, outcome) in messages.iter().zip(outcomes) {
        match one["facet"].as_str().unwrap() {
            "good" => drop(outcome.unwrap()),
            "bad" => refused(outcome, ("q", "bad"), Refusal::IntakePaused),
            _ if outcome.is_ok() => full += 1,
            _ => refused(outcome, ("q", "full"), Refusal::TooManyWaiting { most: 3 }),
        }
    }
    assert_eq!(full, 3);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.delivered, stats.refused), (163, 163, 37));
    let served = pulled(&queue, 999).await;
    assert_eq!(counts(&served), [("full", 3), ("good", 160)].into());
    end(space, queue, &["bad", "full"]).await;
}

// How many wait.

async fn limit_waiting(queue: &Queue, facet: &str, most: impl Into<Option<u64>>) {
    let most = most.into();
    queue.facet(facet).configure(|facet| facet.max_waiting = most).await.unwrap();
}

/// The dead letters of a facet, in the order in which they died.
async fn dead(queue: &Queue, facet: &str) -> Vec<u64> {
    let (mut numbers, mut from) = (Vec::new(), Some(Cursor::default()));
    while let Some(cursor) = from {
        let (page, next) = queue.dead_letters().of(facet).page(cursor).await.unwrap();
        for letter in page {
            assert_eq!((letter.death, &*letter.facet), (Death::Overflow, facet));
            numbers.push(letter.message.unwrap()["n"].as_u64().unwrap());
        }
        from = next;
    }
    numbers
}

async fn waiting_of(queue: &Queue, facet: &str) -> u64 {
    queue.facet(facet).stats().await.unwrap().waiting
}

#[tokio::test]
async fn a_delivery_to_a_facet_that_is_full_is_refused_until_there_is_room() {
    let (space, queue) = Space::with_queue().await;
    limit_waiting(&queue, "a", 3).await;
    deliver(&space.broker, "a", 3).await;
    let full = Refusal::TooManyWaiting { most: 3 };
    refused(space.broker.deliver(&message("a", "t", 9)).await, ("q", "a"), full);
    deliver(&space.broker, "b", 9).await;
    let leased = lease(&queue).await;
    assert_eq!(leased.facet(), "a");
    deliver(&space.broker, "a", 1).await;
    refused(space.broker.deliver(&message("a", "t", 9)).await, ("q", "a"), full);
    leased.nack().await.unwrap();
    assert_eq!(waiting_of(&queue, "a").await, 4, "what comes back has its place");
    refused(space.broker.deliver(&message("a", "t", 9)).await, ("q", "a"), full);
    limit_waiting(&queue, "a", 5).await;
    deliver(&space.broker, "a", 1).await;
    limit_waiting(&queue, "a", None).await;
    deliver(&space.broker, "a", 9).await;
    assert_eq!(queue.stats().await.unwrap().refused, 3);
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn a_batch_that_brings_more_than_may_wait_is_refused_as_a_whole() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.facets.max_waiting = Some(5)).await.unwrap();
    limit_waiting(&queue, "big", 7).await;
    let batch = |facet: &str, n: u64| (0..n).map(|n| message(facet, "t", n)).collect::<Vec<_>>();
    let mut both = batch("b", 2);
    both.extend(batch("a", 6));
    let full = Refusal::TooManyWaiting { most: 5 };
    refused(space.broker.deliver_all(&both).await, ("q", "a"), full);
    assert_eq!(queue.stats().await.unwrap().delivered, 0);
    space.broker.deliver_all(&batch("a", 5)).await.unwrap();
    space.broker.deliver_all(&batch("big", 7)).await.unwrap();
    let outcome = space.broker.deliver_all(&batch("big", 1)).await;
    refused(outcome, ("q", "big"), Refusal::TooManyWaiting { most: 7 });
    let late: Vec<_> = batch("a", 20);
    for one in &late {
        space.broker.deliver(fairlane::Message::new(one).delay(SECOND)).await.unwrap();
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.delayed, stats.refused), (12, 20, 2));
    end(space, queue, &["big"]).await;
}

#[tokio::test]
async fn the_oldest_make_room_and_are_dead_letters_in_their_order() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.overflow = Overflow::DropOldest).await.unwrap();
    limit_waiting(&queue, "a", 5).await;
    for n in 0..40 {
        space.broker.deliver(&message("a", "t", n)).await.unwrap();
        deliver(&space.broker, "b", 1).await;
    }
    assert_eq!((waiting_of(&queue, "a").await, waiting_of(&queue, "b").await), (5, 40));
    assert_eq!(dead(&queue, "a").await, (0..35).collect::<Vec<_>>());
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.died, stats.dead, stats.refused, stats.waiting), (35, 35, 0, 45));
    queue.facet("b").purge().await.unwrap();
    let left = queue.lease_many(9).await.unwrap();
    assert_eq!(left.iter().map(number).collect::<Vec<_>>(), (35..40).collect::<Vec<_>>());
    assert!(space.broker.ack_all(left).await.unwrap().is_empty());
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn of_a_batch_that_is_more_than_may_wait_the_last_stay() {
    let (space, queue) = Space::with_queue().await;
    let set = |queue: &mut QueueSettings| {
        queue.overflow = Overflow::DropOldest;
        queue.facets.max_waiting = Some(3);
    };
    deliver(&space.broker, "a", 2).await;
    queue.configure(set).await.unwrap();
    let batch: Vec<_> = (2..302).map(|n| message("a", "t", n)).collect();
    space.broker.deliver_all(&batch).await.unwrap();
    assert_eq!(waiting_of(&queue, "a").await, 3);
    assert_eq!(dead(&queue, "a").await, (0..299).collect::<Vec<_>>());
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.delivered, stats.waiting, stats.died), (302, 3, 299));
    let left: Vec<_> = queue.peek(9).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|one| one.message.unwrap()["n"].as_u64()).collect();
    assert_eq!(left, [Some(299), Some(300), Some(301)]);
    end(space, queue, &[]).await;
}

#[tokio::test]
async fn a_limit_that_comes_late_takes_what_is_too_much_step_by_step() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 350).await;
    queue.configure(|queue| queue.overflow = Overflow::DropOldest).await.unwrap();
    limit_waiting(&queue, "a", 10).await;
    for n in 350..354 {
        space.broker.deliver(&message("a", "t", n)).await.unwrap();
    }
    assert_eq!(waiting_of(&queue, "a").await, 10);
    assert_eq!(dead(&queue, "a").await, (0..344).collect::<Vec<_>>());
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn dead_letters_of_too_many_go_back_in_their_order() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.overflow = Overflow::DropOldest).await.unwrap();
    limit_waiting(&queue, "a", 1).await;
    deliver(&space.broker, "a", 120).await;
    limit_waiting(&queue, "a", None).await;
    queue.pull().await.unwrap().unwrap();
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 119);
    let back: Vec<_> = queue.lease_many(200).await.unwrap();
    assert_eq!(back.iter().map(number).collect::<Vec<_>>(), (0..119).collect::<Vec<_>>());
    assert!(space.broker.ack_all(back).await.unwrap().is_empty());
    end(space, queue, &["a"]).await;
}

#[tokio::test]
async fn what_somebody_else_put_into_a_list_makes_room_too_and_is_not_lost() {
    let (space, queue) = Space::with_queue().await;
    let default = |queue: &mut QueueSettings| *queue = QueueSettings::default();
    let bound = |queue: &mut QueueSettings| {
        queue.facets.max_waiting = Some(1);
        queue.overflow = Overflow::DropOldest;
    };
    deliver(&space.broker, "a", 1).await;
    let list = space.of("q", "f:a");
    let first: String = run(&["LINDEX", &list, "0"]).await;
    run::<()>(&["RPUSH", &list, "not ours", "not ours either", &first, &first]).await;
    queue.configure(bound).await.unwrap();
    deliver(&space.broker, "a", 1).await;
    let (letters, _) = queue.dead_letters().of("a").page(Cursor::default()).await.unwrap();
    let ids: std::collections::HashSet<_> = letters.iter().map(|letter| letter.id).collect();
    assert_eq!((letters.len(), ids.len()), (5, 5), "each with a number of its own");
    let bodies: Vec<_> = letters
        .iter()
        .filter_map(|letter| letter.message.as_ref().err().map(|error| error.body.to_vec()))
        .collect();
    assert_eq!(bodies, [b"not ours".to_vec(), b"not ours either".to_vec()]);
    queue.dead_letters().purge().await.unwrap();
    queue.configure(default).await.unwrap();
    assert!(queue.pull().await.unwrap().is_some());
    space.delete().await;
}

#[tokio::test]
async fn defaults_that_were_broken_off_can_be_said_again() {
    let (space, queue) = Space::with_queue().await;
    let month = 30 * 24 * 3600 * SECOND;
    queue.configure(|queue| queue.facets.rate = Some(Rate::new(1, month))).await.unwrap();
    let messages: Vec<_> = (0..800).map(|n| message(&format!("f{}", n % 400), "t", n)).collect();
    space.broker.deliver_all(&messages).await.unwrap();
    assert_eq!(pulled(&queue, 1000).await.len(), 400);
    assert_eq!(queue.stats().await.unwrap().facets_parked, 400);
    // As if whoever removed the rate had gone before any facet was decided on.
    run::<()>(&["DEL", &space.of("q", "settings")]).await;
    let found = queue.doctor().await.unwrap();
    assert_eq!(found.len(), 400, "each of them is stuck: {:?}", found.first());
    queue.configure(|queue| queue.facets.rate = None).await.unwrap();
    assert_eq!(queue.stats().await.unwrap().facets_ready, 400);
    assert_eq!(queue.doctor().await.unwrap(), []);
    assert_eq!(pulled(&queue, 1000).await.len(), 400);
    space.delete().await;
}

#[tokio::test]
async fn those_who_are_refused_slow_nobody_who_delivers_beside_them() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    queue.facet("closed").pause_intake().await.unwrap();
    queue.facet("full").configure(|facet| facet.max_waiting = Some(2)).await.unwrap();
    let messages: Vec<_> =
        (0..90).map(|n| message(["closed", "full", "open"][n % 3], "t", n as u64)).collect();
    server.run::<()>(&["CONFIG", "RESETSTAT"]).await;
    let delivered = join_all(messages.iter().map(|message| broker.deliver(message))).await;
    let count = |facet: usize| {
        delivered.iter().skip(facet).step_by(3).filter(|receipt| receipt.is_ok()).count()
    };
    assert_eq!([count(0), count(1), count(2)], [0, 2, 30], "as many as there is room for");
    assert!(server.calls("evalsha").await < 10, "they go together all the same");
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.refused, stats.waiting), (30 + 28, 32));
}

#[tokio::test]
async fn what_one_queue_refuses_takes_no_room_in_another() {
    let space = Space::new().await;
    let closed = space.broker.register_queue("a", "t").await.unwrap();
    let full = space.broker.register_queue("b", ".").await.unwrap();
    closed.pause_intake().await.unwrap();
    full.configure(|queue| queue.facets.max_waiting = Some(1)).await.unwrap();
    // The second goes to both, the third to the full one alone.
    let messages = [message("z", "u", 0), message("x", "t", 1), message("x", "u", 2)];
    let delivered = join_all(messages.iter().map(|message| space.broker.deliver(message))).await;
    assert!(delivered[0].is_ok() && delivered[2].is_ok(), "{delivered:?}");
    let Err(Error::Refused { queue, why, .. }) = &delivered[1] else { panic!("{delivered:?}") };
    assert_eq!((&**queue, *why), ("a", Refusal::IntakePaused));
    let refused = [closed.stats().await.unwrap().refused, full.stats().await.unwrap().refused];
    assert_eq!(refused, [1, 0]);
    space.delete().await;
}

#[tokio::test]
async fn who_delivers_behind_a_blocked_list_and_a_refused_message_is_served_all_the_same() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.facets.max_waiting = Some(100)).await.unwrap();
    queue.facet("closed").pause_intake().await.unwrap();
    run::<()>(&["SET", &space.of("q", "f:blocked"), "in the way"]).await;
    let facets = ["open", "blocked", "closed", "open", "open"];
    let messages: Vec<_> = facets.iter().map(|facet| message(facet, "t", 1)).collect();
    let delivered = join_all(messages.iter().map(|message| space.broker.deliver(message))).await;
    let fine: Vec<_> = delivered.iter().map(|receipt| receipt.is_ok()).collect();
    assert_eq!(fine, [true, false, false, true, true], "{delivered:?}");
    space.delete().await;
}
