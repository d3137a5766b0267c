//! Whose answer is built next.
//!
//! Building an answer can take long, so only some threads build answers at the same time, whichever face asks. The next
//! turn goes to the address whose answers took the least time lately. So an address that asks for little does not wait
//! for those that ask for much, however many of them there are. A request that has its turn does not hold up the other
//! tasks of its thread, if [`build_aside`] polls it.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::network_of;

/// How long a request waits for its turn.
const TIMEOUT: Duration = Duration::from_secs(5);
/// After this time, half of the time that an address has used counts no more.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// What a turn counts at least.
const LEAST: Duration = Duration::from_micros(1);
/// An address that has used less than this may be forgotten, in seconds.
const FORGOTTEN_S: f64 = 0.001;
/// With this many addresses, those that have used little are forgotten.
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
    strangers: Arc<Turns>,
    known: Arc<Turns>,
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
    /// Maximum number of turns at the same time.
    max: usize,
    /// Maximum number of those for one address.
    of_address_max: usize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// How many turns are taken.
    taken: usize,
    addresses: HashMap<IpAddr, Usage>,
    /// The requests that wait, by the number that says in which order they came.
    waiting: BTreeMap<u64, Waiting>,
    next_number: u64,
}

/// What an address uses.
#[derive(Debug)]
struct Usage {
    /// How many turns it has.
    taken: usize,
    /// How long its turns took until `counted_at`, in seconds. Old turns count less and less.
    used_s: f64,
    counted_at: Instant,
}

#[derive(Debug)]
struct Waiting {
    address: IpAddr,
    turn: oneshot::Sender<Turn>,
}

/// A turn, which ends when this is dropped. Code that has a turn must not wait for anything else.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    address: IpAddr,
    begun: Instant,
}

/// A place in the queue, until it is dropped.
struct Queued<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Usage {
    fn used_s(&self, now: Instant) -> f64 {
        let passed_s = now.saturating_duration_since(self.counted_at).as_secs_f64();
        self.used_s * (-passed_s / HALF_LIFE.as_secs_f64()).exp2()
    }
}

impl Queue {
    fn usage(&mut self, address: IpAddr, now: Instant) -> &mut Usage {
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            self.addresses.retain(|_, usage| usage.taken > 0 || usage.used_s(now) > FORGOTTEN_S);
        }
        let unused = Usage { taken: 0, used_s: 0.0, counted_at: now };
        self.addresses.entry(address).or_insert(unused)
    }

    /// The request that gets the next turn.
    fn next(&mut self, of_address_max: usize, now: Instant) -> Option<Waiting> {
        let mut best: Option<(f64, u64)> = None;
        for (number, waiting) in &self.waiting {
            let usage = self.addresses.get(&waiting.address);
            if usage.is_some_and(|usage| usage.taken >= of_address_max) {
                continue;
            }
            let used_s = usage.map_or(0.0, |usage| usage.used_s(now));
            if best.is_none_or(|(least_s, _)| used_s < least_s) {
                best = Some((used_s, *number));
            }
        }
        self.waiting.remove(&best?.1)
    }
}

impl Turns {
    /// At most `max` turns at the same time. One address has at most half of them, but always one.
    fn new(max: usize) -> Arc<Self> {
        let (max, of_address_max) = (max.max(1), (max / 2).max(1));
        Arc::new(Self { max, of_address_max, queue: Mutex::default() })
    }

    async fn take(self: &Arc<Self>, address: IpAddr) -> Option<Turn> {
        let (turn, given) = oneshot::channel();
        let number = {
            let mut queue = self.queue.lock();
            let number = queue.next_number;
            queue.next_number += 1;
            queue.waiting.insert(number, Waiting { address: network_of(address), turn });
            number
        };
        let _place = Queued { turns: self, number };
        self.give();
        let turn = tokio::time::timeout(TIMEOUT, given).await.ok()?.ok()?;
        HAS_TURN.set(true);
        tokio::task::yield_now().await;
        Some(turn)
    }

    /// Gives the free turns to requests that wait.
    fn give(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        while queue.taken < self.max {
            let now = Instant::now();
            let Some(next) = queue.next(self.of_address_max, now) else { return };
            queue.taken += 1;
            queue.usage(next.address, now).taken += 1;
            let turn = Turn { turns: Arc::clone(self), address: next.address, begun: now };
            if let Err(turn) = next.turn.send(turn) {
                // The request has ended. The turn ends here, which needs the queue.
                drop(queue);
                drop(turn);
                queue = self.queue.lock();
            }
        }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.turns.queue.lock().waiting.remove(&self.number);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.turns.queue.lock();
        queue.taken -= 1;
        let now = Instant::now();
        let usage = queue.usage(self.address, now);
        usage.taken -= 1;
        let took = now.duration_since(self.begun).max(LEAST);
        usage.used_s = usage.used_s(now) + took.as_secs_f64();
        usage.counted_at = now;
        drop(queue);
        self.turns.give();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_asks_for_little_goes_before_many_that_ask_for_much() {
        let turns = Turns::new(1);
        let order = Arc::new(Mutex::new(Vec::new()));
        let ask = |from: u8, ms: u64| {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            tokio::spawn(async move {
                let Some(_turn) = turns.take(address(from)).await else { return };
                order.lock().push(from);
                tokio::time::sleep(Duration::from_millis(ms)).await;
            })
        };
        for from in 1..=30 {
            ask(from, 200).await.unwrap();
        }
        order.lock().clear();
        let many: Vec<_> = (1..=30).cycle().take(90).map(|from| ask(from, 200)).collect();
        tokio::time::sleep(Duration::from_millis(100)).await;
        ask(100, 10).await.unwrap();
        assert_eq!(order.lock()[1], 100, "{:?}", order.lock());
        for one in many {
            one.await.unwrap();
        }
        // A queue that is too long for the waiting time is shared out evenly.
        let of_address = |from| order.lock().iter().filter(|one| **one == from).count();
        assert_eq!(order.lock().len(), 26, "turns of 0.2 s within 5 s, and that of 100");
        assert!((1..=30).all(|from| of_address(from) <= 1), "{:?}", order.lock());
        assert!(turns.queue.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_many_requests_does_not_go_before_another_one() {
        let turns = Turns::new(1);
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
        let queue = turns.queue.lock();
        assert!(queue.addresses.len() <= ADDRESSES_MAX);
        assert!(queue.addresses.contains_key(&address(1)), "it still has a turn");
        assert_eq!((queue.taken, queue.waiting.len()), (1, 0));
    }
}
