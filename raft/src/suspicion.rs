//! Notices early that the leader is gone, and starts an election.
//!
//! Two kinds of evidence, each of which a majority of the voters must find by itself:
//!
//! - **The process is gone**: every connection that the leader had opened to this node has ended, and its peer port
//!   refuses a new one, or closes it before the greeting. This node then asks the other voters whether they find the
//!   same. If a majority does, this node takes over as if the leader had transferred its leadership to it: voters
//!   accept such a vote although the lease that they grant the leader has not run out.
//! - **The leader is silent** for longer than that lease. This node then begins a normal pre-vote, without the
//!   additional random wait of the consensus core. A voter refuses it while it hears the leader.
//!
//! Evidence can be wrong: a firewall that refuses connections looks like a process that is gone. Nothing but the
//! time of an election rests on it. That an early leader and a former one contradict each other is prevented by
//! `succession` alone.

use std::collections::BTreeSet;
use std::io;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use openraft::ServerState;
use openraft::raft::TransferLeaderRequest;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::codec::{Channel, LogIdDto, Request, Response, VoteDto};
use crate::config::NodeId;
use crate::consensus::{self, Metrics, Vote, majority_of};
use crate::inner::Inner;
use crate::network::handshake::{self, PROTOCOL_OF_EARLY_ELECTIONS};

/// How often the evidence is checked.
const TICK: Duration = Duration::from_millis(20);
/// Time limit for an attempt to connect to another node. An attempt without a result is no evidence.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);
/// Time limit for the answer of another voter, which first tries to connect to the leader itself.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a voter that was asked waits for the end of its own connections from the leader. It may have noticed the
/// end a little later than the voter that asks.
const END_PATIENCE: Duration = Duration::from_millis(50);
/// How long after the end of the last connection this evidence is looked for. Later the leader's silence decides.
const EVIDENCE_MAX: Duration = Duration::from_millis(500);
/// How long a voter that has supported another one does not stand itself.
const YIELD: Duration = Duration::from_millis(200);
/// Pause between two attempts to replace a silent leader.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(200);

/// The leader that this node follows as a voter.
struct Followed {
    vote: Vote,
    addr: String,
    /// The other voters, without the leader, and their addresses.
    others: Vec<(NodeId, String)>,
    /// The sets of voters. Each must have a majority.
    voter_sets: Vec<BTreeSet<NodeId>>,
    /// Which turn this node has among the voters that may replace the leader, from 0.
    turn: u32,
}

impl Followed {
    fn leader(&self) -> NodeId {
        self.vote.leader_id.voted_for
    }

    fn has_majority(&self, supporters: &BTreeSet<NodeId>) -> bool {
        self.voter_sets.iter().all(|set| {
            set.iter().filter(|id| supporters.contains(id)).count() >= majority_of(set.len())
        })
    }
}

/// The leader that this node follows; `None` if it follows none, or is no voter.
fn followed(me: NodeId, metrics: &Metrics) -> Option<Followed> {
    let vote = metrics.vote;
    let follows = metrics.state == ServerState::Follower
        && metrics.running_state.is_ok()
        && vote.committed
        && vote.leader_id.term == metrics.current_term;
    let (leader, config) = (vote.leader_id.voted_for, &metrics.membership_config);
    let membership = config.membership();
    let voters: BTreeSet<NodeId> = config.voter_ids().collect();
    if !follows || leader == me || !voters.contains(&me) {
        return None;
    }
    let addr_of = |id: &NodeId| membership.get_node(id).map(|member| member.peer_addr.clone());
    let others = voters.iter().filter(|id| **id != me && **id != leader);
    let others: Vec<_> = others.filter_map(|id| Some((*id, addr_of(id)?))).collect();
    Some(Followed {
        addr: addr_of(&leader)?,
        turn: u32::try_from(others.iter().filter(|(id, _)| *id < me).count()).unwrap_or(0),
        others,
        voter_sets: membership.get_joint_config().clone(),
        vote,
    })
}

