//! A namespace that is divided: what holds for one partition holds over all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::IntoFuture,
    time::{Duration, Instant},
};

use fairlane::{Broker, Cursor, Error, ErrorKind, Invalid, Message, Queue, Token};

use crate::support::{Proxy, Server, Space, deliver, message, numbers, run, until};

const SECOND: Duration = Duration::from_secs(1);

async fn divided() -> (Space, Queue) {
    let space = Space::with(|builder| builder.partitions(4)).await;
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    (space, queue)
}

/// The facets `f0`, `f1` and so on that are in each partition, as many of each as that asks for.
async fn facets_of(space: &Space, wanted: [usize; 4]) -> [Vec<String>; 4] {
    let mut facets: [Vec<String>; 4] = Default::default();
    for n in 0.. {
        if (0..4).all(|place| facets[place].len() == wanted[place]) {
            break;
        }
        let facet = format!("f{n}");
        let id = space.broker.deliver(&message(&facet, "probe", 0)).await.unwrap().id;
        let place = id.to_string().parse::<usize>().unwrap() % 4;
        if facets[place].len() < wanted[place] {
            facets[place].push(facet);
        }
    }
    facets
}

/// A facet of each of two partitions.
async fn one_of_each(broker: &Broker) -> [String; 2] {
    let mut facets: [String; 2] = Default::default();
    for n in 0.. {
        let facet = format!("f{n}");
        let id = broker.deliver(&message(&facet, "probe", 0)).await.unwrap().id;
        facets[id.to_string().parse::<usize>().unwrap() % 2] = facet;
        if facets.iter().all(|facet| !facet.is_empty()) {
            break;
        }
    }
    facets
}

/// How evenly each facet was served for its weight: 1 is perfect, 1/n that one of n has had it all.
fn jain(served: &BTreeMap<String, f64>) -> f64 {
    let (sum, squares) = served.values().fold((0.0, 0.0), |(a, b), x| (a + x, b + x * x));
    sum * sum / (served.len() as f64 * squares)
}

#[tokio::test]
async fn a_facet_is_in_one_partition_and_keeps_its_order_there() {
    let (space, queue) = divided().await;
    for facet in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        deliver(&space.broker, facet, 20).await;
    }
    assert_eq!(space.keys().await, ["layout"], "of the namespace itself");
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut seen = 0;
    while let Some(delivery) = queue.lease().await.unwrap() {
        let n = delivery.message().unwrap()["n"].as_u64().unwrap();
        let before = last.insert(delivery.facet().to_owned(), n);
        assert_eq!(before.map_or(0, |before| before + 1), n, "of {}", delivery.facet());
        delivery.ack().await.unwrap();
        seen += 1;
    }
    assert_eq!(seen, 160);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.delivered, stats.served, stats.acked), (160, 160, 160));
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn the_number_of_a_message_and_its_token_say_where_it_is() {
    let (space, queue) = divided().await;
    let batch: Vec<_> = (0..100).map(|n| message(&format!("f{n}"), "t", n)).collect();
    let receipts = space.broker.deliver_all(&batch).await.unwrap();
    let ids: BTreeSet<_> = receipts.iter().map(|receipt| receipt.id).collect();
    assert_eq!(ids.len(), 100, "each has a number of its own");
    let mut leased = queue.lease_many(1000).await.unwrap();
    assert_eq!(leased.len(), 100, "of all partitions");
    for delivery in &leased {
        let n = delivery.message().unwrap()["n"].as_u64().unwrap() as usize;
        assert_eq!(delivery.id(), receipts[n].id);
    }
    // Any process settles them by their text.
    let other = space.another().await;
    let one = leased.pop().unwrap();
    let token: Token = one.token().to_string().parse().unwrap();
    other.ack(&token).await.unwrap();
    assert!(matches!(one.ack().await, Err(Error::LeaseLost(id)) if id == token_id(&token)));
    assert!(other.ack_all(leased).await.unwrap().is_empty());
    assert_eq!(queue.stats().await.unwrap().acked, 100);
    queue.destroy().await.unwrap();
    space.delete().await;
}

fn token_id(token: &Token) -> fairlane::MessageId {
    token.to_string().split('/').nth(1).unwrap().parse().unwrap()
}

/// Serves `n` messages, and returns how evenly facets of these weights were served.
async fn evenness(
    queues: &[Queue],
    weights: &BTreeMap<String, f64>,
    n: usize,
    batch: usize,
) -> f64 {
    let mut served: BTreeMap<String, f64> =
        weights.keys().map(|facet| (facet.clone(), 0.0)).collect();
    let mut left = n;
    while left > 0 {
        for queue in queues {
            for delivery in queue.lease_many(batch.min(left)).await.unwrap() {
                let facet = delivery.facet();
                *served.get_mut(facet).unwrap() += 1.0 / weights[facet];
                left -= 1;
            }
        }
    }
    jain(&served)
}

