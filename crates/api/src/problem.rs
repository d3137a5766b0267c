//! Errors for clients: `application/problem+json` (RFC 9457), with one stable `type` for each kind.
//!
//! Place in the flow: handlers of the native API return a [`Problem`]. `status_of_error.rs` makes a problem from each
//! error of the registry, the store and the state. A problem says whose fault it is and what to do, and never contains
//! a secret.

use std::borrow::Cow;
use std::fmt::Display;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use maxine_store::{Retry, WriteOutcome};
use maxine_wording::{self, JsonError, JsonFault};

/// The media type of every error of the native API.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The title of a 410 to a read with `min_index`.
const OTHER_HISTORY_TITLE: &str = "That index belongs to another history";
/// What to do after a 410 to a read with `min_index`. There is nothing to watch and no list to read first.
pub(super) const OTHER_HISTORY_ACTION: &str = "Send the request again without min_index. The answer has the present history and index in \
     x-maxine-history and x-maxine-index.";

/// The kinds of error. The meaning of a `type` never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The request is malformed, or a value has the wrong type.
    InvalidRequest,
    /// The request has a field or parameter that the route does not know.
    UnknownField,
    /// The request has no token, or one that is not accepted.
    Unauthorized,
    /// The caller's role does not allow the request.
    Forbidden,
    /// An object that the request names does not exist.
    NotFound,
    /// The path does not support the method.
    MethodNotAllowed,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The object exists already, or the cluster's state does not allow the change.
    Conflict,
    /// The account is set by the operator's environment variables.
    Managed,
    /// The changes after the requested index are no longer kept, or it belongs to another history.
    Compacted,
    /// The object does not have the revision in `If-Match`.
    RevisionMismatch,
    /// The body is too long.
    PayloadTooLarge,
    /// The route does not accept the body's media type.
    UnsupportedMediaType,
    /// A value is beyond its limit.
    LimitExceeded,
    /// The route replaces a whole document, and the request has only a part of it.
    Incomplete,
    /// The idempotency key was used for another request.
    KeyReused,
    /// The client sent too many requests.
    TooManyRequests,
    /// There is a defect in Maxine.
    Internal,
    /// The backend does not support the operation.
    NotSupported,
    /// Nothing was done. A later retry is safe.
    Unavailable,
    /// The outcome is unknown. A retry with the same idempotency key is safe.
    OutcomeUnknown,
}

impl ProblemKind {
    /// All kinds, in the order of their statuses.
    pub const ALL: [Self; 21] = [
        Self::InvalidRequest,
        Self::UnknownField,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::Managed,
        Self::Compacted,
        Self::RevisionMismatch,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::LimitExceeded,
        Self::Incomplete,
        Self::KeyReused,
        Self::TooManyRequests,
        Self::Internal,
        Self::NotSupported,
        Self::Unavailable,
        Self::OutcomeUnknown,
    ];

