//! The edge: names the request, decides access on the route that was matched, and accounts for it.
//!
//! It sits between the router and the handlers, so it knows the matched route. A route that the
//! access table does not know is refused: a forgotten line closes a door instead of opening one.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, Request};
use axum::http;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use axum::response::IntoResponse;
use futures::future::BoxFuture;
use tower::{Layer, Service};

use super::trace;
use crate::access::{self, AccessMode, Decision};
use crate::error::{CompatError, NOSNIFF, edge_error, is_native};
use crate::native::put_missing_headers;
use crate::pacing::{self, Streamed};
use crate::{
    AppState, AuditRelay, Caller, RequestContext, Via, caller, field_names, hosts, origins,
};
use maxine_gateway::{ClientAddr, FieldLines};
use maxine_identity::{AuthError, CookieUse};
use maxine_state::{Actor, AuditAction};
use maxine_telemetry::AttemptTrail;
use maxine_telemetry::{AccessRefused, FinishedRequest, Subject, TraceName};
use maxine_view::ServiceCounter;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Where the dashboard reads counters and records of the compatible API.
const ACTUATOR: &str = "/api/actuator/";
/// What the dashboard reads of an answer besides its body.
const EXPOSED: &str = "x-maxine-index, x-maxine-history, x-maxine-staleness-ms, x-maxine-staleness, \
                       x-maxine-leader, x-maxine-backup-index, content-disposition, etag, retry-after";

/// Puts an [`Edge`] around every route.
#[derive(Clone)]
pub struct EdgeLayer(Arc<Shared>);

/// What the edge does, for whoever does it without a [`tower::Service`].
pub(crate) struct Shared {
    state: AppState,
    trace_header: HeaderName,
    cors_origin: Option<HeaderValue>,
    /// Has names of fields written as the compatible API's clients read them.
    field_names: http::Extensions,
}

impl EdgeLayer {
    /// For a node's state. A CORS origin that is not one falls back to none; the configuration has
    /// refused it before.
    #[must_use]
    pub fn new(state: AppState) -> Self {
        let trace_header = state.trace_header().clone();
        let origin = state.settings().cors_allow_origin.as_deref();
        let cors_origin = origin.and_then(|origin| HeaderValue::from_str(origin).ok());
        let field_names = field_names::of_the_compatible_api();
        Self(Arc::new(Shared { state, trace_header, cors_origin, field_names }))
    }

    /// What it does to a request, for those that do not go through the router.
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner, shared: Arc::clone(&self.0) }
    }
}

/// The edge around one route.
#[derive(Clone)]
pub struct Edge<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request> for Edge<S>
where
    S: Service<Request, Error = Infallible>,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        if request.method() == Method::OPTIONS {
            let response = shared.preflight(&request);
            return Box::pin(std::future::ready(Ok(response)));
        }
        let native = is_native(request.uri().path());
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip());
        let record = shared.open(&request, peer);
        request.extensions_mut().insert(record.context.clone());
        let matched = request.extensions().get::<MatchedPath>().cloned();
        let matched = matched.as_ref().map(MatchedPath::as_str);
        match shared.admit(&request, matched, &record.context) {
            Ok(caller) => {
                let mut record = record;
                shared.follow(&mut record, &caller, &request);
                if shared.registers(request.method(), matched) {
                    record.about(Subject::Registration);
                }
                if caller.role.is_some() {
                    request.extensions_mut().insert(caller);
                }
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let mut response = answer.await.into_response();
                    if native {
                        put_missing_headers(&shared.state, response.headers_mut());
                    }
                    Ok(shared.close(record, response))
                })
            }
            Err(mut refusal) => {
                if native {
                    put_missing_headers(&shared.state, refusal.headers_mut());
                }
                let response = shared.close(record, *refusal);
                Box::pin(std::future::ready(Ok(response)))
            }
        }
    }
}

