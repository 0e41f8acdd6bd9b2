//! Who a broker is for Redis: said by a URL or a closure, changed while all runs, and never shown.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fairlane::{AnyError, Broker, BrokerBuilder, Credentials, Error, Missed};
use tokio_util::sync::CancellationToken;

use crate::support::{Log, Server, another_process, free_port, message, other_process, until};

/// The credentials that a closure gives.
#[derive(Clone)]
struct Current(Arc<Mutex<&'static str>>);

impl Current {
    fn new(password: &'static str) -> Self {
        Self(Arc::new(Mutex::new(password)))
    }

    fn set(&self, password: &'static str) {
        *self.0.lock().unwrap() = password;
    }

    /// Gives them to a broker, which asks for them ten times a second.
    fn of(&self, builder: BrokerBuilder) -> BrokerBuilder {
        let current = self.0.clone();
        builder
            .credentials(move || Credentials::new("fair", *current.lock().unwrap()))
            .heartbeat(Duration::from_millis(200))
    }
}

/// A server with the user `fair`, who has this password.
async fn server(password: &str) -> Server {
    let server = Server::start(&[]).await;
    let password = format!(">{password}");
    server.run::<()>(&["ACL", "SETUSER", "fair", "on", &password, "~*", "&*", "+@all"]).await;
    server
}

/// The numbers of the connections of the user `fair`.
async fn connections(server: &Server) -> BTreeSet<String> {
    let list: String = server.run(&["CLIENT", "LIST"]).await;
    let of_user = list.lines().filter(|line| line.contains(" user=fair "));
    of_user.filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
}

#[tokio::test]
async fn a_password_is_changed_while_all_runs_and_nothing_fails() {
    let server = server("old").await;
    let current = Current::new("old");
    let broker = current.of(server.builder()).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let mut listener = broker.listen("*").await.unwrap();
    let (stop, done) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
    let worker = queue.worker(async |_| Ok::<_, AnyError>(())).stop_on(stop.clone());
    let worker = tokio::spawn(worker.run());
    let delivering = tokio::spawn({
        let (broker, done) = (broker.clone(), done.clone());
        async move {
            let mut delivered = 0u64;
            while !done.load(Ordering::Relaxed) {
                broker.deliver(&message("a", "t", delivered)).await.unwrap();
                delivered += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            delivered
        }
    });
    // That of the calls, the one that waits, and the one that listens.
    until("all are connected", || async { connections(&server).await.len() == 3 }).await;
    let before = connections(&server).await;

    server.run::<()>(&["ACL", "SETUSER", "fair", ">new"]).await;
    current.set("new");
    until("all have told it", || async { server.calls("auth").await >= 3 }).await;
    server.run::<()>(&["ACL", "SETUSER", "fair", "<old"]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(connections(&server).await, before);
    assert_eq!(server.calls("auth").await, 3, "they were told once");

    done.store(true, Ordering::Relaxed);
    let delivered = delivering.await.unwrap();
    for n in 0..delivered {
        assert_eq!(listener.next().await.unwrap().unwrap().message["n"], n);
    }
    until("all is done", || async { queue.stats().await.unwrap().acked == delivered }).await;
    stop.cancel();
    assert_eq!(worker.await.unwrap().unwrap().acked, delivered);

    // New connections are made with the new one.
    server.run::<()>(&["CLIENT", "KILL", "USER", "fair"]).await;
    assert!(matches!(listener.next().await, Some(Err(Missed::Gap))));
    broker.deliver(&message("a", "t", 7)).await.unwrap();
    assert_eq!(listener.next().await.unwrap().unwrap().message["n"], 7);
    assert!(queue.lease().wait(Duration::from_secs(5)).await.unwrap().is_some());
}

#[tokio::test]
async fn one_who_waits_tells_it_before_the_next_wait() {
    let server = server("old").await;
    let current = Current::new("old");
    let broker = current.of(server.builder()).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let wait = queue.lease().wait(Duration::from_secs(20));
    let waiting = tokio::spawn(wait.into_future());
    until("it waits", || async { server.blocked().await == 1 }).await;
    server.run::<()>(&["ACL", "SETUSER", "fair", ">new"]).await;
    current.set("new");
    // The connection of the calls at once, the other one within a window.
    until("both have told it", || async { server.calls("auth").await == 2 }).await;
    until("it waits", || async { server.blocked().await == 1 }).await;
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    assert!(waiting.await.unwrap().unwrap().is_some());
}

#[tokio::test]
async fn renewed_credentials_that_redis_does_not_take_change_nothing_until_a_new_connection() {
    let server = server("right").await;
    let current = Current::new("right");
    let broker = current.of(server.builder()).connect().await.unwrap();
    broker.register_queue("q", ".").await.unwrap();
    current.set("wrong");
    until("it is told again", || async { server.calls("auth").await >= 2 }).await;
    broker.deliver(&message("a", "t", 1)).await.unwrap();
    server.run::<()>(&["CLIENT", "KILL", "USER", "fair"]).await;
    until("it is denied", || async {
        matches!(broker.deliver(&message("a", "t", 2)).await, Err(Error::Denied(_)))
    })
    .await;
    // Redis takes it from now on.
    server.run::<()>(&["ACL", "SETUSER", "fair", ">wrong"]).await;
    broker.deliver(&message("a", "t", 3)).await.unwrap();
}

#[tokio::test]
async fn credentials_of_a_closure_take_the_place_of_those_of_the_url() {
    let server = server("right").await;
    let as_user = |password| format!("{}?user=fair&pass={password}", server.url());
    let right = Current::new("right").of(server.builder().redis(as_user("wrong")));
    right.connect().await.unwrap();
    let wrong = Current::new("wrong").of(server.builder().redis(as_user("right")));
    assert!(matches!(wrong.connect().await, Err(Error::Denied(_))));
    // The password alone is that of the user `default`.
    server.run::<()>(&["CONFIG", "SET", "requirepass", "other"]).await;
    let builder = <Broker>::builder().redis(as_user("right"));
    builder.credentials(|| Credentials::password("other")).connect().await.unwrap();
}

/// What must be nowhere.
const SECRET: &str = "hunter2";

/// All that an error says, and what lies behind it.
fn shown(what: &dyn Debug, error: Option<&Error>) -> String {
    let mut text = format!("{what:?} {what:#?}\n");
    let mut cause = error.map(|error| error as &dyn std::error::Error);
    while let Some(error) = cause {
        text += &format!("{error} {error:?} {error:#?}\n");
        cause = error.source();
    }
    text
}

/// Tries to connect in every way that fails.
async fn fail() -> String {
    let server = server(SECRET).await;
    let nobody = free_port();
    let urls = [
        format!("{}?user=fair&pass=not-{SECRET}", server.url()),
        format!("redis://fair:{SECRET}@127.0.0.1:{nobody}"),
        format!("redis://fair:{SECRET}@127.0.0.1:{nobody}/seven"),
        format!("redis://fair:{SECRET}@/:x"),
        format!("http://fair:{SECRET}@127.0.0.1"),
        format!("fair:{SECRET}@127.0.0.1"),
        format!("unix:///nowhere/redis.sock?user=fair&pass={SECRET}"),
        format!("redis-cluster://fair:{SECRET}@127.0.0.1:{nobody},127.0.0.1:{nobody}"),
        format!("redis-cluster://fair:{SECRET}@127.0.0.1:{nobody}/1"),
        format!("redis-sentinel://fair:{SECRET}@127.0.0.1:{nobody}/main?sentinel_pass={SECRET}"),
        format!("redis-sentinel://fair:{SECRET}@127.0.0.1:{nobody}/main?sentinel_word={SECRET}"),
        format!("rediss://fair:{SECRET}@127.0.0.1:{nobody}"),
    ];
    let mut text = String::new();
    for url in urls {
        let builder = <Broker>::builder().redis(url).deadline(Duration::from_millis(200));
        text += &shown(&builder, None);
        let error = builder.connect().await.err().unwrap();
        text += &shown(&error, Some(&error));
    }
    let tls = fairlane::Tls::new().identity(SECRET, SECRET);
    text += &shown(&tls, None);
    let error = <Broker>::builder().redis("rediss://a").tls(tls).connect().await.err().unwrap();
    text += &shown(&error, Some(&error));
    text += &shown(&Credentials::new("fair", SECRET), None);

    let current = Current::new(SECRET);
    let broker = current.of(server.builder()).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let listener = broker.listen("*").await.unwrap();
    text += &shown(&(&broker, &queue, &listener), None);
    current.set("hunter2 of tomorrow");
    until("it is told", || async { server.calls("auth").await >= 2 }).await;
    server.run::<()>(&["CLIENT", "KILL", "USER", "fair"]).await;
    let error = queue.lease().wait(Duration::from_secs(5)).await.err().unwrap();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    text + &shown(&error, Some(&error))
}

#[tokio::test]
async fn no_error_and_no_log_has_a_password() {
    if other_process().is_none() {
        // In a process of its own: a subscriber is for all that a process does.
        let test = "credentials::no_error_and_no_log_has_a_password";
        let mut other = another_process(test, &std::env::temp_dir());
        let status = tokio::task::spawn_blocking(move || other.status().unwrap()).await;
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
    let said = fail().await;
    let logged = log.text();
    assert!(logged.contains("Redis does not take the renewed credentials"), "{logged}");
    assert!(said.contains("WRONGPASS"), "{said}");
    for text in [said, logged] {
        assert!(!text.contains(SECRET), "{text}");
    }
}
