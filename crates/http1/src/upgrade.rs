//! Passes a connection to another protocol (RFC 9110 section 7.8).

use std::io::Cursor;
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::oneshot;

use super::connection::Connection;

/// Both directions of a connection after `101`. Reading begins with the bytes of the other protocol that were already
/// read.
pub trait Upgraded: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Upgraded for T {}

/// A connection that another protocol uses from now on.
pub struct Tunnel {
    /// The connection.
    pub io: Box<dyn Upgraded>,
    /// Completes when the connection must be closed although neither side has ended it.
    pub closed: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// A value that must live until the connection is closed, such as a permit.
    pub held: Box<dyn Send>,
}

/// Passes the connection on after an answer with `101`. An extension of that answer.
#[derive(Clone)]
pub struct Upgrade(Arc<Mutex<Option<TunnelSender>>>);

type TunnelSender = oneshot::Sender<Tunnel>;

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upgrade")
    }
}

impl Upgrade {
    /// Returns the extension, and the receiver of the connection. The connection is sent when the answer was written.
    /// If the client has gone before, the receiver gets an error.
    #[must_use]
    pub fn new() -> (Self, oneshot::Receiver<Tunnel>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(sender)))), receiver)
    }

    /// Passes the connection on. `held` lives as long as the connection is open, which is closed when `closed`
    /// completes.
    pub fn complete<R, W>(
        self,
        connection: Connection<R, W>,
        closed: impl Future<Output = ()> + Send + 'static,
        held: impl Send + 'static,
    ) where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let Some(to) = self.0.lock().take() else { return };
        let Connection { read, write, bytes } = connection;
        let io = Box::new(tokio::io::join(Cursor::new(bytes).chain(read), write));
        // The send fails only if the receiver was dropped. Then nobody needs the connection, and it is closed.
        let _ = to.send(Tunnel { io, closed: Box::pin(closed), held: Box::new(held) });
    }
}
