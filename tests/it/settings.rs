//! Settings are read as they were set, whoever else sets others at the same time.

use std::time::Duration;

use fairlane::{
    Backoff, Error, FacetSettings, FacetState, Invalid, Overflow, QueueSettings, Rate, Result,
};
use futures_util::future::join_all;

use crate::support::{Space, counts, deliver, pulled};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

fn all_of_a_facet(facet: &mut FacetSettings) {
    facet.weight = Some(0.3);
    facet.paused = true;
    facet.intake_paused = true;
    facet.max_leased = Some(u32::MAX);
    facet.rate = Some(Rate::new(1_000_000, 30 * DAY).burst(999_999));
    facet.max_waiting = Some(1_000_000_000_000);
}

fn all_of_a_queue(queue: &mut QueueSettings) {
    all_of_a_facet(&mut queue.facets);
    queue.overflow = Overflow::DropOldest;
    queue.ttl = Some(3660 * DAY);
    queue.bury_expired = true;
    queue.max_attempts = 1_000_000;
    queue.max_crashes = 1;
    queue.backoff = Backoff { first: MS, longest: 3660 * DAY };
    queue.max_dead = Some(1);
    queue.max_dead_age = Some(1234 * MS);
}

#[tokio::test]
async fn settings_are_read_as_they_were_set() {
    let (space, queue) = Space::with_queue().await;
    let facet = queue.facet("a = 1 weight=7");
    assert_eq!(facet.settings().await.unwrap(), FacetSettings::default());
    assert_eq!(queue.settings().await.unwrap(), QueueSettings::default());
    facet.configure(all_of_a_facet).await.unwrap();
    queue.configure(all_of_a_queue).await.unwrap();
    let (mut of_facet, mut of_queue) = (FacetSettings::default(), QueueSettings::default());
    all_of_a_facet(&mut of_facet);
    all_of_a_queue(&mut of_queue);
    let other = space.another().await.queue("q");
    assert_eq!(other.facet("a = 1 weight=7").settings().await.unwrap(), of_facet);
    assert_eq!(other.settings().await.unwrap(), of_queue);
    facet.configure(|facet| facet.rate = None).await.unwrap();
    of_facet.rate = None;
    assert_eq!(facet.settings().await.unwrap(), of_facet, "and nothing else has changed");
    assert_eq!(queue.facet("a").settings().await.unwrap(), FacetSettings::default());
    facet.configure(|facet| *facet = FacetSettings::default()).await.unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

#[tokio::test]
async fn who_changes_settings_sees_those_that_are_there() {
    let (space, queue) = Space::with_queue().await;
    let facet = queue.facet("a");
    facet.set_weight(0.1 + 0.2).await.unwrap();
    let mut seen = None;
    facet
        .configure(|facet| {
            seen = facet.weight;
            facet.weight = None;
        })
        .await
        .unwrap();
    assert_eq!(seen, Some(0.1 + 0.2));
    space.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_that_change_different_settings_at_the_same_time_lose_nothing() {
    let (space, queue) = Space::with_queue().await;
    let brokers = [space.broker.clone(), space.another().await, space.another().await];
    for round in 1..=10u32 {
        let tasks: Vec<_> = (0..6)
            .map(|field: u32| {
                let facet = brokers[field as usize % 3].queue("q").facet("a");
                tokio::spawn(async move {
                    match field {
                        0 => facet.set_weight(round.into()).await,
                        1 => facet.configure(|facet| facet.max_leased = Some(round)).await,
                        2 => facet.configure(|set| set.max_waiting = Some(round.into())).await,
                        3 => {
                            let rate = Rate::new(round, SECOND).burst(round);
                            facet.configure(|facet| facet.rate = Some(rate)).await
                        }
                        4 if round % 2 == 0 => facet.resume().await,
                        4 => facet.pause().await,
                        _ if round % 2 == 0 => facet.resume_intake().await,
                        _ => facet.pause_intake().await,
                    }
                })
            })
            .collect();
        for outcome in join_all(tasks).await {
            outcome.unwrap().unwrap();
        }
        let set = queue.facet("a").settings().await.unwrap();
        assert_eq!((set.weight, set.max_leased), (Some(round.into()), Some(round)));
        assert_eq!(set.max_waiting, Some(round.into()));
        assert_eq!(set.rate, Some(Rate::new(round, SECOND).burst(round)));
        assert_eq!((set.paused, set.intake_paused), (round % 2 == 1, round % 2 == 1));
    }
    queue.facet("a").configure(|facet| *facet = FacetSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_changes_that_build_on_each_other_each_counts() {
    let (space, queue) = Space::with_queue().await;
    let tasks = (0..30).map(|n| {
        let queue = queue.clone();
        tokio::spawn(async move {
            let more = |most: Option<u64>| Some(most.unwrap_or(0) + 1);
            if n % 2 == 0 {
                let facet = queue.facet("a");
                facet.configure(|set| set.max_waiting = more(set.max_waiting)).await
            } else {
                queue.configure(|queue| queue.max_dead = more(queue.max_dead)).await
            }
        })
    });
    for outcome in join_all(tasks).await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(queue.facet("a").settings().await.unwrap().max_waiting, Some(15));
    assert_eq!(queue.settings().await.unwrap().max_dead, Some(15));
    queue.facet("a").configure(|facet| *facet = FacetSettings::default()).await.unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    space.end().await;
}

fn out_of_range(outcome: Result<()>, what: &str) {
    let Err(Error::Invalid(Invalid::OutOfRange { what: found, .. })) = outcome else {
        panic!("{what}: {outcome:?}")
    };
    assert_eq!(found, what);
}

#[tokio::test]
async fn what_is_out_of_its_range_is_refused_and_nothing_is_written() {
    let (space, queue) = Space::with_queue().await;
    let set = |facet: &mut FacetSettings| facet.max_leased = Some(5);
    queue.facet("a").configure(set).await.unwrap();
    queue.configure(|queue| set(&mut queue.facets)).await.unwrap();
    let (facet, before) = (queue.facet("a").settings().await.unwrap(), queue.settings().await);
    let (keys, before) = (space.keys().await, before.unwrap());

    type Change<Of> = fn(&mut Of);
    let bad: [(&str, Change<FacetSettings>); 15] = [
        ("weight", |facet| facet.weight = Some(0.0)),
        ("weight", |facet| facet.weight = Some(-1.0)),
        ("weight", |facet| facet.weight = Some(0.000_999)),
        ("weight", |facet| facet.weight = Some(1000.001)),
        ("weight", |facet| facet.weight = Some(f64::NAN)),
        ("weight", |facet| facet.weight = Some(f64::INFINITY)),
        ("max_leased", |facet| facet.max_leased = Some(0)),
        ("max_waiting", |facet| facet.max_waiting = Some(0)),
        ("max_waiting", |facet| facet.max_waiting = Some(1_000_000_000_001)),
        ("rate", |facet| facet.rate = Some(Rate::new(0, SECOND))),
        ("rate", |facet| facet.rate = Some(Rate::new(1_000_001, SECOND))),
        ("burst of a rate", |facet| facet.rate = Some(Rate::new(1, SECOND).burst(0))),
        ("burst of a rate", |facet| facet.rate = Some(Rate::new(1, SECOND).burst(1_000_001))),
        ("period of a rate", |facet| facet.rate = Some(Rate::new(1, MS / 2))),
        ("period of a rate", |facet| facet.rate = Some(Rate::new(1, 30 * DAY + MS))),
    ];
    for (what, change) in bad {
        let changed = |facet: &mut FacetSettings| {
            facet.paused = true;
            change(facet);
        };
        out_of_range(queue.facet("a").configure(changed).await, what);
        out_of_range(queue.facet("new").configure(change).await, what);
        out_of_range(queue.configure(|queue| changed(&mut queue.facets)).await, what);
    }
    let bad: [(&str, Change<QueueSettings>); 14] = [
        ("ttl", |queue| queue.ttl = Some(Duration::ZERO)),
        ("ttl", |queue| queue.ttl = Some(3660 * DAY + MS)),
        ("max_attempts", |queue| queue.max_attempts = 0),
        ("max_attempts", |queue| queue.max_attempts = 1_000_001),
        ("max_crashes", |queue| queue.max_crashes = 0),
        ("max_crashes", |queue| queue.max_crashes = u32::MAX),
        ("first backoff", |queue| queue.backoff.first = Duration::ZERO),
        ("longest backoff", |queue| queue.backoff.longest = 3661 * DAY),
        ("longest backoff", |queue| queue.backoff.first = 601 * SECOND),
        ("max_dead", |queue| queue.max_dead = Some(0)),
        ("max_dead", |queue| queue.max_dead = Some(u64::MAX)),
        ("max_dead_age", |queue| queue.max_dead_age = Some(Duration::ZERO)),
        ("max_dead_age", |queue| queue.max_dead_age = Some(999 * MS / 1000)),
        ("max_dead_age", |queue| queue.max_dead_age = Some(Duration::MAX)),
    ];
    for (what, change) in bad {
        out_of_range(queue.configure(change).await, what);
    }
    assert_eq!(queue.facet("a").settings().await.unwrap(), facet);
    assert_eq!(queue.settings().await.unwrap(), before);
    assert_eq!(space.keys().await, keys);
    for (least, most) in [(1, 1_000_000), (2, 999_999)] {
        let ends = |facet: &mut FacetSettings| {
            facet.rate = Some(Rate::new(least, MS).burst(most));
            facet.weight = Some(1000.0);
        };
        queue.facet("a").configure(ends).await.unwrap();
    }
    queue.facet("a").configure(|facet| *facet = FacetSettings::default()).await.unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_queue_that_is_not_registered_and_holds_nothing_has_no_settings() {
    let (space, queue) = Space::with_queue().await;
    let nowhere = space.broker.queue("nowhere");
    let none = |outcome: Result<()>| {
        assert!(matches!(outcome, Err(Error::NoSuchQueue(name)) if &*name == "nowhere"));
    };
    for _ in 0..2 {
        none(nowhere.settings().await.map(drop));
        none(nowhere.facet("a").settings().await.map(drop));
        none(nowhere.configure(|queue| queue.max_attempts = 3).await);
        none(nowhere.facet("a").configure(|facet| facet.max_leased = Some(3)).await);
        // A pause holds for when it comes, and it is no queue for that.
        nowhere.facet("a").pause_intake().await.unwrap();
    }
    nowhere.facet("a").resume_intake().await.unwrap();

    deliver(&space.broker, "a", 1).await;
    assert!(space.broker.unregister_queue("q").await.unwrap());
    queue.configure(|queue| queue.max_attempts = 3).await.unwrap();
    assert_eq!(queue.settings().await.unwrap().max_attempts, 3, "it holds something");
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    assert!(queue.pull().await.unwrap().is_some());
    assert!(matches!(queue.settings().await, Err(Error::NoSuchQueue(_))));
    space.end().await;
}

#[tokio::test]
async fn settings_outlive_the_registration_of_their_queue_but_not_the_queue() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.facets.max_leased = Some(2)).await.unwrap();
    queue.facet("a").configure(|facet| facet.max_leased = Some(1)).await.unwrap();
    assert!(space.broker.unregister_queue("q").await.unwrap());
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    assert_eq!(queue.settings().await.unwrap().facets.max_leased, Some(2));
    assert_eq!(queue.facet("a").settings().await.unwrap().max_leased, Some(1));
    queue.destroy().await.unwrap();
    let queue = space.broker.register_queue("q", ".").await.unwrap();
    assert_eq!(queue.settings().await.unwrap(), QueueSettings::default());
    assert_eq!(queue.facet("a").settings().await.unwrap(), FacetSettings::default());
    space.end().await;
}

#[tokio::test]
async fn a_default_weight_holds_for_facets_that_do_not_say_otherwise() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.facets.weight = Some(4.0)).await.unwrap();
    queue.facet("one").set_weight(1.0).await.unwrap();
    queue.facet("two").set_weight(2.0).await.unwrap();
    for facet in ["default", "one", "two"] {
        deliver(&space.broker, facet, 200).await;
    }
    let served = pulled(&queue, 70).await;
    let of = counts(&served);
    assert!((39..=41).contains(&of["default"]), "{of:?}");
    assert!((9..=11).contains(&of["one"]), "its own 1.0 wins over that of the queue: {of:?}");
    assert!((19..=21).contains(&of["two"]), "{of:?}");
    assert_eq!(queue.facet("one").stats().await.unwrap().weight, 1.0);
    assert_eq!(queue.facet("default").stats().await.unwrap().weight, 4.0);
    queue.configure(|queue| queue.facets.weight = None).await.unwrap();
    pulled(&queue, 3).await;
    let served = pulled(&queue, 40).await;
    let of = counts(&served);
    assert!((9..=11).contains(&of["default"]), "from its next turn on: {of:?}");
    assert!((19..=21).contains(&of["two"]), "{of:?}");
    for facet in ["one", "two"] {
        queue.facet(facet).configure(|facet| facet.weight = None).await.unwrap();
    }
    while !queue.pull_many(1000).await.unwrap().is_empty() {}
    space.end().await;
}

#[tokio::test]
async fn what_a_queue_says_of_itself_is_no_setting_of_its_facets() {
    let (space, queue) = Space::with_queue().await;
    queue.pause().await.unwrap();
    deliver(&space.broker, "a", 1).await;
    let why = queue.facet("a").why().await.unwrap();
    assert!(!why.settings.paused && !why.stats.paused);
    assert_eq!(why.stats.state, FacetState::Ready, "it is the queue that is paused");
    assert!(queue.settings().await.unwrap().facets.paused);
    // Nor can a facet be served while its queue is not.
    queue.facet("a").pause().await.unwrap();
    queue.facet("a").resume().await.unwrap();
    assert!(queue.pull().await.unwrap().is_none());
    queue.resume().await.unwrap();
    assert!(queue.pull().await.unwrap().is_some());
    space.end().await;
}
