//! Reads the machine's monotonic clock. Nothing else in this crate does.
//!
//! Other code takes an instant as a parameter or calls this module, so that lints can find where time enters.
//! This module never reads the wall clock.

use std::time::{Duration, Instant};

/// The present time, on a clock that never goes back.
#[allow(clippy::disallowed_methods, reason = "this module is where the clock is read")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time since `then`.
pub(crate) fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
