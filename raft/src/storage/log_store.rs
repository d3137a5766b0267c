//! The log, as the consensus core uses it.
//!
//! Appended entries can be read immediately from a tail in memory, which also serves replication and apply.
//! The writer thread makes them durable. The core never waits for the disk, except when it saves a vote.
//! Entries that left the tail are read from the engine on a blocking thread.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::RwLock;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::disk_health::DiskHealth;
use super::log_mark::LogMarkFile;
use super::log_memory::{Memory, Shared};
use super::log_writer::{LogOp, LogWriter};
use super::{LogEngine, MetaKey, damaged};
use crate::codec::{self, StoredEntry, StoredLogId, StoredVote};
use crate::consensus::{self, Entry, LogId, TypeConfig, Vote};

/// Maximum number of operations that wait for the writer thread.
const QUEUE_LEN_MAX: usize = 16_384;
/// Maximum size of the entries that wait for the writer thread, in KiB.
const QUEUE_KIB_MAX: usize = 256 * 1024;
/// Maximum size of the entries in one append between nodes, in bytes.
pub(crate) const APPEND_BYTES_MAX: usize = 1024 * 1024;
/// Size of one read during the check at the start, in bytes.
const SCAN_BYTES: usize = 4 * 1024 * 1024;

/// A handle to the log. Clones use the same log.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    queue: mpsc::Sender<LogOp>,
    budget: Arc<Semaphore>,
}

/// The state of the log on the disk at the start.
pub(crate) struct Recovered {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
    pub(crate) last: Option<LogId>,
    pub(crate) tail: VecDeque<Entry>,
}

impl LogStore {
    /// Verifies the whole log and starts the writer thread. Blocks.
    pub(crate) fn open(
        engine: Arc<dyn LogEngine>,
        dir: &Path,
        tail_bytes_max: usize,
        health: Arc<DiskHealth>,
    ) -> io::Result<Self> {
        let mark = LogMarkFile::open(dir)?;
        let recovered = recover(&*engine, &mark, tail_bytes_max)?;
        let last = recovered.last.as_ref().map(consensus::log_id_to_dto);
        let vote = recovered.vote.as_ref().map(consensus::vote_to_dto);
        let memory = Memory {
            synced_next: recovered.last.as_ref().map_or(0, |id| id.index + 1),
            tail_bytes: recovered.tail.iter().map(consensus::entry_weight).sum(),
            vote: recovered.vote,
            committed: recovered.committed,
            purged: recovered.purged,
            last: recovered.last,
            tail: recovered.tail,
            epoch: 0,
        };
        let shared = Arc::new(Shared {
            engine: RwLock::new(Some(engine.clone())),
            memory: RwLock::new(memory),
            tail_bytes_max,
        });
        let (queue, receiver) = mpsc::channel(QUEUE_LEN_MAX);
        let writer = LogWriter::new(engine, shared.clone(), health, mark, last, vote);
        std::thread::Builder::new()
            .name("maxine-raft-log".to_owned())
            .spawn(move || writer.run(receiver))?;
        Ok(Self { shared, queue, budget: Arc::new(Semaphore::new(QUEUE_KIB_MAX)) })
    }

    /// Whether nothing was ever stored. Such a node may join any line of history.
    pub(crate) fn is_pristine(&self) -> bool {
        let memory = self.shared.memory.read();
        memory.vote.is_none() && memory.last.is_none() && memory.purged.is_none()
    }

    /// The last entry of the log, synced or not.
    pub(crate) fn last_log_id(&self) -> Option<LogId> {
        self.shared.memory.read().last
    }

    pub(crate) fn saved_vote(&self) -> Option<Vote> {
        self.shared.memory.read().vote
    }

    pub(crate) fn saved_committed(&self) -> Option<LogId> {
        self.shared.memory.read().committed
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.shared.engine().map_or(0, |engine| engine.disk_bytes())
    }

