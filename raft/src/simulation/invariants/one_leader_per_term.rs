//! Invariant: two nodes never act as leader of the same term.

use std::collections::BTreeMap;

use super::super::step::Step;
use super::Invariant;
use crate::config::NodeId;

#[derive(Default)]
pub(super) struct OneLeaderPerTerm {
    leaders: BTreeMap<u64, NodeId>,
}

impl Invariant for OneLeaderPerTerm {
    fn name(&self) -> &'static str {
        "one-leader-per-term"
    }

    fn check(&mut self, step: &Step) -> Result<(), String> {
        let Step::Leads { node, term } = step else { return Ok(()) };
        let first = *self.leaders.entry(*term).or_insert(*node);
        if first == *node {
            return Ok(());
        }
        Err(format!("nodes {first} and {node} both lead term {term}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_leader_of_a_term_is_found() {
        let mut invariant = OneLeaderPerTerm::default();
        invariant.check(&Step::Leads { node: 1, term: 4 }).unwrap();
        invariant.check(&Step::Leads { node: 1, term: 4 }).unwrap();
        invariant.check(&Step::Leads { node: 2, term: 5 }).unwrap();
        invariant.check(&Step::Leads { node: 2, term: 4 }).unwrap_err();
    }
}
