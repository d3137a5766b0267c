//! Receives every request that the fast path does not take. It answers look-ups and forwards requests to instances; all
//! other requests go to the router.
//!
//! Look-ups and forwarded requests do not use the router, because its work for a request (matching, layers, a box for
//! each) costs a third of forwarding one, and more than a whole look-up. [`Route`] recognises them by their path. They
//! pass the same edge as the requests of the router.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{self, HeaderMap, HeaderValue, Response, StatusCode, Version};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::middleware::{EdgeLayer, Shared};
use maxine_admission::{CallerClass, Places};
use maxine_clock::Clock;
use maxine_gateway::{InterimSink, Peer};
use maxine_http1::{Interim, PlainAnswer};
use maxine_identity::{CookieUse, TOKEN_HEADER};
use maxine_telemetry::{AttemptTrail, Subject};

use super::compat::{DISCOVER, Forwarding, LookUp, Relayed};
use super::face::{self, AnswerRoom, Face};
use super::fast_path::{FastPath, Relay};
use super::route::Route;
use super::{AppState, compat, compat_error, router};

/// Receives every request.
pub struct Front {
    router: Router,
    edge: Arc<Shared>,
    state: AppState,
    fast_path: Option<FastPath>,
    /// The faces that take some of the paths of this front.
    faces: Vec<Arc<dyn Face>>,
    /// The face that takes every request of this front.
    only_face: Option<Arc<dyn Face>>,
}

/// The outcome of [`Front::begin`].
pub(super) enum Begun {
    /// The request was a look-up, and this is its answer.
    Answered(Response<Body>),
    /// This face answers the request, through [`Front::answer_by_face`].
    OfFace(Arc<dyn Face>),
    /// [`Front::answer`] answers the request.
    Open(Rest),
}

/// What answers a request that is neither a look-up nor for a face.
pub(super) enum Rest {
    /// It is forwarded.
    Forwarding(Forwarding),
    /// The router answers it.
    Router,
}

impl Front {
    /// A front for a node's state.
    #[must_use]
    pub fn new(state: AppState) -> Self {
        Self::with_faces(state, Vec::new())
    }

    /// A front for a node's state, on which faces take their own paths.
    #[must_use]
    pub fn with_faces(state: AppState, faces: Vec<Arc<dyn Face>>) -> Self {
        let router = router::build(state.clone());
        let edge = EdgeLayer::new(state.clone()).shared();
        let fast_path = FastPath::new(state.clone(), Arc::clone(&edge));
        Self { router, edge, state, fast_path, faces, only_face: None }
    }

    /// A front on which one face takes every request.
    #[must_use]
    pub fn of_face(state: AppState, face: Arc<dyn Face>) -> Self {
        let edge = EdgeLayer::new(state.clone()).shared();
        let (router, faces) = (Router::new(), Vec::new());
        Self { router, edge, state, fast_path: None, faces, only_face: Some(face) }
    }

    /// The face that takes a path.
    fn face_of(&self, path: &str) -> Option<&Arc<dyn Face>> {
        self.only_face.as_ref().or_else(|| self.faces.iter().find(|face| face.takes(path)))
    }

    /// Ends the answers that have no end of their own, because the node stops.
    pub(super) fn end_streams(&self) {
        self.state.ending().cancel();
    }

    /// The node's clock.
    pub(super) fn clock(&self) -> &Clock {
        self.state.clock()
    }

    /// The fast path. `None` if the settings do not allow it.
    pub(super) fn fast_path(&self) -> Option<&FastPath> {
        self.fast_path.as_ref()
    }

    /// Which limits apply to a request of a client, who may use HTTPS, if it has a credential that is valid on this
    /// node.
    pub(super) fn user_class<B>(
        &self,
        request: &http::Request<B>,
        is_https: bool,
    ) -> Option<CallerClass> {
        let (uri, headers) = (request.uri(), request.headers());
        let token = self.face_of(uri.path()).and_then(|face| face.token(uri, headers));
        if let Some(token) = token.and_then(|token| HeaderValue::try_from(token).ok()) {
            let headers = HeaderMap::from_iter([(TOKEN_HEADER, token)]);
            let caller = self.state.security().identify(CookieUse::Never, is_https, &headers);
            return caller.ok().map(|caller| caller.class());
        }
        let caller = self.state.security().identify(CookieUse::Reads, is_https, headers);
        caller.ok().map(|caller| caller.class())
    }

    /// The places for the bytes of requests in flight.
    pub(super) fn bodies(&self) -> &Arc<Places> {
        self.state.bodies()
    }

