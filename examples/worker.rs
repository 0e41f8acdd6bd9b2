//! A worker: a loop over the stream of a queue, which ends with Ctrl-C and leaves nothing half done.
//!
//! Nothing has to be set up: the broker starts a Redis server of its own. A task delivers a mail now
//! and then, and the worker, which waits in between, tells how soon it had them in hand.

use std::{
    pin::pin,
    time::{Duration, SystemTime},
};

use fairlane::{Broker, Cursor, Delivery};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Mail {
    account: String,
    subject: String,
    sent: SystemTime,
}

type Any = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Any> {
    let dir = tempfile::tempdir()?;
    let broker = Broker::<Mail>::builder()
        .embedded(dir.path())
        .facet(|mail| mail.account.clone())
        .topic(|_| "mail")
        .connect()
        .await?;
    let queue = broker.register_queue("mails", "^mail$").await?;
    // What cannot be sent is tried three times, after pauses that grow.
    queue
        .configure(|queue| {
            queue.max_attempts = 3;
            queue.backoff.first = Duration::from_millis(20);
        })
        .await?;
    tokio::spawn(deliver(broker));

    println!("waiting for mails; Ctrl-C ends it");
    let mut took = Vec::new();
    let mut deliveries = queue.lease().into_stream();
    // One for all turns of the loop: it also hears a Ctrl-C that comes while a mail is in hand.
    let mut stop = pin!(tokio::signal::ctrl_c());
    loop {
        let delivery = tokio::select! {
            _ = &mut stop => break, // What waits has nothing in hand.
            Some(delivery) = deliveries.next() => delivery,
        };
        match delivery {
            Ok(delivery) => took.extend(work(delivery).await),
            Err(error) => eprintln!("{error}"), // The stream goes on, after a pause.
        }
    }
    for letter in queue.dead_letters().page(Cursor::default()).await?.0 {
        let why = letter.reason.unwrap_or_default();
        eprintln!("{} of {} is given up: {why}", letter.id, letter.facet);
    }
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    println!(
        "{} mails done, half of them in hand within {:.2} ms",
        took.len(),
        median.as_secs_f64() * 1000.0
    );
    Ok(())
}

/// Handles a mail and settles it. Returns how long it was on its way, if it is done.
async fn work(delivery: Delivery<Mail>) -> Option<Duration> {
    let took = delivery.message().ok().and_then(|mail| mail.sent.elapsed().ok());
    let sent = match delivery.message() {
        Ok(mail) => send(mail).await.map_err(|error| error.to_string()),
        Err(undecodable) => Err(undecodable.to_string()),
    };
    let settled = match sent {
        Ok(()) => delivery.ack().await,
        Err(error) => delivery.fail(error).await, // Again later; in the end a dead letter.
    };
    // If it was not applied, the message comes back when its lease ends.
    settled.map_err(|error| eprintln!("{error}")).ok().and(took)
}

/// Here the work would be done.
async fn send(mail: &Mail) -> Result<(), std::io::Error> {
    println!("{} for {}", mail.subject, mail.account);
    Ok(())
}

/// What would be another process.
async fn deliver(broker: Broker<Mail>) -> fairlane::Result<()> {
    // One that is no mail: it is tried as often as any other, and then given up.
    let odd = broker.with_type::<String>().facet(|_| "odd").topic(|_| "mail");
    odd.deliver(&"no mail".into()).await?;
    for n in 1.. {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let account = if n % 3 == 0 { "beta" } else { "acme" };
        let (account, subject) = (account.into(), format!("mail {n}"));
        broker.deliver(&Mail { account, subject, sent: SystemTime::now() }).await?;
    }
    Ok(())
}
