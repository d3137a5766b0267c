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
use maxine_state::{ControlState, Event, Name, ServiceKey, ServiceRef};

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

/// Why a node that has no state yet refuses to answer: to it, everything would seem not to exist.
pub const NO_STATE: &str = "this node has no state yet: since it started it has not received one from its cluster or its store";

impl Snapshot {
    /// Whether there is a state at all. A node that has not received one yet must not say that something does
    /// not exist.
    #[must_use]
    pub fn has_state(&self) -> bool {
        self.state.index() > 0
    }
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
    /// The services whose names have other than lower-case letters, sorted, by the lower-case form of the name. Other
    /// services take no place here.
    mixed_case: papaya::HashMap<TableKey, Arc<[Name]>, DefaultHashBuilder>,
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
            mixed_case: papaya::HashMap::with_hasher(DefaultHashBuilder::default()),
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
                if tables.remove(&key.as_ref()).is_some() {
                    self.set_mixed_case(key, false);
                }
            }
            Some(service) => {
                let previous = tables.get(&key.as_ref());
                if previous.is_none() {
                    self.set_mixed_case(key, true);
                }
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

    /// Notes that a service exists, or does not exist any more, if its name has other than lower-case letters.
    fn set_mixed_case(&self, key: &ServiceKey, exists: bool) {
        let lower = key.service.as_str().to_lowercase();
        if lower == key.service.as_str() {
            return;
        }
        let lower = ServiceRef { namespace: key.namespace.as_str(), service: &lower };
        let mixed_case = self.mixed_case.pin();
        let known = mixed_case.get(&lower).map_or(&[][..], |names| names);
        let mut names: Vec<Name> = known.iter().filter(|n| **n != key.service).cloned().collect();
        names.extend(exists.then(|| key.service.clone()));
        names.sort();
        if names.is_empty() {
            mixed_case.remove(&lower);
        } else {
            mixed_case.insert(TableKey::of(lower), names.into());
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

    /// The table of the service with this name, or else of one whose name differs from it in upper and lower case only:
    /// of several with other than lower-case letters the first in the order of their bytes, then the one in lower case.
    #[must_use]
    pub fn find_ignoring_case(&self, service: ServiceRef<'_>) -> Option<Arc<ServiceTable>> {
        self.table(service).or_else(|| {
            let namespace = service.namespace;
            let lower = service.service.to_lowercase();
            let lower = ServiceRef { namespace, service: &lower };
            let mixed_case = self.mixed_case.pin();
            let mut names = mixed_case.get(&lower).into_iter().flat_map(|names| names.iter());
            let of = |name: &Name| self.table(ServiceRef { namespace, service: name.as_str() });
            names.find_map(of).or_else(|| self.table(lower))
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{Actor, Command, Proposal, RequestId, ServicePolicy};

    struct Published {
        state: ControlState,
        view: Arc<View>,
        requests: u128,
    }

    impl Published {
        /// Sets the policy of a service, or takes it away; the service is there exactly while it has one.
        fn set(&mut self, service: &str, exists: bool) {
            self.requests += 1;
            let command = Command::PutPolicy {
                key: ServiceKey::new(Name::trusted("default"), Name::trusted(service)),
                policy: exists.then(|| Box::new(ServicePolicy::default())),
                expected_revision: None,
                create: true,
            };
            let proposal = Proposal {
                request_id: RequestId(self.requests),
                proposed_at_ms: 0,
                fence: None,
                actor: Actor::system("test"),
                command,
            };
            let mut events = Vec::new();
            self.state.apply(&proposal, &mut events);
            self.view.publish(&self.state, &events);
        }

        fn find(&self, service: &str) -> Option<String> {
            let wanted = ServiceRef { namespace: "default", service };
            let found = self.view.find_ignoring_case(wanted)?;
            Some(found.key().service.to_string())
        }
    }

    #[test]
    fn a_service_is_found_without_regard_to_case_and_always_the_same_one() {
        let view = View::new(Clock::system());
        let mut world = Published { state: ControlState::default(), view, requests: 0 };
        let found = |name: &str| Some(name.to_owned());
        world.set("orders", true);
        assert_eq!(world.find("ORDERS"), found("orders"));
        assert!(world.view.mixed_case.is_empty(), "a name in lower case takes no place");
        world.set("oRders", true);
        world.set("Orders", true);
        assert_eq!(world.find("orders"), found("orders"), "the exact name comes first");
        assert_eq!(world.find("oRders"), found("oRders"));
        assert_eq!(world.find("ORDERS"), found("Orders"));
        world.set("Orders", false);
        assert_eq!(world.find("ORDERS"), found("oRders"));
        world.set("oRders", false);
        assert_eq!(world.find("ORDERS"), found("orders"));
        assert!(world.view.mixed_case.is_empty());
        world.set("\u{00dc}BER", true);
        assert_eq!(world.find("\u{00fc}ber"), found("\u{00dc}BER"));
        world.view.reset(&ControlState::default());
        assert_eq!((world.find("ORDERS"), world.find("\u{00fc}ber")), (None, None));
        assert!(world.view.mixed_case.is_empty());
    }
}
