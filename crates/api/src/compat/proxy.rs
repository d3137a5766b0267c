//! Handing requests on to an instance: the proxy route, and what discovery by proxy shares with it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;

use super::discover::{DISCOVER, context_of, shortened};
use super::json::{declared_len, refuse_body};
use super::{NAMESPACE, browsers};
use crate::error::CompatError;
use crate::{AppState, Caller, RequestContext};
use maxine_gateway::{Chosen, ForwardContext, InterimSink, ProxyError};
use maxine_state::{OptionsPolicy, ServiceKey, ServiceRef};
use maxine_telemetry::AttemptTrail;
use maxine_telemetry::events::shown_path;
use maxine_telemetry::{ForwardHit, Subject};
use maxine_view::ServiceTable;

const PROXY_PREFIX: &str = "/api/maxine/serviceops/proxy/";
/// The route that hands on, by which its access is decided.
const PROXY_ROUTE: &str = "/api/maxine/serviceops/proxy/{service}/{*path}";
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The route of a path that is handed on; `None` for one that is not.
pub(crate) fn proxied_route(path: &str) -> Option<&'static str> {
    let rest = path.strip_prefix(PROXY_PREFIX)?;
    (!rest.is_empty() && !rest.starts_with('/')).then_some(PROXY_ROUTE)
}

/// Whether an `OPTIONS` request for this path goes to an instance, as the service's policy says.
pub(crate) fn forwards_options(state: &AppState, path: &str) -> bool {
    let name = path.strip_prefix(PROXY_PREFIX).and_then(|rest| rest.split('/').next());
    let Some(service) = name.and_then(maxine_discovery::percent_decoded) else { return false };
    let reference = ServiceRef { namespace: NAMESPACE, service: &service };
    let forwards = |table: &Arc<ServiceTable>| {
        table.policy().is_some_and(|policy| policy.traffic.options == OptionsPolicy::Forward)
    };
    state.view().with_table(reference, forwards).unwrap_or(false)
}

/// `ALL /api/maxine/serviceops/proxy/{serviceName}/{path...}`, for what comes through the router.
pub(super) async fn proxy(State(state): State<AppState>, request: Request) -> Response<Body> {
    let context = context_of(&request);
    let (response, attempts, subject) = forward_to_instance(&state, &context, request, None).await;
    with_account(response, attempts, subject)
}

/// Puts what the edge accounts for where it finds it behind the router.
pub(super) fn with_account(
    mut response: Response<Body>,
    attempts: AttemptTrail,
    subject: Subject,
) -> Response<Body> {
    if !attempts.is_empty() {
        response.extensions_mut().insert(attempts);
    }
    response.extensions_mut().insert(subject);
    response
}

