//! Tells authentication how recent this node's state is.

use std::sync::Arc;

use maxine_identity::ClusterContact;
use maxine_store::ControlStore;

/// The contact of a store with its cluster.
pub(super) struct StoreContact(pub(super) Arc<dyn ControlStore>);

impl ClusterContact for StoreContact {
    fn staleness_ms(&self) -> Option<u64> {
        self.0.staleness_ms()
    }

    fn line(&self) -> Option<u64> {
        self.0.line()
    }
}
