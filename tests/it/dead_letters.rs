//! Dead letters: what a queue has given up is kept aside, listed, redriven and dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use fairlane::{
    Cursor, DeadLetter, DeadLetters, Death, Error, FacetState, Message, MessageId, Overflow, Queue,
    QueueSettings,
};
use serde_json::{Value, json};

use crate::support::{Proxy, Server, Space, counts, deliver, message, numbers, pulled, run};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Lets all that waits die of one attempt.
async fn die(queue: &Queue) {
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    loop {
        let leased = queue.lease_many(1000).await.unwrap();
        if leased.is_empty() {
            return;
        }
        for delivery in leased {
            delivery.nack().await.unwrap();
        }
    }
}

/// Lets `n` numbered messages of a facet die, the later numbers later.
async fn dead(space: &Space, queue: &Queue, facet: &str, n: u64) {
    deliver(&space.broker, facet, n).await;
    die(queue).await;
}

async fn all(letters: &DeadLetters<Value>) -> Vec<DeadLetter<Value>> {
    let (mut from, mut all) = (Some(Cursor::default()), Vec::new());
    while let Some(cursor) = from {
        let (page, next) = letters.page(cursor).await.unwrap();
        assert!(page.len() < 250, "{}", page.len());
        all.extend(page);
        from = next;
    }
    all
}

async fn ids(letters: &DeadLetters<Value>) -> Vec<MessageId> {
    all(letters).await.into_iter().map(|letter| letter.id).collect()
}

async fn end(space: Space, queue: &Queue) {
    queue.dead_letters().purge().await.unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_dead_letter_says_all_that_is_known_of_it() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 4).await.unwrap();
    let body = json!({"any": "thing"});
    let dead = Message::new(&body).facet("a b").topic("t 1").header("trace", "17").cost(3.0);
    let receipt = space.broker.deliver(dead).await.unwrap();
    let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    let delivered_at = at(space.clock.now());
    let _crashed = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    space.clock.advance(SECOND);
    for _ in 0..2 {
        queue.lease().await.unwrap().unwrap().nack().await.unwrap();
    }
    queue.lease().await.unwrap().unwrap().fail("no such host").await.unwrap();
    space.clock.advance(SECOND);
    for letters in [queue.dead_letters(), queue.dead_letters().of("a b")] {
        let (mut page, more) = letters.page(Cursor::default()).await.unwrap();
        assert_eq!((page.len(), more), (1, None));
        let letter = page.remove(0);
        assert_eq!(
            (letter.id, letter.facet.as_str(), letter.topic.as_str()),
            (receipt.id, "a b", "t 1")
        );
        assert_eq!((letter.attempts, letter.crashes, letter.death), (4, 1, Death::Attempts));
        assert_eq!(letter.reason.as_deref(), Some("no such host"));
        assert_eq!(
            (letter.delivered_at, letter.died_at),
            (delivered_at, at(space.clock.now() - 1000))
        );
        assert_eq!(letter.headers["trace"], "17");
        assert_eq!(letter.message.unwrap(), body);
    }
    let of = queue.facet("a b").stats().await.unwrap();
    assert_eq!((of.dead, of.waiting, of.leased, of.delayed), (1, 0, 0, 0));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.dead, stats.died, stats.came_back, stats.acked), (1, 1, 4, 0));
    end(space, &queue).await;
}

#[tokio::test]
async fn one_that_does_not_decode_is_listed_with_its_body() {
    let (space, queue) = Space::with_queue().await;
    let broker = space.bytes().await;
    broker.deliver(&b"\0 1 2 no JSON \xff".to_vec()).await.unwrap();
    die(&queue).await;
    let letter = all(&queue.dead_letters()).await.remove(0);
    let undecodable = letter.message.unwrap_err();
    assert_eq!(&*undecodable.body, b"\0 1 2 no JSON \xff");
    assert_eq!(undecodable.id, Some(letter.id));
    let letters = broker.queue("q").dead_letters();
    let (page, _) = letters.page(Cursor::default()).await.unwrap();
    assert_eq!(page[0].message.as_ref().unwrap(), b"\0 1 2 no JSON \xff");
    letters.redrive_one(page[0].id).await.unwrap();
    assert_eq!(broker.queue("q").pull().await.unwrap().unwrap(), b"\0 1 2 no JSON \xff");
    end(space, &queue).await;
}

