//! The check on records that are written by hand: one event a second.

use super::*;
use Known::{Done, NotDone, Perhaps};

const SECOND: Micros = 1_000_000;

fn verdict(events: &[Event]) -> Verdict {
    excusing(events, &Excused::default())
}

fn excusing(events: &[Event], excused: &Excused) -> Verdict {
    let entry =
        |(second, event): (usize, &Event)| Entry { at: second as u64 * SECOND, event: *event };
    check(&events.iter().enumerate().map(entry).collect::<Vec<_>>(), excused)
}

#[track_caller]
fn breaks(events: &[Event], breach: &str) {
    let found = verdict(events).breaches;
    assert!(found.iter().any(|found| found == breach), "{found:?}");
}

fn hold(n: u64, lease: u64) -> Hold {
    Hold { n, id: 10 + n, lease: lease * 1_000_000 }
}

fn deliver(n: u64) -> Event {
    Event::Deliver { n, facet: 1, keyed: false, pulled: false }
}

fn delivered(n: u64, known: Known) -> Event {
    Event::Delivered { n, known }
}

/// A lease that was asked for in the second `asked` and lasts until another one.
fn leased(hold: Hold, asked: u64, until: u64) -> Event {
    let (asked, until) = (asked * SECOND, until * SECOND);
    Event::Leased { hold, attempt: 1, asked, until }
}

fn settle(hold: Hold, how: How, known: Known) -> [Event; 2] {
    [Event::Settle { hold, how }, Event::Settled { hold, how, known }]
}

#[test]
fn what_is_promised_breaks_nothing_and_is_counted() {
    let (first, second) = (hold(1, 3), hold(1, 8));
    let [settle_first, settled_first] = settle(first, How::Ack, Known::LeaseLost);
    let [settle_second, settled_second] = settle(second, How::Ack, Done);
    let mut keyed = deliver(2);
    if let Event::Deliver { keyed, .. } = &mut keyed {
        *keyed = true;
    }
    let verdict = verdict(&[
        deliver(1),
        delivered(1, Done),
        keyed, // That is second 2.
        delivered(2, Perhaps),
        leased(first, 3, 5),
        keyed,
        delivered(2, Done),
        leased(second, 6, 12),
        settle_first,
        settled_first,
        settle_second,
        settled_second,
        leased(hold(2, 12), 12, 14),
        settle(hold(2, 12), How::Ack, Perhaps)[0],
    ]);
    assert_eq!(verdict.breaches, [] as [String; 0]);
    assert_eq!((verdict.delivered, verdict.served, verdict.doubled, verdict.lost), (2, 2, 1, 0));
    assert_eq!(verdict.stall, Duration::from_secs(5), "from 7 to 12");
}

#[test]
fn what_is_lost_and_what_is_there_too_often_is_found() {
    breaks(&[deliver(1), delivered(1, Done)], "message 1 was delivered and is lost");
    breaks(
        &[deliver(1), delivered(1, NotDone), leased(hold(1, 1), 1, 3)],
        "message 1 is there, though it was not delivered",
    );
    let other = Hold { id: 99, ..hold(1, 2) };
    breaks(
        &[deliver(1), delivered(1, Perhaps), leased(hold(1, 1), 1, 3), leased(other, 2, 4)],
        "message 1 was there 2 times, and delivered 1 times",
    );
    let pulled = Event::Pulled { n: 1 };
    breaks(
        &[deliver(1), delivered(1, Done), pulled, pulled],
        "message 1 was there 2 times, and delivered 1 times",
    );
    let two = [1, 2].map(|n| Event::Deliver { n, facet: 1, keyed: false, pulled: true });
    let [one, other] = [1, 2].map(|n| delivered(n, Done));
    breaks(
        &[two[0], two[1], one, other, Event::PulledPerhaps { most: 1 }],
        "2 messages are lost, where pulls without an answer may have taken 1",
    );
}

#[test]
fn what_redis_forgot_is_counted_and_not_what_came_later_or_was_to_be_safe() {
    let [first, second] = [1, 2].map(|n| [deliver(n), delivered(n, Done)]);
    let mut excused = Excused { forgotten: vec![(0, SECOND)], ..Excused::default() };
    let found = excusing(&[first, second].concat(), &excused);
    assert_eq!(
        (found.lost, &found.breaches[..]),
        (2, &["message 2 was delivered and is lost".into()][..])
    );
    excused.durable = true;
    let found = excusing(&first, &excused);
    assert_eq!(
        (found.lost, &found.breaches[..]),
        (1, &["message 1 was delivered and is lost".into()][..])
    );
}

#[test]
fn who_settles_a_lease_that_was_lost_is_found() {
    let (first, second) = (hold(1, 2), hold(1, 4));
    let begin = [deliver(1), delivered(1, Done), leased(first, 1, 3), leased(second, 3, 20)];
    let [settle_first, settled_first] = settle(first, How::Ack, Done);
    let [settle_second, settled_second] = settle(second, How::Ack, Done);
    breaks(
        &[&begin[..], &[settle_first, settled_first]].concat(),
        "message 1 was settled under lease 2000000 after it was leased as 4000000",
    );
    let extended = Event::Extended { hold: first, asked: 4 * SECOND, until: 9 * SECOND };
    breaks(
        &[&begin[..], &[extended]].concat(),
        "message 1 was extended under lease 2000000 after it was leased as 4000000",
    );
    breaks(
        &[&begin[..], &[settle_second, settled_second, settle_first, settled_first]].concat(),
        "message 1 was acked under lease 2000000 and under lease 4000000",
    );
    let begin = [deliver(1), delivered(1, Done), leased(first, 1, 9), settle_first, settled_first];
    breaks(
        &[&begin[..], &[leased(second, 5, 9)]].concat(),
        "message 1 was acked under lease 2000000, and leased again as 4000000",
    );
}

#[test]
fn what_two_have_at_a_time_and_what_is_out_of_order_is_found() {
    let begin = [deliver(1), deliver(2), delivered(1, Done), delivered(2, Done)];
    let two = [leased(hold(1, 4), 3, 7), leased(hold(1, 5), 4, 9)];
    breaks(
        &[&begin[..], &two].concat(),
        "message 1 was leased as 5000000 2000 ms before lease 4000000 ended",
    );
    let wrong = [leased(hold(2, 4), 3, 7), leased(hold(1, 5), 4, 9)];
    breaks(&[&begin[..], &wrong].concat(), "message 2 of facet 1 was served before message 1");
}
