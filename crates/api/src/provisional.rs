//! Connections that have not shown a credential yet, accepted while strangers hold all places that are open to them.
//!
//! Such a connection holds its place only until another one needs it. Which connection is displaced depends on the
//! address of the new one. If no address has more waiting connections than this address, the oldest one of this address
//! is displaced. Otherwise the oldest one of the addresses with the most is displaced. So an address that floods the
//! node displaces its own connections, and a caller from another address keeps its place while it sends its request.
//! If no address has more than one, a connection is kept for a short time, and new ones are refused meanwhile.
//!
//! The networks from which operators and administrators came lately are remembered. Their connections displace others,
//! and are not displaced themselves, so that an operator can work while more addresses than places flood the node.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use maxine_admission::{CallerClass, Leave, NoPlace, Place, PlaceLimits, Places, site_of};
use parking_lot::Mutex;

/// How long a connection of an address or user that holds no more than an even share of the places is kept.
pub(super) const CONNECTION_KEPT: Duration = Duration::from_secs(1);
/// How long the only waiting connection of an address is kept. Otherwise, a flood from more addresses than there are
/// places would displace each connection before it can send its request.
const ONLY_ONE_KEPT: Duration = Duration::from_millis(300);
/// How many networks are remembered from which operators have come.
const FAMILIAR_MAX: usize = 256;
/// How many connections of such a network may wait before the other ones.
const FAMILIAR_WAITING_MAX: usize = 4;

#[derive(Debug)]
struct Waiter {
    number: u64,
    network: IpAddr,
    leave: Arc<Leave>,
    /// The connection's place among all connections.
    place: Place,
}

#[derive(Debug, Default)]
struct Waiting {
    next_number: u64,
    /// The connections, in the order of arrival.
    waiters: VecDeque<Waiter>,
    by_network: HashMap<IpAddr, usize>,
    /// The networks from which operators and administrators have shown a credential.
    familiar: HashSet<IpAddr>,
    /// The same networks. The one that has been known longest is first.
    familiar_order: VecDeque<IpAddr>,
}

impl Waiting {
    fn remember(&mut self, network: IpAddr) {
        if !self.familiar.insert(network) {
            return;
        }
        self.familiar_order.push_back(network);
        if self.familiar_order.len() > FAMILIAR_MAX
            && let Some(first) = self.familiar_order.pop_front()
        {
            self.familiar.remove(&first);
        }
    }

    /// Whether connections of this network go before others: operators have come from it, and it has few that wait.
    fn is_preferred(&self, network: IpAddr, waiting_max: usize) -> bool {
        let waiting = || self.by_network.get(&network).copied().unwrap_or(0);
        self.familiar.contains(&network) && waiting() <= waiting_max
    }

    fn remove(&mut self, at: usize) -> Option<Waiter> {
        let waiter = self.waiters.remove(at)?;
        if let Some(count) = self.by_network.get_mut(&waiter.network) {
            *count -= 1;
            if *count == 0 {
                self.by_network.remove(&waiter.network);
            }
        }
        Some(waiter)
    }

    fn remove_number(&mut self, number: u64) -> Option<Waiter> {
        let at = self.waiters.binary_search_by_key(&number, |waiter| waiter.number).ok()?;
        self.remove(at)
    }

    /// Displaces a connection to make room for one of this network. Returns whether there was one to displace.
    fn displace(&mut self, network: IpAddr) -> bool {
        let is_preferred = |of: IpAddr| self.is_preferred(of, FAMILIAR_WAITING_MAX);
        let is_old = |waiter: &Waiter| waiter.leave.age() >= ONLY_ONE_KEPT;
        let comes_first = self.is_preferred(network, FAMILIAR_WAITING_MAX - 1);
        // A flood from many addresses. Nothing is looked for among all of them.
        if self.by_network.len() == self.waiters.len() && !self.by_network.contains_key(&network) {
            let at = self.waiters.iter().position(|waiter| !is_preferred(waiter.network));
            let at = at.filter(|at| comes_first || is_old(&self.waiters[*at]));
            return self.displace_at(at);
        }
        let others = self.by_network.iter().filter(|(of, _)| !is_preferred(**of));
        let Some(most) = others.map(|(_, count)| *count).max() else { return false };
        let has_most = |of: IpAddr| self.by_network.get(&of) == Some(&most) && !is_preferred(of);
        let floods = has_most(network);
        let gives_way = |waiter: &Waiter| match floods {
            true => waiter.network == network,
            false => has_most(waiter.network),
        };
        let at = self.waiters.iter().position(gives_way);
        let is_first = floods || most > 1 || comes_first;
        let at = at.filter(|at| is_first || is_old(&self.waiters[*at]));
        self.displace_at(at)
    }

