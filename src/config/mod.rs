//! The settings with which a node starts: from a TOML file, the environment and flags.
//!
//! Every setting is defined once in [`keys`], with unit, range, default, environment name and help. Flags,
//! the reference page and error messages are generated from that table. Flags have priority over the
//! environment, and the environment over the file. All invalid values are reported together.

mod backup;
mod environment;
pub mod example;
pub mod keys;
mod raft;
pub mod reference;
mod values;

pub use backup::BackupSchedule;
pub use environment::{UnreadVariables, unread_variables};
pub use values::has_password;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use keys::{KEYS, Key};

use maxine_actors::registry::RegistrySettings;
use maxine_dns::Domain;
use maxine_identity::{ClientAuth, TlsVersion};
use maxine_raft::EngineKind;
use maxine_telemetry::OtlpSettings;
use maxine_telemetry::audit_forward::AuditForwardSettings;

/// The backend that orders commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// One node on its own disk.
    Local,
    /// A few nodes on one shared file.
    SharedFile,
    /// A few nodes on one Redis.
    Redis,
    /// A Raft cluster.
    Raft,
}

impl BackendKind {
    /// All backends.
    pub const ALL: [Self; 4] = [Self::Local, Self::SharedFile, Self::Redis, Self::Raft];

    /// The value of the setting `state.mode`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::SharedFile => "shared-file",
            Self::Redis => "redis",
            Self::Raft => "raft",
        }
    }
}

/// A member of the first cluster, as written in `raft.members`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSetting {
    /// Its number.
    pub id: u64,
    /// Address at which the other nodes reach it, `host:port`.
    pub peer_addr: String,
    /// URL at which clients reach it.
    pub http_addr: String,
}

/// Whether something requires a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone who reaches the port may do it.
    Open,
    /// Only the bearer of a token may do it.
    Token,
}

/// The HTTP server.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port; 0 for a free one.
    pub port: u16,
    /// The URL for clients and other nodes; derived from host and port if empty.
    pub advertise: String,
    /// Maximum number of open connections.
    pub connections_max: usize,
    /// Maximum number of these from one address.
    pub connections_per_address_max: usize,
    /// Maximum number of watchers.
    pub watchers_max: usize,
    /// Maximum number of these from one address.
    pub watchers_per_address_max: usize,
    /// Maximum number of bytes of request bodies that are being received.
    pub bodies_len_max: usize,
    /// Maximum number of these from one address.
    pub bodies_per_address_len_max: usize,
    /// Time limit for a request's head, in milliseconds.
    pub header_timeout_ms: u64,
    /// Time limit for a request's body and its answer, except for streams, in milliseconds.
    pub request_timeout_ms: u64,
    /// Maximum length of the body of a forwarded request, in bytes; 0 for no limit.
    pub proxy_body_len_max: u64,
    /// One client address may use at most this percentage of the connections to instances that other clients
    /// leave free.
    pub proxy_connections_per_address_percent: u8,
    /// Whether browsers give pages of instances a separate origin.
    pub proxy_sandbox: bool,
    /// The origins from which browsers may call; empty disables CORS.
    pub cors_allow_origin: String,
    /// Additional names by which browsers may call this node, in lower case.
    pub allowed_hosts: Vec<String>,
    /// The certificates for HTTPS; empty for plain HTTP.
    pub tls_cert: Vec<PathBuf>,
    /// Their keys.
    pub tls_key: Vec<PathBuf>,
    /// Whether clients must show a certificate.
    pub tls_client_auth: ClientAuth,
    /// The authorities of clients' certificates.
    pub tls_client_ca: PathBuf,
    /// Lists of revoked client certificates.
    pub tls_client_crl: Vec<PathBuf>,
    /// The lowest accepted version of TLS.
    pub tls_version_min: TlsVersion,
    /// For how long browsers must use only HTTPS, in seconds; 0 for no instruction.
    pub hsts_max_age_s: u32,
}

/// The Raft backend.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// The cluster's name. Peers of other clusters are refused.
    pub cluster_id: String,
    /// The address to listen on for peers.
    pub listen: SocketAddr,
    /// The address for peers, `host:port`; the listen address if empty.
    pub advertise: String,
    /// The first members; empty on a node that is added later.
    pub members: Vec<MemberSetting>,
    /// The engine of the log; `None` for the engine of the existing directory.
    pub engine: Option<EngineKind>,
    /// The certificate authority for mutual TLS between peers.
    pub tls_ca: PathBuf,
    /// This node's certificate.
    pub tls_cert: PathBuf,
    /// This node's key.
    pub tls_key: PathBuf,
    /// Fingerprints of certificates that are refused; empty for none.
    pub tls_denied: PathBuf,
    /// Lists of revoked certificates of nodes.
    pub tls_crl: Vec<PathBuf>,
    /// Whether plain TCP is allowed outside of loopback.
    pub allow_plain: bool,
    /// Interval between two heartbeats of the leader, in milliseconds.
    pub heartbeat_interval_ms: u64,
    /// Minimum election timeout, in milliseconds.
    pub election_timeout_min_ms: u64,
    /// Maximum election timeout, in milliseconds.
    pub election_timeout_max_ms: u64,
    /// Duration of a disk sync after which a leader steps down, in milliseconds.
    pub disk_stall_ms: u64,
    /// Number of entries between two snapshots.
    pub snapshot_every_entries: u64,
}

