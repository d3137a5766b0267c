//! The lease engine: decides what happens to the leases of a node, and what its driver has to do.

use std::sync::Arc;

use super::deadlines::{Deadlines, Suspension};
use super::handover::{FormerLease, RemainingTimes};
use super::settings::ExpirySettings;
use super::table::{LeaseTable, Leased};
use crate::faults::{self, Fault};
use maxine_state::{
    CheckExpiry, Command, ControlState, Event, EventKind, Fence, FormerGrant, Name,
};

/// Interval at which [`LeaseEvent::Tick`] must come, in milliseconds.
pub const EXPIRY_TICK_MS: u64 = 100;
/// A tick that is this late means that the node was stalled, in milliseconds.
const STALL_MS: u64 = 400;
/// Maximum number of leases that one batch expires.
const EXPIRE_ITEMS_MAX: usize = 256;
/// Pause before another grant is requested again, in milliseconds.
const GRANT_PAUSE_MS: u64 = 3_000;
/// How much the fault `hand-over-short` takes from each lease, in milliseconds.
const SHORT_MS: u64 = 3_000;

/// How long a node that lost its duties continues to report a suspension, in milliseconds. It may regain the duties,
/// and the next leader needs some time to find the same instances silent.
const SUSPENSION_HELD_MS: u64 = 10_000;

/// An event that concerns leases.
#[derive(Debug)]
pub enum LeaseEvent<'a> {
    /// The log granted the leader's duties to this node. A [`LeaseEvent::State`] that contains the grant
    /// follows.
    DutiesGranted(Fence),
    /// This node no longer has the leader's duties.
    DutiesLost,
    /// The whole published state: after a grant, and after a gap in the changes.
    State(&'a ControlState),
    /// The changes since the last event, and the index that they lead to.
    Changes {
        /// The changes, in order.
        events: &'a [Arc<Event>],
        /// Index of the state after these changes.
        index: u64,
    },
    /// The previous leader's answer to [`LeaseEffect::AskFormer`]. It may come in several parts.
    Inherited {
        /// The grant under which this node asked.
        present: Fence,
        /// The remaining times of these leases.
        leases: &'a [FormerLease],
        /// How long expiry had been suspended there, in milliseconds; `None` if it was not.
        suspended_ms: Option<u64>,
    },
    /// Whether the store refuses writes, as far as this node knows. It comes before each tick if the store can refuse
    /// writes.
    StoreRefuses(bool),
    /// It is time to check the deadlines.
    Tick,
    /// The answer to [`LeaseEffect::Confirm`].
    Confirmed {
        /// The number of the attempt.
        attempt: u64,
        /// Whether a majority confirmed that this node leads.
        leads: bool,
    },
    /// The end of [`LeaseEffect::Expire`].
    Expired {
        /// The number of the attempt.
        attempt: u64,
        /// Whether the command was applied.
        outcome: ExpiryOutcome,
    },
}

/// Whether an expiry was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiryOutcome {
    /// It was applied.
    Applied,
    /// It was not written, and never will be.
    NotDone,
    /// It may have been applied, or may still be.
    Unknown,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEffect {
    /// Ask the previous leader for the remaining times of the leases.
    AskFormer {
        /// The previous leader's grant.
        former: FormerGrant,
        /// The grant that ended it.
        present: Fence,
    },
    /// Confirm with a majority that this node leads.
    Confirm {
        /// The number to return in [`LeaseEvent::Confirmed`].
        attempt: u64,
    },
    /// Propose, in one batch, the expiry of registrations, of checks that were not reported in time, of lock sessions and of
    /// lock delays.
    Expire {
        /// The number to return in [`LeaseEvent::Expired`].
        attempt: u64,
        /// The grant under which this was decided.
        fence: Fence,
        /// At most one command for each kind of lease.
        commands: Vec<Command>,
    },
    /// Ask for a new grant for this node. Apply then refuses everything that was decided under the present
    /// grant.
    AskForGrant,
    /// Report this to operators.
    Report(ExpiryEvent),
}

