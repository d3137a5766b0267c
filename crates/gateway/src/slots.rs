//! The slots for requests to one instance, and the requests that wait for a slot.
//!
//! No client can take all slots: it gets another slot only while it holds fewer than three times as many as are free
//! (the dynamic threshold of Choudhury and Hahne, 1998). So a single client gets three quarters of the slots, the next
//! one three quarters of the rest, and so on. One slot in 16 is reserved for callers with a credential. The queue is
//! shared in the same way. A free slot goes to the client in the queue that holds the fewest. A client is an address,
//! or a user: a caller with a credential counts by its name, wherever it is. The last part of the reserved slots is for
//! operators and administrators.
//!
//! Many clients together can still hold all slots with slow requests. So a client without a slot asks for one: the
//! oldest request of the client that holds the most must end, if that client holds more than the new one would. A
//! request is kept for some time in any case, so that only slow requests end early. The positions in the queue follow
//! the same rule. The requests of a user end early only for those of another user.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::client::ClientAddr;
use super::timer::timer_now;
use maxine_admission::{CallerClass, Leave, Payer, site_of};

/// A client may hold fewer slots than this many times the free ones.
const FREE_FACTOR: usize = 3;
/// One slot in this many is reserved for callers with a credential.
const KEPT_ONE_IN: usize = 16;
/// How often a request that waits asks for a slot of a client that holds more.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// The client for which a slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) address: IpAddr,
    /// Which limits of the whole node apply to the client. An address that stands for many clients is
    /// [`CallerClass::Trusted`]: a trusted proxy that does not name its client.
    pub(crate) caller_class: CallerClass,
}

impl Holder {
    pub(crate) fn of(client: &ClientAddr, caller_class: CallerClass) -> Self {
        let is_shared = client.is_peer_trusted && client.ip == client.peer;
        let caller_class = if is_shared { CallerClass::Trusted } else { caller_class };
        Self { address: site_of(client.ip), caller_class }
    }

    fn is_shared(self) -> bool {
        self.caller_class == CallerClass::Trusted
    }

    /// Whose slots and positions count together with those of this holder.
    fn payer(self) -> Payer {
        self.caller_class.payer(self.address)
    }
}

/// Slots, or positions in the queue, and how many of them each client holds.
#[derive(Debug)]
struct Share {
    free: usize,
    /// How many of the free ones are reserved for callers with a credential.
    kept: usize,
    taken: HashMap<Payer, usize>,
}

impl Share {
    fn new(free: usize) -> Self {
        Self { free, kept: free / KEPT_ONE_IN, taken: HashMap::new() }
    }

    fn may_take(&self, holder: Holder) -> bool {
        self.may_take_of(self.free, holder)
    }

    /// Whether the holder might take one if `free` were free.
    fn may_take_of(&self, free: usize, holder: Holder) -> bool {
        let free = free.saturating_sub(holder.caller_class.kept_from(self.kept));
        free > 0 && (holder.is_shared() || self.taken_by(holder.payer()) < FREE_FACTOR * free)
    }

    fn taken_by(&self, payer: Payer) -> usize {
        self.taken.get(&payer).copied().unwrap_or(0)
    }

    fn take(&mut self, holder: Holder) -> bool {
        let may = self.may_take(holder);
        if may {
            self.free -= 1;
            *self.taken.entry(holder.payer()).or_insert(0) += 1;
        }
        may
    }

    fn release(&mut self, holder: Holder) {
        self.free += 1;
        let payer = holder.payer();
        if let Some(taken) = self.taken.get_mut(&payer) {
            *taken -= 1;
            if *taken == 0 {
                self.taken.remove(&payer);
            }
        }
    }
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    holder: Holder,
    grant: oneshot::Sender<Slot>,
}

/// A slot that may be asked for. The oldest one of a client has its lowest number.
type Held = BTreeMap<(Payer, u64), Arc<Leave>>;

#[derive(Debug)]
struct State {
    slots: Share,
    queue: Share,
    /// The waiting requests of each client, in the order of arrival.
    waiting: BTreeMap<Payer, VecDeque<Waiter>>,
    held: Held,
    next_number: u64,
    /// How long a request keeps its slot in any case.
    kept: Duration,
}

