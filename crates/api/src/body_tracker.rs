//! Announces the end of a connection in an answer that was sent before the end of its request.
//!
//! The HTTP library closes such a connection, because the rest of the body would be read as the next request.
//! A client without the announcement sends its next request on the connection and loses it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::http::{HeaderValue, Request, Response, Version, header};
use hyper::body::{Body, Frame, SizeHint};

/// Whether the body of a request was read to its end.
pub(super) struct BodyTracker(Option<Arc<AtomicBool>>);

impl BodyTracker {
    /// Follows the body of an HTTP/1 request. In HTTP/2 each request has its own stream.
    pub(super) fn track<B: Body>(request: Request<B>) -> (Self, Request<TrackedBody<B>>) {
        let is_tracked = request.version() < Version::HTTP_2 && !request.body().is_end_stream();
        let ended = is_tracked.then(Arc::<AtomicBool>::default);
        let tracker = Self(ended.clone());
        (tracker, request.map(|body| TrackedBody { body, ended }))
    }

    /// Adds `Connection: close` to a refusal that did not wait for the end of the request.
    pub(super) fn close_if_unread<B>(&self, response: &mut Response<B>) {
        let Some(ended) = &self.0 else { return };
        let is_refusal = response.status().is_client_error() || response.status().is_server_error();
        if is_refusal && !ended.load(Ordering::Acquire) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
    }
}

/// A body with a flag for its end.
pub(super) struct TrackedBody<B> {
    body: B,
    ended: Option<Arc<AtomicBool>>,
}

impl<B: Body + Unpin> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(ended) = &self.ended
            && (frame.is_none() || self.body.is_end_stream())
        {
            ended.store(true, Ordering::Release);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
