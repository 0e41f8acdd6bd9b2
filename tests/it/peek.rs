use std::time::Duration;

use fairlane::Error;
use serde_json::json;

use crate::support::{Space, deliver, message, run};

const SECOND: Duration = Duration::from_secs(1);

/// Facet and number of what a peek shows, in that order.
async fn peeked(queue: &fairlane::Queue, n: usize) -> Vec<(String, u64)> {
    let peeked = queue.peek(n).await.unwrap().into_iter();
    peeked.map(|peeked| (peeked.facet, peeked.message.unwrap()["n"].as_u64().unwrap())).collect()
}

#[tokio::test]
async fn a_peek_shows_what_would_be_served_next_in_order_and_changes_nothing() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 30).await;
    deliver(&space.broker, "b", 4).await;
    deliver(&space.broker, "c", 1).await;
    queue.facet("b").set_weight(2.0).await.unwrap();
    queue.pull_many(3).await.unwrap();
    let dump = async || {
        let mut all = Vec::new();
        for key in space.keys().await {
            all.push(run::<Vec<u8>>(&["DUMP", &space.key(&key)]).await);
        }
        all
    };
    let before = dump().await;
    let shown = peeked(&queue, 20).await;
    assert_eq!(peeked(&queue, 20).await, shown);
    assert_eq!(dump().await, before);
    let mut served = Vec::new();
    for _ in 0..20 {
        let message = queue.pull().await.unwrap().unwrap();
        served.push((message["facet"].as_str().unwrap().into(), message["n"].as_u64().unwrap()));
    }
    assert_eq!(shown, served);
    queue.pull_many(99).await.unwrap();
    queue.facet("b").configure(|facet| facet.weight = None).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_peek_sees_leases_that_have_ended_where_they_will_come_back() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 3).await;
    deliver(&space.broker, "b", 3).await;
    let lost = queue.lease_many(5).lasting(SECOND).await.unwrap();
    assert_eq!(peeked(&queue, 9).await, [("b".into(), 2)]);
    space.clock.advance(2 * SECOND);
    let shown = queue.peek(9).await.unwrap();
    assert_eq!(shown.len(), 6);
    assert_eq!(shown[0].attempts, 1);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.leased), (1, 5), "they have not come back yet");
    let served = queue.lease_many(9).await.unwrap();
    let ids = served.iter().map(fairlane::Delivery::id);
    assert!(ids.eq(shown.iter().map(|peeked| peeked.id)), "as they were shown");
    assert_eq!(space.broker.ack_all(&lost).await.unwrap().len(), 5);
    space.broker.ack_all(served).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn paused_facets_are_not_shown_and_a_paused_queue_shows_what_it_holds_back() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    deliver(&space.broker, "b", 1).await;
    queue.facet("a").pause().await.unwrap();
    assert_eq!(peeked(&queue, 9).await, [("b".into(), 0)]);
    queue.pause().await.unwrap();
    assert_eq!(peeked(&queue, 9).await, [("b".into(), 0)]);
    queue.resume().await.unwrap();
    queue.facet("a").resume().await.unwrap();
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 3);
    space.end().await;
}

#[tokio::test]
async fn a_peek_shows_at_most_250_messages_and_4_mib() {
    let (space, queue) = Space::with_queue().await;
    assert!(queue.peek(9).await.unwrap().is_empty());
    deliver(&space.broker, "a", 300).await;
    assert!(queue.peek(0).await.unwrap().is_empty());
    assert_eq!(queue.peek(usize::MAX).await.unwrap().len(), 250);
    queue.pull_many(300).await.unwrap();
    let mut large = message("a", "t", 0);
    large["text"] = "x".repeat(900_000).into();
    space.broker.deliver_all(&vec![large; 6]).await.unwrap();
    assert_eq!(queue.peek(9).await.unwrap().len(), 4);
    queue.pull_many(9).await.unwrap();
    queue.pull_many(9).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_message_that_is_larger_than_a_peek_is_shown_alone() {
    let space = Space::with(|builder| builder.max_body(8 << 20)).await;
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    let large = json!({"facet": "a", "topic": "t", "text": "x".repeat(5 << 20)});
    space.broker.deliver_all(&[large, message("a", "t", 2)]).await.unwrap();
    assert_eq!(queue.peek(9).await.unwrap().len(), 1);
    queue.pull_many(9).await.unwrap();
    queue.pull_many(9).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn one_that_does_not_decode_is_shown_among_the_others() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let texts = space.broker.with_type::<String>().queue("q");
    let shown = texts.peek(9).await.unwrap();
    assert!(shown.iter().all(|peeked| peeked.message.is_err() && peeked.topic == "t"));
    assert_eq!(shown.len(), 2);
    queue.pull_many(9).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_queue_that_does_not_exist_cannot_be_peeked_into() {
    let space = Space::new().await;
    let refused = space.broker.queue("nowhere").peek(1).await;
    assert!(matches!(refused, Err(Error::NoSuchQueue(_))));
    assert!(matches!(space.broker.queue("a:b").peek(1).await, Err(Error::Invalid(_))));
    space.end().await;
}
