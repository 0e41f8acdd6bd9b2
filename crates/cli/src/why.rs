//! `fairlane why`

use std::time::SystemTime;

use clap::Args;
use fairlane::{Gate, Why};
use serde::Serialize;

use crate::{
    arguments,
    connect::Connect,
    facets::Standing,
    failure::Failure,
    limit::FacetLimits,
    output::{Cell, Output, Row},
    shown,
};

/// Says why a facet is served, or is not
#[derive(Debug, Args)]
pub(crate) struct WhyOf {
    /// The queue
    queue: String,
    /// The facet
    #[arg(value_parser = arguments::facet())]
    facet: String,
}

/// The answer.
#[derive(Serialize)]
struct Answer {
    queue: String,
    facet: String,
    /// What keeps it from being served; null when nothing does.
    gate: Option<&'static str>,
    /// Until when, where that is known.
    until_ms: Option<u64>,
    /// How many may be leased, where that is what keeps it.
    most: Option<u32>,
    /// How many facets are served before it.
    place: Option<u64>,
    settings: FacetLimits,
    stats: Standing,
    #[serde(skip)]
    words: String,
}

impl Answer {
    fn of(queue: String, facet: String, why: Why) -> Self {
        let (gate, until, most) = match why.gate {
            None => (None, None, None),
            Some(Gate::QueuePaused) => (Some("queue_paused"), None, None),
            Some(Gate::Paused) => (Some("paused"), None, None),
            Some(Gate::OnHold { until }) => (Some("on_hold"), Some(until), None),
            Some(Gate::AtLimit { most }) => (Some("at_limit"), None, Some(most)),
            Some(Gate::OutOfRate { until }) => (Some("out_of_rate"), Some(until), None),
            Some(Gate::Empty) => (Some("empty"), None, None),
            Some(_) => (Some("unknown"), None, None), // Of a newer library.
        };
        Self {
            words: words(&queue, &why),
            queue,
            facet,
            gate,
            until_ms: until.map(shown::at_ms),
            most,
            place: why.place,
            settings: FacetLimits::of(&why.settings),
            stats: Standing::of(why.stats),
        }
    }
}

/// What keeps it, and what will change that.
fn words(queue: &str, why: &Why) -> String {
    let until = |until: SystemTime| match until.duration_since(SystemTime::now()) {
        Ok(left) => format!("{}, in {}", shown::time(until), shown::age(left)),
        Err(_) => format!("{}, which is now", shown::time(until)),
    };
    match why.gate {
        None => match why.place {
            None | Some(0) => "ready: it is served next".into(),
            Some(place) => {
                format!("ready: it is served after {}", shown::count(place, "other", "others"))
            }
        },
        Some(Gate::QueuePaused) => {
            format!("the queue is paused: `fairlane resume {queue}` serves it again")
        }
        Some(Gate::Paused) => "paused: `fairlane resume` with its --facet serves it again".into(),
        Some(Gate::OnHold { until: then }) => {
            format!(
                "on hold, as its worker asked for: a message of it is served at {}",
                until(then)
            )
        }
        Some(Gate::AtLimit { most }) => format!(
            "at its limit of {most}: a message of it is served when one of those leased is settled"
        ),
        Some(Gate::OutOfRate { until: then }) => {
            format!("out of its rate: its next message is served at {}", until(then))
        }
        Some(Gate::Empty) if why.stats.delayed > 0 => {
            "nothing of it waits; what is delayed has still to be due".into()
        }
        Some(Gate::Empty) => "nothing of it waits".into(),
        Some(gate) => format!("{gate:?}"),
    }
}

impl Row for Answer {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        let mut columns = vec![("why", Cell::text(&self.words)), ("place", Cell::any(self.place))];
        columns.extend(self.stats.columns());
        // Its weight and whether it is paused are said already.
        let known: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
        let settings = self.settings.columns().into_iter();
        columns.extend(settings.filter(|(name, _)| !known.contains(name)));
        columns
    }
}

impl WhyOf {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let Self { queue, facet } = self;
        let why = connect.broker().await?.queue(&queue).facet(&facet).why().await?;
        output.record(&Answer::of(queue, facet, why))
    }
}
