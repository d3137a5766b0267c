//! Events of the service under a store that an operator must know about.
//!
//! Telemetry reads [`super::ControlStore::events`] and turns them into alerts and metrics.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;

/// Delivers events to every listener. Each listener first receives the latest events from before it listened:
/// many events happen while the store is being opened, before anyone can listen.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreEvents(Arc<Mutex<Listeners>>);

#[derive(Debug, Default)]
struct Listeners {
    /// The latest events, oldest first; at most [`EVENTS_KEPT_MAX`].
    latest: VecDeque<StoreEvent>,
    /// One channel for each listener.
    senders: Vec<broadcast::Sender<StoreEvent>>,
}

impl StoreEvents {
    pub(crate) fn emit(&self, event: StoreEvent) {
        let mut listeners = self.0.lock();
        // Sending fails once the listener is gone.
        listeners.senders.retain(|sender| sender.send(event.clone()).is_ok());
        if listeners.latest.len() >= EVENTS_KEPT_MAX {
            listeners.latest.pop_front();
        }
        listeners.latest.push_back(event);
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<StoreEvent> {
        let (sender, receiver) = broadcast::channel(EVENTS_KEPT_MAX);
        let mut listeners = self.0.lock();
        for event in &listeners.latest {
            // The receiver exists, so sending cannot fail.
            let _ = sender.send(event.clone());
        }
        listeners.senders.push(sender);
        receiver
    }
}

/// An event of the service under the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StoreEvent {
    /// The service stopped answering, or cannot be used at all. Reads use the last view.
    Unreachable {
        /// The first error, in one line.
        reason: String,
        /// Why the service cannot be used, if it answers and this node knows the reason.
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// The service answers again, and this node has caught up.
    Reachable {
        /// How long it did not answer, in milliseconds.
        after_ms: u64,
    },
    /// The content of the service cannot be used. With Redis, this node neither writes nor leads until that is
    /// repaired, which happens by itself within two leases. A log file was repaired already.
    Damaged {
        /// What is wrong, in one line. Of a log file, it names the file and its copy.
        reason: String,
        /// Whether this node has already written its state in the place of what is damaged.
        is_repaired: bool,
    },
    /// The log has entries that cannot be read. Every replica skips the same ones.
    EntriesSkipped {
        /// The id of the first one.
        first: String,
        /// The number of entries.
        count: u64,
        /// Why the first one cannot be read.
        reason: String,
    },
    /// Another server process answers than before, after a restart or a failover.
    ServerChanged {
        /// The run id of the previous process.
        before: String,
        /// The run id of the present process.
        now: String,
    },
    /// The service lost acknowledged writes. They were written back from this node's memory.
    WritesPutBack {
        /// The first position that was missing.
        from: u64,
        /// The last position that was missing.
        to: u64,
    },
    /// The service was empty or unusable. The whole state was written back from this node's memory.
    StatePutBack {
        /// The position of the state.
        position: u64,
    },
    /// Writes are lost that this node had applied or that the service had. Either the service was restored to
    /// an older state and other nodes have written since, or no node could read its content. Registrations
    /// return when instances send them again.
    WritesLost {
        /// The last position that this node had applied, or that the service had reported.
        had: u64,
        /// The present position of both.
        now: u64,
        /// Whether it is a different log.
        replaced: bool,
    },
    /// When this node started, the store had an older state than the node had seen before it was stopped, so
    /// acknowledged writes are lost. Somebody put an older copy in place.
    OlderState {
        /// The highest index that this node is known to have seen. It may have seen a few more.
        had: u64,
        /// The index that the store has.
        now: u64,
    },
    /// The service answers, but it refuses writes. Reads continue. This lasts until [`Self::WritesAccepted`].
    WritesRefused {
        /// The reason that it gives, such as `READONLY`, `OOM` or a full disk.
        reason: String,
    },
    /// The service carried out a write again after [`Self::WritesRefused`].
    WritesAccepted {
        /// How long it refused writes, in milliseconds.
        after_ms: u64,
    },
    /// The store failed for good. The node must stop.
    Failed {
        /// The reason.
        reason: String,
    },
    /// A writer had died while it wrote a frame, and the incomplete frame was removed.
    TornTailCut {
        /// Number of removed bytes.
        len_bytes: u64,
    },
}

impl StoreEvent {
    /// Whether acknowledged writes are lost for good.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::WritesLost { .. } | Self::OlderState { .. })
    }
}

/// Maximum number of events that are kept for later listeners. A listener that is more events behind skips the
/// oldest ones.
const EVENTS_KEPT_MAX: usize = 64;

#[cfg(test)]
mod event_tests {
    use super::*;

    /// A store that cannot be reached when the node starts reports it before anyone can listen. Several parts of a
    /// node listen; the first one must not take the events from the others.
    #[test]
    fn every_listener_receives_what_happened_before_it_listened() {
        let events = StoreEvents::default();
        let away = StoreEvent::Unreachable { reason: "refused".into(), cause: None };
        events.emit(away.clone());
        let (mut first, mut second) = (events.listen(), events.listen());
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(away.clone()), Ok(away)));
        let back = StoreEvent::Reachable { after_ms: 1 };
        events.emit(back.clone());
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(back.clone()), Ok(back.clone())));
        drop(first);
        (0..2 * EVENTS_KEPT_MAX).for_each(|_| events.emit(back.clone()));
        let listeners = events.0.lock();
        assert_eq!((listeners.senders.len(), listeners.latest.len()), (1, EVENTS_KEPT_MAX));
    }
}
