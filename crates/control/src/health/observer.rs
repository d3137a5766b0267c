//! One node's observations: which instances it probes, when, and what it has to tell the leader.
//!
//! The driver passes in the published state, the results and the time, runs the probes that
//! [`Observer::due`] returns, and sends what [`Observer::outbox`] returns.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use super::agenda::assigned;
use super::spec::{ActiveDefaults, effective_probe};
use super::track::{ProbeAnswer, ProbeRecord, ProbeStatus, Track};
use super::turns::{ProbeClass, Turns};
use super::verdict::Observation;
use maxine_state::{
    Address, ControlState, Instance, InstanceKey, ProbeSpec, ServiceKey, ServiceState,
};

/// How often the driver asks what is due, in milliseconds.
pub const PROBE_TICK_MS: u64 = 50;
/// Between two full reports to the leader, in milliseconds.
const REPEAT_MS: u64 = 10_000;
/// Pause after a report that did not reach the leader, in milliseconds.
const RESEND_MS: u64 = 500;
/// Most observations in one message.
const REPORT_LEN_MAX: usize = 500;

/// A probe to run now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeJob {
    /// The instance.
    pub key: InstanceKey,
    /// Version of its address: [`Instance::address_index`].
    pub address_index: u64,
    /// Address of the instance.
    pub address: Address,
    /// What to ask.
    pub spec: ProbeSpec,
    /// Class whose place the probe takes.
    pub class: ProbeClass,
}

/// What this node's probes know of the instances, for anyone to read without waiting. The observer
/// alone writes it. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct ProbeTable(Arc<papaya::HashMap<InstanceKey, Arc<TrackView>>>);

impl ProbeTable {
    /// What the probes know of an instance; `None` if this node does not probe it.
    #[must_use]
    pub fn get(&self, key: &InstanceKey) -> Option<Arc<TrackView>> {
        self.0.pin().get(key).cloned()
    }

    /// Instances with failures in a row, and how many.
    #[must_use]
    pub fn failing(&self) -> Vec<(InstanceKey, u32)> {
        let tracks = self.0.pin();
        let failing = tracks.iter().filter(|(_, track)| track.failures > 0);
        failing.map(|(key, track)| (key.clone(), track.failures)).collect()
    }
}

/// What this node knows of an instance.
#[derive(Clone, Debug)]
pub struct TrackView {
    /// Bad results in a row.
    pub failures: u32,
    /// What the results have come to.
    pub settled: Option<ProbeStatus>,
    /// The latest results, newest first.
    pub records: Vec<ProbeRecord>,
}

/// The observations of one node.
#[derive(Debug)]
pub struct Observer {
    node: String,
    defaults: ActiveDefaults,
    live: Vec<String>,
    tracks: BTreeMap<InstanceKey, Track>,
    /// The probes that are not due yet.
    later: BTreeSet<(u64, InstanceKey)>,
    turns: Turns,
    /// Transitions that the leader has not been told of.
    unsent: BTreeSet<InstanceKey>,
    /// What the proxy reports: the reason while an instance is held back by it.
    passive: BTreeMap<InstanceKey, (u64, Option<String>)>,
    unsent_passive: BTreeSet<InstanceKey>,
    /// Instances with a bad verdict that no node probes.
    unprobed: BTreeSet<InstanceKey>,
    table: ProbeTable,
    /// Spreads probes over time.
    rng: fastrand::Rng,
    /// The term that the last full report was made in, and when.
    reported: (u64, u64),
    /// Whether a report is on its way.
    is_reporting: bool,
    /// No report is made before this time.
    report_from_ms: u64,
}

impl Observer {
    /// An observer without instances for this node, which counts as alive itself. What `table` had
    /// from an earlier observer is cleared.
    #[must_use]
    pub fn new(
        node: &str,
        defaults: ActiveDefaults,
        table: ProbeTable,
        rng: fastrand::Rng,
    ) -> Self {
        table.0.pin().clear();
        Self {
            table,
            rng,
            reported: (0, 0),
            is_reporting: false,
            report_from_ms: 0,
            node: node.into(),
            defaults,
            live: vec![node.into()],
            tracks: BTreeMap::new(),
            later: BTreeSet::new(),
            turns: Turns::new(),
            unsent: BTreeSet::new(),
            passive: BTreeMap::new(),
            unsent_passive: BTreeSet::new(),
            unprobed: BTreeSet::new(),
        }
    }

    /// Sets which nodes live; `true` where that changed, and [`Self::sync`] has to follow.
    pub fn set_live(&mut self, mut live: Vec<String>) -> bool {
        if !live.contains(&self.node) {
            live.push(self.node.clone());
        }
        live.sort();
        live.dedup();
        let changed = live != self.live;
        self.live = live;
        changed
    }

