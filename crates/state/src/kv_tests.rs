use super::super::address::Address;
use super::super::check::CheckKind;
use super::super::command::{Actor, Applied, Command, Deregistration, Fence, Proposal, RequestId};
use super::super::event::Event;
use super::super::instance::{Expiry, Registration};
use super::super::kv::{KvAction, KvContent, KvEntry, KvMeta, KvRefusal};
use super::super::kv_key::KvKey;
use super::super::lock_session::LockBehavior;
use super::super::name::ServiceKey;
use super::super::runtime_config::RuntimeConfig;
use super::super::{AuditClass, CheckReport};
use super::*;

/// Applies commands one after the other, each with its own request id.
struct Driver {
    state: ControlState,
    events: Vec<Event>,
    requests: u128,
}

const ONE: LockSessionId = LockSessionId(1);
const TWO: LockSessionId = LockSessionId(2);

impl Driver {
    fn new() -> Self {
        let state = ControlState::default();
        let mut driver = Self { state, events: Vec::new(), requests: 0 };
        driver.apply(Command::RaiseStateVersion { to: 3 });
        driver.apply(Command::GrantLeadership { holder: Name::trusted("node-1") });
        driver
    }

    fn apply(&mut self, command: Command) -> Applied {
        self.requests += 1;
        let fence = self.state.grant().map(|grant| grant.fence);
        let proposal = Proposal {
            request_id: RequestId(self.requests),
            proposed_at_ms: 1_000 + self.requests as u64,
            fence: fence.filter(|_| command.is_leader_only()),
            actor: Actor { user: "ada".into(), ..Actor::system("test") },
            command,
        };
        self.state.apply(&proposal, &mut self.events)
    }

    fn kv(&mut self, ops: &[(&str, KvAction)]) -> Reply {
        let op = |(key, action): &(&str, KvAction)| KvOp {
            key: KvKey::parse_prefix(key).unwrap(),
            action: action.clone(),
        };
        self.apply(Command::ChangeKv { ops: ops.iter().map(op).collect() }).reply
    }

