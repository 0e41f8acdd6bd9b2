//! What messages cost, and that facets are served in turns by that.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    time::Duration,
};

use fairlane::{Delivery, Error, FacetSettings, FacetState, Invalid, Message, Queue};

use crate::support::{Space, counts, deliver, message, pulled};

const SECOND: Duration = Duration::from_secs(1);

async fn deliver_at(space: &Space, facet: &str, n: u64, cost: f64) {
    let bodies: Vec<_> = (0..n).map(|n| message(facet, "t", n)).collect();
    let messages = bodies.iter().map(|body| Message::new(body).cost(cost));
    space.broker.deliver_all(messages).await.unwrap();
}

async fn turn(queue: &Queue, facet: &str) -> Option<f64> {
    queue.facet(facet).stats().await.unwrap().turn
}

async fn lease_of(queue: &Queue, facet: &str) -> Delivery {
    let delivery = queue.lease().await.unwrap().unwrap();
    assert_eq!(delivery.facet(), facet);
    delivery
}

async fn empty(queue: &Queue) {
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
}

/// Four workers take one after the other for a minute, each as long as it costs, and say so. Returns
/// how long they worked for each facet, in ms, in each ten seconds.
async fn work(space: &Space, queue: &Queue, costs: &[(&str, u64)]) -> Vec<BTreeMap<String, u64>> {
    let costs: HashMap<&str, u64> = costs.iter().copied().collect();
    let from = space.clock.now();
    let mut busy = vec![BTreeMap::<String, u64>::new(); 6];
    let mut working = BinaryHeap::new();
    let mut in_hand: [Option<Delivery>; 4] = [const { None }; 4];
    for worker in 0..4 {
        working.push(Reverse((from, worker)));
    }
    while let Some(Reverse((at, worker))) = working.pop() {
        space.clock.advance(Duration::from_millis(at - space.clock.now()));
        if let Some(done) = in_hand[worker].take() {
            let cost = costs[done.facet()] as f64;
            done.ack_cost(cost).await.unwrap();
        }
        if at < from + 60_000 {
            let next = queue.lease().await.unwrap().unwrap();
            let cost = costs[next.facet()];
            let window = &mut busy[((at - from) / 10_000) as usize];
            *window.entry(next.facet().to_owned()).or_default() += cost;
            in_hand[worker] = Some(next);
            working.push(Reverse((at + cost, worker)));
        }
    }
    busy
}

fn total(busy: &[BTreeMap<String, u64>], facet: &str) -> f64 {
    busy.iter().map(|window| window.get(facet).copied().unwrap_or_default()).sum::<u64>() as f64
}

#[tokio::test]
async fn facets_whose_messages_take_10_and_100_ms_share_the_time_of_the_workers() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "quick", 14_000).await;
    deliver(&space.broker, "slow", 1_400).await;
    let busy = work(&space, &queue, &[("quick", 10), ("slow", 100)]).await;
    for window in busy.chunks(1).chain([&busy[..]]) {
        let (quick, slow) = (total(window, "quick"), total(window, "slow"));
        assert!((0.9..=1.1).contains(&(quick / slow)), "{busy:?}");
    }
    assert!(total(&busy, "quick") + total(&busy, "slow") >= 240_000.0, "no worker was idle");
    empty(&queue).await;
    space.end().await;
}

#[tokio::test]
async fn weights_are_shares_of_the_time_of_the_workers() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("slow").set_weight(3.0).await.unwrap();
    for (facet, n) in [("quick", 2_800), ("slow", 4_000), ("other", 1_200)] {
        deliver(&space.broker, facet, n).await;
    }
    let busy = work(&space, &queue, &[("quick", 20), ("slow", 50), ("other", 50)]).await;
    let (quick, slow, other) = (total(&busy, "quick"), total(&busy, "slow"), total(&busy, "other"));
    assert!((0.9..=1.1).contains(&(quick / other)), "{busy:?}");
    assert!((2.7..=3.3).contains(&(slow / other)), "{busy:?}");
    empty(&queue).await;
    queue.facet("slow").configure(|facet| facet.weight = None).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_facet_whose_messages_are_ten_times_as_dear_gets_a_tenth_of_the_messages() {
    let (space, queue) = Space::with_queue().await;
    deliver_at(&space, "dear", 60, 10.0).await;
    deliver(&space.broker, "cheap", 600).await;
    for _ in 0..4 {
        let served = pulled(&queue, 110).await;
        assert!((9..=11).contains(&counts(&served)["dear"]), "{:?}", counts(&served));
    }
    let batch = queue.lease_many(110).await.unwrap();
    let dear = batch.iter().filter(|delivery| delivery.facet() == "dear").count();
    assert!((9..=11).contains(&dear), "{dear}");
    assert!(space.broker.ack_all(batch).await.unwrap().is_empty());
    empty(&queue).await;
    space.end().await;
}

