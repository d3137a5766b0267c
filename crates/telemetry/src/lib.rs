//! What a node reports about itself: metrics, recent traces, events, alerts, and the request log.
//!
//! Place in the flow: the edge and the handlers report here. The actuator and the native API read. Everything
//! here belongs to this node alone, is limited, and is kept in memory, apart from the files of the request
//! log, the silences of alerts, and the counts of the objectives. The replicated audit log is in the state. Nothing here makes a request wait.

mod alert_kind;
mod alert_list;
pub mod audit_forward;
mod audit_record;
mod declare;
pub mod events;
mod exposition;
mod log_levels;
mod metrics;
mod objectives;
mod otlp;
pub mod projection;
mod raft_metrics;
mod request_log;
mod requests;
mod ring;
#[cfg(test)]
mod samples;
mod secrets;
mod service_series;
mod silences;
mod span_name;
mod stored_file;
mod trace_name;
mod traffic;
mod trail;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::Method;
use serde_json::Value;

use maxine_clock::Clock;
use maxine_view::View;

pub use alert_kind::{AlertForm, AlertKind, Scope, Severity};
pub use alert_list::{Alert, AlertState, Alerts, Notice};
pub use audit_record::{AuditOutcomeView, AuditRecordView};
pub use events::{ForwardHit, LookupHit, Mode, RecentEvent};
pub use exposition::Exposition;
pub use log_levels::{LOG_LEVEL_MS_MAX, LogLevel, LogLevels, ModuleLevel, check_log_filter};
pub use metrics::{Gauges, Metrics};
pub use objectives::{CountedObjectives, OBJECTIVE_WINDOW_MS, Objective, ObjectiveSum, Objectives};
pub use otlp::{LogLine, LogOutbox, OtlpProtocol, OtlpSettings, in_span};
pub use raft_metrics::RaftGauges;
pub use request_log::{LogFile, LogFiles, RequestLogSettings};
pub use requests::{FinishedRequest, Subject, Trace};
pub use ring::Ring;
pub use secrets::hide_credentials;
pub use silences::Silence;
pub use span_name::{Sampler, SpanName};
pub use trace_name::TraceName;
pub use traffic::TrafficSum;
pub use traffic::{ServiceCalls, StepCounts, Traffic, TrafficExtent, TrafficRange, TrafficStep};
pub use trail::{AttemptOutcome, AttemptRecord, AttemptTrail};
pub use webhook::http_client;
pub use webhook::{WebhookSettings, as_json as alert_as_json};

use alert_list::Raised;
use otlp::{Exporter, LogExporter};
use request_log::RequestLog;
use webhook::Webhook;

/// Settings of telemetry.
#[derive(Clone, Debug)]
pub struct TelemetrySettings {
    /// This node's name, for alerts.
    pub node: String,
    /// The cluster's name, for the keys of alerts.
    pub cluster: String,
    /// Maximum number of recent traces (`MAXINE_RECENT_TRACE_LIMIT`).
    pub traces_max: usize,
    /// Maximum number of recent events (`MAXINE_RECENT_AUDIT_LIMIT`).
    pub audit_max: usize,
    /// Maximum number of recent alerts (`MAXINE_RECENT_ALERT_LIMIT`).
    pub alerts_max: usize,
    /// The file of silenced alerts; `None` keeps them in memory.
    pub silences_file: Option<PathBuf>,
    /// Whether successful look-ups are recorded as recent events.
    pub audit_lookups: bool,
    /// The request log.
    pub request_log: RequestLogSettings,
    /// Where alerts are sent; `None` for nowhere.
    pub webhook: Option<WebhookSettings>,
    /// Where traces are exported to; `None` for nowhere.
    pub otlp: Option<OtlpSettings>,
    /// The lines of the log that are exported to the same receiver; `None` if they are not.
    pub log_outbox: Option<LogOutbox>,
    /// Maximum number of services with metrics of their own; 0 for none.
    pub metrics_services_max: usize,
    /// Whether metrics are also shown under their former names.
    pub metrics_former_names: bool,
    /// The service level objectives.
    pub objectives: Vec<Objective>,
    /// The file of the counts of the objectives; `None` keeps them in memory.
    pub objectives_file: Option<PathBuf>,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            node: "node-1".into(),
            cluster: "maxine".into(),
            traces_max: 200,
            audit_max: 200,
            alerts_max: 100,
            silences_file: None,
            audit_lookups: true,
            request_log: RequestLogSettings::default(),
            webhook: None,
            otlp: None,
            log_outbox: None,
            metrics_services_max: 0,
            metrics_former_names: false,
            objectives: Vec::new(),
            objectives_file: None,
        }
    }
}

