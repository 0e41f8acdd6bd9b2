//! Purge and remove: what waits of a facet is dropped, all of it or one message.

use std::time::{Duration, Instant};

use fairlane::{Error, FacetState, Message, MessageId, QueueSettings};
use tokio::task::JoinSet;

use crate::support::{Server, Space, counts, deliver, message, numbers, pulled, run};

const SECOND: Duration = Duration::from_secs(1);

/// Delivers `n` numbered messages of facet `a`, delayed if `delay` is, and returns their ids.
async fn ids(space: &Space, n: u64, delay: Duration) -> Vec<MessageId> {
    let bodies: Vec<_> = (0..n).map(|n| message("a", "t", n)).collect();
    let messages = bodies.iter().map(|body| Message::new(body).delay(delay));
    let receipts = space.broker.deliver_all(messages).await.unwrap();
    receipts.into_iter().map(|receipt| receipt.id).collect()
}

fn is_unknown<T>(result: Result<T, Error>, id: MessageId) -> bool {
    matches!(result, Err(Error::NoSuchMessage(of)) if of == id)
}

#[tokio::test]
async fn a_purge_drops_what_waits_and_what_is_delayed_and_nothing_else() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    deliver(&space.broker, "a", 12).await;
    deliver(&space.broker, "b", 3).await;
    queue.facet("b").pause().await.unwrap();
    queue.lease().await.unwrap().unwrap().nack().await.unwrap();
    let leased = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    let crashes = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    ids(&space, 4, 10 * SECOND).await;
    assert_eq!(queue.facet("a").purge().await.unwrap(), 9 + 4);
    assert_eq!(queue.facet("a").purge().await.unwrap(), 0);
    let of = queue.facet("a").stats().await.unwrap();
    assert_eq!((of.waiting, of.delayed, of.leased, of.dead), (0, 0, 2, 1));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.delayed, stats.leased, stats.dead), (3, 0, 2, 1));
    assert_eq!((stats.purged, stats.facets_ready, stats.facets_parked), (13, 0, 1));
    assert!(queue.lease().await.unwrap().is_none());
    leased.ack().await.unwrap();
    space.clock.advance(SECOND);
    assert!(queue.lease().await.unwrap().is_none());
    assert!(matches!(crashes.ack().await, Err(Error::LeaseLost(_))));
    space.clock.advance(10 * SECOND);
    assert!(queue.lease().await.unwrap().is_none(), "no delayed one is left");
    queue.facet("b").resume().await.unwrap();
    assert_eq!(numbers(&queue).await, [0, 1, 2]);
    assert_eq!(queue.dead_letters().purge().await.unwrap(), 2);
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_purge_of_what_is_not_there_drops_nothing_and_leaves_nothing() {
    let (space, queue) = Space::with_queue().await;
    assert_eq!(queue.facet("nobody").purge().await.unwrap(), 0);
    let nowhere = space.broker.queue("nowhere");
    assert!(matches!(nowhere.facet("a").purge().await, Err(Error::NoSuchQueue(_))));
    assert!(matches!(queue.facet("").purge().await, Err(Error::Invalid(_))));
    assert!(matches!(queue.facet("").remove("1".parse().unwrap()).await, Err(Error::Invalid(_))));
    space.end().await;
}

