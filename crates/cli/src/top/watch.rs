//! What `top` asks of Redis, and how often.
//!
//! The number of calls has a bound that does not depend on how many queues and facets there are. In a
//! second these are at most
//! - the list of the queues, once in five seconds;
//! - the counts of 40 queues: the chosen one, up to 30 that are on the screen, the others by turns;
//! - 8 pages of the facets of the chosen queue, two calls each, going round and round through all of
//!   them: about 800 facets;
//! - `why_all` for the facets on the screen, up to 100, and the counts of the chosen queue: as often as
//!   the screen is drawn, which is at most four times a second;
//! - once more 8 pages and those counts, where another queue has just been chosen.
//!
//! That is 1 + 40 + 16 + 8 + 17 = 82 calls; 100 is what is promised. Where the foremost messages of
//! facets are larger than 5 KiB, a page and `why_all` take one more for each 512 KiB of them. So that
//! this has an end too, no page is begun when those before it took longer than 200 ms.
//!
//! Each call is a script, which asks more in turn: INFO commandstats, where that is counted too, grows
//! by some 8,500 a second where a queue has 100,000 facets. That takes 1.6 % of the time of Redis; 1.9 %
//! where the screen is drawn four times a second, and 2.2 % where queues are chosen all the while, too.

use std::{convert::Infallible, future::pending, time::Duration};

use fairlane::{Broker, Cursor, Error, Stats};
use futures_util::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    counted::choose,
    facets::{Look, Reason},
};
use crate::{connect::Body, failure::chain};

/// How many pages of facets are read a second.
const PAGES: usize = 8;
/// After what time no further page is begun.
const PAGES_FOR: Duration = Duration::from_millis(200);
/// How many facets on the screen are asked for: what one call answers.
const ASKED: usize = 100;
const SECOND: Duration = Duration::from_secs(1);
/// After what time without an answer that is told. A call gives up later than that.
const SLOW: Duration = Duration::from_secs(2);
/// How long the list of queues is good for.
const LISTED: Duration = Duration::from_secs(5);

/// What is on the screen.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Wanted {
    /// The chosen queue.
    pub(super) queue: Option<String>,
    pub(super) queues: Vec<String>,
    /// Facets of the chosen queue.
    pub(super) facets: Vec<String>,
}

/// What was found.
#[derive(Debug)]
pub(super) enum News {
    /// The queues that have a route.
    Queues(Vec<String>),
    Stats(String, Stats),
    /// And what is said about it.
    NoSuchQueue(String, String),
    Page {
        queue: String,
        facets: Vec<(String, Look)>,
        /// Whether all were seen, and it begins anew.
        last: bool,
    },
    Why {
        queue: String,
        facets: Vec<(String, Look, Reason)>,
    },
    /// Redis does not answer.
    Trouble(String),
    /// It does.
    Fine,
}

/// Asks, and sends what it finds, with when that was.
pub(super) struct Watch {
    broker: Broker<Body>,
    wanted: watch::Receiver<Wanted>,
    news: mpsc::Sender<(Instant, News)>,
    interval: Duration,
    names: Vec<String>,
    listed: Option<Instant>,
    /// The first of the queues that are next to be counted.
    turn: usize,
    whole: Option<Instant>,
    /// Where the next page begins, of which queue.
    page: Option<(String, Cursor)>,
}

impl Watch {
    pub(super) fn new(
        broker: Broker<Body>,
        wanted: watch::Receiver<Wanted>,
        news: mpsc::Sender<(Instant, News)>,
        interval: Duration,
    ) -> Self {
        let names = Vec::new();
        Self {
            broker,
            wanted,
            news,
            interval,
            names,
            listed: None,
            turn: 0,
            whole: None,
            page: None,
        }
    }

    /// Goes on until nobody wants anything any more.
    pub(super) async fn run(mut self) {
        let mut hurried: Option<Instant> = None;
        let mut hurry = false;
        while !self.news.is_closed() {
            let began = Instant::now();
            let wanted = self.wanted.borrow_and_update().clone();
            let waited = say_that_it_waits(self.news.clone());
            let news = tokio::select! {
                looked = self.look(&wanted, hurry) => match looked {
                    Ok(()) => News::Fine,
                    Err(error) => News::Trouble(chain(&error)),
                },
                never = waited => match never {},
            };
            self.tell(news).await;
            let chosen_anew = async {
                let another = |now: &Wanted| now.queue != wanted.queue;
                let _ = self.wanted.wait_for(another).await; // An error when nobody wants anything.
                sleep_until(hurried.map_or(began, |at| at + SECOND)).await;
            };
            hurry = tokio::select! {
                () = sleep_until(began + self.interval) => false,
                () = chosen_anew => true,
            };
            if hurry {
                hurried = Some(Instant::now());
            }
        }
    }

