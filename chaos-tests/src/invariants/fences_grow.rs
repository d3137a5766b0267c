//! Fencing tokens only grow, and an entry under an old one changes nothing.

use maxine_state::{EventKind, Fence};

use super::Invariant;
use crate::facts::{Facts, Step};

/// What the log itself says: each node's newest grant, by its own count.
#[derive(Debug, Default)]
pub(super) struct FencesGrow {
    newest: [u64; 8],
    position: [usize; 8],
}

impl Invariant for FencesGrow {
    fn name(&self) -> &'static str {
        "fences-grow"
    }

    fn check(&mut self, facts: &Facts, step: &Step) -> Result<(), String> {
        let Step::Applied { node, position, events, .. } = step else { return Ok(()) };
        if *position <= self.position[*node] {
            // It restarted and applies again what it had applied: from its snapshot on.
            self.newest[*node] = 0;
        }
        self.position[*node] = *position;
        let current = self.newest[*node];
        if let Some(Fence(fence)) = facts.log[*position - 1].proposal.fence
            && current > 0
            && fence != current
            && !events.is_empty()
        {
            return Err(format!(
                "entry {position} under fence {fence} took effect under {current}"
            ));
        }
        for event in events {
            if let EventKind::LeadershipGranted { fence, .. } = &event.kind {
                if *fence <= current {
                    return Err(format!("entry {position} granted fence {fence} after {current}"));
                }
                self.newest[*node] = *fence;
            }
        }
        Ok(())
    }
}
