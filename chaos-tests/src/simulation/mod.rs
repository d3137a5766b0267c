//! The control plane's cores in one process, under a seeded scheduler and virtual time.
//!
//! Real: the state machine, its snapshots, the fencing in apply, the lease table. Modelled: the order
//! of the log (one ideal log whose leader changes, to which a late or stale proposal may still be
//! forwarded), the network between nodes and clients (late, lost, repeated, reordered), clocks that
//! drift, processes that crash, restart from their snapshot, and pause. Same seed, same trace.

mod client;
mod network;
mod node;
mod world;

use crate::invariants::{self, Violation};

pub use node::{Expired, Step};
pub use world::{Acknowledged, Fault, World};

/// What a simulated run is like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What random choices start from.
    pub seed: u64,
    /// How long it runs, in virtual milliseconds.
    pub virtual_ms: u64,
    /// Whether what the leader proposes for itself may be seconds late: between deciding that a lease
    /// ran out and ordering it, the world changes.
    pub slow_proposals: bool,
    /// A known fault that is switched on, to show that it is caught.
    pub fault: Option<Fault>,
}

impl Plan {
    /// A minute of this seed, without a known fault.
    pub fn new(seed: u64) -> Self {
        Self { seed, virtual_ms: 60_000, slow_proposals: false, fault: None }
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of everything that happened, in order.
    pub trace: u64,
    /// Steps that were taken.
    pub steps: u64,
    /// Entries that were applied, over all nodes.
    pub applied: u64,
    /// How often leadership changed.
    pub elections: u64,
    /// Changes in which the new leader learned what was left of the leases.
    pub handovers: u64,
    /// Leases that ran out.
    pub expiries: u64,
    /// Entries whose fence was refused.
    pub fenced_off: u64,
    /// The first broken invariant.
    pub violation: Option<Violation>,
}

/// Runs one seed; stops at the first broken invariant.
pub fn run(plan: Plan) -> Outcome {
    let mut world = World::new(plan);
    let mut checks = invariants::all();
    let mut violation = None;
    let mut steps = 0;
    'run: while let Some(step) = world.next() {
        steps += 1;
        for check in &mut checks {
            if let Err(detail) = check.check(&world, &step) {
                let name = check.name();
                violation = Some(Violation { invariant: name, detail, at_ms: world.now_ms() });
                break 'run;
            }
        }
    }
    Outcome {
        trace: world.trace(),
        steps,
        applied: world.applied,
        elections: world.elections,
        handovers: world.handovers,
        expiries: world.expiries,
        fenced_off: world.fenced_off,
        violation,
    }
}

/// The command that shows a failing seed again.
pub fn replay_command(plan: &Plan) -> String {
    let slow = if plan.slow_proposals { " --slow-proposals" } else { "" };
    let known = Fault::ALL.iter().find(|(fault, _)| Some(*fault) == plan.fault);
    let fault = known.map(|(_, name)| format!(" --fault {name}")).unwrap_or_default();
    format!(
        "cargo run -p maxine-chaos -- simulate --first-seed {} --seeds 1 --virtual-s {}{slow}{fault}",
        plan.seed,
        plan.virtual_ms / 1_000
    )
}
