//! What a command changed, for watchers.

use std::sync::Arc;

use serde::Serialize;

use super::instance::Instance;
use super::name::{InstanceKey, Name, ServiceKey};

/// One change. Every event has an index of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The index of the state right after the change.
    pub index: u64,
    /// When, in milliseconds since 1970, by the log's clock.
    pub time_ms: u64,
    /// What changed.
    pub kind: EventKind,
}

/// Why an instance is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RemovalCause {
    /// Its owner or an operator took it out.
    Deregistered,
    /// Its lease ran out.
    Expired,
}

/// The kinds of change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An instance was registered: it is new, or its registration changed, or an equal registration
    /// went through the log and keeps its `lease_epoch`.
    InstanceRegistered {
        /// Whose.
        key: InstanceKey,
        /// The new value.
        data: Arc<Instance>,
    },
    /// The verdict on an instance changed.
    HealthChanged {
        /// Whose.
        key: InstanceKey,
        /// The new value.
        data: Arc<Instance>,
    },
    /// The owner of an instance reported a check of it, or did not in time. An equal report that went through the log
    /// is an event, too.
    CheckReported {
        /// The instance.
        key: InstanceKey,
        /// The check.
        check: Name,
        /// The new value.
        data: Arc<Instance>,
    },
    /// An instance is gone.
    InstanceRemoved {
        /// Whose.
        key: InstanceKey,
        /// Why.
        cause: RemovalCause,
    },
    /// An operator drained an instance, or returned it to service.
    DrainChanged {
        /// Whose.
        key: InstanceKey,
        /// Whether it is drained now.
        draining: bool,
    },
    /// A service's policy was set or taken away.
    PolicyChanged {
        /// Whose.
        key: ServiceKey,
    },
    /// The runtime configuration changed.
    ConfigChanged {
        /// Its new revision.
        revision: u64,
    },
    /// A node took over the leader's duties.
    LeadershipGranted {
        /// Which node.
        holder: Name,
        /// Its fencing token.
        fence: u64,
    },
    /// A user, key or token changed.
    IdentityChanged {
        /// Whose name.
        subject: Name,
    },
    /// The note of the whole cluster changed.
    #[cfg(feature = "next")]
    NoteChanged {
        /// The new one; empty where it was taken away.
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
            Self::PolicyChanged { key } => Some(key),
            Self::ConfigChanged { .. }
            | Self::LeadershipGranted { .. }
            | Self::IdentityChanged { .. } => None,
            #[cfg(feature = "next")]
            Self::NoteChanged { .. } => None,
        }
    }
}
