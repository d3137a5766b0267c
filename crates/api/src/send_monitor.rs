//! Limits the memory of answers that clients do not read, and gives up such answers after a while.
//!
//! A client decides how fast it reads an answer. Over HTTP/2, one connection can have hundreds of answers. So an answer
//! is passed to the library in small parts, and the bytes that wait are counted for the node and for each address. An
//! answer that this node made counts with all its bytes. An instance's answer and a stream of changes count only with
//! the bytes that have arrived and were not read. If an answer makes no progress for too long, its connection is
//! closed. If the node or the address is short of memory for such bytes, that happens earlier. A connection whose
//! answers are refused repeatedly is closed, too.
//!
//! An HTTP/2 connection is idle if none of its requests is being answered and none of its answers is being delivered.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Response, StatusCode, Version, header};
use axum::response::IntoResponse;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::compat_error::CompatError;
use maxine_admission::{CallerClass, NoPlace, Place, PlaceLimits, Places};
use maxine_clock::Clock;

/// Maximum number of bytes that wait on the node.
const UNSENT_LEN_MAX: usize = 256 * 1_024 * 1_024;
/// Maximum number of bytes that wait for one address.
const UNSENT_PER_ADDRESS_LEN_MAX: usize = 64 * 1_024 * 1_024;
/// Answers over HTTP/1 that are shorter than this (in bytes) are neither counted nor watched, because a connection has
/// only one at a time.
const WATCHED_LEN_MIN: u64 = 64 * 1_024;
/// Number of bytes that an unread answer over HTTP/2 counts in addition, for the state of its stream.
const STREAM_LEN: usize = 4 * 1_024;
/// If memory is short, a client has only the usual time divided by this to make progress.
const SHORT_PATIENCE_ONE_IN: u32 = 10;
/// If this many answers of one HTTP/2 connection were refused for lack of room, the connection is closed. Otherwise the
/// library would keep the memory of its streams until the connection ends.
const REFUSED_MAX: u32 = 8;
/// How long to wait for the last of these refusals to arrive.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are passed to the library at once.
pub(super) const PIECE_LEN: usize = 16 * 1_024;
/// Length of the last part, in bytes. The library accepts it before it knows whether the client will read it.
const LAST_PIECE_LEN: usize = 1_024;

/// Marks an answer whose bytes are shared by all requests for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharedBytes;

/// Marks an answer that arrives piece by piece, so that the node never holds all of it: the answer of an instance, or a
/// stream of changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streamed;

/// Whether an answer is watched. Short answers over HTTP/1 are not.
pub(super) fn is_watched(version: Version, response: &Response<Body>) -> bool {
    let exact = response.body().size_hint().exact();
    version >= Version::HTTP_2 || exact.is_none_or(|len| len >= WATCHED_LEN_MIN)
}

/// The client that reads an answer, for counting its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    /// The client's own address, behind trusted proxies.
    pub(super) address: IpAddr,
    /// Whether the limits for one address apply to it.
    pub(super) caller_class: CallerClass,
}

/// The waiting bytes of a node's answers.
#[derive(Clone, Debug)]
pub(super) struct UnsentBytes(Arc<Places>);

impl Default for UnsentBytes {
    fn default() -> Self {
        Self(Places::fair(PlaceLimits {
            max: UNSENT_LEN_MAX,
            per_address_max: UNSENT_PER_ADDRESS_LEN_MAX,
            reserved: UNSENT_PER_ADDRESS_LEN_MAX,
        }))
    }
}

impl UnsentBytes {
    /// Whether three quarters of the bytes that are open to clients without a credential are taken.
    fn is_short(&self) -> bool {
        let PlaceLimits { max, reserved, .. } = self.0.limits();
        self.0.taken() > (max - reserved) / 4 * 3
    }

    /// Counts `len` bytes that wait for this reader. Returns the place for them, and how long the reader may take:
    /// `usual`, or less if memory is short. `None` if too many bytes wait already.
    pub(super) fn hold(
        &self,
        reader: Reader,
        len: usize,
        usual: Duration,
    ) -> Option<(Place, Duration)> {
        let place = self.0.take(reader.address, reader.caller_class, len).ok()?;
        let is_short = self.is_short() || self.is_short_for(reader);
        let short = usual / SHORT_PATIENCE_ONE_IN;
        Some((place, if is_short { short } else { usual }))
    }

