//! Limits on places and turns, so that no single address can take all of them, and sockets that listen.
//!
//! The gateway and the API use it for connections, watchers, bytes of request bodies that are still arriving,
//! and password checks that wait. Each kind of place has a limit for the node, a limit for each address, and
//! a reserve that only callers with a credential may use. So strangers cannot lock an operator out.
//!
//! Many addresses together could take all places, and keep them. So a holder says which of its places may be displaced
//! ([`Place::give_way`]). If an address finds no room, the oldest of these places of the address that holds the most
//! are displaced, as long as that address holds more than the new one would. A new address gets its share, unless there
//! are as many addresses as places.
//!
//! The places of a user count together, from whichever addresses they are taken. They give way to other users; to
//! callers without a credential only while all users together hold more than the reserve. The last part of the reserve is only for operators and administrators. So a
//! user with the lowest role cannot lock them out.

mod leave;
mod listen;
mod pace;
mod payer;
mod steps;
mod turns;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

pub use leave::Leave;
pub use listen::listen;
pub use pace::Pace;
pub use payer::{Payer, UserName};
pub use steps::StepTurns;
pub use turns::{NodeTurns, Turn, WorkTurn, WorkTurns, build_aside};

/// So many addresses and users that hold the most are looked at when a place is needed. More would take too long.
const CANDIDATES_MAX: usize = 256;

/// One in this many reserved places is for operators and administrators only.
const OPERATORS_ONE_IN: usize = 4;

/// The limits for one kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaceLimits {
    /// Maximum number on the whole node.
    pub max: usize,
    /// Maximum number for one address.
    pub per_address_max: usize,
    /// How many of `max` are reserved for callers with a credential. A quarter of them is for operators and
    /// administrators only.
    pub reserved: usize,
}

/// Who takes a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerClass {
    /// A caller without a credential. The limit for its address applies, and the reserve is not available.
    Stranger,
    /// A user: a caller with a credential, wherever it is. The limit for an address applies to the user. The reserve is
    /// available, but its last part only to operators and administrators.
    User {
        /// The user.
        user: UserName,
        /// Whether the user is an operator or an administrator.
        is_operator: bool,
    },
    /// A caller who counts by its address, and to whom the reserve is available: an operator on this machine, or a
    /// caller that may still show its credential. Its places are never displaced.
    Known,
    /// A proxy that speaks for many clients, or an operator on this machine. The reserve is available, and no
    /// limit for the address applies.
    Trusted,
}

impl CallerClass {
    /// The class of a user with this name.
    #[must_use]
    pub fn of_user(name: &str, is_operator: bool) -> Self {
        Self::User { user: UserName::of(name), is_operator }
    }

    /// Whose places those of such a caller at this address are.
    #[must_use]
    pub fn payer(self, address: IpAddr) -> Payer {
        match self {
            Self::User { user, .. } => Payer::User(user),
            Self::Stranger | Self::Known | Self::Trusted => Payer::Site(site_of(address)),
        }
    }

    /// Whether places of such a caller may be displaced.
    #[must_use]
    pub fn gives_way(self) -> bool {
        matches!(self, Self::Stranger | Self::User { .. })
    }

    /// How many of `reserved` are not available to such a caller.
    #[must_use]
    pub fn kept_from(self, reserved: usize) -> usize {
        match self {
            Self::Stranger => reserved,
            Self::User { is_operator: false, .. } => reserved / OPERATORS_ONE_IN,
            Self::User { is_operator: true, .. } | Self::Known | Self::Trusted => 0,
        }
    }
}

/// Why no place was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    /// All places of the node that are open to the caller are taken.
    #[error("the limit of this node is reached")]
    Node,
    /// The address or the user has reached its limit.
    #[error("the limit for your address or user is reached")]
    Address,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// How many of `all` have no user at the moment.
    unused: usize,
    by_payer: HashMap<Payer, usize>,
    /// The same numbers, in order.
    by_held: BTreeSet<(usize, Payer)>,
    /// The places of connections that had sent nothing when they were last looked at, in the order of arrival.
    silent: VecDeque<(Payer, u64)>,
    /// How many of `all` users have.
    of_users: usize,
    /// The places that may be displaced, by their payer and number. The oldest one of a payer has its lowest number.
    displaceable: BTreeMap<(Payer, u64), Displaceable>,
    next_number: u64,
}

