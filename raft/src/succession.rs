//! How long a new leader waits until no earlier leader can still act under its lease.
//!
//! A leader acts under a lease for a limited time after it sent the newest request that a quorum has accepted.
//! The quorum that elects the next leader shares a voter with the quorum that accepted that request. Each voter
//! adds to its vote how long ago it last accepted a request of any leader. So the new leader knows a time after
//! which no request of an earlier leader was accepted by a quorum, and waits until the lease has run out since
//! then. After an election that nobody hurried, that time has passed already. After a transfer there is nothing
//! to wait for, because the former leader has given its lease up before it asked for the election.
//!
//! This is the only thing that protects reads and acknowledgements from an election that comes too early. No
//! evidence that a leader is gone has any part in it. See `docs/decisions/0023-early-elections.md`.
//!
//! Only durations are sent between nodes. This module reads no clock, so the simulation uses it, too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Number of terms whose elections are remembered. Only the newest of them can still matter.
const TERMS_MAX: usize = 16;

/// What a node knows about the leases of earlier leaders.
#[derive(Debug)]
pub(crate) struct Succession {
    accepted: Mutex<Accepted>,
    elections: Mutex<Elections>,
    /// Whether `elections` may have anything to wait for. Finding out that it has not takes no lock.
    may_wait: AtomicBool,
    /// The newest term in which this node has been elected.
    elected: AtomicU64,
}

#[derive(Debug, Default)]
struct Accepted {
    /// When this process started on a disk that was in use before. It has forgotten what it accepted until
    /// then.
    started: Option<Instant>,
    /// When this process last accepted a request of the leader of each term.
    last: BTreeMap<u64, Instant>,
    /// Number of requests of the leader of each term that the core has, and that are not answered yet.
    in_flight: BTreeMap<u64, usize>,
}

#[derive(Debug, Default)]
struct Elections {
    /// For each term for which this node received votes: the latest time at which a voter, or this node, may
    /// have accepted a request of an earlier leader.
    accepted_until: BTreeMap<u64, Instant>,
    /// The newest term in which the former leader transferred its leadership to this node.
    transferred: Option<u64>,
    /// When this node last received a vote.
    voted_at: Option<Instant>,
}

/// A request of a leader that the core has. Until it is dropped, the request counts as accepted now.
#[derive(Debug)]
pub(crate) struct Accepting<'a> {
    succession: &'a Succession,
    term: u64,
}

impl Accepting<'_> {
    /// The core has accepted the request, and the leader will hear of it. This comes before the answer is sent.
    pub(crate) fn accepted(self, now: Instant) {
        let mut accepted = self.succession.accepted.lock();
        let before = accepted.last.entry(self.term).or_insert(now);
        *before = (*before).max(now);
        if accepted.last.len() > TERMS_MAX {
            accepted.last.pop_first();
        }
    }
}

impl Drop for Accepting<'_> {
    fn drop(&mut self) {
        let mut accepted = self.succession.accepted.lock();
        if let Some(count) = accepted.in_flight.get_mut(&self.term) {
            *count -= 1;
            if *count == 0 {
                accepted.in_flight.remove(&self.term);
            }
        }
    }
}

impl Succession {
    /// The knowledge of a new process. `started` is the time of its start, if its disk was in use before.
    pub(crate) fn new(started: Option<Instant>) -> Self {
        Self {
            accepted: Mutex::new(Accepted { started, ..Accepted::default() }),
            elections: Mutex::default(),
            may_wait: AtomicBool::new(false),
            elected: AtomicU64::new(0),
        }
    }

