//! Checks this node and the cluster once a second, and raises alerts for conditions.
//!
//! Every node checks the cluster with what the leader hears, so that the next leader knows which conditions
//! are active. [`Watch::judge`] is pure: it takes the observations and the time.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;

use super::tls_reload::Refused;
use maxine_actors::clock_check::ClockReport;
use maxine_actors::registry::WriteCounters;
use maxine_actors::{Registry, members};
use maxine_clock::{Clock, SKEW_MAX_MS};
use maxine_state::{AuditAction, Leadership};
use maxine_store::{ClusterStatus, ControlStore, MemberView, StoreNode};
use maxine_telemetry::{Alert, AlertKind, Notice, Scope, Severity, Telemetry};
use maxine_view::View;

/// Interval between two checks.
const TICK: Duration = Duration::from_secs(1);
/// A process whose sleep took this much longer than requested was stalled, in milliseconds.
const STALL_MS: u64 = 1_000;
/// Interval between two readings of the nodes that share the store.
const NODES_TICK: Duration = Duration::from_secs(2);
/// If the nodes that share the store were last read this long ago, in milliseconds, nothing is known about them.
const NODES_OLD_MS: u64 = 6_000;
/// Interval between two checks of disks and certificates.
const SLOW_TICK: Duration = Duration::from_secs(10);
/// If such a check takes longer than this, in milliseconds, it waits for a disk that hangs.
const SLOW_LOOK_MS_MAX: u64 = 10_000;
/// A condition has ended if it was not observed for this long, in milliseconds.
const OVER_AFTER_MS: u64 = 3_000;
/// While there is no leader, a member that was heard within this time is alive, in milliseconds.
const HEARD_MS: u64 = 5_000;
/// If the staleness of a node with a known leader is greater than this, its state is old, in milliseconds.
const STATE_OLD_MS: u64 = 10_000;
/// A member lags if it lacks what the leader had this long ago, in milliseconds.
const LAG_MS: u64 = 10_000;
/// The window in which changes of the leader are counted, in milliseconds.
const LEADERS_WITHIN_MS: u64 = 5 * 60_000;
const LEADERS_MAX: usize = 4;
/// While there is a leader and the store takes writes, writes count as refused until one succeeds, or none was
/// refused for this long, in milliseconds.
const REFUSALS_OVER_MS: u64 = 30_000;
/// Maximum time for which a write has waited when it is refused, in milliseconds.
const WRITE_WAIT_MS_MAX: u64 = 10_000;
/// A disk is nearly full if less than this percentage, and less than this number of bytes, is free.
const DISK_WARN: (u64, u64) = (10, 2 << 30);
const DISK_CRITICAL: (u64, u64) = (5, 512 << 20);
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// Days before the end of a certificate at which its alert is raised again. At the last one it is critical.
const CERTIFICATE_DAYS: [u64; 3] = [30, 7, 1];

/// How long a condition must be observed before it is raised, in milliseconds.
fn hold_ms(kind: AlertKind) -> u64 {
    match kind {
        AlertKind::MemberUnreachable | AlertKind::MemberLags => 3_000,
        AlertKind::NoMajority | AlertKind::NoLeader | AlertKind::StateOld => 5_000,
        AlertKind::DiskSlow | AlertKind::ClockSkew => 1_000,
        // A certificate and its key may be replaced one after the other.
        AlertKind::TlsFilesRefused => 10_000,
        _ => 0,
    }
}

/// What is checked on this node.
pub(super) struct Monitored {
    pub(super) node: String,
    pub(super) telemetry: Telemetry,
    pub(super) store: Arc<dyn ControlStore>,
    pub(super) view: Arc<View>,
    pub(super) registry: Registry,
    pub(super) clock: Clock,
    pub(super) clocks: watch::Receiver<ClockReport>,
    /// Directories whose disks must have free space.
    pub(super) directories: Vec<PathBuf>,
    /// Certificates that must not expire.
    pub(super) certificates: Vec<PathBuf>,
    /// Lists of revoked certificates that must be replaced in time.
    pub(super) revocation_lists: Vec<PathBuf>,
    /// Changed files for TLS that are not used.
    pub(super) refused_files: Refused,
}