/// For whom places are displaced.
#[derive(Clone, Copy, Debug)]
struct Newcomer {
    payer: Payer,
    /// How many places the payer will hold.
    of_payer: usize,
    /// How many places each payer would hold if all held the same number.
    even_share: usize,
    /// How many places are reserved for users.
    reserved: usize,
}

/// Places that may be displaced.
#[derive(Debug)]
struct Displaceable {
    count: usize,
    leave: Arc<Leave>,
}

/// The places of one kind.
#[derive(Debug)]
pub struct Places {
    limits: PlaceLimits,
    /// Percentage of the places that the other addresses leave, which one address may hold.
    share_percent: usize,
    /// Whether a place that is displaced is free only when its holder has left.
    is_freed_by_holder: bool,
    taken: Mutex<Taken>,
}

/// Places that are taken until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    /// The user; `None` while the place is kept for the next user.
    user: Option<(Payer, CallerClass)>,
    count: usize,
    /// Set if the place may be displaced. When it is, its entry is gone.
    number: Option<u64>,
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
        Arc::new(Self::with(limits, share_percent, false))
    }

    /// Like [`Self::shared`], for things that last until their holder ends them, for example open files. A displaced
    /// place is free only when its holder has left. So whoever finds no place calls [`Self::displace_for`], and waits.
    #[must_use]
    pub fn freed_by_holder(limits: PlaceLimits, share_percent: u8) -> Arc<Self> {
        Arc::new(Self::with(limits, share_percent, true))
    }

    fn with(limits: PlaceLimits, share_percent: u8, is_freed_by_holder: bool) -> Self {
        let share_percent = usize::from(share_percent.clamp(1, 100));
        Self { limits, share_percent, is_freed_by_holder, taken: Mutex::default() }
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

    /// The number of places that callers at an address have taken, without those of users.
    #[must_use]
    pub fn taken_by(&self, address: IpAddr) -> usize {
        self.taken.lock().of(Payer::Site(site_of(address)))
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
        let (of_payer, allowed) = self.of_payer(&taken, caller_class.payer(address), max);
        of_node.min(allowed.saturating_sub(of_payer))
    }

    /// Takes `count` places.
    pub fn take(
        self: &Arc<Self>,
        address: IpAddr,
        caller_class: CallerClass,
        count: usize,
    ) -> Result<Place, NoPlace> {
        let user = (caller_class.payer(address), caller_class);
        if count > 0 {
            self.add_or_displace(&mut self.taken.lock(), user, count, count)?;
        }
        Ok(Place { places: Arc::clone(self), user: Some(user), count, number: None })
    }

    /// Asks the oldest holder of the address or user that holds the most to leave, if that one holds more than this
    /// caller would with one more place. Returns whether it asked one. Only for places that are freed by their holder.
    pub fn displace_for(&self, address: IpAddr, caller_class: CallerClass) -> bool {
        let payer = caller_class.payer(address);
        let mut taken = self.taken.lock();
        let of_payer = taken.of(payer) + 1;
        let newcomer = self.newcomer(&taken, payer, caller_class, of_payer);
        taken.skip_those_that_spoke();
        taken.remove_oldest_of_most(newcomer).is_some()
    }

    /// Like [`Self::add`]. If there is no room, places of addresses and users that hold more are displaced.
    fn add_or_displace(
        &self,
        taken: &mut Taken,
        user: (Payer, CallerClass),
        count: usize,
        new: usize,
    ) -> Result<(), NoPlace> {
        let mut added = self.add(taken, user, count, new);
        if added.is_err() {
            taken.skip_those_that_spoke();
        }
        if added.is_ok() || !self.could_displace(taken, user, count, new) {
            return added;
        }
        let (payer, caller_class) = user;
        let of_payer = taken.of(payer) + count;
        let newcomer = self.newcomer(taken, payer, caller_class, of_payer);
        while added.is_err() && taken.displace(newcomer) {
            added = self.add(taken, user, count, new);
        }
        added
    }

    /// Whether displacing places could make room for these. Nothing is displaced in vain.
    fn could_displace(
        &self,
        taken: &Taken,
        (payer, caller_class): (Payer, CallerClass),
        count: usize,
        new: usize,
    ) -> bool {
        if self.is_freed_by_holder || taken.displaceable.is_empty() {
            return false;
        }
        let max = self.max_for(caller_class);
        let of_payer = taken.of(payer);
        let wanted = of_payer.saturating_add(count);
        let mut missing = taken.all.saturating_add(new).saturating_sub(max);
        if caller_class != CallerClass::Trusted {
            // The share of this payer must become as large as what it wants.
            let needed = wanted.saturating_mul(100).div_ceil(self.share_percent);
            if wanted > self.limits.per_address_max || needed > max {
                return false;
            }
            let of_others = (taken.all - taken.unused).saturating_sub(of_payer);
            missing = missing.max((of_others + needed).saturating_sub(max));
        }
        let newcomer = self.newcomer(taken, payer, caller_class, wanted);
        let mut of_users = match payer {
            Payer::Site(_) => taken.of_users.saturating_sub(self.limits.reserved),
            Payer::User(_) => taken.of_users,
        };
        let mut free = usize::from(taken.wasted_for(newcomer).is_some());
        for (other, _) in taken.candidates(newcomer) {
            if free >= missing {
                break;
            }
            let mut of_other = taken.of(other) - wanted;
            if matches!(other, Payer::User(_)) {
                of_other = of_other.min(of_users);
                of_users -= of_other;
            }
            free += of_other;
        }
        free >= missing
    }

    /// Counts `count` more places for a user, `new` of which nobody has held before.
    fn add(
        &self,
        taken: &mut Taken,
        (payer, caller_class): (Payer, CallerClass),
        count: usize,
        new: usize,
    ) -> Result<(), NoPlace> {
        let max = self.max_for(caller_class);
        if taken.all.saturating_add(new) > max {
            return Err(NoPlace::Node);
        }
        let (of_payer, allowed) = self.of_payer(taken, payer, max);
        if caller_class != CallerClass::Trusted && of_payer.saturating_add(count) > allowed {
            return Err(NoPlace::Address);
        }
        taken.add(payer, count);
        taken.all += new;
        Ok(())
    }

    /// A payer that will hold `of_payer` places.
    fn newcomer(
        &self,
        taken: &Taken,
        payer: Payer,
        caller_class: CallerClass,
        of_payer: usize,
    ) -> Newcomer {
        let even_share = self.max_for(caller_class) / (taken.by_payer.len() + 1);
        Newcomer { payer, of_payer, even_share, reserved: self.limits.reserved }
    }

    /// The places of the node that these callers may use.
    fn max_for(&self, caller_class: CallerClass) -> usize {
        let PlaceLimits { max, reserved, .. } = self.limits;
        max - caller_class.kept_from(reserved).min(max)
    }

    /// The places that a payer has taken, and those that it may have, if its callers may use `max` places.
    fn of_payer(&self, taken: &Taken, payer: Payer, max: usize) -> (usize, usize) {
        let of_payer = taken.of(payer);
        let of_others = (taken.all - taken.unused).saturating_sub(of_payer);
        let share = max.saturating_sub(of_others).saturating_mul(self.share_percent).div_ceil(100);
        (of_payer, self.limits.per_address_max.min(share))
    }
}

