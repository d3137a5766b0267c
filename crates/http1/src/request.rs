//! The head of a client's request, from bytes (RFC 9112 sections 2, 3 and 6).

use std::mem::MaybeUninit;

use http::header::{self, HeaderValue};
use http::{Method, Request, Uri, Version, request};

use super::fields::HeadCopy;
use super::framing::{self, BadFraming, Framing};

/// Maximum number of fields of a head that is read without allocating memory for them.
const FEW_FIELDS: usize = 32;

/// Limits of a head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Maximum length, in bytes.
    pub len_max: usize,
    /// Maximum number of fields.
    pub fields_max: usize,
}

/// Why a head is refused. The connection must be closed, because the beginning of the next request is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The bytes are not a request of HTTP/1.
    #[error("the request is not HTTP/1.1")]
    NotHttp,
    /// The head is longer than the limit.
    #[error("the head of the request is too long")]
    TooLong,
    /// The first line alone is longer than the limit.
    #[error("the target of the request is too long")]
    TargetTooLong,
    /// The head has more fields than the limit.
    #[error("the request has too many header fields")]
    TooManyFields,
    /// The end of the content is ambiguous.
    #[error("the length of the request is ambiguous")]
    Framing,
    /// The content has a transfer coding that is not understood.
    #[error("the only transfer coding that is understood is chunked")]
    Coding,
}

impl From<BadFraming> for BadRequest {
    fn from(BadFraming: BadFraming) -> Self {
        Self::Framing
    }
}

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    /// Method, target, version and fields.
    pub parts: request::Parts,
    pub(super) framing: Framing,
    /// Whether the client keeps the connection open for another request.
    pub(super) keeps_open: bool,
    /// Whether the client waits for `100 Continue` before it sends the content.
    pub(super) expects_continue: bool,
}

impl RequestHead {
    /// Reads the first head in `bytes`. Returns the head and its length in bytes; `None` if its end has not arrived
    /// yet.
    pub fn read(bytes: &[u8], limits: HeadLimits) -> Result<Option<(Self, usize)>, BadRequest> {
        let mut few = [const { MaybeUninit::uninit() }; FEW_FIELDS];
        let mut head = httparse::Request::new(&mut []);
        let parsed = head.parse_with_uninit_headers(bytes, &mut few);
        if parsed != Err(httparse::Error::TooManyHeaders) {
            return Self::from_parsed(bytes, limits, parsed, &head);
        }
        let mut fields = vec![MaybeUninit::uninit(); limits.fields_max];
        let mut head = httparse::Request::new(&mut []);
        let parsed = head.parse_with_uninit_headers(bytes, &mut fields);
        Self::from_parsed(bytes, limits, parsed, &head)
    }

    fn from_parsed(
        bytes: &[u8],
        limits: HeadLimits,
        parsed: Result<httparse::Status<usize>, httparse::Error>,
        head: &httparse::Request<'_, '_>,
    ) -> Result<Option<(Self, usize)>, BadRequest> {
        let len = match parsed {
            Ok(httparse::Status::Complete(len)) if len <= limits.len_max => len,
            Ok(httparse::Status::Partial) if bytes.len() < limits.len_max => return Ok(None),
            Ok(httparse::Status::Complete(_)) => return Err(BadRequest::TooLong),
            Ok(httparse::Status::Partial) => {
                let has_line = bytes.trim_ascii_start().contains(&b'\n');
                return Err(if has_line { BadRequest::TooLong } else { BadRequest::TargetTooLong });
            }
            Err(httparse::Error::TooManyHeaders) => return Err(BadRequest::TooManyFields),
            Err(_) => return Err(BadRequest::NotHttp),
        };
        if head.headers.len() > limits.fields_max {
            return Err(BadRequest::TooManyFields);
        }
        Ok(Some((Self::of(bytes, len, head).ok_or(BadRequest::NotHttp)??, len)))
    }

    /// `None` if HTTP does not allow one of the parts.
    fn of(
        bytes: &[u8],
        len: usize,
        head: &httparse::Request<'_, '_>,
    ) -> Option<Result<Self, BadRequest>> {
        let (Some(method), Some(target), Some(minor)) = (head.method, head.path, head.version)
        else {
            return None;
        };
        let copy = HeadCopy::new(&bytes[..len]);
        let mut parts = Request::new(()).into_parts().0;
        parts.method = Method::from_bytes(method.as_bytes()).ok()?;
        parts.uri = Uri::from_maybe_shared(copy.share(target.as_bytes())).ok()?;
        parts.version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        parts.headers = copy.fields(head.headers)?;
        Some(Self::framed(parts))
    }

    fn framed(mut parts: request::Parts) -> Result<Self, BadRequest> {
        let framing = framing_of(&parts)?;
        if let Framing::Length(len) = framing
            && parts.headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some()
        {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
        }
        let keeps_open = framing::keeps_open(&parts.headers, parts.version);
        let expectation = parts.headers.get(header::EXPECT).map(HeaderValue::as_bytes);
        let expects_continue = parts.version == Version::HTTP_11
            && expectation.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        Ok(Self { parts, framing, keeps_open, expects_continue })
    }
}

