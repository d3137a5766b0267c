//! Sign-in at an OpenID provider, for the dashboard and for the command line.
//!
//! Place in the flow: `maxine_identity` proves who the person is. The handlers here create or update the person's user,
//! and then open a session of Maxine's own, as for a password. The user makes the session as revocable as any other:
//! it ends at a sign-out, and when an administrator deletes the user.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::extract::{JsonBody, NamePath, NoParams, Params};
use super::session::{SessionView, session_cookie, session_view, signin_problem};
use crate::problem::{Problem, ProblemKind};
use crate::{AppState, Caller, RequestContext, hosts};
use maxine_actors::{WriteError, WriteRequest};
use maxine_identity::{
    Begun, Callback, Polled, Proven, ProviderError, Return, SignedIn, SigninError, is_from_outside,
};
use maxine_state::{AuditAction, Command, Rejection};

/// The cookie with the ticket of a sign-in over plain HTTP, and over HTTPS.
const TICKET_COOKIES: [&str; 2] = ["maxine_sign_in", "__Host-maxine_sign_in"];
/// How long a node waits until it knows a user that was written a moment ago.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a sign-in at a provider fails.
enum Failed {
    Provider(ProviderError),
    /// The user has a password, or is another account of the provider.
    Taken(String),
    Write(WriteError),
}

impl From<ProviderError> for Failed {
    fn from(error: ProviderError) -> Self {
        Self::Provider(error)
    }
}

impl From<SigninError> for Failed {
    fn from(error: SigninError) -> Self {
        Self::Provider(error.into())
    }
}

impl Failed {
    /// A fixed word for the dashboard.
    fn code(&self) -> &'static str {
        match self {
            Self::Provider(error) => error.code(),
            Self::Taken(_) => "name_taken",
            Self::Write(_) => "try_later",
        }
    }

    /// Whether it belongs in the audit log: somebody was not let in. Anybody can cause the other failures as often as
    /// they like.
    fn is_audited(&self) -> bool {
        use ProviderError as Error;
        match self {
            Self::Taken(_) => true,
            Self::Write(_) => false,
            Self::Provider(error) => matches!(
                error,
                Error::Denied(_) | Error::Invalid(_) | Error::NoRole | Error::UnusableName
            ),
        }
    }

    /// The reason for the log. Part of it is not for strangers.
    fn reason(&self) -> String {
        match self {
            Self::Provider(error) => error.reason(),
            other => other.text(),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Provider(error) => error.to_string(),
            Self::Taken(name) => format!(
                "the user {name} exists and does not belong to this account of the provider; an administrator must \
                 delete it first (maxine user remove)"
            ),
            Self::Write(error) => error.to_string(),
        }
    }
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        use ProviderError as Error;
        let kind = match &failed {
            Failed::Taken(_) => ProblemKind::Conflict,
            Failed::Write(WriteError::Rejected { .. }) => ProblemKind::Conflict,
            Failed::Write(_) => ProblemKind::Unavailable,
            Failed::Provider(error) => match error {
                Error::NotNow(error) => return signin_problem(*error),
                Error::Unknown => ProblemKind::NotFound,
                Error::NotLoopback => ProblemKind::InvalidRequest,
                Error::NoPublicUrl | Error::Unsupported(_) => ProblemKind::NotSupported,
                Error::NotBegun | Error::Denied(_) | Error::Invalid(_) => ProblemKind::Unauthorized,
                Error::NoRole | Error::UnusableName => ProblemKind::Forbidden,
                Error::Away(_) | Error::Busy => ProblemKind::Unavailable,
            },
        };
        let mut problem = Problem::new(kind, failed.text());
        match kind {
            ProblemKind::Unauthorized => problem.action = "Start the sign-in again.",
            ProblemKind::Forbidden => {
                problem.action =
                    "Ask an administrator which groups of the provider have a role here.";
            }
            ProblemKind::Unavailable => problem = problem.with_retry_after_s(2),
            _ => {}
        }
        problem
    }
}

/// A provider at which people may sign in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProviderView {
    /// Its name in URLs and in the command line.
    name: String,
    /// Its name for people.
    title: String,
}

/// The providers at which people may sign in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Providers {
    /// In the order of the configuration.
    items: Vec<ProviderView>,
}

/// Lists the providers at which people may sign in.
#[utoipa::path(
    get, path = "/api/v1/session/providers", tag = "session", operation_id = "listProviders",
    responses((status = 200, body = Providers)),
)]
pub(super) async fn list_providers(
    State(state): State<AppState>,
    _: Params<NoParams>,
) -> Json<Providers> {
    let providers = state.security().providers().into_iter();
    let items = providers.map(|each| ProviderView { name: each.name, title: each.title });
    Json(Providers { items: items.collect() })
}