/// What operators should know about expiry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpiryEvent {
    /// Expiry is suspended, because too large a share of the fleet became silent.
    Suspended {
        /// The number of silent leases and of all leases.
        suspension: Suspension,
        /// How long expiry has been suspended already, under previous leaders, in milliseconds.
        lasted_ms: u64,
    },
    /// Leases expire again, or another node leads.
    Resumed,
    /// This node was stalled, and all deadlines were moved by the same time.
    Stalled {
        /// The duration, in milliseconds.
        by_ms: u64,
    },
}

/// Why a node cannot report the remaining times of the leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemainingUnknown {
    /// As far as this node knows, the log has no grant that ended the named one.
    #[error("that grant has not ended yet")]
    NotEnded,
    /// The node did not have that grant, or was restarted since.
    #[error("the remaining lease times of that grant are not stored")]
    NotKnown,
}

/// The progress of the present attempt to expire leases.
#[derive(Debug, Default)]
enum Attempt {
    #[default]
    None,
    /// Leadership is being confirmed before these leases expire.
    Confirming(Vec<(Leased, u64)>),
    /// The expiry of these leases has been proposed.
    Expiring(Vec<(Leased, u64)>),
}

/// The lease engine.
#[derive(Debug)]
pub struct Leases {
    node: Name,
    /// How much a new leader adds to every lease, in milliseconds.
    takeover_extra_ms: u64,
    deadlines: Deadlines,
    /// The grant under which this node has the leader's duties.
    fence: Option<Fence>,
    /// The grant that an earlier engine on this node left open. Expiries that it decided may still be in
    /// flight, so nothing is acknowledged under that grant any more.
    spent: Option<Fence>,
    /// When this engine requested a new grant, in milliseconds. It does so when the present grant belongs to
    /// an earlier engine on this node. `None` if it has requested none.
    asked_for_grant_ms: Option<u64>,
    /// Whether the previous leader was asked for the remaining times.
    has_asked: bool,
    attempt: Attempt,
    attempts: u64,
    last_ms: u64,
    is_suspended: bool,
    /// When this node lost the duties, in milliseconds; `None` while it has them.
    lost_ms: Option<u64>,
}

impl Leases {
    /// The engine of the node `node`, with this table. `takeover_extra_ms` is one election timeout.
    ///
    /// An earlier engine may have ended unexpectedly, and left the table open under a grant. The remaining
    /// times are then kept. They are used under the next grant, which this engine requests.
    #[must_use]
    pub fn new(
        node: Name,
        settings: ExpirySettings,
        takeover_extra_ms: u64,
        table: Arc<LeaseTable>,
        now_ms: u64,
    ) -> Self {
        let mut deadlines = Deadlines::on(table, settings);
        let spent = deadlines.close(now_ms);
        Self {
            node,
            takeover_extra_ms,
            deadlines,
            fence: None,
            spent,
            asked_for_grant_ms: None,
            has_asked: false,
            attempt: Attempt::None,
            attempts: 0,
            last_ms: 0,
            is_suspended: false,
            lost_ms: None,
        }
    }

    /// The table of deadlines, which heartbeats renew.
    #[must_use]
    pub fn table(&self) -> &Arc<LeaseTable> {
        &self.deadlines.table
    }

