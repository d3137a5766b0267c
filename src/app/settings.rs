//! Converts the node's settings to those of each part.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::OneTimePassword;
use super::objectives::objectives;
use crate::config::{Access, BackendKind, NodeConfig};
use maxine_actors::registry::RegistrySettings;
use maxine_admission::PlaceLimits;
use maxine_api::ServeLimits;
use maxine_api::access::AccessMode;
use maxine_api::{ApiSettings, host_name};
use maxine_control::health::ActiveDefaults;
use maxine_dns::{DnsSettings, own_addresses};
use maxine_gateway::{
    ConnectionLimits, EgressPolicy, ForwarderConfig, OwnAddresses, TlsRoots, TrustedProxies,
};
use maxine_identity::{
    Account, CertificateFiles, EnvSigningKeys, OutsideSettings, Secret, SecuritySettings,
    ServerTls, ServerTlsSettings, break_glass_file, check_password, make_break_glass_token,
};
use maxine_state::limits::check_user_name;
use maxine_state::{AuditAction, ControlState, Role};
use maxine_store::local::LocalConfig;
use maxine_store::redis::{RedisConfig, Topology};
use maxine_store::shared_file::SharedFileConfig;
use maxine_telemetry::audit_forward::AuditForwardSettings;
use maxine_telemetry::{LogOutbox, RequestLogSettings, TelemetrySettings, WebhookSettings};
use maxine_view::View;

/// Maximum number of connections to instances, however many files may be open.
const UPSTREAMS_MAX: usize = 65_536;
/// Minimum for the limit of open files. Below it a node cannot open its own files.
const OPEN_FILES_MIN: u64 = 256;

fn access_mode(access: Access) -> AccessMode {
    match access {
        Access::Open => AccessMode::Open,
        Access::Token => AccessMode::Token,
    }
}

pub(super) fn registry(config: &NodeConfig) -> RegistrySettings {
    let mut settings = config.registry.clone();
    settings.takeover_extra_ms = match config.backend {
        BackendKind::Raft => config.raft.election_timeout_max_ms,
        _ => config.state.lease_ms,
    };
    settings
}

pub(super) fn api(config: &NodeConfig, http_addr: SocketAddr) -> ApiSettings {
    let set = |text: &String| (!text.is_empty()).then(|| text.clone());
    ApiSettings {
        instance_id: config.name(),
        port: http_addr.port(),
        registration_access: access_mode(config.security.registration_access),
        discovery_access: access_mode(config.security.discovery_access),
        cors_allow_origin: set(&config.http.cors_allow_origin),
        log_queries: config.telemetry.log_queries,
        trace_header_name: config.telemetry.trace_header.clone(),
        performance_report_url: set(&config.telemetry.performance_report_url),
        clustered: config.backend != BackendKind::Local,
        body_timeout_ms: config.http.request_timeout_ms,
        proxy_body_len_max: Some(config.http.proxy_body_len_max).filter(|max| *max > 0),
        proxy_sandbox: config.http.proxy_sandbox,
        allowed_hosts: allowed_hosts(config),
        allow_plain_http: config.security.allow_plain_http,
        hsts_max_age_s: config.http.hsts_max_age_s,
        trusted_proxies: TrustedProxies::new(config.security.trusted_proxies.clone()),
        pending_audit_file: Some(config.data_dir.join("pending-audit")),
        open_instances_per_address_max: config.security.open_instances_per_address_max,
        watchers: PlaceLimits {
            max: config.http.watchers_max,
            per_address_max: config.http.watchers_per_address_max,
            reserved: config.http.watchers_max / 10,
        },
        bodies: PlaceLimits {
            max: config.http.bodies_len_max,
            per_address_max: config.http.bodies_per_address_len_max,
            reserved: config.http.bodies_len_max / 4,
        },
        ..ApiSettings::default()
    }
}

