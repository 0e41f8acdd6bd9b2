//! The fault battery: deliverers and workers at work while something fails, each delivery, lease and
//! settling recorded, and the record checked against what is promised.
//!
//! `record.rs` is what is recorded, `check.rs` the promises, `load.rs` and `work.rs` who is at work;
//! the others are the faults. Each scenario prints a line, which `FAIRLANE_FAULTS_TABLE` has
//! appended to a file; with `FAIRLANE_SOAK` it lasts a minute.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod broken;
mod check;
mod clock;
mod crash;
mod failover;
mod flood;
mod link;
mod load;
mod record;
mod refusals;
// Each binary of tests needs a part of it.
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;
mod work;
mod workers;
