//! The input and the result of a choice. The input is the strategy, the draw and the present state of the members;
//! the result is a pick.

use crate::hash::CallerHash;

/// How a member is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The members in turn, by weight. The shares are exact over a whole cycle.
    RoundRobin,
    /// The member that owns the next point on the ring after the caller's hash.
    ConsistentHash,
    /// The member with the highest score. A score depends on the caller's hash, the member's name and its weight.
    Rendezvous,
    /// The less loaded of two members that are drawn by weight.
    LeastRequest,
}

impl Strategy {
    /// Whether the choice depends on the caller's hash.
    #[must_use]
    pub const fn hashes(self) -> bool {
        matches!(self, Self::ConsistentHash | Self::Rendezvous)
    }
}

/// The values that one choice depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Draw {
    /// The caller's hash, for strategies that hash.
    pub hash: CallerHash,
    /// If set, the caller always gets the member with the highest rendezvous score, whatever the strategy is.
    pub affinity: Option<CallerHash>,
    /// A random number.
    pub random: u64,
}

/// The chosen member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Its position among the members that the balancer was built from.
    pub position: usize,
    /// Round robin: the number of this turn among the turns of the member in one cycle, from 0. Otherwise 0.
    pub share: u32,
}

/// The present state of the members, by position.
pub trait Pool {
    /// Whether the member may be chosen now.
    fn admits(&self, _position: usize) -> bool {
        true
    }

    /// The number of requests in flight to the member.
    fn in_flight(&self, position: usize) -> u64;

    /// How slow the member is, as a power of two. Each step doubles its load.
    fn slowness(&self, _position: usize) -> u32 {
        0
    }
}
