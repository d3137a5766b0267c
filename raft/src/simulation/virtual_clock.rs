//! The clock of a simulation: tokio's paused clock, which jumps to the next event.

use tokio::time::Instant;

/// The virtual present time.
#[allow(clippy::disallowed_methods, reason = "it is paused, and no clock of the machine")]
pub(super) fn now() -> Instant {
    Instant::now()
}
