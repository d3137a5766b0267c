//! What protects a cluster: the checks of `maxine doctor --security`, of which `maxine doctor` makes some as well.
//!
//! A node shows a part of its settings to nobody. Those are checked with its settings file, on its machine. Without the
//! file they are reported as unknown.

use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use futures::future::{join_all, join4};
use serde_json::Value;

use super::client::{Answer, ConnectArgs, Request};
use super::config::{certificate_verdict, revocation_verdict};
use super::each_node::Node;
use super::exit::{CliError, REFUSED};
use super::finding::{Findings, Level, VIEWER};
use super::output::timestamp;
use crate::app::private::user_text;
use crate::config::{Access, BackendKind, NodeConfig};
use maxine_identity::{ClientAuth, break_glass_file};
use maxine_raft::pki::{certificate_end_ms, certificate_life_ms};
use maxine_state::AuditClass;
use maxine_telemetry::AlertKind;
use maxine_telemetry::audit_forward::AuditForwardSettings;

const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// A certificate with a longer life is a warning, in days.
const LIFE_DAYS_MAX: u64 = 398;
/// A key that signs sessions and is older than this is a warning, in days.
const KEY_DAYS_MAX: u64 = 90;
/// Trusted networks with more addresses than these prefixes allow are a warning.
const PROXY_PREFIX_MIN: (u8, u8) = (16, 48);
/// Maximum number of items of a list that are looked at.
const ITEMS_MAX: u64 = 1_000;
/// How the warning of a node begins whose registration is open.
pub(super) const REGISTRATION_IS_OPEN: &str = "registration is open";
/// The user id of root.
const ROOT: u32 = 0;
/// The user id of `nobody`, which also stands for users that are not known here.
const NOBODY: u32 = 65_534;
/// What to do to learn what a node does not show.
const WITH_CONFIG: &str = "run it on the machine of the node, with --config";
/// What to do if a node does not show something without the token of an administrator.
const ADMIN: &str = "use the token of an administrator";

/// The checks that need the settings file of a node.
const OF_SETTINGS: &[(&str, &str)] = &[
    ("passwords", "security.allow_plain_http"),
    ("proxies", "security.trusted_proxies"),
    ("peers", "raft.tls_ca, raft.tls_cert, raft.tls_key"),
    ("client certificates", "http.tls_client_auth"),
    ("revocation", "http.tls_client_crl, raft.tls_crl, raft.tls_denied"),
    ("upstreams", "security.upstream_allow, security.upstream_deny"),
    ("dns", "dns.host, dns.allow_open"),
    ("redis", "state.redis_url"),
    ("certificates", "http.tls_cert, raft.tls_cert, state.redis_tls_cert"),
    ("file modes", "node.data_dir and the files of keys"),
    ("secrets", "MAXINE_JWT_SECRET, MAXINE_ADMIN_PASSWORD"),
    ("audit", "audit.file, audit.syslog_address, audit.http_url"),
];

/// Reports what only the settings file of a node shows. `backend` is that of the nodes, if it is known.
pub(super) fn settings_unknown(backend: Option<&str>, findings: &mut Findings) {
    for (check, settings) in OF_SETTINGS {
        let only_with = match *check {
            "peers" => Some("raft"),
            "redis" => Some("redis"),
            _ => None,
        };
        if only_with.is_some() && backend.is_some() && only_with != backend {
            continue;
        }
        let found = format!("not known: a node does not report {settings}");
        findings.add(Level::Unknown, check, "", &found, WITH_CONFIG);
    }
}

/// Checks what strangers may do at one node, and what the node reports about its TLS.
pub(super) async fn check_node(
    node: &Node,
    connect: &ConnectArgs,
    limit_ms: u64,
    status: &Value,
    findings: &mut Findings,
) {
    check_access(node, connect, limit_ms, status, findings).await;
    check_strangers(node, connect, limit_ms, findings).await;
    let request = Request::get(&["alerts"]).query("limit", Some(ITEMS_MAX)).within(limit_ms);
    let alerts = Box::pin(node.client.send(&request)).await;
    check_tls_alerts(&node.url, &alerts, findings);
    check_audit_alerts(&node.url, &alerts, findings);
}

