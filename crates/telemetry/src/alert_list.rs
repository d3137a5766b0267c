//! Alerts: what an operator should look at now.
//!
//! A *condition* is raised on an object, lasts, and is resolved when it is over. An *event* has happened and
//! has no end. Raising a condition that is already active only changes its text. Each node has its own list.
//! [`super::webhook`] delivers the alerts that [`Alerts::due`] returns.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::alert_kind::{AlertForm, AlertKind, Scope, Severity};
use super::silences::{self, SILENCES_MAX, Silence};

/// Maximum number of active conditions. Further ones are counted and left out.
const ACTIVE_MAX: usize = 1_000;
/// Maximum number of alerts for events of one kind within a minute. One more says that there are further ones, which
/// are only counted: a stranger may cause events of some kinds, and must not push out or delay the others.
const EVENTS_MAX: u32 = 60;
const EVENTS_WITHIN_MS: u64 = 60_000;
/// A new leader also reports conditions that ended within this time before it led, in milliseconds, because
/// the previous leader may not have reported them.
const RESOLVED_AGAIN_MS: u64 = 60_000;
/// Pause after a failed delivery, in milliseconds. It doubles with each failure up to the maximum.
const RETRY_MS: u64 = 1_000;
const RETRY_MS_MAX: u64 = 60_000;

/// The pause after a failed delivery to a receiver of alerts or of audit records, in milliseconds. `failures` is how many
/// deliveries had failed in a row before this one; 0 after the first failure.
pub(crate) fn retry_pause_ms(failures: u32) -> u64 {
    (RETRY_MS << failures.min(6)).min(RETRY_MS_MAX)
}

/// The state of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// An event; it has no end.
    Event,
    /// The condition holds.
    Active,
    /// The condition held and is over.
    Resolved,
}

/// One alert.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Alert {
    /// Number of the alert on this node, from 1.
    pub id: u64,
    /// The node that raised it.
    pub node: String,
    /// When it began, in milliseconds since 1970.
    pub time_ms: u64,
    /// The state of the alert.
    pub state: AlertState,
    /// When it was resolved, in milliseconds since 1970; null before that.
    pub resolved_ms: Option<u64>,
    /// How urgent it is.
    pub severity: Severity,
    /// Grows when the condition gets worse. The webhook then gets the alert again.
    #[serde(skip)]
    pub stage: u8,
    /// The kind, such as `upstream.evicted`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    pub kind: AlertKind,
    /// The object that it concerns, such as a member's name.
    pub object: String,
    /// A description in one line.
    pub message: String,
    /// Further values, by name.
    #[schema(value_type = Object)]
    pub details: Map<String, Value>,
    /// The page in `docs/operations` with the instructions.
    pub runbook: &'static str,
    /// The user who acknowledged it, if anyone did.
    pub acknowledged_by: Option<String>,
    /// Whether a silence kept it from the webhook when it was raised.
    pub silenced: bool,
}

/// A condition or an event for an alert.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The kind.
    pub kind: AlertKind,
    /// The object that it concerns. At most one condition of a kind and object is active.
    pub object: String,
    /// How urgent it is.
    pub severity: Severity,
    /// Grows when the condition gets worse. The webhook then gets the alert again.
    pub stage: u8,
    /// How long it had lasted before this node raised it, in milliseconds.
    pub lasted_ms: u64,
    /// A description in one line.
    pub message: String,
    /// Further values, by name.
    pub details: Map<String, Value>,
    /// The name of the runbook in `docs/operations`, without `.md`.
    pub runbook: &'static str,
}

impl Notice {
    /// A notice with the severity and the runbook of its kind, and without details.
    #[must_use]
    pub fn new(kind: AlertKind, object: impl Into<String>, message: impl Into<String>) -> Self {
        let (object, message) = (object.into(), message.into());
        let (severity, runbook) = (kind.severity(), kind.runbook());
        let (stage, lasted_ms, details) = (0, 0, Map::new());
        Self { kind, object, severity, stage, lasted_ms, message, details, runbook }
    }

    /// Sets how long the condition has lasted already, under another node, in milliseconds.
    #[must_use]
    pub fn lasted_ms(self, lasted_ms: u64) -> Self {
        Self { lasted_ms, ..self }
    }

