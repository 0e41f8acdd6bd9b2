//! What grows with the messages that wait, and what must not.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::{
    Any, Scale, all,
    cost::{fill, in_turn, lists, median, message},
    report::{CONTROL, Report, short},
    server::Server,
};

const FACETS: usize = 1000;
const BYTES: usize = 100;

pub(crate) async fn measure(
    server: &mut Server,
    report: &mut Report,
    scale: Scale,
) -> Result<(), Any> {
    let broker = server.broker.clone();
    let queue = broker.register_queue("bench", ".").await?;
    let count = scale.of(5000, 500);
    let messages: Vec<_> = (0..count).map(|n| message(n % FACETS, BYTES)).collect();
    let bodies = messages.iter().map(serde_json::to_vec).collect::<Result<Vec<_>, _>>()?;
    let empty = server.memory().await?;
    let mut rows = Vec::new();
    let mut waiting = 0;
    for digits in 3..=scale.of(7, 4) {
        let goal = 10_usize.pow(digits);
        report.progress(&format!("{goal} messages waiting"));
        while waiting < goal {
            let part = (goal - waiting).min(200_000);
            let facets: Vec<_> = (waiting..waiting + part).map(|n| n % FACETS).collect();
            fill(&broker, &facets, BYTES).await?;
            waiting += part;
        }
        // The body, and the one byte of its topic.
        let memory = (server.memory().await? - empty) / waiting as f64 - (BYTES + 1) as f64;
        let (mut costs, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..scale.of(5, 1) {
            let before = server.cpu().await?;
            lists(server, &bodies).await?;
            let between = server.cpu().await?;
            in_turn(&queue, &broker, &messages).await?;
            let cost = server.cpu().await? - between;
            costs.push(cost / count as f64);
            ratios.push(cost / (between - before));
        }
        let (cost, ratio) = (short(median(costs)), short(median(ratios)));
        rows.push(vec![waiting.to_string(), cost, ratio, short(memory)]);
        if digits == scale.of(6, 4) {
            report.target("memory a waiting message over body and topic", memory, 60.0, " B");
        }
    }
    let longest = server.long_scripts().await?;
    report.scripts("growth", &longest);
    let head = ["messages waiting", "cycle, CPU us", "to RPUSH + LPOP", "memory a message, B"];
    let title = "Growth: 1,000 facets, bodies of 100 bytes, batches of 100 in turn; memory is over \
                 body and topic";
    report.table(title, &head, &rows);

    report.progress(&format!("destroying a queue of {waiting} messages"));
    let begun = Instant::now();
    queue.destroy().await?;
    let took = begun.elapsed();
    let longest = server.long_scripts().await?;
    report.scripts("destroy", &longest);
    let ms = |took: Duration| short(took.as_secs_f64() * 1000.0);
    let slowest = longest.first().map_or("under 1".into(), |ms| short(*ms));
    let row = vec![waiting.to_string(), ms(took), slowest];
    let head = ["messages", "took, ms", "longest script, ms"];
    report.table("Destroy of a queue of 1,000 facets", &head, &[row]);
    server.flush().await?;
    control(server, report, scale).await
}

/// How long scripts take, by the clock, that only count, for about twice as long as the largest
/// deliveries do, and are sent twice as much.
async fn control(server: &mut Server, report: &mut Report, scale: Scale) -> Result<(), Any> {
    const COUNT: &str = "local n = 0 for i = 1, ARGV[1] do n = n + i end";
    let calls = scale.of(4000, 50);
    report.progress(&format!("{calls} scripts that only count, for comparison"));
    let body = "x".repeat(BYTES);
    let count = |loops: u64| {
        let mut command = redis::cmd("EVAL");
        command.arg(COUNT).arg(0).arg(loops);
        for _ in 0..500 {
            command.arg(&body);
        }
        command
    };
    let mut raw = server.raw.clone();
    let mut times = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        count(100_000).exec_async(&mut raw).await?;
        times.push(begun.elapsed().as_secs_f64());
    }
    let loops = (100_000.0 * 1.5e-3 / median(times)) as u64;
    server.long_scripts().await?;
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let (mut raw, count) = (raw.clone(), count(loops));
        tasks.spawn(async move {
            for _ in 0..calls / 2 {
                count.exec_async(&mut raw).await?;
            }
            Ok::<_, Any>(())
        });
    }
    all(tasks).await?;
    let during = format!("{CONTROL}{calls} that only count for 1.5 ms");
    report.scripts(during, &server.long_scripts().await?);
    Ok(())
}
