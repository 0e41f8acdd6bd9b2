//! The connection of the calls, where the way to Redis or the server fails: what falls silent is
//! found in time, what comes back is not stormed, and nothing is left behind.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fairlane::{Broker, Error, ErrorKind, Heard, Listener, Missed, Queue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
    runtime::{Handle, Runtime},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::support::{Proxy, Server, deliver, message, until};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What the machine may take beside, where a test measures time.
const SLACK: Duration = Duration::from_millis(300);

/// The door of a server: it counts who comes, and lets them pass, or not.
struct Door {
    port: u16,
    state: Arc<DoorState>,
}

struct DoorState {
    comers: AtomicU64,
    way: AtomicU8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Connections end as soon as they are made.
    Shut,
    /// Connections are greeted, and end when a script is called.
    Greets,
    /// Connections pass after 100 ms.
    Slow,
    /// Connections are kept, and nothing comes back.
    Holds,
}

impl Door {
    async fn of(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = DoorState { comers: AtomicU64::new(0), way: AtomicU8::new(Way::Open as u8) };
        let (state, socket) = (Arc::new(state), server.socket());
        let door = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                door.comers.fetch_add(1, Ordering::SeqCst);
                if door.is(Way::Shut) {
                    continue;
                }
                let (door, socket) = (door.clone(), socket.clone());
                tokio::spawn(async move {
                    // Where there is no server, that is as if it was shut.
                    let Ok(server) = UnixStream::connect(socket).await else { return };
                    let _ = door.pass(client, server).await; // Either of them may break off.
                });
            }
        });
        Self { port, state }
    }

    async fn broker(&self, set: impl FnOnce(Builder) -> Builder) -> Broker {
        let builder = <Broker>::builder().redis(format!("redis://127.0.0.1:{}", self.port));
        set(builder).connect().await.unwrap()
    }

    fn set(&self, way: Way) {
        self.state.way.store(way as u8, Ordering::SeqCst);
    }

    fn comers(&self) -> u64 {
        self.state.comers.load(Ordering::SeqCst)
    }
}

type Builder = fairlane::BrokerBuilder;

impl DoorState {
    fn is(&self, way: Way) -> bool {
        self.way.load(Ordering::SeqCst) == way as u8
    }

    async fn pass(&self, mut client: TcpStream, mut server: UnixStream) -> std::io::Result<()> {
        while self.is(Way::Holds) {
            sleep(MS).await;
        }
        if self.is(Way::Slow) {
            sleep(100 * MS).await;
        }
        if !self.is(Way::Greets) {
            return copy_bidirectional(&mut client, &mut server).await.map(drop);
        }
        let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                read = client.read(&mut asked) => {
                    let read = &asked[..read?];
                    if read.is_empty() || read.windows(7).any(|word| word == b"EVALSHA") {
                        return Ok(());
                    }
                    server.write_all(read).await?;
                }
                read = server.read(&mut answered) => {
                    let read = &answered[..read?];
                    if read.is_empty() {
                        return Ok(());
                    }
                    client.write_all(read).await?;
                }
            }
        }
    }
}

/// Ends all connections to a server, from its side.
async fn break_off(server: &Server) {
    server.run::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    sleep(50 * MS).await; // Until it is seen.
}

/// A server, a way to it that can fail, a broker on that way, and a queue `q` that takes everything.
/// The server has the scripts, so that each is called once a call.
async fn behind_proxy(heartbeat: Duration) -> (Server, Proxy, Broker, Queue) {
    let server = Server::start(&[]).await;
    let proxy = Proxy::to(&server).await;
    let builder = proxy.builder().deadline(10 * SECOND).heartbeat(heartbeat);
    let broker = builder.connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    assert!(queue.pull().await.unwrap().is_some());
    queue.stats().await.unwrap();
    assert!(queue.lease().await.unwrap().is_none());
    (server, proxy, broker, queue)
}

async fn connections(broker: &Broker) -> u64 {
    broker.health().await.partitions[0].connections
}

