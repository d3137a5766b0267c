//! Builds the `Location` of a redirect: the address of an instance, followed by the requested end point.
//!
//! **Invariant:** the result is the address alone, or the address followed by a path that begins with `/`. So no
//! end point can change the host or end the header.

use bytes::Bytes;
use http::HeaderValue;

/// Beginning of the plain text body of a redirect. The `Location` follows.
pub const TEXT_PREFIX: &[u8] = b"Found. Redirecting to ";

/// The `Location` header of a redirect, and its plain text body.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// The value of the `Location` header.
    pub location: HeaderValue,
    /// `Found. Redirecting to URL`; shares its buffer with the header.
    pub text: Bytes,
}

impl Redirect {
    /// A redirect to `end_point` below an address.
    #[must_use]
    pub fn new(address: &str, end_point: Option<&str>) -> Self {
        let end_point_len = end_point.map_or(0, str::len);
        let mut buffer =
            Vec::with_capacity(TEXT_PREFIX.len() + address.len() + 1 + end_point_len * 3);
        buffer.extend_from_slice(TEXT_PREFIX);
        push_location(&mut buffer, address, end_point);
        let text = Bytes::from(buffer);
        let location = HeaderValue::from_maybe_shared(text.slice(TEXT_PREFIX.len()..));
        Self { location: location.expect("only visible ASCII was pushed"), text }
    }

    /// The `Location` as text.
    #[must_use]
    pub fn url(&self) -> &str {
        self.location.to_str().expect("only visible ASCII was pushed")
    }
}

/// Appends the `Location` of `end_point` below an address.
pub fn push_location(buffer: &mut Vec<u8>, address: &str, end_point: Option<&str>) {
    push_encoded(buffer, address);
    if let Some(end_point) = end_point {
        push_end_point(buffer, end_point);
    }
}

/// Encodes an end point for appending to an address: it gets a leading `/`. An empty end point stays empty.
#[must_use]
pub fn encode_end_point(end_point: &str) -> String {
    let mut buffer = Vec::with_capacity(end_point.len() + 1);
    push_end_point(&mut buffer, end_point);
    String::from_utf8(buffer).expect("only ASCII was pushed")
}

fn push_end_point(buffer: &mut Vec<u8>, end_point: &str) {
    if end_point.is_empty() {
        return;
    }
    if !end_point.starts_with('/') {
        buffer.push(b'/');
    }
    push_encoded(buffer, end_point);
}

/// Appends `text`. Characters that are not allowed in a URL (RFC 3986) are percent-encoded. Existing escapes
/// are kept.
fn push_encoded(buffer: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let bytes = text.as_bytes();
    // Most texts need no encoding.
    if bytes.iter().all(|byte| may_stand_in_url(*byte)) {
        return buffer.extend_from_slice(bytes);
    }
    for (at, byte) in bytes.iter().enumerate() {
        let stays = match byte {
            b'%' => {
                let next = bytes.get(at + 1..at + 3);
                next.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            }
            byte => may_stand_in_url(*byte),
        };
        if stays {
            buffer.push(*byte);
        } else {
            let escape = [b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]];
            buffer.extend_from_slice(&escape);
        }
    }
}

const fn may_stand_in_url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b':'
                | b'/'
                | b'?'
                | b'#'
                | b'['
                | b']'
                | b'@'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn location(end_point: Option<&str>) -> String {
        let redirect = Redirect::new("http://h:81/base", end_point);
        let location = redirect.url().to_owned();
        assert_eq!(redirect.text, format!("Found. Redirecting to {location}"));
        location
    }

    #[test]
    fn locations_are_as_documented() {
        for (end_point, expected) in [
            (None, ""),
            (Some(""), ""),
            (Some("x"), "/x"),
            (Some("/x"), "/x"),
            (Some("/x?a=1&b=2"), "/x?a=1&b=2"),
            (Some("//x"), "//x"),
            (Some("/a b"), "/a%20b"),
            (Some("/€"), "/%E2%82%AC"),
            (Some("/a%2Fb%zz%"), "/a%2Fb%25zz%25"),
            (Some("/a\r\nSet-Cookie: x"), "/a%0D%0ASet-Cookie:%20x"),
            (Some("\\evil.example"), "/%5Cevil.example"),
            (Some("@evil.example"), "/@evil.example"),
            (Some("?a=1"), "/?a=1"),
        ] {
            assert_eq!(location(end_point), format!("http://h:81/base{expected}"));
        }
    }

    proptest! {
        #[test]
        fn no_end_point_leaves_the_address_or_the_header(end_point in "(?s).{0,40}") {
            let location = location(Some(&end_point));
            let rest = location.strip_prefix("http://h:81/base").unwrap();
            prop_assert!(rest.is_empty() || rest.starts_with('/'));
            prop_assert!(rest.bytes().all(|b| b == b'%' || may_stand_in_url(b)));
            prop_assert_eq!(rest, encode_end_point(&end_point));
            // Encoding a second time changes nothing.
            prop_assert_eq!(encode_end_point(rest), rest);
        }
    }
}
