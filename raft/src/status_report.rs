//! Collects the status of a node and its peers when it is requested.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::{Instant as _, ServerState};

use crate::clock;
use crate::config::{Member, NodeId};
use crate::consensus::{Metrics, quorum_ack_age};
use crate::inner::{Inner, RaftNode};
use crate::status::{Counters, Leadership, MemberStatus, Role, Status};

/// A member that was not heard for this long counts as unreachable.
const SILENCE_MAX: Duration = Duration::from_secs(2);

impl RaftNode {
    /// Time since this node last accepted a request of `leader`, in milliseconds; `None` if the newest one
    /// came from another leader. Of this node itself: how long no quorum had confirmed it when it began to lead again.
    /// A leader without a quorum is heard, too, and so are old requests after a pause of this node. So if no quorum
    /// was known to follow a leader for much longer, that time counts.
    pub fn leader_silence_ms(&self, leader: NodeId) -> Option<u64> {
        if leader == self.inner.config.node_id {
            return self.inner.led.lock().gap().map(clock::millis);
        }
        let heard = self.inner.links.context.contacts.leader_heard_age(leader)?;
        let confirmed = self.inner.freshness.last_confirmed_at().map(clock::since);
        let silence =
            confirmed.filter(|confirmed| *confirmed > heard + SILENCE_MAX).unwrap_or(heard);
        Some(clock::millis(silence))
    }

    /// The status now. It is cheap enough for a status page, but not for a hot path.
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// The line of history that a restore or a recovery began; 0 if there was none. Cheap enough for every
    /// request.
    pub fn lineage(&self) -> u64 {
        self.inner.dir.lineage()
    }

    /// The index up to which this node has lost entries that it had acknowledged, because it has an older
    /// copy of its directory. Until it is filled, it does not stand for election, and does not vote for a
    /// candidate that lacks these entries too.
    pub fn lost_index(&self) -> Option<u64> {
        self.inner.lost_index()
    }

    /// The index up to which this node knows that `id` has acknowledged the log; `None` if it knows nothing
    /// about it. A leader reports it to the other nodes with each heartbeat.
    pub fn acknowledged_index(&self, id: NodeId) -> Option<u64> {
        self.inner.links.context.me.acknowledged.of(id).map(|last| last.index)
    }

    /// What the membership has about a node. Cheap enough for every request.
    pub fn member(&self, id: NodeId) -> Option<Member> {
        self.inner
            .with_metrics(|metrics| metrics.membership_config.membership().get_node(&id).cloned())
    }
}

impl Inner {
    fn lost_index(&self) -> Option<u64> {
        self.links.context.me.acknowledged.lost().map(|lost| lost.last.index)
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
            lost_index: self.lost_index(),
            failure: self.health.failure().map(str::to_owned),
            voter_sets: metrics
                .membership_config
                .membership()
                .get_joint_config()
                .iter()
                .map(|set| set.iter().copied().collect())
                .collect(),
            members: self.members(metrics, leadership),
            counters: self.counters_now(),
        })
    }

    fn role(&self, metrics: &Metrics, is_leader: bool) -> Role {
        if metrics.running_state.is_err() || self.lifecycle.stop.is_cancelled() {
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

    /// Whether a member is reachable. A leader hears every member. A node without a leader asks every member.
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
        let leads_since = self.led.lock().since();
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
                // A node always hears itself.
                last_contact_age_ms: match *id == me {
                    true => Some(0),
                    false => contact.map(|contact| clock::millis(clock::since(contact.heard))),
                },
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
