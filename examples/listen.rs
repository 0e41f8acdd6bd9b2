//! A listener: hears live what is delivered to topics, beside the queues that keep it for workers.
//!
//! Nothing has to be set up: the broker starts a Redis server of its own.

use std::io::{Write, stdout};

use fairlane::{Broker, Heard, Missed};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Debug, Serialize, Deserialize)]
struct Visit {
    site: String,
    page: String,
}

type Any = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Any> {
    let dir = tempfile::tempdir()?;
    let broker = Broker::<Visit>::builder()
        .embedded(dir.path())
        .facet(|visit| visit.site.clone())
        .topic(|visit| format!("visit:{}", visit.page))
        .connect()
        .await?;
    broker.register_queue("all", ".").await?;

    let mut visits = broker.listen("visit:docs/*").await?;
    let printing = tokio::spawn(async move {
        while let Some(heard) = visits.next().await {
            match heard {
                Ok(Heard { topic, .. }) if topic == "visit:docs/end" => break,
                Ok(Heard { topic, message, .. }) => println!("{topic} of {}", message.site),
                Err(Missed::Undecodable(told)) => println!("not a visit, on {}", told.topic),
                Err(missed) => println!("{missed}"), // Redis was away, or this was too slow.
            }
        }
        stdout().flush()
    });

    for (site, page) in [("acme", "docs/start"), ("acme", "prices"), ("beta", "docs/queues")] {
        let visit = Visit { site: site.into(), page: page.into() };
        let receipt = broker.deliver(&visit).await?;
        assert_eq!(receipt.queues.len(), 1, "heard by somebody or not, it is on the queue");
    }
    let other = broker.with_type().topic(|_| "visit:docs/odd").facet(|_| "beta");
    other.deliver(&json!({"this is": "something else"})).await?;
    let end = Visit { site: "acme".into(), page: "docs/end".into() };
    broker.deliver(&end).await?;
    printing.await??;

    println!("{} messages wait for workers", broker.queue("all").stats().await?.waiting);
    Ok(())
}
