//! Who leads. Not part of the replicated state: every node says for itself what it can confirm.

use serde::Serialize;

/// The leader, as far as this node can confirm it now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Leadership {
    /// The name of the leader, if one was confirmed within its lease.
    pub leader: Option<String>,
    /// Whether it is this node, and its lease has not lapsed by its own monotonic clock.
    pub is_leader: bool,
    /// Grows with every change of leadership: Raft's term, or the lease's fencing token.
    pub term: u64,
}
