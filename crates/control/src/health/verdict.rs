//! The leader's verdicts: whether enough observers agree, and whether a change is delayed because the
//! instance flaps.
//!
//! Reports are kept in the leader's memory only. Observers repeat their reports, so a new leader has all of
//! them after one round.

use std::collections::{BTreeMap, HashMap};

use bincode::{Decode, Encode};

use super::track::ProbeStatus;
use crate::faults::{self, Fault};
use maxine_state::{
    ControlState, Fence, Health, HealthPolicy, HealthReport, InstanceKey, Liveness, Readiness,
    ServiceState,
};

/// How long a report counts if it is not repeated, in milliseconds.
const REPORT_MS: u64 = 30_000;
/// Interval between two decisions if there are no new reports, in milliseconds.
const REVIEW_MS: u64 = 500;
/// How much one change of a verdict adds to the flap score.
const FLAP_STEP: u32 = 1_000;
/// Maximum number of instances with reports.
const INSTANCES_MAX: usize = 1_000_000;

/// Maximum number of verdicts in one proposal.
const VERDICTS_MAX: usize = 500;

/// What one node observes of one instance now.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Observation {
    /// The instance.
    pub key: InstanceKey,
    /// The [`maxine_state::Instance::address_index`] that was observed.
    pub address_index: u64,
    /// The settled status on that node; `None` before enough results in a row.
    pub status: Option<ProbeStatus>,
    /// Whether it comes from requests of the proxy, and not from a probe.
    pub passive: bool,
    /// The last result.
    pub last: LastResult,
}

/// The last result that one node has of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct LastResult {
    /// When the probe ended by the clock of the observing node, in milliseconds since 1970. For the proxy, when it
    /// ejected the instance or admitted it again.
    pub at_ms: u64,
    /// Whether the instance passed.
    pub ok: bool,
    /// The result, in one line.
    pub detail: String,
}

#[derive(Clone, Debug)]
struct Report {
    status: Option<ProbeStatus>,
    last: LastResult,
    /// When the leader received it, in milliseconds on the monotonic clock.
    received_ms: u64,
}

#[derive(Debug, Default)]
struct Heard {
    address_index: u64,
    probes: BTreeMap<String, Report>,
    passive: BTreeMap<String, Report>,
}

/// The last report of one observer about an instance, as the leader received it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ObserverReport {
    /// The name of the observing node.
    pub observer: String,
    /// Whether it comes from requests of the proxy, and not from a probe.
    pub passive: bool,
    /// The address that it is about: the index of the registration that set it.
    pub address_index: u64,
    /// The last result that the observer reported.
    pub last: LastResult,
}

/// What a decision depends on, apart from the reports.
#[derive(Clone, Copy, Debug)]
pub struct VerdictContext<'a> {
    /// The published state.
    pub state: &'a ControlState,
    /// The number of live nodes.
    pub live_nodes: usize,
    /// Number of observers that must agree if the policy does not set it.
    pub observers: u32,
    /// The monotonic clock, in milliseconds.
    pub now_ms: u64,
    /// The wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
}

/// The recent reports of all observers.
#[derive(Debug, Default)]
pub struct Verdicts {
    heard: HashMap<InstanceKey, Heard>,
    /// Whether a report arrived since the last decision.
    news: bool,
    decided_at_ms: u64,
    /// The grant under which this node collects reports, and since when; `None` if it does not lead.
    listening: Option<(Fence, u64)>,
    /// Whether verdicts were proposed and the proposal has not ended.
    is_proposing: bool,
}

impl Verdicts {
    /// Verdicts without any report.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the grant under which this node has the leader's duties. With `None`, all reports are dropped.
    pub fn set_duties(&mut self, fence: Option<Fence>, now_ms: u64) {
        match fence {
            None => *self = Self { is_proposing: self.is_proposing, ..Self::default() },
            Some(fence) if self.listening.is_none_or(|(listening, _)| listening != fence) => {
                self.listening = Some((fence, now_ms));
            }
            Some(_) => {}
        }
    }

