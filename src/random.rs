//! Random numbers, for what needs no better ones than the standard library's.

use std::hash::{BuildHasher, RandomState};

/// A number from 0 to below 1.
pub(crate) fn share() -> f64 {
    // Each state has new random keys.
    (RandomState::new().hash_one(0) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_spread_from_0_to_1() {
        let mut tenths = [0; 10];
        (0..10_000).for_each(|_| tenths[(share() * 10.0) as usize] += 1);
        assert!(tenths.iter().all(|n| (800..1200).contains(n)), "{tenths:?}");
    }
}
