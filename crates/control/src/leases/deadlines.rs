//! The order of the deadlines, and the limits on how many leases may expire and when.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::handover::{FormerLease, RemainingTimes};
use super::lease_id::LeaseId;
use super::settings::ExpirySettings;
use super::table::{Lease, LeaseTable, Leased};
use maxine_state::{
    ControlState, Fence, Instance, InstanceKey, LockDelay, LockSession, LockSessionId, Name,
};

/// How long a new leader remembers that expiry was suspended under the previous one, in milliseconds. The remaining
/// times arrive in parts, so it does not find all silent instances at once.
const INHERITED_MS: u64 = 10_000;

/// How long the store can refuse writes before this node knows it, in milliseconds.
const REFUSAL_UNKNOWN_MS: u64 = 3_000;
/// Maximum number of times in a row that a lease gets its whole time again without a renewal. It keeps a store that
/// refuses writes again and again from keeping a silent lease forever.
const EXTENSIONS_MAX: u8 = 3;

/// The leases that have run out and may be expired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// These leases may be expired once leadership is confirmed. Each has the `registered_index` with which
    /// it was opened.
    pub expire: Vec<(Leased, u64)>,
    /// Set if too large a share of the fleet became silent at the same time. Leases of instances and checks are kept.
    pub suspended: Option<Suspension>,
}

/// The silence for which expiry is suspended. New leases do not count: see [`ExpirySettings::established_ms`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspension {
    /// The number of silent leases.
    pub silent: usize,
    /// The number of all leases of the fleet.
    pub fleet: usize,
}

/// A lease that was handed out for expiry.
#[derive(Clone, Copy, Debug)]
struct HandedOut {
    /// When it was handed out, in milliseconds.
    at_ms: u64,
    /// Whether it does not count in a later mass silence: its silence was confirmed, it is new, or it is a lock's.
    is_settled: bool,
}

#[derive(Debug, Default)]
struct Order {
    /// Every lease has one valid entry here, at its present deadline or at an earlier time. An entry is valid if its
    /// time is the lease's `queued_ms`. Other entries are dropped when they are found.
    heap: BinaryHeap<Reverse<(u64, LeaseId)>>,
    /// The leases that were handed out for expiry recently, oldest first.
    expired: VecDeque<HandedOut>,
    suspended_since_ms: Option<u64>,
    /// Since when expiry had been suspended under the previous leader, and until when that counts here, in
    /// milliseconds. If the silent instances are found in this time, the same suspension continues.
    inherited_suspension_ms: Option<(u64, u64)>,
    /// When a suspension was last ended, by an operator or because it lasted too long. The leases that were
    /// silent then expire.
    confirmed_at_ms: Option<u64>,
}

impl Order {
    /// Since when expiry has been suspended, in milliseconds, including the time under previous leaders.
    fn suspended_since_ms(&self, now_ms: u64) -> Option<u64> {
        let inherited = self.inherited_suspension_ms.filter(|(_, until_ms)| now_ms < *until_ms);
        self.suspended_since_ms.or(inherited.map(|(since_ms, _)| since_ms))
    }

    fn queue(&mut self, id: LeaseId, lease: &Lease) {
        let at_ms = lease.deadline_ms();
        lease.queued_ms.store(at_ms, Ordering::SeqCst);
        self.heap.push(Reverse((at_ms, id)));
    }

    /// Takes the leases that are silent at `now_ms` out of the order.
    fn take_silent(&mut self, table: &LeaseTable, now_ms: u64) -> Vec<SilentLease> {
        let leases = table.leases.pin();
        let mut silent = Vec::new();
        while let Some(Reverse((at_ms, id))) = self.heap.peek().copied() {
            if at_ms > now_ms {
                break;
            }
            self.heap.pop();
            let Some(lease) = leases.get(&id) else { continue };
            if lease.queued_ms.load(Ordering::SeqCst) != at_ms {
                continue;
            }
            let deadline_ms = lease.deadline_ms();
            if deadline_ms > now_ms {
                self.queue(id, lease);
            } else {
                // If there are two equal entries, only the first one counts.
                lease.queued_ms.store(u64::MAX, Ordering::SeqCst);
                let is_confirmed = self.confirmed_at_ms.is_some_and(|at_ms| deadline_ms <= at_ms);
                silent.push(SilentLease { id, lease: Arc::clone(lease), is_confirmed });
            }
        }
        silent
    }

