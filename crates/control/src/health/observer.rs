//! The observations of one node: which instances it probes, when, and what it has to report to the leader.
//!
//! The driver passes in the published state, the results and the time. It runs the probes that
//! [`Observer::due`] returns, and sends the reports that [`Observer::outbox`] returns.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use super::agenda::assigned;
use super::probe_queue::{NEW_PROBE_TIMEOUT_MS, ProbeClass, ProbeQueue};
use super::spec::{ActiveDefaults, effective_probe};
use super::track::{ProbeAnswer, ProbeStatus, Track, TrackView};
use super::verdict::{LastResult, Observation};
use maxine_state::{
    Address, ControlState, Instance, InstanceKey, ProbeSpec, ServiceKey, ServiceState,
};

/// Interval at which the driver asks for due probes, in milliseconds.
pub const PROBE_TICK_MS: u64 = 50;
/// Interval between two full reports to the leader, in milliseconds.
const REPEAT_MS: u64 = 10_000;
/// Pause after a report that did not reach the leader, in milliseconds.
const RESEND_MS: u64 = 500;
/// Maximum number of observations in one message.
const REPORT_LEN_MAX: usize = 500;

/// A probe that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeJob {
    /// The instance.
    pub key: InstanceKey,
    /// The [`Instance::address_index`] for which the probe is made.
    pub address_index: u64,
    /// Address of the instance.
    pub address: Address,
    /// The settings of the probe.
    pub spec: ProbeSpec,
    /// The class of places that the probe uses.
    pub class: ProbeClass,
    /// When it began, in milliseconds on the monotonic clock.
    pub begun_ms: u64,
    /// Whether the time limit in `spec` is shorter than the instance's own. If it is, no answer in time means only
    /// that the instance is slow.
    pub is_look: bool,
}

/// The probe results of this node. Any thread can read them without waiting. Only the observer writes them.
/// Clones are cheap and share the results.
#[derive(Clone, Debug, Default)]
pub struct ProbeTable(Arc<papaya::HashMap<InstanceKey, Arc<TrackView>>>);

impl ProbeTable {
    /// The results for an instance; `None` if this node does not probe it.
    #[must_use]
    pub fn get(&self, key: &InstanceKey) -> Option<Arc<TrackView>> {
        self.0.pin().get(key).cloned()
    }

    /// The instances whose last probe failed, each with its number of failures in a row.
    #[must_use]
    pub fn failing(&self) -> Vec<(InstanceKey, u32)> {
        let tracks = self.0.pin();
        let failing = tracks.iter().filter(|(_, track)| track.failures > 0);
        failing.map(|(key, track)| (key.clone(), track.failures)).collect()
    }
}

/// The observations of one node.
#[derive(Debug)]
pub struct Observer {
    node: String,
    defaults: ActiveDefaults,
    live: Vec<String>,
    tracks: BTreeMap<InstanceKey, Track>,
    /// The probes that are not due yet, by time.
    later: BTreeSet<(u64, InstanceKey)>,
    turns: ProbeQueue,
    /// Instances whose status or last result changed since it was last reported to the leader.
    unsent: BTreeSet<InstanceKey>,
    /// The instances that the proxy has ejected or admitted again, each with its `address_index` and the last result.
    passive: BTreeMap<InstanceKey, (u64, LastResult)>,
    unsent_passive: BTreeSet<InstanceKey>,
    /// Instances with a bad verdict that no node probes.
    unprobed: BTreeSet<InstanceKey>,
    table: ProbeTable,
    /// Random numbers that spread the probes over time.
    rng: fastrand::Rng,
    /// The term and the time of the last full report.
    reported: (u64, u64),
    /// Whether a report is in flight.
    is_reporting: bool,
    /// No report is made before this time, in milliseconds.
    report_from_ms: u64,
}

