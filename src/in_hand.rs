//! What a worker has in hand: messages whose handlers run, and the time of their leases.

use std::sync::Arc;

use tokio::{task::Id, time::Instant};
use tracing::{Span, info_span, warn};

use crate::{
    Delivery, Error, Token,
    delivery::end,
    error::Result,
    settle::{Settling, settle_each},
    work::Work,
};

/// A message whose handler runs.
pub(crate) struct InHand<T> {
    pub(crate) delivery: Arc<Delivery<T>>,
    pub(crate) span: Span,
    pub(crate) begun: Instant,
    pub(crate) extend_at: Instant,
    /// Whether its lease is known to be lost.
    pub(crate) lost: bool,
}

impl<T> InHand<T> {
    fn lose(&mut self) {
        self.lost = true;
        self.delivery.lose();
    }
}

/// What became of leases that were to have more time.
pub(crate) struct Extended {
    tokens: Vec<(Id, Token)>,
    asked: std::time::Instant,
    outcomes: Vec<Result<()>>,
}

impl<T: Send + Sync + 'static> Work<T> {
    /// Gives more time to what has had a third of it, and to what will have soon.
    pub(crate) fn extend(&mut self) {
        let now = Instant::now();
        let length = self.worker.length;
        let due = |in_hand: &InHand<T>| !in_hand.lost && in_hand.extend_at <= now;
        if self.extending.is_some() || !self.running.values().any(due) {
            return;
        }
        let soon = now + length / 10;
        let mut tokens: Vec<_> = (self.running.iter())
            .filter(|(_, in_hand)| !in_hand.lost && in_hand.extend_at <= soon)
            .map(|(id, in_hand)| (*id, in_hand.delivery.token().clone()))
            .collect();
        tokens.sort_by(|(_, a), (_, b)| a.by_lease(b));
        let core = self.worker.core.clone();
        self.extending = Some(Box::pin(async move {
            let asked = std::time::Instant::now();
            let all: Vec<_> = tokens.iter().map(|(_, token)| token.clone()).collect();
            let outcomes = settle_each(&core, &Settling::Extend { length }, &all, false).await;
            Extended { tokens, asked, outcomes }
        }));
    }

    pub(crate) fn extended(&mut self, Extended { tokens, asked, outcomes }: Extended) {
        let length = self.worker.length;
        let (mut failed, mut why) = (0, None);
        for ((id, _), outcome) in tokens.into_iter().zip(outcomes) {
            let Some(in_hand) = self.running.get_mut(&id) else { continue };
            match outcome {
                Ok(()) => {
                    in_hand.delivery.extended(end(asked, length));
                    in_hand.extend_at = Instant::from_std(asked) + length / 3;
                }
                Err(Error::LeaseLost(_)) => in_hand.lose(),
                Err(error) => {
                    in_hand.extend_at = Instant::now() + length / 20;
                    (failed, why) = (failed + 1, Some(error));
                }
            }
        }
        if let Some(error) = why {
            warn!(target: "fairlane", failed, %error, "leases not extended");
        }
    }

    /// When a lease is to be extended, or has ended; or what was put off is to be done.
    pub(crate) fn wake_up(&self) -> Option<Instant> {
        let leases = self.running.values().filter(|in_hand| !in_hand.lost).map(|in_hand| {
            let end = Instant::from_std(in_hand.delivery.expires_at());
            if self.extending.is_some() { end } else { in_hand.extend_at.min(end) }
        });
        leases.chain(self.settle_again()).min()
    }

    /// Tells the handlers whose leases have ended.
    pub(crate) fn look_at_leases(&mut self) {
        let now = std::time::Instant::now();
        for in_hand in self.running.values_mut() {
            if !in_hand.lost && in_hand.delivery.expires_at() <= now {
                in_hand.lose();
            }
        }
    }
}

/// The span of a message. Where its sender was part of a trace, it is another part of that, and none
/// of what the worker was started in.
pub(crate) fn span<T>(delivery: &Delivery<T>) -> Span {
    let trace = delivery.headers().get("traceparent").and_then(|header| trace_context(header));
    let (queue, facet, topic) = (delivery.queue(), delivery.facet(), delivery.topic());
    let (id, attempt) = (delivery.id().0, delivery.attempt().get());
    match trace {
        Some((trace_id, parent_id)) => info_span!(
            target: "fairlane", parent: None, "handle", queue, facet, topic, id, attempt, trace_id, parent_id
        ),
        None => {
            info_span!(target: "fairlane", "handle", queue, facet, topic, id, attempt)
        }
    }
}

/// Trace and parent, of a header as the W3C has it: `00-<32 hex>-<16 hex>-<flags>`.
fn trace_context(header: &str) -> Option<(&str, &str)> {
    let mut parts = header.split('-');
    let mut hex = |len: usize| {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        parts.next().filter(|part| part.len() == len && part.bytes().all(digit))
    };
    let version = hex(2).filter(|version| *version != "ff")?;
    let ids = [hex(32)?, hex(16)?];
    hex(2)?;
    // A later version may have more parts.
    let ends = version != "00" || parts.next().is_none();
    let real = |id: &&str| id.bytes().any(|digit| digit != b'0');
    (ends && ids.iter().all(real)).then_some((ids[0], ids[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_is_read_and_what_is_none_is_not() {
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        assert_eq!(trace_context(&format!("00-{trace}-{parent}-01")), Some((trace, parent)));
        assert_eq!(trace_context(&format!("cc-{trace}-{parent}-01-more")), Some((trace, parent)));
        for header in [
            String::new(),
            format!("00-{trace}-{parent}"),
            format!("00-{trace}-{parent}-01-more"),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}x-{parent}-01"),
        ] {
            assert_eq!(trace_context(&header), None, "{header}");
        }
    }
}
