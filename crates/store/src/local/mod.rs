//! The local mode: a single node orders the commands in an append-only file on its own disk.
//!
//! Place in the flow: [`LocalStore::propose`] passes batches to one writer thread. The thread collects what
//! has arrived, writes it as one frame, syncs once, applies, publishes and answers.
//!
//! The node always leads. A second process on the same file is refused.
//!
//! The state in memory has everything that was acknowledged. So a log that is damaged, removed or replaced under a
//! running node is written again from it. While that fails, no write is taken.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
/// What clients read while the log is gone. Paths are left out, because any client may read it.
const ONLY_IN_MEMORY: &str = "the log of this node was removed or replaced, or cannot be reached, and it cannot be \
                              written again: the state may be only in memory; do not stop this node";

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
    /// Whether the log is gone and cannot be written again.
    is_refusing: Arc<AtomicBool>,
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
        let is_refusing = Arc::new(AtomicBool::new(false));
        let refusing = Arc::clone(&is_refusing);
        let opening = move || Writer::open(config, view, clock, sender, ends, refusing);
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
            is_refusing,
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
    lock: fs::File,
    /// The number of the file system with the directory of the log.
    file_system: u64,
}

/// The file system that has the directory of `path` now.
fn file_system_of(path: &Path) -> Result<u64, LogError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let there = fs::metadata(directory);
    Ok(there.map_err(|error| LogError::Io(directory.into(), error))?.dev())
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
        let file_system = file_system_of(&config.path)?;
        Ok(Self { log, lock, file_system })
    }

    /// Takes the lock again if it is gone, as after the removal of every file in the directory. Fails if another
    /// process has it, or if the path now leads to another file system: an empty mount point must not be mistaken for a
    /// directory whose files were removed.
    fn hold_lock(&mut self, config: &LocalConfig) -> Result<(), LogError> {
        let path = lock_path(config);
        let fail = |error| LogError::Io(path.clone(), error);
        let mine = self.lock.metadata().map_err(fail)?;
        let is_mine = |there: fs::Metadata| (there.dev(), there.ino()) == (mine.dev(), mine.ino());
        if fs::metadata(&path).is_ok_and(is_mine) {
            return Ok(());
        }
        if file_system_of(&path)? != self.file_system {
            return Err(fail(io::Error::other("its directory is on another file system now")));
        }
        let lock = try_lock(&path)?;
        self.lock = lock.ok_or_else(|| fail(io::Error::other("another process has it")))?;
        Ok(())
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
    /// Since when the log is gone and cannot be written again, in milliseconds.
    refusing_since_ms: Option<u64>,
    /// The same for the readers of the store.
    is_refusing: Arc<AtomicBool>,
}

impl Writer {
    fn open(
        config: LocalConfig,
        view: Arc<View>,
        clock: Clock,
        events: StoreEvents,
        leadership: watch::Sender<Leadership>,
        is_refusing: Arc<AtomicBool>,
    ) -> Result<Self, OpenError> {
        let mut machine = Machine::new(view);
        let mut newest = NewestState::default();
        let mut log = None;
        if config.persistence {
            newest = NewestState::read(config.newest_state.as_deref());
            log = Some(Kept::open(&config, &mut machine, &events)?);
            newest.compare(&machine.state()).into_iter().for_each(|loss| events.emit(loss));
        }
        Ok(Self {
            config,
            machine,
            log,
            failed: None,
            events,
            leadership,
            clock,
            check_due_ms: 0,
            newest,
            refusing_since_ms: None,
            is_refusing,
        })
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
        // While the log is gone, the next check tries to write it again.
        if self.refusing_since_ms.is_some() || self.put_back_if_gone().is_err() {
            for request in group {
                let refused = ProposeError::StoreUnavailable(ONLY_IN_MEMORY.to_owned());
                let _ = request.answer.send(Err(refused));
            }
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
            kept.log.append(&entries, self.config.sync).map_err(|error| error.to_string())?;
        }
        let ordered: Vec<_> = group.iter().map(|r| Ordered::Batch(&r.batch)).collect();
        self.machine.apply(&ordered).map_err(|error| error.to_string())
    }

