//! A day of flights, worked off in fair turns.
//!
//! Every departure of New York's airports on one day is a message; the carrier is its facet. All of
//! them are delivered at once, two workers handle them, and a table shows how long each carrier
//! waited. Nothing has to be set up: the broker starts a Redis server of its own.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use fairlane::{Broker, MessageId, Queue};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Flight {
    carrier: String,
    origin: String,
    dest: String,
    /// In minutes; none for a flight that was cancelled.
    departure_delay: Option<i32>,
}

impl Flight {
    fn topic(&self) -> String {
        let status = match self.departure_delay {
            None => "cancelled",
            Some(15..) => "late", // as the Department of Transportation counts
            Some(_) => "on-time",
        };
        format!("{status}:{}:{}", self.origin, self.dest)
    }
}

type Any = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Any> {
    let dir = tempfile::tempdir()?;
    let broker = Broker::<Flight>::builder()
        .embedded(dir.path().join("redis"))
        .facet(|flight| flight.carrier.clone())
        .topic(Flight::topic)
        .connect()
        .await?;

    let all = broker.register_queue("all", ".").await?;
    let trouble = broker.register_queue("trouble", "^(late|cancelled):JFK:").await?;

    let day = include_str!("data/flights-2013-07-10.jsonl");
    let flights: Vec<Flight> = day.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let start = Instant::now();
    let receipts = broker.deliver_all(&flights).await?;
    let ids: Vec<MessageId> = receipts.iter().map(|receipt| receipt.id).collect();
    let twice = receipts.iter().filter(|receipt| receipt.queues.len() == 2).count();
    println!("{} flights were delivered in {:.0?}, all at once.", flights.len(), start.elapsed());
    println!("Each is a message; its carrier is its facet, which is whose turn it is.");
    println!(
        "All went on the queue `all`; the {twice} that were late or cancelled at JFK on `trouble`, too."
    );

    let start = Instant::now();
    let served = Arc::new(Mutex::new(Vec::new()));
    let workers =
        [1, 2].map(|_| tokio::spawn(work([trouble.clone(), all.clone()], served.clone())));
    for worker in workers {
        worker.await??;
    }
    println!("Two workers leased and acked them one by one in {:.0?}.\n", start.elapsed());

    let served = served.lock().map_err(|_| "a worker panicked")?;
    print!("{}", table(&flights, &ids, &served));
    Ok(())
}

/// Handles messages until no queue has any.
async fn work(queues: [Queue<Flight>; 2], served: Arc<Mutex<Vec<MessageId>>>) -> Result<(), Any> {
    for queue in queues {
        while let Some(delivery) = queue.lease().await? {
            if delivery.queue() == "all" {
                served.lock().map_err(|_| "a worker panicked")?.push(delivery.id());
            }
            let _flight: &Flight = delivery.message()?; // Here the work would be done.
            delivery.ack().await?;
        }
    }
    Ok(())
}

/// For each carrier, how many flights of any carrier were served before its own.
fn table(flights: &[Flight], delivered: &[MessageId], served: &[MessageId]) -> String {
    let places: BTreeMap<MessageId, usize> =
        served.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let mut waits: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for (first_in, (flight, id)) in flights.iter().zip(delivered).enumerate() {
        waits.entry(&flight.carrier).or_default().push((places[id], first_in));
    }
    let mut rows: Vec<_> = waits.into_iter().collect();
    rows.sort_by_key(|(_, waits)| std::cmp::Reverse(waits.len()));

    let quietest = rows.last().map(|(carrier, waits)| (*carrier, waits[0]));
    let mut text = String::from(
        "How long each carrier waited, counted in flights that were served before its own, and how long\n\
         it would have waited in one line for all:\n\n\
         \x20                  fair turns          first in, first out\n\
         carrier  flights   mean  longest          mean  longest\n",
    );
    for (carrier, waits) in rows {
        let n = waits.len();
        let mean = |waits: Vec<usize>| waits.iter().sum::<usize>() / n;
        let (fair, fifo): (Vec<_>, Vec<_>) = waits.into_iter().unzip();
        let (last, last_fifo) = (fair.iter().max().copied(), fifo.iter().max().copied());
        text += &format!(
            "{carrier:<7}  {n:>7}  {:>5}  {:>7}         {:>5}  {:>7}\n",
            mean(fair),
            last.unwrap_or(0),
            mean(fifo),
            last_fifo.unwrap_or(0),
        );
    }
    if let Some((carrier, (fair, fifo))) = quietest {
        text += &format!(
            "\nThe quietest, {carrier}, had its turn after {fair} others, about one of each carrier, instead of {fifo}.\n\
             The loudest wait longer for that, behind their own flights; the last place is the same.\n"
        );
    }
    text
}
