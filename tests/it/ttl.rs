//! Ends: a message that has expired is not served any more.

use std::time::Duration;

use fairlane::{Cursor, Death, Message, Queue, QueueSettings, Rate};
use serde_json::json;

use crate::support::{Proxy, Server, Space, deliver, message, numbers, pulled};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Delivers `n` messages of a facet, each of which is good for so long.
async fn good_for(space: &Space, facet: &str, n: u64, ttl: Duration) {
    let bodies: Vec<_> = (0..n).map(|n| message(facet, "t", 1000 + n)).collect();
    space.broker.deliver_all(bodies.iter().map(|body| Message::new(body).ttl(ttl))).await.unwrap();
}

async fn expired(queue: &Queue) -> u64 {
    queue.stats().await.unwrap().expired
}

async fn end(space: Space, queue: &Queue) {
    queue.dead_letters().purge().await.unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_message_is_not_served_from_its_end_on() {
    let (space, queue) = Space::with_queue().await;
    for by in 0..3 {
        good_for(&space, "a", 2, 10 * SECOND).await;
        space.clock.advance(10 * SECOND - MS);
        assert_eq!(queue.peek(9).await.unwrap().len(), 2);
        assert!(queue.pull().await.unwrap().is_some());
        space.clock.advance(MS);
        assert!(queue.peek(9).await.unwrap().is_empty());
        assert_eq!(queue.stats().await.unwrap().waiting, 1, "it is found when its turn comes");
        match by {
            0 => assert!(queue.lease().await.unwrap().is_none()),
            1 => assert!(queue.pull().await.unwrap().is_none()),
            _ => assert!(queue.lease_many(9).await.unwrap().is_empty()),
        }
        let stats = queue.stats().await.unwrap();
        assert_eq!((stats.waiting, stats.expired, stats.facets_ready), (0, by + 1, 0));
        assert_eq!((stats.died, stats.dropped, stats.served), (0, 0, by + 1));
    }
    space.end().await;
}

#[tokio::test]
async fn its_own_end_comes_before_that_of_the_queue() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.ttl = Some(10 * SECOND)).await.unwrap();
    good_for(&space, "a", 1, 20 * SECOND).await;
    deliver(&space.broker, "a", 1).await;
    good_for(&space, "a", 1, 5 * SECOND).await;
    let of = async |n: usize| {
        assert_eq!(queue.peek(9).await.unwrap().len(), n);
    };
    of(3).await;
    space.clock.advance(5 * SECOND);
    of(2).await;
    space.clock.advance(5 * SECOND);
    of(1).await;
    assert_eq!(numbers(&queue).await, [1000]);
    assert_eq!(expired(&queue).await, 2);
    end(space, &queue).await;
}

#[tokio::test]
async fn an_end_of_the_queue_holds_at_once_when_it_is_changed() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 3).await;
    space.clock.advance(5 * SECOND);
    for (ttl, left) in [(5 * SECOND, 0), (5 * SECOND + MS, 3), (MS, 0), (60 * SECOND, 3)] {
        queue.configure(|queue| queue.ttl = Some(ttl)).await.unwrap();
        assert_eq!(queue.peek(9).await.unwrap().len(), left, "{ttl:?}");
    }
    assert!(queue.pull().await.unwrap().is_some());
    queue.configure(|queue| queue.ttl = Some(SECOND)).await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    assert_eq!(expired(&queue).await, 2);
    deliver(&space.broker, "a", 1).await;
    queue.configure(|queue| queue.ttl = None).await.unwrap();
    space.clock.advance(3600 * SECOND);
    assert_eq!(numbers(&queue).await, [0]);
    end(space, &queue).await;
}

#[tokio::test]
async fn what_expires_in_a_workers_hand_is_its_own_and_is_not_served_again() {
    let (space, queue) = Space::with_queue().await;
    good_for(&space, "a", 4, 10 * SECOND).await;
    let mut leased = queue.lease_many(4).lasting(20 * SECOND).await.unwrap();
    space.clock.advance(10 * SECOND);
    leased.pop().unwrap().ack().await.unwrap();
    leased.pop().unwrap().nack().await.unwrap();
    leased.pop().unwrap().fail("late").await.unwrap();
    assert!(queue.lease().await.unwrap().is_none());
    assert_eq!(expired(&queue).await, 1);
    space.clock.advance(10 * SECOND);
    assert!(queue.lease().await.unwrap().is_none());
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.expired, stats.waiting, stats.delayed, stats.leased), (3, 0, 0, 0));
    space.end().await;
}

#[tokio::test]
async fn what_expired_is_a_dead_letter_where_the_queue_says_so_and_redriven_does_not_expire_again()
{
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.bury_expired = true).await.unwrap();
    good_for(&space, "a", 1, SECOND).await;
    queue.lease().await.unwrap().unwrap().nack().await.unwrap();
    space.clock.advance(SECOND);
    assert!(queue.lease().await.unwrap().is_none());
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.expired, stats.died, stats.dead, stats.dropped), (1, 1, 1, 0));
    let (page, _) = queue.dead_letters().page(Cursor::default()).await.unwrap();
    assert_eq!((page[0].death, page[0].attempts), (Death::Expired, 1));
    queue.dead_letters().redrive().await.unwrap();
    space.clock.advance(3600 * SECOND);
    assert_eq!(numbers(&queue).await, [1000]);

    // The end that a queue gives counts from when it was redriven.
    queue.configure(|queue| queue.ttl = Some(10 * SECOND)).await.unwrap();
    deliver(&space.broker, "a", 1).await;
    space.clock.advance(10 * SECOND);
    assert!(queue.pull().await.unwrap().is_none());
    queue.dead_letters().redrive().await.unwrap();
    space.clock.advance(10 * SECOND - MS);
    assert_eq!(numbers(&queue).await, [0]);
    assert_eq!(expired(&queue).await, 2);
    end(space, &queue).await;
}

