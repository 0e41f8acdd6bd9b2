use std::time::{Duration, Instant};

use fairlane::{Error, Invalid};

use crate::support::{self, Space, deliver, message, run};

#[tokio::test]
async fn the_same_pattern_again_changes_nothing() {
    let space = Space::new().await;
    space.broker.register_queue("q", "^a").await.unwrap();
    let version = run::<String>(&["HGET", &space.key("routes"), ":version"]).await;
    space.broker.register_queue("q", "^a").await.unwrap();
    assert_eq!(run::<String>(&["HGET", &space.key("routes"), ":version"]).await, version);
    space.broker.register_queue("q", "^b").await.unwrap();
    assert_ne!(run::<String>(&["HGET", &space.key("routes"), ":version"]).await, version);
    space.end().await;
}

#[tokio::test]
async fn another_pattern_takes_the_place_of_the_first_and_what_is_queued_stays() {
    let space = Space::new().await;
    let queue = space.broker.register_queue("q", "^t$").await.unwrap();
    deliver(&space.broker, "a", 1).await;
    space.broker.register_queue("q", "^u$").await.unwrap();
    assert!(space.broker.deliver(&message("a", "t", 1)).await.unwrap().queues.is_empty());
    assert_eq!(space.broker.deliver(&message("a", "u", 2)).await.unwrap().queues.len(), 1);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 2);
    space.end().await;
}

#[tokio::test]
async fn names_and_patterns_that_cannot_work_are_refused_before_anything_is_written() {
    let space = Space::new().await;
    for name in ["", "a:b", "a b", "{a}", "ü", &"x".repeat(129)] {
        let refused = space.broker.register_queue(name, ".").await;
        assert!(matches!(refused, Err(Error::Invalid(Invalid::Name { .. }))), "{name}");
    }
    for pattern in ["[", "(", "a{2", r"(?=a)", r"(a)\1", r"\w{500}{500}", "", &"x".repeat(4097)] {
        let refused = space.broker.register_queue("q", pattern).await;
        assert!(matches!(refused, Err(Error::Invalid(_))), "{pattern}");
    }
    assert!(space.keys().await.is_empty());
    space.end().await;
}

#[tokio::test]
async fn no_pattern_makes_a_delivery_slow() {
    let space = Space::new().await;
    // Minutes for a matcher that backtracks.
    space.broker.register_queue("q", ".*.*.*.*.*.*x").await.unwrap();
    space.broker.register_queue("r", "^(a+)+$").await.unwrap();
    let before = Instant::now();
    let topic = format!("{}!", "a".repeat(500));
    assert!(space.broker.deliver(&message("f", &topic, 0)).await.unwrap().queues.is_empty());
    assert!(before.elapsed() < Duration::from_secs(2));
    space.end().await;
}

#[tokio::test]
async fn another_writers_pattern_that_does_not_compile_matches_nothing_and_stops_no_other() {
    let space = Space::new().await;
    space.broker.register_queue("good", ".").await.unwrap();
    let mut bad = redis::cmd("HSET");
    bad.arg(space.key("routes")).arg(&["bad", "[", "a:b", ".", ":version", "99"]);
    bad.arg("no-text").arg(b"\xff\xfe").arg(b"\xff").arg(".").arg(":version").arg(b"9\xff");
    bad.exec_async(&mut support::raw().await).await.unwrap();
    space.another().await;
    let receipt = space.broker.deliver(&message("f", "t", 0)).await.unwrap();
    assert_eq!(*receipt.queues, ["good".to_owned()]);
    assert!(space.broker.queues().await.unwrap().iter().any(|route| route.queue == "bad"));
    space.broker.queue("good").pull().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn registering_and_delivering_at_once_by_many_clients_loses_no_route() {
    let space = Space::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let broker = space.another().await;
        tasks.spawn(async move {
            for m in 0..5 {
                broker.register_queue(&format!("q-{n}-{m}"), ".").await.unwrap();
                broker.deliver(&message("f", "t", m)).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let receipt = space.broker.deliver(&message("f", "t", 9)).await.unwrap();
    assert_eq!(receipt.queues.len(), 40);
    space.delete().await;
}
