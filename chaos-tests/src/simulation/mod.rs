//! Runs the engines of the control plane in one process, with a seeded scheduler and virtual time.
//!
//! Real: the state machine, its snapshots, the fencing in apply, and the engines of `maxine-control`, which
//! the product's actors drive too: intake, leases, health and leadership. Modelled: the order of the log (one
//! ideal log whose leader changes, and to which late proposals may be forwarded), the network between nodes
//! and clients (messages are late, lost, repeated and reordered), clocks that drift, processes that crash,
//! restart from their snapshot, and pause, an engine that panics, sick instances, and a node whose probes
//! reach nothing. The same seed gives the same trace.

mod client;
mod drive;
mod network;
mod node;
mod order;
mod world;

use crate::invariants::{self, Violation};
use maxine_control::faults;

use world::World;

/// A deliberate fault that an invariant must detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Commands of the leader take effect with any fence.
    SkipFencing,
    /// A node skips an entry of the log after a restart.
    SkipEntry,
    /// A retried write gets a new request id.
    ForgetRequestId,
    /// A fault of an engine.
    Engine(faults::Fault),
}

impl Fault {
    /// All faults, with their names.
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

/// The wall clock at a time of a node's clock, in milliseconds since 1970.
fn wall_ms(clock_ms: u64) -> u64 {
    1_700_000_000_000 + clock_ms
}

/// The settings of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The seed of all random choices.
    pub seed: u64,
    /// Its duration, in virtual milliseconds.
    pub virtual_ms: u64,
    /// Whether the leader's own proposals may be seconds late. The world then changes between the decision to
    /// expire a lease and its order.
    pub slow_proposals: bool,
    /// The deliberate fault that is switched on.
    pub fault: Option<Fault>,
}

impl Plan {
    /// A run of one minute with this seed, without a fault.
    pub fn new(seed: u64) -> Self {
        Self { seed, virtual_ms: 60_000, slow_proposals: false, fault: None }
    }
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of all events, in order.
    pub trace: u64,
    /// Number of steps.
    pub steps: u64,
    /// Number of entries that were applied, over all nodes.
    pub applied: u64,
    /// How often leadership changed.
    pub elections: u64,
    /// Number of changes of the leader in which the new one received the remaining times of the leases.
    pub handovers: u64,
    /// Number of expired leases.
    pub expiries: u64,
    /// Number of verdicts on an instance's health.
    pub verdicts: u64,
    /// Number of writes that a node answered as not written.
    pub refusals: u64,
    /// Number of entries that were refused for their fence.
    pub fenced_off: u64,
    /// The first violated invariant.
    pub violation: Option<Violation>,
}

/// Runs one seed. Stops at the first violated invariant.
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

/// The command that repeats a failing seed.
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
