//! Who is served when. The two bounds are stated in ARCHITECTURE.md.

use std::collections::{BTreeMap, HashMap, HashSet};

use fairlane::{Broker, Message};
use proptest::{prelude::*, test_runner::Config};
use serde_json::json;

use crate::support::{self, Space, counts, deliver, pulled};

async fn one(broker: &Broker, facet: &str) {
    broker.deliver(Message::new(&json!({"facet": facet})).facet(facet).topic("t")).await.unwrap();
}

#[tokio::test]
async fn facets_of_equal_weight_take_turns() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 40).await;
    deliver(&space.broker, "b", 3).await;
    deliver(&space.broker, "c", 4).await;
    let order = pulled(&queue, 13).await.concat();
    assert_eq!(order, "abcabcabcacaa");
    assert_eq!(pulled(&queue, 99).await.len(), 34);
    space.end().await;
}

#[tokio::test]
async fn each_gets_its_weight_over_the_whole_range_of_weights_and_at_every_moment() {
    let weights = [0.001, 0.02, 0.5, 1.0, 1.5, 3.0, 70.0, 1000.0];
    for (i, heavy) in weights.into_iter().enumerate() {
        for light in weights.into_iter().take(i + 1) {
            let (space, queue) = Space::with_queue().await;
            queue.facet("heavy").set_weight(heavy).await.unwrap();
            queue.facet("light").set_weight(light).await.unwrap();
            deliver(&space.broker, "light", 400).await;
            deliver(&space.broker, "heavy", 400).await;
            let (mut of_heavy, mut of_light) = (0.0, 0.0);
            let bound = 1.0 / heavy + 1.0 / light;
            while of_heavy < 400.0 && of_light < 400.0 {
                match queue.pull().await.unwrap().unwrap()["facet"].as_str().unwrap() {
                    "heavy" => of_heavy += 1.0,
                    _ => of_light += 1.0,
                }
                let apart: f64 = of_heavy / heavy - of_light / light;
                assert!(
                    apart.abs() <= bound * (1.0 + 1e-6),
                    "{heavy} to {light}: {apart} apart, {bound} allowed"
                );
            }
            space.delete().await;
        }
    }
}

#[tokio::test]
async fn a_weight_changed_while_messages_wait_holds_from_the_next_turn() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 500).await;
    deliver(&space.broker, "b", 500).await;
    pulled(&queue, 20).await;
    queue.facet("a").set_weight(0.01).await.unwrap();
    let served = pulled(&queue, 102).await;
    assert!(counts(&served)["a"] <= 2, "{:?}", counts(&served));
    queue.facet("a").set_weight(3.0).await.unwrap();
    let served = pulled(&queue, 40).await;
    assert!((29..=31).contains(&counts(&served)["a"]), "{:?}", counts(&served));
    space.delete().await;
}

#[tokio::test]
async fn a_facet_that_drains_and_returns_gets_no_more_than_one_that_stays() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "stays", 1000).await;
    one(&space.broker, "returns").await;
    let mut served = Vec::new();
    for _ in 0..200 {
        let facet = pulled(&queue, 1).await.remove(0);
        if facet == "returns" {
            one(&space.broker, "returns").await;
        }
        served.push(facet);
    }
    assert!((99..=101).contains(&counts(&served)["returns"]), "{:?}", counts(&served));
    space.delete().await;
}

#[tokio::test]
async fn under_a_new_facet_at_every_pull_each_old_one_keeps_half_of_an_equal_share() {
    let (space, queue) = Space::with_queue().await;
    let old = ["o1", "o2", "o3", "o4"];
    for facet in old {
        deliver(&space.broker, facet, 300).await;
    }
    pulled(&queue, 4).await;
    let mut served = Vec::new();
    let mut new = 0.0;
    let mut share = 0.0;
    for n in 0..600 {
        one(&space.broker, &format!("new-{n}")).await;
        share += 1.0 / (5.0 + new);
        served.extend(pulled(&queue, 1).await);
        new += if served[n].starts_with("new") { 0.0 } else { 1.0 };
    }
    let counts = counts(&served);
    for facet in old {
        assert!(counts[facet] as f64 > share / 2.0 - 1.0, "{facet}: {} of {share}", counts[facet]);
    }
    space.delete().await;
}

