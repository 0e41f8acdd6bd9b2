//! What `metrics.rs` has, without the cargo feature `metrics`: nothing.

use std::{sync::Arc, time::Duration};

use crate::{Delivery, Outcome, Receipt, Token, core::Core, settle::Settling};

pub(crate) fn describe() {}

pub(crate) fn delivered(_: &Core, _: &[Receipt]) {}

pub(crate) fn taken(
    _: &Core,
    _: &Arc<str>,
    _: bool,
    _: impl ExactSizeIterator<Item = Option<u64>>,
) {
}

pub(crate) fn settled(_: &Core, _: &Settling, _: &[Token], _: usize, _: &[usize]) {}

pub(crate) fn lost(_: &Core, _: &Arc<str>) {}

pub(crate) fn handled<T>(_: &Delivery<T>, _: &Outcome, _: Duration, _: usize) {}

#[derive(Debug)]
pub(crate) struct Gauges;

impl Gauges {
    pub(crate) fn of(_: &Arc<Core>, _: Vec<Arc<str>>) -> Self {
        Self
    }
}