/// Whether a URL is of this machine only.
fn is_here(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether strangers can read and change the registry, and whether somebody on the way can read requests.
pub(super) async fn check_access(
    node: &Node,
    connect: &ConnectArgs,
    limit_ms: u64,
    status: &Value,
    findings: &mut Findings,
) {
    let url = node.url.as_str();
    let Ok(parsed) = url.parse::<reqwest::Url>() else { return };
    let is_here = is_here(&parsed);
    if parsed.scheme() == "http" && !is_here {
        let fix = "set http.tls_cert and http.tls_key; see docs/guides/https.md";
        findings.add(
            Level::Warning,
            "https",
            url,
            "requests are not encrypted: others on the network can read them",
            fix,
        );
    }
    check_registration(url, is_here, status, findings);
    let one = ConnectArgs { server: vec![url.to_owned()], ..connect.clone() };
    let Ok(stranger) = one.anonymous_client() else { return };
    let stranger = stranger.without_notes();
    // A service that nobody registers: 404 means that the caller was admitted.
    let request = Request::get(&["resolve", "default", "maxine-doctor"]);
    let asked = Box::pin(stranger.send(&request.within(limit_ms))).await;
    let is_admitted = match &asked {
        Ok(_) => true,
        Err(CliError::Problem(problem)) => problem.status == 404,
        Err(_) => false,
    };
    match asked {
        _ if is_admitted && is_here => {
            let found = "discovery needs no token; this address is for this machine only";
            findings.add(Level::Good, "access", url, found, "");
        }
        _ if is_admitted => {
            let fix = "set security.discovery_access = token, unless the network admits trusted callers only";
            findings.add(Level::Warning, "access", url, "discovery needs no token", fix);
        }
        Ok(_) => {}
        Err(CliError::Problem(problem)) if problem.status == 401 => {
            findings.add(Level::Good, "access", url, "discovery needs a token", "");
        }
        Err(error) => {
            let why = format!("not known whether discovery needs a token: {}", error.of_one_node());
            findings.add(Level::Unknown, "access", url, &why, "");
        }
    }
}

/// Whether registration needs a token, by what the node says.
fn check_registration(url: &str, is_here: bool, status: &Value, findings: &mut Findings) {
    if status["excluded"].is_string() {
        let found = "whether registration needs a token is not known: the node left the cluster";
        return findings.add(Level::Unknown, "access", url, found, "");
    }
    let Some(warnings) = status["warnings"].as_array() else {
        let found = "whether registration needs a token is not known: the node does not say it";
        let fix = "look at security.registration_access";
        return findings.add(Level::Unknown, "access", url, found, fix);
    };
    let is_open =
        |text: &Value| text.as_str().is_some_and(|text| text.starts_with(REGISTRATION_IS_OPEN));
    match (warnings.iter().any(is_open), is_here) {
        (true, true) => {
            let found = "registration needs no token; this address is for this machine only";
            findings.add(Level::Good, "access", url, found, "");
        }
        (true, false) => {
            let fix = "set security.registration_access = token";
            let found = "anyone who reaches this address can register and remove instances";
            findings.add(Level::Warning, "access", url, found, fix);
        }
        (false, _) => findings.add(Level::Good, "access", url, "registration needs a token", ""),
    }
}

/// Whether somebody without a token can read what only users may.
async fn check_strangers(
    node: &Node,
    connect: &ConnectArgs,
    limit_ms: u64,
    findings: &mut Findings,
) {
    let url = node.url.as_str();
    let one = ConnectArgs { server: vec![url.to_owned()], ..connect.clone() };
    let Ok(stranger) = one.anonymous_client() else { return };
    let stranger = stranger.without_notes();
    let paths = ["users", "tokens", "keys", "audit", "traces", "log-levels", "alerts", "config"];
    let asked = paths.map(async |path| {
        let request = Request::get(&[path]).within(limit_ms);
        (path, Box::pin(stranger.send(&request)).await)
    });
    let (mut admitted, mut unknown) = (Vec::new(), Vec::new());
    for (path, answer) in join_all(asked).await {
        match answer {
            Ok(_) => admitted.push(path),
            Err(CliError::Problem(problem)) if matches!(problem.status, 401 | 403) => {}
            Err(error) => unknown.push(format!("{path}: {}", error.of_one_node())),
        }
    }
    if !admitted.is_empty() {
        let found = format!("without a token anyone can read {}", admitted.join(", "));
        let fix =
            "close this address to others: no setting opens these, so this is a fault; report it";
        findings.add(Level::Problem, "strangers", url, &found, fix);
    }
    if !unknown.is_empty() {
        let found = format!("what strangers can read is not known: {}", unknown.join("; "));
        findings.add(Level::Unknown, "strangers", url, &found, "");
    }
    if admitted.is_empty() && unknown.is_empty() {
        let found = "users, tokens, the audit log, traces, log levels and settings need a token";
        findings.add(Level::Good, "strangers", url, found, "");
    }
}

/// What a node says about the end of its certificates, and about files for TLS that it refused.
fn check_tls_alerts(url: &str, answer: &Result<Answer, CliError>, findings: &mut Findings) {
    let answer = match answer {
        Ok(answer) => &answer.body,
        Err(error) => {
            let why = format!("its alerts are not known: {}", error.of_one_node());
            return findings.add(Level::Unknown, "certificates", url, &why, VIEWER);
        }
    };
    let kinds = [AlertKind::CertificateEnds, AlertKind::TlsFilesRefused];
    let is_ours = |alert: &&Value| {
        alert["state"] == "active" && kinds.iter().any(|kind| alert["type"] == kind.name())
    };
    let mut is_good = true;
    for alert in answer["items"].as_array().into_iter().flatten().filter(is_ours) {
        is_good = false;
        let level = if alert["severity"] == "critical" { Level::Problem } else { Level::Warning };
        let text = |field: &str| alert[field].as_str().unwrap_or_default();
        let found = format!("{}: {}", text("object"), text("message"));
        let fix = "see docs/operations/certificate-expired.md";
        findings.add(level, "certificates", url, &found, fix);
    }
    if is_good {
        let found = "no alert about the end of a certificate or about refused files is active";
        findings.add(Level::Good, "certificates", url, found, "");
    }
}

/// What a node says about audit records that did not reach a sink.
fn check_audit_alerts(url: &str, answer: &Result<Answer, CliError>, findings: &mut Findings) {
    let answer = match answer {
        Ok(answer) => &answer.body,
        Err(error) => {
            let why = format!("its alerts are not known: {}", error.of_one_node());
            return findings.add(Level::Unknown, "audit", url, &why, VIEWER);
        }
    };
    let mut is_good = true;
    for alert in answer["items"].as_array().into_iter().flatten() {
        let is_of =
            |kind: AlertKind, state: &str| alert["type"] == kind.name() && alert["state"] == state;
        let text = |field: &str| alert[field].as_str().unwrap_or_default();
        let (object, message) = (text("object"), text("message"));
        let found = if is_of(AlertKind::AuditForwardFailing, "active") {
            format!("{object}: {message}")
        } else if is_of(AlertKind::AuditForwardGap, "event") {
            // What was lost stays lost, so this has no end.
            let at = alert["time_ms"].as_u64().map_or_else(String::new, timestamp);
            format!("{object}: at {at}: {message}")
        } else {
            continue;
        };
        is_good = false;
        let level = if alert["severity"] == "critical" { Level::Problem } else { Level::Warning };
        let fix = "see docs/operations/audit-forwarding.md";
        findings.add(level, "audit", url, &found, fix);
    }
    if is_good {
        let found = "no alert about the forwarding of audit records is listed";
        findings.add(Level::Good, "audit", url, found, "");
    }
}

/// What the cluster answers about accounts and secrets.
pub(super) struct OfCluster {
    tokens: Result<Answer, CliError>,
    users: Result<Answer, CliError>,
    keys: Result<Answer, CliError>,
    sign_ins: Result<Answer, CliError>,
}

/// Asks for the accounts, the API tokens, the signing keys and the sign-ins.
pub(super) async fn ask_cluster(connect: &ConnectArgs) -> OfCluster {
    let ask = async |request: Request| {
        let client = connect.client()?;
        Box::pin(client.send(&request)).await
    };
    let sign_ins = Request::get(&["audit"])
        .query("action", Some("session.create"))
        .query("outcome", Some("success"));
    // The list of signing keys is always complete.
    let page = |request: Request| request.query("limit", Some(ITEMS_MAX));
    let (tokens, users, keys, sign_ins) = join4(
        ask(page(Request::get(&["tokens"]))),
        ask(page(Request::get(&["users"]))),
        ask(Request::get(&["keys"])),
        ask(page(sign_ins)),
    )
    .await;
    OfCluster { tokens, users, keys, sign_ins }
}

/// The items of a list, if it was answered and is complete. Otherwise says what is not known.
fn items<'a>(
    answer: &'a Result<Answer, CliError>,
    check: &'static str,
    findings: &mut Findings,
) -> Option<&'a Vec<Value>> {
    let unknown = match answer {
        Ok(answer) if answer.body["next_cursor"].is_string() => {
            format!("not all are known: there are more than {ITEMS_MAX}")
        }
        Ok(answer) => match answer.body["items"].as_array() {
            Some(items) => return Some(items),
            None => "not known: the answer has no list".to_owned(),
        },
        Err(error) => {
            let why = format!("not known: {}", error.of_one_node());
            let fix = if error.exit_code() == REFUSED { ADMIN } else { "" };
            findings.add(Level::Unknown, check, "", &why, fix);
            return None;
        }
    };
    findings.add(Level::Unknown, check, "", &unknown, "");
    None
}