#[tokio::test]
async fn who_purges_and_comes_back_is_served_no_more_than_others() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "other", 60).await;
    let mut served = Vec::new();
    for _ in 0..10 {
        deliver(&space.broker, "a", 5).await;
        served.extend(pulled(&queue, 4).await);
        queue.facet("a").purge().await.unwrap();
    }
    let counts = counts(&served);
    assert!(counts["a"] <= 22, "{counts:?}");
    queue.facet("other").purge().await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn a_facet_that_is_purged_keeps_its_debt() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("light").set_weight(0.1).await.unwrap();
    deliver(&space.broker, "light", 5).await;
    deliver(&space.broker, "other", 40).await;
    while pulled(&queue, 1).await != ["light"] {}
    assert_eq!(queue.facet("light").purge().await.unwrap(), 4);
    let of = queue.facet("light").stats().await.unwrap();
    assert_eq!((of.state, of.waiting), (FacetState::InDebt, 0));
    assert_eq!(queue.stats().await.unwrap().facets_in_debt, 1);
    deliver(&space.broker, "light", 1).await;
    let before = queue.facet("light").why().await.unwrap();
    assert_eq!(before.stats.turn, of.turn);
    let served = pulled(&queue, 8).await;
    assert_eq!(served, ["other"; 8]);
    queue.facet("light").purge().await.unwrap();
    queue.facet("other").purge().await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    queue.facet("light").configure(|light| light.weight = None).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_hundred_thousand_are_purged_by_one_call_in_one_step() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 100_000).await;
    deliver(&broker, "b", 2).await;
    server.run::<()>(&["CONFIG", "RESETSTAT"]).await;
    let from = Instant::now();
    assert_eq!(queue.facet("a").purge().await.unwrap(), 100_000);
    assert!(from.elapsed() < SECOND, "{:?}", from.elapsed());
    assert_eq!(server.calls("unlink").await, 1);
    assert_eq!((server.calls("lpop").await, server.calls("lrange").await), (0, 0));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.purged, stats.facets_ready), (2, 100_000, 1));
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_message_is_removed_wherever_it_waits() {
    let (space, queue) = Space::with_queue().await;
    for n in [1, 7, 8, 9, 17, 1100] {
        let all = ids(&space, n, Duration::ZERO).await;
        for place in [0, n / 2, n - 1].into_iter().take(n.min(3) as usize) {
            queue.facet("a").remove(all[place as usize]).await.unwrap();
            let again = queue.facet("a").remove(all[place as usize]).await;
            assert!(is_unknown(again, all[place as usize]), "{place} of {n}");
        }
        let left: Vec<_> = (0..n).filter(|of| ![0, n / 2, n - 1].contains(of)).collect();
        assert_eq!(queue.stats().await.unwrap().waiting, left.len() as u64);
        assert_eq!(numbers(&queue).await, left, "of {n}");
    }
    assert_eq!(queue.stats().await.unwrap().purged, 1 + 5 * 3);
    space.end().await;
}

#[tokio::test]
async fn a_message_is_removed_while_it_is_delayed() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 20).await;
    let timer = async || -> Option<f64> { run(&["ZSCORE", &space.of("q", "timers"), "sa"]).await };
    let first = ids(&space, 1, SECOND).await;
    let many = ids(&space, 1100, 2 * SECOND).await;
    let due = |seconds: u64| Some((space.clock.now() + seconds * 1000) as f64);
    assert_eq!(timer().await, due(1));
    queue.facet("a").remove(first[0]).await.unwrap();
    assert_eq!(timer().await, due(2), "its timer is that of the next one");
    for place in [0, 550, 1099] {
        queue.facet("a").remove(many[place]).await.unwrap();
        assert!(is_unknown(queue.facet("a").remove(many[place]).await, many[place]));
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.delayed, stats.waiting, stats.purged), (1097, 20, 4));
    assert_eq!(queue.facet("a").purge().await.unwrap(), 1117);
    assert_eq!(timer().await, None);
    let only = ids(&space, 1, SECOND).await;
    queue.facet("a").remove(only[0]).await.unwrap();
    assert_eq!((timer().await, queue.stats().await.unwrap().delayed), (None, 0));
    space.end().await;
}

#[tokio::test]
async fn what_is_not_there_cannot_be_removed() {
    let (space, queue) = Space::with_queue().await;
    let a = ids(&space, 3, Duration::ZERO).await;
    let b = space.broker.deliver(&message("b", "t", 1)).await.unwrap().id;
    let leased = queue.lease().await.unwrap().unwrap();
    assert_eq!(leased.id(), a[0]);
    // Its number begins like another's, or ends like it.
    let like = [1, 10].map(|by| format!("{}{by}", a[1]).parse().unwrap());
    let unknown: MessageId = "0".parse().unwrap();
    for id in [leased.id(), b, unknown, like[0], like[1]] {
        assert!(is_unknown(queue.facet("a").remove(id).await, id), "{id}");
    }
    assert!(is_unknown(queue.facet("nobody").remove(a[1]).await, a[1]));
    let nowhere = space.broker.queue("nowhere").facet("a");
    assert!(matches!(nowhere.remove(a[1]).await, Err(Error::NoSuchQueue(_))));
    leased.ack().await.unwrap();
    assert_eq!(numbers(&queue).await.len(), 3);
    space.end().await;
}

