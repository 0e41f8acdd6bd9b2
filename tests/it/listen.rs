use std::{
    future::poll_fn,
    pin::Pin,
    task::Poll,
    time::{Duration, Instant},
};

use fairlane::{Broker, Error, Heard, Invalid, Listener, Missed};
use futures_util::{FutureExt, Stream};
use serde_json::Value;

use crate::support::{Proxy, Server, Space, deliver, free_port, message, run, until};

const SECOND: Duration = Duration::from_secs(1);

async fn heard(listener: &mut Listener) -> Heard<Value> {
    tokio::time::timeout(10 * SECOND, listener.next()).await.unwrap().unwrap().unwrap()
}

async fn missed(listener: &mut Listener) -> Missed {
    tokio::time::timeout(10 * SECOND, listener.next()).await.unwrap().unwrap().unwrap_err()
}

/// The patterns that the server has.
async fn patterns(server: &Server) -> u64 {
    server.run(&["PUBSUB", "NUMPAT"]).await
}

async fn alone() -> (Server, Broker) {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    (server, broker)
}

#[tokio::test]
async fn a_listener_hears_what_matching_topics_carry_from_then_on() {
    let space = Space::new().await;
    space.broker.deliver(&message("a", "page:1", 0)).await.unwrap();
    space.may_hear(&["page:*"]).await;
    let mut pages = space.broker.listen("page:*").await.unwrap();
    let receipt = space.broker.deliver(&message("a", "page:1", 1)).await.unwrap();
    assert_eq!(receipt.listeners, 1);
    space.broker.deliver(&message("a", "mail:1", 2)).await.unwrap();
    let batch = [message("b", "page:2", 3), message("b", "page:", 4)];
    space.broker.deliver_all(&batch).await.unwrap();
    for (topic, n) in [("page:1", 1), ("page:2", 3), ("page:", 4)] {
        let Heard { topic: of, message, .. } = heard(&mut pages).await;
        assert_eq!((of.as_str(), &message["n"]), (topic, &n.into()));
    }
    assert!(pages.next().now_or_never().is_none());
    space.end().await;
}

#[tokio::test]
async fn a_listener_takes_nothing_from_the_queues() {
    let (space, queue) = Space::with_queue().await;
    let mut all = space.broker.listen("*").await.unwrap();
    deliver(&space.broker, "a", 2).await;
    assert_eq!(heard(&mut all).await.message["n"], 0);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 2);
    space.end().await;
}

#[tokio::test]
async fn globs_are_those_of_redis() {
    let space = Space::new().await;
    let cases = [
        ("page:?", "page:1", true),
        ("page:?", "page:12", false),
        ("page:[a-c]", "page:b", true),
        ("page:[^a-c]", "page:b", false),
        (r"page:\*", "page:*", true),
        (r"page:\*", "page:1", false),
        ("page", "page:1", false),
        ("*google*", "page:google:1", true),
    ];
    for (glob, topic, matches) in cases {
        let exactly = topic.replace('*', r"\*");
        space.may_hear(&[glob, &exactly]).await;
        let mut listener = space.broker.listen(glob).await.unwrap();
        space.broker.deliver(&message("a", topic, 1)).await.unwrap();
        let mut all = space.broker.listen(exactly).await.unwrap();
        space.broker.deliver(&message("a", topic, 2)).await.unwrap();
        assert_eq!(heard(&mut all).await.message["n"], 2);
        let first = listener.next().now_or_never();
        assert_eq!(first.is_some(), matches, "{glob} {topic}");
    }
    space.end().await;
}

#[tokio::test]
async fn one_who_comes_to_a_glob_hears_nothing_that_was_published_before() {
    let space = Space::new().await;
    space.may_hear(&["t"]).await;
    let mut first = space.broker.listen("t").await.unwrap();
    let mut late = message("a", "t", 0);
    late["fill"] = "x".repeat(300_000).into(); // So that it is still on its way.
    for n in 0..50 {
        late["n"] = n.into();
        space.broker.deliver(&late).await.unwrap();
        let mut second = space.broker.listen("t").await.unwrap();
        space.broker.deliver(&message("a", "t", 1000 + n)).await.unwrap();
        assert_eq!(heard(&mut second).await.message["n"], 1000 + n);
        assert_eq!(heard(&mut first).await.message["n"], n);
        assert_eq!(heard(&mut first).await.message["n"], 1000 + n);
    }
    space.end().await;
}

#[tokio::test]
async fn a_listener_hears_its_own_namespace_alone() {
    let (space, other) = (Space::new().await, Space::new().await);
    let mut listener = space.broker.listen("*").await.unwrap();
    other.broker.deliver(&message("a", "t", 1)).await.unwrap();
    space.broker.deliver(&message("a", "t", 2)).await.unwrap();
    let heard = heard(&mut listener).await;
    assert_eq!((heard.topic.as_str(), &heard.message["n"]), ("t", &2.into()));
    space.end().await;
    other.end().await;
}

