use std::{net::TcpListener, process::Stdio};

use crate::support::{Terminal, error, program, text};

#[test]
fn without_a_connection_it_ends_with_3_and_says_what_to_do() {
    let output = program().args(["queues", "--redis", "redis://127.0.0.1:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = error(&output);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("error: Redis cannot be reached; nothing was sent: no connection to"));
    assert_eq!(said.matches("refused").count(), 1, "{said}");
    assert!(said.contains("--redis or FAIRLANE_REDIS"), "{said}");
}

#[test]
fn tls_to_a_port_that_does_not_speak_it_is_told_as_what_it_may_be() {
    let plain = TcpListener::bind("127.0.0.1:0").unwrap(); // It answers nothing.
    let url = format!("rediss://{}", plain.local_addr().unwrap());
    let output = program().args(["queues", "--redis", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        error(&output).contains("; rediss:// needs a port that speaks TLS"),
        "{}",
        error(&output)
    );
}

#[test]
fn what_makes_no_sense_ends_with_2() {
    for args in [
        &["nosuchcommand"][..],
        &["pause"],
        &["redis"],
        &["completions", "nosuchshell"],
        &["deliver", "{}", "--window", "5m"],
        &["work", "q", "--exec", "-x"],
        &["stats", "--nosuchoption"],
        &["queues", "--redis", "http://localhost"],
        &["queues", "--namespace", "two words"],
        &["pull"],
        &["pull", "q", "-n", "some"],
        &["lease", "q", "--lasting", "forever"],
        &["facets", "q", "--limit", "0"],
        &["destroy", "q"],
        &["deliver", "--file", "/"],
    ] {
        let output = program().args(args).stdin(Stdio::null()).output().unwrap();
        assert_eq!((output.status.code(), text(&output)), (Some(2), String::new()), "{args:?}");
        let said = error(&output);
        assert!(said.starts_with("error: ") && said.lines().count() == 1, "{args:?}: {said}");
    }
}

#[test]
fn a_namespace_that_is_no_name_is_told_as_the_namespace() {
    for args in [&["queues"][..], &["redis", "nowhere"], &["demo"]] {
        let output = program().args(args).env("FAIRLANE_NAMESPACE", "a b").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = error(&output);
        assert!(said.starts_with("error: the namespace: `a b` is no name: "), "{args:?}: {said}");
    }
}

#[test]
fn a_word_that_is_nearly_right_is_told_with_the_right_one() {
    let output = program().args(["stat", "--json"]).output().unwrap();
    assert_eq!(
        error(&output),
        "error: unrecognized subcommand 'stat'; tip: a similar subcommand exists: 'stats'; \
         --help tells more\n"
    );
}

#[test]
fn help_is_output_where_it_is_asked_for_and_an_error_where_it_is_not() {
    for (args, code) in [(&["--help"][..], 0), (&["--version"], 0), (&["dead", "--help"], 0)] {
        let output = program().args(args).output().unwrap();
        assert_eq!((output.status.code(), error(&output)), (Some(code), String::new()));
        assert!(text(&output).contains("fairlane"));
    }
    for args in [&[][..], &["dead"]] {
        let output = program().args(args).output().unwrap();
        assert_eq!((output.status.code(), text(&output)), (Some(2), String::new()));
        assert!(error(&output).contains("Usage: fairlane"));
    }
}

#[test]
fn a_reader_who_has_seen_enough_is_no_error() {
    let terminal = Terminal::with_queue();
    terminal.deliver("acme", 100);
    for args in
        [&["facets", "q"][..], &["peek", "q", "-n", "100", "--json"], &["man"], &["limit", "q"]]
    {
        let mut reading = terminal.fairlane(args);
        let mut reading = reading.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(reading.stdout.take());
        let output = reading.wait_with_output().unwrap();
        assert_eq!((output.status.code(), error(&output)), (Some(0), String::new()), "{args:?}");
    }
}

#[test]
fn where_redis_is_and_the_namespace_can_stand_anywhere_on_the_line() {
    let terminal = Terminal::with_queue();
    let (url, namespace) = (&*terminal.server.url, &*terminal.namespace);
    for args in [
        ["--redis", url, "--namespace", namespace, "--json", "queues"],
        ["queues", "--json", "--redis", url, "--namespace", namespace],
    ] {
        let output = program().args(args).output().unwrap();
        assert_eq!(text(&output), "{\"queue\":\"q\",\"pattern\":\".\"}\n", "{}", error(&output));
    }
    let elsewhere = terminal.fairlane(&["queues", "--json", "--namespace", "elsewhere"]).output();
    assert_eq!(text(&elsewhere.unwrap()), "");
    let none = terminal.fairlane(&["queues", "--json"]).env("FAIRLANE_NAMESPACE", "").output();
    assert_eq!(error(&none.unwrap()), "");
}
