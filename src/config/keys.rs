//! Every setting, once.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::values::{
    access, backend, members, networks, number, one_of, parsed, path, switch, text,
};
use super::{
    Access, BackendKind, HealthConfig, HttpConfig, NodeConfig, RaftConfig, SecurityConfig,
    StateConfig, TelemetryConfig,
};
use crate::actors::registry::RegistrySettings;

/// One setting.
pub struct Key {
    /// Its dotted name in the file.
    pub name: &'static str,
    /// Its flag, without the dashes.
    pub flag: &'static str,
    /// Its name in the environment.
    pub env: &'static str,
    /// Its unit, or the kind of value.
    pub unit: &'static str,
    /// What is allowed, in words.
    pub range: &'static str,
    /// Its default, as one would write it.
    pub default: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Whether its value must not be shown, and comes from the environment alone.
    pub secret: bool,
    /// Checks a value and puts it into the settings.
    pub set: fn(&mut NodeConfig, &str) -> Result<(), String>,
}

macro_rules! keys {
    ($($name:literal $flag:literal $env:literal $unit:literal $range:literal $default:literal
       $help:literal => |$config:ident, $value:ident| $set:expr;)*) => {
        /// All settings, in the order of the reference page.
        pub const KEYS: &[Key] = &[$(Key {
            name: $name, flag: $flag, env: $env, unit: $unit, range: $range, default: $default,
            help: $help, secret: false,
            set: |$config, $value| { $set; Ok(()) },
        }),*];
    };
}

const DAY_MS: u64 = 24 * 3_600 * 1_000;

