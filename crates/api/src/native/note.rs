//! The note of the whole cluster. Only the build `next` has it, for the tests of mixed clusters.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JsonBody, NoParams, Params};
use super::fresh::{Fresh, Freshness, Write, Written};
use crate::AppState;
use crate::problem::Problem;
use maxine_state::Command;

/// The note.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    /// Text of the note; empty if none is set.
    note: Box<str>,
}

/// Shows the note of the cluster.
#[utoipa::path(
    get, path = "/api/v1/cluster/note", tag = "cluster", operation_id = "getNote",
    params(Freshness), responses((status = 200, body = Note)),
)]
pub(super) async fn get_note(fresh: Fresh, _: Params<NoParams>) -> Response {
    let note = fresh.state().note().into();
    fresh.json(Note { note })
}

/// Sets the note of the cluster.
#[utoipa::path(
    put, path = "/api/v1/cluster/note", tag = "cluster", operation_id = "putNote",
    request_body = Note, responses((status = 200, body = Written)),
)]
pub(super) async fn put_note(
    State(app): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    JsonBody(body): JsonBody<Note>,
) -> Result<Json<Written>, Problem> {
    let applied = write.propose(&app, Command::SetNote { note: body.note }).await?;
    Ok(Json(Written { index: applied.index }))
}
