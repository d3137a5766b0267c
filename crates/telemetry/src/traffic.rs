//! Counts recent traffic in steps of a few seconds, for the node and for each requested service, so that a
//! dashboard that is opened now also shows the past.
//!
//! Place in the flow: the writer of the request log passes each finished request in, outside the hot path. It
//! is limited to an hour for the node, a quarter of an hour for a service, a day in longer steps, and the services
//! that were requested most recently. It only has services that are registered.

use std::collections::VecDeque;

use hashbrown::HashMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::requests::{FinishedRequest, Subject};
use maxine_state::{ControlState, ServiceKey};

/// Length of one step of recent traffic, in milliseconds.
const STEP_MS: u64 = 5_000;
/// What is kept of the node: an hour, and a day in steps of a minute.
const NODE: TrafficExtents = TrafficExtents {
    recent: TrafficExtent { step_ms: STEP_MS, steps_max: 720 },
    day: TrafficExtent { step_ms: 60_000, steps_max: 1_440 },
};
/// The traffic that is kept of a service: the last 15 minutes, and the last day in steps of ten minutes.
const SERVICE: TrafficExtents = TrafficExtents {
    recent: TrafficExtent { step_ms: STEP_MS, steps_max: 180 },
    day: TrafficExtent { step_ms: 600_000, steps_max: 144 },
};
/// Maximum number of services. A further one replaces the one that was requested longest ago. If all of them
/// were requested in the present step, it has to wait for the next step.
const SERVICES_MAX: usize = 500;
/// Number of latency classes. Class `n` counts requests that took less than `64 << n` microseconds; the last
/// class counts all longer ones.
const CLASSES: usize = 22;

/// Which steps are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrafficRange {
    /// Short steps: an hour of the node, or a quarter of an hour of a service.
    #[default]
    Recent,
    /// A day in longer steps.
    Day,
}

/// The length of steps, and how many with traffic are kept. Steps without traffic are not stored, so the kept ones may
/// reach back further than they are long together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrafficExtent {
    /// Length of a step, in milliseconds.
    pub step_ms: u64,
    /// Maximum number of steps.
    steps_max: usize,
}

impl TrafficExtent {
    /// The extent of the steps of `range`: those of a service, or of the node.
    #[must_use]
    pub fn of(range: TrafficRange, is_service: bool) -> Self {
        if is_service { SERVICE.of(range) } else { NODE.of(range) }
    }

    /// The length of all steps together, in milliseconds. All steps of this time are kept.
    #[must_use]
    pub fn span_ms(self) -> u64 {
        self.step_ms * self.steps_max as u64
    }
}

/// The extent of each range.
#[derive(Clone, Copy, Debug)]
struct TrafficExtents {
    recent: TrafficExtent,
    day: TrafficExtent,
}

impl TrafficExtents {
    fn of(self, range: TrafficRange) -> TrafficExtent {
        match range {
            TrafficRange::Recent => self.recent,
            TrafficRange::Day => self.day,
        }
    }
}

/// The traffic in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct TrafficStep {
    /// When the step began, in milliseconds since 1970. It lasts `step_ms`.
    pub at_ms: u64,
    /// Requests of all kinds.
    pub requests: u64,
    /// Callers' look-ups: redirects and resolves.
    pub lookups: u64,
    /// Callers' requests that were forwarded.
    pub proxied: u64,
    /// Number of look-ups and forwarded requests that ended with a status of 500 or more.
    pub failed: u64,
    /// Number of forwarded requests that ended with a status of 500 or more.
    pub proxied_failed: u64,
    /// Registrations and heartbeats. A batch counts as one.
    pub registrations: u64,
    /// p50 of the duration of look-ups and forwarded requests, in microseconds, rounded up to a power of two;
    /// null if there were none.
    pub p50_us: Option<u64>,
    /// p95 of the same durations.
    pub p95_us: Option<u64>,
    /// p99 of the same durations.
    pub p99_us: Option<u64>,
}

/// A step that is being counted.
#[derive(Clone, Debug, Default)]
struct Step {
    counts: TrafficStep,
    took: Classes,
    /// The same of forwarded requests alone, because look-ups take no time in comparison.
    proxied_took: Classes,
}

