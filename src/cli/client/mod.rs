//! The command line's HTTP client for the native API: failover between nodes, safe retries, clear errors.
//!
//! It is between a command and the nodes. It never repeats a write that could take effect twice: writes carry
//! an idempotency key, and a write that cannot carry one is sent once.

mod connect;
mod hedged;
mod problem;
pub mod shapes;
mod sse;
mod tls;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use connect::{ConnectArgs, Session, session_file};
pub use problem::Problem;
pub use sse::{EventParser, ServerEvent};
pub use tls::remedy as tls_remedy;

use super::exit::CliError;
use maxine_clock::Clock;

/// Maximum length of an answer that is read into memory, in bytes.
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;
/// Maximum time for one node while there are others to try, in milliseconds. With two nodes it is longer than a node's
/// write timeout (5 s by default), so that a write that has begun can end.
const ATTEMPT_MS_MAX: u64 = 6_500;
/// The node is asked to answer a write this long before the time for the attempt ends, in milliseconds, or a
/// quarter of that time if that is less. So the answer arrives in time.
const RETURN_MS_MAX: u64 = 1_000;
/// A write is sent again only if the remaining time is at least the longest time that an answer has taken so
/// far, plus this margin, in milliseconds.
const ANSWER_MARGIN_MS: u64 = 1_500;
/// Pause between two rounds over the nodes, in milliseconds, unless a node asks for more.
const ROUND_PAUSE_MS: u64 = 200;
/// Maximum pause between two rounds, in milliseconds.
const ROUND_PAUSE_MS_MAX: u64 = 2_000;
/// Maximum number of items that one list command gathers over its pages.
pub const LIST_ITEMS_MAX: usize = 100_000;

/// How often a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing: each node is asked once, and the next one also while another one has not answered yet.
    Read,
    /// A write that takes effect once however often it is sent: it carries a key. Repeated until the time is up.
    Keyed,
    /// A write without that protection: it is repeated only if it certainly did not arrive. If several nodes are named,
    /// a read first finds one that answers.
    Once,
}

/// One request to the native API.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(&'static str, String)>,
    body: Option<Value>,
    repeat: Repeat,
    // After this time without an answer the next node is asked too. `None` for the usual one.
    hedge_ms: Option<u64>,
    // Time limit over all nodes that are tried, if it is less than the client's.
    limit_ms: Option<u64>,
}

impl Request {
    /// A read of the path made of `segments` under `/api/v1`.
    #[must_use]
    pub fn get(segments: &[&str]) -> Self {
        Self::new(Method::GET, segments, Repeat::Read)
    }

    /// A read of the node's metrics, which are text.
    #[must_use]
    pub fn metrics() -> Self {
        Self { path: "/api/actuator/prometheus".into(), ..Self::get(&[]) }
    }

    /// A write that carries a fresh idempotency key.
    #[must_use]
    pub fn keyed(method: Method, segments: &[&str]) -> Self {
        let mut request = Self::new(method, segments, Repeat::Keyed);
        request.headers.push(("idempotency-key", ulid::Ulid::new().to_string()));
        request
    }

    /// A write that must not be repeated once it may have arrived.
    #[must_use]
    pub fn once(method: Method, segments: &[&str]) -> Self {
        Self::new(method, segments, Repeat::Once)
    }

    fn new(method: Method, segments: &[&str], repeat: Repeat) -> Self {
        Self {
            method,
            path: api_path(segments),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            repeat,
            hedge_ms: None,
            limit_ms: None,
        }
    }

    /// Whether it reads the node's copy of the state. Alerts, the status and the digest belong to one node; their
    /// commands show what each node says of its age.
    fn reads_the_copy(&self) -> bool {
        let of_node = [&["alerts"][..], &["cluster", "status"], &["cluster", "digest"]];
        self.repeat == Repeat::Read
            && !of_node.iter().any(|segments| self.path.starts_with(&api_path(segments)))
    }

    /// The command that shows whether the change was made. `None` if none is known.
    fn shown_by(&self) -> Option<String> {
        let mut segments = self.path.strip_prefix("/api/v1/")?.split('/');
        let command = match (segments.next()?, segments.next()) {
            ("kv", Some(key)) => {
                let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy();
                return Some(format!("maxine kv get {key}"));
            }
            ("kv", None) => "maxine kv list",
            ("users", _) => "maxine user list",
            ("tokens", _) => "maxine token list",
            ("keys", _) => "maxine key list",
            ("cluster", _) => "maxine cluster status",
            _ => return None,
        };
        Some(command.to_owned())
    }

