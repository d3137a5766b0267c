//! CORS: which pages of other origins may read answers.
//!
//! Place in the flow: the edge calls this for every request. It admits only the origin that the operator named and, on
//! the routes that the dashboard uses, pages of this cluster's members. It never lets a page use cookies.

use axum::body::Body;
use axum::http;
use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, Response, StatusCode};

use crate::compat_error::{NOSNIFF, is_native};
use crate::{AppState, origins};

/// Routes of the compatible API from which the dashboard reads counters and records.
const ACTUATOR: &str = "/api/actuator/";
/// The header fields of an answer that the dashboard reads.
const EXPOSED: &str = "x-maxine-index, x-maxine-history, x-maxine-staleness-ms, x-maxine-staleness, \
                       x-maxine-leader, x-maxine-backup-index, content-disposition, etag, retry-after, date";

/// Decides which origin may read an answer.
pub(super) struct Cors {
    state: AppState,
    /// The origin that the operator named, or `*`.
    origin: Option<HeaderValue>,
}

impl Cors {
    /// Reads the origin from the node's settings. An origin that is not a header value counts as none; the
    /// configuration has refused it before.
    pub(super) fn new(state: AppState) -> Self {
        let origin = state.settings().cors_allow_origin.as_deref();
        let origin = origin.and_then(|origin| HeaderValue::from_str(origin).ok());
        Self { state, origin }
    }

    /// Whether the operator named an origin.
    pub(super) fn has_origin(&self) -> bool {
        self.origin.is_some()
    }

    /// Answers `OPTIONS`: 204 on any path.
    pub(super) fn preflight<B>(&self, request: &http::Request<B>) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        if !self.admit_origin(headers, self.member_origin(request)) {
            return response;
        }
        let methods = HeaderValue::from_static("GET,HEAD,PUT,PATCH,POST,DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        if let Some(wanted) = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        let vary = HeaderValue::from_static("Access-Control-Request-Headers");
        headers.append(header::VARY, vary);
        response
    }

    /// Lets a page of another member, or of the origin that the operator named, read this answer. Such a page must send
    /// a token of its own.
    pub(super) fn admit_origin(
        &self,
        headers: &mut HeaderMap,
        member: Option<HeaderValue>,
    ) -> bool {
        if member.is_some() {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = member.or_else(|| self.origin.clone()) else { return false };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        true
    }

    /// The request's origin, if it is a member of this cluster and the dashboard uses the request's path.
    pub(super) fn member_origin<B>(&self, request: &http::Request<B>) -> Option<HeaderValue> {
        let origin = request.headers().get(header::ORIGIN)?;
        let path = request.uri().path();
        let anyone = self.origin.as_ref().is_some_and(|origin| origin == "*");
        if anyone || !(is_native(path) || path.starts_with(ACTUATOR)) {
            return None;
        }
        let members = origins::of_members(self.state.store().as_ref());
        members.iter().any(|member| member.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }
}
