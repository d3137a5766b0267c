//! Remembers how far each node has acknowledged the log.
//!
//! A node with an older copy of its directory has forgotten what it acknowledged, and for whom it voted. Its
//! vote could help a majority to lose acknowledged entries. Its peers remember: the leader knows how far each
//! member has stored the log, and reports it to the others with each heartbeat. When two nodes connect, each
//! reports to the other what it knows about it. A node whose log ends earlier is filled first. Meanwhile it
//! does not stand for election. It votes only for a candidate whose log has what the node had acknowledged,
//! and only in a term in which it cannot have voted before.
//!
//! A node follows no leader until it has met enough of the other voters, or until a limited time after its
//! start has passed. Otherwise a leader that was already replaced, with entries that contradict what the node
//! has forgotten, could reach it first, and get a majority with the node's answer.
//!
//! All of this is in memory. If every voter starts again, nothing is known and nothing blocks them. A loss
//! that no running peer knows about is not noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::Instant;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock;
use crate::codec::{LogIdDto, VoteRequestDto};
use crate::config::NodeId;
use crate::consensus::{self, LogId};
use crate::consensus_core::Raft;

/// Maximum number of remembered nodes. A cluster has far fewer members.
const NODES_MAX: usize = 4_096;

/// The entries that this node had acknowledged and has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LostEntries {
    /// The last entry that it had.
    pub(crate) last: LogId,
    /// The latest term in which it may have voted.
    pub(crate) term: u64,
}

#[derive(Default)]
pub(crate) struct Acknowledged {
    raft: OnceLock<Raft>,
    known: Mutex<BTreeMap<NodeId, LogId>>,
    lost: Mutex<Option<LostEntries>>,
    /// The peers that have reported, since the start of this node, how far it had acknowledged the log.
    reported: watch::Sender<BTreeSet<NodeId>>,
    /// From this time on, no peer is waited for. If it is not set, none is waited for at all.
    waits_until: OnceLock<Instant>,
}

impl Acknowledged {
    /// Gives access to the consensus core, once it runs.
    pub(crate) fn follow(&self, raft: Raft) {
        let _ = self.raft.set(raft);
    }

    /// Waits for the other voters, at most until this time.
    pub(crate) fn wait_until(&self, time: Instant) {
        let _ = self.waits_until.set(time);
    }

    /// Records that `peer` has reported what it knows about this node.
    pub(crate) fn reported_by(&self, peer: NodeId) {
        self.reported.send_if_modified(|reported| reported.insert(peer));
    }

    /// Whether this node knows what the others know about it: enough of `voters` have reported, or the time
    /// is over.
    pub(crate) fn is_settled(&self, me: NodeId, voters: &BTreeSet<NodeId>) -> bool {
        let over = self.waits_until.get().is_none_or(|until| clock::now() >= *until);
        over || enough_have_reported(&self.reported.borrow(), me, voters)
    }

    /// Waits for [`Self::is_settled`].
    pub(crate) async fn settled(&self, me: NodeId, voters: &BTreeSet<NodeId>) {
        let Some(until) = self.waits_until.get() else { return };
        if self.is_settled(me, voters) {
            return;
        }
        let mut reported = self.reported.subscribe();
        let enough = reported.wait_for(|reported| enough_have_reported(reported, me, voters));
        let _over = tokio::time::timeout_at((*until).into(), enough).await;
    }

    /// Whether the leader of `term` was replaced before this node acknowledged what it has lost.
    pub(crate) fn outranks(&self, term: u64) -> bool {
        self.lost().is_some_and(|lost| lost.last.leader_id.term > term)
    }

    /// Records that `node` has stored the log up to `last`.
    pub(crate) fn note(&self, node: NodeId, last: LogId) {
        let mut known = self.known.lock();
        if known.len() >= NODES_MAX && !known.contains_key(&node) {
            return;
        }
        let before = known.entry(node).or_insert(last);
        *before = (*before).max(last);
    }

