//! CPU time of the server for each message, and messages a second, beside plain lists.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fairlane::{Broker, Message, Queue};
use redis::{Pipeline, aio::MultiplexedConnection};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    Any, Scale, all,
    report::{Report, short},
    server::Server,
};

const CALL: usize = 100;
const PIPELINE: usize = 16;
const AT_ONCE: usize = 256;

const RPUSH: &str = "list: RPUSH, pipeline 16";
const LPOP: &str = "list: LPOP, pipeline 16";
const LIST: &str = "list: RPUSH + LPOP";
const RIVAL_PUSH: &str = "list queue: LPUSH, pipeline 16";
const RIVAL_TAKE: &str = "list queue: LMOVE + LREM, pipeline 16";
const DELIVER: &str = "deliver, 256 at once";
const DELIVER_ALL: &str = "deliver_all 100";
const PULL: &str = "pull_many 100";
const LEASE_MANY: &str = "lease_many 100 + ack_all 100";
const LEASE: &str = "lease + ack, 256 at once";
const CYCLE: &str = "deliver_all, then lease_many + ack_all";
const IN_TURN: &str = "deliver_all, lease_many, ack_all in turn";
const ONE_BY_ONE: &str = "deliver, lease, ack, 256 at once";
const NOTHING: &str = "3 EVALSHA of `return 1`, 256 at once";

/// A message that is encoded in so many bytes.
pub(crate) fn message(facet: usize, bytes: usize) -> Value {
    let facet = format!("f{facet}");
    let fill = "x".repeat(bytes.saturating_sub(r#"{"f":"","x":""}"#.len() + facet.len()));
    json!({"f": facet, "x": fill})
}

/// What was found in a round for each thing that was done.
type Round = BTreeMap<&'static str, Found>;

#[derive(Clone, Copy)]
struct Found {
    /// Of CPU of the server a message, in us.
    cpu: f64,
    /// Messages a second.
    rate: f64,
    /// Scripts a message.
    scripts: f64,
}

/// Takes the time of the server and of the clock for something that is done with messages.
struct Meter<'a> {
    server: &'a mut Server,
    round: Round,
}

impl Meter<'_> {
    async fn of(
        &mut self,
        what: &'static str,
        messages: usize,
        done: impl Future<Output = Result<(), Any>>,
    ) -> Result<(), Any> {
        let scripts = self.server.scripts().await?;
        let (before, begun) = (self.server.cpu().await?, Instant::now());
        done.await?;
        let rate = messages as f64 / begun.elapsed().as_secs_f64();
        let cpu = (self.server.cpu().await? - before) / messages as f64;
        let scripts = (self.server.scripts().await? - scripts) / messages as f64;
        self.round.insert(what, Found { cpu, rate, scripts });
        Ok(())
    }
}

/// Does something for each number below `count`, in 256 tasks.
async fn at_once<Done>(
    count: usize,
    work: impl Fn(usize) -> Done + Clone + Send + 'static,
) -> Result<(), Any>
where
    Done: Future<Output = Result<(), Any>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (next, work) = (next.clone(), work.clone());
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<_, Any>(());
                }
                work(n).await?;
            }
        });
    }
    all(tasks).await.map(drop)
}

/// Calls a command for each of several arguments, in pipelines.
async fn piped(
    raw: &MultiplexedConnection,
    command: &[&str],
    last: impl Iterator<Item = &Vec<u8>>,
) -> Result<(), Any> {
    let mut raw = raw.clone();
    let mut last = last.peekable();
    while last.peek().is_some() {
        let mut pipe = Pipeline::new();
        for last in last.by_ref().take(PIPELINE) {
            pipe.cmd(command[0]).arg(&command[1..]);
            if !last.is_empty() {
                pipe.arg(last);
            }
        }
        let _: Vec<redis::Value> = pipe.query_async(&mut raw).await?;
    }
    Ok(())
}

/// What everything is compared with.
pub(crate) async fn lists(server: &Server, bodies: &[Vec<u8>]) -> Result<(), Any> {
    let none = vec![Vec::new(); bodies.len()];
    piped(&server.raw, &["RPUSH", "raw"], bodies.iter()).await?;
    piped(&server.raw, &["LPOP", "raw"], none.iter()).await
}

async fn deliver_all(broker: &Broker, messages: &[Value]) -> Result<(), Any> {
    for part in messages.chunks(CALL) {
        broker.deliver_all(part).await?;
    }
    Ok(())
}

