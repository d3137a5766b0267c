//! One service's members, ready to choose from: split by version, preferred by zone, then by strategy.

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::hash::CallerHash;
use crate::lane::Lane;
use crate::rendezvous::{self, Weighted};

/// The seed of versions' names, so that a version and an instance of the same name draw different numbers.
const VERSION_SEED: u64 = 1;
/// Most members of a zone whose load is looked at for one choice.
const ZONE_SAMPLE_MAX: usize = 64;

/// How one member is chosen among several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Each in turn, by weight; exact over a cycle.
    RoundRobin,
    /// The next point on a ring of hashed points.
    ConsistentHash,
    /// The highest score of caller and member.
    Rendezvous,
    /// The less loaded of two that are drawn by weight.
    LeastRequest,
}

impl Strategy {
    /// Whether the choice depends on the caller's hash.
    #[must_use]
    pub const fn hashes(self) -> bool {
        matches!(self, Self::ConsistentHash | Self::Rendezvous)
    }
}

/// One instance, as far as a choice depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name, unique in its service. Members are given in the order of their names.
    pub name: &'a str,
    /// Its share of the traffic against its peers. 0: none.
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
    /// Its weight against the other versions. 0: none.
    pub weight: u32,
}

/// Which zone is preferred, and when it is not.
#[derive(Clone, Copy, Debug)]
pub struct Zones<'a> {
    /// The preferred zone.
    pub own: &'a str,
    /// All zones are used if fewer members of the zone may be chosen.
    pub members_min: u32,
    /// All zones are used if a member of the zone has more requests in flight than this on average. 0: no limit.
    pub in_flight_max: u32,
}

/// What a service's policy says about the choice.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// The strategy.
    pub strategy: Strategy,
    /// Shares by version. Versions without members count for nothing; if no version has any, all members are chosen
    /// from. Empty: no split.
    pub split: &'a [VersionWeight<'a>],
    /// The preferred zone, if there is one.
    pub zone: Option<Zones<'a>>,
    /// Whether draws have an affinity.
    pub affinity: bool,
}

/// What one choice depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draw {
    /// The caller, for the strategies that hash.
    pub hash: CallerHash,
    /// A caller who is kept with one member whatever the strategy is: that of the highest rendezvous score.
    pub affinity: Option<CallerHash>,
    /// A random number.
    pub random: u64,
}

/// The chosen member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Its position among the members that the balancer was made of.
    pub position: usize,
    /// Round robin: which of the member's turns in the cycle this was, from 0.
    pub share: u32,
}

/// The present state of the members, by position.
pub trait Pool {
    /// Whether the member may be chosen now.
    fn admits(&self, _position: usize) -> bool {
        true
    }

    /// Requests in flight to it.
    fn in_flight(&self, position: usize) -> u64;

    /// How slow it is, as a power of two: each step counts like twice the load.
    fn slowness(&self, _position: usize) -> u32 {
        0
    }
}

/// A service's members, ready to choose from. Immutable but for its counters of turns.
#[derive(Debug)]
pub struct Balancer {
    strategy: Strategy,
    /// Empty where no choice needs it.
    members: Box<[Weighted]>,
    /// All members; none if the traffic is split.
    whole: Lane,
    /// Apart, because few services have it, and a choice should touch little memory.
    narrowed: Option<Box<Narrowed>>,
}

/// What narrows the choice.
#[derive(Debug)]
struct Narrowed {
    /// The versions that have members; empty if the traffic is not split.
    versions: Vec<Group>,
    /// All members of the preferred zone.
    local: Option<Lane>,
    /// Least members of the zone that may be chosen.
    members_min: usize,
    /// Most requests in flight to a member of the zone on average; 0 for no limit.
    in_flight_max: u64,
}

/// The members of one version.
#[derive(Debug)]
struct Group {
    version: Weighted,
    all: Lane,
    /// Those of the preferred zone, if there are enough.
    local: Option<Lane>,
}