    /// Takes the whole state in.
    pub fn sync(&mut self, state: &ControlState, now_ms: u64, wall_ms: u64) {
        let gone: Vec<ServiceKey> = {
            let known = self.tracks.keys().chain(&self.unprobed);
            let known: BTreeSet<&ServiceKey> = known.map(|key| &key.service).collect();
            known.into_iter().filter(|key| state.service(key).is_none()).cloned().collect()
        };
        for key in state.services().keys().chain(&gone) {
            self.sync_service(key, state.service(key).map(AsRef::as_ref), now_ms, wall_ms);
        }
    }

    /// Takes one service in, after a change of it.
    pub fn sync_service(
        &mut self,
        key: &ServiceKey,
        service: Option<&ServiceState>,
        now_ms: u64,
        wall_ms: u64,
    ) {
        let policy = service.and_then(|s| s.policy.as_ref()).map(|record| &record.policy);
        let health = policy.and_then(|policy| policy.health);
        let agreeing = health.map_or(self.defaults.observers, |health| health.observers) as usize;
        let mut stay = BTreeSet::new();
        self.unprobed.retain(|unprobed| unprobed.service != *key);
        for instance in service.into_iter().flat_map(|s| s.instances.values()) {
            let key = key.instance(instance.registration.id.clone());
            let Some(probe) = effective_probe(instance, policy, &self.defaults) else {
                if !instance.health().is_routable() {
                    self.unprobed.insert(key);
                }
                continue;
            };
            if assigned(&key, &self.node, &self.live, agreeing) {
                self.track(&key, instance, probe.spec, now_ms, wall_ms);
                stay.insert(key.instance.clone());
            }
        }
        let from = key.instance(maxine_state::Name::trusted(""));
        let gone: Vec<InstanceKey> = self
            .tracks
            .range(from..)
            .take_while(|(tracked, _)| tracked.service == *key)
            .filter(|(tracked, _)| !stay.contains(&tracked.instance))
            .map(|(tracked, _)| tracked.clone())
            .collect();
        for key in gone {
            self.forget(&key);
        }
        self.passive.retain(|passive, (epoch, _)| {
            passive.service != *key
                || service
                    .and_then(|s| s.instances.get(&passive.instance))
                    .is_some_and(|instance| instance.address_index == *epoch)
        });
    }

    fn track(
        &mut self,
        key: &InstanceKey,
        instance: &Instance,
        spec: ProbeSpec,
        now_ms: u64,
        wall_ms: u64,
    ) {
        let address = &instance.registration.address;
        if let Some(track) = self.tracks.get_mut(key)
            && track.address_index == instance.address_index
            && track.address == *address
        {
            let is_later = !track.under_way && track.ready.is_none();
            if track.spec.interval_ms > spec.interval_ms && is_later {
                // A shorter interval counts at once.
                self.later.remove(&(track.due_ms, key.clone()));
                track.due_ms = track.due_ms.min(now_ms + spec.interval_ms);
                self.later.insert((track.due_ms, key.clone()));
            }
            track.spec = spec;
            return;
        }
        self.forget(key);
        let age_ms = wall_ms.saturating_sub(instance.registered_at_ms);
        let grace_until_ms = now_ms + spec.grace_ms.saturating_sub(age_ms);
        // The first probe comes soon, but those of a fleet that starts together are spread.
        let due_ms = now_ms + self.rng.u64(0..=spec.interval_ms.min(1_000));
        self.later.insert((due_ms, key.clone()));
        let track =
            Track::new(instance.address_index, spec, address.clone(), grace_until_ms, due_ms);
        self.table.0.pin().insert(key.clone(), Arc::new(track.view()));
        self.tracks.insert(key.clone(), track);
    }

    fn forget(&mut self, key: &InstanceKey) {
        if let Some(track) = self.tracks.remove(key) {
            self.table.0.pin().remove(key);
            match track.ready {
                Some(class) => self.turns.remove(class, key, track.due_ms),
                None => {
                    self.later.remove(&(track.due_ms, key.clone()));
                }
            }
            self.unsent.remove(key);
        }
    }

    /// The probes that are due and have a place; each has to be [`done`](Self::done).
    pub fn due(&mut self, now_ms: u64) -> Vec<ProbeJob> {
        while self.later.first().is_some_and(|(due_ms, _)| *due_ms <= now_ms) {
            let Some((due_ms, key)) = self.later.pop_first() else { break };
            let Some(track) = self.tracks.get_mut(&key) else { continue };
            let class = track.class();
            track.ready = Some(class);
            self.turns.push(class, &key, due_ms);
        }
        let mut jobs = Vec::new();
        while let Some((class, key)) = self.turns.next() {
            let Some(track) = self.tracks.get_mut(&key) else {
                self.turns.done(class, &key.service);
                continue;
            };
            track.under_way = true;
            track.ready = None;
            jobs.push(ProbeJob {
                key,
                address_index: track.address_index,
                address: track.address.clone(),
                spec: track.spec.clone(),
                class,
            });
        }
        jobs
    }

