//! The fuzz targets: bytes from outside into a parser of our own, and what it promises about any bytes.
//!
//! Compiled for tests and for `fuzz/` (feature `fuzz`). Each target stands beside its parser.

use maxine_fuzzing::Target;

use crate::{actors, api};

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "request_headers", run: api::fuzz::headers, seeds: api::fuzz::header_seeds },
    Target { name: "request_head", run: api::fuzz::head, seeds: api::fuzz::head_seeds },
    Target { name: "compat_body", run: api::fuzz::compat_body, seeds: api::fuzz::compat_seeds },
    Target { name: "native_body", run: api::fuzz::native_body, seeds: api::fuzz::native_seeds },
    Target { name: "native_query", run: api::fuzz::native_query, seeds: api::fuzz::query_seeds },
    Target {
        name: "renewals",
        run: actors::registry::fuzz::renewals,
        seeds: actors::registry::fuzz::seeds,
    },
    Target {
        name: "observations",
        run: actors::observations::fuzz::observations,
        seeds: actors::observations::fuzz::seeds,
    },
];

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