pub(super) fn dns(config: &NodeConfig) -> DnsSettings {
    let dns = &config.dns;
    let advertised = config.http.advertise.parse::<axum::http::Uri>().ok();
    let advertised =
        advertised.as_ref().and_then(|url| url.host()?.trim_matches(['[', ']']).parse().ok());
    DnsSettings {
        domains: dns.domain.iter().chain(&dns.alt_domains).cloned().collect(),
        datacenter: dns.datacenter.clone(),
        ttl_s: dns.ttl_s,
        negative_ttl_s: dns.negative_ttl_s,
        udp_len_max: dns.udp_len_max,
        rate_max_per_s: dns.rate_max_per_s,
        connections_max: dns.connections_max,
        connections_per_address_max: dns.connections_per_address_max,
        connection_timeout_ms: dns.connection_timeout_ms,
        own_addresses: own_addresses(dns.host, advertised),
    }
}

/// The names that clients of Consul see.
pub(super) fn consul_names(config: &NodeConfig) -> maxine_consul::Names {
    let consul = &config.consul;
    maxine_consul::Names { datacenter: consul.datacenter.clone(), node: consul.node.clone() }
}

/// The limits of the port for clients of Consul, and those that are left for the API's own port.
pub(super) fn consul_limits(
    config: &NodeConfig,
    limits: ServeLimits,
) -> (ServeLimits, ServeLimits) {
    // Both ports share the files that the process may open.
    let of_consul = config.consul.connections_max.min(limits.connections_max / 2).max(1);
    let rest = (limits.connections_max - of_consul).max(1);
    // One address may have the same share of each port.
    let part = |connections_max: usize| {
        let share = connections_max as u128 * limits.connections_per_address_max as u128;
        let share = share / limits.connections_max.max(1) as u128;
        let connections_per_address_max = usize::try_from(share).unwrap_or(usize::MAX).max(1);
        ServeLimits { connections_max, connections_per_address_max, ..limits.clone() }
    };
    (part(of_consul), part(rest))
}

/// The names by which browsers may call this node, in addition to those that the members advertise.
fn allowed_hosts(config: &NodeConfig) -> Vec<String> {
    let mut hosts = config.http.allowed_hosts.clone();
    let advertised = config.http.advertise.rsplit("://").next().unwrap_or_default();
    hosts.extend(host_name(advertised.split('/').next().unwrap_or_default()));
    let machine = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    hosts.extend(machine.and_then(|name| host_name(&name)));
    hosts
}

pub(super) fn telemetry(config: &NodeConfig) -> TelemetrySettings {
    let settings = &config.telemetry;
    let webhook = (!settings.alert_webhook_url.is_empty()).then(|| WebhookSettings {
        url: settings.alert_webhook_url.clone(),
        timeout_ms: settings.alert_webhook_timeout_ms,
    });
    TelemetrySettings {
        node: config.name(),
        cluster: config.raft.cluster_id.clone(),
        traces_max: settings.traces_max,
        audit_max: settings.audit_max,
        alerts_max: settings.alerts_max,
        silences_file: Some(config.data_dir.join("alert-silences")),
        request_log: RequestLogSettings {
            directory: Some(config.data_dir.join(&settings.log_dir)),
            audit_file: Some(config.data_dir.join(&settings.audit_file)),
            ..RequestLogSettings::default()
        },
        webhook,
        otlp: (!settings.otlp.endpoint.is_empty()).then(|| settings.otlp.clone()),
        metrics_services_max: settings.metrics_services_max,
        metrics_former_names: settings.metrics_former_names,
        log_outbox: LogOutbox::of_process(),
        objectives: objectives(),
        objectives_file: Some(config.data_dir.join("objectives")),
        ..TelemetrySettings::default()
    }
}

/// The forwarding of audit records, if a sink is set.
pub(super) fn audit_forward(config: &NodeConfig) -> Option<AuditForwardSettings> {
    config.audit.is_on().then(|| AuditForwardSettings {
        directory: config.data_dir.join("audit-forward"),
        file: audit_file(config),
        ..config.audit.clone()
    })
}

