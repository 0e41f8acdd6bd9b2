//! What the tests share: a server, a namespace of its own for each test, a clock that can be moved.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fairlane::{Broker, BrokerBuilder, Queue};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// The time at which each test begins, in ms.
pub(crate) const START: u64 = 1_000_000_000_000;

/// A namespace of its own.
pub(crate) struct Space {
    pub(crate) name: String,
    pub(crate) broker: Broker,
    pub(crate) clock: Clock,
}

/// The time that the scripts of a space are given.
#[derive(Clone)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Space {
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(set: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("it-{}-{count}", std::process::id());
        let clock = Clock(Arc::new(AtomicU64::new(START)));
        let now = clock.clone();
        let builder = builder().await.namespace(&name).clock(move || now.now());
        let broker = set(builder).connect().await.expect("a broker for the test");
        Self { name, broker, clock }
    }

    /// A broker of its own for the same namespace and clock.
    pub(crate) async fn another(&self) -> Broker {
        let now = self.clock.clone();
        builder().await.namespace(&self.name).clock(move || now.now()).connect().await.unwrap()
    }

    pub(crate) fn key(&self, key: &str) -> String {
        format!("{{{}}}:{key}", self.name)
    }

    /// The key of a queue.
    pub(crate) fn of(&self, queue: &str, key: &str) -> String {
        self.key(&format!("q:{queue}:{key}"))
    }

    /// All keys of the namespace, without its tag.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let tag = self.key("");
        let mut raw = raw().await;
        let mut keys = Vec::new();
        let mut cursor = 0u64;
        loop {
            let (next, page): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(format!("{tag}*"))
                .arg("COUNT")
                .arg(1000)
                .query_async(&mut raw)
                .await
                .unwrap();
            keys.extend(page.iter().map(|key| key[tag.len()..].to_owned()));
            cursor = next;
            if cursor == 0 {
                keys.sort();
                keys.dedup();
                return keys;
            }
        }
    }

    /// Checks that no queue has left anything behind, and deletes the namespace.
    #[track_caller]
    pub(crate) fn end(self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let kept = ["routes", "seq", "layout"];
            let left: Vec<_> =
                self.keys().await.into_iter().filter(|key| !kept.contains(&key.as_str())).collect();
            assert!(left.is_empty(), "keys left behind at {caller}: {left:?}");
            self.delete().await;
        }
    }

    pub(crate) async fn delete(&self) {
        let mut raw = raw().await;
        for key in self.keys().await {
            redis::cmd("DEL").arg(self.key(&key)).exec_async(&mut raw).await.unwrap();
        }
    }
}

/// A builder for the server of the tests: `REDIS_URL`, or one that is started for this process.
pub(crate) async fn builder() -> BrokerBuilder {
    match env::var("REDIS_URL") {
        Ok(url) => <Broker>::builder().redis(url),
        Err(_) => {
            shared_server().await;
            <Broker>::builder().embedded(dir())
        }
    }
}

/// Keeps the server of this process alive until the process ends, and with it the server.
async fn shared_server() {
    static KEPT: OnceCell<Broker> = OnceCell::const_new();
    KEPT.get_or_init(|| async {
        remove_old();
        let started = <Broker>::builder().embedded(dir()).connect().await;
        started.unwrap_or_else(|error| panic!("the tests need a Redis server: {error}"))
    })
    .await;
}

fn dir() -> PathBuf {
    env::temp_dir().join(format!("fairlane-it-{}", std::process::id()))
}

/// Removes the directories of processes that have ended: a server locks its log while it runs.
fn remove_old() {
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with("fairlane-it-")
            && File::open(path.join("redis.log")).is_ok_and(|log| log.try_lock().is_ok())
        {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// A connection beside the library, to look at what it stores.
pub(crate) async fn raw() -> MultiplexedConnection {
    let url = env::var("REDIS_URL")
        .unwrap_or_else(|_| format!("unix://{}", dir().join("redis.sock").display()));
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// Runs a command beside the library.
pub(crate) async fn run<T: redis::FromRedisValue>(command: &[&str]) -> T {
    let mut packed = redis::cmd(command[0]);
    packed.arg(&command[1..]);
    packed.query_async(&mut raw().await).await.unwrap()
}

pub(crate) fn message(facet: &str, topic: &str, n: u64) -> Value {
    json!({"facet": facet, "topic": topic, "n": n})
}

/// Delivers `n` numbered messages of a facet to the topic `t`.
pub(crate) async fn deliver(broker: &Broker, facet: &str, n: u64) {
    let messages: Vec<_> = (0..n).map(|n| message(facet, "t", n)).collect();
    broker.deliver_all(&messages).await.unwrap();
}

/// Pulls one by one, at most `n`, and returns whose each was.
pub(crate) async fn pulled(queue: &Queue, n: usize) -> Vec<String> {
    let mut facets = Vec::new();
    while facets.len() < n
        && let Some(message) = queue.pull().await.unwrap()
    {
        facets.push(message["facet"].as_str().unwrap().to_owned());
    }
    facets
}

/// How often each occurs.
pub(crate) fn counts(facets: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for facet in facets {
        *counts.entry(facet.as_str()).or_default() += 1;
    }
    counts
}
