//! The one place of this crate that reads a clock.
//!
//! All times in histories and reports are microseconds since the process started, on the monotonic
//! clock: processes that are paused, and wall clocks that are set, don't move them.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static START: OnceLock<Instant> = OnceLock::new();

/// The present, on a clock that never goes back.
#[allow(clippy::disallowed_methods, reason = "this module is where the clock is read")]
pub fn now() -> Instant {
    Instant::now()
}

/// Microseconds since this process first asked.
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

/// Waits until `condition` gives something, looking every `every`; `None` after `timeout`.
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