/// What is kept of a request while it is under way.
pub(crate) struct Record {
    /// The names that it goes by.
    pub(crate) context: RequestContext,
    finished: FinishedRequest,
    if_none_match: Option<HeaderValue>,
    /// Whether it is for the compatible API, whose clients may read names of fields by their case.
    compatible: bool,
    /// The member whose page asks, where a page of another member does.
    member_origin: Option<HeaderValue>,
    break_glass: Option<BreakGlassUse>,
}

/// A request that was let in with the break-glass token. Dropped, it is in the audit log with its outcome.
struct BreakGlassUse {
    audit: AuditRelay,
    actor: Actor,
    what: String,
    /// Its idempotency key: a client that repeats one request uses the token once.
    key: Option<Box<[u8]>>,
    /// What was answered; `None` where the client left before.
    status: Option<StatusCode>,
}

impl Drop for BreakGlassUse {
    fn drop(&mut self) {
        let what = &self.what;
        let (object, success) = match self.status {
            Some(status) => {
                (format!("{what}, answered {}", status.as_u16()), status.as_u16() < 400)
            }
            None => (format!("{what}, the client left before the answer"), false),
        };
        let (actor, key) = (self.actor.clone(), self.key.as_deref());
        self.audit.record_for_sure(actor, AuditAction::BreakGlassUse, &object, success, key);
    }
}

impl Record {
    /// Keeps what the request was.
    pub(crate) fn about(&mut self, subject: Subject) {
        self.finished.subject = subject;
    }

    /// Keeps what became of the attempts to hand the request on.
    pub(crate) fn attempted(&mut self, attempts: AttemptTrail) {
        self.finished.attempts = attempts;
    }
}

impl Shared {
    /// Names the request and notes what its record will need.
    pub(crate) fn open<B>(&self, request: &http::Request<B>, peer: IpAddr) -> Record {
        let headers = request.headers();
        let started_us = self.state.clock().monotonic_us();
        let given = (headers.get(&self.trace_header), headers.get(&TRACEPARENT));
        let given = (given.0.map(HeaderValue::as_bytes), given.1.map(HeaderValue::as_bytes));
        let client = self.resolve(peer, headers);
        // The native API refuses a malformed one; clients of the compatible API are served as if it were absent.
        let timeout_ms = caller::timeout_ms(headers).ok().flatten();
        let answer_by_ms = timeout_ms.map(|ms| started_us / 1_000 + ms);
        let context = RequestContext { answer_by_ms, ..context_of(given.0, given.1, client) };
        let finished = FinishedRequest {
            subject: Subject::Other,
            method: request.method().clone(),
            target: FinishedRequest::target_of(request.uri(), self.state.settings().log_queries),
            version: request.version(),
            client: context.client.ip,
            trace_id: context.trace_id.clone(),
            traceparent: context.traceparent.clone(),
            started_us,
            duration_us: 0,
            status: StatusCode::OK,
            attempts: AttemptTrail::default(),
        };
        let if_none_match = headers.get(header::IF_NONE_MATCH).cloned();
        let member_origin = self.member_origin(request);
        let compatible = !is_native(request.uri().path());
        let break_glass = None;
        Record { context, finished, if_none_match, compatible, member_origin, break_glass }
    }

    /// Resolves the client once for all who ask.
    pub(crate) fn resolve(&self, peer: IpAddr, fields: &impl FieldLines) -> ClientAddr {
        self.state.settings().trusted_proxies.resolve(peer, fields)
    }

