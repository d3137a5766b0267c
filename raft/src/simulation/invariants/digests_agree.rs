//! Invariant: nodes that applied the same entries have the same state.

use std::collections::BTreeMap;

use super::super::step::Step;
use super::Invariant;
use crate::config::NodeId;

#[derive(Default)]
pub(super) struct DigestsAgree {
    first: BTreeMap<u64, (NodeId, u64)>,
}

impl Invariant for DigestsAgree {
    fn name(&self) -> &'static str {
        "digests-agree"
    }

    fn check(&mut self, step: &Step) -> Result<(), String> {
        let Step::Applied { node, id, digest: Some(digest), .. } = step else { return Ok(()) };
        let (other, first) = *self.first.entry(id.index).or_insert((*node, *digest));
        if first == *digest {
            return Ok(());
        }
        Err(format!("after entry {} nodes {other} and {node} differ", id.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::LogIdDto;

    #[test]
    fn states_that_differ_are_found() {
        let id = LogIdDto { term: 2, node: 1, index: 7 };
        let applied = |node, digest| Step::Applied { node, id, entry: 1, digest: Some(digest) };
        let mut invariant = DigestsAgree::default();
        invariant.check(&applied(1, 5)).unwrap();
        invariant.check(&applied(2, 5)).unwrap();
        invariant.check(&applied(3, 6)).unwrap_err();
    }
}
