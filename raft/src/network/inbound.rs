//! Answers the requests of peers, with the consensus core and the application.
//!
//! A heartbeat is answered as soon as the core has processed it, and never waits for a disk write. After a
//! restart, votes are refused for a while, because a lease that this node granted before is not stored on its
//! disk. A vote that a transfer of leadership asks for is the exception: the leader itself gives its lease
//! up.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use openraft::storage::RaftStateMachine;
use parking_lot::Mutex;

use super::context::Context;
use super::handshake::PROTOCOL_OF_EARLY_ELECTIONS;
use crate::application::PeerHandler;
use crate::clock;
use crate::codec::{
    AdminRefusalDto, AppendDto, LogIdDto, ProposeRefusalDto, Request, Response, VoteDto,
    VoteRequestDto,
};
use crate::config::NodeId;
use crate::consensus::{self, TypeConfig, Vote};
use crate::consensus_core::Raft;
use crate::exclusion::removal_of;
use crate::inner::Inner;
use crate::roster::MembershipStatus;
use crate::storage::snapshots::{SnapshotFile, SnapshotStore};
use crate::succession::{Accepting, Succession};
use crate::{forward, quorum, suspicion};

/// The pause between two rounds of questions about nodes that this one does not know.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// The pause between two log lines about nodes that this one does not know.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

pub(crate) struct Inbound {
    pub(crate) context: Arc<Context>,
    pub(crate) raft: Raft,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) handler: Arc<dyn PeerHandler>,
    pub(crate) node: Weak<Inner>,
    /// Before this time no vote is granted, except for a transfer of leadership.
    pub(crate) votes_from: Instant,
    /// Whether the known members are being asked about a node that this one does not know.
    pub(crate) asking: Arc<AtomicBool>,
    /// When the last warning about such a node was logged.
    pub(crate) warned: Mutex<Option<Instant>>,
    pub(crate) request_timeout: Duration,
}

impl Inbound {
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    pub(crate) fn snapshots(&self) -> &SnapshotStore {
        &self.snapshots
    }

    /// Answers one request. The future may be dropped at any point.
    pub(crate) async fn answer(&self, from: NodeId, request: Request) -> Response {
        if let Some(refusal) = self.refusal(from, &request) {
            return refusal;
        }
        if let Some(refusal) = self.not_followed(&request).await {
            return refusal;
        }
        match request {
            Request::Ping => self.pong(from),
            Request::AppliedIndex => self.applied_index(),
            Request::Membership => self.membership(),
            Request::Append(append) => {
                let accepting = self.context.succession.accepting(append.vote.term);
                self.note_leader(from, accepting, append_to(&self.raft, append).await)
            }
            Request::Heartbeat(append) => {
                let accepting = self.context.succession.accepting(append.vote.term);
                self.note_leader(from, accepting, heartbeat_to(&self.raft, append).await)
            }
            Request::Vote(request) => self.vote(request, false).await,
            Request::PreVote(request) => self.vote(request, true).await,
            Request::VoteWithAge(request) => self.vote_with_age(request).await,
            Request::Suspect { leader, last } => match self.node.upgrade() {
                Some(node) => Response::Suspects(
                    self.would_vote_early(from, leader.term, last)
                        && suspicion::supports(&node, from, leader, last).await,
                ),
                None => Response::Failed("the node is stopping".to_owned()),
            },
            Request::TransferLeader { .. } if !self.has_all_it_had() => {
                let reason = "this node may lack entries that it had acknowledged";
                Response::TransferRefused(reason.to_owned())
            }
            Request::TransferLeader { from: vote, to, last } => {
                if vote.node == from
                    && vote.committed
                    && to == self.context.me.node_id
                    && self.gives_its_lease_up(from)
                {
                    self.context.succession.transferred(vote.term + 1);
                }
                let request = TransferLeaderRequest::new(
                    consensus::vote_from_dto(vote),
                    to,
                    last.map(consensus::log_id_from_dto),
                );
                match self.raft.handle_transfer_leader(request).await {
                    Ok(Ok(())) => Response::Transferred,
                    Ok(Err(error)) => Response::TransferRefused(error.to_string()),
                    Err(error) => Response::Failed(error.to_string()),
                }
            }
            Request::App { body } => {
                let answering = self.handler.handle(from, Bytes::from(body));
                match tokio::time::timeout(self.request_timeout, answering).await {
                    Ok(Ok(body)) => Response::App { body: body.into() },
                    Ok(Err(reason)) => Response::AppRefused(reason),
                    Err(_) => Response::Failed("the handler took too long".to_owned()),
                }
            }
            Request::Propose { .. }
            | Request::ReadIndex { .. }
            | Request::Admin { .. }
            | Request::Confirm => match self.node.upgrade() {
                Some(node) => forward::answer(&node, &*self.handler, from, request).await,
                None => Response::Failed("the node is stopping".to_owned()),
            },
            Request::SnapshotBegin { .. }
            | Request::SnapshotChunk { .. }
            | Request::SnapshotEnd { .. } => {
                Response::Failed("a snapshot needs its own connection".to_owned())
            }
        }
    }

