//! The head of an instance's answer, from bytes (RFC 9112 sections 4 and 6.3).

use std::mem::MaybeUninit;

use http::header;
use http::{Method, Response, StatusCode, Version, response};

use super::fields::HeadCopy;
use super::framing::{self, BadFraming, Framing};

/// Maximum number of fields of an answer.
const FIELDS_MAX: usize = 100;

/// The bytes are not the head of an HTTP/1 answer, the framing is ambiguous, or a limit is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not HTTP/1.1")]
pub struct BadAnswer;

impl From<BadFraming> for BadAnswer {
    fn from(BadFraming: BadFraming) -> Self {
        Self
    }
}

/// The head of an answer.
#[derive(Debug)]
pub struct AnswerHead {
    /// Status, version and fields.
    pub parts: response::Parts,
    /// How the content ends.
    pub framing: Framing,
    /// Whether the connection may carry another request after the answer.
    pub keeps_open: bool,
}

impl AnswerHead {
    /// Maximum length of a head, in bytes.
    pub const LEN_MAX: usize = 64 * 1_024;

    /// Reads the first head in `bytes`. `asked` is the method of the request that it answers. Returns the head and its
    /// length in bytes; `None` if its end has not arrived yet.
    pub fn read(bytes: &[u8], asked: &Method) -> Result<Option<(Self, usize)>, BadAnswer> {
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        let parsed = parser.parse_response_with_uninit_headers(&mut head, bytes, &mut fields);
        let len = match parsed {
            Ok(httparse::Status::Complete(len)) if len <= Self::LEN_MAX => len,
            Ok(httparse::Status::Partial) if bytes.len() < Self::LEN_MAX => return Ok(None),
            _ => return Err(BadAnswer),
        };
        let (Some(code), Some(minor)) = (head.code, head.version) else { return Err(BadAnswer) };
        let mut parts = Response::new(()).into_parts().0;
        parts.status = StatusCode::from_u16(code).map_err(|_| BadAnswer)?;
        parts.version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
        parts.headers = HeadCopy::new(&bytes[..len]).fields(head.headers).ok_or(BadAnswer)?;
        let framing = framing_of(&parts, asked)?;
        let keeps_open =
            framing != Framing::UntilClose && framing::keeps_open(&parts.headers, parts.version);
        Ok(Some((Self { parts, framing, keeps_open }, len)))
    }
}

/// How the content of an answer ends (RFC 9112 section 6.3).
fn framing_of(parts: &response::Parts, asked: &Method) -> Result<Framing, BadAnswer> {
    let fields = &parts.headers;
    // No coding but `chunked` is decoded. A coding in a message of HTTP/1.0 is faulty framing (section 6.1).
    let is_coded = fields.contains_key(header::TRANSFER_ENCODING);
    if is_coded && (!framing::is_chunked_or_unencoded(fields) || parts.version == Version::HTTP_10)
    {
        return Err(BadAnswer);
    }
    let len = framing::content_len(fields)?;
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

    fn read(text: &str, asked: &Method) -> Result<Option<AnswerHead>, BadAnswer> {
        Ok(AnswerHead::read(text.as_bytes(), asked)?.map(|(head, _)| head))
    }

    fn framing(fields: &str) -> Result<(Framing, bool), BadAnswer> {
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
        assert_eq!(old("Transfer-Encoding: chunked\r\n"), Err(BadAnswer));
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
            assert_eq!(framing(fields), Err(BadAnswer), "{fields:?}");
        }
        for text in [
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "hello",
            "HTTP/1.1 2000 x\r\n\r\n",
        ] {
            assert_eq!(read(text, &Method::GET).unwrap_err(), BadAnswer, "{text:?}");
        }
    }

    #[test]
    fn a_head_is_bounded_and_read_when_it_is_complete() {
        let text = "HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n";
        for len in 0..text.len() {
            assert!(read(&text[..len], &Method::GET).unwrap().is_none(), "{len}");
        }
        let whole = format!("{text}content");
        let (head, len) = AnswerHead::read(whole.as_bytes(), &Method::GET).unwrap().unwrap();
        assert_eq!((&head.parts.headers["x-a"], len), (&"b".parse().unwrap(), text.len()));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX + 1));
        assert_eq!(read(&many, &Method::GET).unwrap_err(), BadAnswer);
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(AnswerHead::LEN_MAX));
        assert_eq!(read(&long, &Method::GET).unwrap_err(), BadAnswer);
    }
}
