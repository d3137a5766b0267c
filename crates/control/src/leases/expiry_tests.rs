use super::*;
use crate::leases::LeaseId;
use maxine_state::{Actor, Address, Command, Proposal, Registration, Reply, RequestId, ServiceKey};

const TTL_MS: u64 = 5_000;
const EXTRA_MS: u64 = 1_000;
/// The time to live plus the default grace.
const WHOLE_MS: u64 = TTL_MS + 500;

struct World {
    state: ControlState,
    requests: u128,
}

impl World {
    /// A state with one instance.
    fn new() -> Self {
        let mut world = Self { state: ControlState::default(), requests: 0 };
        let address = Address::parse("http://10.0.0.1").unwrap();
        let registration = Registration::new(key().instance, address, TTL_MS);
        world.propose(Command::Register { items: vec![(key().service, registration)] });
        world
    }

    fn propose(&mut self, command: Command) -> Reply {
        self.requests += 1;
        let proposal = Proposal {
            request_id: RequestId(self.requests),
            proposed_at_ms: 1,
            fence: None,
            actor: Actor::system("test"),
            command,
        };
        self.state.apply(&proposal, &mut Vec::new()).reply
    }

    fn grant(&mut self, holder: &str) -> Fence {
        let holder = Name::trusted(holder);
        let reply = self.propose(Command::GrantLeadership { holder });
        let Reply::Granted(fence) = reply else { panic!("{reply:?}") };
        fence
    }
}

fn key() -> maxine_state::InstanceKey {
    ServiceKey::new(Name::trusted("default"), Name::trusted("s")).instance(Name::trusted("a"))
}

fn engine(name: &str) -> Leases {
    let settings = ExpirySettings::default();
    let table = Arc::new(LeaseTable::new(&settings));
    Leases::new(Name::trusted(name), settings, EXTRA_MS, table, 0)
}

fn renew(leases: &Leases, now_ms: u64) -> bool {
    renew_in(leases.table(), now_ms)
}

fn renew_in(table: &LeaseTable, now_ms: u64) -> bool {
    table.renew(LeaseId::of_key(&key()), 0, now_ms)
}

/// Sends ticks until there is an effect. Returns the time and the effects.
fn first_effect(leases: &mut Leases, mut now_ms: u64, until_ms: u64) -> (u64, Vec<LeaseEffect>) {
    while now_ms < until_ms {
        let effects = leases.step(LeaseEvent::Tick, now_ms);
        if !effects.is_empty() {
            return (now_ms, effects);
        }
        now_ms += EXPIRY_TICK_MS;
    }
    panic!("nothing happened until {until_ms}");
}

/// An engine that has the leader's duties from 0 on.
fn leader(world: &mut World) -> (Leases, Fence) {
    let (mut leases, fence) = (engine("n"), world.grant("n"));
    assert_eq!(leases.step(LeaseEvent::DutiesGranted(fence), 0), []);
    assert_eq!(leases.step(LeaseEvent::State(&world.state), 0), []);
    (leases, fence)
}

#[test]
fn nothing_is_expired_unless_leadership_is_confirmed() {
    let mut world = World::new();
    let (mut leases, _) = leader(&mut world);
    let (now_ms, effects) = first_effect(&mut leases, 0, 60_000);
    assert!(now_ms >= WHOLE_MS + EXTRA_MS, "{now_ms}");
    assert_eq!(effects, [LeaseEffect::Confirm { attempt: 1 }]);
    assert_eq!(leases.step(LeaseEvent::Tick, now_ms + 50), [], "one attempt at a time");
    let refused = LeaseEvent::Confirmed { attempt: 1, leads: false };
    assert_eq!(leases.step(refused, now_ms + 60), []);
    assert!(renew(&leases, now_ms + 70), "it was not decided");
}

#[test]
fn what_was_renewed_while_leadership_was_confirmed_is_not_expired() {
    let mut world = World::new();
    let (mut leases, fence) = leader(&mut world);
    let (now_ms, _) = first_effect(&mut leases, 0, 60_000);
    assert!(renew(&leases, now_ms));
    let confirmed = |attempt| LeaseEvent::Confirmed { attempt, leads: true };
    assert_eq!(leases.step(confirmed(1), now_ms + 10), []);
    let (then_ms, effects) = first_effect(&mut leases, now_ms + 100, now_ms + 60_000);
    assert!(then_ms >= now_ms + WHOLE_MS);
    assert_eq!(effects, [LeaseEffect::Confirm { attempt: 2 }]);
    assert_eq!(leases.step(confirmed(1), then_ms), [], "a late answer to an earlier attempt");
    let items = vec![(
        key(),
        world.state.service(&key().service).unwrap().instances[&key().instance].registered_index,
    )];
    let commands = vec![Command::Expire { items }];
    let expire = LeaseEffect::Expire { attempt: 2, fence, commands };
    assert_eq!(leases.step(confirmed(2), then_ms + 10), [expire]);
    assert!(!renew(&leases, then_ms + 20), "the expiry may be ordered already");
}

