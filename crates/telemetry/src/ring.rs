//! A list of the newest items with a maximum length.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// The newest items; the oldest are removed. The lock is held for one push or one copy.
#[derive(Debug)]
pub struct Ring<T> {
    len_max: usize,
    items: Mutex<VecDeque<T>>,
}

impl<T: Clone> Ring<T> {
    /// A ring of at most `len_max` items, allocated once.
    #[must_use]
    pub fn new(len_max: usize) -> Self {
        Self { len_max, items: Mutex::new(VecDeque::with_capacity(len_max)) }
    }

    /// Adds an item.
    pub fn push(&self, item: T) {
        if self.len_max == 0 {
            return;
        }
        let mut items = self.items.lock();
        // The removed item is dropped after the lock is released.
        let gone = if items.len() == self.len_max { items.pop_front() } else { None };
        items.push_back(item);
        drop(items);
        drop(gone);
    }

    /// Adds an item unless another thread holds the lock. Returns whether it did.
    pub fn try_push(&self, item: T) -> bool {
        if self.len_max == 0 {
            return false;
        }
        let Some(mut items) = self.items.try_lock() else { return false };
        let gone = if items.len() == self.len_max { items.pop_front() } else { None };
        items.push_back(item);
        drop(items);
        drop(gone);
        true
    }

    /// A copy, newest first.
    #[must_use]
    pub fn newest_first(&self) -> Vec<T> {
        self.items.lock().iter().rev().cloned().collect()
    }

    /// The maximum number of items.
    #[must_use]
    pub fn len_max(&self) -> usize {
        self.len_max
    }

    /// Whether the maximum is 0.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.len_max == 0
    }

    /// Removes all items.
    pub fn clear(&self) {
        self.items.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let ring = Ring::new(2);
        for n in 1..=3 {
            ring.push(n);
        }
        assert_eq!(ring.newest_first(), [3, 2]);
        assert!(ring.try_push(4));
        assert_eq!(ring.newest_first(), [4, 3]);
        ring.clear();
        assert!(ring.newest_first().is_empty());
        assert!(!Ring::new(0).try_push(1));
    }
}
