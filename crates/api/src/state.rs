//! The data and services that handlers use.

use std::sync::{Arc, Weak};

use axum::extract::FromRef;
use axum::http::HeaderName;
use tokio_util::sync::CancellationToken;

use super::access::AccessTable;
use super::audit_relay::AuditRelay;
use super::lists::Lists;
use super::performance_report::PerformanceReport;
use super::registrants::{Registrants, TooManyInstances};
use super::settings::ApiSettings;
use super::stopping::Stopping;
use maxine_actors::{HealthChecker, Registry};
use maxine_admission::{NodeTurns, Places};
use maxine_clock::Clock;
use maxine_gateway::{ClientAddr, Forwarder};
use maxine_identity::{Caller, Security};
use maxine_state::InstanceKey;
use maxine_store::ControlStore;
use maxine_telemetry::Telemetry;
use maxine_view::{NO_STATE, Snapshot, View};

/// The parts of an [`AppState`].
pub struct AppParts {
    /// The view, for reads.
    pub view: Arc<View>,
    /// The store, for consistency, leadership and membership.
    pub store: Arc<dyn ControlStore>,
    /// The registry, for writes.
    pub registry: Registry,
    /// The clock.
    pub clock: Clock,
    /// The settings of the HTTP interface.
    pub settings: ApiSettings,
    /// Authenticates callers.
    pub security: Security,
    /// Metrics, traffic counts, alerts and logs.
    pub telemetry: Telemetry,
    /// Forwards requests to instances.
    pub forwarder: Forwarder,
    /// Probes instances, and knows the results.
    pub health: HealthChecker,
}

struct Inner {
    parts: AppParts,
    audit: AuditRelay,
    access: AccessTable,
    trace_header: HeaderName,
    bodies: Arc<Places>,
    lists: Arc<Lists>,
    registrants: Registrants,
    performance_report: PerformanceReport,
    ending: CancellationToken,
}

/// The data and services that handlers use. Clones are cheap.
#[derive(Clone)]
pub struct AppState(Arc<dyn Parts>);

/// Hides the type of [`Inner`]. For each handler the compiler proves that its future can move to another thread. Behind
/// `dyn` this proof ends here. Otherwise it goes through the types of the whole node each time, which is half of the build
/// time of this crate.
trait Parts: Send + Sync {
    fn inner(&self) -> &Inner;
}

impl Parts for Inner {
    fn inner(&self) -> &Inner {
        self
    }
}

/// A weak reference, for services that the node's parts own.
pub(super) struct WeakState(Weak<dyn Parts>);

impl WeakState {
    /// The parts, as long as the node exists.
    pub(super) fn upgrade(&self) -> Result<AppState, Stopping> {
        self.0.upgrade().map(AppState).ok_or(Stopping)
    }
}

impl AppState {
    /// A reference that does not keep the parts alive.
    pub(super) fn downgrade(&self) -> WeakState {
        WeakState(Arc::downgrade(&self.0))
    }

    /// Combines the parts. Must be called inside a tokio runtime.
    #[must_use]
    pub fn new(parts: AppParts) -> Self {
        let audit = AuditRelay::new(
            parts.settings.instance_id.clone(),
            parts.registry.clone(),
            parts.clock.clone(),
            parts.telemetry.clone(),
            parts.settings.pending_audit_file.clone(),
        );
        // The configuration has already refused an invalid name.
        let trace_header = HeaderName::from_bytes(parts.settings.trace_header_name.as_bytes())
            .unwrap_or(HeaderName::from_static("x-trace-id"));
        let bodies = Places::fair(parts.settings.bodies);
        let registrants = Registrants::new(parts.settings.open_instances_per_address_max);
        let access = AccessTable::default();
        let lists = Arc::new(Lists::new(NodeTurns::for_this_machine()));
        let performance_report = PerformanceReport::default();
        Self(Arc::new(Inner {
            parts,
            audit,
            access,
            trace_header,
            bodies,
            lists,
            registrants,
            performance_report,
            ending: CancellationToken::new(),
        }))
    }

    /// The header that carries the trace id.
    #[must_use]
    pub fn trace_header(&self) -> &HeaderName {
        &self.0.inner().trace_header
    }

    /// The places for the bytes of request bodies that are arriving.
    pub(super) fn bodies(&self) -> &Arc<Places> {
        &self.0.inner().bodies
    }

