//! This node's copy: the machine, its place in the log, and who waits for an answer.
//!
//! Fed by the tail alone, in the log's order. Knows no connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::backend::{Machine, Ordered};
use crate::state::{Applied, CodecError, ControlState, decode_batch};
use crate::view::View;

/// Most entries kept in memory to put a lost tail back.
const KEPT_ENTRIES_MAX: usize = 8_192;
/// Most bytes of them.
const KEPT_LEN_MAX: usize = 64 * 1024 * 1024;

/// Names an entry for good.
pub(super) type Nonce = [u8; 16];

/// The last entry that was applied: which log, how far, and which entry that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Names the log. Empty: none was read yet.
    pub(super) epoch: String,
    /// How many entries.
    pub(super) seq: u64,
    /// The last one's nonce.
    pub(super) nonce: Nonce,
}

/// One entry as the stream holds it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) nonce: Nonce,
    pub(super) previous: Nonce,
    pub(super) payload: Arc<[u8]>,
}

/// Why entries could not be applied.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Not the continuation of what is here.
    Broken,
    /// Cannot be understood: this node must not go on.
    Codec(CodecError),
}

/// The copy.
pub(super) struct Replica {
    inner: Mutex<Inner>,
    applied: watch::Sender<u64>,
}

struct Inner {
    machine: Machine,
    position: Position,
    kept: VecDeque<Entry>,
    kept_len: usize,
    waiters: HashMap<Nonce, oneshot::Sender<Vec<Applied>>>,
}

/// A place among those who wait; leaves when dropped.
pub(super) struct Waiter<'a> {
    replica: &'a Replica,
    nonce: Nonce,
    answer: oneshot::Receiver<Vec<Applied>>,
}

impl Waiter<'_> {
    /// The answers to the entry, when it has been applied and published here.
    pub(super) async fn answer(&mut self) -> Option<Vec<Applied>> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.replica.inner.lock().waiters.remove(&self.nonce);
    }
}

impl Replica {
    pub(super) fn new(view: Arc<View>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                machine: Machine::new(view),
                position: Position::default(),
                kept: VecDeque::new(),
                kept_len: 0,
                waiters: HashMap::new(),
            }),
            applied: watch::Sender::new(0),
        }
    }

    pub(super) fn position(&self) -> Position {
        self.inner.lock().position.clone()
    }

    /// The state and its place, together.
    pub(super) fn state(&self) -> (ControlState, Position) {
        let inner = self.inner.lock();
        (inner.machine.state(), inner.position.clone())
    }

    /// Follows how many entries were applied.
    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub(super) fn wait_for(&self, nonce: Nonce) -> Waiter<'_> {
        let (sender, answer) = oneshot::channel();
        self.inner.lock().waiters.insert(nonce, sender);
        Waiter { replica: self, nonce, answer }
    }

    /// Applies entries that follow on what is here, publishes them, and answers who waits.
    pub(super) fn apply(&self, entries: Vec<Entry>) -> Result<(), Refusal> {
        let Some(last) = entries.last() else { return Ok(()) };
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let mut position = inner.position.clone();
        for entry in &entries {
            if entry.seq != position.seq + 1 || entry.previous != position.nonce {
                return Err(Refusal::Broken);
            }
            position.seq = entry.seq;
            position.nonce = entry.nonce;
        }
        debug_assert_eq!(position.seq, last.seq);
        let ordered: Vec<Ordered<'_>> =
            entries.iter().map(|entry| Ordered::Bytes(&entry.payload)).collect();
        let answers = inner.machine.apply(&ordered).map_err(Refusal::Codec)?;
        for (entry, answer) in entries.iter().zip(answers) {
            if let Some(waiter) = inner.waiters.remove(&entry.nonce) {
                // Who no longer waits has got "outcome unknown".
                let _ = waiter.send(answer);
            }
        }
        for entry in entries {
            inner.keep(entry);
        }
        inner.position = position;
        let seq = inner.position.seq;
        self.applied.send_replace(seq);
        Ok(())
    }

    /// Replaces everything by a state that was rebuilt, and answers who waits for an entry in it.
    pub(super) fn replace(&self, rebuilt: Rebuilt) {
        let mut inner = self.inner.lock();
        inner.machine.replace(rebuilt.state);
        inner.kept.clear();
        inner.kept_len = 0;
        for entry in rebuilt.kept {
            inner.keep(entry);
        }
        for (nonce, answer) in rebuilt.answers {
            if let Some(waiter) = inner.waiters.remove(&nonce) {
                let _ = waiter.send(answer);
            }
        }
        inner.position = rebuilt.position;
        let seq = inner.position.seq;
        self.applied.send_replace(seq);
    }

    /// What comes after the entry `nonce` at `seq`, if this node still has all of it.
    pub(super) fn kept_after(&self, seq: u64, nonce: &Nonce) -> Option<Vec<Entry>> {
        let inner = self.inner.lock();
        let first = inner.kept.iter().position(|entry| entry.seq == seq + 1)?;
        let rest = inner.kept.range(first..);
        rest.clone().next().filter(|entry| entry.previous == *nonce)?;
        Some(rest.cloned().collect())
    }
}

