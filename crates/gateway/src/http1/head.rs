//! Heads: the request's as bytes, and the answer's from bytes (RFC 9112 sections 3, 4 and 6.3).

use std::ops::Range;

use bytes::BytesMut;
use hyper::body::Body;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::{request, response};
use hyper::{Method, Response, StatusCode, Version};
use maxine_http1::{
    BadFraming, Coding, Framing, Sending, announced_trailers, content_len, is_chunked_or_unencoded,
    keeps_open, push_fields, push_length,
};

use super::super::body::RequestBody;

/// Most fields of an answer.
const FIELDS_MAX: usize = 100;
/// Largest head of an answer, in bytes.
pub(super) const LEN_MAX: usize = 64 * 1_024;
/// Room for the head of a request, in bytes.
const HEAD_LEN: usize = 1_024;

/// The bytes are not the head of an answer, or are above a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadHead;

impl From<BadFraming> for BadHead {
    fn from(BadFraming: BadFraming) -> Self {
        Self
    }
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct AnswerHead {
    pub(super) parts: response::Parts,
    pub(super) framing: Framing,
    /// Whether the connection may carry another request after the answer.
    pub(super) keeps_open: bool,
}

/// The request with this head and content, to be written.
pub(super) fn sending(parts: &request::Parts, body: RequestBody) -> Sending<RequestBody> {
    let is_chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    let (is_empty, len) = (body.is_end_stream(), body.size_hint().exact());
    let (coding, announced_len) = match len {
        _ if is_empty => (Coding::Length(0), None),
        Some(len) if !is_chunked => (Coding::Length(len), Some(len)),
        _ => (Coding::Chunked, None),
    };
    let mut head = Vec::with_capacity(HEAD_LEN);
    push_request(&mut head, parts, announced_len);
    let announced = match coding {
        Coding::Chunked => announced_trailers(&parts.headers),
        Coding::Length(_) | Coding::UntilClose => Vec::new(),
    };
    Sending::new(head, coding, announced, (!is_empty).then_some(body))
}

/// Writes the head of a request. `content_len` is the length of the content, or `None` where the fields say how it is
/// framed.
fn push_request(out: &mut Vec<u8>, parts: &request::Parts, content_len: Option<u64>) {
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    match parts.uri.path_and_query() {
        Some(target) => out.extend_from_slice(target.as_str().as_bytes()),
        None => out.push(b'/'),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    push_fields(out, &parts.headers);
    if let Some(len) = content_len {
        push_length(out, "content-length", len);
    }
    out.extend_from_slice(b"\r\n");
}

/// Where a field stands in the head.
struct At {
    name: Range<usize>,
    value: Range<usize>,
}

/// Reads the head of an answer to a request with this method, and removes it from `bytes`. `None` if its end is not
/// there yet.
pub(super) fn read_answer(
    bytes: &mut BytesMut,
    asked: &Method,
) -> Result<Option<AnswerHead>, BadHead> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let len = match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len <= LEN_MAX => len,
        Ok(httparse::Status::Partial) if bytes.len() < LEN_MAX => return Ok(None),
        _ => return Err(BadHead),
    };
    let (Some(code), Some(minor)) = (head.code, head.version) else { return Err(BadHead) };
    let status = StatusCode::from_u16(code).map_err(|_| BadHead)?;
    // The values become parts of the buffer, which is free for that only after the parser has let it go.
    let start = bytes.as_ptr().addr();
    let span = |part: &[u8]| {
        let from = part.as_ptr().addr() - start;
        from..from + part.len()
    };
    let spans = head
        .headers
        .iter()
        .map(|field| At { name: span(field.name.as_bytes()), value: span(field.value) });
    let ats: Vec<At> = spans.collect();
    let head = bytes.split_to(len).freeze();
    let mut parts = Response::new(()).into_parts().0;
    parts.status = status;
    parts.version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers.reserve(ats.len());
    for At { name, value } in ats {
        let name = HeaderName::from_bytes(&head[name]).map_err(|_| BadHead)?;
        let value = HeaderValue::from_maybe_shared(head.slice(value)).map_err(|_| BadHead)?;
        parts.headers.append(name, value);
    }
    let framing = framing_of(&parts, asked)?;
    let keeps_open = framing != Framing::UntilClose && keeps_open(&parts.headers, parts.version);
    Ok(Some(AnswerHead { parts, framing, keeps_open }))
}