#[test]
fn time_spent_waiting_for_others_moves_every_deadline() {
    let mut world = World::new();
    let (mut leases, _) = leader(&mut world);
    let (now_ms, _) = first_effect(&mut leases, 0, 60_000);
    let refused = LeaseEvent::Confirmed { attempt: 1, leads: false };
    let stalled = LeaseEffect::Report(ExpiryEvent::Stalled { by_ms: 1_900 });
    assert_eq!(leases.step(refused, now_ms + 2_000), [stalled]);
    let (then_ms, _) = first_effect(&mut leases, now_ms + 2_100, now_ms + 60_000);
    assert!(then_ms >= now_ms + 1_900 - EXPIRY_TICK_MS, "{now_ms} {then_ms}");
}

#[test]
fn a_new_leader_asks_the_one_before_once_and_takes_over_what_was_left() {
    let mut world = World::new();
    let (mut old, old_fence) = leader(&mut world);
    assert!(renew(&old, 4_000));
    let before = world.state.clone();
    let present = world.grant("m");
    let answer = old.hand_over(old_fence, present, &before, 5_000);
    assert_eq!(answer.unwrap_err(), RemainingUnknown::NotEnded, "the grant has not arrived there");
    assert!(renew(&old, 5_000));
    let left = old.hand_over(old_fence, present, &world.state, 6_000).unwrap();
    assert!(!renew(&old, 6_001));
    assert_eq!(
        old.hand_over(Fence(1), present, &world.state, 0).unwrap_err(),
        RemainingUnknown::NotKnown
    );

    let mut new = engine("m");
    assert_eq!(new.step(LeaseEvent::DutiesGranted(present), 70_000), []);
    let former = world.state.grant().unwrap().before.clone().unwrap();
    let ask = LeaseEffect::AskFormer { former, present };
    assert_eq!(new.step(LeaseEvent::State(&world.state), 70_000), [ask]);
    let inherited = LeaseEvent::Inherited { present, leases: left.leases(), suspended_ms: None };
    assert_eq!(new.step(inherited, 70_020), []);
    let (now_ms, _) = first_effect(&mut new, 70_100, 90_000);
    let ends_ms = 70_020 + 5_000 + WHOLE_MS - 6_000;
    assert!((ends_ms..ends_ms + 200).contains(&now_ms), "{now_ms}");
}

#[test]
fn a_gap_in_the_changes_forgets_no_renewal_and_no_decision() {
    let mut world = World::new();
    let (mut leases, _) = leader(&mut world);
    for now_ms in (0..3_100).step_by(100) {
        assert_eq!(leases.step(LeaseEvent::Tick, now_ms), []);
    }
    assert!(renew(&leases, 3_000));
    assert_eq!(leases.step(LeaseEvent::State(&world.state), 3_100), []);
    let (now_ms, _) = first_effect(&mut leases, 3_100, 60_000);
    assert!((3_000 + WHOLE_MS..3_200 + WHOLE_MS).contains(&now_ms), "{now_ms}");
    let confirmed = LeaseEvent::Confirmed { attempt: 1, leads: true };
    assert_eq!(leases.step(confirmed, now_ms + 10).len(), 1, "it is expired");
    assert_eq!(leases.step(LeaseEvent::State(&world.state), now_ms + 20), []);
    assert!(!renew(&leases, now_ms + 30), "the expiry may be ordered already");
    let gone = ControlState::default();
    assert_eq!(leases.step(LeaseEvent::State(&gone), now_ms + 40), []);
    assert!(leases.table().is_empty());
}

/// What an engine decided before it ended may take effect at any time while its grant is valid. So the next
/// engine acknowledges nothing until another grant has made those decisions void.
#[test]
fn an_engine_that_is_started_again_waits_for_another_grant_and_knows_what_was_left() {
    let mut world = World::new();
    let (leases, spent) = leader(&mut world);
    let table = Arc::clone(leases.table());
    drop(leases);
    assert!(renew_in(&table, 4_000), "the table is open until the next engine is there");
    let settings = ExpirySettings::default();
    let mut again = Leases::new(Name::trusted("n"), settings, EXTRA_MS, table, 5_000);
    let ask = [LeaseEffect::AskForGrant];
    assert_eq!(again.step(LeaseEvent::DutiesGranted(spent), 5_010), ask);
    assert_eq!(again.step(LeaseEvent::State(&world.state), 5_010), []);
    assert!(!renew(&again, 5_020));
    assert_eq!(first_effect(&mut again, 5_100, 60_000).1, ask, "and asks again");
    let present = world.grant("n");
    assert_eq!(again.step(LeaseEvent::DutiesLost, 9_000), []);
    assert_eq!(again.step(LeaseEvent::DutiesGranted(present), 9_000), []);
    assert_eq!(again.step(LeaseEvent::State(&world.state), 9_000), []);
    let (now_ms, _) = first_effect(&mut again, 9_000, 60_000);
    let ends_ms = 9_000 + 4_000 + WHOLE_MS - 5_000;
    assert!((ends_ms..ends_ms + 200).contains(&now_ms), "{now_ms}");
}

