//! `maxine doctor`: checks the nodes of a cluster, and with a settings file also the node of this machine, and says what
//! to do about each finding.
//!
//! What cannot be checked is reported as unknown, and never as good.

use std::path::{Path, PathBuf};

use futures::future::{join, join_all, join3};
use serde_json::Value;

use super::alerts::{begun_ms, groups, message_of};
use super::client::{Answer, ConnectArgs, Request, tls_remedy};
use super::config::DATA_UNCHECKED;
use super::each_node::{Node, nodes};
use super::exit::CliError;
use super::finding::{ANSWERS, Finding, Findings, Level, OPEN_FILES, VIEWER, show};
use super::output::{Output, timestamp};
use super::runbook;
use super::security;
use super::serve::{Loaded, ServeArgs};
use maxine_clock::{Clock, SKEW_MAX_MS};
use maxine_telemetry::AlertKind;

/// A difference between two clocks above this is a warning, in milliseconds.
const SKEW_WARN_MS: u64 = 1_000;
/// A sync of the log to disk that takes longer than this is a warning, in microseconds.
const SYNC_WARN_US: u64 = 100_000;
/// A copy is called current below this age, in milliseconds.
const CURRENT_MS: u64 = 2_000;
/// A copy that may be older than this is a warning, in milliseconds.
const STALE_WARN_MS: u64 = 10_000;
/// How many requests each node gets one after the other: its status, and then all others at the same time.
const STEPS: u64 = 2;
/// A last backup before this time is a warning, in milliseconds.
const BACKUP_WARN_MS: u64 = 7 * 24 * 3_600 * 1_000;
/// A critical event of this time is a warning, in milliseconds.
const EVENT_WARN_MS: u64 = 24 * 3_600 * 1_000;

/// Arguments of `maxine doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Settings file of the node on this machine: also check its settings, certificates and files
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check only what protects the cluster: access, TLS, secrets, accounts and files
    #[arg(long)]
    security: bool,
}

impl DoctorArgs {
    /// The connection: the nodes, the credentials and the output format.
    #[must_use]
    pub fn connect(&self) -> &ConnectArgs {
        &self.connect
    }
}

/// What one node answered.
struct Seen {
    url: String,
    status: Value,
    /// The conditions that are active on it; `None` if it did not say.
    active: Option<Vec<Value>>,
    /// Its critical events of the last day that nobody has acknowledged.
    events: Vec<Value>,
    /// The node's clock minus this machine's, and how wrong that can be, in milliseconds.
    clock: Option<(i64, u64)>,
}

/// A node that gave no status.
struct Silent {
    url: String,
    /// As for [`Seen`]. A node that refuses a request may still give its time.
    clock: Option<(i64, u64)>,
}

/// Runs `maxine doctor`.
///
/// # Errors
/// [`CliError::Failed`] if there is a problem; [`CliError::Refused`] or [`CliError::Incomplete`] if no node gave its
/// status; see [`CliError`] for others.
pub async fn run(args: DoctorArgs, out: &mut Output) -> Result<(), CliError> {
    let config = args.config.as_deref();
    let found = match args.security {
        true => findings_of_security(&args.connect, config).await?,
        false => findings(&args.connect, config).await?,
    };
    show(&found, out)
}

/// Checks every node, and with a settings file also this machine. The most important findings come first.
pub(super) async fn findings(
    connect: &ConnectArgs,
    config: Option<&Path>,
) -> Result<Vec<Finding>, CliError> {
    let mut findings = Findings::default();
    if let Some(config) = config {
        check_machine(config, &mut findings);
    }
    let nodes = nodes(connect, STEPS).await?;
    let each = join_all(nodes.iter().map(|node| check_node(node, connect)));
    let (checked, backups) = join(each, Box::pin(last_backup(connect))).await;
    let (mut seen, mut silent) = (Vec::new(), Vec::new());
    for (found, of_node) in checked {
        findings.0.extend(found.0);
        match of_node {
            Ok(node) => seen.push(node),
            Err(node) => silent.push(node),
        }
    }
    compare(&seen, &silent, &mut findings);
    check_network(&seen, &mut findings);
    check_alerts(&seen, &mut findings);
    check_backups(backups, &seen, &mut findings);
    Ok(findings.sorted())
}

/// Checks what protects the nodes, and with a settings file also what protects the one of this machine. The most important
/// findings come first.
async fn findings_of_security(
    connect: &ConnectArgs,
    config: Option<&Path>,
) -> Result<Vec<Finding>, CliError> {
    let mut findings = Findings::default();
    let now_ms = Clock::system().wall_ms();
    if let Some(file) = config {
        let subject = file.display().to_string();
        match load(file) {
            Ok(loaded) => {
                security::check_settings(&loaded.config, &subject, now_ms, &mut findings);
            }
            Err(problems) => settings_problems(problems, &subject, &mut findings),
        }
    }
    let nodes = nodes(connect, STEPS).await?;
    let limit_ms = connect.timeout_ms / (STEPS + 1);
    let each = join_all(nodes.iter().map(async |node| {
        let mut findings = Findings::default();
        let status = status_of(node, &mut findings).await;
        if let Ok(status) = &status {
            let checked = security::check_node(node, connect, limit_ms, status, &mut findings);
            Box::pin(checked).await;
        }
        (findings, status)
    }));
    let (checked, of_cluster) = join(each, Box::pin(security::ask_cluster(connect))).await;
    let (mut seen, mut silent) = (Vec::new(), Vec::new());
    for (node, (found, status)) in nodes.iter().zip(checked) {
        findings.0.extend(found.0);
        match status {
            Ok(status) => {
                let (url, events) = (node.url.clone(), Vec::new());
                seen.push(Seen { url, status, active: None, events, clock: None });
            }
            Err(node) => silent.push(node),
        }
    }
    if config.is_none() {
        let backend = seen.iter().find_map(|node| node.status["backend"].as_str());
        security::settings_unknown(backend, &mut findings);
    }
    compare_versions(&seen, &silent, &mut findings);
    security::check_cluster(of_cluster, now_ms, &mut findings);
    Ok(findings.sorted())
}

