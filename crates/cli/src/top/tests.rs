//! What is drawn of a state that does not change, and what keys do to it.

use std::time::{Duration, SystemTime};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use fairlane::{FacetSettings, FacetState, Gate, Rate, Stats};
use ratatui::{Terminal, backend::TestBackend};

use super::{
    facets::{Look, Reason, tests::look},
    keys::{Action, press},
    model::Model,
    screen::draw,
    theme::Theme,
    view::{Pane, Panel, View},
    watch::News,
};

const SECOND: Duration = Duration::from_secs(1);

struct Desk {
    model: Model,
    view: View,
}

/// 14:03:22 UTC.
fn clock() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 - 1_800_000_000 % 86_400 + 50_602)
}

/// `Stats` cannot be written as a literal outside of the library.
fn stats(waiting: u64, delivered: u64, served: u64) -> Stats {
    let mut stats = Stats::default();
    (stats.waiting, stats.delivered, stats.served) = (waiting, delivered, served);
    (stats.leased, stats.dead, stats.delayed, stats.facets_ready) = (12, 3, 40, 7);
    stats
}

/// Each facet: how it stood a second ago, and what its turn grew by since.
fn looks() -> Vec<(&'static str, Look, f64)> {
    let parked = |gate| Look { state: FacetState::Parked, gate: Some(gate), ..look(10.0) };
    let quiet = Look { waiting: 0, oldest: None, turn: None, gate: Some(Gate::Empty), ..look(0.0) };
    let until = clock() + 12 * SECOND;
    let waiting = |waiting, weight| Look { waiting, weight, ..look(10.0) };
    vec![
        ("loud and large", Look { leased: 7, ..waiting(1_234_567, 1.0) }, 20.0),
        ("acme", waiting(350, 3.0), 20.0),
        ("globex\x1b[31m", waiting(20, 1.0), 19.0),
        ("a name that is much longer than there is room for it", waiting(19, 0.5), 20.0),
        ("paused", Look { paused: true, ..parked(Gate::Paused) }, 0.0),
        ("limited", Look { leased: 5, ..parked(Gate::AtLimit { most: 5 }) }, 3.0),
        ("out of rate", parked(Gate::OutOfRate { until }), 1.0),
        ("held", parked(Gate::OnHold { until }), 0.0),
        ("in debt", Look { state: FacetState::InDebt, turn: Some(99.0), ..quiet.clone() }, 0.0),
        ("quiet", Look { state: FacetState::Quiet, dead: 3, ..quiet }, 0.0),
    ]
}

impl Desk {
    fn new() -> Self {
        let mut model = Model::new(Some("orders".into()));
        let mut view = View::new();
        let mut learn = |at, news| model.learn(at, news, |_| false);
        let names = ["mails", "orders", "webhooks"];
        learn(SECOND, News::Queues(names.map(Into::into).into()));
        for second in 0..120_u64 {
            let (at, wave) = (second as u32 * SECOND, (second % 60) * (60 - second % 60));
            let orders = stats(1_235_000, second * 900 + wave, second * 600);
            learn(at, News::Stats("orders".into(), orders));
            learn(at, News::Stats("mails".into(), stats(0, second * 3, second * 3)));
        }
        let mut paused = stats(17, 5, 5);
        paused.paused = true;
        learn(SECOND, News::Stats("webhooks".into(), paused));
        for (at, last) in [(118 * SECOND, false), (119 * SECOND, true)] {
            let facets = looks().into_iter().map(|(name, look, grows)| {
                let turn = look.turn.map(|turn| turn + if last { grows } else { 0.0 });
                (name.to_owned(), Look { turn, ..look })
            });
            let facets = facets.collect();
            learn(at, News::Page { queue: "orders".into(), facets, last });
        }
        (model.now, model.clock) = (120 * SECOND, clock());
        view.order(&mut model);
        Self { model, view }
    }

    fn screen(&mut self, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        self.view.order(&mut self.model);
        let theme = Theme { colours: true };
        terminal.draw(|frame| draw(frame, &self.model, &mut self.view, theme)).unwrap();
        terminal.backend().to_string()
    }

    fn press(&mut self, code: KeyCode) -> Action {
        let key = KeyEvent::new(code, KeyModifiers::NONE);
        let action = press(&mut self.view, self.model.queue.as_deref(), key);
        self.view.order(&mut self.model);
        action
    }

    fn type_text(&mut self, text: &str) {
        for c in text.chars() {
            assert_eq!(self.press(KeyCode::Char(c)), Action::None);
        }
    }

