//! The interface between the state machine and the backends that order its commands.
//!
//! Place in the flow: actors and the API call a [`ControlStore`]. Behind it, Raft, Redis, a shared file or a
//! local log orders batches of proposals. A [`Machine`] applies them on this node and publishes to the view
//! before any caller is answered.
//!
//! Backends order and store; they decide no policy.

mod claim;
mod file_log;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod import;
mod lease_tokens;
pub mod local;
mod machine;
mod memory;
mod newest_state;
mod node_register;
mod outcome;
mod raft;
pub mod redis;
pub mod shared_file;
mod store_event;
mod store_kind;
pub mod transfer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bincode::{Decode, Encode};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::sync::{broadcast, watch};

use maxine_state::{Applied, Batch, CodecError, Command, Leadership, encode_batch};
use maxine_view::{WorkFact, WorkOutcome};

pub use machine::{Machine, Ordered};
pub use memory::MemoryStore;
pub use node_register::{KEPT_MS, StoreNode};
pub use outcome::{Retry, WriteOutcome};
pub use raft::{RaftStore, backup_state, verify_backup};
pub use store_event::StoreEvent;
pub use store_kind::StoreKind;

/// The required freshness of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// The present state of this node.
    #[default]
    Stale,
    /// At least the state that the leader had when it last confirmed its leadership; its lease limits how old
    /// that is.
    Leader,
    /// Everything that was acknowledged on any node before the read began.
    Strong,
}

/// Time limits of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteTime {
    /// Time in which it must be sent to the node that orders it. A store that waits for a leader gives up
    /// after it, with an error whose outcome is [`WriteOutcome::NotDone`].
    pub begin: Duration,
    /// Time in which it must end.
    pub end: Duration,
}

impl From<Duration> for WriteTime {
    fn from(timeout: Duration) -> Self {
        Self { begin: timeout, end: timeout }
    }
}

/// Why a write has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was written, because no leader is known. A retry is safe.
    #[error("no leader is known")]
    NoLeader,
    /// Nothing was written, because this node does not lead. A retry is safe.
    #[error("this node is not the leader; the leader is {}", hint.as_deref().unwrap_or("unknown"))]
    NotLeader {
        /// The leader's name.
        hint: Option<String>,
    },
    /// Nothing was written, because the store takes no writes now. The text says why. A retry is safe.
    #[error("{0}")]
    StoreUnavailable(String),
    /// Nothing was written: the store did not begin the write in time. A retry is safe.
    #[error("the storage did not begin the write in time")]
    NotBegun,
    /// Nothing was written, because too many writes are in flight. A later retry is safe.
    #[error("too many writes are in flight")]
    Overloaded,
    /// Nothing was written, because the write is too large. A retry does not help.
    #[error("the write is {len} bytes long, the limit is {max}")]
    TooLarge {
        /// Its size in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The outcome is unknown. A retry with the same request id is safe.
    #[error("the outcome is unknown: there was no answer in time")]
    OutcomeUnknown,
    /// The store failed, and the node stops.
    #[error("storage failed: {0}")]
    Storage(String),
    /// Nothing was written: the leader does not accept this kind of write from this node. Another node may be
    /// allowed to send it.
    #[error("the leader refused it: {0}")]
    Refused(String),
    /// Nothing was written, because the node is stopping. A retry through another node is safe.
    #[error("the node is stopping")]
    ShuttingDown,
}

impl ProposeError {
    /// Whether the batch was written.
    #[must_use]
    pub fn outcome(&self) -> WriteOutcome {
        match self {
            Self::OutcomeUnknown | Self::Storage(_) => WriteOutcome::Unknown,
            Self::NoLeader
            | Self::NotLeader { .. }
            | Self::StoreUnavailable(_)
            | Self::NotBegun
            | Self::Overloaded
            | Self::TooLarge { .. }
            | Self::Refused(_)
            | Self::ShuttingDown => WriteOutcome::NotDone,
        }
    }

    /// Whether a retry with the same request ids can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoLeader
            | Self::StoreUnavailable(_)
            | Self::NotBegun
            | Self::Overloaded
            | Self::OutcomeUnknown => Retry::Later,
            Self::NotLeader { .. } | Self::Refused(_) | Self::Storage(_) | Self::ShuttingDown => {
                Retry::AnotherNode
            }
            Self::TooLarge { .. } => Retry::Never,
        }
    }
}

