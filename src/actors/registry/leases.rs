//! Deadlines of all leases: in the leader's memory only, on its monotonic clock.
//!
//! A renewal is one look-up and one atomic store; no mailbox, no disk. Deciding what has run out
//! is a pure function of the table and the time ([`LeaseTable::due`]).
//!
//! A table belongs to one grant of leadership. When that ends, the table is closed: from then on it
//! acknowledges nothing, and what was left of each lease is kept for the next leader ([`Former`]).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use xxhash_rust::xxh3::Xxh3;

use super::former::{Former, FormerLease};
use maxine_state::{Fence, Instance, InstanceKey};

/// Limits on expiry, so that one odd minute cannot empty the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpirySettings {
    /// Added to every time to live before a lease runs out, in milliseconds.
    pub grace_ms: u64,
    /// A share of the fleet, in percent, that may fall silent within [`Self::silence_window_ms`];
    /// beyond it expiry is suspended. 100 switches the guard off.
    pub silent_share_max_percent: u8,
    /// Fleets smaller than this are never guarded: there, one deployment is most of it.
    pub silent_fleet_min: usize,
    /// The window over which silence is counted, in milliseconds.
    pub silence_window_ms: u64,
    /// After this long a suspension ends and expiry goes on at its limited rate, in
    /// milliseconds; 0 waits for an operator or for the fleet to come back.
    pub suspension_max_ms: u64,
    /// Most expiries per second.
    pub rate_max_per_s: u64,
}

impl Default for ExpirySettings {
    fn default() -> Self {
        Self {
            grace_ms: 500,
            silent_share_max_percent: 50,
            silent_fleet_min: 50,
            silence_window_ms: 15_000,
            suspension_max_ms: 600_000,
            rate_max_per_s: 1_000,
        }
    }
}

/// Names a lease in 16 bytes, so that batches between nodes stay small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u128);

impl LeaseId {
    /// The id of an instance's lease: a 128-bit hash of its key.
    #[must_use]
    pub fn of(namespace: &str, service: &str, instance: &str) -> Self {
        let mut hasher = Xxh3::new();
        // 0xff stands in no UTF-8 text, so the parts cannot run into each other.
        for part in [namespace, service, instance] {
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
}

#[derive(Debug)]
struct Lease {
    key: InstanceKey,
    epoch: u64,
    /// The last registration in the log that it was opened by; an expiry names it.
    registered_index: u64,
    ttl_ms: u64,
    /// Until when it runs by what its owner did under this leader: registrations and renewals.
    heard_until_ms: AtomicU64,
    /// Until when it runs by what it was under the leader before; 0 if it was opened later.
    inherited_until_ms: AtomicU64,
    /// Where it stands in the order; an entry at any other time is left over and is dropped.
    queued_ms: AtomicU64,
    /// Its end was decided and may be ordered any moment: from then on it cannot be renewed, or a
    /// renewal would be acknowledged that the expiry under way takes back.
    is_over: AtomicBool,
}

/// What has run out, and what may be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// These may be expired now, leadership confirmed: each key with the `registered_index` that
    /// its lease was opened by.
    Expire(Vec<(InstanceKey, u64)>),
    /// An implausible share went silent at once: nothing is expired.
    Suspended {
        /// How many are silent.
        silent: usize,
        /// Out of how many.
        fleet: usize,
    },
}

impl Lease {
    fn deadline_ms(&self) -> u64 {
        let heard_ms = self.heard_until_ms.load(Ordering::SeqCst);
        heard_ms.max(self.inherited_until_ms.load(Ordering::SeqCst))
    }
}

impl Order {
    fn queue(&mut self, id: LeaseId, lease: &Lease) {
        let at_ms = lease.deadline_ms();
        lease.queued_ms.store(at_ms, Ordering::SeqCst);
        self.heap.push(Reverse((at_ms, id)));
    }
}

/// The deadlines, and the order in which they come.
#[derive(Debug)]
pub struct LeaseTable {
    settings: ExpirySettings,
    leases: papaya::HashMap<LeaseId, Arc<Lease>>,
    order: Mutex<Order>,
    /// The index of the state up to which leases were opened and closed here.
    followed: watch::Sender<u64>,
    /// How often everything was forgotten.
    cleared: AtomicU64,
    /// The grant that the table belongs to; 0 while it is closed.
    fence: AtomicU64,
    /// What was left of each lease when the table was closed last.
    former: Mutex<Option<Arc<Former>>>,
    /// Whether the next leader has taken over what was left.
    handed_over: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Order {
    /// Every lease stands here at a deadline that it had at some time.
    heap: BinaryHeap<Reverse<(u64, LeaseId)>>,
    /// When leases were expired lately.
    expired_at_ms: VecDeque<u64>,
    suspended_since_ms: Option<u64>,
    /// An operator confirmed that the silent are gone, until this time.
    confirmed_until_ms: u64,
}

impl LeaseTable {
    /// An empty table, closed until [`Self::begin`].
    #[must_use]
    pub fn new(settings: ExpirySettings) -> Self {
        Self {
            settings,
            leases: papaya::HashMap::new(),
            order: Mutex::default(),
            followed: watch::Sender::new(0),
            cleared: AtomicU64::new(0),
            fence: AtomicU64::new(0),
            former: Mutex::default(),
            handed_over: watch::Sender::new(false),
        }
    }

