//! The next messages of a worker, on their way to it.

use std::{future::pending, sync::Arc, time::Duration};

use futures_core::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, warn};

use crate::{
    Delivery, Error,
    ended::Ended,
    error::Result,
    in_hand::{InHand, span},
    link::Pause,
    serve::{First, LONGEST, Order, Unclaimed, first},
    work::Work,
};

/// The next messages, on their way.
pub(crate) enum Taking {
    No,
    /// Asks these queues. It is not broken off, since it may have leased.
    Asking(Arc<Order>, BoxFuture<'static, Result<First>>),
    /// Waits for them, until it is told not to.
    Waiting(Arc<Order>, BoxFuture<'static, Result<Unclaimed>>, CancellationToken),
    /// After an error that may pass.
    Paused(Instant),
}

impl<T: Send + Sync + 'static> Work<T> {
    /// What may be taken now: nothing where no handler is free.
    fn order(&self) -> Option<Order> {
        let worker = &self.worker;
        let free = worker.concurrency - self.running.len();
        let mut most_of = Vec::new();
        for (queue, most) in &worker.concurrency_of {
            let of = |in_hand: &&InHand<T>| in_hand.delivery.queue() == &**queue;
            most_of.push((queue.clone(), most - self.running.values().filter(of).count()));
        }
        let full = |queue: &Arc<str>| most_of.iter().any(|(of, most)| of == queue && *most == 0);
        let source = worker.source.only(|queue| !full(queue));
        // While nothing can be settled, more would only be more that comes back.
        if free == 0 || source.is_empty() || self.settle_at.is_some() {
            return None;
        }
        // What is in hand may come back, or lead to more: what is there without it is all there is.
        let wait = if self.until_empty && self.is_idle() { Duration::ZERO } else { LONGEST };
        let order = Order::new(source, free, Some(worker.length));
        Some(Order { most_of, wait, ..order })
    }

    pub(crate) fn take(&mut self) {
        match &self.taking {
            Taking::Asking(..) | Taking::Paused(_) => return,
            // A queue that has room again is to be waited for, too; or there is nothing to wait for.
            Taking::Waiting(waiting, _, stop) => {
                let other = |order: Order| {
                    order.wait.is_zero() || !order.source.is_part_of(&waiting.source)
                };
                if self.order().is_some_and(other) {
                    stop.cancel();
                }
                return;
            }
            Taking::No => {}
        }
        let Some(order) = self.order().map(Arc::new) else { return };
        let (core, asked) = (self.worker.core.clone(), order.clone());
        let asking = Box::pin(async move { first(&core, &asked).await });
        self.taking = Taking::Asking(order, asking);
    }

    pub(crate) fn taken(&mut self, taken: Result<Option<First>>) {
        let before = std::mem::replace(&mut self.taking, Taking::No);
        match (taken, before) {
            (Ok(Some(First::Served(served))), _) => {
                self.start(served);
            }
            // It stops.
            (Ok(_), _) if self.stopping.is_some() => {}
            (Err(error), _) if self.stopping.is_some() => {
                debug!(target: "fairlane", %error, "the last lease failed");
            }
            (Ok(Some(First::Nothing(_))), Taking::Asking(order, _)) if order.wait.is_zero() => {
                self.stop("nothing can be served now");
            }
            (Ok(Some(First::Nothing(waiting))), Taking::Asking(order, _)) => {
                let (core, waited) = (self.worker.core.clone(), order.clone());
                let (until, stop) = (Instant::now() + order.wait, CancellationToken::new());
                let told = stop.clone();
                let waiting =
                    async move { waiting.serve(&core, &waited, until, Some(&told)).await };
                self.taking = Taking::Waiting(order, Box::pin(waiting), stop);
            }
            // After a pause.
            (Ok(_), _) => {}
            (Err(error), _) if passes(&error) && !self.until_empty => {
                warn!(target: "fairlane", %error, "nothing could be leased; trying again");
                self.taking = Taking::Paused(Instant::now() + self.pause.next());
            }
            (Err(error), _) => {
                self.failed = Some(error);
                self.stop("it cannot lease");
            }
        }
    }

    /// Starts a handler for each of these. One that stops gives them back; so does another one what
    /// came so late that its lease has ended, since somebody else may have it.
    fn start(&mut self, served: Unclaimed) {
        let (queue, taken) = served.claim();
        let worker = &self.worker;
        let mut late = 0;
        for taken in taken {
            self.report.leased += 1;
            let extend_at = Instant::from_std(taken.asked) + worker.length / 3;
            let delivery =
                Arc::new(Delivery::new(&worker.core, &queue, worker.length, &worker.decode, taken));
            let span = span(&delivery);
            let ended = delivery.expires_at() <= std::time::Instant::now();
            late += u32::from(ended);
            if ended || self.stopping.is_some() {
                self.ended.push(Ended::given_back(delivery, span, Duration::ZERO));
                continue;
            }
            let (given, worker, begun) = (delivery.clone(), worker.clone(), Instant::now());
            let handling = async move {
                worker.before.iter().for_each(|hook| hook(&given));
                let outcome = (worker.handler)(given).await;
                (outcome, begun.elapsed())
            };
            let id = self.handlers.spawn(handling.instrument(span.clone())).id();
            self.running.insert(id, InHand { delivery, span, begun, extend_at, lost: false });
        }
        if late > 0 {
            let length = worker.length;
            warn!(target: "fairlane", queue = &*queue, late, ?length, "leases had ended when they came");
            self.taking = Taking::Paused(Instant::now() + self.pause.next());
        } else {
            self.pause = Pause::default();
        }
    }
}

impl Taking {
    /// Takes nothing new; what is on its way comes still.
    pub(crate) fn stop(&mut self) {
        match self {
            Self::Waiting(_, _, stop) => stop.cancel(),
            Self::Paused(_) => *self = Self::No,
            Self::No | Self::Asking(..) => {}
        }
    }

    /// What was taken; nothing after a pause.
    pub(crate) async fn next(&mut self) -> Result<Option<First>> {
        match self {
            Self::No => pending().await,
            Self::Asking(_, asking) => asking.await.map(Some),
            Self::Waiting(_, waiting, _) => Ok(Some(First::Served(waiting.await?))),
            Self::Paused(end) => {
                sleep_until(*end).await;
                Ok(None)
            }
        }
    }
}

/// Whether a worker goes on after this: it may pass by itself.
pub(crate) fn passes(error: &Error) -> bool {
    matches!(error, Error::NotSent(_) | Error::MaybeApplied(_) | Error::Server { .. } | Error::Full)
}
