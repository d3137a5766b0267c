//! The published state that requests read: snapshots, and a routing table for each service.
//!
//! Place in the flow: the backend's applier publishes here after each batch, before any caller gets a reply.
//! Discovery, the proxy, watches and the API's reads use it.
//!
//! **Invariant:** no reader waits for a writer. A look-up is a lock-free map access and one or two atomic
//! operations. No read holds a lock across an await, or allocates for each instance.

mod applied;
mod faults;
mod keys;
mod policy_changes;
mod sockets;
mod table;
mod table_key;
mod watch;
mod work;
mod write_record;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::DefaultHashBuilder;
use imbl::OrdSet;
use tokio::sync::watch as watch_channel;

use maxine_clock::Clock;
use maxine_state::{ControlState, Event, Name, ServiceKey, ServiceRef};

use applied::AppliedLog;
pub use applied::Applying;
use keys::KvHub;
pub use keys::{KvReader, KvScope};
pub use policy_changes::PolicyChange;
use policy_changes::PolicyChanges;
pub use sockets::{Host, Socket, SocketSet};
use table::TableContext;
pub use table::{Endpoint, Load, ServiceCounter, ServiceTable, is_listed};
use table_key::TableKey;
pub use watch::{Compacted, WatchHub, WatchScope, Watcher, WatcherLost};
use work::WorkLog;
pub use work::{Work, WorkFact, WorkKind, WorkOutcome, Working};
pub use write_record::{WriteRecord, WriteStages};

/// A published state.
#[derive(Debug)]
pub struct Snapshot {
    /// The state.
    pub state: ControlState,
    /// When it was published on this node, in milliseconds on the monotonic clock.
    pub published_at_ms: u64,
}

/// The reason why a node without a state refuses to answer: it would report that nothing exists.
pub const NO_STATE: &str = "this node has no state yet: since it started it has not received one from its cluster or its store";

impl Snapshot {
    /// Whether this node has received the state of a cluster, which begins with its history. Without one it
    /// must not answer that something does not exist.
    #[must_use]
    pub fn has_state(&self) -> bool {
        self.state.history().is_some()
    }

    /// The index of the state; `None` without a state.
    #[must_use]
    pub fn index(&self) -> Option<u64> {
        self.has_state().then(|| self.state.index())
    }
}

/// The error of a wait for an index that was not reached in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node has not reached index {wanted} yet; it is at {reached}")]
pub struct NotReached {
    /// The index that was requested.
    pub wanted: u64,
    /// The index that this node has reached.
    pub reached: u64,
}

/// The services whose names are one name in lower case, and are written otherwise.
#[derive(Clone, Debug, Default)]
struct MixedCase {
    /// Sorted. A copy shares its content, so thousands of such names cost no more than others.
    names: OrdSet<Name>,
    /// The index at which one of the services with the name, in whatever case, last left; 0 if none did.
    left_index: u64,
}

/// The services whose names differ only in upper and lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spellings {
    /// The services: names with upper-case letters come first, in byte order, and the lower-case name comes last.
    pub keys: Vec<ServiceKey>,
    /// The index at which another one of them last left, as far as this node remembers; else 0. A reader of all
    /// of them sees a change there, although none of the others has changed.
    pub left_index: u64,
}

/// The published state of this node.
#[derive(Debug)]
pub struct View {
    clock: Clock,
    /// The zone in which this node runs.
    zone: Option<String>,
    snapshot: ArcSwap<Snapshot>,
    tables: papaya::HashMap<TableKey, Arc<ServiceTable>, DefaultHashBuilder>,
    /// The services whose names contain upper-case letters (or other characters that change in lower case),
    /// by the lower-case form of the name. A name has an entry from the first such service until all services
    /// with the name are gone.
    mixed_case: papaya::HashMap<TableKey, MixedCase, DefaultHashBuilder>,
    index: watch_channel::Sender<u64>,
    hub: WatchHub,
    applied: AppliedLog,
    work: WorkLog,
    policy_changes: PolicyChanges,
    kv_hub: KvHub,
}

impl View {
    /// A view of an empty state.
    #[must_use]
    pub fn new(clock: Clock) -> Arc<Self> {
        Self::in_zone(clock, None)
    }

