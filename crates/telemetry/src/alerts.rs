//! Alerts: what an operator should look at now.
//!
//! A *condition* is raised on an object, lasts, and is resolved when it is over; an *event* has
//! happened and has no end. Raising a condition that is active already only renews its text. Each
//! node keeps its own list; [`super::webhook`] tells the outside of what [`Alerts::due`] hands out.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value};

use super::alert_kind::{AlertForm, AlertKind, Scope, Severity};
use super::silences::{self, SILENCES_MAX, Silence};

/// Most conditions that are active at once; what is over it is counted and left out.
const ACTIVE_MAX: usize = 1_000;
/// A leader tells of conditions that ended within this time before it led, in milliseconds: the
/// former leader may have had no time to.
const RESOLVED_AGAIN_MS: u64 = 60_000;
/// Pause after a delivery that failed, in milliseconds; doubled with each one up to the longest.
const RETRY_MS: u64 = 1_000;
const RETRY_MS_MAX: u64 = 60_000;

/// Where an alert is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AlertState {
    /// It happened; it has no end.
    Event,
    /// The condition holds.
    Active,
    /// The condition held and is over.
    Resolved,
}

/// One alert.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Alert {
    /// Its number on this node, from 1.
    pub id: u64,
    /// The node that raised it.
    pub node: String,
    /// When it began, in milliseconds since 1970.
    pub time_ms: u64,
    /// Where it is in its life.
    pub state: AlertState,
    /// When it was over, in milliseconds since 1970; null while it is not.
    pub resolved_ms: Option<u64>,
    /// Urgency.
    pub severity: Severity,
    /// Grows when the condition gets worse; the webhook is then told again.
    #[serde(skip)]
    pub stage: u8,
    /// The kind, such as `upstream.evicted`.
    #[serde(rename = "type", serialize_with = "name_of")]
    #[schema(value_type = String)]
    pub kind: AlertKind,
    /// What it is about, such as a member's name.
    pub object: String,
    /// What happened, in one line.
    pub message: String,
    /// Details.
    #[schema(value_type = Object)]
    pub details: Map<String, Value>,
    /// The page in `docs/operations` that says what to do.
    pub runbook: &'static str,
    /// Who acknowledged it, if anyone did.
    pub acknowledged_by: Option<String>,
    /// Whether a silence kept it from the webhook when it was raised.
    pub silenced: bool,
}

fn name_of<S: serde::Serializer>(kind: &AlertKind, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(kind.name())
}

/// What an operator should know: a condition that holds, or an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// The kind.
    pub kind: AlertKind,
    /// What it is about. At most one condition of a kind and object is active.
    pub object: String,
    /// Urgency.
    pub severity: Severity,
    /// Grows when the condition gets worse; the webhook is then told again.
    pub stage: u8,
    /// What holds or happened, in one line.
    pub message: String,
    /// Details.
    pub details: Map<String, Value>,
}

impl Notice {
    /// With the severity of its kind and no particulars.
    #[must_use]
    pub fn new(kind: AlertKind, object: impl Into<String>, message: impl Into<String>) -> Self {
        let (object, message) = (object.into(), message.into());
        let severity = kind.severity();
        Self { kind, object, severity, stage: 0, message, details: Map::new() }
    }

    /// At a stage of getting worse, from 0.
    #[must_use]
    pub fn stage(self, stage: u8) -> Self {
        Self { stage, ..self }
    }

    /// With another severity than its kind's.
    #[must_use]
    pub fn severity(self, severity: Severity) -> Self {
        Self { severity, ..self }
    }

    /// With particulars: a JSON object.
    #[must_use]
    pub fn details(self, details: Value) -> Self {
        let Value::Object(details) = details else { return self };
        Self { details, ..self }
    }
}

/// What the webhook has been told of an alert.
#[derive(Debug, Default)]
struct Told {
    last: Option<(AlertState, Severity, u8)>,
    in_flight: bool,
    failures: u32,
    not_before_ms: u64,
}

#[derive(Debug)]
struct Entry {
    alert: Alert,
    told: Told,
}

#[derive(Debug)]
struct Kept {
    next_id: u64,
    entries: VecDeque<Entry>,
    active: usize,
    silences: Vec<Silence>,
    /// Whether this node tells the webhook of what concerns the whole cluster.
    speaks_for_cluster: bool,
}

/// The latest alerts of this node, and every condition that is active.
#[derive(Debug)]
pub struct Alerts {
    node: String,
    len_max: usize,
    kept: Mutex<Kept>,
    /// Where silences are kept; `None` where they live as long as the process. Locked while it is written.
    silences_file: Mutex<Option<PathBuf>>,
}

/// What became of a condition that was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Raised {
    /// It was not active before, or is more urgent now.
    New,
    /// It was active already.
    Already,
    /// Too many are active.
    LeftOut,
}

impl Kept {
    fn is_silenced(&self, kind: AlertKind, now_ms: u64) -> bool {
        self.silences.iter().any(|s| s.kind == kind.name() && s.until_ms > now_ms)
    }

    fn active_of(&mut self, kind: AlertKind, object: &str) -> Option<&mut Entry> {
        self.entries.iter_mut().rev().find(|entry| {
            let alert = &entry.alert;
            alert.state == AlertState::Active && alert.kind == kind && alert.object == object
        })
    }

    /// Makes room for one more: the oldest that is not active leaves.
    fn trim(&mut self, len_max: usize) {
        while self.entries.len() - self.active > len_max {
            let oldest = self.entries.iter().position(|e| e.alert.state != AlertState::Active);
            match oldest {
                Some(at) => drop(self.entries.remove(at)),
                None => return,
            }
        }
    }
}

