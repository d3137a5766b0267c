//! Tests of the leases of checks that owners report.

use super::*;
use crate::leases::LeaseId;
use maxine_state::{
    Actor, Address, Check, CheckKind, CheckReport, CheckStatus, Deregistration, Expiry,
    InstanceKey, Proposal, Registration, RequestId, ServiceKey,
};

const EXTRA_MS: u64 = 1_000;
const TTL_MS: u64 = 3_000;
/// The time to live plus the default grace.
const WHOLE_MS: u64 = TTL_MS + 500;

/// A leader, and the state that it follows.
struct World {
    state: ControlState,
    leases: Leases,
    fence: Option<Fence>,
    requests: u128,
}

fn key() -> InstanceKey {
    ServiceKey::new(Name::trusted("default"), Name::trusted("s")).instance(Name::trusted("a"))
}

/// A permanent instance with these checks.
fn registration(checks: &[&str]) -> Registration {
    let address = Address::parse("http://10.0.0.1").unwrap();
    let kind = CheckKind::Ttl { ttl_ms: TTL_MS, initial: CheckStatus::Passing };
    let check = |id: &&str| Check { id: Name::trusted(id), kind: kind.clone() };
    Registration {
        expiry: Expiry::Never,
        checks: checks.iter().map(check).collect(),
        ..Registration::new(key().instance, address, 1_000)
    }
    .normalised()
}

impl World {
    /// The instance was registered at 0, before the leader was elected.
    fn new(checks: &[&str]) -> Self {
        let settings = ExpirySettings::default();
        let table = Arc::new(LeaseTable::new(&settings));
        let leases = Leases::new(Name::trusted("n"), settings, EXTRA_MS, table, 0);
        let mut world = Self { state: ControlState::default(), leases, fence: None, requests: 0 };
        world.register(checks, 0);
        world.change(Command::GrantLeadership { holder: Name::trusted("n") }, 0);
        let fence = world.state.grant().unwrap().fence;
        world.fence = Some(fence);
        assert_eq!(world.leases.step(LeaseEvent::DutiesGranted(fence), 0), []);
        assert_eq!(world.leases.step(LeaseEvent::State(&world.state), 0), []);
        world
    }

