//! One service as those who route see it: its endpoints, ready to choose from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use super::selection;
use maxine_state::{
    HashKey, Instance, Liveness, Name, RuntimeConfig, SelectionStrategy, ServiceKey, ServicePolicy,
    ServiceState, VersionShare,
};

/// An odd number without a pattern: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Counters of one endpoint that live on while the table around it is rebuilt.
#[derive(Debug, Default)]
pub struct Load {
    /// Requests that this node has under way to it.
    pub in_flight: AtomicU64,
}

/// A service as it is looked up: its name, and how often. Shared by its tables one after the other, so that a
/// change of membership or a heartbeat does not start the round again.
#[derive(Debug)]
pub struct ServiceCounter {
    /// The service.
    pub key: ServiceKey,
    /// Round-robin look-ups so far.
    lookups: AtomicU64,
}

/// One instance that gets traffic.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its counters on this node.
    pub load: Arc<Load>,
}

/// What a choice may depend on.
#[derive(Clone, Copy, Debug)]
pub struct SelectionKey<'a> {
    /// The hash key of the strategies that hash.
    pub hash: &'a [u8],
    /// A random number, for the strategies that draw.
    pub random: u64,
}

/// A chosen endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Selected<'a> {
    /// Which one.
    pub endpoint: &'a Endpoint,
    /// Where it stands in [`ServiceTable::endpoints`].
    pub position: usize,
    /// Which of the instance's `weight` shares this turn was, from 0.
    pub share: u32,
}

#[derive(Debug)]
enum Chooser {
    /// Round robin where all weights are alike.
    InTurn,
    RoundRobin {
        cycle: Vec<(u32, u32)>,
    },
    ConsistentHash {
        ring: Vec<(u64, u32)>,
    },
    Rendezvous {
        seeds: Vec<(u64, u16)>,
    },
    LeastRequest,
}

/// The endpoints of one version, which get a share of the traffic.
#[derive(Debug)]
struct VersionGroup {
    weight: u32,
    /// Their places in [`ServiceTable::endpoints`].
    positions: Vec<u32>,
    chooser: Chooser,
    turns: AtomicU64,
}

/// A service's routing table. Immutable but for its counters; replaced whole.
#[derive(Debug)]
pub struct ServiceTable {
    counter: Arc<ServiceCounter>,
    /// The instances that get traffic, in the order of their ids.
    endpoints: Vec<Endpoint>,
    policy: Option<Arc<maxine_state::PolicyRecord>>,
    strategy: SelectionStrategy,
    chooser: Chooser,
    /// Where the policy splits the traffic by version: what is chosen from instead of all.
    split: Vec<VersionGroup>,
    /// Whether so many are unhealthy that all are used.
    panics: bool,
    /// The index of the state that it was built from.
    index: u64,
}