    /// Handles an event and returns what the driver has to do.
    #[must_use]
    pub fn step(&mut self, event: LeaseEvent<'_>, now_ms: u64) -> Vec<LeaseEffect> {
        let mut effects = Vec::new();
        match event {
            LeaseEvent::DutiesGranted(fence) => self.begin(fence, now_ms, &mut effects),
            LeaseEvent::DutiesLost => {
                self.end();
                self.deadlines.close(now_ms);
                self.lost_ms.get_or_insert(now_ms);
            }
            LeaseEvent::State(state) => self.open_all(state, now_ms, &mut effects),
            LeaseEvent::Changes { events, index } => self.follow(events, index, now_ms),
            LeaseEvent::Inherited { present, leases, suspended_ms } => {
                self.inherit(present, leases, suspended_ms, now_ms);
            }
            LeaseEvent::StoreRefuses(is_refused) => {
                self.deadlines.set_refused(is_refused, now_ms);
            }
            LeaseEvent::Tick => self.look(now_ms, &mut effects),
            LeaseEvent::Confirmed { attempt, leads } if attempt == self.attempts => {
                self.confirmed(leads, now_ms, &mut effects);
            }
            LeaseEvent::Expired { attempt, outcome } if attempt == self.attempts => {
                self.expired(outcome, now_ms, &mut effects);
            }
            LeaseEvent::Confirmed { .. } | LeaseEvent::Expired { .. } => {}
        }
        effects
    }

    /// The remaining times of the leases under the grant `former`, which the grant `present` ended. Only the
    /// log ends a leadership, so this node's `state` must contain the grant `present`. From then on this node
    /// acknowledges no renewal.
    pub fn hand_over(
        &mut self,
        former: Fence,
        present: Fence,
        state: &ControlState,
        now_ms: u64,
    ) -> Result<Arc<RemainingTimes>, RemainingUnknown> {
        let granted = state.grant().is_some_and(|grant| grant.fence >= present);
        if former >= present || !granted {
            return Err(RemainingUnknown::NotEnded);
        }
        self.deadlines.former(former, now_ms).ok_or(RemainingUnknown::NotKnown)
    }

    /// An operator confirmed that the instances that are silent now are gone: their leases expire. Returns
    /// `false` if nothing is suspended; then nothing is confirmed.
    #[must_use]
    pub fn confirm_silence(&mut self, now_ms: u64) -> bool {
        self.deadlines.confirm_silence(now_ms)
    }

    fn begin(&mut self, fence: Fence, now_ms: u64, effects: &mut Vec<LeaseEffect>) {
        self.end();
        if self.spent == Some(fence) && !faults::is_on(Fault::ServeSpentGrant) {
            self.asked_for_grant_ms = Some(now_ms);
            effects.push(LeaseEffect::AskForGrant);
            return;
        }
        (self.fence, self.lost_ms) = (Some(fence), None);
        self.last_ms = now_ms;
        self.deadlines.begin(fence, now_ms);
    }

    fn end(&mut self) {
        (self.fence, self.asked_for_grant_ms) = (None, None);
        (self.attempt, self.has_asked) = (Attempt::None, false);
    }

    /// Opens a lease for every instance that has none, and removes those without a registration, because
    /// their events may have been missed. Renewals and decisions are kept.
    fn open_all(&mut self, state: &ControlState, now_ms: u64, effects: &mut Vec<LeaseEffect>) {
        let Some(fence) = self.fence else { return };
        self.deadlines.retain(state);
        let extra_ms = Some(self.takeover_extra_ms);
        for (key, service) in state.services() {
            for (id, instance) in &service.instances {
                let key = key.instance(id.clone());
                self.deadlines.open_checks(&key, instance, now_ms, extra_ms);
                if self.deadlines.has(&key) {
                    continue;
                }
                if faults::is_on(Fault::NoTakeoverGrace) {
                    let ttl_ms = instance.registration.expiry.ttl_ms().unwrap_or(0);
                    self.deadlines.open(&key, instance, now_ms.saturating_sub(ttl_ms), None);
                    continue;
                }
                self.deadlines.open(&key, instance, now_ms, extra_ms);
            }
        }
        for session in state.kv().sessions().values() {
            self.deadlines.open_session(session, now_ms, extra_ms);
        }
        for delay in state.kv().delays().values() {
            self.deadlines.open_delay(delay, now_ms, extra_ms);
        }
        self.table().set_followed(state.index());
        let grant = state.grant().filter(|grant| grant.fence == fence);
        let Some(former) = grant.and_then(|grant| grant.before.clone()) else { return };
        if std::mem::replace(&mut self.has_asked, true) {
            return;
        }
        if former.holder != self.node {
            effects.push(LeaseEffect::AskFormer { former, present: fence });
        } else if let Some(left) = self.deadlines.former(former.fence, now_ms) {
            self.inherit(fence, left.leases(), left.suspended_ms(), now_ms);
        }
    }

