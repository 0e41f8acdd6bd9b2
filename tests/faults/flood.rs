//! A facet with very many messages.

use std::collections::BTreeSet;

use fairlane::Broker;
use tokio::time::sleep;

use crate::{
    check::Excused,
    load::{Load, SECOND, soaks},
    record::Event,
    support::Server,
    work::{Kind, deliver_batch},
};

/// How many facets come with one message each.
const QUIET: u64 = 1000;
const LOUD: u32 = 0;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_facet_keeps_nobody_waiting_and_loses_nothing() {
    let flood = if soaks() { 1_000_000 } else { 100_000 };
    let server = Server::start(&[]).await;
    let url = server.url();
    let mut load = Load::on(move || <Broker>::builder().redis(url.clone())).await;
    (load.deliverers, load.kind) = (0, Kind::Quick);
    let mut quiet = 0..0;
    let told = load.during(async |load| {
        let broker = load.broker().await;
        for _ in 0..flood / 1000 {
            deliver_batch(&broker, &load.record, 1000, None, |_| LOUD).await;
        }
        sleep(SECOND / 10).await;
        quiet = deliver_batch(&broker, &load.record, QUIET, None, |place| LOUD + 1 + place).await;
    });
    let told = told.await;
    let verdict =
        told.holds(&format!("{flood} of one facet, {QUIET} quiet ones"), &Excused::default());
    assert_eq!((verdict.delivered as u64, verdict.lost), (flood + QUIET, 0));

    // From when the quiet ones were there until the last of them was leased for the first time.
    let mut waiting = quiet.clone().collect::<BTreeSet<_>>();
    let (mut there, mut passed) = (0, 0);
    for entry in &told.history {
        match entry.event {
            Event::Delivered { n, .. } if quiet.contains(&n) => there += 1,
            Event::Leased { hold, .. } if quiet.contains(&hold.n) => drop(waiting.remove(&hold.n)),
            Event::Leased { .. } if there == QUIET && !waiting.is_empty() => passed += 1,
            _ => {}
        }
    }
    // Those that were on their way to hands by then, and a turn or two: not one for each of them.
    assert!(waiting.is_empty() && passed < QUIET / 5, "{passed} messages passed the quiet ones");
}
