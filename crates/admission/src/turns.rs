//! Whose answer is built next.
//!
//! Building an answer can take long, so only some threads build answers at the same time. The requests of one address
//! first wait for each other. So an address that sends many requests does not make the other addresses wait for all of
//! them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::network_of;

/// How long a request waits for its turn.
const TIMEOUT: Duration = Duration::from_secs(5);
/// With this many addresses, those that have no request are forgotten.
const ADDRESSES_MAX: usize = 1_024;

/// The turns of one kind of callers.
#[derive(Debug)]
pub struct Turns {
    all: Arc<Semaphore>,
    per_address: usize,
    addresses: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// A turn, which ends when this is dropped. Code that has a turn must not wait for anything else.
#[derive(Debug)]
pub struct Turn {
    _of_address: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    /// At most `count` turns at the same time. One address has at most half of them, but always one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(count.max(1))),
            per_address: (count / 2).max(1),
            addresses: Mutex::default(),
        }
    }

    /// Waits for a turn; `None` if that takes longer than five seconds. Dropping the future gives up the place in the
    /// queue.
    pub async fn take(&self, address: IpAddr) -> Option<Turn> {
        let of_address = self.of_address(network_of(address));
        let both = async {
            let of_address = of_address.acquire_owned().await.ok()?;
            let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(Turn { _of_address: of_address, _of_all: of_all })
        };
        tokio::time::timeout(TIMEOUT, both).await.ok()?
    }

    fn of_address(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut addresses = self.addresses.lock();
        if addresses.len() >= ADDRESSES_MAX && !addresses.contains_key(&address) {
            // A request that waits or has a turn holds the semaphore too.
            addresses.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        let turns = addresses.entry(address);
        Arc::clone(turns.or_insert_with(|| Arc::new(Semaphore::new(self.per_address))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_many_requests_does_not_go_before_another_one() {
        let turns = Arc::new(Turns::new(1));
        let first = turns.take(address(1)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for from in [1, 1, 1, 1, 2] {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let turn = turns.take(address(from)).await;
                order.lock().push(from);
                drop(turn);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for one in waiting {
            one.await.unwrap();
        }
        let second = order.lock().iter().position(|from| *from == 2);
        assert!(second <= Some(1), "{:?}", order.lock());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_wait_without_end_and_idle_addresses_are_forgotten() {
        let turns = Turns::new(2);
        let held = turns.take(address(1)).await;
        assert!(held.is_some());
        assert!(turns.take(address(1)).await.is_none());
        assert!(turns.take(address(2)).await.is_some());
        for n in 0..2 * ADDRESSES_MAX {
            let ip = IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
            drop(turns.take(ip).await);
        }
        assert!(turns.addresses.lock().len() <= ADDRESSES_MAX);
        assert!(turns.addresses.lock().contains_key(&address(1)));
    }
}
