use std::time::Duration;

use fairlane::{Error, Invalid};

use crate::support::{Server, Space, counts, deliver, message, pulled, run};

#[tokio::test]
async fn a_weight_is_0_001_to_1000() {
    let (space, queue) = Space::with_queue().await;
    for weight in [0.0, -1.0, 0.000_9, 1000.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let refused = queue.facet("a").set_weight(weight).await;
        assert!(matches!(refused, Err(Error::Invalid(Invalid::OutOfRange { .. }))), "{weight}");
    }
    for facet in [String::new(), "x".repeat(513)] {
        assert!(matches!(queue.facet(facet).set_weight(1.0).await, Err(Error::Invalid(_))));
    }
    for weight in [0.001, 1000.0, 1.0] {
        queue.facet("a").set_weight(weight).await.unwrap();
    }
    queue.facet("a").configure(|facet| facet.weight = None).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_setting_that_is_set_back_to_its_default_leaves_nothing_behind() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("a").set_weight(2.0).await.unwrap();
    assert_eq!(
        space.keys().await.len(),
        3,
        "layout, routes and settings, and no entry for a facet that has no message"
    );
    queue.facet("a").configure(|facet| facet.weight = None).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_weight_outlives_the_messages_of_its_facet() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("heavy").set_weight(4.0).await.unwrap();
    for _ in 0..2 {
        deliver(&space.broker, "heavy", 40).await;
        deliver(&space.broker, "light", 10).await;
        let served = pulled(&queue, 25).await;
        assert!((19..=21).contains(&counts(&served)["heavy"]));
        assert_eq!(pulled(&queue, 99).await.len(), 25);
    }
    queue.facet("heavy").configure(|facet| facet.weight = None).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_facet_of_a_queue_that_does_not_exist_has_no_weight() {
    let space = Space::new().await;
    let refused = space.broker.queue("nowhere").facet("a").set_weight(2.0).await;
    assert!(matches!(refused, Err(Error::NoSuchQueue(name)) if &*name == "nowhere"));
    space.end().await;
}

#[tokio::test]
async fn a_paused_facet_is_not_served_and_the_others_are() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 3).await;
    deliver(&space.broker, "b", 2).await;
    let leased = queue.lease().await.unwrap().unwrap();
    assert_eq!(leased.facet(), "a");
    queue.facet("a").pause().await.unwrap();
    queue.facet("a").pause().await.unwrap();
    deliver(&space.broker, "a", 1).await;
    assert_eq!(pulled(&queue, 9).await, ["b", "b"]);
    leased.extend(Duration::from_secs(5)).await.unwrap();
    leased.nack().await.unwrap();
    assert!(queue.pull().await.unwrap().is_none(), "what goes back waits, too");
    queue.facet("a").resume().await.unwrap();
    queue.facet("a").resume().await.unwrap();
    assert_eq!(pulled(&queue, 9).await, ["a", "a", "a", "a"]);
    space.end().await;
}

#[tokio::test]
async fn a_lease_of_a_paused_facet_that_ends_comes_back_when_it_is_resumed() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let lost = queue.lease().lasting(Duration::from_secs(1)).await.unwrap().unwrap();
    queue.facet("a").pause().await.unwrap();
    space.clock.advance(Duration::from_secs(2));
    assert!(queue.lease().await.unwrap().is_none());
    assert!(matches!(lost.ack().await, Err(Error::LeaseLost(_))));
    queue.facet("a").resume().await.unwrap();
    let again = queue.lease().await.unwrap().unwrap();
    assert_eq!(again.attempt().get(), 2);
    again.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn what_is_leased_of_a_paused_queue_can_be_acked() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let leased = queue.lease().await.unwrap().unwrap();
    queue.pause().await.unwrap();
    assert!(queue.lease().await.unwrap().is_none());
    assert!(queue.pull_many(9).await.unwrap().is_empty());
    leased.ack().await.unwrap();
    queue.resume().await.unwrap();
    assert_eq!(pulled(&queue, 9).await.len(), 1);
    space.end().await;
}

#[tokio::test]
async fn a_pause_holds_for_what_does_not_exist_yet() {
    let space = Space::new().await;
    let queue = space.broker.queue("later");
    queue.facet("a").pause().await.unwrap();
    queue.pause().await.unwrap();
    assert!(matches!(queue.pull().await, Err(Error::NoSuchQueue(_))));
    space.broker.register_queue("later", ".").await.unwrap();
    deliver(&space.broker, "a", 1).await;
    deliver(&space.broker, "b", 1).await;
    assert!(queue.pull().await.unwrap().is_none());
    queue.resume().await.unwrap();
    assert_eq!(pulled(&queue, 9).await, ["b"]);
    queue.facet("a").resume().await.unwrap();
    assert_eq!(pulled(&queue, 9).await, ["a"]);
    space.end().await;
}

