//! A primary with replicas, watched by sentinels.

use std::{
    fmt::Write,
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use redis::{FromRedisValue, RedisResult};

/// The name under which the sentinels know the primary and its replicas.
const NAME: &str = "mymaster";
const SENTINELS: usize = 3;

/// Ends all processes when the other end of its input does: when it is dropped, or its owner was killed.
const END: &str = r#"read -r _; kill -KILL "$@"; rm -rf "$0""#;

/// A primary, its replicas, and three sentinels, on free ports of the loopback interface. A primary that is
/// silent for half a second is taken for dead by two of them. All end with this, or with the process.
pub(crate) struct Sentinels {
    servers: Vec<Process>,
    sentinels: Vec<Process>,
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
    fn start(dir: &Path, port: u16, args: &[&str]) -> Self {
        let program = fairlane::testing::server_program().expect("the tests need a Redis server");
        let log = fs::File::create(dir.join(format!("{port}.log"))).unwrap();
        let mut command = Command::new(program);
        command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(log.try_clone().unwrap());
        // A Ctrl-C in the terminal is for the owner.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Self { port, child: command.stderr(log).spawn().unwrap() }
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
            let mut started = Self::launch(replicas).await;
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

    async fn launch(replicas: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = free_ports(1 + replicas + SENTINELS);
        let (servers, sentinels) = ports.split_at(1 + replicas);
        let start = |port: &u16| {
            let (primary, own) = (servers[0].to_string(), port.to_string());
            let mut args = vec!["--port", &own, "--bind", "127.0.0.1", "--save", ""];
            args.extend(["--repl-diskless-sync-delay", "0"]);
            if own != primary {
                args.extend(["--replicaof", "127.0.0.1", &primary]);
            }
            Process::start(dir.path(), *port, &args)
        };
        let watch = |port: &u16| {
            let file = format!("{port}.conf");
            fs::write(dir.path().join(&file), configuration(*port, servers, sentinels)).unwrap();
            Process::start(dir.path(), *port, &[&file, "--sentinel"])
        };
        let mut running = vec![start(&servers[0])];
        for _ in 0..200 {
            // A replica that does not find its primary at once tries again after a second.
            if running[0].ask::<()>("PING").await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        running.extend(servers[1..].iter().map(start));
        let sentinels: Vec<_> = sentinels.iter().map(watch).collect();
        let processes = running.iter().chain(&sentinels);
        let mut end = Command::new("/bin/sh")
            .args(["-c", END])
            .arg(dir.path())
            .args(processes.map(|process| process.child.id().to_string()))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let owner = end.stdin.take();
        Self { servers: running, sentinels, end, owner, dir }
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
        for replica in &self.servers[1..] {
            let info: RedisResult<String> = replica.ask("INFO replication").await;
            if !info.is_ok_and(|info| info.contains("master_link_status:up")) {
                return false;
            }
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
         sentinel down-after-milliseconds {NAME} 500\n\
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
