use std::{
    future::IntoFuture,
    time::{Duration, Instant},
};

use fairlane::{Broker, Error, Invalid};

use crate::support::{Server, Space, message, until};

const SECOND: Duration = Duration::from_secs(1);

/// Delivers numbered messages to a topic, which is the name of their queue.
async fn deliver(broker: &Broker, topic: &str, n: u64) {
    let messages: Vec<_> = (0..n).map(|n| message("a", topic, n)).collect();
    broker.deliver_all(&messages).await.unwrap();
}

async fn three(broker: &Broker) {
    for name in ["urgent", "normal", "bulk"] {
        broker.register_queue(name, &format!("^{name}$")).await.unwrap();
    }
}

#[tokio::test]
async fn the_first_queue_that_has_something_is_served() {
    let space = Space::new().await;
    three(&space.broker).await;
    deliver(&space.broker, "bulk", 2).await;
    deliver(&space.broker, "normal", 2).await;
    deliver(&space.broker, "urgent", 1).await;
    let source = space.broker.in_order(["urgent", "normal", "bulk"]);
    let (queue, message) = source.pull().await.unwrap().unwrap();
    assert_eq!((queue.as_str(), &message["topic"]), ("urgent", &"urgent".into()));
    let many = source.lease_many(9).await.unwrap();
    assert_eq!(many.len(), 2, "all of one queue");
    assert!(many.iter().all(|delivery| delivery.queue() == "normal"));
    let one = source.lease().lasting(SECOND).await.unwrap().unwrap();
    assert_eq!(one.queue(), "bulk");
    assert!(space.broker.ack_all(many.iter().chain([&one])).await.unwrap().is_empty());
    assert_eq!(source.pull().await.unwrap().unwrap().0, "bulk");
    assert!(source.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn what_comes_to_any_of_the_queues_wakes_one_who_waits_on_all() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    three(&broker).await;
    let source = broker.in_order(["urgent", "normal", "bulk"]);
    for name in ["bulk", "urgent", "normal", "bulk"] {
        let waiting = tokio::spawn(source.lease().wait(60 * SECOND).into_future());
        until("it is blocked", || async { server.blocked().await == 3 }).await;
        let from = Instant::now();
        deliver(&broker, name, 1).await;
        let delivery = waiting.await.unwrap().unwrap().unwrap();
        assert_eq!(delivery.queue(), name);
        assert!(from.elapsed() < SECOND);
        delivery.ack().await.unwrap();
    }
    let clients: String = server.run(&["CLIENT", "LIST"]).await;
    assert_eq!(clients.lines().count(), 5, "one for each queue, the calls, and the one that looks");
}

#[tokio::test]
async fn those_who_wait_on_one_queue_and_on_several_do_not_hold_each_other_up() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    three(&broker).await;
    let mut tasks = tokio::task::JoinSet::new();
    for names in [&["urgent", "bulk"][..], &["bulk", "urgent"], &["bulk"], &["urgent"]] {
        let mut stream = broker.in_order(names.iter().copied()).lease().into_stream();
        for _ in 0..5 {
            let mut deliveries = std::mem::replace(
                &mut stream,
                broker.in_order(names.iter().copied()).lease().into_stream(),
            );
            tasks.spawn(async move {
                loop {
                    let delivery = deliveries.next().await.unwrap().unwrap();
                    tokio::task::yield_now().await;
                    delivery.ack().await.unwrap();
                }
            });
        }
    }
    for n in 0..200 {
        let topic = if n % 3 == 0 { "urgent" } else { "bulk" };
        broker.deliver(&message("a", topic, n)).await.unwrap();
        if n % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
    let from = Instant::now();
    for name in ["urgent", "bulk"] {
        until("all is acked", || async {
            let stats = broker.queue(name).stats().await.unwrap();
            stats.acked == stats.delivered
        })
        .await;
    }
    assert!(from.elapsed() < 3 * SECOND, "{:?}", from.elapsed());
}

#[tokio::test]
async fn one_who_gives_up_waiting_on_several_queues_hands_on_the_wake_ups_of_all() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let other = server.builder().connect().await.unwrap();
    three(&broker).await;
    let names = ["urgent", "normal", "bulk"];
    let gone = tokio::spawn(broker.in_order(names).lease().wait(60 * SECOND).into_future());
    until("it is blocked", || async { server.blocked().await == 3 }).await;
    gone.abort();
    let _ = gone.await;
    let waiting: Vec<_> = names
        .map(|name| tokio::spawn(other.queue(name).pull().wait(60 * SECOND).into_future()))
        .into();
    until("they are blocked", || async { server.blocked().await == 6 }).await;
    let from = Instant::now();
    for name in names {
        deliver(&broker, name, 1).await;
    }
    for waiting in waiting {
        assert!(waiting.await.unwrap().unwrap().is_some());
    }
    assert!(from.elapsed() < SECOND, "{:?}", from.elapsed());
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_an_error_when_the_others_have_nothing() {
    let space = Space::new().await;
    three(&space.broker).await;
    let source = space.broker.in_order(["nowhere", "bulk"]);
    deliver(&space.broker, "bulk", 1).await;
    assert!(source.pull().await.unwrap().is_some());
    for refused in [source.pull().await.err(), source.pull().wait(60 * SECOND).await.err()] {
        assert!(matches!(refused, Some(Error::NoSuchQueue(name)) if &*name == "nowhere"));
    }
    space.end().await;
}

#[tokio::test]
async fn no_queue_at_all_and_a_name_that_none_can_have_are_refused() {
    let space = Space::new().await;
    let none = space.broker.in_order(Vec::<String>::new());
    assert!(matches!(none.pull().await, Err(Error::Invalid(Invalid::Empty { .. }))));
    assert!(matches!(none.lease_many(3).wait(SECOND).await, Err(Error::Invalid(_))));
    let bad = space.broker.in_order(["bulk", "a:b"]);
    assert!(
        matches!(bad.lease().await, Err(Error::Invalid(Invalid::Name { name })) if name == "a:b")
    );
    space.end().await;
}