    /// The `type`: a URI reference that is relative to the server.
    #[must_use]
    pub fn type_uri(self) -> &'static str {
        match self {
            Self::InvalidRequest => "/problems/invalid-request",
            Self::UnknownField => "/problems/unknown-field",
            Self::Unauthorized => "/problems/unauthorized",
            Self::Forbidden => "/problems/forbidden",
            Self::NotFound => "/problems/not-found",
            Self::MethodNotAllowed => "/problems/method-not-allowed",
            Self::RequestTimeout => "/problems/request-timeout",
            Self::Conflict => "/problems/conflict",
            Self::Managed => "/problems/managed",
            Self::Compacted => "/problems/compacted",
            Self::RevisionMismatch => "/problems/revision-mismatch",
            Self::PayloadTooLarge => "/problems/payload-too-large",
            Self::UnsupportedMediaType => "/problems/unsupported-media-type",
            Self::LimitExceeded => "/problems/limit-exceeded",
            Self::Incomplete => "/problems/incomplete",
            Self::KeyReused => "/problems/key-reused",
            Self::TooManyRequests => "/problems/too-many-requests",
            Self::Internal => "/problems/internal",
            Self::NotSupported => "/problems/not-supported",
            Self::Unavailable => "/problems/unavailable",
            Self::OutcomeUnknown => "/problems/outcome-unknown",
        }
    }

    /// A general description of the kind.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "Invalid request",
            Self::UnknownField => "Unknown field",
            Self::Unauthorized => "Authentication required",
            Self::Forbidden => "Not allowed for this role",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::RequestTimeout => "Request timeout",
            Self::Conflict => "Conflict with the current state",
            Self::Managed => "Managed by the environment of the nodes",
            Self::Compacted => "No changes can be read from that index",
            Self::RevisionMismatch => "Changed by somebody else in the meantime",
            Self::PayloadTooLarge => "Body too large",
            Self::UnsupportedMediaType => "Unsupported media type",
            Self::LimitExceeded => "Limit exceeded",
            Self::Incomplete => "Incomplete document",
            Self::KeyReused => "Idempotency-Key used before",
            Self::TooManyRequests => "Too many requests",
            Self::Internal => "Internal error",
            Self::NotSupported => "Not supported by this backend",
            Self::Unavailable => "Unavailable",
            Self::OutcomeUnknown => "Outcome unknown",
        }
    }

    /// What the client can do about it.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Self::InvalidRequest => "Correct the request; /api/docs describes it.",
            Self::UnknownField => {
                "Remove the field, or correct its name; /api/docs lists the fields."
            }
            Self::Unauthorized => {
                "Sign in at POST /api/v1/session, or send an API token as Authorization: Bearer."
            }
            Self::Forbidden => "Ask an administrator for the role that the route needs.",
            Self::NotFound => "Check the path and the names in it. Upper and lower case matter.",
            Self::MethodNotAllowed => "Use a method that /api/docs lists for the path.",
            Self::RequestTimeout => {
                "Nothing was changed. Send the request again, over a faster connection or with a smaller body."
            }
            Self::Conflict => {
                "Read the current state, and decide whether the change is still needed."
            }
            Self::Managed => "Change it in the environment of every node and restart them.",
            Self::Compacted => {
                "Read the list again, and watch from the index in its x-maxine-index."
            }
            Self::RevisionMismatch => {
                "Read it again, repeat the change on the new version, and send its ETag as If-Match."
            }
            Self::PayloadTooLarge => "Send a smaller body, or split the request.",
            Self::UnsupportedMediaType => "Send JSON, with the Content-Type that the detail names.",
            Self::LimitExceeded => {
                "Correct the value as the detail says, and send the request again."
            }
            Self::Incomplete => {
                "PUT replaces the whole document. Send the missing fields too, or send only the changes with PATCH."
            }
            Self::KeyReused => {
                "Nothing was changed. Send the request with a new Idempotency-Key, unless it should repeat the first one."
            }
            Self::TooManyRequests => "Wait for the time in Retry-After.",
            Self::Internal => {
                "Report it with the trace id. Look at the current state before you repeat a change."
            }
            Self::NotSupported => "Use Raft mode for this.",
            Self::Unavailable => {
                "Nothing was changed. Repeat the request after the time in Retry-After."
            }
            Self::OutcomeUnknown => {
                "Repeat the request with the same Idempotency-Key after the time in Retry-After. It takes effect only once."
            }
        }
    }

    /// Whether the request took effect.
    #[must_use]
    pub fn outcome(self) -> WriteOutcome {
        match self {
            // A handler that failed may have written something before it failed.
            Self::OutcomeUnknown | Self::Internal => WriteOutcome::Unknown,
            Self::InvalidRequest
            | Self::UnknownField
            | Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::RequestTimeout
            | Self::Conflict
            | Self::Managed
            | Self::Compacted
            | Self::RevisionMismatch
            | Self::PayloadTooLarge
            | Self::UnsupportedMediaType
            | Self::LimitExceeded
            | Self::Incomplete
            | Self::KeyReused
            | Self::TooManyRequests
            | Self::NotSupported
            | Self::Unavailable => WriteOutcome::NotDone,
        }
    }

    /// Whether the same request can succeed later, without a change by the caller.
    #[must_use]
    pub fn retry(self) -> Retry {
        match self {
            Self::Unavailable => Retry::AnotherNode,
            Self::RequestTimeout | Self::TooManyRequests | Self::OutcomeUnknown => Retry::Later,
            Self::InvalidRequest
            | Self::UnknownField
            | Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::Conflict
            | Self::Managed
            | Self::Compacted
            | Self::RevisionMismatch
            | Self::PayloadTooLarge
            | Self::UnsupportedMediaType
            | Self::LimitExceeded
            | Self::Incomplete
            | Self::KeyReused
            | Self::Internal
            | Self::NotSupported => Retry::Never,
        }
    }

    /// The last part of `type`, which also names the page that explains the kind.
    fn slug(self) -> &'static str {
        self.type_uri().trim_start_matches("/problems/")
    }

    /// The kind whose `type` ends with `slug`.
    #[must_use]
    pub fn from_slug(slug: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.slug() == slug)
    }
}

