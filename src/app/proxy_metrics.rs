//! The proxy's events as Prometheus metrics. Neither services nor instances are labels, so the number of
//! series does not grow with the number of instances.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};

use maxine_gateway::{ProxyMetrics, RequestRecord, UpstreamChange, UpstreamEvent};
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

fn counters(registry: &Registry, name: &str, help: &str, label: &str) -> IntCounterVec {
    let vec = IntCounterVec::new(Opts::new(name, help), &[label])
        .expect("name and label are constants and valid");
    // This happens only with a second proxy in the same process. Its metrics are not exported.
    if registry.register(Box::new(vec.clone())).is_err() {
        tracing::warn!(name, "a metric is registered already");
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
        let counters = |name, help, label| counters(registry, name, help, label);
        let requests: IntCounterVec = counters(
            "maxine_proxy_requests_total",
            "Responses of the proxy, by the first digit of their status",
            "class",
        );
        Self {
            // Looked up once, because every request counts here.
            requests: CLASSES.map(|class| requests.with_label_values(&[class])),
            seconds: CLASSES.map(|class| seconds.with_label_values(&[class])),
            errors: counters(
                "maxine_proxy_errors_total",
                "Requests that the proxy answered itself, by x-maxine-error",
                "code",
            ),
            retries: counters(
                "maxine_proxy_retries_total",
                "Retries, by the reason of the failed attempt",
                "reason",
            ),
            hedges: counters(
                "maxine_proxy_hedges_total",
                "Hedged requests: a second request was sent because the first was slow",
                "kind",
            ),
            mirrored: counters(
                "maxine_proxy_mirrored_total",
                "Requests copied to a mirror, by outcome: sent or dropped",
                "outcome",
            ),
            upstreams_changed: counters(
                "maxine_proxy_standing_changes_total",
                "Changes of circuit breakers (opened, closed) and outliers (ejected, returned)",
                "change",
            ),
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
        self.hedges.with_label_values(&["sent"]).inc();
    }

    fn mirror(&self, _: &ServiceKey, sent: bool) {
        self.mirrored.with_label_values(&[if sent { "sent" } else { "left_out" }]).inc();
    }

    fn upstream_changed(&self, event: &UpstreamEvent) {
        let change = match event.change {
            UpstreamChange::BreakerOpened => "breaker_opened",
            UpstreamChange::BreakerHalfOpen => "breaker_half_open",
            UpstreamChange::BreakerClosed => "breaker_closed",
            UpstreamChange::Ejected => "ejected",
            UpstreamChange::Returned => "returned",
        };
        self.upstreams_changed.with_label_values(&[change]).inc();
    }
}
