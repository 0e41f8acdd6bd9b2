//! Sentinels whose primary dies or is replaced, and clusters whose primaries do, or whose slots move.
//!
//! Replication is asynchronous: what a primary acknowledged and no replica has is lost with it. It is
//! counted, and may only be of the moments around the end of the primary.

use fairlane::{Broker, Replicas, testing::TestCluster};
use tokio::time::{Instant, sleep};

use crate::{
    check::Excused,
    load::{Load, SECOND, Told, long},
    record::Micros,
    support::{Sentinels, set_up, slot, until},
};

const PARTITIONS: u32 = 6;
/// How far replicas may be behind, and how long an answer may be on its way to who notes it, in us.
const BEHIND: Micros = 500_000;
/// In which time brokers leave what Sentinel has replaced, in us.
const LEFT: Micros = 3_000_000;

/// Load on what is there under a URL, in several partitions.
async fn load(url: String) -> Load {
    let broker = move || <Broker>::builder().redis(url.clone()).partitions(PARTITIONS);
    Load::on(move || broker().heartbeat(SECOND)).await
}

/// Redis may have forgotten what it acknowledged from one time to the other.
fn forget(excused: &mut Excused, from: Micros, to: Micros) {
    excused.forgotten.push((from - BEHIND, to + BEHIND));
}

/// The slots of the partitions, round and round.
async fn slots(cluster: &TestCluster) -> impl Iterator<Item = u16> {
    let mut slots = Vec::new();
    for place in 0..PARTITIONS {
        slots.push(slot(cluster, &format!("fairlane:{place}")).await);
    }
    slots.into_iter().cycle()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_of_sentinels_that_is_killed_loses_only_what_no_replica_had() {
    let mut sentinels = Sentinels::start(2).await;
    let mut excused = Excused::default();
    let told = load(sentinels.url()).await.during(async |load| {
        let end = Instant::now() + long();
        while Instant::now() < end {
            sleep(SECOND).await;
            let from = load.record.now();
            let killed = sentinels.kill_primary().await;
            forget(&mut excused, from, load.record.now());
            until("another one is the primary", async || sentinels.primary().await != killed).await;
            sleep(SECOND).await;
            sentinels.launch(killed).await;
        }
    });
    told.await.holds("kill -9 of a primary, Sentinel", &excused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_sentinels_replace_loses_only_what_it_is_told_until_it_is_left() {
    let sentinels = Sentinels::start(2).await;
    let mut excused = Excused::default();
    let told = load(sentinels.url()).await.during(async |load| {
        let end = Instant::now() + long();
        while Instant::now() < end {
            sleep(2 * SECOND).await;
            let from = load.record.now();
            sentinels.replace_primary().await;
            forget(&mut excused, from, load.record.now() + LEFT);
            // It is made a replica long after that.
            sentinels.ready().await;
        }
    });
    told.await.holds("SENTINEL FAILOVER", &excused);
}

/// Kills the primaries of a cluster, one after the other, while there is load on it.
async fn kill_primaries(cluster: &TestCluster, load: Load, excused: &mut Excused) -> Told {
    let slots = slots(cluster).await;
    let kill_and_launch = async |load: &Load| {
        let end = Instant::now() + long();
        for slot in slots.take_while(|_| Instant::now() < end) {
            sleep(SECOND).await;
            let primary = cluster.primary_of(slot).await.unwrap();
            let from = load.record.now();
            cluster.kill(primary).await.unwrap();
            forget(excused, from, load.record.now());
            cluster.agreed().await.unwrap();
            cluster.launch(primary).await.unwrap();
            cluster.agreed().await.unwrap();
        }
    };
    load.during(kill_and_launch).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_of_a_cluster_that_is_killed_loses_only_what_its_replica_had_not() {
    let cluster = TestCluster::start_with_replicas(3, 1).await.unwrap();
    let (load, mut excused) = (load(cluster.url()).await, Excused::default());
    let told = kill_primaries(&cluster, load, &mut excused).await;
    told.holds("kill -9 of a primary, cluster", &excused);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_has_before_it_is_acknowledged_is_not_lost_with_its_primary() {
    let cluster = TestCluster::start_with_replicas(3, 1).await.unwrap();
    let mut load = load(cluster.url()).await;
    load.replicas = Some(Replicas(1));
    let mut excused = Excused { durable: true, ..Excused::default() };
    let told = kill_primaries(&cluster, load, &mut excused).await;
    told.holds("kill -9 of a primary, cluster, durable deliveries", &excused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_of_a_cluster_that_is_asked_for_loses_nothing() {
    let cluster = TestCluster::start_with_replicas(3, 1).await.unwrap();
    let slots = slots(&cluster).await;
    let told = load(cluster.url()).await.during(async |_| {
        let end = Instant::now() + long();
        for slot in slots.take_while(|_| Instant::now() < end) {
            sleep(SECOND / 2).await;
            let primary = cluster.primary_of(slot).await.unwrap();
            cluster.fail_over(primary).await.unwrap();
        }
    });
    told.await.holds("CLUSTER FAILOVER", &Excused::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_lose_nothing() {
    let cluster = TestCluster::start(3).await.unwrap();
    let slots = slots(&cluster).await;
    let told = load(cluster.url()).await.during(async |_| {
        let end = Instant::now() + long();
        for slot in slots.take_while(|_| Instant::now() < end) {
            let from = cluster.primary_of(slot).await.unwrap();
            cluster.move_slot(slot, (from + 1) % 3).await.unwrap();
            sleep(SECOND / 10).await;
        }
    });
    told.await.holds("slots that move", &Excused::default());
}

/// What is acknowledged while it is frozen is acknowledged by others, and kept. When it goes on it does
/// what was sent to it, until it hears that another one has taken its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_frozen_until_it_is_replaced_loses_only_what_its_replica_had_not() {
    let cluster = TestCluster::start_with_replicas(3, 1).await.unwrap();
    let slots = slots(&cluster).await;
    let mut excused = Excused::default();
    let told = load(cluster.url()).await.during(async |load| {
        let end = Instant::now() + long();
        for slot in slots.take_while(|_| Instant::now() < end) {
            sleep(SECOND).await;
            let primary = cluster.primary_of(slot).await.unwrap();
            let from = load.record.now();
            cluster.freeze(primary).unwrap();
            forget(&mut excused, from, load.record.now());
            cluster.agreed().await.unwrap();
            sleep(2 * SECOND).await;
            let from = load.record.now();
            cluster.thaw(primary).unwrap();
            cluster.agreed().await.unwrap();
            forget(&mut excused, from, load.record.now());
        }
    });
    told.await.holds("a primary that is frozen and replaced, cluster", &excused);
}

/// Nobody takes its place: what it has is out of reach for a while, and the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_away_for_a_while_loses_nothing() {
    let cluster = TestCluster::start(3).await.unwrap();
    set_up(&cluster, "cluster-require-full-coverage", "no").await;
    let told = load(cluster.url()).await.during(async |_| {
        let end = Instant::now() + long();
        for node in cluster.nodes().cycle().take_while(|_| Instant::now() < end) {
            sleep(SECOND).await;
            cluster.freeze(node).unwrap();
            sleep(3 * SECOND).await;
            cluster.thaw(node).unwrap();
            cluster.agreed().await.unwrap();
        }
    });
    told.await.holds("a primary that is frozen for a while, cluster", &Excused::default());
}
