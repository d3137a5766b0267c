//! Interim answers (RFC 9110 section 15.2) to a client, such as `103 Early Hints`.
//!
//! The server library cannot send them, so they are written to the connection directly. The stream that the
//! library writes to inserts them when no bytes of the library are in flight. An interim answer is only a
//! hint: if there is no such moment, it is dropped.
//!
//! **Invariant:** nothing is inserted between the head and the end of an answer, and nothing for a request
//! that has its answer. `dirty` ensures the first, because a flush reaches the stream only when everything
//! before it was written. The request's number ensures the second.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::task::AtomicWaker;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::headers;

/// Maximum number of interim answers to one request.
const COUNT_MAX: u32 = 8;
/// Their maximum total length, in bytes.
const LEN_MAX: usize = 16 * 1024;

/// Shared by the stream of one connection and the requests on it.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The task that drives the connection.
    driver: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    /// The request that may get interim answers; 0 for none.
    open: u64,
    requests: u64,
    count: u32,
    /// The bytes to write before anything else.
    waiting: Vec<u8>,
    /// Whether something was written since the last flush.
    dirty: bool,
}

/// The interim answers of one connection.
#[derive(Clone, Debug, Default)]
pub struct Interim(Arc<Shared>);

/// The right to send interim answers to one request. It ends when this value is dropped.
#[derive(Debug)]
pub struct InterimPermit(InterimSink);

/// Sends interim answers to one request, as long as it has no answer.
#[derive(Clone, Debug)]
pub struct InterimSink {
    interim: Interim,
    request: u64,
    /// Removes fields that an instance may not set, as in a final answer.
    filter: fn(&mut HeaderMap),
}

impl Interim {
    /// Allows interim answers to the request that begins now. A connection has one such request at a time.
    /// The header fields of each interim answer go through `filter`.
    #[must_use]
    pub fn begin(&self, filter: fn(&mut HeaderMap)) -> InterimPermit {
        let mut state = self.0.state.lock();
        state.requests += 1;
        state.open = state.requests;
        state.count = 0;
        InterimPermit(InterimSink { interim: self.clone(), request: state.requests, filter })
    }
}

impl InterimPermit {
    /// The sink for the request.
    #[must_use]
    pub fn sink(&self) -> InterimSink {
        self.0.clone()
    }
}

impl Drop for InterimPermit {
    fn drop(&mut self) {
        self.0.interim.0.state.lock().open = 0;
    }
}

impl InterimSink {
    /// Sends an interim answer, or drops it.
    pub(crate) fn send(&self, status: StatusCode, mut fields: HeaderMap) {
        headers::strip_hop_by_hop(&mut fields, false);
        headers::strip_maxines_own(&mut fields);
        // It has no content, so a length would be wrong (RFC 9110 section 8.6). A cookie belongs to the final
        // answer, where its path is checked.
        fields.remove(header::CONTENT_LENGTH);
        fields.remove(header::SET_COOKIE);
        (self.filter)(&mut fields);
        let reason = status.canonical_reason().unwrap_or_default();
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        for (name, value) in &fields {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        let shared = &self.interim.0;
        let mut state = shared.state.lock();
        let fits = state.count < COUNT_MAX && state.waiting.len() + head.len() <= LEN_MAX;
        if state.open != self.request || state.dirty || !fits {
            return;
        }
        state.count += 1;
        state.waiting.extend_from_slice(&head);
        drop(state);
        shared.driver.wake();
    }
}

/// A client's connection with interim answers.
#[derive(Debug)]
pub struct InterimStream<T> {
    io: T,
    /// Bytes that were already read from the connection. They are read again first.
    prefix: Bytes,
    interim: Interim,
}

impl<T> InterimStream<T> {
    /// Wraps a connection, with the interim answers for it.
    pub fn new(io: T, interim: Interim) -> Self {
        Self { io, prefix: Bytes::new(), interim }
    }

    /// Puts `prefix`, which was already read from the connection, before what is still to be read.
    #[must_use]
    pub fn with_prefix(mut self, prefix: Bytes) -> Self {
        self.prefix = prefix;
        self
    }
}

impl<T: AsyncWrite + Unpin> InterimStream<T> {
    /// Writes the waiting bytes.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.interim.0.state.lock();
        while !state.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &state.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            state.waiting.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the waiting bytes, and records that more follows.
    fn poll_before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(cx))?;
        self.interim.0.state.lock().dirty = true;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for InterimStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let len = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(len));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for InterimStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_before_write(cx))?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_before_write(cx))?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Registered before the check for waiting bytes, so that no later ones are missed.
        self.interim.0.driver.register(cx.waker());
        ready!(self.poll_waiting(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.interim.0.state.lock().dirty = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn hint() -> HeaderMap {
        [
            ("link", "</a>"),
            ("connection", "x-own"),
            ("x-own", "1"),
            ("set-cookie", "a=1"),
            ("content-length", "100"),
            ("x-maxine-index", "5"),
            ("x-filtered", "1"),
        ]
        .into_iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect::<HeaderMap>()
    }

    fn filter(fields: &mut HeaderMap) {
        fields.remove("x-filtered");
    }

    const WIRE: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";

    #[tokio::test]
    async fn a_hint_goes_before_the_answer_and_never_into_one() {
        let (near, mut far) = duplex(1024);
        let interim = Interim::default();
        let mut stream = InterimStream::new(near, interim.clone());
        let turn = interim.begin(filter);
        let sink = turn.sink();
        stream.flush().await.unwrap();
        sink.send(StatusCode::EARLY_HINTS, hint());
        stream.write_all(b"one").await.unwrap();
        // A part of an answer is in flight, so it is too late.
        sink.send(StatusCode::EARLY_HINTS, hint());
        stream.flush().await.unwrap();
        drop(turn);
        sink.send(StatusCode::EARLY_HINTS, hint());
        let next = interim.begin(filter);
        sink.send(StatusCode::EARLY_HINTS, hint());
        next.sink().send(StatusCode::EARLY_HINTS, hint());
        stream.flush().await.unwrap();
        drop(stream);
        let mut seen = String::new();
        far.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, format!("{WIRE}one{WIRE}"));
    }

    #[tokio::test]
    async fn hints_are_bounded() {
        let interim = Interim::default();
        let turn = interim.begin(filter);
        for _ in 0..100 {
            turn.sink().send(StatusCode::EARLY_HINTS, hint());
        }
        assert_eq!(interim.0.state.lock().waiting.len(), WIRE.len() * COUNT_MAX as usize);
    }
}
