//! What Redis answers: whatever it is, it is read as the reply of each script, or refused with an error.
#![no_main]

use arbitrary::Arbitrary;
use fairlane::fuzzing::{answers, replies, settings};
use libfuzzer_sys::fuzz_target;
use redis::Value;

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Any(Tree<'a>),
    /// As most scripts answer.
    Flat(Vec<Leaf<'a>>),
    /// As `take` of `lua/parts/take.lua` answers.
    Taken {
        front: [Leaf<'a>; 4],
        taken: Vec<(&'a str, &'a [u8])>,
    },
    /// As CLUSTER SLOTS answers: each range, and behind it its nodes.
    Slots(Vec<([Leaf<'a>; 2], Vec<[Leaf<'a>; 3]>)>),
    /// As `lua/facet.lua` answers.
    Facets(Vec<([Leaf<'a>; 4], [Leaf<'a>; 4], [Leaf<'a>; 4])>),
    /// As `lua/doctor.lua` answers, asked for all.
    Doctor {
        next: Leaf<'a>,
        broken: Vec<Vec<Leaf<'a>>>,
        facets: Vec<[Leaf<'a>; 4]>,
        leases: Vec<Vec<Leaf<'a>>>,
        timers: Vec<Vec<Leaf<'a>>>,
        kept: [Leaf<'a>; 4],
    },
    Settings(&'a str),
    /// What is said of settings, by the place of its name.
    Said(Vec<(u8, f64)>),
}

#[derive(Debug, Arbitrary)]
enum Tree<'a> {
    Leaf(Leaf<'a>),
    Array(Vec<Tree<'a>>),
    Set(Vec<Tree<'a>>),
    Map(Vec<(Tree<'a>, Tree<'a>)>),
}

#[derive(Debug, Arbitrary)]
enum Leaf<'a> {
    Nil,
    Small(u8),
    Int(i64),
    Digits(u64),
    Bytes(&'a [u8]),
    Text(&'a str),
    Double(f64),
    Boolean(bool),
    Okay,
}

const NAMES: [&str; 19] = [
    "weight",
    "paused",
    "intake",
    "most_leased",
    "rate",
    "period",
    "burst",
    "most_waiting",
    "stopped",
    "drop_oldest",
    "ttl",
    "bury_expired",
    "max_attempts",
    "max_crashes",
    "backoff_first",
    "backoff_longest",
    "most_dead",
    "dead_for",
    "other",
];

fuzz_target!(|input: (u8, Input<'_>)| {
    let asked = usize::from(input.0) + 1;
    let reply = match input.1 {
        Input::Any(tree) => value(tree),
        Input::Flat(leaves) => flat(leaves),
        Input::Taken { front, taken } => {
            let text = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
            let taken = taken.iter().flat_map(|(facet, raw)| [text(facet.as_bytes()), text(raw)]);
            Value::Array(front.into_iter().map(leaf).chain(taken).collect())
        }
        Input::Slots(ranges) => {
            let range = |(slots, nodes): ([_; 2], Vec<_>)| {
                let slots = slots.into_iter().map(leaf);
                Value::Array(slots.chain(nodes.into_iter().map(flat)).collect())
            };
            Value::Array(ranges.into_iter().map(range).collect())
        }
        Input::Facets(facets) => {
            let facet = |(counts, turn, gate)| Value::Array([counts, turn, gate].map(flat).into());
            Value::Array(facets.into_iter().map(facet).collect())
        }
        Input::Doctor { next, broken, facets, leases, timers, kept } => {
            let each =
                |rows: Vec<Vec<Leaf<'_>>>| Value::Array(rows.into_iter().map(flat).collect());
            let facets = Value::Array(facets.into_iter().map(flat).collect());
            let there = vec![facets, each(leases), each(timers), flat(kept)];
            Value::Array(vec![leaf(next), each(broken), Value::Array(there)])
        }
        Input::Settings(text) => return settings(text),
        Input::Said(said) => {
            let said = said.into_iter().map(|(place, value)| {
                format!("{}={value}", NAMES[usize::from(place) % NAMES.len()])
            });
            return settings(&said.collect::<Vec<_>>().join(" "));
        }
    };
    replies(&reply, asked);
    answers(&reply);
});

fn value(tree: Tree<'_>) -> Value {
    let all = |trees: Vec<_>| trees.into_iter().map(value).collect();
    match tree {
        Tree::Leaf(one) => leaf(one),
        Tree::Array(trees) => Value::Array(all(trees)),
        Tree::Set(trees) => Value::Set(all(trees)),
        Tree::Map(pairs) => {
            Value::Map(pairs.into_iter().map(|(a, b)| (value(a), value(b))).collect())
        }
    }
}

fn flat<'a>(leaves: impl IntoIterator<Item = Leaf<'a>>) -> Value {
    Value::Array(leaves.into_iter().map(leaf).collect())
}

fn leaf(leaf: Leaf<'_>) -> Value {
    match leaf {
        Leaf::Nil => Value::Nil,
        Leaf::Small(number) => Value::Int(number.into()),
        Leaf::Int(number) => Value::Int(number),
        Leaf::Digits(number) => Value::BulkString(number.to_string().into_bytes()),
        Leaf::Bytes(bytes) => Value::BulkString(bytes.to_vec()),
        Leaf::Text(text) => Value::SimpleString(text.to_owned()),
        Leaf::Double(number) => Value::Double(number),
        Leaf::Boolean(is) => Value::Boolean(is),
        Leaf::Okay => Value::Okay,
    }
}
