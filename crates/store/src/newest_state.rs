//! The newest state that this node has seen, in a small file on its own disk.
//!
//! Place in the flow: a store whose content is elsewhere (Redis, a shared file), or in a file that can be replaced
//! (local), may be put back to an older copy while every node is stopped. Then no node remembers the newer state.
//! When a node starts and the store has an older state than its file names, the store reports the loss, and another
//! history begins. The file is not written with each write, but at most once a second, and when the node stops.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::StoreEvent;
use crate::file_log::{beside, create_new, read_short};
use maxine_state::{ControlState, History};

/// Maximum number of ended histories that are kept.
const ENDED_MAX: usize = 32;
/// Maximum length of the file, in bytes.
const FILE_LEN_MAX: u64 = 16 * 1024;

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Seen {
    history: History,
    index: u64,
    /// The histories that this node has seen end, oldest first.
    ended: VecDeque<History>,
}

/// What this node remembers of the newest state.
#[derive(Debug, Default)]
pub(crate) struct NewestState {
    /// The file; `None` if nothing is remembered.
    path: Option<PathBuf>,
    /// The content of the file; `None` if there is no file, or it cannot be read.
    seen: Option<Seen>,
    is_compared: bool,
    /// The history of an older state that was found, until it has ended. Until then the file stays as it is, so that
    /// a restart finds the loss again.
    lost_in: Option<History>,
    /// Whether the last try to write the file failed. It is reported once, and not each second.
    is_failing: bool,
}

impl NewestState {
    /// Reads what an earlier run of this node has noted.
    pub(crate) fn read(path: Option<&Path>) -> Self {
        let seen = path.and_then(|path| {
            let bytes = read_short(path, FILE_LEN_MAX).and_then(|bytes| {
                bytes.map(|bytes| Ok(serde_json::from_slice(&bytes)?)).transpose()
            });
            bytes.unwrap_or_else(|error: io::Error| {
                tracing::warn!(path = %path.display(), %error, "what this node has seen last is not known");
                None
            })
        });
        Self { path: path.map(Path::to_owned), seen, ..Self::default() }
    }

    /// Compares the state that the store has now with what an earlier run of this node has seen. Returns the loss, if
    /// the state is older. Only the first call compares.
    pub(crate) fn compare(&mut self, state: &ControlState) -> Option<StoreEvent> {
        if std::mem::replace(&mut self.is_compared, true) {
            return None;
        }
        let seen = self.seen.as_ref()?;
        let (history, now) = (state.history(), state.index());
        let is_older = match history {
            // The store is empty.
            None => true,
            Some(history) if history == seen.history => now < seen.index,
            // A state of another history is known to be older only if this node has seen that history end.
            Some(history) => seen.ended.contains(&history),
        };
        if !is_older {
            return None;
        }
        self.lost_in = history;
        Some(StoreEvent::OlderState { had: seen.index, now })
    }

    /// Notes the present state, if it has changed. Blocks. Must not be called before [`Self::compare`].
    pub(crate) fn note(&mut self, state: &ControlState) {
        let Some(path) = &self.path else { return };
        let (Some(history), index) = (state.history(), state.index()) else { return };
        if !self.is_compared || self.lost_in == Some(history) {
            return;
        }
        self.lost_in = None;
        let mut ended = VecDeque::new();
        if let Some(seen) = &self.seen {
            ended.clone_from(&seen.ended);
            if seen.history != history {
                ended.push_back(seen.history);
                ended.retain(|ended| *ended != history);
                let surplus = ended.len().saturating_sub(ENDED_MAX);
                ended.drain(..surplus);
            }
        }
        let now = Seen { history, index, ended };
        if self.seen.as_ref() == Some(&now) {
            return;
        }
        match write(path, &now) {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(path = %path.display(), "the newest state is noted again");
                }
                self.seen = Some(now);
            }
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                tracing::warn!(path = %path.display(), %error, "the newest state cannot be noted; it is tried again");
            }
            Err(_) => {}
        }
    }
}

/// Replaces the file in one step. The file is not synced. If a power failure leaves an older file, or none, this node
/// only notices fewer losses.
fn write(path: &Path, seen: &Seen) -> io::Result<()> {
    let temporary = beside(path, ".new");
    create_new(&temporary)?.write_all(&serde_json::to_vec(seen)?)?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{Actor, Command, Name, Proposal, RequestId, SigningKey};

    fn change(state: &mut ControlState, command: Command) {
        let proposal = Proposal {
            request_id: RequestId(rand::random()),
            proposed_at_ms: 1,
            fence: None,
            actor: Actor::system("test"),
            command,
        };
        state.apply(&proposal, &mut Vec::new());
    }

    fn grant(state: &mut ControlState) {
        change(state, Command::GrantLeadership { holder: Name::trusted("n") });
    }

    fn begin_history(state: &mut ControlState, history: u64) {
        let key_id = Name::trusted(&format!("key-{history}"));
        let signing_key = SigningKey { key_id, secret: Box::new([7; 32]), created_at_ms: 1 };
        let (before, line) = (state.history(), state.line());
        let history = History::from_random(history);
        change(state, Command::BeginHistory { before, history, line, signing_key });
        assert_eq!(state.history(), Some(history));
    }

    /// Whether a node that starts with this state reports a loss. Then it notes the state.
    fn starts(path: &Path, state: &ControlState) -> Option<StoreEvent> {
        let mut newest = NewestState::read(Some(path));
        let lost = newest.compare(state);
        newest.note(state);
        lost
    }

    #[test]
    fn an_older_state_at_the_start_is_a_loss_until_another_history_has_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("newest-state");
        let mut state = ControlState::default();
        begin_history(&mut state, 5);
        let first = state.clone();
        grant(&mut state);
        let older = state.clone();
        assert_eq!(starts(&path, &state), None, "nothing was noted before");
        grant(&mut state);
        assert_eq!(starts(&path, &state), None, "it is newer");
        let loss = StoreEvent::OlderState { had: state.index(), now: older.index() };
        assert_eq!(starts(&path, &older), Some(loss.clone()));
        assert_eq!(starts(&path, &older), Some(loss), "no other history has begun");
        let mut other = older.clone();
        begin_history(&mut other, 6);
        assert_eq!(starts(&path, &other), None, "another node noticed the loss");
        let loss = StoreEvent::OlderState { had: other.index(), now: state.index() };
        assert_eq!(
            starts(&path, &state),
            Some(loss),
            "of a history that has ended, although its index is higher"
        );
        for older in [&first, &ControlState::default()] {
            let loss = StoreEvent::OlderState { had: other.index(), now: older.index() };
            assert_eq!(starts(&path, older), Some(loss));
        }
        std::fs::write(&path, "{").unwrap();
        assert_eq!(starts(&path, &first), None, "what cannot be read is not known");
    }
    /// Regression: on a full disk there was a line in the log each second.
    #[test]
    fn a_state_that_cannot_be_noted_is_reported_once_and_noted_later() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("missing");
        let path = folder.join("newest-state");
        let mut state = ControlState::default();
        begin_history(&mut state, 5);
        let mut newest = NewestState::read(Some(&path));
        assert_eq!(newest.compare(&state), None);
        for _ in 0..2 {
            newest.note(&state);
            assert!(newest.is_failing);
        }
        std::fs::create_dir(&folder).unwrap();
        newest.note(&state);
        assert!(!newest.is_failing && path.exists());
    }
}
