//! Deliver: the messages of a call go out in parts, each of them one script.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use redis::Value;
use tokio::time::Instant;

use crate::{
    Error, MessageId, Receipt, Refusal,
    connection::Repeat,
    core::{Core, read},
    durable::Durable,
    error::{Result, runtime_ended, unexpected},
    gather::{Gather, Reply},
    keys::Places,
    link::Pause,
    message::Ready,
    metrics,
    partition::Partition,
    routes::Routes,
    scripts,
};

/// The most that one script writes, messages and their places on queues, so that it stays under 5
/// ms.
const MOST_WRITES: usize = 500;
/// The most bytes that one script writes, unless a single message is larger.
const MOST_BYTES: usize = 512 << 10;

/// Deliveries of concurrent tasks, on their way out: messages by their bytes. Those that have keys go
/// apart from others: they can be sent again. So do those that wait until they are durable.
pub(crate) type Deliveries = Gather<(bool, Option<Durable>), Ready, Result<Receipt>>;

impl Deliveries {
    /// As much as goes into one part, where messages go to few queues.
    pub(crate) fn of_a_part() -> Arc<Self> {
        Arc::new(Self::new(MOST_BYTES))
    }
}

/// Delivers a message, together with those that other tasks deliver at the same time.
pub(crate) async fn deliver_one(core: &Arc<Core>, message: Ready) -> Result<Receipt> {
    let size = message.body.len() + MOST_BYTES / MOST_WRITES * 2;
    let partition = core.of_facet(&message.facet);
    let (shared, key) = (partition.clone(), (message.keyed, message.durable));
    let delivering =
        partition.deliveries.join(key, size, message, false, |callers| together(shared, callers));
    delivering.await.unwrap_or_else(|| Err(runtime_ended()))
}

async fn together(partition: Arc<Partition>, callers: Vec<(Ready, Reply<Result<Receipt>>)>) {
    let (mut messages, mut replies): (Vec<_>, Vec<_>) = callers.into_iter().unzip();
    let (delivered, mut failed) = loop {
        match deliver_or_refuse(&partition, &messages).await {
            Ok(receipts) => break (receipts, None),
            Err(Failed { delivered, error, refused })
                if refused.is_empty() || messages.len() == 1 =>
            {
                break (delivered, Some(error));
            }
            // Those that are refused hear of it, and are counted. The others go on without them.
            Err(Failed { delivered, mut refused, .. }) => {
                let from = delivered.len();
                let (mut left, mut waiting) = (Vec::new(), Vec::new());
                let mut delivered = delivered.into_iter();
                for (place, (message, reply)) in messages.into_iter().zip(replies).enumerate() {
                    if let Some(receipt) = delivered.next() {
                        reply.give(Ok(receipt));
                    } else if let Some(error) = refused.remove(&(place - from)) {
                        reply.give(Err(error));
                    } else {
                        left.push(message);
                        waiting.push(reply);
                    }
                }
                (messages, replies) = (left, waiting);
                if messages.is_empty() {
                    return;
                }
            }
        }
    };
    let alone = messages.len() == 1;
    let mut delivered = delivered.into_iter();
    // Each hears of its own that it is not yet safe.
    let mut unsafe_yet = match &mut failed {
        Some(Error::NotYetSafe { delivered, .. }) => std::mem::take(delivered),
        _ => Vec::new(),
    }
    .into_iter();
    for (message, reply) in messages.iter().zip(replies) {
        let own = |error: &Error, receipt| {
            let mut error = error.clone();
            if let Error::NotYetSafe { delivered, .. } = &mut error {
                *delivered = vec![receipt];
            }
            error
        };
        reply.give(match (delivered.next(), &failed) {
            (Some(receipt), _) => Ok(receipt),
            (None, Some(error @ Error::NotYetSafe { .. })) => match unsafe_yet.next() {
                Some(receipt) => Err(own(error, receipt)),
                // It was not among them.
                None => {
                    let again = deliver_or_refuse(&partition, std::slice::from_ref(message)).await;
                    again.map_err(|failed| failed.error).and_then(only)
                }
            },
            // One is not refused for another's fault.
            (None, Some(error)) if error.is_of_one() && !alone => {
                let again = deliver_or_refuse(&partition, std::slice::from_ref(message)).await;
                let again = again.map_err(|failed| failed.error).and_then(only);
                let refused = matches!(again, Err(Error::Refused { .. }));
                if !refused && again.as_ref().is_err_and(|error| !error.is_of_one()) {
                    failed = Some(Error::not_made());
                }
                again
            }
            (None, Some(error)) => Err(error.clone()),
            (None, None) => only(Vec::new()),
        });
    }
}

fn only(mut receipts: Vec<Receipt>) -> Result<Receipt> {
    receipts.pop().ok_or_else(|| unexpected("a delivery without a receipt"))
}

/// Why a delivery ended before all was delivered.
struct Failed {
    delivered: Vec<Receipt>,
    error: Error,
    /// The messages of the part that failed that were refused, by their places in it.
    refused: BTreeMap<usize, Error>,
}

