//! What a recorder is told. There is one in a process: each test looks at the series of its own queues, whose
//! names begin with `m-`; those of the other tests are not recorded.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use ::metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    set_global_recorder,
};
use fairlane::{Broker, Error, Invalid, Message, MessageId, Outcome, Queue, Replicas};
use futures_util::future::join_all;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::{START, Space, deliver, message, run, until};

type Any = Box<dyn std::error::Error + Send + Sync>;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Records what is of the queues of this file.
struct Ours(DebuggingRecorder);

impl Ours {
    fn has(key: &Key) -> bool {
        key.labels().any(|label| label.key() == "queue" && label.value().starts_with("m-"))
    }
}

impl Recorder for Ours {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.0.describe_counter(key, unit, text);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.0.describe_gauge(key, unit, text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.0.describe_histogram(key, unit, text);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        if Self::has(key) { self.0.register_counter(key, metadata) } else { Counter::noop() }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        if Self::has(key) { self.0.register_gauge(key, metadata) } else { Gauge::noop() }
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        if Self::has(key) { self.0.register_histogram(key, metadata) } else { Histogram::noop() }
    }
}

static RECORDED: LazyLock<Snapshotter> = LazyLock::new(|| {
    let recorder = DebuggingRecorder::new();
    let recorded = recorder.snapshotter();
    set_global_recorder(Ours(recorder)).map_err(|_| "there is one").unwrap();
    recorded
});

/// By name and the value of their other label, if they have one.
type Series = BTreeMap<(String, Option<String>), Vec<f64>>;

/// All that was recorded of the queues of this name, by namespace: of a histogram its values, of a counter
/// how far it came, of a gauge the last that was not zero.
fn by_namespace(queue: &str) -> BTreeMap<String, Series> {
    static ALL: Mutex<BTreeMap<(String, String), Series>> = Mutex::new(BTreeMap::new());
    let mut all = ALL.lock().unwrap();
    // Each time it gives what is new, and forgets it.
    for (key, _, description, value) in RECORDED.snapshot().into_vec() {
        let (_, key) = key.into_parts();
        assert!(description.is_some(), "{key} is not described");
        let mut labels: BTreeMap<_, _> =
            key.labels().map(|label| (label.key().to_owned(), label.value().to_owned())).collect();
        let whose = (labels.remove("namespace").unwrap(), labels.remove("queue").unwrap());
        assert!(labels.len() <= 1, "{key}");
        let name = (key.name().to_owned(), labels.into_values().next());
        let series = all.entry(whose).or_default().entry(name).or_default();
        match value {
            DebugValue::Counter(more) => match series.as_mut_slice() {
                [count] => *count += more as f64,
                _ => series.push(more as f64),
            },
            DebugValue::Gauge(now) if *now == 0.0 => {}
            DebugValue::Gauge(now) => *series = vec![*now],
            DebugValue::Histogram(more) => series.extend(more.into_iter().map(f64::from)),
        }
    }
    let of_queue = all.iter().filter(|((_, of), _)| of == queue);
    of_queue.map(|((namespace, _), series)| (namespace.clone(), series.clone())).collect()
}

/// All that was recorded of the one queue of this name.
fn recorded(queue: &str) -> Series {
    let mut all = by_namespace(queue);
    assert!(all.len() <= 1, "{all:?}");
    all.pop_first().map(|(_, series)| series).unwrap_or_default()
}

/// What was counted of a queue, without `fairlane_` and `_total`, by facet or not.
fn counted(queue: &Queue) -> BTreeMap<String, u64> {
    let counts = recorded(queue.name()).into_iter().filter_map(|((name, other), series)| {
        let name = name.strip_prefix("fairlane_")?.strip_suffix("_total")?.to_owned();
        other.is_none().then(|| (name, series[0] as u64))
    });
    counts.collect()
}

fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

/// The values of a histogram, in their order.
fn values(queue: &Queue, name: &str, other: Option<&str>) -> Vec<f64> {
    let mut values =
        recorded(queue.name()).remove(&(name.into(), other.map(str::to_owned))).unwrap_or_default();
    values.sort_by(f64::total_cmp);
    values
}

