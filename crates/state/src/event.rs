//! The changes that a command made, as watchers see them.

use std::sync::Arc;

use serde::Serialize;

use super::instance::Instance;
use super::kv::KvChange;
use super::lock_session::{LockDelay, LockSession, LockSessionEnd, LockSessionId};
use super::name::{InstanceKey, Name, ServiceKey};
use super::policy::PolicyRecord;

/// One change. Every event has its own index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The index of the state right after the change.
    pub index: u64,
    /// The time of the change, in milliseconds since 1970, by the log's clock.
    pub time_ms: u64,
    /// What changed.
    pub kind: EventKind,
}

/// Why an instance was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovalCause {
    /// Its owner or an operator deregistered it.
    Deregistered,
    /// Its lease ran out.
    Expired,
}

/// The kinds of change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An instance was registered. It is new, its registration changed, or an equal registration went through
    /// the log. An equal registration keeps the `lease_epoch`.
    InstanceRegistered {
        /// The instance.
        key: InstanceKey,
        /// The instance as it is after the change.
        data: Arc<Instance>,
    },
    /// The verdict on an instance changed.
    HealthChanged {
        /// The instance.
        key: InstanceKey,
        /// The instance as it is after the change.
        data: Arc<Instance>,
    },
    /// The owner reported a check, or did not report it in time. An equal report that went through the log is
    /// an event too.
    CheckReported {
        /// The instance.
        key: InstanceKey,
        /// The check.
        check: Name,
        /// The instance as it is after the change.
        data: Arc<Instance>,
    },
    /// An instance was removed.
    InstanceRemoved {
        /// The instance.
        key: InstanceKey,
        /// The cause.
        cause: RemovalCause,
    },
    /// An operator drained an instance, or ended its drain.
    DrainChanged {
        /// The instance.
        key: InstanceKey,
        /// Whether it is drained now.
        draining: bool,
    },
    /// A service's policy was set or removed.
    PolicyChanged {
        /// The service.
        key: ServiceKey,
        /// The policy before the change; `None` if none was set.
        before: Option<Arc<PolicyRecord>>,
        /// The policy after the change; `None` if it was removed.
        after: Option<Arc<PolicyRecord>>,
    },
    /// The runtime configuration changed.
    ConfigChanged {
        /// Its new revision.
        revision: u64,
    },
    /// A node took over the leader's duties.
    LeadershipGranted {
        /// The name of the node.
        holder: Name,
        /// Its fencing token.
        fence: u64,
    },
    /// A user, key or token changed.
    IdentityChanged {
        /// The name of the user, key or token.
        subject: Name,
    },
    /// Keys changed.
    KvChanged {
        /// The changes.
        changes: Arc<[KvChange]>,
    },
    /// A lock session was created.
    LockSessionCreated {
        /// The session.
        session: Arc<LockSession>,
    },
    /// A lock session ended.
    LockSessionEnded {
        /// The session.
        session: Arc<LockSession>,
        /// Why it ended.
        cause: LockSessionEnd,
        /// The lock delay that began.
        delay: Option<Arc<LockDelay>>,
        /// The keys that were unlocked or deleted.
        changes: Arc<[KvChange]>,
    },
    /// A lock delay ended: the keys that the session held can be locked again.
    LockDelayEnded {
        /// The session, which ended before.
        session: LockSessionId,
    },
    /// The note of the whole cluster changed.
    #[cfg(feature = "next")]
    NoteChanged {
        /// The new note; empty if it was removed.
        note: Box<str>,
    },
}

impl EventKind {
    /// The service that the change belongs to, if it belongs to one.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceKey> {
        match self {
            Self::InstanceRegistered { key, .. }
            | Self::HealthChanged { key, .. }
            | Self::CheckReported { key, .. }
            | Self::InstanceRemoved { key, .. }
            | Self::DrainChanged { key, .. } => Some(&key.service),
            Self::PolicyChanged { key, .. } => Some(key),
            Self::ConfigChanged { .. }
            | Self::LeadershipGranted { .. }
            | Self::IdentityChanged { .. }
            | Self::KvChanged { .. }
            | Self::LockSessionCreated { .. }
            | Self::LockSessionEnded { .. }
            | Self::LockDelayEnded { .. } => None,
            #[cfg(feature = "next")]
            Self::NoteChanged { .. } => None,
        }
    }

    /// The instance that the change belongs to, if it belongs to one.
    #[must_use]
    pub fn instance(&self) -> Option<&InstanceKey> {
        match self {
            Self::InstanceRegistered { key, .. }
            | Self::HealthChanged { key, .. }
            | Self::CheckReported { key, .. }
            | Self::InstanceRemoved { key, .. }
            | Self::DrainChanged { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The changes of keys.
    #[must_use]
    pub fn kv_changes(&self) -> &[KvChange] {
        match self {
            Self::KvChanged { changes } | Self::LockSessionEnded { changes, .. } => changes,
            _ => &[],
        }
    }

    /// An estimate of the memory that the event holds, in bytes. Memory that several events share is counted for
    /// each of them.
    #[must_use]
    pub fn held_len(&self) -> u64 {
        const OWN_LEN: u64 = 512;
        let policy_len = |record: &Option<Arc<PolicyRecord>>| {
            record.as_ref().map_or(0, |record| record.policy.encoded_len() as u64)
        };
        let shared = match self {
            Self::InstanceRegistered { data, .. }
            | Self::HealthChanged { data, .. }
            | Self::CheckReported { data, .. } => data.stored_len(),
            Self::PolicyChanged { before, after, .. } => policy_len(before) + policy_len(after),
            Self::InstanceRemoved { .. }
            | Self::DrainChanged { .. }
            | Self::ConfigChanged { .. }
            | Self::LeadershipGranted { .. }
            | Self::IdentityChanged { .. }
            | Self::LockSessionCreated { .. }
            | Self::LockDelayEnded { .. } => 0,
            Self::KvChanged { changes } | Self::LockSessionEnded { changes, .. } => {
                KvChange::held_len(changes)
            }
            #[cfg(feature = "next")]
            Self::NoteChanged { note } => note.len() as u64,
        };
        OWN_LEN + shared
    }
}
