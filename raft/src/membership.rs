//! Changes the members of the cluster, one step at a time, on the leader.
//!
//! Every operation can be called on any node. It is forwarded to the leader, and repeated while it is certain
//! that nothing was changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use openraft::ChangeMembers;
use openraft::errors::{InitializeError, RaftError};

use crate::clock;
use crate::codec::{AdminDto, AdminRefusalDto, Channel, Request, Response};
use crate::config::{Member, NodeId};
use crate::consensus::{self, LogId};
use crate::error::AdminError;
use crate::inner::{Inner, RaftNode};
use crate::leadership::LeaderAt;
use crate::network::contacts::Introduction;
use crate::network::link::LinkError;
use crate::read::ReadLevel;
use crate::roster::MembershipStatus;
use crate::transfer::transfer_here;
use crate::{quorum, read};

/// Position of the founding members' entry in the log.
const FOUNDING: u64 = 0;
/// Share of an operation's time that its checks may take.
const CHECKS_SHARE: f64 = 0.6;
/// A change of the voters that is in its first step for this long was interrupted.
const INTERRUPTED_AFTER: Duration = Duration::from_secs(2);
/// Before a voter is removed, a majority of the remaining voters must answer within this time.
const REMOVAL_CHECK_TIMEOUT: Duration = Duration::from_millis(2_000);
/// How often progress is checked.
const POLL: Duration = Duration::from_millis(10);

impl RaftNode {
    /// Adds a node that receives the log and does not vote. Refused for the id of a removed member, because
    /// ids are never reused.
    pub async fn add_learner(&self, id: NodeId, member: Member) -> Result<(), AdminError> {
        self.inner.administer(AdminDto::AddLearner(consensus::member_to_dto(id, &member))).await
    }

    /// Makes a learner a voter. The learner must answer, and must report that it has nearly all of the log.
    /// The operation fails if the learner does not do so in time, or if no majority of the voters would be
    /// reachable. With `force`, nothing is checked; a vote for a node that does not run can cost the cluster
    /// its majority.
    pub async fn promote(&self, id: NodeId, force: bool) -> Result<(), AdminError> {
        self.inner.administer(AdminDto::Promote { id, force }).await
    }

    /// Removes a voter or a learner permanently. Its id cannot be used again. Refused if no majority of the
    /// remaining voters is reachable. With `force` that is accepted, and writes stop until enough of them are
    /// back.
    pub async fn remove(&self, id: NodeId, force: bool) -> Result<(), AdminError> {
        self.inner.administer(AdminDto::Remove { id, force }).await
    }

    /// Transfers leadership to the voter `to`. `None` means the connected voter with the most entries.
    pub async fn transfer_leadership(&self, to: Option<NodeId>) -> Result<(), AdminError> {
        self.inner.administer(AdminDto::Transfer(to)).await
    }
}

impl Inner {
    async fn administer(&self, operation: AdminDto) -> Result<(), AdminError> {
        let deadline = clock::now() + Duration::from_millis(self.config.request_timeout_ms);
        loop {
            let left = deadline.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err(AdminError::NoLeader);
            }
            let result = match self.leader_at() {
                LeaderAt::Here => carry_out(self, operation.clone(), left).await,
                LeaderAt::There(leader, addr) => {
                    let request = Request::Admin {
                        operation: operation.clone(),
                        timeout_ms: clock::millis(left),
                    };
                    match self
                        .links
                        .get(leader, &addr, Channel::App)
                        .request(&request, left + POLL)
                        .await
                    {
                        Ok(Response::AdminDone) => Ok(()),
                        Ok(Response::AdminRefused(refusal)) => Err(refusal_from_dto(refusal)),
                        Ok(Response::NotMember(reason) | Response::Removed(reason)) => {
                            Err(AdminError::Refused(reason))
                        }
                        Ok(Response::Busy) | Err(LinkError::Busy | LinkError::Unreachable(_)) => {
                            Err(AdminError::NoLeader)
                        }
                        // A leader that is stopping says so before it begins.
                        Ok(Response::Failed(_)) => Err(AdminError::NoLeader),
                        Ok(_) | Err(LinkError::Lost(_) | LinkError::Timeout) => {
                            Err(AdminError::OutcomeUnknown)
                        }
                    }
                }
                LeaderAt::Unknown => Err(AdminError::NoLeader),
            };
            match result {
                Err(AdminError::NoLeader | AdminError::NotLeader { .. }) => {}
                result => return result,
            }
            if self.lifecycle.stop.is_cancelled() {
                return Err(AdminError::ShuttingDown);
            }
            self.pause(deadline).await;
        }
    }
}

