//! A leased message in a worker's hand.

use std::{
    fmt::Display,
    num::NonZeroU32,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio_util::sync::CancellationToken;

use crate::{
    Error, MessageId, Replicas, Token, Undecodable,
    core::Core,
    durable::Durable,
    error::Result,
    lease::check_length,
    message::{Decode, Headers, Stored, check_cost, check_time},
    metrics, opaque_debug,
    settle::{NACK, Settling, ack_one, settle_one},
    take::Taken,
};

/// The most bytes that are kept of why a message failed.
const MOST_OF_A_REASON: usize = 1024;

/// A leased message: settle it with [`ack`](Self::ack), or with [`nack`](Self::nack),
/// [`fail`](Self::fail) or their like, before its lease ends.
///
/// Dropped unsettled, it comes back to the front of its facet when its lease ends.
#[must_use = "an unsettled delivery comes back when its lease ends"]
pub struct Delivery<T = serde_json::Value> {
    pub(crate) core: Arc<Core>,
    token: Token,
    stored: Stored,
    message: Result<T, Undecodable>,
    expires_at: Mutex<Instant>,
    /// There once somebody has asked for it, or cancels it.
    lost: OnceLock<CancellationToken>,
    /// How safe its ack is to be.
    durable: Option<Durable>,
}

opaque_debug!(Delivery<T>);

impl<T> Delivery<T> {
    pub(crate) fn new(
        core: &Arc<Core>,
        queue: &Arc<str>,
        length: Duration,
        decode: &Decode<T>,
        taken: Taken,
    ) -> Self {
        let Taken { stored, lease, asked } = taken;
        Self {
            core: core.clone(),
            token: Token { queue: queue.clone(), id: stored.id, lease },
            message: stored.decode(decode),
            stored,
            expires_at: Mutex::new(end(asked, length)),
            lost: OnceLock::new(),
            durable: None,
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

    /// How many of its leases before have ended without being settled.
    pub fn crashes(&self) -> u32 {
        self.stored.crashes
    }

    /// Why it failed the last time, where somebody said so with [`fail`](Self::fail).
    pub fn last_failure(&self) -> Option<&str> {
        self.stored.reason.as_deref()
    }

    /// What went with the body.
    pub fn headers(&self) -> &Headers {
        &self.stored.headers
    }

    /// The body, whatever it decodes to.
    pub fn body(&self) -> &[u8] {
        &self.stored.body
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
        ack_one(&self.core, &self.token, self.durable).await
    }

    /// Lets its ack wait until so many replicas have it, for at most `timeout`, as
    /// [`Message::durable`](crate::Message::durable) does for a delivery. Too few in that time is
    /// [`NotYetSafe`](crate::Error::NotYetSafe): should the primary be lost now, the message may come
    /// back though it was acked.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use fairlane::Replicas;
    /// # async fn example(delivery: fairlane::Delivery) -> fairlane::Result<()> {
    /// delivery.durable(Replicas(1), Duration::from_millis(500)).ack().await?;
    /// # Ok(()) }
    /// ```
    pub fn durable(mut self, replicas: Replicas, timeout: Duration) -> Self {
        self.durable = Some(Durable::new(replicas, timeout));
        self
    }

    /// Done, as [`ack`](Self::ack), and this is what it cost in fact, 0.001 to 1,000,000,000: the
    /// turn of its facet moves by what was charged too little or too much when it was leased.
    ///
    /// So a tenant whose messages are ten times as dear gets a tenth as many. Give
    /// [`Message::cost`](crate::Message::cost) what you expect: until the ack that is what counts, and
    /// who was charged too much is served before others until that is made up for.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack), and [`Invalid`](crate::Error::Invalid) for another cost.
    pub async fn ack_cost(self, cost: f64) -> Result<()> {
        ack_cost(&self.core, &self.token, cost, self.durable).await
    }

    /// Gives the message back to the front of its facet, for another attempt. After
    /// [`max_attempts`](crate::QueueSettings::max_attempts) it goes to the dead letters instead.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn nack(self) -> Result<()> {
        settle_one(&self.core, &NACK, &self.token).await
    }

    /// Gives the message back to the end of its facet after a time, 1 ms to 10 years, for another
    /// attempt, as [`nack`](Self::nack) does.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack), and [`Invalid`](crate::Error::Invalid) for another time.
    pub async fn nack_after(self, time: Duration) -> Result<()> {
        nack_after(&self.core, &self.token, time).await
    }

    /// Gives the message back, to be served again after the
    /// [`backoff`](crate::QueueSettings::backoff) of its queue, which grows with its attempts; after
    /// [`max_attempts`](crate::QueueSettings::max_attempts) it goes to the dead letters. Its next
    /// attempt and the dead letter know the reason, up to 1,024 bytes of it.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn fail(self, reason: impl Display) -> Result<()> {
        settle_one(&self.core, &failing(&reason, false), &self.token).await
    }

    /// Gives the message up: it goes to the dead letters now, whatever attempts it has left, since
    /// another one would be in vain. The dead letter knows the reason, up to 1,024 bytes of it.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn bury(self, reason: impl Display) -> Result<()> {
        settle_one(&self.core, &failing(&reason, true), &self.token).await
    }

    /// Gives the message back to the front of its facet, and serves nothing of that facet for a
    /// time, 1 ms to 10 years: somebody downstream has said to come back later. That is no attempt.
    ///
    /// A hold that is there already and ends later stays.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack), and [`Invalid`](crate::Error::Invalid) for another time.
    pub async fn hold_facet(self, time: Duration) -> Result<()> {
        hold_facet(&self.core, &self.token, time).await
    }

    /// Lets the lease end `lease` from now, 1 ms to 12 h. By shared reference, so that a heartbeat
    /// can run beside the handler.
    ///
    /// # Errors
    /// [`LeaseLost`](crate::Error::LeaseLost) when the lease has ended: stop working on the
    /// message. [`Invalid`](crate::Error::Invalid) when `lease` is out of its range.
    pub async fn extend(&self, lease: Duration) -> Result<()> {
        let extended = extend(&self.core, &self.token, lease).await;
        if let Err(Error::LeaseLost(_)) = extended {
            self.lost().cancel();
        }
        self.extended(extended?);
        Ok(())
    }

    /// Cancelled as soon as it is known that the lease is lost: stop working on the message, somebody
    /// else may have it.
    ///
    /// [`extend`](Self::extend) finds out, and a [`Worker`](crate::Worker), which extends the leases of
    /// what its handlers have in hand, and gives it back when its grace is over. Where neither is there, [`expires_at`](Self::expires_at) says
    /// when it ends.
    pub fn lost(&self) -> &CancellationToken {
        self.lost.get_or_init(CancellationToken::new)
    }

    /// The lease ends then.
    pub(crate) fn extended(&self, end: Instant) {
        *self.expires_at.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    /// Its worker knows that the lease is lost.
    pub(crate) fn lose(&self) {
        if !self.lost().is_cancelled() {
            metrics::lost(self.core.first(), &self.token.queue);
            self.lost().cancel();
        }
    }
}

pub(crate) async fn ack_cost(
    core: &Core,
    token: &Token,
    cost: f64,
    durable: Option<Durable>,
) -> Result<()> {
    check_cost(cost)?;
    durable.map_or(Ok(()), Durable::check)?;
    settle_one(core, &Settling::Ack { cost: Some(cost), durable }, token).await
}

pub(crate) async fn nack_after(core: &Core, token: &Token, time: Duration) -> Result<()> {
    check_time("time of a nack", time)?;
    settle_one(core, &Settling::Nack { counted: true, after: Some(time) }, token).await
}

/// Another attempt that failed, or the last one.
pub(crate) fn failing(reason: &impl Display, last: bool) -> Settling {
    let mut reason = reason.to_string();
    let end = (0..=MOST_OF_A_REASON.min(reason.len())).rfind(|at| reason.is_char_boundary(*at));
    reason.truncate(end.unwrap_or(0));
    Settling::Fail { reason, last }
}

pub(crate) async fn hold_facet(core: &Core, token: &Token, length: Duration) -> Result<()> {
    check_time("hold of a facet", length)?;
    settle_one(core, &Settling::HoldFacet { length }, token).await
}

/// Lets a lease end a time from now, and returns that instant.
pub(crate) async fn extend(core: &Core, token: &Token, length: Duration) -> Result<Instant> {
    check_length(length)?;
    let asked = Instant::now();
    let extended = settle_one(core, &Settling::Extend { length }, token).await;
    if let Err(Error::LeaseLost(_)) = extended {
        metrics::lost(core.first(), &token.queue);
    }
    extended.map(|()| end(asked, length))
}

/// When a lease ends that was asked for then: Redis counts in whole milliseconds from the one that
/// has begun.
pub(crate) fn end(asked: Instant, length: Duration) -> Instant {
    asked + Duration::from_millis(length.as_millis() as u64 - 1)
}