/// Number of requests in each class of latency.
type Classes = [u32; CLASSES];

impl Step {
    fn count(&mut self, request: &FinishedRequest) {
        self.counts.requests += 1;
        match request.subject {
            Subject::Lookup(_) => self.counts.lookups += 1,
            Subject::Proxied(_) => self.counts.proxied += 1,
            Subject::Registration => self.counts.registrations += 1,
            Subject::Other => {}
        }
        if matches!(request.subject, Subject::Lookup(_) | Subject::Proxied(_)) {
            let failed = u64::from(request.status.is_server_error());
            let bits = (request.duration_us / 64).checked_ilog2().map_or(0, |log| log as usize + 1);
            let class = bits.min(CLASSES - 1);
            self.counts.failed += failed;
            self.took[class] = self.took[class].saturating_add(1);
            if matches!(request.subject, Subject::Proxied(_)) {
                self.counts.proxied_failed += failed;
                self.proxied_took[class] = self.proxied_took[class].saturating_add(1);
            }
        }
    }

    fn add(&mut self, other: &Self) {
        let (sum, more) = (&mut self.counts, &other.counts);
        sum.requests += more.requests;
        sum.lookups += more.lookups;
        sum.proxied += more.proxied;
        sum.failed += more.failed;
        sum.proxied_failed += more.proxied_failed;
        sum.registrations += more.registrations;
        add_classes(&mut self.took, &other.took);
        add_classes(&mut self.proxied_took, &other.proxied_took);
    }

    fn calls(&self) -> ServiceCalls {
        let Self { counts, proxied_took, .. } = self;
        ServiceCalls {
            lookups: counts.lookups,
            lookups_failed: counts.failed - counts.proxied_failed,
            proxied: counts.proxied,
            proxied_failed: counts.proxied_failed,
            classes: proxied_took.to_vec(),
        }
    }

    fn finished(&self) -> TrafficStep {
        let mut step = self.counts.clone();
        [step.p50_us, step.p95_us, step.p99_us] = [50, 95, 99].map(|n| quantile(&self.took, n));
        step
    }
}

fn add_classes(sum: &mut Classes, more: &Classes) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

fn quantile(classes: &Classes, percent: u64) -> Option<u64> {
    let all: u64 = classes.iter().map(|n| u64::from(*n)).sum();
    let rank = (all * percent).div_ceil(100);
    let mut below = 0;
    classes
        .iter()
        .position(|n| {
            below += u64::from(*n);
            below >= rank && below > 0
        })
        .map(|class| 64 << class)
}

/// The calls within some time, to one service or to all. The sums of several nodes can be added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCalls {
    /// Callers' look-ups.
    pub lookups: u64,
    /// Look-ups that ended with a status of 500 or more.
    pub lookups_failed: u64,
    /// Callers' requests that were forwarded.
    pub proxied: u64,
    /// Forwarded requests that ended with a status of 500 or more.
    pub proxied_failed: u64,
    /// Number of forwarded requests by latency: entry `n` counts those that took less than `64 << n` microseconds.
    pub classes: Vec<u32>,
}

impl ServiceCalls {
    /// Adds the calls that another node counted. Classes beyond this node's count as the last one.
    pub fn add(&mut self, other: &Self) {
        self.lookups = self.lookups.saturating_add(other.lookups);
        self.lookups_failed = self.lookups_failed.saturating_add(other.lookups_failed);
        self.proxied = self.proxied.saturating_add(other.proxied);
        self.proxied_failed = self.proxied_failed.saturating_add(other.proxied_failed);
        self.classes.resize(CLASSES, 0);
        for (class, more) in other.classes.iter().enumerate() {
            let sum = &mut self.classes[class.min(CLASSES - 1)];
            *sum = sum.saturating_add(*more);
        }
    }

    /// The duration within which `percent` of 100 forwarded requests were answered, in microseconds, rounded up to a
    /// power of two; `None` if there were none.
    #[must_use]
    pub fn quantile_us(&self, percent: u64) -> Option<u64> {
        let mut classes = [0; CLASSES];
        for (class, n) in classes.iter_mut().zip(&self.classes) {
            *class = *n;
        }
        quantile(&classes, percent)
    }
}

