//! Keys: what has the same facet and key is delivered once.

use std::{collections::BTreeSet, time::Duration};

use fairlane::{Error, Invalid, Message, Receipt};
use futures_util::FutureExt;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::{Proxy, Server, Space, deliver, message, numbers, run, until};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A message with a key.
fn keyed<'a>(body: &'a Value, key: &str) -> Message<'a, Value> {
    Message::new(body).key(key)
}

fn is_of(duplicate: &Receipt, first: &Receipt) -> bool {
    let same = |receipt: &Receipt| (receipt.id, receipt.queues.clone(), receipt.listeners);
    duplicate.duplicate && !first.duplicate && same(duplicate) == same(first)
}

async fn keys_kept(space: &Space) -> usize {
    space.keys().await.iter().filter(|key| key.starts_with("k:")).count()
}

#[tokio::test]
async fn a_second_delivery_does_nothing_and_gets_the_receipt_of_the_first() {
    let (space, queue) = Space::with_queue().await;
    let other = space.broker.register_queue("other", ".").await.unwrap();
    let mut listener = space.broker.listen("*").await.unwrap();
    let (body, again) = (message("a", "t", 1), message("a", "another topic", 2));
    let first = space.broker.deliver(keyed(&body, "order-17")).await.unwrap();
    assert_eq!((first.queues.len(), first.listeners, first.duplicate), (2, 1, false));
    // Whatever the second one is, and whatever has changed since.
    assert!(space.broker.unregister_queue("other").await.unwrap());
    let second = space.broker.deliver(keyed(&again, "order-17").delay(SECOND)).await.unwrap();
    assert!(is_of(&second, &first), "{second:?}");
    let third = space.another().await.deliver(keyed(&body, "order-17")).await.unwrap();
    assert!(is_of(&third, &first), "{third:?}");
    for queue in [&queue, &other] {
        let stats = queue.stats().await.unwrap();
        assert_eq!((stats.delivered, stats.waiting, stats.delayed), (1, 1, 0));
        assert!(queue.pull().await.unwrap().is_some());
    }
    assert_eq!(listener.next().await.unwrap().unwrap().message["n"], 1);
    // What is done is done: it does not come back after it was pulled.
    let fourth = space.broker.deliver(keyed(&body, "order-17")).await.unwrap();
    assert!(is_of(&fourth, &first));
    assert!(listener.next().now_or_never().is_none());
    deliver(&space.broker, "a", 1).await;
    assert_eq!(numbers(&queue).await, [0]);
    space.end().await;
}

