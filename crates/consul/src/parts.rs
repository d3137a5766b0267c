//! What the face needs, and its settings.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};
use xxhash_rust::xxh3::xxh3_64;

use super::built::Built;
use super::metrics::ConsulMetrics;
use super::shape::{Names, node_id};
use super::tables::Tables;
use maxine_actors::Registry;
use maxine_admission::{NodeTurns, PlaceLimits, Places};
use maxine_clock::Clock;
use maxine_store::ControlStore;
use maxine_view::View;

/// What the face needs.
pub struct ConsulParts {
    /// The clock.
    pub clock: Clock,
    /// The view, for reads.
    pub view: Arc<View>,
    /// The store, for freshness and leadership.
    pub store: Arc<dyn ControlStore>,
    /// The registry, for writes.
    pub registry: Registry,
    /// The names in answers.
    pub names: Names,
    /// Limits on blocking queries.
    pub blocked: PlaceLimits,
    /// The turns of answers that are built.
    pub turns: Arc<NodeTurns>,
    /// The metrics.
    pub metrics: ConsulMetrics,
}

/// The face's own state.
pub(crate) struct Inner {
    pub(crate) clock: Clock,
    pub(crate) view: Arc<View>,
    pub(crate) store: Arc<dyn ControlStore>,
    pub(crate) registry: Registry,
    pub(crate) names: Names,
    /// The id of the node of all instances whose machine is not known.
    pub(crate) own_node_id: String,
    pub(crate) metrics: ConsulMetrics,
    pub(crate) tables: Tables,
    /// The places of blocking queries.
    pub(crate) blocked: Arc<Places>,
    /// The turns of answers that are built.
    pub(crate) turns: Arc<NodeTurns>,
    /// The latest answers.
    pub(crate) built: Built,
    /// Each is held while the registration of an instance is read, changed and written again, so that two changes
    /// through this node do not overwrite each other.
    changing: Box<[Mutex<()>]>,
}

/// Number of locks that the ids of instances share. A request that shares one with another waits for that write, so
/// there are many more than writes at the same time.
const CHANGING_LEN: usize = 4_096;

impl Inner {
    pub(crate) fn new(parts: ConsulParts) -> Self {
        let ConsulParts { clock, view, store, registry, names, blocked, turns, metrics } = parts;
        Self {
            clock,
            view,
            store,
            registry,
            own_node_id: node_id(&names.node),
            tables: Tables::new(&names.node),
            names,
            metrics,
            blocked: Places::fair(blocked),
            turns,
            built: Built::default(),
            changing: std::iter::repeat_with(Mutex::default).take(CHANGING_LEN).collect(),
        }
    }

    /// Waits until nobody else changes the registration of this instance through this node.
    pub(crate) async fn changing(&self, id: &str) -> MutexGuard<'_, ()> {
        let at = xxh3_64(id.as_bytes()) % CHANGING_LEN as u64;
        self.changing[usize::try_from(at).unwrap_or(0)].lock().await
    }
}
