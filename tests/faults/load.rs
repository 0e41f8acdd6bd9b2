//! A load under which something fails, and what is seen in the end.

use std::{
    env,
    fs::File,
    io::Write,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use fairlane::{Backoff, Broker, BrokerBuilder, Cursor, Queue, Replicas};
use tempfile::TempDir;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    check::{Excused, Verdict, check},
    record::{Entry, Event, Record},
    work::{self, Kind, LEASED, PULLED},
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// Whether it is the long form of the battery.
pub(crate) fn soaks() -> bool {
    env::var_os("FAIRLANE_SOAK").is_some()
}

/// How long a scenario has something fail.
pub(crate) fn long() -> Duration {
    if soaks() { 60 * SECOND } else { 4 * SECOND }
}

/// A way to make brokers.
type Make = Arc<dyn Fn() -> BrokerBuilder + Send + Sync>;

/// What is there when a scenario begins, and what happens in it.
pub(crate) struct Load {
    make: Make,
    /// With brokers of this kind the load is done; in the end nothing is changed any more.
    changed: Make,
    pub(crate) record: Arc<Record>,
    /// Ends the deliverers.
    pub(crate) delivered: CancellationToken,
    /// Where other processes record.
    pub(crate) dir: TempDir,
    pub(crate) deliverers: u32,
    pub(crate) workers: u32,
    /// How many replicas have to have what is delivered.
    pub(crate) replicas: Option<Replicas>,
    /// What is done with messages.
    pub(crate) kind: Kind,
    /// Scenarios measure time: not all at once.
    turn: SemaphorePermit<'static>,
}

impl Load {
    /// Two deliverers, two workers, two who do by hand what those do, and one who pulls.
    pub(crate) async fn on(make: impl Fn() -> BrokerBuilder + Send + Sync + 'static) -> Self {
        static TURNS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(2));
        let turn = TURNS.acquire().await.unwrap();
        let make: Make = Arc::new(make);
        let load = Self {
            changed: make.clone(),
            make,
            record: Arc::new(Record::new()),
            delivered: CancellationToken::new(),
            dir: tempfile::tempdir().unwrap(),
            deliverers: 2,
            workers: 2,
            replicas: None,
            kind: Kind::Mixed,
            turn,
        };
        let broker = load.connect(&load.make).await;
        let queues = [(LEASED, "^leased$"), (PULLED, "^pulled$")];
        for (name, pattern) in queues {
            let queue = broker.register_queue(name, pattern).await.unwrap();
            let backoff = Backoff { first: 20 * MS, longest: 200 * MS };
            queue.configure(|queue| queue.backoff = backoff).await.unwrap();
        }
        load
    }

    /// Does the load with brokers that are changed.
    pub(crate) fn changed(
        mut self,
        change: impl Fn(BrokerBuilder) -> BrokerBuilder + Send + Sync + 'static,
    ) -> Self {
        let make = self.make.clone();
        self.changed = Arc::new(move || change(make()));
        self
    }

    /// A broker as those who are at work have it. Redis may be away when it is made.
    pub(crate) async fn broker(&self) -> Broker {
        self.connect(&self.changed).await
    }

    async fn connect(&self, make: &Make) -> Broker {
        let end = Instant::now() + 30 * SECOND;
        loop {
            match make().deadline(SECOND).connect().await {
                Ok(broker) => return broker,
                Err(error) if Instant::now() > end => panic!("no broker for the load: {error:?}"),
                Err(_) => sleep(10 * MS).await,
            }
        }
    }

    /// Lets everybody work while the fault goes on, and a little longer, until the queues are empty.
    pub(crate) async fn during(self, fault: impl AsyncFnOnce(&Self)) -> Told {
        let working = CancellationToken::new();
        let (mut deliverers, mut workers) = (JoinSet::new(), JoinSet::new());
        for number in 0..self.deliverers {
            let (broker, record) = (self.broker().await, self.record.clone());
            deliverers.spawn(work::deliver(
                broker,
                record,
                number,
                self.replicas,
                self.delivered.clone(),
            ));
        }
        for _ in 0..self.workers {
            let (broker, record, kind) = (self.broker().await, &self.record, self.kind);
            workers.spawn(work::work(broker.clone(), record.clone(), kind, working.clone()));
            workers.spawn(work::work_by_hand(broker, record.clone(), kind, working.clone()));
        }
        workers.spawn(work::pull(self.broker().await, self.record.clone(), working.clone()));
        fault(&self).await;
        self.delivered.cancel();
        ended(deliverers).await;
        self.caught_up().await;
        working.cancel();
        ended(workers).await;
        self.told().await
    }

    /// Waits a while for those at work to have everything in hand: whether they do is for the record to
    /// say.
    pub(crate) async fn caught_up(&self) {
        let broker = self.connect(&self.make).await;
        for _ in 0..500 {
            let mut waiting = 0;
            for name in [LEASED, PULLED] {
                waiting += broker.queue(name).stats().await.unwrap().waiting;
            }
            if waiting == 0 {
                return;
            }
            sleep(10 * MS).await;
        }
    }

    /// Serves what is left with brokers that nothing is wrong with, and looks at what is there then.
    pub(crate) async fn told(self) -> Told {
        let broker = self.connect(&self.make).await;
        let mut left = Vec::new();
        for name in [LEASED, PULLED] {
            let queue = broker.queue(name);
            self.empty(&queue, &mut left).await;
            left.extend(uncounted(&queue).await);
            let findings = queue.doctor().await.unwrap();
            left.extend(
                findings.iter().map(|finding| format!("queue {name} is not sound: {finding:?}")),
            );
            let mut from = Some(Cursor::default());
            while let Some(cursor) = from {
                let (letters, next) = queue.dead_letters().page(cursor).await.unwrap();
                for letter in letters {
                    let n = letter.message.unwrap()["n"].as_u64().unwrap();
                    self.record.note(Event::Dead { n });
                }
                from = next;
            }
        }
        let history = self.record.take_history(self.dir.path());
        Told { history, left, _turn: self.turn }
    }

    /// Serves a queue until nothing is on it, leased or delayed either.
    async fn empty(&self, queue: &Queue, left: &mut Vec<String>) {
        let end = Instant::now() + 60 * SECOND;
        loop {
            match queue.name() {
                PULLED => {
                    for message in queue.pull_many(1000).await.unwrap() {
                        let n = message.unwrap()["n"].as_u64().unwrap();
                        self.record.note(Event::Pulled { n });
                    }
                }
                _ => {
                    let never = CancellationToken::new();
                    let worker = work::worker(queue, &self.record, self.kind, &never);
                    worker.concurrency(100).run_until_empty().await.unwrap();
                }
            }
            let stats = queue.stats().await.unwrap();
            if stats.waiting + stats.leased + stats.delayed == 0 {
                return;
            } else if Instant::now() > end {
                return left
                    .push(format!("queue {} does not become empty: {stats:?}", queue.name()));
            }
            sleep(20 * MS).await;
        }
    }
}

