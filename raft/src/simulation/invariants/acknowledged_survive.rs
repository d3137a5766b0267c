//! Invariant: every later leader has every acknowledged write.

use std::collections::BTreeMap;

use super::super::step::Step;
use super::Invariant;

#[derive(Default)]
pub(super) struct AcknowledgedSurvive {
    /// The acknowledged entry at each index, and the term of the leader that acknowledged it. An entry that an earlier
    /// leader proposed can be committed only by a later one. Until then, a leader of a term in between may lack it.
    acknowledged: BTreeMap<u64, (u64, u64)>,
}

impl Invariant for AcknowledgedSurvive {
    fn name(&self) -> &'static str {
        "acknowledged-survive"
    }

    fn check(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Acknowledged { id, entry, by } => {
                self.acknowledged.insert(id.index, (*entry, *by));
            }
            Step::LogOfLeader { node, term, purged, entries } => {
                let kept = |index: &u64, entry: &u64| {
                    index <= purged || entries.get(index).is_some_and(|found| found == entry)
                };
                let lost = self.acknowledged.iter().find(|(index, (entry, acknowledged_in))| {
                    acknowledged_in < term && !kept(index, entry)
                });
                if let Some((index, _)) = lost {
                    return Err(format!(
                        "node {node} leads term {term} without entry {index}, which was acknowledged"
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::LogIdDto;

    #[test]
    fn a_leader_without_an_acknowledged_entry_is_found() {
        let id = LogIdDto { term: 2, node: 1, index: 7 };
        let log = |term, purged, entries: &[(u64, u64)]| Step::LogOfLeader {
            node: 2,
            term,
            purged,
            entries: entries.iter().copied().collect(),
        };
        let mut invariant = AcknowledgedSurvive::default();
        invariant.check(&Step::Acknowledged { id, entry: 9, by: 2 }).unwrap();
        invariant.check(&log(3, 0, &[(7, 9)])).unwrap();
        invariant.check(&log(3, 7, &[])).unwrap();
        invariant.check(&log(3, 6, &[])).unwrap_err();
        invariant.check(&log(3, 0, &[(7, 8)])).unwrap_err();
    }

    #[test]
    fn a_late_leader_of_a_term_before_the_acknowledgement_may_lack_the_entry() {
        let id = LogIdDto { term: 9, node: 3, index: 284 };
        let log = |term| Step::LogOfLeader { node: 2, term, purged: 283, entries: BTreeMap::new() };
        let mut invariant = AcknowledgedSurvive::default();
        invariant.check(&Step::Acknowledged { id, entry: 9, by: 11 }).unwrap();
        invariant.check(&log(10)).unwrap();
        invariant.check(&log(12)).unwrap_err();
    }
}