/// Judges the accounts, tokens and keys of the cluster.
pub(super) fn check_cluster(of_cluster: OfCluster, now_ms: u64, findings: &mut Findings) {
    let OfCluster { tokens, users, keys, sign_ins } = of_cluster;
    if let Some(tokens) = items(&tokens, "tokens", findings) {
        check_tokens(tokens, findings);
    }
    if let Some(keys) = items(&keys, "signing keys", findings) {
        check_keys(keys, now_ms, findings);
    }
    if let Some(users) = items(&users, "administrators", findings) {
        check_administrators(users, &sign_ins, findings);
    }
}

/// Whether audit records are forwarded to another machine before they are removed. Only a node knows whether they reach
/// it.
fn check_audit(forward: &AuditForwardSettings, subject: &str, findings: &mut Findings) {
    let days = |class: AuditClass| class.retention_ms() / DAY_MS;
    let kept = format!(
        "records of accounts are kept for {} days, and those of sign-ins for {} days",
        days(AuditClass::Identities),
        days(AuditClass::Access)
    );
    let receivers = [("syslog", &forward.syslog_address), ("HTTP", &forward.http_url)];
    let set = receivers.iter().filter(|(_, place)| !place.is_empty()).map(|(name, _)| *name);
    let set: Vec<&str> = set.collect();
    if !set.is_empty() {
        let found = format!(
            "a sink is set ({}); whether records reach it is not checked here",
            set.join(", ")
        );
        return findings.add(Level::Good, "audit", subject, &found, "");
    }
    let to = match forward.is_on() {
        true => "audit records are forwarded only to a file on this machine",
        false => "audit records are not forwarded",
    };
    let fix = "set audit.syslog_address or audit.http_url; see docs/guides/answer-an-auditor.md";
    findings.add(Level::Warning, "audit", subject, &format!("{to}; {kept}"), fix);
}