    fn follow(&mut self, events: &[Arc<Event>], index: u64, now_ms: u64) {
        if self.fence.is_none() {
            return;
        }
        for event in events {
            match &event.kind {
                EventKind::InstanceRegistered { key, data } => {
                    self.deadlines.open(key, data, now_ms, None);
                    self.deadlines.open_checks(key, data, now_ms, None);
                }
                EventKind::CheckReported { key, data, .. } => {
                    self.deadlines.open_checks(key, data, now_ms, None);
                }
                EventKind::InstanceRemoved { key, .. } => self.deadlines.remove(key),
                EventKind::LockSessionCreated { session } => {
                    self.deadlines.open_session(session, now_ms, None);
                }
                EventKind::LockSessionEnded { session, delay, .. } => {
                    self.deadlines.forget_session(session.id);
                    if let Some(delay) = delay {
                        self.deadlines.open_delay(delay, now_ms, None);
                    }
                }
                EventKind::LockDelayEnded { session } => self.deadlines.forget_delay(*session),
                _ => {}
            }
        }
        self.table().set_followed(index);
    }

    fn inherit(
        &mut self,
        present: Fence,
        leases: &[FormerLease],
        suspended_ms: Option<u64>,
        now_ms: u64,
    ) {
        if !faults::is_on(Fault::HandOverShort) {
            return self.deadlines.inherit(present, leases, suspended_ms, now_ms);
        }
        let short = leases
            .iter()
            .map(|lease| FormerLease { left_ms: lease.left_ms.saturating_sub(SHORT_MS), ..*lease });
        self.deadlines.inherit(present, &short.collect::<Vec<_>>(), suspended_ms, now_ms);
    }

    /// Checks which leases have run out. Leadership is confirmed before any of them expires.
    fn look(&mut self, now_ms: u64, effects: &mut Vec<LeaseEffect>) {
        if self.asked_for_grant_ms.is_some_and(|at_ms| now_ms >= at_ms + GRANT_PAUSE_MS) {
            self.asked_for_grant_ms = Some(now_ms);
            effects.push(LeaseEffect::AskForGrant);
        }
        if self.lost_ms.is_some_and(|at_ms| now_ms >= at_ms + SUSPENSION_HELD_MS) {
            self.set_suspended(None, now_ms, effects);
        }
        if self.fence.is_none() || !matches!(self.attempt, Attempt::None) {
            return;
        }
        self.absorb_stall(now_ms, effects);
        if self.deadlines.is_refused() {
            return;
        }
        let due = self.deadlines.due(now_ms, EXPIRE_ITEMS_MAX);
        // Before the state has arrived, there are no leases, and nothing is known.
        if self.table().followed() != 0 {
            self.set_suspended(due.suspended, now_ms, effects);
        }
        if due.expire.is_empty() {
            return;
        }
        self.attempts += 1;
        self.attempt = Attempt::Confirming(due.expire);
        if faults::is_on(Fault::ExpireUnconfirmed) {
            return self.confirmed(true, now_ms, effects);
        }
        effects.push(LeaseEffect::Confirm { attempt: self.attempts });
    }