#[tokio::test]
async fn all_pages_have_each_letter_once_and_those_of_a_facet_the_oldest_first() {
    let (space, queue) = Space::with_queue().await;
    for facet in ["a", "b"] {
        dead(&space, &queue, facet, 100).await;
        space.clock.advance(SECOND);
        deliver(&space.broker, facet, 50).await;
        die(&queue).await;
    }
    assert_eq!(queue.stats().await.unwrap().dead, 300);
    let letters = all(&queue.dead_letters()).await;
    assert_eq!(letters.iter().map(|letter| letter.id).collect::<BTreeSet<_>>().len(), 300);
    assert_eq!(letters.len(), 300, "none twice while nothing changes");
    for facet in ["a", "b"] {
        let of = queue.dead_letters().of(facet);
        let (first, more) = of.page(Cursor::default()).await.unwrap();
        assert!((90..=110).contains(&first.len()) && more.is_some());
        let letters = all(&of).await;
        assert_eq!(letters.len(), 150);
        assert!(letters.iter().all(|letter| letter.facet == facet));
        assert!(letters.is_sorted_by_key(|letter| letter.died_at));
        assert!(letters[99].died_at + SECOND == letters[100].died_at);
    }
    assert!(all(&queue.dead_letters().of("c")).await.is_empty());
    end(space, &queue).await;
}

#[tokio::test]
async fn a_page_goes_on_where_the_last_one_ended_whatever_was_dropped_meanwhile() {
    let (space, queue) = Space::with_queue().await;
    for _ in 0..250 {
        dead(&space, &queue, "a", 1).await;
        space.clock.advance(MS);
    }
    let letters = queue.dead_letters().of("a");
    let (page, more) = letters.page(Cursor::default()).await.unwrap();
    for letter in &page {
        letters.purge_one(letter.id).await.unwrap();
    }
    let mut seen: Vec<_> = page.iter().map(|letter| letter.id).collect();
    let mut from = more;
    while let Some(cursor) = from {
        let (page, next) = letters.page(cursor).await.unwrap();
        seen.extend(page.iter().map(|letter| letter.id));
        from = next;
    }
    assert_eq!(seen.len(), 250);
    assert!(seen.is_sorted());
    end(space, &queue).await;
}

#[tokio::test]
async fn one_that_is_redriven_joins_the_end_of_its_facet_with_all_its_attempts() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| (queue.max_attempts, queue.max_crashes) = (3, 3)).await.unwrap();
    let body = message("a", "t", 100);
    let sent = Message::new(&body).header("kept", "yes").ttl(60 * SECOND);
    let id = space.broker.deliver(sent).await.unwrap().id;
    let _crashed = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    space.clock.advance(SECOND);
    queue.lease().await.unwrap().unwrap().nack().await.unwrap();
    queue.lease().await.unwrap().unwrap().fail("why").await.unwrap();
    deliver(&space.broker, "a", 1).await;
    space.clock.advance(3600 * SECOND);
    let delivered_at = space.clock.now();
    queue.dead_letters().redrive_one(id).await.unwrap();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.dead, stats.waiting), (0, 2));
    assert_eq!(queue.pull().await.unwrap().unwrap()["n"], 0);
    for attempt in 1..=3 {
        let again = queue.lease().await.unwrap().unwrap();
        assert_eq!((again.id(), again.attempt().get(), again.crashes()), (id, attempt, 0));
        assert_eq!(again.headers()["kept"], "yes");
        assert_eq!(again.last_failure(), Some("why"), "so that its worker knows");
        let since = again.delivered_at().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_millis() as u64, delivered_at);
        space.clock.advance(MS);
        again.nack().await.unwrap();
    }
    assert_eq!(ids(&queue.dead_letters()).await, [id], "it died again");
    end(space, &queue).await;
}