pub(crate) async fn bootstrap(
    inner: &Inner,
    members: BTreeMap<NodeId, Member>,
) -> Result<(), AdminError> {
    if !members.contains_key(&inner.config.node_id) {
        return Err(AdminError::Refused(format!(
            "node {} is not among the founding members",
            inner.config.node_id
        )));
    }
    if inner.dir.lineage() != 0 && inner.log.is_pristine() {
        return Err(AdminError::Refused(
            "this node's directory has no log, and the cluster was restored from a backup, so the node cannot join it \
             as a founder: remove its number from the cluster if it is a member there, and add a node with a new \
             number and an empty directory"
                .to_owned(),
        ));
    }
    match inner.raft.initialize(members.clone()).await {
        Ok(()) => Ok(()),
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
            let present = inner.with_metrics(|metrics| metrics.membership_config.clone());
            // The members of the founding keep their settings. Members have changed since.
            let changed_since = present.log_id().as_ref().is_some_and(|id| id.index > FOUNDING);
            let present: BTreeMap<NodeId, Member> =
                present.nodes().map(|(id, member)| (*id, member.clone())).collect();
            // A founding entry of another founder may still be in flight.
            if changed_since || present.is_empty() || are_same_founders(&present, &members) {
                Ok(())
            } else {
                Err(AdminError::Refused("the cluster exists already with other members".to_owned()))
            }
        }
        Err(RaftError::APIError(error)) => Err(AdminError::Refused(error.to_string())),
        Err(RaftError::Fatal(_)) => Err(AdminError::ShuttingDown),
    }
}

/// Whether two sets describe the same cluster: the same ids at the same peer addresses. Names may differ,
/// because a founder only knows its own name.
fn are_same_founders(
    present: &BTreeMap<NodeId, Member>,
    members: &BTreeMap<NodeId, Member>,
) -> bool {
    let peers = |set: &BTreeMap<NodeId, Member>| -> Vec<(NodeId, String)> {
        set.iter().map(|(id, member)| (*id, member.peer_addr.clone())).collect()
    };
    peers(present) == peers(members)
}

/// If this node leads, writes the names that nodes give themselves to the membership, so that a node has the
/// same name everywhere. An address for clients is taken over if the membership has none.
pub(crate) async fn adopt_introductions(inner: &Inner) {
    if !inner.leads() {
        return;
    }
    let contacts = &inner.links.context.contacts;
    let (_, present) = members(inner);
    let changed: BTreeMap<NodeId, Member> = present
        .into_iter()
        .filter_map(|(id, member)| {
            let own = || Introduction::of(&inner.config);
            let said =
                if id == inner.config.node_id { Some(own()) } else { contacts.introduction(id) };
            let mut next = member.clone();
            let Introduction { name, http_addr } = said?;
            if !name.is_empty() {
                next.name = name;
            }
            if next.http_addr.is_empty() {
                next.http_addr = http_addr;
            }
            (next != member).then_some((id, next))
        })
        .collect();
    if changed.is_empty() {
        return;
    }
    let timeout = Duration::from_millis(inner.config.request_timeout_ms);
    let changing = change(inner, ChangeMembers::SetNodes(changed));
    if let Ok(Err(error)) = tokio::time::timeout(timeout, changing).await {
        tracing::debug!(%error, "the names of members are taken over later");
    }
}

