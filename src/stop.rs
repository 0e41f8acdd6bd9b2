//! What tells a worker to stop: a token, and the signals of the operating system.

use std::future::pending;

use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Hears of it, each time.
#[derive(Debug)]
pub(crate) struct Stop {
    /// None once it has been heard: it stays cancelled.
    token: Option<CancellationToken>,
    signals: Option<Signals>,
    /// Whether there was a signal.
    signalled: bool,
}

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is to stop.
    Stop,
    /// A second signal: it is to end at once. The token is none, since often it is cancelled for the
    /// signal that was heard here, too.
    End,
}

impl Stop {
    pub(crate) fn new(token: &CancellationToken, signals: bool) -> Self {
        let signals = signals.then(Signals::new).transpose().unwrap_or_else(|error| {
            warn!(target: "fairlane", %error, "signals cannot be heard here, and stop no worker");
            None
        });
        Self { token: Some(token.clone()), signals, signalled: false }
    }

    /// Waits for the next time.
    pub(crate) async fn requested(&mut self) -> Heard {
        let Self { token, signals, signalled } = self;
        let cancelled = async {
            match token {
                Some(token) => token.cancelled().await,
                None => pending().await,
            }
        };
        let next = async {
            match signals {
                Some(signals) => signals.next().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = cancelled => {
                self.token = None;
                Heard::Stop
            }
            () = next => match std::mem::replace(signalled, true) {
                false => Heard::Stop,
                true => Heard::End,
            }
        }
    }
}

/// SIGTERM and SIGINT.
#[cfg(unix)]
#[derive(Debug)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt })
    }

    async fn next(&mut self) {
        let heard = tokio::select! {
            heard = self.terminate.recv() => heard,
            heard = self.interrupt.recv() => heard,
        };
        if heard.is_none() {
            pending().await // The runtime ends.
        }
    }
}

/// Ctrl-C.
#[cfg(not(unix))]
#[derive(Debug)]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            pending().await // They cannot be heard here.
        }
    }
}
