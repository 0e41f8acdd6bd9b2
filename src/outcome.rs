//! What becomes of a message that a handler has seen.

use std::time::Duration;

use crate::{
    Invalid, Result,
    delivery::failing,
    message::{check_cost, check_time},
    settle::{NACK, Settling},
};

/// What a handler says is to become of a message; `()` is [`Ack`](Self::Ack), and an error is
/// [`Fail`](Self::Fail).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// Done. As [`Delivery::ack`](crate::Delivery::ack).
    Ack,
    /// Done, and this is what it cost. As [`Delivery::ack_cost`](crate::Delivery::ack_cost).
    AckCost(f64),
    /// Another attempt after this time, or, where it is zero, now. As
    /// [`Delivery::nack_after`](crate::Delivery::nack_after).
    Retry(Duration),
    /// Another attempt after the backoff of the queue, for this reason. As
    /// [`Delivery::fail`](crate::Delivery::fail).
    Fail(String),
    /// No other attempt, for this reason. As [`Delivery::bury`](crate::Delivery::bury).
    Dead(String),
    /// Another attempt when its facet is served again, which is not before this time. As
    /// [`Delivery::hold_facet`](crate::Delivery::hold_facet).
    Hold(Duration),
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::Ack
    }
}

impl Outcome {
    /// This, and how it is carried out; where it cannot be, a failure that says so.
    pub(crate) fn checked(self) -> (Self, Settling) {
        match self.settling() {
            Ok(settling) => (self, settling),
            Err(invalid) => {
                let reason = format!("the handler returned {self:?}: {invalid}");
                let settling = failing(&reason, false);
                (Self::Fail(reason), settling)
            }
        }
    }

    fn settling(&self) -> Result<Settling, Invalid> {
        Ok(match self {
            Self::Ack => Settling::Ack { cost: None, durable: None },
            Self::AckCost(cost) => {
                check_cost(*cost)?;
                Settling::Ack { cost: Some(*cost), durable: None }
            }
            Self::Retry(Duration::ZERO) => NACK,
            Self::Retry(after) => {
                check_time("time of a retry", *after)?;
                Settling::Nack { counted: true, after: Some(*after) }
            }
            Self::Fail(reason) => failing(reason, false),
            Self::Dead(reason) => failing(reason, true),
            Self::Hold(length) => {
                check_time("hold of a facet", *length)?;
                Settling::HoldFacet { length: *length }
            }
        })
    }
}

/// What a worker tells of a message when its handler has ended; see
/// [`Worker::after`](crate::Worker::after).
#[derive(Debug)]
#[non_exhaustive]
pub struct Handled<'a> {
    /// What is to become of the message.
    pub outcome: &'a Outcome,
    /// Whether it became so. [`LeaseLost`](crate::Error::LeaseLost): it came back before that, and
    /// somebody else may have it. After any other error it comes back when its lease ends.
    pub settled: Result<()>,
    /// How long the handler took.
    pub took: Duration,
}

/// What a worker did, in messages; the others are parts of `leased`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Leased, each time.
    pub leased: u64,
    /// Done.
    pub acked: u64,
    /// Given back for another attempt, as the handler said.
    pub retried: u64,
    /// Given back after an error, or a panic.
    pub failed: u64,
    /// Given up, as the handler said.
    pub buried: u64,
    /// Given back with a hold of their facet.
    pub held: u64,
    /// Given back, and not counted as an attempt, because the worker stopped.
    pub given_back: u64,
    /// Came back before their handlers had ended.
    pub lost: u64,
    /// Of unknown fate, because Redis was away or refused the call: what was not settled comes back
    /// when its lease ends.
    pub unsettled: u64,
    /// Handlers that panicked. Their messages are among `failed`, or, where that could not be settled,
    /// `lost` and `unsettled`.
    pub panicked: u64,
}

impl Report {
    /// Counts one that was to be settled in this way.
    pub(crate) fn count(&mut self, how: &Settling) {
        *match how {
            Settling::Ack { .. } => &mut self.acked,
            Settling::Nack { counted: true, .. } => &mut self.retried,
            Settling::Nack { .. } => &mut self.given_back,
            Settling::Fail { last: false, .. } => &mut self.failed,
            Settling::Fail { .. } => &mut self.buried,
            Settling::HoldFacet { .. } => &mut self.held,
            Settling::Extend { .. } => return,
        } += 1;
    }
}
