//! What readers see: published snapshots and per-service tables.
//!
//! Place in the flow: the backend's applier publishes here after each batch and before anyone gets
//! a reply; discovery, proxy, watch, DNS and the API's reads take it from here.
//!
//! **Invariant:** no reader waits for a writer. A look-up is a lock-free map access and an atomic
//! or two; nothing here holds a lock across an await or allocates per instance on that path.

mod faults;
mod table;
mod table_key;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::DefaultHashBuilder;
use tokio::sync::watch as watch_channel;

use maxine_clock::Clock;
use maxine_state::{ControlState, Event, ServiceKey, ServiceRef};

use table::Surroundings;
pub use table::{Endpoint, Load, ServiceCounter, ServiceTable, is_listed};
use table_key::TableKey;
pub use watch::{Compacted, WatchHub, WatchScope, Watcher, WatcherLost};

/// A state as it was published.
#[derive(Debug)]
pub struct Snapshot {
    /// The state.
    pub state: ControlState,
    /// When it was published here, on the monotonic clock, in milliseconds.
    pub published_at_ms: u64,
}

/// The index was not reached in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has not reached index {wanted} yet; it is at {reached}")]
pub struct NotReached {
    /// What was asked for.
    pub wanted: u64,
    /// How far this node is.
    pub reached: u64,
}

/// The published state of this node.
#[derive(Debug)]
pub struct View {
    clock: Clock,
    /// The zone that this node runs in.
    zone: Option<String>,
    snapshot: ArcSwap<Snapshot>,
    tables: papaya::HashMap<TableKey, Arc<ServiceTable>, DefaultHashBuilder>,
    index: watch_channel::Sender<u64>,
    hub: WatchHub,
}

impl View {
    /// A view of an empty state.
    #[must_use]
    pub fn new(clock: Clock) -> Arc<Self> {
        Self::in_zone(clock, None)
    }

    /// A view of an empty state, on a node that runs in a zone.
    #[must_use]
    pub fn in_zone(clock: Clock, zone: Option<String>) -> Arc<Self> {
        let state = ControlState::default();
        let published_at_ms = clock.monotonic_ms();
        Arc::new(Self {
            clock,
            zone,
            snapshot: ArcSwap::from_pointee(Snapshot { state, published_at_ms }),
            tables: papaya::HashMap::with_hasher(DefaultHashBuilder::default()),
            index: watch_channel::Sender::new(0),
            hub: WatchHub::new(),
        })
    }

    /// Publishes the state after a batch. Called by the applier alone, in order.
    pub fn publish(&self, state: &ControlState, events: &[Event]) {
        let before = self.snapshot.load();
        let config_changed = before.state.config().revision != state.config().revision;
        if config_changed {
            self.rebuild_tables(state);
        } else {
            let mut keys: Vec<&ServiceKey> =
                events.iter().filter_map(|e| e.kind.service()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                self.rebuild_table(state, key);
            }
        }
        drop(before);
        self.store(state);
        self.hub.publish(events, state.index());
    }

    /// Replaces everything, after a snapshot was installed or another history began. Watchers start
    /// again.
    pub fn reset(&self, state: &ControlState) {
        self.rebuild_tables(state);
        self.store(state);
        self.hub.reset(state.index(), state.history());
    }

    fn store(&self, state: &ControlState) {
        let published_at_ms = self.clock.monotonic_ms();
        self.snapshot.store(Arc::new(Snapshot { state: state.clone(), published_at_ms }));
        self.index.send_replace(state.index());
    }

    fn rebuild_tables(&self, state: &ControlState) {
        let gone: Vec<ServiceKey> = {
            let tables = self.tables.pin();
            let keys = tables.values().map(|table| table.key());
            keys.filter(|key| state.service(key).is_none()).cloned().collect()
        };
        for key in state.services().keys().chain(&gone) {
            self.rebuild_table(state, key);
        }
    }

    fn rebuild_table(&self, state: &ControlState, key: &ServiceKey) {
        let tables = self.tables.pin();
        match state.service(key) {
            None => {
                tables.remove(&key.as_ref());
            }
            Some(service) => {
                let previous = tables.get(&key.as_ref());
                let table = ServiceTable::build(
                    key.clone(),
                    service,
                    self.surroundings(state),
                    state.index(),
                    previous.map(AsRef::as_ref),
                );
                tables.insert(TableKey::of(key.as_ref()), Arc::new(table));
            }
        }
    }

    fn surroundings<'a>(&'a self, state: &'a ControlState) -> Surroundings<'a> {
        Surroundings { config: &state.config().config, zone: self.zone.as_deref() }
    }

    /// The present state.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Runs `read` on the present state.
    pub fn with_snapshot<R>(&self, read: impl FnOnce(&Snapshot) -> R) -> R {
        read(&self.snapshot.load())
    }

    /// The index of the present state.
    #[must_use]
    pub fn index(&self) -> u64 {
        *self.index.borrow()
    }

    /// Follows the index.
    #[must_use]
    pub fn index_changes(&self) -> watch_channel::Receiver<u64> {
        self.index.subscribe()
    }

    /// Waits until the state here is at `index` or past it. Can be dropped safely.
    pub async fn wait_for(&self, index: u64, timeout: Duration) -> Result<u64, NotReached> {
        let mut changes = self.index.subscribe();
        let wait = changes.wait_for(|reached| *reached >= index);
        match tokio::time::timeout(timeout, wait).await {
            Ok(Ok(reached)) => Ok(*reached),
            _ => Err(NotReached { wanted: index, reached: self.index() }),
        }
    }

    /// Runs `read` on the table of a service, if there is one. Lock-free; the table must not be kept
    /// past the call except by cloning the `Arc`.
    pub fn with_table<R>(
        &self,
        service: ServiceRef<'_>,
        read: impl FnOnce(&Arc<ServiceTable>) -> R,
    ) -> Option<R> {
        self.tables.pin().get(&service).map(read)
    }

    /// The name and the count of a registered service; outlives its tables.
    #[must_use]
    pub fn counter(&self, service: ServiceRef<'_>) -> Option<Arc<ServiceCounter>> {
        self.with_table(service, |table| Arc::clone(table.counter()))
    }

    /// The table of a service.
    #[must_use]
    pub fn table(&self, service: ServiceRef<'_>) -> Option<Arc<ServiceTable>> {
        self.with_table(service, Arc::clone)
    }

    /// The table of a service, if there is one, and the index of the state that this is the truth of.
    /// Tables are published before their state, so that one may be newer than [`Self::snapshot`].
    #[must_use]
    pub fn table_at(&self, key: &ServiceKey) -> (u64, Option<Arc<ServiceTable>>) {
        let snapshot = self.snapshot.load();
        let (state, index) = (&snapshot.state, snapshot.state.index());
        match (self.table(key.as_ref()), state.service(key)) {
            (Some(table), _) => (index.max(table.index()), Some(table)),
            (None, None) => (index, None),
            // Its removal is being published.
            (None, Some(service)) => {
                let surroundings = self.surroundings(state);
                let table = ServiceTable::build(key.clone(), service, surroundings, index, None);
                (index, Some(Arc::new(table)))
            }
        }
    }

    /// The changes as they happen.
    #[must_use]
    pub fn hub(&self) -> &WatchHub {
        &self.hub
    }
}
