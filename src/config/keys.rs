//! The table of all settings.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::backup::schedule;
use super::values::{
    access, attributes, backend, client_auth, datacenter, domain, domains, engine, host_and_port,
    hosts, log_filter, log_format, members, name, networks, number, origin, otlp_protocol, parsed,
    path, paths, ratio, sink_mode, socket_address, switch, syslog_protocol, text, tls_version,
};
use super::{
    Access, BackendKind, BackupConfig, ConsulConfig, DnsConfig, HealthConfig, HttpConfig,
    NodeConfig, OwnLogFormat, RaftConfig, SecurityConfig, StateConfig, TelemetryConfig,
};
use maxine_actors::registry::RegistrySettings;
use maxine_identity::{ClientAuth, TlsVersion};
use maxine_telemetry::OtlpSettings;
use maxine_telemetry::audit_forward::AuditForwardSettings;

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
    /// The allowed values, in words.
    pub range: &'static str,
    /// Its default, as it would be written in the file.
    pub default: &'static str,
    /// The explanation in the reference and in the help.
    pub help: &'static str,
    /// Whether its value must not be shown, and comes only from the environment.
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

fn optional_path(value: &str) -> Option<PathBuf> {
    (!value.is_empty()).then(|| path(value))
}

const DAY_MS: u64 = 24 * 3_600 * 1_000;

