use std::{collections::BTreeMap, time::Duration};

use fairlane::{Cursor, Error, FacetSettings, FacetState, FacetStats, Gate, Queue, Rate};

use crate::support::{Space, deliver, message, run};

const SECOND: Duration = Duration::from_secs(1);

/// All pages, and how many there were.
async fn all(queue: &Queue) -> (BTreeMap<String, FacetStats>, usize) {
    let (mut all, mut pages) = (BTreeMap::new(), 0);
    let mut from = Some(Cursor::default());
    while let Some(cursor) = from {
        let (page, next) = queue.facets(cursor).await.unwrap();
        for found in page {
            let twice = all.insert(found.facet.clone(), found);
            assert!(twice.is_none(), "{twice:?} is there twice");
        }
        (from, pages) = (next, pages + 1);
    }
    (all, pages)
}

#[tokio::test]
async fn a_facet_is_shown_with_all_that_is_known_of_it() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "ready", 3).await;
    space.clock.advance(5 * SECOND);
    deliver(&space.broker, "parked", 2).await;
    deliver(&space.broker, "served", 1).await;
    queue.facet("parked").pause().await.unwrap();
    queue.facet("held back").pause().await.unwrap();
    queue.facet("heavy").set_weight(3.0).await.unwrap();
    let mut leased = queue.lease_many(2).await.unwrap();
    queue.facet("served").set_weight(0.001).await.unwrap();
    space.clock.advance(2 * SECOND);

    let (found, _) = all(&queue).await;
    let names: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["heavy", "held back", "parked", "ready", "served"]);
    for (name, stats) in &found {
        assert_eq!(&queue.facet(name).stats().await.unwrap(), stats, "alone, it is the same");
    }
    let of = |name: &str| {
        let stats = &found[name];
        (stats.waiting, stats.leased, stats.weight, stats.state, stats.paused)
    };
    assert_eq!(of("ready"), (2, 1, 1.0, FacetState::Ready, false));
    assert_eq!(found["ready"].oldest, Some(7 * SECOND));
    assert_eq!(of("parked"), (2, 0, 1.0, FacetState::Parked, true));
    assert_eq!(found["parked"].oldest, Some(2 * SECOND));
    assert_eq!(of("served"), (0, 1, 0.001, FacetState::InDebt, false));
    assert!(found["served"].turn.unwrap() > found["ready"].turn.unwrap());
    assert_eq!(of("held back"), (0, 0, 1.0, FacetState::Quiet, true));
    assert_eq!(of("heavy"), (0, 0, 3.0, FacetState::Quiet, false));
    assert_eq!((found["heavy"].turn, found["heavy"].oldest), (None, None));

    leased.pop().unwrap().nack().await.unwrap();
    space.broker.ack_all(leased).await.unwrap();
    for name in ["ready", "served", "parked", "held back", "heavy"] {
        queue.facet(name).resume().await.unwrap();
        queue.facet(name).configure(|facet| facet.weight = None).await.unwrap();
    }
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 5);
    assert!(all(&queue).await.0.is_empty(), "nothing is known any more");
    space.end().await;
}

