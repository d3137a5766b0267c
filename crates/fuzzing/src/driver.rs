//! Runs fuzz targets without a fuzzer, on stable Rust: each on its seeds, and then on mutations of them.
//!
//! If a target panics, `cargo test` fails with the shrunk input. The inputs are the same in each run.
//! `scripts/fuzz.sh` searches further.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::Target;

/// A change of an input.
#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, usize),
    Splice(Index, Index),
    Cut(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    // Bytes with a meaning for some parser are used more often than at random.
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(&b"%.;/\\?#&=,:\"{}[] \t\r\n\0\x7f\xff\xc3-_~09"[..])
    ];
    prop_oneof![
        (at(), byte.clone()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (at(), vec(byte, 1..12)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (at(), 1..16_usize).prop_map(|(at, len)| Mutation::Remove(at, len)),
        (at(), 1..64_usize).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        (at(), at()).prop_map(|(seed, at)| Mutation::Splice(seed, at)),
        at().prop_map(Mutation::Cut),
    ]
}

fn mutated(mut bytes: Vec<u8>, mutations: &[Mutation], seeds: &[Vec<u8>]) -> Vec<u8> {
    for mutation in mutations {
        let place = |at: &Index, len: usize| at.index(len + 1).min(len);
        match mutation {
            Mutation::Set(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Mutation::Flip(at, bit) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            Mutation::Insert(at, new) => {
                let at = place(at, bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Mutation::Remove(at, len) => {
                let at = place(at, bytes.len());
                let end = (at + len).min(bytes.len());
                bytes.drain(at..end);
            }
            Mutation::Repeat(at, len) => {
                let at = place(at, bytes.len());
                let piece = bytes[at..(at + len).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            Mutation::Splice(seed, at) => {
                let other = &seeds[seed.index(seeds.len())];
                bytes.truncate(place(at, bytes.len()));
                bytes.extend_from_slice(&other[place(at, other.len())..]);
            }
            Mutation::Cut(at) => bytes.truncate(place(at, bytes.len())),
            Mutation::Set(..) | Mutation::Flip(..) => {}
        }
    }
    bytes
}

/// Replaces the number of mutations, to search further without a fuzzer.
const CASES_VARIABLE: &str = "MAXINE_FUZZ_CASES";

/// Runs every target on its seeds and on `cases` mutations of them, and checks that `fuzz/` has a file for
/// each. The environment variable `MAXINE_FUZZ_CASES` replaces `cases`.
///
/// # Panics
///
/// Panics if a target panics, or has no file.
pub fn check(targets: &[Target], cases: u32) {
    let wanted = std::env::var(CASES_VARIABLE).ok().and_then(|cases| cases.parse().ok());
    let cases = wanted.unwrap_or(cases);
    let breaks = |target: &&Target| {
        let (name, seeds) = (target.name, (target.seeds)());
        std::panic::catch_unwind(|| run(name, &seeds, target.run, cases)).is_err()
    };
    let broken: Vec<&str> = targets.iter().filter(breaks).map(|target| target.name).collect();
    assert!(broken.is_empty(), "broken promises: {broken:?}");
    let files = target_files();
    let without = targets.iter().map(|target| target.name).find(|name| !files.contains(*name));
    assert_eq!(without, None, "fuzz/fuzz_targets has no file for it");
}

fn run(name: &str, seeds: &[Vec<u8>], target: fn(&[u8]), cases: u32) {
    assert!(!seeds.is_empty(), "{name} has no seeds");
    target(&[]);
    for seed in seeds {
        target(seed);
    }
    let config =
        Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let inputs = (any::<Index>(), vec(mutation(), 0..6));
    let outcome = TestRunner::new_with_rng(config, random).run(&inputs, |(seed, mutations)| {
        let bytes = mutated(seeds[seed.index(seeds.len())].clone(), &mutations, seeds);
        let ran = std::panic::catch_unwind(AssertUnwindSafe(|| target(&bytes)));
        prop_assert!(ran.is_ok(), "{} panics on {:?}", name, String::from_utf8_lossy(&bytes));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{name}: {error}");
    }
}

/// The targets that `fuzz/fuzz_targets` has files for.
fn target_files() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/fuzz_targets");
    let name = |file: std::io::Result<std::fs::DirEntry>| {
        let path = file.expect("a file").path();
        path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    };
    std::fs::read_dir(folder).expect("it can be read").map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_in_the_manifest_and_runs_the_target_of_its_name() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
        let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).expect("it is there");
        for name in target_files() {
            assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} is not listed");
            let path = fuzz.join("fuzz_targets").join(&name).with_extension("rs");
            let text = std::fs::read_to_string(path).expect("it is there");
            assert!(text.contains(&format!("\"{name}\", bytes")), "{name}: {text}");
        }
    }

    #[test]
    #[should_panic(expected = "broken promises: [\"log_file\"]")]
    fn a_target_that_panics_is_named() {
        let seeds = || vec![b"seed".to_vec()];
        let panics = |bytes: &[u8]| assert!(!bytes.contains(&b'%'));
        check(&[Target { name: "log_file", run: panics, seeds }], 500);
    }
}
