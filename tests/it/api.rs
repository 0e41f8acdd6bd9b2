//! The ways in which the API is meant to be used: that they compile, in a future that can be sent,
//! and that they run.

use std::{future::IntoFuture, time::Duration};

use fairlane::{Broker, Cursor, Delivery, FacetStats, Heard, Message, Receipt, Stats, Token};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::{self, Space};

#[derive(Serialize, Deserialize)]
struct Event {
    user_id: u64,
    account: String,
    kind: String,
    name: String,
}

type Any = Box<dyn std::error::Error + Send + Sync>;
const SECOND: Duration = Duration::from_secs(1);

fn event(n: u64) -> Event {
    Event {
        user_id: n,
        account: format!("account-{}", n % 3),
        kind: "page".into(),
        name: "google".into(),
    }
}

async fn all(namespace: String) -> Result<(), Any> {
    let plain: Broker = support::builder_as(&namespace).await.connect().await?;
    plain.deliver(&json!({"facet": 1, "topic": "page"})).await?;
    let broker = plain.with_type::<Event>();
    let _owned_string = broker.clone().facet(|e| e.account.clone());
    let broker = broker.facet(|e| e.user_id).topic(|e| format!("{}:{}", e.kind, e.name));

    let queue = broker.register_queue("google", r"^page:.*google").await?;
    let (event, events) = (event(0), [event(1), event(2), event(3)]);
    let Receipt { id, queues, listeners, .. } = broker.deliver(&event).await?;
    assert_eq!((id.to_string().is_empty(), queues.len(), listeners), (false, 1, 0));
    broker.deliver(Message::new(&event).facet("acme")).await?;
    broker.deliver_all(&events).await?;
    broker.deliver_all(events.iter().map(|e| Message::new(e).facet(&e.account))).await?;
    for receipt in futures_util::future::join_all(events.iter().map(|e| broker.deliver(e))).await {
        receipt?;
    }

    let _: Option<Event> = queue.pull().await?;
    for event in queue.pull_many(2).wait(SECOND).await? {
        let _: Event = event?;
    }
    if let Some(delivery) = queue.lease().wait(SECOND).lasting(60 * SECOND).await? {
        let _: &Event = delivery.message()?;
        tokio::select! { biased; extended = delivery.extend(SECOND) => extended?, () = tokio::time::sleep(SECOND) => {} }
        let _in_time =
            tokio::time::timeout_at(delivery.expires_at().into(), std::future::ready(())).await;
        delivery.ack().await?;
    }
    let done: Vec<Delivery<Event>> = queue.lease_many(3).await?;
    assert!(broker.ack_all(done).await?.is_empty());
    if let Some(delivery) = tokio::time::timeout(SECOND, queue.lease()).await?? {
        let token: Token = delivery.token().to_string().parse()?;
        broker.extend(&token, SECOND).await?;
        broker.nack(&token).await?;
    }
    broker.register_queue("bulk", "^bulk:").await?;
    let _ = broker.in_order(["google", "bulk"]).lease().wait(SECOND).await?;
    let _: Option<(String, Event)> =
        broker.by_weight([("google", 10.0), ("bulk", 1.0)]).pull().await?;
    tokio::select! { biased; leased = queue.lease().wait(SECOND) => drop(leased?), _ = tokio::signal::ctrl_c() => {} }

    let mut pages = broker.listen("page:*google*").await?;
    broker.deliver(&event).await?;
    let mut stream = queue.lease().lasting(SECOND).into_stream();
    if let Some(delivery) = StreamExt::next(&mut stream).await {
        delivery?.ack().await?;
    }
    if let Some(delivery) = stream.next().await {
        delivery?.ack().await?;
    }
    let waiting = tokio::spawn(async move { stream.next().await });
    if let Some(heard) = StreamExt::next(&mut pages).await {
        match heard {
            Ok(Heard { topic, message, .. }) => {
                assert_eq!((topic.as_str(), &*message.name), ("page:google", "google"))
            }
            Err(missed) => return Err(missed.into()),
        }
    }
    waiting.abort();
    queue.facet("acme").pause().await?;
    queue.facet("acme").resume().await?;
    let _: (usize, Stats, FacetStats) =
        (queue.peek(9).await?.len(), queue.stats().await?, queue.facet("acme").stats().await?);
    let _: (Vec<FacetStats>, Option<Cursor>) = queue.facets(Cursor::default()).await?;
    broker.queue("bulk").destroy().await?;

    let spawned = tokio::spawn(queue.lease().into_future()).await??;
    if let Some(delivery) = spawned {
        broker.ack(&delivery.into()).await?;
    }
    queue.facet("acme").set_weight(3.0).await?;
    assert!(broker.unregister_queue("google").await?);
    Ok(())
}

#[tokio::test]
async fn every_way_of_use_compiles_and_runs_in_a_task() {
    let space = Space::new().await;
    space.may_hear(&["page:*google*"]).await;
    tokio::spawn(all(space.name.clone())).await.unwrap().unwrap();
    space.delete().await;
}
