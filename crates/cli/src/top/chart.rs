//! The chart of a queue: what was delivered and served a second, over the last minutes.

use std::time::Duration;

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::Rect,
    style::Style,
    symbols::Marker,
    text::Span,
    widgets::{Axis, Block, Chart, Dataset, GraphType, Widget},
};

use super::{
    model::{HISTORY, Model, Point, Queue},
    screen::frame_of,
    text::rate,
    theme::Theme,
};

/// The first of the characters that have 2 x 4 dots, one bit for each.
const DOTS: u32 = 0x2800;

/// Draws it, as far back as is known, up to five minutes.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, queue: &Queue, theme: Theme) {
    let ago = |at: Duration| -(model.now.saturating_sub(at).as_secs_f64());
    let first = queue.history.front().map_or(0.0, |point| -ago(point.at));
    let back = (first / 60.0).ceil().clamp(1.0, HISTORY.as_secs_f64() / 60.0);
    let most = queue.history.iter().map(|point| point.delivered.max(point.served));
    let most = most.fold(1.0, f64::max);
    let line = |of: fn(&Point) -> f64, style: Style, block: Block<'static>, buffer: &mut Buffer| {
        let data: Vec<_> = queue.history.iter().map(|point| (ago(point.at), of(point))).collect();
        let line = Dataset::default()
            .graph_type(GraphType::Line)
            .marker(Marker::Braille)
            .style(style)
            .data(&data);
        let axis = Axis::default().style(theme.quiet());
        let chart = Chart::new(vec![line])
            .block(block)
            .x_axis(
                axis.clone()
                    .bounds([-back * 60.0, 0.0])
                    .labels([format!("-{back} min"), "now".into()]),
            )
            .y_axis(
                axis.bounds([0.0, most * 1.05])
                    .labels([format!("{:>5}", 0), format!("{:>5}", rate(Some(most)))]),
            );
        chart.render(area, buffer);
    };
    let block = frame_of("a second".into(), false, theme)
        .title(Span::styled(format!(" delivered {} ", rate(queue.delivered())), theme.delivered()))
        .title(Span::styled(format!(" served {} ", rate(queue.served())), theme.served()));
    let mut served = Buffer::empty(area);
    line(|point| point.served, theme.served(), block.clone(), &mut served);
    line(|point| point.delivered, theme.delivered(), block, frame.buffer_mut());
    join(frame.buffer_mut(), &served);
}

/// Puts the dots of one chart over those of another. Where both have some in one character, it has
/// all of them: one line would hide the other there.
fn join(under: &mut Buffer, over: &Buffer) {
    for position in over.area.positions() {
        let (Some(cell), Some(other)) = (under.cell_mut(position), over.cell(position)) else {
            continue;
        };
        match (dots(cell.symbol()), dots(other.symbol())) {
            (Some(some), Some(more)) => {
                let both = char::from_u32(DOTS + (some | more)).unwrap_or(' ');
                cell.set_char(both).set_style(Style::reset());
            }
            (None, Some(_)) => *cell = other.clone(),
            (_, None) => {}
        }
    }
}

/// The dots of a character, where it has any.
fn dots(symbol: &str) -> Option<u32> {
    let bits = u32::from(symbol.chars().next()?).checked_sub(DOTS)?;
    (1..256).contains(&bits).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_does_not_hide_the_other() {
        let mut under = Buffer::with_lines(["⣀ ⠉x"]);
        join(&mut under, &Buffer::with_lines(["⠉⠒  "]));
        assert_eq!(under, Buffer::with_lines(["⣉⠒⠉x"]));
    }
}
