//! The columns of the two lists, and which of them there is room for.

use std::time::SystemTime;

use fairlane::{FacetState, Gate};
use ratatui::{style::Style, text::Span};

use super::{
    facets::{Known, Look, Sum},
    model::Queue,
    text::{NONE, count, fit, part, rate, shown},
    theme::Theme,
};
use crate::shown::age;

/// A text and what it looks like.
type Cell = (String, Style);

/// A column after the name. Those with a low rank stay when there is little room.
pub(super) struct Column<Row> {
    pub(super) head: &'static str,
    width: usize,
    rank: u8,
    /// Text stands on the left, numbers on the right.
    left: bool,
    cell: fn(&Row, Theme) -> Cell,
}

const fn number<Row>(
    head: &'static str,
    width: usize,
    rank: u8,
    cell: fn(&Row, Theme) -> Cell,
) -> Column<Row> {
    Column { head, width, rank, left: false, cell }
}

const fn words<Row>(
    head: &'static str,
    width: usize,
    rank: u8,
    cell: fn(&Row, Theme) -> Cell,
) -> Column<Row> {
    Column { head, width, rank, left: true, cell }
}

impl<Row> Column<Row> {
    /// How many columns of the screen it takes, with what keeps it apart.
    fn takes(&self) -> usize {
        self.width + if self.left { 2 } else { 1 }
    }

    fn align(&self, text: &str) -> String {
        match self.left {
            true => format!("  {}", fit(text, self.width)),
            false => format!(" {text:>width$}", width = self.width),
        }
    }

    /// What stands above it; `sorted`: whether the list is sorted by it.
    pub(super) fn title(&self, sorted: bool, theme: Theme) -> Span<'static> {
        Span::styled(self.align(&title(self.head, sorted)), theme.strong())
    }

    pub(super) fn show(&self, row: &Row, theme: Theme) -> Span<'static> {
        let (text, style) = (self.cell)(row, theme);
        Span::styled(self.align(&text), style)
    }
}

/// The head of a column, with a mark where the list is sorted by it.
pub(super) fn title(head: &str, sorted: bool) -> String {
    if sorted { format!("{head}▾") } else { head.to_owned() }
}

/// The least and the most that a name has, and what it has before there are more columns than are
/// needed.
const NAME: (usize, usize, usize) = (12, 44, 20);
/// The last rank that is needed.
const NEEDED: u8 = 7;

/// The columns that there is room for, and how wide the name is beside them. The one that the list is
/// sorted by comes before all others: nobody could see else what the order is.
pub(super) fn fitting<'a, Row>(
    all: &'a [Column<Row>],
    room: usize,
    sorted: &str,
) -> (usize, Vec<&'a Column<Row>>) {
    let rank = |column: &Column<Row>| if column.head == sorted { 0 } else { column.rank };
    let mut ranked: Vec<_> = all.iter().collect();
    ranked.sort_by_key(|column| rank(column));
    let (least, most, roomy) = NAME;
    let mut taken = 0;
    let fits = ranked.iter().take_while(|column| {
        taken += column.takes();
        taken + if rank(column) > NEEDED { roomy } else { least } <= room
    });
    let last = fits.last().map(|column| rank(column));
    let columns: Vec<_> = all.iter().filter(|column| Some(rank(column)) <= last).collect();
    let others: usize = columns.iter().map(|column| column.takes()).sum();
    (room.saturating_sub(others).min(most), columns)
}

fn plain(text: String) -> Cell {
    (text, Style::new())
}

/// A count; what is zero stands back.
fn counted(number: Option<u64>, theme: Theme) -> Cell {
    match number {
        None => (NONE.into(), theme.quiet()),
        Some(0) => ("0".into(), theme.quiet()),
        Some(number) => plain(count(number)),
    }
}

fn stats(queue: &&Queue, theme: Theme, of: fn(&fairlane::Stats) -> u64) -> Cell {
    counted(queue.stats.as_ref().map(of), theme)
}

/// The columns of the queues.
pub(super) fn queues<'a>() -> [Column<&'a Queue>; 8] {
    [
        number("waiting", 9, 1, |queue, theme| stats(queue, theme, |stats| stats.waiting)),
        number("leased", 8, 5, |queue, theme| stats(queue, theme, |stats| stats.leased)),
        number("delayed", 9, 7, |queue, theme| stats(queue, theme, |stats| stats.delayed)),
        number("dead", 7, 6, |queue, theme| match stats(queue, theme, |stats| stats.dead) {
            (text, style) if text == "0" || text == NONE => (text, style),
            (text, _) => (text, theme.bad()),
        }),
        number("delivered/s", 12, 4, |queue, theme| (rate(queue.delivered()), theme.delivered())),
        number("served/s", 9, 3, |queue, theme| (rate(queue.served()), theme.served())),
        number("facets", 8, 8, |queue, theme| {
            stats(queue, theme, |stats| stats.facets_ready + stats.facets_parked)
        }),
        words("state", 8, 2, |queue, theme| match &queue.stats {
            None => (NONE.into(), theme.quiet()),
            Some(stats) if stats.paused => ("paused".into(), theme.kept()),
            Some(_) if !queue.registered => ("no route".into(), theme.kept()),
            Some(stats) if stats.waiting > 0 => ("ready".into(), theme.good()),
            Some(_) => ("empty".into(), theme.quiet()),
        }),
    ]
}

