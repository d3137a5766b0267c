//! Accepts connections and serves them within limits.
//!
//! Place in the flow: the outermost part. It knows sockets and HTTP's framing, and nothing about the content
//! of requests. A client is disconnected if it sends its head slowly, reads its answer slowly, or only holds
//! a connection. What exceeds a limit is refused and counted.
//!
//! A share of the connections is reserved for callers with a credential, so that strangers cannot lock an
//! operator out. Only a request shows whether the caller has one. So if all other connections are taken, a
//! few more are accepted for a moment, and closed unless their first request has a credential.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::future::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Front;
use super::body_tracker::BodyTracker;
use super::compat_error::CompatError;
use super::front::Begun;
use super::lazy_timer::LazyTimer;
use super::linger::{LingeringStream, TunnelMark};
use super::middleware::leave_out_body;
use super::provisional::{ProvisionalConnection, ProvisionalConnections};
use super::send_monitor::{OpenRequest, Reader, SendMonitor, UnsentBytes};
use super::well_formed::{self, Bounds};
use maxine_admission::{CallerClass, NoPlace, Place, PlaceLimits, Places};
use maxine_gateway::{Interim, InterimStream, TrustedProxies};
use maxine_telemetry::Metrics;

/// The answer to a connection above a limit.
fn refusal(why: NoPlace) -> String {
    let whose = match why {
        NoPlace::Node => "",
        NoPlace::Address => " from your address",
    };
    let body =
        format!("{{\"message\":\"too many connections are open{whose}; retry in 1 s\"}}\r\n");
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n\
         X-Content-Type-Options: nosniff\r\nContent-Length: {}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Pause after the operating system refused to accept a connection, for example because of too many open
/// files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Maximum number of refused connections that are answered concurrently. Further ones are closed without an
/// answer.
const REFUSALS_MAX: usize = 512;
/// Time limit for answering a refused connection.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// What HTTP/2 holds of one answer in addition to the last part, in bytes.
const SEND_BUFFER_LEN: usize = 32 * 1_024;
/// One in this many connections is reserved for callers with a credential and for operators on this machine.
const RESERVED_ONE_IN: usize = 8;
/// What a request over HTTP/2 counts in addition to its head, in bytes: its stream, and the task that answers
/// it. A request may wait for seconds, for example for an index.
const REQUEST_LEN: usize = 8 * 1_024;
/// What it counts in addition while its body has not ended, in bytes: the first part of its body.
const OPEN_BODY_LEN: usize = 8 * 1_024;

/// Limits of the server.
#[derive(Clone, Debug)]
pub struct ServeLimits {
    /// Maximum number of open connections.
    pub connections_max: usize,
    /// Maximum number of these from one address, except trusted proxies.
    pub connections_per_address_max: usize,
    /// Proxies that speak for many clients.
    pub trusted_proxies: TrustedProxies,
    /// Time limit for a request's head, and for a connection to be idle between two requests, in
    /// milliseconds.
    pub header_timeout_ms: u64,
    /// Maximum length of a request's head, in bytes, at least 8,192.
    pub header_len_max: usize,
    /// Maximum number of header fields in a request.
    pub header_fields_max: usize,
    /// Maximum number of concurrent requests on one HTTP/2 connection.
    pub streams_max: u32,
    /// How long a client may read nothing of an answer, in milliseconds. Then its connection is closed.
    pub send_timeout_ms: u32,
    /// How long requests in flight may take to end at shutdown, in milliseconds.
    pub drain_timeout_ms: u64,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections_max: 32_768,
            connections_per_address_max: 32_768,
            trusted_proxies: TrustedProxies::default(),
            header_timeout_ms: 30_000,
            header_len_max: 64 * 1_024,
            header_fields_max: 128,
            streams_max: 256,
            send_timeout_ms: 30_000,
            drain_timeout_ms: 10_000,
        }
    }
}

