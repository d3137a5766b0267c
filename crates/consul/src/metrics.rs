//! The metrics of the face. Names of services are no labels, so the number of series is fixed.

use http::StatusCode;
use prometheus::core::Collector;
use prometheus::{IntCounter, IntGauge, Opts, Registry};

/// The classes of answers that are counted, with the value of their label.
const CLASSES: [&str; 4] = ["2xx", "4xx", "429", "5xx"];

/// The counters of the face.
#[derive(Clone, Debug)]
pub struct ConsulMetrics {
    answers: [IntCounter; CLASSES.len()],
    blocked: IntGauge,
    /// Instances that were deregistered because a check was critical for too long.
    deregistered: IntCounter,
}

/// A blocking query that waits. It is counted until this is dropped.
pub(crate) struct Blocked(IntGauge);

impl Drop for Blocked {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ConsulMetrics {
    /// Declares them in `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let answer = |class: &str| {
            let opts =
                Opts::new("maxine_consul_answers_total", "Answers in Consul's API by status");
            declared(registry, IntCounter::with_opts(opts.const_label("status", class)))
        };
        let blocked = IntGauge::new(
            "maxine_consul_blocking_queries",
            "Blocking queries of clients of Consul that wait for a change",
        );
        let deregistered = IntCounter::new(
            "maxine_consul_deregistered_critical_total",
            "Instances that this node deregistered because a check was critical for longer than \
             DeregisterCriticalServiceAfter",
        );
        Self {
            answers: CLASSES.map(answer),
            blocked: declared(registry, blocked),
            deregistered: declared(registry, deregistered),
        }
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        let class = match status.as_u16() {
            429 => 2,
            200..=399 => 0,
            400..=499 => 1,
            _ => 3,
        };
        self.answers[class].inc();
    }

    pub(crate) fn blocked(&self) -> Blocked {
        self.blocked.inc();
        Blocked(self.blocked.clone())
    }

    pub(crate) fn deregistered(&self, count: u64) {
        self.deregistered.inc_by(count);
    }
}

fn declared<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("name and label are constants and valid");
    // This happens only with a second face in the same process. Its metrics are not exported.
    if registry.register(Box::new(metric.clone())).is_err() {
        tracing::warn!("the metrics of the Consul face are declared already");
    }
    metric
}
