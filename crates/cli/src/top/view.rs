//! What of the model is on the screen, and in which order.

use std::cmp::{Ordering, Reverse};

use super::{
    facets::Known,
    model::{Model, Queue},
    watch::Wanted,
};

/// The two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    Queues,
    Facets,
}

/// What lies over the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Panel {
    None,
    Help {
        /// Its first line on the screen.
        from: u16,
    },
    /// Why this facet is served, or is not.
    Why(String),
}

/// By what a list is sorted: the name of a column.
pub(super) const QUEUE_SORTS: [&str; 6] =
    ["queue", "waiting", "served/s", "delivered/s", "leased", "dead"];
pub(super) const FACET_SORTS: [&str; 7] =
    ["waiting", "served/s", "oldest", "leased", "weight", "state", "facet"];

/// A list, and where one is in it.
#[derive(Debug, Default)]
pub(super) struct List {
    /// As it was drawn last, in its order.
    pub(super) rows: Vec<String>,
    /// The row of the cursor.
    pub(super) row: usize,
    /// The name that the cursor stays with, once somebody has moved it.
    pub(super) held: Option<String>,
    pub(super) filter: String,
    /// Which of the sorts.
    pub(super) sort: usize,
    /// The first row on the screen, and how many are there.
    pub(super) top: usize,
    pub(super) height: usize,
}

impl List {
    /// The name under the cursor.
    pub(super) fn at_cursor(&self) -> Option<&str> {
        self.rows.get(self.row).map(String::as_str)
    }

    /// The names on the screen.
    pub(super) fn on_screen(&self) -> &[String] {
        let from = self.top.min(self.rows.len());
        &self.rows[from..self.rows.len().min(from + self.height)]
    }

    pub(super) fn go_to(&mut self, row: usize) {
        self.row = row.min(self.rows.len().saturating_sub(1));
        self.held = self.at_cursor().map(Into::into);
    }

    /// Lets go of the name: the cursor is in the first row again.
    pub(super) fn let_go(&mut self) {
        (self.row, self.held) = (0, None);
    }

    fn matches(&self, name: &str) -> bool {
        self.filter.is_empty() || name.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// Has these rows from now on; the cursor stays with its name, or where it is.
    fn set(&mut self, rows: Vec<String>) {
        self.rows = rows;
        let held = self.held.as_ref().and_then(|held| self.rows.iter().position(|row| row == held));
        self.row = held.unwrap_or(self.row).min(self.rows.len().saturating_sub(1));
    }

    /// Has so many rows on the screen from now on, the cursor among them.
    pub(super) fn show(&mut self, height: usize) {
        self.height = height;
        self.top = self.top.min(self.rows.len().saturating_sub(height)).min(self.row);
        self.top = self.top.max((self.row + 1).saturating_sub(height));
    }
}

/// What somebody looks at.
#[derive(Debug)]
pub(super) struct View {
    pub(super) pane: Pane,
    pub(super) panel: Panel,
    pub(super) queues: List,
    pub(super) facets: List,
    /// Whether what is typed goes to the filter.
    pub(super) typing: bool,
    /// What was done, or could not be: the text, and whether it is an error.
    pub(super) said: Option<(String, bool)>,
}

impl View {
    pub(super) fn new() -> Self {
        Self {
            pane: Pane::Queues,
            panel: Panel::None,
            queues: List::default(),
            facets: List::default(),
            typing: false,
            said: None,
        }
    }

    /// The list that keys go to.
    pub(super) fn list(&mut self) -> &mut List {
        match self.pane {
            Pane::Queues => &mut self.queues,
            Pane::Facets => &mut self.facets,
        }
    }

    /// Brings the lists in line with what is known, and chooses the queue under the cursor.
    pub(super) fn order(&mut self, model: &mut Model) {
        if self.queues.held.is_none() {
            self.queues.held = model.queue.clone();
        }
        let by = QUEUE_SORTS[self.queues.sort % QUEUE_SORTS.len()];
        let mut queues: Vec<_> =
            model.queues.iter().filter(|(name, _)| self.queues.matches(name)).collect();
        queues.sort_by(|a, b| queue_order(by, a.1, b.1).then_with(|| a.0.cmp(b.0)));
        let queues = queues.into_iter().map(|(name, _)| name.clone()).collect();
        self.queues.set(queues);
        let chosen = self.queues.at_cursor();
        if chosen != model.queue.as_deref() {
            self.facets.let_go();
            model.choose(chosen);
        }
        let by = FACET_SORTS[self.facets.sort % FACET_SORTS.len()];
        let mut facets: Vec<_> =
            model.facets.iter().filter(|(name, _)| self.facets.matches(name)).collect();
        facets.sort_by(|a, b| facet_order(by, a.1, b.1).then_with(|| a.0.cmp(b.0)));
        let facets = facets.into_iter().map(|(name, _)| name.clone()).collect();
        self.facets.set(facets);
    }

    /// Whether a facet is to be kept before others: it is looked for, or on the screen.
    pub(super) fn wants(&self, facet: &str) -> bool {
        !self.facets.filter.is_empty() && self.facets.matches(facet)
            || self.facets.held.as_deref() == Some(facet)
            || self.panel == Panel::Why(facet.into())
    }

    /// What is on the screen.
    pub(super) fn wanted(&self, model: &Model) -> Wanted {
        let mut facets = Vec::new();
        if let Panel::Why(facet) = &self.panel {
            facets.push(facet.clone());
        }
        facets.extend(self.facets.on_screen().iter().cloned());
        let queues = self.queues.on_screen().to_vec();
        Wanted { queue: model.queue.clone(), queues, facets }
    }
}

/// The larger figure first; what has none comes last.
fn larger(a: Option<f64>, b: Option<f64>) -> Ordering {
    b.unwrap_or(-1.0).total_cmp(&a.unwrap_or(-1.0))
}

fn queue_order(by: &str, a: &Queue, b: &Queue) -> Ordering {
    let of = |count: fn(&fairlane::Stats) -> u64| {
        Reverse(a.stats.as_ref().map(count)).cmp(&Reverse(b.stats.as_ref().map(count)))
    };
    match by {
        "waiting" => of(|stats| stats.waiting),
        "leased" => of(|stats| stats.leased),
        "dead" => of(|stats| stats.dead),
        "served/s" => larger(a.served(), b.served()),
        "delivered/s" => larger(a.delivered(), b.delivered()),
        _ => Ordering::Equal,
    }
}

fn facet_order(by: &str, a: &Known, b: &Known) -> Ordering {
    let (now, other) = (&a.now, &b.now);
    match by {
        "waiting" => other.waiting.cmp(&now.waiting),
        "leased" => other.leased.cmp(&now.leased),
        "oldest" => other.oldest.cmp(&now.oldest),
        "served/s" => larger(a.served, b.served),
        "weight" => larger(Some(now.weight), Some(other.weight)),
        "state" => super::columns::state_rank(now).cmp(&super::columns::state_rank(other)),
        _ => Ordering::Equal,
    }
}
