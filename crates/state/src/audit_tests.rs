use super::super::audit_class::{LONG_MS, SHORT_MS};
use super::*;

fn record(action: AuditAction, n: u64) -> AuditRecord {
    AuditRecord {
        seq: 0,
        class: AuditClass::Registrations,
        class_seq: 0,
        index: n,
        time_ms: n,
        user: "ops".into(),
        address: "".into(),
        trace_id: "".into(),
        via_node: None,
        action,
        object: format!("default/a/{n}").into(),
        outcome: AuditOutcome::Success,
        previous: [0; 32],
        hash: [0; 32],
    }
}

fn log(len: u64) -> AuditLog {
    let mut log = AuditLog::default();
    (1..=len).for_each(|n| log.append(record(AuditAction::InstanceRegister, n), 1));
    log
}

fn registrations(log: &mut AuditLog) -> &mut Vector<Arc<AuditRecord>> {
    &mut log.chains[AuditClass::Registrations as usize].records
}

#[test]
fn a_flood_of_registrations_or_of_refusals_pushes_out_nothing_else() {
    let mut log = AuditLog::default();
    let kept = [
        AuditAction::UserPut,
        AuditAction::PolicyPut,
        AuditAction::LeadershipGrant,
        AuditAction::TokenDelete,
        AuditAction::InstanceDrain,
    ];
    kept.iter().for_each(|action| log.append(record(*action, 1), 1));
    let refused = |action: AuditAction| AuditRecord {
        outcome: AuditOutcome::Refused(None),
        ..record(action, 2)
    };
    for n in 0..AuditClass::Registrations.records_max() as u64 + 50 {
        log.append(record(AuditAction::InstanceRegister, n), 1);
    }
    log.append(record(AuditAction::SessionCreate, 1), 1);
    for _ in 0..AuditClass::Strangers.records_max() + 50 {
        log.append(AuditRecord { user: "".into(), ..refused(AuditAction::SessionCreate) }, 1);
    }
    assert_eq!(log.chain(AuditClass::Access).dropped(), 0, "strangers push no sign-in out");
    log.append(record(AuditAction::BreakGlassUse, 1), 1);
    // Actions that a viewer can repeat without end.
    for _ in 0..AuditClass::Access.records_max() + 50 {
        log.append(refused(AuditAction::RequestAuthorize), 1);
        log.append(refused(AuditAction::UserPut), 1);
        log.append(record(AuditAction::AuditExport, 1), 1);
    }
    assert_eq!(log.chain(AuditClass::Access).dropped(), 0, "nor does a viewer");
    assert_eq!(log.chain(AuditClass::Access).kept(), 2);
    let actions: Vec<AuditAction> = log.records().iter().take(5).map(|r| r.action).collect();
    assert_eq!(actions, kept);
    assert_eq!(log.chain(AuditClass::Registrations).dropped(), 50);
    assert_eq!(log.chain(AuditClass::Identities).dropped(), 0);
    assert_eq!(log.verify(), Ok(()));
    let led: Vec<AuditAction> = log.leadership().map(|record| record.action).collect();
    assert_eq!(led, [AuditAction::LeadershipGrant]);
}

/// A record of an action by a user; an empty name is a caller without a credential.
fn by(user: &str, action: AuditAction) -> AuditRecord {
    AuditRecord { user: user.into(), ..record(action, 1) }
}

