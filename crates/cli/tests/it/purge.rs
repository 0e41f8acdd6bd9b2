use crate::support::Terminal;

#[test]
fn what_waits_of_a_facet_is_dropped() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 3);
    terminal.deliver("other", 1);
    terminal.done(&["deliver", "1", "--facet", "acme", "--topic", "t", "--delay", "1h"]);
    terminal.run(&["purge", "q", "acme"]); // Nobody is there who could be asked.
    terminal.run(&["purge", "q", "acme", "--id", "1", "--yes"]);
    terminal.run(&["purge", "q", "acme", "--id", "1", "--yes"]);
    terminal.run(&["purge", "q", "acme", "--yes"]);
    terminal.run(&["purge", "q", "acme", "--yes", "--json"]);
    terminal.run(&["purge", "nowhere", "acme", "--yes"]);
    terminal.run(&["facets", "q"]);
    terminal.is_as_before("purge");
}