/// Watches the leader that this node follows, until the node stops.
pub(crate) async fn watch_leader(node: Weak<Inner>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut attempted: Option<Instant> = None;
    loop {
        // The node is not held during the wait, because that would keep a dropped node alive.
        let Some(links) = node.upgrade().map(|inner| inner.links.clone()) else { return };
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
            () = links.context.contacts.ended.notified() => {}
        }
        drop(links);
        let Some(inner) = node.upgrade() else { return };
        if !inner.may_stand() {
            continue;
        }
        let Some(followed) = inner.with_metrics(|metrics| followed(inner.config.node_id, metrics))
        else {
            continue;
        };
        if inner.is_gone(&followed).await {
            inner.stand_early(&followed).await;
        } else if inner.is_silent(&followed)
            && attempted.is_none_or(|at| clock::since(at) >= ATTEMPT_PAUSE)
        {
            attempted = Some(clock::now());
            tracing::info!(leader = followed.leader(), "the leader is silent; asking for votes");
            let _ = inner.raft.trigger().elect(true).await;
        }
    }
}

/// Whether this node finds by itself that the process of the leader is gone, and would vote for `candidate`, whose
/// log ends at `last`. It then lets this candidate stand first.
pub(crate) async fn supports(
    inner: &Inner,
    candidate: NodeId,
    leader: VoteDto,
    last: Option<LogIdDto>,
) -> bool {
    let me = inner.config.node_id;
    let Some(followed) = inner.with_metrics(|metrics| followed(me, metrics)) else { return false };
    let may_vote = consensus::vote_to_dto(&followed.vote) == leader
        && followed.others.iter().any(|(id, _)| *id == candidate)
        && last.map(consensus::log_id_from_dto) >= inner.log.last_log_id();
    let contacts = &inner.links.context.contacts;
    let until = clock::now() + END_PATIENCE;
    while may_vote && contacts.ended_at(leader.node).is_none() && clock::now() < until {
        let _ = tokio::time::timeout(TICK, contacts.ended.notified()).await;
    }
    let supports = may_vote
        && contacts.ended_at(leader.node).is_some()
        && inner.finds_no_process(leader.node, &followed.addr).await
        && contacts.ended_at(leader.node).is_some();
    // If two voters ask each other, the one with the lower id stands, so that their votes are not split.
    let stands_itself = || inner.stands_early.load(Ordering::SeqCst) && me < candidate;
    if !supports || stands_itself() {
        return false;
    }
    let before = inner.supported_at.lock().replace(clock::now());
    if stands_itself() {
        *inner.supported_at.lock() = before;
        return false;
    }
    true
}

