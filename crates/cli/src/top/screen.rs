//! The screen: queues, a chart of the chosen one, its facets, and a line for what was done.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::Style,
    text::{Line, Span},
    widgets::{Block, Borders},
};

use super::{
    chart,
    columns::{FacetRow, facets, fitting, name, queues, title},
    keys::KEYS,
    model::Model,
    panels,
    text::{count, shown, width},
    theme::Theme,
    view::{FACET_SORTS, List, Pane, Panel, QUEUE_SORTS, View},
};

/// Below so many rows between title and last lines there is no chart.
const CHART_FROM: u16 = 18;

/// Draws all of it. What is on the screen then is noted in the view.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, view: &mut View, theme: Theme) {
    let [top, body, status, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(headline(model, theme), top);
    frame.render_widget(said(model, view, theme), status);
    frame.render_widget(key_line(keys.width, theme), keys);

    let part = if view.pane == Pane::Queues { body.height / 3 } else { body.height / 4 };
    let queues = (view.queues.rows.len().max(1) as u16).min(part.max(2)) + 2;
    let middle = if body.height >= CHART_FROM { (body.height / 3).min(12) } else { 0 };
    let [queues, middle, facets] = Layout::vertical([
        Constraint::Length(queues),
        Constraint::Length(middle),
        Constraint::Fill(1),
    ])
    .areas(body);
    draw_queues(frame, queues, model, view, theme);
    if let Some(queue) = model.queue.as_ref().and_then(|name| model.queues.get(name)) {
        chart::draw(frame, middle, model, queue, theme);
    }
    draw_facets(frame, facets, model, view, theme);
    match &mut view.panel {
        Panel::None => {}
        Panel::Help { from } => *from = panels::help(frame, body, *from, theme),
        Panel::Why(facet) => panels::why(frame, body, model, facet, theme),
    }
}

fn headline(model: &Model, theme: Theme) -> Line<'static> {
    let waiting = model.queues.values().filter_map(|queue| queue.stats.as_ref());
    let waiting: u64 = waiting.map(|stats| stats.waiting).sum();
    let queues = match model.queues.len() {
        1 => "1 queue".into(),
        n => format!("{} queues", count(n as u64)),
    };
    Line::from(vec![
        Span::styled("fairlane top", theme.strong()),
        Span::raw(format!("   {queues}, {} waiting", count(waiting))),
    ])
}

/// What was done, or what is wrong.
fn said(model: &Model, view: &View, theme: Theme) -> Line<'static> {
    if view.typing {
        let list = if view.pane == Pane::Queues { &view.queues } else { &view.facets };
        return Line::from(format!("/{}▏", shown(&list.filter)));
    }
    if let Some(away) = &model.away {
        return Line::styled(format!("trying again: {}", shown(away)), theme.bad());
    }
    match (&view.said, &model.missing) {
        (Some((text, true)), _) => Line::styled(shown(text), theme.bad()),
        (Some((text, false)), _) => Line::styled(shown(text), theme.kept()),
        (None, Some(missing)) => Line::styled(shown(missing), theme.bad()),
        (None, None) => Line::default(),
    }
}

/// As many of the keys as there is room for.
fn key_line(room: u16, theme: Theme) -> Line<'static> {
    let (mut spans, mut taken) = (Vec::new(), 0);
    for (key, short, _) in KEYS.iter().filter(|(_, short, _)| !short.is_empty()) {
        let text = format!(" {short}   ");
        taken += width(key) + width(&text);
        if taken > usize::from(room) + 3 {
            break;
        }
        spans.push(Span::styled(*key, theme.strong()));
        spans.push(Span::styled(text, theme.quiet()));
    }
    Line::from(spans)
}

/// The frame of a part of the screen: a line with a title above it.
pub(super) fn frame_of(title: String, chosen: bool, theme: Theme) -> Block<'static> {
    let style = if chosen { theme.strong().patch(theme.cursor()) } else { theme.strong() };
    Block::new()
        .borders(Borders::TOP)
        .border_style(theme.quiet())
        .title(Span::styled(format!(" {title} "), style))
}

