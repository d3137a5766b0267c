//! The facts of a simulation that its invariants read, and the effect of one step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use maxine_state::{Applied, ControlState, Event, Fence, InstanceKey, Name, Proposal};

/// The effect of one step.
#[derive(Clone, Debug)]
pub enum Step {
    /// A node applied the entry at a position of the log.
    Applied {
        /// The node.
        node: usize,
        /// The entry's position, from 1.
        position: usize,
        /// Its reply.
        applied: Applied,
        /// The changes.
        events: Vec<Arc<Event>>,
        /// The registrations that it removed, with their values before.
        removed: Vec<Removed>,
    },
    /// Any other step.
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
    /// The term of the leader.
    pub term: u64,
    /// The proposal.
    pub proposal: Arc<Proposal>,
}

/// A node, as far as others can see it.
#[derive(Debug)]
pub struct Replica {
    /// Its name in grants.
    pub name: Name,
    /// Whether its process runs.
    pub up: bool,
    /// Until when its process is paused, in milliseconds.
    pub paused_until_ms: u64,
    /// Its copy of the state.
    pub state: ControlState,
    /// How much of the log it has applied.
    pub position: usize,
    /// The fence under which it carries out the leader's duties.
    pub duties: Option<Fence>,
}

impl Replica {
    /// Whether its process runs now.
    pub fn runs(&self, now_ms: u64) -> bool {
        self.up && self.paused_until_ms <= now_ms
    }
}

/// The last reply that a client got about its instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// The lease of its registration.
    pub lease_epoch: u64,
    /// Until when the lease is certainly valid, by the world's clock.
    pub holds_until_ms: u64,
}

/// The facts of a simulated world.
#[derive(Debug, Default)]
pub struct Facts {
    /// Virtual milliseconds since the start.
    pub now_ms: u64,
    /// The nodes.
    pub nodes: Vec<Replica>,
    /// The ordered proposals.
    pub log: Vec<Entry>,
    /// The node that really leads.
    pub leader: Option<usize>,
    /// The present term.
    pub term: u64,
    /// The last replies that clients got about their instances.
    pub acknowledged: BTreeMap<InstanceKey, Acknowledged>,
    /// The replies that clients got, by request.
    pub replies: BTreeMap<u128, Applied>,
    /// Writes that a node has ordered, by the number that the node gave them.
    pub ordered: BTreeSet<u64>,
    /// Writes that a node answered as not written.
    pub refused: Vec<u64>,
    /// Instances that answered every probe with success, except from a node that could not reach them.
    pub always_healthy: BTreeSet<InstanceKey>,
}
