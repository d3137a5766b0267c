//! Which nodes share a store in which they do not hear each other, such as Redis or a file, and what each understands.
//!
//! Place in the flow: each node reports to the store every [`REPORT_MS`], with the store's own time, and takes its entry
//! away when it stops. Whoever finishes an upgrade reads them: a node whose entry is there counts, whether or not it
//! runs at this moment, until it has been silent for [`KEPT_MS`] or an operator forgets it.

use serde::Serialize;

/// How often a node reports, in milliseconds.
pub(crate) const REPORT_MS: u64 = 2_000;
/// A node that has not reported for this long is silent, in milliseconds.
pub const SILENT_MS: u64 = 10_000;
/// How long the entry of a silent node is kept, in milliseconds: one day.
pub const KEPT_MS: u64 = 24 * 3_600 * 1_000;
/// Most entries that are read.
pub(crate) const NODES_MAX: usize = 1_000;

/// A node that shares the store, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct StoreNode {
    /// Its name.
    pub name: String,
    /// The newest state version that it understands.
    pub state_version: u32,
    /// Time since it last reported, by the store's clock, in milliseconds. A node reports every two seconds.
    pub last_seen_ms: u64,
}

impl StoreNode {
    /// Whether it has not reported lately.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.last_seen_ms > SILENT_MS
    }
}
