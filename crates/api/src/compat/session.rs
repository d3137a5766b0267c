//! Sign-in, and the change of one's own password.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};

use super::json::{answer, read_object, text};
use crate::compat_error::CompatError;
use crate::own_password::{self, OwnPasswordError};
use crate::{AppState, CalledBy, Caller, RequestContext};
use maxine_identity::{SignedIn, SigninError};
use maxine_state::AuditAction;

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
    let session = open_session(&state, &context, user_name, password).await.map_err(|error| {
        let mut refused = CompatError::from(error);
        refused.message = state.with_reason(refused.message);
        refused
    })?;
    Ok(answer(&json!({ "accessToken": session.access_token, "role": session.role })))
}

/// Signs a user in, counts the attempt, and records it in both audit logs, even if the client leaves before the answer.
/// Every API with a sign-in uses this function.
pub(crate) async fn open_session(
    state: &AppState,
    context: &RequestContext,
    user_name: &str,
    password: &str,
) -> Result<SignedIn, SigninError> {
    if !context.may_send_password(state.settings()) {
        return Err(SigninError::PlainHttp);
    }
    let (state, context) = (state.clone(), context.clone());
    let (user_name, password) = (user_name.to_owned(), password.to_owned());
    let audit = state.audit().clone();
    let sign_in = async move {
        let outcome = state.security().sign_in(&user_name, &password, context.client.ip).await;
        account_sign_in(&state, &context, &user_name, &outcome.as_ref().map(|opened| opened.role));
        outcome
    };
    audit.run_recorded(sign_in).await
}

fn account_sign_in(
    state: &AppState,
    context: &RequestContext,
    user_name: &str,
    result: &Result<maxine_state::Role, &SigninError>,
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
            state.audit().record(actor, AuditAction::SessionThrottle, &shown, false);
            return;
        }
        Err(_) => return,
    };
    fields.push(("traceId", context.trace_id_text().into()));
    state.telemetry().record("auth.signin", outcome, fields);
    // Until the password was correct, the user name is only a claim, so the record names no user.
    let user = if result.is_ok() { shown.clone().into() } else { "".into() };
    let caller = Caller { user, ..Caller::default() };
    state.audit().record(
        context.actor(&caller),
        AuditAction::SessionCreate,
        &shown,
        result.is_ok(),
    );
}

impl From<SigninError> for CompatError {
    fn from(error: SigninError) -> Self {
        let (status, retry_after_s) = match error {
            SigninError::Refused => (StatusCode::UNAUTHORIZED, None),
            SigninError::PlainHttp => (StatusCode::FORBIDDEN, None),
            SigninError::TooManyAttempts { retry_after_s } => {
                (StatusCode::TOO_MANY_REQUESTS, Some(retry_after_s))
            }
            SigninError::Busy
            | SigninError::NotReady
            | SigninError::NoState
            | SigninError::Stale { .. } => (StatusCode::SERVICE_UNAVAILABLE, Some(1)),
        };
        Self::new(status, error.to_string()).with_retry_after_s(retry_after_s)
    }
}

/// `PUT /api/maxine/change-password`: changes the caller's own password.
pub(super) async fn change_password(
    State(state): State<AppState>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
    request: Request,
) -> Result<Response<Body>, CompatError> {
    let body = read_object(&state, request).await?;
    let pair = text(&body, "password").zip(text(&body, "newPassword"));
    let (current, new) = pair.ok_or_else(|| CompatError::bad_request(PASSWORDS_NEEDED))?;
    let new = ("newPassword", new);
    own_password::change(&state, &caller, &context, current, new).await?;
    Ok(answer(&json!({ "message": CHANGED })))
}

impl From<OwnPasswordError> for CompatError {
    fn from(error: OwnPasswordError) -> Self {
        match error {
            OwnPasswordError::NoUser => Self::new(StatusCode::FORBIDDEN, "Forbidden"),
            OwnPasswordError::Managed => Self::new(StatusCode::CONFLICT, MANAGED),
            OwnPasswordError::Refused(refused) => Self::bad_request(refused.to_string()),
            OwnPasswordError::WrongPassword => Self::bad_request(PASSWORDS_NEEDED),
            OwnPasswordError::NotChecked(error) => error.into(),
            OwnPasswordError::TooOften { retry_after_s } => {
                let text = own_password::too_often(retry_after_s);
                Self::new(StatusCode::TOO_MANY_REQUESTS, text)
                    .with_retry_after_s(Some(retry_after_s))
            }
            OwnPasswordError::NotWritten(error) => error.into(),
        }
    }
}
