//! The keys of a namespace or of one of its partitions, and the names that may be part of them.

use std::sync::Arc;

use crate::{Invalid, error::Result};

/// Builds KEYS for the scripts. All keys of a partition carry one hash tag, so that they live on one
/// node of a cluster and one script can write any of them.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    /// Its name, which is empty where it has none: a label of the metrics.
    #[cfg_attr(not(feature = "metrics"), allow(dead_code))]
    pub(crate) namespace: Arc<str>,
    tag: String,
    /// What stands before a topic to make it a channel.
    pub(crate) channel: String,
}

impl Keys {
    pub(crate) fn new(namespace: Option<&str>) -> Result<Self, Invalid> {
        namespace.map_or(Ok(()), check_name)?;
        // A colon is in no name, so the tag of a partition is no other namespace's.
        Ok(Self {
            namespace: namespace.unwrap_or_default().into(),
            tag: format!("{{{}}}", namespace.unwrap_or("fairlane")),
            channel: namespace.map_or_else(String::new, |name| format!("{name}:")),
        })
    }

    /// Those of one of several partitions.
    pub(crate) fn of_partition(&self, place: u64) -> Self {
        Self { tag: format!("{{{}:{place}}}", self.tag()), ..self.clone() }
    }

    /// What stands between their braces.
    pub(crate) fn tag(&self) -> &str {
        self.tag.trim_matches(['{', '}'])
    }

    /// One of them, by which a cluster knows the node of all.
    pub(crate) fn routes(&self) -> String {
        format!("{}:routes", self.tag)
    }

    /// The list that every script gets: the namespace's keys, then those of each queue of the call.
    /// `lua/prelude.lua` names them in this order.
    pub(crate) fn of(&self, queues: &[&str]) -> Vec<String> {
        let tag = &self.tag;
        let mut keys = Vec::with_capacity(4 + 14 * queues.len());
        keys.extend(["routes", "seq", "layout", "k:"].map(|key| format!("{tag}:{key}")));
        for queue in queues {
            keys.extend(
                // The facet comes last, after `f:`, `s:` and `d:`: whatever bytes it has, it meets no
                // other key. So does the lease, after `l:`.
                [
                    "clock", "ready", "parked", "idle", "timers", "l:", "held", "settings", "wake",
                    "letters", "dead", "d:", "s:", "f:",
                ]
                .map(|key| format!("{tag}:q:{queue}:{key}")),
            );
        }
        keys
    }

    /// What the keys of a queue begin with.
    pub(crate) fn of_queue(&self, queue: &str) -> String {
        format!("{}:q:{queue}:", self.tag)
    }

    /// The marker that those who wait on a queue wait for.
    pub(crate) fn wake(&self, queue: &str) -> String {
        format!("{}:q:{queue}:wake", self.tag)
    }
}

/// The queues of a call, each once: a script names one by its place among KEYS.
#[derive(Debug)]
pub(crate) struct Places<'a>(Vec<&'a str>);

impl<'a> Places<'a> {
    pub(crate) fn of(queues: impl Iterator<Item = &'a str>) -> Self {
        let mut queues: Vec<_> = queues.collect();
        queues.sort_unstable();
        queues.dedup();
        Self(queues)
    }

    /// The queues, in the order of their places.
    pub(crate) fn queues(&self) -> &[&'a str] {
        &self.0
    }

    /// The place of one of them, counted from 1.
    pub(crate) fn place(&self, queue: &str) -> usize {
        self.0.partition_point(|other| *other < queue) + 1
    }
}

/// Checks the name of a queue or a namespace.
pub(crate) fn check_name(name: &str) -> Result<(), Invalid> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=128).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(Invalid::Name { name: name.into() })
    }
}

/// Checks a facet or a topic, whatever bytes it has.
pub(crate) fn check_label(what: &'static str, label: &str) -> Result<(), Invalid> {
    match label.len() {
        0 => Err(Invalid::Empty { what }),
        1..=512 => Ok(()),
        len => Err(Invalid::TooLong { what, len, most: 512 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_before_it_can_be_part_of_a_key() {
        for name in ["", "a:b", "a b", "a{b}", "a*", "a/b", "é", &"x".repeat(129)] {
            assert!(matches!(check_name(name), Err(Invalid::Name { .. })), "{name}");
        }
        for name in ["a", "A.b_c-9", &"x".repeat(128)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn each_queue_of_a_call_has_one_place() {
        let places = Places::of(["b", "a", "b", "c"].into_iter());
        assert_eq!(places.queues(), ["a", "b", "c"]);
        assert_eq!(["c", "a", "b"].map(|queue| places.place(queue)), [3, 1, 2]);
    }

    #[test]
    fn all_keys_of_a_namespace_carry_its_tag_and_the_facet_comes_last() {
        let keys = Keys::new(Some("shop")).unwrap().of(&["orders"]);
        assert!(keys.iter().all(|key| key.starts_with("{shop}:")));
        assert_eq!(keys.last().unwrap(), "{shop}:q:orders:f:");
    }

    #[test]
    fn a_partition_has_a_tag_of_its_own_and_the_channels_of_its_namespace() {
        let keys = Keys::new(Some("shop")).unwrap().of_partition(3);
        assert_eq!(keys.routes(), "{shop:3}:routes");
        assert_eq!(keys.channel, "shop:");
        assert_eq!(Keys::new(None).unwrap().of_partition(0).routes(), "{fairlane:0}:routes");
    }

    #[test]
    fn the_name_of_a_namespace_is_empty_where_it_has_none() {
        assert_eq!(&*Keys::new(Some("shop")).unwrap().namespace, "shop");
        assert_eq!(&*Keys::new(None).unwrap().namespace, "");
    }
}
