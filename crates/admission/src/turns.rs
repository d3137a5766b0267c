//! Whose answer is built next.
//!
//! Building an answer can take long, so only some threads build answers at the same time, whichever face asks. Every
//! other turn goes to the payer whose answers took the least time lately, so one that asks for little does not wait for
//! those that ask for much. A payer is a user, or the address of a caller without a credential. The other turns go to
//! the request that has waited longest, so many new payers cannot keep everybody else waiting. A request that has its
//! turn does not hold up the other tasks of its thread, if [`build_aside`] polls it.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{CallerClass, Payer, Place, PlaceLimits, Places, UserName, site_of};

/// How long a request waits for its turn.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How many requests get a turn before a builder is free. A busy runtime needs time to continue a request that got its
/// turn, and the builders would have nothing to do meanwhile.
const AHEAD: usize = 6;
/// After this period, only half of the time that a payer has used still counts.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// A turn that took less than this counts as this.
const LEAST: Duration = Duration::from_micros(1);
/// A payer that is not known counts as if it had used this part of a mean turn. So those that always come from new
/// addresses do not go before a known payer that asks for little.
const OF_NEW_PAYER: f64 = 0.25;
/// The share of a turn in the mean.
const OF_LATEST: f64 = 0.125;
/// A payer that has used less than this may be forgotten, in seconds.
const FORGOTTEN_S: f64 = 0.001;
/// With this many payers, those that have used little are forgotten. If many of them are still needed, this happens
/// again when there are twice as many.
const PAYERS_MAX: usize = 1_024;

