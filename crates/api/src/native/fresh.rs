//! The freshness of reads, and how an answer reports it: the parameters `consistency` and `min_index`, and the headers
//! of every answer. Also reads the caller and the conditions of a write.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde::Serialize;

use super::extract::{
    Content, FRESHNESS_PARAMETERS, WriteConditions, parse_query, principal_of, request_id,
};
use super::history_index::{HistoryIndex, history_value};
use crate::problem::{Problem, ProblemKind};
use crate::{AppState, CalledBy, RequestContext, caller};
use maxine_actors::{WriteError, WriteRequest, state_version};
use maxine_state::{
    Actor, Applied, Command, ControlState, History, Rejection, Reply, RequestId, ServiceKey,
    ServiceState,
};
use maxine_store::Consistency;
use maxine_view::Snapshot;

/// The index of the state in the answer.
pub(super) const INDEX_HEADER: HeaderName = HeaderName::from_static("x-maxine-index");
/// The history that the index belongs to.
pub(super) const HISTORY_HEADER: HeaderName = HeaderName::from_static("x-maxine-history");
/// The staleness of the state in the answer, in milliseconds. Left out if it is unknown.
pub(super) const STALENESS_MS_HEADER: HeaderName = HeaderName::from_static("x-maxine-staleness-ms");
/// `unknown` if the staleness is unknown; otherwise left out.
pub(super) const STALENESS_HEADER: HeaderName = HeaderName::from_static("x-maxine-staleness");
/// Whether a leader was confirmed within its lease: `known` or `unknown`.
pub(super) const LEADER_HEADER: HeaderName = HeaderName::from_static("x-maxine-leader");

const UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");
/// `Cache-Control` of an answer that does not set it otherwise.
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// How long a read waits for the requested freshness, in milliseconds.
const FRESH_TIMEOUT_MS: u64 = 3_000;

#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Freshness {
    /// How fresh the answer must be: `stale` is this node's copy; `leader` is at least what the leader last confirmed;
    /// `strong` includes every write that was acknowledged before the request.
    #[param(inline)]
    consistency: Consistency,
    /// Wait until this node has reached this index. With `HISTORY-INDEX`, the answer is 410 if the state has another
    /// history.
    #[param(value_type = Option<String>)]
    min_index: Option<HistoryIndex>,
}

/// Which state an answer is based on.
#[derive(Clone, Copy)]
pub(crate) struct Basis {
    index: u64,
    /// `None` without a state. Then the index is unknown, too.
    history: Option<History>,
    /// Staleness of the state at `at_ms`, in milliseconds.
    staleness_ms: Option<u64>,
    /// When the staleness was determined, in milliseconds on the monotonic clock.
    at_ms: u64,
}

impl Basis {
    /// The present state of this node, and its staleness. The staleness is read first, because entries that
    /// are applied in between must not make an older state seem younger.
    pub(crate) fn present(state: &AppState) -> (Self, Arc<Snapshot>) {
        let at_ms = state.clock().monotonic_ms();
        let staleness_ms = state.store().staleness_ms();
        let snapshot = state.view().snapshot();
        let (index, history) = (snapshot.state.index(), snapshot.state.history());
        (Self { index, history, staleness_ms, at_ms }, snapshot)
    }

    /// The staleness of the state now, in milliseconds.
    pub(super) fn staleness_ms(&self, state: &AppState) -> Option<u64> {
        let since_ms = state.clock().monotonic_ms().saturating_sub(self.at_ms);
        self.staleness_ms.map(|then_ms| then_ms + since_ms)
    }

    /// This basis with another index, for an answer that is true at `index`. This node must have published that index.
    pub(crate) fn at(self, index: u64) -> Self {
        Self { index, ..self }
    }

    /// Adds the headers that report the basis.
    pub(crate) fn put_headers(&self, state: &AppState, headers: &mut HeaderMap) {
        let known = state.store().leadership_now().leader.is_some();
        if let Some(history) = self.history {
            headers.insert(INDEX_HEADER, self.index.into());
            headers.insert(HISTORY_HEADER, history_value(history));
        }
        match self.staleness_ms(state) {
            Some(age_ms) => headers.insert(STALENESS_MS_HEADER, age_ms.into()),
            None => headers.insert(STALENESS_HEADER, UNKNOWN),
        };
        let leader = if known { HeaderValue::from_static("known") } else { UNKNOWN };
        headers.insert(LEADER_HEADER, leader);
    }
}

