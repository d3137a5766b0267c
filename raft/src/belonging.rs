//! Determines whether this node still belongs to its cluster, and publishes it.

use std::time::Duration;

use crate::clock;
use crate::config::NodeId;
use crate::consensus::majority_of;
use crate::exclusion::{Exclusion, removal_of};
use crate::inner::{Inner, RaftNode};
use crate::roster::MembershipStatus;

/// A refusal that is not repeated within this time no longer counts.
const REFUSAL_AGE_MAX: Duration = Duration::from_secs(5);

impl RaftNode {
    /// Why this node does not belong to its cluster. `None` if it does, or if that is unknown. Cheap enough
    /// for every request.
    pub fn exclusion(&self) -> Option<Exclusion> {
        self.inner.exclusion.get()
    }
}

impl Inner {
    pub(crate) fn exclusion_now(&self) -> Option<Exclusion> {
        let me = self.config.node_id;
        if let Some(reason) = self.dir.removal() {
            return Some(Exclusion::Removed(reason));
        }
        if self.roster.status_of(me) == MembershipStatus::Removed {
            return Some(Exclusion::Removed(removal_of(me)));
        }
        if self.leadership_now().leader.is_some() {
            return None;
        }
        if let Some(reason) = self.links.context.me.refusals.reported_removal(REFUSAL_AGE_MAX) {
            return Some(Exclusion::Removed(reason));
        }
        let refusals = self.links.context.me.refusals.other_history.lock();
        let recent =
            |id: &NodeId| refusals.get(id).filter(|(at, _)| clock::since(*at) < REFUSAL_AGE_MAX);
        let voters: Vec<NodeId> = self.with_metrics(|m| m.membership_config.voter_ids().collect());
        let by: Vec<NodeId> = voters.iter().copied().filter(|id| recent(id).is_some()).collect();
        // A single such member may itself be the one with the old history.
        if by.is_empty() || voters.len() - by.len() >= majority_of(voters.len()) {
            return None;
        }
        let (_, first) = recent(&by[0])?;
        Some(Exclusion::OtherHistory(format!(
            "{} of {} voters refuse this node. Node {}: {first}. If the cluster was restored without this directory, \
             stop this node, remove its number and add a node with a number that was never used",
            by.len(),
            voters.len(),
            by[0],
        )))
    }
}

/// Stores the reason in the data directory if this node was removed, because that is final.
pub(crate) async fn store_removal(inner: &Inner) {
    if inner.dir.removal().is_some() {
        return;
    }
    let Some(Exclusion::Removed(reason)) = inner.exclusion_now() else { return };
    let dir = inner.dir.clone();
    let storing = tokio::task::spawn_blocking(move || dir.keep_removal(&reason));
    if let Err(error) = storing.await.map_err(std::io::Error::other).and_then(|stored| stored) {
        tracing::warn!(%error, "the removal of this node cannot be stored in its data directory");
    }
}

/// Publishes whether this node still belongs to its cluster, and logs changes.
pub(crate) fn watch_exclusion(inner: &Inner) {
    let now = inner.exclusion_now();
    if !inner.exclusion.set(now.as_ref()) {
        return;
    }
    match &now {
        Some(exclusion) => tracing::error!("{}", exclusion.reason()),
        None => tracing::info!("this node belongs to its cluster again"),
    }
    if matches!(now, Some(Exclusion::Removed(_))) {
        inner.raft.runtime_config().elect(false);
    }
}
