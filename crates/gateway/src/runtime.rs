//! What this node needs to call one service. It is rebuilt when the routing table is replaced, and keeps connections
//! and counters.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio_util::task::TaskTracker;

use super::compiled::CompiledPolicy;
use super::connect::Connector;
use super::limit::{Budget, ClientRates, Rate};
use super::pick::Picker;
use super::pool::Pool;
use super::target::UpstreamAddress;
use super::upstream::{Signals, Upstream};
use maxine_clock::Clock;
use maxine_state::{Instance, Name, ServicePolicy};
use maxine_view::{Endpoint, ServiceTable};

/// Counters of a service that survive the replacement of the routing table.
pub(crate) struct ServiceShared {
    pub(crate) retry_budget: Budget,
    pub(crate) hedge_budget: Budget,
    pub(crate) rate: Rate,
    client_rates: OnceLock<ClientRates>,
    pub(crate) mirrors_in_flight: AtomicU32,
    pub(crate) outliers_evaluated_at_ms: AtomicU64,
    /// Whether the policy had a circuit breaker or ejected outliers at the last tick.
    pub(crate) decides: AtomicBool,
}

impl ServiceShared {
    fn new() -> Self {
        Self {
            retry_budget: Budget::new(),
            hedge_budget: Budget::new(),
            rate: Rate::new(),
            client_rates: OnceLock::new(),
            mirrors_in_flight: AtomicU32::new(0),
            outliers_evaluated_at_ms: AtomicU64::new(0),
            decides: AtomicBool::new(false),
        }
    }

    pub(crate) fn client_rates(&self) -> &ClientRates {
        self.client_rates.get_or_init(ClientRates::new)
    }
}

/// One service, prepared for calls.
pub(crate) struct ServiceRuntime {
    pub(crate) table: Arc<ServiceTable>,
    pub(crate) policy: Arc<CompiledPolicy>,
    /// The instances, in the order of the table's endpoints.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    /// Instances that get no new requests but still have requests in flight.
    pub(crate) leaving: Vec<Arc<Upstream>>,
    pub(crate) picker: Picker,
    pub(crate) shared: Arc<ServiceShared>,
}

/// What is needed to build a runtime.
pub(crate) struct RuntimeParts<'a> {
    pub(crate) connector: &'a Connector,
    pub(crate) clock: &'a Clock,
    pub(crate) tasks: &'a TaskTracker,
}

impl ServiceRuntime {
    pub(crate) fn build(
        table: Arc<ServiceTable>,
        previous: Option<&Self>,
        parts: &RuntimeParts<'_>,
    ) -> Self {
        let default = ServicePolicy::default();
        let source = table.policy().unwrap_or(&default);
        let policy = previous
            .map(|runtime| &runtime.policy)
            .filter(|policy| policy.is_of(source))
            .map_or_else(|| Arc::new(CompiledPolicy::new(table.key(), source)), Arc::clone);
        // Both lists are sorted by id, so one pass finds the instances to keep.
        let mut old = previous.map_or(&[][..], |runtime| &runtime.upstreams).iter().peekable();
        let mut leaving: Vec<Arc<Upstream>> = previous
            .map_or(&[][..], |runtime| &runtime.leaving)
            .iter()
            .filter(|upstream| in_flight(upstream) > 0)
            .cloned()
            .collect();
        let mut upstreams = Vec::with_capacity(table.endpoints().len());
        for endpoint in table.endpoints() {
            let id = &endpoint.instance.registration.id;
            while let Some(gone) = old.next_if(|u| u.instance.registration.id < *id) {
                leaving.extend((in_flight(gone) > 0).then(|| Arc::clone(gone)));
            }
            let same = old.next_if(|u| u.instance.registration.id == *id);
            upstreams.push(upstream(endpoint, same, &policy, parts));
        }
        leaving.extend(old.filter(|gone| in_flight(gone) > 0).cloned());
        let picker = Picker::build(&upstreams, policy.sticky.is_some(), policy.latency_aware());
        let shared = previous
            .map_or_else(|| Arc::new(ServiceShared::new()), |runtime| Arc::clone(&runtime.shared));
        Self { table, policy, upstreams, leaving, picker, shared }
    }

    /// The number of this node's requests in flight to an instance. It includes requests that began before the instance
    /// left the table.
    pub(crate) fn in_flight_of(&self, instance: &Name) -> u64 {
        self.upstreams
            .iter()
            .chain(&self.leaving)
            .filter(|upstream| upstream.instance.registration.id == *instance)
            .map(|upstream| in_flight(upstream))
            .sum()
    }
}

fn in_flight(upstream: &Upstream) -> u64 {
    upstream.load.in_flight.load(Ordering::Relaxed)
}

fn upstream(
    endpoint: &Endpoint,
    same: Option<&Arc<Upstream>>,
    policy: &CompiledPolicy,
    parts: &RuntimeParts<'_>,
) -> Arc<Upstream> {
    let instance = &endpoint.instance;
    let ramp = ramp(instance, policy.slow_start_ms(), parts.clock);
    let same = same.filter(|u| u.instance.registration.address == instance.registration.address);
    if let Some(same) = same
        && Arc::ptr_eq(&same.instance, instance)
        && same.ramp.1 == ramp.1
        && same.pool.as_ref().is_some_and(|pool| *pool.settings() == policy.pool)
    {
        return Arc::clone(same);
    }
    let kept = same.and_then(|u| u.pool.as_ref()).filter(|pool| *pool.settings() == policy.pool);
    let pool = match kept {
        Some(pool) => Some(Arc::clone(pool)),
        None => UpstreamAddress::parse(&instance.registration.address).map(|address| {
            let (connector, clock) = (parts.connector.clone(), parts.clock.clone());
            Pool::new(address, policy.pool, connector, clock, parts.tasks.clone())
        }),
    };
    let signals =
        same.map_or_else(|| Arc::new(Signals::default()), |same| Arc::clone(&same.signals));
    let load = Arc::clone(&endpoint.load);
    Arc::new(Upstream::new(Arc::clone(instance), load, pool, signals, ramp))
}

/// When the slow start of a recovered instance ends, in milliseconds on the monotonic clock, and how long it takes in
/// total, in milliseconds. Both are 0 without a slow start.
fn ramp(instance: &Instance, slow_start_ms: u64, clock: &Clock) -> (u64, u64) {
    // Only the verdict on the probe matters. A report by the owner is not a recovery, so it starts no slow start.
    let since_ms = instance.health().since_ms;
    if slow_start_ms == 0 || since_ms == 0 {
        return (0, 0);
    }
    let left_ms = (since_ms + slow_start_ms).saturating_sub(clock.wall_ms()).min(slow_start_ms);
    if left_ms == 0 { (0, 0) } else { (clock.monotonic_ms() + left_ms, slow_start_ms) }
}