/// With a queue of this name that takes everything.
async fn with_queue(name: &str) -> (Space, Queue) {
    LazyLock::force(&RECORDED);
    let space = Space::new().await;
    let queue = space.broker.register_queue(name, ".").await.unwrap();
    (space, queue)
}

async fn end(space: Space, queue: Queue) {
    queue.destroy().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn what_is_delivered_taken_and_settled_is_counted_by_queue() {
    let (space, queue) = with_queue("m-settled").await;
    let other = space.broker.register_queue("m-settled-other", "^other").await.unwrap();
    deliver(&space.broker, "a", 10).await;
    space.broker.deliver(&message("a", "other", 1)).await.unwrap();
    let body = message("b", "t", 1);
    for duplicate in [false, true] {
        let receipt = space.broker.deliver(Message::new(&body).key("k")).await.unwrap();
        assert_eq!(receipt.duplicate, duplicate);
    }
    assert_eq!(counted(&queue), counts([("delivered", 12)]));
    queue.pull().await.unwrap().unwrap();
    queue.pull_many(2).await.unwrap();
    let leased = queue.lease_many(9).await.unwrap();
    assert!(queue.pull().await.unwrap().is_none() && leased.len() == 9);
    let mut leased = leased.into_iter();
    let mut next = || leased.next().unwrap();
    next().ack().await.unwrap();
    next().ack_cost(2.0).await.unwrap();
    let (first, second) = tokio::join!(next().ack(), next().ack());
    first.and(second).unwrap();
    next().fail("a reason").await.unwrap();
    next().bury("another").await.unwrap();
    next().nack().await.unwrap();
    next().nack_after(SECOND).await.unwrap();
    let held = next();
    held.extend(SECOND).await.unwrap();
    let mine = other.lease().await.unwrap().unwrap();
    let again = queue.lease().await.unwrap().unwrap();
    held.hold_facet(SECOND).await.unwrap();
    assert!(space.broker.ack_all([mine, again]).await.unwrap().is_empty());
    let expected = counts([
        ("delivered", 12),
        ("pulled", 3),
        ("leased", 10),
        ("acked", 5),
        ("failed", 2),
        ("given_back", 3),
    ]);
    assert_eq!(counted(&queue), expected);
    assert_eq!(counted(&other), counts([("delivered", 1), ("leased", 1), ("acked", 1)]));
    other.destroy().await.unwrap();
    end(space, queue).await;
}

#[tokio::test]
async fn a_lease_that_is_lost_is_counted_where_it_is_found_and_not_as_settled() {
    let (space, queue) = with_queue("m-lost").await;
    deliver(&space.broker, "a", 6).await;
    let late = queue.lease_many(6).await.unwrap();
    space.clock.advance(30 * SECOND);
    let in_time = queue.lease_many(6).await.unwrap();
    let mut late = late.into_iter();
    let mut next = || late.next().unwrap();
    assert!(matches!(next().ack().await, Err(Error::LeaseLost(_))));
    assert!(matches!(next().nack().await, Err(Error::LeaseLost(_))));
    assert!(matches!(next().extend(SECOND).await, Err(Error::LeaseLost(_))));
    let (one, two) = tokio::join!(next().ack(), next().ack());
    assert!(one.and(two).is_err());
    let lost = space.broker.ack_all([next()]).await.unwrap();
    assert_eq!(lost.len(), 1);
    assert_eq!(counted(&queue), counts([("delivered", 6), ("leased", 12), ("lost_leases", 6)]));
    assert!(space.broker.ack_all(in_time).await.unwrap().is_empty());
    let end_of = [("delivered", 6), ("leased", 12), ("lost_leases", 6), ("acked", 6)];
    assert_eq!(counted(&queue), counts(end_of));
    end(space, queue).await;
}

#[tokio::test]
async fn leases_that_are_lost_are_counted_though_others_could_not_be_settled() {
    LazyLock::force(&RECORDED);
    let space = Space::with(|builder| builder.partitions(2)).await;
    let queue = space.broker.register_queue("m-part", ".").await.unwrap();
    let place = |id: MessageId| id.to_string().parse::<u64>().unwrap() % 2;
    let mut tokens = Vec::new();
    for n in 0.. {
        space.broker.deliver(&message(&format!("f{n}"), "t", n)).await.unwrap();
        tokens.push(queue.lease().wait(SECOND).await.unwrap().unwrap());
        if place(tokens[0].id()) != place(tokens[n as usize].id()) {
            break;
        }
    }
    let [lost, .., other] = &tokens[..] else { panic!("there are two") };
    space.broker.ack(lost.token()).await.unwrap();
    let timers = format!("{{{}:{}}}:q:m-part:timers", space.name, place(other.id()));
    run::<()>(&["DEL", &timers]).await;
    run::<()>(&["SET", &timers, "in the way"]).await;
    let all = tokens.len() as u64;
    let error = space.broker.ack_all(tokens).await.err().unwrap();
    assert!(matches!(error, Error::WrongType(_)), "{error:?}");
    let expected = [("delivered", all), ("leased", all), ("acked", all - 1), ("lost_leases", 1)];
    assert_eq!(counted(&queue), counts(expected), "one was acked before, and one could not be");
    space.delete().await;
}

#[tokio::test]
async fn a_lease_that_is_lost_is_counted_beside_acks_that_are_not_yet_safe() {
    let (space, queue) = with_queue("m-unsafe").await;
    deliver(&space.broker, "a", 3).await;
    let leased = queue.lease_many(3).await.unwrap();
    space.broker.ack(leased[1].token()).await.unwrap();
    // There is no replica. The first goes alone, and the two others together.
    let acks = leased.into_iter().map(|leased| leased.durable(Replicas(1), 100 * MS).ack());
    assert!(join_all(acks).await.into_iter().all(|ack| ack.is_err()));
    let expected = [("delivered", 3), ("leased", 3), ("acked", 3), ("lost_leases", 1)];
    assert_eq!(counted(&queue), counts(expected));
    end(space, queue).await;
}

#[tokio::test]
async fn a_lease_that_a_worker_loses_is_counted_once_however_it_finds_out() {
    let (space, queue) = with_queue("m-worker-lost").await;
    for what in ["extend", "settle"] {
        space.broker.deliver(&json!({"facet": what, "topic": "t"})).await.unwrap();
    }
    let (clock, other) = (space.clock.clone(), queue.clone());
    let worker = queue.worker(move |delivery| {
        let (clock, other) = (clock.clone(), other.clone());
        async move {
            clock.advance(30 * SECOND);
            other.lease().await?.ok_or("nothing")?.ack().await?;
            if delivery.facet() == "extend" {
                delivery.lost().cancelled().await; // by the worker, when it extends
            }
            Ok::<_, Any>(())
        }
    });
    let report = worker.lasting(300 * MS).concurrency(1).run_until_empty().await.unwrap();
    assert_eq!((report.leased, report.lost), (2, 2));
    let expected = [("delivered", 2), ("leased", 4), ("acked", 2), ("lost_leases", 2)];
    assert_eq!(counted(&queue), counts(expected));
    end(space, queue).await;
}

#[tokio::test]
async fn dwell_is_from_when_a_message_could_be_served_to_when_it_is_taken_the_first_time() {
    let (space, queue) = with_queue("m-dwell").await;
    let body = message("b", "t", 1);
    space.broker.deliver(Message::new(&body).delay(60 * SECOND)).await.unwrap();
    deliver(&space.broker, "a", 2).await;
    space.clock.advance(90 * SECOND);
    for _ in 0..3 {
        queue.lease().await.unwrap().unwrap().nack().await.unwrap();
        space.clock.advance(SECOND);
    }
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 3);
    let dwell = values(&queue, "fairlane_dwell_seconds", None);
    // One of `a` went back and forth; what is behind it was not leased before it was pulled.
    assert_eq!(dwell.len(), 3, "{dwell:?}");
    let expected = [30.0..=34.0, 90.0..=94.0, 90.0..=94.0];
    assert!(dwell.iter().zip(expected).all(|(dwell, range)| range.contains(dwell)), "{dwell:?}");
    end(space, queue).await;
}

