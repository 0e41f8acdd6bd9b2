//! Failures: a message that failed comes back later, and not for ever.

use std::{collections::BTreeSet, time::Duration};

use fairlane::{Backoff, Broker, Cursor, Death, Delivery, Error, Message, Queue, QueueSettings};
use serde_json::json;

use crate::support::{Space, deliver, message, numbers, run};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

async fn lease(queue: &Queue) -> Delivery {
    queue.lease().lasting(SECOND).await.unwrap().unwrap()
}

/// In how many ms what is delayed of facet `a` is due next.
async fn due_in(space: &Space) -> u64 {
    let at: f64 = run(&["ZSCORE", &space.of("q", "timers"), "sa"]).await;
    at as u64 - space.clock.now()
}

/// The causes of the deaths of facet `a`, with attempts and crashes.
async fn deaths(queue: &Queue) -> Vec<(Death, u32, u32)> {
    let (page, _) = queue.dead_letters().of("a").page(Cursor::default()).await.unwrap();
    page.iter().map(|letter| (letter.death, letter.attempts, letter.crashes)).collect()
}

async fn end(space: Space, queue: &Queue) {
    queue.dead_letters().purge().await.unwrap();
    queue.configure(|queue| *queue = QueueSettings::default()).await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn the_backoff_doubles_with_each_attempt_up_to_the_longest_and_half_of_it_is_by_lot() {
    let (space, queue) = Space::with_queue().await;
    queue
        .configure(|queue| {
            queue.backoff = Backoff { first: 1000 * MS, longest: 20_000 * MS };
            queue.max_attempts = 1_000_000;
        })
        .await
        .unwrap();
    deliver(&space.broker, "a", 1).await;
    let mut longest = BTreeSet::new();
    for attempt in 1..=60u32 {
        let delivery = lease(&queue).await;
        assert_eq!(delivery.attempt().get(), attempt);
        delivery.fail("no").await.unwrap();
        let (wait, whole) = (due_in(&space).await, (1000 << (attempt - 1).min(10)).min(20_000));
        assert!((whole / 2..=whole).contains(&wait), "attempt {attempt}: {wait} of {whole}");
        if attempt > 5 {
            longest.insert(wait);
        }
        space.clock.advance(wait as u32 * MS - MS);
        assert!(queue.lease().await.unwrap().is_none());
        space.clock.advance(MS);
    }
    let (least, most) = (longest.first().unwrap(), longest.last().unwrap());
    assert!(longest.len() > 40 && *least < 13_000 && *most > 17_000, "{longest:?}");
    lease(&queue).await.ack().await.unwrap();
    end(space, &queue).await;
}

#[tokio::test]
async fn without_a_setting_the_backoff_is_a_second_to_ten_minutes() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    for attempt in 1..=19u32 {
        lease(&queue).await.fail("no").await.unwrap();
        let (wait, whole) = (due_in(&space).await, (1000 << (attempt - 1).min(10)).min(600_000));
        assert!((whole / 2..=whole).contains(&wait), "attempt {attempt}: {wait} of {whole}");
        space.clock.advance(wait as u32 * MS);
    }
    lease(&queue).await.fail("no").await.unwrap();
    assert_eq!(deaths(&queue).await, [(Death::Attempts, 20, 0)]);
    end(space, &queue).await;
}

#[tokio::test]
async fn a_backoff_of_a_millisecond_and_one_of_ten_years_are_kept() {
    let (space, queue) = Space::with_queue().await;
    let ten_years = Duration::from_secs(10 * 366 * 24 * 60 * 60);
    for (first, longest) in [(MS, MS), (ten_years, ten_years)] {
        queue.configure(|queue| queue.backoff = Backoff { first, longest }).await.unwrap();
        deliver(&space.broker, "a", 1).await;
        lease(&queue).await.fail("no").await.unwrap();
        assert!((1..=longest.as_millis() as u64).contains(&due_in(&space).await));
        space.clock.advance(longest);
        lease(&queue).await.ack().await.unwrap();
    }
    end(space, &queue).await;
}

