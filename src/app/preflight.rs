//! Checks before a node starts. [`preflight`] checks the settings, every file that they name, and the secrets
//! from the environment. [`start_problems`] checks for what can prevent the start of a node with good
//! settings: another process that uses its ports or its data, or another user who owns its data.
//!
//! Both are called by `maxine serve` before it starts anything, and by `maxine config check`, so that the two never
//! differ. Neither changes anything.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use maxine_raft::pki::check_certificate_name;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access, geteuid};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::settings;
use crate::config::{BackendKind, NodeConfig};
use maxine_identity::ServerTls;
use maxine_identity::tls_files::{TlsFiles, look_at};
use maxine_state::Address;

/// Checks everything that `config` names and the node reads. Returns what prevents its start, one line each.
/// Blocks.
#[must_use]
pub fn preflight(config: &NodeConfig) -> Vec<String> {
    let mut found = Vec::new();
    if let Err(error) = settings::security(config) {
        found.push(format!("{error:#}"));
    }
    let listen = config.http_listen();
    // Port 0, because only the address is checked here. `start_problems` checks the port.
    if let Err(error) = TcpListener::bind((listen.ip(), 0)) {
        found.push(format!("http.host: {}: {error}", listen.ip()));
    }
    if config.dns_listen().is_some()
        && let Err(error) = TcpListener::bind((config.dns.host, 0))
    {
        found.push(format!("dns.host: {}: {error}", config.dns.host));
    }
    if config.consul_listen().is_some()
        && let Err(error) = TcpListener::bind((config.consul.host, 0))
    {
        found.push(format!("consul.host: {}: {error}", config.consul.host));
    }
    found.extend(shared_ports(config));
    if let Err(why) = check_advertised(&config.http.advertise) {
        found.push(format!("http.advertise: {why}"));
    }
    if let Err(why) = check_data_dir(&config.data_dir) {
        found.push(format!("node.data_dir: {}: {why}", config.data_dir.display()));
    }
    let telemetry = &config.telemetry;
    // A path inside the data directory needs no check of its own.
    let is_elsewhere = |path: &Path| path.is_absolute() && !path.starts_with(&config.data_dir);
    let (log_dir, audit_file) = (&telemetry.log_dir, &telemetry.audit_file);
    if is_elsewhere(log_dir)
        && let Err(why) = check_data_dir(log_dir)
    {
        found.push(format!("telemetry.log_dir: {}: {why}", log_dir.display()));
    }
    if is_elsewhere(audit_file)
        && let Err(why) = check_file(audit_file, check_data_dir)
    {
        found.push(format!("telemetry.audit_file: {}: {why}", audit_file.display()));
    }
    let log_file = config.data_dir.join(&telemetry.log_file);
    if !telemetry.log_file.as_os_str().is_empty()
        && let Err(why) = check_file(&log_file, check_data_dir)
    {
        found.push(format!("telemetry.log_file: {}: {why}", log_file.display()));
    }
    // A node serves without its backups, and an alert says why they fail.
    if let Some(dir) = settings::backup_dir(config)
        && let Err(why) = nearest_directory(&dir)
    {
        found.push(format!("backup.directory: {}: {why}", dir.display()));
    }
    let webhook = &config.telemetry.alert_webhook_url;
    if !webhook.is_empty() {
        let url = webhook.parse::<axum::http::Uri>();
        let is_http = |url: &axum::http::Uri| matches!(url.scheme_str(), Some("http" | "https"));
        if !url.is_ok_and(|url| is_http(&url)) {
            found.push("telemetry.alert_webhook_url: expected a URL of http or https".to_owned());
        }
    }
    found.extend(config.telemetry.otlp.problems());
    found.extend(config.audit.problems());
    // What a node does while it cannot write this file is a setting, `audit.file_mode`.
    if let Some(file) = settings::audit_file(config)
        && let Err(why) = check_file(&file, |directory| nearest_directory(directory).map(drop))
    {
        found.push(format!("audit.file: {}: {why}", file.display()));
    }
    let before = found.len();
    for (certificate, key) in config.http.tls_cert.iter().zip(&config.http.tls_key) {
        let identity = pair(named("http.tls_cert", certificate), named("http.tls_key", key));
        look_at(TlsFiles { authority: None, identity, signed: false }, &mut found);
    }
    let authority = named("http.tls_client_ca", &config.http.tls_client_ca);
    look_at(TlsFiles { authority, identity: None, signed: false }, &mut found);
    if found.len() == before {
        let lists = ("http.tls_client_crl", &config.http.tls_client_crl[..]);
        found.extend(revoked_problem(lists, &config.http.tls_client_ca));
    }
    if found.len() == before
        && let Some(Err(why)) = settings::http_tls(config).map(ServerTls::load)
    {
        found.push(format!("http.tls_cert: {why}"));
    }
    if let Err(problems) = settings::outside(config) {
        found.extend(problems.into_iter().map(|text| format!("security.identities_file: {text}")));
    }
    let upstream = named("security.upstream_ca", &config.security.upstream_ca);
    look_at(TlsFiles { authority: upstream, identity: None, signed: false }, &mut found);
    match config.backend {
        BackendKind::Raft => {
            let raft = &config.raft;
            found.extend(config.raft_node("").problems());
            let files = TlsFiles {
                authority: named("raft.tls_ca", &raft.tls_ca),
                identity: pair(
                    named("raft.tls_cert", &raft.tls_cert),
                    named("raft.tls_key", &raft.tls_key),
                ),
                signed: true,
            };
            let before = found.len();
            look_at(files, &mut found);
            // A file that cannot be read has no name to check.
            if let Some((setting, path)) = named("raft.tls_cert", &raft.tls_cert)
                && found.len() == before
                && let Err(why) = check_certificate_name(path, &raft.cluster_id, config.node_id)
            {
                found.push(format!("{setting}: {}: {why}", path.display()));
            }
            if found.len() == before {
                let lists = ("raft.tls_crl", &raft.tls_crl[..]);
                found.extend(revoked_problem(lists, &raft.tls_ca));
            }
        }
        BackendKind::Redis => {
            match settings::redis(config) {
                Err(error) => found.push(format!("{error:#}")),
                Ok(redis) => found.extend(redis.check().err().into_iter().flatten()),
            }
            let state = &config.state;
            let files = TlsFiles {
                authority: named("state.redis_tls_ca", &state.redis_tls_ca),
                identity: pair(
                    named("state.redis_tls_cert", &state.redis_tls_cert),
                    named("state.redis_tls_key", &state.redis_tls_key),
                ),
                // The authority is that of the Redis server, and another one may have signed this node's
                // certificate.
                signed: false,
            };
            look_at(files, &mut found);
        }
        BackendKind::Local | BackendKind::SharedFile => {}
    }
    found
}