/// Scheduled backups.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// When they are made; `None` for never.
    pub schedule: Option<BackupSchedule>,
    /// Their folder.
    pub directory: PathBuf,
    /// Number of backups that are kept.
    pub keep: usize,
}

/// Access modes, accounts and networks.
#[derive(Clone, Debug)]
pub struct SecurityConfig {
    /// Who may register instances and send heartbeats.
    pub registration_access: Access,
    /// Who may discover and use the proxy.
    pub discovery_access: Access,
    /// Maximum number of instances that one address may register through this node without a credential; 0
    /// for no limit.
    pub open_instances_per_address_max: usize,
    /// Whether either may be open on an address that is not loopback.
    pub allow_open: bool,
    /// Whether passwords are accepted over plain HTTP from other machines.
    pub allow_plain_http: bool,
    /// The admin's name at the first start.
    pub admin_username: String,
    /// The file for the one-time password; standard error if empty.
    pub initial_password_file: PathBuf,
    /// Lifetime of a session's token, in seconds.
    pub token_ttl_s: u64,
    /// How long credentials are accepted without contact with the cluster, in milliseconds.
    pub credential_staleness_max_ms: u64,
    /// Networks whose addresses may be registered; empty allows all that are not denied.
    pub upstream_allow: Vec<ipnet::IpNet>,
    /// Networks whose addresses may never be registered.
    pub upstream_deny: Vec<ipnet::IpNet>,
    /// The PEM file of authorities for instances that are called with TLS; the machine's store if empty.
    pub upstream_ca: PathBuf,
    /// The file of outside identities; empty for none.
    pub identities_file: PathBuf,
    /// Proxies whose `Forwarded` headers are accepted.
    pub trusted_proxies: Vec<ipnet::IpNet>,
}

/// The name server.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port; 0 for no name server.
    pub port: u16,
    /// The domain.
    pub domain: Option<Domain>,
    /// Further domains.
    pub alt_domains: Vec<Domain>,
    /// The label that clients of Consul add to names, in lower case.
    pub datacenter: String,
    /// Whether it may answer everyone who reaches it.
    pub allow_open: bool,
    /// For how long an answer may be kept, in seconds.
    pub ttl_s: u32,
    /// The same for an answer that something does not exist.
    pub negative_ttl_s: u32,
    /// Maximum length of an answer over UDP, in bytes.
    pub udp_len_max: usize,
    /// Maximum number of answers over UDP to one address per second; 0 for no limit.
    pub rate_max_per_s: u32,
    /// Maximum number of TCP connections.
    pub connections_max: usize,
    /// Maximum number of these from one address.
    pub connections_per_address_max: usize,
    /// Time limit for a question over TCP, in milliseconds.
    pub connection_timeout_ms: u64,
}

/// The API of Consul.
#[derive(Clone, Debug)]
pub struct ConsulConfig {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port; 0 for no port of its own.
    pub port: u16,
    /// Whether the API's own port serves it too, under `/v1`.
    pub on_http: bool,
    /// The name of the datacenter.
    pub datacenter: String,
    /// The name of the node of instances whose machine is not known.
    pub node: String,
    /// Maximum number of connections to its port.
    pub connections_max: usize,
}

/// Active health checks for the compatible API.
#[derive(Clone, Debug)]
pub struct HealthConfig {
    /// Whether every instance with a health check path is probed.
    pub enabled: bool,
    /// Interval between two probes, in milliseconds.
    pub interval_ms: u64,
    /// Time limit of a probe, in milliseconds.
    pub timeout_ms: u64,
    /// Number of failed probes in a row until eviction.
    pub failure_threshold: u32,
    /// The health check path of instances that register none. If it is empty, such instances are not probed.
    pub path: String,
    /// Number of observers that must agree before a verdict changes.
    pub observers_min: usize,
}

/// The format of Maxine's own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnLogFormat {
    /// Lines of text, for people.
    #[default]
    Text,
    /// A JSON object on each line.
    Json,
    /// Lines of text after the priority that journald reads.
    Journald,
}

/// Logs, traces and alerts.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// The filter of Maxine's own log, in the syntax of `tracing`.
    pub log_filter: String,
    /// The format of that log.
    pub log_format: OwnLogFormat,
    /// The file for Maxine's own log; empty for none.
    pub log_file: PathBuf,
    /// Length at which that file is closed and a new one begun, in bytes.
    pub log_file_len_max: u64,
    /// Number of these files that are kept.
    pub log_files_max: usize,
    /// The folder of the request and audit logs.
    pub log_dir: PathBuf,
    /// Whether traces and request logs contain the queries of requests.
    pub log_queries: bool,
    /// The header that carries the trace id.
    pub trace_header: String,
    /// Maximum number of services with metrics of their own; 0 for none.
    pub metrics_services_max: usize,
    /// Whether metrics are also shown under the names of the version before.
    pub metrics_former_names: bool,
    /// How many traces are kept.
    pub traces_max: usize,
    /// How many audit events are kept.
    pub audit_max: usize,
    /// How many alerts are kept.
    pub alerts_max: usize,
    /// The URL for alerts; empty for none.
    pub alert_webhook_url: String,
    /// Time limit of one delivery, in milliseconds.
    pub alert_webhook_timeout_ms: u64,
    /// The load test report for `performance`; empty for none.
    pub performance_report_url: String,
    /// The file for recent events.
    pub audit_file: PathBuf,
    /// The export of traces. None are exported if its endpoint is empty.
    pub otlp: OtlpSettings,
    /// Whether Maxine's own log is exported to the same receiver.
    pub otlp_logs: bool,
}

