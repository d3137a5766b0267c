//! Answers that their clients do not take: bounded in memory, and given up after a while.
//!
//! A client decides how fast it takes an answer, over HTTP/2 for each of hundreds at once on one
//! connection. Here an answer is handed to the library in pieces, so that the library holds little of
//! it; what waits is counted for the node and for each address; and a connection on which an answer
//! makes no progress for too long is closed.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Response, StatusCode, Version, header};
use axum::response::IntoResponse;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::error::CompatError;
use crate::places::{Place, PlaceLimits, Places, Standing};
use maxine_clock::Clock;

/// Most bytes of answers that wait on the node.
const UNSENT_LEN_MAX: usize = 256 * 1_024 * 1_024;
/// Most of them for one address.
const UNSENT_PER_ADDRESS_LEN_MAX: usize = 64 * 1_024 * 1_024;
/// Answers over HTTP/1 that are shorter are neither counted nor watched: a connection has only one.
const WATCHED_LEN_MIN: u64 = 64 * 1_024;
/// What the library is given at once.
const PIECE_LEN: usize = 16 * 1_024;
/// The last piece: the library takes it before it knows that the client will.
const LAST_PIECE_LEN: usize = 1_024;

/// Marks an answer whose bytes exist once for all who ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharedBytes;

/// The bytes of a node's answers that wait to be taken.
#[derive(Clone, Debug)]
pub(super) struct Unsent(Arc<Places>);

impl Default for Unsent {
    fn default() -> Self {
        Self(Places::new(PlaceLimits {
            max: UNSENT_LEN_MAX,
            per_address_max: UNSENT_PER_ADDRESS_LEN_MAX,
            reserved: 0,
        }))
    }
}

/// How one connection's client takes its answers.
#[derive(Clone, Debug)]
pub(super) struct Pace(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    unsent: Unsent,
    client: IpAddr,
    answers: Mutex<Vec<Weak<Answer>>>,
    /// Wakes [`Pace::stalled`] once there is something to watch.
    began: Notify,
}

/// One answer on its way: since when the client owes a step, in milliseconds; 0 while it does not.
#[derive(Debug, Default)]
struct Answer {
    owed_since_ms: AtomicU64,
}

impl Pace {
    pub(super) fn new(clock: Clock, unsent: Unsent, client: IpAddr) -> Self {
        let (answers, began) = (Mutex::default(), Notify::new());
        Self(Arc::new(Shared { clock, unsent, client, answers, began }))
    }

    /// Has an answer counted and watched, or refused where too much waits already.
    pub(super) fn watch(&self, version: Version, response: Response<Body>) -> Response<Body> {
        let len = response.body().size_hint().lower();
        if response.body().is_end_stream() || version < Version::HTTP_2 && len < WATCHED_LEN_MIN {
            return response;
        }
        let is_shared = response.extensions().get::<SharedBytes>().is_some();
        let counted = if is_shared { 0 } else { usize::try_from(len).unwrap_or(usize::MAX) };
        let taken = self.0.unsent.0.take(self.0.client, Standing::Stranger, counted);
        let Ok(place) = taken else { return too_much_waits() };
        let answer = Arc::new(Answer::default());
        {
            let mut answers = self.0.answers.lock();
            answers.retain(|answer| answer.strong_count() > 0);
            answers.push(Arc::downgrade(&answer));
        }
        self.0.began.notify_one();
        let clock = self.0.clock.clone();
        response.map(|inner| {
            let body = PacedBody { inner, rest: Bytes::new(), answer, clock, _place: place };
            body.owe();
            Body::new(body)
        })
    }

    /// Returns once an answer of this connection has made no progress for `patience`.
    pub(super) async fn stalled(&self, patience: Duration) {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        loop {
            let oldest_ms = {
                let mut answers = self.0.answers.lock();
                answers.retain(|answer| answer.strong_count() > 0);
                let owed = answers.iter().filter_map(Weak::upgrade).filter_map(|answer| {
                    Some(answer.owed_since_ms.load(Ordering::Relaxed)).filter(|since| *since > 0)
                });
                (!answers.is_empty()).then(|| owed.min())
            };
            match oldest_ms {
                None => self.0.began.notified().await,
                Some(None) => tokio::time::sleep(patience / 2).await,
                Some(Some(since_ms)) => {
                    let quiet_ms = self.0.clock.monotonic_ms().saturating_sub(since_ms);
                    if quiet_ms >= patience_ms {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(patience_ms - quiet_ms)).await;
                }
            }
        }
    }
}

