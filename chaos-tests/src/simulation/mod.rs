//! The control plane's engines in one process, under a seeded scheduler and virtual time.
//!
//! Real: the state machine, its snapshots, the fencing in apply, and the engines of `maxine-control`, which
//! the product's actors drive too: intake, leases, health, leadership. Modelled: the order of the log (one
//! ideal log whose leader changes, to which a late or stale proposal may still be forwarded), the
//! network between nodes and clients (late, lost, repeated, reordered), clocks that drift, processes
//! that crash, restart from their snapshot, and pause, an engine that panics, instances that are sick, and a
//! node whose probes reach nobody. Same seed, same trace.

mod client;
mod drive;
mod network;
mod node;
mod order;
mod world;

use crate::invariants::{self, Violation};
use maxine_control::faults;

use world::World;

/// A known fault, to show that an invariant catches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The leader's duties take effect under whatever fence is present: no fencing at all.
    SkipFencing,
    /// A node skips an entry of the log after a restart.
    SkipEntry,
    /// A retried write gets a new request id.
    ForgetRequestId,
    /// A fault of an engine.
    Engine(faults::Fault),
}

impl Fault {
    /// Every one with its name.
    pub fn all() -> Vec<(Self, &'static str)> {
        let engines = faults::Fault::ALL.iter().map(|(fault, name)| (Self::Engine(*fault), *name));
        let own = [
            (Self::SkipFencing, "skip-fencing"),
            (Self::SkipEntry, "skip-entry"),
            (Self::ForgetRequestId, "forget-request-id"),
        ];
        own.into_iter().chain(engines).collect()
    }
}

/// The time since 1970 at a time of a node's clock, in milliseconds.
fn wall_ms(clock_ms: u64) -> u64 {
    1_700_000_000_000 + clock_ms
}

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
    /// Verdicts about an instance's health.
    pub verdicts: u64,
    /// Writes of which a node said that nothing was written.
    pub refusals: u64,
    /// Entries whose fence was refused.
    pub fenced_off: u64,
    /// The first broken invariant.
    pub violation: Option<Violation>,
}

/// Runs one seed; stops at the first broken invariant.
pub fn run(plan: Plan) -> Outcome {
    faults::switch_on(match plan.fault {
        Some(Fault::Engine(fault)) => Some(fault),
        _ => None,
    });
    let mut world = World::new(plan);
    let mut checks = invariants::all();
    let mut violation = None;
    let mut steps = 0;
    'run: while let Some(step) = world.next() {
        steps += 1;
        for check in &mut checks {
            if let Err(detail) = check.check(&world.facts, &step) {
                let name = check.name();
                violation = Some(Violation { invariant: name, detail, at_ms: world.now_ms() });
                break 'run;
            }
        }
    }
    faults::switch_on(None);
    let counts = world.counts;
    Outcome {
        trace: world.trace(),
        steps,
        applied: counts.applied,
        elections: counts.elections,
        handovers: counts.handovers,
        expiries: counts.expiries,
        verdicts: counts.verdicts,
        refusals: counts.refusals,
        fenced_off: counts.fenced_off,
        violation,
    }
}

/// The command that shows a failing seed again.
pub fn replay_command(plan: &Plan) -> String {
    let slow = if plan.slow_proposals { " --slow-proposals" } else { "" };
    let known = Fault::all().into_iter().find(|(fault, _)| Some(*fault) == plan.fault);
    let fault = known.map(|(_, name)| format!(" --fault {name}")).unwrap_or_default();
    format!(
        "cargo run -p maxine-chaos -- simulate --first-seed {} --seeds 1 --virtual-s {}{slow}{fault}",
        plan.seed,
        plan.virtual_ms / 1_000
    )
}
