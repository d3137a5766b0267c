//! The length of a message's content, and which fields may follow the content.

use bytes::Bytes;
use hyper::body::Frame;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::headers::{
    affects_whole_origin, is_maxines_own, is_reserved_for_proxies, strip_hop_by_hop,
};

/// Merges repeated `Content-Length` fields into one. The HTTP library has verified that they are equal (RFC 9110
/// section 8.6).
pub(crate) fn merge_content_length(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return };
    let is_plain = first.as_bytes().iter().all(u8::is_ascii_digit);
    if is_plain && values.next().is_none() {
        return;
    }
    let first = first.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
    match HeaderValue::from_bytes(first.trim_ascii()) {
        Ok(len) => headers.insert(header::CONTENT_LENGTH, len),
        Err(_) => headers.remove(header::CONTENT_LENGTH),
    };
}

/// Fields that must come before the content: framing, routing, credentials, the format of the content, and fields that
/// change how a message is handled (RFC 9110 section 6.5.1).
const NO_TRAILERS: [HeaderName; 15] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::RANGE,
    header::SET_COOKIE,
    header::TRAILER,
    header::WWW_AUTHENTICATE,
];

/// Removes fields from trailers: those that must come before the content, and those that neither a client nor an
/// instance may set. The latter describe the origin of the request, affect the node's whole origin, or are Maxine's
/// own.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers, false);
    let misplaced = |name: &HeaderName| {
        NO_TRAILERS.contains(name)
            || is_maxines_own(name.as_str())
            || is_reserved_for_proxies(name.as_str())
            || affects_whole_origin(name.as_str())
    };
    let misplaced: Vec<HeaderName> = trailers.keys().filter(|n| misplaced(n)).cloned().collect();
    for name in &misplaced {
        trailers.remove(name);
    }
}

/// The frame without the fields that are not allowed in trailers.
pub(crate) fn without_misplaced(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        strip_trailers(trailers);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(values: &[&'static str]) -> HeaderMap {
        let field =
            |value: &&'static str| (header::CONTENT_LENGTH, HeaderValue::from_static(value));
        values.iter().map(field).collect()
    }

    #[test]
    fn a_length_is_written_once() {
        for (values, once) in [
            (&["5"][..], &["5"][..]),
            (&["5", "5"], &["5"]),
            (&["5, 5"], &["5"]),
            (&["5 ,5", "5"], &["5"]),
            (&[], &[]),
        ] {
            let mut headers = lengths(values);
            merge_content_length(&mut headers);
            assert_eq!(headers, lengths(once), "{values:?}");
        }
    }

    #[test]
    fn trailers_have_no_field_that_only_maxine_may_set() {
        let mut trailers = HeaderMap::new();
        for name in ["x-sum", "clear-site-data", "x-maxine-index", "x-accel-redirect", "set-cookie"]
        {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        strip_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);
    }
}