/// A request that was refused.
#[derive(Debug)]
pub struct AccessRefused<'a> {
    /// Whether the caller is known and their role is too low. If false, the caller is unknown.
    pub forbidden: bool,
    /// The user's name; empty if unknown.
    pub user: &'a str,
    /// The user's role; `None` if unknown.
    pub role: Option<maxine_state::Role>,
    /// The method.
    pub method: &'a Method,
    /// The path.
    pub path: &'a str,
    /// The trace id.
    pub trace_id: &'a TraceName,
}

struct Inner {
    clock: Clock,
    started_us: u64,
    metrics: Metrics,
    log: Arc<RequestLog>,
    alerts: Alerts,
    audit_max: usize,
    events: Ring<RecentEvent>,
    /// Stored separately, so that many look-ups do not push out other events.
    lookups: Ring<LookupHit>,
    forwards: Ring<ForwardHit>,
    webhook: Option<Webhook>,
    /// Decides which new traces are exported. `None` if none are.
    sampler: Option<Sampler>,
    exporter: Option<Arc<Exporter>>,
    log_exporter: Option<LogExporter>,
    objectives: Arc<Objectives>,
}

/// The place to which the parts of a node report. Clones are cheap.
#[derive(Clone)]
pub struct Telemetry(Arc<Inner>);

impl Telemetry {
    /// Starts telemetry for a node, with the writer of the request log. If a webhook or the export of traces is
    /// set, this must be called inside a tokio runtime.
    #[must_use]
    pub fn start(view: Arc<View>, clock: Clock, settings: &TelemetrySettings) -> Self {
        let webhook = settings.webhook.as_ref().and_then(|webhook| {
            Webhook::new(webhook, &settings.cluster)
                .inspect_err(
                    |error| tracing::error!(%error, "alerts cannot be sent to the webhook"),
                )
                .ok()
        });
        let metrics = Metrics::new();
        metrics.service_series.limit(settings.metrics_services_max);
        metrics.shows_former_names.store(settings.metrics_former_names, Ordering::Relaxed);
        let exporter = settings.otlp.as_ref().and_then(|otlp| {
            let names = (&*settings.node, &*settings.cluster);
            Exporter::start(otlp, names, clock.clone(), metrics.clone())
                .inspect_err(|error| tracing::error!(%error, "traces cannot be exported"))
                .ok()
        });
        let log_exporter = settings.otlp.as_ref().zip(settings.log_outbox.clone());
        let log_exporter = log_exporter.and_then(|(otlp, outbox)| {
            let names = (&*settings.node, &*settings.cluster);
            LogExporter::start(otlp, names, clock.clone(), metrics.otlp_log_counters(), outbox)
                .inspect_err(|error| tracing::error!(%error, "the log cannot be exported"))
                .ok()
        });
        let sampler = exporter.as_ref().map(|exporter| exporter.sampler());
        if let Some(exporter) = exporter.clone() {
            view.take_work(move |work| exporter.offer_work(work));
        }
        let log = RequestLog::start(
            view,
            clock.clone(),
            settings.traces_max,
            &settings.request_log,
            exporter.clone(),
            Arc::clone(&metrics.service_series),
        );
        let objectives = Objectives::start(
            clock.clone(),
            metrics.registry().clone(),
            &settings.objectives,
            settings.objectives_file.clone(),
        );
        let lookups_max = if settings.audit_lookups { settings.audit_max } else { 0 };
        let telemetry = Self(Arc::new(Inner {
            started_us: clock.monotonic_us(),
            clock,
            metrics,
            log,
            alerts: Alerts::new(
                settings.node.clone(),
                settings.alerts_max,
                settings.silences_file.clone(),
            ),
            audit_max: settings.audit_max,
            events: Ring::new(settings.audit_max),
            lookups: Ring::new(lookups_max),
            forwards: Ring::new(settings.audit_max),
            webhook,
            sampler,
            exporter,
            log_exporter,
            objectives: Arc::new(objectives),
        }));
        if let Some(webhook) = &telemetry.0.webhook {
            webhook.start(Arc::downgrade(&telemetry.0));
        }
        telemetry
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The alerts.
    #[must_use]
    pub fn alerts(&self) -> &Alerts {
        &self.0.alerts
    }

    /// The service level objectives, and what this node has counted of them.
    #[must_use]
    pub fn objectives(&self) -> &Arc<Objectives> {
        &self.0.objectives
    }

    /// Decides which new traces are exported. `None` if this node exports none; then no request has a span.
    #[must_use]
    pub fn sampler(&self) -> Option<Sampler> {
        self.0.sampler
    }

    /// The newest requests, newest first. May wait for the disk of the request log.
    #[must_use]
    pub fn traces(&self) -> Vec<Trace> {
        self.0.log.traces()
    }

    /// The recent traffic. May wait for the disk of the request log.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        self.0.log.traffic()
    }

