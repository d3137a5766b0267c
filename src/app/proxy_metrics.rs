//! The proxy's events as Prometheus metrics. Neither services nor instances are labels, so the number of
//! series does not grow with the number of instances.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use maxine_gateway::{ProxyError, ProxyMetrics, RequestRecord, UpstreamChange, UpstreamEvent};
use maxine_state::ServiceKey;

/// The proxy's counters.
pub(super) struct ProxyCounters {
    /// Requests by the first digit of the status. The first element is for 1xx.
    requests: [IntCounter; CLASSES.len()],
    seconds: [Histogram; CLASSES.len()],
    errors: IntCounterVec,
    retries: IntCounterVec,
    hedges: IntCounterVec,
    mirrored: IntCounterVec,
    upstreams_changed: IntCounterVec,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const SENT: &str = "sent";
const LEFT_OUT: &str = "left_out";
/// The reason of a retry because of the response's status. The others are the codes of errors.
const STATUS: &str = "status";
const CHANGES: [UpstreamChange; 5] = [
    UpstreamChange::BreakerOpened,
    UpstreamChange::BreakerHalfOpen,
    UpstreamChange::BreakerClosed,
    UpstreamChange::Ejected,
    UpstreamChange::Returned,
];

fn change_name(change: UpstreamChange) -> &'static str {
    match change {
        UpstreamChange::BreakerOpened => "breaker_opened",
        UpstreamChange::BreakerHalfOpen => "breaker_half_open",
        UpstreamChange::BreakerClosed => "breaker_closed",
        UpstreamChange::Ejected => "ejected",
        UpstreamChange::Returned => "returned",
    }
}

/// Counters with one label. Each value is shown from the start, so that no series begins with its first event.
fn counters(
    registry: &Registry,
    (name, help): (&str, &str),
    label: &str,
    values: impl IntoIterator<Item = &'static str>,
) -> IntCounterVec {
    let vec = IntCounterVec::new(Opts::new(name, help), &[label])
        .expect("name and label are constants and valid");
    // This happens only with a second proxy in the same process. Its metrics are not exported.
    if registry.register(Box::new(vec.clone())).is_err() {
        tracing::warn!(name, "a metric is registered already");
    }
    for value in values {
        vec.with_label_values(&[value]).reset();
    }
    vec
}

impl ProxyCounters {
    /// Declares them in `registry`.
    pub(super) fn new(registry: &Registry) -> Self {
        let name = "maxine_proxy_response_head_seconds";
        let opts = HistogramOpts::new(name, "Time from a request to the head of its answer")
            .buckets(vec![0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0]);
        let seconds = HistogramVec::new(opts, &["class"])
            .expect("name, label and buckets are constants and valid");
        if registry.register(Box::new(seconds.clone())).is_err() {
            tracing::warn!(name, "a metric is registered already");
        }
        let name = "maxine_proxy_requests_total";
        let help = "Responses of the proxy, by the first digit of their status";
        let requests = counters(registry, (name, help), "class", CLASSES);
        let codes = || ProxyError::CODES.iter().copied();
        Self {
            // Looked up once, because every request counts here.
            requests: CLASSES.map(|class| requests.with_label_values(&[class])),
            seconds: CLASSES.map(|class| seconds.with_label_values(&[class])),
            errors: {
                let name = "maxine_proxy_errors_total";
                let help = "Requests that the proxy answered itself, by x-maxine-error";
                counters(registry, (name, help), "code", codes())
            },
            retries: {
                let name = "maxine_proxy_retries_total";
                let help = "Retries, by the error of the failed attempt; status is a response that the policy retries";
                counters(registry, (name, help), "reason", codes().chain([STATUS]))
            },
            hedges: {
                let name = "maxine_proxy_hedges_total";
                let help = "Hedged requests: a second request was sent because the first was slow";
                counters(registry, (name, help), "kind", [SENT])
            },
            mirrored: {
                let name = "maxine_proxy_mirrored_total";
                let help = "Requests copied to a mirror: sent, or left out because too many copies were in flight";
                counters(registry, (name, help), "outcome", [SENT, LEFT_OUT])
            },
            upstreams_changed: {
                let name = "maxine_proxy_standing_changes_total";
                let help =
                    "Changes of circuit breakers, and instances ejected as outliers or returned";
                counters(registry, (name, help), "change", CHANGES.map(change_name))
            },
        }
    }
}

/// The position of a status in [`CLASSES`].
fn class(status: u16) -> usize {
    usize::from((status / 100).clamp(1, 5) - 1)
}

impl ProxyMetrics for ProxyCounters {
    fn request(&self, record: &RequestRecord<'_>) {
        let class = class(record.status);
        self.requests[class].inc();
        self.seconds[class].observe(record.elapsed.as_secs_f64());
        if let Some(code) = record.error {
            self.errors.with_label_values(&[code]).inc();
        }
    }

    fn retry(&self, _: &ServiceKey, reason: &str) {
        self.retries.with_label_values(&[reason]).inc();
    }

    fn hedge(&self, _: &ServiceKey) {
        self.hedges.with_label_values(&[SENT]).inc();
    }

    fn mirror(&self, _: &ServiceKey, sent: bool) {
        self.mirrored.with_label_values(&[if sent { SENT } else { LEFT_OUT }]).inc();
    }

    fn upstream_changed(&self, event: &UpstreamEvent) {
        self.upstreams_changed.with_label_values(&[change_name(event.change)]).inc();
    }
}