fn check_tokens(tokens: &[Value], findings: &mut Findings) {
    let text = |token: &Value, field: &str| token[field].as_str().unwrap_or_default().to_owned();
    let endless: Vec<&Value> =
        tokens.iter().filter(|token| token["expires_at_ms"].is_null()).collect();
    for token in &endless {
        let found = format!(
            "the API token {} ({}, {:?}) never expires",
            text(token, "id"),
            text(token, "role"),
            text(token, "note")
        );
        let fix = "make one with 'maxine token create --days N', and revoke this one";
        findings.add(Level::Warning, "tokens", "", &found, fix);
    }
    if endless.is_empty() {
        let found = match tokens.len() {
            0 => "there are no API tokens".to_owned(),
            1 => "the one API token expires".to_owned(),
            n => format!("all {n} API tokens expire"),
        };
        findings.add(Level::Good, "tokens", "", &found, "");
    }
    if !tokens.is_empty() {
        let found = "when a token was used last is not known: Maxine does not record it";
        let fix = "revoke tokens that nobody needs: 'maxine token revoke ID'";
        findings.add(Level::Unknown, "tokens", "", found, fix);
    }
}

fn check_keys(keys: &[Value], now_ms: u64, findings: &mut Findings) {
    let signing = keys.iter().find(|key| key["signs"] == true);
    let Some(made_ms) = signing.and_then(|key| key["created_at_ms"].as_u64()) else {
        let found =
            "the age of the key that signs sessions is not known: no key of the state signs";
        return findings.add(Level::Unknown, "signing keys", "", found, "");
    };
    let days = now_ms.saturating_sub(made_ms) / DAY_MS;
    let found =
        format!("the key that signs sessions is {} old", maxine_wording::count(days, "day"));
    match days > KEY_DAYS_MAX {
        true => findings.add(Level::Warning, "signing keys", "", &found, "maxine key rotate"),
        false => findings.add(Level::Good, "signing keys", "", &found, ""),
    }
}

