//! Header fields as bytes.

use http::header::{self, HeaderMap, HeaderName};

/// Writes one field, with its line end.
pub fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes fields, each with its line end.
pub fn push_fields(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        push_field(out, name.as_str(), value.as_bytes());
    }
}

/// Writes the length of a message's content as a field of this name.
pub fn push_length(out: &mut Vec<u8>, name: &str, len: u64) {
    push_field(out, name, itoa::Buffer::new().format(len).as_bytes());
}

/// The names that `Trailer` lists. Other fields must not follow the content (RFC 9110 section 6.6.2).
#[must_use]
pub fn announced_trailers(fields: &HeaderMap) -> Vec<HeaderName> {
    let values = fields.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}
