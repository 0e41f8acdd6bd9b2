//! A worker: a function for each message, until Ctrl-C, and nothing is left half done.
//!
//! Nothing has to be set up: the broker starts a Redis server of its own. A task delivers a mail now
//! and then, and the worker, which waits in between, tells how soon it had them in hand.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use fairlane::{AnyError, Broker, Cursor};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Mail {
    account: String,
    subject: String,
    sent: SystemTime,
}

#[tokio::main]
async fn main() -> Result<(), AnyError> {
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
    let took = Arc::new(Mutex::new(Vec::new()));
    let record = took.clone();
    let worker = queue.worker(|delivery| async move {
        let mail = delivery.message()?; // One that does not decode fails, as any other error.
        Ok::<_, AnyError>(send(mail).await?)
    });
    let worker = worker.before(move |delivery| {
        let took = delivery.message().ok().and_then(|mail| mail.sent.elapsed().ok());
        record.lock().unwrap_or_else(PoisonError::into_inner).extend(took);
    });
    let report = worker.run().await?;

    for letter in queue.dead_letters().page(Cursor::default()).await?.0 {
        let why = letter.reason.unwrap_or_default();
        eprintln!("{} of {} is given up: {why}", letter.id, letter.facet);
    }
    let mut took = took.lock().unwrap_or_else(PoisonError::into_inner).clone();
    took.sort_unstable();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    println!(
        "{} mails done, half of them in hand within {:.2} ms",
        report.acked,
        median.as_secs_f64() * 1000.0
    );
    Ok(())
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