    /// Waits until this node knows what the others know about it, before it follows a leader. Refuses a
    /// leader that was replaced before this node acknowledged what it has lost.
    async fn not_followed(&self, request: &Request) -> Option<Response> {
        let (Request::Append(append) | Request::Heartbeat(append)) = request else { return None };
        self.settled().await;
        self.context.me.acknowledged.outranks(append.vote.term).then(|| {
            Response::Failed("this node had acknowledged entries of a later leader".to_owned())
        })
    }

    fn is_settled(&self) -> bool {
        let me = &self.context.me;
        me.acknowledged.is_settled(me.node_id, &me.roster.voters())
    }

    /// Whether this node has everything that it had acknowledged, as far as the others can know.
    fn has_all_it_had(&self) -> bool {
        self.context.me.acknowledged.lost().is_none() && self.is_settled()
    }

    async fn settled(&self) {
        if clock::now() >= self.votes_from {
            return;
        }
        let me = &self.context.me;
        me.acknowledged.settled(me.node_id, &me.roster.voters()).await;
    }

    /// Why a request from `from` is not answered; `None` if it is.
    ///
    /// Only members by the committed membership may send proposals, reads, administration and messages.
    /// Entries, votes and snapshots are also accepted from an unknown node once a known member has named it,
    /// because this node may have been off while the members changed. They are never accepted from a removed
    /// node.
    pub(crate) fn refusal(&self, from: NodeId, request: &Request) -> Option<Response> {
        let status = self.context.me.roster.status_of(from);
        match request {
            Request::Ping | Request::AppliedIndex => None,
            Request::Append(_)
            | Request::Heartbeat(_)
            | Request::Vote(_)
            | Request::PreVote(_)
            | Request::VoteWithAge(_)
            | Request::Suspect { .. }
            | Request::TransferLeader { .. }
            | Request::SnapshotBegin { .. }
            | Request::SnapshotChunk { .. }
            | Request::SnapshotEnd { .. } => {
                if status == MembershipStatus::Removed {
                    return Some(Response::Removed(removal_of(from)));
                }
                if self.believes(from) {
                    return None;
                }
                self.ask_about_node(from);
                Some(Response::Failed(format!("no member has named node {from} yet")))
            }
            Request::Propose { .. }
            | Request::ReadIndex { .. }
            | Request::App { .. }
            | Request::Admin { .. }
            | Request::Confirm
            | Request::Membership => match (status, request) {
                (MembershipStatus::Member, _) => None,
                (MembershipStatus::Removed, _) => Some(Response::Removed(removal_of(from))),
                (MembershipStatus::Unknown, _) => Some(Response::NotMember(format!(
                    "node {from} is not a member of this cluster; `maxine cluster add` makes it one"
                ))),
                // The founding is not committed on this node yet, so no request is answered.
                (MembershipStatus::NoMembership, Request::Propose { .. }) => {
                    Some(Response::ProposeRefused(ProposeRefusalDto::NoLeader))
                }
                (MembershipStatus::NoMembership, Request::ReadIndex { .. } | Request::Confirm) => {
                    Some(Response::ReadRefused)
                }
                (MembershipStatus::NoMembership, Request::Admin { .. }) => {
                    Some(Response::AdminRefused(AdminRefusalDto::NoLeader))
                }
                (MembershipStatus::NoMembership, _) => {
                    Some(Response::AppRefused("this node has not joined a cluster yet".to_owned()))
                }
            },
        }
    }