    /// Whether three quarters of the bytes that this reader may hold are taken.
    fn is_short_for(&self, reader: Reader) -> bool {
        let per_address_max = self.0.limits().per_address_max;
        reader.caller_class != CallerClass::Trusted
            && self.0.taken_by(reader.address) > per_address_max / 4 * 3
    }
}

/// The room for the answer to one request, until its client has read it.
#[derive(Clone, Debug)]
pub struct AnswerRoom {
    unsent: UnsentBytes,
    reader: Reader,
    version: Version,
}

impl AnswerRoom {
    pub(super) fn new(unsent: UnsentBytes, reader: Reader, version: Version) -> Self {
        Self { unsent, reader, version }
    }

    /// The maximum length of an answer that [`SendMonitor::watch`] would accept now, in bytes.
    pub(super) fn len_max(&self) -> usize {
        let left = self.unsent.0.room(self.reader.address, self.reader.caller_class);
        if left >= UNSENT_PER_ADDRESS_LEN_MAX {
            return usize::MAX;
        }
        if self.version >= Version::HTTP_2 {
            return left.saturating_sub(STREAM_LEN);
        }
        // Shorter answers are not counted.
        left.max(usize::try_from(WATCHED_LEN_MIN - 1).unwrap_or(usize::MAX))
    }
}

/// A request over HTTP/2, until its answer has been written.
#[derive(Debug)]
pub(super) struct OpenRequest(Arc<Shared>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        // The time is stored before the number falls, because the connection may be idle from then on.
        self.0.idle_since_ms.store(self.0.clock.monotonic_ms(), Ordering::Release);
        self.0.open.fetch_sub(1, Ordering::Release);
    }
}

/// Watches how fast one connection's client reads its answers.
#[derive(Clone, Debug)]
pub(super) struct SendMonitor(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Clock,
    unsent: UnsentBytes,
    answers: Mutex<Vec<Weak<Answer>>>,
    /// Wakes [`SendMonitor::stalled`] when there is an answer to watch.
    began: Notify,
    /// The number of open requests over HTTP/2.
    open: AtomicUsize,
    /// When the last open request ended, in milliseconds on the monotonic clock.
    idle_since_ms: AtomicU64,
    /// Notified when a request begins.
    opened: Notify,
    /// How many answers over HTTP/2 were refused.
    refused: AtomicU32,
    refused_too_often: Notify,
}

/// One answer in flight, until the library has written all that it received.
#[derive(Debug)]
struct Answer {
    clock: Clock,
    reader: Reader,
    /// When the client was given bytes that it must read, in milliseconds on the monotonic clock; 0 if there are none.
    waiting_since_ms: AtomicU64,
    held: Mutex<Held>,
    _open: Option<OpenRequest>,
}

/// The bytes of an answer that are held.
#[derive(Debug)]
struct Held {
    place: Place,
    /// Bytes of the last frame that the library has not received.
    rest_len: usize,
    /// Bytes that the library has received and not written.
    given_len: usize,
    /// Number of bytes for the state of the stream. `None` for an answer that is counted as a whole.
    stream_len: Option<usize>,
}

impl Answer {
    /// The client must make progress from now on.
    fn start_waiting(&self) {
        let now_ms = self.clock.monotonic_ms().max(1);
        self.waiting_since_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Changes the bytes that are held, because the client has made progress. If any are left, it must make more.
    fn change(&self, change: impl FnOnce(&mut Held)) -> Result<(), NoPlace> {
        let mut held = self.held.lock();
        change(&mut held);
        let held_len = held.rest_len + held.given_len;
        match held_len {
            0 => self.waiting_since_ms.store(0, Ordering::Relaxed),
            _ => self.start_waiting(),
        }
        match held.stream_len {
            Some(stream_len) => held.place.resize(held_len + stream_len),
            None => Ok(()),
        }
    }
}

/// Bytes that the library has received. The library drops them when it has written them.
struct PassedBytes {
    bytes: Bytes,
    answer: Arc<Answer>,
}

impl AsRef<[u8]> for PassedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PassedBytes {
    fn drop(&mut self) {
        let len = self.bytes.len();
        // The number of bytes only falls here, which always succeeds.
        let _ = self.answer.change(|held| held.given_len -= len);
    }
}

impl SendMonitor {
    pub(super) fn new(clock: Clock, unsent: UnsentBytes) -> Self {
        Self(Arc::new(Shared {
            clock,
            unsent,
            answers: Mutex::default(),
            began: Notify::new(),
            open: AtomicUsize::new(0),
            idle_since_ms: AtomicU64::new(0),
            opened: Notify::new(),
            refused: AtomicU32::new(0),
            refused_too_often: Notify::new(),
        }))
    }

