//! The actions of the audit log. They are stored as codes because the hashes cover them.
//! [`AuditAction::as_str`] gives the name that readers see.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::audit_class::AuditClass;
use super::versioned::Needs;

macro_rules! actions {
    ($($(#[$attr:meta])* $variant:ident $name:literal $class:ident $version:literal,)+) => {
        /// An action of the audit log. Variants are only ever appended. A later variant belongs to a later
        /// version of the state.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode, Serialize, Deserialize,
        )]
        #[allow(missing_docs, reason = "each has its name beside it")]
        pub enum AuditAction {
            $($(#[$attr])* #[serde(rename = $name)] $variant,)+
        }

        impl AuditAction {
            /// All actions.
            pub const ALL: &[Self] = &[$($(#[$attr])* Self::$variant,)+];

            /// The name in the audit log, such as `instance.register`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($(#[$attr])* Self::$variant => $name,)+
                }
            }

            /// The class of a successful record of this action while the state has version 1.
            pub(super) const fn first_class(self) -> AuditClass {
                match self {
                    $($(#[$attr])* Self::$variant => AuditClass::$class,)+
                }
            }
        }

        impl Needs for AuditAction {
            fn needs(&self) -> u32 {
                match self {
                    $($(#[$attr])* Self::$variant => $version,)+
                }
            }
        }
    };
}

// The name, the class of a successful record while the state has version 1, and the state version that introduced
// the action.
actions! {
    InstanceRegister "instance.register" Registrations 1,
    InstanceDeregister "instance.deregister" Registrations 1,
    InstanceExpire "instance.expire" Registrations 1,
    InstanceDrain "instance.drain" Settings 1,
    InstanceUndrain "instance.undrain" Settings 1,
    HealthReport "health.report" Registrations 1,
    HealthEvict "health.evict" Registrations 1,
    HealthReset "health.reset" Registrations 1,
    HealthPass "health.pass" Registrations 1,
    HealthFail "health.fail" Registrations 1,
    PolicyPut "policy.put" Settings 1,
    ConfigPut "config.put" Settings 1,
    LeadershipGrant "leadership.grant" Cluster 1,
    LeadershipTakeover "leadership.takeover" Cluster 1,
    LeadershipTransfer "leadership.transfer" Cluster 1,
    HistoryBegin "history.begin" Registrations 1,
    UserPut "user.put" Identities 1,
    UserDelete "user.delete" Identities 1,
    SigningKeyRotate "signing_key.rotate" Identities 1,
    TokenPut "token.put" Identities 1,
    TokenDelete "token.delete" Identities 1,
    SessionCreate "session.create" Access 1,
    SessionDelete "session.delete" Access 1,
    SessionThrottle "session.throttle" Access 1,
    AuditRecord "audit.record" Access 1,
    AuditExpire "audit.expire" Access 1,
    AuditExport "audit.export" Requests 1,
    AuditOverflow "audit.overflow" Access 1,
    AuditConfirmClock "audit.confirm_clock" Access 1,
    ClusterIdentify "cluster.identify" Cluster 1,
    ClusterRaiseStateVersion "cluster.raise_state_version" Cluster 1,
    ClusterBackup "cluster.backup" Cluster 1,
    ClusterSnapshot "cluster.snapshot" Cluster 1,
    ExpiryConfirm "expiry.confirm" Cluster 1,
    MemberAdd "member.add" Cluster 1,
    MemberPromote "member.promote" Cluster 1,
    MemberRemove "member.remove" Cluster 1,
    LogsClear "logs.clear" Access 1,
    BreakGlassUse "break_glass.use" Access 1,
    RequestAuthorize "request.authorize" Access 1,
    NodeForget "node.forget" Cluster 1,
    CheckUnknown "check.unknown" Registrations 1,
    CheckPass "check.pass" Registrations 1,
    CheckWarn "check.warn" Registrations 1,
    CheckFail "check.fail" Registrations 1,
    CheckExpire "check.expire" Registrations 1,
    KvPut "kv.put" Keys 3,
    KvDelete "kv.delete" Keys 3,
    KvDeleteTree "kv.delete_tree" Keys 3,
    KvLock "kv.lock" Keys 3,
    KvUnlock "kv.unlock" Keys 3,
    KvTransaction "kv.transaction" Keys 3,
    LockSessionCreate "lock_session.create" Keys 3,
    LockSessionDestroy "lock_session.destroy" Keys 3,
    LockSessionExpire "lock_session.expire" Keys 3,
    LockSessionFail "lock_session.fail" Keys 3,
    LockDelayEnd "lock_delay.end" Keys 3,
    #[cfg(feature = "next")]
    NoteSet "note.set" Settings 4,
}

impl AuditAction {
    /// The action with this name, if this build knows it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|action| action.as_str() == name)
    }

    /// The class of a successful record of this action by a known caller, from state version 2 on.
    pub(super) const fn class(self) -> AuditClass {
        match self {
            // An operator can drain and undrain without end.
            Self::InstanceDrain | Self::InstanceUndrain => AuditClass::Drains,
            // A viewer can sign in and out without end.
            Self::BreakGlassUse => AuditClass::Identities,
            Self::LogsClear => AuditClass::Logs,
            Self::AuditConfirmClock | Self::HistoryBegin => AuditClass::Cluster,
            _ => self.first_class(),
        }
    }

    /// Whether the action is about leadership.
    pub(super) const fn is_of_leadership(self) -> bool {
        matches!(self, Self::LeadershipGrant | Self::LeadershipTakeover | Self::LeadershipTransfer)
    }

    /// Whether the action is about keys and lock sessions. Refusals of these actions by known callers stay in the class of
    /// keys.
    pub(super) const fn is_of_keys(self) -> bool {
        matches!(self.first_class(), AuditClass::Keys)
    }

    /// Whether the action is about instances. Refusals of these actions by known callers stay in the class of
    /// registrations.
    pub(super) const fn is_of_instances(self) -> bool {
        matches!(
            self,
            Self::InstanceRegister
                | Self::InstanceDeregister
                | Self::InstanceExpire
                | Self::InstanceDrain
                | Self::InstanceUndrain
                | Self::HealthReport
                | Self::HealthEvict
                | Self::HealthReset
                | Self::HealthPass
                | Self::HealthFail
                | Self::CheckUnknown
                | Self::CheckPass
                | Self::CheckWarn
                | Self::CheckFail
                | Self::CheckExpire
        )
    }
}
