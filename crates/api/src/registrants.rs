//! Limits the number of instances that one address registers without a credential.
//!
//! The registry reserves half of its room for callers with a credential. This limit keeps one address from filling the
//! other half. Each node counts the instances that were registered through it since it started, and stops counting an
//! instance that has left the registry. It does not know the counts of other nodes.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use parking_lot::Mutex;

use super::problem::{Problem, ProblemKind};
use maxine_admission::site_of;
use maxine_state::InstanceKey;

/// If an address has reached its limit, its instances are looked up to find out which have left. For this time after a
/// look-up there is no other one. In milliseconds.
const LOOK_AGAIN_MS: u64 = 1_000;
/// When a refused registration can be tried again, in seconds.
pub(super) const RETRY_AFTER_S: u64 = 60;
/// Number of counted instances at which those that have left the registry are removed for the first time.
const TIDY_LEN_MIN: usize = 65_536;

/// The address has registered as many instances as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyInstances {
    max: usize,
}

impl fmt::Display for TooManyInstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "your address has registered {} instances without a credential, the limit \
             (security.open_instances_per_address_max)",
            self.max
        )
    }
}

impl From<TooManyInstances> for Problem {
    fn from(refused: TooManyInstances) -> Self {
        Self::new(ProblemKind::TooManyRequests, refused.to_string())
            .with_retry_after_s(RETRY_AFTER_S)
    }
}

#[derive(Debug, Default)]
struct OfAddress {
    instances: HashSet<InstanceKey>,
    /// There is no look-up of this address before this time, in milliseconds on the monotonic clock.
    look_again_ms: u64,
}

#[derive(Debug, Default)]
struct Counted {
    by_address: HashMap<IpAddr, OfAddress>,
    len: usize,
    /// Number of counted instances at which all of them are looked up.
    tidy_len: usize,
}

/// The instances that each address has registered through this node.
#[derive(Debug)]
pub(super) struct Registrants {
    /// Maximum number for one address; 0 for no limit.
    max: usize,
    counted: Mutex<Counted>,
}

impl Registrants {
    pub(super) fn new(max: usize) -> Self {
        let counted = Counted { tidy_len: TIDY_LEN_MIN, ..Counted::default() };
        Self { max, counted: Mutex::new(counted) }
    }

    /// Counts an instance, unless it is in the registry or counted already. `exists` looks an instance up in the
    /// registry.
    pub(super) fn count(
        &self,
        address: IpAddr,
        key: &InstanceKey,
        now_ms: u64,
        exists: impl Fn(&InstanceKey) -> bool,
    ) -> Result<(), TooManyInstances> {
        if self.max == 0 || exists(key) {
            return Ok(());
        }
        let mut counted = self.counted.lock();
        let Counted { by_address, len, tidy_len } = &mut *counted;
        if *len >= *tidy_len {
            by_address.retain(|_, own| {
                own.instances.retain(&exists);
                !own.instances.is_empty()
            });
            *len = by_address.values().map(|own| own.instances.len()).sum();
            *tidy_len = TIDY_LEN_MIN.max(2 * *len);
        }
        let own = by_address.entry(site_of(address)).or_default();
        if own.instances.len() >= self.max && now_ms >= own.look_again_ms {
            let before = own.instances.len();
            own.instances.retain(&exists);
            *len -= before - own.instances.len();
            own.look_again_ms = now_ms + LOOK_AGAIN_MS;
        }
        if own.instances.len() >= self.max && !own.instances.contains(key) {
            return Err(TooManyInstances { max: self.max });
        }
        *len += usize::from(own.instances.insert(key.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::{Name, ServiceKey};

    fn key(id: usize) -> InstanceKey {
        ServiceKey::new(Name::trusted("default"), Name::trusted("orders"))
            .instance(Name::trusted(&id.to_string()))
    }

    #[test]
    fn one_address_registers_a_limited_number_of_instances_until_some_leave() {
        let registrants = Registrants::new(100);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let all = |_: &InstanceKey| true;
        let none = |_: &InstanceKey| false;
        let new = |address, id, now_ms| registrants.count(address, &key(id), now_ms, none);
        assert!((0..100).all(|id| new(one, id, 1_000).is_ok()));
        // The instances that it registered are in the registry by now.
        let there = |asked: &InstanceKey| *asked != key(100);
        let refused = registrants.count(one, &key(100), 2_000, there).unwrap_err();
        assert_eq!(refused, TooManyInstances { max: 100 });
        assert!(new(one, 7, 2_000).is_ok(), "one of its own");
        assert!(registrants.count(one, &key(500), 2_000, all).is_ok(), "it is no new one");
        assert!(new(other, 100, 2_000).is_ok(), "another address has its own bound");
        // Half of the instances leave. That is noticed a second after the last look-up.
        let half = |asked: &InstanceKey| (0..50).any(|id| *asked == key(id));
        assert!(registrants.count(one, &key(200), 2_500, half).is_err());
        assert!(registrants.count(one, &key(200), 3_000, half).is_ok());
        assert_eq!(registrants.counted.lock().len, 52);
        assert!(Registrants::new(0).count(one, &key(0), 0, none).is_ok(), "no bound");
    }

    #[test]
    fn instances_that_have_left_take_no_memory() {
        let registrants = Registrants::new(1_000);
        for n in 0..3 * TIDY_LEN_MIN {
            let address = IpAddr::from([10, 0, (n / 2_560) as u8, (n / 10) as u8]);
            assert!(registrants.count(address, &key(n), 0, |_| false).is_ok());
            let counted = registrants.counted.lock();
            assert!(counted.len <= TIDY_LEN_MIN && counted.by_address.len() <= counted.len);
        }
    }
}
