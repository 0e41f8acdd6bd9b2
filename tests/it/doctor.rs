//! Each invariant is broken by hand; it is found, and mended.

use std::time::Duration;

use fairlane::{Finding, Message, Queue, Rate};

use crate::support::{Space, deliver, message, pulled, run};

const SECOND: Duration = Duration::from_secs(1);

/// Breaks something of a queue in which each kind of thing is there, and checks that exactly this is
/// found, mended, and found no more.
async fn check(
    break_it: impl AsyncFn(&Space),
    expected: impl Fn(&[Finding]) -> bool,
) -> (Space, Queue) {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "ready", 3).await;
    deliver(&space.broker, "leased", 2).await;
    queue.facet("paused").pause().await.unwrap();
    deliver(&space.broker, "paused", 2).await;
    let body = message("later", "t", 1);
    space.broker.deliver(Message::new(&body).delay(60 * SECOND)).await.unwrap();
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    deliver(&space.broker, "dead", 2).await;
    for delivery in queue.lease_many(100).lasting(1000 * SECOND).await.unwrap() {
        match delivery.facet() {
            "dead" => delivery.fail("it had to").await.unwrap(),
            "ready" => space.broker.ack(delivery.token()).await.unwrap(),
            _ => {}
        }
    }
    deliver(&space.broker, "ready", 2).await;
    assert_eq!(queue.doctor().await.unwrap(), []);

    break_it(&space).await;
    let found = queue.doctor().await.unwrap();
    assert!(!found.is_empty() && expected(&found), "{found:?}");
    assert_eq!(queue.doctor().await.unwrap(), found, "looking changes nothing");
    assert_eq!(queue.repair().await.unwrap(), found);
    assert_eq!(queue.doctor().await.unwrap(), [], "what was found: {found:?}");
    assert_eq!(queue.repair().await.unwrap(), []);
    (space, queue)
}

/// The number of the only lease.
async fn lease(space: &Space) -> String {
    let timers: Vec<String> = run(&["ZRANGE", &space.of("q", "timers"), "0", "-1"]).await;
    timers.into_iter().find(|name| name.starts_with(|first: char| first.is_ascii_digit())).unwrap()
}

fn facets(found: &[Finding], kind: fn(String) -> Finding, facet: &str) -> bool {
    found == [kind(facet.into())]
}

#[tokio::test]
async fn a_facet_that_nobody_would_serve_is_found_and_served_again() {
    let lost = async |space: &Space| {
        run::<()>(&["ZREM", &space.of("q", "ready"), "ready"]).await;
    };
    let unlisted = |facet| Finding::Unlisted { facet };
    let (space, queue) = check(lost, |found| facets(found, unlisted, "ready")).await;
    assert_eq!(pulled(&queue, 9).await, ["ready"; 2]);
    space.delete().await;
}

#[tokio::test]
async fn a_paused_facet_that_is_listed_nowhere_is_parked_again() {
    let lost = async |space: &Space| {
        run::<()>(&["ZREM", &space.of("q", "parked"), "paused"]).await;
    };
    let unlisted = |facet| Finding::Unlisted { facet };
    let (space, queue) = check(lost, |found| facets(found, unlisted, "paused")).await;
    queue.facet("paused").resume().await.unwrap();
    assert_eq!(pulled(&queue, 9).await.len(), 4);
    space.delete().await;
}

#[tokio::test]
async fn a_facet_that_is_ready_without_messages_is_found() {
    let ghost = async |space: &Space| {
        run::<()>(&["ZADD", &space.of("q", "ready"), "0", "ghost"]).await;
    };
    let empty = |facet| Finding::Empty { facet };
    check(ghost, |found| facets(found, empty, "ghost")).await.0.delete().await;
}

#[tokio::test]
async fn a_facet_that_is_ready_and_parked_is_found() {
    let both = async |space: &Space| {
        run::<()>(&["ZADD", &space.of("q", "parked"), "0", "ready"]).await;
    };
    let twice = |facet| Finding::Twice { facet };
    let (space, queue) = check(both, |found| facets(found, twice, "ready")).await;
    assert_eq!(queue.stats().await.unwrap().facets_parked, 1);
    space.delete().await;
}

#[tokio::test]
async fn a_facet_that_is_ready_while_it_is_paused_is_found() {
    let opened = async |space: &Space| {
        run::<()>(&["ZREM", &space.of("q", "parked"), "paused"]).await;
        run::<()>(&["ZADD", &space.of("q", "ready"), "0", "paused"]).await;
    };
    let ungated = |facet| Finding::Ungated { facet };
    let (space, queue) = check(opened, |found| facets(found, ungated, "paused")).await;
    assert_eq!(pulled(&queue, 9).await, ["ready"; 2]);
    space.delete().await;
}

