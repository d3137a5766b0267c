//! The shared-file mode: a file on shared storage orders the commands of a few nodes.
//!
//! Place in the flow: [`SharedFileStore::propose`] passes batches to one thread, which appends them under the
//! lock of the file. The other nodes see the file grow and apply what is new. A small file next to it names
//! the leader. Commands of the leader are checked against it under the lock.
//!
//! Only that one thread touches the files. Nothing here relies on the wall clock.

mod calls;
mod config;
mod leader_file;
mod node_files;
mod orderer;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::calls::Caller;
use self::leader_file::LeaderRecord;
use self::orderer::{Orderer, Request};
use super::claim::Claim;
use super::file_log::beside;
use super::lease_tokens::LeaseTokens;
use super::store_event::StoreEvents;
use super::{
    CallError, Consistency, ControlStore, Leadership, Machine, OpenError, PeerHandler,
    ProposeError, ReadError, StoreEvent, StoreKind, StoreNode, WriteTime, encode_payload,
    needs_lease,
};
use maxine_clock::Clock;
use maxine_state::{Applied, Batch};
use maxine_view::View;

pub use config::SharedFileConfig;
pub(crate) use node_files::running_nodes;

/// Maximum number of batches that wait for the lock.
const WAITING_MAX: usize = 1_024;
/// Maximum size of an encoded batch, in bytes.
const ENTRY_LEN_MAX: usize = 15 * 1024 * 1024;
/// Why nothing can be written while the storage does not answer.
const AWAY: &str = "the shared storage does not answer";
/// Why nothing can be written without the lock file.
const NO_LOCK: &str =
    "the lock file of the shared storage is missing: the storage may not be mounted";
/// Maximum time that a stop waits for the tasks.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Why a write fails while the storage answers, after an error of this kind. If the storage is full, smaller writes may
/// still fit into the last block of the log.
fn why_refused(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "the shared storage is full: only small writes may succeed"
        }
        ErrorKind::ReadOnlyFilesystem => "the shared storage is read-only",
        _ => "the shared storage refuses writes",
    }
}

#[derive(Debug, Default)]
struct LeaseState {
    /// This node's own fencing token, and until when its lease is valid, in milliseconds.
    held: Option<(u64, u64)>,
    /// The present leader, as far as it is known.
    record: Option<LeaderRecord>,
    /// When this node first saw `record` or wrote it, in milliseconds.
    record_ms: u64,
    highest_fence: u64,
}

