use std::time::Duration;

use fairlane::{Error, Token};

use crate::support::{Space, deliver, run};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn an_acked_message_never_comes_back() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    queue.lease().lasting(SECOND).await.unwrap().unwrap().ack().await.unwrap();
    space.clock.advance(60 * SECOND);
    assert!(queue.lease().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_cannot_ack_what_another_one_holds() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let late = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    space.clock.advance(SECOND);
    let holder = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    let id = late.id();
    assert!(matches!(late.ack().await, Err(Error::LeaseLost(lost)) if lost == id));
    holder.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_second_ack_of_the_same_lease_is_lost() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let token = Token::from(queue.lease().await.unwrap().unwrap());
    space.broker.ack(&token).await.unwrap();
    assert!(matches!(space.broker.ack(&token).await, Err(Error::LeaseLost(_))));
    space.end().await;
}

#[tokio::test]
async fn an_ack_after_the_end_still_counts_while_nobody_else_has_the_message() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let late = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    space.clock.advance(60 * SECOND);
    late.ack().await.unwrap();
    assert!(queue.lease().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn acks_of_many_queues_go_in_one_round_trip_and_name_those_that_were_lost() {
    let space = Space::new().await;
    for queue in ["a", "b", "c"] {
        space.broker.register_queue(queue, ".").await.unwrap();
    }
    deliver(&space.broker, "x", 40).await;
    let mut done = Vec::new();
    for queue in ["c", "a", "b"] {
        let leased = space.broker.queue(queue).lease_many(40).await.unwrap();
        done.extend(leased.into_iter().map(Token::from));
    }
    let gone = [done[7].clone(), done[90].clone()];
    for token in &gone {
        space.broker.ack(token).await.unwrap();
    }
    let lost = space.broker.ack_all(done).await.unwrap();
    assert_eq!(lost, gone);
    space.end().await;
}

#[tokio::test]
async fn thousands_of_acks_are_cut_into_parts() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "x", 2500).await;
    let mut done = Vec::new();
    for _ in 0..3 {
        done.extend(queue.lease_many(1000).await.unwrap());
    }
    assert_eq!(done.len(), 2500);
    assert!(space.broker.ack_all(done).await.unwrap().is_empty());
    assert!(space.broker.ack_all(Vec::<Token>::new()).await.unwrap().is_empty());
    space.end().await;
}

#[tokio::test]
async fn a_token_of_nothing_acks_nothing_and_creates_nothing() {
    let space = Space::new().await;
    space.broker.register_queue("q", ".").await.unwrap();
    let before = space.keys().await;
    let ghost: Token = "q/77/99".parse().unwrap();
    assert!(matches!(space.broker.ack(&ghost).await, Err(Error::LeaseLost(_))));
    assert!(matches!(space.broker.nack(&ghost).await, Err(Error::LeaseLost(_))));
    assert!(matches!(space.broker.extend(&ghost, SECOND).await, Err(Error::LeaseLost(_))));
    let nowhere: Token = "nowhere/77/99".parse().unwrap();
    assert!(matches!(space.broker.ack(&nowhere).await, Err(Error::LeaseLost(_))));
    assert_eq!(space.keys().await, before);
    space.end().await;
}

#[tokio::test]
async fn a_number_of_a_lease_is_not_given_again_when_redis_has_forgotten_its_last_draws() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let before = Token::from(queue.lease().await.unwrap().unwrap());
    // A crash of Redis that loses its last second takes back messages, leases and seq alike.
    space.delete_keys().await;
    space.clock.advance(SECOND);
    space.broker.register_queue("q", ".").await.unwrap();
    deliver(&space.broker, "a", 1).await;
    let after = queue.lease().await.unwrap().unwrap();
    assert_eq!(run::<u64>(&["GET", &space.key("seq")]).await, 2, "the same draws as before");
    assert!(matches!(space.broker.ack(&before).await, Err(Error::LeaseLost(_))));
    after.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn large_bodies_come_back_and_are_acked_in_bounded_steps() {
    let (space, queue) = Space::with_queue().await;
    let body = serde_json::json!({"facet": "a", "topic": "t", "fill": "x".repeat(1_000_000)});
    for _ in 0..5 {
        space.broker.deliver_all([&body; 4]).await.unwrap();
    }
    let lease = async || {
        let mut tokens = Vec::new();
        for _ in 0..5 {
            let leased = queue.lease_many(9).lasting(SECOND).await.unwrap();
            tokens.extend(leased.into_iter().map(Token::from));
        }
        tokens
    };
    let before = lease().await;
    assert_eq!(before.len(), 20);
    space.clock.advance(SECOND);
    assert_eq!(queue.lease_many(2).lasting(Duration::from_millis(1)).await.unwrap().len(), 2);
    assert_eq!(queue.stats().await.unwrap().leased, 20, "each script gave one back, and took it");
    space.clock.advance(SECOND);
    let tokens = lease().await;
    assert_eq!(space.broker.ack_all(before).await.unwrap().len(), 20);
    assert!(space.broker.ack_all(tokens).await.unwrap().is_empty());
    space.end().await;
}
