use std::{
    future::IntoFuture,
    time::{Duration, Instant, SystemTime},
};

use fairlane::{Error, Invalid};

use crate::support::{START, Space, deliver, message};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_delivery_tells_all_about_its_message() {
    let (space, queue) = Space::with_queue().await;
    let sent = message("acme", "page:google", 1);
    let receipt = space.broker.deliver(&sent).await.unwrap();
    space.clock.advance(SECOND);
    let before = Instant::now() - Duration::from_millis(1); // Redis counts from the one that has begun.
    let delivery = queue.lease().lasting(60 * SECOND).await.unwrap().unwrap();
    assert_eq!(delivery.message().unwrap(), &sent);
    assert_eq!(delivery.id(), receipt.id);
    assert_eq!(delivery.queue(), "q");
    assert_eq!(delivery.facet(), "acme");
    assert_eq!(delivery.topic(), "page:google");
    assert_eq!(delivery.attempt().get(), 1);
    assert_eq!(delivery.delivered_at(), SystemTime::UNIX_EPOCH + Duration::from_millis(START));
    assert!((before + 60 * SECOND..=Instant::now() + 60 * SECOND).contains(&delivery.expires_at()));
    let token = delivery.token().to_string();
    assert!(token.starts_with(&format!("q/{}/", receipt.id)));
    space.broker.ack(&token.parse().unwrap()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn what_is_leased_is_served_to_nobody_else() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let first = queue.lease().await.unwrap().unwrap();
    let second = queue.lease().await.unwrap().unwrap();
    assert!(queue.lease().await.unwrap().is_none());
    assert_eq!(
        (&first.message().unwrap()["n"], &second.message().unwrap()["n"]),
        (&0.into(), &1.into())
    );
    assert!(space.broker.ack_all([first, second]).await.unwrap().is_empty());
    space.end().await;
}

#[tokio::test]
async fn a_lease_lasts_thirty_seconds_where_nothing_is_said() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let _dropped = queue.lease().await.unwrap().unwrap();
    space.clock.advance(Duration::from_millis(29_999));
    assert!(queue.lease().await.unwrap().is_none());
    space.clock.advance(Duration::from_millis(1));
    let again = queue.lease().await.unwrap().unwrap();
    assert_eq!(again.attempt().get(), 2);
    again.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn leases_that_end_together_come_back_in_their_order_to_the_front_of_their_facet() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 310).await;
    // Numbers of one, two and three digits, so that an order of texts would show.
    let mut dropped = queue.lease_many(250).lasting(SECOND).await.unwrap();
    dropped.extend(queue.lease_many(50).lasting(SECOND).await.unwrap());
    space.clock.advance(SECOND);
    for n in 0..310 {
        assert_eq!(queue.pull().await.unwrap().unwrap()["n"], n);
    }
    space.end().await;
}

#[tokio::test]
async fn a_call_gives_back_a_bounded_number_of_leases_and_the_next_ones_the_rest() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1000).await;
    let _dropped = queue.lease_many(1000).lasting(SECOND).await.unwrap();
    space.clock.advance(SECOND);
    let leased = async || queue.stats().await.unwrap().leased;
    assert!(queue.pull().await.unwrap().is_some());
    assert_eq!(leased().await, 1000 - 250, "the first part of the four that it was leased in");
    assert_eq!(queue.pull_many(100).await.unwrap().len(), 100);
    assert_eq!(leased().await, 1000 - 2 * 250);
    let mut rest = 0;
    while queue.pull().await.unwrap().is_some() {
        rest += 1;
    }
    assert_eq!(rest, 1000 - 101);
    space.end().await;
}

#[tokio::test]
async fn the_length_of_a_lease_is_one_millisecond_to_half_a_day() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let half_a_day = 12 * 3600 * SECOND;
    for length in [
        Duration::ZERO,
        Duration::from_micros(999),
        half_a_day + Duration::from_nanos(1),
        Duration::MAX,
    ] {
        let refused = queue.lease().lasting(length).await;
        assert!(matches!(refused, Err(Error::Invalid(Invalid::OutOfRange { .. }))), "{length:?}");
    }
    let shortest = queue.lease().lasting(Duration::from_millis(1)).await.unwrap().unwrap();
    shortest.extend(half_a_day).await.unwrap();
    shortest.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_body_that_does_not_decode_can_be_settled_and_costs_no_other() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Numbered {
        n: u64,
    }
    let space = Space::new().await;
    space.broker.register_queue("q", ".").await.unwrap();
    let bad = serde_json::json!({"facet": "a", "topic": "odd", "n": null});
    space.broker.deliver_all([&bad, &message("a", "t", 2)]).await.unwrap();
    let queue = space.broker.with_type::<Numbered>().queue("q");
    let mut both = queue.lease_many(2).await.unwrap();
    let good = both.pop().unwrap();
    let odd = both.pop().unwrap();
    assert_eq!(good.message().unwrap().n, 2);
    let undecodable = odd.message().err().unwrap();
    assert_eq!((undecodable.id, undecodable.topic.as_str()), (Some(odd.id()), "odd"));
    odd.nack().await.unwrap();
    let again = queue.lease().await.unwrap().unwrap();
    assert_eq!((again.topic(), again.attempt().get()), ("odd", 2));
    assert!(space.broker.ack_all([again, good]).await.unwrap().is_empty());
    space.end().await;
}

#[tokio::test]
async fn a_lease_that_nobody_waits_for_any_more_goes_back_uncounted() {
    let (space, queue) = Space::with_queue().await;
    for round in 0..50 {
        deliver(&space.broker, "a", 3).await;
        let mut call = queue.lease_many(3).into_future();
        // Polled once, so that the call is under way, and then dropped at different moments of it.
        let _ = futures_util::poll!(&mut call);
        tokio::time::sleep(Duration::from_micros(round * 20)).await;
        drop(call);
        let mut back = Vec::new();
        for _ in 0..500 {
            back.extend(queue.lease_many(3).await.unwrap());
            if back.len() == 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(back.len(), 3, "round {round}");
        for delivery in &back {
            assert_eq!(delivery.attempt().get(), 1, "nobody has seen it");
        }
        assert!(space.broker.ack_all(back).await.unwrap().is_empty());
    }
    space.end().await;
}

#[tokio::test]
async fn a_delivery_that_is_dropped_stays_leased_until_its_end() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    drop(queue.lease().lasting(SECOND).await.unwrap());
    assert!(queue.lease().await.unwrap().is_none());
    space.clock.advance(SECOND);
    queue.lease().await.unwrap().unwrap().ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_message_comes_back_after_the_process_that_leased_it_was_killed() {
    let space = Space::new().await;
    space.broker.register_queue("q", ".").await.unwrap();
    deliver(&space.broker, "a", 1).await;
    {
        let worker = space.another().await;
        let delivery = worker.queue("q").lease().lasting(SECOND).await.unwrap().unwrap();
        std::mem::forget(delivery); // as in a process that ends at once
    }
    space.clock.advance(SECOND);
    let delivery = space.broker.queue("q").lease().await.unwrap().unwrap();
    assert_eq!(delivery.attempt().get(), 2);
    delivery.ack().await.unwrap();
    space.end().await;
}
