//! The scripts of `lua/`, embedded: one for each verb, the prelude in front of it.

use std::sync::LazyLock;

use include_dir::{Dir, include_dir};

static LUA: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/lua");

/// A script as Redis gets it.
#[derive(Debug)]
pub(crate) struct Script {
    /// The verb: `lua/<name>.lua`.
    pub(crate) name: &'static str,
    pub(crate) text: String,
    /// What EVALSHA knows it by.
    pub(crate) sha: String,
}

impl Script {
    /// Joins shebang, prelude, the parts that the script names, and its body, so that the shebang
    /// stays the first line.
    fn embedded(name: &'static str) -> Self {
        let body = source(name);
        let (shebang, body) = body.split_once('\n').unwrap_or((body, ""));
        let mut text = format!("{shebang}\n{}", source("prelude"));
        for part in parts(body) {
            text += source(&format!("parts/{part}"));
        }
        Self::new(name, text + body)
    }

    fn new(name: &'static str, text: String) -> Self {
        let sha = sha1_smol::Sha1::from(&text).digest().to_string();
        Self { name, text, sha }
    }

    #[cfg(feature = "testing")]
    pub(crate) fn changed(name: &'static str, change: impl FnOnce(String) -> String) -> Self {
        Self::new(name, change(Self::embedded(name).text))
    }
}

/// The text of a file of `lua/`; empty where there is none, which a test below rules out.
fn source(name: &str) -> &'static str {
    LUA.get_file(format!("{name}.lua")).and_then(|file| file.contents_utf8()).unwrap_or_default()
}

/// The parts that a script names, in this order: `-- Parts: life, take.`
fn parts(body: &str) -> impl Iterator<Item = &str> {
    let named = body.lines().find_map(|line| line.strip_prefix("-- Parts: ")?.strip_suffix('.'));
    named.into_iter().flat_map(|names| names.split(", "))
}

macro_rules! scripts {
    ($($constant:ident: $name:literal,)*) => {
        $(pub(crate) static $constant: LazyLock<Script> = LazyLock::new(|| Script::embedded($name));)*
        #[cfg(test)]
        const VERBS: &[&str] = &[$($name),*];
    };
}

scripts! {
    ACK: "ack",
    CONFIGURE: "configure",
    CONNECT: "connect",
    DEAD_LETTERS: "dead_letters",
    DELIVER: "deliver",
    DESTROY: "destroy",
    DISCARD: "discard",
    DOCTOR: "doctor",
    EXTEND: "extend",
    FACET: "facet",
    FACETS: "facets",
    FAIL: "fail",
    FORGET: "forget",
    HOLD_FACET: "hold_facet",
    LEASE: "lease",
    NACK: "nack",
    PEEK: "peek",
    PULL: "pull",
    PURGE: "purge",
    QUEUES: "queues",
    REDRIVE: "redrive",
    REGISTER_QUEUE: "register_queue",
    REMOVE: "remove",
    SETTINGS: "settings",
    STATS: "stats",
    UNREGISTER_QUEUE: "unregister_queue",
    WAKE: "wake",
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<(&'static str, &'static str)> {
        LUA.files()
            .map(|file| {
                let name = file.path().file_stem().unwrap().to_str().unwrap();
                (name, file.contents_utf8().unwrap())
            })
            .collect()
    }

    #[test]
    fn every_script_is_a_verb_and_every_verb_a_script() {
        let mut names: Vec<_> = files().into_iter().map(|(name, _)| name).collect();
        names.retain(|name| *name != "prelude");
        names.sort_unstable();
        assert_eq!(names, VERBS);
    }

    #[test]
    fn a_script_begins_with_its_flags_a_sentence_and_what_it_returns() {
        for (name, text) in files().into_iter().filter(|(name, _)| *name != "prelude") {
            let lines: Vec<_> = text.lines().collect();
            let flags = ["#!lua", "#!lua flags=allow-oom", "#!lua flags=no-writes"];
            assert!(flags.contains(&lines[0]), "{name}: {}", lines[0]);
            assert!(lines[1].starts_with("-- "), "{name} has no first sentence");
            let head: Vec<_> =
                lines[1..].iter().take_while(|line| line.starts_with("--")).collect();
            assert!(head.iter().any(|line| line.starts_with("-- Returns ")), "{name}: Returns");
            assert!(lines.len() <= 60, "{name} has {} lines: is it two verbs?", lines.len());
        }
    }

    #[test]
    fn keys_are_named_in_the_prelude_alone_and_arguments_once_in_their_order() {
        for (name, text) in files().into_iter().filter(|(name, _)| *name != "prelude") {
            assert!(!text.contains("KEYS["), "{name} names a key");
            let numbered: Vec<usize> = text
                .lines()
                .filter(|line| !line.starts_with("--"))
                .flat_map(|line| line.split("ARGV[").skip(1))
                .filter_map(|rest| rest.split_once(']')?.0.parse().ok())
                .collect();
            assert_eq!(numbered, (2..2 + numbered.len()).collect::<Vec<_>>(), "{name}");
            for line in
                text.lines().filter(|line| line.contains("ARGV[") && !line.contains("ARGV[i"))
            {
                assert!(line.starts_with("local ") || line.starts_with("--"), "{name}: {line}");
            }
        }
    }

    #[test]
    fn a_script_carries_at_most_ten_functions_of_the_prelude_and_the_parts_it_uses() {
        let functions = |text: &'static str| {
            text.lines().filter_map(|line| line.strip_prefix("local function ")?.split('(').next())
        };
        assert!(functions(source("prelude")).count() <= 10);
        for (name, text) in files() {
            let parts: Vec<_> = parts(text).map(|part| source(&format!("parts/{part}"))).collect();
            for (place, part) in parts.iter().enumerate() {
                assert!((1..=10).contains(&functions(part).count()), "a part of {name}");
                let behind = parts[place + 1..].iter().chain([&text]);
                let mut used = functions(part)
                    .flat_map(|function| behind.clone().map(move |text| (function, text)));
                assert!(
                    used.any(|(function, text)| text.contains(&format!("{function}("))),
                    "{name} names a part that it does not use"
                );
            }
        }
    }
}