#[test]
fn the_classes_of_the_second_version_need_the_second_version() {
    use AuditAction as Do;
    use AuditClass as Class;

    let class = |version, user: &str, action, outcome: AuditOutcome| {
        class_of(version, &AuditRecord { outcome, ..by(user, action) })
    };
    let (done, refused) = (AuditOutcome::Success, AuditOutcome::Refused(None));
    let rows = [
        ("", Do::InstanceRegister, &done, Class::Registrations, Class::Open),
        ("", Do::CheckPass, &done, Class::Registrations, Class::Open),
        ("", Do::InstanceRegister, &refused, Class::Registrations, Class::Strangers),
        ("", Do::SessionCreate, &refused, Class::Strangers, Class::Strangers),
        ("ops", Do::InstanceRegister, &done, Class::Registrations, Class::Registrations),
        ("ops", Do::InstanceRegister, &refused, Class::Registrations, Class::Registrations),
        ("ops", Do::CheckFail, &done, Class::Registrations, Class::Registrations),
        ("ops", Do::InstanceDrain, &done, Class::Settings, Class::Drains),
        ("ops", Do::InstanceUndrain, &done, Class::Settings, Class::Drains),
        ("ops", Do::PolicyPut, &done, Class::Settings, Class::Settings),
        ("ops", Do::LogsClear, &done, Class::Access, Class::Logs),
        ("ops", Do::UserPut, &refused, Class::Requests, Class::Requests),
        ("ops", Do::SessionCreate, &done, Class::Access, Class::Access),
        ("ops", Do::AuditConfirmClock, &done, Class::Access, Class::Cluster),
        ("ops", Do::MemberRemove, &AuditOutcome::Unknown, Class::Cluster, Class::Cluster),
        ("break-glass:a", Do::BreakGlassUse, &done, Class::Access, Class::Identities),
        ("break-glass:a", Do::BreakGlassUse, &refused, Class::Requests, Class::Identities),
        ("system:lease-expiry", Do::InstanceExpire, &done, Class::Registrations, Class::Automatic),
        ("system:health", Do::HealthEvict, &refused, Class::Registrations, Class::Automatic),
        ("system:checks", Do::CheckFail, &done, Class::Registrations, Class::Automatic),
        ("system:history", Do::HistoryBegin, &done, Class::Registrations, Class::Cluster),
    ];
    for (user, action, outcome, first, second) in rows {
        assert_eq!(class(1, user, action, outcome.clone()), first, "{user} {action:?}");
        assert_eq!(class(2, user, action, outcome.clone()), second, "{user} {action:?}");
    }
    for action in AuditAction::ALL.iter().filter(|action| action.needs() == 1) {
        for (user, outcome) in [("", &done), ("ops", &done), ("", &refused), ("ops", &refused)] {
            assert_eq!(class(1, user, *action, outcome.clone()).needs(), 1, "{action:?}");
        }
    }
    assert_eq!(AuditClass::of_version(1).count(), 7);
    assert_eq!(AuditClass::of_version(2).count(), 11);
    assert_eq!(AuditClass::of_version(3).count(), AuditClass::ALL.len());
}

#[test]
fn in_the_second_version_no_group_of_callers_pushes_out_the_records_of_another() {
    let mut log = AuditLog::default();
    // The records of the first version keep their classes.
    for action in [AuditAction::InstanceRegister, AuditAction::InstanceDrain] {
        log.append(by("", action), 1);
    }
    let kept = [
        by("ops", AuditAction::InstanceRegister),
        by("ops", AuditAction::InstanceDeregister),
        by("ops", AuditAction::PolicyPut),
        by("ops", AuditAction::ConfigPut),
        by("break-glass:a", AuditAction::BreakGlassUse),
    ];
    kept.iter().for_each(|record| log.append(record.clone(), 2));
    let open = AuditClass::Open.records_max() + 50;
    for n in 0..open {
        log.append(by("", AuditAction::InstanceRegister), 2);
        log.append(by("system:lease-expiry", AuditAction::InstanceExpire), 2);
        if n < AuditClass::Access.records_max() + 50 {
            log.append(by("viewer", AuditAction::SessionCreate), 2);
            log.append(by("ops", AuditAction::InstanceDrain), 2);
            log.append(by("ops", AuditAction::LogsClear), 2);
        }
    }
    let first: Vec<AuditAction> = log.records().iter().take(7).map(|r| r.action).collect();
    let expected = [AuditAction::InstanceRegister, AuditAction::InstanceDrain];
    assert_eq!(first[..2], expected);
    assert!(first[2..].iter().eq(kept.iter().map(|record| &record.action)));
    assert_eq!(log.chain(AuditClass::Open).dropped(), 50);
    assert_eq!(log.chain(AuditClass::Automatic).dropped(), 50);
    assert_eq!((log.chain(AuditClass::Registrations).dropped(), log.verify()), (0, Ok(())));
}

#[test]
fn what_leaves_is_counted_and_what_is_taken_is_found() {
    let mut good = AuditLog::default();
    for n in 1..=6 {
        good.append(record(AuditAction::UserPut, n), 1);
        good.append(record(AuditAction::InstanceRegister, n), 1);
    }
    assert_eq!(good.verify(), Ok(()));
    // The record was removed from the front of its class, as if it had been dropped for its age. Its number
    // is missing.
    let mut taken = good.clone();
    registrations(&mut taken).pop_front();
    assert!(taken.verify().is_err());
    // Even if the base is made to fit, the oldest one's number says how many have left.
    let mut rebased = good.clone();
    let chain = &mut rebased.chains[AuditClass::Registrations as usize];
    chain.drop_oldest();
    assert_eq!((chain.dropped(), rebased.verify()), (1, Ok(())), "one has left, and it is counted");
    let chain = &mut rebased.chains[AuditClass::Registrations as usize];
    chain.next_seq -= 1;
    assert!(rebased.verify().is_err(), "and nobody can say that none has");
    // The end of a class was cut off, so the counts do not add up.
    let mut cut = good.clone();
    let chain = &mut cut.chains[AuditClass::Identities as usize];
    chain.records.pop_back();
    chain.next_seq -= 1;
    assert_eq!(cut.verify(), Err(12));
    // All records of a class were removed.
    let mut without = good.clone();
    without.chains[AuditClass::Identities as usize] = AuditChain::default();
    assert_eq!(without.verify(), Err(12));
}

