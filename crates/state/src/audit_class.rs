//! The classes of audit records, and the limits of each.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::versioned::Needs;

const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// Retention of frequent records, in milliseconds.
pub(super) const SHORT_MS: u64 = 30 * DAY_MS;
/// Retention of rare records, in milliseconds.
pub(super) const LONG_MS: u64 = 400 * DAY_MS;

/// Class of an audit record. Each class has its own limits.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum AuditClass {
    /// Leadership, members, snapshots, backups.
    Cluster,
    /// Users, tokens and signing keys.
    Identities,
    /// Policies and the configuration; while the state has version 1, drains too.
    Settings,
    /// Sign-ins; while the state has version 1, uses of break-glass tokens and cleared logs too.
    Access,
    /// Refused requests of callers without a credential.
    Strangers,
    /// Changes of instances by known callers; while the state has version 1, by anyone.
    Registrations,
    /// Refused requests of known callers, and exports. Any viewer can repeat these without end.
    Requests,
    /// Accepted changes of callers without a credential. From state version 2 on.
    Open,
    /// Drains and their ends. From state version 2 on.
    Drains,
    /// What Maxine itself does with instances: expiry, health, checks. From state version 2 on.
    Automatic,
    /// Cleared logs. From state version 2 on.
    Logs,
    /// Keys, locks and lock sessions. From state version 3 on.
    Keys,
}

impl AuditClass {
    /// All classes.
    pub const ALL: [Self; 12] = [
        Self::Cluster,
        Self::Identities,
        Self::Settings,
        Self::Access,
        Self::Strangers,
        Self::Registrations,
        Self::Requests,
        Self::Open,
        Self::Drains,
        Self::Automatic,
        Self::Logs,
        Self::Keys,
    ];

    /// The classes that a state of this version can have records of.
    pub fn of_version(version: u32) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |class| class.needs() <= version)
    }

    /// The name of the class.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Identities => "identities",
            Self::Settings => "settings",
            Self::Access => "access",
            Self::Strangers => "strangers",
            Self::Registrations => "registrations",
            Self::Requests => "requests",
            Self::Open => "open",
            Self::Drains => "drains",
            Self::Automatic => "automatic",
            Self::Logs => "logs",
            Self::Keys => "keys",
        }
    }

    /// Maximum number of kept records of this class.
    #[must_use]
    pub const fn records_max(self) -> usize {
        match self {
            Self::Cluster | Self::Identities | Self::Settings => 5_000,
            Self::Access => 10_000,
            Self::Strangers | Self::Requests | Self::Drains | Self::Logs => 5_000,
            Self::Registrations | Self::Open | Self::Automatic | Self::Keys => 20_000,
        }
    }

    /// Longest time that a record of this class is kept, in milliseconds.
    #[must_use]
    pub const fn retention_ms(self) -> u64 {
        match self {
            Self::Cluster | Self::Identities | Self::Settings | Self::Drains | Self::Logs => {
                LONG_MS
            }
            Self::Access | Self::Strangers | Self::Registrations => SHORT_MS,
            Self::Requests | Self::Open | Self::Automatic | Self::Keys => SHORT_MS,
        }
    }
}

impl Needs for AuditClass {
    fn needs(&self) -> u32 {
        match self {
            Self::Cluster | Self::Identities | Self::Settings | Self::Access => 1,
            Self::Strangers | Self::Registrations | Self::Requests => 1,
            Self::Open | Self::Drains | Self::Automatic | Self::Logs => 2,
            Self::Keys => 3,
        }
    }
}