    /// Whether too large a share of the fleet became silent at the same time. Confirmed silence does not count.
    fn implausible(
        &mut self,
        silent: &[SilentLease],
        table: &LeaseTable,
        settings: &ExpirySettings,
        now_ms: u64,
    ) -> Option<Suspension> {
        let is_old =
            |expired: &HandedOut| now_ms.saturating_sub(expired.at_ms) > settings.silence_window_ms;
        while self.expired.front().is_some_and(is_old) {
            self.expired.pop_front();
        }
        let recent = self.expired.iter().filter(|expired| !expired.is_settled).count();
        let of_fleet = || silent.iter().filter(|silent| silent.lease.counts(settings));
        let confirmed = of_fleet().filter(|lease| lease.is_confirmed).count();
        let unconfirmed = of_fleet().count() - confirmed;
        let counted = unconfirmed + recent;
        let share_max_percent = usize::from(settings.silent_share_max_percent);
        // The fleet is counted only if the silence is too much for the smallest one.
        if unconfirmed == 0 || counted * 100 <= settings.silent_fleet_min * share_max_percent {
            return None;
        }
        let leases = table.leases.pin();
        let leases = leases.values().filter(|lease| lease.counts(settings)).count();
        let fleet = leases.saturating_sub(confirmed) + recent;
        let is_implausible =
            fleet >= settings.silent_fleet_min && counted * 100 > fleet * share_max_percent;
        is_implausible.then_some(Suspension { silent: counted, fleet })
    }
}

/// A lease that has run out.
#[derive(Debug)]
struct SilentLease {
    id: LeaseId,
    lease: Arc<Lease>,
    /// Whether it was silent already when a suspension was last ended.
    is_confirmed: bool,
}

/// A lease that is about to be opened.
struct Opening {
    leased: Leased,
    epoch: u64,
    registered_index: u64,
    ttl_ms: u64,
    /// Set if the lease may be older than this leadership: how much longer than its time to live it then runs.
    extra_ms: Option<u64>,
}

impl Opening {
    /// The lease that begins now.
    fn lease(self, now_ms: u64, grace_ms: u64) -> Lease {
        let until_ms = now_ms + self.ttl_ms + grace_ms;
        let (heard_until_ms, inherited_until_ms) =
            self.extra_ms.map_or((until_ms, 0), |extra_ms| (0, until_ms + extra_ms));
        Lease {
            leased: self.leased,
            epoch: self.epoch,
            registered_index: self.registered_index,
            ttl_ms: self.ttl_ms,
            opened_ms: self.extra_ms.is_none().then_some(now_ms),
            renewed_ms: AtomicU64::new(now_ms),
            heard_until_ms: AtomicU64::new(heard_until_ms),
            inherited_until_ms: AtomicU64::new(inherited_until_ms),
            queued_ms: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            extensions: AtomicU8::new(0),
        }
    }
}

/// The order of the deadlines, and the limits on expiry.
#[derive(Debug)]
pub(super) struct Deadlines {
    settings: ExpirySettings,
    pub(super) table: Arc<LeaseTable>,
    order: Order,
    /// The checks that have leases, by the lease id of their instance. Most instances have none.
    checks: HashMap<LeaseId, Vec<Name>>,
    /// The remaining time of each lease when the table was last closed.
    former: Option<Arc<RemainingTimes>>,
    /// Since when the store has refused writes, as far as this node knows, in milliseconds. Other nodes send
    /// heartbeats through the store, so they cannot renew leases meanwhile.
    refused_since_ms: Option<u64>,
}

impl Deadlines {
    /// The deadlines of `table`, which must be empty. Otherwise the caller must call [`Self::close`] next.
    pub(super) fn on(table: Arc<LeaseTable>, settings: ExpirySettings) -> Self {
        Self {
            settings,
            table,
            order: Order::default(),
            checks: HashMap::new(),
            former: None,
            refused_since_ms: None,
        }
    }

    /// Opens the table, empty, for a grant of leadership. The remaining times of an earlier grant are kept.
    pub(super) fn begin(&mut self, fence: Fence, now_ms: u64) {
        self.close(now_ms);
        self.table.begin(fence);
    }

