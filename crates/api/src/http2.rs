//! Connections over HTTP/2. The HTTP library reads and writes them.

use std::convert::Infallible;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{Method, Request, Response, StatusCode, Version};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;

use super::answering::Answering;
use super::compat_error::CompatError;
use super::linger::LingeringStream;
use super::listener::{Client, Listener};
use super::send_monitor::{Reader, SendMonitor};
use super::turn_read::TurnRead;
use super::unread_body::{KeptBody, UnreadBody};
use maxine_admission::{CallerClass, Leave, Place};

/// Bytes that a request counts in addition to its head, for its stream and the task that answers it. A request may wait
/// for seconds, for example for an index.
const REQUEST_LEN: usize = 8 * 1_024;
/// Bytes that a request counts in addition while its body has not ended, for the first part of the body.
const OPEN_BODY_LEN: usize = 8 * 1_024;
/// How long a request that may change something keeps its place in any case. Most such requests are answered earlier.
const CHANGE_KEPT: Duration = Duration::from_secs(1);
/// Why a read ended early.
const READ_DISPLACED: &str =
    "too many requests are being answered, and your address or user has the most of them";
/// Why another request ended early.
const CHANGE_DISPLACED: &str = "too many requests are being answered, and your address or user has the most of them: \
     this request may or may not have taken effect";

/// Serves a connection until it ends. Its preface was already read, and is the beginning of `client.bytes`.
pub(super) async fn serve(listener: &Listener, answering: Answering, client: Client) {
    let Listener { limits, metrics, unsent, stop, .. } = listener;
    let idle = Duration::from_millis(limits.header_timeout_ms);
    let monitor = SendMonitor::new(answering.front.clock().clone(), unsent.clone());
    let read = Cursor::new(client.bytes.freeze()).chain(TurnRead::new(client.read));
    let stream = LingeringStream::new(tokio::io::join(read, client.write));
    let peer = answering.peer.ip;
    let began = Arc::new(AtomicBool::new(false));
    let streams = Streams { answering, monitor: monitor.clone(), began: Arc::clone(&began) };
    let service = service_fn(move |request| {
        let streams = streams.clone();
        async move { Ok::<_, Infallible>(streams.answer(request).await) }
    });
    let connection = listener.http2.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let no_request = async {
        tokio::time::sleep(idle).await;
        if began.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let served = async {
        tokio::select! {
            ended = &mut connection => return ended,
            () = no_request => return Ok(()),
            () = monitor.idle(idle) => {}
            () = stop.cancelled() => {}
        }
        // The client learns that it must open another connection. Its requests in flight are still answered.
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = &mut connection => ended,
            () = monitor.idle(idle) => Ok(()),
        }
    };
    let patience = Duration::from_millis(limits.send_timeout_ms.into());
    let ended = tokio::select! {
        ended = served => ended,
        () = monitor.stalled(patience) => {
            metrics.connections_stalled.inc();
            Ok(())
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended early");
    }
}

/// What is needed to answer the requests of one connection.
#[derive(Clone)]
struct Streams {
    answering: Answering,
    monitor: SendMonitor,
    /// Whether a request has arrived.
    began: Arc<AtomicBool>,
}

impl Streams {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.began.store(true, Ordering::Relaxed);
        let Self { answering, monitor, .. } = self;
        let reader = answering.reader(request.headers());
        let open = monitor.begin();
        let unread = UnreadBody::default();
        let request = request.map(|incoming| unread.keep(incoming));
        // A refusal is watched like any other answer, because its client may not take it.
        let response = match answering.refusal(&request) {
            Some(refusal) => {
                drop(request);
                refusal
            }
            None => match self.count(reader, &request) {
                Ok(counted) => self.answer_counted(request, counted).await,
                Err(refusal) => *refusal,
            },
        };
        // An instance's answer can be a stream that begins before the request has ended, and a node with too much to do
        // spends no time on a refusal.
        let status = response.status();
        if !status.is_success() && status != StatusCode::SERVICE_UNAVAILABLE {
            unread.discard(answering.front.bodies(), reader).await;
        }
        monitor.watch(Version::HTTP_2, reader, response, Some(open))
    }

    /// Answers a request. It ends early if a client that has fewer requests needs its place: a user, if it has a
    /// credential.
    async fn answer_counted(
        &self,
        request: Request<KeptBody>,
        mut counted: Place,
    ) -> Response<Body> {
        let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
        let kept = if is_read { Duration::ZERO } else { CHANGE_KEPT };
        let leave = Arc::new(Leave::after(kept));
        counted.give_way(&leave);
        tokio::select! {
            biased;
            answer = self.answering.answer(request, None) => answer,
            () = leave.displaced() => {
                let text = if is_read { READ_DISPLACED } else { CHANGE_DISPLACED };
                let refusal = CompatError::new(StatusCode::SERVICE_UNAVAILABLE, text);
                refusal.with_retry_after_s(Some(1)).into_response()
            }
        }
    }

    /// Counts a request until it is answered: its state, its head and, if its body has not ended, the first part of the
    /// body. The limits for bodies in flight apply to the sum, because one connection can have hundreds of requests.
    fn count<B: HttpBody>(
        &self,
        reader: Reader,
        request: &Request<B>,
    ) -> Result<Place, Box<Response<Body>>> {
        let fields = request.headers().iter();
        let fields_len: usize = fields.map(|(name, value)| name.as_str().len() + value.len()).sum();
        let target_len = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        let front = &self.answering.front;
        let bodies = front.bodies();
        let open_len = if request.body().is_end_stream() { 0 } else { OPEN_BODY_LEN };
        let len = REQUEST_LEN + fields_len + target_len + open_len;
        let Reader { address, caller_class } = reader;
        let Answering { proxies, peer, .. } = &self.answering;
        // A caller with a credential counts by its name.
        let user_class = if caller_class == CallerClass::Stranger {
            front.user_class(request, proxies.resolve(*peer, request.headers()).is_https)
        } else {
            None
        };
        let taken = bodies.take(address, user_class.unwrap_or(caller_class), len);
        taken.map_err(|why| {
            let text = format!("too many requests are being answered: {why}");
            let refusal = CompatError::new(StatusCode::SERVICE_UNAVAILABLE, text);
            Box::new(refusal.with_retry_after_s(Some(1)).into_response())
        })
    }
}
