//! A problem answer (RFC 9457) as the client sees it, and what it means for the exit code.

use serde::Deserialize;
use serde_json::Value;

use crate::cli::exit;
use maxine_store::{Retry, WriteOutcome};

/// A node's answer that is not a success.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The cause in this case.
    pub detail: String,
    /// What to do, according to the server.
    pub action: String,
    /// Whether the request took effect; `None` if the answer does not say.
    pub outcome: Option<WriteOutcome>,
    /// Whether a retry can help; `None` if the answer does not say.
    pub retry: Option<Retry>,
    /// Time to wait before a retry, in seconds.
    pub retry_after_s: Option<u64>,
    /// The time of the server when it answered, in milliseconds since 1970, to the second.
    #[serde(skip)]
    pub date_ms: Option<u64>,
    /// The unchanged body.
    #[serde(skip)]
    pub raw: Value,
    /// Whether the request had a password, so that the advice to sign in does not help.
    #[serde(skip)]
    pub is_of_sign_in: bool,
    /// Whether the answer is a web page. No Maxine node sends one to this client.
    #[serde(skip)]
    pub is_web_page: bool,
    /// Whether the request was to change something only if it does not exist.
    #[serde(skip)]
    pub is_of_creation: bool,
    /// What to tell the user if the copy that this answer rests on may be old.
    #[serde(skip)]
    pub stale_note: Option<String>,
}

/// The text for an answer that no Maxine node would give.
pub(super) const NOT_MAXINE: &str = "the answer is not JSON: is this a Maxine node?";

/// How the answer of a node begins that has too many connections to read a request.
const TOO_MANY: &str = "too many connections are open";

impl Problem {
    /// Reads the body of an answer. A body that is not a problem document also becomes a problem, with the
    /// status in words.
    #[must_use]
    pub fn read(status: u16, body: Value, retry_after_s: Option<u64>) -> Self {
        let mut problem: Self = serde_json::from_value(body.clone()).unwrap_or_default();
        problem.status = status;
        problem.retry_after_s = problem.retry_after_s.or(retry_after_s);
        if problem.detail.is_empty() {
            problem.detail = match &body {
                // A node that is not ready says why in `reason`.
                Value::Object(object) => ["message", "reason"]
                    .iter()
                    .find_map(|name| object.get(*name))
                    .and_then(Value::as_str)
                    .map_or_else(|| problem.title.clone(), str::to_owned),
                Value::String(text) if text.trim_start().starts_with('<') => {
                    problem.is_web_page = true;
                    NOT_MAXINE.into()
                }
                Value::String(text) => text.chars().take(300).collect(),
                _ => String::new(),
            };
        }
        problem.raw = body;
        problem
    }

    /// Whether the answer can be a Maxine node's: a problem document, or that of a node that is not ready. What a proxy
    /// in front of it says is not its answer.
    #[must_use]
    pub fn is_of_maxine(&self) -> bool {
        self.raw["type"].as_str().is_some_and(|kind| kind.contains("/problems/"))
            || self.raw["ready"].is_boolean()
            || self.raw["message"].as_str().is_some_and(|text| text.starts_with(TOO_MANY))
    }

