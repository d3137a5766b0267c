//! Sign-in for people. The answer contains the session's token, and sets it as a cookie for the dashboard.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{JsonBody, NoParams, Params};
use super::fresh::{Write, Written};
use crate::own_password::{self, OwnPasswordError};
use crate::problem::{Problem, ProblemKind};
use crate::{AppState, AuthMethod, CalledBy, Caller, RequestContext, hosts, open_session};
use maxine_identity::{
    AuthError, CookieUse, PASSWORD_LEN_MAX, RenewError, SECURE_SESSION_COOKIE, SESSION_COOKIE,
    SessionRef, SignedIn, SigninError,
};
use maxine_state::limits::{NAME_LEN_MAX, check_text};
use maxine_state::{Command, Given, Limit, LimitExceeded, Name, Rejection, Role};

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
    /// What the user may do.
    role: Role,
    /// When the session ends, in milliseconds since 1970.
    expires_at_ms: u64,
    /// Token for `Authorization: Bearer`. The cookie contains the same token.
    access_token: String,
}

/// Signs a user in. The cookie is `HttpOnly` and `SameSite=Strict`. A request that changes something with it needs the
/// header `x-maxine-csrf: 1`.
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
        let limit = Limit::Length { min: 1, max: PASSWORD_LEN_MAX as u64 };
        return Err(LimitExceeded::new("password", limit, Given::Bytes(len as u64)).into());
    }
    let opened = open_session(&state, &context, &body.user, &body.password).await;
    let signed_in = opened.map_err(|error| {
        let mut problem = signin_problem(error);
        problem.detail = state.with_reason(problem.detail.into()).into();
        problem
    })?;
    Ok(session_answer(&state, &context, &headers, body.user, signed_in))
}

/// The answer with a session's token, also as a cookie.
fn session_answer(
    state: &AppState,
    context: &RequestContext,
    headers: &HeaderMap,
    user: String,
    signed_in: SignedIn,
) -> Response {
    let cookie = session_cookie(context, headers, &signed_in);
    let view = session_view(state, user, signed_in);
    let mut response = Json(view).into_response();
    // A JWT consists of letters, digits and punctuation that are allowed in a header.
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// The cookie with a session's token.
pub(super) fn session_cookie(
    context: &RequestContext,
    headers: &HeaderMap,
    signed_in: &SignedIn,
) -> String {
    // The browser sends the origin of the page. It tells the scheme even behind a proxy that does not report it.
    let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes).unwrap_or_default();
    let (name, secure) = if context.client.is_https || origin.starts_with(b"https://") {
        (SECURE_SESSION_COOKIE, "; Secure")
    } else {
        (SESSION_COOKIE, "")
    };
    format!(
        "{name}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
        signed_in.access_token, signed_in.lifetime_s,
    )
}

pub(super) fn session_view(state: &AppState, user: String, signed_in: SignedIn) -> SessionView {
    SessionView {
        user,
        role: signed_in.role,
        expires_at_ms: state.clock().wall_ms() + signed_in.lifetime_s * 1_000,
        access_token: signed_in.access_token,
    }
}

/// Continues the caller's session with a further token, and sets it as a cookie. A session can be renewed until the
/// sign-in was 12 hours ago. The previous token stays valid until its own end; signing out ends both.
#[utoipa::path(
    post, path = "/api/v1/session/renew", tag = "session", operation_id = "renewSession",
    responses((status = 200, body = SessionView, headers(("Set-Cookie" = String, description = "The session.")))),
)]
pub(super) async fn renew_session(
    State(state): State<AppState>,
    _: Params<NoParams>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let renewed = state.security().renew_session(&caller).map_err(|error| match error {
        RenewError::NoSession | RenewError::TooOld => {
            Problem::new(ProblemKind::Forbidden, error.to_string())
        }
        RenewError::NotReady => {
            Problem::new(ProblemKind::Unavailable, error.to_string()).with_retry_after_s(1)
        }
    })?;
    Ok(session_answer(&state, &context, &headers, caller.user.into(), renewed))
}

/// Ends the session of the request: its token stops working on every node, and the cookie is deleted.
#[utoipa::path(
    delete, path = "/api/v1/session", tag = "session", operation_id = "signOut",
    responses((status = 204)),
)]
pub(super) async fn sign_out(
    State(state): State<AppState>,
    _: Params<NoParams>,
    write: Write,
    context: RequestContext,
    request: Request,
) -> Response {
    let is_https = context.client.is_https;
    let caller = state.security().identify(CookieUse::Changes, is_https, request.headers());
    let ended = match caller {
        // A page that calls this node by another site's name must not be able to sign the user out.
        Ok(caller) if caller.via == AuthMethod::Cookie && !hosts::is_own(&state, &request) => {
            let error = AuthError::WrongHost;
            Err(Problem::new(ProblemKind::Forbidden, error.explanation()))
        }
        Ok(caller) => end_session(&state, &caller, write).await,
        Err(error @ AuthError::CrossSite) => {
            Err(Problem::new(ProblemKind::Forbidden, error.explanation()))
        }
        Err(error @ (AuthError::NoState | AuthError::Stale { .. } | AuthError::KeysAwaited)) => {
            Err(Problem::new(ProblemKind::Unavailable, error.explanation()).with_retry_after_s(5))
        }
        // There is no session to end.
        Err(_) => Ok(()),
    };
    let mut response = match ended {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        // The session lives on, and the browser needs the cookie to end it.
        Err(problem) => return problem.into_response(),
    };
    for (name, secure) in [(SESSION_COOKIE, ""), (SECURE_SESSION_COOKIE, "; Secure")] {
        let cookie = format!("{name}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0{secure}");
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    response
}

async fn end_session(state: &AppState, caller: &Caller, write: Write) -> Result<(), Problem> {
    let Some(SessionRef { credential_version, session, .. }) = caller.session else {
        return Ok(());
    };
    let name = Name::parse("user", &caller.user)?;
    let session = state.security().ending_now(session);
    let command = Command::EndSession { name, credential_version, session };
    write.propose(state, command).await.map(drop)
}

/// How a caller was authenticated.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum AuthMethodView {
    /// With a session's token.
    Session,
    /// With the dashboard's cookie.
    Cookie,
    /// With an API token.
    ApiToken,
    /// With the node's break-glass token.
    BreakGlass,
    /// With the token of an outside issuer.
    Jwt,
}

