use fairlane::{Error, Invalid};

use crate::support::{Space, counts, deliver, pulled};

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
    space.end().await;
}

#[tokio::test]
async fn a_weight_of_one_leaves_nothing_behind() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("a").set_weight(2.0).await.unwrap();
    assert_eq!(
        space.keys().await.len(),
        3,
        "layout, routes and weights, and no entry for a facet that has no message"
    );
    queue.facet("a").set_weight(1.0).await.unwrap();
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
    queue.facet("heavy").set_weight(1.0).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_facet_of_a_queue_that_does_not_exist_has_no_weight() {
    let space = Space::new().await;
    let refused = space.broker.queue("nowhere").facet("a").set_weight(2.0).await;
    assert!(matches!(refused, Err(Error::NoSuchQueue(name)) if &*name == "nowhere"));
    space.end().await;
}
