//! Who is at work: deliverers, workers and those who do by hand what a worker does.

use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fairlane::{AnyError, Broker, Delivery, Error, Message, Outcome, Queue, Replicas, Worker};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::record::{Event, Hold, How, Known, Record};

/// How long leases last: what a killed worker had comes back after that.
pub(crate) const LASTING: Duration = Duration::from_secs(1);
/// The queue of those who lease, and that of those who pull.
pub(crate) const LEASED: &str = "leased";
pub(crate) const PULLED: &str = "pulled";
/// The most that is taken by hand at a time.
const MOST: usize = 8;
const WAIT: Duration = Duration::from_millis(200);
const MS: Duration = Duration::from_millis(1);

/// A number of its own for each message.
static NEXT: AtomicU64 = AtomicU64::new(1);

pub(crate) fn message(n: u64, facet: u32, topic: &str) -> Value {
    json!({"facet": format!("f{facet}"), "topic": topic, "n": n})
}

/// Delivers until it is stopped: one by one and in batches, with keys and without, to facets that are
/// its own. What has a key is delivered again until it is known that it is there.
pub(crate) async fn deliver(
    broker: Broker,
    record: Arc<Record>,
    number: u32,
    replicas: Option<Replicas>,
    stop: CancellationToken,
) {
    for round in number.. {
        if stop.is_cancelled() {
            return;
        }
        let (facet, pulled) = (8 * number + round % 8, round % 5 == 4);
        if round % 10 == 0 {
            deliver_batch(&broker, &record, 20, replicas, |_| facet).await;
        } else {
            deliver_one(&broker, &record, facet, round % 2 == 0, pulled, replicas).await;
        }
        sleep(MS).await;
    }
}

/// What is to be on replicas before it is acknowledged.
fn durably(message: Message<'_, Value>, replicas: Option<Replicas>) -> Message<'_, Value> {
    match replicas {
        Some(replicas) => message.durable(replicas, LASTING),
        None => message,
    }
}

async fn deliver_one(
    broker: &Broker,
    record: &Record,
    facet: u32,
    keyed: bool,
    pulled: bool,
    replicas: Option<Replicas>,
) {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    // What is pulled has facets of its own, too: its order is not that of what is leased.
    let (facet, topic) = if pulled { (facet + 1000, PULLED) } else { (facet, LEASED) };
    let body = message(n, facet, topic);
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        record.note(Event::Deliver { n, facet, keyed, pulled });
        let message = durably(Message::new(&body), replicas);
        let message = if keyed { message.key(n) } else { message };
        let known = Known::of(&broker.deliver(message).await);
        record.note(Event::Delivered { n, known });
        if !keyed || known == Known::Done || Instant::now() > end {
            return;
        }
        sleep(5 * MS).await;
    }
}

/// Delivers a batch, each to its facet by its place, and returns its numbers.
pub(crate) async fn deliver_batch(
    broker: &Broker,
    record: &Record,
    size: u64,
    replicas: Option<Replicas>,
    facet: impl Fn(u32) -> u32,
) -> Range<u64> {
    let first = NEXT.fetch_add(size, Ordering::Relaxed);
    let numbers = first..first + size;
    let mut bodies = Vec::new();
    for (place, n) in numbers.clone().enumerate() {
        let facet = facet(place as u32);
        bodies.push(message(n, facet, LEASED));
        record.note(Event::Deliver { n, facet, keyed: false, pulled: false });
    }
    let messages = bodies.iter().map(|body| durably(Message::new(body), replicas));
    let (done, beyond, rest) = match broker.deliver_all(messages).await {
        Err(Error::Interrupted { delivered, beyond, source }) => {
            (delivered.len(), beyond, Known::of::<()>(&Err(*source)))
        }
        outcome => (0, Vec::new(), Known::of(&outcome)),
    };
    let beyond: BTreeSet<usize> = beyond.into_iter().map(|(place, _)| place).collect();
    for (place, n) in numbers.clone().enumerate() {
        let is_done = place < done || beyond.contains(&place);
        let known = if is_done { Known::Done } else { rest };
        record.note(Event::Delivered { n, known });
    }
    numbers
}

