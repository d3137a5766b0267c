//! The real consensus core and the real state machine together in one process, under virtual time.
//!
//! `maxine-raft` drives the core (`maxine_raft::simulation`); this brings what it replicates: the
//! control plane's state, commands that clients and leaders propose, and what must hold of them.

mod invariants;
mod replica;
mod work;

use maxine_raft::simulation;
pub use maxine_raft::simulation::{KnownFault, Outcome, Plan};

use replica::Replica;
use work::Work;

/// The known faults with their names.
pub const KNOWN_FAULTS: &[(KnownFault, &str)] = &[
    (KnownFault::AckBeforeSync, "ack-before-sync"),
    (KnownFault::VoteBeforeSync, "vote-before-sync"),
    (KnownFault::SkipEntry, "skip-entry"),
];

/// A run of this seed: so many virtual milliseconds of trouble, then calm.
#[must_use]
pub fn plan(seed: u64, virtual_ms: u64) -> Plan {
    Plan { seed, virtual_ms, fault: None }
}

/// Runs one seed, on a thread of its own; stops at the first broken invariant.
///
/// # Panics
/// If the simulation itself panics.
#[must_use]
pub fn run(plan: Plan) -> Outcome {
    let run =
        move || simulation::run(plan, || Box::new(Replica::default()), Box::new(Work::default()));
    // Its runtime must not be started inside another, and its dice belong to the thread.
    match std::thread::spawn(run).join() {
        Ok(outcome) => outcome,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs seeds, `jobs` of them at a time, and tells of each as it ends.
pub fn run_all(plans: Vec<Plan>, jobs: usize, mut ended: impl FnMut(Plan, Outcome)) {
    let left = std::sync::Mutex::new(plans.into_iter());
    let (tell, told) = std::sync::mpsc::sync_channel(jobs);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (left, tell) = (&left, tell.clone());
            scope.spawn(move || {
                let next = || left.lock().ok().and_then(|mut left| left.next());
                while let Some(plan) = next() {
                    if tell.send((plan, run(plan))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for (plan, outcome) in told {
            ended(plan, outcome);
        }
    });
}

/// The command that shows a failing seed again.
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
