//! A day of flights, worked off in fair turns.
//!
//! Every departure of New York's airports on one day is a message; the carrier is its facet. Two
//! workers wait. All flights are delivered at once, while a listener prints those that were
//! cancelled. Then the workers handle them, and a table shows how long each carrier waited. Nothing
//! has to be set up: the broker starts a Redis server of its own.

use std::{collections::BTreeMap, time::Instant};

use fairlane::{Broker, Heard, Listener, MessageId, Queues};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

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

    // Nothing is served before all is there, so that the table shows the turns and nothing else.
    all.pause().await?;
    trouble.pause().await?;
    let (done, mut served) = unbounded_channel();
    let source = broker.in_order(["trouble", "all"]);
    let workers = [1, 2].map(|_| tokio::spawn(work(source.clone(), done.clone())));

    let day = include_str!("data/flights-2013-07-10.jsonl");
    let flights: Vec<Flight> = day.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let cancelled = flights.iter().filter(|flight| flight.departure_delay.is_none()).count();
    let listening = tokio::spawn(print(broker.listen("cancelled:*").await?, cancelled));
    let start = Instant::now();
    let receipts = broker.deliver_all(&flights).await?;
    let took = start.elapsed();
    listening.await??;

    let ids: Vec<MessageId> = receipts.iter().map(|receipt| receipt.id).collect();
    let twice = receipts.iter().filter(|receipt| receipt.queues.len() == 2).count();
    println!("\n{} flights were delivered in {took:.0?}, all at once.", flights.len());
    println!("Each is a message; its carrier is its facet, which is whose turn it is.");
    println!(
        "All went on the queue `all`; the {twice} that were late or cancelled at JFK on `trouble`, too."
    );

    let start = Instant::now();
    trouble.resume().await?;
    all.resume().await?;
    let mut order = Vec::new();
    while order.len() < flights.len() + twice {
        order.push(served.recv().await.ok_or("the workers have ended")?);
    }
    println!("Two workers leased and acked them one by one in {:.0?}.\n", start.elapsed());
    workers.iter().for_each(tokio::task::JoinHandle::abort); // They wait for more.

    let of_all = order.into_iter().filter(|(queue, _)| queue == "all");
    let served: Vec<MessageId> = of_all.map(|(_, id)| id).collect();
    print!("{}", table(&flights, &ids, &served));
    Ok(())
}

/// Prints so many flights as they are heard.
async fn print(mut cancelled: Listener<Flight>, count: usize) -> Result<(), Any> {
    println!("A listener on `cancelled:*` hears, live:");
    for n in 1..=count {
        let Heard { topic, message, .. } = cancelled.next().await.ok_or("the end")??;
        let route = topic.trim_start_matches("cancelled:").replace(':', "-");
        let end = if n % 9 == 0 || n == count { '\n' } else { ' ' };
        print!("{} {route}{end}", message.carrier);
    }
    Ok(())
}

/// Handles what comes to the queues, and tells what it has handled.
async fn work(
    source: Queues<Flight>,
    done: UnboundedSender<(String, MessageId)>,
) -> Result<(), Any> {
    let mut deliveries = source.lease().into_stream();
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let _flight: &Flight = delivery.message()?; // Here the work would be done.
        let told = (delivery.queue().to_owned(), delivery.id());
        delivery.ack().await?;
        done.send(told)?;
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