impl Observer {
    /// An observer with no instances, on a node that counts itself as live. Clears what an earlier observer
    /// left in `table`.
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
            turns: ProbeQueue::new(),
            unsent: BTreeSet::new(),
            passive: BTreeMap::new(),
            unsent_passive: BTreeSet::new(),
            unprobed: BTreeSet::new(),
        }
    }

    /// Sets the live nodes. Returns `true` if they changed; the caller must then call [`Self::sync`].
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

    /// Reads the whole state.
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

    /// Reads one service that has changed.
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
        // A change of one service must not look at the instances of all others.
        let from = key.instance(maxine_state::Name::trusted(""));
        let unprobed: Vec<InstanceKey> = self
            .unprobed
            .range(from.clone()..)
            .take_while(|unprobed| unprobed.service == *key)
            .cloned()
            .collect();
        for unprobed in unprobed {
            self.unprobed.remove(&unprobed);
        }
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
        let gone: Vec<InstanceKey> = self
            .tracks
            .range(from.clone()..)
            .take_while(|(tracked, _)| tracked.service == *key)
            .filter(|(tracked, _)| !stay.contains(&tracked.instance))
            .map(|(tracked, _)| tracked.clone())
            .collect();
        for key in gone {
            self.forget(&key);
        }
        let is_current = |instance: &InstanceKey, address_index: u64| {
            let present = service.and_then(|s| s.instances.get(&instance.instance));
            present.is_some_and(|present| present.address_index == address_index)
        };
        let outdated: Vec<InstanceKey> = self
            .passive
            .range(from..)
            .take_while(|(passive, _)| passive.service == *key)
            .filter(|(passive, (address_index, _))| !is_current(passive, *address_index))
            .map(|(passive, _)| passive.clone())
            .collect();
        for passive in outdated {
            self.passive.remove(&passive);
        }
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
            let is_later = !track.in_flight && track.ready.is_none();
            if track.spec.interval_ms > spec.interval_ms && is_later {
                // A shorter interval takes effect at once.
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
        // The first probe is early, but the first probes of many new instances are spread over time.
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

    /// The probes that are due and have a place. The caller must report each one with [`done`](Self::done).
    pub fn due(&mut self, now_ms: u64) -> Vec<ProbeJob> {
        while self.later.first().is_some_and(|(due_ms, _)| *due_ms <= now_ms) {
            let Some((due_ms, key)) = self.later.pop_first() else { break };
            let Some(track) = self.tracks.get_mut(&key) else { continue };
            let class = track.class();
            track.ready = Some(class);
            self.turns.push(class, &key, due_ms);
        }
        let mut jobs = Vec::new();
        while let Some((class, key)) = self.turns.next(now_ms) {
            let Some(track) = self.tracks.get_mut(&key) else {
                self.turns.done(class, &key.service, now_ms);
                continue;
            };
            track.in_flight = true;
            track.ready = None;
            let mut spec = track.spec.clone();
            let is_look = class == ProbeClass::New
                && spec.timeout_ms > NEW_PROBE_TIMEOUT_MS
                && self.turns.is_crowded();
            if is_look {
                spec.timeout_ms = NEW_PROBE_TIMEOUT_MS;
            }
            jobs.push(ProbeJob {
                key,
                address_index: track.address_index,
                address: track.address.clone(),
                spec,
                class,
                begun_ms: now_ms,
                is_look,
            });
        }
        jobs
    }

    /// The time of the next probe, in milliseconds on the monotonic clock.
    #[must_use]
    pub fn next_due_ms(&self) -> Option<u64> {
        self.later.first().map(|(due_ms, _)| *due_ms)
    }

    /// Records a result, or `None` if the probe could not be made. Returns whether the result counts. A result for an
    /// earlier address does not count. A result that the short time limit for new instances cut off does not either.
    pub fn done(
        &mut self,
        job: &ProbeJob,
        answer: Option<&ProbeAnswer>,
        now_ms: u64,
        wall_ms: u64,
    ) -> bool {
        self.turns.done(job.class, &job.key.service, job.begun_ms);
        let Some(track) =
            self.tracks.get_mut(&job.key).filter(|track| track.address_index == job.address_index)
        else {
            return false;
        };
        let is_cut_off = |answer: &ProbeAnswer| answer.latency_us >= NEW_PROBE_TIMEOUT_MS * 1_000;
        if job.is_look && answer.is_some_and(is_cut_off) {
            track.set_slow();
            track.in_flight = false;
            track.due_ms = now_ms;
            self.later.insert((now_ms, job.key.clone()));
            return false;
        }
        if let Some(answer) = answer {
            let before = track.records.front().map(|record| record.status);
            if track.take(answer, now_ms, wall_ms) || before != Some(answer.status) {
                self.unsent.insert(job.key.clone());
            }
            self.table.0.pin().insert(job.key.clone(), Arc::new(track.view()));
        }
        track.in_flight = false;
        let spec = &track.spec;
        let spread = spec.interval_ms * u64::from(spec.jitter_percent) / 100;
        let moved = spec.interval_ms - spread / 2 + self.rng.u64(0..=spread);
        track.due_ms = now_ms + moved;
        self.later.insert((track.due_ms, job.key.clone()));
        answer.is_some()
    }

    /// Records that the proxy has ejected an instance, with the reason, or has admitted it again.
    pub fn passive(
        &mut self,
        key: &InstanceKey,
        address_index: u64,
        held: Option<String>,
        wall_ms: u64,
    ) {
        let ok = held.is_none();
        let detail = held.unwrap_or_else(|| "the proxy uses it again".into());
        let last = LastResult { at_ms: wall_ms, ok, detail };
        self.passive.insert(key.clone(), (address_index, last));
        self.unsent_passive.insert(key.clone());
    }

    /// The next report to the leader of `term`. A complete report begins if the term is new or the last complete
    /// report is old. Otherwise the report contains the changes. A long report is split into several. The report is
    /// empty if there is nothing to report. If it is not empty, the caller must end it with
    /// [`reported`](Self::reported).
    pub fn outbox(&mut self, term: u64, now_ms: u64) -> Vec<Observation> {
        if self.is_reporting || now_ms < self.report_from_ms {
            return Vec::new();
        }
        let (last_term, last_ms) = self.reported;
        let all = term != last_term || now_ms.saturating_sub(last_ms) >= REPEAT_MS;
        if all {
            self.reported = (term, now_ms);
            let probed = self.tracks.iter().filter(|(_, track)| !track.records.is_empty());
            self.unsent.extend(probed.map(|(key, _)| key.clone()));
            self.unsent_passive.extend(self.passive.keys().cloned());
        }
        let mut out = Vec::new();
        while out.len() < REPORT_LEN_MAX {
            let Some(key) = self.unsent.pop_first() else { break };
            let Some(track) = self.tracks.get(&key) else { continue };
            let Some(record) = track.records.front() else { continue };
            let last = LastResult {
                at_ms: record.at_ms,
                ok: record.status == ProbeStatus::Good,
                detail: record.detail.clone(),
            };
            let (address_index, status) = (track.address_index, track.settled);
            out.push(Observation { key, address_index, status, passive: false, last });
        }
        while out.len() < REPORT_LEN_MAX {
            let Some(key) = self.unsent_passive.pop_first() else { break };
            let Some((address_index, last)) = self.passive.get(&key).cloned() else { continue };
            let status = Some(if last.ok { ProbeStatus::Good } else { ProbeStatus::NotReady });
            if last.ok {
                self.passive.remove(&key);
            }
            out.push(Observation { key, address_index, status, passive: true, last });
        }
        self.is_reporting = !out.is_empty();
        out
    }

    /// Ends a report. If the leader did not receive it, the observations are reported again later.
    pub fn reported(&mut self, observations: &[Observation], is_delivered: bool, now_ms: u64) {
        self.is_reporting = false;
        if is_delivered {
            return;
        }
        self.report_from_ms = now_ms + RESEND_MS;
        for observation in observations {
            if observation.passive {
                self.passive
                    .entry(observation.key.clone())
                    .or_insert((observation.address_index, observation.last.clone()));
                self.unsent_passive.insert(observation.key.clone());
            } else if self.tracks.contains_key(&observation.key) {
                self.unsent.insert(observation.key.clone());
            }
        }
    }

    /// Instances with a bad verdict that no node probes. No successful probe can change that verdict.
    #[must_use]
    pub fn unprobed(&self) -> &BTreeSet<InstanceKey> {
        &self.unprobed
    }
}

#[cfg(test)]
#[path = "observer_tests.rs"]
mod tests;