#[tokio::test]
async fn an_empty_or_over_long_glob_is_refused() {
    let space = Space::new().await;
    let refused = space.broker.listen("").await.err();
    assert!(matches!(refused, Some(Error::Invalid(Invalid::Empty { what: "glob" }))));
    let refused = space.broker.listen("x".repeat(513)).await.err();
    assert!(matches!(refused, Some(Error::Invalid(Invalid::TooLong { most: 512, .. }))));
    let longest = "x".repeat(512);
    space.may_hear(&[&longest]).await;
    space.broker.listen(longest).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn all_listeners_of_a_broker_share_a_connection_that_is_there_while_they_are() {
    let (server, broker) = alone().await;
    let clients = async || {
        let clients: String = server.run(&["CLIENT", "LIST"]).await;
        clients.lines().count()
    };
    assert_eq!(clients().await, 2);
    let mut listeners = Vec::new();
    for n in 0..30 {
        listeners.push(broker.clone().listen(format!("t{}*", n % 10)).await.unwrap());
    }
    assert_eq!((clients().await, patterns(&server).await), (3, 10));
    listeners.truncate(5);
    until("others are unsubscribed", || async { patterns(&server).await == 5 }).await;
    drop(listeners);
    until("the connection is closed", || async { clients().await == 2 }).await;
    broker.listen("t").await.unwrap();
}

#[tokio::test]
async fn of_two_with_the_same_glob_one_is_dropped_and_the_other_still_hears() {
    let (server, broker) = alone().await;
    let (first, mut second) =
        (broker.listen("*").await.unwrap(), broker.listen("*").await.unwrap());
    drop(first);
    let receipt = broker.deliver(&message("a", "t", 1)).await.unwrap();
    assert_eq!(receipt.listeners, 1, "those of a broker with the same glob count as one");
    assert_eq!(heard(&mut second).await.message["n"], 1);
    assert_eq!(patterns(&server).await, 1);
}

#[tokio::test]
async fn after_a_restart_of_redis_a_listener_subscribes_again_and_says_that_there_was_a_gap() {
    let (mut server, broker) = alone().await;
    let mut first = broker.listen("*").await.unwrap();
    let mut second = broker.listen("t*").await.unwrap();
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    broker.deliver(&message("a", "x", 2)).await.unwrap();
    // What was on its way when it broke would be missed.
    assert_eq!(heard(&mut first).await.message["n"], 1);
    assert_eq!(heard(&mut first).await.message["n"], 2);
    server.kill();
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.launch();
    server.ready().await;
    until("they are back", || async { patterns(&server).await == 2 }).await;
    broker.deliver(&message("a", "t", 3)).await.unwrap();
    assert!(matches!(missed(&mut first).await, Missed::Gap));
    assert_eq!(heard(&mut first).await.message["n"], 3);
    assert_eq!(heard(&mut second).await.message["n"], 1);
    assert!(matches!(missed(&mut second).await, Missed::Gap));
    assert_eq!(heard(&mut second).await.message["n"], 3);
    // One that comes after that has missed nothing.
    let mut third = broker.listen("t").await.unwrap();
    broker.deliver(&message("a", "t", 4)).await.unwrap();
    assert_eq!(heard(&mut third).await.message["n"], 4);
}

#[tokio::test]
async fn a_listening_connection_that_falls_silent_is_made_anew() {
    let (server, _) = alone().await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().deadline(SECOND / 2).connect().await.unwrap();
    let mut listener = broker.listen("*").await.unwrap();
    proxy.silence();
    let from = Instant::now();
    assert!(matches!(missed(&mut listener).await, Missed::Gap));
    assert!(from.elapsed() < 8 * SECOND);
    until("it hears again", || async {
        let delivered = broker.deliver(&message("a", "t", 1)).await;
        delivered.is_ok_and(|receipt| receipt.listeners > 0)
    })
    .await;
    assert_eq!(heard(&mut listener).await.message["n"], 1);
}

#[tokio::test]
async fn whoever_was_told_of_a_gap_hears_what_is_delivered_from_then_on() {
    let (server, direct) = alone().await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().connect().await.unwrap();
    let mut listeners = Vec::new();
    for n in 0..8 {
        listeners.push(broker.listen(format!("t{n}*")).await.unwrap());
    }
    for _ in 0..3 {
        proxy.delay(SECOND / 10);
        server.run::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        for (n, listener) in listeners.iter_mut().enumerate() {
            assert!(matches!(missed(listener).await, Missed::Gap));
            let receipt = direct.deliver(&message("a", &format!("t{n}"), n as u64)).await.unwrap();
            assert_eq!(receipt.listeners, 1);
            assert_eq!(heard(listener).await.message["n"], n);
        }
        proxy.delay(Duration::ZERO);
    }
}

#[tokio::test]
async fn a_listener_that_redis_refuses_after_a_reconnect_is_told_and_tried_again() {
    let (server, direct) = alone().await;
    server.run::<()>(&["ACL", "SETUSER", "shop", "on", ">secret", "~*", "+@all", "&*"]).await;
    let url = format!("{}?user=shop&pass=secret", server.url());
    let broker: Broker = Broker::builder().redis(&url).connect().await.unwrap();
    let mut listener = broker.listen("*").await.unwrap();
    server.run::<()>(&["ACL", "SETUSER", "shop", "resetchannels"]).await;
    server.run::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let Missed::Refused(error) = missed(&mut listener).await else { panic!() };
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    server.run::<()>(&["ACL", "SETUSER", "shop", "allchannels"]).await;
    assert!(
        matches!(missed(&mut listener).await, Missed::Gap),
        "told once, and then that it works"
    );
    direct.deliver(&message("a", "t", 1)).await.unwrap();
    assert_eq!(heard(&mut listener).await.message["n"], 1);

    server.run::<()>(&["ACL", "SETUSER", "shop", "off"]).await;
    server.run::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let Missed::Refused(error) = missed(&mut listener).await else { panic!() };
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    server.run::<()>(&["ACL", "SETUSER", "shop", "on"]).await;
    assert!(matches!(missed(&mut listener).await, Missed::Gap));
}

#[tokio::test]
async fn a_connection_that_breaks_again_and_again_is_made_anew_with_pauses() {
    let (server, broker) = alone().await;
    let _listener = broker.listen("*").await.unwrap();
    let connections = async || server.info("total_connections_received").await;
    let mut raw = server.client().get_multiplexed_async_connection().await.unwrap();
    let (from, before) = (Instant::now(), connections().await);
    while from.elapsed() < 2 * SECOND {
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("pubsub").exec_async(&mut raw).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let made = connections().await - before;
    assert!((3..25).contains(&made), "{made}");
}

#[tokio::test]
async fn a_slow_listener_is_told_how_many_of_the_oldest_fell_off() {
    let space = Space::new().await;
    space.may_hear(&["end"]).await;
    let mut slow = space.broker.listen("*").await.unwrap();
    let mut quick = space.broker.listen("end").await.unwrap();
    deliver(&space.broker, "a", 3000).await;
    space.broker.deliver(&message("a", "end", 3000)).await.unwrap();
    heard(&mut quick).await;
    let Missed::Lagged(n) = missed(&mut slow).await else { panic!() };
    assert_eq!(n, 3001 - 1024);
    for expected in n..=3000 {
        assert_eq!(heard(&mut slow).await.message["n"], expected);
    }
    assert!(slow.next().now_or_never().is_none());
    space.end().await;
}

#[tokio::test]
async fn a_slow_listener_holds_a_bounded_number_of_bytes() {
    let space = Space::new().await;
    space.may_hear(&["end"]).await;
    let mut slow = space.broker.listen("*").await.unwrap();
    let mut quick = space.broker.listen("end").await.unwrap();
    let mut large = message("a", "t", 0);
    large["text"] = "x".repeat(1_000_000).into();
    for _ in 0..20 {
        space.broker.deliver(&large).await.unwrap();
    }
    space.broker.deliver(&message("a", "end", 0)).await.unwrap();
    heard(&mut quick).await;
    let Missed::Lagged(n) = missed(&mut slow).await else { panic!() };
    assert_eq!(n, 4);
    space.end().await;
}

#[tokio::test]
async fn what_does_not_decode_is_told_with_its_body_and_the_listener_goes_on() {
    let space = Space::new().await;
    let mut listener = space.broker.with_type::<String>().listen("*").await.unwrap();
    space.broker.deliver(&message("a", "odd", 1)).await.unwrap();
    run::<()>(&["PUBLISH", &format!("{}:plain", space.name), "not JSON"]).await;
    run::<()>(&["PUBLISH", &format!("{}:text", space.name), "\"text\""]).await;
    for topic in ["odd", "plain"] {
        let Some(Err(Missed::Undecodable(told))) = listener.next().await else { panic!() };
        assert_eq!((told.id, told.topic.as_str()), (None, topic));
        assert_eq!(
            told.to_string(),
            format!("a message on `{topic}` is not what this broker decodes")
        );
    }
    assert_eq!(listener.next().await.unwrap().unwrap().message, "text");
    space.end().await;
}

#[tokio::test]
async fn who_may_not_listen_is_told_so() {
    let (server, _) = alone().await;
    let rule =
        ["ACL", "SETUSER", "shop", "on", ">secret", "~*", "+@all", "resetchannels", "&shop:*"];
    server.run::<()>(&rule).await;
    let url = format!("{}?user=shop&pass=secret", server.url());
    let outside: Broker = Broker::builder().redis(&url).connect().await.unwrap();
    assert!(matches!(outside.listen("*").await, Err(Error::Denied(_))));
    assert!(matches!(outside.listen("*").await, Err(Error::Denied(_))), "and again");
    let inside: Broker = Broker::builder().redis(&url).namespace("shop").connect().await.unwrap();
    let mut listener = inside.listen("*").await.unwrap();
    inside.deliver(&message("a", "t", 1)).await.unwrap();
    assert_eq!(heard(&mut listener).await.message["n"], 1);
}

#[tokio::test]
async fn to_listen_while_redis_is_away_is_not_sent_after_the_deadline() {
    let mut server = Server::start(&[]).await;
    let broker = server.builder().deadline(SECOND / 5).connect().await.unwrap();
    server.kill();
    let from = Instant::now();
    assert!(matches!(broker.listen("*").await, Err(Error::NotSent(_))));
    assert!(from.elapsed() < 2 * SECOND);
    server.launch();
    until("it can listen", || async { broker.listen("*").await.is_ok() }).await;
    let nowhere: Result<Broker, _> = Broker::builder()
        .redis(format!("redis://127.0.0.1:{}", free_port()))
        .deadline(SECOND / 5)
        .connect()
        .await;
    assert!(nowhere.is_err());
}

#[tokio::test]
async fn a_listener_outlives_the_last_handle_of_its_broker() {
    let space = Space::new().await;
    let broker = space.another().await;
    let mut listener = broker.listen("*").await.unwrap();
    drop(broker);
    space.broker.deliver(&message("a", "t", 1)).await.unwrap();
    assert_eq!(heard(&mut listener).await.message["n"], 1);
    space.end().await;
}

#[tokio::test]
async fn a_listener_goes_on_when_the_runtime_in_which_it_was_made_has_ended() {
    let space = Space::new().await;
    let broker = space.broker.clone();
    let listening = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(broker.listen("*")).unwrap()
    });
    let mut listener = tokio::task::spawn_blocking(|| listening.join().unwrap()).await.unwrap();
    assert!(matches!(missed(&mut listener).await, Missed::Gap));
    until("it is heard", || async {
        space.broker.deliver(&message("a", "t", 1)).await.is_ok_and(|receipt| receipt.listeners > 0)
    })
    .await;
    assert_eq!(heard(&mut listener).await.message["n"], 1);
    space.end().await;
}

