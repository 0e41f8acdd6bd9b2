//! Numbers, times and names as they stand on the screen.

use std::time::SystemTime;

use ratatui::text::Span;

use crate::shown::printable;

/// What stands where there is no figure.
pub(super) const NONE: &str = "·";

/// `1,234,567`, from ten million on `12.3M`.
pub(super) fn count(number: u64) -> String {
    for (unit, letter) in [(1e9, 'G'), (1e6, 'M')] {
        if number as f64 >= 10.0 * unit {
            return format!("{:.1}{letter}", number as f64 / unit);
        }
    }
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number a second.
pub(super) fn rate(rate: Option<f64>) -> String {
    match rate {
        None => NONE.into(),
        Some(rate) if rate < 99.95 => format!("{rate:.1}"),
        Some(rate) => count(rate.round() as u64),
    }
}

/// A part of the whole, in percent.
pub(super) fn part(part: Option<f64>) -> String {
    match part.map(|part| part * 100.0) {
        None => NONE.into(),
        Some(percent) if percent < 9.95 => format!("{percent:.1}%"),
        Some(percent) => format!("{percent:.0}%"),
    }
}

/// A time of day: `14:03:22 UTC`.
pub(super) fn clock(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{:02}:{:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// A name that somebody else has given, which cannot touch the terminal.
pub(super) fn shown(name: &str) -> String {
    printable(name.as_bytes())
}

/// How many columns a text takes.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// A text of exactly so many columns: filled up on the right, or cut, with `…` for what is left out.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let mut fitted = text.to_owned();
    if width(&fitted) > columns {
        while !fitted.is_empty() && width(&fitted) >= columns {
            fitted.pop();
        }
        if columns > 0 {
            fitted.push('…');
        }
    }
    fitted.extend(std::iter::repeat_n(' ', columns.saturating_sub(width(&fitted))));
    fitted
}

/// A text in lines of at most so many columns, cut between words where it can be.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().filter(|line| {
            line.is_empty() || width(line) + 1 + width(word) <= columns // It fits, or nothing does.
        });
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_stay_short() {
        let counts = [0, 999, 1000, 1_234_567, 12_345_678, 10_000_000_000];
        let texts = counts.map(count);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567", "12.3M", "10.0G"]);
        let rates = [None, Some(0.0), Some(99.94), Some(99.96), Some(1234.5)].map(rate);
        assert_eq!(rates, ["·", "0.0", "99.9", "100", "1,235"]);
        assert_eq!([None, Some(0.0333), Some(0.5)].map(part), ["·", "3.3%", "50%"]);
    }

    #[test]
    fn a_time_of_day_is_that_of_utc() {
        assert_eq!(clock(SystemTime::UNIX_EPOCH + Duration::from_secs(86_399)), "23:59:59 UTC");
    }

    #[test]
    fn a_text_is_cut_by_columns_not_by_characters() {
        assert_eq!(fit("acme", 6), "acme  ");
        assert_eq!(fit("acme corp", 6), "acme …");
        assert_eq!(fit("東京都", 4), "東… ");
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("one two", 0), ["one", "two"]);
        assert_eq!((fit("acme", 1).as_str(), fit("acme", 0).as_str()), ("…", ""));
    }
}
