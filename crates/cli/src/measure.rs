//! How `bench` measures.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fairlane::{Broker, Error, Message, Queue};
use futures_util::future::try_join_all;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::sleep;

use crate::{
    bench::{Bench, Figure},
    connect::Body,
};

/// How many messages a delivery, a lease or an ack has where they go in batches.
const BATCH: usize = 100;
/// How many tasks deliver or work at a time where they go one by one.
const TASKS: usize = 64;
/// How many messages are sent on their way to a waiting worker, and how far apart.
const TRIPS: usize = 500;
const APART: Duration = Duration::from_millis(2);

/// The steps of a measurement.
pub(crate) struct Steps<'a> {
    bench: &'a Bench,
    broker: &'a Broker<Body>,
    queue: &'a Queue<Body>,
    body: Body,
    pub(crate) bar: ProgressBar,
}

impl<'a> Steps<'a> {
    pub(crate) fn new(bench: &'a Bench, broker: &'a Broker<Body>, queue: &'a Queue<Body>) -> Self {
        let form = "{msg:<24} {bar:30} {pos}/{len} {eta}";
        let style =
            ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(0).with_style(style);
        Self { bench, broker, queue, body: vec![b'.'; bench.body as usize], bar }
    }

    fn step(&self, name: &'static str, of: usize) {
        self.bar.set_length(of as u64);
        self.bar.set_position(0);
        self.bar.set_message(name);
    }

    fn message(&self, facet: usize) -> Message<'_, Body> {
        Message::new(&self.body).facet(facet).topic(self.queue.name())
    }

    /// Half of the messages are of the first facet, the others of all others in turn.
    fn facets(&self) -> impl Iterator<Item = usize> {
        let others = self.bench.facets as usize - 1;
        (0..self.bench.messages as usize).map(move |n| match n % 2 {
            0 => 0,
            _ => 1 + n / 2 % others,
        })
    }

    pub(crate) async fn all(&self) -> Result<Vec<Figure>, Error> {
        let mut figures = Vec::new();
        let n = self.bench.messages as usize;
        let rate = |begun: Instant| n as f64 / begun.elapsed().as_secs_f64();
        let mut figure = |what, value: f64, unit| {
            let value = (value * 1000.0).round() / 1000.0;
            figures.push(Figure { what, value, unit });
        };

        let begun = Instant::now();
        self.deliver("deliver").await?;
        figure("deliver, 100 a call", rate(begun), "messages/s");

        let begun = Instant::now();
        let fairness = self.serve().await?;
        figure("lease and ack, 100 a call", rate(begun), "messages/s");
        figure("fairness index", fairness, "of 1");

        let begun = Instant::now();
        self.deliver_apart().await?;
        figure("deliver, one by one, 64 tasks", rate(begun), "messages/s");

        let begun = Instant::now();
        self.work().await?;
        figure("worker, 64 at a time", rate(begun), "messages/s");

        let mut trips = self.trips().await?;
        trips.sort_unstable();
        let within = |share: f64| {
            let place = (trips.len() as f64 * share) as usize;
            trips.get(place.min(trips.len().saturating_sub(1))).map_or(0.0, ms)
        };
        figure("delivered to in hand, half", within(0.5), "ms");
        figure("delivered to in hand, 99 %", within(0.99), "ms");
        Ok(figures)
    }

    /// Delivers in batches.
    async fn deliver(&self, name: &'static str) -> Result<(), Error> {
        self.step(name, self.bench.messages as usize);
        let mut facets = self.facets();
        loop {
            let batch: Vec<_> = facets.by_ref().take(BATCH).map(|n| self.message(n)).collect();
            if batch.is_empty() {
                return Ok(());
            }
            let delivered = self.broker.deliver_all(batch).await?;
            self.bar.inc(delivered.len() as u64);
        }
    }

    /// Delivers one by one, from many tasks.
    async fn deliver_apart(&self) -> Result<(), Error> {
        self.step("deliver one by one", self.bench.messages as usize);
        let facets = Mutex::new(self.facets());
        let task = async || {
            loop {
                let next = facets.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(facet) = next else { return Ok::<_, Error>(()) };
                self.broker.deliver(self.message(facet)).await?;
                self.bar.inc(1);
            }
        };
        try_join_all((0..TASKS).map(|_| task())).await.map(drop)
    }

    /// Serves all in batches, and returns how fair that was while all facets had messages waiting.
    async fn serve(&self) -> Result<f64, Error> {
        self.step("lease and ack", self.bench.messages as usize);
        let mut left = BTreeMap::<String, usize>::new();
        self.facets().for_each(|facet| *left.entry(facet.to_string()).or_default() += 1);
        let (mut served, mut all_wait) = (BTreeMap::<String, u64>::new(), true);
        loop {
            let batch = self.queue.lease_many(BATCH).await?;
            if batch.is_empty() {
                let shares: Vec<_> =
                    left.keys().map(|facet| *served.get(facet).unwrap_or(&0) as f64).collect();
                return Ok(jain(&shares));
            }
            for delivery in &batch {
                if !all_wait {
                    break;
                }
                *served.entry(delivery.facet().to_owned()).or_default() += 1;
                if let Some(left) = left.get_mut(delivery.facet()) {
                    *left = left.saturating_sub(1);
                    all_wait &= *left > 0;
                }
            }
            self.bar.inc(batch.len() as u64);
            self.broker.ack_all(batch).await?;
        }
    }

    /// Serves all with a worker.
    async fn work(&self) -> Result<(), Error> {
        self.step("worker", self.bench.messages as usize);
        let bar = self.bar.clone();
        let worker = self.queue.worker(move |_delivery| {
            bar.inc(1);
            async { Ok::<_, String>(()) }
        });
        worker.concurrency(TASKS).run_until_empty().await.map(drop)
    }

    /// Delivers to a worker that waits. Returns how long each message was on its way.
    async fn trips(&self) -> Result<Vec<Duration>, Error> {
        self.step("latency", TRIPS);
        let sent = Arc::new(Mutex::new(Instant::now()));
        let (trips, count) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let (of, record, counted) = (sent.clone(), trips.clone(), count.clone());
        let worker = self.queue.worker(move |_delivery| {
            let sent = *of.lock().unwrap_or_else(PoisonError::into_inner);
            record.lock().unwrap_or_else(PoisonError::into_inner).push(sent.elapsed());
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, String>(()) }
        });
        let deliver = async {
            for n in 0..TRIPS {
                sleep(APART).await; // So long that the worker waits again.
                *sent.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                self.broker.deliver(self.message(n)).await?;
                while count.load(Ordering::SeqCst) <= n {
                    sleep(Duration::from_micros(200)).await;
                }
                self.bar.inc(1);
            }
            Ok::<_, Error>(())
        };
        tokio::select! {
            worked = worker.signals(false).run() => worked.map(drop)?,
            delivered = deliver => delivered?,
        }
        let trips = trips.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(trips)
    }
}

fn ms(time: &Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Jain's index of fairness: 1 where all have the same, 1/n where one of n has everything.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) =
        shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_one_where_all_have_the_same_and_a_share_where_one_has_all() {
        assert_eq!(jain(&[3.0, 3.0, 3.0]), 1.0);
        assert_eq!(jain(&[6.0, 0.0, 0.0]), 1.0 / 3.0);
        assert_eq!(jain(&[]), 1.0);
    }
}