    /// Opens the table, empty, for a grant of leadership; what an earlier grant left is kept.
    pub fn begin(&self, fence: Fence, now_ms: u64) {
        self.close(now_ms);
        self.handed_over.send_replace(false);
        self.fence.store(fence.0, Ordering::SeqCst);
    }

    /// Ends the table's grant: nothing is acknowledged any more, and what is left of each lease is
    /// kept for the next leader. Does nothing where the table is closed.
    pub fn close(&self, now_ms: u64) {
        // First of all: a renewal that still finds the table open has moved its lease before, and so
        // is seen below.
        let fence = self.fence.swap(0, Ordering::SeqCst);
        if fence != 0 {
            let leases = self.leases.pin();
            let left = leases.iter().map(|(id, lease)| FormerLease {
                id: *id,
                registered_index: lease.registered_index,
                left_ms: lease.deadline_ms().saturating_sub(now_ms),
            });
            let former = Former::new(Fence(fence), left.collect());
            *self.former.lock() = Some(Arc::new(former));
        }
        self.clear();
    }

    /// Whether the table belongs to a grant and may acknowledge renewals.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.fence.load(Ordering::SeqCst) != 0
    }

    /// Closes the table if it belongs to the grant `fence`, and says what was left of the leases
    /// under that grant; `None` where that is not known.
    #[must_use]
    pub fn former(&self, fence: Fence, now_ms: u64) -> Option<Arc<Former>> {
        if self.fence.load(Ordering::SeqCst) == fence.0 {
            self.close(now_ms);
        }
        self.former.lock().clone().filter(|former| former.fence() == fence)
    }

    /// Takes note that the next leader has all that was left.
    pub fn set_handed_over(&self) {
        self.handed_over.send_replace(true);
    }

    /// Follows whether the next leader has taken over what was left.
    #[must_use]
    pub fn handed_over(&self) -> watch::Receiver<bool> {
        self.handed_over.subscribe()
    }

