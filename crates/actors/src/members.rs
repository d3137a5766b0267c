//! The leader's knowledge about members, for nodes that do not lead.
//!
//! Place in the flow: a follower hears only the leader. So if an operator asks it for the status of the
//! cluster, it asks the leader which members it hears, and adds that if the leader answers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::peer::{self, HeardMembers, PeerRouter, PeerService, To};
use maxine_store::{ClusterStatus, ControlStore, MemberView, NodeRole};

/// Time limit for the leader's answer. Without an answer, this node shows only what it knows itself.
const CALL_TIMEOUT: Duration = Duration::from_millis(500);

/// A weak reference, because the store owns the router that owns this.
struct MembersService(Weak<dyn ControlStore>);

impl PeerService<HeardMembers> for MembersService {
    fn answer(&self, _: HeardMembers) -> BoxFuture<'static, Result<Vec<MemberView>, String>> {
        let status =
            self.0.upgrade().and_then(|store| store.cluster()).map(|cluster| cluster.status());
        let members =
            status.filter(|status| status.role == NodeRole::Leader).map(|status| status.members);
        let answer = members.ok_or_else(|| "this node does not lead".to_owned());
        futures::future::ready(answer).boxed()
    }
}

/// While this node leads, answers other nodes which members it hears.
pub fn serve(store: &Arc<dyn ControlStore>, peers: &PeerRouter) {
    peers.heard_members.set(MembersService(Arc::downgrade(store)));
}

/// This node's status, completed with the leader's knowledge if another node leads and answers.
pub async fn status(store: &dyn ControlStore) -> Option<ClusterStatus> {
    let mut status = store.cluster()?.status();
    if status.role != NodeRole::Leader
        && status.leader.is_some()
        && status.reachable_voters.is_some()
        && let Ok(heard) = peer::call(store, To::Leader, HeardMembers, CALL_TIMEOUT).await
    {
        status = filled(status, &heard);
    }
    Some(status)
}

fn filled(mut status: ClusterStatus, heard: &[MemberView]) -> ClusterStatus {
    let mut members = std::mem::take(&mut status.members);
    for member in &mut members {
        let Some(heard) = heard.iter().find(|heard| heard.id == member.id) else { continue };
        // What this node knows itself is kept.
        member.reachable = member.reachable.or(heard.reachable);
        member.acknowledges = member.acknowledges.or(heard.acknowledges);
        member.matched_index = member.matched_index.or(heard.matched_index);
        member.last_contact_ms = member.last_contact_ms.or(heard.last_contact_ms);
        member.state_version = member.state_version.or(heard.state_version);
    }
    status.with_members(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, reachable: Option<bool>) -> MemberView {
        MemberView {
            id,
            name: format!("node-{id}"),
            peer_addr: String::new(),
            http_addr: String::new(),
            voter: true,
            leader: id == 2,
            reachable,
            acknowledges: None,
            matched_index: None,
            last_contact_ms: None,
            state_version: None,
        }
    }

    #[test]
    fn a_voter_of_which_nothing_is_known_counts_as_lost() {
        let of = |reachable: &[Option<bool>]| {
            let each =
                reachable.iter().enumerate().map(|(at, known)| member(at as u64 + 1, *known));
            ClusterStatus::default().with_members(each.collect())
        };
        let alone = of(&[Some(true), None, Some(false)]);
        assert_eq!(
            (alone.majority, alone.reachable_voters, alone.failures_tolerated),
            (2, Some(1), Some(0))
        );
        assert!(alone.lacks_majority());
        // A fresh node claimed that one voter is needed and none can be reached.
        let fresh = of(&[]);
        assert_eq!(
            (fresh.majority, fresh.reachable_voters, fresh.failures_tolerated),
            (0, None, None)
        );
        assert!(!fresh.lacks_majority());
        let led = of(&[Some(true), Some(true), None]);
        assert_eq!((led.reachable_voters, led.failures_tolerated), (Some(2), Some(0)));
        assert!(!led.lacks_majority());
        // A node that no longer belongs to the cluster has no counts, so it does not claim to lack a majority.
        let excluded = of(&[Some(true), None, None]).without_counts();
        assert_eq!((excluded.reachable_voters, excluded.failures_tolerated), (None, None));
        assert!(!excluded.lacks_majority());
        // A voter that answers but acknowledges nothing does not count as reachable.
        let mute = MemberView { acknowledges: Some(false), ..member(3, Some(true)) };
        let members = vec![member(1, Some(true)), member(2, Some(true)), mute];
        let mute = ClusterStatus::default().with_members(members);
        assert_eq!((mute.reachable_voters, mute.failures_tolerated), (Some(2), Some(0)));
        // A follower that asks the leader counts the members that the leader hears.
        let filled = filled(led, &of(&[None, None, Some(true)]).members);
        assert_eq!(filled.members[2].reachable, Some(true));
        assert_eq!(filled.failures_tolerated, Some(1));
        // After an interrupted removal of node 1, writes need node 3, which was lost before.
        let joint =
            ClusterStatus { voter_sets: vec![vec![1, 2, 3], vec![2, 3]], ..Default::default() };
        let joint = joint.with_members(vec![
            member(1, Some(true)),
            member(2, Some(true)),
            member(3, Some(false)),
        ]);
        assert_eq!((joint.majority, joint.reachable_voters), (2, Some(1)));
        assert!(joint.lacks_majority());
        let dead = filled_with_dead();
        assert_eq!((dead.members[2].reachable, dead.failures_tolerated), (Some(false), Some(0)));
    }

    /// A voter that has just returned is heard before it acknowledges anything, and does not help to form a majority yet.
    #[test]
    fn a_voter_that_has_not_acknowledged_yet_is_not_counted_while_there_is_a_leader() {
        let of = |leader: Option<u64>, acknowledges: Option<bool>| {
            let third = MemberView { acknowledges, ..member(3, Some(true)) };
            let members = vec![member(1, Some(true)), member(2, Some(true)), third];
            let status = ClusterStatus { node_id: 1, leader, ..ClusterStatus::default() };
            let status = status.with_members(members);
            (status.reachable_voters, status.failures_tolerated)
        };
        assert_eq!(of(Some(2), None), (Some(2), Some(0)));
        assert_eq!(of(Some(2), Some(true)), (Some(3), Some(1)));
        // Without a leader nobody can acknowledge anything. Then whoever answers can elect one.
        assert_eq!(of(None, None), (Some(3), Some(1)));
    }

    fn filled_with_dead() -> ClusterStatus {
        let members = vec![member(1, Some(true)), member(2, Some(true)), member(3, None)];
        let status = ClusterStatus::default().with_members(members);
        filled(status, &[member(3, Some(false))])
    }
}
