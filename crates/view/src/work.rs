//! Records of what this node does apart from answering requests, for its traces.
//!
//! Until somebody takes the records, work is not noted: no clock is read and nothing is allocated.

use std::fmt;
use std::sync::OnceLock;

use maxine_clock::Clock;

/// A kind of work that a node does apart from answering requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkKind {
    /// This node became leader. It begins with the loss of the former leader, as far as this node noticed it, and ends
    /// with the grant.
    Election,
    /// A snapshot of the state was written.
    SnapshotWritten,
    /// The state was replaced by a snapshot.
    SnapshotInstalled,
    /// Leases that had run out were removed.
    Expiry,
    /// Verdicts on the health of instances changed.
    Verdicts,
    /// A backup was taken.
    Backup,
}

impl WorkKind {
    /// The name of its span.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Election => "election",
            Self::SnapshotWritten => "write snapshot",
            Self::SnapshotInstalled => "install snapshot",
            Self::Expiry => "expire leases",
            Self::Verdicts => "change health verdicts",
            Self::Backup => "backup",
        }
    }
}

/// A value that describes work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkFact {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl From<u64> for WorkFact {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<String> for WorkFact {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// The outcome of work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkOutcome {
    /// The index of the state that it led to, or that it is about.
    pub index: Option<u64>,
    /// Why it was not done, or may not have been. `None` if it was done.
    pub error: Option<String>,
    /// What else describes it, by the name of the attribute.
    pub facts: Vec<(&'static str, WorkFact)>,
}

/// Work that has ended, with its times in microseconds on the monotonic clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// What was done.
    pub kind: WorkKind,
    /// When it began.
    pub began_us: u64,
    /// When it ended.
    pub ended_us: u64,
    /// The trace parent of the request that asked for it; `None` if no request did.
    pub asked_by: Option<Box<str>>,
    /// The work may have written an entry to the log. These are the times at which this node began to apply that entry,
    /// and published its result, in microseconds on the monotonic clock. `None` without an entry, or if the times are
    /// no longer known.
    pub applied_us: Option<(u64, u64)>,
    /// The outcome.
    pub outcome: WorkOutcome,
}

/// Work that has begun, and is noted when it ends. Dropping it notes nothing.
#[derive(Debug)]
pub struct Working {
    kind: WorkKind,
    began_us: u64,
    asked_by: Option<Box<str>>,
}

impl Working {
    /// The same work, which began this much earlier.
    #[must_use]
    pub fn earlier_by_ms(self, ms: u64) -> Self {
        Self { began_us: self.began_us.saturating_sub(ms.saturating_mul(1_000)), ..self }
    }

    /// The same work, for which the request with this trace parent asked.
    #[must_use]
    pub fn asked_by(self, traceparent: &str) -> Self {
        Self { asked_by: Some(traceparent.into()), ..self }
    }
}

type Sink = dyn Fn(Work) + Send + Sync;

/// Passes records on to whoever takes them.
#[derive(Default)]
pub(super) struct WorkLog(OnceLock<Box<Sink>>);

impl fmt::Debug for WorkLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WorkLog").field(&self.0.get().is_some()).finish()
    }
}

impl WorkLog {
    pub(super) fn take(&self, sink: impl Fn(Work) + Send + Sync + 'static) {
        let _already_taken = self.0.set(Box::new(sink));
    }

    pub(super) fn begin(&self, kind: WorkKind, clock: &Clock) -> Option<Working> {
        self.0.get()?;
        Some(Working { kind, began_us: clock.monotonic_us(), asked_by: None })
    }

    pub(super) fn end(
        &self,
        working: Option<Working>,
        clock: &Clock,
        outcome: impl FnOnce() -> WorkOutcome,
        applied_at: impl FnOnce(u64) -> Option<(u64, u64)>,
    ) {
        let (Some(Working { kind, began_us, asked_by }), Some(sink)) = (working, self.0.get())
        else {
            return;
        };
        let outcome = outcome();
        // An index that was reached before the work began is one that the work is about.
        let is_own = |(applying_us, _): &(u64, u64)| *applying_us >= began_us;
        let applied_us = outcome.index.and_then(applied_at).filter(is_own);
        let ended_us = clock.monotonic_us();
        sink(Work { kind, began_us, ended_us, asked_by, applied_us, outcome });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn work_is_noted_with_its_times_once_somebody_takes_the_records() {
        let (log, clock) = (WorkLog::default(), Clock::manual());
        clock.advance(Duration::from_secs(5));
        assert!(log.begin(WorkKind::Backup, &clock).is_none());
        log.end(None, &clock, || unreachable!("nobody asks for the outcome"), |_| None);
        let taken = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&taken);
        log.take(move |work| sink.lock().push(work));
        log.take(|_| unreachable!("only the first one takes records"));
        let working = log.begin(WorkKind::Election, &clock).map(|w| w.earlier_by_ms(2_000));
        clock.advance(Duration::from_secs(1));
        let outcome = WorkOutcome { index: Some(7), ..WorkOutcome::default() };
        log.end(working, &clock, || outcome.clone(), |_| Some((3_500_000, 3_600_000)));
        let working = log.begin(WorkKind::Backup, &clock).map(|w| w.asked_by("00-a-b-01"));
        log.end(working, &clock, || outcome.clone(), |_| Some((3_500_000, 3_600_000)));
        let taken = taken.lock();
        let [election, backup] = &taken[..] else { panic!("two records: {taken:?}") };
        assert_eq!((election.began_us, election.ended_us), (3_000_000, 6_000_000));
        assert_eq!(election.applied_us, Some((3_500_000, 3_600_000)));
        assert_eq!((backup.began_us, backup.applied_us), (6_000_000, None));
        assert_eq!(backup.asked_by.as_deref(), Some("00-a-b-01"));
        assert_eq!(backup.outcome, outcome);
    }
}
