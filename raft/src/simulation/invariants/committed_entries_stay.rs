//! Invariant: a committed entry never changes. All nodes apply the same entry at an index.

use std::collections::BTreeMap;

use super::super::step::Step;
use super::Invariant;
use crate::codec::LogIdDto;

#[derive(Default)]
pub(super) struct CommittedEntriesStay {
    committed: BTreeMap<u64, (LogIdDto, u64)>,
}

impl Invariant for CommittedEntriesStay {
    fn name(&self) -> &'static str {
        "committed-entries-stay"
    }

    fn check(&mut self, step: &Step) -> Result<(), String> {
        let (id, entry) = match step {
            Step::Applied { id, entry, .. } | Step::Acknowledged { id, entry, .. } => (id, entry),
            _ => return Ok(()),
        };
        let first = *self.committed.entry(id.index).or_insert((*id, *entry));
        if first == (*id, *entry) {
            return Ok(());
        }
        Err(format!("index {} was {:?} and became {id:?}", id.index, first.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_changes_is_found() {
        let applied = |node, term, entry| Step::Applied {
            node,
            id: LogIdDto { term, node: 1, index: 7 },
            entry,
            digest: None,
        };
        let mut invariant = CommittedEntriesStay::default();
        invariant.check(&applied(1, 2, 5)).unwrap();
        invariant.check(&applied(2, 2, 5)).unwrap();
        invariant.check(&applied(3, 3, 5)).unwrap_err();
        invariant.check(&applied(3, 2, 6)).unwrap_err();
    }
}
