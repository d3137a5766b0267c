//! The shared data of a simulation: random numbers, the trace, the events, and the invariants.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Outcome;
use super::invariants::{self, Invariant};
use super::step::Step;
use super::virtual_clock;
use crate::config::NodeId;
use crate::runtime::step;

/// Random numbers that follow from a seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// New random numbers from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        let (state, number) = step(self.0);
        self.0 = state;
        number
    }

    /// A number of at least `from` and below `to`.
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.any() % (to - from).max(1)
    }

    /// True with a probability of `chance` percent.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.any() % 100 < chance
    }
}

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The name of the invariant.
    pub invariant: &'static str,
    /// What violated it.
    pub detail: String,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
}

/// Shared by all tasks of a simulation. They run one at a time.
pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) outcome: Outcome,
    pub(super) started: tokio::time::Instant,
    /// The directed pairs of nodes that cannot communicate.
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
    pub(super) loss_percent: u64,
    pub(super) repeat_percent: u64,
    pub(super) delay_max_ms: u64,
    trace: DefaultHasher,
    invariants: Vec<Box<dyn Invariant>>,
}

pub(super) type Shared = Arc<Mutex<World>>;

impl World {
    pub(super) fn new(seed: u64) -> Shared {
        let mut dice = Dice::new(seed ^ 0xC0FF_EE00);
        Arc::new(Mutex::new(Self {
            loss_percent: dice.range(0, 6),
            repeat_percent: dice.range(0, 5),
            delay_max_ms: dice.range(2, 40),
            dice,
            outcome: Outcome::default(),
            started: virtual_clock::now(),
            cut: BTreeSet::new(),
            trace: DefaultHasher::new(),
            invariants: invariants::all(),
        }))
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Adds a value to the trace.
    pub(super) fn note(&mut self, what: impl Hash) {
        self.now_ms().hash(&mut self.trace);
        what.hash(&mut self.trace);
    }

    /// Checks every invariant.
    pub(super) fn happened(&mut self, step: &Step) {
        self.outcome.steps += 1;
        match step {
            Step::Leads { node, term } => self.note((1, node, term)),
            Step::Applied { node, id, entry, digest } => {
                self.outcome.applied += 1;
                self.note((2, node, id.index, id.term, entry, digest));
            }
            Step::Acknowledged { id, entry, .. } => {
                self.outcome.acknowledged += 1;
                self.note((3, id.index, id.term, entry));
            }
            Step::ReadBegan { .. } => {}
            Step::ReadEnded { node, index, .. } => {
                self.outcome.reads += 1;
                self.note((5, node, index));
            }
            Step::Reports { node, term } => self.note((6, node, term)),
            Step::LogOfLeader { node, term, .. } => {
                self.outcome.leaders += 1;
                self.note((4, node, term));
            }
        }
        let at_ms = self.now_ms();
        for invariant in &mut self.invariants {
            if let Err(detail) = invariant.check(step) {
                let invariant = invariant.name();
                self.outcome.violation.get_or_insert(Violation { invariant, detail, at_ms });
                return;
            }
        }
    }

    pub(super) fn broken(&mut self, mut violation: Violation) {
        violation.at_ms = self.now_ms();
        self.outcome.violation.get_or_insert(violation);
    }

    pub(super) fn is_broken(&self) -> bool {
        self.outcome.violation.is_some()
    }

    pub(super) fn finish(&mut self) -> Outcome {
        self.outcome.trace = self.trace.finish();
        self.outcome.clone()
    }
}

/// A number that represents some bytes.
pub(super) fn hash_of(bytes: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
