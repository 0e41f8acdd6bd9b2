//! Messages: what is delivered, and what the closures of a broker make of it.

use std::{
    fmt::{self, Display},
    sync::Arc,
};

use redis::Value;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    Invalid, Pulled, Undecodable,
    core::{Core, read},
    error::Result,
    keys::check_label,
};

/// The number of a message, unique in its namespace; a later delivery has a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub(crate) u64);

impl Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

/// What became of a delivery.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Receipt {
    /// The number of the message.
    pub id: MessageId,
    /// The queues it went to, in the order of their names. Empty when no route matches its topic.
    pub queues: Arc<[String]>,
    /// How many listeners heard it; in a cluster, those of the node that ran the script.
    pub listeners: u64,
}

/// A message and how to deliver it. A `&T` is one with all defaults.
///
/// ```no_run
/// # use fairlane::{Broker, Message};
/// # async fn example(broker: Broker, body: serde_json::Value) -> fairlane::Result<()> {
/// broker.deliver(Message::new(&body).facet("acme").topic("page:home")).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a message does nothing until it is delivered"]
pub struct Message<'a, T> {
    body: &'a T,
    facet: Option<String>,
    topic: Option<String>,
}

impl<'a, T> Message<'a, T> {
    /// A message that is delivered as the broker's closures say.
    pub fn new(body: &'a T) -> Self {
        Self { body, facet: None, topic: None }
    }

    /// Whose it is: 1 to 512 bytes, whatever they are. Defaults to what the broker's closure gives.
    pub fn facet(mut self, facet: impl Display) -> Self {
        self.facet = Some(facet.to_string());
        self
    }

    /// What it is about: 1 to 512 bytes, whatever they are. Defaults to what the broker's closure
    /// gives.
    pub fn topic(mut self, topic: impl Display) -> Self {
        self.topic = Some(topic.to_string());
        self
    }
}

impl<'a, T> From<&'a T> for Message<'a, T> {
    fn from(body: &'a T) -> Self {
        Self::new(body)
    }
}

/// A message that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) facet: String,
    pub(crate) topic: String,
    pub(crate) body: Vec<u8>,
}

type Label<T> = Arc<dyn Fn(&T) -> String + Send + Sync>;

/// All that is generic in a broker: how a message is encoded, decoded, and whose and what it is.
pub(crate) struct Form<T> {
    facet: Option<Label<T>>,
    topic: Option<Label<T>>,
    encode: fn(&T) -> Result<Vec<u8>, serde_json::Error>,
    pub(crate) decode: Decode<T>,
}

pub(crate) type Decode<T> = fn(&[u8]) -> Result<T, serde_json::Error>;

impl<T> Clone for Form<T> {
    fn clone(&self) -> Self {
        Self { facet: self.facet.clone(), topic: self.topic.clone(), ..*self }
    }
}

impl<T: Serialize + DeserializeOwned> Form<T> {
    /// JSON, with facet and topic from the body's own fields.
    pub(crate) fn json() -> Self {
        Self {
            facet: None,
            topic: None,
            encode: |message| serde_json::to_vec(message),
            decode: |body| serde_json::from_slice(body),
        }
    }
}

impl<T> Form<T> {
    pub(crate) fn facet<D: Display>(&mut self, of: impl Fn(&T) -> D + Send + Sync + 'static) {
        self.facet = Some(Arc::new(move |message| of(message).to_string()));
    }

    pub(crate) fn topic<D: Display>(&mut self, of: impl Fn(&T) -> D + Send + Sync + 'static) {
        self.topic = Some(Arc::new(move |message| of(message).to_string()));
    }

    /// Encodes a message and checks all of it.
    pub(crate) fn ready(&self, message: Message<'_, T>, core: &Core) -> Result<Ready, Invalid> {
        let body = (self.encode)(message.body)
            .map_err(|source| Invalid::Encode { source: source.into() })?;
        if body.len() > core.max_body {
            return Err(Invalid::TooLong { what: "body", len: body.len(), most: core.max_body });
        }
        let label = |given: Option<String>, of: &Option<Label<T>>| {
            given.or_else(|| Some(of.as_ref()?(message.body)))
        };
        let mut facet = label(message.facet, &self.facet);
        let mut topic = label(message.topic, &self.topic);
        if facet.is_none() || topic.is_none() {
            let fields = Fields::of(&body);
            facet = facet.or_else(|| text_of(fields.facet?));
            topic = topic.or_else(|| text_of(fields.topic?));
        }
        let facet = facet.ok_or(Invalid::Missing { field: "facet" })?;
        let topic = topic.ok_or(Invalid::Missing { field: "topic" })?;
        check_label("facet", &facet)?;
        check_label("topic", &topic)?;
        Ok(Ready { facet, topic, body })
    }
}