    /// Goes to a facet.
    fn find(&mut self, facet: &str) {
        self.view.pane = Pane::Facets;
        let row = self.view.facets.rows.iter().position(|row| row == facet).unwrap();
        self.view.facets.go_to(row);
    }
}

#[test]
fn queues_a_chart_and_facets_at_60_columns() {
    insta::assert_snapshot!(Desk::new().screen(60, 30));
}

#[test]
fn what_the_facets_are_sorted_by_is_seen_at_60_columns() {
    let mut desk = Desk::new();
    desk.view.pane = Pane::Facets;
    for by in ["waiting", "served/s", "oldest", "leased", "weight", "state", "facet"] {
        let screen = desk.screen(60, 30);
        assert!(screen.contains(&format!("{by}▾")), "{screen}");
        desk.press(KeyCode::Char('s'));
    }
}

#[test]
fn all_of_the_help_can_be_read_on_a_small_terminal() {
    let mut desk = Desk::new();
    desk.press(KeyCode::Char('?'));
    let first = desk.screen(60, 16);
    assert!(first.contains("ends; so does Ctrl-C") && first.contains(" more ─"), "{first}");
    desk.press(KeyCode::Down);
    assert!(!desk.screen(60, 16).contains("ends; so does Ctrl-C"));
    desk.press(KeyCode::End);
    let last = desk.screen(60, 16);
    assert!(last.contains("its foremost message was") && !last.contains(" more ─"), "{last}");
    desk.press(KeyCode::Up); // From the end, not from beyond it.
    assert_ne!(desk.screen(60, 16), last);
    desk.press(KeyCode::Home);
    assert_eq!(desk.screen(60, 16), first);
}

#[test]
fn queues_a_chart_and_facets_at_100_columns() {
    insta::assert_snapshot!(Desk::new().screen(100, 30));
}

#[test]
fn queues_a_chart_and_facets_at_160_columns() {
    insta::assert_snapshot!(Desk::new().screen(160, 30));
}

#[test]
fn a_low_screen_has_no_chart() {
    insta::assert_snapshot!(Desk::new().screen(80, 15));
}

#[test]
fn no_size_is_too_small() {
    for open in ["", "?", "\t\n"] {
        let mut desk = Desk::new();
        for key in open.chars() {
            desk.press(match key {
                '\t' => KeyCode::Tab,
                '\n' => KeyCode::Enter,
                key => KeyCode::Char(key),
            });
        }
        for (width, height) in (1..160).step_by(3).flat_map(|w| (1..32).map(move |h| (w, h))) {
            desk.screen(width, height);
        }
    }
}

#[test]
fn a_filter_shows_only_names_that_have_it() {
    let mut desk = Desk::new();
    desk.press(KeyCode::Tab);
    desk.type_text("/EMA");
    desk.press(KeyCode::Backspace);
    assert_eq!(desk.view.facets.rows, [] as [&str; 0]);
    desk.type_text("\u{8}");
    desk.press(KeyCode::Backspace);
    desk.press(KeyCode::Backspace);
    desk.press(KeyCode::Backspace);
    desk.type_text("AcM");
    assert_eq!(desk.view.facets.rows, ["acme"]);
    insta::assert_snapshot!(desk.screen(60, 15));
    desk.press(KeyCode::Enter);
    desk.press(KeyCode::Esc);
    assert_eq!(desk.view.facets.rows.len(), 10);
    desk.press(KeyCode::Esc);
    assert_eq!(desk.view.pane, Pane::Queues);
}

/// What is said of a facet, once it was asked for.
fn why(facet: &str, width: u16) -> String {
    let mut desk = Desk::new();
    let mut settings = FacetSettings::default();
    settings.max_leased = Some(5);
    settings.rate = Some(Rate::new(100, 60 * SECOND).burst(10));
    let look = desk.model.facets.get(facet).unwrap().now.clone();
    let reason = Reason { place: Some(3), settings };
    let facets = vec![(facet.to_owned(), look, reason)];
    let news = News::Why { queue: "orders".into(), facets };
    desk.model.learn(119 * SECOND, news, |_| false);
    desk.find(facet);
    desk.press(KeyCode::Enter);
    desk.screen(width, 28)
}

#[test]
fn why_says_what_keeps_a_facet_and_until_when() {
    insta::assert_snapshot!(why("out of rate", 100));
}

#[test]
fn why_says_what_a_limit_is_used_for() {
    insta::assert_snapshot!(why("limited", 60));
}