/// Why a read does not have the required freshness.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader answered in time.
    #[error("no leader confirmed the read in time")]
    NoLeader,
    /// The store did not answer in time, or its content cannot be used.
    #[error("the store did not answer in time, or its content cannot be used")]
    StoreUnavailable,
    /// This node did not reach the index in time.
    #[error("this node did not catch up in time")]
    Behind,
    /// The node is stopping.
    #[error("the node is stopping")]
    ShuttingDown,
}

impl ReadError {
    /// Whether a retry can help. A read changes nothing, so it is always safe.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NoLeader | Self::StoreUnavailable | Self::Behind => Retry::Later,
            Self::ShuttingDown => Retry::AnotherNode,
        }
    }
}

/// Why a store could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// A setting is invalid. The text names it and what is allowed.
    #[error("{0}")]
    Settings(String),
    /// The service refused this node, or another process uses the files.
    #[error("refused: {0}")]
    Refused(String),
    /// The stored data cannot be used. The text says where, and what to do.
    #[error("{0}")]
    Damaged(String),
    /// The disk failed.
    #[error("{0}")]
    Io(String),
}

/// Why a message to another node has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The message was not delivered: no leader is known, the node cannot be reached, or this node is stopping.
    #[error("it could not be reached")]
    Unreachable,
    /// The message was not delivered, because too many wait for the node.
    #[error("too many messages wait for it")]
    Overloaded,
    /// The message cannot be sent at all; the text says why.
    #[error("{0}")]
    Unsendable(String),
    /// The message was sent, and no answer arrived; the text says why. It may have taken effect.
    #[error("it gave no answer: {0}")]
    NoAnswer(String),
    /// The node refused the message, which had no effect; the text says why.
    #[error("it refused: {0}")]
    Refused(String),
    /// The answer cannot be read; the text says why. The message may have taken effect.
    #[error("{0}")]
    Unreadable(String),
}

impl CallError {
    /// No answer arrived within the time limit.
    pub(crate) fn late() -> Self {
        Self::NoAnswer(String::from("the time is over"))
    }

    /// Whether the message took effect.
    #[must_use]
    pub fn outcome(&self) -> WriteOutcome {
        match self {
            Self::NoAnswer(_) | Self::Unreadable(_) => WriteOutcome::Unknown,
            Self::Unreachable | Self::Overloaded | Self::Unsendable(_) | Self::Refused(_) => {
                WriteOutcome::NotDone
            }
        }
    }

    /// Whether sending it again can help. A node of another version answers the next time as it did.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable | Self::Overloaded | Self::NoAnswer(_) | Self::Refused(_) => {
                Retry::Later
            }
            Self::Unreadable(_) => Retry::AnotherNode,
            Self::Unsendable(_) => Retry::Never,
        }
    }
}

/// Answers messages from other nodes, such as collected heartbeats.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers `body`. An error reaches the caller as [`CallError::Refused`], so it means that the message had no
    /// effect. A handler that does not know gives no answer: the caller's time limit ends the call.
    fn handle(&self, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>>;
}