#[tokio::test]
async fn a_key_that_went_to_no_queue_and_to_nobody_holds_too() {
    let space = Space::new().await;
    let body = message("a", "t", 1);
    let first = space.broker.deliver(keyed(&body, "k")).await.unwrap();
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    let second = space.broker.deliver(keyed(&body, "k")).await.unwrap();
    assert!(is_of(&second, &first) && second.queues.is_empty(), "{second:?}");
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn a_key_holds_within_a_batch_and_across_its_parts() {
    let (space, queue) = Space::with_queue().await;
    let bodies: Vec<_> = (0..1200).map(|n| message("a", "t", n)).collect();
    let alone = space.broker.deliver(keyed(&bodies[7], "k7")).await.unwrap();
    // 300 keys, each four times; 7 was there before. Every tenth has none.
    let key = |n: usize| format!("k{}", n % 300);
    let batch = bodies.iter().enumerate().map(|(n, body)| match n % 10 {
        0 => Message::new(body),
        _ => keyed(body, &key(n)),
    });
    let receipts = space.broker.deliver_all(batch).await.unwrap();
    assert_eq!(receipts.len(), 1200);
    for (n, receipt) in receipts.iter().enumerate() {
        assert_eq!(receipt.duplicate, n % 10 != 0 && (n >= 300 || n == 7), "{n}");
        if receipt.duplicate {
            let first = if n % 300 == 7 { &alone } else { &receipts[n % 300] };
            assert!(is_of(receipt, first), "{n}: {receipt:?}");
        }
    }
    let expected: Vec<_> = (0..1200).filter(|n| n % 10 == 0 || *n < 300).collect();
    let mut served = numbers(&queue).await;
    served.sort();
    assert_eq!(served, expected);
    assert_eq!(queue.stats().await.unwrap().delivered, expected.len() as u64);
    assert_eq!(keys_kept(&space).await, 270);
    space.end().await;
}

#[tokio::test]
async fn of_many_at_once_exactly_one_is_delivered() {
    let (space, queue) = Space::with_queue().await;
    let brokers = [space.broker.clone(), space.another().await];
    let mut calls = JoinSet::new();
    for n in 0..200u64 {
        let broker = brokers[n as usize % 2].clone();
        calls.spawn(async move {
            let body = message("a", "t", n);
            let key = if n % 5 == 0 { Message::new(&body) } else { keyed(&body, "k") };
            (n, broker.deliver(key).await.unwrap())
        });
    }
    let receipts = calls.join_all().await;
    let (keyed, others): (Vec<_>, Vec<_>) = receipts.into_iter().partition(|(n, _)| n % 5 != 0);
    assert!(others.iter().all(|(_, receipt)| !receipt.duplicate));
    let firsts: Vec<_> = keyed.iter().filter(|(_, receipt)| !receipt.duplicate).collect();
    assert_eq!(firsts.len(), 1);
    let (n, first) = firsts[0];
    assert!(keyed.iter().all(|(other, receipt)| other == n || is_of(receipt, first)));
    let served: BTreeSet<_> = numbers(&queue).await.into_iter().collect();
    assert_eq!(served.len(), 41);
    assert!(served.contains(n));
    space.end().await;
}

#[tokio::test]
async fn after_its_window_a_key_is_free_again() {
    let (space, queue) = Space::with_queue().await;
    let body = message("a", "t", 1);
    let pttl = async |facet: &str, key: &str| {
        run::<i64>(&["PTTL", &space.key(&format!("k:{} {facet}{key}", facet.len()))]).await
    };
    for (key, window) in [("default", 600 * SECOND), ("short", 7777 * MS), ("month", MONTH)] {
        let keyed = || match key {
            "default" => keyed(&body, key),
            _ => keyed(&body, key).window(window),
        };
        let first = space.broker.deliver(keyed()).await.unwrap();
        let left = pttl("a", key).await;
        let window_ms = window.as_millis() as i64;
        assert!((window_ms - 5000..=window_ms).contains(&left), "{key}: {left}");
        space.clock.advance(window - MS);
        assert!(is_of(&space.broker.deliver(keyed()).await.unwrap(), &first), "{key}");
        space.clock.advance(MS);
        let second = space.broker.deliver(keyed()).await.unwrap();
        assert!(!second.duplicate && second.id > first.id);
        assert!(is_of(&space.broker.deliver(keyed()).await.unwrap(), &second));
    }
    assert_eq!(queue.pull_many(99).await.unwrap().len(), 6);
    // Without a clock of the tests, it ends by itself.
    let real: fairlane::Broker = space.builder().connect().await.unwrap();
    let short = || keyed(&body, "real").window(150 * MS);
    real.deliver(short()).await.unwrap();
    tokio::time::sleep(300 * MS).await;
    assert_eq!(pttl("a", "real").await, -2, "it is gone");
    assert!(!real.deliver(short()).await.unwrap().duplicate);
    assert_eq!(real.queue("q").pull_many(9).await.unwrap().len(), 2);
    space.end().await;
}

#[tokio::test]
async fn the_same_key_of_two_facets_is_two_keys() {
    let (space, queue) = Space::with_queue().await;
    let of =
        [("a", "k"), ("b", "k"), ("a", "bk"), ("ab", "k"), ("1 a", "k"), ("1", " ak"), ("\0", "é")];
    for duplicate in [false, true] {
        for (facet, key) in of {
            let body = message(facet, "t", 1);
            let receipt = space.broker.deliver(keyed(&body, key)).await.unwrap();
            assert_eq!(receipt.duplicate, duplicate, "{facet} {key}");
        }
    }
    assert_eq!(queue.pull_many(99).await.unwrap().len(), of.len());
    space.end().await;
}

#[tokio::test]
async fn a_delivery_that_is_refused_keeps_no_key() {
    let (space, queue) = Space::with_queue().await;
    let body = message("a", "t", 1);
    queue.facet("a").pause_intake().await.unwrap();
    assert!(matches!(space.broker.deliver(keyed(&body, "k")).await, Err(Error::Refused { .. })));
    let batch = [keyed(&body, "k"), keyed(&body, "k"), Message::new(&body)];
    assert!(matches!(space.broker.deliver_all(batch).await, Err(Error::Refused { .. })));
    assert_eq!(keys_kept(&space).await, 0);
    queue.facet("a").resume_intake().await.unwrap();
    // Nor does one with a wrong key in its way, on any of its queues.
    run::<()>(&["SET", &space.of("q", "f:a"), "in the way"]).await;
    assert!(matches!(space.broker.deliver(keyed(&body, "k")).await, Err(Error::WrongType(_))));
    assert_eq!(keys_kept(&space).await, 0);
    run::<()>(&["DEL", &space.of("q", "f:a")]).await;
    let first = space.broker.deliver(keyed(&body, "k")).await.unwrap();
    assert!(!first.duplicate);
    // What was delivered before is no new delivery, and is not refused.
    queue.facet("a").pause_intake().await.unwrap();
    assert!(is_of(&space.broker.deliver(keyed(&body, "k")).await.unwrap(), &first));
    queue.facet("a").resume_intake().await.unwrap();
    assert_eq!(numbers(&queue).await, [1]);
    space.end().await;
}

#[tokio::test]
async fn a_key_and_its_window_have_bounds() {
    let (space, queue) = Space::with_queue().await;
    let body = message("a", "t", 1);
    let before = space.keys().await;
    for key in [String::new(), "x".repeat(513)] {
        let refused = space.broker.deliver(keyed(&body, &key)).await;
        assert!(matches!(
            refused,
            Err(Error::Invalid(
                Invalid::Empty { what: "key" } | Invalid::TooLong { what: "key", .. }
            ))
        ));
    }
    for window in [Duration::ZERO, MS / 2, MONTH + MS, Duration::MAX] {
        let refused = space.broker.deliver(keyed(&body, "k").window(window)).await;
        assert!(matches!(refused, Err(Error::Invalid(Invalid::OutOfRange { what: "window", .. }))));
    }
    assert_eq!(space.keys().await, before);
    for key in ["x".repeat(512), " ,c9 \0{}".into()] {
        for duplicate in [false, true] {
            let receipt = space.broker.deliver(keyed(&body, &key).window(MS)).await.unwrap();
            assert_eq!(receipt.duplicate, duplicate);
        }
    }
    assert_eq!(numbers(&queue).await, [1, 1]);
    space.end().await;
}

#[tokio::test]
async fn a_delivery_with_a_key_whose_answer_is_lost_is_sent_again_and_is_there_once() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    let bodies: Vec<_> = (1..=3).map(|n| message("a", "t", n)).collect();
    proxy.cut(1);
    let receipt = broker.deliver(keyed(&bodies[0], "one")).await.unwrap();
    assert!(receipt.duplicate && *receipt.queues == ["q".to_owned()], "{receipt:?}");
    proxy.cut(1);
    let batch = [keyed(&bodies[1], "two"), keyed(&bodies[2], "three")];
    let receipts = broker.deliver_all(batch).await.unwrap();
    assert!(receipts.iter().all(|receipt| receipt.duplicate));
    assert!(receipts[0].id < receipts[1].id);
    // One without a key is not sent again, nor what goes with it.
    for batch in
        [vec![Message::new(&bodies[0])], vec![keyed(&bodies[0], "x"), Message::new(&bodies[1])]]
    {
        proxy.cut(1);
        let error = broker.deliver_all(batch).await.err().unwrap();
        assert!(matches!(error, Error::MaybeApplied(_)), "{error:?}");
    }
    let served = queue.pull_many(99).await.unwrap();
    let served: Vec<_> = served.into_iter().map(|message| message.unwrap()["n"].clone()).collect();
    assert_eq!(served, [0, 1, 2, 3, 1, 1, 2], "each was carried out once");
}

