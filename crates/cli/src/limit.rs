//! `fairlane limit`, `weight` and `rate`: what is set of a queue or a facet

use clap::Args;
use fairlane::{FacetSettings, Queue, QueueSettings, Rate};
use serde::Serialize;

use crate::{
    arguments::{self, Setting},
    connect::{Body, Connect},
    failure::Failure,
    output::{Cell, Output, Row},
    settings::{OfQueue, QueueLimits},
    shown,
};

/// Shows what is set of a queue or a facet, and sets how many messages may be leased or wait, how often
/// they are tried, and for how long they are kept
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  fairlane limit mails                              # shows all settings
  fairlane limit mails --leased 10                  # of each facet that does not say otherwise
  fairlane limit mails --facet acme --leased none")]
pub(crate) struct Limit {
    #[command(flatten)]
    whose: Whose,
    /// How many messages of a facet may be leased at a time
    #[arg(long, value_name = "N|none")]
    leased: Option<Setting<u32>>,
    /// How many messages of a facet may wait
    #[arg(long, value_name = "N|none")]
    waiting: Option<Setting<u64>>,
    #[command(flatten)]
    of_queue: OfQueue,
}

/// Sets how much a facet is served for each 1 of the others
#[derive(Debug, Args)]
pub(crate) struct Weight {
    #[command(flatten)]
    whose: Whose,
    /// The weight, 0.001 to 1000; none takes that of the queue, and that is 1
    #[arg(value_name = "W|none")]
    weight: Setting<f64>,
}

/// Sets how fast a facet may be served
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fairlane rate mails 100/1m --burst 10 --facet acme")]
pub(crate) struct RateOf {
    #[command(flatten)]
    whose: Whose,
    /// So many messages in a time, as 100/1m or 10/s; none is as fast as may be
    #[arg(value_name = "COUNT/PERIOD|none", value_parser = arguments::rate)]
    rate: Setting<Rate>,
    /// How many at once after a time with none, 1 to 1000000
    #[arg(long, value_name = "N", default_value_t = 1)]
    burst: u32,
}

/// Whose settings.
#[derive(Debug, Args)]
struct Whose {
    /// The queue
    queue: String,
    /// One facet alone [default: all that do not say otherwise]
    #[arg(long, value_parser = arguments::facet())]
    facet: Option<String>,
}

/// What is set of a facet, or for the facets of a queue; the names are those of the library.
#[derive(Debug, Serialize)]
pub(crate) struct FacetLimits {
    weight: Option<f64>,
    paused: bool,
    intake_paused: bool,
    max_leased: Option<u32>,
    rate: Option<RateLimit>,
    max_waiting: Option<u64>,
}

#[derive(Debug, Serialize)]
struct RateLimit {
    count: u32,
    period_ms: u64,
    burst: u32,
    #[serde(skip)]
    words: String,
}

impl FacetLimits {
    /// Takes them over from the library.
    pub(crate) fn of(settings: &FacetSettings) -> Self {
        let rate = |rate: Rate| RateLimit {
            count: rate.count,
            period_ms: shown::ms(rate.period),
            burst: rate.burst,
            words: format!(
                "{} in {}, {} at once",
                rate.count,
                shown::length(rate.period),
                rate.burst
            ),
        };
        Self {
            weight: settings.weight,
            paused: settings.paused,
            intake_paused: settings.intake_paused,
            max_leased: settings.max_leased,
            rate: settings.rate.map(rate),
            max_waiting: settings.max_waiting,
        }
    }
}

impl Row for FacetLimits {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        let yes = |yes| Cell::text(if yes { "yes" } else { "no" });
        vec![
            ("weight", Cell::any(self.weight)),
            ("paused", yes(self.paused)),
            ("intake paused", yes(self.intake_paused)),
            ("max leased", Cell::any(self.max_leased)),
            ("rate", Cell::any(self.rate.as_ref().map(|rate| &rate.words))),
            ("max waiting", Cell::any(self.max_waiting)),
        ]
    }
}

#[derive(Serialize)]
struct OfFacet {
    queue: String,
    facet: String,
    #[serde(flatten)]
    limits: FacetLimits,
}

impl Row for OfFacet {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        let mut columns = vec![
            ("queue", Cell::text(&self.queue)),
            ("facet", Cell::Text(shown::name(&self.facet))),
        ];
        columns.extend(self.limits.columns());
        columns
    }
}

impl Whose {
    /// Sets what a queue and a facet have both.
    async fn configure(
        &self,
        queue: &Queue<Body>,
        change: impl Fn(&mut FacetSettings) + Send + Sync,
    ) -> Result<(), Failure> {
        match &self.facet {
            Some(facet) => queue.facet(facet).configure(change).await?,
            None => queue.configure(|queue| change(&mut queue.facets)).await?,
        }
        Ok(())
    }

    /// Shows what is set now: nothing that a facet has from its queue.
    async fn show(self, queue: &Queue<Body>, output: &Output) -> Result<(), Failure> {
        let Self { queue: name, facet } = self;
        match facet {
            Some(facet) => {
                let limits = FacetLimits::of(&queue.facet(&facet).settings().await?);
                output.record(&OfFacet { queue: name, facet, limits })
            }
            None => output.record(&QueueLimits::of(name, &queue.settings().await?)),
        }
    }
}

impl Limit {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let Self { whose, leased, waiting, of_queue } = self;
        let queue = connect.broker().await?.queue(&whose.queue);
        let of_facet = |facet: &mut FacetSettings| {
            if let Some(Setting(most)) = leased {
                facet.max_leased = most;
            }
            if let Some(Setting(most)) = waiting {
                facet.max_waiting = most;
            }
        };
        let any = leased.is_some() || waiting.is_some();
        match &whose.facet {
            Some(facet) if any => queue.facet(facet).configure(of_facet).await?,
            None if any || of_queue.any() => {
                let change = |queue: &mut QueueSettings| {
                    of_facet(&mut queue.facets);
                    of_queue.set(queue);
                };
                queue.configure(change).await?;
            }
            _ => {}
        }
        whose.show(&queue, output).await
    }
}

impl Weight {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let Self { whose, weight: Setting(weight) } = self;
        let queue = connect.broker().await?.queue(&whose.queue);
        whose.configure(&queue, |facet| facet.weight = weight).await?;
        whose.show(&queue, output).await
    }
}

impl RateOf {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let Self { whose, rate: Setting(rate), burst } = self;
        let queue = connect.broker().await?.queue(&whose.queue);
        whose.configure(&queue, |facet| facet.rate = rate.map(|rate| rate.burst(burst))).await?;
        whose.show(&queue, output).await
    }
}
