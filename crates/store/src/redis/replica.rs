//! This node's copy of the state: the machine, its position in the log, and the callers that wait for a
//! reply.
//!
//! Only the tail passes entries in, in the order of the log. This module knows no connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::machine::{Machine, read_entry};
use maxine_state::{Applied, Batch, CodecError, ControlState, is_newer_version, named_version};
use maxine_view::View;

/// Maximum number of entries that are kept in memory, for writing back a tail that Redis lost.
const KEPT_ENTRIES_MAX: usize = 8_192;
/// Maximum size of these entries, in bytes.
const KEPT_LEN_MAX: usize = 64 * 1024 * 1024;

/// Maximum number of nonces in a snapshot. With them, a node that was slightly behind can find out whether
/// its position is part of the snapshot's log.
pub(super) const RECENT_MAX: usize = 256;

/// Identifies an entry.
pub(super) type Nonce = [u8; 16];

/// The last applied entry: its log, its number, and its nonce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Identifies the log. Empty if no log was read yet.
    pub(super) epoch: String,
    /// Number of entries.
    pub(super) seq: u64,
    /// The nonce of the last entry.
    pub(super) nonce: Nonce,
}

impl Position {
    /// Whether it is in the same log as `other`, and not before it.
    pub(super) fn includes(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.seq >= other.seq
    }

    /// Whether both are the same entry, even if they are in different logs.
    pub(super) fn is_same_entry(&self, other: &Self) -> bool {
        (self.seq, self.nonce) == (other.seq, other.nonce)
    }
}

/// One entry, as the stream contains it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) nonce: Nonce,
    pub(super) previous: Nonce,
    /// The state version that it needs.
    pub(super) version: u32,
    pub(super) payload: Arc<[u8]>,
}

impl Entry {
    /// Whether it is the next entry after `place`.
    pub(super) fn is_next_after(&self, place: &Position) -> bool {
        self.seq == place.seq + 1 && self.previous == place.nonce
    }

    /// Whether it says that it is from a newer Maxine. [`Self::batch`] says whether its content agrees.
    pub(super) fn claims_newer(&self) -> bool {
        is_newer_version(self.version)
    }

    /// The decoded batch, or why it cannot be read.
    ///
    /// Maxine writes the state version beside the payload and into it. If both do not agree, something else has written
    /// the entry, and it cannot be read on any replica, whatever that understands.
    fn batch(&self) -> Result<Result<Batch, String>, Refusal> {
        let beside = self.version;
        if let Some(inside) = named_version(&self.payload).filter(|inside| *inside != beside) {
            return Ok(Err(format!(
                "not written by Maxine: its state version is {beside} beside its content and {inside} in it"
            )));
        }
        match read_entry(&self.payload) {
            Ok(read) => Ok(read),
            Err(error @ CodecError::Newer(_)) if !self.claims_newer() => Ok(Err(error.to_string())),
            // The entries before it have the present format, and a format never goes back.
            Err(error @ CodecError::Older(_)) if self.seq > 1 => Ok(Err(error.to_string())),
            Err(error) => {
                Err(Refusal::OtherVersion { position: self.seq, reason: error.to_string() })
            }
        }
    }
}

/// An entry that was skipped because it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Its stream id.
    pub(super) id: String,
    pub(super) reason: String,
}

/// Why entries could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// They do not follow this node's position.
    #[error("entries are missing")]
    Broken,
    /// A Maxine of another version wrote the entry, and this one does not understand it. This node must stop
    /// before it.
    #[error("entry {position} of the log in redis: {reason}")]
    OtherVersion { position: u64, reason: String },
}

/// This node's copy of the state.
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

/// A caller that waits for the replies to an entry. Dropping it ends the wait.
pub(super) struct Waiter<'a> {
    replica: &'a Replica,
    nonce: Nonce,
    answer: oneshot::Receiver<Vec<Applied>>,
}

