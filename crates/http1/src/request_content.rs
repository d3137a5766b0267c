//! The content of a client's request. The code that handles the request reads it from the connection.
//!
//! A task other than the connection's may read the content, also while the answer is written. So the reading half of
//! the connection is shared until the content was read, nobody wants it, or the exchange takes it back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::AsyncRead;

use super::content::Content;
use super::interim::Interim;
use super::reader::Reader;

/// Why the content of a request ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// The client closed the connection, it broke, or the exchange ended.
    #[error("the connection ended before the content did")]
    Closed,
    /// The chunks are malformed.
    #[error("the chunks are malformed")]
    Malformed,
}

/// The content of a request.
#[derive(Debug)]
pub struct RequestContent<R>(Option<Arc<Arriving<R>>>);

/// Content that has not arrived completely. Its reader and the exchange share it.
#[derive(Debug)]
pub(super) struct Arriving<R>(Mutex<State<R>>);

#[derive(Debug)]
struct State<R> {
    /// `None` once the exchange has taken the reading half back.
    reader: Option<Reader<R>>,
    content: Content,
    error: Option<ContentError>,
    /// Sends `100 Continue` when the content is asked for. `None` if the client does not wait for it, or no longer.
    expecting: Option<Interim>,
    /// False once the [`RequestContent`] was dropped.
    is_wanted: bool,
    /// The task of the exchange, if it waits until nobody reads the content any more.
    exchange: Option<Waker>,
    /// The task that waits for more content.
    reading: Option<Waker>,
}

impl<R> RequestContent<R> {
    /// No content.
    pub(super) fn empty() -> Self {
        Self(None)
    }

    /// The content that `reader` reads, and the exchange's share of it. `expecting` sends `100 Continue` once the
    /// content is asked for.
    pub(super) fn arriving(
        reader: Reader<R>,
        content: Content,
        expecting: Option<Interim>,
    ) -> (Self, Arc<Arriving<R>>) {
        let arriving = Arc::new(Arriving(Mutex::new(State {
            reader: Some(reader),
            content,
            error: None,
            expecting,
            is_wanted: true,
            exchange: None,
            reading: None,
        })));
        (Self(Some(Arc::clone(&arriving))), arriving)
    }
}

impl<R> Drop for RequestContent<R> {
    fn drop(&mut self) {
        if let Some(arriving) = &self.0 {
            let mut state = arriving.0.lock();
            state.is_wanted = false;
            state.wake_exchange(None);
        }
    }
}

impl<R> Arriving<R> {
    /// Ready once nobody reads the content any more. Returns the reading half, and the part of the content that was not
    /// read.
    pub(super) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<Option<(Reader<R>, Content)>> {
        let mut state = self.0.lock();
        if state.is_read() {
            store_waker(&mut state.exchange, cx.waker());
            return Poll::Pending;
        }
        Poll::Ready(state.take())
    }

    /// Takes the reading half back. If somebody still reads the content, the next read is an error.
    pub(super) fn take_back(&self) -> Option<(Reader<R>, Content)> {
        let mut state = self.0.lock();
        if let Some(reading) = state.reading.take() {
            reading.wake();
        }
        state.take()
    }

    /// Like [`Self::take_back`], but returns `None` if somebody may still read the content.
    pub(super) fn take_if_left(&self) -> Option<(Reader<R>, Content)> {
        let mut state = self.0.lock();
        if state.is_read() { None } else { state.take() }
    }
}

impl<R> State<R> {
    /// Whether somebody may read more of the content.
    fn is_read(&self) -> bool {
        self.is_wanted && self.error.is_none() && !self.content.is_over()
    }

    fn take(&mut self) -> Option<(Reader<R>, Content)> {
        self.reader.take().map(|reader| (reader, self.content))
    }

    /// Wakes the task of the exchange, unless it is the task `by`, which polls the reader itself and looks afterwards.
    fn wake_exchange(&mut self, by: Option<&Waker>) {
        let exchange = self.exchange.take();
        if let Some(exchange) = exchange.filter(|waker| !by.is_some_and(|by| by.will_wake(waker))) {
            exchange.wake();
        }
    }

    fn fail(&mut self, error: ContentError, by: &Waker) -> Frames {
        self.error = Some(error);
        self.wake_exchange(Some(by));
        Poll::Ready(Some(Err(error)))
    }
}

fn store_waker(stored: &mut Option<Waker>, waker: &Waker) {
    match stored {
        Some(stored) => stored.clone_from(waker),
        None => *stored = Some(waker.clone()),
    }
}

type Frames = Poll<Option<Result<Frame<Bytes>, ContentError>>>;

impl<R: AsyncRead + Unpin> State<R> {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Frames {
        if let Some(error) = self.error {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            if self.content.is_over() {
                self.wake_exchange(Some(cx.waker()));
                return Poll::Ready(None);
            }
            let Some(reader) = &mut self.reader else {
                return self.fail(ContentError::Closed, cx.waker());
            };
            match self.content.next(&mut reader.bytes) {
                Err(_) => return self.fail(ContentError::Malformed, cx.waker()),
                Ok(Some(frame)) => {
                    self.expecting = None;
                    if self.content.is_over() {
                        self.wake_exchange(Some(cx.waker()));
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(None) if self.content.is_over() => continue,
                Ok(None) => {}
            }
            if let Some(interim) = self.expecting.take() {
                interim.send(StatusCode::CONTINUE, &HeaderMap::new());
            }
            match reader.poll_read(cx) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return self.fail(ContentError::Closed, cx.waker()),
                Poll::Pending => {
                    store_waker(&mut self.reading, cx.waker());
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<R: AsyncRead + Unpin> Body for RequestContent<R> {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Frames {
        match &self.get_mut().0 {
            None => Poll::Ready(None),
            Some(arriving) => arriving.0.lock().poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|arriving| arriving.0.lock().content.is_over())
    }

    fn size_hint(&self) -> SizeHint {
        let len = self.0.as_ref().map(|arriving| arriving.0.lock().content.size_hint());
        len.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