/// Returns what prevents the start of a node with good settings at this moment, one line each. Blocks.
#[must_use]
pub fn start_problems(config: &NodeConfig) -> Vec<String> {
    let mut found = Vec::new();
    let mut listeners = Vec::new();
    let mut listen = |addr: SocketAddr, settings: &str| match TcpListener::bind(addr) {
        // All listeners stay open until the end, because two settings may name the same port.
        Ok(listener) => listeners.push(listener),
        Err(error) => {
            let why = match error.kind() {
                ErrorKind::PermissionDenied => "this user may not listen on this port".into(),
                _ => maxine_wording::io(&error),
            };
            found.push(format!("cannot listen on {addr} ({settings}): {why}"));
        }
    };
    listen(config.http_listen(), "http.host, http.port");
    if config.backend == BackendKind::Raft {
        listen(config.raft.listen, "raft.listen");
    }
    if let Some(addr) = config.consul_listen() {
        listen(addr, "consul.host, consul.port");
    }
    if let Some(addr) = config.dns_listen() {
        listen(addr, "dns.host, dns.port");
        if let Err(error) = UdpSocket::bind(addr) {
            let why = maxine_wording::io(&error);
            found.push(format!("cannot listen on {addr} over UDP (dns.host, dns.port): {why}"));
        }
    }
    let data = match config.backend {
        BackendKind::Raft => maxine_raft::offline::check_data_dir(&config.raft_node(""))
            .map_err(|error| error.to_string()),
        BackendKind::Local => {
            settings::local(config).check_log().map_err(|error| error.to_string())
        }
        BackendKind::SharedFile => {
            settings::shared_file(config).check_storage().map_err(|error| error.to_string())
        }
        BackendKind::Redis => Ok(()),
    };
    found.extend(data.err());
    found.extend(super::data_dir::check(config).err());
    found.extend(super::private::foreign(config, geteuid().as_raw()));
    found.extend(settings::serve(config).err().map(|error| format!("{error:#}")));
    found
}