/// How the content of a request ends (RFC 9112 section 6.3). A request with a length and a coding is refused, because
/// it could be read in two ways.
fn framing_of(parts: &request::Parts) -> Result<Framing, BadRequest> {
    let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
    // A client never sends a list of lengths: only a proxy before this one could have joined several fields.
    if lengths.any(|len| len.as_bytes().contains(&b',')) {
        return Err(BadRequest::Framing);
    }
    let len = framing::content_len(&parts.headers)?;
    let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(last) = codings.next_back() else { return Ok(Framing::Length(len.unwrap_or(0))) };
    if len.is_some() || parts.version == Version::HTTP_10 {
        return Err(BadRequest::Framing);
    }
    if framing::is_chunked_or_unencoded(&parts.headers) {
        return Ok(Framing::Chunked);
    }
    // Unless the last coding is `chunked`, the end of the content cannot be found.
    let last = last.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
    let has_end = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
    Err(if has_end { BadRequest::Coding } else { BadRequest::Framing })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { len_max: 8_192, fields_max: 100 };

    fn read(text: &str) -> Result<Option<(RequestHead, usize)>, BadRequest> {
        RequestHead::read(text.as_bytes(), LIMITS)
    }

    fn framing(fields: &str) -> Result<Framing, BadRequest> {
        let head = read(&format!("POST /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n"))?.unwrap().0;
        let lengths = head.parts.headers.get_all(header::CONTENT_LENGTH).iter().count();
        assert!(lengths <= 1, "{fields:?}");
        Ok(head.framing)
    }

    #[test]
    fn the_content_ends_as_the_head_says() {
        for (fields, expected) in [
            ("", Framing::Length(0)),
            ("Content-Length: 0\r\n", Framing::Length(0)),
            ("Content-Length: 5\r\ncontent-length: 5\r\n", Framing::Length(5)),
            ("Transfer-Encoding: Chunked\r\n", Framing::Chunked),
        ] {
            assert_eq!(framing(fields), Ok(expected), "{fields:?}");
        }
    }

    #[test]
    fn a_head_with_two_readings_is_refused() {
        for (fields, expected) in [
            ("Content-Length: 5\r\nContent-Length: 6\r\n", BadRequest::Framing),
            ("Content-Length: 5, 5\r\n", BadRequest::Framing),
            ("Content-Length: +5\r\n", BadRequest::Framing),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", BadRequest::Framing),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", BadRequest::Framing),
            ("Transfer-Encoding: chunked, gzip\r\n", BadRequest::Framing),
            ("Transfer-Encoding: gzip\r\n", BadRequest::Framing),
            ("Transfer-Encoding: gzip, chunked\r\n", BadRequest::Coding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", BadRequest::Coding),
            ("X-A: b\r\n folded\r\n", BadRequest::NotHttp),
            ("X-A : b\r\n", BadRequest::NotHttp),
            ("X-A: b\0c\r\n", BadRequest::NotHttp),
        ] {
            assert_eq!(framing(fields), Err(expected), "{fields:?}");
        }
        let old = "POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(old).unwrap_err(), BadRequest::Framing);
        for text in ["GET /a HTTP/2.0\r\n\r\n", "hello, world\r\n\r\n", "GET  /a HTTP/1.1\r\n\r\n"]
        {
            assert_eq!(read(text).unwrap_err(), BadRequest::NotHttp, "{text:?}");
        }
    }

    #[test]
    fn a_head_is_bounded_and_read_when_it_is_complete() {
        let text =
            "PUT /a?b HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nConnection: close\r\n\r\n";
        for len in 1..text.len() {
            assert!(read(&text[..len]).unwrap().is_none(), "{len}");
        }
        let (head, len) = read(&format!("{text}content")).unwrap().unwrap();
        assert_eq!((len, head.parts.uri.to_string()), (text.len(), "/a?b".to_owned()));
        assert!(head.expects_continue && !head.keeps_open);
        let with = |fields: usize, value_len: usize| {
            let field = format!("a: {}\r\n", "b".repeat(value_len));
            let text = format!("GET / HTTP/1.1\r\n{}\r\n", field.repeat(fields));
            read(&text).map(|read| read.unwrap().0.parts.headers.len())
        };
        assert_eq!((with(32, 1), with(100, 1)), (Ok(32), Ok(100)));
        assert_eq!(with(101, 1), Err(BadRequest::TooManyFields));
        assert_eq!(with(1, 8_192), Err(BadRequest::TooLong));
        let part = "a".repeat(LIMITS.len_max);
        assert_eq!(read(&format!("GET /{part}")).unwrap_err(), BadRequest::TargetTooLong);
        let part = format!("GET / HTTP/1.1\r\na: {part}");
        assert_eq!(read(&part).unwrap_err(), BadRequest::TooLong);
    }
}
