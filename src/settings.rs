//! What can be set of a queue and of its facets, at run time.

use std::{fmt::Write, sync::Arc, time::Duration};

use redis::Value;

use crate::{
    Invalid,
    connection::Repeat,
    core::{Core, read},
    error::{Result, unexpected},
    message::check_time,
    partition::Partition,
    register::ROUNDS,
    scripts,
};

/// What is set of a facet; see [`Facet::configure`](crate::Facet::configure). As part of
/// [`QueueSettings`], what holds for each facet of the queue that does not say otherwise.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct FacetSettings {
    /// How much it is served for each 1 of a facet of weight 1, while both have messages waiting:
    /// 0.001 to 1000. Defaults to that of the queue, and that to 1.
    ///
    /// It holds at once for a facet. For the others of its queue, from the next turn of each.
    pub weight: Option<f64>,
    /// Whether nothing of it is served. Messages are still delivered to it, what is leased goes on,
    /// and it keeps its turn. Of a queue: whether nothing at all is served. Defaults to false.
    pub paused: bool,
    /// Whether deliveries to it are refused. Of a queue: whether all deliveries to it are. Defaults
    /// to false.
    pub intake_paused: bool,
    /// How many of its messages may be leased at a time, 1 or more. Defaults to that of the queue,
    /// and that to any number. It is exact. A pull takes nothing of a facet that is at its limit.
    pub max_leased: Option<u32>,
    /// How fast it may be served. Defaults to that of the queue, and that to no limit.
    pub rate: Option<Rate>,
    /// How many of its messages may wait, 1 or more; what is delayed does not wait yet. Defaults to
    /// that of the queue, and that to any number. What is too much is refused, or makes room, as
    /// [`QueueSettings::overflow`] says.
    pub max_waiting: Option<u64>,
}

/// So many messages in a period of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rate {
    /// How many, 1 to 1,000,000.
    pub count: u32,
    /// In which time, 1 ms to 30 days.
    pub period: Duration,
    /// How many at once after a time with none, 1 to 1,000,000.
    pub burst: u32,
}

impl Rate {
    /// `count` messages in each `period`, evenly: of 10 in a second, one each 100 ms.
    pub fn new(count: u32, period: Duration) -> Self {
        Self { count, period, burst: 1 }
    }

    /// How many may be served at once after a time with none. Defaults to 1. Redis counts in
    /// milliseconds: of more than 1,000 in a second, those of one millisecond come at once.
    pub fn burst(mut self, burst: u32) -> Self {
        self.burst = burst;
        self
    }
}

/// What is set of a queue; see [`Queue::configure`](crate::Queue::configure).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct QueueSettings {
    /// What holds for each facet that does not say otherwise; but `paused` and `intake_paused` are
    /// those of the queue itself.
    pub facets: FacetSettings,
    /// What is done where a facet has too many messages waiting. Defaults to
    /// [`Refuse`](Overflow::Refuse).
    pub overflow: Overflow,
    /// For how long a message is good that does not say so itself, 1 ms to 10 years from its
    /// delivery. Defaults to no end.
    pub ttl: Option<Duration>,
    /// Whether messages that expire go to the dead letters. Defaults to false: they are dropped, and
    /// counted.
    pub bury_expired: bool,
    /// How often a message is leased before it goes to the dead letters, 1 to 1,000,000: nacked,
    /// failed, or not settled in time. Defaults to 20.
    pub max_attempts: u32,
    /// How many leases of a message may end before it goes to the dead letters, 1 to 1,000,000: it
    /// may be what its workers die of. Defaults to 5.
    pub max_crashes: u32,
    /// How long a message waits that failed. Defaults to 1 second, at most 10 minutes.
    pub backoff: Backoff,
    /// How many dead letters are kept, 1 or more; then the oldest are dropped, and counted. Defaults
    /// to any number.
    pub max_dead: Option<u64>,
    /// For how long dead letters are kept, 1 ms to 10 years; then they are dropped, and counted, by
    /// one of the next calls that serve. Defaults to for ever.
    pub max_dead_age: Option<Duration>,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            facets: FacetSettings::default(),
            overflow: Overflow::Refuse,
            ttl: None,
            bury_expired: false,
            max_attempts: 20,
            max_crashes: 5,
            backoff: Backoff::default(),
            max_dead: None,
            max_dead_age: None,
        }
    }
}

