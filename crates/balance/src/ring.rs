//! Consistent hashing (Karger et al. 1997): points on a ring, each of which belongs to a member.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::hash::CallerHash;
use crate::rendezvous::Weighted;

/// Points for each unit of weight.
const POINTS_PER_WEIGHT: u64 = 100;
/// Maximum number of points on one ring, apart from the one point that each member always has. If there would
/// be more, every member gets half as many points, or a quarter, and so on. These steps keep most points the
/// same while members come and go. A ring is made at every change of a service, which takes about 40 ms with this
/// number.
const POINTS_MAX: u64 = 1 << 18;

/// The points, sorted, each with the position of its member.
#[derive(Debug, Default)]
pub(crate) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    pub(crate) fn new(members: &[Weighted]) -> Self {
        let points = |member: &Weighted| u64::from(member.weight) * POINTS_PER_WEIGHT;
        let total: u64 = members.iter().map(points).sum();
        let divisor = total.div_ceil(POINTS_MAX).max(1).next_power_of_two();
        let mut ring = Vec::new();
        for (position, member) in (0_u32..).zip(members).filter(|(_, member)| member.weight > 0) {
            let point = |n: u64| xxh3_64_with_seed(&n.to_le_bytes(), member.seed);
            let points = (points(member) / divisor).max(1);
            ring.extend((0..points).map(|n| (point(n), position)));
        }
        ring.sort_unstable();
        Self(ring.into())
    }

    /// The same ring without the points of other members. So a caller keeps its member if `keep` selects it,
    /// and otherwise gets the next selected one on the whole ring.
    pub(crate) fn of(&self, keep: impl Fn(usize) -> bool) -> Self {
        Self(self.0.iter().filter(|(_, position)| keep(*position as usize)).copied().collect())
    }

    /// The members in the order of the ring, beginning at the caller's hash. A member occurs as often as it
    /// has points.
    pub(crate) fn from(&self, caller: CallerHash) -> impl Iterator<Item = usize> {
        let at = self.0.partition_point(|(point, _)| *point < caller.get());
        let (before, after) = self.0.split_at(at);
        after.iter().chain(before).map(|(_, position)| *position as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_bounded_and_each_member_is_on_it() {
        let member = |seed| Weighted { seed, weight: 100 };
        let members: Vec<Weighted> = (0..20_000).map(member).collect();
        let ring = Ring::new(&members);
        assert!(ring.0.len() as u64 <= POINTS_MAX, "{}", ring.0.len());
        let mut met = vec![false; members.len()];
        ring.0.iter().for_each(|(_, position)| met[*position as usize] = true);
        assert!(met.iter().all(|met| *met));
    }
}
