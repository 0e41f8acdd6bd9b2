//! Durable: a call waits until replicas have what it did.

use std::time::{Duration, Instant};

use fairlane::{Broker, Error, ErrorKind, Invalid, Message, Queue, Replicas, testing::TestCluster};
use futures_util::future::join_all;

use crate::support::{Server, deliver, message};

const SECOND: Duration = Duration::from_secs(1);

async fn with_replica() -> (TestCluster, Broker, Queue) {
    let cluster = TestCluster::start_with_replicas(1, 1).await.unwrap();
    let broker = <Broker>::builder().redis(cluster.url()).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    (cluster, broker, queue)
}

#[tokio::test]
async fn a_delivery_and_an_ack_wait_until_replicas_have_them() {
    let (_cluster, broker, queue) = with_replica().await;
    let body = message("a", "t", 1);
    let durable = || Message::new(&body).durable(Replicas(1), 5 * SECOND);
    let receipt = broker.deliver(durable()).await.unwrap();
    assert_eq!((receipt.replicas, receipt.queues.len()), (Some(1), 1));
    assert_eq!(broker.deliver(&body).await.unwrap().replicas, None, "it was not asked for");
    let together = join_all((0..100).map(|_| broker.deliver(durable()))).await;
    assert!(together.into_iter().all(|receipt| receipt.unwrap().replicas == Some(1)));
    let batch = broker.deliver_all((0..1200).map(|_| durable())).await.unwrap();
    assert!(batch.iter().all(|receipt| receipt.replicas == Some(1)));
    assert_eq!(queue.stats().await.unwrap().waiting, 1302);
    let leased = queue.lease_many(100).await.unwrap();
    let acks = leased.into_iter().map(|leased| leased.durable(Replicas(1), 5 * SECOND).ack());
    assert!(join_all(acks).await.into_iter().all(|ack| ack.is_ok()));
    assert_eq!(queue.stats().await.unwrap().acked, 100);
}

#[tokio::test]
async fn too_few_replicas_are_an_error_that_says_that_it_was_carried_out() {
    let (cluster, broker, queue) = with_replica().await;
    cluster.freeze(1).unwrap();
    let body = message("a", "t", 1);
    let durable = || Message::new(&body).durable(Replicas(1), SECOND / 2);
    let from = Instant::now();
    let error = broker.deliver(durable()).await.err().unwrap();
    assert!((SECOND / 2..3 * SECOND).contains(&from.elapsed()), "{:?}", from.elapsed());
    assert_eq!(error.kind(), ErrorKind::Applied);
    let Error::NotYetSafe { confirmed: 0, wanted: 1, delivered, source: None } = error else {
        panic!("{error:?}");
    };
    assert_eq!((delivered.len(), delivered[0].replicas), (1, Some(0)));
    // While they wait, others are not held up.
    let (slow, quick) = tokio::join!(broker.deliver(durable()), async {
        let from = Instant::now();
        broker.deliver(&body).await.unwrap();
        from.elapsed()
    });
    assert!(slow.is_err() && quick < SECOND / 3, "{quick:?}");
    // Each of those that go out together hears of its own.
    let together = join_all((0..20).map(|_| broker.deliver(durable()))).await;
    let mut ids: Vec<_> = together
        .into_iter()
        .map(|outcome| match outcome {
            Err(Error::NotYetSafe { delivered, .. }) if delivered.len() == 1 => delivered[0].id,
            other => panic!("{other:?}"),
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20);
    assert_eq!(queue.stats().await.unwrap().waiting, 23);
    let leased = queue.lease().await.unwrap().unwrap();
    let error = leased.durable(Replicas(1), SECOND / 10).ack().await.err().unwrap();
    assert!(matches!(error, Error::NotYetSafe { confirmed: 0, .. }), "{error:?}");
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.acked, stats.leased), (1, 0), "it was acked all the same");
    cluster.thaw(1).unwrap();
    broker.deliver(Message::new(&body).durable(Replicas(1), 10 * SECOND)).await.unwrap();
}

#[tokio::test]
async fn who_waits_longer_than_a_heartbeat_is_not_on_a_silent_connection() {
    let (cluster, _, queue) = with_replica().await;
    let broker = <Broker>::builder().redis(cluster.url()).heartbeat(SECOND / 5);
    let broker = broker.connect().await.unwrap();
    cluster.freeze(1).unwrap();
    let body = message("a", "t", 1);
    let durable = || Message::new(&body).durable(Replicas(1), 2 * SECOND);
    let (one, keyed) = tokio::join!(broker.deliver(durable()), broker.deliver(durable().key("k")));
    for outcome in [one, keyed] {
        assert!(matches!(outcome, Err(Error::NotYetSafe { confirmed: 0, .. })), "{outcome:?}");
    }
    assert_eq!(queue.stats().await.unwrap().waiting, 2);
}

#[tokio::test]
async fn a_batch_that_is_not_yet_safe_in_several_partitions_says_all_that_is_delivered() {
    let (cluster, _, _) = with_replica().await;
    let broker = <Broker>::builder().redis(cluster.url()).namespace("shop").partitions(4);
    let broker = broker.connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    cluster.freeze(1).unwrap();
    let bodies: Vec<_> = (0..100).map(|n| message(&format!("f{n}"), "t", n)).collect();
    let durable = |body| Message::new(body).durable(Replicas(1), SECOND / 10);
    match broker.deliver_all(bodies.iter().map(durable)).await.err().unwrap() {
        Error::NotYetSafe { confirmed: 0, wanted: 1, delivered, .. } => {
            assert_eq!(delivered.len(), 100);
            let peeked = queue.peek(250).await.unwrap();
            for one in peeked {
                let n = one.message.unwrap()["n"].as_u64().unwrap() as usize;
                assert_eq!(delivered[n].id, one.id, "in the order of the batch");
            }
        }
        other => panic!("{other:?}"),
    }
    // What is not delivered is not said to be.
    let one = &bodies[0];
    let error = broker.deliver_all((0..1200).map(|_| durable(one))).await.err().unwrap();
    let Error::Interrupted { delivered, beyond, source } = error else { panic!("{error:?}") };
    let Error::NotYetSafe { delivered: doubtful, .. } = *source else { panic!("{source:?}") };
    let known = delivered.len() + beyond.len() + doubtful.len();
    assert_eq!(known as u64, queue.stats().await.unwrap().waiting - 100);
    assert!(known < 1200);
}