/// Orders and stores commands. Each node has one.
#[async_trait]
pub trait ControlStore: Send + Sync + 'static {
    /// Orders a batch. Returns one reply for each proposal. When it returns, the view of this node shows the
    /// effects. If the future is dropped, the batch may still take effect.
    async fn propose(&self, batch: Batch, time: WriteTime) -> Result<Vec<Applied>, ProposeError>;

    /// Whether everything that this node has applied is as durable as an acknowledged write. If not, nothing that
    /// depends on the state may be acknowledged. Waits at most as long as a write may take.
    async fn confirms_applied(&self) -> bool {
        true
    }

    /// Returns when a read of this node's view has the required freshness.
    async fn barrier(&self, level: Consistency, timeout: Duration) -> Result<(), ReadError>;

    /// A receiver that follows who leads. Its value can be slightly old, and older in a process that was
    /// paused. For a decision, or an answer to a client, call [`Self::leadership_now`].
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Who leads now. Unlike the value of [`Self::leadership`], it takes into account that a lease may have
    /// lapsed while this process was suspended.
    fn leadership_now(&self) -> Leadership {
        self.leadership().borrow().clone()
    }

    /// Why the store takes no writes now, whoever sends them, in one line for any client. `None` if it takes
    /// them, or if this node does not know of a reason.
    fn refuses_writes(&self) -> Option<String> {
        None
    }

    /// For how long the service under the store has given this node no answer, in milliseconds, if the latest question
    /// was not answered in time. `None` if it answers, if nothing is known, or if there is no such service.
    fn service_silence_ms(&self) -> Option<u64> {
        None
    }

    /// Events of the service under the store that an operator must know about, if there is such a service.
    fn events(&self) -> Option<broadcast::Receiver<StoreEvent>> {
        None
    }

    /// The staleness of this node's state, in milliseconds: everything that was acknowledged longer ago, on
    /// any node, is in it. It counts from the moment when this node asked (the leader; as leader, a quorum;
    /// in Redis mode, Redis), and not from the answer. `None` if no answer has arrived since the start. Call
    /// it before reading the view. Entries that are applied in between would make the view seem younger than
    /// it is.
    fn staleness_ms(&self) -> Option<u64>;

    /// The position in the log up to which this node lacks entries that it had acknowledged, because it has
    /// an older copy of its data directory. The leader sends it the entries. `None` if it lacks nothing, or if
    /// that is unknown.
    fn lacks_acknowledged(&self) -> Option<u64> {
        None
    }

    /// Why the last snapshot of the state could not be written on this node, so that its log grows. `None` if it could.
    fn snapshot_failure(&self) -> Option<String> {
        None
    }

    /// Why this node no longer belongs to its cluster, so that its state must not be served: it was removed,
    /// or the others have another history. `None` if it belongs to the cluster, or if that is unknown.
    fn exclusion(&self) -> Option<String> {
        None
    }

    /// Sends a message to the leader, and waits for the answer.
    async fn call_leader(&self, body: Bytes, timeout: Duration) -> Result<Bytes, CallError>;

    /// Time since the leader `name` was last heard as the leader, in milliseconds. `None` if another node led
    /// since, or if replicas do not hear each other.
    fn leader_silence_ms(&self, _: &str) -> Option<u64> {
        None
    }

    /// The line of history of the store, if it has one. A restore or a recovery begins a new line, and with
    /// it a new history of the state.
    fn line(&self) -> Option<u64> {
        None
    }

    /// Sends a message to a member and waits for the answer. Only if the backend has members.
    async fn call_member(&self, _: u64, _: Bytes, _: Duration) -> Result<Bytes, CallError> {
        Err(CallError::Unsendable(String::from("this backend has no members")))
    }

    /// The kind of this store.
    fn kind(&self) -> StoreKind;

    /// The known addresses of the store itself, in addition to those of its members, as `host:port`: the
    /// ports on which it listens, the servers that it found, and the nodes that share it without connections to
    /// each other. None of them is an instance.
    fn own_addresses(&self) -> Vec<String> {
        Vec::new()
    }

    /// The nodes that share the store without connections to each other; `None` if the backend has members,
    /// or one node.
    async fn nodes(&self) -> Result<Option<Vec<StoreNode>>, ReadError> {
        Ok(None)
    }

    /// Removes a node of [`Self::nodes`]. Returns whether it existed. A running node returns with its next
    /// report.
    async fn forget_node(&self, _: &str) -> Result<bool, ReadError> {
        Ok(false)
    }

    /// Membership and backups, if the backend has them.
    fn cluster(&self) -> Option<Arc<dyn ClusterAdmin>> {
        None
    }

    /// Transfers leadership and stops. It may be called more than once.
    async fn shutdown(&self);
}