keys! {
    "node.id" "node-id" "MAXINE_NODE_ID" "number" "0 to 4294967295" "0"
        "This node's number in a Raft cluster; must be set there, and is never used again." => |c, v| c.node_id = number(v, 0, u32::MAX.into())?;
    "node.name" "instance-id" "MAXINE_INSTANCE_ID" "text" "up to 255 bytes" ""
        "This node's name; `node-ID` in a Raft cluster and `HOST-PID` elsewhere where empty." => |c, v| c.instance_id = text(v, 255)?;
    "node.data_dir" "data-dir" "MAXINE_DATA_DIR" "path" "a folder that this node alone writes" "data"
        "The folder of everything that the node keeps." => |c, v| c.data_dir = path(v);
    "node.zone" "zone" "MAXINE_ZONE" "text" "up to 255 bytes" ""
        "The zone that this node runs in, for policies that prefer near instances." => |c, v| c.zone = text(v, 255)?;
    "state.mode" "mode" "MAXINE_REGISTRY_STATE_MODE" "choice" "local, shared-file, redis, raft" "local"
        "What orders the commands." => |c, v| c.backend = backend(v)?;

    "http.host" "host" "MAXINE_HTTP_HOST" "IP address" "an address of this machine" "127.0.0.1"
        "The address to listen on; 0.0.0.0 for every interface." => |c, v| c.http.host = parsed(v, "an IP address")?;
    "http.port" "port" "PORT" "port" "0 to 65535" "8080"
        "The port to listen on; 0 takes a free one." => |c, v| c.http.port = number(v, 0, 65_535)?;
    "http.advertise" "advertise" "MAXINE_HTTP_ADVERTISE" "URL" "up to 2048 bytes" ""
        "The URL that other nodes and clients are told; made from host and port where empty." => |c, v| c.http.advertise = text(v, 2_048)?;
    "http.connections_max" "http-connections-max" "MAXINE_HTTP_CONNECTIONS_MAX" "connections" "1 to 1000000" "20000"
        "Most connections at once; one more is told so with 503." => |c, v| c.http.connections_max = number(v, 1, 1_000_000)?;
    "http.header_timeout_ms" "http-header-timeout-ms" "MAXINE_HTTP_HEADER_TIMEOUT_MS" "milliseconds" "100 to 600000" "10000"
        "For a request's whole head; a client that is slower is dropped." => |c, v| c.http.header_timeout_ms = number(v, 100, 600_000)?;
    "http.request_timeout_ms" "http-request-timeout-ms" "MAXINE_HTTP_REQUEST_TIMEOUT_MS" "milliseconds" "100 to 3600000" "30000"
        "For reading a request's body and answering; streams and proxied requests have their own." => |c, v| c.http.request_timeout_ms = number(v, 100, 3_600_000)?;
    "http.proxy_body_len_max" "proxy-body-len-max" "MAXINE_PROXY_BODY_LEN_MAX" "bytes" "0 to 1099511627776" "10485760"
        "Largest body of a request that is forwarded to an instance; more is answered with 413; 0 for no limit." => |c, v| c.http.proxy_body_len_max = number(v, 0, 1 << 40)?;
    "http.proxy_sandbox" "proxy-sandbox" "MAXINE_PROXY_SANDBOX" "switch" "true, false" "true"
        "Has browsers give pages of instances, seen through the proxy, an origin of their own, so that their scripts cannot use the dashboard's session." => |c, v| c.http.proxy_sandbox = switch(v)?;
    "http.cors_allow_origin" "cors-allow-origin" "MAXINE_CORS_ALLOW_ORIGIN" "origin" "an origin, * or nothing" ""
        "The origin that browsers may call from, besides pages of this cluster's own members." => |c, v| c.http.cors_allow_origin = text(v, 255)?;

    "raft.cluster_id" "cluster-id" "MAXINE_CLUSTER_ID" "text" "1 to 63 bytes" "maxine"
        "The cluster's name; a node of another cluster is refused." => |c, v| c.raft.cluster_id = text(v, 63)?;
    "raft.listen" "raft-listen" "MAXINE_RAFT_LISTEN" "address" "IP:PORT" "127.0.0.1:7700"
        "Where peers connect to." => |c, v| c.raft.listen = parsed(v, "an address such as 127.0.0.1:7700")?;
    "raft.advertise" "raft-advertise" "MAXINE_RAFT_ADVERTISE" "address" "HOST:PORT" ""
        "What peers are told; the listen address where empty." => |c, v| c.raft.advertise = text(v, 255)?;
    "raft.members" "raft-members" "MAXINE_RAFT_MEMBERS" "list" "ID@PEER_HOST:PORT@HTTP_URL, comma-separated" ""
        "The first members, the same on each of them; empty on a node that is added later." => |c, v| c.raft.members = members(v)?;
    "raft.engine" "raft-engine" "MAXINE_RAFT_ENGINE" "choice" "auto, wal, redb, sled" "auto"
        "What keeps the log; auto keeps what the directory has, and takes wal for a new one." => |c, v| c.raft.engine = one_of(v, &["auto", "wal", "redb", "sled"])?;
    "raft.tls_ca" "raft-tls-ca" "MAXINE_RAFT_TLS_CA" "path" "a PEM file" ""
        "The authority that signed every peer's certificate." => |c, v| c.raft.tls_ca = path(v);
    "raft.tls_cert" "raft-tls-cert" "MAXINE_RAFT_TLS_CERT" "path" "a PEM file" ""
        "This node's certificate, for `node-ID.CLUSTER.maxine`." => |c, v| c.raft.tls_cert = path(v);
    "raft.tls_key" "raft-tls-key" "MAXINE_RAFT_TLS_KEY" "path" "a PEM file" ""
        "This node's key." => |c, v| c.raft.tls_key = path(v);
    "raft.allow_plain" "raft-allow-plain" "MAXINE_RAFT_ALLOW_PLAIN" "switch" "true, false" "false"
        "Allows plain TCP between peers outside the loopback." => |c, v| c.raft.allow_plain = switch(v)?;
    "raft.heartbeat_interval_ms" "raft-heartbeat-interval-ms" "MAXINE_RAFT_HEARTBEAT_INTERVAL_MS" "milliseconds" "10 to 10000" "100"
        "Between two heartbeats of the leader." => |c, v| c.raft.heartbeat_interval_ms = number(v, 10, 10_000)?;
    "raft.election_timeout_min_ms" "raft-election-timeout-min-ms" "MAXINE_RAFT_ELECTION_TIMEOUT_MIN_MS" "milliseconds" "50 to 60000" "400"
        "Shortest time without the leader after which a node stands for election." => |c, v| c.raft.election_timeout_min_ms = number(v, 50, 60_000)?;
    "raft.election_timeout_max_ms" "raft-election-timeout-max-ms" "MAXINE_RAFT_ELECTION_TIMEOUT_MAX_MS" "milliseconds" "75 to 120000" "600"
        "Longest such time; at least one and a half times the shortest." => |c, v| c.raft.election_timeout_max_ms = number(v, 75, 120_000)?;
    "raft.disk_stall_ms" "raft-disk-stall-ms" "MAXINE_RAFT_DISK_STALL_MS" "milliseconds" "100 to 600000" "1000"
        "A leader whose disk takes longer than this for one sync steps down." => |c, v| c.raft.disk_stall_ms = number(v, 100, 600_000)?;
    "raft.snapshot_every_entries" "raft-snapshot-every-entries" "MAXINE_RAFT_SNAPSHOT_EVERY_ENTRIES" "entries" "100 to 10000000" "50000"
        "Log entries between two snapshots." => |c, v| c.raft.snapshot_every_entries = number(v, 100, 10_000_000)?;

    "registry.write_timeout_ms" "write-timeout-ms" "MAXINE_WRITE_TIMEOUT_MS" "milliseconds" "100 to 60000" "5000"
        "How long a write may take; without a majority it is then answered with 503." => |c, v| c.registry.write_timeout_ms = number(v, 100, 60_000)?;
    "registry.pending_max" "pending-writes-max" "MAXINE_PENDING_WRITES_MAX" "writes" "16 to 1000000" "16384"
        "Most writes that wait at once; one more is answered with 503." => |c, v| c.registry.pending_max = number(v, 16, 1_000_000)?;
    "registry.expiry_grace_ms" "expiry-grace-ms" "MAXINE_EXPIRY_GRACE_MS" "milliseconds" "0 to 60000" "500"
        "Added to every time to live before a lease runs out." => |c, v| c.registry.expiry.grace_ms = number(v, 0, 60_000)?;
    "registry.expiry_rate_max" "expiry-rate-max" "MAXINE_EXPIRY_RATE_MAX" "instances per second" "1 to 1000000" "1000"
        "Most instances that expire per second." => |c, v| c.registry.expiry.rate_max_per_s = number(v, 1, 1_000_000)?;
    "registry.silent_share_max_percent" "silent-share-max-percent" "MAXINE_SILENT_SHARE_MAX_PERCENT" "percent" "1 to 100" "50"
        "A larger share of the fleet going silent at once suspends expiry; 100 never does." => |c, v| c.registry.expiry.silent_share_max_percent = number(v, 1, 100)?;
    "registry.silent_fleet_min" "silent-fleet-min" "MAXINE_SILENT_FLEET_MIN" "instances" "1 to 1000000" "50"
        "Smaller fleets are never held back." => |c, v| c.registry.expiry.silent_fleet_min = number(v, 1, 1_000_000)?;
    "registry.suspension_max_ms" "suspension-max-ms" "MAXINE_SUSPENSION_MAX_MS" "milliseconds" "0 to 86400000" "600000"
        "A suspension of expiry ends after this long; 0 waits for an operator or the fleet's return." => |c, v| c.registry.expiry.suspension_max_ms = number(v, 0, DAY_MS)?;

    "security.registration_access" "registration-access" "MAXINE_REGISTRATION_ACCESS" "choice" "open, token" "open"
        "Whether registering and heartbeats need a token." => |c, v| c.security.registration_access = access(v)?;
    "security.discovery_access" "discovery-access" "MAXINE_DISCOVERY_ACCESS" "choice" "open, token" "open"
        "Whether discovery and the proxy need a token." => |c, v| c.security.discovery_access = access(v)?;
    "security.admin_username" "admin-username" "MAXINE_INITIAL_ADMIN_USERNAME" "text" "1 to 255 bytes" "admin"
        "The name of the administrator that the first start makes." => |c, v| c.security.admin_username = text(v, 255)?;
    "security.initial_password_file" "initial-password-file" "MAXINE_INITIAL_PASSWORD_FILE" "path" "a file to be made" ""
        "Where the one-time password of the first start is written; to standard error where empty." => |c, v| c.security.initial_password_file = path(v);
    "security.token_ttl_s" "token-ttl-s" "MAXINE_TOKEN_TTL_S" "seconds" "60 to 86400" "1800"
        "How long a session's token works." => |c, v| c.security.token_ttl_s = number(v, 60, 86_400)?;
    "security.upstream_allow" "upstream-allow" "MAXINE_UPSTREAM_ALLOW" "networks" "comma-separated" ""
        "Networks that may be registered and called; every one that is not denied where empty." => |c, v| c.security.upstream_allow = networks(v)?;
    "security.upstream_deny" "upstream-deny" "MAXINE_UPSTREAM_DENY" "networks" "comma-separated" ""
        "Networks that may never be registered or called, beside those that never may unless allowed by name: link-local, metadata services, unspecified, multicast, and the loopback where Maxine listens elsewhere." => |c, v| c.security.upstream_deny = networks(v)?;
    "security.upstream_ca" "upstream-ca" "MAXINE_UPSTREAM_CA" "path" "a PEM file" ""
        "The authorities that vouch for instances asked over TLS, by the proxy and by health checks; the machine's own store where empty." => |c, v| c.security.upstream_ca = path(v);
    "security.trusted_proxies" "trusted-proxies" "MAXINE_TRUSTED_PROXIES" "networks" "comma-separated" ""
        "Proxies in front of this node. Their X-Forwarded-For, or Forwarded where there is none, names the client for sign-in limits, the audit log, traces, discovery and the proxy. A proxy that writes Forwarded must remove X-Forwarded-For." => |c, v| c.security.trusted_proxies = networks(v)?;

    "health.enabled" "active-health-checks" "MAXINE_ACTIVE_HEALTH_CHECKS_ENABLED" "switch" "true, false" "false"
        "Probes every instance that has a health check path." => |c, v| c.health.enabled = switch(v)?;
    "health.interval_ms" "health-interval-ms" "MAXINE_ACTIVE_HEALTH_CHECK_INTERVAL_MS" "milliseconds" "100 to 3600000" "15000"
        "Between two probes." => |c, v| c.health.interval_ms = number(v, 100, 3_600_000)?;
    "health.timeout_ms" "health-timeout-ms" "MAXINE_ACTIVE_HEALTH_CHECK_TIMEOUT_MS" "milliseconds" "10 to 60000" "3000"
        "For one probe." => |c, v| c.health.timeout_ms = number(v, 10, 60_000)?;
    "health.failure_threshold" "health-failure-threshold" "MAXINE_ACTIVE_HEALTH_CHECK_FAILURE_THRESHOLD" "probes" "1 to 100" "3"
        "Bad probes in a row until an instance is evicted." => |c, v| c.health.failure_threshold = number(v, 1, 100)?;
    "health.path" "health-path" "MAXINE_ACTIVE_HEALTH_CHECK_PATH" "path" "up to 2048 bytes" ""
        "The health check path of instances that name none; such are not probed where empty." => |c, v| c.health.path = text(v, 2_048)?;
    "health.observers_min" "health-observers-min" "MAXINE_HEALTH_OBSERVERS_MIN" "nodes" "1 to 9" "1"
        "How many nodes must agree before a verdict changes." => |c, v| c.health.observers_min = number(v, 1, 9)?;

    "telemetry.log_filter" "log-filter" "MAXINE_LOG" "filter" "as in tracing's EnvFilter" "info,openraft=error"
        "Which of Maxine's own log lines are written." => |c, v| c.telemetry.log_filter = text(v, 1_024)?;
    "telemetry.log_dir" "log-dir" "MAXINE_LOG_DIR" "path" "a folder" "logs"
        "The folder of the request logs, inside the data folder unless absolute." => |c, v| c.telemetry.log_dir = path(v);
    "telemetry.trace_header" "trace-header" "MAXINE_TRACE_HEADER_NAME" "header name" "1 to 64 bytes" "x-trace-id"
        "The header that carries the trace id." => |c, v| { let name: hyper::header::HeaderName = parsed(v, "a header name")?; c.telemetry.trace_header = name.as_str().into(); };
    "telemetry.traces_max" "recent-traces-max" "MAXINE_RECENT_TRACE_LIMIT" "traces" "1 to 100000" "200"
        "How many finished requests are kept." => |c, v| c.telemetry.traces_max = number(v, 1, 100_000)?;
    "telemetry.audit_max" "recent-audit-max" "MAXINE_RECENT_AUDIT_LIMIT" "events" "1 to 100000" "200"
        "How many recent audit events are kept for the compatible API." => |c, v| c.telemetry.audit_max = number(v, 1, 100_000)?;
    "telemetry.alerts_max" "recent-alerts-max" "MAXINE_RECENT_ALERT_LIMIT" "alerts" "1 to 100000" "100"
        "How many alerts are kept." => |c, v| c.telemetry.alerts_max = number(v, 1, 100_000)?;
    "telemetry.alert_webhook_url" "alert-webhook-url" "MAXINE_ALERT_WEBHOOK_URL" "URL" "up to 2048 bytes" ""
        "Where each alert is posted; nowhere where empty." => |c, v| c.telemetry.alert_webhook_url = text(v, 2_048)?;
    "telemetry.alert_webhook_timeout_ms" "alert-webhook-timeout-ms" "MAXINE_ALERT_WEBHOOK_TIMEOUT_MS" "milliseconds" "100 to 60000" "5000"
        "For one delivery." => |c, v| c.telemetry.alert_webhook_timeout_ms = number(v, 100, 60_000)?;
    "telemetry.performance_report_url" "performance-report-url" "MAXINE_PERFORMANCE_REPORT_URL" "URL" "up to 2048 bytes" ""
        "The load test report that /api/actuator/performance shows." => |c, v| c.telemetry.performance_report_url = text(v, 2_048)?;
    "telemetry.audit_file" "audit-file" "MAXINE_AUDIT_LOG_FILE" "path" "a file" "logs/Maxine-audit.log"
        "The file that recent audit events are appended to, inside the data folder unless absolute." => |c, v| c.telemetry.audit_file = path(v);

    "state.file" "state-file" "MAXINE_REGISTRY_STATE_FILE" "path" "a file" ""
        "Local and shared-file mode keep their log beside this file, with .log at its end; `registry-state.json` in the data folder where empty." => |c, v| c.state.file = path(v);
    "state.persistence" "persistence" "MAXINE_REGISTRY_PERSISTENCE" "switch" "true, false" "true"
        "Whether local mode keeps its state over a restart." => |c, v| c.state.persistence = switch(v)?;
    "state.lock_timeout_ms" "lock-timeout-ms" "MAXINE_REGISTRY_STATE_LOCK_TIMEOUT_MS" "milliseconds" "100 to 600000" "5000"
        "For the lock of shared-file mode." => |c, v| c.state.lock_timeout_ms = number(v, 100, 600_000)?;
    "state.lock_retry_ms" "lock-retry-ms" "MAXINE_REGISTRY_STATE_LOCK_RETRY_MS" "milliseconds" "1 to 60000" "100"
        "Between two attempts at it." => |c, v| c.state.lock_retry_ms = number(v, 1, 60_000)?;
    "state.redis_url" "redis-url" "MAXINE_REGISTRY_REDIS_URL" "URL" "redis:// or rediss://, comma-separated for several" ""
        "The Redis of redis mode, or its Sentinels. A password belongs into redis_url_file or the environment." => |c, v| c.state.redis_url = text(v, 4_096)?;
    "state.redis_url_file" "redis-url-file" "MAXINE_REGISTRY_REDIS_URL_FILE" "path" "a file" ""
        "A file that holds the URL, so that its password is in no argument and no environment." => |c, v| c.state.redis_url_file = path(v);
    "state.redis_key_prefix" "redis-key-prefix" "MAXINE_REGISTRY_REDIS_KEY_PREFIX" "text" "1 to 128 bytes" "maxine:registry"
        "Every key begins with it." => |c, v| c.state.redis_key_prefix = text(v, 128)?;
    "state.redis_connect_timeout_ms" "redis-connect-timeout-ms" "MAXINE_REGISTRY_REDIS_CONNECT_TIMEOUT_MS" "milliseconds" "10 to 600000" "5000"
        "For connecting to Redis." => |c, v| c.state.redis_connect_timeout_ms = number(v, 10, 600_000)?;
    "state.redis_sentinel_master" "redis-sentinel-master" "MAXINE_REGISTRY_REDIS_SENTINEL_MASTER" "text" "up to 255 bytes" ""
        "The master's name where Sentinels watch it." => |c, v| c.state.redis_sentinel_master = text(v, 255)?;
    "state.redis_sentinels" "redis-sentinels" "MAXINE_REGISTRY_REDIS_SENTINELS" "URLs" "comma-separated" ""
        "The Sentinels, each with a user and password of its own if it asks for them; then the Redis URL says user, password, database and TLS of the master, and its host counts for nothing. Where empty the Redis URL names the Sentinels, and its password is for both." => |c, v| c.state.redis_sentinels = text(v, 4_096)?;
    "state.redis_tls_ca" "redis-tls-ca" "MAXINE_REGISTRY_REDIS_TLS_CA" "path" "a PEM file" ""
        "The authorities that sign Redis's certificate, for rediss://; the public ones where empty." => |c, v| c.state.redis_tls_ca = path(v);
    "state.redis_tls_cert" "redis-tls-cert" "MAXINE_REGISTRY_REDIS_TLS_CERT" "path" "a PEM file" ""
        "This node's certificate, where Redis asks for one." => |c, v| c.state.redis_tls_cert = path(v);
    "state.redis_tls_key" "redis-tls-key" "MAXINE_REGISTRY_REDIS_TLS_KEY" "path" "a PEM file" ""
        "The key of that certificate." => |c, v| c.state.redis_tls_key = path(v);
    "state.redis_command_timeout_ms" "redis-command-timeout-ms" "MAXINE_REGISTRY_REDIS_COMMAND_TIMEOUT_MS" "milliseconds" "100 to 60000" "2000"
        "For one command; a Redis that takes longer counts as away." => |c, v| c.state.redis_command_timeout_ms = number(v, 100, 60_000)?;
    "state.redis_wait_timeout_ms" "redis-wait-timeout-ms" "MAXINE_REGISTRY_REDIS_WAIT_TIMEOUT_MS" "milliseconds" "1 to 60000" "1000"
        "How long the replicas of redis_wait_replicas may take; after it the outcome of a write is unknown." => |c, v| c.state.redis_wait_timeout_ms = number(v, 1, 60_000)?;
    "state.redis_wait_replicas" "redis-wait-replicas" "MAXINE_REGISTRY_REDIS_WAIT_REPLICAS" "replicas" "0 to 16" "0"
        "Redis replicas that must have a write before it is acknowledged (WAIT)." => |c, v| c.state.redis_wait_replicas = number(v, 0, 16)?;
    "state.election_enabled" "leader-election" "MAXINE_LEADER_ELECTION_ENABLED" "switch" "true, false" "true"
        "Whether this node competes to lead, in the shared modes; one that does not leads only where nobody has for two leases, as on its own." => |c, v| c.state.election_enabled = switch(v)?;
    "state.lease_ms" "leader-lease-ms" "MAXINE_LEADER_ELECTION_LEASE_MS" "milliseconds" "500 to 600000" "15000"
        "The lease of leadership, in the shared modes; at least twice its renewal." => |c, v| c.state.lease_ms = number(v, 500, 600_000)?;
    "state.lease_renew_ms" "leader-renew-ms" "MAXINE_LEADER_ELECTION_RENEW_MS" "milliseconds" "50 to 300000" "5000"
        "Between two renewals of the lease." => |c, v| c.state.lease_renew_ms = number(v, 50, 300_000)?;
}

