//! What several commands are given, and how it is read.

use std::{str::FromStr, time::Duration};

use clap::builder::NonEmptyStringValueParser;
use fairlane::{Backoff, Rate};

/// A setting that can be taken back: `none`, or a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Setting<T>(pub(crate) Option<T>);

impl<T: FromStr<Err: ToString>> FromStr for Setting<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            text => text.parse().map(|value| Self(Some(value))).map_err(|error| error.to_string()),
        }
    }
}

/// The name of a facet.
pub(crate) fn facet() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}

/// A length of time: `500ms`, `30s`, `1h 30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; say 500ms, 30s, 5m or 2h"))
}

/// A length of time, or `none`.
pub(crate) fn time(text: &str) -> Result<Setting<Duration>, String> {
    if text == "none" { Ok(Setting(None)) } else { duration(text).map(|time| Setting(Some(time))) }
}

/// The first wait and the longest: `1s..10m`.
pub(crate) fn backoff(text: &str) -> Result<Backoff, String> {
    let (first, longest) = text.split_once("..").ok_or("say FIRST..LONGEST, as 1s..10m")?;
    Ok(Backoff { first: duration(first)?, longest: duration(longest)? })
}

/// So many in a time: `100/1m`, `10/s`; or `none`.
pub(crate) fn rate(text: &str) -> Result<Setting<Rate>, String> {
    if text == "none" {
        return Ok(Setting(None));
    }
    let form = "say COUNT/PERIOD, as 100/1m or 10/s, or none";
    let (count, period) = text.split_once('/').ok_or(form)?;
    let count = count.parse().map_err(|_| form)?;
    let one = if period.starts_with(|c: char| c.is_ascii_digit()) { "" } else { "1" };
    let period = humantime::parse_duration(&format!("{one}{period}")).map_err(|_| form)?;
    Ok(Setting(Some(Rate::new(count, period))))
}

/// A header: `NAME=VALUE`.
pub(crate) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("say NAME=VALUE")?;
    if name.is_empty() { Err("the name is empty".into()) } else { Ok((name.into(), value.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_and_a_period() {
        let second = Duration::from_secs(1);
        assert_eq!(rate("10/s"), Ok(Setting(Some(Rate::new(10, second)))));
        assert_eq!(rate("100/1m"), Ok(Setting(Some(Rate::new(100, 60 * second)))));
        assert_eq!(rate("none"), Ok(Setting(None)));
        for bad in ["", "10", "/s", "10/", "x/s", "-1/s", "10/parsec"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn none_takes_a_setting_back() {
        assert_eq!("none".parse(), Ok(Setting::<u32>(None)));
        assert_eq!("5".parse(), Ok(Setting(Some(5u32))));
        assert!("five".parse::<Setting<u32>>().is_err());
    }
}
