//! How fairly facets are served: one that is loud, and 999 quiet ones; beside a plain list, which
//! serves in the order of arrival.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{Any, Scale, all, report::Report, server::Server};

const FACETS: usize = 1000;
/// The loud one delivers this many messages for each one of a quiet one.
const LOUD: usize = 50;

/// Jain's index of how often each was served: 1 when all were equally often, 1/n when one had all.
fn jain(served: &[usize]) -> f64 {
    let sum: f64 = served.iter().map(|count| *count as f64).sum();
    let squares: f64 = served.iter().map(|count| (*count as f64).powi(2)).sum();
    sum * sum / (served.len() as f64 * squares)
}

/// All facets have a backlog: who is served, over time.
struct Shares {
    served: Vec<usize>,
    /// Jain's index at each tenth of the way.
    over_time: Vec<f64>,
}

impl Shares {
    fn of(order: &[usize]) -> Self {
        let mut shares = Self { served: vec![0; FACETS], over_time: Vec::new() };
        for (i, facet) in order.iter().enumerate() {
            shares.served[*facet] += 1;
            if (i + 1) % (order.len() / 10) == 0 {
                shares.over_time.push(jain(&shares.served));
            }
        }
        shares
    }

    fn row(&self, what: &str) -> Vec<String> {
        let mut row = vec![what.to_owned()];
        row.extend([0, 1, 4, 9].map(|tenth| format!("{:.4}", self.over_time[tenth])));
        row.push(self.served[0].to_string());
        row
    }
}

pub(crate) async fn measure(
    server: &mut Server,
    report: &mut Report,
    scale: Scale,
) -> Result<(), Any> {
    let quiet = scale.of(40, 4);
    let broker = server.broker.clone();
    let queue = broker.register_queue("bench", ".").await?;
    // The loud one comes first with everything; as many pulls as the quiet ones' share ends it.
    let mut arrivals = vec![0; LOUD * quiet];
    arrivals.extend((0..quiet).flat_map(|_| 1..FACETS));
    let pulls = quiet * FACETS;
    let facet_of = |message: &Value| -> Result<usize, Any> {
        Ok(message["f"].as_str().and_then(|name| name[1..].parse().ok()).ok_or("a facet")?)
    };
    let mut rows = Vec::new();
    for workers in [1, 8] {
        for part in arrivals.chunks(1000) {
            let messages: Vec<_> = part.iter().map(|n| json!({"f": format!("f{n}")})).collect();
            broker.deliver_all(&messages).await?;
        }
        // Who was served, in the order in which the workers have it in hand: with 8 of them, who each
        // have up to 20 in flight, not quite that in which the server did it.
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut working = JoinSet::new();
        for _ in 0..workers {
            let (queue, order) = (queue.clone(), order.clone());
            working.spawn(async move {
                loop {
                    if order.lock().unwrap_or_else(PoisonError::into_inner).len() >= pulls {
                        return Ok::<_, Any>(());
                    }
                    let pulled = queue.pull_many(20).await?;
                    let mut order = order.lock().unwrap_or_else(PoisonError::into_inner);
                    for message in pulled {
                        order.push(facet_of(&message?)?);
                    }
                }
            });
        }
        all(working).await?;
        let order = std::mem::take(&mut *order.lock().unwrap_or_else(PoisonError::into_inner));
        rows.push(Shares::of(&order[..pulls]).row(&format!("fairlane, workers: {workers}")));
        while !queue.pull_many(1000).await?.is_empty() {}
    }
    rows.push(Shares::of(&arrivals[..pulls]).row("a plain list"));
    let head = ["Jain's index after", "10 %", "20 %", "50 %", "100 %", "served of the loud one"];
    let title = format!(
        "Fairness: all have a backlog, the loud one {} messages, 999 others {quiet} each",
        LOUD * quiet
    );
    report.table(&title, &head, &rows);
    waits(server, report, scale.of(40_000, 2000)).await?;
    report.scripts("fairness", &server.long_scripts().await?);
    server.flush().await
}

/// The loud one always has a backlog; the quiet ones come with a message now and then. How many
/// others are served while one of theirs waits.
async fn waits(server: &mut Server, report: &mut Report, pulls: usize) -> Result<(), Any> {
    let broker = server.broker.clone();
    let queue = broker.register_queue("bench", ".").await?;
    let mut rows = Vec::new();
    // 8: as 8 workers do that ask at once; their calls go out together, as one.
    for batch in [1, 8] {
        let mut waits: Vec<usize> = Vec::new();
        let mut list: VecDeque<(usize, usize)> = VecDeque::new();
        let mut list_waits: Vec<usize> = Vec::new();
        let mut came: HashMap<usize, usize> = HashMap::new();
        let (mut served, mut next_quiet, mut seed) = (0, 1, 7_u64);
        while served < pulls {
            let mut coming = Vec::new();
            // Two of the loud one for each that is served, and one of a quiet one for every third.
            for _ in 0..batch {
                coming.extend([0, 0]);
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if (seed >> 33) % 3 == 0 {
                    coming.push(next_quiet);
                    next_quiet = next_quiet % (FACETS - 1) + 1;
                }
            }
            let messages: Vec<_> = coming.iter().map(|n| json!({"f": format!("f{n}")})).collect();
            broker.deliver_all(&messages).await?;
            for facet in coming {
                list.push_back((facet, served));
                if facet > 0 {
                    came.entry(facet).or_insert(served);
                }
            }
            for message in queue.pull_many(batch).await? {
                let name = message?["f"].as_str().map(str::to_owned).ok_or("a facet")?;
                let facet: usize = name[1..].parse()?;
                if let Some(since) = came.remove(&facet) {
                    waits.push(served - since);
                }
                if let Some((facet, since)) = list.pop_front()
                    && facet > 0
                {
                    list_waits.push(served - since);
                }
                served += 1;
            }
        }
        for (what, waits) in [("fairlane", &mut waits), ("a plain list", &mut list_waits)] {
            waits.sort_unstable();
            let at = |quantile: f64| waits[((waits.len() - 1) as f64 * quantile) as usize];
            rows.push(vec![
                format!("{what}, taken at once: {batch}"),
                waits.len().to_string(),
                at(0.5).to_string(),
                at(0.99).to_string(),
                at(1.0).to_string(),
            ]);
        }
        while !queue.pull_many(1000).await?.is_empty() {}
    }
    let head = ["turns that a quiet message waits", "messages", "half", "99 %", "longest"];
    report.table("Fairness: a loud backlog that grows, 999 that come now and then", &head, &rows);
    Ok(())
}