    /// On a leader, reads from the core how far every member is.
    fn refresh(&self) {
        let Some(raft) = self.raft.get() else { return };
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return;
        }
        for (node, matched) in metrics.replication.iter().flatten() {
            if let Some(matched) = matched {
                self.note(*node, *matched);
            }
        }
        if let Some(committed) = &metrics.cluster_committed {
            self.note(metrics.id, *committed);
        }
    }

    /// How far a node has acknowledged the log.
    pub(crate) fn of(&self, node: NodeId) -> Option<LogId> {
        self.refresh();
        self.known.lock().get(&node).copied()
    }

    /// How far every node has acknowledged the log, for reporting it to others.
    pub(crate) fn all(&self) -> Vec<(NodeId, LogIdDto)> {
        self.refresh();
        let known = self.known.lock();
        known.iter().map(|(node, last)| (*node, consensus::log_id_to_dto(last))).collect()
    }

    /// On a leader, allows that `node` gets again what it had acknowledged before. Otherwise the core assumes
    /// that the node still has it, and never fills it.
    pub(crate) async fn allow_refill(&self, node: NodeId) {
        if let Some(raft) = self.raft.get() {
            // A node that does not lead cannot fill another one.
            let _ = raft.trigger().allow_next_revert(&node, true).await;
        }
    }

    /// Records how far this node had acknowledged the log according to a peer, and the peer's term.
    pub(crate) fn note_lost(&self, last: LogId, term: u64) {
        let mut lost = self.lost.lock();
        let before = lost.unwrap_or(LostEntries { last, term });
        if lost.is_none() {
            tracing::error!(
                upto = last.index,
                "this node has an older copy of its data directory: it lacks entries that it had \
                 acknowledged, and waits to be filled"
            );
        }
        *lost = Some(LostEntries { last: before.last.max(last), term: before.term.max(term) });
    }

    /// What this node still lacks of the entries that it had acknowledged.
    pub(crate) fn lost(&self) -> Option<LostEntries> {
        *self.lost.lock()
    }

    /// Records the present end of this node's log.
    pub(crate) fn filled(&self, last: Option<LogId>) {
        let mut lost = self.lost.lock();
        if lost.is_some_and(|lost| last >= Some(lost.last)) {
            *lost = None;
            tracing::warn!("this node has again what it had acknowledged");
        }
    }

    /// Whether this node may vote as requested. `pre` is true for a pre-vote, which only asks whether the
    /// node would vote.
    pub(crate) fn allows(&self, request: &VoteRequestDto, pre: bool) -> bool {
        let last = request.last.map(consensus::log_id_from_dto);
        let term = request.vote.term;
        // The candidate itself may have lost what it had acknowledged.
        let whole =
            self.of(request.vote.node).is_none_or(|acknowledged| last >= Some(acknowledged));
        let safe = |lost: LostEntries| last >= Some(lost.last) && (pre || term > lost.term);
        whole && self.lost().is_none_or(safe)
    }
}

