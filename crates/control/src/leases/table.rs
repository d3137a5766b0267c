//! The deadlines of all leases, which heartbeats renew from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use xxhash_rust::xxh3::Xxh3;

use super::former::FormerLease;
use super::settings::ExpirySettings;
use maxine_state::{Fence, InstanceKey, Name};

/// Names a lease in 16 bytes, so that batches between nodes stay small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u128);

impl LeaseId {
    /// The id of an instance's lease: a 128-bit hash of its key.
    #[must_use]
    pub fn of(namespace: &str, service: &str, instance: &str) -> Self {
        Self::of_parts(&[namespace, service, instance])
    }

    fn of_parts(parts: &[&str]) -> Self {
        let mut hasher = Xxh3::new();
        // 0xff stands in no UTF-8 text, so the parts cannot run into each other.
        for part in parts {
            hasher.update(part.as_bytes());
            hasher.update(&[0xff]);
        }
        Self(hasher.digest128())
    }

    /// The id of an instance's lease.
    #[must_use]
    pub fn of_key(key: &InstanceKey) -> Self {
        let service = &key.service;
        Self::of(service.namespace.as_str(), service.service.as_str(), key.instance.as_str())
    }

    /// The id of the lease of a check that its owner reports.
    #[must_use]
    pub fn of_check(key: &InstanceKey, check: &Name) -> Self {
        let service = &key.service;
        let (namespace, service) = (service.namespace.as_str(), service.service.as_str());
        Self::of_parts(&[namespace, service, key.instance.as_str(), check.as_str()])
    }
}

/// What a lease is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// The instance.
    pub key: InstanceKey,
    /// The check of it that its owner reports; `None` if the lease is for the instance itself. In a box, because most
    /// leases are for instances.
    pub check: Option<Box<Name>>,
}

impl Leased {
    pub(super) fn instance(key: &InstanceKey) -> Self {
        Self { key: key.clone(), check: None }
    }

    pub(super) fn check(key: &InstanceKey, check: &Name) -> Self {
        Self { key: key.clone(), check: Some(Box::new(check.clone())) }
    }

    pub(super) fn id(&self) -> LeaseId {
        match &self.check {
            None => LeaseId::of_key(&self.key),
            Some(check) => LeaseId::of_check(&self.key, check),
        }
    }
}

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) leased: Leased,
    /// What a renewal may name: the `lease_epoch` of an instance, the last report of a check.
    pub(super) epoch: u64,
    /// The last registration, or report of a check, in the log that it was opened by; an expiry names it.
    pub(super) registered_index: u64,
    pub(super) ttl_ms: u64,
    /// Until when it runs by what its owner did under this leader: registrations and renewals.
    pub(super) heard_until_ms: AtomicU64,
    /// Until when it runs by what it was under the leader before; 0 if it was opened later.
    pub(super) inherited_until_ms: AtomicU64,
    /// Where it stands in the order; an entry at any other time is left over and is dropped.
    pub(super) queued_ms: AtomicU64,
    /// Its end was decided and may be ordered any moment: from then on it cannot be renewed, or a
    /// renewal would be acknowledged that the expiry under way takes back.
    pub(super) is_over: AtomicBool,
}

impl Lease {
    pub(super) fn deadline_ms(&self) -> u64 {
        let heard_ms = self.heard_until_ms.load(Ordering::SeqCst);
        heard_ms.max(self.inherited_until_ms.load(Ordering::SeqCst))
    }
}

/// The deadlines. Anyone may renew and read; the engine alone opens and closes leases.
#[derive(Debug)]
pub struct LeaseTable {
    grace_ms: u64,
    pub(super) leases: papaya::HashMap<LeaseId, Arc<Lease>>,
    /// The index of the state up to which leases were opened and closed here.
    followed: AtomicU64,
    /// How often everything was forgotten.
    cleared: AtomicU64,
    /// The grant that the table belongs to; 0 while it is closed.
    fence: AtomicU64,
}

impl LeaseTable {
    /// An empty table, closed.
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

    /// Renews a lease, of exactly the registration `epoch` if that is not 0. False if it is not here,
    /// or if the table does not belong to the grant any more under which that was begun.
    #[must_use]
    pub fn renew(&self, id: LeaseId, epoch: u64, now_ms: u64) -> bool {
        let fence = self.fence.load(Ordering::SeqCst);
        let leases = self.leases.pin();
        let Some(lease) = leases.get(&id) else { return false };
        if (epoch != 0 && epoch != lease.epoch) || lease.is_over.load(Ordering::SeqCst) {
            return false;
        }
        let until_ms = now_ms + lease.ttl_ms + self.grace_ms;
        // Later only: a renewal must not undo what a stall added.
        lease.heard_until_ms.fetch_max(until_ms, Ordering::SeqCst);
        // Decided between the two looks: whoever asked must register again. Closed between them:
        // what is kept for the next leader may be without this renewal.
        let counts = fence != 0 && self.fence.load(Ordering::SeqCst) == fence;
        counts && !lease.is_over.load(Ordering::SeqCst)
    }

    /// Whether the table belongs to a grant and may acknowledge renewals.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.fence.load(Ordering::SeqCst) != 0
    }

    /// Whether the table belongs to this grant.
    pub(super) fn belongs_to(&self, fence: Fence) -> bool {
        self.fence.load(Ordering::SeqCst) == fence.0
    }

    /// How many leases there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// The index of the state up to which leases were opened and closed here; 0 right after
    /// everything was forgotten.
    #[must_use]
    pub fn followed(&self) -> u64 {
        self.followed.load(Ordering::SeqCst)
    }

    pub(super) fn set_followed(&self, index: u64) {
        self.followed.store(index, Ordering::SeqCst);
    }

    /// How often everything was forgotten. "Not known" is an answer only if this is the same before
    /// [`Self::followed`] was read and after the look-up.
    #[must_use]
    pub fn cleared_total(&self) -> u64 {
        self.cleared.load(Ordering::SeqCst)
    }

    /// Opens the table for a grant.
    pub(super) fn begin(&self, fence: Fence) {
        self.fence.store(fence.0, Ordering::SeqCst);
    }

    /// Ends the table's grant: nothing is acknowledged any more. Returns the grant and what is left of
    /// each lease, `None` if it was closed already. The leases stay until [`Self::clear`].
    pub(super) fn end(&self, now_ms: u64) -> Option<(Fence, Vec<FormerLease>)> {
        // First of all: a renewal that still finds the table open has moved its lease before, and so
        // is seen below.
        let fence = self.fence.swap(0, Ordering::SeqCst);
        if fence == 0 {
            return None;
        }
        let leases = self.leases.pin();
        let left = leases.iter().map(|(id, lease)| FormerLease {
            id: *id,
            registered_index: lease.registered_index,
            left_ms: lease.deadline_ms().saturating_sub(now_ms),
        });
        Some((Fence(fence), left.collect()))
    }

    /// Forgets every lease.
    pub(super) fn clear(&self) {
        // Said before it is done: whoever finds a lease missing meanwhile must not take that for an
        // answer.
        self.followed.store(0, Ordering::SeqCst);
        self.cleared.fetch_add(1, Ordering::SeqCst);
        self.leases.pin().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Forgetting the table is never taken for not knowing a lease.
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
