//! A cluster of real processes on this machine: creates, starts, monitors and queries it.
//!
//! It causes no fault; the nemesis does. It makes no judgement; the checks do.

mod disk;
mod log_damage;
mod members;
mod node;
mod older_copy;
mod plan;
mod ports;
mod redis;
mod sentinel;
mod wall_clock;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::client::{Client, Outcome};
use crate::clock::{self, until};
use crate::network::{Network, NetworkKind};
use crate::program;
use plan::RedisAt;

pub use disk::{Disk, SlowDisk};
pub use log_damage::Damage;
pub use node::{Node, NodePlan};
pub use older_copy::OlderCopy;
pub use plan::{Backend, ClusterPlan};
pub use redis::RedisServer;
pub use sentinel::Watched;
pub use wall_clock::WallClock;

const ADMIN_USER: &str = "chaos";
const ADMIN_PASSWORD: &str = "chaos-tests-only-0";
/// Time limit for a request of the harness itself.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// Time limit for a new cluster to accept writes.
pub const READY_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// A node's answer about its readiness.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Ready {
    /// Whether it knows a leader that accepts writes.
    pub ready: bool,
    /// Its name.
    pub instance: String,
    /// The leader's name.
    pub leader: Option<String>,
    /// Whether it reports that it leads.
    pub is_leader: bool,
    /// The index of its state.
    pub index: u64,
    /// The staleness of that state, in milliseconds; `None` if the node does not know it. Earlier versions do
    /// not report it.
    #[serde(default)]
    pub staleness_ms: Option<u64>,
}

/// The cluster.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    network: Network,
    redis: Option<RedisServer>,
    sentinels: Option<Watched>,
    /// The disks by the number of the node; Redis has number 0. They are declared after the processes, which
    /// would keep them busy.
    disks: BTreeMap<u64, Disk>,
    plan: ClusterPlan,
    members: u64,
    dir: PathBuf,
    clients: Vec<Client>,
    token: Option<Arc<str>>,
}

