//! Whether a node makes progress. A service manager restarts a node that does not.
//!
//! **What progress means:** the node can still take a request and answer it, and its actors still handle messages. So
//! two parts are checked, each in the way that its users need it:
//!
//! - **The web server** reacts to a request over the socket on which it listens. Any reaction counts, a refusal too. This
//!   includes the runtime that the proxy and the probes share with it.
//! - **The actors' thread** runs a task. Without it nothing is registered and nothing expires.
//!
//! **What it must not mean:** a quorum, a leader, Redis, a disk that answers, or a copy that is current. A restart
//! repairs none of these, and would only take away the reads that the node still serves. A log that cannot continue ends
//! the node by itself ([`super::Node::failed`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use actix_rt::ArbiterHandle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Returns a part of the node that did not react within `limit`.
pub(super) async fn stuck(
    arbiter: &ArbiterHandle,
    http_addr: SocketAddr,
    limit: Duration,
) -> Option<&'static str> {
    let (actors, server) = tokio::join!(
        timeout(limit, runs_a_task(arbiter)),
        timeout(limit, answers(reachable(http_addr)))
    );
    match (actors, server) {
        (Ok(true), Ok(true)) => None,
        (Ok(true), _) => Some("web server"),
        _ => Some("actors"),
    }
}

async fn runs_a_task(arbiter: &ArbiterHandle) -> bool {
    let (done, ran) = oneshot::channel();
    arbiter.spawn_fn(move || {
        let _ = done.send(());
    }) && ran.await.is_ok()
}

/// Whether the server reacts to a request. If nobody accepts connections, the system refuses the connection, or keeps it in
/// its queue without a reaction.
async fn answers(server: SocketAddr) -> bool {
    const REQUEST: &[u8] =
        b"GET /api/actuator/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let Ok(mut stream) = TcpStream::connect(server).await else { return false };
    let _ = stream.write_all(REQUEST).await;
    let _ = stream.read(&mut [0; 1]).await;
    true
}

/// The address at which this machine reaches a listener on `listen`.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    listen.set_ip(match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    });
    listen
}
