//! Reads the clocks of the machine. Nothing else does: all other code takes time as a parameter or asks a
//! [`Clock`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Maximum difference between the wall clocks of two nodes, in milliseconds.
pub const SKEW_MAX_MS: u64 = 5_000;
/// How far a wall clock that no other node can check may move from the monotonic clock before it counts as
/// wrong, in milliseconds. NTP corrects smaller steps.
const JUMP_MS: u64 = 3_600_000;
/// If a node seems to have been off for longer than this, in milliseconds, its clock may be wrong instead.
/// The node cannot decide which.
const OFF_MS: u64 = 24 * 3_600_000;

/// A monotonic clock for deadlines, and a wall clock for time stamps.
///
/// Clones are cheap. They share the time, and the result of the comparison with other nodes' clocks.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
    wall: Arc<WallClock>,
}

/// What is known about the wall clock. A part of it is read by every request, without a lock.
#[derive(Debug)]
struct WallClock {
    trust: Mutex<Trust>,
    /// The offset that a majority agrees on, or [`NOT_AGREED`] if it is unknown.
    agreed_offset_ms: AtomicI64,
}

const NOT_AGREED: i64 = i64::MIN;

impl WallClock {
    fn set(&self, trust: &mut Trust, now: Trust) {
        *trust = now;
        let agreed = match now {
            Trust::Agreed { offset_ms } => offset_ms,
            Trust::Alone { .. } | Trust::Unchecked { .. } => NOT_AGREED,
        };
        self.agreed_offset_ms.store(agreed, Ordering::Relaxed);
    }
}

/// How much the wall clock is trusted. Each variant has the last trusted offset from the monotonic clock.
#[derive(Clone, Copy, Debug)]
enum Trust {
    /// There are no other nodes to ask.
    Alone { offset_ms: i64 },
    /// The other nodes were not asked yet, or never agreed. `waited`: a write has waited for the comparison
    /// without success.
    Unchecked { offset_ms: i64, waited: bool },
    /// The clocks of a majority agree on the offset.
    Agreed { offset_ms: i64 },
}

impl Trust {
    fn offset_ms(self) -> i64 {
        let (Self::Alone { offset_ms }
        | Self::Unchecked { offset_ms, .. }
        | Self::Agreed { offset_ms }) = self;
        offset_ms
    }
}

#[derive(Clone, Debug)]
enum Source {
    System { origin: Instant, wall_offset_ms: Arc<AtomicI64> },
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clocks.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    pub fn system() -> Self {
        Self::system_with_wall_offset(Arc::default())
    }