/// The status of a node. If it gave none, that is a finding.
async fn status_of(node: &Node, findings: &mut Findings) -> Result<Value, Silent> {
    let system = Clock::system();
    let before_ms = system.wall_ms();
    match node.client.send(&Request::get(&["cluster", "status"])).await {
        Ok(answer) => {
            findings.add(Level::Good, ANSWERS, &node.url, "it answers", "");
            Ok(answer.body)
        }
        Err(error) => {
            without_status(&node.url, &error, findings);
            let clock = date_of(&error).map(|date_ms| {
                // The time of the answer has no fractions of a second.
                let (date_ms, rounded_ms) = (date_ms + 500, 500);
                clock_at(date_ms, rounded_ms, before_ms, system.wall_ms())
            });
            Err(Silent { url: node.url.clone(), clock })
        }
    }
}

/// The time of a Maxine node that refused a request, in milliseconds since 1970.
fn date_of(error: &CliError) -> Option<u64> {
    match error {
        CliError::Problem(problem) if problem.is_of_maxine() => problem.date_ms,
        _ => None,
    }
}

/// Asks one node.
async fn check_node(node: &Node, connect: &ConnectArgs) -> (Findings, Result<Seen, Silent>) {
    let url = node.url.as_str();
    let mut findings = Findings::default();
    let status = match status_of(node, &mut findings).await {
        Ok(status) => status,
        Err(silent) => return (findings, Err(silent)),
    };
    check_status(url, &status, &mut findings);
    let request = Request::get(&["alerts"]).query("limit", Some(1_000));
    // The clock comes first, because it gets the connection that is open: that makes its measurement short.
    let (clock, alerts, ()) = join3(
        Box::pin(clock_of(node)),
        Box::pin(node.client.send(&request)),
        Box::pin(security::check_access(
            node,
            connect,
            connect.timeout_ms / (STEPS + 1),
            &status,
            &mut findings,
        )),
    )
    .await;
    let mut active = alerts_of(url, alerts, &mut findings);
    let now_ms = Clock::system().wall_ms();
    let mut events = active.clone().unwrap_or_default();
    events.retain(|alert| is_recent_event(alert, now_ms));
    if let Some(alerts) = &mut active {
        alerts.retain(|alert| alert["state"] == "active");
    }
    (findings, Ok(Seen { url: url.into(), status, active, events, clock }))
}

/// The node's clock minus this machine's, and how wrong that can be, in milliseconds.
async fn clock_of(node: &Node) -> Option<(i64, u64)> {
    let system = Clock::system();
    let before_ms = system.wall_ms();
    // A time in the future, so that the answer is short.
    let request = Request::get(&["traffic"]).query("since_ms", Some(before_ms + 86_400_000));
    let node_ms = node.client.send(&request).await.ok()?.body["now_ms"].as_u64()?;
    Some(clock_at(node_ms, 0, before_ms, system.wall_ms()))
}

/// A node's clock minus this machine's, and how wrong that can be, in milliseconds. The node gave the time `node_ms`, which
/// may be off by `rounded_ms`, between two times of this machine.
fn clock_at(node_ms: u64, rounded_ms: u64, before_ms: u64, after_ms: u64) -> (i64, u64) {
    let error_ms = after_ms.saturating_sub(before_ms).div_ceil(2);
    (signed(node_ms) - signed(before_ms + error_ms), error_ms + rounded_ms)
}

