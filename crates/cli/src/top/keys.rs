//! What each key does.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::view::{FACET_SORTS, Pane, Panel, QUEUE_SORTS, View};

/// What the loop has to do after a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    Quit,
    /// Pause or resume a queue, or one of its facets.
    Pause {
        queue: String,
        facet: Option<String>,
        pause: bool,
    },
}

/// The keys, in the order of the help. The short text is what the last line of the screen has.
pub(super) const KEYS: [(&str, &str, &str); 11] = [
    ("q", "quit", "ends; so does Ctrl-C"),
    ("?", "help", "this page"),
    ("Tab", "queues/facets", "goes from the queues to the facets of the chosen one, and back"),
    ("Enter", "why", "of a facet: what keeps it and until when; of a queue: goes to its facets"),
    ("p", "pause", "serves nothing of the facet, or of the queue, that the cursor is on"),
    ("r", "resume", "serves it again"),
    ("/", "filter", "shows only names that have the text; Enter keeps it, Esc shows all"),
    ("s", "sort", "sorts by the next column; S by the one before"),
    ("Esc", "", "back: closes what is open, then shows all again, then goes to the queues"),
    ("↑ ↓", "", "or k and j: moves the cursor; PgUp, PgDn, Home (g), End (G)"),
    ("", "", "the cursor stays with its name, wherever that is sorted to"),
];

/// Does what a key says. `queue`: the chosen one.
pub(super) fn press(view: &mut View, queue: Option<&str>, key: KeyEvent) -> Action {
    if key.kind == KeyEventKind::Release {
        return Action::None;
    }
    view.said = None; // It was read.
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return if key.code == KeyCode::Char('c') { Action::Quit } else { Action::None };
    }
    if view.typing {
        type_filter(view, key.code);
        return Action::None;
    }
    let helps = matches!(view.panel, Panel::Help { .. });
    match key.code {
        KeyCode::Char('q') => return Action::Quit,
        KeyCode::Char('p') => return pause(view, queue, true),
        KeyCode::Char('r') => return pause(view, queue, false),
        KeyCode::Char('?') if helps => view.panel = Panel::None,
        KeyCode::Char('?') => view.panel = Panel::Help { from: 0 },
        KeyCode::Esc | KeyCode::Enter if view.panel != Panel::None => view.panel = Panel::None,
        KeyCode::Esc => back(view),
        code if helps => scroll(view, code),
        KeyCode::Enter => open(view),
        KeyCode::Tab | KeyCode::BackTab => {
            view.panel = Panel::None;
            view.pane = if view.pane == Pane::Queues { Pane::Facets } else { Pane::Queues };
        }
        KeyCode::Char('/') => {
            view.panel = Panel::None;
            view.typing = true;
        }
        KeyCode::Char('s') => sort(view, 1),
        KeyCode::Char('S') => sort(view, -1),
        code => go(view, code),
    }
    Action::None
}

fn type_filter(view: &mut View, code: KeyCode) {
    let list = view.list();
    match code {
        KeyCode::Char(c) => list.filter.push(c),
        KeyCode::Backspace => {
            list.filter.pop();
        }
        KeyCode::Esc => {
            list.filter.clear();
            view.typing = false;
            return;
        }
        KeyCode::Enter => {
            view.typing = false;
            return;
        }
        _ => return,
    }
    list.let_go();
}

fn back(view: &mut View) {
    let list = view.list();
    if list.filter.is_empty() {
        view.pane = Pane::Queues;
    } else {
        list.filter.clear();
    }
}

fn open(view: &mut View) {
    match view.pane {
        Pane::Queues => view.pane = Pane::Facets,
        Pane::Facets => {
            if let Some(facet) = view.facets.at_cursor().map(str::to_owned) {
                view.facets.held = Some(facet.clone());
                view.panel = Panel::Why(facet);
            }
        }
    }
}

fn sort(view: &mut View, by: isize) {
    let sorts = if view.pane == Pane::Queues { QUEUE_SORTS.len() } else { FACET_SORTS.len() };
    let list = view.list();
    list.sort = (list.sort as isize + by).rem_euclid(sorts as isize) as usize;
}

fn go(view: &mut View, code: KeyCode) {
    let list = view.list();
    let (row, page) = (list.row, list.height.max(1));
    match code {
        KeyCode::Up | KeyCode::Char('k') => list.go_to(row.saturating_sub(1)),
        KeyCode::Down | KeyCode::Char('j') => list.go_to(row + 1),
        KeyCode::PageUp => list.go_to(row.saturating_sub(page)),
        KeyCode::PageDown => list.go_to(row + page),
        KeyCode::Home | KeyCode::Char('g') => list.go_to(0),
        KeyCode::End | KeyCode::Char('G') => list.go_to(usize::MAX),
        _ => return,
    }
    if let (Panel::Why(_), Some(facet)) = (&view.panel, view.facets.at_cursor()) {
        view.panel = Panel::Why(facet.into());
    }
}

/// Goes through the help; where it ends is known when it is drawn.
fn scroll(view: &mut View, code: KeyCode) {
    let Panel::Help { from } = &mut view.panel else { return };
    *from = match code {
        KeyCode::Up | KeyCode::Char('k') => from.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => from.saturating_add(1),
        KeyCode::PageUp | KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::PageDown | KeyCode::End | KeyCode::Char('G') => u16::MAX,
        _ => return,
    };
}

/// The name that the cursor is on keeps it, wherever it goes in the list for that.
fn pause(view: &mut View, queue: Option<&str>, pause: bool) -> Action {
    let Some(queue) = queue.map(str::to_owned) else { return Action::None };
    let facet = match (&view.panel, view.pane) {
        (Panel::Why(facet), _) => Some(facet.clone()),
        (_, Pane::Queues) => return Action::Pause { queue, facet: None, pause },
        (_, Pane::Facets) => view.facets.at_cursor().map(str::to_owned),
    };
    view.facets.held = facet.clone();
    match facet {
        Some(facet) => Action::Pause { queue, facet: Some(facet), pause },
        None => Action::None,
    }
}
