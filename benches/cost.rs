//! What a message costs the server, as a ratio to raw lists in the same run.
//!
//! The machine may be shared and noisy, so the figure is CPU time of the server (user and system,
//! from INFO) for each message, beside that of RPUSH and LPOP of the same bodies in pipelines of
//! 16.

use std::{error::Error, time::Instant};

use fairlane::{Broker, Token};
use redis::{Pipeline, aio::MultiplexedConnection};
use serde_json::{Value, json};

type Any = Box<dyn Error + Send + Sync>;

const CALL: usize = 100;
const PIPELINE: usize = 16;

/// How much is measured. `--quick` shows that it runs, and no more.
#[derive(Clone, Copy)]
struct Size {
    /// Messages of one round; a multiple of what one call takes.
    messages: usize,
    rounds: usize,
}

#[tokio::main]
async fn main() -> Result<(), Any> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let size =
        Size { messages: if quick { 1600 } else { 20_000 }, rounds: if quick { 1 } else { 3 } };
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("redis");
    let broker: Broker = Broker::builder().embedded(&path).connect().await?;
    let client = redis::Client::open(format!("unix://{}", path.join("redis.sock").display()))?;
    let mut raw = client.get_multiplexed_async_connection().await?;
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("slowlog-log-slower-than")
        .arg(1000)
        .exec_async(&mut raw)
        .await?;

    println!(
        "CPU of the server a message, in us; bodies of about 100 bytes, {} messages:\n",
        size.messages
    );
    println!("{:<33}{:>16}{:>16}{:>16}", "facets", 1, 1000, 100_000);
    let mut rows: Vec<(&str, Vec<f64>)> = Vec::new();
    for facets in [1, 1000, 100_000] {
        for (row, cost) in measure(&broker, &mut raw, facets, size).await? {
            match rows.iter_mut().find(|(name, _)| *name == row) {
                Some((_, costs)) => costs.push(cost),
                None => rows.push((row, vec![cost])),
            }
        }
    }
    let of = |name: &str| rows.iter().find(|(row, _)| *row == name).map(|(_, costs)| costs.clone());
    let (push, pop) = (of("RPUSH").unwrap_or_default(), of("LPOP").unwrap_or_default());
    for (row, costs) in &rows {
        print!("{row:<33}");
        for (i, cost) in costs.iter().enumerate() {
            let beside = match *row {
                "LPOP" | "pull_many 100" | "lease_many 100 + ack_all 100" => pop[i],
                "deliver_all, lease_many, ack_all" => push[i] + pop[i],
                _ => push[i],
            };
            print!("{cost:>7.2} ({:>4.1} x)", cost / beside);
        }
        println!();
    }
    println!("\nLongest script: {} us.", longest(&mut raw).await?);
    Ok(())
}

/// The costs of all verbs, the least of several rounds.
async fn measure(
    broker: &Broker,
    raw: &mut MultiplexedConnection,
    facets: usize,
    size: Size,
) -> Result<Vec<(&'static str, f64)>, Any> {
    let Size { messages, rounds } = size;
    let queue = broker.register_queue("bench", ".").await?;
    let bodies: Vec<Value> = (0..messages)
        .map(|n| json!({"facet": format!("f{}", n % facets), "topic": "t", "fill": "x".repeat(60)}))
        .collect();
    let encoded: Vec<Vec<u8>> = bodies.iter().map(serde_json::to_vec).collect::<Result<_, _>>()?;
    // The rest of the facets wait beside those that are served.
    let beside: Vec<_> = (messages..facets.max(messages))
        .map(|n| json!({"facet": format!("f{n}"), "topic": "t"}))
        .collect();
    broker.deliver_all(&beside).await?;
    let mut least: Vec<(&'static str, f64)> = Vec::new();
    for _ in 0..rounds {
        let mut costs = Vec::new();
        let start = cpu(raw, messages).await?;
        for part in encoded.chunks(PIPELINE) {
            let mut pipe = Pipeline::new();
            for body in part {
                pipe.cmd("RPUSH").arg("raw").arg(body).ignore();
            }
            pipe.exec_async(raw).await?;
        }
        let pushed = cpu(raw, messages).await?;
        for _ in 0..messages / PIPELINE {
            let mut pipe = Pipeline::new();
            for _ in 0..PIPELINE {
                pipe.cmd("LPOP").arg("raw");
            }
            let _: Vec<Vec<u8>> = pipe.query_async(raw).await?;
        }
        let popped = cpu(raw, messages).await?;
        for part in bodies.chunks(CALL) {
            broker.deliver_all(part).await?;
        }
        let delivered = cpu(raw, messages).await?;
        for _ in 0..messages / CALL {
            assert_eq!(queue.pull_many(CALL).await?.len(), CALL);
        }
        let pulled = cpu(raw, messages).await?;
        for part in bodies.chunks(CALL) {
            broker.deliver_all(part).await?;
        }
        let again = cpu(raw, messages).await?;
        for _ in 0..messages / CALL {
            let leased: Vec<Token> =
                queue.lease_many(CALL).await?.into_iter().map(Token::from).collect();
            assert_eq!(leased.len(), CALL);
            assert!(broker.ack_all(leased).await?.is_empty());
        }
        let acked = cpu(raw, messages).await?;
        costs.push(("RPUSH", pushed - start));
        costs.push(("LPOP", popped - pushed));
        costs.push(("deliver_all 100", delivered - popped));
        costs.push(("pull_many 100", pulled - delivered));
        costs.push(("lease_many 100 + ack_all 100", acked - again));
        costs.push(("deliver_all, lease_many, ack_all", acked - pulled));
        for (i, (row, cost)) in costs.into_iter().enumerate() {
            match least.get_mut(i) {
                Some((_, least)) => *least = least.min(cost),
                None => least.push((row, cost)),
            }
        }
    }
    // The widest calls, for the longest script.
    broker.deliver_all(&bodies).await?;
    let start = Instant::now();
    while start.elapsed().as_secs() < 30 {
        if queue.lease_many(1000).await?.is_empty() {
            break;
        }
    }
    redis::cmd("FLUSHALL").exec_async(raw).await?;
    Ok(least)
}

/// CPU time of the server, in us for each message of a round.
async fn cpu(raw: &mut MultiplexedConnection, messages: usize) -> Result<f64, Any> {
    let info: String = redis::cmd("INFO").arg("cpu").query_async(raw).await?;
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|seconds| seconds.trim().parse::<f64>().ok()).unwrap_or_default()
    };
    Ok((field("used_cpu_user") + field("used_cpu_sys")) * 1e6 / messages as f64)
}

/// The longest command that the slow log remembers, in us; what is shorter than 1 ms is not in it.
async fn longest(raw: &mut MultiplexedConnection) -> Result<u64, Any> {
    let entries: Vec<Vec<redis::Value>> =
        redis::cmd("SLOWLOG").arg("GET").arg(-1).query_async(raw).await?;
    let mut longest = 0;
    for entry in entries {
        let command: Vec<String> = redis::from_redis_value(entry[3].clone())?;
        if command.first().is_some_and(|name| name == "EVALSHA") {
            longest = longest.max(redis::from_redis_value(entry[2].clone())?);
        }
    }
    Ok(longest)
}
