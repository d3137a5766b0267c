//! Fuzz targets: the messages that other nodes send. Each message is decoded within its limits, or refused.

use maxine_fuzzing::Target;

use super::peer::fuzz;

/// Every target of this crate.
pub const TARGETS: &[Target] =
    &[Target { name: "peer_messages", run: fuzz::messages, seeds: fuzz::seeds }];

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
