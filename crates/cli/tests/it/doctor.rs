use crate::support::Terminal;

#[test]
fn what_is_broken_is_found_and_mended() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 1);
    terminal.deliver("other", 1);
    terminal.both(&["doctor"]);
    let ready = format!("{{{}}}:q:q:ready", terminal.namespace);
    assert_eq!(terminal.server.command(&format!("ZREM {ready} acme")), ":1");
    terminal.both(&["doctor", "q"]);
    terminal.run(&["doctor", "--repair"]);
    assert_eq!(terminal.server.command(&format!("ZREM {ready} acme")), ":1");
    terminal.run(&["doctor", "--repair", "--json"]);
    terminal.both(&["doctor", "q"]);
    terminal.run(&["doctor", "nowhere"]);
    terminal.is_as_before("doctor");
}
