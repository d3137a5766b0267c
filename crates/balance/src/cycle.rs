//! Weighted round robin as a cycle of slots: deadline scheduling on the virtual deadlines of each slot (Liu and
//! Layland 1973). The slots of a long cycle are not stored, because a cycle is made at every change of a service, and
//! sorting a million slots takes a quarter of a second. They are computed by steps of the golden ratio (Weyl 1916).

/// Maximum number of slots that are stored.
const STORED_MAX: u64 = 1 << 16;
/// The golden ratio minus 1, in units of 2^-64.
const GOLDEN: u128 = 0x9e37_79b9_7f4a_7c15;

/// The order of turns. Each member has as many slots as its weight, divided by the greatest common divisor of
/// all weights. The slots of a member are spread evenly.
#[derive(Debug)]
pub(crate) enum Cycle {
    /// All weights are equal. This many members take turns, one after the other.
    Equal(usize),
    /// For each slot, the member and the number of this slot among the member's slots.
    Slots { order: Box<[(u32, u32)]>, has_slot: Box<[bool]> },
    /// Turn `t` has the place `t * step` modulo the number of slots. `step` has no common divisor with that number, so
    /// a whole cycle has each place once. The places of member `n` end before `ends[n]`.
    Computed { ends: Box<[u64]>, step: u64 },
}

impl Cycle {
    /// The cycle for members with these weights. A member with weight 0 has no slot.
    pub(crate) fn new(weights: &[u16]) -> Self {
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Equal(if weights.first() == Some(&0) { 0 } else { weights.len() });
        }
        let divisor = weights.iter().map(|weight| u64::from(*weight)).fold(0, gcd).max(1);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight) / divisor).sum();
        if total > STORED_MAX {
            let mut end = 0;
            let ends = weights.iter().map(|weight| {
                end += u64::from(*weight) / divisor;
                end
            });
            return Self::Computed { ends: ends.collect(), step: step(total) };
        }
        let mut slots: Vec<(u64, u32, u32)> = Vec::new();
        for (at, weight) in (0_u32..).zip(weights) {
            let count = u64::from(*weight) / divisor;
            // The middle of the nth of `count` equal parts of the cycle, in fixed point.
            let middle = |nth: u64| ((2 * nth + 1) << 32) / (2 * count);
            slots.extend((0..count).zip(0..).map(|(nth, share)| (middle(nth), at, share)));
        }
        slots.sort_unstable();
        Self::Slots {
            order: slots.into_iter().map(|(_, at, share)| (at, share)).collect(),
            has_slot: weights.iter().map(|weight| *weight > 0).collect(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Equal(len) => *len,
            Self::Slots { order, .. } => order.len(),
            Self::Computed { ends, .. } => ends.last().map_or(0, |end| *end as usize),
        }
    }

    /// Whether a member has any slot.
    pub(crate) fn has_slot(&self, at: usize) -> bool {
        match self {
            Self::Equal(len) => at < *len,
            Self::Slots { has_slot, .. } => has_slot[at],
            Self::Computed { ends, .. } => {
                ends[at] > at.checked_sub(1).map_or(0, |before| ends[before])
            }
        }
    }

    /// The member of a slot, and the number of this slot among the member's slots. `slot` must be below
    /// [`Self::len`].
    pub(crate) fn slot(&self, slot: usize) -> (usize, u32) {
        match self {
            Self::Equal(_) => (slot, 0),
            Self::Slots { order, .. } => (order[slot].0 as usize, order[slot].1),
            Self::Computed { ends, step } => {
                let total = ends.last().copied().unwrap_or(1);
                let place = (slot as u128 * u128::from(*step) % u128::from(total)) as u64;
                let at = ends.partition_point(|end| *end <= place);
                let begin = at.checked_sub(1).map_or(0, |before| ends[before]);
                (at, (place - begin) as u32)
            }
        }
    }
}

/// The number closest above the golden part of `total` that has no common divisor with `total`.
fn step(total: u64) -> u64 {
    let golden = ((u128::from(total) * GOLDEN) >> 64) as u64;
    (golden..total).find(|step| gcd(*step, total) == 1).unwrap_or(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cycle_gives_each_exactly_its_weight(weights in prop::collection::vec(0_u16..=100, 0..20)) {
            let cycle = Cycle::new(&weights);
            let divisor = weights.iter().map(|weight| u64::from(*weight)).fold(0, gcd).max(1) as u16;
            let slots: Vec<(usize, u32)> = (0..cycle.len()).map(|slot| cycle.slot(slot)).collect();
            for (at, weight) in weights.iter().enumerate() {
                let own: Vec<u32> = slots.iter().filter(|slot| slot.0 == at).map(|slot| slot.1).collect();
                let expected: Vec<u32> = (0..u32::from(weight / divisor)).collect();
                prop_assert_eq!(own, expected, "in order, none twice");
            }
        }
    }

    #[test]
    fn a_long_cycle_gives_each_exactly_its_weight_and_stores_no_slots() {
        let mut weights = vec![u16::MAX; 4];
        weights.extend([1, 0, 3]);
        let cycle = Cycle::new(&weights);
        assert!(matches!(cycle, Cycle::Computed { .. }));
        let mut turns = vec![Vec::new(); weights.len()];
        for slot in 0..cycle.len() {
            let (at, share) = cycle.slot(slot);
            turns[at].push(share);
        }
        for (mut shares, weight) in turns.into_iter().zip(&weights) {
            shares.sort_unstable();
            assert_eq!(shares, (0..u32::from(*weight)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_turns_of_a_long_cycle_are_spread() {
        let weights = [1, 100].repeat(2_000);
        let cycle = Cycle::new(&weights);
        assert_eq!(cycle.len(), 202_000);
        for part in 0..10 {
            let turns = part * 20_200..(part + 1) * 20_200;
            let heavy = turns.clone().filter(|slot| cycle.slot(*slot).0 % 2 == 1).count();
            assert!((19_990..=20_010).contains(&heavy), "{heavy} of 20,000");
            let one = turns.filter(|slot| cycle.slot(*slot).0 == 1).count();
            assert!((9..=11).contains(&one), "{one} of 10");
        }
    }

    #[test]
    fn the_slots_of_a_member_are_spread() {
        let cycle = Cycle::new(&[1, 3]);
        let order: Vec<usize> = (0..cycle.len()).map(|slot| cycle.slot(slot).0).collect();
        assert_eq!(order, [1, 0, 1, 1]);
    }
}
