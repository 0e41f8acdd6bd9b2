//! A way to a server that can be made to fail.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fairlane::{Broker, BrokerBuilder};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::Server;

/// A way to a server that can be made to fail. It looks for the calls of scripts among what passes.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<ProxyState>,
}

/// No end to what passes.
const ALL: u64 = u64::MAX;

struct ProxyState {
    connections: AtomicU64,
    scripts: AtomicU64,
    /// The connection on which this script is called ends when its answer comes; 0 for none.
    cut: AtomicU64,
    /// Connections up to this one give no answer any more.
    silent: AtomicU64,
    /// The next script is answered in place of the server.
    answer: Mutex<Option<&'static [u8]>>,
    delay_ms: AtomicU64,
    /// What is there ends, and what comes is turned away.
    refuses: AtomicBool,
    /// From this script on, which is not passed on; 0 for none.
    refuses_from: AtomicU64,
    /// Nothing passes, in either direction.
    stalls: AtomicBool,
    /// How many bytes pass before a connection ends, of all connections together.
    bytes: AtomicU64,
    /// Connections up to this one are reset.
    reset: AtomicU64,
}

impl Default for ProxyState {
    fn default() -> Self {
        Self {
            connections: AtomicU64::new(0),
            scripts: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            silent: AtomicU64::new(0),
            answer: Mutex::default(),
            delay_ms: AtomicU64::new(0),
            refuses: AtomicBool::new(false),
            refuses_from: AtomicU64::new(0),
            stalls: AtomicBool::new(false),
            bytes: AtomicU64::new(ALL),
            reset: AtomicU64::new(0),
        }
    }
}

impl Proxy {
    pub(crate) async fn to(server: &Server) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (socket, state) = (server.socket(), Arc::new(ProxyState::default()));
        tokio::spawn({
            let state = state.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    if state.refuses.load(Ordering::SeqCst) {
                        continue;
                    }
                    let server = UnixStream::connect(&socket).await.unwrap();
                    tokio::spawn(state.clone().pass(client, server));
                }
            }
        });
        Self { port, state }
    }

    pub(crate) fn builder(&self) -> BrokerBuilder {
        <Broker>::builder().redis(format!("redis://127.0.0.1:{}", self.port))
    }

    /// How many scripts were called.
    pub(crate) fn scripts(&self) -> u64 {
        self.state.scripts.load(Ordering::SeqCst)
    }

    /// Lets the server carry out the nth script from now, and loses its answer and the connection.
    pub(crate) fn cut(&self, nth: u64) {
        self.state.cut.store(self.scripts() + nth, Ordering::SeqCst);
    }

    /// Loses all answers on the connections there are, which stay open.
    pub(crate) fn silence(&self) {
        self.state.silent.store(self.state.connections.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Answers the next script in place of the server.
    pub(crate) fn answer(&self, answer: &'static [u8]) {
        *self.state.answer.lock().unwrap() = Some(answer);
    }

    /// Ends the connections there are and turns away those that come, or no longer does.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.state.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Refuses from the nth script from now on: the server gets neither that nor what comes behind it.
    pub(crate) fn refuse_from(&self, nth: u64) {
        self.state.refuses_from.store(self.scripts() + nth, Ordering::SeqCst);
    }

    pub(crate) fn delay(&self, answers: Duration) {
        self.state.delay_ms.store(answers.as_millis() as u64, Ordering::SeqCst);
    }

    /// Lets nothing pass, in either direction, or passes on what has come meanwhile.
    pub(crate) fn stall(&self, stalls: bool) {
        self.state.stalls.store(stalls, Ordering::SeqCst);
    }

    /// Lets so many bytes pass from now, of both directions together, and ends the connection on
    /// which the next ones would: in the middle of a command or of an answer.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.state.bytes.store(bytes, Ordering::SeqCst);
    }

    /// Ends the connections there are as a crashed machine would that is back: with RST, and what
    /// was on its way is lost.
    pub(crate) fn reset(&self) {
        self.state.reset.store(self.state.connections.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

impl ProxyState {
    async fn pass(self: Arc<Self>, mut client: TcpStream, mut server: UnixStream) {
        let number = self.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut cut = false;
        loop {
            if number <= self.reset.load(Ordering::SeqCst) {
                let _ = client.set_zero_linger();
                return;
            }
            if self.refuses.load(Ordering::SeqCst) {
                return;
            }
            if self.stalls.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
                read = client.read(&mut asked) => {
                    let Ok(read @ 1..) = read else { return };
                    let scripts = asked[..read].windows(7).filter(|word| *word == b"EVALSHA").count() as u64;
                    let before = self.scripts.fetch_add(scripts, Ordering::SeqCst);
                    let from = self.refuses_from.load(Ordering::SeqCst);
                    if (before + 1..=before + scripts).contains(&from) {
                        self.refuses.store(true, Ordering::SeqCst);
                        return;
                    }
                    let nth = self.cut.load(Ordering::SeqCst);
                    cut |= (before + 1..=before + scripts).contains(&nth);
                    let answer = if scripts > 0 { self.answer.lock().unwrap().take() } else { None };
                    let passes = self.passes(read);
                    let sent = match answer {
                        Some(answer) => client.write_all(answer).await,
                        None => server.write_all(&asked[..passes]).await,
                    };
                    if sent.is_err() || passes < read {
                        return;
                    }
                }
                read = server.read(&mut answered) => {
                    let Ok(read @ 1..) = read else { return };
                    if cut {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(self.delay_ms.load(Ordering::SeqCst))).await;
                    let passes = self.passes(read);
                    if number > self.silent.load(Ordering::SeqCst)
                        && client.write_all(&answered[..passes]).await.is_err()
                        || passes < read
                    {
                        return;
                    }
                }
            }
        }
    }

    /// How many of so many bytes pass. When that is not all of them, the connection ends.
    fn passes(&self, bytes: usize) -> usize {
        let bytes = bytes as u64;
        let left = |left: u64| match left {
            ALL => None,
            left if left < bytes => Some(ALL),
            left => Some(left - bytes),
        };
        let before = self.bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        before.map_or(bytes, |before| before.min(bytes)) as usize
    }
}
