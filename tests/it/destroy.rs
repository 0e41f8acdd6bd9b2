use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use fairlane::{Cursor, Error, ErrorKind};
use tokio::task::JoinSet;

use crate::support::{Proxy, Server, Space, deliver, message, pulled, run};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn nothing_of_a_destroyed_queue_is_left() {
    let (space, queue) = Space::with_queue().await;
    for facet in ["a", "b", "c"] {
        deliver(&space.broker, facet, 5).await;
    }
    queue.facet("a").set_weight(3.0).await.unwrap();
    queue.facet("b").pause().await.unwrap();
    let leased = queue.lease_many(4).await.unwrap();
    queue.pause().await.unwrap();
    queue.clone().destroy().await.unwrap();
    assert_eq!(space.keys().await, ["layout", "routes", "seq"]);
    assert!(space.broker.queues().await.unwrap().is_empty());
    assert_eq!(space.broker.ack_all(leased).await.unwrap().len(), 4, "all of them are lost");
    assert!(matches!(queue.pull().await, Err(Error::NoSuchQueue(_))));
    let receipt = space.broker.deliver(&message("a", "t", 1)).await.unwrap();
    assert!(receipt.queues.is_empty());
    space.end().await;
}

#[tokio::test]
async fn a_queue_of_the_same_name_begins_anew_and_nothing_comes_back() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 3).await;
    let old = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    queue.facet("a").pause().await.unwrap();
    queue.clone().destroy().await.unwrap();
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    deliver(&space.broker, "b", 1).await;
    space.clock.advance(5 * SECOND);
    assert!(matches!(old.nack().await, Err(Error::LeaseLost(_))));
    assert_eq!(pulled(&queue, 9).await, ["b"]);
    deliver(&space.broker, "a", 1).await;
    assert_eq!(pulled(&queue, 9).await, ["a"], "it is paused no more");
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.delivered, stats.served, stats.came_back), (2, 2, 0));
    space.end().await;
}

/// A queue `q` of 3,500 facets whose destroy broke off after its first step, and one that is whole.
async fn half_destroyed(server: &Server) -> fairlane::Broker {
    let proxy = Proxy::to(server).await;
    let broker = proxy.builder().deadline(SECOND).connect().await.unwrap();
    let queue = broker.register_queue("q", "^t$").await.unwrap();
    let messages: Vec<_> = (0..3500).map(|n| message(&format!("f{n}"), "t", n)).collect();
    broker.deliver_all(&messages).await.unwrap();
    let held = queue.lease_many(5).await.unwrap();
    proxy.delay(SECOND / 5);
    let destroying = tokio::time::timeout(SECOND / 2, queue.destroy());
    assert!(destroying.await.is_err());
    proxy.delay(Duration::ZERO);
    let left: u64 = server.run(&["ZCARD", "{fairlane}:q:q:ready"]).await;
    assert!((1..3500).contains(&left), "{left}");
    for lost in held {
        assert!(matches!(lost.extend(SECOND).await, Err(Error::LeaseLost(_))));
        assert!(matches!(lost.ack().await, Err(Error::LeaseLost(_))));
    }
    server.builder().connect().await.unwrap()
}

#[tokio::test]
async fn a_queue_whose_destroy_broke_off_is_closed_to_every_verb() {
    let server = Server::start(&[]).await;
    let broker = half_destroyed(&server).await;
    let queue = broker.queue("q");
    let refusals = [
        queue.pull().await.err(),
        queue.pull_many(9).await.err(),
        queue.lease().await.err(),
        queue.lease().wait(60 * SECOND).await.err(),
        queue.peek(9).await.err(),
        queue.stats().await.err(),
        queue.facets(Cursor::default()).await.err(),
        queue.facet("f1").stats().await.err(),
        queue.facet("f1").set_weight(2.0).await.err(),
        queue.facet("f1").pause().await.err(),
        queue.facet("f1").resume().await.err(),
        queue.pause().await.err(),
        queue.resume().await.err(),
    ];
    for (n, refusal) in refusals.into_iter().enumerate() {
        assert!(matches!(refusal, Some(Error::NoSuchQueue(_))), "{n}: {refusal:?}");
    }
    assert!(broker.queues().await.unwrap().is_empty());
    assert!(broker.deliver(&message("a", "t", 1)).await.unwrap().queues.is_empty());
    assert!(!broker.unregister_queue("q").await.unwrap());
}