/// The traffic in one step, as it can be added to that of other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// When the step began, in milliseconds since 1970.
    pub at_ms: u64,
    /// Requests of all kinds.
    pub requests: u64,
    /// Registrations and heartbeats. A batch counts as one.
    pub registrations: u64,
    /// Callers' look-ups and forwarded requests.
    pub calls: ServiceCalls,
}

impl StepCounts {
    /// Adds what another node counted in the same step.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.registrations = self.registrations.saturating_add(other.registrations);
        self.calls.add(&other.calls);
    }
}

/// The newest steps, oldest first. Steps without a request are left out.
#[derive(Debug, Default)]
struct Steps(VecDeque<Step>);

impl Steps {
    fn at(
        &mut self,
        ended_ms: u64,
        TrafficExtent { step_ms, steps_max }: TrafficExtent,
    ) -> &mut Step {
        let at_ms = ended_ms / step_ms * step_ms;
        // Requests arrive approximately in the order in which they ended.
        let position = self.0.iter().rposition(|step| step.counts.at_ms <= at_ms);
        let found = position.filter(|position| self.0[*position].counts.at_ms == at_ms);
        let mut position = found.unwrap_or_else(|| {
            let position = position.map_or(0, |position| position + 1);
            let counts = TrafficStep { at_ms, ..TrafficStep::default() };
            self.0.insert(position, Step { counts, ..Step::default() });
            position
        });
        if self.0.len() > steps_max {
            self.0.pop_front();
            position = position.saturating_sub(1);
        }
        &mut self.0[position]
    }

    /// When the newest step began.
    fn last_ms(&self) -> u64 {
        self.0.back().map_or(0, |step| step.counts.at_ms)
    }

    fn since(&self, since_ms: u64) -> TrafficSum {
        let steps = || self.0.iter().filter(|step| step.counts.at_ms >= since_ms);
        let mut total = self.sum_since(since_ms);
        total.counts.at_ms = steps().next().map_or(since_ms, |step| step.counts.at_ms);
        TrafficSum { total: total.finished(), steps: steps().map(Step::finished).collect() }
    }

    fn counts_since(&self, since_ms: u64) -> Vec<StepCounts> {
        let steps = self.0.iter().filter(|step| step.counts.at_ms >= since_ms);
        let counts = steps.map(|step| StepCounts {
            at_ms: step.counts.at_ms,
            requests: step.counts.requests,
            registrations: step.counts.registrations,
            calls: step.calls(),
        });
        counts.collect()
    }

    fn sum_since(&self, since_ms: u64) -> Step {
        let mut total = Step::default();
        self.0.iter().filter(|step| step.counts.at_ms >= since_ms).for_each(|step| total.add(step));
        total
    }
}

/// Steps and their sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficSum {
    /// The steps, oldest first.
    pub steps: Vec<TrafficStep>,
    /// The sum of the steps.
    pub total: TrafficStep,
}

/// The same requests in short and in long steps.
#[derive(Debug, Default)]
struct Kept {
    recent: Steps,
    day: Steps,
}

impl Kept {
    fn count(&mut self, request: &FinishedRequest, ended_ms: u64, extents: TrafficExtents) {
        self.recent.at(ended_ms, extents.recent).count(request);
        self.day.at(ended_ms, extents.day).count(request);
    }

    fn of(&self, range: TrafficRange) -> &Steps {
        match range {
            TrafficRange::Recent => &self.recent,
            TrafficRange::Day => &self.day,
        }
    }

    /// When the newest short step began.
    fn last_ms(&self) -> u64 {
        self.recent.last_ms()
    }
}

#[derive(Debug, Default)]
struct Inner {
    node: Kept,
    services: HashMap<ServiceKey, Kept>,
    /// Services that can be replaced in the step `looked_at_ms`. The one that was requested longest ago is last. The
    /// list is made once a step, so that a node with many busy services does not search all the time.
    idle: Vec<ServiceKey>,
    looked_at_ms: Option<u64>,
}