/// If this node leads, finishes a change of the voters that was interrupted between its two steps. Until then,
/// writes need a majority of the old voters and one of the new voters. `seen` remembers the unfinished change and
/// since when it is there: a change that is being made needs no help.
pub(crate) async fn finish_change(inner: &Inner, seen: &mut Option<(LogId, Instant)>) {
    let joint = inner.with_metrics(|metrics| {
        let config = &metrics.membership_config;
        let is_joint = config.membership().get_joint_config().len() > 1;
        (*config.log_id()).filter(|_| is_joint)
    });
    let Some(joint) = joint.filter(|_| inner.leads()) else {
        *seen = None;
        return;
    };
    let since = match seen {
        Some((id, since)) if *id == joint => *since,
        _ => clock::now(),
    };
    *seen = Some((joint, since));
    if clock::since(since) < INTERRUPTED_AFTER {
        return;
    }
    let timeout = Duration::from_millis(inner.config.request_timeout_ms);
    // Without a change of its own, this is only the second step.
    let finishing = change(inner, ChangeMembers::AddVoterIds(BTreeSet::new()));
    match tokio::time::timeout(timeout, finishing).await {
        Ok(Ok(())) => tracing::info!("an interrupted change of the membership was finished"),
        Ok(Err(error)) => tracing::debug!(%error, "a change of the membership is finished later"),
        Err(_) => tracing::debug!("a change of the membership is finished later"),
    }
}

/// Carries out an operation if this node leads.
pub(crate) async fn carry_out(
    inner: &Inner,
    operation: AdminDto,
    timeout: Duration,
) -> Result<(), AdminError> {
    if !inner.leads() {
        return Err(AdminError::NotLeader { hint: inner.leadership_now().leader });
    }
    tracing::info!(?operation, "membership operation");
    let work = async {
        match operation {
            AdminDto::AddLearner(member) => {
                add_learner(inner, consensus::member_from_dto(member), timeout).await
            }
            AdminDto::Promote { id, force } => promote(inner, id, force, timeout).await,
            AdminDto::Remove { id, force } => remove(inner, id, force, timeout).await,
            AdminDto::Transfer(to) => transfer_here(inner, to, timeout).await,
        }
    };
    tokio::time::timeout(timeout, work).await.unwrap_or(Err(AdminError::OutcomeUnknown))
}

fn members(inner: &Inner) -> (BTreeSet<NodeId>, BTreeMap<NodeId, Member>) {
    inner.with_metrics(|metrics| {
        let config = &metrics.membership_config;
        (
            config.voter_ids().collect(),
            config.nodes().map(|(id, member)| (*id, member.clone())).collect(),
        )
    })
}

/// Makes one change of the membership. It waits while an earlier change, including the founding, is not
/// committed, and changes nothing in that time. The caller limits the time.
async fn change(inner: &Inner, change: ChangeMembers<NodeId, Member>) -> Result<(), AdminError> {
    use openraft::errors::{ChangeMembershipError, ClientWriteError};
    loop {
        match inner.raft.change_membership(change.clone(), false).await {
            Ok(_) => return Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_),
            ))) => tokio::time::sleep(POLL).await,
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                return Err(AdminError::NotLeader { hint: forward.leader_id });
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                return Err(AdminError::OutcomeUnknown);
            }
            Err(RaftError::APIError(error)) => return Err(AdminError::Refused(error.to_string())),
            // The core ended while the change was in flight; other nodes may have it.
            Err(RaftError::Fatal(_)) => return Err(AdminError::OutcomeUnknown),
        }
    }
}

async fn add_learner(
    inner: &Inner,
    (id, member): (NodeId, Member),
    timeout: Duration,
) -> Result<(), AdminError> {
    let (voters, present) = members(inner);
    match present.get(&id) {
        Some(_) if voters.contains(&id) => {
            return Err(AdminError::Refused(format!("node {id} is a member already (voter)")));
        }
        Some(known) if *known == member => return Ok(()),
        Some(_) => {
            return Err(AdminError::Refused(format!(
                "node {id} is a member already, with other addresses"
            )));
        }
        None => {}
    }
    if let Some((other, _)) = present.iter().find(|(_, known)| known.peer_addr == member.peer_addr)
    {
        return Err(AdminError::Refused(format!(
            "peer address {} belongs to node {other}",
            member.peer_addr
        )));
    }
    if was_used(inner, id, timeout).await? {
        return Err(AdminError::Refused(format!(
            "node id {id} was used before and is never given out again: what such a node once \
             acknowledged may be gone with its disk; choose a new id"
        )));
    }
    change(inner, ChangeMembers::AddNodes(BTreeMap::from([(id, member)]))).await
}