    fn meta(&mut self, key: &str, action: KvAction) -> KvMeta {
        match self.kv(&[(key, action)]) {
            Reply::Kv(metas) => metas[0].unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(&mut self, key: &str, action: KvAction) -> KvRefusal {
        match self.kv(&[(key, action)]) {
            Reply::KvRefused { at: 0, why } => why,
            other => panic!("{other:?}"),
        }
    }

    fn session(&mut self, id: LockSessionId, spec: LockSessionSpec) {
        let reply = self.apply(Command::CreateLockSession { id, spec }).reply;
        assert!(matches!(reply, Reply::Revision(_)), "{reply:?}");
    }

    fn entry(&self, key: &str) -> Option<&KvEntry> {
        self.state.kv().entry(key).map(AsRef::as_ref)
    }

    fn actions(&self) -> Vec<&'static str> {
        self.state.audit().records().into_iter().map(|record| record.action.as_str()).collect()
    }
}

fn put(value: &str, expected: Option<u64>) -> KvAction {
    KvAction::Put { content: content(value), expected }
}

fn content(value: &str) -> KvContent {
    KvContent { value: value.as_bytes().into(), flags: 0 }
}

fn lock(session: LockSessionId) -> KvAction {
    KvAction::Lock { content: None, session }
}

fn spec() -> LockSessionSpec {
    LockSessionSpec {
        name: "n".into(),
        node: "m".into(),
        ttl_ms: Some(10_000),
        behavior: LockBehavior::Release,
        lock_delay_ms: 5_000,
        checks: Vec::new(),
    }
}

#[test]
fn a_key_is_changed_under_the_condition_of_its_index() {
    let mut driver = Driver::new();
    let made = driver.meta("a", put("1", Some(0)));
    assert_eq!((made.create_index, made.lock_index), (made.modify_index, 0));
    let actual = made.modify_index;
    assert_eq!(driver.refusal("a", put("2", Some(0))), KvRefusal::Index { actual });
    assert_eq!(driver.refusal("a", put("2", Some(actual + 1))), KvRefusal::Index { actual });
    let changed = driver.meta("a", put("2", Some(actual)));
    assert_eq!(changed.create_index, made.create_index);
    assert!(changed.modify_index > made.modify_index);
    // An equal value is no change, so nobody is woken.
    let events = driver.events.len();
    assert_eq!(driver.meta("a", put("2", None)), changed);
    assert_eq!(driver.events.len(), events);
    let delete = |expected| KvAction::Delete { expected };
    assert!(matches!(driver.refusal("a", delete(Some(0))), KvRefusal::Index { .. }));
    assert_eq!(driver.kv(&[("a", delete(Some(changed.modify_index)))]), Reply::Kv(vec![None]));
    assert_eq!(driver.kv(&[("a", delete(Some(7)))]), Reply::Kv(vec![None]), "it is gone already");
    assert_eq!(driver.state.kv().stored_len(), 0);
    assert_eq!(driver.refusal("a", KvAction::Get { must_exist: true }), KvRefusal::Missing);
}

#[test]
fn a_prefix_has_the_index_of_its_own_changes_and_deletions() {
    let mut driver = Driver::new();
    let below = driver.meta("app/a", put("1", None)).modify_index;
    let other = driver.meta("b", put("1", None)).modify_index;
    let kv = |driver: &Driver| std::sync::Arc::clone(driver.state.kv());
    assert_eq!(kv(&driver).index_below("app/"), below);
    assert_eq!(kv(&driver).index_below(""), other);
    assert_eq!((kv(&driver).index_of("app/a"), kv(&driver).index_of("none")), (below, 0));
    driver.kv(&[("app/a", KvAction::Delete { expected: None })]);
    let gone = driver.state.index();
    assert_eq!((kv(&driver).index_below("app/"), kv(&driver).index_of("app/a")), (gone, gone));
    driver.meta("b", put("2", None));
    assert_eq!(kv(&driver).index_below("app/"), gone, "a foreign change");
    let names: Vec<_> = kv(&driver).below("", None).map(|entry| entry.key.to_string()).collect();
    assert_eq!(names, ["b"]);
}

#[test]
fn old_deletions_are_forgotten_and_no_index_goes_back() {
    let mut driver = Driver::new();
    let kv = Arc::make_mut(&mut driver.state.kv);
    for (at, index) in (0..limits::KV_GONE_MAX).zip(1_000..) {
        kv.gone.insert(KvKey::parse(&format!("k/{at}")).unwrap(), index);
    }
    driver.state.index = 1_000_000;
    driver.meta("k/new", put("v", None));
    assert_eq!(driver.state.kv().index_of("k/0"), 1_000);
    driver.kv(&[("k/new", KvAction::Delete { expected: None })]);
    let kv = driver.state.kv();
    assert!(kv.gone.len() <= limits::KV_GONE_MAX / 2 + 1, "{}", kv.gone.len());
    let forgotten = kv.forgotten_index;
    assert!((1_000..100_000).contains(&forgotten), "{forgotten}");
    assert_eq!((kv.index_of("k/0"), kv.index_below("k/0")), (forgotten, forgotten));
    assert_eq!((kv.index_of("never"), kv.index_below("k/")), (forgotten, driver.state.index()));
}

#[test]
fn a_transaction_is_carried_out_whole_or_not_at_all() {
    let mut driver = Driver::new();
    driver.meta("a", put("1", None));
    let (index, len, digest) =
        (driver.state.index(), driver.state.kv().stored_len(), driver.entry("a").cloned());
    let failing = [
        ("a", put("2", None)),
        ("b", put("1", None)),
        ("c", KvAction::Get { must_exist: true }),
        ("d", put("1", None)),
    ];
    assert_eq!(driver.kv(&failing), Reply::KvRefused { at: 2, why: KvRefusal::Missing });
    assert_eq!((driver.state.kv().stored_len(), driver.entry("a").cloned()), (len, digest));
    assert!(driver.entry("b").is_none());
    let events = driver.events.len();
    let works = [
        ("a", put("2", None)),
        ("b", put("1", Some(0))),
        ("b", KvAction::CheckSession { session: ONE }),
    ];
    assert_eq!(driver.kv(&works), Reply::KvRefused { at: 2, why: KvRefusal::NotHeld });
    let Reply::Kv(metas) = driver.kv(&works[..2]) else { panic!("it is carried out") };
    assert!(driver.state.index() > index);
    let indexes: Vec<u64> = metas.iter().map(|meta| meta.unwrap().modify_index).collect();
    assert_eq!(indexes, [driver.state.index(); 2], "it is one change");
    assert_eq!(driver.events.len(), events + 1);
    let too_many = vec![("a", KvAction::CheckAbsent); limits::KV_OPS_MAX + 1];
    assert!(matches!(driver.kv(&too_many), Reply::Rejected(Rejection::Limit(_))));
}

#[test]
fn a_lock_has_one_holder_and_a_token_that_grows() {
    let mut driver = Driver::new();
    driver.session(ONE, spec());
    driver.session(TWO, spec());
    let first = driver.meta("l", lock(ONE));
    assert_eq!((first.lock_index, first.session), (first.modify_index, Some(ONE)));
    assert_eq!(driver.meta("l", lock(ONE)), first, "taking it again changes nothing");
    assert_eq!(driver.refusal("l", lock(TWO)), KvRefusal::Held { by: ONE });
    let unlock = |session| KvAction::Unlock { content: None, session };
    assert_eq!(driver.refusal("l", unlock(TWO)), KvRefusal::NotHeld);
    // Locks are advisory: a plain write is allowed, and keeps the lock.
    assert_eq!(driver.meta("l", put("v", None)).session, Some(ONE));
    assert_eq!(driver.meta("l", unlock(ONE)).session, None);
    assert_eq!(driver.entry("l").unwrap().content, content("v"));
    let second = driver.meta("l", lock(TWO));
    assert_eq!(second.session, Some(TWO), "released without a delay");
    assert!(second.lock_index > first.lock_index, "{second:?}");
    // Also if the key was deleted, with its lock or without.
    driver.meta("l", unlock(TWO));
    driver.kv(&[("l", KvAction::Delete { expected: None })]);
    let third = driver.meta("l", lock(TWO));
    assert!(third.lock_index > second.lock_index, "{third:?}");
    driver.kv(&[("l", KvAction::Delete { expected: None })]);
    driver.meta("l", put("v", None));
    let fourth = driver.meta("l", lock(TWO));
    assert!(fourth.lock_index > third.lock_index, "{fourth:?}");
    assert_eq!(driver.refusal("l", lock(LockSessionId(9))), KvRefusal::NoSession);
    assert_eq!(driver.state.kv().held_by(TWO).count(), 1);
    assert_eq!(driver.state.kv().held_by(ONE).count(), 0);
}

#[test]
fn the_end_of_a_session_frees_its_keys_after_the_lock_delay() {
    let mut driver = Driver::new();
    driver.session(ONE, spec());
    driver.session(TWO, LockSessionSpec { behavior: LockBehavior::Delete, ..spec() });
    let first_token = driver.meta("kept", lock(ONE)).lock_index;
    driver.meta("deleted", lock(TWO));
    let created = driver.state.kv().session(ONE).unwrap().create_index;
    let expire = |at| Command::ExpireLockSessions { items: vec![(ONE, at)] };
    assert_eq!(driver.apply(expire(created + 1)).reply, Reply::Changed(vec![false]), "another one");
    assert_eq!(driver.apply(expire(created)).reply, Reply::Changed(vec![true]));
    assert_eq!(driver.apply(Command::EndLockSession { id: TWO }).reply, Reply::Changed(vec![true]));
    assert_eq!(
        driver.apply(Command::EndLockSession { id: TWO }).reply,
        Reply::Changed(vec![false])
    );
    let freed = driver.entry("kept").unwrap().meta;
    assert_eq!((freed.session, freed.lock_index), (None, first_token));
    assert!(driver.entry("deleted").is_none());
    let next = LockSessionId(3);
    driver.session(next, LockSessionSpec { lock_delay_ms: 0, ..spec() });
    for key in ["kept", "deleted"] {
        assert_eq!(driver.refusal(key, lock(next)), KvRefusal::Delayed);
    }
    driver.meta("deleted", put("v", None));
    let ends = Command::EndLockDelays { items: vec![ONE, TWO, next] };
    assert_eq!(driver.apply(ends).reply, Reply::Changed(vec![true, true, false]));
    assert!(driver.meta("kept", lock(next)).lock_index > first_token);
    driver.meta("deleted", lock(next));
    driver.apply(Command::EndLockSession { id: next });
    assert!(driver.state.kv().delays().is_empty(), "it asked for no delay");
    let actions = driver.actions();
    for action in ["kv.put", "kv.lock", "lock_session.expire", "lock_session.destroy"] {
        assert!(actions.contains(&action), "{action}");
    }
}

#[test]
fn only_the_leader_ends_sessions_and_delays_by_time() {
    let mut driver = Driver::new();
    driver.session(ONE, spec());
    for command in [
        Command::ExpireLockSessions { items: vec![(ONE, 1)] },
        Command::EndLockDelays { items: vec![ONE] },
    ] {
        let proposal = Proposal {
            request_id: RequestId(1 << 64),
            proposed_at_ms: 1,
            fence: Some(Fence(999)),
            actor: Actor::system("test"),
            command,
        };
        let reply = driver.state.clone().apply(&proposal, &mut Vec::new()).reply;
        assert!(matches!(reply, Reply::Rejected(Rejection::StaleFence { .. })), "{reply:?}");
    }
}

#[test]
fn a_failed_check_or_a_lost_instance_ends_the_session() {
    let mut driver = Driver::new();
    let service = ServiceKey::new(Name::trusted("default"), Name::trusted("web"));
    let key = service.instance(Name::trusted("a"));
    let kind = CheckKind::Ttl { ttl_ms: 9_000, initial: CheckStatus::Passing };
    let address = Address::parse("http://10.0.0.1:80").unwrap();
    let registration = Registration {
        expiry: Expiry::Never,
        checks: [Check { id: Name::trusted("ttl"), kind }].into(),
        ..Registration::new(key.instance.clone(), address, 5_000)
    };
    let register = Command::Register { items: vec![(service, registration)] };
    let report = |status| Command::ReportCheck {
        key: key.clone(),
        check: Name::trusted("ttl"),
        lease_epoch: None,
        report: CheckReport { status, output: "".into() },
    };
    let bound = |check: Option<&str>| LockSessionSpec {
        checks: vec![LockSessionCheck { instance: key.clone(), check: check.map(Name::trusted) }],
        ..spec()
    };
    let create = |id, spec| Command::CreateLockSession { id, spec };
    let reply = driver.apply(create(ONE, bound(None))).reply;
    assert!(matches!(reply, Reply::Rejected(Rejection::NotFound { .. })), "{reply:?}");
    driver.apply(register);
    driver.session(ONE, bound(Some("ttl")));
    driver.session(TWO, bound(None));
    driver.meta("l", lock(ONE));
    driver.apply(report(CheckStatus::Warning));
    assert!(driver.state.kv().session(ONE).is_some());
    driver.apply(report(CheckStatus::Critical));
    assert!(driver.state.kv().session(ONE).is_none(), "its check failed");
    assert_eq!(driver.entry("l").unwrap().meta.session, None);
    assert!(driver.state.kv().session(TWO).is_some(), "it depends on the instance only");
    let reply = driver.apply(create(LockSessionId(3), bound(Some("ttl")))).reply;
    assert!(matches!(reply, Reply::Rejected(Rejection::Limit(_))), "{reply:?}");
    let item = Deregistration { key: key.clone(), lease_epoch: None, forget_drain: false };
    driver.apply(Command::Deregister { items: vec![item] });
    assert!(driver.state.kv().session(TWO).is_none(), "its instance left");
    let indexes: Vec<u64> = driver.events.iter().map(|event| event.index).collect();
    assert!(indexes.is_sorted_by(|a, b| a < b), "{indexes:?}");
}

#[test]
fn the_configuration_limits_keys_and_bytes() {
    let mut driver = Driver::new();
    let config = |keys_max, len_max| Command::PutConfig {
        config: RuntimeConfig {
            kv_keys_max: keys_max,
            kv_len_max: len_max,
            ..RuntimeConfig::default()
        },
        expected_revision: None,
    };
    driver.apply(config(Some(1), Some(limits::KV_LEN_MAX_MIN)));
    let big = "x".repeat(limits::KV_VALUE_LEN_MAX);
    driver.meta("a", put(&big, None));
    let refused = |reply| matches!(reply, Reply::Rejected(Rejection::Limit(_)));
    assert!(refused(driver.kv(&[("b", put("", None))])), "a second key");
    driver.apply(config(None, Some(limits::KV_LEN_MAX_MIN)));
    assert!(refused(driver.kv(&[("b", put(&big, None))])), "more than 1 MiB");
    driver.meta("a", put("small", None));
    driver.meta("b", put(&big, None));
    assert!(refused(driver.kv(&[("c", put(&format!("{big}x"), None))])), "a longer value");
    let refused_config = driver.apply(config(Some(0), None)).reply;
    assert!(matches!(refused_config, Reply::Rejected(Rejection::Limit(_))));
}

/// Writers of keys can write without end. They push out no record about anything else.
#[test]
fn records_of_keys_have_a_class_of_their_own_and_no_values() {
    let mut driver = Driver::new();
    driver.meta("a", put("a secret", None));
    driver.session(ONE, spec());
    assert!(matches!(driver.kv(&[("", KvAction::DeleteTree)]), Reply::Kv(_)));
    let long = "x".repeat(limits::KV_VALUE_LEN_MAX + 1);
    assert!(matches!(driver.kv(&[("b", put(&long, None))]), Reply::Rejected(_)));
    let records = driver.state.audit().records();
    let of_keys = records.iter().filter(|record| record.class == AuditClass::Keys);
    assert_eq!(of_keys.count(), 4, "a refusal too");
    assert!(!format!("{records:?}").contains("a secret"));
    assert!(!format!("{:?}", driver.state.kv()).contains("a secret"));
}

#[test]
fn a_restored_state_is_equal_and_continues_alike() {
    let mut driver = Driver::new();
    driver.session(ONE, spec());
    driver.session(TWO, spec());
    driver.meta("a", lock(ONE));
    driver.meta("b", lock(TWO));
    driver.meta("c", put("v", None));
    driver.kv(&[("c", KvAction::Delete { expected: None })]);
    driver.apply(Command::EndLockSession { id: TWO });
    let mut bytes = Vec::new();
    driver.state.write_to(&mut bytes).unwrap();
    let state = ControlState::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!(state.digest(), driver.state.digest());
    let mut other = Driver { state, events: Vec::new(), requests: driver.requests };
    for driver in [&mut driver, &mut other] {
        assert_eq!(driver.state.kv().index_of("c"), driver.state.kv().index_below("c"));
        driver.session(LockSessionId(3), spec());
        assert_eq!(driver.refusal("b", lock(LockSessionId(3))), KvRefusal::Delayed);
        driver.apply(Command::EndLockSession { id: ONE });
        assert_eq!(driver.entry("a").unwrap().meta.session, None);
    }
    assert_eq!(state_digest(&driver), state_digest(&other));
}

fn state_digest(driver: &Driver) -> String {
    driver.state.digest().digest
}

#[test]
fn the_id_of_a_session_is_a_random_uuid() {
    let id = LockSessionId::from_random(u128::MAX);
    let text = id.to_string();
    assert_eq!(text, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(LockSessionId::parse(&text), Some(id));
    assert_eq!(LockSessionId::parse(&text.to_uppercase()), Some(id));
    for bad in
        ["", "x", "ffffffff-ffff-4fff-bfff-fffffffffff", "ffffffff_ffff-4fff-bfff-ffffffffffff"]
    {
        assert_eq!(LockSessionId::parse(bad), None, "{bad}");
    }
}
