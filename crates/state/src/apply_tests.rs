use super::super::STATE_VERSION;
use super::super::address::Address;
use super::super::codec::CodecError;
use super::super::command::{Actor, Batch, RequestId};
use super::super::health::Readiness;
use super::super::log_entry::{decode_batch, encode_batch};
use super::*;

fn key() -> ServiceKey {
    ServiceKey::new(Name::trusted("default"), Name::trusted("orders"))
}

fn registration(id: &str) -> Registration {
    let address = Address::parse("http://10.0.0.1:80").unwrap();
    Registration::new(Name::trusted(id), address, 5_000)
}

/// Applies commands one after the other, each with its own request id.
struct Driver {
    state: ControlState,
    events: Vec<Event>,
    requests: u128,
}

impl Driver {
    fn new() -> Self {
        Self { state: ControlState::default(), events: Vec::new(), requests: 0 }
    }

    fn propose(&mut self, fence: Option<Fence>, command: Command) -> Applied {
        self.requests += 1;
        let proposal = Proposal {
            request_id: RequestId(self.requests),
            proposed_at_ms: 1_000 + self.requests as u64,
            fence,
            actor: Actor::system("test"),
            command,
        };
        self.state.apply(&proposal, &mut self.events)
    }

    fn register(&mut self, id: &str) -> u64 {
        self.register_with(registration(id))
    }

