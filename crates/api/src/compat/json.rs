//! Reads and writes JSON as existing clients send and expect it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use crate::ApiSettings;
use crate::AppState;
use crate::body::{self, BodyError};
use crate::compat_error::{CompatError, JSON};

/// Maximum length of a body that is read only to be refused, in bytes.
const DRAINED_LEN_MAX: u64 = 64 * 1_024 * 1_024;

/// Reads the request's body as a JSON object. A body of another type, or no body, counts as an empty object.
pub(super) async fn read_object(
    state: &AppState,
    request: Request,
) -> Result<Map<String, Value>, CompatError> {
    let settings = state.settings();
    if !is_json(request.headers()) {
        return Ok(Map::new());
    }
    let max = settings.json_body_len_max;
    let encoded = request.headers().get(header::CONTENT_ENCODING);
    if encoded.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let text = "The request body must not be compressed";
        return Err(CompatError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    if declared_len(request.headers()).is_some_and(|len| len > max as u64) {
        return Err(refuse_body(settings, request, max as u64).await);
    }
    let (parts, body) = request.into_parts();
    let read = body::read(state, &parts.extensions, body, max).await;
    let body = read.map_err(|error| match error {
        BodyError::TooLong => too_large(max as u64),
        BodyError::TooSlow => {
            let text = "The request body did not arrive in time";
            CompatError::new(StatusCode::REQUEST_TIMEOUT, text)
        }
        BodyError::Broken => CompatError::bad_request("The request body could not be read"),
        BodyError::NoRoom(why) => {
            let text = format!("Too many bytes of request bodies are arriving: {why}");
            CompatError::new(StatusCode::SERVICE_UNAVAILABLE, text)
        }
    })?;
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(CompatError::bad_request("The request body must be a JSON object")),
        Err(error) => {
            let text = maxine_wording::syntax(&error);
            let text = text.strip_prefix("this is").unwrap_or(&text);
            Err(CompatError::bad_request(format!("The request body is{text}")))
        }
    }
}

fn too_large(max: u64) -> CompatError {
    let text = format!("The request body is over the limit of {max} bytes");
    CompatError::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// The length of the body that a request's head declares.
pub(super) fn declared_len(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Answers 413 to a body whose declared length is above the limit. A client that sends its body in any case would see a
/// connection reset instead of the answer. So the body is read first, unless it is extremely long or the client waits
/// for `100 Continue`.
pub(super) async fn refuse_body(settings: &ApiSettings, request: Request, max: u64) -> CompatError {
    let asks_first = request.headers().contains_key(header::EXPECT);
    let short = declared_len(request.headers()).is_some_and(|len| len <= DRAINED_LEN_MAX);
    if short && !asks_first {
        let mut body = request.into_body();
        let drain = async { while let Some(Ok(_)) = body.frame().await {} };
        let limit = Duration::from_millis(settings.body_timeout_ms);
        // A client that is slower than this sees a reset.
        let _ = tokio::time::timeout(limit, drain).await;
    }
    too_large(max)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let essence = kind.and_then(|kind| kind.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// 200 with a JSON body and a weak `ETag`.
pub(super) fn answer(body: &Value) -> Response<Body> {
    answer_text(body.to_string())
}

/// Like [`answer`], for JSON text.
pub(super) fn answer_text(body: String) -> Response<Body> {
    let tag = format!("W/\"{:x}-{:016x}\"", body.len(), xxh3_64(body.as_bytes()));
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// The text of a field, if it is not empty.
pub(super) fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
}
