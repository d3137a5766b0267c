//! Sends a request to one node after another, until one gives an answer that is not only a matter of that node.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use http::HeaderMap;
use reqwest::{Method, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use crate::clock;
use crate::error::{Error, with_causes};
use crate::options::{Attempt, Options};
use crate::order::Order;
use crate::tls;
use crate::trace::{Outcome, Span, Traced};

/// A request to the nodes. It may arrive more than once.
pub(crate) struct Asked<'a> {
    pub(crate) method: Method,
    /// The path, with the query.
    pub(crate) path: &'a str,
    pub(crate) body: Option<&'a Value>,
    /// The limit of the call with all its attempts; by default that of the options.
    pub(crate) timeout: Option<Duration>,
}

impl<'a> Asked<'a> {
    /// A request without a body, with the usual time limit.
    pub(crate) fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, body: None, timeout: None }
    }
}

/// How the answer is used.
#[derive(Clone, Copy)]
enum Mode<'a> {
    /// All of it is read as JSON within the time of the attempt.
    Json,
    /// It is a stream, which continues at a position, or begins now.
    Stream { position: Option<&'a str> },
}

enum Content {
    Text(String),
    Stream(Response),
}

/// The answer of a node.
struct Exchanged {
    status: StatusCode,
    headers: HeaderMap,
    content: Content,
}

/// What follows from one attempt.
enum Attempted {
    Done(Box<Answer>),
    /// The error is the result of the call.
    Failed(Error),
    /// Another attempt may succeed.
    Again(Error),
}

struct Answer {
    node: usize,
    headers: HeaderMap,
    value: Value,
    stream: Option<Response>,
}

/// The nodes of one cluster.
pub(crate) struct Nodes {
    options: Options,
    http: reqwest::Client,
    urls: Vec<String>,
    order: Mutex<Order>,
}

impl Nodes {
    /// # Errors
    /// [`Error::Settings`] if the options or the addresses cannot be used.
    pub(crate) fn new(urls: Vec<String>, options: Options) -> Result<Self, Error> {
        if urls.is_empty() {
            return Err(Error::Settings("at least one node is needed".into()));
        }
        let tokens =
            [options.token.is_some(), options.token_file.is_some(), options.credentials.is_some()];
        if tokens.into_iter().filter(|set| *set).count() > 1 {
            let message = "only one of token, token_file and credentials may be set";
            return Err(Error::Settings(message.into()));
        }
        let http = tls::builder(options.ca_file.as_deref(), options.certificate.as_ref())?;
        let http = http.connect_timeout(options.attempt_timeout).build()?;
        // Clients that start together do not all begin with the same node.
        let order = Mutex::new(Order::new(urls.len(), fastrand::usize(..urls.len())));
        Ok(Self { options, http, urls, order })
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a node has answered.
    pub(crate) fn worked(&self, node: usize) {
        self.order().worked(node);
    }

    /// Notes that a node has failed.
    pub(crate) fn failed(&self, node: usize) {
        self.order().failed(node, clock::now(), None, fastrand::f64());
    }

    /// The JSON of an answer, and its header fields.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        asked: &Asked<'_>,
    ) -> Result<(T, HeaderMap), Error> {
        let answer = self.ask(asked, Mode::Json).await?;
        let value = serde_json::from_value(answer.value);
        let value = value.map_err(|error| Error::Malformed(error.to_string()))?;
        Ok((value, answer.headers))
    }

    /// A stream, and the node that sends it.
    pub(crate) async fn stream(
        &self,
        path: &str,
        position: Option<&str>,
    ) -> Result<(Response, usize), Error> {
        let asked = Asked::new(Method::GET, path);
        let answer = self.ask(&asked, Mode::Stream { position }).await?;
        let stream = answer.stream.ok_or_else(|| Error::Malformed("no stream".into()))?;
        Ok((stream, answer.node))
    }

    async fn ask(&self, asked: &Asked<'_>, mode: Mode<'_>) -> Result<Answer, Error> {
        let timeout = asked.timeout.unwrap_or(self.options.timeout);
        let deadline = clock::now() + timeout;
        // One node that does not answer may not use up the time in which another one would.
        let attempt_timeout = self.options.attempt_timeout.min(timeout / 2);
        let mut last = Error::Late;
        loop {
            let token = self.token(deadline).await?;
            let (node, pause) = self.order().pick(clock::now());
            if clock::now() + pause >= deadline {
                return Err(last);
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let until = deadline.min(clock::now() + attempt_timeout);
            match self.attempt(node, token.as_deref(), asked, mode, until).await {
                Attempted::Done(answer) => return Ok(*answer),
                Attempted::Failed(error) => return Err(error),
                // That the time is over says less than the error before.
                Attempted::Again(Error::Late) => {}
                Attempted::Again(error) => last = error,
            }
        }
    }

    /// The token to send, if there is one. That it cannot be had is no failure of a node.
    async fn token(&self, deadline: Instant) -> Result<Option<String>, Error> {
        if let Some(credentials) = &self.options.credentials {
            return credentials.token(deadline).await.map(Some);
        }
        let Some(file) = &self.options.token_file else { return Ok(self.options.token.clone()) };
        match tokio::fs::read_to_string(file).await {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) => Err(Error::Token(format!("{}: {error}", file.display()))),
        }
    }