    /// Whether it carries a password. Every attempt counts against the limit of sign-ins.
    fn has_password(&self) -> bool {
        [&["session"][..], &["me", "password"]]
            .iter()
            .any(|segments| self.path == api_path(segments))
    }

    /// Whether it is to change something only if that does not exist.
    fn is_creation(&self) -> bool {
        self.headers.iter().any(|(name, _)| *name == "if-none-match")
    }

    /// Refuses a path that would name something else. A URL's `.` and `..` are resolved before it is sent, however
    /// they are encoded.
    fn check(&self) -> Result<(), CliError> {
        let names = self.path.split('/').skip(1);
        let why = |name| match name {
            "" => Some("a name is empty".to_owned()),
            "." | ".." => {
                Some(format!("`{name}` cannot be a name: in a URL it means another path"))
            }
            _ => None,
        };
        names.filter_map(why).map(CliError::Usage).next().map_or(Ok(()), Err)
    }

    /// Adds a query parameter where there is a value.
    #[must_use]
    pub fn query(mut self, name: &str, value: Option<impl std::fmt::Display>) -> Self {
        self.query.extend(value.map(|value| (name.to_owned(), value.to_string())));
        self
    }

    /// Adds a header where there is a value.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: Option<String>) -> Self {
        self.headers.extend(value.map(|value| (name, value)));
        self
    }

    /// Asks the node to answer early enough for the answer to arrive within `budget_ms`.
    fn answered_within(self, budget_ms: u64) -> Self {
        let answer_ms = budget_ms - (budget_ms / 4).min(RETURN_MS_MAX);
        self.header("x-maxine-timeout-ms", Some(answer_ms.max(1).to_string()))
    }

    /// Asks the next node too after this time without an answer, in milliseconds. A write must do no harm if it is
    /// carried out more than once.
    #[must_use]
    pub fn hedged(mut self, after_ms: u64) -> Self {
        self.hedge_ms = Some(after_ms);
        self
    }

    /// Limits the time for all nodes that are tried, in milliseconds, if that is less than `--timeout-ms`.
    #[must_use]
    pub fn within(mut self, limit_ms: u64) -> Self {
        self.limit_ms = Some(limit_ms);
        self
    }

    /// Sets the JSON body.
    #[must_use]
    pub fn json(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// How fresh a read must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct FreshArgs {
    /// How fresh the answer must be: stale (what this node has), leader (what the leader has), or strong (includes
    /// every write acknowledged before the request)
    #[arg(long, value_parser = ["stale", "leader", "strong"])]
    consistency: Option<String>,
    /// Wait until the node has reached this index; use the index of your own write to see that write. HISTORY-INDEX is
    /// refused if another history has begun: after a restore, a recovery, a copy to another store, or a loss of acknowledged writes
    #[arg(long, value_name = "INDEX")]
    min_index: Option<String>,
}

impl FreshArgs {
    /// Adds the requested freshness to a request.
    #[must_use]
    pub fn of(&self, request: Request) -> Request {
        request
            .query("consistency", self.consistency.as_ref())
            .query("min_index", self.min_index.as_ref())
    }
}

/// `/api/v1` and `segments`, each percent-encoded.
#[must_use]
pub fn api_path(segments: &[&str]) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const SEGMENT: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    let mut path = String::from("/api/v1");
    for segment in segments {
        path.push('/');
        path.extend(utf8_percent_encode(segment, SEGMENT));
    }
    path
}

/// If the copy that answered may be older than this, the user is told so, in milliseconds.
const STALE_MS: u64 = 10_000;

/// A successful answer.
#[derive(Debug)]
pub struct Answer {
    /// The answer's headers.
    pub headers: HeaderMap,
    /// The body; `null` where there is none.
    pub body: Value,
}

impl Answer {
    /// The body as a `T`.
    ///
    /// # Errors
    /// When the node answered with something else.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, CliError> {
        serde_json::from_value(self.body.clone()).map_err(|error| unreadable(&error))
    }

    /// A header's text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The index of the state that answered.
    #[must_use]
    pub fn index(&self) -> Option<u64> {
        self.header("x-maxine-index").and_then(|text| text.parse().ok())
    }
}

