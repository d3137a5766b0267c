use super::super::*;
use super::*;

/// One instance with a probe and two checks that its owner reports.
struct World {
    state: ControlState,
    events: Vec<Event>,
    requests: u128,
    fence: Option<Fence>,
}

fn key() -> InstanceKey {
    ServiceKey::new(Name::trusted("default"), Name::trusted("orders")).instance(Name::trusted("a"))
}

fn ttl(id: &str, initial: CheckStatus) -> Check {
    Check { id: Name::trusted(id), kind: CheckKind::Ttl { ttl_ms: 10_000, initial } }
}

fn registration() -> Registration {
    let address = Address::parse("http://10.0.0.1:80").unwrap();
    let mut registration = Registration::new(Name::trusted("a"), address, 5_000);
    let checks = [ttl("queue", CheckStatus::Passing), ttl("disk", CheckStatus::Unknown)];
    registration.checks = checks.into();
    registration.with_probe(ProbeSpec { kind: ProbeKind::Tcp, ..ProbeSpec::default() })
}

impl World {
    fn new() -> Self {
        let state = ControlState::default();
        let mut world = Self { state, events: Vec::new(), requests: 0, fence: None };
        let holder = Name::trusted("node-1");
        match world.propose(Command::GrantLeadership { holder }) {
            Reply::Granted(fence) => world.fence = Some(fence),
            other => panic!("{other:?}"),
        }
        world.register(registration());
        world
    }

    fn propose(&mut self, command: Command) -> Reply {
        self.requests += 1;
        let proposal = Proposal {
            request_id: RequestId(self.requests),
            proposed_at_ms: 1_000 * self.requests as u64,
            fence: self.fence.filter(|_| command.is_leader_only()),
            actor: Actor::system("test"),
            command,
        };
        self.state.apply(&proposal, &mut self.events).reply
    }

    fn register(&mut self, registration: Registration) {
        let reply = self.propose(Command::Register { items: vec![(key().service, registration)] });
        let Reply::Registered(results) = reply else { panic!("{reply:?}") };
        results[0].as_ref().unwrap();
    }

    fn report(&mut self, check: &str, status: CheckStatus, output: &str) -> Reply {
        let report = CheckReport { status, output: output.into() };
        let check = Name::trusted(check);
        self.propose(Command::ReportCheck { key: key(), check, lease_epoch: None, report })
    }

    fn expire(&mut self, check: &str, reported_index: u64) -> Reply {
        let (check, output) = (Name::trusted(check), "no report".into());
        let items = vec![CheckExpiry { key: key(), check, reported_index, output }];
        self.propose(Command::ExpireChecks { items })
    }

    fn instance(&self) -> &Instance {
        self.state.instance(&key()).unwrap()
    }

    fn state_of(&self, check: &str) -> CheckState {
        let found = self.instance().reported_checks().iter().find(|c| c.id.as_str() == check);
        found.unwrap().clone()
    }

    fn is_routable(&self) -> bool {
        self.state.service(&key().service).unwrap().in_traffic().has(self.instance())
    }
}

fn changed(reply: &Reply) -> bool {
    matches!(reply, Reply::Changed(changed) if changed == &[true])
}

#[test]
fn a_warning_routes_and_a_critical_check_does_not() {
    let mut world = World::new();
    let statuses = |world: &World| {
        let of = |check: CheckReading<'_>| (check.id.to_owned(), check.status);
        world.instance().checks().map(of).collect::<Vec<_>>()
    };
    let expected = |disk, probe, queue| {
        [("disk", disk), ("probe", probe), ("queue", queue)].map(|(id, s)| (id.to_owned(), s))
    };
    use CheckStatus::{Critical, Passing, Unknown, Warning};
    assert_eq!(statuses(&world), expected(Unknown, Unknown, Passing));
    assert!(world.is_routable());
    assert_eq!(world.instance().verdict().readiness, Readiness::Ready);
    assert!(changed(&world.report("disk", Warning, "91 % full")));
    assert!(world.is_routable());
    let verdict = world.instance().verdict();
    assert_eq!((verdict.readiness, &*verdict.reason), (Readiness::Ready, "check disk: 91 % full"));
    assert!(changed(&world.report("disk", Critical, "full")));
    assert!(!world.is_routable());
    let verdict = world.instance().verdict();
    assert_eq!((verdict.readiness, &*verdict.reason), (Readiness::NotReady, "check disk: full"));
    assert_eq!(verdict.since_ms, world.state_of("disk").since_ms);
    let not_ready =
        Health { readiness: Readiness::NotReady, reason: "500".into(), ..Health::default() };
    let report = HealthReport {
        key: key(),
        address_index: world.instance().address_index,
        health: not_ready,
    };
    assert!(changed(&world.report("disk", Passing, "")));
    assert!(world.is_routable());
    world.propose(Command::ReportHealth { items: vec![report] });
    assert_eq!(statuses(&world), expected(Passing, Critical, Passing));
    assert!(!world.is_routable(), "a passing report does not outweigh the probe");
    assert_eq!(&*world.instance().verdict().reason, "500");
}

