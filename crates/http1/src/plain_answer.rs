//! A complete answer of the most usual form, read without copying it (RFC 9112 sections 4 and 6.3).

use std::mem::MaybeUninit;

use http::StatusCode;
use httparse::{Header, ParserConfig, Response, Status};

use super::fields::push_field;
use super::lower_case::LowerCase;

/// Maximum number of fields of a plain answer.
const FIELDS_MAX: usize = 48;
/// Maximum number of digits of a length. A number of this many digits fits into 64 bits.
const DIGITS_MAX: usize = 18;

/// A complete answer to a `GET` over HTTP/1.1. Its content has a length, and its connection may carry another request.
#[derive(Debug)]
pub struct PlainAnswer<'a> {
    /// The status. It is from 200 to 599, and an answer with it has content.
    pub status: StatusCode,
    /// The value of the first `Keep-Alive` field.
    pub keep_alive: Option<&'a [u8]>,
    /// The content.
    pub content: &'a [u8],
    fields: &'a [Header<'a>],
}

impl PlainAnswer<'_> {
    /// Calls `take` with the answer if `bytes` are exactly one plain answer. `None` otherwise:
    /// [`AnswerHead`](super::AnswerHead) has to read them.
    pub fn read<T>(bytes: &[u8], take: impl FnOnce(&PlainAnswer<'_>) -> T) -> Option<T> {
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut head = Response::new(&mut []);
        let parser = ParserConfig::default();
        let parsed = parser.parse_response_with_uninit_headers(&mut head, bytes, &mut fields);
        let Ok(Status::Complete(len)) = parsed else { return None };
        let code = head.code.filter(|code| (200..600).contains(code) && has_content(*code))?;
        let status = StatusCode::from_u16(code).ok()?;
        if head.version != Some(1) {
            return None;
        }
        let (content, fields) = (&bytes[len..], &*head.headers);
        let mut content_len = None;
        let mut keep_alive = None;
        for Header { name, value } in fields {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            match name.len() {
                7 if is("upgrade") || is("trailer") => return None,
                10 if is("connection") && !value.eq_ignore_ascii_case(b"keep-alive") => {
                    return None;
                }
                10 if is("keep-alive") => keep_alive = keep_alive.or(Some(*value)),
                14 if is("content-length") => {
                    if content_len.is_some() {
                        return None;
                    }
                    content_len = Some(length(value)?);
                }
                17 if is("transfer-encoding") => return None,
                _ => {}
            }
        }
        (content_len == Some(content.len() as u64))
            .then(|| take(&PlainAnswer { status, keep_alive, content, fields }))
    }

    /// Writes the fields for which `keep` returns true, each with its line end and with its name in lower case. `keep`
    /// gets the name in lower case and the value. `Content-Length` is left out. Returns false if a name could not be
    /// written in lower case; what was written must not be used then.
    pub fn push_fields(
        &self,
        out: &mut Vec<u8>,
        mut keep: impl FnMut(&str, &[u8]) -> bool,
    ) -> bool {
        for Header { name, value } in self.fields {
            let Some(lower) = LowerCase::of(name) else { return false };
            let lower = lower.as_str();
            if lower != "content-length" && keep(lower, value) {
                push_field(out, lower, value);
            }
        }
        true
    }
}

/// Whether an answer with this status to a `GET` has content.
fn has_content(status: u16) -> bool {
    !matches!(status, 204 | 304)
}

/// The length in a `Content-Length` field; `None` if it is not a number of at most [`DIGITS_MAX`] digits.
fn length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    digits.iter().try_fold(0, |number: u64, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &str) -> Option<(u16, String, String)> {
        PlainAnswer::read(bytes.as_bytes(), |answer| {
            let mut fields = Vec::new();
            assert!(answer.push_fields(&mut fields, |name, _| name != "x-left"));
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            (answer.status.as_u16(), text(&fields), text(answer.content))
        })
    }

    #[test]
    fn a_whole_answer_is_read_and_its_names_are_written_in_lower_case() {
        let bytes = "HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-LENGTH: 5\r\nX-Left: 2\r\nX-own: 3\r\n\r\nhello";
        let expected = (200, "x-own: 1\r\nx-own: 3\r\n".to_owned(), "hello".to_owned());
        assert_eq!(shown(bytes), Some(expected));
        let kept = "HTTP/1.1 404 No\r\nConnection: Keep-Alive\r\nKeep-Alive: timeout=5\r\ncontent-length: 0\r\n\r\n";
        let keep_alive = PlainAnswer::read(kept.as_bytes(), |a| a.keep_alive.map(<[u8]>::to_vec));
        assert_eq!(keep_alive, Some(Some(b"timeout=5".to_vec())));
    }

    #[test]
    fn everything_else_is_left_to_the_other_reader() {
        let others = [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0, 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive, x\r\n\r\n",
            "HTTP/1.1 426 Upgrade\r\nContent-Length: 0\r\nUpgrade: websocket\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n",
        ];
        for bytes in others {
            assert_eq!(shown(bytes), None, "{bytes:?}");
        }
    }
}
