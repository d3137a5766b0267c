//! The first fork: discovery and what is handed on to an instance go straight there, every other request through the
//! router.
//!
//! What the router does for a request (matching, its layers, a box for each) costs a third of handing it on and more than
//! all of a look-up, and neither needs it: their route is their path or its prefix. The edge is the same either way.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{Method, Response, Version};
use futures::FutureExt;
use tower::Service;

use super::middleware::{EdgeLayer, Shared};
use maxine_admission::Places;
use maxine_clock::Clock;
use maxine_gateway::{self, Interim, InterimTurn};
use maxine_identity::CookieUse;

use super::fast_path::FastPath;
use super::{AppState, compat, error, routes};

/// Takes every request.
pub struct Front {
    router: Router,
    edge: Arc<Shared>,
    state: AppState,
    fast_path: Option<FastPath>,
}

impl Front {
    /// For a node's state.
    #[must_use]
    pub fn new(state: AppState) -> Self {
        let router = routes::build(state.clone());
        let edge = EdgeLayer::new(state.clone()).shared();
        let fast_path = FastPath::new(state.clone(), Arc::clone(&edge));
        Self { router, edge, state, fast_path }
    }

    /// The node's clock.
    pub(super) fn clock(&self) -> &Clock {
        self.state.clock()
    }

    /// What comes before the HTTP library, where the settings allow it.
    pub(super) fn fast_path(&self) -> Option<&FastPath> {
        self.fast_path.as_ref()
    }

    /// Whether a request carries a credential that counts here.
    pub(super) fn knows_caller<B>(&self, request: &axum::http::Request<B>) -> bool {
        self.state.security().identify(CookieUse::Reads, request.headers()).is_ok()
    }

    /// The bytes of requests that may be under way.
    pub(super) fn bodies(&self) -> &Arc<Places> {
        self.state.bodies()
    }

    /// Answers what needs nothing but the view: discovery by redirect. `None` for all else.
    pub(super) fn at_once<B>(
        &self,
        peer: SocketAddr,
        request: &axum::http::Request<B>,
    ) -> Option<Response<Body>> {
        if request.method() != Method::GET || request.uri().path() != compat::DISCOVER {
            return None;
        }
        let mut record = self.edge.open(request, peer.ip());
        let response = match self.edge.admit(request, Some(compat::DISCOVER), &record.context) {
            Ok(caller) => {
                let (uri, headers) = (request.uri(), request.headers());
                let answer = AssertUnwindSafe(|| {
                    compat::discover_at_once(&self.state, &record.context, uri, headers)
                });
                let answer = std::panic::catch_unwind(answer)
                    .unwrap_or_else(|panic| Some(error::panicked(panic)))?;
                self.edge.follow(&mut record, &caller, request);
                answer
            }
            Err(refusal) => *refusal,
        };
        Some(self.edge.close(record, response))
    }

    /// Answers a request of `peer`, whose connection takes interim answers by `interim`. Dropped, it
    /// gives the request up.
    pub(super) async fn answer(
        &self,
        peer: SocketAddr,
        interim: &Interim,
        mut request: Request,
    ) -> Response<Body> {
        let path = request.uri().path();
        let goes_on = |_: &&str| {
            request.method() != Method::OPTIONS
                || compat::forwards_options(&self.state, path)
                    && !maxine_gateway::is_last_forward(request.headers())
        };
        let Some(route) = compat::proxied_route(path).filter(goes_on) else {
            request.extensions_mut().insert(ConnectInfo(peer));
            // The router is always ready, and never fails.
            let Ok(response) = self.router.clone().call(request).await;
            return response;
        };
        let mut record = self.edge.open(&request, peer.ip());
        let response = match self.edge.admit(&request, Some(route), &record.context) {
            Ok(caller) => {
                self.edge.follow(&mut record, &caller, &request);
                if caller.role.is_some() {
                    request.extensions_mut().insert(caller);
                }
                // HTTP/2 has its own way for them, which the library does not know either.
                let turn = (request.version() == Version::HTTP_11)
                    .then(|| interim.begin(compat::keep_own));
                let sink = turn.as_ref().map(InterimTurn::sink);
                let answer =
                    compat::forward_to_instance(&self.state, &record.context, request, sink);
                match AssertUnwindSafe(answer).catch_unwind().await {
                    Ok((response, attempts, subject)) => {
                        record.attempted(attempts);
                        record.about(subject);
                        response
                    }
                    Err(panic) => error::panicked(panic),
                }
            }
            Err(refusal) => *refusal,
        };
        self.edge.close(record, response)
    }
}
