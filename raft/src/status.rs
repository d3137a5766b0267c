//! What a node reports about itself and its peers. `status_report` collects it.

use std::sync::atomic::AtomicU64;

use crate::config::{Member, NodeId};

/// Who leads, as far as this node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The latest term seen.
    pub term: u64,
    /// The leader, while a quorum is known to have followed it recently.
    pub leader: Option<NodeId>,
    /// Whether this node leads and a quorum confirmed it recently.
    pub is_leader: bool,
}

/// The role of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It leads, and a quorum has confirmed that.
    Leader,
    /// It follows a leader.
    Follower,
    /// It stands for election, or leads without the confirmation of a quorum.
    Candidate,
    /// It receives the log and does not vote.
    Learner,
    /// It has stopped.
    Shutdown,
}

/// One member as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its id.
    pub id: NodeId,
    /// Its addresses and name.
    pub member: Member,
    /// Whether it votes.
    pub voter: bool,
    /// How far its log matches that of the leader. Only the leader knows this.
    pub matched_index: Option<u64>,
    /// Whether the connection for heartbeats to it is open. Always true for this node itself.
    pub connected: bool,
    /// Whether it was heard within the last two seconds. `None` if this node does not know: a follower only
    /// hears the leader.
    pub reachable: Option<bool>,
    /// On a leader, whether it acknowledges the leader's entries. A reachable member that does not is of no
    /// use for a majority. `None` if this node does not lead, or if it is too early to say: the member acknowledged
    /// none in the last 2 s, but this node has led, or heard it without a gap, for less than 5 s.
    pub acknowledges: Option<bool>,
    /// The version of the application's commands that it understands; `None` if this node has not connected
    /// to it.
    pub app_version: Option<u32>,
    /// Time since anything was received from it, in milliseconds. 0 for this node itself; `None` if nothing
    /// was received.
    pub last_contact_age_ms: Option<u64>,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Number of proposals through this node.
    pub proposals: u64,
    /// Number of these that were forwarded to the leader.
    pub proposals_forwarded: u64,
    /// Number of these that ended with an error.
    pub proposals_failed: u64,
    /// Number of proposals in flight now.
    pub proposals_pending: u64,
    /// Number of reads at the levels leader and strong.
    pub reads: u64,
    /// How often this node gained or lost leadership.
    pub leader_changes: u64,
    /// How often the disk stalled.
    pub disk_stalls: u64,
    /// Number of disk syncs of the log.
    pub log_syncs: u64,
    /// Number of entries that were made durable.
    pub log_entries: u64,
}

#[derive(Default)]
pub(crate) struct CounterCells {
    pub(crate) proposals: AtomicU64,
    pub(crate) proposals_forwarded: AtomicU64,
    pub(crate) proposals_failed: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) leader_changes: AtomicU64,
    pub(crate) disk_stalls: AtomicU64,
}

/// The state of a node at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node_id: NodeId,
    /// Its cluster.
    pub cluster_id: String,
    /// The line of history that a restore or a recovery began; 0 if there was none.
    pub lineage: u64,
    /// The role of this node.
    pub role: Role,
    /// The latest term seen.
    pub term: u64,
    /// The leader, while a quorum is known to have followed it recently.
    pub leader: Option<NodeId>,
    /// The last entry of the log; `None` if it is empty.
    pub last_log_index: Option<u64>,
    /// The last entry that is known to be committed; `None` if none is.
    pub committed_index: Option<u64>,
    /// The last entry that the application has applied; `None` if there is none.
    pub applied_index: Option<u64>,
    /// The last entry in the newest snapshot; `None` without a snapshot.
    pub snapshot_index: Option<u64>,
    /// The last entry that was removed from the log; `None` if none was.
    pub purged_index: Option<u64>,
    /// On a leader, the time since the newest request was sent that a quorum has answered, in milliseconds.
    pub quorum_ack_age_ms: Option<u64>,
    /// On a follower, the time since the leader was heard, in milliseconds.
    pub last_leader_contact_age_ms: Option<u64>,
    /// Size of the log on disk, in bytes.
    pub log_disk_bytes: u64,
    /// Size of the snapshots on disk, in bytes.
    pub snapshot_disk_bytes: u64,
    /// Duration of the newest sync, in microseconds; `None` before the first.
    pub sync_last_us: Option<u64>,
    /// p99 of the last 1,024 syncs, in microseconds; `None` before the first.
    pub sync_p99_us: Option<u64>,
    /// The longest of the last 1,024 syncs, in microseconds; `None` before the first.
    pub sync_max_us: Option<u64>,
    /// Whether the disk is stalled now.
    pub stalled: bool,
    /// The index up to which this node has lost entries that it had acknowledged, because it has an older
    /// copy of its directory. It waits to be filled.
    pub lost_index: Option<u64>,
    /// Why the node had to stop; `None` if it did not.
    pub failure: Option<String>,
    /// The sets of voters. There are two while a change of the voters is not finished: then writes need a majority
    /// of each.
    pub voter_sets: Vec<Vec<NodeId>>,
    /// Every member, this node included.
    pub members: Vec<MemberStatus>,
    /// Counters since the start.
    pub counters: Counters,
}