#[tokio::test]
async fn a_facet_that_stays_parked_though_nothing_keeps_it_is_found() {
    let parked = async |space: &Space| {
        run::<()>(&["ZREM", &space.of("q", "ready"), "ready"]).await;
        run::<()>(&["ZADD", &space.of("q", "parked"), "0", "ready"]).await;
    };
    let stuck = |facet| Finding::Stuck { facet };
    let (space, queue) = check(parked, |found| facets(found, stuck, "ready")).await;
    assert_eq!(pulled(&queue, 9).await, ["ready"; 2]);
    space.delete().await;
}

#[tokio::test]
async fn a_facet_that_has_messages_and_is_noted_as_idle_is_found() {
    let owing = async |space: &Space| {
        run::<()>(&["ZADD", &space.of("q", "idle"), "9e9", "ready"]).await;
    };
    check(owing, |found| facets(found, |facet| Finding::Owing { facet }, "ready"))
        .await
        .0
        .delete()
        .await;
}

#[tokio::test]
async fn delayed_messages_without_a_timer_are_found_and_become_due() {
    let forgotten = async |space: &Space| {
        run::<()>(&["ZREM", &space.of("q", "timers"), "slater"]).await;
    };
    let untimed = |facet| Finding::Untimed { facet };
    let (space, queue) = check(forgotten, |found| facets(found, untimed, "later")).await;
    space.clock.advance(60 * SECOND);
    assert!(pulled(&queue, 9).await.contains(&"later".to_owned()));
    space.delete().await;
}

#[tokio::test]
async fn a_facet_that_is_out_of_its_rate_and_would_never_know_when_it_is_not_is_found() {
    let (space, queue) = Space::with_queue().await;
    let rate = Rate::new(1, 10 * SECOND);
    queue.facet("a").configure(|facet| facet.rate = Some(rate)).await.unwrap();
    deliver(&space.broker, "a", 2).await;
    assert_eq!(pulled(&queue, 9).await, ["a"]);
    assert_eq!(queue.doctor().await.unwrap(), []);
    run::<()>(&["ZREM", &space.of("q", "timers"), "ra"]).await;
    assert_eq!(queue.repair().await.unwrap(), [Finding::Untimed { facet: "a".into() }]);
    assert_eq!(queue.doctor().await.unwrap(), []);
    space.clock.advance(10 * SECOND);
    assert_eq!(pulled(&queue, 9).await, ["a"]);
    space.delete().await;
}

#[tokio::test]
async fn a_lease_without_a_timer_is_found_and_its_messages_come_back() {
    let endless = async |space: &Space| {
        let lease = lease(space).await;
        run::<()>(&["ZREM", &space.of("q", "timers"), &lease]).await;
    };
    let found = |found: &[Finding]| matches!(found, [Finding::Endless { .. }]);
    let (space, queue) = check(endless, found).await;
    queue.configure(|queue| queue.max_attempts = 9).await.unwrap();
    let back = pulled(&queue, 9).await;
    assert_eq!(back.iter().filter(|facet| *facet == "leased").count(), 2);
    space.delete().await;
}

#[tokio::test]
async fn a_timer_without_what_it_is_for_is_found() {
    for timer in ["123456", "snobody"] {
        let lost = async |space: &Space| {
            run::<()>(&["ZADD", &space.of("q", "timers"), "9e12", timer]).await;
        };
        let found = |found: &[Finding]| found == [Finding::Timer { timer: timer.into() }];
        check(lost, found).await.0.delete().await;
    }
}

#[tokio::test]
async fn a_half_of_what_is_leased_is_found_and_so_is_that_it_was_counted() {
    let halved = async |space: &Space| {
        let lease = space.of("q", &format!("l:{}", lease(space).await));
        let fields: Vec<String> = run(&["HKEYS", &lease]).await;
        let message = fields.iter().find(|field| field.starts_with('m')).unwrap();
        run::<()>(&["HDEL", &lease, message]).await;
    };
    let found = |found: &[Finding]| {
        // What was taken away is not counted as there any more.
        matches!(found, [Finding::Halved { .. }, Finding::Count { .. }, Finding::Count { .. }])
    };
    check(halved, found).await.0.delete().await;
}

#[tokio::test]
async fn a_dead_letter_that_is_not_listed_and_a_listed_one_that_is_not_there_are_found() {
    let unlisted = async |space: &Space| {
        let ids: Vec<String> = run(&["ZRANGE", &space.of("q", "d:dead"), "0", "0"]).await;
        run::<()>(&["ZREM", &space.of("q", "d:dead"), &ids[0]]).await;
    };
    let (space, queue) = check(unlisted, |found| matches!(found, [Finding::Letter { .. }])).await;
    assert_eq!(queue.dead_letters().of("dead").purge().await.unwrap(), 2);
    space.delete().await;

    let ghost = async |space: &Space| {
        let ids: Vec<String> = run(&["ZRANGE", &space.of("q", "d:dead"), "0", "0"]).await;
        run::<()>(&["HDEL", &space.of("q", "letters"), &ids[0]]).await;
    };
    check(ghost, |found| matches!(found, [Finding::Ghost { .. }])).await.0.delete().await;

    let grave = async |space: &Space| {
        run::<()>(&["ZADD", &space.of("q", "dead"), "5", "dead"]).await;
    };
    check(grave, |found| matches!(found, [Finding::Grave { .. }])).await.0.delete().await;
}