/// A removed check leaves no state behind. The verdict is then as old as the removal if the removal changed it,
/// and otherwise as old as its last change before.
#[test]
fn a_verdict_is_as_old_as_its_last_change_after_a_check_was_removed() {
    use CheckStatus::{Critical, Passing};
    let with = |checks: &[&str]| {
        let checks: Vec<Check> = checks.iter().map(|id| ttl(id, CheckStatus::Unknown)).collect();
        Registration { checks: checks.into(), ..registration() }
    };
    let now_ms = |world: &World| 1_000 * world.requests as u64;
    let verdict = |world: &World| {
        let Health { readiness, since_ms, .. } = world.instance().verdict();
        (readiness, since_ms)
    };
    let mut world = World::new();
    world.register(with(&["db", "io"]));
    world.report("db", Passing, "");
    world.report("io", Critical, "");
    world.report("db", Passing, "again");
    world.register(with(&["db"]));
    let removed_ms = now_ms(&world);
    assert_eq!(verdict(&world), (Readiness::Ready, removed_ms), "it was not ready until then");
    world.report("db", Critical, "");
    assert_eq!(verdict(&world), (Readiness::NotReady, now_ms(&world)));
    world.register(with(&[]));
    assert_eq!(verdict(&world), (Readiness::Unknown, now_ms(&world)), "no check is left");

    let mut world = World::new();
    world.register(with(&["db", "io"]));
    world.report("db", Passing, "");
    world.report("io", Critical, "");
    world.report("io", Passing, "");
    let recovered_ms = now_ms(&world);
    world.register(with(&["db"]));
    world.register(with(&["db"]));
    let recovered = (Readiness::Ready, recovered_ms);
    assert_eq!(verdict(&world), recovered, "the removal of a passing check changed nothing");
    let mut bytes = Vec::new();
    world.state.write_to(&mut bytes).unwrap();
    world.state = ControlState::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!(verdict(&world), recovered, "it is stored");
}

/// `since_ms` of the verdict is the time of its last change, whichever check or probe changed it.
#[test]
fn a_verdict_is_as_old_as_the_last_change_of_a_check_or_of_the_probe() {
    use CheckStatus::{Critical, Passing, Warning};
    let mut world = World::new();
    let probe = |world: &mut World, liveness, readiness| {
        let address_index = world.instance().address_index;
        let health = Health { liveness, readiness, ..Health::default() };
        let items = vec![HealthReport { key: key(), address_index, health }];
        world.propose(Command::ReportHealth { items });
        1_000 * world.requests as u64
    };
    let check = |world: &mut World, id, status| {
        world.report(id, status, "");
        1_000 * world.requests as u64
    };
    let since_ms = |world: &World| world.instance().verdict().since_ms;
    let critical = check(&mut world, "disk", Critical);
    assert_eq!(since_ms(&world), critical);
    let evicted = probe(&mut world, Liveness::Evicted, Readiness::NotReady);
    assert_eq!(since_ms(&world), evicted);
    let back = probe(&mut world, Liveness::Alive, Readiness::Ready);
    assert_eq!(world.instance().verdict().readiness, Readiness::NotReady, "the check decides");
    assert_eq!(since_ms(&world), back, "it was evicted until then");
    check(&mut world, "queue", Warning);
    assert_eq!(since_ms(&world), back, "the critical check decides as before");
    let recovered = check(&mut world, "disk", Passing);
    assert_eq!(since_ms(&world), recovered, "the warning is older");
    let good = check(&mut world, "queue", Passing);
    assert_eq!(since_ms(&world), good);
}