/// Delivers messages, those of each partition in their order. The first part that fails stops the rest
/// of its partition.
pub(crate) async fn deliver(core: &Core, messages: Vec<Ready>) -> Result<Vec<Receipt>> {
    let parts = core.apart(&messages, |message| core.of_facet(&message.facet));
    let mut messages: Vec<_> = messages.into_iter().map(Some).collect();
    let mut receipts: Vec<Option<Receipt>> = messages.iter().map(|_| None).collect();
    let parts = parts.into_iter().map(|(partition, places)| {
        let some: Vec<_> = places.iter().filter_map(|place| messages[*place].take()).collect();
        async move { (places, deliver_or_refuse(partition, &some).await) }
    });
    let parts: Vec<_> = parts.collect();
    let mut failed = Vec::new();
    for (places, outcome) in join_all(parts).await {
        let delivered = outcome.unwrap_or_else(|Failed { mut delivered, mut error, .. }| {
            let place = places[delivered.len()];
            // What is not yet safe is delivered.
            if let Error::NotYetSafe { delivered: not_yet_safe, .. } = &mut error {
                delivered.append(not_yet_safe);
            }
            failed.push((place, error));
            delivered
        });
        for (place, receipt) in places.into_iter().zip(delivered) {
            receipts[place] = Some(receipt);
        }
    }
    failed.sort_by_key(|(place, error)| (Reverse(error.doubt()), *place));
    match failed.into_iter().next() {
        None => Ok(receipts.into_iter().flatten().collect()),
        Some((_, error)) => Err(interrupted(receipts, error)),
    }
}

/// The error of a batch of which these are delivered.
fn interrupted(receipts: Vec<Option<Receipt>>, mut error: Error) -> Error {
    let (all, mut delivered, mut beyond) = (receipts.len(), Vec::new(), Vec::new());
    for (place, receipt) in receipts.into_iter().enumerate() {
        match receipt {
            Some(receipt) if delivered.len() == place => delivered.push(receipt),
            Some(receipt) => beyond.push((place, receipt)),
            None => {}
        }
    }
    match &mut error {
        Error::NotYetSafe { delivered: not_yet_safe, .. } if delivered.len() == all => {
            *not_yet_safe = delivered;
            error
        }
        _ if delivered.is_empty() && beyond.is_empty() => error,
        _ => Error::Interrupted { delivered, beyond, source: Box::new(error) },
    }
}

async fn deliver_or_refuse(
    partition: &Partition,
    messages: &[Ready],
) -> Result<Vec<Receipt>, Failed> {
    let mut delivered = Vec::with_capacity(messages.len());
    while delivered.len() < messages.len() {
        match part(partition, &messages[delivered.len()..]).await {
            Ok(receipts) => delivered.extend(receipts),
            Err((error, refused)) => return Err(Failed { delivered, error, refused }),
        }
    }
    Ok(delivered)
}

/// Why a part was not delivered, and which of its messages were refused.
type Undelivered = (Error, BTreeMap<usize, Error>);

/// Delivers as many of the messages as fit into one script, at least one.
async fn part(partition: &Partition, messages: &[Ready]) -> Result<Vec<Receipt>, Undelivered> {
    let end = partition.connection.end();
    let mut routes = partition.routes();
    let mut pause = Pause::default();
    let mut reloaded = false;
    let failed = |error| (error, BTreeMap::new());
    loop {
        match send(partition, messages, &routes, end).await {
            Err((Error::Server { code, cause }, _)) if code == "STALE" => {
                // Nothing was delivered, by no earlier try either. Once is the rule: they may change
                // again and again.
                if reloaded && !pause.before(end).await {
                    return Err(failed(Error::NotSent(cause)));
                }
                reloaded = true;
                let loaded = partition.load_routes(Some(&routes), end).await;
                routes = loaded.map_err(|error| failed(not_delivered(error)))?;
            }
            sent => return sent,
        }
    }
}

/// That no answer came when routes were loaded leaves no doubt: nothing was delivered.
fn not_delivered(error: Error) -> Error {
    match error {
        Error::MaybeApplied(cause) => Error::NotSent(cause),
        error => error,
    }
}