fn too_much_waits() -> Response<Body> {
    let text = "Too many bytes of earlier answers wait to be taken by your address";
    let mut response = CompatError::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// An answer's body, in pieces.
struct PacedBody {
    inner: Body,
    /// What is left of the last frame.
    rest: Bytes,
    answer: Arc<Answer>,
    clock: Clock,
    _place: Place,
}

impl PacedBody {
    /// It is the client's turn.
    fn owe(&self) {
        let now_ms = self.clock.monotonic_ms().max(1);
        self.answer.owed_since_ms.store(now_ms, Ordering::Relaxed);
    }

    fn piece(&mut self) -> Bytes {
        let len = self.rest.len();
        let is_last_frame = self.inner.is_end_stream();
        let piece_len = match len {
            _ if len <= LAST_PIECE_LEN => len,
            _ if is_last_frame => PIECE_LEN.min(len - LAST_PIECE_LEN),
            _ => PIECE_LEN.min(len),
        };
        self.rest.split_to(piece_len)
    }
}

impl HttpBody for PacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            this.answer.owed_since_ms.store(0, Ordering::Relaxed);
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        this.owe();
        Poll::Ready(Some(Ok(Frame::data(this.piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn pace(unsent: &Unsent) -> Pace {
        Pace::new(Clock::system(), unsent.clone(), [127, 0, 0, 1].into())
    }

    #[tokio::test]
    async fn an_answer_is_handed_on_in_pieces_and_whole() {
        let pace = pace(&Unsent::default());
        let bytes: Vec<u8> = (0..40_000_u32).map(|at| at as u8).collect();
        let watched = pace.watch(Version::HTTP_2, Response::new(Body::from(bytes.clone())));
        let mut body = watched.into_body();
        assert_eq!(body.size_hint().exact(), Some(40_000));
        let (mut lens, mut seen) = (Vec::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            lens.push(data.len());
            seen.extend_from_slice(&data);
        }
        assert_eq!(
            lens,
            [PIECE_LEN, PIECE_LEN, 40_000 - 2 * PIECE_LEN - LAST_PIECE_LEN, LAST_PIECE_LEN]
        );
        assert_eq!(seen, bytes);
    }

    #[tokio::test]
    async fn what_waits_is_counted_but_not_what_all_share() {
        let unsent = Unsent::default();
        let pace = pace(&unsent);
        let big = || Response::new(Body::from(vec![0; UNSENT_PER_ADDRESS_LEN_MAX / 2 + 1]));
        let first = pace.watch(Version::HTTP_11, big());
        assert_eq!(pace.watch(Version::HTTP_11, big()).status(), 503);
        let mut shared = big();
        shared.extensions_mut().insert(SharedBytes);
        assert_eq!(pace.watch(Version::HTTP_2, shared).status(), 200);
        drop(first);
        assert_eq!(pace.watch(Version::HTTP_11, big()).status(), 200);
        assert_eq!(unsent.0.taken(), 0);
    }

    #[tokio::test]
    async fn only_an_answer_that_its_client_does_not_take_stalls() {
        let pace = pace(&Unsent::default());
        let patience = Duration::from_millis(200);
        // One whose source has nothing to say is nobody's fault.
        let silent = Body::from_stream(futures::stream::pending::<Result<Bytes, axum::Error>>());
        let mut quiet = pace.watch(Version::HTTP_2, Response::new(silent)).into_body();
        assert!(futures::poll!(quiet.frame()).is_pending());
        let stalled = tokio::time::timeout(3 * patience, pace.stalled(patience)).await;
        stalled.expect_err("a quiet stream has stalled");
        let taken = pace.watch(Version::HTTP_2, Response::new(Body::from(vec![0; 20_000])));
        let mut taken = taken.into_body();
        taken.frame().await.unwrap().unwrap();
        let stalled = tokio::time::timeout(10 * patience, pace.stalled(patience)).await;
        stalled.expect("it is seen");
    }
}
