//! Runs the consensus core in one process under virtual time, with faults that depend on a seed.
//!
//! Real: the consensus core with this crate's settings and type parameters, the answers to peers, the bytes
//! on the wire, and the application. Modelled: the disk (a crash loses what was not synced, and syncs are
//! slow and cover groups), the network (messages are late, lost, repeated or reordered; partitions are
//! symmetric, one-way, or with a bridge), clocks that run fast or slow, crashes, restarts, false evidence that the
//! leader is gone, and changes of the membership. Nothing here is part of a real node.

mod disk;
mod invariants;
mod machine;
mod network;
mod node;
mod running;
mod step;
mod trouble;
mod virtual_clock;
mod world;

use std::sync::Arc;

use bytes::Bytes;

use crate::application::Application;
use crate::runtime;

pub use world::{Dice, Violation};

/// An application whose states a simulation can compare.
pub trait SimApplication: Application {
    /// A digest, which is equal for equal states.
    fn digest(&self) -> u64;

    /// The violations in what was applied since the last call.
    fn verdicts(&mut self) -> Vec<Violation>;
}

/// The proposals of clients and leaders.
pub trait Workload: Send {
    /// The next proposal of a client.
    fn client(&mut self, client: usize, dice: &mut Dice) -> Bytes;

    /// What a node proposes when it becomes leader, and from time to time while it leads.
    fn leader(&mut self, node: u64, dice: &mut Dice) -> Bytes;

    /// The reply to a proposal.
    fn answered(&mut self, payload: &Bytes, reply: &Bytes);
}

/// A deliberate fault that an invariant must detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownFault {
    /// Entries are acknowledged before they are synced.
    AckBeforeSync,
    /// A vote is answered before it is synced.
    VoteBeforeSync,
    /// A node leaves out an entry when it applies its log after a restart.
    SkipEntry,
    /// A leader that was elected early does not wait for the lease of the leader before it.
    AnswerEarly,
    /// A leader that was elected early reports at once that it leads.
    ReportEarly,
}

/// The settings of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The seed of all random numbers.
    pub seed: u64,
    /// Duration of the faults, in virtual milliseconds.
    pub virtual_ms: u64,
    /// The deliberate fault that is switched on.
    pub fault: Option<KnownFault>,
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// A hash of all events, in order.
    pub trace: u64,
    /// Number of steps. Every invariant was checked after each.
    pub steps: u64,
    /// Number of messages that arrived.
    pub messages: u64,
    /// Number of entries that were applied, over all nodes.
    pub applied: u64,
    /// Number of proposals that were acknowledged.
    pub acknowledged: u64,
    /// Number of reads that were answered.
    pub reads: u64,
    /// Number of elections that were begun on false evidence that the leader is gone.
    pub forged: u64,
    /// How often a node became leader.
    pub leaders: u64,
    /// Number of crashes.
    pub crashes: u64,
    /// Number of operations that crashes removed from a disk before they were synced.
    pub writes_lost: u64,
    /// Number of partitions.
    pub partitions: u64,
    /// Number of successful changes of the membership.
    pub member_changes: u64,
    /// Number of snapshots that a node received from another.
    pub snapshots_installed: u64,
    /// The first violated invariant.
    pub violation: Option<Violation>,
}

/// Runs one seed. It stops at the first violated invariant.
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
    // The tasks of the core end with their runtime. The random numbers that they still draw have no effect.
    drop(tokio);
    runtime::seed(None);
    outcome
}
