//! Settling: ack, nack and extend, which the token of a lease decides on.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{Cmd, Value};

use crate::{
    Error, Token,
    connection::Repeat,
    core::{Core, read},
    durable::Durable,
    error::{Cause, Result, runtime_ended, unexpected},
    gather::{Gather, Reply},
    keys::Places,
    metrics,
    partition::Partition,
    random,
    scripts::{self, Script},
};

/// The most tokens that one script settles.
const MOST: usize = 1000;

/// What to do with a lease.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Settling {
    /// `cost`: what it was, where that is not what it was delivered with. `durable`: when it is as good
    /// as done.
    Ack { cost: Option<f64>, durable: Option<Durable> },
    /// `counted`: whether it was an attempt, as it is when somebody saw the message. `after`: when it
    /// is served again; none for next of its facet.
    Nack { counted: bool, after: Option<Duration> },
    /// After the backoff of the queue, or, where it is the `last` attempt, never.
    Fail { reason: String, last: bool },
    /// With its facet, for a time.
    HoldFacet { length: Duration },
    /// Not at all: it has more time.
    Extend { length: Duration },
}

/// The lease was of a message that was seen, and is the next of its facet again.
pub(crate) const NACK: Settling = Settling::Nack { counted: true, after: None };
/// It is done, and cost what was thought.
pub(crate) const ACK: Settling = Settling::Ack { cost: None, durable: None };

impl Settling {
    fn script(&self) -> &'static Script {
        match self {
            Self::Ack { .. } => &scripts::ACK,
            Self::Nack { .. } => &scripts::NACK,
            Self::Fail { .. } => &scripts::FAIL,
            Self::HoldFacet { .. } => &scripts::HOLD_FACET,
            Self::Extend { .. } => &scripts::EXTEND,
        }
    }

    fn durable(&self) -> Option<Durable> {
        match self {
            Self::Ack { durable, .. } => *durable,
            _ => None,
        }
    }

    /// Whether it puts messages at the front of their facets.
    pub(crate) fn to_front(&self) -> bool {
        matches!(self, Self::Nack { after: None, .. } | Self::HoldFacet { .. })
    }

    /// Adds what the script wants to know before the leases.
    fn say(&self, command: &mut Cmd) {
        match self {
            Self::Ack { cost, .. } => {
                command.arg(cost.map(|cost| cost.to_string()).unwrap_or_default());
            }
            Self::Nack { counted, after } => {
                let after = after.map(|after| after.as_millis().to_string());
                command.arg(u8::from(*counted)).arg(after.unwrap_or_default());
            }
            Self::Fail { reason, last } => {
                command.arg(reason).arg(random::share()).arg(u8::from(*last));
            }
            Self::HoldFacet { length } | Self::Extend { length } => {
                command.arg(length.as_millis() as u64);
            }
        }
    }
}

/// Acks of concurrent tasks, on their way out.
pub(crate) type Acks = Gather<Option<Durable>, Token, Result<()>>;

impl Acks {
    pub(crate) fn of_a_part() -> Arc<Self> {
        Arc::new(Self::new(MOST))
    }
}

/// Acks a lease, together with those that other tasks ack at the same time.
pub(crate) async fn ack_one(
    core: &Arc<Core>,
    token: &Token,
    durable: Option<Durable>,
) -> Result<()> {
    durable.map_or(Ok(()), Durable::check)?;
    let partition = core.of_message(token.id);
    let (shared, how) = (partition.clone(), Settling::Ack { cost: None, durable });
    let acking = partition
        .acks
        .join(durable, 1, token.clone(), false, |callers| together(shared, how, callers));
    acking.await.unwrap_or_else(|| Err(runtime_ended()))
}

async fn together(
    partition: Arc<Partition>,
    how: Settling,
    mut callers: Vec<(Token, Reply<Result<()>>)>,
) {
    callers.sort_by(|(a, _), (b, _)| a.by_lease(b));
    let (tokens, replies): (Vec<_>, Vec<_>) = callers.into_iter().unzip();
    let settled = settle_some_apart(&partition, &how, &tokens).await;
    for (token, outcome) in tokens.iter().zip(&settled) {
        if let Err(Error::LeaseLost(_)) = outcome {
            metrics::lost(&partition, &token.queue);
        }
    }
    replies.into_iter().zip(settled).for_each(|(reply, outcome)| reply.give(outcome));
}

