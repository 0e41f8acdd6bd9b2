//! The cluster that the users' own tests can have, and which is broken in ours.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use fairlane::{
    Error, Invalid,
    testing::{SlotMove, TestCluster},
};
use redis::{FromRedisValue, RedisResult, aio::MultiplexedConnection};
use tokio::time::sleep;

use crate::support::{another_process, other_process, until};

const SECOND: Duration = Duration::from_secs(1);

async fn connect(cluster: &TestCluster, node: usize) -> RedisResult<MultiplexedConnection> {
    let client = redis::Client::open(("127.0.0.1", cluster.port(node)))?;
    client.get_multiplexed_async_connection().await
}

/// Asks a node, and follows nothing that it says of others.
async fn ask<T: FromRedisValue>(cluster: &TestCluster, node: usize, words: &str) -> RedisResult<T> {
    let mut connection = connect(cluster, node).await?;
    let mut command = redis::Cmd::new();
    command.arg(words.split(' ').collect::<Vec<_>>()).query_async(&mut connection).await
}

async fn run<T: FromRedisValue>(cluster: &TestCluster, node: usize, words: &str) -> T {
    ask(cluster, node, words).await.unwrap()
}

/// What a node answers where it sends to another one: `MOVED 7 127.0.0.1:7001`.
async fn sent_on(cluster: &TestCluster, node: usize, words: &str) -> String {
    let error = ask::<redis::Value>(cluster, node, words).await.unwrap_err();
    format!("{} {}", error.code().unwrap(), error.detail().unwrap())
}

async fn slot(cluster: &TestCluster, key: &str) -> u16 {
    run(cluster, 0, &format!("CLUSTER KEYSLOT {key}")).await
}

fn pids(cluster: &TestCluster) -> Vec<u32> {
    cluster.nodes().map(|node| cluster.pid(node).unwrap()).collect()
}

async fn dir(cluster: &TestCluster) -> PathBuf {
    let (_, dir): (String, String) = run(cluster, 0, "CONFIG GET dir").await;
    Path::new(&dir).parent().unwrap().to_owned()
}

fn is_alive(pid: u32) -> bool {
    let shell =
        std::process::Command::new("sh").args(["-c", "kill -0 $0 2>&-", &pid.to_string()]).status();
    shell.unwrap().success()
}

/// Waits until the processes have ended and the directory is gone.
async fn gone(pids: &[u32], dir: &Path) {
    until("no process is left", || async { !pids.iter().any(|&pid| is_alive(pid)) }).await;
    until("the directory is gone", || async { !dir.exists() }).await;
}

#[tokio::test]
async fn a_cluster_has_all_slots_evenly_and_ends_with_its_owner() {
    let cluster = TestCluster::start(3).await.unwrap();
    let ports: Vec<_> = cluster.nodes().map(|node| cluster.port(node)).collect();
    let [first, second, third] = ports[..] else { panic!("{ports:?}") };
    assert_eq!(
        cluster.url(),
        format!("redis-cluster://127.0.0.1:{first},127.0.0.1:{second},127.0.0.1:{third}")
    );
    for node in cluster.nodes() {
        let slots: Vec<(u16, u16, redis::Value)> = run(&cluster, node, "CLUSTER SLOTS").await;
        let mut slots: Vec<_> = slots.iter().map(|(first, last, _)| (*first, *last)).collect();
        slots.sort();
        assert_eq!(slots, [(0, 5460), (5461, 10921), (10922, 16383)]);
        assert!(cluster.is_primary(node).await);
        assert_eq!(cluster.replica_of(node).await, None);
    }
    for n in 0..100 {
        let slot = slot(&cluster, &format!("key-{n}")).await;
        let node = cluster.primary_of(slot).await.unwrap();
        run::<()>(&cluster, node, &format!("SET key-{n} {n}")).await;
        let other = (node + 1) % 3;
        assert_eq!(
            sent_on(&cluster, other, &format!("GET key-{n}")).await,
            format!("MOVED {slot} 127.0.0.1:{}", ports[node])
        );
    }
    let (pids, dir) = (pids(&cluster), dir(&cluster).await);
    assert!(pids.iter().all(|&pid| is_alive(pid)) && dir.exists());
    drop(cluster);
    gone(&pids, &dir).await;
}

#[tokio::test]
async fn a_cluster_ends_with_its_process_even_when_a_node_is_frozen() {
    if let Some(told) = other_process() {
        let cluster = TestCluster::start(2).await.unwrap();
        cluster.freeze(1).unwrap();
        let said = format!("{} {:?}", dir(&cluster).await.display(), pids(&cluster));
        fs::write(told.join("half"), said).unwrap();
        fs::rename(told.join("half"), told.join("started")).unwrap();
        sleep(60 * SECOND).await;
        unreachable!("nobody killed it");
    }
    let tell = tempfile::tempdir().unwrap();
    let test = "cluster_server::a_cluster_ends_with_its_process_even_when_a_node_is_frozen";
    let mut other = another_process(test, tell.path()).spawn().unwrap();
    let started = tell.path().join("started");
    until("the other process has started one", || async { started.exists() }).await;
    let said = fs::read_to_string(started).unwrap();
    let (dir, pids) = said.split_once(' ').unwrap();
    let pids: Vec<u32> = serde_json::from_str(pids).unwrap();
    assert!(Path::new(dir).exists() && pids.iter().all(|&pid| is_alive(pid)));
    other.kill().unwrap(); // with SIGKILL
    other.wait().unwrap();
    gone(&pids, Path::new(dir)).await;
}

