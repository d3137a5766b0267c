//! Fixed seeds of the simulation of the consensus core, and known faults that it must catch.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use maxine_chaos::consensus::{self, KnownFault, Outcome};

const VIRTUAL_MS: u64 = 20_000;

fn run(seed: u64) -> Outcome {
    consensus::run(consensus::plan(seed, VIRTUAL_MS))
}

#[test]
fn a_seed_gives_the_same_trace_each_time() {
    for seed in 1..=3 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first, second);
        assert!(first.applied > 100 && first.messages > 300, "{first:?}");
    }
    assert_ne!(run(1).trace, run(2).trace);
}

#[test]
fn fixed_seeds_break_nothing_and_reach_every_part() {
    let mut total = Outcome::default();
    for seed in 1..=30 {
        let plan = consensus::plan(seed, VIRTUAL_MS);
        let outcome = consensus::run(plan);
        if let Some(violation) = &outcome.violation {
            panic!("{violation:?}\n{}", consensus::replay_command(&plan));
        }
        total.leaders += outcome.leaders;
        total.crashes += outcome.crashes;
        total.writes_lost += outcome.writes_lost;
        total.partitions += outcome.partitions;
        total.member_changes += outcome.member_changes;
        total.snapshots_installed += outcome.snapshots_installed;
        total.acknowledged += outcome.acknowledged;
    }
    assert!(total.leaders > 60 && total.acknowledged > 1_000, "{total:?}");
    assert!(total.crashes > 30 && total.writes_lost > 30 && total.partitions > 30, "{total:?}");
    assert!(total.member_changes > 5 && total.snapshots_installed > 5, "{total:?}");
}

/// The invariant that a fault breaks first, in a seed that is clean without it.
fn caught_by(fault: KnownFault) -> Vec<&'static str> {
    let mut caught = Vec::new();
    for seed in 1..=60 {
        let plan = consensus::plan(seed, VIRTUAL_MS);
        let faulty = consensus::run(consensus::Plan { fault: Some(fault), ..plan });
        if let Some(violation) = faulty.violation
            && consensus::run(plan).violation.is_none()
        {
            caught.push(violation.invariant);
            if caught.len() == 3 {
                break;
            }
        }
    }
    caught
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    let caught = caught_by(KnownFault::AckBeforeSync);
    let wanted = ["acknowledged-survive", "committed-entries-stay"];
    assert!(caught.iter().any(|name| wanted.contains(name)), "{caught:?}");
}

#[test]
fn a_vote_before_the_sync_is_caught() {
    let caught = caught_by(KnownFault::VoteBeforeSync);
    assert!(caught.contains(&"one-leader-per-term"), "{caught:?}");
}

#[test]
fn an_entry_that_is_left_out_is_caught() {
    let caught = caught_by(KnownFault::SkipEntry);
    assert!(caught.contains(&"digests-agree"), "{caught:?}");
}
