//! The doctor: whether what is stored of a queue is as it must be, and how it is mended.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use redis::Value;
use tokio::time::sleep;

use crate::{
    Cursor, Stats,
    connection::Repeat,
    core::{Core, if_there, read, some_have},
    error::{Result, unexpected},
    keys::check_name,
    partition::Partition,
    random::share,
    scripts,
    stats::{facet_names, stats_of_one},
};

/// How often a large queue that is in service is counted, until nothing was done meanwhile.
const COUNTS: usize = 5;

/// The most facets or leases that one call examines, each with up to 250 messages.
const MOST_OF_A_CALL: usize = 4;
/// The most facets and leases of a queue that is counted at one moment.
const MOST_AT_ONCE: usize = 1000;

/// What is broken in what Redis has of a queue; found by [`Queue::doctor`](crate::Queue::doctor).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Finding {
    /// A facet has messages waiting, and would never be served: it is neither ready nor parked.
    #[error("facet `{facet}` has messages, and is neither ready nor parked")]
    Unlisted {
        /// The facet.
        facet: String,
    },
    /// A facet is ready or parked, and has no message waiting.
    #[error("facet `{facet}` is ready or parked, and has no message")]
    Empty {
        /// The facet.
        facet: String,
    },
    /// A facet is ready and parked.
    #[error("facet `{facet}` is both ready and parked")]
    Twice {
        /// The facet.
        facet: String,
    },
    /// A facet is ready, though it is paused, held, at its limit or out of its rate.
    #[error("facet `{facet}` is ready, though something keeps it from being served")]
    Ungated {
        /// The facet.
        facet: String,
    },
    /// A facet is parked, though nothing keeps it from being served.
    #[error("facet `{facet}` is parked, though nothing keeps it from being served")]
    Stuck {
        /// The facet.
        facet: String,
    },
    /// A facet has messages waiting, and is still noted as one that has none and is in debt.
    #[error("facet `{facet}` has messages, and is noted as one that has none")]
    Owing {
        /// The facet.
        facet: String,
    },
    /// A facet has delayed messages, or waits for its rate, and no timer says when.
    #[error("facet `{facet}` waits for a time, and has no timer for it")]
    Untimed {
        /// The facet.
        facet: String,
    },
    /// A timer is there without what it is for.
    #[error("timer `{timer}` is there without what it is for")]
    Timer {
        /// As it is stored.
        timer: String,
    },
    /// A lease would never end: it has no timer.
    #[error("lease `{lease}` has no timer")]
    Endless {
        /// Its number.
        lease: String,
    },
    /// Of what is leased, the facet or the message is missing.
    #[error("lease `{lease}` has only a half of `{field}`")]
    Halved {
        /// Its number.
        lease: String,
        /// What is there.
        field: String,
    },
    /// A dead letter is not listed under its facet.
    #[error("dead letter {id} of facet `{facet}` is not listed")]
    Letter {
        /// The facet.
        facet: String,
        /// The message.
        id: String,
    },
    /// A dead letter is listed, and not there.
    #[error("dead letter {id} of facet `{facet}` is listed, and not there")]
    Ghost {
        /// The facet.
        facet: String,
        /// The message.
        id: String,
    },
    /// What is said of when the oldest dead letter of a facet died is not so.
    #[error("facet `{facet}` has a wrong age of its oldest dead letter")]
    Grave {
        /// The facet.
        facet: String,
    },
    /// A count is not what there is.
    #[error("{kept} `{what}` are counted{}, and {there} are there", of(facet.as_ref()))]
    Count {
        /// `waiting`, `delayed`, `leased`, or `holds`.
        what: &'static str,
        /// Of which facet; none for all.
        facet: Option<String>,
        /// What there is.
        there: i64,
        /// What is counted.
        kept: i64,
    },
}

fn of(facet: Option<&String>) -> String {
    facet.map_or_else(String::new, |facet| format!(" for facet `{facet}`"))
}

