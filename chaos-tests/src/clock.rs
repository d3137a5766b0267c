//! Reads the clocks. Nothing else in this crate does.
//!
//! All times in histories and reports are microseconds since the process started, on the monotonic clock.
//! Neither a pause of a process nor a change of the wall clock affects them.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static START: OnceLock<Instant> = OnceLock::new();

/// The present, on a clock that never goes back.
#[allow(clippy::disallowed_methods, reason = "this module is where the clock is read")]
pub fn now() -> Instant {
    Instant::now()
}

/// Microseconds since this process first called this function.
pub fn now_us() -> u64 {
    let start = *START.get_or_init(now);
    u64::try_from(now().saturating_duration_since(start).as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970.
#[allow(clippy::disallowed_methods, reason = "this module is where the clock is read")]
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Waits until `condition` returns a value, and calls it every `every`. Returns `None` after `timeout`.
pub async fn until<T, F>(timeout: Duration, every: Duration, mut condition: F) -> Option<T>
where
    F: AsyncFnMut() -> Option<T>,
{
    let deadline = now() + timeout;
    loop {
        if let Some(found) = condition().await {
            return Some(found);
        }
        if now() >= deadline {
            return None;
        }
        tokio::time::sleep(every).await;
    }
}