/// What a queue does where a facet has as many messages waiting as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Deliveries to it are [`Refused`](crate::Error::Refused).
    Refuse,
    /// Its oldest messages go to the dead letters.
    DropOldest,
}

/// How long a message waits after it failed: `first` after the first attempt, then twice as long
/// after each, up to `longest`; of that, by lot, the half up to the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// 1 ms or more. Defaults to 1 second.
    pub first: Duration,
    /// `first` to 10 years. Defaults to 10 minutes.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(600) }
    }
}

/// Settings as Redis has them: `<name>=<number> <name>=<number> ..`, which `lua/prelude.lua` reads.
pub(crate) trait Settings: Default + PartialEq {
    fn check(&self) -> Result<(), Invalid>;
    fn write(&self, text: &mut Text);
    fn set(&mut self, name: &str, value: f64);

    fn parse(text: &str) -> Self {
        let mut settings = Self::default();
        for (name, value) in text.split(' ').filter_map(|said| said.split_once('=')) {
            if let Ok(value) = value.parse() {
                settings.set(name, value);
            }
        }
        settings
    }

    fn text(&self) -> String {
        let mut text = Text::default();
        self.write(&mut text);
        text.0
    }
}

#[derive(Default)]
pub(crate) struct Text(String);

impl Text {
    fn say(&mut self, name: &str, value: impl std::fmt::Display) {
        let space = if self.0.is_empty() { "" } else { " " };
        let _ = write!(self.0, "{space}{name}={value}"); // To a string it does not fail.
    }

    fn time(&mut self, name: &str, time: Duration) {
        self.say(name, time.as_millis());
    }
}

fn ms(value: f64) -> Duration {
    Duration::from_millis(value as u64)
}

/// Checks that a number is at least 1, and that it is one that Redis keeps exactly.
fn check_count(what: &'static str, count: Option<u64>) -> Result<(), Invalid> {
    match count {
        Some(0 | 1_000_000_000_001..) => {
            Err(Invalid::OutOfRange { what, range: "1 to 1,000,000,000,000" })
        }
        _ => Ok(()),
    }
}

impl Settings for FacetSettings {
    fn check(&self) -> Result<(), Invalid> {
        self.weight.map_or(Ok(()), check_weight)?;
        check_count("max_leased", self.max_leased.map(u64::from))?;
        check_count("max_waiting", self.max_waiting)?;
        let Some(rate) = self.rate else { return Ok(()) };
        let to_a_million = 1..=1_000_000;
        let month = Duration::from_secs(30 * 24 * 60 * 60);
        if !to_a_million.contains(&rate.count) {
            return Err(Invalid::OutOfRange { what: "rate", range: "1 to 1,000,000 in a period" });
        }
        if !to_a_million.contains(&rate.burst) {
            return Err(Invalid::OutOfRange { what: "burst of a rate", range: "1 to 1,000,000" });
        }
        if !(Duration::from_millis(1)..=month).contains(&rate.period) {
            return Err(Invalid::OutOfRange { what: "period of a rate", range: "1 ms to 30 days" });
        }
        Ok(())
    }

    fn write(&self, text: &mut Text) {
        if let Some(weight) = self.weight {
            text.say("weight", weight);
        }
        if self.paused {
            text.say("paused", 1);
        }
        if self.intake_paused {
            text.say("intake", 0);
        }
        if let Some(most) = self.max_leased {
            text.say("most_leased", most);
        }
        if let Some(rate) = self.rate {
            text.say("rate", rate.count);
            text.time("period", rate.period);
            text.say("burst", rate.burst);
        }
        if let Some(most) = self.max_waiting {
            text.say("most_waiting", most);
        }
    }