    /// Ends the grant of the table. From then on no renewal is acknowledged, and the remaining time of each
    /// lease is kept for the next leader. Returns the grant, or `None` if the table was closed already.
    pub(super) fn close(&mut self, now_ms: u64) -> Option<Fence> {
        self.extend(now_ms);
        let suspended_ms =
            self.order.suspended_since_ms(now_ms).map(|since_ms| now_ms.saturating_sub(since_ms));
        let ended = self.table.end(now_ms);
        let ended = ended.map(|(fence, left)| RemainingTimes::new(fence, left, suspended_ms));
        let fence = ended.as_ref().map(RemainingTimes::fence);
        if let Some(former) = ended {
            self.former = Some(Arc::new(former));
        }
        self.clear();
        fence
    }

    /// Closes the table if it belongs to the grant `fence`. Returns the remaining times under that grant, or
    /// `None` if they are not known.
    pub(super) fn former(&mut self, fence: Fence, now_ms: u64) -> Option<Arc<RemainingTimes>> {
        if self.table.belongs_to(fence) {
            self.close(now_ms);
        }
        self.former.clone().filter(|former| former.fence() == fence)
    }

    /// Removes every lease.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.order = Order::default();
        self.checks.clear();
    }

    /// Removes the leases of registrations and reports that `state` does not have. The caller must then call
    /// [`Self::open_checks`] for every instance.
    pub(super) fn retain(&mut self, state: &ControlState) {
        let leases = self.table.leases.pin();
        let is_there = |lease: &Lease| {
            let is_same = |index: u64| index == lease.registered_index;
            match &lease.leased {
                Leased::Instance(key) => {
                    state.instance(key).is_some_and(|instance| is_same(instance.registered_index))
                }
                Leased::Check(check) => state.instance(&check.0).is_some_and(|instance| {
                    let mut checks = instance.leased_checks();
                    checks.any(|(known, _)| known.id == check.1 && is_same(known.reported_index))
                }),
                Leased::Session(id) => {
                    state.kv().session(**id).is_some_and(|session| is_same(session.create_index))
                }
                Leased::LockDelay(id) => {
                    state.kv().delays().get(&**id).is_some_and(|delay| is_same(delay.since_index))
                }
            }
        };
        let gone: Vec<LeaseId> =
            leases.iter().filter(|(_, lease)| !is_there(lease)).map(|(id, _)| *id).collect();
        for id in gone {
            leases.remove(&id);
        }
        self.checks.clear();
    }

    /// Whether an instance has a lease.
    pub(super) fn has(&self, key: &InstanceKey) -> bool {
        self.table.leases.pin().contains_key(&LeaseId::of_key(key))
    }

    /// Applies the remaining times that the previous leader reported. Since this node asked for them, no
    /// renewal was acknowledged there. A lease that was registered later, or is not listed, keeps its whole
    /// time.
    pub(super) fn inherit(
        &mut self,
        fence: Fence,
        left: &[FormerLease],
        suspended_ms: Option<u64>,
        now_ms: u64,
    ) {
        if !self.table.belongs_to(fence) {
            return;
        }
        if let Some(lasted_ms) = suspended_ms {
            let since_ms = now_ms.saturating_sub(lasted_ms);
            self.order.inherited_suspension_ms = Some((since_ms, now_ms + INHERITED_MS));
        }
        let leases = self.table.leases.pin();
        for former in left {
            let lease = leases.get(&former.id);
            let same = lease.filter(|l| l.registered_index == former.registered_index);
            let Some(lease) = same else { continue };
            if lease.heard_until_ms.load(Ordering::SeqCst) == 0 {
                lease.extensions.store(former.extensions, Ordering::SeqCst);
            }
            let until_ms = now_ms.saturating_add(former.left_ms);
            if lease.inherited_until_ms.fetch_min(until_ms, Ordering::SeqCst) > until_ms {
                self.order.queue(former.id, lease);
            }
        }
    }

    /// Opens or replaces the lease of an instance. A permanent instance has no lease. `extra_ms` is set if the
    /// registration may be older than this leadership. It may then have been renewed until now, so its lease is that much
    /// longer than its time to live, unless [`Self::inherit`] gives its remaining time.
    pub(super) fn open(
        &mut self,
        key: &InstanceKey,
        instance: &Instance,
        now_ms: u64,
        extra_ms: Option<u64>,
    ) {
        let Some(ttl_ms) = instance.registration.expiry.ttl_ms() else { return self.forget(key) };
        let opening = Opening {
            leased: Leased::Instance(key.clone()),
            epoch: instance.lease_epoch,
            registered_index: instance.registered_index,
            ttl_ms,
            extra_ms,
        };
        self.put(opening, now_ms);
    }

    fn put(&mut self, opening: Opening, now_ms: u64) {
        let mut lease = opening.lease(now_ms, self.settings.grace_ms);
        let id = lease.leased.id();
        let leases = self.table.leases.pin();
        if let Some(old) = leases.get(&id) {
            if old.registered_index > lease.registered_index {
                return;
            }
            if old.registered_index == lease.registered_index {
                // This is the same registration again, as after a gap in the events. Renewals since then are kept.
                let heard_ms = lease.heard_until_ms.load(Ordering::SeqCst);
                let inherited_ms = lease.inherited_until_ms.load(Ordering::SeqCst);
                old.heard_until_ms.fetch_max(heard_ms, Ordering::SeqCst);
                old.inherited_until_ms.fetch_max(inherited_ms, Ordering::SeqCst);
                return;
            }
            lease.opened_ms = old.opened_ms;
            if old.epoch == lease.epoch {
                // An equal registration is a heartbeat, and never shortens a lease.
                lease.heard_until_ms.fetch_max(old.deadline_ms(), Ordering::SeqCst);
            }
        }
        let lease = Arc::new(lease);
        self.order.queue(id, &lease);
        leases.insert(id, lease);
    }

    /// Opens the lease of a lock session, if it has a time to live. `extra_ms` is set if the session may be older than
    /// this leadership; the lease is then that much longer, as after a change of the leader.
    pub(super) fn open_session(
        &mut self,
        session: &LockSession,
        now_ms: u64,
        extra_ms: Option<u64>,
    ) {
        let Some(ttl_ms) = session.spec.ttl_ms else { return };
        let leased = Leased::Session(Box::new(session.id));
        self.put_lock(leased, session.create_index, ttl_ms, now_ms, extra_ms);
    }

    /// Opens the lease that measures a lock delay. `extra_ms` is set if the delay may have begun before this leadership.
    pub(super) fn open_delay(&mut self, delay: &LockDelay, now_ms: u64, extra_ms: Option<u64>) {
        let leased = Leased::LockDelay(Box::new(delay.session));
        self.put_lock(leased, delay.since_index, delay.delay_ms, now_ms, extra_ms);
    }

    fn put_lock(
        &mut self,
        leased: Leased,
        index: u64,
        ttl_ms: u64,
        now_ms: u64,
        extra_ms: Option<u64>,
    ) {
        let id = leased.id();
        let known = self.table.leases.pin().get(&id).map(|lease| lease.registered_index);
        if known == Some(index) {
            return;
        }
        let opening = Opening { leased, epoch: index, registered_index: index, ttl_ms, extra_ms };
        self.put(opening, now_ms);
    }

    /// Removes the lease of a lock session that ended.
    pub(super) fn forget_session(&mut self, session: LockSessionId) {
        self.table.leases.pin().remove(&LeaseId::of_session(session));
    }

    /// Removes the lease of a lock delay that ended.
    pub(super) fn forget_delay(&mut self, session: LockSessionId) {
        self.table.leases.pin().remove(&LeaseId::of_lock_delay(session));
    }

    /// Closes expired leases. The leases of instances, lock sessions and lock delays are closed by their events, which may
    /// still be in flight; until then they stay due. The lease of a check is closed here, and a later report opens another
    /// one.
    pub(super) fn set_expired(&mut self, items: &[(Leased, u64)]) {
        let is_check = |item: &(Leased, u64)| matches!(item.0, Leased::Check(_));
        let (checks, others): (Vec<_>, Vec<_>) = items.iter().cloned().partition(is_check);
        self.queue_again(&others);
        let leases = self.table.leases.pin();
        for (leased, reported_index) in checks {
            let id = leased.id();
            if leases.get(&id).is_some_and(|lease| lease.registered_index == reported_index) {
                leases.remove(&id);
            }
        }
    }

    /// Updates the leases of the checks that the owner of an instance reports. Each report in the log starts
    /// the lease again. The lease runs for its time to live, and for `extra_ms` longer if it is set, as after a
    /// change of the leader.
    pub(super) fn open_checks(
        &mut self,
        key: &InstanceKey,
        instance: &Instance,
        now_ms: u64,
        extra_ms: Option<u64>,
    ) {
        let mut present = instance.leased_checks().peekable();
        if present.peek().is_none() && self.checks.is_empty() {
            return;
        }
        self.forget_checks(key, |check| {
            instance.leased_checks().all(|(state, _)| state.id != *check)
        });
        let mut names = Vec::new();
        for (state, ttl_ms) in present {
            names.push(state.id.clone());
            let leased = Leased::check(key, &state.id);
            let known = self.table.leases.pin().get(&leased.id()).map(|l| l.registered_index);
            // The event is not a report of this check.
            if known.is_some_and(|known| known >= state.reported_index) {
                continue;
            }
            let index = state.reported_index;
            let opening =
                Opening { leased, epoch: index, registered_index: index, ttl_ms, extra_ms };
            self.put(opening, now_ms);
        }
        if !names.is_empty() {
            self.checks.insert(LeaseId::of_key(key), names);
        }
    }

    /// Removes the leases of an instance's checks that no longer exist.
    fn forget_checks(&mut self, key: &InstanceKey, is_gone: impl Fn(&Name) -> bool) {
        let Some(names) = self.checks.remove(&LeaseId::of_key(key)) else { return };
        let leases = self.table.leases.pin();
        for check in names.iter().filter(|check| is_gone(check)) {
            leases.remove(&LeaseId::of_check(key, check));
        }
    }

    /// The time to live of a lease, in milliseconds; 0 if there is none.
    pub(super) fn ttl_ms(&self, leased: &Leased) -> u64 {
        self.table.leases.pin().get(&leased.id()).map_or(0, |lease| lease.ttl_ms)
    }

    /// Removes everything about an instance that no longer exists.
    pub(super) fn remove(&mut self, key: &InstanceKey) {
        self.forget(key);
        self.forget_checks(key, |_| true);
    }

    /// Removes the lease of an instance that no longer exists or that became permanent.
    pub(super) fn forget(&mut self, key: &InstanceKey) {
        self.table.leases.pin().remove(&LeaseId::of_key(key));
    }

    /// Moves every deadline by the time in which this node could not receive renewals.
    pub(super) fn shift(&mut self, by_ms: u64) {
        for lease in self.table.leases.pin().values() {
            lease.heard_until_ms.fetch_add(by_ms, Ordering::SeqCst);
            lease.inherited_until_ms.fetch_add(by_ms, Ordering::SeqCst);
        }
        // A silent lease is confirmed if its deadline is not after this time, so both move together.
        self.order.confirmed_at_ms = self.order.confirmed_at_ms.map(|at_ms| at_ms + by_ms);
    }

    /// Whether the store refuses writes, as far as this node knows. Then no lease may be expired.
    pub(super) fn is_refused(&self) -> bool {
        self.refused_since_ms.is_some()
    }

    /// Records whether the store refuses writes. When it takes them again, the leases get their whole time.
    pub(super) fn set_refused(&mut self, is_refused: bool, now_ms: u64) {
        if is_refused {
            self.refused_since_ms.get_or_insert(now_ms);
        } else {
            self.extend(now_ms);
            self.refused_since_ms = None;
        }
    }

    /// If the store has refused writes, gives each lease its whole time again, because its owner may have tried in
    /// vain to renew it. It leaves out leases that were silent before, and leases that got their whole time
    /// [`EXTENSIONS_MAX`] times without a renewal.
    fn extend(&self, now_ms: u64) {
        let Some(since_ms) = self.refused_since_ms else { return };
        for lease in self.table.leases.pin().values() {
            let was_silent = lease.deadline_ms() + REFUSAL_UNKNOWN_MS <= since_ms;
            let extensions = lease.extensions.load(Ordering::SeqCst);
            if was_silent || extensions >= EXTENSIONS_MAX {
                continue;
            }
            lease.extensions.store(extensions + 1, Ordering::SeqCst);
            let until_ms = now_ms + lease.ttl_ms + self.settings.grace_ms;
            lease.heard_until_ms.fetch_max(until_ms, Ordering::SeqCst);
        }
    }

    /// Ends a suspension: the leases that are silent now expire at the limited rate. Leases that become
    /// silent later are not confirmed. Returns `false` if nothing is suspended; then nothing is confirmed.
    pub(super) fn confirm_silence(&mut self, now_ms: u64) -> bool {
        let is_suspended = self.order.suspended_since_ms.take().is_some();
        if is_suspended {
            self.order.inherited_suspension_ms = None;
            self.order.confirmed_at_ms = Some(now_ms);
        }
        is_suspended
    }

    /// How long expiry has been suspended, in milliseconds; 0 if it is not.
    pub(super) fn suspended_ms(&self, now_ms: u64) -> u64 {
        self.order.suspended_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms))
    }

    /// The leases that have run out at `now_ms`, at most `max`. The caller must expire them or return them
    /// with [`Self::give_back`].
    pub(super) fn due(&mut self, now_ms: u64, max: usize) -> Due {
        let (settings, order) = (&self.settings, &mut self.order);
        let mut silent = order.take_silent(&self.table, now_ms);
        let mut suspended = order.implausible(&silent, &self.table, settings, now_ms);
        if suspended.is_some() {
            let since_ms = order.suspended_since_ms(now_ms).unwrap_or(now_ms);
            order.suspended_since_ms = Some(since_ms);
            let lasted_ms = now_ms.saturating_sub(since_ms);
            if settings.suspension_max_ms != 0 && lasted_ms >= settings.suspension_max_ms {
                order.confirmed_at_ms = Some(now_ms);
                silent.iter_mut().for_each(|lease| lease.is_confirmed = true);
                suspended = None;
            }
        }
        if suspended.is_none() && order.suspended_since_ms.take().is_some() {
            order.inherited_suspension_ms = None;
        }
        let within_a_second =
            order.expired.iter().rev().take_while(|past| now_ms - past.at_ms < 1_000).count();
        let allowed = usize::try_from(settings.rate_max_per_s).unwrap_or(usize::MAX);
        let mut left = max.min(allowed.saturating_sub(within_a_second));
        let mut expire = Vec::new();
        for SilentLease { id, lease, is_confirmed } in silent {
            let is_held = suspended.is_some() && !is_confirmed && lease.leased.is_of_fleet();
            if left == 0 || is_held {
                order.queue(id, &lease);
                continue;
            }
            left -= 1;
            let is_settled = is_confirmed || !lease.counts(settings);
            order.expired.push_back(HandedOut { at_ms: now_ms, is_settled });
            expire.push((lease.leased.clone(), lease.registered_index));
        }
        Due { expire, suspended }
    }

    /// Keeps those of `due` that are still due. The others were renewed and are put back. The kept leases can
    /// no longer be renewed, whatever the outcome of their expiry is: their owners must register again.
    pub(super) fn still_due(&mut self, due: Vec<(Leased, u64)>, now_ms: u64) -> Vec<(Leased, u64)> {
        let (out, back): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|(leased, registered_index)| {
                self.table.leases.pin().get(&leased.id()).is_some_and(|lease| {
                    if lease.registered_index != *registered_index || lease.deadline_ms() > now_ms {
                        return false;
                    }
                    lease.is_over.store(true, Ordering::SeqCst);
                    // A renewal may have arrived between the check and the mark. It was acknowledged.
                    let renewed = lease.deadline_ms() > now_ms;
                    lease.is_over.store(!renewed, Ordering::SeqCst);
                    !renewed
                })
            });
        self.give_back(&back);
        out
    }

    /// Allows renewals of these leases again, because their expiry was certainly not written.
    pub(super) fn reopen(&mut self, due: &[(Leased, u64)]) {
        let leases = self.table.leases.pin();
        for (leased, registered_index) in due {
            let lease = leases.get(&leased.id());
            if let Some(lease) = lease.filter(|lease| lease.registered_index == *registered_index) {
                lease.is_over.store(false, Ordering::SeqCst);
            }
        }
    }

    /// Puts back leases that were due and did not expire. They do not count as silent.
    pub(super) fn give_back(&mut self, due: &[(Leased, u64)]) {
        let expired = &mut self.order.expired;
        expired.truncate(expired.len().saturating_sub(due.len()));
        self.queue_again(due);
    }

    /// Puts leases back into the order at their deadlines, if they still exist.
    fn queue_again(&mut self, due: &[(Leased, u64)]) {
        let leases = self.table.leases.pin();
        for (leased, _) in due {
            let id = leased.id();
            if let Some(lease) = leases.get(&id) {
                self.order.queue(id, lease);
            }
        }
    }
}

#[cfg(test)]
#[path = "deadlines_tests.rs"]
mod tests;
