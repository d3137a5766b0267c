//! Determines who leads.
//!
//! This node reports that it leads only while, by its own monotonic clock, a quorum has answered it recently,
//! its disk is not stalled, and no earlier leader can report the same. Readers that need the exact answer call
//! [`Inner::leads`], which reads the clock. `supervision` publishes changes.
//!
//! A leader that was elected early leads the core before that: it orders proposals and takes indexes for reads,
//! and acknowledges them once no earlier leader can answer a read from its lease ([`Inner::succeeded`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;

use crate::clock;
use crate::config::NodeId;
use crate::consensus::{Metrics, quorum_ack_age};
use crate::consensus_core::Raft;
use crate::error::AdminError;
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
    /// This node leads the core. It may still have to wait before it acknowledges anything.
    Here,
    There(NodeId, String),
    Unknown,
}

/// The lease of a term that this node has given up. If it is dropped before the core was asked to transfer its
/// leadership, the core goes on leading, and the lease is valid again.
struct GivenUp<'a> {
    transferring: &'a AtomicU64,
    term: u64,
    is_asked: bool,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if !self.is_asked {
            let order = (Ordering::AcqRel, Ordering::Acquire);
            let _ = self.transferring.compare_exchange(self.term, u64::MAX, order.0, order.1);
        }
    }
}

/// Waits until the core follows another leader than this one, or this node leads itself.
pub(crate) async fn another_is_followed(raft: &Raft, leader: NodeId) {
    let mut core = raft.server_metrics();
    loop {
        if core.borrow_watched().current_leader.is_some_and(|now| now != leader) {
            return;
        }
        if core.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

impl Inner {
    /// Whether this node leads, a quorum confirmed it recently, and no earlier leader can report that it leads.
    pub(crate) fn leads(&self) -> bool {
        self.with_metrics(|metrics| self.leads_by(metrics))
    }

    pub(crate) fn leads_by(&self, metrics: &Metrics) -> bool {
        self.leads_core_by(metrics)
            && self.waits_until(metrics, self.config.wait_for_reports()).is_none()
    }

    /// Whether this node orders proposals, and a quorum confirmed it recently. It may still have to wait before
    /// it acknowledges anything.
    pub(crate) fn leads_core(&self) -> bool {
        self.with_metrics(|metrics| self.leads_core_by(metrics))
    }

    fn leads_core_by(&self, metrics: &Metrics) -> bool {
        if metrics.state != ServerState::Leader
            || metrics.running_state.is_err()
            || self.is_stalled()
            || self.transferring.load(Ordering::Acquire) == metrics.current_term
        {
            return false;
        }
        self.is_lone_voter(metrics)
            || quorum_ack_age(metrics).is_some_and(|age| age < self.config.report_lease())
    }

    /// Until when this node, as a leader, waits for earlier leaders that can act for less than `wait` after their
    /// newest accepted request.
    fn waits_until(&self, metrics: &Metrics, wait: Duration) -> Option<Instant> {
        let succession = &self.links.context.succession;
        if metrics.state == ServerState::Leader {
            succession.leads(metrics.current_term, || self.is_lone_voter(metrics));
        }
        succession.waits_until(wait, self.config.longest_wait(), clock::now())
    }

    /// Waits until no earlier leader can answer a read from its lease. Returns false if that is not so at
    /// `deadline`. Everything that this node acknowledges as a leader waits for this.
    pub(crate) async fn succeeded(&self, deadline: Instant) -> bool {
        loop {
            let wait = self.config.wait_for_reads();
            let Some(until) = self.with_metrics(|metrics| self.waits_until(metrics, wait)) else {
                return true;
            };
            if until > deadline {
                return false;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// Whether this node, as a leader, still waits for an earlier one, so that it cannot transfer its leadership.
    pub(crate) fn waits_for_earlier_leader(&self) -> bool {
        let wait = self.config.longest_wait();
        self.with_metrics(|metrics| self.waits_until(metrics, wait)).is_some()
    }

    /// Makes the core transfer its leadership to `target`, if this node leads. Before that, this node stops acting
    /// under its lease, until the next term.
    pub(crate) async fn transfer_core(&self, target: NodeId) -> Result<(), AdminError> {
        let term_led = || {
            self.with_metrics(|metrics| {
                (metrics.state == ServerState::Leader).then_some(metrics.current_term)
            })
        };
        // A term that this node does not lead must not be given up: it may be elected in it later.
        let Some(term) = term_led() else { return Ok(()) };
        self.transferring.store(term, Ordering::Release);
        let mut given_up = GivenUp { transferring: &self.transferring, term, is_asked: false };
        let asked = self.raft.trigger().transfer_leader(target).await;
        // The core has the request, or has ended.
        given_up.is_asked = true;
        // In between, this node may have lost its leadership and won it again.
        if let Some(later) = term_led().filter(|now| *now != term) {
            self.transferring.store(later, Ordering::Release);
        }
        asked.map_err(|_| AdminError::ShuttingDown)
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
        if self.leads_core() {
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