impl State {
    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// Removes the waiter that gets the next slot: of those that may have one, the first one of the client that holds
    /// the fewest slots. An address that stands for many clients is served in the order of arrival.
    fn next(&mut self) -> Option<Waiter> {
        let first = self.waiting.iter().filter_map(|(payer, of_payer)| {
            let waiter = of_payer.front().filter(|waiter| self.slots.may_take(waiter.holder))?;
            let taken = if waiter.holder.is_shared() { 0 } else { self.slots.taken_by(*payer) };
            Some((taken, waiter.number, *payer))
        });
        let (_, number, payer) = first.min()?;
        self.remove(payer, number)
    }

    /// The slot for a holder for which one was taken.
    fn slot(&mut self, slots: &Arc<Slots>, holder: Holder) -> Slot {
        let number = self.number();
        let leave = Arc::new(Leave::after(self.kept));
        if holder.caller_class.gives_way() {
            self.held.insert((holder.payer(), number), Arc::clone(&leave));
        }
        Slot { slots: Some(Arc::clone(slots)), holder, number, leave }
    }

    fn release(&mut self, holder: Holder, number: u64) {
        self.held.remove(&(holder.payer(), number));
        self.slots.release(holder);
    }

    /// Asks for a slot for a waiter: that of the client that holds the most, if it holds more than this one would with
    /// one more. The slot is free when its request has ended.
    fn ask_for_slot(&mut self, of: Holder, number: u64) {
        let newcomer = of.payer();
        let mut own = self.waiting.get(&newcomer).into_iter().flatten();
        if !own.any(|waiter| waiter.number == number) {
            return;
        }
        let mut most = self.slots.taken_by(newcomer) + 1;
        let mut asked = None;
        for (payer, taken) in &self.slots.taken {
            if !payer.gives_way_to(newcomer, false) || *taken <= most {
                continue;
            }
            let mut held = self.held.range((*payer, 0)..=(*payer, u64::MAX));
            if let Some((key, leave)) = held.next()
                && leave.may_be_displaced(false)
            {
                (most, asked) = (*taken, Some(*key));
            }
        }
        if let Some(leave) = asked.and_then(|key| self.held.remove(&key)) {
            leave.displace();
        }
    }

    /// Takes a position in the queue. If there is none, the newest waiter of the client that has the most loses its
    /// position, if that client has more than this one would.
    fn take_position(&mut self, holder: Holder) -> bool {
        if self.queue.take(holder) {
            return true;
        }
        if !self.queue.may_take_of(self.queue.free + 1, holder) {
            return false;
        }
        let newcomer = holder.payer();
        let own = self.queue.taken_by(newcomer) + 1;
        let others = self.waiting.iter().filter_map(|(payer, of_payer)| {
            let newest = of_payer.back()?;
            let gives_way =
                payer.gives_way_to(newcomer, false) && newest.holder.caller_class.gives_way();
            let taken = self.queue.taken_by(*payer);
            (gives_way && taken > own).then_some((taken, *payer, newest.number))
        });
        let Some((_, payer, number)) = others.max() else { return false };
        // Its request is refused. Nothing was sent to the instance.
        drop(self.remove(payer, number));
        self.queue.take(holder)
    }

    fn remove(&mut self, payer: Payer, number: u64) -> Option<Waiter> {
        let of_payer = self.waiting.get_mut(&payer)?;
        let at = of_payer.iter().position(|waiter| waiter.number == number)?;
        let waiter = of_payer.remove(at)?;
        if of_payer.is_empty() {
            self.waiting.remove(&payer);
        }
        self.queue.release(waiter.holder);
        Some(waiter)
    }
}

/// The slots of one instance.
#[derive(Debug)]
pub(crate) struct Slots(Mutex<State>);

/// A slot. It is held until this value is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    /// `None` once the slot was returned.
    slots: Option<Arc<Slots>>,
    holder: Holder,
    number: u64,
    leave: Arc<Leave>,
}

/// A position in the queue. Dropping this value leaves the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    slots: Arc<Slots>,
    holder: Holder,
    number: u64,
    granted: oneshot::Receiver<Slot>,
}

