//! One change, as watchers see it.

use serde::Serialize;
use utoipa::ToSchema;

use super::shape::{Detail, InstanceRecord};
use maxine_state::{Event, EventKind, InstanceKey, KvChange, RemovalCause};

/// The kinds of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ChangeType {
    /// An instance was registered, or its registration changed. See `data`.
    InstanceRegistered,
    /// The verdict on an instance, or one of its checks, changed. See `data`.
    HealthChanged,
    /// An instance was removed. See `cause`.
    InstanceRemoved,
    /// An operator drained an instance, or ended its drain. See `draining`.
    DrainChanged,
    /// A service's policy was set or deleted.
    PolicyChanged,
    /// The runtime configuration changed. See `revision`.
    ConfigChanged,
    /// A node took over the leader's duties. See `holder` and `fence`.
    LeadershipGranted,
    /// A user, key or token changed. See `subject`.
    IdentityChanged,
    /// Keys changed. See `keys` and `prefixes`.
    KvChanged,
    /// A lock session was created. See `session`.
    LockSessionCreated,
    /// A lock session ended. See `session`; its keys, in `keys`, were unlocked or deleted.
    LockSessionEnded,
    /// A lock delay ended: the keys that `session` held can be locked again.
    LockDelayEnded,
    /// The note of the whole cluster changed.
    #[cfg(feature = "next")]
    NoteChanged,
}

/// Why an instance was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Cause {
    /// Its owner or an operator deregistered it.
    Deregistered,
    /// Its lease expired.
    Expired,
}

/// One change. Its type decides which fields it has.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Change {
    /// The index of the state right after the change.
    index: u64,
    /// When the change took place, in milliseconds since 1970.
    time_ms: u64,
    /// Type of the change.
    #[serde(rename = "type")]
    change_type: ChangeType,
    /// The namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    /// The service.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    /// The instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// The new registration and health of the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<InstanceRecord>,
    /// Why the instance was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<Cause>,
    /// Whether the instance is drained now.
    #[serde(skip_serializing_if = "Option::is_none")]
    draining: Option<bool>,
    /// The configuration's new revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    /// Name of the node that took over the leader's duties.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    /// Fencing token of the node that took over.
    #[serde(skip_serializing_if = "Option::is_none")]
    fence: Option<u64>,
    /// Name of the user, key or token.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// Keys that were changed or deleted. Their values are not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
    /// Keys that begin with one of these texts were deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefixes: Option<Vec<String>>,
    /// The id of the lock session.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
}

impl Change {
    pub(super) fn new(event: &Event, detail: Detail) -> Self {
        let blank = |change_type| Self {
            index: event.index,
            time_ms: event.time_ms,
            change_type,
            namespace: None,
            service: None,
            instance: None,
            data: None,
            cause: None,
            draining: None,
            revision: None,
            holder: None,
            fence: None,
            subject: None,
            keys: None,
            prefixes: None,
            session: None,
        };
        let (keys, prefixes): (Vec<_>, Vec<_>) =
            event.kind.kv_changes().iter().partition(|change| matches!(change, KvChange::Key(_)));
        let texts = |changes: Vec<&KvChange>| {
            let texts: Vec<String> =
                changes.into_iter().map(|change| change.key().to_string()).collect();
            (!texts.is_empty()).then_some(texts)
        };
        let of_instance = |change_type, key: &InstanceKey| Self {
            namespace: Some(key.service.namespace.as_str().into()),
            service: Some(key.service.service.as_str().into()),
            instance: Some(key.instance.as_str().into()),
            ..blank(change_type)
        };
        match &event.kind {
            EventKind::InstanceRegistered { key, data } => Self {
                data: Some(InstanceRecord::changed(&key.service, data, detail)),
                ..of_instance(ChangeType::InstanceRegistered, key)
            },
            EventKind::HealthChanged { key, data } | EventKind::CheckReported { key, data, .. } => {
                Self {
                    data: Some(InstanceRecord::changed(&key.service, data, detail)),
                    ..of_instance(ChangeType::HealthChanged, key)
                }
            }
            EventKind::InstanceRemoved { key, cause } => Self {
                cause: Some(match cause {
                    RemovalCause::Deregistered => Cause::Deregistered,
                    RemovalCause::Expired => Cause::Expired,
                }),
                ..of_instance(ChangeType::InstanceRemoved, key)
            },
            EventKind::DrainChanged { key, draining } => {
                Self { draining: Some(*draining), ..of_instance(ChangeType::DrainChanged, key) }
            }
            EventKind::PolicyChanged { key, .. } => Self {
                namespace: Some(key.namespace.as_str().into()),
                service: Some(key.service.as_str().into()),
                ..blank(ChangeType::PolicyChanged)
            },
            EventKind::ConfigChanged { revision } => {
                Self { revision: Some(*revision), ..blank(ChangeType::ConfigChanged) }
            }
            EventKind::LeadershipGranted { holder, fence } => Self {
                holder: Some(holder.as_str().into()),
                fence: Some(*fence),
                ..blank(ChangeType::LeadershipGranted)
            },
            EventKind::IdentityChanged { subject } => Self {
                subject: Some(subject.as_str().into()),
                ..blank(ChangeType::IdentityChanged)
            },
            EventKind::KvChanged { .. } => Self {
                keys: texts(keys),
                prefixes: texts(prefixes),
                ..blank(ChangeType::KvChanged)
            },
            EventKind::LockSessionCreated { session } => Self {
                session: Some(session.id.to_string()),
                ..blank(ChangeType::LockSessionCreated)
            },
            EventKind::LockSessionEnded { session, .. } => Self {
                session: Some(session.id.to_string()),
                keys: texts(keys),
                ..blank(ChangeType::LockSessionEnded)
            },
            EventKind::LockDelayEnded { session } => {
                Self { session: Some(session.to_string()), ..blank(ChangeType::LockDelayEnded) }
            }
            #[cfg(feature = "next")]
            EventKind::NoteChanged { .. } => blank(ChangeType::NoteChanged),
        }
    }

    /// The name of the change's type, as clients see it.
    pub(super) fn kind(&self) -> &'static str {
        match self.change_type {
            ChangeType::InstanceRegistered => "instance_registered",
            ChangeType::HealthChanged => "health_changed",
            ChangeType::InstanceRemoved => "instance_removed",
            ChangeType::DrainChanged => "drain_changed",
            ChangeType::PolicyChanged => "policy_changed",
            ChangeType::ConfigChanged => "config_changed",
            ChangeType::LeadershipGranted => "leadership_granted",
            ChangeType::IdentityChanged => "identity_changed",
            ChangeType::KvChanged => "kv_changed",
            ChangeType::LockSessionCreated => "lock_session_created",
            ChangeType::LockSessionEnded => "lock_session_ended",
            ChangeType::LockDelayEnded => "lock_delay_ended",
            #[cfg(feature = "next")]
            ChangeType::NoteChanged => "note_changed",
        }
    }
}
