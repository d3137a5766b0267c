//! Weighted rendezvous hashing (Thaler and Ravishankar 1998; the logarithmic weights are those of Schindelhauer and
//! Schomaker 2005).

use crate::hash::CallerHash;

/// A member with its weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighted {
    /// The hash of its name.
    pub(crate) seed: u64,
    pub(crate) weight: u32,
}

/// The candidate with the highest score for the caller. A candidate with weight 0 is never chosen.
pub(crate) fn owner(
    candidates: impl Iterator<Item = (usize, Weighted)>,
    caller: CallerHash,
) -> Option<usize> {
    let mut best: Option<(f64, usize)> = None;
    for (at, candidate) in candidates.filter(|(_, candidate)| candidate.weight > 0) {
        // Uniform between 0 and 1. Adding a half to the top 52 bits keeps it from being 0 or 1.
        let bits = caller.with_seed(candidate.seed) >> 12;
        let uniform = (bits as f64 + 0.5) / (1_u64 << 52) as f64;
        let score = -f64::from(candidate.weight) / uniform.ln();
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, at));
        }
    }
    best.map(|(_, at)| at)
}
