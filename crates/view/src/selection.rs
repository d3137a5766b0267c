//! The four ways to choose: pure functions of a list of endpoints, a key and a cursor.
//!
//! Sources: weighted interleaving as deadline scheduling (Liu and Layland 1973, EDF on the virtual
//! deadlines of each slot); consistent hashing (Karger et al. 1997); weighted rendezvous hashing
//! (Thaler and Ravishankar 1998, with the logarithmic weights of Schindelhauer and Schomaker
//! 2005); the better of two random choices (Mitzenmacher 2001).

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Points on the ring per unit of weight.
const RING_POINTS_PER_WEIGHT: usize = 100;
/// Most points on one ring; beyond it, every endpoint gets proportionally fewer.
const RING_POINTS_MAX: usize = 1 << 20;

/// Slots of one cycle of weighted round robin: each endpoint stands in it exactly `weight` times
/// (divided by the weights' greatest common divisor), spread evenly.
pub(super) fn round_robin_cycle(weights: &[u16]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let mut slots: Vec<(u64, u32)> = Vec::new();
    for (position, weight) in (0_u32..).zip(weights) {
        let count = u64::from(weight / divisor);
        for nth in 0..count {
            // The middle of the nth of `count` equal parts of the cycle, in fixed point.
            slots.push((((2 * nth + 1) << 32) / (2 * count), position));
        }
    }
    slots.sort_unstable();
    slots.into_iter().map(|(_, position)| position).collect()
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A ring of hashed points, sorted; each names its endpoint by position.
pub(super) fn hash_ring(endpoints: &[(&str, u16)]) -> Vec<(u64, u32)> {
    let total: usize = endpoints.iter().map(|(_, weight)| usize::from(*weight)).sum();
    let per_weight = (RING_POINTS_MAX / total.max(1)).clamp(1, RING_POINTS_PER_WEIGHT);
    let mut ring = Vec::with_capacity(total * per_weight);
    for (position, (name, weight)) in (0_u32..).zip(endpoints) {
        let seed = xxh3_64(name.as_bytes());
        let points = u64::from(*weight) * per_weight as u64;
        ring.extend((0..points).map(|n| (xxh3_64_with_seed(&n.to_le_bytes(), seed), position)));
    }
    ring.sort_unstable();
    ring
}

/// The endpoint that owns the key: the first point at or after its hash.
pub(super) fn ring_owner(ring: &[(u64, u32)], key: &[u8]) -> Option<u32> {
    let hash = xxh3_64(key);
    let at = ring.partition_point(|(point, _)| *point < hash);
    ring.get(at).or_else(|| ring.first()).map(|(_, position)| *position)
}

/// The endpoint with the highest weighted score for the key. `seeds` are the endpoints' name
/// hashes with their weights.
pub(super) fn rendezvous_owner(seeds: &[(u64, u16)], key: &[u8]) -> Option<u32> {
    let mut best: Option<(f64, u32)> = None;
    for (position, (seed, weight)) in (0_u32..).zip(seeds) {
        let hash = xxh3_64_with_seed(key, *seed);
        // Uniform in (0, 1): the top 53 bits, moved off zero.
        let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let score = -f64::from(*weight) / uniform.ln();
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, position));
        }
    }
    best.map(|(_, position)| position)
}

/// The better of two candidates by requests in flight per weight; the first on a tie.
pub(super) fn less_loaded(a: (u32, u64, u16), b: (u32, u64, u16)) -> u32 {
    let (position_a, in_flight_a, weight_a) = a;
    let (position_b, in_flight_b, weight_b) = b;
    // a/wa <= b/wb without dividing; one is added so that weights count among the idle too.
    let cost_a = (in_flight_a + 1) * u64::from(weight_b);
    let cost_b = (in_flight_b + 1) * u64::from(weight_a);
    if cost_a <= cost_b { position_a } else { position_b }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(len: usize) -> Vec<String> {
        (0..len).map(|i| format!("node-{i}")).collect()
    }

    proptest! {
        #[test]
        fn a_cycle_gives_each_exactly_its_weight(weights in prop::collection::vec(1_u16..=100, 1..20)) {
            let cycle = round_robin_cycle(&weights);
            let divisor = weights.iter().copied().fold(0, gcd);
            for (position, weight) in weights.iter().enumerate() {
                let share = cycle.iter().filter(|slot| **slot as usize == position).count();
                prop_assert_eq!(share, usize::from(weight / divisor));
            }
        }

        #[test]
        fn a_departure_moves_only_its_own_keys(
            len in 2_usize..12, gone in 0_usize..12, keys in prop::collection::vec(any::<u64>(), 200)
        ) {
            let gone = gone % len;
            let names = names(len);
            let all: Vec<(&str, u16)> = names.iter().map(|n| (n.as_str(), 3)).collect();
            let mut left = all.clone();
            left.remove(gone);
            let seeds = |list: &[(&str, u16)]| -> Vec<(u64, u16)> {
                list.iter().map(|(n, w)| (xxh3_64(n.as_bytes()), *w)).collect()
            };
            let (ring_all, ring_left) = (hash_ring(&all), hash_ring(&left));
            let (hrw_all, hrw_left) = (seeds(&all), seeds(&left));
            for key in keys {
                let key = key.to_le_bytes();
                for (before, after) in [
                    (ring_owner(&ring_all, &key), ring_owner(&ring_left, &key)),
                    (rendezvous_owner(&hrw_all, &key), rendezvous_owner(&hrw_left, &key)),
                ] {
                    let before = all[before.unwrap() as usize].0;
                    let after = left[after.unwrap() as usize].0;
                    if before != all[gone].0 {
                        prop_assert_eq!(before, after);
                    }
                }
            }
        }
    }

    #[test]
    fn an_arrival_takes_about_its_share_and_moves_nothing_else() {
        let names = names(11);
        let all: Vec<(&str, u16)> = names.iter().map(|n| (n.as_str(), 1)).collect();
        let (before, after) = (hash_ring(&all[..10]), hash_ring(&all));
        let keys = 100_000_u64;
        let mut moved = 0;
        for key in 0..keys {
            let key = key.to_le_bytes();
            let (old, new) = (ring_owner(&before, &key), ring_owner(&after, &key));
            if old != new {
                assert_eq!(new, Some(10), "a key may move only to the newcomer");
                moved += 1;
            }
        }
        // 1/11 is 9,090; the bound is twice that.
        assert!((4_500..18_200).contains(&moved), "{moved}");
    }

    #[test]
    fn rendezvous_shares_follow_the_weights() {
        let seeds: Vec<(u64, u16)> = [("a", 1_u16), ("b", 3)]
            .iter()
            .map(|(name, weight)| (xxh3_64(name.as_bytes()), *weight))
            .collect();
        let of_b = (0..40_000_u64)
            .filter(|key| rendezvous_owner(&seeds, &key.to_le_bytes()) == Some(1))
            .count();
        assert!((29_000..31_000).contains(&of_b), "{of_b}");
    }

    #[test]
    fn the_less_loaded_wins_by_weight() {
        assert_eq!(less_loaded((0, 5, 1), (1, 4, 1)), 1);
        assert_eq!(less_loaded((0, 5, 2), (1, 4, 1)), 0);
        assert_eq!(less_loaded((0, 0, 1), (1, 0, 1)), 0);
    }
}
