//! The seam between the state machine and what orders its commands.
//!
//! Place in the flow: actors and API call a [`ControlStore`]; behind it Raft, Redis, a shared file
//! or one local log puts batches of proposals into one order, and a [`Machine`] applies them here
//! and publishes to the view before anyone is answered.
//!
//! Backends order and store; they decide no policy.

mod claim;
mod file_log;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod import;
pub mod local;
mod machine;
mod memory;
mod node_register;
mod raft;
pub mod redis;
pub mod shared_file;
mod store_event;
pub mod transfer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::{broadcast, watch};

use maxine_state::{Applied, Batch, Command, Leadership};

pub use machine::{Machine, Ordered};
pub use memory::MemoryStore;
pub use node_register::{KEPT_MS, StoreNode};
pub use raft::{RaftStore, backup_index};
pub use store_event::StoreEvent;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// What this node has, as it is.
    #[default]
    Stale,
    /// What the leader had when it last confirmed that it leads (bounded by its lease).
    Leader,
    /// Everything that was acknowledged anywhere before the read began.
    Strong,
}

/// How long a write may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteTime {
    /// Time in which it must be sent to whoever orders it. A store that waits for a leader gives up
    /// after it, with an error that is [clean](ProposeError::is_clean).
    pub begin: Duration,
    /// Time in which it must end.
    pub end: Duration,
}

impl From<Duration> for WriteTime {
    fn from(timeout: Duration) -> Self {
        Self { begin: timeout, end: timeout }
    }
}

/// A write that did not come back with an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was written: no leader is known. A retry is safe.
    #[error("no leader is known")]
    NoLeader,
    /// Nothing was written: this node does not lead. A retry is safe.
    #[error("this node is not the leader; the leader is {}", hint.as_deref().unwrap_or("unknown"))]
    NotLeader {
        /// The leader's name.
        hint: Option<String>,
    },
    /// Nothing was written: the store did not begin the write in time. A retry is safe.
    #[error("the storage did not begin the write in time")]
    NotBegun,
    /// Nothing was written: too much is under way. A retry is safe, later.
    #[error("too many writes are in flight")]
    Overloaded,
    /// Nothing was written: too large. A retry does not help.
    #[error("the write is {len} bytes long, the limit is {max}")]
    TooLarge {
        /// Its size in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// It may or may not take effect yet. A retry with the same request id is safe.
    #[error("the outcome is unknown: there was no answer in time")]
    OutcomeUnknown,
    /// The store failed; the node stops.
    #[error("storage failed: {0}")]
    Storage(String),
    /// Nothing was written: the leader takes no such write from this node. A retry does not help.
    #[error("the leader refused it: {0}")]
    Refused(String),
    /// Nothing was written: the node is stopping. A retry through another node is safe.
    #[error("the node is stopping")]
    ShuttingDown,
}

impl ProposeError {
    /// Whether it is certain that nothing was written.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !matches!(self, Self::OutcomeUnknown | Self::Storage(_))
    }
}

/// A read that could not be made as fresh as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader answered in time.
    #[error("no leader confirmed the read in time")]
    NoLeader,
    /// The index has not arrived here in time.
    #[error("this node did not catch up in time")]
    Behind,
    /// The node is stopping.
    #[error("the node is stopping")]
    ShuttingDown,
}

/// A store that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A setting is wrong; the text says which and what is allowed.
    #[error("{0}")]
    Settings(String),
    /// The service underneath refused this node, or another process has the files.
    #[error("refused: {0}")]
    Refused(String),
    /// What is stored cannot be used; the text says where, and what to do.
    #[error("{0}")]
    Damaged(String),
    /// The disk failed.
    #[error("{0}")]
    Io(String),
}

/// A message to another node that was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No leader is known, or the node could not be reached in time.
    #[error("it could not be reached")]
    Unreachable,
    /// The node answered with an error.
    #[error("it refused: {0}")]
    Refused(String),
}

