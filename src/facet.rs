//! One facet of a queue: its settings.

use std::sync::Arc;

use crate::{
    Invalid,
    connection::Repeat,
    core::Core,
    error::Result,
    keys::{check_label, check_name},
    opaque_debug, scripts,
};

/// One facet of a queue; made by [`Queue::facet`](crate::Queue::facet). It need not have any
/// message.
#[derive(Clone)]
pub struct Facet {
    pub(crate) core: Arc<Core>,
    pub(crate) queue: Arc<str>,
    pub(crate) name: Arc<str>,
}

opaque_debug!(Facet);

impl Facet {
    /// Sets its weight, 0.001 to 1000: how many messages it is served for each one of a facet of
    /// weight 1, while both have messages waiting. Defaults to 1.
    ///
    /// It holds at once, also for what is waiting, and until it is set again, with the queue
    /// registered or not.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the weight is out of its range, or the facet or the
    /// queue has no valid name; [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not
    /// registered and holds nothing.
    pub async fn set_weight(&self, weight: f64) -> Result<()> {
        check_name(&self.queue)?;
        check_label("facet", &self.name)?;
        if !(0.001..=1000.0).contains(&weight) {
            return Err(Invalid::OutOfRange { what: "weight", range: "0.001 to 1000" }.into());
        }
        let mut command = self.core.command(&scripts::CONFIGURE, &[&self.queue]);
        command.arg(&*self.queue).arg(&*self.name).arg(weight.to_string());
        let call = self.core.call(&scripts::CONFIGURE, &command, Repeat::Safe).await;
        call.map(drop).map_err(|error| error.of(&self.queue))
    }
}
