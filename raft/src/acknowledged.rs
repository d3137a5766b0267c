//! How far each node is known to have acknowledged the log.
//!
//! A node that was given an older copy of its directory has forgotten what it acknowledged, and whom it
//! voted for. Its vote could help a majority to forget, too. Its peers remember: the leader knows how
//! far each member has stored the log, and tells the others once a heartbeat. When two nodes meet, each
//! tells the other what it knows of it. A node whose log ends before that is filled first. Meanwhile it
//! does not stand for election, and it votes only for a candidate whose log has what it had
//! acknowledged, in a term in which it cannot have voted before.
//!
//! Until it has met enough of the other voters for that, or a bounded time after its start has passed, a node follows
//! nobody: a leader that was replaced, with entries that contradict what the node has forgotten, may be the first to
//! reach it, and with the node's answer it would have a majority.
//!
//! All this is in memory: where every voter starts anew nothing is known, and nothing blocks them. What
//! no living peer knows is not noticed.

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
use crate::consensus::{self, LogId, Raft};
use crate::quorum;

/// Nodes that are kept in mind; members are far fewer.
const NODES_MAX: usize = 4_096;

/// What this node had acknowledged and has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    /// The end of the log that it had.
    pub(crate) last: LogId,
    /// The latest term in which it may have voted.
    pub(crate) term: u64,
}

#[derive(Default)]
pub(crate) struct Acknowledged {
    raft: OnceLock<Raft>,
    known: Mutex<BTreeMap<NodeId, LogId>>,
    owed: Mutex<Option<Owed>>,
    /// Who has told this node, since it started, how far it had acknowledged the log.
    told: watch::Sender<BTreeSet<NodeId>>,
    /// From then on nobody is waited for; at once if not set.
    waits_until: OnceLock<Instant>,
}

impl Acknowledged {
    /// Lets it ask the consensus core, once that runs.
    pub(crate) fn follow(&self, raft: Raft) {
        let _ = self.raft.set(raft);
    }

    /// Waits for the other voters until this time at the latest.
    pub(crate) fn wait_until(&self, time: Instant) {
        let _ = self.waits_until.set(time);
    }

    /// Notes that `peer` has told what it knows of this node.
    pub(crate) fn told_by(&self, peer: NodeId) {
        self.told.send_if_modified(|told| told.insert(peer));
    }

    /// Whether this node knows what the others know of it: enough of `voters` have told, or the time for that is over.
    pub(crate) fn is_settled(&self, me: NodeId, voters: &BTreeSet<NodeId>) -> bool {
        let over = self.waits_until.get().is_none_or(|until| clock::now() >= *until);
        over || has_told_enough(&self.told.borrow(), me, voters)
    }

    /// Returns once [`Self::is_settled`].
    pub(crate) async fn settled(&self, me: NodeId, voters: &BTreeSet<NodeId>) {
        let Some(until) = self.waits_until.get() else { return };
        if self.is_settled(me, voters) {
            return;
        }
        let mut told = self.told.subscribe();
        let enough = told.wait_for(|told| has_told_enough(told, me, voters));
        let _over = tokio::time::timeout_at((*until).into(), enough).await;
    }

    /// Whether the leader of `term` was replaced before this node acknowledged what it has lost.
    pub(crate) fn outranks(&self, term: u64) -> bool {
        self.owed().is_some_and(|owed| owed.last.leader_id.term > term)
    }

    /// Notes that `node` has the log up to `last` on its disk.
    pub(crate) fn note(&self, node: NodeId, last: LogId) {
        let mut known = self.known.lock();
        if known.len() >= NODES_MAX && !known.contains_key(&node) {
            return;
        }
        let before = known.entry(node).or_insert(last);
        *before = (*before).max(last);
    }

    /// On a leader, takes over what the core knows of every member.
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

    /// What is known of a node.
    pub(crate) fn of(&self, node: NodeId) -> Option<LogId> {
        self.refresh();
        self.known.lock().get(&node).copied()
    }

    /// What is known of every node, for telling others.
    pub(crate) fn all(&self) -> Vec<(NodeId, LogIdDto)> {
        self.refresh();
        let known = self.known.lock();
        known.iter().map(|(node, last)| (*node, consensus::log_id_to_dto(last))).collect()
    }

