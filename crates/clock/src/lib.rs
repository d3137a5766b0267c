//! The only place that reads a clock. Everything else takes time as a parameter or asks a [`Clock`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// How far the wall clocks of two nodes may be apart, in milliseconds.
pub const SKEW_MAX_MS: u64 = 5_000;
/// A wall clock that nobody can check has leapt when it moved so far from the monotonic one, in
/// milliseconds. Smaller steps are the business of NTP.
const LEAP_MS: u64 = 3_600_000;
/// A node that was off for longer than this, or whose clock says so, in milliseconds: it cannot tell
/// which of the two it is.
const OFF_MS: u64 = 24 * 3_600_000;

/// Two clocks in one: a monotonic one for deadlines and a wall clock for stamps.
///
/// Cloning is cheap, and clones share their time and what others' clocks said of it.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
    believed: Arc<Believed>,
}

/// What is known of the wall clock, and a part of it that every request reads without a lock.
#[derive(Debug)]
struct Believed {
    trust: Mutex<Trust>,
    /// The offset that a majority agrees on; [`NOT_AGREED`] while it is not known.
    agreed_offset_ms: AtomicI64,
}

const NOT_AGREED: i64 = i64::MIN;

impl Believed {
    fn set(&self, trust: &mut Trust, now: Trust) {
        *trust = now;
        let agreed = match now {
            Trust::Agreed { offset_ms } => offset_ms,
            Trust::Alone { .. } | Trust::Unchecked { .. } => NOT_AGREED,
        };
        self.agreed_offset_ms.store(agreed, Ordering::Relaxed);
    }
}

/// What is known of the wall clock, with the offset of the last time that was believed from the monotonic
/// clock.
#[derive(Clone, Copy, Debug)]
enum Trust {
    /// There is nobody to ask.
    Alone { offset_ms: i64 },
    /// The others were not asked yet, or never agreed. `waited`: a write has waited for it in vain.
    Unchecked { offset_ms: i64, waited: bool },
    /// A majority's clocks agree on it.
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

