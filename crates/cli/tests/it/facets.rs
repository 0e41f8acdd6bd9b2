use crate::support::{Terminal, piped};

#[test]
fn facets_are_listed_with_those_first_that_have_the_most() {
    let mut terminal = Terminal::with_queue();
    for (facet, n) in [("b", 1), ("a", 1), ("loud", 5), ("c", 2)] {
        terminal.deliver(facet, n);
    }
    terminal.done(&["weight", "q", "3", "--facet", "a"]);
    terminal.done(&["pause", "q", "--facet", "b"]);
    terminal.lease(1);
    terminal.both(&["facets", "q"]);
    terminal.both(&["facets", "q", "--limit", "2", "--page", "2"]);
    for sort in ["leased", "delayed", "dead", "weight", "name", "oldest"] {
        terminal.run(&["facets", "q", "--sort", sort, "--limit", "1"]);
    }
    terminal.both(&["facets", "q", "--limit", "2", "--page", "4"]);
    terminal.is_as_before("facets");
}

#[test]
fn a_facet_of_any_name_leaves_the_terminal_alone() {
    let mut terminal = Terminal::with_queue();
    terminal.done(&[
        "deliver",
        "1",
        "--facet",
        "a\u{1b}]0;title\u{7}\n\u{9b}31m\u{202e}",
        "--topic",
        "t",
    ]);
    terminal.done(&["deliver", "1", "--facet", &"long".repeat(50), "--topic", "t"]);
    terminal.run(&["facets", "q", "--sort", "name"]);
    terminal.run(&["facets", "q", "--sort", "name", "--json"]);
    terminal.is_as_before("facets_hostile");
}

#[test]
fn all_facets_are_gone_through_however_many() {
    let terminal = Terminal::with_queue();
    let lines: String =
        (0..3000).map(|n| format!("{{\"facet\":\"{n:04}\",\"topic\":\"t\"}}\n")).collect();
    assert!(piped(terminal.fairlane(&["deliver"]), lines.as_bytes()).status.success());
    let page = terminal.done(&["facets", "q", "--sort", "name", "--limit", "2", "--page", "1000"]);
    let names: Vec<_> = page.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["facet", "1998", "1999", "1999"]);
    assert!(page.ends_with("1999 to 2000 of 3000 facets\n"), "{page}");
}