impl ServiceTable {
    pub(super) fn build(
        key: ServiceKey,
        service: &ServiceState,
        config: &RuntimeConfig,
        index: u64,
        previous: Option<&Self>,
    ) -> Self {
        let panics = service.in_panic_mode();
        let mut old = previous.map_or(&[][..], |table| &table.endpoints).iter().peekable();
        let mut endpoints = Vec::new();
        for (id, instance) in &service.instances {
            let used =
                if panics { service.is_undrained(instance) } else { service.is_routable(instance) };
            if !used {
                continue;
            }
            // Both lists are in the order of the ids, so one pass finds the counters to keep.
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
            .unwrap_or(config.selection_strategy);
        let chooser = Chooser::new(strategy, &endpoints);
        let shares = policy.as_ref().map_or(&[][..], |record| &record.policy.traffic.split);
        let split = version_groups(shares, strategy, &endpoints);
        let counter = previous.map_or_else(
            || Arc::new(ServiceCounter { key, lookups: AtomicU64::new(0) }),
            |table| Arc::clone(&table.counter),
        );
        Self { counter, endpoints, policy, strategy, chooser, split, panics, index }
    }

    /// The service.
    #[must_use]
    pub fn key(&self) -> &ServiceKey {
        &self.counter.key
    }

    /// The index of the state that it was built from. Until the service changes again, every later
    /// state has the same table.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// What stays of the service while its tables change.
    #[must_use]
    pub fn counter(&self) -> &Arc<ServiceCounter> {
        &self.counter
    }

    /// The instances that get traffic, in the order of their ids.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The service's policy, if one is set.
    #[must_use]
    pub fn policy(&self) -> Option<&ServicePolicy> {
        self.policy.as_ref().map(|record| &record.policy)
    }

    /// The strategy in force.
    #[must_use]
    pub fn strategy(&self) -> SelectionStrategy {
        self.strategy
    }

    /// What the strategy hashes, where it hashes.
    #[must_use]
    pub fn hash_key(&self) -> Option<&HashKey> {
        let hashes = matches!(
            self.strategy,
            SelectionStrategy::ConsistentHash | SelectionStrategy::Rendezvous
        );
        hashes.then(|| self.policy().map_or(&HashKey::ClientAddress, |p| &p.selection.hash_key))
    }

    /// Whether more instances are unhealthy than the policy's panic threshold, so that all are used.
    #[must_use]
    pub fn in_panic_mode(&self) -> bool {
        self.panics
    }

    /// Round-robin look-ups so far.
    #[must_use]
    pub fn lookups(&self) -> u64 {
        self.counter.lookups.load(Ordering::Relaxed)
    }

    /// The endpoint of an instance, if it gets traffic.
    #[must_use]
    pub fn endpoint(&self, instance: &Name) -> Option<&Endpoint> {
        let found = self.endpoints.binary_search_by(|e| e.instance.registration.id.cmp(instance));
        found.ok().map(|at| &self.endpoints[at])
    }

    /// Chooses an endpoint; `None` where none gets traffic.
    #[must_use]
    pub fn select(&self, key: SelectionKey<'_>) -> Option<Selected<'_>> {
        if self.endpoints.is_empty() {
            return None;
        }
        let (position, share) = match self.version_group(key.random) {
            None => {
                let all = self.endpoints.len();
                self.choose(&self.chooser, key, all, |at| at, |len| self.turn_of(len))?
            }
            Some(group) => {
                self.counter.lookups.fetch_add(1, Ordering::Relaxed);
                // Another number than the one that drew the version.
                let key = SelectionKey { random: key.random.wrapping_mul(SPREAD), ..key };
                let place = |at: u32| group.positions[at as usize];
                let turn = |len: usize| {
                    let turn = group.turns.fetch_add(1, Ordering::Relaxed);
                    usize::try_from(turn % len as u64).unwrap_or(0)
                };
                self.choose(&group.chooser, key, group.positions.len(), place, turn)?
            }
        };
        let position = position as usize;
        Some(Selected { endpoint: &self.endpoints[position], position, share })
    }

    /// Chooses one of `len` endpoints; `place` says where each stands in the table, `turn` whose turn
    /// of so many it is. Answers with the place, and which of its shares this turn was.
    fn choose(
        &self,
        chooser: &Chooser,
        key: SelectionKey<'_>,
        len: usize,
        place: impl Fn(u32) -> u32,
        turn: impl FnOnce(usize) -> usize,
    ) -> Option<(u32, u32)> {
        let (at, share) = match chooser {
            Chooser::InTurn => (turn(len) as u32, 0),
            Chooser::RoundRobin { cycle } => cycle[turn(cycle.len())],
            Chooser::ConsistentHash { ring } => (selection::ring_owner(ring, key.hash)?, 0),
            Chooser::Rendezvous { seeds } => (selection::rendezvous_owner(seeds, key.hash)?, 0),
            Chooser::LeastRequest => {
                return Some((self.least_request(key.random, len as u64, place), 0));
            }
        };
        Some((place(at), share))
    }

    /// Draws a version by its share; `None` where the traffic is not split.
    fn version_group(&self, random: u64) -> Option<&VersionGroup> {
        if self.split.is_empty() {
            return None;
        }
        let total: u64 = self.split.iter().map(|group| u64::from(group.weight)).sum();
        let mut draw = ((random >> 32) * total) >> 32;
        self.split.iter().find(|group| {
            let here = draw < u64::from(group.weight);
            draw = draw.saturating_sub(u64::from(group.weight));
            here
        })
    }

    /// Whose turn of `len` it is.
    fn turn_of(&self, len: usize) -> usize {
        let turn = self.counter.lookups.fetch_add(1, Ordering::Relaxed);
        usize::try_from(turn % len as u64).unwrap_or(0)
    }

    fn least_request(&self, random: u64, len: u64, place: impl Fn(u32) -> u32) -> u32 {
        let first = random % len;
        // A second one that is never the first, so that two endpoints are always compared.
        let second = (first + 1 + (random >> 32) % (len - 1).max(1)) % len;
        let candidate = |at: u64| {
            let position = place(u32::try_from(at).unwrap_or(0));
            let endpoint = &self.endpoints[position as usize];
            let in_flight = endpoint.load.in_flight.load(Ordering::Relaxed);
            (position, in_flight, endpoint.instance.registration.weight)
        };
        selection::less_loaded(candidate(first), candidate(second))
    }
}

/// The versions that get a share and have endpoints; none where no version has any.
fn version_groups(
    shares: &[VersionShare],
    strategy: SelectionStrategy,
    endpoints: &[Endpoint],
) -> Vec<VersionGroup> {
    let group = |share: &VersionShare| {
        let is_of = |e: &Endpoint| e.instance.registration.version.as_ref() == Some(&share.version);
        let (positions, members): (Vec<u32>, Vec<Endpoint>) = (0_u32..)
            .zip(endpoints)
            .filter(|(_, endpoint)| is_of(endpoint))
            .map(|(position, endpoint)| (position, endpoint.clone()))
            .unzip();
        (!members.is_empty()).then(|| VersionGroup {
            weight: share.weight,
            positions,
            chooser: Chooser::new(strategy, &members),
            turns: AtomicU64::new(0),
        })
    };
    shares.iter().filter(|share| share.weight > 0).filter_map(group).collect()
}

impl Chooser {
    fn new(strategy: SelectionStrategy, endpoints: &[Endpoint]) -> Self {
        let named = || -> Vec<(&str, u16)> {
            let each = |e: &Endpoint| e.instance.registration.weight;
            endpoints.iter().map(|e| (e.instance.registration.id.as_str(), each(e))).collect()
        };
        match strategy {
            SelectionStrategy::RoundRobin => {
                let weights: Vec<u16> = named().iter().map(|(_, weight)| *weight).collect();
                if weights.windows(2).all(|pair| pair[0] == pair[1]) {
                    return Self::InTurn;
                }
                let mut seen = vec![0_u32; weights.len()];
                let number = |position: u32| {
                    let share = seen[position as usize];
                    seen[position as usize] += 1;
                    (position, share)
                };
                let cycle = selection::round_robin_cycle(&weights);
                Self::RoundRobin { cycle: cycle.into_iter().map(number).collect() }
            }
            SelectionStrategy::ConsistentHash => {
                Self::ConsistentHash { ring: selection::hash_ring(&named()) }
            }
            SelectionStrategy::Rendezvous => Self::Rendezvous {
                seeds: named().iter().map(|(n, w)| (xxh3_64(n.as_bytes()), *w)).collect(),
            },
            SelectionStrategy::LeastRequest => Self::LeastRequest,
        }
    }
}

/// Whether an instance is listed at all: those evicted are kept only to be watched on.
#[must_use]
pub fn is_listed(instance: &Instance) -> bool {
    instance.health.liveness == Liveness::Alive
}