thread_local! {
    /// Whether the task that this thread polls waits for a turn. It may build its answer in its next poll.
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

/// Waits for an answer. While it is built, the other tasks of this thread continue on another thread.
pub async fn build_aside<F: Future>(answer: F) -> F::Output {
    let mut answer = pin!(answer);
    let mut may_build = false;
    std::future::poll_fn(move |cx| {
        WAITS.set(false);
        let polled = if may_build && has_other_threads() {
            tokio::task::block_in_place(|| answer.as_mut().poll(cx))
        } else {
            answer.as_mut().poll(cx)
        };
        may_build = WAITS.take();
        polled
    })
    .await
}

fn has_other_threads() -> bool {
    Handle::try_current().is_ok_and(|now| now.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// The present time of the runtime, beside whose timer requests wait.
#[allow(clippy::disallowed_methods, reason = "how long turns took, never shown or stored")]
pub(super) fn now() -> Instant {
    Instant::now()
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
        let builders = std::thread::available_parallelism().map_or(1, usize::from) / 2;
        Self { strangers: Turns::new(builders, AHEAD), known: Turns::new(builders, AHEAD) }
    }

    /// At most `count` turns of each kind at the same time, but always one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { strangers: Turns::new(count, 0), known: Turns::new(count, 0) }
    }

    /// Waits for a turn; `None` if that takes longer than five seconds. A caller with a credential is a `user`. Users
    /// do not wait for callers without a credential, and share the turns by name, wherever they are. Dropping the
    /// future gives up the place in the queue. Before it joins the queue, the future waits once: the HTTP library
    /// notices that a client has left only while its request waits, and [`build_aside`] moves the other tasks away
    /// before the next poll.
    pub async fn take(&self, address: IpAddr, user: Option<&str>) -> Option<Turn> {
        match user {
            Some(user) => self.known.take(Payer::User(UserName::of(user))).await,
            None => self.strangers.take(Payer::Site(site_of(address))).await,
        }
    }
}

/// Maximum number of callers that wait for work of one kind, or have it done.
const WORK_PLACES_MAX: usize = 512;
/// How many percent of the places that the other addresses leave one address may take.
const WORK_SHARE_PERCENT: u8 = 10;

/// Turns for slow work that is done for callers without a credential: the check of a password, or a question to another
/// server.
#[derive(Debug)]
pub struct WorkTurns {
    places: Arc<Places>,
    turns: Arc<Turns>,
}

/// A turn for work, which ends when this is dropped.
#[derive(Debug)]
pub struct WorkTurn {
    _turn: Turn,
    _place: Place,
}

impl WorkTurns {
    /// The work is done for at most `max` callers at the same time, and for at most `of_address_max` of one address.
    #[must_use]
    pub fn new(max: usize, of_address_max: usize) -> Self {
        let limits =
            PlaceLimits { max: WORK_PLACES_MAX, per_address_max: WORK_PLACES_MAX, reserved: 0 };
        let places = Places::shared(limits, WORK_SHARE_PERCENT);
        Self { places, turns: Arc::new(Turns::without_builders(max, of_address_max)) }
    }

    /// Waits for a turn; `None` if that takes longer than five seconds, or if too many wait. Dropping the future gives
    /// up the place in the queue.
    pub async fn take(&self, address: IpAddr) -> Option<WorkTurn> {
        let place = self.places.take(address, CallerClass::Stranger, 1).ok()?;
        let turn = self.turns.take(Payer::Site(site_of(address))).await?;
        Some(WorkTurn { _turn: turn, _place: place })
    }
}

/// The turns of one kind of callers.
#[derive(Debug)]
pub(super) struct Turns {
    /// Maximum number of turns at the same time, with those that wait for a builder.
    max: usize,
    queue: Mutex<Queue>,
    /// The threads that build answers; `None` if those who have a turn only wait.
    builders: Option<Builders>,
}

#[derive(Debug)]
struct Queue {
    /// Maximum number of turns of one payer at the same time.
    of_payer_max: usize,
    begun: Instant,
    /// How many turns are taken.
    taken: usize,
    /// How many turns were given.
    given: u64,
    payers: HashMap<Payer, Usage>,
    /// With this many payers, those that have used little are forgotten.
    payers_max: usize,
    /// The payers of which a request may get a turn now, by their rank and the number of the request that waits
    /// longest.
    by_rank: BTreeSet<(Rank, u64)>,
    /// The same requests, in the order in which they came.
    by_number: BTreeSet<u64>,
    /// How long a turn takes, in seconds: the mean of the turns, in which the latest count most.
    mean_s: f64,
    /// The requests that wait, by the number that says in which order they came.
    waiting: BTreeMap<u64, Waiting>,
    next_number: u64,
}

/// What a payer uses.
#[derive(Debug)]
struct Usage {
    /// How many turns it has.
    taken: usize,
    /// How long its turns took, for comparisons: the base-2 logarithm of the seconds, plus the half-lives from the
    /// beginning of the queue until then. Old turns count less and less. All payers lose the same share in the same
    /// time, so their order stays.
    rank: Rank,
    /// The numbers of its requests that wait.
    numbers: BTreeSet<u64>,
}

/// How much a payer has used, in an order.
#[derive(Clone, Copy, Debug)]
struct Rank(f64);

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Rank {}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Usage {
    /// The request that may get a turn now, if there is one.
    fn ready(&self, of_payer_max: usize) -> Option<(Rank, u64)> {
        let number = self.numbers.first().filter(|_| self.taken < of_payer_max)?;
        Some((self.rank, *number))
    }
}

#[derive(Debug)]
struct Waiting {
    payer: Payer,
    turn: oneshot::Sender<Turn>,
}

/// The threads that may build answers.
#[derive(Debug)]
struct Builders {
    state: Mutex<BuildersState>,
    freed: Condvar,
}

#[derive(Debug)]
struct BuildersState {
    /// How many threads may begin now.
    free: usize,
    /// The turns that wait for a builder: the rank of the payer, and the number of the turn.
    waiting: Vec<(Rank, u64)>,
}

/// A turn, which ends when this is dropped. Code that builds an answer must not wait for anything else meanwhile.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    payer: Payer,
    begun: Instant,
    /// The rank of the payer when the turn was given, and the number of the turn.
    order: (Rank, u64),
    /// Whether it takes one of the builders.
    builds: bool,
}

/// A place in the queue, until it is dropped.
struct Queued<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Queue {
    fn new(of_payer_max: usize) -> Self {
        Self {
            of_payer_max,
            begun: now(),
            taken: 0,
            given: 0,
            payers: HashMap::new(),
            payers_max: PAYERS_MAX,
            by_rank: BTreeSet::new(),
            by_number: BTreeSet::new(),
            mean_s: 0.0,
            waiting: BTreeMap::new(),
            next_number: 0,
        }
    }

