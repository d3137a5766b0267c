//! The simulated network between the nodes: messages are late, lost, repeated, reordered, and stopped by
//! partitions.
//!
//! It carries the same bytes as a real connection.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use parking_lot::Mutex;

use super::disk::SimSnapshot;
use super::running::Running;
use super::step::Step;
use super::virtual_clock;
use super::world::{Shared, hash_of};
use crate::codec::{self, Request, Response};
use crate::config::{Member, NodeId};
use crate::consensus::{self, TypeConfig, Vote};
use crate::network::inbound::{
    append_to, heartbeat_to, install_to, is_accepted, vote_to, vote_with_age_to,
};
use crate::network::outbound::{append_dto, latest_acceptance, vote_request};
use crate::succession::{Accepting, Succession};

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

/// The running nodes and the connections between them.
#[derive(Clone)]
pub(super) struct SimNet {
    pub(super) world: Shared,
    pub(super) running: Arc<Mutex<BTreeMap<NodeId, Running>>>,
}

/// The connections of one node.
pub(super) struct SimOutbound {
    pub(super) me: NodeId,
    pub(super) net: SimNet,
    pub(super) succession: Arc<Succession>,
}

/// The connection from one node to another.
pub(super) struct SimPeer {
    me: NodeId,
    target: NodeId,
    net: SimNet,
    succession: Arc<Succession>,
    heartbeats: bool,
}

impl SimOutbound {
    fn client(&self, target: NodeId, heartbeats: bool) -> SimPeer {
        let (net, succession) = (self.net.clone(), self.succession.clone());
        SimPeer { me: self.me, target, net, succession, heartbeats }
    }
}

impl RaftNetworkFactory<TypeConfig> for SimOutbound {
    type Network = SimPeer;

