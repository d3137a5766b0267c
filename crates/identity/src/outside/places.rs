//! Places for sign-ins that wait for an answer of one provider. A provider that is silent fills its own places only, and
//! one address cannot take them all. Questions about sign-ins on another device have places of their own.

use std::collections::HashMap;
use std::net::IpAddr;

use maxine_admission::network_of;
use parking_lot::Mutex;

use super::ProviderError;

/// Maximum number of sign-ins that wait for one provider at the same time.
const PLACES_MAX: usize = 32;
/// Maximum number of those from one address, or from one IPv6 network of 64 bits.
const OF_ADDRESS_MAX: usize = 8;

/// The places at one provider: how many each address has.
#[derive(Default)]
pub(super) struct Places(Mutex<HashMap<IpAddr, usize>>);

/// A place, until it is dropped.
pub(super) struct Taken<'a> {
    places: &'a Places,
    network: IpAddr,
}

impl Places {
    /// Takes a place for a client.
    pub(super) fn take(&self, client: IpAddr) -> Result<Taken<'_>, ProviderError> {
        let network = network_of(client);
        let mut taken = self.0.lock();
        let of_address = taken.get(&network).copied().unwrap_or(0);
        if of_address >= OF_ADDRESS_MAX || taken.values().sum::<usize>() >= PLACES_MAX {
            return Err(ProviderError::Busy);
        }
        taken.insert(network, of_address + 1);
        Ok(Taken { places: self, network })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock();
        match taken.get_mut(&self.network) {
            Some(left) if *left > 1 => *left -= 1,
            _ => {
                taken.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_a_quarter_of_the_places_of_a_provider() {
        let places = Places::default();
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let take = |last: u8| places.take(address(last)).ok();
        let first: Vec<_> = (0..OF_ADDRESS_MAX).map(|_| take(1).unwrap()).collect();
        assert!(take(1).is_none());
        let others: Vec<_> = (2..5).flat_map(|last| (0..8).map(move |_| last)).collect();
        let others: Vec<_> = others.into_iter().map(|last| take(last).unwrap()).collect();
        assert!(take(9).is_none(), "all places are taken");
        drop(first);
        assert!(take(9).is_some() && take(1).is_some());
        drop(others);
        assert!(places.0.lock().is_empty());
    }
}
