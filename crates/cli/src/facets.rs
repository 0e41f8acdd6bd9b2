//! `fairlane facets`

use std::{cmp::Ordering, time::Duration};

use clap::{Args, ValueEnum};
use fairlane::{Cursor, FacetState, FacetStats};
use serde::Serialize;

use crate::{
    connect::Connect,
    failure::Failure,
    output::{Cell, Output, Row},
    shown,
};

/// Lists the facets of a queue, those first that have the most
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  fairlane facets mails --sort oldest --limit 10")]
pub(crate) struct Facets {
    /// The queue
    queue: String,
    /// By what; the most, the oldest, the heaviest first
    #[arg(long, value_enum, default_value_t = Sort::Waiting)]
    sort: Sort,
    /// How many facets a page has
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Which page, from 1 on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    page: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sort {
    Waiting,
    Leased,
    Delayed,
    Dead,
    Oldest,
    Weight,
    Name,
}

impl Sort {
    /// Who comes first; among equals, in the order of their names.
    fn order(self, a: &FacetStats, b: &FacetStats) -> Ordering {
        let most = match self {
            Self::Waiting => b.waiting.cmp(&a.waiting),
            Self::Leased => b.leased.cmp(&a.leased),
            Self::Delayed => b.delayed.cmp(&a.delayed),
            Self::Dead => b.dead.cmp(&a.dead),
            Self::Oldest => b.oldest.cmp(&a.oldest),
            Self::Weight => b.weight.total_cmp(&a.weight),
            Self::Name => Ordering::Equal,
        };
        most.then_with(|| a.facet.cmp(&b.facet))
    }
}

/// The first so many of any number of facets, in little more memory than these take.
struct Top {
    sort: Sort,
    most: usize,
    kept: Vec<FacetStats>,
    seen: u64,
}

impl Top {
    fn add(&mut self, facet: FacetStats) {
        self.seen += 1;
        self.kept.push(facet);
        if self.kept.len() >= self.most.saturating_mul(2).max(1024) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.kept.sort_unstable_by(|a, b| self.sort.order(a, b));
        // One that changes while the pages are gone through may be there twice.
        self.kept.dedup_by(|a, b| a.facet == b.facet);
        self.kept.truncate(self.most);
    }
}

/// How a facet stands; the names are those of the library.
#[derive(Debug, Serialize)]
pub(crate) struct Standing {
    facet: String,
    state: &'static str,
    paused: bool,
    waiting: u64,
    leased: u64,
    delayed: u64,
    dead: u64,
    weight: f64,
    turn: Option<f64>,
    oldest_ms: Option<u64>,
}

impl Standing {
    /// Takes it over from the library.
    pub(crate) fn of(stats: FacetStats) -> Self {
        let FacetStats { facet, waiting, leased, delayed, dead, weight, turn, paused, .. } = stats;
        let state = match stats.state {
            FacetState::Ready => "ready",
            FacetState::Parked => "parked",
            FacetState::InDebt => "in_debt",
            FacetState::Quiet => "quiet",
            _ => "unknown", // Of a newer library.
        };
        let oldest_ms = stats.oldest.map(shown::ms);
        Self { facet, state, paused, waiting, leased, delayed, dead, weight, turn, oldest_ms }
    }
}

impl Row for Standing {
    fn columns(&self) -> Vec<(&'static str, Cell)> {
        let state = match (self.paused, self.state) {
            (true, _) => "paused".into(),
            (false, state) => state.replace('_', " "),
        };
        let oldest = self.oldest_ms.map(|ms| shown::age(Duration::from_millis(ms)));
        vec![
            ("facet", Cell::Text(shown::name(&self.facet))),
            ("state", Cell::Text(state)),
            ("waiting", Cell::number(self.waiting)),
            ("leased", Cell::number(self.leased)),
            ("delayed", Cell::number(self.delayed)),
            ("dead", Cell::number(self.dead)),
            ("weight", Cell::number(self.weight)),
            ("oldest", Cell::any(oldest)),
        ]
    }
}

impl Facets {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        let (limit, page) = (self.limit as usize, self.page as usize);
        let most = limit.saturating_mul(page);
        let mut top = Top { sort: self.sort, most, kept: Vec::new(), seen: 0 };
        let queue = connect.broker().await?.queue(self.queue);
        let mut from = Some(Cursor::default());
        while let Some(cursor) = from {
            let (facets, next) = queue.facets(cursor).await?;
            facets.into_iter().for_each(|facet| top.add(facet));
            from = next;
        }
        top.cut();
        let before = most - limit;
        let shown: Vec<_> = top.kept.into_iter().skip(before).map(Standing::of).collect();
        output.rows(&shown, "no facet stands on this page")?;
        if shown.is_empty() {
            output.note(shown::count(top.seen, "facet in all", "facets in all"));
            return Ok(());
        }
        output.say(format_args!(
            "{} to {} of {}",
            before + 1,
            before + shown.len(),
            shown::count(top.seen, "facet", "facets")
        ))
    }
}