/// What the thread and the tasks share.
struct Shared {
    /// The addresses of all nodes that report, as `host:port`.
    addresses: Mutex<Vec<String>>,
    config: SharedFileConfig,
    leader_path: PathBuf,
    clock: Clock,
    /// Tokens that identify this process in the lease, and the earlier processes of this node.
    tokens: LeaseTokens,
    leadership: watch::Sender<Leadership>,
    lease: Mutex<LeaseState>,
    /// The time of the last check after which this node had all entries of the file, in milliseconds.
    complete_ms: AtomicU64,
    events: StoreEvents,
    failed: Mutex<Option<String>>,
    /// Since when the storage cannot be used, in milliseconds, and why.
    away: Mutex<Option<(u64, &'static str)>>,
    /// Since when the storage answers but refuses writes, in milliseconds, and why.
    refusing: Mutex<Option<(u64, &'static str)>>,
}

impl Shared {
    fn emit(&self, event: StoreEvent) {
        tracing::warn!(?event, "shared file");
        self.events.emit(event);
    }

    fn fail(&self, reason: &str) {
        tracing::error!(reason, "the shared file cannot be used: this node must stop");
        *self.failed.lock() = Some(reason.to_owned());
        self.emit(StoreEvent::Failed { reason: reason.to_owned() });
    }

    fn failure(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    /// Records that the storage cannot be used, because of the error `reason`. `cause` is the reason for the operators if
    /// the storage answers, and `why` is the reason for any client.
    fn note_unreachable(&self, reason: String, cause: Option<String>, why: &'static str) {
        let now_ms = self.clock.monotonic_ms();
        let before = {
            let mut away = self.away.lock();
            let since_ms = away.map_or(now_ms, |(since_ms, _)| since_ms);
            away.replace((since_ms, why))
        };
        if before.is_none() {
            self.emit(StoreEvent::Unreachable { reason, cause });
        }
    }

    fn note_reachable(&self) {
        let away = self.away.lock().take();
        if let Some((since_ms, _)) = away {
            let after_ms = self.clock.monotonic_ms().saturating_sub(since_ms);
            self.emit(StoreEvent::Reachable { after_ms });
        }
    }

    /// Records that the storage answers but refused a write with an error of this kind.
    fn note_refusing(&self, reason: &str, kind: ErrorKind) {
        let now_ms = self.clock.monotonic_ms();
        let mut refusing = self.refusing.lock();
        let since_ms = refusing.map(|(since_ms, _)| since_ms);
        *refusing = Some((since_ms.unwrap_or(now_ms), why_refused(kind)));
        if since_ms.is_none() {
            self.emit(StoreEvent::WritesRefused { reason: reason.to_owned() });
        }
    }

    /// Records that the storage takes writes again.
    fn note_accepted(&self) {
        let mut refusing = self.refusing.lock();
        if let Some((since_ms, _)) = refusing.take() {
            let after_ms = self.clock.monotonic_ms().saturating_sub(since_ms);
            self.emit(StoreEvent::WritesAccepted { after_ms });
        }
    }

    fn is_refusing(&self) -> bool {
        self.refusing.lock().is_some()
    }

    /// Why nothing can be written now, as far as this node knows. Paths are left out, because any client may
    /// read it.
    fn refuses_writes(&self) -> Option<String> {
        let away = *self.away.lock();
        let why = away.or(*self.refusing.lock());
        why.map(|(_, why)| why.to_owned())
    }

    /// Records that this node has everything that was in the file at `looked_ms`, when it checked.
    fn note_complete(&self, looked_ms: u64) {
        self.complete_ms.store(looked_ms, Ordering::Release);
    }

    fn margin_ms(&self) -> u64 {
        (self.config.lease_ms / 10).max(50)
    }

    /// This node's fencing token, while its lease is valid.
    fn held_lease(&self) -> Option<u64> {
        let now_ms = self.clock.monotonic_ms();
        let lease = self.lease.lock();
        lease.held.filter(|(_, until_ms)| now_ms < *until_ms).map(|(token, _)| token)
    }

    fn hold_lease(&self, record: LeaderRecord, since_ms: u64) {
        let until_ms = since_ms + self.config.lease_ms - self.margin_ms();
        let mut lease = self.lease.lock();
        lease.held = Some((record.fencing_token, until_ms));
        lease.highest_fence = lease.highest_fence.max(record.fencing_token);
        lease.record = Some(record);
        lease.record_ms = since_ms;
    }

    fn note_record(&self, record: Option<LeaderRecord>, seen_ms: u64) {
        let mut lease = self.lease.lock();
        lease.record_ms = seen_ms;
        lease.held = None;
        let token = record.as_ref().map_or(0, |record| record.fencing_token);
        lease.highest_fence = lease.highest_fence.max(token);
        lease.record = record;
    }

    fn highest_fence(&self) -> u64 {
        self.lease.lock().highest_fence
    }

    fn end_lease(&self) {
        {
            let mut lease = self.lease.lock();
            lease.held = None;
            if lease.record.as_ref().is_some_and(|record| record.token == self.tokens.mine()) {
                lease.record = None;
            }
        }
        self.publish_leadership();
    }

    fn leadership_now(&self) -> Leadership {
        let is_leader = self.held_lease().is_some();
        let now_ms = self.clock.monotonic_ms();
        let lease = self.lease.lock();
        // A record that was not renewed, or could not be read again, is valid for the time of a lease only.
        let lasts = now_ms.saturating_sub(lease.record_ms) < self.config.lease_ms;
        let record = lease.record.as_ref().filter(|_| lasts);
        // Each node has its own name. So a record with this node's name is from an earlier process of this node.
        let names_another = |record: &LeaderRecord| record.instance_id != self.config.instance_id;
        let record = record.filter(|record| is_leader || names_another(record));
        let leader = record.map(|record| record.instance_id.clone());
        Leadership { leader, is_leader, term: lease.highest_fence }
    }

    fn publish_leadership(&self) {
        let now = self.leadership_now();
        self.leadership.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
    }

    fn not_leader(&self) -> ProposeError {
        let now = self.leadership_now();
        ProposeError::NotLeader { hint: now.leader.filter(|_| !now.is_leader) }
    }

    /// Answers a request that was not carried out.
    fn refuse(&self, request: Request) {
        match request {
            Request::CatchUp(answer) => drop(answer.send(false)),
            // A caller that gets no answer reports that the storage is unavailable.
            Request::Nodes(answer) => drop(answer),
            Request::Forget(_, answer) => drop(answer),
            Request::Write { answer, .. } => {
                let error = match (self.failure(), self.refuses_writes()) {
                    (Some(reason), _) => ProposeError::Storage(reason),
                    (None, Some(reason)) => ProposeError::StoreUnavailable(reason),
                    (None, None) => ProposeError::NotBegun,
                };
                drop(answer.send(Err(error)));
            }
        }
    }
}

/// A store that orders commands with a shared file.
pub struct SharedFileStore {
    shared: Arc<Shared>,
    requests: Mutex<Option<SyncSender<Request>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    peers: Arc<dyn PeerHandler>,
    caller: Caller,
    /// Where this node accepts calls.
    bound: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl SharedFileStore {
    /// Opens the log, or creates an empty one, and catches up with it.
    pub async fn open(
        config: SharedFileConfig,
        view: Arc<View>,
        clock: Clock,
        peers: Arc<dyn PeerHandler>,
    ) -> Result<Arc<Self>, OpenError> {
        config.check().map_err(|wrong| OpenError::Settings(wrong.join("; ")))?;
        let listener = maxine_admission::listen(config.call_bind);
        let listener = listener.map_err(|error| {
            OpenError::Settings(format!("cannot listen on {}: {error}", config.call_bind))
        })?;
        let bound = listener.local_addr().map_err(|error| OpenError::Io(error.to_string()))?;
        let call_addr = match &config.call_host {
            Some(host) => format!("{host}:{}", bound.port()),
            None => bound.to_string(),
        };
        let shared = Arc::new(Shared {
            leader_path: beside(&config.path, ".leader"),
            clock,
            tokens: LeaseTokens::begin(config.lease_tokens.as_deref()),
            leadership: watch::Sender::new(Leadership::default()),
            lease: Mutex::default(),
            complete_ms: AtomicU64::new(0),
            events: StoreEvents::default(),
            failed: Mutex::default(),
            away: Mutex::default(),
            addresses: Mutex::default(),
            refusing: Mutex::default(),
            config,
        });
        let (machine, opening) = (Machine::new(view), Arc::clone(&shared));
        let open = move || Orderer::open(opening, machine, call_addr);
        let opened = tokio::task::spawn_blocking(open).await;
        let orderer = opened.map_err(|error| OpenError::Io(error.to_string()))??;
        let (requests, waiting) = sync_channel(WAITING_MAX);
        let thread = std::thread::Builder::new()
            .name(String::from("maxine-shared-file"))
            .spawn(move || orderer.run(&waiting))
            .map_err(|error| OpenError::Io(error.to_string()))?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let asked = Arc::clone(&shared);
        tasks.spawn(calls::serve(
            listener,
            shared.tokens.mine().to_owned(),
            move || asked.held_lease().is_some(),
            Arc::clone(&peers),
            stop.clone(),
            tasks.clone(),
        ));
        Ok(Arc::new(Self {
            shared,
            requests: Mutex::new(Some(requests)),
            thread: Mutex::new(Some(thread)),
            peers,
            caller: Caller::default(),
            bound,
            stop,
            tasks,
        }))
    }

    /// Asks the thread about the nodes.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, ReadError> {
        let (answer, answered) = oneshot::channel();
        self.send(request(answer)).map_err(|_| ReadError::ShuttingDown)?;
        let limit = Duration::from_millis(self.shared.config.lock_timeout_ms + 1_000);
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(ReadError::StoreUnavailable),
        }
    }

    fn send(&self, request: Request) -> Result<(), ProposeError> {
        let requests = self.requests.lock();
        let Some(requests) = &*requests else { return Err(ProposeError::ShuttingDown) };
        match requests.try_send(request) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(ProposeError::Overloaded),
            Err(TrySendError::Disconnected(_)) => Err(ProposeError::ShuttingDown),
        }
    }
}

#[async_trait]
impl ControlStore for SharedFileStore {
    async fn propose(&self, batch: Batch, time: WriteTime) -> Result<Vec<Applied>, ProposeError> {
        if let Some(reason) = self.shared.failure() {
            return Err(ProposeError::Storage(reason));
        }
        let payload = encode_payload(&batch)?;
        if payload.len() > ENTRY_LEN_MAX {
            return Err(ProposeError::TooLarge { len: payload.len(), max: ENTRY_LEN_MAX });
        }
        let needs_lease = needs_lease(&batch);
        if needs_lease && self.shared.held_lease().is_none() {
            return Err(self.shared.not_leader());
        }
        let (answer, answered) = oneshot::channel();
        let claim = Claim::default();
        self.send(Request::Write { batch, payload, needs_lease, claim: claim.clone(), answer })?;
        claim.outcome(answered, time).await
    }

