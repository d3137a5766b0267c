//! Orders commands in memory: for tests of what stands on a store, and for benchmarks of reads.
//! Keeps nothing; never a user's choice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    CallError, Consistency, ControlStore, Leadership, Machine, Ordered, PeerHandler, ProposeError,
    ReadError, WriteTime,
};
use maxine_state::{Applied, Batch};
use maxine_view::View;

/// A store that leads from the start, until a test says otherwise.
pub struct MemoryStore {
    machine: Mutex<Machine>,
    leadership: watch::Sender<Leadership>,
    peers: Arc<dyn PeerHandler>,
    available: AtomicBool,
    staleness_ms: AtomicU64,
}

impl MemoryStore {
    /// A store on an empty state.
    #[must_use]
    pub fn new(view: Arc<View>, name: &str, peers: Arc<dyn PeerHandler>) -> Self {
        let leadership = Leadership { leader: Some(name.into()), is_leader: true, term: 1 };
        Self {
            machine: Mutex::new(Machine::new(view)),
            leadership: watch::Sender::new(leadership),
            peers,
            available: AtomicBool::new(true),
            staleness_ms: AtomicU64::new(0),
        }
    }

    /// Replaces the state, as a store that went back to an older one does.
    pub fn replace(&self, state: maxine_state::ControlState) {
        self.machine.lock().replace(state);
    }

    /// Makes it as old as a test says; `u64::MAX` stands for an unknown age.
    pub fn set_staleness_ms(&self, staleness_ms: u64) {
        self.staleness_ms.store(staleness_ms, Ordering::SeqCst);
    }

    /// Makes it lose or regain its majority.
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
        Some(self.staleness_ms.load(Ordering::SeqCst)).filter(|age_ms| *age_ms < u64::MAX)
    }

    async fn call_leader(&self, body: Bytes, _: Duration) -> Result<Bytes, CallError> {
        if !self.available.load(Ordering::SeqCst) {
            return Err(CallError::Unreachable);
        }
        self.peers.handle(body).await.map_err(CallError::Refused)
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    async fn shutdown(&self) {}
}