    /// A view of an empty state, for a node in a zone.
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
            applied: AppliedLog::default(),
            work: WorkLog::default(),
            policy_changes: PolicyChanges::default(),
            kv_hub: KvHub::new(),
        })
    }

    /// The zone in which this node runs.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Notes that the applier begins to apply entries to a state with this index.
    #[must_use]
    pub fn begin_apply(&self, index: u64) -> Applying {
        Applying { after: index, began_us: self.clock.monotonic_us() }
    }

    /// Notes that the entries were applied and published.
    pub fn end_apply(&self, applying: Applying, index: u64) {
        self.applied.push(applying, index, self.clock.monotonic_us());
    }

    /// When this node began to apply the entries that led to an index, and when the result was published, in
    /// microseconds on the monotonic clock. `None` if that was too long ago, or not on this node.
    #[must_use]
    pub fn applied_at(&self, index: u64) -> Option<(u64, u64)> {
        self.applied.find(index)
    }

    /// Passes a record of each work that ends from now on to `sink`, which must not block. Only the first call has an
    /// effect.
    pub fn take_work(&self, sink: impl Fn(Work) + Send + Sync + 'static) {
        self.work.take(sink);
    }

    /// Notes that this node begins work apart from answering requests. `None` if nobody takes the records.
    #[must_use]
    pub fn begin_work(&self, kind: WorkKind) -> Option<Working> {
        self.work.begin(kind, &self.clock)
    }

    /// Notes that work has ended. Without `working` nothing happens, and the outcome is not asked for.
    pub fn end_work(&self, working: Option<Working>, outcome: impl FnOnce() -> WorkOutcome) {
        self.work.end(working, &self.clock, outcome, |index| self.applied_at(index));
    }

    /// Publishes the state after a batch. Only the applier calls this, in order.
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
        if before.state.history() != state.history() {
            self.hub.begin(state.history());
            self.policy_changes.clear();
        }
        drop(before);
        self.policy_changes.note(events);
        self.store(state);
        self.hub.publish(events, state.index());
        self.kv_hub.publish(state, events);
    }

    /// Replaces the whole state, after a snapshot was installed or a new history began. All watchers end and
    /// have to start again.
    pub fn reset(&self, state: &ControlState) {
        // The revisions of another history mean other changes.
        if self.with_snapshot(|before| before.state.history() != state.history()) {
            self.policy_changes.clear();
        }
        self.rebuild_tables(state);
        self.store(state);
        self.hub.reset(state.index(), state.history());
        self.kv_hub.reset();
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
                    self.leave_mixed_case(key, state.index());
                }
            }
            Some(service) => {
                let previous = tables.get(&key.as_ref());
                if previous.is_none() {
                    self.join_mixed_case(key);
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

    /// Adds a new service to the index of mixed-case names. Does nothing if the name is in lower case.
    fn join_mixed_case(&self, key: &ServiceKey) {
        let lower = key.service.as_str().to_lowercase();
        if lower == key.service.as_str() {
            return;
        }
        let lower = ServiceRef { namespace: key.namespace.as_str(), service: &lower };
        let mixed_case = self.mixed_case.pin();
        let mut known = mixed_case.get(&lower).cloned().unwrap_or_default();
        known.names.insert(key.service.clone());
        mixed_case.insert(TableKey::of(lower), known);
    }

    /// Removes a service that left at `index`, and whose table is removed already, from the index of mixed-case names.
    fn leave_mixed_case(&self, key: &ServiceKey, index: u64) {
        let lower = key.service.as_str().to_lowercase();
        let lower = ServiceRef { namespace: key.namespace.as_str(), service: &lower };
        let mixed_case = self.mixed_case.pin();
        // Most names have no entry, because they are in lower case.
        let Some(mut known) = mixed_case.get(&lower).cloned() else { return };
        known.names.remove(&key.service);
        known.left_index = index;
        if known.names.is_empty() && self.table(lower).is_none() {
            mixed_case.remove(&lower);
        } else {
            mixed_case.insert(TableKey::of(lower), known);
        }
    }

    fn surroundings<'a>(&'a self, state: &'a ControlState) -> TableContext<'a> {
        TableContext { config: &state.config().config, zone: self.zone.as_deref() }
    }

    /// The present state.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Waits until this node has received a state.
    pub async fn has_state(&self) {
        let mut index = self.index.subscribe();
        // It fails only when the view is dropped, and then nobody waits.
        let _ = index.wait_for(|_| self.with_snapshot(Snapshot::has_state)).await;
    }

    /// Calls `read` with the present state.
    pub fn with_snapshot<R>(&self, read: impl FnOnce(&Snapshot) -> R) -> R {
        read(&self.snapshot.load())
    }

    /// The index of the present state.
    #[must_use]
    pub fn index(&self) -> u64 {
        *self.index.borrow()
    }

    /// A receiver that follows the index.
    #[must_use]
    pub fn index_changes(&self) -> watch_channel::Receiver<u64> {
        self.index.subscribe()
    }

    /// Waits until the state on this node has reached `index`. The future can be dropped safely.
    pub async fn wait_for(&self, index: u64, timeout: Duration) -> Result<u64, NotReached> {
        let mut changes = self.index.subscribe();
        let wait = changes.wait_for(|reached| *reached >= index);
        match tokio::time::timeout(timeout, wait).await {
            Ok(Ok(reached)) => Ok(*reached),
            _ => Err(NotReached { wanted: index, reached: self.index() }),
        }
    }

    /// Calls `read` with the table of a service, if it exists. Lock-free. To keep the table after the call,
    /// clone the `Arc`.
    pub fn with_table<R>(
        &self,
        service: ServiceRef<'_>,
        read: impl FnOnce(&Arc<ServiceTable>) -> R,
    ) -> Option<R> {
        self.tables.pin().get(&service).map(read)
    }

    /// The name and the look-up counter of a registered service. It stays the same when the table is
    /// replaced.
    #[must_use]
    pub fn counter(&self, service: ServiceRef<'_>) -> Option<Arc<ServiceCounter>> {
        self.with_table(service, |table| Arc::clone(table.counter()))
    }

    /// The table of a service.
    #[must_use]
    pub fn table(&self, service: ServiceRef<'_>) -> Option<Arc<ServiceTable>> {
        self.with_table(service, Arc::clone)
    }

    /// The table of the service with this name. If there is none, the table of a service whose name differs
    /// only in upper and lower case. If there are several, names with upper-case letters come first, in byte
    /// order, and the lower-case name comes last.
    #[must_use]
    pub fn find_ignoring_case(&self, service: ServiceRef<'_>) -> Option<Arc<ServiceTable>> {
        self.table(service).or_else(|| {
            let namespace = service.namespace;
            let lower = service.service.to_lowercase();
            let lower = ServiceRef { namespace, service: &lower };
            let mixed_case = self.mixed_case.pin();
            let mut names = mixed_case.get(&lower).into_iter().flat_map(|known| known.names.iter());
            let of = |name: &Name| self.table(ServiceRef { namespace, service: name.as_str() });
            names.find_map(of).or_else(|| self.table(lower))
        })
    }

    /// The services with this name in whatever case. They are newer than a snapshot that was taken before.
    #[must_use]
    pub fn spellings(&self, service: ServiceRef<'_>) -> Spellings {
        let namespace = service.namespace;
        let lower = service.service.to_lowercase();
        let lower = ServiceRef { namespace, service: &lower };
        let key = |service: ServiceRef<'_>| self.with_table(service, |table| table.key().clone());
        let mixed_case = self.mixed_case.pin();
        let Some(known) = mixed_case.get(&lower) else {
            return Spellings { keys: key(lower).into_iter().collect(), left_index: 0 };
        };
        let mixed = known.names.iter().map(|name| ServiceRef { namespace, service: name.as_str() });
        let keys = mixed.chain([lower]).filter_map(key).collect();
        Spellings { keys, left_index: known.left_index }
    }

    /// The table of a service, if it exists, and an index at which this answer is true. Tables are published
    /// before their state, so a table may be newer than [`Self::snapshot`].
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

    /// The changes of a service's policy that this node remembers, oldest first.
    #[must_use]
    pub fn policy_changes(&self, key: &ServiceKey) -> Vec<PolicyChange> {
        self.policy_changes.of(key)
    }

    /// The readers that wait for keys and lock sessions.
    fn kv_hub(&self) -> &KvHub {
        &self.kv_hub
    }

    /// The hub of the changes for watchers.
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
        /// Sets or removes the policy of a service. The service exists exactly while it has a policy.
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

    /// A reader of all spellings would otherwise miss that one of them has left.
    #[test]
    fn all_spellings_of_a_name_are_found_and_the_index_at_which_one_left() {
        let view = View::new(Clock::system());
        let mut world = Published { state: ControlState::default(), view, requests: 0 };
        let found = |world: &Published| {
            let wanted = ServiceRef { namespace: "default", service: "ORDERS" };
            let Spellings { keys, left_index } = world.view.spellings(wanted);
            let names: Vec<_> = keys.iter().map(|key| key.service.to_string()).collect();
            (names.join(" "), left_index)
        };
        assert_eq!(found(&world), (String::new(), 0));
        world.set("orders", true);
        assert_eq!(found(&world), ("orders".into(), 0));
        world.set("other", true);
        world.set("other", false);
        world.set("oRders", true);
        world.set("Orders", true);
        assert_eq!(found(&world), ("Orders oRders orders".into(), 0));
        world.set("Orders", false);
        let left_index = world.state.index();
        assert_eq!(found(&world), ("oRders orders".into(), left_index));
        world.set("oRders", false);
        assert!(world.state.index() > left_index);
        assert_eq!(found(&world), ("orders".into(), world.state.index()));
        world.set("Orders", true);
        world.set("orders", false);
        assert_eq!(found(&world), ("Orders".into(), world.state.index()));
        world.set("Orders", false);
        assert_eq!(found(&world), (String::new(), 0));
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
        world.set("orders", false);
        assert!(world.view.mixed_case.is_empty());
        world.set("orders", true);
        world.set("\u{00dc}BER", true);
        assert_eq!(world.find("\u{00fc}ber"), found("\u{00dc}BER"));
        for variant in 0..2_000_u32 {
            let bit = |(at, letter): (usize, char)| match variant >> at & 1 {
                0 => letter,
                _ => letter.to_ascii_uppercase(),
            };
            world.set(&"abcdefghijk".chars().enumerate().map(bit).collect::<String>(), true);
        }
        assert_eq!(world.find("ABCDEFGHIJK"), found("ABCDEFGHIJk"));
        world.view.reset(&ControlState::default());
        assert_eq!((world.find("ORDERS"), world.find("\u{00fc}ber")), (None, None));
        assert!(world.view.mixed_case.is_empty());
    }
}
