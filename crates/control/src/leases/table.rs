//! The deadlines of all leases. Heartbeats renew them from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::handover::FormerLease;
use super::lease_id::LeaseId;
use super::settings::ExpirySettings;
use maxine_state::{Fence, InstanceKey, LockSessionId, Name};

/// The object of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leased {
    /// An instance.
    Instance(InstanceKey),
    /// A check that the owner of an instance reports. It is boxed because most leases are for instances.
    Check(Box<(InstanceKey, Name)>),
    /// A lock session. It is boxed because most leases are for instances.
    Session(Box<LockSessionId>),
    /// The lock delay of a session that ended. Nobody renews it.
    LockDelay(Box<LockSessionId>),
}

impl Leased {
    pub(super) fn check(key: &InstanceKey, check: &Name) -> Self {
        Self::Check(Box::new((key.clone(), check.clone())))
    }

    pub(super) fn id(&self) -> LeaseId {
        match self {
            Self::Instance(key) => LeaseId::of_key(key),
            Self::Check(check) => LeaseId::of_check(&check.0, &check.1),
            Self::Session(session) => LeaseId::of_session(**session),
            Self::LockDelay(session) => LeaseId::of_lock_delay(**session),
        }
    }

    /// Whether its silence says something about the fleet. A suspension of expiry protects instances. It must not keep
    /// the locks of processes that are gone.
    pub(super) fn is_of_fleet(&self) -> bool {
        matches!(self, Self::Instance(_) | Self::Check(_))
    }

    /// The instance, of the lease of an instance or a check.
    #[must_use]
    pub fn key(&self) -> Option<&InstanceKey> {
        match self {
            Self::Instance(key) => Some(key),
            Self::Check(check) => Some(&check.0),
            Self::Session(_) | Self::LockDelay(_) => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) leased: Leased,
    /// The value that a renewal may name: the `lease_epoch` of an instance, or the index of the last report
    /// of a check.
    pub(super) epoch: u64,
    /// Index of the registration or report in the log that last opened it. An expiry names this index.
    pub(super) registered_index: u64,
    pub(super) ttl_ms: u64,
    /// Since when it has existed without a gap, in milliseconds. `None` if that is not known, because it may be older
    /// than this leadership.
    pub(super) opened_ms: Option<u64>,
    /// When it was last renewed under this leader, in milliseconds.
    pub(super) renewed_ms: AtomicU64,
    /// Until when it runs according to the registrations and renewals under this leader, in milliseconds.
    pub(super) heard_until_ms: AtomicU64,
    /// Until when it runs according to the previous leader, in milliseconds; 0 if it was opened later.
    pub(super) inherited_until_ms: AtomicU64,
    /// Its position in the order of deadlines. An entry at any other time is out of date and is dropped.
    pub(super) queued_ms: AtomicU64,
    /// Whether its end was decided and may take effect at any moment. From then on it cannot be renewed:
    /// otherwise a renewal would be acknowledged although the expiry in flight removes the lease.
    pub(super) is_over: AtomicBool,
    /// How often it got its whole time again after the store had refused writes, without a renewal since.
    pub(super) extensions: AtomicU8,
}

impl Lease {
    pub(super) fn deadline_ms(&self) -> u64 {
        let heard_ms = self.heard_until_ms.load(Ordering::SeqCst);
        heard_ms.max(self.inherited_until_ms.load(Ordering::SeqCst))
    }

    /// Whether it counts when expiry may have to be suspended: it is of the fleet, and was renewed for long enough. A
    /// lease of unknown age counts.
    pub(super) fn counts(&self, settings: &ExpirySettings) -> bool {
        let renewed_ms = self.renewed_ms.load(Ordering::SeqCst);
        let is_established =
            |opened_ms| renewed_ms.saturating_sub(opened_ms) >= settings.established_ms;
        self.leased.is_of_fleet() && self.opened_ms.is_none_or(is_established)
    }
}

/// The deadlines of all leases. Any thread may renew and read. Only the engine opens and closes leases.
#[derive(Debug)]
pub struct LeaseTable {
    grace_ms: u64,
    pub(super) leases: papaya::HashMap<LeaseId, Arc<Lease>>,
    /// The index of the state up to which leases were opened and closed.
    followed: AtomicU64,
    /// How often the table was cleared.
    cleared: AtomicU64,
    /// The grant to which the table belongs; 0 while it is closed.
    fence: AtomicU64,
}

impl LeaseTable {
    /// An empty, closed table.
    #[must_use]
    pub fn new(settings: &ExpirySettings) -> Self {
        Self {
            grace_ms: settings.grace_ms,
            leases: papaya::HashMap::new(),
            followed: AtomicU64::new(0),
            cleared: AtomicU64::new(0),
            fence: AtomicU64::new(0),
        }
    }

