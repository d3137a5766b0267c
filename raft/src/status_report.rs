//! Collects the status of a node and its peers when it is requested.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::{Instant as _, ServerState};

use crate::clock;
use crate::config::{Member, NodeId};
use crate::consensus::{Metrics, quorum_ack_age};
use crate::inner::{Inner, RaftNode};
use crate::network::contacts::SILENCE_MAX;
use crate::status::{Counters, Leadership, MemberStatus, Role, Status};

/// A member that a leader has heard for this long without an acknowledgement acknowledges nothing. Before that, it may
/// have just returned, and may still be catching up.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);

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
        let newest = metrics.heartbeat.as_ref().and_then(|last| last.get(&id)?.as_ref());
        let matched = metrics.replication.as_ref().and_then(|matched| matched.get(&id)?.as_ref());
        let contact = self.links.context.contacts.get(id);
        let led_for = self.led.lock().since().map(clock::since);
        judge_acknowledgements(
            newest.filter(|_| matched.is_some()).map(|at| at.elapsed()),
            contact.map(|contact| clock::since(contact.heard_since)),
            led_for,
        )
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

/// Whether a member acknowledges the entries of the leader. `newest` is the age of its newest acknowledgement,
/// `heard_for` and `led_for` say for how long the leader has heard it and has led. `None` if it is too early to say.
fn judge_acknowledgements(
    newest: Option<Duration>,
    heard_for: Option<Duration>,
    led_for: Option<Duration>,
) -> Option<bool> {
    if newest.is_some_and(|age| age < SILENCE_MAX) {
        return Some(true);
    }
    let mut waited = heard_for?.min(led_for?);
    if let Some(age) = newest {
        waited = waited.min(age);
    }
    (waited >= UNACKNOWLEDGED_MAX).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_has_just_returned_is_not_said_to_acknowledge_nothing() {
        let judged = |newest: Option<u64>, heard_for: u64, led_for: u64| {
            let ms = Duration::from_millis;
            judge_acknowledgements(newest.map(ms), Some(ms(heard_for)), Some(ms(led_for)))
        };
        assert_eq!(judged(Some(1_999), 60_000, 60_000), Some(true));
        // It was paused for a minute, and continued 10 ms ago.
        assert_eq!(judged(Some(60_000), 10, 90_000), None);
        assert_eq!(judged(Some(60_000), 4_999, 90_000), None);
        assert_eq!(judged(Some(65_000), 5_000, 95_000), Some(false));
        // Its process was restarted so quickly that the silence was short.
        assert_eq!(judged(Some(2_500), 90_000, 90_000), None);
        assert_eq!(judged(Some(5_000), 90_000, 90_000), Some(false));
        // It has never acknowledged an entry of this leader.
        assert_eq!(judged(None, 90_000, 4_999), None);
        assert_eq!(judged(None, 90_000, 5_000), Some(false));
        assert_eq!(judge_acknowledgements(None, None, Some(Duration::from_secs(60))), None);
    }
}