fn many(world: &mut World) {
    let address = Address::parse("http://10.0.0.1").unwrap();
    let named =
        |id: usize| Registration::new(Name::trusted(&format!("m{id}")), address.clone(), TTL_MS);
    let items = (0..100).map(|id| (key().service, named(id))).collect();
    world.propose(Command::Register { items });
}

/// The events that are reported between two times.
fn suspensions(leases: &mut Leases, from_ms: u64, until_ms: u64) -> Vec<ExpiryEvent> {
    let ticks = (from_ms..until_ms).step_by(usize::try_from(EXPIRY_TICK_MS).unwrap());
    let effects = ticks.flat_map(|now_ms| leases.step(LeaseEvent::Tick, now_ms));
    let event = |effect| match effect {
        LeaseEffect::Report(event) => event,
        other => panic!("{other:?}"),
    };
    effects.collect::<Vec<_>>().into_iter().map(event).collect()
}

/// A leader that loses its duties for a moment reports one suspension. The next leader continues it, and reports how
/// long it has lasted. The former leader then ends its report.
#[test]
fn a_suspension_is_one_through_changes_of_the_leader() {
    let mut world = World::new();
    many(&mut world);
    let (mut old, _) = leader(&mut world);
    let began = suspensions(&mut old, 0, 10_000);
    assert!(matches!(began[..], [ExpiryEvent::Suspended { lasted_ms: 0, .. }]), "{began:?}");

    assert_eq!(old.step(LeaseEvent::DutiesLost, 10_000), []);
    assert_eq!(suspensions(&mut old, 10_000, 10_400), []);
    let again = world.grant("n");
    assert_eq!(old.step(LeaseEvent::DutiesGranted(again), 10_400), []);
    assert_eq!(suspensions(&mut old, 10_400, 10_600), [], "the state has not arrived");
    assert_eq!(old.step(LeaseEvent::State(&world.state), 10_600), []);
    assert_eq!(suspensions(&mut old, 10_600, 20_000), [], "it is the same suspension");

    let present = world.grant("m");
    let left = old.hand_over(again, present, &world.state, 20_000).unwrap();
    assert_eq!(old.step(LeaseEvent::DutiesLost, 20_000), []);
    let mut new = engine("m");
    assert_eq!(new.step(LeaseEvent::DutiesGranted(present), 70_000), []);
    assert_eq!(new.step(LeaseEvent::State(&world.state), 70_000).len(), 1, "it asks");
    let suspended_ms = left.suspended_ms();
    let inherited = LeaseEvent::Inherited { present, leases: left.leases(), suspended_ms };
    assert_eq!(new.step(inherited, 70_100), []);
    let goes_on = suspensions(&mut new, 70_100, 70_400);
    let [ExpiryEvent::Suspended { lasted_ms, .. }] = goes_on[..] else { panic!("{goes_on:?}") };
    // The first leader found the instances silent after their whole time and the time that it added. The 600 ms in
    // which it did not lead do not count.
    let lasted_there_ms = 20_000 - WHOLE_MS - EXTRA_MS - 600;
    assert!((lasted_there_ms - 500..lasted_there_ms + 300).contains(&lasted_ms), "{lasted_ms}");
    assert_eq!(suspensions(&mut old, 20_100, 29_900), []);
    assert_eq!(suspensions(&mut old, 29_900, 40_000), [ExpiryEvent::Resumed]);
}

/// Sends ticks, and says before each that the store refuses writes.
fn refuse(leases: &mut Leases, from_ms: u64, until_ms: u64) {
    for now_ms in (from_ms..until_ms).step_by(usize::try_from(EXPIRY_TICK_MS).unwrap()) {
        assert_eq!(leases.step(LeaseEvent::StoreRefuses(true), now_ms), []);
        assert_eq!(leases.step(LeaseEvent::Tick, now_ms), []);
    }
}

