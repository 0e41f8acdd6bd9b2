//! Why a facet is served, or is not.

use std::time::{Duration, SystemTime};

use fairlane::{Error, Facet, FacetSettings, FacetState, Gate, QueueSettings, Rate};

use crate::support::{Space, deliver, message};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A time so long from now, by the clock of the space.
fn after(space: &Space, time: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(space.clock.now()) + time
}

async fn gate(facet: &Facet) -> Option<Gate> {
    let why = facet.why().await.unwrap();
    assert_eq!(why.stats.gate, why.gate);
    why.gate
}

#[tokio::test]
async fn a_facet_that_can_be_served_has_no_gate_and_a_place() {
    let (space, queue) = Space::with_queue().await;
    for (facet, n) in [("c", 2), ("a", 2), ("b", 2)] {
        deliver(&space.broker, facet, n).await;
    }
    assert!(queue.pull().await.unwrap().is_some());
    let order: Vec<_> =
        queue.peek(3).await.unwrap().into_iter().map(|peeked| peeked.facet).collect();
    for (place, facet) in order.iter().enumerate() {
        let why = queue.facet(facet).why().await.unwrap();
        assert_eq!((why.gate, why.place), (None, Some(place as u64)), "{order:?}");
        assert_eq!(why.stats.state, FacetState::Ready);
        assert!(why.stats.turn.is_some());
    }
    queue.facet(&order[0]).pause().await.unwrap();
    assert_eq!(queue.facet(&order[0]).why().await.unwrap().place, None);
    assert_eq!(queue.facet(&order[2]).why().await.unwrap().place, Some(1));
    queue.facet(&order[0]).resume().await.unwrap();
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 5);
    space.end().await;
}