    fn set(&mut self, name: &str, value: f64) {
        let rate = |rate: &mut Option<Rate>| *rate.get_or_insert(Rate::new(1, ms(1.0)));
        match name {
            "weight" => self.weight = Some(value),
            "paused" => self.paused = value == 1.0,
            "intake" => self.intake_paused = value == 0.0,
            "most_leased" => self.max_leased = Some(value as u32),
            "rate" => self.rate = Some(Rate { count: value as u32, ..rate(&mut self.rate) }),
            "period" => self.rate = Some(Rate { period: ms(value), ..rate(&mut self.rate) }),
            "burst" => self.rate = Some(Rate { burst: value as u32, ..rate(&mut self.rate) }),
            "most_waiting" => self.max_waiting = Some(value as u64),
            _ => {}
        }
    }
}

impl Settings for QueueSettings {
    fn check(&self) -> Result<(), Invalid> {
        self.facets.check()?;
        let to_a_million = |what, count| match (1..=1_000_000).contains(&count) {
            true => Ok(()),
            false => Err(Invalid::OutOfRange { what, range: "1 to 1,000,000" }),
        };
        to_a_million("max_attempts", self.max_attempts)?;
        to_a_million("max_crashes", self.max_crashes)?;
        check_time("first backoff", self.backoff.first)?;
        check_time("longest backoff", self.backoff.longest)?;
        if self.backoff.longest < self.backoff.first {
            let range = "from the first backoff on";
            return Err(Invalid::OutOfRange { what: "longest backoff", range });
        }
        self.ttl.map_or(Ok(()), |ttl| check_time("ttl", ttl))?;
        check_count("max_dead", self.max_dead)?;
        self.max_dead_age.map_or(Ok(()), |age| check_time("max_dead_age", age))
    }

    fn write(&self, text: &mut Text) {
        let facets = FacetSettings { paused: false, ..self.facets.clone() };
        facets.write(text);
        let default = Self::default();
        if self.facets.paused {
            text.say("stopped", 1);
        }
        if self.overflow == Overflow::DropOldest {
            text.say("drop_oldest", 1);
        }
        if let Some(ttl) = self.ttl {
            text.time("ttl", ttl);
        }
        if self.bury_expired {
            text.say("bury_expired", 1);
        }
        if self.max_attempts != default.max_attempts {
            text.say("max_attempts", self.max_attempts);
        }
        if self.max_crashes != default.max_crashes {
            text.say("max_crashes", self.max_crashes);
        }
        if self.backoff != default.backoff {
            text.time("backoff_first", self.backoff.first);
            text.time("backoff_longest", self.backoff.longest);
        }
        if let Some(most) = self.max_dead {
            text.say("most_dead", most);
        }
        if let Some(age) = self.max_dead_age {
            text.time("dead_for", age);
        }
    }

    fn set(&mut self, name: &str, value: f64) {
        match name {
            "stopped" => self.facets.paused = value == 1.0,
            "drop_oldest" => self.overflow = Overflow::DropOldest,
            "ttl" => self.ttl = Some(ms(value)),
            "bury_expired" => self.bury_expired = value == 1.0,
            "max_attempts" => self.max_attempts = value as u32,
            "max_crashes" => self.max_crashes = value as u32,
            "backoff_first" => self.backoff.first = ms(value),
            "backoff_longest" => self.backoff.longest = ms(value),
            "most_dead" => self.max_dead = Some(value as u64),
            "dead_for" => self.max_dead_age = Some(ms(value)),
            _ => self.facets.set(name, value),
        }
    }
}

/// Changes the settings of a queue on the first partition, and gives them to the others.
pub(crate) async fn configure(
    core: &Core,
    queue: &Arc<str>,
    must: bool,
    decides: bool,
    change: impl FnMut(&mut QueueSettings) + Send,
) -> Result<()> {
    let whose = |partition| Whose { partition, queue, facet: "", must };
    let mut set = whose(core.first()).configure(decides, change).await?;
    if core.partitions.len() == 1 {
        return Ok(());
    }
    for _ in 0..ROUNDS {
        let same = |settings: &mut QueueSettings| *settings = set.clone();
        core.others(|partition| whose(partition).configure(decides, same)).await?;
        // Somebody else may have changed them meanwhile, and been faster with the others.
        let now = whose(core.first()).settings().await?;
        if now == set {
            break;
        }
        set = now;
    }
    Ok(())
}

/// Whose settings: those of a facet, or, of the empty one, of the queue itself.
#[derive(Clone, Copy)]
pub(crate) struct Whose<'a> {
    pub(crate) partition: &'a Partition,
    pub(crate) queue: &'a Arc<str>,
    pub(crate) facet: &'a str,
    /// Whether the queue has to be there.
    pub(crate) must: bool,
}