    /// Writes and syncs what is queued, ends the thread and closes the engine.
    pub(crate) async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.queue.send(LogOp::Stop { done }).await.is_ok() {
            let _ = stopped.await;
        }
    }

    async fn submit(&self, op: LogOp) -> io::Result<()> {
        self.queue.send(op).await.map_err(|_| io::Error::other("the log is closed"))
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let (start, end, tail_first) = {
            let memory = self.shared.memory.read();
            let start = start.max(memory.purged.as_ref().map_or(0, |id| id.index + 1));
            let end = end.min(memory.last_next());
            let tail_first = memory.tail_first();
            if start >= tail_first {
                copy_tail(&memory, start, end, bytes_max, &mut entries);
                return Ok(entries);
            }
            (start, end, tail_first)
        };
        if start >= end {
            return Ok(entries);
        }
        let engine = self.shared.engine()?;
        let stored_end = end.min(tail_first);
        let records =
            tokio::task::spawn_blocking(move || engine.read(start..stored_end, bytes_max))
                .await
                .map_err(io::Error::other)??;
        let mut bytes = 0;
        for record in records {
            bytes += record.bytes.len();
            entries.push(entry_of(&record.bytes, record.index)?);
        }
        let next = entries.last().map_or(start, |entry: &Entry| entry.log_id.index + 1);
        // If the engine has nothing there, the log begins later. The caller sees the first index.
        let reached = next == stored_end || entries.is_empty();
        if reached && bytes < bytes_max && stored_end < end {
            let memory = self.shared.memory.read();
            // The tail may have lost its first entries in the meantime. The caller then reads again from
            // there.
            if memory.tail_first() <= stored_end {
                copy_tail(&memory, stored_end, end, bytes_max - bytes, &mut entries);
            }
        }
        Ok(entries)
    }
}

fn copy_tail(memory: &Memory, start: u64, end: u64, bytes_max: usize, entries: &mut Vec<Entry>) {
    let first = memory.tail_first();
    let end = end.min(memory.last_next());
    let mut bytes = 0;
    for index in start..end {
        let entry = &memory.tail[(index - first) as usize];
        bytes += consensus::entry_weight(entry);
        entries.push(entry.clone());
        if bytes >= bytes_max {
            return;
        }
    }
}

fn entry_of(bytes: &[u8], index: u64) -> io::Result<Entry> {
    let StoredEntry::V1(dto) =
        codec::decode(bytes).map_err(|error| damaged(format!("log entry {index}: {error}")))?;
    if dto.log_id.index != index {
        return Err(damaged(format!("log entry {index} holds index {}", dto.log_id.index)));
    }
    consensus::entry_from_dto(dto).map_err(|error| damaged(format!("log entry {index}: {error}")))
}

fn stored_log_id(engine: &dyn LogEngine, key: MetaKey) -> io::Result<Option<LogId>> {
    let Some(bytes) = engine.get_meta(key)? else {
        return Ok(None);
    };
    let StoredLogId::V1(dto) =
        codec::decode(&bytes).map_err(|error| damaged(format!("{key:?} mark: {error}")))?;
    Ok(Some(consensus::log_id_from_dto(dto)))
}

/// Reads all records once, and checks every checksum and that there is no gap between the purged mark and the
/// end.
pub(crate) fn recover(
    engine: &dyn LogEngine,
    mark: &LogMarkFile,
    tail_bytes_max: usize,
) -> io::Result<Recovered> {
    let vote = match engine.get_meta(MetaKey::Vote)? {
        None => None,
        Some(bytes) => {
            let StoredVote::V1(dto) =
                codec::decode(&bytes).map_err(|error| damaged(format!("stored vote: {error}")))?;
            Some(consensus::vote_from_dto(dto))
        }
    };
    let committed = stored_log_id(engine, MetaKey::Committed)?;
    let purged = stored_log_id(engine, MetaKey::Purged)?;
    let first = purged.as_ref().map_or(0, |id| id.index + 1);
    let end = engine.last()?.map_or(first, |record| record.index + 1);
    let mut memory = Memory {
        vote: None,
        committed: None,
        purged,
        last: purged,
        tail: VecDeque::new(),
        tail_bytes: 0,
        synced_next: end,
        epoch: 0,
    };
    let mut next = first;
    while next < end {
        let records = engine.read(next..end, SCAN_BYTES)?;
        if records.is_empty() {
            return Err(damaged(format!("log entries from {next} are missing")));
        }
        for record in records {
            if record.index != next {
                return Err(damaged(format!(
                    "log entries {next} to {} are missing",
                    record.index - 1
                )));
            }
            memory.push(entry_of(&record.bytes, record.index)?);
            next += 1;
            while memory.tail_bytes > tail_bytes_max {
                memory.pop_front();
            }
        }
    }
    mark.verify(
        memory.last.as_ref().map(consensus::log_id_to_dto),
        vote.as_ref().map(consensus::vote_to_dto),
    )?;
    if let Some(why) = mark.absence()
        && memory.last != purged
    {
        tracing::warn!(
            "{why}: it is not known whether the end of the log is whole. The other members may know: after a start, \
             see the alert node.set_back. A new file is written with the next entry"
        );
    }
    if first > 0 {
        // Finishes a removal that was interrupted after its mark became durable. This happens only once
        // everything else is verified, because a refused directory must not be changed.
        engine.purge_upto(first - 1)?;
        engine.sync()?;
    }
    Ok(Recovered { vote, committed, purged, last: memory.last, tail: memory.tail })
}

