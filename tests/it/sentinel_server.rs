//! The sentinels that the tests have: that they do what sentinels do, and leave nothing.

use std::{fs, path::Path, time::Duration};

use redis::AsyncConnectionConfig;

use crate::support::{Sentinels, another_process, other_process, until};

async fn connect(port: u16) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(("127.0.0.1", port)).unwrap();
    let patient = AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
}

async fn run<T: redis::FromRedisValue>(port: u16, command: &[&str]) -> T {
    let mut connection = connect(port).await;
    redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap()
}

#[tokio::test]
async fn a_primary_that_was_killed_is_followed_by_a_replica_that_has_what_it_had() {
    let mut sentinels = Sentinels::start(2).await;
    let list = sentinels.addresses().join(",");
    assert_eq!(sentinels.url(), format!("redis-sentinel://{list}/mymaster"));
    assert_eq!(list.split(',').count(), 3);
    let first = sentinels.primary().await;
    // On one connection: WAIT waits for what was written on its own.
    let mut write = redis::pipe();
    write.cmd("SET").arg("key").arg("value").ignore().cmd("WAIT").arg(2).arg(0);
    assert_eq!(write.query_async::<[u64; 1]>(&mut connect(first).await).await.unwrap(), [2]);

    assert_eq!(sentinels.kill_primary().await, first);
    assert!(redis::Client::open(("127.0.0.1", first)).unwrap().get_connection().is_err());
    until("the sentinels name another primary", || async { sentinels.primary().await != first })
        .await;
    let second = sentinels.primary().await;
    let role: (String, redis::Value, redis::Value) = run(second, &["ROLE"]).await;
    assert_eq!(role.0, "master");
    assert_eq!(run::<String>(second, &["GET", "key"]).await, "value");
    // The other replica follows it.
    until("it has a replica", || async {
        run::<String>(second, &["INFO", "replication"]).await.contains("connected_slaves:1")
    })
    .await;
}

#[tokio::test]
async fn sentinels_and_their_servers_end_with_the_process_that_was_killed() {
    if let Some(told) = other_process() {
        let sentinels = Sentinels::start(1).await;
        let mut ports = vec![sentinels.primary().await.to_string()];
        ports.extend(sentinels.addresses());
        fs::write(told.join("half"), ports.join(" ")).unwrap();
        fs::rename(told.join("half"), told.join("started")).unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        unreachable!("nobody killed it");
    }
    let (tell, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let test = "sentinel_server::sentinels_and_their_servers_end_with_the_process_that_was_killed";
    let mut other = another_process(test, tell.path());
    let mut other = other.env("TMPDIR", temporary.path()).spawn().unwrap();
    let started = tell.path().join("started");
    until("the other process has started them", || async { started.exists() }).await;
    let ports = fs::read_to_string(started).unwrap();
    let ports = ports.split([' ', ':']).filter_map(|port| port.parse::<u16>().ok());
    let ports: Vec<_> = ports.collect();
    let listen = |port: &u16| std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok();
    assert_eq!(ports.iter().filter(|port| listen(port)).count(), 4);
    other.kill().unwrap(); // with SIGKILL
    other.wait().unwrap();
    until("none listens any more", || async { !ports.iter().any(listen) }).await;
    let is_empty = |dir: &Path| fs::read_dir(dir).unwrap().count() == 0;
    until("nothing is left", || async { is_empty(temporary.path()) }).await;
}
