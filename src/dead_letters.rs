//! Dead letters: messages that a queue has given up, kept aside with their facets.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use redis::Value;
use tracing::warn;

use crate::{
    Cursor, Error, Headers, MessageId, Undecodable,
    connection::Repeat,
    core::{Core, if_there, read, some_have},
    error::{Result, unexpected},
    keys::{check_label, check_name},
    message::{Decode, Stored},
    opaque_debug,
    partition::Partition,
    scripts::{self, Script},
    stats::{look, or_nothing},
};

/// The most dead letters that one script moves or drops.
const MOST_OF_A_STEP: usize = 250;
/// About how many a page has.
const PAGE: usize = 100;

/// A message that a queue has given up; made by [`DeadLetters::page`].
#[derive(Debug)]
#[non_exhaustive]
pub struct DeadLetter<T> {
    /// The number of the message.
    pub id: MessageId,
    /// Whose it is.
    pub facet: String,
    /// What it is about.
    pub topic: String,
    /// How often it was leased.
    pub attempts: u32,
    /// How many of these leases ended.
    pub crashes: u32,
    /// Why it was given up.
    pub death: Death,
    /// Why it failed the last time, where somebody said so with [`fail`](crate::Delivery::fail) or
    /// [`bury`](crate::Delivery::bury).
    pub reason: Option<String>,
    /// When it was delivered, by the clock of Redis.
    pub delivered_at: SystemTime,
    /// When it was given up, by the clock of Redis.
    pub died_at: SystemTime,
    /// What went with the body.
    pub headers: Headers,
    /// The message.
    pub message: Result<T, Undecodable>,
}

/// Why a message was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Death {
    /// It had [`max_attempts`](crate::QueueSettings::max_attempts).
    Attempts,
    /// [`max_crashes`](crate::QueueSettings::max_crashes) of its leases ended.
    Crashes,
    /// It expired.
    Expired,
    /// Its facet had more messages waiting than [`max_waiting`](crate::FacetSettings::max_waiting).
    Overflow,
    /// A worker gave it up, with [`bury`](crate::Delivery::bury).
    Buried,
}

/// The dead letters of a queue, or of one of its facets; made by
/// [`Queue::dead_letters`](crate::Queue::dead_letters). Cheap to clone.
///
/// ```no_run
/// # use fairlane::Cursor;
/// # async fn example(queue: fairlane::Queue) -> fairlane::Result<()> {
/// let acme = queue.dead_letters().of("acme");
/// let (page, _more) = acme.page(Cursor::default()).await?;
/// for letter in page {
///     println!("{} after {} attempts: {:?}", letter.id, letter.attempts, letter.reason);
/// }
/// acme.redrive().await?; // all of them wait again, with all their attempts
/// # Ok(()) }
/// ```
pub struct DeadLetters<T> {
    pub(crate) core: Arc<Core>,
    pub(crate) queue: Arc<str>,
    /// None for those of all.
    pub(crate) facet: Option<Arc<str>>,
    pub(crate) decode: Decode<T>,
}

opaque_debug!(DeadLetters<T>);

impl<T> Clone for DeadLetters<T> {
    fn clone(&self) -> Self {
        let Self { core, queue, facet, decode } = self;
        let (core, decode) = (core.clone(), decode.clone());
        Self { core, queue: queue.clone(), facet: facet.clone(), decode }
    }
}

impl<T> DeadLetters<T> {
    /// Those of one facet alone.
    pub fn of(self, facet: impl std::fmt::Display) -> Self {
        Self { facet: Some(facet.to_string().into()), ..self }
    }

    /// A page of them, of about a hundred, and the cursor of the next page. Those of one facet come
    /// in the order in which they died, those of all in none.
    ///
    /// # Errors
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not registered and holds
    /// nothing.
    pub async fn page(&self, from: Cursor) -> Result<(Vec<DeadLetter<T>>, Option<Cursor>)> {
        let facet = self.check()?;
        let partition = match &self.facet {
            Some(facet) => Some(self.core.of_facet(facet)),
            None => from.partition(&self.core),
        };
        let Some(partition) = partition else { return Ok((Vec::new(), None)) };
        let place = partition.place as u32;
        let begins = from.at == Cursor::default().at;
        let from = if begins { String::new() } else { from.at };
        let ask = |command: &mut redis::Cmd| {
            command.arg(facet).arg(&from).arg(PAGE);
        };
        let page = look(partition, &scripts::DEAD_LETTERS, &self.queue, ask).await;
        let page = or_nothing(&self.core, &self.queue, page.and_then(read_page)).await;
        let (letters, next) = page?;
        let mut page = Vec::with_capacity(letters.len());
        for letter in letters {
            match letter {
                Ok(letter) => page.push(self.letter(partition, letter)),
                // Somebody else has put it there: it shall not hide the others.
                Err(error) => warn!(target: "fairlane", queue = &*self.queue, %error, "left out"),
            }
        }
        let next = match next.map(|next| Cursor { partition: place, ..next }) {
            None if self.facet.is_none() => Cursor::after(partition),
            next => next,
        };
        Ok((page, next))
    }

    /// Lets one of them join the end of its facet again, as if it was delivered now: with all its
    /// attempts, and no end of its own.
    ///
    /// # Errors
    /// [`NoSuchMessage`](crate::Error::NoSuchMessage) when it is not among them;
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not registered and holds
    /// nothing; [`Full`](crate::Error::Full) when Redis is out of memory.
    pub async fn redrive_one(&self, id: MessageId) -> Result<()> {
        self.one(&scripts::REDRIVE, id).await
    }