    fn displace_at(&mut self, at: Option<usize>) -> bool {
        let Some(displaced) = at.and_then(|at| self.remove(at)) else { return false };
        displaced.leave.displace();
        true
    }
}

/// The connections that have not shown a credential yet.
#[derive(Debug)]
pub(super) struct ProvisionalConnections {
    connections: Arc<Places>,
    max: usize,
    waiting: Mutex<Waiting>,
}

/// A connection that has not shown a credential yet. Dropping this value frees its place.
#[derive(Debug)]
pub(super) struct ProvisionalConnection {
    all: Arc<ProvisionalConnections>,
    number: u64,
    leave: Arc<Leave>,
}

impl ProvisionalConnections {
    /// Admits at most `max` such connections, but at least one. Their places come from `connections`.
    pub(super) fn new(connections: Arc<Places>, max: usize) -> Arc<Self> {
        Arc::new(Self { connections, max: max.max(1), waiting: Mutex::default() })
    }

    /// Admits a connection. If no place is free, another provisional connection loses its place.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
    ) -> Result<ProvisionalConnection, NoPlace> {
        let network = site_of(address);
        let leave = Arc::new(Leave::of_connection(CONNECTION_KEPT));
        let mut waiting = self.waiting.lock();
        // They leave some places for operators on this machine.
        let PlaceLimits { max, reserved, .. } = self.connections.limits();
        let is_full = self.connections.taken() >= max - (reserved / 8).min(max);
        if (is_full || waiting.waiters.len() >= self.max)
            && !waiting.displace(network)
            && !waiting.waiters.is_empty()
        {
            // None of them has had its time.
            return Err(NoPlace::Node);
        }
        // Strangers at the same address may have all that an address may have.
        let take = || self.connections.take(address, CallerClass::Trusted, 1);
        let place = match take() {
            // Callers with a credential hold the rest of the reserved places.
            Err(NoPlace::Node) if waiting.displace(network) => take()?,
            taken => taken?,
        };
        let number = waiting.next_number;
        waiting.next_number += 1;
        *waiting.by_network.entry(network).or_insert(0) += 1;
        waiting.waiters.push_back(Waiter { number, network, leave: Arc::clone(&leave), place });
        drop(waiting);
        Ok(ProvisionalConnection { all: Arc::clone(self), number, leave })
    }
}

impl ProvisionalConnections {
    /// Says that a caller of this class has shown a credential from this address.
    pub(super) fn has_shown_credential(&self, address: IpAddr, caller_class: CallerClass) {
        if matches!(caller_class, CallerClass::User { is_operator: true, .. }) {
            self.waiting.lock().remember(site_of(address));
        }
    }
}

impl ProvisionalConnection {
    /// Returns when another connection has taken this one's place.
    pub(super) async fn displaced(&self) {
        self.leave.displaced().await;
    }

    /// Takes the place for the user, because the connection has shown a credential. `None` if another connection has
    /// taken the place before. The place may be displaced for another user. The error says that the user may have no
    /// more places.
    pub(super) fn settle(&self, caller_class: CallerClass) -> Result<Option<Place>, NoPlace> {
        let connections = &self.all.connections;
        let mut waiting = self.all.waiting.lock();
        let waiter = waiting.remove_number(self.number);
        let Some(Waiter { network, mut place, .. }) = waiter else { return Ok(None) };
        let PlaceLimits { max, reserved, .. } = connections.limits();
        let open = max - caller_class.kept_from(reserved).min(max);
        // Connections that have not shown a credential give way first, if that is enough.
        while connections.taken() > open
            && connections.taken() - waiting.waiters.len() <= open
            && waiting.displace(network)
        {}
        drop(waiting);
        self.leave.has_spoken();
        self.all.has_shown_credential(network, caller_class);
        place.set_user(network, caller_class)?;
        place.give_way(&self.leave);
        Ok(Some(place))
    }
}