/// Answers messages that other nodes send to this one, such as gathered heartbeats.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers `body`; an error reaches the caller as [`CallError::Refused`].
    fn handle(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// Orders commands and keeps them. One node has one.
#[async_trait]
pub trait ControlStore: Send + Sync + 'static {
    /// Puts a batch into the order; one answer per proposal. When it returns, the view of this
    /// node shows the effects. May be dropped; the batch may then still take effect.
    async fn propose(&self, batch: Batch, time: WriteTime) -> Result<Vec<Applied>, ProposeError>;

    /// Returns when a read of this node's view is as fresh as asked for.
    async fn barrier(&self, level: Consistency, timeout: Duration) -> Result<(), ReadError>;

    /// Follows who leads. Its value can be a moment old, and older in a process that was paused:
    /// for a decision or an answer to a client ask [`Self::leadership_now`].
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Who leads at this very moment. Unlike what [`Self::leadership`] last told, it takes into
    /// account that a lease may have lapsed while this process was stopped.
    fn leadership_now(&self) -> Leadership {
        self.leadership().borrow().clone()
    }

    /// What happens underneath the store that an operator must hear of, where there is such.
    fn events(&self) -> Option<broadcast::Receiver<StoreEvent>> {
        None
    }

    /// How old the state on this node can be, in milliseconds: everything that was acknowledged
    /// anywhere longer ago is in it. It counts from the moment this node asked (the leader; as leader,
    /// a quorum; in Redis mode, Redis), not from the answer. `None` while no answer has come since the
    /// start. Ask before the view is read: what is applied in between would make it look younger.
    fn staleness_ms(&self) -> Option<u64>;

    /// The position in the log up to which this node lacks what it had acknowledged, because it was given an
    /// older copy of its data directory; it is being filled. `None` where it has everything, or can't tell.
    fn lacks_acknowledged(&self) -> Option<u64> {
        None
    }

    /// Why this node does not belong to its cluster any more, so that what it has must not be served: it was removed,
    /// or the others have another history. `None` where it belongs, or can't tell.
    fn exclusion(&self) -> Option<String> {
        None
    }

    /// Sends a message to whoever leads, and waits for the answer.
    async fn call_leader(&self, body: Bytes, timeout: Duration) -> Result<Bytes, CallError>;

    /// How long ago the leader called `name` was last heard as such, in milliseconds; `None` where
    /// another one led since, or where replicas do not hear each other.
    fn leader_silence_ms(&self, _: &str) -> Option<u64> {
        None
    }

    /// Names the line of history that the store itself is on, where it knows one: it is another after
    /// a restore or a recovery. Another history of the state begins with it.
    fn line(&self) -> Option<u64> {
        None
    }

    /// Sends a message to a member and waits for the answer; only where there are members.
    async fn call_member(&self, _: u64, _: Bytes, _: Duration) -> Result<Bytes, CallError> {
        Err(CallError::Unreachable)
    }

    /// What kind of backend this is: `raft`, `redis`, `shared-file`, `local` or `memory`.
    fn kind(&self) -> &'static str;

    /// Where the store itself is reached as far as it knows now, beside the addresses of its members, as
    /// `host:port`: the ports that it listens on, and the servers that it found. No instance lives there.
    fn own_addresses(&self) -> Vec<String> {
        Vec::new()
    }

    /// The nodes that share the store, where they meet only there; `None` where the backend has members, or one node.
    async fn nodes(&self) -> Result<Option<Vec<StoreNode>>, ReadError> {
        Ok(None)
    }

    /// Forgets a node that [`Self::nodes`] names; whether it was there. One that runs is back with its next report.
    async fn forget_node(&self, _: &str) -> Result<bool, ReadError> {
        Ok(false)
    }

    /// Membership and backups, where the backend has them.
    fn cluster(&self) -> Option<Arc<dyn ClusterAdmin>> {
        None
    }

    /// Hands over leadership and stops. Idempotent.
    async fn shutdown(&self);
}

/// Whether only the holder of the lease may append it.
fn needs_lease(batch: &Batch) -> bool {
    batch.proposals.iter().any(|proposal| {
        proposal.fence.is_some()
            || proposal.command.is_leader_only()
            || matches!(proposal.command, Command::GrantLeadership { .. })
    })
}

/// A member of the cluster as the administrator sees it.
#[derive(Clone, Debug, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct MemberView {
    /// Its number; never used again.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Address at which the other nodes reach it, `host:port`.
    pub peer_addr: String,
    /// URL at which clients reach it.
    pub http_addr: String,
    /// Whether it has a vote; a learner has none.
    pub voter: bool,
    /// Whether it is the leader.
    pub leader: bool,
    /// Whether this node or the leader heard from it recently; null if neither knows.
    pub reachable: Option<bool>,
    /// Whether it acknowledges the leader's log entries; a voter that does not is of no use for a majority, even if it is
    /// reachable. Known to the leader; null if it is not known.
    #[serde(default)]
    pub acknowledges: Option<bool>,
    /// The last log entry known to be stored on it (known to the leader).
    pub matched_index: Option<u64>,
    /// Time since it was last heard, in milliseconds.
    pub last_contact_ms: Option<u64>,
    /// The newest state version that it understands; null if neither this node nor the leader has met it.
    pub state_version: Option<u32>,
}