/// What it means that a node gave no status. Only a node that does not answer, or cannot work, is a problem.
fn without_status(url: &str, error: &CliError, findings: &mut Findings) {
    let why = error.of_one_node();
    let CliError::Problem(problem) = error else {
        if let Some(fix) = tls_remedy(&why) {
            let found = format!("it answers, but no TLS connection was made: {why}");
            return findings.add(Level::Problem, "certificates", url, &found, fix);
        }
        let says = |words: &[&str]| {
            let why = why.to_lowercase();
            words.iter().any(|word| why.contains(word))
        };
        let fix = match () {
            () if says(&["refused"]) => {
                "nothing listens at this address: start the node, or correct the address"
            }
            () if says(&["closed", "reset", "broken pipe"]) => {
                "something takes connections at this address and ends them: look into its log, and whether it is a node"
            }
            () => "look whether the machine runs, and whether the network to it works",
        };
        let fix = format!("{fix}; see docs/operations/replica-lost.md");
        return findings.add(Level::Problem, ANSWERS, url, &format!("no answer: {why}"), &fix);
    };
    if !problem.is_of_maxine() {
        let found = format!("it answers, but not as a Maxine node: {why}");
        let fix = "look whether the address is that of a Maxine node";
        return findings.add(Level::Unknown, ANSWERS, url, &found, fix);
    }
    let found = format!("it answers, but gave no status: {why}");
    match problem.status {
        401 | 403 => findings.add(Level::Unknown, ANSWERS, url, &found, VIEWER),
        503 | 500 => {
            let fix = format!("look into its log; see {}", runbook::of_refusal(&why));
            findings.add(Level::Problem, ANSWERS, url, &found, &fix);
        }
        _ => {
            let fix = "look whether the address is that of a Maxine node of this version";
            findings.add(Level::Unknown, ANSWERS, url, &found, fix);
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Judges what a node says about itself.
fn check_status(url: &str, status: &Value, findings: &mut Findings) {
    if let Some(why) = status["excluded"].as_str() {
        // The reason says what to do with a removed node.
        findings.add(Level::Problem, "member", url, why, "see docs/operations/replica-lost.md");
    }
    for warning in status["warnings"].as_array().into_iter().flatten() {
        let text = warning.as_str().unwrap_or_default();
        let is_found_already = status["excluded"].as_str() == Some(text);
        if is_found_already || text.starts_with(security::REGISTRATION_IS_OPEN) {
            continue;
        }
        let fix = format!("see {}", runbook::of_warning(text, status));
        findings.add(Level::Warning, "status", url, text, &fix);
    }
    check_copy(url, status, findings);
    let raft = &status["raft"];
    match (raft["disk_stalled"].as_bool(), raft["last_sync_us"].as_u64()) {
        (Some(true), _) => {
            let fix =
                "look for other programs that write to this disk; see docs/operations/disk-full.md";
            findings.add(Level::Problem, "disk sync", url, "its disk does not answer in time", fix);
        }
        (_, Some(sync_us)) if sync_us > SYNC_WARN_US => {
            let found = format!("the last sync of its log took {} ms", sync_us / 1_000);
            let fix = "use a faster disk, or one that no other program writes to";
            findings.add(Level::Warning, "disk sync", url, &found, fix);
        }
        (_, Some(sync_us)) => {
            let found = format!("the last sync of its log took {:.1} ms", sync_us as f64 / 1e3);
            findings.add(Level::Good, "disk sync", url, &found, "");
        }
        (_, None) if status["backend"] == "raft" => {
            let found = "it has not synced its log since it started";
            findings.add(Level::Unknown, "disk sync", url, found, "");
        }
        (_, None) => {
            let found = "a node reports the time of its syncs in Raft mode only";
            findings.add(Level::Unknown, "disk sync", url, found, "");
        }
    }
    if status["backend"] == "redis" {
        let found = "the settings of Redis (persistence, eviction) are not read";
        let fix = "compare them; see docs/reference/backends.md";
        findings.add(Level::Unknown, "redis", url, found, fix);
    }
    let found = "a node does not report how many files its process has open";
    let fix = "count the entries of /proc/PID/fd on its machine";
    findings.add(Level::Unknown, OPEN_FILES, url, found, fix);
}

/// Judges the age of a node's copy. Without a leader, nothing confirms that a copy is current.
fn check_copy(url: &str, status: &Value, findings: &mut Findings) {
    let knows_leader = status["leadership"]["leader"].is_string();
    let without_leader = || format!("see {}", runbook::without_leader(status));
    let Some(age_ms) = status["staleness_ms"].as_u64() else {
        let found = "it does not know how old its copy is";
        return findings.add(Level::Unknown, "copy", url, found, &without_leader());
    };
    let age_s = age_ms.div_ceil(1_000);
    if !knows_leader {
        let found = format!("its copy may be {age_s} s old, and no leader is known");
        findings.add(Level::Warning, "copy", url, &found, &without_leader());
    } else if age_ms > STALE_WARN_MS {
        // A node that knows a leader and does not hear of it is cut off.
        let found = format!("its copy may be {age_s} s old");
        findings.add(Level::Warning, "copy", url, &found, "see docs/operations/partition.md");
    } else if age_ms >= CURRENT_MS {
        let found = format!("its copy is at most {age_s} s old");
        findings.add(Level::Good, "copy", url, &found, "");
    } else {
        findings.add(Level::Good, "copy", url, "its copy is current", "");
    }
}

/// The alerts of a node, according to its answer. `None` if it gave none.
fn alerts_of(
    url: &str,
    answer: Result<Answer, CliError>,
    findings: &mut Findings,
) -> Option<Vec<Value>> {
    match answer {
        Ok(answer) => Some(answer.body["items"].as_array().cloned().unwrap_or_default()),
        Err(error) => {
            let why = format!("not known which alerts it has: {}", error.of_one_node());
            findings.add(Level::Unknown, "alerts", url, &why, VIEWER);
            None
        }
    }
}

/// Whether an alert is a critical event of the last day that nobody has acknowledged. An event has no end, so nothing
/// else shows that acknowledged writes were lost, for example.
fn is_recent_event(alert: &Value, now_ms: u64) -> bool {
    alert["state"] == "event"
        && alert["severity"] == "critical"
        && alert["acknowledged_by"].is_null()
        && now_ms.saturating_sub(begun_ms(alert)) <= EVENT_WARN_MS
}

/// The conditions that are active, and critical events. They include certificates that end soon and disks that are nearly
/// full. What several nodes report is one finding, which names these nodes.
fn check_alerts(seen: &[Seen], findings: &mut Findings) {
    for node in seen.iter().filter(|node| node.active.as_ref().is_some_and(Vec::is_empty)) {
        findings.add(Level::Good, "alerts", &node.url, "no condition is active", "");
    }
    add_alerts(&once_each(seen, |node| node.active.as_deref().unwrap_or_default()), findings);
    add_alerts(&once_each(seen, |node| node.events.as_slice()), findings);
}

/// The alerts of all nodes. One node may have been named by two addresses.
fn once_each<'a>(
    seen: &'a [Seen],
    of: impl Fn(&'a Seen) -> &'a [Value],
) -> Vec<(&'a Seen, &'a Value)> {
    let mut all: Vec<(&Seen, &Value)> = Vec::new();
    for node in seen {
        let is_known = |alert: &Value| {
            all.iter().any(|(_, known)| ["node", "id"].iter().all(|of| known[of] == alert[of]))
        };
        let new: Vec<&Value> = of(node).iter().filter(|alert| !is_known(alert)).collect();
        all.extend(new.into_iter().map(|alert| (node, alert)));
    }
    all
}

/// One finding for each group of alerts.
fn add_alerts(all: &[(&Seen, &Value)], findings: &mut Findings) {
    let alerts: Vec<&Value> = all.iter().map(|(_, alert)| *alert).collect();
    for mut group in groups(&alerts) {
        group.sort_by_key(|member| begun_ms(alerts[*member]));
        let is_critical = group.iter().any(|member| alerts[*member]["severity"] == "critical");
        // The node that has seen it for longest knows most of it.
        let (node, alert) = all[group[0]];
        let text = |field: &str| alert[field].as_str().unwrap_or_default();
        let row: Vec<&Value> = group.iter().map(|member| alerts[*member]).collect();
        let (kind, message) = (text("type"), message_of(alert, &row));
        let page = match page_of(alert, node.active.as_deref().unwrap_or_default()) {
            "" => String::new(),
            page => format!("see docs/operations/{page}.md"),
        };
        let (level, found, fix) = match text("state") {
            "event" => (
                Level::Warning,
                format!("{kind} at {}: {message}", timestamp(begun_ms(alert))),
                format!("{page}; when it is dealt with, acknowledge it: 'maxine alerts ack'"),
            ),
            _ if is_critical => (Level::Problem, format!("{kind}: {message}"), page),
            _ => (Level::Warning, format!("{kind}: {message}"), page),
        };
        let urls: Vec<&str> = group.iter().map(|member| all[*member].0.url.as_str()).collect();
        findings.add(level, "alerts", &urls.join(", "), &found, &fix);
    }
}

/// The page about an alert. If a node refuses writes, that is the page about the cause, which is another alert of it.
fn page_of<'a>(alert: &'a Value, active: &'a [Value]) -> &'a str {
    let causes = [
        AlertKind::NoMajority,
        AlertKind::StoreUnreachable,
        AlertKind::StoreWritesRefused,
        AlertKind::NoLeader,
    ];
    let is_of = |alert: &Value, kind: AlertKind| alert["type"] == kind.name();
    let cause = is_of(alert, AlertKind::WritesRefused)
        .then(|| causes.iter().find_map(|kind| active.iter().find(|other| is_of(other, *kind))));
    cause.flatten().unwrap_or(alert)["runbook"].as_str().unwrap_or_default()
}

/// Compares the versions of the nodes. Nodes that gave no status are unknown. Returns how the others are called.
fn compare_versions(seen: &[Seen], silent: &[Silent], findings: &mut Findings) -> String {
    for node in silent {
        let found = match node.clock {
            Some(_) => "it gave no status, so its version is not known",
            None => "it gave no status, so its version and its clock are not known",
        };
        findings.add(Level::Unknown, "versions", &node.url, found, "");
    }
    let all = match (silent.len(), seen.len()) {
        (0, _) => "all nodes".to_owned(),
        (_, 1) => "the one node that answered".to_owned(),
        (_, answered) => format!("the {answered} nodes that answered"),
    };
    let versions: std::collections::BTreeSet<&str> =
        seen.iter().filter_map(|node| node.status["version"].as_str()).collect();
    match (versions.len(), versions.first()) {
        (1, Some(version)) => {
            let run = if all.starts_with("the one") { "runs" } else { "run" };
            let found = format!("{all} {run} version {version}");
            findings.add(Level::Good, "versions", "", &found, "");
        }
        (0, _) | (_, None) => {}
        _ => {
            let list: Vec<&str> = versions.into_iter().collect();
            let found = format!("the nodes run different versions: {}", list.join(", "));
            let fix = "finish the upgrade; see docs/guides/upgrade.md";
            findings.add(Level::Warning, "versions", "", &found, fix);
        }
    }
    all
}

/// Compares the nodes with each other. Nodes that gave no status are unknown.
fn compare(seen: &[Seen], silent: &[Silent], findings: &mut Findings) {
    let all = compare_versions(seen, silent, findings);
    let of_seen = seen.iter().map(|node| node.clock);
    let of_silent = silent.iter().map(|node| node.clock);
    let clocks: Vec<(i64, u64)> = of_seen.chain(of_silent).flatten().collect();
    for node in seen.iter().filter(|node| node.clock.is_none()) {
        findings.add(Level::Unknown, "clocks", &node.url, "its clock could not be read", "");
    }
    let earliest = clocks.iter().min_by_key(|clock| clock.0);
    let latest = clocks.iter().max_by_key(|clock| clock.0);
    let (Some(earliest), Some(latest)) = (earliest, latest) else { return };
    if clocks.len() < 2 {
        return;
    }
    // What remains after the error of both measurements is certain.
    let skew_ms = latest.0.abs_diff(earliest.0).saturating_sub(latest.1 + earliest.1);
    let fix = "synchronize the clocks (NTP); see docs/operations/clock-wrong.md";
    let found = format!("the times that the nodes reported differ by at least {skew_ms} ms");
    if skew_ms > SKEW_MAX_MS {
        findings.add(Level::Problem, "clocks", "", &found, fix);
    } else if skew_ms > SKEW_WARN_MS {
        findings.add(Level::Warning, "clocks", "", &found, fix);
    } else if has_alert(seen, AlertKind::ClockSkew) {
        // A node may answer with the time that the nodes have agreed on, and not with that of its own clock.
        let name = AlertKind::ClockSkew.name();
        let found = format!("the nodes reported the same time, but the alert {name} is active");
        findings.add(Level::Unknown, "clocks", "", &found, fix);
    } else {
        let is_all = seen.iter().all(|node| node.clock.is_some());
        let compared = if is_all { all } else { format!("{} of the nodes", clocks.len()) };
        let found = format!("no difference between the times that {compared} reported was found");
        findings.add(Level::Good, "clocks", "", &found, "");
    }
}

/// Finds members that answer this machine although another one cannot reach them: the network between them is split.
fn check_network(seen: &[Seen], findings: &mut Findings) {
    let id = |node: &Seen| match node.status["excluded"].is_string() {
        true => None,
        false => node.status["raft"]["node_id"].as_u64(),
    };
    let mut reports = std::collections::BTreeSet::new();
    for node in seen {
        let Some(own) = id(node) else { continue };
        for member in node.status["raft"]["members"].as_array().into_iter().flatten() {
            let other = member["id"].as_u64().filter(|other| *other != own);
            let answers = other.is_some() && seen.iter().any(|node| id(node) == other);
            if answers && member["reachable"] == false {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let (by, of) = (text(&node.status["node"]), text(&member["name"]));
                reports.insert(format!("{by} reports that {of} cannot be reached"));
            }
        }
    }
    if reports.is_empty() {
        return;
    }
    let reports: Vec<String> = reports.into_iter().collect();
    let found = format!("{}, although all of them answer this machine", reports.join("; "));
    let fix = "repair the network between them (raft.listen), or their certificates; see docs/operations/partition.md";
    findings.add(Level::Warning, "network", "", &found, fix);
}

/// Whether a condition of this kind is active on one of the nodes, as far as they said.
fn has_alert(seen: &[Seen], kind: AlertKind) -> bool {
    let mut active = seen.iter().filter_map(|node| node.active.as_ref()).flatten();
    active.any(|alert| alert["type"] == kind.name())
}

/// The audit record of the last backup. It is asked for while the nodes are.
async fn last_backup(connect: &ConnectArgs) -> Result<Answer, CliError> {
    let request = Request::get(&["audit"])
        .query("action", Some("cluster.backup"))
        .query("outcome", Some("success"))
        .query("limit", Some(1))
        .within(connect.timeout_ms / (STEPS + 1) * STEPS);
    connect.client()?.send(&request).await
}

/// When the last backup was made, according to the audit log.
fn check_backups(answer: Result<Answer, CliError>, seen: &[Seen], findings: &mut Findings) {
    let mut kinds = seen.iter().filter_map(|node| node.status["backend"].as_str());
    if let Some(kind) = kinds.find(|kind| *kind != "raft") {
        let found = format!("in {kind} mode Maxine takes no backups");
        let fix = "back up the storage that holds the state; see docs/reference/backends.md";
        findings.add(Level::Unknown, "backups", "", &found, fix);
        return;
    }
    // Both are about scheduled backups.
    let fails = [AlertKind::BackupFailed, AlertKind::BackupOld];
    let is_failing = fails.into_iter().any(|kind| has_alert(seen, kind));
    let fix = match is_failing {
        true => "see docs/operations/backups.md",
        false => {
            "make one with `maxine cluster backup FILE`, or set backup.schedule; if it is set, look again in a minute"
        }
    };
    match answer {
        Ok(answer) => match answer.body["items"][0]["time_ms"].as_u64() {
            Some(at_ms) if Clock::system().wall_ms().saturating_sub(at_ms) > BACKUP_WARN_MS => {
                let found = format!("the last backup was made at {}", timestamp(at_ms));
                findings.add(Level::Warning, "backups", "", &found, fix);
            }
            Some(at_ms) => {
                let found = format!("the last backup was made at {}", timestamp(at_ms));
                findings.add(Level::Good, "backups", "", &found, "");
            }
            None => {
                let found = match is_failing {
                    true => "backups are scheduled, but none has been verified yet",
                    false => "Maxine knows of no backup; it cannot know copies of files",
                };
                findings.add(Level::Warning, "backups", "", found, fix);
            }
        },
        Err(error) => {
            let why = format!("not known when the last backup was made: {}", error.of_one_node());
            let is_refused = error.exit_code() == super::exit::REFUSED;
            let fix = if is_refused { VIEWER } else { "" };
            findings.add(Level::Unknown, "backups", "", &why, fix);
        }
    }
}

/// The settings of the node on this machine, or everything that prevents its start.
fn load(file: &Path) -> Result<Loaded, Vec<String>> {
    let serve = ServeArgs { config: Some(file.to_owned()), ..ServeArgs::default() };
    serve.load().map_err(|error| error.0)
}

fn settings_problems(problems: Vec<String>, subject: &str, findings: &mut Findings) {
    for text in problems {
        findings.add(Level::Problem, "settings", subject, &text, "correct the setting");
    }
}

/// Checks the settings and files of the node on this machine. Changes nothing.
fn check_machine(file: &Path, findings: &mut Findings) {
    let subject = file.display().to_string();
    let Loaded { config, unknown } = match load(file) {
        Ok(loaded) => loaded,
        Err(problems) => return settings_problems(problems, &subject, findings),
    };
    let found = format!("the settings are good; {DATA_UNCHECKED}");
    findings.add(Level::Good, "settings", &subject, &found, "");
    for text in [unknown, crate::app::unread_files(&config)].concat() {
        findings.add(Level::Warning, "settings", &subject, &text, "remove or correct it");
    }
    security::check_files(&config, Clock::system().wall_ms(), findings);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::client::Problem;
    use super::super::exit;
    use super::super::finding::cluster_was_checked;
    use super::*;

    fn levels(findings: &Findings, check: &str) -> Vec<Level> {
        findings.0.iter().filter(|finding| finding.check == check).map(|f| f.level).collect()
    }

    fn seen(version: &str, clock: Option<(i64, u64)>) -> Seen {
        Seen {
            url: "http://n:1".into(),
            status: json!({"version": version}),
            active: Some(Vec::new()),
            events: Vec::new(),
            clock,
        }
    }

    /// The findings about alerts: level, nodes and what to do, for nodes with these alerts.
    fn alerts_of(nodes: &[(&str, &[Value])]) -> Vec<(Level, String, String)> {
        let one = |(url, active): &(&str, &[Value])| Seen {
            url: (*url).into(),
            active: Some(active.to_vec()),
            ..seen("2.0.0", None)
        };
        let mut findings = Findings::default();
        check_alerts(&nodes.iter().map(one).collect::<Vec<_>>(), &mut findings);
        findings.0.into_iter().map(|of| (of.level, of.subject, of.fix)).collect()
    }

    fn alert(node: &str, id: u64, kind: AlertKind) -> Value {
        let severity = kind.severity().as_str();
        json!({
            "id": id, "node": node, "time_ms": 1_000 - id, "state": "active", "severity": severity,
            "type": kind.name(), "object": "cluster", "message": "x", "runbook": kind.runbook(),
        })
    }

    /// Regression: each node's alerts were listed by themselves, so one condition looked like several.
    #[test]
    fn a_condition_that_several_nodes_report_is_one_finding_that_names_them() {
        let one = alert("n1", 1, AlertKind::NoLeader);
        let two = [alert("n2", 7, AlertKind::NoLeader), alert("n2", 8, AlertKind::StateOld)];
        let found = alerts_of(&[
            ("http://n:1", std::slice::from_ref(&one)),
            ("http://n:2", &two),
            ("http://n:3", &[]),
            // Another address of the first one.
            ("http://localhost:1", std::slice::from_ref(&one)),
        ]);
        let of = |level, nodes: &str, fix: &str| (level, nodes.to_owned(), fix.to_owned());
        assert_eq!(
            found,
            [
                of(Level::Good, "http://n:3", ""),
                of(Level::Problem, "http://n:2, http://n:1", "see docs/operations/leader-lost.md"),
                of(Level::Warning, "http://n:2", "see docs/operations/partition.md"),
            ]
        );
    }

    /// Regression: the doctor found nothing some seconds after acknowledged writes were lost.
    #[test]
    fn a_critical_event_of_the_last_day_is_a_warning_until_it_is_acknowledged() {
        let day_ms = EVENT_WARN_MS;
        let event = |node: &str| {
            let mut event = alert(node, 7, AlertKind::StoreWritesLost);
            event["state"] = "event".into();
            event["time_ms"] = (2 * day_ms).into();
            event
        };
        let lost = event("n1");
        assert!(is_recent_event(&lost, 3 * day_ms) && !is_recent_event(&lost, 3 * day_ms + 1));
        let with = |field: &str, value: &str| {
            let mut other = lost.clone();
            other[field] = value.into();
            other
        };
        for other in
            [with("state", "active"), with("severity", "warning"), with("acknowledged_by", "ada")]
        {
            assert!(!is_recent_event(&other, 3 * day_ms), "{other}");
        }
        let node = |url: &str, name: &str| Seen {
            url: url.into(),
            events: vec![event(name)],
            ..seen("2.0.0", None)
        };
        let mut findings = Findings::default();
        let nodes = [
            node("http://n:1", "n1"),
            node("http://n:2", "n2"),
            // Another address of the first one.
            node("http://localhost:1", "n1"),
        ];
        check_alerts(&nodes, &mut findings);
        let warnings: Vec<&Finding> =
            findings.0.iter().filter(|finding| finding.level == Level::Warning).collect();
        let subjects: Vec<&str> = warnings.iter().map(|warning| &*warning.subject).collect();
        assert_eq!(subjects, ["http://n:1", "http://n:2"]);
        assert!(warnings[0].found.starts_with("store.writes_lost at 1970-01-03T00:00:00.000Z: x"));
        assert!(warnings[0].fix.starts_with("see docs/operations/redis-lost.md; when it is"));
    }

    /// Regression: the page about a lost majority was named whatever the cause was.
    #[test]
    fn the_page_about_refused_writes_is_that_of_their_cause() {
        let page = |others: &[AlertKind]| {
            let kinds = others.iter().chain([&AlertKind::WritesRefused]);
            let all: Vec<Value> = kinds.map(|kind| alert("n1", 1, *kind)).collect();
            page_of(&all[others.len()], &all).to_owned()
        };
        assert_eq!(page(&[]), "quorum-lost");
        assert_eq!(page(&[AlertKind::DiskSlow]), "quorum-lost");
        assert_eq!(page(&[AlertKind::NoLeader]), "leader-lost");
        assert_eq!(page(&[AlertKind::NoLeader, AlertKind::NoMajority]), "quorum-lost");
        assert_eq!(page(&[AlertKind::NoLeader, AlertKind::StoreUnreachable]), "redis-lost");
    }

    #[test]
    fn clocks_that_differ_by_more_than_the_measurement_are_found() {
        let found = |clocks: &[Option<(i64, u64)>]| {
            let seen: Vec<Seen> = clocks.iter().map(|clock| seen("2.0.0", *clock)).collect();
            let mut findings = Findings::default();
            compare(&seen, &[], &mut findings);
            levels(&findings, "clocks")
        };
        assert_eq!(found(&[Some((0, 5)), Some((-900, 5))]), [Level::Good]);
        assert_eq!(found(&[Some((0, 5)), Some((-1_500, 5))]), [Level::Warning]);
        assert_eq!(found(&[Some((0, 500)), Some((-1_500, 500))]), [Level::Good]);
        assert_eq!(found(&[Some((3_000, 5)), Some((-3_000, 5))]), [Level::Problem]);
        assert_eq!(found(&[Some((0, 5)), None]), [Level::Unknown]);
    }

    /// Regression: in a partition all nodes answered the doctor, and it named only a lost replica and a lost majority.
    #[test]
    fn members_that_answer_but_do_not_reach_each_other_are_a_split_network() {
        let node = |id: u64, reached: [bool; 2]| {
            let others = (1..=3).filter(|other| *other != id).zip(reached);
            let members = others.map(|(other, reachable)| {
                json!({"id": other, "name": format!("node-{other}"), "reachable": reachable})
            });
            let members: Vec<Value> = members.collect();
            let name = format!("node-{id}");
            let raft = json!({"node_id": id, "members": members});
            Seen { status: json!({"node": name, "raft": raft}), ..seen("2.0.0", None) }
        };
        let found = |nodes: &[Seen]| {
            let mut findings = Findings::default();
            check_network(nodes, &mut findings);
            findings.0.pop().map(|finding| (finding.found, finding.fix))
        };
        assert_eq!(found(&[node(1, [true, true]), node(2, [true, true])]), None);
        assert_eq!(
            found(&[node(1, [true, false]), node(2, [true, false])]),
            None,
            "node 3 is silent"
        );
        let mut left = node(3, [false, false]);
        left.status["excluded"] = "it was removed".into();
        assert_eq!(found(&[node(1, [true, false]), left]), None, "a removed node is not expected");
        let split = [node(1, [true, false]), node(2, [true, false]), node(3, [false, false])];
        let (found, fix) = found(&split).unwrap();
        assert!(
            found.starts_with("node-1 reports that node-3 cannot be reached; node-2 "),
            "{found}"
        );
        assert!(found.ends_with("although all of them answer this machine"), "{found}");
        assert!(fix.ends_with("docs/operations/partition.md"), "{fix}");
    }

    /// Regression: a node whose clock was 400 days ahead refused the token as expired, and its clock was "not known".
    #[test]
    fn the_clock_of_a_node_that_refuses_the_token_is_compared() {
        let mut problem = Problem::read(401, json!({"type": "/problems/unauthorized"}), None);
        problem.date_ms = Some(2_000_000);
        assert_eq!(date_of(&CliError::Problem(Box::new(problem))), Some(2_000_000));
        let stranger = Problem { date_ms: Some(1), ..Problem::read(401, json!("no"), None) };
        assert_eq!(date_of(&CliError::Problem(Box::new(stranger))), None);
        assert_eq!(clock_at(2_000_500, 500, 1_000_000, 1_000_010), (1_000_495, 505));
        let of = |ahead_ms: i64| {
            let silent = Silent { url: "http://n:2".into(), clock: Some((ahead_ms, 505)) };
            let mut findings = Findings::default();
            compare(&[seen("2.0.0", Some((0, 5)))], &[silent], &mut findings);
            levels(&findings, "clocks")
        };
        assert_eq!(of(34_560_000_000), [Level::Problem]);
        assert_eq!(of(400), [Level::Good]);
    }

    /// Regression: the clocks were called good while an alert said that one of them was wrong.
    #[test]
    fn clocks_are_not_good_while_a_node_reports_that_one_is_wrong() {
        let alerted = Seen {
            active: Some(vec![alert("n1", 1, AlertKind::ClockSkew)]),
            ..seen("2.0.0", Some((0, 5)))
        };
        let mut findings = Findings::default();
        compare(&[seen("2.0.0", Some((0, 5))), alerted], &[], &mut findings);
        assert_eq!(levels(&findings, "clocks"), [Level::Unknown]);
        let of_clocks = findings.0.iter().find(|finding| finding.check == "clocks").unwrap();
        assert!(of_clocks.found.contains("node.clock_skew"), "{}", of_clocks.found);
    }

    #[test]
    fn what_a_node_says_is_judged_and_what_it_does_not_say_is_unknown() {
        let found = |status: Value, check: &str| {
            let mut findings = Findings::default();
            check_status("http://n:1", &status, &mut findings);
            levels(&findings, check)
        };
        let raft =
            |stalled: bool, us: u64| json!({"raft": {"disk_stalled": stalled, "last_sync_us": us}});
        assert_eq!(found(raft(false, 900), "disk sync"), [Level::Good]);
        assert_eq!(found(raft(false, 200_000), "disk sync"), [Level::Warning]);
        assert_eq!(found(raft(true, 900), "disk sync"), [Level::Problem]);
        assert_eq!(found(json!({"raft": null}), "disk sync"), [Level::Unknown]);
        assert_eq!(found(json!({"staleness_ms": null}), "copy"), [Level::Unknown]);
        assert_eq!(found(json!({"excluded": "removed"}), "member"), [Level::Problem]);
        assert_eq!(found(json!({"backend": "redis"}), "redis"), [Level::Unknown]);
        assert_eq!(found(json!({}), "open files"), [Level::Unknown]);
    }

    /// Regression: the copy of a node that was cut off was called current for ten seconds.
    #[test]
    fn a_copy_is_current_only_if_a_leader_confirmed_it_just_now() {
        let of = |backend: &str, leader: Option<&str>, age_ms: u64| {
            let status = json!({
                "backend": backend, "leadership": {"leader": leader}, "staleness_ms": age_ms,
            });
            let mut findings = Findings::default();
            check_copy("http://n:1", &status, &mut findings);
            let Finding { level, found, fix, .. } = findings.0.remove(0);
            (level, found, fix)
        };
        let is = |level: Level, found: &str, fix: &str| (level, found.to_owned(), fix.to_owned());
        let current = is(Level::Good, "its copy is current", "");
        assert_eq!(of("raft", Some("n2"), 1_999), current);
        let recent = is(Level::Good, "its copy is at most 6 s old", "");
        assert_eq!(of("raft", Some("n2"), 5_100), recent);
        let page = "see docs/operations/partition.md";
        assert_eq!(
            of("raft", Some("n2"), 11_000),
            is(Level::Warning, "its copy may be 11 s old", page)
        );
        let found = "its copy may be 1 s old, and no leader is known";
        let page = "see docs/operations/leader-lost.md";
        assert_eq!(of("raft", None, 1_000), is(Level::Warning, found, page));
    }

    /// Regression: "set backup.schedule" was the advice while a scheduled backup failed.
    #[test]
    fn a_scheduled_backup_that_fails_is_not_answered_with_the_advice_to_schedule_one() {
        let of = |active: Vec<Value>| {
            let body = json!({"items": []});
            let answer = Answer { headers: reqwest::header::HeaderMap::new(), body };
            let mut findings = Findings::default();
            let node = Seen { active: Some(active), ..seen("2.0.0", None) };
            check_backups(Ok(answer), &[node], &mut findings);
            let Finding { level, found, fix, .. } = findings.0.remove(0);
            assert_eq!(level, Level::Warning);
            (found, fix)
        };
        assert!(of(Vec::new()).1.contains("set backup.schedule"));
        for kind in [AlertKind::BackupFailed, AlertKind::BackupOld] {
            let (found, fix) = of(vec![alert("n1", 1, kind)]);
            assert!(found.contains("scheduled, but none has been verified yet"), "{found}");
            assert_eq!(fix, "see docs/operations/backups.md");
        }
    }

    /// Regression: what no node reports was one line for each node.
    #[test]
    fn what_could_not_be_checked_on_several_nodes_is_one_finding_that_names_them() {
        let mut findings = Findings::default();
        for url in ["http://n:1", "http://n:2"] {
            let status = json!({"backend": "redis", "staleness_ms": null});
            check_status(url, &status, &mut findings);
            findings.add(Level::Good, "versions", url, "the same", "");
        }
        findings.add(Level::Unknown, "open files", "http://n:3", "something else", "");
        let joined = findings.sorted();
        let of = |check: &str| -> Vec<&str> {
            joined.iter().filter(|of| of.check == check).map(|of| &*of.subject).collect()
        };
        assert_eq!(of("open files"), ["http://n:1, http://n:2", "http://n:3"]);
        assert_eq!(of("redis"), ["http://n:1, http://n:2"]);
        assert_eq!(of("versions"), ["http://n:1", "http://n:2"], "only what is unknown is joined");
    }

    #[test]
    fn different_versions_are_a_warning() {
        let mut findings = Findings::default();
        compare(&[seen("2.0.0", None), seen("2.1.0", None)], &[], &mut findings);
        assert_eq!(levels(&findings, "versions"), [Level::Warning]);
    }

    #[test]
    fn nodes_that_gave_no_status_are_not_counted_as_equal() {
        let mut findings = Findings::default();
        let both = [seen("2.0.0", Some((0, 5))), seen("2.0.0", Some((0, 5)))];
        let silent = Silent { url: "http://n:3".into(), clock: None };
        compare(&both, &[silent], &mut findings);
        let of = |level: Level| -> Vec<&Finding> {
            findings.0.iter().filter(|finding| finding.level == level).collect()
        };
        let good: Vec<&str> = of(Level::Good).iter().map(|finding| &*finding.found).collect();
        let versions = "the 2 nodes that answered run version 2.0.0";
        let clocks =
            "no difference between the times that the 2 nodes that answered reported was found";
        assert_eq!(good, [versions, clocks]);
        assert_eq!(of(Level::Unknown)[0].subject, "http://n:3");
    }

    #[test]
    fn a_node_that_answers_without_a_status_is_unknown_and_not_down() {
        let found = |error: &CliError| {
            let mut findings = Findings::default();
            without_status("http://n:1", error, &mut findings);
            let Finding { level, fix, .. } = findings.0.remove(0);
            (level, fix)
        };
        let of = |status: u16, body: Value| {
            CliError::Problem(Box::new(Problem::read(status, body, None)))
        };
        let document = || json!({"type": "/problems/unauthorized", "title": "no"});
        for status in [401, 403] {
            assert_eq!(found(&of(status, document())), (Level::Unknown, VIEWER.into()));
        }
        for stranger in [of(404, json!("<html>")), of(404, json!("not found")), of(200, json!(""))]
        {
            let (level, fix) = found(&stranger);
            assert!(level == Level::Unknown && fix.contains("a Maxine node"), "{fix}");
        }
        assert_eq!(found(&of(503, document())).0, Level::Problem);
        let dead = |why: &str| CliError::Unavailable {
            answered: false,
            tried: vec![("http://n:1".into(), why.into())],
        };
        let refused = found(&dead("Connection refused (os error 111)"));
        assert!(refused.0 == Level::Problem && refused.1.contains("start the node"), "{refused:?}");
        let slow = found(&dead("no answer in time"));
        assert!(slow.0 == Level::Problem && slow.1.contains("network"), "{slow:?}");
        let ended = found(&dead("Connection reset by peer (os error 104)"));
        assert!(ended.0 == Level::Problem && !ended.1.contains("machine runs"), "{ended:?}");
        let expired = found(&dead("the node's certificate has expired"));
        assert!(expired.0 == Level::Problem && expired.1.contains("replace its certificate"));
        assert!(!expired.1.contains("replica-lost"), "{expired:?}");
    }

    /// Regression: with a token that was revoked, nothing was checked, and the exit code was 0.
    #[test]
    fn a_cluster_that_could_not_be_checked_is_not_reported_as_good() {
        let code = |statuses: &[u16]| {
            let mut findings = Findings::default();
            for status in statuses {
                let answer = Problem::read(*status, json!({"type": "/problems/x"}), None);
                let error = CliError::Problem(Box::new(answer));
                match status {
                    200 => findings.add(Level::Good, ANSWERS, "http://n:1", "it answers", ""),
                    _ => without_status("http://n:1", &error, &mut findings),
                }
            }
            cluster_was_checked(&findings.0).err().map(|error| error.exit_code())
        };
        assert_eq!(code(&[401, 401]), Some(exit::REFUSED));
        assert_eq!(code(&[404]), Some(exit::UNAVAILABLE));
        assert_eq!(code(&[401, 200]), None);
    }
}