impl Drop for ProvisionalConnection {
    fn drop(&mut self) {
        // The place is freed after the lock is released.
        let left = self.all.waiting.lock().remove_number(self.number);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn user(name: &str) -> CallerClass {
        CallerClass::of_user(name, false)
    }

    fn is_displaced(connection: &ProvisionalConnection) -> bool {
        connection.displaced().now_or_never().is_some()
    }

    #[tokio::test]
    async fn the_oldest_connection_of_the_address_with_the_most_is_displaced() {
        let connections = Places::new(PlaceLimits { max: 5, per_address_max: 5, reserved: 5 });
        let provisional = ProvisionalConnections::new(Arc::clone(&connections), 4);
        let enter = |last: u8| provisional.enter(ip(last)).unwrap();
        let flood: Vec<ProvisionalConnection> = (0..3).map(|_| enter(1)).collect();
        let operator = enter(2);
        let next = enter(3);
        assert!(is_displaced(&flood[0]) && !is_displaced(&flood[1]));
        let more: Vec<ProvisionalConnection> = (0..10).map(|_| enter(1)).collect();
        assert!(!is_displaced(&operator) && !is_displaced(&next), "a flood displaces its own");
        assert_eq!(more.iter().filter(|one| !is_displaced(one)).count(), 2);
        assert_eq!(connections.taken(), 4);
        let settled = operator.settle(user("a")).unwrap().expect("it keeps its place");
        assert!(more[0].settle(user("b")).unwrap().is_none(), "another one has it");
        let _another = enter(4);
        assert_eq!(connections.taken(), 5);
        assert_eq!(provisional.enter(ip(5)).map(drop), Ok(()), "one of the provisional gives way");
        drop((flood, operator, next, more, _another, settled));
        assert_eq!(connections.taken(), 0);
    }

    /// A flood comes from more addresses than there are places. A connection that has a place keeps it long enough to
    /// send a request.
    #[tokio::test(start_paused = true)]
    async fn a_connection_has_time_for_its_request_while_each_address_has_one() {
        let connections =
            Places::new(PlaceLimits { max: 106, per_address_max: 106, reserved: 106 });
        let provisional = ProvisionalConnections::new(Arc::clone(&connections), 93);
        let enter =
            |n: u16| provisional.enter([10, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]].into());
        let administrator = enter(1_000).unwrap();
        let mut flood: Vec<ProvisionalConnection> = Vec::new();
        for n in 0..20 {
            flood.extend((0..300).filter_map(|of| enter(300 * (n % 3) + of).ok()));
            if n == 9 {
                assert!(!is_displaced(&administrator));
                let settled = administrator.settle(CallerClass::of_user("admin", true));
                assert!(matches!(settled, Ok(Some(_))), "{settled:?}");
                drop(settled);
            }
            tokio::time::advance(Duration::from_millis(25)).await;
        }
        assert_eq!(flood.iter().filter(|one| !is_displaced(one)).count(), 93);
    }

    /// More addresses than places flood the node, and renew their connections all the time.
    #[tokio::test(start_paused = true)]
    async fn an_operator_who_comes_again_is_admitted_at_once_and_has_time() {
        let connections =
            Places::new(PlaceLimits { max: 106, per_address_max: 106, reserved: 106 });
        let provisional = ProvisionalConnections::new(Arc::clone(&connections), 93);
        let enter = |address: IpAddr| provisional.enter(address);
        let admin = CallerClass::of_user("admin", true);
        let viewer = user("viewer");
        let first = enter(ip(1)).unwrap();
        assert!(matches!(first.settle(admin), Ok(Some(_))));
        let of_viewer = enter(ip(2)).unwrap();
        assert!(matches!(of_viewer.settle(viewer), Ok(Some(_))));
        drop((first, of_viewer));
        let mut held = Vec::new();
        for round in 0..20_u16 {
            let flood = |n: u16| {
                let [high, low] = (round * 300 + n).to_be_bytes();
                enter([10, 1, high, low].into()).ok()
            };
            held.extend((0..300).filter_map(flood));
            let again = enter(ip(1)).unwrap();
            held.extend((300..600).filter_map(flood));
            tokio::time::advance(Duration::from_millis(290)).await;
            held.extend((0..300).filter_map(flood));
            assert!(!is_displaced(&again), "{round}");
            assert!(matches!(again.settle(admin), Ok(Some(_))), "{round}");
            held.extend((0..300).filter_map(flood));
            assert_eq!(enter(ip(2)).map(drop), Err(NoPlace::Node), "{round}: as any other");
        }
        let many: Vec<_> = (0..50).map(|_| enter(ip(1))).collect();
        let kept = many.iter().flatten().filter(|one| !is_displaced(one)).count();
        assert!((1..=FAMILIAR_WAITING_MAX).contains(&kept), "{kept} of one network");
    }

