//! A partition: its connection, its keys, its routes, and the calls that are about to go out to it.
//! It knows bytes, facets and topics. A namespace that was not divided is one partition.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use redis::{Cmd, Value};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    Error, MessageId,
    connection::{Connection, Repeat, Reply},
    core::{Testing, field, read},
    deliver::Deliveries,
    durable::Durable,
    error::{Result, chain},
    keys::Keys,
    layout::Layout,
    link::Link,
    routes::Routes,
    scripts::{self, Script},
    serve::Takes,
    settle::Acks,
    wait::Lines,
};

pub(crate) struct Partition {
    /// Its number, from 0 on.
    pub(crate) place: u64,
    /// How many there are, and the layout of their keys.
    pub(crate) layout: Layout,
    pub(crate) connection: Connection,
    /// That of the calls that wait until what they did is durable: they hold up what comes behind
    /// them. Made by the first of them.
    durable: Connection,
    pub(crate) keys: Keys,
    pub(crate) testing: Arc<Testing>,
    /// Calls that are about to go out.
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) takes: Arc<Takes>,
    /// Those who wait.
    pub(crate) lines: Lines,
    routes: RwLock<Arc<Routes>>,
    /// Held while routes are loaded, so that many calls load them once.
    loading: tokio::sync::Mutex<()>,
}

impl Partition {
    pub(crate) fn new(
        place: u64,
        layout: Layout,
        link: Link,
        deadline: Duration,
        keys: Keys,
        testing: Arc<Testing>,
    ) -> Self {
        let link = Arc::new(link);
        Self {
            place,
            layout,
            connection: Connection::new(link.clone(), deadline),
            durable: Connection::new(link, deadline),
            keys,
            testing,
            deliveries: Deliveries::of_a_part(),
            acks: Acks::of_a_part(),
            takes: Takes::of_a_part(),
            lines: Lines::default(),
            routes: RwLock::new(Arc::new(Routes::new(std::iter::empty()))),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// The number by which users know a message: that which Redis has, and this partition, in one.
    pub(crate) fn id(&self, number: u64) -> MessageId {
        MessageId(number.saturating_mul(self.layout.partitions).saturating_add(self.place))
    }

    /// The number that Redis has of a message of this partition.
    pub(crate) fn number(&self, id: MessageId) -> u64 {
        id.0 / self.layout.partitions
    }

    /// Whether it is the first of several, which the others follow.
    pub(crate) fn is_followed(&self) -> bool {
        self.place == 0 && self.layout.partitions > 1
    }

    /// Begins the call of a script with these queues; its own arguments are to follow.
    pub(crate) fn command(&self, script: &Script, queues: &[&str]) -> Cmd {
        let keys = self.keys.of(queues);
        let now = self.testing.clock.as_ref().map_or(0, |clock| clock());
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.script(script).sha).arg(keys.len()).arg(keys).arg(now);
        command
    }

    /// The time by which what is due at a time is checked.
    pub(crate) fn now(&self) -> SystemTime {
        self.testing.now()
    }

    /// Calls a script, within the deadline.
    pub(crate) async fn call(
        &self,
        script: &Script,
        command: &Cmd,
        repeat: Repeat,
    ) -> Result<Reply> {
        self.call_until(script, command, repeat, self.connection.end()).await
    }

    /// Calls a script that is one of several that have a deadline together.
    pub(crate) async fn call_until(
        &self,
        script: &Script,
        command: &Cmd,
        repeat: Repeat,
        end: Instant,
    ) -> Result<Reply> {
        self.connection.call(command, Some(self.script(script)), repeat, end, None).await
    }

    /// Calls a script that is one of several that have a deadline together, and waits until what it
    /// did is durable, if it shall be: for so long beyond the deadline.
    pub(crate) async fn call_durably(
        &self,
        script: &Script,
        command: &Cmd,
        repeat: Repeat,
        end: Instant,
        durable: Option<Durable>,
    ) -> Result<Reply> {
        let Some(asked) = durable else {
            return self.call_until(script, command, repeat, end).await;
        };
        let end = end + asked.timeout;
        self.durable.call(command, Some(self.script(script)), repeat, end, durable).await
    }

    /// Sends a command that changes nothing.
    pub(crate) async fn ask(&self, command: &Cmd, end: Instant) -> Result<Value> {
        Ok(self.connection.call(command, None, Repeat::Safe, end, None).await?.value)
    }

    fn script<'a>(&'a self, script: &'a Script) -> &'a Script {
        self.testing.scripts.iter().find(|other| other.name == script.name).unwrap_or(script)
    }

    /// Checks that the server is of a kind that this version works with.
    pub(crate) async fn check_server(&self, end: Instant) -> Result<()> {
        let hello = self.ask(&redis::cmd("HELLO"), end).await?;
        let said: Vec<(String, Value)> = read(hello)?;
        let field = |name| said.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let version: String = field("version").map_or_else(|| Ok(String::new()), read)?;
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < 7) {
            return Err(Error::unsupported_server(format!("Redis {version}")));
        }
        Ok(())
    }

    /// Warns of what makes the server less safe than it could be, as far as it says it.
    pub(crate) async fn warn(&self, end: Instant) {
        let mut command = redis::cmd("INFO");
        command.arg("memory").arg("persistence");
        let info = match self.ask(&command, end).await.and_then(read::<String>) {
            Ok(info) => info,
            Err(error) => {
                let error = chain(&error);
                debug!(target: "fairlane", %error, "the server does not say how it is set up");
                return;
            }
        };
        let address = &*self.connection.link.address();
        if let Some(policy) =
            field(&info, "maxmemory_policy").filter(|policy| *policy != "noeviction")
        {
            warn!(
                target: "fairlane", address, policy,
                "Redis may evict messages when it is full: set maxmemory-policy to noeviction"
            );
        }
        if field(&info, "aof_enabled") == Some("0") {
            warn!(
                target: "fairlane", address,
                "a crash of Redis loses what came since its last snapshot: set appendonly to yes"
            );
        }
    }

    /// The layout of the keys that are there, none when there are none; writes down this one where
    /// it is new.
    pub(crate) async fn layout(&self, new: Option<Layout>, end: Instant) -> Result<Option<Layout>> {
        let mut command = self.command(&scripts::CONNECT, &[]);
        command.arg(new.map(|new| new.to_string()).unwrap_or_default());
        let reply = self.call_until(&scripts::CONNECT, &command, Repeat::Safe, end).await?;
        let found: Option<String> = read(reply.value)?;
        found.map(|found| found.parse()).transpose()
    }

    /// The routes as they were when they were last loaded.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        self.routes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Loads the routes, unless another call has already replaced those that were found to be
    /// stale.
    pub(crate) async fn load_routes(
        &self,
        stale: Option<&Arc<Routes>>,
        end: Instant,
    ) -> Result<Arc<Routes>> {
        let _one_at_a_time = self.loading.lock().await;
        let current = self.routes();
        if stale.is_some_and(|stale| !Arc::ptr_eq(stale, &current)) {
            return Ok(current);
        }
        let command = self.command(&scripts::QUEUES, &[]);
        let reply = self.call_until(&scripts::QUEUES, &command, Repeat::Safe, end).await?;
        let mut flat = read::<Vec<Vec<u8>>>(reply.value)?.into_iter();
        let pairs = std::iter::from_fn(|| Some((flat.next()?, flat.next()?)));
        let routes = Arc::new(Routes::new(pairs));
        if routes.all.is_empty() && !current.all.is_empty() {
            warn!(target: "fairlane", "all routes are gone: what is delivered now is kept nowhere");
        }
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = routes.clone();
        Ok(routes)
    }
}
