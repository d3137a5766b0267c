//! The classes of audit records, and the limits of each.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

use super::versioned::first_version;

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
    /// Policies, the configuration and drains.
    Settings,
    /// Sign-ins, uses of break-glass tokens, cleared logs.
    Access,
    /// Refused requests of callers without a credential.
    Strangers,
    /// Registrations and everything else that machines do.
    Registrations,
    /// Refused requests of known callers, and exports. Any viewer can repeat these without end.
    Requests,
}

impl AuditClass {
    /// All classes.
    pub const ALL: [Self; 7] = [
        Self::Cluster,
        Self::Identities,
        Self::Settings,
        Self::Access,
        Self::Strangers,
        Self::Registrations,
        Self::Requests,
    ];

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
        }
    }

    /// Maximum number of kept records of this class.
    #[must_use]
    pub const fn records_max(self) -> usize {
        match self {
            Self::Cluster | Self::Identities | Self::Settings => 5_000,
            Self::Access => 10_000,
            Self::Strangers | Self::Requests => 5_000,
            Self::Registrations => 20_000,
        }
    }

    /// Longest time that a record of this class is kept, in milliseconds.
    #[must_use]
    pub const fn retention_ms(self) -> u64 {
        match self {
            Self::Cluster | Self::Identities | Self::Settings => LONG_MS,
            Self::Access | Self::Strangers | Self::Registrations | Self::Requests => SHORT_MS,
        }
    }
}

first_version!(AuditClass {
    Cluster,
    Identities,
    Settings,
    Access,
    Strangers,
    Registrations,
    Requests
});
