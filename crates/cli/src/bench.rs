//! `fairlane bench`

use std::{pin::pin, time::SystemTime};

use clap::Args;
use serde::Serialize;

use crate::{
    connect::Connect,
    failure::Failure,
    measure::Steps,
    output::{Cell, Output, Row},
    shown,
    stop::stop,
};

/// The namespace that it uses, beside the one that is named.
const BESIDE: &str = "bench";
/// The least number of messages for each facet.
const MESSAGES_OF_A_FACET: u32 = 20;

/// Measures your Redis: rates, fairness, latencies
#[derive(Debug, Args)]
#[command(after_help = "\
It has a queue of its own, which is gone afterwards, in the namespace NAMESPACE.bench (fairlane.bench where
none is named), so that no other queue takes its messages. It is a load for that Redis while it runs: some
seconds. Half of the messages are of one facet, so that there is something to be fair about. The fairness
index is Jain's, of what each facet was served while all had messages waiting: 1 where all had the same,
1/facets where one had everything.")]
pub(crate) struct Bench {
    /// How many messages each step has, 1000 or more
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    pub(crate) messages: u32,
    /// How many facets, 2 or more
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    pub(crate) facets: u32,
    /// How many bytes a body has
    #[arg(long, value_name = "BYTES", default_value_t = 200,
          value_parser = clap::value_parser!(u32).range(1..=262_144))]
    pub(crate) body: u32,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

impl Figure {
    /// In the form of a table: no more digits than mean something.
    fn shown(&self) -> String {
        match self.value {
            value if value >= 1000.0 => format!("{value:.0}"),
            value => format!("{value:.3}"),
        }
    }
}

impl Row for Figure {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        vec![
            ("measured", Cell::text(self.what)),
            ("value", Cell::number(self.shown())),
            ("unit", Cell::text(self.unit)),
        ]
    }
}

impl Bench {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        if self.messages / MESSAGES_OF_A_FACET < self.facets {
            return Err(Failure::usage(format!(
                "{} messages are too few for {} facets: 20 for each are needed to see whether they are served \
                 fairly",
                self.messages, self.facets
            )));
        }
        let mut stop = pin!(stop()?);
        // Its messages are for no other queue, also not for one that takes everything.
        let broker = connect.broker_beside(BESIDE).await?;
        // Others may measure at the same time, on other machines too.
        let name = format!("bench-{}-{}", std::process::id(), shown::at_ms(SystemTime::now()));
        let queue = broker.register_queue(&name, &format!("^{name}$")).await?;
        let steps = Steps::new(&self, &broker, &queue);
        // Whatever becomes of it, nothing is left behind.
        let measured = tokio::select! {
            measured = steps.all() => measured.map_err(Failure::from),
            () = &mut stop => Err(Failure::refused("stopped: nothing is measured")),
        };
        steps.bar.finish_and_clear();
        let gone = queue.destroy().await;
        let left = format_args!(
            "its queue may be left: `fairlane destroy {name} --namespace {}` removes it",
            connect.beside(BESIDE)
        );
        match (measured.and_then(|figures| output.rows(&figures, "")), gone) {
            (shown, Ok(())) => shown,
            (Err(failure), Err(_)) => Err(failure.then(left)),
            (Ok(()), Err(error)) => Err(Failure::from(error).then(left)),
        }
    }
}
