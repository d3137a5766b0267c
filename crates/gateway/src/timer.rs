//! The clock of the runtime's timers.

use tokio::time::Instant;

/// The present time for timers of the runtime.
#[allow(clippy::disallowed_methods, reason = "a deadline for tokio's timer, never shown or stored")]
pub(crate) fn timer_now() -> Instant {
    Instant::now()
}
