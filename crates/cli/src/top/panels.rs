//! What lies over the lists: why a facet is served, or is not, and the help.

use std::time::Duration;

use fairlane::{FacetState, Gate, Rate};
use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::{Block, Clear, Padding, Paragraph},
};

use super::{
    facets::{Known, Reason},
    keys::KEYS,
    model::Model,
    text::{clock, count, fit, part, rate, shown, wrap},
    theme::Theme,
};
use crate::shown::{age, length};

/// The widest panel.
const WIDEST: u16 = 84;

/// Puts a panel in the middle of the area: words, each with a text beside it. It begins with the line
/// `from`, or the last one with which no room is left over, and returns which that was. What is left
/// out below it is told.
fn panel(
    frame: &mut Frame<'_>,
    area: Rect,
    from: u16,
    title: &str,
    rows: &[(&str, String)],
    theme: Theme,
) -> u16 {
    let width = area.width.min(WIDEST);
    let label = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or_default() + 2;
    let room = usize::from(width.saturating_sub(4)).saturating_sub(label);
    let mut lines = Vec::new();
    for (what, text) in rows {
        let mut what = *what;
        for line in wrap(text, room) {
            let what = Span::styled(fit(std::mem::take(&mut what), label), theme.strong());
            lines.push(Line::from(vec![what, Span::raw(line)]));
        }
    }
    let whole = lines.len() as u16 + 2;
    let height = whole.min(area.height);
    let from = from.min(whole - height);
    let area = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let title = fit(title, usize::from(width).saturating_sub(4));
    let block = Block::bordered()
        .padding(Padding::horizontal(1))
        .title(Span::styled(format!(" {} ", title.trim_end()), theme.strong()));
    let block = match whole - height - from {
        0 => block,
        more => block.title_bottom(Span::styled(format!(" {more} more "), theme.strong())),
    };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block).scroll((from, 0)), area);
    from
}

/// What the keys and the columns mean, from a line on. Returns from which.
pub(super) fn help(frame: &mut Frame<'_>, area: Rect, from: u16, theme: Theme) -> u16 {
    let mut rows: Vec<_> = KEYS.iter().map(|(key, _, long)| (*key, (*long).to_owned())).collect();
    let columns = [
        (
            "served/s",
            "what the turn of a facet grew by, times its weight: in messages, or what they cost",
        ),
        ("·", "no figure: it had nothing waiting in between, or was kept from being served"),
        ("share", "of what the facets here are served"),
        ("fair", "what its weight gives it, among those that have a figure and can be served"),
        ("oldest", "how long ago its foremost message was delivered"),
    ];
    rows.extend(columns.map(|(column, text)| (column, text.to_owned())));
    panel(frame, area, from, "help: ↓ goes on, Esc goes back", &rows, theme)
}

/// Why a facet is served, or is not.
pub(super) fn why(frame: &mut Frame<'_>, area: Rect, model: &Model, facet: &str, theme: Theme) {
    let rows = match model.facets.get(facet) {
        None => vec![("", "Nothing is known of it: it has no message, and nothing is set.".into())],
        Some(known) => told(model, known),
    };
    panel(frame, area, 0, &format!("why {}", shown(facet)), &rows, theme);
}

fn told(model: &Model, known: &Known) -> Vec<(&'static str, String)> {
    let now = &known.now;
    let mut rows = vec![("now", verdict(model, known))];
    if now.paused && now.gate != Some(Gate::Paused) {
        rows.push(("", "It is paused itself, too; r resumes it.".into()));
    }
    let waiting = match now.oldest {
        Some(oldest) => {
            format!("{}, the oldest was delivered {} ago", count(now.waiting), age(oldest))
        }
        None => count(now.waiting),
    };
    rows.push(("waiting", waiting));
    let settings = known.reason.as_ref().map(|reason| &reason.settings);
    let most = settings.and_then(|settings| settings.max_leased);
    let most = most.map_or(String::new(), |most| format!(" of at most {most}"));
    rows.push(("leased", count(now.leased) + &most));
    if now.delayed + now.dead > 0 {
        let (delayed, dead) = (count(now.delayed), count(now.dead));
        rows.push(("besides", format!("{delayed} delayed, {dead} dead")));
    }
    let sum = model.facets.sum();
    let served = match (known.served, sum.share(known)) {
        (None, _) => {
            "no figure: it did not wait all the time, or was kept from being served".into()
        }
        (served, None) => format!("{} a second", rate(served)),
        (served, share) => format!("{} a second, {} of all", rate(served), part(share)),
    };
    rows.push(("served", served));
    let fair = sum.fair(known).map(|fair| format!(", which gives it {}", part(Some(fair))));
    rows.push(("weight", format!("{}{}", now.weight, fair.unwrap_or_default())));
    let turn = now.turn.map_or("none".into(), |turn| format!("{turn:.3}"));
    rows.push(("turn", turn));
    if let Some(settings) = settings {
        rows.push(("rate", settings.rate.map_or("any".into(), limit)));
        let most = settings.max_waiting.map_or("any".into(), |most| format!("{most} at most"));
        rows.push(("may wait", most));
        if settings.intake_paused {
            rows.push(("intake", "paused: what is delivered to it is refused".into()));
        }
    }
    rows
}

fn limit(rate: Rate) -> String {
    let Rate { count, period, burst, .. } = rate;
    format!("{count} in {}, {burst} at once", length(period))
}

/// What keeps it and until when, or how soon it is served.
fn verdict(model: &Model, known: &Known) -> String {
    let until = |until: std::time::SystemTime| {
        let left = until.duration_since(model.clock).unwrap_or(Duration::ZERO);
        format!("in {}, at {}", age(left), clock(until))
    };
    match known.now.gate {
        None => match &known.reason {
            None => "It can be served.".into(),
            Some(Reason { place: Some(0) | None, .. }) => "It is served next.".into(),
            Some(Reason { place: Some(1), .. }) => "It is served after one other.".into(),
            Some(Reason { place: Some(place), .. }) => {
                format!("It is served after {} others.", count(*place))
            }
        },
        Some(Gate::QueuePaused) => {
            "Its queue is paused: nothing of it is served. r, on the queue, resumes it.".into()
        }
        Some(Gate::Paused) => "It is paused, until somebody resumes it: r.".into(),
        Some(Gate::OnHold { until: end }) => {
            format!("It is held: a worker asked for that. It can be served {}.", until(end))
        }
        Some(Gate::AtLimit { most }) => format!(
            "It is at its limit: {} of its messages are leased, and {most} may be. The next one that is \
             settled, or whose lease ends, lets it go on.",
            known.now.leased
        ),
        Some(Gate::OutOfRate { until: end }) => {
            format!("It is out of its rate. Its next message can be served {}.", until(end))
        }
        Some(_) if known.now.state == FacetState::InDebt => {
            "Nothing waits. It had more than the others who wait, and goes on from there.".into()
        }
        Some(_) => "Nothing waits.".into(),
    }
}