/// What a filter does to a title.
fn filtered(list: &List) -> String {
    if list.filter.is_empty() { String::new() } else { format!(" with `{}`", shown(&list.filter)) }
}

/// Gives a list its room, and returns the area and the numbers of the rows that are on the screen.
fn rows(list: &mut List, area: Rect) -> impl Iterator<Item = (Rect, usize)> + use<> {
    let height = usize::from(area.height.saturating_sub(1));
    list.show(height);
    let (from, until) = (list.top, list.rows.len().min(list.top + height));
    area.rows().skip(1).zip(from..until)
}

fn draw_queues(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &mut View, theme: Theme) {
    let title_text = format!("queues{}", filtered(&view.queues));
    let block = frame_of(title_text, view.pane == Pane::Queues, theme);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let by = QUEUE_SORTS[view.queues.sort % QUEUE_SORTS.len()];
    let all = queues();
    let (room, columns) = fitting(&all, usize::from(inner.width), by);
    let mut head = vec![name(&title("queue", by == "queue"), room).style(theme.strong())];
    head.extend(columns.iter().map(|column| column.title(column.head == by, theme)));
    let rows = rows(&mut view.queues, inner);
    if inner.height > 0 {
        frame.render_widget(Line::from(head), Rect { height: 1, ..inner });
    }
    for (area, row) in rows {
        let Some(queue) = model.queues.get(&view.queues.rows[row]) else { continue };
        let mut cells = vec![name(&view.queues.rows[row], room)];
        cells.extend(columns.iter().map(|column| column.show(&queue, theme)));
        let style = if view.pane == Pane::Queues { theme.cursor() } else { theme.strong() };
        draw_row(frame, area, cells, (row == view.queues.row).then_some(style));
    }
}

fn draw_facets(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &mut View, theme: Theme) {
    let block = frame_of(facets_title(model, view), view.pane == Pane::Facets, theme);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let by = FACET_SORTS[view.facets.sort % FACET_SORTS.len()];
    let all = facets();
    let (room, columns) = fitting(&all, usize::from(inner.width), by);
    let mut head = vec![name(&title("facet", by == "facet"), room).style(theme.strong())];
    head.extend(columns.iter().map(|column| column.title(column.head == by, theme)));
    let rows = rows(&mut view.facets, inner);
    if inner.height > 0 {
        frame.render_widget(Line::from(head), Rect { height: 1, ..inner });
    }
    let sum = model.facets.sum();
    for (area, row) in rows {
        let Some(known) = model.facets.get(&view.facets.rows[row]) else { continue };
        let shown = FacetRow { known, sum, clock: model.clock };
        let mut cells = vec![name(&view.facets.rows[row], room)];
        cells.extend(columns.iter().map(|column| column.show(&shown, theme)));
        let at_cursor = row == view.facets.row && view.pane == Pane::Facets;
        draw_row(frame, area, cells, at_cursor.then(|| theme.cursor()));
    }
}

/// Draws a row, with the style of the cursor where that is.
fn draw_row(frame: &mut Frame<'_>, area: Rect, cells: Vec<Span<'static>>, cursor: Option<Style>) {
    frame.render_widget(Line::from(cells), area);
    if let Some(cursor) = cursor {
        frame.buffer_mut().set_style(area, cursor);
    }
}

fn facets_title(model: &Model, view: &View) -> String {
    let Some(name) = &model.queue else { return "facets".into() };
    let stats = model.queues.get(name).and_then(|queue| queue.stats.as_ref());
    let waiting = stats.map_or(0, |stats| stats.facets_ready + stats.facets_parked);
    let left_out = match model.facets.left_out {
        true => format!(", {} of more, the busiest", count(model.facets.len() as u64)),
        false => String::new(),
    };
    let filter = filtered(&view.facets);
    format!("facets of {}{filter}: {} wait{left_out}", shown(name), count(waiting))
}
