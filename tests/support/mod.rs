//! What the test binaries share: a server, a namespace of its own for each test, a clock that can be moved.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    env,
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fairlane::{Broker, BrokerBuilder, Credentials, Queue, testing::TestCluster};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::OnceCell};

pub(crate) use self::{proxy::Proxy, sentinel::Sentinels};

mod proxy;
mod sentinel;

/// The time at which each test begins, in ms.
pub(crate) const START: u64 = 1_000_000_000_000;

/// What a queue counts from its beginning, in the order in which `stats` has it.
pub(crate) const TOTALS: [&str; 9] = [
    "delivered",
    "served",
    "acked",
    "came_back",
    "refused",
    "expired",
    "died",
    "dropped",
    "purged",
];

/// Where properties run, which are no async functions.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// A namespace of its own.
pub(crate) struct Space {
    pub(crate) name: String,
    pub(crate) broker: Broker,
    pub(crate) clock: Clock,
}

/// The time that the scripts of a space are given.
#[derive(Clone)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Space {
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(set: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("it-{}-{count}", std::process::id());
        let clock = Clock(Arc::new(AtomicU64::new(START)));
        let now = clock.clone();
        let builder = builder_as(&name).await.clock(move || now.now());
        let broker = set(builder).connect().await.expect("a broker for the test");
        Self { name, broker, clock }
    }

    /// With a queue `q` that takes everything.
    pub(crate) async fn with_queue() -> (Self, Queue) {
        let space = Self::new().await;
        let queue = space.broker.register_queue("q", ".").await.unwrap();
        (space, queue)
    }

    /// A broker of its own for the same namespace and clock.
    pub(crate) async fn another(&self) -> Broker {
        let now = self.clock.clone();
        self.builder().clock(move || now.now()).connect().await.unwrap()
    }

    /// A builder for the same namespace, with the time of Redis.
    pub(crate) fn builder(&self) -> BrokerBuilder {
        <Broker>::builder().redis(url()).namespace(&self.name).credentials(user_of(&self.name))
    }

    /// Lets its user listen to these globs, too.
    pub(crate) async fn may_hear(&self, globs: &[&str]) {
        let globs: Vec<_> = globs.iter().map(|glob| format!("&{}:{glob}", self.name)).collect();
        let mut words = vec!["ACL", "SETUSER", &self.name];
        words.extend(globs.iter().map(String::as_str));
        run::<()>(&words).await;
    }

    /// A broker of its own for bodies that are any bytes.
    pub(crate) async fn bytes(&self) -> Broker<Vec<u8>> {
        let (now, same) = (self.clock.clone(), |body: &Vec<u8>| Ok::<_, Infallible>(body.clone()));
        let builder = BrokerBuilder::coded(same, |body| Ok::<_, Infallible>(body.to_vec()));
        let builder = builder.facet(|_| "a").topic(|_| "t").clock(move || now.now());
        let builder = builder.redis(url()).namespace(&self.name).credentials(user_of(&self.name));
        builder.connect().await.unwrap()
    }

    pub(crate) fn key(&self, key: &str) -> String {
        format!("{{{}}}:{key}", self.name)
    }

    /// The key of a queue.
    pub(crate) fn of(&self, queue: &str, key: &str) -> String {
        self.key(&format!("q:{queue}:{key}"))
    }

    /// All keys of the namespace, without its tag.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let tag = self.key("");
        let keys = scan(&format!("{tag}*")).await.into_iter();
        keys.map(|key| key[tag.len()..].to_owned()).collect()
    }

    /// Those of its partitions, too, as they are.
    pub(crate) async fn all_keys(&self) -> Vec<String> {
        let mut keys = scan(&format!("{{{}}}:*", self.name)).await;
        keys.extend(scan(&format!("{{{}:*", self.name)).await);
        keys
    }

    /// Checks that no queue has left anything behind, and deletes the namespace.
    #[track_caller]
    pub(crate) fn end(self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let kept = ["routes", "seq", "layout"];
            let mut left = self.keys().await;
            // The keys of deliveries end by themselves.
            left.retain(|key| !kept.contains(&key.as_str()) && !key.starts_with("k:"));
            for clock in left.extract_if(.., |key| key.starts_with("q:") && key.ends_with(":clock"))
            {
                let mut counts: BTreeMap<String, f64> = run(&["HGETALL", &self.key(&clock)]).await;
                counts.retain(|name, count| {
                    *count != 0.0 || !["delayed", "holds"].contains(&name.as_str())
                });
                assert!(
                    counts.keys().all(|count| TOTALS.contains(&count.as_str())),
                    "more than totals left behind at {caller}, in {clock}: {counts:?}"
                );
            }
            assert!(left.is_empty(), "keys left behind at {caller}: {left:?}");
            self.delete().await;
        }
    }

    /// Deletes the namespace and its user.
    pub(crate) async fn delete(&self) {
        self.delete_keys().await;
        run::<()>(&["ACL", "DELUSER", &self.name]).await;
    }

    pub(crate) async fn delete_keys(&self) {
        let mut raw = raw().await;
        for key in self.all_keys().await {
            redis::cmd("DEL").arg(key).exec_async(&mut raw).await.unwrap();
        }
    }
}

