//! A broker on what Sentinel watches over: it follows the primary.

use std::{
    collections::BTreeSet,
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
    let waiting = tokio::spawn(queue.lease().wait(60 * SECOND).into_future());
    tokio::time::sleep(SECOND / 2).await; // The replica has all of it.
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
async fn a_service_that_no_sentinel_knows_is_an_error_that_says_so() {
    let sentinels = Sentinels::start(1).await;
    let url = sentinels.url().replace("mymaster", "nobody");
    let connecting = <Broker>::builder().redis(url).deadline(SECOND).connect();
    let error = connecting.await.err().unwrap();
    assert!(matches!(error, Error::NotSent(_)), "{error:?}");
}