#[tokio::test]
async fn what_keeps_a_facet_is_shown_with_it() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("limited").configure(|facet| facet.max_leased = Some(1)).await.unwrap();
    let slow = Rate::new(1, 60 * SECOND);
    queue.facet("slow").configure(|facet| facet.rate = Some(slow)).await.unwrap();
    for name in ["limited", "slow", "paused", "ready"] {
        deliver(&space.broker, name, 3).await;
    }
    queue.facet("paused").pause().await.unwrap();
    let leased = queue.lease_many(3).await.unwrap();
    let (found, _) = all(&queue).await;
    assert_eq!(found["limited"].gate, Some(Gate::AtLimit { most: 1 }));
    assert!(matches!(found["slow"].gate, Some(Gate::OutOfRate { .. })));
    assert_eq!((found["paused"].gate, found["ready"].gate), (Some(Gate::Paused), None));
    queue.pause().await.unwrap();
    let (found, _) = all(&queue).await;
    assert!(found.values().all(|stats| stats.gate == Some(Gate::QueuePaused)));
    queue.resume().await.unwrap();
    assert!(space.broker.ack_all(leased).await.unwrap().is_empty());
    for name in ["limited", "slow", "paused"] {
        let set = queue.facet(name).configure(|facet| *facet = FacetSettings::default()).await;
        set.unwrap();
    }
    assert_eq!(queue.pull_many(99).await.unwrap().len(), 9);
    space.clock.advance(60 * SECOND);
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn thousands_of_facets_come_in_pages_and_each_is_there_once() {
    let (space, queue) = Space::with_queue().await;
    let messages: Vec<_> = (0..3000).map(|n| message(&format!("f{n}"), "t", n)).collect();
    space.broker.deliver_all(&messages).await.unwrap();
    let mut leased = queue.lease_many(1000).await.unwrap();
    for n in 2000..2300 {
        queue.facet(format!("f{n}")).pause().await.unwrap();
    }
    let (found, pages) = all(&queue).await;
    assert_eq!(found.len(), 3000);
    assert!((20..200).contains(&pages), "{pages}");
    assert_eq!(found.values().map(|stats| stats.waiting).sum::<u64>(), 2000);
    assert_eq!(found.values().map(|stats| stats.leased).sum::<u64>(), 1000);
    let parked = found.values().filter(|stats| stats.state == FacetState::Parked);
    assert_eq!(parked.count(), 300);
    assert!(space.broker.ack_all(leased.drain(..)).await.unwrap().is_empty());
    for n in 2000..2300 {
        queue.facet(format!("f{n}")).resume().await.unwrap();
    }
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    space.end().await;
}

#[tokio::test]
async fn a_page_with_large_messages_is_read_in_several_calls() {
    let (space, queue) = Space::with_queue().await;
    let large = |n: u64| {
        let mut message = message(&format!("f{n}"), "t", n);
        message["text"] = "x".repeat(1_000_000).into();
        message
    };
    let messages: Vec<_> = (0..12).map(large).collect();
    space.broker.deliver_all(&messages).await.unwrap();
    let (found, _) = all(&queue).await;
    assert_eq!(found.len(), 12);
    assert!(found.values().all(|stats| stats.oldest == Some(Duration::ZERO)));
    while !queue.pull_many(9).await.unwrap().is_empty() {}
    space.end().await;
}

#[tokio::test]
async fn a_facet_that_is_not_there_is_quiet() {
    let (space, queue) = Space::with_queue().await;
    let stats = queue.facet("nobody").stats().await.unwrap();
    assert_eq!((stats.waiting, stats.leased, stats.weight), (0, 0, 1.0));
    assert_eq!((stats.state, stats.paused, stats.oldest), (FacetState::Quiet, false, None));
    for bad in [String::new(), "x".repeat(513)] {
        assert!(matches!(queue.facet(bad).stats().await, Err(Error::Invalid(_))));
    }
    space.end().await;
}

#[tokio::test]
async fn a_list_that_somebody_has_meddled_with_stops_nobody() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    deliver(&space.broker, "b", 1).await;
    run::<()>(&["DEL", &space.of("q", "f:a")]).await;
    run::<()>(&["SET", &space.of("q", "f:a"), "text"]).await;
    let (found, _) = all(&queue).await;
    assert_eq!((found["a"].waiting, found["b"].waiting), (0, 1));
    assert_eq!(queue.peek(9).await.unwrap().len(), 1);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 1);
    assert_eq!(queue.stats().await.unwrap().waiting, 0, "what was taken away is not counted");
    space.delete().await;
}

#[tokio::test]
async fn a_queue_that_does_not_exist_has_no_facets() {
    let space = Space::new().await;
    let refused = space.broker.queue("nowhere").facets(Cursor::default()).await;
    assert!(matches!(refused, Err(Error::NoSuchQueue(_))));
    let refused = space.broker.queue("a:b").facets(Cursor::default()).await;
    assert!(matches!(refused, Err(Error::Invalid(_))));
    space.end().await;
}
