use crate::support::Terminal;

#[test]
fn queues_are_registered_listed_and_unregistered() {
    let mut terminal = Terminal::new();
    terminal.both(&["queues"]);
    terminal.both(&["register", "google", "^page:.*google"]);
    terminal.run(&["register", "mails", "^mail:"]);
    terminal.both(&["queues"]);
    terminal.both(&["unregister", "google"]);
    terminal.both(&["queues"]);
    terminal.is_as_before("queues");
}

#[test]
fn a_name_or_a_pattern_that_cannot_be_is_refused() {
    let mut terminal = Terminal::new();
    terminal.run(&["register", "two words", "."]);
    terminal.run(&["register", "q", "("]);
    terminal.run(&["register", "q", "error: [\n"]);
    terminal.run(&["register", "q", r"(\w{100}){100}"]);
    terminal.run(&["register", "q"]);
    terminal.is_as_before("queues_refused");
}

#[test]
fn a_queue_is_destroyed_with_all_that_is_on_it() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 3);
    terminal.lease(1);
    terminal.run(&["destroy", "q"]); // Nobody is there who could be asked.
    terminal.run(&["destroy", "q", "--yes"]);
    terminal.both(&["destroy", "q", "--yes"]);
    terminal.run(&["stats", "q"]);
    terminal.done(&["register", "q", "."]);
    terminal.run(&["destroy", "q", "--yes", "--json"]);
    terminal.is_as_before("destroy");
}
