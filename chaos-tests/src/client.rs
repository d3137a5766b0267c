//! A client of the native API that distinguishes three outcomes.
//!
//! A missing answer is not a failure, because the write may have taken effect. So an outcome is success, no
//! effect, or unknown, and the checks rely on the difference.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It was answered with success.
    Ok {
        /// The body of the answer.
        body: Value,
        /// The index of the state in the answer.
        index: u64,
    },
    /// It had no effect: it was refused, or never received.
    Refused {
        /// The HTTP status; 0 if no connection was made.
        status: u16,
        /// The type of the problem, or the error.
        reason: String,
    },
    /// It may have taken effect, or may still do so.
    Unknown(String),
}

impl Outcome {
    /// Whether it was answered with success.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Ok { .. })
    }

    /// The body of a success.
    pub fn body(&self) -> Option<&Value> {
        match self {
            Self::Ok { body, .. } => Some(body),
            _ => None,
        }
    }
}

/// A client of one node.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<str>,
    token: Option<Arc<str>>,
}

/// Maximum length of an answer, in bytes.
const BODY_LEN_MAX: usize = 64 * 1024 * 1024;

impl Client {
    /// A client for `base`, with this time limit for requests.
    pub fn new(base: &str, timeout: Duration) -> anyhow::Result<Self> {
        // If a provider is installed already, it is the same one, so the error does not matter.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout.min(Duration::from_secs(2)))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, base: base.into(), token: None })
    }

    /// The same client with a session's token.
    #[must_use]
    pub fn with_token(&self, token: Arc<str>) -> Self {
        Self { token: Some(token), ..self.clone() }
    }

    /// The base URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Reads `path`.
    pub async fn get(&self, path: &str) -> Outcome {
        outcome(self.request(Method::GET, path)).await
    }

    /// Reads `path` as text; `None` if it is not answered with success.
    pub async fn text(&self, path: &str) -> Option<String> {
        let response = self.request(Method::GET, path).send().await.ok()?;
        response.error_for_status().ok()?.text().await.ok()
    }

    /// Writes `body` to `path`, with `headers`.
    pub async fn put(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Outcome {
        outcome(with(self.request(Method::PUT, path).json(body), headers)).await
    }

    /// Posts `body` to `path`, with `headers`.
    pub async fn post(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Outcome {
        outcome(with(self.request(Method::POST, path).json(body), headers)).await
    }

    /// Deletes `path`.
    pub async fn delete(&self, path: &str) -> Outcome {
        outcome(self.request(Method::DELETE, path)).await
    }

    /// Reads all pages of the list at `path`, each with the freshness that `path` asks for.
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, Outcome> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        let joint = if path.contains('?') { '&' } else { '?' };
        loop {
            let page = match &cursor {
                Some(cursor) => format!("{path}{joint}limit=1000&cursor={cursor}"),
                None => format!("{path}{joint}limit=1000"),
            };
            let answer = self.get(&page).await;
            let Outcome::Ok { mut body, .. } = answer else { return Err(answer) };
            if let Some(Value::Array(page)) = body.get_mut("items").map(Value::take) {
                items.extend(page);
            }
            match body.get("next_cursor").and_then(Value::as_str) {
                Some(next) => cursor = Some(next.to_owned()),
                None => return Ok(items),
            }
        }
    }
}

fn with(request: RequestBuilder, headers: &[(&str, &str)]) -> RequestBuilder {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

async fn outcome(request: RequestBuilder) -> Outcome {
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() => {
            return Outcome::Refused { status: 0, reason: "no connection".into() };
        }
        Err(error) => return Outcome::Unknown(error_text(&error)),
    };
    let status = response.status();
    let index = response.headers().get("x-maxine-index");
    let index = index.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
    if response.content_length().is_some_and(|len| len > BODY_LEN_MAX as u64) {
        return Outcome::Unknown("the answer is too long".into());
    }
    let bytes = match response.bytes().await {
        Ok(bytes) => bytes,
        // The status was received, so a success is certain. Its content is lost.
        Err(error) => return Outcome::Unknown(error_text(&error)),
    };
    let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if status.is_success() {
        return Outcome::Ok { body, index };
    }
    let problem = body.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let definite = status.is_client_error()
        || (status == StatusCode::SERVICE_UNAVAILABLE && problem == "/problems/unavailable");
    if definite {
        return Outcome::Refused { status: status.as_u16(), reason: problem };
    }
    Outcome::Unknown(format!("{status} {problem}"))
}

fn error_text(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() { "timeout" } else { "connection lost" };
    kind.to_owned()
}