/// Runs until dropped.
pub(super) async fn watch(watched: Monitored) {
    let (slow, sharers) = (Mutex::default(), Mutex::default());
    tokio::join!(
        watch_all(&watched, &slow, &sharers),
        watch_slowly(&watched, &slow),
        watch_sharers(&watched, &sharers),
        watch_stalls(&watched)
    );
}

/// The nodes that share the store without connections to each other, as last read.
#[derive(Clone, Debug, Default)]
struct Sharers {
    nodes: Vec<StoreNode>,
    read_at_ms: Option<u64>,
}

async fn watch_sharers(watched: &Monitored, sharers: &Mutex<Sharers>) {
    loop {
        // The store may hang, so nothing else waits for it.
        match watched.store.nodes().await {
            Ok(Some(nodes)) => {
                let read_at_ms = Some(watched.clock.monotonic_ms());
                *sharers.lock() = Sharers { nodes, read_at_ms };
            }
            Ok(None) => return,
            Err(error) => tracing::debug!(%error, "the nodes that share the store are not known"),
        }
        tokio::time::sleep(NODES_TICK).await;
    }
}

/// The result of the last check of disks and certificates, and since when the present one is in progress. The
/// check may hang with the disk, so nothing else may wait for it.
#[derive(Default)]
struct SlowChecks {
    holds: Vec<Notice>,
    since_ms: Option<u64>,
}

impl SlowChecks {
    fn holds(&self, node: &str, now_ms: u64) -> Vec<Notice> {
        let mut holds = self.holds.clone();
        let taken_ms = self.since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        if taken_ms > SLOW_LOOK_MS_MAX {
            let message = format!(
                "this node's disk has not answered for {} s: it hangs or is overloaded",
                taken_ms / 1_000
            );
            holds.push(Notice::new(AlertKind::DiskSlow, node, message));
        }
        holds
    }
}

async fn watch_slowly(watched: &Monitored, slow: &Mutex<SlowChecks>) {
    loop {
        slow.lock().since_ms = Some(watched.clock.monotonic_ms());
        let holds = watched.look_slowly().await.unwrap_or_default();
        *slow.lock() = SlowChecks { holds, since_ms: None };
        tokio::time::sleep(SLOW_TICK).await;
    }
}

