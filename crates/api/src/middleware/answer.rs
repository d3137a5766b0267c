//! Removes the body of an answer to `GET`: for `HEAD`, and for a client that already has the content (304).

use axum::body::{Body, HttpBody};
use axum::http::header::{self, HeaderValue};
use axum::http::{Method, Response, StatusCode};

/// Changes an answer to `GET` into one to `HEAD`: its fields stay, and its body is removed (RFC 9110, section 9.3.2).
pub(crate) fn leave_out_body(response: &mut Response<Body>) {
    if let Some(len) = response.body().size_hint().exact() {
        let len = HeaderValue::from(len);
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(len);
    }
    *response.body_mut() = Body::empty();
}

/// Changes a 200 into a 304 if `if_none_match`, the value of `If-None-Match`, has its `ETag`.
pub(super) fn not_modified_if_matched(
    method: &Method,
    if_none_match: &HeaderValue,
    response: &mut Response<Body>,
) {
    if response.status() != StatusCode::OK || !matches!(*method, Method::GET | Method::HEAD) {
        return;
    }
    let Some(tag) = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()) else {
        return;
    };
    let Ok(if_none_match) = if_none_match.to_str() else { return };
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let own = opaque(tag);
    if if_none_match.trim() == "*"
        || if_none_match.split(',').any(|candidate| opaque(candidate) == own)
    {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
}