/// The keys that match a glob, each once, in order.
async fn scan(glob: &str) -> Vec<String> {
    let mut raw = raw().await;
    let mut keys = Vec::new();
    let mut cursor = 0u64;
    loop {
        let mut command = redis::cmd("SCAN");
        command.arg(cursor).arg("MATCH").arg(glob).arg("COUNT").arg(1000);
        let (next, page): (u64, Vec<String>) = command.query_async(&mut raw).await.unwrap();
        keys.extend(page);
        cursor = next;
        if cursor == 0 {
            keys.sort();
            keys.dedup();
            return keys;
        }
    }
}

/// A builder for the server of the tests: `REDIS_URL`, or one that is started for this process.
pub(crate) async fn builder() -> BrokerBuilder {
    match env::var("REDIS_URL") {
        Ok(url) => <Broker>::builder().redis(url),
        Err(_) => {
            shared_server().await;
            <Broker>::builder().embedded(dir())
        }
    }
}

/// A builder for a namespace, as a user of its name that has no rights but those of the
/// documentation.
pub(crate) async fn builder_as(namespace: &str) -> BrokerBuilder {
    let builder = builder().await;
    make_user(&mut raw().await, namespace).await;
    builder.namespace(namespace).credentials(user_of(namespace))
}

/// Makes the user of a namespace, as the documentation says it.
pub(crate) async fn make_user(redis: &mut MultiplexedConnection, namespace: &str) {
    let mut rights = rights(namespace);
    let mut command = redis::cmd("COMMAND");
    command.arg("LIST").arg("FILTERBY").arg("PATTERN").arg("waitaof");
    let known: Vec<String> = command.query_async(redis).await.unwrap();
    if known.is_empty() {
        rights.retain(|right| right != "+waitaof"); // Redis 7.0
    }
    redis::cmd(&rights[0]).arg(&rights[1..]).exec_async(redis).await.unwrap();
}

/// The command that makes the user of a namespace: that of the documentation.
pub(crate) fn rights(namespace: &str) -> Vec<String> {
    let text = include_str!("../../docs/operations.md");
    let line = text.lines().find(|line| line.starts_with("ACL SETUSER shop ")).unwrap();
    let line = line.replace("password", "shop").replace("shop", namespace);
    line.split(' ').map(str::to_owned).collect()
}

/// Who the user of a namespace is.
pub(crate) fn user_of(namespace: &str) -> impl Fn() -> Credentials + Send + Sync + 'static {
    let user = Credentials::new(namespace, namespace);
    move || user.clone()
}

/// Keeps the server of this process alive until the process ends, and with it the server.
async fn shared_server() {
    static KEPT: OnceCell<Broker> = OnceCell::const_new();
    KEPT.get_or_init(|| async {
        remove_old();
        let started = <Broker>::builder().embedded(dir()).connect().await;
        started.unwrap_or_else(|error| panic!("the tests need a Redis server: {error}"))
    })
    .await;
}

fn dir() -> PathBuf {
    env::temp_dir().join(format!("fairlane-it-{}", std::process::id()))
}