    /// Lets a leader send `node` again what it had acknowledged before. Without this the core takes its
    /// old acknowledgement for granted and never fills it.
    pub(crate) async fn fill_again(&self, node: NodeId) {
        if let Some(raft) = self.raft.get() {
            // Whoever does not lead has nothing to fill.
            let _ = raft.trigger().allow_next_revert(&node, true).await;
        }
    }

    /// Notes what a peer knows that this node had acknowledged, and the term that the peer is in.
    pub(crate) fn owe(&self, last: LogId, term: u64) {
        let mut owed = self.owed.lock();
        let before = owed.unwrap_or(Owed { last, term });
        if owed.is_none() {
            tracing::error!(
                upto = last.index,
                "this node has an older copy of its data directory: it lacks entries that it had \
                 acknowledged, and waits to be filled"
            );
        }
        *owed = Some(Owed { last: before.last.max(last), term: before.term.max(term) });
    }

    /// What this node still lacks of what it had acknowledged.
    pub(crate) fn owed(&self) -> Option<Owed> {
        *self.owed.lock()
    }

    /// Takes note of where the log of this node ends.
    pub(crate) fn filled(&self, last: Option<LogId>) {
        let mut owed = self.owed.lock();
        if owed.is_some_and(|owed| last >= Some(owed.last)) {
            *owed = None;
            tracing::warn!("this node has again what it had acknowledged");
        }
    }

    /// Whether this node may vote as it is asked to. `pre` asks only whether it would.
    pub(crate) fn allows(&self, request: &VoteRequestDto, pre: bool) -> bool {
        let last = request.last.map(consensus::log_id_from_dto);
        let term = request.vote.term;
        // The candidate itself may have lost what it had acknowledged.
        let whole =
            self.of(request.vote.node).is_none_or(|acknowledged| last >= Some(acknowledged));
        let safe = |owed: Owed| last >= Some(owed.last) && (pre || term > owed.term);
        whole && self.owed().is_none_or(safe)
    }
}

/// Whether among those who have told is surely one of every majority that this node was part of.
fn has_told_enough(told: &BTreeSet<NodeId>, me: NodeId, voters: &BTreeSet<NodeId>) -> bool {
    let others = voters.iter().filter(|id| **id != me);
    let needed = others.clone().count().min(voters.len() + 1 - quorum::majority_of(voters.len()));
    others.filter(|id| told.contains(id)).count() >= needed
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
        acknowledged.owe(id(4, 10), 4);
        acknowledged.owe(id(4, 9), 6);
        assert_eq!(acknowledged.owed(), Some(Owed { last: id(4, 10), term: 6 }));
        assert!(!acknowledged.allows(&asks(2, 7, id(4, 9)), false), "it lacks an entry");
        assert!(!acknowledged.allows(&asks(2, 6, id(4, 10)), false), "the vote may be given away");
        assert!(acknowledged.allows(&asks(2, 6, id(4, 10)), true));
        assert!(acknowledged.allows(&asks(2, 7, id(4, 10)), false));
        assert!(acknowledged.allows(&asks(2, 7, id(5, 8)), false), "a later term outranks it");
        acknowledged.filled(Some(id(4, 9)));
        assert!(acknowledged.owed().is_some());
        acknowledged.filled(Some(id(4, 10)));
        assert_eq!(acknowledged.owed(), None);
        assert!(acknowledged.allows(&asks(2, 5, id(3, 7)), false));
    }

    #[test]
    fn those_who_told_meet_every_majority_that_the_node_was_part_of() {
        for count in 1..=7_u64 {
            let voters: BTreeSet<NodeId> = (1..=count).collect();
            let majority = quorum::majority_of(voters.len());
            for set in 0..1_u64 << (count - 1) {
                let told: BTreeSet<NodeId> =
                    (2..=count).filter(|id| set >> (id - 2) & 1 == 1).collect();
                // The most that could have acknowledged something together with node 1, without any of these.
                let unmet = voters.len() - told.len();
                let all_met = unmet < majority || told.len() == voters.len() - 1;
                assert_eq!(has_told_enough(&told, 1, &voters), all_met, "{told:?} of {voters:?}");
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
        restarted.told_by(2);
        assert!(!restarted.is_settled(1, &voters), "node 3 may know of a later leader");
        let mut settled = std::pin::pin!(restarted.settled(1, &voters));
        assert!(futures::poll!(&mut settled).is_pending());
        restarted.told_by(3);
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
        acknowledged.owe(id(4, 10), 6);
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