#[test]
fn why_says_how_soon_a_facet_is_served() {
    insta::assert_snapshot!(why("acme", 160));
}

#[test]
fn each_gate_is_said_in_words() {
    for (facet, words) in [
        ("paused", "It is paused, until somebody resumes it"),
        ("held", "It can be served in 12s, at"),
        ("in debt", "It had more than the others"),
        ("quiet", "Nothing waits."),
    ] {
        let screen = why(facet, 160);
        assert!(screen.contains(words), "{screen}");
    }
}

#[test]
fn the_help_has_all_keys() {
    let mut desk = Desk::new();
    desk.press(KeyCode::Char('?'));
    insta::assert_snapshot!(desk.screen(100, 30));
    desk.press(KeyCode::Char('?'));
    assert_eq!(desk.view.panel, Panel::None);
}

#[test]
fn s_sorts_by_the_next_column_and_the_cursor_stays_with_its_name() {
    let mut desk = Desk::new();
    desk.find("acme");
    assert_eq!(desk.view.facets.rows[0], "loud and large");
    desk.press(KeyCode::Char('s'));
    assert_eq!(desk.view.facets.rows[0], "acme", "it is served the most");
    desk.press(KeyCode::Char('S'));
    desk.press(KeyCode::Char('S'));
    assert_eq!(desk.view.facets.rows[0], "a name that is much longer than there is room for it");
    assert_eq!(desk.view.facets.at_cursor(), Some("acme"));
    assert_eq!(desk.view.facets.row, 1);
}

#[test]
fn p_and_r_are_for_what_the_cursor_is_on() {
    let mut desk = Desk::new();
    let queue = || "orders".to_owned();
    let of_queue = |pause| Action::Pause { queue: queue(), facet: None, pause };
    assert_eq!(desk.press(KeyCode::Char('p')), of_queue(true));
    assert_eq!(desk.press(KeyCode::Char('r')), of_queue(false));
    desk.find("acme");
    let of_facet = |pause| Action::Pause { queue: queue(), facet: Some("acme".into()), pause };
    assert_eq!(desk.press(KeyCode::Char('p')), of_facet(true));
    desk.press(KeyCode::Enter);
    assert_eq!(desk.press(KeyCode::Char('r')), of_facet(false));
}

#[test]
fn another_queue_has_other_facets() {
    let mut desk = Desk::new();
    desk.press(KeyCode::Char('j'));
    assert_eq!(desk.model.queue.as_deref(), Some("webhooks"));
    assert_eq!(desk.view.facets.rows.len(), 0);
    desk.press(KeyCode::Char('g'));
    assert_eq!(desk.model.queue.as_deref(), Some("mails"));
}

#[test]
fn q_and_control_c_end_it() {
    let mut desk = Desk::new();
    assert_eq!(desk.press(KeyCode::Char('q')), Action::Quit);
    desk.press(KeyCode::Char('/'));
    let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(press(&mut desk.view, None, key), Action::Quit);
}

#[test]
fn what_is_wrong_is_said_until_it_is_right_again() {
    let mut desk = Desk::new();
    let mut hear = |news| {
        desk.model.learn(121 * SECOND, news, |_| false);
        desk.screen(100, 20)
    };
    let away = "Redis cannot be reached";
    assert!(hear(News::Trouble(away.into())).contains("trying again: Redis cannot be reached"));
    assert!(!hear(News::Fine).contains(away));
    let missing = || News::NoSuchQueue("orders".into(), "there is no queue `orders`".into());
    assert!(hear(missing()).contains("there is no queue `orders`"));
    let back = News::Stats("orders".into(), stats(1, 2, 1));
    assert!(!hear(back).contains("there is no queue"));
}

#[test]
fn what_was_done_is_said_until_the_next_key() {
    let mut desk = Desk::new();
    desk.view.said = Some(("paused acme; r resumes it".into(), false));
    assert!(desk.screen(60, 15).contains("paused acme; r resumes it"));
    desk.press(KeyCode::Down);
    assert!(!desk.screen(60, 15).contains("paused acme"));
}

#[test]
fn without_colours_there_are_none() {
    let mut desk = Desk::new();
    let mut terminal = Terminal::new(TestBackend::new(100, 30)).unwrap();
    let theme = Theme { colours: false };
    terminal.draw(|frame| draw(frame, &desk.model, &mut desk.view, theme)).unwrap();
    let cells = &terminal.backend().buffer().content;
    let plain = ratatui::style::Color::Reset;
    assert!(cells.iter().all(|cell| cell.fg == plain && cell.bg == plain));
}