/// Serves `front` on `listener` until `stop`. Then it accepts no more connections, waits a limited time for
/// the requests in flight, and returns.
pub async fn serve(
    listener: TcpListener,
    front: Arc<Front>,
    limits: ServeLimits,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let builder = Arc::new(builder(&limits));
    let connections = Places::fair(PlaceLimits {
        max: limits.connections_max,
        per_address_max: limits.connections_per_address_max,
        reserved: limits.connections_max / RESERVED_ONE_IN,
    });
    let provisional_max = limits.connections_max / RESERVED_ONE_IN / 4 * 3;
    let provisional = ProvisionalConnections::new(Arc::clone(&connections), provisional_max);
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let unsent = UnsentBytes::default();
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (mut stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let caller_class = match peer.ip().to_canonical() {
            ip if ip.is_loopback() && limits.trusted_proxies.is_empty() => CallerClass::Known,
            ip if limits.trusted_proxies.contains(ip) => CallerClass::Trusted,
            _ => CallerClass::Stranger,
        };
        let place = connections.take(peer.ip(), caller_class, 1).map(|place| (Some(place), None));
        let place = place.or_else(|why| {
            // Only the share for callers with a credential is left.
            let is_full = why == NoPlace::Node && caller_class == CallerClass::Stranger;
            if !is_full {
                return Err(why);
            }
            Ok((None, Some(CredentialCheck::new(provisional.enter(peer.ip())?))))
        });
        let (place, credential_check) = match place {
            Ok(taken) => taken,
            Err(why) => {
                metrics.connections_refused.inc();
                if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    tasks.spawn(async move {
                        refuse(stream, why).await;
                        drop(permit);
                    });
                }
                continue;
            }
        };
        set_socket_options(&stream, &limits);
        let (builder, front) = (Arc::clone(&builder), Arc::clone(&front));
        let (limits, metrics) = (limits.clone(), metrics.clone());
        let monitor = SendMonitor::new(front.clock().clone(), unsent.clone());
        let (stop, refusals) = (stop.clone(), Arc::clone(&refusals));
        tasks.spawn(async move {
            let idle = Duration::from_millis(limits.header_timeout_ms);
            if let Some(silent) = &credential_check
                && !silent.wait_for_first_byte(&stream, idle).await
            {
                drop(credential_check);
                metrics.connections_refused.inc();
                if let Ok(_permit) = refusals.try_acquire() {
                    refuse(stream, NoPlace::Node).await;
                }
                return;
            }
            metrics.connections.inc();
            let read = match front.fast_path().filter(|_| credential_check.is_none()) {
                None => Some(Bytes::new()),
                Some(way) => way.serve(&mut stream, peer.ip(), idle, &stop).await,
            };
            let Some(read) = read else {
                return metrics.connections.dec();
            };
            let began = Arc::new(AtomicBool::new(false));
            let interim = Interim::default();
            let mark = TunnelMark::default();
            let stream = LingeringStream::new(stream, mark.clone());
            let stream = InterimStream::new(stream, interim.clone()).with_prefix(read);
            let connection_state = ConnectionState {
                monitor: monitor.clone(),
                mark,
                began: Arc::clone(&began),
                peer: Reader { address: peer.ip(), caller_class },
                proxies: limits.trusted_proxies.clone(),
            };
            let bounds = Bounds::of(&limits);
            let context = ConnectionContext {
                front,
                peer,
                bounds,
                credential_check: credential_check.clone(),
            };
            let service = request_service(context, interim, connection_state);
            let mut builder = (*builder).clone();
            builder.http1().timer(LazyTimer::default());
            let connection =
                builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            tokio::pin!(connection);
            // While the version of the protocol is being determined, hyper has no timer running.
            let first = tokio::time::sleep(match &credential_check {
                Some(_) => idle.min(REFUSAL_TIMEOUT),
                None => idle,
            });
            let patience = Duration::from_millis(limits.send_timeout_ms.into());
            let no_request = async {
                first.await;
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
                // The client is told to open another connection. What it has asked is answered.
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut connection => ended,
                    () = monitor.idle(idle) => Ok(()),
                }
            };
            let ended = tokio::select! {
                ended = served => ended,
                () = monitor.stalled(patience) => {
                    metrics.connections_stalled.inc();
                    Ok(())
                }
                () = CredentialCheck::displaced(credential_check.as_ref()) => {
                    metrics.connections_refused.inc();
                    Ok(())
                }
                () = CredentialCheck::refused(credential_check.as_ref()) => {
                    metrics.connections_refused.inc();
                    Ok(())
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, error, "a connection ended early");
            }
            metrics.connections.dec();
            drop(place);
        });
    }
    drop(listener);
    tasks.close();
    let drain = Duration::from_millis(limits.drain_timeout_ms);
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "requests in flight were closed at shutdown");
    }
}