    async fn barrier(&self, level: Consistency, timeout: Duration) -> Result<(), ReadError> {
        if level == Consistency::Stale {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.send(Request::CatchUp(answer)).map_err(|error| match error {
            ProposeError::ShuttingDown => ReadError::ShuttingDown,
            _ => ReadError::Behind,
        })?;
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(true)) => Ok(()),
            _ => Err(ReadError::Behind),
        }
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    fn leadership_now(&self) -> Leadership {
        self.shared.leadership_now()
    }

    fn staleness_ms(&self) -> Option<u64> {
        // The log was read to its end before this store could be used.
        let complete_ms = self.shared.complete_ms.load(Ordering::Acquire);
        Some(self.shared.clock.monotonic_ms().saturating_sub(complete_ms))
    }

    async fn call_leader(&self, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        let call = async {
            if self.shared.held_lease().is_some() {
                return self.peers.handle(body).await.map_err(CallError::Refused);
            }
            let record = self.shared.lease.lock().record.clone();
            let record = record.filter(|record| record.token != self.shared.tokens.mine());
            let Some(leader) = record else { return Err(CallError::Unreachable) };
            self.caller.call(&leader.call_addr, &leader.token, &body).await
        };
        if self.stop.is_cancelled() {
            return Err(CallError::Unreachable);
        }
        tokio::time::timeout(timeout, call).await.unwrap_or_else(|_| Err(CallError::late()))
    }

