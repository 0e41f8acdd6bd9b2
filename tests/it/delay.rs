//! Delays: what is served later joins the end of its facet when it is due.

use std::{
    future::IntoFuture,
    time::{Duration, Instant, SystemTime},
};

use fairlane::{Error, FacetState, Gate, Invalid, Message};

use crate::support::{Server, Space, deliver, message, numbers, pulled, run, until};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const TEN_YEARS: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Delivers number `n` of a facet, delayed.
async fn later(space: &Space, facet: &str, n: u64, delay: Duration) {
    let body = message(facet, "t", n);
    space.broker.deliver(Message::new(&body).delay(delay)).await.unwrap();
}

fn at(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

#[tokio::test]
async fn a_delayed_message_joins_the_end_of_its_facet_when_it_is_due_and_not_before() {
    let (space, queue) = Space::with_queue().await;
    later(&space, "a", 1, 10 * SECOND).await;
    space.clock.advance(10 * SECOND - MS);
    assert!(queue.pull().await.unwrap().is_none());
    assert!(queue.lease().await.unwrap().is_none());
    assert!(queue.peek(9).await.unwrap().is_empty());
    deliver(&space.broker, "a", 1).await;
    space.clock.advance(MS);
    let peeked = queue.peek(9).await.unwrap();
    assert_eq!(peeked.len(), 2, "a peek sees what is due, and changes nothing");
    assert_eq!(queue.stats().await.unwrap().delayed, 1);
    assert_eq!(numbers(&queue).await, [0, 1]);
    space.end().await;
}

#[tokio::test]
async fn those_that_are_due_come_in_the_order_of_that_and_then_of_their_delivery() {
    let (space, queue) = Space::with_queue().await;
    // Numbers of one, two and three digits are in order, too.
    for n in 0..120 {
        later(&space, "a", 1000 + n, 3 * SECOND).await;
    }
    later(&space, "a", 1, SECOND).await;
    space.clock.advance(SECOND);
    later(&space, "a", 1120, 2 * SECOND).await;
    later(&space, "a", 2, SECOND).await;
    later(&space, "a", 3000, 2 * SECOND + MS).await;
    space.clock.advance(9 * SECOND);
    let expected: Vec<_> = [1, 2].into_iter().chain(1000..=1120).chain([3000]).collect();
    assert_eq!(numbers(&queue).await, expected);
    space.end().await;
}

#[tokio::test]
async fn a_time_is_by_the_clock_of_redis_and_one_that_has_passed_is_at_once() {
    let (space, queue) = Space::with_queue().await;
    let now = space.clock.now();
    let times =
        [SystemTime::UNIX_EPOCH - SECOND, at(0), at(now - 1), at(now), at(now + 1), at(now + 1000)];
    for (n, time) in times.into_iter().enumerate() {
        let body = message("a", "t", n as u64);
        space.broker.deliver(Message::new(&body).delay(SECOND).at(time)).await.unwrap();
    }
    later(&space, "a", 9, Duration::ZERO).await;
    assert_eq!(queue.stats().await.unwrap().delayed, 2);
    assert_eq!(numbers(&queue).await, [0, 1, 2, 3, 9]);
    space.clock.advance(MS);
    assert_eq!(numbers(&queue).await, [4]);
    space.clock.advance(999 * MS);
    assert_eq!(numbers(&queue).await, [5]);
    space.end().await;
}

#[tokio::test]
async fn a_delay_is_at_most_ten_years_and_is_checked_before_anything_is_written() {
    let (space, queue) = Space::with_queue().await;
    let before = space.keys().await;
    let body = message("a", "t", 1);
    let most = at(space.clock.now()) + TEN_YEARS;
    for over in [
        Message::new(&body).delay(TEN_YEARS + Duration::from_nanos(1)),
        Message::new(&body).delay(Duration::MAX),
        Message::new(&body).at(most + MS),
    ] {
        let all = [Message::new(&body), over];
        let refused = space.broker.deliver_all(all).await.err().unwrap();
        assert!(
            matches!(refused, Error::Invalid(Invalid::OutOfRange { what: "delay", .. })),
            "{refused:?}"
        );
    }
    assert_eq!(space.keys().await, before);
    space.broker.deliver(Message::new(&body).delay(TEN_YEARS)).await.unwrap();
    space.broker.deliver(Message::new(&body).at(most)).await.unwrap();
    space.clock.advance(TEN_YEARS - MS);
    assert!(queue.pull().await.unwrap().is_none());
    space.clock.advance(MS);
    assert_eq!(numbers(&queue).await.len(), 2);
    space.end().await;
}

#[tokio::test]
async fn a_message_has_to_live_longer_than_it_is_delayed() {
    let (space, queue) = Space::with_queue().await;
    let body = message("a", "t", 1);
    let due = at(space.clock.now()) + SECOND;
    for ttl in [MS, SECOND] {
        for short in [Message::new(&body).delay(SECOND), Message::new(&body).at(due)] {
            let refused = space.broker.deliver(short.ttl(ttl)).await;
            assert!(matches!(
                refused,
                Err(Error::Invalid(Invalid::OutOfRange { what: "ttl", .. }))
            ));
        }
    }
    assert_eq!(queue.stats().await.unwrap().delivered, 0);
    for _ in 0..2 {
        space.broker.deliver(Message::new(&body).delay(SECOND).ttl(SECOND + MS)).await.unwrap();
    }
    space.clock.advance(SECOND);
    assert!(queue.pull().await.unwrap().is_some());
    space.clock.advance(MS);
    assert!(queue.pull().await.unwrap().is_none());
    assert_eq!(queue.stats().await.unwrap().expired, 1);
    space.end().await;
}

#[tokio::test]
async fn a_delayed_message_is_on_each_of_its_queues_and_counts_as_delayed() {
    let (space, queue) = Space::with_queue().await;
    let other = space.broker.register_queue("other", ".").await.unwrap();
    let body = message("a", "t", 1);
    let receipt = space.broker.deliver(Message::new(&body).delay(SECOND)).await.unwrap();
    assert_eq!(receipt.queues.len(), 2);
    for queue in [&queue, &other] {
        let stats = queue.stats().await.unwrap();
        assert_eq!((stats.delayed, stats.waiting, stats.delivered), (1, 0, 1));
        let of = queue.facet("a").why().await.unwrap();
        assert_eq!((of.stats.delayed, of.stats.waiting, of.gate), (1, 0, Some(Gate::Empty)));
        let (page, more) = queue.facets(Default::default()).await.unwrap();
        assert_eq!((page.len(), page.first().map_or(0, |facet| facet.delayed)), (0, 0));
        let (page, _) = queue.facets(more.unwrap()).await.unwrap();
        assert!(page.len() <= 1);
    }
    space.clock.advance(SECOND);
    assert_eq!(numbers(&queue).await, [1]);
    assert_eq!(other.stats().await.unwrap().delayed, 1, "each queue finds it by itself");
    let delivery = other.lease().await.unwrap().unwrap();
    assert_eq!((delivery.id(), delivery.attempt().get()), (receipt.id, 1));
    delivery.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_queue_lists_the_facets_that_have_delayed_messages_once() {
    let (space, queue) = Space::with_queue().await;
    for facet in ["only", "both"] {
        later(&space, facet, 1, SECOND).await;
    }
    deliver(&space.broker, "both", 1).await;
    let (mut from, mut seen) = (Some(fairlane::Cursor::default()), Vec::new());
    while let Some(cursor) = from {
        let (page, next) = queue.facets(cursor).await.unwrap();
        seen.extend(page.into_iter().map(|facet| (facet.facet, facet.delayed, facet.waiting)));
        from = next;
    }
    seen.sort();
    assert_eq!(seen, [("both".into(), 1, 1), ("only".into(), 1, 0)]);
    space.clock.advance(SECOND);
    assert_eq!(numbers(&queue).await.len(), 3);
    space.end().await;
}

#[tokio::test]
async fn what_is_not_due_costs_nothing() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let commands = async || {
        deliver(&broker, "a", 2).await;
        queue.lease().await.unwrap().unwrap().ack().await.unwrap(); // loads the scripts
        server.run::<()>(&["CONFIG", "RESETSTAT"]).await;
        queue.lease().await.unwrap().unwrap().ack().await.unwrap();
        let stats: String = server.run(&["INFO", "commandstats"]).await;
        let calls =
            |line: &str| line.split("calls=").nth(1)?.split(',').next()?.parse::<u64>().ok();
        let count = stats.lines().filter(|line| !line.contains("config")).filter_map(calls);
        count.sum::<u64>()
    };
    let alone = commands().await;
    let bodies: Vec<_> = (0..20_000).map(|n| message(&format!("f{}", n % 4), "t", n)).collect();
    let delayed = bodies.iter().map(|body| Message::new(body).delay(3600 * SECOND));
    broker.deliver_all(delayed).await.unwrap();
    assert_eq!(commands().await, alone);
    let timers: u64 = server.run(&["ZCARD", "{fairlane}:q:q:timers"]).await;
    assert_eq!(timers, 4, "one for each facet");
    assert_eq!(queue.stats().await.unwrap().delayed, 20_000);
}

#[tokio::test]
async fn what_becomes_due_wakes_one_who_waits() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let body = message("a", "t", 1);
    // One who knows of it is there when it is due.
    broker.deliver(Message::new(&body).delay(SECOND / 2)).await.unwrap();
    let from = Instant::now();
    assert!(queue.pull().wait(20 * SECOND).await.unwrap().is_some());
    assert!((400..2000).contains(&from.elapsed().as_millis()), "{:?}", from.elapsed());
    // One whose wait began before is told of it.
    let waiting = tokio::spawn(queue.pull().wait(60 * SECOND).into_future());
    until("it is blocked", || async { server.blocked().await == 1 }).await;
    broker.deliver(Message::new(&body).delay(SECOND / 2)).await.unwrap();
    let from = Instant::now();
    assert!(waiting.await.unwrap().unwrap().is_some());
    assert!((400..2000).contains(&from.elapsed().as_millis()), "{:?}", from.elapsed());
}

