//! Workers: what a handler returns decides, and what it holds is not lost with it.

use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fairlane::{Cursor, Death, Error, Invalid, Message, Outcome, Queue, QueueSettings, Report};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Proxy, Server, Space, another_process, deliver, message, other_process, run, until,
};

type Any = Box<dyn std::error::Error + Send + Sync>;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A report of this many messages, in this way.
fn report(leased: u64, set: impl FnOnce(&mut Report)) -> Report {
    let mut report = Report::default();
    report.leased = leased;
    set(&mut report);
    report
}

/// A queue of a space whose settings are forgotten and whose dead letters are dropped.
async fn end(space: Space, queue: &Queue) {
    queue.dead_letters().purge().await.unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn what_a_handler_returns_decides_what_becomes_of_its_message() {
    let (space, queue) = Space::with_queue().await;
    for (facet, what) in
        ["ack", "cost", "retry", "later", "fail", "dead", "hold", "panic"].into_iter().enumerate()
    {
        let facet = format!("{facet}-{what}");
        space.broker.deliver(&json!({"facet": facet, "topic": "t", "what": what})).await.unwrap();
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let worker = queue.worker(move |delivery| {
        let what = delivery.message().unwrap()["what"].as_str().unwrap().to_owned();
        record.lock().unwrap().push((what.clone(), delivery.attempt().get()));
        async move {
            let cause = std::io::Error::other("no route");
            Ok(match what.as_str() {
                "cost" => Outcome::AckCost(7.0),
                "retry" if delivery.attempt().get() == 1 => Outcome::Retry(Duration::ZERO),
                "later" => Outcome::Retry(SECOND),
                "fail" => return Err(cause),
                "dead" => Outcome::Dead("it makes no sense".into()),
                "hold" => Outcome::Hold(SECOND),
                "panic" => panic!("at the {}", "disco"),
                _ => Outcome::Ack,
            })
        }
    });
    let done = worker.run_until_empty().await.unwrap();
    let expected = report(9, |report| {
        (report.acked, report.retried, report.failed) = (3, 2, 2);
        (report.buried, report.held, report.panicked) = (1, 1, 1);
    });
    assert_eq!(done, expected);
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    let names: Vec<_> = seen.iter().map(|(what, attempt)| (what.as_str(), *attempt)).collect();
    assert_eq!(
        names,
        [
            ("ack", 1),
            ("cost", 1),
            ("dead", 1),
            ("fail", 1),
            ("hold", 1),
            ("later", 1),
            ("panic", 1),
            ("retry", 1),
            ("retry", 2),
        ]
    );
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.delayed, stats.dead, stats.holds), (1, 3, 1, 1));
    let (letters, _) = queue.dead_letters().page(Cursor::default()).await.unwrap();
    assert_eq!(letters[0].death, Death::Buried);
    assert_eq!(letters[0].reason.as_deref(), Some("it makes no sense"));
    // Later they are there again, and know why they failed.
    space.clock.advance(2 * SECOND);
    let mut reasons = BTreeMap::new();
    for delivery in queue.lease_many(10).await.unwrap() {
        let facet = delivery.facet().to_owned();
        reasons.insert(facet, delivery.last_failure().map(str::to_owned));
        delivery.ack().await.unwrap();
    }
    assert_eq!(reasons["4-fail"].as_deref(), Some("no route"));
    assert_eq!(reasons["7-panic"].as_deref(), Some("panicked: at the disco"));
    assert_eq!(reasons.len(), 4);
    end(space, &queue).await;
}

#[tokio::test]
async fn a_body_that_does_not_decode_fails_with_the_reason_and_the_worker_goes_on() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    let odd = space.bytes().await;
    odd.deliver(&b"{".to_vec()).await.unwrap();
    deliver(&space.broker, "b", 3).await;
    let done = queue
        .worker(|delivery| async move {
            delivery.message()?;
            Ok::<_, Any>(())
        })
        .run_until_empty()
        .await
        .unwrap();
    assert_eq!(done, report(4, |report| (report.acked, report.failed) = (3, 1)));
    let (letters, _) = queue.dead_letters().page(Cursor::default()).await.unwrap();
    let reason = letters[0].reason.as_deref().unwrap();
    assert!(reason.contains("is not what this broker decodes: EOF"), "{reason}");
    end(space, &queue).await;
}
