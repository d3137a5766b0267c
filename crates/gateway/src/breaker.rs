//! The circuit breaker, as a pure function of counts and time.
//!
//! A closed breaker lets all requests through, and an open one lets none through. A half-open one lets a few trial
//! requests through, and their answers decide. Source: Nygard, Release It!, 2007.

use super::counts::Counts;
use maxine_state::CircuitBreakerPolicy;

/// Which requests the breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// All requests.
    Open,
    /// This many trial requests.
    Trials(u32),
    /// No request.
    Closed,
}

/// A breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { window_from_ms: u64, from: Counts },
    Open { until_ms: u64 },
    HalfOpen { since_ms: u64, from: Counts },
}

/// The breaker of one instance on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Breaker(State);

impl Default for Breaker {
    fn default() -> Self {
        Self(State::Closed { window_from_ms: 0, from: Counts::default() })
    }
}

impl Breaker {
    /// Decides by the counts. Returns the new gate if it must change.
    pub(crate) fn tick(
        &mut self,
        counts: Counts,
        now_ms: u64,
        policy: &CircuitBreakerPolicy,
    ) -> Option<Gate> {
        match self.0 {
            State::Closed { window_from_ms, from } => {
                if Self::trips(counts, from, policy) {
                    return self.open(now_ms, policy);
                }
                if now_ms.saturating_sub(window_from_ms) >= policy.window_ms {
                    self.0 = State::Closed { window_from_ms: now_ms, from: counts };
                }
                None
            }
            State::Open { until_ms } if now_ms >= until_ms => {
                self.0 = State::HalfOpen { since_ms: now_ms, from: counts };
                Some(Gate::Trials(policy.trial_requests))
            }
            State::Open { .. } => None,
            State::HalfOpen { since_ms, from } => {
                if counts.bad > from.bad {
                    return self.open(now_ms, policy);
                }
                if counts.good - from.good >= u64::from(policy.trial_requests) {
                    self.0 = State::Closed { window_from_ms: now_ms, from: counts };
                    return Some(Gate::Open);
                }
                // Trial requests that never end must not keep the breaker half-open forever.
                if now_ms.saturating_sub(since_ms) >= policy.open_ms {
                    self.0 = State::HalfOpen { since_ms: now_ms, from: counts };
                    return Some(Gate::Trials(policy.trial_requests));
                }
                None
            }
        }
    }

    fn trips(counts: Counts, from: Counts, policy: &CircuitBreakerPolicy) -> bool {
        let in_a_row = policy.consecutive_failures;
        // At least one of these failures must have been counted in the present window, which also begins when the
        // breaker closes.
        if in_a_row != 0 && counts.bad_in_a_row >= in_a_row && counts.bad > from.bad {
            return true;
        }
        let (good, bad) = (counts.good - from.good, counts.bad - from.bad);
        good + bad >= policy.requests_min
            && bad * 100 >= (good + bad) * u64::from(policy.failure_percent)
    }

    fn open(&mut self, now_ms: u64, policy: &CircuitBreakerPolicy) -> Option<Gate> {
        self.0 = State::Open { until_ms: now_ms + policy.open_ms };
        Some(Gate::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(good: u64, bad: u64, bad_in_a_row: u32) -> Counts {
        Counts { good, bad, bad_in_a_row, latency_us_sum: 0 }
    }

    #[test]
    fn a_breaker_opens_waits_tries_and_closes() {
        let policy = CircuitBreakerPolicy { trial_requests: 2, ..Default::default() };
        let mut breaker = Breaker::default();
        assert_eq!(breaker.tick(counts(10, 4, 4), 0, &policy), None);
        assert_eq!(breaker.tick(counts(10, 5, 5), 1, &policy), Some(Gate::Closed));
        assert_eq!(breaker.tick(counts(10, 5, 5), 5_000, &policy), None);
        assert_eq!(breaker.tick(counts(10, 5, 5), 5_001, &policy), Some(Gate::Trials(2)));
        assert_eq!(breaker.tick(counts(11, 5, 0), 5_002, &policy), None);
        assert_eq!(breaker.tick(counts(12, 5, 0), 5_003, &policy), Some(Gate::Open));
    }

    #[test]
    fn a_failed_trial_opens_the_breaker_again() {
        let policy = CircuitBreakerPolicy::default();
        let mut breaker = Breaker::default();
        breaker.tick(counts(0, 5, 5), 0, &policy);
        breaker.tick(counts(0, 5, 5), 5_000, &policy);
        assert_eq!(breaker.tick(counts(0, 6, 6), 5_001, &policy), Some(Gate::Closed));
        assert_eq!(breaker.tick(counts(0, 6, 6), 10_001, &policy), Some(Gate::Trials(3)));
        assert_eq!(breaker.tick(counts(1, 6, 0), 10_002, &policy), None);
        assert_eq!(breaker.tick(counts(1, 6, 0), 15_001, &policy), Some(Gate::Trials(3)));
    }

    #[test]
    fn a_share_of_failures_opens_the_breaker_only_within_one_window() {
        let policy = CircuitBreakerPolicy {
            consecutive_failures: 0,
            window_ms: 1_000,
            ..Default::default()
        };
        let mut breaker = Breaker::default();
        assert_eq!(breaker.tick(counts(10, 9, 1), 0, &policy), None);
        assert_eq!(breaker.tick(counts(10, 9, 1), 1_000, &policy), None, "a new window begins");
        assert_eq!(breaker.tick(counts(10, 19, 10), 1_500, &policy), None);
        assert_eq!(breaker.tick(counts(20, 19, 0), 1_600, &policy), Some(Gate::Closed));
    }
}
