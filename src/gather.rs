//! Calls that concurrent tasks make at the same time go out as one.
//!
//! The first of them spawns a task, which lets the other tasks that are ready run once, and then
//! makes one call for all who have come. So no call waits for a clock, and one that is alone waits
//! for nobody.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

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
}

impl<Key: Clone + Eq + Hash, In, Out> Gather<Key, In, Out> {
    pub(crate) fn new(most: usize) -> Self {
        Self { parties: Mutex::default(), most }
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

    /// Joins the call that is about to go out, or begins one: `call` makes it, and replies to each
    /// of its callers. Dropped before it goes out, it is not among them; dropped later, it changes
    /// nothing. Returns nothing when the runtime ends meanwhile.
    pub(crate) async fn join<Call>(
        self: &Arc<Self>,
        key: Key,
        size: usize,
        input: In,
        call: impl FnOnce(Vec<(In, Reply<Out>)>) -> Call + Send + 'static,
    ) -> Option<Out>
    where
        Key: Send + 'static,
        In: Send + 'static,
        Out: Send + 'static,
        Call: Future<Output = ()> + Send + 'static,
    {
        let runtime = Handle::current();
        let group = (runtime.id(), key);
        let (reply, outcome) = oneshot::channel();
        if self.add(&group, size, (input, Reply(reply))) {
            let mut going = Going { gather: Some(self.clone()), group };
            runtime.spawn(async move {
                yield_now().await;
                let mut callers = going.callers();
                callers.retain(|(_, reply)| !reply.0.is_closed());
                if !callers.is_empty() {
                    call(callers).await;
                }
            });
        }
        outcome.await.ok()
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