    /// Sets how bad the condition is, from 0.
    #[must_use]
    pub fn stage(self, stage: u8) -> Self {
        Self { stage, ..self }
    }

    /// Sets a severity that differs from that of the kind.
    #[must_use]
    pub fn severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// Sets a runbook that differs from that of the kind.
    #[must_use]
    pub fn runbook(self, runbook: &'static str) -> Self {
        Self { runbook, ..self }
    }

    /// Sets the details, a JSON object.
    #[must_use]
    pub fn details(self, details: Value) -> Self {
        let Value::Object(details) = details else { return self };
        Self { details, ..self }
    }
}

/// The deliveries of an alert to the webhook so far.
#[derive(Debug, Default)]
struct Deliveries {
    last: Option<(AlertState, Severity, u8)>,
    in_flight: bool,
    failures: u32,
    not_before_ms: u64,
}

#[derive(Debug)]
struct Entry {
    alert: Alert,
    deliveries: Deliveries,
    /// Whether this node does not know any more whether the condition holds. Then it does not report the end.
    withdrawn: bool,
}

/// The events of one kind within one period.
#[derive(Clone, Copy, Debug, Default)]
struct EventCount {
    since_ms: u64,
    count: u32,
}

#[derive(Debug)]
struct Kept {
    next_id: u64,
    entries: VecDeque<Entry>,
    active: usize,
    silences: Vec<Silence>,
    events: BTreeMap<AlertKind, EventCount>,
    /// Whether this node reports the alerts of the whole cluster to the webhook.
    reports_for_cluster: bool,
}

/// The newest alerts of this node, and every active condition.
#[derive(Debug)]
pub struct Alerts {
    node: String,
    len_max: usize,
    kept: Mutex<Kept>,
    /// The file of silences; `None` if they are only kept in memory. Locked during a write.
    silences_file: Mutex<Option<PathBuf>>,
}

/// The result of raising a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raised {
    /// It was not active before, or is more urgent now.
    New,
    /// It was already active.
    Already,
    /// It was left out because too many conditions are active.
    LeftOut,
}

impl Kept {
    fn is_silenced(&self, kind: AlertKind, now_ms: u64) -> bool {
        self.silences.iter().any(|s| s.kind == kind && s.until_ms > now_ms)
    }

    fn active_of(&mut self, kind: AlertKind, object: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().rev().find(|entry| {
            let alert = &entry.alert;
            alert.state == AlertState::Active && alert.kind == kind && alert.object == object
        })
    }

    /// Makes room for one more alert by removing the oldest one, of those that are not active, of the kind with the
    /// most. So many alerts of one kind do not push out those of other kinds.
    fn trim(&mut self, len_max: usize) {
        while self.entries.len() - self.active > len_max {
            let over = || self.entries.iter().filter(|e| e.alert.state != AlertState::Active);
            let mut counts: BTreeMap<AlertKind, usize> = BTreeMap::new();
            over().for_each(|entry| *counts.entry(entry.alert.kind).or_default() += 1);
            let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(kind, _)| kind);
            let oldest = self.entries.iter().position(|entry| {
                entry.alert.state != AlertState::Active && Some(entry.alert.kind) == most
            });
            match oldest {
                Some(at) => drop(self.entries.remove(at)),
                None => return,
            }
        }
    }
}

impl Alerts {
    /// An empty list, with the silences that `silences_file` has from before the start.
    pub(super) fn new(node: String, len_max: usize, silences_file: Option<PathBuf>) -> Self {
        let read = silences_file.as_deref().map_or_else(|| Ok(Vec::new()), silences::read);
        let silences = read.unwrap_or_else(|error| {
            tracing::error!(%error, "the silences of alerts cannot be read: none is in force");
            Vec::new()
        });
        let kept = Kept {
            next_id: 0,
            entries: VecDeque::new(),
            active: 0,
            silences,
            events: BTreeMap::new(),
            reports_for_cluster: true,
        };
        let silences_file = Mutex::new(silences_file);
        Self { node, len_max, kept: Mutex::new(kept), silences_file }
    }

