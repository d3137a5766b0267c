//! How the content of a message is framed, and whether its connection stays open (RFC 9112 sections 6 and 9.3).

use http::header::{self, HeaderMap};
use http::{HeaderValue, Version};

/// The fields of a message frame its content in more than one way, or in a way that is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the framing of the content is ambiguous")]
pub struct BadFraming;

/// How the content of a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After this number of bytes.
    Length(u64),
    /// After the last chunk, and the trailer section behind it.
    Chunked,
    /// When the connection is closed.
    UntilClose,
}

/// Whether a message has no transfer coding, or only `chunked`. No other coding is decoded, so a message with another
/// one cannot be forwarded.
#[must_use]
pub fn is_chunked_or_unencoded(fields: &HeaderMap) -> bool {
    let mut values = fields.get_all(header::TRANSFER_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// The length in the `Content-Length` fields, in bytes; `None` without such a field. An error if the fields give
/// different lengths, or one that is not a number (RFC 9110 section 8.6).
pub fn content_len(fields: &HeaderMap) -> Result<Option<u64>, BadFraming> {
    let mut found = None;
    for value in fields.get_all(header::CONTENT_LENGTH) {
        for item in value.as_bytes().split(|byte| *byte == b',') {
            let digits = item.trim_ascii();
            let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(digits).ok().filter(|_| is_number).ok_or(BadFraming)?;
            let len = text.parse::<u64>().map_err(|_| BadFraming)?;
            if found.is_some_and(|found| found != len) {
                return Err(BadFraming);
            }
            found = Some(len);
        }
    }
    Ok(found)
}

/// Whether the sender of a message with these fields keeps the connection open after it. The default is to keep it open
/// in HTTP/1.1, and to close it in HTTP/1.0.
#[must_use]
pub fn keeps_open(fields: &HeaderMap, version: Version) -> bool {
    let is_old = version == Version::HTTP_10;
    if !fields.contains_key(header::CONNECTION) {
        return !is_old;
    }
    !lists(fields, "close") && (!is_old || lists(fields, "keep-alive"))
}

/// Whether `Connection` lists this option.
fn lists(fields: &HeaderMap, option: &str) -> bool {
    let values = fields.get_all(header::CONNECTION).iter().map(HeaderValue::as_bytes);
    let mut items = values.flat_map(|value| value.split(|byte| *byte == b','));
    items.any(|item| item.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(name: &'static str, values: &[&'static str]) -> HeaderMap {
        let name = header::HeaderName::from_static(name);
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn chunks_are_the_only_coding_that_is_known() {
        let known =
            |values: &[&'static str]| is_chunked_or_unencoded(&fields("transfer-encoding", values));
        assert!(known(&[]) && known(&["chunked"]) && known(&["Chunked"]));
        assert!(!known(&["gzip"]) && !known(&["gzip, chunked"]) && !known(&["chunked", "chunked"]));
    }

    #[test]
    fn all_lengths_must_be_the_same_number() {
        let len = |values: &[&'static str]| content_len(&fields("content-length", values));
        assert_eq!(len(&[]), Ok(None));
        assert_eq!(len(&["5"]), Ok(Some(5)));
        assert_eq!(len(&["5", "5, 5"]), Ok(Some(5)));
        for bad in [&["5", "6"][..], &["5, 6"], &["+5"], &["-1"], &[""], &["5,"], &["0x5"]] {
            assert_eq!(len(bad), Err(BadFraming), "{bad:?}");
        }
        assert_eq!(len(&["18446744073709551616"]), Err(BadFraming));
    }

    #[test]
    fn a_connection_stays_open_as_its_version_and_its_options_say() {
        let open =
            |values: &[&'static str], version| keeps_open(&fields("connection", values), version);
        assert!(open(&[], Version::HTTP_11) && !open(&[], Version::HTTP_10));
        assert!(open(&["x"], Version::HTTP_11) && !open(&["x"], Version::HTTP_10));
        assert!(!open(&["x, Close"], Version::HTTP_11));
        assert!(open(&["Keep-Alive"], Version::HTTP_10));
        assert!(!open(&["keep-alive", "close"], Version::HTTP_10));
    }
}