#[test]
fn an_equal_report_changes_nothing_but_outlives_an_expiry_that_was_decided_before_it() {
    let mut world = World::new();
    world.report("disk", CheckStatus::Passing, "ok");
    let before = world.state_of("disk");
    assert_eq!(before.modified_index, world.instance().modified_index);
    assert_eq!(world.state.service_index(&key().service), before.modified_index);
    assert!(!changed(&world.report("disk", CheckStatus::Passing, "ok")));
    let after = world.state_of("disk");
    assert!(after.reported_index > before.reported_index);
    assert_eq!(CheckState { reported_index: before.reported_index, ..after.clone() }, before);
    assert!(!changed(&world.expire("disk", before.reported_index)));
    assert!(changed(&world.report("disk", CheckStatus::Passing, "better")));
    let (now, since_ms) = (world.state_of("disk"), before.since_ms);
    assert_eq!(now.since_ms, since_ms, "the status is as old as before");
    assert!(changed(&world.expire("disk", now.reported_index)));
    let expired = world.state_of("disk");
    assert_eq!((expired.status, &*expired.output), (CheckStatus::Critical, "no report"));
    assert!(expired.is_expired() && !world.is_routable());
    assert!(!changed(&world.expire("disk", now.reported_index)), "it expires once");
    let same = CheckReport { status: CheckStatus::Critical, output: "no report".into() };
    assert!(!expired.equals(&same), "what its owner says is another thing");
    assert!(changed(&world.report("disk", CheckStatus::Passing, "ok")));
    assert!(!world.state_of("disk").is_expired() && world.is_routable());
    let events = world.events.iter().filter(|e| matches!(e.kind, EventKind::CheckReported { .. }));
    assert_eq!(events.count(), 5);
}

#[test]
fn a_registration_keeps_what_was_reported_while_the_address_stays() {
    let mut world = World::new();
    world.report("disk", CheckStatus::Critical, "full");
    let before = world.state_of("disk");
    let heavier = Registration { weight: 7, ..registration() };
    world.register(heavier.clone());
    let kept = world.state_of("disk");
    assert_eq!(
        (kept.status, &kept.output, kept.modified_index),
        (CheckStatus::Critical, &before.output, before.modified_index)
    );
    let mut fewer = heavier.clone();
    fewer.checks = [ttl("queue", CheckStatus::Passing)].into();
    world.register(fewer);
    assert!(world.is_routable() && world.instance().reported_checks().len() == 1);
    world.register(heavier.clone());
    world.report("disk", CheckStatus::Critical, "full");
    let address = Address::parse("http://10.0.0.2:80").unwrap();
    world.register(Registration { address, ..heavier });
    assert_eq!(world.state_of("disk").status, CheckStatus::Unknown, "elsewhere it begins anew");
}

#[test]
fn reports_and_checks_over_their_limits_or_of_nothing_are_refused() {
    let mut world = World::new();
    let refused = |reply: Reply, text: &str| match reply {
        Reply::Rejected(why) => assert!(why.to_string().contains(text), "{why}"),
        other => panic!("{other:?}"),
    };
    let passing = CheckStatus::Passing;
    refused(world.report("nothing", passing, ""), "check default/orders/a/nothing does not exist");
    refused(world.report("probe", passing, ""), "check default/orders/a/probe does not exist");
    refused(world.report("disk", passing, &"x".repeat(4_097)), "output must be 0 to 4096 bytes");
    refused(world.report("disk", passing, "a\nb"), "output must be free of control characters");
    let report = CheckReport { status: passing, output: "".into() };
    let (check, lease_epoch) = (Name::trusted("disk"), Some(1));
    let stale = Command::ReportCheck { key: key(), check, lease_epoch, report };
    refused(world.propose(stale), "instance default/orders/a does not exist");
    let check_all = |checks: &[Check]| Check::check_all(checks).unwrap_err().to_string();
    let probe = || Check::probe(ProbeSpec::default());
    let named = |id: &str| Check { id: Name::trusted(id), ..probe() };
    assert!(check_all(&[named("x")]).contains("checks.id must be probe for a probe"));
    assert!(check_all(&[ttl("probe", passing)]).contains("checks.id must be probe for a probe"));
    assert!(check_all(&[ttl("a", passing), ttl("a", passing)]).contains("given once"));
    let many: Vec<Check> = (0..17).map(|n| ttl(&format!("{n:02}"), passing)).collect();
    assert!(check_all(&many).contains("checks must be at most 16 items"));
    let hasty = Check { kind: CheckKind::Ttl { ttl_ms: 1, initial: passing }, ..ttl("a", passing) };
    assert!(check_all(&[hasty]).contains("checks.ttl_ms must be from 1000"));
}

