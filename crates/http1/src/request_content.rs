//! The content of a client's request, read from its connection by whoever handles the request.
//!
//! While content arrives, its reader has the reading half of the connection. It gives it back at the end of the
//! content, or when nobody wants more of it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::AsyncRead;

use super::content::{Content, Reader};
use super::interim::Interim;

/// Why the content of a request ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// The client closed the connection, or it broke.
    #[error("the connection ended before the content did")]
    Closed,
    /// The chunks are malformed.
    #[error("the chunks are malformed")]
    Malformed,
}

/// The content of a request.
#[derive(Debug)]
pub struct RequestContent<R>(Option<Box<Arriving<R>>>);

/// Content that has not arrived whole.
#[derive(Debug)]
struct Arriving<R> {
    /// `None` once it was given back.
    reader: Option<Reader<R>>,
    content: Content,
    error: Option<ContentError>,
    shelf: Arc<Shelf<R>>,
    /// Where `100 Continue` goes when the content is asked for; `None` if the client does not wait for it.
    expecting: Option<Interim>,
}

/// Where the reading half of a connection waits for the rest of the exchange.
#[derive(Debug)]
pub(super) struct Shelf<R> {
    returned: Mutex<Option<Returned<R>>>,
    /// The task of the exchange.
    exchange: Mutex<Option<Waker>>,
}

/// The reading half, and what is left of the content.
#[derive(Debug)]
pub(super) struct Returned<R> {
    pub(super) reader: Reader<R>,
    pub(super) content: Content,
}

impl<R> Shelf<R> {
    /// Takes the reading half, if it was given back. Otherwise the task is woken when it is.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Returned<R>> {
        if let Some(returned) = self.returned.lock().take() {
            return Poll::Ready(returned);
        }
        let mut exchange = self.exchange.lock();
        if !exchange.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *exchange = Some(cx.waker().clone());
        }
        drop(exchange);
        // It may have been given back meanwhile.
        self.take().map_or(Poll::Pending, Poll::Ready)
    }

    /// Takes the reading half, if it was given back.
    pub(super) fn take(&self) -> Option<Returned<R>> {
        self.returned.lock().take()
    }

    /// Gives the reading half back. `by` is the task that does so, if it is known.
    fn give_back(&self, returned: Returned<R>, by: Option<&Waker>) {
        *self.returned.lock() = Some(returned);
        let exchange = self.exchange.lock().take();
        // The task of the exchange looks by itself after it has polled whoever reads the content.
        if let Some(exchange) = exchange.filter(|waker| !by.is_some_and(|by| by.will_wake(waker))) {
            exchange.wake();
        }
    }
}

impl<R> RequestContent<R> {
    /// No content.
    pub(super) fn empty() -> Self {
        Self(None)
    }

    /// The content that `reader` reads. `expecting` receives `100 Continue` once the content is asked for.
    pub(super) fn arriving(
        reader: Reader<R>,
        content: Content,
        expecting: Option<Interim>,
    ) -> (Self, Arc<Shelf<R>>) {
        let shelf = Arc::new(Shelf { returned: Mutex::default(), exchange: Mutex::default() });
        let reader = Some(reader);
        let arriving =
            Arriving { reader, content, error: None, shelf: Arc::clone(&shelf), expecting };
        (Self(Some(Box::new(arriving))), shelf)
    }
}

impl<R> Arriving<R> {
    fn give_back(&mut self, by: Option<&Waker>) {
        if let Some(reader) = self.reader.take() {
            self.shelf.give_back(Returned { reader, content: self.content }, by);
        }
    }
}

impl<R> Drop for Arriving<R> {
    fn drop(&mut self) {
        self.give_back(None);
    }
}

impl<R: AsyncRead + Unpin> Arriving<R> {
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        if let Some(error) = self.error {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            let Some(reader) = &mut self.reader else { return Poll::Ready(None) };
            match self.content.next(&mut reader.bytes) {
                Err(_) => return self.fail(ContentError::Malformed),
                Ok(Some(frame)) => {
                    self.expecting = None;
                    if self.content.is_over() {
                        self.give_back(Some(cx.waker()));
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(None) if self.content.is_over() => {
                    self.give_back(Some(cx.waker()));
                    return Poll::Ready(None);
                }
                Ok(None) => {}
            }
            if let Some(interim) = self.expecting.take() {
                interim.send(StatusCode::CONTINUE, &http::HeaderMap::new());
            }
            match ready!(reader.poll_read(cx)) {
                Ok(0) | Err(_) => return self.fail(ContentError::Closed),
                Ok(_) => {}
            }
        }
    }

    /// The reading half stays here: nothing that follows can be trusted.
    fn fail(&mut self, error: ContentError) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        self.error = Some(error);
        Poll::Ready(Some(Err(error)))
    }
}

impl<R: AsyncRead + Unpin> Body for RequestContent<R> {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        match &mut self.get_mut().0 {
            None => Poll::Ready(None),
            Some(arriving) => arriving.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|arriving| arriving.content.is_over())
    }

    fn size_hint(&self) -> SizeHint {
        let len = self.0.as_ref().map(|arriving| arriving.content.size_hint());
        len.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
