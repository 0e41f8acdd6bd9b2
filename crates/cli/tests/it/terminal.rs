//! What is otherwise where a person sits at a terminal.

use std::{
    fs::File,
    io::{Read, Write},
    process::Stdio,
};

use crate::support::{Terminal, error, piped, pty, text};

/// Answers what is asked before something is dropped. Returns what it ended with.
fn answered(terminal: &Terminal, args: &[&str], answer: &str) -> (Option<i32>, String, String) {
    let (mut person, program) = pty();
    person.write_all(answer.as_bytes()).unwrap();
    let output = terminal.fairlane(args).stdin(program).output().unwrap();
    (output.status.code(), text(&output), error(&output))
}

#[test]
fn it_asks_before_it_drops_and_heeds_the_answer() {
    let terminal = Terminal::with_queue();
    terminal.done(&["limit", "q", "--waiting", "2", "--overflow", "drop-oldest"]);
    terminal.deliver("acme", 3);
    for (args, question, dropped) in [
        (
            &["purge", "q", "acme"][..],
            "This drops 2 waiting messages and 0 delayed of facet acme of queue q.",
            "dropped 2 messages of facet acme of queue q\n",
        ),
        (
            &["dead", "purge", "q"],
            "This drops 1 dead letter of queue q.",
            "dropped 1 dead letter of queue q\n",
        ),
        (
            &["destroy", "q"],
            "This removes queue q with 0 messages (0 of them leased), 0 dead letters, and its settings.",
            "q is gone, with 0 messages (0 of them leased), 0 dead letters\n",
        ),
    ] {
        let question = format!("{question} Go on? [y/N] ");
        for no in ["n\n", "\n", "\u{4}"] {
            let refused = format!("{question}error: nothing was dropped\n");
            assert_eq!(answered(&terminal, args, no), (Some(1), String::new(), refused));
        }
        assert_eq!(answered(&terminal, args, "y\n"), (Some(0), dropped.into(), question));
    }
}

/// What it prints on a terminal.
fn on_terminal(terminal: &Terminal, no_color: bool) -> String {
    let (person, program) = pty();
    let mut queues = terminal.fairlane(&["queues"]);
    queues.stdin(Stdio::null()).stdout(program).env("TERM", "xterm");
    if !no_color {
        queues.env_remove("NO_COLOR");
    }
    assert!(queues.status().unwrap().success());
    drop(queues); // It has the program's end of the terminal.
    let mut printed = Vec::new();
    let _ = File::read_to_end(&mut { person }, &mut printed); // Ends with an error on Linux.
    String::from_utf8(printed).unwrap()
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let terminal = Terminal::with_queue();
    assert!(on_terminal(&terminal, false).starts_with("\u{1b}[1mqueue"));
    assert!(on_terminal(&terminal, true).starts_with("queue"));
    let piped = terminal.fairlane(&["queues"]).env_remove("NO_COLOR").output().unwrap();
    assert!(text(&piped).starts_with("queue"));
}

#[cfg(target_os = "linux")] // For setsid.
#[test]
fn without_a_terminal_nothing_is_run_to_find_out_how_wide_it_is() {
    use std::{os::unix::fs::PermissionsExt, process::Command};
    let terminal = Terminal::with_queue();
    terminal.deliver("a", 10);
    let dir = tempfile::tempdir().unwrap();
    let (tput, ran) = (dir.path().join("tput"), dir.path().join("ran"));
    std::fs::write(&tput, format!("#!/bin/sh\n: > '{}'\necho 80\n", ran.display())).unwrap();
    std::fs::set_permissions(&tput, PermissionsExt::from_mode(0o755)).unwrap();
    for columns in ["", "0", "99999999"] {
        // In a session of its own it has no terminal that controls it.
        let mut peek = Command::new("setsid");
        let fairlane = terminal.fairlane(&["peek", "q"]);
        peek.arg("-w").arg(fairlane.get_program()).args(fairlane.get_args());
        peek.envs(fairlane.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let path = std::env::var("PATH").unwrap();
        peek.env("PATH", format!("{}:{path}", dir.path().display())).env("COLUMNS", columns);
        let output = piped(peek, b"");
        assert_eq!(text(&output).lines().count(), 11, "{}", error(&output));
        assert!(!ran.exists(), "{columns}");
    }
}

#[test]
fn progress_is_shown_on_standard_error_alone() {
    let terminal = Terminal::with_queue();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lines");
    std::fs::write(&file, "{\"facet\":\"a\",\"topic\":\"t\"}\n".repeat(20_000)).unwrap();
    let (person, program) = pty();
    let mut deliver = terminal.fairlane(&["deliver", "--json", "--file", file.to_str().unwrap()]);
    let output = deliver.env("TERM", "xterm").stderr(program).output().unwrap();
    drop(deliver);
    let mut progress = Vec::new();
    let _ = File::read_to_end(&mut { person }, &mut progress); // Ends with an error on Linux.
    let progress = String::from_utf8_lossy(&progress).into_owned();
    assert!(progress.contains("delivered") && progress.contains("/s"), "{progress}");
    assert!(text(&output).starts_with("{\"delivered\":20000,"), "{}", text(&output));
    assert_eq!(text(&output).lines().count(), 1);
}
