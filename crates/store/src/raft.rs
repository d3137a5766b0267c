//! The Raft backend: `maxine-raft` orders the batches, and a [`Machine`] applies them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use maxine_raft as raft;
use tokio::sync::watch;

use super::{
    AdminError, BackupSummary, CallError, ClusterAdmin, ClusterStatus, Consistency, ControlStore,
    Leadership, Machine, MemberView, NodeRole, Ordered, PeerHandler, ProposeError, ReadError,
    StoreKind, WriteTime, encode_payload, needs_lease,
};
use maxine_state::{
    Applied, Batch, ControlState, STATE_VERSION, decode_applied, decode_batch, encode_applied,
    encode_batch,
};
use maxine_view::{View, WorkKind, WorkOutcome};

/// Maximum duration of a graceful stop.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// The state machine for the Raft log, which knows only bytes.
struct ReplicatedState(Machine);

/// The state of a snapshot that is written while the node applies further entries.
struct FrozenState {
    state: ControlState,
    view: Arc<View>,
}

impl raft::SnapshotEncoder for FrozenState {
    fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        let working = self.view.begin_work(WorkKind::SnapshotWritten);
        let written = self.state.write_to(out);
        self.view.end_work(working, || WorkOutcome {
            index: Some(self.state.index()),
            error: written.as_ref().err().map(ToString::to_string),
            ..WorkOutcome::default()
        });
        written
    }

    fn encoded_len(&self) -> io::Result<Option<u64>> {
        let mut count = ByteCount(0);
        self.state.write_to(&mut count)?;
        Ok(Some(count.0))
    }
}

/// Counts bytes, and drops them.
struct ByteCount(u64);

impl Write for ByteCount {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl raft::Application for ReplicatedState {
    fn apply(&mut self, entries: &[raft::CommittedEntry]) -> io::Result<Vec<Bytes>> {
        let payloads: Vec<&[u8]> = entries.iter().filter_map(|e| e.payload.as_deref()).collect();
        let ordered: Vec<Ordered<'_>> = payloads.iter().map(|p| Ordered::Bytes(p)).collect();
        // This node must stop at an entry that its version cannot read. If it skipped the entry, it would
        // differ from the others.
        let applied = self.0.apply(&ordered).map_err(|error| {
            let reason = format!("a committed entry cannot be applied: {error}");
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })?;
        let mut answers = applied.iter();
        let answer = |entry: &raft::CommittedEntry| match entry.payload {
            None => Bytes::new(),
            Some(_) => answers.next().map_or_else(Bytes::new, |a| encode_applied(a).into()),
        };
        Ok(entries.iter().map(answer).collect())
    }

    fn snapshot(&self) -> Box<dyn raft::SnapshotEncoder> {
        Box::new(FrozenState { state: self.0.state(), view: Arc::clone(self.0.view()) })
    }

    fn restore(&mut self, _: u64, input: &mut dyn Read) -> io::Result<()> {
        Ok(self.0.restore(input)?)
    }
}

/// Whether this batch may be appended only by this node itself, while it leads. If it were forwarded, a new leader would
/// write what the old leader had decided. Other nodes also refuse proposals that a part of Maxine makes
/// ([`Peers::admit`]).
fn is_never_forwarded(batch: &Batch) -> bool {
    needs_lease(batch) || batch.proposals.iter().any(|proposal| proposal.actor.is_system())
}

struct Peers {
    handler: Arc<dyn PeerHandler>,
    view: Arc<View>,
}

impl raft::PeerHandler for Peers {
    fn handle(&self, _: raft::NodeId, body: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        self.handler.handle(body)
    }

    /// A member may forward the requests of its callers. It may not act as a part of Maxine itself, and may
    /// not propose commands of the leader. The log records which member sent a request.
    fn admit(&self, from: raft::NodeId, payload: Bytes) -> Result<Bytes, String> {
        let mut batch = decode_batch(&payload).map_err(|error| error.to_string())?;
        if needs_lease(&batch) {
            return Err(format!("node {from} may not do what only the leader may"));
        }
        if let Some(claimed) = batch.proposals.iter().find(|p| p.actor.is_system()) {
            return Err(format!("node {from} may not act as {}", claimed.actor.user));
        }
        for proposal in &mut batch.proposals {
            proposal.actor.via_node = Some(from);
        }
        encode_batch(&batch).map(Bytes::from).map_err(|error| error.to_string())
    }