impl NodeConfig {
    /// Settings before any default is in.
    pub(super) fn blank() -> Self {
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        Self {
            node_id: 0,
            instance_id: String::new(),
            zone: String::new(),
            data_dir: PathBuf::new(),
            backend: BackendKind::Local,
            http: HttpConfig {
                host: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: 0,
                advertise: String::new(),
                connections_max: 0,
                header_timeout_ms: 0,
                request_timeout_ms: 0,
                proxy_body_len_max: 0,
                proxy_sandbox: true,
                cors_allow_origin: String::new(),
            },
            raft: RaftConfig {
                cluster_id: String::new(),
                listen,
                advertise: String::new(),
                members: Vec::new(),
                engine: String::new(),
                tls_ca: PathBuf::new(),
                tls_cert: PathBuf::new(),
                tls_key: PathBuf::new(),
                allow_plain: false,
                heartbeat_interval_ms: 0,
                election_timeout_min_ms: 0,
                election_timeout_max_ms: 0,
                disk_stall_ms: 0,
                snapshot_every_entries: 0,
            },
            state: StateConfig {
                file: PathBuf::new(),
                persistence: true,
                lock_timeout_ms: 0,
                lock_retry_ms: 0,
                redis_url: String::new(),
                redis_url_file: PathBuf::new(),
                redis_key_prefix: String::new(),
                redis_connect_timeout_ms: 0,
                redis_sentinel_master: String::new(),
                redis_sentinels: String::new(),
                redis_tls_ca: PathBuf::new(),
                redis_tls_cert: PathBuf::new(),
                redis_tls_key: PathBuf::new(),
                redis_command_timeout_ms: 0,
                redis_wait_timeout_ms: 0,
                redis_wait_replicas: 0,
                election_enabled: true,
                lease_ms: 0,
                lease_renew_ms: 0,
            },
            registry: RegistrySettings::default(),
            security: SecurityConfig {
                registration_access: Access::Open,
                discovery_access: Access::Open,
                admin_username: String::new(),
                initial_password_file: PathBuf::new(),
                token_ttl_s: 0,
                upstream_allow: Vec::new(),
                upstream_deny: Vec::new(),
                upstream_ca: PathBuf::new(),
                trusted_proxies: Vec::new(),
            },
            health: HealthConfig {
                enabled: false,
                interval_ms: 0,
                timeout_ms: 0,
                failure_threshold: 0,
                path: String::new(),
                observers_min: 1,
            },
            telemetry: TelemetryConfig {
                log_filter: String::new(),
                log_dir: PathBuf::new(),
                trace_header: String::new(),
                traces_max: 0,
                audit_max: 0,
                alerts_max: 0,
                alert_webhook_url: String::new(),
                alert_webhook_timeout_ms: 0,
                performance_report_url: String::new(),
                audit_file: PathBuf::new(),
            },
        }
    }
}