/// Whether each administrator has signed in, by the audit log.
fn check_administrators(
    users: &[Value],
    sign_ins: &Result<Answer, CliError>,
    findings: &mut Findings,
) {
    let check = "administrators";
    let sign_ins = match sign_ins {
        Ok(answer) => &answer.body,
        Err(error) => {
            let why = format!("who signed in is not known: {}", error.of_one_node());
            let fix = if error.exit_code() == REFUSED { VIEWER } else { "" };
            return findings.add(Level::Unknown, check, "", &why, fix);
        }
    };
    let records = sign_ins["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_cut = sign_ins["next_cursor"].is_string();
    let mut is_good = true;
    for user in users.iter().filter(|user| user["role"] == "admin") {
        let name = user["name"].as_str().unwrap_or_default();
        if records.iter().any(|record| record["user"] == name) {
            continue;
        }
        is_good = false;
        let since = records.last().and_then(|oldest| oldest["time_ms"].as_u64());
        let (level, found) = match (is_cut, since) {
            (true, Some(since)) => (
                Level::Unknown,
                format!("the administrator {name} did not sign in since {}", timestamp(since)),
            ),
            _ => (
                Level::Warning,
                format!("the audit log has no sign-in of the administrator {name}"),
            ),
        };
        let fix = format!("if nobody needs it: 'maxine user remove {name}'");
        findings.add(level, check, "", &found, &fix);
    }
    if is_good {
        let found = "every administrator has signed in, by the audit log";
        findings.add(Level::Good, check, "", found, "");
    }
}

/// Checks the settings of the node on this machine, and its files. Blocks.
pub(super) fn check_settings(
    config: &NodeConfig,
    subject: &str,
    now_ms: u64,
    findings: &mut Findings,
) {
    let mut add = |level: Level, check: &'static str, found: &str, fix: &str| {
        findings.add(level, check, subject, found, fix);
    };
    let (http, security) = (&config.http, &config.security);
    let (is_open, is_plain) = (!http.host.is_loopback(), http.tls_cert.is_empty());
    let unset = "unset security.allow_plain_http";
    if !security.allow_plain_http {
        let found = "passwords from other machines are refused over plain HTTP";
        add(Level::Good, "passwords", found, "");
    } else if is_open && is_plain {
        let found = "passwords from other machines are accepted over plain HTTP";
        add(Level::Problem, "passwords", found, unset);
    } else if security.trusted_proxies.is_empty() {
        let found = "security.allow_plain_http is set, and not needed";
        add(Level::Warning, "passwords", found, unset);
    } else {
        let found = "passwords that a proxy took over plain HTTP are accepted";
        add(Level::Warning, "passwords", found, unset);
    }
    if is_open && is_plain {
        let fix = "set http.tls_cert and http.tls_key; see docs/guides/https.md";
        let found = format!("{} takes plain HTTP: others on the way can read it", http.host);
        add(Level::Warning, "https", &found, fix);
    }
    let accesses = [
        (security.registration_access, "security.registration_access"),
        (security.discovery_access, "security.discovery_access"),
    ];
    for (_, key) in accesses.iter().filter(|(access, _)| *access == Access::Open && is_open) {
        let found = format!("{key} is open on {}", http.host);
        add(Level::Warning, "access", &found, &format!("set {key} = token"));
    }
    let mut is_narrow = true;
    for network in &security.trusted_proxies {
        let least = if network.addr().is_ipv4() { PROXY_PREFIX_MIN.0 } else { PROXY_PREFIX_MIN.1 };
        if network.prefix_len() >= least {
            continue;
        }
        is_narrow = false;
        let level = if network.prefix_len() == 0 { Level::Problem } else { Level::Warning };
        let found = format!("every caller in {network} can pretend to be any client");
        let fix = "name only the proxies themselves in security.trusted_proxies";
        add(level, "proxies", &found, fix);
    }
    if is_narrow {
        let count = maxine_wording::count(security.trusted_proxies.len(), "network");
        add(Level::Good, "proxies", &format!("{count} of proxies are trusted"), "");
    }
    match (http.tls_client_auth, is_open) {
        (ClientAuth::Required, _) => {
            add(Level::Good, "client certificates", "clients need a certificate", "");
        }
        (_, false) => {
            let found = "clients need no certificate; the port is for this machine only";
            add(Level::Good, "client certificates", found, "");
        }
        (ClientAuth::None | ClientAuth::Optional, true) => {
            let found = "clients need no certificate, so a stolen token works from everywhere";
            let fix = "set http.tls_client_auth = required and http.tls_client_ca";
            add(Level::Warning, "client certificates", found, fix);
        }
    }
    if !http.tls_client_ca.as_os_str().is_empty() && http.tls_client_crl.is_empty() {
        let found = "a stolen client certificate is accepted until it ends";
        add(Level::Warning, "revocation", found, "set http.tls_client_crl");
    }
    match (security.upstream_allow.is_empty(), security.upstream_deny.is_empty()) {
        (true, true) => {
            let found = "instances can be in every network that Maxine does not always refuse";
            let fix = "set security.upstream_allow or security.upstream_deny";
            add(Level::Warning, "upstreams", found, fix);
        }
        _ => add(Level::Good, "upstreams", "the networks of instances are limited", ""),
    }
    if config.dns_listen().is_some() && config.dns.allow_open {
        let found = format!("everyone who reaches {} can ask for instances", config.dns.host);
        let fix = "unset dns.allow_open, or open the port to trusted callers only";
        add(Level::Warning, "dns", &found, fix);
    }
    match std::env::var_os("MAXINE_JWT_SECRET").filter(|secret| !secret.is_empty()) {
        // A short one is refused with the settings.
        Some(_) => {
            let found =
                "MAXINE_JWT_SECRET of this command is long enough; its user's programs can read it";
            add(
                Level::Warning,
                "secrets",
                found,
                "unset it: the cluster then makes and keeps keys",
            );
        }
        None => {
            let found = "not known: the environment of the node is not that of this command";
            add(Level::Unknown, "secrets", found, "look for MAXINE_JWT_SECRET in it");
        }
    }
    match config.backend {
        BackendKind::Raft => check_peers(config, subject, findings),
        BackendKind::Redis => check_redis(config, subject, findings),
        BackendKind::Local | BackendKind::SharedFile => {}
    }
    check_audit(&config.audit, subject, findings);
    check_life(config, findings);
    check_files(config, now_ms, findings);
    check_mode(&break_glass_file(&config.data_dir), user_of(config), findings);
}