/// The basis for the headers of an answer, shared with the layer that adds them. Code that decides with a state sets it
/// here, because a refusal has an index, too.
#[derive(Clone)]
pub(super) struct Answered(Arc<Mutex<Basis>>);

impl Answered {
    /// Begins with the present state. It is older than any state that a handler sets, so an answer never claims to be
    /// newer than it is.
    fn new(state: &AppState) -> Self {
        Self(Arc::new(Mutex::new(Basis::present(state).0)))
    }

    /// Sets the basis to the present state of this node, and returns that state.
    pub(super) fn by_present(&self, state: &AppState) -> Arc<Snapshot> {
        let (basis, snapshot) = Basis::present(state);
        *self.0.lock() = basis;
        snapshot
    }

    /// Sets the basis to the state at `index`, which this node must have published.
    pub(super) fn at(&self, index: u64) {
        let mut basis = self.0.lock();
        *basis = basis.at(index);
    }
}

impl FromRequestParts<AppState> for Answered {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self::new(state)))
    }
}

/// A state that has the requested freshness.
pub(super) struct Fresh {
    snapshot: Arc<Snapshot>,
    answered: Answered,
}

impl Fresh {
    /// The state.
    pub(super) fn state(&self) -> &ControlState {
        &self.snapshot.state
    }

    /// The service in the state, or a problem that names the missing service.
    pub(super) fn service(&self, key: &ServiceKey) -> Result<&ServiceState, Problem> {
        let found = self.state().service(key).map(AsRef::as_ref);
        found.ok_or_else(|| Problem::not_found("service", &key.to_string()))
    }

    /// Takes the present state of this node, after a wait.
    pub(super) fn renew(&mut self, state: &AppState) {
        self.snapshot = self.answered.by_present(state);
    }

    /// Whether this node has received a state yet.
    pub(super) fn has_state(&self) -> bool {
        self.snapshot.has_state()
    }

    /// The staleness of this state now, in milliseconds.
    pub(super) fn staleness_ms(&self, state: &AppState) -> Option<u64> {
        self.answered.0.lock().staleness_ms(state)
    }

    /// A JSON answer based on this state.
    pub(super) fn json(&self, body: impl Serialize) -> Response {
        Json(body).into_response()
    }
}

impl FromRequestParts<AppState> for Fresh {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = query.split('&').filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            FRESHNESS_PARAMETERS.contains(&name)
        });
        let asked: Freshness = parse_query(&pairs.collect::<Vec<_>>().join("&"))?;
        let Ok(answered) = Answered::from_request_parts(parts, state).await;
        let timeout = Duration::from_millis(FRESH_TIMEOUT_MS);
        if asked.consistency != Consistency::Stale {
            // The store has a time limit itself. This one is for a store that exceeds it.
            let barrier = state.store().barrier(asked.consistency, timeout);
            tokio::time::timeout(timeout + Duration::from_millis(500), barrier).await.map_err(
                |_| {
                    let detail = "the read could not be confirmed in time";
                    Problem::new(ProblemKind::Unavailable, detail).with_retry_after_s(1)
                },
            )??;
        }
        let reached = match asked.min_index {
            Some(place) => state.view().wait_for(place.index, timeout).await.map(drop),
            None => Ok(()),
        };
        let snapshot = answered.by_present(state);
        let history = snapshot.state.history();
        if let Some(place) = asked.min_index.filter(|place| !place.is_in(history)) {
            return Err(Problem::of_other_history(place.has_ended(history)));
        }
        if let Err(not_reached) = reached {
            answered.at(not_reached.reached);
            return Err(not_reached.into());
        }
        Ok(Self { snapshot, answered })
    }
}

/// Adds the freshness headers to every answer of the native API.
pub(super) async fn put_headers(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let answered = Answered::new(&state);
    request.extensions_mut().insert(answered.clone());
    let content = Content::of_query(request.uri());
    request.extensions_mut().insert(content);
    let mut response = next.run(request).await;
    let basis = *answered.0.lock();
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(NO_STORE);
    basis.put_headers(&state, response.headers_mut());
    response
}

/// Adds the freshness headers to an answer that has none, because no handler saw the request.
pub(crate) fn add_freshness_headers(state: &AppState, headers: &mut HeaderMap) {
    if !headers.contains_key(LEADER_HEADER) {
        Basis::present(state).0.put_headers(state, headers);
    }
}

/// When the client needs the answer to a write, in milliseconds on the monotonic clock. `None` if the request does not
/// say so.
pub(super) struct AnswerBy(pub(super) Option<u64>);

