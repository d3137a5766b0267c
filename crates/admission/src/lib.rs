//! Limits on places and turns, so that no single address can take all of them.
//!
//! The gateway and the API use it for connections, watchers, bytes of request bodies that are still arriving,
//! and password checks that wait. Each kind of place has a limit for the node, a limit for each address, and
//! a reserve that only callers with a credential may use. So strangers cannot lock an operator out.

mod turns;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

pub use turns::{NodeTurns, Turn, WorkTurn, WorkTurns, build_aside};

/// The limits for one kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceLimits {
    /// Maximum number on the whole node.
    pub max: usize,
    /// Maximum number for one address.
    pub per_address_max: usize,
    /// How many of `max` are reserved for callers with a credential.
    pub reserved: usize,
}

/// Who takes a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerClass {
    /// A caller without a credential. The limit for its address applies, and the reserve is not available.
    Stranger,
    /// A caller with a credential. The reserve is available.
    Known,
    /// A proxy that speaks for many clients, or an operator on this machine. The reserve is available, and no
    /// limit for the address applies.
    Trusted,
}

/// Why no place was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// All places of the node are taken.
    #[error("the limit of this node is reached")]
    Node,
    /// The address has reached its limit.
    #[error("the limit for your address is reached")]
    Address,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// How many of `all` have no user at the moment.
    unused: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The places of one kind.
#[derive(Debug)]
pub struct Places {
    limits: PlaceLimits,
    /// Percentage of the places that the other addresses leave, which one address may hold.
    share_percent: usize,
    taken: Mutex<Taken>,
}

/// Places that are taken until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    /// The user; `None` while the place is kept for the next user.
    user: Option<(IpAddr, CallerClass)>,
    count: usize,
}

impl Places {
    /// Places, none of which is taken.
    #[must_use]
    pub fn new(limits: PlaceLimits) -> Arc<Self> {
        Self::shared(limits, 100)
    }

    /// Places, none of which is taken. `limits` sets which part of the places for strangers one address may hold
    /// while it is alone. Each further address may hold the same part of the places that the other addresses do
    /// not use. So a few addresses do not take all places.
    #[must_use]
    pub fn fair(limits: PlaceLimits) -> Arc<Self> {
        let PlaceLimits { max, per_address_max, reserved } = limits;
        let for_strangers = max.saturating_sub(reserved).max(1);
        let percent = per_address_max.saturating_mul(100).div_ceil(for_strangers).min(100);
        Self::shared(limits, u8::try_from(percent).unwrap_or(100))
    }

    /// Places, none of which is taken. One address may hold at most `share_percent` percent of the places that the
    /// other addresses do not use, but always one. So each further address may hold fewer, and some places are
    /// left for the next address.
    #[must_use]
    pub fn shared(limits: PlaceLimits, share_percent: u8) -> Arc<Self> {
        let share_percent = usize::from(share_percent.clamp(1, 100));
        Arc::new(Self { limits, share_percent, taken: Mutex::default() })
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> PlaceLimits {
        self.limits
    }

    /// The number of places that are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.lock().all
    }

    /// The number of places that an address has taken.
    #[must_use]
    pub fn taken_by(&self, address: IpAddr) -> usize {
        self.taken.lock().by_address.get(&site_of(address)).copied().unwrap_or(0)
    }

    /// The number of taken places that have no user.
    #[must_use]
    pub fn unused(&self) -> usize {
        self.taken.lock().unused
    }

    /// The number of places that a user could take now.
    #[must_use]
    pub fn room(&self, address: IpAddr, caller_class: CallerClass) -> usize {
        let taken = self.taken.lock();
        let max = self.max_for(caller_class);
        let of_node = max.saturating_sub(taken.all);
        if caller_class == CallerClass::Trusted {
            return of_node;
        }
        let (of_address, allowed) = self.of_address(&taken, site_of(address), max);
        of_node.min(allowed.saturating_sub(of_address))
    }

    /// Takes `count` places.
    pub fn take(
        self: &Arc<Self>,
        address: IpAddr,
        caller_class: CallerClass,
        count: usize,
    ) -> Result<Place, NoPlace> {
        let user = (site_of(address), caller_class);
        if count > 0 {
            self.add(&mut self.taken.lock(), user, count, count)?;
        }
        Ok(Place { places: Arc::clone(self), user: Some(user), count })
    }

