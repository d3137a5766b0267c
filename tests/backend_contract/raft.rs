//! Raft: three real nodes, each with a log on its own disk, and the contract on them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use maxine::config::{BackendKind, MemberSetting, NodeConfig};
use maxine_clock::Clock;
use maxine_state::Reply;
use maxine_store::{ControlStore, ProposeError, RaftStore};
use maxine_view::View;
use tempfile::TempDir;

use crate::contract::agree;
use crate::node::{Fixture, Node, Peers, SOON, batch, eventually, instance, leader, register};
use crate::redis_server::free_port;
use crate::split_brain::{ChildNode, Partition, paused};

/// The directory of the logs of three nodes, and their ports. As text, it is the argument of a child process.
#[derive(Clone)]
pub(crate) struct Layout {
    dir: PathBuf,
    /// The ports on which the nodes listen.
    listen: [u16; 3],
    /// The ports at which the others reach each node. They are the same, unless a proxy is between the nodes.
    reached: [u16; 3],
}

impl Layout {
    pub(crate) fn new(dir: &Path) -> Self {
        let listen = [free_port(), free_port(), free_port()];
        Self { dir: dir.into(), listen, reached: listen }
    }

    /// A layout with a link in front of each node, which tests can cut.
    pub(crate) async fn with_links(dir: &Path) -> (Self, Vec<Partition>) {
        let mut layout = Self::new(dir);
        let mut links = Vec::new();
        for (at, port) in layout.listen.iter().enumerate() {
            let link = Partition::to(*port).await;
            layout.reached[at] = link.port;
            links.push(link);
        }
        (layout, links)
    }

    /// The argument of [`ChildNode::start`] for this node.
    fn place(&self, number: usize) -> String {
        let [a, b, c] = self.listen;
        format!("raft:{number}:{a}:{b}:{c}:{}", self.dir.display())
    }

    /// The node that a child process runs.
    pub(crate) async fn child(place: &str) -> Node {
        let mut parts = place.splitn(6, ':').skip(1);
        let mut next = || parts.next().expect("a whole place");
        let number = next().parse().expect("a number");
        let listen = [next(), next(), next()].map(|port| port.parse().expect("a port"));
        let layout = Self { dir: next().into(), listen, reached: listen };
        layout.node(number, Clock::system()).await
    }

    async fn node(&self, number: usize, clock: Clock) -> Node {
        let member = |n: usize| MemberSetting {
            id: n as u64,
            peer_addr: format!("127.0.0.1:{}", self.reached[n - 1]),
            http_addr: String::new(),
        };
        let mut config = NodeConfig::defaults();
        config.backend = BackendKind::Raft;
        config.node_id = number as u64;
        config.data_dir = self.dir.join(format!("node-{number}"));
        config.raft.cluster_id = "contract".into();
        config.raft.listen = SocketAddr::from(([127, 0, 0, 1], self.listen[number - 1]));
        config.raft.members = (1..=3).map(member).collect();
        // The times are long, because many such clusters share the machine's cores, and a busy leader must
        // not count as lost.
        config.raft.election_timeout_min_ms = 2_000;
        config.raft.election_timeout_max_ms = 3_000;
        config.raft.disk_stall_ms = 10_000;
        let name = config.name();
        let view = View::new(clock);
        let peers = Peers::new(&name);
        let router = Arc::clone(&peers.router);
        let node = config.raft_node("");
        let members = config.first_members("");
        let opened = RaftStore::open(node, members, Arc::clone(&view), Arc::new(peers)).await;
        let store: Arc<dyn ControlStore> = opened.expect("it opens");
        Node { name, store, view, router }
    }

    pub(crate) async fn three(&self) -> Vec<Node> {
        let mut nodes = Vec::new();
        for number in 1..=3 {
            nodes.push(self.node(number, Clock::system()).await);
        }
        leader(&nodes).await;
        nodes
    }
}

pub(crate) struct ThreeDisks {
    layout: Layout,
    _dir: TempDir,
}

impl ThreeDisks {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { layout: Layout::new(dir.path()), _dir: dir }
    }
}

#[async_trait]
impl Fixture for ThreeDisks {
    async fn start(&self, name: &str) -> Node {
        let number = ["a", "b", "c"].iter().position(|n| *n == name).expect("one of three") + 1;
        self.layout.node(number, Clock::system()).await
    }
}

mod three_disks {
    use super::*;
    crate::contract::contract_suite!(ThreeDisks::new());
}

async fn stop(nodes: &[Node]) {
    for node in nodes {
        node.store.shutdown().await;
    }
}