async fn send(
    partition: &Partition,
    messages: &[Ready],
    routes: &Routes,
    end: Instant,
) -> Result<Vec<Receipt>, Undelivered> {
    let mut matched: Vec<Arc<[String]>> = Vec::new();
    let (mut writes, mut bytes) = (0, 0);
    for message in messages {
        let queues = routes.queues_of(&message.topic);
        writes += 1 + queues.len();
        bytes += message.body.len() * (1 + queues.len());
        if !matched.is_empty() && (writes > MOST_WRITES || bytes > MOST_BYTES) {
            break;
        }
        matched.push(queues);
    }
    let places = Places::of(matched.iter().flat_map(|queues| queues.iter()).map(String::as_str));
    let mut command = partition.command(&scripts::DELIVER, places.queues());
    command.arg(&routes.version).arg(&partition.keys.channel);
    let messages = &messages[..matched.len()];
    for (message, matched) in messages.iter().zip(&matched) {
        let to: Vec<_> = matched.iter().map(|queue| places.place(queue).to_string()).collect();
        let how = to.join(" ") + &message.how;
        command.arg(&message.facet).arg(&message.topic).arg(&message.body).arg(how);
    }
    // What has a key does nothing the second time.
    let keyed = messages.iter().all(|message| message.keyed);
    let repeat = if keyed { Repeat::Safe } else { Repeat::Never };
    let durable = messages.iter().filter_map(|message| message.durable).reduce(Durable::and);
    let reply = partition.call_durably(&scripts::DELIVER, &command, repeat, end, durable).await;
    let reply = reply.map_err(|error| refused(error, messages, &places))?;
    let mut receipts = receipts(reply.value, matched).map_err(|error| (error, BTreeMap::new()))?;
    for receipt in &mut receipts {
        receipt.id = partition.id(receipt.id.0);
        receipt.replicas = reply.confirmed.as_ref().map(|confirmed| confirmed.replicas);
    }
    metrics::delivered(partition, &receipts);
    match durable.zip(reply.confirmed) {
        Some((durable, confirmed)) if !durable.is_met(&confirmed) => {
            let mut error = durable.unmet(confirmed);
            if let Error::NotYetSafe { delivered, .. } = &mut error {
                *delivered = receipts;
            }
            Err((error, BTreeMap::new()))
        }
        _ => Ok(receipts),
    }
}

/// Reads what became of messages.
pub(crate) fn receipts(reply: Value, matched: Vec<Arc<[String]>>) -> Result<Vec<Receipt>> {
    let mut values = read::<Vec<Value>>(reply)?.into_iter();
    let first: u64 = read(values.next().unwrap_or(Value::Nil))?;
    if values.len() != matched.len() {
        return Err(unexpected("a delivery without a receipt"));
    }
    let ids = (0..).map(|n| MessageId(first.saturating_add(n)));
    ids.zip(matched).zip(values).map(|((id, queues), value)| receipt(id, queues, value)).collect()
}

/// Reads what became of a message: how many heard it; or, of one whose key holds, what
/// `lua/parts/intake.lua` keeps of the first.
fn receipt(id: MessageId, queues: Arc<[String]>, value: Value) -> Result<Receipt> {
    if let Value::Int(heard) = value {
        let listeners = u64::try_from(heard).unwrap_or_default();
        return Ok(Receipt { id, queues, listeners, replicas: None, duplicate: false });
    }
    let kept: String = read(value)?;
    let mut words = kept.split(' ').filter(|word| !word.is_empty());
    let mut number = || words.next().and_then(|word| word.parse().ok());
    let (Some(_until), Some(id), Some(listeners)) = (number(), number(), number()) else {
        return Err(unexpected("a key that holds something else"));
    };
    let queues = words.map(str::to_owned).collect();
    Ok(Receipt { id: MessageId(id), queues, listeners, replicas: None, duplicate: true })
}

/// Gives the names to a refusal, which has their numbers: four for each message and queue.
fn refused(error: Error, messages: &[Ready], places: &Places<'_>) -> Undelivered {
    let mut refused = BTreeMap::new();
    if let Error::Server { code, cause } = &error
        && code == "REFUSED"
    {
        let said: Vec<usize> =
            cause.detail().split(' ').filter_map(|number| number.parse().ok()).collect();
        for said in said.chunks_exact(4) {
            let (place, why) = (said[0].wrapping_sub(1), said[2]);
            let queue = places.queues().get(said[1].wrapping_sub(1));
            let (Some(message), Some(queue)) = (messages.get(place), queue) else { continue };
            let why = match why {
                1 => Refusal::IntakePaused,
                _ => Refusal::TooManyWaiting { most: said[3] as u64 },
            };
            let (queue, facet) = (Arc::from(*queue), message.facet.clone());
            refused.entry(place).or_insert(Error::Refused { queue, facet, why });
        }
    }
    let first = refused.values().next().cloned();
    (first.unwrap_or(error), refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_has_a_receipt_or_none_has() {
        let read = |reply: &[&str], messages| {
            let text = |text: &&str| Value::BulkString(text.as_bytes().to_vec());
            let matched = vec![Arc::default(); messages];
            receipts(Value::Array(reply.iter().map(text).collect()), matched)
        };
        let receipts = read(&["7", "99 3 1 a b", "99 4 0 "], 2).unwrap();
        assert_eq!(receipts.iter().map(|receipt| receipt.id.0).collect::<Vec<_>>(), [3, 4]);
        for reply in [&["7"][..], &["7", "99 3 1 a"], &["7", "99 3 1 ", "99 3 1 ", "99 3 1 "]] {
            assert!(matches!(read(reply, 2), Err(Error::Server { .. })), "{reply:?}");
        }
        // No number is too large.
        assert!(read(&["18446744073709551615", "99 3 1 ", "99 3 1 "], 2).is_ok());
    }
}
