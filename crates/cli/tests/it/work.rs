use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, test_kill_process};

use crate::support::{Terminal, error, eventually, piped, program, signal_to, text};

/// Starts a worker beside the test.
fn start(terminal: &Terminal, args: &[&str]) -> Child {
    let mut work = terminal.fairlane(&[&["work", "q"], args].concat());
    work.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a queue has, of this name.
fn stat(terminal: &Terminal, name: &str) -> u64 {
    let stats: serde_json::Value =
        serde_json::from_str(&terminal.done(&["stats", "q", "--json"])).unwrap();
    stats[name].as_u64().unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn runs(pid: &str) -> bool {
    test_kill_process(Pid::from_raw(pid.trim().parse().unwrap()).unwrap()).is_ok()
}

#[test]
fn what_a_worker_did_is_said_in_a_sentence_and_as_json() {
    let mut terminal = Terminal::with_queue();
    let exec = r#"test "$FAIRLANE_FACET" = acme || { echo "no mailbox" >&2; exit 67; }"#;
    let args = ["work", "q", "--until-empty", "-c", "1", "--exec", exec, "--json"];
    for args in [&args[..7], &args] {
        terminal.deliver("acme", 3);
        terminal.deliver("beta", 1);
        terminal.run(args);
        terminal.done(&["purge", "q", "beta", "--yes"]); // It would be there again after its backoff.
    }
    terminal.is_as_before("work");
}

#[test]
fn a_command_gets_the_body_and_what_else_there_is_to_know() {
    let terminal = Terminal::with_queue();
    let dir = tempfile::tempdir().unwrap();
    let body = r#"{"facet":"a b","topic":"t'\"","n":1}"#;
    terminal.done(&["deliver", body, "--header", "trace=17"]);
    let exec = r#"cat; echo; echo "$FAIRLANE_QUEUE|$FAIRLANE_FACET|$FAIRLANE_TOPIC|$FAIRLANE_ID|$FAIRLANE_ATTEMPT|$FAIRLANE_HEADERS""#;
    let said = terminal.done(&["work", "q", "--until-empty", "--exec", exec]);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[0], body);
    assert!(lines[1].starts_with("q|a b|t'\"|"), "{said}");
    assert!(lines[1].ends_with(r#"|1|{"trace":"17"}"#), "{said}");
    assert_eq!(lines[2], "1 done");
    // With --json, standard output is for the report alone.
    terminal.done(&["deliver", body]);
    let said = piped(
        terminal.fairlane(&["work", "q", "--until-empty", "--exec", "echo hello", "--json"]),
        b"",
    );
    assert!(text(&said).starts_with(r#"{"leased":1,"acked":1"#), "{}", text(&said));
    assert_eq!(error(&said), "hello\n");
    // One that reads nothing of a large body is done, too.
    let large = dir.path().join("large");
    fs::write(
        &large,
        format!("{{\"facet\":\"a\",\"topic\":\"t\",\"x\":\"{}\"}}\n", "x".repeat(900_000)),
    )
    .unwrap();
    terminal.done(&["deliver", "--file", large.to_str().unwrap()]);
    assert_eq!(terminal.done(&["work", "q", "--until-empty", "--exec", "true"]), "1 done\n");
}

#[test]
fn a_command_that_uses_this_program_reaches_what_its_worker_was_told() {
    let terminal = Terminal::with_queue();
    terminal.deliver("a", 1);
    let exec = format!("'{}' queues --json", program().get_program().display());
    let (redis, namespace) = (&*terminal.server.url, &*terminal.namespace);
    let mut work = program();
    work.args(["--redis", redis, "--namespace", namespace, "work", "q", "--until-empty"]);
    work.args(["--exec", &exec]);
    let output = piped(work, b"");
    assert_eq!(
        text(&output),
        "{\"queue\":\"q\",\"pattern\":\".\"}\n1 done\n",
        "{}",
        error(&output)
    );
}

#[test]
fn another_exit_code_is_a_failure_with_the_last_line_of_standard_error_as_its_reason() {
    let terminal = Terminal::with_queue();
    let reason = || {
        let dead = terminal.done(&["dead", "list", "q", "--json"]);
        terminal.done(&["dead", "purge", "q", "--yes"]);
        let dead: serde_json::Value = serde_json::from_str(&dead).unwrap();
        dead["reason"].as_str().unwrap().to_owned()
    };
    for (exec, expected) in [
        ("echo one >&2; echo two >&2; echo >&2; exit 3", "exit code 3: two"),
        ("exit 255", "exit code 255"),
        ("kill -9 $$", "ended by signal 9"),
        ("there-is-no-such-command", "exit code 127: "),
        // What it has started holds standard error open, and is not waited for.
        ("sleep 20 >/dev/null & echo gone >&2; exit 1", "exit code 1: gone"),
    ] {
        terminal.deliver("a", 1);
        // Nineteen attempts are behind it.
        for _ in 0..19 {
            let token = terminal.lease(1).remove(0);
            terminal.done(&["nack", &token]);
        }
        let begun = Instant::now();
        let output = piped(terminal.fairlane(&["work", "q", "--until-empty", "--exec", exec]), b"");
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(text(&output), "0 done, 1 failed\n");
        let (reason, said) = (reason(), error(&output));
        assert!(reason.starts_with(expected), "{reason}");
        assert!(said.lines().last().unwrap().ends_with(&format!(" a t: {reason}")), "{said}");
    }
}

#[test]
fn where_nobody_reads_standard_error_it_goes_on() {
    let terminal = Terminal::with_queue();
    terminal.deliver("acme", 3);
    let mut work = start(&terminal, &["--until-empty", "-c", "1", "--exec", "exit 67"]);
    drop(work.stderr.take());
    let output = work.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output).contains("3 failed"), "{}", text(&output));
}

#[test]
fn of_two_workers_one_is_killed_and_only_what_it_held_is_done_twice() {
    const MESSAGES: u64 = 300;
    let terminal = Terminal::with_queue();
    let dir = tempfile::tempdir().unwrap();
    for facet in ["a", "b", "c"] {
        terminal.deliver(facet, MESSAGES / 3);
    }
    let done = dir.path().join("done");
    let exec = format!("sleep 0.02; echo $FAIRLANE_ID >> '{}'", done.display());
    let args = ["--exec", &exec, "--lasting", "1s", "-c", "4"];
    let mut workers = [start(&terminal, &args), start(&terminal, &args)];
    eventually(|| lines(&done).len() > 60);
    workers[0].kill().unwrap();
    workers[0].wait().unwrap();
    eventually(|| stat(&terminal, "acked") == MESSAGES);
    signal_to(&workers[1], Signal::INT);
    assert!(workers[1].wait().unwrap().success());
    let mut times = BTreeMap::<String, u64>::new();
    lines(&done).into_iter().for_each(|id| *times.entry(id).or_default() += 1);
    assert_eq!(times.len() as u64, MESSAGES, "nothing is lost");
    assert!(times.values().all(|times| *times <= 2), "{times:?}");
    let twice = times.values().filter(|times| **times > 1).count() as u64;
    // Four that ran, and as many whose acks were on their way with the lease of those.
    let came_back = stat(&terminal, "came_back");
    assert!((twice..=8).contains(&came_back), "{twice} of {came_back} that came back");
}

#[test]
fn ctrl_c_lets_what_runs_end_and_a_second_one_kills_it_and_gives_it_back() {
    let terminal = Terminal::with_queue();
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    terminal.deliver("a", 5);
    let exec = format!(
        "echo $$ >> '{}'; case $(cat) in *'\"n\":0'*) sleep 1;; *) sleep 60 & wait;; esac",
        pids.display()
    );
    let worker = start(&terminal, &["--exec", &exec, "-c", "2"]);
    eventually(|| lines(&pids).len() == 2);
    signal_to(&worker, Signal::INT);
    eventually(|| stat(&terminal, "acked") == 1);
    assert_eq!(stat(&terminal, "leased"), 1, "it waits for the other one, and takes nothing new");
    signal_to(&worker, Signal::INT);
    let output = worker.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output), "1 done, 1 given back\n");
    assert_eq!((stat(&terminal, "waiting"), stat(&terminal, "leased")), (4, 0));
    for pid in lines(&pids) {
        eventually(|| !runs(&pid));
    }
    let first: serde_json::Value =
        serde_json::from_str(&terminal.done(&["lease", "q", "--json"])).unwrap();
    assert_eq!((&first["attempt"], &first["body"]["n"]), (&1.into(), &1.into()));
}

#[test]
fn a_command_whose_lease_is_lost_is_killed() {
    let terminal = Terminal::with_queue();
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    terminal.deliver("a", 1);
    let exec = format!("echo $$ >> '{}'; sleep 60", pids.display());
    let worker = start(&terminal, &["--exec", &exec, "--lasting", "400ms"]);
    eventually(|| lines(&pids).len() == 1);
    // As if this machine had slept, while another one took the message.
    signal_to(&worker, Signal::STOP);
    eventually(|| terminal.lease(1).len() == 1);
    signal_to(&worker, Signal::CONT);
    let pid = lines(&pids).remove(0);
    eventually(|| !runs(&pid));
    thread::sleep(Duration::from_millis(100));
    signal_to(&worker, Signal::TERM);
    let output = worker.wait_with_output().unwrap();
    assert_eq!(text(&output), "0 done, 1 lost to others\n", "{}", error(&output));
    assert_eq!(stat(&terminal, "leased"), 1);
}

#[test]
fn several_queues_are_served_in_order_or_by_weight() {
    let terminal = Terminal::new();
    terminal.done(&["register", "q", "^q$"]);
    terminal.done(&["register", "r", "^r$"]);
    let dir = tempfile::tempdir().unwrap();
    let order = dir.path().join("order");
    let deliver = || {
        for queue in ["r", "q"].repeat(10) {
            let body = format!(r#"{{"facet":"a","topic":"{queue}"}}"#);
            terminal.done(&["deliver", &body]);
        }
    };
    let exec = format!("echo $FAIRLANE_QUEUE >> '{}'", order.display());
    deliver();
    let args = ["work", "q", "r", "-c", "1", "--until-empty", "--exec", &exec];
    assert_eq!(terminal.done(&args), "20 done\n");
    let expected: Vec<_> =
        std::iter::repeat_n("q", 10).chain(std::iter::repeat_n("r", 10)).collect();
    assert_eq!(lines(&order), expected);
    deliver();
    fs::remove_file(&order).unwrap();
    let args = ["work", "q=1000", "r=0.001", "--concurrency-of", "r=1", "-c", "1", "--until-empty"];
    assert_eq!(terminal.done(&[&args[..], &["--exec", &exec]].concat()), "20 done\n");
    assert_eq!(lines(&order), expected, "a million to one");
}

#[test]
fn what_makes_no_sense_is_told_before_anything_is_taken() {
    let terminal = Terminal::with_queue();
    terminal.deliver("a", 1);
    for (args, code, said) in [
        (&["work", "q"][..], 2, "--exec <COMMAND>"),
        (&["work", "--exec", "true"], 2, "<QUEUE[=WEIGHT]>..."),
        (&["work", "q=heavy", "--exec", "true"], 2, "say QUEUE, or QUEUE=WEIGHT, as mails=10"),
        (&["work", "q=0", "--exec", "true"], 2, "the weight is out of range"),
        (&["work", "q", "--concurrency-of", "q", "--exec", "true"], 2, "say QUEUE=N, as bulk=2"),
        (&["work", "q", "--concurrency-of", "r=1", "--exec", "true"], 2, "no queue `r`"),
        (&["work", "q", "-c", "0", "--exec", "true"], 2, "the concurrency is out of range"),
        (&["work", "r", "--exec", "true"], 1, "there is no queue `r`: register it first"),
    ] {
        let output = piped(terminal.fairlane(args), b"");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", error(&output));
        assert!(error(&output).contains(said), "{args:?}: {}", error(&output));
    }
    let away = Command::new(assert_cmd::cargo::cargo_bin!("fairlane"))
        .args(["--redis", "redis://127.0.0.1:1", "work", "q", "--exec", "true"])
        .output()
        .unwrap();
    assert_eq!(away.status.code(), Some(3));
    assert_eq!(stat(&terminal, "waiting"), 1);
}
