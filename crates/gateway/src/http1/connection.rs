//! A connection to an instance.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use maxine_http1::{Reader, SendError, Sending};

use super::super::connect::{self, Stream};
use super::super::request_body::RequestBody;
use super::super::wire::WireState;

/// Why a request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Reason {
    /// The connection ended or broke.
    #[error("the connection ended early")]
    Closed,
    /// The answer is not HTTP/1.
    #[error("the answer is not HTTP/1")]
    NotHttp,
    /// The content of the request did not arrive.
    #[error("the content of the request did not arrive")]
    Content,
}

/// A connection that no request uses.
pub(crate) struct Connection {
    pub(super) reader: Reader<Stream>,
}

impl Connection {
    /// A connection on which nothing was sent yet.
    pub(crate) fn new(stream: Stream) -> Self {
        Self { reader: Reader::new(stream, BytesMut::new()) }
    }

    /// The record of who uses the connection.
    pub(crate) fn wire(&self) -> &Arc<WireState> {
        connect::wire_state(&self.reader.io)
    }

    /// Whether the instance has neither closed the connection nor sent anything, as far as the system has reported it.
    /// Between two requests, an instance has nothing to send.
    pub(crate) fn is_silent(&self) -> bool {
        connect::is_silent(&self.reader.io)
    }

    /// Writes the rest of the request. If the connection takes no more, an answer may still arrive on it.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        sending: &mut Sending<RequestBody>,
    ) -> Result<(), Reason> {
        if sending.is_done() {
            return Ok(());
        }
        match sending.poll_write(&mut self.reader.io, cx) {
            Poll::Ready(Err(SendError::Content)) => Err(Reason::Content),
            Poll::Ready(Err(SendError::Connection)) if !sending.is_any_written() => {
                Err(Reason::Closed)
            }
            Poll::Ready(Err(SendError::Connection)) => {
                sending.abandon();
                Ok(())
            }
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// The connection after an answer. `None` if the instance has sent more than the answer.
    pub(super) fn after_answer(mut self) -> Option<Self> {
        if !self.reader.bytes.is_empty() {
            return None;
        }
        self.reader.shrink();
        Some(self)
    }

    /// The connection after `101`, and the bytes that were already read of the other protocol.
    pub(super) fn into_stream(self) -> (Stream, Bytes) {
        (self.reader.io, self.reader.bytes.freeze())
    }
}