/// The task that has the connection ends with its runtime, also while another one counts on it.
#[tokio::test]
async fn who_begins_to_listen_while_the_runtime_of_the_others_ends_hears() {
    let (_server, broker) = alone().await;
    let (other, (stop, stopped)) = (broker.clone(), std::sync::mpsc::channel::<()>());
    let (listening, listens) = tokio::sync::oneshot::channel();
    let ending = std::thread::spawn(move || {
        // Nothing of it runs outside of this call.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _listener = runtime.block_on(other.listen("other")).unwrap();
        listening.send(()).unwrap();
        stopped.recv().unwrap();
    });
    listens.await.unwrap();
    let begins = broker.clone();
    let beginning = tokio::spawn(async move { begins.listen("*").await });
    tokio::time::sleep(SECOND / 5).await;
    assert!(!beginning.is_finished(), "nobody confirms it yet");
    stop.send(()).unwrap();
    let mut listener = beginning.await.unwrap().unwrap();
    ending.join().unwrap();
    deliver(&broker, "a", 1).await;
    assert_eq!(heard(&mut listener).await.message["n"], 0);
}

#[tokio::test]
async fn a_listener_is_a_stream_that_wakes_its_task() {
    let space = Space::new().await;
    let mut listener = space.broker.listen("*").await.unwrap();
    let broker = space.broker.clone();
    tokio::spawn(async move {
        tokio::time::sleep(SECOND / 20).await;
        broker.deliver(&message("a", "t", 1)).await.unwrap();
    });
    let mut polls = 0;
    let next = poll_fn(|context| {
        polls += 1;
        match Pin::new(&mut listener).poll_next(context) {
            Poll::Ready(heard) => Poll::Ready(heard),
            Poll::Pending => Poll::Pending,
        }
    });
    assert!(next.await.unwrap().is_ok());
    assert!((2..=3).contains(&polls), "{polls}");
    space.end().await;
}
