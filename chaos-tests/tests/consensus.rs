//! Fixed seeds of the simulation of the consensus core, and a known fault that it must catch.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use maxine_chaos::consensus::{self, KnownFault, Outcome};

const VIRTUAL_MS: u64 = 20_000;

#[test]
fn fixed_seeds_break_nothing_and_reach_every_part() {
    let mut total = Outcome::default();
    for seed in 1..=10 {
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
    assert!(total.leaders > 12 && total.acknowledged > 400, "{total:?}");
    assert!(total.crashes > 8 && total.writes_lost > 0 && total.partitions > 4, "{total:?}");
    assert!(total.member_changes > 1, "{total:?}");
}

#[test]
fn an_entry_that_is_left_out_is_caught() {
    let caught = (1..=60).any(|seed| {
        let plan = consensus::plan(seed, VIRTUAL_MS);
        let faulty = consensus::run(consensus::Plan { fault: Some(KnownFault::SkipEntry), ..plan });
        faulty.violation.is_some_and(|violation| violation.invariant == "digests-agree")
    });
    assert!(caught);
}
