//! Health: whether Redis answers, and how the connections are.

use std::time::Duration;

use fairlane::{Error, ErrorKind};

use crate::support::{Log, Server, Space, another_process, message, other_process, until};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn the_health_of_a_broker_says_whether_each_partition_answers() {
    let mut server = Server::start(&["--appendonly", "yes"]).await;
    let broker = server.builder().partitions(3).deadline(SECOND / 2).connect().await.unwrap();
    let health = broker.health().await;
    assert!(health.is_good());
    assert_eq!(health.partitions.len(), 3);
    for (place, partition) in health.partitions.iter().enumerate() {
        assert_eq!((partition.partition, partition.connections), (place as u32, 1));
        assert!(partition.answer.as_ref().is_ok_and(|took| *took < SECOND / 2));
        assert!(partition.answered.is_some() && partition.error.is_none());
        assert!(partition.address.ends_with("redis.sock"), "{}", partition.address);
    }
    server.kill();
    let health = broker.health().await;
    assert!(!health.is_good());
    for partition in &health.partitions {
        let error = partition.answer.as_ref().err().unwrap();
        assert!(matches!(error.kind(), ErrorKind::NotSent | ErrorKind::MaybeApplied), "{error:?}");
        assert!(partition.error.is_some());
    }
    server.launch();
    server.ready().await;
    until("all is well again", || async { broker.health().await.is_good() }).await;
    let health = broker.health().await;
    assert!(health.partitions.iter().all(|one| one.connections == 2 && one.error.is_none()));
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_not_healthy() {
    let server = Server::start(&[]).await;
    let broker = server.builder().deadline(SECOND / 2).connect().await.unwrap();
    server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let health = broker.health().await;
    assert!(matches!(health.partitions[0].answer, Err(Error::NotSent(_))), "{health:?}");
}

#[tokio::test]
async fn a_server_that_may_lose_messages_is_a_warning() {
    if other_process().is_none() {
        // In a process of its own: a subscriber is for all that a process does.
        let test = "health::a_server_that_may_lose_messages_is_a_warning";
        let status = another_process(test, &std::env::temp_dir()).status();
        assert!(status.unwrap().success());
        return;
    }
    let warnings = |args: &'static [&'static str]| async move {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || writer.clone())
            .finish();
        let server = Server::start(args).await;
        let _here = tracing::subscriber::set_default(subscriber);
        server.builder().connect().await.unwrap();
        log.text()
    };
    let text = warnings(&["--maxmemory-policy", "allkeys-lru"]).await;
    assert!(text.contains("maxmemory-policy") && text.contains("appendonly"), "{text}");
    assert_eq!(warnings(&["--appendonly", "yes"]).await, "");
}

#[tokio::test]
async fn each_error_says_what_became_of_the_call() {
    let space = Space::new().await;
    let unknown = space.broker.queue("q").pull().await.err().unwrap();
    assert_eq!(unknown.kind(), ErrorKind::Refused);
    let invalid = space.broker.register_queue("a b", ".").await.err().unwrap();
    assert_eq!(invalid.kind(), ErrorKind::Refused);
    let numbers = space.broker.with_type::<u64>();
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    space.broker.deliver(&message("a", "t", 1)).await.unwrap();
    let pulled = numbers.queue("q").pull().await.err().unwrap();
    assert_eq!(pulled.kind(), ErrorKind::Applied, "what does not decode is off the queue");
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}