/// Encodes a batch for the log.
fn encode_payload(batch: &Batch) -> Result<Vec<u8>, ProposeError> {
    encode_batch(batch).map_err(|error| match error {
        CodecError::TooLarge { len, max } => ProposeError::TooLarge { len, max },
        error => ProposeError::Storage(error.to_string()),
    })
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
#[derive(
    Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize, serde::Deserialize, utoipa::ToSchema,
)]
pub struct MemberView {
    /// Its number. Never reuse the number of a removed node.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Address at which the other nodes reach it, `host:port`.
    pub peer_addr: String,
    /// URL at which clients reach it.
    pub http_addr: String,
    /// Whether it has a vote. A learner has none.
    pub voter: bool,
    /// Whether it is the leader.
    pub leader: bool,
    /// Whether this node or the leader heard from it recently; null if neither knows.
    pub reachable: Option<bool>,
    /// Whether it acknowledges the leader's log entries. A voter that does not cannot help to form a majority, even
    /// if it is reachable. Only the leader knows it; null if it is not known. It is false only if the leader has heard
    /// the member for 5 s without an acknowledgement, so it is null while a member that has returned catches up.
    #[serde(default)]
    pub acknowledges: Option<bool>,
    /// The last log entry known to be stored on it (known to the leader).
    pub matched_index: Option<u64>,
    /// Time since it was last heard, in milliseconds.
    pub last_contact_ms: Option<u64>,
    /// The newest state version that it understands; null if neither this node nor the leader has met it.
    pub state_version: Option<u32>,
}

/// The role of a node in its cluster.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Encode,
    Decode,
    Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// It leads, confirmed by a majority.
    Leader,
    /// It follows a leader, or waits for one.
    #[default]
    Follower,
    /// It stands for election, or leads without a majority's confirmation.
    Candidate,
    /// It receives the log and has no vote.
    Learner,
    /// It has stopped.
    Shutdown,
    /// It was removed from the cluster for good.
    Removed,
}

/// The log and its members, as this node sees them.
#[derive(Clone, Debug, Default, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster_id: String,
    /// This node's number.
    pub node_id: u64,
    /// What this node is in the cluster.
    pub role: NodeRole,
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
    /// The numbers of the voters. There are two sets while a change of the voters is not finished: then writes need a
    /// majority of each. Empty in other modes than raft.
    #[serde(default)]
    pub voter_sets: Vec<Vec<u64>>,
    /// How many voters must be reachable for writes to continue; 0 while no voters are known. With two sets of voters,
    /// this and the next two values are those of the set that can lose fewer.
    pub majority: usize,
    /// How many voters are known to be reachable, by this node or by the leader, this node included. While there is a
    /// leader, a voter that is not known to acknowledge its log entries is not counted. Null on a node that does not
    /// belong to the cluster any more, and while no voters are known.
    pub reachable_voters: Option<usize>,
    /// How many more voters may fail before writes stop. A voter of which nothing is known counts as failed. Null on
    /// a node that does not belong to the cluster any more, and while no voters are known.
    pub failures_tolerated: Option<usize>,
    /// The members.
    pub members: Vec<MemberView>,
}

impl ClusterStatus {
    /// Whether a member can help to form a majority, as far as is known: it is reachable, and if there is a leader, it
    /// acknowledges the leader's entries. The leader does not acknowledge its own entries, so it counts. So does this
    /// node, unless it is known to acknowledge nothing.
    fn counts(&self, member: &MemberView) -> bool {
        let needs_no_proof = self.leader.is_none() || member.leader || member.id == self.node_id;
        let acknowledges = member.acknowledges.unwrap_or(needs_no_proof);
        member.reachable == Some(true) && acknowledges
    }

    /// Takes the members, and counts the voters among them.
    #[must_use]
    pub fn with_members(mut self, members: Vec<MemberView>) -> Self {
        let of_set = |is_in_set: &dyn Fn(u64) -> bool| {
            let voters = members.iter().filter(|member| member.voter && is_in_set(member.id));
            let majority = voters.clone().count() / 2 + 1;
            (majority, voters.filter(|member| self.counts(member)).count())
        };
        let sets = self.voter_sets.iter().map(|set| of_set(&|id| set.contains(&id)));
        let spare = |(majority, reachable): &(usize, usize)| *reachable as i64 - *majority as i64;
        let (majority, reachable) = sets.min_by_key(spare).unwrap_or_else(|| of_set(&|_| true));
        let knows_voters = members.iter().any(|member| member.voter);
        self.members = members;
        if !knows_voters {
            // A node that waits to be added to a cluster knows nobody, itself included.
            self.majority = 0;
            return self.without_counts();
        }
        self.majority = majority;
        self.reachable_voters = Some(reachable);
        self.failures_tolerated = Some(reachable.saturating_sub(majority));
        self
    }

