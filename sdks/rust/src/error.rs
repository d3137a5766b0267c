//! Why a request did not succeed.

use reqwest::StatusCode;
use serde_json::Value;

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The answer is an error.
    #[error("{status}: {message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The server's text.
        message: String,
        /// The `application/problem+json` of the answer, or null if it was something else.
        problem: Value,
    },
    /// The server could not be reached, or its answer was not valid HTTP.
    #[error(transparent)]
    Transport(#[from] reqwest::Error),
    /// In a URL this name means another path. Nothing was sent.
    #[error("{0:?} cannot be a name")]
    Name(String),
    /// The answer does not have the expected content.
    #[error("an answer that cannot be read: {0}")]
    Malformed(String),
    /// No node has answered in time.
    #[error("no node has answered in time")]
    Late,
    /// There is no token to send. No node was asked.
    #[error("no token: {0}")]
    Token(String),
    /// No instance of this service gets traffic. Nothing was sent.
    #[error("no instance of {0} gets traffic")]
    NoInstance(String),
    /// The settings of the client cannot be used.
    #[error("{0}")]
    Settings(String),
}

impl Error {
    /// The status, if the server refused the request.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The error of an answer with this status and content.
    pub(crate) fn of_answer(status: StatusCode, text: &str) -> Self {
        let body: Value = serde_json::from_str(text).unwrap_or_default();
        let server_text = ["message", "detail"].into_iter().find_map(|field| body[field].as_str());
        let message = server_text.unwrap_or(text).into();
        let problem = if body["detail"].is_string() { body } else { Value::Null };
        Self::Refused { status, message, problem }
    }
}

/// The text of an error with those of its causes.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn an_error_has_the_words_of_the_server() {
        let problem = r#"{"detail": "no leader", "code": "no_leader"}"#;
        let error = Error::of_answer(StatusCode::SERVICE_UNAVAILABLE, problem);
        assert_eq!(error.to_string(), "503 Service Unavailable: no leader");
        assert!(matches!(error, Error::Refused { problem, .. } if problem["code"] == "no_leader"));
        let error = Error::of_answer(StatusCode::BAD_GATEWAY, "<html>");
        assert_eq!(error.status().unwrap(), StatusCode::BAD_GATEWAY);
        assert!(matches!(error, Error::Refused { problem: Value::Null, .. }));
    }
}
