//! The data plane: forwards requests to instances and streams the answers back, and probes instances.
//!
//! Place in the flow: the API decides that a request is forwarded and calls [`Forwarder::forward`]. The choice of the
//! instance and the policy come from the published tables of `view`. A request waits neither for a mailbox nor for a
//! writer's lock.
//!
//! **Invariant:** nothing here imports an actor, a backend or the API. Only registered addresses that the egress policy
//! allows are called.

mod breaker;
mod client;
mod compiled;
mod connect;
mod content;
mod counts;
mod direct;
mod egress;
mod error;
mod exchange;
mod forward;
mod framing;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod headers;
mod http1;
mod idle_connections;
mod in_flight;
mod interim;
mod limit;
mod local_routes;
mod lookup;
mod methods;
mod metrics;
mod mirror;
mod outlier;
mod pick;
mod pool;
mod prefix;
mod probe;
mod request;
mod request_body;
mod response_body;
mod retry;
mod runtime;
mod slots;
mod target;
mod tick;
mod timer;
mod tunnel;
mod upstream;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::HeaderMap;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use maxine_admission::{PlaceLimits, Places};
use maxine_balance::{HashInput, Narrowings, Pick};
use maxine_clock::Clock;
use maxine_state::{InstanceKey, ServiceKey, ServiceRef};
use maxine_view::{ServiceTable, View};

pub use client::{ClientAddr, FieldLines, Peer, TrustedProxies};
pub use connect::{TlsRoots, TlsRootsError};
pub use direct::{Direct, DirectOutcome, PlainRequest};
pub use egress::{EgressDenied, EgressPolicy, HostPort, OwnAddresses};
pub use error::{ProxyError, TlsFailure};
pub use forward::{Chosen, ForwardContext, Forwarded};
pub use headers::{affects_whole_origin, is_forwarded_field, is_last_forward};
pub use interim::InterimSink;
pub use metrics::{NoMetrics, ProxyMetrics, RequestRecord};
pub use probe::Prober;
pub use target::{PathError, RequestTarget};
pub use tick::{UpstreamChange, UpstreamEvent};

use connect::Connector;
use pick::PickInput;
use runtime::{RuntimeParts, ServiceRuntime};

/// The configuration of a node's proxy.
#[derive(Clone, Debug)]
pub struct ForwarderConfig {
    /// The networks that may be called.
    pub egress: EgressPolicy,
    /// The authorities whose signatures on instances' certificates are accepted.
    pub tls_roots: TlsRoots,
    /// Limits on open connections to instances. Health checks have connections of their own.
    pub connections: ConnectionLimits,
    /// Limits on the bytes of request bodies that are kept until they are complete, or until they are sent.
    pub kept_bodies: PlaceLimits,
    /// How long a request keeps its connection, even if a client that has fewer requests needs it; by default 1 s.
    pub request_kept: Duration,
}

impl ForwarderConfig {
    /// A configuration with the default limits, for a node that may open many files.
    #[must_use]
    pub fn new(egress: EgressPolicy, tls_roots: TlsRoots) -> Self {
        let max = 65_536;
        Self {
            egress,
            tls_roots,
            connections: ConnectionLimits::of(max),
            kept_bodies: PlaceLimits {
                max: 64 << 20,
                per_address_max: 32 << 20,
                reserved: 16 << 20,
            },
            request_kept: connect::REQUEST_KEPT,
        }
    }
}

/// Limits on open connections to instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Maximum number on the whole node. One in eight is reserved for callers with a credential.
    pub max: usize,
    /// Maximum percentage that one client address may use of the connections that the other addresses leave.
    pub per_address_percent: u8,
}

impl ConnectionLimits {
    /// A limit of `max` connections, with the default percentage for one address.
    #[must_use]
    pub fn of(max: usize) -> Self {
        Self { max, per_address_percent: 25 }
    }

    fn places(self) -> Arc<Places> {
        let limits =
            PlaceLimits { max: self.max, per_address_max: self.max, reserved: self.max / 8 };
        Places::freed_by_holder(limits, self.per_address_percent)
    }
}

/// Forwards requests. Clones are cheap and share one proxy.
#[derive(Clone)]
pub struct Forwarder(Arc<Inner>);

struct Inner {
    view: Arc<View>,
    config: ForwarderConfig,
    clock: Clock,
    metrics: Arc<dyn ProxyMetrics>,
    connector: Connector,
    kept_bodies: Arc<Places>,
    runtimes: papaya::HashMap<ServiceKey, Arc<ServiceRuntime>>,
    /// Locked while a runtime is built, so that each one takes over from the previous one.
    building: Mutex<()>,
    tasks: TaskTracker,
    stopping: AtomicBool,
    requests_in_flight: AtomicU64,
    /// Wakes the task that calls [`Forwarder::tick`].
    alarm: Notify,
}

