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
    began: Instant,
    /// For this period, the place is not given to another client.
    kept: Duration,
    /// Whether the place is kept only while its holder has no more than an even share of the places.
    within_share: bool,
    /// Whether the holder has sent nothing yet that could be answered.
    is_silent: AtomicBool,
    is_displaced: AtomicBool,
    waiting: Mutex<Option<Waker>>,
}

impl Leave {
    /// A signal for a place that its holder keeps for at least `kept`.
    #[must_use]
    pub fn after(kept: Duration) -> Self {
        let is_displaced = AtomicBool::new(false);
        let waiting = Mutex::new(None);
        let is_silent = AtomicBool::new(false);
        Self { began: now(), kept, within_share: false, is_silent, is_displaced, waiting }
    }

    /// A signal for the place of a connection. An address or user that holds more than an even share of all places
    /// does not keep it, so nobody keeps more than that by renewing connections all the time. Until
    /// [`Self::has_spoken`], it also gives way to an address that would hold as many.
    #[must_use]
    pub fn of_connection(kept: Duration) -> Self {
        Self { within_share: true, is_silent: AtomicBool::new(true), ..Self::after(kept) }
    }

    /// Says that the connection has sent something that is answered.
    pub fn has_spoken(&self) {
        self.is_silent.store(false, Ordering::Relaxed);
    }

    /// Whether the place is that of a connection that has sent nothing yet.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::Relaxed)
    }

    /// Whether it has sent nothing for as long as it keeps its place.
    #[must_use]
    pub fn is_wasted(&self) -> bool {
        self.is_silent() && self.age() >= self.kept
    }

    /// Whether the place may be given to another client now. `exceeds_share` says whether the address or user that
    /// holds it has more than an even share of the places.
    #[must_use]
    pub fn may_be_displaced(&self, exceeds_share: bool) -> bool {
        (exceeds_share && self.within_share) || self.age() >= self.kept
    }

    /// How long the holder has had the place.
    #[must_use]
    pub fn age(&self) -> Duration {
        now().duration_since(self.began)
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
