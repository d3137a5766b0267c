//! What every handler has at hand.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use axum::http::HeaderName;
use tokio::sync::watch;

use super::access::{AccessMode, AccessTable};
use super::audit_relay::AuditRelay;
use super::registrants::Registrants;
use maxine_actors::{HealthChecker, Registry};
use maxine_admission::{PlaceLimits, Places};
use maxine_clock::Clock;
use maxine_gateway::{Forwarder, TrustedProxies};
use maxine_identity::Security;
use maxine_state::Fence;
use maxine_store::ControlStore;
use maxine_telemetry::Telemetry;
use maxine_view::{NO_STATE, Snapshot, View};

/// Settings of the HTTP surface; static for the life of the node.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// This node's name.
    pub instance_id: String,
    /// The port that clients reach, as `config.port` tells it.
    pub port: u16,
    /// Whether registration needs a token (`registration_access`).
    pub registration_access: AccessMode,
    /// Whether discovery and proxying need a token (`discovery_access`).
    pub discovery_access: AccessMode,
    /// Whether traces and the request log keep the queries of requests.
    pub log_queries: bool,
    /// The origin that browsers may call from (`cors_allow_origin`); `None` turns CORS off.
    pub cors_allow_origin: Option<String>,
    /// The name of the trace id header (`MAXINE_TRACE_HEADER_NAME`).
    pub trace_header_name: String,
    /// Where the report that `/api/actuator/performance` shows is fetched from
    /// (`MAXINE_PERFORMANCE_REPORT_URL`).
    pub performance_report_url: Option<String>,
    /// Whether this node is one of several (`enabled` of `/api/actuator/cluster`).
    pub clustered: bool,
    /// Largest JSON body of the compatible API, in bytes.
    pub json_body_len_max: usize,
    /// How long a request's JSON body may take to arrive, in milliseconds.
    pub body_timeout_ms: u64,
    /// Largest body of a request through the proxy route, in bytes; `None` for no limit.
    pub proxy_body_len_max: Option<u64>,
    /// Whether browsers are told to give pages of instances an origin of their own.
    pub proxy_sandbox: bool,
    /// Names by which browsers may call this node, besides addresses, localhost and the members' names
    /// (`http.allowed_hosts`): in lower case, without a port.
    pub allowed_hosts: Vec<String>,
    /// The proxies in front whose word about the client's address is believed
    /// (`security.trusted_proxies`).
    pub trusted_proxies: TrustedProxies,
    /// Where audit records are kept that wait until the cluster accepts writes; `None` keeps them in memory.
    pub pending_audit_file: Option<PathBuf>,
    /// Most instances that one address registers through this node without a credential; 0 for no bound.
    pub open_instances_per_address_max: usize,
    /// How many watchers there may be.
    pub watchers: PlaceLimits,
    /// How many bytes of JSON bodies may be arriving.
    pub bodies: PlaceLimits,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            instance_id: "maxine".into(),
            port: 8080,
            registration_access: AccessMode::Open,
            discovery_access: AccessMode::Open,
            log_queries: false,
            cors_allow_origin: None,
            trace_header_name: "x-trace-id".into(),
            performance_report_url: None,
            clustered: false,
            json_body_len_max: 100 * 1_024,
            body_timeout_ms: 10_000,
            proxy_body_len_max: Some(10 * 1_024 * 1_024),
            proxy_sandbox: true,
            allowed_hosts: Vec::new(),
            trusted_proxies: TrustedProxies::default(),
            pending_audit_file: None,
            open_instances_per_address_max: 100_000,
            watchers: PlaceLimits { max: 20_000, per_address_max: 10_000, reserved: 2_000 },
            bodies: PlaceLimits { max: 64 << 20, per_address_max: 32 << 20, reserved: 16 << 20 },
        }
    }
}