#[tokio::test]
async fn what_is_due_of_a_paused_facet_waits_with_it() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("a").pause().await.unwrap();
    later(&space, "a", 1, SECOND).await;
    later(&space, "b", 2, SECOND).await;
    space.clock.advance(SECOND);
    assert_eq!(numbers(&queue).await, [2]);
    let of = queue.facet("a").why().await.unwrap();
    assert_eq!((of.stats.delayed, of.stats.waiting, of.gate), (0, 1, Some(Gate::Paused)));
    assert_eq!(of.stats.state, FacetState::Parked);
    queue.facet("a").resume().await.unwrap();
    assert_eq!(numbers(&queue).await, [1]);
    // A paused queue lets them join, and serves none.
    later(&space, "a", 3, SECOND).await;
    queue.pause().await.unwrap();
    space.clock.advance(SECOND);
    assert!(numbers(&queue).await.is_empty());
    queue.resume().await.unwrap();
    assert_eq!(numbers(&queue).await, [3]);
    space.end().await;
}

#[tokio::test]
async fn thousands_that_are_due_at_once_arrive_all_in_bounded_steps() {
    let (space, queue) = Space::with_queue().await;
    let bodies: Vec<_> = (0..5000).map(|n| message(&format!("f{}", n % 5), "t", n)).collect();
    let delayed = bodies.iter().map(|body| Message::new(body).delay(SECOND));
    space.broker.deliver_all(delayed).await.unwrap();
    space.clock.advance(2 * SECOND);
    queue.pull_many(1).await.unwrap().pop().unwrap().unwrap();
    let stats = queue.stats().await.unwrap();
    assert!((4600..5000).contains(&stats.delayed), "{stats:?}");
    assert_eq!(stats.delayed + stats.waiting, 4999);
    let mut all = numbers(&queue).await;
    for of in 0..5 {
        let facet: Vec<_> = all.iter().filter(|n| **n % 5 == of).collect();
        assert!(facet.is_sorted(), "in the order of their facet");
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4999);
    assert_eq!(queue.stats().await.unwrap().delayed, 0);
    space.end().await;
}