impl Waiter<'_> {
    /// The replies to the entry, once it has been applied and published here.
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

    /// The state, its position, and the nonces of its newest entries, the last one last.
    pub(super) fn state(&self) -> (ControlState, Position, Vec<Nonce>) {
        let inner = self.inner.lock();
        let skip = inner.kept.len().saturating_sub(RECENT_MAX);
        let mut recent: Vec<Nonce> =
            inner.kept.iter().skip(skip).map(|entry| entry.nonce).collect();
        if recent.is_empty() {
            recent.push(inner.position.nonce);
        }
        (inner.machine.state(), inner.position.clone(), recent)
    }

    /// A receiver that follows the number of applied entries.
    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub(super) fn wait_for(&self, nonce: Nonce) -> Waiter<'_> {
        let (sender, answer) = oneshot::channel();
        self.inner.lock().waiters.insert(nonce, sender);
        Waiter { replica: self, nonce, answer }
    }

    /// Applies entries that follow this node's position, publishes them, and answers the waiting callers.
    /// Returns the skipped entries.
    pub(super) fn apply(&self, entries: Vec<Entry>) -> Result<Vec<Skipped>, Refusal> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let mut position = inner.position.clone();
        for entry in &entries {
            if !entry.is_next_after(&position) {
                return Err(Refusal::Broken);
            }
            position.seq = entry.seq;
            position.nonce = entry.nonce;
        }
        let mut skipped = Vec::new();
        let mut batches = Vec::with_capacity(entries.len());
        for entry in &entries {
            batches.push(read_or_skip(entry, &mut skipped)?);
        }
        let answers = inner.machine.apply_batches(&batches);
        for (entry, answer) in entries.iter().zip(answers) {
            if let Some(waiter) = inner.waiters.remove(&entry.nonce) {
                // A caller that no longer waits has received "outcome unknown".
                let _ = waiter.send(answer);
            }
        }
        for entry in entries {
            inner.keep(entry);
        }
        inner.position = position;
        let seq = inner.position.seq;
        self.applied.send_replace(seq);
        Ok(skipped)
    }

    /// Continues in another log, which has the same entry that this node is at.
    pub(super) fn adopt(&self, epoch: &str) {
        epoch.clone_into(&mut self.inner.lock().position.epoch);
    }

    /// Replaces the state with one that was rebuilt, and answers the callers that wait for an entry in it.
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

    /// Whether this node's state has the entry at `place`, as far as it remembers.
    pub(super) fn has(&self, place: &Position) -> bool {
        let inner = self.inner.lock();
        let is_it = |entry: &Entry| (entry.seq, entry.nonce) == (place.seq, place.nonce);
        inner.position.is_same_entry(place) || inner.kept.iter().rev().any(is_it)
    }

    /// The entries after the entry `nonce` at `seq`, if this node still has all of them.
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

fn read_or_skip(entry: &Entry, skipped: &mut Vec<Skipped>) -> Result<Batch, Refusal> {
    Ok(entry.batch()?.unwrap_or_else(|reason| {
        skipped.push(Skipped { id: format!("{}-0", entry.seq), reason });
        Batch::default()
    }))
}

/// A state that is rebuilt separately, from a snapshot and the entries after it, so that readers never see it
/// incomplete.
pub(super) struct Rebuilt {
    state: ControlState,
    position: Position,
    kept: Vec<Entry>,
    answers: Vec<(Nonce, Vec<Applied>)>,
    pub(super) skipped: Vec<Skipped>,
    /// The nonces of the entries before the first kept one, the last one last.
    recent: Vec<Nonce>,
}

impl Rebuilt {
    /// Starts from a snapshot, whose last entries had the nonces `recent`.
    pub(super) fn new(state: ControlState, position: Position, recent: Vec<Nonce>) -> Self {
        Self { state, position, kept: Vec::new(), answers: Vec::new(), skipped: Vec::new(), recent }
    }