    fn add(&self, kept: &mut Kept, notice: Notice, now_ms: u64) -> Alert {
        kept.next_id += 1;
        let Notice { kind, object, severity, stage, lasted_ms, message, details, runbook } = notice;
        let state = match kind.form() {
            AlertForm::Event => AlertState::Event,
            AlertForm::Condition => AlertState::Active,
        };
        let alert = Alert {
            id: kept.next_id,
            node: self.node.clone(),
            time_ms: now_ms.saturating_sub(lasted_ms),
            state,
            resolved_ms: None,
            severity,
            stage,
            kind,
            object,
            message,
            details,
            runbook,
            acknowledged_by: None,
            silenced: kept.is_silenced(kind, now_ms),
        };
        kept.active += usize::from(state == AlertState::Active);
        let deliveries = Deliveries::default();
        kept.entries.push_back(Entry { alert: alert.clone(), deliveries, withdrawn: false });
        kept.trim(self.len_max);
        alert
    }

    /// Adds an event. `None` if there were too many of its kind within a minute. The first of those is replaced by an
    /// alert that says so.
    pub(super) fn push(&self, event: Notice, now_ms: u64) -> Option<Alert> {
        let mut kept = self.kept.lock();
        let counted = kept.events.entry(event.kind).or_default();
        if now_ms.saturating_sub(counted.since_ms) >= EVENTS_WITHIN_MS {
            *counted = EventCount { since_ms: now_ms, count: 0 };
        }
        counted.count = counted.count.saturating_add(1);
        let event = match counted.count.checked_sub(EVENTS_MAX) {
            None | Some(0) => event,
            Some(1) => {
                let message = format!(
                    "there were more than {EVENTS_MAX} alerts of this kind within a minute: further ones of this minute \
                     are only counted, in maxine_alerts_left_out_total"
                );
                let further = Notice::new(event.kind, "further", message);
                further.severity(event.severity).runbook(event.runbook)
            }
            Some(_) => return None,
        };
        Some(self.add(&mut kept, event, now_ms))
    }

    /// Raises a condition.
    pub(super) fn raise(&self, condition: Notice, now_ms: u64) -> Raised {
        let mut kept = self.kept.lock();
        if let Some(entry) = kept.active_of(condition.kind, &condition.object) {
            let alert = &mut entry.alert;
            let (now, before) =
                ((condition.severity, condition.stage), (alert.severity, alert.stage));
            let raised = if now > before { Raised::New } else { Raised::Already };
            (alert.severity, alert.stage) = now;
            alert.message = condition.message;
            alert.details = condition.details;
            return raised;
        }
        if kept.active >= ACTIVE_MAX {
            return Raised::LeftOut;
        }
        self.add(&mut kept, condition, now_ms);
        Raised::New
    }

    /// Resolves a condition. Returns it if it was active.
    pub(super) fn clear(&self, kind: AlertKind, object: &str, now_ms: u64) -> Option<Alert> {
        let mut kept = self.kept.lock();
        let entry = kept.active_of(kind, object)?;
        entry.alert.state = AlertState::Resolved;
        entry.alert.resolved_ms = Some(now_ms);
        entry.deliveries.not_before_ms = 0;
        let alert = entry.alert.clone();
        kept.active -= 1;
        kept.trim(self.len_max);
        Some(alert)
    }

    /// Ends a condition of which this node does not know any more whether it holds. The webhook is not told that it is
    /// over. Returns whether it was active.
    pub(super) fn withdraw(&self, kind: AlertKind, object: &str, now_ms: u64) -> bool {
        if self.clear(kind, object, now_ms).is_none() {
            return false;
        }
        let mut kept = self.kept.lock();
        let mut entries = kept.entries.iter_mut().rev();
        let ended = entries.find(|e| e.alert.kind == kind && e.alert.object == object);
        if let Some(ended) = ended {
            ended.withdrawn = true;
        }
        true
    }

    /// The alerts, newest first.
    #[must_use]
    pub fn newest_first(&self) -> Vec<Alert> {
        self.kept.lock().entries.iter().rev().map(|entry| entry.alert.clone()).collect()
    }

    /// The number of active conditions of a kind and severity.
    #[must_use]
    pub fn active(&self, kind: AlertKind, severity: Severity) -> usize {
        let is_counted = |alert: &Alert| {
            alert.state == AlertState::Active && alert.kind == kind && alert.severity == severity
        };
        self.kept.lock().entries.iter().filter(|entry| is_counted(&entry.alert)).count()
    }

