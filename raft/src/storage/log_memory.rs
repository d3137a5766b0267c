//! The newest part of the log in memory, which its readers and its writer thread share.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use parking_lot::RwLock;

use super::LogEngine;
use crate::consensus::{self, Entry, LogId, Vote};

/// The part of the log in memory.
pub(super) struct Memory {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    /// The newest entries. They are consecutive and end at `last`.
    pub(super) tail: VecDeque<Entry>,
    pub(super) tail_bytes: usize,
    pub(super) synced_next: u64,
    /// Grows with each truncation, so that a late completion does not count for rewritten entries.
    pub(super) epoch: u64,
}

impl Memory {
    pub(super) fn last_next(&self) -> u64 {
        self.last.as_ref().map_or(0, |id| id.index + 1)
    }

    pub(super) fn tail_first(&self) -> u64 {
        self.last_next() - self.tail.len() as u64
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.tail_bytes += consensus::entry_weight(&entry);
        self.last = Some(entry.log_id);
        self.tail.push_back(entry);
    }

    pub(super) fn pop_front(&mut self) {
        if let Some(entry) = self.tail.pop_front() {
            self.tail_bytes -= consensus::entry_weight(&entry);
        }
    }
}

/// What the core, the readers and the writer thread share.
pub(crate) struct Shared {
    pub(super) engine: RwLock<Option<Arc<dyn LogEngine>>>,
    pub(super) memory: RwLock<Memory>,
    pub(super) tail_bytes_max: usize,
}

impl Shared {
    pub(super) fn mark_synced(&self, epoch: u64, index: u64) {
        let mut memory = self.memory.write();
        if memory.epoch != epoch {
            return;
        }
        memory.synced_next = memory.synced_next.max(index + 1);
        while memory.tail_bytes > self.tail_bytes_max
            && !memory.tail.is_empty()
            && memory.tail_first() < memory.synced_next
        {
            memory.pop_front();
        }
    }

    /// Releases the engine, so that the directory can be opened again.
    pub(super) fn close(&self) {
        self.engine.write().take();
    }

    pub(super) fn engine(&self) -> io::Result<Arc<dyn LogEngine>> {
        self.engine.read().clone().ok_or_else(|| io::Error::other("the log is closed"))
    }
}
