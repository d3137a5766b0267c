//! Invariant: an expiry removes exactly the registrations that it names.

use maxine_state::Command;

use super::Invariant;
use crate::facts::{Facts, Step};

#[derive(Debug, Default)]
pub(super) struct ExpiryHitsItsLease;

impl Invariant for ExpiryHitsItsLease {
    fn name(&self) -> &'static str {
        "expiry-hits-its-lease"
    }

    fn check(&mut self, facts: &Facts, step: &Step) -> Result<(), String> {
        let Step::Applied { position, removed, .. } = step else { return Ok(()) };
        let Command::Expire { items } = &facts.log[*position - 1].proposal.command else {
            return Ok(());
        };
        for gone in removed {
            if !items.contains(&(gone.key.clone(), gone.registered_index)) {
                return Err(format!(
                    "entry {position} removed {}, last registered at {}",
                    gone.key, gone.registered_index
                ));
            }
        }
        Ok(())
    }
}
