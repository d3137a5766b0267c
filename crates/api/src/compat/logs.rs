//! The newest lines and the files of the request log.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{self, HeaderValue};
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio_util::io::ReaderStream;

use super::json::answer;
use crate::compat_error::CompatError;
use crate::{AppState, CalledBy, RequestContext};
use maxine_state::AuditAction;
use maxine_telemetry::Telemetry;

/// Runs `work` on the request log.
async fn with_log<T: Send + 'static>(
    state: &AppState,
    work: impl FnOnce(&Telemetry) -> T + Send + 'static,
) -> Result<T, CompatError> {
    state.with_telemetry(work).await.map_err(|_| {
        CompatError::new(StatusCode::SERVICE_UNAVAILABLE, "the logs could not be read")
    })
}

pub(super) async fn recent(State(state): State<AppState>) -> Result<Response<Body>, CompatError> {
    let lines = with_log(&state, Telemetry::recent_lines).await?;
    Ok(answer(&json!({ "logs": lines.join("\n") })))
}

pub(super) async fn clear(
    State(state): State<AppState>,
    context: RequestContext,
    CalledBy(caller): CalledBy,
) -> Result<Response<Body>, CompatError> {
    let audit = state.audit().clone();
    let clear = async move {
        let cleared = with_log(&state, Telemetry::clear_recent_lines).await;
        let node = &state.settings().instance_id;
        state.audit().record(context.actor(&caller), AuditAction::LogsClear, node, cleared.is_ok());
        cleared
    };
    audit.run_recorded(clear).await?;
    Ok(Response::new(Body::empty()))
}

pub(super) async fn download(State(state): State<AppState>) -> Result<Response<Body>, CompatError> {
    let files = with_log(&state, Telemetry::log_files).await?;
    let files: Map<String, Value> =
        files.into_iter().map(|f| (f.name.clone(), format!("/logs/{}", f.name).into())).collect();
    Ok(answer(&Value::Object(files)))
}

/// `GET /logs/FILE`: one of the files that `download` lists.
pub(super) async fn file(
    State(state): State<AppState>,
    Path(name): Path<String>,
) -> Result<Response<Body>, CompatError> {
    let files = with_log(&state, Telemetry::log_files).await?;
    let listed = files.into_iter().find(|file| file.name == name);
    let listed = listed.ok_or_else(CompatError::not_found)?;
    let file = tokio::fs::File::open(&listed.path).await.map_err(|_| CompatError::not_found())?;
    let mut response = Response::new(Body::from_stream(ReaderStream::new(file)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}
