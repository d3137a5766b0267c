//! The local mode: a single node orders the commands in an append-only file on its own disk.
//!
//! Place in the flow: [`LocalStore::propose`] passes batches to one writer thread. The thread collects what
//! has arrived, writes it as one frame, syncs once, applies, publishes and answers.
//!
//! The node always leads. A second process on the same file is refused.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot, watch};

use super::claim::{Claim, Outcome};
use super::file_log::{
    CHECK_MS, GROUP_LEN_MAX, LogError, LogFile, Place, beside, is_locked, keep_damaged, try_lock,
};
use super::newest_state::NewestState;
use super::store_event::StoreEvents;
use super::{
    CallError, Consistency, ControlStore, Leadership, Machine, OpenError, Ordered, PeerHandler,
    ProposeError, ReadError, StoreEvent, StoreKind, WriteTime, encode_payload,
};
use maxine_clock::Clock;
use maxine_state::{Applied, Batch};
use maxine_view::View;

/// Maximum number of batches that wait for the writer.
const WAITING_MAX: usize = 1_024;
/// Maximum number of batches in one frame.
const GROUP_MAX: usize = 256;
/// Maximum size of an encoded batch, in bytes.
const ENTRY_LEN_MAX: usize = 15 * 1024 * 1024;
/// How often an idle writer checks whether it must stop.
const IDLE: Duration = Duration::from_millis(200);

/// Settings of the local mode.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The log file. Its path is that of `MAXINE_REGISTRY_STATE_FILE` with `.log` appended.
    pub path: PathBuf,
    /// A file with the newest state that the node has seen. With it, a node that starts notices that an older copy of
    /// the log was put in place. `None` turns this check off.
    pub newest_state: Option<PathBuf>,
    /// Whether anything is stored on disk (`MAXINE_REGISTRY_PERSISTENCE`).
    pub persistence: bool,
    /// Whether a write is synced to the disk before it is acknowledged. Without this, a power failure can
    /// lose the last writes. A crash of the process alone cannot.
    pub sync: bool,
    /// This node's name (`MAXINE_INSTANCE_ID`).
    pub instance_id: String,
    /// The file is compacted when its entries are longer than this, in bytes, and longer than the state at its
    /// beginning.
    pub compact_after_len: u64,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data/registry-state.log"),
            newest_state: None,
            persistence: true,
            sync: true,
            instance_id: String::from("maxine"),
            compact_after_len: 32 * 1024 * 1024,
        }
    }
}

struct Request {
    batch: Batch,
    payload: Vec<u8>,
    claim: Claim,
    answer: oneshot::Sender<Outcome>,
}

/// A store that orders commands in a local file.
pub struct LocalStore {
    requests: Mutex<Option<SyncSender<Request>>>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    leadership: watch::Sender<Leadership>,
    peers: Arc<dyn PeerHandler>,
    events: StoreEvents,
}

impl LocalStore {
    /// Opens the log, or creates an empty one. An incomplete frame at the end is removed. Any other damage is
    /// an error and changes nothing.
    pub async fn open(
        config: LocalConfig,
        view: Arc<View>,
        clock: Clock,
        peers: Arc<dyn PeerHandler>,
    ) -> Result<Arc<Self>, OpenError> {
        let events = StoreEvents::default();
        let leadership = watch::Sender::new(Leadership::default());
        let name = config.instance_id.clone();
        let (sender, ends) = (events.clone(), leadership.clone());
        let opening = move || Writer::open(config, view, clock, sender, ends);
        let opened = tokio::task::spawn_blocking(opening).await;
        let mut writer = opened.map_err(|error| OpenError::Io(error.to_string()))??;
        // Grows with every start, because every start writes a grant of leadership to the log.
        let term = writer.log.as_ref().map_or(0, |kept| kept.log.place().seq) + 1;
        let (requests, waiting) = sync_channel(WAITING_MAX);
        leadership.send_replace(Leadership { leader: Some(name), is_leader: true, term });
        let thread =
            std::thread::Builder::new().name(String::from("maxine-log")).spawn(move || {
                writer.run(&waiting);
                writer.leadership.send_replace(Leadership::default());
            });
        let thread = thread.map_err(|error| OpenError::Io(error.to_string()))?;
        Ok(Arc::new(Self {
            requests: Mutex::new(Some(requests)),
            writer: Mutex::new(Some(thread)),
            leadership,
            peers,
            events,
        }))
    }
}

fn lock_path(config: &LocalConfig) -> PathBuf {
    beside(&config.path, ".lock")
}

