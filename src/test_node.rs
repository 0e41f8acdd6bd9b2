//! A node of a cluster for tests: its process, and what it says of the cluster.

use std::{
    collections::BTreeMap,
    fs::{DirBuilder, File},
    io,
    net::TcpListener,
    ops::RangeInclusive,
    os::{fd::OwnedFd, unix::ffi::OsStrExt, unix::fs::DirBuilderExt},
    path::PathBuf,
    process::ChildStdin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Cmd, FromRedisValue, RedisError, RedisResult, aio::MultiplexedConnection,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    Error,
    core::field,
    embedded::{SHELL, not_started, owned, shell, with_log},
    error::{Cause, Result, refused},
    message::AnyError,
    random::share,
};

/// How long a node may take to start, and to answer.
const STARTING: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(10);
/// How long one is waited for that may be frozen.
const PROBE: Duration = Duration::from_millis(500);

/// What all nodes have in common.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) program: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) log: File,
    /// The pipe of the shell that removes the directory when the last who holds this has ended: the owner,
    /// and the shell of each node.
    pub(crate) held: OwnedFd,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) port: u16,
    pub(crate) bus: u16,
    dir: PathBuf,
    process: Mutex<Option<Process>>,
    frozen: AtomicBool,
}

#[derive(Debug)]
struct Process {
    pid: u32,
    ended: watch::Receiver<bool>,
    /// The process lives as long as this.
    _owner: ChildStdin,
}

impl Node {
    /// A node that has not been started, in a directory of its own.
    pub(crate) fn new(common: &Common, number: usize, port: u16, bus: u16) -> io::Result<Self> {
        let dir = common.dir.join(format!("node-{number}"));
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { port, bus, dir, process: Mutex::new(None), frozen: AtomicBool::new(false) })
    }

    /// Starts it, and waits until it answers.
    pub(crate) async fn launch(&self, common: &Common) -> Result<()> {
        let failed = |why: AnyError| not_started(&self.dir, why);
        let (owner, mut ended) = self.spawn(common).map_err(|error| failed(error.into()))?;
        let end = Instant::now() + STARTING;
        let pid = loop {
            let why = match self.who().await {
                Ok(Some(pid)) => break pid,
                _ if Instant::now() > end => "does not answer",
                _ if timeout(Duration::from_millis(5), ended.wait_for(|ended| *ended))
                    .await
                    .is_ok() =>
                {
                    "has ended"
                }
                _ => continue,
            };
            let why = format!("{} {why}", common.program.display());
            return Err(failed(with_log(&why, &common.log).into()));
        };
        self.frozen.store(false, Ordering::Relaxed);
        *self.process() = Some(Process { pid, ended, _owner: owner });
        Ok(())
    }

    fn spawn(&self, common: &Common) -> io::Result<(ChildStdin, watch::Receiver<bool>)> {
        let mut command = shell(SHELL, &self.dir);
        command
            .arg("KILL") // One that is frozen hears nothing else.
            .arg(&common.program)
            .args(["--bind", "127.0.0.1", "--cluster-announce-ip", "127.0.0.1"])
            .args(["--port", &self.port.to_string(), "--cluster-port", &self.bus.to_string()])
            .args(["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"])
            // Replicas stay whose they are, and a primary that has given its last slot away stays one.
            .args(["--cluster-allow-replica-migration", "no"])
            .args(["--repl-diskless-sync-delay", "0"])
            .args(["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"])
            .args(["--daemonize", "no", "--logfile", ""])
            .stdout(common.log.try_clone()?)
            .stderr(common.held.try_clone()?);
        owned(command)
    }

    /// The number of its process, when it is this node that answers on the port: somebody else may have
    /// taken it.
    async fn who(&self) -> RedisResult<Option<u32>> {
        let mut connection = self.connect().await?;
        let dir: (String, Vec<u8>) = command("CONFIG GET dir").query_async(&mut connection).await?;
        let info: String = command("INFO server").query_async(&mut connection).await?;
        let ours = dir.1 == self.dir.as_os_str().as_bytes();
        Ok(field(&info, "process_id").and_then(|pid| pid.parse().ok()).filter(|_| ours))
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of its process, as long as that runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        let process = self.process();
        process.as_ref().filter(|process| !*process.ended.borrow()).map(|process| process.pid)
    }

    /// Whether it can be expected to answer.
    pub(crate) fn runs(&self) -> bool {
        self.pid().is_some() && !self.frozen.load(Ordering::Relaxed)
    }

    /// Whether somebody else listens where it would.
    pub(crate) fn is_displaced(&self) -> bool {
        let taken = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_err();
        self.pid().is_none() && [self.port, self.bus].iter().any(taken)
    }

    pub(crate) async fn kill(&self) -> Result<()> {
        self.signal("KILL")?;
        let ended = self.process().as_ref().map(|process| process.ended.clone());
        if let Some(mut ended) = ended {
            let end = timeout(ANSWER, ended.wait_for(|ended| *ended)).await;
            end.map_err(|_| not_started(&self.dir, "it does not end"))?.ok();
        }
        Ok(())
    }

    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        self.frozen.store(frozen, Ordering::Relaxed);
        self.signal(if frozen { "STOP" } else { "CONT" })
    }

    /// Sends a signal to the process, if it runs. The shell has it built in; a program `kill` need not be
    /// there.
    fn signal(&self, signal: &str) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        let mut kill = shell("kill -s \"$1\" \"$2\"", &self.dir);
        let status = kill.args([signal, &pid.to_string()]).status();
        match status.map_err(|error| not_started(&self.dir, error))? {
            // It may have ended by itself meanwhile.
            status if status.success() || self.pid().is_none() => Ok(()),
            status => Err(not_started(&self.dir, format!("kill -s {signal} {pid}: {status}"))),
        }
    }

    pub(crate) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(("127.0.0.1", self.port))?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER));
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let mut connection = self.connect().await.map_err(failed)?;
        command.query_async(&mut connection).await.map_err(failed)
    }

    /// What it says of all nodes that it knows; nothing if it does not answer soon.
    pub(crate) async fn members(&self) -> Option<Vec<Member>> {
        let lines = command("CLUSTER NODES");
        let lines: String = timeout(PROBE, self.run(&lines)).await.ok()?.ok()?;
        lines.lines().map(Member::parse).collect()
    }

    /// What it says of itself; nothing if it does not answer soon.
    pub(crate) async fn itself(&self) -> Option<Member> {
        self.members().await?.into_iter().find(|member| member.has("myself"))
    }

    /// Whose replica each node is, and which slots it has, when this node is content with the cluster and,
    /// as a replica, in touch with its primary. Those are left out that it cannot reach.
    pub(crate) async fn picture(&self) -> Option<Picture> {
        let (cluster, link) = (command("CLUSTER INFO"), command("INFO replication"));
        let info = async { tokio::try_join!(self.run(&cluster), self.run(&link)) };
        let (cluster, link): (String, String) = timeout(PROBE, info).await.ok()?.ok()?;
        let well = field(&cluster, "cluster_state") == Some("ok")
            && matches!(field(&link, "master_link_status"), None | Some("up"));
        let members = self.members().await.filter(|_| well)?;
        let reached = members.into_iter().filter(|member| {
            let away = ["handshake", "noaddr", "fail", "fail?"];
            member.connected && !away.iter().any(|flag| member.has(flag))
        });
        Some(reached.map(|member| (member.id, (member.primary, member.slots))).collect())
    }
}

