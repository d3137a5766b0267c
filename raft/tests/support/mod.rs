//! Three real nodes in one process, on loopback and real disks, with an application that keeps a log.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

pub mod process;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use maxine_raft::{
    Application, CommittedEntry, Config, EngineKind, Member, NodeId, PeerHandler, PeerTls,
    RaftNode, Role, SnapshotEncoder, StartError,
};
use parking_lot::Mutex;
use tempfile::TempDir;

/// All applied entries, in order.
#[derive(Clone, Default)]
pub struct Journal(pub Arc<Mutex<Vec<(u64, Bytes)>>>);

pub struct JournalApp(pub Journal);

struct JournalSnapshot(Vec<(u64, Bytes)>);

impl SnapshotEncoder for JournalSnapshot {
    fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        for (index, payload) in self.0 {
            out.write_all(&index.to_le_bytes())?;
            out.write_all(&(payload.len() as u64).to_le_bytes())?;
            out.write_all(&payload)?;
        }
        Ok(())
    }
}

impl Application for JournalApp {
    fn apply(&mut self, entries: &[CommittedEntry]) -> io::Result<Vec<Bytes>> {
        let mut journal = self.0.0.lock();
        let reply = |entry: &CommittedEntry| match &entry.payload {
            None => Bytes::new(),
            Some(payload) => {
                assert!(
                    journal.last().is_none_or(|(last, _)| *last < entry.index),
                    "applied twice or out of order"
                );
                journal.push((entry.index, payload.clone()));
                Bytes::from([b"ok:", &payload[..payload.len().min(16)]].concat())
            }
        };
        Ok(entries.iter().map(reply).collect())
    }

    fn snapshot(&self) -> Box<dyn SnapshotEncoder> {
        Box::new(JournalSnapshot(self.0.0.lock().clone()))
    }

    fn restore(&mut self, _index: u64, input: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        let mut rest = &bytes[..];
        let mut journal = Vec::new();
        while !rest.is_empty() {
            let index = u64::from_le_bytes(rest[..8].try_into().unwrap());
            let len = u64::from_le_bytes(rest[8..16].try_into().unwrap()) as usize;
            journal.push((index, Bytes::copy_from_slice(&rest[16..16 + len])));
            rest = &rest[16 + len..];
        }
        *self.0.0.lock() = journal;
        Ok(())
    }
}

/// Answers with the sender and the body.
pub struct Echo;

impl PeerHandler for Echo {
    fn handle(&self, from: NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async move {
            if body == "fail" {
                return Err("asked to".to_owned());
            }
            if body == "hang" {
                std::future::pending::<()>().await;
            }
            Ok(Bytes::from(format!("{from}:{}", String::from_utf8_lossy(&body))))
        })
    }

    fn admit_version(&self, understands: u32) -> Result<(), String> {
        if understands > 0 { Ok(()) } else { Err("version 0 is too old".to_owned()) }
    }
}

pub struct TestNode {
    pub node: RaftNode,
    pub journal: Journal,
}

pub struct Cluster {
    pub dir: TempDir,
    pub engine: EngineKind,
    pub tls: Option<maxine_raft::pki::ClusterPki>,
    pub members: BTreeMap<NodeId, Member>,
    pub nodes: BTreeMap<NodeId, TestNode>,
    pub adjust: fn(&mut Config),
}

pub const TIMEOUT: Duration = Duration::from_secs(10);

/// An address on which nobody listens. The operating system does not choose it, because it chooses among the
/// ports of outgoing connections, and one of these could take the port before its node listens.
pub fn free_addr() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 21_000;
    const COUNT: u32 = 11_000;
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let nth = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let addr = format!("127.0.0.1:{}", FIRST + nth);
        if std::net::TcpListener::bind(&addr).is_ok() {
            return addr;
        }
    }
    panic!("no port is free")
}

pub fn member(id: NodeId) -> Member {
    Member {
        peer_addr: free_addr(),
        http_addr: format!("http://node{id}"),
        name: format!("node-{id}"),
    }
}

