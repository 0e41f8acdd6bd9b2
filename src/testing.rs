//! For your own tests: a server that is theirs, time that can be moved, and a [cluster](TestCluster) that
//! can be broken. Needs the cargo feature `testing`, and Unix.
//!
//! ```
//! use std::time::Duration;
//!
//! use fairlane::{AnyError, Broker, Cursor, Message, testing::TestServer};
//! use serde_json::{Value, json};
//!
//! // What is to be tested: it sends a mail, and there is none without an address.
//! async fn send(mail: &Value) -> Result<(), AnyError> {
//!     mail["to"].as_str().map(|_address| ()).ok_or("no address".into())
//! }
//!
//! // #[tokio::test]
//! async fn a_mail_without_an_address_is_given_up_after_two_attempts() -> Result<(), AnyError> {
//!     let server = TestServer::start().await?;
//!     let broker: Broker = server.builder().connect().await?;
//!     let mails = broker.register_queue("mails", "^mail:").await?;
//!     mails.configure(|queue| queue.max_attempts = 2).await?;
//!     for mail in [json!({"to": "ann@acme.example"}), json!({"subject": "hello"})] {
//!         broker.deliver(Message::new(&mail).facet("acme").topic("mail:hello")).await?;
//!     }
//!
//!     let work = || mails.worker(|delivery| async move { send(delivery.message()?).await });
//!     let first = work().run_until_empty().await?;
//!     assert_eq!((first.acked, first.failed), (1, 1));
//!
//!     // It waits for its backoff, which is a second at the most after the first attempt.
//!     assert_eq!(work().run_until_empty().await?.leased, 0);
//!     server.clock().advance(Duration::from_secs(1));
//!     let second = work().run_until_empty().await?;
//!     assert_eq!((second.leased, second.failed), (1, 1));
//!
//!     let (dead, _) = mails.dead_letters().page(Cursor::default()).await?;
//!     assert_eq!((dead.len(), dead[0].reason.as_deref()), (1, Some("no address")));
//!     Ok(())
//! }
//! # #[tokio::main] async fn main() -> Result<(), AnyError> {
//! # a_mail_without_an_address_is_given_up_after_two_attempts().await }
//! ```
//!
//! The first run of the worker ends when nothing can be served any more, which is what
//! [`run_until_empty`](crate::Worker::run_until_empty) is for; so a test waits for nothing, and nothing in it
//! depends on how fast the machine is.

use std::{
    env,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

pub use crate::test_cluster::{SlotMove, TestCluster};
use crate::{Broker, BrokerBuilder, Result, embedded::Server, opaque_debug};

/// The furthest that a clock can be moved.
const MOST: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// A private server for tests, with a clock that they can move.
///
/// It is a world of its own: all brokers that are made with it share its clock, and those with the same
/// namespace routes and queues, too. It starts in about 30 ms, so each test can have one. Where several share
/// one, each should have a namespace of its own, and none can move the time without the others.
///
/// The server is found as [`embedded`](BrokerBuilder::embedded) finds it. It runs in a temporary directory
/// that only this user can enter, keeps its data in memory alone, and ends with this and the last of its
/// brokers, or with the process however that ends; then the directory is removed.
pub struct TestServer {
    server: Arc<Server>,
    clock: Clock,
}

opaque_debug!(TestServer);

impl TestServer {
    /// Starts a server.
    ///
    /// # Errors
    /// [`NoServer`](crate::Error::NoServer) where no server program is found, and
    /// [`NotStarted`](crate::Error::NotStarted) when it does not run.
    pub async fn start() -> Result<Self> {
        let clock = Clock(Arc::new(watch::Sender::new(Duration::ZERO)));
        Ok(Self { server: Server::temporary().await?, clock })
    }

    /// Begins a broker on this server, as [`Broker::builder`] does.
    pub fn builder<T: Serialize + DeserializeOwned>(&self) -> BrokerBuilder<T> {
        self.set_up(Broker::builder())
    }

    /// Points a builder at this server, whatever it has for an address, and gives it the clock: for those
    /// that your program makes, with closures, encoder and all.
    ///
    /// ```
    /// # use fairlane::{Broker, BrokerBuilder, testing::TestServer};
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Event { account: u64 }
    /// # fn events() -> BrokerBuilder<Event> {
    /// #     Broker::builder().facet(|event: &Event| event.account).topic(|_| "event") }
    /// # #[tokio::main] async fn main() -> fairlane::Result<()> {
    /// let server = TestServer::start().await?;
    /// let broker = server.set_up(events()).connect().await?; // fn events() -> BrokerBuilder<Event>
    /// # Ok(()) }
    /// ```
    pub fn set_up<T>(&self, builder: BrokerBuilder<T>) -> BrokerBuilder<T> {
        builder.testing(&self.server, &self.clock)
    }

    /// The clock of all brokers that are made with this.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Where the server listens, for `redis-cli -s` and other programs. What they call goes by the clock of
    /// Redis, which is not moved.
    pub fn socket(&self) -> PathBuf {
        self.server.socket().to_owned()
    }
}

/// The time of a [`TestServer`]: it goes on as that of the machine does, ahead of it by what it was advanced.
/// Clones are the same clock.
///
/// All that Redis keeps a time of goes by it: delays, backoffs, holds, rates, ttls, and leases. One that was
/// advanced over has ended: its message is served to the next who asks, and whoever had it, a
/// [`Worker`](crate::Worker) too, finds out when it extends or settles it. What this process measures by itself
/// goes by the machine: [`wait`](crate::Lease::wait), the grace of a worker, and
/// [`Delivery::expires_at`](crate::Delivery::expires_at).
#[derive(Debug, Clone)]
pub struct Clock(Arc<watch::Sender<Duration>>);

impl Clock {
    /// Moves the time forward, and lets those look who wait on a queue: what has become due is served to them
    /// now.
    ///
    /// # Panics
    /// When that is more than 100 years in all.
    pub fn advance(&self, time: Duration) {
        self.0.send_modify(|ahead| {
            let next = ahead.saturating_add(time);
            assert!(next <= MOST, "a clock cannot be advanced by more than 100 years");
            *ahead = next;
        });
    }

    /// What time it is.
    pub fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.ms())
    }

    /// That in ms since 1970, as scripts are given it.
    pub(crate) fn ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        (since + *self.0.borrow()).as_millis() as u64
    }

    /// Tells when it is advanced.
    pub(crate) fn moves(&self) -> watch::Receiver<Duration> {
        self.0.subscribe()
    }
}

/// The server program that an embedded server would run.
#[doc(hidden)]
pub fn server_program() -> Option<PathBuf> {
    crate::embedded::find(
        env::var_os(crate::embedded::PROGRAM).as_deref(),
        env::var_os("PATH").as_deref(),
    )
}
