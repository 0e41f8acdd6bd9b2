use std::time::{Duration, Instant};

use fairlane::{Error, Invalid};

use crate::support::{Space, deliver};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn an_extended_lease_ends_a_time_from_now() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let delivery = queue.lease().lasting(10 * SECOND).await.unwrap().unwrap();
    space.clock.advance(9 * SECOND);
    delivery.extend(10 * SECOND).await.unwrap();
    assert!(delivery.expires_at() <= Instant::now() + 10 * SECOND);
    space.clock.advance(9 * SECOND);
    assert!(queue.lease().await.unwrap().is_none());
    space.clock.advance(SECOND);
    let again = queue.lease().await.unwrap().unwrap();
    assert!(matches!(delivery.extend(SECOND).await, Err(Error::LeaseLost(_))));
    again.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_lease_can_be_cut_short() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let delivery = queue.lease().lasting(60 * SECOND).await.unwrap().unwrap();
    let before = delivery.expires_at();
    let end = space.broker.extend(delivery.token(), SECOND).await.unwrap();
    assert!(end < before);
    delivery.extend(SECOND).await.unwrap();
    assert!(delivery.expires_at() < before);
    space.clock.advance(SECOND);
    assert!(queue.pull().await.unwrap().is_some());
    space.end().await;
}

#[tokio::test]
async fn an_extension_of_no_or_too_long_time_is_refused() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let delivery = queue.lease().await.unwrap().unwrap();
    for length in [Duration::ZERO, 13 * 3600 * SECOND] {
        let refused = delivery.extend(length).await;
        assert!(matches!(refused, Err(Error::Invalid(Invalid::OutOfRange { .. }))));
    }
    delivery.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_heartbeat_can_run_beside_the_handler() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let delivery = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    let handler = async {
        for _ in 0..5 {
            space.clock.advance(Duration::from_millis(900));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let heartbeat = async {
        loop {
            delivery.extend(60 * SECOND).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! { biased; () = handler => {} () = heartbeat => {} }
    assert!(queue.lease().await.unwrap().is_none());
    delivery.ack().await.unwrap();
    space.end().await;
}
