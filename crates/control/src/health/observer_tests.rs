use super::super::probe_queue::{ANSWERING_MAX, LATE_MAX};
use super::*;
use maxine_state::{Name, Registration};

/// Step of the simulated time, in milliseconds.
const STEP_MS: u64 = 50;
/// How long a tarpit holds a probe, in milliseconds: the time limit of most probes.
const TARPIT_MS: u64 = 3_000;

/// Instances whose answers the test defines, in simulated time.
struct World {
    core: Observer,
    now_ms: u64,
    /// The probes in flight, by the time at which they end.
    in_flight: BTreeMap<(u64, u64), ProbeJob>,
    begun: u64,
    /// For instances other than tarpits: how long their probes take, in milliseconds, and the result.
    others: BTreeMap<InstanceKey, (u64, ProbeStatus)>,
}

fn key(service: &str, instance: &str) -> InstanceKey {
    ServiceKey::new(Name::trusted("default"), Name::trusted(service))
        .instance(Name::trusted(instance))
}

impl World {
    fn new() -> Self {
        let rng = fastrand::Rng::with_seed(1);
        let core = Observer::new("node-1", ActiveDefaults::default(), ProbeTable::default(), rng);
        let (in_flight, others) = (BTreeMap::new(), BTreeMap::new());
        Self { core, now_ms: 1_000, in_flight, begun: 0, others }
    }

    fn register(&mut self, key: &InstanceKey, spec: ProbeSpec) {
        let address = Address::parse("http://10.0.0.1").unwrap();
        let instance =
            Instance::new(Registration::new(key.instance.clone(), address, 60_000), 1, 0);
        self.core.track(key, &instance, spec, self.now_ms, self.now_ms);
    }

    fn tarpits(&mut self, services: usize, of_each: usize) {
        for service in 0..services {
            for n in 0..of_each {
                self.register(
                    &key(&format!("tar-{service}"), &n.to_string()),
                    ProbeSpec::default(),
                );
            }
        }
    }

    /// Adds instances that answer their first probe fast and then no other one, in 8 services.
    fn hanging(&mut self, len: usize) {
        let hanging: Vec<InstanceKey> =
            (0..len).map(|n| key(&format!("hang-{}", n % 8), &n.to_string())).collect();
        let spec = ProbeSpec { interval_ms: 5_000, timeout_ms: 60_000, ..ProbeSpec::default() };
        for key in &hanging {
            self.register(key, spec.clone());
            self.others.insert(key.clone(), (1, ProbeStatus::Good));
        }
        self.run(3_000);
        for key in hanging {
            assert_eq!(self.core.table.get(&key).unwrap().settled, Some(ProbeStatus::Good));
            self.others.insert(key, (60_000, ProbeStatus::Dead));
        }
    }

    /// Adds an instance that is probed every half second.
    fn honest(&mut self, key: &InstanceKey, took_ms: u64, status: ProbeStatus) {
        let spec = ProbeSpec { interval_ms: 500, timeout_ms: 500, ..ProbeSpec::default() };
        self.register(key, spec);
        self.others.insert(key.clone(), (took_ms, status));
    }

    fn run(&mut self, for_ms: u64) {
        let until_ms = self.now_ms + for_ms;
        while self.now_ms < until_ms {
            self.now_ms += STEP_MS;
            while let Some(ended) = self.in_flight.first_entry() {
                if ended.key().0 > self.now_ms {
                    break;
                }
                let job = ended.remove();
                let (took_ms, status) = self.behaviour(&job);
                let latency_us = took_ms * 1_000;
                let answer = ProbeAnswer { status, detail: String::new(), latency_us };
                self.core.done(&job, Some(&answer), self.now_ms, self.now_ms);
            }
            for job in self.core.due(self.now_ms) {
                self.begun += 1;
                let ends_ms = self.now_ms + self.behaviour(&job).0;
                self.in_flight.insert((ends_ms, self.begun), job);
            }
        }
    }

    fn behaviour(&self, job: &ProbeJob) -> (u64, ProbeStatus) {
        let (took_ms, status) =
            self.others.get(&job.key).copied().unwrap_or((TARPIT_MS, ProbeStatus::Dead));
        match took_ms > job.spec.timeout_ms {
            true => (job.spec.timeout_ms, ProbeStatus::Dead),
            false => (took_ms, status),
        }
    }

    /// How long it takes from now until the first result about an instance.
    fn first_result_after_ms(&mut self, key: &InstanceKey) -> u64 {
        let from_ms = self.now_ms;
        while self.core.table.get(key).unwrap().records.is_empty() {
            self.run(STEP_MS);
            assert!(self.now_ms - from_ms < 600_000, "{key} has no result");
        }
        self.now_ms - from_ms
    }

    /// How long it takes from now until the instance has this settled status, in milliseconds.
    fn settles_after_ms(&mut self, key: &InstanceKey, status: ProbeStatus) -> u64 {
        let from_ms = self.now_ms;
        while self.core.table.get(key).unwrap().settled != Some(status) {
            self.run(STEP_MS);
            assert!(self.now_ms - from_ms < 600_000, "{key} is not settled");
        }
        self.now_ms - from_ms
    }
}

/// Three probes half a second apart that wait for their time limit, and the wait for the first one.
const SOON_MS: u64 = 6_000;