#[tokio::test]
async fn a_facet_without_messages_is_empty_whatever_else_there_is() {
    let (space, queue) = Space::with_queue().await;
    let facet = queue.facet("a");
    let why = facet.why().await.unwrap();
    assert_eq!((why.gate, why.place, why.stats.oldest), (Some(Gate::Empty), None, None));
    assert_eq!((why.stats.state, why.stats.turn), (FacetState::Quiet, None));
    deliver(&space.broker, "a", 1).await;
    let one = queue.lease().await.unwrap().unwrap();
    facet.configure(|facet| facet.max_leased = Some(1)).await.unwrap();
    assert_eq!(gate(&facet).await, Some(Gate::Empty));
    facet.pause().await.unwrap();
    queue.pause().await.unwrap();
    let why = facet.why().await.unwrap();
    assert_eq!((why.gate, why.stats.leased, why.stats.paused), (Some(Gate::Empty), 1, true));
    one.ack().await.unwrap();
    queue.resume().await.unwrap();
    facet.configure(|facet| *facet = FacetSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn each_gate_is_told_and_the_one_that_stands_before_the_others() {
    let (space, queue) = Space::with_queue().await;
    let facet = queue.facet("a");
    let rate = Rate::new(2, 10 * SECOND);
    let set = |set: &mut FacetSettings| (set.max_leased, set.rate) = (Some(1), Some(rate));
    facet.configure(set).await.unwrap();
    deliver(&space.broker, "a", 5).await;
    assert_eq!(gate(&facet).await, None);
    let one = queue.lease().await.unwrap().unwrap();
    let regained = after(&space, 5 * SECOND);
    assert_eq!(gate(&facet).await, Some(Gate::AtLimit { most: 1 }));
    space.clock.advance(1500 * MS);
    one.nack().await.unwrap();
    assert_eq!(gate(&facet).await, Some(Gate::OutOfRate { until: regained }));
    space.clock.advance(3500 * MS);
    let one = queue.lease().await.unwrap().unwrap();
    one.hold_facet(7 * SECOND).await.unwrap();
    let held = after(&space, 7 * SECOND);
    assert_eq!(gate(&facet).await, Some(Gate::OnHold { until: held }));
    facet.pause().await.unwrap();
    assert_eq!(gate(&facet).await, Some(Gate::Paused));
    queue.pause().await.unwrap();
    assert_eq!(gate(&facet).await, Some(Gate::QueuePaused));
    let why = facet.why().await.unwrap();
    assert_eq!((why.stats.state, why.place), (FacetState::Parked, None));
    facet.resume().await.unwrap();
    assert_eq!(gate(&facet).await, Some(Gate::QueuePaused));
    queue.resume().await.unwrap();
    assert_eq!(gate(&facet).await, Some(Gate::OnHold { until: held }));
    space.clock.advance(7 * SECOND);
    assert_eq!(gate(&facet).await, None, "the hold has ended, though no call has seen it yet");
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 1);
    let regained = after(&space, 5 * SECOND);
    assert_eq!(gate(&facet).await, Some(Gate::OutOfRate { until: regained }));
    facet.configure(|facet| *facet = FacetSettings::default()).await.unwrap();
    assert_eq!(gate(&facet).await, None);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 4);
    space.clock.advance(60 * SECOND);
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn the_time_that_is_told_is_the_one_at_which_it_is_served() {
    let (space, queue) = Space::with_queue().await;
    let facet = queue.facet("a");
    // A third of a second is no whole number of milliseconds.
    facet.configure(|facet| facet.rate = Some(Rate::new(3, SECOND).burst(2))).await.unwrap();
    deliver(&space.broker, "a", 12).await;
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 2);
    for _ in 0..9 {
        let Some(Gate::OutOfRate { until }) = gate(&facet).await else { panic!() };
        let left = until.duration_since(after(&space, Duration::ZERO)).unwrap();
        assert!((332 * MS..=334 * MS).contains(&left), "{left:?}");
        space.clock.advance(left - 2 * MS);
        assert!(queue.pull().await.unwrap().is_none());
        space.clock.advance(2 * MS);
        assert!(queue.pull().await.unwrap().is_some());
    }
    space.clock.advance(SECOND);
    assert!(queue.pull().await.unwrap().is_some());
    facet.configure(|facet| *facet = FacetSettings::default()).await.unwrap();
    space.clock.advance(SECOND);
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn it_tells_the_settings_that_hold_and_which_of_the_queue_they_are() {
    let (space, queue) = Space::with_queue().await;
    let of_queue = Rate::new(5, SECOND).burst(2);
    queue
        .configure(|queue| {
            queue.facets.weight = Some(4.0);
            queue.facets.max_leased = Some(10);
            queue.facets.rate = Some(of_queue);
            queue.facets.max_waiting = Some(100);
            queue.max_attempts = 3;
        })
        .await
        .unwrap();
    let other = Rate::new(1, 60 * SECOND);
    queue
        .facet("a")
        .configure(|facet| {
            facet.max_leased = Some(2);
            facet.rate = Some(other);
            facet.intake_paused = true;
        })
        .await
        .unwrap();
    let a = queue.facet("a").why().await.unwrap().settings;
    assert_eq!((a.weight, a.max_leased, a.max_waiting), (Some(4.0), Some(2), Some(100)));
    assert_eq!((a.rate, a.intake_paused, a.paused), (Some(other), true, false));
    let b = queue.facet("b").why().await.unwrap();
    assert_eq!(b.settings, queue.settings().await.unwrap().facets);
    assert_eq!(b.stats.weight, 4.0);
    let own = queue.facet("a").settings().await.unwrap();
    assert_eq!((own.weight, own.max_leased, own.max_waiting), (None, Some(2), None));
    queue.pause_intake().await.unwrap();
    assert!(queue.facet("b").why().await.unwrap().settings.intake_paused);
    queue.facet("a").configure(|facet| *facet = FacetSettings::default()).await.unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    assert_eq!(queue.facet("a").why().await.unwrap().settings, FacetSettings::default());
    space.end().await;
}

#[tokio::test]
async fn it_tells_how_much_of_a_limit_is_used_and_how_long_the_oldest_has_waited() {
    let (space, queue) = Space::with_queue().await;
    let facet = queue.facet("a");
    facet.configure(|facet| facet.max_leased = Some(3)).await.unwrap();
    deliver(&space.broker, "a", 2).await;
    space.clock.advance(1500 * MS);
    deliver(&space.broker, "a", 2).await;
    let stats = facet.why().await.unwrap().stats;
    assert_eq!((stats.waiting, stats.leased, stats.oldest), (4, 0, Some(1500 * MS)));
    let batch = queue.lease_many(2).await.unwrap();
    space.clock.advance(500 * MS);
    let why = facet.why().await.unwrap();
    assert_eq!((why.gate, why.stats.leased, why.stats.oldest), (None, 2, Some(500 * MS)));
    let third = queue.lease().await.unwrap().unwrap();
    let why = facet.why().await.unwrap();
    assert_eq!((why.gate, why.stats.leased), (Some(Gate::AtLimit { most: 3 }), 3));
    facet.configure(|facet| facet.max_leased = Some(2)).await.unwrap();
    assert_eq!(gate(&facet).await, Some(Gate::AtLimit { most: 2 }));
    for delivery in batch {
        delivery.nack().await.unwrap();
    }
    let why = facet.why().await.unwrap();
    assert_eq!((why.gate, why.stats.leased, why.stats.oldest), (None, 1, Some(2 * SECOND)));
    third.ack().await.unwrap();
    facet.configure(|facet| *facet = FacetSettings::default()).await.unwrap();
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 3);
    space.end().await;
}

#[tokio::test]
async fn a_limit_of_the_queue_is_told_as_the_one_of_the_facet() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.facets.max_leased = Some(1)).await.unwrap();
    deliver(&space.broker, "a", 2).await;
    let one = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    let facet = queue.facet("a");
    assert_eq!(gate(&facet).await, Some(Gate::AtLimit { most: 1 }));
    one.ack().await.unwrap();
    assert_eq!(gate(&facet).await, None);
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 1);
    space.end().await;
}

