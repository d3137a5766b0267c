//! The only place that reads a clock. Everything else takes time as a parameter or asks a [`Clock`].

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Two clocks in one: a monotonic one for deadlines and a wall clock for stamps.
///
/// Cloning is cheap, and clones of a [`Clock::manual`] share its time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { origin: Instant, wall_offset_ms: Arc<AtomicI64> },
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// The machine's clocks.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    pub fn system() -> Self {
        Self(Source::System { origin: Instant::now(), wall_offset_ms: Arc::default() })
    }

    /// The machine's clocks, with a wall clock that is off by what `wall_offset_ms` says at the
    /// moment: for tests of a wall clock that jumps.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    pub fn system_with_wall_offset(wall_offset_ms: Arc<AtomicI64>) -> Self {
        Self(Source::System { origin: Instant::now(), wall_offset_ms })
    }

    /// A clock that stands still until [`Clock::advance`] moves it; for tests.
    #[must_use]
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(0))))
    }

    /// Milliseconds on the monotonic clock; it goes on while the process is stopped.
    #[must_use]
    pub fn monotonic_ms(&self) -> u64 {
        self.monotonic_us() / 1_000
    }

    /// Microseconds on the monotonic clock.
    #[must_use]
    pub fn monotonic_us(&self) -> u64 {
        match &self.0 {
            Source::System { origin, .. } => {
                u64::try_from(origin.elapsed().as_micros()).unwrap_or(u64::MAX)
            }
            Source::Manual(now_us) => now_us.load(Ordering::SeqCst),
        }
    }

    /// Milliseconds since 1970.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the place")]
    pub fn wall_ms(&self) -> u64 {
        match &self.0 {
            Source::System { wall_offset_ms, .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                now_ms.saturating_add_signed(wall_offset_ms.load(Ordering::Relaxed))
            }
            Source::Manual(now_us) => 1_700_000_000_000 + now_us.load(Ordering::SeqCst) / 1_000,
        }
    }

    /// Moves a manual clock on.
    ///
    /// # Panics
    /// On a system clock, which nobody can move.
    pub fn advance(&self, by: Duration) {
        match &self.0 {
            Source::System { .. } => panic!("the system clock cannot be moved"),
            Source::Manual(now_us) => {
                let by_us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
                now_us.fetch_add(by_us, Ordering::SeqCst);
            }
        }
    }
}