impl Finding {
    /// What `lua/parts/doctor.lua` says.
    fn read(said: Vec<Vec<u8>>) -> Result<Self> {
        let mut words = said.iter().map(|word| String::from_utf8_lossy(word).into_owned());
        let mut next = || words.next().unwrap_or_default();
        let (code, facet) = (next(), next());
        Ok(match code.as_str() {
            "unlisted" => Self::Unlisted { facet },
            "empty" => Self::Empty { facet },
            "twice" => Self::Twice { facet },
            "open" => Self::Ungated { facet },
            "stuck" => Self::Stuck { facet },
            "owing" => Self::Owing { facet },
            "untimed" => Self::Untimed { facet },
            "timer" => Self::Timer { timer: facet },
            "endless" => Self::Endless { lease: facet },
            "halved" => Self::Halved { lease: facet, field: next() },
            "letter" => Self::Letter { facet, id: next() },
            "ghost" => Self::Ghost { facet, id: next() },
            "grave" => Self::Grave { facet },
            _ => return Err(unexpected("a finding that this version does not know")),
        })
    }
}

/// Examines a queue, and mends it if it shall.
pub(crate) async fn examine(core: &Core, queue: &Arc<str>, mends: bool) -> Result<Vec<Finding>> {
    check_name(queue)?;
    let all = match mends {
        true => core.each(|partition| examine_one(partition, queue, true)).await?,
        false => core.ask(|partition| examine_one(partition, queue, false)).await?,
    };
    Ok(some_have(all, queue)?.into_iter().flatten().collect())
}

/// None where the partition has nothing of the queue.
async fn examine_one(
    partition: &Partition,
    queue: &Arc<str>,
    mends: bool,
) -> Result<Option<Vec<Finding>>> {
    if_there(examine_there(partition, queue, mends).await)
}

async fn examine_there(
    partition: &Partition,
    queue: &Arc<str>,
    mends: bool,
) -> Result<Vec<Finding>> {
    let doctor = Doctor { partition, queue };
    let mut findings = BTreeSet::new();
    if mends {
        doctor.walk(true, &mut findings).await?;
    }
    let mut wrong = BTreeMap::new();
    for count in 0..COUNTS {
        if count > 0 {
            // Not in step with what is done meanwhile.
            sleep(Duration::from_millis(20).mul_f64(share())).await;
        }
        let before = stats_of_one(partition, queue).await?;
        let there = doctor.walk(false, &mut findings).await?;
        if let Some((there, kept)) = doctor.at_once(&there.names).await? {
            wrong = there.wrong(&kept);
            break;
        }
        let after = stats_of_one(partition, queue).await?;
        if before == after {
            wrong = there.wrong(&after);
            break;
        }
    }
    if mends {
        doctor.mend(&wrong).await?;
    }
    findings.extend(wrong.into_iter().map(|((what, facet), (there, kept))| {
        let facet = facet.map(|facet| String::from_utf8_lossy(&facet).into_owned());
        Finding::Count { what, facet, there, kept }
    }));
    Ok(findings.into_iter().collect())
}

type Name = Vec<u8>;
/// What is counted, and of which facet.
type Counted = (&'static str, Option<Name>);

/// What is there of a queue, as far as it was counted.
#[derive(Default)]
pub(crate) struct There {
    waiting: i64,
    delayed: i64,
    holds: i64,
    /// Of each facet, what is leased, and what is said to be.
    held: BTreeMap<Name, (i64, i64)>,
    /// All leases and facets that there are, `l` or `f` before their names.
    names: Vec<Name>,
}

impl There {
    fn add_facet(&mut self, seen: Value) -> Result<()> {
        let (name, waiting, delayed, held): (Name, i64, i64, i64) = read(seen)?;
        add(&mut self.waiting, waiting);
        add(&mut self.delayed, delayed);
        add(&mut self.held.entry(name).or_default().1, held);
        Ok(())
    }

    fn add_lease(&mut self, seen: Value) -> Result<()> {
        let mut values = read::<Vec<Value>>(seen)?.into_iter();
        while let (Some(facet), Some(count)) = (values.next(), values.next()) {
            add(&mut self.held.entry(read(facet)?).or_default().0, read(count)?);
        }
        Ok(())
    }

    /// What is not as the counts have it: what there is, and what is counted.
    pub(crate) fn wrong(self, kept: &Stats) -> BTreeMap<Counted, (i64, i64)> {
        let mut all = 0;
        self.held.values().for_each(|(there, _)| add(&mut all, *there));
        let facets = self.held.into_iter().map(|(facet, both)| (("leased", Some(facet)), both));
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let of_all = [
            (("waiting", None), (self.waiting, signed(kept.waiting))),
            (("delayed", None), (self.delayed, signed(kept.delayed))),
            (("holds", None), (self.holds, signed(kept.holds))),
            (("leased", None), (all, signed(kept.leased))),
        ];
        facets.chain(of_all).filter(|(_, (there, kept))| there != kept).collect()
    }
}

/// Whatever somebody has put where counts are: none is too large.
fn add(count: &mut i64, more: i64) {
    *count = count.saturating_add(more);
}

struct Doctor<'a> {
    partition: &'a Partition,
    queue: &'a Arc<str>,
}

