//! The slots for requests to one instance, and the requests that wait for a slot.
//!
//! No client can take all slots: it gets another slot only while it holds fewer than three times as many as are free
//! (the dynamic threshold of Choudhury and Hahne, 1998). So a single client gets three quarters of the slots, the next
//! one three quarters of the rest, and so on. One slot in 16 is reserved for callers with a credential. The queue is
//! shared in the same way.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::client::ClientAddr;
use maxine_admission::{CallerClass, site_of};

/// A client may hold fewer slots than this many times the free ones.
const FREE_FACTOR: usize = 3;
/// One slot in this many is reserved for callers with a credential.
const KEPT_ONE_IN: usize = 16;

/// The client for which a slot is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) address: IpAddr,
    /// Whether the address stands for many clients: a trusted proxy that does not name its client.
    is_shared: bool,
    /// Whether the request has a credential of this cluster.
    is_known: bool,
}

impl Holder {
    pub(crate) fn of(client: &ClientAddr, is_known: bool) -> Self {
        let is_shared = client.is_peer_trusted && client.ip == client.peer;
        Self { address: site_of(client.ip), is_shared, is_known }
    }

    /// Which limits of the whole node apply to the client.
    pub(crate) fn caller_class(&self) -> CallerClass {
        match (self.is_shared, self.is_known) {
            (true, _) => CallerClass::Trusted,
            (false, true) => CallerClass::Known,
            (false, false) => CallerClass::Stranger,
        }
    }
}

/// Slots, or positions in the queue, and how many of them each address holds.
#[derive(Debug)]
struct Share {
    free: usize,
    /// How many of the free ones are reserved for callers with a credential.
    kept: usize,
    taken: HashMap<IpAddr, usize>,
}

impl Share {
    fn new(free: usize) -> Self {
        Self { free, kept: free / KEPT_ONE_IN, taken: HashMap::new() }
    }

    fn may_take(&self, holder: Holder) -> bool {
        let taken = || self.taken.get(&holder.address).copied().unwrap_or(0);
        let may_keep = holder.is_known || holder.is_shared;
        let free = if may_keep { self.free } else { self.free.saturating_sub(self.kept) };
        free > 0 && (holder.is_shared || taken() < FREE_FACTOR * free)
    }

    fn take(&mut self, holder: Holder) -> bool {
        let may = self.may_take(holder);
        if may {
            self.free -= 1;
            *self.taken.entry(holder.address).or_insert(0) += 1;
        }
        may
    }