impl Inner {
    /// Whether no service can be replaced in this step.
    fn is_full(&self, at_ms: u64) -> bool {
        let looked = self.looked_at_ms == Some(at_ms);
        looked && self.idle.is_empty() && self.services.len() >= SERVICES_MAX
    }

    /// Makes room for one more service; `false` if that is not possible.
    fn make_room(&mut self, at_ms: u64) -> bool {
        if self.services.len() < SERVICES_MAX {
            return true;
        }
        if self.looked_at_ms != Some(at_ms) {
            self.looked_at_ms = Some(at_ms);
            let mut idle: Vec<(u64, &ServiceKey)> = self
                .services
                .iter()
                .map(|(key, kept)| (kept.last_ms(), key))
                .filter(|(last_ms, _)| *last_ms < at_ms)
                .collect();
            idle.sort_unstable_by(|a, b| b.cmp(a));
            self.idle = idle.into_iter().map(|(_, key)| key.clone()).collect();
        }
        while let Some(key) = self.idle.pop() {
            // It may have been requested since the list was made.
            if self.services.get(&key).is_some_and(|kept| kept.last_ms() < at_ms) {
                self.services.remove(&key);
                return true;
            }
        }
        false
    }
}

/// The recent traffic of this node.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<Inner>);

impl Traffic {
    /// Counts a request that ended at `ended_ms`. `state` says which services exist.
    pub(super) fn note(&self, request: &FinishedRequest, ended_ms: u64, state: &ControlState) {
        let at_ms = ended_ms / STEP_MS * STEP_MS;
        let mut inner = self.0.lock();
        inner.node.count(request, ended_ms, NODE);
        let (Subject::Lookup(Some(service)) | Subject::Proxied(Some(service))) = &request.subject
        else {
            return;
        };
        let key = &service.key;
        // The look-up in the state comes last, because it takes most of the time if there are many services.
        if let Some(kept) = inner.services.get_mut(key) {
            if kept.last_ms() == at_ms || state.service(key).is_some() {
                kept.count(request, ended_ms, SERVICE);
            }
            return;
        }
        if inner.is_full(at_ms) {
            return;
        }
        if state.service(key).is_some() && inner.make_room(at_ms) {
            inner.services.entry(key.clone()).or_default().count(request, ended_ms, SERVICE);
        }
    }

    /// The node's steps since `since_ms`.
    #[must_use]
    pub fn of_node(&self, range: TrafficRange, since_ms: u64) -> TrafficSum {
        self.0.lock().node.of(range).since(since_ms)
    }

    /// A service's steps since `since_ms`; none if it was not requested recently.
    #[must_use]
    pub fn of_service(&self, key: &ServiceKey, range: TrafficRange, since_ms: u64) -> TrafficSum {
        let inner = self.0.lock();
        inner.services.get(key).map(|kept| kept.of(range).since(since_ms)).unwrap_or_default()
    }

    /// The steps since `since_ms` of a service, or of the node if `key` is `None`, as they can be added to those of
    /// other nodes.
    #[must_use]
    pub fn counts(
        &self,
        key: Option<&ServiceKey>,
        range: TrafficRange,
        since_ms: u64,
    ) -> Vec<StepCounts> {
        let inner = self.0.lock();
        let kept = match key {
            Some(key) => inner.services.get(key),
            None => Some(&inner.node),
        };
        kept.map(|kept| kept.of(range).counts_since(since_ms)).unwrap_or_default()
    }

