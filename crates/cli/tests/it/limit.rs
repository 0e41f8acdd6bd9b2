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
fn how_often_and_how_long_a_queue_tries_and_keeps_is_set() {
    let mut terminal = Terminal::with_queue();
    let all = "limit q --attempts 3 --crashes 2 --backoff 2s..1h --ttl 1day --bury-expired true --dead 100 \
               --dead-age 30days";
    terminal.both(&all.split_whitespace().collect::<Vec<_>>());
    let none =
        "limit q --ttl none --bury-expired false --dead none --dead-age none --leased 5 --json";
    terminal.run(&none.split_whitespace().collect::<Vec<_>>());
    terminal.run(&["limit", "q", "--backoff", "1s"]);
    terminal.run(&["limit", "q", "--backoff", "1h..1s"]);
    terminal.run(&["limit", "q", "--attempts", "0"]);
    terminal.run(&["limit", "q", "--attempts", "2", "--facet", "acme"]);
    terminal.is_as_before("limit_of_queue");
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
