//! A registration whose renewal was acknowledged is there for its time to live after that.

use maxine_state::{Command, Fence};

use super::Invariant;
use crate::facts::{Facts, Step};

#[derive(Debug, Default)]
pub(super) struct RenewedLeasesHold;

/// Clocks run fast by at most so much, in parts per thousand; the leases' own grace covers it.
const DRIFT_MS: u64 = 50;

impl Invariant for RenewedLeasesHold {
    fn name(&self) -> &'static str {
        "renewed-leases-hold"
    }

    fn check(&mut self, facts: &Facts, step: &Step) -> Result<(), String> {
        let Step::Applied { node, position, removed, .. } = step else { return Ok(()) };
        // A node that lags applies it late: who is first is who matters.
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
            let Some(told) = facts.acknowledged.get(&gone.key) else { continue };
            let held = told.lease_epoch == gone.lease_epoch
                && told.holds_until_ms > facts.now_ms + DRIFT_MS;
            if held {
                let left_ms = told.holds_until_ms - facts.now_ms;
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
