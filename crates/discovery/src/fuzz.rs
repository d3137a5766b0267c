//! Fuzz target: any query leads to a `Location` below the instance's address, or to no `Location`.

use super::{DiscoverQuery, Redirect, decode_component, encode_end_point, percent_decoded};
use maxine_fuzzing::Target;

/// Every target of this crate.
pub const TARGETS: &[Target] = &[Target { name: "discover_query", run: query, seeds }];

const ADDRESS: &str = "http://10.0.0.1:81/base";

fn query(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let query = DiscoverQuery::parse(&text);
    let _ = query.asks_for_proxy();
    for name in [&query.service_name, &query.end_point, &query.mode].into_iter().flatten() {
        assert!(!name.is_empty(), "an empty parameter counts as absent");
    }
    let end_point = query.end_point.as_deref();
    for end_point in [end_point, Some(&*text)] {
        let redirect = Redirect::new(ADDRESS, end_point);
        let location = redirect.url();
        let rest = location.strip_prefix(ADDRESS).expect("a location begins with the address");
        assert!(rest.is_empty() || rest.starts_with('/'), "{rest} leaves the host");
        assert!(rest.bytes().all(|b| b.is_ascii_graphic() && b != b'\\'), "{rest:?}");
        assert_eq!(rest, end_point.map(encode_end_point).unwrap_or_default());
        assert_eq!(
            redirect.text.strip_prefix(b"Found. Redirecting to "),
            Some(location.as_bytes())
        );
    }
    let _ = decode_component(&text);
    if let Some(decoded) = percent_decoded(&text) {
        let set = percent_encoding::NON_ALPHANUMERIC;
        let encoded = percent_encoding::utf8_percent_encode(&decoded, set).to_string();
        assert_eq!(percent_decoded(&encoded).as_deref(), Some(&*decoded));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    maxine_fuzzing::texts(&[
        "serviceName=orders&endPoint=%2Fx%3Fa%3D1%26b%3D2&mode=proxy",
        "serviceName=a+b%20c&endPoint=//evil.example/%E2%82%AC",
        "endPoint=/x%0d%0aSet-Cookie:%20a=b&serviceName=s",
        "endPoint=@evil.example\\..\\x&serviceName=%zz%&mode=a&mode=b",
    ])
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_holds_on_mutated_seeds() {
        maxine_fuzzing::check(super::TARGETS, 3_000);
    }
}
