//! One facet of a queue: its settings.

use std::sync::Arc;

use crate::{
    FacetStats, Invalid,
    connection::Repeat,
    core::Core,
    error::{Result, unexpected},
    keys::{check_label, check_name},
    opaque_debug, scripts,
    stats::facet_stats,
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
        check_weight(weight)?;
        configure(&self.core, &self.queue, &self.name, Setting::Weight(weight)).await
    }

    /// Serves nothing of it until it is resumed. Messages are still delivered to it, what is leased
    /// goes on, and it keeps its turn.
    ///
    /// It need not have any message, and its queue need not be registered: the pause holds for when
    /// they come. Twice is as good as once.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the facet or the queue has no valid name;
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) while the queue is being destroyed.
    pub async fn pause(&self) -> Result<()> {
        self.set_paused(true).await
    }

    /// Serves it again, from its turn where that is still ahead of what was served meanwhile,
    /// otherwise as one that comes anew. Workers that wait wake up.
    ///
    /// # Errors
    /// As for [`pause`](Self::pause).
    pub async fn resume(&self) -> Result<()> {
        self.set_paused(false).await
    }

    /// How it stands. One that is not there has nothing waiting, and is quiet.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the facet or the queue has no valid name;
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not registered and holds
    /// nothing.
    pub async fn stats(&self) -> Result<FacetStats> {
        check_name(&self.queue)?;
        check_label("facet", &self.name)?;
        let mut found = facet_stats(&self.core, &self.queue, &[self.name.as_bytes()]).await?;
        found.pop().ok_or_else(|| unexpected("no facet"))
    }

    async fn set_paused(&self, paused: bool) -> Result<()> {
        check_name(&self.queue)?;
        check_label("facet", &self.name)?;
        configure(&self.core, &self.queue, &self.name, Setting::Paused(paused)).await
    }
}

/// What can be set of a facet, and of a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Setting {
    Weight(f64),
    Paused(bool),
}

/// Sets something of a facet; the empty one is the queue itself.
pub(crate) async fn configure(
    core: &Core,
    queue: &Arc<str>,
    facet: &str,
    setting: Setting,
) -> Result<()> {
    let (weight, paused) = match setting {
        Setting::Weight(weight) => (weight.to_string(), ""),
        Setting::Paused(paused) => (String::new(), if paused { "1" } else { "0" }),
    };
    let mut command = core.command(&scripts::CONFIGURE, &[queue]);
    command.arg(&**queue).arg(facet).arg(weight).arg(paused);
    let call = core.call(&scripts::CONFIGURE, &command, Repeat::Safe).await;
    call.map(drop).map_err(|error| error.of(queue))
}

/// Checks the weight of a facet or a queue.
pub(crate) fn check_weight(weight: f64) -> Result<(), Invalid> {
    if (0.001..=1000.0).contains(&weight) {
        Ok(())
    } else {
        Err(Invalid::OutOfRange { what: "weight", range: "0.001 to 1000" })
    }
}
