//! Invariant: after an acknowledged renewal, a registration exists for its whole time to live.

use maxine_state::{Command, Fence};

use super::Invariant;
use crate::facts::{Facts, Step};

#[derive(Debug, Default)]
pub(super) struct RenewedLeasesHold;

/// Maximum speed difference of the clocks, expressed in milliseconds over a lease. The grace of the leases
/// covers it.
const DRIFT_MS: u64 = 50;

impl Invariant for RenewedLeasesHold {
    fn name(&self) -> &'static str {
        "renewed-leases-hold"
    }

    fn check(&mut self, facts: &Facts, step: &Step) -> Result<(), String> {
        let Step::Applied { node, position, removed, .. } = step else { return Ok(()) };
        // A slow node applies it late. Only the first node that applies it matters.
        let first = facts
            .nodes
            .iter()
            .enumerate()
            .all(|(other, state)| other == *node || state.position < *position);
        let proposal = &facts.log[*position - 1].proposal;
        if !first || !matches!(proposal.command, Command::Expire { .. }) {
            return Ok(());
        }
        for gone in removed {
            let Some(reply) = facts.acknowledged.get(&gone.key) else { continue };
            let held = reply.lease_epoch == gone.lease_epoch
                && reply.holds_until_ms > facts.now_ms + DRIFT_MS;
            if held {
                let left_ms = reply.holds_until_ms - facts.now_ms;
                let fence = proposal.fence.unwrap_or(Fence(0)).0;
                return Err(format!(
                    "{} expired under fence {fence} with {left_ms} ms left",
                    gone.key
                ));
            }
        }
        Ok(())
    }
}
