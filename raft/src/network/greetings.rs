//! Bounds the connections that have not finished the greeting. Anyone can open one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use maxine_admission::network_of;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::places::Places;
use crate::config::NodeId;
use crate::roster::{MembershipStatus, Roster};

/// Maximum number of connections of each of four kinds: they come from an address of a member or from another
/// one, and have sent a first byte or not.
const EACH_MAX: usize = 128;

/// The places of unfinished greetings.
///
/// A connection first takes a place for silent connections, and another one when its first byte has arrived.
/// So connections that send nothing close no greeting. The addresses of members have places of their own, so
/// connections from other addresses close none of theirs. Among the other addresses a network counts as one,
/// because the owner of an IPv6 address can choose its last 64 bits.
pub(super) struct Greetings {
    roster: Arc<Roster>,
    /// The address from which each member last finished a greeting. The roster may have names instead of IP
    /// addresses.
    greeted: Mutex<BTreeMap<NodeId, IpAddr>>,
    of_members: Stages,
    of_others: Stages,
}

struct Stages {
    silent: Mutex<Places<IpAddr>>,
    begun: Mutex<Places<IpAddr>>,
}

impl Stages {
    fn new() -> Self {
        let places = || Mutex::new(Places::new(EACH_MAX));
        Self { silent: places(), begun: places() }
    }
}

impl Greetings {
    pub(super) fn new(roster: Arc<Roster>) -> Self {
        let greeted = Mutex::default();
        Self { roster, greeted, of_members: Stages::new(), of_others: Stages::new() }
    }

    /// Notes that `node` has finished a greeting from this address.
    pub(super) fn finished(&self, node: NodeId, from: IpAddr) {
        if self.roster.status_of(node) == MembershipStatus::Member {
            self.greeted.lock().insert(node, from.to_canonical());
        }
    }

    /// A place for a new connection, until its first byte.
    pub(super) fn silent(&self, from: IpAddr, stop: &CancellationToken) -> CancellationToken {
        let (stages, holder) = self.of(from);
        stages.silent.lock().take(holder, stop).0
    }

    /// A place for a connection whose first byte has arrived, until the greeting ends.
    pub(super) fn begun(&self, from: IpAddr, stop: &CancellationToken) -> CancellationToken {
        let (stages, holder) = self.of(from);
        stages.begun.lock().take(holder, stop).0
    }

    /// The holder of the places of a connection that does not come from the address of a member; `None` if it does.
    pub(super) fn stranger(&self, from: IpAddr) -> Option<IpAddr> {
        let (stages, holder) = self.of(from);
        std::ptr::eq(stages, &self.of_others).then_some(holder)
    }

    fn of(&self, from: IpAddr) -> (&Stages, IpAddr) {
        let from = from.to_canonical();
        let was_greeted = self.greeted.lock().values().any(|address| *address == from);
        match was_greeted || self.roster.has_address(from) {
            true => (&self.of_members, from),
            false => (&self.of_others, network_of(from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Member;
    use crate::consensus::{Membership, StoredMembership};

    /// Members 1 and 2; the first is known by an address, the second by a name.
    fn greetings() -> Greetings {
        let member = |peer_addr: &str| Member { peer_addr: peer_addr.into(), ..Member::default() };
        let members = [(1, member("[2001:db8::2]:7700")), (2, member("b.internal:7700"))];
        let membership = Membership::new(vec![[1, 2].into()], BTreeMap::from(members)).unwrap();
        let roster = Arc::new(Roster::default());
        roster.apply(StoredMembership::new(None, membership));
        Greetings::new(roster)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The `n`th address of a network.
    fn nth(n: usize) -> IpAddr {
        ip(&format!("2001:db8::{n:x}"))
    }

    #[test]
    fn ever_new_addresses_of_one_network_close_no_greeting_of_another() {
        let (stop, greetings) = (CancellationToken::new(), greetings());
        let peer = [
            greetings.silent(ip("2001:db8:0:1::7"), &stop),
            greetings.begun(ip("2001:db8:0:1::7"), &stop),
        ];
        let flood = (16..16 + 10 * EACH_MAX)
            .flat_map(|n| [greetings.silent(nth(n), &stop), greetings.begun(nth(n), &stop)]);
        let flood: Vec<_> = flood.collect();
        assert!(peer.iter().all(|place| !place.is_cancelled()));
        let open = flood.iter().filter(|place| !place.is_cancelled()).count();
        assert_eq!(open, 2 * (EACH_MAX - 1));
    }

    #[test]
    fn connections_that_send_nothing_close_none_that_has_sent_something() {
        let (stop, greetings) = (CancellationToken::new(), greetings());
        // It is the oldest of its network, so it would be closed first.
        let begun = greetings.begun(nth(0), &stop);
        for n in 16..16 + 10 * EACH_MAX {
            greetings.silent(nth(n), &stop);
        }
        assert!(!begun.is_cancelled());
    }

    #[test]
    fn others_close_no_greeting_from_the_address_of_a_member() {
        let (stop, greetings) = (CancellationToken::new(), greetings());
        greetings.finished(2, ip("10.0.0.2"));
        greetings.finished(9, ip("10.0.0.9"));
        assert_eq!(greetings.greeted.lock().len(), 1, "node 9 is no member");
        for (from, stranger) in [
            ("::ffff:10.0.0.2", None),
            ("2001:db8::2", None),
            ("10.0.0.9", Some("10.0.0.9")),
            ("2001:db8::3", Some("2001:db8::")),
        ] {
            assert_eq!(greetings.stranger(ip(from)), stranger.map(ip), "{from}");
        }
        let members = ["::ffff:10.0.0.2", "2001:db8::2"].map(|member| {
            [greetings.silent(ip(member), &stop), greetings.begun(ip(member), &stop)]
        });
        for n in 0..10 * EACH_MAX {
            // Addresses of the network of a member, and of many other networks.
            for from in [nth(n + 16), ip(&format!("2001:db8:0:{n:x}::9"))] {
                greetings.silent(from, &stop);
                greetings.begun(from, &stop);
            }
        }
        assert!(members.as_flattened().iter().all(|place| !place.is_cancelled()));
    }
}
