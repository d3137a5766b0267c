//! Interim answers (RFC 9110 section 15.2) on their way to a client, such as `103 Early Hints`.
//!
//! The server library has no way to send them, so they go onto the connection beside it: the stream
//! that it writes to takes them in at a moment when nothing of its own is on the way. An interim
//! answer is a hint: where that moment does not come, it is left out.
//!
//! **Invariant:** nothing is written between the head and the end of an answer, and nothing for a
//! request that has its answer. `dirty` tells the first (a flush reaches the stream only when all
//! that was written before is on the wire), the request's number the second.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::task::AtomicWaker;
use hyper::StatusCode;
use hyper::header::HeaderMap;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::headers;

/// Interim answers to one request, at most.
const COUNT_MAX: u32 = 8;
/// Their length together, in bytes.
const LEN_MAX: usize = 16 * 1024;

/// What the stream of one connection and the requests on it share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Whoever drives the connection.
    driver: AtomicWaker,
}

#[derive(Debug, Default)]
struct State {
    /// The request that may be hinted at; 0 for none.
    open: u64,
    requests: u64,
    count: u32,
    /// What is to be written before anything else.
    waiting: Vec<u8>,
    /// Whether something was written since the last flush.
    dirty: bool,
}

/// The interim answers of one connection.
#[derive(Clone, Debug, Default)]
pub struct Interim(Arc<Shared>);

/// The right to send interim answers to one request. It ends when this is dropped.
#[derive(Debug)]
pub struct InterimTurn(InterimSink);

/// Sends to one request, for as long as that has no answer.
#[derive(Clone, Debug)]
pub struct InterimSink {
    interim: Interim,
    request: u64,
    /// Takes out of the fields what an instance may not say, as in a final answer.
    filter: fn(&mut HeaderMap),
}

impl Interim {
    /// Opens the way to the request that begins now. A connection has one at a time. The header
    /// fields of each interim answer go through `filter`.
    #[must_use]
    pub fn begin(&self, filter: fn(&mut HeaderMap)) -> InterimTurn {
        let mut state = self.0.state.lock();
        state.requests += 1;
        state.open = state.requests;
        state.count = 0;
        InterimTurn(InterimSink { interim: self.clone(), request: state.requests, filter })
    }
}

impl InterimTurn {
    /// The way to the request.
    #[must_use]
    pub fn sink(&self) -> InterimSink {
        self.0.clone()
    }
}

impl Drop for InterimTurn {
    fn drop(&mut self) {
        self.0.interim.0.state.lock().open = 0;
    }
}

impl InterimSink {
    /// Sends an interim answer, or leaves it out.
    pub(crate) fn send(&self, status: StatusCode, mut fields: HeaderMap) {
        headers::strip_hop_by_hop(&mut fields, false);
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

/// A client's connection that takes interim answers in.
#[derive(Debug)]
pub struct HintedStream<T> {
    io: T,
    /// What was read of the connection before; it is read again first.
    before: Bytes,
    interim: Interim,
}

impl<T> HintedStream<T> {
    /// Around a connection, with the interim answers that are for it.
    pub fn new(io: T, interim: Interim) -> Self {
        Self { io, before: Bytes::new(), interim }
    }

    /// One of which `before` has been read already: it is read again first.
    #[must_use]
    pub fn after(mut self, before: Bytes) -> Self {
        self.before = before;
        self
    }
}

impl<T: AsyncWrite + Unpin> HintedStream<T> {
    /// Writes what waits.
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

    /// Writes what waits, and notes that more follows.
    fn poll_before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(cx))?;
        self.interim.0.state.lock().dirty = true;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for HintedStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let len = self.before.len().min(buf.remaining());
            buf.put_slice(&self.before.split_to(len));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for HintedStream<T> {
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
        // Before the look at what waits, so that nothing that comes after it is slept through.
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
        [("link", "</a>"), ("connection", "x-own"), ("x-own", "1"), ("set-cookie", "a=1")]
            .into_iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>()
    }

    fn without_cookies(fields: &mut HeaderMap) {
        fields.remove("set-cookie");
    }

    const WIRE: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";

    #[tokio::test]
    async fn a_hint_goes_before_the_answer_and_never_into_one() {
        let (near, mut far) = duplex(1024);
        let interim = Interim::default();
        let mut stream = HintedStream::new(near, interim.clone());
        let turn = interim.begin(without_cookies);
        let sink = turn.sink();
        stream.flush().await.unwrap();
        sink.send(StatusCode::EARLY_HINTS, hint());
        stream.write_all(b"one").await.unwrap();
        // Part of an answer is on its way: too late.
        sink.send(StatusCode::EARLY_HINTS, hint());
        stream.flush().await.unwrap();
        drop(turn);
        sink.send(StatusCode::EARLY_HINTS, hint());
        let next = interim.begin(without_cookies);
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
        let turn = interim.begin(without_cookies);
        for _ in 0..100 {
            turn.sink().send(StatusCode::EARLY_HINTS, hint());
        }
        assert_eq!(interim.0.state.lock().waiting.len(), WIRE.len() * COUNT_MAX as usize);
    }
}
