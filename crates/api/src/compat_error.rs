//! Converts errors to answers: `{"message": TEXT}` for the compatible API, and problem+json for the native one.

use axum::body::Body;
use axum::http::header::{self, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;

use super::problem::{Problem, ProblemKind};
use maxine_actors::WriteError;
use maxine_store::{Retry, WriteOutcome};

/// `Content-Type` of the compatible API's answers.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// `X-Content-Type-Options` for every answer of Maxine itself. The edge adds it. Only code whose answers do not pass
/// the edge sets it itself.
pub const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Kinds of problems for which the compatible API has another status than the native one, because existing clients
/// expect it.
const OWN_STATUSES: [(ProblemKind, StatusCode); 1] =
    [(ProblemKind::LimitExceeded, StatusCode::BAD_REQUEST)];

/// An error of the compatible API. Its clients see the status, `message` and `Retry-After`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompatError {
    /// The status.
    pub status: StatusCode,
    /// The text of `message`.
    pub message: String,
    /// Whether the request took effect.
    pub outcome: WriteOutcome,
    /// Whether sending the same request again can help.
    pub retry: Retry,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
}

impl CompatError {
    /// An error with a text. Its outcome and retry follow from the status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = ProblemKind::of_status(status);
        let (outcome, retry) = (kind.outcome(), kind.retry());
        Self { status, message: message.into(), outcome, retry, retry_after_s: None }
    }

    /// Sets `Retry-After`, in seconds. Then a retry on the same node can help, too.
    #[must_use]
    pub fn with_retry_after_s(mut self, retry_after_s: Option<u64>) -> Self {
        self.retry_after_s = retry_after_s;
        if retry_after_s.is_some() && self.retry == Retry::AnotherNode {
            self.retry = Retry::Later;
        }
        self
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

    /// 503 `Service Unavailable`: the service has no instance that can be used.
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
        let kind = ProblemKind::of_write(&error);
        let own = OWN_STATUSES.iter().find(|(other, _)| *other == kind);
        let status = own.map_or(kind.status(), |(_, status)| *status);
        // These causes are logged on the node. Clients must not see them.
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
        Self {
            status,
            message,
            outcome: error.outcome(),
            retry: error.retry(),
            retry_after_s: error.retry_after_s(),
        }
    }
}

/// Whether a path belongs to the native API, whose errors are problem+json.
#[must_use]
pub fn is_native(path: &str) -> bool {
    path == "/api/v1" || path.starts_with("/api/v1/")
}

/// An error of the edge (no access, no such route) in the format of the API to which the path belongs.
#[must_use]
pub fn edge_error(path: &str, error: CompatError) -> Response<Body> {
    if !is_native(path) {
        return error.into_response();
    }
    let mut problem = Problem::new(ProblemKind::of_status(error.status), error.message);
    problem.retry = error.retry;
    problem.retry_after_s = error.retry_after_s;
    problem.into_response()
}

/// Logs the message of a handler's panic.
pub(super) fn log_panic(panic: &(dyn std::any::Any + Send)) {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    tracing::error!(panic = text, "a handler panicked");
}

/// The answer for a handler that panicked. The panic itself is only logged.
pub(super) fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response<Body> {
    log_panic(panic.as_ref());
    let message = "Unknown error occured, Please try again later";
    CompatError::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use maxine_state::{Limit, LimitExceeded, ObjectKind, Rejection};

    fn rejections() -> Vec<Rejection> {
        let (kind, name) = (ObjectKind::Service, Box::<str>::from("orders"));
        vec![
            Rejection::Limit(LimitExceeded::new("weight", Limit::Range { min: 1, max: 9 }, 10)),
            Rejection::NotFound { kind, name: name.clone() },
            Rejection::Exists { kind, name: name.clone() },
            Rejection::RevisionMismatch { expected: 1, actual: 2 },
            Rejection::StaleFence { got: 1, current: 2 },
            Rejection::FenceMissing,
            Rejection::Managed(name),
            Rejection::StateVersion { needs: 2, has: 1 },
            Rejection::RequestIdReused,
        ]
    }

    /// One of each kind.
    pub(crate) fn write_errors() -> Vec<WriteError> {
        let rejected = |rejection| WriteError::Rejected { rejection, index: 1 };
        let mut errors = vec![
            WriteError::Unavailable { retry_after_s: 2, reason: "no leader is known".into() },
            WriteError::Overloaded { retry_after_s: 2 },
            WriteError::AddressOverloaded { retry_after_s: 2 },
            WriteError::TooManyChanges { retry_after_s: 2 },
            WriteError::OutcomeUnknown { retry_after_s: 2 },
            WriteError::TooLarge { len: 2, max: 1 },
            WriteError::Refused("x".into()),
            WriteError::Storage("x".into()),
        ];
        errors.extend(rejections().into_iter().map(rejected));
        errors
    }

    #[test]
    fn both_apis_answer_a_failed_write_alike_except_where_clients_know_another_status() {
        for error in write_errors() {
            let problem = Problem::from(error.clone());
            let compat = CompatError::from(error.clone());
            let statuses = (problem.status().as_u16(), compat.status.as_u16());
            let expected = match &error {
                WriteError::Rejected { rejection, .. } => match rejection {
                    Rejection::Limit(_) => (422, 400),
                    Rejection::NotFound { .. } => (404, 404),
                    Rejection::Exists { .. }
                    | Rejection::Managed(_)
                    | Rejection::StateVersion { .. } => (409, 409),
                    Rejection::RevisionMismatch { .. } => (412, 412),
                    Rejection::RequestIdReused => (422, 422),
                    Rejection::StaleFence { .. } | Rejection::FenceMissing => (503, 503),
                },
                WriteError::TooLarge { .. } => (413, 413),
                WriteError::TooManyChanges { .. } => (429, 429),
                WriteError::Unavailable { .. }
                | WriteError::Overloaded { .. }
                | WriteError::AddressOverloaded { .. }
                | WriteError::OutcomeUnknown { .. }
                | WriteError::Refused(_)
                | WriteError::Storage(_) => (503, 503),
            };
            assert_eq!(statuses, expected, "{error:?}");
            assert_eq!(compat.outcome, problem.kind.outcome(), "{error:?}");
            assert_eq!(compat.retry, problem.retry, "{error:?}");
            assert_eq!(compat.retry_after_s, problem.retry_after_s, "{error:?}");
        }
    }

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