    /// Whether a change of the voters is not finished.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.voter_sets.len() > 1
    }

    /// Leaves out how many voters can be reached. A node that no longer belongs to the cluster does not know it.
    #[must_use]
    pub fn without_counts(mut self) -> Self {
        self.reachable_voters = None;
        self.failures_tolerated = None;
        self
    }

    /// Whether too few voters are known to be reachable for writes.
    #[must_use]
    pub fn lacks_majority(&self) -> bool {
        self.reachable_voters.is_some_and(|reachable| reachable < self.majority)
    }
}

/// Why a change of membership or a backup failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The request is not possible in the cluster's present state. The text says what to do.
    #[error("{0}")]
    Invalid(String),
    /// The named node is no member of the cluster.
    #[error("{0}")]
    NotFound(String),
    /// The disk of this node has not enough free space. Nothing was changed. Other nodes are not asked, because it is not
    /// known whether they have more.
    #[error("{0}")]
    NoSpace(String),
    /// No leader carried it out in time. Nothing was changed, and a retry is safe.
    #[error("{0}")]
    Unavailable(String),
    /// The outcome is unknown.
    #[error("{0}")]
    OutcomeUnknown(String),
}

impl AdminError {
    /// Whether the operation took effect.
    #[must_use]
    pub fn outcome(&self) -> WriteOutcome {
        match self {
            Self::OutcomeUnknown(_) => WriteOutcome::Unknown,
            Self::Invalid(_) | Self::NotFound(_) | Self::NoSpace(_) | Self::Unavailable(_) => {
                WriteOutcome::NotDone
            }
        }
    }

    /// Whether a retry can help. An operation whose outcome is unknown has no request id, so it must not be repeated
    /// before the status of the cluster was read.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unavailable(_) => Retry::Later,
            Self::Invalid(_) | Self::NotFound(_) | Self::NoSpace(_) | Self::OutcomeUnknown(_) => {
                Retry::Never
            }
        }
    }
}

/// Membership and backups.
#[async_trait]
pub trait ClusterAdmin: Send + Sync {
    /// The status of the cluster, as this node knows it.
    fn status(&self) -> ClusterStatus;
    /// Adds a node as a learner. Returns when it has joined.
    async fn add_learner(
        &self,
        id: u64,
        name: String,
        peer_addr: String,
        http_addr: String,
    ) -> Result<(), AdminError>;
    /// Gives a learner a vote, once it was reached and has caught up. With `force` it gets one immediately.
    async fn promote(&self, id: u64, force: bool) -> Result<(), AdminError>;
    /// Removes a member permanently. Its number must never be used again. Refused if no majority of the
    /// others is reachable, unless with `force`.
    async fn remove(&self, id: u64, force: bool) -> Result<(), AdminError>;
    /// Transfers leadership to a voter; without a number, to the one with the most entries.
    async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), AdminError>;
    /// Writes a snapshot now, so that the log can be purged.
    async fn snapshot(&self) -> Result<(), AdminError>;
    /// Writes a backup of the state to `path`, with everything that was acknowledged before.
    async fn backup(&self, path: &std::path::Path) -> Result<BackupSummary, AdminError>;
}

/// The content of a backup.
#[derive(Clone, Debug, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct BackupSummary {
    /// The index of the state in it.
    pub index: u64,
    /// Its size in bytes.
    pub len_bytes: u64,
}

impl BackupSummary {
    /// The outcome of a backup, for its trace.
    #[must_use]
    pub fn outcome(made: Result<&Self, String>) -> WorkOutcome {
        match made {
            Ok(summary) => WorkOutcome {
                index: Some(summary.index),
                error: None,
                facts: vec![("maxine.len_bytes", WorkFact::from(summary.len_bytes))],
            },
            Err(error) => WorkOutcome { error: Some(error), ..WorkOutcome::default() },
        }
    }
}