#[tokio::test]
async fn one_facets_thousands_that_are_due_do_not_keep_back_what_is_due_of_another() {
    let (space, queue) = Space::with_queue().await;
    let bodies: Vec<_> = (0..6000).map(|n| message(&format!("loud{}", n % 3), "t", n)).collect();
    let delayed = bodies.iter().map(|body| Message::new(body).delay(SECOND));
    space.broker.deliver_all(delayed).await.unwrap();
    later(&space, "quiet", 1, SECOND + MS).await;
    space.clock.advance(2 * SECOND);
    let served = pulled(&queue, 5).await;
    assert!(served.contains(&"quiet".to_owned()), "{served:?}");
    assert_eq!(numbers(&queue).await.len(), 5996);
    space.end().await;
}

#[tokio::test]
async fn a_delayed_message_that_cannot_join_its_facet_stays_delayed_and_blocks_nothing() {
    let (space, queue) = Space::with_queue().await;
    later(&space, "a", 1, SECOND).await;
    later(&space, "b", 2, SECOND).await;
    run::<()>(&["SET", &space.of("q", "f:a"), "in the way"]).await;
    space.clock.advance(SECOND);
    assert_eq!(numbers(&queue).await, [2]);
    assert_eq!(queue.stats().await.unwrap().delayed, 1);
    run::<()>(&["DEL", &space.of("q", "f:a")]).await;
    space.clock.advance(60 * SECOND);
    assert_eq!(numbers(&queue).await, [1]);
    space.end().await;
}

