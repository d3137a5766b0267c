//! The only thread that writes the log.
//!
//! It takes everything that is queued, passes it to the engine in order, makes the group durable with one
//! sync, and then completes the callbacks in order. After an error it never uses the disk again. A failed
//! sync must not be repeated, because the operating system may have dropped the unwritten pages.

use std::io;
use std::sync::Arc;

use openraft::storage::IOFlushed;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::disk_health::DiskHealth;
use super::log_mark::LogMarkFile;
use super::log_memory::Shared;
use super::{LogEngine, MetaKey, Record};
use crate::codec::{self, LogIdDto, StoredEntry, StoredLogId, StoredVote, VoteDto};
use crate::consensus::{self, Entry, TypeConfig};
use crate::{clock, faults};

/// Maximum number of operations in one group.
const GROUP_OPS_MAX: usize = 4_096;

pub(crate) enum LogOp {
    Append {
        entries: Vec<Entry>,
        callback: IOFlushed<TypeConfig>,
        epoch: u64,
        permit: OwnedSemaphorePermit,
    },
    Vote {
        vote: VoteDto,
        done: oneshot::Sender<io::Result<()>>,
    },
    Committed(LogIdDto),
    Truncate {
        last: Option<LogIdDto>,
    },
    Purge {
        upto: LogIdDto,
    },
    Stop {
        done: oneshot::Sender<()>,
    },
}

/// What waits for the sync of the group.
enum Waiter {
    Append {
        callback: IOFlushed<TypeConfig>,
        epoch: u64,
        last: Option<LogIdDto>,
        _permit: OwnedSemaphorePermit,
    },
    Vote(oneshot::Sender<io::Result<()>>),
    Purge(u64),
}

pub(crate) struct LogWriter {
    engine: Arc<dyn LogEngine>,
    shared: Arc<Shared>,
    health: Arc<DiskHealth>,
    mark: LogMarkFile,
    last: Option<LogIdDto>,
    vote: Option<VoteDto>,
}

