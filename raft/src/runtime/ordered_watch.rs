//! tokio's watch channel with a fixed order: waiting tasks are woken in the order in which they began to
//! wait.
//!
//! tokio's own channel distributes waiting tasks with random numbers that cannot be seeded, so two runs of
//! one simulation would differ.

use std::sync::Arc;

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};
use tokio::sync::{Notify, watch};

/// The channel, as the consensus core requires it.
pub(crate) struct OrderedWatch;

/// The sending end.
pub(crate) struct Sender<T> {
    // Dropped first, so that a task that the notifier wakes sees the closed channel.
    values: watch::Sender<T>,
    notifier: NotifierOfSender,
}

/// The receiving end.
pub(crate) struct Receiver<T> {
    values: watch::Receiver<T>,
    notifier: Arc<Notify>,
}

impl<T> Receiver<T> {
    /// Whether every sender was dropped.
    pub(crate) fn is_closed(&self) -> bool {
        self.values.has_changed().is_err()
    }
}

/// Wakes all waiting tasks when a sender is dropped, because it may be the last one.
#[derive(Clone)]
struct NotifierOfSender(Arc<Notify>);

impl Drop for NotifierOfSender {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = watch::channel(init);
        let notifier = Arc::new(Notify::new());
        let sender = Sender { values: sender, notifier: NotifierOfSender(Arc::clone(&notifier)) };
        (sender, Receiver { values: receiver, notifier })
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), notifier: self.notifier.clone() }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), notifier: Arc::clone(&self.notifier) }
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.values.send(value).map_err(|error| SendError(error.0))?;
        self.notifier.0.notify_waiters();
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        let modified = self.values.send_if_modified(modify);
        if modified {
            self.notifier.0.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.values.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { values: self.values.subscribe(), notifier: Arc::clone(&self.notifier.0) }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let Self { values, notifier } = self;
        loop {
            // Created before the value is read: `notify_waiters` counts from here on, even before the first
            // poll.
            let rung = notifier.notified();
            // The last value also counts if its sender has been dropped since.
            if values.borrow().has_changed() {
                values.mark_unchanged();
                return Ok(());
            }
            values.has_changed().map_err(|_| RecvError(()))?;
            rung.await;
        }
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.values.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        self.values.borrow_and_update()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_value_sent_before_and_one_sent_during_the_wait_are_both_seen() {
        let (sender, mut receiver) = OrderedWatch::channel(0);
        sender.send(1).unwrap();
        receiver.changed().await.unwrap();
        assert_eq!(*receiver.borrow_watched(), 1);
        let waiting = tokio::spawn(async move {
            receiver.changed().await.unwrap();
            *receiver.borrow_and_update()
        });
        tokio::task::yield_now().await;
        assert!(!sender.send_if_modified(|_| false));
        assert!(sender.send_if_modified(|value| {
            *value = 2;
            true
        }));
        assert_eq!(waiting.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn the_last_value_is_seen_and_then_the_end() {
        let (sender, receiver) = OrderedWatch::channel(0);
        let other = sender.clone();
        let mut waits = receiver.clone();
        let waiting = tokio::spawn(async move { waits.changed().await });
        tokio::task::yield_now().await;
        drop(sender);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!waiting.is_finished());
        other.send(1).unwrap();
        drop(other);
        waiting.await.unwrap().unwrap();
        let mut late = receiver;
        late.changed().await.unwrap();
        late.changed().await.unwrap_err();
    }

    #[tokio::test]
    async fn waiters_are_woken_in_the_order_of_waiting() {
        for _ in 0..20 {
            let (sender, receiver) = OrderedWatch::channel(0);
            let woken = Arc::new(Mutex::new(Vec::new()));
            let waiting: Vec<_> = (0..16)
                .map(|nth| {
                    let (mut receiver, woken) = (receiver.clone(), Arc::clone(&woken));
                    tokio::spawn(async move {
                        receiver.changed().await.unwrap();
                        woken.lock().push(nth);
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            sender.send(1).unwrap();
            for task in waiting {
                task.await.unwrap();
            }
            assert!(woken.lock().is_sorted(), "{:?}", woken.lock());
        }
    }
}
