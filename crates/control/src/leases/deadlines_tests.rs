use super::*;
use maxine_state::{Address, Expiry, Name, Registration, ServiceKey};

fn key(id: usize) -> InstanceKey {
    ServiceKey::new(Name::trusted("default"), Name::trusted("s"))
        .instance(Name::trusted(&format!("i{id}")))
}

fn instance(id: usize, epoch: u64, ttl_ms: u64) -> Instance {
    let address = Address::parse("http://10.0.0.1").unwrap();
    Instance::new(Registration::new(key(id).instance, address, ttl_ms), epoch, 0)
}

fn deadlines(settings: ExpirySettings) -> Deadlines {
    Deadlines::on(Arc::new(LeaseTable::new(&settings)), settings)
}

/// A table with leases whose age is not known, so that they count as part of the fleet.
fn table(fleet: usize) -> Deadlines {
    let mut table = deadlines(ExpirySettings::default());
    table.begin(Fence(1), 0);
    for id in 0..fleet {
        table.open(&key(id), &instance(id, 1 + id as u64, 5_000), 0, Some(0));
    }
    table
}

/// A table with leases that are opened at 0.
fn new_table(fleet: usize) -> Deadlines {
    let mut table = deadlines(ExpirySettings::default());
    table.begin(Fence(1), 0);
    for id in 0..fleet {
        table.open(&key(id), &instance(id, 1 + id as u64, 5_000), 0, None);
    }
    table
}

fn expired(due: Due) -> Vec<String> {
    assert_eq!(due.suspended, None);
    due.expire.iter().map(|(leased, _)| leased.key().unwrap().instance.to_string()).collect()
}

fn suspended(silent: usize, fleet: usize) -> Due {
    Due { expire: Vec::new(), suspended: Some(Suspension { silent, fleet }) }
}

#[test]
fn a_lease_runs_out_after_its_ttl_and_grace_and_not_before() {
    let mut table = table(1);
    assert_eq!(table.due(5_499, 10), Due::default());
    assert!(table.table.renew(LeaseId::of_key(&key(0)), 0, 5_499));
    assert_eq!(table.due(10_998, 10), Due::default());
    assert_eq!(expired(table.due(10_999, 10)), ["i0"]);
}

#[test]
fn a_renewal_of_another_registration_is_refused() {
    let mut table = table(1);
    assert!(!table.table.renew(LeaseId::of_key(&key(0)), 99, 10));
    assert!(!table.table.renew(LeaseId::of_key(&key(7)), 0, 10));
    table.forget(&key(0));
    assert!(!table.table.renew(LeaseId::of_key(&key(0)), 0, 10));
    assert_eq!(table.due(60_000, 10), Due::default());
}

#[test]
fn a_new_registration_brings_its_own_deadline() {
    let mut table = table(1);
    table.open(&key(0), &instance(0, 50, 1_000), 0, None);
    assert_eq!(expired(table.due(1_500, 10)), ["i0"]);
}

#[test]
fn a_stall_moves_every_deadline() {
    let mut table = table(3);
    table.shift(20_000);
    assert_eq!(table.due(25_499, 10), Due::default());
    assert_eq!(expired(table.due(25_500, 10)).len(), 3);
}

#[test]
fn what_is_renewed_while_leadership_is_confirmed_is_put_back() {
    let mut table = table(2);
    let due = table.due(6_000, 10).expire;
    assert!(table.table.renew(LeaseId::of_key(&key(1)), 0, 6_001));
    let out = table.still_due(due, 6_001);
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].0.key(), Some(&key(0)));
    table.forget(&key(0));
    assert_eq!(expired(table.due(11_501, 10)), ["i1"], "it comes up again at its new deadline");
}

#[test]
fn when_an_implausible_share_falls_silent_nothing_is_expired() {
    let mut table = table(100);
    for id in 0..40 {
        assert!(table.table.renew(LeaseId::of_key(&key(id)), 0, 5_000));
    }
    assert_eq!(table.due(6_000, 1_000), suspended(60, 100));
    for id in 40..70 {
        assert!(table.table.renew(LeaseId::of_key(&key(id)), 0, 6_000));
    }
    assert_eq!(expired(table.due(6_100, 1_000)).len(), 30, "the rest is plausible");
}