#[tokio::test]
async fn dwell_is_not_below_zero_where_the_clock_is_behind_that_of_redis() {
    let (space, queue) = with_queue("m-behind").await;
    deliver(&space.broker, "a", 1).await;
    let behind = space.builder().clock(|| START - 60_000);
    let behind: Broker = behind.connect().await.unwrap();
    assert!(behind.queue("m-behind").pull().await.unwrap().is_some());
    assert_eq!(values(&queue, "fairlane_dwell_seconds", None), [0.0]);
    end(space, queue).await;
}

#[tokio::test]
async fn handling_is_measured_by_what_the_handler_returned() {
    let (space, queue) = with_queue("m-handling").await;
    for what in ["ack", "cost", "retry", "fail", "dead", "hold", "panic"] {
        space.broker.deliver(&json!({"facet": what, "topic": "t"})).await.unwrap();
    }
    let worker = queue.worker(|delivery| async move {
        sleep(20 * MS).await;
        Ok(match delivery.facet() {
            "cost" => Outcome::AckCost(7.0),
            "retry" => Outcome::Retry(SECOND),
            "fail" => return Err("no"),
            "dead" => Outcome::Dead("no".into()),
            "hold" => Outcome::Hold(SECOND),
            "panic" => panic!("at the disco"),
            _ => Outcome::Ack,
        })
    });
    worker.busiest_facets(0).run_until_empty().await.unwrap();
    let handling = |outcome| values(&queue, "fairlane_handling_seconds", Some(outcome));
    for (outcome, n) in [("ack", 2), ("retry", 1), ("fail", 2), ("dead", 1), ("hold", 1)] {
        let took = handling(outcome);
        assert_eq!(took.len(), n, "{outcome}");
        assert!(took.iter().all(|took| (0.02..5.0).contains(took)), "{outcome}: {took:?}");
    }
    let expected =
        [("delivered", 7), ("leased", 7), ("acked", 2), ("failed", 3), ("given_back", 2)];
    assert_eq!(counted(&queue), counts(expected));
    assert_eq!(values(&queue, "fairlane_facet_handled_total", Some("")), [7.0]);
    assert_eq!(values(&queue, "fairlane_facet_handling_seconds", Some("")).len(), 7);
    end(space, queue).await;
}

