//! Fuzz targets: bytes from a peer or a disk for the parsers of this crate.
//!
//! They are compiled for tests, which run every target on mutated seeds, and for `fuzz/` (feature `fuzz`).

use maxine_fuzzing::Target;

use crate::network::fuzz as network;
use crate::storage::fuzz as storage;

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "raft_frames", run: network::frames, seeds: network::frame_seeds },
    Target { name: "raft_log_records", run: storage::records, seeds: storage::record_seeds },
    Target { name: "raft_log_mark", run: storage::mark, seeds: storage::mark_seeds },
    Target {
        name: "raft_snapshot_file",
        run: storage::snapshot_file,
        seeds: storage::snapshot_seeds,
    },
];

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 2_000);
    }
}
