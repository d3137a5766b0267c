//! The machines on which instances run, by name, and the owners of addresses.
//!
//! The view has a table for each service, but none for machines. This index is built from a whole state, so it is
//! built apart from the questions, and takes at most a small share of a processor. It can be older than the state.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hashbrown::HashMap;
use maxine_clock::Clock;
use maxine_state::{ControlState, Name, ServiceKey};
use maxine_view::{Host, Snapshot, View};

/// Minimum pause between two builds.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// A pause is at least so many times as long as the build before it.
const PAUSE_BUILDS: u32 = 20;

/// To whom an address belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AddressOwner {
    Node(Name),
    Service(ServiceKey),
}

/// Machines and addresses in one state.
#[derive(Debug, Default)]
pub(crate) struct NodeIndex {
    /// The distinct addresses of each machine, by its name in lower case. Its instances may have host names only.
    nodes: HashMap<Box<str>, Vec<IpAddr>>,
    owners: HashMap<IpAddr, AddressOwner>,
}

impl NodeIndex {
    fn of(state: &ControlState) -> Self {
        let mut index = Self::default();
        for (key, service) in state.services() {
            for instance in service.instances.values() {
                let registration = &instance.registration;
                let address = match Host::of(&registration.address) {
                    Host::V4(v4) => Some(v4.into()),
                    Host::V6(v6) => Some(v6.into()),
                    Host::Name(_) => None,
                };
                if let Some(node) = &registration.node {
                    let lower = node.as_str().to_ascii_lowercase().into_boxed_str();
                    index.nodes.entry(lower).or_default().extend(address);
                }
                let Some(address) = address else { continue };
                match &registration.node {
                    // A machine has priority over a service.
                    Some(node) => {
                        index.owners.insert(address, AddressOwner::Node(node.clone()));
                    }
                    None => {
                        let owner = || AddressOwner::Service(key.clone());
                        index.owners.entry(address).or_insert_with(owner);
                    }
                }
            }
        }
        for addresses in index.nodes.values_mut() {
            addresses.sort_unstable();
            addresses.dedup();
        }
        index
    }

    /// The addresses of a machine; `None` if no instance runs on such a machine.
    pub(crate) fn node(&self, lower: &str) -> Option<&[IpAddr]> {
        self.nodes.get(lower).map(Vec::as_slice)
    }

    /// To whom an address belongs.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&AddressOwner> {
        self.owners.get(&address)
    }
}

/// The present index; none before the first build.
#[derive(Debug, Default)]
pub(crate) struct Nodes(ArcSwapOption<NodeIndex>);

impl Nodes {
    pub(crate) fn load(&self) -> Option<Arc<NodeIndex>> {
        self.0.load_full()
    }

    /// Builds the index of the view's present state, if there is one.
    pub(crate) fn build(&self, snapshot: &Snapshot) {
        if snapshot.has_state() {
            self.0.store(Some(Arc::new(NodeIndex::of(&snapshot.state))));
        }
    }

    /// Keeps the index up to date until the future is dropped.
    pub(crate) async fn follow(self: Arc<Self>, view: Arc<View>, clock: Clock) {
        let mut changes = view.index_changes();
        loop {
            changes.mark_unchanged();
            let (nodes, snapshot) = (Arc::clone(&self), view.snapshot());
            let begun_ms = clock.monotonic_ms();
            let built = tokio::task::spawn_blocking(move || nodes.build(&snapshot)).await;
            if let Err(error) = built {
                tracing::warn!(%error, "the names of machines for DNS could not be collected");
            }
            let took = Duration::from_millis(clock.monotonic_ms().saturating_sub(begun_ms));
            tokio::time::sleep(PAUSE_MIN.max(took * PAUSE_BUILDS)).await;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
