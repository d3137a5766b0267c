//! Sends the requests of the consensus core to its peers.
//!
//! Appends are pipelined in order on their own connection. Heartbeats, votes and transfers share a second
//! one, which never carries bulk data. A snapshot is sent in chunks on a third one.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesOrdered};
use futures::{FutureExt, Stream, StreamExt};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};

use super::handshake::PROTOCOL_OF_EARLY_ELECTIONS;
use super::link::{Answer, Link, LinkError};
use super::links::Links;
use super::snapshot_receiver::CHUNK_LEN;
use crate::clock;
use crate::codec::{AppendDto, Channel, Request, Response, VoteRequestDto};
use crate::config::{Member, NodeId};
use crate::consensus::{self, LogId, TypeConfig, Vote};
use crate::storage::snapshots::SnapshotFile;

/// Maximum number of appends to one peer in flight.
const APPENDS_IN_FLIGHT: usize = 32;
/// Time limit for an append. It is longer than for a heartbeat, because an append waits for the peer's disk.
const APPEND_TIMEOUT: Duration = Duration::from_secs(3);
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

pub(crate) struct Outbound {
    pub(crate) me: NodeId,
    pub(crate) links: Arc<Links>,
}

/// The core's connections to one peer.
pub(crate) struct PeerNetwork {
    me: NodeId,
    target: NodeId,
    addr: String,
    links: Arc<Links>,
    appends_on: Channel,
}

