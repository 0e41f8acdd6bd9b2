use crate::support::Terminal;

#[test]
fn each_thing_that_keeps_a_facet_is_said_in_words() {
    let mut terminal = Terminal::with_queue();
    terminal.both(&["why", "q", "nobody"]);
    for facet in ["free", "second", "limited", "slow", "held", "paused"] {
        terminal.deliver(facet, 2);
    }
    terminal.both(&["why", "q", "second"]);
    terminal.done(&["limit", "q", "--facet", "limited", "--leased", "1"]);
    terminal.done(&["rate", "q", "1/1h", "--facet", "slow"]);
    terminal.done(&["pause", "q", "--facet", "paused"]);
    for token in terminal.lease(5) {
        terminal.done(&match token.starts_with("q/9/") {
            true => ["nack", "--hold-facet", "1h", &token],
            false => ["extend", "--lasting", "1h", &token],
        });
    }
    for facet in ["limited", "slow", "held", "paused"] {
        terminal.both(&["why", "q", facet]);
    }
    terminal.done(&["pause", "q"]);
    terminal.both(&["why", "q", "free"]);
    terminal.is_as_before("why");
}
