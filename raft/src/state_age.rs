//! Determines the staleness of this node's state, and whether the leader that it follows was confirmed.
//!
//! The arrival time of a message does not show when it was sent. A proxy or a socket buffer may have delayed
//! it, and a paused process reads it late. So a node asks the leader, and counts from the moment just before
//! it asked. The leader answers with its commit index, and with the time since it sent the latest request
//! that a quorum has accepted. Until that moment no other node can have committed anything. Once this node
//! has applied that commit index, it has everything that was acknowledged before that moment. Only durations
//! are sent, and no two clocks are compared. See `docs/decisions/0008-age-of-reads.md`.

use std::sync::Weak;
use std::time::{Duration, Instant};

use openraft::ServerState;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::codec::{Channel, ConfirmedDto, Request, Response};
use crate::config::NodeId;
use crate::consensus::{self, Metrics, quorum_ack_age};
use crate::inner::{Inner, RaftNode};
use crate::leadership::another_is_followed;

/// How often the node checks whether to ask.
const TICK: Duration = Duration::from_millis(20);

impl RaftNode {
    /// The staleness of this node's state: everything that was acknowledged longer ago has been applied here.
    /// `None` if that is not known for any moment. Cheap enough for every request. Call it before reading the
    /// state. Entries that are applied in between would make the state seem younger than it is.
    pub fn state_age(&self) -> Option<Duration> {
        self.inner.complete_at().map(clock::since)
    }
}

/// The moment `micros` before `now`; `None` only right after the machine's start.
fn before(now: Instant, micros: u64) -> Option<Instant> {
    now.checked_sub(Duration::from_micros(micros))
}

impl Inner {
    /// What this node can report as a leader that a quorum has confirmed, and a moment that is not later than
    /// the report. `None` until an entry of its own term is committed: before that it may not know everything
    /// that earlier leaders committed.
    fn confirmed_here(&self) -> Option<(ConfirmedDto, Instant)> {
        let now = clock::now();
        self.with_metrics(|metrics| {
            if !self.leads_by(metrics) {
                return None;
            }
            let term = metrics.current_term;
            let committed = metrics.cluster_committed.as_ref()?;
            let confirmed = ConfirmedDto {
                term,
                commit: committed.index,
                confirmed_us: self.confirmed_us(metrics)?,
                acknowledged: Vec::new(),
            };
            (committed.leader_id.term == term).then_some((confirmed, now))
        })
    }

    /// The latest moment for which this node's state contains everything that was acknowledged before.
    fn complete_at(&self) -> Option<Instant> {
        if let Some((confirmed, now)) = self.confirmed_here()
            && let Some(at) = before(now, confirmed.confirmed_us)
        {
            self.freshness.prove(confirmed.commit, at);
        }
        let applied = *self.applied.borrow();
        self.freshness.complete_at(applied)
    }

    fn confirmed_us(&self, metrics: &Metrics) -> Option<u64> {
        if self.is_lone_voter(metrics) {
            return Some(0);
        }
        let age = quorum_ack_age(metrics)?;
        u64::try_from(age.as_micros()).ok().map(|micros| micros + 1)
    }

    /// Answers a node that asks how far the log is committed.
    pub(crate) fn confirm(&self) -> Response {
        let Some((confirmed, _)) = self.confirmed_here() else { return Response::ReadRefused };
        let acknowledged = self.links.context.me.acknowledged.all();
        Response::Confirmed(ConfirmedDto { acknowledged, ..confirmed })
    }

    /// The node to ask now: the leader that the core follows, if a heartbeat interval has passed since the
    /// last question or nothing is known about its term.
    fn leader_to_ask(&self, asked: Option<Instant>) -> Option<(NodeId, String)> {
        let (term, leader) = self.with_metrics(|metrics| {
            let follows = metrics.state != ServerState::Leader && metrics.running_state.is_ok();
            (metrics.current_term, metrics.current_leader.filter(|_| follows))
        });
        let leader = leader.filter(|leader| *leader != self.config.node_id)?;
        let pause = Duration::from_millis(self.config.heartbeat_interval_ms);
        let due = asked.is_none_or(|asked| clock::since(asked) >= pause)
            || self.freshness.confirmed_at(term).is_none();
        let addr = self.member_addr(leader).filter(|_| due)?;
        Some((leader, addr))
    }
}

/// Asks the leader once per heartbeat interval how far the log is committed, and records what that proves,
/// until the node stops.
pub(crate) async fn ask_leader(node: Weak<Inner>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asked = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        // Not held during the wait for the answer, because that would keep a dropped node alive.
        let Some(inner) = node.upgrade() else { return };
        // This also runs if nobody asks. Proofs must not accumulate, and a leader must know its staleness
        // when it becomes a follower.
        inner.complete_at();
        let (links, freshness) = (inner.links.clone(), inner.freshness.clone());
        let patience = Duration::from_millis(inner.config.election_timeout_min_ms);
        let target = inner.leader_to_ask(asked);
        let raft = inner.raft.clone();
        drop(inner);
        let Some((leader, addr)) = target else { continue };
        let asked_at = clock::now();
        asked = Some(asked_at);
        let link = links.get(leader, &addr, Channel::Control);
        let answer = tokio::select! {
            () = stop.cancelled() => return,
            answer = link.request(&Request::Confirm, patience) => answer,
            // A leader that was replaced may never answer.
            () = another_is_followed(&raft, leader) => continue,
        };
        if let Ok(Response::Confirmed(confirmed)) = answer
            && let Some(at) = before(asked_at, confirmed.confirmed_us)
        {
            freshness.confirm(confirmed.term, at);
            freshness.prove(confirmed.commit, at);
            for (node, last) in confirmed.acknowledged {
                links.context.me.acknowledged.note(node, consensus::log_id_from_dto(last));
            }
        }
    }
}