async fn lease_and_ack(queue: &Queue, broker: &Broker, calls: usize) -> Result<(), Any> {
    for _ in 0..calls {
        let leased = queue.lease_many(CALL).await?;
        assert_eq!(leased.len(), CALL);
        assert!(broker.ack_all(leased).await?.is_empty());
    }
    Ok(())
}

/// The whole life of each message, a hundred at a time.
pub(crate) async fn in_turn(queue: &Queue, broker: &Broker, messages: &[Value]) -> Result<(), Any> {
    for part in messages.chunks(CALL) {
        broker.deliver_all(part).await?;
        lease_and_ack(queue, broker, 1).await?;
    }
    Ok(())
}

/// One round of everything.
async fn round(server: &mut Server, queue: &Queue, messages: &[Value]) -> Result<Round, Any> {
    let (raw, broker) = (server.raw.clone(), server.broker.clone());
    let count = messages.len();
    let bodies = messages.iter().map(serde_json::to_vec).collect::<Result<Vec<_>, _>>()?;
    let none = vec![Vec::new(); count];
    let mut meter = Meter { server, round: Round::new() };
    meter.of(RPUSH, count, piped(&raw, &["RPUSH", "raw"], bodies.iter())).await?;
    meter.of(LPOP, count, piped(&raw, &["LPOP", "raw"], none.iter())).await?;
    meter.of(RIVAL_PUSH, count, piped(&raw, &["LPUSH", "waiting"], bodies.iter())).await?;
    meter
        .of(RIVAL_TAKE, count, async {
            for part in bodies.chunks(PIPELINE) {
                let take = ["LMOVE", "waiting", "processing", "RIGHT", "LEFT"];
                piped(&raw, &take, none.iter().take(part.len())).await?;
                piped(&raw, &["LREM", "processing", "-1"], part.iter()).await?;
            }
            Ok(())
        })
        .await?;
    let shared: Arc<[Value]> = messages.into();
    let one = {
        let (broker, shared) = (broker.clone(), shared.clone());
        move |n: usize| {
            let (broker, shared) = (broker.clone(), shared.clone());
            async move {
                broker.deliver(&shared[n]).await?;
                Ok(())
            }
        }
    };
    meter.of(DELIVER, count, at_once(count, one.clone())).await?;
    meter
        .of(PULL, count, async {
            for _ in 0..count / CALL {
                assert_eq!(queue.pull_many(CALL).await?.len(), CALL);
            }
            Ok(())
        })
        .await?;
    meter.of(DELIVER_ALL, count, deliver_all(&broker, messages)).await?;
    meter.of(LEASE_MANY, count, lease_and_ack(queue, &broker, count / CALL)).await?;
    meter.of(IN_TURN, count, in_turn(queue, &broker, messages)).await?;
    deliver_all(&broker, messages).await?;
    let lease = {
        let queue = queue.clone();
        move |_| {
            let queue = queue.clone();
            async move {
                let delivery = queue.lease().await?.ok_or("there should be a message")?;
                Ok(delivery.ack().await?)
            }
        }
    };
    meter.of(LEASE, count, at_once(count, lease.clone())).await?;
    let cycle = move |n| {
        let (one, lease) = (one.clone(), lease.clone());
        async move {
            one(n).await?;
            lease(n).await
        }
    };
    meter.of(ONE_BY_ONE, count, at_once(count, cycle)).await?;
    let sha: String =
        redis::cmd("SCRIPT").arg("LOAD").arg("return 1").query_async(&mut raw.clone()).await?;
    let nothing = move |_| {
        let (mut raw, sha) = (raw.clone(), sha.clone());
        async move {
            for _ in 0..3 {
                redis::cmd("EVALSHA").arg(&sha).arg(0).exec_async(&mut raw).await?;
            }
            Ok(())
        }
    };
    meter.of(NOTHING, count, at_once(count, nothing)).await?;
    let mut round = meter.round;
    let both = |a: Found, b: Found| Found {
        cpu: a.cpu + b.cpu,
        rate: 1.0 / (1.0 / a.rate + 1.0 / b.rate),
        scripts: a.scripts + b.scripts,
    };
    round.insert(LIST, both(round[RPUSH], round[LPOP]));
    round.insert(CYCLE, both(round[DELIVER_ALL], round[LEASE_MANY]));
    Ok(round)
}

/// The one in the middle.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

struct Rounds(Vec<Round>);

