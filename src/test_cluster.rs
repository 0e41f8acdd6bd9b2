//! A Redis Cluster for tests, whose nodes can be killed and frozen and whose slots can be moved.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use redis::Cmd;
use tokio::time::sleep;

use crate::{
    Invalid,
    embedded::{lock, not_started, owned, program, shell, temporary},
    error::Result,
    opaque_debug,
    test_node::{Common, Node, command, free_ports},
};

const SLOTS: usize = 16384;
/// How long is waited for what a cluster does by itself.
const WAIT: Duration = Duration::from_secs(30);
/// How long is waited for a failover that was asked for: Redis gives up after 5 seconds.
const FAILOVER: Duration = Duration::from_secs(6);
/// How often other ports are tried.
const TRIES: usize = 5;
/// How many keys are moved at a time.
const BATCH: usize = 100;

/// Removes the directory when the last has ended who could write to this pipe: the owner, and the shells of
/// the nodes. Only what has a name that is known to be ours goes with it.
const REMOVER: &str = r#"
cat >>fairlane.log
rm -rf node-[0-9] node-[0-9][0-9]
rm -f fairlane.log
cd / && rmdir "$0"
"#;

/// A private Redis Cluster for tests, whose nodes can be killed and frozen, and whose slots can be moved.
///
/// The nodes have numbers: first come the primaries, then their replicas, in turns (with three primaries, the
/// nodes 3 and 6 are replicas of node 0). They keep these numbers, whatever becomes of their roles. The slots
/// are spread evenly, in the order of the primaries. A node that the others do not hear of for a second is
/// taken for dead, and a replica takes its place within about two seconds.
///
/// It is there after some two seconds: for so long a new primary takes no commands. The server program is
/// found as [`embedded`](crate::BrokerBuilder::embedded) finds it. The nodes listen on free ports of the
/// loopback interface, without a password. They run in a temporary directory that only this user can enter,
/// and end with this, or with the process however that ends; then the directory is removed.
///
/// ```
/// use fairlane::testing::TestCluster;
///
/// # #[tokio::main] async fn main() -> fairlane::Result<()> {
/// let cluster = TestCluster::start_with_replicas(3, 1).await?;
/// let primary = cluster.primary_of(7).await?;
/// let replica = cluster.replica_of(primary).await;
/// cluster.kill(primary).await?;
/// cluster.agreed().await?; // a failover
/// assert_eq!(Some(cluster.primary_of(7).await?), replica);
/// # Ok(()) }
/// ```
pub struct TestCluster {
    nodes: Vec<Node>,
    /// The name that each node has in the cluster.
    ids: Vec<String>,
    common: Common,
}

opaque_debug!(TestCluster);

impl TestCluster {
    /// Starts a cluster of primaries alone, from 1 to 16.
    ///
    /// # Errors
    /// As [`start_with_replicas`](Self::start_with_replicas).
    pub async fn start(primaries: usize) -> Result<Self> {
        Self::start_with_replicas(primaries, 0).await
    }