    async fn new_client(&mut self, target: NodeId, _: &Member) -> SimPeer {
        self.client(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _: &Member) -> SimPeer {
        self.client(target, true)
    }
}

/// Maximum delay of a message that is late, in milliseconds.
const LATE_MS: u64 = 2_500;

impl SimNet {
    /// Carries one message. Returns false if it is lost.
    async fn carry(&self, from: NodeId, to: NodeId, bytes: u64) -> bool {
        let (delay_ms, lost) = {
            let mut world = self.world.lock();
            let loss = world.loss_percent;
            let lost = world.cut.contains(&(from, to)) || world.dice.percent(loss);
            let most = world.delay_max_ms;
            let late = world.dice.percent(2);
            let delay = if late { world.dice.range(0, LATE_MS) } else { world.dice.range(0, most) };
            (delay, lost)
        };
        if lost {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        let mut world = self.world.lock();
        if world.cut.contains(&(from, to)) {
            return false;
        }
        world.outcome.messages += 1;
        world.note((from, to, bytes));
        true
    }

    fn node(&self, id: NodeId) -> Option<Running> {
        self.running.lock().get(&id).cloned()
    }

    /// Sends a request and returns its answer. Never returns if either is lost. An error means that the other
    /// node is not running.
    async fn ask(&self, from: NodeId, to: NodeId, request: Vec<u8>) -> Result<Response, String> {
        if !self.carry(from, to, hash_of(&request)).await {
            return std::future::pending().await;
        }
        let Some(node) = self.node(to) else { return Err("nobody is there".to_owned()) };
        let again = {
            let mut world = self.world.lock();
            let repeats = world.repeat_percent;
            world.dice.percent(repeats)
        };
        if again {
            let (net, request) = (self.clone(), request.clone());
            tokio::spawn(async move {
                if net.carry(from, to, hash_of(&request)).await
                    && let Some(node) = net.node(to)
                {
                    // Nobody waits for the second answer.
                    drop(answer(&node, from, to, &request).await);
                }
            });
        }
        let response = answer(&node, from, to, &request).await;
        // A process that has died no longer answers.
        if self.node(to).is_none_or(|now| now.process != node.process) {
            return std::future::pending().await;
        }
        let bytes = codec::encode(&response);
        if !self.carry(to, from, hash_of(&bytes)).await {
            return std::future::pending().await;
        }
        codec::decode(&bytes).map_err(|error| error.to_string())
    }
}

/// Answers a request as a real node does.
async fn answer(node: &Running, from: NodeId, me: NodeId, request: &[u8]) -> Response {
    let request: Request = match codec::decode(request) {
        Ok(request) => request,
        Err(error) => return Response::Failed(error.to_string()),
    };
    let votes = virtual_clock::now() >= node.votes_from;
    match request {
        Request::Append(append) => {
            let accepting = node.succession.accepting(append.vote.term);
            accepted(accepting, append_to(&node.raft, append).await)
        }
        Request::Heartbeat(append) => {
            let accepting = node.succession.accepting(append.vote.term);
            accepted(accepting, heartbeat_to(&node.raft, append).await)
        }
        Request::VoteWithAge(request) => {
            let votes = votes || request.transfer;
            let now = || virtual_clock::now().into_std();
            let answer = vote_with_age_to(&node.raft, &node.succession, request, votes, now).await;
            match answer {
                Response::VoteWithAge { vote, granted, last, accepted_us } => {
                    let accepted_us = accepted_us.map(|micros| node.measured(micros));
                    Response::VoteWithAge { vote, granted, last, accepted_us }
                }
                other => other,
            }
        }
        Request::PreVote(request) => vote_to(&node.raft, request, true, votes).await,
        Request::TransferLeader { from: vote, to, last } => {
            if vote.node == from && vote.committed && to == me {
                node.succession.transferred(vote.term + 1);
            }
            let request = TransferLeaderRequest::new(
                consensus::vote_from_dto(vote),
                to,
                last.map(consensus::log_id_from_dto),
            );
            match node.raft.handle_transfer_leader(request).await {
                Ok(Ok(())) => Response::Transferred,
                Ok(Err(error)) => Response::TransferRefused(error.to_string()),
                Err(error) => Response::Failed(error.to_string()),
            }
        }
        other => Response::Failed(format!("{other:?} is not for the consensus core")),
    }
}

fn accepted(accepting: Accepting<'_>, response: Response) -> Response {
    if is_accepted(&response) {
        accepting.accepted(virtual_clock::now().into_std());
    }
    response
}

impl SimPeer {
    async fn ask(&self, request: &Request, action: RPCTypes, ttl: Duration) -> Rpc<Response> {
        let asking = self.net.ask(self.me, self.target, codec::encode(request));
        match tokio::time::timeout(ttl, asking).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(reason)) => Err(RPCError::Unreachable(Unreachable::from_string(reason))),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.me,
                target: self.target,
                timeout: ttl,
            })),
        }
    }

    async fn ask_vote(&self, request: &Request, ttl: Duration) -> Rpc<VoteResponse<TypeConfig>> {
        let (vote, granted, last) = match self.ask(request, RPCTypes::Vote, ttl).await? {
            Response::Vote { vote, granted, last } => (vote, granted, last),
            Response::VoteWithAge { vote, granted, last, accepted_us } => {
                if let (Request::VoteWithAge(request), true) = (request, granted) {
                    let now = virtual_clock::now().into_std();
                    let accepted = latest_acceptance(now, accepted_us);
                    self.succession.voted(request.vote.term, accepted, now);
                }
                (vote, granted, last)
            }
            other => return Err(unexpected(&other)),
        };
        let (vote, last) = (consensus::vote_from_dto(vote), last.map(consensus::log_id_from_dto));
        Ok(VoteResponse::new(vote, last, granted))
    }
}

fn unexpected(response: &Response) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(format!("unexpected answer {response:?}")))
}

