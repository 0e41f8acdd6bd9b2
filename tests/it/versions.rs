//! Two builds of fairlane with different scripts on one namespace.

use std::{collections::BTreeSet, time::Duration};

use fairlane::{Broker, Error};

use crate::support::{Space, message, run};

/// The scripts of the calls below, and more.
const VERBS: [&str; 18] = [
    "ack",
    "configure",
    "connect",
    "deliver",
    "destroy",
    "discard",
    "doctor",
    "extend",
    "facet",
    "facets",
    "fail",
    "lease",
    "nack",
    "pull",
    "queues",
    "register_queue",
    "settings",
    "stats",
];

/// A broker of a build whose scripts are others, and do the same.
async fn of_another_build(space: &Space) -> Broker {
    let now = space.clock.clone();
    let mut builder = space.builder().clock(move || now.now());
    for verb in VERBS {
        builder = builder.script(verb, |text| text + "\n-- As the next release has it.\n");
    }
    builder.connect().await.unwrap()
}

#[tokio::test]
async fn two_builds_work_side_by_side() {
    let space = Space::new().await;
    let new = of_another_build(&space).await;
    let old = &space.broker;
    old.register_queue("q", ".").await.unwrap();
    new.register_queue("q", "t").await.unwrap();
    let (mut delivered, mut done) = (BTreeSet::new(), BTreeSet::new());
    for n in 0..200 {
        let broker = if n % 2 == 0 { old } else { &new };
        broker.deliver(&message(&format!("f{}", n % 7), "t", n)).await.unwrap();
        delivered.insert(n);
    }
    // Each settles what the other has leased.
    let mut round = 0;
    loop {
        let (takes, settles) = if round % 2 == 0 { (old, &new) } else { (&new, old) };
        let leased = takes.queue("q").lease_many(10).await.unwrap();
        if leased.is_empty() {
            break;
        }
        for (place, delivery) in leased.into_iter().enumerate() {
            let n = delivery.message().unwrap()["n"].as_u64().unwrap();
            let token = delivery.token();
            match (round + place) % 4 {
                0 => settles.extend(token, Duration::from_secs(60)).await.map(drop).unwrap(),
                1 if round < 10 => {
                    settles.nack(token).await.unwrap();
                    continue;
                }
                _ => {}
            }
            settles.ack(token).await.unwrap();
            assert!(done.insert(n), "none is done twice");
        }
        round += 1;
    }
    assert_eq!(done, delivered);
    assert!(new.queue("q").doctor().await.unwrap().is_empty());
    assert_eq!(old.queue("q").stats().await.unwrap(), new.queue("q").stats().await.unwrap());
    new.queue("q").destroy().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_namespace_of_a_newer_layout_is_refused_whatever_the_scripts() {
    let space = Space::new().await;
    let old = space.broker.register_queue("q", ".").await.unwrap();
    run::<()>(&["SET", &space.key("layout"), "2"]).await;
    let refused = space.builder().connect().await.err().unwrap();
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused:?}");
    // Who is connected finds out when it registers a queue, which workers do when they start.
    let refused = space.broker.register_queue("r", ".").await.err().unwrap();
    assert!(matches!(refused, Error::Server { ref code, .. } if code == "LAYOUT"), "{refused:?}");
    assert!(old.pull().await.unwrap().is_none());
    space.delete().await;
}
