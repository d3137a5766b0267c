//! Converts errors of the layers below to problems: rejections, failed writes and failed reads. Also has the status
//! code of each kind of problem.
//!
//! Place in the flow: every error that a write, a read or a membership change returns to a client passes through this
//! file, for both APIs.

use axum::http::StatusCode;

use super::problem::{Problem, ProblemKind};
use maxine_actors::WriteError;
use maxine_state::{LimitExceeded, Rejection};
use maxine_store::{AdminError, CallError, ReadError, Retry, WriteOutcome};
use maxine_view::NotReached;

impl ProblemKind {
    /// The HTTP status of the kind.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest | Self::UnknownField => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict | Self::Managed => StatusCode::CONFLICT,
            Self::Compacted => StatusCode::GONE,
            Self::RevisionMismatch => StatusCode::PRECONDITION_FAILED,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::LimitExceeded | Self::Incomplete | Self::KeyReused => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotSupported => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable | Self::OutcomeUnknown => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The kind of a rejection. Both APIs derive their statuses from it.
    #[must_use]
    pub fn of_rejection(rejection: &Rejection) -> Self {
        match rejection {
            Rejection::Limit(_) => Self::LimitExceeded,
            Rejection::NotFound { .. } => Self::NotFound,
            Rejection::Exists { .. } | Rejection::StateVersion { .. } => Self::Conflict,
            Rejection::RevisionMismatch { .. } => Self::RevisionMismatch,
            Rejection::Managed(_) => Self::Managed,
            Rejection::RequestIdReused => Self::KeyReused,
            // The node that sent the command is no longer the leader. Another node is, or will be.
            Rejection::StaleFence { .. } | Rejection::FenceMissing => Self::Unavailable,
        }
    }

    /// The kind of a failed write. Both APIs derive their statuses from it.
    #[must_use]
    pub fn of_write(error: &WriteError) -> Self {
        match error {
            WriteError::Rejected { rejection, .. } => Self::of_rejection(rejection),
            WriteError::TooLarge { .. } => Self::PayloadTooLarge,
            WriteError::TooManyChanges { .. } => Self::TooManyRequests,
            WriteError::Unavailable { .. }
            | WriteError::Overloaded { .. }
            | WriteError::AddressOverloaded { .. }
            | WriteError::Refused(_) => Self::Unavailable,
            WriteError::OutcomeUnknown { .. } | WriteError::Storage(_) => Self::OutcomeUnknown,
        }
    }

    /// The kind of an error of which only the status is known.
    #[must_use]
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthorized,
            StatusCode::FORBIDDEN => Self::Forbidden,
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::REQUEST_TIMEOUT => Self::RequestTimeout,
            StatusCode::CONFLICT => Self::Conflict,
            StatusCode::PAYLOAD_TOO_LARGE => Self::PayloadTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            StatusCode::TOO_MANY_REQUESTS => Self::TooManyRequests,
            StatusCode::INTERNAL_SERVER_ERROR => Self::Internal,
            StatusCode::NOT_IMPLEMENTED => Self::NotSupported,
            status if status.is_client_error() => Self::InvalidRequest,
            _ => Self::Unavailable,
        }
    }
}

