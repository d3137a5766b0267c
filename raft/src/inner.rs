//! The parts of a running node, which the operations on it share.
//!
//! Each operation is in the module of its name and imports this module. This module imports none of them.
//! They share one struct because each of them first finds out who leads, which takes the core, the links, the
//! settings and the state of the disk. Nearly every operation needs at least two further parts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::config::{Config, NodeId};
use crate::consensus::Metrics;
use crate::consensus_core::Raft;
use crate::exclusion::ExclusionCell;
use crate::freshness::Freshness;
use crate::led::Led;
use crate::lifecycle::Lifecycle;
use crate::network::links::Links;
use crate::roster::Roster;
use crate::status::{CounterCells, Leadership};
use crate::storage::disk_health::DiskHealth;
use crate::storage::log_store::LogStore;
use crate::storage::node_dir::NodeDir;
use crate::storage::snapshots::SnapshotStore;

/// A handle to a running node. Clones share it. Dropping the last one stops the node abruptly, so call
/// [`RaftNode::shutdown`] first.
#[derive(Clone)]
pub struct RaftNode {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// The first field, so that it is dropped first.
    pub(crate) lifecycle: Lifecycle,
    pub(crate) config: Config,
    pub(crate) raft: Raft,
    pub(crate) links: Arc<Links>,
    pub(crate) log: LogStore,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) health: Arc<DiskHealth>,
    pub(crate) dir: Arc<NodeDir>,
    pub(crate) applied: watch::Receiver<u64>,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) exclusion: ExclusionCell,
    /// Whether every other member was asked since there has been no known leader.
    pub(crate) pinged: AtomicBool,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) led: Mutex<Led>,
    pub(crate) in_flight: Arc<Semaphore>,
    pub(crate) stalled: AtomicBool,
    /// The newest term in which this node, as the leader, has begun to transfer its leadership; `u64::MAX` if none.
    pub(crate) transferring: AtomicU64,
    /// When this node last supported another voter that found the leader gone.
    pub(crate) supported_at: Mutex<Option<Instant>>,
    /// Whether this node asks the other voters now whether the leader is gone.
    pub(crate) stands_early: AtomicBool,
    pub(crate) counters: CounterCells,
    pub(crate) listen_addr: SocketAddr,
}

impl Inner {
    /// Reads the newest metrics of the core.
    pub(crate) fn with_metrics<T>(&self, read: impl FnOnce(&Metrics) -> T) -> T {
        use openraft::async_runtime::watch::WatchReceiver;
        read(&self.raft.metrics().borrow_watched())
    }

    pub(crate) fn member_addr(&self, node: NodeId) -> Option<String> {
        self.with_metrics(|metrics| {
            metrics
                .membership_config
                .membership()
                .get_node(&node)
                .map(|member| member.peer_addr.clone())
        })
    }

    pub(crate) fn other_voters(&self) -> usize {
        self.with_metrics(|metrics| {
            metrics.membership_config.voter_ids().filter(|id| *id != self.config.node_id).count()
        })
    }
}
