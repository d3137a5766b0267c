//! What became of each attempt of one request, for whoever shows it.

use std::sync::Arc;

use http::StatusCode;

use maxine_state::Instance;

/// More attempts of one request than this are not kept one by one.
const KEPT_MAX: usize = 8;

/// One attempt.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    /// The instance that was asked.
    pub instance: Arc<Instance>,
    /// When it was asked, on the monotonic clock, in microseconds.
    pub started_us: u64,
    /// Until the answer's head, or until it was given up, in microseconds.
    pub duration_us: u64,
    /// What came of it.
    pub outcome: AttemptOutcome,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The instance answered.
    Answered(StatusCode),
    /// It did not; the code says why (`ProxyError::code` of the gateway).
    Failed(&'static str),
    /// The other instance that was asked as well was first.
    LostHedge,
}

/// The attempts of one request, as they ended. The usual single one needs no memory of its own.
#[derive(Clone, Debug, Default)]
pub enum AttemptTrail {
    /// None was made.
    #[default]
    Empty,
    /// One.
    One(AttemptRecord),
    /// Several, at most eight.
    More(Vec<AttemptRecord>),
}

impl AttemptTrail {
    /// Adds one. Of more than are kept, the first ones stay and the last one.
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

    /// Whether none was made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// All that are kept.
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
