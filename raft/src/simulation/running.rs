//! The present process of a simulated node.

use super::machine::SimMachine;
use crate::consensus::TypeConfig;

pub(super) type SimRaft = openraft::Raft<TypeConfig, SimMachine>;

/// A process.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) raft: SimRaft,
    /// The number of the process on this node.
    pub(super) process: u64,
    /// Until this time the process grants no vote, because votes that it granted before a stop are not on its
    /// disk.
    pub(super) votes_from: tokio::time::Instant,
}
