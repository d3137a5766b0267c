//! The members of one service, prepared for choosing: split by version, then preferred by zone, then chosen
//! by strategy.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::choice::{Draw, Pick, Pool, Strategy};
use crate::follow::{Follow, Narrowing, Narrowings, Unfollowed};
use crate::hash::CallerHash;
use crate::member_set::MemberSet;
use crate::rendezvous::{self, Weighted};

/// The seed for names of versions. It makes the hash of a version differ from that of an instance with the
/// same name.
const VERSION_SEED: u64 = 1;
/// Maximum number of members of a zone whose load is read for one choice.
const ZONE_SAMPLE_MAX: usize = 64;

/// What a choice needs to know about an instance.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name, unique within the service. Members must be given in the order of their names.
    pub name: &'a str,
    /// Its share of the traffic relative to the other members; 0 for none.
    pub weight: u16,
    /// Its version.
    pub version: Option<&'a str>,
    /// Its zone.
    pub zone: Option<&'a str>,
}

/// The share of the traffic of one version.
#[derive(Clone, Copy, Debug)]
pub struct VersionWeight<'a> {
    /// The version.
    pub version: &'a str,
    /// Its weight relative to the other versions; 0 for none.
    pub weight: u32,
}

/// The preferred zone, and when other zones are used too.
#[derive(Clone, Copy, Debug)]
pub struct Zones<'a> {
    /// The preferred zone.
    pub own: &'a str,
    /// If fewer members of the zone can be chosen, all zones are used.
    pub members_min: u32,
    /// If the members of the zone have more requests in flight than this on average, all zones are used. 0
    /// means no limit.
    pub in_flight_max: u32,
}

/// The part of a service's policy that affects the choice.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The strategy.
    pub strategy: Strategy,
    /// Shares by version. Versions without members are ignored. If no version has any member, all members are
    /// used. Empty means no split.
    pub split: &'a [VersionWeight<'a>],
    /// The preferred zone, if there is one.
    pub zone: Option<Zones<'a>>,
    /// Whether draws can have an affinity.
    pub affinity: bool,
}

/// The members of a service, prepared for choosing. It is immutable, apart from its counters of turns.
#[derive(Debug)]
pub struct Balancer {
    strategy: Strategy,
    /// Empty if no choice needs it.
    members: Box<[Weighted]>,
    /// All members; none if the traffic is split.
    whole: MemberSet,
    /// Stored separately, because few services have it, and a choice should read little memory.
    subsets: Option<Box<Subsets>>,
}

/// The subsets of members for versions and zones.
#[derive(Debug)]
struct Subsets {
    /// The versions that have members; empty if the traffic is not split.
    versions: Vec<Group>,
    /// All members of the preferred zone.
    local: Option<MemberSet>,
    /// Minimum number of members of the zone that can be chosen.
    members_min: usize,
    /// Maximum average number of requests in flight to a member of the zone; 0 for no limit.
    in_flight_max: u64,
}

/// The members of one version.
#[derive(Debug)]
struct Group {
    version: Weighted,
    all: MemberSet,
    /// The members in the preferred zone, if there are enough.
    local: Option<MemberSet>,
}

impl Balancer {
    /// Builds a balancer for these members. `turns` is the number of turns so far, from which round robin
    /// continues.
    #[must_use]
    pub fn new(plan: &Plan<'_>, members: &[Member<'_>], turns: u64) -> Self {
        let weighted: Box<[Weighted]> = members
            .iter()
            .map(|member| Weighted {
                seed: xxh3_64(member.name.as_bytes()),
                weight: member.weight.into(),
            })
            .collect();
        let whole = MemberSet::all(plan.strategy, &weighted);
        let member_set = |keep: &dyn Fn(usize) -> bool| {
            MemberSet::some(plan.strategy, &weighted, whole.ring(), turns, keep)
        };
        let subsets = Subsets::new(plan, members, &member_set).map(Box::new);
        let whole = match &subsets {
            Some(subsets) if !subsets.versions.is_empty() => MemberSet::all(plan.strategy, &[]),
            _ => whole,
        };
        let needs_members =
            plan.affinity || matches!(plan.strategy, Strategy::Rendezvous | Strategy::LeastRequest);
        let members = if needs_members { weighted } else { Box::default() };
        Self { strategy: plan.strategy, members, whole, subsets }
    }

    /// Chooses a member; `None` if no member can be chosen. `turns` counts the turns of round robin. It
    /// continues when the balancer is built again.
    #[must_use]
    pub fn pick(&self, draw: &Draw, turns: &AtomicU64, pool: &impl Pool) -> Option<Pick> {
        self.pick_followed(draw, turns, pool, &mut Unfollowed)
    }

    /// The choice that [`Self::pick`] would make now, and how the members were narrowed. It uses up no turn.
    #[must_use]
    pub fn explain(
        &self,
        draw: &Draw,
        turns: &AtomicU64,
        pool: &impl Pool,
    ) -> (Option<Pick>, Narrowings) {
        let mut narrowings = Narrowings::default();
        (self.pick_followed(draw, turns, pool, &mut narrowings), narrowings)
    }

    fn pick_followed<F: Follow>(
        &self,
        draw: &Draw,
        turns: &AtomicU64,
        pool: &impl Pool,
        follow: &mut F,
    ) -> Option<Pick> {
        let Some(subsets) = self.subsets.as_deref() else {
            return self.pick_in::<F>(&self.whole, draw, turns, pool);
        };
        if subsets.versions.is_empty() {
            let local = subsets.local.as_ref();
            let member_set = subsets.local_or(&self.whole, local, draw, pool, follow);
            return self.pick_in::<F>(member_set, draw, turns, pool);
        }
        let caller = draw.affinity.unwrap_or(match self.strategy.hashes() {
            true => draw.hash,
            false => CallerHash::from_u64(draw.random),
        });
        let mut pick_of = |at: usize, by: Narrowing| {
            let group = &subsets.versions[at];
            follow.narrowed(by, group.all.positions());
            let local = group.local.as_ref();
            let member_set = subsets.local_or(&group.all, local, draw, pool, follow);
            self.pick_in::<F>(member_set, draw, turns, pool)
        };
        let versions = subsets.versions.iter().map(|group| group.version).enumerate();
        let first = rendezvous::owner(versions.clone(), caller)?;
        pick_of(first, Narrowing::Version).or_else(|| {
            // No member of this version can be chosen.
            let others = versions.filter(|(at, _)| subsets.versions[*at].all.admits_any(pool));
            pick_of(rendezvous::owner(others, caller)?, Narrowing::OtherVersion)
        })
    }

    fn pick_in<F: Follow>(
        &self,
        member_set: &MemberSet,
        draw: &Draw,
        turns: &AtomicU64,
        pool: &impl Pool,
    ) -> Option<Pick> {
        if let Some(caller) = draw.affinity.filter(|_| !self.members.is_empty()) {
            return member_set.rendezvous(caller, &self.members, pool);
        }
        match self.strategy {
            Strategy::RoundRobin if std::ptr::eq(member_set, &raw const self.whole) => {
                in_turn::<F>(member_set, turns, pool)
            }
            Strategy::RoundRobin => {
                if !F::DRY {
                    turns.fetch_add(1, Ordering::Relaxed);
                }
                in_turn::<F>(member_set, member_set.turns(), pool)
            }
            Strategy::ConsistentHash => member_set.on_ring(draw, pool),
            Strategy::Rendezvous => member_set.rendezvous(draw.hash, &self.members, pool),
            Strategy::LeastRequest => member_set.least(draw.random, &self.members, pool),
        }
    }
}