    /// The calls since `since_ms` to each service that had any, in the order of their names.
    #[must_use]
    pub fn of_services(&self, since_ms: u64) -> Vec<(ServiceKey, ServiceCalls)> {
        let inner = self.0.lock();
        let recent = inner.services.iter().filter(|(_, kept)| kept.last_ms() >= since_ms);
        let mut calls: Vec<_> = recent
            .map(|(key, kept)| (key.clone(), kept.recent.sum_since(since_ms).calls()))
            .collect();
        drop(inner);
        calls.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        calls
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use maxine_view::ServiceCounter;

    use super::TrafficRange::{Day, Recent};
    use super::*;
    use crate::samples::{self, key_of, state_with};

    fn request(subject: Subject, status: u16, duration_us: u64) -> FinishedRequest {
        FinishedRequest { subject, duration_us, ..samples::request(status) }
    }

    fn counter(name: &str) -> Option<Arc<ServiceCounter>> {
        Some(ServiceCounter::new(key_of(name)))
    }

    #[test]
    fn requests_are_counted_by_kind_step_and_service() {
        let state = state_with(&["orders"]);
        let traffic = Traffic::default();
        let note = |subject, status, us, at_ms| {
            traffic.note(&request(subject, status, us), at_ms, &state);
        };
        note(Subject::Proxied(counter("orders")), 200, 900, 10_000);
        note(Subject::Proxied(counter("orders")), 502, 90_000, 14_999);
        note(Subject::Lookup(counter("orders")), 200, 10, 15_000);
        note(Subject::Lookup(counter("orders")), 302, 10, 12_000);
        note(Subject::Proxied(None), 503, 10, 15_001);
        note(Subject::Registration, 200, 10, 15_002);
        note(Subject::Other, 200, 10, 15_003);
        let node = traffic.of_node(Recent, 0).steps;
        let counts = |s: &TrafficStep| {
            (s.at_ms, s.requests, s.lookups, s.proxied, s.failed, s.registrations)
        };
        let counted: Vec<_> = node.iter().map(counts).collect();
        assert_eq!(counted, [(10_000, 3, 1, 2, 1, 0), (15_000, 4, 1, 1, 1, 1)]);
        let orders = traffic.of_service(&key_of("orders"), Recent, 0).steps;
        let counted: Vec<_> = orders.iter().map(counts).collect();
        assert_eq!(counted, [(10_000, 3, 1, 2, 1, 0), (15_000, 1, 1, 0, 0, 0)]);
        let total = traffic.of_node(Recent, 0).total;
        assert_eq!(counts(&total), (10_000, 7, 2, 3, 2, 1));
        assert_eq!((total.p50_us, total.p99_us), (Some(64), Some(131_072)));
        assert_eq!((orders[0].p50_us, orders[0].p99_us), (Some(1_024), Some(131_072)));
        assert_eq!(traffic.of_service(&key_of("orders"), Recent, 15_000).steps.len(), 1);
        assert_eq!(traffic.of_node(Recent, 0).total.proxied_failed, 2);
        let [(key, calls)] = &traffic.of_services(0)[..] else { panic!("one service was called") };
        assert_eq!(*key, key_of("orders"));
        assert_eq!((calls.lookups, calls.lookups_failed), (2, 0));
        assert_eq!((calls.proxied, calls.proxied_failed), (2, 1));
        // Look-ups have no part in the latency.
        assert_eq!((calls.quantile_us(50), calls.quantile_us(99)), (Some(1_024), Some(131_072)));
        let mut both = calls.clone();
        both.add(calls);
        assert_eq!((both.lookups, both.proxied_failed, both.quantile_us(50)), (4, 2, Some(1_024)));
        let [first, second] = &traffic.counts(None, Recent, 0)[..] else { panic!("two steps") };
        assert_eq!((first.at_ms, first.requests, first.registrations), (10_000, 3, 0));
        assert_eq!(
            (first.calls.lookups, first.calls.proxied, first.calls.proxied_failed),
            (1, 2, 1)
        );
        assert_eq!((second.calls.lookups_failed, second.calls.proxied_failed), (0, 1));
        let mut sum = first.clone();
        sum.add(second);
        assert_eq!((sum.at_ms, sum.requests, sum.registrations), (10_000, 7, 1));
        assert_eq!((sum.calls.proxied, sum.calls.quantile_us(99)), (3, Some(131_072)));
        let orders = traffic.counts(Some(&key_of("orders")), Recent, 15_000);
        assert_eq!(orders.iter().map(|step| step.calls.lookups).collect::<Vec<_>>(), [1]);
        assert!(traffic.counts(Some(&key_of("nobody")), Recent, 0).is_empty());
        assert_eq!(traffic.of_services(15_000)[0].1.proxied, 0);
        assert!(traffic.of_services(20_000).is_empty());
        assert!(traffic.of_service(&key_of("nobody"), Recent, 0).steps.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let names: Vec<String> = (0..SERVICES_MAX + 5).map(|n| format!("s{n}")).collect();
        let state = state_with(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let traffic = Traffic::default();
        for (n, name) in names.iter().enumerate() {
            traffic.note(
                &request(Subject::Lookup(counter(name)), 200, 1),
                n as u64 * STEP_MS,
                &state,
            );
        }
        assert!(traffic.of_service(&key_of("s4"), Recent, 0).steps.is_empty());
        assert_eq!(traffic.of_service(&key_of("s5"), Recent, 0).steps.len(), 1);
        // If all services are requested in one step, a further one has to wait.
        let busy = names.len() as u64 * STEP_MS;
        for name in &names {
            traffic.note(&request(Subject::Lookup(counter(name)), 200, 1), busy, &state);
        }
        let followed = |name: &str, since_ms| {
            !traffic.of_service(&key_of(name), Recent, since_ms).steps.is_empty()
        };
        let counted = names.iter().filter(|name| followed(name, busy)).count();
        assert_eq!(counted, SERVICES_MAX);
        let last = Subject::Lookup(counter(&names[names.len() - 1]));
        traffic.note(&request(last, 200, 1), busy + STEP_MS, &state);
        assert!(followed(&names[names.len() - 1], busy + STEP_MS));
        for step in 0..2_000 {
            let call = request(Subject::Lookup(counter("s5")), 200, u64::MAX);
            traffic.note(&call, step * STEP_MS, &state);
        }
        assert_eq!(traffic.of_node(Recent, 0).steps.len(), NODE.recent.steps_max);
        let s5 = traffic.of_service(&key_of("s5"), Recent, 0);
        assert_eq!(s5.steps.len(), SERVICE.recent.steps_max);
        for minute in 0..2_000 {
            let call = request(Subject::Lookup(counter("s5")), 200, 1);
            traffic.note(&call, minute * 60_000, &state);
        }
        assert_eq!(traffic.of_node(Day, 0).steps.len(), NODE.day.steps_max);
        assert_eq!(traffic.of_service(&key_of("s5"), Day, 0).steps.len(), SERVICE.day.steps_max);
    }

    #[test]
    fn a_day_is_kept_in_longer_steps_with_the_same_sum() {
        const HOUR_MS: u64 = 3_600_000;
        let state = state_with(&["orders"]);
        let traffic = Traffic::default();
        // A call every 30 s for a day; those of the fourth hour fail.
        for at_ms in (0..24 * HOUR_MS).step_by(30_000) {
            let status = if at_ms / HOUR_MS == 3 { 502 } else { 200 };
            traffic.note(&request(Subject::Proxied(counter("orders")), status, 900), at_ms, &state);
        }
        let orders = key_of("orders");
        for (extent, sum) in [
            (TrafficExtent::of(Day, false), traffic.of_node(Day, 0)),
            (TrafficExtent::of(Day, true), traffic.of_service(&orders, Day, 0)),
        ] {
            assert_eq!(extent.span_ms(), 24 * HOUR_MS);
            let steps_of = |hours: u64| hours * HOUR_MS / extent.step_ms;
            assert_eq!(sum.steps.len() as u64, steps_of(24));
            assert_eq!((sum.total.proxied, sum.total.failed), (24 * 120, 120));
            let mut expected = (0..).map(|n| n * extent.step_ms);
            assert!(sum.steps.iter().all(|step| Some(step.at_ms) == expected.next()));
            let failed = sum.steps.iter().filter(|step| step.failed > 0);
            assert!(failed.clone().all(|step| step.failed == step.proxied));
            assert_eq!(failed.count() as u64, steps_of(1));
            assert!(sum.steps.iter().all(|step| step.p95_us == Some(1_024)));
        }
        // Of the recent traffic, there is less.
        let recent = traffic.of_service(&orders, Recent, 0);
        assert!(recent.steps.len() < 24 * 120);
        assert_eq!(traffic.of_service(&orders, Day, 23 * HOUR_MS).total.proxied, 120);
    }
}