#[tokio::test]
async fn an_endless_stream_of_new_facets_takes_no_more_than_every_second_pull() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "old", 500).await;
    pulled(&queue, 1).await;
    let mut served = Vec::new();
    for n in 0..400 {
        one(&space.broker, &format!("new-{n}")).await;
        served.extend(pulled(&queue, 2).await);
    }
    let of_old = counts(&served)["old"];
    assert!(of_old.abs_diff(400) <= 1, "{of_old} of 800");
    space.delete().await;
}

#[tokio::test]
async fn a_quiet_facet_among_two_hundred_loud_ones_is_served_next() {
    let (space, queue) = Space::with_queue().await;
    for n in 0..200 {
        deliver(&space.broker, &format!("loud-{n}"), 20).await;
    }
    pulled(&queue, 300).await;
    for n in 0..20 {
        let quiet = format!("quiet-{n}");
        one(&space.broker, &quiet).await;
        assert_eq!(pulled(&queue, 1).await, [quiet]);
        pulled(&queue, 7).await;
    }
    space.delete().await;
}

#[tokio::test]
async fn in_an_empty_queue_newcomers_are_served_in_the_order_in_which_they_came() {
    let (space, queue) = Space::with_queue().await;
    let names: Vec<_> = (0..300).map(|n| format!("{}-{n}", n * 7919 % 300)).collect();
    for name in &names {
        one(&space.broker, name).await;
    }
    assert_eq!(pulled(&queue, 999).await, names);
    let bodies: Vec<_> = names.iter().map(|name| json!({"facet": name, "topic": "t"})).collect();
    space.broker.deliver_all(&bodies).await.unwrap();
    assert_eq!(pulled(&queue, 999).await, names);
    space.end().await;
}

#[tokio::test]
async fn a_loud_facet_that_was_first_does_not_delay_the_quiet_ones_behind_it() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "loud", 5000).await;
    for n in 0..10 {
        one(&space.broker, &format!("quiet-{n}")).await;
    }
    let served = pulled(&queue, 12).await;
    assert_eq!(counts(&served).len(), 11, "{served:?}");
    space.delete().await;
}

#[tokio::test]
async fn a_debt_is_forgotten_once_the_queue_has_served_all() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("slow").set_weight(0.001).await.unwrap();
    deliver(&space.broker, "slow", 2).await;
    assert_eq!(pulled(&queue, 9).await.len(), 2);
    one(&space.broker, "slow").await;
    one(&space.broker, "other").await;
    pulled(&queue, 2).await;
    queue.facet("slow").configure(|facet| facet.weight = None).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn what_comes_back_waits_for_the_turn_of_its_facet() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "crashed", 20).await;
    let _gone = queue.lease_many(20).await.unwrap();
    deliver(&space.broker, "fresh", 3).await;
    space.clock.advance(std::time::Duration::from_secs(30));
    let order = pulled(&queue, 6).await;
    assert_eq!(counts(&order)["fresh"], 3, "{order:?}");
    assert_eq!(pulled(&queue, 99).await.len(), 17);
    space.end().await;
}

