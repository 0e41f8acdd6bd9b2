//! What happened, as those saw it who did it.

use std::{
    fs::{self, File},
    io::Write,
    mem::take,
    path::Path,
    sync::Mutex,
    time::{Instant, SystemTime},
};

use fairlane::{Delivery, Error};
use serde::{Deserialize, Serialize};

/// Microseconds since 1970: of one clock in all processes, which goes on steadily within each.
pub(crate) type Micros = u64;

/// What became of a call, as the caller knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Known {
    Done,
    NotDone,
    /// No answer came.
    Perhaps,
    /// The lease is not the caller's any more.
    LeaseLost,
}

impl Known {
    pub(crate) fn of<T>(outcome: &fairlane::Result<T>) -> Self {
        match outcome {
            Ok(_) => Self::Done,
            // What is not yet safe was carried out, and may be lost.
            Err(Error::MaybeApplied(_) | Error::NotYetSafe { .. }) => Self::Perhaps,
            Err(Error::LeaseLost(_)) => Self::LeaseLost,
            Err(Error::NotSent(_) | Error::Full | Error::Refused { .. } | Error::Server { .. }) => {
                Self::NotDone
            }
            Err(error) => panic!("no fault of the battery explains this: {error:?}"),
        }
    }
}

/// One lease of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hold {
    /// The number of the message, as its deliverer counted it.
    pub(crate) n: u64,
    /// Its id, as Redis drew it.
    pub(crate) id: u64,
    pub(crate) lease: u64,
}

impl Hold {
    pub(crate) fn of(delivery: &Delivery) -> Self {
        let n = delivery.message().unwrap()["n"].as_u64().unwrap();
        let token = delivery.token().to_string();
        let lease = token.rsplit('/').next().unwrap().parse().unwrap();
        Self { n, id: delivery.id().to_string().parse().unwrap(), lease }
    }
}

/// How a lease is ended by the one who has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum How {
    Ack,
    /// It is to be served again, or a dead letter.
    Back,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// It is about to be delivered, perhaps again. `pulled`: for those who pull.
    Deliver {
        n: u64,
        facet: u32,
        keyed: bool,
        pulled: bool,
    },
    Delivered {
        n: u64,
        known: Known,
    },
    /// `asked`: before the call was made; `until`: the lease is there at least until then.
    Leased {
        hold: Hold,
        attempt: u32,
        asked: Micros,
        until: Micros,
    },
    /// An extension that worked, asked for then.
    Extended {
        hold: Hold,
        asked: Micros,
        until: Micros,
    },
    /// A lease is about to be ended.
    Settle {
        hold: Hold,
        how: How,
    },
    Settled {
        hold: Hold,
        how: How,
        known: Known,
    },
    Pulled {
        n: u64,
    },
    /// So many may have been pulled at most, by a call whose answer was lost.
    PulledPerhaps {
        most: u64,
    },
    /// It is among the dead letters, in the end.
    Dead {
        n: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) at: Micros,
    pub(crate) event: Event,
}

/// Keeps what happens in a process: in memory, or in a file, which outlives a process that is killed.
#[derive(Debug)]
pub(crate) struct Record {
    begun: (Instant, Micros),
    entries: Mutex<Vec<Entry>>,
    file: Option<File>,
}

impl Record {
    pub(crate) fn new() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let begun = (Instant::now(), since.as_micros() as Micros);
        Self { begun, entries: Mutex::default(), file: None }
    }

    pub(crate) fn in_file(dir: &Path) -> Self {
        let path = dir.join(format!("{}.record", std::process::id()));
        let file = File::options().create(true).append(true).open(path).unwrap();
        Self { file: Some(file), ..Self::new() }
    }

    pub(crate) fn at(&self, time: Instant) -> Micros {
        let (begun, at) = self.begun;
        match time.checked_duration_since(begun) {
            Some(since) => at + since.as_micros() as Micros,
            None => at - (begun - time).as_micros() as Micros,
        }
    }

    pub(crate) fn now(&self) -> Micros {
        self.at(Instant::now())
    }

    pub(crate) fn note(&self, event: Event) {
        let entry = Entry { at: self.now(), event };
        match &self.file {
            None => self.entries.lock().unwrap().push(entry),
            Some(file) => {
                let mut line = serde_json::to_vec(&entry).unwrap();
                line.push(b'\n');
                // One call, so that a kill leaves whole lines.
                let mut file: &File = file;
                assert_eq!(file.write(&line).unwrap(), line.len());
            }
        }
    }

    /// Takes all that was recorded here, and by other processes in the directory, in its order.
    pub(crate) fn take_history(&self, dir: &Path) -> Vec<Entry> {
        let mut entries = take(&mut *self.entries.lock().unwrap());
        for file in fs::read_dir(dir).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "record") {
                let lines = fs::read_to_string(path).unwrap();
                entries
                    .extend(lines.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap()));
            }
        }
        entries.sort_by_key(|entry| entry.at);
        entries
    }
}
