//! One facet of a queue: its settings.

use std::sync::Arc;

use crate::{
    Error, FacetSettings, FacetStats, Invalid, MessageId, Why,
    connection::Repeat,
    core::{Core, read},
    error::{Result, unexpected},
    keys::{check_label, check_name},
    opaque_debug,
    partition::Partition,
    scripts,
    settings::{Whose, check_weight},
    stats::look_at,
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
    /// Changes its settings: reads them, lets `change` change them, and writes them, unless somebody
    /// else has changed them meanwhile; then `change` gets those.
    ///
    /// They hold at once, also for what is waiting, until they are changed again, with the queue
    /// registered or not. What is set back to its default is forgotten.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use fairlane::Rate;
    /// # async fn example(queue: fairlane::Queue) -> fairlane::Result<()> {
    /// queue.facet("acme").configure(|facet| {
    ///     facet.weight = Some(3.0); // three messages for each one of the others
    ///     facet.max_leased = Some(5); // at a time
    ///     facet.rate = Some(Rate::new(100, Duration::from_secs(60)).burst(10));
    /// }).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when a setting is out of its range, or the facet or the
    /// queue has no valid name; [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not
    /// registered and holds nothing.
    pub async fn configure(&self, change: impl FnMut(&mut FacetSettings) + Send) -> Result<()> {
        self.whose(true)?.configure(false, change).await.map(drop)
    }

    /// What is set of it: nothing of what it has from its queue.
    ///
    /// # Errors
    /// As for [`configure`](Self::configure).
    pub async fn settings(&self) -> Result<FacetSettings> {
        self.whose(true)?.settings().await
    }

    /// Sets its [`weight`](FacetSettings::weight), and nothing else.
    ///
    /// # Errors
    /// As for [`configure`](Self::configure).
    pub async fn set_weight(&self, weight: f64) -> Result<()> {
        check_weight(weight)?;
        self.configure(|facet| facet.weight = Some(weight)).await
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
        self.whose(false)?
            .configure(false, |facet: &mut FacetSettings| facet.paused = true)
            .await
            .map(drop)
    }

    /// Serves it again, from its turn where that is still ahead of what was served meanwhile,
    /// otherwise as one that comes anew. Workers that wait wake up.
    ///
    /// # Errors
    /// As for [`pause`](Self::pause).
    pub async fn resume(&self) -> Result<()> {
        self.whose(false)?
            .configure(false, |facet: &mut FacetSettings| facet.paused = false)
            .await
            .map(drop)
    }

    /// Refuses what is delivered to it until its intake is resumed: of such a delivery nothing is
    /// done, on any queue, and its error is [`Refused`](crate::Error::Refused). What waits is
    /// served.
    ///
    /// # Errors
    /// As for [`pause`](Self::pause).
    pub async fn pause_intake(&self) -> Result<()> {
        self.whose(false)?
            .configure(false, |facet: &mut FacetSettings| facet.intake_paused = true)
            .await
            .map(drop)
    }

    /// Takes deliveries again.
    ///
    /// # Errors
    /// As for [`pause`](Self::pause).
    pub async fn resume_intake(&self) -> Result<()> {
        self.whose(false)?
            .configure(false, |facet: &mut FacetSettings| facet.intake_paused = false)
            .await
            .map(drop)
    }

    /// Drops what waits of it, and what is delayed, and returns how many messages that was. What is
    /// leased stays leased, and comes back if it is not acked; dead letters stay, too.
    ///
    /// It is one step, whatever the number.
    ///
    /// # Errors
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not registered and holds
    /// nothing. After [`MaybeApplied`](crate::Error::MaybeApplied) they may be dropped.
    pub async fn purge(&self) -> Result<u64> {
        self.check()?;
        let mut command = self.partition().command(&scripts::PURGE, &[&self.queue]);
        command.arg(&*self.queue).arg(&*self.name);
        let reply = self.partition().call(&scripts::PURGE, &command, Repeat::Never).await;
        read(reply.map_err(|error| error.of(&self.queue))?.value)
    }

    /// Drops one message of it that waits, or is delayed. It looks through these in steps of 500,
    /// the last ones first, while they are served. (To take one out of the middle of a million takes
    /// Redis some milliseconds.)
    ///
    /// # Errors
    /// [`NoSuchMessage`](crate::Error::NoSuchMessage) when it is not there: leased, settled, dead,
    /// or of another facet; [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not
    /// registered and holds nothing.
    pub async fn remove(&self, id: MessageId) -> Result<()> {
        self.check()?;
        let partition = self.partition();
        if !Arc::ptr_eq(self.core.of_message(id), partition) {
            return Err(Error::NoSuchMessage(id)); // It is of another facet.
        }
        let mut at = [1, 0, 0]; // As the script has it.
        loop {
            let mut command = self.partition().command(&scripts::REMOVE, &[&self.queue]);
            command.arg(&*self.queue).arg(&*self.name).arg(partition.number(id));
            command.arg(&at).arg(500);
            let reply = self.partition().call(&scripts::REMOVE, &command, Repeat::Never).await;
            let reply = reply.map_err(|error| error.of(&self.queue))?;
            match read::<Vec<i64>>(reply.value)?[..] {
                [1] => return Ok(()),
                [-1, delayed, from, dropped] => at = [delayed, from, dropped],
                _ => return Err(Error::NoSuchMessage(id)),
            }
        }
    }

    /// Says in one answer whether it can be served now, and if not, what keeps it and until when;
    /// and how it stands.
    ///
    /// # Errors
    /// As for [`stats`](Self::stats).
    pub async fn why(&self) -> Result<Why> {
        self.check()?;
        let mut found = look_at(&self.core, &self.queue, &[&*self.name]).await?;
        found.pop().ok_or_else(|| unexpected("no facet"))
    }

    /// How it stands. One that is not there has nothing waiting, and is quiet.
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) when the facet or the queue has no valid name;
    /// [`NoSuchQueue`](crate::Error::NoSuchQueue) when the queue is not registered and holds
    /// nothing.
    pub async fn stats(&self) -> Result<FacetStats> {
        Ok(self.why().await?.stats)
    }

    /// The one that has it.
    fn partition(&self) -> &Arc<Partition> {
        self.core.of_facet(&self.name)
    }

    fn check(&self) -> Result<(), Invalid> {
        check_name(&self.queue)?;
        check_label("facet", &self.name)
    }

    /// Whose settings these are. `must`: whether the queue has to be there.
    fn whose(&self, must: bool) -> Result<Whose<'_>, Invalid> {
        self.check()?;
        Ok(Whose { partition: self.partition(), queue: &self.queue, facet: &self.name, must })
    }
}