fn check_peers(config: &NodeConfig, subject: &str, findings: &mut Findings) {
    let raft = &config.raft;
    let tls = "set raft.tls_ca, raft.tls_cert and raft.tls_key ('maxine cluster init-tls')";
    match (raft.tls_ca.as_os_str().is_empty(), raft.listen.ip().is_loopback()) {
        (false, _) => {
            findings.add(
                Level::Good,
                "peers",
                subject,
                "nodes need a certificate of the cluster",
                "",
            );
        }
        (true, false) => {
            let found = format!("{}: whoever reaches it can pose as a node", raft.listen);
            findings.add(Level::Problem, "peers", subject, &found, tls);
        }
        (true, true) => {
            let found = format!("{}: every user of this machine can pose as a node", raft.listen);
            findings.add(Level::Warning, "peers", subject, &found, tls);
        }
    }
    let denies = !raft.tls_crl.is_empty() || !raft.tls_denied.as_os_str().is_empty();
    if !raft.tls_ca.as_os_str().is_empty() && !denies {
        let found = "a stolen certificate of a node cannot be refused without a restart";
        let fix = "set raft.tls_denied (an empty file is enough) or raft.tls_crl";
        findings.add(Level::Warning, "revocation", subject, found, fix);
    }
}

fn check_redis(config: &NodeConfig, subject: &str, findings: &mut Findings) {
    let mut add = |level: Level, found: &str, fix: &str| {
        findings.add(level, "redis", subject, found, fix);
    };
    let file = &config.state.redis_url_file;
    let urls = match file.as_os_str().is_empty() {
        true => config.state.redis_url.clone(),
        false => match maxine_files::read_text(file) {
            Ok(text) => text,
            Err(error) => {
                let why = format!("not known: {}: {}", file.display(), maxine_wording::io(&error));
                return add(Level::Unknown, &why, "run it as the node's user");
            }
        },
    };
    let urls = urls.split(',').map(str::trim).filter(|url| !url.is_empty());
    for url in urls.filter_map(|url| url.parse::<reqwest::Url>().ok()) {
        let host = url.host_str().unwrap_or_default();
        match url.scheme() {
            "rediss" => add(Level::Good, &format!("connections to {host} use TLS"), ""),
            _ if is_here(&url) => {
                let found = format!("connections to {host} use no TLS, and stay on this machine");
                add(Level::Good, &found, "");
            }
            _ => {
                let found = format!(
                    "connections to {host} use no TLS: others on the way can change the state"
                );
                add(Level::Problem, &found, "use a rediss:// URL in state.redis_url_file");
            }
        }
        if url.password().is_none_or(str::is_empty) {
            let found = format!("no password for {host}: whoever reaches it can change the state");
            let fix = "give Redis a user and a password, and put them in state.redis_url_file";
            add(Level::Problem, &found, fix);
        }
    }
    let found = "entries in Redis carry no signature: whoever may write there can change the state, and whoever may read \
                 there has signing keys and password hashes";
    add(Level::Warning, found, "let only the user of Maxine read and write its keys (ACL)");
}

