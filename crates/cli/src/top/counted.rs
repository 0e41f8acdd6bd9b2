//! Which queues are counted: all where they are few, many by turns.

use super::watch::Wanted;

/// How many queues are counted a second.
const COUNTED: usize = 40;
/// How many of these may be such that are on the screen.
const COUNTED_SHOWN: usize = 30;

/// The queues that are counted next: the chosen one, those on the screen, and others by turns.
pub(super) fn choose(wanted: &Wanted, all: &[String], turn: &mut usize) -> Vec<String> {
    let mut chosen: Vec<String> = wanted.queue.iter().cloned().collect();
    for (names, most) in [(&wanted.queues[..], COUNTED_SHOWN), (all, COUNTED)] {
        let mut seen = 0;
        while seen < names.len() && chosen.len() < most {
            let name = &names[(*turn + seen) % names.len()];
            if !chosen.contains(name) {
                chosen.push(name.clone());
            }
            seen += 1;
        }
        if seen < names.len() {
            *turn = turn.wrapping_add(seen);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|n| format!("q{n}")).collect()
    }

    #[test]
    fn few_queues_are_all_counted_each_time_and_once() {
        let queue = Some("q2".into());
        let wanted = Wanted { queue, queues: names(0..3), facets: Vec::new() };
        let mut turn = 0;
        for _ in 0..3 {
            let mut chosen = choose(&wanted, &names(0..10), &mut turn);
            chosen.sort();
            assert_eq!(chosen, names(0..10));
        }
    }

    #[test]
    fn many_queues_are_counted_by_turns_and_the_chosen_one_always() {
        let queue = Some("q500".into());
        let wanted = Wanted { queue, queues: names(490..515), facets: Vec::new() };
        let (mut turn, mut seen) = (0, std::collections::HashSet::new());
        for _ in 0..150 {
            let chosen = choose(&wanted, &names(0..1000), &mut turn);
            assert_eq!(chosen.len(), COUNTED);
            assert!(wanted.queues.iter().all(|name| chosen.contains(name)));
            seen.extend(chosen);
        }
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn a_screen_with_more_queues_than_are_counted_has_them_counted_by_turns() {
        let queue = Some("q0".into());
        let wanted = Wanted { queue, queues: names(0..90), facets: Vec::new() };
        let (mut turn, mut seen) = (0, std::collections::HashSet::new());
        for _ in 0..9 {
            let chosen = choose(&wanted, &names(0..90), &mut turn);
            assert!(chosen.len() <= COUNTED);
            seen.extend(chosen);
        }
        assert_eq!(seen.len(), 90);
    }
}
