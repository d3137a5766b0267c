//! Invariant: fencing tokens only grow, and an entry with an old one changes nothing.

use maxine_state::{EventKind, Fence};

use super::Invariant;
use crate::facts::{Facts, Step};

/// The newest grant of each node, computed from the log itself.
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
            // The node restarted and applies entries again, from its snapshot on.
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
                "entry {position} with fence {fence} took effect while fence {current} was current"
            ));
        }
        for event in events {
            if let EventKind::LeadershipGranted { fence, .. } = &event.kind {
                if *fence <= current {
                    return Err(format!(
                        "entry {position} granted fence {fence} after the greater or equal fence {current}"
                    ));
                }
                self.newest[*node] = *fence;
            }
        }
        Ok(())
    }
}