/// Whether the headers say that the node that answered knows no leader.
#[must_use]
pub fn is_without_leader(headers: &HeaderMap) -> bool {
    headers.get("x-maxine-leader").is_some_and(|value| value == "unknown")
}

/// What to tell the user if the copy that answered may be old.
fn stale_note(headers: &HeaderMap) -> Option<String> {
    let age_ms: Option<u64> = headers
        .get("x-maxine-staleness-ms")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    let age = age_ms.map_or_else(
        || "the age of its copy is not known".to_owned(),
        |ms| format!("its copy is at most {} old", super::output::human_ms(ms)),
    );
    if is_without_leader(headers) {
        return Some(format!("the node that answered knows no leader, and {age}"));
    }
    let is_old = age_ms.is_some_and(|ms| ms > STALE_MS);
    is_old.then(|| format!("the node that answered is behind: {age}"))
}

/// A client of the nodes that were named.
pub struct Client {
    http: reqwest::Client,
    servers: Vec<Url>,
    // The node that answered last, tried first next time.
    preferred: AtomicUsize,
    token: Option<connect::Token>,
    timeout_ms: u64,
    clock: Clock,
    // Whether the user knows already that an answer may be old.
    told_stale: AtomicBool,
}

enum Attempt {
    Answered(Answer),
    Refused(Problem, HeaderMap),
    NotSent(String),
    Lost(String),
}

