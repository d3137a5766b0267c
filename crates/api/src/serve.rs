//! Accepts connections and serves them within limits.
//!
//! Place in the flow: the outermost part. It knows sockets, and nothing about the content of requests. A client is
//! disconnected if it sends its head slowly, reads its answer slowly, or only holds a connection. Connections beyond a
//! limit are refused and counted.
//!
//! A share of the connections is reserved for callers with a credential, so that strangers cannot lock an operator out.
//! Only a request shows whether its caller has a credential. So if all other connections are taken, some more are
//! accepted for a moment, and closed unless their first request has a credential.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Front;
use super::answering::Answering;
use super::client_stream::{self, ClientRead, ClientWrite};
use super::connection;
use super::connection_place::ConnectionPlace;
use super::credential_check::{self, CredentialCheck};
use super::linger::LingeringStream;
use super::listener::{self, Listener};
use super::provisional::{CONNECTION_KEPT, ProvisionalConnections};
use super::send_monitor::UnsentBytes;
use super::serve_limits::ServeLimits;
use super::tls;
use super::well_formed::Bounds;
use maxine_admission::{CallerClass, Leave, NoPlace, PlaceLimits, Places, StepTurns};
use maxine_gateway::Peer;
use maxine_telemetry::Metrics;

/// The bytes that answer a connection above a limit.
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

/// Pause after the operating system refused to accept a connection, for example because too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Maximum number of refused connections that are answered at the same time. Further ones are closed without an answer.
const REFUSALS_MAX: usize = 512;
/// One in this many connections is reserved for callers with a credential and for operators on this machine.
const RESERVED_ONE_IN: usize = 8;
/// Serves `front` on `listener` until `stop`. After that, it accepts no more connections, waits for the requests in
/// flight for a limited time, and returns.
pub async fn serve(
    listener: TcpListener,
    front: Arc<Front>,
    limits: ServeLimits,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let bounds = Bounds::of(&limits);
    let connections = Places::fair(PlaceLimits {
        max: limits.connections_max,
        per_address_max: limits.connections_per_address_max,
        reserved: limits.connections_max / RESERVED_ONE_IN,
    });
    let provisional_max = limits.connections_max / RESERVED_ONE_IN / 4 * 3;
    let provisional = ProvisionalConnections::new(Arc::clone(&connections), provisional_max);
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let shared = Arc::new(Listener {
        http2: listener::http2_builder(&limits),
        limits: limits.clone(),
        head_limits: bounds.of_heads(),
        metrics: metrics.clone(),
        unsent: UnsentBytes::default(),
        handshakes: StepTurns::for_this_machine(),
        stop: stop.clone(),
    });
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
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
        let stranger = (caller_class == CallerClass::Stranger).then_some(peer.ip());
        let place = connections.take(peer.ip(), caller_class, 1).map(|place| (Some(place), None));
        let place = place.or_else(|why| {
            // What is reserved for callers with a credential may be left: of the node, or beside the strangers at the
            // address of this caller.
            if caller_class != CallerClass::Stranger {
                return Err(why);
            }
            Ok((None, Some(CredentialCheck::new(provisional.enter(peer.ip())?))))
        });
        let (place, credential_check) = match place {
            Ok(taken) => taken,
            Err(why) => {
                metrics.connections_refused.inc();
                if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                    let shared = Arc::clone(&shared);
                    tasks.spawn(async move {
                        refuse(&shared, stream, stranger, why).await;
                        drop(permit);
                    });
                }
                continue;
            }
        };
        let leave = Arc::new(Leave::of_connection(CONNECTION_KEPT));
        let place = place.map(|place| {
            let (leave, provisional) = (Arc::clone(&leave), Arc::clone(&provisional));
            ConnectionPlace::new(peer.ip(), place, leave, provisional)
        });
        set_socket_options(&stream, &limits);
        let answering = Answering {
            front: Arc::clone(&front),
            peer: Peer { ip: peer.ip(), is_tls: limits.tls.is_some() },
            caller_class,
            proxies: limits.trusted_proxies.clone(),
            bounds,
            credential_check,
            place: place.clone().filter(|_| caller_class == CallerClass::Stranger),
            unsent: shared.unsent.clone(),
        };
        let (shared, refusals) = (Arc::clone(&shared), Arc::clone(&refusals));
        tasks.spawn(async move {
            let metrics = &shared.metrics;
            let idle = Duration::from_millis(shared.limits.header_timeout_ms);
            if let Some(check) = &answering.credential_check
                && !check.wait_for_first_byte(&stream, idle).await
            {
                drop(answering);
                metrics.connections_refused.inc();
                if let Ok(_permit) = refusals.try_acquire() {
                    refuse(&shared, stream, stranger, NoPlace::Node).await;
                }
                return;
            }
            let counted = CountedConnection::new(metrics.clone());
            let check = answering.credential_check.clone();
            let patience = if check.is_some() { idle.min(credential_check::TIMEOUT) } else { idle };
            let displaced = async {
                match &check {
                    Some(check) => check.failed().await,
                    None => leave.displaced().await,
                }
            };
            let opened = tokio::select! {
                opened = open(&shared, stream, stranger, patience) => opened,
                () = displaced => {
                    metrics.connections_refused.inc();
                    None
                }
            };
            let Some(stream) = opened else { return };
            let upgraded = tokio::select! {
                biased;
                upgraded = connection::serve(&shared, answering, stream) => upgraded,
                () = leave.displaced() => {
                    metrics.connections_refused.inc();
                    None
                }
            };
            let Some((upgrade, client)) = upgraded else { return };
            // An upgraded connection keeps its place until it ends, or until another client needs the place.
            let metrics = metrics.clone();
            let closed = async move {
                match check {
                    Some(check) => check.failed().await,
                    None => leave.displaced().await,
                }
                metrics.connections_refused.inc();
            };
            upgrade.complete(client, closed, (counted, place));
        });
    }
    drop(listener);
    front.end_streams();
    tasks.close();
    let drain = Duration::from_millis(limits.drain_timeout_ms);
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "requests in flight were closed at shutdown");
    }
}