#[tokio::test]
async fn the_next_attempt_knows_why_the_last_one_failed() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let filled = |n: usize| "x".repeat(n);
    let cases = [
        ("first".to_owned(), "first".to_owned()),
        (String::new(), String::new()),
        ("1 2,f9,k7 \0\n\"ä".into(), "1 2,f9,k7 \0\n\"ä".into()),
        (filled(1024), filled(1024)),
        (filled(2000), filled(1024)),
        (filled(1023) + "é", filled(1023)),
        (filled(1022) + "éé", filled(1022) + "é"),
        (filled(1021) + "😀", filled(1021)),
        ("short".into(), "short".into()),
    ];
    assert_eq!(lease_and(&queue, "zero").await, None);
    let mut last = "zero".to_owned();
    for (reason, kept) in cases {
        space.clock.advance(600 * SECOND);
        assert_eq!(lease_and(&queue, &reason).await, Some(last));
        last = kept;
    }
    // A nack and a crash leave it as it is.
    space.clock.advance(600 * SECOND);
    lease(&queue).await.nack().await.unwrap();
    let _crashed = lease(&queue).await;
    space.clock.advance(SECOND);
    let delivery = lease(&queue).await;
    assert_eq!(delivery.last_failure(), Some("short"));
    assert_eq!(delivery.message().unwrap(), &message("a", "t", 0));
    delivery.ack().await.unwrap();
    space.end().await;
}

/// Fails one for a reason, and returns why it failed before.
async fn lease_and(queue: &Queue, reason: &str) -> Option<String> {
    let delivery = lease(queue).await;
    let before = delivery.last_failure().map(str::to_owned);
    delivery.fail(reason).await.unwrap();
    before
}

#[tokio::test]
async fn a_message_that_used_up_its_attempts_is_a_dead_letter() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 3).await.unwrap();
    deliver(&space.broker, "a", 2).await;
    lease(&queue).await.nack().await.unwrap();
    let _crashed = lease(&queue).await;
    space.clock.advance(SECOND);
    let third = lease(&queue).await;
    assert_eq!((third.attempt().get(), third.crashes()), (3, 1));
    third.nack().await.unwrap();
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.leased, stats.dead, stats.died), (1, 0, 1, 1));
    assert_eq!(deaths(&queue).await, [(Death::Attempts, 3, 1)]);
    // A crash can be the last one, too, and so can a nack that was to come later.
    lease(&queue).await.nack().await.unwrap();
    lease(&queue).await.nack().await.unwrap();
    let _crashed = lease(&queue).await;
    space.clock.advance(SECOND);
    assert!(queue.lease().await.unwrap().is_none());
    deliver(&space.broker, "a", 1).await;
    for _ in 0..3 {
        lease(&queue).await.nack_after(SECOND).await.unwrap();
        space.clock.advance(SECOND);
    }
    assert!(queue.lease().await.unwrap().is_none());
    assert_eq!(
        deaths(&queue).await,
        [(Death::Attempts, 3, 1), (Death::Attempts, 3, 1), (Death::Attempts, 3, 0)]
    );
    end(space, &queue).await;
}

#[tokio::test]
async fn a_message_that_its_workers_die_of_is_a_dead_letter_sooner() {
    let (space, queue) = Space::with_queue().await;
    for (most, own) in [(5, false), (2, true), (1, true)] {
        if own {
            queue.configure(|queue| queue.max_crashes = most).await.unwrap();
        }
        deliver(&space.broker, "a", 1).await;
        lease(&queue).await.nack().await.unwrap();
        for crash in 0..most {
            let delivery = lease(&queue).await;
            assert_eq!((delivery.attempt().get(), delivery.crashes()), (crash + 2, crash));
            space.clock.advance(SECOND);
        }
        assert!(queue.lease().await.unwrap().is_none());
        assert_eq!(deaths(&queue).await, [(Death::Crashes, most + 1, most)]);
        assert_eq!(queue.dead_letters().purge().await.unwrap(), 1);
    }
    end(space, &queue).await;
}

