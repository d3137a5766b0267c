//! When this node applied the latest entries, for the traces of writes.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Number of times that entries were applied of which the times are kept. A write looks for its own at once.
const KEPT_MAX: usize = 64;

/// Entries that are being applied.
#[derive(Clone, Copy, Debug)]
pub struct Applying {
    /// The index of the state before.
    pub(super) after: u64,
    /// When it began, in microseconds on the monotonic clock.
    pub(super) began_us: u64,
}

#[derive(Clone, Copy, Debug)]
struct Done {
    applying: Applying,
    index: u64,
    ended_us: u64,
}

/// The times of the latest entries. The lock is held for one push or one search of a short list.
#[derive(Debug, Default)]
pub(super) struct AppliedLog(Mutex<VecDeque<Done>>);

impl AppliedLog {
    pub(super) fn push(&self, applying: Applying, index: u64, ended_us: u64) {
        let mut log = self.0.lock();
        if log.len() == KEPT_MAX {
            log.pop_front();
        }
        log.push_back(Done { applying, index, ended_us });
    }

    pub(super) fn find(&self, index: u64) -> Option<(u64, u64)> {
        let log = self.0.lock();
        let found =
            log.iter().rev().find(|done| (done.applying.after + 1..=done.index).contains(&index));
        found.map(|done| (done.applying.began_us, done.ended_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_finds_the_times_of_its_own_batch() {
        let log = AppliedLog::default();
        for at in 0..100 {
            log.push(Applying { after: at * 10, began_us: at }, at * 10 + 10, at + 1);
        }
        assert_eq!(log.find(1_000), Some((99, 100)));
        assert_eq!(log.find(991), Some((99, 100)));
        assert_eq!(log.find(990), Some((98, 99)));
        assert_eq!(log.find(1_001), None);
        assert_eq!(log.find(1), None, "it was too long ago");
        // A batch that changed nothing has no index.
        log.push(Applying { after: 1_000, began_us: 200 }, 1_000, 201);
        assert_eq!(log.find(1_000), Some((99, 100)));
    }
}