/// Whether the id was ever a member, according to a state that has everything committed so far.
async fn was_used(inner: &Inner, id: NodeId, timeout: Duration) -> Result<bool, AdminError> {
    let index = read::read_index_here(inner, ReadLevel::Strong, timeout)
        .await
        .ok_or(AdminError::NoLeader)?;
    read::wait_applied(inner, index, timeout).await.map_err(|_| AdminError::NoLeader)?;
    Ok(inner.roster.status_of(id) == MembershipStatus::Removed)
}

async fn promote(
    inner: &Inner,
    id: NodeId,
    force: bool,
    timeout: Duration,
) -> Result<(), AdminError> {
    let (mut voters, present) = members(inner);
    if voters.contains(&id) {
        return Ok(());
    }
    let Some(member) = present.get(&id) else {
        return Err(AdminError::NoSuchMember(format!(
            "node {id} is not a member: add it as a learner first"
        )));
    };
    if !force {
        let deadline = clock::now() + timeout.mul_f64(CHECKS_SHARE);
        quorum::caught_up(inner, id, &member.peer_addr, deadline).await?;
        voters.insert(id);
        let what = format!("giving node {id} a vote");
        quorum::majority_answers(inner, &what, &voters, &present, deadline).await?;
    }
    change(inner, ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
}

async fn remove(
    inner: &Inner,
    id: NodeId,
    force: bool,
    timeout: Duration,
) -> Result<(), AdminError> {
    let (mut voters, present) = members(inner);
    if !present.contains_key(&id) {
        // The answer to an earlier attempt may have been lost. A removed member counts as success.
        return match was_used(inner, id, timeout).await? {
            true => Ok(()),
            false => Err(AdminError::NoSuchMember(format!("node {id} was never a member"))),
        };
    }
    if !voters.remove(&id) {
        return change(inner, ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await;
    }
    if voters.is_empty() {
        return Err(AdminError::Refused(format!("node {id} is the last voter")));
    }
    if !force {
        let deadline = clock::now() + REMOVAL_CHECK_TIMEOUT.min(timeout.mul_f64(CHECKS_SHARE));
        let what = format!("removing node {id}");
        quorum::majority_answers(inner, &what, &voters, &present, deadline).await?;
    }
    if id == inner.config.node_id {
        transfer_here(inner, None, timeout / 2).await?;
        return Err(AdminError::NotLeader { hint: inner.leadership_now().leader });
    }
    change(inner, ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await
}

pub(crate) fn refusal_to_dto(error: AdminError) -> AdminRefusalDto {
    match error {
        AdminError::NoLeader => AdminRefusalDto::NoLeader,
        AdminError::NotLeader { hint } => AdminRefusalDto::NotLeader { hint },
        AdminError::Refused(reason) => AdminRefusalDto::Refused(reason),
        AdminError::NoSuchMember(reason) => AdminRefusalDto::NoSuchMember(reason),
        AdminError::OutcomeUnknown => AdminRefusalDto::OutcomeUnknown,
        AdminError::NoSpace(reason) | AdminError::Io(reason) => AdminRefusalDto::Io(reason),
        AdminError::ShuttingDown => AdminRefusalDto::ShuttingDown,
    }
}

fn refusal_from_dto(refusal: AdminRefusalDto) -> AdminError {
    match refusal {
        AdminRefusalDto::NoLeader => AdminError::NoLeader,
        AdminRefusalDto::NotLeader { hint } => AdminError::NotLeader { hint },
        AdminRefusalDto::Refused(reason) => AdminError::Refused(reason),
        AdminRefusalDto::NoSuchMember(reason) => AdminError::NoSuchMember(reason),
        AdminRefusalDto::OutcomeUnknown => AdminError::OutcomeUnknown,
        AdminRefusalDto::Io(reason) => AdminError::Io(reason),
        // The leader is stopping; the next attempt finds another one.
        AdminRefusalDto::ShuttingDown => AdminError::NoLeader,
    }
}