    /// Expires the leases that are still due. Renewals that arrived in the meantime count.
    fn confirmed(&mut self, leads: bool, now_ms: u64, effects: &mut Vec<LeaseEffect>) {
        let Attempt::Confirming(due) = std::mem::take(&mut self.attempt) else { return };
        let Some(fence) = self.fence else { return };
        self.absorb_stall(now_ms, effects);
        if !leads || self.deadlines.is_refused() {
            return self.deadlines.give_back(&due);
        }
        let items = match faults::is_on(Fault::ExpireRenewed) {
            true => due,
            false => self.deadlines.still_due(due, now_ms),
        };
        if items.is_empty() {
            return;
        }
        let commands = self.expiry_of(&items);
        self.attempt = Attempt::Expiring(items);
        effects.push(LeaseEffect::Expire { attempt: self.attempts, fence, commands });
    }

    fn expiry_of(&self, items: &[(Leased, u64)]) -> Vec<Command> {
        let (mut instances, mut checks) = (Vec::new(), Vec::new());
        let (mut sessions, mut delays) = (Vec::new(), Vec::new());
        for (leased, index) in items {
            match leased {
                Leased::Instance(key) => instances.push((key.clone(), *index)),
                Leased::Check(check) => checks.push(CheckExpiry {
                    key: check.0.clone(),
                    check: check.1.clone(),
                    reported_index: *index,
                    output: format!("no report within {} ms", self.deadlines.ttl_ms(leased)).into(),
                }),
                Leased::Session(session) => sessions.push((**session, *index)),
                Leased::LockDelay(session) => delays.push(**session),
            }
        }
        let instances = (!instances.is_empty()).then_some(Command::Expire { items: instances });
        let checks = (!checks.is_empty()).then_some(Command::ExpireChecks { items: checks });
        let sessions =
            (!sessions.is_empty()).then_some(Command::ExpireLockSessions { items: sessions });
        let delays = (!delays.is_empty()).then_some(Command::EndLockDelays { items: delays });
        instances.into_iter().chain(checks).chain(sessions).chain(delays).collect()
    }

    fn expired(&mut self, outcome: ExpiryOutcome, now_ms: u64, effects: &mut Vec<LeaseEffect>) {
        let Attempt::Expiring(items) = std::mem::take(&mut self.attempt) else { return };
        self.absorb_stall(now_ms, effects);
        // The event of an expiry closes the lease, and may still be in flight. Until then the lease stays due. It
        // stays due too if the outcome is unknown.
        match outcome {
            ExpiryOutcome::Applied => self.deadlines.set_expired(&items),
            ExpiryOutcome::NotDone => {
                self.deadlines.reopen(&items);
                self.deadlines.give_back(&items);
            }
            ExpiryOutcome::Unknown => self.deadlines.give_back(&items),
        }
    }

    /// Moves all deadlines by the time for which this node was stalled, because it could not receive renewals in that
    /// time. A long wait for other nodes counts as a stall too.
    fn absorb_stall(&mut self, now_ms: u64, effects: &mut Vec<LeaseEffect>) {
        let by_ms = now_ms.saturating_sub(self.last_ms + EXPIRY_TICK_MS);
        self.last_ms = now_ms;
        if by_ms >= STALL_MS {
            self.deadlines.shift(by_ms);
            effects.push(LeaseEffect::Report(ExpiryEvent::Stalled { by_ms }));
        }
    }

    fn set_suspended(
        &mut self,
        now: Option<Suspension>,
        now_ms: u64,
        effects: &mut Vec<LeaseEffect>,
    ) {
        let before = std::mem::replace(&mut self.is_suspended, now.is_some());
        match now {
            Some(suspension) if !before => {
                let lasted_ms = self.deadlines.suspended_ms(now_ms);
                let suspended = ExpiryEvent::Suspended { suspension, lasted_ms };
                effects.push(LeaseEffect::Report(suspended));
            }
            None if before => effects.push(LeaseEffect::Report(ExpiryEvent::Resumed)),
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "expiry_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "checks_tests.rs"]
mod checks_tests;

#[cfg(test)]
#[path = "locks_tests.rs"]
mod locks_tests;