    /// The machine's clocks, with a wall clock that is off by what `wall_offset_ms` says at the
    /// moment: for tests of a wall clock that jumps.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    pub fn system_with_wall_offset(wall_offset_ms: Arc<AtomicI64>) -> Self {
        Self::new(Source::System { origin: Instant::now(), wall_offset_ms })
    }

    /// A clock that stands still until [`Clock::advance`] moves it; for tests.
    #[must_use]
    pub fn manual() -> Self {
        Self::new(Source::Manual(Arc::new(AtomicU64::new(0))))
    }

    fn new(source: Source) -> Self {
        let trust = Mutex::new(Trust::Alone { offset_ms: 0 });
        let believed = Arc::new(Believed { trust, agreed_offset_ms: AtomicI64::new(NOT_AGREED) });
        let clock = Self { source, believed };
        clock.confirm();
        clock
    }

    /// How far the wall clock is from the monotonic one, in milliseconds.
    #[must_use]
    pub fn offset_ms(&self) -> i64 {
        signed(self.own_wall_ms()) - signed(self.monotonic_ms())
    }

    /// Says that there are other nodes, whose clocks must be compared before this one's is believed.
    pub fn ask_others(&self) {
        let offset_ms = self.offset_ms();
        self.believed
            .set(&mut self.believed.trust.lock(), Trust::Unchecked { offset_ms, waited: false });
    }

    /// Whether this node's clock may still have to be compared with others.
    #[must_use]
    pub fn is_unchecked(&self) -> bool {
        matches!(*self.believed.trust.lock(), Trust::Unchecked { .. })
    }

    /// Whether a write should wait until the clock is compared. Once one has waited in vain, no other does.
    #[must_use]
    pub fn is_worth_waiting_for(&self) -> bool {
        matches!(*self.believed.trust.lock(), Trust::Unchecked { waited: false, .. })
    }

    /// Says that a write has waited in vain for the clock to be compared.
    pub fn note_waited(&self) {
        if let Trust::Unchecked { waited, .. } = &mut *self.believed.trust.lock() {
            *waited = true;
        }
    }

    /// Compares the clock with others': `offsets` are those of the voters that answered, without this node,
    /// of `voters` in all. Answers how far this node's is ahead of what a majority agrees on; `None` while no
    /// majority does, and then what was agreed on before goes on.
    pub fn compare(&self, offsets: &[i64], voters: usize) -> Option<i64> {
        let own = self.offset_ms();
        let mut trust = self.believed.trust.lock();
        if voters <= 1 {
            let alone = Trust::Alone { offset_ms: trust.offset_ms() };
            self.believed.set(&mut trust, alone);
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
        self.believed.set(&mut trust, Trust::Agreed { offset_ms });
        Some(own - offset_ms)
    }

    /// Tells a clock that nobody can check the time that the state had when this node was started: if the
    /// clock says that the node was off for long, only an operator can know whether it was.
    pub fn note_start(&self, state_time_ms: u64) {
        let mut trust = self.believed.trust.lock();
        if let Trust::Alone { offset_ms } | Trust::Unchecked { offset_ms, .. } = &mut *trust
            && state_time_ms > 0
            && self.own_wall_ms().abs_diff(state_time_ms) > OFF_MS
        {
            *offset_ms = signed(state_time_ms) - signed(self.monotonic_ms());
        }
    }

    /// An operator says that this node's wall clock is right.
    pub fn confirm(&self) {
        let offset_ms = self.offset_ms();
        let mut trust = self.believed.trust.lock();
        if !matches!(*trust, Trust::Agreed { .. }) {
            self.believed.set(&mut trust, Trust::Alone { offset_ms });
        }
    }

    /// The time that a proposal carries, in milliseconds since 1970: this node's wall clock if it agrees with
    /// the majority's, else what the majority's says; 0, which moves no other clock, while that is not known.
    #[must_use]
    pub fn proposal_ms(&self) -> u64 {
        let trust = *self.believed.trust.lock();
        match trust {
            Trust::Alone { .. } => self.own_wall_ms(),
            Trust::Unchecked { .. } => 0,
            Trust::Agreed { offset_ms } => self.agreed_ms(offset_ms),
        }
    }

    /// The time by which records may be dropped for their age, in milliseconds since 1970; `None` while nobody
    /// but this node's own clock vouches for it.
    #[must_use]
    pub fn retention_ms(&self) -> Option<u64> {
        let trust = *self.believed.trust.lock();
        match trust {
            Trust::Alone { offset_ms } => {
                let leapt = self.offset_ms().abs_diff(offset_ms) > LEAP_MS;
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

    /// Milliseconds on the monotonic clock; it goes on while the process is stopped.
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

    /// Milliseconds since 1970: what this node stamps things with, and compares stamps with. It is this node's own wall
    /// clock, unless a majority's clocks agree on another time; then it is theirs.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        match self.believed.agreed_offset_ms.load(Ordering::Relaxed) {
            NOT_AGREED => self.own_wall_ms(),
            offset_ms => self.agreed_ms(offset_ms),
        }
    }

    /// What this node's own wall clock says, right or wrong, in milliseconds since 1970: for comparing clocks only.
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

    /// Moves a manual clock on.
    ///
    /// # Panics
    /// On a system clock, which nobody can move.
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
        clock.ask_others();
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
        // Tokens, keys, sessions, verdicts, alerts and traces carry it, too.
        assert!(is_near(clock.wall_ms(), true_ms));
        assert!(is_near(clock.own_wall_ms(), true_ms + DAYS_31_MS as u64));
        // Nobody answers: what was agreed on goes on.
        assert_eq!(clock.compare(&[], 3), None);
        assert!(is_near(clock.proposal_ms(), true_ms));
        // The majority's clocks are set: the cluster follows.
        let later = others.map(|offset| offset + DAYS_31_MS);
        assert!(clock.compare(&later, 3).unwrap().abs() < 1_000);
        assert!(is_near(clock.proposal_ms(), true_ms + DAYS_31_MS as u64));
    }

    #[test]
    fn a_node_that_starts_with_a_wrong_clock_takes_the_majoritys() {
        let (clock, skew) = skewed();
        clock.ask_others();
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
        // It was off for a month, or its clock is wrong: it starts, and ages nothing out.
        let (clock, _) = skewed();
        clock.note_start(clock.wall_ms() - DAYS_31_MS as u64);
        assert_eq!(clock.retention_ms(), None);
        clock.confirm();
        assert!(clock.retention_ms().is_some());
        let (clock, _) = skewed();
        clock.note_start(clock.wall_ms() - 1_000);
        assert!(clock.retention_ms().is_some());
        // A cluster of one learns only later that it is one.
        let (clock, _) = skewed();
        clock.ask_others();
        clock.note_start(clock.wall_ms() - DAYS_31_MS as u64);
        assert_eq!(clock.compare(&[], 1), Some(0));
        assert_eq!((clock.retention_ms(), clock.proposal_ms() > 0), (None, true));
    }
}
