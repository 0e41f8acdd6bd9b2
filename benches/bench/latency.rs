//! From the call that delivers to the hand of a worker that waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fairlane::{Broker, Queue};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    Any, Scale, all,
    report::{Report, short},
    server::{Server, connect},
};

/// As many as it takes to measure the peak.
const WORKERS: usize = 256;

/// When each message should be delivered, in ns since the beginning.
struct Clock {
    begun: Instant,
    due: Vec<AtomicU64>,
}

impl Clock {
    fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }
}

pub(crate) async fn measure(
    server: &mut Server,
    report: &mut Report,
    scale: Scale,
) -> Result<(), Any> {
    let queue = server.broker.register_queue("bench", ".").await?;
    // A program of its own, as a rule: so a connection of its own.
    let producer = server.namespace("fairlane").await?;
    let half = report.kept("peak") / 2.0;
    let seconds = scale.of(6.0, 0.3);
    let mut rows = Vec::new();
    // The quietest of several: the machine may be shared.
    let mut idle: Option<Histogram<u64>> = None;
    for _ in 0..scale.of(5, 1) {
        let one = run(&producer, &queue, 1, 300.0, seconds / 2.0).await?;
        if idle
            .as_ref()
            .is_none_or(|best| one.value_at_quantile(0.99) < best.value_at_quantile(0.99))
        {
            idle = Some(one);
        }
    }
    let busy = run(&producer, &queue, WORKERS, half, seconds).await?;
    let ping = ping(server, scale.of(3000, 100)).await?;
    let idle = idle.unwrap_or(Histogram::new(3)?);
    let load = format!("at half of the peak ({half:.0} messages/s), {WORKERS} workers");
    let runs = [
        ("PING, one by one, for comparison", &ping),
        ("idle, one worker, a message each 3.3 ms; the quietest of 5 runs", &idle),
        (load.as_str(), &busy),
    ];
    for (what, histogram) in runs {
        let ms = |quantile| short(histogram.value_at_quantile(quantile) as f64 / 1e6);
        rows.push(vec![what.to_owned(), histogram.len().to_string(), ms(0.5), ms(0.99), ms(0.999)]);
    }
    report.table("Latency, ms", &["what", "messages", "p50", "p99", "p99.9"], &rows);
    let ms = |quantile| idle.value_at_quantile(quantile) as f64 / 1e6;
    report.target("deliver to a waiting worker, idle, p50", ms(0.5), 0.5, " ms");
    report.target("deliver to a waiting worker, idle, p99", ms(0.99), 2.0, " ms");
    report.scripts("latency", &server.long_scripts().await?);
    server.flush().await
}

/// Delivers so many messages a second, each as soon as it is due, to workers that wait.
async fn run(
    producer: &Broker,
    queue: &Queue,
    workers: usize,
    rate: f64,
    seconds: f64,
) -> Result<Histogram<u64>, Any> {
    let count = (rate * seconds) as usize;
    let due = (0..count).map(|_| AtomicU64::new(0)).collect();
    let clock = Arc::new(Clock { begun: Instant::now(), due });
    let mut working = JoinSet::new();
    for _ in 0..workers {
        let (queue, clock) = (queue.clone(), clock.clone());
        working.spawn(async move {
            let mut seen = Histogram::<u64>::new(3)?;
            while let Some(delivery) = queue.lease().wait(Duration::from_secs(2)).await? {
                let n = delivery.message()?["n"].as_u64().ok_or("a number")? as usize;
                seen.record(clock.now().saturating_sub(clock.due[n].load(Ordering::Relaxed)))?;
                delivery.ack().await?;
            }
            Ok::<_, Any>(seen)
        });
    }
    sleep(Duration::from_millis(100)).await;
    let mut delivering = JoinSet::new();
    let mut ticks = interval(Duration::from_secs_f64((1.0 / rate).max(0.001)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let a_tick = (rate * 0.001).max(1.0);
    let mut sent = 0;
    let mut tick = 0.0;
    while sent < count {
        let at = ticks.tick().await.into_std();
        // Timers are a millisecond or two late, and no delivery begins before. More than that is for
        // the broker to answer for: then it is the time at which it should have begun that counts.
        let late = at.elapsed() > Duration::from_millis(3);
        let due = if late { at } else { Instant::now() };
        let due = due.saturating_duration_since(clock.begun).as_nanos() as u64;
        tick += 1.0;
        while sent < count && (sent as f64) < tick * a_tick {
            clock.due[sent].store(due, Ordering::Relaxed);
            let (producer, n) = (producer.clone(), sent);
            delivering.spawn(async move {
                let fill = "x".repeat(80);
                producer
                    .deliver(&json!({"f": format!("f{}", n % 1000), "n": n, "x": fill}))
                    .await?;
                Ok::<_, Any>(())
            });
            sent += 1;
        }
        while let Some(done) = delivering.try_join_next() {
            done??;
        }
    }
    all(delivering).await?;
    let mut seen = Histogram::new(3)?;
    for of_one in all(working).await? {
        seen.add(of_one)?;
    }
    if seen.len() as usize != count {
        return Err(format!("{} of {count} messages arrived", seen.len()).into());
    }
    Ok(seen)
}

/// How long this machine takes for the least that can be asked.
async fn ping(server: &Server, count: usize) -> Result<Histogram<u64>, Any> {
    let mut raw = connect(&server.url).await?;
    let mut seen = Histogram::new(3)?;
    for _ in 0..count {
        let begun = Instant::now();
        redis::cmd("PING").exec_async(&mut raw).await?;
        seen.record(begun.elapsed().as_nanos() as u64)?;
    }
    Ok(seen)
}
