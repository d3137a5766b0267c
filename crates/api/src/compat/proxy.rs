//! Forwards requests to instances: those whose path begins with the proxy's, and those of discovery by proxy.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{self, HeaderName};
use axum::http::{Method, Response, StatusCode};
use axum::response::IntoResponse;

use super::DISCOVER;
use super::json::{declared_len, refuse_body};
use super::{NAMESPACE, browsers};
use crate::compat_error::CompatError;
use crate::look_ups::{self, shown};
use crate::middleware::leave_out_body;
use crate::{AppState, Caller, RequestContext};
use maxine_admission::CallerClass;
use maxine_discovery::{DiscoverQuery, percent_decoded};
use maxine_gateway::{Chosen, ForwardContext, InterimSink, ProxyError};
use maxine_state::{OptionsPolicy, ServiceKey, ServiceRef};
use maxine_telemetry::events::{shown_path, url_of};
use maxine_telemetry::{AttemptTrail, ForwardHit, Subject};
use maxine_view::ServiceTable;

const PROXY_PREFIX: &str = "/api/maxine/serviceops/proxy/";
/// The proxy's paths in the access table. The access of both kinds of requests is decided by the second one.
pub(super) const PROXY_ROUTES: [&str; 2] =
    ["/api/maxine/serviceops/proxy/{service}", "/api/maxine/serviceops/proxy/{service}/{*path}"];
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request to forward, with the parts of its target that name the service.
pub(crate) enum Forward<'a> {
    /// A request whose path begins with the proxy's.
    ByPath {
        /// The name of the service, with its percent escapes.
        name: &'a str,
        /// The path below the service: empty, `/`, or `/x`. Its percent escapes are forwarded as they are.
        raw_path: &'a str,
        /// The query, with its percent escapes.
        raw_query: Option<&'a str>,
    },
    /// A request of discovery, with a query that names a service.
    ByDiscovery(DiscoverQuery<'a>),
}