/// What is done with messages, by their numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Most take some ms and are done then. Some are given back, and some are slower than their lease.
    Mixed,
    /// All are done at once.
    Quick,
}

impl Kind {
    fn takes(self, n: u64) -> Duration {
        match (self, n % 97) {
            (Self::Quick, _) => Duration::ZERO,
            (Self::Mixed, 7) => LASTING * 3 / 2,
            (Self::Mixed, n) => MS * (n % 4) as u32,
        }
    }

    fn outcome(self, hold: Hold, attempt: u32) -> Outcome {
        match (self, attempt, hold.n % 40) {
            (Self::Mixed, 1, 0) => Outcome::Retry(Duration::ZERO),
            (Self::Mixed, 1, 1) => Outcome::Retry(30 * MS),
            (Self::Mixed, 1, 2) => Outcome::Fail("the first time it fails".into()),
            // That is no attempt, so it is not for ever.
            (Self::Mixed, 1, 3) if hold.lease.is_multiple_of(2) => Outcome::Hold(20 * MS),
            (_, _, 4) => Outcome::AckCost(2.0),
            _ => Outcome::Ack,
        }
    }
}

fn how(outcome: &Outcome) -> How {
    match outcome {
        Outcome::Ack | Outcome::AckCost(_) => How::Ack,
        _ => How::Back,
    }
}

fn leased(record: &Record, delivery: &Delivery) -> Hold {
    let (hold, attempt) = (Hold::of(delivery), delivery.attempt().get());
    // The library has it end 1 ms before its length is over, counted from before it was asked for.
    let until = delivery.expires_at();
    let (asked, until) = (record.at(until + MS - LASTING), record.at(until));
    record.note(Event::Leased { hold, attempt, asked, until });
    hold
}

/// A worker that records what it does.
pub(crate) fn worker(
    queue: &Queue,
    record: &Arc<Record>,
    kind: Kind,
    stop: &CancellationToken,
) -> Worker {
    let (handles, settles) = (record.clone(), record.clone());
    let worker = queue.worker(move |delivery: Arc<Delivery>| {
        let record = handles.clone();
        async move {
            let hold = leased(&record, &delivery);
            sleep(kind.takes(hold.n)).await;
            let outcome = kind.outcome(hold, delivery.attempt().get());
            record.note(Event::Settle { hold, how: how(&outcome) });
            Ok::<_, AnyError>(outcome)
        }
    });
    let worker = worker.after(move |delivery, handled| {
        let (hold, how) = (Hold::of(delivery), how(handled.outcome));
        settles.note(Event::Settled { hold, how, known: Known::of(&handled.settled) });
    });
    // What is slow is given back when it stops.
    let worker = worker.lasting(LASTING).grace(LASTING / 10).concurrency(16);
    worker.stop_on(stop.clone()).signals(false)
}

/// Works until it is stopped.
pub(crate) async fn work(broker: Broker, record: Arc<Record>, kind: Kind, stop: CancellationToken) {
    worker(&broker.queue(LEASED), &record, kind, &stop).run().await.unwrap();
}