/// An error answer.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The kind of error.
    pub kind: ProblemKind,
    /// What is wrong with this request.
    pub detail: Box<str>,
    /// A general description: that of the kind, or a more exact one.
    pub title: &'static str,
    /// What the client can do.
    pub action: &'static str,
    /// Whether the same request can succeed: by default as the kind says.
    pub retry: Retry,
    /// The field that the problem is about.
    pub field: Option<Box<str>>,
    /// Which values are allowed.
    pub limit: Option<Box<str>>,
    /// The value that was sent, shortened.
    pub value: Option<Box<str>>,
    /// How long to wait before a retry, in seconds.
    pub retry_after_s: Option<u64>,
}

/// An error answer.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
struct ProblemBody<'a> {
    /// A reference that names the kind of error. It never changes its meaning.
    #[serde(rename = "type")]
    #[schema(example = "/problems/limit-exceeded")]
    type_uri: &'a str,
    /// A general description.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request.
    detail: &'a str,
    /// What the client can do.
    action: &'a str,
    /// Whether the request took effect: `not_done`, or `unknown`.
    #[schema(inline)]
    outcome: WriteOutcome,
    /// Whether sending the same request again can help: `never`, `later`, or through `another_node`. If the outcome is
    /// unknown, repeat the request only with the same `Idempotency-Key`.
    #[schema(inline)]
    retry: Retry,
    /// The field that the error is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// Which values are allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'a str>,
    /// The value that was sent, shortened.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    /// How long to wait before a retry, in seconds, as in the `Retry-After` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let body = ProblemBody {
            type_uri: self.kind.type_uri(),
            title: self.title,
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            action: self.action_text(),
            outcome: self.kind.outcome(),
            retry: self.retry,
            field: self.field.as_deref(),
            limit: self.limit.as_deref(),
            value: self.value.as_deref(),
            retry_after_s: self.retry_after_s,
        };
        body.serialize(out)
    }
}

impl PartialSchema for Problem {
    fn schema() -> RefOr<Schema> {
        ProblemBody::<'static>::schema()
    }
}

impl ToSchema for Problem {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Problem")
    }
}

