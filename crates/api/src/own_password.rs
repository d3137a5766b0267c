//! Changes the caller's own password, for all APIs that offer it.

use serde_json::Value;

use super::{AppState, Caller, RequestContext};
use maxine_actors::{WriteError, WriteRequest};
use maxine_identity::{PasswordError, SigninError, check_password, is_from_outside};
use maxine_state::{Applied, AuditAction, Command, LimitExceeded, Rejection, User};
use maxine_store::WriteOutcome;

/// Why the password was not changed.
pub(super) enum OwnPasswordError {
    /// The caller is not a user with a password.
    NoUser,
    /// The account is set by the operator's environment.
    Managed,
    /// The new password is too short or too long.
    Refused(LimitExceeded),
    /// The present password is wrong.
    WrongPassword,
    /// The present password could not be checked now.
    NotChecked(SigninError),
    /// The user has changed the password too often through this node.
    TooOften {
        /// When the next change is possible, in seconds.
        retry_after_s: u64,
    },
    /// The new password could not be written.
    NotWritten(WriteError),
}

/// The text for a user who has changed the password too often.
pub(super) fn too_often(retry_after_s: u64) -> String {
    format!(
        "this password was changed too often: at most 10 times in an hour through one node, because each change leaves a \
         record in the audit log that pushes an older one out; try again in {retry_after_s} s"
    )
}

/// Changes the caller's password, even if the client leaves before the answer. `field` is the name of the new password
/// in the request. All sessions of the user end.
pub(super) async fn change(
    state: &AppState,
    caller: &Caller,
    context: &RequestContext,
    current: &str,
    (field, new): (&'static str, &str),
) -> Result<Applied, OwnPasswordError> {
    if !context.may_send_password(state.settings()) {
        return Err(OwnPasswordError::NotChecked(SigninError::PlainHttp));
    }
    // An API token is not a user, and a user of a provider has no password here.
    let user = state.security().user(&caller.user).filter(|user| !is_from_outside(user));
    let user = user.ok_or(OwnPasswordError::NoUser)?;
    if user.managed {
        return Err(OwnPasswordError::Managed);
    }
    let (state, caller, context) = (state.clone(), caller.clone(), context.clone());
    let (current, new) = (current.to_owned(), new.to_owned());
    let audit = state.audit().clone();
    let change = async move {
        replace_and_record(&state, &caller, &context, &user, &current, (field, &new)).await
    };
    audit.run_recorded(change).await
}

async fn replace_and_record(
    state: &AppState,
    caller: &Caller,
    context: &RequestContext,
    user: &User,
    current: &str,
    (field, new): (&str, &str),
) -> Result<Applied, OwnPasswordError> {
    let result = match check_password(field, new) {
        Err(refused) => Err(OwnPasswordError::Refused(refused)),
        Ok(()) => replace(state, caller, context, user, current, new).await,
    };
    let outcome = if result.is_ok() { "SUCCESS" } else { "FAILED" };
    let mut fields = vec![("userName", Value::String(caller.user.as_ref().into()))];
    if result.is_ok() {
        fields.push(("role", user.role.as_str().into()));
    }
    fields.push(("traceId", context.trace_id_text().into()));
    state.telemetry().record("auth.password_changed", outcome, fields);
    if result.is_err() {
        // The command itself leaves a record of a successful change.
        state.audit().record(context.actor(caller), AuditAction::UserPut, &caller.user, false);
    }
    result
}

async fn replace(
    state: &AppState,
    caller: &Caller,
    context: &RequestContext,
    user: &User,
    current: &str,
    new: &str,
) -> Result<Applied, OwnPasswordError> {
    let security = state.security();
    let right = security.verify_own_password(user, current, context.client.ip).await;
    if !right.map_err(OwnPasswordError::NotChecked)? {
        return Err(OwnPasswordError::WrongPassword);
    }
    // Only whoever knows the password is counted, so nobody else can make the user wait.
    security
        .count_own_password(user)
        .map_err(|retry_after_s| OwnPasswordError::TooOften { retry_after_s })?;
    let written = write(state, caller, context, user, new).await;
    let is_done = match &written {
        Ok(_) => true,
        Err(OwnPasswordError::NotWritten(error)) => error.outcome() == WriteOutcome::Unknown,
        Err(_) => false,
    };
    if !is_done {
        security.uncount_own_password(user);
    }
    written
}

async fn write(
    state: &AppState,
    caller: &Caller,
    context: &RequestContext,
    user: &User,
    new: &str,
) -> Result<Applied, OwnPasswordError> {
    let hashed = state.security().hash_password(new).await;
    let password_hash = hashed.map_err(|error| match error {
        PasswordError::Refused(refused) => OwnPasswordError::Refused(refused),
        PasswordError::Busy(_) => OwnPasswordError::NotChecked(SigninError::Busy),
    })?;
    let command = Command::PutUser {
        name: user.name.clone(),
        role: user.role,
        password_hash,
        managed: false,
        create_only: false,
        // If two changes are concurrent, the second one fails, because its present password is no longer valid.
        expected_version: Some(user.credential_version),
    };
    let request = WriteRequest {
        actor: context.actor(caller),
        request_id: None,
        fence: None,
        answer_by_ms: context.answer_by_ms,
        command,
    };
    state.registry().propose(request).await.map_err(|error| match error {
        WriteError::Rejected { rejection: Rejection::RevisionMismatch { .. }, .. } => {
            OwnPasswordError::WrongPassword
        }
        other => OwnPasswordError::NotWritten(other),
    })
}