impl Outbound {
    fn client(&self, target: NodeId, member: &Member, appends_on: Channel) -> PeerNetwork {
        PeerNetwork {
            me: self.me,
            target,
            addr: member.peer_addr.clone(),
            links: self.links.clone(),
            appends_on,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Outbound {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> PeerNetwork {
        self.client(target, member, Channel::Append)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, member: &Member) -> PeerNetwork {
        self.client(target, member, Channel::Control)
    }
}

impl PeerNetwork {
    fn link(&self, channel: Channel) -> Arc<Link> {
        self.links.get(self.target, &self.addr, channel)
    }

    fn failed(
        &self,
        action: RPCTypes,
        timeout: Duration,
        error: LinkError,
    ) -> RPCError<TypeConfig> {
        match error {
            LinkError::Timeout => {
                RPCError::Timeout(Timeout { action, id: self.me, target: self.target, timeout })
            }
            LinkError::Unreachable(_) | LinkError::Busy => {
                RPCError::Unreachable(Unreachable::from_string(error))
            }
            LinkError::Lost(_) => RPCError::Network(NetworkError::from_string(error)),
        }
    }

    fn unexpected(&self, response: Response) -> RPCError<TypeConfig> {
        let what = match response {
            Response::Failed(reason) => reason,
            Response::Busy => "the peer is busy".to_owned(),
            other => format!("unexpected answer {other:?}"),
        };
        RPCError::Network(NetworkError::from_string(format!("node {}: {what}", self.target)))
    }

    fn append_request(&self, request: &AppendEntriesRequest<TypeConfig>) -> Request {
        let append = append_dto(request);
        if self.appends_on == Channel::Control && append.entries.is_empty() {
            Request::Heartbeat(append)
        } else {
            Request::Append(append)
        }
    }

    fn append_timeout(&self, option: &RPCOption) -> Duration {
        if self.appends_on == Channel::Control { option.soft_ttl() } else { APPEND_TIMEOUT }
    }

    fn append_response(
        &self,
        timeout: Duration,
        answer: Result<Response, LinkError>,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        match answer.map_err(|error| self.failed(RPCTypes::AppendEntries, timeout, error))? {
            Response::AppendOk => Ok(AppendEntriesResponse::Success),
            Response::AppendPartial(upto) => {
                Ok(AppendEntriesResponse::PartialSuccess(upto.map(consensus::log_id_from_dto)))
            }
            Response::AppendConflict => Ok(AppendEntriesResponse::Conflict),
            Response::HigherVote(vote) => {
                Ok(AppendEntriesResponse::HigherVote(consensus::vote_from_dto(vote)))
            }
            other => Err(self.unexpected(other)),
        }
    }

    async fn ask_vote(
        &self,
        request: &Request,
        option: &RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let timeout = option.soft_ttl();
        let answer = self.link(Channel::Control).request(request, timeout).await;
        match answer.map_err(|error| self.failed(RPCTypes::Vote, timeout, error))? {
            Response::Vote { vote, granted, last } => {
                if let (Request::Vote(request), true) = (request, granted) {
                    // An older build does not say how long ago it accepted a request of a leader.
                    let now = clock::now();
                    self.links.context.succession.voted(request.vote.term, Some(now), now);
                }
                Ok(VoteResponse::new(
                    consensus::vote_from_dto(vote),
                    last.map(consensus::log_id_from_dto),
                    granted,
                ))
            }
            Response::VoteWithAge { vote, granted, last, accepted_us } => {
                if let (Request::VoteWithAge(request), true) = (request, granted) {
                    let now = clock::now();
                    let accepted = latest_acceptance(now, accepted_us);
                    self.links.context.succession.voted(request.vote.term, accepted, now);
                }
                Ok(VoteResponse::new(
                    consensus::vote_from_dto(vote),
                    last.map(consensus::log_id_from_dto),
                    granted,
                ))
            }
            other => Err(self.unexpected(other)),
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        file: SnapshotFile,
        install_timeout: Duration,
    ) -> Rpc<SnapshotResponse<TypeConfig>> {
        let link = self.link(Channel::Snapshot);
        let ask = |request: Request, timeout: Duration| {
            let link = link.clone();
            async move {
                let answer = link.request(&request, timeout).await;
                answer.map_err(|error| self.failed(RPCTypes::InstallSnapshot, timeout, error))
            }
        };
        let begin = Request::SnapshotBegin { vote: consensus::vote_to_dto(&vote), len: file.len };
        match ask(begin, CHUNK_TIMEOUT).await? {
            Response::SnapshotReady => {}
            other => return Err(self.unexpected(other)),
        }
        let mut offset = 0;
        while offset < file.len {
            let bytes = read_chunk(&file, offset)
                .await
                .map_err(|error| RPCError::Unreachable(Unreachable::from_string(error)))?;
            let len = bytes.len() as u64;
            match ask(Request::SnapshotChunk { offset, bytes }, CHUNK_TIMEOUT).await? {
                Response::SnapshotReady => offset += len,
                other => return Err(self.unexpected(other)),
            }
        }
        match ask(Request::SnapshotEnd { len: file.len }, install_timeout).await? {
            Response::SnapshotInstalled { vote } => {
                Ok(SnapshotResponse::new(consensus::vote_from_dto(vote)))
            }
            other => Err(self.unexpected(other)),
        }
    }
}

async fn read_chunk(file: &SnapshotFile, offset: u64) -> io::Result<Vec<u8>> {
    let file = file.file.clone();
    tokio::task::spawn_blocking(move || {
        use std::os::unix::fs::FileExt;
        struct At<'f>(&'f std::fs::File, u64);
        impl Read for At<'_> {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                let count = self.0.read_at(out, self.1)?;
                self.1 += count as u64;
                Ok(count)
            }
        }
        let mut bytes = Vec::with_capacity(CHUNK_LEN);
        At(&file, offset).take(CHUNK_LEN as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
    })
    .await
    .map_err(io::Error::other)?
}

/// An append in flight, with what is needed to report its result.
struct InFlight {
    prev: Option<LogId>,
    last: Option<LogId>,
    answer: Result<Answer, LinkError>,
}

type Answered = (Option<LogId>, Option<LogId>, Result<Response, LinkError>);

/// The requests of a pipeline that wait for their answers, in order, each with its last log id.
///
/// The core takes an answer as the answer to every request up to its log id, including those that were sent
/// later. A request without entries, which only reports the commit index, has the same last log id as the
/// entries before it. So a late answer to the entries would be taken for a fresh one, and a leader that was
/// cut off would believe that it is still followed. Therefore an answer is reported only if no later request
/// with the same log id is in flight. The answer to that later request has the same content.
#[derive(Default)]
struct Waiting(VecDeque<Option<LogId>>);

impl Waiting {
    fn sent(&mut self, last: Option<LogId>) {
        self.0.push_back(last);
    }

    /// Records the next answer. Returns whether it may be reported to the core.
    fn answered(&mut self) -> bool {
        let answered = self.0.pop_front().flatten();
        !self.0.iter().any(|later| *later <= answered)
    }
}

struct Pipeline<'n, S> {
    network: &'n PeerNetwork,
    link: Arc<Link>,
    input: S,
    input_ended: bool,
    in_flight: FuturesOrdered<BoxFuture<'static, Answered>>,
    waiting: Waiting,
    timeout: Duration,
    stopped: bool,
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Pipeline<'_, S> {
    fn send(&mut self, request: &AppendEntriesRequest<TypeConfig>) {
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let answer = self.link.start(&self.network.append_request(request));
        let in_flight = InFlight { prev, last, answer };
        self.waiting.sent(last);
        let timeout = self.timeout;
        self.in_flight.push_back(
            async move {
                let answer = match in_flight.answer {
                    Ok(answer) => answer.within(timeout).await,
                    Err(error) => Err(error),
                };
                (in_flight.prev, in_flight.last, answer)
            }
            .boxed(),
        );
    }

    /// The next result, in the order of the requests. Nothing follows an error or a partial success.
    async fn next(&mut self) -> Option<Rpc<StreamAppendResult<TypeConfig>>> {
        while !self.stopped {
            if self.in_flight.is_empty() && self.input_ended {
                return None;
            }
            tokio::select! {
                biased;
                Some((prev, last, answer)) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    let may_report = self.waiting.answered();
                    let result = self.network.append_response(self.timeout, answer).map(|response| {
                        let partial = matches!(&response, AppendEntriesResponse::PartialSuccess(upto) if *upto != last);
                        let result = response.into_stream_result(prev, last);
                        self.stopped = partial || result.is_err();
                        result
                    }).inspect_err(|_| self.stopped = true);
                    if may_report || self.stopped {
                        return Some(result);
                    }
                }
                request = self.input.next(), if !self.input_ended && self.in_flight.len() < APPENDS_IN_FLIGHT => match request {
                    Some(request) => self.send(&request),
                    None => self.input_ended = true,
                },
            }
        }
        None
    }
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let timeout = self.append_timeout(&option);
        let answer =
            self.link(self.appends_on).request(&self.append_request(&request), timeout).await;
        self.append_response(timeout, answer)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let pipeline = Pipeline {
            link: self.link(self.appends_on),
            timeout: self.append_timeout(&option),
            network: self,
            input,
            input_ended: false,
            in_flight: FuturesOrdered::new(),
            waiting: Waiting::default(),
            stopped: false,
        };
        let results = futures::stream::unfold(pipeline, |mut pipeline| async move {
            pipeline.next().await.map(|result| (result, pipeline))
        });
        std::future::ready(Ok(results.boxed())).boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let asked = vote_request(&request);
        let contacts = &self.links.context.contacts;
        if contacts.get(self.target).is_none() {
            // The greeting says which build it is.
            let _ = self.link(Channel::Control).request(&Request::Ping, option.soft_ttl()).await;
        }
        let knows_age = contacts
            .get(self.target)
            .is_some_and(|contact| contact.protocol >= PROTOCOL_OF_EARLY_ELECTIONS);
        let asked = if knows_age { Request::VoteWithAge(asked) } else { Request::Vote(asked) };
        self.ask_vote(&asked, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask_vote(&Request::PreVote(vote_request(&request)), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (target, index) = (self.target, snapshot.snapshot.index());
        tracing::debug!(target_node = target, index, "sending a snapshot");
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot.snapshot, option.soft_ttl()) => Ok(sent?),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let timeout = option.soft_ttl();
        let request = Request::TransferLeader {
            from: consensus::vote_to_dto(request.from_leader()),
            to: *request.to_node_id(),
            last: request.last_log_id().map(consensus::log_id_to_dto),
        };
        let answer = self.link(Channel::Control).request(&request, timeout).await;
        match answer.map_err(|error| self.failed(RPCTypes::TransferLeader, timeout, error))? {
            Response::Transferred => Ok(Ok(())),
            Response::TransferRefused(reason) => {
                Err(RPCError::Network(NetworkError::from_string(reason)))
            }
            other => Err(self.unexpected(other)),
        }
    }
}

