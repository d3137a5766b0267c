//! Determines who leads.
//!
//! This node reports that it leads only while, by its own monotonic clock, a quorum has answered it recently
//! and its disk is not stalled. Readers that need the exact answer call [`Inner::leads`], which reads the
//! clock. `supervision` publishes changes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openraft::ServerState;

use crate::clock;
use crate::config::NodeId;
use crate::consensus::{Metrics, quorum_ack_age};
use crate::inner::{Inner, RaftNode};
use crate::status::Leadership;

/// Pause before the next search for a leader.
const RETRY_PAUSE: Duration = Duration::from_millis(15);

impl RaftNode {
    /// Follows who leads. The value can be one tick old, or older if the process was paused. For a decision,
    /// use [`RaftNode::leadership`].
    pub fn watch(&self) -> tokio::sync::watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    /// Who leads now, by this node's own clock.
    pub fn leadership(&self) -> Leadership {
        self.inner.leadership_now()
    }
}

/// Where the leader is.
pub(crate) enum LeaderAt {
    Here,
    There(NodeId, String),
    Unknown,
}

impl Inner {
    /// Whether this node leads and a quorum confirmed it recently.
    pub(crate) fn leads(&self) -> bool {
        self.with_metrics(|metrics| self.leads_by(metrics))
    }

    pub(crate) fn leads_by(&self, metrics: &Metrics) -> bool {
        if metrics.state != ServerState::Leader
            || metrics.running_state.is_err()
            || self.is_stalled()
        {
            return false;
        }
        self.is_lone_voter(metrics)
            || quorum_ack_age(metrics)
                .is_some_and(|age| age < Duration::from_millis(self.config.election_timeout_min_ms))
    }

    /// Whether this node alone is the quorum.
    pub(crate) fn is_lone_voter(&self, metrics: &Metrics) -> bool {
        let mut voters = metrics.membership_config.voter_ids();
        voters.next() == Some(self.config.node_id) && voters.next().is_none()
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire) || self.health.busy_ms() > self.config.disk_stall_ms
    }

    pub(crate) fn leadership_now(&self) -> Leadership {
        self.with_metrics(|metrics| self.leadership_by(metrics))
    }

    pub(crate) fn leadership_by(&self, metrics: &Metrics) -> Leadership {
        let is_leader = self.leads_by(metrics);
        let leader =
            if is_leader { Some(self.config.node_id) } else { self.confirmed_leader(metrics) };
        Leadership { term: metrics.current_term, leader, is_leader }
    }

    /// The leader that this node follows, if a quorum is known to have followed it recently. Heartbeats are
    /// not sufficient, because a leader that has lost its quorum continues to send them.
    fn confirmed_leader(&self, metrics: &Metrics) -> Option<NodeId> {
        let leader = self.followed_leader(metrics)?;
        let at = self.freshness.confirmed_at(metrics.current_term)?;
        (clock::since(at) < self.leader_patience()).then_some(leader)
    }

    /// The node to which a follower sends requests for the leader, while it hears that node. The node must
    /// check itself whether it leads; this value must not be reported as the leader.
    pub(crate) fn heard_leader(&self) -> Option<NodeId> {
        let leader = self.with_metrics(|metrics| self.followed_leader(metrics))?;
        let heard = self.links.context.contacts.leader_heard_age(leader)?;
        (heard < self.leader_patience()).then_some(leader)
    }

    fn followed_leader(&self, metrics: &Metrics) -> Option<NodeId> {
        metrics
            .current_leader
            .filter(|leader| *leader != self.config.node_id && metrics.running_state.is_ok())
    }

    fn leader_patience(&self) -> Duration {
        Duration::from_millis(
            self.config.election_timeout_max_ms + self.config.election_timeout_min_ms,
        )
    }

    pub(crate) fn leader_at(&self) -> LeaderAt {
        if self.leads() {
            return LeaderAt::Here;
        }
        let heard = self.heard_leader();
        let reached = heard.and_then(|leader| Some((leader, self.member_addr(leader)?)));
        reached.map_or(LeaderAt::Unknown, |(leader, addr)| LeaderAt::There(leader, addr))
    }

    /// Waits a moment, or until leadership changes.
    pub(crate) async fn pause(&self, deadline: Instant) {
        let mut leadership = self.leadership.subscribe();
        let left = deadline.saturating_duration_since(clock::now());
        let _ = tokio::time::timeout(RETRY_PAUSE.min(left), leadership.changed()).await;
    }
}