pub(crate) type Picture = BTreeMap<String, (Option<String>, Vec<RangeInclusive<u16>>)>;

/// What a node says of one of the nodes: a line of CLUSTER NODES.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: String,
    flags: String,
    pub(crate) primary: Option<String>,
    /// The higher one has a slot that two claim.
    pub(crate) epoch: u64,
    connected: bool,
    pub(crate) slots: Vec<RangeInclusive<u16>>,
}

impl Member {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split(' ').collect();
        let [id, _address, flags, primary, _ping, _pong, epoch, link, slots @ ..] = &fields[..]
        else {
            return None;
        };
        // What begins with a bracket is a slot on its way, which is still whose it was.
        let slots = slots.iter().filter(|slots| !slots.starts_with('['));
        let slots = slots.map(|slots| {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            Some(first.parse().ok()?..=last.parse().ok()?)
        });
        Some(Self {
            id: (*id).into(),
            flags: (*flags).into(),
            primary: Some(*primary).filter(|id| *id != "-").map(Into::into),
            epoch: epoch.parse().ok()?,
            connected: *link == "connected",
            slots: slots.collect::<Option<_>>()?,
        })
    }

    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.split(',').any(|of| of == flag)
    }

    pub(crate) fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|slots| slots.contains(&slot))
    }
}

/// A command of words.
pub(crate) fn command(words: &str) -> Cmd {
    let mut command = Cmd::new();
    for word in words.split(' ') {
        command.arg(word);
    }
    command
}

fn failed(error: RedisError) -> Error {
    match error.code() {
        Some(_) => refused(error),
        None => Error::MaybeApplied(Cause::new(error)),
    }
}

/// Ports of this machine that nobody listens on, each another one. They lie below those that Linux gives to
/// connections, so that a node that was killed finds its own free when it comes back.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    // They are held until all are found.
    let mut held = Vec::new();
    while held.len() < count {
        let port = 10_000 + (share() * 20_000.0) as u16;
        held.extend(TcpListener::bind(("127.0.0.1", port)).ok().map(|listener| (port, listener)));
    }
    held.into_iter().map(|(port, _)| port).collect()
}