    /// Whether this node believes what `id` says, and accepts entries, votes and snapshots from it. It must be
    /// a member, or a member must have named it, here or in entries that are not committed yet. A node whose
    /// log names no member waits to join a cluster and cannot know better, so it believes every node with a
    /// certificate of the cluster.
    pub(crate) fn believes(&self, id: NodeId) -> bool {
        let roster = &self.context.me.roster;
        let named = || {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            (membership.nodes().next().is_none(), membership.get_node(&id).is_some())
        };
        match roster.status_of(id) {
            MembershipStatus::Member => true,
            MembershipStatus::Removed => false,
            MembershipStatus::Unknown => roster.is_reported_member(id) || named().1,
            MembershipStatus::NoMembership => {
                let (waits_to_join, is_named) = named();
                waits_to_join || is_named || roster.is_reported_member(id)
            }
        }
    }

    /// Asks the known members about a node, at most once in [`ASK_PAUSE`], because every node with a certificate can
    /// cause it.
    fn ask_about_node(&self, stranger: NodeId) {
        let Some(node) = self.node.upgrade() else { return };
        if self.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut warned = self.warned.lock();
        if warned.is_none_or(|at| clock::since(at) >= WARNING_PAUSE) {
            *warned = Some(clock::now());
            tracing::warn!(
                node = stranger,
                "a node that this one does not know sends entries or asks for a vote: the known members are asked about it"
            );
        }
        drop(warned);
        let asking = self.asking.clone();
        node.lifecycle.tasks.clone().spawn(async move {
            quorum::ask_about_unknown_nodes(&node).await;
            drop(node);
            tokio::time::sleep(ASK_PAUSE).await;
            asking.store(false, Ordering::Release);
        });
    }

    /// The answer to a ping. A removed node learns of its removal from it.
    pub(crate) fn pong(&self, from: NodeId) -> Response {
        match self.context.me.roster.status_of(from) {
            MembershipStatus::Removed => Response::Removed(removal_of(from)),
            _ => Response::Pong,
        }
    }

    fn applied_index(&self) -> Response {
        match self.node.upgrade() {
            Some(node) => Response::AppliedIndex { applied: *node.applied.borrow() },
            None => Response::Failed("the node is stopping".to_owned()),
        }
    }

    fn membership(&self) -> Response {
        let applied = self.context.me.roster.membership();
        Response::Membership {
            index: applied.log_id().as_ref().map_or(0, |id| id.index),
            membership: consensus::membership_to_dto(applied.membership()),
        }
    }

    /// Votes, unless a lease that this node granted before it stopped may still be valid, or the vote could
    /// lose acknowledged entries.
    async fn vote(&self, request: VoteRequestDto, pre: bool) -> Response {
        let votes = self.may_vote(&request, pre);
        let (candidate, term) = (request.vote.node, request.vote.term);
        let answer = vote_to(&self.raft, request, pre, votes).await;
        tracing::debug!(candidate, term, pre, votes, ?answer, "a vote was asked for");
        answer
    }

    async fn vote_with_age(&self, request: VoteRequestDto) -> Response {
        let votes = self.may_vote(&request, false);
        let succession = &self.context.succession;
        vote_with_age_to(&self.raft, succession, request, votes, clock::now).await
    }

    /// Whether the build of a node gives up its lease before it transfers its leadership.
    fn gives_its_lease_up(&self, leader: NodeId) -> bool {
        let contact = self.context.contacts.get(leader);
        contact.is_some_and(|contact| contact.protocol >= PROTOCOL_OF_EARLY_ELECTIONS)
    }

    fn may_vote(&self, request: &VoteRequestDto, pre: bool) -> bool {
        let lease_is_over = clock::now() >= self.votes_from;
        let may_vote = lease_is_over || (request.transfer && self.is_settled());
        may_vote && self.context.me.acknowledged.allows(request, pre)
    }

    /// Whether this node would vote for `candidate`, whose log ends at `last`, before the lease of the leader of
    /// `term` has run out.
    fn would_vote_early(&self, candidate: NodeId, term: u64, last: Option<LogIdDto>) -> bool {
        let vote = VoteDto { term: term + 1, node: candidate, committed: false };
        self.may_vote(&VoteRequestDto { vote, last, transfer: true }, true)
    }

