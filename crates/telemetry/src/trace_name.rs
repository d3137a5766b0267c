//! The trace id or the W3C trace parent of a request.
//!
//! Most requests have neither, and most ids that are created are never shown. So they are kept as numbers
//! until somebody reads them.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderValue;

use crate::span_name::SpanName;

const HEX: &[u8; 16] = b"0123456789abcdef";
/// Maximum length of the text.
const TEXT_LEN_MAX: usize = 55;

/// A trace id or a trace parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceName {
    /// A trace id that was created here: 32 lower-case hex digits.
    Id([u8; 16]),
    /// A trace parent that was created here, of version 00 and sampled: the 16 bytes of its trace, and the 8
    /// of its parent.
    Parent([u8; 24]),
    /// A trace parent that names this node's span of the request. Only a node that exports traces has these.
    Span(SpanName),
    /// The value from the client.
    Given(HeaderValue),
}

impl Default for TraceName {
    /// An empty name, if there is none.
    fn default() -> Self {
        Self::Given(HeaderValue::from_static(""))
    }
}

impl TraceName {
    /// A new trace id.
    #[must_use]
    pub fn new_id() -> Self {
        Self::Id(fastrand::u128(..).to_be_bytes())
    }

    /// A new trace parent: `00-<32 hex>-<16 hex>-01`.
    #[must_use]
    pub fn new_parent() -> Self {
        let mut bytes = [0; 24];
        // Ids that consist of zeros are invalid.
        bytes[..16].copy_from_slice(&fastrand::u128(1..).to_be_bytes());
        bytes[16..].copy_from_slice(&fastrand::u64(1..).to_be_bytes());
        Self::Parent(bytes)
    }

    /// This node's span of the request. `None` if this node does not export traces.
    #[must_use]
    pub fn span(&self) -> Option<SpanName> {
        match self {
            Self::Span(span) => Some(*span),
            Self::Id(_) | Self::Parent(_) | Self::Given(_) => None,
        }
    }

    /// The trace parent for the instance in an attempt, which are numbered from 1. It is the same in every attempt if
    /// this node does not export traces.
    #[must_use]
    pub fn of_attempt(&self, number: u32) -> Cow<'_, Self> {
        match self {
            Self::Span(span) => Cow::Owned(Self::Span(span.of_attempt(number))),
            Self::Id(_) | Self::Parent(_) | Self::Given(_) => Cow::Borrowed(self),
        }
    }

    /// Appends its text, as a header has it.
    pub fn push_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Id(bytes) => push_hex(out, bytes),
            Self::Parent(bytes) => {
                out.extend_from_slice(b"00-");
                push_hex(out, &bytes[..16]);
                out.push(b'-');
                push_hex(out, &bytes[16..]);
                out.extend_from_slice(b"-01");
            }
            Self::Span(span) => {
                out.extend_from_slice(b"00-");
                push_hex(out, &span.trace);
                out.push(b'-');
                push_hex(out, &span.id.to_be_bytes());
                out.extend_from_slice(if span.is_sampled { b"-01" } else { b"-00" });
            }
            Self::Given(value) => out.extend_from_slice(value.as_bytes()),
        }
    }

    /// Its text. Bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Given(value) => String::from_utf8_lossy(value.as_bytes()),
            made => String::from_utf8(made.made_bytes()).unwrap_or_default().into(),
        }
    }

    /// The value for a header field.
    #[must_use]
    pub fn header_value(&self) -> HeaderValue {
        match self {
            Self::Given(value) => value.clone(),
            made => HeaderValue::from_maybe_shared(Bytes::from(made.made_bytes()))
                .expect("hex digits and hyphens are valid in a header"),
        }
    }

    fn made_bytes(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(TEXT_LEN_MAX);
        self.push_to(&mut text);
        text
    }
}

/// Appends at most 16 bytes as hex digits.
fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
    }
    out.extend_from_slice(&digits[..2 * bytes.len().min(16)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_same_in_every_shape() {
        let id =
            TraceName::Id(*b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\xff");
        let given = HeaderValue::from_bytes(b"m\xfcne").unwrap();
        for (name, text) in [
            (id, "000102030405060708090a0b0c0d0eff".to_owned()),
            (
                TraceName::Parent([0xab; 24]),
                format!("00-{}-{}-01", "ab".repeat(16), "ab".repeat(8)),
            ),
            (
                TraceName::Span(SpanName { trace: [0xab; 16], id: 0x1f, is_sampled: false }),
                format!("00-{}-000000000000001f-00", "ab".repeat(16)),
            ),
            (TraceName::Given(HeaderValue::from_static("my own")), "my own".to_owned()),
        ] {
            assert_eq!(name.text(), text);
            assert_eq!(name.header_value(), *text);
        }
        assert_eq!(TraceName::Given(given.clone()).header_value(), given);
        assert_eq!(TraceName::Given(given).text(), "m\u{fffd}ne");
    }
}