    /// Decides whether the request may go on on the route that was matched, and says who calls.
    pub(crate) fn admit<B>(
        &self,
        request: &http::Request<B>,
        matched: Option<&str>,
        context: &RequestContext,
    ) -> Result<Caller, Box<Response<Body>>> {
        let path = request.uri().path();
        let decision = match matched {
            Some(matched) => self.state.access().of_route(request.method(), matched),
            None => Decision::Unmatched,
        };
        let (access, changes_by_get) = match decision {
            Decision::Route(rule) => (rule.access, rule.changes_by_get),
            Decision::Unmatched | Decision::OtherMethod => (access::of_unmatched(path), false),
            Decision::Undeclared => {
                tracing::error!(route = matched, "a route is missing from the access table");
                let error = CompatError::new(StatusCode::FORBIDDEN, "Forbidden");
                return Err(Box::new(edge_error(path, error)));
            }
        };
        let cookie = match *request.method() {
            Method::GET | Method::HEAD if changes_by_get => CookieUse::Never,
            Method::GET | Method::HEAD => CookieUse::Reads,
            _ => CookieUse::Changes,
        };
        let caller = self.identify(request, access, cookie).map_err(|(error, caller)| {
            self.state.telemetry().access_refused(&AccessRefused {
                forbidden: matches!(error, AuthError::RoleTooLow { .. }),
                user: &caller.user,
                role: caller.role,
                method: request.method(),
                path,
                trace_id: &context.trace_id,
            });
            if error.is_worth_a_record() {
                let object = format!("{} {path}", request.method());
                let actor = context.actor(&caller);
                self.state.audit().record(actor, AuditAction::RequestAuthorize, &object, false);
            }
            Box::new(refusal(path, error))
        })?;
        if !access.tells_of_the_node(path)
            && let Some(reason) = self.state.why_not_served()
        {
            let error = CompatError::new(StatusCode::SERVICE_UNAVAILABLE, reason);
            let retry_after_s = self.state.store().exclusion().is_none().then_some(1);
            return Err(Box::new(edge_error(path, CompatError { retry_after_s, ..error })));
        }
        if decision == Decision::OtherMethod {
            let mut refusal = edge_error(path, no_such_method(path));
            if refusal.status() == StatusCode::METHOD_NOT_ALLOWED
                && let Some(methods) =
                    matched.map(|matched| self.state.access().methods_of(matched))
                && let Ok(methods) = HeaderValue::try_from(methods)
            {
                refusal.headers_mut().insert(header::ALLOW, methods);
            }
            return Err(Box::new(refusal));
        }
        Ok(caller)
    }

    /// Follows a request that was let in with the break-glass token to its end, for the audit log.
    pub(crate) fn follow<B>(
        &self,
        record: &mut Record,
        caller: &Caller,
        request: &http::Request<B>,
    ) {
        if caller.via != Via::BreakGlass {
            return;
        }
        let what = format!("{} {}", request.method(), request.uri().path());
        tracing::warn!(client = %record.context.client.ip, request = %what, "the break-glass token was used");
        record.break_glass = Some(BreakGlassUse {
            audit: self.state.audit().clone(),
            actor: record.context.actor(caller),
            what,
            key: request.headers().get("idempotency-key").map(|key| key.as_bytes().into()),
            status: None,
        });
    }

    /// Whether requests on this route register instances or keep them registered.
    fn registers(&self, method: &Method, matched: Option<&str>) -> bool {
        let decision = matched.map(|matched| self.state.access().of_route(method, matched));
        let registers = |rule: &access::Rule| rule.access == access::Access::Registration;
        matches!(decision, Some(Decision::Route(rule)) if registers(rule)) && !method.is_safe()
    }

    fn identify<B>(
        &self,
        request: &http::Request<B>,
        access: access::Access,
        cookie: CookieUse,
    ) -> Result<Caller, (AuthError, Caller)> {
        let settings = self.state.settings();
        let required =
            access.required_role(settings.registration_access, settings.discovery_access);
        let identified = self.state.security().identify(cookie, request.headers());
        // Another site's name for this node's address (DNS rebinding) makes its pages read what a cookie
        // shows.
        let identified = identified.and_then(|caller| match caller.via {
            Via::Cookie if !hosts::is_own(&self.state, request) => Err(AuthError::WrongHost),
            _ => Ok(caller),
        });
        let Some(required) = required else {
            // Nobody is asked, but whoever says who they are is named in the audit log.
            return Ok(identified.unwrap_or_default());
        };
        let caller = identified.map_err(|error| (error, Caller::default()))?;
        if !caller.has(required) {
            return Err((AuthError::RoleTooLow { required }, caller));
        }
        Ok(caller)
    }