#[tokio::test]
async fn a_queue_with_delayed_messages_alone_answers_and_outlives_its_registration() {
    let (space, queue) = Space::with_queue().await;
    later(&space, "a", 1, SECOND).await;
    space.broker.unregister_queue("q").await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    assert_eq!(queue.stats().await.unwrap().delayed, 1);
    space.clock.advance(SECOND);
    assert!(queue.pull().await.unwrap().is_some());
    assert!(matches!(queue.pull().await, Err(Error::NoSuchQueue(_))));
    space.end().await;
}

#[tokio::test]
async fn a_queue_that_is_destroyed_loses_what_is_delayed() {
    let (space, queue) = Space::with_queue().await;
    let bodies: Vec<_> = (0..1500).map(|n| message(&format!("f{n}"), "t", n)).collect();
    let delayed = bodies.iter().map(|body| Message::new(body).delay(SECOND));
    space.broker.deliver_all(delayed).await.unwrap();
    deliver(&space.broker, "f1", 1).await;
    queue.destroy().await.unwrap();
    assert_eq!(space.keys().await, ["layout", "routes", "seq"]);
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    space.clock.advance(SECOND);
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn a_wrong_key_in_the_way_of_a_delayed_message_keeps_it_off_all_its_queues() {
    let (space, queue) = Space::with_queue().await;
    space.broker.register_queue("other", ".").await.unwrap();
    for key in ["s:a", "timers"] {
        let key = space.of("other", key);
        run::<()>(&["SET", &key, "in the way"]).await;
        let before = space.keys().await;
        let body = message("a", "t", 1);
        let refused = space.broker.deliver(Message::new(&body).delay(SECOND)).await;
        assert!(matches!(refused, Err(Error::WrongType(_))), "{key}: {refused:?}");
        assert_eq!(space.keys().await, before, "{key}: something was written");
        run::<()>(&["DEL", &key]).await;
    }
    assert_eq!(queue.stats().await.unwrap().delivered, 0);
    space.end().await;
}
