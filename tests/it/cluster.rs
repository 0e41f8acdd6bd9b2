//! A broker on a Redis Cluster: what is promised holds while nodes die, slots move, and roles change.

use std::{
    collections::BTreeSet,
    future::IntoFuture,
    time::{Duration, Instant},
};

use fairlane::{Broker, BrokerBuilder, Cursor, Error, Message, testing::TestCluster};
use serde_json::Value;

use crate::support::{message, set_up, slot, until};

const SECOND: Duration = Duration::from_secs(1);

fn builder(cluster: &TestCluster) -> BrokerBuilder {
    <Broker>::builder().redis(cluster.url()).namespace("shop").deadline(20 * SECOND)
}

fn n_of(message: &Value) -> u64 {
    message["n"].as_u64().unwrap()
}

#[tokio::test]
async fn all_that_a_broker_does_it_does_on_a_cluster() {
    let cluster = TestCluster::start(3).await.unwrap();
    let broker = builder(&cluster).partitions(8).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let mut nodes = BTreeSet::new();
    for place in 0..8 {
        nodes.insert(
            cluster.primary_of(slot(&cluster, &format!("shop:{place}")).await).await.unwrap(),
        );
    }
    assert_eq!(nodes.len(), 3, "partitions are on all nodes");
    let mut listener = broker.listen("t*").await.unwrap();
    let batch: Vec<_> = (0..500).map(|n| message(&format!("f{}", n % 50), "t", n)).collect();
    assert_eq!(broker.deliver_all(&batch).await.unwrap().len(), 500);
    let mut heard = BTreeSet::new();
    while heard.len() < 500 {
        heard.insert(n_of(&listener.next().await.unwrap().unwrap().message));
    }
    assert_eq!(queue.stats().await.unwrap().waiting, 500);
    assert!(queue.doctor().await.unwrap().is_empty());
    assert_eq!(queue.peek(10).await.unwrap().len(), 10);
    let mut seen = BTreeSet::new();
    while let Some(message) = queue.pull().await.unwrap() {
        seen.insert(n_of(&message));
        if seen.len() == 100 {
            break;
        }
    }
    loop {
        let leased = queue.lease_many(100).await.unwrap();
        if leased.is_empty() {
            break;
        }
        seen.extend(leased.iter().map(|delivery| n_of(delivery.message().unwrap())));
        leased[0].extend(10 * SECOND).await.unwrap();
        assert!(broker.ack_all(leased).await.unwrap().is_empty());
    }
    assert_eq!(seen.len(), 500);
    // One who waits wakes for what comes to any node.
    for facet in ["a", "b", "c", "d", "e", "f"] {
        let waiting = tokio::spawn(queue.lease().wait(30 * SECOND).into_future());
        tokio::time::sleep(SECOND / 20).await;
        let from = Instant::now();
        broker.deliver(&message(facet, "t", 1)).await.unwrap();
        waiting.await.unwrap().unwrap().unwrap().bury("enough").await.unwrap();
        assert!(from.elapsed() < 2 * SECOND, "{:?}", from.elapsed());
    }
    let (mut dead, mut from) = (0, Some(Cursor::default()));
    while let Some(cursor) = from {
        let (page, next) = queue.dead_letters().page(cursor).await.unwrap();
        (dead, from) = (dead + page.len(), next);
    }
    assert_eq!(dead, 6);
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 6);
    queue.configure(|queue| queue.max_attempts = 3).await.unwrap();
    queue.facet("a").set_weight(2.0).await.unwrap();
    assert!(queue.facet("a").why().await.unwrap().gate.is_none());
    assert_eq!(queue.facet("a").purge().await.unwrap(), 1);
    queue.destroy().await.unwrap();
    assert!(broker.unregister_queue("q").await.is_ok());
}

#[tokio::test]
async fn a_namespace_that_is_not_divided_is_on_one_node_of_the_cluster() {
    let cluster = TestCluster::start(2).await.unwrap();
    let broker = builder(&cluster).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    queue.lease().await.unwrap().unwrap().ack().await.unwrap();
    // By the address of a node alone it is not reached, or only by luck.
    let other = 1 - cluster.primary_of(slot(&cluster, "shop").await).await.unwrap();
    let url = format!("redis://127.0.0.1:{}", cluster.port(other));
    let refused = <Broker>::builder().redis(url).namespace("shop").connect().await.err().unwrap();
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused:?}");
    assert!(refused.to_string().contains("redis-cluster://"), "{refused}");
}