    /// The newest lines of the request log, oldest first. May wait for the disk.
    #[must_use]
    pub fn recent_lines(&self) -> Vec<String> {
        self.0.log.recent_lines()
    }

    /// Removes the lines of the request log from memory. Its files are kept.
    pub fn clear_recent_lines(&self) {
        self.0.log.clear_recent();
    }

    /// The files of the request log. May wait for the disk.
    #[must_use]
    pub fn log_files(&self) -> Vec<LogFile> {
        self.0.log.files()
    }

    /// How long this node has been up, in microseconds.
    #[must_use]
    pub fn uptime_us(&self) -> u64 {
        self.0.clock.monotonic_us().saturating_sub(self.0.started_us)
    }

    /// Records a request that was answered.
    pub fn request_finished(&self, request: FinishedRequest) {
        self.0.metrics.answered(&request.subject, request.status.as_u16(), request.duration_us);
        if !self.0.log.push(request) {
            self.0.metrics.telemetry_dropped.inc();
        }
    }

    /// Records a request that was refused.
    pub fn access_refused(&self, refused: &AccessRefused<'_>) {
        self.0.metrics.auth_failures.inc();
        if !refused.forbidden {
            return;
        }
        let role = refused.role.map(maxine_state::Role::as_str);
        self.record(
            "authz.denied",
            "FORBIDDEN",
            vec![
                ("userName", Value::String(refused.user.into())),
                ("role", role.into()),
                ("method", refused.method.as_str().into()),
                ("path", refused.path.into()),
                ("traceId", refused.trace_id.text().into()),
            ],
        );
    }