fn locked(config: &LocalConfig) -> OpenError {
    OpenError::Refused(format!("another process has {}", config.path.display()))
}

impl LocalConfig {
    /// Checks that no other process has the log. It does not read the log. Changes nothing. Blocks.
    ///
    /// # Errors
    /// The error that [`LocalStore::open`] returns if another process has the log.
    pub fn check_log(&self) -> Result<(), OpenError> {
        match self.persistence && is_locked(&lock_path(self))? {
            true => Err(locked(self)),
            false => Ok(()),
        }
    }
}

/// The file, and the lock that excludes other processes.
struct Kept {
    log: LogFile,
    _lock: std::fs::File,
}

impl Kept {
    /// Opens the log, or creates an empty one, and applies its entries.
    fn open(
        config: &LocalConfig,
        machine: &mut Machine,
        events: &StoreEvents,
    ) -> Result<Self, OpenError> {
        let lock = try_lock(&lock_path(config))?;
        let lock = lock.ok_or_else(|| locked(config))?;
        let log = match LogFile::open(&config.path)? {
            None => LogFile::create(&config.path, &machine.state(), Place::start())?,
            Some((mut log, state)) => {
                machine.replace(state);
                let news = log.read_new()?;
                if news.torn {
                    let len_bytes = log.cut_torn_tail()?;
                    tracing::warn!(len_bytes, "the last frame was incomplete and was removed");
                    events.emit(StoreEvent::TornTailCut { len_bytes });
                }
                for entries in news.entries.chunks(GROUP_MAX) {
                    let ordered: Vec<_> = entries.iter().map(|e| Ordered::Bytes(e)).collect();
                    let applied = machine.apply(&ordered);
                    applied.map_err(|error| OpenError::Damaged(error.to_string()))?;
                }
                log
            }
        };
        Ok(Self { log, _lock: lock })
    }
}

struct Writer {
    config: LocalConfig,
    machine: Machine,
    log: Option<Kept>,
    failed: Option<String>,
    events: StoreEvents,
    leadership: watch::Sender<Leadership>,
    clock: Clock,
    check_due_ms: u64,
    newest: NewestState,
}

impl Writer {
    fn open(
        config: LocalConfig,
        view: Arc<View>,
        clock: Clock,
        events: StoreEvents,
        leadership: watch::Sender<Leadership>,
    ) -> Result<Self, OpenError> {
        let mut machine = Machine::new(view);
        let mut newest = NewestState::default();
        let mut log = None;
        if config.persistence {
            newest = NewestState::read(config.newest_state.as_deref());
            log = Some(Kept::open(&config, &mut machine, &events)?);
            newest.compare(&machine.state()).into_iter().for_each(|loss| events.emit(loss));
        }
        let (failed, check_due_ms) = (None, 0);
        Ok(Self { config, machine, log, failed, events, leadership, clock, check_due_ms, newest })
    }

