use std::time::Duration;

use fairlane::{Error, Stats};

use crate::support::{Server, Space, deliver, message};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn stats_count_what_there_is_and_what_there_was() {
    let (space, queue) = Space::with_queue().await;
    assert_eq!(queue.stats().await.unwrap(), Stats::default());
    deliver(&space.broker, "a", 4).await;
    deliver(&space.broker, "b", 2).await;
    deliver(&space.broker, "c", 1).await;
    queue.pull().await.unwrap().unwrap();
    let leased = queue.lease_many(3).await.unwrap();
    let [first, second, third] = <[_; 3]>::try_from(leased).unwrap();
    queue.facet("a").pause().await.unwrap();
    first.ack().await.unwrap();
    second.nack().await.unwrap();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.leased), (4, 1));
    assert_eq!((stats.delivered, stats.served, stats.acked, stats.came_back), (7, 4, 1, 1));
    assert_eq!((stats.facets_parked, stats.paused), (1, false));
    assert_eq!(stats.facets_ready + stats.facets_in_debt, 2);
    queue.facet("a").resume().await.unwrap();
    queue.pause().await.unwrap();
    assert!(queue.stats().await.unwrap().paused);
    queue.resume().await.unwrap();
    queue.pull_many(9).await.unwrap();
    third.ack().await.unwrap();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.leased, stats.facets_ready), (0, 0, 0));
    assert_eq!((stats.delivered, stats.served, stats.acked, stats.came_back), (7, 8, 2, 1));
    space.end().await;
}

#[tokio::test]
async fn a_facet_that_had_more_than_the_others_is_in_debt_until_they_have_had_as_much() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "waits", 3).await;
    queue.facet("light").set_weight(0.5).await.unwrap();
    deliver(&space.broker, "light", 1).await;
    while queue.pull().await.unwrap().unwrap()["facet"] != "light" {}
    assert_eq!(queue.stats().await.unwrap().facets_in_debt, 1);
    queue.pull_many(9).await.unwrap();
    assert_eq!(queue.stats().await.unwrap().facets_in_debt, 0);
    queue.facet("light").configure(|facet| facet.weight = None).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn what_comes_back_by_itself_is_counted_when_it_is_given_back() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let lost = queue.lease_many(2).lasting(SECOND).await.unwrap();
    space.clock.advance(2 * SECOND);
    assert_eq!(queue.stats().await.unwrap().leased, 2);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 2);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.leased, stats.came_back, stats.served), (0, 2, 4));
    drop(lost);
    space.end().await;
}

#[tokio::test]
async fn looking_takes_as_many_steps_in_a_large_queue_as_in_a_small_one() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let cost = async |n: usize| {
        let messages: Vec<_> = (0..n).map(|n| message(&format!("f{n}"), "t", 0)).collect();
        broker.deliver_all(&messages).await.unwrap();
        queue.lease_many(1000).await.unwrap();
        queue.stats().await.unwrap(); // The script is loaded.
        queue.facet("f1999").stats().await.unwrap();
        server.run::<()>(&["CONFIG", "RESETSTAT"]).await;
        queue.stats().await.unwrap();
        queue.facet("f1999").stats().await.unwrap();
        let stats: String = server.run(&["INFO", "commandstats"]).await;
        let calls = stats.lines().filter_map(|line| line.split_once("calls=")?.1.split_once(','));
        calls.map(|(calls, _)| calls.parse::<u64>().unwrap()).sum::<u64>()
    };
    let small = cost(2000).await;
    assert_eq!(cost(20_000).await, small);
}

#[tokio::test]
async fn a_queue_that_does_not_exist_has_no_stats() {
    let space = Space::new().await;
    let queue = space.broker.queue("nowhere");
    assert!(matches!(queue.stats().await, Err(Error::NoSuchQueue(name)) if &*name == "nowhere"));
    assert!(matches!(queue.facet("a").stats().await, Err(Error::NoSuchQueue(_))));
    assert!(matches!(space.broker.queue("a:b").stats().await, Err(Error::Invalid(_))));
    space.end().await;
}

#[tokio::test]
async fn a_queue_whose_route_is_gone_has_stats_while_it_holds_anything() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    queue.facet("a").pause().await.unwrap();
    space.broker.unregister_queue("q").await.unwrap();
    assert_eq!(queue.stats().await.unwrap().waiting, 1);
    assert!(queue.pull().await.unwrap().is_none(), "it is parked, and no error");
    queue.facet("a").resume().await.unwrap();
    queue.pull().await.unwrap().unwrap();
    assert!(matches!(queue.stats().await, Err(Error::NoSuchQueue(_))));
    space.end().await;
}
