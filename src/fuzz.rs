//! The fuzz targets: bytes from outside into a parser of our own, and what it promises about any bytes.
//!
//! Compiled for tests, which run every target on mutated seeds, and for `fuzz/` (feature `fuzz`), where a fuzzer
//! does. Each target stands beside its parser; a target panics where a promise is broken and is silent otherwise.

use crate::{actors, api, backend, discovery, health, proxy, security, state};

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
    Target { name: "discover_query", run: discovery::fuzz::query, seeds: discovery::fuzz::seeds },
    Target { name: "proxy_target", run: proxy::fuzz::target, seeds: proxy::fuzz::target_seeds },
    Target { name: "proxy_headers", run: proxy::fuzz::headers, seeds: proxy::fuzz::header_seeds },
    Target { name: "request_headers", run: api::fuzz::headers, seeds: api::fuzz::header_seeds },
    Target { name: "request_head", run: api::fuzz::head, seeds: api::fuzz::head_seeds },
    Target { name: "compat_body", run: api::fuzz::compat_body, seeds: api::fuzz::compat_seeds },
    Target { name: "native_body", run: api::fuzz::native_body, seeds: api::fuzz::native_seeds },
    Target { name: "native_query", run: api::fuzz::native_query, seeds: api::fuzz::query_seeds },
    Target { name: "credentials", run: security::fuzz::credentials, seeds: security::fuzz::seeds },
    Target {
        name: "nodejs_import",
        run: backend::fuzz::import,
        seeds: backend::fuzz::import_seeds,
    },
    Target { name: "log_file", run: backend::fuzz::frame, seeds: backend::fuzz::frame_seeds },
    Target { name: "command", run: state::fuzz::command, seeds: state::fuzz::command_seeds },
    Target { name: "snapshot", run: state::fuzz::snapshot, seeds: state::fuzz::snapshot_seeds },
    Target {
        name: "renewals",
        run: actors::registry::fuzz::renewals,
        seeds: actors::registry::fuzz::seeds,
    },
    Target { name: "observations", run: health::fuzz::observations, seeds: health::fuzz::seeds },
];

/// Runs a target by its name.
///
/// # Panics
/// When there is no such target, and where the target finds a broken promise.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this name").run)(bytes);
}

/// Texts as seeds.
pub(crate) fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Takes the first line off an input; what follows may be anything.
pub(crate) fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

/// Header fields, one a line as `name: value`; what cannot be one is left out, as the HTTP parser would.
pub(crate) fn headers(bytes: &[u8]) -> axum::http::HeaderMap {
    use axum::http::{HeaderMap, HeaderName, HeaderValue};
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(32) {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..at]);
        let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
#[path = "../fuzz/driver.rs"]
mod driver;

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations of each target's seeds; a few seconds for all of them in a debug build.
    const CASES: u32 = 3_000;

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
        let files = driver::target_files();
        for target in TARGETS {
            assert!(files.contains(target.name), "fuzz/fuzz_targets/{}.rs is missing", target.name);
        }
        // Those of the log's own crate begin with its name; that crate looks at them.
        let known = |file: &String| TARGETS.iter().any(|target| target.name == file);
        let strangers: Vec<_> =
            files.iter().filter(|file| !file.starts_with("raft_") && !known(file)).collect();
        assert!(strangers.is_empty(), "files without a target: {strangers:?}");
        let manifest = include_str!("../fuzz/Cargo.toml");
        for file in &files {
            assert!(
                manifest.contains(&format!("name = \"{file}\"\n")),
                "fuzz/Cargo.toml lacks {file}"
            );
        }
    }
}
