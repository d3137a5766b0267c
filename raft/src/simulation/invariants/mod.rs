//! The invariants that are checked after every step. Each has its own file.

mod acknowledged_survive;
mod committed_entries_stay;
mod digests_agree;
mod one_leader_per_term;
mod one_leader_reports;
mod reads_see_acknowledged;

use super::step::Step;

/// An invariant, which is checked after every step.
pub(super) trait Invariant: Send {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Checks one step.
    fn check(&mut self, step: &Step) -> Result<(), String>;
}

/// All invariants.
pub(super) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<one_leader_per_term::OneLeaderPerTerm>::default(),
        Box::<committed_entries_stay::CommittedEntriesStay>::default(),
        Box::<acknowledged_survive::AcknowledgedSurvive>::default(),
        Box::<digests_agree::DigestsAgree>::default(),
        Box::<reads_see_acknowledged::ReadsSeeAcknowledged>::default(),
        Box::<one_leader_reports::OneLeaderReports>::default(),
    ]
}