/// Whether a certificate lives so long that a stolen key stays useful.
fn check_life(config: &NodeConfig, findings: &mut Findings) {
    for path in crate::app::certificates(config) {
        // A file that cannot be read is reported by `check_files`.
        let Ok(life_ms) = certificate_life_ms(&path) else { continue };
        let days = life_ms / DAY_MS;
        if days > LIFE_DAYS_MAX {
            let found = format!("it is valid for {days} days: a stolen key is useful for long");
            let fix = format!(
                "issue certificates for at most {LIFE_DAYS_MAX} days ('maxine tls renew --days')"
            );
            findings.add(Level::Warning, "certificates", &path.display().to_string(), &found, &fix);
        }
    }
}

/// Checks the certificates of a node, and who can read its secret files. Blocks.
pub(super) fn check_files(config: &NodeConfig, now_ms: u64, findings: &mut Findings) {
    let check = "certificates";
    for path in crate::app::certificates(config) {
        let subject = path.display().to_string();
        match certificate_verdict(certificate_end_ms(&path), now_ms) {
            Ok(None) => {
                findings.add(Level::Good, check, &subject, "it ends in 30 days or later", "");
            }
            Ok(Some(note)) => {
                let fix = "renew it; see docs/operations/certificate-expired.md";
                findings.add(Level::Warning, check, &subject, &note, fix);
            }
            Err(why) => {
                let fix = "make it readable for the user that runs the node";
                findings.add(Level::Problem, check, &subject, &why, fix);
            }
        }
    }
    for path in crate::app::revocation_lists(config) {
        let subject = path.display().to_string();
        let (level, found, fix) = match revocation_verdict(&path, now_ms) {
            Ok(None) => {
                (Level::Good, "its list of revoked certificates is not out of date".to_owned(), "")
            }
            Ok(Some(note)) => (Level::Warning, note, "see docs/operations/certificate-expired.md"),
            Err(why) => (Level::Problem, why, "make it readable for the user that runs the node"),
        };
        findings.add(level, check, &subject, &found, fix);
    }
    let keys = [&config.raft.tls_key, &config.state.redis_tls_key, &config.state.redis_url_file];
    let private = config.http.tls_key.iter().chain(keys).chain([&config.data_dir]);
    let node_user = user_of(config);
    for path in private.filter(|path| !path.as_os_str().is_empty()) {
        check_mode(path, node_user, findings);
    }
}