/// The caller of the request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Me {
    /// The user's name, `token:ID`, or `jwt:ISSUER/SUBJECT`.
    user: String,
    /// What the caller may do now.
    role: Role,
    /// How the caller was authenticated.
    via: AuthMethodView,
    /// When the session ends unless it is renewed, or when the token of an outside issuer ends, in milliseconds since
    /// 1970; else null.
    expires_at_ms: Option<u64>,
}

/// Shows who is signed in.
#[utoipa::path(
    get, path = "/api/v1/me", tag = "session", operation_id = "whoAmI",
    responses((status = 200, body = Me)),
)]
pub(super) async fn who_am_i(
    _: Params<NoParams>,
    CalledBy(caller): CalledBy,
) -> Result<Json<Me>, Problem> {
    let via = match caller.via {
        AuthMethod::Session => Some(AuthMethodView::Session),
        AuthMethod::Cookie => Some(AuthMethodView::Cookie),
        AuthMethod::ApiToken => Some(AuthMethodView::ApiToken),
        AuthMethod::BreakGlass => Some(AuthMethodView::BreakGlass),
        AuthMethod::Jwt => Some(AuthMethodView::Jwt),
        AuthMethod::Nothing => None,
    };
    let of_token = caller.outside.as_ref().map(|token| token.expires_at_s);
    let expires_at_s = caller.session.map(|session| session.session.expires_at_s).or(of_token);
    let expires_at_ms = expires_at_s.map(|at_s| at_s.saturating_mul(1_000));
    match (caller.role, via) {
        (Some(role), Some(via)) => {
            Ok(Json(Me { user: caller.user.into(), role, via, expires_at_ms }))
        }
        _ => Err(Problem::new(ProblemKind::Unauthorized, "nobody is signed in")),
    }
}

/// The caller's present password and the new one.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnPasswordBody {
    /// The present password.
    #[schema(min_length = 1, max_length = 1024, format = Password)]
    password: String,
    /// The new password.
    #[schema(min_length = 8, max_length = 1024, format = Password)]
    new_password: String,
}

/// Changes the caller's own password. All sessions of the user end, including this one.
#[utoipa::path(
    put, path = "/api/v1/me/password", tag = "session", operation_id = "changeOwnPassword",
    request_body = OwnPasswordBody, responses((status = 200, body = Written)),
)]
pub(super) async fn change_own_password(
    State(state): State<AppState>,
    _: Params<NoParams>,
    CalledBy(caller): CalledBy,
    context: RequestContext,
    JsonBody(body): JsonBody<OwnPasswordBody>,
) -> Result<Json<Written>, Problem> {
    let new = ("new_password", body.new_password.as_str());
    let changed = own_password::change(&state, &caller, &context, &body.password, new).await;
    let applied = changed.map_err(|error| match error {
        OwnPasswordError::NoUser => Problem::new(
            ProblemKind::Forbidden,
            "only a user who signed in with a password has one",
        ),
        OwnPasswordError::Managed => Rejection::Managed(caller.user.clone()).into(),
        OwnPasswordError::Refused(refused) => refused.into(),
        OwnPasswordError::WrongPassword => {
            Problem::new(ProblemKind::Forbidden, "the present password is another one")
        }
        OwnPasswordError::NotChecked(error) => signin_problem(error),
        OwnPasswordError::TooOften { retry_after_s } => {
            let text = own_password::too_often(retry_after_s);
            Problem::new(ProblemKind::TooManyRequests, text).with_retry_after_s(retry_after_s)
        }
        OwnPasswordError::NotWritten(error) => error.into(),
    })?;
    Ok(Json(Written { index: applied.index }))
}

/// The answer to a password that came over plain HTTP from another machine.
pub(super) fn plain_http() -> Problem {
    let mut problem = Problem::new(ProblemKind::Forbidden, SigninError::PlainHttp.to_string());
    problem.action = "Send the request over https.";
    problem
}

pub(super) fn signin_problem(error: SigninError) -> Problem {
    match error {
        SigninError::Refused => {
            let mut problem =
                Problem::new(ProblemKind::Unauthorized, "wrong user name or password");
            problem.action = "Check the name and the password. Upper and lower case matter.";
            problem
        }
        SigninError::TooManyAttempts { retry_after_s } => {
            Problem::new(ProblemKind::TooManyRequests, error.to_string())
                .with_retry_after_s(retry_after_s)
        }
        SigninError::PlainHttp => plain_http(),
        SigninError::Busy
        | SigninError::NotReady
        | SigninError::NoState
        | SigninError::Stale { .. } => {
            Problem::new(ProblemKind::Unavailable, error.to_string()).with_retry_after_s(1)
        }
    }
}