#[tokio::test]
async fn a_link_that_falls_silent_is_found_within_a_heartbeat_wherever_in_it_that_happens() {
    // It is asked for an answer at half of it, counted from the last answer.
    for quiet in [0, 60, 250, 450] {
        let (_server, proxy, broker, queue) = behind_proxy(SECOND).await;
        sleep(quiet * MS).await;
        queue.stats().await.unwrap();
        proxy.silence();
        let from = Instant::now();
        let (asked, pulled) = tokio::join!(queue.stats(), queue.pull());
        let took = from.elapsed();
        asked.unwrap(); // It may be made again.
        let error = pulled.err().unwrap();
        assert!(matches!(error, Error::MaybeApplied(_)), "{error:?}");
        assert!((SECOND / 2..SECOND + SLACK).contains(&took), "{quiet} ms: {took:?}");
        assert_eq!(connections(&broker).await, 2);
        assert!(queue.pull().await.unwrap().is_none());
    }
}

async fn gap(listener: &mut Listener) {
    let heard = timeout(10 * SECOND, listener.next()).await.unwrap().unwrap();
    assert!(matches!(heard, Err(Missed::Gap)), "{heard:?}");
}

#[tokio::test]
async fn who_waits_and_who_listens_come_back_within_a_heartbeat_of_a_link_that_falls_silent() {
    let (server, proxy, broker, queue) = behind_proxy(400 * MS).await;
    let mut listener = broker.listen("*").await.unwrap();
    let waiting = tokio::spawn(queue.lease().wait(60 * SECOND).into_future());
    until("it blocks", async || server.blocked().await == 1).await;
    let direct = server.builder().connect().await.unwrap();
    proxy.silence();
    let from = Instant::now();
    direct.deliver(&message("a", "t", 1)).await.unwrap();
    let delivery = waiting.await.unwrap().unwrap().unwrap();
    let served = from.elapsed();
    assert_eq!(delivery.message().unwrap()["n"], 1);
    assert!(served < 400 * MS + SLACK, "{served:?}");
    gap(&mut listener).await;
    let back = from.elapsed();
    assert!(back < 400 * MS + 2 * SLACK, "{back:?}");
    direct.deliver(&message("a", "t", 2)).await.unwrap();
    let Some(Ok(Heard { message, .. })) = listener.next().await else { panic!("nothing heard") };
    assert_eq!(message["n"], 2);
    delivery.ack().await.unwrap();
}

/// 250 deliveries and 250 questions, at the same time.
fn five_hundred(broker: &Broker, queue: &Queue) -> JoinSet<fairlane::Result<()>> {
    let mut calls = JoinSet::new();
    for n in 0..250 {
        let (broker, queue) = (broker.clone(), queue.clone());
        calls.spawn(async move { broker.deliver(&message("a", "t", n)).await.map(drop) });
        calls.spawn(async move { queue.stats().await.map(drop) });
    }
    calls
}

/// Lets Redis be away while 500 calls wait for it, and come back after three seconds.
async fn away_and_back(
    away: impl AsyncFnOnce(&mut Server, &Door),
    back: impl AsyncFnOnce(&mut Server, &Door),
) {
    let mut server = Server::start(&["--appendonly", "yes"]).await;
    let door = Door::of(&server).await;
    let broker = door.broker(|builder| builder.deadline(20 * SECOND).heartbeat(400 * MS)).await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    queue.stats().await.unwrap();
    let before = door.comers();
    away(&mut server, &door).await;
    let calls = five_hundred(&broker, &queue);
    sleep(3 * SECOND).await;
    let tried = door.comers() - before;
    back(&mut server, &door).await;
    assert!((3..=20).contains(&tried), "{tried} connections");
    for call in calls.join_all().await {
        call.unwrap();
    }
    assert_eq!(queue.stats().await.unwrap().waiting, 250, "each once");
}

#[tokio::test]
async fn many_calls_try_few_connections_while_redis_is_gone_and_succeed_when_it_is_back() {
    let gone = async |server: &mut Server, _: &Door| {
        server.kill();
        sleep(50 * MS).await;
    };
    let back = async |server: &mut Server, _: &Door| {
        server.launch();
        server.ready().await;
    };
    away_and_back(gone, back).await;
}

#[tokio::test]
async fn many_calls_try_few_connections_while_each_ends_at_once() {
    let shut = async |server: &mut Server, door: &Door| {
        door.set(Way::Shut);
        break_off(server).await;
    };
    away_and_back(shut, async |_: &mut Server, door: &Door| door.set(Way::Open)).await;
}

#[tokio::test]
async fn many_calls_try_few_connections_while_redis_is_frozen() {
    let freeze = async |server: &mut Server, _: &Door| {
        signal("-STOP", server);
        sleep(SECOND).await; // A heartbeat finds it.
    };
    away_and_back(freeze, async |server: &mut Server, _: &Door| signal("-CONT", server)).await;
}

