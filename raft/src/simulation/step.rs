//! What happened in one step of a simulation: what its invariants read.

use std::collections::BTreeMap;

use crate::codec::LogIdDto;
use crate::config::NodeId;

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A node acts as the leader of a term.
    Leads { node: NodeId, term: u64 },
    /// A node applied an entry; its state has this digest then, where it was taken.
    Applied { node: NodeId, id: LogIdDto, entry: u64, digest: Option<u64> },
    /// A proposal was acknowledged as this entry.
    Acknowledged { id: LogIdDto, entry: u64 },
    /// A node has become leader with this log: its purged index and the entries after it.
    LogOfLeader { node: NodeId, term: u64, purged: u64, entries: BTreeMap<u64, u64> },
}
