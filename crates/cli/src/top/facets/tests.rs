use super::*;

/// A facet that waits, with a turn, whose foremost message is old.
pub(in crate::top) fn look(turn: f64) -> Look {
    Look {
        waiting: 10,
        leased: 0,
        delayed: 0,
        dead: 0,
        weight: 1.0,
        turn: Some(turn),
        oldest: Some(Duration::from_secs(60)),
        state: FacetState::Ready,
        gate: None,
        paused: false,
    }
}

fn at(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// What is shown of a facet after these looks at it.
#[track_caller]
fn served(looks: impl IntoIterator<Item = (f64, Look)>, expected: Option<f64>) {
    let mut facets = Facets::default();
    for (seconds, look) in looks {
        facets.list(at(seconds), "a", look);
    }
    assert_eq!(facets.get("a").unwrap().served, expected);
}

#[test]
fn what_a_turn_grows_by_times_the_weight_is_what_was_served() {
    served([(0.0, look(5.0))], None);
    served([(0.0, look(5.0)), (2.0, look(9.0))], Some(2.0));
    let heavy = |turn| Look { weight: 3.0, ..look(turn) };
    served([(0.0, heavy(5.0)), (2.0, heavy(9.0))], Some(6.0));
    served([(0.0, look(5.0)), (1.0, look(5.0))], Some(0.0));
}

#[test]
fn a_figure_is_of_the_last_five_seconds() {
    let slow_then_fast = (0..=20).map(|n| {
        let n = f64::from(n);
        (n, look(if n <= 10.0 { n } else { 10.0 + (n - 10.0) * 7.0 }))
    });
    served(slow_then_fast, Some(7.0));
}

#[test]
fn a_facet_that_had_nothing_in_between_has_no_figure() {
    let fresh = |turn| Look { oldest: Some(at(0.9)), ..look(turn) };
    served([(0.0, look(5.0)), (1.0, fresh(9.0))], None);
    let drained = Look { waiting: 0, oldest: None, state: FacetState::InDebt, ..look(6.0) };
    served([(0.0, look(5.0)), (1.0, drained), (2.0, look(9.0))], None);
    served([(0.0, look(5.0)), (1.0, fresh(9.0)), (1.5, fresh(10.0))], Some(2.0));
}

#[test]
fn a_clock_that_begins_anew_and_another_weight_make_no_figure() {
    served([(0.0, look(5.0)), (1.0, look(0.0))], None);
    served([(0.0, look(5.0)), (1.0, look(0.0)), (2.0, look(4.0))], Some(4.0));
    served([(0.0, look(5.0)), (1.0, Look { weight: 2.0, ..look(9.0) })], None);
}

#[test]
fn a_facet_that_may_have_been_parked_has_a_figure_only_while_its_turn_stays() {
    let parked = |turn| Look {
        state: FacetState::Parked,
        gate: Some(Gate::AtLimit { most: 1 }),
        ..look(turn)
    };
    served([(0.0, parked(5.0)), (1.0, parked(5.0))], Some(0.0));
    served([(0.0, look(5.0)), (1.0, parked(9.0))], None);
    let mut looks = vec![(0.0, parked(5.0))];
    looks.extend((1..=9).map(|n| (f64::from(n), look(5.0 + f64::from(n)))));
    served(looks.clone(), None);
    looks.extend((10..=11).map(|n| (f64::from(n), look(5.0 + f64::from(n)))));
    served(looks, Some(1.0));
}

#[test]
fn two_looks_at_once_make_no_figure() {
    served([(0.0, look(5.0)), (0.01, look(6.0))], None);
    served([(0.0, look(5.0)), (0.01, look(6.0)), (1.0, look(7.0))], Some(2.0));
}

#[test]
fn shares_are_of_what_is_served_and_of_the_weights_that_wait() {
    let mut facets = Facets::default();
    for (name, weight, grows, state) in [
        ("a", 1.0, 10.0, FacetState::Ready),
        ("b", 3.0, 10.0, FacetState::Ready),
        ("c", 4.0, 0.0, FacetState::Parked),
    ] {
        facets.list(at(0.0), name, Look { weight, state, ..look(0.0) });
        facets.list(at(1.0), name, Look { weight, state, ..look(grows) });
    }
    // One that has come a moment ago has no figure, and takes nothing from the others.
    facets.list(at(1.0), "d", look(0.0));
    let sum = facets.sum();
    let of = |name| {
        let known = facets.get(name).unwrap();
        (sum.share(known), sum.fair(known))
    };
    assert_eq!(of("a"), (Some(0.25), Some(0.25)));
    assert_eq!(of("b"), (Some(0.75), Some(0.75)));
    assert_eq!(of("c"), (Some(0.0), None));
    assert_eq!(of("d"), (None, None));
    assert_eq!(Facets::default().sum().served, 0.0);
}

#[test]
fn a_facet_leaves_when_whole_rounds_did_not_list_it() {
    let mut facets = Facets::default();
    facets.list(at(0.0), "a", look(1.0));
    facets.list(at(0.0), "b", look(1.0));
    facets.end_round();
    facets.list(at(1.0), "b", look(1.0));
    facets.end_round();
    assert!(facets.get("a").is_some(), "it may have changed while the pages were read");
    facets.list(at(2.0), "b", look(1.0));
    facets.end_round();
    assert!(facets.get("a").is_none());
    assert!(facets.get("b").is_some());
}

#[test]
fn a_facet_that_is_asked_for_stays_while_it_has_something() {
    let mut facets = Facets::default();
    let reason = Reason { place: None, settings: FacetSettings::default() };
    facets.list(at(0.0), "a", look(1.0));
    facets.list(at(0.0), "b", look(1.0));
    for n in 1..9 {
        facets.end_round();
        facets.answer(at(f64::from(n)), "a", look(1.0), reason.clone());
        let empty = Look { waiting: 0, ..look(1.0) };
        facets.answer(at(f64::from(n)), "b", empty, reason.clone());
        facets.answer(at(f64::from(n)), "nobody", look(1.0), reason.clone());
    }
    assert!(facets.get("a").is_some());
    assert!(facets.get("b").is_none());
    assert!(facets.get("nobody").is_none());
}

#[test]
fn of_too_many_the_busiest_are_kept_and_those_that_are_looked_for() {
    let mut facets = Facets::default();
    for n in 0..3000 {
        let waiting = if n % 5 == 0 { 100 } else { 1 };
        facets.list(at(0.0), &format!("f{n:04}"), Look { waiting, ..look(0.0) });
        facets.bound(|name| name == "f1111");
    }
    assert_eq!(facets.len(), MOST);
    assert!(facets.left_out);
    assert!(facets.get("f1111").is_some());
    let busy = facets.iter().filter(|(_, known)| known.now.waiting == 100).count();
    assert_eq!(busy, 600);
    assert!(facets.get("f0001").is_some(), "of those that have as much, the first by name");
    assert!(facets.get("f2999").is_none());
}