#[tokio::test]
async fn thousands_that_expired_are_passed_in_bounded_steps_by_one_call() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let space = Space::new().await; // for its clock
    let now = space.clock.clone();
    let broker = proxy.builder().clock(move || now.now()).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    for (bury, by) in [(false, 0), (true, 1), (false, 2), (false, 3)] {
        queue.configure(|queue| queue.bury_expired = bury).await.unwrap();
        let bodies: Vec<_> = (0..3000).map(|n| message("a", "t", n)).collect();
        let short = bodies.iter().map(|body| Message::new(body).ttl(SECOND));
        broker.deliver_all(short).await.unwrap();
        space.clock.advance(SECOND);
        broker.deliver(&message("a", "t", 9999)).await.unwrap();
        let before = proxy.scripts();
        let good = match by {
            0 | 1 => {
                let delivery = queue.lease().await.unwrap().unwrap();
                let good = delivery.message().unwrap().clone();
                delivery.ack().await.unwrap();
                good
            }
            2 => queue.pull_many(1000).await.unwrap().remove(0).unwrap(),
            _ => {
                let nothing = broker.register_queue("other", "^never$").await.unwrap();
                let source = broker.in_order([nothing.name(), "q"]);
                source.pull().wait(10 * SECOND).await.unwrap().unwrap().1
            }
        };
        assert_eq!(good["n"], 9999);
        let scripts = proxy.scripts() - before;
        assert!((12..=20).contains(&scripts), "{scripts}");
        assert!(queue.lease().await.unwrap().is_none());
        assert_eq!(queue.dead_letters().purge().await.unwrap(), if bury { 3000 } else { 0 });
    }
    assert_eq!(expired(&queue).await, 12_000);
    space.end().await;
}

#[tokio::test]
async fn large_ones_that_expired_are_passed_by_one_call_too() {
    let (space, queue) = Space::with_queue().await;
    let body = json!({"facet": "a", "topic": "t", "n": 1, "fill": "x".repeat(900_000)});
    space.broker.deliver_all((0..4).map(|_| Message::new(&body).ttl(SECOND))).await.unwrap();
    space.clock.advance(SECOND);
    space.broker.deliver(&body).await.unwrap();
    let delivery = queue.lease().await.unwrap().unwrap();
    assert_eq!(delivery.message().unwrap(), &body);
    delivery.ack().await.unwrap();
    assert_eq!(expired(&queue).await, 4);
    space.end().await;
}

#[tokio::test]
async fn what_expired_costs_its_facet_no_turn_and_no_rate() {
    let (space, queue) = Space::with_queue().await;
    good_for(&space, "a", 150, SECOND).await;
    good_for(&space, "c", 150, SECOND).await;
    space.clock.advance(SECOND);
    for facet in ["a", "b", "c"] {
        deliver(&space.broker, facet, 10).await;
    }
    queue.facet("c").configure(|c| c.rate = Some(Rate::new(1, SECOND))).await.unwrap();
    let served = pulled(&queue, 7).await;
    let of = |facet: &str| served.iter().filter(|of| *of == facet).count();
    assert_eq!((of("a"), of("b"), of("c")), (3, 3, 1), "{served:?}");
    queue.facet("c").configure(|c| c.rate = None).await.unwrap();
    assert_eq!(numbers(&queue).await.len(), 23);
    space.clock.advance(SECOND); // What is left of the rate goes with the next call.
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn a_queue_of_nothing_but_what_expired_is_empty_after_one_call() {
    let (space, queue) = Space::with_queue().await;
    for n in 0..700 {
        good_for(&space, &format!("f{n}"), 1, SECOND).await;
    }
    space.clock.advance(SECOND);
    assert!(queue.lease().await.unwrap().is_none());
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.expired, stats.waiting, stats.facets_ready), (700, 0, 0));
    space.end().await;
}

#[tokio::test]
async fn a_peek_passes_over_what_expired() {
    let (space, queue) = Space::with_queue().await;
    good_for(&space, "a", 200, SECOND).await;
    space.clock.advance(SECOND);
    deliver(&space.broker, "a", 2).await;
    deliver(&space.broker, "b", 1).await;
    assert_eq!(queue.peek(9).await.unwrap().len(), 3);
    assert_eq!(expired(&queue).await, 0, "and changes nothing");
    assert_eq!(numbers(&queue).await.len(), 3);
    space.end().await;
}

#[tokio::test]
async fn a_message_among_others_that_have_no_end_expires_after_it_came_back() {
    let (space, queue) = Space::with_queue().await;
    good_for(&space, "a", 1, 10 * SECOND).await;
    let only = queue.lease().await.unwrap().unwrap(); // The queue is empty, and starts anew.
    deliver(&space.broker, "b", 1).await;
    only.nack().await.unwrap();
    space.clock.advance(10 * SECOND);
    assert_eq!(numbers(&queue).await, [0]);
    assert_eq!(expired(&queue).await, 1);
    space.end().await;
}

#[tokio::test]
async fn a_ttl_of_the_queue_counts_from_when_a_delayed_message_is_due() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.ttl = Some(60 * SECOND)).await.unwrap();
    let body = message("a", "t", 1);
    for _ in 0..2 {
        space.broker.deliver(Message::new(&body).delay(120 * SECOND)).await.unwrap();
    }
    space.clock.advance(120 * SECOND);
    assert!(queue.pull().await.unwrap().is_some());
    space.clock.advance(60 * SECOND);
    assert!(queue.pull().await.unwrap().is_none());
    assert_eq!(queue.stats().await.unwrap().expired, 1);
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}
