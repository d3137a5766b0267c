//! Audit records of changes of the cluster, because the membership itself is not in the log.

use super::fresh::Write;
use crate::AppState;
use crate::audit_relay::shortened;
use crate::problem::Problem;
use crate::recorded::Recorded;
use maxine_state::AuditAction;
use maxine_store::WriteOutcome;

/// The object of an audit record. A record has no reason of its own for a failure outside the log, and in a state of
/// version 1 no outcome "unknown", so its object ends with both.
pub(super) fn recorded_object(object: String, failed: Option<&Problem>) -> String {
    let Some(problem) = failed else { return object };
    let outcome = match problem.kind.outcome() {
        WriteOutcome::NotDone => "not done",
        WriteOutcome::Unknown => "outcome unknown",
    };
    shortened(&format!("{object}, {outcome}: {}", problem.detail)).into()
}

/// Records a change of the cluster in the audit log, because the membership itself is not in it. The caller runs in
/// [`crate::AuditRelay::run_recorded`]. If no write is possible now, the record waits until one is. After an unknown
/// outcome, there may be two records of one change.
pub(super) async fn record(
    app: &AppState,
    write: Write,
    action: AuditAction,
    object: String,
    failed: Option<&Problem>,
) {
    let (actor, outcome, at_ms) =
        (write.actor.clone(), Recorded::of(failed), app.clock().wall_ms());
    let object = recorded_object(object, failed);
    let version = app.view().snapshot().state.version();
    let command = outcome.command(action, object.as_str().into(), version);
    if let Err(problem) = write.propose(app, command).await {
        tracing::warn!(
            action = action.as_str(),
            detail = %problem.detail,
            "an audit record waits for writes to be possible"
        );
        app.audit().record_for_sure(actor, action, &object, outcome, at_ms, None);
    }
}

/// Records a change that was refused before anything was tried. The record waits until writes are possible.
pub(super) fn record_refused(
    app: &AppState,
    write: &Write,
    action: AuditAction,
    object: &str,
    why: &Problem,
) {
    let object = recorded_object(object.to_owned(), Some(why));
    let (actor, at_ms) = (write.actor.clone(), app.clock().wall_ms());
    tracing::warn!(
        action = action.as_str(),
        detail = %why.detail,
        "an audit record waits for writes to be possible"
    );
    app.audit().record_for_sure(actor, action, &object, Recorded::of(Some(why)), at_ms, None);
}