    /// The machine's clocks, with a wall clock that is wrong by the present value of `wall_offset_ms`. For
    /// tests of a wall clock that jumps.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    pub fn system_with_wall_offset(wall_offset_ms: Arc<AtomicI64>) -> Self {
        Self::new(Source::System { origin: Instant::now(), wall_offset_ms })
    }

    /// A clock that only moves when [`Clock::advance`] is called. For tests.
    #[must_use]
    pub fn manual() -> Self {
        Self::new(Source::Manual(Arc::new(AtomicU64::new(0))))
    }

    fn new(source: Source) -> Self {
        let trust = Mutex::new(Trust::Alone { offset_ms: 0 });
        let wall = Arc::new(WallClock { trust, agreed_offset_ms: AtomicI64::new(NOT_AGREED) });
        let clock = Self { source, wall };
        clock.confirm();
        clock
    }

    /// The difference between the wall clock and the monotonic clock, in milliseconds.
    #[must_use]
    pub fn offset_ms(&self) -> i64 {
        signed(self.own_wall_ms()) - signed(self.monotonic_ms())
    }

    /// Declares that there are other nodes. This clock is not trusted until it has been compared with theirs.
    pub fn require_comparison(&self) {
        let offset_ms = self.offset_ms();
        self.wall.set(&mut self.wall.trust.lock(), Trust::Unchecked { offset_ms, waited: false });
    }

    /// Whether this node's clock may still have to be compared with others.
    #[must_use]
    pub fn is_unchecked(&self) -> bool {
        matches!(*self.wall.trust.lock(), Trust::Unchecked { .. })
    }

    /// Whether a write should wait for the comparison of the clocks. Once a write has waited without success,
    /// no other write waits.
    #[must_use]
    pub fn should_wait(&self) -> bool {
        matches!(*self.wall.trust.lock(), Trust::Unchecked { waited: false, .. })
    }

    /// Records that a write has waited for the comparison without success.
    pub fn note_waited(&self) {
        if let Trust::Unchecked { waited, .. } = &mut *self.wall.trust.lock() {
            *waited = true;
        }
    }

    /// Compares the clock with those of other nodes. `offsets` are the offsets of the voters that answered,
    /// without this node; `voters` is the number of all voters. Returns how far this node's clock is ahead of
    /// the time that a majority agrees on. Returns `None` if no majority agrees; the earlier agreement then
    /// stays in force.
    pub fn compare(&self, offsets: &[i64], voters: usize) -> Option<i64> {
        let own = self.offset_ms();
        let mut trust = self.wall.trust.lock();
        if voters <= 1 {
            let alone = Trust::Alone { offset_ms: trust.offset_ms() };
            self.wall.set(&mut trust, alone);
            return Some(0);
        }
        let mut all = offsets.to_vec();
        all.push(own);
        all.sort_unstable();
        let within = |from: usize| {
            let end = all.partition_point(|offset| *offset <= all[from] + signed(SKEW_MAX_MS));
            &all[from..end]
        };
        let largest = (0..all.len()).map(within).max_by_key(|group| group.len());
        let agreed = largest.filter(|group| group.len() > voters / 2)?;
        let offset_ms = agreed[agreed.len() / 2];
        self.wall.set(&mut trust, Trust::Agreed { offset_ms });
        Some(own - offset_ms)
    }

    /// Compares the clock with the time that the state had when this node was started. Only used if no other
    /// node can check the clock. If the clock says that the node was off for a long time, an operator has to
    /// confirm it.
    pub fn note_start(&self, state_time_ms: u64) {
        let mut trust = self.wall.trust.lock();
        if let Trust::Alone { offset_ms } | Trust::Unchecked { offset_ms, .. } = &mut *trust
            && state_time_ms > 0
            && self.own_wall_ms().abs_diff(state_time_ms) > OFF_MS
        {
            *offset_ms = signed(state_time_ms) - signed(self.monotonic_ms());
        }
    }

    /// Confirms, on behalf of an operator, that this node's wall clock is right.
    pub fn confirm(&self) {
        let offset_ms = self.offset_ms();
        let mut trust = self.wall.trust.lock();
        if !matches!(*trust, Trust::Agreed { .. }) {
            self.wall.set(&mut trust, Trust::Alone { offset_ms });
        }
    }

    /// The time for a proposal, in milliseconds since 1970. It is this node's wall clock if that agrees with
    /// the majority, or else the majority's time. While the time is unknown it is 0, which does not move the
    /// log's clock.
    #[must_use]
    pub fn proposal_ms(&self) -> u64 {
        let trust = *self.wall.trust.lock();
        match trust {
            Trust::Alone { .. } => self.own_wall_ms(),
            Trust::Unchecked { .. } => 0,
            Trust::Agreed { offset_ms } => self.agreed_ms(offset_ms),
        }
    }

    /// The time for deciding that records are old enough to drop, in milliseconds since 1970. `None` while no
    /// other clock, and no operator, confirms this node's clock.
    #[must_use]
    pub fn retention_ms(&self) -> Option<u64> {
        let trust = *self.wall.trust.lock();
        match trust {
            Trust::Alone { offset_ms } => {
                let leapt = self.offset_ms().abs_diff(offset_ms) > JUMP_MS;
                (!leapt).then(|| self.own_wall_ms())
            }
            Trust::Unchecked { .. } => None,
            Trust::Agreed { offset_ms } => Some(self.agreed_ms(offset_ms)),
        }
    }

    fn agreed_ms(&self, offset_ms: i64) -> u64 {
        let own_ms = self.own_wall_ms();
        let agreed_ms = self.monotonic_ms().saturating_add_signed(offset_ms);
        if own_ms.abs_diff(agreed_ms) <= SKEW_MAX_MS { own_ms } else { agreed_ms }
    }

    /// Milliseconds on the monotonic clock. It continues while the process is stopped.
    #[must_use]
    pub fn monotonic_ms(&self) -> u64 {
        self.monotonic_us() / 1_000
    }

    /// Microseconds on the monotonic clock.
    #[must_use]
    pub fn monotonic_us(&self) -> u64 {
        match &self.source {
            Source::System { origin, .. } => {
                u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX)
            }
            Source::Manual(now_us) => now_us.load(Ordering::SeqCst),
        }
    }

    /// The time for time stamps, in milliseconds since 1970. It is this node's own wall clock, unless a
    /// majority agrees on another time.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        match self.wall.agreed_offset_ms.load(Ordering::Relaxed) {
            NOT_AGREED => self.own_wall_ms(),
            offset_ms => self.agreed_ms(offset_ms),
        }
    }

    /// This node's own wall clock, right or wrong, in milliseconds since 1970. Only for comparing clocks.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    pub fn own_wall_ms(&self) -> u64 {
        match &self.source {
            Source::System { wall_offset_ms, .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                now_ms.saturating_add_signed(wall_offset_ms.load(Ordering::Relaxed))
            }
            Source::Manual(now_us) => 1_700_000_000_000 + now_us.load(Ordering::SeqCst) / 1_000,
        }
    }

    /// Moves a manual clock forward.
    ///
    /// # Panics
    ///
    /// Panics on a system clock.
    pub fn advance(&self, by: Duration) {
        match &self.source {
            Source::System { .. } => panic!("the system clock cannot be moved"),
            Source::Manual(now_us) => {
                let by_us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
                now_us.fetch_add(by_us, Ordering::SeqCst);
            }
        }
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAYS_31_MS: i64 = 31 * 24 * 3_600 * 1_000;

    fn skewed() -> (Clock, Arc<AtomicI64>) {
        let skew = Arc::new(AtomicI64::new(0));
        (Clock::system_with_wall_offset(Arc::clone(&skew)), skew)
    }

    fn is_near(left: u64, right: u64) -> bool {
        left.abs_diff(right) < 2_000
    }

    #[test]
    fn a_clock_that_leaps_does_not_reach_a_proposal() {
        let (clock, skew) = skewed();
        clock.require_comparison();
        assert_eq!(clock.proposal_ms(), 0, "not compared yet");
        assert_eq!(clock.retention_ms(), None);
        let true_ms = clock.wall_ms();
        let others = [clock.offset_ms(), clock.offset_ms()];
        assert!(clock.compare(&others, 3).unwrap().abs() < 1_000);
        assert!(is_near(clock.proposal_ms(), true_ms));
        // Between two comparisons, and after the next one.
        skew.store(DAYS_31_MS, Ordering::Relaxed);
        assert!(is_near(clock.proposal_ms(), true_ms));
        let ahead_ms = clock.compare(&others, 3).unwrap();
        assert!((ahead_ms - DAYS_31_MS).abs() < 1_000, "{ahead_ms}");
        assert!(is_near(clock.proposal_ms(), true_ms));
        assert!(is_near(clock.retention_ms().unwrap(), true_ms));
        // Tokens, keys, sessions, verdicts, alerts and traces have this time too.
        assert!(is_near(clock.wall_ms(), true_ms));
        assert!(is_near(clock.own_wall_ms(), true_ms + DAYS_31_MS as u64));
        // No node answers: the earlier agreement stays in force.
        assert_eq!(clock.compare(&[], 3), None);
        assert!(is_near(clock.proposal_ms(), true_ms));
        // The clocks of the majority are set to another time, and the cluster follows.
        let later = others.map(|offset| offset + DAYS_31_MS);
        assert!(clock.compare(&later, 3).unwrap().abs() < 1_000);
        assert!(is_near(clock.proposal_ms(), true_ms + DAYS_31_MS as u64));
    }

    #[test]
    fn a_node_that_starts_with_a_wrong_clock_takes_the_majoritys() {
        let (clock, skew) = skewed();
        clock.require_comparison();
        let others = [clock.offset_ms(), clock.offset_ms()];
        let true_ms = clock.wall_ms();
        skew.store(-DAYS_31_MS, Ordering::Relaxed);
        assert_eq!(clock.compare(&others[..1], 3), None, "one against one is no majority");
        assert_eq!(clock.proposal_ms(), 0);
        assert!(clock.compare(&others, 3).is_some());
        assert!(is_near(clock.proposal_ms(), true_ms));
    }

    #[test]
    fn a_clock_that_nobody_can_check_stamps_writes_but_ages_nothing_out_after_a_leap() {
        let (clock, skew) = skewed();
        assert!(clock.retention_ms().is_some());
        skew.store(DAYS_31_MS, Ordering::Relaxed);
        assert_eq!(clock.proposal_ms(), clock.wall_ms());
        assert_eq!(clock.retention_ms(), None);
        skew.store(0, Ordering::Relaxed);
        assert!(clock.retention_ms().is_some(), "it came back by itself");
        skew.store(DAYS_31_MS, Ordering::Relaxed);
        clock.confirm();
        assert!(clock.retention_ms().is_some(), "an operator says that it is right");
        // The node was off for a month, or its clock is wrong. It starts, and drops nothing for its age.
        let (clock, _) = skewed();
        clock.note_start(clock.wall_ms() - DAYS_31_MS as u64);
        assert_eq!(clock.retention_ms(), None);
        clock.confirm();
        assert!(clock.retention_ms().is_some());
        let (clock, _) = skewed();
        clock.note_start(clock.wall_ms() - 1_000);
        assert!(clock.retention_ms().is_some());
        // A node may learn only after its start that it is the only node of its cluster.
        let (clock, _) = skewed();
        clock.require_comparison();
        clock.note_start(clock.wall_ms() - DAYS_31_MS as u64);
        assert_eq!(clock.compare(&[], 1), Some(0));
        assert_eq!((clock.retention_ms(), clock.proposal_ms() > 0), (None, true));
    }
}
