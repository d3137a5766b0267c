//! Declares the metrics of the HTTP side and of the compatible API.
//!
//! Existing dashboards use the names without labels, so their meaning must not change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::alert_kind::{AlertForm, AlertKind, Severity};
use super::declare::{register, signed};
use super::exposition::{self, Exemplars, Exposition};
use super::raft_metrics::{RaftGauges, RaftMetrics};
use super::requests::Subject;
use super::service_series::ServiceSeries;
use maxine_state::{ControlState, Liveness};

/// Statuses are counted by their first digit.
const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// The kinds of requests, as [`kind_of`] numbers them.
const KINDS: [&str; 4] = ["lookup", "proxied", "registration", "other"];

/// The sinks of audit records.
const AUDIT_SINKS: [&str; 3] = ["file", "http", "syslog"];

/// The position of a request's kind in [`KINDS`].
fn kind_of(subject: &Subject) -> usize {
    match subject {
        Subject::Lookup(_) => 0,
        Subject::Proxied(_) => 1,
        Subject::Registration => 2,
        Subject::Other => 3,
    }
}

/// The metrics of this node.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Finished requests on all routes.
    pub requests: IntCounter,
    /// Failed sign-ins, and requests that were refused with 401 or 403.
    pub auth_failures: IntCounter,
    /// Successful sign-ins.
    pub auth_success: IntCounter,
    /// Successful registrations through the compatible API, heartbeats included.
    pub registrations: IntCounter,
    /// Look-ups that found an instance.
    pub discoveries: IntCounter,
    /// Look-ups that the fast path answered.
    pub fast_path: IntCounter,
    /// Requests forwarded to an instance.
    pub proxied_requests: IntCounter,
    /// Requests that were forwarded on the fast path.
    pub proxy_fast_path: IntCounter,
    /// Active health checks.
    pub health_checks: IntCounter,
    /// Active health checks that failed.
    pub health_check_failures: IntCounter,
    /// Instances that health checks evicted.
    pub health_evictions: IntCounter,
    /// Alerts that were raised since the start.
    pub alerts: IntCounter,
    /// Conditions that were left out because too many were active.
    pub alerts_left_out: IntCounter,
    /// Failed deliveries of alerts to the webhook.
    pub alert_deliveries_failed: IntCounter,
    alerts_active: IntGaugeVec,
    alert_events: IntCounterVec,
    /// Look-ups that were answered with 503 because the service has no routable instance.
    pub lookups_without_instance: IntCounter,
    /// Requests to forward that were answered with 503 because the service has no routable instance.
    pub proxied_without_instance: IntCounter,
    /// Sign-ins that were refused because of too many attempts.
    pub signin_throttled: IntCounter,
    /// Records of requests or look-ups that were dropped because there were too many.
    pub telemetry_dropped: IntCounter,
    /// Requests and other work whose spans a receiver took.
    pub otlp_exported: IntCounter,
    /// Requests and other work whose spans were lost because too many waited.
    pub otlp_lost: IntCounter,
    /// Requests and other work whose spans a receiver refused.
    pub otlp_refused: IntCounter,
    /// Failed deliveries of spans and of lines of the log.
    pub otlp_failures: IntCounter,
    /// Lines of the log for a receiver, by result.
    otlp_log_lines: IntCounterVec,
    otlp_waiting: IntGauge,
    /// Audit records that were forwarded, by sink: `file`, `http` or `syslog`.
    pub audit_forwarded: IntCounterVec,
    /// Failed deliveries of audit records, by sink.
    pub audit_forward_failures: IntCounterVec,
    /// Audit records that were removed before they could be forwarded, by sink.
    pub audit_forward_missing: IntCounterVec,
    /// Audit records that wait to be forwarded, by sink.
    pub audit_forward_waiting: IntGaugeVec,
    /// Connections that were refused because too many were open.
    pub connections_refused: IntCounter,
    /// Connections that were closed because their client did not read an answer.
    pub connections_stalled: IntCounter,
    /// Connections that did not complete the TLS handshake, by reason: `handshake`, `not_tls` or `timeout`.
    pub tls_failures: IntCounterVec,
    /// Changes of files for TLS, by result: `taken` or `refused`.
    pub tls_reloads: IntCounterVec,
    /// When the first certificate of a file expires, in seconds since 1970.
    pub certificate_ends: IntGaugeVec,
    /// Open connections.
    pub connections: IntGauge,
    /// Time until the head of the answer was ready, in seconds.
    pub request_duration: Histogram,
    /// Traces of requests in the buckets of `request_duration`.
    pub(super) exemplars: Arc<Exemplars>,
    by_class: [IntCounter; STATUS_CLASSES.len()],
    /// Held while `by_class` is brought up to date.
    adding_up: Arc<Mutex<()>>,
    /// For each kind of [`KINDS`], by class.
    by_kind: [[IntCounter; STATUS_CLASSES.len()]; KINDS.len()],
    raft: RaftMetrics,
    /// Requests by service.
    pub(super) service_series: Arc<ServiceSeries>,
    registered_services: IntGauge,
    registry_instances: IntGauge,
    registry_bytes: IntGauge,
    kv_keys: IntGauge,
    kv_bytes: IntGauge,
    lock_sessions: IntGauge,
    registered_parent_nodes: IntGauge,
    registered_virtual_nodes: IntGauge,
    is_leader: IntGauge,
    has_leader: IntGauge,
    unhealthy_upstreams: IntGauge,
    state_index: Gauge,
    staleness_seconds: Gauge,
    /// The same value under its former name.
    staleness_ms: Gauge,
    /// Whether values are also shown under their former names.
    pub(super) shows_former_names: Arc<AtomicBool>,
}

