//! What a handler has ended with, until it is settled.

use std::{mem::take, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    task::{Id, JoinError},
    time::Instant,
};
use tracing::{Span, error, warn};

use crate::{
    Delivery, Error, Handled, Outcome, Token,
    error::{Cause, Result},
    in_hand::InHand,
    metrics,
    settle::{Settling, settle_each},
    taking::passes,
    work::{Returned, Work, caught, text_of},
};

/// After what time it is tried again to settle in a partition that was away.
const AGAIN: Duration = Duration::from_millis(200);

/// A message whose handler has ended.
pub(crate) struct Ended<T> {
    pub(crate) delivery: Arc<Delivery<T>>,
    pub(crate) span: Span,
    pub(crate) outcome: Outcome,
    pub(crate) settling: Settling,
    pub(crate) took: Duration,
    /// Whether it may be settled already, by a call that had no answer.
    pub(crate) doubtful: bool,
    /// When it is tried again, where others are not held up by that.
    pub(crate) again_at: Option<Instant>,
}

impl<T> Ended<T> {
    /// One that nobody has handled.
    pub(crate) fn given_back(delivery: Arc<Delivery<T>>, span: Span, took: Duration) -> Self {
        let settling = Settling::Nack { counted: false, after: None };
        Self {
            delivery,
            span,
            outcome: Outcome::Retry(Duration::ZERO),
            settling,
            took,
            doubtful: false,
            again_at: None,
        }
    }
}

impl<T: Send + Sync + 'static> Work<T> {
    /// A handler has ended.
    pub(crate) fn ended(&mut self, joined: Result<(Id, Returned), JoinError>) {
        let (id, outcome, took) = match joined {
            Ok((id, (outcome, took))) => (id, outcome, Some(took)),
            Err(failed) => {
                let id = failed.id();
                // One that was aborted is given back.
                let Ok(panic) = failed.try_into_panic() else { return };
                self.report.panicked += 1;
                (id, Err(format!("panicked: {}", text_of(panic))), None)
            }
        };
        let Some(InHand { delivery, span, begun, lost, .. }) = self.running.remove(&id) else {
            return;
        };
        let took = took.unwrap_or_else(|| begun.elapsed());
        let outcome = outcome.unwrap_or_else(Outcome::Fail);
        let (outcome, settling) = outcome.checked();
        metrics::handled(&delivery, &outcome, took, self.worker.facets);
        let ended =
            Ended { delivery, span, outcome, settling, took, doubtful: false, again_at: None };
        match lost {
            true => self.over(ended, None),
            false => self.ended.push(ended),
        }
    }

    /// Settles what has ended: what is settled in the same way, in one call.
    pub(crate) fn settle(&mut self) {
        if self.settling.is_some()
            || self.ended.is_empty()
            || self.settle_at.is_some_and(|at| at > Instant::now())
        {
            return;
        }
        // It has come, and must not wake anybody up while this call is under way.
        self.settle_at = None;
        let mut groups: Vec<Vec<Ended<T>>> = Vec::new();
        let now = Instant::now();
        let due = |ended: &mut Ended<T>| ended.again_at.is_none_or(|at| at <= now);
        for ended in self.ended.extract_if(.., due) {
            match groups.iter_mut().find(|group| group[0].settling == ended.settling) {
                Some(group) => group.push(ended),
                None => groups.push(vec![ended]),
            }
        }
        // What was leased together goes as one group; but what goes back to the front, in its order:
        // one that was leased again stands before those that were behind it.
        for group in &mut groups {
            let order = if group[0].settling.to_front() { Token::by_id } else { Token::by_lease };
            group.sort_by(|a, b| order(a.delivery.token(), b.delivery.token()));
        }
        if groups.is_empty() {
            return;
        }
        let token = |ended: &Ended<T>| ended.delivery.token().clone();
        let calls = groups.iter().map(|group| {
            let tokens: Vec<_> = group.iter().map(token).collect();
            let (core, how) = (self.worker.core.clone(), group[0].settling.clone());
            async move { settle_each(&core, &how, &tokens, false).await }
        });
        let calls = join_all(calls);
        self.settling = Some(Box::pin(async move { calls.await.into_iter().flatten().collect() }));
        self.in_settling = groups.into_iter().flatten().collect();
    }

    /// When there is something to be settled that was put off.
    pub(crate) fn settle_again(&self) -> Option<Instant> {
        if self.settling.is_some() {
            return None;
        }
        let all = self.settle_at.filter(|_| !self.ended.is_empty());
        self.ended.iter().filter_map(|ended| ended.again_at).chain(all).min()
    }

    pub(crate) fn settled(&mut self, outcomes: Vec<Result<()>>) {
        let (now, mut again) = (std::time::Instant::now(), false);
        for (mut ended, outcome) in take(&mut self.in_settling).into_iter().zip(outcomes) {
            let there = ended.delivery.expires_at() > now;
            match outcome {
                // Redis is away, or busy: again, as long as the lease can be there.
                Err(error) if there && passes(&error) && !error.is_of_one() => {
                    ended.doubtful |= matches!(error, Error::MaybeApplied(_));
                    match self.worker.core.partitions.len() {
                        1 => again = true,
                        // What others have goes on.
                        _ => ended.again_at = Some(Instant::now() + AGAIN),
                    }
                    self.ended.push(ended);
                }
                Err(Error::LeaseLost(_)) if ended.doubtful => {
                    let cause = Cause::new("a call without a reply may have settled it before");
                    self.over(ended, Some(Err(Error::MaybeApplied(cause))));
                }
                Err(Error::LeaseLost(_)) => self.over(ended, None),
                Err(Error::NotSent(_)) if !ended.doubtful => self.over(ended, None),
                outcome => self.over(ended, Some(outcome)),
            }
        }
        if again {
            self.settle_at = Some(Instant::now() + self.pause.next());
        }
    }

    /// Nothing more is done for a message. No outcome: its lease was lost.
    pub(crate) fn over(&mut self, ended: Ended<T>, outcome: Option<Result<()>>) {
        let Ended { delivery, span, outcome: wanted, settling, took, .. } = ended;
        let _in_span = span.enter();
        let settled = outcome.unwrap_or_else(|| Err(Error::LeaseLost(delivery.id())));
        match &settled {
            Ok(()) => {
                self.report.count(&settling);
                if let Outcome::Fail(reason) | Outcome::Dead(reason) = &wanted {
                    warn!(target: "fairlane", reason, "failed");
                }
            }
            Err(Error::LeaseLost(_)) => {
                delivery.lose();
                self.report.lost += 1;
                warn!(target: "fairlane", "its lease was lost before its handler had ended");
            }
            Err(error) => {
                self.report.unsettled += 1;
                warn!(target: "fairlane", %error, "not settled");
            }
        }
        let handled = Handled { outcome: &wanted, settled, took };
        for hook in &self.worker.after {
            if let Err(said) = caught(|| hook(&delivery, &handled)) {
                error!(target: "fairlane", "a hook panicked: {said}");
            }
        }
        if let Err(said) = caught(|| drop(delivery)) {
            error!(target: "fairlane", "a message panicked when it was dropped: {said}");
        }
    }
}
