//! Fuzz targets. Any log entry is decoded or refused, and has the same effect on every replica. Any snapshot
//! is decoded or refused.

use maxine_fuzzing::Target;

use super::log_entry::{decode_batch, encode_batch};
use super::*;

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "command", run: command, seeds: command_seeds },
    Target { name: "snapshot", run: snapshot, seeds: snapshot_seeds },
];

/// Two replicas apply an entry that can be decoded. One of them was restored from the other's snapshot.
fn command(bytes: &[u8]) {
    let Ok(batch) = decode_batch(bytes) else { return };
    let again = encode_batch(&batch).expect("what was read can be written");
    assert_eq!(decode_batch(&again).expect("our own"), batch);
    let mut state = ControlState::default();
    let mut events = Vec::new();
    for proposal in batch.proposals.iter().take(64) {
        let mut other = restored(&state);
        let (before, mut other_events) = (events.len(), Vec::new());
        let applied = state.apply(proposal, &mut events);
        assert_eq!(other.apply(proposal, &mut other_events), applied);
        assert_eq!(other_events, events[before..]);
        assert_eq!(other.digest(), state.digest(), "replicas differ after {proposal:?}");
    }
    assert!(events.is_sorted_by(|a, b| a.index < b.index), "two events have one index");
}

fn restored(state: &ControlState) -> ControlState {
    let mut bytes = Vec::new();
    state.write_to(&mut bytes).expect("memory takes it");
    ControlState::read_from(&mut bytes.as_slice()).expect("our own")
}

/// A policy in which every part is set.
fn policy() -> ServicePolicy {
    let text = |text: &str| text.to_owned();
    let field = |name: &str| (text(name), text("1"));
    ServicePolicy {
        selection: SelectionPolicy {
            strategy: Some(SelectionStrategy::ConsistentHash),
            hash_key: HashKey::Header(text("x-user")),
        },
        probe: Some(ProbeSpec {
            kind: ProbeKind::Http,
            path: text("/health"),
            headers: vec![field("x-probe")],
            expected_statuses: vec![200, 204],
            expected_body: Some(text("ok")),
            readiness_path: Some(text("/ready")),
            ..ProbeSpec::default()
        }),
        health: Some(HealthPolicy::default()),
        traffic: TrafficPolicy {
            retries: Some(RetryPolicy { statuses: vec![503], ..RetryPolicy::default() }),
            hedging: Some(HedgingPolicy::default()),
            circuit_breaker: Some(CircuitBreakerPolicy::default()),
            outlier_ejection: Some(OutlierPolicy::default()),
            rate_limit: Some(RateLimitPolicy {
                requests_per_s: 100,
                burst: 10,
                scope: RateLimitScope::Client,
            }),
            request_headers: HeaderRules {
                remove: vec![text("x-a")],
                set: vec![field("x-b")],
                add: vec![field("x-c")],
            },
            rewrite: Some(RewritePolicy { strip_prefix: text("/a"), add_prefix: text("/b") }),
            prefix: Some(PrefixPolicy::default()),
            options: OptionsPolicy::Forward,
            split: vec![VersionShare { version: Name::trusted("v2"), weight: 5 }],
            mirror: Some(MirrorPolicy {
                service: Name::trusted("shadow"),
                percent: 10,
                body_len_max: 65_536,
                in_flight_max: 64,
            }),
            sticky: Some(StickyPolicy::Cookie { name: text("sticky"), max_age_s: 60 }),
            zone: Some(ZonePolicy::default()),
            protocol: UpstreamProtocol::Http2,
            insecure_tls: true,
            latency_aware: true,
            ..TrafficPolicy::default()
        },
    }
}

/// A lock session with every field.
fn lock_session(instance: &InstanceKey) -> LockSessionSpec {
    LockSessionSpec {
        name: "leader".into(),
        node: "m1".into(),
        ttl_ms: Some(10_000),
        behavior: LockBehavior::Release,
        lock_delay_ms: 15_000,
        checks: vec![
            LockSessionCheck { instance: instance.clone(), check: Some(Name::trusted("probe")) },
            LockSessionCheck { instance: instance.clone(), check: None },
        ],
    }
}

