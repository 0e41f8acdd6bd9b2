//! How safe something has to be before its call returns: what WAIT and WAITAOF say.

use std::time::Duration;

use redis::{Cmd, RedisError, Value};

use crate::{
    Error, Invalid,
    core::read,
    error::{Cause, Result, unexpected},
};

/// How many replicas have to have something; see [`Message::durable`](crate::Message::durable).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Replicas(
    /// 0 to 1,000. With 0, and with any number, the primary itself has written it to disk where it
    /// has an append-only file; with 0 it has to have one.
    pub u32,
);

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Durable {
    pub(crate) replicas: u32,
    pub(crate) timeout: Duration,
}

/// Who has it.
#[derive(Debug, Clone)]
pub(crate) struct Confirmed {
    pub(crate) replicas: u32,
    /// Whether the primary has it on its disk; none where that was not asked for.
    on_disk: Option<bool>,
    /// Why nobody could be asked.
    error: Option<Cause>,
}

impl Durable {
    pub(crate) fn new(Replicas(replicas): Replicas, timeout: Duration) -> Self {
        Self { replicas, timeout }
    }

    pub(crate) fn check(self) -> Result<(), Invalid> {
        if self.replicas > 1000 {
            return Err(Invalid::OutOfRange { what: "number of replicas", range: "0 to 1,000" });
        }
        let hour = Duration::from_secs(3600);
        if !(Duration::from_millis(1)..=hour).contains(&self.timeout) {
            return Err(Invalid::OutOfRange { what: "time to be durable", range: "1 ms to 1 h" });
        }
        Ok(())
    }

    /// What is enough for both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            replicas: self.replicas.max(other.replicas),
            timeout: self.timeout.max(other.timeout),
        }
    }

    /// Waits for disks, where the server can, otherwise for replicas.
    pub(crate) fn command(self, for_disks: bool) -> Cmd {
        let ms = self.timeout.as_millis() as u64;
        let mut command = redis::cmd(if for_disks { "WAITAOF" } else { "WAIT" });
        if for_disks {
            command.arg(1);
        }
        command.arg(self.replicas).arg(ms);
        command
    }

    /// Whether that is what was asked for.
    pub(crate) fn is_met(self, confirmed: &Confirmed) -> bool {
        let on_disk = confirmed.on_disk.unwrap_or(self.replicas > 0);
        on_disk && confirmed.replicas >= self.replicas
    }

    /// That it is not.
    pub(crate) fn unmet(self, confirmed: Confirmed) -> Error {
        let Confirmed { replicas: confirmed, error, .. } = confirmed;
        Error::NotYetSafe { confirmed, wanted: self.replicas, delivered: Vec::new(), source: error }
    }
}

impl Confirmed {
    /// Reads what WAIT or WAITAOF says.
    pub(crate) fn read(answer: Value, for_disks: bool) -> Result<Self> {
        if !for_disks {
            return Ok(Self { replicas: read(answer)?, on_disk: None, error: None });
        }
        let [local, replicas] = read::<Vec<u32>>(answer)?[..] else {
            return Err(unexpected("an answer of WAITAOF without two numbers"));
        };
        Ok(Self { replicas, on_disk: Some(local > 0), error: None })
    }

    /// It could not be asked for.
    pub(crate) fn failed(error: RedisError) -> Self {
        Self { replicas: 0, on_disk: Some(false), error: Some(Cause::new(error)) }
    }
}
