//! Invariant: an instance that answers every probe with success is not evicted because one node cannot reach
//! it.

use maxine_state::Command;

use super::Invariant;
use crate::facts::{Facts, Step};

#[derive(Debug, Default)]
pub(super) struct HealthyInstancesStay;

impl Invariant for HealthyInstancesStay {
    fn name(&self) -> &'static str {
        "healthy-instances-stay"
    }

    fn check(&mut self, facts: &Facts, step: &Step) -> Result<(), String> {
        let Step::Applied { position, events, .. } = step else { return Ok(()) };
        let Command::ReportHealth { items } = &facts.log[*position - 1].proposal.command else {
            return Ok(());
        };
        if events.is_empty() {
            return Ok(());
        }
        let wrong = items
            .iter()
            .find(|item| !item.health.is_routable() && facts.always_healthy.contains(&item.key));
        match wrong {
            Some(item) => Err(format!(
                "entry {position} takes {} out of traffic: {}",
                item.key, item.health.reason
            )),
            None => Ok(()),
        }
    }
}
