//! Invariant: fencing tokens only grow, and a command with an old one changes nothing.

use maxine_state::EventKind;

use super::{Effect, Invariant};

#[derive(Default)]
pub(super) struct FencesGrow;

impl Invariant for FencesGrow {
    fn name(&self) -> &'static str {
        "fences-grow"
    }

    fn check(&mut self, effect: &Effect<'_>) -> Result<(), String> {
        let current = effect.before.grant().map_or(0, |grant| grant.fence.0);
        if let Some(fence) = effect.proposal.fence
            && fence.0 != current
            && !effect.events.is_empty()
        {
            return Err(format!(
                "a command with fence {} took effect while fence {current} was current",
                fence.0
            ));
        }
        for event in effect.events {
            if let EventKind::LeadershipGranted { fence, .. } = &event.kind
                && *fence <= current
            {
                return Err(format!(
                    "fence {fence} was granted after the greater or equal fence {current}"
                ));
            }
        }
        Ok(())
    }
}