#[tokio::test]
async fn counts_that_disagree_are_found_and_mended() {
    for (field, what) in [("waiting", "waiting"), ("delayed", "delayed"), ("holds", "holds")] {
        let wrong = async |space: &Space| {
            run::<()>(&["HINCRBY", &space.of("q", "clock"), field, "7"]).await;
        };
        let found = |found: &[Finding]| {
            matches!(found, [Finding::Count { what: is, facet: None, there, kept }]
                if *is == what && kept - there == 7)
        };
        check(wrong, found).await.0.delete().await;
    }
    for facets in [&["leased"][..], &[""], &["leased", ""], &["nobody"]] {
        let wrong = async |space: &Space| {
            for facet in facets {
                run::<()>(&["HINCRBY", &space.of("q", "held"), facet, "3"]).await;
            }
        };
        let found = |found: &[Finding]| {
            found.len() == facets.len()
                && found.iter().all(|one| matches!(one, Finding::Count { what: "leased", .. }))
        };
        check(wrong, found).await.0.delete().await;
    }
}

#[tokio::test]
async fn all_that_can_be_broken_is_mended_at_once() {
    let all = async |space: &Space| {
        run::<()>(&["DEL", &space.of("q", "ready"), &space.of("q", "timers")]).await;
        run::<()>(&["DEL", &space.of("q", "parked"), &space.of("q", "dead")]).await;
        run::<()>(&["DEL", &space.of("q", "held"), &space.of("q", "d:dead")]).await;
        run::<()>(&["HDEL", &space.of("q", "clock"), "waiting", "delayed"]).await;
    };
    let (space, queue) = check(all, |found| found.len() >= 9).await;
    queue.configure(|queue| queue.max_attempts = 9).await.unwrap();
    queue.facet("paused").resume().await.unwrap();
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 2);
    space.clock.advance(2000 * SECOND);
    let mut served = pulled(&queue, 99).await;
    served.sort();
    let each = ["dead", "dead", "later", "leased", "leased", "paused", "paused", "ready", "ready"];
    assert_eq!(served, each);
    space.delete().await;
}

#[tokio::test]
async fn a_queue_in_service_is_examined_and_repaired_without_harm() {
    let (space, queue) = Space::with_queue().await;
    let work = async {
        let mut handled = 0;
        for round in 0..60 {
            deliver(&space.broker, &format!("f{}", round % 7), 5).await;
            let leased = queue.lease_many(5).await.unwrap();
            handled += leased.len();
            assert!(space.broker.ack_all(leased).await.unwrap().is_empty());
        }
        handled
    };
    let doctor = async {
        for _ in 0..10 {
            assert_eq!(queue.doctor().await.unwrap(), []);
            assert_eq!(queue.repair().await.unwrap(), []);
        }
    };
    let (handled, ()) = tokio::join!(work, doctor);
    assert_eq!(handled, 300);
    assert_eq!(queue.doctor().await.unwrap(), []);
    space.end().await;
}

#[tokio::test]
async fn a_large_queue_that_is_never_quiet_is_not_harmed_by_repairs() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.facets.max_leased = Some(1)).await.unwrap();
    let messages: Vec<_> = (0..1100).map(|n| message(&format!("f{n}"), "t", n)).collect();
    space.broker.deliver_all(&messages).await.unwrap();
    deliver(&space.broker, "busy", 400).await;
    let stop = std::cell::Cell::new(false);
    let work = async {
        while !stop.get() {
            let leased = queue.lease_many(2).await.unwrap();
            for delivery in leased {
                delivery.nack_after(Duration::from_millis(1)).await.unwrap();
            }
            space.clock.advance(Duration::from_millis(1));
        }
    };
    let repairs = async {
        for _ in 0..3 {
            let found = queue.repair().await.unwrap();
            assert!(found.iter().all(|one| !matches!(one, Finding::Count { .. })), "{found:?}");
        }
        stop.set(true);
    };
    tokio::join!(work, repairs);
    assert_eq!(queue.doctor().await.unwrap(), []);
    space.delete().await;
}

#[tokio::test]
async fn a_rate_that_opens_within_this_millisecond_is_no_finding() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.facets.rate = Some(Rate::new(3, SECOND))).await.unwrap();
    deliver(&space.broker, "a", 3).await;
    assert_eq!(pulled(&queue, 9).await, ["a"]);
    for _ in 0..4 {
        space.clock.advance(Duration::from_millis(111));
        assert_eq!(queue.doctor().await.unwrap(), []);
    }
    space.delete().await;
}
