//! A Redis Cluster: which of its nodes serves a slot.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, Value};
use tokio::time::timeout;

use crate::{
    link::{Settings, send},
    random::share,
};

/// The slots that a cluster has.
const SLOTS: u16 = 16384;

/// Where a node listens.
pub(crate) type Node = (String, u16);

/// What all connections of a broker know of a cluster.
pub(crate) struct Cluster {
    settings: Arc<Settings>,
    /// What the URL named.
    seeds: Vec<ConnectionInfo>,
    /// Held while a node is asked, so that many connections ask once.
    map: tokio::sync::Mutex<Map>,
    /// The number of the map that led nowhere.
    stale: Mutex<u64>,
}

#[derive(Default)]
pub(crate) struct Map {
    /// Counts how often it was made anew; 0 for none yet.
    number: u64,
    /// First slot, last slot, and the node that serves them.
    pub(crate) ranges: Vec<(u16, u16, Node)>,
    /// All nodes, replicas too.
    pub(crate) nodes: BTreeSet<Node>,
}

impl Map {
    /// Reads what CLUSTER SLOTS says. A node may not know by which address it is reached: by that by
    /// which the one was that was asked.
    pub(crate) fn read(slots: Value, (host, port): (&str, u16)) -> Result<Self, RedisError> {
        let slots: Vec<Vec<Value>> = redis::from_redis_value(slots)?;
        let mut map = Self::default();
        for range in slots {
            let mut range = range.into_iter();
            let mut next = || range.next().unwrap_or(Value::Nil);
            let (first, last) =
                (redis::from_redis_value(next())?, redis::from_redis_value(next())?);
            for (place, said) in range.enumerate() {
                let said: Vec<Value> = redis::from_redis_value(said)?;
                let mut said = said.into_iter();
                let mut next = || said.next().unwrap_or(Value::Nil);
                let at: Option<String> = redis::from_redis_value(next())?;
                let at = at.filter(|at| !at.is_empty() && at != "?").unwrap_or_else(|| host.into());
                let node = (at, redis::from_redis_value::<u16>(next())?);
                let node = if node.1 == 0 { (node.0, port) } else { node };
                map.nodes.insert(node.clone());
                if place == 0 {
                    map.ranges.push((first, last, node)); // The others are its replicas.
                }
            }
        }
        Ok(map)
    }
}

/// The slot of the keys that have this between their braces.
pub(crate) fn slot_of(tag: &str) -> u16 {
    crc::Crc::<u16>::new(&crc::CRC_16_XMODEM).checksum(tag.as_bytes()) % SLOTS
}

impl Cluster {
    pub(crate) fn new(settings: Arc<Settings>, seeds: Vec<ConnectionInfo>) -> Self {
        Self { settings, seeds, map: tokio::sync::Mutex::default(), stale: Mutex::default() }
    }

    /// The node that serves a slot, and the number of the map that says so.
    pub(crate) async fn node(&self, slot: u16) -> Result<(ConnectionInfo, u64), RedisError> {
        let mut map = self.map.lock().await;
        if map.number <= *self.stale.lock().unwrap_or_else(PoisonError::into_inner) {
            let number = map.number + 1;
            *map = Map { number, ..self.ask(&map.nodes).await? };
        }
        let serves = |(first, last, _): &&(u16, u16, Node)| (*first..=*last).contains(&slot);
        match map.ranges.iter().find(serves) {
            Some((_, _, node)) => Ok((self.at(node), map.number)),
            None => {
                self.stale(map.number);
                Err((ErrorKind::ClusterConnectionNotFound, "no node serves the slot").into())
            }
        }
    }

    /// This map has led to a node that is not there, or does not serve the slot: the next call asks
    /// anew.
    pub(crate) fn stale(&self, number: u64) {
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        *stale = number.max(*stale);
    }

    /// Asks one node after the other, those that were known and those of the URL, until one answers.
    async fn ask(&self, known: &BTreeSet<Node>) -> Result<Map, RedisError> {
        let mut nodes: Vec<_> = known.iter().map(|node| self.at(node)).collect();
        nodes.extend(self.seeds.iter().cloned());
        let begin = (share() * nodes.len() as f64) as usize;
        nodes.rotate_left(begin);
        let mut error =
            (ErrorKind::ClusterConnectionNotFound, "no node of the cluster answers").into();
        for node in nodes {
            match timeout(self.settings.patience, self.ask_one(&node)).await {
                Ok(Ok(map)) => return Ok(map),
                Ok(Err(failed)) => error = failed,
                Err(_) => {}
            }
        }
        Err(error)
    }

    async fn ask_one(&self, node: &ConnectionInfo) -> Result<Map, RedisError> {
        let mut known = self.settings.connect(node.clone(), |_| Ok::<_, RedisError>(())).await?;
        let slots = send(&mut known.connection, redis::cmd("CLUSTER").arg("SLOTS")).await?;
        let (host, port) = match node.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.as_str(), *port)
            }
            _ => ("", 0),
        };
        Map::read(slots, (host, port))
    }

    /// A node, reached as those of the URL are.
    fn at(&self, (host, port): &Node) -> ConnectionInfo {
        let seed = &self.seeds[0];
        let mut addr = seed.addr().clone();
        if let ConnectionAddr::Tcp(at, number)
        | ConnectionAddr::TcpTls { host: at, port: number, .. } = &mut addr
        {
            (*at, *number) = (host.clone(), *port);
        }
        seed.clone().set_addr(addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // As CLUSTER KEYSLOT has them.
        assert_eq!(slot_of("123456789"), 12739);
        assert_eq!(slot_of("fairlane"), 9834);
    }

    #[test]
    fn a_node_that_does_not_know_its_address_is_where_it_was_asked() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |at, port| Value::Array(vec![at, Value::Int(port), text("id")]);
        let range = |first, last, nodes: &[Value]| {
            Value::Array([&[Value::Int(first), Value::Int(last)], nodes].concat())
        };
        let slots = Value::Array(vec![
            range(0, 8000, &[node(Value::Nil, 7001), node(text("b"), 7002)]),
            range(8001, 16383, &[node(text("?"), 0)]),
        ]);
        let map = Map::read(slots, ("a", 7000)).unwrap();
        let [one, two, other] =
            [("a", 7001), ("a", 7000), ("b", 7002)].map(|(host, port)| (host.to_owned(), port));
        assert_eq!(map.ranges, [(0, 8000, one.clone()), (8001, 16383, two.clone())]);
        assert_eq!(map.nodes, BTreeSet::from([one, two, other]));
        for odd in [Value::Okay, Value::Array(vec![Value::Int(0)]), range(-1, 0, &[])] {
            assert!(Map::read(odd.clone(), ("a", 7000)).is_err(), "{odd:?}");
        }
    }
}
