//! Transfers leadership, and takes it back if the transfer fails.
//!
//! When a transfer begins, the consensus core stops accepting writes and sending heartbeats, and never
//! resumes by itself. If the target hangs, the cluster would have no leader until the leases of the others
//! have run out. So a leader that was not replaced within one minimum election timeout stands for election
//! again, in a later term and by the normal rules.

use std::time::Duration;

use openraft::ServerState;
use openraft::raft::VoteRequest;

use crate::config::NodeId;
use crate::consensus::{self, TypeConfig, Vote};
use crate::error::AdminError;
use crate::inner::Inner;

/// How long a new leader may take to be connected. It is longer than the pause between two attempts.
const CONNECT_PATIENCE: Duration = Duration::from_millis(1_000);
/// How often progress is checked.
const POLL: Duration = Duration::from_millis(10);

/// The connected voter with the most entries, which only a leader knows.
pub(crate) fn best_successor(inner: &Inner) -> Option<NodeId> {
    inner.with_metrics(|metrics| {
        let voters = metrics.membership_config.voter_ids().filter(|id| *id != inner.config.node_id);
        voters
            .filter(|id| inner.links.is_connected(*id))
            .min_by_key(|id| consensus::lag(metrics, *id).unwrap_or(u64::MAX))
    })
}

/// Transfers leadership and waits until this node has lost it. After an error the cluster can still elect a
/// leader, because this node has begun to stand for election again.
pub(crate) async fn transfer_here(
    inner: &Inner,
    to: Option<NodeId>,
    timeout: Duration,
) -> Result<(), AdminError> {
    if to == Some(inner.config.node_id) {
        return Ok(());
    }
    let target = begin(inner, to).await?;
    let patience = Duration::from_millis(inner.config.election_timeout_min_ms).min(timeout);
    if !relieved(inner, patience).await && stand_again(inner, target).await? {
        return Err(AdminError::Refused(format!(
            "node {target} did not take over within {} ms; this node stands for election again",
            patience.as_millis()
        )));
    }
    let followed = async {
        while inner.with_metrics(|metrics| metrics.current_leader.is_none()) {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(timeout, followed).await.map_err(|_| AdminError::OutcomeUnknown)
}

/// Transfers leadership because this node stops. It does not stand for election again.
pub(crate) async fn hand_over_to_stop(inner: &Inner, patience: Duration) -> Result<(), AdminError> {
    begin(inner, None).await?;
    if relieved(inner, patience).await { Ok(()) } else { Err(AdminError::OutcomeUnknown) }
}

/// Whether the connection for heartbeats to a node is open, or opens soon. A node that has just restarted is
/// connected at the next attempt.
async fn is_connected_soon(inner: &Inner, id: NodeId) -> bool {
    let connected = async {
        while !inner.links.is_connected(id) {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(CONNECT_PATIENCE, connected).await.is_ok()
}

async fn begin(inner: &Inner, to: Option<NodeId>) -> Result<NodeId, AdminError> {
    let is_voter = |id: NodeId| {
        inner.with_metrics(|metrics| metrics.membership_config.voter_ids().any(|voter| voter == id))
    };
    let is_member = |id: NodeId| {
        inner.with_metrics(|metrics| metrics.membership_config.membership().get_node(&id).is_some())
    };
    let target = match to {
        Some(id) if !is_member(id) => {
            return Err(AdminError::NoSuchMember(format!("node {id} is not a member")));
        }
        Some(id) if !is_voter(id) => {
            return Err(AdminError::Refused(format!("node {id} is no voter")));
        }
        Some(id) if !is_connected_soon(inner, id).await => {
            return Err(AdminError::Refused(format!("node {id} is not connected")));
        }
        Some(id) => id,
        None => best_successor(inner)
            .ok_or_else(|| AdminError::Refused("no other voter is connected".to_owned()))?,
    };
    // The next leader relies on this one not waiting for the lease of an earlier leader.
    while inner.waits_for_earlier_leader() {
        tokio::time::sleep(POLL).await;
    }
    tracing::info!(target, "transferring leadership");
    inner.transfer_core(target).await?;
    Ok(target)
}

async fn relieved(inner: &Inner, patience: Duration) -> bool {
    let moved = async {
        while inner.with_metrics(|metrics| metrics.state == ServerState::Leader) {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(patience, moved).await.is_ok()
}

/// Gives up this node's leadership and stands for election again. Returns false if it was lost in the
/// meantime.
///
/// The core cannot undo a transfer. Casting this node's vote for the target in the next term, as the target's
/// own request would, ends the old leadership durably. The following campaign has no transfer mark and begins
/// with a pre-vote, so it cannot replace the target if that became leader unnoticed.
async fn stand_again(inner: &Inner, target: NodeId) -> Result<bool, AdminError> {
    let me = inner.config.node_id;
    let vote = inner
        .raft
        .with_raft_state(|state| *state.vote_ref())
        .await
        .map_err(|_| AdminError::ShuttingDown)?;
    if !vote.committed || vote.leader_id.voted_for != me {
        return Ok(false);
    }
    let request: VoteRequest<TypeConfig> = VoteRequest {
        vote: Vote::new(vote.leader_id.term + 1, target),
        last_log_id: inner.log.last_log_id(),
        leadership_transfer: true,
    };
    let answer = inner.raft.vote(request).await.map_err(|_| AdminError::ShuttingDown)?;
    if !answer.vote_granted {
        return Ok(false);
    }
    tracing::warn!(
        term = vote.leader_id.term,
        "no other node took over; this node stands for election again"
    );
    inner.raft.trigger().elect(true).await.map_err(|_| AdminError::ShuttingDown)?;
    Ok(true)
}