#[test]
fn a_few_services_that_never_answer_do_not_delay_the_probes_of_others() {
    let mut world = World::new();
    let falls_silent = key("old", "a");
    world.honest(&falls_silent, 1, ProbeStatus::Good);
    world.run(5_000);
    world.tarpits(6, 1_000);
    world.run(20_000);
    let dead = key("new", "a");
    world.honest(&dead, 1, ProbeStatus::Dead);
    assert!(world.settles_after_ms(&dead, ProbeStatus::Dead) <= SOON_MS);
    world.others.insert(falls_silent.clone(), (500, ProbeStatus::Dead));
    assert!(world.settles_after_ms(&falls_silent, ProbeStatus::Dead) <= SOON_MS);
}

#[test]
fn six_thousand_services_that_never_answer_do_not_delay_the_probes_of_others() {
    let mut world = World::new();
    let falls_silent = key("old", "a");
    world.honest(&falls_silent, 1, ProbeStatus::Good);
    world.run(5_000);
    world.tarpits(6_000, 1);
    // All instances are new.
    let beside = key("beside", "a");
    world.honest(&beside, 100, ProbeStatus::Good);
    let first_ms = world.first_result_after_ms(&beside);
    assert!(first_ms < 10_000, "its first probe came after {first_ms} ms");
    world.run(20_000);
    world.others.insert(falls_silent.clone(), (500, ProbeStatus::Dead));
    assert!(world.settles_after_ms(&falls_silent, ProbeStatus::Dead) <= SOON_MS);
    // The instances are known to be slow, so not even a new instance waits for them.
    world.run(500_000);
    let dead = key("new", "a");
    world.honest(&dead, 1, ProbeStatus::Dead);
    assert!(world.settles_after_ms(&dead, ProbeStatus::Dead) <= SOON_MS);
    // If a slow instance begins to answer, that is noticed once all slow instances have been probed again.
    let recovers = key("tar-7", "0");
    world.others.insert(recovers.clone(), (1, ProbeStatus::Good));
    assert!(world.settles_after_ms(&recovers, ProbeStatus::Good) <= 320_000);
}

#[test]
fn instances_that_answer_once_and_then_hang_do_not_stop_the_probes_of_others() {
    let mut world = World::new();
    let falls_silent = key("old", "a");
    world.honest(&falls_silent, 1, ProbeStatus::Good);
    world.hanging(400);
    world.run(7_000);
    assert!(world.in_flight.len() >= 400, "all of them hang");
    world.others.insert(falls_silent.clone(), (500, ProbeStatus::Dead));
    assert!(world.settles_after_ms(&falls_silent, ProbeStatus::Dead) <= SOON_MS);
}

#[test]
fn the_number_of_late_probes_is_limited_and_their_places_are_given_back() {
    let mut world = World::new();
    world.hanging(3_000);
    world.run(20_000);
    let in_flight = world.in_flight.len();
    assert!(in_flight > LATE_MAX, "{in_flight} probes");
    assert!(in_flight <= LATE_MAX + ANSWERING_MAX, "{in_flight} probes");
    let tracked: Vec<InstanceKey> = world.core.tracks.keys().cloned().collect();
    tracked.iter().for_each(|key| world.core.forget(key));
    world.run(61_000);
    assert!(world.in_flight.is_empty());
    assert_eq!(world.core.turns.places_taken(), 0);
}

#[test]
fn places_are_given_back_when_instances_go_while_they_are_probed_or_wait() {
    let mut world = World::new();
    world.tarpits(6, 1_000);
    world.run(2_000);
    assert!(!world.in_flight.is_empty());
    let tracked: Vec<InstanceKey> = world.core.tracks.keys().cloned().collect();
    tracked.iter().for_each(|key| world.core.forget(key));
    world.run(10_000);
    assert!(world.in_flight.is_empty() && world.core.later.is_empty());
    assert_eq!(world.core.turns.places_taken(), 0);
    let dead = key("new", "a");
    world.honest(&dead, 1, ProbeStatus::Dead);
    assert!(world.settles_after_ms(&dead, ProbeStatus::Dead) <= SOON_MS);
}

#[test]
fn the_first_failed_probe_is_reported_at_once_and_repeated_with_its_own_time() {
    let mut world = World::new();
    let dead = key("s", "a");
    let spec = ProbeSpec { interval_ms: 3_600_000, fall: 9, ..ProbeSpec::default() };
    world.register(&dead, spec);
    world.others.insert(dead.clone(), (1, ProbeStatus::Dead));
    // The complete report to a new leader has nothing yet.
    assert_eq!(world.core.outbox(1, world.now_ms), []);
    world.first_result_after_ms(&dead);
    let probed_ms = world.core.table.get(&dead).unwrap().records[0].at_ms;
    let mut reported = || {
        let sent = world.core.outbox(1, world.now_ms);
        world.core.reported(&sent, true, world.now_ms);
        world.run(REPEAT_MS);
        sent.into_iter()
            .map(|sent| (sent.status, sent.last.ok, sent.last.at_ms))
            .collect::<Vec<_>>()
    };
    let expected = [(None, false, probed_ms)];
    assert_eq!(reported(), expected);
    assert_eq!(reported(), expected, "the repeated report has the time of the probe");
}