impl Taken {
    /// The number of places of a payer.
    fn of(&self, payer: Payer) -> usize {
        self.by_payer.get(&payer).copied().unwrap_or(0)
    }

    fn gives_way(&self, payer: Payer, newcomer: Newcomer) -> bool {
        payer.gives_way_to(newcomer.payer, self.of_users > newcomer.reserved)
    }

    /// The oldest places that may be displaced now for this newcomer: first that of the payer that holds the most, and of
    /// those that hold as many, those of addresses first. All of these payers hold more than the newcomer would.
    fn candidates(&self, newcomer: Newcomer) -> impl Iterator<Item = (Payer, u64)> {
        let most_first = self.by_held.iter().rev().take(CANDIDATES_MAX);
        let more = most_first.take_while(move |(held, _)| *held > newcomer.of_payer);
        more.filter_map(move |(held, payer)| {
            let mut places = self.displaceable.range((*payer, 0)..=(*payer, u64::MAX));
            let ((_, number), oldest) = places.next()?;
            let exceeds_share = *held > newcomer.even_share;
            let may =
                self.gives_way(*payer, newcomer) && oldest.leave.may_be_displaced(exceeds_share);
            may.then_some((*payer, *number))
        })
    }

    /// The place of the connection that has been silent for longest, if its payer holds as many as the newcomer would.
    fn wasted_for(&self, newcomer: Newcomer) -> Option<(Payer, u64)> {
        let (payer, number) = *self.silent.front()?;
        let place = self.displaceable.get(&(payer, number))?;
        let may = self.of(payer) >= newcomer.of_payer && self.gives_way(payer, newcomer);
        (may && place.leave.is_wasted()).then_some((payer, number))
    }