/// Whether other users of the machine have access to a file or directory of a node, whose data belongs to `node_user`.
fn check_mode(path: &Path, node_user: Option<u32>, findings: &mut Findings) {
    let subject = path.display().to_string();
    match std::fs::metadata(path) {
        Ok(found) => {
            let (mode, owner) = (found.permissions().mode() & 0o777, found.uid());
            let own = nix::unistd::geteuid().as_raw();
            let foreign = match found.is_dir() {
                true => foreign_directory(owner, own),
                false => foreign_file(mode, owner, node_user),
            };
            if let Some((found, change)) = foreign {
                let fix = format!("{change} {subject}");
                return findings.add(Level::Problem, "file modes", &subject, &found, &fix);
            }
            let (found, change) = match found.is_dir() {
                true => directory_verdict(mode, owner, node_user),
                false => file_verdict(mode, owner, node_user),
            };
            let level = if change.is_empty() { Level::Good } else { Level::Warning };
            let fix = if change.is_empty() { String::new() } else { format!("{change} {subject}") };
            findings.add(level, "file modes", &subject, &found, &fix);
        }
        Err(error) => {
            let why = maxine_wording::io(&error);
            findings.add(Level::Unknown, "file modes", &subject, &why, "run it as the node's user");
        }
    }
}

/// Why a node must not use a data directory with this owner, and the command that corrects it. `own` is the user of this
/// command, which is that of the node, or root.
fn foreign_directory(owner: u32, own: u32) -> Option<(String, String)> {
    // Root may look at the directory of any node. The user nobody is that of no node.
    let is_foreign = owner != own && if own == ROOT { owner == NOBODY } else { owner != ROOT };
    is_foreign.then(|| {
        let (owner, user) = (user_text(owner), user_text(own));
        let found = format!("{owner} owns it: a node that runs as {user} does not start with it");
        (found, format!("chown -R {own}"))
    })
}

/// The same for a secret file whose owner alone has access. Other modes are judged by [`file_verdict`].
fn foreign_file(mode: u32, owner: u32, node_user: Option<u32>) -> Option<(String, String)> {
    let user = node_user.filter(|user| *user != owner && owner != ROOT && mode & 0o077 == 0)?;
    let (owner, of_node) = (user_text(owner), user_text(user));
    Some((format!("{owner} owns it, and the data belongs to {of_node}"), format!("chown {user}")))
}

/// What the mode of a secret file means, and the command that corrects it; empty if it is good. A node often reads a
/// file that root owns as a member of its group, so the group loses its access only if the node owns the file.
fn file_verdict(mode: u32, owner: u32, node_user: Option<u32>) -> (String, &'static str) {
    if mode & 0o077 == 0 {
        return ("only its owner has access".into(), "");
    }
    if owner == ROOT && mode & 0o037 == 0 {
        return ("root owns it, and its group may read it".into(), "");
    }
    if owner != ROOT && node_user == Some(owner) {
        return (format!("other users have access (mode {mode:03o})"), "chmod go=");
    }
    let change = match (mode & 0o007 != 0, mode & 0o030 != 0) {
        (true, true) => "chmod g-wx,o=",
        (true, false) => "chmod o=",
        (false, true) => "chmod g-wx",
        // The group keeps its access, so the node can still read the file.
        (false, false) => {
            let found = format!("neither root nor the node's user owns it (mode {mode:03o})");
            return (found, "chown root");
        }
    };
    (format!("other users have more access than a node needs (mode {mode:03o})"), change)
}

/// As [`file_verdict`], for a directory. A node may need to write to one that root owns as a member of its group.
fn directory_verdict(mode: u32, owner: u32, node_user: Option<u32>) -> (String, &'static str) {
    match (mode & 0o077, mode & 0o007) {
        (0, _) => ("only its owner has access".into(), ""),
        (_, 0) if owner == ROOT => ("root owns it, and its group has access".into(), ""),
        _ if owner != ROOT && node_user == Some(owner) => {
            (format!("other users have access (mode {mode:03o})"), "chmod go=")
        }
        (_, 0) => {
            let found = format!("neither root nor the node's user owns it (mode {mode:03o})");
            (found, "chown root")
        }
        _ => (format!("other users have access (mode {mode:03o})"), "chmod o="),
    }
}

/// The user of a node: the owner of its data. `None` if that cannot be seen.
fn user_of(config: &NodeConfig) -> Option<u32> {
    std::fs::metadata(&config.data_dir).ok().map(|found| found.uid())
}

#[cfg(test)]
#[path = "security_tests.rs"]
mod tests;