fn kv(ops: Vec<(&str, KvAction)>) -> Command {
    let op = |(key, action)| KvOp { key: KvKey::parse(key).expect("a key"), action };
    Command::ChangeKv { ops: ops.into_iter().map(op).collect() }
}

fn content() -> KvContent {
    KvContent { value: b"v".as_slice().into(), flags: 3 }
}

/// Every command, and some that are refused.
pub(crate) fn commands() -> Vec<Command> {
    let key = ServiceKey::new(Name::trusted("default"), Name::trusted("orders"));
    let address = Address::parse("http://10.0.0.1:80").expect("an address");
    let registration = Registration::new(Name::trusted("a"), address.clone(), 5_000);
    let heavy = Registration { weight: 101, ..registration.clone() };
    let full = Registration {
        expiry: Expiry::Never,
        zone: Some(Name::trusted("eu")),
        version: Some(Name::trusted("1")),
        node: Some(Name::trusted("m1")),
        tags: ["b".into(), "a".into(), "b".into()].into(),
        metadata: [(Name::trusted("owner"), "ada".into())].into(),
        checks: [
            Check::probe(ProbeSpec::default()),
            Check {
                id: Name::trusted("ttl"),
                kind: CheckKind::Ttl { ttl_ms: 9_000, initial: CheckStatus::Passing },
            },
        ]
        .into(),
        ..Registration::new(Name::trusted("b"), address.clone(), 5_000)
    };
    let instance = key.instance(Name::trusted("a"));
    let put_policy = |policy, expected_revision| Command::PutPolicy {
        key: key.clone(),
        policy: Some(Box::new(policy)),
        expected_revision,
        create: true,
    };
    let unprobed = ServicePolicy {
        probe: Some(ProbeSpec { fall: 0, ..ProbeSpec::default() }),
        ..ServicePolicy::default()
    };
    let ada = Name::trusted("ada");
    let session = EndedSession { issued_at_s: 1, expires_at_s: 2, id: 3 };
    let health =
        Health { readiness: Readiness::Ready, reason: "status 200".into(), ..Health::default() };
    let removed = Deregistration { key: instance.clone(), lease_epoch: None, forget_drain: true };
    let checked = key.instance(Name::trusted("b"));
    let report = |status, check: &str| Command::ReportCheck {
        key: checked.clone(),
        check: Name::trusted(check),
        lease_epoch: None,
        report: CheckReport { status, output: "91 % full".into() },
    };
    let expiry = CheckExpiry {
        key: checked.clone(),
        check: Name::trusted("ttl"),
        reported_index: 25,
        output: "no report".into(),
    };
    let token = TokenRecord {
        id: Name::trusted("t"),
        note: "for tests".into(),
        role: Role::Operator,
        token_hash: [7; 32],
        created_by: ada.clone(),
        created_at_ms: 1,
        expires_at_ms: Some(2),
    };
    let signing_key = SigningKey {
        key_id: Name::trusted("k"),
        secret: [9; 32].as_slice().into(),
        created_at_ms: 1,
    };
    let next_key = SigningKey { key_id: Name::trusted("l"), ..signing_key.clone() };
    vec![
        Command::GrantLeadership { holder: Name::trusted("node-1") },
        Command::Register {
            items: vec![(key.clone(), registration), (key.clone(), heavy), (key.clone(), full)],
        },
        Command::SetDrain { key: instance.clone(), reason: Some("update".into()) },
        put_policy(policy(), Some(0)),
        put_policy(ServicePolicy::default(), Some(0)),
        put_policy(unprobed, None),
        Command::PutConfig { config: RuntimeConfig::default(), expected_revision: None },
        Command::PutUser {
            name: ada.clone(),
            role: Role::Admin,
            password_hash: "x".into(),
            managed: true,
            create_only: true,
            expected_version: None,
        },
        Command::DeleteUser { name: ada.clone() },
        Command::DeleteUser { name: Name::trusted("nobody") },
        Command::RotateSigningKey { key: signing_key, keep_previous: 1 },
        Command::PutToken { token },
        Command::DeleteToken { id: Name::trusted("t") },
        Command::RecordAudit { items: vec![(AuditAction::SessionCreate, "ada".into(), false)] },
        Command::BeginHistory {
            before: None,
            history: History::from_random(5),
            line: 1,
            signing_key: next_key,
        },
        Command::IdentifyCluster { id: Name::trusted("c") },
        Command::EndSession { name: ada, credential_version: 0, session },
        Command::ReportHealth {
            items: vec![HealthReport { key: instance.clone(), address_index: 2, health }],
        },
        Command::Expire { items: vec![(instance, 2)] },
        Command::Deregister { items: vec![removed] },
        Command::ExpireAudit { now_ms: 1_795_440_992_705 },
        Command::RaiseStateVersion { to: 1 },
        report(CheckStatus::Warning, "ttl"),
        report(CheckStatus::Passing, "nothing"),
        Command::ExpireChecks { items: vec![expiry] },
        Command::RaiseStateVersion { to: 2 },
        Command::RecordUnknown { items: vec![(AuditAction::MemberRemove, "3, forced".into())] },
        Command::RaiseStateVersion { to: 3 },
        Command::PutConfig {
            config: RuntimeConfig { kv_keys_max: Some(9), ..RuntimeConfig::default() },
            expected_revision: None,
        },
        Command::CreateLockSession { id: LockSessionId(7), spec: lock_session(&checked) },
        Command::CreateLockSession {
            id: LockSessionId(8),
            spec: LockSessionSpec {
                behavior: LockBehavior::Delete,
                lock_delay_ms: 0,
                checks: Vec::new(),
                ..lock_session(&checked)
            },
        },
        kv(vec![
            ("a/1", KvAction::Put { content: content(), expected: Some(0) }),
            ("a/2", KvAction::Lock { content: None, session: LockSessionId(7) }),
            ("a/3", KvAction::Lock { content: Some(content()), session: LockSessionId(8) }),
            ("a/1", KvAction::Get { must_exist: true }),
            ("a/2", KvAction::CheckSession { session: LockSessionId(7) }),
            ("a/4", KvAction::CheckAbsent),
        ]),
        kv(vec![("a/1", KvAction::CheckIndex { index: 1 })]),
        kv(vec![
            ("a/2", KvAction::Unlock { content: Some(content()), session: LockSessionId(7) }),
            ("a/2", KvAction::Lock { content: None, session: LockSessionId(7) }),
            ("a/1", KvAction::Delete { expected: None }),
            ("b", KvAction::DeleteTree),
        ]),
        Command::EndLockSession { id: LockSessionId(7) },
        Command::ExpireLockSessions { items: vec![(LockSessionId(8), 1)] },
        Command::EndLockDelays { items: vec![LockSessionId(9)] },
        #[cfg(feature = "next")]
        Command::SetNote { note: "a".into() },
    ]
}

