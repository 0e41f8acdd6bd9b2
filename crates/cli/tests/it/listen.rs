use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use rustix::process::Signal;

use crate::support::{Server, Terminal, eventually, program, signal_to};

#[test]
fn what_is_delivered_is_heard_until_it_is_interrupted() {
    let terminal = Terminal::new();
    let message = r#"{"facet": "acme", "topic": "page:home", "n": 1}"#;
    for (more, expected) in [
        (&[][..], "page:home {\"facet\":\"acme\",\"topic\":\"page:home\",\"n\":1}\n"),
        (
            &["--json"][..],
            "{\"topic\":\"page:home\",\"headers\":{\"a\":\"b\"},\
             \"body\":{\"facet\":\"acme\",\"topic\":\"page:home\",\"n\":1}}\n",
        ),
    ] {
        let mut listen = terminal.fairlane(&[&["listen", "page:*"], more].concat());
        let mut listen = listen.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut heard = BufReader::new(listen.stdout.take().unwrap());
        // It is heard as soon as somebody listens, which is to be seen in the receipt alone.
        let deliver = ["deliver", message, "--header", "a=b", "--json"];
        eventually(|| terminal.done(&deliver).contains("\"listeners\":1"));
        let mut line = String::new();
        heard.read_line(&mut line).unwrap();
        assert_eq!(line, expected);
        signal_to(&listen, Signal::INT);
        assert!(listen.wait().unwrap().success());
    }
}

#[test]
fn what_is_missed_is_told_on_standard_error() {
    let server = Server::start(); // One of its own: all connections that listen are closed.
    let mut listen = program();
    listen.args(["listen", "*", "--redis", &server.url]).stderr(Stdio::piped());
    let mut listen = listen.spawn().unwrap();
    let mut said = BufReader::new(listen.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(said.next().unwrap(), "listening; Ctrl-C ends it");
    assert_eq!(server.command("CLIENT KILL TYPE pubsub"), ":1");
    let missed = "missed: the connection was away: messages of that time were missed";
    assert_eq!(said.next().unwrap(), missed);
    signal_to(&listen, Signal::TERM);
    assert!(listen.wait().unwrap().success());
}

#[test]
fn a_glob_that_is_empty_is_refused() {
    let mut terminal = Terminal::new();
    terminal.run(&["listen", ""]);
    terminal.is_as_before("listen_refused");
}
