//! A backup as a download. It is written to a file without a name, and then streamed.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use tokio::fs::File;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;

use super::cluster::{admin, in_time, led};
use super::cluster_audit::record;
use super::extract::{NoParams, Params};
use super::fresh::{Fresh, Freshness, Write};
use crate::problem::{Problem, ProblemKind};
use crate::{AppState, RequestContext};
use maxine_state::AuditAction;
use maxine_store::{BackupSummary, ClusterAdmin};
use maxine_view::WorkKind;

/// The index of the state in a backup.
const BACKUP_INDEX_HEADER: HeaderName = HeaderName::from_static("x-maxine-backup-index");

/// A backup costs a pass over the state and a file, so a node makes only one at a time.
static RUNNING: Semaphore = Semaphore::const_new(1);

/// Takes a backup of the committed state, and sends it.
#[utoipa::path(
    get, path = "/api/v1/cluster/backup", tag = "cluster", operation_id = "backup",
    params(Freshness),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream",
        headers(("x-maxine-backup-index" = u64, description = "The index of the state in it.")))),
)]
pub(super) async fn backup(
    State(app): State<AppState>,
    _: Fresh,
    _: Params<NoParams>,
    context: RequestContext,
    write: Write,
) -> Result<Response, Problem> {
    let admin = admin(&app).map_err(|mut problem| {
        problem.detail = format!("in {} mode Maxine takes no backups", app.store().kind()).into();
        problem.action = "Back up the storage that holds the state, or copy the state into another one with 'maxine migrate'.";
        problem
    })?;
    led(&app, &write, AuditAction::ClusterBackup, "cluster").await?;
    let turn = RUNNING.try_acquire().map_err(|_| {
        let detail = "a backup is being taken on this node already";
        Problem::new(ProblemKind::TooManyRequests, detail).with_retry_after_s(5)
    })?;
    let audit = app.audit().clone();
    let take = async move {
        let taken = take(&app, &*admin, &context, write).await;
        drop(turn);
        taken
    };
    let (summary, file) = audit.run_recorded(take).await?;
    let name = format!("attachment; filename=\"maxine-{}.backup\"", summary.index);
    let name = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment"));
    let octets = HeaderValue::from_static("application/octet-stream");
    Ok((
        [
            (header::CONTENT_TYPE, octets),
            (header::CONTENT_DISPOSITION, name),
            (header::CONTENT_LENGTH, HeaderValue::from(summary.len_bytes)),
            (BACKUP_INDEX_HEADER, HeaderValue::from(summary.index)),
        ],
        Body::from_stream(ReaderStream::new(file)),
    )
        .into_response())
}

/// Takes a backup and records it. The returned file has no name any more, so it disappears when it is closed.
async fn take(
    app: &AppState,
    admin: &dyn ClusterAdmin,
    context: &RequestContext,
    write: Write,
) -> Result<(BackupSummary, File), Problem> {
    let failed = |error: std::io::Error| {
        tracing::error!(%error, "a backup could not be written");
        let detail = "the backup could not be written to this node's temporary directory";
        Problem::new(ProblemKind::Unavailable, detail).with_retry_after_s(5)
    };
    // The name contains the process id, so that an operator can find out whether the node of a left-over directory
    // still runs.
    let name = format!("maxine-backup-{}-{:032x}", std::process::id(), fastrand::u128(..));
    let directory = std::env::temp_dir().join(name);
    tokio::fs::create_dir(&directory).await.map_err(failed)?;
    let path = directory.join("state");
    let working = app.view().begin_work(WorkKind::Backup);
    let working = working.map(|working| working.asked_by(&context.traceparent.text()));
    let summary = in_time(admin.backup(&path)).await;
    let outcome = summary.as_ref().map_err(|problem| problem.detail.to_string());
    app.view().end_work(working, || BackupSummary::outcome(outcome));
    let opened = File::open(&path).await;
    // The open file exists until it was sent. Its name is removed now, whatever happens later.
    if let Err(error) = tokio::fs::remove_dir_all(&directory).await {
        tracing::warn!(%error, directory = %directory.display(), "a backup's file was left behind");
    }
    let object = summary.as_ref().map_or_else(
        |_| app.settings().instance_id.clone(),
        |summary| format!("index {}, {} bytes", summary.index, summary.len_bytes),
    );
    record(app, write, AuditAction::ClusterBackup, object, summary.as_ref().err()).await;
    Ok((summary?, opened.map_err(failed)?))
}
