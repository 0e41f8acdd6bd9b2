//! A broker on what Sentinel watches over: it follows the primary.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::IntoFuture,
    time::{Duration, Instant},
};

use fairlane::{Broker, BrokerBuilder, Error, Message, Replicas};

use crate::support::{Sentinels, message, until};

const SECOND: Duration = Duration::from_secs(1);

fn builder(sentinels: &Sentinels) -> BrokerBuilder {
    <Broker>::builder().redis(sentinels.url()).namespace("shop").deadline(20 * SECOND)
}

#[tokio::test]
async fn a_broker_follows_the_primary_when_it_dies() {
    let mut sentinels = Sentinels::start(2).await;
    let broker = builder(&sentinels).heartbeat(SECOND).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let mut listener = broker.listen("t").await.unwrap();
    // The replicas have all of it.
    let first = message("a", "t", 0);
    let first = Message::new(&first).durable(Replicas(2), 10 * SECOND);
    assert_eq!(broker.deliver(first).await.unwrap().replicas, Some(2));
    assert_eq!(listener.next().await.unwrap().unwrap().message["n"], 0);
    queue.lease().await.unwrap().unwrap().ack().await.unwrap();
    let waiting = tokio::spawn(queue.lease().wait(60 * SECOND).into_future());
    tokio::time::sleep(SECOND / 2).await; // They have that, too, and it blocks.
    sentinels.kill_primary().await;
    let from = Instant::now();
    let body = message("a", "t", 1);
    broker.deliver(Message::new(&body).key("1")).await.unwrap();
    let took = from.elapsed();
    println!("delivered again {took:?} after the primary was killed");
    assert!(took < 10 * SECOND, "{took:?}");
    waiting.await.unwrap().unwrap().unwrap().ack().await.unwrap();
    for n in 2.. {
        let body = message("a", "t", n);
        if broker.deliver(&body).await.unwrap().listeners > 0 {
            break;
        }
        tokio::time::sleep(SECOND / 10).await;
    }
    let mut heard = BTreeSet::new();
    while heard.is_empty() {
        if let Ok(heard_one) = listener.next().await.unwrap() {
            heard.insert(heard_one.message["n"].as_u64().unwrap());
        }
    }
}

#[tokio::test]
async fn a_broker_leaves_a_primary_that_was_replaced_though_it_takes_itself_for_one() {
    let sentinels = Sentinels::start(1).await;
    let broker = builder(&sentinels).heartbeat(SECOND).partitions(2).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    broker.deliver(&message("a", "t", 0)).await.unwrap();
    let first = queue.lease().await.unwrap().unwrap();
    first.durable(Replicas(1), 10 * SECOND).ack().await.unwrap(); // The replica has all of it.
    let waiting = tokio::spawn(queue.lease().wait(60 * SECOND).into_future());
    let old = sentinels.replace_primary().await;
    let new = format!("127.0.0.1:{}", sentinels.primary().await);
    until("all partitions lead to the new one", || async {
        broker.health().await.partitions.iter().all(|partition| partition.address == new)
    })
    .await;
    let client = redis::Client::open(("127.0.0.1", old)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let role: (String, redis::Value, redis::Value) =
        redis::cmd("ROLE").query_async(&mut connection).await.unwrap();
    assert_eq!(role.0, "master", "it is left before it is told");
    for facet in ["a", "b", "c", "d"] {
        broker.deliver(&message(facet, "t", 1)).await.unwrap();
    }
    waiting.await.unwrap().unwrap().unwrap().ack().await.unwrap();
    assert_eq!(queue.stats().await.unwrap().waiting, 3);
}

#[tokio::test]
async fn all_connections_leave_a_primary_that_was_replaced_within_half_a_heartbeat() {
    let sentinels = Sentinels::start(1).await;
    let broker = builder(&sentinels).heartbeat(8 * SECOND).partitions(8).connect().await.unwrap();
    let mut facets = BTreeMap::new();
    for n in 0..100 {
        let facet = n.to_string();
        let id = broker.deliver(&message(&facet, "t", n)).await.unwrap().id;
        facets.insert(id.to_string().parse::<u64>().unwrap() % 8, facet);
    }
    assert_eq!(facets.len(), 8, "one of each partition");
    // The last answer of each comes at another time, so that they do not all look at once.
    let uses = tokio::spawn({
        let broker = broker.clone();
        async move {
            for facet in facets.values().cycle() {
                broker.deliver(&message(facet, "t", 1)).await.unwrap();
                tokio::time::sleep(SECOND / 2).await;
            }
        }
    });
    tokio::time::sleep(5 * SECOND).await;
    sentinels.replace_primary().await;
    let new = format!("127.0.0.1:{}", sentinels.primary().await);
    tokio::time::sleep(4 * SECOND + SECOND / 2).await;
    uses.abort();
    let health = broker.health().await;
    let addresses: Vec<_> = health.partitions.iter().map(|partition| &partition.address).collect();
    assert!(addresses.iter().all(|address| **address == new), "{new}: {addresses:?}");
}

#[tokio::test]
async fn the_sentinels_are_asked_once_in_half_a_heartbeat_for_all_connections() {
    let sentinels = Sentinels::start(1).await;
    let broker = builder(&sentinels).heartbeat(SECOND).partitions(8).connect().await.unwrap();
    let _listener = broker.listen("t").await.unwrap();
    let client = redis::Client::open(format!("redis://{}", sentinels.addresses()[0])).unwrap();
    let mut sentinel = client.get_multiplexed_async_connection().await.unwrap();
    let mut asked = async || {
        let info: String =
            redis::cmd("INFO").arg("stats").query_async(&mut sentinel).await.unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let (before, from) = (asked().await, Instant::now());
    tokio::time::sleep(4 * SECOND).await;
    let asked = asked().await - before;
    let most = from.elapsed().as_millis() as u64 / 500 + 1;
    assert!((most / 2..=most).contains(&asked), "{asked} in place of {most}");
}

#[tokio::test]
async fn a_link_that_is_cut_to_the_primary_and_the_sentinels_alike_is_found_within_a_heartbeat() {
    let mut sentinels = Sentinels::start(1).await;
    let broker = builder(&sentinels).heartbeat(SECOND).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    sentinels.freeze();
    let from = Instant::now();
    let error = queue.pull().await.err().unwrap();
    let took = from.elapsed();
    assert!(matches!(error, Error::MaybeApplied(_)), "{error:?}");
    assert!(took < SECOND + SECOND * 3 / 10, "{took:?}");
}

#[tokio::test]
async fn a_service_that_no_sentinel_knows_is_an_error_that_says_so() {
    let sentinels = Sentinels::start(1).await;
    let url = sentinels.url().replace("mymaster", "nobody");
    let connecting = <Broker>::builder().redis(url).deadline(SECOND).connect();
    let error = connecting.await.err().unwrap();
    assert!(matches!(error, Error::NotSent(_)), "{error:?}");
}
