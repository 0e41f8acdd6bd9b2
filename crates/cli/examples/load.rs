//! A load to look at with `fairlane top`: three queues, a loud tenant, one that pays for more, and
//! others that are kept from being served, each for another reason.
//!
//! It starts a server of its own in the directory that it is given, says how to look, and goes on
//! until somebody ends it. The picture in docs/ is made with it.

use std::{
    error::Error,
    path::PathBuf,
    time::{Duration, Instant},
};

use fairlane::{Broker, Message, Queue, Rate};
use serde_json::json;
use tokio::time::{interval, sleep};

type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result {
    let dir = std::env::args().nth(1).map_or_else(|| "load".into(), PathBuf::from);
    let broker: Broker = Broker::builder().embedded(&dir).connect().await?;
    let mails = broker.register_queue("mails", "^mail:").await?;
    let imports = broker.register_queue("imports", "^import:").await?;
    let webhooks = broker.register_queue("webhooks", "^webhook:").await?;
    set(&mails).await?;
    for (facet, n) in
        [("acme", 48_000), ("globex", 9000), ("initech", 5200), ("stark", 5600), ("wayne", 2400)]
    {
        deliver(&broker, "mail:welcome", facet, n).await?;
    }
    for (facet, n) in [("umbrella", 740), ("hooli", 310), ("soylent", 430)] {
        deliver(&broker, "mail:report", facet, n).await?;
    }
    deliver(&broker, "import:csv", "globex", 40).await?;
    webhooks.pause().await?;
    tokio::spawn(mail(broker.clone()));
    tokio::spawn(others(broker));
    for n in 0..10 {
        tokio::spawn(work(mails.clone(), n));
    }
    tokio::spawn(work(imports, 0));
    let socket = dir.canonicalize()?.join("redis.sock");
    println!("fairlane top --redis unix://{} mails", socket.display());
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// Who is served how.
async fn set(mails: &Queue) -> Result {
    mails.facet("globex").set_weight(3.0).await?; // It pays for that.
    mails.facet("umbrella").pause().await?;
    mails.facet("hooli").configure(|facet| facet.max_leased = Some(2)).await?;
    let slow = Rate::new(4, Duration::from_secs(1));
    mails.facet("soylent").configure(|facet| facet.rate = Some(slow)).await?;
    Ok(())
}

async fn deliver(broker: &Broker, topic: &str, facet: &str, n: usize) -> Result {
    let body = json!({"to": "somebody@example.com"});
    broker.deliver_all((0..n).map(|_| Message::new(&body).facet(facet).topic(topic))).await?;
    Ok(())
}

/// Delivers mails: most of them from the loud one, which sends more and less by the minute.
async fn mail(broker: Broker) -> Result {
    let (began, mut ticks) = (Instant::now(), interval(Duration::from_millis(250)));
    loop {
        ticks.tick().await;
        let wave = (began.elapsed().as_secs_f64() / 45.0 * std::f64::consts::TAU).sin();
        for (facet, a_second) in [
            ("acme", 150.0 + 110.0 * wave),
            ("globex", 60.0),
            ("initech", 24.0),
            ("stark", 16.0 + 8.0 * wave),
            ("wayne", 20.0),
            ("wonka", 4.0),
            ("hooli", 8.0),
            ("soylent", 4.0),
        ] {
            deliver(&broker, "mail:order", facet, (a_second / 4.0).round() as usize).await?;
        }
    }
}

/// Delivers what the other queues get.
async fn others(broker: Broker) -> Result {
    let mut ticks = interval(Duration::from_millis(500));
    loop {
        ticks.tick().await;
        deliver(&broker, "import:csv", "initech", 3).await?;
        deliver(&broker, "webhook:order", "acme", 2).await?;
    }
}

/// Works on a queue. A mail takes its time, those of one tenant more; some workers are away for a
/// while each minute.
async fn work(queue: Queue, n: u64) -> Result {
    let began = Instant::now();
    loop {
        if n % 3 == 2 && began.elapsed().as_secs() % 60 > 40 + n {
            sleep(Duration::from_millis(500)).await;
            continue;
        }
        let Some(delivery) = queue.lease().wait(Duration::from_secs(5)).await? else { continue };
        let time = if delivery.facet() == "hooli" { 900 } else { 24 + n * 3 };
        sleep(Duration::from_millis(time)).await;
        delivery.ack().await?;
    }
}