    /// Records an event.
    pub fn record(
        &self,
        kind: &'static str,
        outcome: &'static str,
        fields: Vec<(&'static str, Value)>,
    ) {
        let time_ms = self.0.clock.wall_ms();
        let event = RecentEvent { time_ms, kind, outcome, fields };
        if !self.0.log.push_event(&event) {
            self.0.metrics.telemetry_dropped.inc();
        }
        self.0.events.push(event);
    }

    /// Counts and records a successful look-up. This is on the hot path: if another thread holds the lock,
    /// the record is left out and counted as dropped.
    pub fn lookup_hit(&self, hit: impl FnOnce() -> LookupHit) {
        self.0.metrics.discoveries.inc();
        if self.0.lookups.is_off() {
            return;
        }
        if !self.0.lookups.try_push(hit()) {
            self.0.metrics.telemetry_dropped.inc();
        }
    }

    /// Counts and records a forwarded request. This is on the hot path, like [`Telemetry::lookup_hit`].
    pub fn forwarded(&self, hit: impl FnOnce(u64) -> ForwardHit) {
        self.0.metrics.discoveries.inc();
        self.0.metrics.proxied_requests.inc();
        if !self.0.forwards.is_off() && !self.0.forwards.try_push(hit(self.0.clock.wall_ms())) {
            self.0.metrics.telemetry_dropped.inc();
        }
    }

    /// The newest events, newest first, as `/api/actuator/audit` shows them.
    #[must_use]
    pub fn recent_events(&self) -> Vec<Value> {
        let events = self.0.events.newest_first();
        let lookups = self.0.lookups.newest_first();
        let forwards = self.0.forwards.newest_first();
        let mut merged: Vec<(u64, Value)> = events
            .iter()
            .map(|event| (event.time_ms, event.to_json()))
            .chain(lookups.iter().map(|hit| (hit.time_ms, hit.to_json())))
            .chain(forwards.iter().map(|hit| (hit.time_ms, hit.to_json())))
            .collect();
        merged.sort_by_key(|(time_ms, _)| std::cmp::Reverse(*time_ms));
        merged.truncate(self.0.audit_max);
        merged.into_iter().map(|(_, event)| event).collect()
    }

    /// Raises a condition, which is active until [`Telemetry::clear`]. Repeating it is cheap and only changes
    /// the text.
    pub fn raise(&self, condition: Notice) {
        debug_assert!(condition.kind.form() == AlertForm::Condition, "{:?}", condition.kind);
        let (kind, severity) = (condition.kind, condition.severity);
        let (message, details) = (condition.message.clone(), condition.details.clone());
        match self.0.alerts.raise(condition, self.0.clock.wall_ms()) {
            Raised::New => self.emitted(kind, severity, &message, details),
            Raised::Already => {}
            Raised::LeftOut => self.0.metrics.alerts_left_out.inc(),
        }
    }

    /// Resolves a condition, if it is active. Repeating it is cheap.
    pub fn clear(&self, kind: AlertKind, object: &str) {
        let Some(alert) = self.0.alerts.clear(kind, object, self.0.clock.wall_ms()) else { return };
        tracing::info!(kind = kind.name(), object, "an alert was resolved");
        let fields = vec![
            ("severity", Value::from(alert.severity.as_str())),
            ("alertType", kind.name().into()),
            ("message", alert.message.into()),
        ];
        self.record("alert.resolved", "RESOLVED", fields);
        self.alerts_changed(kind);
    }

    /// Ends a condition of which this node does not know any more whether it holds, because another node does or because
    /// this one no longer belongs to the cluster. The webhook is not told that it is over.
    pub fn withdraw(&self, kind: AlertKind, object: &str) {
        if self.0.alerts.withdraw(kind, object, self.0.clock.wall_ms()) {
            tracing::info!(kind = kind.name(), object, "an alert was withdrawn");
            self.alerts_changed(kind);
        }
    }

    /// Raises an alert for an event. Of many events of one kind within a minute, only the first raise alerts.
    pub fn alert(&self, event: Notice) {
        debug_assert!(event.kind.form() == AlertForm::Event, "{:?}", event.kind);
        let Some(alert) = self.0.alerts.push(event, self.0.clock.wall_ms()) else {
            return self.0.metrics.alerts_left_out.inc();
        };
        self.emitted(alert.kind, alert.severity, &alert.message, alert.details);
    }

    fn emitted(
        &self,
        kind: AlertKind,
        severity: Severity,
        message: &str,
        details: serde_json::Map<String, Value>,
    ) {
        self.0.metrics.alert_emitted(kind);
        let name = kind.name();
        tracing::warn!(kind = name, message, "alert");
        let fields = vec![
            ("severity", Value::from(severity.as_str())),
            ("alertType", name.into()),
            ("message", message.into()),
            ("details", Value::Object(details)),
        ];
        self.record("alert.emitted", "ALERTED", fields);
        self.alerts_changed(kind);
    }

    fn alerts_changed(&self, kind: AlertKind) {
        for severity in Severity::ALL {
            let active = self.0.alerts.active(kind, severity);
            self.0.metrics.set_alerts_active(kind, severity, active);
        }
        if let Some(webhook) = &self.0.webhook {
            webhook.wake();
        }
    }

    fn delivery_failed(&self, alert: &Alert, why: &str) {
        let kind = alert.kind.name();
        tracing::warn!(kind, error = %why, "an alert could not be delivered; it will be sent again");
        self.0.metrics.alert_deliveries_failed.inc();
        let fields = vec![
            ("severity", Value::from(alert.severity.as_str())),
            ("alertType", kind.into()),
            ("message", why.into()),
        ];
        self.record("alert.delivery_failed", "ERROR", fields);
    }

    /// Writes the rest of the request log and the counts of the objectives, exports the waiting traces and lines of the log, and waits for the deliveries in flight. Each of
    /// these has a time limit. It may be called more than once.
    pub async fn stop(&self) {
        if let Some(webhook) = &self.0.webhook {
            webhook.stop().await;
        }
        let (log, objectives) = (Arc::clone(&self.0.log), Arc::clone(&self.0.objectives));
        let close = move || {
            log.stop();
            objectives.write();
        };
        if tokio::task::spawn_blocking(close).await.is_err() {
            tracing::error!("the request log could not be closed");
        }
        if let Some(exporter) = &self.0.exporter {
            exporter.stop().await;
        }
        // The last, because the others log what they could not do.
        if let Some(log_exporter) = &self.0.log_exporter {
            log_exporter.stop().await;
        }
    }
}