/// The file to which audit records are forwarded.
pub(super) fn audit_file(config: &NodeConfig) -> Option<PathBuf> {
    config.audit.file.as_ref().map(|file| config.data_dir.join(file))
}

/// The directories that this node writes to.
pub(super) fn directories(config: &NodeConfig) -> Vec<PathBuf> {
    let mut directories = vec![config.data_dir.clone()];
    let logs = config.data_dir.join(&config.telemetry.log_dir);
    directories.extend((!logs.starts_with(&config.data_dir)).then_some(logs));
    let audit = audit_file(config).and_then(|file| Some(file.parent()?.to_owned()));
    directories.extend(audit.filter(|audit| !audit.starts_with(&config.data_dir)));
    if matches!(config.backend, BackendKind::Local | BackendKind::SharedFile) {
        let log = log_path(config);
        let parent = log.parent().filter(|parent| !parent.as_os_str().is_empty());
        let storage = parent.map_or_else(|| PathBuf::from("."), PathBuf::from);
        directories.extend((!storage.starts_with(&config.data_dir)).then_some(storage));
    }
    directories.extend(backup_dir(config).filter(|dir| !dir.starts_with(&config.data_dir)));
    directories
}

/// The folder of the scheduled backups; `None` if none are made.
pub(super) fn backup_dir(config: &NodeConfig) -> Option<PathBuf> {
    config.backup.schedule.map(|_| config.data_dir.join(&config.backup.directory))
}

/// The certificates that this node uses.
#[must_use]
pub fn certificates(config: &NodeConfig) -> Vec<PathBuf> {
    let (raft, state) = (&config.raft, &config.state);
    let mut files: Vec<&PathBuf> = config.http.tls_cert.iter().collect();
    files.push(&config.http.tls_client_ca);
    match config.backend {
        BackendKind::Raft => files.extend([&raft.tls_ca, &raft.tls_cert]),
        BackendKind::Redis => files.extend([&state.redis_tls_ca, &state.redis_tls_cert]),
        BackendKind::Local | BackendKind::SharedFile => {}
    }
    files.into_iter().filter(|path| !path.as_os_str().is_empty()).cloned().collect()
}

/// The lists of revoked certificates that this node uses.
#[must_use]
pub fn revocation_lists(config: &NodeConfig) -> Vec<PathBuf> {
    let of_peers: &[PathBuf] = match config.backend {
        BackendKind::Raft => &config.raft.tls_crl[..],
        BackendKind::Redis | BackendKind::Local | BackendKind::SharedFile => &[],
    };
    config.http.tls_client_crl.iter().chain(of_peers).cloned().collect()
}

pub(super) fn redis(config: &NodeConfig) -> anyhow::Result<RedisConfig> {
    let settings = &config.state;
    let file = &settings.redis_url_file;
    let urls = if file.as_os_str().is_empty() {
        settings.redis_url.clone()
    } else {
        maxine_files::read_text(file).map_err(|error| {
            let why = maxine_wording::io(&error);
            anyhow::anyhow!("state.redis_url_file: {}: {why}", file.display())
        })?
    };
    let mut urls = urls.split(',').map(|url| url.trim().to_owned()).filter(|url| !url.is_empty());
    let url = urls.next().context("no Redis URL is set")?;
    let others: Vec<String> = urls.collect();
    let topology = if !settings.redis_sentinel_master.is_empty() {
        let sentinels = match settings.redis_sentinels.as_str() {
            "" => std::iter::once(url.clone()).chain(others).collect(),
            list => list.split(',').map(|url| url.trim().to_owned()).collect(),
        };
        let master_name = settings.redis_sentinel_master.clone();
        Topology::Sentinel { sentinels, master_name }
    } else if others.is_empty() {
        Topology::Single
    } else {
        Topology::Cluster { nodes: others }
    };
    Ok(RedisConfig {
        url,
        topology,
        key_prefix: settings.redis_key_prefix.clone(),
        connect_timeout_ms: settings.redis_connect_timeout_ms,
        instance_id: config.name(),
        newest_state: newest_state(config),
        lease_tokens: lease_tokens(config),
        election_enabled: settings.election_enabled,
        lease_ms: settings.lease_ms,
        renew_ms: settings.lease_renew_ms,
        wait_replicas: settings.redis_wait_replicas,
        wait_timeout_ms: settings.redis_wait_timeout_ms,
        command_timeout_ms: settings.redis_command_timeout_ms,
        tls_ca_file: named(&settings.redis_tls_ca),
        tls_client_files: named(&settings.redis_tls_cert).zip(named(&settings.redis_tls_key)),
        ..RedisConfig::default()
    })
}

