//! Whose answer is built next.
//!
//! Building an answer can take long, so only some threads build answers at the same time, whichever face asks. The
//! requests of one address first wait for each other. So an address that sends many requests does not make the other
//! addresses wait for all of them. A request that has its turn does not hold up the other tasks of its thread, if
//! [`build_aside`] polls it.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::network_of;

/// How long a request waits for its turn.
const TIMEOUT: Duration = Duration::from_secs(5);
/// With this many addresses, those that have no request are forgotten.
const ADDRESSES_MAX: usize = 1_024;

thread_local! {
    /// Whether the task that this thread polls has got a turn in this poll. It builds its answer in the next one.
    static HAS_TURN: Cell<bool> = const { Cell::new(false) };
}

/// Waits for an answer. While it is built, the other tasks of this thread continue on another thread.
pub async fn build_aside<F: Future>(answer: F) -> F::Output {
    let mut answer = pin!(answer);
    let mut builds = false;
    std::future::poll_fn(move |cx| {
        HAS_TURN.set(false);
        let polled = if builds && has_other_threads() {
            tokio::task::block_in_place(|| answer.as_mut().poll(cx))
        } else {
            answer.as_mut().poll(cx)
        };
        builds = HAS_TURN.take();
        polled
    })
    .await
}

fn has_other_threads() -> bool {
    Handle::try_current().is_ok_and(|now| now.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// The turns of a node, which all its faces share.
#[derive(Debug)]
pub struct NodeTurns {
    strangers: Turns,
    known: Turns,
}

impl NodeTurns {
    /// Up to half of the processors build answers for callers without a credential, and up to half of them for others.
    #[must_use]
    pub fn for_this_machine() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from) / 2)
    }

    /// At most `count` turns of each kind at the same time, but always one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { strangers: Turns::new(count), known: Turns::new(count) }
    }

    /// Waits for a turn; `None` if that takes longer than five seconds. Callers with a credential do not wait for the
    /// others. Dropping the future gives up the place in the queue. The future always waits once after it got the turn:
    /// the HTTP library notices that a client has left only while its request waits, and [`build_aside`] moves the other
    /// tasks away before the next poll.
    pub async fn take(&self, address: IpAddr, is_known: bool) -> Option<Turn> {
        let turns = if is_known { &self.known } else { &self.strangers };
        turns.take(address).await
    }
}

/// The turns of one kind of callers.
#[derive(Debug)]
struct Turns {
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
    fn new(count: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(count.max(1))),
            per_address: (count / 2).max(1),
            addresses: Mutex::default(),
        }
    }

    async fn take(&self, address: IpAddr) -> Option<Turn> {
        let of_address = self.of_address(network_of(address));
        let both = async {
            let of_address = of_address.acquire_owned().await.ok()?;
            let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some(Turn { _of_address: of_address, _of_all: of_all })
        };
        let turn = tokio::time::timeout(TIMEOUT, both).await.ok()??;
        HAS_TURN.set(true);
        tokio::task::yield_now().await;
        Some(turn)
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn the_other_tasks_of_a_thread_continue_while_an_answer_is_built() {
        let turns = NodeTurns::new(1);
        let (began, mut has_begun) = tokio::sync::mpsc::channel(1);
        let (reply, replies) = std::sync::mpsc::channel();
        let built = tokio::spawn(build_aside(async move {
            let _turn = turns.take(address(1), false).await.unwrap();
            began.try_send(()).unwrap();
            // It blocks its thread, as building does, until the other task has run.
            replies.recv_timeout(Duration::from_secs(20))
        }));
        tokio::spawn(async move {
            has_begun.recv().await.unwrap();
            reply.send(()).unwrap();
        });
        built.await.unwrap().expect("the other task runs meanwhile");
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