/// A facet as it is drawn.
pub(super) struct FacetRow<'a> {
    pub(super) known: &'a Known,
    pub(super) sum: Sum,
    pub(super) clock: SystemTime,
}

impl FacetRow<'_> {
    fn share(&self) -> Option<f64> {
        self.sum.share(self.known)
    }

    fn fair(&self) -> Option<f64> {
        self.sum.fair(self.known)
    }
}

/// The columns of the facets.
pub(super) fn facets<'a>() -> [Column<FacetRow<'a>>; 11] {
    [
        number("waiting", 9, 1, |row, theme| counted(Some(row.known.now.waiting), theme)),
        number("leased", 8, 6, |row, theme| counted(Some(row.known.now.leased), theme)),
        number("delayed", 8, 10, |row, theme| counted(Some(row.known.now.delayed), theme)),
        number("dead", 7, 11, |row, theme| counted(Some(row.known.now.dead), theme)),
        number("served/s", 9, 3, |row, theme| (rate(row.known.served), theme.served())),
        number("share", 6, 4, |row, theme| (part(row.share()), theme.served())),
        number("fair", 6, 5, |row, _| plain(part(row.fair()))),
        number("weight", 7, 9, |row, _| plain(format!("{}", row.known.now.weight))),
        words("share ┃ fair", 12, 8, |row, theme| {
            (bar(row.share(), row.fair(), 12), theme.served())
        }),
        number("oldest", 7, 7, |row, _| plain(row.known.now.oldest.map_or(NONE.into(), age))),
        words("state", 12, 2, |row, theme| {
            let (text, style) = state(&row.known.now, row.clock);
            (text, style(theme))
        }),
    ]
}

/// A share as a bar, with a mark where the fair one ends.
fn bar(share: Option<f64>, fair: Option<f64>, width: usize) -> String {
    let at = |part: f64| ((part * width as f64).round() as usize).min(width);
    let mut cells: Vec<char> = vec![' '; width];
    cells[..share.map_or(0, at)].fill('▬');
    if let Some(fair) = fair {
        cells[at(fair).clamp(1, width) - 1] = '┃';
    }
    cells.into_iter().collect()
}

/// What a facet can do, in a word or two, and what that looks like.
pub(super) fn state(look: &Look, clock: SystemTime) -> (String, fn(Theme) -> Style) {
    let left = |until: SystemTime| age(until.duration_since(clock).unwrap_or_default());
    let (text, style): (String, fn(Theme) -> Style) = match look.gate {
        _ if look.paused => ("paused".into(), Theme::kept),
        Some(Gate::QueuePaused) => ("queue paused".into(), Theme::kept),
        Some(Gate::Paused) => ("paused".into(), Theme::kept),
        Some(Gate::OnHold { until }) => (format!("held {}", left(until)), Theme::kept),
        Some(Gate::AtLimit { .. }) => ("at limit".into(), Theme::kept),
        Some(Gate::OutOfRate { .. }) => ("out of rate".into(), Theme::kept),
        None => ("ready".into(), Theme::good),
        _ if look.state == FacetState::InDebt => ("in debt".into(), Theme::quiet),
        _ => ("quiet".into(), Theme::quiet),
    };
    (text, style)
}

/// The order of the states when the list is sorted by them: first what somebody may have to do
/// something about.
pub(super) fn state_rank(look: &Look) -> u8 {
    match look.gate {
        _ if look.paused => 0,
        Some(Gate::OnHold { .. }) => 1,
        Some(Gate::AtLimit { .. }) => 2,
        Some(Gate::OutOfRate { .. }) => 3,
        Some(Gate::QueuePaused | Gate::Paused) => 0,
        None => 4,
        _ if look.state == FacetState::InDebt => 5,
        _ => 6,
    }
}

/// The name of a row, as wide as there is room.
pub(super) fn name(text: &str, width: usize) -> Span<'static> {
    Span::raw(fit(&shown(text), width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_go_by_what_they_are_worth() {
        let all = facets();
        let heads = |room, sorted| -> Vec<_> {
            let (_, columns) = fitting(&all, room, sorted);
            columns.iter().map(|column| column.head).collect()
        };
        assert_eq!(heads(20, "facet"), Vec::<&str>::new());
        assert_eq!(heads(20, "oldest"), ["oldest"]);
        assert_eq!(heads(60, "facet"), ["waiting", "served/s", "share", "fair", "state"]);
        assert_eq!(heads(60, "oldest"), ["waiting", "served/s", "oldest", "state"]);
        assert_eq!(heads(160, "facet").len(), all.len());
        for room in 0..200 {
            let (name, columns) = fitting(&all, room, "weight");
            let takes: usize = columns.iter().map(|column| column.takes()).sum();
            assert!(name + takes <= room.max(takes), "{room}");
        }
    }

    #[test]
    fn a_bar_shows_the_share_and_where_the_fair_one_ends() {
        assert_eq!(bar(Some(0.5), Some(0.5), 8), "▬▬▬┃    ");
        assert_eq!(bar(Some(0.25), Some(0.75), 8), "▬▬   ┃  ");
        assert_eq!(bar(Some(1.0), Some(0.25), 8), "▬┃▬▬▬▬▬▬");
        assert_eq!(
            (bar(None, None, 3), bar(Some(2.0), Some(0.0), 3)),
            ("   ".into(), "┃▬▬".into())
        );
    }
}
