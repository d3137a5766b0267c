//! The leader's duty to drop audit records that are older than their retention.
//!
//! It uses a time on which the clocks of a majority agree. If there is no other node to ask, and the clock
//! jumped, or says that the node was off for a day, nothing is dropped until an operator confirms the clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use maxine_actors::{Registry, WriteRequest};
use maxine_clock::Clock;
use maxine_state::{Actor, Command, Fence};
use maxine_telemetry::{AlertKind, Notice, Telemetry};
use maxine_view::View;

/// Interval between two checks.
const PAUSE: Duration = Duration::from_secs(10);

/// Runs until dropped.
pub(super) async fn run(
    registry: Registry,
    view: Arc<View>,
    clock: Clock,
    duties: watch::Receiver<Option<Fence>>,
    telemetry: Telemetry,
) {
    const AUDIT: &str = "audit";
    loop {
        let now_ms = clock.retention_ms();
        if now_ms.is_none() && !clock.is_unchecked() {
            let message = "this node's clock leapt, or the node was off for more than a day, and there is no other \
                           node to ask: no audit record is dropped for its age until an operator confirms that the \
                           clock is right (maxine audit confirm-clock)";
            telemetry.raise(Notice::new(AlertKind::RetentionWaits, AUDIT, message));
        } else {
            telemetry.clear(AlertKind::RetentionWaits, AUDIT);
        }
        let fence = *duties.borrow();
        if let (Some(now_ms), Some(fence)) = (now_ms, fence)
            && view.snapshot().state.audit().has_expired(now_ms)
        {
            let request = WriteRequest {
                actor: Actor::system("retention"),
                request_id: None,
                fence: Some(fence),
                answer_by_ms: None,
                command: Command::ExpireAudit { now_ms },
            };
            if let Err(error) = registry.propose(request).await {
                tracing::warn!(%error, "old audit records could not be removed yet");
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
