//! The connection that all listeners of a broker share: there while there is a listener, made anew
//! when it breaks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    PushInfo, PushKind, RedisError, Value,
    aio::{AsyncPushSender, MultiplexedConnection},
};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    error::{Result, refused},
    link::{Link, Pause, send, steps_down},
    listener::{Entry, Inbox},
};

/// How often it is made sure that the connection still answers.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// All that listen with one broker.
#[derive(Default)]
pub(crate) struct Subscriptions {
    shared: Arc<Mutex<Shared>>,
    /// That the globs have changed, or the connection is gone.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Shared {
    /// By their globs, with the namespace in front.
    subscribers: BTreeMap<String, Vec<Subscriber>>,
    /// Whether the task runs that has the connection.
    running: bool,
}

struct Subscriber {
    inbox: Arc<Inbox>,
    /// Until Redis has confirmed it.
    confirm: Option<oneshot::Sender<Result<()>>>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subscriptions {
    pub(crate) fn join(&self, glob: &str, confirm: oneshot::Sender<Result<()>>) -> Arc<Inbox> {
        let inbox = Arc::<Inbox>::default();
        let subscriber = Subscriber { inbox: inbox.clone(), confirm: Some(confirm) };
        lock(&self.shared).subscribers.entry(glob.to_owned()).or_default().push(subscriber);
        self.changed.notify_one();
        inbox
    }

    pub(crate) fn leave(&self, glob: &str, inbox: &Arc<Inbox>) {
        let mut shared = lock(&self.shared);
        if let Some(same) = shared.subscribers.get_mut(glob) {
            same.retain(|subscriber| !Arc::ptr_eq(&subscriber.inbox, inbox));
            if same.is_empty() {
                shared.subscribers.remove(glob);
            }
        }
        self.changed.notify_one();
    }

    /// Lets the task run that has the connection, if it does not.
    pub(crate) fn open(&self, link: &Arc<Link>, limit: Duration) {
        // Without a runtime there is none; the next poll within one opens it.
        let Ok(runtime) = Handle::try_current() else { return };
        let mut shared = lock(&self.shared);
        if !std::mem::replace(&mut shared.running, true) {
            let (shared, changed) = (self.shared.clone(), self.changed.clone());
            let task = Running { shared, changed, ended: false };
            runtime.spawn(run(task, link.clone(), limit));
        }
    }
}

/// The running task. Dropped, it says that it does not run any more.
struct Running {
    shared: Arc<Mutex<Shared>>,
    changed: Arc<Notify>,
    /// That another task may run already.
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut shared = lock(&self.shared);
        shared.running = false;
        let inboxes =
            shared.subscribers.values().flatten().map(|subscriber| subscriber.inbox.clone());
        let inboxes: Vec<_> = inboxes.collect();
        drop(shared);
        // Whoever still listens is polled, and lets another one run.
        for inbox in inboxes {
            inbox.wake();
        }
    }
}

impl Running {
    /// Whether nobody listens: then it has ended.
    fn ends(&mut self) -> bool {
        let mut shared = lock(&self.shared);
        if shared.subscribers.is_empty() {
            (shared.running, self.ended) = (false, true);
        }
        self.ended
    }

    /// Brings what Redis pushes to the listeners. Their inboxes are bounded, so it never waits.
    fn pushes(&self, lost: &Arc<AtomicBool>) -> impl AsyncPushSender + use<> {
        let (shared, changed, lost) = (self.shared.clone(), self.changed.clone(), lost.clone());
        move |push: PushInfo| {
            match (push.kind, &push.data[..]) {
                (
                    PushKind::PMessage,
                    [Value::BulkString(glob), Value::BulkString(channel), Value::BulkString(body)],
                ) => {
                    let (channel, body) = (Arc::from(&channel[..]), Arc::from(&body[..]));
                    let shared = lock(&shared);
                    let glob = std::str::from_utf8(glob).ok();
                    for subscriber in
                        glob.and_then(|glob| shared.subscribers.get(glob)).into_iter().flatten()
                    {
                        let (channel, body) = (Arc::clone(&channel), Arc::clone(&body));
                        subscriber.inbox.put(Entry::Heard { channel, body });
                    }
                }
                (PushKind::Disconnection, _) => {
                    lost.store(true, Ordering::Relaxed);
                    changed.notify_one();
                }
                _ => {}
            }
            Ok::<_, RedisError>(())
        }
    }

