//! How fresh a read is, and how that is told: the `consistency` and `min_index` parameters and the
//! three headers that every answer carries. And who asks for a write, for the log.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::extract::{FRESHNESS_PARAMETERS, WriteConditions, parse_query, request_id};
use crate::actors::WriteRequest;
use crate::api::problem::{Problem, ProblemKind};
use crate::api::{AppState, Caller, RequestContext};
use crate::backend::Consistency;
use crate::state::{Actor, Applied, Command, ControlState, Reply, RequestId};
use crate::view::Snapshot;

/// The index of the state that answered.
pub(super) const INDEX_HEADER: HeaderName = HeaderName::from_static("x-maxine-index");
/// How long this node has not heard of the present order of commands.
pub(super) const STALENESS_HEADER: HeaderName = HeaderName::from_static("x-maxine-staleness-ms");
/// Whether this node knows a leader.
pub(super) const LEADER_HEADER: HeaderName = HeaderName::from_static("x-maxine-leader");

/// How long a read waits to become as fresh as asked for, in milliseconds.
const FRESH_TIMEOUT_MS: u64 = 3_000;

#[derive(Debug, Default, serde::Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Freshness {
    /// How fresh the answer must be: `stale` is this node's copy, `leader` at least what the leader
    /// last confirmed, `strong` includes every write that was acknowledged before the request.
    #[param(inline)]
    consistency: Consistency,
    /// Wait until this node has reached this index.
    min_index: Option<u64>,
}

/// A state that is as fresh as the request asked for.
pub(super) struct Fresh {
    snapshot: Arc<Snapshot>,
}

impl Fresh {
    /// The state.
    pub(super) fn state(&self) -> &ControlState {
        &self.snapshot.state
    }

    /// Answers with JSON and the index of this state.
    pub(super) fn json(&self, body: impl Serialize) -> Response {
        let mut response = Json(body).into_response();
        self.mark(&mut response);
        response
    }

    /// Puts the index of this state on an answer.
    pub(super) fn mark(&self, response: &mut Response) {
        let index = HeaderValue::from(self.state().index());
        response.headers_mut().insert(INDEX_HEADER, index);
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
        let timeout = Duration::from_millis(FRESH_TIMEOUT_MS);
        if asked.consistency != Consistency::Stale {
            // The store keeps the time itself; this is for one that does not.
            let barrier = state.store().barrier(asked.consistency, timeout);
            tokio::time::timeout(timeout + Duration::from_millis(500), barrier).await.map_err(
                |_| {
                    let detail = "the read could not be confirmed in time";
                    Problem::new(ProblemKind::Unavailable, detail).with_retry_after_s(1)
                },
            )??;
        }
        if let Some(index) = asked.min_index {
            state.view().wait_for(index, timeout).await?;
        }
        Ok(Self { snapshot: state.view().snapshot() })
    }
}

/// Puts the headers of freshness on every answer that does not carry them yet.
pub(super) async fn put_headers(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    // Taken before the handler runs: a read never shows less than its header says.
    let before = is_read.then(|| state.view().index());
    let mut response = next.run(request).await;
    let index = before.unwrap_or_else(|| state.view().index());
    let leader = if state.store().leadership_now().leader.is_some() { "known" } else { "unknown" };
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(INDEX_HEADER).or_insert_with(|| index.into());
    headers.insert(STALENESS_HEADER, state.store().staleness_ms().into());
    headers.insert(LEADER_HEADER, HeaderValue::from_static(leader));
    response
}

/// A write: who asks, under which conditions.
pub(super) struct Write {
    /// Who asks.
    pub(super) actor: Actor,
    /// The request's id, where the client named one.
    pub(super) request_id: Option<RequestId>,
    /// `If-Match` and its kin.
    pub(super) conditions: WriteConditions,
}

impl FromRequestParts<AppState> for Write {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let conditions = WriteConditions::from_headers(&parts.headers)?;
        let Ok(caller) = Caller::from_request_parts(parts, state).await;
        let Ok(context) = RequestContext::from_request_parts(parts, state).await;
        let actor = context.actor(&caller);
        let path = parts.uri.path();
        let request_id = request_id(&parts.headers, &actor.user, &parts.method, path)?;
        Ok(Self { actor, request_id, conditions })
    }
}

impl Write {
    /// Writes one command; a refusal becomes a problem.
    pub(super) async fn propose(
        self,
        state: &AppState,
        command: Command,
    ) -> Result<Applied, Problem> {
        let Self { actor, request_id, .. } = self;
        let request = WriteRequest { actor, request_id, fence: None, command };
        let applied = state.registry().propose(request).await?;
        match applied.reply {
            Reply::Rejected(rejection) => Err(rejection.into()),
            _ => Ok(applied),
        }
    }
}

/// Answer to a write: only the index at which it took effect.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Written {
    /// The index of the state right after it; pass it as `min_index` to see it on any node.
    pub(super) index: u64,
}

/// The answer to a write that makes a new revision.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Revised {
    /// The index of the state right after it.
    pub(super) index: u64,
    /// The new revision, for `If-Match`.
    pub(super) revision: u64,
}

/// A reply that does not fit its command.
pub(super) fn unexpected(reply: &Reply) -> Problem {
    tracing::error!(?reply, "the reply does not fit the command");
    Problem::new(ProblemKind::Internal, "the reply does not fit the command")
}

/// An `ETag` of a revision.
pub(super) fn etag(revision: u64) -> HeaderValue {
    // Digits in quotes are always a valid header value.
    HeaderValue::from_str(&format!("\"{revision}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}
