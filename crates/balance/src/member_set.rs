//! A set of members to choose from: all members of a service, or those of one version or zone.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::choice::{Draw, Pick, Pool, Strategy};
use crate::cycle::Cycle;
use crate::random::Random;
use crate::rendezvous::{self, Weighted};
use crate::ring::Ring;

/// Maximum number of random draws. After that, the list is searched for a member that can be chosen.
const DRAWS_MAX: usize = 8;
/// Maximum slowness that is used, as a power of two.
const SLOWNESS_MAX: u32 = 15;

/// The members' positions in the service.
#[derive(Debug)]
enum Positions {
    /// All positions, from 0.
    All(usize),
    Some(Box<[u32]>),
}

#[derive(Debug)]
pub(crate) struct MemberSet {
    positions: Positions,
    /// For round robin and least request.
    cycle: Cycle,
    /// For consistent hashing.
    ring: Ring,
    /// The number of turns so far, if this set has its own counter.
    turns: AtomicU64,
}

impl MemberSet {
    /// All members.
    pub(crate) fn all(strategy: Strategy, members: &[Weighted]) -> Self {
        let len = members.len();
        let ring = match strategy {
            Strategy::ConsistentHash => Ring::new(members),
            _ => Ring::default(),
        };
        Self::new(strategy, Positions::All(len), members, ring, 0)
    }

    /// The members that `keep` selects, except those with weight 0. `ring` is the ring of all members.
    /// `turns` is the first turn.
    pub(crate) fn some(
        strategy: Strategy,
        members: &[Weighted],
        ring: &Ring,
        turns: u64,
        keep: impl Fn(usize) -> bool,
    ) -> Self {
        let weighty = (0_u32..).zip(members).filter(|(_, member)| member.weight > 0);
        let positions = weighty.map(|(at, _)| at).filter(|at| keep(*at as usize)).collect();
        Self::new(strategy, Positions::Some(positions), members, ring.of(keep), turns)
    }

    fn new(
        strategy: Strategy,
        positions: Positions,
        members: &[Weighted],
        ring: Ring,
        turns: u64,
    ) -> Self {
        let cycle = match strategy {
            Strategy::RoundRobin | Strategy::LeastRequest => {
                let weight = |at: usize| u16::try_from(members[at].weight).unwrap_or(u16::MAX);
                let weights: Vec<u16> = positions.iter().map(weight).collect();
                Cycle::new(&weights)
            }
            Strategy::ConsistentHash | Strategy::Rendezvous => Cycle::Equal(0),
        };
        Self { positions, cycle, ring, turns: AtomicU64::new(turns) }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.positions {
            Positions::All(len) => *len,
            Positions::Some(positions) => positions.len(),
        }
    }

    /// The count of turns of this set.
    pub(crate) fn turns(&self) -> &AtomicU64 {
        &self.turns
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(crate) fn position(&self, at: usize) -> usize {
        match &self.positions {
            Positions::All(_) => at,
            Positions::Some(positions) => positions[at] as usize,
        }
    }

    /// The positions of the members.
    pub(crate) fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.positions.iter()
    }

    /// Whether any member can be chosen now.
    pub(crate) fn admits_any(&self, pool: &impl Pool) -> bool {
        self.positions.iter().any(|position| pool.admits(position))
    }

    /// The member of the next turn.
    pub(crate) fn in_turn(&self, turns: &AtomicU64, pool: &impl Pool) -> Option<Pick> {
        let len = self.cycle.len() as u64;
        for _ in 0..DRAWS_MAX {
            let turn = turns.fetch_add(1, Ordering::Relaxed).checked_rem(len)?;
            let (at, share) = self.cycle.slot(usize::try_from(turn).unwrap_or(0));
            let position = self.position(at);
            if pool.admits(position) {
                return Some(Pick { position, share });
            }
        }
        self.search(usize::try_from(turns.load(Ordering::Relaxed)).unwrap_or(0), pool)
    }

    /// The less loaded of two members that are drawn by weight (Mitzenmacher 2001).
    pub(crate) fn least(
        &self,
        random: u64,
        members: &[Weighted],
        pool: &impl Pool,
    ) -> Option<Pick> {
        let (mut random, len) = (Random::new(random), self.cycle.len());
        if len == 0 {
            return None;
        }
        let mut slot = random.below(len);
        let mut first = None;
        for _ in 0..DRAWS_MAX {
            let position = self.position(self.cycle.slot(slot).0);
            // Takes another slot than the last one. If all weights are equal, that is another member.
            slot = (slot + 1 + random.below(len - 1)) % len;
            let Some(first) = first else {
                first = Some(position).filter(|position| pool.admits(*position));
                continue;
            };
            if position != first && pool.admits(position) {
                let cost = |at: usize| cost(at, members[at].weight, pool);
                let position = if cost(first) <= cost(position) { first } else { position };
                return Some(Pick { position, share: 0 });
            }
        }
        let only = first.map(|position| Pick { position, share: 0 });
        only.or_else(|| self.search(slot, pool))
    }

    /// The owner on the ring, or else the next member that can be chosen.
    pub(crate) fn on_ring(&self, draw: &Draw, pool: &impl Pool) -> Option<Pick> {
        let mut met = self.ring.from(draw.hash);
        let owner = met.next().filter(|owner| pool.admits(*owner));
        // If no member can be chosen, the ring is not searched.
        let next = || met.find(|position| pool.admits(*position));
        let position = owner.or_else(|| self.admits_any(pool).then(next).flatten())?;
        Some(Pick { position, share: 0 })
    }

    /// The member with the highest score among those that can be chosen.
    pub(crate) fn rendezvous(
        &self,
        caller: crate::CallerHash,
        members: &[Weighted],
        pool: &impl Pool,
    ) -> Option<Pick> {
        let admitted = self.positions.iter().filter(|position| pool.admits(*position));
        let position = rendezvous::owner(admitted.map(|at| (at, members[at])), caller)?;
        Some(Pick { position, share: 0 })
    }

    /// The first member that can be chosen and has a slot, beginning with the member of slot `start`. A cycle can be
    /// much longer than the number of its members, so this goes from member to member.
    fn search(&self, start: usize, pool: &impl Pool) -> Option<Pick> {
        let first = start.checked_rem(self.cycle.len()).map(|slot| self.cycle.slot(slot).0)?;
        let mut members = (first..self.len()).chain(0..first);
        let at = members.find(|at| self.cycle.has_slot(*at) && pool.admits(self.position(*at)))?;
        Some(Pick { position: self.position(at), share: 0 })
    }
}

impl Positions {
    fn iter(&self) -> impl Iterator<Item = usize> {
        let (all, some) = match self {
            Self::All(len) => (*len, &[][..]),
            Self::Some(positions) => (0, &positions[..]),
        };
        (0..all).chain(some.iter().map(|position| *position as usize))
    }
}

/// The cost of one more request to a member: its requests in flight divided by its weight, doubled for each
/// step of slowness. Idle members of the same slowness have the same cost, so the draw decides between them.
fn cost(at: usize, weight: u32, pool: &impl Pool) -> u64 {
    let in_flight = pool.in_flight(at).min(u64::from(u32::MAX));
    (((in_flight << 16) / u64::from(weight.max(1))) + 1) << pool.slowness(at).min(SLOWNESS_MAX)
}
