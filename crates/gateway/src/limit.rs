//! Rate limits and budgets. Each is a single atomic, so that a check is one compare-and-swap.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of counters of a limit per client. Clients whose hashes select the same slot share a counter.
const CLIENT_SLOTS: usize = 16_384;

/// A rate limit by the generic cell rate algorithm (ITU-T I.371). Its state is one point in time: the theoretical
/// arrival of the next request.
#[derive(Debug)]
pub(crate) struct Rate {
    /// In nanoseconds on the monotonic clock.
    next_ns: AtomicU64,
}

/// The rate and the burst of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateShape {
    /// Nanoseconds between two requests.
    pub(crate) interval_ns: u64,
    pub(crate) burst: u64,
}

impl RateShape {
    /// `rate` requests per second, of which `burst` may come at once.
    pub(crate) fn per_s(rate: u32, burst: u32) -> Self {
        // In whole microseconds, a rate of 600,000 would become one of 1,000,000.
        Self { interval_ns: 1_000_000_000 / u64::from(rate.max(1)), burst: u64::from(burst.max(1)) }
    }
}

impl Rate {
    pub(crate) const fn new() -> Self {
        Self { next_ns: AtomicU64::new(0) }
    }

    /// Counts one request. If it exceeds the limit, returns the time until one is allowed, in microseconds.
    pub(crate) fn take(&self, now_us: u64, shape: RateShape) -> Result<(), u64> {
        let now_ns = now_us.saturating_mul(1_000);
        let slack_ns = shape.interval_ns * (shape.burst - 1);
        let mut wait_ns = 0;
        let taken = self.next_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next_ns| {
            let next_ns = next_ns.max(now_ns);
            wait_ns = next_ns.saturating_sub(now_ns + slack_ns);
            (wait_ns == 0).then_some(next_ns + shape.interval_ns)
        });
        taken.map(|_| ()).map_err(|_| wait_ns.div_ceil(1_000))
    }
}

/// A rate limit per client, in a table of fixed size.
pub(crate) struct ClientRates {
    slots: Box<[Rate]>,
    hasher: RandomState,
}

impl ClientRates {
    pub(crate) fn new() -> Self {
        let slots = (0..CLIENT_SLOTS).map(|_| Rate::new()).collect();
        Self { slots, hasher: RandomState::new() }
    }

    pub(crate) fn take(&self, client: IpAddr, now_us: u64, shape: RateShape) -> Result<(), u64> {
        // The hash has a secret key, so that nobody can choose addresses that share a victim's counter.
        let hash = self.hasher.hash_one(client);
        let at = usize::try_from(hash % CLIENT_SLOTS as u64).unwrap_or(0);
        self.slots[at].take(now_us, shape)
    }
}

/// A budget for extra requests: a share of the ordinary requests, and at least a number per second.
#[derive(Debug)]
pub(crate) struct Budget {
    /// The credit, in hundredths of a request.
    credit: AtomicU64,
    floor: Rate,
}

/// Maximum credit, in hundredths of a request.
const CREDIT_MAX: u64 = 10_000;

impl Budget {
    pub(crate) const fn new() -> Self {
        Self { credit: AtomicU64::new(0), floor: Rate::new() }
    }

    /// Adds the share of one ordinary request: `percent` hundredths of a request.
    pub(crate) fn earn(&self, percent: u32) {
        // Concurrent additions may exceed the maximum by one share each, which does no harm.
        if self.credit.load(Ordering::Relaxed) < CREDIT_MAX {
            self.credit.fetch_add(u64::from(percent), Ordering::Relaxed);
        }
    }

    /// Takes one extra request, if the budget allows it. `floor_per_s` is the number that is always allowed per second.
    pub(crate) fn spend(&self, now_us: u64, floor_per_s: u32) -> bool {
        let paid = self
            .credit
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |credit| credit.checked_sub(100));
        if paid.is_ok() {
            return true;
        }
        floor_per_s > 0
            && self.floor.take(now_us, RateShape::per_s(floor_per_s, floor_per_s)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_its_burst_and_then_its_rate_through() {
        let (rate, shape) = (Rate::new(), RateShape::per_s(10, 3));
        let now_us = 5_000_000;
        for _ in 0..3 {
            assert_eq!(rate.take(now_us, shape), Ok(()));
        }
        assert_eq!(rate.take(now_us, shape), Err(100_000));
        assert_eq!(rate.take(now_us + 100_000, shape), Ok(()));
        assert!(rate.take(now_us + 100_000, shape).is_err());
    }

    #[test]
    fn a_high_rate_is_kept() {
        for rate in [300_000, 600_000, 999_999] {
            let (limit, shape) = (Rate::new(), RateShape::per_s(rate, 1_000));
            let passed =
                (0..=1_000_000).filter(|now_us| limit.take(*now_us, shape).is_ok()).count();
            let expected = rate as usize;
            assert!(passed.abs_diff(expected) < expected / 100 + 2_000, "{passed} of {rate}");
        }
    }

    #[test]
    fn retries_stay_within_their_share_and_floor() {
        let budget = Budget::new();
        assert!(!budget.spend(0, 0));
        (0..10).for_each(|_| budget.earn(20));
        assert!(budget.spend(0, 0) && budget.spend(0, 0) && !budget.spend(0, 0));
        let from_floor = (0..50).filter(|_| budget.spend(1, 10)).count();
        assert_eq!(from_floor, 10);
    }

    #[test]
    fn clients_are_counted_separately() {
        let rates = ClientRates::new();
        let shape = RateShape::per_s(1, 1);
        let refused = (1..=50_u8)
            .filter(|last| rates.take(IpAddr::from([10, 0, 0, *last]), 0, shape).is_err())
            .count();
        assert!(refused <= 2, "{refused} of 50 met in 16,384 slots");
        assert!(rates.take(IpAddr::from([10, 0, 0, 1]), 0, shape).is_err());
    }
}