impl Problem {
    /// A problem of this kind, with the defaults of the kind.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: Into::<String>::into(detail).into(),
            title: kind.title(),
            action: kind.action(),
            retry: kind.retry(),
            field: None,
            limit: None,
            value: None,
            retry_after_s: None,
        }
    }

    /// A read asked for an index (`min_index`) of a history that is not the present one.
    #[must_use]
    pub fn of_other_history(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(ProblemKind::Compacted, detail).with_field("min_index");
        (problem.title, problem.action) = (OTHER_HISTORY_TITLE, OTHER_HISTORY_ACTION);
        problem
    }

    /// What the client can do. The text does not mention `Retry-After` if the answer does not have that header.
    fn action_text(&self) -> &'static str {
        let kinds_own = std::ptr::eq(self.action, self.kind.action());
        match self.kind {
            ProblemKind::Unavailable if kinds_own && self.retry_after_s.is_none() => {
                "Nothing was changed. Send the request to another node."
            }
            ProblemKind::TooManyRequests if kinds_own && self.retry_after_s.is_none() => {
                "Wait for a moment, then send the request again."
            }
            _ => self.action,
        }
    }

    /// Sets the field that the problem is about.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<Box<str>>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Sets `Retry-After`, in seconds. Then a retry on the same node can help, too.
    #[must_use]
    pub fn with_retry_after_s(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        if self.retry == Retry::AnotherNode {
            self.retry = Retry::Later;
        }
        self
    }

    /// A problem for a request that names an object which does not exist.
    #[must_use]
    pub fn not_found(kind: &str, name: &str) -> Self {
        Self::new(ProblemKind::NotFound, format!("{kind} {name} does not exist"))
    }

    /// A problem for a request that cannot be parsed. An unknown field has a kind of its own. `message` may begin with
    /// the field's path and a colon.
    #[must_use]
    pub fn from_parse_error(message: &str) -> Self {
        let (path, text) = match message.split_once(": ") {
            Some((path, text)) if !path.contains([' ', '`']) => (path, text),
            _ => ("", message),
        };
        maxine_wording::complaint(path, text).into()
    }

    /// A problem for a `value` of `field` that is outside `limit`.
    pub fn limit(field: &str, limit: &str, value: impl Display) -> Self {
        let value = value.to_string();
        let detail = format!("{field} must be {limit}, got {value}");
        let mut problem = Self::new(ProblemKind::LimitExceeded, detail);
        problem.field = Some(field.into());
        problem.limit = Some(limit.into());
        problem.value = Some(value.into());
        problem
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // A struct of texts and numbers can always be serialized.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let content_type = HeaderValue::from_static(PROBLEM_JSON);
        let mut response =
            (self.status(), [(header::CONTENT_TYPE, content_type)], body).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status() == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<JsonError> for Problem {
    fn from(error: JsonError) -> Self {
        let kind = match error.fault {
            JsonFault::UnknownField => ProblemKind::UnknownField,
            JsonFault::MissingField | JsonFault::Other => ProblemKind::InvalidRequest,
        };
        let problem = Self::new(kind, error.text.escape_debug().to_string().replace("\\\"", "\""));
        match error.field {
            Some(field) => problem.with_field(field.escape_debug().to_string()),
            None => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let problem = Problem::from_parse_error("unknown field `wieght`, expected one of `weight`");
        assert_eq!(problem.kind, ProblemKind::UnknownField);
        assert_eq!(problem.field.as_deref(), Some("wieght"));
    }

    #[test]
    fn no_answer_mentions_a_header_that_it_does_not_have() {
        for kind in ProblemKind::ALL {
            let without = Problem::new(kind, "x");
            let json = serde_json::to_value(&without).unwrap();
            let names_retry = json["action"].as_str().unwrap().contains("Retry-After");
            // An answer with an unknown outcome always says when to check again.
            assert_eq!(names_retry, kind == ProblemKind::OutcomeUnknown, "{json}");
            let response = without.with_retry_after_s(3).into_response();
            assert_eq!(response.headers()[header::RETRY_AFTER], "3", "{kind:?}");
        }
    }

    #[test]
    fn a_read_of_another_history_is_told_to_ask_without_min_index() {
        let read = serde_json::to_value(Problem::of_other_history("x")).unwrap();
        assert_eq!((&read["type"], &read["status"]), (&"/problems/compacted".into(), &410.into()));
        assert_eq!(read["title"], "That index belongs to another history");
        let action = read["action"].as_str().unwrap();
        assert!(action.starts_with("Send the request again without min_index."), "{action}");
        let watch = serde_json::to_value(Problem::new(ProblemKind::Compacted, "x")).unwrap();
        assert_eq!(watch["title"], "No changes can be read from that index");
        assert!(watch["action"].as_str().unwrap().contains("watch from the index"), "{watch}");
    }

    #[test]
    fn every_kind_is_found_by_its_slug() {
        for kind in ProblemKind::ALL {
            assert_eq!(ProblemKind::from_slug(kind.slug()), Some(kind));
        }
        assert_eq!(ProblemKind::from_slug("nonsense"), None);
    }

    #[test]
    fn hostile_text_stays_out_of_headers_and_lines() {
        let problem = Problem::from_parse_error("unknown field `a\r\nx: y`");
        assert!(!problem.detail.contains('\n'));
    }
}
