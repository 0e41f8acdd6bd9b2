//! A primary with replicas, watched by sentinels.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::TcpListener,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use redis::{FromRedisValue, RedisResult};

use super::until;

/// The name under which the sentinels know the primary and its replicas.
const NAME: &str = "mymaster";
const SENTINELS: usize = 3;

/// Ends all processes whose numbers it reads, when the other end of its input does: when it is dropped, or its
/// owner was killed.
const END: &str = r#"while read -r pid; do set -- "$@" "$pid"; done; kill -KILL "$@"; rm -rf "$0""#;

/// A primary, its replicas, and three sentinels, on free ports of the loopback interface. A primary that is
/// silent for two seconds is taken for dead by two of them. All end with this, or with the process.
pub(crate) struct Sentinels {
    servers: Vec<Process>,
    sentinels: Vec<Process>,
    /// Those in whose place others were started. They are waited for in the end: until then their numbers are
    /// nobody else's.
    dead: Vec<Child>,
    end: Child,
    /// Taken when all is to end.
    owner: Option<ChildStdin>,
    dir: tempfile::TempDir,
}

struct Process {
    port: u16,
    child: Child,
}

impl Process {
    fn start(dir: &Path, end: &mut ChildStdin, port: u16, args: &[&str]) -> Self {
        let program = fairlane::testing::server_program().expect("the tests need a Redis server");
        let log = fs::File::create(dir.join(format!("{port}.log"))).unwrap();
        let mut command = Command::new(program);
        command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(log.try_clone().unwrap());
        // A Ctrl-C in the terminal is for the owner.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.stderr(log).spawn().unwrap();
        writeln!(end, "{}", child.id()).unwrap();
        Self { port, child }
    }