    fn register_with(&mut self, registration: Registration) -> u64 {
        let command = Command::Register { items: vec![(key(), registration)] };
        match self.propose(None, command).reply {
            Reply::Registered(results) => results.into_iter().next().unwrap().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn grant(&mut self) -> Fence {
        let holder = Name::trusted("node-1");
        match self.propose(None, Command::GrantLeadership { holder }).reply {
            Reply::Granted(fence) => fence,
            other => panic!("{other:?}"),
        }
    }

    fn instance(&self, id: &str) -> Option<&Arc<Instance>> {
        self.state.service(&key())?.instances.get(&Name::trusted(id))
    }
}

#[test]
fn every_event_has_an_index_of_its_own_and_replays_to_the_same_digest() {
    let mut a = Driver::new();
    let mut b = Driver::new();
    for driver in [&mut a, &mut b] {
        let items = (0..5).map(|i| (key(), registration(&format!("i{i}")))).collect();
        driver.propose(None, Command::Register { items });
        driver.register("i1");
    }
    let indices: Vec<u64> = a.events.iter().map(|event| event.index).collect();
    assert_eq!(indices, [1, 2, 3, 4, 5, 6]);
    assert_eq!(a.state.digest(), b.state.digest());
    b.register("i9");
    assert_ne!(a.state.digest().digest, b.state.digest().digest);
}

#[test]
fn an_expiry_removes_only_the_registration_it_was_meant_for() {
    let mut driver = Driver::new();
    let old = driver.register("a");
    let fence = driver.grant();
    let mut heavier = registration("a");
    heavier.weight = 3;
    let new = driver.register_with(heavier);
    assert_ne!(old, new);
    let expire =
        |epoch| Command::Expire { items: vec![(key().instance(Name::trusted("a")), epoch)] };
    let stale = driver.propose(Some(fence), expire(old));
    assert_eq!(stale.reply, Reply::Changed(vec![false]));
    assert!(driver.instance("a").is_some());
    driver.propose(Some(fence), expire(new));
    assert!(driver.instance("a").is_none());
    assert_eq!(driver.state.instances_len(), 0);
    assert!(driver.state.services().is_empty());
}

#[test]
fn an_equal_registration_in_the_log_keeps_its_lease_and_saves_it_from_an_expiry_under_way() {
    let mut driver = Driver::new();
    let epoch = driver.register("a");
    let fence = driver.grant();
    let before = driver.instance("a").unwrap().clone();
    let audited = driver.state.audit().records().len();
    // The leader has decided that the instance is silent. A node that was behind now sends the heartbeat
    // through the log.
    assert_eq!(driver.register("a"), epoch);
    let after = driver.instance("a").unwrap().clone();
    assert_eq!(after.registered_index, driver.state.index());
    let unchanged = Instance { registered_index: after.registered_index, ..(*before).clone() };
    assert_eq!(*after, unchanged);
    assert_eq!(driver.state.audit().records().len(), audited, "a heartbeat is not audited");
    let expire =
        |index| Command::Expire { items: vec![(key().instance(Name::trusted("a")), index)] };
    let late = driver.propose(Some(fence), expire(before.registered_index));
    assert_eq!(late.reply, Reply::Changed(vec![false]));
    let due = driver.propose(Some(fence), expire(after.registered_index));
    assert_eq!(due.reply, Reply::Changed(vec![true]));
}

#[test]
fn a_registration_at_the_same_address_undoes_no_eviction() {
    let mut driver = Driver::new();
    let fence = driver.grant();
    driver.register("a");
    let health = Health {
        readiness: Readiness::NotReady,
        liveness: Liveness::Evicted,
        reason: "refused".into(),
        ..Health::default()
    };
    let address_index = driver.instance("a").unwrap().address_index;
    let key = key().instance(Name::trusted("a"));
    let items = vec![HealthReport { key, address_index, health }];
    driver.propose(Some(fence), Command::ReportHealth { items });
    let verdict = driver.instance("a").unwrap().health().clone();
    driver.register("a");
    assert_eq!(*driver.instance("a").unwrap().health(), verdict, "an equal one is a heartbeat");
    let mut heavier = registration("a");
    heavier.weight = 3;
    driver.register_with(heavier.clone());
    let instance = driver.instance("a").unwrap();
    assert_eq!((instance.health(), instance.address_index), (&verdict, address_index));
    heavier.address = Address::parse("http://10.0.0.2").unwrap();
    driver.register_with(heavier);
    let instance = driver.instance("a").unwrap();
    assert_eq!(*instance.health(), Health::default(), "at another address it is judged anew");
    assert_eq!(instance.address_index, instance.lease_epoch);
}

#[test]
fn a_command_of_an_old_leadership_is_refused() {
    let mut driver = Driver::new();
    let epoch = driver.register("a");
    let old = driver.grant();
    let new = driver.grant();
    let items = vec![(key().instance(Name::trusted("a")), epoch)];
    let refused = driver.propose(Some(old), Command::Expire { items: items.clone() });
    let expected = Rejection::StaleFence { got: old.0, current: new.0 };
    assert_eq!(refused.reply, Reply::Rejected(expected));
    let unfenced = driver.propose(None, Command::Expire { items });
    assert_eq!(unfenced.reply, Reply::Rejected(Rejection::FenceMissing));
    assert!(driver.instance("a").is_some());
}

#[test]
fn a_repeated_request_takes_effect_once_and_gets_the_first_reply() {
    let mut driver = Driver::new();
    let proposal = Proposal {
        request_id: RequestId(7),
        proposed_at_ms: 1,
        fence: None,
        actor: Actor::system("test"),
        command: Command::Register { items: vec![(key(), registration("a"))] },
    };
    let first = driver.state.apply(&proposal, &mut driver.events);
    driver.register("b");
    let again = driver.state.apply(&proposal, &mut driver.events);
    assert_eq!(first, again);
    assert_eq!(driver.events.len(), 2);
}

#[test]
fn a_drain_outlives_what_machines_report_and_ends_at_an_operators_word() {
    let mut driver = Driver::new();
    let epoch = driver.register("a");
    let instance_key = key().instance(Name::trusted("a"));
    let drain = |reason: Option<&str>| Command::SetDrain {
        key: key().instance(Name::trusted("a")),
        reason: reason.map(Into::into),
    };
    driver.propose(None, drain(Some("disk swap")));
    let mut moved = registration("a");
    moved.weight = 3;
    driver.register_with(moved);
    let routable = |driver: &Driver| {
        let service = driver.state.service(&key()).unwrap();
        driver.instance("a").is_some_and(|instance| service.in_traffic().has(instance))
    };
    assert!(!routable(&driver), "re-registration must not revive it");
    let fence = driver.grant();
    let epoch = driver.instance("a").map_or(epoch, |i| i.lease_epoch);
    let items = vec![(instance_key.clone(), epoch)];
    driver.propose(Some(fence), Command::Expire { items });
    driver.register("a");
    assert!(!routable(&driver), "nor may expiry and a new registration");
    let deregister = |forget_drain| Command::Deregister {
        items: vec![Deregistration { key: instance_key.clone(), lease_epoch: None, forget_drain }],
    };
    driver.propose(None, deregister(false));
    driver.register("a");
    assert!(!routable(&driver), "nor may its owner, by a restart");
    driver.propose(None, deregister(true));
    assert!(driver.state.services().is_empty());
    driver.register("a");
    assert!(routable(&driver));
    driver.propose(None, drain(Some("")));
    driver.propose(None, drain(None));
    assert!(routable(&driver));
}

#[test]
fn a_verdict_touches_only_the_address_that_was_observed() {
    let mut driver = Driver::new();
    let fence = driver.grant();
    let old = driver.register("a");
    let health = Health { readiness: Readiness::NotReady, ..Health::default() };
    let report = |address_index| {
        let key = key().instance(Name::trusted("a"));
        let items = vec![HealthReport { key, address_index, health: health.clone() }];
        Command::ReportHealth { items }
    };
    driver.propose(Some(fence), report(old));
    assert!(!driver.instance("a").unwrap().health().is_routable());
    let mut moved = registration("a");
    moved.address = Address::parse("http://10.0.0.2").unwrap();
    driver.register_with(moved);
    assert!(driver.instance("a").unwrap().health().is_routable(), "judged anew");
    let late = driver.propose(Some(fence), report(old));
    assert_eq!(late.reply, Reply::Changed(vec![false]));
}

#[test]
fn configuration_and_policy_are_compare_and_set() {
    let mut driver = Driver::new();
    let config = RuntimeConfig { heartbeat_timeout_s: 9, ..RuntimeConfig::default() };
    let put = |expected| Command::PutConfig { config: config.clone(), expected_revision: expected };
    let Reply::Revision(revision) = driver.propose(None, put(Some(0))).reply else { panic!() };
    let lost = driver.propose(None, put(Some(0))).reply;
    let mismatch = Rejection::RevisionMismatch { expected: 0, actual: revision };
    assert_eq!(lost, Reply::Rejected(mismatch));
    let policy = |json: &str| Command::PutPolicy {
        key: key(),
        policy: Some(Box::new(serde_json::from_str(json).unwrap())),
        expected_revision: None,
        create: true,
    };
    let bad = driver.propose(None, policy(r#"{"probe":{"fall":0}}"#)).reply;
    let Reply::Rejected(Rejection::Limit(bad)) = bad else { panic!("{bad:?}") };
    assert_eq!(bad.to_string(), "probe.fall must be from 1 to 100, got 0");
    let good = driver.propose(None, policy(r#"{"selection":{"strategy":"rendezvous"}}"#)).reply;
    assert!(matches!(good, Reply::Revision(_)));
    let key = ServiceKey::new(Name::trusted("default"), Name::trusted("odrers"));
    let policy = Some(Box::default());
    let mistyped = Command::PutPolicy { key, policy, expected_revision: Some(0), create: false };
    let refused = driver.propose(None, mistyped).reply;
    assert!(matches!(refused, Reply::Rejected(Rejection::NotFound { .. })), "{refused:?}");
}

#[test]
fn what_a_configuration_replaces_is_kept() {
    let mut driver = Driver::new();
    let config = |ttl| RuntimeConfig { heartbeat_timeout_s: ttl, ..RuntimeConfig::default() };
    let set = |ttl| Command::PutConfig { config: config(ttl), expected_revision: None };
    let kept = |driver: &Driver| -> Vec<(u64, u64, String)> {
        let revisions = driver.state.config_history().revisions().iter();
        let each =
            |r: &ConfigRevision| (r.revision, r.config.heartbeat_timeout_s, r.user.to_string());
        revisions.map(each).collect()
    };
    driver.propose(None, set(7));
    let user = || "system:test".to_owned();
    assert_eq!(kept(&driver), [(0, 5, String::new()), (1, 7, user())]);
    driver.propose(None, set(9));
    assert_eq!(kept(&driver)[2..], [(2, 9, user())]);
    let stale = Command::PutConfig { config: config(1), expected_revision: Some(1) };
    assert!(matches!(driver.propose(None, stale).reply, Reply::Rejected(_)));
    assert_eq!(kept(&driver).len(), 3);
    let mut bytes = Vec::new();
    driver.state.write_to(&mut bytes).unwrap();
    let restored = ControlState::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!(restored.config_history(), driver.state.config_history());
    assert_eq!(restored.digest(), driver.state.digest());
    for ttl in 10..200 {
        driver.propose(None, set(ttl));
    }
    let kept = kept(&driver);
    assert_eq!((kept.len(), kept[0].1, kept[99].1), (100, 100, 199));
}

#[test]
fn a_bad_item_of_a_batch_does_not_hurt_the_others() {
    let mut driver = Driver::new();
    let mut bad = registration("b");
    bad.weight = 0;
    let items = vec![(key(), registration("a")), (key(), bad), (key(), registration("c"))];
    let Reply::Registered(results) = driver.propose(None, Command::Register { items }).reply else {
        panic!()
    };
    assert!(results[0].is_ok() && results[2].is_ok());
    let Err(refused) = &results[1] else { panic!() };
    let Rejection::Limit(error) = &**refused else { panic!() };
    assert_eq!(error.to_string(), "weight must be from 1 to 100, got 0");
    assert_eq!(driver.state.instances_len(), 2);
}

#[test]
fn a_snapshot_restores_to_the_same_digest_and_goes_on_alike() {
    let mut driver = Driver::new();
    driver.register("a");
    driver.grant();
    let drained = key().instance(Name::trusted("a"));
    driver.propose(None, Command::SetDrain { key: drained, reason: Some("why".into()) });
    let user = |name: &str| Command::PutUser {
        name: Name::trusted(name),
        role: Role::Admin,
        password_hash: "$argon2id$x".into(),
        managed: false,
        create_only: true,
        expected_version: None,
    };
    driver.propose(None, user("root"));
    let mut bytes = Vec::new();
    driver.state.write_to(&mut bytes).unwrap();
    let mut restored = ControlState::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!(restored.digest(), driver.state.digest());
    assert_eq!(restored.audit().verify(), Ok(()));
    let proposal = Proposal {
        request_id: RequestId(99),
        proposed_at_ms: 1,
        fence: None,
        actor: Actor::system("test"),
        command: Command::Register { items: vec![(key(), registration("z"))] },
    };
    restored.apply(&proposal, &mut Vec::new());
    driver.state.apply(&proposal, &mut Vec::new());
    assert_eq!(restored.digest(), driver.state.digest());
    for cut in 0..bytes.len() {
        assert!(ControlState::read_from(&mut &bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn the_last_admin_stays() {
    let mut driver = Driver::new();
    let name = Name::trusted("root");
    let put = Command::PutUser {
        name: name.clone(),
        role: Role::Admin,
        password_hash: "$argon2id$x".into(),
        managed: false,
        create_only: true,
        expected_version: None,
    };
    driver.propose(None, put.clone());
    let again = driver.propose(None, put).reply;
    assert!(matches!(again, Reply::Rejected(Rejection::Exists { .. })));
    let gone = driver.propose(None, Command::DeleteUser { name: name.clone() }).reply;
    assert!(matches!(gone, Reply::Rejected(Rejection::Limit(_))));
    let demote = Command::PutUser {
        name,
        role: Role::Viewer,
        password_hash: "$argon2id$x".into(),
        managed: false,
        create_only: false,
        expected_version: None,
    };
    let demoted = driver.propose(None, demote).reply;
    assert!(matches!(demoted, Reply::Rejected(Rejection::Limit(_))));
}

#[test]
fn a_user_who_is_made_again_never_has_a_credential_version_of_before() {
    let mut driver = Driver::new();
    let put = |role, create_only| Command::PutUser {
        name: Name::trusted("ada"),
        role,
        password_hash: "$argon2id$x".into(),
        managed: false,
        create_only,
        expected_version: None,
    };
    let version = |driver: &Driver| driver.state.identities().users["ada"].credential_version;
    let mut seen = std::collections::BTreeSet::new();
    // The first admin begins at 0. A user who is created again under the same name never does.
    driver.propose(None, put(Role::Admin, true));
    assert!(version(&driver) == 0 && seen.insert(0));
    let root = Command::PutUser {
        name: Name::trusted("root"),
        role: Role::Admin,
        password_hash: "$argon2id$x".into(),
        managed: false,
        create_only: true,
        expected_version: None,
    };
    driver.propose(None, root);
    driver.propose(None, Command::DeleteUser { name: Name::trusted("ada") });
    for changes in [0, 3, 1, 0] {
        driver.propose(None, put(Role::Viewer, true));
        assert!(seen.insert(version(&driver)), "{seen:?}");
        for _ in 0..changes {
            driver.propose(None, put(Role::Operator, false));
            assert!(seen.insert(version(&driver)), "{seen:?}");
        }
        let gone = driver.propose(None, Command::DeleteUser { name: Name::trusted("ada") });
        assert_eq!(gone.reply, Reply::Done);
    }
    assert_eq!(seen.len(), 9);
}

#[test]
fn a_session_that_was_ended_stays_ended_however_many_there_are() {
    let mut driver = Driver::new();
    let put = Command::PutUser {
        name: Name::trusted("ada"),
        role: Role::Viewer,
        password_hash: "$argon2id$x".into(),
        managed: false,
        create_only: true,
        expected_version: None,
    };
    driver.propose(None, put);
    let user = |driver: &Driver| driver.state.identities().users["ada"].clone();
    let version = user(&driver).credential_version;
    let session = |n| EndedSession { issued_at_s: n, expires_at_s: n + 1_800, id: 7 };
    let end = |n, credential_version| Command::EndSession {
        name: Name::trusted("ada"),
        credential_version,
        session: session(n),
    };
    let changed = |flag| Reply::Changed(vec![flag]);
    assert_eq!(driver.propose(None, end(0, version)).reply, changed(true));
    assert_eq!(driver.propose(None, end(0, version)).reply, changed(false), "it has ended already");
    let nobody = Command::EndSession {
        name: Name::trusted("bob"),
        credential_version: version,
        session: session(1),
    };
    assert_eq!(driver.propose(None, nobody).reply, changed(false));
    for n in 1..limits::ENDED_SESSIONS_MAX as u64 {
        driver.propose(None, end(n, version));
    }
    assert_eq!(user(&driver).ended_sessions.len(), limits::ENDED_SESSIONS_MAX);
    assert_eq!(user(&driver).credential_version, version);
    let mut bytes = Vec::new();
    driver.state.write_to(&mut bytes).unwrap();
    let restored = ControlState::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!(restored.identities(), driver.state.identities());
    // One more ended session than can be remembered: all sessions of the user end.
    driver.propose(None, end(5_000, version));
    assert_eq!(
        (user(&driver).credential_version, user(&driver).ended_sessions.len()),
        (version + 1, 0)
    );
    assert_eq!(driver.propose(None, end(5_001, version)).reply, changed(false));
}

#[test]
fn a_newer_version_of_the_state_stops_a_replica_before_it_applies_anything() {
    let mut driver = Driver::new();
    let digest = driver.state.digest();
    let raise = |to| Proposal {
        request_id: RequestId(7),
        proposed_at_ms: 1,
        fence: None,
        actor: Actor::system("test"),
        command: Command::RaiseStateVersion { to },
    };
    let newer = STATE_VERSION + 1;
    let batch = Batch { proposals: vec![raise(newer)] };
    let refused = decode_batch(&encode_batch(&batch).unwrap()).unwrap_err();
    assert!(matches!(refused, CodecError::NewerState(version) if version == newer), "{refused}");
    assert!(refused.to_string().contains("upgrade this node"), "{refused}");
    // Only a newer build applies this command. This build refuses its snapshot.
    let mut of_newer = driver.state.clone();
    of_newer.apply(&raise(newer), &mut driver.events);
    assert_eq!(of_newer.version(), newer);
    assert_ne!(of_newer.digest().digest, digest.digest);
    let mut bytes = Vec::new();
    of_newer.write_to(&mut bytes).unwrap();
    let refused = ControlState::read_from(&mut bytes.as_slice()).unwrap_err().to_string();
    assert!(refused.contains(&format!("state version {newer}")), "{refused}");
    let again =
        of_newer.apply(&Proposal { request_id: RequestId(8), ..raise(newer) }, &mut driver.events);
    assert_eq!(again.reply, Reply::Changed(vec![false]), "it is never lowered, nor raised twice");
}

/// A command of the next build is refused while the state has this build's version, and applied once it has the
/// next.
#[cfg(feature = "next")]
#[test]
fn what_the_next_version_adds_needs_the_next_version() {
    let mut driver = Driver::new();
    let note = |text: &str| Command::SetNote { note: text.into() };
    let mut policy = ServicePolicy::default();
    policy.traffic.note = Some("slow on Mondays".into());
    let with_note = Command::PutPolicy {
        key: key(),
        policy: Some(Box::new(policy.clone())),
        expected_revision: None,
        create: true,
    };
    driver.propose(None, Command::RaiseStateVersion { to: 3 });
    let head = |driver: &Driver| {
        let mut bytes = Vec::new();
        driver.state.write_to(&mut bytes).unwrap();
        bytes
    };
    for command in [note("a"), with_note.clone()] {
        assert_eq!(command.needs(), 4);
        let reply = driver.propose(None, command).reply;
        let needs_next = Reply::Rejected(Rejection::StateVersion { needs: 4, has: 3 });
        assert_eq!(reply, needs_next);
    }
    assert_eq!(head(&driver)[4..8], [3, 0, 0, 0], "the head names the state's version");
    driver.propose(None, Command::RaiseStateVersion { to: 4 });
    driver.events.clear();
    driver.propose(None, note("a"));
    assert_eq!(driver.state.note(), "a");
    assert!(matches!(&driver.events[0].kind, EventKind::NoteChanged { note } if &**note == "a"));
    driver.propose(None, with_note);
    let bytes = head(&driver);
    assert_eq!(bytes[4..8], [4, 0, 0, 0]);
    let restored = ControlState::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!((restored.note(), restored.version()), ("a", 4));
    assert_eq!(restored.service(&key()).unwrap().policy.as_ref().unwrap().policy, policy);
    assert_eq!(restored.digest(), driver.state.digest());
}

/// The second version has more classes of audit records, and records with an unknown outcome. A snapshot of the first
/// version has neither, whichever build wrote it.
#[test]
fn what_the_second_version_adds_needs_the_second_version() {
    let mut driver = Driver::new();
    let write = |state: &ControlState| {
        let mut bytes = Vec::new();
        state.write_to(&mut bytes).unwrap();
        bytes
    };
    let kept = |state: &ControlState, class| state.audit().chain(class).kept();
    let drain = |driver: &mut Driver, reason: Option<&str>| {
        let key = key().instance(Name::trusted("a"));
        driver.requests += 1;
        let proposal = Proposal {
            request_id: RequestId(driver.requests),
            proposed_at_ms: 1,
            fence: None,
            actor: Actor { user: "ops".into(), ..Actor::system("test") },
            command: Command::SetDrain { key, reason: reason.map(Into::into) },
        };
        driver.state.apply(&proposal, &mut driver.events);
    };
    let unknown = || {
        let items = vec![(AuditAction::MemberRemove, "3".into())];
        Command::RecordUnknown { items }
    };
    register_as(&mut driver, "", registration("a")).unwrap();
    drain(&mut driver, Some("r"));
    assert_eq!(unknown().needs(), 2);
    let refused = driver.propose(None, unknown()).reply;
    assert_eq!(refused, Reply::Rejected(Rejection::StateVersion { needs: 2, has: 1 }));
    let of_first = write(&driver.state);
    assert_eq!(of_first[4..8], [1, 0, 0, 0]);
    let restored = ControlState::read_from(&mut of_first.as_slice()).unwrap();
    assert_eq!(kept(&restored, AuditClass::Settings), 1);
    let later = |state: &ControlState| {
        let mut later = AuditClass::of_version(2).skip(AuditClass::of_version(1).count());
        later.any(|class| state.audit().chain(class).next_seq() > 0)
    };
    assert!(!later(&restored) && restored.audit().verify().is_ok());

    driver.propose(None, Command::RaiseStateVersion { to: 3 });
    register_as(&mut driver, "", registration("b")).unwrap();
    drain(&mut driver, None);
    driver.propose(None, unknown());
    let of_second = write(&driver.state);
    assert_eq!(of_second[4..8], [3, 0, 0, 0]);
    let restored = ControlState::read_from(&mut of_second.as_slice()).unwrap();
    assert_eq!((restored.digest(), restored.audit().verify()), (driver.state.digest(), Ok(())));
    assert_eq!(kept(&restored, AuditClass::Settings), 1, "an older record stays in its class");
    assert_eq!((kept(&restored, AuditClass::Drains), kept(&restored, AuditClass::Open)), (1, 1));
    let newest = restored.audit().records().pop().cloned().unwrap();
    assert_eq!((newest.class, &newest.outcome), (AuditClass::Cluster, &AuditOutcome::Unknown));
}

/// Registers as the caller with this name. An empty name means a caller without a credential.
fn register_as(driver: &mut Driver, user: &str, registration: Registration) -> Result<u64, String> {
    driver.requests += 1;
    let proposal = Proposal {
        request_id: RequestId(driver.requests),
        proposed_at_ms: 1,
        fence: None,
        actor: Actor { user: user.into(), ..Actor::system("test") },
        command: Command::Register { items: vec![(key(), registration)] },
    };
    match driver.state.apply(&proposal, &mut driver.events).reply {
        Reply::Registered(mut results) => results.remove(0).map_err(|error| error.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_whole_registry_is_bounded_and_strangers_leave_room_for_others() {
    let mut driver = Driver::new();
    register_as(&mut driver, "", registration("first")).unwrap();
    let one = registration("first").stored_len();
    assert_eq!(driver.state.registrations_len(), one);

    driver.state.instances_len = limits::OPEN_INSTANCES_MAX;
    let refused = register_as(&mut driver, "", registration("a")).unwrap_err();
    assert!(refused.contains("callers without a credential"), "{refused}");
    register_as(&mut driver, "", registration("first")).unwrap();
    register_as(&mut driver, "ada", registration("a")).unwrap();
    driver.state.instances_len = limits::INSTANCES_MAX;
    let refused = register_as(&mut driver, "ada", registration("b")).unwrap_err();
    assert!(refused.contains("at most 2000000 in the whole registry,"), "{refused}");

    driver.state.instances_len = 2;
    driver.state.registrations_len = limits::OPEN_REGISTRATIONS_LEN_MAX;
    let longer = || {
        let mut longer = registration("first");
        longer.metadata = Arc::new([(Name::trusted("k"), "v".into())]);
        longer
    };
    let refused = register_as(&mut driver, "", longer()).unwrap_err();
    assert!(refused.contains("registrations must be at most"), "{refused}");
    register_as(&mut driver, "ada", longer()).unwrap();
    register_as(&mut driver, "", registration("first")).expect("a shorter one always fits");
    driver.state.registrations_len = limits::REGISTRATIONS_LEN_MAX;
    register_as(&mut driver, "ada", registration("b")).unwrap_err();
}

#[test]
fn the_length_of_registrations_follows_every_change_and_a_snapshot_has_it() {
    let mut driver = Driver::new();
    for id in ["a", "b"] {
        driver.register(id);
    }
    let mut longer = registration("a");
    longer.tags = Arc::new(["blue".into()]);
    driver.register_with(longer.clone());
    let both = longer.stored_len() + registration("b").stored_len();
    assert_eq!(driver.state.registrations_len(), both);
    let mut bytes = Vec::new();
    driver.state.write_to(&mut bytes).unwrap();
    let read = ControlState::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!(read.registrations_len(), both);
    for id in ["a", "b"] {
        let key = key().instance(Name::trusted(id));
        let item = Deregistration { key, lease_epoch: None, forget_drain: false };
        driver.propose(None, Command::Deregister { items: vec![item] });
    }
    assert_eq!(driver.state.registrations_len(), 0);
}

#[test]
fn tags_keep_their_order_and_their_repeats() {
    let mut driver = Driver::new();
    let tags: Arc<[Box<str>]> =
        ["b".into(), "a".into(), "b".into(), "x".repeat(1_024).into()].into();
    let tagged = Registration { tags: Arc::clone(&tags), ..registration("a") };
    let epoch = driver.register_with(tagged.clone().normalised());
    assert_eq!(driver.instance("a").unwrap().registration.tags, tags);
    assert_eq!(driver.register_with(tagged.normalised()), epoch);
    for (tag, refused) in [
        ("x".repeat(1_025), "tags must be 1 to 1024 bytes long"),
        (String::new(), "tags must be 1 to 1024 bytes long"),
        ("a\nb".into(), "tags must be free of control characters"),
    ] {
        let bad = Registration { tags: [tag.into()].into(), ..registration("b") };
        let error = register_as(&mut driver, "ada", bad).unwrap_err();
        assert!(error.contains(refused), "{error}");
    }
}

#[test]
fn instances_share_the_texts_that_are_equal_and_a_snapshot_shares_them_again() {
    let mut driver = Driver::new();
    let in_zone = |id: &str, zone: &str| Registration {
        zone: Some(Name::trusted(zone)),
        version: Some(Name::trusted("1")),
        node: Some(Name::trusted("m1")),
        tags: ["blue".into()].into(),
        metadata: [(Name::trusted("owner"), "ada".into())].into(),
        ..registration(id)
    };
    driver.register_with(in_zone("a", "eu"));
    driver.register_with(in_zone("c", "us"));
    driver.register_with(in_zone("b", "eu"));
    let shares = |state: &ControlState, one: &str, other: &str| {
        let service = state.service(&key()).unwrap();
        let of = |id: &str| service.instances[&Name::trusted(id)].registration.clone();
        let (one, other) = (of(one), of(other));
        let name = |name: &Option<Name>| name.as_ref().unwrap().as_str().as_ptr();
        (
            name(&one.zone) == name(&other.zone),
            [
                name(&one.version) == name(&other.version),
                name(&one.node) == name(&other.node),
                Arc::ptr_eq(&one.tags, &other.tags),
                Arc::ptr_eq(&one.metadata, &other.metadata),
            ],
        )
    };
    let mut bytes = Vec::new();
    driver.state.write_to(&mut bytes).unwrap();
    let read = ControlState::read_from(&mut bytes.as_slice()).unwrap();
    for state in [&driver.state, &read] {
        assert_eq!(shares(state, "a", "b"), (true, [true; 4]));
        assert_eq!(shares(state, "b", "c"), (false, [true; 4]));
    }
    assert_eq!(read.digest(), driver.state.digest());
}

#[test]
fn an_equal_registration_of_a_permanent_instance_changes_nothing() {
    let mut driver = Driver::new();
    let permanent = Registration { expiry: Expiry::Never, ..registration("a") };
    let epoch = driver.register_with(permanent.clone());
    let (before, events) = (Arc::clone(driver.instance("a").unwrap()), driver.events.len());
    assert_eq!(driver.register_with(permanent), epoch);
    assert_eq!((driver.instance("a"), driver.events.len()), (Some(&before), events));
    assert!(driver.register_with(registration("a")) > epoch, "with a lease it is another one");
}

#[test]
fn the_commands_whose_records_are_kept_for_long_are_those_of_the_classes_identities_and_settings() {
    use super::super::audit_class::AuditClass::{Identities, Settings};
    for command in crate::fuzz::commands() {
        let class = describe(&command).0.class();
        let expected = matches!(class, Identities | Settings);
        assert_eq!(command.is_long_kept(), expected, "{command:?}");
    }
}