    /// Whether it comes after the entry at `place`; `None` if that is unknown.
    pub(super) fn comes_after(&self, place: &Position) -> Option<bool> {
        if place.seq == 0 {
            return Some(true);
        }
        if place.seq > self.position.seq {
            return Some(false);
        }
        let nonces = self.recent.iter().chain(self.kept.iter().map(|entry| &entry.nonce));
        let back = usize::try_from(self.position.seq - place.seq).ok()?;
        let there = nonces.rev().nth(back)?;
        Some(*there == place.nonce)
    }

    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    pub(super) fn apply(&mut self, entries: Vec<Entry>) -> Result<(), Refusal> {
        let mut events = Vec::new();
        for entry in entries {
            if !entry.is_next_after(&self.position) {
                return Err(Refusal::Broken);
            }
            let batch = read_or_skip(&entry, &mut self.skipped)?;
            events.clear();
            let answers = batch.proposals.iter().map(|p| self.state.apply(p, &mut events));
            self.answers.push((entry.nonce, answers.collect()));
            self.position.seq = entry.seq;
            self.position.nonce = entry.nonce;
            self.kept.push(entry);
            if self.kept.len() > KEPT_ENTRIES_MAX {
                self.recent = vec![self.kept[KEPT_ENTRIES_MAX / 2 - 1].nonce];
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
    use maxine_clock::Clock;
    use maxine_state::{
        Actor, Batch, Command, Name, Proposal, RequestId, STATE_VERSION, encode_batch,
    };

    fn entry(seq: u64, nonce: u8, previous: u8) -> Entry {
        let proposal = Proposal {
            request_id: RequestId(u128::from(nonce)),
            proposed_at_ms: 1,
            fence: None,
            actor: Actor::system("test"),
            command: Command::GrantLeadership { holder: Name::trusted("n") },
        };
        let payload = encode_batch(&Batch { proposals: vec![proposal] }).unwrap().into();
        let (nonce, previous) = ([nonce; 16], [previous; 16]);
        Entry { seq, nonce, previous, version: 1, payload }
    }

    /// An entry that no version can read changes nothing on any replica, in whatever pages it arrives, and
    /// the entries after it count.
    #[test]
    fn an_unreadable_entry_is_skipped_alike_however_it_is_read() {
        let garbage = Entry { payload: b"garbage".as_slice().into(), ..entry(2, 2, 1) };
        let all = vec![entry(1, 1, 0), garbage, entry(3, 3, 2)];
        let at_once = Replica::new(View::new(Clock::manual()));
        let skipped = at_once.apply(all.clone()).unwrap();
        assert_eq!(skipped.iter().map(|s| &*s.id).collect::<Vec<_>>(), ["2-0"]);
        let one_by_one = Replica::new(View::new(Clock::manual()));
        let each = all.iter().flat_map(|one| one_by_one.apply(vec![one.clone()]).unwrap());
        assert_eq!(each.collect::<Vec<_>>(), skipped);
        let mut rebuilt = Rebuilt::new(ControlState::default(), Position::default(), Vec::new());
        rebuilt.apply(all).unwrap();
        assert_eq!(rebuilt.skipped, skipped);
        let digest = at_once.state().0.digest();
        assert_eq!(one_by_one.state().0.digest(), digest);
        assert_eq!(rebuilt.into_state().digest(), digest);
        assert_eq!(at_once.position().seq, 3);
    }

    /// The payload of an entry of a newer build, as far as this build reads it.
    fn of_version(version: u32) -> Arc<[u8]> {
        [&b"MXC\x03"[..], &version.to_le_bytes(), b"more"].concat().into()
    }

    #[test]
    fn an_entry_of_a_newer_build_or_of_an_older_log_stops_the_node() {
        let newer = STATE_VERSION + 1;
        let of_newer_state = Entry { version: newer, payload: of_version(newer), ..entry(1, 1, 0) };
        let format = b"MXC\xff".as_slice().into();
        let of_newer_format = Entry { version: newer, payload: format, ..entry(1, 1, 0) };
        let of_older_log = Entry { payload: b"MXC\x01".as_slice().into(), ..entry(1, 1, 0) };
        for other in [of_newer_state, of_newer_format, of_older_log] {
            let refused = Replica::new(View::new(Clock::manual())).apply(vec![other]);
            assert!(
                matches!(refused, Err(Refusal::OtherVersion { position: 1, .. })),
                "{refused:?}"
            );
        }
    }

    /// What surrounds the content of an entry, and what is possible, decides whether it is from another build.
    #[test]
    fn a_forged_version_is_skipped_and_stops_nobody() {
        let newer = STATE_VERSION + 1;
        let sound = entry(2, 2, 1);
        for (version, payload) in [
            // The field beside the content is that of another version.
            (1, of_version(65_537)),
            (1, of_version(newer)),
            (newer, of_version(newer + 1)),
            (2, Arc::clone(&sound.payload)),
            // No build can have this version.
            (65_537, of_version(65_537)),
            (0, of_version(0)),
            (65_537, b"MXC\xff".as_slice().into()),
            // A newer format needs a newer state version, and no entry has an older format than the one before it.
            (1, b"MXC\xff".as_slice().into()),
            (1, b"MXC\x01".as_slice().into()),
            (newer, b"garbage".as_slice().into()),
        ] {
            let forged = Entry { version, payload, ..sound.clone() };
            let all = vec![entry(1, 1, 0), forged.clone(), entry(3, 3, 2)];
            let replica = Replica::new(View::new(Clock::manual()));
            let skipped = replica.apply(all.clone()).unwrap();
            assert_eq!(skipped.iter().map(|s| &*s.id).collect::<Vec<_>>(), ["2-0"], "{forged:?}");
            let mut rebuilt =
                Rebuilt::new(ControlState::default(), Position::default(), Vec::new());
            rebuilt.apply(all).unwrap();
            assert_eq!(rebuilt.skipped, skipped);
            assert_eq!(rebuilt.into_state().digest(), replica.state().0.digest());
            assert_eq!(replica.position().seq, 3);
        }
    }

    #[test]
    fn a_rebuilt_state_tells_whether_it_comes_after_a_place() {
        let at = |seq, nonce| Position { epoch: "e".into(), seq, nonce: [nonce; 16] };
        let recent = vec![[4; 16], [5; 16]];
        let mut rebuilt = Rebuilt::new(ControlState::default(), at(5, 5), recent);
        rebuilt.apply(vec![entry(6, 6, 5)]).unwrap();
        for (place, answer) in [
            (at(6, 6), Some(true)),
            (at(6, 9), Some(false)),
            (at(5, 5), Some(true)),
            (at(4, 4), Some(true)),
            (at(4, 9), Some(false)),
            (at(3, 3), None),
            (at(7, 7), Some(false)),
        ] {
            assert_eq!(rebuilt.comes_after(&place), answer, "{place:?}");
        }
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
