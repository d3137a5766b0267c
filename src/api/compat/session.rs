//! Sign-in and the change of one's own password.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::json::{answer, read_object, text};
use crate::actors::{WriteError, WriteRequest};
use crate::api::error::CompatError;
use crate::api::{AppState, Caller, RequestContext};
use crate::security::{PasswordError, SigninError, check_password};
use crate::state::{Command, Rejection, User};

const BOTH_NEEDED: &str = "Please provide both of these -> userName and password.";
const PASSWORDS_NEEDED: &str = "Please provide valid existing password and new password both.";
const MANAGED: &str =
    "Admin credentials are managed by environment variables and cannot be changed at runtime.";
const CHANGED: &str = "successfully updated password";

/// `POST /api/maxine/signin`.
pub(super) async fn sign_in(
    State(state): State<AppState>,
    context: RequestContext,
    request: Request,
) -> Result<Response<Body>, CompatError> {
    let body = read_object(&state, request).await?;
    let pair = text(&body, "userName").zip(text(&body, "password"));
    let Some((user_name, password)) = pair else {
        state.telemetry().metrics().auth_failures.inc();
        return Err(CompatError::bad_request(BOTH_NEEDED));
    };
    let result = state.security().sign_in(user_name, password, context.client.ip).await;
    account_sign_in(&state, &context, user_name, &result.as_ref().map(|s| s.role));
    let session = result?;
    Ok(answer(&json!({ "accessToken": session.access_token, "role": session.role })))
}

/// Counts a sign-in and writes it into both audit logs; for every API that has one.
pub fn account_sign_in(
    state: &AppState,
    context: &RequestContext,
    user_name: &str,
    result: &Result<crate::state::Role, &SigninError>,
) {
    let metrics = state.telemetry().metrics();
    let shown: String = user_name.chars().take(128).collect();
    let mut fields = vec![("userName", Value::String(shown.clone()))];
    let outcome = match result {
        Ok(role) => {
            metrics.auth_success.inc();
            fields.push(("role", role.as_str().into()));
            "SUCCESS"
        }
        Err(SigninError::Refused) => {
            metrics.auth_failures.inc();
            "FAILED"
        }
        Err(SigninError::TooManyAttempts { .. }) => {
            metrics.auth_failures.inc();
            metrics.signin_throttled.inc();
            let actor = context.actor(&Caller::default());
            state.audit().record(actor, "session.throttle", &shown, false);
            return;
        }
        Err(_) => return,
    };
    fields.push(("traceId", context.trace_id_text().into()));
    state.telemetry().record("auth.signin", outcome, fields);
    // The name is only claimed as long as the password was not right.
    let user = if result.is_ok() { shown.clone().into() } else { "".into() };
    let caller = Caller { user, ..Caller::default() };
    state.audit().record(context.actor(&caller), "session.create", &shown, result.is_ok());
}

impl From<SigninError> for CompatError {
    fn from(error: SigninError) -> Self {
        let (status, retry_after_s) = match error {
            SigninError::Refused => (StatusCode::UNAUTHORIZED, None),
            SigninError::TooManyAttempts { retry_after_s } => {
                (StatusCode::TOO_MANY_REQUESTS, Some(retry_after_s))
            }
            SigninError::Busy | SigninError::NotReady => (StatusCode::SERVICE_UNAVAILABLE, Some(1)),
        };
        Self { status, message: error.to_string(), retry_after_s }
    }
}

/// `PUT /api/maxine/change-password`: the caller's own password.
pub(super) async fn change_password(
    State(state): State<AppState>,
    caller: Caller,
    context: RequestContext,
    request: Request,
) -> Result<Response<Body>, CompatError> {
    let body = read_object(&state, request).await?;
    let pair = text(&body, "password").zip(text(&body, "newPassword"));
    let (current, new) = pair.ok_or_else(|| CompatError::bad_request(PASSWORDS_NEEDED))?;
    // An API token has no password to change.
    let Some(user) = state.security().user(&caller.user) else {
        return Err(CompatError::new(StatusCode::FORBIDDEN, "Forbidden"));
    };
    if user.managed {
        return Err(CompatError::new(StatusCode::CONFLICT, MANAGED));
    }
    let result = replace_password(&state, &caller, &context, &user, current, new).await;
    let outcome = if result.is_ok() { "SUCCESS" } else { "FAILED" };
    let mut fields = vec![("userName", Value::String(caller.user.as_ref().into()))];
    if result.is_ok() {
        fields.push(("role", user.role.as_str().into()));
    }
    fields.push(("traceId", context.trace_id_text().into()));
    state.telemetry().record("auth.password_changed", outcome, fields);
    if result.is_err() {
        // That it was changed, the log says by itself.
        state.audit().record(context.actor(&caller), "user.put", &caller.user, false);
    }
    result?;
    Ok(answer(&json!({ "message": CHANGED })))
}

async fn replace_password(
    state: &AppState,
    caller: &Caller,
    context: &RequestContext,
    user: &User,
    current: &str,
    new: &str,
) -> Result<(), CompatError> {
    let security = state.security();
    check_password("newPassword", new)
        .map_err(|refused| CompatError::bad_request(refused.to_string()))?;
    let right = security.verify_own_password(user, current, context.client.ip).await?;
    if !right {
        return Err(CompatError::bad_request(PASSWORDS_NEEDED));
    }
    let password_hash = security.hash_password(new).await.map_err(|error| match error {
        PasswordError::Refused(refused) => CompatError::bad_request(refused.to_string()),
        PasswordError::Busy(_) => SigninError::Busy.into(),
    })?;
    let command = Command::PutUser {
        name: user.name.clone(),
        role: user.role,
        password_hash,
        managed: false,
        create_only: false,
        // Two changes at once: the second one's current password is not the current one any more.
        expected_version: Some(user.credential_version),
    };
    let request =
        WriteRequest { actor: context.actor(caller), request_id: None, fence: None, command };
    match state.registry().propose(request).await {
        Ok(_) => Ok(()),
        Err(WriteError::Rejected { rejection: Rejection::RevisionMismatch { .. }, .. }) => {
            Err(CompatError::bad_request(PASSWORDS_NEEDED))
        }
        Err(error) => Err(error.into()),
    }
}
