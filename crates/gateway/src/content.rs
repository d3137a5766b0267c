//! The content of an instance's response, from either version of HTTP.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::error::BoxError;
use super::http1;

/// The content of an instance's response.
pub(crate) enum Content {
    Http1(http1::Received),
    Http2(Incoming),
}

impl Content {
    /// The HTTP/1 connection, if the response was read completely and the connection can be used again.
    pub(crate) fn take_connection(&mut self) -> Option<http1::Connection> {
        match self {
            Self::Http1(received) => received.take_connection(),
            Self::Http2(_) => None,
        }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Http1(received) => Pin::new(received).poll_frame(cx).map_err(Into::into),
            Self::Http2(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(received) => received.is_end_stream(),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(received) => received.size_hint(),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}
