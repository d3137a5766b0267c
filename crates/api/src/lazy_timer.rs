//! A timer for deadlines that are rarely reached.
//!
//! hyper sets a deadline for each request's head and removes it when the head has arrived. With tokio's own
//! timer, both change the timer wheel, under its lock. Here a connection has one entry in the wheel. It is
//! only moved when it fires; then it is checked whether the present deadline has passed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

/// The timer of one connection. Clones share the entry. Two sleeps on it must belong to one task.
#[derive(Clone, Debug, Default)]
pub(super) struct LazyTimer(Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>);

struct LazySleep {
    timer: LazyTimer,
    deadline: tokio::time::Instant,
}

impl Timer for LazyTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(LazySleep { timer: self.clone(), deadline: deadline.into() })
    }

    #[allow(clippy::disallowed_methods, reason = "the runtime's own clock, for its own timer")]
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

impl Sleep for LazySleep {}

impl Future for LazySleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let mut entry = self.timer.0.lock();
        let entry = entry.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if entry.deadline() > deadline {
            entry.as_mut().reset(deadline);
        }
        loop {
            if entry.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if entry.deadline() >= deadline {
                return Poll::Ready(());
            }
            // The entry was for an earlier deadline, which was removed.
            entry.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Sleeps. Returns how long after `start` the sleep ended.
    async fn ended(timer: &LazyTimer, start: Instant, sleep: Pin<Box<dyn Sleep>>) -> Duration {
        sleep.await;
        timer.now() - start
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_comes_when_it_should_whatever_was_taken_back_before() {
        let timer = LazyTimer::default();
        let start = timer.now();
        let mut first = timer.sleep(10 * SECOND);
        assert!(futures::poll!(&mut first).is_pending());
        drop(first);
        // Later than the deadline in the wheel, and earlier.
        assert_eq!(ended(&timer, start, timer.sleep(30 * SECOND)).await, 30 * SECOND);
        let mut late = timer.sleep(60 * SECOND);
        assert!(futures::poll!(&mut late).is_pending());
        drop(late);
        assert_eq!(ended(&timer, start, timer.sleep(SECOND)).await, 31 * SECOND);
        // A deadline that has already passed.
        assert_eq!(ended(&timer, start, timer.sleep_until(timer.now())).await, 31 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn two_sleeps_of_a_task_do_not_hold_each_other_up() {
        let timer = LazyTimer::default();
        let start = timer.now();
        let (short, long) = (timer.sleep(2 * SECOND), timer.sleep(5 * SECOND));
        let (short, long) = futures::join!(ended(&timer, start, short), ended(&timer, start, long));
        assert_eq!((short, long), (2 * SECOND, 5 * SECOND));
    }
}
