//! Fuzz targets: requests of clients that parsers of this project read. Each is accepted within its limits, or refused
//! with a clear error.

use maxine_fuzzing::Target;

use super::compat::fuzz::{body as compat_body, seeds as compat_seeds};
use super::native::fuzz::{
    body as native_body, query as native_query, query_seeds, seeds as native_seeds,
};

use super::fast_path::fuzz::{head, seeds as head_seeds};

/// Every target of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "request_headers", run: headers, seeds: header_seeds },
    Target { name: "request_head", run: head, seeds: head_seeds },
    Target { name: "compat_body", run: compat_body, seeds: compat_seeds },
    Target { name: "native_body", run: native_body, seeds: native_seeds },
    Target { name: "native_query", run: native_query, seeds: query_seeds },
];

/// Header fields, one per line.
fn headers(bytes: &[u8]) {
    let headers = maxine_fuzzing::headers(bytes);
    super::middleware::fuzz::headers(&headers);
    super::compat::fuzz::headers(&headers);
    super::native::fuzz::headers(&headers);
}

fn header_seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\nx-trace-id: mine",
        "traceparent: cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "accept: text/html;q=0.1, text/*;q=NaN, */*; q=0.8\nif-none-match: W/\"a\", \"b\"",
        "if-match: \"17\"\nidempotency-key: k1\nif-none-match: *\nlast-event-id: 99",
        "if-match: \"1\"\nif-match: \"2\"\nidempotency-key: \nlast-event-id: -1",
    ])
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