#[tokio::test]
async fn what_is_not_among_the_letters_is_no_such_message() {
    let (space, queue) = Space::with_queue().await;
    dead(&space, &queue, "a", 1).await;
    deliver(&space.broker, "a", 1).await;
    let waiting = queue.peek(1).await.unwrap()[0].id;
    let letters = queue.dead_letters();
    let id = ids(&letters).await[0];
    let unknown = "999999999".parse().unwrap();
    for (letters, id) in [(&letters, unknown), (&letters, waiting), (&letters.clone().of("b"), id)]
    {
        let refused = letters.redrive_one(id).await;
        assert!(matches!(refused, Err(Error::NoSuchMessage(of)) if of == id), "{refused:?}");
        assert!(matches!(letters.purge_one(id).await, Err(Error::NoSuchMessage(of)) if of == id));
    }
    letters.clone().of("a").purge_one(id).await.unwrap();
    assert!(matches!(letters.purge_one(id).await, Err(Error::NoSuchMessage(_))));
    assert!(matches!(letters.redrive_one(id).await, Err(Error::NoSuchMessage(_))));
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.dead, stats.purged, stats.waiting), (0, 1, 1));
    let nowhere = space.broker.queue("nowhere").dead_letters();
    assert!(matches!(nowhere.page(Cursor::default()).await, Err(Error::NoSuchQueue(_))));
    assert!(matches!(nowhere.redrive().await, Err(Error::NoSuchQueue(_))));
    assert!(matches!(nowhere.purge_one(id).await, Err(Error::NoSuchQueue(_))));
    assert!(matches!(letters.of("").purge().await, Err(Error::Invalid(_))));
    queue.pull().await.unwrap();
    end(space, &queue).await;
}

#[tokio::test]
async fn all_letters_of_a_facet_are_redriven_in_their_order_and_no_others() {
    let (space, queue) = Space::with_queue().await;
    for _ in 0..2 {
        dead(&space, &queue, "a", 300).await;
        space.clock.advance(MS);
    }
    dead(&space, &queue, "b", 10).await;
    deliver(&space.broker, "a", 1).await;
    assert_eq!(queue.dead_letters().of("a").redrive().await.unwrap(), 600);
    assert_eq!(queue.dead_letters().of("a").redrive().await.unwrap(), 0);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.dead, stats.waiting), (10, 601));
    let mut order = vec![0];
    order.extend((0..300).chain(0..300));
    let mut served = numbers(&queue).await;
    assert_eq!(served.remove(0), 0, "what waited before is served before");
    assert_eq!(served.len(), 600);
    served.sort();
    order.remove(0);
    order.sort();
    assert_eq!(served, order);
    end(space, &queue).await;
}

#[tokio::test]
async fn all_letters_are_redriven_in_steps_that_give_each_facet_as_much() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    deliver(&broker, "loud", 700).await;
    for n in 0..9 {
        deliver(&broker, &format!("quiet{n}"), 20).await;
    }
    die(&queue).await;
    let direct = server.builder().connect().await.unwrap();
    let waiting = async || {
        let stats = direct.queue("q").stats().await.unwrap();
        (stats.waiting, stats.dead)
    };
    assert_eq!(waiting().await, (0, 880));
    queue.dead_letters().redrive_one("1".parse().unwrap()).await.unwrap(); // loads the script
    queue.pull().await.unwrap().unwrap();
    // A step whose answer is lost: what it moved is moved, and shows how it is shared.
    proxy.cut(1);
    assert!(matches!(queue.dead_letters().redrive().await, Err(Error::MaybeApplied(_))));
    let (moved, left) = waiting().await;
    assert!(moved <= 250 && moved + left == 879, "{moved} {left}");
    let mut of = BTreeMap::new();
    for facet in (0..9).map(|n| format!("quiet{n}")).chain(["loud".into()]) {
        of.insert(facet.clone(), direct.queue("q").facet(&facet).stats().await.unwrap().waiting);
    }
    assert!(
        of.iter().all(|(facet, n)| (20..=25).contains(n) && (facet == "loud" || *n == 20)),
        "{of:?}"
    );
    let before = proxy.scripts();
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), left);
    assert_eq!(waiting().await, (879, 0));
    assert!((3..=5).contains(&(proxy.scripts() - before)), "{}", proxy.scripts() - before);
    let first = pulled(&direct.queue("q"), 40).await;
    assert!(counts(&first).values().all(|n| *n >= 3), "{first:?}");
}