/// The member of the next turn.
fn in_turn<F: Follow>(member_set: &MemberSet, turns: &AtomicU64, pool: &impl Pool) -> Option<Pick> {
    match F::DRY {
        true => member_set.in_turn(&AtomicU64::new(turns.load(Ordering::Relaxed)), pool),
        false => member_set.in_turn(turns, pool),
    }
}

/// Builds the set of the members that a filter keeps.
type SetOf<'a> = dyn Fn(&dyn Fn(usize) -> bool) -> MemberSet + 'a;

impl Subsets {
    /// `None` if nothing narrows the choice.
    fn new(plan: &Plan<'_>, members: &[Member<'_>], member_set: &SetOf<'_>) -> Option<Self> {
        let members_min = plan.zone.map_or(1, |zone| zone.members_min.max(1) as usize);
        let local = |keep: &dyn Fn(usize) -> bool| {
            let own = plan.zone?.own;
            let local = member_set(&|at| keep(at) && members[at].zone == Some(own));
            (local.len() >= members_min).then_some(local)
        };
        let group = |share: &VersionWeight<'_>| {
            let of_version = |at: usize| members[at].version == Some(share.version);
            let all = member_set(&of_version);
            let seed = xxh3_64_with_seed(share.version.as_bytes(), VERSION_SEED);
            let version = Weighted { seed, weight: share.weight };
            (all.len() > 0).then(|| Group { version, all, local: local(&of_version) })
        };
        let versions: Vec<Group> =
            plan.split.iter().filter(|share| share.weight > 0).filter_map(group).collect();
        let local = if versions.is_empty() { local(&|_| true) } else { None };
        if versions.is_empty() && local.is_none() {
            return None;
        }
        let in_flight_max = plan.zone.map_or(0, |zone| zone.in_flight_max.into());
        Some(Self { versions, local, members_min, in_flight_max })
    }

    /// The members of the zone, if enough of them can be chosen and they are not overloaded; otherwise all
    /// members.
    fn local_or<'a>(
        &self,
        all: &'a MemberSet,
        local: Option<&'a MemberSet>,
        draw: &Draw,
        pool: &impl Pool,
        follow: &mut impl Follow,
    ) -> &'a MemberSet {
        let Some(local) = local else { return all };
        match self.stays_in(local, draw.random, pool) {
            true => {
                follow.narrowed(Narrowing::Zone, local.positions());
                local
            }
            false => {
                follow.narrowed(Narrowing::AllZones, all.positions());
                all
            }
        }
    }

    /// Whether enough members of the zone can be chosen and they are not overloaded. Only a sample of a large
    /// zone is read.
    fn stays_in(&self, local: &MemberSet, random: u64, pool: &impl Pool) -> bool {
        let len = local.len();
        let admitted = (0..len).map(|at| local.position(at)).filter(|at| pool.admits(*at));
        if admitted.take(self.members_min).count() < self.members_min {
            return false;
        }
        if self.in_flight_max == 0 {
            return true;
        }
        let (start, step) = (random as usize % len, len.div_ceil(ZONE_SAMPLE_MAX));
        let sample = (0..len).step_by(step).map(|at| local.position((start + at) % len));
        let (mut count, mut in_flight) = (0_u64, 0_u64);
        for position in sample.filter(|position| pool.admits(*position)) {
            count += 1;
            in_flight = in_flight.saturating_add(pool.in_flight(position));
        }
        in_flight <= count * self.in_flight_max
    }
}