async fn watch_all(watched: &Monitored, slow: &Mutex<SlowChecks>, sharers: &Mutex<Sharers>) {
    let mut watch = Watch::new(watched.node.clone());
    loop {
        let now_ms = watched.clock.monotonic_ms();
        let mut seen = watched.look().await;
        seen.slow = slow.lock().holds(&watched.node, now_ms);
        seen.slow.extend(watched.refused_files());
        seen.sharers = sharers.lock().clone();
        let speaks = seen.leadership.is_leader || watch.nobody_leads(&seen, now_ms);
        watched.telemetry.alerts().set_reports_for_cluster(speaks);
        let judged = watch.judge(&seen, now_ms);
        for change in watch.settle(judged, now_ms) {
            match change {
                Change::Raise(notice) => watched.telemetry.raise(notice),
                Change::Clear(kind, object) => watched.telemetry.clear(kind, &object),
                Change::Withdraw(kind, object) => watched.telemetry.withdraw(kind, &object),
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

/// A time in which this process did not run.
#[derive(Clone, Copy, Debug)]
struct Stall {
    /// Its length at least, in milliseconds.
    by_ms: u64,
    /// A time before its end, in milliseconds since 1970.
    from_ms: u64,
}

impl Stall {
    /// Whether one of these alerts of a node reports it. The expiry of a leader reports a stall too, with its effect on
    /// leases. It may have measured a part of it only.
    fn is_in(self, alerts: &[Alert], node: &str) -> bool {
        alerts.iter().any(|alert| {
            let is_ours = alert.kind == AlertKind::NodeStalled && alert.object == node;
            let by_ms = alert.details.get("by_ms").and_then(serde_json::Value::as_u64);
            is_ours && alert.time_ms >= self.from_ms && by_ms >= Some(self.by_ms / 2)
        })
    }
}

/// Raises an alert if this process did not run for a while. Nothing is awaited here but the time, so each stall is seen.
/// It is raised one tick later, unless the expiry of a leader has reported it: right after a stall, a former leader may
/// still take itself for the leader, and then its expiry does not report it.
async fn watch_stalls(watched: &Monitored) {
    let mut before: Option<Stall> = None;
    loop {
        let (slept_ms, from_ms) = (watched.clock.monotonic_ms(), watched.clock.wall_ms());
        tokio::time::sleep(TICK).await;
        let asleep_ms = watched.clock.monotonic_ms().saturating_sub(slept_ms);
        if let Some(stall) = before.take() {
            watched.alert_on(stall);
        }
        before = stall(asleep_ms, from_ms);
    }
}

/// What a sleep of one tick shows that took this long, and began at `from_ms`.
fn stall(asleep_ms: u64, from_ms: u64) -> Option<Stall> {
    let by_ms = asleep_ms.saturating_sub(TICK.as_millis() as u64);
    (by_ms >= STALL_MS).then_some(Stall { by_ms, from_ms })
}

impl Monitored {
    fn alert_on(&self, stall: Stall) {
        if stall.is_in(&self.telemetry.alerts().newest_first(), &self.node) {
            return;
        }
        let by_ms = stall.by_ms;
        let message = format!("this node's process did not run for at least {by_ms} ms");
        let notice = Notice::new(AlertKind::NodeStalled, &*self.node, message);
        self.telemetry.alert(notice.details(json!({"by_ms": by_ms})));
    }

    async fn look(&self) -> NodeCondition {
        NodeCondition {
            leadership: self.store.leadership_now(),
            leader_changes: self.leader_changes(),
            staleness_ms: self.store.staleness_ms(),
            lacks_acknowledged: self.store.lacks_acknowledged(),
            snapshot_failure: self.store.snapshot_failure(),
            store_refuses: self.store.refuses_writes().is_some(),
            is_excluded: self.store.exclusion().is_some(),
            cluster: members::status(self.store.as_ref()).await,
            writes: Writes::of(self.registry.writes()),
            clocks: self.clocks.borrow().clone(),
            slow: Vec::new(),
            sharers: Sharers::default(),
        }
    }

    /// How often another node became the leader within [`LEADERS_WITHIN_MS`]. The log has every change, also two within
    /// one check.
    fn leader_changes(&self) -> usize {
        let snapshot = self.view.snapshot();
        let from_ms = self.clock.wall_ms().saturating_sub(LEADERS_WITHIN_MS);
        let records = snapshot.state.audit().leadership();
        let grants = records.filter(|record| record.action == AuditAction::LeadershipGrant);
        leader_changes(grants.map(|grant| (grant.time_ms, &*grant.object)), from_ms)
    }

    /// The changed files for TLS that are not used now.
    fn refused_files(&self) -> Vec<Notice> {
        let of = |(purpose, why)| {
            let message = format!(
                "the changed files for {purpose} cannot be used, and the former ones stay in use until a restart, \
                 which would fail: {why}"
            );
            let object = format!("{} {purpose}", self.node);
            Notice::new(AlertKind::TlsFilesRefused, object, message)
        };
        self.refused_files.all().into_iter().map(of).collect()
    }

    /// The checks that may wait for a disk.
    async fn look_slowly(&self) -> Option<Vec<Notice>> {
        let (directories, certificates) = (self.directories.clone(), self.certificates.clone());
        let lists = self.revocation_lists.clone();
        let (node, now_ms) = (self.node.clone(), self.clock.wall_ms());
        let ends = self.telemetry.metrics().certificate_ends.clone();
        let look = move || {
            let mut holds = Vec::new();
            for path in directories {
                let Ok(disk) = nix::sys::statvfs::statvfs(&path) else { continue };
                let unit = disk.fragment_size();
                let (free, size) = (disk.blocks_available() * unit, disk.blocks() * unit);
                holds.extend(disk_room(&format!("{node} {}", path.display()), free, size));
            }
            for path in certificates {
                let object = format!("{node} {}", path.display());
                match maxine_raft::pki::certificate_end_ms(&path) {
                    Ok(end_ms) => {
                        let file = path.display().to_string();
                        let end_s = i64::try_from(end_ms / 1_000).unwrap_or(i64::MAX);
                        ends.with_label_values(&[&file]).set(end_s);
                        holds.extend(certificate(&object, end_ms, now_ms));
                    }
                    // A running node has read it, but the next start will fail.
                    Err(error) => holds.push(
                        Notice::new(AlertKind::CertificateEnds, object, error.to_string())
                            .severity(Severity::Critical),
                    ),
                }
            }
            for path in lists {
                // A file that cannot be read is reported where it is read for use.
                let Ok(Some(next_ms)) = maxine_revocation::next_update_ms(&path) else { continue };
                let object = format!("{node} {}", path.display());
                holds.extend(revocation_list(&object, next_ms, now_ms));
            }
            holds
        };
        tokio::task::spawn_blocking(look).await.ok()
    }
}

/// The counters of writes at one moment.
#[derive(Clone, Debug, Default)]
struct Writes {
    decided: u64,
    /// Writes that were not carried out. The outcome of `unknown` of them is unknown.
    refused: u64,
    unknown: u64,
    last_refusal: String,
}

impl Writes {
    fn of(tally: &WriteCounters) -> Self {
        let (decided, refused, unknown) = (tally.decided(), tally.refused(), tally.unknown());
        Self { decided, refused, unknown, last_refusal: tally.last_refusal() }
    }
}

/// The observations of one check.
#[derive(Clone, Debug, Default)]
struct NodeCondition {
    leadership: Leadership,
    /// How often another node became the leader within [`LEADERS_WITHIN_MS`], by the audit log.
    leader_changes: usize,
    staleness_ms: Option<u64>,
    /// The position up to which this node lacks entries that it had acknowledged.
    lacks_acknowledged: Option<u64>,
    /// Why this node's last snapshot could not be written.
    snapshot_failure: Option<String>,
    /// Whether the store takes no writes, whoever sends them.
    store_refuses: bool,
    /// Whether this node no longer belongs to the cluster. Then it knows nothing about the cluster.
    is_excluded: bool,
    cluster: Option<ClusterStatus>,
    writes: Writes,
    clocks: ClockReport,
    /// The conditions of disks and certificates.
    slow: Vec<Notice>,
    sharers: Sharers,
}

/// The conditions that are observed, and those that are unknown.
#[derive(Debug, Default)]
struct Evaluation {
    /// Whether this node no longer belongs to the cluster.
    is_excluded: bool,
    holds: Vec<Notice>,
    unknown: Vec<(AlertKind, String)>,
}

#[derive(Debug, PartialEq)]
enum Change {
    Raise(Notice),
    Clear(AlertKind, String),
    /// The condition may continue, but this node does not know it any more.
    Withdraw(AlertKind, String),
}

#[derive(Debug)]
struct Held {
    since_ms: u64,
    seen_ms: u64,
    raised: bool,
}

struct Watch {
    node: String,
    held: BTreeMap<(AlertKind, String), Held>,
    nobody_since_ms: Option<u64>,
    /// The end of the log at earlier checks, oldest first.
    log_ends: VecDeque<(u64, u64)>,
    writes: Writes,
    refusing: Option<Refusing>,
    /// The last time at which no write could be carried out, because there was no leader or the store took no
    /// writes.
    blocked_ms: Option<u64>,
}

/// Writes that were refused since the last success.
#[derive(Clone, Copy, Debug, Default)]
struct Refusing {
    refused: u64,
    unknown: u64,
    latest_ms: u64,
}

impl Watch {
    fn new(node: String) -> Self {
        Self {
            node,
            held: BTreeMap::new(),
            nobody_since_ms: None,
            log_ends: VecDeque::new(),
            writes: Writes::default(),
            refusing: None,
            blocked_ms: None,
        }
    }

    /// Whether there has been no leader for so long that every live node reports the alerts of the cluster.
    fn nobody_leads(&mut self, seen: &NodeCondition, now_ms: u64) -> bool {
        // A node that waits to be added to a cluster knows nothing about the cluster.
        let knows_voters = seen
            .cluster
            .as_ref()
            .is_none_or(|cluster| cluster.members.iter().any(|member| member.voter));
        if seen.leadership.leader.is_some() || seen.is_excluded || !knows_voters {
            self.nobody_since_ms = None;
            return false;
        }
        let since_ms = *self.nobody_since_ms.get_or_insert(now_ms);
        now_ms - since_ms >= hold_ms(AlertKind::NoLeader)
    }

    fn judge(&mut self, seen: &NodeCondition, now_ms: u64) -> Evaluation {
        let (is_excluded, holds) = (seen.is_excluded, seen.slow.clone());
        let mut judged = Evaluation { is_excluded, holds, unknown: Vec::new() };
        if seen.is_excluded {
            return judged;
        }
        match &seen.cluster {
            Some(cluster) => self.judge_members(seen, cluster, now_ms, &mut judged),
            None if seen.leadership.leader.is_none() => {
                let message = "this node knows no leader: heartbeats fail, and nothing expires";
                judged.holds.push(Notice::new(AlertKind::NoLeader, "cluster", message));
            }
            None => {}
        }
        if let Some(leader) = &seen.leadership.leader
            && let Some(age_ms) = seen.staleness_ms.filter(|age_ms| *age_ms >= STATE_OLD_MS)
        {
            let message = format!(
                "this node's state may be {} s old, although {leader} is the leader",
                age_ms / 1_000
            );
            judged.holds.push(Notice::new(AlertKind::StateOld, &*self.node, message));
        }
        let changes = seen.leader_changes;
        if changes >= LEADERS_MAX {
            let minutes = LEADERS_WITHIN_MS / 60_000;
            let message = format!("the leader changed {changes} times within {minutes} minutes");
            judged.holds.push(Notice::new(AlertKind::LeaderChangesOften, "cluster", message));
        }
        judged.holds.extend(self.judge_writes(seen, now_ms));
        if let Some(upto) = seen.lacks_acknowledged {
            let message = format!(
                "this node has an older copy of its data directory: it lacks entries up to {upto} that \
                 it had acknowledged, and is being filled"
            );
            judged.holds.push(Notice::new(AlertKind::NodeSetBack, &*self.node, message));
        }
        if let Some(message) = seen.snapshot_failure.clone() {
            judged.holds.push(Notice::new(AlertKind::SnapshotFailed, &*self.node, message));
        }
        judged.holds.extend(skewed(&seen.clocks));
        self.judge_sharers(&seen.sharers, now_ms, &mut judged);
        judged
    }

    /// Judges the nodes that share the store by their reports to it.
    fn judge_sharers(&self, sharers: &Sharers, now_ms: u64, judged: &mut Evaluation) {
        let is_new =
            sharers.read_at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) <= NODES_OLD_MS);
        // While the store refuses the reports of this node too, silence says nothing about a node.
        let own = sharers.nodes.iter().find(|node| node.name == self.node);
        let is_known = is_new && own.is_some_and(|node| !node.is_silent());
        for node in sharers.nodes.iter().filter(|node| node.name != self.node) {
            let kind = AlertKind::MemberUnreachable;
            if !is_known {
                judged.unknown.push((kind, node.name.clone()));
            } else if node.is_silent() {
                let message = format!(
                    "node {} has not reported to the store for {} s: it does not run, hangs, or cannot reach the \
                     store; if it is gone for good, run maxine cluster forget {}",
                    node.name,
                    node.last_seen_ms / 1_000,
                    node.name
                );
                judged.holds.push(Notice::new(kind, node.name.clone(), message));
            }
        }
    }

    fn judge_members(
        &mut self,
        seen: &NodeCondition,
        cluster: &ClusterStatus,
        now_ms: u64,
        judged: &mut Evaluation,
    ) {
        let nobody_leads = seen.leadership.leader.is_none();
        let is_heard = |member: &MemberView| match nobody_leads {
            true if member.id == cluster.node_id => Some(true),
            true => Some(member.last_contact_ms.is_some_and(|age_ms| age_ms < HEARD_MS)),
            false => member.reachable,
        };
        for member in &cluster.members {
            let unreachable = AlertKind::MemberUnreachable;
            match is_heard(member) {
                Some(true) => {}
                Some(false) => judged.holds.push(not_heard(unreachable, member, &self.node)),
                None => judged.unknown.push((unreachable, member.name.clone())),
            }
        }
        if nobody_leads {
            judged.holds.push(nobody_leads_of(cluster, is_heard));
        }
        if cluster.disk_stalled {
            let message =
                "a sync of this node's log takes too long: its disk hangs or is overloaded";
            judged.holds.push(Notice::new(AlertKind::DiskSlow, &*self.node, message));
        }
        for member in cluster.members.iter().filter(|member| member.voter) {
            if member.reachable == Some(true) && member.acknowledges == Some(false) {
                let message = format!(
                    "{} answers, but has acknowledged no log entry for 5 s or longer: it does not count for a majority",
                    member.name
                );
                let notice = Notice::new(AlertKind::MemberLags, &*member.name, message);
                judged.holds.push(notice.severity(Severity::Critical));
            }
        }
        self.judge_lag(cluster, now_ms, judged);
    }

    /// Compares each member's position with the end of this node's log a while ago.
    fn judge_lag(&mut self, cluster: &ClusterStatus, now_ms: u64, judged: &mut Evaluation) {
        let Some(log_end) = cluster.last_log_index else { return };
        self.log_ends.push_back((now_ms, log_end));
        while self.log_ends.get(1).is_some_and(|(at_ms, _)| now_ms - at_ms >= LAG_MS) {
            self.log_ends.pop_front();
        }
        let Some((at_ms, end)) = self.log_ends.front().copied() else { return };
        if now_ms - at_ms < LAG_MS {
            return;
        }
        for member in &cluster.members {
            let lags = AlertKind::MemberLags;
            match (member.reachable, member.matched_index) {
                (Some(true), Some(matched)) if matched < end => {
                    let message = format!(
                        "{} is behind: it has the log up to entry {matched}, and {} s ago the log ended at entry {end}",
                        member.name,
                        LAG_MS / 1_000
                    );
                    let details = json!({"matched_index": matched, "log_index": end});
                    judged.holds.push(Notice::new(lags, &*member.name, message).details(details));
                }
                (Some(_), Some(_)) => {}
                _ => judged.unknown.push((lags, member.name.clone())),
            }
        }
    }

    fn judge_writes(&mut self, seen: &NodeCondition, now_ms: u64) -> Option<Notice> {
        let now = &seen.writes;
        let before = std::mem::replace(&mut self.writes, now.clone());
        let (decided, refused) = (now.decided - before.decided, now.refused - before.refused);
        let is_blocked = seen.leadership.leader.is_none() || seen.store_refuses;
        if is_blocked {
            self.blocked_ms = Some(now_ms);
        }
        let mut refusing = self.refusing.take().unwrap_or_default();
        if refused > 0 {
            refusing.refused += refused;
            refusing.unknown += now.unknown - before.unknown;
            refusing.latest_ms = now_ms;
        }
        // A leader that is back, or a store that carried out a write of its own, ends this. The latest refusal
        // may be reported after that, because its write waited.
        let since_ms = refusing.latest_ms.saturating_sub(WRITE_WAIT_MS_MAX);
        let came_back = !is_blocked && self.blocked_ms.is_some_and(|at_ms| at_ms >= since_ms);
        let quiet = !is_blocked && now_ms - refusing.latest_ms >= REFUSALS_OVER_MS;
        if decided > 0 || refusing.refused == 0 || came_back || quiet {
            return None;
        }
        self.refusing = Some(refusing);
        let Refusing { refused, unknown, .. } = refusing;
        let outcome = match unknown {
            0 => String::new(),
            _ => format!(" (for {unknown} of them the outcome is not known)"),
        };
        let message = format!(
            "{} of clients or of this node itself (such as audit records) failed{outcome}, and no write has succeeded since. \
             The last failure: {}",
            maxine_wording::count(refused, "write"),
            now.last_refusal
        );
        Some(Notice::new(AlertKind::WritesRefused, &*self.node, message))
    }

    /// Determines which alerts to raise and which to resolve. A condition must be observed for a while before
    /// it is raised, and absent for a while before it is resolved.
    fn settle(&mut self, judged: Evaluation, now_ms: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for unknown in &judged.unknown {
            if let Some(held) = self.held.get_mut(unknown) {
                held.seen_ms = now_ms;
            }
        }
        for notice in judged.holds {
            let key = (notice.kind, notice.object.clone());
            let new = Held { since_ms: now_ms, seen_ms: now_ms, raised: false };
            let held = self.held.entry(key).or_insert(new);
            held.seen_ms = now_ms;
            if now_ms - held.since_ms >= hold_ms(notice.kind) {
                held.raised = true;
                changes.push(Change::Raise(notice));
            }
        }
        self.held.retain(|(kind, object), held| {
            if judged.is_excluded && kind.scope() == Scope::Cluster {
                if held.raised {
                    changes.push(Change::Withdraw(*kind, object.clone()));
                }
                return false;
            }
            let gone_ms = now_ms - held.seen_ms;
            let over = gone_ms >= OVER_AFTER_MS || (!held.raised && gone_ms > 0);
            if over && held.raised {
                changes.push(Change::Clear(*kind, object.clone()));
            }
            !over
        });
        changes
    }
}

fn not_heard(kind: AlertKind, member: &MemberView, node: &str) -> Notice {
    let role = if member.voter { "voter" } else { "learner" };
    let since = match member.last_contact_ms {
        Some(age_ms) => format!("last heard {} s ago", age_ms / 1_000),
        None => "not heard since this node started".into(),
    };
    let message =
        format!("{role} {} ({}) cannot be reached: {since}", member.name, member.peer_addr);
    let details = json!({"id": member.id, "voter": member.voter, "peer_addr": member.peer_addr, "seen_by": node});
    Notice::new(kind, &*member.name, message).details(details)
}

fn nobody_leads_of(
    cluster: &ClusterStatus,
    is_heard: impl Fn(&MemberView) -> Option<bool>,
) -> Notice {
    let voters: Vec<&MemberView> = cluster.members.iter().filter(|member| member.voter).collect();
    if voters.is_empty() {
        let message = "this node knows no leader and no members: it waits to be added to a cluster";
        return Notice::new(AlertKind::NoLeader, "cluster", message);
    }
    // While a change of the voters is not finished, there are two sets, and each needs a majority.
    let of_set = |set: &Vec<u64>| -> Vec<&MemberView> {
        voters.iter().copied().filter(|voter| set.contains(&voter.id)).collect()
    };
    let spare = |set: &Vec<&MemberView>| {
        let heard = set.iter().filter(|voter| is_heard(voter) == Some(true)).count();
        heard as i64 - (set.len() / 2 + 1) as i64
    };
    let tightest = cluster.voter_sets.iter().map(of_set).min_by_key(spare);
    let voters = tightest.unwrap_or(voters);
    let needed = voters.len() / 2 + 1;
    let silent: Vec<&str> = voters
        .iter()
        .filter(|voter| is_heard(voter) != Some(true))
        .map(|voter| voter.name.as_str())
        .collect();
    let heard = voters.len() - silent.len();
    let details = json!({"voters_needed": needed, "voters_heard": heard, "not_heard": silent});
    let (kind, message) = if heard < needed {
        let names = silent.join(", ");
        let voters = maxine_wording::count(needed, "voter");
        let message = format!(
            "no majority: writes need {voters}; heard in the last {} s, this node included: {heard}; not heard: {names}",
            HEARD_MS / 1_000
        );
        (AlertKind::NoMajority, message)
    } else {
        let message = format!(
            "this node knows no leader, although it heard {heard} of {} voters, itself included, in the last {} s: there is \
             none, or its messages do not arrive here",
            voters.len(),
            HEARD_MS / 1_000
        );
        (AlertKind::NoLeader, message)
    };
    Notice::new(kind, "cluster", message).details(details)
}

/// The number of `grants` since `from_ms` whose holder is another one than that of the grant before. Each grant has its
/// time, in milliseconds since 1970, and its holder; the oldest is the first.
fn leader_changes<'a>(grants: impl Iterator<Item = (u64, &'a str)>, from_ms: u64) -> usize {
    let mut before = None;
    let is_change = |(time_ms, holder): &(u64, &'a str)| {
        let is_other = before.replace(*holder).is_some_and(|before| before != *holder);
        is_other && *time_ms >= from_ms
    };
    grants.filter(is_change).count()
}

