//! The policies that services had before.
//!
//! The state has only the present policy of a service, and the audit log says who changed it and when, but not to what. So
//! each node remembers the latest changes with the policies before and after them. They are lost when the node stops,
//! apart from those in the part of the log that it reads again.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use maxine_state::{Event, EventKind, PolicyRecord, ServiceKey};

/// Maximum number of changes of one service. Each further one replaces the oldest.
const OF_SERVICE_MAX: usize = 50;
/// Maximum number of changes.
const CHANGES_MAX: usize = 2_000;
/// Maximum length of all policies, in bytes as they are stored.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A change of a service's policy.
#[derive(Clone, Debug)]
pub struct PolicyChange {
    /// The service.
    pub key: ServiceKey,
    /// Index of the change. If a policy was set, this is its revision.
    pub revision: u64,
    /// When it was changed, in milliseconds since 1970, by the log's clock.
    pub time_ms: u64,
    /// The policy before the change; `None` if none was set.
    pub before: Option<Arc<PolicyRecord>>,
    /// The policy after the change; `None` if it was removed.
    pub after: Option<Arc<PolicyRecord>>,
    held_len: u64,
}

#[derive(Debug, Default)]
struct Inner {
    /// The oldest is first.
    changes: VecDeque<PolicyChange>,
    bytes: u64,
}

/// The latest changes of policies, within limits.
#[derive(Debug, Default)]
pub(crate) struct PolicyChanges(Mutex<Inner>);

impl PolicyChanges {
    /// Remembers the changes among `events`.
    pub(crate) fn note(&self, events: &[Event]) {
        for event in events {
            if let EventKind::PolicyChanged { key, before, after } = &event.kind {
                self.0.lock().keep(PolicyChange {
                    key: key.clone(),
                    revision: event.index,
                    time_ms: event.time_ms,
                    before: before.clone(),
                    after: after.clone(),
                    held_len: event.kind.held_len(),
                });
            }
        }
    }

    pub(crate) fn clear(&self) {
        *self.0.lock() = Inner::default();
    }

    /// The changes of a service, oldest first.
    pub(crate) fn of(&self, key: &ServiceKey) -> Vec<PolicyChange> {
        self.0.lock().changes.iter().filter(|change| change.key == *key).cloned().collect()
    }
}

impl Inner {
    fn keep(&mut self, change: PolicyChange) {
        let of_it = |other: &PolicyChange| other.key == change.key;
        if self.changes.iter().filter(|other| of_it(other)).count() >= OF_SERVICE_MAX {
            let oldest = self.changes.iter().position(of_it);
            self.remove(oldest);
        }
        self.bytes += change.held_len;
        self.changes.push_back(change);
        while self.changes.len() > CHANGES_MAX || self.bytes > BYTES_MAX {
            self.remove(Some(0));
        }
    }

    fn remove(&mut self, at: Option<usize>) {
        let removed = at.and_then(|at| self.changes.remove(at));
        self.bytes -= removed.map_or(0, |change| change.held_len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{Name, ServicePolicy};

    fn key(service: &str) -> ServiceKey {
        ServiceKey::new(Name::trusted("default"), Name::trusted(service))
    }

    fn changed(service: &str, revision: u64) -> Event {
        let policy = ServicePolicy::default();
        let record = |revision| Some(Arc::new(PolicyRecord { revision, policy: policy.clone() }));
        let (before, after) = (record(revision - 1), record(revision));
        let kind = EventKind::PolicyChanged { key: key(service), before, after };
        Event { index: revision, time_ms: 1, kind }
    }

    #[test]
    fn a_busy_service_displaces_only_its_own_changes() {
        let changes = PolicyChanges::default();
        changes.note(&[changed("quiet", 1)]);
        for revision in 2..200 {
            changes.note(&[changed("busy", revision)]);
        }
        let busy: Vec<u64> = changes.of(&key("busy")).iter().map(|c| c.revision).collect();
        assert_eq!(busy, (150..200).collect::<Vec<_>>());
        assert_eq!(changes.of(&key("quiet")).len(), 1);
    }

    #[test]
    fn the_changes_of_all_services_have_a_limit() {
        let changes = PolicyChanges::default();
        for n in 1..=CHANGES_MAX as u64 + 5 {
            changes.note(&[changed(&n.to_string(), n)]);
        }
        assert_eq!(changes.0.lock().changes.len(), CHANGES_MAX);
        assert!(changes.of(&key("5")).is_empty() && !changes.of(&key("6")).is_empty());
        let held: u64 = changes.0.lock().changes.iter().map(|change| change.held_len).sum();
        assert_eq!(changes.0.lock().bytes, held);
        changes.clear();
        assert!(changes.of(&key("6")).is_empty());
    }
}