#[tokio::test]
async fn letters_of_more_facets_than_a_step_has_are_all_redriven() {
    let (space, queue) = Space::with_queue().await;
    let bodies: Vec<_> = (0..350).map(|n| message(&format!("f{}", n % 175), "t", n)).collect();
    space.broker.deliver_all(&bodies).await.unwrap();
    die(&queue).await;
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 350);
    assert_eq!(queue.stats().await.unwrap().facets_ready, 175);
    let mut served = numbers(&queue).await;
    served.sort();
    assert_eq!(served, (0..350).collect::<Vec<_>>());
    end(space, &queue).await;
}

#[tokio::test]
async fn large_letters_are_redriven_and_listed_in_more_steps() {
    let (space, queue) = Space::with_queue().await;
    let body = json!({"facet": "a", "topic": "t", "n": 1, "fill": "x".repeat(300_000)});
    space.broker.deliver_all([&body; 10]).await.unwrap();
    die(&queue).await;
    let (page, more) = queue.dead_letters().page(Cursor::default()).await.unwrap();
    assert!(page.len() <= 10, "{}", page.len());
    let (of, more_of) = queue.dead_letters().of("a").page(Cursor::default()).await.unwrap();
    assert!(of.len() < 4 && more_of.is_some());
    drop((page, more));
    assert_eq!(ids(&queue.dead_letters().of("a")).await.len(), 10);
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 10);
    die(&queue).await;
    assert_eq!(queue.dead_letters().of("a").redrive().await.unwrap(), 10);
    assert_eq!(queue.stats().await.unwrap().waiting, 10);
    queue.facet("a").purge().await.unwrap();
    end(space, &queue).await;
}

#[tokio::test]
async fn what_is_redriven_of_a_paused_facet_waits_with_it() {
    let (space, queue) = Space::with_queue().await;
    dead(&space, &queue, "a", 1).await;
    queue.facet("a").pause().await.unwrap();
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 1);
    assert!(queue.lease().await.unwrap().is_none());
    let of = queue.facet("a").stats().await.unwrap();
    assert_eq!((of.state, of.waiting), (FacetState::Parked, 1));
    queue.facet("a").resume().await.unwrap();
    assert_eq!(numbers(&queue).await, [0]);
    end(space, &queue).await;
}

#[tokio::test]
async fn letters_whose_list_is_blocked_stay_and_the_others_are_redriven() {
    let (space, queue) = Space::with_queue().await;
    for facet in ["a", "b"] {
        dead(&space, &queue, facet, 2).await;
    }
    run::<()>(&["SET", &space.of("q", "f:a"), "in the way"]).await;
    assert!(matches!(queue.dead_letters().of("a").redrive().await, Err(Error::WrongType(_))));
    // The error comes when all that can be moved is moved.
    assert!(matches!(queue.dead_letters().redrive().await, Err(Error::WrongType(_))));
    assert_eq!(queue.stats().await.unwrap().dead, 2);
    run::<()>(&["DEL", &space.of("q", "f:a")]).await;
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 2);
    assert_eq!(numbers(&queue).await.len(), 4);
    end(space, &queue).await;
}

#[tokio::test]
async fn letters_are_purged_one_by_one_by_facet_and_all() {
    let (space, queue) = Space::with_queue().await;
    dead(&space, &queue, "a", 600).await;
    dead(&space, &queue, "b", 300).await;
    deliver(&space.broker, "a", 1).await;
    let one = ids(&queue.dead_letters().of("a")).await[300];
    queue.dead_letters().purge_one(one).await.unwrap();
    assert!(!ids(&queue.dead_letters().of("a")).await.contains(&one));
    assert_eq!(queue.dead_letters().of("a").purge().await.unwrap(), 599);
    assert_eq!(queue.facet("b").stats().await.unwrap().dead, 300);
    assert_eq!(queue.dead_letters().purge().await.unwrap(), 300);
    assert_eq!(queue.dead_letters().purge().await.unwrap(), 0);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.dead, stats.purged, stats.waiting), (0, 900, 1));
    queue.pull().await.unwrap();
    end(space, &queue).await;
}