    fn note_leader(&self, from: NodeId, accepting: Accepting<'_>, response: Response) -> Response {
        if is_accepted(&response) {
            accepting.accepted(clock::now());
            self.context.contacts.record_leader_contact(from);
        }
        response
    }

    pub(crate) async fn install_snapshot(
        &self,
        vote: VoteDto,
        file: SnapshotFile,
    ) -> io::Result<Response> {
        self.settled().await;
        if self.context.me.acknowledged.outranks(vote.term) {
            return Err(io::Error::other("this node had acknowledged entries of a later leader"));
        }
        tracing::debug!(leader = vote.node, index = file.index(), "a snapshot was received");
        let snapshot = openraft::Snapshot { meta: file.meta()?, snapshot: file };
        self.context.contacts.record_leader_contact(vote.node);
        let accepting = self.context.succession.accepting(vote.term);
        let installed = install_to(&self.raft, consensus::vote_from_dto(vote), snapshot).await?;
        let installed = consensus::vote_to_dto(&installed);
        if installed == vote {
            accepting.accepted(clock::now());
        }
        Ok(Response::SnapshotInstalled { vote: installed })
    }
}

/// Installs a leader's snapshot, and returns the vote of this node. If the log has the last entry that the snapshot covers,
/// it has everything before it too, and nothing is installed: the core expects that a snapshot goes beyond the log.
///
/// Refuses a snapshot with entries of a later term than the sender's. A leader that was replaced and already has entries of
/// the next leader can still send one for a moment, and the core stops at such a snapshot. The next leader sends its own.
///
/// This function and the next three work with any state machine: that of a node, and that of the simulation.
pub(crate) async fn install_to<SM>(
    raft: &openraft::Raft<TypeConfig, SM>,
    vote: Vote,
    snapshot: openraft::alias::SnapshotOf<TypeConfig, SM::SnapshotData>,
) -> io::Result<Vote>
where
    SM: RaftStateMachine<TypeConfig>,
{
    let last = snapshot.meta.last_log_id;
    if last.is_some_and(|last| last.leader_id.term > vote.leader_id.term) {
        return Err(io::Error::other("the snapshot has entries of a later leader than its sender"));
    }
    let has_last =
        AppendEntriesRequest { vote, prev_log_id: last, leader_commit: last, entries: Vec::new() };
    match raft.append_entries(has_last).await.map_err(io::Error::other)? {
        AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => Ok(vote),
        AppendEntriesResponse::HigherVote(higher) => Ok(higher),
        AppendEntriesResponse::Conflict => {
            let installed = raft.install_full_snapshot(vote, snapshot).await;
            Ok(installed.map_err(io::Error::other)?.vote)
        }
    }
}

/// Appends the entries of a leader.
pub(crate) async fn append_to<SM>(
    raft: &openraft::Raft<TypeConfig, SM>,
    append: AppendDto,
) -> Response
where
    SM: RaftStateMachine<TypeConfig>,
{
    match append_from_dto(append) {
        Ok(request) => answer_append(raft.append_entries(request).await),
        Err(reason) => Response::Failed(reason),
    }
}

/// Answers a heartbeat as soon as the core has processed it.
pub(crate) async fn heartbeat_to<SM>(
    raft: &openraft::Raft<TypeConfig, SM>,
    append: AppendDto,
) -> Response
where
    SM: RaftStateMachine<TypeConfig>,
{
    let vote = consensus::vote_from_dto(append.vote);
    let request = match append_from_dto(append) {
        Ok(request) if request.entries.is_empty() => request,
        Ok(_) => return Response::Failed("a heartbeat carries no entries".to_owned()),
        Err(reason) => return Response::Failed(reason),
    };
    let mut appending = std::pin::pin!(raft.append_entries(request));
    // The first poll queues the heartbeat. The question about the state follows in the same queue.
    if let std::task::Poll::Ready(answer) = futures::poll!(&mut appending) {
        return answer_append(answer);
    }
    let mut noted = std::pin::pin!(raft.with_raft_state(move |state| *state.vote_ref() == vote));
    tokio::select! {
        biased;
        answer = &mut appending => {
            // The question is queued. If nobody waited for its answer, the core would log an error.
            let _ = noted.await;
            answer_append(answer)
        }
        noted = &mut noted => match noted {
            // The core has processed the heartbeat without a conflict, so the lease is renewed, whatever the
            // disk does.
            Ok(true) => match futures::poll!(&mut appending) {
                std::task::Poll::Ready(answer) => answer_append(answer),
                std::task::Poll::Pending => Response::AppendOk,
            },
            Ok(false) => answer_append(appending.await),
            Err(error) => Response::Failed(error.to_string()),
        },
    }
}

