//! What goes wrong around the library: scripts flushed, Redis restarted, full, slow, or meddled
//! with.

use std::time::{Duration, Instant};

use fairlane::{Broker, Error, Message, Queue, Token};
use serde_json::Value;

use crate::support::{self, Log, Proxy, Server, Space, deliver, free_port, message, run};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn every_verb_survives_that_all_scripts_are_flushed() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let flush = async || server.run::<()>(&["SCRIPT", "FLUSH"]).await;
    flush().await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    flush().await;
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    flush().await;
    let batch: Vec<_> = (0..2500).map(|n| message("a", "t", n)).collect();
    assert_eq!(broker.deliver_all(&batch).await.unwrap().len(), 2500);
    flush().await;
    queue.facet("a").set_weight(2.0).await.unwrap();
    flush().await;
    assert!(queue.pull().await.unwrap().is_some());
    flush().await;
    assert_eq!(queue.pull_many(600).await.unwrap().len(), 600);
    flush().await;
    let leased = queue.lease_many(1000).await.unwrap();
    flush().await;
    leased[0].extend(SECOND).await.unwrap();
    flush().await;
    assert!(broker.ack_all(leased).await.unwrap().is_empty());
    let one = queue.lease().await.unwrap().unwrap();
    flush().await;
    one.nack().await.unwrap();
    flush().await;
    assert_eq!(broker.queues().await.unwrap().len(), 1);
    flush().await;
    assert!(broker.unregister_queue("q").await.unwrap());
}

#[tokio::test]
async fn many_calls_at_once_survive_that_all_scripts_are_flushed() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..200 {
        let broker = broker.clone();
        calls.spawn(async move { broker.deliver(&message("a", "t", n)).await.map(drop) });
        if n % 20 == 0 {
            server.run::<()>(&["SCRIPT", "FLUSH"]).await;
        }
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap().unwrap();
    }
    assert_eq!(queue.pull_many(999).await.unwrap().len(), 200, "each once");
}

