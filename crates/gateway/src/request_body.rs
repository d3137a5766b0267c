//! Request bodies. They are streamed frame by frame and counted. A body is collected only if it is small and a policy
//! keeps it to be sent again.
//!
//! A frame is read only when the instance has room for it, so a slow instance slows its client down.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as AxumBody;
use bytes::Bytes;
use futures::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::error::{BoxError, ProxyError};
use super::framing;
use super::timer::timer_now;
use maxine_admission::{Leave, Place};
use maxine_clock::Clock;

/// How long a client that expects `100 Continue` waits for the instance's answer, in milliseconds. RFC 9110 section
/// 10.1.1 asks clients not to wait forever.
const EXPECT_WAIT_MS: u64 = 1_000;
/// Minimum rate at which a client must send a body, in bytes per second. The idle limit is added to the time that
/// follows from it.
const RATE_MIN: u64 = 500;

/// The total time that a client may take for this many bytes, without the time in which the instance has to act.
fn client_time(idle: Duration, bytes: u64) -> Duration {
    idle.saturating_add(Duration::from_millis(bytes.saturating_mul(1_000) / RATE_MIN))
}

/// The progress of a request body.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    phase: AtomicU8,
    moved_at_us: AtomicU64,
    /// How long the client had to act before the present phase, in microseconds.
    client_us: AtomicU64,
    /// Number of body bytes that were received.
    received_len: AtomicU64,
    failure: AtomicU8,
}

/// Who must act next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The instance must read what has arrived.
    Upstream,
    /// The client must send more.
    Client,
    /// Everything was sent.
    Done,
}

impl Progress {
    fn set(&self, phase: Phase, now_us: u64) {
        let phase = match phase {
            Phase::Upstream => 0,
            Phase::Client => 1,
            Phase::Done => 2,
        };
        let before = self.phase.swap(phase, Ordering::Relaxed);
        if before != phase || phase == 0 {
            let since_us = self.moved_at_us.swap(now_us, Ordering::Relaxed);
            if before == 1 {
                self.client_us.fetch_add(now_us.saturating_sub(since_us), Ordering::Relaxed);
            }
        }
    }

    /// Who must act next, and since when, in microseconds on the monotonic clock.
    pub(crate) fn now(&self) -> (Phase, u64) {
        let phase = match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Upstream,
            1 => Phase::Client,
            _ => Phase::Done,
        };
        (phase, self.moved_at_us.load(Ordering::Relaxed))
    }

    /// How much more time the client has if it must act now. A body that arrives byte by byte must not use a connection
    /// to an instance forever.
    pub(crate) fn client_time_left(&self, idle: Duration, clock: &Clock) -> Duration {
        let (_, since_us) = self.now();
        let present_us = clock.monotonic_us().saturating_sub(since_us);
        let taken_us = self.client_us.load(Ordering::Relaxed).saturating_add(present_us);
        let may = client_time(idle, self.received_len.load(Ordering::Relaxed));
        may.saturating_sub(Duration::from_micros(taken_us))
    }

    fn fail(&self, error: &ProxyError) {
        let code = if matches!(error, ProxyError::BodyTooLarge { .. }) { 1 } else { 2 };
        self.failure.store(code, Ordering::Relaxed);
    }

    /// What was wrong with the client's body, if anything. `max` is the limit on its length, in bytes.
    pub(crate) fn failure(&self, max: u64) -> Option<ProxyError> {
        match self.failure.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(ProxyError::BodyTooLarge { max }),
            _ => Some(ProxyError::ClientBody),
        }
    }
}

/// Holds a body back until the instance answers `100 Continue`.
#[derive(Debug, Default)]
pub(crate) struct ExpectGate {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl ExpectGate {
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waker.wake();
    }
}

enum Payload {
    Empty,
    Full(Option<Bytes>),
    Stream(AxumBody),
    /// The frames that were collected before the body proved too long, and then the rest of the body.
    Prefixed(std::vec::IntoIter<Frame<Bytes>>, AxumBody),
}

/// A request body, as the connection to the instance reads it.
pub(crate) struct RequestBody {
    payload: Payload,
    progress: Option<(Arc<Progress>, Clock)>,
    gate: Option<(Arc<ExpectGate>, Pin<Box<Sleep>>)>,
    left: u64,
    limit: u64,
}

