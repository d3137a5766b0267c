//! A node: the product's engines, its clock, and what remains after a crash.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::facts::Replica;
use maxine_control::health::{ActiveDefaults, Observation, Observer, ProbeTable, Verdicts};
use maxine_control::intake::{Intake, Write, WriteTimes};
use maxine_control::leadership::LeadershipEngine;
use maxine_control::leases::{ExpirySettings, LeaseTable, Leases};
use maxine_state::{Applied, ControlState, Leadership, Name, Proposal};

/// How much a new leader adds to every lease, in milliseconds.
const TAKEOVER_EXTRA_MS: u64 = 1_000;
/// Maximum number of waiting writes of a class.
const PENDING_MAX: usize = 16;
/// Time limit of a node for a write, in milliseconds.
const WRITE_TIMEOUT_MS: u64 = 2_500;

/// The caller of a write.
#[derive(Clone, Debug)]
pub(super) enum Waiter {
    /// A client, with its request. The number of the write identifies the attempt.
    Client { client: usize, id: u128, write: u64 },
    /// The verdicts of the node itself.
    Verdicts,
}

/// What a node waits for. The number of the question is its key in `Node::asked`.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// A grant in this term.
    Grant { term: u64 },
    /// Another grant, for which no caller waits.
    AnotherGrant,
    /// This attempt to expire leases.
    Expire { attempt: u64 },
    /// This attempt to order a batch.
    Batch { attempt: u64 },
    /// The leader's confirmation that it has received these observations.
    Report { items: Vec<Observation> },
}

/// A later action of a node.
#[derive(Clone, Debug)]
pub(super) enum Timer {
    /// Gives up the question.
    GiveUp { ask: u128 },
    /// No leader was known that could order this batch.
    NoLeader { attempt: u64 },
    /// The pause before the next attempt is over.
    RetryBatch { attempt: u64 },
    /// The pause before the next grant is over.
    RetryGrant { term: u64 },
    /// A majority answers whether this node leads.
    Confirm { attempt: u64 },
    /// A probe ends.
    Probed { job: Box<maxine_control::health::ProbeJob>, took_ms: u64 },
}

/// A node's process.
#[derive(Debug)]
pub(super) struct Node {
    name: Name,
    pub(super) leadership: LeadershipEngine,
    pub(super) leases: Leases,
    pub(super) intake: Intake<Waiter>,
    pub(super) observer: Observer,
    pub(super) verdicts: Verdicts,
    /// Number of starts of the process. Actions of an earlier start are ignored.
    pub(super) starts: u64,
    /// Its belief about leadership.
    pub(super) believes: Leadership,
    pub(super) asked: BTreeMap<u128, Asked>,
    /// Replies that are handled once the log is applied up to the position.
    pub(super) answers: Vec<(usize, u128, Vec<Applied>)>,
    pub(super) next_tick_ms: u64,
    /// What remains after a crash: an encoded snapshot and its position.
    snapshot: (Vec<u8>, usize),
    /// By how much its clock is fast, in parts per thousand; negative if it is slow.
    drift: i64,
    seed: u64,
}

fn lease_settings() -> ExpirySettings {
    ExpirySettings { silent_fleet_min: 1_000, ..ExpirySettings::default() }
}

fn leases(name: &Name, table: Arc<LeaseTable>, clock_ms: u64) -> Leases {
    Leases::new(name.clone(), lease_settings(), TAKEOVER_EXTRA_MS, table, clock_ms)
}

fn observer(name: &Name, seed: u64) -> Observer {
    let rng = fastrand::Rng::with_seed(seed);
    Observer::new(name.as_str(), ActiveDefaults::default(), ProbeTable::default(), rng)
}

impl Node {
    pub(super) fn new(nth: usize, drift: i64, seed: u64) -> (Self, Replica) {
        let name = Name::trusted(&format!("node-{}", nth + 1));
        let node = Self {
            leadership: LeadershipEngine::new(name.clone()),
            leases: leases(&name, Arc::new(LeaseTable::new(&lease_settings())), 0),
            intake: Intake::new(PENDING_MAX),
            observer: observer(&name, seed),
            verdicts: Verdicts::new(),
            name: name.clone(),
            starts: 0,
            believes: Leadership::default(),
            asked: BTreeMap::new(),
            answers: Vec::new(),
            next_tick_ms: 17 * nth as u64,
            snapshot: (Vec::new(), 0),
            drift,
            seed,
        };
        let replica = Replica {
            name,
            up: true,
            paused_until_ms: 0,
            state: ControlState::default(),
            position: 0,
            duties: None,
        };
        (node, replica)
    }

    /// The node's own clock.
    pub(super) fn clock_ms(&self, now_ms: u64) -> u64 {
        let drift = i64::try_from(now_ms).unwrap_or(i64::MAX) / 1_000 * self.drift;
        now_ms.saturating_add_signed(drift)
    }

    /// Starts the process after a crash, from its snapshot.
    pub(super) fn restart(&mut self, replica: &mut Replica, now_ms: u64) {
        let (bytes, position) = &self.snapshot;
        replica.state = match bytes.is_empty() {
            true => ControlState::default(),
            false => ControlState::read_from(&mut bytes.as_slice())
                .expect("a snapshot that this node wrote"),
        };
        replica.position = *position;
        replica.up = true;
        let clock_ms = self.clock_ms(now_ms);
        self.starts += 1;
        self.leadership = LeadershipEngine::new(self.name.clone());
        self.leases = leases(&self.name, Arc::new(LeaseTable::new(&lease_settings())), clock_ms);
        self.intake = Intake::new(PENDING_MAX);
        self.observer = observer(&self.name, self.seed + self.starts);
        self.verdicts = Verdicts::new();
        self.believes = Leadership::default();
        self.asked.clear();
        self.answers.clear();
        self.next_tick_ms = now_ms;
        let wall_ms = super::wall_ms(clock_ms);
        self.observer.sync(&replica.state, clock_ms, wall_ms);
    }

    /// Starts the lease engine again after a panic. The table stays.
    pub(super) fn restart_leases(&mut self, now_ms: u64) {
        let table = Arc::clone(self.leases.table());
        self.leases = leases(&self.name, table, self.clock_ms(now_ms));
    }

    pub(super) fn take_snapshot(&mut self, replica: &Replica) {
        let mut bytes = Vec::new();
        replica.state.write_to(&mut bytes).expect("writing to memory cannot fail");
        self.snapshot = (bytes, replica.position);
    }

    /// A write for its engine.
    pub(super) fn write(&self, proposal: Proposal, reply: Waiter, now_ms: u64) -> Write<Waiter> {
        let end_ms = self.clock_ms(now_ms) + WRITE_TIMEOUT_MS;
        // Some callers wait for a shorter time than the node may take.
        let begin_ms = end_ms - if proposal.request_id.0.is_multiple_of(3) { 1_500 } else { 0 };
        let time = WriteTimes { begin_ms, end_ms };
        Write { proposal, time, address: Ipv4Addr::UNSPECIFIED.into(), reply }
    }
}
