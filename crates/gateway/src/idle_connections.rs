//! Which connections can be closed to make room for others.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use maxine_admission::Places;

/// If all places for connections are taken, up to one in this many is freed at once, if no request uses its connection.
const CLOSED_ONE_IN: usize = 16;

/// Keeps connections that no request uses.
pub(crate) trait KeepsIdle: Send + Sync {
    /// Closes up to `most` connections that no request uses, and returns their number. Those that have been idle
    /// longest are closed first.
    fn close_unused(&self, most: usize) -> usize;
}

/// The pools of a connector. Clones are cheap and share one list.
#[derive(Clone, Default)]
pub(crate) struct Pools(Arc<Mutex<Vec<Weak<dyn KeepsIdle>>>>);

impl Pools {
    pub(crate) fn add<P: KeepsIdle + 'static>(&self, pool: &Arc<P>) {
        let mut pools = self.0.lock();
        // A full vector would be copied anyway, so this is a good time to remove dropped pools.
        if pools.len() == pools.capacity() {
            pools.retain(|pool| pool.strong_count() > 0);
        }
        let pool: Weak<P> = Arc::downgrade(pool);
        pools.push(pool);
    }

    /// Closes connections that no request uses, to make room for new ones. Returns whether any were closed. Each call
    /// begins behind the last pool whose connections were closed.
    pub(crate) fn close_unused(&self, connections: &Places) -> bool {
        let most = (connections.limits().max / CLOSED_ONE_IN).max(1);
        if connections.unused() == 0 {
            return false;
        }
        let mut pools = self.0.lock();
        let mut closed = 0;
        let mut looked_at = 0;
        for pool in pools.iter().filter_map(Weak::upgrade) {
            closed += pool.close_unused(most - closed);
            looked_at += 1;
            if closed == most {
                break;
            }
        }
        let middle = looked_at.min(pools.len());
        pools.rotate_left(middle);
        closed > 0
    }
}