impl MemberView {
    /// Whether it is known to be reachable and, as far as is known, acknowledges what it is sent.
    #[must_use]
    pub fn works(&self) -> bool {
        self.reachable == Some(true) && self.acknowledges != Some(false)
    }
}

/// The log and its members, as this node sees them.
#[derive(Clone, Debug, Default, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster_id: String,
    /// This node's number.
    pub node_id: u64,
    /// `leader`, `follower`, `candidate`, `learner`, `shutdown`, or `removed` from the cluster for good.
    pub role: String,
    /// Raft's term.
    pub term: u64,
    /// The leader's number, if one is known.
    pub leader: Option<u64>,
    /// The number of the last log entry on this node; null while it has none. Log entries are counted apart from the
    /// state's index, from 0.
    pub last_log_index: Option<u64>,
    /// The last log entry known to be committed; null while none is.
    pub committed_index: Option<u64>,
    /// The last log entry applied here; null while none is.
    pub applied_index: Option<u64>,
    /// The log entry of the last snapshot; null without a snapshot.
    pub snapshot_index: Option<u64>,
    /// The last log entry that was removed after a snapshot; null if none was.
    pub purged_index: Option<u64>,
    /// How long the last sync of the log took, in microseconds; null before the first sync.
    pub last_sync_us: Option<u64>,
    /// Whether this node's disk is stalled.
    pub disk_stalled: bool,
    /// The size of the log on disk, in bytes.
    pub log_disk_bytes: u64,
    /// How many voters must be reachable for writes to go on.
    pub majority: usize,
    /// How many voters are known to be reachable, by this node or by the leader, this node included. One that
    /// acknowledges no log entry is not counted.
    pub reachable_voters: usize,
    /// How many more voters may be lost before writes stop. A voter of which nothing is known counts as lost.
    pub failures_tolerated: usize,
    /// The members.
    pub members: Vec<MemberView>,
}

impl ClusterStatus {
    /// Takes the members, and counts the voters among them.
    #[must_use]
    pub fn with_members(mut self, members: Vec<MemberView>) -> Self {
        let voters = members.iter().filter(|member| member.voter);
        self.majority = voters.clone().count() / 2 + 1;
        self.reachable_voters = voters.filter(|member| member.works()).count();
        self.failures_tolerated = self.reachable_voters.saturating_sub(self.majority);
        self.members = members;
        self
    }

    /// Whether too few voters are known to be reachable for writes to go on.
    #[must_use]
    pub fn lacks_majority(&self) -> bool {
        self.reachable_voters < self.majority
    }
}

/// A change of membership or a backup that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The request does not fit the cluster's state; the text says what to do.
    #[error("{0}")]
    Invalid(String),
    /// What it names is no member of the cluster.
    #[error("{0}")]
    NotFound(String),
    /// No leader could do it in time; nothing was changed, and a retry is safe.
    #[error("{0}")]
    Unavailable(String),
    /// It may or may not take effect yet.
    #[error("{0}")]
    OutcomeUnknown(String),
}

/// Membership and backups.
#[async_trait]
pub trait ClusterAdmin: Send + Sync {
    /// What this node knows of the cluster.
    fn status(&self) -> ClusterStatus;
    /// Adds a node that follows without a vote; returns when it has joined.
    async fn add_learner(
        &self,
        id: u64,
        name: String,
        peer_addr: String,
        http_addr: String,
    ) -> Result<(), AdminError>;
    /// Gives a learner a vote, once it was reached and has caught up. With `force` it gets one at once.
    async fn promote(&self, id: u64, force: bool) -> Result<(), AdminError>;
    /// Removes a member for good; its number must never be used again. Refused where no majority of the others is
    /// reachable, unless with `force`.
    async fn remove(&self, id: u64, force: bool) -> Result<(), AdminError>;
    /// Hands leadership to a voter, or to the one that is furthest along.
    async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), AdminError>;
    /// Writes a snapshot now, so that the log can be purged.
    async fn snapshot(&self) -> Result<(), AdminError>;
    /// A backup of the state that everyone agreed on, as a file's bytes, written to `path`.
    async fn backup(&self, path: &std::path::Path) -> Result<BackupSummary, AdminError>;
}

/// What a backup holds.
#[derive(Clone, Debug, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct BackupSummary {
    /// The index of the state in it.
    pub index: u64,
    /// Its size in bytes.
    pub len_bytes: u64,
}