/// Counts an open connection until it is dropped, even if its task panics.
struct CountedConnection(Metrics);

impl CountedConnection {
    fn new(metrics: Metrics) -> Self {
        metrics.connections.inc();
        Self(metrics)
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// Begins a connection: with the TLS handshake, if the listener uses TLS. `stranger` is the address of a caller of that
/// class, whose handshake waits for its turn.
async fn open(
    listener: &Listener,
    stream: TcpStream,
    stranger: Option<IpAddr>,
    patience: Duration,
) -> Option<(ClientRead, ClientWrite)> {
    match &listener.limits.tls {
        Some(tls) => {
            let turns = stranger.map(|address| (&listener.handshakes, address));
            Box::pin(tls::accept(tls, stream, patience, turns, &listener.metrics)).await
        }
        None => Some(client_stream::plain(stream)),
    }
}

/// Answers a connection above a limit, and closes it so that the answer arrives.
async fn refuse(listener: &Listener, stream: TcpStream, stranger: Option<IpAddr>, why: NoPlace) {
    let opened = open(listener, stream, stranger, credential_check::TIMEOUT).await;
    let Some((read, write)) = opened else { return };
    let mut stream = LingeringStream::new(tokio::io::join(read, write));
    let answer = async {
        stream.write_all(refusal(why).as_bytes()).await?;
        stream.shutdown().await
    };
    // This is best effort, because the client may have gone.
    let _ = tokio::time::timeout(credential_check::TIMEOUT, answer).await;
}

/// Sets the options of a socket. An option that the operating system does not support is skipped.
fn set_socket_options(stream: &TcpStream, limits: &ServeLimits) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    // The system closes the connection if the client reads nothing, even if the client's receive window is closed. It
    // does so later than this process, which also counts the connection as stalled.
    let timeout_ms = limits.send_timeout_ms.saturating_mul(2);
    if let Err(error) = setsockopt(stream, sockopt::TcpUserTimeout, &timeout_ms) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT could not be set");
    }
}
