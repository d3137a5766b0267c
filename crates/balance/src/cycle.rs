//! Weighted round robin as a cycle of slots: deadline scheduling on the virtual deadlines of each slot (Liu and
//! Layland 1973).

/// Maximum number of slots in a cycle. If the weights need more, they are scaled down, and each member keeps
/// at least one slot.
const SLOTS_MAX: u64 = 1 << 20;

/// The order of turns. Each member has as many slots as its weight, divided by the greatest common divisor of
/// all weights. The slots of a member are spread evenly.
#[derive(Debug)]
pub(crate) enum Cycle {
    /// All weights are equal. This many members take turns, one after the other.
    Equal(usize),
    /// For each slot, the member and the number of this slot among the member's slots.
    Slots(Box<[(u32, u32)]>),
}

impl Cycle {
    /// The cycle for members with these weights. A member with weight 0 has no slot.
    pub(crate) fn new(weights: &[u16]) -> Self {
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Equal(if weights.first() == Some(&0) { 0 } else { weights.len() });
        }
        let divisor = u64::from(weights.iter().copied().fold(0, gcd).max(1));
        let total: u64 = weights.iter().map(|weight| u64::from(*weight) / divisor).sum();
        let count = |weight: u64| match weight / divisor {
            0 => 0,
            exact if total <= SLOTS_MAX => exact,
            exact => (exact * SLOTS_MAX / total).max(1),
        };
        let mut slots: Vec<(u64, u32, u32)> = Vec::new();
        for (at, weight) in (0_u32..).zip(weights) {
            let count = count(u64::from(*weight));
            // The middle of the nth of `count` equal parts of the cycle, in fixed point.
            let middle = |nth: u64| ((2 * nth + 1) << 32) / (2 * count);
            slots.extend((0..count).zip(0..).map(|(nth, share)| (middle(nth), at, share)));
        }
        slots.sort_unstable();
        Self::Slots(slots.into_iter().map(|(_, at, share)| (at, share)).collect())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Equal(len) => *len,
            Self::Slots(slots) => slots.len(),
        }
    }

    /// The member of a slot, and the number of this slot among the member's slots. `slot` must be below
    /// [`Self::len`].
    pub(crate) fn slot(&self, slot: usize) -> (usize, u32) {
        match self {
            Self::Equal(_) => (slot, 0),
            Self::Slots(slots) => (slots[slot].0 as usize, slots[slot].1),
        }
    }
}

fn gcd(a: u16, b: u16) -> u16 {
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
            let divisor = weights.iter().copied().fold(0, gcd).max(1);
            let slots: Vec<(usize, u32)> = (0..cycle.len()).map(|slot| cycle.slot(slot)).collect();
            for (at, weight) in weights.iter().enumerate() {
                let own: Vec<u32> = slots.iter().filter(|slot| slot.0 == at).map(|slot| slot.1).collect();
                let expected: Vec<u32> = (0..u32::from(weight / divisor)).collect();
                prop_assert_eq!(own, expected, "in order, none twice");
            }
        }
    }

    #[test]
    fn a_cycle_is_bounded_and_forgets_nobody() {
        let mut weights = vec![u16::MAX; 40];
        weights.push(1);
        let cycle = Cycle::new(&weights);
        assert!(cycle.len() as u64 <= SLOTS_MAX + weights.len() as u64, "{}", cycle.len());
        assert_eq!((0..cycle.len()).filter(|slot| cycle.slot(*slot).0 == 40).count(), 1);
    }

    #[test]
    fn the_slots_of_a_member_are_spread() {
        let cycle = Cycle::new(&[1, 3]);
        let order: Vec<usize> = (0..cycle.len()).map(|slot| cycle.slot(slot).0).collect();
        assert_eq!(order, [1, 0, 1, 1]);
    }
}