    /// Call it before a request of the leader of `term` is passed to the core.
    pub(crate) fn accepting(&self, term: u64) -> Accepting<'_> {
        *self.accepted.lock().in_flight.entry(term).or_default() += 1;
        Accepting { succession: self, term }
    }

    /// How long ago this node may last have accepted a request of a leader of a term before `term`; `None` if it
    /// never has. Call it after a vote in `term` was given, so that the core has every request that it accepted
    /// before.
    pub(crate) fn accepted_age(&self, term: u64, now: Instant) -> Option<Duration> {
        let accepted = self.accepted.lock();
        if accepted.in_flight.range(..term).next().is_some() {
            return Some(Duration::ZERO);
        }
        let last = accepted.last.range(..term).map(|(_, at)| *at).max();
        last.max(accepted.started).map(|at| now.saturating_duration_since(at))
    }

    /// Records a vote for this node in `term`. `accepted` is the latest time at which the voter may have
    /// accepted a request of an earlier leader, as seen from this node; `None` if it never has. Call it before
    /// the core receives the vote.
    pub(crate) fn voted(&self, term: u64, accepted: Option<Instant>, now: Instant) {
        // This node has voted for itself, so it accepts no request of an earlier leader any more.
        let own = self.accepted_age(term, now).and_then(|age| now.checked_sub(age));
        let mut elections = self.elections.lock();
        elections.voted_at = elections.voted_at.max(Some(now));
        if let Some(until) = accepted.max(own) {
            self.wait_from(&mut elections, term, until);
        }
    }

    fn wait_from(&self, elections: &mut Elections, term: u64, until: Instant) {
        // The votes that elected this node came before it was elected, and are sufficient.
        let is_late = self.elected.load(Ordering::Acquire) == term;
        if is_late || elections.transferred == Some(term) {
            return;
        }
        let before = elections.accepted_until.entry(term).or_insert(until);
        *before = (*before).max(until);
        if elections.accepted_until.len() > TERMS_MAX {
            elections.accepted_until.pop_first();
        }
        self.may_wait.store(true, Ordering::Release);
    }

    /// Whether this node received a vote at or after `since`, so that it may have been elected since then.
    pub(crate) fn was_voted_for(&self, since: Instant) -> bool {
        self.elections.lock().voted_at.is_some_and(|at| at >= since)
    }

    /// This node leads `term`. `is_alone` says whether it is the only voter, which needs no vote.
    pub(crate) fn leads(&self, term: u64, is_alone: impl FnOnce() -> bool) {
        if self.elected.load(Ordering::Acquire) == term {
            return;
        }
        let mut elections = self.elections.lock();
        if is_alone() {
            let accepted = self.accepted.lock();
            let last = accepted.last.range(..term).map(|(_, at)| *at).max();
            if let Some(until) = last.max(accepted.started) {
                self.wait_from(&mut elections, term, until);
            }
        }
        self.elected.store(term, Ordering::Release);
    }

    /// The leader of the term before `term` transfers its leadership to this node. It no longer acts under any
    /// lease, and waits for no other leader. Call it before the core receives the transfer.
    pub(crate) fn transferred(&self, term: u64) {
        let mut elections = self.elections.lock();
        elections.transferred = elections.transferred.max(Some(term));
    }

    /// Until when this node waits, as a leader, if earlier leaders can act for less than `wait` after a request
    /// that was accepted; `None` if that time is over. `longest` is the longest of all such times.
    pub(crate) fn waits_until(
        &self,
        wait: Duration,
        longest: Duration,
        now: Instant,
    ) -> Option<Instant> {
        if !self.may_wait.load(Ordering::Acquire) {
            return None;
        }
        let elections = self.elections.lock();
        let latest = elections.accepted_until.values().max().copied()?;
        if latest + longest <= now {
            self.may_wait.store(false, Ordering::Release);
        }
        Some(latest + wait).filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const READ: Duration = Duration::from_millis(188);
    const LONGEST: Duration = Duration::from_millis(500);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_leader_waits_for_the_latest_request_that_a_voter_accepted() {
        let start = clock::now();
        let at = |after| start + ms(after);
        let succession = Succession::new(None);
        assert_eq!(succession.waits_until(READ, LONGEST, at(0)), None, "nobody voted");
        succession.voted(5, None, at(0));
        assert_eq!(succession.waits_until(READ, LONGEST, at(0)), None, "nobody led before");
        succession.voted(6, Some(at(100)), at(200));
        succession.voted(6, Some(at(80)), at(200));
        assert_eq!(succession.waits_until(READ, LONGEST, at(200)), Some(at(288)));
        assert_eq!(succession.waits_until(READ, LONGEST, at(288)), None);
        assert_eq!(succession.waits_until(LONGEST, LONGEST, at(288)), Some(at(600)));
        // A later election does not shorten it.
        succession.voted(7, Some(at(10)), at(300));
        assert_eq!(succession.waits_until(LONGEST, LONGEST, at(300)), Some(at(600)));
        assert_eq!(succession.waits_until(LONGEST, LONGEST, at(600)), None);
        assert!(!succession.may_wait.load(Ordering::Relaxed));
        succession.voted(8, Some(at(900)), at(900));
        assert_eq!(succession.waits_until(READ, LONGEST, at(900)), Some(at(1_088)));
    }

    #[test]
    fn what_this_node_accepted_itself_counts_too() {
        let start = clock::now();
        let at = |after| start + ms(after);
        let succession = Succession::new(Some(start));
        assert_eq!(
            succession.accepted_age(9, at(70)),
            Some(ms(70)),
            "it has forgotten what was before"
        );
        succession.accepting(2).accepted(at(100));
        succession.voted(3, Some(at(20)), at(150));
        assert_eq!(succession.waits_until(READ, LONGEST, at(150)), Some(at(288)));
    }

    #[test]
    fn the_only_voter_waits_for_what_it_accepted() {
        let start = clock::now();
        let at = |after| start + ms(after);
        let succession = Succession::new(Some(start));
        succession.leads(1, || true);
        assert_eq!(succession.waits_until(READ, LONGEST, at(0)), Some(at(188)), "it has restarted");
        succession.accepting(2).accepted(at(100));
        succession.leads(3, || true);
        // It also waits if there are more voters by now.
        assert_eq!(succession.waits_until(READ, LONGEST, at(150)), Some(at(288)));
    }

    #[test]
    fn a_vote_that_comes_after_the_election_changes_nothing() {
        let start = clock::now();
        let at = |after| start + ms(after);
        let succession = Succession::new(None);
        assert!(!succession.was_voted_for(at(0)));
        succession.voted(5, Some(at(10)), at(20));
        assert!(succession.was_voted_for(at(20)));
        assert!(!succession.was_voted_for(at(21)));
        succession.leads(5, || false);
        succession.voted(5, Some(at(150)), at(150));
        assert_eq!(succession.waits_until(READ, LONGEST, at(150)), Some(at(198)));
        succession.voted(6, Some(at(160)), at(160));
        assert_eq!(succession.waits_until(READ, LONGEST, at(170)), Some(at(348)));
    }

    #[test]
    fn a_request_that_is_not_answered_yet_counts_as_accepted_now() {
        let start = clock::now();
        let at = |after| start + ms(after);
        let succession = Succession::new(None);
        assert_eq!(succession.accepted_age(9, at(10)), None);
        let request = succession.accepting(2);
        assert_eq!(succession.accepted_age(9, at(10)), Some(Duration::ZERO));
        // Its connection has ended, so its leader never hears of it.
        drop(request);
        assert_eq!(succession.accepted_age(9, at(10)), None);
        succession.accepting(2).accepted(at(20));
        assert_eq!(succession.accepted_age(9, at(50)), Some(ms(30)));
        // A late vote for a node that leads already: only earlier leaders count.
        succession.accepting(9).accepted(at(40));
        let _request = succession.accepting(9);
        assert_eq!(succession.accepted_age(9, at(50)), Some(ms(30)));
        assert_eq!(succession.accepted_age(10, at(50)), Some(Duration::ZERO));
    }

    #[test]
    fn after_a_transfer_there_is_nothing_to_wait_for() {
        let start = clock::now();
        let succession = Succession::new(None);
        succession.transferred(4);
        succession.voted(4, Some(start), start);
        assert_eq!(succession.waits_until(READ, LONGEST, start), None);
        succession.voted(5, Some(start), start);
        assert!(succession.waits_until(READ, LONGEST, start).is_some(), "it was another election");
    }
}