    /// Whether the server says that the write may have taken effect.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        self.outcome == Some(WriteOutcome::Unknown)
    }

    /// Whether another node, or the same node later, can probably serve the same request.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self.retry {
            Some(retry) => retry != Retry::Never,
            // The answer is not from a node, but from a proxy in between.
            None => matches!(self.status, 429 | 502 | 503 | 504),
        }
    }

    /// Whether the answer to a read rests on the node's copy of the state, so that a newer copy may answer otherwise:
    /// an object or an account that the copy does not have.
    #[must_use]
    pub fn is_of_the_copy(&self) -> bool {
        matches!(self.status, 401 | 403 | 404 | 410)
    }

    /// The exit code for this problem.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.is_outcome_unknown() {
            return exit::OUTCOME_UNKNOWN;
        }
        match self.status {
            429 if self.is_of_sign_in => exit::REFUSED,
            429 | 502..=504 => exit::UNAVAILABLE,
            _ if self.is_web_page => exit::FAILURE,
            404 | 410 => exit::NOT_FOUND,
            400..=499 | 501 => exit::REFUSED,
            _ => exit::FAILURE,
        }
    }

    /// What to do. Where the server's advice would be about HTTP, it is about the command line instead.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self.status {
            401 if !self.is_of_sign_in => Some(
                "sign in with 'maxine login --user NAME', or give a token with MAXINE_TOKEN or --token-file".into(),
            ),
            // The detail of a node says that it exists already, or to read it again.
            412 if self.is_of_maxine() => None,
            412 if self.is_of_creation => Some("it exists already, and nothing was changed".into()),
            412 => Some("it has another revision than the change expects: read it again, then repeat the change".into()),
            404 if self.action.contains("the path") => {
                Some("check the name; upper and lower case matter".into())
            }
            _ if self.action.is_empty() => None,
            _ if self.action.contains("Retry-After") => Some(self.when_to_repeat()),
            _ => Some(self.action.clone()),
        }
    }

    /// When to repeat the command. The user does not see the header that the node's advice names.
    fn when_to_repeat(&self) -> String {
        if self.is_outcome_unknown() {
            return "look whether the change was made before you repeat it".into();
        }
        let when = match self.retry_after_s {
            Some(seconds) => format!("in {seconds} s"),
            None => "later".to_owned(),
        };
        match self.status {
            429 => format!("try again {when}"),
            _ => format!("nothing was changed; try again {when}"),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.detail.is_empty(), self.title.is_empty()) {
            (false, _) => f.write_str(&self.detail)?,
            (true, false) => f.write_str(&self.title)?,
            (true, true) => f.write_str("the node gave no reason")?,
        }
        write!(f, " (HTTP {})", self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn statuses_map_to_exit_codes() {
        for (status, code) in [
            (404, 3),
            (410, 3),
            (503, 4),
            (429, 4),
            (401, 5),
            (412, 5),
            (422, 5),
            (501, 5),
            (500, 1),
        ] {
            assert_eq!(Problem::read(status, Value::Null, None).exit_code(), code, "{status}");
        }
        let unknown = json!({"outcome": "unknown", "retry": "never", "status": 503});
        let unknown = Problem::read(503, unknown, None);
        assert_eq!((unknown.exit_code(), unknown.is_passing()), (6, false));
        let elsewhere = json!({"outcome": "not_done", "retry": "another_node", "status": 503});
        let elsewhere = Problem::read(503, elsewhere, None);
        assert_eq!((elsewhere.exit_code(), elsewhere.is_passing()), (4, true));
    }

    #[test]
    fn a_failed_sign_in_is_not_answered_with_the_advice_to_sign_in() {
        let body = json!({"type": "/problems/unauthorized", "action": "check both"});
        let problem = Problem::read(401, body, None);
        assert!(problem.advice().unwrap().contains("maxine login"));
        let problem = Problem { is_of_sign_in: true, ..problem };
        assert_eq!(problem.advice().unwrap(), "check both");
    }

    #[test]
    fn what_exists_already_has_no_other_revision() {
        let problem = Problem { is_of_creation: true, ..Problem::read(412, Value::Null, None) };
        assert!(problem.advice().unwrap().contains("it exists already"));
        assert!(
            Problem::read(412, Value::Null, None).advice().unwrap().contains("another revision")
        );
    }

    /// Regression: the advice after a 412 repeated the sentence of the node.
    #[test]
    fn the_advice_does_not_repeat_what_the_node_said() {
        let detail = "the revision is 5, not 3; read it again and repeat the change";
        let body = json!({"type": "/problems/revision-mismatch", "detail": detail, "action": "x"});
        for is_of_creation in [false, true] {
            let problem = Problem { is_of_creation, ..Problem::read(412, body.clone(), None) };
            assert_eq!(
                (problem.to_string(), problem.advice()),
                (format!("{detail} (HTTP 412)"), None)
            );
        }
    }

    /// Regression: the advice named a header and a path, which a user of the command line does not see.
    #[test]
    fn the_advice_names_no_header_and_no_path() {
        let advice = |status: u16, action: &str, outcome: Value, retry_after_s| {
            let body = json!({"action": action, "outcome": outcome});
            Problem::read(status, body, retry_after_s).advice().unwrap()
        };
        let unavailable = "Nothing was changed. Repeat the request after the time in Retry-After.";
        let not_done = json!("not_done");
        let said = advice(503, unavailable, not_done.clone(), Some(2));
        assert_eq!(said, "nothing was changed; try again in 2 s");
        let said = advice(503, unavailable, not_done.clone(), None);
        assert_eq!(said, "nothing was changed; try again later");
        let said = advice(429, "Wait for the time in Retry-After.", not_done.clone(), Some(60));
        assert_eq!(said, "try again in 60 s");
        let unknown =
            "Repeat the request with the same Idempotency-Key after the time in Retry-After.";
        let said = advice(503, unknown, json!("unknown"), Some(1));
        assert_eq!(said, "look whether the change was made before you repeat it");
        let missing = "Check the path and the names in it. Upper and lower case matter.";
        let said = advice(404, missing, not_done, None);
        assert_eq!(said, "check the name; upper and lower case matter");
    }

    #[test]
    fn answers_that_are_no_problem_document_are_told_too() {
        assert_eq!(
            Problem::read(503, json!({"message": "Service Unavailable"}), None).to_string(),
            "Service Unavailable (HTTP 503)"
        );
        assert_eq!(
            Problem::read(502, json!("bad gateway"), None).to_string(),
            "bad gateway (HTTP 502)"
        );
        // Another program listens there. So the exit code must not mean that an object is missing or that the
        // cluster refused.
        for status in [404, 405, 501] {
            let page = json!("\n<!DOCTYPE html>\n<html><body>\n<h1>Error</h1>\n</body></html>");
            let problem = Problem::read(status, page, None);
            let expected =
                format!("the answer is not JSON: is this a Maxine node? (HTTP {status})");
            assert_eq!((problem.to_string(), problem.exit_code()), (expected, exit::FAILURE));
        }
        assert_eq!(
            Problem::read(500, Value::Null, None).to_string(),
            "the node gave no reason (HTTP 500)"
        );
    }
}
