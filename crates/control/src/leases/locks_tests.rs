//! Tests of the leases of lock sessions and of lock delays.

use super::*;
use crate::leases::LeaseId;
use maxine_state::{
    Actor, Address, KvAction, KvKey, KvOp, LockBehavior, LockSessionId, LockSessionSpec, Proposal,
    Registration, RequestId, ServiceKey,
};

const EXTRA_MS: u64 = 1_000;
const TTL_MS: u64 = 3_000;
const DELAY_MS: u64 = 2_000;
const GRACE_MS: u64 = 500;
const ONE: LockSessionId = LockSessionId(1);

/// A leader, and the state that it follows.
struct World {
    state: ControlState,
    leases: Leases,
    requests: u128,
}

impl World {
    fn new(settings: ExpirySettings) -> Self {
        let table = Arc::new(LeaseTable::new(&settings));
        let leases = Leases::new(Name::trusted("n"), settings, EXTRA_MS, table, 0);
        let mut world = Self { state: ControlState::default(), leases, requests: 0 };
        world.change(Command::RaiseStateVersion { to: 3 }, 0);
        world.lead(0);
        world
    }

    /// This node is granted the duties again, as after a change of the leader.
    fn lead(&mut self, now_ms: u64) {
        self.change(Command::GrantLeadership { holder: Name::trusted("n") }, now_ms);
        let fence = self.state.grant().unwrap().fence;
        assert_eq!(self.leases.step(LeaseEvent::DutiesGranted(fence), now_ms), []);
        assert_eq!(self.leases.step(LeaseEvent::State(&self.state), now_ms), []);
    }

    fn change(&mut self, command: Command, now_ms: u64) {
        self.requests += 1;
        let fence = self.state.grant().map(|grant| grant.fence);
        let proposal = Proposal {
            request_id: RequestId(self.requests),
            proposed_at_ms: 1,
            fence: fence.filter(|_| command.is_leader_only()),
            actor: Actor::system("test"),
            command,
        };
        let mut events = Vec::new();
        self.state.apply(&proposal, &mut events);
        let events: Vec<Arc<Event>> = events.into_iter().map(Arc::new).collect();
        let index = self.state.index();
        let changes = LeaseEvent::Changes { events: &events, index };
        assert_eq!(self.leases.step(changes, now_ms), []);
    }

    fn session(&mut self, ttl_ms: Option<u64>, now_ms: u64) {
        let spec = LockSessionSpec {
            name: "".into(),
            node: "".into(),
            ttl_ms,
            behavior: LockBehavior::Release,
            lock_delay_ms: DELAY_MS,
            checks: Vec::new(),
        };
        self.change(Command::CreateLockSession { id: ONE, spec }, now_ms);
    }

    fn lock(&mut self, now_ms: u64) {
        let action = KvAction::Lock { content: None, session: ONE };
        let ops = vec![KvOp { key: KvKey::parse("l").unwrap(), action }];
        self.change(Command::ChangeKv { ops }, now_ms);
    }

    fn renew(&self, now_ms: u64) -> bool {
        self.leases.table().renew(LeaseId::of_session(ONE), 0, now_ms)
    }

    /// Sends ticks at the normal interval, and checks that nothing is due.
    fn quiet(&mut self, from_ms: u64, until_ms: u64) {
        for now_ms in (from_ms..=until_ms).step_by(EXPIRY_TICK_MS as usize) {
            assert_eq!(self.leases.step(LeaseEvent::Tick, now_ms), []);
        }
    }

    /// Sends ticks until something expires, confirms leadership, and applies the expiry. Returns the time and the
    /// commands.
    fn first_expiry(&mut self, mut now_ms: u64) -> (u64, Vec<Command>) {
        let until_ms = now_ms + 60_000;
        while now_ms < until_ms {
            for effect in self.leases.step(LeaseEvent::Tick, now_ms) {
                let LeaseEffect::Confirm { attempt } = effect else { continue };
                let confirmed = LeaseEvent::Confirmed { attempt, leads: true };
                let effects = self.leases.step(confirmed, now_ms);
                if let [LeaseEffect::Expire { attempt, commands, .. }] = &effects[..] {
                    for command in commands {
                        self.change(command.clone(), now_ms);
                    }
                    let outcome = ExpiryOutcome::Applied;
                    let expired = LeaseEvent::Expired { attempt: *attempt, outcome };
                    assert_eq!(self.leases.step(expired, now_ms), []);
                    return (now_ms, commands.clone());
                }
            }
            now_ms += EXPIRY_TICK_MS;
        }
        panic!("nothing expired until {until_ms}");
    }
}