    fn run(&mut self, waiting: &Receiver<Request>) {
        loop {
            self.check_if_due();
            let first = match waiting.recv_timeout(IDLE) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => {
                    self.newest.note(&self.machine.state());
                    return;
                }
            };
            let mut len = first.payload.len();
            let mut group = vec![first];
            while group.len() < GROUP_MAX && len < GROUP_LEN_MAX {
                let Ok(next) = waiting.try_recv() else { break };
                len += next.payload.len();
                group.push(next);
            }
            group.retain(|request| request.claim.take());
            self.write(group);
            self.compact_if_due();
        }
    }

    fn write(&mut self, group: Vec<Request>) {
        if let Some(reason) = &self.failed {
            for request in group {
                let _ = request.answer.send(Err(ProposeError::Storage(reason.clone())));
            }
            return;
        }
        if group.is_empty() {
            return;
        }
        let done = self.try_write(&group);
        let answers = match done {
            Ok(answers) => answers,
            Err(reason) => {
                // After a failed sync the content of the disk is unknown, so no write is ever tried again.
                self.fail(&reason);
                return self.write(group);
            }
        };
        for (request, answer) in group.into_iter().zip(answers) {
            // A caller that gave up has received "outcome unknown".
            let _ = request.answer.send(Ok(answer));
        }
    }

    fn try_write(&mut self, group: &[Request]) -> Result<Vec<Vec<Applied>>, String> {
        if let Some(kept) = &mut self.log {
            let entries: Vec<&[u8]> = group.iter().map(|r| r.payload.as_slice()).collect();
            if !kept.log.is_current().map_err(|error| error.to_string())? {
                let path = self.config.path.display();
                return Err(format!("{path} was removed or replaced: new writes would be lost"));
            }
            kept.log.append(&entries, self.config.sync).map_err(|error| error.to_string())?;
        }
        let ordered: Vec<_> = group.iter().map(|r| Ordered::Batch(&r.batch)).collect();
        self.machine.apply(&ordered).map_err(|error| error.to_string())
    }

    /// If a check is due, checks that the log still has what was read and written. A damaged log is kept under
    /// another name, and replaced by the state. If that fails, the next check tries it again.
    fn check_if_due(&mut self) {
        let now_ms = self.clock.monotonic_ms();
        if now_ms < self.check_due_ms || self.failed.is_some() {
            return;
        }
        self.check_due_ms = now_ms + CHECK_MS;
        if let Err(error) = self.check(now_ms) {
            tracing::error!(%error, "the log could not be checked or replaced; trying again");
        }
        self.newest.note(&self.machine.state());
    }

    fn check(&mut self, now_ms: u64) -> Result<(), LogError> {
        let Some(kept) = &mut self.log else { return Ok(()) };
        // A log that was removed or replaced stops the node at the next write.
        if kept.log.check(now_ms)? || !kept.log.is_current()? {
            return Ok(());
        }
        let (damage, place) = (kept.log.damage(), kept.log.place());
        let aside = keep_damaged(&self.config.path)?;
        kept.log = LogFile::create(&self.config.path, &self.machine.state(), place)?;
        let reason = format!("{damage}; it is kept as {}", aside.display());
        tracing::error!(reason, "the log was damaged and is replaced by the state");
        self.events.emit(StoreEvent::Damaged { reason });
        self.events.emit(StoreEvent::StatePutBack { position: place.seq });
        Ok(())
    }

    fn compact_if_due(&mut self) {
        let Some(kept) = &mut self.log else { return };
        let len = kept.log.entries_len();
        if self.failed.is_some()
            || len <= self.config.compact_after_len
            || len <= kept.log.base_len()
        {
            return;
        }
        match LogFile::create(&self.config.path, &self.machine.state(), kept.log.place()) {
            Ok(log) => kept.log = log,
            Err(error) => self.fail(&error.to_string()),
        }
    }

    /// Leadership ends before the failure is reported, so that callers who see the failure do not find this
    /// node leading.
    fn fail(&mut self, reason: &str) {
        self.leadership.send_replace(Leadership::default());
        tracing::error!(reason, "the log cannot be written: this node must stop");
        self.failed = Some(reason.to_owned());
        self.events.emit(StoreEvent::Failed { reason: reason.to_owned() });
    }
}

#[async_trait]
impl ControlStore for LocalStore {
    async fn propose(&self, batch: Batch, time: WriteTime) -> Result<Vec<Applied>, ProposeError> {
        let payload = encode_payload(&batch)?;
        if payload.len() > ENTRY_LEN_MAX {
            return Err(ProposeError::TooLarge { len: payload.len(), max: ENTRY_LEN_MAX });
        }
        let (answer, answered) = oneshot::channel();
        let claim = Claim::default();
        {
            let requests = self.requests.lock();
            let Some(requests) = &*requests else { return Err(ProposeError::ShuttingDown) };
            match requests.try_send(Request { batch, payload, claim: claim.clone(), answer }) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => return Err(ProposeError::Overloaded),
                Err(TrySendError::Disconnected(_)) => return Err(ProposeError::ShuttingDown),
            }
        }
        claim.outcome(answered, time).await
    }

    async fn barrier(&self, _: Consistency, _: Duration) -> Result<(), ReadError> {
        // The writer publishes each change before it answers the caller, so the view is always current.
        Ok(())
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn staleness_ms(&self) -> Option<u64> {
        Some(0)
    }

    async fn call_leader(&self, body: Bytes, timeout: Duration) -> Result<Bytes, CallError> {
        if !self.leadership.borrow().is_leader {
            return Err(CallError::Unreachable);
        }
        let handled = tokio::time::timeout(timeout, self.peers.handle(body)).await;
        handled.map_err(|_| CallError::late())?.map_err(CallError::Refused)
    }

    fn kind(&self) -> StoreKind {
        StoreKind::Local
    }

    fn events(&self) -> Option<broadcast::Receiver<StoreEvent>> {
        Some(self.events.listen())
    }

    async fn shutdown(&self) {
        self.requests.lock().take();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            // The writer ends after the batches that it has received.
            let joined = tokio::task::spawn_blocking(move || writer.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the log's writer ended in a panic");
            }
        }
    }
}