    /// Takes over what was left of leases under the leader before, at a time at which this node had
    /// asked for it: none was acknowledged there since. A lease that was registered later, or is not
    /// named, keeps its whole time.
    pub fn inherit(&self, fence: Fence, left: &[FormerLease], now_ms: u64) {
        let mut order = self.order.lock();
        let leases = self.leases.pin();
        for former in left {
            if self.fence.load(Ordering::SeqCst) != fence.0 {
                return;
            }
            let lease = leases.get(&former.id);
            let same = lease.filter(|l| l.registered_index == former.registered_index);
            let Some(lease) = same else { continue };
            let until_ms = now_ms.saturating_add(former.left_ms);
            if lease.inherited_until_ms.fetch_min(until_ms, Ordering::SeqCst) > until_ms {
                order.queue(former.id, lease);
            }
        }
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

    /// Opens the lease of a registration that was made under this leader, or replaces the one before
    /// it; it runs for its whole time to live. A permanent instance has none.
    pub fn open(&self, key: &InstanceKey, instance: &Instance, now_ms: u64) {
        let Some(ttl_ms) = instance.registration.expiry.ttl_ms() else { return self.forget(key) };
        let until_ms = now_ms + ttl_ms + self.settings.grace_ms;
        self.put(key, instance, ttl_ms, until_ms, 0);
    }

    /// Opens the lease of a registration that may be older than this leadership: it may have been
    /// renewed until now, and runs for its whole time to live plus `extra_ms`, unless
    /// [`Self::inherit`] says what was left of it.
    pub fn take_over(&self, key: &InstanceKey, instance: &Instance, now_ms: u64, extra_ms: u64) {
        let Some(ttl_ms) = instance.registration.expiry.ttl_ms() else { return self.forget(key) };
        let whole_ms = ttl_ms + self.settings.grace_ms + extra_ms;
        self.put(key, instance, ttl_ms, 0, now_ms + whole_ms);
    }

    fn put(
        &self,
        key: &InstanceKey,
        instance: &Instance,
        ttl_ms: u64,
        heard_until_ms: u64,
        inherited_until_ms: u64,
    ) {
        let id = LeaseId::of_key(key);
        let lease = Lease {
            key: key.clone(),
            epoch: instance.lease_epoch,
            registered_index: instance.registered_index,
            ttl_ms,
            heard_until_ms: AtomicU64::new(heard_until_ms),
            inherited_until_ms: AtomicU64::new(inherited_until_ms),
            queued_ms: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        };
        let leases = self.leases.pin();
        if let Some(old) = leases.get(&id) {
            if old.registered_index > lease.registered_index {
                return;
            }
            if old.registered_index == lease.registered_index {
                // A repeat, as after a gap in the events: what was renewed since stays renewed.
                old.heard_until_ms.fetch_max(heard_until_ms, Ordering::SeqCst);
                old.inherited_until_ms.fetch_max(inherited_until_ms, Ordering::SeqCst);
                return;
            }
            if old.epoch == lease.epoch {
                // An equal registration is a heartbeat, and never shortens a lease.
                lease.heard_until_ms.fetch_max(old.deadline_ms(), Ordering::SeqCst);
            }
        }
        let lease = Arc::new(lease);
        self.order.lock().queue(id, &lease);
        leases.insert(id, lease);
    }

    /// Forgets the lease of an instance that is gone, or that is permanent from now on.
    pub fn forget(&self, key: &InstanceKey) {
        self.leases.pin().remove(&LeaseId::of_key(key));
    }

    /// Forgets everything.
    pub fn clear(&self) {
        // Told before it is done: whoever finds a lease missing meanwhile must not take that for
        // an answer.
        self.followed.send_replace(0);
        self.cleared.fetch_add(1, Ordering::SeqCst);
        self.leases.pin().clear();
        *self.order.lock() = Order::default();
    }

    /// How often everything was forgotten. A look-up is an answer only where this is the same
    /// before and after it.
    #[must_use]
    pub fn cleared_total(&self) -> u64 {
        self.cleared.load(Ordering::SeqCst)
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
        let until_ms = now_ms + lease.ttl_ms + self.settings.grace_ms;
        // Later only: a renewal must not undo what a stall added.
        lease.heard_until_ms.fetch_max(until_ms, Ordering::SeqCst);
        // Decided between the two looks: whoever asked must register again. Closed between them:
        // what is kept for the next leader may be without this renewal.
        let counts = fence != 0 && self.fence.load(Ordering::SeqCst) == fence;
        counts && !lease.is_over.load(Ordering::SeqCst)
    }

    /// Moves every deadline on by the time in which this node could not hear renewals.
    pub fn shift(&self, by_ms: u64) {
        for lease in self.leases.pin().values() {
            lease.heard_until_ms.fetch_add(by_ms, Ordering::SeqCst);
            lease.inherited_until_ms.fetch_add(by_ms, Ordering::SeqCst);
        }
    }

    /// Says up to which index of the state leases were followed.
    pub fn set_followed(&self, index: u64) {
        self.followed.send_replace(index);
    }

    /// Follows [`Self::set_followed`].
    #[must_use]
    pub fn followed(&self) -> watch::Receiver<u64> {
        self.followed.subscribe()
    }

    /// Lets a suspension end: for the next minute the silent are expired, at the limited rate.
    pub fn confirm_silence(&self, now_ms: u64) {
        self.order.lock().confirmed_until_ms = now_ms + 60_000;
    }

    /// What has run out at `now_ms`, at most `max`. What is returned must be expired or given back
    /// with [`Self::give_back`].
    #[must_use]
    pub fn due(&self, now_ms: u64, max: usize) -> Due {
        let mut order = self.order.lock();
        let leases = self.leases.pin();
        let mut silent: Vec<(LeaseId, Arc<Lease>)> = Vec::new();
        while let Some(Reverse((at_ms, id))) = order.heap.peek().copied() {
            if at_ms > now_ms {
                break;
            }
            order.heap.pop();
            let Some(lease) = leases.get(&id) else { continue };
            if lease.queued_ms.load(Ordering::SeqCst) != at_ms {
                continue;
            }
            if lease.deadline_ms() > now_ms {
                order.queue(id, lease);
            } else {
                // Of two equal entries only the first counts.
                lease.queued_ms.store(u64::MAX, Ordering::SeqCst);
                silent.push((id, Arc::clone(lease)));
            }
        }
        if silent.is_empty() {
            order.suspended_since_ms = None;
            return Due::Nothing;
        }
        let settings = &self.settings;
        while order
            .expired_at_ms
            .front()
            .is_some_and(|at_ms| now_ms.saturating_sub(*at_ms) > settings.silence_window_ms)
        {
            order.expired_at_ms.pop_front();
        }
        let counted = silent.len() + order.expired_at_ms.len();
        let fleet = leases.len() + order.expired_at_ms.len();
        let implausible = fleet >= settings.silent_fleet_min
            && counted * 100 > fleet * usize::from(settings.silent_share_max_percent);
        let confirmed = now_ms < order.confirmed_until_ms;
        if implausible && !confirmed {
            let since_ms = *order.suspended_since_ms.get_or_insert(now_ms);
            let lasted_ms = now_ms.saturating_sub(since_ms);
            let over = settings.suspension_max_ms != 0 && lasted_ms >= settings.suspension_max_ms;
            if over {
                order.confirmed_until_ms = now_ms + 60_000;
            } else {
                silent.iter().for_each(|(id, lease)| order.queue(*id, lease));
                return Due::Suspended { silent: counted, fleet };
            }
        } else if !implausible {
            order.suspended_since_ms = None;
        }
        let within_a_second =
            order.expired_at_ms.iter().rev().take_while(|at_ms| now_ms - **at_ms < 1_000).count();
        let allowed = usize::try_from(settings.rate_max_per_s).unwrap_or(usize::MAX);
        let take = max.min(allowed.saturating_sub(within_a_second)).min(silent.len());
        silent[take..].iter().for_each(|(id, lease)| order.queue(*id, lease));
        if take == 0 {
            return Due::Nothing;
        }
        silent.truncate(take);
        order.expired_at_ms.extend(std::iter::repeat_n(now_ms, take));
        let due = silent.into_iter().map(|(_, lease)| (lease.key.clone(), lease.registered_index));
        Due::Expire(due.collect())
    }

    /// Of what was due, keeps what is due still; the rest was renewed meanwhile and is put back.
    /// What is kept cannot be renewed any more, whatever becomes of the attempt to expire it: its
    /// owner registers again.
    #[must_use]
    pub fn still_due(&self, due: Vec<(InstanceKey, u64)>, now_ms: u64) -> Vec<(InstanceKey, u64)> {
        let (out, back): (Vec<_>, Vec<_>) = due.into_iter().partition(|(key, registered_index)| {
            self.leases.pin().get(&LeaseId::of_key(key)).is_some_and(|lease| {
                if lease.registered_index != *registered_index || lease.deadline_ms() > now_ms {
                    return false;
                }
                lease.is_over.store(true, Ordering::SeqCst);
                // A renewal may have come between the look and the mark; it was acknowledged.
                let renewed = lease.deadline_ms() > now_ms;
                lease.is_over.store(!renewed, Ordering::SeqCst);
                !renewed
            })
        });
        self.give_back(&back);
        out
    }

    /// Puts back what was due but was not expired; it does not count as gone silent.
    pub fn give_back(&self, due: &[(InstanceKey, u64)]) {
        {
            let mut order = self.order.lock();
            let left = order.expired_at_ms.len().saturating_sub(due.len());
            order.expired_at_ms.truncate(left);
        }
        self.queue_again(due);
    }

    /// Lets leases come up again at their deadlines, if they are still there.
    pub fn queue_again(&self, due: &[(InstanceKey, u64)]) {
        let mut order = self.order.lock();
        let leases = self.leases.pin();
        for (key, _) in due {
            let id = LeaseId::of_key(key);
            if let Some(lease) = leases.get(&id) {
                order.queue(id, lease);
            }
        }
    }
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