impl RaftNetworkV2<TypeConfig> for SimPeer {
    type SnapshotData = SimSnapshot;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let leads = Step::Leads { node: self.me, term: request.vote.leader_id.term };
        self.net.world.lock().happened(&leads);
        let append = append_dto(&request);
        let ask = match self.heartbeats && append.entries.is_empty() {
            true => Request::Heartbeat(append),
            false => Request::Append(append),
        };
        match self.ask(&ask, RPCTypes::AppendEntries, option.soft_ttl()).await? {
            Response::AppendOk => Ok(AppendEntriesResponse::Success),
            Response::AppendPartial(upto) => {
                Ok(AppendEntriesResponse::PartialSuccess(upto.map(consensus::log_id_from_dto)))
            }
            Response::AppendConflict => Ok(AppendEntriesResponse::Conflict),
            Response::HigherVote(vote) => {
                Ok(AppendEntriesResponse::HigherVote(consensus::vote_from_dto(vote)))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask_vote(&Request::VoteWithAge(vote_request(&request)), option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask_vote(&Request::PreVote(vote_request(&request)), option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SimSnapshot>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = async {
            let bytes = hash_of(&*snapshot.snapshot.bytes);
            if !self.net.carry(self.me, self.target, bytes).await {
                return std::future::pending().await;
            }
            let node = self.net.node(self.target).ok_or("nobody is there".to_owned())?;
            let accepting = node.succession.accepting(vote.leader_id.term);
            let installed = install_to(&node.raft, vote, snapshot).await;
            let installed = installed.map_err(|error| error.to_string())?;
            if installed == vote {
                accepting.accepted(virtual_clock::now().into_std());
            }
            if !self.net.carry(self.target, self.me, bytes).await {
                return std::future::pending().await;
            }
            Ok::<_, String>(SnapshotResponse::new(installed))
        };
        let ttl = option.soft_ttl().min(Duration::from_secs(10));
        match tokio::time::timeout(ttl, sending).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(reason)) => Err(StreamingError::Unreachable(Unreachable::from_string(reason))),
            Err(_) => Err(StreamingError::Timeout(Timeout {
                action: RPCTypes::InstallSnapshot,
                id: self.me,
                target: self.target,
                timeout: ttl,
            })),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let request = Request::TransferLeader {
            from: consensus::vote_to_dto(request.from_leader()),
            to: *request.to_node_id(),
            last: request.last_log_id().map(consensus::log_id_to_dto),
        };
        match self.ask(&request, RPCTypes::TransferLeader, option.soft_ttl()).await? {
            Response::Transferred => Ok(Ok(())),
            other => Err(unexpected(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::super::node::{NewApp, SimNode};
    use super::super::world::World;
    use super::super::{SimApplication, Violation};
    use super::*;
    use crate::application::tests::Nothing;
    use crate::consensus::{CommittedLeaderId, Entry, LogId, SnapshotMeta};

    impl SimApplication for Nothing {
        fn digest(&self) -> u64 {
            0
        }

        fn verdicts(&mut self) -> Vec<Violation> {
            Vec::new()
        }
    }

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1), index)
    }

    fn snapshot_up_to(last: LogId) -> openraft::alias::SnapshotOf<TypeConfig, SimSnapshot> {
        let meta = SnapshotMeta { last_log_id: Some(last), ..SnapshotMeta::default() };
        openraft::Snapshot {
            meta: meta.clone(),
            snapshot: SimSnapshot { meta, bytes: Arc::default() },
        }
    }

    /// The core expects that a snapshot goes beyond the log.
    #[tokio::test(start_paused = true)]
    async fn a_snapshot_whose_last_entry_is_in_the_log_is_not_installed() {
        let net = SimNet { world: World::new(1), running: Arc::default() };
        let app: NewApp = Arc::new(|| Box::new(Nothing));
        SimNode::new(1, 0).start(&net, &app, None).await.unwrap();
        let raft = net.node(1).unwrap().raft;
        let vote =
            consensus::vote_from_dto(crate::codec::VoteDto { term: 1, node: 2, committed: true });
        let blank = |index| Entry { log_id: id(index), payload: EntryPayload::Blank };
        let append = AppendEntriesRequest {
            vote,
            prev_log_id: None,
            leader_commit: Some(id(1)),
            entries: (0..5).map(blank).collect(),
        };
        raft.append_entries(append).await.unwrap();
        for (index, installed) in [(3, 0), (4, 0), (9, 1)] {
            assert_eq!(install_to(&raft, vote, snapshot_up_to(id(index))).await.unwrap(), vote);
            assert_eq!(net.world.lock().outcome.snapshots_installed, installed, "{index}");
        }
    }

    /// Regression, seed 3008287: a leader that was replaced sent a snapshot of the state that it had from the next leader, and
    /// the core of the node that got it stopped.
    #[tokio::test(start_paused = true)]
    async fn a_snapshot_with_entries_of_a_later_leader_than_its_sender_is_refused() {
        let net = SimNet { world: World::new(1), running: Arc::default() };
        let app: NewApp = Arc::new(|| Box::new(Nothing));
        SimNode::new(1, 0).start(&net, &app, None).await.unwrap();
        let raft = net.node(1).unwrap().raft;
        let vote = |term| {
            consensus::vote_from_dto(crate::codec::VoteDto { term, node: 2, committed: true })
        };
        let later = LogId::new(CommittedLeaderId::new(5), 9);
        let refused = install_to(&raft, vote(4), snapshot_up_to(later)).await.unwrap_err();
        assert!(refused.to_string().contains("later leader"), "{refused}");
        assert_eq!(install_to(&raft, vote(5), snapshot_up_to(later)).await.unwrap(), vote(5));
        assert_eq!(net.world.lock().outcome.snapshots_installed, 1);
    }
}