/// Settles leases together, and says what became of each: one is not refused for another's fault, and
/// none waits for a partition that is away. Who calls it counts those that were lost.
pub(crate) async fn settle_apart(core: &Core, how: &Settling, tokens: &[Token]) -> Vec<Result<()>> {
    if let [partition] = &*core.partitions {
        return settle_some_apart(partition, how, tokens).await;
    }
    let parts = core.apart(tokens, |token| core.of_message(token.id));
    let settling = parts.into_iter().map(async |(partition, places)| {
        let some: Vec<_> = places.iter().map(|place| tokens[*place].clone()).collect();
        let settled = match partition.connection.is_away() {
            Some(error) => vec![Err(error); some.len()],
            None => settle_some_apart(partition, how, &some).await,
        };
        places.into_iter().zip(settled).collect::<Vec<_>>()
    });
    let mut settled: Vec<_> = join_all(settling).await.into_iter().flatten().collect();
    settled.sort_by_key(|(place, _)| *place);
    settled.into_iter().map(|(_, outcome)| outcome).collect()
}

/// The same for those of one partition.
async fn settle_some_apart(
    partition: &Partition,
    how: &Settling,
    tokens: &[Token],
) -> Vec<Result<()>> {
    let mut settled = settle_some(partition, how, tokens).await;
    let mut outcomes = Vec::with_capacity(tokens.len());
    for token in tokens {
        outcomes.push(match &mut settled {
            Ok(lost) => match lost.iter().position(|lost| lost.token == *token) {
                Some(place) => Err(lost.swap_remove(place).error()),
                None => Ok(()),
            },
            Err(error) if error.is_of_one() && tokens.len() > 1 => {
                let again = match settle_some(partition, how, std::slice::from_ref(token)).await {
                    Ok(lost) => lost.first().map_or(Ok(()), |lost| Err(lost.error())),
                    Err(error) => Err(error),
                };
                if again.as_ref().is_err_and(|error| !error.is_of_one()) {
                    settled = Err(Error::not_made());
                }
                again
            }
            Err(error) => Err(error.clone()),
        });
    }
    outcomes
}

/// A token that is not the caller's any more.
struct Lost {
    token: Token,
    /// Whether this call may have settled it, when it was sent before the connection broke.
    doubtful: bool,
}

impl Lost {
    fn error(&self) -> Error {
        if self.doubtful {
            let why = "sent again after the connection broke: the first may have worked";
            return Error::MaybeApplied(Cause::new(why));
        }
        Error::LeaseLost(self.token.id)
    }
}

/// Settles leases. Returns the tokens that were lost.
pub(crate) async fn settle(core: &Core, how: &Settling, tokens: &[Token]) -> Result<Vec<Token>> {
    let lost = settle_each(core, how, tokens).await?;
    if !matches!(how, Settling::Extend { .. }) {
        // Who extends counts them: a worker may know already.
        let lost = lost.iter().filter(|lost| !lost.doubtful);
        lost.for_each(|lost| metrics::lost(core.first(), &lost.token.queue));
    }
    match lost.iter().find(|lost| lost.doubtful) {
        Some(lost) => Err(lost.error()),
        None => Ok(lost.into_iter().map(|lost| lost.token).collect()),
    }
}

/// Settles leases, those of each partition in their order.
async fn settle_each(core: &Core, how: &Settling, tokens: &[Token]) -> Result<Vec<Lost>> {
    if let [partition] = &*core.partitions {
        return settle_some(partition, how, tokens).await;
    }
    let parts = core.apart(tokens, |token| core.of_message(token.id));
    let settling = parts.into_iter().map(async |(partition, places)| {
        let some: Vec<_> = places.into_iter().map(|place| tokens[place].clone()).collect();
        settle_some(partition, how, &some).await
    });
    // What one partition refuses is no reason to leave off on another.
    let (mut lost, mut failed) = (Vec::new(), Vec::new());
    for settled in join_all(settling).await {
        match settled {
            Ok(some) => lost.extend(some),
            Err(error) => failed.push(error),
        }
    }
    match failed.into_iter().min_by_key(|error| Reverse(error.doubt())) {
        None => Ok(lost),
        Some(error) => Err(error),
    }
}

