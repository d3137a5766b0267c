//! What is true in a simulation: what its invariants read, and what one step did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use maxine_state::{Applied, ControlState, Event, Fence, InstanceKey, Name, Proposal};

/// What happened in one step.
#[derive(Clone, Debug)]
pub enum Step {
    /// A node applied the entry at a position of the log.
    Applied {
        /// Which node.
        node: usize,
        /// The entry's position, from 1.
        position: usize,
        /// Its reply.
        applied: Applied,
        /// What it changed.
        events: Vec<Arc<Event>>,
        /// The registrations that it removed, as they were before.
        removed: Vec<Removed>,
    },
    /// Anything else.
    Other,
}

/// A registration that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The instance.
    pub key: InstanceKey,
    /// Its lease.
    pub lease_epoch: u64,
    /// Its last registration in the log.
    pub registered_index: u64,
}

/// An entry of the log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The leader's term.
    pub term: u64,
    /// What was ordered.
    pub proposal: Arc<Proposal>,
}

/// A node, as far as others can see it.
#[derive(Debug)]
pub struct Replica {
    /// Its name in grants.
    pub name: Name,
    /// Whether its process runs.
    pub up: bool,
    /// Until when its process is paused.
    pub paused_until_ms: u64,
    /// Its copy of the state.
    pub state: ControlState,
    /// How much of the log it has applied.
    pub position: usize,
    /// The fence under which it does the leader's duties.
    pub duties: Option<Fence>,
}

impl Replica {
    /// Whether its process does anything now.
    pub fn runs(&self, now_ms: u64) -> bool {
        self.up && self.paused_until_ms <= now_ms
    }
}

/// What a client was told of its instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// The lease of its registration.
    pub lease_epoch: u64,
    /// Until when the lease surely holds, by the world's clock.
    pub holds_until_ms: u64,
}

/// The truth about a simulated world.
#[derive(Debug, Default)]
pub struct Facts {
    /// Virtual milliseconds since the start.
    pub now_ms: u64,
    /// The nodes.
    pub nodes: Vec<Replica>,
    /// The order of what was proposed.
    pub log: Vec<Entry>,
    /// Which node really leads.
    pub leader: Option<usize>,
    /// The present term.
    pub term: u64,
    /// What clients were told of their instances.
    pub acknowledged: BTreeMap<InstanceKey, Acknowledged>,
    /// Replies that clients got, by request.
    pub replies: BTreeMap<u128, Applied>,
    /// Writes that a node ordered, by the number that the node gave them when it took them in.
    pub ordered: BTreeSet<u64>,
    /// Writes of which a node said that nothing was written.
    pub refused: Vec<u64>,
    /// Instances that answered every probe well, except to a node that could not reach them.
    pub always_healthy: BTreeSet<InstanceKey>,
}