/// Where the dashboard continues after a sign-in.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BeginQuery {
    /// A path of the dashboard. Anything else means its first page.
    #[serde(default)]
    return_to: String,
}

/// Begins a sign-in of the dashboard: sends the browser to the provider. If that is not possible, it sends the browser
/// back to the dashboard, which says why.
#[utoipa::path(
    get, path = "/api/v1/session/providers/{provider}/start", tag = "session", operation_id = "beginSignIn",
    params(("provider" = String, Path,), BeginQuery),
    responses((status = 303, description = "The provider's page, or the dashboard.")),
)]
pub(super) async fn begin_in_browser(
    State(state): State<AppState>,
    NamePath(provider): NamePath,
    Params(query): Params<BeginQuery>,
    context: RequestContext,
    request: Request,
) -> Response {
    if let Some(refusal) = hosts::refusal(&state, &request) {
        return refusal;
    }
    match begin(&state, &context, provider.as_str(), Return::Dashboard(query.return_to)).await {
        Ok(begun) => {
            let mut response = see_other(&begun.authorization_url);
            let ticket = ticket_cookie(&context, &begun.ticket, begun.lifetime_s);
            add_cookie(&mut response, &ticket);
            response
        }
        Err(failed) => to_dashboard(&failed),
    }
}

/// What the provider sends back with the browser. Other parameters of a provider are ignored.
#[derive(Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct CallbackQuery {
    /// The code.
    code: Option<String>,
    /// The state of the sign-in.
    state: Option<String>,
    /// The issuer (RFC 9207).
    iss: Option<String>,
    /// Why the provider did not sign the person in.
    error: Option<String>,
}

impl From<CallbackQuery> for Callback {
    fn from(query: CallbackQuery) -> Self {
        let CallbackQuery { code, state, iss, error } = query;
        Self { code, state, iss, error }
    }
}

/// Finishes a sign-in of the dashboard: the provider sends the browser here. The session is set as a cookie. Then the
/// browser goes to the dashboard, which says why if the sign-in failed.
#[utoipa::path(
    get, path = "/api/v1/session/providers/{provider}/callback", tag = "session", operation_id = "finishSignIn",
    params(("provider" = String, Path,), CallbackQuery),
    responses((status = 303, description = "The dashboard.", headers(("Set-Cookie" = String, description = "The session.")))),
)]
pub(super) async fn finish_in_browser(
    State(state): State<AppState>,
    NamePath(provider): NamePath,
    Params(query): Params<CallbackQuery>,
    context: RequestContext,
    request: Request,
) -> Response {
    if let Some(refusal) = hosts::refusal(&state, &request) {
        return refusal;
    }
    let ticket = sent_ticket(&context, request.headers()).unwrap_or_default();
    let finished = finish(&state, &context, provider.as_str(), ticket, query.into()).await;
    let mut response = match finished {
        Ok((proven, signed_in)) => {
            let mut response = see_other(&proven.path);
            add_cookie(&mut response, &session_cookie(&context, &HeaderMap::new(), &signed_in));
            response
        }
        // Another page may have sent the browser here, or the node had no room. The sign-in that has begun can still be
        // finished.
        Err(failed @ Failed::Provider(ProviderError::NotBegun | ProviderError::Busy)) => {
            return to_dashboard(&failed);
        }
        Err(failed) => to_dashboard(&failed),
    };
    add_cookie(&mut response, &ticket_cookie(&context, "", 0));
    response
}

/// Sends the browser to the page of the provider where people sign out there, or else to the dashboard.
#[utoipa::path(
    get, path = "/api/v1/session/providers/{provider}/sign-out", tag = "session", operation_id = "signOutAtProvider",
    params(("provider" = String, Path,)),
    responses((status = 303, description = "The provider's page, or the dashboard.")),
)]
pub(super) async fn sign_out_at_provider(
    State(state): State<AppState>,
    NamePath(provider): NamePath,
    _: Params<NoParams>,
) -> Response {
    let url = state.security().sign_out_url(provider.as_str());
    see_other(url.as_deref().unwrap_or("/"))
}

/// How the command line gets the browser back.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BeginBody {
    /// `http://127.0.0.1:PORT/PATH` or `http://[::1]:PORT/PATH`, on the person's own machine.
    #[schema(max_length = 256)]
    redirect_uri: String,
}

