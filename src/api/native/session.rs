//! Sign-in for people: a session's token in the answer, and in a cookie for the dashboard.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JsonBody, NoParams, Params};
use crate::api::problem::{Problem, ProblemKind};
use crate::api::{AppState, Caller, RequestContext, Via, account_sign_in};
use crate::security::{PASSWORD_LEN_MAX, SESSION_COOKIE, SigninError};
use crate::state::limits::{NAME_LEN_MAX, check_text};
use crate::state::{LimitExceeded, Role};

/// A user's name and password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionBody {
    /// The user's name.
    #[schema(min_length = 1, max_length = 255)]
    user: String,
    /// The password.
    #[schema(min_length = 1, max_length = 1024, format = Password)]
    password: String,
}

/// A session that was opened.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionView {
    /// The user's name.
    user: String,
    /// What they may do.
    role: Role,
    /// When the session ends, in milliseconds since 1970.
    expires_at_ms: u64,
    /// Token for `Authorization: Bearer`; the cookie has the same.
    access_token: String,
}

/// Signs a user in. The cookie is `HttpOnly` and `SameSite=Strict`; requests with it that change
/// something need the header `x-maxine-csrf: 1`.
#[utoipa::path(
    post, path = "/api/v1/session", tag = "session", operation_id = "signIn",
    request_body = SessionBody,
    responses((status = 200, body = SessionView, headers(("Set-Cookie" = String, description = "The session.")))),
)]
pub(super) async fn sign_in(
    State(state): State<AppState>,
    _: Params<NoParams>,
    context: RequestContext,
    headers: HeaderMap,
    JsonBody(body): JsonBody<SessionBody>,
) -> Result<Response, Problem> {
    check_text("user", &body.user, 1, NAME_LEN_MAX)?;
    let len = body.password.len();
    if !(1..=PASSWORD_LEN_MAX).contains(&len) {
        let limit = format!("1 to {PASSWORD_LEN_MAX} bytes long");
        return Err(LimitExceeded::new("password", limit, format!("{len} bytes")).into());
    }
    let outcome = state.security().sign_in(&body.user, &body.password, context.client.ip).await;
    account_sign_in(&state, &context, &body.user, &outcome.as_ref().map(|opened| opened.role));
    let signed_in = outcome.map_err(|error| match error {
        SigninError::Refused => {
            let mut problem =
                Problem::new(ProblemKind::Unauthorized, "unknown user or wrong password");
            problem.action = "Check the name and the password. Upper and lower case matter.";
            problem
        }
        SigninError::TooManyAttempts { retry_after_s } => {
            Problem::new(ProblemKind::TooManyRequests, error.to_string())
                .with_retry_after_s(retry_after_s)
        }
        SigninError::Busy | SigninError::NotReady => {
            Problem::new(ProblemKind::Unavailable, error.to_string()).with_retry_after_s(1)
        }
    })?;
    // The browser says where the page came from; a page from https gets a cookie for https only.
    let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes).unwrap_or_default();
    let secure = if origin.starts_with(b"https://") { "; Secure" } else { "" };
    let cookie = format!(
        "{SESSION_COOKIE}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
        signed_in.access_token, signed_in.lifetime_s,
    );
    let view = SessionView {
        user: body.user,
        role: signed_in.role,
        expires_at_ms: state.clock().wall_ms() + signed_in.lifetime_s * 1_000,
        access_token: signed_in.access_token,
    };
    let mut response = Json(view).into_response();
    // A JWT is letters, digits and punctuation that stand in a header as they are.
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Ends the dashboard's session: the cookie is deleted. The token itself works until it expires or
/// the user's credentials change.
#[utoipa::path(
    delete, path = "/api/v1/session", tag = "session", operation_id = "signOut",
    responses((status = 204)),
)]
pub(super) async fn sign_out(_: Params<NoParams>) -> Response {
    let cookie = format!("{SESSION_COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// How a caller proved who they are.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Proof {
    /// With a session's token.
    Session,
    /// With the dashboard's cookie.
    Cookie,
    /// With an API token.
    ApiToken,
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Me {
    /// The user's name, or `token:ID`.
    user: String,
    /// What they may do now.
    role: Role,
    /// How they proved it.
    via: Proof,
}

/// Shows who is signed in.
#[utoipa::path(
    get, path = "/api/v1/me", tag = "session", operation_id = "whoAmI",
    responses((status = 200, body = Me)),
)]
pub(super) async fn who_am_i(_: Params<NoParams>, caller: Caller) -> Result<Json<Me>, Problem> {
    let via = match caller.via {
        Via::Session => Some(Proof::Session),
        Via::Cookie => Some(Proof::Cookie),
        Via::ApiToken => Some(Proof::ApiToken),
        Via::Nothing => None,
    };
    match (caller.role, via) {
        (Some(role), Some(via)) => Ok(Json(Me { user: caller.user.into(), role, via })),
        _ => Err(Problem::new(ProblemKind::Unauthorized, "nobody is signed in")),
    }
}
