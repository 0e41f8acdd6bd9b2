//! What `metrics.rs` has, without the cargo feature `metrics`: nothing.

use std::{sync::Arc, time::Duration};

use crate::{
    Delivery, Outcome, Receipt, Token, core::Core, partition::Partition, settle::Settling,
};

pub(crate) fn describe() {}

pub(crate) fn delivered(_: &Partition, _: &[Receipt]) {}

pub(crate) fn taken(
    _: &Partition,
    _: &Arc<str>,
    _: bool,
    _: impl ExactSizeIterator<Item = Option<u64>>,
) {
}

pub(crate) fn settled<'a>(_: &Partition, _: &Settling, _: impl Iterator<Item = &'a Token>) {}

pub(crate) fn lost(_: &Partition, _: &Arc<str>) {}

pub(crate) fn handled<T>(_: &Delivery<T>, _: &Outcome, _: Duration, _: usize) {}

#[derive(Debug)]
pub(crate) struct Gauges;

impl Gauges {
    pub(crate) fn of(_: &Arc<Core>, _: Vec<Arc<str>>) -> Self {
        Self
    }
}