#[test]
fn a_session_ends_after_its_ttl_and_its_lock_delay_is_measured_after_that() {
    let mut world = World::new(ExpirySettings::default());
    world.session(Some(TTL_MS), 0);
    world.lock(100);
    world.quiet(0, 2_000);
    assert!(world.renew(2_000));
    let created = world.state.kv().session(ONE).unwrap().create_index;
    let (ended_ms, commands) = world.first_expiry(2_000);
    assert_eq!(commands, [Command::ExpireLockSessions { items: vec![(ONE, created)] }]);
    assert!((2_000 + TTL_MS..2_000 + TTL_MS + 2 * GRACE_MS).contains(&ended_ms), "{ended_ms}");
    assert!(!world.renew(ended_ms), "it has ended");
    assert!(world.state.kv().is_delayed("l"));
    let (free_ms, commands) = world.first_expiry(ended_ms);
    assert_eq!(commands, [Command::EndLockDelays { items: vec![ONE] }]);
    assert!((DELAY_MS..DELAY_MS + 2 * GRACE_MS).contains(&(free_ms - ended_ms)), "{free_ms}");
    assert!(!world.state.kv().is_delayed("l"));
    assert!(world.leases.table().is_empty());
}

#[test]
fn a_session_without_a_ttl_has_no_lease_and_one_that_ends_early_keeps_none() {
    let mut world = World::new(ExpirySettings::default());
    world.session(None, 0);
    assert!(world.leases.table().is_empty());
    world.change(Command::EndLockSession { id: ONE }, 100);
    world.session(Some(TTL_MS), 200);
    assert_eq!(world.leases.table().len(), 1);
    world.lock(300);
    world.change(Command::EndLockSession { id: ONE }, 400);
    assert!(!world.renew(500));
    let (_, commands) = world.first_expiry(500);
    assert_eq!(commands, [Command::EndLockDelays { items: vec![ONE] }], "only the delay is left");
}

#[test]
fn a_new_leader_grants_sessions_and_delays_their_remaining_time() {
    let mut world = World::new(ExpirySettings::default());
    world.session(Some(TTL_MS), 0);
    world.lock(0);
    world.quiet(0, 1_000);
    assert!(world.renew(1_000));
    world.quiet(1_000, 2_000);
    // The former leader is this node, so it knows the remaining times.
    world.lead(2_000);
    let (ended_ms, _) = world.first_expiry(2_000);
    assert!((1_000 + TTL_MS..1_000 + TTL_MS + 2 * GRACE_MS).contains(&ended_ms), "{ended_ms}");
    // An engine that knows nothing of former times grants the whole time and more.
    let settings = ExpirySettings::default();
    let table = Arc::new(LeaseTable::new(&settings));
    world.leases = Leases::new(Name::trusted("n"), settings, EXTRA_MS, table, 0);
    world.lead(ended_ms);
    let (free_ms, commands) = world.first_expiry(ended_ms);
    assert_eq!(commands, [Command::EndLockDelays { items: vec![ONE] }]);
    assert!(free_ms - ended_ms >= DELAY_MS + EXTRA_MS, "{free_ms}");
}

/// A suspension protects instances from a disturbance of the network. It must not keep the locks of dead processes, and
/// silent sessions must not suspend the expiry of instances.
#[test]
fn a_suspension_of_expiry_keeps_instances_and_ends_sessions() {
    let settings = ExpirySettings { silent_fleet_min: 2, ..ExpirySettings::default() };
    let mut world = World::new(settings);
    let service = ServiceKey::new(Name::trusted("default"), Name::trusted("s"));
    let item = |id: &str, ttl_ms| {
        let address = Address::parse("http://10.0.0.1").unwrap();
        (service.clone(), Registration::new(Name::trusted(id), address, ttl_ms))
    };
    let items = vec![item("a", 1_000), item("b", 1_000), item("c", 600_000)];
    world.change(Command::Register { items }, 0);
    world.session(Some(TTL_MS), 0);
    // A new leader does not know the age of the instances, so they count.
    world.lead(0);
    let (_, commands) = world.first_expiry(0);
    assert!(matches!(&commands[..], [Command::ExpireLockSessions { .. }]), "{commands:?}");
    assert_eq!(world.state.instances_len(), 3, "two of three are silent, so they stay");
}
