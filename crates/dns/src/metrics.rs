//! The metrics of the name server. Names that were asked for are no labels, so the number of series is fixed.

use prometheus::{IntCounter, IntGauge, Opts, Registry};

use crate::message::Rcode;

/// The codes that are counted, with the value of their label.
const CODES: [(Rcode, &str); 7] = [
    (Rcode::NoError, "noerror"),
    (Rcode::FormErr, "formerr"),
    (Rcode::ServFail, "servfail"),
    (Rcode::NxDomain, "nxdomain"),
    (Rcode::NotImp, "notimp"),
    (Rcode::Refused, "refused"),
    (Rcode::BadVers, "badvers"),
];

/// The counters of the name server.
#[derive(Clone, Debug)]
pub struct DnsMetrics {
    answers: [IntCounter; CODES.len()],
    /// Answers that did not fit.
    pub(crate) truncated: IntCounter,
    /// Messages without an answer, because they were no questions.
    pub(crate) ignored: IntCounter,
    /// Answers over UDP that were withheld or emptied.
    pub(crate) limited: IntCounter,
    /// Open TCP connections.
    pub(crate) connections: IntGauge,
    /// TCP connections that were refused.
    pub(crate) connections_refused: IntCounter,
}

impl DnsMetrics {
    /// Declares them in `registry`.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let counter = |name: &str, help: &str| counter(registry, Opts::new(name, help));
        let answer = |(_, code): (Rcode, &str)| {
            let opts = Opts::new("maxine_dns_answers_total", "DNS answers by their code");
            self::counter(registry, opts.const_label("code", code))
        };
        let connections = IntGauge::new("maxine_dns_connections", "Open DNS connections over TCP")
            .expect("the name is a constant and valid");
        declare(registry, &connections);
        Self {
            answers: CODES.map(answer),
            truncated: counter(
                "maxine_dns_truncated_total",
                "DNS answers that were cut because they were too long",
            ),
            ignored: counter(
                "maxine_dns_ignored_total",
                "DNS messages that got no answer, because they were answers themselves or had no head",
            ),
            limited: counter(
                "maxine_dns_rate_limited_total",
                "DNS answers over UDP that were withheld or emptied by dns.rate_max_per_s",
            ),
            connections,
            connections_refused: counter(
                "maxine_dns_connections_refused_total",
                "DNS connections over TCP that were refused because too many were open",
            ),
        }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, rcode: Rcode) {
        if let Some(at) = CODES.iter().position(|(code, _)| *code == rcode) {
            self.answers[at].inc();
        }
    }
}

fn counter(registry: &Registry, opts: Opts) -> IntCounter {
    let counter = IntCounter::with_opts(opts).expect("name and label are constants and valid");
    declare(registry, &counter);
    counter
}

fn declare<C: prometheus::core::Collector + Clone + 'static>(registry: &Registry, metric: &C) {
    // This happens only with a second name server in the same process. Its metrics are not exported.
    if registry.register(Box::new(metric.clone())).is_err() {
        tracing::warn!("the metrics of the name server are declared already");
    }
}