/// Leases, extends and settles by hand, until it is stopped.
pub(crate) async fn work_by_hand(
    broker: Broker,
    record: Arc<Record>,
    kind: Kind,
    stop: CancellationToken,
) {
    let queue = broker.queue(LEASED);
    let mut slow = tokio::task::JoinSet::new();
    while !stop.is_cancelled() {
        let deliveries = match queue.lease_many(MOST).lasting(LASTING).wait(WAIT).await {
            Ok(deliveries) => deliveries,
            outcome => {
                Known::of(&outcome);
                sleep(5 * MS).await;
                continue;
            }
        };
        let mut together = Vec::new();
        for delivery in deliveries {
            let hold = leased(&record, &delivery);
            match (kind.takes(hold.n), kind.outcome(hold, delivery.attempt().get())) {
                (time, _) if time > LASTING => {
                    let record = record.clone();
                    slow.spawn(async move {
                        sleep(time).await;
                        settle(&record, hold, How::Ack, delivery.ack()).await;
                    });
                }
                (_, Outcome::Ack) if hold.n.is_multiple_of(2) => together.push((hold, delivery)),
                (_, outcome) => {
                    if hold.n.is_multiple_of(5) {
                        extend(&record, hold, &delivery).await;
                    }
                    settle_as(&record, hold, delivery, outcome).await;
                }
            }
        }
        ack_together(&broker, &record, together).await;
    }
    while let Some(slow) = slow.join_next().await {
        slow.unwrap();
    }
}

async fn extend(record: &Record, hold: Hold, delivery: &Delivery) {
    let asked = record.now();
    let extended = delivery.extend(2 * LASTING).await;
    if Known::of(&extended) == Known::Done {
        record.note(Event::Extended { hold, asked, until: record.at(delivery.expires_at()) });
    }
}

async fn settle(
    record: &Record,
    hold: Hold,
    how: How,
    settling: impl Future<Output = fairlane::Result<()>>,
) {
    record.note(Event::Settle { hold, how });
    let known = Known::of(&settling.await);
    record.note(Event::Settled { hold, how, known });
}

async fn settle_as(record: &Record, hold: Hold, delivery: Delivery, outcome: Outcome) {
    let how = how(&outcome);
    match outcome {
        Outcome::AckCost(cost) => settle(record, hold, how, delivery.ack_cost(cost)).await,
        Outcome::Retry(Duration::ZERO) => settle(record, hold, how, delivery.nack()).await,
        Outcome::Retry(after) => settle(record, hold, how, delivery.nack_after(after)).await,
        Outcome::Fail(reason) => settle(record, hold, how, delivery.fail(reason)).await,
        Outcome::Hold(time) => settle(record, hold, how, delivery.hold_facet(time)).await,
        _ => settle(record, hold, how, delivery.ack()).await,
    }
}

async fn ack_together(broker: &Broker, record: &Record, together: Vec<(Hold, Delivery)>) {
    let how = How::Ack;
    let (holds, deliveries): (Vec<_>, Vec<_>) = together.into_iter().unzip();
    holds.iter().for_each(|hold| record.note(Event::Settle { hold: *hold, how }));
    let tokens: Vec<_> = deliveries.iter().map(|delivery| delivery.token().clone()).collect();
    let acked = broker.ack_all(deliveries).await;
    for (hold, token) in holds.into_iter().zip(tokens) {
        let known = match &acked {
            Ok(lost) if lost.contains(&token) => Known::LeaseLost,
            outcome => Known::of(outcome),
        };
        record.note(Event::Settled { hold, how, known });
    }
}

/// Pulls until it is stopped.
pub(crate) async fn pull(broker: Broker, record: Arc<Record>, stop: CancellationToken) {
    let queue = broker.queue(PULLED);
    let number = |body: &Value| body["n"].as_u64().unwrap();
    while !stop.is_cancelled() {
        let (bodies, outcome) = match queue.pull_many(MOST).wait(WAIT).await {
            Err(Error::PullInterrupted { pulled, source }) => {
                let body = |body: &[u8]| serde_json::from_slice(body).unwrap();
                (pulled.iter().map(|pulled| body(&pulled.body)).collect(), Err(*source))
            }
            Ok(pulled) => (pulled.into_iter().map(Result::unwrap).collect::<Vec<_>>(), Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        bodies.iter().for_each(|body| record.note(Event::Pulled { n: number(body) }));
        match Known::of(&outcome) {
            Known::Done => {}
            Known::Perhaps => record.note(Event::PulledPerhaps { most: MOST as u64 }),
            _ => sleep(5 * MS).await,
        }
    }
}