#[tokio::test]
async fn several_workers_at_once_serve_as_fairly_as_one() {
    let (space, queue) = Space::with_queue().await;
    for (facet, weight) in [("a", 1.0), ("b", 1.0), ("c", 2.0), ("d", 4.0)] {
        queue.facet(facet).set_weight(weight).await.unwrap();
        deliver(&space.broker, facet, 500).await;
    }
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..8 {
        let broker = space.another().await;
        workers.spawn(async move {
            let mut ids = Vec::new();
            let mut facets = Vec::new();
            while facets.len() < 100 {
                let most = 1 + worker % 3;
                let leased =
                    broker.queue("q").lease_many(most.min(100 - facets.len())).await.unwrap();
                ids.extend(leased.iter().map(|delivery| delivery.id()));
                facets.extend(leased.iter().map(|delivery| delivery.facet().to_owned()));
                assert!(broker.ack_all(leased).await.unwrap().is_empty());
            }
            (ids, facets)
        });
    }
    let done = workers.join_all().await;
    let ids: HashSet<_> = done.iter().flat_map(|(ids, _)| ids).collect();
    assert_eq!(ids.len(), 800, "none twice");
    let facets: Vec<_> = done.iter().flat_map(|(_, facets)| facets.clone()).collect();
    let counts = counts(&facets);
    for (facet, share) in [("a", 100), ("b", 100), ("c", 200), ("d", 400)] {
        assert!(counts[facet].abs_diff(share) <= 4, "{counts:?}");
    }
    space.delete().await;
}

#[tokio::test]
async fn a_batch_spreads_over_the_facets_as_singles_would() {
    let (space, queue) = Space::with_queue().await;
    for facet in ["a", "b", "c"] {
        deliver(&space.broker, facet, 10).await;
    }
    let batch = queue.pull_many(7).await.unwrap();
    let order: String =
        batch.into_iter().map(|one| one.unwrap()["facet"].as_str().unwrap().to_owned()).collect();
    assert_eq!(order, "abcabca");
    space.delete().await;
}

#[derive(Debug, Clone)]
enum Do {
    Deliver { facet: usize, n: u64 },
    Weigh { facet: usize, weight: f64 },
    Serve { n: usize },
}

fn doing() -> impl Strategy<Value = Do> {
    let weight =
        prop_oneof![Just(1.0), 0.001..1000.0, (-3.0..3.0f64).prop_map(|power| 10f64.powf(power))];
    prop_oneof![
        4 => (0..30usize, 1..20u64).prop_map(|(facet, n)| Do::Deliver { facet, n }),
        1 => (0..30usize, weight).prop_map(|(facet, weight)| Do::Weigh { facet, weight }),
        4 => (1..40usize).prop_map(|n| Do::Serve { n }),
    ]
}

fn cases(cases: u32) -> Config {
    Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() }
}

proptest! {
    #![proptest_config(cases(60))]

    /// The first bound, taken from the outside: what was served, and nothing else.
    #[test]
    fn two_facets_that_both_wait_are_never_more_than_a_turn_of_each_apart(
        steps in prop::collection::vec(doing(), 1..60)
    ) {
        support::RUNTIME.block_on(async {
            let (space, queue) = Space::with_queue().await;
            let name = |facet: usize| format!("f{facet}");
            let mut waiting: BTreeMap<String, u64> = BTreeMap::new();
            let mut weights: HashMap<String, f64> = HashMap::new();
            // For each pair that waits: how far apart they are, and the least and most of it since
            // both wait.
            let mut apart: HashMap<(String, String), (f64, f64, f64)> = HashMap::new();
            for step in steps {
                match step {
                    Do::Deliver { facet, n } => {
                        deliver(&space.broker, &name(facet), n).await;
                        *waiting.entry(name(facet)).or_default() += n;
                    }
                    Do::Weigh { facet, weight } => {
                        queue.facet(name(facet)).set_weight(weight).await.unwrap();
                        weights.insert(name(facet), weight);
                        apart.retain(|(a, b), _| *a != name(facet) && *b != name(facet));
                    }
                    Do::Serve { n } => {
                        let served = queue.pull_many(n).await.unwrap();
                        let there = waiting.values().sum::<u64>() as usize;
                        assert_eq!(served.len(), n.min(there), "a call gives what is there");
                        for message in served {
                            let facet = message.unwrap()["facet"].as_str().unwrap().to_owned();
                            let weight = |facet: &str| weights.get(facet).copied().unwrap_or(1.0);
                            for other in waiting.keys().filter(|other| **other != facet) {
                                let first = facet < *other;
                                let pair = if first { (facet.clone(), other.clone()) } else { (other.clone(), facet.clone()) };
                                let (now, least, most) = apart.entry(pair).or_default();
                                *now += if first { 1.0 } else { -1.0 } / weight(&facet);
                                (*least, *most) = (least.min(*now), most.max(*now));
                                let bound = 1.0 / weight(&facet) + 1.0 / weight(other);
                                assert!(*most - *least <= bound * (1.0 + 1e-6) + 1e-3,
                                    "{facet} and {other}: {} apart, {bound} allowed", *most - *least);
                            }
                            let left = waiting.get_mut(&facet).unwrap();
                            *left -= 1;
                            if *left == 0 {
                                waiting.remove(&facet);
                                apart.retain(|(a, b), _| *a != facet && *b != facet);
                            }
                        }
                    }
                }
            }
            space.delete().await;
        });
    }

    /// The second bound, for equal weights: how many others pass a message at the head of its
    /// facet.
    #[test]
    fn a_message_at_the_head_of_its_facet_is_passed_by_a_bounded_number_of_others(
        steps in prop::collection::vec((0..40usize, 1..6u64, 0..4usize), 1..80)
    ) {
        support::RUNTIME.block_on(heads(steps, |waiting, early| 5 * waiting + 3 * early));
    }

    #[test]
    fn newcomers_of_one_message_pass_it_less_often(
        steps in prop::collection::vec((0..40usize, 1..6u64, 0..4usize), 1..80)
    ) {
        let steps = steps.into_iter();
        let steps = steps.map(|(facet, n, pulls)| (facet, if facet % 2 == 0 { n } else { 1 }, pulls));
        support::RUNTIME.block_on(heads(steps.collect(), |waiting, early| 4 * waiting + early));
    }
}