#[test]
fn outputs_count_in_the_length_of_the_registry_and_a_snapshot_has_everything() {
    let mut world = World::new();
    let before = world.state.registrations_len();
    world.report("disk", CheckStatus::Warning, "12345");
    assert_eq!(world.state.registrations_len(), before + 5);
    world.register(Registration { weight: 7, ..registration() });
    assert_eq!(world.state.registrations_len(), before + 5);
    let mut bytes = Vec::new();
    world.state.write_to(&mut bytes).unwrap();
    let read = ControlState::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!(read.digest(), world.state.digest());
    assert_eq!(read.registrations_len(), before + 5);
    assert_eq!(
        read.instance(&key()).unwrap().reported_checks(),
        world.instance().reported_checks()
    );
    let item = Deregistration { key: key(), lease_epoch: None, forget_drain: false };
    world.propose(Command::Deregister { items: vec![item] });
    assert_eq!(world.state.registrations_len(), 0);
}

#[test]
fn the_index_of_a_service_never_goes_back_and_a_reader_sees_that_it_is_gone() {
    let mut world = World::new();
    let service = key().service;
    let other = ServiceKey::new(service.namespace.clone(), Name::trusted("other"));
    assert_eq!(world.state.service_index(&other), 0);
    let mut seen = world.state.service_index(&service);
    let mut grows = |state: &ControlState, by_change: bool, what: &str| {
        let index = state.service_index(&service);
        assert_eq!(index > seen, by_change, "{what}: {index} after {seen}");
        seen = seen.max(index);
    };
    world.register(registration());
    grows(&world.state, false, "an equal registration is no change");
    world.report("disk", CheckStatus::Passing, "");
    grows(&world.state, true, "a report");
    let remove = |key: InstanceKey| {
        let item = Deregistration { key, lease_epoch: None, forget_drain: false };
        Command::Deregister { items: vec![item] }
    };
    world.propose(remove(key()));
    grows(&world.state, true, "it is gone");
    let elsewhere = other.instance(Name::trusted("a"));
    world.propose(Command::Register { items: vec![(other.clone(), registration())] });
    grows(&world.state, false, "another one came");
    world.propose(remove(elsewhere));
    let mut bytes = Vec::new();
    world.state.write_to(&mut bytes).unwrap();
    let read = ControlState::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!(read.service_index(&service), world.state.service_index(&other));
    grows(&read, true, "any service that is gone wakes the readers of one that is not there");
    world.register(registration());
    grows(&world.state, true, "it is back");
}

#[test]
fn an_instance_is_found_without_regard_to_case() {
    let mut world = World::new();
    for id in ["Node-1", "NODE-1", "node-1"] {
        world.register(Registration { id: Name::trusted(id), ..registration() });
    }
    let service = world.state.service(&key().service).unwrap();
    let found = |id: &str| service.find_ignoring_case(id).map(|i| i.registration.id.to_string());
    assert_eq!(found("node-1").as_deref(), Some("node-1"));
    assert_eq!(found("NODE-1").as_deref(), Some("NODE-1"));
    assert_eq!(found("nODE-1").as_deref(), Some("NODE-1"), "the first in the order of the ids");
    assert_eq!(found("node-2"), None);
}

/// Instances use most of the memory of a large registry, so their size is tested. With the two counters of its
/// `Arc`, an instance of up to 208 bytes takes 224 bytes from the allocator. A larger one would take 256.
#[test]
fn an_instance_takes_no_more_room_than_it_should() {
    assert!(size_of::<Instance>() <= 208, "{} bytes", size_of::<Instance>());
}
