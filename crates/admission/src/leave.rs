//! The signal that a place or slot was given to another client.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::turns::now;

/// Tells the holder of a place that another client has the place now. The holder must then end what it needs the place
/// for. One task can wait for it.
#[derive(Debug)]
pub struct Leave {
    /// Before this time, the place is not given to another client.
    kept_until: Instant,
    is_displaced: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Leave {
    /// A signal for a place that its holder keeps for at least `kept`.
    #[must_use]
    pub fn after(kept: Duration) -> Self {
        let kept_until = now() + kept;
        Self { kept_until, is_displaced: AtomicBool::new(false), waiting: Mutex::new(None) }
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
