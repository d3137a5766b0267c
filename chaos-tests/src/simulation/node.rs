//! A node: its replica of the state, what it believes of leadership, its lease table.
//!
//! The carrying out is as the product's actors do it: ask for the grant, open all leases with the
//! whole time to live, confirm before expiring, stand down when someone else is granted.

use std::sync::Arc;

use maxine::actors::registry::{ExpirySettings, Former, LeaseTable};
use maxine_state::{
    Applied, ControlState, Event, EventKind, Fence, FormerGrant, InstanceKey, Name, Proposal, Reply,
};

/// What happened in one step, for the invariants.
#[derive(Clone, Debug)]
pub enum Step {
    /// A node applied the entry at a position of the log.
    Applied {
        /// Which node.
        node: usize,
        /// The entry's position, from 1.
        position: usize,
        /// Its reply.
        applied: Applied,
        /// What it changed.
        events: Vec<Event>,
        /// The registrations that it removed, as they were before.
        removed: Vec<Expired>,
    },
    /// Anything else.
    Other,
}

/// A registration that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Whose.
    pub key: InstanceKey,
    /// Its lease.
    pub lease_epoch: u64,
    /// Its last registration in the log.
    pub registered_index: u64,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its name in grants.
    pub name: Name,
    /// Whether its process runs.
    pub up: bool,
    /// Until when its process is paused.
    pub paused_until_ms: u64,
    /// Its replica.
    pub state: ControlState,
    /// How much of the log it has applied.
    pub position: usize,
    /// The fence under which it does the leader's duties.
    pub duties: Option<Fence>,
    /// The term in which it believes to lead.
    pub(super) believes: Option<u64>,
    pub(super) asked: Option<(u64, u128)>,
    pub(super) asked_at_ms: u64,
    pub(super) superseded: bool,
    pub(super) leases: LeaseTable,
    /// What a crash leaves: an encoded snapshot and its position.
    snapshot: (Vec<u8>, usize),
    /// Parts per thousand by which its clock runs fast or slow.
    drift: i64,
    pub(super) next_tick_ms: u64,
    pub(super) last_tick_ms: u64,
}

/// A new leader adds this to every lease.
pub(super) const TAKEOVER_EXTRA_MS: u64 = 1_000;
pub(super) const TICK_MS: u64 = 100;
const STALL_MS: u64 = 400;

fn lease_settings() -> ExpirySettings {
    ExpirySettings { silent_fleet_min: 1_000, ..ExpirySettings::default() }
}

impl Node {
    pub(super) fn new(nth: usize, drift: i64) -> Self {
        Self {
            name: Name::trusted(&format!("node-{}", nth + 1)),
            up: true,
            paused_until_ms: 0,
            state: ControlState::default(),
            position: 0,
            duties: None,
            believes: None,
            asked: None,
            asked_at_ms: 0,
            superseded: false,
            leases: LeaseTable::new(lease_settings()),
            snapshot: (Vec::new(), 0),
            drift,
            next_tick_ms: 17 * nth as u64,
            last_tick_ms: 0,
        }
    }

    /// The node's own clock.
    pub(super) fn clock_ms(&self, now_ms: u64) -> u64 {
        let drift = i64::try_from(now_ms).unwrap_or(i64::MAX) / 1_000 * self.drift;
        now_ms.saturating_add_signed(drift)
    }

    /// Whether its process does anything now.
    pub fn runs(&self, now_ms: u64) -> bool {
        self.up && self.paused_until_ms <= now_ms
    }

    pub(super) fn crash(&mut self, now_ms: u64) {
        self.up = false;
        self.stand_down(now_ms);
        self.believes = None;
        self.leases = LeaseTable::new(lease_settings());
    }

    pub(super) fn restart(&mut self, now_ms: u64) {
        let (bytes, position) = &self.snapshot;
        self.state = match bytes.is_empty() {
            true => ControlState::default(),
            false => ControlState::read_from(&mut bytes.as_slice())
                .expect("a snapshot that this node wrote"),
        };
        self.position = *position;
        self.up = true;
        self.next_tick_ms = now_ms;
        self.last_tick_ms = self.clock_ms(now_ms);
    }

