//! Reports of the checks that the owners of instances make themselves.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::ToSchema;

use super::extract::{CheckPath, JsonBody, NoParams, Params};
use super::fresh::Write;
use super::instances::Changed;
use crate::AppState;
use crate::problem::Problem;
use maxine_actors::registry::OwnReport;
use maxine_state::{CheckReport, CheckStatus};

/// A report about a check, from the owner of an instance.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportBody {
    /// The status.
    status: CheckStatus,
    /// What the check found, without control characters.
    #[serde(default)]
    #[schema(max_length = 4096)]
    output: String,
    /// Only accept the report if the instance still has this registration.
    #[serde(default)]
    lease_epoch: Option<u64>,
}

/// Reports a check of an instance. Repeat the report within the `ttl_ms` of the check: without a report, the check
/// becomes critical.
///
/// A report that equals the last one is like a heartbeat: it moves the deadline, and changes nothing else.
#[utoipa::path(
    put, path = "/api/v1/services/{namespace}/{service}/instances/{id}/checks/{check}", tag = "instances",
    operation_id = "reportCheck",
    params(
        ("namespace" = String, Path,), ("service" = String, Path,), ("id" = String, Path,), ("check" = String, Path,),
    ),
    request_body = ReportBody,
    responses((status = 200, body = Changed)),
)]
pub(super) async fn report_check(
    State(state): State<AppState>,
    CheckPath(key, check): CheckPath,
    _: Params<NoParams>,
    write: Write,
    JsonBody(body): JsonBody<ReportBody>,
) -> Result<Json<Changed>, Problem> {
    let report = CheckReport { status: body.status, output: body.output.into() };
    report.check()?;
    let report = OwnReport { key, check, lease_epoch: body.lease_epoch, report };
    let request_id = write.request_id();
    let Write { actor, answer_by_ms, answered, .. } = write;
    let (index, changed) =
        state.registry().report_check(actor, request_id, answer_by_ms, report).await?;
    answered.at(index);
    Ok(Json(Changed { index, changed }))
}
