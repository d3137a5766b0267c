//! The routing table of one service: its endpoints, prepared for choosing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use maxine_balance::{
    Balancer, Draw, HashInput, HashSource, Member, Narrowings, Pick, Plan, Pool, Strategy,
    VersionWeight, Zones,
};

use maxine_state::{
    HashKey, Instance, Liveness, Name, RuntimeConfig, SelectionStrategy, ServiceKey, ServicePolicy,
    ServiceState, StickyPolicy,
};

use crate::sockets::{Socket, SocketSet, Sockets};

/// The counters of an endpoint. They are kept when the table is rebuilt.
#[derive(Debug, Default)]
pub struct Load {
    /// Number of requests from this node that are in flight to the endpoint.
    pub in_flight: AtomicU64,
}

/// The name of a service and its look-up counter. All tables of the service share it, so round robin
/// continues when a table is replaced.
#[derive(Debug)]
pub struct ServiceCounter {
    /// The service.
    pub key: ServiceKey,
    /// Number of look-ups by round robin.
    lookups: AtomicU64,
}

impl ServiceCounter {
    /// A counter for a service without look-ups.
    #[must_use]
    pub fn new(key: ServiceKey) -> Arc<Self> {
        Arc::new(Self { key, lookups: AtomicU64::new(0) })
    }
}

/// One instance that gets traffic.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its counters on this node.
    pub load: Arc<Load>,
}

/// The values outside the service that a table depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableContext<'a> {
    pub(super) config: &'a RuntimeConfig,
    /// The zone in which this node runs.
    pub(super) zone: Option<&'a str>,
}

/// The routing table of a service. It is immutable, apart from its counters, and is always replaced as a
/// whole.
#[derive(Debug)]
pub struct ServiceTable {
    counter: Arc<ServiceCounter>,
    /// The instances that get traffic, in the order of their ids.
    endpoints: Vec<Endpoint>,
    policy: Option<Arc<maxine_state::PolicyRecord>>,
    strategy: SelectionStrategy,
    balancer: Balancer,
    /// Whether the service is in panic mode: so many instances are unhealthy that all get traffic.
    panic_mode: bool,
    /// The index of the state from which the table was built.
    index: u64,
    /// Made when it is first used: most tables never need it.
    sockets: OnceLock<Box<Sockets>>,
}

impl ServiceTable {
    pub(super) fn build(
        key: ServiceKey,
        service: &ServiceState,
        surroundings: TableContext<'_>,
        index: u64,
        previous: Option<&Self>,
    ) -> Self {
        let in_traffic = service.in_traffic();
        let mut old = previous.map_or(&[][..], |table| &table.endpoints).iter().peekable();
        let mut endpoints = Vec::new();
        for (id, instance) in &service.instances {
            if !in_traffic.has(instance) {
                continue;
            }
            // Both lists are sorted by id, so one pass finds the counters to keep.
            while old.next_if(|e| e.instance.registration.id < *id).is_some() {}
            let load = old
                .next_if(|e| e.instance.registration.id == *id)
                .map_or_else(Arc::default, |e| Arc::clone(&e.load));
            endpoints.push(Endpoint { instance: Arc::clone(instance), load });
        }
        let policy = service.policy.clone();
        let strategy = policy
            .as_ref()
            .and_then(|record| record.policy.selection.strategy)
            .unwrap_or(surroundings.config.selection_strategy);
        let counter =
            previous.map_or_else(|| ServiceCounter::new(key), |table| Arc::clone(&table.counter));
        let turns = counter.lookups.load(Ordering::Relaxed);
        let policy_now = policy.as_ref().map(|record| &record.policy);
        let balancer = balancer(strategy, policy_now, surroundings.zone, &endpoints, turns);
        let panic_mode = in_traffic.panic_mode();
        let sockets = OnceLock::new();
        Self { counter, endpoints, policy, strategy, balancer, panic_mode, index, sockets }
    }

    /// The service.
    #[must_use]
    pub fn key(&self) -> &ServiceKey {
        &self.counter.key
    }

    /// The index of the state from which the table was built. Until the service changes again, later states
    /// have the same table.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The counter of the service, which stays the same when tables are replaced.
    #[must_use]
    pub fn counter(&self) -> &Arc<ServiceCounter> {
        &self.counter
    }

    /// The instances that get traffic, in the order of their ids.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Where each endpoint listens, in the order of [`Self::endpoints`].
    #[must_use]
    pub fn sockets(&self) -> &[Socket] {
        &self.all_sockets().each
    }

    /// Where the endpoints listen, without repetition.
    #[must_use]
    pub fn socket_set(&self) -> &SocketSet {
        &self.all_sockets().set
    }

    fn all_sockets(&self) -> &Sockets {
        let registrations = self.endpoints.iter().map(|endpoint| &endpoint.instance.registration);
        self.sockets.get_or_init(|| Box::new(Sockets::of(registrations)))
    }

    /// The service's policy, if one is set.
    #[must_use]
    pub fn policy(&self) -> Option<&ServicePolicy> {
        self.policy.as_ref().map(|record| &record.policy)
    }

    /// The strategy that is used.
    #[must_use]
    pub fn strategy(&self) -> SelectionStrategy {
        self.strategy
    }