impl<'a> Forward<'a> {
    /// The request with this path and query; `None` if the path does not begin with the proxy's.
    pub(crate) fn below_proxy(path: &'a str, raw_query: Option<&'a str>) -> Option<Self> {
        let rest = path.strip_prefix(PROXY_PREFIX)?;
        let (name, raw_path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        (!rest.is_empty()).then_some(Self::ByPath { name, raw_path, raw_query })
    }

    /// Whether the service's policy says that its instances answer `OPTIONS`.
    pub(crate) fn takes_options(&self, state: &AppState) -> bool {
        let Self::ByPath { name, .. } = self else { return false };
        let Some(service) = percent_decoded(name) else { return false };
        let reference = ServiceRef { namespace: NAMESPACE, service: &service };
        let forwards = |table: &Arc<ServiceTable>| {
            table.policy().is_some_and(|policy| policy.traffic.options == OptionsPolicy::Forward)
        };
        state.view().with_table(reference, forwards).unwrap_or(false)
    }

    /// Copies what forwarding needs out of the request's target, because the target is not available once the request
    /// is sent.
    pub(crate) fn read(self) -> Forwarding {
        match self {
            Self::ByPath { name, raw_path, raw_query } => {
                Forwarding { route: PROXY_ROUTES[1], asked: by_path(name, raw_path, raw_query) }
            }
            Self::ByDiscovery(query) => {
                Forwarding { route: DISCOVER, asked: Ok(by_discovery(&query)) }
            }
        }
    }
}

/// A request to forward, independent of the target that it was read from.
pub(crate) struct Forwarding {
    /// The path of its route in the access table.
    pub(crate) route: &'static str,
    asked: Result<Asked, CompatError>,
}

/// What a request asks for, and of which service.
struct Asked {
    service: String,
    target: Target,
    way: Way,
}

/// How a request reached the proxy, with the detail that telemetry records.
pub(super) enum Way {
    /// By the proxy's path. The value is the path below the service.
    Path(Box<str>),
    /// By discovery. The value is the mode that the request names, or `proxy`.
    Discovery(Box<str>),
}

fn by_path(name: &str, raw_path: &str, raw_query: Option<&str>) -> Result<Asked, CompatError> {
    let service = percent_decoded(name).filter(|name| !name.is_empty());
    let Some(service) = service.filter(|_| percent_decoded(raw_path).is_some()) else {
        return Err(CompatError::bad_request("The path has a malformed percent escape"));
    };
    let target = Target {
        raw_path: raw_path.to_owned(),
        raw_query: raw_query.map(ToOwned::to_owned),
        prefix: Some(format!("{PROXY_PREFIX}{name}")),
    };
    Ok(Asked { service, target, way: Way::path(raw_path) })
}

fn by_discovery(query: &DiscoverQuery<'_>) -> Asked {
    let target = query.end_point.as_deref().map(maxine_discovery::encode_end_point);
    let target = target.as_deref().unwrap_or_default();
    // A client never sends the part from `#` on.
    let target = target.split('#').next().unwrap_or_default();
    let (path, raw_query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let service = query.service_name.as_deref().unwrap_or_default().to_owned();
    let way = Way::Discovery(query.mode.as_deref().map_or("proxy".into(), shown));
    Asked { service, target: Target { raw_path: path.to_owned(), raw_query, prefix: None }, way }
}

impl Way {
    /// A request by the proxy's path, with this path below the service.
    pub(super) fn path(raw_path: &str) -> Self {
        Self::Path(shown_path(raw_path))
    }

    /// Counts and records a request for which an instance was chosen.
    pub(super) fn hit(
        self,
        state: &AppState,
        context: &RequestContext,
        service: ServiceKey,
        chosen: Chosen,
    ) {
        let telemetry = state.telemetry();
        match self {
            Self::Path(path) => telemetry.forwarded(|time_ms| ForwardHit {
                time_ms,
                service: service.service,
                instance: chosen.instance,
                share: chosen.share,
                path,
                target: chosen.target,
                trace_id: context.trace_id.clone(),
            }),
            Self::Discovery(mode) => {
                telemetry.metrics().discoveries.inc();
                telemetry.metrics().proxied_requests.inc();
                let registration = &chosen.instance.registration;
                telemetry.record(
                    "discovery.lookup",
                    "HIT",
                    vec![
                        ("serviceName", service.service.as_str().into()),
                        ("nodeName", format!("{}-{}", registration.id, chosen.share).into()),
                        ("address", url_of(&registration.address, &chosen.target).into()),
                        ("mode", mode.into_string().into()),
                        ("traceId", context.trace_id_text().into()),
                    ],
                );
            }
        }
    }

    /// Records a request for which there is no instance.
    fn miss(self, state: &AppState, context: &RequestContext, service: &str, method: &Method) {
        match self {
            Self::Path(path) => state.telemetry().record(
                "proxy.request",
                "MISS",
                vec![
                    ("serviceName", shown(service).into_string().into()),
                    ("proxyPath", path.into_string().into()),
                    ("traceId", context.trace_id_text().into()),
                ],
            ),
            Self::Discovery(_) => {
                let service = ServiceRef { namespace: NAMESPACE, service };
                look_ups::miss(state, context, service, method);
            }
        }
    }
}

/// Forwards a request. Returns the response, the outcome of each attempt, and the subject of the request for telemetry.
pub(crate) async fn forward(
    state: &AppState,
    forwarding: Forwarding,
    context: &RequestContext,
    request: Request,
    interim: Option<InterimSink>,
) -> (Response<Body>, AttemptTrail, Subject) {
    let unsent = |response, subject| (response, AttemptTrail::default(), subject);
    let Asked { service, target, way } = match forwarding.asked {
        Ok(asked) => asked,
        Err(error) => return unsent(error.into_response(), Subject::Proxied(None)),
    };
    let reference = ServiceRef { namespace: NAMESPACE, service: &service };
    let find =
        |table: &Arc<ServiceTable>| (Arc::clone(table.counter()), !table.endpoints().is_empty());
    let counter = state.view().with_table(reference, find);
    let subject = Subject::Proxied(counter.as_ref().map(|(counter, _)| Arc::clone(counter)));
    let Some((counter, _)) = counter.filter(|(_, is_live)| *is_live) else {
        way.miss(state, context, &service, request.method());
        state.telemetry().metrics().proxied_without_instance.inc();
        let mut response = CompatError::no_live_node().into_response();
        ProxyError::NoInstance.add_headers(response.headers_mut(), 0);
        return unsent(response, subject);
    };
    match forward_to(state, &counter.key, target, context, request, interim).await {
        Ok(Answer { response, chosen, attempts }) => {
            if let Some(chosen) = chosen {
                way.hit(state, context, counter.key.clone(), chosen);
            }
            (response, attempts, subject)
        }
        Err(error) => unsent(error.into_response(), subject),
    }
}

/// The target of the request to an instance.
struct Target {
    /// The path below the instance's address, with its percent escapes: empty, `/`, or `/x`.
    raw_path: String,
    /// The query, with its percent escapes.
    raw_query: Option<String>,
    /// The path under which clients reach the service. `None` in discovery, where it has no path of its own.
    prefix: Option<String>,
}

/// The answer to a request that was forwarded.
struct Answer {
    response: Response<Body>,
    /// The instance that answered or was tried last, if one was chosen.
    chosen: Option<Chosen>,
    attempts: AttemptTrail,
}

async fn forward_to(
    state: &AppState,
    key: &ServiceKey,
    target: Target,
    context: &RequestContext,
    mut request: Request,
    interim: Option<InterimSink>,
) -> Result<Answer, Box<CompatError>> {
    let body_len_max = state.settings().proxy_body_len_max;
    let sandboxed = state.settings().proxy_sandbox && browsers::is_browser(request.headers());
    if sandboxed && browsers::asks_for_worker(request.headers()) {
        let text = "A service worker would act for every page of this node";
        let refused = CompatError::new(StatusCode::FORBIDDEN, text);
        return Err(Box::new(refused));
    }
    browsers::strip_session_cookie(request.headers_mut());
    state.security().strip_tokens(request.headers_mut());
    let headers = request.headers();
    if body_len_max.is_some_and(|max| declared_len(headers).is_some_and(|len| len > max)) {
        let max = body_len_max.unwrap_or(u64::MAX);
        let refused = refuse_body(state.settings(), request, max).await;
        return Err(Box::new(refused));
    }
    // `Trailer` is removed like every field of the connection, unless it announces fields that follow a chunked body.
    let keep_trailer = headers.contains_key(header::TRANSFER_ENCODING);
    // In discovery, a service has no path of its own, so its cookies are limited to the path of discovery.
    let cookie_path = target.prefix.clone().unwrap_or_else(|| DISCOVER.to_owned());
    let forward = ForwardContext {
        service: key.clone(),
        raw_path: target.raw_path,
        raw_query: target.raw_query,
        prefix: target.prefix,
        client: context.client,
        caller_class: request
            .extensions()
            .get::<Caller>()
            .map_or(CallerClass::Stranger, Caller::class),
        trace: vec![
            (state.trace_header().clone(), context.trace_id.header_value()),
            (TRACEPARENT, context.traceparent.header_value()),
        ],
        span: context.traceparent.span(),
        body_len_max,
        keep_trailer,
        interim,
    };
    let is_head = request.method() == Method::HEAD;
    // The future is boxed, so that it is not copied on its way through the callers.
    let answer = Box::pin(state.forwarder().forward(forward, request)).await;
    let (mut response, attempts) = (answer.response, answer.trail);
    if answer.error == Some(ProxyError::NoInstance) {
        state.telemetry().metrics().proxied_without_instance.inc();
    }
    if is_head && answer.error.is_some() {
        leave_out_body(&mut response);
    }
    browsers::strip_reserved_fields(response.headers_mut());
    if sandboxed {
        browsers::limit_cookies_to(&cookie_path, response.headers_mut());
        let status = response.status();
        browsers::add_sandbox(response.headers_mut(), status);
    }
    Ok(Answer { response, chosen: answer.chosen, attempts })
}
