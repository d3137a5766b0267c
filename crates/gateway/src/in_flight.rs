//! The number of requests that this node's proxy works on. A stop waits until it is zero.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Forwarder, Inner};

/// Counts one request as in flight, from its arrival to its last byte.
pub(crate) struct InFlightGuard(Arc<Inner>);

impl InFlightGuard {
    pub(crate) fn enter(forwarder: &Forwarder) -> Self {
        forwarder.0.requests_in_flight.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&forwarder.0))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.requests_in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