    /// Whether it is time to decide. That is so if no proposal is in flight, and either a report arrived or
    /// enough time has passed for reports and scores to age.
    #[must_use]
    pub fn is_due(&self, now_ms: u64) -> bool {
        !self.is_proposing && (self.news || now_ms.saturating_sub(self.decided_at_ms) >= REVIEW_MS)
    }

    /// Ends the proposal of the last decision.
    pub fn proposed(&mut self) {
        self.is_proposing = false;
    }

    /// Records what an observer sees now.
    pub fn hear(&mut self, observer: &str, observation: Observation, now_ms: u64) {
        if self.heard.len() >= INSTANCES_MAX && !self.heard.contains_key(&observation.key) {
            return;
        }
        let heard = self.heard.entry(observation.key).or_default();
        if observation.address_index < heard.address_index {
            return;
        }
        if observation.address_index > heard.address_index {
            *heard = Heard { address_index: observation.address_index, ..Heard::default() };
        }
        let reports = if observation.passive { &mut heard.passive } else { &mut heard.probes };
        let Observation { status, last, .. } = observation;
        let report = Report { status, last, received_ms: now_ms };
        let before = reports.insert(observer.into(), report).and_then(|report| report.status);
        self.news |= before != status;
    }

    /// The last report of each observer about an instance. Reports that are too old to count are left out.
    #[must_use]
    pub fn reports(&self, key: &InstanceKey, now_ms: u64) -> Vec<ObserverReport> {
        let Some(heard) = self.heard.get(key) else { return Vec::new() };
        let of = |reports: &BTreeMap<String, Report>, passive: bool| -> Vec<ObserverReport> {
            let counts = |report: &Report| now_ms.saturating_sub(report.received_ms) <= REPORT_MS;
            let said = reports.iter().filter(|(_, report)| counts(report));
            said.map(|(observer, report)| ObserverReport {
                observer: observer.clone(),
                passive,
                address_index: heard.address_index,
                last: report.last.clone(),
            })
            .collect()
        };
        [of(&heard.probes, false), of(&heard.passive, true)].concat()
    }

    /// The verdicts to propose now, at most as many as fit into one proposal. If there are any, nothing more
    /// is due until [`Self::proposed`]. A verdict that the published state does not show by then is decided
    /// again. Empty on a node that does not have the leader's duties.
    ///
    /// The instances in `unprobed` have a bad verdict and no probe. Such a verdict is withdrawn once no
    /// report about the instance counts any more, because no probe could ever change it.
    pub fn decide<'k>(
        &mut self,
        context: &VerdictContext<'_>,
        unprobed: impl IntoIterator<Item = &'k InstanceKey>,
    ) -> Vec<HealthReport> {
        let Some((_, since_ms)) = self.listening else { return Vec::new() };
        let mut reports = Vec::new();
        (self.news, self.decided_at_ms) = (false, context.now_ms);
        self.heard.retain(|key, heard| {
            for reports in [&mut heard.probes, &mut heard.passive] {
                reports.retain(|_, report| {
                    context.now_ms.saturating_sub(report.received_ms) <= REPORT_MS
                });
            }
            let service = context.state.service(&key.service);
            let instance = service.and_then(|service| service.instances.get(&key.instance));
            let Some(instance) = instance.filter(|i| i.address_index <= heard.address_index) else {
                return false;
            };
            if instance.address_index == heard.address_index {
                let policy = service.and_then(|service| policy_of(service));
                let present = instance.health();
                if let Some(health) = judge(heard, present, policy, context) {
                    reports.push(HealthReport {
                        key: key.clone(),
                        address_index: heard.address_index,
                        health,
                    });
                }
            }
            !(heard.probes.is_empty() && heard.passive.is_empty())
        });
        // Earlier, an observer may not have repeated its report to this leader yet.
        if context.now_ms.saturating_sub(since_ms) > REPORT_MS {
            let silent = unprobed.into_iter().filter(|key| !self.heard.contains_key(*key));
            reports.extend(silent.filter_map(|key| take_back(key, context)));
        }
        reports.sort_by(|a, b| a.key.cmp(&b.key));
        reports.truncate(VERDICTS_MAX);
        self.is_proposing = !reports.is_empty();
        reports
    }
}

