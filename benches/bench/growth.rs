//! What grows with the messages that wait, and what must not.

use std::time::{Duration, Instant};

use crate::{
    Any, Scale,
    cost::{fill, lists, median, message},
    report::{Report, short},
    server::Server,
};

const FACETS: usize = 1000;
const BYTES: usize = 100;
const CALL: usize = 100;

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
            for part in messages.chunks(CALL) {
                broker.deliver_all(part).await?;
                let leased = queue.lease_many(CALL).await?;
                broker.ack_all(leased).await?;
            }
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
    server.flush().await
}
