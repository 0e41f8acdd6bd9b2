use crate::support::Terminal;

/// A queue that has given up the first messages of two facets.
fn with_dead() -> Terminal {
    let terminal = Terminal::with_queue();
    terminal.done(&["limit", "q", "--waiting", "1", "--overflow", "drop-oldest"]);
    terminal.deliver("acme", 3);
    terminal.deliver("other", 2);
    terminal
}

/// The number of a dead letter of the facet `acme`.
fn id(terminal: &Terminal) -> String {
    let letters = terminal.done(&["dead", "list", "q", "--facet", "acme", "--json"]);
    let letter = serde_json::from_str::<serde_json::Value>(letters.lines().next().unwrap());
    letter.unwrap()["id"].to_string()
}

#[test]
fn dead_letters_are_listed() {
    let mut terminal = with_dead();
    terminal.both(&["dead", "list", "q", "--facet", "acme"]);
    terminal.both(&["dead", "list", "q", "--facet", "acme", "--limit", "1"]);
    terminal.both(&["dead", "list", "q", "--facet", "nobody"]);
    terminal.run(&["dead", "list", "nowhere"]);
    terminal.is_as_before("dead_list");
    assert_eq!(terminal.done(&["dead", "list", "q", "--json"]).lines().count(), 3);
}

#[test]
fn dead_letters_are_served_again() {
    let mut terminal = with_dead();
    let id = id(&terminal);
    terminal.run(&["dead", "redrive", "q", "--facet", "acme", "--id", &id]);
    terminal.run(&["dead", "redrive", "q", "--facet", "acme", "--id", &id]);
    terminal.run(&["dead", "redrive", "q", "--facet", "acme", "--json"]);
    terminal.run(&["dead", "redrive", "q"]);
    terminal.run(&["stats", "q", "--json"]);
    terminal.is_as_before("dead_redrive");
}

#[test]
fn dead_letters_are_dropped() {
    let mut terminal = with_dead();
    let id = id(&terminal);
    terminal.run(&["dead", "purge", "q"]); // Nobody is there who could be asked.
    terminal.run(&["dead", "purge", "q", "--facet", "acme", "--id", &id, "--yes"]);
    terminal.run(&["dead", "purge", "q", "--facet", "acme", "--json", "--yes"]);
    terminal.run(&["dead", "purge", "q", "-y"]);
    terminal.run(&["stats", "q", "--json"]);
    terminal.is_as_before("dead_purge");
}