fn named(path: &std::path::Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.into())
}

/// The log of local and shared-file mode. It is beside the file in which a Node.js Maxine kept its state.
pub(super) fn log_path(config: &NodeConfig) -> PathBuf {
    let file = &config.state.file;
    let mut path = if file.as_os_str().is_empty() {
        config.data_dir.join("registry-state.json").into_os_string()
    } else {
        file.clone().into_os_string()
    };
    path.push(".log");
    path.into()
}

/// The file in which a node of local, shared-file and Redis mode notes the newest state that it has seen.
fn newest_state(config: &NodeConfig) -> Option<PathBuf> {
    Some(config.data_dir.join("newest-state"))
}

/// The file with the tokens of the last processes. In shared-file and Redis mode a process locks the data
/// directory, so no two processes use the file at once.
fn lease_tokens(config: &NodeConfig) -> Option<PathBuf> {
    Some(config.data_dir.join("lease-tokens"))
}

pub(super) fn local(config: &NodeConfig) -> LocalConfig {
    LocalConfig {
        path: log_path(config),
        newest_state: newest_state(config),
        persistence: config.state.persistence,
        instance_id: config.name(),
        ..LocalConfig::default()
    }
}

pub(super) fn shared_file(config: &NodeConfig) -> SharedFileConfig {
    SharedFileConfig {
        path: log_path(config),
        used_log: Some(config.data_dir.join("shared-log")),
        newest_state: newest_state(config),
        lease_tokens: lease_tokens(config),
        lock_timeout_ms: config.state.lock_timeout_ms,
        lock_retry_ms: config.state.lock_retry_ms,
        instance_id: config.name(),
        election_enabled: config.state.election_enabled,
        lease_ms: config.state.lease_ms,
        renew_ms: config.state.lease_renew_ms,
        call_bind: SocketAddr::new(config.http.host, 0),
        // An unspecified address cannot be called, so the other nodes get this machine's name.
        call_host: config
            .http
            .host
            .is_unspecified()
            .then(|| nix::unistd::gethostname().ok()?.into_string().ok())
            .flatten(),
        ..SharedFileConfig::default()
    }
}

/// Makes this node's break-glass token and its file in the data directory, which must exist.
pub(super) fn break_glass(config: &NodeConfig) -> anyhow::Result<Secret> {
    make_break_glass_token(&config.data_dir).with_context(|| {
        format!("{} cannot be written", break_glass_file(&config.data_dir).display())
    })
}

