//! So many places, of which no one address gets all.
//!
//! Connections, watchers, bytes of bodies that are still arriving, and passwords that wait for their
//! turn are counted alike: a bound for the node, a bound for each address, and a share that only
//! callers with a credential may take, so that strangers cannot lock an operator out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// Bounds of one kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceLimits {
    /// On the whole node.
    pub max: usize,
    /// For one address.
    pub per_address_max: usize,
    /// Of `max`, how many only those with a credential may take.
    pub reserved: usize,
}

/// For whom a place is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody known: within the address's bound, and not the reserved ones.
    Stranger,
    /// Someone with a credential: the reserved places as well.
    Known,
    /// A proxy that speaks for many clients, or an operator on this machine: as known, and without
    /// a bound for its address.
    Trusted,
}

/// Why there was no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// The node's are taken.
    #[error("this node has no more places of this kind")]
    Node,
    /// The address has as many as it may.
    #[error("this address has as many places of this kind as it may")]
    Address,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Places of one kind.
#[derive(Debug)]
pub struct Places {
    limits: PlaceLimits,
    taken: Mutex<Taken>,
}

/// Places that are held until dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    address: IpAddr,
    standing: Standing,
    count: usize,
}

impl Places {
    /// None of them taken.
    #[must_use]
    pub fn new(limits: PlaceLimits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    /// The bounds.
    #[must_use]
    pub fn limits(&self) -> PlaceLimits {
        self.limits
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.lock().all
    }

    /// Takes `count` places.
    pub fn take(
        self: &Arc<Self>,
        address: IpAddr,
        standing: Standing,
        count: usize,
    ) -> Result<Place, NoPlace> {
        let address = network_of(address);
        let mut place = Place { places: Arc::clone(self), address, standing, count: 0 };
        place.grow(count)?;
        Ok(place)
    }
}

impl Place {
    /// Takes `count` more; what is held already stays held either way.
    pub fn grow(&mut self, count: usize) -> Result<(), NoPlace> {
        let PlaceLimits { max, per_address_max, reserved } = self.places.limits;
        let max = if self.standing == Standing::Stranger { max - reserved.min(max) } else { max };
        let mut taken = self.places.taken.lock();
        if taken.all.saturating_add(count) > max {
            return Err(NoPlace::Node);
        }
        let of_address = taken.by_address.entry(self.address).or_insert(0);
        if self.standing != Standing::Trusted && of_address.saturating_add(count) > per_address_max
        {
            if *of_address == 0 {
                taken.by_address.remove(&self.address);
            }
            return Err(NoPlace::Address);
        }
        *of_address += count;
        taken.all += count;
        self.count += count;
        Ok(())
    }

    /// Takes more places or gives some back, until `count` are held. Where it cannot have more, it
    /// keeps what it has.
    pub fn resize(&mut self, count: usize) -> Result<(), NoPlace> {
        if count > self.count {
            return self.grow(count - self.count);
        }
        self.give_back(self.count - count);
        Ok(())
    }

    fn give_back(&mut self, count: usize) {
        let mut taken = self.places.taken.lock();
        taken.all -= count;
        self.count -= count;
        if let Some(of_address) = taken.by_address.get_mut(&self.address) {
            *of_address -= count;
            if *of_address == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back(self.count);
    }
}

/// What counts as one address: an IPv4 address, or the 64 bits of an IPv6 one that its owner does not
/// choose.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
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
    fn no_address_gets_all_and_a_share_is_kept_for_the_known() {
        let places = Places::new(PlaceLimits { max: 10, per_address_max: 5, reserved: 2 });
        let take = |address: &str, standing, count| places.take(ip(address), standing, count);
        let a = take("10.0.0.1", Standing::Stranger, 5).unwrap();
        assert_eq!(take("10.0.0.1", Standing::Stranger, 1).unwrap_err(), NoPlace::Address);
        assert_eq!(take("::ffff:10.0.0.1", Standing::Known, 1).unwrap_err(), NoPlace::Address);
        let _b = take("10.0.0.2", Standing::Stranger, 3).unwrap();
        assert_eq!(take("10.0.0.3", Standing::Stranger, 1).unwrap_err(), NoPlace::Node);
        let _c = take("10.0.0.3", Standing::Known, 1).unwrap();
        let _d = take("10.0.0.1", Standing::Trusted, 1).unwrap();
        assert_eq!(take("10.0.0.4", Standing::Trusted, 1).unwrap_err(), NoPlace::Node);
        drop(a);
        assert_eq!(places.taken(), 5);
        let mut grows = take("10.0.0.1", Standing::Stranger, 1).unwrap();
        grows.grow(2).unwrap();
        assert_eq!(grows.grow(9).unwrap_err(), NoPlace::Node);
        drop(grows);
        assert_eq!(places.taken(), 5, "what could not be had is not given back");
        let mut resized = take("10.0.0.1", Standing::Stranger, 3).unwrap();
        resized.resize(1).unwrap();
        assert_eq!(places.taken(), 6);
        assert_eq!(resized.resize(9).unwrap_err(), NoPlace::Node);
        resized.resize(2).unwrap();
        assert_eq!(places.taken(), 7);
        drop(resized);
        assert_eq!(places.taken(), 5);
    }

    #[test]
    fn ipv6_counts_by_the_network_that_one_subscriber_has() {
        let places = Places::new(PlaceLimits { max: 10, per_address_max: 1, reserved: 0 });
        let _one = places.take(ip("2001:db8::1"), Standing::Stranger, 1).unwrap();
        places.take(ip("2001:db8::2"), Standing::Stranger, 1).unwrap_err();
        let _other = places.take(ip("2001:db8:0:1::1"), Standing::Stranger, 1).unwrap();
    }
}