#[tokio::test]
async fn while_a_slot_moves_calls_wait_and_then_go_on_where_it_is() {
    let cluster = TestCluster::start(2).await.unwrap();
    let broker = builder(&cluster).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    for n in 0..100 {
        broker.deliver(&message(&format!("f{}", n % 10), "t", n)).await.unwrap();
    }
    let leased = queue.lease_many(20).await.unwrap();
    let slot = slot(&cluster, "shop").await;
    let from = cluster.primary_of(slot).await.unwrap();
    let mut listener = broker.listen("t").await.unwrap();
    let waiting = tokio::spawn(broker.queue("q").lease().lasting(60 * SECOND).into_future());
    waiting.await.unwrap().unwrap().unwrap().nack().await.unwrap();
    let moving = cluster.begin_move(slot, 1 - from).await.unwrap();
    moving.keys(5).await.unwrap();
    // Its keys are on both nodes now: nothing can be done, and nothing is.
    let short = builder(&cluster).deadline(SECOND / 2).connect().await;
    let refused = short.err().unwrap();
    // Which of the two it is told, is by which keys are there still.
    let codes = ["ASK", "TRYAGAIN"];
    assert!(
        matches!(&refused, Error::Server { code, .. } if codes.contains(&&**code)),
        "{refused:?}"
    );
    let delivering = tokio::spawn({
        let broker = broker.clone();
        async move { broker.deliver(&message("late", "t", 100)).await }
    });
    let acking = tokio::spawn({
        let broker = broker.clone();
        async move { broker.ack_all(leased).await }
    });
    tokio::time::sleep(SECOND / 2).await;
    assert!(!delivering.is_finished() && !acking.is_finished());
    moving.end().await.unwrap();
    delivering.await.unwrap().unwrap();
    assert!(acking.await.unwrap().unwrap().is_empty());
    assert_eq!(n_of(&listener.next().await.unwrap().unwrap().message), 100);
    let mut left = BTreeSet::new();
    while let Some(message) = queue.pull().await.unwrap() {
        assert!(left.insert(n_of(&message)), "none is there twice");
    }
    assert_eq!(left.len(), 81);
    assert!(queue.doctor().await.unwrap().is_empty());
}