    /// Counts a request over HTTP/2, which has just arrived.
    pub(super) fn begin(&self) -> OpenRequest {
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.0.opened.notify_one();
        OpenRequest(Arc::clone(&self.0))
    }

    /// Returns when the HTTP/2 connection has had no open request for `patience`, counted from this call at the
    /// earliest. Never returns for a connection that has had no request over HTTP/2.
    pub(super) async fn idle(&self, patience: Duration) {
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.0.opened.notified().await;
        // A later call must return, too, so the notification is renewed.
        self.0.opened.notify_one();
        let called_ms = self.0.clock.monotonic_ms();
        loop {
            let is_open = self.0.open.load(Ordering::Acquire) > 0;
            let since_ms = self.0.idle_since_ms.load(Ordering::Acquire).max(called_ms);
            let idle_ms = self.0.clock.monotonic_ms().saturating_sub(since_ms);
            match patience_ms.saturating_sub(idle_ms) {
                _ if is_open => tokio::time::sleep(patience).await,
                0 => return,
                left_ms => tokio::time::sleep(Duration::from_millis(left_ms)).await,
            }
        }
    }

    /// Counts and watches an answer, or refuses it if too many bytes wait already.
    pub(super) fn watch(
        &self,
        version: Version,
        reader: Reader,
        response: Response<Body>,
        open: Option<OpenRequest>,
    ) -> Response<Body> {
        if !is_watched(version, &response) {
            return response;
        }
        let is_shared = response.extensions().get::<SharedBytes>().is_some();
        let is_streamed = response.extensions().get::<Streamed>().is_some();
        let counted = match response.body().size_hint().lower() {
            _ if is_shared => 0,
            // The bytes of a stream are counted as they arrive. It is refused only if there is no room at all.
            _ if is_streamed => 1,
            // An answer that is longer than the limit of its client counts as long as the limit. Otherwise it would
            // always be refused.
            len => usize::try_from(len).unwrap_or(usize::MAX).min(UNSENT_PER_ADDRESS_LEN_MAX),
        };
        let stream_len = if version >= Version::HTTP_2 { STREAM_LEN } else { 0 };
        let counted = counted.saturating_add(stream_len).min(UNSENT_PER_ADDRESS_LEN_MAX);
        let taken = self.0.unsent.0.take(reader.address, reader.caller_class, counted);
        let Ok(place) = taken else {
            self.refused(version);
            return too_many_unsent_bytes(version);
        };
        let stream_len = is_streamed.then_some(stream_len);
        let held = Mutex::new(Held { place, rest_len: 0, given_len: 0, stream_len });
        let (clock, waiting_since_ms) = (self.0.clock.clone(), AtomicU64::new(0));
        let answer = Arc::new(Answer { clock, reader, waiting_since_ms, held, _open: open });
        answer.start_waiting();
        {
            let mut answers = self.0.answers.lock();
            answers.retain(|answer| answer.strong_count() > 0);
            answers.push(Arc::downgrade(&answer));
        }
        self.0.began.notify_one();
        if response.body().is_end_stream() {
            return watch_head(response, answer);
        }
        response.map(|inner| Body::new(MonitoredBody { inner, rest: Bytes::new(), answer }))
    }

    fn refused(&self, version: Version) {
        if version < Version::HTTP_2 {
            return;
        }
        if self.0.refused.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSED_MAX {
            self.0.refused_too_often.notify_one();
        }
    }

    /// Returns when the connection must be closed, because an answer has made no progress for `patience`, or because
    /// too many answers were refused.
    pub(super) async fn stalled(&self, patience: Duration) {
        tokio::select! {
            () = self.makes_no_progress(patience) => {}
            () = self.0.refused_too_often.notified() => tokio::time::sleep(REFUSED_PAUSE).await,
        }
    }

