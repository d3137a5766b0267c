//! Discovery by redirect: answers with the address of an instance.

use std::net::IpAddr;

use axum::body::Body;
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Method, Request, Response, StatusCode};
use axum::response::IntoResponse;
use maxine_balance::{Fields, HashInput};

use super::NAMESPACE;
use crate::compat_error::CompatError;
use crate::look_ups::LookUpRequest;
use crate::{AppState, RequestContext};
use maxine_discovery::{DiscoverQuery, Outcome, Redirect};
use maxine_state::ServiceRef;
use maxine_telemetry::Subject;

/// The path of discovery, as the access table has it.
pub(crate) const DISCOVER: &str = "/api/maxine/serviceops/discover";

/// The type of a redirect's body if the client prefers no other.
pub(crate) const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// A discover request that is answered with a redirect.
pub(crate) struct LookUp<'a> {
    /// The request's query.
    pub(crate) query: DiscoverQuery<'a>,
    /// The query of the request as it was sent, with its percent escapes.
    pub(crate) raw_query: &'a str,
}

impl LookUp<'_> {
    /// Looks the service up. Nothing is counted or recorded before [`LookUp::account`].
    pub(crate) fn outcome(&self, state: &AppState, client: IpAddr, fields: &dyn Fields) -> Outcome {
        let Some(service) = self.query.service_name.as_deref() else { return Outcome::NoName };
        let queries = [self.query.end_point_query(), self.raw_query];
        let input = HashInput { address: client, fields, queries, key: None };
        let service = ServiceRef { namespace: NAMESPACE, service };
        maxine_discovery::look_up(state.view(), service, &input)
    }

    /// Counts and records the outcome. Returns the subject of the request, for telemetry.
    pub(crate) fn account(
        &self,
        state: &AppState,
        outcome: Outcome,
        method: &Method,
        context: &RequestContext,
        time_ms: u64,
    ) -> Subject {
        let service = self.query.service_name.as_deref().unwrap_or_default();
        let service = ServiceRef { namespace: NAMESPACE, service };
        let (way, mode) = ("redirect", self.query.mode.as_deref());
        LookUpRequest { service, way, mode, method, context, time_ms }.account(state, outcome)
    }
}

/// Answers a look-up. Returns the answer, and the subject of the request for telemetry.
pub(crate) fn answer_look_up<B>(
    state: &AppState,
    look_up: &LookUp<'_>,
    request: &Request<B>,
    context: &RequestContext,
) -> (Response<Body>, Subject) {
    let headers = request.headers();
    let outcome = look_up.outcome(state, context.client.ip, headers);
    let response = match &outcome {
        Outcome::Found(choice) => {
            let address = choice.instance.registration.address.as_str();
            found(headers, Redirect::new(address, look_up.query.end_point.as_deref()))
        }
        Outcome::NoInstance(_) | Outcome::NoService => {
            state.telemetry().metrics().lookups_without_instance.inc();
            CompatError::no_live_node().into_response()
        }
        Outcome::NoName => {
            CompatError::bad_request("Please provide the serviceName.").into_response()
        }
    };
    let time_ms = state.clock().wall_ms();
    (response, look_up.account(state, outcome, request.method(), context, time_ms))
}

/// A 302 with a body of the type that `Accept` prefers.
fn found(headers: &HeaderMap, redirect: Redirect) -> Response<Body> {
    let (kind, body) = match preferred(headers.get(header::ACCEPT).map(HeaderValue::as_bytes)) {
        Preferred::Text => (PLAIN_TEXT, Body::from(redirect.text)),
        Preferred::Html => {
            let url = redirect.url().replace('&', "&amp;").replace('\'', "&#39;");
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

/// Which of the two types an `Accept` prefers (RFC 9110, section 12.5.1): by weight, then by specificity,
/// then plain text.
pub(crate) fn preferred(accept: Option<&[u8]>) -> Preferred {
    let Some(accept) = accept else { return Preferred::Text };
    let accept = std::str::from_utf8(accept).ok().filter(|accept| accept.is_ascii());
    let Some(accept) = accept.filter(|accept| *accept != "*/*") else { return Preferred::Text };
    // Returns the weight in thousandths, and the specificity of the range that has it.
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
