//! The consensus core in one process, under virtual time; its faults follow from a seed.
//!
//! Real: the consensus core with this crate's settings and type parameters, the answering of peers,
//! the bytes on the wire, and the application. Modelled: the disk (what was not synced is lost in a
//! crash, syncs are slow and gather), the network (messages late, lost, repeated, reordered,
//! partitions symmetric, one-way and with a bridge), clocks that run fast or slow, crashes, restarts,
//! changes of the membership. Nothing here is part of a node.

mod disk;
mod invariants;
mod machine;
mod network;
mod node;
mod step;
mod trouble;
mod virtual_clock;
mod world;

use std::sync::Arc;

use bytes::Bytes;

use crate::application::Application;
use crate::runtime;

pub use world::{Dice, Violation};

/// A replica of the state that a simulation can compare.
pub trait SimApplication: Application {
    /// Equal for equal states.
    fn digest(&self) -> u64;

    /// What was found wrong in what was applied since the last question.
    fn verdicts(&mut self) -> Vec<Violation>;
}

/// What clients and the leader propose.
pub trait Workload: Send {
    /// The next proposal of a client.
    fn client(&mut self, client: usize, dice: &mut Dice) -> Bytes;

    /// What a node proposes when it comes to lead, and from time to time while it does.
    fn leader(&mut self, node: u64, dice: &mut Dice) -> Bytes;

    /// The reply to something that was proposed.
    fn answered(&mut self, payload: &Bytes, reply: &Bytes);
}

/// A fault of the model that an invariant must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownFault {
    /// Entries are acknowledged before they are synced.
    AckBeforeSync,
    /// A vote is answered before it is synced.
    VoteBeforeSync,
    /// An entry is left out when a node applies its log after a restart.
    SkipEntry,
}

/// What a run is like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What everything random starts from.
    pub seed: u64,
    /// How long trouble lasts, in virtual milliseconds.
    pub virtual_ms: u64,
    /// A known fault that is switched on.
    pub fault: Option<KnownFault>,
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of everything that happened, in order.
    pub trace: u64,
    /// Steps after which every invariant was checked.
    pub steps: u64,
    /// Messages that arrived.
    pub messages: u64,
    /// Entries applied, over all nodes.
    pub applied: u64,
    /// Proposals that were acknowledged.
    pub acknowledged: u64,
    /// Leaders that were seen.
    pub leaders: u64,
    /// Crashes of a node.
    pub crashes: u64,
    /// Operations that a crash took from a disk before they were synced.
    pub writes_lost: u64,
    /// Partitions.
    pub partitions: u64,
    /// Changes of the membership that went through.
    pub member_changes: u64,
    /// Snapshots that a node took over from another.
    pub snapshots_installed: u64,
    /// The first broken invariant.
    pub violation: Option<Violation>,
}

/// Runs one seed; stops at the first broken invariant.
pub fn run(
    plan: Plan,
    app: impl Fn() -> Box<dyn SimApplication> + Send + Sync + 'static,
    workload: Box<dyn Workload>,
) -> Outcome {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without input and output needs nothing of the system");
    runtime::seed(Some(plan.seed));
    let outcome = tokio.block_on(trouble::drive(plan, Arc::new(app), workload));
    // The core's tasks end with their runtime; whatever they still draw is nobody's.
    drop(tokio);
    runtime::seed(None);
    outcome
}
