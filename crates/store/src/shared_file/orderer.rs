//! The only thread of a node that touches the shared files. It takes the lock, applies what other nodes
//! wrote, checks the lease for commands of the leader, appends, syncs, applies and answers.
//!
//! If a writer died and left an incomplete frame, the next holder of the lock removes the frame.

mod lease;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::leader_file::LeaderRecord;
use super::node_files::NodeFiles;
use super::{AWAY, NO_LOCK, Shared};
use crate::claim::{Claim, Outcome};
use crate::file_log::{
    CHECK_MS, GROUP_LEN_MAX, LogError, LogFile, NewEntries, Place, beside, create_new, is_refusal,
    keep_damaged, read_short, try_lock,
};
use crate::machine::{Machine, read_entry};
use crate::newest_state::NewestState;
use crate::node_register::REPORT_MS;
use crate::{OpenError, Ordered, ProposeError, StoreEvent, StoreNode};
use maxine_state::Batch;

/// Maximum number of batches in one frame.
const GROUP_MAX: usize = 256;
/// Storage allocates room in blocks of about this length, in bytes.
const BLOCK_LEN: usize = 4_096;
/// Maximum number of remembered positions, for recognizing an older copy of the same log.
const PLACES_MAX: usize = 8_192;

/// The requests of other threads.
pub(super) enum Request {
    /// Append a batch.
    Write {
        batch: Batch,
        payload: Vec<u8>,
        needs_lease: bool,
        claim: Claim,
        answer: oneshot::Sender<Outcome>,
    },
    /// Apply everything that is in the file now.
    CatchUp(oneshot::Sender<bool>),
    /// List the nodes.
    Nodes(oneshot::Sender<Vec<StoreNode>>),
    /// Forget a node.
    Forget(String, oneshot::Sender<bool>),
}

pub(super) struct Orderer {
    shared: Arc<Shared>,
    machine: Machine,
    lock: File,
    log: LogFile,
    places: VecDeque<(u64, u32)>,
    call_addr: String,
    /// The last record that was seen, and when it last changed, in milliseconds of the monotonic clock.
    observed: (Option<LeaderRecord>, u64),
    lease_due_ms: u64,
    node_files: NodeFiles,
    report_due_ms: u64,
    check_due_ms: u64,
    newest: NewestState,
    /// The room that the last refused write needs, in bytes; 0 if the storage takes writes.
    refused_len: usize,
    /// Whether the log has been read once. Before that, this node has no state that it could write back.
    is_running: bool,
}

/// Why something could not be done.
enum Failure {
    /// The lock was not free in time.
    Busy,
    /// The log was damaged, and this node has replaced it by its state. Only this round ends.
    Replaced(String),
    /// The storage failed. It may work later.
    Away(String),
    /// The lock file at this path is missing, so the storage may not be mounted. It may work later.
    NoLock(PathBuf),
    /// The storage answers, but it refused a write with an error of this kind. Nothing was written.
    NotWritten(String, ErrorKind),
    /// This node must stop.
    Fatal(String),
}

/// Why a small file beside the log could not be written. If a file or folder is missing, the storage is unavailable.
fn not_written(what: &str, error: &std::io::Error) -> Failure {
    let text = format!("{what}: {error}");
    match error.kind() {
        ErrorKind::NotFound => Failure::Away(text),
        kind => Failure::NotWritten(text, kind),
    }
}

/// Why the lock file could not be used.
fn without_lock(lock: PathBuf, error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => Failure::NoLock(lock),
        _ => Failure::Away(format!("{}: {error}", lock.display())),
    }
}

/// The text for the operators if the lock file is missing.
fn no_lock(lock: &Path) -> String {
    format!("the lock file {} is missing: the storage may not be mounted", lock.display())
}

