//! The membership that is committed and applied on this node.
//!
//! The consensus core also knows a membership that is not committed yet. Only the committed one, in this
//! module, decides whether a peer may propose, read or administer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use parking_lot::Mutex;

use crate::config::NodeId;
use crate::consensus::{Membership, StoredMembership};

/// A node's place in the committed membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MembershipStatus {
    /// It is a voter or a learner.
    Member,
    /// It was a member and was removed. Ids are never reused, so this is final.
    Removed,
    /// It was never a member, as far as this node has applied the log.
    Unknown,
    /// This node has applied no membership yet, because it waits to join a cluster.
    NoMembership,
}

/// The committed membership, and every id that was ever a member.
#[derive(Default)]
pub(crate) struct Roster(Mutex<Applied>);

#[derive(Default)]
struct Applied {
    membership: StoredMembership,
    used_ids: BTreeSet<NodeId>,
    /// Nodes that a member named as members, with the log index of that membership. The log of this node has
    /// not reached that index.
    reported: BTreeMap<NodeId, u64>,
}

impl Applied {
    fn apply(&mut self, membership: StoredMembership) {
        self.used_ids.extend(membership.membership().nodes().map(|(id, _)| *id));
        let index = membership.log_id().as_ref().map_or(0, |id| id.index);
        self.reported.retain(|_, named_at| *named_at > index);
        self.membership = membership;
    }
}

impl Roster {
    /// The membership that was applied last.
    pub(crate) fn membership(&self) -> StoredMembership {
        self.0.lock().membership.clone()
    }

    /// The voters of the membership that was applied last.
    pub(crate) fn voters(&self) -> BTreeSet<NodeId> {
        self.0.lock().membership.voter_ids().collect()
    }

    /// Stores an applied membership.
    pub(crate) fn apply(&self, membership: StoredMembership) {
        self.0.lock().apply(membership);
    }

    /// Stores the membership and the used ids of a snapshot. Both take effect at the same time: with the ids
    /// alone, every member would count as removed.
    pub(crate) fn install(&self, membership: StoredMembership, used_ids: &BTreeSet<NodeId>) {
        let mut applied = self.0.lock();
        applied.used_ids.extend(used_ids);
        applied.apply(membership);
    }

    /// Every id that was a member at or before the applied index. Like the application's state, it depends
    /// only on the log, and snapshots contain it.
    pub(crate) fn used_ids(&self) -> BTreeSet<NodeId> {
        self.0.lock().used_ids.clone()
    }

    /// The place of `id` in the committed membership.
    pub(crate) fn status_of(&self, id: NodeId) -> MembershipStatus {
        let applied = self.0.lock();
        if applied.membership.membership().get_node(&id).is_some() {
            MembershipStatus::Member
        } else if applied.used_ids.contains(&id) {
            MembershipStatus::Removed
        } else if applied.used_ids.is_empty() {
            MembershipStatus::NoMembership
        } else {
            MembershipStatus::Unknown
        }
    }

    /// Whether a member listens at this address. A member that is known by a name is left out.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        let applied = self.0.lock();
        let mut members = applied.membership.membership().nodes();
        members.any(|(_, member)| {
            let listens: Option<SocketAddr> = member.peer_addr.parse().ok();
            listens.is_some_and(|listens| listens.ip().to_canonical() == address)
        })
    }

    /// Whether a member named `id` in a membership that this node has not applied yet.
    pub(crate) fn is_reported_member(&self, id: NodeId) -> bool {
        self.0.lock().reported.contains_key(&id)
    }

    /// Records a membership that another member has applied. It has no effect unless it is newer than what this
    /// node has applied. The caller must know the other node as a member.
    pub(crate) fn record_report(&self, index: u64, membership: &Membership) {
        let mut applied = self.0.lock();
        if applied.membership.log_id().as_ref().is_some_and(|id| id.index >= index) {
            return;
        }
        let named = membership.nodes().map(|(id, _)| (*id, index));
        applied.reported.extend(named);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::codec::LogIdDto;
    use crate::config::Member;
    use crate::consensus::{self, LogId};

    fn log_id(index: u64) -> LogId {
        consensus::log_id_from_dto(LogIdDto { term: 1, node: 0, index })
    }

    fn membership(ids: &[NodeId]) -> Membership {
        let members: BTreeMap<NodeId, Member> =
            ids.iter().map(|id| (*id, Member::default())).collect();
        Membership::new(vec![ids.iter().copied().collect()], members).unwrap()
    }

    #[test]
    fn a_removed_node_is_told_from_one_that_was_never_added() {
        let roster = Roster::default();
        assert_eq!(roster.status_of(1), MembershipStatus::NoMembership);
        roster.apply(StoredMembership::new(Some(log_id(0)), membership(&[1, 2, 3])));
        roster.apply(StoredMembership::new(Some(log_id(9)), membership(&[1, 2])));
        assert_eq!(roster.status_of(2), MembershipStatus::Member);
        assert_eq!(roster.status_of(3), MembershipStatus::Removed);
        assert_eq!(roster.status_of(4), MembershipStatus::Unknown);
    }

    #[test]
    fn the_members_in_a_snapshot_are_at_no_time_taken_for_removed() {
        let roster = Arc::new(Roster::default());
        let ids: BTreeSet<NodeId> = (1..=4).collect();
        let others = roster.clone();
        let looking = std::thread::spawn(move || {
            while others.status_of(2) != MembershipStatus::Member {
                assert_ne!(others.status_of(3), MembershipStatus::Removed);
            }
        });
        roster.install(StoredMembership::new(Some(log_id(9)), membership(&[1, 2, 3])), &ids);
        looking.join().unwrap();
        assert_eq!(roster.status_of(4), MembershipStatus::Removed);
    }

    #[test]
    fn only_a_newer_membership_vouches_and_only_until_it_is_applied() {
        let roster = Roster::default();
        roster.record_report(5, &membership(&[9]));
        assert!(roster.is_reported_member(9), "its log names members, but none is committed yet");
        roster.apply(StoredMembership::new(Some(log_id(7)), membership(&[1, 2, 3])));
        roster.record_report(7, &membership(&[9]));
        assert!(!roster.is_reported_member(9), "an old membership");
        roster.record_report(8, &membership(&[1, 2, 4]));
        assert!(roster.is_reported_member(4) && !roster.is_reported_member(9));
        roster.apply(StoredMembership::new(Some(log_id(8)), membership(&[1, 2, 5])));
        assert!(!roster.is_reported_member(4), "what this node applied itself decides");
    }
}