    /// Asks one node once.
    async fn attempt(
        &self,
        node: usize,
        token: Option<&str>,
        asked: &Asked<'_>,
        mode: Mode<'_>,
        until: Instant,
    ) -> Attempted {
        let exchange = self.exchange(node, token, asked, mode).boxed();
        let exchanged = match tokio::time::timeout_at(until, exchange).await {
            Ok(Ok(exchanged)) => exchanged,
            Ok(Err(error)) => {
                self.failed(node);
                return Attempted::Again(error.into());
            }
            Err(_) => {
                self.failed(node);
                return Attempted::Again(Error::Late);
            }
        };
        let Exchanged { status, headers, content } = exchanged;
        let text = match content {
            Content::Stream(stream) => {
                let (value, stream) = (Value::Null, Some(stream));
                return Attempted::Done(Box::new(Answer { node, headers, value, stream }));
            }
            Content::Text(text) => text,
        };
        if !status.is_success() {
            return self.refused(node, token, status, &headers, &text);
        }
        let value = if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str(&text) };
        match value {
            Ok(value) => {
                self.worked(node);
                Attempted::Done(Box::new(Answer { node, headers, value, stream: None }))
            }
            Err(error) => {
                self.failed(node);
                Attempted::Again(Error::Malformed(error.to_string()))
            }
        }
    }

    /// What follows from an answer that is an error.
    fn refused(
        &self,
        node: usize,
        token: Option<&str>,
        status: StatusCode,
        headers: &HeaderMap,
        text: &str,
    ) -> Attempted {
        let error = Error::of_answer(status, text);
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            let retry_after = headers.get(header::RETRY_AFTER);
            let retry_after_s = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            self.order().failed(node, clock::now(), retry_after_s, fastrand::f64());
            return Attempted::Again(error);
        }
        self.worked(node);
        let credentials = self.options.credentials.as_ref().zip(token);
        let is_replaced = status == StatusCode::UNAUTHORIZED
            && credentials.is_some_and(|(credentials, token)| credentials.refused(token));
        if is_replaced { Attempted::Again(error) } else { Attempted::Failed(error) }
    }

    async fn exchange(
        &self,
        node: usize,
        token: Option<&str>,
        asked: &Asked<'_>,
        mode: Mode<'_>,
    ) -> reqwest::Result<Exchanged> {
        let url = &self.urls[node];
        let mut request = self.http.request(asked.method.clone(), format!("{url}{}", asked.path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = asked.body {
            request = request.json(body);
        }
        if let Mode::Stream { position: Some(position) } = mode {
            request = request.header("last-event-id", position);
        }
        let mut request = request.build()?;
        let mut observed = Observed::new(&self.options, url, asked);
        observed.inject(request.headers_mut());
        let answer = match self.http.execute(request).await {
            Ok(answer) => answer,
            Err(error) => {
                observed.end(None, Some(&with_causes(&error)));
                return Err(error);
            }
        };
        let status = answer.status();
        observed.end(Some(status), None);
        let headers = answer.headers().clone();
        let content = match mode {
            Mode::Stream { .. } if status.is_success() => Content::Stream(answer),
            _ => Content::Text(answer.text().await?),
        };
        Ok(Exchanged { status, headers, content })
    }
}

/// Reports one request to a node to the options. A request that is given up is reported when this is dropped.
struct Observed<'a> {
    options: &'a Options,
    node: &'a str,
    asked: &'a Asked<'a>,
    begun_at: Instant,
    span: Option<Box<dyn Span>>,
    is_over: bool,
}

impl<'a> Observed<'a> {
    fn new(options: &'a Options, node: &'a str, asked: &'a Asked<'a>) -> Self {
        let about = Traced::Node { node, method: &asked.method, path: asked.path };
        let span = options.tracer.as_ref().and_then(|tracer| tracer.start(&about));
        Self { options, node, asked, begun_at: clock::now(), span, is_over: false }
    }

    fn inject(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.span {
            span.inject(headers);
        }
    }

    fn end(&mut self, status: Option<StatusCode>, error: Option<&str>) {
        self.is_over = true;
        if let Some(span) = self.span.take() {
            span.end(&Outcome { status, error, failed: false });
        }
        let Some(on_attempt) = &self.options.on_attempt else { return };
        on_attempt(&Attempt {
            node: self.node.into(),
            method: self.asked.method.clone(),
            path: self.asked.path.into(),
            status,
            duration: clock::now() - self.begun_at,
            error: error.map(Into::into),
        });
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.end(None, Some("given up before an answer"));
        }
    }
}
