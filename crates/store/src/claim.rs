//! Decides once for each write: either the store begins it, or its caller gives up.
//!
//! A store with a thread of its own calls [`Claim::take`] before it writes the first byte. The caller calls it when
//! [`WriteTime::begin`] has passed. The first call wins, so a caller that gives up knows that nothing was written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{ProposeError, WriteTime};
use maxine_state::Applied;

/// The result of a write.
pub(crate) type Outcome = Result<Vec<Applied>, ProposeError>;

/// The right to decide about one write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// `true` for the first caller.
    pub(crate) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Waits for the outcome. If the store did not begin the write in time, the caller gives up.
    pub(crate) async fn outcome(
        &self,
        mut answered: oneshot::Receiver<Outcome>,
        time: WriteTime,
    ) -> Outcome {
        match timeout(time.begin, &mut answered).await {
            Ok(Ok(outcome)) => return outcome,
            Err(_) | Ok(Err(_)) if self.take() => return Err(ProposeError::NotBegun),
            Ok(Err(_)) => return Err(ProposeError::OutcomeUnknown),
            Err(_) => {}
        }
        let left = time.end.saturating_sub(time.begin);
        match timeout(left, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn time(begin_ms: u64, end_ms: u64) -> WriteTime {
        let (begin, end) = (Duration::from_millis(begin_ms), Duration::from_millis(end_ms));
        WriteTime { begin, end }
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_did_not_begin_in_time_was_not_made_and_one_that_did_is_unknown() {
        let (answer, answered) = oneshot::channel();
        let claim = Claim::default();
        let given_up = claim.outcome(answered, time(100, 5_000)).await;
        assert_eq!(given_up, Err(ProposeError::NotBegun));
        assert_eq!(given_up.unwrap_err().outcome(), crate::WriteOutcome::NotDone);
        assert!(!claim.take(), "the store does not begin it any more");
        drop(answer);

        let (answer, answered) = oneshot::channel();
        let claim = Claim::default();
        assert!(claim.take(), "the store begins it");
        let waits = tokio::spawn({
            let claim = claim.clone();
            async move { claim.outcome(answered, time(100, 5_000)).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        answer.send(Ok(Vec::new())).unwrap();
        assert_eq!(waits.await.unwrap(), Ok(Vec::new()), "it is still waited for");

        let (_answer, answered) = oneshot::channel();
        let claim = Claim::default();
        assert!(claim.take());
        let unknown = claim.outcome(answered, time(100, 5_000)).await;
        assert_eq!(unknown, Err(ProposeError::OutcomeUnknown));
    }
}
