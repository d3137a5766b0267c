//! Limits on places, so that no single address can take all of them.
//!
//! The gateway and the API use it for connections, watchers, bytes of request bodies that are still arriving,
//! and password checks that wait. Each kind of place has a limit for the node, a limit for each address, and
//! a reserve that only callers with a credential may use. So strangers cannot lock an operator out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

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
pub enum Standing {
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
    #[error("this node has no more places of this kind")]
    Node,
    /// The address has reached its limit.
    #[error("this address has as many places of this kind as it may")]
    Address,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// The places of one kind.
#[derive(Debug)]
pub struct Places {
    limits: PlaceLimits,
    taken: Mutex<Taken>,
}

/// Places that are taken until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    address: IpAddr,
    standing: Standing,
    count: usize,
}

impl Places {
    /// Places, none of which is taken.
    #[must_use]
    pub fn new(limits: PlaceLimits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
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
    /// Takes `count` more places. The places held before are kept, even if this fails.
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

    /// Takes or returns places until `count` are held. If it cannot take more, it keeps those that it has.
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

/// The network that counts as one address: the whole IPv4 address, or the first 64 bits of an IPv6 address,
/// because its owner can choose the rest.
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
