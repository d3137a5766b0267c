//! Discovery: by redirect, or by handing the request on.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode, Uri};
use axum::response::IntoResponse;
use maxine_balance::{Fields, HashInput};

use super::NAMESPACE;
use super::proxy::{HandedOn, Refusal, Target, forward, with_account};
use crate::error::CompatError;
use crate::{AppState, RequestContext};
use maxine_discovery::{Choice, DiscoverQuery, Redirect};
use maxine_state::{DiscoveryMode, ServiceRef};
use maxine_telemetry::AttemptTrail;
use maxine_telemetry::events::url_of;
use maxine_telemetry::{LookupHit, Mode, Subject, TraceName};
use maxine_view::ServiceCounter;

/// The type of a redirect's body where nothing else is preferred.
pub(crate) const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
/// The path and the route of discovery.
pub(crate) const DISCOVER: &str = "/api/maxine/serviceops/discover";

/// `GET /api/maxine/serviceops/discover`, for what comes through the router.
pub(super) async fn discover(State(state): State<AppState>, request: Request) -> Response<Body> {
    let uri = request.uri().clone();
    let query = DiscoverQuery::parse(uri.query().unwrap_or_default());
    let context = context_of(&request);
    if let Some(answer) = redirect(&state, &context, &query, &uri, request.headers()) {
        return answer;
    }
    let service = query.service_name.as_deref().unwrap_or_default();
    let target = query.end_point.as_deref().map(maxine_discovery::encode_end_point);
    discover_by_proxy(&state, service, target, &query, context, request).await
}

/// What discovery answers without calling an instance; `None` where the request is to be handed on.
pub(crate) fn discover_at_once(
    state: &AppState,
    context: &RequestContext,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<Response<Body>> {
    let query = DiscoverQuery::parse(uri.query().unwrap_or_default());
    redirect(state, context, &query, uri, headers)
}

fn redirect(
    state: &AppState,
    context: &RequestContext,
    query: &DiscoverQuery<'_>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<Response<Body>> {
    let answer = |service, answer: Result<_, CompatError>| {
        let mut response = answer.unwrap_or_else(IntoResponse::into_response);
        response.extensions_mut().insert(Subject::Lookup(service));
        Some(response)
    };
    let Some(service) = query.service_name.as_deref() else {
        let error = CompatError::bad_request("Please provide the serviceName.");
        return answer(None, Err(error));
    };
    if query.asks_for_proxy() || proxies_by_default(state) {
        return None;
    }
    let raw_query = uri.query().unwrap_or_default();
    let asked = Asked { client: context.client.ip, fields: headers, raw_query };
    let service = ServiceRef { namespace: NAMESPACE, service };
    let Some(choice) = maxine_discovery::look_up(state.view(), service, &asked.input(query)) else {
        miss(state, context, service.service, "GET");
        return answer(state.view().counter(service), Err(CompatError::no_live_node()));
    };
    let address = choice.instance.registration.address.as_str();
    let Some(redirect) = Redirect::new(address, query.end_point.as_deref()) else {
        return answer(Some(choice.service), Err(CompatError::no_live_node()));
    };
    let response = found(headers, redirect);
    let counter = Arc::clone(&choice.service);
    let time_ms = state.clock().wall_ms();
    hit(state, choice, context.trace_id.clone(), query.mode.as_deref(), time_ms);
    answer(Some(counter), Ok(response))
}

/// What the choice of an instance depends on, as it is read of a discover request.
pub(crate) struct Asked<'a> {
    /// The client's network address.
    pub(crate) client: IpAddr,
    /// The request's header fields.
    pub(crate) fields: &'a dyn Fields,
    /// The request's query, raw.
    pub(crate) raw_query: &'a str,
}

impl<'a> Asked<'a> {
    fn input(&self, query: &'a DiscoverQuery<'_>) -> HashInput<'a> {
        let queries = [query.end_point_query(), self.raw_query];
        HashInput { address: self.client, fields: self.fields, queries, key: None }
    }
}

/// What a look-up found, before anyone is told.
pub(crate) struct Found<'a> {
    choice: Choice,
    query: DiscoverQuery<'a>,
}

/// Looks up where a discover request leads. `None`, and nothing done, where it is to be answered by anything
/// but a redirect.
pub(crate) fn find<'a>(state: &AppState, asked: &Asked<'a>) -> Option<Found<'a>> {
    let query = DiscoverQuery::parse(asked.raw_query);
    let service = query.service_name.as_deref()?;
    if query.asks_for_proxy() || proxies_by_default(state) {
        return None;
    }
    let service = ServiceRef { namespace: NAMESPACE, service };
    let choice = maxine_discovery::look_up(state.view(), service, &asked.input(&query))?;
    Some(Found { choice, query })
}

impl Found<'_> {
    /// The service.
    pub(crate) fn service(&self) -> Arc<ServiceCounter> {
        Arc::clone(&self.choice.service)
    }

    /// Appends the `Location`.
    pub(crate) fn push_location(&self, out: &mut Vec<u8>) {
        let address = self.choice.instance.registration.address.as_str();
        maxine_discovery::push_location(out, address, self.query.end_point.as_deref());
    }

    /// Notes that the client is told at `time_ms`.
    pub(crate) fn told(self, state: &AppState, trace_id: TraceName, time_ms: u64) {
        hit(state, self.choice, trace_id, self.query.mode.as_deref(), time_ms);
    }
}

