//! A leased message in a worker's hand.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use crate::{
    MessageId, Token, Undecodable,
    core::Core,
    error::Result,
    lease::check_length,
    message::{Decode, Stored},
    opaque_debug,
    settle::{Settling, ack_one, settle_one},
    take::Taken,
};

/// A leased message: settle it with [`ack`](Self::ack) or [`nack`](Self::nack) before its lease
/// ends.
///
/// Dropped unsettled, it comes back to the front of its facet when its lease ends.
#[must_use = "an unsettled delivery comes back when its lease ends"]
pub struct Delivery<T = serde_json::Value> {
    core: Arc<Core>,
    token: Token,
    stored: Stored,
    message: Result<T, Undecodable>,
    expires_at: Mutex<Instant>,
}

opaque_debug!(Delivery<T>);

impl<T> Delivery<T> {
    pub(crate) fn new(
        core: &Arc<Core>,
        queue: &Arc<str>,
        length: Duration,
        decode: Decode<T>,
        taken: Taken,
    ) -> Self {
        let Taken { stored, lease, asked } = taken;
        Self {
            core: core.clone(),
            token: Token { queue: queue.clone(), id: stored.id, lease },
            message: stored.decode(decode),
            stored,
            expires_at: Mutex::new(end(asked, length)),
        }
    }

    /// The message.
    ///
    /// # Errors
    /// [`Undecodable`] when its body is not what this broker decodes; the delivery is still yours
    /// to settle.
    pub fn message(&self) -> Result<&T, Undecodable> {
        self.message.as_ref().map_err(Clone::clone)
    }

    /// The number of the message, as its receipt had it.
    pub fn id(&self) -> MessageId {
        self.token.id
    }

    /// The queue it was leased from.
    pub fn queue(&self) -> &str {
        &self.token.queue
    }

    /// Whose it is.
    pub fn facet(&self) -> &str {
        &self.stored.facet
    }

    /// What it is about.
    pub fn topic(&self) -> &str {
        &self.stored.topic
    }

    /// How often it was leased, this time included: 1 the first time.
    pub fn attempt(&self) -> NonZeroU32 {
        NonZeroU32::MIN.saturating_add(self.stored.attempts)
    }

    /// When it was delivered, by the clock of Redis, in whole milliseconds.
    pub fn delivered_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.stored.delivered_at)
    }

    /// When its lease ends, counted on the local monotonic clock from before the call was sent:
    /// never later than by the clock of Redis.
    pub fn expires_at(&self) -> Instant {
        *self.expires_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to settle it, for [`Broker::ack`](crate::Broker::ack) and its like, here or in
    /// another process.
    pub fn token(&self) -> &Token {
        &self.token
    }

    pub(crate) fn into_token(self) -> Token {
        self.token
    }

    /// Done: forgets the message. Sent again by itself within the deadline of the broker.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::Error::LeaseLost) when somebody else may have the message now. After
    /// [`MaybeApplied`](crate::Error::MaybeApplied) and [`NotSent`](crate::Error::NotSent) there is
    /// nothing to do but to log it: if it was not applied, the message comes back. Who wants to go
    /// on trying keeps the token.
    ///
    /// It consumes the delivery, so that a second ack does not compile:
    ///
    /// ```compile_fail,E0382
    /// # async fn example(delivery: fairlane::Delivery) -> fairlane::Result<()> {
    /// delivery.ack().await?;
    /// delivery.ack().await?;
    /// # Ok(()) }
    /// ```
    pub async fn ack(self) -> Result<()> {
        ack_one(&self.core, &self.token).await
    }

    /// Gives the message back to the front of its facet, for another attempt.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn nack(self) -> Result<()> {
        settle_one(&self.core, Settling::Nack { counted: true }, &self.token).await
    }

    /// Lets the lease end `lease` from now, 1 ms to 12 h. By shared reference, so that a heartbeat
    /// can run beside the handler.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::Error::LeaseLost) when the lease has ended: stop working on the
    /// message. [`Invalid`](crate::Error::Invalid) when `lease` is out of its range.
    pub async fn extend(&self, lease: Duration) -> Result<()> {
        let end = extend(&self.core, &self.token, lease).await?;
        *self.expires_at.lock().unwrap_or_else(PoisonError::into_inner) = end;
        Ok(())
    }
}

/// Lets a lease end a time from now, and returns that instant.
pub(crate) async fn extend(core: &Core, token: &Token, length: Duration) -> Result<Instant> {
    check_length(length)?;
    let asked = Instant::now();
    settle_one(core, Settling::Extend { length }, token).await?;
    Ok(end(asked, length))
}

/// When a lease ends that was asked for then: Redis counts in whole milliseconds from the one that
/// has begun.
fn end(asked: Instant, length: Duration) -> Instant {
    asked + Duration::from_millis(length.as_millis() as u64 - 1)
}
