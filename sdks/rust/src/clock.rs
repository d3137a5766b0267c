//! Reads the clock. Nothing else in this crate does.
#![allow(clippy::disallowed_methods, reason = "this module reads the clock for all others")]

use tokio::time::Instant;

/// The present time, for deadlines and durations.
pub(crate) fn now() -> Instant {
    Instant::now()
}