#[test]
fn a_changed_removed_or_reordered_record_is_found() {
    let good = log(10);
    let mut changed = good.clone();
    Arc::make_mut(&mut registrations(&mut changed)[4]).object = "default/b/5".into();
    assert_eq!(changed.verify(), Err(4));
    let mut removed = good.clone();
    registrations(&mut removed).remove(4);
    assert!(removed.verify().is_err());
    let mut reordered = good.clone();
    registrations(&mut reordered).swap(2, 3);
    assert!(reordered.verify().is_err());
    let mut headless = good;
    headless.head = [7; 32];
    assert_eq!(headless.verify(), Err(10));
}

#[test]
fn only_a_compared_clock_lets_records_go_by_age() {
    let mut log = log(10);
    log.append(record(AuditAction::UserPut, 10), 1);
    // A record with a time far in the future does not cause other records to be dropped.
    log.append(record(AuditAction::InstanceRegister, 10 * LONG_MS), 1);
    assert_eq!(log.len(), 12);
    assert!(!log.has_expired(SHORT_MS + 1));
    assert_eq!(log.expire(SHORT_MS + 6), 5, "what is 30 days old stays, what is older goes");
    assert_eq!(log.verify(), Ok(()));
    assert_eq!(log.expire(LONG_MS + 10), 5);
    assert_eq!(log.expire(LONG_MS + 11), 1, "users are remembered for longer");
    assert_eq!((log.len(), log.verify()), (1, Ok(())));
}

/// Whoever forwards the records continues from a number. A record that is left out there would be lost.
#[test]
fn the_records_from_a_number_on_are_complete_and_in_order_over_all_classes() {
    let mut log = AuditLog::default();
    for n in 0..40 {
        let action = match n % 4 {
            0 => AuditAction::PolicyPut,
            1 => AuditAction::UserPut,
            _ => AuditAction::InstanceRegister,
        };
        log.append(record(action, n), 1);
    }
    let numbers =
        |from, max| -> Vec<u64> { log.since(from, max).iter().map(|record| record.seq).collect() };
    assert_eq!(numbers(0, 100), (0..40).collect::<Vec<_>>());
    assert_eq!(numbers(7, 5), [7, 8, 9, 10, 11]);
    assert_eq!(numbers(38, 5), [38, 39]);
    assert!(numbers(40, 5).is_empty());
    // Records that left their class are left out, and the others are still found.
    let mut later = log.clone();
    registrations(&mut later).pop_front();
    let kept: Vec<u64> = later.since(0, 4).iter().map(|record| record.seq).collect();
    assert_eq!(kept, [0, 1, 3, 4]);
}

#[test]
fn records_that_make_room_early_are_told_from_those_that_are_as_old_as_they_may_be() {
    let class = AuditClass::Identities;
    let mut log = AuditLog::default();
    // The second half is younger than the first.
    for n in 0..class.records_max() as u64 {
        let time_ms = if n < 10 { 1 } else { LONG_MS };
        log.append(AuditRecord { time_ms, ..record(AuditAction::UserPut, n) }, 2);
    }
    let earlier = log.chain(class).clone();
    assert_eq!(earlier.dropped_early(&AuditChain::default(), class, LONG_MS + 2), 0);
    let now_ms = LONG_MS + 2;
    for n in 0..12 {
        log.append(AuditRecord { time_ms: now_ms, ..record(AuditAction::UserPut, n) }, 2);
    }
    assert_eq!(log.chain(class).dropped_early(&earlier, class, now_ms), 2);
    for n in 0..class.records_max() as u64 {
        log.append(AuditRecord { time_ms: now_ms, ..record(AuditAction::UserPut, n) }, 2);
    }
    // 12 of the later ones came and left in between.
    let early = class.records_max() as u64 + 2;
    assert_eq!(log.chain(class).dropped_early(&earlier, class, now_ms), early);
    assert_eq!(earlier.dropped_early(log.chain(class), class, now_ms), 0, "an older state");
}
