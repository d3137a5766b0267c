//! Decides what a request asks for, from its method, its target and the settings.
//!
//! Place in the flow: the first step of the fast path and of the [`super::Front`]. They answer look-ups and forward
//! requests themselves. All other requests go to the router, which has no handlers for these two.

use axum::http::{self, Method};

use super::AppState;
use super::compat::{DISCOVER, Forward, LookUp};
use maxine_discovery::DiscoverQuery;
use maxine_state::DiscoveryMode;

/// What a request asks for.
pub(super) enum Route<'a> {
    /// The request asks for the address of an instance.
    LookUp(LookUp<'a>),
    /// The request asks for the answer of an instance.
    Forward(Forward<'a>),
    /// The request asks for something else, which the router handles.
    Router,
}

impl<'a> Route<'a> {
    /// The route of a request that the HTTP library has read.
    pub(super) fn of_request<B>(state: &AppState, request: &'a http::Request<B>) -> Self {
        let (method, uri) = (request.method(), request.uri());
        if *method == Method::OPTIONS && maxine_gateway::is_last_forward(request.headers()) {
            return Self::Router;
        }
        Self::of(state, method, uri.path(), uri.query())
    }

    /// The route of a request by its method and target. `OPTIONS` also depends on header fields, so use
    /// [`Self::of_request`] for it.
    pub(super) fn of(
        state: &AppState,
        method: &Method,
        path: &'a str,
        raw_query: Option<&'a str>,
    ) -> Self {
        if is_discovery(path) {
            return match *method {
                Method::GET | Method::HEAD => Self::of_discovery(state, raw_query),
                _ => Self::Router,
            };
        }
        match Forward::below_proxy(path, raw_query) {
            Some(forward) if *method != Method::OPTIONS || forward.takes_options(state) => {
                Self::Forward(forward)
            }
            _ => Self::Router,
        }
    }

    fn of_discovery(state: &AppState, raw_query: Option<&'a str>) -> Self {
        let raw_query = raw_query.unwrap_or_default();
        let query = DiscoverQuery::parse(raw_query);
        if query.service_name.is_some() && (query.asks_for_proxy() || proxies_by_default(state)) {
            return Self::Forward(Forward::ByDiscovery(query));
        }
        Self::LookUp(LookUp { query, raw_query })
    }
}

/// Whether this is the path of discovery, with or without a slash at the end.
pub(super) fn is_discovery(path: &str) -> bool {
    matches!(path.strip_prefix(DISCOVER), Some("" | "/"))
}

fn proxies_by_default(state: &AppState) -> bool {
    let mode = state.view().with_snapshot(|now| now.state.config().config.discovery_mode);
    mode == DiscoveryMode::Proxy
}