#[tokio::test]
async fn what_a_worker_that_stops_gives_back_is_counted_so_and_not_as_handled() {
    let (space, queue) = with_queue("m-stop").await;
    deliver(&space.broker, "a", 3).await;
    let (stop, begun) = (CancellationToken::new(), CancellationToken::new());
    let told = begun.clone();
    let worker = queue.worker(move |_| {
        told.cancel();
        async {
            sleep(60 * SECOND).await;
            Ok::<_, Any>(())
        }
    });
    let worker = worker.stop_on(stop.clone()).signals(false).grace(Duration::ZERO);
    let running = tokio::spawn(worker.run());
    begun.cancelled().await;
    stop.cancel();
    assert_eq!(running.await.unwrap().unwrap().given_back, 3);
    assert_eq!(counted(&queue), counts([("delivered", 3), ("leased", 3), ("given_back", 3)]));
    assert!(values(&queue, "fairlane_handling_seconds", Some("ack")).is_empty());
    end(space, queue).await;
}

#[tokio::test]
async fn a_worker_that_runs_says_what_its_queues_have() {
    let (space, queue) = with_queue("m-gauges").await;
    let other = space.broker.register_queue("m-gauges-other", "^other").await.unwrap();
    let source = space.broker.in_order(["m-gauges", "m-gauges-other"]);
    deliver(&space.broker, "a", 4).await;
    space.broker.deliver(&message("a", "other", 1)).await.unwrap();
    let stop = CancellationToken::new();
    let release = stop.clone();
    let worker = source.worker(move |_| {
        let release = release.clone();
        async move {
            release.cancelled().await;
            Ok::<_, Any>(())
        }
    });
    let worker = worker.concurrency(2).stop_on(stop.clone()).signals(false);
    let running = tokio::spawn(worker.run());
    let gauge = |queue: &Queue, name| values(queue, name, None);
    let gauges = |queue| {
        (gauge(queue, "fairlane_waiting_messages"), gauge(queue, "fairlane_leased_messages"))
    };
    until("they are there", || async { gauges(&queue) == (vec![3.0], vec![2.0]) }).await;
    until("they are there", || async { gauges(&other) == (vec![1.0], vec![]) }).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    other.destroy().await.unwrap();
    end(space, queue).await;
}