keys! {
    "node.id" "node-id" "MAXINE_NODE_ID" "number" "0 to 4294967295" "0"
        "This node's number in a Raft cluster. Required in raft mode. Never reuse the number of a removed node." => |c, v| c.node_id = number(v, 0, u32::MAX.into())?;
    "node.name" "instance-id" "MAXINE_INSTANCE_ID" "text" "up to 255 bytes" ""
        "This node's name. If empty: `node-ID` in a Raft cluster, `HOST-PID` in the other modes." => |c, v| c.instance_id = text(v, 255)?;
    "node.data_dir" "data-dir" "MAXINE_DATA_DIR" "path" "a folder that this node alone writes" "data"
        "Directory in which the node keeps its data." => |c, v| c.data_dir = path(v);
    "node.zone" "zone" "MAXINE_ZONE" "text" "up to 255 bytes" ""
        "Zone in which this node runs. Policies with zone preference use instances of the same zone first." => |c, v| c.zone = text(v, 255)?;
    "state.mode" "mode" "MAXINE_REGISTRY_STATE_MODE" "choice" "local, shared-file, redis, raft" "local"
        "Where the state is kept: local (one node), shared-file, redis or raft." => |c, v| c.backend = backend(v)?;

    "http.host" "host" "MAXINE_HTTP_HOST" "IP address" "an address of this machine" "127.0.0.1"
        "Address to listen on for HTTP. 0.0.0.0 means every interface." => |c, v| c.http.host = parsed(v, "an IP address")?;
    "http.port" "port" "PORT" "port" "0 to 65535" "8080"
        "Port to listen on for HTTP. 0 means any free port." => |c, v| c.http.port = number(v, 0, 65_535)?;
    "http.advertise" "advertise" "MAXINE_HTTP_ADVERTISE" "URL" "up to 2048 bytes" ""
        "URL at which other nodes and clients reach this node. If empty, it is made from host and port." => |c, v| c.http.advertise = text(v, 2_048)?;
    "http.connections_max" "http-connections-max" "MAXINE_HTTP_CONNECTIONS_MAX" "connections" "1 to 1000000" "20000"
        "Maximum open connections. Beyond it, new connections are answered with 503 and closed. One in eight is kept for callers with a credential and for this machine. At most three quarters of the open files that the system allows." => |c, v| c.http.connections_max = number(v, 1, 1_000_000)?;
    "http.connections_per_address_max" "http-connections-per-address-max" "MAXINE_HTTP_CONNECTIONS_PER_ADDRESS_MAX" "connections" "1 to 1000000" "12000"
        "Maximum open connections from one address (for IPv6, one /48 network). Beyond it, new connections are answered with 503 and closed. security.trusted_proxies are exempt." => |c, v| c.http.connections_per_address_max = number(v, 1, 1_000_000)?;
    "http.watchers_max" "http-watchers-max" "MAXINE_HTTP_WATCHERS_MAX" "watchers" "1 to 1000000" "20000"
        "Maximum number of concurrent watch streams and long-polls. One in ten is reserved for callers with a credential. Beyond it, 429." => |c, v| c.http.watchers_max = number(v, 1, 1_000_000)?;
    "http.watchers_per_address_max" "http-watchers-per-address-max" "MAXINE_HTTP_WATCHERS_PER_ADDRESS_MAX" "watchers" "1 to 1000000" "10000"
        "Maximum watch streams and long-polls of one client address. Beyond it, 429." => |c, v| c.http.watchers_per_address_max = number(v, 1, 1_000_000)?;
    "http.bodies_len_max" "http-bodies-len-max" "MAXINE_HTTP_BODIES_LEN_MAX" "bytes" "8388608 to 1099511627776" "67108864"
        "Maximum bytes of JSON request bodies that are still arriving, and of requests over HTTP/2 that are being answered (8 KiB each, and their heads). A quarter is kept for callers with a credential. Beyond it, 503." => |c, v| c.http.bodies_len_max = number(v, 8 << 20, 1 << 40)?;
    "http.bodies_per_address_len_max" "http-bodies-per-address-len-max" "MAXINE_HTTP_BODIES_PER_ADDRESS_LEN_MAX" "bytes" "4194304 to 1099511627776" "33554432"
        "The same for one client address. With the default, one address has at most 4,096 requests over HTTP/2 that are being answered, long-polls included. Beyond it, 503." => |c, v| c.http.bodies_per_address_len_max = number(v, 4 << 20, 1 << 40)?;
    "http.header_timeout_ms" "http-header-timeout-ms" "MAXINE_HTTP_HEADER_TIMEOUT_MS" "milliseconds" "100 to 600000" "10000"
        "Time limit for receiving the head of a request, and for a connection without a request. Then the connection is closed." => |c, v| c.http.header_timeout_ms = number(v, 100, 600_000)?;
    "http.request_timeout_ms" "http-request-timeout-ms" "MAXINE_HTTP_REQUEST_TIMEOUT_MS" "milliseconds" "100 to 3600000" "30000"
        "Time limit for reading the body of a request and answering it. Streams and proxied requests have their own limits." => |c, v| c.http.request_timeout_ms = number(v, 100, 3_600_000)?;
    "http.proxy_body_len_max" "proxy-body-len-max" "MAXINE_PROXY_BODY_LEN_MAX" "bytes" "0 to 1099511627776" "10485760"
        "Maximum length of a request body that is forwarded to an instance. A longer body is answered with 413. 0 means no limit." => |c, v| c.http.proxy_body_len_max = number(v, 0, 1 << 40)?;
    "http.proxy_connections_per_address_percent" "proxy-connections-per-address-percent" "MAXINE_PROXY_CONNECTIONS_PER_ADDRESS_PERCENT" "percent" "1 to 100" "25"
        "Percentage of the connections to instances that one client address (for IPv6, one /48 network) may use at the same time, of those that other addresses do not use. Beyond it, proxied requests are answered with 503. Idle connections count for no address and are closed when a new one needs the place. One connection in eight is kept for callers with a credential. security.trusted_proxies that name no client are exempt. 100 means no such limit." => |c, v| c.http.proxy_connections_per_address_percent = number(v, 1, 100)?;
    "http.proxy_sandbox" "proxy-sandbox" "MAXINE_PROXY_SANDBOX" "switch" "true, false" "true"
        "If true, browsers treat a page that an instance serves through the proxy as a separate origin (CSP sandbox), so that its scripts cannot use the dashboard's session." => |c, v| c.http.proxy_sandbox = switch(v)?;
    "http.cors_allow_origin" "cors-allow-origin" "MAXINE_CORS_ALLOW_ORIGIN" "origin" "an origin, * or nothing" ""
        "Origin whose pages may call the API from a browser (CORS), in addition to pages of this cluster's members. * means any origin." => |c, v| c.http.cors_allow_origin = origin(v)?;
    "http.allowed_hosts" "allowed-hosts" "MAXINE_HTTP_ALLOWED_HOSTS" "list" "host names without ports, comma-separated" ""
        "Additional host names under which browsers may open the dashboard, such as the name of a load balancer. IP addresses, localhost, the name of this machine and the advertised names of the nodes are always allowed. Clients with a token are not restricted." => |c, v| c.http.allowed_hosts = hosts(v)?;
    "http.tls_cert" "http-tls-cert" "MAXINE_HTTP_TLS_CERT" "paths" "PEM files, comma-separated" ""
        "Certificates of the HTTP port, each followed by its intermediate authorities. If set, the port takes HTTPS only. A client gets the certificate with the server name that it asks for, or else the first one. Changed files are taken within five seconds, without a restart." => |c, v| c.http.tls_cert = paths(v);
    "http.tls_key" "http-tls-key" "MAXINE_HTTP_TLS_KEY" "paths" "PEM files, comma-separated" ""
        "Keys of these certificates, in the same order." => |c, v| c.http.tls_key = paths(v);
    "http.tls_client_auth" "http-tls-client-auth" "MAXINE_HTTP_TLS_CLIENT_AUTH" "choice" "none, optional, required" "none"
        "Whether clients of the HTTP port must show a certificate: none, optional (one that is shown must be valid) or required." => |c, v| c.http.tls_client_auth = client_auth(v)?;
    "http.tls_client_ca" "http-tls-client-ca" "MAXINE_HTTP_TLS_CLIENT_CA" "path" "a PEM file" ""
        "Certificate authorities of clients' certificates. Required unless http.tls_client_auth is none." => |c, v| c.http.tls_client_ca = path(v);
    "http.tls_client_crl" "http-tls-client-crl" "MAXINE_HTTP_TLS_CLIENT_CRL" "paths" "PEM files, comma-separated" ""
        "Lists of revoked client certificates (CRL). An authority in http.tls_client_ca must have signed each list. A client with a certificate on a list is refused at the handshake; a connection that is open stays. Changed files are taken within five seconds. A list that is out of date still counts, and raises the alert node.certificate_ends." => |c, v| c.http.tls_client_crl = paths(v);
    "http.tls_version_min" "http-tls-version-min" "MAXINE_HTTP_TLS_VERSION_MIN" "choice" "1.2, 1.3" "1.2"
        "Lowest version of TLS that the HTTP port accepts." => |c, v| c.http.tls_version_min = tls_version(v)?;
    "http.hsts_max_age_s" "http-hsts-max-age-s" "MAXINE_HTTP_HSTS_MAX_AGE_S" "seconds" "0 to 63072000" "0"
        "For how long browsers must use only HTTPS for this host, on all of its ports, after an answer over HTTPS (Strict-Transport-Security). 0 sends no such instruction." => |c, v| c.http.hsts_max_age_s = number(v, 0, 63_072_000)?;

    "raft.cluster_id" "cluster-id" "MAXINE_CLUSTER_ID" "text" "1 to 63 bytes" "maxine"
        "Name of the cluster: lower-case letters, digits and hyphens. In raft mode, nodes with another name are refused. In the other modes, the nodes that use one Redis prefix or one file are one cluster, also if their names differ: tokens of nodes with one name are then refused by the others." => |c, v| c.raft.cluster_id = text(v, 63)?;
    "raft.listen" "raft-listen" "MAXINE_RAFT_LISTEN" "address" "IP:PORT" "127.0.0.1:7700"
        "Address to listen on for connections from other nodes." => |c, v| c.raft.listen = socket_address(v)?;
    "raft.advertise" "raft-advertise" "MAXINE_RAFT_ADVERTISE" "address" "HOST:PORT" ""
        "Address at which other nodes reach this node. If empty, the listen address is used." => |c, v| c.raft.advertise = if v.is_empty() { String::new() } else { host_and_port(&text(v, 255)?)? };
    "raft.members" "raft-members" "MAXINE_RAFT_MEMBERS" "list" "ID@PEER_HOST:PORT@HTTP_URL, comma-separated" ""
        "Members of a new cluster, the same list on each of them. Leave it empty on a node that is added later with `maxine cluster add`." => |c, v| c.raft.members = members(v)?;
    "raft.engine" "raft-engine" "MAXINE_RAFT_ENGINE" "choice" "auto, wal, redb, sled" "auto"
        "Storage engine of the log. auto uses the engine of the existing directory, and wal for a new one." => |c, v| c.raft.engine = engine(v)?;
    "raft.tls_ca" "raft-tls-ca" "MAXINE_RAFT_TLS_CA" "path" "a PEM file" ""
        "Certificate authority that signed the certificate of every node." => |c, v| c.raft.tls_ca = path(v);
    "raft.tls_cert" "raft-tls-cert" "MAXINE_RAFT_TLS_CERT" "path" "a PEM file" ""
        "This node's certificate, issued for the name `node-ID.CLUSTER.maxine`." => |c, v| c.raft.tls_cert = path(v);
    "raft.tls_key" "raft-tls-key" "MAXINE_RAFT_TLS_KEY" "path" "a PEM file" ""
        "Private key of this node's certificate." => |c, v| c.raft.tls_key = path(v);
    "raft.tls_denied" "raft-tls-denied" "MAXINE_RAFT_TLS_DENIED" "path" "a file with one fingerprint per line" ""
        "Keys of other nodes whose certificates this node refuses although the authority signed them, such as that of a stolen machine. A changed file is taken within five seconds, and ends open connections too. `maxine tls fingerprint` prints a line for it." => |c, v| c.raft.tls_denied = path(v);
    "raft.tls_crl" "raft-tls-crl" "MAXINE_RAFT_TLS_CRL" "paths" "PEM files, comma-separated" ""
        "Lists of revoked certificates of nodes (CRL). An authority in raft.tls_ca must have signed each list. Changed files are taken within five seconds, and end open connections with a node whose certificate is on a list. A list that is out of date still counts, and raises the alert node.certificate_ends." => |c, v| c.raft.tls_crl = paths(v);
    "raft.allow_plain" "raft-allow-plain" "MAXINE_RAFT_ALLOW_PLAIN" "switch" "true, false" "false"
        "Allows connections between nodes without TLS on addresses other than loopback." => |c, v| c.raft.allow_plain = switch(v)?;
    "raft.heartbeat_interval_ms" "raft-heartbeat-interval-ms" "MAXINE_RAFT_HEARTBEAT_INTERVAL_MS" "milliseconds" "10 to 10000" "100"
        "Interval between two heartbeats of the leader." => |c, v| c.raft.heartbeat_interval_ms = number(v, 10, 10_000)?;
    "raft.election_timeout_min_ms" "raft-election-timeout-min-ms" "MAXINE_RAFT_ELECTION_TIMEOUT_MIN_MS" "milliseconds" "50 to 60000" "400"
        "How long a leader reports that it leads without an answer of a majority. Must be the same on all nodes." => |c, v| c.raft.election_timeout_min_ms = number(v, 50, 60_000)?;
    "raft.election_timeout_max_ms" "raft-election-timeout-max-ms" "MAXINE_RAFT_ELECTION_TIMEOUT_MAX_MS" "milliseconds" "75 to 120000" "600"
        "How long a voter that heard the leader elects no other one, unless a majority finds that the leader's process ended. At least 1.5 times the minimum, and the same on all nodes. A silent leader is replaced after this time plus three eighths of the minimum." => |c, v| c.raft.election_timeout_max_ms = number(v, 75, 120_000)?;
    "raft.disk_stall_ms" "raft-disk-stall-ms" "MAXINE_RAFT_DISK_STALL_MS" "milliseconds" "100 to 600000" "1000"
        "If one sync of the log takes longer than this, the leader steps down." => |c, v| c.raft.disk_stall_ms = number(v, 100, 600_000)?;
    "raft.snapshot_every_entries" "raft-snapshot-every-entries" "MAXINE_RAFT_SNAPSHOT_EVERY_ENTRIES" "entries" "100 to 10000000" "50000"
        "Number of log entries after which the next snapshot is written." => |c, v| c.raft.snapshot_every_entries = number(v, 100, 10_000_000)?;

    "backup.schedule" "backup-schedule" "MAXINE_BACKUP_SCHEDULE" "schedule" "every Nh (N: 1, 2, 3, 4, 6, 8, 12, 24) or daily HH:MM" ""
        "When the leader makes a backup, in UTC; every Nh counts from midnight. Each backup is verified by a restore. If empty, none is made. Raft mode only. Set it on every node, because each can become the leader." => |c, v| c.backup.schedule = schedule(v)?;
    "backup.directory" "backup-directory" "MAXINE_BACKUP_DIRECTORY" "path" "a folder" ""
        "Folder of these backups. It is made if its parent exists. A relative path is inside the data directory. Keep copies on another machine." => |c, v| c.backup.directory = path(v);
    "backup.keep" "backup-keep" "MAXINE_BACKUP_KEEP" "backups" "1 to 10000" "14"
        "Number of these backups that are kept in the folder. Older ones are deleted after a new one is verified." => |c, v| c.backup.keep = number(v, 1, 10_000)?;

    "registry.write_timeout_ms" "write-timeout-ms" "MAXINE_WRITE_TIMEOUT_MS" "milliseconds" "100 to 60000" "5000"
        "Time limit for a write. A write that is not acknowledged in this time is answered with 503." => |c, v| c.registry.write_timeout_ms = number(v, 100, 60_000)?;
    "registry.pending_max" "pending-writes-max" "MAXINE_PENDING_WRITES_MAX" "writes" "16 to 1000000" "16384"
        "Maximum number of waiting writes. Beyond it, writes are answered with 503." => |c, v| c.registry.pending_max = number(v, 16, 1_000_000)?;
    "registry.changes_at_once_max" "changes-at-once-max" "MAXINE_CHANGES_AT_ONCE_MAX" "changes" "100 to 1000000" "1000"
        "Maximum number of changes of policies, configuration, users and tokens that one user or token makes through this node at once. After that, one every two seconds (43,200 in a day); beyond it, 429. Each change leaves a record in the audit log, and a class of records has room for 5,000: a higher number lets one user push out the records of others sooner. The break-glass token is exempt." => |c, v| c.registry.changes_at_once_max = number(v, 100, 1_000_000)?;
    "registry.expiry_grace_ms" "expiry-grace-ms" "MAXINE_EXPIRY_GRACE_MS" "milliseconds" "0 to 60000" "500"
        "Time that is added to the time to live of every lease before it expires." => |c, v| c.registry.expiry.grace_ms = number(v, 0, 60_000)?;
    "registry.expiry_rate_max" "expiry-rate-max" "MAXINE_EXPIRY_RATE_MAX" "instances per second" "1 to 1000000" "1000"
        "Maximum number of instances that expire per second." => |c, v| c.registry.expiry.rate_max_per_s = number(v, 1, 1_000_000)?;
    "registry.silent_share_max_percent" "silent-share-max-percent" "MAXINE_SILENT_SHARE_MAX_PERCENT" "percent" "1 to 100" "50"
        "If a larger share of all instances stops sending heartbeats at the same time, expiry is suspended. 100 means never. An instance counts after one minute of heartbeats." => |c, v| c.registry.expiry.silent_share_max_percent = number(v, 1, 100)?;
    "registry.silent_fleet_min" "silent-fleet-min" "MAXINE_SILENT_FLEET_MIN" "instances" "1 to 1000000" "50"
        "Expiry is suspended only if at least this many instances are registered and have sent heartbeats for one minute." => |c, v| c.registry.expiry.silent_fleet_min = number(v, 1, 1_000_000)?;
    "registry.suspension_max_ms" "suspension-max-ms" "MAXINE_SUSPENSION_MAX_MS" "milliseconds" "0 to 86400000" "600000"
        "Maximum duration of a suspension of expiry. 0 means until an operator confirms it or the instances return." => |c, v| c.registry.expiry.suspension_max_ms = number(v, 0, DAY_MS)?;

    "security.registration_access" "registration-access" "MAXINE_REGISTRATION_ACCESS" "choice" "open, token" "open"
        "Whether registrations and heartbeats need a token." => |c, v| c.security.registration_access = access(v)?;
    "security.discovery_access" "discovery-access" "MAXINE_DISCOVERY_ACCESS" "choice" "open, token" "open"
        "Whether discovery and the proxy need a token." => |c, v| c.security.discovery_access = access(v)?;
    "security.open_instances_per_address_max" "open-instances-per-address-max" "MAXINE_OPEN_INSTANCES_PER_ADDRESS_MAX" "instances" "0 to 1000000" "100000"
        "Maximum number of instances that one client address (for IPv6, one /48 network) registers through this node without a credential. Beyond it, registrations of further instances are answered with 429. Each node counts by itself since its start; an instance that has left the registry is no longer counted. Loopback addresses are exempt where security.trusted_proxies is empty. 0 means no limit." => |c, v| c.security.open_instances_per_address_max = number(v, 0, 1_000_000)?;
    "security.allow_open" "allow-open" "MAXINE_ALLOW_OPEN" "switch" "true, false" "false"
        "Allows security.registration_access and security.discovery_access to be open where http.host is not a loopback address; such a node does not start without it." => |c, v| c.security.allow_open = switch(v)?;
    "security.allow_plain_http" "allow-plain-http" "MAXINE_ALLOW_PLAIN_HTTP" "switch" "true, false" "false"
        "Accepts passwords over plain HTTP from other machines. Others on the way can read them. Not needed with http.tls_cert, or behind security.trusted_proxies that take HTTPS and report it (X-Forwarded-Proto)." => |c, v| c.security.allow_plain_http = switch(v)?;
    "security.admin_username" "admin-username" "MAXINE_INITIAL_ADMIN_USERNAME" "text" "1 to 255 bytes" "admin"
        "Name of the administrator account that is made at the first start." => |c, v| c.security.admin_username = text(v, 255)?;
    "security.initial_password_file" "initial-password-file" "MAXINE_INITIAL_PASSWORD_FILE" "path" "a file to be made" ""
        "File that the password of that account is written to. The file is made new, for its owner alone. If empty, or if the file cannot be made, the password is written to standard error." => |c, v| c.security.initial_password_file = path(v);
    "security.token_ttl_s" "token-ttl-s" "MAXINE_TOKEN_TTL_S" "seconds" "60 to 86400" "1800"
        "Lifetime of a session token." => |c, v| c.security.token_ttl_s = number(v, 60, 86_400)?;
    "security.credential_staleness_max_ms" "credential-staleness-max-ms" "MAXINE_CREDENTIAL_STALENESS_MAX_MS" "milliseconds" "1000 to 86400000" "600000"
        "How long a node that has lost contact with the cluster accepts tokens and passwords, which may have been revoked in the meantime. After that, only the token in the file break-glass in its data directory is accepted." => |c, v| c.security.credential_staleness_max_ms = number(v, 1_000, DAY_MS)?;
    "security.upstream_allow" "upstream-allow" "MAXINE_UPSTREAM_ALLOW" "networks" "comma-separated" ""
        "Networks whose addresses may be registered and called. If empty, every network that is not denied." => |c, v| c.security.upstream_allow = networks(v)?;
    "security.upstream_deny" "upstream-deny" "MAXINE_UPSTREAM_DENY" "networks" "comma-separated" ""
        "Networks whose addresses may not be registered or called. Always denied, unless upstream_allow lists them: link-local, metadata services, unspecified, multicast, and loopback if Maxine itself does not listen on loopback." => |c, v| c.security.upstream_deny = networks(v)?;
    "security.upstream_ca" "upstream-ca" "MAXINE_UPSTREAM_CA" "path" "a PEM file" ""
        "Certificate authorities that the proxy and the health checks trust for TLS connections to instances. If empty, those of the operating system." => |c, v| c.security.upstream_ca = path(v);
    "security.identities_file" "identities-file" "MAXINE_IDENTITIES_FILE" "path" "a TOML file" ""
        "File with the OpenID providers at which people may sign in, and with the issuers of tokens for workloads. A changed file is taken within five seconds, without a restart. Every node needs the same content." => |c, v| c.security.identities_file = path(v);
    "security.trusted_proxies" "trusted-proxies" "MAXINE_TRUSTED_PROXIES" "networks" "comma-separated" ""
        "Proxies in front of this node. Their X-Forwarded-For field, or Forwarded if there is none, names the client for sign-in limits, the audit log, traces, discovery and the proxy. A proxy that writes Forwarded must remove X-Forwarded-For." => |c, v| c.security.trusted_proxies = networks(v)?;

    "dns.port" "dns-port" "MAXINE_DNS_PORT" "port" "0 to 65535" "0"
        "Port to listen on for DNS, over UDP and TCP; Consul uses 8600. 0 means no name server." => |c, v| c.dns.port = number(v, 0, 65_535)?;
    "dns.host" "dns-host" "MAXINE_DNS_HOST" "IP address" "an address of this machine" "127.0.0.1"
        "Address to listen on for DNS. An address that is not loopback needs dns.allow_open. On a machine with several addresses, give one of them: with 0.0.0.0 the system chooses the sender's address of an answer over UDP, and clients ignore answers from another address than the one that they asked." => |c, v| c.dns.host = parsed(v, "an IP address")?;
    "dns.domain" "dns-domain" "MAXINE_DNS_DOMAIN" "domain" "up to 126 bytes" "maxine"
        "Domain of all names, such as `web.service.maxine`." => |c, v| c.dns.domain = Some(domain(v)?);
    "dns.alt_domains" "dns-alt-domains" "MAXINE_DNS_ALT_DOMAINS" "list" "domains, comma-separated" ""
        "Further domains with the same names, such as consul." => |c, v| c.dns.alt_domains = domains(v)?;
    "dns.datacenter" "dns-datacenter" "MAXINE_DNS_DATACENTER" "label" "1 to 63 letters, digits and -" "dc1"
        "Datacenter that clients of Consul may name: `web.service.dc1.consul` is then the same as `web.service.consul`. Names with another datacenter do not exist." => |c, v| c.dns.datacenter = datacenter(v)?;
    "dns.allow_open" "dns-allow-open" "MAXINE_DNS_ALLOW_OPEN" "switch" "true, false" "false"
        "Allows DNS to answer everyone who reaches it. Required where dns.host is not a loopback address, and where security.discovery_access is token, because a question in DNS carries no token." => |c, v| c.dns.allow_open = switch(v)?;
    "dns.ttl_s" "dns-ttl-s" "MAXINE_DNS_TTL_S" "seconds" "0 to 86400" "0"
        "For how long clients and resolvers may keep an answer. A client keeps calling an instance that has left for as long." => |c, v| c.dns.ttl_s = number(v, 0, 86_400)?;
    "dns.negative_ttl_s" "dns-negative-ttl-s" "MAXINE_DNS_NEGATIVE_TTL_S" "seconds" "0 to 86400" "0"
        "For how long they may keep the answer that a name or a type of record does not exist." => |c, v| c.dns.negative_ttl_s = number(v, 0, 86_400)?;
    "dns.udp_len_max" "dns-udp-len-max" "MAXINE_DNS_UDP_LEN_MAX" "bytes" "512 to 8192" "1232"
        "Maximum length of an answer over UDP. A client that announces less, or nothing, gets less. A longer answer is cut and marked, and the client asks over TCP. HAProxy never does: for a service with more than 20 instances raise this and its `accepted_payload_size`." => |c, v| c.dns.udp_len_max = number(v, 512, 8_192)?;
    "dns.rate_max_per_s" "dns-rate-max-per-s" "MAXINE_DNS_RATE_MAX_PER_S" "answers per second" "0 to 1000000" "1000"
        "Maximum number of answers over UDP to one address (for IPv6, one /48 network) per second. Beyond it, every second question gets an empty answer that makes the client ask over TCP, and the others get none. Loopback addresses are exempt. 0 means no limit." => |c, v| c.dns.rate_max_per_s = number(v, 0, 1_000_000)?;
    "dns.connections_max" "dns-connections-max" "MAXINE_DNS_CONNECTIONS_MAX" "connections" "1 to 100000" "1000"
        "Maximum number of DNS connections over TCP. Beyond it, new connections are closed." => |c, v| c.dns.connections_max = number(v, 1, 100_000)?;
    "dns.connections_per_address_max" "dns-connections-per-address-max" "MAXINE_DNS_CONNECTIONS_PER_ADDRESS_MAX" "connections" "1 to 100000" "100"
        "Maximum number of these from one address (for IPv6, one /48 network)." => |c, v| c.dns.connections_per_address_max = number(v, 1, 100_000)?;
    "dns.connection_timeout_ms" "dns-connection-timeout-ms" "MAXINE_DNS_CONNECTION_TIMEOUT_MS" "milliseconds" "100 to 600000" "10000"
        "Time limit for receiving a question over TCP, for sending its answer, and for a connection without a question. Then the connection is closed." => |c, v| c.dns.connection_timeout_ms = number(v, 100, 600_000)?;

    "consul.port" "consul-port" "MAXINE_CONSUL_PORT" "port" "0 to 65535" "0"
        "Port to listen on for clients of Consul; Consul uses 8500. It speaks HTTPS if http.tls_cert is set. 0 means no such port." => |c, v| c.consul.port = number(v, 0, 65_535)?;
    "consul.host" "consul-host" "MAXINE_CONSUL_HOST" "IP address" "an address of this machine" "127.0.0.1"
        "Address to listen on for clients of Consul. An address that is not loopback needs tokens or security.allow_open, like http.host." => |c, v| c.consul.host = parsed(v, "an IP address")?;
    "consul.on_http" "consul-on-http" "MAXINE_CONSUL_ON_HTTP" "switch" "true, false" "false"
        "Serves the API of Consul on http.port too, under /v1." => |c, v| c.consul.on_http = switch(v)?;
    "consul.datacenter" "consul-datacenter" "MAXINE_CONSUL_DATACENTER" "label" "1 to 63 letters, digits and -" "dc1"
        "Name of the datacenter that clients of Consul see. All nodes of a cluster need the same one." => |c, v| c.consul.datacenter = datacenter(v)?;
    "consul.node" "consul-node" "MAXINE_CONSUL_NODE" "text" "1 to 255 bytes" "maxine"
        "Name of the node under which clients of Consul see instances whose machine is not known. All nodes of a cluster need the same one." => |c, v| c.consul.node = name(v)?;
    "consul.connections_max" "consul-connections-max" "MAXINE_CONSUL_CONNECTIONS_MAX" "connections" "1 to 100000" "8192"
        "Maximum number of open connections to consul.port. Each blocking query holds one. http.watchers_max and http.watchers_per_address_max limit the blocking queries. The ports share http.connections_max, of which consul.port gets at most half, and one address may hold the share of each port that http.connections_per_address_max is of http.connections_max." => |c, v| c.consul.connections_max = number(v, 1, 100_000)?;

    "health.enabled" "active-health-checks" "MAXINE_ACTIVE_HEALTH_CHECKS_ENABLED" "switch" "true, false" "false"
        "If true, every instance with a health check path is probed." => |c, v| c.health.enabled = switch(v)?;
    "health.interval_ms" "health-interval-ms" "MAXINE_ACTIVE_HEALTH_CHECK_INTERVAL_MS" "milliseconds" "100 to 3600000" "15000"
        "Interval between two probes of an instance." => |c, v| c.health.interval_ms = number(v, 100, 3_600_000)?;
    "health.timeout_ms" "health-timeout-ms" "MAXINE_ACTIVE_HEALTH_CHECK_TIMEOUT_MS" "milliseconds" "10 to 60000" "3000"
        "Time limit for one probe." => |c, v| c.health.timeout_ms = number(v, 10, 60_000)?;
    "health.failure_threshold" "health-failure-threshold" "MAXINE_ACTIVE_HEALTH_CHECK_FAILURE_THRESHOLD" "probes" "1 to 100" "3"
        "Number of failed probes in a row after which an instance is evicted." => |c, v| c.health.failure_threshold = number(v, 1, 100)?;
    "health.path" "health-path" "MAXINE_ACTIVE_HEALTH_CHECK_PATH" "path" "up to 2048 bytes" ""
        "Health check path of instances that registered none. If empty, those instances are not probed." => |c, v| c.health.path = text(v, 2_048)?;
    "health.observers_min" "health-observers-min" "MAXINE_HEALTH_OBSERVERS_MIN" "nodes" "1 to 9" "1"
        "Number of nodes that must agree before the health of an instance changes." => |c, v| c.health.observers_min = number(v, 1, 9)?;

    "telemetry.log_filter" "log-filter" "MAXINE_LOG" "filter" "LEVEL or TARGET=LEVEL, separated by commas" "info,h2=error,openraft=error,openraft::raft=off"
        "Which log lines of Maxine itself are written: a level (off, error, warn, info, debug, trace), and levels of modules. `maxine log-level` changes it while a node runs." => |c, v| c.telemetry.log_filter = log_filter(v)?;
    "telemetry.log_format" "log-format" "MAXINE_LOG_FORMAT" "choice" "text, json, journald" "text"
        "Format of the log of Maxine itself: text; json (an object on each line); or journald (text after the priority that journald reads, without the time, which journald adds)." => |c, v| c.telemetry.log_format = log_format(v)?;
    "telemetry.log_file" "log-file" "MAXINE_LOG_FILE" "path" "a file" ""
        "File to which the log of Maxine itself is also written, besides standard error. A relative path is inside the data directory. If empty, there is no such file." => |c, v| c.telemetry.log_file = path(v);
    "telemetry.log_file_len_max" "log-file-len-max" "MAXINE_LOG_FILE_LEN_MAX" "bytes" "65536 to 1099511627776" "16777216"
        "Length at which that file is closed and a new one begun." => |c, v| c.telemetry.log_file_len_max = number(v, 1 << 16, 1 << 40)?;
    "telemetry.log_files_max" "log-files-max" "MAXINE_LOG_FILES_MAX" "files" "1 to 1000" "8"
        "Number of these files that are kept. Together they are at most as long as this number times telemetry.log_file_len_max." => |c, v| c.telemetry.log_files_max = number(v, 1, 1_000)?;
    "telemetry.log_dir" "log-dir" "MAXINE_LOG_DIR" "path" "a folder" "logs"
        "Directory of the request logs. A relative path is inside the data directory." => |c, v| c.telemetry.log_dir = path(v);
    "telemetry.log_queries" "log-queries" "MAXINE_LOG_QUERIES" "switch" "true, false" "false"
        "Whether traces and the request log keep the query of each request. Values of parameters that look like credentials, such as access_token, are hidden. Queries can hold personal data." => |c, v| c.telemetry.log_queries = switch(v)?;
    "telemetry.metrics_services_max" "metrics-services-max" "MAXINE_METRICS_SERVICES_MAX" "services" "0 to 10000" "0"
        "Maximum number of services with series of their own in maxine_service_requests_total, four each. The requests to further services are summed under service=other. 0 means no such metric." => |c, v| c.telemetry.metrics_services_max = number(v, 0, 10_000)?;
    "telemetry.metrics_former_names" "metrics-former-names" "MAXINE_METRICS_FORMER_NAMES" "switch" "true, false" "true"
        "Whether metrics that have a new name in this version are also shown under their former name. The next version does not have the former names." => |c, v| c.telemetry.metrics_former_names = switch(v)?;
    "telemetry.trace_header" "trace-header" "MAXINE_TRACE_HEADER_NAME" "header name" "1 to 64 bytes" "x-trace-id"
        "Header field that carries the trace id." => |c, v| { let name: hyper::header::HeaderName = parsed(v, "a header name")?; c.telemetry.trace_header = name.as_str().into(); };
    "telemetry.traces_max" "recent-traces-max" "MAXINE_RECENT_TRACE_LIMIT" "traces" "1 to 100000" "200"
        "Number of finished requests that are kept as traces." => |c, v| c.telemetry.traces_max = number(v, 1, 100_000)?;
    "telemetry.audit_max" "recent-audit-max" "MAXINE_RECENT_AUDIT_LIMIT" "events" "1 to 100000" "200"
        "Number of recent audit events that are kept for the compatible API." => |c, v| c.telemetry.audit_max = number(v, 1, 100_000)?;
    "telemetry.alerts_max" "recent-alerts-max" "MAXINE_RECENT_ALERT_LIMIT" "alerts" "1 to 100000" "100"
        "Number of alerts that are kept." => |c, v| c.telemetry.alerts_max = number(v, 1, 100_000)?;
    "telemetry.alert_webhook_url" "alert-webhook-url" "MAXINE_ALERT_WEBHOOK_URL" "URL" "up to 2048 bytes" ""
        "URL to which each alert is posted. If empty, alerts are not posted. A URL with a user, a path or a query is refused as a flag." => |c, v| c.telemetry.alert_webhook_url = text(v, 2_048)?;
    "telemetry.alert_webhook_timeout_ms" "alert-webhook-timeout-ms" "MAXINE_ALERT_WEBHOOK_TIMEOUT_MS" "milliseconds" "100 to 60000" "5000"
        "Time limit for posting one alert." => |c, v| c.telemetry.alert_webhook_timeout_ms = number(v, 100, 60_000)?;
    "telemetry.otlp_endpoint" "otlp-endpoint" "MAXINE_OTLP_ENDPOINT" "URL" "up to 2048 bytes" ""
        "URL of a receiver of traces over OTLP, such as http://127.0.0.1:4317. If empty, no traces are exported." => |c, v| c.telemetry.otlp.endpoint = text(v, 2_048)?;
    "telemetry.otlp_protocol" "otlp-protocol" "MAXINE_OTLP_PROTOCOL" "choice" "grpc, http" "grpc"
        "Protocol of that receiver: grpc, or http (with bodies in protobuf, which are posted to /v1/traces below the URL)." => |c, v| c.telemetry.otlp.protocol = otlp_protocol(v)?;
    "telemetry.otlp_headers_file" "otlp-headers-file" "MAXINE_OTLP_HEADERS_FILE" "path" "a file" ""
        "File with header fields for that receiver, such as a token: one NAME: VALUE per line. It is read again before each delivery." => |c, v| c.telemetry.otlp.headers_file = optional_path(v);
    "telemetry.otlp_ca" "otlp-ca" "MAXINE_OTLP_CA" "path" "a PEM file" ""
        "Certificate authorities that signed the certificate of that receiver. If empty, those of this machine." => |c, v| c.telemetry.otlp.ca_file = optional_path(v);
    "telemetry.otlp_sample_ratio" "otlp-sample-ratio" "MAXINE_OTLP_SAMPLE_RATIO" "share" "0 to 1" "0.01"
        "Share of new traces that are exported. For a request with a traceparent, its sender has decided." => |c, v| c.telemetry.otlp.sample_ratio = ratio(v)?;
    "telemetry.otlp_slow_ms" "otlp-slow-ms" "MAXINE_OTLP_SLOW_MS" "milliseconds" "0 to 3600000" "1000"
        "Requests that take at least this long are exported in any case, like those with a status of 500 or more. Those that wait for a change, as their client asked, do not count. 0 means no such rule for slow requests." => |c, v| c.telemetry.otlp.slow_us = number::<u64>(v, 0, 3_600_000)? * 1_000;
    "telemetry.otlp_timeout_ms" "otlp-timeout-ms" "MAXINE_OTLP_TIMEOUT_MS" "milliseconds" "100 to 60000" "5000"
        "Time limit of one delivery." => |c, v| c.telemetry.otlp.timeout_ms = number(v, 100, 60_000)?;
    "telemetry.otlp_queue_max" "otlp-queue-max" "MAXINE_OTLP_QUEUE_MAX" "requests" "16 to 1000000" "4096"
        "Maximum number of requests and other work that wait for the export of their trace. Beyond it, the oldest are lost and counted." => |c, v| c.telemetry.otlp.queue_max = number(v, 16, 1_000_000)?;
    "telemetry.otlp_logs" "otlp-logs" "MAXINE_OTLP_LOGS" "switch" "true, false" "false"
        "Whether the log of Maxine itself is also exported to that receiver. At most telemetry.otlp_queue_max lines wait; beyond it, the oldest are lost and counted." => |c, v| c.telemetry.otlp_logs = switch(v)?;
    "telemetry.otlp_attributes" "otlp-attributes" "MAXINE_OTLP_ATTRIBUTES" "list" "NAME=VALUE, comma-separated" ""
        "Attributes of this node in exported traces, such as deployment.environment.name=prod. Maxine itself sets service.name, service.namespace (the cluster), service.instance.id, service.version and process.pid." => |c, v| c.telemetry.otlp.attributes = attributes(v)?;
    "telemetry.performance_report_url" "performance-report-url" "MAXINE_PERFORMANCE_REPORT_URL" "URL" "up to 2048 bytes" ""
        "URL of the load test report that /api/actuator/performance shows." => |c, v| c.telemetry.performance_report_url = text(v, 2_048)?;
    "telemetry.audit_file" "audit-file" "MAXINE_AUDIT_LOG_FILE" "path" "a file" "logs/Maxine-audit.log"
        "File to which recent audit events are appended. A relative path is inside the data directory." => |c, v| c.telemetry.audit_file = path(v);

    "audit.file" "audit-forward-file" "MAXINE_AUDIT_FORWARD_FILE" "path" "a file" ""
        "File to which this node appends each audit record, one JSON object per line. Only its owner may read it. A relative path is inside the data directory. If empty, there is no such file." => |c, v| c.audit.file = optional_path(v);
    "audit.file_len_max" "audit-forward-file-len-max" "MAXINE_AUDIT_FORWARD_FILE_LEN_MAX" "bytes" "65536 to 1099511627776" "16777216"
        "Length at which that file is closed and a new one begun." => |c, v| c.audit.file_len_max = number(v, 1 << 16, 1 << 40)?;
    "audit.files_max" "audit-forward-files-max" "MAXINE_AUDIT_FORWARD_FILES_MAX" "files" "1 to 10000" "16"
        "Number of these files that are kept. Beyond it, the oldest is removed." => |c, v| c.audit.files_max = number(v, 1, 10_000)?;
    "audit.file_mode" "audit-forward-file-mode" "MAXINE_AUDIT_FORWARD_FILE_MODE" "choice" "alerting, blocking" "alerting"
        "What follows while that file cannot be written: alerting (the alert audit.forward_failing) or blocking (also, after audit.block_after_ms, this node refuses changes by callers with 503). A mode of blocking without the sink itself prevents the start." => |c, v| c.audit.file_mode = sink_mode(v)?;
    "audit.syslog_address" "audit-syslog-address" "MAXINE_AUDIT_SYSLOG_ADDRESS" "address" "HOST:PORT" ""
        "Syslog receiver to which this node sends each audit record, as a message of RFC 5424 with octet counting. If empty, none." => |c, v| c.audit.syslog_address = if v.is_empty() { String::new() } else { host_and_port(&text(v, 255)?)? };
    "audit.syslog_protocol" "audit-syslog-protocol" "MAXINE_AUDIT_SYSLOG_PROTOCOL" "choice" "tls, tcp" "tls"
        "Protocol of that receiver: tls (RFC 5425), or tcp without encryption (RFC 6587)." => |c, v| c.audit.syslog_protocol = syslog_protocol(v)?;
    "audit.syslog_ca" "audit-syslog-ca" "MAXINE_AUDIT_SYSLOG_CA" "path" "a PEM file" ""
        "Certificate authorities that signed the certificate of that receiver. Required with tls. It is read again for each connection." => |c, v| c.audit.syslog_ca = optional_path(v);
    "audit.syslog_mode" "audit-syslog-mode" "MAXINE_AUDIT_SYSLOG_MODE" "choice" "alerting, blocking" "alerting"
        "What follows while that receiver takes no records, as with audit.file_mode." => |c, v| c.audit.syslog_mode = sink_mode(v)?;
    "audit.http_url" "audit-http-url" "MAXINE_AUDIT_HTTP_URL" "URL" "up to 2048 bytes" ""
        "URL to which this node posts audit records in batches, as JSON. A batch is repeated until the answer has a status of 200 to 299. If empty, none are posted. A URL with a user, a path or a query is refused as a flag." => |c, v| c.audit.http_url = text(v, 2_048)?;
    "audit.http_key_file" "audit-http-key-file" "MAXINE_AUDIT_HTTP_KEY_FILE" "path" "a file with 32 to 4096 bytes" ""
        "File with the key that signs these batches with HMAC-SHA256 (the header field x-maxine-signature). Required with audit.http_url. It is read again before each delivery; line ends at its end do not count." => |c, v| c.audit.http_key_file = optional_path(v);
    "audit.http_ca" "audit-http-ca" "MAXINE_AUDIT_HTTP_CA" "path" "a PEM file" ""
        "Certificate authorities that signed the certificate of that receiver. If empty, those of this machine." => |c, v| c.audit.http_ca = optional_path(v);
    "audit.http_mode" "audit-http-mode" "MAXINE_AUDIT_HTTP_MODE" "choice" "alerting, blocking" "alerting"
        "What follows while that receiver takes no records, as with audit.file_mode." => |c, v| c.audit.http_mode = sink_mode(v)?;
    "audit.block_after_ms" "audit-block-after-ms" "MAXINE_AUDIT_BLOCK_AFTER_MS" "milliseconds" "0 to 3600000" "30000"
        "How long a blocking sink may fail before this node refuses changes by callers." => |c, v| c.audit.block_after_ms = number(v, 0, 3_600_000)?;
    "audit.timeout_ms" "audit-timeout-ms" "MAXINE_AUDIT_TIMEOUT_MS" "milliseconds" "500 to 60000" "5000"
        "Time limit of one delivery to a sink." => |c, v| c.audit.timeout_ms = number(v, 500, 60_000)?;
    "audit.batch_max" "audit-batch-max" "MAXINE_AUDIT_BATCH_MAX" "records" "1 to 5000" "500"
        "Maximum number of records in one delivery to a sink. A delivery has at most 256 KiB of records as JSON." => |c, v| c.audit.batch_max = number(v, 1, 5_000)?;
    "audit.anchor_interval_s" "audit-anchor-interval-s" "MAXINE_AUDIT_ANCHOR_INTERVAL_S" "seconds" "0 to 86400" "300"
        "Time between two anchors. An anchor is the head of the audit log, and each sink gets it: whoever keeps it can prove later that an earlier record was changed (`maxine audit verify --anchor`). 0 sends none." => |c, v| c.audit.anchor_interval_ms = number::<u64>(v, 0, 86_400)? * 1_000;

    "state.file" "state-file" "MAXINE_REGISTRY_STATE_FILE" "path" "a file" ""
        "Local and shared-file mode keep their log next to this file; the log's name ends in .log. If empty: `registry-state.json` in the data directory." => |c, v| c.state.file = path(v);
    "state.persistence" "persistence" "MAXINE_REGISTRY_PERSISTENCE" "switch" "true, false" "true"
        "Whether local mode keeps its state when it is restarted." => |c, v| c.state.persistence = switch(v)?;
    "state.lock_timeout_ms" "lock-timeout-ms" "MAXINE_REGISTRY_STATE_LOCK_TIMEOUT_MS" "milliseconds" "100 to 600000" "5000"
        "Time limit for getting the lock in shared-file mode." => |c, v| c.state.lock_timeout_ms = number(v, 100, 600_000)?;
    "state.lock_retry_ms" "lock-retry-ms" "MAXINE_REGISTRY_STATE_LOCK_RETRY_MS" "milliseconds" "1 to 60000" "100"
        "Time between two attempts to get that lock." => |c, v| c.state.lock_retry_ms = number(v, 1, 60_000)?;
    "state.redis_url" "redis-url" "MAXINE_REGISTRY_REDIS_URL" "URL" "redis:// or rediss://, comma-separated for several" ""
        "URL of Redis in redis mode. Several URLs are the nodes of one Redis Cluster; with redis_sentinel_master they are the Sentinels. A URL with a password is refused as a flag: use redis_url_file or the environment." => |c, v| c.state.redis_url = text(v, 4_096)?;
    "state.redis_url_file" "redis-url-file" "MAXINE_REGISTRY_REDIS_URL_FILE" "path" "a file" ""
        "File that holds the URL, so that its password is neither in an argument nor in the environment." => |c, v| c.state.redis_url_file = path(v);
    "state.redis_key_prefix" "redis-key-prefix" "MAXINE_REGISTRY_REDIS_KEY_PREFIX" "text" "1 to 128 bytes" "maxine:registry"
        "Prefix of every key in Redis. Each cluster needs a prefix of its own." => |c, v| c.state.redis_key_prefix = text(v, 128)?;
    "state.redis_connect_timeout_ms" "redis-connect-timeout-ms" "MAXINE_REGISTRY_REDIS_CONNECT_TIMEOUT_MS" "milliseconds" "10 to 600000" "5000"
        "Time limit for connecting to Redis." => |c, v| c.state.redis_connect_timeout_ms = number(v, 10, 600_000)?;
    "state.redis_sentinel_master" "redis-sentinel-master" "MAXINE_REGISTRY_REDIS_SENTINEL_MASTER" "text" "up to 255 bytes" ""
        "Name under which the Sentinels know the master." => |c, v| c.state.redis_sentinel_master = text(v, 255)?;
    "state.redis_sentinels" "redis-sentinels" "MAXINE_REGISTRY_REDIS_SENTINELS" "URLs" "comma-separated" ""
        "URLs of the Sentinels, each with its own user and password if needed. The Redis URL then gives user, password, database and TLS of the master, and its host is ignored. If empty, the Redis URL names the Sentinels, and its password is used for both." => |c, v| c.state.redis_sentinels = text(v, 4_096)?;
    "state.redis_tls_ca" "redis-tls-ca" "MAXINE_REGISTRY_REDIS_TLS_CA" "path" "a PEM file" ""
        "Certificate authorities that signed the certificate of Redis, for rediss://. If empty, the public ones." => |c, v| c.state.redis_tls_ca = path(v);
    "state.redis_tls_cert" "redis-tls-cert" "MAXINE_REGISTRY_REDIS_TLS_CERT" "path" "a PEM file" ""
        "This node's client certificate, if Redis requires one." => |c, v| c.state.redis_tls_cert = path(v);
    "state.redis_tls_key" "redis-tls-key" "MAXINE_REGISTRY_REDIS_TLS_KEY" "path" "a PEM file" ""
        "Private key of that certificate." => |c, v| c.state.redis_tls_key = path(v);
    "state.redis_command_timeout_ms" "redis-command-timeout-ms" "MAXINE_REGISTRY_REDIS_COMMAND_TIMEOUT_MS" "milliseconds" "100 to 60000" "2000"
        "Time limit for one command. A Redis that takes longer is treated as unreachable." => |c, v| c.state.redis_command_timeout_ms = number(v, 100, 60_000)?;
    "state.redis_wait_timeout_ms" "redis-wait-timeout-ms" "MAXINE_REGISTRY_REDIS_WAIT_TIMEOUT_MS" "milliseconds" "1 to 60000" "1000"
        "Time limit for redis_wait_replicas. After it, the outcome of the write is unknown." => |c, v| c.state.redis_wait_timeout_ms = number(v, 1, 60_000)?;
    "state.redis_wait_replicas" "redis-wait-replicas" "MAXINE_REGISTRY_REDIS_WAIT_REPLICAS" "replicas" "0 to 16" "0"
        "Number of Redis replicas that must have a write before it is acknowledged (WAIT)." => |c, v| c.state.redis_wait_replicas = number(v, 0, 16)?;
    "state.election_enabled" "leader-election" "MAXINE_LEADER_ELECTION_ENABLED" "switch" "true, false" "true"
        "Whether this node may become leader, in redis and shared-file mode. If false, it becomes leader only when there has been none for two lease periods." => |c, v| c.state.election_enabled = switch(v)?;
    "state.lease_ms" "leader-lease-ms" "MAXINE_LEADER_ELECTION_LEASE_MS" "milliseconds" "500 to 600000" "15000"
        "Duration of the leader's lease, in redis and shared-file mode. It must be at least twice lease_renew_ms." => |c, v| c.state.lease_ms = number(v, 500, 600_000)?;
    "state.lease_renew_ms" "leader-renew-ms" "MAXINE_LEADER_ELECTION_RENEW_MS" "milliseconds" "50 to 300000" "5000"
        "Interval between two renewals of that lease." => |c, v| c.state.lease_renew_ms = number(v, 50, 300_000)?;
}

