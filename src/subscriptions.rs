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

use redis::{PushInfo, PushKind, RedisError, Value, aio::AsyncPushSender};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    Error,
    credentials::Known,
    error::{Result, refused},
    link::{Link, Meaning, Pause, send},
    listener::{Entry, Inbox},
    partition::Partition,
};

/// A connection that lasted less than this is not made anew at once.
const SHORT: Duration = Duration::from_secs(5);

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
    /// Whether Redis has subscribed it since it came: what others with its glob hear before that was
    /// published before.
    hears: bool,
    /// Whether the connection over which it was confirmed is gone.
    away: bool,
    /// Whether it was told that Redis refuses it, since it last heard.
    refused: bool,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subscriptions {
    pub(crate) fn join(&self, glob: &str, confirm: oneshot::Sender<Result<()>>) -> Arc<Inbox> {
        let inbox = Arc::<Inbox>::default();
        let confirm = Some(confirm);
        let subscriber =
            Subscriber { inbox: inbox.clone(), confirm, hears: false, away: false, refused: false };
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
    pub(crate) fn open(&self, partition: &Partition) {
        // Without a runtime there is none; the next poll within one opens it.
        let Ok(runtime) = Handle::try_current() else { return };
        // Nothing is locked at the spawn: a runtime that is about to end drops the task at once.
        let begins = !std::mem::replace(&mut lock(&self.shared).running, true);
        if begins {
            let (shared, changed) = (self.shared.clone(), self.changed.clone());
            let task = Running { shared, changed, begun: false, ended: false };
            let (link, key) = (partition.connection.link.clone(), partition.keys.routes());
            runtime.spawn(run(task, link, key));
        }
    }
}

/// The running task. Dropped, it says that it does not run any more.
struct Running {
    shared: Arc<Mutex<Shared>>,
    changed: Arc<Notify>,
    begun: bool,
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
        if !self.begun {
            return; // The runtime that polls does not take tasks any more: it would try for ever.
        }
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
                    for inbox in inboxes(&shared, glob, |subscriber| subscriber.hears) {
                        let (channel, body) = (Arc::clone(&channel), Arc::clone(&body));
                        inbox.put(Entry::Heard { channel, body });
                    }
                }
                // What comes after this is heard again: exactly here is the end of a gap.
                (PushKind::PSubscribe, [Value::BulkString(glob), ..]) => {
                    let were_away = |subscriber: &mut Subscriber| {
                        (subscriber.hears, subscriber.refused) = (true, false);
                        std::mem::take(&mut subscriber.away)
                    };
                    for inbox in inboxes(&shared, glob, were_away) {
                        inbox.put(Entry::Gap);
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

    /// A new connection has no subscription yet.
    fn is_new(&self) {
        for subscriber in lock(&self.shared).subscribers.values_mut().flatten() {
            subscriber.away = subscriber.confirm.is_none();
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

    /// Answers those who wait for Redis to confirm a glob.
    fn confirm(&self, globs: &[String]) {
        let mut shared = lock(&self.shared);
        let of = shared.subscribers.iter_mut().filter(|(of, _)| globs.contains(of));
        let confirms = of.flat_map(|(_, subscribers)| subscribers);
        let confirms: Vec<_> =
            confirms.filter_map(|subscriber| subscriber.confirm.take()).collect();
        drop(shared);
        for confirm in confirms {
            let _ = confirm.send(Ok(())); // Who does not wait any more has left.
        }
    }

    /// Tells those who listen to a glob, or to any, that Redis refuses it: once, until it works.
    fn refuse(&self, glob: Option<&str>, error: impl Fn() -> Error) {
        let (mut confirms, mut inboxes) = (Vec::new(), Vec::new());
        let mut shared = lock(&self.shared);
        let of = shared.subscribers.iter_mut();
        let of = of.filter(|(of, _)| glob.is_none_or(|glob| glob == *of));
        for subscriber in of.flat_map(|(_, subscribers)| subscribers) {
            if let Some(confirm) = subscriber.confirm.take() {
                confirms.push(confirm);
            } else if !std::mem::replace(&mut subscriber.refused, true) {
                inboxes.push(subscriber.inbox.clone());
            }
        }
        drop(shared);
        for confirm in confirms {
            let _ = confirm.send(Err(error()));
        }
        inboxes.iter().for_each(|inbox| inbox.put(Entry::Refused(error())));
    }
}

/// The inboxes of those of a glob's subscribers that are `meant`.
fn inboxes(
    shared: &Mutex<Shared>,
    glob: &[u8],
    mut meant: impl FnMut(&mut Subscriber) -> bool,
) -> Vec<Arc<Inbox>> {
    let mut shared = lock(shared);
    let subscribers =
        std::str::from_utf8(glob).ok().and_then(|glob| shared.subscribers.get_mut(glob));
    let subscribers = subscribers
        .into_iter()
        .flatten()
        .filter_map(|subscriber| meant(subscriber).then(|| subscriber.inbox.clone()));
    subscribers.collect()
}

/// Keeps the connection and its subscriptions, until nobody listens any more.
async fn run(mut running: Running, link: Arc<Link>, key: String) {
    running.begun = true;
    let mut pause = Pause::default();
    while !running.ends() {
        let lost = Arc::default();
        match link.connect(running.pushes(&lost)).await {
            Ok(known) => {
                info!(target: "fairlane", address = &*link.address(), "listening");
                running.is_new();
                let from = Instant::now();
                let address = known.address.clone();
                tokio::select! {
                    () = link.leads_elsewhere(&address) => {}
                    () = session(&mut running, known, &lost, &link, &key) => {}
                }
                // One that soon breaks again and again is not made anew without a pause.
                if from.elapsed() > SHORT {
                    pause = Pause::default();
                }
            }
            Err(error) => {
                if let Err(refusal) = link.unreachable(error.clone()) {
                    let address = link.address();
                    warn!(target: "fairlane", address = &*address, %refusal, "cannot listen");
                    let again = || link.unreachable(error.clone()).err();
                    running.refuse(None, || again().unwrap_or_else(|| refused(error.clone())));
                }
            }
        }
        if !running.ends() {
            sleep(pause.next()).await;
        }
    }
}

/// Subscribes and unsubscribes as listeners come and go, until the connection is gone, or nobody
/// listens.
async fn session(
    running: &mut Running,
    mut known: Known,
    lost: &AtomicBool,
    link: &Link,
    key: &str,
) {
    let limit = link.settings.patience;
    let mut subscribed = BTreeSet::new();
    loop {
        let (asked, left) = running.changes(&subscribed);
        // All in one command; where one of them is refused, one by one.
        let mut several: Vec<&[String]> = asked.chunks(asked.len().max(1)).collect();
        while let Some(globs) = several.pop() {
            match timeout(limit, known.connection.psubscribe(globs)).await {
                Ok(Ok(())) => {
                    subscribed.extend(globs.iter().cloned());
                    running.confirm(globs);
                }
                Ok(Err(error)) if link.meant(&error) == Meaning::Refused => match globs {
                    [glob] => {
                        warn!(target: "fairlane", glob, %error, "refused; it is tried again");
                        running.refuse(Some(glob), || refused(error.clone()));
                    }
                    globs => several.extend(globs.chunks(1)),
                },
                _ => return,
            }
        }
        for glob in left {
            if !matches!(timeout(limit, known.connection.punsubscribe(&glob)).await, Ok(Ok(()))) {
                return;
            }
            subscribed.remove(&glob);
        }
        if running.ends() {
            return;
        }
        let quiet = timeout(limit, running.changed.notified()).await.is_err();
        if known.renew(link).await.is_err() {
            link.misleads();
            return;
        }
        if quiet {
            // A silent link does not break by itself. Nor does that to a node of a cluster that has
            // lost the others, and what is published there: it does not serve its keys any more.
            let mut command = redis::cmd("EXISTS");
            match timeout(limit, send(&mut known.connection, command.arg(key))).await {
                Ok(Err(error)) if link.meant(&error) == Meaning::Refused => {}
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => {
                    link.misleads();
                    return;
                }
            }
        }
        if lost.load(Ordering::Relaxed) {
            return;
        }
    }
}