/// Settles leases of one partition, those of all queues in one call for each 1,000, or more calls
/// where bodies are large.
async fn settle_some(partition: &Partition, how: &Settling, tokens: &[Token]) -> Result<Vec<Lost>> {
    let mut lost = Vec::new();
    for part in tokens.chunks(MOST) {
        let mut places = Vec::new();
        let mut left = part.len();
        while left > 0 {
            left = some(partition, how, &part[..left], &mut places).await?;
        }
        places.sort_unstable();
        lost.extend(places.into_iter().filter_map(|(place, doubtful)| {
            Some(Lost { token: part.get(place - 1)?.clone(), doubtful })
        }));
    }
    Ok(lost)
}

/// Settles some of the tokens, the last ones first. Adds the places of those that were lost,
/// counted from 1, and whether that is doubtful. Returns how many are left, at the beginning.
async fn some(
    partition: &Partition,
    how: &Settling,
    tokens: &[Token],
    lost: &mut Vec<(usize, bool)>,
) -> Result<usize> {
    let places = Places::of(tokens.iter().map(|token| &*token.queue));
    let script = how.script();
    let mut command = partition.command(script, places.queues());
    how.say(&mut command);
    for group in tokens.chunk_by(|a, b| a.lease == b.lease && a.queue == b.queue) {
        command.arg(places.place(&group[0].queue)).arg(group[0].lease).arg(group.len());
        let numbers = group.iter().map(|token| partition.number(token.id));
        command.arg(numbers.collect::<Vec<_>>());
    }
    let (end, durable) = (partition.connection.end(), how.durable());
    let reply = partition.call_durably(script, &command, Repeat::Safe, end, durable).await?;
    let (left, lost_places) = read_settled(reply.value, tokens.len())?;
    metrics::settled(partition, how, tokens, left, &lost_places);
    lost.extend(lost_places.into_iter().map(|place| (place, reply.repeated)));
    match durable.zip(reply.confirmed) {
        // What was lost was not done.
        Some((durable, confirmed)) if !durable.is_met(&confirmed) && lost.len() < tokens.len() => {
            Err(durable.unmet(confirmed))
        }
        _ => Ok(left),
    }
}

/// Reads how many of the tokens are left, and the places of those that were lost, counted from 1.
pub(crate) fn read_settled(reply: Value, tokens: usize) -> Result<(usize, Vec<usize>)> {
    let numbers: Vec<usize> = read(reply)?;
    let [left, lost @ ..] = numbers.as_slice() else {
        return Err(unexpected("a settling without a number"));
    };
    if *left >= tokens || !lost.iter().all(|place| (*left + 1..=tokens).contains(place)) {
        return Err(unexpected("a settling of tokens that there are not"));
    }
    Ok((*left, lost.to_vec()))
}

/// Settles one lease.
pub(crate) async fn settle_one(core: &Core, how: &Settling, token: &Token) -> Result<()> {
    match settle(core, how, std::slice::from_ref(token)).await?.first() {
        Some(lost) => Err(Error::LeaseLost(lost.id)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_that_were_sent_are_settled_or_lost() {
        let read = |reply: &[i64]| {
            let reply = reply.iter().copied().map(Value::Int).collect();
            read_settled(Value::Array(reply), 3)
        };
        assert_eq!(read(&[0]).unwrap(), (0, vec![]));
        assert_eq!(read(&[1, 2, 3]).unwrap(), (1, vec![2, 3]));
        for reply in [&[][..], &[3], &[-1], &[0, 0], &[0, 4], &[1, 1]] {
            assert!(matches!(read(reply), Err(Error::Server { .. })), "{reply:?}");
        }
    }
}