/// Reads what one script has seen, and what it found to be broken.
pub(crate) fn read_seen(reply: Value) -> Result<(Seen, Vec<Finding>)> {
    let (next, broken, there): (String, Vec<Vec<Vec<u8>>>, Vec<Value>) = read(reply)?;
    let broken = broken.into_iter().map(Finding::read).collect::<Result<_>>()?;
    let there = there.into_iter().map(read).collect::<Result<_>>()?;
    Ok((Seen { next, there }, broken))
}

/// What one script has seen.
pub(crate) struct Seen {
    /// Where the next page begins; empty after the last one.
    next: String,
    there: Vec<Vec<Value>>,
}

/// Reads what there is of a whole queue, and what is counted.
pub(crate) fn read_whole(seen: Seen) -> Result<Option<(There, Stats)>> {
    let [facets, leases, timers, kept] =
        <[_; 4]>::try_from(seen.there).map_err(|_| unexpected("a queue that is not whole"))?;
    let Some(timers) = timers.into_iter().next() else { return Ok(None) };
    let mut there = There::default();
    facets.into_iter().try_for_each(|facet| there.add_facet(facet))?;
    leases.into_iter().try_for_each(|lease| there.add_lease(lease))?;
    let timers: Vec<String> = read(timers)?;
    there.holds = timers.iter().filter(|kind| *kind == "h").count() as i64;
    let [waiting, delayed, holds, leased] =
        <[_; 4]>::try_from(kept).map_err(|_| unexpected("a queue without counts"))?;
    let kept = Stats {
        waiting: read(waiting)?,
        delayed: read(delayed)?,
        holds: read(holds)?,
        leased: read(leased)?,
        ..Stats::default()
    };
    Ok(Some((there, kept)))
}