#[tokio::test]
async fn a_destroy_that_broke_off_is_brought_to_its_end_by_another_one() {
    let server = Server::start(&[]).await;
    let broker = half_destroyed(&server).await;
    broker.queue("q").destroy().await.unwrap();
    let mut left: Vec<String> = server.run(&["KEYS", "*"]).await;
    left.sort();
    assert_eq!(left, ["layout", "routes", "seq"].map(|key| format!("{{fairlane}}:{key}")));
}

#[tokio::test]
async fn a_destroy_that_broke_off_is_brought_to_its_end_when_the_queue_is_registered_anew() {
    let server = Server::start(&[]).await;
    let broker = half_destroyed(&server).await;
    let queue = broker.register_queue("q", "^t$").await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    deliver(&broker, "f3499", 1).await;
    assert_eq!(pulled(&queue, 9).await.len(), 1, "what was there before does not come back");
    assert_eq!(queue.stats().await.unwrap().delivered, 1);
}

#[tokio::test]
async fn two_destroys_at_once_both_succeed_and_spare_a_queue_that_comes_after_them() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    for _ in 0..5 {
        let queue = broker.register_queue("q", ".").await.unwrap();
        let messages: Vec<_> = (0..4500).map(|n| message(&format!("f{n}"), "t", n)).collect();
        broker.deliver_all(&messages).await.unwrap();
        let other = server.builder().connect().await.unwrap().queue("q");
        let (first, second) = tokio::join!(
            async {
                let destroyed = queue.destroy().await;
                // The other one may still be about to make its next step.
                let anew = broker.register_queue("q", ".").await.unwrap();
                deliver(&broker, "new", 1).await;
                destroyed.map(|()| anew)
            },
            async {
                tokio::time::sleep(Duration::from_micros(500)).await;
                other.destroy().await
            },
        );
        second.unwrap();
        let anew = first.unwrap();
        assert_eq!(pulled(&anew, 9).await, ["new"]);
    }
}

#[tokio::test]
async fn a_destroy_whose_answer_is_lost_never_takes_a_queue_that_comes_after_it() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().connect().await.unwrap();
    let direct = server.builder().connect().await.unwrap();
    broker.queue("warm").destroy().await.unwrap(); // The script is loaded.
    for n in 0..10 {
        direct.register_queue("q", ".").await.unwrap();
        deliver(&direct, "old", 3).await;
        proxy.cut(1);
        proxy.delay(SECOND / 50);
        let (destroyed, anew) = tokio::join!(broker.queue("q").destroy(), async {
            while direct.queues().await.unwrap().len() == 1 {}
            if n % 2 == 0 {
                direct.register_queue("q", ".").await.unwrap();
                direct.deliver(&message("new", "t", 1)).await.unwrap();
            }
        });
        let () = anew;
        proxy.delay(Duration::ZERO);
        if n % 2 == 0 {
            assert!(matches!(destroyed, Err(Error::MaybeApplied(_))), "{destroyed:?}");
            assert_eq!(pulled(&direct.queue("q"), 9).await, ["new"]);
        } else {
            destroyed.unwrap(); // It is gone, so it was this one.
        }
    }
}

#[tokio::test]
async fn a_destroy_that_may_have_begun_is_not_said_to_be_unsent_when_redis_goes_away() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().deadline(SECOND / 5).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    proxy.stall(true);
    let error = queue.destroy().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::MaybeApplied, "{error:?}");
}

#[tokio::test]
async fn to_destroy_what_is_not_there_is_no_error_and_a_name_that_cannot_be_is_one() {
    let space = Space::new().await;
    space.broker.queue("nowhere").destroy().await.unwrap();
    assert!(matches!(space.broker.queue("a:b").destroy().await, Err(Error::Invalid(_))));
    space.end().await;
}

#[tokio::test]
async fn a_destroyed_queue_takes_no_other_with_it() {
    let space = Space::new().await;
    for name in ["q", "q-1", "other"] {
        space.broker.register_queue(name, ".").await.unwrap();
    }
    deliver(&space.broker, "a", 2).await;
    deliver(&space.broker, "f:a", 1).await;
    space.broker.queue("q").destroy().await.unwrap();
    let names: BTreeSet<_> =
        space.broker.queues().await.unwrap().into_iter().map(|route| route.queue).collect();
    assert_eq!(names, BTreeSet::from(["other".into(), "q-1".into()]));
    for name in ["q-1", "other"] {
        assert_eq!(pulled(&space.broker.queue(name), 9).await.len(), 3);
    }
    space.end().await;
}

