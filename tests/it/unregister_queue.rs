use fairlane::{Error, Invalid};

use crate::support::{Space, deliver, message};

#[tokio::test]
async fn what_is_queued_stays_and_can_be_pulled_until_nothing_is_left() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    assert!(space.broker.unregister_queue("q").await.unwrap());
    assert!(space.broker.deliver(&message("a", "t", 9)).await.unwrap().queues.is_empty());
    assert_eq!(queue.pull().await.unwrap().unwrap()["n"], 0);
    let last = queue.lease().await.unwrap().unwrap();
    assert_eq!(queue.pull().await.unwrap(), None, "it holds a leased message");
    last.ack().await.unwrap();
    assert!(matches!(queue.pull().await, Err(Error::NoSuchQueue(_))));
    space.end().await;
}

#[tokio::test]
async fn it_says_whether_there_was_a_route() {
    let space = Space::new().await;
    assert!(!space.broker.unregister_queue("q").await.unwrap());
    space.broker.register_queue("q", ".").await.unwrap();
    assert!(space.broker.unregister_queue("q").await.unwrap());
    assert!(!space.broker.unregister_queue("q").await.unwrap());
    assert!(matches!(
        space.broker.unregister_queue("*").await,
        Err(Error::Invalid(Invalid::Name { .. }))
    ));
    space.end().await;
}
