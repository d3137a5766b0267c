//! Header fields: written as bytes, and read from a parsed head.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// A parsed head whose bytes were copied once. The values of its fields share that copy, so that no field is copied by
/// itself.
pub(super) struct HeadCopy<'b> {
    bytes: &'b [u8],
    copy: Bytes,
}

impl<'b> HeadCopy<'b> {
    /// Copies a head.
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, copy: Bytes::copy_from_slice(bytes) }
    }

    /// The part of the copy that corresponds to `part`, which must be a slice of the head.
    pub(super) fn share(&self, part: &[u8]) -> Bytes {
        let from = part.as_ptr().addr() - self.bytes.as_ptr().addr();
        self.copy.slice(from..from + part.len())
    }

    /// The fields of the head; `None` if HTTP does not allow one of them, or if there are too many for a `HeaderMap`.
    pub(super) fn fields(&self, parsed: &[httparse::Header<'_>]) -> Option<HeaderMap> {
        let mut fields = HeaderMap::new();
        fields.try_reserve(parsed.len()).ok()?;
        for field in parsed {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            let value = HeaderValue::from_maybe_shared(self.share(field.value)).ok()?;
            fields.try_append(name, value).ok()?;
        }
        Some(fields)
    }
}

/// Writes one field and its line end.
pub fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes fields, each with its line end, in the map's order.
pub fn push_fields(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        push_field(out, name.as_str(), value.as_bytes());
    }
}

/// Writes the length of a message's content as a field of this name.
pub fn push_length(out: &mut Vec<u8>, name: &str, len: u64) {
    push_field(out, name, itoa::Buffer::new().format(len).as_bytes());
}

/// The field names that `Trailer` lists. Only these fields may follow the content (RFC 9110 section 6.6.2).
#[must_use]
pub fn announced_trailers(fields: &HeaderMap) -> Vec<HeaderName> {
    let values = fields.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}
