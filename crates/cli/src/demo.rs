//! `fairlane demo`

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use fairlane::Message;
use serde::Serialize;

use crate::{
    connect::{Body, Connect, failed},
    failure::Failure,
    output::{Cell, Output, Row},
};

/// Messages of the loud tenant, which come first.
const LOUD: usize = 1000;
/// Quiet tenants, and the messages of each.
const QUIET: usize = 9;
const FEW: usize = 10;

/// Shows fair turns, on a Redis server of its own that is gone afterwards
#[derive(Debug, Args)]
pub(crate) struct Demo {}

/// How long a tenant's messages waited, in messages that were served before them.
#[derive(Serialize)]
struct Wait {
    facet: String,
    messages: usize,
    fair_mean: f64,
    fair_longest: usize,
    fifo_mean: f64,
    fifo_longest: usize,
}

impl Row for Wait {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        vec![
            ("facet", Cell::text(&self.facet)),
            ("messages", Cell::number(self.messages)),
            ("fair: mean", Cell::number(self.fair_mean)),
            ("longest", Cell::number(self.fair_longest)),
            ("in one line: mean", Cell::number(self.fifo_mean)),
            ("longest", Cell::number(self.fifo_longest)),
        ]
    }
}

/// Where the messages of each tenant stood.
type Places = BTreeMap<String, Vec<usize>>;

fn place(places: &mut Places, facet: &str) {
    let place = places.values().map(Vec::len).sum();
    places.entry(facet.to_owned()).or_default().push(place);
}

impl Demo {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let dir = tempfile::tempdir()?;
        let broker = connect.named().embedded(dir.path()).connect().await.map_err(failed)?;
        let queue = broker.register_queue("mails", "^mail$").await?;
        let quiet = (0..FEW).flat_map(|_| (1..=QUIET).map(|n| format!("quiet-{n}")));
        let facets: Vec<_> = std::iter::repeat_n("loud".to_owned(), LOUD).chain(quiet).collect();
        output.say(format!(
            "One tenant delivers {LOUD} mails at once; then {QUIET} others deliver {FEW} each. A \
             worker serves them.\n"
        ))?;
        let body = Body::from("hello");
        let mail = |facet| Message::new(&body).facet(facet).topic("mail");
        broker.deliver_all(facets.iter().map(mail)).await?;
        let served = Arc::new(Mutex::new(Places::new()));
        let record = served.clone();
        let worker = queue
            .worker(move |delivery| {
                place(&mut record.lock().unwrap_or_else(PoisonError::into_inner), delivery.facet());
                async { Ok::<_, String>(()) }
            })
            .concurrency(1);
        worker.run_until_empty().await?;
        let mut in_line = Places::new();
        facets.iter().for_each(|facet| place(&mut in_line, facet));
        let served = served.lock().unwrap_or_else(PoisonError::into_inner);
        let rows: Vec<_> = in_line
            .iter()
            .map(|(facet, in_line)| {
                let fair = served.get(facet).cloned().unwrap_or_default();
                Wait {
                    facet: facet.clone(),
                    messages: in_line.len(),
                    fair_mean: mean(&fair),
                    fair_longest: longest(&fair),
                    fifo_mean: mean(in_line),
                    fifo_longest: longest(in_line),
                }
            })
            .collect();
        output.say("How many mails were served before one of their own:\n")?;
        output.rows(&rows, "")?;
        output.say(
            "\nTry it with your own: fairlane redis ./data, and fairlane --help in another terminal.",
        )
    }
}

/// In whole tenths.
fn mean(places: &[usize]) -> f64 {
    let sum: usize = places.iter().sum();
    (sum as f64 / places.len().max(1) as f64 * 10.0).round() / 10.0
}

fn longest(places: &[usize]) -> usize {
    places.iter().max().copied().unwrap_or_default()
}