fn batch() -> Batch {
    let proposals = commands().into_iter().zip(1_u128..).map(|(command, id)| Proposal {
        request_id: RequestId(id),
        proposed_at_ms: 1_795_440_992_705,
        fence: command.is_leader_only().then_some(Fence(1)),
        actor: Actor {
            user: "u".into(),
            address: "10.0.0.1".into(),
            trace_id: "t".into(),
            via_node: None,
        },
        command,
    });
    Batch { proposals: proposals.collect() }
}

fn command_seeds() -> Vec<Vec<u8>> {
    let whole = batch();
    let alone = whole.proposals.iter().map(|one| Batch { proposals: vec![one.clone()] });
    alone
        .chain([whole.clone()])
        .map(|batch| encode_batch(&batch).expect("within the limits"))
        .collect()
}

/// A snapshot that was read and written again has the same state.
fn snapshot(bytes: &[u8]) {
    let Ok(state) = ControlState::read_from(&mut { bytes }) else { return };
    assert_eq!(restored(&state).digest(), state.digest());
}

fn snapshot_seeds() -> Vec<Vec<u8>> {
    let mut state = ControlState::default();
    let mut seeds = Vec::new();
    for proposal in &batch().proposals {
        state.apply(proposal, &mut Vec::new());
        let mut bytes = Vec::new();
        state.write_to(&mut bytes).expect("memory takes it");
        seeds.push(bytes);
    }
    seeds
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sha2::{Digest as _, Sha256};

    use super::*;

    fn hash(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The length and the hash of each command of [`commands`], as the log stores it.
    const BYTES: &[(usize, &str)] = &[
        (44, "3d71293377229065"),
        (243, "47e056da185e34c1"),
        (62, "a4b117a921413270"),
        (337, "ff4a32eb5aae7471"),
        (112, "a7cfd7cc3329a0ab"),
        (133, "f0dbcdce40e9935a"),
        (45, "c48fbc970231e58a"),
        (47, "fd28ddd925c19743"),
        (41, "95f193bbb59b380d"),
        (44, "8628785c8955e66c"),
        (75, "35411f3b2d396bcd"),
        (90, "7637c5528ac7ff68"),
        (39, "8705cc028d708d1e"),
        (44, "e272beffedf3e89b"),
        (77, "89508b65f35543fb"),
        (39, "2f461e118b2ba949"),
        (46, "79596f8924b51e58"),
        (74, "d1ab08d48d406e63"),
        (57, "8d7f07287380ac0b"),
        (58, "a32c8bb405e3fda4"),
        (47, "c15fe4b96af0337d"),
        (38, "5cd24da9cdc51a4f"),
        (71, "40b027cb6cadba71"),
        (75, "570b976eb629a9a2"),
        (72, "9f75cfb718a01d4f"),
        (38, "3bdc86117be1d000"),
        (49, "4f8dec34ee971660"),
        (38, "f72a54a02a6731a6"),
        (48, "3cfdd91efade6463"),
        (102, "a48e2a91a2c575f2"),
        (56, "0e228ed4c6e4c2f1"),
        (90, "50d8a8b52653949e"),
        (45, "a0deb08dde923bff"),
        (69, "bc2f3daa5464dfa3"),
        (38, "283c665525520d82"),
        (41, "ba986e9414f05a16"),
        (40, "a59603c80a8910a2"),
    ];

    /// A change of these numbers changes what disks contain and what other nodes understand. New commands,
    /// fields and variants are appended and need a newer version of the state. They leave these numbers
    /// unchanged.
    #[test]
    fn the_bytes_of_every_command_never_change() {
        let found: Vec<(usize, String)> =
            command_seeds().iter().map(|bytes| (bytes.len(), hash(bytes))).collect();
        let found: Vec<(usize, &str)> =
            found[..BYTES.len()].iter().map(|(n, h)| (*n, &**h)).collect();
        assert_eq!(found, BYTES);
        let kinds: BTreeSet<_> =
            commands().iter().map(|c| format!("{:?}", std::mem::discriminant(c))).collect();
        let later = usize::from(cfg!(feature = "next"));
        assert_eq!(kinds.len(), 27 + later, "every kind of command is among them");
        let of_this = |command: &&Command| command.needs() <= 3;
        assert_eq!(commands().iter().filter(of_this).count(), BYTES.len());
    }

    /// Builds of different versions must reach the same state, with the same refusals and audit records. This
    /// test compares this build and the next one while the state has the first version.
    #[test]
    fn the_state_that_commands_lead_to_never_changes() {
        let mut state = ControlState::default();
        let proposals = batch().proposals;
        for proposal in proposals.iter().filter(|proposal| proposal.command.needs() == 1) {
            state.apply(proposal, &mut Vec::new());
        }
        let digest = state.digest();
        assert_eq!((digest.index, &digest.digest[..16]), (27, "e2e3b77f29639cf4"));
        // The same once more in the second version, which classifies audit records otherwise.
        let of = |needs| proposals.iter().filter(move |proposal| proposal.command.needs() == needs);
        for (proposal, id) in of(2).chain(of(1)).zip(1_000..) {
            let proposal = Proposal { request_id: RequestId(id), ..proposal.clone() };
            state.apply(&proposal, &mut Vec::new());
        }
        let digest = state.digest();
        assert_eq!(state.version(), 2);
        assert_eq!((digest.index, &digest.digest[..16]), (55, "8bf3879d535dc717"));
        // Keys and lock sessions of the third version.
        for (proposal, id) in of(3).zip(2_000..) {
            let fence = proposal.fence.and(state.grant().map(|grant| grant.fence));
            let proposal = Proposal { request_id: RequestId(id), fence, ..proposal.clone() };
            state.apply(&proposal, &mut Vec::new());
        }
        let digest = state.digest();
        assert_eq!(state.version(), 3);
        assert_eq!(state.kv().entries().len(), 2, "what was stored is in the digest");
        assert_eq!((digest.index, &digest.digest[..16]), (65, "a2b58cbc2a23e7fd"));
    }

    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