/// Other nodes send heartbeats through the store. So nobody could renew the lease while it refused writes.
#[test]
fn a_lease_has_its_whole_time_after_the_store_refused_writes() {
    let mut world = World::new();
    let (mut leases, _) = leader(&mut world);
    assert!(renew(&leases, 4_000));
    refuse(&mut leases, 0, 60_000);
    assert_eq!(leases.step(LeaseEvent::StoreRefuses(false), 60_000), []);
    let (now_ms, effects) = first_effect(&mut leases, 60_000, 90_000);
    assert!((60_000 + WHOLE_MS..60_200 + WHOLE_MS).contains(&now_ms), "{now_ms}");
    assert_eq!(effects, [LeaseEffect::Confirm { attempt: 1 }]);
}

/// The leader may lose its leadership while the store refuses writes. When it leads again, it uses its own table.
#[test]
fn a_leader_that_lost_its_duties_while_the_store_refused_writes_gives_each_lease_its_whole_time() {
    let mut world = World::new();
    let (mut leases, _) = leader(&mut world);
    refuse(&mut leases, 0, 20_000);
    assert_eq!(leases.step(LeaseEvent::DutiesLost, 20_000), []);
    refuse(&mut leases, 20_000, 60_000);
    assert_eq!(leases.step(LeaseEvent::StoreRefuses(false), 60_000), []);
    let again = world.grant("n");
    assert_eq!(leases.step(LeaseEvent::DutiesGranted(again), 60_000), []);
    assert_eq!(leases.step(LeaseEvent::State(&world.state), 60_000), []);
    let (now_ms, _) = first_effect(&mut leases, 60_000, 90_000);
    assert!((60_000 + WHOLE_MS..60_200 + WHOLE_MS).contains(&now_ms), "{now_ms}");
}

/// An expiry that the store refused has no effect later, so the lease can be renewed again.
#[test]
fn a_lease_whose_expiry_was_not_written_can_be_renewed() {
    for (outcome, can_be_renewed) in
        [(ExpiryOutcome::NotDone, true), (ExpiryOutcome::Unknown, false)]
    {
        let mut world = World::new();
        let (mut leases, _) = leader(&mut world);
        let (now_ms, _) = first_effect(&mut leases, 0, 60_000);
        let confirmed = LeaseEvent::Confirmed { attempt: 1, leads: true };
        assert_eq!(leases.step(confirmed, now_ms).len(), 1);
        assert!(!renew(&leases, now_ms + 10));
        assert_eq!(leases.step(LeaseEvent::Expired { attempt: 1, outcome }, now_ms + 20), []);
        assert_eq!(renew(&leases, now_ms + 30), can_be_renewed);
    }
}

/// A store that refuses writes again and again does not keep a silent lease forever, even if the leader loses its
/// duties each time. A renewal starts the count again.
#[test]
fn a_silent_lease_gets_its_whole_time_only_some_times_in_a_row() {
    for loses_duties in [false, true] {
        let mut world = World::new();
        let (mut leases, _) = leader(&mut world);
        let mut extended = 0;
        for turn in 0..20 {
            let now_ms = turn * 5_000;
            if turn == 2 {
                assert!(renew(&leases, now_ms));
            }
            assert_eq!(leases.step(LeaseEvent::StoreRefuses(true), now_ms), []);
            if loses_duties {
                assert_eq!(leases.step(LeaseEvent::DutiesLost, now_ms + 100), []);
            }
            assert_eq!(leases.step(LeaseEvent::StoreRefuses(false), now_ms + 200), []);
            if loses_duties {
                let again = world.grant("n");
                assert_eq!(leases.step(LeaseEvent::DutiesGranted(again), now_ms + 200), []);
                assert_eq!(leases.step(LeaseEvent::State(&world.state), now_ms + 200), []);
            }
            let ticks = (now_ms + 200..now_ms + 5_000).step_by(100);
            let effects = ticks.flat_map(|now_ms| leases.step(LeaseEvent::Tick, now_ms));
            if effects.into_iter().any(|effect| matches!(effect, LeaseEffect::Confirm { .. })) {
                break;
            }
            extended += 1;
        }
        assert!((5..8).contains(&extended), "{extended}");
    }
}

/// The instances for which expiry is suspended had been silent before, so a short refusal does not end the suspension.
#[test]
fn a_refusal_does_not_end_a_suspension() {
    let mut world = World::new();
    many(&mut world);
    let (mut leases, _) = leader(&mut world);
    assert_eq!(suspensions(&mut leases, 0, 20_000).len(), 1);
    refuse(&mut leases, 20_000, 22_000);
    assert_eq!(leases.step(LeaseEvent::StoreRefuses(false), 22_000), []);
    assert_eq!(suspensions(&mut leases, 22_000, 40_000), []);
}
