//! Who leads, as one node sees it. This is not part of the replicated state: each node reports what it can
//! confirm.

use serde::{Serialize, Serializer};

/// The leader, as far as this node can confirm it now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Leadership {
    /// The name of the leader, if it was confirmed within its lease.
    pub leader: Option<String>,
    /// Whether this node leads and its lease has not run out by its own monotonic clock.
    pub is_leader: bool,
    /// Grows with every change of the leader: the term in Raft, or the fencing token of the lease in other
    /// modes. As JSON: null while this node knows none.
    #[serde(serialize_with = "null_if_none")]
    #[schema(value_type = Option<u64>)]
    pub term: u64,
}

impl Leadership {
    /// The term, or the fencing token; `None` while this node knows none.
    #[must_use]
    pub fn known_term(&self) -> Option<u64> {
        known(self.term)
    }
}

/// Terms and fencing tokens begin at 1.
fn known(term: u64) -> Option<u64> {
    (term > 0).then_some(term)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn null_if_none<S: Serializer>(term: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    known(*term).serialize(serializer)
}