    /// Returns when an answer of this connection has made no progress for `patience`, or for less if memory is short.
    async fn makes_no_progress(&self, patience: Duration) {
        let usual_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let short_ms = usual_ms / u64::from(SHORT_PATIENCE_ONE_IN);
        loop {
            let oldest = {
                let mut answers = self.0.answers.lock();
                answers.retain(|answer| answer.strong_count() > 0);
                let waiting = answers.iter().filter_map(Weak::upgrade).filter_map(|answer| {
                    let since_ms = answer.waiting_since_ms.load(Ordering::Relaxed);
                    (since_ms > 0).then_some((since_ms, answer.reader))
                });
                (!answers.is_empty()).then(|| waiting.min_by_key(|(since_ms, _)| *since_ms))
            };
            match oldest {
                None => self.0.began.notified().await,
                Some(None) => tokio::time::sleep(patience / 2).await,
                Some(Some((since_ms, reader))) => {
                    let quiet_ms = self.0.clock.monotonic_ms().saturating_sub(since_ms);
                    let unsent = &self.0.unsent;
                    let is_short = unsent.is_short() || unsent.is_short_for(reader);
                    let patience_ms = if is_short { short_ms } else { usual_ms };
                    if quiet_ms >= patience_ms {
                        return;
                    }
                    let left_ms = (patience_ms - quiet_ms).min(short_ms.max(1));
                    tokio::time::sleep(Duration::from_millis(left_ms)).await;
                }
            }
        }
    }
}

/// Watches an answer over HTTP/2 that consists of a head only. The library drops the values of header fields when it
/// has written them, so one value holds the answer's account. Every answer has a field with a value.
fn watch_head(mut response: Response<Body>, answer: Arc<Answer>) -> Response<Body> {
    let mut values = response.headers_mut().values_mut();
    let Some(value) = values.find(|value| !value.is_empty()) else { return response };
    let bytes = Bytes::copy_from_slice(value.as_bytes());
    answer.held.lock().given_len = bytes.len();
    let given = Bytes::from_owner(PassedBytes { bytes, answer });
    if let Ok(mut given) = HeaderValue::from_maybe_shared(given) {
        // Otherwise the library may keep the value in the table that compresses header fields.
        given.set_sensitive(true);
        *value = given;
    }
    response
}

/// Over HTTP/2 the refusal has no body, because the client might leave that unread, too.
fn too_many_unsent_bytes(version: Version) -> Response<Body> {
    let text = "Your address must first read the answers to its earlier requests: too many bytes of them are waiting";
    let mut response = CompatError::new(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    if version >= Version::HTTP_2 {
        response.headers_mut().remove(header::CONTENT_TYPE);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::empty();
    }
    response
}

/// The body of an answer, which is passed on in parts.
struct MonitoredBody {
    inner: Body,
    /// The rest of the last frame.
    rest: Bytes,
    answer: Arc<Answer>,
}

impl MonitoredBody {
    fn piece(&mut self) -> Result<Bytes, NoPlace> {
        let len = self.rest.len();
        let is_last_frame = self.inner.is_end_stream();
        let piece_len = match len {
            _ if len <= LAST_PIECE_LEN => len,
            _ if is_last_frame => PIECE_LEN.min(len - LAST_PIECE_LEN),
            _ => PIECE_LEN.min(len),
        };
        let bytes = self.rest.split_to(piece_len);
        let rest_len = self.rest.len();
        let given = PassedBytes { bytes, answer: Arc::clone(&self.answer) };
        self.answer.change(|held| {
            held.rest_len = rest_len;
            held.given_len += piece_len;
        })?;
        Ok(Bytes::from_owner(given))
    }
}

impl HttpBody for MonitoredBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            // If the client has read everything, the source of the answer is late and not the client.
            if this.answer.held.lock().given_len == 0 {
                this.answer.waiting_since_ms.store(0, Ordering::Relaxed);
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        // If there is no room, the client reads too little of too many answers, so this answer is aborted.
        Poll::Ready(Some(this.piece().map(Frame::data).map_err(axum::Error::new)))
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
    use futures::stream::{self, StreamExt};
    use http_body_util::BodyExt;

    use super::*;

    fn monitor(unsent: &UnsentBytes) -> SendMonitor {
        SendMonitor::new(Clock::system(), unsent.clone())
    }

    fn reader(last: u8) -> Reader {
        Reader { address: [10, 0, 0, last].into(), caller_class: CallerClass::Stranger }
    }

    /// An instance's answer of unlimited length, in parts of `len` bytes.
    fn streamed(len: usize) -> Response<Body> {
        let parts = std::iter::repeat_with(move || Ok::<_, axum::Error>(Bytes::from(vec![0; len])));
        let mut response = Response::new(Body::from_stream(futures::stream::iter(parts)));
        response.extensions_mut().insert(Streamed);
        response
    }

    #[tokio::test]
    async fn an_answer_is_passed_on_completely_and_in_pieces() {
        let monitor = monitor(&UnsentBytes::default());
        let bytes: Vec<u8> = (0..40_000_u32).map(|at| at as u8).collect();
        let watched = monitor.watch(
            Version::HTTP_2,
            reader(1),
            Response::new(Body::from(bytes.clone())),
            None,
        );
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
    async fn the_room_for_an_answer_is_known_before_it_is_built() {
        let unsent = UnsentBytes::default();
        let monitor = monitor(&unsent);
        let answer = |len| Response::new(Body::from(vec![0; len]));
        let watch = |version, len| monitor.watch(version, reader(1), answer(len), None);
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let room = AnswerRoom::new(unsent.clone(), reader(1), version);
            assert_eq!(room.len_max(), usize::MAX, "an answer of any length is accepted alone");
            let _first = watch(version, UNSENT_PER_ADDRESS_LEN_MAX - 100 * 1_024);
            let len_max = room.len_max();
            assert_eq!(watch(version, len_max).status(), 200, "{version:?} {len_max}");
            assert_eq!(watch(version, len_max + 1).status(), 503, "{version:?} {len_max}");
            let _second = watch(version, len_max);
            let short = if version == Version::HTTP_11 { 64 * 1_024 - 1 } else { 0 };
            assert_eq!(room.len_max(), short);
        }
    }

    #[tokio::test]
    async fn waiting_bytes_are_counted_unless_all_answers_share_them() {
        let unsent = UnsentBytes::default();
        let monitor = monitor(&unsent);
        let big = || Response::new(Body::from(vec![0; UNSENT_PER_ADDRESS_LEN_MAX / 2 + 1]));
        let watch = |version, response| monitor.watch(version, reader(1), response, None);
        let first = watch(Version::HTTP_11, big());
        assert_eq!(watch(Version::HTTP_11, big()).status(), 503);
        let mut shared = big();
        shared.extensions_mut().insert(SharedBytes);
        assert_eq!(watch(Version::HTTP_2, shared).status(), 200);
        drop(first);
        assert_eq!(watch(Version::HTTP_11, big()).status(), 200);
        let too_big = Response::new(Body::from(vec![0; UNSENT_PER_ADDRESS_LEN_MAX + 1]));
        assert_eq!(watch(Version::HTTP_11, too_big).status(), 200, "it would never be answered");
        assert_eq!(unsent.0.taken(), 0);
    }

    #[tokio::test]
    async fn short_answers_over_http2_that_nobody_takes_are_bounded_by_their_number() {
        let unsent = UnsentBytes::default();
        // Each on its own connection, because one connection has hundreds at most.
        let short = || {
            monitor(&unsent).watch(Version::HTTP_2, reader(1), Response::new(Body::from("x")), None)
        };
        let mut held = Vec::new();
        let refused = loop {
            let answer = short();
            if answer.status() != 200 {
                break answer;
            }
            held.push(answer);
        };
        assert_eq!(refused.status(), 503);
        assert!(refused.body().is_end_stream(), "nothing of it waits for its client");
        assert_eq!(held.len(), UNSENT_PER_ADDRESS_LEN_MAX / (STREAM_LEN + 1));
        assert!(held.len() > 10_000, "watchers over HTTP/2 behind one address have room");
        drop(held);
        assert_eq!(unsent.0.taken(), 0);
    }

    #[tokio::test]
    async fn only_held_bytes_of_an_instances_answer_count() {
        let unsent = UnsentBytes::default();
        let monitor = monitor(&unsent);
        let mut body =
            monitor.watch(Version::HTTP_11, reader(1), streamed(60_000), None).into_body();
        assert_eq!(unsent.0.taken(), 1, "nothing has come yet");
        let mut passed = 0;
        while passed < 2 * UNSENT_PER_ADDRESS_LEN_MAX {
            passed += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
            assert!(unsent.0.taken() <= 60_000, "{}", unsent.0.taken());
        }
        let given = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let before = unsent.0.taken();
        drop(given);
        assert!(before - unsent.0.taken() > LAST_PIECE_LEN, "the library has written it");
        drop(body);
        assert_eq!(unsent.0.taken(), 0);
    }

    #[tokio::test]
    async fn slow_readers_of_one_address_are_cut_off_and_others_are_served() {
        let unsent = UnsentBytes::default();
        let monitor = monitor(&unsent);
        let each = UNSENT_PER_ADDRESS_LEN_MAX / 4 + 1;
        let mut slow = Vec::new();
        for _ in 0..5 {
            let mut body =
                monitor.watch(Version::HTTP_11, reader(1), streamed(each), None).into_body();
            let first = body.frame().await.unwrap();
            slow.push((body, first));
        }
        let served: Vec<bool> = slow.iter().map(|(_, first)| first.is_ok()).collect();
        assert_eq!(served, [true, true, true, false, false], "each began with one byte");
        let mut other =
            monitor.watch(Version::HTTP_11, reader(2), streamed(60_000), None).into_body();
        other.frame().await.unwrap().unwrap();
        assert!(unsent.0.taken() <= UNSENT_PER_ADDRESS_LEN_MAX + 60_000);
    }

    #[tokio::test]
    async fn clients_that_read_nothing_are_given_up_sooner_if_the_node_runs_short() {
        let unsent = UnsentBytes::default();
        let (monitor, patience) = (monitor(&unsent), Duration::from_secs(3_600));
        let part = UNSENT_PER_ADDRESS_LEN_MAX / 4;
        let mut held = Vec::new();
        for last in 0..10 {
            let mut body =
                monitor.watch(Version::HTTP_11, reader(last), streamed(part - 1), None).into_body();
            body.frame().await.unwrap().unwrap();
            held.push(body);
        }
        assert!(unsent.is_short());
        let clock = Clock::manual();
        let other = SendMonitor::new(clock.clone(), unsent.clone());
        let _slow = other.watch(Version::HTTP_2, reader(19), Response::new(Body::from("x")), None);
        clock.advance(patience / 10 + Duration::from_millis(1));
        other.stalled(patience).await;
        drop(held);
        assert!(!unsent.is_short());
        let stalled =
            tokio::time::timeout(Duration::from_millis(50), other.stalled(patience)).await;
        stalled.expect_err("it has all of its time");
    }

    /// The library asks for the next part before it has written the last one.
    #[tokio::test]
    async fn a_change_that_the_library_cannot_write_is_counted_and_stalls() {
        let unsent = UnsentBytes::default();
        let clock = Clock::manual();
        let monitor = SendMonitor::new(clock.clone(), unsent.clone());
        let patience = Duration::from_secs(3_600);
        let change = stream::iter([Ok::<_, axum::Error>(Bytes::from(vec![0; 700]))]);
        let mut response = Response::new(Body::from_stream(change.chain(stream::pending())));
        response.extensions_mut().insert(Streamed);
        let mut body = monitor.watch(Version::HTTP_2, reader(1), response, None).into_body();
        let given = body.frame().await.unwrap().unwrap();
        assert!(futures::poll!(body.frame()).is_pending());
        assert_eq!(unsent.0.taken(), STREAM_LEN + 700);
        clock.advance(patience + Duration::from_millis(1));
        monitor.stalled(patience).await;
        drop(given);
        assert_eq!(unsent.0.taken(), STREAM_LEN);
        let stalled =
            tokio::time::timeout(Duration::from_millis(50), monitor.stalled(patience)).await;
        stalled.expect_err("its client has taken all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_answers_are_refused_again_and_again_is_closed() {
        let unsent = UnsentBytes::default();
        let held = Response::new(Body::from(vec![0; UNSENT_PER_ADDRESS_LEN_MAX]));
        let _held = monitor(&unsent).watch(Version::HTTP_11, reader(1), held, None);
        let monitor = monitor(&unsent);
        let answered =
            || monitor.watch(Version::HTTP_2, reader(1), Response::new(Body::from("x")), None);
        for _ in 1..REFUSED_MAX {
            assert_eq!(answered().status(), 503);
        }
        let stalled = tokio::time::timeout(2 * REFUSED_PAUSE, monitor.stalled(REFUSED_PAUSE)).await;
        stalled.expect_err("a few refusals end no connection");
        assert_eq!(answered().status(), 503);
        monitor.stalled(REFUSED_PAUSE).await;
    }

    /// An address that leaves the node short of memory has its slow clients given up sooner. Other clients are not
    /// affected.
    #[tokio::test]
    async fn slow_clients_of_an_address_that_runs_short_are_given_up_sooner() {
        let unsent = UnsentBytes::default();
        let (clock, patience) = (Clock::manual(), Duration::from_secs(3_600));
        let long = Response::new(Body::from(vec![0; UNSENT_PER_ADDRESS_LEN_MAX / 8 * 7]));
        let _long = monitor(&unsent).watch(Version::HTTP_11, reader(1), long, None);
        let monitor = |last: u8| {
            let monitor = SendMonitor::new(clock.clone(), unsent.clone());
            let short = Response::new(Body::from("x"));
            let answer = monitor.watch(Version::HTTP_2, reader(last), short, None);
            (monitor, answer)
        };
        let (slow, _slow) = monitor(1);
        let (other, _other) = monitor(2);
        clock.advance(patience / 10 + Duration::from_millis(1));
        slow.stalled(patience).await;
        let stalled =
            tokio::time::timeout(Duration::from_millis(50), other.stalled(patience)).await;
        stalled.expect_err("its address has room");
    }

    /// The library holds the head of each answer until it has written it.
    #[tokio::test]
    async fn answers_over_http2_without_a_body_are_counted_and_timed_until_their_heads_are_written()
    {
        let unsent = UnsentBytes::default();
        let clock = Clock::manual();
        let monitor = SendMonitor::new(clock.clone(), unsent.clone());
        let patience = Duration::from_secs(3_600);
        let mut head = Response::new(Body::empty());
        let trace = HeaderValue::from_static("my own");
        head.headers_mut().insert("x-trace-id", trace.clone());
        let open = monitor.begin();
        let head = monitor.watch(Version::HTTP_2, reader(1), head, Some(open));
        assert!(head.body().is_end_stream(), "the end of the stream is in its head");
        assert_eq!(head.headers()["x-trace-id"], trace);
        assert_eq!(unsent.0.taken(), STREAM_LEN);
        clock.advance(patience + Duration::from_millis(1));
        monitor.stalled(patience).await;
        drop(head);
        assert_eq!(unsent.0.taken(), 0);
        let stalled =
            tokio::time::timeout(Duration::from_millis(50), monitor.stalled(patience)).await;
        stalled.expect_err("its client has taken all");
        monitor.idle(Duration::ZERO).await;
    }

    /// A connection is not idle while a request is answered or its answer is delivered.
    #[tokio::test(start_paused = true)]
    async fn a_connection_over_http2_is_idle_after_its_last_answer_was_written() {
        let clock = Clock::manual();
        let monitor = SendMonitor::new(clock.clone(), UnsentBytes::default());
        let patience = Duration::from_secs(30);
        let is_idle = async || {
            let idle = monitor.idle(patience);
            tokio::pin!(idle);
            assert!(futures::poll!(&mut idle).is_pending());
            clock.advance(patience);
            tokio::time::timeout(2 * patience, idle).await.is_ok()
        };
        assert!(!is_idle().await, "the library times a connection without a request");
        let open = Some(monitor.begin());
        assert!(!is_idle().await, "its request is being answered");
        let answer = Response::new(Body::from("x"));
        let answer = monitor.watch(Version::HTTP_2, reader(1), answer, open);
        assert!(!is_idle().await, "its answer is being delivered");
        drop(answer);
        assert!(is_idle().await);
        assert!(is_idle().await, "as long again");
    }

    #[tokio::test]
    async fn only_an_answer_that_its_client_does_not_take_stalls() {
        let monitor = monitor(&UnsentBytes::default());
        let patience = Duration::from_millis(200);
        // If the source of an answer is silent, the client is not at fault.
        let silent = Body::from_stream(futures::stream::pending::<Result<Bytes, axum::Error>>());
        let mut quiet =
            monitor.watch(Version::HTTP_2, reader(1), Response::new(silent), None).into_body();
        assert!(futures::poll!(quiet.frame()).is_pending());
        let stalled = tokio::time::timeout(3 * patience, monitor.stalled(patience)).await;
        stalled.expect_err("a quiet stream has stalled");
        let answer = Response::new(Body::from(vec![0; 20_000]));
        let taken = monitor.watch(Version::HTTP_2, reader(1), answer, None);
        let mut taken = taken.into_body();
        taken.frame().await.unwrap().unwrap();
        let stalled = tokio::time::timeout(10 * patience, monitor.stalled(patience)).await;
        stalled.expect("it is seen");
    }
}
