//! The specification of fairlane, on real servers: a file for each verb, each test named as a
//! sentence.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ack;
mod acl;
mod ancestor;
mod api;
mod by_weight;
mod cluster;
mod cluster_server;
mod configure;
mod connect;
mod connection;
mod cost;
mod credentials;
mod dead_letters;
mod delay;
mod deliver;
mod destroy;
mod doctor;
mod durable;
mod embedded;
mod examples;
mod extend;
mod facets;
mod fail;
mod fairness;
mod faults;
mod gather;
mod headers;
mod health;
mod in_order;
mod key;
mod lease;
mod limits;
mod listen;
#[cfg(feature = "metrics")]
mod metrics;
mod model;
mod nack;
mod partitions;
mod peek;
mod pull;
mod purge;
mod queues;
mod register_queue;
mod sentinel_server;
mod sentinels;
mod settings;
mod stats;
// Each binary of tests needs a part of it.
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;
mod testing;
#[cfg(all(feature = "tls", feature = "cluster"))]
mod tls;
mod ttl;
mod unregister_queue;
mod versions;
mod wait;
mod why;
mod worker;