#[tokio::test]
async fn what_is_delayed_or_dead_or_owed_is_told_though_nothing_waits() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 2).await.unwrap();
    deliver(&space.broker, "b", 9).await;
    deliver(&space.broker, "a", 3).await;
    queue.facet("b").pause().await.unwrap();
    let mut batch = queue.lease_many(3).await.unwrap();
    batch.remove(0).nack_after(SECOND).await.unwrap();
    batch.remove(0).nack().await.unwrap();
    queue.lease().await.unwrap().unwrap().nack().await.unwrap();
    let why = queue.facet("a").why().await.unwrap();
    let stats = &why.stats;
    assert_eq!((stats.delayed, stats.dead, stats.leased, stats.waiting), (1, 1, 1, 0));
    assert_eq!((why.gate, stats.oldest), (Some(Gate::Empty), None));
    batch.remove(0).ack_cost(40.0).await.unwrap();
    assert_eq!(queue.facet("a").why().await.unwrap().stats.state, FacetState::InDebt);
    space.clock.advance(SECOND);
    queue.facet("b").resume().await.unwrap();
    assert_eq!(queue.pull_many(99).await.unwrap().len(), 10);
    queue.dead_letters().purge().await.unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn to_ask_why_changes_nothing_and_needs_a_queue() {
    let (space, queue) = Space::with_queue().await;
    let refused = space.broker.queue("nowhere").facet("a").why().await;
    assert!(matches!(refused, Err(Error::NoSuchQueue(name)) if &*name == "nowhere"));
    for facet in [String::new(), "x".repeat(513)] {
        assert!(matches!(queue.facet(facet).why().await, Err(Error::Invalid(_))));
    }
    let before = space.keys().await;
    queue.facet("unheard of").why().await.unwrap();
    assert_eq!(space.keys().await, before);
    space.broker.deliver(&message("a", "t", 1)).await.unwrap();
    assert!(space.broker.unregister_queue("q").await.unwrap());
    assert_eq!(gate(&queue.facet("a")).await, None, "it holds something");
    assert!(queue.pull().await.unwrap().is_some());
    assert!(matches!(queue.facet("a").why().await, Err(Error::NoSuchQueue(_))));
    space.end().await;
}

#[tokio::test]
async fn many_are_asked_at_once_and_answered_in_the_order_given() {
    let (space, queue) = Space::with_queue().await;
    let messages: Vec<_> = (0..250).map(|n| message(&format!("f{n}"), "t", n)).collect();
    space.broker.deliver_all(&messages).await.unwrap();
    queue.facet("f7").pause().await.unwrap();
    let names: Vec<_> = (0..260).rev().map(|n| format!("f{n}")).collect();
    let found = queue.why_all(&names).await.unwrap();
    assert!(found.iter().map(|why| &why.stats.facet).eq(&names));
    assert_eq!(found.iter().filter(|why| why.gate == Some(Gate::Empty)).count(), 10);
    assert_eq!(found[252].gate, Some(Gate::Paused));
    for at in [0, 9, 10, 159, 160, 252, 259] {
        assert_eq!(
            found[at],
            queue.facet(&names[at]).why().await.unwrap(),
            "alone, it is the same"
        );
    }
    assert_eq!(queue.why_all(["f7", "f7"]).await.unwrap().len(), 2);
    assert!(queue.why_all(Vec::<String>::new()).await.unwrap().is_empty());
    queue.facet("f7").resume().await.unwrap();
    assert_eq!(queue.pull_many(999).await.unwrap().len(), 250);
    space.end().await;
}

#[tokio::test]
async fn many_with_large_messages_are_all_answered() {
    let (space, queue) = Space::with_queue().await;
    let large = |n: u64| {
        let mut message = message(&format!("f{n}"), "t", n);
        message["text"] = "x".repeat(1_000_000).into();
        message
    };
    space.broker.deliver_all(&(0..5).map(large).collect::<Vec<_>>()).await.unwrap();
    let found = queue.why_all((0..5).map(|n| format!("f{n}"))).await.unwrap();
    assert_eq!(found.iter().filter(|why| why.gate.is_none()).count(), 5);
    while !queue.pull_many(9).await.unwrap().is_empty() {}
    space.end().await;
}

#[tokio::test]
async fn many_are_refused_as_one_is() {
    let (space, queue) = Space::with_queue().await;
    let refused = space.broker.queue("nowhere").why_all(["a"]).await;
    assert!(matches!(refused, Err(Error::NoSuchQueue(name)) if &*name == "nowhere"));
    let refused = space.broker.queue("a:b").why_all(["a"]).await;
    assert!(matches!(refused, Err(Error::Invalid(_))));
    for bad in [String::new(), "x".repeat(513)] {
        assert!(matches!(queue.why_all(["a".into(), bad]).await, Err(Error::Invalid(_))));
    }
    space.end().await;
}
