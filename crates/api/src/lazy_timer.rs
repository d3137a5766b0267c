//! A timer for deadlines that hardly ever come.
//!
//! hyper sets a deadline for each request's head and takes it back when the head is there. On
//! tokio's own timer each of the two is a change of the wheel, under its lock. Here a connection has one
//! entry in the wheel, which is moved only when it fires: then it is seen whether the deadline in force
//! has come.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

/// The timer of one connection; its clones share the entry. Two sleeps on it must belong to one task.
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
            // It stood for an earlier deadline, which was taken back.
            entry.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Sleeps; how long after `start` that ended.
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
        // Later than what stands in the wheel, and earlier.
        assert_eq!(ended(&timer, start, timer.sleep(30 * SECOND)).await, 30 * SECOND);
        let mut late = timer.sleep(60 * SECOND);
        assert!(futures::poll!(&mut late).is_pending());
        drop(late);
        assert_eq!(ended(&timer, start, timer.sleep(SECOND)).await, 31 * SECOND);
        // One that has come at once.
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