    /// Removes connections from the beginning of the silent ones that are not silent any more, or are gone.
    fn skip_those_that_spoke(&mut self) {
        while let Some(key) = self.silent.front()
            && self.displaceable.get(key).is_none_or(|place| !place.leave.is_silent())
        {
            self.silent.pop_front();
        }
    }

    /// Displaces the oldest place of the payer that holds the most, if it holds more than the newcomer would. Returns
    /// whether it did.
    fn displace(&mut self, newcomer: Newcomer) -> bool {
        let Some((payer, count)) = self.remove_oldest_of_most(newcomer) else {
            return false;
        };
        self.all -= count;
        self.remove(payer, count);
        true
    }

    /// Tells the holder of this place to leave. Returns the payer and the number of places, which are still counted.
    fn remove_oldest_of_most(&mut self, newcomer: Newcomer) -> Option<(Payer, usize)> {
        let most = self.candidates(newcomer).next();
        let (payer, number) = most.or_else(|| self.wasted_for(newcomer))?;
        let displaced = self.displaceable.remove(&(payer, number))?;
        displaced.leave.displace();
        Some((payer, displaced.count))
    }

    fn add(&mut self, payer: Payer, count: usize) {
        let held = self.by_payer.entry(payer).or_insert(0);
        self.by_held.remove(&(*held, payer));
        *held += count;
        self.by_held.insert((*held, payer));
        if matches!(payer, Payer::User(_)) {
            self.of_users += count;
        }
    }

