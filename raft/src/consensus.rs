//! Names the types of the consensus library, and converts them to our own.
//!
//! The rest of the crate uses these aliases. A type of the library reaches a disk or the network only after
//! its conversion to a type of `codec`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;

use crate::codec::{EntryDto, LogIdDto, MemberDto, MembershipDto, PayloadDto, VoteDto};
use crate::config::{Member, NodeId};
use crate::runtime::Runtime;

/// An opaque proposal.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// An opaque reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply(pub(crate) Bytes);

openraft::declare_raft_types!(
    /// Our choice of the library's type parameters.
    pub(crate) TypeConfig:
        D = Payload,
        R = Reply,
        NodeId = NodeId,
        Node = Member,
        // A term has one leader. The library's default lets a node with a greater id win a term that another
        // node has won already, and distinguishes the two by their ids.
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        AsyncRuntime = Runtime,
);

pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<NodeId, Member>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;

pub(crate) fn log_id_to_dto(id: &LogId) -> LogIdDto {
    LogIdDto { term: id.leader_id.term, node: 0, index: id.index }
}

pub(crate) fn log_id_from_dto(dto: LogIdDto) -> LogId {
    LogId::new(CommittedLeaderId::new(dto.term), dto.index)
}

pub(crate) fn vote_to_dto(vote: &Vote) -> VoteDto {
    VoteDto { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

pub(crate) fn vote_from_dto(dto: VoteDto) -> Vote {
    if dto.committed {
        Vote::new_committed(dto.term, dto.node)
    } else {
        Vote::new(dto.term, dto.node)
    }
}

pub(crate) fn member_to_dto(id: NodeId, member: &Member) -> MemberDto {
    MemberDto {
        id,
        peer_addr: member.peer_addr.clone(),
        http_addr: member.http_addr.clone(),
        name: member.name.clone(),
    }
}

pub(crate) fn member_from_dto(dto: MemberDto) -> (NodeId, Member) {
    (dto.id, Member { peer_addr: dto.peer_addr, http_addr: dto.http_addr, name: dto.name })
}

pub(crate) fn membership_to_dto(membership: &Membership) -> MembershipDto {
    MembershipDto {
        voters: membership
            .get_joint_config()
            .iter()
            .map(|set| set.iter().copied().collect())
            .collect(),
        members: membership.nodes().map(|(id, member)| member_to_dto(*id, member)).collect(),
    }
}

/// Fails on a set that no correct node can have written.
pub(crate) fn membership_from_dto(dto: MembershipDto) -> Result<Membership, String> {
    let voters: Vec<BTreeSet<NodeId>> =
        dto.voters.into_iter().map(|set| set.into_iter().collect()).collect();
    let members: BTreeMap<NodeId, Member> = dto.members.into_iter().map(member_from_dto).collect();
    if voters.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, members).map_err(|error| error.to_string())
}

pub(crate) fn entry_to_dto(entry: &Entry) -> EntryDto {
    let payload = match &entry.payload {
        openraft::EntryPayload::Blank => PayloadDto::Blank,
        openraft::EntryPayload::Normal(payload) => PayloadDto::Normal(payload.0.to_vec()),
        openraft::EntryPayload::Membership(membership) => {
            PayloadDto::Membership(membership_to_dto(membership))
        }
    };
    EntryDto { log_id: log_id_to_dto(&entry.log_id), payload }
}

pub(crate) fn entry_from_dto(dto: EntryDto) -> Result<Entry, String> {
    let payload = match dto.payload {
        PayloadDto::Blank => openraft::EntryPayload::Blank,
        PayloadDto::Normal(bytes) => openraft::EntryPayload::Normal(Payload(Bytes::from(bytes))),
        PayloadDto::Membership(membership) => {
            openraft::EntryPayload::Membership(membership_from_dto(membership)?)
        }
    };
    Ok(Entry { log_id: log_id_from_dto(dto.log_id), payload })
}

/// Approximate memory that an entry holds.
pub(crate) fn entry_weight(entry: &Entry) -> usize {
    64 + match &entry.payload {
        openraft::EntryPayload::Normal(payload) => payload.0.len(),
        openraft::EntryPayload::Membership(membership) => 128 * membership.nodes().count(),
        openraft::EntryPayload::Blank => 0,
    }
}

/// The majority of `voters`.
pub(crate) fn majority_of(voters: usize) -> usize {
    voters / 2 + 1
}

/// Number of entries that a member lacks, by the leader's comparison of the logs; `None` if the leader has
/// none.
pub(crate) fn lag(metrics: &Metrics, id: NodeId) -> Option<u64> {
    let matched = metrics.replication.as_ref()?.get(&id)?.as_ref()?;
    Some(metrics.last_log_index?.saturating_sub(matched.index))
}

/// Time since the latest request was sent that a quorum has answered.
pub(crate) fn quorum_ack_age(metrics: &Metrics) -> Option<Duration> {
    metrics.last_quorum_acked.as_ref().map(|acked| acked.elapsed())
}
