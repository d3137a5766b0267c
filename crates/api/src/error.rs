//! Errors as answers: `{"message": TEXT}` for the compatible API, and problem+json for the native one.

use axum::body::Body;
use axum::http::header::{self, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;

use super::problem::{Problem, ProblemKind};
use maxine_actors::WriteError;
use maxine_state::Rejection;

/// `Content-Type` of the compatible API's answers.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// `X-Content-Type-Options` for every answer of Maxine itself. The edge adds it. Only answers before the edge
/// set it themselves.
pub const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// An error of the compatible API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompatError {
    /// The status.
    pub status: StatusCode,
    /// The text of `message`.
    pub message: String,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
}

impl CompatError {
    /// An error with a text.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after_s: None }
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404 `Not found`.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found")
    }

    /// 503 `Service Unavailable`: no live node.
    #[must_use]
    pub fn no_live_node() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable")
    }
}

impl IntoResponse for CompatError {
    fn into_response(self) -> Response<Body> {
        let body = serde_json::json!({ "message": self.message }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        if let Some(after_s) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after_s));
        }
        response
    }
}

impl From<WriteError> for CompatError {
    fn from(error: WriteError) -> Self {
        let status = match &error {
            WriteError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            WriteError::Rejected { rejection, .. } => status_of(rejection),
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        // The cause is for the node's own log, not for clients.
        let message = match &error {
            WriteError::Storage(_) => {
                "the outcome is unknown: the storage of this node failed".into()
            }
            WriteError::Refused(_) => {
                "nothing was written: the leader does not accept this kind of write from this node"
                    .into()
            }
            _ => error.to_string(),
        };
        Self { status, message, retry_after_s: error.retry_after_s() }
    }
}

/// The status for a refusal.
#[must_use]
pub fn status_of(rejection: &Rejection) -> StatusCode {
    match rejection {
        Rejection::Limit(_) => StatusCode::BAD_REQUEST,
        Rejection::NotFound { .. } => StatusCode::NOT_FOUND,
        Rejection::Exists { .. } | Rejection::Managed(_) | Rejection::StateVersion { .. } => {
            StatusCode::CONFLICT
        }
        Rejection::RevisionMismatch { .. } => StatusCode::PRECONDITION_FAILED,
        Rejection::RequestIdReused => StatusCode::UNPROCESSABLE_ENTITY,
        Rejection::StaleFence { .. } | Rejection::FenceMissing => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Whether a path belongs to the native API, whose errors are problem+json.
#[must_use]
pub fn is_native(path: &str) -> bool {
    path == "/api/v1" || path.starts_with("/api/v1/")
}

/// An error of the edge (access, no such route) in the format of the API to which the path belongs.
#[must_use]
pub fn edge_error(path: &str, error: CompatError) -> Response<Body> {
    if !is_native(path) {
        return error.into_response();
    }
    let kind = match error.status {
        StatusCode::UNAUTHORIZED => ProblemKind::Unauthorized,
        StatusCode::FORBIDDEN => ProblemKind::Forbidden,
        StatusCode::NOT_FOUND => ProblemKind::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => ProblemKind::MethodNotAllowed,
        StatusCode::TOO_MANY_REQUESTS => ProblemKind::TooManyRequests,
        _ => ProblemKind::Unavailable,
    };
    let mut problem = Problem::new(kind, error.message);
    problem.retry_after_s = error.retry_after_s;
    problem.into_response()
}

/// Logs the message of a handler's panic.
pub(super) fn log_panic(panic: &(dyn std::any::Any + Send)) {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    tracing::error!(panic = text, "a handler panicked");
}

/// The answer for a handler that panicked. The log has the panic itself.
pub(super) fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response<Body> {
    log_panic(panic.as_ref());
    let message = "Unknown error occured, Please try again later";
    CompatError::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_does_not_learn_what_is_wrong_with_the_disk_or_the_cluster() {
        let cause = || "/var/lib/maxine: no space left".to_owned();
        for error in [WriteError::Storage(cause()), WriteError::Refused(cause())] {
            let problem = Problem::from(error.clone());
            let compat = CompatError::from(error);
            assert!(!problem.detail.contains("/var/lib"), "{problem:?}");
            assert!(!compat.message.contains("/var/lib"), "{compat:?}");
            assert_eq!((compat.status, problem.status()), (503.try_into().unwrap(), compat.status));
            assert_eq!(compat.retry_after_s, problem.retry_after_s);
        }
    }
}