impl NodeConfig {
    /// Settings before the defaults are applied.
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
                connections_per_address_max: 0,
                watchers_max: 0,
                watchers_per_address_max: 0,
                bodies_len_max: 0,
                bodies_per_address_len_max: 0,
                header_timeout_ms: 0,
                request_timeout_ms: 0,
                proxy_body_len_max: 0,
                proxy_connections_per_address_percent: 0,
                proxy_sandbox: true,
                cors_allow_origin: String::new(),
                allowed_hosts: Vec::new(),
                tls_cert: Vec::new(),
                tls_key: Vec::new(),
                tls_client_auth: ClientAuth::None,
                tls_client_ca: PathBuf::new(),
                tls_client_crl: Vec::new(),
                tls_version_min: TlsVersion::V1_2,
                hsts_max_age_s: 0,
            },
            raft: RaftConfig {
                cluster_id: String::new(),
                listen,
                advertise: String::new(),
                members: Vec::new(),
                engine: None,
                tls_ca: PathBuf::new(),
                tls_cert: PathBuf::new(),
                tls_key: PathBuf::new(),
                tls_denied: PathBuf::new(),
                tls_crl: Vec::new(),
                allow_plain: false,
                heartbeat_interval_ms: 0,
                election_timeout_min_ms: 0,
                election_timeout_max_ms: 0,
                disk_stall_ms: 0,
                snapshot_every_entries: 0,
            },
            backup: BackupConfig { schedule: None, directory: PathBuf::new(), keep: 1 },
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
                open_instances_per_address_max: 0,
                allow_open: false,
                allow_plain_http: false,
                admin_username: String::new(),
                initial_password_file: PathBuf::new(),
                token_ttl_s: 0,
                credential_staleness_max_ms: 0,
                upstream_allow: Vec::new(),
                upstream_deny: Vec::new(),
                upstream_ca: PathBuf::new(),
                identities_file: PathBuf::new(),
                trusted_proxies: Vec::new(),
            },
            dns: DnsConfig {
                host: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: 0,
                domain: None,
                alt_domains: Vec::new(),
                datacenter: String::new(),
                allow_open: false,
                ttl_s: 0,
                negative_ttl_s: 0,
                udp_len_max: 0,
                rate_max_per_s: 0,
                connections_max: 0,
                connections_per_address_max: 0,
                connection_timeout_ms: 0,
            },
            consul: ConsulConfig {
                host: IpAddr::V4(Ipv4Addr::LOCALHOST),
                port: 0,
                on_http: false,
                datacenter: String::new(),
                node: String::new(),
                connections_max: 0,
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
                log_format: OwnLogFormat::default(),
                log_file: PathBuf::new(),
                log_file_len_max: 0,
                log_files_max: 1,
                log_dir: PathBuf::new(),
                log_queries: false,
                trace_header: String::new(),
                metrics_services_max: 0,
                metrics_former_names: false,
                traces_max: 0,
                audit_max: 0,
                alerts_max: 0,
                alert_webhook_url: String::new(),
                alert_webhook_timeout_ms: 0,
                performance_report_url: String::new(),
                audit_file: PathBuf::new(),
                otlp: OtlpSettings::default(),
                otlp_logs: false,
            },
            audit: AuditForwardSettings::default(),
        }
    }
}
