//! Settling: ack, nack and extend, which the token of a lease decides on.

use std::{sync::Arc, time::Duration};

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
    let settled = settle_some(&partition, &how, &tokens).await;
    for (token, outcome) in tokens.iter().zip(&settled) {
        if let Err(Error::LeaseLost(_)) = outcome {
            metrics::lost(&partition, &token.queue);
        }
    }
    replies.into_iter().zip(settled).for_each(|(reply, outcome)| reply.give(outcome));
}

/// Settles leases, and says what became of each: one is not refused for another's fault. Where there are
/// several partitions, it `waits` for one that is away, or does not. Who calls it counts what was lost.
pub(crate) async fn settle_each(
    core: &Core,
    how: &Settling,
    tokens: &[Token],
    waits: bool,
) -> Vec<Result<()>> {
    if let [partition] = &*core.partitions {
        return settle_some(partition, how, tokens).await;
    }
    let parts = core.apart(tokens, |token| core.of_message(token.id));
    let settling = parts.into_iter().map(async |(partition, places)| {
        let some: Vec<_> = places.iter().map(|place| tokens[*place].clone()).collect();
        let away = if waits { None } else { partition.connection.is_away() };
        let settled = match away {
            Some(error) => vec![Err(error); some.len()],
            None => settle_some(partition, how, &some).await,
        };
        places.into_iter().zip(settled).collect::<Vec<_>>()
    });
    let mut settled: Vec<_> = join_all(settling).await.into_iter().flatten().collect();
    settled.sort_by_key(|(place, _)| *place);
    settled.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Settles leases. Returns the tokens that were lost.
pub(crate) async fn settle(core: &Core, how: &Settling, tokens: &[Token]) -> Result<Vec<Token>> {
    let (mut lost, mut failed) = (Vec::new(), Vec::new());
    for (token, outcome) in tokens.iter().zip(settle_each(core, how, tokens, true).await) {
        match outcome {
            Ok(()) => {}
            Err(Error::LeaseLost(_)) => lost.push(token.clone()),
            Err(error) => failed.push(error),
        }
    }
    if !matches!(how, Settling::Extend { .. }) {
        // Who extends counts them: a worker may know already.
        lost.iter().for_each(|token| metrics::lost(core.first(), &token.queue));
    }
    Error::of_several(failed).map_or(Ok(lost), Err)
}

/// Settles leases of one partition, those of all queues in one call for each 1,000, or more calls
/// where bodies are large. The last ones go first, so that what goes back to the front is there in the
/// order of the tokens.
async fn settle_some(partition: &Partition, how: &Settling, tokens: &[Token]) -> Vec<Result<()>> {
    let (mut outcomes, mut failed) = (Vec::with_capacity(tokens.len()), None);
    while outcomes.len() < tokens.len() {
        let left = &tokens[..tokens.len() - outcomes.len()];
        let part = &left[left.len().saturating_sub(MOST)..];
        let settled = settle_part(partition, how, part, &mut failed).await;
        for (token, outcome) in part.iter().rev().zip(settled.into_iter().rev()) {
            outcomes.push(match outcome {
                Some(outcome) => outcome,
                None => {
                    let alone = std::slice::from_ref(token);
                    let mut settled = settle_part(partition, how, alone, &mut failed).await;
                    let without =
                        || Err(unexpected("a settling that was refused without a reason"));
                    settled.pop().flatten().unwrap_or_else(without)
                }
            });
        }
    }
    outcomes.reverse();
    outcomes
}

/// Settles what one call settles of a part: the last ones. Says what became of each, in their order; none
/// of those that were refused, perhaps for another's fault: alone they are told why. When a call has
/// `failed`, no more are made.
async fn settle_part(
    partition: &Partition,
    how: &Settling,
    part: &[Token],
    failed: &mut Option<Error>,
) -> Vec<Option<Result<()>>> {
    if let Some(error) = failed {
        return vec![Some(Err(error.clone())); part.len()];
    }
    match call(partition, how, part).await {
        Ok(settled) => settled,
        Err(error) if error.is_of_one() && part.len() > 1 => vec![None; part.len()],
        Err(error) => {
            if !error.is_of_one() {
                *failed = Some(match error {
                    Error::MaybeApplied(_) => Error::not_made(),
                    _ => error.clone(),
                });
            }
            vec![Some(Err(error)); part.len()]
        }
    }
}

/// Makes that call.
async fn call(
    partition: &Partition,
    how: &Settling,
    part: &[Token],
) -> Result<Vec<Option<Result<()>>>> {
    let places = Places::of(part.iter().map(|token| &*token.queue));
    let script = how.script();
    let mut command = partition.command(script, places.queues());
    how.say(&mut command);
    for group in part.chunk_by(|a, b| a.lease == b.lease && a.queue == b.queue) {
        command.arg(places.place(&group[0].queue)).arg(group[0].lease).arg(group.len());
        let numbers = group.iter().map(|token| partition.number(token.id));
        command.arg(numbers.collect::<Vec<_>>());
    }
    let (end, durable) = (partition.connection.end(), how.durable());
    let reply = partition.call_durably(script, &command, Repeat::Safe, end, durable).await?;
    let fates = read_settled(reply.value, part.len())?;
    let told = part[part.len() - fates.len()..].iter().zip(fates);
    let settled = told.clone().filter(|(_, fate)| *fate == Fate::Settled);
    metrics::settled(partition, how, settled.map(|(token, _)| token));
    let done = match durable.zip(reply.confirmed) {
        Some((durable, confirmed)) if !durable.is_met(&confirmed) => Err(durable.unmet(confirmed)),
        _ => Ok(()),
    };
    let outcomes = told.map(|(token, fate)| match fate {
        Fate::Settled => Some(done.clone()),
        Fate::Lost if reply.repeated => {
            let why = "sent again after the connection broke: the first may have worked";
            Some(Err(Error::MaybeApplied(Cause::new(why))))
        }
        Fate::Lost => Some(Err(Error::LeaseLost(token.id))),
        Fate::Refused => None,
    });
    Ok(outcomes.collect())
}

/// What a script says of a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fate {
    Settled,
    Lost,
    /// Alone it is told why.
    Refused,
}