/// Withdraws a bad verdict that no observer supports.
fn take_back(key: &InstanceKey, context: &VerdictContext<'_>) -> Option<HealthReport> {
    let service = context.state.service(&key.service)?;
    let instance = service.instances.get(&key.instance)?;
    if instance.health().is_routable() {
        return None;
    }
    let health = Health {
        reason: "no node had probed it for a while, so its last verdict no longer counts".into(),
        since_ms: context.wall_ms,
        flap_score: flap_score(instance.health(), policy_of(service), context.wall_ms),
        ..Health::default()
    };
    let address_index = instance.address_index;
    Some(HealthReport { key: key.clone(), address_index, health })
}

/// The new verdict, if it differs from the present one.
fn judge(
    heard: &Heard,
    present: &Health,
    policy: Option<HealthPolicy>,
    context: &VerdictContext<'_>,
) -> Option<Health> {
    let settings = policy.unwrap_or_default();
    let observers = policy.map_or(context.observers, |policy| policy.observers) as usize;
    let observers = if faults::is_on(Fault::OneObserverDecides) { 1 } else { observers };
    let settled = heard.probes.values().filter_map(|report| report.status);
    let settled: Vec<ProbeStatus> = settled.collect();
    let needed = observers.min(context.live_nodes.max(settled.len())).max(1);
    let agreed = [ProbeStatus::Dead, ProbeStatus::NotReady, ProbeStatus::Good]
        .into_iter()
        .find(|status| count(&heard.probes, *status) >= needed)
        .or_else(|| {
            // If some observers report it dead and others not ready, all of them agree that it is not ready.
            let bad = settled.iter().filter(|status| **status != ProbeStatus::Good).count();
            (bad >= needed).then_some(ProbeStatus::NotReady)
        });
    let held = settings.passive_observers > 0
        && count(&heard.passive, ProbeStatus::NotReady) >= settings.passive_observers as usize;
    let (liveness, readiness) = match agreed {
        Some(ProbeStatus::Dead) => (Liveness::Evicted, Readiness::NotReady),
        Some(ProbeStatus::NotReady) => (Liveness::Alive, Readiness::NotReady),
        Some(ProbeStatus::Good) if held => (Liveness::Alive, Readiness::NotReady),
        Some(ProbeStatus::Good) => (Liveness::Alive, Readiness::Ready),
        None if held => (present.liveness, Readiness::NotReady),
        // Only the proxy has reported, and it withdraws its report.
        None if settled.is_empty() && !heard.passive.is_empty() => {
            (present.liveness, Readiness::Ready)
        }
        None => return None,
    };
    let known = (present.liveness, present.readiness);
    let neutral = known == (Liveness::Alive, Readiness::Unknown);
    // The first good report about a new instance changes nothing that needs a log entry.
    if known == (liveness, readiness) || neutral && readiness == Readiness::Ready {
        return None;
    }
    let score = flap_score(present, policy, context.wall_ms);
    let recovers = readiness == Readiness::Ready;
    if recovers && settings.flap_score_max > 0 && score >= settings.flap_score_max {
        return None;
    }
    let source = if agreed.is_none() || agreed == Some(ProbeStatus::Good) && held {
        &heard.passive
    } else {
        &heard.probes
    };
    Some(Health {
        readiness,
        liveness,
        reason: reason(source, recovers).into(),
        since_ms: context.wall_ms,
        flap_score: score.saturating_add(FLAP_STEP),
    })
}

