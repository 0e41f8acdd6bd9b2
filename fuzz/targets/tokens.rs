//! Tokens and numbers of messages as text: whatever the text is, and one that is right.
#![no_main]

use std::fmt::Write;

use arbitrary::Arbitrary;
use fairlane::{MessageId, Token};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Text(&'a str),
    Token { queue: Vec<u8>, id: u64, lease: u64 },
}

/// What names of queues are made of.
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

fuzz_target!(|input: Input<'_>| match input {
    // What is read is written as it was.
    Input::Text(text) => {
        if let Ok(token) = text.parse::<Token>() {
            assert_eq!(token.to_string(), text);
        }
        if let Ok(id) = text.parse::<MessageId>() {
            assert_eq!(id.to_string(), text);
        }
    }
    // What is written is read.
    Input::Token { queue, id, lease } => {
        let mut text: String = queue
            .iter()
            .take(128)
            .map(|byte| char::from(LETTERS[usize::from(*byte) % 65]))
            .collect();
        let named = !text.is_empty();
        write!(text, "/{id}/{lease}").unwrap();
        match text.parse::<Token>() {
            Ok(token) => assert_eq!((token.to_string(), named), (text, true)),
            Err(_) => assert!(!named, "{text}"),
        }
        let id = id.to_string();
        assert_eq!(id.parse::<MessageId>().unwrap().to_string(), id);
    }
});
