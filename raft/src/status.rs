//! What a node knows about itself and its peers, gathered when asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::{Instant as _, ServerState};

use crate::clock;
use crate::config::{Member, NodeId};
use crate::consensus::Metrics;
use crate::leadership::quorum_ack_age;
use crate::node::{Inner, RaftNode};

/// A member that was not heard for so long counts as out of reach.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Who leads, as far as this node can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The latest term seen.
    pub term: u64,
    /// The leader, while a quorum is known to have followed it recently.
    pub leader: Option<NodeId>,
    /// Whether this node leads and a quorum confirmed it recently.
    pub is_leader: bool,
}

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Leads, confirmed by a quorum.
    Leader,
    /// Follows.
    Follower,
    /// Stands for election, or leads without a quorum's confirmation.
    Candidate,
    /// Receives the log without voting.
    Learner,
    /// Has stopped.
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
    /// How far its log matches; known to the leader.
    pub matched_index: Option<u64>,
    /// Whether the connection for heartbeats to it stands (always for this node itself).
    pub connected: bool,
    /// Whether it was heard within the last two seconds; `None` where this node can't tell: a follower hears the
    /// leader alone.
    pub reachable: Option<bool>,
    /// On a leader: whether it acknowledges the leader's entries. A member that is reachable and does not is of no use for
    /// a majority. `None` where this node can't tell: it does not lead, or only began to.
    pub acknowledges: Option<bool>,
    /// The version of the command language that it speaks, once it was met.
    pub app_version: Option<u32>,
    /// How long ago anything was heard from it.
    pub last_contact_age_ms: Option<u64>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Proposals made through this node.
    pub proposals: u64,
    /// Of these, sent on to the leader.
    pub proposals_forwarded: u64,
    /// Of these, without a reply.
    pub proposals_failed: u64,
    /// Proposals in flight now.
    pub proposals_pending: u64,
    /// Reads of level leader or strong.
    pub reads: u64,
    /// Times that this node gained or lost leadership.
    pub leader_changes: u64,
    /// Times that the disk stalled.
    pub disk_stalls: u64,
    /// Disk syncs of the log.
    pub log_syncs: u64,
    /// Entries made durable.
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
    /// 0, or the line of history that a restore or recovery began.
    pub lineage: u64,
    /// What it is doing.
    pub role: Role,
    /// The latest term seen.
    pub term: u64,
    /// The leader, while a quorum is known to have followed it recently.
    pub leader: Option<NodeId>,
    /// End of the local log; `None` while it holds no entry.
    pub last_log_index: Option<u64>,
    /// What is known to be committed; `None` while nothing is.
    pub committed_index: Option<u64>,
    /// What the application has applied; `None` while that is nothing.
    pub applied_index: Option<u64>,
    /// What the newest snapshot covers; `None` without a snapshot.
    pub snapshot_index: Option<u64>,
    /// What was removed from the log; `None` if nothing was.
    pub purged_index: Option<u64>,
    /// On a leader: how long ago the newest request was sent that a quorum answered.
    pub quorum_ack_age_ms: Option<u64>,
    /// On a follower: how long ago the leader was heard.
    pub last_leader_contact_age_ms: Option<u64>,
    /// Bytes of the log on disk.
    pub log_disk_bytes: u64,
    /// Bytes of the snapshots on disk.
    pub snapshot_disk_bytes: u64,
    /// Duration of the latest sync; `None` before the first.
    pub sync_last_us: Option<u64>,
    /// 99th percentile of the last 1,024 syncs; `None` before the first.
    pub sync_p99_us: Option<u64>,
    /// The longest of the last 1,024 syncs; `None` before the first.
    pub sync_max_us: Option<u64>,
    /// Whether the disk is stalled now.
    pub stalled: bool,
    /// The index up to which this node has lost what it had acknowledged, with an older copy of its
    /// directory; it waits to be filled.
    pub owed_index: Option<u64>,
    /// Why the node had to stop, if it did.
    pub failure: Option<String>,
    /// Every member, this node included.
    pub members: Vec<MemberStatus>,
    /// Counts since the start.
    pub counters: Counters,
}

impl RaftNode {
    /// How long ago a request of `leader` was last accepted here, in milliseconds; `None` where the
    /// latest one came from another leader.
    pub fn leader_silence_ms(&self, leader: NodeId) -> Option<u64> {
        self.inner.links.context.contacts.leader_heard_age(leader).map(clock::millis)
    }

    /// The node's state now. Cheap enough for a status page, not for a hot path.
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// 0, or the line of history that a restore or recovery began. Cheap, for every request.
    pub fn lineage(&self) -> u64 {
        self.inner.dir.lineage()
    }

    /// The index up to which this node has lost what it had acknowledged: it was given an older copy of its
    /// directory. Until it is filled it neither stands for election nor votes for who lacks that, too.
    pub fn owed_index(&self) -> Option<u64> {
        self.inner.owed_index()
    }

    /// The index up to which this node knows `id` to have acknowledged the log; `None` if it knows nothing
    /// of it. Leaders tell the other nodes once a heartbeat.
    pub fn acknowledged_index(&self, id: NodeId) -> Option<u64> {
        self.inner.links.context.me.acknowledged.of(id).map(|last| last.index)
    }