fn count(reports: &BTreeMap<String, Report>, status: ProbeStatus) -> usize {
    reports.values().filter(|report| report.status == Some(status)).count()
}

fn policy_of(service: &ServiceState) -> Option<HealthPolicy> {
    service.policy.as_ref().and_then(|record| record.policy.health)
}

/// The flap score at `wall_ms`, in milliseconds since 1970: the score right after the last change, decayed since then.
#[must_use]
pub fn flap_score(health: &Health, policy: Option<HealthPolicy>, wall_ms: u64) -> u32 {
    let half_life_ms = policy.unwrap_or_default().flap_half_life_ms;
    let age_ms = wall_ms.saturating_sub(health.since_ms);
    let halvings = age_ms as f64 / half_life_ms.max(1) as f64;
    let left = f64::from(health.flap_score) * 0.5_f64.powf(halvings);
    // The result is at most the old score, so it fits.
    left as u32
}

fn reason(reports: &BTreeMap<String, Report>, good: bool) -> String {
    let matching = reports.iter().filter(|(_, report)| {
        report.status.is_some_and(|status| (status == ProbeStatus::Good) == good)
    });
    let mut text = String::new();
    for (observer, report) in matching.take(3) {
        if !text.is_empty() {
            text.push_str("; ");
        }
        let detail: String = report.last.detail.chars().take(200).collect();
        text.push_str(&format!("{detail} (seen by {observer})"));
    }
    text
}