#[test]
fn the_share_counts_what_was_expired_just_before() {
    let mut table = table(100);
    for id in 45..100 {
        assert!(table.table.renew(LeaseId::of_key(&key(id)), 0, 1_000));
    }
    assert_eq!(expired(table.due(5_600, 1_000)).len(), 45);
    for id in 0..45 {
        table.forget(&key(id));
    }
    let next = table.due(6_600, 1_000);
    assert_eq!(next, suspended(100, 100));
}

#[test]
fn an_operator_or_time_ends_a_suspension() {
    let mut table = table(100);
    assert!(table.due(6_000, 1_000).suspended.is_some());
    assert!(table.confirm_silence(6_100));
    assert_eq!(expired(table.due(6_200, 1_000)).len(), 100);

    let mut table = super::tests::table(100);
    assert!(table.due(6_000, 1_000).suspended.is_some());
    assert!(table.due(605_999, 1_000).suspended.is_some());
    assert_eq!(expired(table.due(606_000, 1_000)).len(), 100);
}

/// If silence could be confirmed in advance, the protection would be off.
#[test]
fn silence_cannot_be_confirmed_while_nothing_is_suspended() {
    let mut table = table(100);
    assert!(!table.confirm_silence(5_000));
    assert_eq!(table.due(6_000, 1_000), suspended(100, 100));
    assert!(table.confirm_silence(6_100));
    assert!(!table.confirm_silence(6_100), "it is confirmed already");
}

#[test]
fn a_confirmation_covers_only_the_instances_that_were_silent_when_it_was_given() {
    let mut table = table(200);
    for id in 0..110 {
        table.forget(&key(id));
        table.open(&key(id), &instance(id, 1_000, 1_000), 0, Some(0));
    }
    assert_eq!(table.due(2_000, 1_000), suspended(110, 200));
    assert!(table.confirm_silence(2_100));
    let first = table.due(2_200, 30).expire;
    first.iter().for_each(|(leased, _)| table.forget(leased.key().unwrap()));
    assert_eq!(first.len(), 30, "as many as may expire at once");
    // A stall moves the deadlines. The confirmed leases stay confirmed.
    table.shift(1_000);

    // The others become silent before the confirmed ones are gone.
    let both = table.due(7_000, 1_000);
    assert_eq!(both.suspended, Some(Suspension { silent: 90, fleet: 90 }));
    assert_eq!(both.expire.len(), 80, "the confirmed ones still expire");
    for (leased, registered_index) in both.expire {
        assert_eq!(
            registered_index,
            1_000,
            "{} was not silent when it was confirmed",
            leased.key().unwrap().instance
        );
    }
}

/// Anyone can register instances and leave them.
#[test]
fn new_instances_that_fall_silent_do_not_suspend_the_expiry_of_others() {
    let mut table = table(100);
    for id in 100..300 {
        table.open(&key(id), &instance(id, 1 + id as u64, 5_000), 0, None);
    }
    for id in 0..99 {
        assert!(table.table.renew(LeaseId::of_key(&key(id)), 0, 5_000));
    }
    let out = expired(table.due(6_000, 1_000));
    assert!(out.contains(&"i99".to_owned()), "it was there before, and is gone");
    assert_eq!(out.len(), 201);
    // The new ones do not count as expired just before either.
    for id in 99..300 {
        table.forget(&key(id));
    }
    for id in 10..99 {
        assert!(table.table.renew(LeaseId::of_key(&key(id)), 0, 6_000));
    }
    assert_eq!(expired(table.due(11_000, 1_000)).len(), 10);
}

/// An expiry that is suspended for others keeps new instances too.
#[test]
fn new_instances_are_kept_while_expiry_is_suspended() {
    let mut table = table(100);
    table.open(&key(100), &instance(100, 101, 5_000), 0, None);
    assert_eq!(table.due(6_000, 1_000), suspended(100, 100));
}

#[test]
fn an_instance_counts_as_part_of_the_fleet_after_a_minute_of_renewals() {
    let renewed_until = |last_ms: u64| {
        let table = new_table(100);
        for now_ms in (0..=last_ms).step_by(1_000) {
            for id in 0..100 {
                assert!(table.table.renew(LeaseId::of_key(&key(id)), 0, now_ms));
            }
        }
        table
    };
    assert_eq!(expired(renewed_until(59_000).due(66_000, 1_000)).len(), 100);
    assert_eq!(renewed_until(60_000).due(66_000, 1_000), suspended(100, 100));
    // Another registration is a renewal too.
    let mut table = renewed_until(59_000);
    for id in 0..100 {
        table.open(&key(id), &instance(id, 1_000 + id as u64, 5_000), 60_000, None);
    }
    assert_eq!(table.due(66_000, 1_000), suspended(100, 100));
}