/// A sign-in that has begun.
#[derive(Serialize, ToSchema)]
pub(super) struct BegunView {
    /// Where the person's browser goes.
    authorization_url: String,
    /// The `state` with which the browser comes back.
    state: String,
    /// What finishes the sign-in, together with the code. Keep it secret.
    ticket: String,
    /// When the sign-in must be finished, in milliseconds since 1970.
    expires_at_ms: u64,
}

/// Begins a sign-in of a program on the person's machine, such as the command line.
#[utoipa::path(
    post, path = "/api/v1/session/providers/{provider}/start", tag = "session", operation_id = "beginSignInOfProgram",
    params(("provider" = String, Path,)), request_body = BeginBody, responses((status = 200, body = BegunView)),
)]
pub(super) async fn begin_of_program(
    State(state): State<AppState>,
    NamePath(provider): NamePath,
    _: Params<NoParams>,
    context: RequestContext,
    JsonBody(body): JsonBody<BeginBody>,
) -> Result<Json<BegunView>, Problem> {
    let begun =
        begin(&state, &context, provider.as_str(), Return::Loopback(body.redirect_uri)).await?;
    let Begun { authorization_url, state: given, ticket, lifetime_s } = begun;
    let expires_at_ms = state.clock().wall_ms() + lifetime_s * 1_000;
    Ok(Json(BegunView { authorization_url, state: given, ticket, expires_at_ms }))
}

/// What the browser brought back.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FinishBody {
    /// The ticket of the sign-in.
    #[schema(max_length = 4096)]
    ticket: String,
    /// The code.
    #[serde(default)]
    code: Option<String>,
    /// The state.
    state: String,
    /// The issuer (RFC 9207), if the provider sent it.
    #[serde(default)]
    iss: Option<String>,
    /// Why the provider did not sign the person in.
    #[serde(default)]
    error: Option<String>,
}

/// Finishes a sign-in of a program, and opens the session.
#[utoipa::path(
    post, path = "/api/v1/session/providers/{provider}/finish", tag = "session", operation_id = "finishSignInOfProgram",
    params(("provider" = String, Path,)), request_body = FinishBody, responses((status = 200, body = SessionView)),
)]
pub(super) async fn finish_of_program(
    State(state): State<AppState>,
    NamePath(provider): NamePath,
    _: Params<NoParams>,
    context: RequestContext,
    JsonBody(body): JsonBody<FinishBody>,
) -> Result<Json<SessionView>, Problem> {
    let FinishBody { ticket, code, state: given, iss, error } = body;
    let callback = Callback { code, state: Some(given), iss, error };
    let (proven, signed_in) = finish(&state, &context, provider.as_str(), ticket, callback).await?;
    Ok(Json(session_view(&state, proven.user_name.as_str().into(), signed_in)))
}

/// A sign-in on another device that has begun.
#[derive(Serialize, ToSchema)]
pub(super) struct DeviceView {
    /// What the person types at the provider.
    user_code: String,
    /// Where.
    verification_uri: String,
    /// The same with the code in it; null if the provider has no such URL.
    verification_uri_complete: Option<String>,
    /// The pause between two requests for the result, in milliseconds.
    interval_ms: u64,
    /// What the result is asked with. Keep it secret.
    ticket: String,
    /// When the sign-in must be finished, in milliseconds since 1970.
    expires_at_ms: u64,
}

/// Begins a sign-in on another device, such as a telephone (RFC 8628).
#[utoipa::path(
    post, path = "/api/v1/session/providers/{provider}/device", tag = "session", operation_id = "beginSignInOnDevice",
    params(("provider" = String, Path,)), responses((status = 200, body = DeviceView)),
)]
pub(super) async fn begin_on_device(
    State(state): State<AppState>,
    NamePath(provider): NamePath,
    _: Params<NoParams>,
    context: RequestContext,
) -> Result<Json<DeviceView>, Problem> {
    check_transport(&state, &context)?;
    let begun = state.security().begin_on_device(provider.as_str(), context.client.ip);
    let begun = in_time(&state, &context, begun).await;
    let begun = begun.inspect_err(|failed| log(provider.as_str(), failed))?;
    Ok(Json(DeviceView {
        user_code: begun.user_code,
        verification_uri: begun.verification_uri,
        verification_uri_complete: begun.verification_uri_complete,
        interval_ms: begun.interval_s * 1_000,
        ticket: begun.ticket,
        expires_at_ms: state.clock().wall_ms() + begun.lifetime_s * 1_000,
    }))
}

