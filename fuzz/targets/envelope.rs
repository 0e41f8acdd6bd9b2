//! What stands around bodies: that of stored messages, of dead letters, and of what listeners get. Any
//! bytes are read as something, and what the scripts write is read as they meant it.
#![no_main]

use std::{collections::BTreeMap, fmt::Write};

use arbitrary::Arbitrary;
use fairlane::{
    Death,
    fuzzing::{Held, letter, message, published},
};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Bytes { facet: &'a str, raw: &'a [u8] },
    Record(Record<'a>),
}

/// What a script writes down of a message.
#[derive(Debug, Arbitrary)]
struct Record<'a> {
    id: u64,
    facet: &'a str,
    topic: &'a str,
    attempts: u32,
    delivered_at: u64,
    cost: Option<f64>,
    expires_at: Option<u32>,
    due_at: Option<u32>,
    crashes: Option<u32>,
    headers: BTreeMap<String, String>,
    reason: Option<&'a str>,
    body: &'a [u8],
    died_at: u64,
    cause: u8,
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Bytes { facet, raw } => any(facet, raw),
    Input::Record(record) => written(&record),
});

fn any(facet: &str, raw: &[u8]) {
    let held = message(facet, raw);
    assert_eq!(held.facet, facet);
    assert!(raw.ends_with(&held.body));
    if let Some((_, _, held)) = letter(raw) {
        assert!(raw.ends_with(&held.body));
    }
    let (_, body) = published(raw);
    assert!(raw.ends_with(&body));
}

fn written(record: &Record<'_>) {
    let headers = match record.headers.is_empty() {
        true => Vec::new(),
        false => serde_json::to_vec(&record.headers).unwrap(),
    };
    let raw = as_the_scripts_write(record, &headers);
    let expected = || Held {
        id: record.id,
        facet: record.facet.to_owned(),
        topic: record.topic.to_owned(),
        attempts: record.attempts,
        crashes: record.crashes.unwrap_or(0),
        delivered_at: record.delivered_at,
        servable_at: record.due_at.map_or(record.delivered_at, u64::from),
        headers: record.headers.clone(),
        reason: record.reason.map(str::to_owned),
        body: record.body.to_vec(),
    };
    assert_eq!(message(record.facet, &raw), expected());

    let (died_at, cause) = (record.died_at, record.cause % 5 + 1);
    let mut dead =
        format!("{died_at} {cause} {} {}", record.facet.len(), record.facet).into_bytes();
    dead.extend_from_slice(&raw);
    let death = match cause {
        1 => Death::Attempts,
        2 => Death::Crashes,
        3 => Death::Expired,
        4 => Death::Overflow,
        _ => Death::Buried,
    };
    assert_eq!(letter(&dead), Some((died_at, death, expected())));

    // As `frame` of lua/parts/intake.lua has it.
    let mut payload = Vec::new();
    if !headers.is_empty() || record.body.first() == Some(&0) {
        payload.extend_from_slice(format!("\0{} ", headers.len()).as_bytes());
        payload.extend_from_slice(&headers);
    }
    payload.extend_from_slice(record.body);
    assert_eq!(published(&payload), (record.headers.clone(), record.body.to_vec()));
}

/// As lua/deliver.lua and `join` of lua/parts/life.lua have it.
fn as_the_scripts_write(record: &Record<'_>, headers: &[u8]) -> Vec<u8> {
    let Record { id, topic, attempts, delivered_at, .. } = record;
    let mut text = format!("{id} {attempts} {delivered_at} {}", topic.len());
    let mut say = |letter: char, value: Option<String>| {
        if let Some(value) = value {
            write!(text, ",{letter}{value}").unwrap();
        }
    };
    say('c', record.cost.map(|cost| cost.to_string()));
    say('h', Some(headers.len().to_string()).filter(|_| !headers.is_empty()));
    say('x', record.expires_at.map(|at| at.to_string()));
    say('d', record.due_at.map(|at| at.to_string()));
    say('k', record.crashes.map(|crashes| crashes.to_string()));
    say('f', record.reason.map(|reason| reason.len().to_string()));
    let text = format!("{text} {topic}");
    let parts = [text.as_bytes(), headers, record.reason.unwrap_or("").as_bytes(), record.body];
    parts.concat()
}
