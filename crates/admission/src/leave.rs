//! The signal that a place or slot was given to another client.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::turns::now;

/// A place in which nothing has moved for this time is idle.
const IDLE: Duration = Duration::from_secs(5);

/// Tells the holder of a place that another client has the place now. The holder must then end what it needs the place
/// for. One task can wait for it.
#[derive(Debug)]
pub struct Leave {
    /// Before this time, the place is not given to another client.
    kept_until: Instant,
    is_displaced: AtomicBool,
    waiting: Mutex<Option<Waker>>,
    /// When something has moved last; `None` if the place is never idle.
    moved: Option<Moved>,
}

/// When something has moved last.
#[derive(Debug)]
struct Moved {
    begun: Instant,
    /// In milliseconds since `begun`.
    last_ms: AtomicU64,
}

impl Leave {
    /// A signal for a place that its holder keeps for at least `kept`.
    #[must_use]
    pub fn after(kept: Duration) -> Self {
        let kept_until = now() + kept;
        let is_displaced = AtomicBool::new(false);
        Self { kept_until, is_displaced, waiting: Mutex::new(None), moved: None }
    }

    /// A signal for the place of a connection, which its holder keeps for at least `kept`. After five seconds without a
    /// call of [`Self::moved`] the place is idle. Then it may also be given to an address that holds none, although its
    /// own address holds only this one.
    #[must_use]
    pub fn of_connection(kept: Duration) -> Self {
        let moved = Moved { begun: now(), last_ms: AtomicU64::new(0) };
        Self { moved: Some(moved), ..Self::after(kept) }
    }

    /// Bytes have moved on the connection.
    pub fn moved(&self) {
        if let Some(Moved { begun, last_ms }) = &self.moved {
            last_ms.store(ms_since(*begun), Ordering::Relaxed);
        }
    }

    /// For how long the place has been idle, in milliseconds; `None` if it is not idle.
    pub(crate) fn idle_ms(&self) -> Option<u64> {
        let Moved { begun, last_ms } = self.moved.as_ref()?;
        let idle_ms = ms_since(*begun).saturating_sub(last_ms.load(Ordering::Relaxed));
        (u128::from(idle_ms) >= IDLE.as_millis()).then_some(idle_ms)
    }

    /// Whether the place may be given to another client now.
    #[must_use]
    pub fn may_be_displaced(&self) -> bool {
        now() >= self.kept_until
    }

    /// Whether another client has the place.
    #[must_use]
    pub fn is_displaced(&self) -> bool {
        self.is_displaced.load(Ordering::Acquire)
    }

    /// Tells the holder that another client has the place.
    pub fn displace(&self) {
        self.is_displaced.store(true, Ordering::Release);
        let waker = self.waiting.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether another client has the place. If not, the task is woken when that happens.
    pub fn poll_displaced(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_displaced() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.lock();
        if waiting.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waiting = Some(cx.waker().clone());
        }
        drop(waiting);
        // It may have happened before the waker was stored.
        if self.is_displaced() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns when another client has the place. The future may be dropped at any time.
    pub async fn displaced(&self) {
        poll_fn(|cx| self.poll_displaced(cx)).await;
    }
}

fn ms_since(begun: Instant) -> u64 {
    let passed = now().saturating_duration_since(begun);
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}