/// Answers a question about the nodes. A caller without an answer reports that the storage is unavailable.
fn answer_about_nodes<T>(answer: oneshot::Sender<T>, found: std::io::Result<T>) {
    match found {
        Ok(found) => drop(answer.send(found)),
        Err(error) => tracing::warn!(%error, "the nodes' files"),
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        match &error {
            LogError::Io(..) => Self::Away(error.to_string()),
            LogError::NotWritten(_, why) => Self::NotWritten(error.to_string(), why.kind()),
            LogError::Damaged { .. } => Self::Fatal(error.to_string()),
        }
    }
}

/// Whether the file on this node's own disk names the log.
fn names(used: &Path, log: &Path) -> bool {
    let name = log.as_os_str().as_bytes();
    read_short(used, name.len() as u64).is_ok_and(|named| named.as_deref() == Some(name))
}

/// Refuses to start if the log does not exist although this node has used it.
pub(super) fn refuse_unmounted_storage(used: &Path, log: &Path) -> Result<(), OpenError> {
    if !names(used, log) || log.exists() {
        return Ok(());
    }
    let (used, log) = (used.display(), log.display());
    Err(OpenError::Refused(format!(
        "{log} is not there, although this node has used it: is its storage mounted? To begin with an empty registry, \
         delete {used} and newest-state beside it, on every node"
    )))
}