    /// What the membership says of a node. Cheap, for every request.
    pub fn member(&self, id: NodeId) -> Option<Member> {
        self.inner
            .with_metrics(|metrics| metrics.membership_config.membership().get_node(&id).cloned())
    }
}

impl Inner {
    fn owed_index(&self) -> Option<u64> {
        self.links.context.me.acknowledged.owed().map(|owed| owed.last.index)
    }

    fn status(&self) -> Status {
        let leadership = self.leadership_now();
        let (sync_p99_us, sync_max_us) = self.health.sync_p99_max_us().unzip();
        let contacts = &self.links.context.contacts;
        let leader_age = leadership.leader.and_then(|leader| contacts.leader_heard_age(leader));
        self.with_metrics(|metrics| Status {
            node_id: self.config.node_id,
            cluster_id: self.config.cluster_id.clone(),
            lineage: self.dir.lineage(),
            role: self.role(metrics, leadership.is_leader),
            term: leadership.term,
            leader: leadership.leader,
            last_log_index: metrics.last_log_index,
            committed_index: metrics.local_committed.as_ref().map(|id| id.index),
            applied_index: metrics.last_applied.map(|_| *self.applied.borrow()),
            snapshot_index: metrics.snapshot.as_ref().map(|id| id.index),
            purged_index: metrics.purged.as_ref().map(|id| id.index),
            quorum_ack_age_ms: if metrics.state == ServerState::Leader {
                quorum_ack_age(metrics).map(clock::millis)
            } else {
                None
            },
            last_leader_contact_age_ms: if leadership.is_leader {
                None
            } else {
                leader_age.map(clock::millis)
            },
            log_disk_bytes: self.log.disk_bytes(),
            snapshot_disk_bytes: self.snapshots.disk_bytes(),
            sync_last_us: self.health.sync_last_us(),
            sync_p99_us,
            sync_max_us,
            stalled: self.is_stalled(),
            owed_index: self.owed_index(),
            failure: self.health.failure().map(str::to_owned),
            members: self.members(metrics, leadership),
            counters: self.counters_now(),
        })
    }

    fn role(&self, metrics: &Metrics, is_leader: bool) -> Role {
        if metrics.running_state.is_err() || self.stop.is_cancelled() {
            return Role::Shutdown;
        }
        match metrics.state {
            ServerState::Leader if is_leader => Role::Leader,
            ServerState::Leader | ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Shutdown,
        }
    }

    /// Whether a member is there. A leader hears everyone, and who has no leader asks everyone.
    fn reachable(&self, id: NodeId, leadership: Leadership) -> Option<bool> {
        let heard = self.links.context.contacts.get(id).map(|contact| contact.heard);
        if id == self.config.node_id || heard.is_some_and(|at| clock::since(at) < SILENCE_MAX) {
            return Some(true);
        }
        let hears_all = match leadership.leader {
            None => self.pinged.load(Ordering::Acquire),
            Some(leader) => leadership.is_leader || leader == id,
        };
        hears_all.then_some(false)
    }

    fn acknowledges(&self, metrics: &Metrics, id: NodeId, leadership: Leadership) -> Option<bool> {
        if !leadership.is_leader || id == self.config.node_id {
            return None;
        }
        let last = metrics.heartbeat.as_ref().and_then(|last| last.get(&id)?.as_ref());
        let lately = last.is_some_and(|at| at.elapsed() < SILENCE_MAX);
        let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&id)?.as_ref());
        if lately && matched.is_some() {
            return Some(true);
        }
        let leads_since = *self.leads_since.lock();
        leads_since.is_some_and(|at| clock::since(at) >= SILENCE_MAX).then_some(false)
    }

    fn members(&self, metrics: &Metrics, leadership: Leadership) -> Vec<MemberStatus> {
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
        let me = self.config.node_id;
        let member = |(id, member): (&NodeId, &Member)| {
            let contact = self.links.context.contacts.get(*id);
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|replication| replication.get(id))
                .and_then(|id| id.as_ref().map(|id| id.index));
            MemberStatus {
                id: *id,
                member: member.clone(),
                voter: voters.contains(id),
                matched_index: if *id == me { metrics.last_log_index } else { matched },
                connected: *id == me || self.links.is_connected(*id),
                reachable: self.reachable(*id, leadership),
                acknowledges: self.acknowledges(metrics, *id, leadership),
                app_version: if *id == me {
                    Some(self.config.app_version)
                } else {
                    contact.map(|contact| contact.app_version)
                },
                last_contact_age_ms: contact
                    .map(|contact| clock::millis(clock::since(contact.heard))),
            }
        };
        metrics.membership_config.nodes().map(member).collect()
    }

    fn counters_now(&self) -> Counters {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Counters {
            proposals: load(&self.counters.proposals),
            proposals_forwarded: load(&self.counters.proposals_forwarded),
            proposals_failed: load(&self.counters.proposals_failed),
            proposals_pending: (self.config.proposals_in_flight_max
                - self.in_flight.available_permits()) as u64,
            reads: load(&self.counters.reads),
            leader_changes: load(&self.counters.leader_changes),
            disk_stalls: load(&self.counters.disk_stalls),
            log_syncs: self.health.syncs(),
            log_entries: self.health.entries(),
        }
    }
}
