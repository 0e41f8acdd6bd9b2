use std::time::Duration;

use fairlane::{Error, QueueSettings};

use crate::support::{Space, deliver, run};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_nacked_message_returns_to_the_front_of_its_facet() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 3).await;
    let first = queue.lease().await.unwrap().unwrap();
    first.nack().await.unwrap();
    for (n, attempt) in [(0, 2), (1, 1), (2, 1)] {
        let delivery = queue.lease().await.unwrap().unwrap();
        assert_eq!(
            (&delivery.message().unwrap()["n"], delivery.attempt().get()),
            (&n.into(), attempt)
        );
        delivery.ack().await.unwrap();
    }
    space.end().await;
}

#[tokio::test]
async fn each_lease_that_was_seen_counts_as_an_attempt() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    queue.configure(|queue| queue.max_crashes = 10).await.unwrap();
    for attempt in 1..=12 {
        let delivery = queue.lease().lasting(SECOND).await.unwrap().unwrap();
        assert_eq!(delivery.attempt().get(), attempt);
        if attempt % 2 == 0 {
            delivery.nack().await.unwrap();
        } else {
            space.clock.advance(SECOND);
        }
    }
    queue.pull().await.unwrap().unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_cannot_give_back_what_another_one_holds() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let late = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    space.clock.advance(SECOND);
    let holder = queue.lease().await.unwrap().unwrap();
    assert!(matches!(late.nack().await, Err(Error::LeaseLost(_))));
    assert!(queue.lease().await.unwrap().is_none());
    holder.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_facet_that_is_empty_gets_a_turn_again_when_a_message_comes_back() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let delivery = queue.lease().await.unwrap().unwrap();
    assert!(queue.lease().await.unwrap().is_none());
    delivery.nack().await.unwrap();
    assert!(queue.pull().await.unwrap().is_some());
    space.end().await;
}

#[tokio::test]
async fn a_message_whose_list_is_blocked_stays_leased_and_blocks_nothing() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    deliver(&space.broker, "b", 1).await;
    let stuck = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    assert_eq!(stuck.facet(), "a");
    run::<()>(&["SET", &space.of("q", "f:a"), "no list"]).await;
    let token = stuck.token().clone();
    assert!(matches!(stuck.nack().await, Err(Error::WrongType(_))));
    space.clock.advance(SECOND);
    // Its lease has ended, it cannot go back, and the call goes on to what it can serve.
    assert_eq!(queue.pull().await.unwrap().unwrap()["facet"], "b");
    assert!(queue.pull().await.unwrap().is_none());
    run::<()>(&["DEL", &space.of("q", "f:a")]).await;
    space.clock.advance(60 * SECOND);
    assert_eq!(queue.pull().await.unwrap().unwrap()["facet"], "a");
    assert!(matches!(space.broker.ack(&token).await, Err(Error::LeaseLost(_))));
    space.end().await;
}