    /// Puts the headers on that every answer has, and accounts for the request.
    pub(crate) fn close(&self, mut record: Record, mut response: Response<Body>) -> Response<Body> {
        if let Some(attempts) = response.extensions_mut().remove() {
            record.attempted(attempts);
        }
        if let Some(subject) = response.extensions_mut().remove() {
            record.about(subject);
        }
        let is_own = record.finished.attempts.is_empty();
        // What an instance answered is its own: tags and names of fields are left alone.
        if is_own {
            if let Some(asked) = &record.if_none_match {
                not_modified_if_matched(&record.finished.method, asked, &mut response);
            }
            if record.compatible {
                response.extensions_mut().extend(self.field_names.clone());
            }
        } else if pacing::is_watched(record.finished.version, &response) {
            response.extensions_mut().insert(Streamed);
        }
        let headers = response.headers_mut();
        // An upstream's own trace id wins.
        headers.entry(&self.trace_header).or_insert_with(|| record.context.trace_id.header_value());
        headers.entry(TRACEPARENT).or_insert_with(|| record.context.traceparent.header_value());
        if is_own {
            headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(NOSNIFF);
        }
        self.admit_origin(headers, record.member_origin);
        record.finished.status = response.status();
        if let Some(used) = &mut record.break_glass {
            used.status = Some(response.status());
        }
        self.account(record.finished);
        response
    }

    /// Accounts for a request that ends now.
    fn account(&self, mut finished: FinishedRequest) {
        let now_us = self.state.clock().monotonic_us();
        finished.duration_us = now_us.saturating_sub(finished.started_us);
        self.state.telemetry().request_finished(finished);
    }

    /// Whether discovery is anyone's and its answers have no headers but the usual ones.
    pub(crate) fn leaves_discovery_alone(&self) -> bool {
        self.state.settings().discovery_access == AccessMode::Open && self.cors_origin.is_none()
    }

    /// The header that carries the trace id.
    pub(crate) fn trace_header(&self) -> &HeaderName {
        &self.trace_header
    }

    /// Accounts for a look-up that was answered past the handlers, with a redirect.
    pub(crate) fn redirected(
        &self,
        target: &str,
        service: Arc<ServiceCounter>,
        context: RequestContext,
        started_us: u64,
    ) {
        self.account(FinishedRequest {
            subject: Subject::Lookup(Some(service)),
            method: Method::GET,
            target: FinishedRequest::kept(target, self.state.settings().log_queries),
            version: http::Version::HTTP_11,
            client: context.client.ip,
            trace_id: context.trace_id,
            traceparent: context.traceparent,
            started_us,
            duration_us: 0,
            status: StatusCode::FOUND,
            attempts: AttemptTrail::default(),
        });
    }

    /// Any `OPTIONS` on any path is 204; it grants something only to the origin that the operator
    /// named and, for what the dashboard uses, to pages of this cluster's members.
    fn preflight(&self, request: &Request) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.extensions_mut().extend(self.field_names.clone());
        let headers = response.headers_mut();
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        if !self.admit_origin(headers, self.member_origin(request)) {
            return response;
        }
        let methods = HeaderValue::from_static("GET,HEAD,PUT,PATCH,POST,DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        if let Some(wanted) = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        let vary = HeaderValue::from_static("Access-Control-Request-Headers");
        headers.append(header::VARY, vary);
        response
    }