    /// Starts a cluster of 1 to 16 primaries with 0 to 2 replicas each, and waits until all nodes have
    /// [agreed](Self::agreed).
    ///
    /// # Errors
    /// [`Invalid`](crate::Error::Invalid) for other numbers; [`NoServer`](crate::Error::NoServer) where no
    /// server program is found, and [`NotStarted`](crate::Error::NotStarted) when it does not run or makes no
    /// cluster.
    pub async fn start_with_replicas(primaries: usize, replicas: usize) -> Result<Self> {
        if !(1..=16).contains(&primaries) {
            let what = "number of primaries";
            return Err(Invalid::OutOfRange { what, range: "1 to 16" }.into());
        }
        if replicas > 2 {
            let what = "number of replicas";
            return Err(Invalid::OutOfRange { what, range: "0 to 2" }.into());
        }
        let mut tries = 0;
        loop {
            let mut cluster = Self::prepare(primaries * (1 + replicas)).await?;
            let launched = join_all(cluster.nodes.iter().map(|node| node.launch(&cluster.common)));
            match launched.await.into_iter().collect::<Result<()>>() {
                Ok(()) => {
                    cluster.form(primaries).await?;
                    return Ok(cluster);
                }
                // Somebody was faster on one of the ports.
                Err(_) if tries < TRIES && cluster.nodes.iter().any(Node::is_displaced) => {
                    tries += 1
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Directories and ports for that many nodes.
    async fn prepare(count: usize) -> Result<Self> {
        let program = program().await?;
        let (dir, _) = temporary()?;
        let log = lock(&dir).await?;
        let failed = |error| not_started(&dir, error);
        let (held, _) = owned(shell(REMOVER, &dir)).map_err(failed)?;
        let common = Common { program, dir: dir.clone(), log, held: held.into() };
        let ports = free_ports(2 * count);
        let nodes = ports.chunks_exact(2).enumerate();
        let nodes = nodes.map(|(number, ports)| Node::new(&common, number, ports[0], ports[1]));
        let nodes = nodes.collect::<Result<_, _>>().map_err(failed)?;
        Ok(Self { nodes, ids: Vec::new(), common })
    }

    /// Makes a cluster of the nodes.
    async fn form(&mut self, primaries: usize) -> Result<()> {
        for (number, node) in self.nodes.iter().enumerate() {
            self.ids.push(node.run(&command("CLUSTER MYID")).await?);
            if number < primaries {
                let epoch = format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1);
                node.run::<()>(&command(&epoch)).await?;
                let (first, next) = (number * SLOTS / primaries, (number + 1) * SLOTS / primaries);
                let slots = format!("CLUSTER ADDSLOTSRANGE {first} {}", next - 1);
                node.run::<()>(&command(&slots)).await?;
            }
        }
        // Each is told of each, which is faster than what they tell each other.
        for (number, node) in self.nodes.iter().enumerate() {
            for Node { port, bus, .. } in &self.nodes[..number] {
                let meet = format!("CLUSTER MEET 127.0.0.1 {port} {bus}");
                node.run::<()>(&command(&meet)).await?;
            }
        }
        for number in primaries..self.nodes.len() {
            let primary = &self.ids[number % primaries];
            let replicate = command(&format!("CLUSTER REPLICATE {primary}"));
            // That is refused until it knows its primary.
            let known = || async { self.nodes[number].run::<()>(&replicate).await.ok() };
            self.until(WAIT, "a replica knows its primary", known).await?;
        }
        self.agreed().await
    }

    /// Waits until something is so, which is tried again and again.
    async fn until<T, F>(&self, limit: Duration, what: &str, is: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Option<T>>,
    {
        let end = Instant::now() + limit;
        loop {
            if let Some(result) = is().await {
                return Ok(result);
            }
            if Instant::now() > end {
                let why = format!("it did not come to be that {what}");
                return Err(not_started(&self.common.dir, why));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all nodes that run and are not frozen find the cluster well, are in touch with each other,
    /// and have the same picture of it; replicas have then all that their primaries had.
    ///
    /// # Errors
    /// [`NotStarted`](crate::Error::NotStarted) after 30 seconds; so too when slots have no primary that runs.
    pub async fn agreed(&self) -> Result<()> {
        let agree = || async {
            let running = || self.nodes().filter(|&node| self.nodes[node].runs());
            let pictures = join_all(running().map(|node| self.nodes[node].picture())).await;
            let mut ids: Vec<_> = running().map(|node| &self.ids[node]).collect();
            ids.sort();
            let first = pictures.first()?.as_ref()?;
            let same = pictures.iter().all(|picture| picture.as_ref() == Some(first));
            (same && first.keys().eq(ids)).then_some(())
        };
        self.until(WAIT, "all nodes that run agree on the cluster", agree).await
    }

    /// Where the cluster is: `redis-cluster://127.0.0.1:7001,127.0.0.1:7002`, with all its nodes.
    pub fn url(&self) -> String {
        let nodes = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
        format!("redis-cluster://{}", nodes.collect::<Vec<_>>().join(","))
    }

    /// The numbers of all nodes. All other methods panic when they are given another one.
    pub fn nodes(&self) -> Range<usize> {
        0..self.nodes.len()
    }

    /// The port on which a node serves clients, which stays the same.
    pub fn port(&self, node: usize) -> u16 {
        self.nodes[node].port
    }

    /// The id of the process of a node, frozen or not; none if it was killed.
    pub fn pid(&self, node: usize) -> Option<u32> {
        self.nodes[node].pid()
    }

    /// Whether a node takes itself for a primary; not so if it does not answer within half a second.
    pub async fn is_primary(&self, node: usize) -> bool {
        self.nodes[node].itself().await.is_some_and(|itself| itself.has("master"))
    }

    /// Ends a node with SIGKILL, as a crash would, and waits until it has ended. It keeps what it had.
    ///
    /// # Errors
    /// [`NotStarted`](crate::Error::NotStarted) when it cannot be ended.
    pub async fn kill(&self, node: usize) -> Result<()> {
        self.nodes[node].kill().await
    }

    /// Starts a node that was killed, with its data and on its port, and waits until it answers; not until
    /// the others have [agreed](Self::agreed) on it.
    ///
    /// # Errors
    /// [`NotStarted`](crate::Error::NotStarted) when it does not run.
    ///
    /// # Panics
    /// When it runs.
    pub async fn launch(&self, node: usize) -> Result<()> {
        assert!(self.pid(node).is_none(), "node {node} runs");
        self.nodes[node].launch(&self.common).await
    }

    /// Stops a node where it is (SIGSTOP): its connections stay open, and it does not answer.
    ///
    /// # Errors
    /// [`NotStarted`](crate::Error::NotStarted) when it cannot be stopped.
    pub fn freeze(&self, node: usize) -> Result<()> {
        self.nodes[node].freeze(true)
    }

    /// Lets a node that was frozen go on (SIGCONT).
    ///
    /// # Errors
    /// [`NotStarted`](crate::Error::NotStarted) when it cannot go on.
    pub fn thaw(&self, node: usize) -> Result<()> {
        self.nodes[node].freeze(false)
    }

    /// The primary that has a slot, of 0 to 16383. While none that runs has it, a failover is waited for.
    ///
    /// # Errors
    /// [`NotStarted`](crate::Error::NotStarted) when it has none after 30 seconds.
    pub async fn primary_of(&self, slot: u16) -> Result<usize> {
        let owner = || async {
            let all = join_all(self.nodes.iter().map(Node::itself)).await;
            let all = all.into_iter().enumerate();
            let all = all.filter_map(|(node, itself)| Some((node, itself?)));
            // One that was away may not know yet that it has lost it.
            let claims = all.filter(|(_, itself)| itself.owns(slot));
            claims.max_by_key(|(_, itself)| itself.epoch).map(|(node, _)| node)
        };
        self.until(WAIT, "the slot has a primary", owner).await
    }

    /// The first of the replicas of a node; none if none that answers is one.
    pub async fn replica_of(&self, node: usize) -> Option<usize> {
        let all = join_all(self.nodes.iter().map(Node::itself)).await;
        let id = Some(&self.ids[node]);
        all.iter()
            .position(|itself| itself.as_ref().is_some_and(|itself| itself.primary.as_ref() == id))
    }

    /// Has a replica of a primary take its place, without loss, and waits until all have
    /// [agreed](Self::agreed) on that. Returns the new primary.
    ///
    /// # Errors
    /// [`NotStarted`](crate::Error::NotStarted) when it does not come to that, and as
    /// [`begin_move`](Self::begin_move).
    ///
    /// # Panics
    /// When the primary has no replica.
    pub async fn fail_over(&self, primary: usize) -> Result<usize> {
        let replica = self.replica_of(primary).await;
        let Some(replica) = replica else { panic!("node {primary} has no replica") };
        let end = Instant::now() + WAIT;
        loop {
            self.nodes[replica].run::<()>(&command("CLUSTER FAILOVER")).await?;
            let leads = || async { self.is_primary(replica).await.then_some(()) };
            match self.until(FAILOVER, "a replica takes the place of its primary", leads).await {
                Ok(()) => break,
                Err(_) if Instant::now() < end => {}
                Err(error) => return Err(error),
            }
        }
        self.agreed().await.map(|()| replica)
    }

    /// Moves a slot with all its keys to another primary, and waits until all have [agreed](Self::agreed) on
    /// that. Does nothing if it is there.
    ///
    /// # Errors
    /// As [`begin_move`](Self::begin_move) and [`SlotMove::end`].
    pub async fn move_slot(&self, slot: u16, to: usize) -> Result<()> {
        if self.primary_of(slot).await? == to {
            return Ok(());
        }
        self.begin_move(slot, to).await?.end().await
    }

    /// Begins to move a slot to another primary: from now on, the old one answers ASK for keys of the slot
    /// that it does not have. So it stays until [`end`](SlotMove::end), also when this is dropped.
    ///
    /// # Errors
    /// What a node refuses ([`Server`](crate::Error::Server)), as when the slot is there already; and
    /// [`NotStarted`](crate::Error::NotStarted) when the slot has no primary.
    pub async fn begin_move(&self, slot: u16, to: usize) -> Result<SlotMove<'_>> {
        let from = self.primary_of(slot).await?;
        let slot_move = SlotMove { cluster: self, slot, from, to };
        slot_move.set(to, "IMPORTING", from).await?;
        slot_move.set(from, "MIGRATING", to).await?;
        Ok(slot_move)
    }
}

/// A slot that is on its way from one primary to another.
#[must_use = "the slot stays half-way until `end`"]
#[derive(Debug)]
pub struct SlotMove<'a> {
    cluster: &'a TestCluster,
    slot: u16,
    from: usize,
    to: usize,
}

impl SlotMove<'_> {
    /// Moves keys that the old primary still has, at most `most` and at most 100. Returns how many; 0 when it
    /// has none.
    ///
    /// # Errors
    /// What a node refuses ([`Server`](crate::Error::Server)), and
    /// [`MaybeApplied`](crate::Error::MaybeApplied) when it does not answer.
    pub async fn keys(&self, most: usize) -> Result<usize> {
        let (from, to) = (&self.cluster.nodes[self.from], &self.cluster.nodes[self.to]);
        let list = format!("CLUSTER GETKEYSINSLOT {} {}", self.slot, most.min(BATCH));
        let keys: Vec<Vec<u8>> = from.run(&command(&list)).await?;
        if !keys.is_empty() {
            let mut migrate = command(&format!("MIGRATE 127.0.0.1 {}", to.port));
            migrate.arg("").arg(0).arg(5000).arg("KEYS").arg(&keys);
            from.run::<()>(&migrate).await?;
        }
        Ok(keys.len())
    }

    /// Moves the keys that are left, gives the slot to its new primary, and waits until all have
    /// [agreed](TestCluster::agreed) on that.
    ///
    /// # Errors
    /// As [`keys`](Self::keys) and [`agreed`](TestCluster::agreed).
    pub async fn end(self) -> Result<()> {
        while self.keys(BATCH).await? > 0 {}
        // The new one first, so that there is never none.
        for node in [self.to, self.from] {
            self.set(node, "NODE", self.to).await?;
        }
        for node in self.cluster.nodes() {
            if ![self.to, self.from].contains(&node) && self.cluster.is_primary(node).await {
                self.set(node, "NODE", self.to).await?;
            }
        }
        self.cluster.agreed().await
    }

    /// Tells a node what becomes of the slot.
    async fn set(&self, node: usize, state: &str, of: usize) -> Result<()> {
        let (slot, id) = (self.slot, &self.cluster.ids[of]);
        let set: Cmd = command(&format!("CLUSTER SETSLOT {slot} {state} {id}"));
        self.cluster.nodes[node].run(&set).await
    }
}
