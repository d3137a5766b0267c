//! One node's copy of the control plane's state, which the invariants check.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};

use bytes::Bytes;
use maxine_raft::simulation::{SimApplication, Violation};
use maxine_raft::{Application, CommittedEntry, SnapshotEncoder};
use maxine_state::{ControlState, decode_batch, encode_applied};

use super::invariants::{self, Effect, Invariant};

pub(super) struct Replica {
    state: ControlState,
    invariants: Vec<Box<dyn Invariant>>,
    found: Vec<Violation>,
}

impl Default for Replica {
    fn default() -> Self {
        Self { state: ControlState::default(), invariants: invariants::all(), found: Vec::new() }
    }
}

struct Frozen(ControlState);

impl SnapshotEncoder for Frozen {
    fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
        self.0.write_to(out)
    }
}

impl Replica {
    fn apply_one(&mut self, payload: &[u8]) -> Bytes {
        let batch = decode_batch(payload).expect("a batch that this program encoded");
        let mut replies = Vec::new();
        for proposal in &batch.proposals {
            let before = self.state.clone();
            let mut events = Vec::new();
            let applied = self.state.apply(proposal, &mut events);
            let effect = Effect {
                proposal,
                before: &before,
                after: &self.state,
                applied: &applied,
                events: &events,
            };
            for invariant in &mut self.invariants {
                if let Err(detail) = invariant.check(&effect) {
                    let invariant = invariant.name();
                    self.found.push(Violation { invariant, detail, at_ms: 0 });
                }
            }
            replies.push(applied);
        }
        encode_applied(&replies).into()
    }
}

impl Application for Replica {
    fn apply(&mut self, entries: &[CommittedEntry]) -> io::Result<Vec<Bytes>> {
        let reply = |entry: &CommittedEntry| match &entry.payload {
            Some(payload) => self.apply_one(payload),
            None => Bytes::new(),
        };
        Ok(entries.iter().map(reply).collect())
    }

    fn snapshot(&self) -> Box<dyn SnapshotEncoder> {
        Box::new(Frozen(self.state.clone()))
    }

    fn restore(&mut self, _: u64, input: &mut dyn Read) -> io::Result<()> {
        self.state = ControlState::read_from(input)?;
        // The data of the old invariants belongs to the time before the snapshot.
        self.invariants = invariants::all();
        Ok(())
    }
}

impl SimApplication for Replica {
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.state.digest().digest.hash(&mut hasher);
        hasher.finish()
    }

    fn verdicts(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.found)
    }
}
