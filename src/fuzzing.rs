//! What the targets in `fuzz/` call: all that reads what Redis holds and what it answers. No part of the API.

use std::{sync::Arc, time::Instant};

use redis::{ConnectionAddr, ConnectionInfo, Value};

use crate::{
    Death, Error, FacetSettings, Headers, QueueSettings,
    address::Address,
    cluster::Map,
    core::read,
    dead_letters::{self, Letter},
    deliver::receipts,
    doctor::{read_seen, read_whole},
    durable::Confirmed,
    error::Result,
    layout::Layout,
    listener::unframe,
    message::Stored,
    settings::{self, Settings},
    settle::read_settled,
    stats::{read_found, read_names, read_peeked, read_stats},
    take::read_part,
};

/// A message as it was read from what a queue holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    /// 0 for what is none of fairlane's.
    pub id: u64,
    /// Whose it is.
    pub facet: String,
    /// What it is about.
    pub topic: String,
    /// How often it was leased before.
    pub attempts: u32,
    /// How many of these leases ended.
    pub crashes: u32,
    /// Ms since 1970.
    pub delivered_at: u64,
    /// The same.
    pub servable_at: u64,
    /// What goes with the body.
    pub headers: Headers,
    /// Why it failed the last time.
    pub reason: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl From<Stored> for Held {
    fn from(stored: Stored) -> Self {
        Self {
            id: stored.id.0,
            facet: stored.facet,
            topic: stored.topic,
            attempts: stored.attempts,
            crashes: stored.crashes,
            delivered_at: stored.delivered_at,
            servable_at: stored.servable_at,
            headers: stored.headers,
            reason: stored.reason,
            body: stored.body.to_vec(),
        }
    }
}

/// Reads a stored message.
pub fn message(facet: &str, raw: &[u8]) -> Held {
    Stored::parse(facet.to_owned(), raw).into()
}

/// Reads a dead letter: when it died, in ms since 1970, why, and the message.
pub fn letter(raw: &[u8]) -> Option<(u64, Death, Held)> {
    let Letter { died_at, death, stored } = Letter::parse(raw).ok()?;
    Some((died_at, death, stored.into()))
}

/// Reads what listeners are published: headers and body.
pub fn published(payload: &[u8]) -> (Headers, Vec<u8>) {
    let (headers, body) = unframe(payload.into());
    (headers, body.to_vec())
}

/// Reads settings. What may be set is read as it was written.
pub fn settings(text: &str) {
    fn check<S: Settings + std::fmt::Debug>(text: &str) {
        let read = S::parse(text);
        if read.check().is_ok() {
            assert_eq!(S::parse(&read.text()), read);
        }
    }
    check::<QueueSettings>(text);
    check::<FacetSettings>(text);
}

/// A server that a URL names.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    /// Or the path of its socket.
    pub host: String,
    /// 0 for a socket.
    pub port: u16,
    /// Who a broker is for it.
    pub user: Option<String>,
    /// The same.
    pub password: Option<String>,
    /// The number of its database.
    pub database: i64,
}

impl From<ConnectionInfo> for Server {
    fn from(server: ConnectionInfo) -> Self {
        let (host, port) = match server.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.clone(), *port)
            }
            other => (other.to_string(), 0),
        };
        let settings = server.redis_settings();
        Self {
            host,
            port,
            user: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
            database: settings.db(),
        }
    }
}

/// Reads a URL: the servers that it names, and of those that are sentinels the service and its
/// primary, without its host. Otherwise all that the error says.
pub fn address(url: &str) -> Result<(Vec<Server>, Option<(String, Server)>), String> {
    let all = |servers: Vec<ConnectionInfo>| servers.into_iter().map(Server::from).collect();
    match Address::parse(url) {
        Ok(Address::Server(server)) => Ok((vec![server.into()], None)),
        Ok(Address::Cluster(nodes)) => Ok((all(nodes), None)),
        Ok(Address::Sentinel { sentinels, service, primary }) => {
            let primary = Server { host: String::new(), ..primary.into() };
            Ok((all(sentinels), Some((service, primary))))
        }
        Err(error) => Err(format!("{error} {error:?}")),
    }
}

/// Reads the layout of a namespace: how it is written, and its number of partitions. One that is
/// none, or newer, is an error that says so.
pub fn layout(text: &str) -> Option<(String, u64)> {
    let read = text.parse::<Layout>();
    if let Err(Error::Unsupported { .. }) = read {
        return None;
    }
    or_refused(read).map(|layout| (layout.to_string(), layout.partitions))
}

/// Reads what CLUSTER SLOTS says, and what WAIT and WAITAOF do.
pub fn answers(answer: &Value) {
    let asked = ("asked", 7);
    if let Ok(map) = Map::read(answer.clone(), asked) {
        assert!(map.ranges.iter().all(|(_, _, node)| map.nodes.contains(node)));
        assert!(map.nodes.iter().all(|(host, port)| !host.is_empty() && *port > 0));
    }
    for for_disks in [false, true] {
        or_refused(Confirmed::read(answer.clone(), for_disks));
    }
}

/// Reads a reply as that of each script, to a call with so many messages, tokens or facets, at least
/// one. What is not a reply of that script is an error that says so.
pub fn replies(reply: &Value, asked: usize) {
    let values = || read::<Vec<Value>>(reply.clone());
    let queues: Arc<[String]> = Arc::new(["queue".to_owned()]);
    let facets = vec!["facet"; asked];

    or_refused(read_part(reply.clone(), Instant::now()));
    if let Some(receipts) = or_refused(receipts(reply.clone(), vec![queues; asked])) {
        assert_eq!(receipts.len(), asked);
    }
    if let Some(settled) = or_refused(read_settled(reply.clone(), asked)) {
        assert!((1..=asked).contains(&settled.len()));
    }
    if let Some(found) = or_refused(values().and_then(|values| read_found(values, &facets))) {
        assert!((1..=asked).contains(&found.len()));
    }
    or_refused(values().and_then(read_peeked));
    or_refused(values().and_then(read_stats));
    or_refused(values().and_then(read_names));
    or_refused(values().and_then(dead_letters::read_page));
    or_refused(settings::read_page(reply.clone()));
    let seen =
        or_refused(read_seen(reply.clone())).and_then(|(seen, _)| or_refused(read_whole(seen)));
    seen.flatten().map(|(there, kept)| there.wrong(&kept));
}

fn or_refused<T>(read: Result<T>) -> Option<T> {
    let refused = |error: &Error| matches!(error, Error::Server { code, .. } if code == "REPLY");
    read.inspect_err(|error| assert!(refused(error), "{error:?}")).ok()
}
