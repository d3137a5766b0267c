//! The levels of this node's own log, while it runs. They are kept in memory, and end by themselves.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JsonBody, NoParams, Params, TextPath};
use super::fresh::{Fresh, Freshness, Write};
use crate::AppState;
use crate::problem::{Problem, ProblemKind};
use maxine_state::limits::check_range;
use maxine_telemetry::{LOG_LEVEL_MS_MAX, LogLevel, LogLevels, ModuleLevel};

/// The levels of a node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogLevelsView {
    /// The filter of the settings (`telemetry.log_filter`).
    filter: String,
    /// The modules that have a level of their own now.
    items: Vec<ModuleLevel>,
}

/// The level of a module, and for how long.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogLevelBody {
    /// The level.
    level: LogLevel,
    /// Duration from now, in milliseconds, at most 24 hours.
    #[schema(minimum = 1000, maximum = 86_400_000_u64)]
    duration_ms: u64,
}

fn levels() -> Result<&'static LogLevels, Problem> {
    LogLevels::of_process().ok_or_else(|| {
        let detail = "nothing was changed: this process does not write the log of a node";
        Problem::new(ProblemKind::Conflict, detail)
    })
}

/// Shows the levels of this node's log.
#[utoipa::path(
    get, path = "/api/v1/log-levels", tag = "logs", operation_id = "listLogLevels",
    params(Freshness), responses((status = 200, body = LogLevelsView)),
)]
pub(super) async fn list_log_levels(
    fresh: Fresh,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let levels = levels()?;
    Ok(fresh.json(LogLevelsView { filter: levels.filter().into(), items: levels.list() }))
}

/// Sets the level of a module of this node's log, for a time.
#[utoipa::path(
    put, path = "/api/v1/log-levels/{module}", tag = "logs", operation_id = "setLogLevel",
    params(("module" = String, Path,)), request_body = LogLevelBody,
    responses((status = 200, body = ModuleLevel)),
)]
pub(super) async fn set_log_level(
    State(state): State<AppState>,
    TextPath(module): TextPath,
    _: Params<NoParams>,
    write: Write,
    JsonBody(body): JsonBody<LogLevelBody>,
) -> Result<Json<ModuleLevel>, Problem> {
    check_range("duration_ms", body.duration_ms, 1_000, LOG_LEVEL_MS_MAX)?;
    state.registry().count_recorded_change(&write.actor)?;
    let set = ModuleLevel {
        module,
        level: body.level,
        until_ms: state.clock().wall_ms() + body.duration_ms,
        by: write.actor.user.clone().into(),
    };
    let refused = |why: String| Problem::new(ProblemKind::InvalidRequest, why);
    levels()?.set(set.clone()).map_err(refused)?;
    let ModuleLevel { module, level, until_ms, by } = &set;
    tracing::warn!(%module, level = level.as_str(), until_ms, %by, "a log level was set");
    let what = format!("log-level/{module}, {} for {} ms", level.as_str(), body.duration_ms);
    state.audit().record_node_change(write.actor, &state.settings().instance_id, &what, true);
    Ok(Json(set))
}

/// Lets the settings apply to a module again.
#[utoipa::path(
    delete, path = "/api/v1/log-levels/{module}", tag = "logs", operation_id = "resetLogLevel",
    params(("module" = String, Path,)), responses((status = 204)),
)]
pub(super) async fn reset_log_level(
    State(state): State<AppState>,
    TextPath(module): TextPath,
    _: Params<NoParams>,
    write: Write,
) -> Result<StatusCode, Problem> {
    LogLevels::check_module(&module)
        .map_err(|why| Problem::new(ProblemKind::InvalidRequest, why))?;
    state.registry().count_recorded_change(&write.actor)?;
    let refused = |why: String| Problem::new(ProblemKind::Internal, why);
    if levels()?.unset(&module).map_err(refused)? {
        tracing::warn!(%module, by = %write.actor.user, "a log level was set back");
        let (what, node) = (format!("log-level/{module}, ended"), &state.settings().instance_id);
        state.audit().record_node_change(write.actor, node, &what, true);
    }
    Ok(StatusCode::NO_CONTENT)
}