#[tokio::test]
async fn each_message_has_a_cost_of_its_own() {
    let (space, queue) = Space::with_queue().await;
    deliver_at(&space, "mixed", 1, 4.0).await;
    deliver_at(&space, "mixed", 20, 0.5).await;
    deliver(&space.broker, "steady", 20).await;
    let served = pulled(&queue, 14).await;
    let mixed: Vec<_> = (0..14).filter(|n| served[*n] == "mixed").collect();
    let steady_before: Vec<_> = mixed.iter().enumerate().map(|(k, n)| n - k).collect();
    assert!(steady_before[1] - steady_before[0] >= 3, "four of the others for the dear one");
    let cheap = &steady_before[1..];
    assert!(cheap[cheap.len() - 1] - cheap[0] <= cheap.len() / 2 + 1, "{served:?}");
    empty(&queue).await;
    space.end().await;
}

#[tokio::test]
async fn a_cost_that_is_said_at_the_ack_moves_the_turn_by_the_difference() {
    let (space, queue) = Space::with_queue().await;
    queue.facet("heavy").set_weight(2.0).await.unwrap();
    deliver(&space.broker, "a", 9).await;
    deliver_at(&space, "heavy", 9, 6.0).await;
    let batch = queue.lease_many(4).await.unwrap();
    for delivery in batch {
        let facet = delivery.facet().to_owned();
        let (charged, cost, weight) = if facet == "a" { (1.0, 3.5, 1.0) } else { (6.0, 0.5, 2.0) };
        let before = turn(&queue, &facet).await.unwrap();
        delivery.ack_cost(cost).await.unwrap();
        let moved = turn(&queue, &facet).await.unwrap() - before;
        assert!((moved - (cost - charged) / weight).abs() < 1e-5, "{facet}: {moved}");
    }
    let delivery = queue.lease().await.unwrap().unwrap();
    let (facet, token) = (delivery.facet().to_owned(), delivery.token().clone());
    let before = turn(&queue, &facet).await;
    delivery.ack().await.unwrap();
    assert_eq!(turn(&queue, &facet).await, before, "an ack without a cost moves nothing");
    assert!(matches!(space.broker.ack_cost(&token, 99.0).await, Err(Error::LeaseLost(_))));
    assert_eq!(turn(&queue, &facet).await, before, "nor does one of a lease that is lost");
    empty(&queue).await;
    queue.facet("heavy").configure(|facet| facet.weight = None).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_cost_moves_the_turn_of_a_parked_facet() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 3).await;
    deliver(&space.broker, "b", 9).await;
    let (one, _b, two) =
        (lease_of(&queue, "a").await, lease_of(&queue, "b").await, lease_of(&queue, "a").await);
    queue.facet("a").pause().await.unwrap();
    assert_eq!(queue.facet("a").stats().await.unwrap().state, FacetState::Parked);
    let before = turn(&queue, "a").await.unwrap();
    one.ack_cost(5.0).await.unwrap();
    assert_eq!(turn(&queue, "a").await, Some(before + 4.0));
    two.ack_cost(0.5).await.unwrap();
    assert_eq!(turn(&queue, "a").await, Some(before + 3.5));
    queue.facet("a").resume().await.unwrap();
    assert_eq!(turn(&queue, "a").await, Some(before + 3.5), "and it keeps that");
    assert_eq!(pulled(&queue, 3).await, ["b"; 3]);
    space.clock.advance(60 * SECOND);
    empty(&queue).await;
    space.end().await;
}