impl RequestBody {
    pub(crate) fn empty() -> Self {
        Self::of(Payload::Empty)
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::empty() } else { Self::of(Payload::Full(Some(bytes))) }
    }

    fn of(payload: Payload) -> Self {
        Self { payload, progress: None, gate: None, left: u64::MAX, limit: u64::MAX }
    }

    /// A body that is streamed as it arrives, at most `limit` bytes.
    pub(crate) fn stream(
        body: AxumBody,
        limit: u64,
        progress: Arc<Progress>,
        clock: Clock,
    ) -> Self {
        progress.set(Phase::Upstream, clock.monotonic_us());
        let progress = Some((progress, clock));
        Self { payload: Payload::Stream(body), progress, gate: None, left: limit, limit }
    }

    /// Like `stream`, but sends `front` first, whose bytes do not count against `limit`.
    pub(crate) fn prefixed(
        front: Vec<Frame<Bytes>>,
        body: AxumBody,
        limit: u64,
        progress: Arc<Progress>,
        clock: Clock,
    ) -> Self {
        let mut this = Self::stream(AxumBody::empty(), limit, progress, clock);
        this.payload = Payload::Prefixed(front.into_iter(), body);
        this
    }

    /// Holds the body back until the gate opens, or until [`EXPECT_WAIT_MS`] have passed.
    pub(crate) fn gated(mut self, gate: Arc<ExpectGate>) -> Self {
        let wait = tokio::time::sleep(Duration::from_millis(EXPECT_WAIT_MS));
        self.gate = Some((gate, Box::pin(wait)));
        self
    }

    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((gate, wait)) = &mut self.gate else { return Poll::Ready(()) };
        gate.waker.register(cx.waker());
        let open = gate.open.load(Ordering::Acquire) || wait.as_mut().poll(cx).is_ready();
        if !open {
            return Poll::Pending;
        }
        self.gate = None;
        Poll::Ready(())
    }

    fn mark(&self, phase: Phase) {
        if let Some((progress, clock)) = &self.progress {
            progress.set(phase, clock.monotonic_us());
        }
    }

    fn fail(&self, error: ProxyError) -> BoxError {
        if let Some((progress, _)) = &self.progress {
            progress.fail(&error);
        }
        error.into()
    }

    fn count(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BoxError> {
        let len = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some((progress, _)) = &self.progress {
            progress.received_len.fetch_add(len, Ordering::Relaxed);
        }
        match self.left.checked_sub(len) {
            Some(left) => {
                self.left = left;
                Ok(frame)
            }
            None => Err(self.fail(ProxyError::BodyTooLarge { max: self.limit })),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.poll_gate(cx).is_pending() {
            this.mark(Phase::Upstream);
            return Poll::Pending;
        }
        let polled = match &mut this.payload {
            Payload::Empty => return Poll::Ready(None),
            Payload::Full(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Payload::Stream(body) => Pin::new(body).poll_frame(cx),
            Payload::Prefixed(front, rest) => match front.next() {
                Some(frame) => return Poll::Ready(Some(Ok(framing::without_misplaced(frame)))),
                None => Pin::new(rest).poll_frame(cx),
            },
        };
        match polled {
            Poll::Pending => {
                this.mark(Phase::Client);
                Poll::Pending
            }
            Poll::Ready(None) => {
                this.mark(Phase::Done);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                tracing::debug!(%error, "a request's body broke off");
                Poll::Ready(Some(Err(this.fail(ProxyError::ClientBody))))
            }
            Poll::Ready(Some(Ok(frame))) => {
                this.mark(Phase::Upstream);
                Poll::Ready(Some(this.count(framing::without_misplaced(frame))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Empty => true,
            Payload::Full(bytes) => bytes.is_none(),
            Payload::Stream(body) => body.is_end_stream(),
            Payload::Prefixed(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Empty => SizeHint::with_exact(0),
            Payload::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Payload::Stream(body) => body.size_hint(),
            Payload::Prefixed(front, rest) => {
                let front = front.as_slice().iter().filter_map(Frame::data_ref);
                let len: u64 = front.map(|data| data.len() as u64).sum();
                // A body with a known length keeps its framing.
                rest.size_hint().exact().map_or_else(SizeHint::default, |rest| {
                    SizeHint::with_exact(len.saturating_add(rest))
                })
            }
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // A task that waits for the response must not take a body for slow that will not be read any more.
        self.mark(Phase::Done);
    }
}

/// A request body that was collected, or that proved too long for that.
pub(crate) enum CollectedBody {
    /// The whole body. It can be sent any number of times.
    Whole(Bytes),
    /// The beginning, and the rest as a stream.
    TooLong(Vec<Frame<Bytes>>, AxumBody),
}

/// Number of bytes that each part of a body counts in addition to its length, because it has a buffer of its own.
const PIECE_LEN: usize = 128;

/// The bytes of a body that are kept. They may be displaced.
pub(crate) struct KeptBytes {
    place: Place,
    leave: Arc<Leave>,
}

impl KeptBytes {
    /// The bytes that `place` counts. They are kept for at least `kept`.
    pub(crate) fn new(place: Place, kept: Duration) -> Self {
        Self { place, leave: Arc::new(Leave::after(kept)) }
    }

    fn grow(&mut self, len: usize) -> Result<(), ProxyError> {
        self.place.grow(len).map_err(|_| ProxyError::BodiesBusy)?;
        self.place.give_way(&self.leave);
        Ok(())
    }

    /// The signal that a client that keeps fewer bytes needs the room. The request must end then.
    pub(crate) fn leave(&self) -> &Arc<Leave> {
        &self.leave
    }
}

/// Collects a body of up to `keep_max` bytes. `idle` limits the wait for each frame, and the minimum rate limits the
/// total time. `kept` counts the bytes that wait for the rest. A body that arrives in one part does not count.
pub(crate) async fn collect(
    mut body: AxumBody,
    keep_max: u64,
    idle: Duration,
    kept: &mut KeptBytes,
) -> Result<CollectedBody, ProxyError> {
    if body.size_hint().lower() > keep_max {
        return Ok(CollectedBody::TooLong(Vec::new(), body));
    }
    let mut frames: Vec<Frame<Bytes>> = Vec::new();
    let mut len = 0_u64;
    let started = timer_now();
    loop {
        let next = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let until = (timer_now() + idle).min(started + client_time(idle, len));
        let next = tokio::select! {
            biased;
            next = tokio::time::timeout_at(until, next) => next,
            () = kept.leave.displaced() => return Err(ProxyError::BodiesBusy),
        };
        let frame = match next {
            Err(_) => return Err(ProxyError::ClientTimeout),
            Ok(Some(Err(_))) => return Err(ProxyError::ClientBody),
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
        };
        len += frame.data_ref().map_or(0, |data| data.len() as u64);
        let keep = frame.is_data() && len <= keep_max;
        let is_whole = frames.is_empty() && body.is_end_stream();
        if keep && !is_whole {
            let piece_len = frame.data_ref().map_or(0, Bytes::len) + PIECE_LEN;
            kept.grow(piece_len)?;
        }
        frames.push(frame);
        if !keep {
            return Ok(CollectedBody::TooLong(frames, body));
        }
    }
    let mut chunks = frames.into_iter().filter_map(|frame| frame.into_data().ok());
    let first = chunks.next().unwrap_or_default();
    let mut rest = chunks.peekable();
    if rest.peek().is_none() {
        return Ok(CollectedBody::Whole(first));
    }
    let mut whole = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    whole.extend_from_slice(&first);
    rest.for_each(|chunk| whole.extend_from_slice(&chunk));
    Ok(CollectedBody::Whole(whole.into()))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::header::{HeaderMap, HeaderValue};

    use super::*;

    #[tokio::test]
    async fn trailers_that_were_collected_with_a_body_are_filtered_as_those_that_are_streamed() {
        let mut trailers = HeaderMap::new();
        for name in ["x-sum", "authorization", "x-forwarded-for", "x-maxine-hops"] {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        let front = vec![Frame::data(Bytes::from_static(b"ab")), Frame::trailers(trailers)];
        let progress = Arc::new(Progress::default());
        let clock = Clock::system();
        let body = RequestBody::prefixed(front, AxumBody::empty(), 10, progress, clock);
        let collected = body.collect().await.unwrap();
        let left: Vec<_> = collected.trailers().unwrap().keys().cloned().collect();
        assert_eq!(left, ["x-sum"]);
        assert_eq!(collected.to_bytes(), "ab");
    }
}
