//! The steps of a simulation, as its invariants read them.

use std::collections::BTreeMap;

use crate::codec::LogIdDto;
use crate::config::NodeId;

/// An event in a simulation.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A node acts as the leader of a term.
    Leads { node: NodeId, term: u64 },
    /// A node applied an entry. `digest` is that of its state afterwards, if it was computed.
    Applied { node: NodeId, id: LogIdDto, entry: u64, digest: Option<u64> },
    /// A proposal was acknowledged as this entry, by a node whose term is `by`.
    Acknowledged { id: LogIdDto, entry: u64, by: u64 },
    /// A node became leader with this log: its purged index and the entries after it.
    LogOfLeader { node: NodeId, term: u64, purged: u64, entries: BTreeMap<u64, u64> },
    /// A client asks a node for an index to read at.
    ReadBegan { read: u64 },
    /// The node has answered.
    ReadEnded { read: u64, node: NodeId, index: u64 },
    /// A node reports that it leads a term.
    Reports { node: NodeId, term: u64 },
}