impl Cluster {
    /// Creates the cluster in `dir`, starts every node and waits until it accepts writes.
    pub async fn start(plan: ClusterPlan, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir.join("logs"))?;
        let dir = dir.canonicalize()?;
        let mut disks = BTreeMap::new();
        let (mut redis, mut sentinels) = (None, None);
        if plan.backend == Backend::Redis && plan.sentinels {
            sentinels = Some(Watched::start(&dir).await?);
        } else if plan.backend == Backend::Redis {
            let own = dir.join("redis");
            if plan.disks {
                disks.insert(0, Disk::make(&dir.join("redis.img"), &own)?);
            }
            redis = Some(RedisServer::start(&own, None).await?);
        }
        let mut network = Network::open(plan.network, plan.nodes)?;
        let at = redis_at(redis.as_ref(), sentinels.as_ref());
        let nodes = plan::nodes(&plan, &dir, &mut network, at.as_ref())?;
        for node in nodes.iter().filter(|_| plan.disks && plan.backend == Backend::Raft) {
            disks.insert(node.plan().id, disk_of(node.plan())?);
        }
        let clients = nodes.iter().map(client_of).collect::<Result<_, _>>()?;
        let members = plan.nodes;
        let mut cluster = Self {
            nodes,
            network,
            redis,
            sentinels,
            disks,
            plan,
            members,
            dir,
            clients,
            token: None,
        };
        for id in cluster.ids() {
            cluster.start_node(id)?;
        }
        cluster.wait_ready(READY_TIMEOUT).await?;
        cluster.sign_in().await?;
        Ok(cluster)
    }

    /// The nodes' numbers.
    pub fn ids(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.plan().id).collect()
    }

    /// The directory of the cluster.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One node.
    pub fn node(&self, id: u64) -> &Node {
        self.nodes.iter().find(|node| node.plan().id == id).expect("a node of this cluster")
    }

    /// One node, mutably.
    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.plan().id == id).expect("a node of this cluster")
    }

    /// The network between the nodes.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The Redis that orders the commands, if there is one.
    pub fn redis_mut(&mut self) -> Option<&mut RedisServer> {
        self.redis.as_mut()
    }

    /// Whether Redis orders the commands.
    pub fn has_redis(&self) -> bool {
        self.plan.backend == Backend::Redis
    }

    /// The Redis with its Sentinels, if there is one.
    pub fn sentinels_mut(&mut self) -> Option<&mut Watched> {
        self.sentinels.as_mut()
    }

    /// The disk of a node, or that of Redis.
    pub fn disk(&self, whose: Option<u64>) -> anyhow::Result<&Disk> {
        self.disks.get(&whose.unwrap_or(0)).context("there is no disk of its own")
    }

    /// From its next start on, the node uses the present program instead of the previous one.
    pub fn use_present_program(&mut self, id: u64) -> anyhow::Result<()> {
        self.use_program(id, &program::locate()?)
    }

    /// From its next start on, the node uses this program.
    pub fn use_program(&mut self, id: u64, program: &Path) -> anyhow::Result<()> {
        let program = program.display().to_string();
        *self.node_mut(id).plan_mut().command.last_mut().context("a program")? = program;
        Ok(())
    }

    /// Starts a node that is stopped, and gives the network its process id.
    pub fn start_node(&mut self, id: u64) -> anyhow::Result<()> {
        let node = self.node_mut(id);
        node.start()?;
        let pid = node.pid();
        if let Some(pid) = pid {
            self.network.set_process(id, pid);
        }
        Ok(())
    }

    /// A signed-in client of a node.
    pub fn client(&self, id: u64) -> Client {
        let client = &self.clients[usize::try_from(id - 1).unwrap_or(usize::MAX)];
        match &self.token {
            Some(token) => client.with_token(Arc::clone(token)),
            None => client.clone(),
        }
    }

    /// Signed-in clients of all nodes, in order, with this time limit for requests.
    pub fn clients(&self, timeout: Duration) -> anyhow::Result<Vec<Client>> {
        let client = |node: &Node| {
            let client = Client::new(&format!("http://{}", node.plan().http), timeout)?;
            Ok(match &self.token {
                Some(token) => client.with_token(Arc::clone(token)),
                None => client,
            })
        };
        self.nodes.iter().map(client).collect()
    }

    async fn sign_in(&mut self) -> anyhow::Result<()> {
        let body = json!({"user": ADMIN_USER, "password": ADMIN_PASSWORD});
        let clients = self.clients.clone();
        let look = async || {
            for client in &clients {
                let answer = client.post("/api/v1/session", &body, &[]).await;
                let token = answer.body().and_then(|body| body.get("access_token")?.as_str());
                if let Some(token) = token {
                    return Some(Arc::from(token));
                }
            }
            None
        };
        // The first leader creates the account, and hashing its password takes time.
        let session = until(READY_TIMEOUT, Duration::from_millis(200), look).await;
        let session = session.context("signing in to the new cluster")?;
        // A session ends when acknowledged writes are lost, which some scenarios cause.
        let body = json!({"role": "admin", "note": "maxine-chaos"});
        let mut last = None;
        for client in &self.clients {
            let client = client.with_token(Arc::clone(&session));
            let answer = client.post("/api/v1/tokens", &body, &[]).await;
            if let Some(token) = answer.body().and_then(|body| body.get("token")?.as_str()) {
                self.token = Some(Arc::from(token));
                return Ok(());
            }
            last = Some(answer);
        }
        anyhow::bail!("no API token was made: {last:?}")
    }

    /// The token of the harness.
    pub fn token(&self) -> Option<String> {
        self.token.as_deref().map(str::to_owned)
    }

    /// The node's answer about its readiness; `None` if there is none.
    pub async fn ready(&self, id: u64) -> Option<Ready> {
        ready(&self.client(id)).await
    }

    /// Waits until every running node knows a leader that accepts writes.
    pub async fn wait_ready(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let up: Vec<u64> =
            self.nodes.iter().filter(|node| node.is_up()).map(|node| node.plan().id).collect();
        for id in up {
            self.wait_node_ready(id, timeout).await?;
        }
        Ok(())
    }

    /// Waits until one node knows a leader that accepts writes.
    pub async fn wait_node_ready(&mut self, id: u64, timeout: Duration) -> anyhow::Result<Ready> {
        let deadline = clock::now() + timeout;
        loop {
            if let Some(ready) = self.ready(id).await
                && ready.ready
            {
                return Ok(ready);
            }
            if let Some(status) = self.node_mut(id).ended()? {
                bail!("node {id} ended by itself: {status}\n{}", self.node(id).log_tail());
            }
            if clock::now() >= deadline {
                bail!("node {id} is not ready after {timeout:?}\n{}", self.node(id).log_tail());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The node that reports that it leads.
    pub async fn wait_leader(&self, timeout: Duration) -> anyhow::Result<u64> {
        let look = async || {
            for node in self.nodes.iter().filter(|node| node.is_up() && !node.is_paused()) {
                let id = node.plan().id;
                if self.ready(id).await.is_some_and(|ready| ready.is_leader && ready.ready) {
                    return Some(id);
                }
            }
            None
        };
        until(timeout, LOOK_EVERY, look).await.context("no node leads")
    }

    /// Whether the log of a node reports that Redis lost acknowledged writes that could not be written back.
    pub fn reported_lost_writes(&self) -> bool {
        self.nodes.iter().any(|node| {
            let text = std::fs::read(&node.plan().log).unwrap_or_default();
            String::from_utf8_lossy(&text).contains("the store lost acknowledged writes")
        })
    }

    /// The state of the cluster according to a node: `/api/v1/cluster/status`.
    pub async fn status(&self, id: u64) -> Option<Value> {
        self.client(id).get("/api/v1/cluster/status").await.body().cloned()
    }

    /// The Raft term according to a node.
    pub async fn term(&self, id: u64) -> anyhow::Result<u64> {
        let status = self.status(id).await.with_context(|| format!("no status of node {id}"))?;
        status.pointer("/leadership/term").and_then(Value::as_u64).context("no term in the status")
    }

    /// Fails if a node ended that was not stopped by the harness.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            if let Some(status) = node.ended()? {
                bail!("node {} ended by itself: {status}\n{}", node.plan().id, node.log_tail());
            }
        }
        Ok(())
    }

    /// Stops all nodes gracefully.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            if node.is_paused() {
                node.resume()?;
            }
            if node.is_up() {
                node.stop(Duration::from_secs(15)).await?;
            }
        }
        if let Some(redis) = &mut self.redis {
            redis.kill().await?;
        }
        if let Some(watched) = &mut self.sentinels {
            watched.kill().await?;
        }
        Ok(())
    }

    fn redis_at(&self) -> Option<RedisAt> {
        redis_at(self.redis.as_ref(), self.sentinels.as_ref())
    }
}

fn redis_at(redis: Option<&RedisServer>, watched: Option<&Watched>) -> Option<RedisAt> {
    match (redis, watched) {
        (_, Some(watched)) => Some(RedisAt { url: watched.url(), sentinels: true }),
        (Some(redis), None) => Some(RedisAt { url: redis.url(), sentinels: false }),
        (None, None) => None,
    }
}

fn disk_of(node: &NodePlan) -> anyhow::Result<Disk> {
    Disk::make(&node.data_dir.with_extension("img"), &node.data_dir)
}

fn client_of(node: &Node) -> anyhow::Result<Client> {
    Client::new(&format!("http://{}", node.plan().http), REQUEST_TIMEOUT)
}

/// The node's answer about its readiness; `None` if there is none.
pub async fn ready(client: &Client) -> Option<Ready> {
    match client.get("/api/v1/ready").await {
        Outcome::Ok { body, .. } => serde_json::from_value(body).ok(),
        _ => None,
    }
}

/// The kind of network for a new cluster, by default.
pub fn default_network() -> NetworkKind {
    NetworkKind::Proxied
}