/// Reads what became of the last of so many tokens: as many as the call has settled.
pub(crate) fn read_settled(reply: Value, tokens: usize) -> Result<Vec<Fate>> {
    let numbers: Vec<i64> = read(reply)?;
    let [left, places @ ..] = numbers.as_slice() else {
        return Err(unexpected("a settling without a number"));
    };
    let none = || unexpected("a settling of tokens that there are not");
    let left = usize::try_from(*left).ok().filter(|left| *left < tokens).ok_or_else(none)?;
    let mut fates = vec![Fate::Settled; tokens - left];
    for place in places {
        let from_left = usize::try_from(place.unsigned_abs()).ok();
        let from_left = from_left.and_then(|place| place.checked_sub(left + 1));
        let fate = from_left.and_then(|place| fates.get_mut(place)).ok_or_else(none)?;
        *fate = if *place > 0 { Fate::Lost } else { Fate::Refused };
    }
    Ok(fates)
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
    fn only_tokens_that_were_sent_are_settled_lost_or_refused() {
        let read = |reply: &[i64]| {
            let reply = reply.iter().copied().map(Value::Int).collect();
            read_settled(Value::Array(reply), 3)
        };
        let (settled, lost, refused) = (Fate::Settled, Fate::Lost, Fate::Refused);
        assert_eq!(read(&[0]).unwrap(), [settled; 3]);
        assert_eq!(read(&[1, 2, -3]).unwrap(), [lost, refused]);
        for reply in [&[][..], &[3], &[-1], &[0, 0], &[0, 4], &[0, -4], &[1, 1], &[0, i64::MIN]] {
            assert!(matches!(read(reply), Err(Error::Server { .. })), "{reply:?}");
        }
    }
}