/// Settings of the local, shared-file and redis backends.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// The file of the local and shared-file modes.
    pub file: PathBuf,
    /// Whether local mode stores anything on disk.
    pub persistence: bool,
    /// Time limit for the lock, in milliseconds.
    pub lock_timeout_ms: u64,
    /// Pause between two attempts to take the lock, in milliseconds.
    pub lock_retry_ms: u64,
    /// A `redis://` or `rediss://` URL, or several, separated by commas, for a Redis Cluster.
    pub redis_url: String,
    /// A file with the URL, so that its password is not in the environment.
    pub redis_url_file: PathBuf,
    /// Prefix of every key.
    pub redis_key_prefix: String,
    /// Time limit for connecting, in milliseconds.
    pub redis_connect_timeout_ms: u64,
    /// The name of the master in the Sentinels; empty without Sentinels.
    pub redis_sentinel_master: String,
    /// The Sentinels' own URLs; empty if `redis_url` has them.
    pub redis_sentinels: String,
    /// The authorities for Redis's certificate.
    pub redis_tls_ca: PathBuf,
    /// This node's certificate for Redis.
    pub redis_tls_cert: PathBuf,
    /// Its key.
    pub redis_tls_key: PathBuf,
    /// Time limit of one command, in milliseconds.
    pub redis_command_timeout_ms: u64,
    /// Time limit of [`Self::redis_wait_replicas`], in milliseconds.
    pub redis_wait_timeout_ms: u64,
    /// Number of Redis replicas that must have a write before it is acknowledged.
    pub redis_wait_replicas: u32,
    /// Whether this node competes to lead.
    pub election_enabled: bool,
    /// Duration of the leader's lease, in milliseconds.
    pub lease_ms: u64,
    /// Interval between two renewals of it, in milliseconds.
    pub lease_renew_ms: u64,
}

/// All settings of a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node's number in a Raft cluster.
    pub node_id: u64,
    /// This node's name; a generated one if empty.
    pub instance_id: String,
    /// The zone of this node; may be empty.
    pub zone: String,
    /// The directory for all data of the node.
    pub data_dir: PathBuf,
    /// The backend that orders commands.
    pub backend: BackendKind,
    /// The HTTP server.
    pub http: HttpConfig,
    /// The Raft backend.
    pub raft: RaftConfig,
    /// Scheduled backups.
    pub backup: BackupConfig,
    /// The other backends.
    pub state: StateConfig,
    /// The registry.
    pub registry: RegistrySettings,
    /// Access.
    pub security: SecurityConfig,
    /// The name server.
    pub dns: DnsConfig,
    /// The API of Consul.
    pub consul: ConsulConfig,
    /// Health checks.
    pub health: HealthConfig,
    /// Logs and alerts.
    pub telemetry: TelemetryConfig,
    /// The forwarding of audit records. None are forwarded if no sink is set.
    pub audit: AuditForwardSettings,
}

/// Invalid settings: all of them, one line each.
#[derive(Debug, thiserror::Error)]
#[error("{} invalid setting{}:\n{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.join("\n"))]
pub struct InvalidSettings(pub Vec<String>);

