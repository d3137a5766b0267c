//! Takes connections and serves them within limits.
//!
//! Place in the flow: the outermost piece. It knows sockets and HTTP's framing, and nothing of what
//! is asked. A client that sends its head slowly, that takes its answer slowly, or that only holds a
//! connection is let go; what is over a limit is refused and counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Version, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::future::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Front;
use super::error::CompatError;
use super::lazy_timer::LazyTimer;
use crate::proxy::{HintedStream, Interim};
use crate::telemetry::Metrics;

/// What one connection over the limit is told.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json; charset=utf-8\r\n\
    content-length: 59\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
    {\"message\":\"too many connections are open; retry in 1 s\"}\r\n";
/// Pause after the system refused to hand out a connection (too many open files, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Limits of the server.
#[derive(Clone, Debug)]
pub struct ServeLimits {
    /// Most connections at once.
    pub connections_max: usize,
    /// For a request's head to arrive, and for a connection to be idle between two, in milliseconds.
    pub header_timeout_ms: u64,
    /// Largest head of a request, in bytes, at least 8,192.
    pub header_len_max: usize,
    /// Most header fields of a request.
    pub header_fields_max: usize,
    /// Most requests at once on one HTTP/2 connection.
    pub streams_max: u32,
    /// How long a client may take nothing of what is sent to it, in milliseconds.
    pub send_timeout_ms: u32,
    /// How long requests under way may take to end at shutdown, in milliseconds.
    pub drain_timeout_ms: u64,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections_max: 32_768,
            header_timeout_ms: 30_000,
            header_len_max: 64 * 1_024,
            header_fields_max: 128,
            streams_max: 256,
            send_timeout_ms: 30_000,
            drain_timeout_ms: 10_000,
        }
    }
}

/// Serves `front` on `listener` until `stop`; then takes no more connections, lets the requests
/// under way end within their time, and returns.
pub async fn serve(
    listener: TcpListener,
    front: Arc<Front>,
    limits: ServeLimits,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let builder = Arc::new(builder(&limits));
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(limits.connections_max));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (mut stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            metrics.connections_refused.inc();
            // Best effort: the client may be gone.
            let _ = stream.try_write(REFUSAL);
            continue;
        };
        prepare(&stream, &limits);
        let watcher = graceful.watcher();
        let (builder, front) = (Arc::clone(&builder), Arc::clone(&front));
        let (limits, metrics) = (limits.clone(), metrics.clone());
        let stop = stop.clone();
        tasks.spawn(async move {
            metrics.connections.inc();
            let idle = Duration::from_millis(limits.header_timeout_ms);
            let read = match front.short_cut() {
                None => Some(Bytes::new()),
                Some(way) => way.serve(&mut stream, peer.ip(), idle, &stop).await,
            };
            let Some(read) = read else {
                return metrics.connections.dec();
            };
            let began = Arc::new(AtomicBool::new(false));
            let interim = Interim::default();
            let stream = HintedStream::new(stream, interim.clone()).after(read);
            let service = per_request(front, peer, interim, Arc::clone(&began));
            let mut builder = (*builder).clone();
            builder.http1().timer(LazyTimer::default());
            let connection =
                builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            let connection = watcher.watch(connection);
            tokio::pin!(connection);
            // While the protocol's version is being found out, no timer of hyper's runs yet.
            let first = tokio::time::sleep(idle);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                () = first => {
                    if began.load(Ordering::Relaxed) { connection.await } else { Ok(()) }
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, error, "a connection ended early");
            }
            metrics.connections.dec();
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    let drain = Duration::from_millis(limits.drain_timeout_ms);
    let drained = async {
        graceful.shutdown().await;
        tasks.wait().await;
    };
    if tokio::time::timeout(drain, drained).await.is_err() {
        tracing::warn!(left = tasks.len(), "requests were cut off at shutdown");
    }
}

fn per_request(
    front: Arc<Front>,
    peer: SocketAddr,
    interim: Interim,
    began: Arc<AtomicBool>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = axum::response::Response,
    Error = std::convert::Infallible,
    Future = impl Future<Output = Result<axum::response::Response, std::convert::Infallible>> + Send,
> + Send {
    service_fn(move |request: Request<Incoming>| {
        began.store(true, Ordering::Relaxed);
        if !names_its_host(&request) {
            let text = "An HTTP/1.1 request must have exactly one Host header";
            let refusal = CompatError::bad_request(text).into_response();
            return Either::Left(std::future::ready(Ok(refusal)));
        }
        if let Some(response) = front.at_once(peer, &request) {
            return Either::Left(std::future::ready(Ok(response)));
        }
        let (front, interim) = (Arc::clone(&front), interim.clone());
        Either::Right(async move { Ok(front.answer(peer, &interim, request.map(Body::new)).await) })
    })
}

/// RFC 9112, section 3.2: whom an HTTP/1.1 request is for must not be left to whoever reads it.
fn names_its_host<B>(request: &Request<B>) -> bool {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    request.version() != Version::HTTP_11 || hosts == 1
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
        .max_header_list_size(u32::try_from(limits.header_len_max).unwrap_or(u32::MAX))
        .keep_alive_interval(idle)
        .keep_alive_timeout(idle);
    builder
}

/// Sets what a socket needs; a system that knows an option not goes on without it.
fn prepare(stream: &TcpStream, limits: &ServeLimits) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    // Ends a connection whose client takes nothing, a closed receive window included.
    if let Err(error) = setsockopt(stream, sockopt::TcpUserTimeout, &limits.send_timeout_ms) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT could not be set");
    }
}