#[tokio::test]
async fn queues_of_the_same_name_in_two_namespaces_have_series_and_busiest_facets_of_their_own() {
    let (one, queue) = with_queue("m-namespaces").await;
    let (two, same) = with_queue("m-namespaces").await;
    deliver(&one.broker, "a", 3).await;
    deliver(&two.broker, "b", 5).await;
    let stop = CancellationToken::new();
    let run = |queue: &Queue| {
        let release = stop.clone();
        let worker = queue.worker(move |_| {
            let release = release.clone();
            async move {
                release.cancelled().await;
                Ok::<_, Any>(())
            }
        });
        let worker = worker.concurrency(1).busiest_facets(1).stop_on(stop.clone());
        tokio::spawn(worker.signals(false).run())
    };
    let running = [run(&queue), run(&same)];
    let series = |space: &Space, name: &str, other: Option<&str>| {
        let mut all = by_namespace("m-namespaces").remove(&space.name).unwrap_or_default();
        all.remove(&(name.into(), other.map(str::to_owned))).unwrap_or_default()
    };
    for (space, waiting) in [(&one, 2.0), (&two, 4.0)] {
        let gauge = || series(space, "fairlane_waiting_messages", None);
        until("it is there", || async { gauge() == [waiting] }).await;
    }
    stop.cancel();
    for running in running {
        assert_eq!(running.await.unwrap().unwrap().acked, 1);
    }
    for (space, delivered, facet) in [(&one, 3.0, "a"), (&two, 5.0, "b")] {
        assert_eq!(series(space, "fairlane_delivered_total", None), [delivered]);
        assert_eq!(series(space, "fairlane_acked_total", None), [1.0]);
        assert_eq!(series(space, "fairlane_handling_seconds", Some("ack")).len(), 1);
        // The one that is shown of each is the first that came.
        assert_eq!(series(space, "fairlane_facet_handled_total", Some(facet)), [1.0]);
    }
    end(one, queue).await;
    end(two, same).await;
}

/// Works on what is there, with series for so many facets.
async fn work(queue: &Queue, facets: usize) -> u64 {
    let worker = queue.worker(|_| async { Ok::<_, Any>(()) }).busiest_facets(facets);
    worker.run_until_empty().await.unwrap().acked
}

#[tokio::test]
async fn of_2000_facets_the_busiest_five_have_series_of_their_own_and_few_others_ever_had() {
    let (space, queue) = with_queue("m-facets").await;
    let (mut all, mut quiet) = (0, 0);
    for (loud, rounds) in [("x", 4), ("y", 6)] {
        for _ in 0..rounds {
            let facet = |n: u64| match n % 2 {
                0 => format!("{loud}-{}", n / 2 % 5),
                _ => format!("quiet-{}", (quiet + n / 2) % 2000),
            };
            let messages: Vec<Value> = (0..2000).map(|n| message(&facet(n), "t", n)).collect();
            space.broker.deliver_all(&messages).await.unwrap();
            all += work(&queue, 5).await;
            quiet += 1000;
        }
    }
    let handled: BTreeMap<String, f64> = recorded("m-facets")
        .into_iter()
        .filter(|((name, _), _)| name == "fairlane_facet_handled_total")
        .map(|((_, facet), series)| (facet.unwrap(), series[0]))
        .collect();
    assert_eq!((all, handled.values().sum::<f64>()), (20_000, 20_000.0));
    // The second five have taken the places of the first.
    let names = |loud: &str| (0..5).map(|n| format!("{loud}-{n}")).collect::<Vec<_>>();
    for facet in [names("x"), names("y")].concat() {
        assert!(handled.get(&facet).is_some_and(|n| *n > 200.0), "{facet}: {handled:?}");
    }
    assert!(handled.len() <= 51, "{handled:?}");
    end(space, queue).await;
}

#[tokio::test]
async fn more_facets_than_can_be_shown_are_refused() {
    let (space, queue) = with_queue("m-range").await;
    let worker = queue.worker(|_| async { Ok::<_, Any>(()) }).busiest_facets(1001);
    let refused = worker.run_until_empty().await;
    let what = "busiest facets";
    assert!(
        matches!(refused, Err(Error::Invalid(Invalid::OutOfRange { what: of, .. })) if of == what)
    );
    end(space, queue).await;
}