/// How the content of an answer ends (RFC 9112 section 6.3).
fn framing_of(parts: &response::Parts, asked: &Method) -> Result<Framing, BadHead> {
    let fields = &parts.headers;
    // No other coding is decoded here, and a message of HTTP/1.0 with one is faulty framing (section 6.1).
    let is_coded = fields.contains_key(header::TRANSFER_ENCODING);
    if is_coded && (!is_chunked_or_unencoded(fields) || parts.version == Version::HTTP_10) {
        return Err(BadHead);
    }
    let len = content_len(fields)?;
    let has_none = parts.status.is_informational()
        || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || *asked == Method::HEAD;
    Ok(match len {
        _ if has_none => Framing::Length(0),
        _ if is_coded => Framing::Chunked,
        Some(len) => Framing::Length(len),
        None => Framing::UntilClose,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, asked: &Method) -> Result<Option<AnswerHead>, BadHead> {
        read_answer(&mut BytesMut::from(text), asked)
    }

    fn framing(fields: &str) -> Result<(Framing, bool), BadHead> {
        let head = read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), &Method::GET)?.unwrap();
        Ok((head.framing, head.keeps_open))
    }

    #[test]
    fn the_content_ends_as_the_head_says() {
        for (fields, expected) in [
            ("", (Framing::UntilClose, false)),
            ("Content-Length: 5\r\n", (Framing::Length(5), true)),
            ("Content-Length: 5\r\ncontent-length: 5, 5\r\n", (Framing::Length(5), true)),
            ("Content-Length: 5\r\nConnection: x, Close\r\n", (Framing::Length(5), false)),
            ("Transfer-Encoding: Chunked\r\n", (Framing::Chunked, true)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", (Framing::Chunked, true)),
        ] {
            assert_eq!(framing(fields), Ok(expected), "{fields:?}");
        }
        for (status, asked) in [("204", "GET"), ("304", "GET"), ("200", "HEAD"), ("103", "GET")] {
            let text = format!("HTTP/1.1 {status} x\r\nContent-Length: 9\r\n\r\n");
            let head = read(&text, &asked.parse().unwrap()).unwrap().unwrap();
            assert_eq!(head.framing, Framing::Length(0), "{status} {asked}");
        }
        let old = |fields: &str| {
            let head = read(&format!("HTTP/1.0 200 OK\r\n{fields}\r\n"), &Method::GET)?.unwrap();
            Ok((head.framing, head.keeps_open))
        };
        assert_eq!(old("Content-Length: 5\r\n"), Ok((Framing::Length(5), false)));
        let kept = old("Content-Length: 5\r\nConnection: Keep-Alive\r\n");
        assert_eq!(kept, Ok((Framing::Length(5), true)));
        assert_eq!(old("Transfer-Encoding: chunked\r\n"), Err(BadHead));
    }

    #[test]
    fn a_head_with_two_readings_is_refused() {
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5, 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: x\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "X-A: b\r\n folded\r\n",
            "X-A : b\r\n",
            "no field\r\n",
            "X-A: b\0c\r\n",
        ] {
            assert_eq!(framing(fields), Err(BadHead), "{fields:?}");
        }
        for text in [
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "hello",
            "HTTP/1.1 2000 x\r\n\r\n",
        ] {
            assert_eq!(read(text, &Method::GET).unwrap_err(), BadHead, "{text:?}");
        }
    }

    #[test]
    fn a_head_is_bounded_and_read_when_it_is_there() {
        let text = "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n";
        for len in 0..text.len() {
            assert!(read(&text[..len], &Method::GET).unwrap().is_none(), "{len}");
        }
        let mut bytes = BytesMut::from(format!("{text}content").as_bytes());
        let head = read_answer(&mut bytes, &Method::GET).unwrap().unwrap();
        assert_eq!(
            (&head.parts.headers["x-a"], &bytes[..]),
            (&"b".parse().unwrap(), &b"content"[..])
        );
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX + 1));
        assert_eq!(read(&many, &Method::GET).unwrap_err(), BadHead);
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(LEN_MAX));
        assert_eq!(read(&long, &Method::GET).unwrap_err(), BadHead);
    }
}
