//! A store that orders commands in memory, for tests and for benchmarks of reads. It stores nothing on disk,
//! and users cannot select it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    CallError, Consistency, ControlStore, Leadership, Machine, Ordered, PeerHandler, ProposeError,
    ReadError, StoreKind, WriteTime,
};
use maxine_state::{Applied, Batch};
use maxine_view::View;

/// A store in memory. It leads from the start, unless a test changes that.
pub struct MemoryStore {
    machine: Mutex<Machine>,
    leadership: watch::Sender<Leadership>,
    peers: Arc<dyn PeerHandler>,
    available: AtomicBool,
    staleness_ms: Mutex<Option<u64>>,
    refuses_writes: Mutex<Option<String>>,
    service_silence_ms: Mutex<Option<u64>>,
}

impl MemoryStore {
    /// A store with an empty state.
    #[must_use]
    pub fn new(view: Arc<View>, name: &str, peers: Arc<dyn PeerHandler>) -> Self {
        let leadership = Leadership { leader: Some(name.into()), is_leader: true, term: 1 };
        Self {
            machine: Mutex::new(Machine::new(view)),
            leadership: watch::Sender::new(leadership),
            peers,
            available: AtomicBool::new(true),
            staleness_ms: Mutex::new(Some(0)),
            refuses_writes: Mutex::default(),
            service_silence_ms: Mutex::default(),
        }
    }

    /// Replaces the state, as a store does that was restored to an older one.
    pub fn replace(&self, state: maxine_state::ControlState) {
        self.machine.lock().replace(state);
    }

    /// Sets the staleness; `None` means unknown.
    pub fn set_staleness_ms(&self, staleness_ms: Option<u64>) {
        *self.staleness_ms.lock() = staleness_ms;
    }

    /// Sets why the store is known to take no writes.
    pub fn set_refuses_writes(&self, why: Option<String>) {
        *self.refuses_writes.lock() = why;
    }

    /// Sets for how long the service under the store has not answered.
    pub fn set_service_silence_ms(&self, silence_ms: Option<u64>) {
        *self.service_silence_ms.lock() = silence_ms;
    }

    /// Sets whether the store has a majority.
    pub fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::SeqCst);
        self.leadership.send_modify(|leadership| {
            leadership.is_leader = available;
            leadership.term += u64::from(available);
        });
    }
}

#[async_trait]
impl ControlStore for MemoryStore {
    async fn propose(&self, batch: Batch, _: WriteTime) -> Result<Vec<Applied>, ProposeError> {
        if !self.available.load(Ordering::SeqCst) {
            return Err(ProposeError::NoLeader);
        }
        let mut answers = self
            .machine
            .lock()
            .apply(&[Ordered::Batch(&batch)])
            .map_err(|error| ProposeError::Storage(error.to_string()))?;
        Ok(answers.pop().unwrap_or_default())
    }

    async fn barrier(&self, level: Consistency, _: Duration) -> Result<(), ReadError> {
        if level == Consistency::Stale || self.available.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(ReadError::NoLeader)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn staleness_ms(&self) -> Option<u64> {
        *self.staleness_ms.lock()
    }

    fn refuses_writes(&self) -> Option<String> {
        self.refuses_writes.lock().clone()
    }

    fn service_silence_ms(&self) -> Option<u64> {
        *self.service_silence_ms.lock()
    }

    async fn call_leader(&self, body: Bytes, _: Duration) -> Result<Bytes, CallError> {
        if !self.available.load(Ordering::SeqCst) {
            return Err(CallError::Unreachable);
        }
        self.peers.handle(body).await.map_err(CallError::Refused)
    }

    fn kind(&self) -> StoreKind {
        StoreKind::Memory
    }

    async fn shutdown(&self) {}
}
