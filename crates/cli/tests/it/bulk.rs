use std::{fs::File, io::Write, process::Stdio, sync::Arc};

use rustix::process::Signal;

use crate::support::{Server, Terminal, error, eventually, signal_to, text};

fn lines(n: u64) -> String {
    (0..n).map(|n| format!("{{\"facet\":\"f{}\",\"topic\":\"t\",\"n\":{n}}}\n", n % 7)).collect()
}

#[test]
fn each_line_of_standard_input_is_delivered() {
    let mut terminal = Terminal::with_queue();
    let three = "{\"facet\":\"a\",\"topic\":\"t\"}\n\n  {\"facet\":\"b\",\"topic\":\"t\"}  \r\n{\"facet\":\"a\",\"topic\":\"t\"}";
    terminal.pipe(three, &["deliver"]);
    terminal.pipe(three, &["deliver", "-", "--json"]);
    terminal.pipe("1\n2\n", &["deliver", "--file", "-", "--facet", "c", "--topic", "t"]);
    terminal.pipe("", &["deliver"]);
    terminal.run(&["facets", "q"]);
    terminal.is_as_before("bulk");
}

#[test]
fn each_line_of_a_file_is_delivered_in_its_order() {
    let terminal = Terminal::with_queue();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.jsonl");
    File::create(&file).unwrap().write_all(lines(1234).as_bytes()).unwrap();
    let file = file.to_str().unwrap();
    let summary = terminal.done(&["deliver", "--file", file, "--json"]);
    assert!(
        summary.starts_with("{\"delivered\":1234,\"duplicates\":0,\"kept_nowhere\":0,"),
        "{summary}"
    );
    let pulled = terminal.done(&["pull", "q", "-n", "8"]);
    let first: Vec<_> = pulled.lines().map(|body| body.split("\"n\":").last().unwrap()).collect();
    assert_eq!(first, ["0}", "1}", "2}", "3}", "4}", "5}", "6}", "7}"]);
}

#[test]
fn a_bad_line_ends_it_and_those_before_it_are_delivered() {
    let mut terminal = Terminal::with_queue();
    let good = "{\"facet\":\"a\",\"topic\":\"t\"}\n";
    terminal.pipe(&format!("{good}\n{good}{{\"facet\":\n{good}"), &["deliver"]);
    terminal.pipe(&format!("{good}{{\"topic\":\"t\"}}\n{good}"), &["deliver", "--json"]);
    terminal.pipe(&format!("{good}{{\"topic\":\"t\"}}\n{good}"), &["deliver", "--skip", "2"]);
    terminal.pipe(good, &["deliver", "-", "--skip", "5"]);
    terminal.run(&["facets", "q"]);
    terminal.is_as_before("bulk_bad_line");
}

#[test]
fn a_line_that_its_queue_refuses_ends_it_and_those_before_it_are_delivered() {
    let mut terminal = Terminal::with_queue();
    terminal.done(&["limit", "q", "--facet", "full", "--waiting", "1"]);
    let (good, full) =
        ("{\"facet\":\"a\",\"topic\":\"t\"}\n", "{\"facet\":\"full\",\"topic\":\"t\"}\n");
    terminal.pipe(&format!("{good}{full}{good}{full}{good}"), &["deliver"]);
    terminal.run(&["facets", "q"]);
    terminal.is_as_before("bulk_refused");
}

#[test]
fn with_a_key_the_same_lines_can_be_delivered_again() {
    let mut terminal = Terminal::with_queue();
    terminal.pipe(&lines(3), &["deliver", "--key", "import"]);
    terminal.pipe(&lines(4), &["deliver", "--key", "import", "--json"]);
    terminal.is_as_before("bulk_key");
}

#[test]
fn a_line_that_is_there_is_not_held_back_for_those_to_come() {
    let terminal = Terminal::with_queue();
    let mut deliver = terminal.fairlane(&["deliver"]);
    let deliver = deliver.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut deliver = deliver.spawn().unwrap();
    let mut tail = deliver.stdin.take().unwrap();
    tail.write_all(lines(1).as_bytes()).unwrap();
    eventually(|| terminal.done(&["stats", "q", "--json"]).contains("\"waiting\":1,"));
    drop(tail);
    assert!(deliver.wait().unwrap().success());
}