/// The latest time at which a voter may have accepted a request of a leader, if it said at or before `now` that
/// this was so long ago.
pub(crate) fn latest_acceptance(now: Instant, accepted_us: Option<u64>) -> Option<Instant> {
    // A time before the machine's start is over.
    now.checked_sub(Duration::from_micros(accepted_us?))
}

pub(crate) fn append_dto(request: &AppendEntriesRequest<TypeConfig>) -> AppendDto {
    AppendDto {
        vote: consensus::vote_to_dto(&request.vote),
        prev: request.prev_log_id.as_ref().map(consensus::log_id_to_dto),
        commit: request.leader_commit.as_ref().map(consensus::log_id_to_dto),
        entries: request.entries.iter().map(consensus::entry_to_dto).collect(),
    }
}

pub(crate) fn vote_request(request: &VoteRequest<TypeConfig>) -> VoteRequestDto {
    VoteRequestDto {
        vote: consensus::vote_to_dto(&request.vote),
        last: request.last_log_id.as_ref().map(consensus::log_id_to_dto),
        transfer: request.leadership_transfer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::LogIdDto;

    #[test]
    fn an_answer_is_not_taken_for_that_of_a_later_request() {
        let id = |index| Some(consensus::log_id_from_dto(LogIdDto { term: 2, node: 1, index }));
        let mut waiting = Waiting::default();
        waiting.sent(id(7));
        waiting.sent(id(8));
        // A request without entries, which only reports the commit index.
        waiting.sent(id(8));
        assert!(waiting.answered(), "what follows brings more");
        assert!(!waiting.answered(), "the last one is not answered yet");
        assert!(waiting.answered());
    }
}