#[tokio::test]
async fn a_delivery_with_a_key_that_was_carried_out_is_no_error_where_routes_have_changed_since() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().heartbeat(SECOND / 2).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    let body = message("a", "t", 1);
    proxy.silence();
    let delivering = tokio::spawn({
        let (broker, body) = (broker.clone(), body.clone());
        async move { broker.deliver(keyed(&body, "k")).await }
    });
    until("it is carried out", async || server.calls("publish").await == 2).await;
    let other = server.builder().connect().await.unwrap();
    other.register_queue("other", ".").await.unwrap();
    // Nor may the routes be loaded again.
    server.run::<()>(&["ACL", "SETUSER", "default", "-hgetall"]).await;
    let receipt = delivering.await.unwrap().unwrap();
    assert!(receipt.duplicate && *receipt.queues == ["q".to_owned()], "{receipt:?}");
    // What has a new key is matched with the routes that there are.
    let batch = [keyed(&body, "k"), keyed(&body, "new")];
    let error = broker.deliver_all(batch).await.err().unwrap();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    server.run::<()>(&["ACL", "SETUSER", "default", "+hgetall"]).await;
    let receipts = broker.deliver_all([keyed(&body, "k"), keyed(&body, "new")]).await.unwrap();
    assert_eq!((receipts[0].duplicate, receipts[1].duplicate), (true, false));
    assert_eq!(receipts[1].queues.len(), 2);
    assert_eq!(numbers(&queue).await, [0, 1, 1]);
}

#[tokio::test]
async fn those_with_keys_are_sent_again_though_others_go_out_at_the_same_time() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    queue.pull().await.unwrap();
    proxy.cut(3);
    let mut calls = JoinSet::new();
    for n in 0..60u64 {
        let broker = broker.clone();
        calls.spawn(async move {
            let body = message("a", "t", n);
            match n % 2 {
                0 => broker.deliver(keyed(&body, &n.to_string())).await.map(drop),
                _ => broker.deliver(&body).await.map(drop),
            }
            .map_err(|error| (n, error))
        });
    }
    for result in calls.join_all().await {
        let Err((n, error)) = result else { continue };
        assert!(n % 2 == 1 && matches!(error, Error::MaybeApplied(_)), "{n}: {error:?}");
    }
    let served = queue.pull_many(999).await.unwrap();
    let served: Vec<_> =
        served.into_iter().map(|message| message.unwrap()["n"].as_u64().unwrap()).collect();
    let once: BTreeSet<_> = served.iter().collect();
    assert_eq!(once.len(), served.len(), "none twice");
    assert!((0..60).filter(|n| n % 2 == 0).all(|n| once.contains(&n)), "{once:?}");
}
