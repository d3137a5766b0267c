//! Fixed seeds of the simulation, and the deliberate faults that it must detect.

use maxine_chaos::known_faults::{IN_SIMULATION, IN_TESTS};
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
    let (mut verdicts, mut refusals) = (0, 0);
    for seed in 1..=40 {
        let outcome = run(seed);
        if let Some(violation) = &outcome.violation {
            let again = simulation::replay_command(&Plan::new(seed));
            panic!("{violation:?}\n{again}");
        }
        elections += outcome.elections;
        handovers += outcome.handovers;
        expiries += outcome.expiries;
        verdicts += outcome.verdicts;
        refusals += outcome.refusals;
    }
    let reached = elections > 80 && handovers > 40 && expiries > 40;
    assert!(reached, "{elections} {handovers} {expiries}");
    assert!(verdicts > 40 && refusals > 0, "{verdicts} {refusals}");
}

#[test]
fn entries_under_an_old_fence_are_met() {
    let slow = |seed| Plan { slow_proposals: true, ..Plan::new(seed) };
    assert!((1..=60).map(|seed| simulation::run(slow(seed)).fenced_off).sum::<u64>() > 0);
}

/// Each deliberate fault violates its invariant with the seed in [`IN_SIMULATION`]. Without the fault, the
/// same seed violates none.
#[test]
fn every_known_fault_is_caught_by_its_seed() {
    for (fault, name) in Fault::all() {
        let known = IN_SIMULATION.iter().find(|known| known.fault == name);
        // A fault that another defence hides in the simulation has its own test.
        let Some(known) = known else {
            assert!(IN_TESTS.iter().any(|test| test.fault == name), "{name} is not proven");
            continue;
        };
        let plan = Plan { slow_proposals: true, ..Plan::new(known.seed) };
        let found = simulation::run(Plan { fault: Some(fault), ..plan }).violation;
        let invariant = found.map(|violation| violation.invariant);
        assert_eq!(invariant, Some(known.invariant), "{name}");
        assert_eq!(simulation::run(plan).violation, None, "{name}");
    }
}