/// Drops a log that contradicts the snapshot: it has another entry at the snapshot's index. The core cuts
/// such a log off when it installs the snapshot. A power failure may undo that and keep the snapshot, and the
/// core then refuses to start. A snapshot has only committed entries, so the contradicting entries were never
/// committed.
pub(crate) async fn drop_contradicted<L>(log: &mut L, snapshot: Option<LogId>) -> io::Result<()>
where
    L: RaftLogStorage<TypeConfig> + RaftLogReader<TypeConfig>,
{
    let Some(snapshot) = snapshot else { return Ok(()) };
    let before = snapshot.index.saturating_sub(1);
    let around = log.try_get_log_entries(before..=snapshot.index).await?;
    let at = around.iter().find(|entry| entry.log_id.index == snapshot.index);
    if at.is_none_or(|entry| entry.log_id == snapshot) {
        return Ok(());
    }
    let purged = log.get_log_state().await?.last_purged_log_id;
    let kept = around.iter().map(|entry| entry.log_id).find(|id| id.index < snapshot.index);
    tracing::warn!(%snapshot, "the log contradicts the committed snapshot; the log is removed");
    log.truncate_after(kept.or(purged)).await?;
    log.purge(snapshot).await
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let mut entries = self.read(start, end, usize::MAX).await?;
        // The front of the tail can move into the engine between the two parts of a read.
        while let Some(next) = entries.last().map(|entry| entry.log_id.index + 1) {
            if next >= end.min(self.shared.memory.read().last_next()) {
                break;
            }
            let more = self.read(next, end, usize::MAX).await?;
            if more.is_empty() {
                break;
            }
            entries.extend(more);
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.saved_vote())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, APPEND_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let memory = self.shared.memory.read();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, saved) = oneshot::channel();
        self.submit(LogOp::Vote { vote: consensus::vote_to_dto(vote), done }).await?;
        saved.await.map_err(|_| io::Error::other("the log is closed"))??;
        self.shared.memory.write().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.memory.write().committed = committed;
        match committed {
            Some(id) => self.submit(LogOp::Committed(consensus::log_id_to_dto(&id))).await,
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.saved_committed())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let kib = entries.iter().map(consensus::entry_weight).sum::<usize>() / 1024 + 1;
        let permits = u32::try_from(kib.min(QUEUE_KIB_MAX)).unwrap_or(u32::MAX);
        let permit =
            self.budget.clone().acquire_many_owned(permits).await.map_err(io::Error::other)?;
        let epoch = {
            let mut memory = self.shared.memory.write();
            for entry in &entries {
                memory.push(entry.clone());
            }
            memory.epoch
        };
        self.submit(LogOp::Append { entries, callback, epoch, permit }).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.as_ref().map_or(0, |id| id.index + 1);
        {
            let mut memory = self.shared.memory.write();
            if from >= memory.last_next() {
                return Ok(());
            }
            let keep =
                usize::try_from(from.saturating_sub(memory.tail_first())).unwrap_or(usize::MAX);
            while memory.tail.len() > keep {
                if let Some(entry) = memory.tail.pop_back() {
                    memory.tail_bytes -= consensus::entry_weight(&entry);
                }
            }
            memory.last = last_log_id;
            memory.synced_next = memory.synced_next.min(from);
            memory.epoch += 1;
        }
        self.submit(LogOp::Truncate { last: last_log_id.as_ref().map(consensus::log_id_to_dto) })
            .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        {
            let mut memory = self.shared.memory.write();
            let first = log_id.index + 1;
            while !memory.tail.is_empty() && memory.tail_first() < first {
                memory.pop_front();
            }
            memory.purged = memory.purged.max(Some(log_id));
            if memory.last < Some(log_id) {
                memory.last = Some(log_id);
                memory.synced_next = memory.synced_next.max(first);
            }
        }
        self.submit(LogOp::Purge { upto: consensus::log_id_to_dto(&log_id) }).await
    }
}