impl Rounds {
    /// The one in the middle of what the rounds say.
    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.0.iter().map(of).collect())
    }

    fn cpu(&self, what: &str) -> f64 {
        self.median(|round| round[what].cpu)
    }

    fn rate(&self, what: &str) -> f64 {
        self.median(|round| round[what].rate)
    }

    fn scripts(&self, what: &str) -> f64 {
        self.median(|round| round[what].scripts)
    }

    /// The cost of one thing to that of another in the same round.
    fn ratio(&self, what: &str, to: &str) -> f64 {
        self.median(|round| round[what].cpu / round[to].cpu)
    }

    fn rate_ratio(&self, what: &str, to: &str) -> f64 {
        self.median(|round| round[what].rate / round[to].rate)
    }
}

pub(crate) async fn measure(
    server: &mut Server,
    report: &mut Report,
    scale: Scale,
) -> Result<(), Any> {
    let mut cycles = Vec::new();
    for facets in [1, 1000, scale.of(1_000_000, 10_000)] {
        server.flush().await?;
        let queue = server.broker.register_queue("bench", "^t$").await?;
        let beside: Vec<usize> = (0..facets).collect();
        if facets > 1000 {
            report.progress(&format!("delivering a message each to {facets} facets"));
            fill(&server.broker, &beside, 100).await?;
        }
        for routes in [1, 1000] {
            for n in 1..routes {
                server.broker.register_queue(&format!("other{n}"), &format!("^other:{n}$")).await?;
            }
            for bytes in [100, 10 << 10] {
                let main = facets == 1000 && bytes == 100 && routes == 1;
                let count = scale.of(if bytes > 1000 { 2000 } else { 10_000 }, 400);
                let rounds = scale.of(if main { 11 } else { 3 }, 1);
                report.progress(&format!(
                    "{facets} facets, bodies of {bytes} bytes, {routes} routes"
                ));
                // Spread over all of them, however many there are.
                let step = (facets / count).max(1);
                let messages: Vec<_> =
                    (0..count).map(|n| message(n * step % facets, bytes)).collect();
                round(server, &queue, &messages[..count / 2]).await?; // to warm up
                let mut all = Vec::new();
                for _ in 0..rounds {
                    all.push(round(server, &queue, &messages).await?);
                }
                let rounds = Rounds(all);
                if bytes == 100 && routes == 1 {
                    cycles.push((facets, rounds.cpu(CYCLE) / rounds.cpu(LIST), rounds.cpu(CYCLE)));
                }
                write(report, facets, bytes, routes, &rounds, main);
                let during = format!("{facets} facets, {bytes} bytes, {routes} routes");
                report.scripts(during, &server.long_scripts().await?);
            }
        }
    }
    let of =
        |facets| cycles.iter().find(|cycle| cycle.0 == facets).map_or(f64::NAN, |cycle| cycle.2);
    let most = scale.of(1_000_000, 10_000);
    let what = format!("whole cycle in batches, {most} facets to 1,000");
    report.target(what, of(most) / of(1000), 2.0, " x");
    server.flush().await
}

fn write(
    report: &mut Report,
    facets: usize,
    bytes: usize,
    routes: usize,
    rounds: &Rounds,
    main: bool,
) {
    let all = [
        RPUSH,
        LPOP,
        RIVAL_PUSH,
        RIVAL_TAKE,
        DELIVER,
        DELIVER_ALL,
        PULL,
        LEASE_MANY,
        LEASE,
        CYCLE,
        IN_TURN,
        ONE_BY_ONE,
        NOTHING,
    ];
    let rows: Vec<_> = all
        .iter()
        .map(|what| {
            vec![
                (*what).to_owned(),
                short(rounds.cpu(what)),
                short(rounds.ratio(what, LIST)),
                short(rounds.rate(what)),
                short(rounds.rate_ratio(what, LIST)),
                short(rounds.scripts(what)),
            ]
        })
        .collect();
    let title = format!("Cost: {facets} facets, bodies of {bytes} bytes, {routes} routes");
    let head = [
        "what",
        "CPU us",
        "to RPUSH + LPOP",
        "messages/s",
        "to RPUSH + LPOP ",
        "scripts a message",
    ];
    report.table(&title, &head, &rows);
    if main {
        for what in all {
            report.bar(what, rounds.cpu(what));
        }
        report.target("deliver_all 100: CPU to RPUSH", rounds.ratio(DELIVER_ALL, RPUSH), 1.6, " x");
        report.target("pull_many 100: CPU to LPOP", rounds.ratio(PULL, LPOP), 2.4, " x");
        report.target(
            format!("{CYCLE}: CPU to RPUSH + LPOP"),
            rounds.ratio(CYCLE, LIST),
            2.5,
            " x",
        );
        report.target(format!("{IN_TURN}: the same"), rounds.ratio(IN_TURN, LIST), 2.5, " x");
        let what = format!("{ONE_BY_ONE}, gathered: CPU to {NOTHING}");
        report.target(what, rounds.ratio(ONE_BY_ONE, NOTHING), 1.8, " x");
        report.keep("peak", rounds.rate(ONE_BY_ONE));
    }
}

