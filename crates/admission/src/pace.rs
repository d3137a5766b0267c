//! Limits how often each user may do something: so many at once, then one in each interval.
//!
//! The state has a fixed size, however many users there are. It is a count-min sketch: each user has one cell in each of
//! a few rows, chosen by a keyed hash. A cell has the time at which everything that was taken is regained, and the
//! earliest of a user's times counts. Nothing is evicted, so a flood of other names frees nobody who is over the
//! limit. Users that share cells can only make each other wait sooner, and nobody can know which users share
//! cells.
//!
//! Each node counts for itself, so a user has three times as much in a cluster of three.

use std::hash::{BuildHasher, RandomState};

use parking_lot::Mutex;

/// Rows of the sketch. Two users share all their cells with a probability of one in 2^64.
const ROWS: usize = 4;
/// Cells of a row, one for each value of 16 bits of a hash. All rows together take 2 MiB once they are used.
const ROW_LEN: usize = 1 << 16;

/// Counts what each user does. Times are in milliseconds on the monotonic clock.
#[derive(Debug)]
pub struct Pace {
    burst_ms: u64,
    interval_ms: u64,
    hasher: RandomState,
    /// When the cell is full again.
    full_at_ms: Mutex<Box<[u64]>>,
}

impl Pace {
    /// Each user may do `at_once` things at once, and regains one in each interval.
    #[must_use]
    pub fn new(at_once: u32, interval_ms: u64) -> Self {
        let interval_ms = interval_ms.max(1);
        Self {
            burst_ms: u64::from(at_once.max(1)).saturating_mul(interval_ms),
            interval_ms,
            hasher: RandomState::new(),
            full_at_ms: Mutex::new(vec![0; ROWS * ROW_LEN].into_boxed_slice()),
        }
    }

    /// Counts one for a user, before it is done, so that concurrent ones count too.
    ///
    /// # Errors
    ///
    /// The user may do nothing now. The value is the number of seconds until one is possible. Nothing was counted.
    pub fn take(&self, user: &str, now_ms: u64) -> Result<(), u64> {
        let cells = self.cells(user);
        let mut full_at_ms = self.full_at_ms.lock();
        let earliest_ms = cells.iter().map(|cell| full_at_ms[*cell].max(now_ms)).min();
        let after_ms = earliest_ms.unwrap_or(now_ms).saturating_add(self.interval_ms);
        let over_ms = after_ms.saturating_sub(now_ms.saturating_add(self.burst_ms));
        if over_ms > 0 {
            return Err(over_ms.div_ceil(1_000));
        }
        for cell in cells {
            full_at_ms[cell] = full_at_ms[cell].max(now_ms).saturating_add(self.interval_ms);
        }
        Ok(())
    }

    /// Takes back one that was not done.
    pub fn take_back(&self, user: &str) {
        let mut full_at_ms = self.full_at_ms.lock();
        for cell in self.cells(user) {
            full_at_ms[cell] = full_at_ms[cell].saturating_sub(self.interval_ms);
        }
    }

    /// The cells of a user, one in each row.
    fn cells(&self, user: &str) -> [usize; ROWS] {
        let hash = self.hasher.hash_one(user);
        std::array::from_fn(|row| row * ROW_LEN + (hash >> (16 * row)) as usize % ROW_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many a user may do from a time on, with one try in each of so many seconds.
    fn done(pace: &Pace, user: &str, from_ms: u64, seconds: u64) -> usize {
        (0..seconds).filter(|s| pace.take(user, from_ms + s * 1_000).is_ok()).count()
    }

    #[test]
    fn a_user_may_do_so_many_at_once_and_then_one_in_each_interval() {
        let pace = Pace::new(3, 10_000);
        for _ in 0..3 {
            assert_eq!(pace.take("ada", 5_000), Ok(()));
        }
        assert_eq!(pace.take("ada", 5_000), Err(10));
        assert_eq!(pace.take("ada", 14_999), Err(1));
        assert_eq!(pace.take("bob", 5_000), Ok(()), "another user has an allowance of their own");
        assert_eq!(pace.take("ada", 15_000), Ok(()));
        assert_eq!(pace.take("ada", 15_000), Err(10));
        // After a long pause it is so many again, and not more.
        assert_eq!(done(&pace, "ada", 1_000_000, 3), 3);
        assert_eq!(pace.take("ada", 1_003_000), Err(7));
    }

    #[test]
    fn what_was_not_done_counts_for_nothing() {
        let pace = Pace::new(2, 60_000);
        for _ in 0..50 {
            assert_eq!(pace.take("ada", 1_000), Ok(()));
            pace.take_back("ada");
        }
        assert_eq!((pace.take("ada", 1_000), pace.take("ada", 1_000)), (Ok(()), Ok(())));
        assert_eq!(pace.take("ada", 1_000), Err(60));
    }

    #[test]
    fn no_flood_of_other_names_frees_a_user_who_is_over_the_limit() {
        let pace = Pace::new(10, 3_600_000);
        let mut admitted = 0;
        for round in 0..30_u64 {
            for _ in 0..12 {
                admitted += u32::from(pace.take("mallory", round * 1_000).is_ok());
            }
            for n in 0..2_000 {
                let _ = pace.take(&format!("{round}-{n}"), round * 1_000);
            }
        }
        assert_eq!(admitted, 10);
    }

    /// Regression: accepted changes of one's own password were not limited, and their records pushed out those of others.
    #[test]
    fn five_at_once_and_one_in_twelve_minutes_are_at_most_ten_in_any_hour() {
        const HOUR_S: u64 = 3_600;
        let pace = Pace::new(5, 720_000);
        let times: Vec<u64> =
            (0..5 * HOUR_S).filter(|s| pace.take("ada", s * 1_000).is_ok()).collect();
        let within =
            |from: u64| times.iter().filter(|at| (from..from + HOUR_S).contains(*at)).count();
        assert!((0..4 * HOUR_S).all(|from| within(from) <= 10));
        assert_eq!(within(0), 9);
    }
}