#[test]
fn when_redis_goes_away_in_the_middle_it_says_how_to_go_on() {
    let mut terminal = Terminal::new();
    terminal.server = Arc::new(Server::start()); // One of its own.
    terminal.done(&["register", "q", "."]);
    let mut deliver = terminal.fairlane(&["deliver"]);
    deliver.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut deliver = deliver.spawn().unwrap();
    let mut tail = deliver.stdin.take().unwrap();
    tail.write_all(lines(2).as_bytes()).unwrap();
    eventually(|| terminal.done(&["stats", "q", "--json"]).contains("\"waiting\":2,"));
    terminal.server.signal(Signal::TERM);
    eventually(|| !terminal.server.socket().exists());
    tail.write_all(b"\n").unwrap();
    tail.write_all(lines(2).as_bytes()).unwrap();
    drop(tail);
    let output = deliver.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", error(&output));
    let said = error(&output);
    assert!(said.starts_with("error: line 4: "), "{said}");
    assert!(said.contains("2 messages were delivered before it, and --skip 3 goes on from there"));
    assert_eq!((said.lines().count(), text(&output)), (1, String::new()));
}

#[test]
fn interrupted_it_says_how_to_go_on() {
    let terminal = Terminal::with_queue();
    let mut deliver = terminal.fairlane(&["deliver", "--skip", "1"]);
    deliver.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut deliver = deliver.spawn().unwrap();
    let mut tail = deliver.stdin.take().unwrap();
    tail.write_all(lines(3).as_bytes()).unwrap();
    eventually(|| terminal.done(&["stats", "q", "--json"]).contains("\"waiting\":2,"));
    signal_to(&deliver, Signal::INT);
    let output = deliver.wait_with_output().unwrap();
    let said = "error: line 4: interrupted; 2 messages were delivered before it, and --skip 3 goes on from there\n";
    assert_eq!((output.status.code(), error(&output)), (Some(1), said.into()));
}

#[test]
fn when_no_answer_comes_it_says_what_may_have_been_delivered() {
    let mut terminal = Terminal::new();
    terminal.server = Arc::new(Server::start()); // One of its own.
    let mut deliver = terminal.fairlane(&["deliver"]);
    deliver.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut deliver = deliver.spawn().unwrap();
    let mut tail = deliver.stdin.take().unwrap();
    terminal.done(&["register", "q", "."]);
    tail.write_all(lines(1).as_bytes()).unwrap();
    eventually(|| terminal.done(&["stats", "q", "--json"]).contains("\"waiting\":1,"));
    assert_eq!(terminal.server.command("CLIENT PAUSE 60000 WRITE"), "+OK");
    tail.write_all(lines(2).as_bytes()).unwrap();
    let output = deliver.wait_with_output().unwrap();
    assert_eq!(terminal.server.command("CLIENT UNPAUSE"), "+OK");
    let said = error(&output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(3), 1), "{said}");
    assert!(said.starts_with("error: line 2: no reply came; the call may have been carried out"));
    assert!(said.contains("1 message was delivered before it, and --skip 1 goes on from there"));
    assert!(said.ends_with("the lines from there on may have been delivered, too\n"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn any_amount_of_lines_takes_the_memory_of_a_few() {
    let terminal = Terminal::new(); // No queue takes them.
    let mut deliver = terminal.fairlane(&["deliver", "--facet", "a", "--topic", "t"]);
    let mut deliver = deliver.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = deliver.stdin.take().unwrap();
    let line = format!("\"{}\"\n", "x".repeat(64 << 10));
    for _ in 0..1600 {
        input.write_all(line.as_bytes()).unwrap();
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", deliver.id())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: u64 = most.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(most < 50 << 10, "{most} kB for 100 MiB");
    drop(input);
    assert!(deliver.wait().unwrap().success());
}
