use std::{
    collections::BTreeMap,
    future::IntoFuture,
    time::{Duration, Instant},
};

use fairlane::{Error, Invalid};

use crate::support::{Space, message};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn queues_that_all_have_something_are_served_in_proportion_to_their_weights() {
    let space = Space::new().await;
    for name in ["urgent", "bulk"] {
        space.broker.register_queue(name, ".").await.unwrap();
    }
    let messages: Vec<_> = (0..550).map(|n| message("a", "t", n)).collect();
    space.broker.deliver_all(&messages).await.unwrap();
    let source = space.broker.by_weight([("urgent", 10.0), ("bulk", 1.0)]);
    let mut served: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..550 {
        let (queue, _) = source.pull().await.unwrap().unwrap();
        *served.entry(queue).or_default() += 1;
    }
    // 500 of 550 are expected, with a deviation of 6.7.
    assert!((465..=535).contains(&served["urgent"]), "{served:?}");
    while !source.lease_many(1000).await.unwrap().is_empty() {}
    assert!(source.pull().await.unwrap().is_none(), "the one is served when the other has nothing");
    space.delete().await;
}

#[tokio::test]
async fn one_who_waits_by_weight_wakes_for_each_of_the_queues() {
    let space = Space::new().await;
    for name in ["urgent", "bulk"] {
        space.broker.register_queue(name, &format!("^{name}$")).await.unwrap();
    }
    let source = space.broker.by_weight([("urgent", 1000.0), ("bulk", 0.001)]);
    for name in ["bulk", "urgent"] {
        let waiting = tokio::spawn(source.pull().wait(60 * SECOND).into_future());
        tokio::time::sleep(SECOND / 20).await;
        let from = Instant::now();
        space.broker.deliver(&message("a", name, 1)).await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().unwrap().0, name);
        assert!(from.elapsed() < SECOND);
    }
    space.end().await;
}

#[tokio::test]
async fn the_weight_of_a_queue_is_0_001_to_1000() {
    let space = Space::new().await;
    space.broker.register_queue("q", ".").await.unwrap();
    for weight in [0.0, -1.0, 0.000_9, 1000.1, f64::NAN, f64::INFINITY] {
        let refused = space.broker.by_weight([("q", 1.0), ("r", weight)]).lease().await;
        assert!(matches!(refused, Err(Error::Invalid(Invalid::OutOfRange { .. }))), "{weight}");
    }
    let none = space.broker.by_weight(Vec::<(String, f64)>::new());
    assert!(matches!(none.lease().await, Err(Error::Invalid(Invalid::Empty { .. }))));
    let source = space.broker.by_weight([("q", 0.001)]);
    assert!(source.lease_many(5).await.unwrap().is_empty());
    space.end().await;
}