/// Everything that an [`AppState`] is made of.
pub struct AppParts {
    /// What readers see.
    pub view: Arc<View>,
    /// What orders commands; for consistency barriers, leadership and membership.
    pub store: Arc<dyn ControlStore>,
    /// The one way to write.
    pub registry: Registry,
    /// The clock.
    pub clock: Clock,
    /// Settings.
    pub settings: ApiSettings,
    /// Whether this node holds the leader's duties.
    pub duties: watch::Receiver<Option<Fence>>,
    /// Who may do what.
    pub security: Security,
    /// Metrics, rings and logs.
    pub telemetry: Telemetry,
    /// Forwards requests to instances.
    pub forwarder: Forwarder,
    /// Probes instances, and knows what the probes found.
    pub health: HealthChecker,
}

struct Inner {
    parts: AppParts,
    audit: AuditRelay,
    access: AccessTable,
    trace_header: HeaderName,
    bodies: Arc<Places>,
    registrants: Registrants,
}

/// What every handler has at hand. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

/// The same for what the node's parts hold themselves.
pub(super) struct WeakState(Weak<Inner>);

impl WeakState {
    /// The parts, while the node has them.
    pub(super) fn upgrade(&self) -> Option<AppState> {
        self.0.upgrade().map(AppState)
    }
}

impl AppState {
    /// A handle that does not keep the parts.
    pub(super) fn downgrade(&self) -> WeakState {
        WeakState(Arc::downgrade(&self.0))
    }

    /// Joins the parts. Must be called inside a tokio runtime.
    #[must_use]
    pub fn new(parts: AppParts) -> Self {
        let audit = AuditRelay::new(
            parts.settings.instance_id.clone(),
            parts.registry.clone(),
            parts.clock.clone(),
            parts.telemetry.clone(),
            parts.settings.pending_audit_file.clone(),
        );
        // The configuration has refused a name that is none before.
        let trace_header = HeaderName::from_bytes(parts.settings.trace_header_name.as_bytes())
            .unwrap_or(HeaderName::from_static("x-trace-id"));
        let bodies = Places::new(parts.settings.bodies);
        let registrants = Registrants::new(parts.settings.open_instances_per_address_max);
        let access = AccessTable::default();
        Self(Arc::new(Inner { parts, audit, access, trace_header, bodies, registrants }))
    }

    /// The header that carries the trace id.
    #[must_use]
    pub fn trace_header(&self) -> &HeaderName {
        &self.0.trace_header
    }

    /// The bytes of JSON bodies that are arriving.
    pub(super) fn bodies(&self) -> &Arc<Places> {
        &self.0.bodies
    }

    /// The instances that each address has registered without a credential.
    pub(super) fn registrants(&self) -> &Registrants {
        &self.0.registrants
    }

    /// What readers see.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.0.parts.view
    }

    /// What orders commands.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ControlStore> {
        &self.0.parts.store
    }

    /// The one way to write.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.parts.registry
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.parts.clock
    }

    /// Settings of the HTTP surface.
    #[must_use]
    pub fn settings(&self) -> &ApiSettings {
        &self.0.parts.settings
    }

    /// Whether this node holds the leader's duties.
    #[must_use]
    pub fn duties(&self) -> &watch::Receiver<Option<Fence>> {
        &self.0.parts.duties
    }

    /// Who may do what.
    #[must_use]
    pub fn security(&self) -> &Security {
        &self.0.parts.security
    }

    /// Metrics, rings and logs.
    #[must_use]
    pub fn telemetry(&self) -> &Telemetry {
        &self.0.parts.telemetry
    }

    /// Forwards requests to instances.
    #[must_use]
    pub fn forwarder(&self) -> &Forwarder {
        &self.0.parts.forwarder
    }

    /// Probes instances, and knows what the probes found.
    #[must_use]
    pub fn health(&self) -> &HealthChecker {
        &self.0.parts.health
    }

    /// Why what this node has must not be served as the cluster's state; `None` where it may.
    #[must_use]
    pub fn why_not_served(&self) -> Option<String> {
        let no_state = || {
            let has_state = self.view().with_snapshot(Snapshot::has_state);
            (!has_state).then(|| NO_STATE.to_owned())
        };
        self.store().exclusion().or_else(no_state)
    }

    /// Takes what happens outside the log into the replicated audit log.
    #[must_use]
    pub fn audit(&self) -> &AuditRelay {
        &self.0.audit
    }

    /// The table of routes and roles.
    #[must_use]
    pub fn access(&self) -> &AccessTable {
        &self.0.access
    }
}