pub(super) fn context_of(request: &Request) -> RequestContext {
    // The edge has put it there; without an edge there is no route.
    request.extensions().get::<RequestContext>().cloned().unwrap_or_default()
}

fn proxies_by_default(state: &AppState) -> bool {
    let mode = state.view().with_snapshot(|now| now.state.config().config.discovery_mode);
    mode == DiscoveryMode::Proxy
}

/// 302, with a body as `Accept` asks for it.
fn found(headers: &HeaderMap, redirect: Redirect) -> Response<Body> {
    let (kind, body) = match preferred(headers.get(header::ACCEPT).map(HeaderValue::as_bytes)) {
        Preferred::Text => (PLAIN_TEXT, Body::from(redirect.text)),
        Preferred::Html => {
            let url = redirect.location.to_str().unwrap_or_default();
            let url = url.replace('&', "&amp;").replace('\'', "&#39;");
            let html = format!("<p>Found. Redirecting to <a href=\"{url}\">{url}</a></p>");
            ("text/html; charset=utf-8", Body::from(html))
        }
        Preferred::Nothing => ("", Body::empty()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, redirect.location);
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    if !kind.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preferred {
    Text,
    Html,
    Nothing,
}

/// Which of the two texts an `Accept` prefers (RFC 9110, section 12.5.1): by weight, then by how
/// exactly it is named, then plain text.
pub(crate) fn preferred(accept: Option<&[u8]>) -> Preferred {
    let Some(accept) = accept else { return Preferred::Text };
    let accept = std::str::from_utf8(accept).ok().filter(|accept| accept.is_ascii());
    let Some(accept) = accept.filter(|accept| *accept != "*/*") else { return Preferred::Text };
    // In thousandths of weight, and how exactly it is named.
    let score = |kind: &str| -> (u32, u8) {
        let ranges = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let exactness = match parts.next()?.to_ascii_lowercase().as_str() {
                "*/*" => 1,
                "text/*" => 2,
                name if name == kind => 3,
                _ => return None,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            Some((exactness, (weight.unwrap_or(1.0).clamp(0.0, 1.0) * 1_000.0) as u32))
        });
        ranges.max().map_or((0, 0), |(exactness, weight)| (weight, exactness))
    };
    let (text, html) = (score("text/plain"), score("text/html"));
    match (text.0, html.0) {
        (0, 0) => Preferred::Nothing,
        _ if text >= html => Preferred::Text,
        _ => Preferred::Html,
    }
}

fn hit(state: &AppState, choice: Choice, trace_id: TraceName, asked: Option<&str>, time_ms: u64) {
    state.telemetry().lookup_hit(|| LookupHit {
        time_ms,
        service: choice.service,
        instance: choice.instance,
        share: choice.share,
        mode: asked.map_or(Mode::Configured("redirect"), |mode| Mode::Asked(shortened(mode))),
        trace_id,
    });
}

pub(super) fn shortened(text: &str) -> Box<str> {
    text.chars().take(64).collect::<String>().into()
}

fn miss(state: &AppState, context: &RequestContext, service: &str, method: &str) {
    state.telemetry().record(
        "discovery.lookup",
        "MISS",
        vec![
            ("serviceName", shortened(service).into_string().into()),
            ("method", method.into()),
            ("traceId", context.trace_id_text().into()),
        ],
    );
}

async fn discover_by_proxy(
    state: &AppState,
    service: &str,
    target: Option<String>,
    query: &DiscoverQuery<'_>,
    context: RequestContext,
    request: Request,
) -> Response<Body> {
    let target = target.unwrap_or_default();
    // What follows `#` stays with whoever wrote it.
    let target = target.split('#').next().unwrap_or_default();
    let (path, query_of_target) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    let target = Target { raw_path: path.to_owned(), raw_query: query_of_target, prefix: None };
    let method = request.method().clone();
    let (subject, answer) = forward(state, service, target, &context, request, None).await;
    let HandedOn { response, chosen, attempts } = match answer {
        Ok(answer) => answer,
        Err(refusal) => {
            if matches!(refusal, Refusal::NoLiveNode) {
                miss(state, &context, service, method.as_str());
            }
            return with_account(refusal.into_response(), AttemptTrail::default(), subject);
        }
    };
    if let Some((_, chosen)) = chosen {
        state.telemetry().metrics().discoveries.inc();
        state.telemetry().metrics().proxied_requests.inc();
        let mode = query.mode.as_deref().map_or("proxy".into(), shortened);
        let registration = &chosen.instance.registration;
        state.telemetry().record(
            "discovery.lookup",
            "HIT",
            vec![
                ("serviceName", service.into()),
                ("nodeName", format!("{}-{}", registration.id, chosen.share).into()),
                ("address", url_of(&registration.address, &chosen.target).into()),
                ("mode", mode.into_string().into()),
                ("traceId", context.trace_id_text().into()),
            ],
        );
    }
    with_account(response, attempts, subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_chooses_the_body() {
        for (accept, expected) in [
            ("*/*", Preferred::Text),
            ("text/plain", Preferred::Text),
            ("text/html", Preferred::Html),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Preferred::Html),
            ("text/html;q=0.1, text/plain", Preferred::Text),
            ("text/*", Preferred::Text),
            ("application/json", Preferred::Nothing),
            ("text/html;q=0", Preferred::Nothing),
            ("", Preferred::Nothing),
        ] {
            assert_eq!(preferred(Some(accept.as_bytes())), expected, "{accept:?}");
        }
        assert_eq!(preferred(None), Preferred::Text);
    }
}
