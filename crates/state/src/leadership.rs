//! Who leads, as one node sees it. This is not part of the replicated state: each node reports what it can
//! confirm.

use serde::Serialize;

/// The leader, as far as this node can confirm it now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Leadership {
    /// The name of the leader, if it was confirmed within its lease.
    pub leader: Option<String>,
    /// Whether this node leads and its lease has not run out by its own monotonic clock.
    pub is_leader: bool,
    /// Grows with every change of the leader: the term in Raft, or the fencing token of the lease in other
    /// modes.
    pub term: u64,
}
