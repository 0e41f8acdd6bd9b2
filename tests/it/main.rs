//! The specification of fairlane, on real servers: a file for each verb, each test named as a
//! sentence.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ack;
mod ancestor;
mod api;
mod by_weight;
mod configure;
mod connect;
mod deliver;
mod embedded;
mod examples;
mod extend;
mod fairness;
mod faults;
mod in_order;
mod lease;
mod listen;
mod model;
mod nack;
mod pull;
mod queues;
mod register_queue;
mod support;
mod unregister_queue;
mod wait;