/// An instance as this node's proxy sees it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct UpstreamStatus {
    /// The instance's name.
    pub instance: String,
    /// Number of requests in flight to the instance through this proxy.
    pub in_flight: u64,
    /// Whether the instance gets no new requests, and only finishes those in flight.
    pub leaving: bool,
    /// Number of open connections that no request uses.
    pub idle_connections: usize,
    /// State of the circuit breaker: `closed` (normal), `half_open` or `open`.
    pub breaker: &'static str,
    /// Whether the instance is ejected as an outlier.
    pub ejected: bool,
    /// Estimated latency, in microseconds; 0 if unknown.
    pub latency_us: u64,
    /// Number of good answers.
    pub good_total: u64,
    /// Number of failures and of answers with a status of 500 or more.
    pub bad_total: u64,
}

/// An explained choice of the proxy.
#[derive(Debug)]
pub struct ExplainedPick {
    /// The routing table from which it was made. All positions are those of its endpoints.
    pub table: Arc<ServiceTable>,
    /// The choice; `None` if no instance may be called now.
    pub picked: Option<Pick>,
    /// Whether the sticky cookie decided.
    pub by_cookie: bool,
    /// How the table narrowed the instances.
    pub narrowings: Narrowings,
    /// For each endpoint, why the proxy may not call it, and why it calls it less.
    pub blocked: Vec<(Option<&'static str>, Option<&'static str>)>,
}

impl Forwarder {
    /// A proxy that reads services from this view.
    pub fn new(
        view: Arc<View>,
        config: ForwarderConfig,
        clock: Clock,
        metrics: Arc<dyn ProxyMetrics>,
    ) -> Result<Self, TlsRootsError> {
        let connector =
            Connector::new(config.egress.clone(), &config.tls_roots, config.connections.places())?
                .with_request_kept(config.request_kept);
        let kept_bodies = Places::fair(config.kept_bodies);
        Ok(Self(Arc::new(Inner {
            view,
            config,
            clock,
            metrics,
            connector,
            kept_bodies,
            runtimes: papaya::HashMap::new(),
            building: Mutex::new(()),
            tasks: TaskTracker::new(),
            stopping: AtomicBool::new(false),
            requests_in_flight: AtomicU64::new(0),
            alarm: Notify::new(),
        })))
    }

    /// Trusts `roots` for certificates of instances from the next connection on. Open connections stay.
    ///
    /// # Errors
    ///
    /// The roots cannot be used. Then nothing changes.
    pub fn trust(&self, roots: &TlsRoots) -> Result<(), TlsRootsError> {
        self.0.connector.trust(roots)
    }

    /// The egress policy. Registration checks it, too.
    #[must_use]
    pub fn egress(&self) -> &EgressPolicy {
        &self.0.config.egress
    }

    /// The number of this node's requests in flight to an instance. During a drain, it shows how many are left.
    #[must_use]
    pub fn in_flight(&self, key: &InstanceKey) -> u64 {
        self.runtime(key.service.as_ref()).map_or(0, |runtime| runtime.in_flight_of(&key.instance))
    }

    /// The number of bytes of request bodies that are kept until they are complete, or until they are sent.
    #[must_use]
    pub fn kept_bodies_len(&self) -> usize {
        self.0.kept_bodies.taken()
    }

    /// The status of a service's instances on this node.
    #[must_use]
    pub fn upstreams(&self, service: ServiceRef<'_>) -> Vec<UpstreamStatus> {
        let Some(runtime) = self.runtime(service) else { return Vec::new() };
        let now_ms = self.0.clock.monotonic_ms();
        let present = runtime.upstreams.iter().map(|upstream| upstream.status(false, now_ms));
        let leaving = runtime.leaving.iter().map(|upstream| upstream.status(true, now_ms));
        present.chain(leaving).collect()
    }