    /// Whether the strategy chooses by the caller's hash.
    #[must_use]
    pub fn strategy_hashes(&self) -> bool {
        strategy(self.strategy).hashes()
    }

    /// Whether the service is in panic mode: more instances are unhealthy than the policy's threshold, so all
    /// get traffic.
    #[must_use]
    pub fn in_panic_mode(&self) -> bool {
        self.panic_mode
    }

    /// Number of look-ups by round robin.
    #[must_use]
    pub fn lookups(&self) -> u64 {
        self.counter.lookups.load(Ordering::Relaxed)
    }

    /// The endpoint of an instance, if the instance gets traffic.
    #[must_use]
    pub fn endpoint(&self, instance: &Name) -> Option<&Endpoint> {
        let found = self.endpoints.binary_search_by(|e| e.instance.registration.id.cmp(instance));
        found.ok().map(|at| &self.endpoints[at])
    }

    /// The draw for a request, as the policy defines it. Every way to choose an instance uses it.
    #[must_use]
    pub fn draw(&self, input: &HashInput<'_>, random: u64) -> Draw {
        let policy = self.policy();
        let source = || match policy.map_or(&HashKey::ClientAddress, |p| &p.selection.hash_key) {
            HashKey::ClientAddress => HashSource::ClientAddress,
            HashKey::Header(name) => HashSource::Header(name),
            HashKey::Query(name) => HashSource::Query(name),
        };
        let hash = if self.strategy_hashes() { input.hash(source()) } else { <_>::default() };
        let affinity = policy.and_then(affinity_header).and_then(|name| input.field_hash(name));
        Draw { hash, affinity, random }
    }

    /// Chooses an endpoint; `None` if none gets traffic.
    #[must_use]
    pub fn select(&self, draw: &Draw) -> Option<Pick> {
        self.select_from(draw, &Endpoints(&self.endpoints))
    }

    /// The choice that [`Self::select`] would make now, and how the endpoints were narrowed. It uses up no turn.
    #[must_use]
    pub fn explain(&self, draw: &Draw) -> (Option<Pick>, Narrowings) {
        self.explain_from(draw, &Endpoints(&self.endpoints))
    }

    /// The same for [`Self::select_from`].
    #[must_use]
    pub fn explain_from(&self, draw: &Draw, pool: &impl Pool) -> (Option<Pick>, Narrowings) {
        self.balancer.explain(draw, &self.counter.lookups, pool)
    }

    /// Chooses among the endpoints that the pool admits. Positions are those in [`Self::endpoints`].
    #[must_use]
    pub fn select_from(&self, draw: &Draw, pool: &impl Pool) -> Option<Pick> {
        self.balancer.pick(draw, &self.counter.lookups, pool)
    }
}

/// The endpoints as a pool for the balancer.
struct Endpoints<'a>(&'a [Endpoint]);

impl Pool for Endpoints<'_> {
    fn in_flight(&self, position: usize) -> u64 {
        self.0[position].load.in_flight.load(Ordering::Relaxed)
    }
}

fn balancer(
    selected: SelectionStrategy,
    policy: Option<&ServicePolicy>,
    own_zone: Option<&str>,
    endpoints: &[Endpoint],
    turns: u64,
) -> Balancer {
    let traffic = policy.map(|policy| &policy.traffic);
    let split: Vec<VersionWeight<'_>> = traffic
        .map_or(&[][..], |traffic| &traffic.split)
        .iter()
        .map(|share| VersionWeight { version: share.version.as_str(), weight: share.weight })
        .collect();
    let zone = traffic.and_then(|traffic| traffic.zone).zip(own_zone).map(|(zone, own)| Zones {
        own,
        members_min: zone.local_instances_min,
        in_flight_max: zone.spill_in_flight,
    });
    let plan = Plan {
        strategy: strategy(selected),
        split: &split,
        zone,
        affinity: policy.and_then(affinity_header).is_some(),
    };
    let members: Vec<Member<'_>> = endpoints.iter().map(member).collect();
    Balancer::new(&plan, &members, turns)
}

fn member(endpoint: &Endpoint) -> Member<'_> {
    let registration = &endpoint.instance.registration;
    Member {
        name: registration.id.as_str(),
        weight: registration.weight,
        version: registration.version.as_ref().map(Name::as_str),
        zone: registration.zone.as_ref().map(Name::as_str),
    }
}

fn strategy(selected: SelectionStrategy) -> Strategy {
    match selected {
        SelectionStrategy::RoundRobin => Strategy::RoundRobin,
        SelectionStrategy::ConsistentHash => Strategy::ConsistentHash,
        SelectionStrategy::Rendezvous => Strategy::Rendezvous,
        SelectionStrategy::LeastRequest => Strategy::LeastRequest,
    }
}

/// The header whose value ties a caller to one instance.
fn affinity_header(policy: &ServicePolicy) -> Option<&str> {
    match policy.traffic.sticky.as_ref()? {
        StickyPolicy::Header { name } => Some(name),
        StickyPolicy::Cookie { .. } => None,
    }
}

/// Whether an instance is listed. Evicted instances are not listed, but they are still probed.
#[must_use]
pub fn is_listed(instance: &Instance) -> bool {
    instance.health().liveness == Liveness::Alive
}
