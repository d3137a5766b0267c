//! The beginning of a connection on a listener that uses TLS.

use std::net::IpAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::client_stream::{self, ClientRead, ClientWrite};
use super::credential_check;
use super::linger::LingeringStream;
use maxine_admission::StepTurns;
use maxine_identity::ServerTls;
use maxine_telemetry::Metrics;

/// The first byte of a TLS record with a handshake message (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// Maximum number of encrypted bytes of one connection that wait in this process. One record more may wait.
const UNSENT_LEN_MAX: usize = 16 * 1_024;
/// The answer to a client that does not use TLS.
const NOT_TLS: &str = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json; charset=utf-8\r\n\
    X-Content-Type-Options: nosniff\r\nContent-Length: 54\r\nConnection: close\r\n\r\n\
    {\"message\":\"this port takes HTTPS only: use https://\"}";

/// Completes the handshake within `patience`. `None` if it fails or takes too long. A client that does not use TLS gets
/// an answer that says so. A client without a credential has `turns`, with its address: the processor time of its handshake
/// is shared with those of other addresses. Waiting for a turn counts as a part of `patience`.
pub(super) async fn accept(
    tls: &ServerTls,
    stream: TcpStream,
    patience: Duration,
    turns: Option<(&StepTurns, IpAddr)>,
    metrics: &Metrics,
) -> Option<(ClientRead, ClientWrite)> {
    let accepted = tokio::time::timeout(patience, async {
        let mut first = [0];
        if stream.peek(&mut first).await.ok()? == 0 {
            return None;
        }
        if first[0].is_ascii_alphabetic() {
            // A service manager's check of this node comes from here, and needs no TLS.
            if !stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback()) {
                metrics.tls_failures.with_label_values(&["not_tls"]).inc();
            }
            refuse(stream).await;
            return None;
        }
        let handshake = Box::pin(TlsAcceptor::from(tls.config()).accept(stream));
        let ended = match turns {
            Some((turns, address)) => turns.run(address, handshake).await,
            None => handshake.await,
        };
        match ended {
            Ok(mut stream) => {
                stream.get_mut().1.set_buffer_limit(Some(UNSENT_LEN_MAX));
                Some(client_stream::tls(stream))
            }
            Err(error) => {
                tracing::debug!(%error, is_handshake = first[0] == HANDSHAKE, "a TLS handshake failed");
                metrics.tls_failures.with_label_values(&["handshake"]).inc();
                None
            }
        }
    });
    if let Ok(accepted) = accepted.await {
        return accepted;
    }
    metrics.tls_failures.with_label_values(&["timeout"]).inc();
    None
}

/// Answers a client that does not use TLS, and closes the connection so that the answer arrives.
async fn refuse(stream: TcpStream) {
    let mut stream = LingeringStream::new(stream);
    let answer = async {
        stream.write_all(NOT_TLS.as_bytes()).await?;
        stream.shutdown().await
    };
    // This is best effort, because the client may have gone.
    let _ = tokio::time::timeout(credential_check::TIMEOUT, answer).await;
}

#[cfg(test)]
mod tests {
    use super::NOT_TLS;

    #[test]
    fn the_refusal_has_the_length_that_it_announces() {
        let (head, content) = NOT_TLS.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", content.len())),
            "{}",
            content.len()
        );
    }
}
