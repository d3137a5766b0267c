//! Snapshots of a running node: by the core's own count of entries, on request, and again after a failure.
//!
//! The state machine writes a snapshot when the core asks for one, and the core does not wait. This module has the core
//! ask again when the snapshot is written, so that the log is shortened, and after a failure.

use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::error::AdminError;
use crate::inner::{Inner, RaftNode};
use crate::storage::snapshot_attempts::SnapshotFailure;

/// How often progress is checked.
const POLL: Duration = Duration::from_millis(10);
/// How often the snapshots are checked.
const TICK: Duration = Duration::from_millis(100);
/// The core ignores a request while it waits for the answer to another one. So it is repeated after this time.
const ASK_AGAIN: Duration = Duration::from_millis(500);

impl RaftNode {
    /// Writes a snapshot of this node's state and returns its index. The log is shortened then, except for its newest
    /// entries. If it fails, nothing was changed.
    pub async fn snapshot(&self) -> Result<u64, AdminError> {
        snapshot_here(&self.inner).await
    }

    /// Why the last snapshot could not be written; `None` if it could. The node tries it again.
    #[must_use]
    pub fn snapshot_failure(&self) -> Option<SnapshotFailure> {
        self.inner.snapshots.attempts.failure()
    }
}

pub(crate) async fn snapshot_here(inner: &Inner) -> Result<u64, AdminError> {
    let Some(goal) = inner.with_metrics(|metrics| metrics.last_applied.as_ref().map(|id| id.index))
    else {
        return Err(AdminError::Refused(
            "nothing was applied yet, so there is nothing to write".to_owned(),
        ));
    };
    let deadline = clock::now()
        + Duration::from_millis(inner.config.request_timeout_ms).max(Duration::from_secs(60));
    let attempts = &inner.snapshots.attempts;
    let failed_before = attempts.failed_total();
    let mut asked_at = None;
    loop {
        if let Some(index) = index_of_core(inner)
            && index >= goal
        {
            return Ok(index);
        }
        if attempts.failed_total() > failed_before
            && let Some(failure) = attempts.failure()
        {
            return Err(match failure.is_no_space {
                true => AdminError::NoSpace(failure.reason),
                false => AdminError::Io(failure.reason),
            });
        }
        if inner.lifecycle.stop.is_cancelled() {
            return Err(AdminError::ShuttingDown);
        }
        if clock::now() > deadline {
            return Err(AdminError::OutcomeUnknown);
        }
        ask(inner, &mut asked_at).await?;
        tokio::time::sleep(POLL).await;
    }
}

/// The index of the newest snapshot that the core knows.
fn index_of_core(inner: &Inner) -> Option<u64> {
    inner.with_metrics(|metrics| metrics.snapshot.as_ref().map(|id| id.index))
}

async fn ask(inner: &Inner, asked_at: &mut Option<Instant>) -> Result<(), AdminError> {
    if asked_at.is_none_or(|at| clock::since(at) > ASK_AGAIN) {
        *asked_at = Some(clock::now());
        inner.raft.trigger().snapshot().await.map_err(|_| AdminError::ShuttingDown)?;
    }
    Ok(())
}

/// Has the core ask for each snapshot that was written, and for another attempt after one that failed. Runs until the
/// node stops.
pub(crate) async fn follow_snapshots(node: Weak<Inner>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asked_at = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(inner) = node.upgrade() else { return };
        let is_new = inner.snapshots.current_index() > index_of_core(&inner);
        if (is_new || inner.snapshots.attempts.is_due(clock::now()))
            && ask(&inner, &mut asked_at).await.is_err()
        {
            return;
        }
    }
}