/// The ticket of a sign-in on another device.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PollBody {
    /// The ticket.
    #[schema(max_length = 4096)]
    ticket: String,
}

/// The person has not signed in on the other device yet.
#[derive(Serialize, ToSchema)]
pub(super) struct PendingView {
    /// Whether the pause between two requests must become 5 seconds longer.
    slow_down: bool,
}

/// Asks for the result of a sign-in on another device, and opens the session once the person has signed in.
#[utoipa::path(
    post, path = "/api/v1/session/providers/{provider}/device/poll", tag = "session", operation_id = "finishSignInOnDevice",
    params(("provider" = String, Path,)), request_body = PollBody,
    responses((status = 200, body = SessionView), (status = 202, body = PendingView)),
)]
pub(super) async fn poll_device(
    State(state): State<AppState>,
    NamePath(provider): NamePath,
    _: Params<NoParams>,
    context: RequestContext,
    JsonBody(body): JsonBody<PollBody>,
) -> Result<Response, Problem> {
    check_transport(&state, &context)?;
    let (by, of) = (state.clone(), (context.clone(), provider.as_str().to_owned()));
    let poll = async move {
        let (state, (context, provider)) = (by, of);
        let polled = state.security().poll_device(&provider, &body.ticket, context.client.ip);
        let proven = match in_time(&state, &context, polled).await {
            Ok(Polled::Pending { slow_down }) => return Ok(Err(slow_down)),
            Ok(Polled::Proven(proven)) => Ok(proven),
            Err(failed) => Err(failed),
        };
        enter(&state, &context, &provider, proven).await.map(Ok)
    };
    match state.audit().clone().run_recorded(poll).await? {
        Ok((proven, signed_in)) => {
            let user = proven.user_name.as_str().into();
            Ok(Json(session_view(&state, user, signed_in)).into_response())
        }
        Err(slow_down) => {
            Ok((StatusCode::ACCEPTED, Json(PendingView { slow_down })).into_response())
        }
    }
}

/// Refuses a sign-in over plain HTTP from another machine, where others could read its ticket and its session.
fn check_transport(state: &AppState, context: &RequestContext) -> Result<(), Failed> {
    if context.may_send_password(state.settings()) {
        return Ok(());
    }
    Err(SigninError::PlainHttp.into())
}

async fn begin(
    state: &AppState,
    context: &RequestContext,
    provider: &str,
    back: Return,
) -> Result<Begun, Failed> {
    check_transport(state, context)?;
    let begun = state.security().begin_at_provider(provider, back, context.client.ip);
    in_time(state, context, begun).await.inspect_err(|failed| log(provider, failed))
}