#[tokio::test]
async fn of_too_many_letters_the_oldest_are_dropped_and_counted() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_dead = Some(3)).await.unwrap();
    for facet in ["a", "b", "a", "b", "c"] {
        dead(&space, &queue, facet, 1).await;
        space.clock.advance(MS);
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.dead, stats.died, stats.dropped), (3, 5, 2));
    let mut left: Vec<_> = all(&queue.dead_letters()).await;
    left.sort_by_key(|letter| letter.died_at);
    assert_eq!(left.iter().map(|letter| &*letter.facet).collect::<Vec<_>>(), ["a", "b", "c"]);
    // Many at once, and fewer than before.
    dead(&space, &queue, "d", 400).await;
    while queue.stats().await.unwrap().dead > 3 {
        assert!(queue.lease().await.unwrap().is_none());
    }
    assert_eq!(queue.facet("d").stats().await.unwrap().dead, 3);
    queue.configure(|queue| queue.max_dead = None).await.unwrap();
    dead(&space, &queue, "e", 300).await;
    queue.configure(|queue| queue.max_dead = Some(1)).await.unwrap();
    for _ in 0..4 {
        assert!(queue.lease().await.unwrap().is_none());
    }
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.dead, stats.died, stats.dropped), (1, 705, 704));
    end(space, &queue).await;
}

#[tokio::test]
async fn letters_that_are_too_old_are_dropped_and_counted() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_dead_age = Some(60 * SECOND)).await.unwrap();
    dead(&space, &queue, "a", 2).await;
    space.clock.advance(30 * SECOND);
    dead(&space, &queue, "b", 250).await;
    let dead_and_dropped = async || {
        assert!(queue.pull().await.unwrap().is_none());
        let stats = queue.stats().await.unwrap();
        (stats.dead, stats.dropped)
    };
    space.clock.advance(30 * SECOND - MS);
    assert_eq!(dead_and_dropped().await, (252, 0));
    space.clock.advance(MS);
    assert_eq!(dead_and_dropped().await, (250, 2));
    space.clock.advance(30 * SECOND);
    assert_eq!(dead_and_dropped().await, (150, 102), "a hundred a call");
    assert_eq!(dead_and_dropped().await, (50, 202));
    assert_eq!(dead_and_dropped().await, (0, 252));
    // A shorter age holds at once for those that are there.
    dead(&space, &queue, "c", 1).await;
    space.clock.advance(10 * SECOND);
    queue.configure(|queue| queue.max_dead_age = Some(10 * SECOND)).await.unwrap();
    assert_eq!(dead_and_dropped().await, (0, 253));
    dead(&space, &queue, "c", 1).await;
    queue.configure(|queue| queue.max_dead_age = None).await.unwrap();
    space.clock.advance(3600 * SECOND);
    assert_eq!(dead_and_dropped().await, (1, 253));
    end(space, &queue).await;
}

#[tokio::test]
async fn what_was_purged_or_redriven_in_time_is_not_dropped() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_dead_age = Some(60 * SECOND)).await.unwrap();
    dead(&space, &queue, "a", 3).await;
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 3);
    space.clock.advance(60 * SECOND);
    assert_eq!(numbers(&queue).await.len(), 3);
    assert_eq!(queue.stats().await.unwrap().dropped, 0);
    end(space, &queue).await;
}

#[tokio::test]
async fn bounds_that_are_set_and_unset_leave_nothing_behind() {
    let (space, queue) = Space::with_queue().await;
    let bounds = |queue: &mut QueueSettings| {
        (queue.max_dead, queue.max_dead_age) = (Some(1), Some(SECOND));
    };
    queue.configure(bounds).await.unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn messages_that_make_room_are_dead_letters() {
    let (space, queue) = Space::with_queue().await;
    queue
        .configure(|queue| {
            (queue.facets.max_waiting, queue.overflow) = (Some(2), Overflow::DropOldest);
        })
        .await
        .unwrap();
    deliver(&space.broker, "a", 5).await;
    let letters = all(&queue.dead_letters()).await;
    assert_eq!(letters.len(), 3);
    assert!(letters.iter().all(|letter| (letter.death, letter.attempts) == (Death::Overflow, 0)));
    assert_eq!(numbers(&queue).await, [3, 4]);
    end(space, &queue).await;
}

#[tokio::test]
async fn letters_outlive_the_registration_of_their_queue_and_end_with_it() {
    let (space, queue) = Space::with_queue().await;
    for n in 0..1100 {
        dead_of(&space, n).await;
    }
    die(&queue).await;
    space.broker.unregister_queue("q").await.unwrap();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.dead, stats.waiting), (1100, 0));
    assert!(queue.lease().await.unwrap().is_none(), "it is there, and has nothing to serve");
    assert_eq!(ids(&queue.dead_letters().of("f7")).await.len(), 1);
    assert_eq!(queue.dead_letters().of("f7").redrive().await.unwrap(), 1);
    assert_eq!(pulled(&queue, 1).await, ["f7"]);
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    queue.destroy().await.unwrap();
    let mut left = space.keys().await;
    left.retain(|key| !["layout", "routes", "seq"].contains(&key.as_str()));
    assert!(left.is_empty(), "{left:?}");
    space.end().await;
}

