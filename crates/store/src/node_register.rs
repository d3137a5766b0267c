//! Lists the nodes that share a store without a connection to each other, as in Redis or on a shared file,
//! with the version that each understands.
//!
//! Place in the flow: each node reports to the store every [`REPORT_MS`], with the store's own time, and
//! removes its entry when it stops. The end of an upgrade reads the entries. Each node also reads the addresses
//! of the others from them, because those may not be registered as instances. A node counts as long as its
//! entry exists, even if it does not run. An entry is removed after [`KEPT_MS`] without a report, or when an
//! operator forgets the node.

use serde::Serialize;

/// Interval between two reports of a node, in milliseconds.
pub(crate) const REPORT_MS: u64 = 2_000;
/// How long the entry of a silent node is kept, in milliseconds.
pub const KEPT_MS: u64 = 24 * 3_600 * 1_000;
/// Maximum number of entries that are read.
pub(crate) const NODES_MAX: usize = 1_000;

/// A node that shares the store, according to its entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct StoreNode {
    /// Its name.
    pub name: String,
    /// The newest state version that it understands.
    pub state_version: u32,
    /// Time since its last report, by the store's clock, in milliseconds. A node reports every two seconds.
    pub last_seen_ms: u64,
    /// The addresses of its API and, in shared-file mode, of its call port, as `host:port`. They are no
    /// instances.
    #[serde(skip)]
    pub addresses: Vec<String>,
}

impl StoreNode {
    /// A node that has not reported for this long is silent, in milliseconds.
    pub const SILENT_MS: u64 = 10_000;

    /// Whether it has not reported for [`Self::SILENT_MS`].
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.last_seen_ms > Self::SILENT_MS
    }
}
