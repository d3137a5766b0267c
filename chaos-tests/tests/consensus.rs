//! Fixed seeds of the simulation of the consensus core, and the deliberate faults that they must detect.
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
        total.reads += outcome.reads;
        total.forged += outcome.forged;
    }
    assert!(total.leaders > 12 && total.acknowledged > 400, "{total:?}");
    assert!(total.crashes > 8 && total.writes_lost > 0 && total.partitions > 4, "{total:?}");
    assert!(total.member_changes > 1, "{total:?}");
    assert!(total.reads > 400 && total.forged > 12, "{total:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let plans: Vec<_> = (1..=10).map(|seed| consensus::plan(seed, VIRTUAL_MS)).collect();
    let first: Vec<Outcome> = plans.iter().map(|plan| consensus::run(*plan)).collect();
    // The same runs in another order and concurrently. Nothing of one run may affect another.
    let mut again: Vec<Option<Outcome>> = vec![None; plans.len()];
    let backwards = plans.iter().rev().copied().collect();
    consensus::run_all(backwards, 2, |plan, outcome| {
        let at = plans.iter().position(|planned| planned.seed == plan.seed);
        again[at.unwrap()] = Some(outcome);
    });
    for (plan, (first, again)) in plans.iter().zip(first.iter().zip(&again)) {
        assert_eq!(Some(first), again.as_ref(), "seed {}", plan.seed);
    }
    assert_ne!(first[0].trace, first[1].trace);
}

/// Whether a seed detects the fault, with this invariant.
fn is_caught(fault: KnownFault, by: &str) -> bool {
    (1..=100).any(|seed| {
        let plan = consensus::plan(seed, VIRTUAL_MS);
        let faulty = consensus::run(consensus::Plan { fault: Some(fault), ..plan });
        faulty.violation.is_some_and(|violation| violation.invariant == by)
    })
}

#[test]
fn an_entry_that_is_left_out_is_caught() {
    assert!(is_caught(KnownFault::SkipEntry, "digests-agree"));
}

#[test]
fn an_acknowledgement_before_its_sync_is_caught() {
    assert!(is_caught(KnownFault::AckBeforeSync, "acknowledged-survive"));
}

#[test]
fn a_vote_before_its_sync_is_caught() {
    assert!(is_caught(KnownFault::VoteBeforeSync, "one-leader-per-term"));
}

#[test]
fn a_leader_that_answers_before_the_lease_of_another_ends_is_caught() {
    assert!(is_caught(KnownFault::AnswerEarly, "reads-see-acknowledged"));
}

#[test]
fn a_leader_that_reports_before_the_lease_of_another_ends_is_caught() {
    assert!(is_caught(KnownFault::ReportEarly, "one-leader-reports"));
}
