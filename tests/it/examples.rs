//! The examples run, and say what the README shows.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support;

/// Starts an example that cargo has built together with this test.
fn start(name: &str) -> Child {
    let test = env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join(name);
    let started = Command::new(&program).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    started.unwrap_or_else(|error| {
        panic!("{}: {error}; `cargo test` without `--test` builds the examples", program.display())
    })
}

/// Runs an example to its end.
fn example(name: &str) -> String {
    let output = start(name).wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_quick_start_shows_that_quiet_carriers_wait_turns_and_not_the_loud_ones_backlog() {
    let text = example("quickstart");
    let live: Vec<_> = text
        .lines()
        .skip_while(|line| *line != "A listener on `cancelled:*` hears, live:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .collect();
    assert!(live[0].starts_with("EV EWR-MSP MQ LGA-MSP "), "{text}");
    let live = live.join(" ");
    assert_eq!(live.split(' ').count(), 2 * 121, "each as carrier and route: {text}");
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
        // Each flight of a carrier waits for at most one of each other carrier. But they are told in the
        // order in which they were acked: a worker that the machine lets wait is passed by what the
        // other one does meanwhile.
        assert!(longest <= flights * 15 + 100, "{carrier}: {text}");
    }
}

#[test]
fn the_cluster_serves_all_tenants_in_fair_turns_while_a_primary_dies() {
    let text = example("cluster");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "12 partitions are on 3 nodes.");
    assert_eq!(
        lines[1],
        "3300 orders were delivered: 3000 of a loud tenant, 10 each of 30 quiet ones."
    );
    assert_eq!(lines[2..4], ["One of the primaries was killed.", "All 3300 were done."]);
    let last = lines[4].strip_prefix("The last of a quiet tenant was number ").unwrap();
    let last: u64 = last.split(',').next().unwrap().parse().unwrap();
    // Ten rounds of 31 tenants are 310; while a worker waits for what dies, others may go on.
    assert!(last < 500, "{text}");
}

#[test]
fn the_listener_prints_what_matches_its_glob() {
    assert_eq!(
        example("listen"),
        "visit:docs/start of acme\n\
         visit:docs/queues of beta\n\
         not a visit, on visit:docs/odd\n\
         5 messages wait for workers\n"
    );
}

#[test]
fn the_worker_has_half_of_the_messages_in_hand_within_a_millisecond_and_stops_at_ctrl_c() {
    let mut medians = Vec::new();
    // The machine may be busy with other things; one quiet second is enough. Where it has none, what
    // counts is how long a single round trip takes there.
    let quick = |(median, trip): &(f64, f64)| *median < f64::max(1.0, 10.0 * trip);
    while medians.len() < 10 && !medians.iter().any(quick) {
        let trip = round_trip();
        let mut worker = start("worker");
        let mut lines = BufReader::new(worker.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "waiting for mails; Ctrl-C ends it");
        assert_eq!(lines.next().unwrap(), "mail 1 for acme");
        assert!(lines.any(|line| line == "mail 60 for beta"));
        let pid = worker.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let last = lines.last().unwrap();
        let mut errors = String::new();
        worker.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(worker.wait().unwrap().success());
        assert_eq!(
            errors,
            "1 of odd is given up: message 1 on `mail` is not what this broker decodes: invalid type: string \
             \"no mail\", expected struct Mail at line 1 column 9\n"
        );
        let words: Vec<_> = last.split(' ').collect();
        let ["mails", "done,", "half", "of", "them", "in", "hand", "within", median, "ms"] =
            words[1..]
        else {
            panic!("{last}");
        };
        assert!(words[0].parse::<u32>().unwrap() >= 60, "{last}");
        medians.push((median.parse::<f64>().unwrap(), trip));
    }
    println!("medians of the runs, and of a round trip, in ms: {medians:?}");
    assert!(medians.iter().any(quick), "{medians:?}");
}

/// The median of a PING in this machine's present state, in ms: each after a pause, as mails come.
fn round_trip() -> f64 {
    support::RUNTIME.block_on(async {
        drop(support::builder().await); // The server of the tests runs.
        let mut raw = support::raw().await;
        let mut trips = Vec::new();
        for _ in 0..61 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let begun = Instant::now();
            redis::cmd("PING").exec_async(&mut raw).await.unwrap();
            trips.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        trips.sort_by(f64::total_cmp);
        trips[30]
    })
}
