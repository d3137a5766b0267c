//! The invariants that are checked for every command that a replica applies. Each has its own file.

mod expiry_hits_its_lease;
mod fences_grow;
mod requests_take_effect_once;
mod watches_are_gapless;

use maxine_state::{Applied, ControlState, Event, Proposal};

/// A command, and its effect on a replica.
pub(super) struct Effect<'a> {
    pub(super) proposal: &'a Proposal,
    pub(super) before: &'a ControlState,
    pub(super) after: &'a ControlState,
    pub(super) applied: &'a Applied,
    pub(super) events: &'a [Event],
}

/// An invariant, which is checked for every command.
pub(super) trait Invariant: Send {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Checks the effect of a command.
    fn check(&mut self, effect: &Effect<'_>) -> Result<(), String>;
}

/// All invariants.
pub(super) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<expiry_hits_its_lease::ExpiryHitsItsLease>::default(),
        Box::<fences_grow::FencesGrow>::default(),
        Box::<requests_take_effect_once::RequestsTakeEffectOnce>::default(),
        Box::<watches_are_gapless::WatchesAreGapless>::default(),
    ]
}