    fn change(&mut self, command: Command, now_ms: u64) {
        self.requests += 1;
        let proposal = Proposal {
            request_id: RequestId(self.requests),
            proposed_at_ms: 1,
            fence: self.fence.filter(|_| command.is_leader_only()),
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

    fn register(&mut self, checks: &[&str], now_ms: u64) {
        let items = vec![(key().service, registration(checks))];
        self.change(Command::Register { items }, now_ms);
    }

    fn report(&mut self, check: &str, output: &str, now_ms: u64) {
        let report = CheckReport { status: CheckStatus::Passing, output: output.into() };
        let check = Name::trusted(check);
        let command = Command::ReportCheck { key: key(), check, lease_epoch: None, report };
        self.change(command, now_ms);
    }

    fn reported_index(&self, check: &str) -> u64 {
        let instance = self.state.instance(&key()).unwrap();
        let state = instance.reported_checks().iter().find(|c| c.id.as_str() == check).unwrap();
        state.reported_index
    }

    fn renew(&self, check: &str, epoch: u64, now_ms: u64) -> bool {
        self.leases.table().renew(LeaseId::of_check(&key(), &Name::trusted(check)), epoch, now_ms)
    }

    /// Sends ticks from 0 on at the normal interval, and checks that nothing is due.
    fn quiet_until(&mut self, until_ms: u64) {
        for now_ms in (0..=until_ms).step_by(EXPIRY_TICK_MS as usize) {
            assert_eq!(self.leases.step(LeaseEvent::Tick, now_ms), []);
        }
    }

    /// Sends ticks until something expires, and confirms leadership. Returns the time and the commands.
    fn first_expiry(&mut self, mut now_ms: u64) -> (u64, Vec<Command>) {
        let until_ms = now_ms + 60_000;
        while now_ms < until_ms {
            for effect in self.leases.step(LeaseEvent::Tick, now_ms) {
                let LeaseEffect::Confirm { attempt } = effect else { continue };
                let confirmed = LeaseEvent::Confirmed { attempt, leads: true };
                let effects = self.leases.step(confirmed, now_ms);
                if let [LeaseEffect::Expire { attempt: same, commands, .. }] = &effects[..] {
                    assert_eq!(*same, attempt);
                    return (now_ms, commands.clone());
                }
            }
            now_ms += EXPIRY_TICK_MS;
        }
        panic!("nothing expired until {until_ms}");
    }
}

#[test]
fn a_check_without_a_report_expires_once_and_the_next_report_opens_its_lease_again() {
    let mut world = World::new(&["disk"]);
    let reported_index = world.reported_index("disk");
    let (now_ms, commands) = world.first_expiry(0);
    assert!(now_ms >= WHOLE_MS + EXTRA_MS, "{now_ms}");
    let expiry = CheckExpiry {
        key: key(),
        check: Name::trusted("disk"),
        reported_index,
        output: "no report within 3000 ms".into(),
    };
    assert_eq!(commands, [Command::ExpireChecks { items: vec![expiry] }]);
    assert!(!world.renew("disk", reported_index, now_ms), "the expiry may be ordered already");
    world.change(commands[0].clone(), now_ms);
    let expired = LeaseEvent::Expired { attempt: 1, outcome: ExpiryOutcome::Applied };
    assert_eq!(world.leases.step(expired, now_ms), []);
    assert!(!world.state.instance(&key()).unwrap().is_healthy());
    assert!(world.leases.table().is_empty(), "until the next report there is no deadline");
    world.report("disk", "", now_ms + 100);
    let (then_ms, _) = world.first_expiry(now_ms + 100);
    assert!((now_ms + 100 + WHOLE_MS..now_ms + 300 + WHOLE_MS).contains(&then_ms), "{then_ms}");
}

#[test]
fn an_equal_report_renews_the_lease_of_its_check_alone() {
    let mut world = World::new(&["disk", "queue"]);
    let disk = world.reported_index("disk");
    world.quiet_until(4_000);
    assert!(world.renew("disk", disk, 4_000));
    assert!(!world.renew("disk", disk + 1, 4_000), "of another report");
    assert!(!world.renew("memory", 0, 4_000), "there is no such check");
    let (now_ms, commands) = world.first_expiry(4_000);
    assert!(now_ms < 4_000 + WHOLE_MS, "{now_ms}");
    let Command::ExpireChecks { items } = &commands[0] else { panic!("{commands:?}") };
    assert_eq!(items.iter().map(|item| item.check.as_str()).collect::<Vec<_>>(), ["queue"]);
}

#[test]
fn a_report_of_one_check_does_not_move_the_deadline_of_another() {
    let mut world = World::new(&["disk", "queue"]);
    world.quiet_until(4_000);
    world.report("queue", "busy", 4_000);
    let (now_ms, commands) = world.first_expiry(4_000);
    assert!(now_ms < 4_000 + WHOLE_MS, "{now_ms}");
    let Command::ExpireChecks { items } = &commands[0] else { panic!("{commands:?}") };
    assert_eq!(items.iter().map(|item| item.check.as_str()).collect::<Vec<_>>(), ["disk"]);
}

#[test]
fn after_a_gap_in_the_changes_renewed_checks_keep_their_deadlines() {
    let mut world = World::new(&["disk", "queue"]);
    world.quiet_until(4_000);
    assert!(world.renew("disk", 0, 4_000));
    assert_eq!(world.leases.step(LeaseEvent::State(&world.state.clone()), 4_100), []);
    assert_eq!(world.leases.table().len(), 2);
    let (now_ms, commands) = world.first_expiry(4_100);
    assert!(now_ms < 4_000 + WHOLE_MS, "{now_ms}");
    let Command::ExpireChecks { items } = &commands[0] else { panic!("{commands:?}") };
    assert_eq!(items.iter().map(|item| item.check.as_str()).collect::<Vec<_>>(), ["queue"]);
    world.register(&["queue"], now_ms);
    assert_eq!(world.leases.step(LeaseEvent::State(&world.state.clone()), now_ms), []);
    assert!(!world.renew("disk", 0, now_ms));
    world.register(&[], now_ms);
    assert!(world.leases.table().is_empty(), "what is known of checks is complete after it, too");
}

#[test]
fn checks_that_are_gone_have_no_leases() {
    let mut world = World::new(&["disk", "queue"]);
    assert_eq!(world.leases.table().len(), 2);
    world.register(&["queue", "memory"], 100);
    assert_eq!(world.leases.table().len(), 2);
    assert!(!world.renew("disk", 0, 200) && world.renew("memory", 0, 200));
    world.register(&[], 300);
    assert!(world.leases.table().is_empty());
    world.register(&["disk"], 400);
    let item = Deregistration { key: key(), lease_epoch: None, forget_drain: false };
    world.change(Command::Deregister { items: vec![item] }, 500);
    assert!(world.leases.table().is_empty());
}
