//! A message that is written to a connection: its head, and then its content as it arrives.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{HeaderMap, HeaderName};
use hyper::body::{Body, Frame};
use tokio::io::AsyncWrite;

use super::fields::push_fields;

/// Content up to this length (in bytes) is copied behind the bytes that wait before it, so that both leave in one
/// packet.
const COPIED_LEN_MAX: usize = 4 * 1_024;
/// No more content is taken while this number of bytes waits to be written.
const FRONT_LEN_MAX: usize = 16 * 1_024;

/// Maximum number of copied pieces that wait to be written. Each piece is kept until it was written.
const COPIED_MAX: usize = 64;

/// Why a message could not be written completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The peer has closed the connection, or it broke.
    #[error("the connection takes no more")]
    Connection,
    /// The content did not arrive, or is not what its head announced.
    #[error("the content did not arrive")]
    Content,
}

/// How content is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is. This number of bytes is left.
    Length(u64),
    /// In chunks, and with the trailers that the head announces.
    Chunked,
    /// As it is. The end of the connection ends the content.
    UntilClose,
}

/// A message that is being written.
#[derive(Debug)]
pub struct Sending<B> {
    /// `None` once all content was taken.
    body: Option<B>,
    coding: Coding,
    /// The trailer fields that the head announces; others are left out (RFC 9110 section 6.6.2).
    announced: Vec<HeaderName>,
    /// Written first.
    front: Vec<u8>,
    front_written: usize,
    /// Written after `front`.
    data: Bytes,
    /// Written after `data`.
    back: &'static [u8],
    /// Content that was copied to `front`. Each piece is dropped only when it was written: a body may count the bytes
    /// that the receiver has not taken yet, and the drop ends that count.
    copied: Vec<Bytes>,
    is_flushed: bool,
    is_any_written: bool,
}

impl<B: Body<Data = Bytes> + Unpin> Sending<B> {
    /// A message. `head` is written as it is. `announced` are the names of the trailer fields that may follow chunks.
    /// With `None` as body, nothing follows the head.
    pub fn new(head: Vec<u8>, coding: Coding, announced: Vec<HeaderName>, body: Option<B>) -> Self {
        Self {
            body,
            coding,
            announced,
            front: head,
            front_written: 0,
            data: Bytes::new(),
            back: b"",
            copied: Vec::new(),
            is_flushed: false,
            is_any_written: false,
        }
    }

    /// Whether the whole message was written.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.body.is_none() && self.is_flushed
    }

    /// Whether at least one byte of the message was written.
    #[must_use]
    pub fn is_any_written(&self) -> bool {
        self.is_any_written
    }

    /// Gives up what was not written yet. The message counts as done.
    pub fn abandon(&mut self) {
        self.body = None;
        self.is_flushed = true;
    }

    /// Writes as much as the connection takes. Ready once everything was written.
    pub fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendError>> {
        loop {
            // Content that has already arrived leaves together with the head. If the content is faulty from its
            // beginning, nothing of the message leaves.
            let is_content_awaited = self.fill(cx)?;
            ready!(self.poll_waiting(stream, cx)).map_err(|_| SendError::Connection)?;
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
            if is_content_awaited {
                return Poll::Pending;
            }
        }
    }

    /// Takes content until enough waits to be written. Returns true if more content has to arrive first.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, SendError> {
        while self.data.is_empty() && self.back.is_empty() && self.has_room() {
            let Some(body) = &mut self.body else { break };
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Err(_))) => return Err(SendError::Content),
                Poll::Ready(Some(Ok(frame))) => self.take(frame)?,
                Poll::Ready(None) => self.end(None)?,
            }
        }
        Ok(false)
    }

    fn has_room(&self) -> bool {
        self.front.len() < FRONT_LEN_MAX && self.copied.len() < COPIED_MAX
    }

    /// Writes all bytes that wait, and flushes them.
    fn poll_waiting<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = Pin::new(stream);
        loop {
            let front = &self.front[self.front_written..];
            let parts = [IoSlice::new(front), IoSlice::new(&self.data), IoSlice::new(self.back)];
            let written = match (front.is_empty(), self.data.is_empty() && self.back.is_empty()) {
                (true, true) => break,
                (false, true) => ready!(stream.as_mut().poll_write(cx, front))?,
                _ => ready!(stream.as_mut().poll_write_vectored(cx, &parts))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_any_written = true;
            self.is_flushed = false;
            let of_front = written.min(front.len());
            self.front_written += of_front;
            let of_data = (written - of_front).min(self.data.len());
            self.data.advance(of_data);
            self.back = &self.back[written - of_front - of_data..];
        }
        self.front.clear();
        self.front_written = 0;
        self.copied.clear();
        if !self.is_flushed {
            ready!(stream.poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), SendError> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.end(frame.into_trailers().ok()),
        };
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.coding {
            Coding::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(SendError::Content)?;
            }
            Coding::Chunked => {
                self.front.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                self.back = b"\r\n";
            }
            Coding::UntilClose => {}
        }
        if data.len() > COPIED_LEN_MAX {
            self.data = data;
        } else {
            self.front.extend_from_slice(&data);
            self.front.extend_from_slice(std::mem::take(&mut self.back));
            self.copied.push(data);
        }
        if self.coding == Coding::Length(0) { self.end(None) } else { Ok(()) }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), SendError> {
        self.body = None;
        match self.coding {
            Coding::Length(0) | Coding::UntilClose => {}
            Coding::Length(_) => return Err(SendError::Content),
            Coding::Chunked => {
                self.front.extend_from_slice(b"0\r\n");
                if let Some(mut fields) = trailers {
                    let unannounced: Vec<_> = fields
                        .keys()
                        .filter(|name| !self.announced.contains(name))
                        .cloned()
                        .collect();
                    for name in &unannounced {
                        fields.remove(name);
                    }
                    push_fields(&mut self.front, &fields);
                }
                self.front.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::StreamExt;
    use http_body_util::StreamBody;
    use tokio::io::duplex;

    use super::*;

    /// A body may count each piece, and its bookkeeping may need more memory than the piece itself.
    #[tokio::test]
    async fn only_some_small_pieces_are_taken_while_the_receiver_takes_none() {
        let taken = AtomicUsize::new(0);
        let pieces = futures::stream::iter(0..100_000).map(|_| {
            taken.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"a")))
        });
        let (mut near, _far) = duplex(16);
        let head = b"a head that the receiver does not take".to_vec();
        let mut sending =
            Sending::new(head, Coding::UntilClose, Vec::new(), Some(StreamBody::new(pieces)));
        for _ in 0..100 {
            let written = std::future::poll_fn(|cx| sending.poll_write(&mut near, cx));
            assert!(futures::poll!(std::pin::pin!(written)).is_pending());
        }
        assert_eq!(taken.load(Ordering::Relaxed), COPIED_MAX);
    }
}