#[tokio::test]
async fn what_nobody_has_seen_and_a_hold_of_its_facet_are_no_attempts() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 2).await.unwrap();
    deliver(&space.broker, "a", 2).await;
    for _ in 0..5 {
        let delivery = lease(&queue).await;
        assert_eq!((delivery.attempt().get(), &delivery.message().unwrap()["n"]), (1, &json!(0)));
        delivery.hold_facet(SECOND).await.unwrap();
        assert!(queue.lease().await.unwrap().is_none());
        space.clock.advance(SECOND);
    }
    assert_eq!(queue.stats().await.unwrap().came_back, 5);
    lease(&queue).await.nack().await.unwrap();
    let second = lease(&queue).await;
    assert_eq!(second.attempt().get(), 2);
    second.hold_facet(SECOND).await.unwrap();
    space.clock.advance(SECOND);
    lease(&queue).await.nack().await.unwrap();
    assert_eq!(deaths(&queue).await, [(Death::Attempts, 2, 0)]);
    assert_eq!(numbers(&queue).await, [1]);
    end(space, &queue).await;
}

#[tokio::test]
async fn fewer_attempts_hold_at_once_and_more_do_too() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 3).await.unwrap();
    deliver(&space.broker, "a", 2).await;
    for _ in 0..2 {
        lease(&queue).await.nack().await.unwrap();
    }
    queue.configure(|queue| queue.max_attempts = 5).await.unwrap();
    for _ in 0..2 {
        lease(&queue).await.nack().await.unwrap();
    }
    let fifth = lease(&queue).await;
    queue.configure(|queue| queue.max_attempts = 1).await.unwrap();
    fifth.nack().await.unwrap();
    lease(&queue).await.fail("at once").await.unwrap();
    assert_eq!(deaths(&queue).await, [(Death::Attempts, 5, 0), (Death::Attempts, 1, 0)]);
    end(space, &queue).await;
}

#[tokio::test]
async fn a_message_that_is_nacked_for_later_joins_the_end_of_its_facet() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    let token = lease(&queue).await.token().clone();
    for wrong in [Duration::ZERO, MS / 2, Duration::from_secs(11 * 366 * 24 * 60 * 60)] {
        assert!(matches!(space.broker.nack_after(&token, wrong).await, Err(Error::Invalid(_))));
    }
    space.broker.nack_after(&token, 10 * SECOND).await.unwrap();
    assert_eq!(due_in(&space).await, 10_000);
    let stats = queue.stats().await.unwrap();
    assert_eq!((stats.delayed, stats.leased, stats.came_back), (1, 0, 1));
    space.clock.advance(10 * SECOND - MS);
    let next = lease(&queue).await;
    assert_eq!(next.message().unwrap()["n"], 1);
    next.nack().await.unwrap();
    space.clock.advance(MS);
    assert_eq!(numbers(&queue).await, [1, 0]);
    space.end().await;
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_cannot_fail_what_another_one_holds() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 1).await;
    let late = lease(&queue).await.into();
    space.clock.advance(SECOND);
    let holder = lease(&queue).await;
    let broker = &space.broker;
    assert!(matches!(broker.fail(&late, "late").await, Err(Error::LeaseLost(_))));
    assert!(matches!(broker.nack_after(&late, SECOND).await, Err(Error::LeaseLost(_))));
    assert!(matches!(broker.hold_facet(&late, SECOND).await, Err(Error::LeaseLost(_))));
    assert!(queue.lease().await.unwrap().is_none());
    assert_eq!(holder.last_failure(), None);
    let token = holder.token().clone();
    holder.fail("mine").await.unwrap();
    assert!(matches!(broker.fail(&token, "twice").await, Err(Error::LeaseLost(_))));
    space.clock.advance(2 * SECOND);
    let again = lease(&queue).await;
    assert_eq!((again.attempt().get(), again.last_failure()), (3, Some("mine")));
    again.ack().await.unwrap();
    space.end().await;
}