    /// Looks at what is due. `hurry`: only at a queue that has just been chosen.
    async fn look(&mut self, wanted: &Wanted, hurry: bool) -> Result<(), Error> {
        let whole = !hurry && self.whole.is_none_or(|at| at.elapsed() + SECOND / 20 >= SECOND);
        if whole {
            self.whole = Some(Instant::now());
            if self.listed.is_none_or(|at| at.elapsed() >= LISTED) {
                let routes = self.broker.queues().await?;
                self.listed = Some(Instant::now());
                self.names = routes.into_iter().map(|route| route.queue).collect();
                self.tell(News::Queues(self.names.clone())).await;
            }
        }
        let counted = match whole {
            true => choose(wanted, &self.names, &mut self.turn),
            false => wanted.queue.iter().cloned().collect(),
        };
        self.count(counted).await?;
        let Some(queue) = &wanted.queue else { return Ok(()) };
        if whole || hurry {
            self.pages(queue).await?;
        }
        if !hurry && !wanted.facets.is_empty() {
            let asked = wanted.facets.iter().take(ASKED);
            match self.broker.queue(queue).why_all(asked).await {
                Ok(found) => {
                    let facets = found.iter().map(|why| {
                        (why.stats.facet.clone(), Look::from(&why.stats), Reason::from(why))
                    });
                    let facets = facets.collect();
                    self.tell(News::Why { queue: queue.clone(), facets }).await;
                }
                Err(error) => self.no_such_queue(queue, error).await?,
            }
        }
        Ok(())
    }

    async fn count(&self, queues: Vec<String>) -> Result<(), Error> {
        let counts = queues.into_iter().map(|name| async move {
            let counts = self.broker.queue(&name).stats().await;
            (name, counts)
        });
        for (name, counts) in join_all(counts).await {
            match counts {
                Ok(stats) => self.tell(News::Stats(name, stats)).await,
                Err(error) => self.no_such_queue(&name, error).await?,
            }
        }
        Ok(())
    }

    /// Reads the next pages of facets, not beyond the last one.
    async fn pages(&mut self, queue: &str) -> Result<(), Error> {
        let began = Instant::now();
        let mut from = match self.page.take() {
            Some((name, cursor)) if name == queue => cursor,
            _ => Cursor::default(),
        };
        for _ in 0..PAGES {
            let (facets, next) = match self.broker.queue(queue).facets(from).await {
                Ok(page) => page,
                Err(error) => return self.no_such_queue(queue, error).await,
            };
            let facets = facets.iter().map(|stats| (stats.facet.clone(), stats.into())).collect();
            let last = next.is_none();
            self.tell(News::Page { queue: queue.to_owned(), facets, last }).await;
            let Some(next) = next else { return Ok(()) };
            from = next;
            if began.elapsed() > PAGES_FOR {
                break;
            }
        }
        self.page = Some((queue.to_owned(), from));
        Ok(())
    }

    /// That a queue does not exist is told of it alone. Any other error ends the look.
    async fn no_such_queue(&self, queue: &str, error: Error) -> Result<(), Error> {
        match error {
            Error::NoSuchQueue(_) | Error::Invalid(_) => {
                self.tell(News::NoSuchQueue(queue.to_owned(), chain(&error))).await;
                Ok(())
            }
            error => Err(error),
        }
    }

    async fn tell(&self, news: News) {
        let _ = self.news.send((Instant::now(), news)).await; // Nobody listens when it is to end.
    }
}

/// Says it when answers take so long that what is on the screen is old.
async fn say_that_it_waits(news: mpsc::Sender<(Instant, News)>) -> Infallible {
    sleep(SLOW).await;
    let text = format!("Redis has not answered for {} seconds", SLOW.as_secs());
    let _ = news.send((Instant::now(), News::Trouble(text))).await; // Nobody listens when it is to end.
    pending().await
}
