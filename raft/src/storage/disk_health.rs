//! The state of the disk, for the watchdog and the status.
//!
//! The log thread measures, and all threads read. A read never waits for the disk, because heartbeats must be
//! answered while a sync hangs.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock;

const SAMPLES_MAX: usize = 1_024;

pub(crate) struct DiskHealth {
    epoch: Instant,
    /// Milliseconds after `epoch` plus one; 0 while the log thread is idle.
    busy_since_ms: AtomicU64,
    sync_last_us: AtomicU64,
    syncs: AtomicU64,
    entries: AtomicU64,
    samples_us: Mutex<VecDeque<u32>>,
    failure: OnceLock<String>,
    failed: watch::Sender<bool>,
}

impl DiskHealth {
    pub(crate) fn new() -> Self {
        Self {
            epoch: clock::now(),
            busy_since_ms: AtomicU64::new(0),
            sync_last_us: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            samples_us: Mutex::new(VecDeque::with_capacity(SAMPLES_MAX)),
            failure: OnceLock::new(),
            failed: watch::Sender::new(false),
        }
    }

    pub(crate) fn begin(&self) {
        self.busy_since_ms.store(clock::millis(clock::since(self.epoch)) + 1, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.busy_since_ms.store(0, Ordering::Release);
    }

    /// Duration of the write in progress so far, in milliseconds; 0 if there is none.
    pub(crate) fn busy_ms(&self) -> u64 {
        match self.busy_since_ms.load(Ordering::Acquire) {
            0 => 0,
            since => (clock::millis(clock::since(self.epoch)) + 1).saturating_sub(since),
        }
    }

    pub(crate) fn synced(&self, took: std::time::Duration, entries: u64) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sync_last_us.store(us, Ordering::Relaxed);
        self.syncs.fetch_add(1, Ordering::Release);
        self.entries.fetch_add(entries, Ordering::Relaxed);
        let mut samples = self.samples_us.lock();
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(u32::try_from(us).unwrap_or(u32::MAX));
    }

    /// Duration of the newest sync, in microseconds; `None` before the first.
    pub(crate) fn sync_last_us(&self) -> Option<u64> {
        (self.syncs() > 0).then(|| self.sync_last_us.load(Ordering::Relaxed))
    }

    /// p99 and maximum of the last syncs, in microseconds; `None` before the first.
    pub(crate) fn sync_p99_max_us(&self) -> Option<(u64, u64)> {
        let mut samples: Vec<u32> = self.samples_us.lock().iter().copied().collect();
        samples.sort_unstable();
        let max = samples.last()?;
        Some((u64::from(samples[(samples.len() - 1) * 99 / 100]), u64::from(*max)))
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Acquire)
    }

    pub(crate) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Records the first failure. The disk is not used again.
    pub(crate) fn fail(&self, reason: &str) {
        if self.failure.set(reason.to_owned()).is_ok() {
            tracing::error!(reason, "this node cannot continue its log and leaves the consensus");
            self.failed.send_replace(true);
        }
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(crate) fn watch_failure(&self) -> watch::Receiver<bool> {
        self.failed.subscribe()
    }
}