fn skewed(clocks: &ClockReport) -> impl Iterator<Item = Notice> {
    let far = clocks.ahead_ms.iter().filter(|(_, ms)| ms.unsigned_abs() > SKEW_MAX_MS);
    far.map(|(name, ahead_ms)| {
        let (s, way) = (ahead_ms.unsigned_abs() / 1_000, if *ahead_ms > 0 { "ahead of" } else { "behind" });
        let message = match clocks.agree {
            true => format!("the clock of {name} is {s} s {way} the clocks of the majority"),
            false => format!(
                "the clock of {name} is {s} s {way} this node's, and no majority of the voters' clocks agrees: \
                 writes through a node that has found no majority since it started do not advance the time of the log"
            ),
        };
        let details = json!({"ahead_ms": ahead_ms, "majority_agrees": clocks.agree});
        Notice::new(AlertKind::ClockSkew, &**name, message).details(details)
    })
}

fn disk_room(object: &str, free: u64, size: u64) -> Option<Notice> {
    let below = |(percent, bytes): (u64, u64)| free < (size / 100 * percent).min(bytes);
    let severity = match () {
        () if below(DISK_CRITICAL) => Severity::Critical,
        () if below(DISK_WARN) => Severity::Warning,
        () => return None,
    };
    let (free_text, size_text) = (maxine_wording::size(free), maxine_wording::size(size));
    let message = match free {
        0 => format!("the disk is full: none of its {size_text} is free"),
        _ => format!("the disk is nearly full: {free_text} of {size_text} are free"),
    };
    let details = json!({"free_bytes": free, "size_bytes": size});
    let notice = Notice::new(AlertKind::DiskNearlyFull, object, message);
    Some(notice.severity(severity).details(details))
}

