//! The one place that reads the machine's monotonic clock.
//!
//! Everything else takes an instant as a parameter or asks here, so that tests and lints can tell
//! where time enters. It must never read the wall clock.

use std::time::{Duration, Instant};

/// The present, on a clock that never goes back.
#[allow(clippy::disallowed_methods, reason = "this module is where the clock is read")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long ago `then` was.
pub(crate) fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