/// Removes the directories of processes that have ended: a server locks its log while it runs.
fn remove_old() {
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with("fairlane-it-")
            && File::open(path.join("fairlane.log")).is_ok_and(|log| log.try_lock().is_ok())
            // One that is new may be about to be locked.
            && entry.metadata().and_then(|dir| dir.modified()).is_ok_and(|at| at.elapsed().is_ok_and(|age| age > Duration::from_secs(60)))
        {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// Where the server of the tests is.
pub(crate) fn url() -> String {
    env::var("REDIS_URL")
        .unwrap_or_else(|_| format!("unix://{}", dir().join("redis.sock").display()))
}

/// A connection beside the library, to look at what it stores.
pub(crate) async fn raw() -> MultiplexedConnection {
    patient(&redis::Client::open(url()).unwrap()).await
}

/// A connection that gives a busy machine its time.
async fn patient(client: &redis::Client) -> MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(10)))
        .set_response_timeout(Some(Duration::from_secs(10)));
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// Runs a command beside the library.
pub(crate) async fn run<T: redis::FromRedisValue>(command: &[&str]) -> T {
    let mut packed = redis::cmd(command[0]);
    packed.arg(&command[1..]);
    packed.query_async(&mut raw().await).await.unwrap()
}

pub(crate) fn message(facet: &str, topic: &str, n: u64) -> Value {
    json!({"facet": facet, "topic": topic, "n": n})
}

/// Delivers `n` numbered messages of a facet to the topic `t`.
pub(crate) async fn deliver(broker: &Broker, facet: &str, n: u64) {
    let messages: Vec<_> = (0..n).map(|n| message(facet, "t", n)).collect();
    broker.deliver_all(&messages).await.unwrap();
}

/// Pulls all that can be served, and returns the number of each.
pub(crate) async fn numbers(queue: &Queue) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        let pulled = queue.pull_many(1000).await.unwrap();
        if pulled.is_empty() {
            return numbers;
        }
        numbers.extend(pulled.into_iter().map(|message| message.unwrap()["n"].as_u64().unwrap()));
    }
}

/// Pulls one by one, at most `n`, and returns whose each was.
pub(crate) async fn pulled(queue: &Queue, n: usize) -> Vec<String> {
    let mut facets = Vec::new();
    while facets.len() < n
        && let Some(message) = queue.pull().await.unwrap()
    {
        facets.push(message["facet"].as_str().unwrap().to_owned());
    }
    facets
}

/// How often each occurs.
pub(crate) fn counts(facets: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for facet in facets {
        *counts.entry(facet.as_str()).or_default() += 1;
    }
    counts
}

/// A server of a test's own, for what would disturb others. It ends with this.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    args: Vec<String>,
    child: Child,
}

impl Server {
    /// Starts a server on a Unix socket, with these arguments besides.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let args: Vec<_> = args.iter().map(|arg| arg.to_string()).collect();
        let child = Self::spawn(&dir, &args);
        let server = Self { dir, args, child };
        server.ready().await;
        server
    }

    fn spawn(dir: &tempfile::TempDir, args: &[String]) -> Child {
        let program = fairlane::testing::server_program().expect("the tests need a Redis server");
        Command::new(program)
            .args([
                "--port",
                "0",
                "--unixsocket",
                "redis.sock",
                "--save",
                "",
                "--logfile",
                "redis.log",
            ])
            .args(args)
            .current_dir(dir.path())
            .spawn()
            .unwrap()
    }

    pub(crate) async fn ready(&self) {
        for _ in 0..1000 {
            if let Ok(mut connection) = self.client().get_multiplexed_async_connection().await {
                let answer: redis::RedisResult<String> =
                    redis::cmd("PING").query_async(&mut connection).await;
                // That it wants a password first is an answer too.
                if answer.is_ok() || answer.is_err_and(|error| error.code() == Some("NOAUTH")) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "the server did not start: {:?}",
            fs::read_to_string(self.dir.path().join("redis.log"))
        );
    }

    /// Kills the server, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn launch(&mut self) {
        self.child = Self::spawn(&self.dir, &self.args);
    }

    /// Launches it after a crash as docs/operations.md says: what the crash has torn is taken away before.
    pub(crate) async fn recover(&mut self) {
        let program = fairlane::testing::server_program().unwrap();
        let version = Command::new(&program).arg("--version").output().unwrap().stdout;
        let version = String::from_utf8(version).unwrap();
        // The tool is the same program by another name. This server needs none, and what it writes its own
        // tool cannot read.
        match version.split_once(" server v=").unwrap() {
            ("Valkey", number) if !number.starts_with(['7', '8']) => {}
            ("Valkey", _) => self.mend(&program, "valkey-check-aof"),
            _ => self.mend(&program, "redis-check-aof"),
        }
        self.launch();
        self.ready().await;
    }

    fn mend(&self, program: &Path, tool: &str) {
        let mut mend = Command::new(program);
        mend.arg0(tool).args(["--fix", "appendonlydir/appendonly.aof.manifest"]);
        mend.current_dir(self.dir()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut mending = mend.spawn().unwrap();
        // It asks whether it is to go on, where there is something to mend.
        let _ = mending.stdin.take().unwrap().write_all(b"y\n");
        let mended = mending.wait_with_output().unwrap();
        assert!(mended.status.success(), "{}", String::from_utf8_lossy(&mended.stdout));
    }

    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.launch();
        self.ready().await;
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn client(&self) -> redis::Client {
        redis::Client::open(self.url()).unwrap()
    }

    pub(crate) fn builder(&self) -> BrokerBuilder {
        <Broker>::builder().redis(self.url())
    }

    pub(crate) async fn run<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut raw = patient(&self.client()).await;
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut raw).await.unwrap()
    }
}

