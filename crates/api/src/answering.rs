//! Answers the requests of one connection, over any version of HTTP.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, Method, Request, Response};
use bytes::Bytes;
use futures::future::BoxFuture;

use super::Front;
use super::connection_place::ConnectionPlace;
use super::credential_check::CredentialCheck;
use super::front::Begun;
use super::middleware::leave_out_body;
use super::send_monitor::{AnswerRoom, Reader, UnsentBytes};
use super::well_formed::{self, Bounds};
use maxine_admission::CallerClass;
use maxine_gateway::{Peer, TrustedProxies};
use maxine_http1::Interim;

/// What is needed to answer the requests of one connection.
#[derive(Clone)]
pub(super) struct Answering {
    pub(super) front: Arc<Front>,
    /// The client that opened the connection.
    pub(super) peer: Peer,
    pub(super) caller_class: CallerClass,
    pub(super) proxies: TrustedProxies,
    pub(super) bounds: Bounds,
    pub(super) credential_check: Option<CredentialCheck>,
    /// The place of a stranger's connection.
    pub(super) place: Option<Arc<ConnectionPlace>>,
    /// The waiting bytes of the listener's answers.
    pub(super) unsent: UnsentBytes,
}

impl Answering {
    /// The client that an answer is for: the peer, or the client that a trusted proxy names.
    pub(super) fn reader(&self, headers: &HeaderMap) -> Reader {
        let Self { peer, caller_class, .. } = self;
        if *caller_class != CallerClass::Trusted {
            return Reader { address: peer.ip, caller_class: *caller_class };
        }
        let address = self.proxies.resolve(*peer, headers).ip;
        let is_proxy = self.proxies.contains(address);
        let caller_class = if is_proxy { CallerClass::Trusted } else { CallerClass::Stranger };
        Reader { address, caller_class }
    }

    /// The answer to a request that is refused before it is handled.
    pub(super) fn refusal<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let refusal = well_formed::refusal(request, self.bounds);
        let is_https = || self.proxies.resolve(self.peer, request.headers()).is_https;
        if let Some(place) = self.place.as_ref().filter(|_| refusal.is_none()) {
            place.request(|| self.front.user_class(request, is_https()));
        }
        let mut refusal = refusal.or_else(|| {
            let check = self.credential_check.as_ref()?;
            check.refusal(&self.front, request, is_https())
        })?;
        if request.method() == Method::HEAD {
            leave_out_body(&mut refusal);
        }
        Some(refusal)
    }

    /// Answers a request that is not refused. Interim answers to its client go through `interim`.
    pub(super) async fn answer<B>(
        &self,
        request: Request<B>,
        interim: Option<Interim>,
    ) -> Response<Body>
    where
        B: HttpBody<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
    {
        let Self { front, peer, .. } = self;
        let with_body = |request: Request<B>| {
            request.map(|body| if body.is_end_stream() { Body::empty() } else { Body::new(body) })
        };
        // The futures are boxed, so that a refused request and an idle connection do not hold memory for them.
        let answer: BoxFuture<'_, Response<Body>> = match front.begin(*peer, &request) {
            Begun::Answered(response) => return response,
            Begun::OfFace(face) => {
                let reader = self.reader(request.headers());
                let room = AnswerRoom::new(self.unsent.clone(), reader, request.version());
                front.answer_by_face(face, *peer, room, with_body(request))
            }
            Begun::Open(rest) => Box::pin(front.answer(*peer, rest, interim, with_body(request))),
        };
        answer.await
    }
}
