//! Which store a node uses.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kind of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// The Raft log of the nodes themselves.
    Raft,
    /// A Redis that all nodes share.
    Redis,
    /// A file that all nodes share.
    SharedFile,
    /// The log of the only node.
    Local,
    /// The memory of the process; for tests.
    Memory,
}

impl StoreKind {
    /// The name in the API and in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raft => "raft",
            Self::Redis => "redis",
            Self::SharedFile => "shared-file",
            Self::Local => "local",
            Self::Memory => "memory",
        }
    }

    /// Whether nodes can write without a leader. The nodes of such a store have no connections to each other. Without
    /// a leader, only heartbeats and the leader's own commands wait for one. The other nodes learn that a leader has
    /// stopped only when its lease runs out.
    #[must_use]
    pub const fn orders_without_leader(self) -> bool {
        matches!(self, Self::Redis | Self::SharedFile)
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_one_name_in_logs_and_in_answers() {
        for kind in [
            StoreKind::Raft,
            StoreKind::Redis,
            StoreKind::SharedFile,
            StoreKind::Local,
            StoreKind::Memory,
        ] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