    fn release(&mut self, holder: Holder) {
        self.free += 1;
        if let Some(taken) = self.taken.get_mut(&holder.address) {
            *taken -= 1;
            if *taken == 0 {
                self.taken.remove(&holder.address);
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

#[derive(Debug)]
struct State {
    slots: Share,
    queue: Share,
    /// The waiting requests of each address, in the order of arrival.
    waiting: BTreeMap<IpAddr, VecDeque<Waiter>>,
    next_number: u64,
}

impl State {
    /// Removes the first waiter that may have a slot now.
    fn next(&mut self) -> Option<Waiter> {
        let first = self.waiting.iter().filter_map(|(address, of_address)| {
            let waiter = of_address.front().filter(|waiter| self.slots.may_take(waiter.holder))?;
            Some((waiter.number, *address))
        });
        let (number, address) = first.min()?;
        self.remove(address, number)
    }

    fn remove(&mut self, address: IpAddr, number: u64) -> Option<Waiter> {
        let of_address = self.waiting.get_mut(&address)?;
        let at = of_address.iter().position(|waiter| waiter.number == number)?;
        let waiter = of_address.remove(at)?;
        if of_address.is_empty() {
            self.waiting.remove(&address);
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
}

/// A position in the queue. Dropping this value leaves the queue.
#[derive(Debug)]
pub(crate) struct Waiting {
    slots: Arc<Slots>,
    address: IpAddr,
    number: u64,
    granted: oneshot::Receiver<Slot>,
}

impl Slots {
    pub(crate) fn new(slots: u32, queue: u32) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            slots: Share::new(slots as usize),
            queue: Share::new(queue as usize),
            waiting: BTreeMap::new(),
            next_number: 0,
        })))
    }

    /// Takes a slot, if the holder may have one now.
    pub(crate) fn take(self: &Arc<Self>, holder: Holder) -> Option<Slot> {
        let taken = self.0.lock().slots.take(holder);
        taken.then(|| Slot { slots: Some(Arc::clone(self)), holder })
    }

    /// Takes a position in the queue, if the holder may have one.
    pub(crate) fn wait(self: &Arc<Self>, holder: Holder) -> Option<Waiting> {
        let mut state = self.0.lock();
        if !state.queue.take(holder) {
            return None;
        }
        let (grant, granted) = oneshot::channel();
        let number = state.next_number;
        state.next_number += 1;
        let waiter = Waiter { number, holder, grant };
        state.waiting.entry(holder.address).or_default().push_back(waiter);
        // A slot may have become free since the holder asked for one.
        self.grant(&mut state);
        drop(state);
        Some(Waiting { slots: Arc::clone(self), address: holder.address, number, granted })
    }

    /// Gives free slots to waiters.
    fn grant(self: &Arc<Self>, state: &mut State) {
        while let Some(waiter) = state.next() {
            let holder = waiter.holder;
            state.slots.take(holder);
            let slot = Slot { slots: Some(Arc::clone(self)), holder };
            if let Err(mut unclaimed) = waiter.grant.send(slot) {
                // Dropping the slot would take the lock that is held here.
                unclaimed.slots = None;
                state.slots.release(holder);
            }
        }
    }
}

impl Waiting {
    /// Waits for the slot.
    pub(crate) async fn slot(mut self) -> Option<Slot> {
        (&mut self.granted).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let removed = self.slots.0.lock().remove(self.address, self.number);
        drop(removed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(slots) = self.slots.take() else { return };
        let mut state = slots.0.lock();
        state.slots.release(self.holder);
        slots.grant(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::Peer;
    use super::*;

    fn holder(last: u8) -> Holder {
        Holder::of(&ClientAddr::direct(Peer::plain([10, 0, 0, last].into())), false)
    }

    fn take_all(slots: &Arc<Slots>, of: Holder) -> Vec<Slot> {
        std::iter::from_fn(|| slots.take(of)).collect()
    }

    #[test]
    fn each_client_gets_three_quarters_of_what_the_others_leave() {
        let slots = Slots::new(1_024, 0);
        let mut held = vec![take_all(&slots, holder(1))];
        held.extend((2..=5).map(|last| take_all(&slots, holder(last))));
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [720, 180, 45, 12, 3]);
        held.extend((6..=9).map(|last| take_all(&slots, holder(last))));
        assert_eq!(slots.0.lock().slots.free, 64, "strangers get no more");
        let known = Holder { is_known: true, ..holder(10) };
        assert_eq!(take_all(&slots, known).len(), 48, "three quarters of what is kept");
        held.clear();
        assert_eq!(slots.0.lock().slots.free, 1_024);
        assert!(slots.0.lock().slots.taken.is_empty());
        let few = Slots::new(2, 0);
        assert_eq!(take_all(&few, holder(1)).len(), 2, "few places may all go to one client");
        let proxy = ClientAddr {
            is_peer_trusted: true,
            ..ClientAddr::direct(Peer::plain([10, 0, 0, 1].into()))
        };
        assert_eq!(take_all(&slots, Holder::of(&proxy, false)).len(), 1_024, "it stands for many");
    }

    #[tokio::test]
    async fn waiters_get_slots_in_order_unless_their_client_is_over_its_share() {
        let slots = Slots::new(4, 8);
        let mut hog = take_all(&slots, holder(1));
        assert_eq!(hog.len(), 3);
        let other = slots.take(holder(2)).unwrap();
        let first = slots.wait(holder(1)).unwrap();
        let second = slots.wait(holder(1)).unwrap();
        let third = slots.wait(holder(3)).unwrap();
        drop(hog.pop());
        let first = first.slot().await.unwrap();
        drop(other);
        let third = third.slot().await.unwrap();
        drop(slots.wait(holder(4)).unwrap());
        drop((first, third));
        let second = second.slot().await.unwrap();
        drop((second, hog));
        let state = slots.0.lock();
        assert_eq!((state.slots.free, state.queue.free, state.waiting.len()), (4, 8, 0));
    }

    #[test]
    fn the_queue_is_shared_as_well() {
        let slots = Slots::new(1, 4);
        let _held = slots.take(holder(1)).unwrap();
        let hog: Vec<Waiting> = std::iter::from_fn(|| slots.wait(holder(1))).collect();
        assert_eq!(hog.len(), 3);
        assert!(slots.wait(holder(2)).is_some());
    }
}