/// Whether an attempt to connect shows that no process listens: the connection was refused or reset, or closed
/// before the greeting. A process that hangs, or does not like this node, is there.
fn shows_no_process(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

impl Inner {
    /// Whether this node may stand for election.
    fn may_stand(&self) -> bool {
        let me = &self.links.context.me;
        !self.is_stalled()
            && self.lifecycle.is_accepting()
            && me.acknowledged.lost().is_none()
            && me.acknowledged.is_settled(me.node_id, &me.roster.voters())
    }

    /// How long each voter waits for the voters before it, so that their votes are not split.
    fn turn(&self) -> Duration {
        Duration::from_millis(self.config.heartbeat_interval_ms) * 2 / 5
    }

    /// Whether the leader was silent for longer than its lease, by a margin. A short stall of both sides is no reason
    /// for an election.
    fn is_silent(&self, followed: &Followed) -> bool {
        let patience = Duration::from_millis(self.config.election_timeout_max_ms)
            + Duration::from_millis(self.config.election_timeout_min_ms) * 3 / 8
            + self.turn() * followed.turn;
        let heard = self.links.context.contacts.leader_heard_age(followed.leader());
        heard.is_some_and(|heard| heard >= patience)
    }

    /// Whether the process of the leader seems to be gone, and it is this node's turn to replace it.
    async fn is_gone(&self, followed: &Followed) -> bool {
        let is_turn = |ended: Instant| {
            let since = clock::since(ended);
            since >= self.turn() * followed.turn && since < EVIDENCE_MAX
        };
        let ended = self.links.context.contacts.ended_at(followed.leader());
        ended.is_some_and(is_turn)
            && !self.yields()
            && self.all_know_early_elections(followed).await
            && self.finds_no_process(followed.leader(), &followed.addr).await
    }

    /// Whether the leader and every voter use a build whose leases allow an early election. An older one acts under
    /// longer leases, and does not wait for those of others.
    async fn all_know_early_elections(&self, followed: &Followed) -> bool {
        let contacts = &self.links.context.contacts;
        // The greeting says which build it is.
        let unknown = followed.others.iter().filter(|(id, _)| contacts.get(*id).is_none());
        let met = unknown.map(|(id, addr)| async move {
            let link = self.links.get(*id, addr, Channel::Control);
            let _ = link.request(&Request::Ping, CONNECT_TIMEOUT).await;
        });
        join_all(met).await;
        let knows = |id: NodeId| {
            contacts.get(id).is_some_and(|contact| contact.protocol >= PROTOCOL_OF_EARLY_ELECTIONS)
        };
        let others = followed.others.iter().map(|(id, _)| *id);
        others.chain([followed.leader()]).all(knows)
    }

    /// Whether an attempt to connect to a node shows that its process is gone.
    async fn finds_no_process(&self, id: NodeId, addr: &str) -> bool {
        let context = &self.links.context;
        let connect = async {
            let tcp = TcpStream::connect(addr).await?;
            let stream = context.transport.connect(tcp, &context.me.cluster_id, id).await?;
            let (me, max) = (&context.me, context.frame_len_max);
            handshake::greet(me, stream, id, Channel::App, max).await.map(drop)
        };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
        matches!(connected, Ok(Err(error)) if shows_no_process(&error))
    }

    /// Asks the other voters whether they, too, find that the leader is gone. If a majority does, stands for
    /// election at once.
    async fn stand_early(&self, followed: &Followed) {
        self.stands_early.store(true, Ordering::SeqCst);
        self.ask_and_stand(followed).await;
        self.stands_early.store(false, Ordering::SeqCst);
    }

    fn yields(&self) -> bool {
        self.supported_at.lock().is_some_and(|at| clock::since(at) < YIELD)
    }

    async fn ask_and_stand(&self, followed: &Followed) {
        // It may have supported another voter while it looked for the leader's process.
        if self.yields() {
            return;
        }
        let began = clock::now();
        let last = self.log.last_log_id();
        let leader = consensus::vote_to_dto(&followed.vote);
        let asked = followed.others.iter().map(|(id, addr)| async move {
            let request =
                Request::Suspect { leader, last: last.as_ref().map(consensus::log_id_to_dto) };
            let link = self.links.get(*id, addr, Channel::Control);
            let answer = link.request(&request, ANSWER_TIMEOUT).await;
            matches!(answer, Ok(Response::Suspects(true))).then_some(*id)
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut supporters = BTreeSet::from([self.config.node_id]);
        while !followed.has_majority(&supporters)
            && let Some(answer) = asked.next().await
        {
            supporters.extend(answer);
        }
        let is_back = self.links.context.contacts.ended_at(followed.leader()).is_none();
        // This node has supported another voter in the meantime, so it does not stand itself.
        let yields = self.supported_at.lock().is_some_and(|at| at >= began);
        if is_back || yields || !followed.has_majority(&supporters) {
            return;
        }
        tracing::warn!(
            leader = followed.leader(),
            ?supporters,
            "the leader's process is gone, as a majority of the voters finds; this node takes over"
        );
        // The core does not vote before its lease has run out, except for a transfer of leadership. This does
        // nothing if the core follows another leader by now.
        let me = self.config.node_id;
        let request = TransferLeaderRequest::new(followed.vote, me, last);
        let _ = self.raft.handle_transfer_leader(request).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_of_voters_needs_a_majority() {
        let followed = Followed {
            vote: Vote::new_committed(4, 1),
            addr: String::new(),
            others: Vec::new(),
            voter_sets: vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])],
            turn: 0,
        };
        assert!(!followed.has_majority(&BTreeSet::from([2, 3])));
        assert!(!followed.has_majority(&BTreeSet::from([3, 4, 5])));
        assert!(followed.has_majority(&BTreeSet::from([2, 3, 4])));
    }

    #[test]
    fn only_a_connection_that_nobody_takes_is_evidence() {
        for kind in [io::ErrorKind::ConnectionRefused, io::ErrorKind::UnexpectedEof] {
            assert!(shows_no_process(&io::Error::from(kind)));
        }
        for kind in
            [io::ErrorKind::PermissionDenied, io::ErrorKind::TimedOut, io::ErrorKind::InvalidData]
        {
            assert!(!shows_no_process(&io::Error::from(kind)));
        }
    }
}