/// Records on this node's own disk that it has used the log.
fn remember_use(used: &Path, log: &Path) -> Result<(), OpenError> {
    let failed = |error| OpenError::Io(format!("{}: {error}", used.display()));
    if names(used, log) {
        return Ok(());
    }
    let mut file = create_new(used).map_err(failed)?;
    file.write_all(log.as_os_str().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

impl Orderer {
    /// Opens the log under the lock, or creates an empty one.
    pub(super) fn open(
        shared: Arc<Shared>,
        machine: Machine,
        call_addr: String,
    ) -> Result<Self, OpenError> {
        let path = shared.config.path.clone();
        let used = shared.config.used_log.clone();
        // This check comes before anything is created at the path, because an empty mount point must stay
        // empty.
        shared.config.check_storage()?;
        let lock_path = beside(&path, ".lock");
        let started_ms = shared.clock.monotonic_ms();
        let lock = loop {
            if let Some(lock) = try_lock(&lock_path)? {
                break lock;
            }
            if shared.clock.monotonic_ms() - started_ms > shared.config.lock_timeout_ms {
                let text = format!("{} is locked by another process", lock_path.display());
                return Err(OpenError::Refused(text));
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut machine = machine;
        let newest = NewestState::read(shared.config.newest_state.as_deref());
        let log = match LogFile::open(&path)? {
            None => LogFile::create(&path, &machine.state(), Place::start())?,
            Some((log, state)) => {
                machine.replace(state);
                log
            }
        };
        used.as_deref().map_or(Ok(()), |used| remember_use(used, &path))?;
        let observed = (None, shared.clock.monotonic_ms());
        let places = VecDeque::from([log.front()]);
        let addresses = shared.config.api_addresses.iter().chain([&call_addr]).cloned().collect();
        let node_files = NodeFiles::new(&path, &shared.config.instance_id, addresses);
        let mut orderer = Self {
            shared,
            machine,
            lock,
            log,
            places,
            call_addr,
            observed,
            lease_due_ms: 0,
            node_files,
            report_due_ms: 0,
            check_due_ms: 0,
            newest,
            refused_len: 0,
            is_running: false,
        };
        let caught_up = orderer.catch_up();
        orderer.is_running = true;
        if caught_up.is_ok()
            && let Some(loss) = orderer.newest.compare(&orderer.machine.state())
        {
            orderer.shared.emit(loss);
        }
        orderer.unlock();
        match caught_up {
            Ok(()) => Ok(orderer),
            Err(Failure::Fatal(reason)) => Err(OpenError::Damaged(reason)),
            Err(
                Failure::Away(reason) | Failure::NotWritten(reason, _) | Failure::Replaced(reason),
            ) => Err(OpenError::Io(reason)),
            Err(Failure::NoLock(lock)) => Err(OpenError::Io(no_lock(&lock))),
            Err(Failure::Busy) => Err(OpenError::Refused(String::from("the log is busy"))),
        }
    }

    /// Handles requests until the last sender is dropped.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        let poll = Duration::from_millis(self.shared.config.poll_ms);
        loop {
            let done = match requests.recv_timeout(poll) {
                Ok(first) => self.serve(first, requests),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let done = done.and_then(|()| self.take_or_renew_lease());
            let done = done.and_then(|()| self.report()).and_then(|()| self.check_log());
            match done {
                Ok(()) => self.shared.note_reachable(),
                // The storage answers. That the log was damaged is reported already.
                Err(Failure::Busy | Failure::Replaced(_)) => {}
                Err(Failure::NotWritten(reason, kind)) => {
                    self.shared.note_reachable();
                    self.shared.note_refusing(&reason, kind);
                }
                Err(Failure::Away(reason)) => {
                    self.shared.note_unreachable(reason, None, AWAY);
                    std::thread::sleep(poll);
                }
                Err(Failure::NoLock(lock)) => {
                    let text = no_lock(&lock);
                    self.shared.note_unreachable(text.clone(), Some(text), NO_LOCK);
                    std::thread::sleep(poll);
                }
                Err(Failure::Fatal(reason)) => {
                    // The lease ends first, so that nobody who sees the failure finds this node leading.
                    self.shared.end_lease();
                    self.shared.fail(&reason);
                    break;
                }
            }
        }
        if self.shared.failure().is_none() {
            self.release_lease();
        }
        self.newest.note(&self.machine.state());
        self.node_files.leave();
        self.shared.end_lease();
        while let Ok(request) = requests.recv() {
            self.shared.refuse(request);
        }
    }

    /// Reports that this node runs and reads the addresses of the others, if a report is due. The reports are
    /// writes, so they also show whether the storage takes writes while no client sends one.
    fn report(&mut self) -> Result<(), Failure> {
        let now_ms = self.shared.clock.monotonic_ms();
        if now_ms >= self.report_due_ms {
            self.check_storage()?;
            self.report_due_ms = now_ms + REPORT_MS;
            let nodes = self.node_files.nodes();
            let nodes = nodes.map_err(|error| not_written("the nodes' files", &error))?;
            let addresses = nodes.into_iter().flat_map(|node| node.addresses).collect();
            *self.shared.addresses.lock() = addresses;
            if self.shared.is_refusing() {
                // A report, or a small write into the last block of the log, may find room although the refused
                // write does not.
                let room = self.node_files.check_room(self.refused_len);
                room.map_err(|error| not_written("the log", &error))?;
                self.refused_len = 0;
                self.shared.note_accepted();
            }
        }
        Ok(())
    }

    /// If a check is due, checks that the log still has what this node has read and written, and notes the newest
    /// state. A log that differs is read again under the lock, because another node may have repaired it already.
    fn check_log(&mut self) -> Result<(), Failure> {
        let now_ms = self.shared.clock.monotonic_ms();
        if now_ms < self.check_due_ms {
            return Ok(());
        }
        if !self.log.check(now_ms)? {
            self.locked(|orderer| match orderer.log.check_whole()? {
                true => Ok(()),
                false => orderer.reopen(),
            })?;
        }
        self.newest.note(&self.machine.state());
        self.check_due_ms = now_ms + CHECK_MS;
        Ok(())
    }

    // --- the lock ----------------------------------------------------------------------------

    fn locked<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let started_ms = self.shared.clock.monotonic_ms();
        let retry_ms_max = self.shared.config.lock_retry_ms;
        let mut retry_ms = 1;
        loop {
            match self.lock.try_lock() {
                Ok(()) if self.lock_is_current()? => break,
                // Another node created the files again, so its lock is the valid one.
                Ok(()) => self.take_lock_at_path()?,
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(error)) => {
                    return Err(Failure::Away(format!("the lock: {error}")));
                }
            }
            let waited_ms = self.shared.clock.monotonic_ms() - started_ms;
            if waited_ms >= self.shared.config.lock_timeout_ms {
                return Err(Failure::Busy);
            }
            std::thread::sleep(Duration::from_millis(rand::random_range(1..=retry_ms)));
            retry_ms = (retry_ms * 2).min(retry_ms_max);
        }
        let done = self.catch_up().and_then(|()| work(self));
        self.unlock();
        done
    }

    /// Whether the lock of this node is still the lock at its path. If there is none at its path, the storage
    /// is unavailable. An empty mount point must not be mistaken for a deleted log, or each node would
    /// continue with a log of its own.
    fn lock_is_current(&self) -> Result<bool, Failure> {
        let path = beside(&self.shared.config.path, ".lock");
        let files = std::fs::metadata(&path).and_then(|there| Ok((there, self.lock.metadata()?)));
        let (there, mine) = files.map_err(|error| {
            self.unlock();
            without_lock(path, &error)
        })?;
        Ok((there.dev(), there.ino()) == (mine.dev(), mine.ino()))
    }

    fn take_lock_at_path(&mut self) -> Result<(), Failure> {
        self.unlock();
        let path = beside(&self.shared.config.path, ".lock");
        let opened = maxine_files::open_own(File::options().read(true).write(true), &path);
        self.lock = opened.map_err(|error| without_lock(path, &error))?;
        Ok(())
    }

    fn unlock(&self) {
        // Closing the file would unlock it too, so an error needs no action.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "the log's lock");
        }
    }

    // --- reading -----------------------------------------------------------------------------

    fn look(&mut self) -> Result<(), Failure> {
        let looked_ms = self.shared.clock.monotonic_ms();
        if self.log.has_changed()? {
            match self.locked(|_| Ok(())) {
                // Another node is writing. The next check reads what it wrote.
                Err(Failure::Busy) => return Ok(()),
                other => return other,
            }
        }
        self.check_storage()?;
        self.shared.note_complete(looked_ms);
        Ok(())
    }

    /// If there is no lock file at its path, the storage is unavailable, whatever file is at the path of the log.
    fn check_storage(&self) -> Result<(), Failure> {
        let lock = beside(&self.shared.config.path, ".lock");
        let there = std::fs::metadata(&lock);
        there.map(drop).map_err(|error| without_lock(lock, &error))
    }

    /// Applies everything that is in the file. The caller must hold the lock.
    fn catch_up(&mut self) -> Result<(), Failure> {
        let looked_ms = self.shared.clock.monotonic_ms();
        if !self.log.is_current()? {
            self.reopen()?;
        }
        let news = match self.log.read_new() {
            Err(damaged @ LogError::Damaged { .. }) => {
                // The same file with other content: an older copy was written over it.
                let is_behind = self.log.place().seq > self.log.front().0;
                if is_behind {
                    self.reopen()?;
                    self.log.read_new()?
                } else if self.is_running {
                    return self.replace_damaged(&damaged);
                } else {
                    return Err(damaged.into());
                }
            }
            other => other?,
        };
        self.take(news)?;
        self.shared.note_complete(looked_ms);
        Ok(())
    }

    /// Keeps the damaged log under another name, and replaces it by the state. Always returns an error, which ends
    /// this round. So a node that had applied more can write that back first.
    fn replace_damaged(&mut self, damaged: &LogError) -> Result<(), Failure> {
        let path = self.shared.config.path.clone();
        let news = self.log.read_before_damage()?;
        self.apply(&news.entries)?;
        self.remember(&news.places);
        let aside = keep_damaged(&path)?;
        let place = self.log.place();
        self.log = LogFile::create(&path, &self.machine.state(), place)?;
        let reason = format!("{damaged}; it is kept as {}", aside.display());
        self.shared.emit(StoreEvent::Damaged { reason: reason.clone(), is_repaired: true });
        self.shared.emit(StoreEvent::StatePutBack { position: place.seq });
        Err(Failure::Replaced(reason))
    }

    fn take(&mut self, news: NewEntries) -> Result<(), Failure> {
        if news.torn {
            let len_bytes = self.log.cut_torn_tail()?;
            self.shared.emit(StoreEvent::TornTailCut { len_bytes });
        }
        self.apply(&news.entries)?;
        self.remember(&news.places);
        Ok(())
    }

    /// Applies the last entries that were read. Every node skips the same ones: entries that Maxine did not
    /// write and that cannot be read.
    fn apply(&mut self, entries: &[Vec<u8>]) -> Result<(), Failure> {
        let first = self.log.place().seq + 1 - entries.len() as u64;
        let mut skipped: Vec<(u64, String)> = Vec::new();
        let mut positions = first..;
        for group in entries.chunks(GROUP_MAX) {
            let mut batches = Vec::with_capacity(group.len());
            for (entry, position) in group.iter().zip(&mut positions) {
                let read = read_entry(entry).map_err(|error| {
                    Failure::Fatal(format!("entry {position} of the shared log: {error}"))
                })?;
                batches.push(read.unwrap_or_else(|reason| {
                    skipped.push((position, reason));
                    Batch::default()
                }));
            }
            self.machine.apply_batches(&batches);
        }
        if let Some((position, reason)) = skipped.first() {
            let (first, reason) = (position.to_string(), reason.clone());
            let count = skipped.len() as u64;
            self.shared.emit(StoreEvent::EntriesSkipped { first, count, reason });
        }
        Ok(())
    }

    fn remember(&mut self, places: &[(u64, u32)]) {
        self.places.extend(places);
        let surplus = self.places.len().saturating_sub(PLACES_MAX);
        self.places.drain(..surplus);
    }

    /// Reads the log again, because the path now has another file than before: a compacted one, none, or an older
    /// copy.
    fn reopen(&mut self) -> Result<(), Failure> {
        let mine = self.log.place();
        let path = self.shared.config.path.clone();
        let opened = match LogFile::open(&path) {
            Err(damaged @ LogError::Damaged { .. }) if self.is_running => {
                return self.replace_damaged(&damaged);
            }
            other => other?,
        };
        let Some((mut log, state)) = opened else {
            self.log = LogFile::create(&path, &self.machine.state(), mine)?;
            self.shared.emit(StoreEvent::StatePutBack { position: mine.seq });
            return Ok(());
        };
        let news = match log.read_new() {
            Err(damaged @ LogError::Damaged { .. }) if self.is_running => {
                return self.replace_damaged(&damaged);
            }
            other => other?,
        };
        let there = log.place();
        let same_log = there.lineage == mine.lineage;
        let known = |place: &(u64, u32)| *place == (mine.seq, mine.chain);
        if same_log && there.seq >= mine.seq {
            let (front, _) = log.front();
            if front > mine.seq {
                // The new file begins after this node's position.
                self.machine.replace(state);
                self.log = log;
                self.remember(&[self.log.front()]);
                return self.take(news);
            }
            if known(&log.front()) || news.places.iter().any(known) {
                let skip = usize::try_from(mine.seq - front).unwrap_or(usize::MAX);
                let mut news = news;
                news.entries.drain(..skip.min(news.entries.len()));
                self.log = log;
                return self.take(news);
            }
        }
        if same_log && there.seq < mine.seq && self.places.contains(&(there.seq, there.chain)) {
            if news.torn {
                // Other bytes are at the position of the frames that this node has.
                let damage = self.log.damage();
                return self.replace_damaged(&damage);
            }
            self.log = LogFile::create(&path, &self.machine.state(), mine)?;
            self.shared.emit(StoreEvent::WritesPutBack { from: there.seq + 1, to: mine.seq });
            return Ok(());
        }
        self.machine.replace(state);
        self.log = log;
        self.places = VecDeque::from([self.log.front()]);
        self.take(news)?;
        self.shared.end_lease();
        let now = self.log.place().seq;
        self.shared.emit(StoreEvent::WritesLost { had: mine.seq, now, replaced: !same_log });
        Ok(())
    }

    // --- writing -----------------------------------------------------------------------------

    fn serve(&mut self, first: Request, requests: &Receiver<Request>) -> Result<(), Failure> {
        let mut len = first.len();
        let mut group = vec![first];
        while group.len() < GROUP_MAX && len < GROUP_LEN_MAX {
            let Ok(next) = requests.try_recv() else { break };
            len += next.len();
            group.push(next);
        }
        let mut waiting = Some(group);
        let done = self.locked(|orderer| {
            let group = waiting.take().unwrap_or_default();
            orderer.write(group)
        });
        for request in waiting.into_iter().flatten() {
            self.shared.refuse(request);
        }
        match done {
            Err(Failure::Busy) => Ok(()),
            other => other,
        }
    }

    fn write(&mut self, group: Vec<Request>) -> Result<(), Failure> {
        let mut writes = Vec::new();
        let leads = self.confirms_lease();
        for request in group {
            match request {
                Request::CatchUp(answer) => drop(answer.send(true)),
                Request::Nodes(answer) => {
                    answer_about_nodes(answer, self.node_files.nodes());
                }
                Request::Forget(name, answer) => {
                    answer_about_nodes(answer, self.node_files.forget(&name));
                }
                Request::Write { needs_lease: true, answer, .. } if !leads => {
                    drop(answer.send(Err(self.shared.not_leader())));
                }
                Request::Write { batch, payload, claim, answer, .. } => {
                    // Its caller may have given up while the lock was waited for.
                    if claim.take() {
                        writes.push((batch, payload, answer));
                    }
                }
            }
        }
        if writes.is_empty() {
            return Ok(());
        }
        let entries: Vec<&[u8]> = writes.iter().map(|(_, payload, _)| payload.as_slice()).collect();
        let written = self.log.append(&entries, true);
        let place = self.log.place();
        if let Err(error @ LogError::NotWritten(_, refused)) = &written {
            let (reason, kind) = (error.to_string(), refused.kind());
            let len: usize = entries.iter().map(|entry| entry.len()).sum();
            self.refused_len = len + BLOCK_LEN;
            self.shared.note_refusing(&reason, kind);
            let why = self.shared.refuses_writes().unwrap_or_default();
            for (_, _, answer) in writes {
                let _ = answer.send(Err(ProposeError::StoreUnavailable(why.clone())));
            }
            return Err(Failure::NotWritten(reason, kind));
        }
        // After a failed sync the content of the disk is unknown, so it is never tried again.
        let written = written.map_err(|error| Failure::Fatal(error.to_string()));
        let applied = written.and_then(|()| {
            let ordered: Vec<_> = writes.iter().map(|(batch, ..)| Ordered::Batch(batch)).collect();
            let applied = self.machine.apply(&ordered);
            applied.map_err(|error| Failure::Fatal(error.to_string()))
        });
        let answers = match applied {
            Ok(answers) => answers,
            Err(failure) => {
                if let Failure::Fatal(reason) = &failure {
                    for (_, _, answer) in writes {
                        let _ = answer.send(Err(ProposeError::Storage(reason.clone())));
                    }
                }
                return Err(failure);
            }
        };
        self.remember(&[(place.seq, place.chain)]);
        for ((_, _, answer), applied) in writes.into_iter().zip(answers) {
            // A caller that gave up has received "outcome unknown".
            let _ = answer.send(Ok(applied));
        }
        self.compact_if_due()
    }

    fn compact_if_due(&mut self) -> Result<(), Failure> {
        let len = self.log.entries_len();
        if len > self.shared.config.compact_after_len && len > self.log.base_len() {
            let place = self.log.place();
            let path = &self.shared.config.path;
            match LogFile::create(path, &self.machine.state(), place) {
                Ok(log) => self.log = log,
                // The log is as it was, and takes writes as long as there is room. The next write tries again.
                Err(LogError::Io(path, error)) if is_refusal(&error) => {
                    tracing::warn!(path = %path.display(), %error, "the log could not be compacted");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Request {
    fn len(&self) -> usize {
        match self {
            Self::Write { payload, .. } => payload.len(),
            Self::CatchUp(_) | Self::Nodes(_) | Self::Forget(..) => 0,
        }
    }
}