    /// If a check is due, checks that the log is still at its path, and has what was read and written. A damaged or
    /// replaced log is kept under another name, and replaced by the state. If that fails, the next check tries it
    /// again.
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
        self.put_back_if_gone()?;
        let Some(kept) = &mut self.log else { return Ok(()) };
        if kept.log.check(now_ms)? {
            return Ok(());
        }
        let damage = kept.log.damage().to_string();
        self.put_back(&damage)
    }

    /// If the log was removed or replaced, writes the state in its place. While that fails, the state is only in
    /// memory, and no write is taken: it would be lost.
    fn put_back_if_gone(&mut self) -> Result<(), LogError> {
        let done = self.try_put_back_if_gone();
        match &done {
            Ok(()) => self.note_taking(),
            Err(error) => self.note_refusing(error),
        }
        done
    }

    fn try_put_back_if_gone(&mut self) -> Result<(), LogError> {
        let Some(kept) = &mut self.log else { return Ok(()) };
        if kept.log.is_current()? {
            return Ok(());
        }
        kept.hold_lock(&self.config)?;
        let replaced = format!("{} was replaced or shortened", self.config.path.display());
        self.put_back(&replaced)
    }

    /// Writes the state in the place of the log. If there is a file, which has `problem`, it is kept under another
    /// name.
    fn put_back(&mut self, problem: &str) -> Result<(), LogError> {
        let Some(kept) = &mut self.log else { return Ok(()) };
        let path = &self.config.path;
        let fail = |error| LogError::Io(path.clone(), error);
        let reason = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                format!("{} was removed", path.display())
            }
            Ok(there) if there.is_file() => {
                let aside = keep_damaged(path)?;
                format!("{problem}; it is kept as {}", aside.display())
            }
            // Reading a pipe would block.
            Ok(_) => return Err(fail(io::Error::other("it is not a regular file"))),
            Err(error) => return Err(fail(error)),
        };
        let place = kept.log.place();
        kept.log = LogFile::create(path, &self.machine.state(), place)?;
        tracing::error!(reason, "the log is replaced by the state");
        self.events.emit(StoreEvent::Damaged { reason, is_repaired: true });
        self.events.emit(StoreEvent::StatePutBack { position: place.seq });
        Ok(())
    }

    fn note_refusing(&mut self, error: &LogError) {
        if self.refusing_since_ms.is_some() {
            return;
        }
        self.refusing_since_ms = Some(self.clock.monotonic_ms());
        self.is_refusing.store(true, Ordering::Release);
        let path = self.config.path.display();
        let reason = format!(
            "{path} was removed or replaced, or cannot be reached, and it cannot be written again ({error}): the state may be \
             only in memory; do not stop this node"
        );
        tracing::error!(
            reason,
            "the log is gone: this node takes no writes until it can write it again"
        );
        self.events.emit(StoreEvent::WritesRefused { reason });
    }

    fn note_taking(&mut self) {
        if let Some(since_ms) = self.refusing_since_ms.take() {
            self.is_refusing.store(false, Ordering::Release);
            let after_ms = self.clock.monotonic_ms().saturating_sub(since_ms);
            tracing::info!(after_ms, "the log is there again: writes are taken");
            self.events.emit(StoreEvent::WritesAccepted { after_ms });
        }
    }

    fn compact_if_due(&mut self) {
        let Some(kept) = &mut self.log else { return };
        let len = kept.log.entries_len();
        if self.failed.is_some()
            || self.refusing_since_ms.is_some()
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

    fn refuses_writes(&self) -> Option<String> {
        self.is_refusing.load(Ordering::Acquire).then(|| ONLY_IN_MEMORY.to_owned())
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
