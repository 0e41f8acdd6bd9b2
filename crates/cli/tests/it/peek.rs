use crate::support::Terminal;

#[test]
fn what_would_be_served_next_is_shown_and_stays() {
    let mut terminal = Terminal::with_queue();
    terminal.both(&["peek", "q"]);
    terminal.deliver("loud", 3);
    terminal.deliver("quiet", 1);
    let long =
        format!("{{\"facet\":\"loud\",\"topic\":\"t\",\"text\":\"{}\"}}", "words and ".repeat(20));
    terminal.done(&["deliver", &long]);
    terminal.run(&["peek", "q"]);
    terminal.both(&["peek", "q", "-n", "2"]);
    terminal.run(&["peek", "q", "-n", "251"]);
    terminal.is_as_before("peek");
}
