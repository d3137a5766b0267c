//! Invariant: replicas that applied the same entries have the same state.

use std::collections::BTreeMap;

use super::Invariant;
use crate::facts::{Facts, Step};

/// How many entries are applied between two digests. A digest after every entry would take most of the run's
/// time.
const EVERY: usize = 8;

#[derive(Debug, Default)]
pub(super) struct DigestsAgree {
    first: BTreeMap<usize, (usize, String)>,
}

impl Invariant for DigestsAgree {
    fn name(&self) -> &'static str {
        "digests-agree"
    }

    fn check(&mut self, facts: &Facts, step: &Step) -> Result<(), String> {
        let Step::Applied { node, position, .. } = step else { return Ok(()) };
        if !position.is_multiple_of(EVERY) {
            return Ok(());
        }
        let digest = facts.nodes[*node].state.digest().digest;
        let (other, first) = self.first.entry(*position).or_insert_with(|| (*node, digest.clone()));
        if *first != digest {
            return Err(format!("after entry {position} nodes {other} and {node} differ"));
        }
        Ok(())
    }
}