impl Whose<'_> {
    /// The settings as they are written down.
    async fn text(self) -> Result<String> {
        let mut command = self.partition.command(&scripts::SETTINGS, &[self.queue]);
        command.arg(&**self.queue).arg(self.facet).arg(u8::from(self.must));
        let reply = self.partition.call(&scripts::SETTINGS, &command, Repeat::Safe).await;
        read(reply.map_err(|error| error.of(self.queue))?.value)
    }

    pub(crate) async fn settings<S: Settings>(self) -> Result<S> {
        Ok(S::parse(&self.text().await?))
    }

    /// Changes settings: reads them, and writes them as they shall be, unless somebody else has
    /// changed them meanwhile; then once more. `decides`: whether all facets are decided on anew that
    /// they may concern; who broke off before that is done calls again. Returns what they are now.
    pub(crate) async fn configure<S: Settings>(
        self,
        decides: bool,
        mut change: impl FnMut(&mut S),
    ) -> Result<S> {
        let mut began = None;
        loop {
            let known = self.text().await?;
            let mut settings = S::parse(&known);
            change(&mut settings);
            settings.check()?;
            let wanted = settings.text();
            let mut page = String::from("p0");
            if known != wanted {
                match self.write(&known, &wanted, "").await? {
                    Some(next) => page = next,
                    None => {
                        // Or the answer was lost: then they are as they shall be, next time.
                        began.get_or_insert(known);
                        continue;
                    }
                }
            }
            let before = began.as_ref().unwrap_or(&known);
            while decides && page != "0" {
                page = self.write(before, &wanted, &page).await?.unwrap_or_else(|| "0".into());
            }
            return Ok(settings);
        }
    }

    /// Writes settings, or decides on a page of facets. Returns where the next page begins; none
    /// when they are not those that were read.
    async fn write(self, known: &str, wanted: &str, page: &str) -> Result<Option<String>> {
        let mut command = self.partition.command(&scripts::CONFIGURE, &[self.queue]);
        command.arg(&**self.queue).arg(self.facet).arg(u8::from(self.must));
        command.arg(known).arg(wanted).arg(page);
        let reply = self.partition.call(&scripts::CONFIGURE, &command, Repeat::Safe).await;
        let reply = reply.map_err(|error| error.of(self.queue))?;
        read_page(reply.value)
    }
}

/// Reads where the next page begins, where settings were written.
pub(crate) fn read_page(reply: Value) -> Result<Option<String>> {
    let mut values = read::<Vec<Value>>(reply)?.into_iter();
    let mut next = || values.next().ok_or_else(|| unexpected("settings without a page"));
    match read::<u8>(next()?)? {
        1 => Ok(Some(read(next()?)?)),
        _ => Ok(None),
    }
}

/// Checks the weight of a facet or a queue.
pub(crate) fn check_weight(weight: f64) -> Result<(), Invalid> {
    if (0.001..=1000.0).contains(&weight) {
        Ok(())
    } else {
        Err(Invalid::OutOfRange { what: "weight", range: "0.001 to 1000" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_were_written() {
        let all = QueueSettings {
            facets: FacetSettings {
                weight: Some(0.25),
                paused: true,
                intake_paused: true,
                max_leased: Some(3),
                rate: Some(Rate::new(10, Duration::from_secs(1)).burst(4)),
                max_waiting: Some(1_000_000_000_000),
            },
            overflow: Overflow::DropOldest,
            ttl: Some(Duration::from_millis(1)),
            bury_expired: true,
            max_attempts: 1,
            max_crashes: 1_000_000,
            backoff: Backoff { first: ms(5.0), longest: ms(50.0) },
            max_dead: Some(9),
            max_dead_age: Some(Duration::from_secs(86_400)),
        };
        all.check().unwrap();
        assert_eq!(QueueSettings::parse(&all.text()), all);
        assert_eq!(FacetSettings::parse(&all.facets.text()), all.facets);
        assert_eq!(QueueSettings::default().text(), "");
        assert_eq!(FacetSettings::default().text(), "");
    }
}