#[tokio::test]
async fn a_broker_comes_back_by_itself_after_a_restart_of_redis() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 3).await;
    let leased = queue.lease().await.unwrap().unwrap();
    server.restart().await;
    // It has seen that the connection is gone, so even what may not be sent twice is sent on a new
    // one.
    broker.deliver(&message("a", "t", 3)).await.unwrap();
    leased.ack().await.unwrap();
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_call_waits_for_redis_to_come_back_as_long_as_its_deadline_lasts() {
    let mut server = Server::start(&["--appendonly", "yes"]).await;
    let broker = server.builder().deadline(10 * SECOND).connect().await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    server.kill();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let waiting = tokio::spawn({
        let broker = broker.clone();
        async move { broker.deliver(&message("a", "t", 1)).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.launch();
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn while_redis_is_away_nothing_is_sent_and_the_error_says_so() {
    let mut server = Server::start(&[]).await;
    let broker = server.builder().deadline(Duration::from_millis(200)).connect().await.unwrap();
    server.kill();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = Instant::now();
    let error = broker.deliver(&message("a", "t", 1)).await.err().unwrap();
    assert!(matches!(error, Error::NotSent(_)), "{error:?}");
    assert!(before.elapsed() < SECOND);
}

#[tokio::test]
async fn a_call_that_breaks_off_after_it_was_sent_may_have_been_carried_out() {
    let mut server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    server.run::<()>(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    let call = tokio::spawn({
        let broker = broker.clone();
        async move { broker.deliver(&message("a", "t", 1)).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.kill();
    let error = call.await.unwrap().err().unwrap();
    assert!(matches!(error, Error::MaybeApplied(_)), "{error:?}");
}

/// A server, a way to it that can fail, a broker on that way, and a queue `q` that takes everything.
async fn behind_proxy(deadline: Duration) -> (Server, Proxy, Broker, Queue) {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().deadline(deadline).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    // Each script is loaded, so that it is called once a call.
    deliver(&broker, "a", 2).await;
    queue.pull().await.unwrap().unwrap();
    let delivery = queue.lease().await.unwrap().unwrap();
    delivery.extend(SECOND).await.unwrap();
    delivery.ack().await.unwrap();
    (server, proxy, broker, queue)
}

async fn waiting(server: &Server) -> u64 {
    server.run(&["LLEN", "{fairlane}:q:q:f:a"]).await
}

#[tokio::test]
async fn a_link_that_falls_silent_costs_one_deadline_and_the_next_call_has_a_new_connection() {
    let (_server, proxy, broker, queue) = behind_proxy(Duration::from_millis(300)).await;
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    proxy.silence();
    let before = Instant::now();
    let error = queue.pull().await.err().unwrap();
    assert!(matches!(error, Error::MaybeApplied(_)), "{error:?}");
    assert!((250..900).contains(&before.elapsed().as_millis()), "{:?}", before.elapsed());
    broker.deliver(&message("a", "t", 2)).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_cut_in_the_middle_of_its_first_answer_is_made_anew() {
    let (_server, proxy, broker, _) = behind_proxy(5 * SECOND).await;
    for bytes in (60..500).step_by(40) {
        proxy.reset();
        tokio::time::sleep(SECOND / 20).await;
        proxy.cut_after(bytes);
        let body = message("a", "t", bytes);
        broker.deliver(Message::new(&body).key(bytes)).await.unwrap();
    }
}

#[tokio::test]
async fn what_must_not_happen_twice_is_not_sent_twice() {
    let (server, proxy, broker, queue) = behind_proxy(5 * SECOND).await;
    deliver(&broker, "a", 10).await;
    let maybe = |error: Error| assert!(matches!(error, Error::MaybeApplied(_)), "{error:?}");
    proxy.cut(1);
    maybe(queue.pull().await.err().unwrap());
    assert_eq!(waiting(&server).await, 9);
    proxy.cut(1);
    maybe(queue.lease().await.err().unwrap());
    assert_eq!(waiting(&server).await, 8);
    proxy.cut(1);
    maybe(broker.deliver(&message("a", "t", 10)).await.err().unwrap());
    assert_eq!(waiting(&server).await, 9);
}

#[tokio::test]
async fn a_resent_ack_that_finds_no_lease_may_have_worked_the_first_time() {
    let (server, proxy, broker, queue) = behind_proxy(5 * SECOND).await;
    deliver(&broker, "a", 3).await;
    for all in [false, true] {
        let delivery = queue.lease().await.unwrap().unwrap();
        proxy.cut(1);
        let error = match all {
            false => delivery.ack().await.err().unwrap(),
            true => broker.ack_all([delivery]).await.err().unwrap(),
        };
        assert!(matches!(error, Error::MaybeApplied(_)), "{error:?}");
        let timers = ["EXISTS", "{fairlane}:q:q:timers"];
        assert_eq!(server.run::<u64>(&timers).await, 0, "it has worked");
    }
    // An extension is the same when it is done twice.
    let delivery = queue.lease().await.unwrap().unwrap();
    proxy.cut(1);
    delivery.extend(SECOND).await.unwrap();
}

#[tokio::test]
async fn what_is_sent_again_and_refused_then_may_have_worked_the_first_time() {
    let (server, proxy, broker, _) = behind_proxy(5 * SECOND).await;
    let before = waiting(&server).await;
    let body = message("a", "t", 3);
    proxy.cut(1);
    // Full at once, behind the first of the two.
    let (error, ()) = tokio::join!(broker.deliver(fairlane::Message::new(&body).key("k")), async {
        while waiting(&server).await == before {}
        server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    });
    let error = error.err().unwrap();
    assert!(matches!(error, Error::MaybeApplied(_)), "{error:?}");
    assert_eq!(waiting(&server).await, before + 1, "it has");
}

#[tokio::test]
async fn a_pull_that_breaks_off_in_the_middle_gives_what_has_arrived() {
    let (server, proxy, broker, queue) = behind_proxy(5 * SECOND).await;
    deliver(&broker, "a", 999).await;
    proxy.cut(2);
    match queue.pull_many(999).await {
        Err(Error::PullInterrupted { pulled, source }) => {
            assert_eq!(pulled.len(), 250);
            assert_eq!((pulled[7].facet.as_str(), pulled[7].topic.as_str()), ("a", "t"));
            assert_eq!(
                serde_json::from_slice::<Value>(&pulled[7].body).unwrap(),
                message("a", "t", 7)
            );
            assert!(matches!(*source, Error::MaybeApplied(_)));
        }
        other => panic!("{:?}", other.map(|pulled| pulled.len())),
    }
    assert_eq!(waiting(&server).await, 499);
    // What is leased is safe: the parts that arrived are no error.
    proxy.cut(2);
    assert_eq!(queue.lease_many(499).await.unwrap().len(), 250);
}

#[tokio::test]
async fn a_server_that_loads_its_data_is_waited_for() {
    let (_server, proxy, broker, queue) = behind_proxy(5 * SECOND).await;
    for answer in [
        &b"-LOADING Redis is loading the dataset in memory\r\n"[..],
        b"-MASTERDOWN Link is down\r\n",
    ] {
        proxy.answer(answer);
        broker.deliver(&message("a", "t", 1)).await.unwrap();
        assert!(queue.pull().await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_call_has_one_deadline_whatever_it_takes() {
    let (server, proxy, broker, _) = behind_proxy(SECOND).await;
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    // Its routes are stale: it takes three scripts, of which each alone would be in time.
    let other = server.builder().connect().await.unwrap();
    other.register_queue("r", ".").await.unwrap();
    proxy.delay(Duration::from_millis(600));
    let before = Instant::now();
    assert!(broker.deliver(&message("a", "t", 2)).await.is_err());
    assert!(before.elapsed() < Duration::from_millis(1300), "{:?}", before.elapsed());
    let before = Instant::now();
    assert!(proxy.builder().deadline(SECOND).connect().await.is_err());
    assert!(before.elapsed() < Duration::from_millis(1300), "{:?}", before.elapsed());
}

#[tokio::test]
async fn routes_that_cannot_be_loaded_leave_no_doubt_that_nothing_was_delivered() {
    let (server, proxy, broker, _) = behind_proxy(Duration::from_millis(400)).await;
    let other = server.builder().connect().await.unwrap();
    other.register_queue("r", ".").await.unwrap();
    // The answer that the routes are stale arrives, the routes do not.
    proxy.delay(Duration::from_millis(250));
    let error = broker.deliver(&message("a", "t", 2)).await.err().unwrap();
    assert!(matches!(error, Error::NotSent(_)), "{error:?}");
    assert_eq!(waiting(&server).await, 0);
}

#[tokio::test]
async fn a_lease_ends_for_its_holder_no_later_than_for_redis() {
    let (_server, proxy, broker, queue) = behind_proxy(5 * SECOND).await;
    deliver(&broker, "a", 1).await;
    proxy.delay(Duration::from_millis(300));
    let before = Instant::now();
    let delivery = queue.lease().lasting(10 * SECOND).await.unwrap().unwrap();
    assert!(before.elapsed() >= Duration::from_millis(300));
    assert!(delivery.expires_at() < before + 10 * SECOND + Duration::from_millis(100));
    let before = Instant::now();
    delivery.extend(20 * SECOND).await.unwrap();
    assert!(delivery.expires_at() < before + 20 * SECOND + Duration::from_millis(100));
}

#[tokio::test]
async fn a_broker_outlives_the_runtime_in_which_it_was_connected() {
    let space = Space::new().await;
    let builder = space.builder();
    let broker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async { builder.connect().await.unwrap() })
    });
    let broker = broker.join().unwrap();
    // Its connection has ended with that runtime; one call finds that out.
    let _ = broker.queues().await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    queue.lease().await.unwrap().unwrap().ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn an_ack_is_sent_again_when_the_connection_breaks_under_it() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    let delivery = queue.lease().await.unwrap().unwrap();
    server.run::<()>(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    let ack = tokio::spawn(delivery.ack());
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.run::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.run::<()>(&["CLIENT", "UNPAUSE"]).await;
    ack.await.unwrap().unwrap();
    assert!(queue.pull().await.unwrap().is_none());
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_waited_for() {
    let server = Server::start(&[]).await;
    let broker = server.builder().deadline(Duration::from_millis(300)).connect().await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    server.run::<()>(&["REPLICAOF", "127.0.0.1", &free_port().to_string()]).await;
    let error = broker.deliver(&message("a", "t", 1)).await.err().unwrap();
    assert!(matches!(error, Error::NotSent(_)), "{error:?}");
    server.run::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    broker.deliver(&message("a", "t", 1)).await.unwrap();
}

#[tokio::test]
async fn a_full_redis_refuses_deliveries_loses_nothing_and_can_be_drained() {
    let server = Server::start(&["--maxmemory-policy", "noeviction"]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 5).await;
    let before: Vec<String> = server.run(&["LRANGE", "{fairlane}:q:q:f:a", "0", "-1"]).await;
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    server.run::<()>(&["SCRIPT", "FLUSH"]).await; // Scripts can be loaded all the same.
    assert!(matches!(broker.deliver(&message("a", "t", 9)).await, Err(Error::Full)));
    assert!(matches!(broker.deliver_all(&[message("b", "t", 9)]).await, Err(Error::Full)));
    queue.facet("a").pause().await.unwrap(); // What is paused must come to be drained, too.
    queue.facet("a").resume().await.unwrap();
    let after: Vec<String> = server.run(&["LRANGE", "{fairlane}:q:q:f:a", "0", "-1"]).await;
    assert_eq!(before, after);
    // A worker that starts now can connect, register and work.
    let worker = server.builder().connect().await.unwrap();
    let queue = worker.register_queue("q", ".").await.unwrap();
    let delivery = queue.lease().await.unwrap().unwrap();
    delivery.extend(SECOND).await.unwrap();
    delivery.nack().await.unwrap();
    queue.lease().await.unwrap().unwrap().ack().await.unwrap();
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 4);
    server.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    broker.deliver(&message("a", "t", 10)).await.unwrap();
}

#[tokio::test]
async fn a_key_of_a_wrong_type_is_an_error_of_its_own_and_costs_no_message() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("paused").pause().await.unwrap();
    let keys = ["clock", "ready", "idle", "settings", "wake", "parked", "timers", "held", "lease"];
    for key in keys {
        deliver(&space.broker, "a", 3).await;
        deliver(&space.broker, "b", 1).await;
        let held = Token::from(queue.lease().lasting(SECOND).await.unwrap().unwrap());
        // Move the real key away, and put another in its place.
        let away = space.of("q", "away");
        let real = match (key, held.to_string().split('/').next_back()) {
            ("lease", Some(number)) => space.of("q", &format!("l:{number}")),
            _ => space.of("q", key),
        };
        let there = run::<u64>(&["EXISTS", &real]).await == 1;
        if there {
            run::<()>(&["RENAME", &real, &away]).await;
        }
        run::<()>(&["SET", &real, "in the way"]).await;
        let dump = async || {
            let mut all = std::collections::BTreeMap::new();
            for key in space.keys().await {
                let value = run::<Vec<u8>>(&["DUMP", &space.key(&key)]).await;
                all.insert(key, value);
            }
            all
        };
        let before = dump().await;
        // What a verb does not need does not stop it; what it needs stops it before it writes.
        let mut met = Vec::new();
        macro_rules! meets {
            ($($verb:ident: $call:expr),*) => {$(
                match $call.await.err() {
                    Some(error) => {
                        assert!(matches!(error, Error::WrongType(_)), "{key}: {error:?}");
                        assert_eq!(dump().await, before, "{key}: {}", stringify!($verb));
                        met.push(stringify!($verb));
                    }
                    None => panic!("{key}: {} did not meet it", stringify!($verb)),
                }
            )*};
        }
        if key != "lease" {
            meets!(lease: queue.lease());
        }
        meets! {
            ack: space.broker.ack(&held),
            nack: space.broker.nack(&held),
            extend: space.broker.extend(&held, SECOND)
        }
        let mut left = 4;
        if ["timers", "held", "lease"].contains(&key) {
            if key == "timers" {
                meets!(pull: queue.pull());
            }
            space.broker.deliver(&message("b", "t", 7)).await.unwrap();
            left += 1;
        } else {
            meets! {
                pull: queue.pull(),
                deliver: space.broker.deliver(&message("a", "t", 7)),
                set_weight: queue.facet("a").set_weight(2.0),
                pause: queue.facet("a").pause(),
                peek: queue.peek(9),
                stats: queue.stats()
            }
        }
        run::<()>(&["DEL", &real]).await;
        if there {
            run::<()>(&["RENAME", &away, &real]).await;
        }
        space.clock.advance(SECOND);
        assert_eq!(queue.pull_many(9).await.unwrap().len(), left, "{key}: {met:?}");
    }
    queue.facet("paused").resume().await.unwrap();
    for key in ["routes", "seq"] {
        let (real, away) = (space.key(key), space.key("away"));
        run::<()>(&["RENAME", &real, &away]).await;
        run::<()>(&["LPUSH", &real, "in the way"]).await;
        let refused = space.broker.deliver(&message("a", "t", 7)).await;
        assert!(matches!(refused, Err(Error::WrongType(_))), "{key}: {refused:?}");
        run::<()>(&["DEL", &real]).await;
        run::<()>(&["RENAME", &away, &real]).await;
    }
    space.end().await;
}

#[tokio::test]
async fn what_somebody_else_put_into_a_list_stops_nothing_and_is_not_lost() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let first = run::<String>(&["LINDEX", &space.of("q", "f:a"), "0"]).await;
    let odd = ["no message of ours", "7 x", "7 0 0 99 short", "007 0 0 0 y", &first];
    let large = format!("{0} {0} {0} {0} z", "9".repeat(30));
    run::<()>(&[&["RPUSH", &space.of("q", "f:a")], &odd[..], &[&large]].concat()).await;
    for (attempt, there) in [(1, 8), (2, 7)] {
        // What says that it had more attempts than a message has goes to the dead letters.
        let leased = queue.lease_many(9).lasting(SECOND).await.unwrap();
        let ids: std::collections::HashSet<_> = leased.iter().map(|one| one.id()).collect();
        assert_eq!((leased.len(), ids.len()), (there, there), "each has an id of its own");
        assert_eq!(leased[0].attempt().get(), attempt);
        let body = |place: usize| leased[place].message().err().unwrap().body;
        assert_eq!((&*body(2), &*body(4)), (&b"no message of ours"[..], &b"short"[..]));
        space.clock.advance(SECOND);
    }
    let leased = queue.lease_many(9).await.unwrap();
    assert!(space.broker.ack_all(leased).await.unwrap().is_empty());
    assert_eq!(queue.dead_letters().purge().await.unwrap(), 1);
    space.end().await;
}

#[tokio::test]
async fn a_list_that_was_deleted_before_its_turn_leaves_nothing_behind() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("a").set_weight(1000.0).await.unwrap();
    deliver(&space.broker, "a", 2).await;
    deliver(&space.broker, "z", 1).await;
    run::<()>(&["DEL", &space.of("q", "f:z")]).await;
    assert_eq!(queue.pull_many(2).await.unwrap().len(), 2, "z is looked at, and has no turn yet");
    assert!(queue.pull().await.unwrap().is_none());
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.facets_ready, stats.waiting), (0, 0));
    queue.facet("a").configure(|facet| facet.weight = None).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn what_somebody_else_put_among_the_leased_stops_nothing_and_doubles_nothing() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let _gone = queue.lease().lasting(SECOND).await.unwrap().unwrap();
    let end = (space.clock.now() + 1).to_string();
    // Of each lease, fields and values in turn.
    let odd: [(&str, &[&str]); 6] = [
        ("0", &["0", "garbage", "m0", "garbage"]),
        ("77", &["77", "a"]),
        ("78", &["m78", "78 0 0 1 tx"]),
        ("79", &["79", "a", "m79", "79 x"]),
        ("82", &["82", "", "m82", "82 0 0 1 tx"]),
        ("odd", &["odd", ""]),
    ];
    for (lease, fields) in odd {
        let key = space.of("q", &format!("l:{lease}"));
        run::<()>(&[&["HSET", &key], fields].concat()).await;
        run::<()>(&["ZADD", &space.of("q", "timers"), &end, lease]).await;
    }
    // A lease that is no hash, and one that is not there.
    run::<()>(&["SET", &space.of("q", "l:80"), "in the way"]).await;
    run::<()>(&["ZADD", &space.of("q", "timers"), &end, "80", &end, "81"]).await;
    space.clock.advance(SECOND);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 2);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 0);
    space.delete().await;
}

#[tokio::test]
async fn the_scripts_run_on_a_node_of_a_cluster() {
    let port = free_port();
    // The cluster's own port is by 10,000 higher than the other; one that is free is asked for by
    // name.
    let bus = free_port();
    let args = ["--cluster-enabled", "yes", "--bind", "127.0.0.1"];
    let ports = ["--port", &port.to_string(), "--cluster-port", &bus.to_string()];
    let server = Server::start(&[args, ports].concat()).await;
    server.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    while !server.run::<String>(&["CLUSTER", "INFO"]).await.contains("cluster_state:ok") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let broker = server.builder().namespace("shop").connect().await.unwrap();
    let queues = [
        broker.register_queue("a", ".").await.unwrap(),
        broker.register_queue("b", ".").await.unwrap(),
    ];
    broker.deliver_all(&[message("x", "t", 1), message("y", "t", 2)]).await.unwrap();
    let mut done = Vec::new();
    for queue in queues {
        queue.facet("x").set_weight(2.0).await.unwrap();
        queue.lease().await.unwrap().unwrap().nack().await.unwrap();
        done.extend(queue.lease_many(9).await.unwrap());
    }
    assert_eq!(done.len(), 4);
    assert!(broker.ack_all(done).await.unwrap().is_empty());
}

#[tokio::test]
async fn connects_are_logged_at_info_calls_at_trace_and_never_a_body_or_a_password() {
    if support::other_process().is_none() {
        // In a process of its own: a subscriber is for all that a process does.
        let test =
            "faults::connects_are_logged_at_info_calls_at_trace_and_never_a_body_or_a_password";
        let status = support::another_process(test, &std::env::temp_dir()).status();
        assert!(status.unwrap().success());
        return;
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut server = Server::start(&["--appendonly", "yes", "--requirepass", "hunter2"]).await;
    let url = format!("{}?pass=hunter2", server.url());
    let broker = <Broker>::builder().redis(url).connect().await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    broker
        .deliver(&serde_json::json!({"facet": "a", "topic": "t", "secret": "swordfish"}))
        .await
        .unwrap();
    server.restart().await;
    let delivery = broker.queue("q").lease().await.unwrap().unwrap();
    let mut text = log.text();
    text += &format!("{broker:?} {delivery:?}");
    let ours: Vec<_> = text.lines().filter(|line| line.contains(" fairlane: ")).collect();
    let has = |level: &str, what: &str| {
        ours.iter().any(|line| line.contains(level) && line.contains(what))
    };
    assert!(has("INFO", "connected") && has("INFO", "connected again"), "{text}");
    assert!(has("TRACE", "verb=\"deliver\"") && has("TRACE", "verb=\"lease\""), "{text}");
    assert!(!text.contains("hunter2") && !text.contains("swordfish"), "{text}");
}

#[tokio::test]
async fn a_limit_that_cannot_be_read_costs_no_message() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("b").configure(|facet| facet.max_leased = Some(1)).await.unwrap();
    deliver(&space.broker, "a", 1).await;
    deliver(&space.broker, "b", 1).await;
    run::<()>(&["SET", &space.of("q", "held"), "in the way"]).await;
    assert!(matches!(queue.lease_many(2).await, Err(Error::WrongType(_))));
    assert_eq!(run::<u64>(&["LLEN", &space.of("q", "f:a")]).await, 1);
    // Nor does it stop what needs no count of what is leased.
    assert_eq!(queue.pull_many(2).await.unwrap().len(), 2);
    space.delete().await;
}

#[tokio::test]
async fn a_limit_that_cannot_be_read_does_not_leave_half_of_a_delivery() {
    let space = Space::new().await;
    let a = space.broker.register_queue("a", ".").await.unwrap();
    let b = space.broker.register_queue("b", ".").await.unwrap();
    b.configure(|queue| queue.facets.max_leased = Some(1)).await.unwrap();
    run::<()>(&["SET", &space.of("b", "held"), "in the way"]).await;
    let there = u64::from(space.broker.deliver(&message("x", "t", 1)).await.is_ok());
    run::<()>(&["DEL", &space.of("b", "held")]).await;
    for queue in [a, b] {
        let stats = queue.stats().await.unwrap();
        assert_eq!((stats.waiting, stats.delivered, stats.facets_ready), (there, there, there));
        assert_eq!(queue.doctor().await.unwrap(), []);
    }
    space.delete().await;
}