/// What came on a queue that is empty now, and has not left it in one of the ways that it counts.
async fn uncounted(queue: &Queue) -> Option<String> {
    let stats = queue.stats().await.unwrap();
    let left = if queue.name() == PULLED { stats.served } else { stats.acked + stats.dead };
    let is = stats.delivered == left;
    (!is).then(|| format!("queue {} counts more or less than it had: {stats:?}", queue.name()))
}

/// Waits for all of them. One that panics has found something that nobody expects.
async fn ended(mut tasks: JoinSet<()>) {
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

/// A scenario that is over.
pub(crate) struct Told {
    pub(crate) history: Vec<Entry>,
    /// What should not be there in the end.
    left: Vec<String>,
    _turn: SemaphorePermit<'static>,
}

impl Told {
    /// What the record shows.
    pub(crate) fn verdict(&self, excused: &Excused) -> Verdict {
        let mut verdict = check(&self.history, excused);
        verdict.breaches.extend(self.left.iter().cloned());
        verdict
    }

    /// Prints the line of a fault, and checks that all is as it is promised.
    #[track_caller]
    pub(crate) fn holds(&self, fault: &str, excused: &Excused) -> Verdict {
        let verdict = self.verdict(excused);
        let row = format!("| {fault} | {verdict} |\n");
        print!("{row}");
        if let Some(table) = env::var_os("FAIRLANE_FAULTS_TABLE") {
            let mut table = File::options().create(true).append(true).open(table).unwrap();
            table.write_all(row.as_bytes()).unwrap();
        }
        let some = &verdict.breaches[..verdict.breaches.len().min(20)];
        assert!(
            some.is_empty(),
            "{} promises are broken, among them: {some:#?}",
            verdict.breaches.len()
        );
        assert!(verdict.served > 100, "that is no load: {verdict:?}");
        verdict
    }
}