#[tokio::test]
async fn a_hundred_thousand_facets_with_a_million_messages_go_while_another_queue_is_served() {
    const FACETS: usize = 100_000;
    let server = Server::start(&[]).await;
    let broker = server.builder().deadline(60 * SECOND).connect().await.unwrap();
    let doomed = broker.register_queue("doomed", "^doomed$").await.unwrap();
    let served = broker.register_queue("served", "^served$").await.unwrap();
    let mut filling = JoinSet::new();
    for part in 0..10 {
        let broker = broker.clone();
        filling.spawn(async move {
            for _ in 0..10 {
                let facets = part * FACETS / 10..(part + 1) * FACETS / 10;
                let facets = facets.map(|n| message(&format!("facet-{n}"), "doomed", n as u64));
                broker.deliver_all(&facets.collect::<Vec<_>>()).await.unwrap();
            }
        });
    }
    filling.join_all().await;
    let stats = doomed.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.facets_ready), (1_000_000, 100_000));
    let leased = doomed.lease_many(1000).await.unwrap();
    let before: u64 = server.run(&["DBSIZE"]).await;
    assert!(before > 100_000);

    server.run::<()>(&["CONFIG", "SET", "slowlog-max-len", "100000"]).await;
    server.run::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]).await;
    server.run::<()>(&["SLOWLOG", "RESET"]).await;
    let destroying = tokio::spawn(doomed.destroy());
    let (mut rounds, mut slowest) = (0, Duration::ZERO);
    while !destroying.is_finished() {
        let from = Instant::now();
        broker.deliver(&message("a", "served", rounds)).await.unwrap();
        served.lease().await.unwrap().unwrap().ack().await.unwrap();
        (rounds, slowest) = (rounds + 1, slowest.max(from.elapsed()));
    }
    destroying.await.unwrap().unwrap();
    server.run::<()>(&["CONFIG", "SET", "slowlog-log-slower-than", "-1"]).await;
    // Each entry: id, time, microseconds, arguments, and so on.
    type Entry = (u64, u64, u64, Vec<String>);
    let slow: Vec<redis::Value> = server.run(&["SLOWLOG", "GET", "100000"]).await;
    let of = |entry: redis::Value| -> Entry {
        let redis::Value::Array(mut fields) = entry else { panic!() };
        fields.truncate(4);
        redis::from_redis_value(redis::Value::Array(fields)).unwrap()
    };
    let scripts = slow.into_iter().map(of).filter(|(.., arguments)| {
        arguments[0] == "EVALSHA" && arguments.iter().any(|key| key.contains(":q:doomed:"))
    });
    let mut times: Vec<u64> = scripts.map(|(_, _, micros, _)| micros).collect();
    times.sort_unstable();
    println!(
        "{} steps, the longest script {} us, half of them under {} us; meanwhile {rounds} rounds of \
         deliver, lease and ack on another queue, the slowest {slowest:.1?}",
        times.len(),
        times[times.len() - 1],
        times[times.len() / 2],
    );
    assert!((100..=110).contains(&times.len()), "{}", times.len());
    assert!(times[times.len() / 2] < 5_000, "a step stays under 5 ms");
    // The others may have waited for a core: their time is that of the clock on the wall.
    assert!(times[times.len() * 9 / 10] < 10_000, "nine in ten stay under 10 ms");
    assert!(rounds >= 10, "{rounds}"); // About one call for each step.

    assert_eq!(broker.ack_all(leased).await.unwrap().len(), 1000);
    let left: Vec<String> = server.run(&["KEYS", "*doomed*"]).await;
    assert!(left.is_empty(), "{left:?}");
    let anew = broker.register_queue("doomed", "^doomed$").await.unwrap();
    assert!(anew.pull().await.unwrap().is_none());
}

#[tokio::test]
async fn a_closed_queue_says_so_in_its_clock_alone() {
    let space = Space::new().await;
    space.broker.register_queue("q", ".").await.unwrap();
    deliver(&space.broker, "a", 1).await;
    run::<()>(&["HSET", &space.of("q", "clock"), "closed", "1"]).await;
    // The route of an older client is still there: nothing is delivered to a part of the queues.
    let refused = space.broker.deliver(&message("a", "t", 2)).await;
    assert!(matches!(refused, Err(Error::NotSent(_))), "{refused:?}");
    space.broker.register_queue("q", ".").await.unwrap();
    assert_eq!(space.broker.deliver(&message("a", "t", 2)).await.unwrap().queues.len(), 1);
    assert_eq!(pulled(&space.broker.queue("q"), 9).await.len(), 1);
    space.end().await;
}