#[tokio::test]
async fn a_message_survives_many_failures_byte_for_byte() {
    let (space, _) = Space::with_queue().await;
    let broker: Broker<Vec<u8>> = space.bytes().await;
    let queue = broker.queue("q");
    let (facet, topic) = ("a b,c1\0\u{7f}", "1 2,h3 \0,f4");
    let mut bodies: Vec<Vec<u8>> =
        [&b""[..], b"\0", b" ", b",f9 ", b"1 2 3 4,c5 ", b"\xff\xfe\0\r\n", b"{}"]
            .map(Into::into)
            .into();
    bodies.push((0..=255).cycle().take(5000).collect());
    for body in &bodies {
        let message = Message::new(body).facet(facet).topic(topic).cost(2.5).ttl(86_400 * SECOND);
        let message = message.header("trace", "ä 1,f2 \0").header("", "");
        broker.deliver(message).await.unwrap();
        for n in 0..19 {
            let delivery = queue.lease().lasting(SECOND).await.unwrap().unwrap();
            assert_eq!((delivery.message().unwrap(), delivery.body()), (body, &body[..]));
            assert_eq!((delivery.facet(), delivery.topic()), (facet, topic));
            assert_eq!(delivery.headers()["trace"], "ä 1,f2 \0");
            assert_eq!((delivery.headers().len(), delivery.attempt().get()), (2, n + 1));
            let wait = 600 * SECOND;
            match n % 5 {
                0 => delivery.fail("\0,f3 ".repeat(n as usize)).await.unwrap(),
                1 => delivery.nack().await.unwrap(),
                2 => delivery.nack_after(wait).await.unwrap(),
                3 => delivery.hold_facet(wait).await.unwrap(),
                _ => drop(delivery),
            }
            if n % 5 == 3 {
                // It was no attempt: the next one makes up for it.
                space.clock.advance(wait);
                queue.lease().await.unwrap().unwrap().nack().await.unwrap();
            }
            space.clock.advance(wait);
        }
        let last = queue.lease().await.unwrap().unwrap();
        let raw: Vec<Vec<u8>> =
            run(&["HVALS", &space.of("q", &format!("l:{}", lease_number(last.token())))]).await;
        let stored = raw.iter().find(|value| value.len() > facet.len()).unwrap();
        assert!(stored.windows(5).any(|part| part == b",c2.5"), "its cost is kept");
        last.ack().await.unwrap();
    }
    space.end().await;
}

/// The number of the lease, which is the last part of a token.
fn lease_number(token: &fairlane::Token) -> String {
    token.to_string().rsplit('/').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_failure_that_has_a_wrong_key_in_its_way_keeps_its_lease() {
    let (space, queue) = Space::with_queue().await;
    queue.configure(|queue| queue.max_attempts = 2).await.unwrap();
    deliver(&space.broker, "a", 1).await;
    let delivery = lease(&queue).await;
    let token = delivery.token().clone();
    run::<()>(&["SET", &space.of("q", "s:a"), "in the way"]).await;
    assert!(matches!(delivery.fail("no").await, Err(Error::WrongType(_))));
    run::<()>(&["DEL", &space.of("q", "s:a")]).await;
    space.broker.fail(&token, "no").await.unwrap();
    space.clock.advance(SECOND);
    for key in ["d:a", "letters", "dead"] {
        let delivery = queue.lease().lasting(3600 * SECOND).await.unwrap().unwrap();
        let token = delivery.token().clone();
        run::<()>(&["SET", &space.of("q", key), "in the way"]).await;
        assert!(matches!(delivery.fail("no").await, Err(Error::WrongType(_))), "{key}");
        run::<()>(&["DEL", &space.of("q", key)]).await;
        space.broker.hold_facet(&token, MS).await.unwrap();
        space.clock.advance(MS);
    }
    lease(&queue).await.fail("now").await.unwrap();
    assert_eq!(deaths(&queue).await, [(Death::Attempts, 2, 0)]);
    end(space, &queue).await;
}

#[tokio::test]
async fn what_a_worker_buries_is_a_dead_letter_at_once_with_its_reason_and_attempts_to_spare() {
    let (space, queue) = Space::with_queue().await;
    deliver(&space.broker, "a", 2).await;
    lease(&queue).await.bury("it has no address").await.unwrap();
    let second = lease(&queue).await;
    let token = second.token().clone();
    space.broker.bury(&token, "nor has this").await.unwrap();
    assert!(matches!(second.ack().await, Err(Error::LeaseLost(_))));
    assert_eq!(deaths(&queue).await, [(Death::Buried, 1, 0), (Death::Buried, 1, 0)]);
    let (page, _) = queue.dead_letters().page(Cursor::default()).await.unwrap();
    let mut reasons: Vec<_> = page.into_iter().map(|letter| letter.reason.unwrap()).collect();
    reasons.sort();
    assert_eq!(reasons, ["it has no address", "nor has this"]);
    // It can be served again as any other.
    assert_eq!(queue.dead_letters().redrive().await.unwrap(), 2);
    assert_eq!(numbers(&queue).await, [0, 1]);
    end(space, &queue).await;
}
