//! All that is not generic: connection, scripts, routes. It knows bytes, facets and topics.

use std::{
    any::Any,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use redis::{Cmd, FromRedisValue, Value};
use tokio::{sync::watch, time::Instant};
use tracing::warn;

use crate::{
    Error,
    connection::{Connection, Repeat, Reply},
    deliver::Deliveries,
    error::{Result, unexpected},
    keys::{Keys, LAYOUT},
    routes::Routes,
    scripts::{self, Script},
    serve::Takes,
    settle::Acks,
    subscriptions::Subscriptions,
    wait::Lines,
};

/// What ends with the last handle of a broker.
pub(crate) type Kept = Arc<dyn Any + Send + Sync>;

/// What only tests set.
#[derive(Default)]
pub(crate) struct Testing {
    /// The time that scripts are given, in ms since 1970, instead of that of Redis.
    pub(crate) clock: Option<Box<dyn Fn() -> u64 + Send + Sync>>,
    /// Tells that this time has been moved.
    pub(crate) moves: Option<watch::Receiver<Duration>>,
    /// Scripts that take the place of those of the same name.
    pub(crate) scripts: Vec<Script>,
}

/// What is behind every handle of a broker.
pub(crate) struct Core {
    pub(crate) connection: Connection,
    pub(crate) keys: Keys,
    /// The largest body that is delivered, in bytes.
    pub(crate) max_body: usize,
    pub(crate) testing: Testing,
    /// Calls that are about to go out.
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) takes: Arc<Takes>,
    /// Those who wait.
    pub(crate) lines: Lines,
    /// Those who listen.
    pub(crate) subscriptions: Subscriptions,
    routes: RwLock<Arc<Routes>>,
    /// Held while routes are loaded, so that many calls load them once.
    loading: tokio::sync::Mutex<()>,
    _server: Option<Kept>,
}

impl Core {
    pub(crate) fn new(
        connection: Connection,
        keys: Keys,
        max_body: usize,
        testing: Testing,
        server: Option<Kept>,
    ) -> Self {
        Self {
            connection,
            keys,
            max_body,
            testing,
            deliveries: Deliveries::of_a_part(),
            acks: Acks::of_a_part(),
            takes: Takes::of_a_part(),
            lines: Lines::default(),
            subscriptions: Subscriptions::default(),
            routes: RwLock::new(Arc::new(Routes::new(std::iter::empty()))),
            loading: tokio::sync::Mutex::default(),
            _server: server,
        }
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
        let testing = self.testing.clock.as_ref();
        testing.map_or_else(SystemTime::now, |clock| {
            SystemTime::UNIX_EPOCH + Duration::from_millis(clock())
        })
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
        self.connection.call(command, Some(self.script(script)), repeat, end).await
    }

    fn script<'a>(&'a self, script: &'a Script) -> &'a Script {
        self.testing.scripts.iter().find(|other| other.name == script.name).unwrap_or(script)
    }

    /// Checks that server and namespace are of a kind that this version works with.
    pub(crate) async fn check(&self, end: Instant) -> Result<()> {
        let hello = self.connection.call(&redis::cmd("HELLO"), None, Repeat::Safe, end).await?;
        let said: Vec<(String, Value)> = read(hello.value)?;
        let field = |name| said.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let version: String = field("version").map_or_else(|| Ok(String::new()), read)?;
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < 7) {
            return Err(Error::unsupported_server(format!("Redis {version}")));
        }
        let mut command = self.command(&scripts::CONNECT, &[]);
        command.arg(LAYOUT);
        let reply = self.call_until(&scripts::CONNECT, &command, Repeat::Safe, end).await?;
        let layout: u32 = read(reply.value)?;
        if layout > LAYOUT {
            let found = format!("layout {layout} of the keys");
            return Err(Error::Unsupported {
                found,
                needed: "update fairlane, this one knows older ones only",
            });
        }
        Ok(())
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

/// Reads a reply that a script of this version gives.
pub(crate) fn read<T: FromRedisValue>(value: Value) -> Result<T> {
    redis::from_redis_value(value)
        .map_err(|_| unexpected("a reply of a form that this version does not know"))
}
