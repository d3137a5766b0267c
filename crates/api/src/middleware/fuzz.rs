//! Fuzz target: header fields that every request may have.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use super::answer::not_modified_if_matched;
use super::trace::is_valid_traceparent;

/// A trace parent that is forwarded has the W3C format. An `If-None-Match` leads to 200 or 304.
pub(crate) fn headers(headers: &HeaderMap) {
    if let Some(value) = headers.get("traceparent").filter(|v| is_valid_traceparent(v.as_bytes())) {
        let fields: Vec<&str> = value.to_str().expect("hex and hyphens").split('-').collect();
        assert!(fields.len() == 4 || (fields.len() > 4 && fields[0] != "00"), "{value:?}");
        assert_eq!(
            [fields[0].len(), fields[1].len(), fields[2].len(), fields[3].len()],
            [2, 32, 16, 2]
        );
        assert!(fields[1..3].iter().all(|id| id.bytes().any(|digit| digit != b'0')), "{value:?}");
    }
    if let Some(asked) = headers.get(header::IF_NONE_MATCH) {
        let mut response = Response::new(Body::from("x"));
        response.headers_mut().insert(header::ETAG, HeaderValue::from_static("W/\"a\""));
        not_modified_if_matched(&Method::GET, asked, &mut response);
        assert!([StatusCode::OK, StatusCode::NOT_MODIFIED].contains(&response.status()));
    }
}
