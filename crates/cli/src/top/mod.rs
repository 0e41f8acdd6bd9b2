//! `fairlane top`

mod chart;
mod columns;
mod counted;
mod facets;
mod keys;
mod model;
mod panels;
mod screen;
mod text;
mod theme;
mod view;
mod watch;

use std::{
    io::{self, IsTerminal},
    time::{Duration, SystemTime},
};

use clap::Args;
use crossterm::event::{Event, EventStream};
use fairlane::{Broker, Error};
use futures_util::StreamExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch as latest},
    time::Instant,
};

use self::{
    keys::{Action, press},
    model::Model,
    text::shown,
    theme::Theme,
    view::View,
    watch::{News, Wanted, Watch},
};
use crate::{
    connect::{Body, Connect},
    failure::{Failure, chain},
    output::Output,
};

/// Shows queues and facets live: who waits, who is served, and what keeps the others
///
/// It makes at most 100 calls a second, whatever the number of queues and facets, which take Redis
/// about 2 % of its time with 100,000 facets: of many queues it counts 40 a second, of many facets it
/// reads 800 a second, by turns, and keeps the 1,000 that have the most waiting. What is on the screen
/// is asked for each time. (Messages larger than 5 KiB take more: one for each 512 KiB of those that
/// are next.)
///
/// ? lists the keys. NO_COLOR turns colours off.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// The queue whose facets are shown first [default: the first one]
    queue: Option<String>,
    /// How often the screen is drawn anew, 250ms to 60s
    #[arg(long, default_value = "1s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_millis(250)..=Duration::from_secs(60);
    if range.contains(&time) { Ok(time) } else { Err("250ms to 60s is allowed".into()) }
}

impl Top {
    pub(crate) async fn run(self, connect: &Connect, output: &Output) -> Result<(), Failure> {
        if output.json || !io::stdout().is_terminal() {
            let text = "`top` draws on a terminal: for programs there is `stats --json`";
            return Err(Failure::usage(text));
        }
        let broker = connect.broker().await?;
        let (wanted, of_screen) = latest::channel(Wanted::default());
        let (found, news) = mpsc::channel(256);
        let (did, done) = mpsc::channel(16);
        let mut screen = Screen {
            model: Model::new(self.queue),
            view: View::new(),
            theme: Theme { colours: std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()) },
            began: Instant::now(),
            broker: broker.clone(),
            did,
        };
        screen.view.order(&mut screen.model);
        wanted.send_replace(screen.view.wanted(&screen.model));
        tokio::spawn(Watch::new(broker, of_screen, found, self.interval).run());
        let terminal = Terminal::take()?;
        screen.show(terminal, wanted, news, done).await
    }
}

/// The terminal, which is given back as it was: when this ends, and when the program panics.
struct Terminal(ratatui::DefaultTerminal);

impl Terminal {
    fn take() -> Result<Self, Failure> {
        ratatui::try_init().map(Self).map_err(unusable)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = ratatui::try_restore(); // It may be gone.
    }
}

fn unusable(error: io::Error) -> Failure {
    Failure::refused(format!("the terminal cannot be used: {error}"))
}

struct Screen {
    model: Model,
    view: View,
    theme: Theme,
    began: Instant,
    broker: Broker<Body>,
    /// Where it is told what came of a pause.
    did: mpsc::Sender<(String, bool)>,
}

impl Screen {
    /// Draws, and hears keys and news, until somebody ends it.
    async fn show(
        mut self,
        mut terminal: Terminal,
        wanted: latest::Sender<Wanted>,
        mut news: mpsc::Receiver<(Instant, News)>,
        mut done: mpsc::Receiver<(String, bool)>,
    ) -> Result<(), Failure> {
        let mut events = EventStream::new();
        let mut interrupted = signal(SignalKind::interrupt()).map_err(unusable)?;
        let mut terminated = signal(SignalKind::terminate()).map_err(unusable)?;
        let mut hung_up = signal(SignalKind::hangup()).map_err(unusable)?;
        loop {
            self.model.now = self.began.elapsed();
            self.model.clock = SystemTime::now();
            self.view.order(&mut self.model);
            let draw = |frame: &mut ratatui::Frame<'_>| {
                screen::draw(frame, &self.model, &mut self.view, self.theme);
            };
            terminal.0.draw(draw).map_err(unusable)?;
            let now = self.view.wanted(&self.model);
            wanted.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(Event::Key(key))) => {
                        let action = press(&mut self.view, self.model.queue.as_deref(), key);
                        if action == Action::Quit {
                            return Ok(());
                        }
                        self.act(action);
                    }
                    Some(Ok(_)) => {} // Of another size, it is drawn anew.
                    Some(Err(error)) => return Err(unusable(error)),
                    None => return Ok(()),
                },
                found = news.recv() => match found {
                    Some(found) => {
                        self.learn(found);
                        while let Ok(more) = news.try_recv() {
                            self.learn(more);
                        }
                    }
                    None => return Err(Failure::refused("what asks Redis has ended")),
                },
                Some(said) = done.recv() => self.view.said = Some(said),
                _ = interrupted.recv() => return Ok(()),
                _ = terminated.recv() => return Ok(()),
                _ = hung_up.recv() => return Ok(()),
            }
        }
    }

    fn learn(&mut self, (at, news): (Instant, News)) {
        let view = &self.view;
        self.model.learn(at - self.began, news, |facet| view.wants(facet));
    }

    /// Does what was asked for, while the screen goes on.
    fn act(&self, action: Action) {
        let Action::Pause { queue, facet, pause } = action else { return };
        let (broker, did) = (self.broker.clone(), self.did.clone());
        tokio::spawn(async move {
            let done = set_paused(&broker, &queue, facet.as_deref(), pause).await;
            let what = shown(facet.as_deref().unwrap_or(&queue));
            let said = match done {
                Ok(()) if pause => (format!("paused {what}; r resumes it"), false),
                Ok(()) => (format!("resumed {what}"), false),
                Err(error) => (format!("{what}: {}", chain(&error)), true),
            };
            let _ = did.send(said).await; // It has ended meanwhile.
        });
    }
}

async fn set_paused(
    broker: &Broker<Body>,
    queue: &str,
    facet: Option<&str>,
    pause: bool,
) -> Result<(), Error> {
    let queue = broker.queue(queue);
    match (facet.map(|facet| queue.facet(facet)), pause) {
        (Some(facet), true) => facet.pause().await,
        (Some(facet), false) => facet.resume().await,
        (None, true) => queue.pause().await,
        (None, false) => queue.resume().await,
    }
}

#[cfg(test)]
mod tests;