#[test]
fn a_small_fleet_is_never_held_back() {
    let mut table = table(3);
    assert_eq!(expired(table.due(6_000, 10)).len(), 3);
}

#[test]
fn expiry_keeps_its_rate() {
    let settings =
        ExpirySettings { rate_max_per_s: 10, silent_share_max_percent: 100, ..Default::default() };
    let mut table = deadlines(settings);
    table.begin(Fence(1), 0);
    for id in 0..25 {
        table.open(&key(id), &instance(id, 1 + id as u64, 5_000), 0, None);
    }
    let mut take = |now_ms| {
        let due = table.due(now_ms, 1_000).expire;
        for (leased, _) in &due {
            table.forget(leased.key().unwrap());
        }
        due.len()
    };
    assert_eq!(take(6_000), 10);
    assert_eq!(take(6_500), 0);
    assert_eq!(take(7_000), 10);
    assert_eq!(take(8_000), 5);
}

#[test]
fn what_was_decided_to_expire_cannot_be_renewed_while_that_is_in_flight() {
    let mut table = table(1);
    let due = table.due(6_000, 10).expire;
    let items = table.still_due(due, 6_000);
    assert!(
        !table.table.renew(LeaseId::of_key(&key(0)), 0, 6_001),
        "the expiry may be ordered already"
    );
    // The attempt failed and its outcome is unknown. The lease becomes due again, and can no longer be
    // renewed.
    table.give_back(&items);
    assert!(!table.table.renew(LeaseId::of_key(&key(0)), 0, 6_002));
    // Its owner registers again.
    table.open(&key(0), &instance(0, 9, 5_000), 6_003, None);
    assert!(table.table.renew(LeaseId::of_key(&key(0)), 9, 6_004));
}

fn left(former: &RemainingTimes) -> Vec<(LeaseId, u64)> {
    let mut left: Vec<_> = former.leases().iter().map(|lease| (lease.id, lease.left_ms)).collect();
    left.sort_unstable();
    left
}

#[test]
fn a_closed_table_acknowledges_nothing_and_tells_what_was_left() {
    let mut table = table(1);
    let id = LeaseId::of_key(&key(0));
    assert!(table.table.renew(id, 0, 1_000));
    assert!(table.former(Fence(2), 2_000).is_none(), "it has never had that grant");
    assert!(table.table.renew(id, 0, 2_000), "and goes on under its own");
    let former = table.former(Fence(1), 4_000).unwrap();
    assert_eq!(left(&former), [(id, 3_500)]);
    assert!(!table.table.is_open() && !table.table.renew(id, 0, 4_001));
    assert_eq!(table.due(60_000, 10), Due::default(), "nor does it expire anything");
    // A second answer is the same, because nobody could renew the lease in between.
    assert_eq!(left(&table.former(Fence(1), 9_000).unwrap()), [(id, 3_500)]);
    table.begin(Fence(5), 10_000);
    assert_eq!(left(&table.former(Fence(1), 10_000).unwrap()), [(id, 3_500)]);
    assert!(table.table.is_open());
}

#[test]
fn a_lease_that_was_handed_over_has_what_was_left_of_it_and_others_their_whole_time() {
    let mut old = table(4);
    assert!(old.table.renew(LeaseId::of_key(&key(1)), 0, 4_000));
    let former = old.former(Fence(1), 5_000).unwrap();
    let mut new = deadlines(ExpirySettings::default());
    new.begin(Fence(9), 70_000);
    for id in 0..3 {
        new.open(&key(id), &instance(id, 1 + id as u64, 5_000), 70_000, Some(1_000));
    }
    // The fourth instance was registered again. The previous leader does not know the fifth.
    new.open(&key(3), &instance(3, 77, 5_000), 70_000, Some(1_000));
    new.open(&key(4), &instance(4, 5, 5_000), 70_000, Some(1_000));
    // The renewal of the third instance arrives before the answer of the previous leader.
    assert!(new.table.renew(LeaseId::of_key(&key(2)), 0, 70_050));
    new.inherit(Fence(8), former.leases(), None, 70_100);
    assert_eq!(new.due(70_700, 10), Due::default(), "an answer to an earlier grant does not count");
    new.inherit(Fence(9), former.leases(), None, 70_100);
    assert_eq!(new.due(70_599, 10), Due::default());
    assert_eq!(expired(new.due(70_600, 10)), ["i0"], "500 ms were left of it");
    new.forget(&key(0));
    assert_eq!(expired(new.due(74_600, 10)), ["i1"], "and 4,500 of this");
    new.forget(&key(1));
    assert_eq!(expired(new.due(75_550, 10)), ["i2"]);
    new.forget(&key(2));
    assert_eq!(new.due(76_499, 10), Due::default());
    let mut whole = expired(new.due(76_500, 10));
    whole.sort();
    assert_eq!(whole, ["i3", "i4"]);
}