/// Whether the peers that have reported include at least one of every majority that this node can have been
/// part of.
fn enough_have_reported(
    reported: &BTreeSet<NodeId>,
    me: NodeId,
    voters: &BTreeSet<NodeId>,
) -> bool {
    let others = voters.iter().filter(|id| **id != me);
    let needed =
        others.clone().count().min(voters.len() + 1 - consensus::majority_of(voters.len()));
    others.filter(|id| reported.contains(id)).count() >= needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::VoteDto;

    fn id(term: u64, index: u64) -> LogId {
        consensus::log_id_from_dto(LogIdDto { term, node: 0, index })
    }

    fn asks(node: NodeId, term: u64, last: LogId) -> VoteRequestDto {
        let vote = VoteDto { term, node, committed: false };
        VoteRequestDto { vote, last: Some(consensus::log_id_to_dto(&last)), transfer: false }
    }

    #[test]
    fn a_node_that_was_set_back_votes_only_for_who_has_what_it_had_acknowledged() {
        let acknowledged = Acknowledged::default();
        assert!(acknowledged.allows(&asks(2, 5, id(3, 7)), false));
        acknowledged.note_lost(id(4, 10), 4);
        acknowledged.note_lost(id(4, 9), 6);
        assert_eq!(acknowledged.lost(), Some(LostEntries { last: id(4, 10), term: 6 }));
        assert!(!acknowledged.allows(&asks(2, 7, id(4, 9)), false), "it lacks an entry");
        assert!(!acknowledged.allows(&asks(2, 6, id(4, 10)), false), "the vote may be given away");
        assert!(acknowledged.allows(&asks(2, 6, id(4, 10)), true));
        assert!(acknowledged.allows(&asks(2, 7, id(4, 10)), false));
        assert!(acknowledged.allows(&asks(2, 7, id(5, 8)), false), "a later term outranks it");
        acknowledged.filled(Some(id(4, 9)));
        assert!(acknowledged.lost().is_some());
        acknowledged.filled(Some(id(4, 10)));
        assert_eq!(acknowledged.lost(), None);
        assert!(acknowledged.allows(&asks(2, 5, id(3, 7)), false));
    }

    #[test]
    fn those_who_told_meet_every_majority_that_the_node_was_part_of() {
        for count in 1..=7_u64 {
            let voters: BTreeSet<NodeId> = (1..=count).collect();
            let majority = consensus::majority_of(voters.len());
            for set in 0..1_u64 << (count - 1) {
                let reported: BTreeSet<NodeId> =
                    (2..=count).filter(|id| set >> (id - 2) & 1 == 1).collect();
                // The largest group that could have acknowledged something together with node 1 and without
                // any of the peers that have reported.
                let unmet = voters.len() - reported.len();
                let all_met = unmet < majority || reported.len() == voters.len() - 1;
                assert_eq!(
                    enough_have_reported(&reported, 1, &voters),
                    all_met,
                    "{reported:?} of {voters:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_node_waits_for_those_who_may_know_more_but_not_for_ever() {
        let voters = BTreeSet::from([1, 2, 3]);
        let pristine = Acknowledged::default();
        assert!(pristine.is_settled(1, &voters));
        pristine.settled(1, &voters).await;
        let hour = std::time::Duration::from_secs(3_600);
        let restarted = Acknowledged::default();
        restarted.wait_until(clock::now() + hour);
        restarted.reported_by(2);
        assert!(!restarted.is_settled(1, &voters), "node 3 may know of a later leader");
        let mut settled = std::pin::pin!(restarted.settled(1, &voters));
        assert!(futures::poll!(&mut settled).is_pending());
        restarted.reported_by(3);
        settled.await;
        assert!(restarted.is_settled(1, &voters));
        let alone = Acknowledged::default();
        alone.wait_until(clock::now());
        assert!(alone.is_settled(1, &voters), "all voters may start together");
        alone.settled(1, &voters).await;
    }

    #[test]
    fn a_leader_before_what_was_lost_is_not_followed() {
        let acknowledged = Acknowledged::default();
        assert!(!acknowledged.outranks(3));
        acknowledged.note_lost(id(4, 10), 6);
        assert!(acknowledged.outranks(3));
        assert!(!acknowledged.outranks(4));
    }

    #[test]
    fn nobody_votes_for_a_candidate_that_was_set_back() {
        let acknowledged = Acknowledged::default();
        acknowledged.note(2, id(4, 10));
        acknowledged.note(2, id(4, 8));
        assert!(!acknowledged.allows(&asks(2, 5, id(4, 9)), false));
        assert!(acknowledged.allows(&asks(2, 5, id(4, 10)), false));
        assert!(acknowledged.allows(&asks(3, 5, id(4, 9)), false));
    }
}