    pub(super) fn take_snapshot(&mut self) {
        let mut bytes = Vec::new();
        self.state.write_to(&mut bytes).expect("writing to memory cannot fail");
        self.snapshot = (bytes, self.position);
    }

    pub(super) fn stand_down(&mut self, now_ms: u64) {
        self.duties = None;
        self.asked = None;
        self.leases.close(self.clock_ms(now_ms));
    }

    /// Applies one entry and follows what it changed.
    pub(super) fn apply(
        &mut self,
        proposal: &Proposal,
        now_ms: u64,
    ) -> (Applied, Vec<Event>, Vec<Expired>) {
        let before = self.state.clone();
        let mut events = Vec::new();
        let applied = self.state.apply(proposal, &mut events);
        self.position += 1;
        let clock_ms = self.clock_ms(now_ms);
        let mut removed = Vec::new();
        for event in &events {
            match &event.kind {
                EventKind::InstanceRegistered { key, data } if self.duties.is_some() => {
                    self.leases.open(key, data, clock_ms);
                }
                EventKind::InstanceRemoved { key, .. } => {
                    let service = before.service(&key.service);
                    let old = service.and_then(|service| service.instances.get(&key.instance));
                    removed.push(Expired {
                        key: key.clone(),
                        lease_epoch: old.map_or(0, |old| old.lease_epoch),
                        registered_index: old.map_or(0, |old| old.registered_index),
                    });
                    self.leases.forget(key);
                }
                EventKind::LeadershipGranted { fence, .. }
                    if self.duties.is_some_and(|mine| mine.0 < *fence) =>
                {
                    self.superseded = true;
                    self.stand_down(now_ms);
                }
                _ => {}
            }
        }
        (applied, events, removed)
    }

    /// Takes up the leader's duties under a fence that the log granted.
    pub(super) fn take_up(&mut self, reply: &Reply, now_ms: u64, grace: bool) {
        let Reply::Granted(fence) = reply else { return };
        let current = self.state.grant().map_or(0, |grant| grant.fence.0);
        // Someone else may have been granted between the reply and now.
        if current > fence.0 {
            self.asked = None;
            return;
        }
        self.duties = Some(*fence);
        let clock_ms = self.clock_ms(now_ms);
        self.leases.begin(*fence, clock_ms);
        for (key, service) in self.state.services() {
            for (id, instance) in &service.instances {
                let key = key.instance(id.clone());
                if grace {
                    self.leases.take_over(&key, instance, clock_ms, TAKEOVER_EXTRA_MS);
                } else {
                    // As if every lease had last been renewed when it was registered.
                    self.leases.open(
                        &key,
                        instance,
                        clock_ms.saturating_sub(instance.registration.expiry.ttl_ms().unwrap_or(0)),
                    );
                }
            }
        }
    }

    /// Whom it took over from, if it holds the duties.
    pub(super) fn former(&self) -> Option<FormerGrant> {
        let grant = self.state.grant().filter(|grant| Some(grant.fence) == self.duties)?;
        grant.before.clone()
    }

    /// What was left of the leases under a grant that `present` ended. `None` until this node has seen
    /// that one, from when on it acknowledges nothing, or if it does not know.
    pub(super) fn left(&self, former: Fence, present: Fence, now_ms: u64) -> Option<Arc<Former>> {
        let ended = self.state.grant().is_some_and(|grant| grant.fence >= present);
        ended.then(|| self.leases.former(former, self.clock_ms(now_ms))).flatten()
    }

    /// Moves deadlines on by the time in which this process stood still.
    pub(super) fn absorb_stall(&mut self, now_ms: u64) {
        let clock_ms = self.clock_ms(now_ms);
        let stalled_ms = clock_ms.saturating_sub(self.last_tick_ms + TICK_MS);
        if stalled_ms >= STALL_MS {
            self.leases.shift(stalled_ms);
        }
        self.last_tick_ms = clock_ms;
    }
}
