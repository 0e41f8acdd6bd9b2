//! The specification of the `fairlane` command: the real program, on real servers. What it prints is
//! compared with what it printed before, in `snapshots`: `INSTA_UPDATE=always` writes these anew.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bench;
mod bulk;
mod cluster;
mod dead;
mod deliver;
mod demo;
mod doctor;
mod errors;
mod facets;
mod generate;
mod limit;
mod listen;
mod pause;
mod peek;
mod purge;
mod queues;
mod redis;
mod settle;
mod stats;
mod support;
mod take;
mod terminal;
mod tls;
mod top;
mod why;
mod work;