impl Balancer {
    /// For these members. `turns` is the count of turns so far, from which round robin goes on.
    #[must_use]
    pub fn new(plan: &Plan<'_>, members: &[Member<'_>], turns: u64) -> Self {
        let weighted: Box<[Weighted]> = members
            .iter()
            .map(|member| Weighted {
                seed: xxh3_64(member.name.as_bytes()),
                weight: member.weight.into(),
            })
            .collect();
        let whole = Lane::all(plan.strategy, &weighted);
        let lane = |keep: &dyn Fn(usize) -> bool| {
            Lane::some(plan.strategy, &weighted, whole.ring(), turns, keep)
        };
        let narrowed = Narrowed::new(plan, members, &lane).map(Box::new);
        let whole = match &narrowed {
            Some(narrowed) if !narrowed.versions.is_empty() => Lane::all(plan.strategy, &[]),
            _ => whole,
        };
        let needs_members =
            plan.affinity || matches!(plan.strategy, Strategy::Rendezvous | Strategy::LeastRequest);
        let members = if needs_members { weighted } else { Box::default() };
        Self { strategy: plan.strategy, members, whole, narrowed }
    }

    /// Chooses a member; `None` if none may be chosen. `turns` counts the turns of round robin, and lives on when the
    /// balancer is made anew.
    #[must_use]
    pub fn pick(&self, draw: &Draw, turns: &AtomicU64, pool: &impl Pool) -> Option<Pick> {
        let Some(narrowed) = self.narrowed.as_deref() else {
            return self.pick_in(&self.whole, draw, turns, pool);
        };
        if narrowed.versions.is_empty() {
            let lane = narrowed.local_or(&self.whole, narrowed.local.as_ref(), draw, pool);
            return self.pick_in(lane, draw, turns, pool);
        }
        let caller = draw.affinity.unwrap_or(match self.strategy.hashes() {
            true => draw.hash,
            false => CallerHash::from_u64(draw.random),
        });
        let pick_of = |at: usize| {
            let group = &narrowed.versions[at];
            let lane = narrowed.local_or(&group.all, group.local.as_ref(), draw, pool);
            self.pick_in(lane, draw, turns, pool)
        };
        let versions = narrowed.versions.iter().map(|group| group.version).enumerate();
        pick_of(rendezvous::owner(versions.clone(), caller)?).or_else(|| {
            // None of this version may be chosen.
            let others = versions.filter(|(at, _)| narrowed.versions[*at].all.admits_any(pool));
            pick_of(rendezvous::owner(others, caller)?)
        })
    }

    fn pick_in(
        &self,
        lane: &Lane,
        draw: &Draw,
        turns: &AtomicU64,
        pool: &impl Pool,
    ) -> Option<Pick> {
        if let Some(caller) = draw.affinity.filter(|_| !self.members.is_empty()) {
            return lane.rendezvous(caller, &self.members, pool);
        }
        match self.strategy {
            Strategy::RoundRobin if std::ptr::eq(lane, &raw const self.whole) => {
                lane.in_turn(turns, pool)
            }
            Strategy::RoundRobin => {
                turns.fetch_add(1, Ordering::Relaxed);
                lane.in_turn(lane.turns(), pool)
            }
            Strategy::ConsistentHash => lane.on_ring(draw, pool),
            Strategy::Rendezvous => lane.rendezvous(draw.hash, &self.members, pool),
            Strategy::LeastRequest => lane.least(draw.random, &self.members, pool),
        }
    }
}

/// Makes the lane of the members that a filter keeps.
type LaneOf<'a> = dyn Fn(&dyn Fn(usize) -> bool) -> Lane + 'a;

impl Narrowed {
    /// `None` if nothing narrows the choice.
    fn new(plan: &Plan<'_>, members: &[Member<'_>], lane: &LaneOf<'_>) -> Option<Self> {
        let members_min = plan.zone.map_or(1, |zone| zone.members_min.max(1) as usize);
        let local = |keep: &dyn Fn(usize) -> bool| {
            let own = plan.zone?.own;
            let local = lane(&|at| keep(at) && members[at].zone == Some(own));
            (local.len() >= members_min).then_some(local)
        };
        let group = |share: &VersionWeight<'_>| {
            let of_version = |at: usize| members[at].version == Some(share.version);
            let all = lane(&of_version);
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

    /// Those of the zone if enough of them may be chosen and they are not crowded, else all.
    fn local_or<'a>(
        &self,
        all: &'a Lane,
        local: Option<&'a Lane>,
        draw: &Draw,
        pool: &impl Pool,
    ) -> &'a Lane {
        local.filter(|local| self.stays_in(local, draw.random, pool)).unwrap_or(all)
    }

    /// Whether enough members of the zone may be chosen, and they are not crowded. Large zones are sampled.
    fn stays_in(&self, local: &Lane, random: u64, pool: &impl Pool) -> bool {
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