impl Server {
    /// How often clients and scripts have called a command.
    pub(crate) async fn calls(&self, command: &str) -> u64 {
        let stats: String = self.run(&["INFO", "commandstats"]).await;
        let of = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")));
        let calls = of.and_then(|of| of.strip_prefix("calls=")?.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    }

    /// How many clients are blocked.
    pub(crate) async fn blocked(&self) -> u64 {
        self.info("blocked_clients").await
    }

    /// A number that INFO has.
    pub(crate) async fn info(&self, field: &str) -> u64 {
        let info: String = self.run(&["INFO"]).await;
        let of = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        of.unwrap().trim().parse().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// The file to which the server of a directory appends what it does.
pub(crate) fn appended(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("appendonlydir")).unwrap().map(|file| file.unwrap().path());
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix("appendonly.aof.")?;
        name.strip_suffix(".incr.aof")?.parse::<u64>().ok()
    };
    // While it is written anew, the one before is there, too.
    files.filter(|path| number(path).is_some()).max_by_key(number).unwrap()
}

/// Leaves a part of a script at the end of what a server has appended, as a crash does in the midst of its
/// writing. It is a part of the last script again, so that nothing is lost with it.
pub(crate) fn tear(dir: &Path, part: f64) {
    let path = appended(dir);
    let all = fs::read(&path).unwrap();
    let last = |word: &str| all.windows(word.len()).rposition(|bytes| bytes == word.as_bytes());
    let exec = "*1\r\n$4\r\nEXEC\r\n";
    let end = last(exec).expect("a script was carried out") + exec.len();
    let begin = all[..end].windows(5).rposition(|bytes| bytes == b"MULTI").unwrap() - 8;
    let most = end - begin - 1;
    let torn = &all[begin..][..most.min((most as f64 * part).ceil() as usize)];
    File::options().append(true).open(path).unwrap().write_all(torn).unwrap();
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so, for at most ten seconds.
#[track_caller]
pub(crate) fn until<F: Future<Output = bool>>(
    what: &str,
    is: impl Fn() -> F,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        for _ in 0..2000 {
            if is().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it did not come to be that {what}, at {caller}");
    }
}

/// A port of this machine that nobody listens on.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Tells a process that [`another_process`] started what it is for.
const ROLE: &str = "FAIRLANE_IT_DIR";

/// Runs a test in a process of its own, in which [`other_process`] gives the directory.
pub(crate) fn another_process(test: &str, dir: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ROLE, dir).stdout(Stdio::null());
    command
}

/// The directory of a process that [`another_process`] started; none in the process of all tests.
pub(crate) fn other_process() -> Option<PathBuf> {
    env::var_os(ROLE).map(PathBuf::from)
}

/// What is logged.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        std::io::Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sets what the nodes of a cluster go by.
pub(crate) async fn set_up(cluster: &TestCluster, name: &str, value: &str) {
    for node in cluster.nodes() {
        let client = redis::Client::open(("127.0.0.1", cluster.port(node))).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg(name).arg(value).exec_async(&mut connection).await.unwrap();
    }
}

/// The slot of the keys that have this between their braces, as a node says.
pub(crate) async fn slot(cluster: &TestCluster, tag: &str) -> u16 {
    let client = redis::Client::open(("127.0.0.1", cluster.port(0))).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let key = format!("{{{tag}}}:routes");
    redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).query_async(&mut connection).await.unwrap()
}