impl From<LimitExceeded> for Problem {
    fn from(error: LimitExceeded) -> Self {
        Self::limit(error.field.as_str(), &error.limit.to_string(), error.given())
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let detail = rejection.to_string();
        let mut problem = Self::new(ProblemKind::of_rejection(&rejection), detail);
        match rejection {
            Rejection::Limit(limit) => return limit.into(),
            // This is the answer that `If-None-Match: *` asks for. Nobody has changed the object.
            Rejection::RevisionMismatch { expected: 0, .. } => {
                problem.title = "It exists already";
                problem.action = "Read it. To replace it, send its ETag as If-Match.";
            }
            Rejection::RequestIdReused => return problem.with_field("Idempotency-Key"),
            Rejection::StateVersion { .. } => {
                problem.action = "Upgrade every node, finish the upgrade (maxine cluster upgrade finish), and send the request again.";
            }
            Rejection::NotFound { .. }
            | Rejection::Exists { .. }
            | Rejection::RevisionMismatch { .. }
            | Rejection::Managed(_)
            | Rejection::StaleFence { .. }
            | Rejection::FenceMissing => {}
        }
        problem
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        let (kind, retry_after_s) = (ProblemKind::of_write(&error), error.retry_after_s());
        let detail = match error {
            WriteError::Rejected { rejection, .. } => return rejection.into(),
            WriteError::Unavailable { reason, .. } => reason,
            WriteError::Overloaded { .. } => "too many writes are in flight".into(),
            WriteError::AddressOverloaded { .. } => {
                "too many writes from your address are in flight".into()
            }
            WriteError::OutcomeUnknown { .. } => {
                "the outcome is unknown: the write may or may not take effect".into()
            }
            WriteError::TooLarge { .. } | WriteError::TooManyChanges { .. } => error.to_string(),
            // The causes of these two are logged on the node. Clients must not see them.
            WriteError::Refused(_) => {
                "the leader does not accept this kind of write from this node".into()
            }
            WriteError::Storage(_) => {
                "this node's storage failed: the write may or may not take effect".into()
            }
        };
        let problem = Self::new(kind, detail);
        match retry_after_s {
            Some(seconds) => problem.with_retry_after_s(seconds),
            None => problem,
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let problem = Self::new(ProblemKind::Unavailable, error.to_string());
        match error.retry() {
            Retry::Later => problem.with_retry_after_s(1),
            Retry::AnotherNode | Retry::Never => problem,
        }
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let kind = match error.outcome() {
            WriteOutcome::NotDone => ProblemKind::Unavailable,
            WriteOutcome::Unknown => ProblemKind::OutcomeUnknown,
        };
        let mut problem = Self::new(kind, error.to_string());
        problem.retry = error.retry();
        match error.retry() {
            Retry::Later => problem.with_retry_after_s(1),
            Retry::AnotherNode | Retry::Never => problem,
        }
    }
}

impl From<NotReached> for Problem {
    fn from(error: NotReached) -> Self {
        Self::new(ProblemKind::Unavailable, error.to_string())
            .with_field("min_index")
            .with_retry_after_s(1)
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        match &error {
            AdminError::Invalid(text) => Self::new(ProblemKind::Conflict, text.clone()),
            AdminError::NotFound(text) => Self::new(ProblemKind::NotFound, text.clone()),
            AdminError::NoSpace(text) => {
                let mut problem = Self::new(ProblemKind::Conflict, text.clone());
                problem.title = "Not enough free space";
                problem.action = "Nothing was changed. Free space on that disk of the node, and send the request again.";
                problem
            }
            AdminError::Unavailable(_) => {
                Self::new(ProblemKind::Unavailable, error.to_string()).with_retry_after_s(1)
            }
            AdminError::OutcomeUnknown(_) => {
                let mut problem = Self::new(ProblemKind::OutcomeUnknown, error.to_string());
                problem.action = "Look at GET /api/v1/cluster/status before repeating it.";
                problem.retry = error.retry();
                problem.with_retry_after_s(5)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxine_state::Limit;

    #[test]
    fn a_problem_says_what_the_error_says() {
        for error in crate::compat_error::tests::write_errors() {
            let problem = Problem::from(error.clone());
            assert_eq!(problem.kind, ProblemKind::of_write(&error), "{error:?}");
            assert_eq!(problem.kind.outcome(), error.outcome(), "{error:?}");
            assert_eq!(problem.retry, error.retry(), "{error:?}");
            assert_eq!(problem.retry_after_s, error.retry_after_s(), "{error:?}");
        }
        for error in [
            ReadError::NoLeader,
            ReadError::StoreUnavailable,
            ReadError::Behind,
            ReadError::ShuttingDown,
        ] {
            let problem = Problem::from(error.clone());
            assert_eq!(problem.kind.outcome(), WriteOutcome::NotDone, "{error:?}");
            assert_eq!(problem.retry, error.retry(), "{error:?}");
        }
        let admin_errors: [fn(String) -> AdminError; 5] = [
            AdminError::Invalid,
            AdminError::NotFound,
            AdminError::NoSpace,
            AdminError::Unavailable,
            AdminError::OutcomeUnknown,
        ];
        for error in admin_errors.map(|error| error("x".into())) {
            let problem = Problem::from(error.clone());
            assert_eq!(problem.kind.outcome(), error.outcome(), "{error:?}");
            assert_eq!(problem.retry, error.retry(), "{error:?}");
        }
        let call_errors: [fn(String) -> CallError; 4] =
            [CallError::Unsendable, CallError::NoAnswer, CallError::Refused, CallError::Unreadable];
        let call_errors = call_errors.map(|error| error("x".into()));
        for error in [CallError::Unreachable, CallError::Overloaded].into_iter().chain(call_errors)
        {
            let problem = Problem::from(error.clone());
            assert_eq!(problem.kind.outcome(), error.outcome(), "{error:?}");
            assert_eq!(problem.retry, error.retry(), "{error:?}");
        }
        let json = |problem: Problem| serde_json::to_value(&problem).unwrap();
        let refused = json(WriteError::Refused("x".into()).into());
        assert_eq!(
            (&refused["outcome"], &refused["retry"]),
            (&"not_done".into(), &"another_node".into())
        );
        let full = json(AdminError::NoSpace("it needs 9 MiB".into()).into());
        assert_eq!((&full["outcome"], &full["retry"]), (&"not_done".into(), &"never".into()));
        assert_eq!(full["title"], "Not enough free space");
        let unknown = json(AdminError::OutcomeUnknown("x".into()).into());
        assert_eq!((&unknown["outcome"], &unknown["retry"]), (&"unknown".into(), &"never".into()));
    }

    #[test]
    fn an_object_that_exists_is_not_reported_as_changed_by_somebody_else() {
        let title_at = |expected| {
            let problem = Problem::from(Rejection::RevisionMismatch { expected, actual: 17 });
            serde_json::to_value(&problem).unwrap()["title"].as_str().unwrap().to_owned()
        };
        assert_eq!(title_at(0), "It exists already");
        assert_eq!(title_at(16), "Changed by somebody else in the meantime");
    }

    #[test]
    fn a_limit_names_field_limit_and_value() {
        let limit = LimitExceeded::new("weight", Limit::Range { min: 1, max: 100 }, 101);
        let problem = Problem::from(limit);
        assert_eq!(problem.status(), 422);
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["field"], "weight");
        assert_eq!(json["limit"], "from 1 to 100");
        assert_eq!(json["value"], "101");
    }
}
