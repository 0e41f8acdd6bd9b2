use crate::support::Terminal;

#[test]
fn a_queue_or_a_facet_is_paused_and_resumed() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 1);
    terminal.both(&["pause", "q"]);
    terminal.run(&["pull", "q"]);
    terminal.both(&["resume", "q"]);
    terminal.both(&["pause", "q", "--facet", "acme"]);
    terminal.run(&["pull", "q"]);
    terminal.both(&["resume", "q", "--facet", "acme"]);
    terminal.run(&["pull", "q"]);
    terminal.both(&["pause", "nope"]);
    terminal.is_as_before("pause");
}

#[test]
fn intake_is_paused_and_resumed() {
    let mut terminal = Terminal::with_queue();
    let message = "{\"facet\": \"acme\", \"topic\": \"t\"}";
    terminal.both(&["pause", "q", "--intake"]);
    terminal.run(&["deliver", message]);
    terminal.both(&["resume", "q", "--intake"]);
    terminal.both(&["pause", "q", "--intake", "--facet", "acme"]);
    terminal.run(&["deliver", message]);
    terminal.both(&["resume", "q", "--intake", "--facet", "acme"]);
    terminal.run(&["deliver", message, "--json"]);
    terminal.is_as_before("intake");
}
