//! Answers in the form of Consul: JSON, or an error as plain text.

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

/// JSON. `pretty` indents it.
pub(crate) fn json(status: StatusCode, pretty: bool, value: &impl Serialize) -> Answer {
    let written = match pretty {
        true => serde_json::to_vec_pretty(value),
        false => serde_json::to_vec(value),
    };
    match written {
        Ok(body) => with_type(status, JSON, Bytes::from(body)),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written as JSON");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written")
        }
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
