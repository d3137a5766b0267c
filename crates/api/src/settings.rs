//! The settings of the HTTP interface.

use std::path::PathBuf;

use super::access::AccessMode;
use maxine_admission::PlaceLimits;
use maxine_gateway::TrustedProxies;

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
