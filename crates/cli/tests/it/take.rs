use std::{process::Stdio, time::Instant};

use crate::support::{Terminal, error};

#[test]
fn pull_prints_bodies_and_takes_them_off_the_queue() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 3);
    terminal.run(&["pull", "q"]);
    terminal.run(&["pull", "q", "-n", "5", "--json"]);
    terminal.both(&["pull", "q"]);
    terminal.is_as_before("pull");
}

#[test]
fn lease_prints_what_is_needed_to_settle() {
    let mut terminal = Terminal::with_queue();
    terminal.deliver("acme", 2);
    terminal.run(&["lease", "q"]);
    terminal.run(&["lease", "q", "--json", "--lasting", "1h"]);
    terminal.both(&["lease", "q", "-n", "5"]);
    terminal.is_as_before("lease");
}

#[test]
fn of_several_queues_the_first_that_has_something_is_served() {
    let mut terminal = Terminal::new();
    terminal.done(&["register", "urgent", "^urgent"]);
    terminal.done(&["register", "bulk", "^bulk"]);
    for topic in ["bulk:1", "bulk:2", "urgent:1", "urgent:2"] {
        terminal.done(&["deliver", "1", "--facet", "a", "--topic", topic]);
    }
    terminal.run(&["pull", "urgent", "bulk", "--json", "-n", "3"]);
    terminal.run(&["pull", "urgent", "bulk", "--json", "-n", "3"]);
    terminal.run(&["pull", "urgent", "nowhere"]);
    terminal.is_as_before("pull_in_order");
}

#[test]
fn with_wait_it_takes_what_comes_meanwhile() {
    let terminal = Terminal::with_queue();
    for verb in ["pull", "lease"] {
        let began = Instant::now();
        let mut waits = terminal.fairlane(&[verb, "q", "--wait", "20s", "--json"]);
        let waits = waits.stdout(Stdio::piped()).spawn().unwrap();
        terminal.deliver("acme", 1);
        let output = waits.wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"body\":{\"facet\":\"acme\""));
        assert!(began.elapsed().as_secs() < 15);
    }
}

#[test]
fn bodies_are_shown_as_what_they_are_whatever_they_are() {
    let mut terminal = Terminal::with_queue();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let same = |body: &Vec<u8>| Ok::<_, std::fmt::Error>(body.clone());
        let broker =
            fairlane::BrokerBuilder::coded(same, |body| Ok::<_, std::fmt::Error>(body.to_vec()));
        let broker = broker.facet(|_| "a").topic(|_| "t\u{1b}[2J").redis(&terminal.server.url);
        let broker = broker.namespace(&terminal.namespace).connect().await.unwrap();
        for body in [&b"{\n  \"n\": 1.10\n}"[..], b"plain \x1b[31mred", b"\x89PNG\r\n", b""] {
            broker.deliver(&body.to_vec()).await.unwrap();
        }
    });
    terminal.both(&["peek", "q"]);
    terminal.run(&["pull", "q", "-n", "3"]);
    terminal.is_as_before("bodies");
}

#[test]
fn a_message_that_was_pulled_for_a_reader_who_has_gone_is_not_lost() {
    let terminal = Terminal::with_queue();
    terminal.deliver("acme", 2);
    let mut pull = terminal.fairlane(&["pull", "q", "-n", "2"]);
    let mut pull = pull.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(pull.stdout.take());
    let output = pull.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = error(&output);
    assert!(said.contains(r#"{"queue":"q","body":{"facet":"acme","topic":"t","n":0}}"#), "{said}");
    assert!(terminal.done(&["stats", "q", "--json"]).contains("\"waiting\":1,"));
}
