//! Fuzz targets: messages of peers that this crate parses. Each is accepted within its limits or refused.

use maxine_fuzzing::Target;

use super::{observations, registry};

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "renewals", run: registry::fuzz::renewals, seeds: registry::fuzz::seeds },
    Target {
        name: "observations",
        run: observations::fuzz::observations,
        seeds: observations::fuzz::seeds,
    },
];

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