/// Delivers a message of so many bytes to each of the facets, from two tasks.
pub(crate) async fn fill(broker: &Broker, facets: &[usize], bytes: usize) -> Result<(), Any> {
    let mut tasks = JoinSet::new();
    for half in facets.chunks(facets.len().div_ceil(2).max(1)) {
        let (broker, half) = (broker.clone(), half.to_vec());
        tasks.spawn(async move {
            for part in half.chunks(500) {
                let messages: Vec<_> = part.iter().map(|facet| message(*facet, bytes)).collect();
                broker.deliver_all(&messages).await?;
            }
            Ok::<_, Any>(())
        });
    }
    all(tasks).await.map(drop)
}

/// What must not cost: facets that are paused, and routes that do not match.
pub(crate) async fn beside(
    server: &mut Server,
    report: &mut Report,
    scale: Scale,
) -> Result<(), Any> {
    let (count, rounds) = (scale.of(1000, 200), scale.of(60, 1));
    let broker = server.broker.clone();
    let queue = broker.register_queue("bench", "^t$").await?;
    let paused = broker.register_queue("paused", "^t$").await?;
    let facets: Vec<_> = (0..1000).collect();
    fill(&broker, &facets, 100).await?;
    for facet in 0..1000 {
        paused.facet(format!("f{facet}")).pause().await?;
    }
    while !queue.pull_many(1000).await?.is_empty() {}
    let delayed = broker.register_queue("delayed", "^t$|^later$").await?;
    let body = message(0, 100);
    let later = scale.of(1_000_000, 1000);
    for from in (0..later).step_by(1000) {
        let messages = (from..from + 1000).map(|n| {
            let message = Message::new(&body).facet(format!("f{}", n % 1000));
            message.topic("later").delay(Duration::from_secs(3600))
        });
        broker.deliver_all(messages).await?;
    }
    let others: Vec<_> = (0..count).map(|n| message(1000 + n % 1000, 100)).collect();
    let (mut ratios, mut beside_delayed) = (Vec::new(), Vec::new());
    let mut queues = [("none", &queue), ("paused", &paused), ("delayed", &delayed)];
    for _ in 0..rounds {
        deliver_all(&broker, &others).await?;
        queues.rotate_left(1); // None is always the first.
        let mut meter = Meter { server, round: Round::new() };
        for (what, queue) in queues {
            let leasing = async {
                for _ in 0..count {
                    queue.lease().await?.ok_or("there should be a message")?.ack().await?;
                }
                Ok(())
            };
            meter.of(what, count, leasing).await?;
        }
        ratios.push(meter.round["paused"].cpu / meter.round["none"].cpu);
        beside_delayed.push(meter.round["delayed"].cpu / meter.round["none"].cpu);
    }
    report.target("lease beside 1,000 paused facets to none", median(ratios), 1.05, " x");
    let what = "lease beside 1,000,000 delayed messages to none";
    report.target(what, median(beside_delayed), 1.05, " x");
    server.flush().await?;
    let message = message(0, 100);
    let mut brokers = Vec::new();
    for (namespace, routes) in [("few", 1), ("many", 1000)] {
        let broker = server.namespace(namespace).await?;
        broker.register_queue("bench", "^t$").await?;
        for n in 1..routes {
            broker.register_queue(&format!("other{n}"), &format!("^other:{n}$")).await?;
        }
        broker.deliver(&message).await?;
        brokers.push((namespace, broker));
    }
    let mut ratios = Vec::new();
    for round in 0..2 * rounds {
        let mut meter = Meter { server, round: Round::new() };
        for (namespace, broker) in &brokers {
            let delivering = async {
                for _ in 0..count {
                    broker.deliver(&message).await?;
                }
                Ok(())
            };
            meter.of(namespace, count, delivering).await?;
        }
        ratios.push(meter.round["many"].cpu / meter.round["few"].cpu);
        brokers.rotate_left(round % 2); // Neither is always the first.
    }
    report.target("deliver with 1,000 routes to deliver with 1", median(ratios), 1.05, " x");
    report.scripts("beside paused facets and routes", &server.long_scripts().await?);
    server.flush().await
}
