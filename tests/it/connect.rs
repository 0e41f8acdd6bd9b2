use std::time::{Duration, Instant};

use fairlane::{Broker, Error, Invalid};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Server, Space, free_port, message, run};

#[tokio::test]
async fn user_password_and_database_come_from_the_url() {
    let port = free_port();
    let server = Server::start(&["--port", &port.to_string(), "--bind", "127.0.0.1"]).await;
    server.run::<()>(&["ACL", "SETUSER", "fair", "on", ">s3cr&t", "~*", "&*", "+@all"]).await;
    let url = format!("redis://fair:s3cr%26t@127.0.0.1:{port}/3");
    let broker = <Broker>::builder().redis(&url).connect().await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    let info: String = server.run(&["INFO", "keyspace"]).await;
    assert!(info.contains("db3:") && !info.contains("db0:"), "{info}");
    let by_socket = format!("{}?db=3&user=fair&pass=s3cr%26t", server.url());
    let broker = <Broker>::builder().redis(by_socket).connect().await.unwrap();
    assert!(broker.queue("q").pull().await.unwrap().is_some());
}

#[tokio::test]
async fn a_wrong_password_is_denied_at_once_and_told_to_nobody() {
    let server = Server::start(&[]).await;
    server.run::<()>(&["ACL", "SETUSER", "fair", "on", ">right", "~*", "&*", "+@all"]).await;
    let before = Instant::now();
    let refused =
        server.builder().redis(format!("{}?user=fair&pass=hunter2", server.url())).connect().await;
    let error = refused.err().unwrap();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    assert!(before.elapsed() < Duration::from_secs(2));
    assert!(!format!("{error:?} {error}").contains("hunter2"));
    server.run::<()>(&["ACL", "SETUSER", "default", "off"]).await;
    assert!(matches!(server.builder().connect().await, Err(Error::Denied(_))));
}

#[tokio::test]
async fn what_the_user_may_not_do_is_denied_and_nothing_is_written() {
    let server = Server::start(&[]).await;
    let allow = ["ACL", "SETUSER", "fair", "on", "nopass", "~*", "resetchannels", "+@all"];
    server.run::<()>(&allow).await;
    let broker = server
        .builder()
        .redis(format!("{}?user=fair&pass=x", server.url()))
        .connect()
        .await
        .unwrap();
    broker.register_queue("q", ".").await.unwrap();
    // It may write, but not publish.
    let refused = broker.deliver(&message("a", "t", 1)).await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    assert!(broker.queue("q").pull().await.unwrap().is_none());
}

#[tokio::test]
async fn no_redis_is_an_error_within_the_deadline() {
    let url = format!("redis://127.0.0.1:{}", free_port());
    let before = Instant::now();
    let refused =
        <Broker>::builder().redis(url).deadline(Duration::from_millis(300)).connect().await;
    assert!(matches!(refused, Err(Error::NotSent(_))), "{refused:?}");
    assert!((Duration::from_millis(100)..Duration::from_secs(2)).contains(&before.elapsed()));
}

#[tokio::test]
async fn a_server_that_never_answers_is_an_error_within_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let before = Instant::now();
    let refused =
        <Broker>::builder().redis(url).deadline(Duration::from_millis(300)).connect().await;
    assert!(matches!(refused, Err(Error::NotSent(_))), "{refused:?}");
    assert!(before.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_server_before_7_0_is_not_supported() {
    // No such server can be had here: one that says what it would say.
    let old = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", old.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = old.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    let commands = buffer
                        .windows(5)
                        .filter(|word| *word == b"HELLO" || *word == b"SETIN")
                        .count();
                    for _ in 0..commands {
                        let hello = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n6.2.14\r\n";
                        stream.write_all(hello).await.unwrap();
                    }
                    buffer.fill(0);
                }
            });
        }
    });
    match <Broker>::builder().redis(url).connect().await {
        Err(Error::Unsupported { found, needed }) => {
            assert_eq!(found, "Redis 6.2.14");
            assert!(needed.contains("7.0"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_layout_newer_than_the_client_is_refused_and_left_alone() {
    let space = Space::new().await;
    run::<()>(&["SET", &space.key("layout"), "2"]).await;
    let refused = space.builder().connect().await;
    match refused {
        Err(Error::Unsupported { found, needed }) => {
            assert!(found.contains('2') && needed.contains("update fairlane"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(run::<String>(&["GET", &space.key("layout")]).await, "2");
    space.end().await;
}

#[tokio::test]
async fn settings_out_of_their_range_are_refused_before_a_connection_is_made() {
    let nowhere = || <Broker>::builder().redis("redis://192.0.2.1");
    let refused = [
        nowhere().namespace("a:b").connect().await,
        nowhere().namespace("").connect().await,
        nowhere().max_body(0).connect().await,
        nowhere().max_body((256 << 20) + 1).connect().await,
        nowhere().deadline(Duration::ZERO).connect().await,
        nowhere().deadline(Duration::from_secs(3601)).connect().await,
        nowhere().redis("http://127.0.0.1").connect().await,
        nowhere().redis("redis://127.0.0.1/seven").connect().await,
        nowhere().redis("").connect().await,
    ];
    for result in refused {
        assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    }
}

#[tokio::test]
async fn an_url_that_cannot_be_used_is_not_repeated_in_the_error() {
    let refused = <Broker>::builder().redis("redis://:hunter2@127.0.0.1/seven").connect().await;
    let error = refused.err().unwrap();
    assert!(matches!(error, Error::Invalid(Invalid::Url { .. })));
    assert!(!format!("{error:?} {error}").contains("hunter2"));
}