    fn remove(&mut self, payer: Payer, count: usize) {
        if matches!(payer, Payer::User(_)) {
            self.of_users -= count;
        }
        if let Some(of_payer) = self.by_payer.get_mut(&payer) {
            self.by_held.remove(&(*of_payer, payer));
            *of_payer -= count;
            if *of_payer == 0 {
                self.by_payer.remove(&payer);
            } else {
                self.by_held.insert((*of_payer, payer));
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

    /// From now on, the place may be displaced: it may be given to an address or user that holds less. `leave` then
    /// tells the holder, which must end what it needs the place for. Places of users are displaced for other users,
    /// and for strangers while users hold more than the reserve. Those of [`CallerClass::Known`] and of trusted proxies
    /// are never displaced.
    pub fn give_way(&mut self, leave: &Arc<Leave>) {
        let Some((payer, caller_class)) = self.user else { return };
        if self.number.is_some() || self.count == 0 || !caller_class.gives_way() {
            return;
        }
        let mut taken = self.places.taken.lock();
        let number = taken.next_number;
        taken.next_number += 1;
        let place = Displaceable { count: self.count, leave: Arc::clone(leave) };
        if leave.is_silent() {
            taken.skip_those_that_spoke();
            taken.silent.push_back((payer, number));
        }
        taken.displaceable.insert((payer, number), place);
        self.number = Some(number);
    }

    /// Takes `count` more places for the user. The places held before are kept, even if this fails. It fails if the
    /// place was displaced.
    pub fn grow(&mut self, count: usize) -> Result<(), NoPlace> {
        let Some(user) = self.user else { return Err(NoPlace::Address) };
        if count == 0 {
            return Ok(());
        }
        let mut taken = self.places.taken.lock();
        let key = self.number.map(|number| (user.0, number));
        if key.is_some_and(|key| !taken.displaceable.contains_key(&key)) {
            // It was displaced.
            return Err(NoPlace::Node);
        }
        self.places.add_or_displace(&mut taken, user, count, count)?;
        self.count += count;
        if let Some(place) = key.and_then(|key| taken.displaceable.get_mut(&key)) {
            place.count = self.count;
        }
        Ok(())
    }

    /// Removes the user of the place. The place stays taken, but counts for nobody. A place that was displaced is
    /// gone.
    pub fn set_unused(&mut self) {
        if let Some((payer, _)) = self.user.take() {
            let mut taken = self.places.taken.lock();
            let number = self.number.take();
            let is_displaced =
                number.is_some_and(|number| taken.displaceable.remove(&(payer, number)).is_none());
            if is_displaced && !self.places.is_freed_by_holder {
                self.count = 0;
                return;
            }
            taken.remove(payer, self.count);
            taken.unused += self.count;
        }
    }

    /// Gives a place that nobody uses to a user. After an error nobody uses it. It fails if the place was displaced.
    pub fn set_user(&mut self, address: IpAddr, caller_class: CallerClass) -> Result<(), NoPlace> {
        self.set_unused();
        if self.count == 0 {
            return Err(NoPlace::Node);
        }
        let user = (caller_class.payer(address), caller_class);
        let mut taken = self.places.taken.lock();
        self.places.add_or_displace(&mut taken, user, self.count, 0)?;
        taken.unused -= self.count;
        self.user = Some(user);
        Ok(())
    }

    /// Lets the places count for another user from now on. If it may not have them, or if they were displaced, nothing
    /// changes.
    pub fn move_to(&mut self, address: IpAddr, caller_class: CallerClass) {
        let Some((payer, _)) = self.user else { return };
        let user = (caller_class.payer(address), caller_class);
        let mut taken = self.places.taken.lock();
        let displaceable = self.number.map(|number| taken.displaceable.remove(&(payer, number)));
        if matches!(displaceable, Some(None)) {
            // They were displaced.
            return;
        }
        taken.remove(payer, self.count);
        taken.unused += self.count;
        let moved = self.places.add_or_displace(&mut taken, user, self.count, 0);
        taken.unused -= self.count;
        if moved.is_ok() {
            self.user = Some(user);
        } else {
            taken.add(payer, self.count);
        }
        let Some((payer, caller_class)) = self.user else { return };
        match (self.number, displaceable.flatten()) {
            (Some(number), Some(place)) if caller_class.gives_way() => {
                taken.displaceable.insert((payer, number), place);
            }
            _ => self.number = None,
        }
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
        self.count -= count;
        if let (Some((payer, _)), Some(number)) = (self.user, self.number) {
            let key = (payer, number);
            match taken.displaceable.get_mut(&key) {
                Some(place) => place.count = self.count,
                None if self.places.is_freed_by_holder => {}
                // It was displaced, so its places are free already.
                None => return,
            }
            if self.count == 0 {
                taken.displaceable.remove(&key);
                self.number = None;
            }
        }
        taken.all -= count;
        match self.user {
            Some((payer, _)) => taken.remove(payer, count),
            None => taken.unused -= count,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back(self.count);
    }
}

/// The network that counts as one address where people sign in, and for nodes that greet this one: the whole IPv4
/// address, or the first 64 bits of an IPv6 address, because its owner can choose the rest.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// The network that counts as one address wherever one client could use many: the whole IPv4 address, or the first 48
/// bits of an IPv6 address. One site usually owns all addresses that have these bits in common.
pub fn site_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 80 << 80).into(),
        v4 => v4,
    }
}

#[cfg(test)]
#[path = "places_tests.rs"]
mod tests;