    /// Counts `count` more places for a user, `new` of which nobody has held before.
    fn add(
        &self,
        taken: &mut Taken,
        (address, caller_class): (IpAddr, CallerClass),
        count: usize,
        new: usize,
    ) -> Result<(), NoPlace> {
        let max = self.max_for(caller_class);
        if taken.all.saturating_add(new) > max {
            return Err(NoPlace::Node);
        }
        let (of_address, allowed) = self.of_address(taken, address, max);
        if caller_class != CallerClass::Trusted && of_address.saturating_add(count) > allowed {
            return Err(NoPlace::Address);
        }
        *taken.by_address.entry(address).or_insert(0) += count;
        taken.all += new;
        Ok(())
    }

    /// The places of the node that these callers may use.
    fn max_for(&self, caller_class: CallerClass) -> usize {
        let PlaceLimits { max, reserved, .. } = self.limits;
        if caller_class == CallerClass::Stranger { max - reserved.min(max) } else { max }
    }

    /// The places that an address has taken, and those that it may have, if its callers may use `max` places.
    fn of_address(&self, taken: &Taken, address: IpAddr, max: usize) -> (usize, usize) {
        let of_address = taken.by_address.get(&address).copied().unwrap_or(0);
        let of_others = (taken.all - taken.unused).saturating_sub(of_address);
        let share = max.saturating_sub(of_others).saturating_mul(self.share_percent).div_ceil(100);
        (of_address, self.limits.per_address_max.min(share))
    }
}

