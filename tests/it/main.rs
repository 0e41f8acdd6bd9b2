//! The specification of fairlane, on real servers: a file for each verb, each test named as a sentence.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod model;
mod support;