    /// How many half-lives have passed.
    fn half_lives(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.begun).as_secs_f64() / HALF_LIFE.as_secs_f64()
    }

    /// Changes what a payer uses.
    fn change<T>(
        &mut self,
        payer: &Payer,
        now: Instant,
        change: impl FnOnce(&mut Usage) -> T,
    ) -> T {
        if self.payers.len() >= self.payers_max && !self.payers.contains_key(payer) {
            let least = Rank(FORGOTTEN_S.log2() + self.half_lives(now));
            self.payers.retain(|_, usage| {
                usage.taken > 0 || !usage.numbers.is_empty() || usage.rank > least
            });
            self.payers_max = PAYERS_MAX.max(2 * self.payers.len());
        }
        let rank = Rank((self.mean_s * OF_NEW_PAYER).log2() + self.half_lives(now));
        let unused = Usage { taken: 0, rank, numbers: BTreeSet::new() };
        let usage = self.payers.entry(*payer).or_insert(unused);
        let before = usage.ready(self.of_payer_max);
        let changed = change(usage);
        let after = usage.ready(self.of_payer_max);
        if before != after {
            if let Some(ready) = before {
                self.by_rank.remove(&ready);
                self.by_number.remove(&ready.1);
            }
            if let Some(ready) = after {
                self.by_rank.insert(ready);
                self.by_number.insert(ready.1);
            }
        }
        changed
    }

    fn join(&mut self, payer: Payer, turn: oneshot::Sender<Turn>) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.change(&payer, now(), |usage| usage.numbers.insert(number));
        self.waiting.insert(number, Waiting { payer, turn });
        number
    }

    fn leave(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        self.change(&waiting.payer, now(), |usage| usage.numbers.remove(&number));
        Some(waiting)
    }

    /// The request that gets the next turn.
    fn next(&mut self) -> Option<Waiting> {
        let number = if self.given.is_multiple_of(2) {
            self.by_rank.first()?.1
        } else {
            *self.by_number.first()?
        };
        self.leave(number)
    }
}

impl Builders {
    fn new(count: usize) -> Self {
        let state = BuildersState { free: count, waiting: Vec::new() };
        Self { state: Mutex::new(state), freed: Condvar::new() }
    }

    /// Waits for a builder. A free one takes the turn of the payer with the lowest rank, so that an answer which takes
    /// little time does not wait for all the turns that were given before. Blocks.
    fn take(&self, order: (Rank, u64)) {
        let mut state = self.state.lock();
        state.waiting.push(order);
        self.freed.wait_while(&mut state, |state| {
            state.free == 0 || state.waiting.iter().min() != Some(&order)
        });
        state.free -= 1;
        state.waiting.retain(|one| *one != order);
        drop(state);
        // There may be another free builder.
        self.freed.notify_all();
    }

    fn give_back(&self) {
        self.state.lock().free += 1;
        self.freed.notify_all();
    }
}

impl Turns {
    /// At most `builders` builders at the same time, but always one. One payer has at most half of them, but always
    /// one.
    fn new(builders: usize, ahead: usize) -> Arc<Self> {
        let builders = builders.max(1);
        let threads = Builders::new(builders);
        Arc::new(Self::with(builders + ahead, (builders / 2).max(1), Some(threads)))
    }

    /// Those who have a turn build nothing, or take little time.
    pub(super) fn without_builders(max: usize, of_payer_max: usize) -> Self {
        Self::with(max, of_payer_max, None)
    }

    fn with(max: usize, of_payer_max: usize, builders: Option<Builders>) -> Self {
        Self { max, queue: Mutex::new(Queue::new(of_payer_max)), builders }
    }

    async fn take(self: &Arc<Self>, payer: Payer) -> Option<Turn> {
        let builds = self.builders.is_some();
        if builds {
            WAITS.set(true);
            tokio::task::yield_now().await;
        }
        let (given, _place) = self.join(payer);
        let mut given = pin!(tokio::time::timeout(TIMEOUT, given));
        let given = std::future::poll_fn(|cx| {
            let polled = given.as_mut().poll(cx);
            WAITS.set(builds && polled.is_pending());
            polled
        });
        let mut turn = given.await.ok()?.ok()?;
        // Other tasks of this thread would be held up too if it were the only one.
        if let Some(builders) = self.builders.as_ref().filter(|_| has_other_threads()) {
            builders.take(turn.order);
            turn.builds = true;
            turn.begun = now();
        }
        Some(turn)
    }

