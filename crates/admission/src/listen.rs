//! Sockets that accept connections.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Maximum number of connections that the operating system has accepted and this process has not. The system may allow
/// fewer (`net.core.somaxconn`). It drops the first packet of further connections, and their clients try again only after
/// a second.
const NOT_ACCEPTED_MAX: u32 = 4_096;

/// Listens on an address. Must be called inside a tokio runtime.
///
/// # Errors
///
/// The address is no address of this machine, or the port is in use.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Otherwise connections of a former process block the port for a minute.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(NOT_ACCEPTED_MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn many_connections_at_once_wait_until_they_are_accepted() {
        let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok();
        let allowed = allowed.and_then(|text| text.trim().parse().ok()).unwrap_or(300);
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        // The system opens connections while nobody accepts any.
        let connect =
            |_| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
        let open: Vec<_> = (0..allowed.min(300)).map(connect).collect();
        for _ in &open {
            listener.accept().await.unwrap();
        }
    }
}
