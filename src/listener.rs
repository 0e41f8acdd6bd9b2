//! A listener: hears what is delivered to topics, live.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use futures_core::Stream;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    Error, Headers, Undecodable,
    core::Core,
    error::{Cause, Result},
    keys::check_label,
    message::{Decode, read_headers},
    opaque_debug,
};

/// How many messages wait for a listener that is slow, before the oldest fall off.
const MOST: usize = 1024;
/// How many bytes of them, unless a single one is larger.
const MOST_BYTES: usize = 16 << 20;

/// A message that was heard live.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Heard<T> {
    /// What it is about, without the namespace.
    pub topic: String,
    /// What went with the body.
    pub headers: Headers,
    /// The message.
    pub message: T,
}

/// What a listener did not hear. The stream goes on after each of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Missed {
    /// What was delivered while the connection was away, and what was on its way when it broke. From
    /// here on it hears again.
    #[error("the connection was away: messages of that time were missed")]
    Gap,
    /// Redis was away, and now refuses to let this listen: mend the credentials, or the ACL. It is
    /// tried again; a gap says when it hears again.
    #[error("Redis refuses the subscription; it is tried again")]
    Refused(#[source] Error),
    /// More than 1,024 messages, or 16 MiB of them, waited for this listener. It gets the newest.
    #[error("too slow: the {0} oldest messages were dropped")]
    Lagged(u64),
    /// The body is not what this broker decodes.
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
}

/// Hears what is delivered to matching topics, from when it was made on; made by
/// [`Broker::listen`](crate::Broker::listen). Ends its subscription when dropped; never ends by
/// itself.
pub struct Listener<T = serde_json::Value> {
    core: Arc<Core>,
    inbox: Arc<Inbox>,
    glob: String,
    decode: Decode<T>,
}

opaque_debug!(Listener<T>);

impl<T> Listener<T> {
    /// What is heard next, as the stream has it, for those who have no `StreamExt`. Dropped, it
    /// loses nothing.
    ///
    /// # Errors
    /// [`Missed`] says what was not heard. The stream goes on.
    pub async fn next(&mut self) -> Option<Result<Heard<T>, Missed>> {
        poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl<T> Stream for Listener<T> {
    type Item = Result<Heard<T>, Missed>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(entry) = self.inbox.next(context.waker()) else {
            // Its task may have ended with the runtime in which it was made.
            self.core.subscriptions.open(self.core.first());
            return Poll::Pending;
        };
        Poll::Ready(Some(match entry {
            Entry::Heard { channel, body } => {
                let from = self.core.first().keys.channel.len();
                let topic =
                    String::from_utf8_lossy(channel.get(from..).unwrap_or(&[])).into_owned();
                let (headers, body) = unframe(body);
                match (self.decode)(&body) {
                    Ok(message) => Ok(Heard { topic, headers, message }),
                    Err(source) => Err(Undecodable { id: None, topic, body, source }.into()),
                }
            }
            Entry::Gap => Err(Missed::Gap),
            Entry::Refused(error) => Err(Missed::Refused(error)),
            Entry::Lagged(n) => Err(Missed::Lagged(n)),
        }))
    }
}

/// Headers and body of what was published: the body, or, where there are headers, or the body begins
/// with a zero byte, that byte and `<bytes of headers> <headers><body>`.
pub(crate) fn unframe(payload: Arc<[u8]>) -> (Headers, Arc<[u8]>) {
    let read = || {
        let framed = payload.strip_prefix(b"\0")?;
        let end = framed.iter().position(|byte| *byte == b' ')?;
        let len = std::str::from_utf8(&framed[..end]).ok()?.parse().ok()?;
        let (headers, body) = framed[end + 1..].split_at_checked(len)?;
        Some((read_headers(headers), body.into()))
    };
    // What others publish is all body.
    read().unwrap_or_else(|| (Headers::new(), payload.clone()))
}

impl<T> Drop for Listener<T> {
    fn drop(&mut self) {
        self.core.subscriptions.leave(&self.glob, &self.inbox);
    }
}

/// Begins to listen. Returns when Redis has confirmed it.
pub(crate) async fn listen<T>(
    core: &Arc<Core>,
    glob: &str,
    decode: Decode<T>,
) -> Result<Listener<T>> {
    check_label("glob", glob)?;
    let glob = format!("{}{glob}", core.first().keys.channel);
    let (confirm, mut confirmed) = oneshot::channel();
    let inbox = core.subscriptions.join(&glob, confirm);
    let listener = Listener { core: core.clone(), inbox, glob, decode };
    let opening = poll_fn(|context| {
        // The task that was to confirm it may end with its runtime: then this is woken, and lets
        // another one run.
        listener.inbox.lock().waker = Some(context.waker().clone());
        core.subscriptions.open(core.first());
        Pin::new(&mut confirmed).poll(context)
    });
    match timeout(core.deadline, opening).await {
        Ok(Ok(result)) => result.map(|()| listener),
        Ok(Err(_)) => Err(Error::NotSent(Cause::new("the listening connection was closed"))),
        Err(_) => Err(Error::NotSent(Cause::timeout("no subscription in time"))),
    }
}

/// What waits for one listener.
#[derive(Default)]
pub(crate) struct Inbox(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// What fell off since it was last told.
    lagged: u64,
    /// That a gap was among it.
    gap: bool,
    waker: Option<Waker>,
}

#[derive(Debug)]
pub(crate) enum Entry {
    Heard { channel: Arc<[u8]>, body: Arc<[u8]> },
    Gap,
    Refused(Error),
    Lagged(u64),
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Heard { channel, body } => channel.len() + body.len(),
            Self::Gap | Self::Refused(_) | Self::Lagged(_) => 0,
        }
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, entry: Entry) {
        let mut waiting = self.lock();
        if matches!((&entry, waiting.entries.back()), (Entry::Gap, Some(Entry::Gap))) {
            return;
        }
        waiting.bytes += entry.bytes();
        waiting.entries.push_back(entry);
        while waiting.entries.len() > MOST
            || waiting.bytes > MOST_BYTES && waiting.entries.len() > 1
        {
            match waiting.entries.pop_front() {
                Some(Entry::Gap | Entry::Refused(_)) => waiting.gap = true,
                Some(entry) => {
                    waiting.bytes -= entry.bytes();
                    waiting.lagged += 1;
                }
                None => break,
            }
        }
        drop(waiting);
        self.wake();
    }

    /// Lets the listener be polled.
    pub(crate) fn wake(&self) {
        let waker = self.lock().waker.take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// The next entry, or none: then the waker is woken when there is one.
    fn next(&self, waker: &Waker) -> Option<Entry> {
        let mut waiting = self.lock();
        if std::mem::take(&mut waiting.gap) {
            return Some(Entry::Gap);
        }
        if waiting.lagged > 0 {
            return Some(Entry::Lagged(std::mem::take(&mut waiting.lagged)));
        }
        let entry = waiting.entries.pop_front();
        match &entry {
            Some(entry) => waiting.bytes -= entry.bytes(),
            None => waiting.waker = Some(waker.clone()),
        }
        entry
    }
}