#[tokio::test]
async fn a_cost_is_owed_by_a_facet_that_has_nothing_waiting() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    deliver(&space.broker, "b", 99).await;
    let (one, b, two) =
        (lease_of(&queue, "a").await, lease_of(&queue, "b").await, lease_of(&queue, "a").await);
    b.ack().await.unwrap();
    one.ack_cost(8.0).await.unwrap();
    let stats = queue.facet("a").stats().await.unwrap();
    assert_eq!(stats.state, FacetState::InDebt);
    two.ack_cost(3.0).await.unwrap();
    assert_eq!(turn(&queue, "a").await, Some(stats.turn.unwrap() + 2.0));
    deliver(&space.broker, "a", 2).await;
    let served = pulled(&queue, 20).await;
    let first = served.iter().position(|facet| facet == "a").unwrap();
    assert!((7..=11).contains(&first), "it comes back behind what it owes: {served:?}");
    empty(&queue).await;
    space.end().await;
}

#[tokio::test]
async fn a_debt_that_was_too_large_is_taken_back() {
    let (space, queue) = Space::with_queue().await;
    deliver_at(&space, "a", 1, 50.0).await;
    deliver(&space.broker, "b", 99).await;
    let one = lease_of(&queue, "a").await;
    assert_eq!(pulled(&queue, 2).await, ["b", "b"]);
    assert_eq!(queue.facet("a").stats().await.unwrap().state, FacetState::InDebt);
    one.ack_cost(1.0).await.unwrap();
    assert_ne!(queue.facet("a").stats().await.unwrap().state, FacetState::InDebt);
    deliver(&space.broker, "a", 3).await;
    let served = pulled(&queue, 5).await;
    assert!((2..=3).contains(&counts(&served)["a"]), "{served:?}");
    empty(&queue).await;
    space.end().await;
}

#[tokio::test]
async fn a_cost_that_is_said_when_nothing_waits_is_forgotten() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    lease_of(&queue, "a").await.ack_cost(1e9).await.unwrap();
    deliver(&space.broker, "a", 2).await;
    deliver(&space.broker, "b", 2).await;
    assert_eq!(counts(&pulled(&queue, 2).await), [("a", 1), ("b", 1)].into());
    empty(&queue).await;
    space.end().await;
}

#[tokio::test]
async fn a_cost_stays_with_a_message_that_comes_back() {
    let (space, queue) = Space::with_queue().await;
    deliver_at(&space, "a", 1, 7.0).await;
    deliver(&space.broker, "b", 9).await;
    lease_of(&queue, "a").await.nack().await.unwrap();
    lease_of(&queue, "b").await.nack_after(SECOND).await.unwrap();
    queue.facet("b").pause().await.unwrap();
    let one = lease_of(&queue, "a").await;
    queue.facet("b").resume().await.unwrap();
    let before = turn(&queue, "a").await.unwrap();
    one.ack_cost(8.0).await.unwrap();
    assert_eq!(turn(&queue, "a").await, Some(before + 1.0));
    space.clock.advance(SECOND);
    empty(&queue).await;
    space.end().await;
}

#[tokio::test]
async fn a_cost_is_0_001_to_1_000_000_000() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let delivery = queue.lease().await.unwrap().unwrap();
    let (before, stats) = (space.keys().await, queue.stats().await.unwrap());
    let body = message("a", "t", 1);
    for bad in [0.0, -0.0, -1.0, 0.000_9, 2e9, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let lone = space.broker.deliver(Message::new(&body).cost(bad)).await.map(drop);
        let batch = [Message::new(&body), Message::new(&body).cost(bad)];
        let batch = space.broker.deliver_all(batch).await.map(drop);
        let acked = space.broker.ack_cost(delivery.token(), bad).await;
        for outcome in [lone, batch, acked] {
            let Err(Error::Invalid(Invalid::OutOfRange { what, .. })) = outcome else {
                panic!("{bad}: {outcome:?}")
            };
            assert_eq!(what, "cost");
        }
    }
    assert_eq!((space.keys().await, queue.stats().await.unwrap()), (before, stats));
    delivery.ack_cost(0.001).await.unwrap();
    for good in [0.001, 1e9] {
        space.broker.deliver(Message::new(&body).cost(good)).await.unwrap();
        queue.lease().await.unwrap().unwrap().ack_cost(1e9).await.unwrap();
    }
    queue.facet("a").configure(|facet| *facet = FacetSettings::default()).await.unwrap();
    space.end().await;
}