impl Inner {
    fn keep(&mut self, entry: Entry) {
        self.kept_len += entry.payload.len();
        self.kept.push_back(entry);
        while self.kept.len() > KEPT_ENTRIES_MAX || self.kept_len > KEPT_LEN_MAX {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.kept_len -= oldest.payload.len();
        }
    }
}

/// A state that is put together aside, from a snapshot and the entries after it, so that readers
/// never see it half done.
pub(super) struct Rebuilt {
    state: ControlState,
    position: Position,
    kept: Vec<Entry>,
    answers: Vec<(Nonce, Vec<Applied>)>,
}

impl Rebuilt {
    pub(super) fn new(state: ControlState, position: Position) -> Self {
        Self { state, position, kept: Vec::new(), answers: Vec::new() }
    }

    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    pub(super) fn apply(&mut self, entries: Vec<Entry>) -> Result<(), Refusal> {
        let mut events = Vec::new();
        for entry in entries {
            let follows =
                entry.seq == self.position.seq + 1 && entry.previous == self.position.nonce;
            if !follows {
                return Err(Refusal::Broken);
            }
            let batch = decode_batch(&entry.payload).map_err(Refusal::Codec)?;
            events.clear();
            let answers = batch.proposals.iter().map(|p| self.state.apply(p, &mut events));
            self.answers.push((entry.nonce, answers.collect()));
            self.position.seq = entry.seq;
            self.position.nonce = entry.nonce;
            self.kept.push(entry);
            if self.kept.len() > KEPT_ENTRIES_MAX {
                self.kept.drain(..KEPT_ENTRIES_MAX / 2);
                self.answers.drain(..KEPT_ENTRIES_MAX / 2);
            }
        }
        Ok(())
    }

    pub(super) fn into_state(self) -> ControlState {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::state::{Actor, Batch, Command, Name, Proposal, RequestId, encode_batch};

    fn entry(seq: u64, nonce: u8, previous: u8) -> Entry {
        let proposal = Proposal {
            request_id: RequestId(u128::from(nonce)),
            proposed_at_ms: 1,
            fence: None,
            actor: Actor::system("test"),
            command: Command::GrantLeadership { holder: Name::trusted("n") },
        };
        let payload = encode_batch(&Batch { proposals: vec![proposal] }).unwrap().into();
        Entry { seq, nonce: [nonce; 16], previous: [previous; 16], payload }
    }

    #[test]
    fn a_gap_or_a_fork_is_refused_and_changes_nothing() {
        let replica = Replica::new(View::new(Clock::manual()));
        replica.apply(vec![entry(1, 1, 0), entry(2, 2, 1)]).unwrap();
        assert!(matches!(replica.apply(vec![entry(4, 4, 2)]), Err(Refusal::Broken)));
        assert!(matches!(replica.apply(vec![entry(3, 3, 9)]), Err(Refusal::Broken)));
        assert_eq!(replica.position().seq, 2);
        assert_eq!(replica.state().0.index(), 2);
    }

    #[test]
    fn a_lost_tail_is_known_only_after_the_very_entry_that_it_followed() {
        let replica = Replica::new(View::new(Clock::manual()));
        replica.apply(vec![entry(1, 1, 0), entry(2, 2, 1), entry(3, 3, 2)]).unwrap();
        let tail = replica.kept_after(1, &[1; 16]).unwrap();
        assert_eq!(tail.iter().map(|e| e.seq).collect::<Vec<_>>(), [2, 3]);
        assert!(replica.kept_after(1, &[7; 16]).is_none());
        assert!(replica.kept_after(3, &[3; 16]).is_none(), "nothing follows the last one");
        assert!(replica.kept_after(0, &[0; 16]).is_some());
    }
}
