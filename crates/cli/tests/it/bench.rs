use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Server, Terminal, error, eventually, piped, program, signal_to, text};

const FIGURES: [&str; 7] = [
    "deliver, 100 a call",
    "lease and ack, 100 a call",
    "fairness index",
    "deliver, one by one, 64 tasks",
    "worker, 64 at a time",
    "delivered to in hand, half",
    "delivered to in hand, 99 %",
];

/// The queues where it measures.
fn queues(terminal: &Terminal) -> String {
    let namespace = format!("{}.bench", terminal.namespace);
    terminal.done(&["queues", "--json", "--namespace", &namespace])
}

#[test]
fn it_measures_rates_fairness_and_latency_and_leaves_nothing_behind() {
    let terminal = Terminal::new();
    let args = ["bench", "-n", "1000", "--facets", "10"];
    let table = terminal.done(&args);
    let names = table.lines().skip(1).map(|line| line.split("  ").next().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), FIGURES, "{table}");
    let json = terminal.done(&[&args[..], &["--json"]].concat());
    let records = json.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let records: Vec<_> = records.collect();
    assert_eq!(
        records.iter().map(|record| record["what"].as_str().unwrap()).collect::<Vec<_>>(),
        FIGURES
    );
    assert!(records.iter().all(|record| record["value"].as_f64().unwrap() > 0.0), "{json}");
    let fairness = records[2]["value"].as_f64().unwrap();
    assert!((0.99..=1.0).contains(&fairness), "{json}");
    assert_eq!(queues(&terminal), "");
}

#[test]
fn a_queue_that_takes_everything_takes_nothing_of_it() {
    let terminal = Terminal::with_queue();
    terminal.done(&["bench", "-n", "1000", "--facets", "10"]);
    let stats: serde_json::Value =
        serde_json::from_str(&terminal.done(&["stats", "q", "--json"])).unwrap();
    assert_eq!(stats["delivered"], 0);
}

#[test]
fn what_it_has_to_leave_behind_it_says_how_to_remove() {
    let server = Server::start();
    let mut bench = program();
    let bench = bench.args(["bench", "-n", "10000000", "--redis", &server.url]);
    let bench = bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let queues = ["queues", "--namespace", "fairlane.bench", "--redis", &server.url];
    eventually(|| text(&program().args(queues).output().unwrap()).contains("bench-"));
    drop(server);
    let output = bench.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = error(&output);
    assert!(said.contains("; its queue may be left: `fairlane destroy bench-"), "{said}");
    assert!(said.ends_with(" --namespace fairlane.bench` removes it\n"), "{said}");
}

#[test]
fn it_is_stopped_by_ctrl_c_and_leaves_nothing_behind() {
    let terminal = Terminal::new();
    let mut bench = terminal.fairlane(&["bench", "-n", "10000000"]);
    let bench = bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually(|| !queues(&terminal).is_empty());
    signal_to(&bench, Signal::INT);
    let output = bench.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(1), ""));
    assert_eq!(error(&output), "error: stopped: nothing is measured\n");
    assert_eq!(queues(&terminal), "");
}

#[test]
fn too_few_messages_to_be_fair_with_are_refused() {
    let terminal = Terminal::new();
    let output = piped(terminal.fairlane(&["bench", "-n", "1000", "--facets", "51"]), b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(error(&output).contains("20 for each are needed"), "{}", error(&output));
}
