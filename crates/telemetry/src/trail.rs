//! The attempts of one request and their outcomes.

use std::sync::Arc;

use http::StatusCode;

use maxine_state::Instance;

/// Maximum number of attempts of one request that are kept individually.
const KEPT_MAX: usize = 8;

/// One attempt.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its number among the attempts that were begun, from 1.
    pub number: u32,
    /// When the choice of the instance began, in microseconds on the monotonic clock.
    pub choosing_us: u64,
    /// When the attempt began, in microseconds on the monotonic clock.
    pub started_us: u64,
    /// Time until the head of the answer, or until the attempt was given up, in microseconds.
    pub duration_us: u64,
    /// The outcome.
    pub outcome: AttemptOutcome,
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The instance answered.
    Answered(StatusCode),
    /// The instance did not answer. The code says why (`ProxyError::code` of the gateway).
    Failed(&'static str),
    /// The other instance of a hedged request answered first.
    LostHedge,
}

/// The attempts of one request, in the order in which they ended. A single attempt needs no allocation.
#[derive(Clone, Debug, Default)]
pub enum AttemptTrail {
    /// There was no attempt.
    #[default]
    Empty,
    /// One attempt.
    One(AttemptRecord),
    /// Several attempts, at most eight.
    More(Vec<AttemptRecord>),
}

impl AttemptTrail {
    /// Adds an attempt. If there are too many, the first ones and the last one are kept.
    pub fn push(&mut self, record: AttemptRecord) {
        match self {
            Self::Empty => *self = Self::One(record),
            Self::One(_) => {
                if let Self::One(first) = std::mem::take(self) {
                    *self = Self::More(vec![first, record]);
                }
            }
            Self::More(records) => {
                records.truncate(KEPT_MAX - 1);
                records.push(record);
            }
        }
    }

    /// Whether there was no attempt.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// All attempts that were kept.
    #[must_use]
    pub fn as_slice(&self) -> &[AttemptRecord] {
        match self {
            Self::Empty => &[],
            Self::One(record) => std::slice::from_ref(record),
            Self::More(records) => records,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{Address, Name, Registration};

    #[test]
    fn the_first_and_the_last_attempts_are_kept() {
        let address = Address::parse("http://h:1").unwrap();
        let registration = Registration::new(Name::trusted("a"), address, 1_000);
        let instance = Arc::new(Instance::new(registration, 1, 0));
        let mut trail = AttemptTrail::default();
        assert!(trail.is_empty() && trail.as_slice().is_empty());
        for n in 1..=30 {
            trail.push(AttemptRecord {
                instance: Arc::clone(&instance),
                number: 1,
                choosing_us: n,
                started_us: n,
                duration_us: 1,
                outcome: AttemptOutcome::Failed("connect_failed"),
            });
            assert_eq!(trail.as_slice().len() as u64, n.min(8));
        }
        let starts: Vec<u64> = trail.as_slice().iter().map(|a| a.started_us).collect();
        assert_eq!(starts, [1, 2, 3, 4, 5, 6, 7, 30]);
    }
}