    /// The turns of answers that take long to build, for all faces.
    #[must_use]
    pub fn answer_turns(&self) -> &Arc<NodeTurns> {
        self.lists().turns()
    }

    /// The limits on lists that are built and delivered.
    pub(super) fn lists(&self) -> &Lists {
        &self.0.inner().lists
    }

    /// Counts an instance that is about to be registered, against the limit for its client's address. There is no limit
    /// for callers with a credential, for callers on this machine, and for a trusted proxy that names no client.
    pub(super) fn count_registrant(
        &self,
        caller: &Caller,
        client: &ClientAddr,
        key: &InstanceKey,
    ) -> Result<(), TooManyInstances> {
        let is_here = client.ip.is_loopback() && self.settings().trusted_proxies.is_empty();
        let is_proxy = client.is_peer_trusted && client.ip == client.peer;
        if caller.role.is_some() || is_here || is_proxy {
            return Ok(());
        }
        let snapshot = self.view().snapshot();
        let exists = |key: &InstanceKey| {
            let service = snapshot.state.service(&key.service);
            service.is_some_and(|service| service.instances.contains_key(&key.instance))
        };
        self.0.inner().registrants.count(client.ip, key, self.clock().monotonic_ms(), exists)
    }

    /// Cancelled when the node begins to stop, so that answers without an end do not hold it up.
    pub(super) fn ending(&self) -> &CancellationToken {
        &self.0.inner().ending
    }

    /// The performance report that was fetched last.
    pub(super) fn performance_report(&self) -> &PerformanceReport {
        &self.0.inner().performance_report
    }

    /// The view, for reads.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.0.inner().parts.view
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ControlStore> {
        &self.0.inner().parts.store
    }

    /// The registry, for writes.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.inner().parts.registry
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.inner().parts.clock
    }

    /// The settings of the HTTP interface.
    #[must_use]
    pub fn settings(&self) -> &ApiSettings {
        &self.0.inner().parts.settings
    }

    /// Authenticates callers.
    #[must_use]
    pub fn security(&self) -> &Security {
        &self.0.inner().parts.security
    }

    /// Metrics, traffic counts, alerts and logs.
    #[must_use]
    pub fn telemetry(&self) -> &Telemetry {
        &self.0.inner().parts.telemetry
    }

    /// Runs `work` on a blocking thread, because it may wait for the disk. Reading the counts of requests or the traces
    /// does, because they include requests that are not yet written to the request log.
    pub(super) async fn with_telemetry<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Telemetry) -> T + Send + 'static,
    ) -> Result<T, Stopping> {
        let telemetry = self.telemetry().clone();
        tokio::task::spawn_blocking(move || work(&telemetry)).await.map_err(|_| Stopping)
    }

    /// Forwards requests to instances.
    #[must_use]
    pub fn forwarder(&self) -> &Forwarder {
        &self.0.inner().parts.forwarder
    }

    /// Probes instances, and knows the results.
    #[must_use]
    pub fn health(&self) -> &HealthChecker {
        &self.0.inner().parts.health
    }

    /// Why this node's state must not be served as the cluster's; `None` if it may be served.
    #[must_use]
    pub fn not_serving_reason(&self) -> Option<String> {
        let no_state = || {
            let has_state = self.view().with_snapshot(Snapshot::has_state);
            (!has_state).then(|| match self.store().refuses_writes() {
                Some(why) => format!("{NO_STATE}; {why}"),
                None => NO_STATE.to_owned(),
            })
        };
        self.store().exclusion().or_else(no_state)
    }

    /// A text for a caller. If it says that this node has no state, the reason is added, if the store knows it.
    #[must_use]
    pub fn with_reason(&self, text: String) -> String {
        let Some(rest) = text.strip_prefix(NO_STATE) else { return text };
        match self.not_serving_reason() {
            Some(reason) => format!("{reason}{rest}"),
            None => text,
        }
    }

    /// Writes events outside the log to the replicated audit log.
    #[must_use]
    pub fn audit(&self) -> &AuditRelay {
        &self.0.inner().audit
    }

    /// The table of routes and roles.
    #[must_use]
    pub fn access(&self) -> &AccessTable {
        &self.0.inner().access
    }
}

impl FromRef<AppState> for Arc<Lists> {
    fn from_ref(state: &AppState) -> Self {
        Arc::clone(&state.0.inner().lists)
    }
}
