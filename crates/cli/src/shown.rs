//! How bodies, names and times look: in a table for people, and in JSON for programs.

use std::time::{Duration, SystemTime};

use fairlane::{MessageId, Undecodable};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::connect::Body;

/// The most characters of a name that a table shows.
const MOST_OF_A_NAME: usize = 48;

/// A body, under a name that says what it is, whole. Nothing of it is lost on the way through JSON.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Content {
    /// As it was delivered, without the spaces between its tokens: numbers keep all their digits.
    Json { body: Box<RawValue> },
    /// Text that is no JSON.
    Text { text: String },
    /// Anything else, as hexadecimal digits.
    Bytes { bytes: String },
}

impl Content {
    /// Finds out what it is.
    pub(crate) fn of(body: &[u8]) -> Self {
        let Ok(text) = std::str::from_utf8(body) else {
            return Self::Bytes { bytes: body.iter().map(|byte| format!("{byte:02x}")).collect() };
        };
        let json = serde_json::from_str::<&RawValue>(text).ok();
        match json.and_then(|json| RawValue::from_string(compact(json.get())).ok()) {
            Some(body) => Self::Json { body },
            None => Self::Text { text: text.to_owned() },
        }
    }

    /// Of what the library has decoded; of bytes it decodes all.
    pub(crate) fn of_message(message: Result<Body, Undecodable>) -> Self {
        match message {
            Ok(body) => Self::of(&body),
            Err(undecodable) => Self::of(&undecodable.body),
        }
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Json { body } => printable_json(body.get()),
            Self::Text { text } => printable(text.as_bytes()),
            Self::Bytes { bytes } => format!("0x{bytes}"),
        }
    }
}

/// JSON without the spaces and line breaks between its tokens: an object is one line.
fn compact(json: &str) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let kept = json.chars().filter(|c| {
        let keep = quoted || !c.is_ascii_whitespace();
        quoted ^= *c == '"' && !escaped;
        escaped = quoted && *c == '\\' && !escaped;
        keep
    });
    kept.collect()
}

/// Whether a character can do something to a terminal, shows nothing, or hides what stands beside it.
fn is_hostile(c: char) -> bool {
    let hides = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c.is_control() || hides
}

/// Text that cannot touch a terminal, whoever wrote it.
pub(crate) fn printable(text: &[u8]) -> String {
    let mut shown = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_hostile(c) {
                shown.extend(c.escape_default());
            } else {
                shown.push(c);
            }
        }
        shown.extend(chunk.invalid().iter().flat_map(|byte| byte.escape_ascii()).map(char::from));
    }
    shown
}

/// JSON that cannot touch a terminal, and is the same JSON: what would stands within strings, and may be
/// written as an escape there.
pub(crate) fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len() + 1);
    for c in json.chars() {
        if is_hostile(c) {
            shown += &format!("\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// The name of a facet or a topic: it may have any bytes, and 512 of them.
pub(crate) fn name(name: &str) -> String {
    let shown = printable(name.as_bytes());
    match shown.char_indices().nth(MOST_OF_A_NAME) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

/// The number of a message, as JSON has it.
pub(crate) fn number(id: MessageId) -> u64 {
    id.to_string().parse().unwrap_or_default() // It is one.
}

/// In whole milliseconds.
pub(crate) fn ms(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

/// In milliseconds since 1970.
pub(crate) fn at_ms(time: SystemTime) -> u64 {
    ms(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// A time that was or will be, for people: `0.3s`, `42s`, `3m05s`, `2h14m`, `5d03h`.
pub(crate) fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |large: u64, a: char, small: u64, b: char| format!("{large}{a}{small:02}{b}");
    match seconds {
        0..10 => format!("{}.{}s", seconds, time.subsec_millis() / 100),
        10..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, 'm', seconds % 60, 's'),
        3600..86_400 => two(seconds / 3600, 'h', seconds / 60 % 60, 'm'),
        _ => two(seconds / 86_400, 'd', seconds / 3600 % 24, 'h'),
    }
}

/// A length of time that was set, for people: all of it.
pub(crate) fn length(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// A point in time, for people.
pub(crate) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// How many of what, for people.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_json_whatever_its_numbers_and_spaces() {
        let json = |body: &[u8]| serde_json::to_string(&Content::of(body)).unwrap();
        let body = b"{ \"n\": 12345678901234567890.10,\n \"s\": \"a \\\" b\\\\\" , \"t\": [1, 2] }";
        assert_eq!(
            json(body),
            r#"{"body":{"n":12345678901234567890.10,"s":"a \" b\\","t":[1,2]}}"#
        );
        assert_eq!(json(b"plain \xe2\x82\xac"), "{\"text\":\"plain \u{20ac}\"}");
        assert_eq!(json(b""), r#"{"text":""}"#);
        assert_eq!(json(b"\x89PNG"), r#"{"bytes":"89504e47"}"#);
    }

    #[test]
    fn no_name_can_touch_a_terminal() {
        assert_eq!(printable(b"a\x1b[31m\r\n\xff\xc2\x9b"), r"a\u{1b}[31m\r\n\xff\u{9b}");
        assert_eq!(printable("\u{202e}é".as_bytes()), r"\u{202e}é");
        assert_eq!(printable("a\u{200b}c\u{ad}me 東京".as_bytes()), r"a\u{200b}c\u{ad}me 東京");
    }

    #[test]
    fn json_that_is_shown_to_people_is_still_json() {
        let shown = Content::of("[\"\u{202e}\u{7f}\u{200d}é\"]".as_bytes()).shown();
        assert_eq!(shown, r#"["\u202e\u007f\u200dé"]"#);
    }

    #[test]
    fn ages_stay_short() {
        let texts = [0.35, 9.99, 10.0, 185.0, 8040.0, 442_800.0];
        let texts = texts.map(|seconds| age(Duration::from_secs_f64(seconds)));
        assert_eq!(texts, ["0.3s", "9.9s", "10s", "3m05s", "2h14m", "5d03h"]);
    }

    #[test]
    fn a_long_name_is_cut_in_a_table() {
        assert_eq!(name(&"é".repeat(100)), "é".repeat(48) + "…");
        assert_eq!(name("acme"), "acme");
    }
}