/// Where a value comes from, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Flag(&'static str),
    Environment(&'static str),
    File(PathBuf),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl NodeConfig {
    /// Loads the settings: defaults, then `file`, then `environment`, then `flags` (by key name).
    pub fn load(
        file: Option<&Path>,
        environment: &BTreeMap<String, String>,
        flags: &BTreeMap<&'static str, String>,
    ) -> Result<Self, InvalidSettings> {
        let mut config = Self::defaults();
        let mut bad = Vec::new();
        let mut given: BTreeMap<&'static str, (String, Origin)> = BTreeMap::new();
        if let Some(path) = file {
            match values::read_file(path) {
                Err(error) => bad.push(error),
                Ok(values) => {
                    for (name, value) in values {
                        match KEYS.iter().find(|key| key.name == name) {
                            Some(key) if key.secret => bad.push(format!(
                                "{}: {name} is a secret and is read from the environment only ({})",
                                path.display(),
                                key.env
                            )),
                            Some(key) => {
                                given.insert(key.name, (value, Origin::File(path.into())));
                            }
                            None => bad.push(unknown_key(path, &name)),
                        }
                    }
                }
            }
        }
        for key in KEYS {
            if let Some(value) = environment.get(key.env).filter(|value| !value.is_empty()) {
                given.insert(key.name, (value.clone(), Origin::Environment(key.env)));
            }
            if let Some(value) = flags.get(key.name) {
                given.insert(key.name, (value.clone(), Origin::Flag(key.flag)));
            }
        }
        for key in KEYS {
            let Some((value, origin)) = given.get(key.name) else { continue };
            let secret = values::secret_part(key.name, value);
            if let (Some(part), Origin::Flag(_)) = (secret, origin) {
                bad.push(format!(
                    "{origin}: {} must not hold {part}, because every user of this machine can read \
                     arguments: set {} in the environment, or {} in the settings file{}",
                    key.name,
                    key.env,
                    key.name,
                    file_instead(key.name)
                ));
            }
            if let Err(problem) = (key.set)(&mut config, value.trim()) {
                let shown =
                    if key.secret || secret.is_some() { "(hidden)" } else { value.as_str() };
                // Control characters are escaped, so that the message is one line.
                let escape = |c: char| {
                    if c.is_control() { c.escape_default().to_string() } else { c.into() }
                };
                let shown: String = shown.chars().map(escape).collect();
                bad.push(format!("{origin}: {} {problem}, got {shown}", key.name));
            }
        }
        bad.extend(unread_variables(environment).mistaken);
        config.check(&mut bad);
        if bad.is_empty() { Ok(config) } else { Err(InvalidSettings(bad)) }
    }

    /// All keys with their defaults.
    #[must_use]
    pub fn defaults() -> Self {
        let mut config = Self::blank();
        for key in KEYS {
            // A default that its own key refuses is a defect. A test checks every default.
            let set = (key.set)(&mut config, key.default);
            debug_assert!(set.is_ok(), "{}: {set:?}", key.name);
        }
        config
    }

    /// Checks rules between settings.
    fn check(&self, bad: &mut Vec<String>) {
        self.check_open(bad);
        self.check_dns(bad);
        self.check_tls(bad);
        self.check_backup(bad);
        bad.extend(self.audit.modes_without_sink());
        let raft = &self.raft;
        if self.backend == BackendKind::Raft {
            if self.node_id == 0 {
                bad.push("node.id must be set (1 or more) in raft mode".into());
            }
            if raft.election_timeout_min_ms < 3 * raft.heartbeat_interval_ms {
                bad.push(format!(
                    "raft.election_timeout_min_ms must be at least three times raft.heartbeat_interval_ms ({}), got {}",
                    raft.heartbeat_interval_ms, raft.election_timeout_min_ms
                ));
            }
            if raft.election_timeout_max_ms < raft.election_timeout_min_ms * 3 / 2 {
                bad.push(format!(
                    "raft.election_timeout_max_ms must be at least 1.5 times raft.election_timeout_min_ms ({}), got {}",
                    raft.election_timeout_min_ms, raft.election_timeout_max_ms
                ));
            }
            let tls = [&raft.tls_ca, &raft.tls_cert, &raft.tls_key];
            let named = tls.iter().filter(|path| !path.as_os_str().is_empty()).count();
            if named != 0 && named != 3 {
                bad.push("raft.tls_ca, raft.tls_cert and raft.tls_key go together".into());
            }
            if raft.tls_ca.as_os_str().is_empty() && !raft.tls_crl.is_empty() {
                bad.push("raft.tls_crl needs raft.tls_ca".into());
            }
            if named == 0 && !raft.listen.ip().is_loopback() && !raft.allow_plain {
                bad.push(format!(
                    "raft.listen {} is not a loopback address: set raft.tls_ca, raft.tls_cert and raft.tls_key \
                     ('maxine cluster init-tls' makes them), or raft.allow_plain = true",
                    raft.listen
                ));
            }
            let ids: Vec<u64> = raft.members.iter().map(|member| member.id).collect();
            if !ids.is_empty() && !ids.contains(&self.node_id) {
                bad.push(format!("raft.members does not name this node, node.id {}", self.node_id));
            }
        }
        if self.backend == BackendKind::Redis
            && self.state.redis_url.is_empty()
            && self.state.redis_url_file.as_os_str().is_empty()
        {
            bad.push(
                "state.redis_url (MAXINE_REGISTRY_REDIS_URL) must be set in redis mode".into(),
            );
        }
        let pair = [&self.state.redis_tls_cert, &self.state.redis_tls_key];
        if pair.iter().filter(|path| path.as_os_str().is_empty()).count() == 1 {
            bad.push("state.redis_tls_cert and state.redis_tls_key go together".into());
        }
        if !self.state.redis_sentinels.is_empty() && self.state.redis_sentinel_master.is_empty() {
            bad.push(
                "state.redis_sentinels needs state.redis_sentinel_master, the master's name".into(),
            );
        }
        if self.state.lease_renew_ms * 2 > self.state.lease_ms {
            bad.push(format!(
                "state.lease_ms must be at least twice state.lease_renew_ms ({}), got {}",
                self.state.lease_renew_ms, self.state.lease_ms
            ));
        }
    }

    /// Refuses a schedule of backups that cannot be carried out.
    fn check_backup(&self, bad: &mut Vec<String>) {
        if self.backup.schedule.is_none() {
            return;
        }
        if self.backup.directory.as_os_str().is_empty() {
            bad.push("backup.schedule needs backup.directory, the folder of the backups".into());
        }
        if self.backend != BackendKind::Raft {
            bad.push(format!(
                "backup.schedule is set, but in {} mode Maxine takes no backups: back up the storage that holds the state",
                self.backend.as_str()
            ));
        }
    }

    /// Refuses settings for HTTPS that contradict each other.
    fn check_tls(&self, bad: &mut Vec<String>) {
        let http = &self.http;
        if http.tls_cert.len() != http.tls_key.len() {
            bad.push(format!(
                "http.tls_cert and http.tls_key go together: {} and {} files are set",
                http.tls_cert.len(),
                http.tls_key.len()
            ));
        }
        let has_authority = !http.tls_client_ca.as_os_str().is_empty();
        if (http.tls_client_auth != ClientAuth::None) != has_authority {
            bad.push(
                "http.tls_client_auth = optional or required, and http.tls_client_ca, go together"
                    .into(),
            );
        }
        if !has_authority && !http.tls_client_crl.is_empty() {
            bad.push("http.tls_client_crl needs http.tls_client_ca".into());
        }
        if http.tls_cert.is_empty() && (has_authority || http.hsts_max_age_s > 0) {
            bad.push("http.tls_client_ca and http.hsts_max_age_s need http.tls_cert".into());
        }
        if !http.tls_cert.is_empty() && http.advertise.starts_with("http://") {
            bad.push(format!(
                "http.advertise is {}, but with http.tls_cert the port takes HTTPS only",
                http.advertise
            ));
        }
    }

    /// Refuses settings that would give access to anyone on the network, unless another setting confirms
    /// that.
    fn check_open(&self, bad: &mut Vec<String>) {
        let security = &self.security;
        let consul = self.consul_listen().map(|listen| ("consul.host", listen.ip()));
        let hosts = [Some(("http.host", self.http.host)), consul];
        let reachable = hosts.into_iter().flatten().find(|(_, host)| !host.is_loopback());
        let Some((host_key, host)) = reachable.filter(|_| !security.allow_open) else { return };
        let settings = [
            (security.registration_access, "registration_access", "MAXINE_REGISTRATION_ACCESS"),
            (security.discovery_access, "discovery_access", "MAXINE_DISCOVERY_ACCESS"),
        ];
        for (_, key, env) in settings.iter().filter(|(access, ..)| *access == Access::Open) {
            bad.push(format!(
                "security.{key} ({env}) is open, and {host_key} {host} is not a loopback address: set it \
                 to token, or set security.allow_open (MAXINE_ALLOW_OPEN) to true if everyone who \
                 reaches this address may do so"
            ));
        }
    }

    /// Refuses a name server that would answer more callers than may discover over HTTP: a question in DNS
    /// carries no token.
    fn check_dns(&self, bad: &mut Vec<String>) {
        let dns = &self.dns;
        if dns.port == 0 || dns.allow_open {
            return;
        }
        let mut why = Vec::new();
        if self.security.discovery_access == Access::Token {
            why.push("security.discovery_access is token, and DNS has no tokens".to_owned());
        }
        if !dns.host.is_loopback() {
            why.push(format!("dns.host {} is not a loopback address", dns.host));
        }
        if !why.is_empty() {
            bad.push(format!(
                "dns.port is set, and {}: set dns.allow_open (MAXINE_DNS_ALLOW_OPEN) to true if everyone \
                 who reaches this address may look up every service, or leave dns.port at 0",
                why.join(", and ")
            ));
        }
    }

    /// The address on which the name server listens; `None` for no name server.
    #[must_use]
    pub fn dns_listen(&self) -> Option<SocketAddr> {
        (self.dns.port > 0).then(|| SocketAddr::new(self.dns.host, self.dns.port))
    }

    /// The address on which the API of Consul has a port of its own; `None` for no such port.
    #[must_use]
    pub fn consul_listen(&self) -> Option<SocketAddr> {
        (self.consul.port > 0).then(|| SocketAddr::new(self.consul.host, self.consul.port))
    }

    /// The name that others see.
    #[must_use]
    pub fn name(&self) -> String {
        if !self.instance_id.is_empty() {
            return self.instance_id.clone();
        }
        if self.backend == BackendKind::Raft {
            return format!("node-{}", self.node_id);
        }
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        format!("{}-{}", host.unwrap_or_else(|| "localhost".into()), std::process::id())
    }

    /// The address to listen on.
    #[must_use]
    pub fn http_listen(&self) -> SocketAddr {
        SocketAddr::new(self.http.host, self.http.port)
    }

    /// The URL for clients and other nodes, given the address on which the node really listens.
    #[must_use]
    pub fn http_advertise(&self, bound: SocketAddr) -> String {
        if !self.http.advertise.is_empty() {
            return self.http.advertise.clone();
        }
        let ip = if bound.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { bound.ip() };
        let scheme = if self.http.tls_cert.is_empty() { "http" } else { "https" };
        format!("{scheme}://{}", SocketAddr::new(ip, bound.port()))
    }
}

/// The setting that names a file with the value of `name`, if there is one.
fn file_instead(name: &str) -> String {
    let file = format!("{name}_file");
    let key = KEYS.iter().find(|key| key.name == file);
    key.map(|key| format!(", or name a file that holds it with --{}", key.flag)).unwrap_or_default()
}

fn unknown_key(path: &Path, name: &str) -> String {
    let path = path.display();
    let close = |key: &&Key| {
        let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
        last(key.name) == last(name) || key.name.contains(name)
    };
    match KEYS.iter().find(close) {
        Some(key) => format!("{path}: {name} is not a setting; did you mean {}?", key.name),
        None => format!("{path}: {name} is not a setting; 'maxine config keys' lists all"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        toml: Option<&str>,
        environment: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<NodeConfig, InvalidSettings> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("maxine.toml");
        if let Some(text) = toml {
            std::fs::write(&path, text).unwrap();
        }
        let environment =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let flags = flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect();
        NodeConfig::load(toml.map(|_| path.as_path()), &environment, &flags)
    }

    #[test]
    fn open_access_on_the_network_needs_a_switch_of_its_own() {
        let load = |flags: &[(&'static str, &str)]| {
            let flags = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            NodeConfig::load(None, &BTreeMap::new(), &flags)
        };
        let open = load(&[("http.host", "0.0.0.0")]).unwrap_err();
        assert_eq!(open.0.len(), 2, "{open}");
        assert!(open.to_string().contains("MAXINE_ALLOW_OPEN"), "{open}");
        let half = [("http.host", "0.0.0.0"), ("security.registration_access", "token")];
        let half = load(&half).unwrap_err();
        assert_eq!(half.0.len(), 1, "{half}");
        assert!(half.to_string().contains("security.discovery_access"), "{half}");
        load(&[("http.host", "0.0.0.0"), ("security.allow_open", "true")]).unwrap();
        load(&[
            ("http.host", "0.0.0.0"),
            ("security.registration_access", "token"),
            ("security.discovery_access", "token"),
        ])
        .unwrap();
        // On loopback, access is open without a setting.
        load(&[]).unwrap();
        load(&[("http.host", "::1")]).unwrap();
    }

    #[test]
    fn every_default_is_accepted_by_its_own_key() {
        let mut config = NodeConfig::blank();
        for key in KEYS {
            assert_eq!((key.set)(&mut config, key.default), Ok(()), "{}", key.name);
        }
        assert_eq!(NodeConfig::defaults().http.port, 8080);
    }

    #[test]
    fn a_port_for_clients_of_consul_is_as_guarded_as_that_of_the_api() {
        let load = |flags: &[(&'static str, &str)]| load(None, &[], flags);
        assert_eq!(load(&[]).unwrap().consul_listen(), None, "no new port without a setting");
        let on = load(&[("consul.port", "8500")]).unwrap();
        assert_eq!(on.consul_listen().unwrap().to_string(), "127.0.0.1:8500");
        let open = [("consul.port", "8500"), ("consul.host", "0.0.0.0")];
        let error = load(&open).unwrap_err().to_string();
        assert!(error.contains("consul.host 0.0.0.0 is not a loopback address"), "{error}");
        load(&[open[0], open[1], ("security.allow_open", "true")]).unwrap();
        for (name, value) in
            [("consul.datacenter", "a.b"), ("consul.node", ""), ("consul.port", "x")]
        {
            let error = load(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_name_server_that_answers_more_callers_than_http_needs_a_switch() {
        let load = |flags: &[(&'static str, &str)]| load(None, &[], flags);
        assert_eq!(load(&[]).unwrap().dns_listen(), None, "no new port without a setting");
        let on = load(&[("dns.port", "8600")]).unwrap();
        assert_eq!(on.dns_listen().unwrap().to_string(), "127.0.0.1:8600");
        let token = ("security.discovery_access", "token");
        let error = load(&[("dns.port", "8600"), token]).unwrap_err().to_string();
        assert!(error.contains("DNS has no tokens"), "{error}");
        let error = load(&[("dns.port", "8600"), ("dns.host", "::")]).unwrap_err().to_string();
        assert!(error.contains("dns.host :: is not a loopback address"), "{error}");
        let open = ("dns.allow_open", "true");
        load(&[("dns.port", "8600"), ("dns.host", "::"), token, open]).unwrap();
        load(&[("dns.host", "::"), token]).unwrap();
        for (name, value) in [
            ("dns.domain", ""),
            ("dns.domain", "a..b"),
            ("dns.alt_domains", "consul,x y"),
            ("dns.datacenter", "a.b"),
            ("dns.udp_len_max", "511"),
        ] {
            let error = load(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let toml = "[http]\nport = 1000\nheader_timeout_ms = 7000\n[state]\nlease_ms = 20000";
        let config = load(
            Some(toml),
            &[("PORT", "2000"), ("MAXINE_NODE_ID", "4")],
            &[("http.port", "3000")],
        )
        .unwrap();
        assert_eq!(config.http.port, 3000);
        assert_eq!(config.node_id, 4);
        assert_eq!(config.http.header_timeout_ms, 7000);
        assert_eq!(config.state.lease_ms, 20_000);
    }

    #[test]
    fn all_bad_values_are_told_at_once() {
        let toml = "colour = 1\n[http]\nport = 70000\n[raft]\nlisten = \"nowhere\"";
        let error = load(Some(toml), &[("MAXINE_LEADER_ELECTION_LEASE_MS", "x")], &[]).unwrap_err();
        assert_eq!(error.0.len(), 4, "{error}");
        let text = error.to_string();
        for part in ["colour is not a setting", "http.port", "70000", "nowhere", "state.lease_ms"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    /// Every setting refuses a password that is given as an argument, and the error does not show it. In the
    /// environment it is accepted.
    #[test]
    fn a_password_in_an_argument_is_refused() {
        let url = "redis://:hunter2@10.0.0.1:6379";
        for (name, value) in [
            ("state.redis_url", url),
            ("state.redis_sentinels", "redis://10.0.0.2,redis://u:hunter2@10.0.0.1"),
            ("telemetry.alert_webhook_url", "https://me:hunter2@hooks.example/x"),
        ] {
            let error = load(None, &[], &[(name, value)]).unwrap_err().to_string();
            let key = KEYS.iter().find(|key| key.name == name).unwrap();
            assert!(
                error.contains(key.env) && error.contains("must not hold a password"),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
            let master = ("MAXINE_REGISTRY_REDIS_SENTINEL_MASTER", "main");
            assert!(load(None, &[(key.env, value), master], &[]).is_ok(), "{name}");
        }
        let error = load(None, &[], &[("state.redis_url", url)]).unwrap_err().to_string();
        assert!(error.contains("--redis-url-file"), "{error}");
        let plain = [("state.redis_url", "redis://10.0.0.1:6379/2,redis://maxine@10.0.0.2")];
        assert!(load(None, &[], &plain).is_ok());
        let long = format!("redis://:hunter2@{}", "x".repeat(5_000));
        let error = load(None, &[("MAXINE_REGISTRY_REDIS_URL", &long)], &[]).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    /// Regression: the secret in the path or the query of a webhook was accepted as an argument, and other users saw it.
    #[test]
    fn a_url_with_a_secret_in_an_argument_is_refused() {
        for (name, value, part) in [
            ("telemetry.alert_webhook_url", "https://hooks.example/services/hunter2", "a path"),
            ("telemetry.alert_webhook_url", "https://hooks.example?token=hunter2", "a query"),
            ("telemetry.alert_webhook_url", "HTTPS://hunter2@hooks.example", "a user"),
            ("audit.http_url", "https://siem.example/in/hunter2", "a path"),
            ("telemetry.otlp_endpoint", "https://otlp.example/v1?key=hunter2", "a query"),
            ("telemetry.performance_report_url", "https://r.example/x?sig=hunter2", "a query"),
        ] {
            let error = load(None, &[], &[(name, value)]).unwrap_err().to_string();
            let key = KEYS.iter().find(|key| key.name == name).unwrap();
            let says = error.contains(key.env) && error.contains("in the settings file");
            assert!(says && error.contains(&format!("must not hold {part}")), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
            assert!(load(None, &[(key.env, value)], &[]).is_ok(), "{name}");
        }
        for (name, value) in [
            ("telemetry.alert_webhook_url", "http://127.0.0.1:9000/"),
            ("audit.http_url", "https://siem.example"),
            ("telemetry.otlp_endpoint", "http://127.0.0.1:4318/v1/traces"),
        ] {
            assert!(load(None, &[], &[(name, value)]).is_ok(), "{name}");
        }
        let long = format!("https://hooks.example/hunter2/{}", "x".repeat(5_000));
        let error = load(None, &[("MAXINE_ALERT_WEBHOOK_URL", &long)], &[]).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn a_mistaken_variable_is_refused_and_a_strange_one_is_not() {
        let error = load(None, &[("MAXINE_MODE", "raft")], &[]).unwrap_err().to_string();
        assert!(error.contains("did you mean MAXINE_REGISTRY_STATE_MODE?"), "{error}");
        assert!(load(None, &[("MAXINE_TEAM", "x")], &[]).is_ok());
    }

    /// The node parses these texts again when it starts, so a bad one must be refused before.
    #[test]
    fn filters_and_origins_that_mean_nothing_are_refused() {
        let is_good = |flag: &'static str, value: &str| {
            load(None, &[], &[(flag, value)]).map(drop).map_err(|error| error.to_string())
        };
        for good in
            ["", "*", "https://app.example.com", "http://localhost:3000", "http://[::1]:3000"]
        {
            assert_eq!(is_good("http.cors_allow_origin", good), Ok(()));
        }
        for bad in [
            "foo",
            "https://",
            "https://app.example.com/",
            "https://APP.example.com",
            "a, b",
            "https://u@h",
        ] {
            let error = is_good("http.cors_allow_origin", bad).unwrap_err();
            assert!(error.contains("must be an origin as browsers send it"), "{error}");
        }
        assert_eq!(is_good("telemetry.log_filter", "warn,maxine=debug,openraft=error"), Ok(()));
        for typo in ["inof", "info,maxine=debgu", "maxin=debug"] {
            let error = is_good("telemetry.log_filter", typo).unwrap_err();
            assert!(error.contains("telemetry.log_filter must be a filter such as"), "{error}");
        }
        let error = is_good("telemetry.log_filter", "???==").unwrap_err();
        assert!(error.contains("telemetry.log_filter must be a filter such as"), "{error}");
        let error = is_good("node.zone", "a\nb").unwrap_err();
        assert!(error.ends_with(r"without control characters, got a\nb"), "{error}");
    }

    #[test]
    fn settings_of_the_export_of_traces_are_checked() {
        let load = |name: &'static str, value: &str| load(None, &[], &[(name, value)]);
        let config = load("telemetry.otlp_sample_ratio", "0.25").unwrap();
        assert_eq!(config.telemetry.otlp.sample_ratio, 0.25);
        let config = load("telemetry.otlp_attributes", "a.b=c d, team = x=y").unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(config.telemetry.otlp.attributes, [pair("a.b", "c d"), pair("team", "x=y")]);
        for (name, value) in [
            ("telemetry.otlp_sample_ratio", "1.01"),
            ("telemetry.otlp_sample_ratio", "NaN"),
            ("telemetry.otlp_protocol", "thrift"),
            ("telemetry.otlp_attributes", "=x"),
            ("telemetry.otlp_attributes", "x"),
            ("telemetry.otlp_queue_max", "0"),
        ] {
            let error = load(name, value).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn settings_of_the_forwarding_of_audit_records_are_checked() {
        let load = |name: &'static str, value: &str| load(None, &[], &[(name, value)]);
        assert!(!NodeConfig::defaults().audit.is_on());
        let config = load("audit.syslog_address", "siem.example:6514").unwrap();
        assert!(config.audit.is_on());
        assert_eq!(load("audit.anchor_interval_s", "60").unwrap().audit.anchor_interval_ms, 60_000);
        for (name, value) in [
            ("audit.syslog_address", "siem.example"),
            ("audit.syslog_protocol", "udp"),
            ("audit.http_mode", "strict"),
            ("audit.batch_max", "0"),
            ("audit.files_max", "0"),
            ("audit.file_mode", "blocking"),
            ("audit.syslog_mode", "blocking"),
            ("audit.http_mode", "blocking"),
        ] {
            let error = load(name, value).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_schedule_of_backups_needs_a_folder_and_a_raft_log() {
        let schedule = ("backup.schedule", "daily 02:30");
        let error = load(None, &[], &[schedule]).unwrap_err().to_string();
        assert!(error.contains("backup.schedule needs backup.directory"), "{error}");
        assert!(error.contains("in local mode Maxine takes no backups"), "{error}");
        let raft =
            [schedule, ("backup.directory", "backups"), ("state.mode", "raft"), ("node.id", "1")];
        let config = load(None, &[], &raft).unwrap();
        assert_eq!(config.backup.schedule, Some(BackupSchedule::DailyAt(150)));
        let error = load(None, &[], &[("backup.keep", "0")]).unwrap_err().to_string();
        assert!(error.contains("backup.keep"), "{error}");
    }

    #[test]
    fn a_bare_ipv6_address_is_told_of_its_brackets() {
        for (name, value) in [
            ("raft.listen", "::1:7700"),
            ("raft.listen", "fe80::1"),
            ("raft.advertise", "fe80::1:7700"),
            ("raft.members", "1@::1:7700@http://127.0.0.1:8080"),
        ] {
            let error = load(None, &[], &[(name, value)]).unwrap_err().to_string();
            assert!(error.contains("in brackets"), "{name} {value}: {error}");
        }
        assert!(load(None, &[], &[("raft.listen", "[::1]:7700")]).is_ok());
    }

    #[test]
    fn plain_tcp_on_an_open_address_needs_a_word() {
        let flags = [("state.mode", "raft"), ("node.id", "1"), ("raft.listen", "0.0.0.0:7700")];
        let error = load(None, &[], &flags).unwrap_err().to_string();
        assert!(error.contains("raft.allow_plain"), "{error}");
        let mut flags = flags.to_vec();
        flags.push(("raft.allow_plain", "true"));
        assert!(load(None, &[], &flags).is_ok());
    }

    #[test]
    fn members_are_read() {
        let members =
            "1@127.0.0.1:7701@http://127.0.0.1:8081,2@127.0.0.1:7702@http://127.0.0.1:8082";
        let flags = [("state.mode", "raft"), ("node.id", "2"), ("raft.members", members)];
        let config = load(None, &[], &flags).unwrap();
        assert_eq!(config.raft.members.len(), 2);
        assert_eq!(config.raft.members[1].peer_addr, "127.0.0.1:7702");
        let flags = [("state.mode", "raft"), ("node.id", "3"), ("raft.members", members)];
        assert!(load(None, &[], &flags).is_err());
    }
}
