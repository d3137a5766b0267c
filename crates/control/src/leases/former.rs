//! What a leader leaves of the leases when its leadership ends.
//!
//! A leader that takes over cannot know when a lease was last renewed, and so gives each its whole
//! time. The leader before knows. It is asked once the new grant has reached it: from then on it
//! acknowledges nothing, and what it answers is final. The time of a lease stands still from that
//! moment until the answer arrives, because nobody could renew it meanwhile. A leader that is dead or
//! cut off does not answer, and its leases get their whole time (decision record 0011).

use maxine_state::Fence;

use super::table::LeaseId;

/// What was left of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerLease {
    /// Which lease.
    pub id: LeaseId,
    /// Index of its last registration in the log.
    pub registered_index: u64,
    /// How long it had to run, in milliseconds; 0 if it had run out.
    pub left_ms: u64,
}

/// What was left of all leases under a grant. It does not change any more.
#[derive(Debug)]
pub struct Former {
    fence: Fence,
    leases: Vec<FormerLease>,
}

impl Former {
    /// What was left under the grant `fence`.
    #[must_use]
    pub fn new(fence: Fence, leases: Vec<FormerLease>) -> Self {
        Self { fence, leases }
    }

    /// The grant that it was left under.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// The leases, in no order.
    #[must_use]
    pub fn leases(&self) -> &[FormerLease] {
        &self.leases
    }
}