impl Doctor<'_> {
    /// Goes once through all that there is of the queue.
    async fn walk(&self, mends: bool, findings: &mut BTreeSet<Finding>) -> Result<There> {
        let mut there = There::default();
        let (mut facets, mut leases) = (BTreeSet::new(), BTreeSet::new());
        // What has a key of its own, whether anything else knows of it or not.
        let mut cursor = String::from("0");
        loop {
            let (next, page) = self.keys(&cursor).await?;
            let (mut some, mut held) = (Vec::new(), Vec::new());
            for (kind, name) in page {
                let (all, new) = match kind {
                    b'l' => (&mut leases, &mut held),
                    _ => (&mut facets, &mut some),
                };
                if all.insert(name.clone()) {
                    new.push(name);
                }
            }
            self.named(mends, "facet", some, findings, &mut there).await?;
            self.named(mends, "lease", held, findings, &mut there).await?;
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        // What is only listed somewhere.
        let mut from = Some(Cursor::default());
        while let Some(cursor) = from {
            let (mut page, next) = facet_names(self.partition, self.queue, cursor).await?;
            page.retain(|name| facets.insert(name.clone()));
            self.named(mends, "facet", page, findings, &mut there).await?;
            from = next;
        }
        for what in ["timer", "letter"] {
            let mut from = String::from("0");
            while !from.is_empty() {
                let seen = self.look(mends, what, &from, &[], findings).await?;
                from = seen.next;
                for kind in seen.there.into_iter().flatten() {
                    there.holds += i64::from(read::<String>(kind)? == "h");
                }
            }
        }
        let named = |kind| move |name: Name| [&[kind][..], &name].concat();
        there.names = facets.into_iter().map(named(b'f')).collect();
        there.names.extend(leases.into_iter().map(named(b'l')));
        Ok(there)
    }

    /// What there is of a queue that has few facets and leases, all at one moment, and what is
    /// counted then.
    async fn at_once(&self, names: &[Name]) -> Result<Option<(There, Stats)>> {
        if names.len() > MOST_AT_ONCE {
            return Ok(None);
        }
        let mut none = BTreeSet::new();
        read_whole(self.look(false, "all", "0", names, &mut none).await?)
    }

    /// Examines what is named: facets or leases.
    async fn named(
        &self,
        mends: bool,
        what: &str,
        names: Vec<Name>,
        findings: &mut BTreeSet<Finding>,
        there: &mut There,
    ) -> Result<()> {
        for names in names.chunks(MOST_OF_A_CALL) {
            for seen in self.look(mends, what, "0", names, findings).await?.there {
                match what {
                    "facet" => there.add_facet(Value::Array(seen))?,
                    _ => there.add_lease(Value::Array(seen))?,
                }
            }
        }
        Ok(())
    }

    /// A page of the keys that are named by a facet or a lease: their kind, and the name.
    async fn keys(&self, cursor: &str) -> Result<(String, Vec<(u8, Name)>)> {
        let prefix = self.partition.keys.of_queue(self.queue);
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(format!("{prefix}[lfsd]:*")).arg("COUNT").arg(1000);
        let keys = self.partition.ask(&command, self.partition.connection.end()).await?;
        let (next, keys): (String, Vec<Name>) = read(keys)?;
        let named = keys.iter().filter_map(|key| {
            let name = key.strip_prefix(prefix.as_bytes())?;
            Some((*name.first()?, name.get(2..)?.to_vec()))
        });
        Ok((next, named.collect()))
    }

    /// Examines a page, or what is named.
    async fn look(
        &self,
        mends: bool,
        what: &str,
        from: &str,
        names: &[Name],
        findings: &mut BTreeSet<Finding>,
    ) -> Result<Seen> {
        let mut command = self.partition.command(&scripts::DOCTOR, &[self.queue]);
        command.arg(&**self.queue).arg(u8::from(mends)).arg(what).arg(from).arg(names);
        let reply = self.partition.call(&scripts::DOCTOR, &command, Repeat::Safe).await;
        let reply = reply.map_err(|error| error.of(self.queue))?;
        let (seen, broken) = read_seen(reply.value)?;
        findings.extend(broken);
        Ok(seen)
    }

    /// Adds to the counts what they lack. It counts what is done meanwhile, too.
    async fn mend(&self, wrong: &BTreeMap<Counted, (i64, i64)>) -> Result<()> {
        for ((what, facet), (there, kept)) in wrong {
            // How the script names it.
            let mut field = if *what == "leased" { "held" } else { *what }.as_bytes().to_vec();
            field.extend_from_slice(facet.as_deref().unwrap_or_default());
            self.count(&field, there.saturating_sub(*kept)).await?;
        }
        Ok(())
    }

    /// Adds to a count: not a second time, when it may have been done.
    async fn count(&self, field: &[u8], more: i64) -> Result<()> {
        let mut command = self.partition.command(&scripts::DOCTOR, &[self.queue]);
        command.arg(&**self.queue).arg(1).arg("count").arg("0").arg(field).arg(more);
        let reply = self.partition.call(&scripts::DOCTOR, &command, Repeat::Never).await;
        reply.map(drop).map_err(|error| error.of(self.queue))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_count_is_too_large_to_be_compared() {
        let text = |text: &str| Value::BulkString(text.into());
        let lease = || Value::Array(vec![text("a"), Value::Int(i64::MAX)]);
        let facet = |name| {
            let numbers = [i64::MAX, i64::MIN, i64::MIN].map(Value::Int);
            Value::Array([&[text(name)], &numbers[..]].concat())
        };
        let kept = [0, 0, 0, 0].map(Value::Int).into();
        let there = vec![vec![facet("a"), facet("b")], vec![lease(), lease()], vec![], kept];
        let read = |timers| {
            let mut there = there.clone();
            there[2] = timers;
            read_whole(Seen { next: String::new(), there }).unwrap()
        };
        assert!(read(vec![]).is_none());
        let (there, kept) = read(vec![Value::Array(vec![text("h"), text("l")])]).unwrap();
        let of = |facet: &str| ("leased", Some(facet.as_bytes().to_vec()));
        let wrong = [
            (("waiting", None), (i64::MAX, 0)),
            (("delayed", None), (i64::MIN, 0)),
            (("holds", None), (1, 0)),
            (("leased", None), (i64::MAX, 0)),
            (of("a"), (i64::MAX, i64::MIN)),
            (of("b"), (0, i64::MIN)),
        ];
        assert_eq!(there.wrong(&kept), BTreeMap::from(wrong));
    }
}
