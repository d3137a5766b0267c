//! The data and services that handlers use.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use axum::http::HeaderName;

use super::access::{AccessMode, AccessTable};
use super::audit_relay::AuditRelay;
use super::lists::Lists;
use super::registrants::Registrants;
use maxine_actors::{HealthChecker, Registry};
use maxine_admission::{PlaceLimits, Places};
use maxine_clock::Clock;
use maxine_gateway::{Forwarder, TrustedProxies};
use maxine_identity::Security;
use maxine_store::ControlStore;
use maxine_telemetry::Telemetry;
use maxine_view::{NO_STATE, Snapshot, View};

/// Settings of the HTTP interface, which do not change while the node runs.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// This node's name.
    pub instance_id: String,
    /// The port for clients, which `config` of the compatible API reports as `port`.
    pub port: u16,
    /// Whether registration requires a token (`registration_access`).
    pub registration_access: AccessMode,
    /// Whether discovery and the proxy require a token (`discovery_access`).
    pub discovery_access: AccessMode,
    /// Whether traces and the request log contain the queries of requests.
    pub log_queries: bool,
    /// The origin whose pages may call this node from a browser (`cors_allow_origin`); `None` turns CORS off.
    pub cors_allow_origin: Option<String>,
    /// The name of the trace id header (`MAXINE_TRACE_HEADER_NAME`).
    pub trace_header_name: String,
    /// The URL of the report for `/api/actuator/performance` (`MAXINE_PERFORMANCE_REPORT_URL`).
    pub performance_report_url: Option<String>,
    /// Whether this node is one of several (`enabled` of `/api/actuator/cluster`).
    pub clustered: bool,
    /// Maximum length of a JSON body in the compatible API, in bytes.
    pub json_body_len_max: usize,
    /// Time limit for the arrival of a JSON body, in milliseconds.
    pub body_timeout_ms: u64,
    /// Maximum length of a request body on the proxy route, in bytes; `None` for no limit.
    pub proxy_body_len_max: Option<u64>,
    /// Whether pages of instances get an origin of their own in browsers (`Content-Security-Policy: sandbox`).
    pub proxy_sandbox: bool,
    /// Names by which browsers may call this node, in addition to addresses, localhost and the members' names
    /// (`http.allowed_hosts`). In lower case, without a port.
    pub allowed_hosts: Vec<String>,
    /// The proxies whose reports about the client's address are accepted (`security.trusted_proxies`).
    pub trusted_proxies: TrustedProxies,
    /// Whether passwords are accepted over plain HTTP from other machines (`security.allow_plain_http`).
    pub allow_plain_http: bool,
    /// For how long browsers must use only HTTPS for this host after an answer over HTTPS, in seconds
    /// (`http.hsts_max_age_s`); 0 sends no such instruction.
    pub hsts_max_age_s: u32,
    /// The file of audit records that wait until the cluster accepts writes; `None` keeps them in memory.
    pub pending_audit_file: Option<PathBuf>,
    /// Maximum number of instances that one address registers through this node without a credential; 0 for no limit.
    pub open_instances_per_address_max: usize,
    /// Limits on watchers.
    pub watchers: PlaceLimits,
    /// Limits on the bytes of request bodies that are arriving.
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
            allow_plain_http: false,
            hsts_max_age_s: 0,
            pending_audit_file: None,
            open_instances_per_address_max: 100_000,
            watchers: PlaceLimits { max: 20_000, per_address_max: 10_000, reserved: 2_000 },
            bodies: PlaceLimits { max: 64 << 20, per_address_max: 32 << 20, reserved: 16 << 20 },
        }
    }
}

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
    lists: Lists,
    registrants: Registrants,
}

/// The data and services that handlers use. Clones are cheap.
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

/// A weak reference, for services that the node's parts own.
pub(super) struct WeakState(Weak<Inner>);

impl WeakState {
    /// The parts, as long as the node exists.
    pub(super) fn upgrade(&self) -> Option<AppState> {
        self.0.upgrade().map(AppState)
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
        let lists = Lists::default();
        Self(Arc::new(Inner { parts, audit, access, trace_header, bodies, lists, registrants }))
    }

    /// The header that carries the trace id.
    #[must_use]
    pub fn trace_header(&self) -> &HeaderName {
        &self.0.trace_header
    }

    /// The places for the bytes of request bodies that are arriving.
    pub(super) fn bodies(&self) -> &Arc<Places> {
        &self.0.bodies
    }

    /// The limits on lists that are built and delivered.
    pub(super) fn lists(&self) -> &Lists {
        &self.0.lists
    }

    /// The instances that each address has registered without a credential.
    pub(super) fn registrants(&self) -> &Registrants {
        &self.0.registrants
    }

    /// The view, for reads.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.0.parts.view
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ControlStore> {
        &self.0.parts.store
    }

    /// The registry, for writes.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.parts.registry
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.parts.clock
    }

    /// The settings of the HTTP interface.
    #[must_use]
    pub fn settings(&self) -> &ApiSettings {
        &self.0.parts.settings
    }

    /// Authenticates callers.
    #[must_use]
    pub fn security(&self) -> &Security {
        &self.0.parts.security
    }

    /// Metrics, traffic counts, alerts and logs.
    #[must_use]
    pub fn telemetry(&self) -> &Telemetry {
        &self.0.parts.telemetry
    }

    /// Forwards requests to instances.
    #[must_use]
    pub fn forwarder(&self) -> &Forwarder {
        &self.0.parts.forwarder
    }

    /// Probes instances, and knows the results.
    #[must_use]
    pub fn health(&self) -> &HealthChecker {
        &self.0.parts.health
    }

    /// Why this node's state must not be served as the cluster's; `None` if it may be served.
    #[must_use]
    pub fn not_serving_reason(&self) -> Option<String> {
        let no_state = || {
            let has_state = self.view().with_snapshot(Snapshot::has_state);
            (!has_state).then(|| NO_STATE.to_owned())
        };
        self.store().exclusion().or_else(no_state)
    }

    /// Writes events outside the log to the replicated audit log.
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