/// Checks that others can use the URL at which this node says that it is reached. It may be empty.
fn check_advertised(url: &str) -> Result<(), String> {
    if url.is_empty() {
        return Ok(());
    }
    let address = Address::parse(url).map_err(|error| error.to_string())?;
    let host = address.parts().host;
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Err(format!("{host} is not the address of one machine")),
        _ => Ok(()),
    }
}

/// Listeners of this node that would use the same port of the same address, one line each.
fn shared_ports(config: &NodeConfig) -> Vec<String> {
    let http = Some(("http.host and http.port", config.http_listen()));
    let peers =
        (config.backend == BackendKind::Raft).then_some(("raft.listen", config.raft.listen));
    let dns = config.dns_listen().map(|listen| ("dns.host and dns.port", listen));
    let consul = config.consul_listen().map(|listen| ("consul.host and consul.port", listen));
    let all: Vec<(&str, SocketAddr)> = [http, peers, dns, consul].into_iter().flatten().collect();
    let overlap = |a: SocketAddr, b: SocketAddr| {
        let any = a.ip().is_unspecified() || b.ip().is_unspecified();
        a.port() != 0 && a.port() == b.port() && (any || a.ip() == b.ip())
    };
    let mut found = Vec::new();
    for (at, (one, listen)) in all.iter().enumerate() {
        for (other, _) in all[at + 1..].iter().filter(|(_, other)| overlap(*listen, *other)) {
            let port = listen.port();
            found.push(format!("{one}, {other}: both use port {port} of the same address"));
        }
    }
    found
}

/// Checks that the directory exists or can be created, and that files can be written to it.
fn check_data_dir(dir: &Path) -> Result<(), String> {
    let Some(nearest) = nearest_directory(dir)? else { return Ok(()) };
    access(nearest.as_path(), AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|error| format!("{}: {}", nearest.display(), error.desc()))
}

/// Checks that a node can have a file of its own at this path, whose directory passes `check`.
fn check_file(file: &Path, check: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    match file.parent() {
        _ if file.is_symlink() => Err(maxine_files::IS_LINK.into()),
        Some(directory) if !file.is_dir() => check(directory),
        _ => Err("it is a directory".into()),
    }
}

/// Checks that a directory can be at this path. Returns the directory, or the nearest existing one above it. Whether
/// this node may write to it is not checked.
fn nearest_directory(dir: &Path) -> Result<Option<PathBuf>, String> {
    if dir.as_os_str().is_empty() {
        return Ok(None);
    }
    let is_there = |dir: &&Path| dir.symlink_metadata().is_ok();
    let dir = std::path::absolute(dir).map_err(|error| error.to_string())?;
    let Some(nearest) = dir.ancestors().find(is_there) else { return Ok(None) };
    let of = |why: &dyn std::fmt::Display| format!("{}: {why}", nearest.display());
    let kind = nearest.metadata().map_err(|error| of(&error))?;
    if !kind.is_dir() {
        return Err(of(&"it is not a directory"));
    }
    let disk = statvfs(nearest).map_err(|error| of(&error.desc()))?;
    if disk.blocks() == 0 {
        return Err(of(&"no files can be made in this file system"));
    }
    Ok(Some(nearest.to_owned()))
}

/// What is wrong with lists of revoked certificates. The file of the authorities can be read.
fn revoked_problem((setting, lists): (&str, &[PathBuf]), authority: &Path) -> Option<String> {
    if lists.is_empty() {
        return None;
    }
    let pem = maxine_files::read_bundle(authority).ok()?;
    let authorities: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().ok()?;
    let read = maxine_revocation::read(lists, &authorities);
    read.err().map(|why| format!("{setting}: {why}"))
}

fn named<'a>(setting: &'a str, path: &'a Path) -> Option<(&'a str, &'a Path)> {
    (!path.as_os_str().is_empty()).then_some((setting, path))
}

fn pair<T>(first: Option<T>, second: Option<T>) -> Option<[T; 2]> {
    Some([first?, second?])
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
