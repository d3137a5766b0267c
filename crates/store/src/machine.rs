//! Applies ordered batches to the state and publishes the results.
//!
//! Every backend has one machine and calls it from one thread at a time, in the order of the log. The machine
//! publishes before it returns the replies, so a caller with a reply sees its own write.

use std::io::{self, Read, Write};
use std::sync::Arc;

use maxine_state::{Applied, Batch, CodecError, ControlState, Event, SnapshotError, decode_batch};
use maxine_view::{View, WorkKind, WorkOutcome};

/// Decodes an entry of a log that other programs can write to. An entry that cannot be read has no effect on
/// any replica; the inner error is the reason. An entry of another version is an error: other nodes
/// may understand it, so a node that does not must stop.
pub(super) fn read_entry(bytes: &[u8]) -> Result<Result<Batch, String>, CodecError> {
    match decode_batch(bytes) {
        Ok(batch) => Ok(Ok(batch)),
        Err(other @ (CodecError::Older(_) | CodecError::Newer(_) | CodecError::NewerState(_))) => {
            Err(other)
        }
        Err(error) => Ok(Err(error.to_string())),
    }
}

/// One entry of the log, encoded or decoded.
#[derive(Debug)]
pub enum Ordered<'a> {
    /// Encoded, as the log stores it.
    Bytes(&'a [u8]),
    /// Decoded, as it was proposed.
    Batch(&'a Batch),
}

/// The state, and the view to which it is published.
#[derive(Debug)]
pub struct Machine {
    state: ControlState,
    view: Arc<View>,
}

impl Machine {
    /// A machine with an empty state.
    #[must_use]
    pub fn new(view: Arc<View>) -> Self {
        Self { state: ControlState::default(), view }
    }

    /// Applies entries in order, publishes once, and returns the replies to each proposal of each entry.
    ///
    /// An entry that cannot be decoded is an error. The node must stop then, because it would differ from the
    /// others.
    pub fn apply(&mut self, entries: &[Ordered<'_>]) -> Result<Vec<Vec<Applied>>, CodecError> {
        let mut decoded = Vec::new();
        for entry in entries {
            if let Ordered::Bytes(bytes) = entry {
                decoded.push(decode_batch(bytes)?);
            }
        }
        let mut decoded = decoded.iter();
        let batches = entries.iter().filter_map(|entry| match entry {
            Ordered::Batch(batch) => Some(*batch),
            Ordered::Bytes(_) => decoded.next(),
        });
        Ok(self.apply_batches(batches))
    }

    /// Applies batches in order, publishes once, and returns the replies to each proposal of each batch.
    pub fn apply_batches<'a>(
        &mut self,
        batches: impl IntoIterator<Item = &'a Batch>,
    ) -> Vec<Vec<Applied>> {
        let history = self.state.history();
        let applying = self.view.begin_apply(self.state.index());
        let mut events: Vec<Event> = Vec::new();
        let mut answers = Vec::new();
        for batch in batches {
            let each = batch.proposals.iter().map(|p| self.state.apply(p, &mut events));
            answers.push(each.collect());
        }
        if history.is_some() && self.state.history() != history {
            // Watchers have seen changes of the history that ended, so they must start again.
            self.view.reset(&self.state);
        } else {
            self.view.publish(&self.state, &events);
        }
        self.view.end_apply(applying, self.state.index());
        answers
    }

    /// A copy of the present state. It is cheap.
    #[must_use]
    pub fn state(&self) -> ControlState {
        self.state.clone()
    }

    /// Replaces the state with one that [`ControlState::write_to`] wrote.
    pub fn restore(&mut self, input: &mut dyn Read) -> Result<(), SnapshotError> {
        let working = self.view.begin_work(WorkKind::SnapshotInstalled);
        let restored = ControlState::read_from(input).map(|state| self.replace(state));
        self.view.end_work(working, || WorkOutcome {
            index: restored.is_ok().then(|| self.state.index()),
            error: restored.as_ref().err().map(ToString::to_string),
            ..WorkOutcome::default()
        });
        restored
    }

    /// The view to which the state is published.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Replaces the state.
    pub fn replace(&mut self, state: ControlState) {
        self.state = state;
        self.view.reset(&self.state);
    }

    /// Writes the state.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        self.state.write_to(out)
    }
}
