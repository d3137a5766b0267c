//! Bounds the connections of peers, and chooses which one is closed if there are too many.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use tokio_util::sync::CancellationToken;

/// A limited number of places. `K` identifies the holder of a place.
///
/// If all places are taken, a new one is still given: the holder with the most places loses its oldest one.
/// So a holder that takes many places loses only its own, and keeps no other holder out.
pub(super) struct Places<K> {
    max: usize,
    held: VecDeque<(K, CancellationToken)>,
}

impl<K: Copy + Eq + Hash> Places<K> {
    pub(super) fn new(max: usize) -> Self {
        Self { max, held: VecDeque::new() }
    }

    /// Takes a place for `holder`. The token is cancelled when the place is taken back, or with `stop`. The
    /// holder cancels it to give the place back. Also returns the holder that lost a place.
    pub(super) fn take(
        &mut self,
        holder: K,
        stop: &CancellationToken,
    ) -> (CancellationToken, Option<K>) {
        self.held.retain(|(_, token)| !token.is_cancelled());
        let mut lost_by = None;
        if self.held.len() >= self.max
            && let Some((loser, token)) = self.to_take_back().and_then(|at| self.held.remove(at))
        {
            token.cancel();
            lost_by = Some(loser);
        }
        let token = stop.child_token();
        self.held.push_back((holder, token.clone()));
        (token, lost_by)
    }

    /// The oldest place of the holder with the most.
    fn to_take_back(&self) -> Option<usize> {
        let mut counts: HashMap<K, usize> = HashMap::new();
        for (holder, _) in &self.held {
            *counts.entry(*holder).or_insert(0) += 1;
        }
        let most = counts.values().copied().max()?;
        self.held.iter().position(|(holder, _)| counts.get(holder) == Some(&most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_many_places_loses_only_their_own() {
        let stop = CancellationToken::new();
        let mut places = Places::new(8);
        let (first, _) = places.take(4, &stop);
        let greedy: Vec<_> = (0..7).map(|_| places.take(9, &stop).0).collect();
        for _ in 0..50 {
            assert_eq!(places.take(9, &stop).1, Some(9));
        }
        assert!(greedy.iter().all(CancellationToken::is_cancelled));
        let (second, lost_by) = places.take(4, &stop);
        assert_eq!(lost_by, Some(9));
        assert!(!first.is_cancelled() && !second.is_cancelled());
        second.cancel();
        assert_eq!(places.take(5, &stop).1, None, "a place that was given back is free");
        stop.cancel();
        assert!(first.is_cancelled());
    }
}