/// Waits for a provider no longer than the request may take.
async fn in_time<T>(
    state: &AppState,
    context: &RequestContext,
    asked: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, Failed> {
    let now_ms = state.clock().monotonic_ms();
    let wanted_ms = context.answer_by_ms.map(|by_ms| by_ms.saturating_sub(now_ms));
    let limit_ms = state.settings().body_timeout_ms;
    let limit_ms = wanted_ms.map_or(limit_ms, |wanted_ms| wanted_ms.min(limit_ms));
    let asked = tokio::time::timeout(Duration::from_millis(limit_ms), asked).await;
    Ok(asked.unwrap_or_else(|_| Err(ProviderError::late()))?)
}

/// Finishes a sign-in, even if the client leaves before the answer.
async fn finish(
    state: &AppState,
    context: &RequestContext,
    provider: &str,
    ticket: String,
    callback: Callback,
) -> Result<(Proven, SignedIn), Failed> {
    check_transport(state, context)?;
    let audit = state.audit().clone();
    let (state, context, provider) = (state.clone(), context.clone(), provider.to_owned());
    let sign_in = async move {
        let security = state.security();
        let client = context.client.ip;
        let proven = security.finish_at_provider(&provider, &ticket, &callback, client);
        let proven = in_time(&state, &context, proven).await;
        enter(&state, &context, &provider, proven).await
    };
    audit.run_recorded(sign_in).await
}

/// Opens the session of a person, and records the outcome of the sign-in.
async fn enter(
    state: &AppState,
    context: &RequestContext,
    provider: &str,
    proven: Result<Proven, Failed>,
) -> Result<(Proven, SignedIn), Failed> {
    let outcome = match proven {
        Ok(proven) => {
            let proven = state.security().with_own_name(proven);
            open(state, context, &proven).await.map(|opened| (proven, opened))
        }
        Err(failed) => Err(failed),
    };
    record(state, context, provider, outcome.as_ref().map(|(proven, _)| proven));
    outcome
}

/// Opens a session for a person. First it creates or changes their user, if the state has another.
async fn open(
    state: &AppState,
    context: &RequestContext,
    proven: &Proven,
) -> Result<SignedIn, Failed> {
    let name = proven.user_name.as_str();
    let present = state.security().user(name);
    if let Some(user) = &present {
        if !is_from_outside(user) || user.password_hash != proven.credential {
            return Err(Failed::Taken(name.into()));
        }
        if user.role == proven.role {
            return Ok(state.security().open_proven(proven)?);
        }
    }
    let caller = Caller { user: name.into(), ..Caller::default() };
    let command = Command::PutUser {
        name: proven.user_name.clone(),
        role: proven.role,
        password_hash: proven.credential.clone(),
        managed: false,
        create_only: present.is_none(),
        expected_version: present.map(|user| user.credential_version),
    };
    let request = WriteRequest {
        actor: context.actor(&caller),
        request_id: None,
        fence: None,
        answer_by_ms: context.answer_by_ms,
        command,
    };
    let index = match state.registry().propose(request).await {
        Ok(applied) => applied.index,
        // Another sign-in of the same person was faster, or this node's copy of the state was older.
        Err(WriteError::Rejected {
            rejection: Rejection::Exists { .. } | Rejection::RevisionMismatch { .. },
            index,
        }) => index,
        Err(error) => return Err(Failed::Write(error)),
    };
    if state.view().wait_for(index, KNOWN_TIMEOUT).await.is_err() {
        return Err(SigninError::NotReady.into());
    }
    Ok(state.security().open_proven(proven)?)
}

/// Counts a sign-in, and records it in both audit logs with the issuer and the account there.
fn record(
    state: &AppState,
    context: &RequestContext,
    provider: &str,
    outcome: Result<&Proven, &Failed>,
) {
    let metrics = state.telemetry().metrics();
    let provider: String = provider.chars().take(64).collect();
    let (user, object, outcome_name) = match outcome {
        Ok(proven) => {
            metrics.auth_success.inc();
            let (name, issuer) = (proven.user_name.as_str(), &proven.issuer);
            let object = format!("{name} issuer={issuer} subject={}", proven.subject);
            (name.to_owned(), object, "SUCCESS")
        }
        Err(failed) => {
            log(&provider, failed);
            if !failed.is_audited() {
                return;
            }
            metrics.auth_failures.inc();
            (String::new(), format!("provider={provider} reason={}", failed.code()), "FAILED")
        }
    };
    let fields = vec![
        ("userName", Value::String(user.clone())),
        ("provider", Value::String(provider)),
        ("traceId", context.trace_id_text().into()),
    ];
    state.telemetry().record("auth.signin", outcome_name, fields);
    let caller = Caller { user: user.into(), ..Caller::default() };
    let actor = context.actor(&caller);
    state.audit().record(actor, AuditAction::SessionCreate, &object, outcome.is_ok());
}

fn log(provider: &str, failed: &Failed) {
    let why = failed.reason();
    if failed.is_audited() || failed.code() == "provider_away" {
        tracing::warn!(provider, why, "a sign-in at a provider failed");
    } else {
        tracing::debug!(provider, why, "a sign-in at a provider was not begun");
    }
}

fn see_other(location: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let location = HeaderValue::from_str(location).unwrap_or(HeaderValue::from_static("/"));
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, location);
    // The address of this page has a code in it.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, super::NO_STORE);
    response
}

/// The dashboard, which shows why a sign-in failed.
fn to_dashboard(failed: &Failed) -> Response {
    see_other(&format!("/?sign_in={}", failed.code()))
}

fn ticket_cookie(context: &RequestContext, ticket: &str, lifetime_s: u64) -> String {
    let is_https = context.client.is_https;
    let (name, secure) =
        (TICKET_COOKIES[usize::from(is_https)], if is_https { "; Secure" } else { "" });
    // The browser comes from another site, so `Strict` would withhold it.
    format!("{name}={ticket}; Path=/; HttpOnly; SameSite=Lax; Max-Age={lifetime_s}{secure}")
}

fn sent_ticket(context: &RequestContext, headers: &HeaderMap) -> Option<String> {
    let name = TICKET_COOKIES[usize::from(context.client.is_https)];
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';'));
    let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(own, _)| *own == name).map(|(_, value)| value.to_owned())
}

fn add_cookie(response: &mut Response, cookie: &str) {
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}
