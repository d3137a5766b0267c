//! The fuzz targets of this crate: bytes from a peer or a disk into a parser of our own, and what it promises.
//!
//! Compiled for tests, which run every target on mutated seeds, and for `fuzz/` (feature `fuzz`).

use crate::network::fuzz as network;
use crate::storage::fuzz as storage;

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Runs it on an input.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

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

/// Runs a target by its name.
///
/// # Panics
/// When there is no such target, and where the target finds a broken promise.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this name").run)(bytes);
}

#[cfg(test)]
#[path = "../../fuzz/driver.rs"]
mod driver;

#[cfg(test)]
mod tests {
    use super::*;

    const CASES: u32 = 2_000;

    #[test]
    fn every_target_holds_on_mutated_seeds() {
        let breaks = |target: &&Target| {
            let (name, seeds) = (target.name, (target.seeds)());
            std::panic::catch_unwind(|| driver::run(name, &seeds, target.run, CASES)).is_err()
        };
        let broken: Vec<&str> = TARGETS.iter().filter(breaks).map(|target| target.name).collect();
        assert!(broken.is_empty(), "broken promises: {broken:?}");
    }

    #[test]
    fn every_target_has_its_file_and_every_file_is_a_target() {
        let of_this_crate =
            driver::target_files().into_iter().filter(|file| file.starts_with("raft_"));
        let names: std::collections::BTreeSet<String> =
            TARGETS.iter().map(|target| target.name.into()).collect();
        assert_eq!(of_this_crate.collect::<std::collections::BTreeSet<_>>(), names);
    }
}