fn signal(what: &str, server: &Server) {
    let sent = Command::new("kill").args([what, &server.pid().to_string()]).status();
    assert!(sent.unwrap().success());
}

#[tokio::test]
async fn many_calls_try_few_connections_while_each_ends_at_the_first_script() {
    let server = Server::start(&[]).await;
    let door = Door::of(&server).await;
    let broker = door.broker(|builder| builder.deadline(20 * SECOND)).await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    let before = door.comers();
    door.set(Way::Greets);
    break_off(&server).await;
    let error = broker.deliver(&message("a", "t", 1)).await.err().unwrap();
    assert!(matches!(error, Error::MaybeApplied(_)), "{error:?}");
    let mut calls = JoinSet::new();
    for _ in 0..500 {
        let queue = queue.clone();
        calls.spawn(async move { queue.stats().await });
    }
    sleep(3 * SECOND).await;
    let tried = door.comers() - before;
    door.set(Way::Open);
    assert!((3..=20).contains(&tried), "{tried} connections");
    for call in calls.join_all().await {
        assert_eq!(call.unwrap().waiting, 0);
    }
}

#[tokio::test]
async fn calls_that_are_given_up_sooner_than_a_connection_is_made_do_not_keep_it_from_being_made() {
    let server = Server::start(&[]).await;
    let door = Door::of(&server).await;
    let broker = door.broker(|builder| builder).await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    let before = door.comers();
    door.set(Way::Slow);
    break_off(&server).await;
    let from = Instant::now();
    while timeout(40 * MS, queue.stats()).await.is_err() {
        assert!(from.elapsed() < 2 * SECOND);
    }
    assert_eq!(door.comers() - before, 1);
}

#[tokio::test]
async fn a_connection_that_is_being_made_by_a_runtime_that_ends_is_made_by_another() {
    let server = Server::start(&[]).await;
    let door = Door::of(&server).await;
    let broker = door.broker(|builder| builder.heartbeat(20 * SECOND)).await;
    let queue = broker.register_queue("q", ".").await.unwrap();
    door.set(Way::Holds);
    break_off(&server).await;
    let begins = queue.clone();
    let other = std::thread::spawn(move || {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async { timeout(50 * MS, begins.stats()).await.is_err() })
    });
    assert!(other.join().unwrap(), "no answer comes");
    door.set(Way::Open);
    let from = Instant::now();
    queue.stats().await.unwrap();
    assert!(from.elapsed() < SECOND, "{:?}", from.elapsed());
}

#[tokio::test]
async fn what_is_refused_on_the_way_back_leaves_in_doubt_what_was_sent_before() {
    let server = Server::start(&["--requirepass", "first"]).await;
    let url = format!("{}?pass=first", server.url());
    let broker: Broker = Broker::builder().redis(&url).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 1).await;
    let delivery = queue.lease().await.unwrap().unwrap();
    let client = redis::Client::open(url).unwrap();
    let mut other = client.get_multiplexed_async_connection().await.unwrap();
    let mut say = async |command: &[&str]| {
        redis::cmd(command[0]).arg(&command[1..]).exec_async(&mut other).await.unwrap();
    };
    say(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    let ack = tokio::spawn(delivery.ack());
    sleep(100 * MS).await;
    say(&["CONFIG", "SET", "requirepass", "second"]).await;
    say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    let error = ack.await.unwrap().err().unwrap();
    assert!(matches!(error, Error::MaybeApplied(_)), "{error:?}");
    let error = queue.stats().await.err().unwrap();
    assert!(matches!(error, Error::Denied(_)), "nothing of it was sent: {error:?}");
}