/// Delivers and pulls, a facet, its messages and the pulls at each step, and counts how many others
/// pass each message while it is at the head of its facet. `most` says how many may: of the facets
/// that wait or are in debt when it gets there, and the places at the front.
async fn heads(steps: Vec<(usize, u64, usize)>, most: fn(u64, u64) -> u64) {
    let (space, queue) = Space::with_queue().await;
    let mut waiting: BTreeMap<String, u64> = BTreeMap::new();
    let mut heads: HashMap<String, (u64, u64)> = HashMap::new();
    for (n, (facet, messages, pulls)) in steps.into_iter().enumerate() {
        // Every second one comes once and never again.
        let facet = if facet % 2 == 0 { format!("f{facet}") } else { format!("once-{n}") };
        let new = !waiting.contains_key(&facet);
        deliver(&space.broker, &facet, messages).await;
        *waiting.entry(facet.clone()).or_default() += messages;
        if new {
            heads.insert(facet, (0, allowed(&space, most).await));
        }
        for _ in 0..pulls {
            let Some(facet) = pulled(&queue, 1).await.pop() else { break };
            for (_, (passed, most)) in heads.iter_mut().filter(|(other, _)| **other != facet) {
                *passed += 1;
                assert!(*passed <= *most, "passed {passed} times, {most} are allowed");
            }
            let left = waiting.get_mut(&facet).unwrap();
            *left -= 1;
            if *left == 0 {
                waiting.remove(&facet);
                heads.remove(&facet);
            } else {
                heads.insert(facet, (0, allowed(&space, most).await));
            }
        }
    }
    space.delete().await;
}

async fn allowed(space: &Space, most: fn(u64, u64) -> u64) -> u64 {
    let mut state = redis::pipe();
    state.cmd("ZCARD").arg(space.of("q", "ready"));
    state.cmd("HGET").arg(space.of("q", "clock")).arg("floor");
    state.cmd("HGET").arg(space.of("q", "clock")).arg("early");
    let mut raw = support::raw().await;
    let (ready, floor, early): (u64, Option<String>, Option<f64>) =
        state.query_async(&mut raw).await.unwrap();
    let mut in_debt = redis::cmd("ZCOUNT");
    in_debt.arg(space.of("q", "idle")).arg(format!("({}", floor.unwrap_or("0".into()))).arg("+inf");
    let in_debt: u64 = in_debt.query_async(&mut raw).await.unwrap();
    most(ready + in_debt, early.unwrap_or(0.0) as u64)
}
