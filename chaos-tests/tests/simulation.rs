//! Fixed seeds of the simulation, and known faults that it must catch.

use maxine_chaos::simulation::{self, Fault, Plan};

fn run(seed: u64) -> simulation::Outcome {
    simulation::run(Plan::new(seed))
}

#[test]
fn a_seed_gives_the_same_trace_each_time() {
    for seed in 1..=3 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first, second);
        assert!(first.applied > 100, "{first:?}");
    }
    assert_ne!(run(1).trace, run(2).trace);
}

#[test]
fn fixed_seeds_break_nothing_and_reach_every_part() {
    let (mut elections, mut handovers, mut expiries) = (0, 0, 0);
    for seed in 1..=40 {
        let outcome = run(seed);
        if let Some(violation) = &outcome.violation {
            let again = simulation::replay_command(&Plan::new(seed));
            panic!("{violation:?}\n{again}");
        }
        elections += outcome.elections;
        handovers += outcome.handovers;
        expiries += outcome.expiries;
    }
    let reached = elections > 80 && handovers > 40 && expiries > 40;
    assert!(reached, "{elections} {handovers} {expiries}");
}

#[test]
fn entries_under_an_old_fence_are_met() {
    let slow = |seed| Plan { slow_proposals: true, ..Plan::new(seed) };
    assert!((1..=60).map(|seed| simulation::run(slow(seed)).fenced_off).sum::<u64>() > 0);
}

/// Whether a fault is caught by this invariant, in a seed that is clean without it.
fn is_caught(fault: Fault, invariant: &str) -> bool {
    (1..=300).any(|seed| {
        let plan = Plan { slow_proposals: true, ..Plan::new(seed) };
        let found = simulation::run(Plan { fault: Some(fault), ..plan }).violation;
        found.is_some_and(|violation| violation.invariant == invariant)
            && simulation::run(plan).violation.is_none()
    })
}

#[test]
fn leases_opened_without_their_time_to_live_are_caught() {
    assert!(is_caught(Fault::NoTakeoverGrace, "renewed-leases-hold"));
}

#[test]
fn leases_handed_over_for_less_than_was_left_are_caught() {
    assert!(is_caught(Fault::HandOverShort, "renewed-leases-hold"));
}

#[test]
fn a_skipped_entry_is_caught() {
    assert!(is_caught(Fault::SkipEntry, "digests-agree"));
}

#[test]
fn a_write_that_takes_effect_twice_is_caught() {
    assert!(is_caught(Fault::ForgetRequestId, "requests-take-effect-once"));
}

#[test]
fn a_leader_without_duties_is_caught() {
    assert!(is_caught(Fault::SupersededForGood, "calm-leader-has-duties"));
}

#[test]
fn expiry_without_fencing_is_caught() {
    assert!(is_caught(Fault::SkipFencing, "renewed-leases-hold"));
}