    /// Waits for a turn, without a time limit. The time until the caller continues does not count as part of the turn.
    /// Only without builders.
    pub(super) async fn wait(self: &Arc<Self>, payer: Payer) -> Option<Turn> {
        let (given, _place) = self.join(payer);
        let mut turn = given.await.ok()?;
        turn.begun = now();
        Some(turn)
    }

    /// Joins the queue.
    fn join(self: &Arc<Self>, payer: Payer) -> (oneshot::Receiver<Turn>, Queued<'_>) {
        let (turn, given) = oneshot::channel();
        let number = self.queue.lock().join(payer, turn);
        let place = Queued { turns: self, number };
        self.give();
        (given, place)
    }

    /// Gives the free turns to requests that wait.
    fn give(self: &Arc<Self>) {
        let mut queue = self.queue.lock();
        while queue.taken < self.max {
            let Some(next) = queue.next() else { return };
            let begun = now();
            let number = queue.given;
            queue.taken += 1;
            queue.given += 1;
            let rank = queue.change(&next.payer, begun, |usage| {
                usage.taken += 1;
                usage.rank
            });
            let order = (rank, number);
            let turns = Arc::clone(self);
            let turn = Turn { turns, payer: next.payer, begun, order, builds: false };
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
        self.turns.queue.lock().leave(self.number);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(builders) = self.turns.builders.as_ref().filter(|_| self.builds) {
            builders.give_back();
        }
        let mut queue = self.turns.queue.lock();
        queue.taken -= 1;
        let ended = now();
        let passed = queue.half_lives(ended);
        let took = ended.duration_since(self.begun).max(LEAST).as_secs_f64();
        queue.mean_s += (took - queue.mean_s) * OF_LATEST;
        queue.change(&self.payer, ended, |usage| {
            usage.taken -= 1;
            usage.rank = Rank(((usage.rank.0 - passed).exp2() + took).log2() + passed);
        });
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

    fn site(last: u8) -> Payer {
        Payer::Site(address(last))
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_asks_for_little_goes_before_many_that_ask_for_much() {
        let turns = Turns::new(1, 0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let ask = |from: u8, ms: u64| {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            tokio::spawn(async move {
                let Some(_turn) = turns.take(site(from)).await else { return };
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
        let place = order.lock().iter().position(|from| *from == 100);
        assert!(place <= Some(2), "{:?}", order.lock());
        for one in many {
            one.await.unwrap();
        }
        // More requests wait than can be answered in time. No address gets a second turn before the others had one.
        let of_address = |from| order.lock().iter().filter(|one| **one == from).count();
        assert_eq!(order.lock().len(), 26, "turns of 0.2 s within 5 s, and that of 100");
        assert!((1..=30).all(|from| of_address(from) <= 1), "{:?}", order.lock());
        assert!(turns.queue.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_are_new_do_not_keep_out_those_that_are_known() {
        let turns = Turns::new(1, 0);
        drop(turns.take(site(1)).await);
        let new = |worker: u32| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move {
                for n in 0.. {
                    let from = IpAddr::from((0x0a00_0000 | worker << 16 | n).to_be_bytes());
                    let Some(_turn) = turns.take(Payer::Site(from)).await else { return };
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        };
        let attack: Vec<_> = (1..=12).map(new).collect();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(turns.take(site(1)).await.is_some());
        }
        attack.iter().for_each(|worker| worker.abort());
    }

    /// A busy runtime needs long until a request that got its turn continues.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn requests_get_their_turns_ahead_and_one_builds_at_a_time() {
        let turns = Turns::new(1, AHEAD);
        let building = Arc::new(Mutex::new((0, 0)));
        let ask = |last: u8| {
            let (turns, building) = (Arc::clone(&turns), Arc::clone(&building));
            tokio::spawn(build_aside(async move {
                let _turn = turns.take(site(last)).await.unwrap();
                let now = {
                    let mut building = building.lock();
                    building.0 += 1;
                    building.1 += 1;
                    building.0
                };
                std::thread::sleep(Duration::from_millis(5));
                building.lock().0 -= 1;
                now
            }))
        };
        let all: Vec<_> = (1..=20).map(ask).collect();
        for one in all {
            assert_eq!(one.await.unwrap(), 1, "nobody else builds");
        }
        assert_eq!(building.lock().1, 20);
        let queue = turns.queue.lock();
        assert_eq!((queue.taken, queue.waiting.len()), (0, 0));
        assert_eq!(turns.builders.as_ref().unwrap().state.lock().free, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_many_requests_does_not_go_before_another_one() {
        let turns = Turns::new(1, 0);
        let first = turns.take(site(1)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for from in [1, 1, 1, 1, 2] {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let turn = turns.take(site(from)).await;
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
    async fn a_user_with_many_addresses_does_not_go_before_another_user_at_one_of_them() {
        let turns = Arc::new(NodeTurns::new(1));
        let first = turns.take(address(1), Some("viewer")).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        let viewers = (1..=30).map(|last| (last, "viewer"));
        for (last, user) in viewers.chain([(1, "admin")]) {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let turn = turns.take(address(last), Some(user)).await;
                order.lock().push(user);
                drop(turn);
            }));
            tokio::task::yield_now().await;
        }
        drop(first);
        for one in waiting {
            one.await.unwrap();
        }
        let admin = order.lock().iter().position(|user| *user == "admin");
        assert!(admin <= Some(1), "{:?}", order.lock());
    }

    #[tokio::test(start_paused = true)]
    async fn payers_that_are_always_new_do_not_go_before_a_known_one_that_asks_for_little() {
        let turns = Turns::new(1, 0);
        for (from, ms) in [(200, 5); 3].into_iter().chain((101..=110).map(|from| (from, 400))) {
            let turn = turns.take(site(from)).await;
            tokio::time::sleep(Duration::from_millis(ms)).await;
            drop(turn);
        }
        let held = turns.take(site(1)).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for from in (2..=20).chain([200]) {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let _turn = turns.take(site(from)).await;
                order.lock().push(from);
            }));
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        drop(held);
        for one in waiting {
            one.await.unwrap();
        }
        let place = order.lock().iter().position(|from| *from == 200);
        assert!(place <= Some(1), "{:?}", order.lock());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_free_builder_takes_the_turn_of_the_payer_that_used_least() {
        let builders = Arc::new(Builders::new(1));
        builders.take((Rank(0.0), 0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let threads: Vec<_> = [(Rank(5.0), 1), (Rank(4.0), 2), (Rank(-9.0), 3)]
            .into_iter()
            .map(|turn| {
                let (builders, order) = (Arc::clone(&builders), Arc::clone(&order));
                std::thread::spawn(move || {
                    builders.take(turn);
                    order.lock().push(turn.1);
                    builders.give_back();
                })
            })
            .collect();
        while builders.state.lock().waiting.len() < 3 {
            tokio::task::yield_now().await;
        }
        builders.give_back();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*order.lock(), [3, 2, 1]);
        assert_eq!(builders.state.lock().free, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn many_addresses_with_questions_to_a_slow_server_do_not_keep_out_another_one() {
        let turns = Arc::new(WorkTurns::new(32, 8));
        let ask = |last: u8| {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move {
                loop {
                    let Some(_turn) = turns.take(address(last)).await else { continue };
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
            })
        };
        let attack: Vec<_> = (1..=30).cycle().take(120).map(ask).collect();
        tokio::time::sleep(Duration::from_secs(30)).await;
        let mut answered = 0;
        for last in 100..120 {
            answered += usize::from(turns.take(address(last)).await.is_some());
            tokio::time::sleep(Duration::from_millis(1_300)).await;
        }
        assert!(answered >= 10, "{answered} of 20");
        attack.iter().for_each(|one| one.abort());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn the_other_tasks_of_a_thread_continue_while_an_answer_is_built() {
        let turns = NodeTurns::new(1);
        let (began, mut has_begun) = tokio::sync::mpsc::channel(1);
        let (reply, replies) = std::sync::mpsc::channel();
        let built = tokio::spawn(build_aside(async move {
            let _turn = turns.take(address(1), None).await.unwrap();
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
        let turns = Turns::new(2, 0);
        let held = turns.take(site(1)).await;
        assert!(held.is_some());
        assert!(turns.take(site(1)).await.is_none());
        assert!(turns.take(site(2)).await.is_some());
        for n in 0..2 * PAYERS_MAX {
            let ip = IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
            drop(turns.take(Payer::Site(ip)).await);
        }
        let queue = turns.queue.lock();
        assert!(queue.payers.len() <= PAYERS_MAX);
        assert!(queue.payers.contains_key(&site(1)), "it still has a turn");
        assert_eq!((queue.taken, queue.waiting.len()), (1, 0));
    }
}
