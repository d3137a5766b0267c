//! Runs the real consensus core and the real state machine together in one process, under virtual time.
//!
//! `maxine-raft` drives the core (`maxine_raft::simulation`). This module provides what it replicates: the
//! state of the control plane, the commands of clients and leaders, and the invariants.

mod invariants;
mod replica;
mod work;

use maxine_raft::simulation;
pub use maxine_raft::simulation::{KnownFault, Outcome, Plan};

use replica::Replica;
use work::Work;

/// The deliberate faults with their names.
pub const KNOWN_FAULTS: &[(KnownFault, &str)] = &[
    (KnownFault::AckBeforeSync, "ack-before-sync"),
    (KnownFault::VoteBeforeSync, "vote-before-sync"),
    (KnownFault::SkipEntry, "skip-entry"),
    (KnownFault::AnswerEarly, "answer-early"),
    (KnownFault::ReportEarly, "report-early"),
];

/// A run of this seed: `virtual_ms` milliseconds of faults, then a calm period.
#[must_use]
pub fn plan(seed: u64, virtual_ms: u64) -> Plan {
    Plan { seed, virtual_ms, fault: None }
}

/// Runs one seed, on its own thread. Stops at the first violated invariant.
///
/// # Panics
///
/// Panics if the simulation itself panics.
#[must_use]
pub fn run(plan: Plan) -> Outcome {
    let run =
        move || simulation::run(plan, || Box::new(Replica::default()), Box::new(Work::default()));
    // The simulation has its own runtime, which must not be started inside another one, and its random
    // numbers belong to the thread.
    match std::thread::spawn(run).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs seeds, `jobs` of them at a time, and reports each when it ends.
pub fn run_all(plans: Vec<Plan>, jobs: usize, mut ended: impl FnMut(Plan, Outcome)) {
    let left = std::sync::Mutex::new(plans.into_iter());
    let (sender, receiver) = std::sync::mpsc::sync_channel(jobs);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (left, sender) = (&left, sender.clone());
            scope.spawn(move || {
                let next = || left.lock().ok().and_then(|mut left| left.next());
                while let Some(plan) = next() {
                    if sender.send((plan, run(plan))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (plan, outcome) in receiver {
            ended(plan, outcome);
        }
    });
}

/// The command that repeats a failing seed.
#[must_use]
pub fn replay_command(plan: &Plan) -> String {
    let known = KNOWN_FAULTS.iter().find(|(fault, _)| Some(*fault) == plan.fault);
    let fault = known.map(|(_, name)| format!(" --fault {name}")).unwrap_or_default();
    format!(
        "cargo run -p maxine-chaos -- simulate --consensus --first-seed {} --seeds 1 --virtual-s {}{fault}",
        plan.seed,
        plan.virtual_ms / 1_000
    )
}