/// The leader, a process of its own, is stopped for longer than an election takes and resumes. It
/// never claims again that it leads, and nothing that it does as leader takes effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader() {
    let dir = tempfile::tempdir().expect("a directory");
    let layout = Layout::new(dir.path());
    let child = ChildNode::start(&layout.place(1));
    let others = [layout.node(2, Clock::system()).await, layout.node(3, Clock::system()).await];
    eventually("the child leads", async || {
        let here = others.iter().find(|node| node.is_leader());
        if let Some(node) = here {
            let admin = node.store.cluster().expect("raft has one");
            // The transfer is refused while the child has not caught up. It is then tried again.
            let _ = admin.transfer_leadership(Some(1)).await;
        }
        let known = others[0].store.leadership_now().leader;
        (known.as_deref() == Some("node-1")).then_some(())
    })
    .await;
    paused(child, &others).await;
    stop(&others).await;
}

/// Every link is cut: the leader steps down, nobody leads, writes are refused in time, and reads continue.
/// When the links are restored, the nodes agree and have everything that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_link_is_cut() {
    let dir = tempfile::tempdir().expect("a directory");
    let (layout, links) = Layout::with_links(dir.path()).await;
    let nodes = layout.three().await;
    let led = leader(&nodes).await;
    let fence = led.take_duties().await;
    let epoch = nodes[0].register("orders", "a", 80).await;
    agree(&nodes).await;
    eventually("each node knows how old its state is", async || {
        nodes.iter().all(|node| node.store.staleness_ms().is_some()).then_some(())
    })
    .await;

    links.iter().for_each(Partition::cut);
    eventually("nobody leads", async || {
        let claims = nodes.iter().filter(|node| node.is_leader()).count();
        assert!(claims <= 1, "two leaders at once");
        (claims == 0).then_some(())
    })
    .await;
    assert!(led.store.leadership_now().leader.is_none(), "it knows that it is alone");
    let refused =
        led.store.propose(batch(register("orders", "b", 80)), Duration::from_secs(1).into());
    let refused = refused.await;
    let unwritten = [Err(ProposeError::NoLeader), Err(ProposeError::OutcomeUnknown)];
    assert!(unwritten.contains(&refused), "{refused:?}");
    let late = led.try_expire(fence, (instance("orders", "a"), epoch)).await;
    // It was refused, or at least not acknowledged: an answer that was in flight when the links were cut may
    // have let the node believe for a moment longer that it leads.
    let untold = matches!(late, Err(ProposeError::NotLeader { .. } | ProposeError::OutcomeUnknown));
    assert!(untold, "{late:?}");
    let read = led.store.barrier(maxine_store::Consistency::Strong, Duration::from_secs(1));
    assert!(read.await.is_err(), "no strong read without a majority");
    assert!(nodes.iter().all(|node| node.has("orders", "a")), "reads go on");
    eventually("the view tells its age", async || {
        nodes.iter().all(|node| node.store.staleness_ms() > Some(1_000)).then_some(())
    })
    .await;

    links.iter().for_each(Partition::heal);
    let new = leader(&nodes).await;
    let new_fence = new.take_duties().await;
    assert!(new_fence > fence);
    nodes[1].register("orders", "c", 80).await;
    agree(&nodes).await;
    stop(&nodes).await;
}

/// The wall clock of every node jumps a day in either direction. The leader continues to lead, and a lease
/// begins and ends as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wall_clock_jumps() {
    const DAY_MS: i64 = 24 * 3_600 * 1_000;
    let dir = tempfile::tempdir().expect("a directory");
    let layout = Layout::new(dir.path());
    let jump = Arc::new(AtomicI64::new(0));
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let clock = Clock::system_with_wall_offset(Arc::clone(&jump));
        nodes.push(layout.node(number, clock).await);
    }
    let leads = leader(&nodes).await;
    let fence = leads.take_duties().await;
    // The test checks the fence and not the term, because on a busy machine there may be an election for
    // another reason.
    for offset_ms in [DAY_MS, -DAY_MS, 0] {
        jump.store(offset_ms, Ordering::Relaxed);
        let epoch = nodes[0].register("orders", "a", 80).await;
        let expired = leads.expire(fence, (instance("orders", "a"), epoch)).await;
        assert_eq!(expired, Reply::Changed(vec![true]), "the leader's duties go on");
        nodes[2].store.barrier(maxine_store::Consistency::Strong, SOON).await.expect("reads");
    }
    agree(&nodes).await;
    stop(&nodes).await;
}