    /// Sets whether this node reports the alerts of the whole cluster to the webhook.
    pub fn set_reports_for_cluster(&self, reports: bool) {
        self.kept.lock().reports_for_cluster = reports;
    }

    /// The alerts to deliver now, at most `max`. Each is marked as in flight until [`Alerts::note_delivery`]
    /// is called.
    pub(super) fn due(&self, max: usize, monotonic_ms: u64, wall_ms: u64) -> Vec<Alert> {
        let mut kept = self.kept.lock();
        let reports_cluster = kept.reports_for_cluster;
        let silenced: Vec<AlertKind> = AlertKind::ALL
            .iter()
            .copied()
            .filter(|kind| kept.is_silenced(*kind, wall_ms))
            .collect();
        let is_due = |entry: &&mut Entry| {
            let Entry { alert, deliveries, withdrawn } = entry;
            let was_delivered = deliveries.last.is_some();
            let may_report = reports_cluster || alert.kind.scope() == Scope::Node || was_delivered;
            let is_news = match (alert.state, deliveries.last) {
                (AlertState::Event, last) => last.is_none(),
                (AlertState::Active, None) => true,
                (AlertState::Active, Some((_, severity, stage))) => {
                    (alert.severity, alert.stage) > (severity, stage)
                }
                (AlertState::Resolved, Some((state, ..))) => state != AlertState::Resolved,
                (AlertState::Resolved, None) => alert
                    .resolved_ms
                    .is_some_and(|at_ms| wall_ms.saturating_sub(at_ms) < RESOLVED_AGAIN_MS),
            };
            is_news
                && !*withdrawn
                && may_report
                && !deliveries.in_flight
                && deliveries.not_before_ms <= monotonic_ms
                && !silenced.contains(&alert.kind)
        };
        let due = kept.entries.iter_mut().filter(is_due).take(max);
        due.map(|entry| {
            entry.deliveries.in_flight = true;
            entry.alert.clone()
        })
        .collect()
    }

    /// Records the result of a delivery. A failed delivery is repeated, after a longer pause each time.
    pub(super) fn note_delivery(&self, alert: &Alert, delivered: bool, monotonic_ms: u64) {
        let mut kept = self.kept.lock();
        let Some(entry) = kept.entries.iter_mut().find(|entry| entry.alert.id == alert.id) else {
            return;
        };
        let deliveries = &mut entry.deliveries;
        deliveries.in_flight = false;
        if delivered {
            let last = Some((alert.state, alert.severity, alert.stage));
            *deliveries = Deliveries { last, ..Deliveries::default() };
            return;
        }
        let pause_ms = retry_pause_ms(deliveries.failures);
        deliveries.failures += 1;
        deliveries.not_before_ms = monotonic_ms + pause_ms;
    }

    /// Records that a user has acknowledged an alert. Returns `false` if there is no alert with this number.
    pub fn acknowledge(&self, id: u64, by: &str) -> bool {
        let mut kept = self.kept.lock();
        let Some(entry) = kept.entries.iter_mut().find(|entry| entry.alert.id == id) else {
            return false;
        };
        entry.alert.acknowledged_by = Some(by.into());
        true
    }

    /// Keeps a kind of alert from the webhook until a time, across restarts of the node. A silence whose time
    /// is over removes the present one. Returns `false` if too many kinds are silenced. Blocks: the silence
    /// is on the disk before it takes effect, and an error changes nothing.
    pub fn silence(&self, silence: Silence, now_ms: u64) -> io::Result<bool> {
        let file = self.silences_file.lock();
        let mut silences = self.kept.lock().silences.clone();
        silences.retain(|s| s.kind != silence.kind && s.until_ms > now_ms);
        if silence.until_ms > now_ms {
            if silences.len() >= SILENCES_MAX {
                return Ok(false);
            }
            silences.push(silence);
        }
        if let Some(file) = file.as_deref() {
            silences::write(file, &silences)?;
        }
        self.kept.lock().silences = silences;
        Ok(true)
    }

    /// The silences that are in effect.
    #[must_use]
    pub fn silences(&self, now_ms: u64) -> Vec<Silence> {
        self.kept.lock().silences.iter().filter(|s| s.until_ms > now_ms).cloned().collect()
    }
}

#[cfg(test)]
#[path = "alerts_tests.rs"]
mod tests;
