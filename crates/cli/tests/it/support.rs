//! What the tests share: a server, a namespace of its own for each test, and a terminal that writes
//! down what is done in it.

use std::{
    ffi::OsStr,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use insta::Settings;
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use tempfile::TempDir;

/// The program, with nothing from outside that it would heed.
pub(crate) fn program() -> Command {
    let mut program = Command::new(assert_cmd::cargo::cargo_bin!("fairlane"));
    for name in ["REDIS", "NAMESPACE", "TLS_CA", "TLS_CERT", "TLS_KEY"] {
        program.env_remove(format!("FAIRLANE_{name}"));
    }
    program.env_remove("CLICOLOR_FORCE").env("NO_COLOR", "1").env("COLUMNS", "100");
    program
}

/// `fairlane redis DIR`, as somebody runs it in another terminal. It ends with this.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) dir: TempDir,
    /// What else it prints; kept open, as a terminal would be.
    pub(crate) out: BufReader<ChildStdout>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut redis = program();
        redis.arg("redis").arg(dir.path().join("data")).args(more);
        redis.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = redis.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        out.read_line(&mut url).unwrap();
        if url.is_empty() {
            let mut why = String::new();
            child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            panic!("the tests need a Redis server: {why}");
        }
        Self { child, url: url.trim_end().to_owned(), dir, out }
    }

    /// The server that the tests which run now share; the last of them ends it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("data/redis.sock")
    }

    /// Sends a command to Redis, beside the library, and returns the first line of the answer.
    pub(crate) fn command(&self, command: &str) -> String {
        let mut redis = UnixStream::connect(self.socket()).unwrap();
        redis.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(redis).read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signal_to(&self.child, signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal to a child that was not waited for yet.
pub(crate) fn signal_to(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// A terminal with a namespace of its own, which writes down what is done in it.
pub(crate) struct Terminal {
    pub(crate) server: Arc<Server>,
    pub(crate) namespace: String,
    transcript: String,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let namespace = format!("cli-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { server: Server::shared(), namespace, transcript: String::new() }
    }

    /// With a queue `q` that takes everything.
    pub(crate) fn with_queue() -> Self {
        let terminal = Self::new();
        terminal.done(&["register", "q", "."]);
        terminal
    }

    /// The program with these arguments, which has the server and the namespace.
    pub(crate) fn fairlane<A: AsRef<OsStr>>(&self, args: &[A]) -> Command {
        let mut fairlane = program();
        fairlane.env("FAIRLANE_REDIS", &self.server.url);
        fairlane.env("FAIRLANE_NAMESPACE", &self.namespace).args(args);
        fairlane
    }

    /// Runs it, and writes down what it printed.
    pub(crate) fn run(&mut self, args: &[&str]) -> Output {
        self.pipe("", args)
    }

    /// Runs it as a pipe does, with this as standard input.
    pub(crate) fn pipe(&mut self, input: &str, args: &[&str]) -> Output {
        let output = piped(self.fairlane(args), input.as_bytes());
        for line in input.lines() {
            self.transcript += &format!("< {line}\n");
        }
        self.transcript += &format!("$ fairlane {}\n", quoted(args));
        self.write_down(&output);
        output
    }

    /// Runs it twice, for people and for programs.
    pub(crate) fn both(&mut self, args: &[&str]) {
        self.run(args);
        self.run(&[args, &["--json"]].concat());
    }

    /// Runs what has to succeed and is no part of the transcript, and returns what it printed.
    #[track_caller]
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let output = piped(self.fairlane(args), b"");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Delivers `n` messages of a facet to the topic `t`.
    pub(crate) fn deliver(&self, facet: &str, n: u64) {
        let lines: String = (0..n)
            .map(|n| format!("{{\"facet\":\"{facet}\",\"topic\":\"t\",\"n\":{n}}}\n"))
            .collect();
        let output = piped(self.fairlane(&["deliver"]), lines.as_bytes());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Leases messages of `q`, and returns their tokens.
    pub(crate) fn lease(&self, n: u64) -> Vec<String> {
        let leased = self.done(&["lease", "q", "--json", "-n", &n.to_string()]);
        let token = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["token"].as_str().unwrap().to_owned()
        };
        leased.lines().map(token).collect()
    }

    pub(crate) fn write_down(&mut self, output: &Output) {
        self.transcript += &String::from_utf8_lossy(&output.stdout);
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            self.transcript += &format!("2> {line}\n");
        }
        if let Some(code @ 1..) = output.status.code() {
            self.transcript += &format!("[{code}]\n");
        }
        self.transcript.push('\n');
    }

    /// Compares all that was done with what it was when somebody last looked at it.
    #[track_caller]
    pub(crate) fn is_as_before(&self, name: &str) {
        let mut settings = Settings::clone_current();
        for (found, shown) in [
            (r"q/(\d+)/\d{16,}", "q/$1/[lease]"),
            (r#"(_at_ms|until_ms)":\d{13}"#, "$1\":[time]"),
            (r#""oldest_ms":\d+"#, "\"oldest_ms\":[age]"),
            (r#""turn":[\d.]+"#, "\"turn\":[turn]"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ(, in [\d.mshd]+)?", "[time]"),
            (r#""seconds":[\d.]+,"rate":[\d.]+"#, "\"seconds\":[seconds],\"rate\":[rate]"),
            (r"in [\d.]+ s: \d+ a second", "in [seconds] s: [rate] a second"),
            (r"(?m)\d+(\.\d|m\d\d)?s$", "[age]"),
            (r"/tmp/\.tmp\w+", "[dir]"),
        ] {
            settings.add_filter(found, shown);
        }
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.set_snapshot_path("snapshots");
        settings.bind(|| insta::assert_snapshot!(name, self.transcript));
    }
}

/// As somebody would type it.
fn quoted(args: &[&str]) -> String {
    let plain = |arg: &str| arg.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=".contains(c));
    let quoted = args.iter().map(|arg| match plain(arg) && !arg.is_empty() {
        true => (*arg).to_owned(),
        false => format!("'{arg}'"),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Runs a command with this as standard input.
pub(crate) fn piped(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // It may end before it has read all of it.
    let feeding = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap();
    output
}

/// A terminal of the system: the end that a person has, and the one that a program gets.
pub(crate) fn pty() -> (File, OwnedFd) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&person).unwrap();
    unlockpt(&person).unwrap();
    let name = ptsname(&person, Vec::new()).unwrap();
    let path = Path::new(OsStr::from_bytes(name.as_bytes()));
    let program = File::options().read(true).write(true).open(path).unwrap();
    (person.into(), program.into())
}

/// Waits until it is so.
#[track_caller]
pub(crate) fn eventually(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "it is not so after 20 seconds");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What it printed to standard error.
pub(crate) fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What it printed to standard output.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