    /// Renews a lease. If `epoch` is not 0, it must match the registration. Returns false if the lease is not
    /// here, or if the grant under which the renewal began has ended.
    #[must_use]
    pub fn renew(&self, id: LeaseId, epoch: u64, now_ms: u64) -> bool {
        let fence = self.fence.load(Ordering::SeqCst);
        let leases = self.leases.pin();
        let Some(lease) = leases.get(&id) else { return false };
        if (epoch != 0 && epoch != lease.epoch) || lease.is_over.load(Ordering::SeqCst) {
            return false;
        }
        let until_ms = now_ms + lease.ttl_ms + self.grace_ms;
        // A deadline only moves to a later time, so that a renewal does not undo the shift after a stall.
        lease.heard_until_ms.fetch_max(until_ms, Ordering::SeqCst);
        lease.renewed_ms.fetch_max(now_ms, Ordering::SeqCst);
        lease.extensions.store(0, Ordering::SeqCst);
        // If the end was decided between the two checks, the owner must register again. If the table was
        // closed between them, the remaining times for the next leader may lack this renewal.
        let counts = fence != 0 && self.fence.load(Ordering::SeqCst) == fence;
        counts && !lease.is_over.load(Ordering::SeqCst)
    }

    /// How long ago the time to live of a lease ended, without the grace, in milliseconds. It may have ended earlier
    /// under another leader. `None` if it has not ended, or if there is no such lease.
    #[must_use]
    pub fn overdue_ms(&self, id: LeaseId, now_ms: u64) -> Option<u64> {
        let leases = self.leases.pin();
        let ended_ms = leases.get(&id)?.deadline_ms().saturating_sub(self.grace_ms);
        now_ms.checked_sub(ended_ms)
    }

    /// Whether the table belongs to a grant, and so may acknowledge renewals.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.fence.load(Ordering::SeqCst) != 0
    }

    /// Whether the table belongs to this grant.
    pub(super) fn belongs_to(&self, fence: Fence) -> bool {
        self.fence.load(Ordering::SeqCst) == fence.0
    }

    /// The number of leases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are no leases.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// The index of the state up to which leases were opened and closed; 0 right after the table was cleared.
    #[must_use]
    pub fn followed(&self) -> u64 {
        self.followed.load(Ordering::SeqCst)
    }

    pub(super) fn set_followed(&self, index: u64) {
        self.followed.store(index, Ordering::SeqCst);
    }

    /// How often the table was cleared. A missing lease is only certain if this number is the same before
    /// [`Self::followed`] was read and after the look-up.
    #[must_use]
    pub fn cleared_total(&self) -> u64 {
        self.cleared.load(Ordering::SeqCst)
    }

    /// Opens the table for a grant.
    pub(super) fn begin(&self, fence: Fence) {
        self.fence.store(fence.0, Ordering::SeqCst);
    }

    /// Ends the grant of the table, so that nothing more is acknowledged. Returns the grant and the remaining
    /// time of each lease, or `None` if the table was closed already. The leases stay until [`Self::clear`].
    pub(super) fn end(&self, now_ms: u64) -> Option<(Fence, Vec<FormerLease>)> {
        // The table is closed first. A renewal that still finds it open has already moved its deadline, so the
        // new deadline is read below.
        let fence = self.fence.swap(0, Ordering::SeqCst);
        if fence == 0 {
            return None;
        }
        let leases = self.leases.pin();
        let left = leases.iter().map(|(id, lease)| FormerLease {
            id: *id,
            registered_index: lease.registered_index,
            left_ms: lease.deadline_ms().saturating_sub(now_ms),
            extensions: lease.extensions.load(Ordering::SeqCst),
        });
        Some((Fence(fence), left.collect()))
    }

    /// Removes every lease.
    pub(super) fn clear(&self) {
        // The counter is raised before the leases are removed, so that a reader who finds a lease missing does
        // not take that for an answer.
        self.followed.store(0, Ordering::SeqCst);
        self.cleared.fetch_add(1, Ordering::SeqCst);
        self.leases.pin().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cleared table is never mistaken for one that does not have a lease.
    #[test]
    fn a_table_that_is_filled_again_says_so() {
        let table = LeaseTable::new(&ExpirySettings::default());
        table.begin(Fence(1));
        table.set_followed(7);
        let before = table.cleared_total();
        table.clear();
        assert_eq!(table.followed(), 0);
        assert_ne!(table.cleared_total(), before);
        assert!(table.is_empty());
    }
}