impl Slots {
    /// A request keeps its slot for at least `kept`.
    pub(crate) fn new(slots: u32, queue: u32, kept: Duration) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            slots: Share::new(slots as usize),
            queue: Share::new(queue as usize),
            waiting: BTreeMap::new(),
            held: Held::new(),
            next_number: 0,
            kept,
        })))
    }

    /// Takes a slot, if the holder may have one now.
    pub(crate) fn take(self: &Arc<Self>, holder: Holder) -> Option<Slot> {
        let mut state = self.0.lock();
        let taken = state.slots.take(holder);
        taken.then(|| state.slot(self, holder))
    }

    /// Takes a position in the queue, if the holder may have one.
    pub(crate) fn wait(self: &Arc<Self>, holder: Holder) -> Option<Waiting> {
        let mut state = self.0.lock();
        if !state.take_position(holder) {
            return None;
        }
        let (grant, granted) = oneshot::channel();
        let number = state.number();
        let waiter = Waiter { number, holder, grant };
        state.waiting.entry(holder.payer()).or_default().push_back(waiter);
        // A slot may have become free since the holder asked for one.
        self.grant(&mut state);
        state.ask_for_slot(holder, number);
        drop(state);
        Some(Waiting { slots: Arc::clone(self), holder, number, granted })
    }

    /// Gives free slots to waiters.
    fn grant(self: &Arc<Self>, state: &mut State) {
        while let Some(waiter) = state.next() {
            let holder = waiter.holder;
            state.slots.take(holder);
            let slot = state.slot(self, holder);
            if let Err(mut unclaimed) = waiter.grant.send(slot) {
                // Dropping the slot would take the lock that is held here.
                unclaimed.slots = None;
                state.release(holder, unclaimed.number);
            }
        }
    }
}

impl Slot {
    /// The signal that another client needs the slot.
    pub(crate) fn leave(&self) -> &Arc<Leave> {
        &self.leave
    }
}