#[tokio::test]
async fn a_batch_that_is_not_yet_safe_stops_there_and_says_what_is_delivered() {
    let (cluster, broker, queue) = with_replica().await;
    cluster.freeze(1).unwrap();
    let body = message("a", "t", 1);
    let messages = (0..600).map(|n| match n {
        0..300 => Message::new(&body),
        _ => Message::new(&body).durable(Replicas(1), SECOND / 10),
    });
    match broker.deliver_all(messages).await.err().unwrap() {
        Error::Interrupted { delivered, source, .. } => {
            let Error::NotYetSafe { delivered: doubtful, .. } = *source else {
                panic!("{source:?}")
            };
            let waiting = queue.stats().await.unwrap().waiting as usize;
            assert_eq!(delivered.len() + doubtful.len(), waiting);
        }
        // All of the first part has waited with those that asked for it.
        Error::NotYetSafe { delivered, .. } => {
            assert_eq!(delivered.len() as u64, queue.stats().await.unwrap().waiting);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_batch_that_is_not_yet_safe_on_several_partitions_hides_nothing_that_is_delivered() {
    let cluster = TestCluster::start_with_replicas(2, 1).await.unwrap();
    let broker = <Broker>::builder().redis(cluster.url()).partitions(4).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let bodies: Vec<_> = (0..40).map(|n| message(&format!("f{n}"), "t", n)).collect();
    let batch = || bodies.iter().map(|body| Message::new(body).durable(Replicas(1), SECOND / 5));
    cluster.freeze(2).unwrap();
    cluster.freeze(3).unwrap();
    match broker.deliver_all(batch()).await.err().unwrap() {
        Error::NotYetSafe { delivered, .. } => {
            assert_eq!(delivered.len(), 40, "those of all partitions");
            assert!(delivered.iter().all(|receipt| receipt.replicas == Some(0)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(queue.stats().await.unwrap().waiting, 40);
}

#[tokio::test]
async fn with_no_replicas_it_is_the_disk_of_the_server_that_counts() {
    let body = message("a", "t", 1);
    let durable = || Message::new(&body).durable(Replicas(0), 5 * SECOND); // It is written once a second.
    let server = Server::start(&["--appendonly", "yes"]).await;
    let broker = server.builder().connect().await.unwrap();
    let knows: Vec<redis::Value> = server.run(&["COMMAND", "INFO", "WAITAOF"]).await;
    let receipt = broker.deliver(durable()).await;
    if knows[0] == redis::Value::Nil {
        assert!(matches!(receipt, Err(Error::NotYetSafe { source: Some(_), .. })), "{receipt:?}");
    } else {
        assert_eq!(receipt.unwrap().replicas, Some(0));
    }
    // One that has no append-only file is not safe, and says why.
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let receipt = broker.deliver(durable()).await;
    assert!(matches!(receipt, Err(Error::NotYetSafe { source: Some(_), .. })), "{receipt:?}");
    // Where replicas are asked for, it is their memory.
    let asked = broker.deliver(Message::new(&body).durable(Replicas(1), SECOND / 10)).await;
    assert!(matches!(asked, Err(Error::NotYetSafe { wanted: 1, source: None, .. })), "{asked:?}");
}

#[tokio::test]
async fn how_durable_something_is_to_be_is_checked_before_anything_is_sent() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let body = message("a", "t", 1);
    for (replicas, timeout) in [(1001, SECOND), (1, Duration::ZERO), (1, 3601 * SECOND)] {
        let refused =
            broker.deliver(Message::new(&body).durable(Replicas(replicas), timeout)).await;
        assert!(matches!(refused, Err(Error::Invalid(Invalid::OutOfRange { .. }))), "{refused:?}");
    }
    broker.deliver(&body).await.unwrap();
    let leased = queue.lease().await.unwrap().unwrap();
    let refused = leased.durable(Replicas(1), Duration::ZERO).ack().await;
    assert!(matches!(refused, Err(Error::Invalid(Invalid::OutOfRange { .. }))), "{refused:?}");
    assert_eq!(queue.stats().await.unwrap().leased, 1);
}

#[tokio::test]
async fn of_acks_that_are_not_yet_safe_those_whose_lease_was_lost_are_told_so() {
    let (cluster, broker, queue) = with_replica().await;
    deliver(&broker, "a", 3).await;
    let leased = queue.lease_many(3).await.unwrap();
    broker.ack(leased[1].token()).await.unwrap();
    cluster.freeze(1).unwrap();
    // The first goes alone, and the two others together.
    let acks = leased.into_iter().map(|leased| leased.durable(Replicas(1), SECOND / 10).ack());
    let told = join_all(acks).await;
    assert!(
        matches!(
            told[..],
            [
                Err(Error::NotYetSafe { .. }),
                Err(Error::LeaseLost(_)),
                Err(Error::NotYetSafe { .. })
            ]
        ),
        "{told:?}"
    );
}
