//! Renewals of lock sessions. Like heartbeats, they renew the leader's lease table and never enter the log.

use std::time::Duration;

use super::{AGREE_MS, AGREE_PAUSE_MS, Registry, WriteError};
use maxine_control::leases::LeaseId;
use maxine_state::LockSessionId;
use maxine_store::Consistency;

/// How long a renewal of a session that this node does not know waits for what was acknowledged elsewhere.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);

impl Registry {
    /// An id for a new lock session.
    #[must_use]
    pub fn new_lock_session_id(&self) -> LockSessionId {
        LockSessionId::from_random(rand::random())
    }

    /// Renews a lock session. Returns whether it exists. A session without a time to live needs no renewal.
    ///
    /// If the leases and this node's view differ, one of them is slightly behind, and the renewal is repeated for a short
    /// time, as for heartbeats.
    ///
    /// # Errors
    ///
    /// Fails if the leader did not answer. The session may then have been renewed.
    pub async fn renew_lock_session(
        &self,
        id: LockSessionId,
        answer_by_ms: Option<u64>,
    ) -> Result<bool, WriteError> {
        let until_ms = self.clock.monotonic_ms() + AGREE_MS;
        let spec_ttl = || {
            self.view.with_snapshot(|snapshot| {
                snapshot.state.kv().session(id).map(|session| session.spec.ttl_ms)
            })
        };
        if spec_ttl().is_none() {
            // It may have been created through another node a moment ago. If nobody can confirm that, the leases decide.
            let _unconfirmed = self.store.barrier(Consistency::Strong, CATCH_UP_TIMEOUT).await;
        }
        loop {
            if spec_ttl() == Some(None) {
                return Ok(true);
            }
            let known = self.renew(vec![(LeaseId::of_session(id), 0)], answer_by_ms).await?;
            let known = known == [true];
            if known == spec_ttl().is_some() || self.clock.monotonic_ms() >= until_ms {
                return Ok(known);
            }
            tokio::time::sleep(Duration::from_millis(AGREE_PAUSE_MS)).await;
        }
    }
}