impl Cluster {
    /// A configured cluster without running nodes.
    pub fn prepare(engine: EngineKind, count: u64, adjust: fn(&mut Config)) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let members = (1..=count).map(|id| (id, member(id))).collect();
        Self {
            dir: tempfile::tempdir().unwrap(),
            engine,
            tls: None,
            members,
            nodes: BTreeMap::new(),
            adjust,
        }
    }

    /// A running cluster with a leader.
    pub async fn start(engine: EngineKind, count: u64, adjust: fn(&mut Config)) -> Self {
        let mut cluster = Self::prepare(engine, count, adjust);
        for id in 1..=count {
            cluster.start_node(id).await;
        }
        cluster.nodes[&1].node.bootstrap(cluster.members.clone()).await.unwrap();
        cluster.leader().await;
        cluster
    }

    pub fn config(&self, id: NodeId) -> Config {
        let addr = self.members[&id].peer_addr.parse().unwrap();
        let mut config = Config::new("test", id, self.dir.path().join(format!("node-{id}")), addr);
        config.engine = Some(self.engine);
        config.tls = match &self.tls {
            Some(pki) => pki.tls_of(id).unwrap(),
            None => PeerTls::Plain { allow_non_loopback: false },
        };
        (self.adjust)(&mut config);
        config
    }

    pub async fn try_start_node(&mut self, id: NodeId) -> Result<(), StartError> {
        let journal = Journal::default();
        let node =
            RaftNode::start(self.config(id), Box::new(JournalApp(journal.clone())), Arc::new(Echo))
                .await?;
        self.nodes.insert(id, TestNode { node, journal });
        Ok(())
    }

    pub async fn start_node(&mut self, id: NodeId) {
        self.try_start_node(id).await.unwrap();
    }

    pub fn node(&self, id: NodeId) -> &RaftNode {
        &self.nodes[&id].node
    }

    pub fn journal(&self, id: NodeId) -> Vec<Bytes> {
        self.nodes[&id].journal.0.lock().iter().map(|(_, payload)| payload.clone()).collect()
    }

    /// Stops a node abruptly.
    pub async fn kill(&mut self, id: NodeId) {
        let node = self.nodes.remove(&id).unwrap();
        node.node.stop_now().await;
    }

    /// Waits until exactly one running node leads and the others know it.
    pub async fn leader(&self) -> NodeId {
        let running: Vec<NodeId> = self.nodes.keys().copied().collect();
        eventually("one leader that everyone knows", || {
            let leaders: Vec<NodeId> = running
                .iter()
                .copied()
                .filter(|id| self.node(*id).leadership().is_leader)
                .collect();
            let [leader] = leaders[..] else { return None };
            running
                .iter()
                .all(|id| self.node(*id).leadership().leader == Some(leader))
                .then_some(leader)
        })
        .await
    }

    pub async fn follower(&self) -> NodeId {
        let leader = self.leader().await;
        let voters: Vec<NodeId> = self
            .node(leader)
            .status()
            .members
            .iter()
            .filter(|member| member.voter)
            .map(|member| member.id)
            .collect();
        *self.nodes.keys().find(|id| **id != leader && voters.contains(id)).unwrap()
    }

    /// Waits until every running node has applied the same entries as the leader.
    pub async fn converged(&self) {
        let leader = self.leader().await;
        let index =
            self.node(leader).read_index(maxine_raft::ReadLevel::Strong, TIMEOUT).await.unwrap();
        for id in self.nodes.keys() {
            self.node(*id).wait_applied(index, TIMEOUT).await.unwrap();
        }
        for id in self.nodes.keys() {
            assert_eq!(
                self.journal(*id),
                self.journal(leader),
                "node {id} differs from leader {leader}"
            );
        }
    }

    pub async fn propose(&self, via: NodeId, text: impl Into<Bytes>) -> maxine_raft::Proposed {
        self.node(via).propose(text.into(), TIMEOUT).await.unwrap()
    }
}

/// Polls a condition, and panics after a long time.
pub async fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn role(node: &RaftNode) -> Role {
    node.status().role
}