/// Forwards a request; the answer, the outcome of each attempt, and what the request was. The path is read raw: its
/// escapes are the upstream's business.
pub(crate) async fn forward_to_instance(
    state: &AppState,
    context: &RequestContext,
    request: Request,
    interim: Option<InterimSink>,
) -> (Response<Body>, AttemptTrail, Subject) {
    let unsent = |response| (response, AttemptTrail::default(), Subject::Proxied(None));
    let uri = request.uri().clone();
    let Some(rest) = uri.path().strip_prefix(PROXY_PREFIX) else {
        return unsent(CompatError::not_found().into_response());
    };
    let (name, raw_path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let service = maxine_discovery::percent_decoded(name).filter(|name| !name.is_empty());
    let Some(service) = service.filter(|_| maxine_discovery::percent_decoded(raw_path).is_some())
    else {
        let text = "The path has a malformed percent escape";
        return unsent(CompatError::bad_request(text).into_response());
    };
    let shown = shown_path(raw_path);
    let target = Target {
        raw_path: raw_path.to_owned(),
        raw_query: uri.query().map(ToOwned::to_owned),
        prefix: Some(format!("{PROXY_PREFIX}{name}")),
    };
    let (subject, answer) = forward(state, &service, target, context, request, interim).await;
    let HandedOn { response, chosen, attempts } = match answer {
        Ok(answer) => answer,
        Err(refusal) => {
            if matches!(refusal, Refusal::NoLiveNode) {
                state.telemetry().record(
                    "proxy.request",
                    "MISS",
                    vec![
                        ("serviceName", shortened(&service).into_string().into()),
                        ("proxyPath", shown.into_string().into()),
                        ("traceId", context.trace_id_text().into()),
                    ],
                );
            }
            return (refusal.into_response(), AttemptTrail::default(), subject);
        }
    };
    if let Some((key, chosen)) = chosen {
        state.telemetry().forwarded(|time_ms| ForwardHit {
            time_ms,
            service: key.service,
            instance: chosen.instance,
            share: chosen.share,
            path: shown,
            target: chosen.target,
            trace_id: context.trace_id.clone(),
        });
    }
    (response, attempts, subject)
}

/// What an instance is asked for.
pub(super) struct Target {
    /// The raw path below its address: empty, `/`, or `/x`.
    pub(super) raw_path: String,
    /// The raw query.
    pub(super) raw_query: Option<String>,
    /// The path that clients reach the service below, where it has one of its own.
    pub(super) prefix: Option<String>,
}

/// A request that was handed on.
pub(super) struct HandedOn {
    /// The answer.
    pub(super) response: Response<Body>,
    /// Which instance of which service was chosen, if one was.
    pub(super) chosen: Option<(ServiceKey, Chosen)>,
    /// What became of each attempt.
    pub(super) attempts: AttemptTrail,
}

/// Why a request was not handed on.
pub(super) enum Refusal {
    NoLiveNode,
    Other(Box<CompatError>),
}

impl Refusal {
    pub(super) fn into_response(self) -> Response<Body> {
        match self {
            Self::NoLiveNode => {
                let mut response = CompatError::no_live_node().into_response();
                ProxyError::NoInstance.mark(response.headers_mut(), 0);
                response
            }
            Self::Other(error) => error.into_response(),
        }
    }
}

/// Forwards the request, and says what it was.
pub(super) async fn forward(
    state: &AppState,
    service: &str,
    target: Target,
    context: &RequestContext,
    request: Request,
    interim: Option<InterimSink>,
) -> (Subject, Result<HandedOn, Refusal>) {
    let reference = ServiceRef { namespace: NAMESPACE, service };
    let find =
        |table: &Arc<ServiceTable>| (Arc::clone(table.counter()), !table.endpoints().is_empty());
    let Some((counter, is_live)) = state.view().with_table(reference, find) else {
        return (Subject::Proxied(None), Err(Refusal::NoLiveNode));
    };
    let answer = match is_live {
        true => forward_to(state, &counter.key, target, context, request, interim).await,
        false => Err(Refusal::NoLiveNode),
    };
    (Subject::Proxied(Some(counter)), answer)
}

async fn forward_to(
    state: &AppState,
    key: &ServiceKey,
    target: Target,
    context: &RequestContext,
    mut request: Request,
    interim: Option<InterimSink>,
) -> Result<HandedOn, Refusal> {
    let body_len_max = state.settings().proxy_body_len_max;
    let sandboxed = state.settings().proxy_sandbox && browsers::is_browser(request.headers());
    if sandboxed && browsers::asks_for_worker(request.headers()) {
        let text = "A service worker would act for every page of this node";
        let refused = CompatError::new(StatusCode::FORBIDDEN, text);
        return Err(Refusal::Other(Box::new(refused)));
    }
    browsers::hide_session(request.headers_mut());
    state.security().withhold_tokens(request.headers_mut());
    let headers = request.headers();
    if body_len_max.is_some_and(|max| declared_len(headers).is_some_and(|len| len > max)) {
        let max = body_len_max.unwrap_or(u64::MAX);
        let refused = refuse_body(state.settings(), request, max).await;
        return Err(Refusal::Other(Box::new(refused)));
    }
    // `Trailer` is dropped like every field of the connection, unless it announces what follows a
    // body in chunks.
    let keep_trailer = headers.contains_key(header::TRANSFER_ENCODING);
    // Where the service has no path of its own, its cookies go with look-ups only.
    let cookie_path = target.prefix.clone().unwrap_or_else(|| DISCOVER.to_owned());
    let forward = ForwardContext {
        service: key.clone(),
        raw_path: target.raw_path,
        raw_query: target.raw_query,
        prefix: target.prefix,
        client: context.client,
        is_known: request.extensions().get::<Caller>().is_some_and(|caller| caller.role.is_some()),
        https: false,
        trace: vec![
            (state.trace_header().clone(), context.trace_id.header_value()),
            (TRACEPARENT, context.traceparent.header_value()),
        ],
        body_len_max,
        keep_trailer,
        interim,
    };
    // In a box, so that the future is not copied on its way through the callers.
    let answer = Box::pin(state.forwarder().forward(forward, request)).await;
    let (mut response, attempts) = (answer.response, answer.trail);
    browsers::keep_own(response.headers_mut());
    if sandboxed {
        browsers::keep_cookies_below(&cookie_path, response.headers_mut());
        let status = response.status();
        browsers::shut_off(response.headers_mut(), status);
    }
    let chosen = answer.chosen.map(|chosen| (key.clone(), chosen));
    Ok(HandedOn { response, chosen, attempts })
}