/// Reads accounts and secrets from the environment only, never from a file with other settings or a flag.
/// Changes nothing. The start of the node adds [`break_glass`].
pub(super) fn security(config: &NodeConfig) -> anyhow::Result<SecuritySettings> {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut accounts = Vec::new();
    for (role, prefix) in [
        (Role::Admin, "MAXINE_ADMIN"),
        (Role::Operator, "MAXINE_OPERATOR"),
        (Role::Viewer, "MAXINE_VIEWER"),
    ] {
        let (name, word) = (format!("{prefix}_USERNAME"), format!("{prefix}_PASSWORD"));
        match (env(&name), env(&word)) {
            (Some(user_name), Some(password)) => {
                check_user_name(&name, &user_name)?;
                check_password(&word, &password)?;
                let password = Secret::new(&password);
                accounts.push(Account { role, user_name, password });
            }
            (None, None) => {}
            _ => anyhow::bail!("set both {name} and {word}, or neither"),
        }
    }
    let env_keys = match env("MAXINE_JWT_SECRET") {
        None => None,
        Some(current) => {
            let key_id = env("MAXINE_JWT_SECRET_KEY_ID");
            let previous = env("MAXINE_JWT_PREVIOUS_SECRETS").unwrap_or_default();
            Some(
                EnvSigningKeys::new(key_id.as_deref(), &current, &previous)
                    .map_err(anyhow::Error::msg)?,
            )
        }
    };
    check_user_name("security.admin_username", &config.security.admin_username)?;
    Ok(SecuritySettings {
        cluster_name: config.raft.cluster_id.clone(),
        node_name: config.name(),
        break_glass: None,
        credential_staleness_max_ms: config.security.credential_staleness_max_ms,
        first_admin: config.security.admin_username.clone(),
        accounts,
        env_keys,
        session_lifetime_s: config.security.token_ttl_s,
        ..SecuritySettings::default()
    })
}

/// The identities of others that this node accepts. Blocks.
pub(super) fn outside(config: &NodeConfig) -> Result<OutsideSettings, Vec<String>> {
    match named(&config.security.identities_file) {
        Some(path) => OutsideSettings::read(&path),
        None => Ok(OutsideSettings::default()),
    }
}

/// Files in the data directory that this node does not read, one line each. If there are any, the operator
/// may have meant another mode.
#[must_use]
pub fn unread_files(config: &NodeConfig) -> Vec<String> {
    let mut found = Vec::new();
    let log = log_path(config);
    let old = log.with_extension("");
    let keeps_a_file = matches!(config.backend, BackendKind::Local | BackendKind::SharedFile);
    if keeps_a_file && old.is_file() && !log.exists() {
        let (old, log) = (old.display(), log.display());
        found.push(format!(
            "{old} exists and is not read; to copy its content, stop this node and run: maxine migrate nodejs:{old} \
             file:{log}"
        ));
    }
    let raft = config.data_dir.join("raft");
    if config.backend != BackendKind::Raft && raft.join("identity").exists() {
        found.push(format!(
            "{} is the log of a node in Raft mode, and is not read in this mode (state.mode)",
            raft.display()
        ));
    }
    if std::env::var_os("MAXINE_ADMIN_STATE_FILE").is_some() {
        found.push(
            "MAXINE_ADMIN_STATE_FILE is not read: accounts are kept in the state, as hashes; set \
             MAXINE_ADMIN_USERNAME and MAXINE_ADMIN_PASSWORD to name one"
                .to_owned(),
        );
    }
    found
}

/// Logs a warning if the settings allow everyone who reaches the port to register or to discover.
pub(super) fn warn_if_open(config: &NodeConfig, http_addr: SocketAddr) {
    if !http_addr.ip().is_loopback() && config.http.tls_cert.is_empty() {
        let passwords = match config.security.allow_plain_http {
            true => "passwords are accepted (security.allow_plain_http)",
            false => {
                "passwords from other machines are refused, unless a trusted proxy took them over HTTPS"
            }
        };
        tracing::warn!(
            "{http_addr} takes plain HTTP: others on the way can read tokens and answers; {passwords}; set \
             http.tls_cert and http.tls_key for HTTPS"
        );
    }
    let open = [
        (config.security.registration_access, "registration", "security.registration_access"),
        (config.security.discovery_access, "discovery and the proxy", "security.discovery_access"),
    ];
    for (access, what, key) in open {
        if access == Access::Open && !http_addr.ip().is_loopback() {
            tracing::warn!(
                "{what} is open to everyone who reaches {http_addr}; set {key} = \"token\" to ask for a token"
            );
        }
    }
}

