//! Invariant: the indexes of a node's changes grow, and none is above that of the state, so a watcher sees no
//! gap.

use super::Invariant;
use crate::facts::{Facts, Step};

#[derive(Debug, Default)]
pub(super) struct IndexesGrow {
    last: [u64; 8],
    position: [usize; 8],
}

impl Invariant for IndexesGrow {
    fn name(&self) -> &'static str {
        "indexes-grow"
    }

    fn check(&mut self, facts: &Facts, step: &Step) -> Result<(), String> {
        let Step::Applied { node, position, events, applied, .. } = step else { return Ok(()) };
        if *position <= self.position[*node] {
            self.last[*node] = 0;
        }
        self.position[*node] = *position;
        for event in events {
            if event.index <= self.last[*node] {
                return Err(format!(
                    "a change at index {} follows one at index {}",
                    event.index, self.last[*node]
                ));
            }
            self.last[*node] = event.index;
        }
        let index = facts.nodes[*node].state.index();
        if self.last[*node] > index || applied.index > index {
            return Err(format!(
                "a change is at index {}, but the state is only at index {index}",
                self.last[*node]
            ));
        }
        Ok(())
    }
}
