//! What a store notices about the service underneath it that an operator must hear of.
//!
//! Telemetry follows [`super::ControlStore::events`] and turns them into alerts and metrics.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;

/// Hands events to those who listen. What happens before anyone listens waits for the first listener: much of it
/// happens while the store is being opened.
#[derive(Clone, Debug)]
pub(crate) struct StoreEvents {
    sender: broadcast::Sender<StoreEvent>,
    first: Arc<Mutex<Option<broadcast::Receiver<StoreEvent>>>>,
}

impl StoreEvents {
    pub(crate) fn new() -> Self {
        let (sender, first) = broadcast::channel(EVENTS_KEPT_MAX);
        Self { sender, first: Arc::new(Mutex::new(Some(first))) }
    }

    pub(crate) fn emit(&self, event: StoreEvent) {
        // Nobody needs to listen.
        let _ = self.sender.send(event);
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<StoreEvent> {
        self.first.lock().take().unwrap_or_else(|| self.sender.subscribe())
    }
}

/// Something happened underneath the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StoreEvent {
    /// The service that orders commands stopped answering; reads go on from the last view.
    Unreachable {
        /// The first error, in one line.
        reason: String,
    },
    /// It answers again, and this node has caught up.
    Reachable {
        /// How long it was away, in milliseconds.
        after_ms: u64,
    },
    /// What the service holds cannot be used: this node neither writes nor leads until that is
    /// mended, by itself within two leases.
    Damaged {
        /// What is wrong, in one line.
        reason: String,
    },
    /// The log has entries that cannot be read. Every replica skips the same ones.
    EntriesSkipped {
        /// The first one's id.
        first: String,
        /// How many.
        count: u64,
        /// Why the first one cannot be read.
        reason: String,
    },
    /// Another process answers than before: a restart or a failover.
    ServerChanged {
        /// The run id of the one before.
        before: String,
        /// The run id of the present one.
        now: String,
    },
    /// The service lost acknowledged writes, and they were put back from this node's memory.
    WritesPutBack {
        /// The first position that was missing.
        from: u64,
        /// The last position that was missing.
        to: u64,
    },
    /// The service was found empty or unusable, and the whole state was put back from this node's
    /// memory.
    StatePutBack {
        /// The position of the state.
        position: u64,
    },
    /// Writes are gone that this node had applied or the service had: the service was put back to
    /// an older state and others have written since, or no node could read what it held.
    /// Registrations come back as instances re-send them.
    WritesLost {
        /// The last position that this node had applied, or that the service said it had.
        had: u64,
        /// The position at which both are now.
        now: u64,
        /// Whether it is another log altogether.
        replaced: bool,
    },
    /// The service refuses writes; the text is its own.
    WritesRefused {
        /// Its answer, such as `READONLY` or `OOM`.
        reason: String,
    },
    /// The store gave up; the node must stop.
    Failed {
        /// Why.
        reason: String,
    },
    /// A writer had died in the middle of a record, and the record was cut off.
    TornTailCut {
        /// How many bytes were cut.
        len_bytes: u64,
    },
}

impl StoreEvent {
    /// Whether acknowledged writes are gone for good.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::WritesLost { .. })
    }
}

/// Most events that a slow reader can be behind before it skips some.
const EVENTS_KEPT_MAX: usize = 64;

#[cfg(test)]
mod event_tests {
    use super::*;

    /// A store that cannot be reached when the node starts says so before anybody can listen.
    #[test]
    fn what_happened_before_anybody_listened_reaches_the_first_listener() {
        let events = StoreEvents::new();
        let away = StoreEvent::Unreachable { reason: "refused".into() };
        events.emit(away.clone());
        let (mut first, mut second) = (events.listen(), events.listen());
        assert_eq!(first.try_recv(), Ok(away));
        second.try_recv().unwrap_err();
        let back = StoreEvent::Reachable { after_ms: 1 };
        events.emit(back.clone());
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(back.clone()), Ok(back)));
    }
}