#[tokio::test]
async fn a_replica_takes_the_place_of_a_primary_that_was_killed_and_that_comes_back_as_its_replica()
{
    let cluster = TestCluster::start_with_replicas(3, 1).await.unwrap();
    let slot = slot(&cluster, "key").await;
    let primary = cluster.primary_of(slot).await.unwrap();
    // On one connection: WAIT waits for what was written on its own.
    let mut write = redis::pipe();
    write.cmd("SET").arg("key").arg("value").ignore().cmd("WAIT").arg(1).arg(0);
    let mut connection = connect(&cluster, primary).await.unwrap();
    assert_eq!(write.query_async::<[u64; 1]>(&mut connection).await.unwrap(), [1]);
    let replica = cluster.replica_of(primary).await.unwrap();
    assert_eq!(replica, primary + 3);
    assert!(!cluster.is_primary(replica).await);

    cluster.kill(primary).await.unwrap();
    assert_eq!(cluster.pid(primary), None);
    assert_eq!(cluster.primary_of(slot).await.unwrap(), replica);
    cluster.agreed().await.unwrap();
    assert_eq!(run::<String>(&cluster, replica, "GET key").await, "value");

    cluster.launch(primary).await.unwrap();
    cluster.agreed().await.unwrap();
    assert!(!cluster.is_primary(primary).await);
    assert_eq!(cluster.replica_of(replica).await, Some(primary));
    assert_eq!(cluster.fail_over(replica).await.unwrap(), primary);
    assert_eq!(cluster.primary_of(slot).await.unwrap(), primary);
    assert_eq!(run::<String>(&cluster, primary, "GET key").await, "value");
}

#[tokio::test]
async fn a_primary_that_was_frozen_finds_when_it_goes_on_that_a_replica_has_its_place() {
    let cluster = TestCluster::start_with_replicas(3, 1).await.unwrap();
    cluster.freeze(1).unwrap();
    assert!(is_alive(cluster.pid(1).unwrap()));
    cluster.agreed().await.unwrap();
    assert_eq!(cluster.primary_of(8000).await.unwrap(), 4);
    cluster.thaw(1).unwrap();
    cluster.agreed().await.unwrap();
    assert_eq!(cluster.primary_of(8000).await.unwrap(), 4);
    assert_eq!(cluster.replica_of(4).await, Some(1));
}

#[tokio::test]
async fn a_node_that_was_killed_comes_back_with_what_it_had() {
    let cluster = TestCluster::start(1).await.unwrap();
    run::<()>(&cluster, 0, "SET key value").await;
    let pid = cluster.pid(0);
    cluster.kill(0).await.unwrap();
    cluster.launch(0).await.unwrap();
    cluster.agreed().await.unwrap();
    assert_ne!(cluster.pid(0), pid);
    assert_eq!(run::<String>(&cluster, 0, "GET key").await, "value");
}

#[tokio::test]
async fn a_slot_moves_with_its_keys_and_can_be_held_half_way() {
    let cluster = TestCluster::start_with_replicas(2, 1).await.unwrap();
    let slot = slot(&cluster, "{tag}").await;
    let from = cluster.primary_of(slot).await.unwrap();
    let to = 1 - from;
    for n in 0..250 {
        run::<()>(&cluster, from, &format!("SET {{tag}}:{n} {n}")).await;
    }
    let size = async |node| run::<u64>(&cluster, node, "DBSIZE").await;
    let half: SlotMove<'_> = cluster.begin_move(slot, to).await.unwrap();
    assert_eq!(half.keys(7).await.unwrap(), 7);
    assert_eq!((size(from).await, size(to).await), (243, 7));
    assert_eq!(cluster.primary_of(slot).await.unwrap(), from);
    let there = format!("{slot} 127.0.0.1:{}", cluster.port(to));
    assert_eq!(sent_on(&cluster, from, "GET {tag}:none").await, format!("ASK {there}"));
    half.end().await.unwrap();
    assert_eq!((size(from).await, size(to).await), (0, 250));
    assert_eq!(cluster.primary_of(slot).await.unwrap(), to);
    assert_eq!(sent_on(&cluster, from, "GET {tag}:none").await, format!("MOVED {there}"));
    assert_eq!(run::<u64>(&cluster, to, "GET {tag}:249").await, 249);

    cluster.move_slot(slot, to).await.unwrap(); // It is there.
    cluster.move_slot(slot, from).await.unwrap();
    assert_eq!((size(from).await, size(to).await), (250, 0));
    let refused = cluster.begin_move(slot, from).await;
    assert!(matches!(refused, Err(Error::Server { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_cluster_of_no_primaries_or_of_too_many_nodes_is_refused() {
    for (primaries, replicas) in [(0, 0), (17, 0), (1, 3)] {
        let refused = TestCluster::start_with_replicas(primaries, replicas).await;
        assert!(matches!(refused, Err(Error::Invalid(Invalid::OutOfRange { .. }))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_program_that_makes_no_cluster_is_an_error_with_the_end_of_its_log_and_leaves_nothing() {
    if let Some(temporary) = other_process() {
        let error = TestCluster::start(2).await.unwrap_err();
        let Error::NotStarted { dir, cause } = &error else { panic!("{error:?}") };
        assert!(dir.starts_with(temporary.canonicalize().unwrap()));
        assert!(cause.to_string().contains("no-such-server"), "{cause}");
        until("nothing is left", || async { fs::read_dir(&temporary).unwrap().count() == 0 }).await;
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let test = "cluster_server::a_program_that_makes_no_cluster_is_an_error_with_the_end_of_its_log_and_leaves_nothing";
    let mut other = another_process(test, dir.path());
    let other = other.env("TMPDIR", dir.path()).env("FAIRLANE_SERVER", "/no-such-server");
    assert!(other.status().unwrap().success());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}
