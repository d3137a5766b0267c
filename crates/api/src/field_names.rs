//! Writes the names of header fields with the capital letters that the Node.js Maxine uses.
//!
//! The names of header fields do not depend on case. But a client that stores the fields of an answer in a plain map
//! finds `Location` only in that spelling. The Node.js Maxine writes its own fields (`x-trace-id`, `traceparent`) and
//! those of instances in lower case.

use axum::http::header::{self, HeaderName};
use maxine_http1::FieldNames;

/// How the names in an answer of the compatible API are written.
pub(super) const OF_THE_COMPATIBLE_API: FieldNames = FieldNames(of_the_compatible_api);

/// The names that the Node.js Maxine writes with capital letters.
const NAMES: [(HeaderName, &str); 14] = [
    (header::LOCATION, "Location"),
    (header::VARY, "Vary"),
    (header::CONTENT_TYPE, "Content-Type"),
    (header::CONTENT_LENGTH, "Content-Length"),
    (header::CONTENT_DISPOSITION, "Content-Disposition"),
    (header::CACHE_CONTROL, "Cache-Control"),
    (header::ETAG, "ETag"),
    (header::DATE, "Date"),
    (header::CONNECTION, "Connection"),
    (header::RETRY_AFTER, "Retry-After"),
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "Access-Control-Allow-Origin"),
    (header::ACCESS_CONTROL_ALLOW_METHODS, "Access-Control-Allow-Methods"),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, "Access-Control-Allow-Headers"),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, "Access-Control-Expose-Headers"),
];

fn of_the_compatible_api(name: &HeaderName) -> &str {
    let known = NAMES.iter().find(|(known, _)| known == name);
    known.map_or(name.as_str(), |(_, written)| written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_have_capitals_and_others_do_not() {
        assert_eq!(of_the_compatible_api(&header::ETAG), "ETag");
        assert_eq!(of_the_compatible_api(&HeaderName::from_static("x-trace-id")), "x-trace-id");
        for (name, written) in &NAMES {
            assert!(written.eq_ignore_ascii_case(name.as_str()), "{written}");
        }
    }
}