/// How long the flap score of an instance that gets no traffic still delays its recovery, in milliseconds; `None` if it
/// does not.
#[must_use]
pub fn flap_delay_ms(health: &Health, policy: Option<HealthPolicy>, wall_ms: u64) -> Option<u64> {
    let settings = policy.unwrap_or_default();
    let limit = settings.flap_score_max;
    if health.is_routable() || limit == 0 || flap_score(health, policy, wall_ms) < limit {
        return None;
    }
    let halvings = (f64::from(health.flap_score) / f64::from(limit)).log2();
    // The score is rounded down, so it is below the limit right after this time. Scores are bounded.
    let whole_ms = (halvings * settings.flap_half_life_ms as f64).ceil() as u64 + 1;
    Some(whole_ms.saturating_sub(wall_ms.saturating_sub(health.since_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{
        Actor, Address, Command, Fence, Name, Proposal, Registration, Reply, RequestId, ServiceKey,
    };

    struct World {
        state: ControlState,
        verdicts: Verdicts,
        now_ms: u64,
        requests: u128,
        fence: Option<Fence>,
        unprobed: std::collections::BTreeSet<InstanceKey>,
    }

    fn service() -> ServiceKey {
        ServiceKey::new(Name::trusted("default"), Name::trusted("orders"))
    }

    impl World {
        fn new(policy: &str) -> (Self, InstanceKey, u64) {
            let mut world = Self {
                state: ControlState::default(),
                verdicts: Verdicts::new(),
                now_ms: 1_000,
                requests: 0,
                fence: None,
                unprobed: Default::default(),
            };
            let holder = Name::trusted("n");
            if let Reply::Granted(fence) = world.propose(Command::GrantLeadership { holder }) {
                world.fence = Some(fence);
                world.verdicts.set_duties(Some(fence), world.now_ms);
            }
            world.propose(Command::PutPolicy {
                key: service(),
                policy: Some(Box::new(serde_json::from_str(policy).unwrap())),
                expected_revision: None,
                create: true,
            });
            let address = Address::parse("http://10.0.0.1").unwrap();
            let registration = Registration::new(Name::trusted("a"), address, 5_000);
            let registered =
                world.propose(Command::Register { items: vec![(service(), registration)] });
            let Reply::Registered(epochs) = registered else { panic!("{registered:?}") };
            (world, service().instance(Name::trusted("a")), epochs[0].clone().unwrap())
        }

        fn propose(&mut self, command: Command) -> Reply {
            self.requests += 1;
            let proposal = Proposal {
                request_id: RequestId(self.requests),
                proposed_at_ms: self.now_ms,
                fence: self.fence.filter(|_| command.is_leader_only()),
                actor: Actor::system("test"),
                command,
            };
            self.state.apply(&proposal, &mut Vec::new()).reply
        }

        fn hear(
            &mut self,
            key: &InstanceKey,
            epoch: u64,
            observer: &str,
            status: ProbeStatus,
            passive: bool,
        ) {
            let key = key.clone();
            let last = LastResult {
                at_ms: self.now_ms - 300,
                ok: status == ProbeStatus::Good,
                detail: format!("{status:?}"),
            };
            let status = Some(status);
            let observation = Observation { key, address_index: epoch, status, passive, last };
            self.verdicts.hear(observer, observation, self.now_ms);
        }

        /// Decides and applies. Returns the health of the instance afterwards.
        fn settle(&mut self) -> Option<Health> {
            let context = VerdictContext {
                state: &self.state,
                live_nodes: 3,
                observers: 1,
                now_ms: self.now_ms,
                wall_ms: self.now_ms,
            };
            let items = self.verdicts.decide(&context, &self.unprobed);
            if items.is_empty() {
                return None;
            }
            self.propose(Command::ReportHealth { items });
            self.verdicts.proposed();
            let instance = self.state.service(&service())?.instances.get(&Name::trusted("a"))?;
            Some(instance.health().clone())
        }
    }

    #[test]
    fn one_badly_placed_node_evicts_nobody() {
        let (mut world, key, epoch) = World::new(r#"{"health":{"observers":2}}"#);
        world.hear(&key, epoch, "n1", ProbeStatus::Dead, false);
        world.hear(&key, epoch, "n2", ProbeStatus::Good, false);
        world.hear(&key, epoch, "n3", ProbeStatus::Good, false);
        assert_eq!(world.settle(), None);
        world.hear(&key, epoch, "n2", ProbeStatus::Dead, false);
        let health = world.settle().unwrap();
        assert_eq!(health.liveness, Liveness::Evicted);
        assert_eq!(&*health.reason, "Dead (seen by n1); Dead (seen by n2)");
        let reports = world.verdicts.reports(&key, world.now_ms + 5);
        let said =
            reports.iter().map(|report| (&*report.observer, report.last.ok, report.last.at_ms));
        let at_ms = world.now_ms - 300;
        let expected = [("n1", false, at_ms), ("n2", false, at_ms), ("n3", true, at_ms)];
        assert_eq!(said.collect::<Vec<_>>(), expected);
        assert_eq!(world.settle(), None, "a change is reported once");
        world.hear(&key, epoch, "n1", ProbeStatus::Good, false);
        let health = world.settle().unwrap();
        assert_eq!((health.liveness, health.readiness), (Liveness::Alive, Readiness::Ready));
    }

    #[test]
    fn a_result_that_settles_nothing_is_shown_and_decides_nothing() {
        let (mut world, key, address_index) = World::new("{}");
        let last = LastResult { at_ms: 700, ok: false, detail: "refused".into() };
        let observation = Observation {
            key: key.clone(),
            address_index,
            status: None,
            passive: false,
            last: last.clone(),
        };
        world.verdicts.hear("n1", observation, world.now_ms);
        assert_eq!(world.settle(), None);
        let shown = world.verdicts.reports(&key, world.now_ms + 9_000);
        let observer = "n1".into();
        assert_eq!(shown, [ObserverReport { observer, passive: false, address_index, last }]);
    }

    #[test]
    fn the_word_of_an_observer_who_fell_silent_stops_counting() {
        let (mut world, key, epoch) = World::new(r#"{"health":{"observers":2}}"#);
        world.hear(&key, epoch, "n1", ProbeStatus::Dead, false);
        world.now_ms += REPORT_MS + 1;
        world.hear(&key, epoch, "n2", ProbeStatus::Dead, false);
        assert_eq!(world.settle(), None);
    }

    #[test]
    fn what_was_seen_at_an_earlier_address_does_not_count() {
        let (mut world, key, epoch) = World::new("{}");
        world.hear(&key, epoch - 1, "n1", ProbeStatus::Dead, false);
        assert_eq!(world.settle(), None);
    }

    #[test]
    fn a_flapping_instance_is_held_back_until_its_score_decays() {
        let policy = r#"{"health":{"flap_score_max":3000,"flap_half_life_ms":10000}}"#;
        let (mut world, key, epoch) = World::new(policy);
        let mut held = false;
        for _ in 0..4 {
            world.now_ms += 10;
            world.hear(&key, epoch, "n1", ProbeStatus::Dead, false);
            world.settle();
            world.now_ms += 10;
            world.hear(&key, epoch, "n1", ProbeStatus::Good, false);
            held = world.settle().is_none();
        }
        assert!(held, "the third recovery within moments is held back");
        let service = world.state.service(&key.service).unwrap();
        let (present, policy) = (service.instances[&key.instance].health(), policy_of(service));
        let delay_ms = flap_delay_ms(present, policy, world.now_ms).unwrap();
        assert!(flap_score(present, policy, world.now_ms + delay_ms - 5) >= 3_000);
        assert!(flap_score(present, policy, world.now_ms + delay_ms) < 3_000);
        assert_eq!(flap_delay_ms(present, policy, world.now_ms + delay_ms), None);
        world.now_ms += 10_000;
        let health = world.settle().unwrap();
        assert_eq!(health.readiness, Readiness::Ready, "and comes when the score has halved");
        assert!(health.flap_score < 4_000);
        // Five half-lives later little of it is left.
        let service = world.state.service(&key.service).unwrap();
        let stored = service.instances[&key.instance].health().clone();
        assert_eq!(stored.flap_score, health.flap_score);
        let later_ms = stored.since_ms + 50_000;
        let left = flap_score(&stored, policy_of(service), later_ms);
        assert_eq!(left, stored.flap_score / 32);
    }

    #[test]
    fn the_proxys_experience_counts_where_the_policy_says_so() {
        let (mut world, key, epoch) = World::new(r#"{"health":{"passive_observers":2}}"#);
        world.hear(&key, epoch, "n1", ProbeStatus::NotReady, true);
        assert_eq!(world.settle(), None);
        world.hear(&key, epoch, "n2", ProbeStatus::NotReady, true);
        let health = world.settle().unwrap();
        assert_eq!((health.liveness, health.readiness), (Liveness::Alive, Readiness::NotReady));
        world.hear(&key, epoch, "n1", ProbeStatus::Good, true);
        world.hear(&key, epoch, "n2", ProbeStatus::Good, true);
        assert_eq!(world.settle().unwrap().readiness, Readiness::Ready);
    }

    #[test]
    fn a_bad_verdict_that_nobody_upholds_is_taken_back() {
        let (mut world, key, address_index) = World::new("{}");
        world.hear(&key, address_index, "n1", ProbeStatus::Dead, false);
        assert_eq!(world.settle().unwrap().liveness, Liveness::Evicted);
        // The policy no longer has the probe.
        world.unprobed.insert(key);
        world.now_ms += REPORT_MS;
        assert_eq!(world.settle(), None, "the last report still counts");
        world.now_ms += 1;
        let health = world.settle().unwrap();
        assert_eq!((health.liveness, health.readiness), (Liveness::Alive, Readiness::Unknown));
        let reason = "no node had probed it for a while, so its last verdict no longer counts";
        assert_eq!(&*health.reason, reason);
        let decayed = f64::from(FLAP_STEP) * 0.5_f64.powf((REPORT_MS + 1) as f64 / 60_000.0);
        assert_eq!(health.flap_score, decayed as u32, "it decays from the eviction on");
        assert_eq!(world.settle(), None, "it is taken back once");
    }
}