/// A silent lease ends in time, however often the leader changes.
#[test]
fn handing_over_again_and_again_does_not_prolong_a_silent_lease() {
    let mut table = table(1);
    for turn in 1..=10 {
        let now_ms = turn * 500;
        let former = table.former(Fence(turn), now_ms).unwrap();
        table = deadlines(ExpirySettings::default());
        table.begin(Fence(turn + 1), now_ms);
        table.open(&key(0), &instance(0, 1, 5_000), now_ms, Some(1_000));
        table.inherit(Fence(turn + 1), former.leases(), None, now_ms);
        assert_eq!(table.due(5_499, 10), Due::default());
    }
    assert_eq!(expired(table.due(5_500, 10)), ["i0"]);
}

#[test]
fn a_permanent_instance_has_no_lease() {
    let mut table = table(1);
    let mut permanent = instance(0, 9, 5_000);
    permanent.registration.expiry = Expiry::Never;
    table.open(&key(0), &permanent, 10, None);
    assert_eq!((table.table.len(), table.due(u64::MAX / 2, 10)), (0, Due::default()));
    assert!(!table.table.renew(LeaseId::of_key(&key(0)), 0, 20));
    table.open(&key(0), &permanent, 10, Some(0));
    assert!(table.table.is_empty());
    table.open(&key(0), &instance(0, 10, 5_000), 30, None);
    assert_eq!(table.table.len(), 1, "with a time to live it has one again");
}

/// A suspension lasts from the moment at which the first leader found the instances silent, however often the leader
/// changes.
#[test]
fn handing_over_again_and_again_does_not_prolong_a_suspension() {
    let mut table = table(100);
    assert_eq!(table.due(6_000, 1_000), suspended(100, 100));
    for turn in 1..=99_u64 {
        let now_ms = 6_000 + turn * 6_000;
        let former = table.former(Fence(turn), now_ms).unwrap();
        assert_eq!(former.suspended_ms(), Some(turn * 6_000));
        table = deadlines(ExpirySettings::default());
        table.begin(Fence(turn + 1), now_ms);
        for id in 0..100 {
            table.open(&key(id), &instance(id, 1 + id as u64, 5_000), now_ms, Some(1_000));
        }
        assert_eq!(table.due(now_ms, 1_000), Due::default(), "nothing is known yet");
        table.inherit(Fence(turn + 1), &former.leases()[..50], former.suspended_ms(), now_ms);
        assert_eq!(expired(table.due(now_ms, 0)).len(), 0, "half of them is plausible");
        table.inherit(Fence(turn + 1), &former.leases()[50..], former.suspended_ms(), now_ms);
        assert_eq!(table.due(now_ms + 100, 1_000), suspended(100, 100));
        assert_eq!(table.suspended_ms(now_ms + 100), turn * 6_000 + 100);
    }
    assert_eq!(table.due(605_999, 1_000), suspended(100, 100));
    assert_eq!(expired(table.due(606_000, 1_000)).len(), 100, "the limit of the whole suspension");
}

/// A suspension that ended under the previous leader does not make another one shorter.
#[test]
fn a_suspension_that_ended_is_not_handed_over() {
    let mut table = table(100);
    assert_eq!(table.due(6_000, 1_000), suspended(100, 100));
    for id in 0..100 {
        assert!(table.table.renew(LeaseId::of_key(&key(id)), 0, 7_000));
    }
    assert_eq!(table.due(7_100, 1_000), Due::default());
    assert_eq!(table.former(Fence(1), 8_000).unwrap().suspended_ms(), None);
}