#[tokio::test]
async fn a_facet_whose_last_message_is_removed_has_no_turn_any_more() {
    let (space, queue) = Space::with_queue().await;
    for paused in [false, true] {
        deliver(&space.broker, "b", 1).await;
        let only = ids(&space, 1, Duration::ZERO).await;
        if paused {
            queue.facet("a").pause().await.unwrap();
        }
        queue.facet("a").remove(only[0]).await.unwrap();
        let stats = queue.stats().await.unwrap();
        assert_eq!((stats.facets_ready, stats.facets_parked, stats.waiting), (1, 0, 1));
        let state = queue.facet("a").stats().await.unwrap().state;
        assert!(matches!(state, FacetState::Quiet | FacetState::InDebt), "{state:?}");
        assert_eq!(pulled(&queue, 9).await, ["b"]);
    }
    queue.facet("a").resume().await.unwrap();
    // Of a queue that has nothing else, too.
    let only = ids(&space, 1, Duration::ZERO).await;
    queue.facet("a").remove(only[0]).await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn what_is_removed_while_others_pull_is_removed_or_served_and_none_is_missed() {
    let (space, queue) = Space::with_queue().await;
    let all = ids(&space, 6000, Duration::ZERO).await;
    // Those at the end are still there, however many are taken from the front meanwhile.
    let puller = tokio::spawn({
        let queue = queue.clone();
        async move {
            let mut taken = 0;
            for _ in 0..300 {
                taken += queue.pull_many(10).await.unwrap().len();
            }
            taken
        }
    });
    let mut removals = JoinSet::new();
    for place in (3001..6000).step_by(150) {
        let (facet, id) = (queue.facet("a"), all[place]);
        removals.spawn(async move { facet.remove(id).await.map_err(|error| (place, error)) });
        if place % 1000 < 150 {
            tokio::task::yield_now().await;
        }
    }
    for removed in removals.join_all().await {
        removed.unwrap();
    }
    let taken = puller.await.unwrap();
    let left = numbers(&queue).await;
    assert_eq!(taken + left.len() + 20, 6000);
    assert!(left.iter().all(|n| (*n < 3001) || (n - 3001) % 150 != 0));
    space.end().await;
}

#[tokio::test]
async fn what_others_remove_meanwhile_makes_it_miss_none() {
    let (space, queue) = Space::with_queue().await;
    for n in 0..40 {
        // The one that is looked for is among the first of the second step.
        let all = ids(&space, 1100, Duration::ZERO).await;
        let mut removals = JoinSet::new();
        for place in [1099, 1098, 1097, 1096, 595, 594, 593, 592].into_iter().rev() {
            let (facet, id) = (queue.facet("a"), all[place]);
            removals.spawn(async move {
                if place > 1000 {
                    tokio::time::sleep(Duration::from_micros(n * 25)).await;
                }
                facet.remove(id).await
            });
        }
        for removed in removals.join_all().await {
            removed.unwrap();
        }
        assert_eq!(queue.facet("a").purge().await.unwrap(), 1092);
    }
    space.end().await;
}

#[tokio::test]
async fn what_becomes_due_while_it_is_looked_for_is_removed_all_the_same() {
    let (space, queue) = Space::with_queue().await;
    for n in 0..30 {
        ids(&space, 1200, Duration::ZERO).await; // So that it takes a few steps.
        let late = ids(&space, 1, SECOND).await[0];
        let facet = queue.facet("a");
        let removing = tokio::spawn(async move { facet.remove(late).await });
        for _ in 0..n % 6 {
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        space.clock.advance(SECOND);
        queue.pull().await.unwrap().unwrap();
        removing.await.unwrap().unwrap();
        assert_eq!(queue.facet("a").purge().await.unwrap(), 1199);
    }
    space.end().await;
}
