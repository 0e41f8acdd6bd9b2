//! Messages: what is delivered, and what the closures of a broker make of it.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use redis::Value;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    Cause, Invalid, Pulled, Replicas, Undecodable,
    core::{Core, read},
    durable::Durable,
    error::Result,
    keys::check_label,
    partition::Partition,
};

/// The longest time that anything can be put off, or kept.
pub(crate) const TEN_YEARS: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
/// The longest time that a key of a delivery can hold.
const A_MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long it holds where nothing is said.
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// The most bytes of headers, as JSON.
const MOST_HEADERS: usize = 16 << 10;

/// What goes with a body: names and values, of which fairlane reads none.
pub type Headers = BTreeMap<String, String>;

/// The number of a message, unique in its namespace. Of one facet, a later delivery has a larger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub(crate) u64);

impl Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

impl FromStr for MessageId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        number(text).map(Self).ok_or(Invalid::MessageId)
    }
}

/// Reads a number as it is written, and in no other way: one number has one text.
pub(crate) fn number(text: &str) -> Option<u64> {
    match text.as_bytes() {
        [b'1'..=b'9', ..] | [b'0'] => text.parse().ok(),
        _ => None,
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
    /// How many replicas have confirmed it, where it was to be [`durable`](Message::durable).
    pub replicas: Option<u32>,
    /// How many listeners heard it; in a cluster, those of the node that ran the script.
    pub listeners: u64,
    /// Whether its [`key`](Message::key) was delivered before: then nothing was done, and this is the
    /// receipt of that delivery. (Where the answer to it was lost and the call was sent again by
    /// itself, that delivery is this one.)
    pub duplicate: bool,
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
    cost: Option<f64>,
    due: Option<Due>,
    ttl: Option<Duration>,
    key: Option<String>,
    window: Duration,
    headers: Headers,
    durable: Option<Durable>,
}

/// When a message is to be served.
#[derive(Debug, Clone, Copy)]
enum Due {
    In(Duration),
    At(SystemTime),
}

impl<'a, T> Message<'a, T> {
    /// A message that is delivered as the broker's closures say.
    pub fn new(body: &'a T) -> Self {
        Self {
            body,
            facet: None,
            topic: None,
            cost: None,
            due: None,
            ttl: None,
            key: None,
            window: WINDOW,
            headers: Headers::new(),
            durable: None,
        }
    }

    /// Waits until so many replicas have it, for at most `timeout`, 1 ms to 1 h, beyond the deadline. Where
    /// the server has an append-only file and knows WAITAOF (from Redis 7.2 and Valkey 7.2 on), it waits
    /// until it is on the disk of the server and of those replicas; otherwise until they have it in memory.
    /// Defaults to waiting for neither.
    ///
    /// Too few in that time is [`NotYetSafe`](crate::Error::NotYetSafe): then it is delivered all the same.
    /// Such calls have a connection of their own, on which one waits behind the other; what tasks deliver
    /// at the same time goes out together.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use fairlane::{Broker, Message, Replicas};
    /// # async fn example(broker: Broker, order: serde_json::Value) -> fairlane::Result<()> {
    /// let order = Message::new(&order).durable(Replicas(1), Duration::from_millis(500));
    /// assert!(broker.deliver(order).await?.replicas >= Some(1));
    /// # Ok(()) }
    /// ```
    pub fn durable(mut self, replicas: Replicas, timeout: Duration) -> Self {
        self.durable = Some(Durable::new(replicas, timeout));
        self
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

    /// How dear it is, 0.001 to 1,000,000,000, in whatever unit you take for all of them: its facet
    /// is served in turns by this. Defaults to 1.
    ///
    /// Where it is known only afterwards, see [`Delivery::ack_cost`](crate::Delivery::ack_cost).
    pub fn cost(mut self, cost: f64) -> Self {
        self.cost = Some(cost);
        self
    }

    /// Lets it join the end of its facet after this time, up to 10 years, by the clock of Redis.
    /// Defaults to none. Listeners hear it at once.
    pub fn delay(mut self, time: Duration) -> Self {
        self.due = Some(Due::In(time));
        self
    }

    /// Lets it join the end of its facet at this time, at most 10 years ahead, by the clock of
    /// Redis. One that has passed is as none. It takes the place of [`delay`](Self::delay).
    pub fn at(mut self, time: SystemTime) -> Self {
        self.due = Some(Due::At(time));
        self
    }

    /// How long it is good for, 1 ms to 10 years from its delivery: after that it is not served any
    /// more. Defaults to that of the queue, [`QueueSettings::ttl`](crate::QueueSettings::ttl).
    ///
    /// It is found when its turn comes, and counted, or put to the dead letters if the queue says
    /// so.
    pub fn ttl(mut self, time: Duration) -> Self {
        self.ttl = Some(time);
        self
    }

    /// Delivers it once: what has the same facet and the same key, of 1 to 512 bytes, does nothing
    /// while the key holds, and gets the receipt of the first, marked as
    /// [`duplicate`](Receipt::duplicate). Defaults to none.
    ///
    /// So a delivery whose answer was lost can be made again, and is so by itself within the
    /// deadline.
    pub fn key(mut self, key: impl Display) -> Self {
        self.key = Some(key.to_string());
        self
    }

    /// For how long its key holds, 1 ms to 30 days. Defaults to 10 minutes.
    pub fn window(mut self, time: Duration) -> Self {
        self.window = time;
        self
    }

    /// Gives it a header: a trace context, a content type. All of them may have 16 KiB. Listeners
    /// get them too. Defaults to none.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Checks how it is to be delivered, and writes it down as `lua/parts/intake.lua` reads it; in
    /// front of the body, what that has of it.
    fn manner(&self, now: SystemTime) -> Result<(String, Vec<u8>), Invalid> {
        let (mut how, mut front) = (String::new(), Vec::new());
        let mut say = |letter: char, value: &dyn Display| {
            let _ = write!(how, ",{letter}{value}"); // To a string it does not fail.
        };
        if let Some(cost) = self.cost {
            check_cost(cost)?;
            say('c', &cost);
        }
        if let Some(ttl) = self.ttl {
            check_time("ttl", ttl)?;
            say('x', &ttl.as_millis());
        }
        let wait = match self.due {
            None => Duration::ZERO,
            Some(Due::In(delay)) => delay,
            Some(Due::At(time)) => time.duration_since(now).unwrap_or_default(),
        };
        if wait > TEN_YEARS {
            return Err(Invalid::OutOfRange { what: "delay", range: "0 to 10 years" });
        }
        if self.ttl.is_some_and(|ttl| ttl <= wait) {
            let range = "longer than the delay of the message";
            return Err(Invalid::OutOfRange { what: "ttl", range });
        }
        match self.due {
            None => {}
            Some(Due::In(delay)) => say('d', &delay.as_micros().div_ceil(1000)),
            Some(Due::At(time)) => {
                say(
                    'a',
                    &time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis(),
                );
            }
        }
        if let Some(key) = &self.key {
            check_label("key", key)?;
            if !(Duration::from_millis(1)..=A_MONTH).contains(&self.window) {
                return Err(Invalid::OutOfRange { what: "window", range: "1 ms to 30 days" });
            }
            say('k', &key.len());
            say('w', &self.window.as_millis());
            front.extend_from_slice(key.as_bytes());
        }
        if !self.headers.is_empty() {
            let json = serde_json::to_vec(&self.headers)
                .map_err(|source| Invalid::Encode { source: Cause::new(source) })?;
            if json.len() > MOST_HEADERS {
                let len = json.len();
                return Err(Invalid::TooLong { what: "headers", len, most: MOST_HEADERS });
            }
            say('h', &json.len());
            front.extend_from_slice(&json);
        }
        Ok((how, front))
    }
}

/// Checks what a message costs.
pub(crate) fn check_cost(cost: f64) -> Result<(), Invalid> {
    match (0.001..=1e9).contains(&cost) {
        true => Ok(()),
        false => Err(Invalid::OutOfRange { what: "cost", range: "0.001 to 1,000,000,000" }),
    }
}

/// Checks a time that something waits, or is kept.
pub(crate) fn check_time(what: &'static str, time: Duration) -> Result<(), Invalid> {
    match (Duration::from_millis(1)..=TEN_YEARS).contains(&time) {
        true => Ok(()),
        false => Err(Invalid::OutOfRange { what, range: "1 ms to 10 years" }),
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
    /// Its key and its headers stand in front of it.
    pub(crate) body: Vec<u8>,
    /// How it is delivered, as `Message::manner` writes it down.
    pub(crate) how: String,
    pub(crate) keyed: bool,
    pub(crate) durable: Option<Durable>,
}

type Label<T> = Arc<dyn Fn(&T) -> String + Send + Sync>;

/// All that is generic in a broker: how a message is encoded, decoded, and whose and what it is.
pub(crate) struct Form<T> {
    facet: Option<Label<T>>,
    topic: Option<Label<T>>,
    encode: Encode<T>,
    pub(crate) decode: Decode<T>,
}

type Encode<T> = Arc<dyn Fn(&T) -> Result<Vec<u8>, Cause> + Send + Sync>;
pub(crate) type Decode<T> = Arc<dyn Fn(&[u8]) -> Result<T, Cause> + Send + Sync>;

impl<T> Clone for Form<T> {
    fn clone(&self) -> Self {
        let Self { facet, topic, encode, decode } = self;
        let (encode, decode) = (encode.clone(), decode.clone());
        Self { facet: facet.clone(), topic: topic.clone(), encode, decode }
    }
}

impl<T: Serialize + DeserializeOwned> Form<T> {
    /// JSON, with facet and topic from the body's own fields.
    pub(crate) fn json() -> Self {
        Self::coded(|message| serde_json::to_vec(message), |body| serde_json::from_slice(body))
    }
}

/// What a handler, an encoder or a decoder may fail with: any error, or a text.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl<T> Form<T> {
    pub(crate) fn encode<E: Into<AnyError>>(
        &mut self,
        encode: impl Fn(&T) -> Result<Vec<u8>, E> + Send + Sync + 'static,
    ) {
        self.encode = Arc::new(move |message| encode(message).map_err(Cause::new));
    }

    pub(crate) fn decode<E: Into<AnyError>>(
        &mut self,
        decode: impl Fn(&[u8]) -> Result<T, E> + Send + Sync + 'static,
    ) {
        self.decode = Arc::new(move |body| decode(body).map_err(Cause::new));
    }

    /// Bodies of any bytes.
    pub(crate) fn coded<E: Into<AnyError>, D: Into<AnyError>>(
        encode: impl Fn(&T) -> Result<Vec<u8>, E> + Send + Sync + 'static,
        decode: impl Fn(&[u8]) -> Result<T, D> + Send + Sync + 'static,
    ) -> Self {
        Self {
            facet: None,
            topic: None,
            encode: Arc::new(move |message| encode(message).map_err(Cause::new)),
            decode: Arc::new(move |body| decode(body).map_err(Cause::new)),
        }
    }

    pub(crate) fn facet<D: Display>(&mut self, of: impl Fn(&T) -> D + Send + Sync + 'static) {
        self.facet = Some(Arc::new(move |message| of(message).to_string()));
    }

    pub(crate) fn topic<D: Display>(&mut self, of: impl Fn(&T) -> D + Send + Sync + 'static) {
        self.topic = Some(Arc::new(move |message| of(message).to_string()));
    }

    /// Encodes a message and checks all of it.
    pub(crate) fn ready(&self, message: Message<'_, T>, core: &Core) -> Result<Ready, Invalid> {
        let body = (self.encode)(message.body).map_err(|source| Invalid::Encode { source })?;
        if body.len() > core.max_body {
            return Err(Invalid::TooLong { what: "body", len: body.len(), most: core.max_body });
        }
        let label = |given: Option<String>, of: &Option<Label<T>>| {
            given.or_else(|| Some(of.as_ref()?(message.body)))
        };
        let (how, mut front) = message.manner(core.now())?;
        let keyed = message.key.is_some();
        let durable = message.durable;
        durable.map_or(Ok(()), Durable::check)?;
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
        if !front.is_empty() {
            front.extend_from_slice(&body);
        }
        let body = if front.is_empty() { body } else { front };
        Ok(Ready { facet, topic, body, how, keyed, durable })
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
    /// How many of these leases ended.
    pub(crate) crashes: u32,
    /// Ms since 1970, by the clock of Redis.
    pub(crate) delivered_at: u64,
    /// The same; of one that was delayed, when it was due.
    pub(crate) servable_at: u64,
    pub(crate) headers: Headers,
    /// Why it failed the last time.
    pub(crate) reason: Option<String>,
    pub(crate) body: Arc<[u8]>,
}

impl Stored {
    /// Reads `<id> <attempts> <delivered at> <bytes of the topic>[,<letter><value> ..] <topic>
    /// <headers><reason><body>`. What somebody else put into a list is all body, and has the id 0.
    pub(crate) fn parse(facet: String, raw: &[u8]) -> Self {
        let ([id, attempts, delivered_at, topic], more, rest) =
            head(raw).unwrap_or(([0; 4], "", raw));
        let said = |letter| {
            let mut all = more.split(',').filter_map(|said| said.strip_prefix(letter));
            all.next().and_then(|value| value.parse::<usize>().ok())
        };
        let mut rest = rest;
        let mut next = |len: usize| {
            let (part, behind) = rest.split_at_checked(len).unwrap_or((b"", rest));
            rest = behind;
            part
        };
        let topic = next(usize::try_from(topic).unwrap_or(usize::MAX));
        let headers = read_headers(next(said('h').unwrap_or(0)));
        let reason = said('f').map(|len| String::from_utf8_lossy(next(len)).into_owned());
        Self {
            id: MessageId(id),
            facet,
            topic: String::from_utf8_lossy(topic).into_owned(),
            attempts: attempts.try_into().unwrap_or(u32::MAX),
            crashes: said('k').unwrap_or(0).try_into().unwrap_or(u32::MAX),
            delivered_at,
            servable_at: said('d').map_or(delivered_at, |due| due as u64),
            headers,
            reason,
            body: rest.into(),
        }
    }

    /// Reads a facet and a message of it, as the scripts that serve return them.
    pub(crate) fn read(facet: Value, raw: &[u8]) -> Result<Self> {
        let facet: Vec<u8> = read(facet)?;
        Ok(Self::parse(String::from_utf8_lossy(&facet).into_owned(), raw))
    }

    /// Gives it the number by which users know it, in place of the one that its partition has.
    pub(crate) fn is_of(&mut self, partition: &Partition) {
        self.id = partition.id(self.id.0);
    }

    /// Decodes the body.
    pub(crate) fn decode<T>(&self, decode: &Decode<T>) -> Result<T, Undecodable> {
        decode(&self.body).map_err(|source| Undecodable {
            id: Some(self.id),
            topic: self.topic.clone(),
            body: self.body.clone(),
            source,
        })
    }
}

/// Reads headers; what are none is as no headers.
pub(crate) fn read_headers(json: &[u8]) -> Headers {
    match json {
        b"" => Headers::new(),
        json => serde_json::from_slice(json).unwrap_or_default(),
    }
}

/// The four numbers that a stored message begins with, what is said behind the last of them, and
/// what follows.
fn head(raw: &[u8]) -> Option<([u64; 4], &str, &[u8])> {
    let (mut numbers, mut more, mut rest) = ([0; 4], "", raw);
    for (place, number) in numbers.iter_mut().enumerate() {
        let end = rest.iter().position(|byte| *byte == b' ').filter(|end| *end > 0)?;
        let mut digits = std::str::from_utf8(&rest[..end]).ok()?;
        if let (3, Some((number, said))) = (place, digits.split_once(',')) {
            (digits, more) = (number, said);
        }
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        // What is not ours may have more digits than a number can.
        *number = digits.parse().unwrap_or(u64::MAX);
        rest = &rest[end + 1..];
    }
    Some((numbers, more, rest))
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
    fn the_number_of_a_message_has_one_text() {
        for text in ["0", "7", "18446744073709551615"] {
            assert_eq!(text.parse::<MessageId>().unwrap().to_string(), text);
        }
        for text in ["", "07", "00", "+7", "-7", "7 ", "18446744073709551616"] {
            assert!(matches!(text.parse::<MessageId>(), Err(Invalid::MessageId)), "{text}");
        }
    }

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