/// Votes, or answers that it may not vote yet.
pub(crate) async fn vote_to<SM>(
    raft: &openraft::Raft<TypeConfig, SM>,
    request: VoteRequestDto,
    pre_vote: bool,
    votes: bool,
) -> Response
where
    SM: RaftStateMachine<TypeConfig>,
{
    if !votes {
        let state = raft.with_raft_state(|state| *state.vote_ref()).await;
        return match state {
            Ok(vote) => answer_vote(&VoteResponse::new(vote, None, false)),
            Err(error) => Response::Failed(error.to_string()),
        };
    }
    let request: VoteRequest<TypeConfig> = VoteRequest {
        vote: consensus::vote_from_dto(request.vote),
        last_log_id: request.last.map(consensus::log_id_from_dto),
        leadership_transfer: request.transfer,
    };
    let answer = if pre_vote { raft.pre_vote(request).await } else { raft.vote(request).await };
    match answer {
        Ok(answer) => answer_vote(&answer),
        Err(error) => Response::Failed(error.to_string()),
    }
}

/// Whether the core accepted a request of a leader. The leader then counts this node for its lease.
pub(crate) fn is_accepted(response: &Response) -> bool {
    matches!(response, Response::AppendOk | Response::AppendPartial(_) | Response::AppendConflict)
}

/// Votes, and says how long ago this node accepted a request of a leader.
pub(crate) async fn vote_with_age_to<SM>(
    raft: &openraft::Raft<TypeConfig, SM>,
    succession: &Succession,
    request: VoteRequestDto,
    votes: bool,
    now: impl Fn() -> Instant,
) -> Response
where
    SM: RaftStateMachine<TypeConfig>,
{
    // A leader that votes for another one acts under its lease until it has noticed that.
    let asked = now();
    let leads = raft.metrics().borrow_watched().state == ServerState::Leader;
    let term = request.vote.term;
    let response = vote_to(raft, request, false, votes).await;
    let Response::Vote { vote, granted, last } = response else { return response };
    // It may also have been elected while the core had not yet come to this request.
    let may_have_led = leads || succession.was_voted_for(asked);
    let age =
        if may_have_led { Some(Duration::ZERO) } else { succession.accepted_age(term, now()) };
    let micros = |age: Duration| u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
    Response::VoteWithAge { vote, granted, last, accepted_us: age.map(micros) }
}

fn append_from_dto(append: AppendDto) -> Result<AppendEntriesRequest<TypeConfig>, String> {
    Ok(AppendEntriesRequest {
        vote: consensus::vote_from_dto(append.vote),
        prev_log_id: append.prev.map(consensus::log_id_from_dto),
        leader_commit: append.commit.map(consensus::log_id_from_dto),
        entries: append
            .entries
            .into_iter()
            .map(consensus::entry_from_dto)
            .collect::<Result<_, _>>()?,
    })
}

fn answer_append<E: std::fmt::Display>(
    answer: Result<AppendEntriesResponse<TypeConfig>, E>,
) -> Response {
    match answer {
        Ok(AppendEntriesResponse::Success) => Response::AppendOk,
        Ok(AppendEntriesResponse::PartialSuccess(upto)) => {
            Response::AppendPartial(upto.as_ref().map(consensus::log_id_to_dto))
        }
        Ok(AppendEntriesResponse::Conflict) => Response::AppendConflict,
        Ok(AppendEntriesResponse::HigherVote(vote)) => {
            Response::HigherVote(consensus::vote_to_dto(&vote))
        }
        Err(error) => Response::Failed(error.to_string()),
    }
}

fn answer_vote(answer: &VoteResponse<TypeConfig>) -> Response {
    Response::Vote {
        vote: consensus::vote_to_dto(&answer.vote),
        granted: answer.vote_granted,
        last: answer.last_log_id.as_ref().map(consensus::log_id_to_dto),
    }
}
