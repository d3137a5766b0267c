//! What the answers of leaders have proven about this node's state. `state_age` asks for them.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::Mutex;

/// Maximum number of proofs that wait until the state has reached their index. If there are more, the newest
/// is dropped. The state then seems older than it is, and never younger.
const WAITING_MAX: usize = 64;

/// What the leader's answers have proven.
#[derive(Default)]
pub(crate) struct Freshness(Mutex<Proofs>);

#[derive(Default)]
struct Proofs {
    /// Everything that was acknowledged before this moment has been applied on this node.
    complete: Option<Instant>,
    /// Commit indexes that are not applied yet, and the moments that they prove, oldest first.
    waiting: VecDeque<(u64, Instant)>,
    /// The term of the leader that was confirmed last, and when a quorum still followed it.
    confirmed: Option<(u64, Instant)>,
}

impl Freshness {
    /// Records that a state which has applied `commit` contains everything that was acknowledged before `at`.
    pub(crate) fn prove(&self, commit: u64, at: Instant) {
        let mut proofs = self.0.lock();
        let newest = proofs.waiting.back().map(|(_, at)| *at).or(proofs.complete);
        if newest.is_none_or(|newest| newest < at) && proofs.waiting.len() < WAITING_MAX {
            proofs.waiting.push_back((commit, at));
        }
    }

    /// The latest moment for which a state that has applied `applied` contains everything that was
    /// acknowledged before.
    pub(crate) fn complete_at(&self, applied: u64) -> Option<Instant> {
        let mut proofs = self.0.lock();
        while let Some((commit, at)) = proofs.waiting.front().copied()
            && commit <= applied
        {
            proofs.complete = Some(at);
            proofs.waiting.pop_front();
        }
        proofs.complete
    }

    /// Records that a quorum followed the leader of `term` at `at`.
    pub(crate) fn confirm(&self, term: u64, at: Instant) {
        let mut proofs = self.0.lock();
        if proofs.confirmed.is_none_or(|before| before < (term, at)) {
            proofs.confirmed = Some((term, at));
        }
    }

    /// The latest time at which a quorum is known to have followed any leader.
    pub(crate) fn last_confirmed_at(&self) -> Option<Instant> {
        self.0.lock().confirmed.map(|(_, at)| at)
    }

    /// The latest time at which a quorum is known to have followed the leader of `term`.
    pub(crate) fn confirmed_at(&self, term: u64) -> Option<Instant> {
        self.0.lock().confirmed.filter(|(confirmed, _)| *confirmed == term).map(|(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    #[test]
    fn a_proof_counts_once_its_index_is_applied() {
        let freshness = Freshness::default();
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(freshness.complete_at(100), None, "nothing was ever proven");
        freshness.prove(10, at(1));
        freshness.prove(20, at(2));
        assert_eq!(freshness.complete_at(9), None);
        assert_eq!(freshness.complete_at(19), Some(at(1)), "catching up is not fresh");
        assert_eq!(freshness.complete_at(20), Some(at(2)));
        // An older proof that arrives late changes nothing.
        freshness.prove(15, at(1));
        assert_eq!(freshness.complete_at(20), Some(at(2)));
    }

    #[test]
    fn with_too_many_proofs_the_state_looks_older_not_younger() {
        let freshness = Freshness::default();
        let start = clock::now();
        for nth in 0..1_000 {
            freshness.prove(nth, start + Duration::from_secs(nth));
        }
        let newest = start + Duration::from_secs(WAITING_MAX as u64 - 1);
        assert_eq!(freshness.complete_at(1_000), Some(newest));
        freshness.prove(1_001, start + Duration::from_secs(1_001));
        assert_eq!(freshness.complete_at(1_001), Some(start + Duration::from_secs(1_001)));
    }

    #[test]
    fn only_the_leader_of_the_present_term_counts_as_confirmed() {
        let freshness = Freshness::default();
        let start = clock::now();
        let later = start + Duration::from_secs(1);
        freshness.confirm(3, start);
        freshness.confirm(4, start);
        freshness.confirm(3, later);
        assert_eq!(freshness.confirmed_at(4), Some(start));
        assert_eq!(freshness.confirmed_at(3), None);
        freshness.confirm(4, later);
        assert_eq!(freshness.confirmed_at(4), Some(later));
    }
}