#[tokio::test]
async fn that_scripts_cannot_be_loaded_again_leaves_in_doubt_what_was_sent_before() {
    let server = Server::start(&[]).await;
    let broker = server.builder().connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    deliver(&broker, "a", 2).await;
    let delivery = queue.lease().await.unwrap().unwrap();
    queue.lease().await.unwrap().unwrap().ack().await.unwrap();
    let mut other = server.client().get_multiplexed_async_connection().await.unwrap();
    let mut say = async |command: &[&str]| {
        redis::cmd(command[0]).arg(&command[1..]).exec_async(&mut other).await.unwrap();
    };
    say(&["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    let ack = tokio::spawn(delivery.ack());
    sleep(100 * MS).await;
    // As after a restart, and as a user who may not load them.
    say(&["SCRIPT", "FLUSH"]).await;
    say(&["ACL", "SETUSER", "default", "-script|load"]).await;
    say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    say(&["CLIENT", "UNPAUSE"]).await;
    let error = ack.await.unwrap().err().unwrap();
    assert!(matches!(error, Error::MaybeApplied(_)), "{error:?}");
    let error = queue.stats().await.err().unwrap();
    assert!(matches!(error, Error::Denied(_)), "nothing of it was sent: {error:?}");
}

#[tokio::test]
async fn while_the_script_of_somebody_else_runs_calls_wait_as_long_as_their_deadline_lasts() {
    let server = Server::start(&["--busy-reply-threshold", "50"]).await;
    let broker = server.builder().connect().await.unwrap();
    let hasty = server.builder().deadline(200 * MS).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    hasty.deliver(&message("a", "t", 0)).await.unwrap();
    let client = server.client();
    let mut other = client.get_multiplexed_async_connection().await.unwrap();
    tokio::spawn(async move {
        let mut endless = redis::cmd("EVAL");
        endless.arg("while true do end").arg(0);
        assert!(endless.exec_async(&mut other).await.is_err());
    });
    let other = client.get_multiplexed_async_connection().await.unwrap();
    until("it runs", async || {
        let answer = redis::cmd("GET").arg("x").exec_async(&mut other.clone()).await;
        answer.is_err_and(|error| error.code() == Some("BUSY"))
    })
    .await;
    let error = hasty.deliver(&message("a", "t", 1)).await.err().unwrap();
    assert!(matches!(&error, Error::Server { code, .. } if code == "BUSY"), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Refused);
    let waiting = {
        let (broker, queue) = (broker.clone(), queue.clone());
        tokio::spawn(async move {
            let message = message("a", "t", 2);
            let (delivered, stats) = tokio::join!(broker.deliver(&message), queue.stats());
            delivered.and(stats)
        })
    };
    sleep(SECOND / 2).await;
    assert!(!waiting.is_finished());
    redis::cmd("SCRIPT").arg("KILL").exec_async(&mut other.clone()).await.unwrap();
    waiting.await.unwrap().unwrap();
    let there = queue.pull_many(9).await.unwrap().into_iter();
    let there: Vec<_> = there.map(|message| message.unwrap()["n"].as_u64().unwrap()).collect();
    assert_eq!(there, [0, 2]);
    assert_eq!((connections(&broker).await, connections(&hasty).await), (1, 1));
}

#[tokio::test]
async fn a_server_that_is_always_slow_is_not_taken_for_silent() {
    let (_server, proxy, broker, queue) = behind_proxy(SECOND).await;
    proxy.delay(300 * MS);
    for quiet in [0, 100, 400, 1500] {
        sleep(quiet * MS).await;
        queue.stats().await.unwrap();
    }
    assert_eq!(connections(&broker).await, 1);
}

#[tokio::test]
async fn a_broker_that_is_dropped_leaves_no_connection_and_no_task() {
    let server = Server::start(&[]).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    until("none is left of the start", async || tasks() == 0).await;
    let broker = server.builder().partitions(2).connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let listener = broker.listen("*").await.unwrap();
    let waited = queue.lease().wait(SECOND / 10).await.unwrap();
    assert!(waited.is_none());
    // Of the calls, of those who wait, and of the listeners; and the one that asks.
    assert_eq!(server.info("connected_clients").await, 2 + 2 + 1 + 1);
    drop((broker, queue, listener));
    until("all are gone", async || server.info("connected_clients").await == 1).await;
    until("all have ended", async || tasks() == 0).await;
}

#[tokio::test]
async fn an_idle_connection_is_asked_once_in_half_a_heartbeat_and_one_in_use_never() {
    let server = Server::start(&[]).await;
    let builder = server.builder().partitions(2).heartbeat(400 * MS);
    let broker = builder.connect().await.unwrap();
    let queue = broker.register_queue("q", ".").await.unwrap();
    let asked = async || server.calls("ping").await;
    let (before, from) = (asked().await, Instant::now());
    sleep(2 * SECOND).await;
    let idle = asked().await - before;
    let most = 2 * (from.elapsed().as_millis() as u64 / 200);
    assert!((most / 2..=most).contains(&idle), "{idle} in place of {most}");
    queue.stats().await.unwrap();
    let before = asked().await;
    for _ in 0..40 {
        queue.stats().await.unwrap();
        sleep(20 * MS).await;
    }
    assert_eq!(asked().await - before, 0);
}