/// Shows the one-time password once: in the file of the settings, or on standard error.
pub(super) fn show_password(config: &NodeConfig, made: &OneTimePassword) {
    let path = &config.security.initial_password_file;
    // Only this function shows the password. Only its hash is stored.
    let word = made.password.expose();
    if path.as_os_str().is_empty() {
        print_password(made);
        return;
    }
    let written = new_private_file(path).and_then(|mut file| writeln!(file, "{word}"));
    if let Err(error) = written {
        tracing::error!(%error, path = %path.display(), "the one-time password cannot be written");
        print_password(made);
    }
}

/// Creates a file that only its owner may read. It replaces an existing file, because whoever created that
/// file could read the new content. A link, a directory or any other kind of file is refused.
fn new_private_file(path: &Path) -> std::io::Result<std::fs::File> {
    match std::fs::symlink_metadata(path) {
        Ok(present) if present.is_file() => std::fs::remove_file(path)?,
        Ok(_) => return Err(std::io::Error::other("it exists and is not a file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)
}

fn print_password(made: &OneTimePassword) {
    let (name, word) = (&made.user_name, made.password.expose());
    let text =
        format!("\nfirst start: sign in as {name} with the password (shown this once) {word}\n");
    if let Err(error) = writeln!(std::io::stderr(), "{text}") {
        tracing::error!(%error, "the one-time password could not be written to standard error");
    }
}

/// On a node that starts with an empty state: logs which node showed the first administrator's password, if
/// it was another node. The node that led first creates the password.
pub(super) async fn log_first_password_node(view: Arc<View>, config: NodeConfig) {
    let mut changes = view.index_changes();
    let is_empty = |view: &View| view.with_snapshot(|now| now.state.identities().users.is_empty());
    if !is_empty(&view) {
        return;
    }
    let has_users = |_: &u64| !is_empty(&view);
    if changes.wait_for(has_users).await.is_err() {
        return;
    }
    let user = &config.security.admin_username;
    match view.with_snapshot(|now| first_password_made_by(&now.state, user)) {
        Some(node) if node != config.name() => tracing::info!(
            node,
            user,
            "the first administrator's password was shown by another node: on its standard error, or in the file \
             that its security.initial_password_file names"
        ),
        _ => {}
    }
}

/// The node that led when the first administrator was made with a random password, as far as the audit log
/// goes back.
fn first_password_made_by(state: &ControlState, user: &str) -> Option<String> {
    let is_random = state.identities().users.get(user).is_some_and(|user| !user.managed);
    let mut leader = None;
    for record in state.audit().records() {
        match record.action {
            AuditAction::LeadershipGrant => leader = Some(record.object.to_string()),
            AuditAction::UserPut
                if &*record.user == "system:bootstrap" && &*record.object == user =>
            {
                return leader.filter(|_| is_random);
            }
            _ => {}
        }
    }
    None
}

/// TLS of the HTTP port, if it takes HTTPS.
pub(super) fn http_tls(config: &NodeConfig) -> Option<ServerTlsSettings> {
    let http = &config.http;
    let pairs = http.tls_cert.iter().zip(&http.tls_key);
    let certificates: Vec<CertificateFiles> = pairs
        .map(|(certificate, key)| CertificateFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        })
        .collect();
    if certificates.is_empty() {
        return None;
    }
    let authority = &http.tls_client_ca;
    Some(ServerTlsSettings {
        certificates,
        client_authority: (!authority.as_os_str().is_empty()).then(|| authority.clone()),
        client_crl: http.tls_client_crl.clone(),
        client_auth: http.tls_client_auth,
        version_min: http.tls_version_min,
    })
}

/// The authorities that may sign the certificates of instances. Blocks.
pub(super) fn upstream_roots(config: &NodeConfig) -> Result<TlsRoots, String> {
    let path = &config.security.upstream_ca;
    if path.as_os_str().is_empty() {
        return Ok(TlsRoots::System);
    }
    let read = maxine_files::read_bundle(path);
    read.map(TlsRoots::Pem)
        .map_err(|error| format!("{}: {}", path.display(), maxine_wording::io(&error)))
}

/// The settings of the proxy. Loopback addresses may be registered if Maxine itself listens on loopback only,
/// because then every client is on this host already.
pub(super) fn forwarder(
    config: &NodeConfig,
    http_addr: SocketAddr,
    own: OwnAddresses,
) -> anyhow::Result<ForwarderConfig> {
    let security = &config.security;
    let tls_roots =
        upstream_roots(config).map_err(|why| anyhow::anyhow!("security.upstream_ca: {why}"))?;
    let (allow, deny) = (security.upstream_allow.clone(), security.upstream_deny.clone());
    let egress = EgressPolicy::new(allow, deny, http_addr.ip().is_loopback()).with_own(own);
    let connections = ConnectionLimits {
        max: upstreams_max(config)?,
        per_address_percent: config.http.proxy_connections_per_address_percent,
    };
    Ok(ForwarderConfig { connections, ..ForwarderConfig::new(egress, tls_roots) })
}

/// The node-wide settings of active health checks.
pub(super) fn health(config: &NodeConfig) -> ActiveDefaults {
    let health = &config.health;
    ActiveDefaults {
        enabled: health.enabled,
        interval_ms: health.interval_ms,
        timeout_ms: health.timeout_ms,
        fall: health.failure_threshold,
        path: health.path.clone(),
        observers: u32::try_from(health.observers_min).unwrap_or(1).max(1),
    }
}

/// The server's limits. Raises the limit of open files as far as the system allows, and accepts fewer
/// connections than that limit. At the limit no connection could be accepted, and no file opened.
pub(super) fn serve(config: &NodeConfig) -> anyhow::Result<ServeLimits> {
    let files = raise_open_files()?;
    anyhow::ensure!(
        files >= OPEN_FILES_MIN,
        "the limit of open files is {files}, at least {OPEN_FILES_MIN} are needed: raise it \
         (ulimit -n, LimitNOFILE=)"
    );
    let asked = config.http.connections_max;
    let room = clients_max(files);
    if asked > room {
        tracing::warn!(
            "http.connections_max is {asked}, but the limit of open files is {files}: at most {room} \
             connections are taken; raise the limit (ulimit -n, LimitNOFILE=) or lower the setting"
        );
    }
    let tls = match http_tls(config) {
        Some(settings) => {
            let tls =
                ServerTls::load(settings).map_err(|why| anyhow::anyhow!("http.tls_cert: {why}"))?;
            Some(Arc::new(tls))
        }
        None => None,
    };
    Ok(ServeLimits {
        tls,
        connections_max: asked.min(room),
        connections_per_address_max: config.http.connections_per_address_max,
        trusted_proxies: TrustedProxies::new(config.security.trusted_proxies.clone()),
        header_timeout_ms: config.http.header_timeout_ms,
        ..ServeLimits::default()
    })
}

/// Maximum number of connections of clients with this limit of open files. The rest is for connections to
/// instances, peers and Redis, and for files.
fn clients_max(files: u64) -> usize {
    usize::try_from(files / 4 * 3).unwrap_or(usize::MAX)
}

/// Maximum number of connections to instances: three quarters of what the connections of clients leave, so
/// that the node can always open its own files.
fn upstreams_max(config: &NodeConfig) -> anyhow::Result<usize> {
    let files = raise_open_files()?;
    let clients = config.http.connections_max.min(clients_max(files));
    let left = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(clients);
    Ok((left / 4 * 3).min(UPSTREAMS_MAX))
}

/// Raises this process's limit of open files to the highest allowed value, and returns the limit.
fn raise_open_files() -> anyhow::Result<u64> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("the limit of open files cannot be read")?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(hard);
    }
    Ok(soft)
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