    fn admit_version(&self, understands: u32) -> Result<(), String> {
        let has = self.view.with_snapshot(|snapshot| snapshot.state.version());
        if understands >= has {
            return Ok(());
        }
        Err(format!(
            "the cluster does not take this node back: it has state version {has}, and this build understands up to \
             {understands}: upgrade this node"
        ))
    }
}

/// A node of a Raft cluster.
pub struct RaftStore {
    node: raft::RaftNode,
    peers: Arc<dyn PeerHandler>,
    leadership: watch::Sender<Leadership>,
    follow: tokio::task::JoinHandle<()>,
}

impl RaftStore {
    /// Opens the log and connects to the peers. If `first_members` are given, it forms the cluster with them.
    /// Returns once everything is applied that this node had committed.
    pub async fn open(
        mut config: raft::Config,
        first_members: BTreeMap<u64, raft::Member>,
        view: Arc<View>,
        peers: Arc<dyn PeerHandler>,
    ) -> Result<Arc<Self>, String> {
        let own = Peers { handler: Arc::clone(&peers), view: Arc::clone(&view) };
        let app = Box::new(ReplicatedState(Machine::new(view)));
        config.app_version = STATE_VERSION;
        let node = raft::RaftNode::start(config, app, Arc::new(own))
            .await
            .map_err(|error| error.to_string())?;
        if !first_members.is_empty() {
            node.bootstrap(first_members).await.map_err(|error| format!("bootstrap: {error}"))?;
        }
        let mut changes = node.watch();
        let (names, sender) = (node.clone(), watch::Sender::new(Leadership::default()));
        let leadership = sender.clone();
        let follow = tokio::spawn(async move {
            loop {
                let now = *changes.borrow_and_update();
                sender.send_replace(named(&names, now));
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Arc::new(Self { node, peers, leadership, follow }))
    }

    /// Returns the reason when the log has failed for good. The process must stop then.
    pub async fn failed(&self) -> String {
        self.node.failed().await
    }

    /// Reads the files of certificates and keys for other nodes again, and uses them for connections that begin later.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// Says which file cannot be used. Then nothing changes.
    pub fn reload_tls(&self) -> Result<(), String> {
        self.node.reload_tls().map_err(|error| error.to_string())
    }

    fn wait_left(started: tokio::time::Instant, timeout: Duration) -> Duration {
        timeout.saturating_sub(started.elapsed())
    }
}

fn named(node: &raft::RaftNode, now: raft::Leadership) -> Leadership {
    let leader = now.leader.map(|id| name_of(node, id));
    Leadership { leader, is_leader: now.is_leader, term: now.term }
}

fn name_of(node: &raft::RaftNode, id: raft::NodeId) -> String {
    node.member(id).map_or_else(|| format!("node-{id}"), |member| member.name)
}

fn propose_error(
    name_of: impl FnOnce(raft::NodeId) -> String,
    error: raft::ProposeError,
) -> ProposeError {
    match error {
        raft::ProposeError::NotLeader { hint } => {
            ProposeError::NotLeader { hint: hint.map(name_of) }
        }
        raft::ProposeError::NoLeader => ProposeError::NoLeader,
        raft::ProposeError::Overloaded => ProposeError::Overloaded,
        raft::ProposeError::TooLarge { len, max } => ProposeError::TooLarge { len, max },
        raft::ProposeError::OutcomeUnknown => ProposeError::OutcomeUnknown,
        raft::ProposeError::Storage(why) => ProposeError::Storage(why),
        raft::ProposeError::Refused(why) => ProposeError::Refused(why),
        raft::ProposeError::ShuttingDown => ProposeError::ShuttingDown,
    }
}

fn read_error(error: raft::ReadError) -> ReadError {
    match error {
        raft::ReadError::NoLeader => ReadError::NoLeader,
        raft::ReadError::Behind { .. } => ReadError::Behind,
        raft::ReadError::ShuttingDown => ReadError::ShuttingDown,
    }
}

fn call_error(error: raft::CallError) -> CallError {
    match error {
        raft::CallError::NoLeader
        | raft::CallError::Unreachable { .. }
        | raft::CallError::ShuttingDown => CallError::Unreachable,
        raft::CallError::Overloaded(_) => CallError::Overloaded,
        raft::CallError::UnknownNode(_) | raft::CallError::TooLarge { .. } => {
            CallError::Unsendable(error.to_string())
        }
        raft::CallError::NoAnswer { reason, .. } => CallError::NoAnswer(reason),
        raft::CallError::Refused { reason, .. } => CallError::Refused(reason),
    }
}

fn admin_error(error: raft::AdminError) -> AdminError {
    match error {
        raft::AdminError::NoLeader
        | raft::AdminError::NotLeader { .. }
        | raft::AdminError::ShuttingDown => AdminError::Unavailable(error.to_string()),
        raft::AdminError::OutcomeUnknown => AdminError::OutcomeUnknown(error.to_string()),
        raft::AdminError::NoSuchMember(_) => AdminError::NotFound(error.to_string()),
        raft::AdminError::NoSpace(_) => AdminError::NoSpace(error.to_string()),
        raft::AdminError::Refused(_) | raft::AdminError::Io(_) => {
            AdminError::Invalid(error.to_string())
        }
    }
}

#[async_trait]
impl ControlStore for RaftStore {
    async fn propose(&self, batch: Batch, time: WriteTime) -> Result<Vec<Applied>, ProposeError> {
        let payload = encode_payload(&batch)?;
        #[allow(clippy::disallowed_methods, reason = "the runtime's own clock, for its own timer")]
        let started = tokio::time::Instant::now();
        let proposed = match is_never_forwarded(&batch) {
            true => self.node.propose_local(payload.into(), time.end).await,
            false => {
                let time = raft::ProposeTime { begin: time.begin, end: time.end };
                self.node.propose(payload.into(), time).await
            }
        };
        let proposed =
            proposed.map_err(|error| propose_error(|id| name_of(&self.node, id), error))?;
        // The leader has applied it. This node must apply it too before it answers the caller. If it cannot
        // in time, the write is still valid.
        let left = Self::wait_left(started, time.end);
        self.node
            .wait_applied(proposed.index, left)
            .await
            .map_err(|_| ProposeError::OutcomeUnknown)?;
        decode_applied(&proposed.reply).map_err(|error| ProposeError::Storage(error.to_string()))
    }

    async fn barrier(&self, level: Consistency, timeout: Duration) -> Result<(), ReadError> {
        let level = match level {
            Consistency::Stale => return Ok(()),
            Consistency::Leader => raft::ReadLevel::Leader,
            Consistency::Strong => raft::ReadLevel::Strong,
        };
        self.node.read_index(level, timeout).await.map(drop).map_err(read_error)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn leadership_now(&self) -> Leadership {
        named(&self.node, self.node.leadership())
    }

    fn staleness_ms(&self) -> Option<u64> {
        let age_ms = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.node.state_age().map(age_ms)
    }

    fn lacks_acknowledged(&self) -> Option<u64> {
        self.node.lost_index()
    }

    fn snapshot_failure(&self) -> Option<String> {
        let failure = self.node.snapshot_failure()?;
        let attempts = maxine_wording::count(failure.attempts, "attempt");
        Some(format!(
            "no snapshot of the state can be written ({attempts}), so the log of this node is not shortened and grows: {}",
            failure.reason
        ))
    }

    fn exclusion(&self) -> Option<String> {
        self.node.exclusion().map(|exclusion| exclusion.reason().to_owned())
    }

    async fn call_leader(&self, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        if self.node.leadership().is_leader {
            let answer = tokio::time::timeout(timeout, self.peers.handle(body)).await;
            return answer.map_err(|_| CallError::late())?.map_err(CallError::Refused);
        }
        self.node.call(raft::Target::Leader, body, timeout).await.map_err(call_error)
    }

    fn leader_silence_ms(&self, name: &str) -> Option<u64> {
        let members = self.node.status().members;
        let found = members.iter().find(|member| member.member.name == name)?;
        self.node.leader_silence_ms(found.id)
    }

    fn line(&self) -> Option<u64> {
        Some(self.node.lineage())
    }

    async fn call_member(
        &self,
        id: u64,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        self.node.call(raft::Target::Node(id), body, timeout).await.map_err(call_error)
    }

    fn kind(&self) -> StoreKind {
        StoreKind::Raft
    }

    fn cluster(&self) -> Option<Arc<dyn ClusterAdmin>> {
        Some(Arc::new(RaftAdmin(self.node.clone())))
    }

    async fn shutdown(&self) {
        self.follow.abort();
        match tokio::time::timeout(SHUTDOWN_TIMEOUT, self.node.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the log did not stop cleanly"),
            Err(_) => tracing::warn!("the log did not stop in time"),
        }
    }
}

struct RaftAdmin(raft::RaftNode);

#[async_trait]
impl ClusterAdmin for RaftAdmin {
    fn status(&self) -> ClusterStatus {
        let status = self.0.status();
        let each = |member: &raft::MemberStatus| MemberView {
            leader: status.leader == Some(member.id),
            id: member.id,
            name: member.member.name.clone(),
            peer_addr: member.member.peer_addr.clone(),
            http_addr: member.member.http_addr.clone(),
            voter: member.voter,
            reachable: member.reachable,
            acknowledges: member.acknowledges,
            matched_index: member.matched_index,
            last_contact_ms: member.last_contact_age_ms,
            state_version: member.app_version,
        };
        let role = match status.role {
            raft::Role::Leader => NodeRole::Leader,
            raft::Role::Follower => NodeRole::Follower,
            raft::Role::Candidate => NodeRole::Candidate,
            raft::Role::Learner => NodeRole::Learner,
            raft::Role::Shutdown => NodeRole::Shutdown,
        };
        // A removed node receives nothing more from the cluster. It shows the members at the time of its
        // removal, without itself.
        let exclusion = self.0.exclusion();
        let is_removed = matches!(exclusion, Some(raft::Exclusion::Removed(_)));
        let role = if is_removed { NodeRole::Removed } else { role };
        let members = status.members.iter().filter(|m| !(is_removed && m.id == status.node_id));
        let members: Vec<MemberView> = members.map(each).collect();
        let shown = ClusterStatus {
            cluster_id: status.cluster_id.clone(),
            node_id: status.node_id,
            role,
            term: status.term,
            leader: status.leader,
            last_log_index: status.last_log_index,
            committed_index: status.committed_index,
            applied_index: status.applied_index,
            snapshot_index: status.snapshot_index,
            purged_index: status.purged_index,
            last_sync_us: status.sync_last_us,
            disk_stalled: status.stalled,
            log_disk_bytes: status.log_disk_bytes,
            voter_sets: status.voter_sets.clone(),
            ..ClusterStatus::default()
        }
        .with_members(members);
        if exclusion.is_some() { shown.without_counts() } else { shown }
    }

    async fn add_learner(
        &self,
        id: u64,
        name: String,
        peer_addr: String,
        http_addr: String,
    ) -> Result<(), AdminError> {
        let member = raft::Member { peer_addr, http_addr, name };
        self.0.add_learner(id, member).await.map_err(admin_error)
    }

    async fn promote(&self, id: u64, force: bool) -> Result<(), AdminError> {
        self.0.promote(id, force).await.map_err(admin_error)
    }

    async fn remove(&self, id: u64, force: bool) -> Result<(), AdminError> {
        self.0.remove(id, force).await.map_err(admin_error)
    }

    async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), AdminError> {
        self.0.transfer_leadership(to).await.map_err(admin_error)
    }

    async fn snapshot(&self) -> Result<(), AdminError> {
        self.0.snapshot().await.map(drop).map_err(admin_error)
    }

    async fn backup(&self, path: &Path) -> Result<BackupSummary, AdminError> {
        // The backup must contain what was acknowledged before the call.
        let fresh = self.0.read_index(raft::ReadLevel::Strong, Duration::from_secs(5)).await;
        fresh.map_err(|error| AdminError::Unavailable(error.to_string()))?;
        let info = self.0.backup_to(path).await.map_err(admin_error)?;
        let written = path.to_path_buf();
        let index = tokio::task::spawn_blocking(move || backup_index(&written)).await;
        let index = index.unwrap_or_else(|error| Err(error.to_string()));
        let index = index.map_err(AdminError::Unavailable)?;
        Ok(BackupSummary { index, len_bytes: info.len_bytes })
    }
}

/// The state in a backup file of the Raft backend. Reads all of it, so an error means that no node could start
/// from this file.
pub fn backup_state(path: &Path) -> Result<ControlState, String> {
    let mut body = raft::offline::backup_body(path).map_err(|error| error.to_string())?;
    ControlState::read_from(&mut body).map_err(|error| error.to_string())
}

/// Verifies a backup file of the Raft backend: makes the directory of a node from it in `empty`, which must not exist or
/// be empty, as `maxine cluster restore` does, and reads all of it and the whole state. Blocks.
///
/// # Errors
///
/// No node could start from this file, or its state has another index.
pub fn verify_backup(file: &Path, empty: &Path, index: u64) -> Result<(), String> {
    let found = backup_state(file)?.index();
    if found != index {
        return Err(format!("its state has the index {found}, not {index}"));
    }
    let failed = |error: raft::StartError| error.to_string();
    let cluster_id = raft::offline::backup_cluster(file).map_err(failed)?;
    let members = BTreeMap::from([(1, raft::Member::default())]);
    let engine = raft::EngineKind::default();
    raft::offline::restore(file, empty, engine, &cluster_id, 1, &members).map_err(failed)?;
    let restored = raft::offline::inspect(empty).map_err(failed)?;
    match restored.snapshot_index {
        Some(_) => Ok(()),
        None => Err("the restored directory has no state".to_owned()),
    }
}

/// The index of the state in a backup that this node has just written.
pub(crate) fn backup_index(path: &Path) -> Result<u64, String> {
    let mut body = raft::offline::backup_body(path).map_err(|error| error.to_string())?;
    ControlState::read_index(&mut body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Retry, WriteOutcome};
    use maxine_state::{Actor, Command, Name, Proposal, RequestId};
    use raft::PeerHandler as _;

    struct Silent;

    impl PeerHandler for Silent {
        fn handle(&self, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
            Box::pin(std::future::ready(Ok(Bytes::new())))
        }
    }

    fn payload(user: &str, command: Command) -> Bytes {
        // The sender names another member as the source, but the leader knows who sent it.
        let (address, trace_id) = ("10.0.0.7".into(), "t".into());
        let actor = Actor { user: user.into(), address, trace_id, via_node: Some(3) };
        let request_id = RequestId(1);
        let proposal = Proposal { request_id, proposed_at_ms: 1, fence: None, actor, command };
        encode_batch(&Batch { proposals: vec![proposal] }).unwrap().into()
    }

    fn peers() -> Peers {
        let view = View::new(maxine_clock::Clock::system());
        Peers { handler: Arc::new(Silent), view }
    }

    /// What the log says of an error: its outcome, and whether a retry can help.
    type Said = (raft::Outcome, raft::Retry);

    #[track_caller]
    fn is_kept(error: &dyn std::fmt::Debug, said: Said, kept: (WriteOutcome, Retry)) {
        let outcome = match said.0 {
            raft::Outcome::NotDone => WriteOutcome::NotDone,
            raft::Outcome::Unknown => WriteOutcome::Unknown,
        };
        assert_eq!(kept.0, outcome, "{error:?}");
        assert_eq!(kept.1 == Retry::Never, said.1 == raft::Retry::Never, "{error:?}");
    }

    /// A message whose answer was lost may have been handled, so it must not be reported as never delivered.
    #[test]
    fn an_error_of_the_log_keeps_its_outcome() {
        let text = || String::from("x");
        for error in [
            raft::CallError::NoLeader,
            raft::CallError::UnknownNode(7),
            raft::CallError::Unreachable { node: 7, reason: text() },
            raft::CallError::NoAnswer { node: 7, reason: text() },
            raft::CallError::Overloaded(7),
            raft::CallError::Refused { node: 7, reason: text() },
            raft::CallError::TooLarge { len: 2, max: 1 },
            raft::CallError::ShuttingDown,
        ] {
            let kept = call_error(error.clone());
            let said = (error.outcome(), error.retry());
            is_kept(&error, said, (kept.outcome(), kept.retry()));
        }
        for error in [
            raft::AdminError::NoLeader,
            raft::AdminError::NotLeader { hint: None },
            raft::AdminError::Refused(text()),
            raft::AdminError::NoSuchMember(text()),
            raft::AdminError::OutcomeUnknown,
            raft::AdminError::NoSpace(text()),
            raft::AdminError::Io(text()),
            raft::AdminError::ShuttingDown,
        ] {
            let kept = admin_error(error.clone());
            let said = (error.outcome(), error.retry());
            is_kept(&error, said, (kept.outcome(), kept.retry()));
        }
        for error in [
            raft::ProposeError::NoLeader,
            raft::ProposeError::NotLeader { hint: None },
            raft::ProposeError::Overloaded,
            raft::ProposeError::TooLarge { len: 2, max: 1 },
            raft::ProposeError::OutcomeUnknown,
            raft::ProposeError::Storage(text()),
            raft::ProposeError::Refused(text()),
            raft::ProposeError::ShuttingDown,
        ] {
            let kept = propose_error(|_| text(), error.clone());
            let said = (error.outcome(), error.retry());
            is_kept(&error, said, (kept.outcome(), kept.retry()));
        }
        for error in [
            raft::ReadError::NoLeader,
            raft::ReadError::Behind { required: 2, applied: 1 },
            raft::ReadError::ShuttingDown,
        ] {
            let kept = read_error(error.clone());
            let not_done = raft::Outcome::NotDone;
            is_kept(&error, (not_done, error.retry()), (WriteOutcome::NotDone, kept.retry()));
        }
    }

    #[test]
    fn a_node_that_does_not_understand_the_state_is_not_taken_back() {
        let peers = peers();
        let has = peers.view.snapshot().state.version();
        assert_eq!(peers.admit_version(has), Ok(()));
        let refused = peers.admit_version(has - 1).unwrap_err();
        let expected = format!(
            "it has state version {has}, and this build understands up to {}: upgrade this node",
            has - 1
        );
        assert!(refused.ends_with(&expected), "{refused}");
    }

    #[test]
    fn a_peer_passes_on_what_callers_ask_and_is_recorded_and_cannot_act_as_maxine_itself() {
        let peers = peers();
        let harmless = || Command::Deregister { items: Vec::new() };
        let admitted = peers.admit(2, payload("ada", harmless())).unwrap();
        let batch = decode_batch(&admitted).unwrap();
        let actor = &batch.proposals[0].actor;
        assert_eq!((&*actor.address, &*actor.user), ("10.0.0.7", "ada"));
        assert_eq!(actor.via_node, Some(2));
        let refused = peers.admit(2, payload("system:bootstrap", harmless())).unwrap_err();
        assert!(refused.contains("may not act as system:bootstrap"), "{refused}");
        let of_maxine = decode_batch(&payload("system:bootstrap", harmless())).unwrap();
        assert!(is_never_forwarded(&of_maxine), "a node does not send what its peers refuse");
        let of_a_caller = decode_batch(&payload("ada", harmless())).unwrap();
        assert!(!is_never_forwarded(&of_a_caller));
        let grant = Command::GrantLeadership { holder: Name::trusted("node-2") };
        let refused = peers.admit(2, payload("ada", grant)).unwrap_err();
        assert!(refused.contains("only the leader"), "{refused}");
        assert!(peers.admit(2, Bytes::from_static(b"garbage")).is_err());
    }
}
