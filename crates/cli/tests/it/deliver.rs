use crate::support::{Terminal, error, pty};

const MESSAGE: &str = r#"{"facet": "acme", "topic": "page:home", "n": 12345678901234567890}"#;

#[test]
fn a_message_is_delivered_and_its_receipt_printed() {
    let mut terminal = Terminal::with_queue();
    terminal.both(&["deliver", MESSAGE]);
    terminal.both(&["peek", "q"]);
    terminal.is_as_before("deliver");
}

#[test]
fn a_message_that_no_queue_takes_is_kept_nowhere_and_that_is_said() {
    let mut terminal = Terminal::new();
    terminal.both(&["deliver", MESSAGE]);
    terminal.is_as_before("deliver_nowhere");
}

#[test]
fn options_say_how_a_message_is_delivered() {
    let mut terminal = Terminal::with_queue();
    let of =
        ["--facet", "acme", "--topic", "t", "--header", "a=b", "--header", "c=d=e", "--cost", "2"];
    terminal.run(&[&["deliver", "[1, 2]"], &of[..]].concat());
    terminal.run(&["deliver", MESSAGE, "--facet", "other", "--ttl", "1h"]);
    terminal.run(&["deliver", MESSAGE, "--delay", "1h", "--key", "k", "--window", "1m"]);
    terminal.run(&["deliver", MESSAGE, "--delay", "1h", "--key", "k", "--window", "1m"]);
    terminal.run(&["peek", "q", "--json"]);
    terminal.run(&["stats", "q", "--json"]);
    terminal.is_as_before("deliver_options");
}

#[test]
fn what_is_no_message_is_refused_with_what_to_do() {
    let mut terminal = Terminal::with_queue();
    terminal.run(&["deliver", "{\"facet\": \"acme\", "]);
    terminal.run(&["deliver", "{\"topic\": \"t\"}"]);
    terminal.run(&["deliver", "{\"facet\": \"acme\"}"]);
    terminal.run(&["deliver", MESSAGE, "--delay", "soon"]);
    terminal.run(&["deliver", MESSAGE, "--header", "novalue"]);
    terminal.run(&["deliver", MESSAGE, "--cost", "0"]);
    terminal.run(&["deliver", MESSAGE, "--file", "x"]);
    terminal.run(&["deliver", MESSAGE, "--skip", "3"]);
    terminal.run(&["deliver", "--file", "/nowhere"]);
    terminal.run(&["stats", "q", "--json"]);
    terminal.is_as_before("deliver_refused");
}

#[test]
fn on_a_terminal_it_does_not_wait_for_lines_that_nobody_types() {
    let terminal = Terminal::with_queue();
    let (_person, program) = pty();
    let output = terminal.fairlane(&["deliver"]).stdin(program).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(error(&output).contains("--file"), "{}", error(&output));
}
