//! `fairlane top`, in a real terminal: one of tmux.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread::sleep,
    time::{Duration, Instant},
};

use fairlane::{Broker, Message, Queue};
use serde_json::json;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fairlane");
/// By when something is on the screen.
const SOON: Duration = Duration::from_secs(20);

/// A terminal with a tmux of its own, which ends with it.
struct Terminal {
    socket: PathBuf,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

impl Terminal {
    /// Runs the program in a terminal of 100 columns and 30 rows. When it has ended, that is said
    /// below what was there before.
    fn run(dir: &Path, arguments: &str) -> Self {
        let terminal = Self { socket: dir.join("tmux.sock") };
        let (redis, pid) = (dir.join("redis.sock"), dir.join("top.pid"));
        let (redis, pid) = (redis.display(), pid.display());
        let program = format!(r#"echo $$ >"$0"; exec "$1" --redis "unix://$2" top {arguments}"#);
        let run = format!(
            "echo before; sh -c '{program}' '{pid}' '{PROGRAM}' '{redis}'; echo ended with $?; sleep 99"
        );
        let new =
            ["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "30", "sh", "-c", &run];
        let started = terminal.tmux(&new);
        assert!(started.status.success(), "{started:?}");
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        let mut tmux = Command::new("tmux");
        tmux.env("LC_ALL", "C.UTF-8").env_remove("TMUX").env_remove("NO_COLOR");
        tmux.args(["-u", "-S"]).arg(&self.socket).args(arguments);
        tmux.output().expect("tmux, which this test needs: install it (apt, dnf, apk, brew: tmux)")
    }

    fn press(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys"];
        arguments.extend(keys);
        self.tmux(&arguments);
    }

    fn screen(&self) -> String {
        String::from_utf8(self.tmux(&["capture-pane", "-p"]).stdout).unwrap()
    }

    /// Waits until the screen is as it is to be.
    #[track_caller]
    fn until(&self, what: &str, right: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + SOON;
        loop {
            let screen = self.screen();
            if right(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "no {what} on the screen:\n{screen}");
            sleep(Duration::from_millis(50));
        }
    }

    #[track_caller]
    fn shows(&self, text: &str) -> String {
        self.until(text, |screen| screen.contains(text))
    }

    /// The line of a facet or a queue: the last one that begins with it.
    #[track_caller]
    fn row(&self, name: &str, right: impl Fn(&str) -> bool) {
        self.until(name, |screen| {
            screen.lines().rfind(|line| line.starts_with(name)).is_some_and(&right)
        });
    }

    /// Checks that the program has ended like this, and the terminal is as it was before.
    #[track_caller]
    fn ended(&self, code: i32) {
        let screen = self.shows(&format!("ended with {code}"));
        assert!(screen.starts_with("before"), "{screen}");
        let modes = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]).stdout;
        assert_eq!(modes, b"0 1\n", "it has its own screen, and a cursor");
    }
}

/// A server of its own with a queue `orders` that takes everything.
async fn server() -> (TempDir, Broker, Queue) {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::builder().embedded(dir.path()).connect().await.unwrap();
    let queue = broker.register_queue("orders", ".").await.unwrap();
    (dir, broker, queue)
}

async fn deliver(broker: &Broker, facet: &str, n: usize) {
    let body = json!({});
    let message = || Message::new(&body).facet(facet).topic("order");
    broker.deliver_all((0..n).map(|_| message())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_watched_sorted_filtered_paused_and_asked_why() {
    let (dir, broker, queue) = server().await;
    broker.register_queue("mails", "^mail:").await.unwrap();
    for (facet, n) in [("acme", 300), ("globex", 30), ("initech", 3)] {
        deliver(&broker, facet, n).await;
    }
    queue.facet("globex").configure(|facet| facet.max_leased = Some(1)).await.unwrap();
    let leased = queue.lease_many(3).await.unwrap();
    let top = Terminal::run(dir.path(), "orders");
    let screen = top.shows("acme");
    let facets = screen.lines().skip_while(|line| !line.contains("facets of orders"));
    let names: Vec<_> = facets.skip(2).take(3).map(|line| &line[..7]).collect();
    assert_eq!(names, ["acme   ", "globex ", "initech"], "{screen}");
    top.row("globex", |row| row.contains("at limit"));
    top.row("orders", |row| row.contains("330") && row.contains("ready"));

    top.press(&["Tab", "s", "s", "s", "s", "s", "s"]);
    top.shows("facet▾");
    top.press(&["/", "lob", "Enter"]);
    top.until("globex alone", |screen| screen.contains("globex") && !screen.contains("initech"));
    top.press(&["Enter"]);
    top.shows("It is at its limit: 1 of its messages are leased, and 1 may be.");
    top.press(&["Escape"]);
    top.press(&["Escape"]);
    top.press(&["g"]);
    top.row("initech", |_| true);

    top.press(&["p"]);
    top.shows("paused acme; r resumes it");
    assert!(queue.facet("acme").settings().await.unwrap().paused);
    top.row("acme", |row| row.contains("paused"));
    top.press(&["r"]);
    top.shows("resumed acme");
    assert!(!queue.facet("acme").settings().await.unwrap().paused);
    top.press(&["Tab", "p"]);
    top.shows("paused orders; r resumes it");
    assert!(queue.settings().await.unwrap().facets.paused);
    top.row("orders", |row| row.contains("paused"));

    top.press(&["k"]);
    top.shows("facets of mails: 0 wait");
    top.press(&["?"]);
    top.shows("help: ↓ goes on, Esc goes back");
    top.press(&["q"]);
    top.ended(0);
    assert!(broker.ack_all(leased).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_and_the_shares_are_those_of_the_weights() {
    let (dir, broker, queue) = server().await;
    queue.facet("acme").set_weight(3.0).await.unwrap();
    deliver(&broker, "acme", 9000).await;
    deliver(&broker, "globex", 9000).await;
    let worker = tokio::spawn(async move {
        loop {
            queue.pull_many(8).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let top = Terminal::run(dir.path(), "--interval 500ms");
    let percent = |row: &str, expected: [&str; 2]| {
        let mut percents = row.split_whitespace().filter(|word| word.ends_with('%'));
        expected.iter().all(|expected| percents.next() == Some(expected))
    };
    top.row("acme", |row| percent(row, ["75%", "75%"]));
    top.row("globex", |row| percent(row, ["25%", "25%"]));
    top.until("a figure of the queue", |screen| {
        let figure =
            screen.lines().find_map(|line| line.split_once(" served ")?.1.split(' ').next());
        figure.and_then(|figure| figure.parse().ok()).is_some_and(|served: f64| served > 20.0)
    });
    worker.abort();
    top.press(&["q"]);
    top.ended(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_and_the_terminal_is_as_it_was() {
    let (dir, broker, _) = server().await;
    deliver(&broker, "acme", 1).await;
    let top = Terminal::run(dir.path(), "");
    top.shows("acme");
    let pid = std::fs::read_to_string(dir.path().join("top.pid")).unwrap();
    let signalled = Command::new("sh").args(["-c", "kill -TERM $0", pid.trim()]).status().unwrap();
    assert!(signalled.success());
    top.ended(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_is_wrong_and_goes_on() {
    let (dir, broker, queue) = server().await;
    deliver(&broker, "acme", 7).await;
    let top = Terminal::run(dir.path(), "nowhere");
    top.shows("there is no queue `nowhere`");
    top.press(&["G"]);
    top.row("acme", |_| true);
    command(dir.path(), "SHUTDOWN NOSAVE");
    top.shows("trying again: Redis cannot be reached");
    drop((broker, queue));
    // Whoever connects with the directory starts its server again.
    let again =
        Broker::<serde_json::Value>::builder().embedded(dir.path()).connect().await.unwrap();
    deliver(&again, "globex", 2).await;
    top.until("Redis", |screen| screen.contains("globex") && !screen.contains("trying again"));
    top.press(&["C-c"]);
    top.ended(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_does_not_answer_it_says_that_what_it_shows_is_old() {
    let (dir, broker, _queue) = server().await;
    deliver(&broker, "acme", 7).await;
    let top = Terminal::run(dir.path(), "");
    top.shows("acme");
    command(dir.path(), "CLIENT PAUSE 4000 ALL");
    top.shows("trying again: Redis has not answered for 2 seconds");
    top.until("no trouble", |screen| screen.contains("acme") && !screen.contains("trying again"));
    top.press(&["q"]);
    top.ended(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_facets_cost_no_more_than_a_hundred_calls_a_second() {
    let (dir, broker, _queue) = server().await;
    for n in 0..60 {
        broker.register_queue(&format!("q{n}"), "^nothing$").await.unwrap();
    }
    let body = json!({});
    let names: Vec<_> = (0..20_000).map(|n| format!("f{n}")).collect();
    let messages = names.iter().map(|name| Message::new(&body).facet(name.as_str()).topic("order"));
    broker.deliver_all(messages).await.unwrap();
    let top = Terminal::run(dir.path(), "--interval 250ms orders");
    top.shows("1,000 of more, the busiest");
    let (before, began) = (scripts(dir.path()), Instant::now());
    while began.elapsed() < Duration::from_secs(6) {
        sleep(Duration::from_millis(500));
        top.press(&["j", "k"]); // Other queues are chosen meanwhile.
    }
    let calls = scripts(dir.path()) - before;
    let a_second = calls as f64 / began.elapsed().as_secs_f64();
    assert!((20.0..=100.0).contains(&a_second), "{a_second} calls a second");
    // What is rare is found, and stays.
    deliver(&broker, "loud", 50).await;
    let end = Instant::now() + Duration::from_secs(60);
    while !top.screen().contains("\nloud ") {
        assert!(Instant::now() < end, "{}", top.screen());
        sleep(Duration::from_millis(200));
    }
    let stays = Instant::now();
    while stays.elapsed() < Duration::from_secs(5) {
        let screen = top.screen();
        assert!(screen.contains("\nloud "), "{screen}");
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let refused = Command::new(PROGRAM).arg("top").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains("stats --json"), "{text}");
    for bad in ["200ms", "61s", "often"] {
        let refused = Command::new(PROGRAM).args(["top", "--interval", bad]).output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
    }
}

/// What a server answers to a command.
fn command(dir: &Path, command: &str) -> String {
    let mut stream = UnixStream::connect(dir.join("redis.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let (mut answer, mut part) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut part) {
        answer.extend(&part[..n]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// How many scripts clients have called. What scripts call themselves is not among them.
fn scripts(dir: &Path) -> u64 {
    let info = command(dir, "INFO commandstats");
    let calls = info.lines().filter_map(|line| {
        let (_, counts) = line.split_once("cmdstat_eval")?;
        counts.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok()
    });
    calls.sum()
}