#[tokio::test]
async fn a_pause_needs_names_that_can_be() {
    let (space, queue) = Space::with_queue().await;
    for facet in [String::new(), "x".repeat(513)] {
        assert!(matches!(queue.facet(&facet).pause().await, Err(Error::Invalid(_))));
        assert!(matches!(queue.facet(&facet).resume().await, Err(Error::Invalid(_))));
    }
    let bad = space.broker.queue("a:b");
    assert!(matches!(bad.pause().await, Err(Error::Invalid(_))));
    assert!(matches!(bad.resume().await, Err(Error::Invalid(_))));
    assert!(matches!(bad.facet("a").pause().await, Err(Error::Invalid(_))));
    space.end().await;
}

#[tokio::test]
async fn pausing_gains_no_turns_and_loses_none() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "toggled", 60).await;
    deliver(&space.broker, "steady", 60).await;
    let mut served = Vec::new();
    for _ in 0..30 {
        served.extend(pulled(&queue, 2).await);
        queue.facet("toggled").pause().await.unwrap();
        queue.facet("toggled").resume().await.unwrap();
    }
    let counts = counts(&served);
    assert!((29..=31).contains(&counts["toggled"]), "{counts:?}");

    // One that was away for long does not make up for it: it is next, and then takes its turns.
    queue.facet("toggled").pause().await.unwrap();
    assert_eq!(pulled(&queue, 10).await, ["steady"; 10]);
    queue.facet("toggled").resume().await.unwrap();
    let back = pulled(&queue, 10).await;
    assert!((5..=6).contains(&back.iter().filter(|facet| *facet == "toggled").count()), "{back:?}");
    pulled(&queue, 120).await;
    space.end().await;
}

#[tokio::test]
async fn a_facet_that_is_paused_and_resumed_while_nothing_is_served_is_next_as_before() {
    let (space, queue) = Space::with_queue().await;
    for n in 0..20 {
        deliver(&space.broker, &format!("loud{n}"), 20).await;
    }
    assert_eq!(pulled(&queue, 50).await.len(), 50);
    deliver(&space.broker, "quiet", 2).await;
    let next = async || queue.peek(1).await.unwrap().remove(0).facet;
    assert_eq!(next().await, "quiet");
    // Again and again: it uses up nobody's place either.
    for _ in 0..50 {
        queue.facet("quiet").pause().await.unwrap();
        assert_ne!(next().await, "quiet");
        queue.facet("quiet").resume().await.unwrap();
        assert_eq!(next().await, "quiet");
    }
    deliver(&space.broker, "another", 1).await;
    assert_eq!(pulled(&queue, 2).await, ["quiet", "another"]);
    // One whose turn is that of the floor keeps it, too.
    let shown = queue.peek(40).await.unwrap();
    let second = shown[1].facet.clone();
    queue.facet(&second).pause().await.unwrap();
    queue.facet(&second).resume().await.unwrap();
    let places = queue.peek(40).await.unwrap();
    assert!(places[..3].iter().any(|peeked| peeked.facet == second));
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    space.end().await;
}

#[tokio::test]
async fn a_pause_that_met_a_wrong_key_can_be_said_again() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let parked = space.of("q", "parked");
    run::<()>(&["SET", &parked, "in the way"]).await;
    let before = space.keys().await;
    assert!(matches!(queue.facet("a").pause().await, Err(Error::WrongType(_))));
    assert!(matches!(queue.facet("a").set_weight(2.0).await, Err(Error::WrongType(_))));
    assert_eq!(space.keys().await, before, "nothing was written");
    run::<()>(&["DEL", &parked]).await;
    queue.facet("a").pause().await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    queue.facet("a").resume().await.unwrap();
    assert_eq!(pulled(&queue, 9).await.len(), 1);
    space.end().await;
}

#[tokio::test]
async fn a_queue_of_a_hundred_thousand_facets_is_paused_and_resumed_at_once() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let messages: Vec<_> = (0..100_000).map(|n| message(&format!("f{n}"), "t", n)).collect();
    broker.deliver_all(&messages).await.unwrap();
    server.run::<()>(&["CONFIG", "RESETSTAT"]).await;
    queue.pause().await.unwrap();
    assert!(queue.pull_many(9).await.unwrap().is_empty());
    queue.resume().await.unwrap();
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 9);
    for moved in ["zrem", "zunionstore", "zrangestore", "rename"] {
        assert!(server.calls(moved).await <= 1, "{moved}");
    }
}