#[tokio::test]
async fn who_waits_while_a_slot_moves_wakes_for_what_comes_to_the_other_node() {
    let cluster = TestCluster::start(2).await.unwrap();
    let broker = builder(&cluster).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let waiting = tokio::spawn(queue.lease().wait(60 * SECOND).into_future());
    tokio::time::sleep(SECOND / 5).await;
    let slot = slot(&cluster, "shop").await;
    let from = cluster.primary_of(slot).await.unwrap();
    cluster.move_slot(slot, 1 - from).await.unwrap();
    tokio::time::sleep(SECOND / 5).await;
    let begun = Instant::now();
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    waiting.await.unwrap().unwrap().unwrap().ack().await.unwrap();
    assert!(begun.elapsed() < 6 * SECOND, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_failover_that_is_asked_for_loses_and_doubles_nothing() {
    let cluster = TestCluster::start_with_replicas(3, 1).await.unwrap();
    let broker = builder(&cluster).partitions(4).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let mut served = BTreeSet::new();
    let (mut delivered, mut n) = (BTreeSet::new(), 0);
    for primary in 0..3 {
        for _ in 0..100 {
            broker.deliver(&message(&format!("f{}", n % 20), "t", n)).await.unwrap();
            delivered.insert(n);
            n += 1;
        }
        let (failing, ()) = tokio::join!(cluster.fail_over(primary), async {
            for _ in 0..100 {
                // With a key it may be sent again.
                let body = message(&format!("f{}", n % 20), "t", n);
                let message = Message::new(&body).key(n);
                broker.deliver(message).await.unwrap();
                delivered.insert(n);
                n += 1;
            }
        });
        failing.unwrap();
        for _ in 0..150 {
            let delivery = queue.lease().wait(10 * SECOND).await.unwrap().unwrap();
            assert!(served.insert(n_of(delivery.message().unwrap())), "none is served twice");
            delivery.ack().await.unwrap();
        }
    }
    while let Some(delivery) = queue.lease().await.unwrap() {
        assert!(served.insert(n_of(delivery.message().unwrap())), "none is served twice");
        delivery.ack().await.unwrap();
    }
    assert_eq!(served, delivered);
    assert!(queue.doctor().await.unwrap().is_empty());
}

#[tokio::test]
async fn when_a_primary_is_frozen_its_replica_takes_over_and_calls_go_on() {
    let cluster = TestCluster::start_with_replicas(3, 1).await.unwrap();
    let broker = builder(&cluster).partitions(4).heartbeat(SECOND).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    for n in 0..40 {
        broker.deliver(&message(&format!("f{n}"), "t", n)).await.unwrap();
    }
    let frozen = cluster.primary_of(slot(&cluster, "shop:0").await).await.unwrap();
    let mut listener = broker.listen("after").await.unwrap();
    let waiting = broker.register_queue("later", "^after$").await.unwrap();
    let waiting = tokio::spawn(waiting.lease_many(1000).wait(60 * SECOND).into_future());
    tokio::time::sleep(SECOND / 5).await;
    cluster.freeze(frozen).unwrap();
    let from = Instant::now();
    // All partitions, those of the frozen node too. What may have been carried out is told.
    let mut doubtful = 0;
    for n in 0..40 {
        let body = message(&format!("f{n}"), "t", 100 + n);
        match broker.deliver(Message::new(&body).key("after")).await {
            Ok(_) => {}
            Err(Error::MaybeApplied(_)) => doubtful += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(from.elapsed() < 15 * SECOND, "{:?}", from.elapsed());
    assert_eq!(doubtful, 0, "what has a key is sent again");
    // Listeners and those who wait come back, too.
    until("a listener hears again", || async {
        broker.deliver(&message("x", "after", 1)).await.unwrap().listeners > 0
    })
    .await;
    while listener.next().await.unwrap().is_err() {}
    assert!(!waiting.await.unwrap().unwrap().is_empty());
    cluster.thaw(frozen).unwrap();
    cluster.agreed().await.unwrap();
    let mut served = BTreeSet::new();
    while let Some(message) = queue.pull().await.unwrap() {
        if message["topic"] == "t" {
            assert!(served.insert(n_of(&message)));
        }
    }
    assert_eq!(served.len(), 80);
}

#[tokio::test]
async fn a_cluster_that_has_lost_a_slot_refuses_and_comes_back() {
    let cluster = TestCluster::start(2).await.unwrap();
    set_up(&cluster, "appendfsync", "always").await;
    let broker = builder(&cluster).deadline(SECOND).partitions(4).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let dead = cluster.primary_of(slot(&cluster, "shop:1").await).await.unwrap();
    cluster.kill(dead).await.unwrap();
    let mut failed = 0;
    for n in 0..8 {
        if let Err(error) = broker.deliver(&message(&format!("f{n}"), "t", n)).await {
            assert!(matches!(error, Error::NotSent(_) | Error::MaybeApplied(_)), "{error:?}");
            failed += 1;
        }
    }
    assert!(failed > 0);
    cluster.launch(dead).await.unwrap();
    cluster.agreed().await.unwrap();
    let broker = builder(&cluster).connect().await.unwrap();
    for n in 0..8 {
        broker.deliver(&message(&format!("f{n}"), "t", 100 + n)).await.unwrap();
    }
    assert!(queue.stats().await.unwrap().waiting >= 8);
}

#[tokio::test]
async fn while_a_partition_is_away_workers_serve_the_others_as_fast_as_before() {
    let cluster = TestCluster::start(3).await.unwrap();
    // Otherwise all of it is down when a slot is.
    set_up(&cluster, "cluster-require-full-coverage", "no").await;
    let broker = builder(&cluster).partitions(6).heartbeat(SECOND).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let dead = cluster.primary_of(slot(&cluster, "shop:0").await).await.unwrap();
    // Of each partition something is in a hand when its node dies, and something waits.
    for n in 0..400 {
        broker.deliver(&message(&format!("f{n}"), "t", n)).await.unwrap();
    }
    let alive = |id: fairlane::MessageId| (id.to_string().parse::<u16>().unwrap() % 6) as usize;
    let mut there = Vec::new();
    for place in 0..6 {
        let node =
            cluster.primary_of(slot(&cluster, &format!("shop:{place}")).await).await.unwrap();
        there.push(node != dead);
    }
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let worker = queue.worker(move |delivery| {
        let told = told.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            told.send((alive(delivery.id()), Instant::now())).unwrap();
            Ok::<_, std::convert::Infallible>(())
        }
    });
    let stop = fairlane::CancellationToken::new();
    let working = worker.concurrency(4).stop_on(stop.clone()).signals(false).run();
    let working = tokio::spawn(working);
    for _ in 0..40 {
        heard.recv().await.unwrap();
    }
    cluster.kill(dead).await.unwrap();
    let killed = Instant::now();
    let (mut served, mut last) = (0, killed);
    let mut longest = Duration::ZERO;
    let left = 150;
    while served < left {
        let (place, at) = heard.recv().await.unwrap();
        if there[place] {
            served += 1;
            longest = longest.max(at.saturating_duration_since(last));
            last = at;
        }
    }
    println!("{left} others in {:?}, the longest pause {longest:?}", killed.elapsed());
    // Alone they take 0.75 s.
    assert!(killed.elapsed() < 3 * SECOND, "{:?}", killed.elapsed());
    assert!(longest < SECOND, "{longest:?}");
    // One that waits for what comes to the others, too.
    while served < there.iter().filter(|there| **there).count() * 90 {
        if tokio::time::timeout(SECOND, heard.recv()).await.is_err() {
            break;
        }
        served += 1;
    }
    let mut quick = 0;
    for n in 0..40 {
        let body = message(&format!("f{n}"), "t", 1000 + n);
        let sent = Instant::now();
        let broker = broker.clone();
        let sending = tokio::time::timeout(SECOND, async move { broker.deliver(&body).await });
        if sending.await.is_ok_and(|sent| sent.is_ok()) {
            heard.recv().await.unwrap();
            assert!(sent.elapsed() < SECOND, "{:?}", sent.elapsed());
            quick += 1;
        }
        if quick == 5 {
            break;
        }
    }
    assert_eq!(quick, 5);
    cluster.launch(dead).await.unwrap();
    cluster.agreed().await.unwrap();
    // What was in the hand of the worker comes back, or is settled; what waits there is served.
    until("all is served", || async {
        let stats = queue.stats().await.unwrap();
        stats.waiting == 0 && stats.leased == 0
    })
    .await;
    stop.cancel();
    let report = working.await.unwrap().unwrap();
    println!("{report:?}");
    assert_eq!(report.panicked, 0);
}