impl Client {
    /// Sends a request, trying other nodes and, where that is safe, trying again until the time is up.
    ///
    /// # Errors
    /// A node's problem; [`CliError::Unavailable`] when none could serve it; [`CliError::OutcomeUnknown`] when a write
    /// went out and its answer was lost.
    pub async fn send(&self, request: &Request) -> Result<Answer, CliError> {
        request.check()?;
        if request.repeat == Repeat::Read || request.hedge_ms.is_some() {
            return self.hedged(request).await;
        }
        let limit_ms = self.limit_ms(request);
        let deadline_ms = self.clock.monotonic_ms() + limit_ms;
        // A write that is sent once would wait for a node that hangs until its time is over, and its outcome would be
        // unknown then.
        if request.repeat == Repeat::Once && self.servers.len() > 1 {
            self.find_node(limit_ms / 2).await?;
        }
        let mut may_have_happened = false;
        // What leaves the outcome open, of all rounds.
        let mut open: Vec<(String, String)> = Vec::new();
        let mut is_silent = false;
        let mut slowest_ms: Option<u64> = None;
        loop {
            let mut tried = Vec::new();
            let mut last_problem = None;
            let (mut reached, mut without_session) = (false, false);
            let first = self.preferred.load(Ordering::Relaxed);
            for offset in 0..self.servers.len() {
                let position = (first + offset) % self.servers.len();
                let server = &self.servers[position];
                let left_ms = deadline_ms.saturating_sub(self.clock.monotonic_ms());
                if left_ms == 0 && !tried.is_empty() {
                    break;
                }
                if left_ms < needed_ms(may_have_happened, slowest_ms) && !tried.is_empty() {
                    break;
                }
                // A request that is sent only once gets all of the time, because no other node is tried.
                let others = self.servers.len() > 1 && request.repeat != Repeat::Once;
                let share_ms = share_of(left_ms, self.servers.len() - offset);
                let budget_ms = if others { share_ms } else { left_ms.max(1) };
                let sent_ms = self.clock.monotonic_ms();
                let attempt = self.attempt(server, request, budget_ms).await;
                let took_ms = self.clock.monotonic_ms().saturating_sub(sent_ms);
                match attempt {
                    Attempt::Answered(answer) => {
                        self.preferred.store(position, Ordering::Relaxed);
                        self.tell_if_stale(request, &answer.headers);
                        return Ok(answer);
                    }
                    // The session may not be sent to this node. Another of the named nodes may accept it, so this
                    // one is not asked again.
                    Attempt::Refused(problem, _) if self.is_for_the_session(server, &problem) => {
                        without_session = true;
                        tried.push((server.to_string(), problem.to_string()));
                    }
                    Attempt::Refused(mut problem, _) => {
                        let unknown = problem.is_outcome_unknown();
                        let is_limit = problem.status == 429 && request.has_password();
                        problem.is_of_sign_in |= is_limit;
                        problem.is_of_creation = request.is_creation();
                        let is_last = is_limit || (unknown && request.repeat == Repeat::Once);
                        if !problem.is_passing() || is_last {
                            return Err(CliError::Problem(Box::new(problem)));
                        }
                        reached = true;
                        slowest_ms = slowest_ms.max(Some(took_ms));
                        may_have_happened |= unknown;
                        let said = (server.to_string(), problem.to_string());
                        if unknown && !open.contains(&said) {
                            open.push(said.clone());
                        }
                        tried.push(said);
                        last_problem = Some(problem);
                    }
                    Attempt::NotSent(why) => {
                        is_silent = true;
                        tried.push((server.to_string(), why));
                    }
                    Attempt::Lost(why) => {
                        (reached, is_silent, may_have_happened) = (true, true, true);
                        let said = (server.to_string(), why);
                        if !open.contains(&said) {
                            open.push(said.clone());
                        }
                        tried.push(said);
                        if request.repeat == Repeat::Once {
                            return Err(self.unknown(request, open, tried, is_silent));
                        }
                    }
                }
            }
            let pause_ms = last_problem
                .as_ref()
                .and_then(|problem| problem.retry_after_s)
                .map_or(ROUND_PAUSE_MS, |seconds| {
                    (seconds * 1_000).clamp(ROUND_PAUSE_MS, ROUND_PAUSE_MS_MAX)
                });
            let needed_ms = pause_ms + needed_ms(may_have_happened, slowest_ms);
            let over = self.clock.monotonic_ms() + needed_ms >= deadline_ms;
            // A write that may have taken effect is tried until the time is over. A write that reached no
            // node is not tried again.
            let give_up = over || !(reached || may_have_happened);
            if give_up {
                // A lost connection is no answer: whatever accepted it may be hung, or not be a node.
                let answered = last_problem.is_some() || without_session;
                return Err(match last_problem {
                    _ if may_have_happened => self.unknown(request, open, tried, is_silent),
                    Some(problem) if tried.len() == 1 => CliError::Problem(Box::new(problem)),
                    _ => CliError::Unavailable { answered, tried },
                });
            }
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }

    /// The error for a write that may have taken effect: `open` is what leaves this open, and `last` what the nodes said
    /// last.
    fn unknown(
        &self,
        request: &Request,
        open: Vec<(String, String)>,
        last: Vec<(String, String)>,
        is_silent: bool,
    ) -> CliError {
        let mut tried = open;
        let rest: Vec<_> = last.into_iter().filter(|said| !tried.contains(said)).collect();
        tried.extend(rest);
        let is_silent = is_silent && self.servers.len() > 1;
        CliError::OutcomeUnknown { tried, is_silent, look: request.shown_by() }
    }

    /// Prefers a node that answers a read, whatever it answers. An error if none does.
    async fn find_node(&self, limit_ms: u64) -> Result<(), CliError> {
        let read = Request::get(&["cluster", "status"]).within(limit_ms);
        match self.hedged(&read).await {
            Err(error @ CliError::Unavailable { answered: false, .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// The time limit of a request over all nodes that are tried, in milliseconds.
    fn limit_ms(&self, request: &Request) -> u64 {
        request.limit_ms.map_or(self.timeout_ms, |limit_ms| limit_ms.min(self.timeout_ms)).max(1)
    }

    /// What is left of the time limit since this client was made, in milliseconds. A command that sends several requests
    /// one after the other limits them to it, so that they end within the limit together.
    #[must_use]
    pub fn left_ms(&self) -> u64 {
        self.timeout_ms.saturating_sub(self.clock.monotonic_ms())
    }

    /// Requests all pages of a list, up to `limit` items. Returns them with the index of the first page and
    /// whether there are more.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn list(&self, request: &Request, limit: usize) -> Result<List, CliError> {
        let limit = limit.min(LIST_ITEMS_MAX);
        let mut list = List::default();
        let mut cursor: Option<String> = None;
        loop {
            let page_len = (limit - list.items.len()).min(1_000);
            let page =
                request.clone().query("limit", Some(page_len)).query("cursor", cursor.as_ref());
            let answer = self.send(&page).await?;
            list.index = list.index.or(answer.index());
            let mut page: shapes::Page = answer.read()?;
            list.items.append(&mut page.items);
            match page.next_cursor {
                Some(next) if list.items.len() < limit => cursor = Some(next),
                rest => {
                    list.more = rest.is_some();
                    return Ok(list);
                }
            }
        }
    }

    /// Starts a streamed answer from the first node that gives one. Only the time until its beginning is
    /// limited, over all nodes that are tried. Each node is asked to answer before its part of that time
    /// ends, so that the reason of a refusal arrives.
    ///
    /// # Errors
    /// As [`Client::send`] for a read.
    pub async fn stream(&self, request: &Request) -> Result<reqwest::Response, CliError> {
        request.check()?;
        let (mut tried, mut answered) = (Vec::new(), false);
        let deadline_ms = self.clock.monotonic_ms() + self.limit_ms(request);
        let first = self.preferred.load(Ordering::Relaxed);
        for offset in 0..self.servers.len() {
            let position = (first + offset) % self.servers.len();
            let server = &self.servers[position];
            let left_ms = deadline_ms.saturating_sub(self.clock.monotonic_ms());
            if left_ms == 0 && !tried.is_empty() {
                break;
            }
            let budget_ms = share_of(left_ms, self.servers.len() - offset);
            let outgoing = request.clone().answered_within(budget_ms);
            let wait = Duration::from_millis(budget_ms);
            match tokio::time::timeout(wait, self.build(server, &outgoing)?.send()).await {
                Ok(Ok(response)) if response.status().is_success() => {
                    self.preferred.store(position, Ordering::Relaxed);
                    self.tell_if_stale(request, response.headers());
                    return Ok(response);
                }
                Ok(Ok(response)) => {
                    let problem = self.explain(server, read_problem(response).await);
                    if !problem.is_passing() && !self.is_for_the_session(server, &problem) {
                        return Err(CliError::Problem(Box::new(problem)));
                    }
                    answered = true;
                    tried.push((server.to_string(), problem.to_string()));
                }
                Ok(Err(error)) => tried.push((server.to_string(), describe(&error))),
                Err(_) => tried.push((server.to_string(), "no answer in time".into())),
            }
        }
        Err(CliError::Unavailable { answered, tried })
    }

    /// Tells the user if the copy that answered may be old, once for all requests of this client.
    fn tell_if_stale(&self, request: &Request, headers: &HeaderMap) {
        if let Some(note) = self.first_stale_note(request, headers) {
            tell!("note: {note}");
        }
    }

    fn first_stale_note(&self, request: &Request, headers: &HeaderMap) -> Option<String> {
        let note = stale_note(headers).filter(|_| request.reads_the_copy())?;
        (!self.told_stale.swap(true, Ordering::Relaxed)).then_some(note)
    }

    /// The same client, which does not tell the user that an answer may be old. For commands that ask each node and
    /// show how old its copy is.
    #[must_use]
    pub fn without_notes(self) -> Self {
        self.told_stale.store(true, Ordering::Relaxed);
        self
    }

    /// Prefers the next node, because the stream of the present one has ended.
    pub fn prefer_next(&self) {
        let next = (self.preferred.load(Ordering::Relaxed) + 1) % self.servers.len();
        self.preferred.store(next, Ordering::Relaxed);
    }

    /// The node that answered last; the first one if none has answered.
    #[must_use]
    pub fn answered(&self) -> &Url {
        &self.servers[self.preferred.load(Ordering::Relaxed) % self.servers.len()]
    }

    /// The nodes that were named, in order.
    #[must_use]
    pub fn servers(&self) -> &[Url] {
        &self.servers
    }

    /// The token, if there is one and it may be sent to this node.
    fn token_for(&self, server: &Url) -> Option<&str> {
        self.token.as_ref().and_then(|token| token.for_server(server))
    }

    /// Whether a node refuses only because the session may not be sent to it, while it may be sent to another
    /// named node. Such nodes come first in the list.
    fn is_for_the_session(&self, server: &Url, problem: &Problem) -> bool {
        problem.status == 401
            && self.token_for(server).is_none()
            && self.servers.first().is_some_and(|first| self.token_for(first).is_some())
    }

    /// Adds what the node cannot know: that there is a token which may not be sent to it, or which is that of another
    /// node.
    fn explain(&self, server: &Url, problem: Problem) -> Problem {
        let is_refused = problem.status == 401;
        let token = self.token.as_ref().filter(|_| is_refused);
        match token.and_then(|token| token.refusal(server)) {
            Some(detail) => Problem { detail, ..problem },
            None => problem,
        }
    }

    fn build(&self, server: &Url, request: &Request) -> Result<reqwest::RequestBuilder, CliError> {
        let base = server.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}{}", request.path))
            .map_err(|error| CliError::Usage(format!("{base}: {error}")))?;
        let mut builder = self.http.request(request.method.clone(), url);
        if !request.query.is_empty() {
            builder = builder.query(&request.query);
        }
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(token) = self.token_for(server) {
            builder = builder.bearer_auth(token);
        }
        if let Some(body) = &request.body {
            builder = builder.json(body);
        }
        Ok(builder)
    }

    async fn attempt(&self, server: &Url, request: &Request, budget_ms: u64) -> Attempt {
        let mut outgoing = request.clone();
        if request.repeat != Repeat::Read {
            outgoing = outgoing.answered_within(budget_ms);
        }
        let builder = match self.build(server, &outgoing) {
            Ok(builder) => builder.timeout(Duration::from_millis(budget_ms)),
            Err(error) => return Attempt::NotSent(error.to_string()),
        };
        let response = match builder.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() || error.is_builder() => {
                return Attempt::NotSent(describe(&error));
            }
            Err(error) => return Attempt::Lost(describe(&error)),
        };
        if !response.status().is_success() {
            let headers = response.headers().clone();
            return Attempt::Refused(self.explain(server, read_problem(response).await), headers);
        }
        let headers = response.headers().clone();
        match read_body(response).await {
            Ok(bytes) if bytes.is_empty() => {
                Attempt::Answered(Answer { headers, body: Value::Null })
            }
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(body) => Attempt::Answered(Answer { headers, body }),
                Err(_) => {
                    let text = Value::String(problem::NOT_MAXINE.into());
                    Attempt::Refused(Problem::read(500, text, None), headers)
                }
            },
            Err(why) => Attempt::Lost(why),
        }
    }
}

/// The time for one of `count` nodes that may have to be tried, in milliseconds.
fn share_of(left_ms: u64, count: usize) -> u64 {
    let share_ms = left_ms / (count.max(1) as u64);
    if count > 1 { share_ms.min(ATTEMPT_MS_MAX) } else { left_ms }.max(1)
}

/// The time that must remain for one more try, in milliseconds. While it is certain that nothing was written,
/// a try whose answer does not arrive would make the outcome unknown.
fn needed_ms(may_have_happened: bool, slowest_ms: Option<u64>) -> u64 {
    slowest_ms.filter(|_| !may_have_happened).map_or(0, |slowest_ms| slowest_ms + ANSWER_MARGIN_MS)
}

/// The gathered pages of a list.
#[derive(Debug, Default)]
pub struct List {
    /// The items, as the node sent them.
    pub items: Vec<Value>,
    /// The index of the state that gave the first page.
    pub index: Option<u64>,
    /// Whether items were left out because of the limit.
    pub more: bool,
}

impl List {
    /// The items as `T`s.
    ///
    /// # Errors
    /// When the node answered with something else.
    pub fn read<T: DeserializeOwned>(&self) -> Result<Vec<T>, CliError> {
        serde_json::from_value(Value::Array(self.items.clone())).map_err(|error| unreadable(&error))
    }
}

pub(super) fn unreadable(error: &serde_json::Error) -> CliError {
    let text = maxine_wording::complaint("", &error.to_string()).text;
    CliError::Failed(format!("the node's answer cannot be read: {text}"))
}

async fn read_problem(response: reqwest::Response) -> Problem {
    let status = response.status().as_u16();
    let retry_after_s = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    let date_ms = date_ms(response.headers());
    let bytes = read_body(response).await.unwrap_or_default();
    let body = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    Problem { date_ms, ..Problem::read(status, body, retry_after_s) }
}

/// The time in the field `date` of an answer, in milliseconds since 1970.
fn date_ms(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    u64::try_from(at.as_millisecond()).ok()
}

async fn read_body(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error))? {
        if bytes.len() + chunk.len() > ANSWER_LEN_MAX {
            return Err(format!("the answer is longer than {ANSWER_LEN_MAX} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The innermost cause, which is the one that says something ("connection refused").
fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut cause: &dyn std::error::Error = error;
    loop {
        if let Some(text) = tls::text(cause) {
            return text;
        }
        match cause.source() {
            Some(inner) => cause = inner,
            None => return cause.to_string(),
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