impl Alerts {
    /// With the silences that a run before has kept in `silences_file`.
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
            speaks_for_cluster: true,
        };
        let silences_file = Mutex::new(silences_file);
        Self { node, len_max, kept: Mutex::new(kept), silences_file }
    }

    fn add(&self, kept: &mut Kept, notice: Notice, now_ms: u64) -> Alert {
        kept.next_id += 1;
        let Notice { kind, object, severity, stage, message, details } = notice;
        let state = match kind.form() {
            AlertForm::Event => AlertState::Event,
            AlertForm::Condition => AlertState::Active,
        };
        let alert = Alert {
            id: kept.next_id,
            node: self.node.clone(),
            time_ms: now_ms,
            state,
            resolved_ms: None,
            severity,
            stage,
            kind,
            object,
            message,
            details,
            runbook: kind.runbook(),
            acknowledged_by: None,
            silenced: kept.is_silenced(kind, now_ms),
        };
        kept.active += usize::from(state == AlertState::Active);
        kept.entries.push_back(Entry { alert: alert.clone(), told: Told::default() });
        kept.trim(self.len_max);
        alert
    }

    /// Keeps an event.
    pub(super) fn push(&self, event: Notice, now_ms: u64) -> Alert {
        self.add(&mut self.kept.lock(), event, now_ms)
    }

    /// Notes that a condition holds.
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

    /// Notes that a condition is over; answers it if it was active.
    pub(super) fn clear(&self, kind: AlertKind, object: &str, now_ms: u64) -> Option<Alert> {
        let mut kept = self.kept.lock();
        let entry = kept.active_of(kind, object)?;
        entry.alert.state = AlertState::Resolved;
        entry.alert.resolved_ms = Some(now_ms);
        entry.told.not_before_ms = 0;
        let alert = entry.alert.clone();
        kept.active -= 1;
        kept.trim(self.len_max);
        Some(alert)
    }

    /// The alerts, newest first.
    #[must_use]
    pub fn newest_first(&self) -> Vec<Alert> {
        self.kept.lock().entries.iter().rev().map(|entry| entry.alert.clone()).collect()
    }

    /// How many conditions of a kind and severity are active.
    #[must_use]
    pub fn active(&self, kind: AlertKind, severity: Severity) -> usize {
        let is_counted = |alert: &Alert| {
            alert.state == AlertState::Active && alert.kind == kind && alert.severity == severity
        };
        self.kept.lock().entries.iter().filter(|entry| is_counted(&entry.alert)).count()
    }

    /// Says whether this node tells the webhook of what concerns the whole cluster.
    pub fn set_speaks_for_cluster(&self, speaks: bool) {
        self.kept.lock().speaks_for_cluster = speaks;
    }

    /// What the webhook must be told now, at most `max`; each is taken until [`Alerts::told`] says how
    /// its delivery ended.
    pub(super) fn due(&self, max: usize, monotonic_ms: u64, wall_ms: u64) -> Vec<Alert> {
        let mut kept = self.kept.lock();
        let speaks = kept.speaks_for_cluster;
        let silenced: Vec<AlertKind> = AlertKind::ALL
            .iter()
            .copied()
            .filter(|kind| kept.is_silenced(*kind, wall_ms))
            .collect();
        let is_due = |entry: &&mut Entry| {
            let Entry { alert, told } = entry;
            let said = told.last.is_some();
            let may_speak = speaks || alert.kind.scope() == Scope::Node || said;
            let is_news = match (alert.state, told.last) {
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
                && may_speak
                && !told.in_flight
                && told.not_before_ms <= monotonic_ms
                && !silenced.contains(&alert.kind)
        };
        let due = kept.entries.iter_mut().filter(is_due).take(max);
        due.map(|entry| {
            entry.told.in_flight = true;
            entry.alert.clone()
        })
        .collect()
    }

    /// Notes how the delivery of an alert ended. One that failed is repeated, later each time.
    pub(super) fn told(&self, alert: &Alert, delivered: bool, monotonic_ms: u64) {
        let mut kept = self.kept.lock();
        let Some(entry) = kept.entries.iter_mut().find(|entry| entry.alert.id == alert.id) else {
            return;
        };
        let told = &mut entry.told;
        told.in_flight = false;
        if delivered {
            let last = Some((alert.state, alert.severity, alert.stage));
            *told = Told { last, ..Told::default() };
            return;
        }
        let pause_ms = (RETRY_MS << told.failures.min(6)).min(RETRY_MS_MAX);
        told.failures += 1;
        told.not_before_ms = monotonic_ms + pause_ms;
    }

    /// Notes that somebody has seen an alert; `false` if there is none of this number.
    pub fn acknowledge(&self, id: u64, by: &str) -> bool {
        let mut kept = self.kept.lock();
        let Some(entry) = kept.entries.iter_mut().find(|entry| entry.alert.id == id) else {
            return false;
        };
        entry.alert.acknowledged_by = Some(by.into());
        true
    }

    /// Keeps a kind of alert from the webhook until its end, through restarts of the node; one that has ended already
    /// replaces the present one. `false` if too many kinds are silenced. Blocks: the silence is on the disk when it is in
    /// force, and an error has changed nothing.
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

    /// The silences in force.
    #[must_use]
    pub fn silences(&self, now_ms: u64) -> Vec<Silence> {
        self.kept.lock().silences.iter().filter(|s| s.until_ms > now_ms).cloned().collect()
    }
}

#[cfg(test)]
#[path = "alerts_tests.rs"]
mod tests;
