//! Calls that concurrent tasks make at the same time go out as one.
//!
//! A call that is alone goes out at once. While one of the kind is under way, the next one spawns a
//! task, which lets the other tasks that are ready run once, and then makes one call for all who
//! have come. So nobody waits for a clock.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures_core::{future::BoxFuture, ready};
use tokio::{
    runtime::{Handle, Id},
    sync::oneshot,
    task::yield_now,
};

/// Where the outcome of a call goes.
pub(crate) struct Reply<Out>(oneshot::Sender<Out>);

impl<Out> Reply<Out> {
    /// Gives the outcome; where nobody waits for it any more, it is dropped.
    pub(crate) fn give(self, outcome: Out) {
        drop(self.0.send(outcome));
    }

    /// Whether anybody waits for it.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.0.is_closed()
    }
}

/// By runtime, since only the tasks of one that is driven go on, and by what all that go out
/// together have in common.
type Group<Key> = (Id, Key);

/// Those who go out together, and how much of a call they are.
struct Party<In, Out> {
    callers: Vec<(In, Reply<Out>)>,
    size: usize,
}

type Parties<Key, In, Out> = HashMap<Group<Key>, VecDeque<Party<In, Out>>>;

/// Calls of one kind that are about to go out. Each party has a task that is about to send it.
pub(crate) struct Gather<Key, In, Out> {
    parties: Mutex<Parties<Key, In, Out>>,
    /// How much may go out together.
    most: usize,
    /// Calls that are under way.
    away: AtomicUsize,
}

impl<Key: Clone + Eq + Hash, In, Out> Gather<Key, In, Out> {
    pub(crate) fn new(most: usize) -> Self {
        Self { parties: Mutex::default(), most, away: AtomicUsize::new(0) }
    }

    /// Adds a caller to the last party, or makes a new one where it does not fit; returns whether
    /// that is so.
    fn add(&self, group: &Group<Key>, size: usize, caller: (In, Reply<Out>)) -> bool {
        let mut parties = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        let parties = parties.entry(group.clone()).or_default();
        match parties.back_mut() {
            Some(last) if last.size + size <= self.most => {
                last.callers.push(caller);
                last.size += size;
                false
            }
            _ => {
                parties.push_back(Party { callers: vec![caller], size });
                true
            }
        }
    }

    /// Takes out the first party.
    fn remove(&self, group: &Group<Key>) -> Vec<(In, Reply<Out>)> {
        let mut parties = self.parties.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_group) = parties.get_mut(group) else { return Vec::new() };
        let first = of_group.pop_front();
        if of_group.is_empty() {
            parties.remove(group);
        }
        first.map(|party| party.callers).unwrap_or_default()
    }

    /// Makes a call, alone or together with others of the same key: `call` makes it, and replies to
    /// each of its callers. Where it `ends`, one that is under way when nobody waits for it any more
    /// is not broken off. One that is dropped before it goes out with others is not among them.
    /// Returns nothing when the runtime ends meanwhile.
    pub(crate) async fn join<Call>(
        self: &Arc<Self>,
        key: Key,
        size: usize,
        input: In,
        ends: bool,
        call: impl FnOnce(Vec<(In, Reply<Out>)>) -> Call + Send + 'static,
    ) -> Option<Out>
    where
        Key: Send + 'static,
        In: Send + 'static,
        Out: Send + 'static,
        Call: Future<Output = ()> + Send + 'static,
    {
        let (reply, mut outcome) = oneshot::channel();
        let caller = (input, Reply(reply));
        if let Some(away) = Away::alone(self) {
            let calling = Box::pin(async move {
                call(vec![caller]).await;
                drop(away);
            });
            Calling { call: Some(calling), begun: false, ends }.await;
            return outcome.try_recv().ok();
        }
        let runtime = Handle::current();
        let group = (runtime.id(), key);
        if self.add(&group, size, caller) {
            let mut going = Going { gather: Some(self.clone()), group };
            let gather = self.clone();
            runtime.spawn(async move {
                yield_now().await;
                let mut callers = going.callers();
                callers.retain(|(_, reply)| reply.is_awaited());
                if !callers.is_empty() {
                    let _away = Away::too(&gather);
                    call(callers).await;
                }
            });
        }
        outcome.await.ok()
    }
}

/// A call is under way for as long as this is there.
struct Away<Key, In, Out>(Arc<Gather<Key, In, Out>>);

impl<Key, In, Out> Away<Key, In, Out> {
    /// Where no other call is under way.
    fn alone(gather: &Arc<Gather<Key, In, Out>>) -> Option<Self> {
        let none = gather.away.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
        none.ok().map(|_| Self(gather.clone()))
    }

    fn too(gather: &Arc<Gather<Key, In, Out>>) -> Self {
        gather.away.fetch_add(1, Ordering::AcqRel);
        Self(gather.clone())
    }
}

impl<Key, In, Out> Drop for Away<Key, In, Out> {
    fn drop(&mut self) {
        self.0.away.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call that, where it `ends`, goes on in a task of its own when nobody waits for it any more.
struct Calling {
    /// None when it has ended.
    call: Option<BoxFuture<'static, ()>>,
    begun: bool,
    ends: bool,
}

impl Future for Calling {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.begun = true;
        if let Some(call) = &mut self.call {
            ready!(call.as_mut().poll(context));
            self.call = None;
        }
        Poll::Ready(())
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        if let (true, true, Some(call), Ok(runtime)) =
            (self.ends, self.begun, self.call.take(), Handle::try_current())
        {
            runtime.spawn(call);
        }
    }
}

/// A party that waits for its task. A runtime that ends drops its tasks: then nobody is left
/// waiting for one that is not there.
struct Going<Key: Clone + Eq + Hash, In, Out> {
    gather: Option<Arc<Gather<Key, In, Out>>>,
    group: Group<Key>,
}

impl<Key: Clone + Eq + Hash, In, Out> Going<Key, In, Out> {
    /// Those who have come.
    fn callers(&mut self) -> Vec<(In, Reply<Out>)> {
        self.gather.take().map(|gather| gather.remove(&self.group)).unwrap_or_default()
    }
}

impl<Key: Clone + Eq + Hash, In, Out> Drop for Going<Key, In, Out> {
    fn drop(&mut self) {
        drop(self.callers());
    }
}
