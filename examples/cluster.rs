//! One namespace over three machines: a Redis Cluster, of which one node dies in the middle.
//!
//! A loud tenant and thirty quiet ones share a queue that is divided into twelve partitions. A worker
//! serves all of them in fair turns, while one of the primaries is killed and its replica takes over.
//! Nothing has to be set up: it starts a cluster of its own, of three primaries with a replica each.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fairlane::{AnyError, Broker, CancellationToken, Message, Replicas, testing::TestCluster};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Order {
    tenant: String,
    number: u64,
}

const LOUD: u64 = 3000;
const QUIET: u64 = 30;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let cluster = TestCluster::start_with_replicas(3, 1).await?;
    let broker = Broker::<Order>::builder()
        .redis(cluster.url()) // redis-cluster://127.0.0.1:7001,127.0.0.1:7002,..
        .namespace("shop")
        .partitions(12)
        .facet(|order| order.tenant.clone())
        .topic(|_| "order")
        .deadline(Duration::from_secs(20)) // longer than a failover takes
        .heartbeat(Duration::from_secs(1))
        .connect()
        .await?;
    let orders = broker.register_queue("orders", "^order$").await?;

    let mut nodes: BTreeMap<String, usize> = BTreeMap::new();
    for partition in broker.health().await.partitions {
        *nodes.entry(partition.address).or_default() += 1;
    }
    println!("12 partitions are on {} nodes.", nodes.len());

    let loud = (0..LOUD).map(|number| Order { tenant: "loud".into(), number });
    let quiet =
        (0..10 * QUIET).map(|number| Order { tenant: format!("quiet {}", number % QUIET), number });
    let all: Vec<_> = loud.chain(quiet).collect();
    // What said that it was delivered is on a replica, too: the death of a primary does not lose it. With
    // a key it is delivered once, however often it is sent.
    let messages = all.iter().map(|order| {
        Message::new(order).key(order.number).durable(Replicas(1), Duration::from_secs(10))
    });
    let delivered = broker.deliver_all(messages).await?.len();
    println!(
        "{delivered} orders were delivered: {LOUD} of a loud tenant, 10 each of {QUIET} quiet ones."
    );

    // Each order by its tenant and number, and how many were done before it.
    let done: Arc<Mutex<BTreeMap<(String, u64), u64>>> = Arc::default();
    let (count, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
    let worker = orders.worker({
        let (done, count, stop) = (done.clone(), count.clone(), stop.clone());
        move |delivery| {
            let (done, count, stop) = (done.clone(), count.clone(), stop.clone());
            async move {
                let order = delivery.message()?;
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                let place = count.fetch_add(1, Ordering::Relaxed);
                // A lease that ended with the primary is served again.
                done.entry((order.tenant.clone(), order.number)).or_insert(place);
                if done.len() as u64 == LOUD + 10 * QUIET {
                    stop.cancel();
                }
                Ok::<_, AnyError>(())
            }
        }
    });
    let working =
        worker.concurrency(8).lasting(Duration::from_secs(5)).stop_on(stop).signals(false).run();
    let working = tokio::spawn(working);

    while count.load(Ordering::Relaxed) < 500 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    cluster.kill(0).await?;
    println!("One of the primaries was killed.");
    working.await??;

    let done = done.lock().unwrap_or_else(PoisonError::into_inner);
    let last = |loud: bool| {
        let places = done.iter().filter(|((tenant, _), _)| (tenant == "loud") == loud);
        places.map(|(_, place)| *place).max().unwrap_or_default()
    };
    println!("All {} were done.", done.len());
    println!(
        "The last of a quiet tenant was number {}, the last of the loud one number {}.",
        last(false),
        last(true)
    );
    Ok(())
}