async fn dead_of(space: &Space, n: u64) {
    space.broker.deliver(&message(&format!("f{n}"), "t", n)).await.unwrap();
}

#[tokio::test]
async fn a_list_of_letters_that_is_gone_or_blocked_stops_nobody() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_dead_age = Some(SECOND)).await.unwrap();
    dead(&space, &queue, "a", 1).await;
    dead(&space, &queue, "b", 1).await;
    run::<()>(&["DEL", &space.of("q", "d:a")]).await;
    space.clock.advance(2 * SECOND);
    deliver(&space.broker, "c", 1).await;
    assert!(queue.pull().await.unwrap().is_some());
    assert_eq!(queue.dead_letters().of("b").page(Cursor::default()).await.unwrap().0.len(), 0);
    run::<()>(&["SET", &space.of("q", "d:a"), "in the way"]).await;
    run::<()>(&["ZADD", &space.of("q", "dead"), "1", "a"]).await;
    run::<()>(&["ZADD", &space.of("q", "timers"), "1", "a"]).await;
    deliver(&space.broker, "c", 1).await;
    assert!(queue.pull().await.unwrap().is_some());
    space.delete().await;
}

#[tokio::test]
async fn a_redrive_ends_though_what_it_moves_dies_again() {
    let (space, queue) = Space::with_queue().await;
    dead(&space, &queue, "a", 600).await;
    space.clock.advance(SECOND);
    let stop = std::cell::Cell::new(false);
    let failing = async {
        while !stop.get() {
            for delivery in queue.lease_many(100).await.unwrap() {
                delivery.fail("again").await.unwrap();
            }
            space.clock.advance(Duration::from_millis(1));
        }
    };
    let redrive = async {
        let redriven = queue.dead_letters().redrive().await.unwrap();
        stop.set(true);
        redriven
    };
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    let (_, redriven) = tokio::join!(failing, redrive);
    assert!((600..700).contains(&redriven), "those that had died by then: {redriven}");
    space.delete().await;
}

#[tokio::test]
async fn a_large_letter_that_cannot_go_back_holds_up_no_other_facet() {
    let (space, queue) = Space::with_queue().await;
    let mut large = message("a", "t", 1);
    large["pad"] = "x".repeat(600_000).into();
    space.broker.deliver(&large).await.unwrap();
    die(&queue).await;
    dead(&space, &queue, "b", 1).await;
    run::<()>(&["SET", &space.of("q", "f:a"), "in the way"]).await;
    assert!(matches!(queue.dead_letters().redrive().await, Err(Error::WrongType(_))));
    assert_eq!(queue.stats().await.unwrap().waiting, 1);
    space.delete().await;
}

#[tokio::test]
async fn letters_that_are_listed_and_gone_hide_no_others() {
    let (space, queue) = Space::with_queue().await;
    dead(&space, &queue, "a", 260).await;
    let mut ids: Vec<String> = run(&["HKEYS", &space.of("q", "letters")]).await;
    ids.sort();
    let key = space.of("q", "letters");
    let gone: Vec<_> = ids[..251].iter().map(String::as_str).collect();
    run::<()>(&[&["HDEL", key.as_str()], &gone[..]].concat()).await;
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 9);
    assert_eq!(queue.stats().await.unwrap().waiting, 9);
    space.delete().await;
}
