//! fairlane descends from fairway, whose defects are known one by one. Those that could come back
//! and are not the subject of another file are tested here.

use std::time::Duration;

use fairlane::Token;

use crate::support::{Space, counts, deliver, message, pulled, run};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn two_messages_with_the_same_body_are_two_messages() {
    let (space, queue) = Space::with_queue().await;
    let same = message("a", "t", 1);
    space.broker.deliver_all([&same, &same]).await.unwrap();
    let mut both = queue.lease_many(2).lasting(SECOND).await.unwrap();
    assert_eq!(both.len(), 2);
    both.remove(0).ack().await.unwrap();
    space.clock.advance(SECOND);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 1, "the other one comes back");
    space.end().await;
}

#[tokio::test]
async fn the_same_body_in_two_facets_is_leased_and_acked_apart() {
    let (space, queue) = Space::with_queue().await;
    let body = serde_json::json!("same");
    for facet in ["a", "b", "b"] {
        space.broker.deliver(fairlane::Message::new(&body).facet(facet).topic("t")).await.unwrap();
    }
    let mut leased = queue.lease_many(2).lasting(SECOND).await.unwrap();
    assert_eq!((leased[0].facet(), leased[1].facet()), ("a", "b"));
    leased.remove(0).ack().await.unwrap();
    // The facet whose worker died is neither stuck nor short of a message.
    space.clock.advance(SECOND);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 2);
    space.end().await;
}

#[tokio::test]
async fn no_facet_meets_the_keys_of_another_queue() {
    let space = Space::new().await;
    for queue in ["a", "a.b"] {
        space.broker.register_queue(queue, &format!("^{queue}$")).await.unwrap();
    }
    for facet in ["b:c", "q:a.b:f:c", "c", "leased", "f:c"] {
        space.broker.deliver(&message(facet, "a", 1)).await.unwrap();
    }
    assert!(space.broker.queue("a.b").pull().await.unwrap().is_none());
    assert_eq!(pulled(&space.broker.queue("a"), 9).await.len(), 5);
    space.end().await;
}

#[tokio::test]
async fn batches_leave_no_entry_behind_that_would_be_an_unfair_share() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("a").set_weight(3.0).await.unwrap();
    for _ in 0..50 {
        deliver(&space.broker, "a", 3).await;
        assert_eq!(queue.pull_many(3).await.unwrap().len(), 3);
        assert_eq!(run::<u64>(&["EXISTS", &space.of("q", "ready")]).await, 0);
    }
    queue.facet("a").configure(|facet| facet.weight = None).await.unwrap();
    deliver(&space.broker, "a", 200).await;
    deliver(&space.broker, "b", 200).await;
    let served = pulled(&queue, 200).await;
    assert_eq!(counts(&served)["b"], 100);
    assert_eq!(pulled(&queue, 999).await.len(), 200);
    space.end().await;
}

#[tokio::test]
async fn a_pull_is_empty_only_when_nothing_can_be_served() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("a").set_weight(2.0).await.unwrap();
    for n in 0..30 {
        deliver(&space.broker, "a", 2).await;
        deliver(&space.broker, &format!("b-{n}"), 1).await;
        assert_eq!(queue.pull_many(2).await.unwrap().len(), 2);
        assert!(queue.pull().await.unwrap().is_some());
        assert!(queue.pull().await.unwrap().is_none());
    }
    queue.facet("a").configure(|facet| facet.weight = None).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_message_that_kills_its_workers_does_not_keep_others_waiting() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "poison", 1).await;
    deliver(&space.broker, "good", 3).await;
    let mut good = 0;
    for _ in 0..6 {
        let delivery = queue.lease().lasting(SECOND).await.unwrap().unwrap();
        if delivery.facet() == "good" {
            good += 1;
            delivery.ack().await.unwrap();
        } else {
            space.clock.advance(SECOND); // its worker is gone
        }
    }
    assert_eq!(good, 3);
    queue.pull().await.unwrap().unwrap();
    space.end().await;
}

#[tokio::test]
async fn what_is_extended_after_its_ack_does_not_come_back() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let token = Token::from(queue.lease().await.unwrap().unwrap());
    space.broker.ack(&token).await.unwrap();
    assert!(space.broker.extend(&token, SECOND).await.is_err());
    space.clock.advance(60 * SECOND);
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn the_clock_of_redis_decides_when_a_lease_ends() {
    // A broker as users have it: its scripts ask Redis for the time.
    let space = Space::new().await;
    let broker = space.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    let leased = queue.lease().lasting(Duration::from_millis(300)).await.unwrap().unwrap();
    let delivered = leased.delivered_at().elapsed().unwrap_or_default();
    assert!(delivered < 60 * SECOND);
    assert!(queue.pull().await.unwrap().is_none());
    tokio::time::sleep_until((leased.expires_at() + Duration::from_millis(20)).into()).await;
    assert!(queue.pull().await.unwrap().is_some());
    space.end().await;
}

#[tokio::test]
async fn weights_are_served_smoothly_not_in_bursts() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("a").set_weight(3.0).await.unwrap();
    queue.facet("b").set_weight(2.0).await.unwrap();
    deliver(&space.broker, "a", 60).await;
    deliver(&space.broker, "b", 60).await;
    let served = pulled(&queue, 50).await;
    assert_eq!(counts(&served)["a"].abs_diff(30), 0, "{served:?}");
    let longest = served.chunk_by(|a, b| a == b).map(<[String]>::len).max();
    assert!(longest <= Some(2), "{served:?}");
    space.delete().await;
}

#[tokio::test]
async fn weights_hold_from_the_first_round_on() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("a").set_weight(4.0).await.unwrap();
    deliver(&space.broker, "b", 10).await;
    deliver(&space.broker, "a", 10).await;
    assert_eq!(counts(&pulled(&queue, 5).await)["a"], 4);
    space.delete().await;
}

#[tokio::test]
async fn a_list_deleted_by_hand_leaves_nothing_that_disagrees() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 3).await;
    run::<()>(&["DEL", &space.of("q", "f:a")]).await;
    assert!(queue.pull().await.unwrap().is_none());
    deliver(&space.broker, "a", 1).await;
    assert!(queue.pull().await.unwrap().is_some());
    space.end().await;
}
