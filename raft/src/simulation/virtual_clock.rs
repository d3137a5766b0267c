//! The one clock of a simulation: tokio's, which stands still and jumps to the next thing that is due.

use tokio::time::Instant;

/// The virtual present.
#[allow(clippy::disallowed_methods, reason = "it is paused, and no clock of the machine")]
pub(super) fn now() -> Instant {
    Instant::now()
}
