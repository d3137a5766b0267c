//! The socket that accepts clients.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpListener;

/// Maximum number of bytes that the operating system accepts for a connection before it has sent them. Bytes that were
/// sent and not confirmed count in addition, so a fast connection stays fast.
const UNSENT_LEN_MAX: u32 = 32 * 1_024;

/// Listens for clients.
///
/// Without the limit on unsent bytes, the operating system accepts megabytes for each client that reads nothing,
/// although all processes share its memory for connections. Accepted connections inherit the limit. An error of the
/// limit is only logged. Must be called inside a tokio runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = maxine_admission::listen(address)?;
    if let Err(error) = SockRef::from(&listener).set_tcp_notsent_lowat(UNSENT_LEN_MAX) {
        tracing::warn!(%error, "TCP_NOTSENT_LOWAT could not be set");
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;

    const LOCAL: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

    /// The number of bytes that the operating system accepts for a client that reads nothing.
    async fn taken_for_a_silent_client(listener: TcpListener) -> usize {
        let silent = TcpSocket::new_v4().unwrap();
        silent.set_recv_buffer_size(2_048).unwrap();
        let _silent = silent.connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _): (TcpStream, _) = listener.accept().await.unwrap();
        let mut taken = 0;
        accepted.writable().await.unwrap();
        while let Ok(len) = accepted.try_write(&[0; 16 * 1_024]) {
            taken += len;
        }
        taken
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_takes_little_memory_of_the_operating_system() {
        let unlimited = TcpListener::bind(SocketAddr::from(LOCAL)).await.unwrap();
        let unlimited = taken_for_a_silent_client(unlimited).await;
        let limited = taken_for_a_silent_client(listen(LOCAL.into()).unwrap()).await;
        let expected = 3 * UNSENT_LEN_MAX as usize;
        assert!(limited <= expected && expected < unlimited, "{limited} of {unlimited}");
    }
}