    /// The choice that the proxy of this node would make now for a request with these header fields. `None` if it knows
    /// no such service. It uses up no turn, and takes no trial of a breaker.
    #[must_use]
    pub fn explain(
        &self,
        service: ServiceRef<'_>,
        input: &HashInput<'_>,
        headers: &HeaderMap,
    ) -> Option<ExplainedPick> {
        let runtime = self.runtime(service)?;
        let input = PickInput {
            now_ms: self.0.clock.monotonic_ms(),
            draw: runtime.table.draw(input, fastrand::u64(..)),
            sticky: request::sticky_instance(runtime.policy.sticky.as_ref(), headers),
            tried: &[],
        };
        let (picked, by_cookie, narrowings) =
            runtime.picker.explain(&runtime.table, &runtime.upstreams, &input);
        let blocked = runtime.upstreams.iter().map(|upstream| {
            let is_ramping = upstream.ramp_permille(input.now_ms) < 1_000;
            let ramping =
                is_ramping.then_some("it recovered recently and gets a smaller share (slow start)");
            let blocked = upstream.blocked_reason().filter(|_| !upstream.signals.may_pass());
            (blocked, ramping)
        });
        let blocked = blocked.collect();
        Some(ExplainedPick {
            table: Arc::clone(&runtime.table),
            picked,
            by_cookie,
            narrowings,
            blocked,
        })
    }

    /// The status of one instance on this node, and why it gets no requests although it is registered and healthy.
    /// `None` if this node does not call the instance: it is unknown, or it gets no traffic and has no request in
    /// flight.
    #[must_use]
    pub fn upstream_status(
        &self,
        key: &InstanceKey,
    ) -> Option<(UpstreamStatus, Option<&'static str>)> {
        let runtime = self.runtime(key.service.as_ref())?;
        let now_ms = self.0.clock.monotonic_ms();
        let is_it = |u: &&Arc<upstream::Upstream>| u.instance.registration.id == key.instance;
        let present = runtime.upstreams.iter().find(is_it);
        let shown = present.or_else(|| runtime.leaving.iter().find(is_it))?;
        let mut status = shown.status(present.is_none(), now_ms);
        // Requests to an earlier registration may still be in flight.
        status.in_flight = runtime.in_flight_of(&key.instance);
        Some((status, present.and_then(|upstream| upstream.blocked_reason())))
    }

    /// Decides about circuit breakers and ejections, and closes stale connections. Returns what changed. The proxy
    /// actor calls it.
    pub fn tick(&self) -> Vec<UpstreamEvent> {
        let now_ms = self.0.clock.monotonic_ms();
        let mut events = Vec::new();
        let runtimes: Vec<Arc<ServiceRuntime>> =
            self.0.runtimes.pin().values().map(Arc::clone).collect();
        for runtime in runtimes {
            if self.0.view.table(runtime.table.key().as_ref()).is_none() {
                self.0.runtimes.pin().remove(runtime.table.key());
                continue;
            }
            tick::tick(&runtime, now_ms, &mut events);
            runtime.upstreams.iter().filter_map(|u| u.pool.as_ref()).for_each(|p| p.reap());
        }
        for event in &events {
            self.0.metrics.upstream_changed(event);
        }
        events
    }

    /// Returns when an instance has failed so often in a row that [`Forwarder::tick`] must be called at once.
    pub async fn breaker_alarm(&self) {
        self.0.alarm.notified().await;
    }

    /// Refuses new requests, waits up to `grace` for requests in flight, and closes all connections.
    pub async fn shutdown(&self, grace: Duration) {
        self.0.stopping.store(true, Ordering::SeqCst);
        let quiet = async {
            while self.0.requests_in_flight.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(grace, quiet).await.is_err() {
            let left = self.0.requests_in_flight.load(Ordering::SeqCst);
            tracing::warn!(left, "requests in flight were closed at shutdown");
        }
        self.0.runtimes.pin().clear();
        self.0.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(2), self.0.tasks.wait()).await;
    }

    /// The runtime of a service, rebuilt if its table was replaced.
    fn runtime(&self, service: ServiceRef<'_>) -> Option<Arc<ServiceRuntime>> {
        let table = self.0.view.table(service)?;
        if let Some(runtime) = self.0.runtimes.pin().get(&service)
            && Arc::ptr_eq(&runtime.table, &table)
        {
            return Some(Arc::clone(runtime));
        }
        let _building = self.0.building.lock();
        let runtimes = self.0.runtimes.pin();
        // Another thread may have built the runtime meanwhile, or the table may have been replaced again.
        let table = self.0.view.table(service)?;
        let previous = runtimes.get(&service);
        if let Some(runtime) = previous.filter(|runtime| Arc::ptr_eq(&runtime.table, &table)) {
            return Some(Arc::clone(runtime));
        }
        let parts = RuntimeParts {
            connector: &self.0.connector,
            clock: &self.0.clock,
            tasks: &self.0.tasks,
        };
        let key = table.key().clone();
        let built = Arc::new(ServiceRuntime::build(table, previous.map(AsRef::as_ref), &parts));
        runtimes.insert(key, Arc::clone(&built));
        Some(built)
    }
}