    /// Lets a page of another member, or of the origin that the operator named, read this answer.
    /// Never with cookies: such a page brings a token of its own.
    fn admit_origin(&self, headers: &mut HeaderMap, member: Option<HeaderValue>) -> bool {
        if member.is_some() {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = member.or_else(|| self.cors_origin.clone()) else { return false };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        true
    }

    /// The request's origin if it is a member of this cluster and asks for what the dashboard uses.
    fn member_origin<B>(&self, request: &http::Request<B>) -> Option<HeaderValue> {
        let origin = request.headers().get(header::ORIGIN)?;
        let path = request.uri().path();
        let anyone = self.cors_origin.as_ref().is_some_and(|origin| origin == "*");
        if anyone || !(is_native(path) || path.starts_with(ACTUATOR)) {
            return None;
        }
        let members = origins::of_members(self.state.store().as_ref());
        members.iter().any(|member| member.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }
}

/// Longest trace id of a client that is kept, in bytes; the rest is cut off. It stands in every log line
/// and audit record of the request.
const TRACE_ID_LEN_MAX: usize = 128;

/// The names that a request goes by: those that it brings, or new ones. They have memory of their own: a
/// request's is a part of its connection's read buffer, which could not be used again while a record
/// keeps it.
pub(crate) fn context_of(
    trace_id: Option<&[u8]>,
    traceparent: Option<&[u8]>,
    client: ClientAddr,
) -> RequestContext {
    let copied = |value| HeaderValue::from_bytes(value).ok().map(TraceName::Given);
    let given = trace_id.map(|value| &value[..value.len().min(TRACE_ID_LEN_MAX)]);
    let given = given.filter(|value| !value.is_empty()).and_then(copied);
    let trace_id = given.unwrap_or_else(TraceName::new_id);
    let given = traceparent.filter(|value| trace::is_valid_traceparent(value)).and_then(copied);
    let traceparent = given.unwrap_or_else(TraceName::new_parent);
    RequestContext { trace_id, traceparent, client, answer_by_ms: None }
}

/// Tells a refusal in the style of the API that the path belongs to. The compatible one has fixed texts; the native one
/// says what is missing, and that a token which is not accepted is as good as none.
fn refusal(path: &str, error: AuthError) -> Response<Body> {
    let retry_after_s = matches!(error, AuthError::Stale { .. } | AuthError::NoState).then_some(5);
    if !is_native(path) {
        let text = error.to_string();
        return CompatError { retry_after_s, ..CompatError::new(error.status(), text) }
            .into_response();
    }
    let status = match error {
        AuthError::Invalid => StatusCode::UNAUTHORIZED,
        other => other.status(),
    };
    edge_error(path, CompatError { retry_after_s, ..CompatError::new(status, error.explained()) })
}

/// The compatible API knows no 405; the native one does.
fn no_such_method(path: &str) -> CompatError {
    if is_native(path) {
        let text = "this path has no such method; the OpenAPI document lists what it has";
        return CompatError::new(StatusCode::METHOD_NOT_ALLOWED, text);
    }
    CompatError::not_found()
}

/// Turns a 200 whose `ETag` the client has already into a 304.
pub(super) fn not_modified_if_matched(
    method: &Method,
    asked: &HeaderValue,
    response: &mut Response<Body>,
) {
    if response.status() != StatusCode::OK || !matches!(*method, Method::GET | Method::HEAD) {
        return;
    }
    let Some(tag) = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()) else {
        return;
    };
    let Ok(asked) = asked.to_str() else { return };
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let own = opaque(tag);
    if asked.trim() == "*" || asked.split(',').any(|candidate| opaque(candidate) == own) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_cut_where_it_is_too_long_to_be_logged() {
        let client = ClientAddr::direct([10, 0, 0, 1].into());
        let named = |given: &str| {
            context_of(Some(given.as_bytes()), None, client).trace_id_text().into_owned()
        };
        assert_eq!(named("order-17"), "order-17");
        assert_eq!(named(&"x".repeat(55_000)), "x".repeat(TRACE_ID_LEN_MAX));
        assert_ne!(named(""), "");
    }
}
