//! The examples run, and say what the README shows.

use std::{env, process::Command};

/// Runs an example that cargo has built together with this test.
fn example(name: &str) -> String {
    let test = env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join(name);
    let run = Command::new(&program).output();
    let output = run.unwrap_or_else(|error| {
        panic!("{}: {error}; `cargo test` without `--test` builds the examples", program.display())
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_quick_start_shows_that_quiet_carriers_wait_turns_and_not_the_loud_ones_backlog() {
    let text = example("quickstart");
    assert!(text.contains("1004 flights were delivered"), "{text}");
    assert!(text.contains("the 170 that were late or cancelled at JFK"), "{text}");
    // Carrier, flights, mean and longest wait in fair turns, and the same first in, first out.
    let rows: Vec<(&str, [usize; 5])> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let carrier = words.next()?;
            let numbers: Vec<usize> = words.map(str::parse).collect::<Result<_, _>>().ok()?;
            Some((carrier, numbers.try_into().ok()?))
        })
        .collect();
    assert_eq!(rows.len(), 15, "{text}");
    assert_eq!(rows.iter().map(|(_, [flights, ..])| flights).sum::<usize>(), 1004);
    // In this order of arrival the first in, first out part does not depend on anything.
    assert_eq!((rows[0].0, rows[0].1[0], rows[0].1[3..].to_vec()), ("UA", 176, vec![492, 976]));
    assert_eq!((rows[14].0, rows[14].1[0], rows[14].1[3..].to_vec()), ("HA", 1, vec![296, 296]));
    for (carrier, [flights, _, longest, ..]) in rows {
        // Each flight of a carrier waits for at most one of each other carrier; two workers may
        // swap two that are neighbours.
        assert!(longest <= flights * 15 + 1, "{carrier}: {text}");
    }
}