/// Answers a connection above a limit, and closes it so that the answer arrives.
async fn refuse(stream: TcpStream, why: NoPlace) {
    let mut stream = LingeringStream::new(stream, TunnelMark::default());
    let answer = async {
        stream.write_all(refusal(why).as_bytes()).await?;
        stream.shutdown().await
    };
    // This is best effort, because the client may be gone.
    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, answer).await;
}

/// What is known about a connection while its requests are answered.
#[derive(Clone)]
struct ConnectionState {
    monitor: SendMonitor,
    mark: TunnelMark,
    /// Whether a request has arrived.
    began: Arc<AtomicBool>,
    /// The client that opened the connection.
    peer: Reader,
    proxies: TrustedProxies,
}

impl ConnectionState {
    /// The client of an answer: the peer, or the client that a trusted proxy names.
    fn reader(&self, headers: &HeaderMap) -> Reader {
        if self.peer.caller_class != CallerClass::Trusted {
            return self.peer;
        }
        let address = self.proxies.resolve(self.peer.address, headers).ip;
        let is_proxy = self.proxies.contains(address);
        let caller_class = if is_proxy { CallerClass::Trusted } else { CallerClass::Stranger };
        Reader { address, caller_class }
    }

    fn watch_answer(
        &self,
        version: Version,
        reader: Reader,
        response: Response<Body>,
        open: Option<OpenRequest>,
    ) -> Response<Body> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.mark.set();
        }
        self.monitor.watch(version, reader, response, open)
    }
}

/// Whether the requests of a connection above the limit have a credential.
#[derive(Clone)]
struct CredentialCheck(Arc<CredentialCheckState>);

struct CredentialCheckState {
    connection: ProvisionalConnection,
    /// The place of the connection, once its first request has a credential.
    place: Mutex<Option<Place>>,
    /// Notified when a request has none.
    refused: Notify,
}

impl CredentialCheck {
    fn new(connection: ProvisionalConnection) -> Self {
        Self(Arc::new(CredentialCheckState {
            connection,
            place: Mutex::default(),
            refused: Notify::new(),
        }))
    }

    /// The answer to a request without a credential. The connection ends after it.
    fn refusal<B>(&self, front: &Front, request: &Request<B>) -> Option<Response<Body>> {
        if front.has_valid_credential(request) {
            let mut place = self.0.place.lock();
            if place.is_none() {
                *place = self.0.connection.settle();
            }
            return None;
        }
        self.0.refused.notify_one();
        let text = "too many connections are open; requests with a credential are still taken; retry in 1 s";
        let refusal = CompatError::new(StatusCode::SERVICE_UNAVAILABLE, text);
        let mut refusal = refusal.with_retry_after_s(Some(1)).into_response();
        refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        Some(refusal)
    }

    /// Waits for the first byte; `false` where another connection got the place first, or none came in time.
    async fn wait_for_first_byte(&self, stream: &TcpStream, idle: Duration) -> bool {
        tokio::select! {
            readable = stream.readable() => readable.is_ok(),
            () = self.0.connection.displaced() => false,
            () = tokio::time::sleep(idle.min(REFUSAL_TIMEOUT)) => false,
        }
    }

    /// Returns when another connection has taken the place of this one, which has not shown a credential yet.
    async fn displaced(credential_check: Option<&Self>) {
        match credential_check {
            Some(credential_check) => credential_check.0.connection.displaced().await,
            None => std::future::pending().await,
        }
    }

    /// Returns some time after a request was refused, when its answer must have arrived.
    async fn refused(credential_check: Option<&Self>) {
        let Some(credential_check) = credential_check else { return std::future::pending().await };
        credential_check.0.refused.notified().await;
        tokio::time::sleep(REFUSAL_TIMEOUT).await;
    }
}

/// What is needed to answer the requests of one connection.
struct ConnectionContext {
    front: Arc<Front>,
    peer: SocketAddr,
    bounds: Bounds,
    credential_check: Option<CredentialCheck>,
}

