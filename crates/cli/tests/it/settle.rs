use crate::support::Terminal;

#[test]
fn leased_messages_are_acked_by_their_tokens() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 4);
    let tokens = terminal.lease(4);
    terminal.run(&["ack", &tokens[0], &tokens[1]]);
    terminal.run(&["ack", &tokens[1], &tokens[2], "--json"]); // One of them is gone.
    terminal.run(&["ack", &tokens[3], "--cost", "2.5"]);
    terminal.run(&["ack", &tokens[3], "--cost", "2.5"]);
    terminal.run(&["ack", "q/1"]);
    terminal.run(&["stats", "q", "--json"]);
    terminal.is_as_before("ack");
}

#[test]
fn leased_messages_are_given_back_now_or_later() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 4);
    let tokens = terminal.lease(4);
    terminal.run(&["nack", &tokens[0]]);
    terminal.run(&["nack", &tokens[1], "--after", "1h", "--json"]);
    terminal.run(&["nack", &tokens[2], "--hold-facet", "1h"]);
    terminal.run(&["nack", &tokens[0], &tokens[3]]);
    terminal.run(&["nack", &tokens[0], "--after", "1h", "--hold-facet", "1h"]);
    terminal.run(&["stats", "q", "--json"]);
    terminal.is_as_before("nack");
}

#[test]
fn a_message_that_failed_knows_why_the_next_time() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 1);
    let first = terminal.lease(1);
    terminal.run(&["fail", &first[0], "--reason", "status 500"]);
    terminal.run(&["lease", "q", "--wait", "20s", "--json"]);
    terminal.run(&["fail", &first[0]]); // Somebody else has it now.
    terminal.deliver("other", 1);
    terminal.run(&["fail", &terminal.lease(1)[0], "--json"]);
    terminal.is_as_before("fail");
}

#[test]
fn a_message_that_is_buried_is_a_dead_letter_at_once() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 2);
    let tokens = terminal.lease(2);
    terminal.run(&["fail", &tokens[0], "--bury", "--reason", "no mailbox"]);
    terminal.run(&["fail", &tokens[1], "--bury", "--reason", "no mailbox", "--json"]);
    terminal.run(&["dead", "list", "q", "--facet", "acme", "--json"]);
    terminal.is_as_before("bury");
}

#[test]
fn a_lease_is_extended() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 1);
    let tokens = terminal.lease(1);
    terminal.run(&["extend", &tokens[0]]);
    terminal.run(&["extend", &tokens[0], "--lasting", "1h", "--json"]);
    terminal.run(&["extend", &tokens[0], "--lasting", "1year"]);
    terminal.done(&["ack", &tokens[0]]);
    terminal.run(&["extend", &tokens[0]]);
    terminal.is_as_before("extend");
}
