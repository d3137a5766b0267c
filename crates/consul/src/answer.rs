//! Answers in the form of Consul: JSON, or an error as plain text.

use std::io;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;

/// The index of the objects in the answer, for the next blocking query.
pub(crate) const INDEX: HeaderName = HeaderName::from_static("x-consul-index");
/// The hash of the object in the answer, for the next blocking query by hash.
pub(crate) const CONTENT_HASH: HeaderName = HeaderName::from_static("x-consul-contenthash");
/// Why an aggregated health is so.
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-consul-reason");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Maximum length of an answer, in bytes.
pub(crate) const LEN_MAX: usize = 64 * 1_024 * 1_024;

/// Minimum length of a node, a service or a check in an answer, in bytes.
const OBJECT_LEN_MIN: usize = 100;

/// Whether this number of nodes, services or checks is certainly longer than `len_max`. Then no more are collected, and
/// the answer is refused when it is written.
pub(crate) fn is_over(count: usize, len_max: usize) -> bool {
    count.saturating_mul(OBJECT_LEN_MIN) > len_max
}

/// An answer to a client.
pub(crate) type Answer = Response<Bytes>;

/// A refusal: a status, and a text for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// 400.
    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// 404.
    pub(crate) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }
}

impl From<maxine_state::limits::LimitExceeded> for Refusal {
    fn from(error: maxine_state::limits::LimitExceeded) -> Self {
        Self::bad(error.to_string())
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        text(refusal.status, refusal.text)
    }
}

/// A text.
pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    with_type(status, TEXT, Bytes::from(text.into()))
}

/// JSON. `pretty` indents it. It is refused if it is longer than [`LEN_MAX`].
pub(crate) fn json(status: StatusCode, pretty: bool, value: &impl Serialize) -> Answer {
    json_within(LEN_MAX, status, pretty, value)
}

/// The same with at most `len_max` bytes. No more than that is built.
pub(crate) fn json_within(
    len_max: usize,
    status: StatusCode,
    pretty: bool,
    value: &impl Serialize,
) -> Answer {
    let mut body = Bounded { bytes: Vec::new(), len_max };
    let written = match pretty {
        true => serde_json::to_writer_pretty(&mut body, value),
        false => serde_json::to_writer(&mut body, value),
    };
    match written {
        Ok(()) => with_type(status, JSON, Bytes::from(body.bytes)),
        Err(error) if error.is_io() => too_long(len_max).into(),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written")
        }
    }
}

/// The refusal of an answer that would be longer than `len_max`.
pub(crate) fn too_long(len_max: usize) -> Refusal {
    if len_max < LEN_MAX {
        let text = "there is no room for this answer: your address must first read the answers to its earlier requests";
        return Refusal::new(StatusCode::TOO_MANY_REQUESTS, text);
    }
    let text = "the answer would have more than 64 MiB: choose less of it, by a longer prefix, a tag or a filter";
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// Bytes that are written, up to a maximum.
struct Bounded {
    bytes: Vec<u8>,
    len_max: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write_all(self, bytes).map(|()| bytes.len())
    }

    /// JSON is written in thousands of short parts, for which the loop of the default would cost more than the copy.
    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes.len() + bytes.len() > self.len_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// 200 with JSON that was written before.
pub(crate) fn written(body: Bytes) -> Answer {
    with_type(StatusCode::OK, JSON, body)
}

/// 200 without a body.
pub(crate) fn done() -> Answer {
    let mut answer = Response::new(Bytes::new());
    answer.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    answer
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    answer.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    answer
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::shape::Listed;
    use super::*;

    #[test]
    fn an_answer_that_is_too_long_is_refused() {
        let with = |len| json(StatusCode::OK, false, &"x".repeat(len));
        assert_eq!(with(LEN_MAX - 2).status(), StatusCode::OK);
        let refused = with(LEN_MAX - 1);
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(refused.body().starts_with(b"the answer would have more than 64 MiB"));
    }

    #[test]
    fn an_answer_without_room_is_not_built_further() {
        let made = Cell::new(0);
        let objects = (0..1_000).map(|_| {
            made.set(made.get() + 1);
            "0123456789"
        });
        let refused = json_within(100, StatusCode::OK, false, &Listed(objects));
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(refused.body().starts_with(b"there is no room for this answer"));
        assert_eq!(made.get(), 8);
    }
}
