//! Response bodies for clients. They are streamed frame by frame.
//!
//! A frame is read only when the client has room for it, so a slow client slows its instance down.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as AxumBody;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::content::Content;
use super::error::{BoxError, ProxyError};
use super::framing;
use super::http1;
use super::in_flight::InFlightGuard;
use super::pool::Lease;
use super::timer::timer_now;
use super::upstream::InFlight;

/// What ends together with a response.
pub(crate) struct ResponseWatch {
    pub(crate) lease: Lease,
    pub(crate) in_flight: InFlight,
    pub(crate) idle: Duration,
    pub(crate) deadline: Option<Instant>,
    /// Counts the request as in flight until its last byte.
    pub(crate) in_flight_guard: InFlightGuard,
}

impl ResponseWatch {
    /// The last byte has arrived. `connection` is the HTTP/1 connection, if it can be used again.
    fn end(self, connection: Option<http1::Connection>) {
        self.lease.return_to_pool(connection);
        drop((self.in_flight, self.in_flight_guard));
    }
}

/// A response body for the client. Until its last byte, it holds the connection and counts the request as in flight. It
/// breaks off if the instance stalls.
pub(crate) struct ResponseBody {
    content: Content,
    watch: Option<ResponseWatch>,
    idle_timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    /// Why the content ends early. Set until the error is passed on.
    broken: Option<BoxError>,
}

impl ResponseBody {
    /// The body of a response. If it is empty, the connection returns to the pool at once.
    pub(crate) fn wrap(mut content: Content, watch: ResponseWatch) -> AxumBody {
        if content.is_end_stream() {
            watch.end(content.take_connection());
            return AxumBody::empty();
        }
        AxumBody::new(Self {
            content,
            watch: Some(watch),
            idle_timer: None,
            waiting: false,
            broken: None,
        })
    }

    fn finish(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.end(self.content.take_connection());
        }
    }

    fn break_off(&mut self, error: ProxyError) -> BoxError {
        if let Some(watch) = self.watch.take() {
            watch.in_flight.response_failed(&error);
        }
        error.into()
    }

    /// Whether a client that has fewer requests needs the connection.
    fn poll_displaced(&self, cx: &mut Context<'_>) -> bool {
        let leave = self.watch.as_ref().map(|watch| watch.lease.leave());
        leave.is_some_and(|leave| leave.poll_displaced(cx).is_ready())
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Option<ProxyError> {
        let watch = self.watch.as_ref()?;
        if !self.waiting {
            self.waiting = true;
            let mut until = timer_now() + watch.idle;
            if let Some(deadline) = watch.deadline {
                until = until.min(deadline);
            }
            match &mut self.idle_timer {
                Some(timer) => timer.as_mut().reset(until),
                None => self.idle_timer = Some(Box::pin(tokio::time::sleep_until(until))),
            }
        }
        self.idle_timer.as_mut()?.as_mut().poll(cx).is_ready().then(|| {
            let total = watch.deadline.is_some_and(|deadline| timer_now() >= deadline);
            if total { ProxyError::TotalTimeout } else { ProxyError::ResponseTimeout }
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match Pin::new(&mut this.content).poll_frame(cx) {
            Poll::Pending if this.poll_displaced(cx) => {
                Poll::Ready(Some(Err(this.break_off(ProxyError::Displaced))))
            }
            Poll::Pending => match this.poll_stalled(cx) {
                Some(error) => Poll::Ready(Some(Err(this.break_off(error)))),
                None => Poll::Pending,
            },
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting = false;
                if this.content.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(framing::without_misplaced(frame))))
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "an upstream's response broke off");
                // The server writes the bytes that it has only when there is nothing else to do. So the error comes one
                // turn later.
                this.broken = Some(this.break_off(ProxyError::Reset));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
