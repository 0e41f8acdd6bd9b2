//! The layout of a namespace's keys, as it is written down there.

use std::{fmt, str::FromStr};

use crate::{
    Error,
    error::{Result, unexpected},
};

/// The layout of the keys that this version reads and writes.
const NEWEST: u32 = 1;

/// A layout, and how many partitions a namespace is divided into. As text, `<layout>`, or `<layout>
/// <partitions>` where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) number: u32,
    pub(crate) partitions: u64,
}

impl Layout {
    /// That of a new namespace.
    pub(crate) fn new(partitions: u64) -> Self {
        Self { number: NEWEST, partitions }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.partitions {
            1 => write!(f, "{}", self.number),
            partitions => write!(f, "{} {partitions}", self.number),
        }
    }
}

impl FromStr for Layout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split(' ');
        let number = words.next().and_then(|number| number.parse().ok());
        let number = number.filter(|number| *number > 0);
        let number = number.ok_or_else(|| unexpected("a layout that is no number"))?;
        if number > NEWEST {
            return Err(Error::Unsupported {
                found: format!("layout {number} of the keys"),
                needed: "update fairlane, this one knows older ones only",
            });
        }
        let partitions = words.next().map_or(Some(1), |count| count.parse().ok());
        let partitions = partitions.filter(|count| (1..=MOST_PARTITIONS).contains(count));
        let partitions = partitions.ok_or_else(|| unexpected("a layout of no partitions"))?;
        let layout = Self { number, partitions };
        match layout.to_string() == text {
            true => Ok(layout),
            false => Err(unexpected("a layout that no fairlane has written")),
        }
    }
}

/// How many partitions a namespace may have.
pub(crate) const MOST_PARTITIONS: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_read_as_it_was_written() {
        for (layout, text) in [(Layout::new(1), "1"), (Layout::new(4), "1 4")] {
            assert_eq!(layout.to_string(), text);
            assert_eq!(text.parse::<Layout>().unwrap(), layout);
        }
    }

    #[test]
    fn a_layout_that_is_newer_or_none_is_refused() {
        assert!(matches!("2 4".parse::<Layout>(), Err(Error::Unsupported { .. })));
        for text in ["", "x", "0", "+1", "1 0", "1 1", "1 x", "1 257", "1 4 4"] {
            assert!(matches!(text.parse::<Layout>(), Err(Error::Server { .. })), "{text}");
        }
    }
}