    /// Lets all of them join the ends of their facets again, in steps of 250: of each facet as many
    /// as of every other. Returns how many. How many may wait is not asked: they were let in before.
    ///
    /// # Errors
    /// As for [`redrive_one`](Self::redrive_one), but for `NoSuchMessage`. Where the namespace has several
    /// [`partitions`](crate::BrokerBuilder::partitions), all are tried, and
    /// [`Partly`](crate::Error::Partly) says on which of them it failed. What was moved before the error
    /// is moved: call again.
    pub async fn redrive(&self) -> Result<u64> {
        self.all(&scripts::REDRIVE).await
    }

    /// Drops one of them.
    ///
    /// # Errors
    /// As for [`redrive_one`](Self::redrive_one), but for `Full`.
    pub async fn purge_one(&self, id: MessageId) -> Result<()> {
        self.one(&scripts::DISCARD, id).await
    }

    /// Drops all of them, in steps of 250. Returns how many.
    ///
    /// # Errors
    /// As for [`redrive`](Self::redrive), but for `Full`.
    pub async fn purge(&self) -> Result<u64> {
        self.all(&scripts::DISCARD).await
    }

    async fn one(&self, script: &Script, id: MessageId) -> Result<()> {
        let partition = self.core.of_message(id);
        let facet = self.facet.as_ref();
        if facet.is_some_and(|facet| !Arc::ptr_eq(self.core.of_facet(facet), partition)) {
            return Err(Error::NoSuchMessage(id)); // It is of another facet.
        }
        match self.step(partition, script, &partition.number(id).to_string(), 0).await?.0 {
            0 => Err(Error::NoSuchMessage(id)),
            _ => Ok(()),
        }
    }

    async fn all(&self, script: &Script) -> Result<u64> {
        match &self.facet {
            Some(facet) => self.all_of(self.core.of_facet(facet), script).await,
            None => {
                self.check()?;
                let all = self
                    .core
                    .each(async |partition| if_there(self.all_of(partition, script).await));
                Ok(some_have(all.await?, &self.queue)?.into_iter().sum())
            }
        }
    }

    async fn all_of(&self, partition: &Partition, script: &Script) -> Result<u64> {
        let (mut count, mut by) = (0, 0);
        loop {
            // Those that die meanwhile are not among them. The last step moves nothing, or says what is
            // in the way.
            let (some, removed, begun) = match self.step(partition, script, "", by).await {
                // It is not registered, and those were all that it held.
                Err(Error::NoSuchQueue(_)) if by > 0 => return Ok(count),
                step => step?,
            };
            (count, by) = (count + some, begun);
            if removed == 0 {
                return Ok(count);
            }
        }
    }

    async fn step(
        &self,
        partition: &Partition,
        script: &Script,
        id: &str,
        by: u64,
    ) -> Result<(u64, u64, u64)> {
        let facet = self.check()?;
        let mut command = partition.command(script, &[&self.queue]);
        command.arg(&*self.queue).arg(facet).arg(id).arg(MOST_OF_A_STEP).arg(by);
        let reply = partition.call(script, &command, Repeat::Never).await;
        read(reply.map_err(|error| error.of(&self.queue))?.value)
    }

    /// The facet, "" for all.
    fn check(&self) -> Result<&str> {
        check_name(&self.queue)?;
        let Some(facet) = &self.facet else { return Ok("") };
        check_label("facet", facet)?;
        Ok(facet)
    }

    fn letter(
        &self,
        partition: &Partition,
        Letter { died_at, death, mut stored }: Letter,
    ) -> DeadLetter<T> {
        stored.is_of(partition);
        let message = stored.decode(&self.decode);
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let Stored { id, facet, topic, attempts, crashes, delivered_at, headers, reason, .. } =
            stored;
        DeadLetter {
            id,
            facet,
            topic,
            attempts,
            crashes,
            death,
            reason,
            delivered_at: at(delivered_at),
            died_at: at(died_at),
            headers,
            message,
        }
    }
}

/// A dead letter as a queue holds it.
#[derive(Debug)]
pub(crate) struct Letter {
    /// Ms since 1970, by the clock of Redis.
    pub(crate) died_at: u64,
    pub(crate) death: Death,
    pub(crate) stored: Stored,
}

impl Letter {
    /// Reads `<died at> <cause> <bytes of the facet> <facet><message>`.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self> {
        let read = || {
            let mut parts = raw.splitn(4, |byte| *byte == b' ');
            let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
            let (died_at, cause, len) = (number()?, number()?, number()?);
            let (facet, message) = parts.next()?.split_at_checked(len.try_into().ok()?)?;
            let death = match cause {
                1 => Death::Attempts,
                2 => Death::Crashes,
                3 => Death::Expired,
                5 => Death::Buried,
                _ => Death::Overflow,
            };
            let facet = String::from_utf8_lossy(facet).into_owned();
            Some(Self { died_at, death, stored: Stored::parse(facet, message) })
        };
        read().ok_or_else(|| unexpected("a dead letter that is none"))
    }
}

/// Reads a page of dead letters, what is none of them too, and where the next page begins.
pub(crate) fn read_page(values: Vec<Value>) -> Result<(Vec<Result<Letter>>, Option<Cursor>)> {
    let mut values = values.into_iter();
    let next: String = read(values.next().unwrap_or(Value::Nil))?;
    let mut letters = Vec::with_capacity(values.len() / 2);
    while let (Some(_id), Some(raw)) = (values.next(), values.next()) {
        letters.push(Letter::parse(&read::<Vec<u8>>(raw)?));
    }
    Ok((
        letters,
        Some(next).filter(|next| !next.is_empty()).map(|at| Cursor {
            set: 1,
            at,
            ..Cursor::default()
        }),
    ))
}