    async fn ask<T: FromRedisValue>(&self, words: &str) -> RedisResult<T> {
        let client = redis::Client::open(("127.0.0.1", self.port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let words: Vec<_> = words.split(' ').collect();
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await
    }
}

impl Sentinels {
    /// Starts them, with a number of replicas, and waits until all know each other and the replicas have what
    /// the primary has.
    pub(crate) async fn start(replicas: usize) -> Self {
        for _ in 0..5 {
            let mut started = Self::all(replicas).await;
            for _ in 0..1000 {
                if started.processes().any(|process| process.child.try_wait().unwrap().is_some()) {
                    break; // Somebody was faster on its port.
                }
                if started.are_ready().await {
                    return started;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            started.print_logs();
        }
        panic!("the sentinels and their servers did not start");
    }

    async fn all(replicas: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = free_ports(1 + replicas + SENTINELS);
        let (servers, sentinels) = ports.split_at(1 + replicas);
        let mut end = Command::new("/bin/sh")
            .args(["-c", END])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let owner = end.stdin.take();
        let (all, dead) = (Vec::new(), Vec::new());
        let mut started = Self { servers: all, sentinels: Vec::new(), dead, end, owner, dir };
        let primary = started.start_server(servers[0], None);
        started.servers.push(primary);
        for _ in 0..200 {
            // A replica that does not find its primary at once tries again after a second.
            if started.servers[0].ask::<()>("PING").await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for port in &servers[1..] {
            let replica = started.start_server(*port, Some(servers[0]));
            started.servers.push(replica);
        }
        for port in sentinels {
            let file = format!("{port}.conf");
            let text = configuration(*port, servers, sentinels);
            fs::write(started.dir.path().join(&file), text).unwrap();
            let sentinel = started.start_process(*port, &[&file, "--sentinel"]);
            started.sentinels.push(sentinel);
        }
        started
    }

    fn start_process(&mut self, port: u16, args: &[&str]) -> Process {
        Process::start(self.dir.path(), self.owner.as_mut().unwrap(), port, args)
    }

    fn start_server(&mut self, port: u16, primary: Option<u16>) -> Process {
        let (own, primary) = (port.to_string(), primary.map(|primary| primary.to_string()));
        let mut args = vec!["--port", &own, "--bind", "127.0.0.1", "--save", ""];
        args.extend(["--repl-diskless-sync-delay", "0"]);
        args.extend(primary.iter().flat_map(|primary| ["--replicaof", "127.0.0.1", primary]));
        self.start_process(port, &args)
    }

    fn print_logs(&mut self) {
        let dir = self.dir.path().to_owned();
        for process in self.processes() {
            let log = dir.join(format!("{}.log", process.port));
            eprintln!("{}: {}", process.port, fs::read_to_string(log).unwrap_or_default());
        }
    }

    fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.servers.iter_mut().chain(&mut self.sentinels)
    }

    async fn are_ready(&self) -> bool {
        let mut primaries = 0;
        for server in &self.servers {
            let Ok(info) = server.ask::<String>("INFO replication").await else { return false };
            primaries += usize::from(info.contains("role:master"));
            if !info.contains("role:master") && !info.contains("master_link_status:up") {
                return false;
            }
        }
        if primaries != 1 {
            return false;
        }
        // A sentinel that is not in touch with one has it as `disconnected`, or as down.
        for sentinel in &self.sentinels {
            for (what, flags) in [("REPLICAS", "slave"), ("SENTINELS", "sentinel")] {
                let others: RedisResult<Vec<std::collections::HashMap<String, String>>> =
                    sentinel.ask(&format!("SENTINEL {what} {NAME}")).await;
                if !others.is_ok_and(|others| others.iter().all(|other| other["flags"] == flags)) {
                    return false;
                }
            }
            let quorum: RedisResult<String> =
                sentinel.ask(&format!("SENTINEL CKQUORUM {NAME}")).await;
            if !quorum.is_ok_and(|said| said.starts_with("OK 3 ")) {
                return false;
            }
        }
        true
    }

    /// The port of the primary, as soon as all sentinels name the same.
    pub(crate) async fn primary(&self) -> u16 {
        for _ in 0..2000 {
            let mut ports = Vec::new();
            for sentinel in &self.sentinels {
                let ask = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {NAME}");
                let (_, port): (String, u16) = sentinel.ask(&ask).await.unwrap();
                ports.push(port);
            }
            if ports.iter().all(|port| *port == ports[0]) {
                return ports[0];
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the sentinels name different primaries");
    }

    /// Kills the primary, as a crash would. Returns its port.
    pub(crate) async fn kill_primary(&mut self) -> u16 {
        let port = self.primary().await;
        let primary = self.servers.iter_mut().find(|server| server.port == port).unwrap();
        // It is waited for in the end: until then its number is nobody else's.
        primary.child.kill().unwrap();
        port
    }

    /// Stops them all, as they are: nobody answers any more.
    pub(crate) fn freeze(&mut self) {
        let ids: Vec<_> = self.processes().map(|process| process.child.id().to_string()).collect();
        assert!(Command::new("kill").arg("-STOP").args(ids).status().unwrap().success());
    }

    /// Starts what was killed again, with nothing, as a replica of the primary that there is now, and waits
    /// until it has what that has.
    pub(crate) async fn launch(&mut self, port: u16) {
        let primary = self.primary().await;
        assert_ne!(port, primary, "nothing has taken its place");
        let started = self.start_server(port, Some(primary));
        let killed = self.servers.iter_mut().find(|server| server.port == port).unwrap();
        self.dead.push(std::mem::replace(killed, started).child);
        self.ready().await;
    }

    /// Has a replica take the place of the primary, which takes itself for one some ten seconds longer: what it
    /// is told then is lost. Returns its port.
    pub(crate) async fn replace_primary(&self) -> u16 {
        let (first, ask) = (self.primary().await, format!("SENTINEL FAILOVER {NAME}"));
        self.sentinels[0].ask::<()>(&ask).await.unwrap();
        until("the sentinels name another primary", || async { self.primary().await != first })
            .await;
        first
    }

    /// Waits until one server is the primary, the others have what it has, and all sentinels know.
    pub(crate) async fn ready(&self) {
        for _ in 0..3000 {
            if self.are_ready().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the servers and their sentinels do not come to rest");
    }

    /// Where the sentinels are.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect()
    }

    /// Their addresses, and the name of what they watch, as the library takes it.
    pub(crate) fn url(&self) -> String {
        format!("redis-sentinel://{}/{NAME}", self.addresses().join(","))
    }
}

impl Drop for Sentinels {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        self.owner.take();
        let _ = self.end.wait();
        let dead = std::mem::take(&mut self.dead);
        for mut child in dead {
            let _ = child.wait();
        }
        for process in self.processes() {
            let _ = process.child.wait();
        }
    }
}

/// What a sentinel is to watch. It is told of all others: they would find each other, but in seconds.
fn configuration(own: u16, servers: &[u16], sentinels: &[u16]) -> String {
    let mut text = format!(
        "port {own}\nbind 127.0.0.1\nsentinel myid {own:040}\n\
         sentinel monitor {NAME} 127.0.0.1 {} 2\n\
         sentinel down-after-milliseconds {NAME} 2000\n\
         sentinel failover-timeout {NAME} 2000\n",
        servers[0]
    );
    for replica in &servers[1..] {
        writeln!(text, "sentinel known-replica {NAME} 127.0.0.1 {replica}").unwrap();
    }
    for other in sentinels.iter().filter(|other| **other != own) {
        writeln!(text, "sentinel known-sentinel {NAME} 127.0.0.1 {other} {other:040}").unwrap();
    }
    text
}

/// Ports of this machine that nobody listens on, each another one.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