impl FromRequestParts<AppState> for AnswerBy {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        caller::timeout_ms(&parts.headers).map_err(|text| {
            Problem::new(ProblemKind::InvalidRequest, text).with_field(caller::TIMEOUT_NAME)
        })?;
        let Ok(context) = RequestContext::from_request_parts(parts, state).await;
        Ok(Self(context.answer_by_ms))
    }
}

/// What a write needs: the caller and the conditions.
pub(super) struct Write {
    /// The caller.
    pub(super) actor: Actor,
    /// The request id that follows from the client's `Idempotency-Key`, if it sent one.
    named: Option<RequestId>,
    /// The digest of the request, which becomes part of the request id.
    content: Content,
    /// The conditions in `If-Match` and `If-None-Match`.
    pub(super) conditions: WriteConditions,
    /// When the client needs the answer, if the request says so.
    pub(super) answer_by_ms: Option<u64>,
    /// The state on which the answer is based.
    pub(super) answered: Answered,
}

impl FromRequestParts<AppState> for Write {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let conditions = WriteConditions::from_headers(&parts.headers)?;
        let AnswerBy(answer_by_ms) = AnswerBy::from_request_parts(parts, state).await?;
        let Ok(CalledBy(caller)) = CalledBy::from_request_parts(parts, state).await;
        let Ok(context) = RequestContext::from_request_parts(parts, state).await;
        let actor = context.actor(&caller);
        let path = parts.uri.path();
        let principal = principal_of(&actor);
        let named = request_id(&parts.headers, &principal, &parts.method, path)?;
        let content = Content::of(parts);
        let Ok(answered) = Answered::from_request_parts(parts, state).await;
        Ok(Self { actor, named, content, conditions, answer_by_ms, answered })
    }
}

impl Write {
    /// The request id, if the client sent an `Idempotency-Key`. Must be called after the body was read, because the
    /// digest includes the body.
    pub(super) fn request_id(&self) -> Option<RequestId> {
        self.named.map(|named| named.with_content(self.content.digest()))
    }

    /// This write for one step of a request with several steps. Each step has a request id of its own, so that it is
    /// written once.
    pub(super) fn step(&self, step: u128) -> Self {
        let named = self.named.map(|named| RequestId(named.name().wrapping_add(step)));
        let (actor, content) = (self.actor.clone(), self.content.clone());
        let (conditions, answer_by_ms) = (self.conditions, self.answer_by_ms);
        Self { actor, named, content, conditions, answer_by_ms, answered: self.answered.clone() }
    }

    /// Writes one command. A refusal becomes a problem, and sets the basis of the answer.
    pub(super) async fn propose(
        self,
        state: &AppState,
        command: Command,
    ) -> Result<Applied, Problem> {
        let request_id = self.request_id();
        let Self { actor, answer_by_ms, answered, .. } = self;
        let request = WriteRequest { actor, request_id, fence: None, answer_by_ms, command };
        let outcome = state.registry().propose(request).await;
        match &outcome {
            Ok(Applied { index, .. }) | Err(WriteError::Rejected { index, .. }) => {
                answered.at(*index);
            }
            Err(_) => {}
        }
        match outcome {
            Err(WriteError::Rejected {
                rejection: rejection @ Rejection::StateVersion { needs, .. },
                ..
            }) => {
                let held_back =
                    state_version::voters(&**state.store(), &state.settings().instance_id).await;
                let held_back = held_back.voters_without(needs);
                let mut problem = Problem::from(rejection);
                problem.detail = format!("{}: {held_back}", problem.detail).into();
                Err(problem)
            }
            outcome => Ok(outcome?),
        }
    }
}

/// Answer to a write that returns only an index.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Written {
    /// The index of the state right after the write. Pass it as `min_index` to see the write on any node.
    pub(super) index: u64,
}

/// Answer to a write that makes a new revision.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Revised {
    /// The index of the state right after the write.
    pub(super) index: u64,
    /// The new revision, for `If-Match`.
    pub(super) revision: u64,
    /// What was set and has no effect; left out if there is nothing to say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) warnings: Vec<String>,
}

/// The problem for a reply that does not match its command. This is a defect, so it is logged.
pub(super) fn unexpected(reply: &Reply) -> Problem {
    tracing::error!(?reply, "the reply does not match the command");
    Problem::new(ProblemKind::Internal, "the reply does not match the command")
}

/// The `ETag` of a revision.
pub(super) fn etag(revision: u64) -> HeaderValue {
    // Digits in quotes are always a valid header value.
    HeaderValue::from_str(&format!("\"{revision}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}