impl Waiting {
    /// Waits for the slot. `None` if there is none before the deadline, or if the position was lost to another client.
    pub(crate) async fn slot_before(mut self, deadline: Instant) -> Option<Slot> {
        loop {
            let until = deadline.min(timer_now() + ASK_INTERVAL);
            if let Ok(granted) = tokio::time::timeout_at(until, &mut self.granted).await {
                return granted.ok();
            }
            if timer_now() >= deadline {
                return None;
            }
            self.slots.0.lock().ask_for_slot(self.holder, self.number);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let removed = self.slots.0.lock().remove(self.holder.payer(), self.number);
        drop(removed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(slots) = self.slots.take() else { return };
        let mut state = slots.0.lock();
        state.release(self.holder, self.number);
        slots.grant(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::Peer;
    use super::*;

    fn holder(last: u8) -> Holder {
        Holder::of(&ClientAddr::direct(Peer::plain([10, 0, 0, last].into())), CallerClass::Stranger)
    }

    fn user(last: u8, name: &str) -> Holder {
        Holder { caller_class: CallerClass::of_user(name, false), ..holder(last) }
    }

    /// Slots whose requests are not asked to leave while a test runs.
    fn kept_slots(slots: u32, queue: u32) -> Arc<Slots> {
        Slots::new(slots, queue, Duration::from_secs(600))
    }

    async fn granted(waiting: Waiting) -> Slot {
        waiting.slot_before(timer_now() + Duration::from_secs(5)).await.unwrap()
    }

    fn take_all(slots: &Arc<Slots>, of: Holder) -> Vec<Slot> {
        std::iter::from_fn(|| slots.take(of)).collect()
    }

    #[test]
    fn each_client_gets_three_quarters_of_what_the_others_leave() {
        let slots = kept_slots(1_024, 0);
        let mut held = vec![take_all(&slots, holder(1))];
        held.extend((2..=5).map(|last| take_all(&slots, holder(last))));
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [720, 180, 45, 12, 3]);
        held.extend((6..=9).map(|last| take_all(&slots, holder(last))));
        assert_eq!(slots.0.lock().slots.free, 64, "strangers get no more");
        let viewer = user(10, "viewer");
        held.push(take_all(&slots, viewer));
        assert_eq!(held[9].len(), 36, "three quarters of what is kept for users");
        let admin = Holder { caller_class: CallerClass::of_user("admin", true), ..holder(10) };
        assert_eq!(take_all(&slots, admin).len(), 21, "three quarters of the rest");
        held.clear();
        assert_eq!(slots.0.lock().slots.free, 1_024);
        assert!(slots.0.lock().slots.taken.is_empty());
        let few = kept_slots(2, 0);
        assert_eq!(take_all(&few, holder(1)).len(), 2, "few places may all go to one client");
        let proxy = ClientAddr {
            is_peer_trusted: true,
            ..ClientAddr::direct(Peer::plain([10, 0, 0, 1].into()))
        };
        assert_eq!(
            take_all(&slots, Holder::of(&proxy, CallerClass::Stranger)).len(),
            1_024,
            "it stands for many"
        );
    }

    #[tokio::test]
    async fn the_waiters_of_clients_that_hold_the_fewest_slots_get_slots_first() {
        let slots = kept_slots(4, 8);
        let mut hog = take_all(&slots, holder(1));
        assert_eq!(hog.len(), 3);
        let other = slots.take(holder(2)).unwrap();
        let first = slots.wait(holder(1)).unwrap();
        let second = slots.wait(holder(1)).unwrap();
        let third = slots.wait(holder(3)).unwrap();
        drop(hog.pop());
        let third = granted(third).await;
        drop(other);
        let first = granted(first).await;
        drop(slots.wait(holder(4)).unwrap());
        drop((first, third));
        let second = granted(second).await;
        drop((second, hog));
        let state = slots.0.lock();
        assert_eq!((state.slots.free, state.queue.free, state.waiting.len()), (4, 8, 0));
        assert!(state.held.is_empty());
    }

    fn attacker(n: u16) -> Holder {
        let [high, low] = n.to_be_bytes();
        Holder::of(
            &ClientAddr::direct(Peer::plain([10, 1, high, low].into())),
            CallerClass::Stranger,
        )
    }

    /// Takes a slot as a request does that waits for at most two seconds.
    async fn acquire(slots: &Arc<Slots>, of: Holder) -> Option<Slot> {
        let deadline = timer_now() + Duration::from_secs(2);
        match slots.take(of) {
            None => slots.wait(of)?.slot_before(deadline).await,
            taken => taken,
        }
    }

    /// Requests that last until their slot is needed.
    async fn attack(slots: Arc<Slots>, of: Holder) {
        loop {
            match acquire(&slots, of).await {
                Some(slot) => slot.leave().displaced().await,
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_clients_with_slow_requests_do_not_keep_out_a_new_one() {
        for attackers in [24, 48, 200] {
            let slots = Slots::new(1_024, 1_024, Duration::from_secs(1));
            let of_each = 2_200 / usize::from(attackers);
            let attack: Vec<_> = (0..attackers)
                .flat_map(|n| std::iter::repeat_n(attacker(n), of_each))
                .map(|of| tokio::spawn(attack(Arc::clone(&slots), of)))
                .collect();
            tokio::time::sleep(Duration::from_secs(3)).await;
            let held = 1_024 - slots.0.lock().slots.free;
            assert!(held > 900, "{attackers}: {held} slots are held");
            for _ in 0..3 {
                let began = timer_now();
                let slot = acquire(&slots, holder(1)).await;
                let slot = slot.unwrap_or_else(|| panic!("{attackers}: no slot"));
                assert!(timer_now() - began <= Duration::from_millis(1_200), "{attackers}");
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                assert!(!slot.leave().is_displaced(), "it holds less than the others");
                drop(slot);
            }
            for one in &attack {
                one.abort();
            }
            for one in attack {
                assert!(one.await.unwrap_err().is_cancelled());
            }
            let state = slots.0.lock();
            assert_eq!((state.slots.free, state.queue.free), (1_024, 1_024));
            assert!(state.held.is_empty() && state.waiting.is_empty());
        }
    }

    /// Few slots, which clients with two slow requests each fill.
    #[tokio::test(start_paused = true)]
    async fn clients_with_two_slow_requests_each_do_not_keep_out_a_new_one() {
        let slots = Slots::new(100, 100, Duration::from_secs(1));
        let attack: Vec<_> = (0..48)
            .flat_map(|n| [attacker(n); 2])
            .map(|of| tokio::spawn(attack(Arc::clone(&slots), of)))
            .collect();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(slots.take(holder(1)).is_none(), "they have all slots for strangers");
        let slot = acquire(&slots, holder(1)).await.expect("a slot");
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(!slot.leave().is_displaced());
        for one in attack {
            one.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn short_requests_and_those_of_the_known_are_not_ended_for_others() {
        let slots = Slots::new(4, 8, Duration::from_secs(1));
        let known = user(1, "known");
        let of_known: Vec<Slot> = (0..2).map(|_| slots.take(known).unwrap()).collect();
        let of_stranger: Vec<Slot> = (0..2).map(|_| slots.take(holder(2)).unwrap()).collect();
        let waiting = slots.wait(holder(3)).unwrap();
        assert!(of_stranger.iter().all(|slot| !slot.leave().is_displaced()), "it is short so far");
        let slot = waiting.slot_before(timer_now() + Duration::from_secs(2));
        let leave = async {
            of_stranger[0].leave().displaced().await;
            drop(of_stranger);
        };
        let (slot, ()) = tokio::join!(slot, leave);
        assert!(slot.is_some());
        assert!(of_known.iter().all(|slot| !slot.leave().is_displaced()));
    }

    #[test]
    fn the_queue_is_shared_as_well() {
        let slots = kept_slots(1, 4);
        let _held = slots.take(holder(1)).unwrap();
        let hog: Vec<Waiting> = std::iter::from_fn(|| slots.wait(holder(1))).collect();
        assert_eq!(hog.len(), 3);
        let second = slots.wait(holder(2));
        assert!(second.is_some());
        let third = slots.wait(holder(3));
        assert!(third.is_some(), "the client with the most waiters loses one");
        assert_eq!(slots.0.lock().waiting[&holder(1).payer()].len(), 2);
        assert!(slots.wait(holder(1)).is_none());
    }

    #[test]
    fn a_user_at_many_addresses_gets_one_share_of_the_slots_and_of_the_queue() {
        for addresses in [24, 200] {
            let slots = kept_slots(1_024, 1_024);
            let viewer =
                |n: u16| Holder { caller_class: user(1, "viewer").caller_class, ..attacker(n) };
            let held: Vec<Slot> =
                (0..addresses).flat_map(|n| take_all(&slots, viewer(n))).collect();
            assert_eq!(held.len(), 756, "{addresses}: as many as at one address");
            let queued = |n| std::iter::from_fn(|| slots.wait(viewer(n))).collect::<Vec<_>>();
            let waiting: Vec<Waiting> = (0..addresses).flat_map(queued).collect();
            assert_eq!(waiting.len(), 756, "{addresses}");
            assert!(slots.take(holder(1)).is_some(), "{addresses}: a caller without a credential");
            assert!(slots.take(user(1, "other")).is_some(), "{addresses}: another user");
        }
    }

    /// Many users with slow requests hold all slots. A user with fewer gets one, a caller without a credential does
    /// not.
    #[tokio::test(start_paused = true)]
    async fn users_with_slow_requests_give_way_to_other_users_and_not_to_strangers() {
        for users in [24, 200] {
            let slots = Slots::new(1_024, 1_024, Duration::from_secs(1));
            let of_each = 2_200 / users;
            let attack: Vec<_> = (0..users)
                .flat_map(|n| std::iter::repeat_n(user(1, &format!("user {n}")), of_each))
                .map(|of| tokio::spawn(attack(Arc::clone(&slots), of)))
                .collect();
            tokio::time::sleep(Duration::from_secs(3)).await;
            let stranger = acquire(&slots, holder(1)).await;
            assert!(stranger.is_none(), "{users}: users do not give way to strangers");
            let slot = acquire(&slots, user(1, "other")).await;
            let slot = slot.unwrap_or_else(|| panic!("{users}: no slot for another user"));
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            assert!(!slot.leave().is_displaced(), "{users}: it holds less than the others");
            let admin = Holder { caller_class: CallerClass::of_user("admin", true), ..holder(1) };
            assert!(slots.take(admin).is_some(), "{users}: the last part is for operators");
            for one in &attack {
                one.abort();
            }
        }
    }
}