    /// Even if many addresses reconnect at once, each displaces its own connections, as long as there are more places
    /// than addresses.
    #[tokio::test]
    async fn a_caller_that_takes_its_time_is_not_displaced_by_many_addresses() {
        let connections =
            Places::new(PlaceLimits { max: 106, per_address_max: 106, reserved: 106 });
        let provisional = ProvisionalConnections::new(Arc::clone(&connections), 93);
        let mut flood: Vec<ProvisionalConnection> = Vec::new();
        for n in 0..600 {
            flood.push(provisional.enter(ip(n as u8 % 60)).unwrap());
        }
        let operator = provisional.enter(ip(200)).unwrap();
        for n in 0..600 {
            flood.push(provisional.enter(ip(n as u8 % 60)).unwrap());
        }
        assert!(!is_displaced(&operator));
        assert_eq!(flood.iter().filter(|one| !is_displaced(one)).count(), 92);
        let place = operator.settle(user("a")).unwrap().expect("it keeps its place");
        drop(flood);
        assert_eq!(connections.taken(), 1);
        drop(place);
    }

    /// A user with the lowest role comes from many addresses. It gets its share, and an administrator gets a
    /// connection.
    #[tokio::test]
    async fn a_user_at_many_addresses_does_not_take_the_reserved_connections() {
        for addresses in [24, 200] {
            let limits = PlaceLimits { max: 800, per_address_max: 400, reserved: 160 };
            let connections = Places::fair(limits);
            let mut strangers = Vec::new();
            for n in 0..200 {
                let address = [10, 1, 0, n].into();
                while let Ok(place) = connections.take(address, CallerClass::Stranger, 1) {
                    strangers.push(place);
                }
            }
            assert_eq!(connections.taken(), 640);
            let provisional = ProvisionalConnections::new(Arc::clone(&connections), 120);
            let mut held = Vec::new();
            for n in 0..2_000_u32 {
                let Ok(entered) = provisional.enter(ip((n % addresses) as u8)) else { continue };
                if let Ok(Some(place)) = entered.settle(user("viewer")) {
                    held.push((entered, place));
                }
            }
            assert!((50..=90).contains(&held.len()), "{addresses}: {} connections", held.len());
            let other = provisional.enter(ip(201)).unwrap().settle(user("other"));
            assert!(matches!(other, Ok(Some(_))), "{addresses}: {other:?}");
            let admin = CallerClass::of_user("admin", true);
            let admin = provisional.enter(ip(202)).unwrap().settle(admin);
            assert!(matches!(admin, Ok(Some(_))), "{addresses}: {admin:?}");
            let here = connections.take(ip(203), CallerClass::Known, 1);
            assert!(here.is_ok(), "{addresses}: an operator on this machine");
        }
    }

    /// Many users hold all reserved connections that they may have. Another one gets the oldest connection of the user
    /// with the most.
    #[tokio::test(start_paused = true)]
    async fn a_connection_of_a_user_gives_way_to_a_user_that_has_fewer() {
        let limits = PlaceLimits { max: 64, per_address_max: 64, reserved: 64 };
        let connections = Places::new(limits);
        let provisional = ProvisionalConnections::new(Arc::clone(&connections), 48);
        let mut held = Vec::new();
        for n in 0..48 {
            let entered = provisional.enter(ip(n)).unwrap();
            let place = entered.settle(user(&format!("user {}", n / 2))).unwrap();
            held.push((entered, place.expect("there is room")));
        }
        tokio::time::advance(CONNECTION_KEPT).await;
        let other = provisional.enter(ip(100)).unwrap().settle(user("other"));
        assert!(matches!(other, Ok(Some(_))), "{other:?}");
        assert_eq!(held.iter().filter(|(entered, _)| is_displaced(entered)).count(), 1);
        let again = provisional.enter(ip(101)).unwrap().settle(user("user 9"));
        assert_eq!(again.map(drop), Err(NoPlace::Node), "no user has more than it would");
    }
}