    /// When the next probe is due, in milliseconds on the monotonic clock.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.later.first().map(|(due_ms, _)| *due_ms)
    }

    /// Takes a result in, or that the probe could not be made and tells nothing. A result from an earlier
    /// address does not count.
    pub fn done(
        &mut self,
        job: &ProbeJob,
        answer: Option<&ProbeAnswer>,
        now_ms: u64,
        wall_ms: u64,
    ) {
        self.turns.done(job.class, &job.key.service);
        let Some(track) =
            self.tracks.get_mut(&job.key).filter(|track| track.address_index == job.address_index)
        else {
            return;
        };
        if let Some(answer) = answer {
            if track.take(answer, now_ms, wall_ms) {
                self.unsent.insert(job.key.clone());
            }
            self.table.0.pin().insert(job.key.clone(), Arc::new(track.view()));
        }
        track.under_way = false;
        let spec = &track.spec;
        let spread = spec.interval_ms * u64::from(spec.jitter_percent) / 100;
        let moved = spec.interval_ms - spread / 2 + self.rng.u64(0..=spread);
        track.due_ms = now_ms + moved;
        self.later.insert((track.due_ms, job.key.clone()));
    }

    /// Takes the proxy's experience in: why an instance is held back, or that it is no more.
    pub fn passive(&mut self, key: &InstanceKey, address_index: u64, held: Option<String>) {
        self.passive.insert(key.clone(), (address_index, held));
        self.unsent_passive.insert(key.clone());
    }

    /// The next report to the leader of `term`: everything when the term is new or the last full
    /// report is old, else what changed. Empty if there is nothing to report now; a report that is
    /// not empty must be [`reported`](Self::reported).
    pub fn outbox(&mut self, term: u64, now_ms: u64) -> Vec<Observation> {
        if self.is_reporting || now_ms < self.report_from_ms {
            return Vec::new();
        }
        let (last_term, last_ms) = self.reported;
        let all = term != last_term || now_ms.saturating_sub(last_ms) >= REPEAT_MS;
        if all {
            self.reported = (term, now_ms);
            let settled = self.tracks.iter().filter(|(_, track)| track.settled.is_some());
            self.unsent.extend(settled.map(|(key, _)| key.clone()));
            self.unsent_passive.extend(self.passive.keys().cloned());
        }
        let mut out = Vec::new();
        while out.len() < REPORT_LEN_MAX {
            let Some(key) = self.unsent.pop_first() else { break };
            let Some(track) = self.tracks.get(&key) else { continue };
            let Some(status) = track.settled else { continue };
            let detail = track.last_detail().to_owned();
            let address_index = track.address_index;
            out.push(Observation { key, address_index, status, passive: false, detail });
        }
        while out.len() < REPORT_LEN_MAX {
            let Some(key) = self.unsent_passive.pop_first() else { break };
            let Some((address_index, held)) = self.passive.get(&key).cloned() else { continue };
            let status = if held.is_some() { ProbeStatus::NotReady } else { ProbeStatus::Good };
            let detail = held.clone().unwrap_or_else(|| "the proxy uses it again".into());
            if held.is_none() {
                self.passive.remove(&key);
            }
            out.push(Observation { key, address_index, status, passive: true, detail });
        }
        self.is_reporting = !out.is_empty();
        out
    }

    /// Ends a report: the leader has it, or it has to be made again.
    pub fn reported(&mut self, observations: &[Observation], is_delivered: bool, now_ms: u64) {
        self.is_reporting = false;
        if is_delivered {
            return;
        }
        self.report_from_ms = now_ms + RESEND_MS;
        for observation in observations {
            if observation.passive {
                let held =
                    (observation.status != ProbeStatus::Good).then(|| observation.detail.clone());
                self.passive
                    .entry(observation.key.clone())
                    .or_insert((observation.address_index, held));
                self.unsent_passive.insert(observation.key.clone());
            } else if self.tracks.contains_key(&observation.key) {
                self.unsent.insert(observation.key.clone());
            }
        }
    }

    /// Instances with a bad verdict that no node probes: no success of a probe can bring them back.
    #[must_use]
    pub fn unprobed(&self) -> &BTreeSet<InstanceKey> {
        &self.unprobed
    }
}

#[cfg(test)]
#[path = "observer_tests.rs"]
mod tests;