fn certificate(object: &str, end_ms: u64, now_ms: u64) -> Option<Notice> {
    let left_ms = end_ms.saturating_sub(now_ms);
    let within = CERTIFICATE_DAYS.into_iter().rev().find(|days| left_ms <= days * DAY_MS)?;
    let at = maxine_telemetry::events::iso_8601(end_ms);
    let message = match left_ms {
        0 => format!("the certificate expired at {at}"),
        _ => format!(
            "the certificate expires in less than {}, at {at}",
            maxine_wording::count(within, "day")
        ),
    };
    let (severity, stage) = match (left_ms, within) {
        (0, _) => (Severity::Critical, 3),
        (_, 1) => (Severity::Critical, 2),
        (_, 7) => (Severity::Warning, 1),
        _ => (Severity::Warning, 0),
    };
    let notice = Notice::new(AlertKind::CertificateEnds, object, message);
    Some(notice.severity(severity).stage(stage).details(json!({"ends": at})))
}

/// A list of revoked certificates that should have been replaced by a newer one at `next_ms`.
fn revocation_list(object: &str, next_ms: u64, now_ms: u64) -> Option<Notice> {
    if next_ms > now_ms {
        return None;
    }
    let at = maxine_telemetry::events::iso_8601(next_ms);
    let message = format!(
        "the list of revoked certificates is out of date since {at}: it still counts, but certificates that were \
         revoked later are accepted"
    );
    let notice = Notice::new(AlertKind::CertificateEnds, object, message);
    Some(notice.details(json!({"ends": at})))
}

#[cfg(test)]
#[path = "conditions_tests.rs"]
mod tests;