#[tokio::test]
async fn weights_hold_over_all_partitions_however_unevenly_facets_are_spread() {
    let (space, queue) = divided().await;
    // Of the weight that is ready, nine tenths are in one partition.
    let facets = facets_of(&space, [54, 2, 2, 2]).await;
    queue.destroy().await.unwrap();
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    let mut weights = BTreeMap::new();
    for (n, facet) in facets.iter().flatten().enumerate() {
        let weight = [1.0, 2.0, 3.0][n % 3];
        queue.facet(facet).set_weight(weight).await.unwrap();
        weights.insert(facet.clone(), weight);
    }
    let heavy: f64 = facets[0].iter().map(|facet| weights[facet]).sum();
    assert!(heavy / weights.values().sum::<f64>() >= 0.9, "{heavy}");
    for facet in weights.keys() {
        deliver(&space.broker, facet, 500).await;
    }
    let one = evenness(std::slice::from_ref(&queue), &weights, 3000, 1).await;
    let others: Vec<_> = [space.another().await, space.another().await, space.another().await]
        .iter()
        .map(|broker| broker.queue("q"))
        .collect();
    let several = evenness(&others, &weights, 3000, 10).await;
    println!("Jain's index over weights: {one:.4} by one worker, {several:.4} by three in batches");
    assert!(one >= 0.95, "{one}");
    assert!(several >= 0.95, "{several}");
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn a_partition_whose_turns_are_short_has_no_more_than_its_share() {
    let (space, queue) = divided().await;
    queue.configure(|queue| queue.facets.weight = Some(1000.0)).await.unwrap();
    // In the first, each message moves the round by less than a millionth of a turn.
    let facets = facets_of(&space, [1200, 200, 1, 1]).await;
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    let several = facets.iter().flatten().flat_map(|facet| (0..3).map(move |n| (facet, n)));
    let batch: Vec<_> = several.map(|(facet, n)| message(facet, "t", n)).collect();
    space.broker.deliver_all(&batch).await.unwrap();
    let mut others = 0;
    for _ in 0..701 {
        let pulled = queue.pull().await.unwrap().unwrap();
        let facet = pulled["facet"].as_str().unwrap().to_owned();
        others += usize::from(!facets[0].contains(&facet));
    }
    // 202 of 1,402 facets, in half a round.
    assert!((90..112).contains(&others), "{others} of 701");
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn a_flood_of_newcomers_in_one_partition_does_not_starve_the_others() {
    let (space, queue) = divided().await;
    let facets = facets_of(&space, [400, 1, 1, 1]).await;
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    for facet in facets[1..].iter().flatten() {
        deliver(&space.broker, facet, 200).await;
    }
    let mut standing = 0;
    for newcomer in &facets[0] {
        space.broker.deliver(&message(newcomer, "t", 0)).await.unwrap();
        let pulled = queue.pull().await.unwrap().unwrap();
        standing += usize::from(!facets[0].contains(&pulled["facet"].as_str().unwrap().to_owned()));
    }
    // With the one that comes, and those that wait, they are a growing number: in 400 pulls each of three
    // has its share of what is ready.
    assert!(standing >= 30, "{standing} of 400");
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn one_who_waits_wakes_for_each_partition() {
    let (space, queue) = divided().await;
    let facets = facets_of(&space, [1, 1, 1, 1]).await;
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    for facet in facets.iter().flatten() {
        let waiting = tokio::spawn(queue.lease().wait(60 * SECOND).into_future());
        tokio::time::sleep(SECOND / 20).await;
        let from = Instant::now();
        space.broker.deliver(&message(facet, "t", 1)).await.unwrap();
        let delivery = waiting.await.unwrap().unwrap().unwrap();
        assert_eq!(delivery.facet(), facet);
        assert!(from.elapsed() < SECOND, "{:?}", from.elapsed());
        delivery.ack().await.unwrap();
    }
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn a_partition_that_had_nothing_is_looked_at_soon_while_others_have_a_backlog() {
    let (space, queue) = divided().await;
    let facets = facets_of(&space, [1, 1, 1, 1]).await;
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    deliver(&space.broker, &facets[0][0], 2000).await;
    for _ in 0..50 {
        queue.pull().await.unwrap();
    }
    for quiet in facets[1..].iter().flatten() {
        space.broker.deliver(&message(quiet, "t", 1)).await.unwrap();
        let from = Instant::now();
        while queue.pull().await.unwrap().unwrap()["facet"].as_str().unwrap() != quiet {}
        assert!(from.elapsed() < SECOND / 4, "{:?}", from.elapsed());
    }
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn a_listener_hears_what_goes_to_any_partition() {
    let (space, queue) = divided().await;
    space.may_hear(&["t"]).await;
    let mut listener = space.broker.listen("t").await.unwrap();
    for n in 0..20 {
        let receipt = space.broker.deliver(&message(&format!("f{n}"), "t", n)).await.unwrap();
        assert_eq!(receipt.listeners, 1);
        assert_eq!(listener.next().await.unwrap().unwrap().message["n"], n);
    }
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn what_is_looked_at_is_of_all_partitions() {
    let (space, queue) = divided().await;
    let names: Vec<String> = (0..300).map(|n| format!("f{n}")).collect();
    let batch: Vec<_> = names.iter().map(|name| message(name, "t", 0)).collect();
    space.broker.deliver_all(&batch).await.unwrap();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.facets_ready), (300, 300));
    let (mut seen, mut from) = (BTreeSet::new(), Some(Cursor::default()));
    while let Some(cursor) = from {
        let (page, next) = queue.facets(cursor).await.unwrap();
        seen.extend(page.into_iter().map(|facet| facet.facet));
        from = next;
    }
    assert_eq!(seen, names.iter().cloned().collect());
    let why = queue.why_all(&names).await.unwrap();
    let found: Vec<_> = why.into_iter().map(|why| why.stats.facet).collect();
    assert_eq!(found, names, "in the order in which they were asked for");
    let peeked = queue.peek(100).await.unwrap();
    let of: BTreeSet<_> =
        peeked.iter().map(|peeked| peeked.id.to_string().parse::<u64>().unwrap() % 4).collect();
    assert_eq!((peeked.len(), of.len()), (100, 4));
    assert!(queue.doctor().await.unwrap().is_empty());
    // What dies is in the partition of its facet.
    for delivery in queue.lease_many(40).await.unwrap() {
        delivery.bury("enough").await.unwrap();
    }
    let (mut dead, mut from) = (Vec::new(), Some(Cursor::default()));
    while let Some(cursor) = from {
        let (page, next) = queue.dead_letters().page(cursor).await.unwrap();
        dead.extend(page);
        from = next;
    }
    assert_eq!(dead.len(), 40);
    queue.dead_letters().redrive_one(dead[0].id).await.unwrap();
    queue.dead_letters().of(&dead[1].facet).purge_one(dead[1].id).await.unwrap();
    let other = dead[2..].iter().find(|letter| letter.facet != dead[2].facet).unwrap();
    let wrong = queue.dead_letters().of(&other.facet).purge_one(dead[2].id).await;
    assert!(matches!(wrong, Err(Error::NoSuchMessage(id)) if id == dead[2].id));
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 38);
    let facet = queue.facet("f299");
    let there = space.broker.deliver(&message("f299", "t", 1)).await.unwrap().id;
    facet.remove(there).await.unwrap();
    assert!(matches!(facet.remove(there).await, Err(Error::NoSuchMessage(_))));
    queue.destroy().await.unwrap();
    let left: Vec<_> =
        space.all_keys().await.into_iter().filter(|key| key.contains(":q:")).collect();
    assert!(left.is_empty(), "{left:?}");
    space.delete().await;
}

#[tokio::test]
async fn settings_hold_in_all_partitions() {
    let (space, queue) = divided().await;
    queue.configure(|queue| queue.facets.max_leased = Some(1)).await.unwrap();
    for n in 0..20 {
        deliver(&space.broker, &format!("f{n}"), 3).await;
    }
    let leased = queue.lease_many(1000).await.unwrap();
    assert_eq!(leased.len(), 20, "one of each");
    assert!(space.broker.ack_all(leased).await.unwrap().is_empty());
    queue.pause().await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    queue.resume().await.unwrap();
    assert_eq!(numbers(&queue).await.len(), 40);
    queue.pause_intake().await.unwrap();
    for n in 0..20 {
        let refused = space.broker.deliver(&message(&format!("f{n}"), "t", 1)).await;
        assert!(matches!(refused, Err(Error::Refused { .. })));
    }
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn a_key_keeps_a_delivery_from_being_made_twice_and_its_receipt_has_the_same_number() {
    let (space, queue) = divided().await;
    for n in 0..20 {
        let body = message(&format!("f{n}"), "t", n);
        let first = space.broker.deliver(Message::new(&body).key("once")).await.unwrap();
        let again = space.broker.deliver(Message::new(&body).key("once")).await.unwrap();
        assert_eq!((again.id, again.duplicate), (first.id, true));
    }
    assert_eq!(queue.stats().await.unwrap().waiting, 20);
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn a_batch_of_which_a_part_fails_says_what_is_delivered() {
    let (space, queue) = divided().await;
    let facets = facets_of(&space, [1, 1, 1, 1]).await;
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    // A key in the way of one facet refuses the part that has it.
    let bad = &facets[2][0];
    run::<()>(&["SET", &format!("{{{}:2}}:q:q:f:{bad}", space.name), "in the way"]).await;
    let facet = |n: u64| match n {
        600 => bad.clone(),
        n => facets[[0, 1, 3][n as usize % 3]][0].clone(),
    };
    let batch: Vec<_> = (0..1000).map(|n| message(&facet(n), "t", n)).collect();
    match space.broker.deliver_all(&batch).await {
        Err(Error::Interrupted { delivered, beyond, source }) => {
            assert_eq!(delivered.len(), 600, "up to the one that failed");
            assert_eq!(beyond.len(), 399);
            assert_eq!((beyond[0].0, beyond[398].0), (601, 999));
            assert!(matches!(*source, Error::WrongType(_)));
        }
        other => panic!("{:?}", other.map(|receipts| receipts.len())),
    }
    assert_eq!(queue.stats().await.unwrap().waiting, 999);
    space.delete().await;
}

async fn connect(space: &Space, partitions: Option<u32>) -> Result<Broker, Error> {
    let builder = space.builder();
    match partitions {
        Some(partitions) => builder.partitions(partitions).connect().await,
        None => builder.connect().await,
    }
}

#[tokio::test]
async fn who_says_nothing_of_partitions_has_those_of_the_namespace() {
    let (space, queue) = divided().await;
    deliver(&space.broker, "a", 3).await;
    let broker = connect(&space, None).await.unwrap();
    assert_eq!(broker.queue("q").pull_many(9).await.unwrap().len(), 3);
    assert_eq!(broker.queues().await.unwrap().len(), 1);
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn another_number_of_partitions_is_refused() {
    let (space, _queue) = divided().await;
    for wanted in [1, 2, 5] {
        match connect(&space, Some(wanted)).await.err().unwrap() {
            Error::Partitions { found: 4, wanted: refused } => {
                assert_eq!(refused, u64::from(wanted))
            }
            other => panic!("{other:?}"),
        }
    }
    connect(&space, Some(4)).await.unwrap();
    space.delete().await;
    // One that was not divided is one partition from its first queue on.
    let space = Space::new().await;
    space.broker.register_queue("q", ".").await.unwrap();
    let refused = connect(&space, Some(4)).await.err().unwrap();
    assert!(matches!(refused, Error::Partitions { found: 1, wanted: 4 }), "{refused:?}");
    for partitions in [0, 257] {
        let refused = connect(&space, Some(partitions)).await.err().unwrap();
        assert!(matches!(refused, Error::Invalid(Invalid::OutOfRange { .. })), "{refused:?}");
    }
    space.delete().await;
}

#[tokio::test]
async fn a_client_that_came_before_a_namespace_was_divided_is_refused_when_it_registers_a_queue() {
    let space = Space::new().await;
    let divided = connect(&space, Some(4)).await.unwrap();
    let refused = space.broker.register_queue("q", ".").await.err().unwrap();
    assert!(matches!(refused, Error::Server { ref code, .. } if code == "LAYOUT"), "{refused:?}");
    divided.register_queue("q", ".").await.unwrap();
    space.delete().await;
}

fn routes_at(space: &Space, place: u32) -> String {
    format!("{{{}:{place}}}:routes", space.name)
}

/// What each partition has of the routes, but their version.
async fn routes(space: &Space) -> Vec<BTreeMap<String, String>> {
    let mut all = Vec::new();
    for place in 0..4 {
        let mut routes: BTreeMap<String, String> =
            run(&["HGETALL", &routes_at(space, place)]).await;
        routes.retain(|field, _| !field.starts_with(':'));
        all.push(routes);
    }
    all
}

/// Of which queues the first partition knows that they were removed.
async fn marks(space: &Space) -> Vec<String> {
    let fields: BTreeSet<String> = run(&["HKEYS", &routes_at(space, 0)]).await;
    fields.iter().filter_map(|field| Some(field.strip_prefix(":gone:")?.to_owned())).collect()
}

/// Checks that all partitions have the routes of these queues, and nothing more.
#[track_caller]
fn check_routes(space: &Space, queues: &[&str]) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    async move {
        let all = routes(space).await;
        assert!(all.iter().all(|routes| routes.keys().eq(queues)), "{at}: {all:?}");
        assert!(all.iter().all(|routes| *routes == all[0]), "{at}: {all:?}");
    }
}

/// Does something while these partitions refuse to have their routes read or written. They keep them.
async fn without<Out>(space: &Space, away: &[u32], call: impl Future<Output = Out>) -> Out {
    let aside = |place| format!("{}:aside", routes_at(space, place));
    for place in away {
        run::<()>(&["RENAME", &routes_at(space, *place), &aside(*place)]).await;
        run::<()>(&["SET", &routes_at(space, *place), "in the way"]).await;
    }
    let out = call.await;
    for place in away {
        run::<()>(&["RENAME", &aside(*place), &routes_at(space, *place)]).await;
    }
    out
}

#[tokio::test]
async fn routes_that_did_not_reach_a_partition_are_brought_there_by_the_next_connect() {
    let (space, queue) = divided().await;
    space.broker.register_queue("changed", "^old$").await.unwrap();
    for (away, name) in [(&[3][..], "changed"), (&[1, 2, 3], "new")] {
        let missed =
            without(&space, away, space.broker.register_queue(name, "^new$")).await.err().unwrap();
        assert!(matches!(&missed, Error::Partly { missed, .. } if missed == away), "{missed:?}");
    }
    assert_ne!(routes(&space).await[3], routes(&space).await[0]);
    connect(&space, None).await.unwrap();
    check_routes(&space, &["changed", "new", "q"]).await;
    assert_eq!(routes(&space).await[3]["changed"], "^new$");
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn a_removal_that_did_not_reach_all_partitions_is_brought_to_its_end_by_the_next_connect() {
    let (space, _queue) = divided().await;
    // To reach none of the others is what is left of a process that dies.
    for away in [&[3][..], &[1, 2, 3]] {
        for destroys in [false, true] {
            let doomed = space.broker.register_queue("doomed", ".").await.unwrap();
            let removed = without(&space, away, async {
                match destroys {
                    true => doomed.destroy().await,
                    false => space.broker.unregister_queue("doomed").await.map(drop),
                }
            });
            let missed = removed.await.unwrap_err();
            assert!(matches!(&missed, Error::Partly { missed, .. } if missed == away));
            assert!(routes(&space).await[3].contains_key("doomed"));
            // What is registered later makes the routes of all of them as new.
            space.clock.advance(SECOND);
            let pattern = format!("^{destroys}{}$", away.len());
            space.broker.register_queue("other", &pattern).await.unwrap();
            let broker = connect(&space, None).await.unwrap();
            check_routes(&space, &["other", "q"]).await;
            assert_eq!(broker.queues().await.unwrap().len(), 2);
            for n in 0..20 {
                let receipt = broker.deliver(&message(&format!("f{n}"), "t", n)).await.unwrap();
                assert_eq!(*receipt.queues, ["q".to_owned()]);
            }
        }
    }
    space.delete().await;
}

#[tokio::test]
async fn a_queue_whose_removal_broke_off_can_be_removed_again_or_registered_again() {
    let (space, _queue) = divided().await;
    for round in 0..4 {
        space.broker.register_queue("r", ".").await.unwrap();
        without(&space, &[3], space.broker.unregister_queue("r")).await.unwrap_err();
        assert_eq!(marks(&space).await, ["r"]);
        assert_eq!(space.broker.queues().await.unwrap().len(), 1, "a mark is no queue");
        let pattern = format!("^{round}$");
        match round {
            0 => assert!(!space.broker.unregister_queue("r").await.unwrap()),
            1 => space.broker.queue("r").destroy().await.unwrap(),
            2 => drop(space.broker.register_queue("r", &pattern).await.unwrap()),
            // It is not reached again, and yet known to be registered.
            _ => drop(without(&space, &[3], space.broker.register_queue("r", &pattern)).await),
        }
        let expected: &[&str] = if round < 2 { &["q"] } else { &["q", "r"] };
        if round < 3 {
            check_routes(&space, expected).await;
        }
        connect(&space, None).await.unwrap();
        check_routes(&space, expected).await;
        assert_eq!(routes(&space).await[3].get("r"), (round >= 2).then_some(&pattern));
    }
    space.delete().await;
}

#[tokio::test]
async fn a_removal_leaves_nothing_behind_after_an_hour() {
    let (space, queue) = divided().await;
    let minute = 60 * SECOND;
    let doomed = space.broker.register_queue("doomed", ".").await.unwrap();
    doomed.destroy().await.unwrap();
    check_routes(&space, &["q"]).await;
    assert!(!space.broker.unregister_queue("never").await.unwrap());
    assert!(space.broker.unregister_queue("q").await.unwrap());
    queue.destroy().await.unwrap();
    check_routes(&space, &[]).await;
    for (passed, left) in [(59, &["doomed", "never", "q"][..]), (2, &[])] {
        space.clock.advance(passed * minute);
        space.another().await;
        assert_eq!(marks(&space).await, left);
    }
    space.delete().await;
}

#[tokio::test]
async fn a_removal_that_another_partition_has_lost_in_a_crash_is_made_there_again() {
    let (space, queue) = divided().await;
    let (third, before) = (routes_at(&space, 3), format!("{}:before", routes_at(&space, 3)));
    for destroys in [false, true] {
        let doomed = space.broker.register_queue("doomed", ".").await.unwrap();
        run::<()>(&["COPY", &third, &before]).await;
        match destroys {
            true => doomed.destroy().await.unwrap(),
            false => assert!(space.broker.unregister_queue("doomed").await.unwrap()),
        }
        space.broker.register_queue("new", ".").await.unwrap();
        run::<()>(&["RENAME", &before, &third]).await;
        connect(&space, None).await.unwrap();
        check_routes(&space, &["new", "q"]).await;
    }
    drop(queue);
    space.delete().await;
}

#[tokio::test]
async fn all_who_wait_on_a_queue_that_is_destroyed_in_all_partitions_are_told_soon() {
    let (space, queue) = divided().await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..5 {
        waiting.spawn(queue.lease().wait(60 * SECOND).into_future());
    }
    tokio::time::sleep(SECOND).await; // They block.
    let from = Instant::now();
    queue.destroy().await.unwrap();
    while let Some(told) = waiting.join_next().await {
        assert!(matches!(told.unwrap(), Err(Error::NoSuchQueue(_))));
    }
    assert!(from.elapsed() < 15 * SECOND, "{:?}", from.elapsed());
    space.delete().await;
}

#[tokio::test]
async fn who_waits_on_a_removed_queue_gets_what_comes_back_in_one_of_its_partitions() {
    let (space, queue) = divided().await;
    space.broker.deliver(&message("a", "t", 1)).await.unwrap();
    let first = queue.lease().await.unwrap().unwrap();
    space.broker.unregister_queue("q").await.unwrap();
    assert!(queue.lease().await.unwrap().is_none(), "it is there, and has nothing to serve now");
    let waiting = tokio::spawn(queue.lease().wait(30 * SECOND).into_future());
    // In the other partitions a wait has to look again after it has blocked for a while.
    tokio::time::sleep(7 * SECOND).await;
    first.nack().await.unwrap();
    waiting.await.unwrap().unwrap().unwrap().ack().await.unwrap();
    let none = queue.lease().await;
    assert!(matches!(none, Err(Error::NoSuchQueue(_))), "{none:?}");
    space.delete().await;
}

#[tokio::test]
async fn two_who_remove_and_register_at_the_same_time_leave_the_same_in_all_partitions() {
    let (space, _queue) = divided().await;
    let other = space.another().await;
    for round in 0..20 {
        space.broker.register_queue("r", ".").await.unwrap();
        let removes = async {
            match round % 2 {
                0 => other.unregister_queue("r").await.map(drop),
                _ => other.queue("r").destroy().await,
            }
        };
        let (removed, registered, connected) =
            tokio::join!(removes, space.broker.register_queue("r", "^r$"), connect(&space, None));
        removed.unwrap();
        registered.unwrap();
        connected.unwrap();
        let there = space.broker.queues().await.unwrap().len() == 2;
        check_routes(&space, if there { &["q", "r"] } else { &["q"] }).await;
    }
    space.delete().await;
}

#[tokio::test]
async fn routes_that_the_first_partition_has_lost_are_brought_back_from_the_others() {
    let (space, queue) = divided().await;
    let (first, before) = (routes_at(&space, 0), format!("{}:before", routes_at(&space, 0)));
    // What a crash takes is the last second, or all where there is nothing to restore.
    run::<()>(&["COPY", &first, &before]).await;
    space.broker.register_queue("lost", ".").await.unwrap();
    run::<()>(&["RENAME", &before, &first]).await;
    let broker = connect(&space, None).await.unwrap();
    for n in 0..20 {
        let receipt = broker.deliver(&message(&format!("f{n}"), "t", n)).await.unwrap();
        assert_eq!(receipt.queues.len(), 2);
    }
    run::<()>(&["DEL", &first]).await;
    connect(&space, None).await.unwrap();
    check_routes(&space, &["lost", "q"]).await;
    queue.destroy().await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn they_are_brought_back_whatever_is_registered_or_removed_meanwhile() {
    let (space, _queue) = divided().await;
    for name in ["again", "lost"] {
        space.broker.register_queue(name, ".").await.unwrap();
    }
    let lose = async || run::<()>(&["DEL", &routes_at(&space, 0)]).await;
    lose().await;
    // Who is connected registers one that is new, then one that the others have.
    space.broker.register_queue("new", ".").await.unwrap();
    connect(&space, None).await.unwrap();
    check_routes(&space, &["again", "lost", "new", "q"]).await;
    lose().await;
    space.clock.advance(SECOND);
    space.broker.register_queue("again", ".").await.unwrap();
    connect(&space, None).await.unwrap();
    check_routes(&space, &["again", "lost", "new", "q"]).await;
    lose().await;
    // One that was lost can be removed, even where that breaks off.
    without(&space, &[3], space.broker.unregister_queue("again")).await.unwrap_err();
    connect(&space, None).await.unwrap();
    check_routes(&space, &["lost", "new", "q"]).await;
    space.delete().await;
}

#[tokio::test]
async fn a_registering_that_does_not_reach_all_partitions_says_which() {
    let (space, _queue) = divided().await;
    let at = |place| routes_at(&space, place);
    for place in [1, 3] {
        run::<()>(&["DEL", &at(place)]).await;
        run::<()>(&["SET", &at(place), "in the way"]).await;
    }
    match space.broker.register_queue("r", ".").await.err().unwrap() {
        Error::Partly { missed, source } => {
            assert_eq!(missed, [1, 3]);
            assert!(matches!(*source, Error::WrongType(_)), "{source:?}");
        }
        other => panic!("{other:?}"),
    }
    for place in [0, 2] {
        let there: Option<String> = run(&["HGET", &at(place), "r"]).await;
        assert_eq!(there.as_deref(), Some("."));
    }
    for place in [1, 3] {
        run::<()>(&["DEL", &at(place)]).await;
    }
    space.broker.register_queue("r", ".").await.unwrap();
    space.delete().await;
}

#[tokio::test]
async fn two_who_change_a_route_at_the_same_time_leave_the_same_in_all_partitions() {
    let (space, _queue) = divided().await;
    let other = space.another().await;
    for round in 0..20 {
        let (a, b) = (format!("^a{round}$"), format!("^b{round}$"));
        let (first, second) =
            tokio::join!(space.broker.register_queue("r", &a), other.register_queue("r", &b));
        first.unwrap();
        second.unwrap();
        let mut all = BTreeSet::new();
        for place in 0..4 {
            all.insert(run::<String>(&["HGET", &routes_at(&space, place), "r"]).await);
        }
        assert_eq!(all.len(), 1, "{all:?}");
    }
    space.delete().await;
}

#[tokio::test]
async fn two_who_change_settings_at_the_same_time_leave_the_same_in_all_partitions() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let slow = proxy.builder().namespace("shop").partitions(4).connect().await.unwrap();
    let slow = slow.register_queue("q", ".").await.unwrap();
    let quick = server.builder().namespace("shop").connect().await.unwrap().queue("q");
    proxy.delay(SECOND / 10);
    let at = |place: u32| format!("{{shop:{place}}}:q:q:settings");
    let (first, second) = tokio::join!(slow.configure(|queue| queue.max_attempts = 7), async {
        // Between what the slow one does to the first partition, and to the others.
        until("the first has it", || async { server.run::<u64>(&["EXISTS", &at(0)]).await == 1 })
            .await;
        tokio::time::sleep(SECOND / 20).await;
        quick.configure(|queue| queue.max_crashes = 3).await
    });
    first.unwrap();
    second.unwrap();
    let mut all = BTreeSet::new();
    for place in 0..4 {
        all.insert(server.run::<Vec<String>>(&["HGETALL", &at(place)]).await);
    }
    assert_eq!(all.len(), 1, "{all:?}");
    let settings = quick.settings().await.unwrap();
    assert_eq!((settings.max_attempts, settings.max_crashes), (7, 3));
}

#[tokio::test]
async fn what_fails_in_one_partition_leaves_nothing_unsettled_in_the_others() {
    let (space, queue) = divided().await;
    let facets = facets_of(&space, [1, 1, 0, 0]).await;
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    deliver(&space.broker, &facets[0][0], 1).await;
    deliver(&space.broker, &facets[1][0], 2500).await;
    let mut leased = Vec::new();
    while leased.len() < 2501 {
        leased.extend(queue.lease_many(1000).await.unwrap());
    }
    let clock = format!("{{{}:0}}:q:q:clock", space.name);
    run::<()>(&["DEL", &clock]).await;
    run::<()>(&["SET", &clock, "in the way"]).await;
    let error = space.broker.ack_all(leased).await.err().unwrap();
    assert!(matches!(error, Error::WrongType(_)), "{error:?}");
    let clock = format!("{{{}:1}}:q:q:clock", space.name);
    assert_eq!(run::<u64>(&["HGET", &clock, "acked"]).await, 2500);
    space.delete().await;
}

#[tokio::test]
async fn a_pull_that_breaks_off_in_a_later_partition_gives_what_has_arrived_of_all() {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let broker = proxy.builder().namespace("shop").partitions(2).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let facets = one_of_each(&broker).await;
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    for n in [3, 4] {
        // Each has more than one script takes; the other is asked when the first has no more.
        for facet in &facets {
            deliver(&broker, facet, 300).await;
        }
        tokio::time::sleep(SECOND / 20).await; // Until one that had nothing is asked again.
        proxy.cut(n);
        match queue.pull_many(1000).await {
            Err(Error::PullInterrupted { pulled, source }) => {
                assert_eq!(pulled.len(), if n == 3 { 300 } else { 550 });
                assert!(matches!(*source, Error::MaybeApplied(_)), "{source:?}");
            }
            other => panic!("{:?}", other.map(|pulled| pulled.len())),
        }
        while !queue.pull_many(1000).await.unwrap().is_empty() {}
    }
}

#[tokio::test]
async fn a_batch_that_may_be_delivered_in_one_partition_is_not_said_to_be_refused_in_another() {
    // A server of its own, since it is held up.
    let server = Server::start(&[]).await;
    let broker = server.builder().namespace("shop").partitions(2).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let facets = one_of_each(&broker).await;
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    server.run::<()>(&["SET", &format!("{{shop:0}}:q:q:f:{}", facets[0]), "in the way"]).await;
    // One partition answers too late.
    let slow = |text: String| {
        let (shebang, rest) = text.split_once('\n').unwrap();
        let waits = "if KEYS[1]:find(':1}') then for _ = 1, 2e8 do end end";
        format!("{shebang}\n{waits} {rest}")
    };
    let slow = server.builder().namespace("shop").deadline(SECOND / 5).script("deliver", slow);
    let slow = slow.connect().await.unwrap();
    let batch = [message(&facets[0], "t", 1), message(&facets[1], "t", 2)];
    let error = slow.deliver_all(&batch).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::MaybeApplied, "{error:?}");
    until("the other is delivered all the same", || async {
        queue.facet(&facets[1]).stats().await.is_ok_and(|stats| stats.waiting == 1)
    })
    .await;
}

#[tokio::test]
async fn a_worker_serves_all_partitions() {
    let (space, queue) = divided().await;
    let batch: Vec<_> = (0..400).map(|n| message(&format!("f{}", n % 37), "t", n)).collect();
    space.broker.deliver_all(&batch).await.unwrap();
    let worker = queue.worker(|_| async { Ok::<_, std::convert::Infallible>(()) }).concurrency(16);
    let report = worker.run_until_empty().await.unwrap();
    assert_eq!((report.leased, report.acked), (400, 400));
    until("nothing is left", || async { queue.stats().await.unwrap().leased == 0 }).await;
    queue.destroy().await.unwrap();
    space.delete().await;
}

/// Lets 600 messages of one partition, and one of another, die.
async fn dead_in_two(space: &Space, queue: &Queue) -> [Vec<String>; 4] {
    let facets = facets_of(space, [1, 1, 0, 0]).await;
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    deliver(&space.broker, &facets[0][0], 1).await;
    deliver(&space.broker, &facets[1][0], 600).await;
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    while queue.stats().await.unwrap().waiting > 0 {
        for delivery in queue.lease_many(1000).await.unwrap() {
            delivery.nack().await.unwrap();
        }
    }
    facets
}

#[tokio::test]
async fn dead_letters_of_one_partition_are_moved_though_those_of_another_cannot_be() {
    let (space, queue) = divided().await;
    let facets = dead_in_two(&space, &queue).await;
    let dead = format!("{{{}:0}}:q:q:dead", space.name);
    run::<()>(&["RENAME", &dead, &format!("{dead}:aside")]).await;
    run::<()>(&["SET", &dead, "in the way"]).await;
    for redrives in [true, false] {
        let letters = queue.dead_letters();
        let moved = if redrives { letters.redrive().await } else { letters.purge().await };
        match moved {
            Err(Error::Partly { missed, source }) => {
                assert_eq!(missed, [0]);
                assert!(matches!(*source, Error::WrongType(_)), "{source:?}");
            }
            other => panic!("{other:?}"),
        }
        let stats = queue.facet(&facets[1][0]).stats().await.unwrap();
        assert_eq!((stats.dead, stats.waiting), (0, 600 * u64::from(redrives)));
        while let Some(delivery) = queue.lease().await.unwrap() {
            delivery.nack().await.unwrap();
        }
    }
    run::<()>(&["DEL", &dead]).await;
    run::<()>(&["RENAME", &format!("{dead}:aside"), &dead]).await;
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 1);
    let refused = space.broker.queue("no name").dead_letters().redrive().await;
    assert!(matches!(refused, Err(Error::Invalid(Invalid::Name { .. }))), "{refused:?}");
    space.delete().await;
}

#[tokio::test]
async fn dead_letters_that_outlive_their_route_are_moved_though_other_partitions_have_none() {
    let (space, queue) = divided().await;
    dead_in_two(&space, &queue).await;
    space.broker.unregister_queue("q").await.unwrap();
    assert_eq!(queue.dead_letters().purge().await.unwrap(), 601);
    let refused = queue.dead_letters().purge().await;
    assert!(matches!(&refused, Err(Error::NoSuchQueue(queue)) if &**queue == "q"), "{refused:?}");
    space.delete().await;
}

#[tokio::test]
async fn a_destroy_that_may_have_been_done_in_one_partition_is_not_said_to_be_refused_in_another() {
    let server = Server::start(&[]).await;
    // The last partition answers too late, once the one before it has answered.
    let slow = |text: String| {
        let (shebang, rest) = text.split_once('\n').unwrap();
        let waits = "
            if KEYS[1]:find(':1}') then redis.call('SET', 'refused', 1) end
            if KEYS[1]:find(':2}') then
              if not redis.call('GET', 'refused') or redis.call('INCR', 'told') == 1 then return 1 end
              for _ = 1, 2e8 do end
            end
        ";
        format!("{shebang}\n{waits} {rest}")
    };
    let broker = server.builder().namespace("shop").partitions(3).deadline(SECOND / 5);
    let broker = broker.script("destroy", slow).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    server.run::<()>(&["SET", "{shop:1}:q:q:clock", "in the way"]).await;
    let error = queue.destroy().await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::MaybeApplied, "{error:?}");
    assert!(matches!(&error, Error::Partly { missed, .. } if *missed == [1, 2]), "{error:?}");
}

#[tokio::test]
async fn what_one_partition_alone_holds_of_a_removed_queue_is_seen_and_mended() {
    let (space, queue) = divided().await;
    let dead = space.broker.deliver(&message("a", "t", 1)).await.unwrap().id;
    let here = dead.to_string().parse::<u32>().unwrap() % 4;
    queue.lease().await.unwrap().unwrap().bury("in vain").await.unwrap();
    deliver(&space.broker, "a", 2).await;
    space.broker.unregister_queue("q").await.unwrap();
    assert_eq!(queue.stats().await.unwrap().waiting, 2);
    assert_eq!(queue.peek(9).await.unwrap().len(), 2);
    assert_eq!(queue.doctor().await.unwrap(), []);
    assert_eq!(queue.repair().await.unwrap(), []);
    let (mut facets, mut letters) = (Vec::new(), Vec::new());
    let mut from = Some(Cursor::default());
    while let Some(cursor) = from {
        let (page, next) = queue.facets(cursor).await.unwrap();
        facets.extend(page.into_iter().map(|facet| facet.facet));
        from = next;
    }
    let mut from = Some(Cursor::default());
    while let Some(cursor) = from {
        let (page, next) = queue.dead_letters().page(cursor).await.unwrap();
        letters.extend(page.into_iter().map(|letter| letter.id));
        from = next;
    }
    assert_eq!((facets.len(), letters), (1, vec![dead]), "in partition {here}");
    assert_eq!(queue.dead_letters().purge().await.unwrap(), 1);
    assert_eq!(queue.pull_many(9).await.unwrap().len(), 2);
    for gone in [
        queue.stats().await.map(drop),
        queue.peek(1).await.map(drop),
        queue.facets(Cursor::default()).await.map(drop),
        queue.dead_letters().page(Cursor::default()).await.map(drop),
        queue.doctor().await.map(drop),
    ] {
        assert!(matches!(gone, Err(Error::NoSuchQueue(_))), "{gone:?}");
    }
}
