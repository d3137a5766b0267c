//! The invariants that are checked after every step of a simulation. Each has its own file.

mod calm_leader_has_duties;
mod digests_agree;
mod expiry_hits_its_lease;
mod fences_grow;
mod healthy_instances_stay;
mod indexes_grow;
mod refused_writes_are_not_written;
mod renewed_leases_hold;
mod requests_take_effect_once;

use crate::facts::{Facts, Step};

/// A violated invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The name of the invariant.
    pub invariant: &'static str,
    /// What violated it.
    pub detail: String,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
}

/// An invariant, which is checked after every step.
pub trait Invariant {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Checks the effect of a step.
    fn check(&mut self, facts: &Facts, step: &Step) -> Result<(), String>;
}

/// All invariants.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<digests_agree::DigestsAgree>::default(),
        Box::<expiry_hits_its_lease::ExpiryHitsItsLease>::default(),
        Box::<fences_grow::FencesGrow>::default(),
        Box::<indexes_grow::IndexesGrow>::default(),
        Box::<renewed_leases_hold::RenewedLeasesHold>::default(),
        Box::<requests_take_effect_once::RequestsTakeEffectOnce>::default(),
        Box::<healthy_instances_stay::HealthyInstancesStay>::default(),
        Box::<refused_writes_are_not_written::RefusedWritesAreNotWritten>::default(),
        Box::<calm_leader_has_duties::CalmLeaderHasDuties>::default(),
    ]
}