    /// Tells those who were listening before that there is a gap.
    fn gap(&self) {
        let shared = lock(&self.shared);
        for subscriber in
            shared.subscribers.values().flatten().filter(|subscriber| subscriber.confirm.is_none())
        {
            subscriber.inbox.put(Entry::Gap);
        }
    }

    /// The globs that are to be subscribed, and those that nobody wants any more.
    fn changes(&self, subscribed: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
        let shared = lock(&self.shared);
        let asked = shared.subscribers.iter().filter(|(glob, subscribers)| {
            !subscribed.contains(*glob)
                || subscribers.iter().any(|subscriber| subscriber.confirm.is_some())
        });
        let left = subscribed.iter().filter(|glob| !shared.subscribers.contains_key(*glob));
        (asked.map(|(glob, _)| glob.clone()).collect(), left.cloned().collect())
    }

    /// Answers those who wait for Redis to confirm a glob, or any.
    fn answer(&self, glob: Option<&str>, answer: impl Fn() -> Result<()>) {
        let mut shared = lock(&self.shared);
        let of =
            shared.subscribers.iter_mut().filter(|(of, _)| glob.is_none_or(|glob| glob == *of));
        for confirm in of
            .flat_map(|(_, subscribers)| subscribers)
            .filter_map(|subscriber| subscriber.confirm.take())
        {
            let _ = confirm.send(answer()); // Who does not wait any more has left.
        }
    }
}

/// Keeps the connection and its subscriptions, until nobody listens any more.
async fn run(mut running: Running, link: Arc<Link>, limit: Duration) {
    let mut pause = Pause::default();
    while !running.ends() {
        let lost = Arc::default();
        match timeout(limit, link.connect(running.pushes(&lost))).await {
            Ok(Ok(connection)) => {
                info!(target: "fairlane", address = link.address, "listening");
                running.gap();
                if session(&mut running, connection, &lost, limit).await {
                    pause = Pause::default();
                }
            }
            Ok(Err(error)) => {
                if link.unreachable(error.clone()).is_err() {
                    warn!(target: "fairlane", address = link.address, %error, "cannot listen");
                    running.answer(None, || link.unreachable(error.clone()).map(drop));
                }
            }
            Err(_) => {}
        }
        if !running.ends() {
            sleep(pause.next()).await;
        }
    }
}

/// Subscribes and unsubscribes as listeners come and go, until the connection is gone, or nobody
/// listens. Returns whether all was well before that.
async fn session(
    running: &mut Running,
    mut connection: MultiplexedConnection,
    lost: &AtomicBool,
    limit: Duration,
) -> bool {
    let mut subscribed = BTreeSet::new();
    loop {
        let (asked, left) = running.changes(&subscribed);
        for glob in asked {
            match timeout(limit, connection.psubscribe(&glob)).await {
                Ok(Ok(())) => running.answer(Some(&glob), || Ok(())),
                Ok(Err(error)) if error.code().is_some() && !steps_down(&error) => {
                    warn!(target: "fairlane", glob, %error, "refused");
                    running.answer(Some(&glob), || Err(refused(error.clone())));
                }
                _ => return false,
            }
            subscribed.insert(glob);
        }
        for glob in left {
            if !matches!(timeout(limit, connection.punsubscribe(&glob)).await, Ok(Ok(()))) {
                return false;
            }
            subscribed.remove(&glob);
        }
        if running.ends() {
            return true;
        }
        if timeout(HEARTBEAT, running.changed.notified()).await.is_err() {
            // A silent link does not break by itself.
            let ping = timeout(limit, send(&mut connection, &redis::cmd("PING"))).await;
            lost.fetch_or(!matches!(ping, Ok(Ok(_))), Ordering::Relaxed);
        }
        if lost.load(Ordering::Relaxed) {
            return true;
        }
    }
}
