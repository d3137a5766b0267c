//! A simulated disk. A crash loses what was not synced. Syncs are slow and cover groups of operations.
//!
//! Like the writer of the real log: entries can be read as soon as they are appended. One task makes a group
//! of operations durable together and then completes them in order.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::KnownFault;
use super::world::{Shared, hash_of};
use crate::codec::StoredEntry;
use crate::consensus::{Entry, LogId, SnapshotMeta, TypeConfig, Vote};

/// The content of a disk, synced or not.
#[derive(Clone, Default)]
struct Image {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    log: BTreeMap<u64, Entry>,
}

#[derive(Clone)]
enum Write {
    Vote(Vote),
    Committed(Option<LogId>),
    Append(Vec<Entry>),
    Truncate(u64),
    Purge(LogId),
}

impl Image {
    fn write(&mut self, write: &Write) {
        match write {
            Write::Vote(vote) => self.vote = Some(*vote),
            Write::Committed(id) => self.committed = *id,
            Write::Append(entries) => {
                self.log.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
            }
            Write::Truncate(from) => drop(self.log.split_off(from)),
            Write::Purge(id) => {
                self.log = self.log.split_off(&(id.index + 1));
                self.purged = self.purged.max(Some(*id));
            }
        }
    }
}

/// A snapshot: what it covers, and its bytes.
#[derive(Clone, Debug)]
pub(super) struct SimSnapshot {
    pub(super) meta: SnapshotMeta,
    pub(super) bytes: Arc<Vec<u8>>,
}

/// A node's disk. It outlives the node's processes.
#[derive(Default)]
pub(super) struct Disk {
    durable: Image,
    volatile: Image,
    unsynced: VecDeque<Write>,
    written: u64,
    synced: u64,
    /// The process to which it belongs. Operations of earlier processes are ignored.
    process: u64,
    pub(super) snapshot: Option<SimSnapshot>,
    /// Until this time syncs take long.
    pub(super) slow_until_ms: u64,
}

pub(super) type SharedDisk = Arc<Mutex<Disk>>;

impl Disk {
    /// A power failure. Of the operations that were not synced, only the first `kept_percent` percent stay on
    /// the disk. Returns the number of lost operations.
    pub(super) fn crash(&mut self, kept_percent: u64) -> u64 {
        let kept = self.unsynced.len() as u64 * kept_percent / 100;
        for write in self.unsynced.drain(..).take(usize::try_from(kept).unwrap_or(0)) {
            self.durable.write(&write);
        }
        let lost = self.written - self.synced - kept;
        self.volatile = self.durable.clone();
        self.synced = self.written;
        self.process += 1;
        lost
    }

    pub(super) fn process(&self) -> u64 {
        self.process
    }

    /// The purged index, and the entry at each index after it.
    pub(super) fn log(&self) -> (u64, BTreeMap<u64, u64>) {
        let purged = self.volatile.purged.as_ref().map_or(0, |id| id.index);
        let log = self.volatile.log.iter().map(|(index, entry)| (*index, entry_hash(entry)));
        (purged, log.collect())
    }

    fn write(&mut self, write: Write) -> u64 {
        self.volatile.write(&write);
        self.unsynced.push_back(write);
        self.written += 1;
        self.written
    }

    fn sync_to(&mut self, written: u64) {
        while self.synced < written
            && let Some(write) = self.unsynced.pop_front()
        {
            self.durable.write(&write);
            self.synced += 1;
        }
    }
}

/// A number that represents an entry.
pub(super) fn entry_hash(entry: &Entry) -> u64 {
    let stored = StoredEntry::V1(crate::consensus::entry_to_dto(entry));
    hash_of(crate::codec::encode(&stored))
}

enum Waiter {
    Append(IOFlushed<TypeConfig>),
    Vote(oneshot::Sender<()>),
}

/// The log of one process of a node.
#[derive(Clone)]
pub(super) struct SimLog {
    disk: SharedDisk,
    process: u64,
    syncs: mpsc::Sender<(u64, Waiter)>,
    fault: Option<KnownFault>,
}

/// Maximum number of waits for a sync. The core never has this many.
const SYNCS_MAX: usize = 10_000;

impl SimLog {
    pub(super) fn open(disk: SharedDisk, world: Shared, fault: Option<KnownFault>) -> Self {
        let process = disk.lock().process;
        let (syncs, waiting) = mpsc::channel(SYNCS_MAX);
        tokio::spawn(sync(disk.clone(), process, world, waiting));
        Self { disk, process, syncs, fault }
    }

    /// Writes for the process, if it is still the present one.
    fn write(&self, write: Write) -> io::Result<u64> {
        let mut disk = self.disk.lock();
        if disk.process != self.process {
            return Err(io::Error::other("this process is gone"));
        }
        Ok(disk.write(write))
    }
}

async fn sync(
    disk: SharedDisk,
    process: u64,
    world: Shared,
    mut waiting: mpsc::Receiver<(u64, Waiter)>,
) {
    while let Some(first) = waiting.recv().await {
        let mut group = vec![first];
        while let Ok(next) = waiting.try_recv() {
            group.push(next);
        }
        let took_ms = {
            let mut world = world.lock();
            let slow = world.now_ms() < disk.lock().slow_until_ms;
            if slow { world.dice.range(200, 2_000) } else { world.dice.range(0, 8) }
        };
        tokio::time::sleep(Duration::from_millis(took_ms)).await;
        {
            let mut disk = disk.lock();
            if disk.process != process {
                return;
            }
            let last = group.iter().map(|(written, _)| *written).max().unwrap_or(0);
            disk.sync_to(last);
        }
        for (_, waiter) in group {
            match waiter {
                Waiter::Append(callback) => callback.io_completed(Ok(())),
                // The caller may have given up.
                Waiter::Vote(done) => drop(done.send(())),
            }
        }
    }
}

impl RaftLogReader<TypeConfig> for SimLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let range: (Bound<u64>, Bound<u64>) =
            (range.start_bound().cloned(), range.end_bound().cloned());
        Ok(self.disk.lock().volatile.log.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.disk.lock().volatile.vote)
    }
}

impl RaftLogStorage<TypeConfig> for SimLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let disk = self.disk.lock();
        let last = disk.volatile.log.last_key_value().map(|(_, entry)| entry.log_id);
        Ok(LogState {
            last_purged_log_id: disk.volatile.purged,
            last_log_id: last.or(disk.volatile.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let written = self.write(Write::Vote(*vote))?;
        let (done, synced) = oneshot::channel();
        let gone = || io::Error::other("this process is gone");
        self.syncs.send((written, Waiter::Vote(done))).await.map_err(|_| gone())?;
        if self.fault == Some(KnownFault::VoteBeforeSync) {
            return Ok(());
        }
        synced.await.map_err(|_| gone())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.write(Write::Committed(committed)).map(drop)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.disk.lock().volatile.committed)
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
        let written = self.write(Write::Append(entries.into_iter().collect()))?;
        if self.fault == Some(KnownFault::AckBeforeSync) {
            callback.io_completed(Ok(()));
            let (later, _nobody) = oneshot::channel();
            // The sync still takes its usual time.
            let _gone = self.syncs.send((written, Waiter::Vote(later))).await;
            return Ok(());
        }
        let sent = self.syncs.send((written, Waiter::Append(callback))).await;
        sent.map_err(|_| io::Error::other("this process is gone"))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let from = last_log_id.as_ref().map_or(0, |id| id.index + 1);
        self.write(Write::Truncate(from)).map(drop)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.write(Write::Purge(log_id)).map(drop)
    }
}
