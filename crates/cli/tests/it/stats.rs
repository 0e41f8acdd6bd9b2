use crate::support::Terminal;

#[test]
fn a_queue_says_what_it_has_and_had() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 3);
    terminal.deliver("other", 1);
    let tokens = terminal.lease(2);
    terminal.done(&["ack", &tokens[0]]);
    terminal.both(&["stats", "q"]);
    terminal.is_as_before("stats");
}

#[test]
fn without_a_name_all_queues_are_counted() {
    let mut terminal = Terminal::with_queue();
    terminal.done(&["register", "mails", "^mail:"]);
    terminal.deliver("acme", 3);
    terminal.done(&["pause", "mails"]);
    terminal.both(&["stats"]);
    terminal.run(&["stats", "q", "nowhere"]);
    terminal.is_as_before("stats_of_all");
}