/// Counts what was to be exported over OTLP.
#[derive(Clone, Debug)]
pub(super) struct DeliveryCounters {
    pub(super) exported: IntCounter,
    pub(super) refused: IntCounter,
    pub(super) lost: IntCounter,
    /// Failed deliveries.
    pub(super) failures: IntCounter,
}

/// The values of gauges at the time of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    /// Whether this node leads.
    pub is_leader: bool,
    /// Whether a leader is known.
    pub has_leader: bool,
    /// Instances with failed probes in a row.
    pub unhealthy_upstreams: usize,
    /// The staleness of this node's state, in milliseconds, if it is known.
    pub staleness_ms: Option<u64>,
    /// The Raft log of this node, in Raft mode.
    pub raft: Option<RaftGauges>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Declares all metrics.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("the name is a constant and valid");
            register(&registry, counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("the name is a constant and valid");
            register(&registry, gauge)
        };
        // Every value is shown from the start, so that its first increase is seen.
        let counters = |name: &str, help: &str, label: &str, values: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])
                .expect("the names are constants and valid");
            for value in values {
                counters.with_label_values(&[*value]);
            }
            register(&registry, counters)
        };
        let otlp = counters(
            "maxine_otlp_requests_total",
            "Requests and other work whose traces were to be exported: exported, lost because too many waited, or refused by the receiver",
            "result",
            &["exported", "lost", "refused"],
        );
        let otlp_log_lines = counters(
            "maxine_otlp_log_lines_total",
            "Lines of the log that were to be exported: exported, lost because too many waited, or refused by the receiver",
            "result",
            &["exported", "lost", "refused"],
        );
        let tls_failures = counters(
            "maxine_tls_failures_total",
            "Connections that did not complete the TLS handshake: it failed, the client did not use TLS, or it took too long",
            "reason",
            &["handshake", "not_tls", "timeout"],
        );
        let tls_reloads = counters(
            "maxine_tls_reloads_total",
            "Changes of files for TLS that the node noticed, and whether their new content was taken",
            "result",
            &["taken", "refused"],
        );
        let opts = Opts::new(
            "maxine_certificate_not_after_timestamp_seconds",
            "When the first certificate in the file expires, in seconds since 1970",
        );
        let certificate_ends =
            IntGaugeVec::new(opts, &["file"]).expect("the names are constants and valid");
        let certificate_ends = register(&registry, certificate_ends);
        let opts = Opts::new(
            "maxine_audit_forward_waiting",
            "Audit records that wait to be forwarded, by sink; 0 for a sink that is not set",
        );
        let audit_forward_waiting =
            IntGaugeVec::new(opts, &["sink"]).expect("the names are constants and valid");
        for sink in AUDIT_SINKS {
            audit_forward_waiting.with_label_values(&[sink]).set(0);
        }
        let audit_forward_waiting = register(&registry, audit_forward_waiting);
        let audit_forwarded = counters(
            "maxine_audit_forward_records_total",
            "Audit records that were forwarded, by sink",
            "sink",
            &AUDIT_SINKS,
        );
        let audit_forward_failures = counters(
            "maxine_audit_forward_failures_total",
            "Failed deliveries of audit records, by sink; each is tried again",
            "sink",
            &AUDIT_SINKS,
        );
        let audit_forward_missing = counters(
            "maxine_audit_forward_missing_total",
            "Audit records that were removed before they could be forwarded, by sink",
            "sink",
            &AUDIT_SINKS,
        );
        let by_class = STATUS_CLASSES.map(|class| {
            let opts = Opts::new(
                "maxine_http_responses_total",
                "Responses by the first digit of their status",
            )
            .const_label("class", class);
            let counter = IntCounter::with_opts(opts).expect("the name is a constant and valid");
            register(&registry, counter)
        });
        let buckets = vec![
            0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
            1.0, 2.5, 5.0, 10.0,
        ];
        let duration_name = "maxine_http_request_duration_seconds";
        let exemplars = Arc::new(Exemplars::new(duration_name, &buckets));
        let opts = HistogramOpts::new(
            duration_name,
            "Time from the request's head to the response's head, in seconds",
        );
        let histogram = Histogram::with_opts(opts.buckets(buckets))
            .expect("the name is a constant and the buckets ascend");
        let opts = Opts::new(
            "maxine_alerts_active",
            "Conditions that are active now, as this node sees them",
        );
        let alerts_active = IntGaugeVec::new(opts, &["kind", "severity"])
            .expect("the names are constants and valid");
        for kind in AlertKind::ALL.iter().filter(|kind| kind.form() == AlertForm::Condition) {
            for severity in Severity::ALL {
                alerts_active.with_label_values(&[kind.name(), severity.as_str()]).set(0);
            }
        }
        let opts =
            Opts::new("maxine_alert_events_total", "Alerts for events, which have no end, by kind");
        let alert_events =
            IntCounterVec::new(opts, &["kind"]).expect("the names are constants and valid");
        for kind in AlertKind::ALL.iter().filter(|kind| kind.form() == AlertForm::Event) {
            alert_events.with_label_values(&[kind.name()]).reset();
        }
        let opts = Opts::new(
            "maxine_requests_without_instance_total",
            "Requests answered with 503 because the service has no routable instance, by kind",
        );
        let without_instance =
            IntCounterVec::new(opts, &["kind"]).expect("the names are constants and valid");
        let without_instance = register(&registry, without_instance);
        let opts = Opts::new(
            "maxine_responses_by_kind_total",
            "Responses by the kind of the request and the first digit of the status",
        );
        let by_kind = IntCounterVec::new(opts, &["kind", "class"])
            .expect("the names are constants and valid");
        let by_kind = register(&registry, by_kind);
        Self {
            by_kind: KINDS
                .map(|kind| STATUS_CLASSES.map(|class| by_kind.with_label_values(&[kind, class]))),
            alert_events: register(&registry, alert_events),
            lookups_without_instance: without_instance.with_label_values(&[KINDS[0]]),
            proxied_without_instance: without_instance.with_label_values(&[KINDS[1]]),
            raft: RaftMetrics::new(),
            service_series: Arc::default(),
            requests: counter("maxine_requests_total", "Finished requests on all routes"),
            auth_failures: counter(
                "maxine_auth_failures_total",
                "Failed sign-ins, and requests refused with 401 or 403",
            ),
            auth_success: counter("maxine_auth_success_total", "Successful sign-ins"),
            registrations: counter(
                "maxine_registrations_total",
                "Successful registrations, heartbeats included",
            ),
            discoveries: counter("maxine_discoveries_total", "Look-ups that found an instance"),
            fast_path: counter(
                "maxine_discovery_fast_path_total",
                "Look-ups answered on the fast path, before the HTTP library",
            ),
            proxied_requests: counter(
                "maxine_proxied_requests_total",
                "Requests forwarded to an instance",
            ),
            proxy_fast_path: counter(
                "maxine_proxy_fast_path_total",
                "Requests forwarded on the fast path, without maps of header fields",
            ),
            health_checks: counter("maxine_health_checks_total", "Active health checks"),
            health_check_failures: counter(
                "maxine_health_check_failures_total",
                "Active health checks that failed",
            ),
            health_evictions: counter(
                "maxine_health_evictions_total",
                "Instances evicted by active health checks",
            ),
            alerts: counter("maxine_alerts_total", "Alerts raised since the start"),
            alerts_left_out: counter(
                "maxine_alerts_left_out_total",
                "Alerts that were left out: conditions while 1,000 were active, and events beyond 60 of their kind within a minute",
            ),
            alert_deliveries_failed: counter(
                "maxine_alert_deliveries_failed_total",
                "Failed deliveries to the webhook; each is tried again",
            ),
            alerts_active: register(&registry, alerts_active),
            signin_throttled: counter(
                "maxine_signin_throttled_total",
                "Sign-ins refused because of too many attempts",
            ),
            telemetry_dropped: counter(
                "maxine_telemetry_dropped_total",
                "Records of requests and look-ups that were dropped because too many arrived at the same time",
            ),
            otlp_exported: otlp.with_label_values(&["exported"]),
            otlp_lost: otlp.with_label_values(&["lost"]),
            otlp_refused: otlp.with_label_values(&["refused"]),
            otlp_failures: counter(
                "maxine_otlp_delivery_failures_total",
                "Failed deliveries of traces and of the log to the receiver; those that may succeed later are tried again",
            ),
            otlp_log_lines,
            otlp_waiting: gauge(
                "maxine_otlp_requests_waiting",
                "Requests and other work that wait for the export of their trace",
            ),
            audit_forwarded,
            audit_forward_failures,
            audit_forward_missing,
            audit_forward_waiting,
            connections_refused: counter(
                "maxine_http_connections_refused_total",
                "Connections refused because too many were open",
            ),
            connections_stalled: counter(
                "maxine_http_connections_stalled_total",
                "Connections closed because the client did not read the response for too long",
            ),
            tls_failures,
            tls_reloads,
            certificate_ends,
            connections: gauge("maxine_http_connections", "Open connections"),
            request_duration: register(&registry, histogram),
            exemplars,
            by_class,
            adding_up: Arc::default(),
            registered_services: gauge(
                "maxine_registered_services",
                "Services with at least one live instance",
            ),
            registered_parent_nodes: gauge("maxine_registered_parent_nodes", "Live instances"),
            registered_virtual_nodes: gauge(
                "maxine_registered_virtual_nodes",
                "Live instances, each counted by its weight",
            ),
            kv_keys: gauge(
                "maxine_kv_keys",
                "Keys of the key-value store; at most kv_keys_max of the configuration",
            ),
            kv_bytes: gauge(
                "maxine_kv_bytes",
                "Bytes that all keys and values take; at most kv_len_max of the configuration",
            ),
            lock_sessions: gauge("maxine_lock_sessions", "Lock sessions; at most 100,000"),
            registry_instances: gauge(
                "maxine_registry_instances",
                "Instances in the registry, evicted ones included; at most 2,000,000, and 1,000,000 \
                 for new ones of callers without a credential",
            ),
            registry_bytes: gauge(
                "maxine_registry_bytes",
                "Bytes that all registrations take; at most 1 GiB, and 512 MiB for those of callers \
                 without a credential",
            ),
            is_leader: gauge("maxine_cluster_is_leader", "1 if this node is the leader, else 0"),
            has_leader: gauge(
                "maxine_cluster_has_leader",
                "1 if a leader was confirmed within its lease, else 0",
            ),
            unhealthy_upstreams: gauge(
                "maxine_unhealthy_upstreams",
                "Instances whose latest health checks failed",
            ),
            state_index: {
                let help = "Index of the state on this node. NaN while it has no state";
                let gauge = Gauge::new("maxine_state_index", help)
                    .expect("the name is a constant and valid");
                register(&registry, gauge)
            },
            staleness_seconds: {
                let help = "How old this node's state can be: everything that was acknowledged longer \
                            ago is in it. NaN while that is not known";
                let gauge = Gauge::new("maxine_state_staleness_seconds", help)
                    .expect("the name is a constant and valid");
                register(&registry, gauge)
            },
            staleness_ms: {
                let help = "The former name of maxine_state_staleness_seconds, in milliseconds";
                let gauge =
                    Gauge::new(FORMER_STALENESS, help).expect("the name is a constant and valid");
                register(&registry, gauge)
            },
            shows_former_names: Arc::default(),
            registry,
        }
    }

    /// What counts the exported traces.
    pub(super) fn otlp_counters(&self) -> DeliveryCounters {
        DeliveryCounters {
            exported: self.otlp_exported.clone(),
            refused: self.otlp_refused.clone(),
            lost: self.otlp_lost.clone(),
            failures: self.otlp_failures.clone(),
        }
    }

    /// The counters of log lines that were exported, refused or lost.
    pub(super) fn otlp_log_counters(&self) -> DeliveryCounters {
        let of = |result| self.otlp_log_lines.with_label_values(&[result]);
        DeliveryCounters {
            exported: of("exported"),
            refused: of("refused"),
            lost: of("lost"),
            failures: self.otlp_failures.clone(),
        }
    }

    /// Sets the number of requests and other work that wait for the export of their trace.
    pub(super) fn otlp_queued(&self, len: usize) {
        self.otlp_waiting.set(signed(len as u64));
    }

    /// Sets the number of active conditions of a kind and severity.
    pub(super) fn set_alerts_active(&self, kind: AlertKind, severity: Severity, active: usize) {
        if kind.form() == AlertForm::Condition {
            let labels = [kind.name(), severity.as_str()];
            self.alerts_active.with_label_values(&labels).set(signed(active as u64));
        }
    }

    /// Counts an alert for an event. Conditions are shown by [`Self::set_alerts_active`].
    pub(super) fn alert_emitted(&self, kind: AlertKind) {
        self.alerts.inc();
        if kind.form() == AlertForm::Event {
            self.alert_events.with_label_values(&[kind.name()]).inc();
        }
    }

    /// Counts an answer.
    pub(super) fn answered(&self, subject: &Subject, status: u16, duration_us: u64) {
        self.requests.inc();
        let class = usize::from(status / 100).saturating_sub(1).min(STATUS_CLASSES.len() - 1);
        // The counts by class alone are added up at a scrape, which is rarer than an answer.
        self.by_kind[kind_of(subject)][class].inc();
        // The conversion is exact far beyond the duration of any request.
        self.request_duration.observe(duration_us as f64 / 1e6);
    }

    /// Brings the counts by class alone up to date.
    fn add_up_classes(&self) {
        // Two scrapes at the same time must not add the same answers.
        let _only_one = self.adding_up.lock();
        for (class, total) in self.by_class.iter().enumerate() {
            let sum: u64 = self.by_kind.iter().map(|by_class| by_class[class].get()).sum();
            total.inc_by(sum.saturating_sub(total.get()));
        }
    }

    /// The registry, for metrics that other parts declare.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All metrics, with present values of the gauges.
    #[must_use]
    pub fn render(&self, state: &ControlState, gauges: Gauges, format: Exposition) -> String {
        let (mut services, mut parents, mut virtuals) = (0_i64, 0_i64, 0_i64);
        for service in state.services().values() {
            let live = service.instances.values();
            let live = live.filter(|instance| instance.health().liveness == Liveness::Alive);
            let before = parents;
            for instance in live {
                parents += 1;
                virtuals += i64::from(instance.registration.weight);
            }
            services += i64::from(parents > before);
        }
        self.registered_services.set(services);
        self.registered_parent_nodes.set(parents);
        self.registered_virtual_nodes.set(virtuals);
        self.registry_instances.set(signed(state.instances_len() as u64));
        self.registry_bytes.set(signed(state.registrations_len()));
        self.kv_keys.set(signed(state.kv().entries().len() as u64));
        self.kv_bytes.set(signed(state.kv().stored_len()));
        self.lock_sessions.set(signed(state.kv().sessions().len() as u64));
        self.is_leader.set(gauges.is_leader.into());
        self.has_leader.set(gauges.has_leader.into());
        self.unhealthy_upstreams.set(signed(gauges.unhealthy_upstreams as u64));
        // The conversions are exact far beyond any index and any staleness.
        let index = state.history().map_or(f64::NAN, |_| state.index() as f64);
        self.state_index.set(index);
        let age_ms = gauges.staleness_ms.map_or(f64::NAN, |age_ms| age_ms as f64);
        self.staleness_seconds.set(age_ms / 1_000.0);
        self.staleness_ms.set(age_ms);
        self.add_up_classes();
        let mut families = self.registry.gather();
        if !self.shows_former_names.load(Ordering::Relaxed) {
            families.retain(|family| family.name() != FORMER_STALENESS);
        }
        if let Some(raft) = &gauges.raft {
            self.raft.add_to(&mut families, raft);
        }
        if let Some(family) = self.service_series.family(state) {
            families.push(family);
            families.sort_by(|a, b| a.name().cmp(b.name()));
        }
        if state.history().is_none() {
            // A node without a state does not know these values, and 0 would be wrong.
            families.retain(|family| !STATE_METRICS.contains(&family.name()));
        }
        exposition::write(&families, format, &self.exemplars)
    }
}

/// The former name of a metric.
const FORMER_STALENESS: &str = "maxine_state_staleness_ms";

/// Metrics that count objects in the state.
const STATE_METRICS: [&str; 8] = [
    "maxine_registered_services",
    "maxine_registered_parent_nodes",
    "maxine_registered_virtual_nodes",
    "maxine_registry_instances",
    "maxine_registry_bytes",
    "maxine_kv_keys",
    "maxine_kv_bytes",
    "maxine_lock_sessions",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shown_under_its_former_name_only_while_a_setting_says_so() {
        let metrics = Metrics::new();
        let text = || {
            let gauges = Gauges { staleness_ms: Some(1_500), ..Gauges::default() };
            metrics.render(&ControlState::default(), gauges, Exposition::Text)
        };
        assert!(text().contains("\nmaxine_state_staleness_seconds 1.5\n"));
        assert!(!text().contains(FORMER_STALENESS));
        metrics.shows_former_names.store(true, Ordering::Relaxed);
        assert!(text().contains("\nmaxine_state_staleness_ms 1500\n"));
    }
}