impl Taken {
    fn remove(&mut self, address: IpAddr, count: usize) {
        if let Some(of_address) = self.by_address.get_mut(&address) {
            *of_address -= count;
            if *of_address == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Place {
    /// The number of places that are held.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes `count` more places for the user. The places held before are kept, even if this fails.
    pub fn grow(&mut self, count: usize) -> Result<(), NoPlace> {
        let Some(user) = self.user else { return Err(NoPlace::Address) };
        if count == 0 {
            return Ok(());
        }
        self.places.add(&mut self.places.taken.lock(), user, count, count)?;
        self.count += count;
        Ok(())
    }

    /// Removes the user of the place. The place stays taken, but counts for no address.
    pub fn set_unused(&mut self) {
        if let Some((address, _)) = self.user.take() {
            let mut taken = self.places.taken.lock();
            taken.remove(address, self.count);
            taken.unused += self.count;
        }
    }

    /// Gives a place that nobody uses to a user. After an error nobody uses it.
    pub fn set_user(&mut self, address: IpAddr, caller_class: CallerClass) -> Result<(), NoPlace> {
        self.set_unused();
        let user = (site_of(address), caller_class);
        let mut taken = self.places.taken.lock();
        self.places.add(&mut taken, user, self.count, 0)?;
        taken.unused -= self.count;
        self.user = Some(user);
        Ok(())
    }

    /// Takes or returns places until `count` are held. If it cannot take more, it keeps those that it has.
    pub fn resize(&mut self, count: usize) -> Result<(), NoPlace> {
        if count > self.count {
            return self.grow(count - self.count);
        }
        self.give_back(self.count - count);
        Ok(())
    }

    fn give_back(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let mut taken = self.places.taken.lock();
        taken.all -= count;
        self.count -= count;
        match self.user {
            Some((address, _)) => taken.remove(address, count),
            None => taken.unused -= count,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back(self.count);
    }
}

/// The network that counts as one address where people sign in, and for nodes that greet this one: the whole IPv4 address,
/// or the first 64 bits of an IPv6 address, because its owner can choose the rest.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// The network that counts as one address wherever one client could use many: the whole IPv4 address, or the first 48 bits
/// of an IPv6 address. One site usually owns all addresses that have these bits in common.
pub fn site_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_room_for_a_user_is_what_it_could_take() {
        let limits = PlaceLimits { max: 10, per_address_max: 5, reserved: 2 };
        for places in [Places::new(limits), Places::shared(limits, 40)] {
            let _other = places.take(ip("10.0.0.1"), CallerClass::Stranger, 2).unwrap();
            let _own = places.take(ip("10.0.0.2"), CallerClass::Stranger, 1).unwrap();
            for caller_class in [CallerClass::Stranger, CallerClass::Known, CallerClass::Trusted] {
                let room = places.room(ip("::ffff:10.0.0.2"), caller_class);
                let take = |count| places.take(ip("10.0.0.2"), caller_class, count);
                assert!(room > 0 && take(room).is_ok(), "{caller_class:?} {room}");
                assert!(take(room + 1).is_err(), "{caller_class:?} {room}");
            }
        }
    }

    #[test]
    fn no_address_gets_all_and_a_share_is_kept_for_the_known() {
        let places = Places::new(PlaceLimits { max: 10, per_address_max: 5, reserved: 2 });
        let take =
            |address: &str, caller_class, count| places.take(ip(address), caller_class, count);
        let a = take("10.0.0.1", CallerClass::Stranger, 5).unwrap();
        assert_eq!(take("10.0.0.1", CallerClass::Stranger, 1).unwrap_err(), NoPlace::Address);
        assert_eq!(take("::ffff:10.0.0.1", CallerClass::Known, 1).unwrap_err(), NoPlace::Address);
        let _b = take("10.0.0.2", CallerClass::Stranger, 3).unwrap();
        assert_eq!(take("10.0.0.3", CallerClass::Stranger, 1).unwrap_err(), NoPlace::Node);
        let _c = take("10.0.0.3", CallerClass::Known, 1).unwrap();
        let _d = take("10.0.0.1", CallerClass::Trusted, 1).unwrap();
        assert_eq!(take("10.0.0.4", CallerClass::Trusted, 1).unwrap_err(), NoPlace::Node);
        drop(a);
        assert_eq!(places.taken(), 5);
        let mut grows = take("10.0.0.1", CallerClass::Stranger, 1).unwrap();
        grows.grow(2).unwrap();
        assert_eq!(grows.grow(9).unwrap_err(), NoPlace::Node);
        drop(grows);
        assert_eq!(places.taken(), 5, "what could not be had is not given back");
        let mut resized = take("10.0.0.1", CallerClass::Stranger, 3).unwrap();
        resized.resize(1).unwrap();
        assert_eq!(places.taken(), 6);
        assert_eq!(resized.resize(9).unwrap_err(), NoPlace::Node);
        resized.resize(2).unwrap();
        assert_eq!(places.taken(), 7);
        drop(resized);
        assert_eq!(places.taken(), 5);
    }

    /// However many addresses take their whole share, the next address gets a place. Places without a user do not
    /// keep others out.
    #[test]
    fn each_address_takes_a_share_of_what_the_others_leave() {
        let limits = PlaceLimits { max: 384, per_address_max: 384, reserved: 48 };
        let places = Places::shared(limits, 25);
        let take_all = |last: u8, caller_class| -> Vec<Place> {
            let address = IpAddr::from([10, 0, 0, last]);
            std::iter::from_fn(|| places.take(address, caller_class, 1).ok()).collect()
        };
        let mut held: Vec<_> = (1..=8).map(|last| take_all(last, CallerClass::Stranger)).collect();
        let lens: Vec<usize> = held.iter().map(Vec::len).collect();
        assert_eq!(lens, [84, 63, 48, 36, 27, 20, 15, 11]);
        assert_eq!(take_all(9, CallerClass::Stranger).len(), 8, "the next address still gets some");
        held.extend((9..=60).map(|last| take_all(last, CallerClass::Stranger)));
        assert_eq!(places.taken(), 336, "strangers have all that they may");
        assert_eq!(take_all(61, CallerClass::Known).len(), 12, "a quarter of the kept share");
        // A place without a user counts for no address.
        held.iter_mut().flatten().for_each(Place::set_unused);
        assert_eq!((places.taken(), places.unused()), (336, 336));
        let reused = |place: &mut Place| place.set_user(ip("10.0.0.62"), CallerClass::Stranger);
        let reused = held.iter_mut().flatten().map(reused).filter(Result::is_ok).count();
        assert_eq!((reused, places.unused()), (84, 252));
        drop(held);
        assert_eq!((places.taken(), places.unused()), (0, 0));
        assert!(places.taken.lock().by_address.is_empty());
    }

    #[test]
    fn with_fair_places_the_first_address_gets_its_bound_and_some_are_left_for_the_next() {
        let limits = PlaceLimits { max: 20_000, per_address_max: 12_000, reserved: 2_500 };
        let places = Places::fair(limits);
        let mut held = Vec::new();
        for last in 1..=4 {
            let mut place = places.take([10, 0, 0, last].into(), CallerClass::Stranger, 0).unwrap();
            while place.grow(1).is_ok() {}
            held.push(place);
        }
        let lens: Vec<usize> = held.iter().map(|place| place.count).collect();
        assert_eq!(lens, [12_000, 3_795, 1_177, 365]);
        let next = places.take(ip("10.0.0.5"), CallerClass::Stranger, 100);
        assert!(next.is_ok(), "four addresses have not taken all");
    }

    #[test]
    fn ipv6_counts_by_the_network_that_one_subscriber_has() {
        let places = Places::new(PlaceLimits { max: 10, per_address_max: 1, reserved: 0 });
        let _one = places.take(ip("2001:db8::1"), CallerClass::Stranger, 1).unwrap();
        places.take(ip("2001:db8::2"), CallerClass::Stranger, 1).unwrap_err();
        places.take(ip("2001:db8:0:1::1"), CallerClass::Stranger, 1).unwrap_err();
        let _other = places.take(ip("2001:db8:1::1"), CallerClass::Stranger, 1).unwrap();
    }
}