impl ConnectionContext {
    /// Why a request is refused before it is handled.
    fn refusal<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        let refusal = well_formed::refusal(request, self.bounds);
        refusal.or_else(|| self.credential_check.as_ref()?.refusal(&self.front, request))
    }

    /// Counts a request until it is answered: its state, its head and, if its body has not ended, the first
    /// part of it. Over HTTP/1 a connection has one request. Over HTTP/2 it has hundreds, which are limited
    /// together with the bodies that arrive.
    fn count_request<B: HttpBody>(
        &self,
        reader: Reader,
        request: &Request<B>,
    ) -> Result<Option<Place>, Box<Response<Body>>> {
        if request.version() < Version::HTTP_2 {
            return Ok(None);
        }
        let fields = request.headers().iter();
        let fields_len: usize = fields.map(|(name, value)| name.as_str().len() + value.len()).sum();
        let target_len = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        let bodies = self.front.bodies();
        let open_len = if request.body().is_end_stream() { 0 } else { OPEN_BODY_LEN };
        let len = REQUEST_LEN + fields_len + target_len + open_len;
        let Reader { address, caller_class } = reader;
        // Strangers never get all places. A credential is only checked once their share is taken.
        let taken = bodies.take(address, caller_class, len).or_else(|why| {
            let is_known = why == NoPlace::Node && self.front.has_valid_credential(request);
            if is_known { bodies.take(address, CallerClass::Known, len) } else { Err(why) }
        });
        taken.map(Some).map_err(|why| {
            let text = format!("too many requests are being answered: {why}");
            let refusal = CompatError::new(StatusCode::SERVICE_UNAVAILABLE, text);
            Box::new(refusal.with_retry_after_s(Some(1)).into_response())
        })
    }
}

fn request_service(
    context: ConnectionContext,
    interim: Interim,
    connection_state: ConnectionState,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future = impl Future<Output = Result<axum::response::Response, std::convert::Infallible>> + Send,
> + Send {
    service_fn(move |request: Request<Incoming>| {
        connection_state.began.store(true, Ordering::Relaxed);
        let (version, reader) = (request.version(), connection_state.reader(request.headers()));
        let open = connection_state.monitor.begin(version);
        let is_head = request.method() == Method::HEAD;
        // A refusal is an answer, too, which its client may leave untaken.
        let refuse = |mut refusal: Response<Body>, open: Option<OpenRequest>| {
            if is_head {
                leave_out_body(&mut refusal);
            }
            let answer = connection_state.watch_answer(version, reader, refusal, open);
            Either::Left(std::future::ready(Ok(answer)))
        };
        if let Some(refusal) = context.refusal(&request) {
            return refuse(refusal, open);
        }
        let counted = match context.count_request(reader, &request) {
            Ok(counted) => counted,
            Err(refusal) => return refuse(*refusal, open),
        };
        let ConnectionContext { front, peer, .. } = &context;
        let peer = *peer;
        let begun = front.begin(peer, &request);
        let (body_tracker, request) = BodyTracker::track(request);
        let rest = match begun {
            Begun::Answered(mut response) => {
                body_tracker.close_if_unread(&mut response);
                let response = connection_state.watch_answer(version, reader, response, open);
                return Either::Left(std::future::ready(Ok(response)));
            }
            Begun::Open(rest) => rest,
        };
        let (front, interim, connection_state) =
            (Arc::clone(front), interim.clone(), connection_state.clone());
        // In a box, a request that is refused, and a connection without a request, do not hold its room.
        Either::Right(Box::pin(async move {
            let mut response = front.answer(peer, rest, &interim, request.map(Body::new)).await;
            drop(counted);
            body_tracker.close_if_unread(&mut response);
            Ok(connection_state.watch_answer(version, reader, response, open))
        }))
    })
}

fn builder(limits: &ServeLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    let idle = Duration::from_millis(limits.header_timeout_ms);
    builder
        .http1()
        .header_read_timeout(idle)
        .max_buf_size(limits.header_len_max.max(8_192))
        .max_headers(limits.header_fields_max)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_send_buf_size(SEND_BUFFER_LEN)
        .max_header_list_size(u32::try_from(limits.header_len_max).unwrap_or(u32::MAX))
        .keep_alive_interval(idle)
        .keep_alive_timeout(idle);
    builder
}

/// Sets the options of a socket. Options that the operating system does not support are skipped.
fn set_socket_options(stream: &TcpStream, limits: &ServeLimits) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    // Closes a connection whose client reads nothing, even if its receive window is closed.
    if let Err(error) = setsockopt(stream, sockopt::TcpUserTimeout, &limits.send_timeout_ms) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT could not be set");
    }
}