    /// Answers a look-up, which needs only the view and never waits. For any other request, returns what answering it
    /// needs.
    pub(super) fn begin<B>(&self, peer: Peer, request: &http::Request<B>) -> Begun {
        if let Some(face) = self.face_of(request.uri().path()) {
            return Begun::OfFace(Arc::clone(face));
        }
        match Route::of_request(&self.state, request) {
            Route::LookUp(look_up) => Begun::Answered(self.look_up(peer, &look_up, request)),
            Route::Forward(forward) => Begun::Open(Rest::Forwarding(forward.read())),
            Route::Router => Begun::Open(Rest::Router),
        }
    }

    /// Answers a request of `peer` that needs `rest`. Interim answers to its client go through `interim`. Dropping the
    /// future aborts the request.
    pub(super) async fn answer(
        &self,
        peer: Peer,
        rest: Rest,
        interim: Option<Interim>,
        mut request: Request,
    ) -> Response<Body> {
        match rest {
            Rest::Forwarding(forwarding) => self.forward(peer, forwarding, interim, request).await,
            Rest::Router => {
                request.extensions_mut().insert(peer);
                // The router is always ready and never fails.
                let Ok(response) = self.router.clone().call(request).await;
                response
            }
        }
    }

    /// Lets a face answer a request of `peer`. Dropping the future aborts the request. It can wait for minutes, so it
    /// is boxed by itself and holds no memory for other kinds of requests.
    pub(super) fn answer_by_face(
        &self,
        face: Arc<dyn Face>,
        peer: Peer,
        room: AnswerRoom,
        request: Request,
    ) -> BoxFuture<'_, Response<Body>> {
        Box::pin(face::answer(&self.state, &self.edge, face, (peer, room), Box::new(request)))
    }

    /// Waits for the answer to a request that the fast path has sent, and accounts for it. A plain answer is returned
    /// as the bytes for the client, and every other answer as a response. Once the node is stopping, an answer
    /// announces the end of its connection. Interim answers go to `interim`. Dropping the future aborts the request.
    pub(super) async fn relay(
        &self,
        mut relay: Box<Relay>,
        interim: &OnceLock<Interim>,
        stop: &CancellationToken,
    ) -> Relayed<Vec<u8>> {
        let Relay { record, forward } = &mut *relay;
        let context = &record.context;
        let mut status = StatusCode::OK;
        let encode = |answer: &PlainAnswer<'_>| {
            let encoded = self.edge.encode(answer, context, !stop.is_cancelled())?;
            status = answer.status;
            Some(encoded)
        };
        let answer = forward.run(&self.state, context, interim, encode);
        let (relayed, attempts) = match AssertUnwindSafe(answer).catch_unwind().await {
            Ok(answered) => answered,
            Err(panic) => (Relayed::Other(compat_error::panicked(panic)), AttemptTrail::default()),
        };
        let Relay { mut record, .. } = *relay;
        record.attempted(attempts);
        match relayed {
            Relayed::Plain(encoded) => {
                self.edge.close_plain(record, status);
                Relayed::Plain(encoded)
            }
            Relayed::Other(response) => Relayed::Other(self.edge.close(record, response)),
        }
    }

    fn look_up<B>(
        &self,
        peer: Peer,
        look_up: &LookUp<'_>,
        request: &http::Request<B>,
    ) -> Response<Body> {
        let mut record = self.edge.open(request, peer);
        record.about(Subject::Lookup(None));
        let response = match self.edge.admit(request, Some(DISCOVER), &record.context) {
            Ok(caller) => {
                self.edge.track_break_glass(&mut record, &caller, request);
                let answer = AssertUnwindSafe(|| {
                    compat::answer_look_up(&self.state, look_up, request, &record.context)
                });
                match std::panic::catch_unwind(answer) {
                    Ok((response, subject)) => {
                        record.about(subject);
                        response
                    }
                    Err(panic) => compat_error::panicked(panic),
                }
            }
            Err(refusal) => *refusal,
        };
        self.edge.close(record, response)
    }

    async fn forward(
        &self,
        peer: Peer,
        forwarding: Forwarding,
        interim: Option<Interim>,
        mut request: Request,
    ) -> Response<Body> {
        let mut record = self.edge.open(&request, peer);
        record.about(Subject::Proxied(None));
        let response = match self.edge.admit(&request, Some(forwarding.route), &record.context) {
            Ok(caller) => {
                self.edge.track_break_glass(&mut record, &caller, &request);
                if caller.role.is_some() {
                    request.extensions_mut().insert(caller);
                }
                let interim = interim
                    .filter(|_| request.version() == Version::HTTP_11)
                    .map(|interim| InterimSink::new(interim, compat::strip_reserved_fields));
                let answer =
                    compat::forward(&self.state, forwarding, &record.context, request, interim);
                match AssertUnwindSafe(answer).catch_unwind().await {
                    Ok((response, attempts, subject)) => {
                        record.attempted(attempts);
                        record.about(subject);
                        response
                    }
                    Err(panic) => compat_error::panicked(panic),
                }
            }
            Err(refusal) => *refusal,
        };
        self.edge.close(record, response)
    }
}
