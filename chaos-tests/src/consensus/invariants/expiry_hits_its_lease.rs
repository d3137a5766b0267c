//! Invariant: an expiry removes only the leases that it names.

use maxine_state::{Command, EventKind};

use super::{Effect, Invariant};

#[derive(Default)]
pub(super) struct ExpiryHitsItsLease;

impl Invariant for ExpiryHitsItsLease {
    fn name(&self) -> &'static str {
        "expiry-hits-its-lease"
    }

    fn check(&mut self, effect: &Effect<'_>) -> Result<(), String> {
        let Command::Expire { items } = &effect.proposal.command else { return Ok(()) };
        for event in effect.events {
            let EventKind::InstanceRemoved { key, .. } = &event.kind else { continue };
            let service = effect.before.service(&key.service);
            let registered = service
                .and_then(|service| service.instances.get(&key.instance))
                .map_or(0, |instance| instance.registered_index);
            if !items.contains(&(key.clone(), registered)) {
                return Err(format!("an expiry removed {key}, last registered at {registered}"));
            }
        }
        Ok(())
    }
}
