use crate::support::Terminal;

#[test]
fn limits_are_shown_and_set() {
    let mut terminal = Terminal::with_queue();
    terminal.both(&["limit", "q"]);
    terminal.both(&[
        "limit",
        "q",
        "--leased",
        "5",
        "--waiting",
        "1000",
        "--overflow",
        "drop-oldest",
    ]);
    terminal.run(&["limit", "q", "--leased", "none", "--overflow", "refuse", "--json"]);
    terminal.both(&["limit", "q", "--facet", "acme", "--leased", "2"]);
    terminal.run(&["limit", "q", "--facet", "acme", "--leased", "none", "--json"]);
    terminal.run(&["limit", "q", "--leased", "0"]);
    terminal.run(&["limit", "q", "--leased", "many"]);
    terminal.run(&["limit", "q", "--facet", "acme", "--overflow", "refuse"]);
    terminal.run(&["limit", "nowhere"]);
    terminal.is_as_before("limit");
}

#[test]
fn a_weight_is_set_and_taken_back() {
    let mut terminal = Terminal::with_queue();
    terminal.both(&["weight", "q", "3", "--facet", "acme"]);
    terminal.run(&["weight", "q", "none", "--facet", "acme", "--json"]);
    terminal.both(&["weight", "q", "0.5"]);
    terminal.run(&["weight", "q", "1001"]);
    terminal.is_as_before("weight");
}

#[test]
fn a_rate_is_set_and_taken_back() {
    let mut terminal = Terminal::with_queue();
    terminal.both(&["rate", "q", "100/1m", "--burst", "10", "--facet", "acme"]);
    terminal.run(&["rate", "q", "none", "--facet", "acme", "--json"]);
    terminal.both(&["rate", "q", "10/s"]);
    terminal.run(&["rate", "q", "10"]);
    terminal.run(&["rate", "q", "0/s"]);
    terminal.is_as_before("rate");
}