/// The fields of a body that say whose and what it is, where no closure does. A body that is no
/// object has none.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    facet: Option<&'a RawValue>,
    #[serde(borrow, default)]
    topic: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    fn of(body: &'a [u8]) -> Self {
        let object = body.first() == Some(&b'{'); // An array would do for a struct, too.
        let fields = object.then(|| serde_json::from_slice(body).ok()).flatten();
        fields.unwrap_or(Self { facet: None, topic: None })
    }
}

/// A string as it is, a number or a boolean as its JSON text, nothing else.
fn text_of(value: &RawValue) -> Option<String> {
    match value.get().as_bytes().first()? {
        b'"' => serde_json::from_str(value.get()).ok(),
        b'-' | b'0'..=b'9' | b't' | b'f' => Some(value.get().to_owned()),
        _ => None,
    }
}

/// A message as a queue holds it.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: MessageId,
    pub(crate) facet: String,
    pub(crate) topic: String,
    /// How often it was leased before.
    pub(crate) attempts: u32,
    /// Ms since 1970, by the clock of Redis.
    pub(crate) delivered_at: u64,
    pub(crate) body: Arc<[u8]>,
}

impl Stored {
    /// Reads `<id> <attempts> <delivered at> <bytes of the topic> <topic><body>`. What somebody
    /// else put into a list is all body, and has the id 0.
    pub(crate) fn parse(facet: String, raw: &[u8]) -> Self {
        let ([id, attempts, delivered_at, topic], rest) = head(raw).unwrap_or(([0; 4], raw));
        let topic = usize::try_from(topic).unwrap_or(usize::MAX);
        let (topic, body) = rest.split_at_checked(topic).unwrap_or((b"", rest));
        Self {
            id: MessageId(id),
            facet,
            topic: String::from_utf8_lossy(topic).into_owned(),
            attempts: attempts.try_into().unwrap_or(u32::MAX),
            delivered_at,
            body: body.into(),
        }
    }

    /// Reads a facet and a message of it, as the scripts that serve return them.
    pub(crate) fn read(facet: Value, raw: &[u8]) -> Result<Self> {
        let facet: Vec<u8> = read(facet)?;
        Ok(Self::parse(String::from_utf8_lossy(&facet).into_owned(), raw))
    }

    /// Decodes the body.
    pub(crate) fn decode<T>(&self, decode: Decode<T>) -> Result<T, Undecodable> {
        decode(&self.body).map_err(|source| Undecodable {
            id: Some(self.id),
            topic: self.topic.clone(),
            body: self.body.clone(),
            source: Arc::new(source),
        })
    }
}

/// The four numbers that a stored message begins with, and what follows them.
fn head(raw: &[u8]) -> Option<([u64; 4], &[u8])> {
    let (mut numbers, mut rest) = ([0; 4], raw);
    for number in &mut numbers {
        let end = rest.iter().position(|byte| *byte == b' ').filter(|end| *end > 0)?;
        let digits = std::str::from_utf8(&rest[..end]).ok()?;
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        // What is not ours may have more digits than a number can.
        *number = digits.parse().unwrap_or(u64::MAX);
        rest = &rest[end + 1..];
    }
    Some((numbers, rest))
}

impl From<Stored> for Pulled {
    fn from(stored: Stored) -> Self {
        let Stored { id, facet, topic, body, .. } = stored;
        Self { id, facet, topic, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_list_holds_is_read_whoever_put_it_there() {
        let parse = |raw: &[u8]| {
            let stored = Stored::parse("a".into(), raw);
            (stored.id.0, stored.attempts, stored.delivered_at, stored.topic, stored.body.to_vec())
        };
        assert_eq!(parse(b"7 2 99 3 t:1{}"), (7, 2, 99, "t:1".into(), b"{}".to_vec()));
        assert_eq!(parse(b"7 0 99 0 "), (7, 0, 99, String::new(), Vec::new()));
        assert_eq!(parse(b"7 0 99 9 short"), (7, 0, 99, String::new(), b"short".to_vec()));
        for odd in
            [&b""[..], b"7", b"7 0 99", b"7 x 99 0 ", b" 0 99 0 ", b"-7 0 99 0 ", b"\xff 0 9 0 "]
        {
            assert_eq!(parse(odd), (0, 0, 0, String::new(), odd.to_vec()));
        }
        let large = "9".repeat(30);
        let read = parse(format!("{large} {large} 1 {large} x").as_bytes());
        assert_eq!(read, (u64::MAX, u32::MAX, 1, String::new(), b"x".to_vec()));
    }
}
