//! Counts requests by service for the metrics. The number of services with series of their own is limited; the requests
//! to all others are counted together.
//!
//! Place in the flow: the writer of the request log passes each finished request in, away from the path of requests.

use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};

use super::requests::{FinishedRequest, Subject};
use maxine_state::{ControlState, ServiceKey};

/// The name of the metric.
const NAME: &str = "maxine_service_requests_total";
/// Its description.
const HELP: &str =
    "Look-ups and forwarded requests by service; failed ones ended with a status of 500 or more";
/// The service of the series that counts all others. It has no namespace, so it differs from a service of this name.
const OTHER: &str = "other";
/// The values of `kind`.
const KINDS: [&str; 2] = ["lookup", "proxied"];
/// The values of `outcome`.
const OUTCOMES: [&str; 2] = ["ok", "failed"];

/// Number of requests by kind and outcome.
type Counts = [[u64; OUTCOMES.len()]; KINDS.len()];

#[derive(Debug, Default)]
struct Counted {
    services: HashMap<ServiceKey, Counts>,
    /// The requests to services without series of their own.
    others: Option<Counts>,
}

/// Counts requests by service. Off until a limit is set.
#[derive(Debug, Default)]
pub(super) struct ServiceSeries {
    services_max: AtomicUsize,
    counted: Mutex<Counted>,
}

impl ServiceSeries {
    /// Sets for how many services there are series. With 0, there are none.
    pub(super) fn limit(&self, services_max: usize) {
        self.services_max.store(services_max, Ordering::Relaxed);
    }

    /// Counts a request, if it is to a registered service.
    pub(super) fn note(&self, request: &FinishedRequest) {
        let services_max = self.services_max.load(Ordering::Relaxed);
        let (kind, service) = match &request.subject {
            Subject::Lookup(Some(service)) => (0, service),
            Subject::Proxied(Some(service)) => (1, service),
            Subject::Lookup(None)
            | Subject::Proxied(None)
            | Subject::Registration
            | Subject::Other => return,
        };
        if services_max == 0 {
            return;
        }
        let mut counted = self.counted.lock();
        let Counted { services, others } = &mut *counted;
        let is_known = services.contains_key(&service.key);
        let counts = match is_known || services.len() < services_max {
            true => services.entry(service.key.clone()).or_default(),
            false => others.get_or_insert_default(),
        };
        counts[kind][usize::from(request.status.is_server_error())] += 1;
    }

    /// The metric; `None` without requests. Services that are not in the state any more lose their series, which makes
    /// room for others.
    pub(super) fn family(&self, state: &ControlState) -> Option<MetricFamily> {
        let mut counted = self.counted.lock();
        counted.services.retain(|key, _| state.service(key).is_some());
        let mut services: Vec<_> = counted.services.iter().collect();
        services.sort_unstable_by_key(|(key, _)| *key);
        let mut metrics = Vec::new();
        for (key, counts) in services {
            push(&mut metrics, (key.namespace.as_str(), key.service.as_str()), counts);
        }
        if let Some(counts) = &counted.others {
            push(&mut metrics, ("", OTHER), counts);
        }
        if metrics.is_empty() {
            return None;
        }
        let mut family = MetricFamily::default();
        family.set_name(NAME.into());
        family.set_help(HELP.into());
        family.set_field_type(MetricType::COUNTER);
        family.set_metric(metrics);
        Some(family)
    }
}

fn push(metrics: &mut Vec<Metric>, (namespace, service): (&str, &str), counts: &Counts) {
    for (kind, by_outcome) in KINDS.iter().zip(counts) {
        for (outcome, number) in OUTCOMES.iter().zip(by_outcome) {
            let labels = [
                ("kind", *kind),
                ("namespace", namespace),
                ("outcome", *outcome),
                ("service", service),
            ];
            let mut metric = Metric::from_label(labels.map(label).into());
            let mut counter = Counter::default();
            // The conversion is exact far beyond any number of requests.
            counter.set_value(*number as f64);
            metric.set_counter(counter);
            metrics.push(metric);
        }
    }
}

fn label((name, value): (&str, &str)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.into());
    pair.set_value(value.into());
    pair
}

#[cfg(test)]
mod tests {
    use maxine_view::ServiceCounter;

    use super::*;
    use crate::samples::{self, key_of, state_with};

    fn request(subject: Subject, status: u16) -> FinishedRequest {
        FinishedRequest { subject, duration_us: 1, ..samples::request(status) }
    }

    /// The series that are not 0, as `namespace/service kind outcome number`.
    fn shown(series: &ServiceSeries, state: &ControlState) -> Vec<String> {
        let Some(family) = series.family(state) else { return Vec::new() };
        let one = |metric: &Metric| {
            let label = |name: &str| {
                let found = metric.get_label().iter().find(|label| label.name() == name);
                found.map_or("", |label| label.value()).to_owned()
            };
            let number = metric.get_counter().get_value();
            (number > 0.0).then(|| {
                let [namespace, service] = ["namespace", "service"].map(label);
                let [kind, outcome] = ["kind", "outcome"].map(label);
                format!("{namespace}/{service} {kind} {outcome} {number}")
            })
        };
        family.get_metric().iter().filter_map(one).collect()
    }

    #[test]
    fn services_beyond_the_limit_are_counted_together_and_gone_ones_make_room() {
        let series = ServiceSeries::default();
        let lookup = |name: &str| Subject::Lookup(Some(ServiceCounter::new(key_of(name))));
        let proxied = |name: &str| Subject::Proxied(Some(ServiceCounter::new(key_of(name))));
        let state = state_with(&["a", "b", "c", "d"]);
        series.note(&request(lookup("a"), 200));
        assert!(shown(&series, &state).is_empty(), "it is off");
        series.limit(2);
        series.note(&request(proxied("b"), 502));
        series.note(&request(lookup("a"), 200));
        series.note(&request(lookup("a"), 302));
        series.note(&request(lookup("c"), 200));
        series.note(&request(proxied("d"), 503));
        series.note(&request(Subject::Proxied(None), 503));
        series.note(&request(Subject::Other, 200));
        let others = ["/other lookup ok 1", "/other proxied failed 1"];
        let own = ["default/a lookup ok 2", "default/b proxied failed 1"];
        assert_eq!(shown(&series, &state), [own, others].concat());
        let state = state_with(&["a", "c", "d"]);
        assert_eq!(shown(&series, &state), [&own[..1], &others[..]].concat());
        series.note(&request(lookup("c"), 200));
        series.note(&request(lookup("d"), 200));
        let own = ["default/a lookup ok 2", "default/c lookup ok 1"];
        let others = ["/other lookup ok 2", "/other proxied failed 1"];
        assert_eq!(shown(&series, &state), [own, others].concat());
    }
}