    fn kind(&self) -> StoreKind {
        StoreKind::SharedFile
    }

    async fn nodes(&self) -> Result<Option<Vec<StoreNode>>, ReadError> {
        self.ask(Request::Nodes).await.map(Some)
    }

    async fn forget_node(&self, name: &str) -> Result<bool, ReadError> {
        self.ask(|answer| Request::Forget(name.to_owned(), answer)).await
    }

    fn refuses_writes(&self) -> Option<String> {
        self.shared.refuses_writes()
    }

    fn events(&self) -> Option<broadcast::Receiver<StoreEvent>> {
        Some(self.shared.events.listen())
    }

    fn own_addresses(&self) -> Vec<String> {
        let own_host = self.shared.config.call_host.as_ref();
        let advertised = own_host.map(|host| format!("{host}:{}", self.bound.port()));
        // The address for calls is only known while a node leads.
        let record = self.shared.lease.lock().record.clone();
        let leader = record.map(|record| record.call_addr);
        let nodes = self.shared.addresses.lock().clone();
        let own = std::iter::once(self.bound.to_string()).chain(advertised);
        own.chain(leader).chain(nodes).collect()
    }

    async fn shutdown(&self) {
        self.requests.lock().take();
        self.stop.cancel();
        self.tasks.close();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // The thread ends after the requests that it has received.
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the shared file's thread ended in a panic");
            }
        }
        if tokio::time::timeout(STOP_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks of the shared-file store did not stop in time");
        }
    }
}
