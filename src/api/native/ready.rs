//! Whether this node can do its work: for load balancers, and for those who wait for a start.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::AppState;

/// What a node says of itself without being asked who one is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    /// Whether it serves reads and knows a leader that takes writes.
    ready: bool,
    /// This node's name.
    instance: String,
    /// The leader's name, if one is known.
    leader: Option<String>,
    /// Whether it is this node.
    is_leader: bool,
    /// The index of the state that it serves.
    index: u64,
}

/// Whether this node serves reads and knows a leader that accepts writes.
///
/// Without a leader the answer is 503, but reads and discovery still work.
#[utoipa::path(
    get, path = "/api/v1/ready", tag = "cluster", operation_id = "ready",
    responses(
        (status = 200, description = "Ready", body = Ready),
        (status = 503, description = "Not ready: no leader is known", body = Ready),
    ),
    security(())
)]
pub(super) async fn ready(State(state): State<AppState>) -> (StatusCode, Json<Ready>) {
    let leadership = state.store().leadership_now();
    let snapshot = state.view().snapshot();
    // Before the first identities are here nobody could sign in.
    let ready = leadership.leader.is_some()
        && snapshot.state.grant().is_some()
        && !snapshot.state.identities().users.is_empty();
    let answer = Ready {
        ready,
        instance: state.settings().instance_id.clone(),
        leader: leadership.leader,
        is_leader: leadership.is_leader,
        index: snapshot.state.index(),
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(answer))
}