impl LogWriter {
    pub(crate) fn new(
        engine: Arc<dyn LogEngine>,
        shared: Arc<Shared>,
        health: Arc<DiskHealth>,
        mark: LogMarkFile,
        last: Option<LogIdDto>,
        vote: Option<VoteDto>,
    ) -> Self {
        Self { engine, shared, health, mark, last, vote }
    }

    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<LogOp>) {
        let mut group = Vec::new();
        let mut stop = None;
        while stop.is_none() {
            let Some(first) = queue.blocking_recv() else {
                break;
            };
            group.push(first);
            while group.len() < GROUP_OPS_MAX {
                match queue.try_recv() {
                    Ok(op) => group.push(op),
                    Err(_) => break,
                }
            }
            if let Some(at) = group.iter().position(|op| matches!(op, LogOp::Stop { .. })) {
                let LogOp::Stop { done } = group.remove(at) else {
                    unreachable!("the position was found by this very pattern")
                };
                stop = Some(done);
            }
            self.write_group(&mut group);
        }
        // A commit mark may still wait. Losing it only makes the next start slower.
        if self.health.failure().is_none()
            && let Err(error) = self.engine.sync()
        {
            self.health.fail(&error.to_string());
        }
        self.shared.close();
        drop(self.engine);
        if let Some(done) = stop {
            let _ = done.send(());
        }
    }

    fn write_group(&mut self, group: &mut Vec<LogOp>) {
        let mut waiters = Vec::with_capacity(group.len());
        if let Some(reason) = self.health.failure() {
            let reason = reason.to_owned();
            for op in group.drain(..) {
                waiters.extend(into_waiter(op));
            }
            complete(waiters, &self.shared, Err(&reason));
            return;
        }
        self.health.begin();
        let result = self.write_ops(group, &mut waiters);
        self.health.end();
        match result {
            Ok(()) => {
                complete(waiters, &self.shared, Ok(()));
                // Nobody waits for the mark. It may be behind the log, but not ahead of it.
                if let Err(error) = self.mark.advance(self.last, self.vote) {
                    self.health.fail(&error.to_string());
                }
            }
            Err(error) => {
                let reason = error.to_string();
                self.health.fail(&reason);
                for op in group.drain(..) {
                    waiters.extend(into_waiter(op));
                }
                complete(waiters, &self.shared, Err(&reason));
            }
        }
    }

    fn write_ops(&mut self, group: &mut Vec<LogOp>, waiters: &mut Vec<Waiter>) -> io::Result<()> {
        let mut records = Vec::new();
        let mut committed = None;
        let mut entry_count = 0;
        for op in group.drain(..) {
            match op {
                LogOp::Append { entries, callback, epoch, permit } => {
                    for entry in &entries {
                        records.push(record_of(entry));
                    }
                    entry_count += entries.len() as u64;
                    self.last = entries
                        .last()
                        .map(|entry| consensus::log_id_to_dto(&entry.log_id))
                        .or(self.last);
                    if faults::ack_before_fsync() {
                        callback.io_completed(Ok(()));
                        continue;
                    }
                    waiters.push(Waiter::Append {
                        callback,
                        epoch,
                        last: self.last,
                        _permit: permit,
                    });
                }
                LogOp::Vote { vote, done } => {
                    self.flush_records(&mut records)?;
                    self.engine.put_meta(MetaKey::Vote, &codec::encode(&StoredVote::V1(vote)))?;
                    self.vote = Some(vote);
                    waiters.push(Waiter::Vote(done));
                }
                LogOp::Committed(id) => committed = Some(id),
                LogOp::Truncate { last } => {
                    self.flush_records(&mut records)?;
                    self.mark.lower(last)?;
                    self.engine.truncate_from(last.map_or(0, |id| id.index + 1))?;
                    self.last = last;
                }
                LogOp::Purge { upto } => {
                    self.flush_records(&mut records)?;
                    self.engine
                        .put_meta(MetaKey::Purged, &codec::encode(&StoredLogId::V1(upto)))?;
                    // A snapshot beyond the end of the log. The following entries do not continue the
                    // existing ones, which must be removed first. They may only be removed once the mark is
                    // durable.
                    if self.last < Some(upto) {
                        self.engine.sync()?;
                        self.engine.purge_upto(upto.index)?;
                        self.last = Some(upto);
                    }
                    waiters.push(Waiter::Purge(upto.index));
                }
                LogOp::Stop { .. } => {}
            }
        }
        self.flush_records(&mut records)?;
        if let Some(id) = committed {
            self.engine.put_meta(MetaKey::Committed, &codec::encode(&StoredLogId::V1(id)))?;
        }
        // A commit mark alone does not need a sync.
        if !waiters.is_empty() || entry_count > 0 {
            let started = clock::now();
            faults::before_sync();
            self.engine.sync()?;
            self.health.synced(clock::since(started), entry_count);
        }
        // The purged mark is durable now, so an interrupted removal is finished at the next start.
        if let Some(upto) = waiters
            .iter()
            .rev()
            .find_map(|waiter| if let Waiter::Purge(upto) = waiter { Some(*upto) } else { None })
        {
            self.engine.purge_upto(upto)?;
        }
        Ok(())
    }

    fn flush_records(&self, records: &mut Vec<Record>) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.engine.append(records)?;
        records.clear();
        Ok(())
    }
}

pub(crate) fn record_of(entry: &Entry) -> Record {
    let dto = consensus::entry_to_dto(entry);
    Record {
        index: dto.log_id.index,
        term: dto.log_id.term,
        bytes: codec::encode(&StoredEntry::V1(dto)),
    }
}

fn into_waiter(op: LogOp) -> Option<Waiter> {
    match op {
        LogOp::Append { callback, epoch, permit, .. } => {
            Some(Waiter::Append { callback, epoch, last: None, _permit: permit })
        }
        LogOp::Vote { done, .. } => Some(Waiter::Vote(done)),
        LogOp::Committed(_) | LogOp::Truncate { .. } | LogOp::Purge { .. } | LogOp::Stop { .. } => {
            None
        }
    }
}

fn complete(waiters: Vec<Waiter>, shared: &Shared, result: Result<(), &str>) {
    for waiter in waiters {
        let outcome = result.map_err(|reason| io::Error::other(reason.to_owned()));
        match waiter {
            Waiter::Append { callback, epoch, last, .. } => {
                if let (Ok(()), Some(last)) = (&outcome, last) {
                    shared.mark_synced(epoch, last.index);
                }
                callback.io_completed(outcome);
            }
            Waiter::Vote(done) => {
                let _ = done.send(outcome);
            }
            Waiter::Purge(_) => {}
        }
    }
}
