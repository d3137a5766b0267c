//! Limits the answers to one address. Over UDP, that is because the sender's address of a datagram can be forged: without a
//! limit the name server would send as many answers to a victim as somebody sends questions in its name.
//!
//! The table has a fixed size. Addresses that fall into the same slot share its limit.

use std::hash::BuildHasher;
use std::net::IpAddr;

use hashbrown::DefaultHashBuilder;
use maxine_admission::site_of;

/// Number of slots.
const SLOTS: usize = 1 << 14;
/// One of so many answers that are over the limit is sent without records, so that a real client asks over TCP.
const SLIP: u32 = 2;

/// What may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// The answer.
    All,
    /// An empty answer that is marked as truncated.
    Slip,
    /// Nothing.
    Nothing,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// The second in which it was last used.
    second: u64,
    /// Questions in that second.
    count: u32,
}

/// The limit.
pub(crate) struct RateLimit {
    max_per_s: u32,
    hash: DefaultHashBuilder,
    slots: Box<[Slot]>,
}

impl RateLimit {
    /// A limit of so many answers per second; 0 for none.
    pub(crate) fn new(max_per_s: u32) -> Self {
        let slots = if max_per_s == 0 { 0 } else { SLOTS };
        let slots = vec![Slot::default(); slots].into();
        Self { max_per_s, hash: DefaultHashBuilder::default(), slots }
    }

    /// What may be sent to an address at this time.
    pub(crate) fn allows(&mut self, address: IpAddr, now_ms: u64) -> Allowed {
        if self.slots.is_empty() || address.to_canonical().is_loopback() {
            return Allowed::All;
        }
        // The hash is seeded at random, so nobody can choose an address that shares a slot with a victim.
        let at = self.hash.hash_one(site_of(address)) as usize % self.slots.len();
        let (slot, second) = (&mut self.slots[at], now_ms / 1_000);
        if slot.second != second {
            *slot = Slot { second, count: 0 };
        }
        slot.count = slot.count.saturating_add(1);
        match slot.count.checked_sub(self.max_per_s) {
            None | Some(0) => Allowed::All,
            Some(over) if over % SLIP == 0 => Allowed::Slip,
            Some(_) => Allowed::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_over_its_limit_gets_every_second_answer_empty() {
        let mut limit = RateLimit::new(3);
        let mut ask = |address, now_ms| limit.allows(ip(address), now_ms);
        for _ in 0..3 {
            assert_eq!(ask("192.0.2.1", 5_000), Allowed::All);
        }
        assert_eq!(ask("192.0.2.1", 5_100), Allowed::Nothing);
        assert_eq!(ask("192.0.2.1", 5_200), Allowed::Slip);
        assert_eq!(ask("192.0.2.1", 5_300), Allowed::Nothing);
        assert_eq!(ask("192.0.2.1", 6_000), Allowed::All, "the next second");
    }

    #[test]
    fn an_ipv6_network_counts_as_one_and_loopback_never() {
        let mut limit = RateLimit::new(1);
        let mut ask = |address| limit.allows(ip(address), 0);
        assert_eq!(ask("2001:db8::1"), Allowed::All);
        assert_eq!(ask("2001:db8::2"), Allowed::Nothing);
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!((ask(address), ask(address)), (Allowed::All, Allowed::All), "{address}");
        }
        let mut none = RateLimit::new(0);
        assert!((0..9).all(|_| none.allows(ip("192.0.2.1"), 0) == Allowed::All));
    }
}
