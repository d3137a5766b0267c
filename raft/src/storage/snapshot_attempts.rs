//! The attempts to write a snapshot: whether one is in progress, why the last one failed, and when the next one follows.
//!
//! A failed attempt changes nothing but how long the log grows. So it is repeated after a pause, and does not stop the node.

use std::io;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The pause after the first failed attempt. It doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(30);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30 * 60);

/// Why the last snapshot could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFailure {
    /// Number of attempts that failed since the last success.
    pub attempts: u32,
    /// Whether there was not enough space.
    pub is_no_space: bool,
    /// The reason, with the directory.
    pub reason: String,
}

#[derive(Default)]
pub(crate) struct Attempts(Mutex<State>);

#[derive(Default)]
struct State {
    is_writing: bool,
    failed_total: u64,
    /// The last failure, and when the next attempt follows.
    failure: Option<(SnapshotFailure, Instant)>,
}

impl Attempts {
    /// Begins an attempt. Returns false if one is in progress.
    pub(crate) fn begin(&self) -> bool {
        !std::mem::replace(&mut self.0.lock().is_writing, true)
    }

    /// Ends the attempt that was begun.
    pub(crate) fn end(&self, outcome: Result<u64, &io::Error>, now: Instant) {
        let mut state = self.0.lock();
        state.is_writing = false;
        let error = match outcome {
            Ok(index) => {
                tracing::debug!(index, "a snapshot was taken");
                state.failure = None;
                return;
            }
            Err(error) => error,
        };
        let attempts = state.failure.as_ref().map_or(0, |(last, _)| last.attempts) + 1;
        let pause = PAUSE_MIN.saturating_mul(1 << (attempts - 1).min(16)).min(PAUSE_MAX);
        tracing::warn!(
            %error,
            attempts,
            next_in_s = pause.as_secs(),
            "a snapshot could not be written: the node continues, and its log is not shortened"
        );
        state.failed_total += 1;
        let is_no_space = error.kind() == io::ErrorKind::StorageFull;
        let failure = SnapshotFailure { attempts, is_no_space, reason: error.to_string() };
        state.failure = Some((failure, now + pause));
    }

    /// Number of attempts that failed since the start.
    pub(crate) fn failed_total(&self) -> u64 {
        self.0.lock().failed_total
    }

    /// Why the last attempt failed; `None` if it succeeded.
    pub(crate) fn failure(&self) -> Option<SnapshotFailure> {
        self.0.lock().failure.as_ref().map(|(failure, _)| failure.clone())
    }

    /// Whether the pause after a failed attempt is over.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let state = self.0.lock();
        !state.is_writing && state.failure.as_ref().is_some_and(|(_, next)| *next <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn failed_attempts_are_repeated_after_pauses_that_grow_until_one_succeeds() {
        let attempts = Attempts::default();
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let mut now = clock::now();
        let mut pauses = Vec::new();
        for number in 1..=8 {
            assert!(attempts.begin());
            assert!(!attempts.begin(), "one at a time");
            attempts.end(Err(&full), now);
            let failure = attempts.failure().unwrap();
            assert_eq!((failure.attempts, failure.is_no_space), (number, true));
            let began = now;
            while !attempts.is_due(now) {
                now += Duration::from_secs(30);
            }
            pauses.push((now - began).as_secs() / 30);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(attempts.failed_total(), 8);
        assert!(attempts.begin());
        assert!(!attempts.is_due(now), "one is in progress");
        attempts.end(Ok(7), now);
        assert_eq!(attempts.failure(), None);
        assert!(!attempts.is_due(now + PAUSE_MAX));
    }
}
