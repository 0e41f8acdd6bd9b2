use fairlane::{Broker, Error, Invalid};

use crate::support::{self, Space, deliver, message, pulled, run};

#[tokio::test]
async fn a_message_that_was_pulled_is_gone() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    assert_eq!(queue.pull().await.unwrap().unwrap()["n"], 0);
    assert_eq!(queue.pull().await.unwrap(), None);
    space.end().await;
}

#[tokio::test]
async fn a_pull_of_many_gives_what_is_there_up_to_so_many() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1500).await;
    assert_eq!(queue.pull_many(0).await.unwrap().len(), 0);
    assert_eq!(queue.pull_many(10).await.unwrap().len(), 10);
    assert_eq!(queue.pull_many(501).await.unwrap().len(), 501);
    assert_eq!(queue.pull_many(usize::MAX).await.unwrap().len(), 989);
    assert_eq!(queue.pull_many(10).await.unwrap().len(), 0);
    deliver(&space.broker, "a", 1500).await;
    assert_eq!(queue.pull_many(usize::MAX).await.unwrap().len(), 1000);
    assert_eq!(queue.pull_many(usize::MAX).await.unwrap().len(), 500);
    space.end().await;
}

#[tokio::test]
async fn a_message_larger_than_a_take_is_given_alone() {
    let space = Space::with(|builder| builder.max_body(8 << 20)).await;
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    let large = serde_json::json!({"facet": "a", "topic": "t", "fill": "x".repeat(5 << 20)});
    space.broker.deliver_all([&message("a", "t", 0), &large, &large]).await.unwrap();
    assert_eq!(queue.pull_many(10).await.unwrap().len(), 1);
    assert_eq!(queue.pull_many(10).await.unwrap().len(), 1);
    assert_eq!(queue.lease_many(10).await.unwrap().len(), 1);
    space.delete().await;
}

#[tokio::test]
async fn all_parts_of_a_take_together_are_at_most_4_mib() {
    let space = Space::with(|builder| builder.max_body(8 << 20)).await;
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    let of = |size| serde_json::json!({"facet": "a", "topic": "t", "fill": "x".repeat(size)});
    // The first part of 250 is nearly full, and what follows would not fit.
    let mut bodies = vec![of(16_000); 250];
    bodies.push(of(7 << 20));
    space.broker.deliver_all(&bodies).await.unwrap();
    assert_eq!(queue.pull_many(251).await.unwrap().len(), 250);
    assert_eq!(queue.pull_many(251).await.unwrap().len(), 1);
    space.end().await;
}

#[tokio::test]
async fn a_body_that_does_not_decode_costs_none_of_the_others() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Numbered {
        n: u64,
    }
    let space = Space::new().await;
    space.broker.register_queue("q", ".").await.unwrap();
    let bad = serde_json::json!({"facet": "a", "topic": "odd", "n": "not a number"});
    space.broker.deliver_all([&message("a", "t", 1), &bad, &message("a", "t", 2)]).await.unwrap();
    let queue = space.broker.with_type::<Numbered>().queue("q");
    let pulled = queue.pull_many(10).await.unwrap();
    assert_eq!(pulled.len(), 3);
    let undecodable = pulled[1].as_ref().err().unwrap();
    assert_eq!(undecodable.topic, "odd");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&undecodable.body).unwrap(), bad);
    assert_eq!(pulled[2].as_ref().unwrap().n, 2);
    space.broker.deliver(&bad).await.unwrap();
    assert!(matches!(queue.pull().await, Err(Error::Undecodable(_))));
    space.end().await;
}

#[tokio::test]
async fn a_queue_that_was_never_registered_is_an_error() {
    let space = Space::new().await;
    match space.broker.queue("nowhere").pull().await {
        Err(Error::NoSuchQueue(name)) => assert_eq!(&*name, "nowhere"),
        other => panic!("{other:?}"),
    }
    let refused = space.broker.queue("no name").pull().await;
    assert!(matches!(refused, Err(Error::Invalid(Invalid::Name { .. }))));
    space.end().await;
}

#[tokio::test]
async fn an_entry_without_messages_never_ends_a_call_while_something_can_be_served() {
    let (space, queue) = Space::with_queue().await;
    for facet in ["a", "b", "c", "d"] {
        deliver(&space.broker, facet, 2).await;
    }
    // What nobody should do, but somebody will: lists deleted and replaced by hand.
    run::<()>(&["DEL", &space.of("q", "f:a"), &space.of("q", "f:c")]).await;
    run::<()>(&["SET", &space.of("q", "f:c"), "no list"]).await;
    assert_eq!(pulled(&queue, 9).await, ["b", "d", "b", "d"]);
    run::<()>(&["DEL", &space.of("q", "f:c")]).await;
    space.end().await;
}

#[tokio::test]
async fn ten_thousand_entries_without_messages_are_passed_in_bounded_steps() {
    let (space, queue) = Space::with_queue().await;
    let mut stale = redis::cmd("ZADD");
    stale.arg(space.of("q", "ready"));
    for n in 0..10_000 {
        stale.arg(-1.0).arg(format!("gone-{n}"));
    }
    stale.exec_async(&mut support::raw().await).await.unwrap();
    deliver(&space.broker, "a", 2).await;
    assert_eq!(queue.pull().await.unwrap().unwrap()["n"], 0);
    assert_eq!(queue.pull_many(5).await.unwrap().len(), 1);
    space.end().await;
}

#[tokio::test]
async fn a_take_from_an_empty_queue_writes_nothing() {
    let (space, queue) = Space::with_queue().await;
    let before = space.keys().await;
    assert_eq!(queue.pull().await.unwrap(), None);
    assert!(queue.lease().await.unwrap().is_none());
    assert_eq!(space.keys().await, before);
    space.end().await;
}

#[tokio::test]
async fn a_pull_also_gives_back_the_leases_that_have_ended() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let lease = queue.lease().lasting(std::time::Duration::from_secs(5)).await.unwrap().unwrap();
    assert_eq!(queue.pull().await.unwrap(), None);
    space.clock.advance(std::time::Duration::from_secs(5));
    assert_eq!(queue.pull().await.unwrap().unwrap()["n"], 0);
    assert!(matches!(lease.ack().await, Err(Error::LeaseLost(_))));
    space.end().await;
}

#[tokio::test]
async fn a_pull_can_be_spawned_and_bounded_from_outside() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let spawned = tokio::spawn(std::future::IntoFuture::into_future(queue.pull()));
    assert!(spawned.await.unwrap().unwrap().is_some());
    let second = std::time::Duration::from_secs(1);
    assert!(tokio::time::timeout(second, queue.pull()).await.unwrap().unwrap().is_some());
    space.end().await;
}

#[test]
fn handles_can_be_shared_whatever_the_type_of_the_messages() {
    struct NotEvenClone;
    fn shared<X: Send + Sync + Clone + 'static>() {}
    fn moved<X: Send + 'static>() {}
    shared::<Broker<NotEvenClone>>();
    shared::<fairlane::Queue<NotEvenClone>>();
    shared::<fairlane::Facet>();
    moved::<fairlane::Delivery<NotEvenClone>>();
    moved::<fairlane::Lease<Option<fairlane::Delivery<NotEvenClone>>>>();
    moved::<Error>();
}
