//! The remaining times of the leases at the end of a leadership.
//!
//! A new leader cannot know when a lease was last renewed, so it gives each lease its whole time. The
//! previous leader knows. It is asked once the new grant has reached it. From then on it acknowledges
//! nothing, so its answer is final. The time of a lease does not pass between that moment and the arrival of
//! the answer, because nobody could renew it. A leader that is dead or cut off does not answer, and the
//! leases then get their whole time (decision record 0011).

use bincode::{Decode, Encode};

use maxine_state::Fence;

use super::lease_id::LeaseId;

/// The remaining time of one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FormerLease {
    /// The id of the lease.
    pub id: LeaseId,
    /// Index of its last registration in the log.
    pub registered_index: u64,
    /// Its remaining time, in milliseconds; 0 if it had run out.
    pub left_ms: u64,
    /// How often it got its whole time again after the store had refused writes, without a renewal since.
    pub extensions: u8,
}

/// The remaining times of all leases under a grant. They no longer change.
#[derive(Debug)]
pub struct RemainingTimes {
    fence: Fence,
    leases: Vec<FormerLease>,
    suspended_ms: Option<u64>,
}

impl RemainingTimes {
    /// The remaining times under the grant `fence`, and how long a suspension of expiry had lasted when it ended, in
    /// milliseconds; `None` if there was none.
    #[must_use]
    pub fn new(fence: Fence, leases: Vec<FormerLease>, suspended_ms: Option<u64>) -> Self {
        Self { fence, leases, suspended_ms }
    }

    /// The grant under which the leases ran.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// How long expiry had been suspended, in milliseconds; `None` if it was not.
    #[must_use]
    pub fn suspended_ms(&self) -> Option<u64> {
        self.suspended_ms
    }

    /// The leases, in no particular order.
    #[must_use]
    pub fn leases(&self) -> &[FormerLease] {
        &self.leases
    }
}
